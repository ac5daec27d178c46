/*
 * freshet.h - a cache that one host's processes share in memory, and never serve stale beyond a bound.
 *
 * This header is one host's half and is complete without any network: the processes that open one directory share
 * one copy.  freshet_fleet.h joins many hosts through Redis; every call below then keeps its meaning and gains the
 * bound: nothing is served that was changed, anywhere, more than `max_staleness_ms` ago.
 *
 * Results  Zero is done, positive is an answer, negative is a failure.  freshet_error() has a failure's sentence.
 * Memory   What you pass in stays yours and may go when the call returns.  What comes out is copied into your own
 *          freshet_buf, which you may use again and free once.  Strings that come out live as long as is said.
 * Threads  A freshet serves any thread; a freshet_buf one thread at a time.  After fork() the child may go on using
 *          the freshet it inherited: the first call in the child opens the tier anew.  A thread must not be cancelled
 *          (pthread_cancel) within a call, nor leave a callback by longjmp: what it had locked would stay so.
 * Time     Durations are milliseconds, deadlines are counted from the call.  No call waits beyond its deadline for
 *          another process, for Redis or for the disk; your own loader may take as long as it likes.
 * Options  Every options structure starts with its own size, set by FRESHET_INIT: a program compiled against an
 *          older header stays right, since fields are only added at the end and zero always means "the default".
 *
 * Nothing here prints, exits, raises a signal or reads the environment.
 */
#ifndef FRESHET_H
#define FRESHET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FRESHET_API __attribute__((visibility("default")))

/* The version of this header; freshet_version() tells the library's. */
#define FRESHET_VERSION "0.1.0"

/* Limits that hold everywhere. */
#define FRESHET_KEY_MAX           65536u      /* bytes in a key, at most; at least 1, any bytes */
#define FRESHET_VALUE_MAX_DEFAULT (16u << 20) /* bytes in a value unless value_max says otherwise */
#define FRESHET_NAME_MAX          64u         /* bytes in a cache's name: letters, digits, '.', '_', '-' */
#define FRESHET_PARTITIONS_MAX    16u
#define FRESHET_TOKEN_SIZE        384u /* room for a token, with the 0 at its end */
#define FRESHET_TAGS_MAX          16u  /* tags of an entry */
#define FRESHET_TAG_MAX           256u /* bytes in a tag's or a namespace's name; at least 1, any bytes but zero */

typedef struct freshet freshet;

typedef enum freshet_result {
    FRESHET_OK = 0,
    /* answers */
    FRESHET_MISS = 1,   /* no entry that may be served: load it, or do without */
    FRESHET_ABSENT = 2, /* an entry that says: the source has no such thing */
    FRESHET_STALE = 3,  /* the entry is in the buffer, but its bound could not be shown (policy FRESHET_SERVE_STALE) */
    FRESHET_QUEUED = 4, /* the change waits for Redis; its keys are not served on this host until it is confirmed */
    FRESHET_OUTDATED = 5,   /* a write's source_version is below the stored one: nothing was stored */
    FRESHET_UNPROVEN = 6,   /* joined, but Redis has not confirmed it yet; it goes on in the background.  Of a read with
                             * a token: nothing can be shown to be as new */
    FRESHET_GUARDED = 7,    /* a put on a guarded key, or that reached Redis too late: nothing was stored, it acted
                             * as an invalidation */
    FRESHET_GUARD_LOST = 8, /* the guard was not held until its end; the keys are invalidated all the same */
    FRESHET_UNREPLICATED = 9, /* the master has it, but fewer replicas than asked for had it before the deadline */
    /* failures */
    FRESHET_EINVAL = -1,   /* an argument or option is out of its range */
    FRESHET_ENOMEM = -2,   /* no memory in this process */
    FRESHET_EIO = -3,      /* the map or the system beneath it failed */
    FRESHET_EDIR = -4,     /* the directory is not fit: owner, mode, symlink, not a directory, another namespace */
    FRESHET_EBUSY = -5,    /* in use in another shape (size, name, fleet), held by another process past the deadline, or
                          * too many guards on a key */
    FRESHET_ENOSPC = -6,   /* the file system has no room for the tier's control page */
    FRESHET_ETOOBIG = -7,  /* key or value above its limit */
    FRESHET_ETIMEOUT = -8, /* the deadline passed first */
    FRESHET_ELOAD = -9,    /* the loader failed (it returned a failure, or no value) */
    FRESHET_EFLEET = -10,  /* the tier belongs to a fleet: freshet_join first, then change things */
    FRESHET_ENET = -11,    /* Redis cannot be reached */
    FRESHET_EREDIS = -12,  /* Redis answers, but refuses: password, ACL, eviction policy, read-only, version */
    FRESHET_EKEYRING = -13 /* the keyring file is missing, readable by others, garbled, or lacks a key */
} freshet_result;

/* A result's name ("FRESHET_MISS") and its meaning in a sentence.  Never NULL, never freed. */
FRESHET_API const char *freshet_result_name(freshet_result result);
FRESHET_API const char *freshet_result_text(freshet_result result);

/* What went wrong in this thread's last failing call, and what to do about it, in a sentence; "" when nothing has
 * failed yet.  Valid until the thread's next call of the library. */
FRESHET_API const char *freshet_error(void);

/* The library's own version, as "1.2.3". */
FRESHET_API const char *freshet_version(void);

/* The start of every options structure: `freshet_options o = FRESHET_INIT(freshet_options);` then set what you need. */
#define FRESHET_INIT(type)                                                                                             \
    {                                                                                                                  \
        .struct_size = sizeof(type)                                                                                    \
    }

/* ---- messages ------------------------------------------------------------------------------------------------ */

typedef enum freshet_level { FRESHET_DEBUG = 0, FRESHET_INFO = 1, FRESHET_WARN = 2, FRESHET_ERROR = 3 } freshet_level;

/* Called with one line, no newline, from any thread of the library or yours, at times under its locks: write the line
 * somewhere and return; do not call the library, and do not fork. */
typedef void (*freshet_log_fn)(freshet_level level, const char *message, void *arg);

/* Hear what the library has to say, for the whole process, from `least` up; a NULL `fn` (the start) ends it. */
FRESHET_API void freshet_log(freshet_log_fn fn, void *arg, freshet_level least);

/* ---- buffers ------------------------------------------------------------------------------------------------- */

/* A value's bytes.  Start with {0}; calls grow it as needed and keep the memory for the next; free it once. */
typedef struct freshet_buf {
    void *data;
    size_t size;     /* bytes of the value */
    size_t capacity; /* bytes allocated, the library's own business */
} freshet_buf;

/* Make the buffer hold a copy of `size` bytes (a loader answers so).  FRESHET_ENOMEM leaves it as it was. */
FRESHET_API freshet_result freshet_buf_set(freshet_buf *buf, const void *data, size_t size);
/* Free the memory; the buffer is {0} again. */
FRESHET_API void freshet_buf_free(freshet_buf *buf);

/* ---- open and close ------------------------------------------------------------------------------------------ */

typedef enum freshet_policy {
    FRESHET_SERVE_NONE = 0, /* "closed": what cannot be shown to be within the bound is a miss */
    FRESHET_SERVE_STALE = 1 /* "stale": it is served as FRESHET_STALE while Redis cannot be reached */
} freshet_policy;

typedef struct freshet_options {
    size_t struct_size;
    const char *name;          /* of the cache, the same on every host; NULL: "default" */
    const char *dir;           /* the tier's directory, its last part created if absent (mode 0700);
                                * NULL: /dev/shm/freshet-UID/NAME, all of it created */
    uint64_t tier_size;        /* bytes, at most, of the tier's map and index together; the control page comes on top
                                * (1 to 4 % from 64 MiB on, 5.4 % of 16 MiB, of less some half a MiB).  0: what an
                                * existing tier has, else 64 MiB; least 1 MiB, most 4 TiB */
    uint32_t value_max;        /* bytes of the largest value taken; 0: FRESHET_VALUE_MAX_DEFAULT */
    uint32_t max_staleness_ms; /* the bound; 0: 500; 20 to 600,000.  Of a tier's processes the first fixes the upper
                                * limit for the others, of a fleet's hosts likewise */
    uint32_t ttl_ms;           /* for entries that name none; 0: they do not expire.  Up to 2 ms early, never late */
    freshet_policy policy;     /* when the bound cannot be shown */
    uint32_t partitions;       /* 0: what an existing tier has, else 1; fixed when the cache is first created */
    uint32_t deadline_ms;      /* for calls that name none; 0: 1,000 */
    const char *pool;      /* the directory of a pool (below), its last part created if absent (mode 0700).  NULL: the
                            * pool that an existing tier is in, else none */
    uint64_t pool_size;    /* bytes, at most, of all that the pool's caches have in their directories; 0: what an
                            * existing pool has; least 4 MiB, most 4 TiB */
    uint64_t pool_minimum; /* bytes of it that this cache keeps whatever the others want; 0: what it had, else what a
                            * cache takes with nothing in it.  All minimums together must fit */
} freshet_options;

/* A pool is a size that up to 64 caches of a host share: different directories, of any programs of the same user.  Each
 * keeps its minimum; the rest goes where it saves the most misses, which is learnt from keys that come back soon after
 * they were evicted.  Nothing ever goes beyond the pool's size: a cache that is to give memory first evicts and gives
 * it back to the system.  tier_size is then the most that this cache may ever have (0: what an existing tier has, else
 * pool_size), and control page and index count too.
 *
 * A tier is made in its pool and stays there: opened with another one (or first with none) it is begun anew, as with
 * another tier_size.  Caches without a live process keep what they hold until they are opened again or their directory
 * is removed.  FRESHET_EBUSY: the pool has another size, too many caches, or no room for this one: the sentence tells.
 * FRESHET_EDIR: the file system cannot take back parts of files (tmpfs, ext4, xfs and btrfs can).  A library without
 * pools cannot open such a tier.  Files that are removed while processes have them open hold their memory, uncounted,
 * until those have opened the cache anew. */

/* Open the tier, creating it when absent.  One directory opened twice in a process is one tier inside.  A control page
 * or map of another format, size, boot or owner is set aside (dir/aside) and a new one begun, unless a process still
 * uses it: then FRESHET_EBUSY.  On failure *ret_cache is left as it was, and there is nothing to close. */
FRESHET_API freshet_result freshet_open(freshet **ret_cache, const freshet_options *options);

/* Leave the fleet if joined, close; a NULL is welcome.  Entries stay for whoever opens the tier next.  No other thread
 * may be in a call on this freshet, nor start one. */
FRESHET_API void freshet_close(freshet *cache);

/* The tier's directory; lives as long as the cache is open. */
FRESHET_API const char *freshet_dir(const freshet *cache);

/* ---- read ---------------------------------------------------------------------------------------------------- */

typedef enum freshet_source {
    FRESHET_FROM_NOWHERE = 0,
    FRESHET_FROM_TIER = 1,
    FRESHET_FROM_REDIS = 2,
    FRESHET_FROM_LOADER = 3
} freshet_source;

/* What is known of an answer. */
typedef struct freshet_answer {
    size_t struct_size;
    freshet_source source;
    bool stale;       /* true with FRESHET_STALE only */
    uint64_t version; /* of the write: microseconds of Redis's (without a fleet: this host's) real time; 0: none */
    uint64_t writer;  /* who wrote it: a random id per process */
    uint64_t source_version; /* the row version or LSN its writer gave; 0: none */
    uint64_t position;       /* as-of: the history's position that the entry was read at */
    int64_t age_bound_ms;    /* nothing older than this voids the answer: the proven bound on its age, rounded up;
                              * -1 when none can be shown (always with FRESHET_STALE after a restart of the host) */
    int64_t ttl_ms;          /* left until it expires; -1: it does not */
    int64_t judged_at_ns;    /* CLOCK_BOOTTIME of the last clock reading before it was judged servable */
    bool outdated;           /* loaded, but below the source version that is known of the key: nobody else gets it */
    uint32_t partition;      /* of the key; with epoch and position what freshet_token_of makes a token of */
    uint64_t epoch;          /* of the history that `position` is in; 0 without a fleet */
} freshet_answer;

/* How new an answer must be. */
typedef enum freshet_read_level {
    FRESHET_READ_BOUNDED = 0, /* within bound_ms */
    FRESHET_READ_ANY = 1,     /* what the tier has, but nothing that is known to be void: where the bound cannot be
                               * shown it is FRESHET_STALE at once, whatever the policy, and Redis is not asked */
    FRESHET_READ_LATEST = 2   /* what Redis's master has now: it is always asked, and moves no value that is here.
                               * Where it cannot be asked the policy decides, and the tier's copy is FRESHET_STALE */
} freshet_read_level;

typedef struct freshet_read_options {
    size_t struct_size;
    uint32_t deadline_ms; /* for asking Redis; 0: the cache's */
    uint32_t bound_ms;    /* tighter than the cache's max_staleness_ms; 0: the cache's */
    bool tier_only;       /* do not ask Redis */
    freshet_read_level level;
    const char *token; /* at least as new as this (freshet_change.token, freshet_token_of), or FRESHET_UNPROVEN: its
                        * history has ended, Redis has not got that far, or cannot be asked.  NULL or "": no claim */
    bool probe; /* with tier_only: a look before the same call in earnest, which will count the miss if it is one */
} freshet_read_options;

/* Get an entry: FRESHET_OK with its value in *buf, FRESHET_ABSENT, FRESHET_STALE, or FRESHET_MISS (the buffer is then
 * empty).  Redis out of reach is a miss, not a failure.  `options`, `buf` and `answer` may be NULL. */
FRESHET_API freshet_result freshet_get(freshet *cache, const void *key, size_t key_size,
                                       const freshet_read_options *options, freshet_buf *buf, freshet_answer *answer);

/* One of many keys. */
typedef struct freshet_get_item {
    size_t struct_size;
    const void *key;
    size_t key_size;
    freshet_buf *buf;       /* gets the value; may be NULL; each item needs one of its own */
    freshet_answer *answer; /* may be NULL; begun with FRESHET_INIT */
    freshet_result result;  /* comes back: as freshet_get's */
} freshet_get_item;

/* Get many entries of the tier as they were at one moment: all are copied, then all are judged, so no two of the values
 * that come from the tier exclude each other.  What the tier may not serve is asked for as freshet_get would, one after
 * the other, each with the deadline of its own.  FRESHET_OK when every item has its result; else nothing has been
 * read.  One allocation; quicker than so many calls, since memory is waited for side by side. */
FRESHET_API freshet_result freshet_get_many(freshet *cache, freshet_get_item *items, size_t count,
                                            const freshet_read_options *options);

/* A stretch of a value where it lies. */
typedef struct freshet_piece {
    const void *data;
    size_t size; /* bytes; at most 4 KiB but for an answer that does not come from the tier */
} freshet_piece;

/* What freshet_view calls with a value: the pieces, one behind the other, are the value (none: it is empty).  They and
 * *answer are valid during the call only.  While it runs the tier can use no page again that was in use when it began,
 * so it should be short: write the pieces to a socket, parse them; no waiting for locks or users.  A process that stays
 * in it for long costs the host fills, never hits, and is forgotten when it dies. */
typedef void (*freshet_view_fn)(const freshet_piece *pieces, size_t count, const freshet_answer *answer, void *arg);

/* Get an entry without copying it: as freshet_get, but the value is lent to `fn` for the time of the call.  `fn` is
 * called once with FRESHET_OK and FRESHET_STALE, else not.  It is judged before the call (answer->judged_at_ns), and
 * what is lent does not change while it is.  Worth it for values of some kilobytes and more. */
FRESHET_API freshet_result freshet_view(freshet *cache, const void *key, size_t key_size,
                                        const freshet_read_options *options, freshet_view_fn fn, void *arg);

/* What a loader is told, and may answer beside the value. */
typedef struct freshet_load_request {
    const void *key;
    size_t key_size;
    bool prefer_primary;     /* a replica of your database may not have the latest change yet: ask the primary */
    uint32_t ttl_ms;         /* in: what the entry will get; set another, if you know better */
    uint64_t source_version; /* set it to the row version or LSN that you read, if there is one */
    void *own;               /* the library's */
} freshet_load_request;

/* In a loader: the answer has this tag too (beside those of freshet_load_options).  FRESHET_EINVAL: it is no tag, or
 * one too many; let the load fail then rather than answer without the tag. */
FRESHET_API freshet_result freshet_load_tag(freshet_load_request *request, const char *tag);

/* Load what the cache lacks, on the caller's thread, under no lock of the library.  Answer FRESHET_OK with the value in
 * *value (freshet_buf_set), FRESHET_ABSENT when the source has no such thing, or a failure, which load hands on as
 * FRESHET_ELOAD.  Must not call back for the same key. */
typedef freshet_result (*freshet_loader)(freshet_load_request *request, freshet_buf *value, void *arg);

typedef struct freshet_load_options {
    size_t struct_size;
    uint32_t deadline_ms;    /* for asking Redis and for waiting on others' loads; 0: the cache's.  When it passes the
                             * loader is called all the same, and its result is not stored */
    uint32_t bound_ms;       /* as in freshet_read_options */
    uint32_t ttl_ms;         /* of what is loaded; 0: the cache's */
    uint32_t absent_ttl_ms;  /* of a known absence; 0: as ttl_ms */
    uint32_t ticket_ms;      /* how long the right to fill lasts before another may load; 0: 5,000 */
    const char *const *tags; /* of what is loaded, as in freshet_write_options */
    size_t tag_count;
    const char *name_space;
    freshet_read_level level; /* as in freshet_read_options; with FRESHET_READ_LATEST no running load is joined */
    const char *token;        /* likewise; what cannot be shown to be as new is loaded, and prefer_primary is told */
} freshet_load_options;

/* Get or load: like freshet_get, and on a miss let one caller load for all (on this host by waiting, in the fleet by a
 * ticket; who dies or is stopped in his loader is waited for no longer).  A load that a change overtakes answers its
 * caller but leaves nothing behind.  One that turns out older than what is known of the key (its source_version is
 * below) is not kept: the loader is called once more, with prefer_primary. */
FRESHET_API freshet_result freshet_load(freshet *cache, const void *key, size_t key_size,
                                        const freshet_load_options *options, freshet_loader loader, void *arg,
                                        freshet_buf *buf, freshet_answer *answer);

/* ---- tokens -------------------------------------------------------------------------------------------------- */

/* Make a token of a read's answer: who reads with it gets nothing older than that answer.  What a loader has just read
 * may hold a change that its writer has committed but not made known yet; that is not in the token, unless the writer
 * guards it.  FRESHET_UNPROVEN and "" for an answer that nothing keeps (a load whose result was not stored): it has no
 * place in the history. */
FRESHET_API freshet_result freshet_token_of(freshet *cache, const freshet_answer *answer,
                                            char ret_token[FRESHET_TOKEN_SIZE]);
/* The later of two in each partition, to carry one for all that a session has seen; NULL and "" say nothing.
 * FRESHET_EINVAL: garbled, or of another cache. */
FRESHET_API freshet_result freshet_token_join(freshet *cache, const char *a, const char *b,
                                              char ret_token[FRESHET_TOKEN_SIZE]);

/* ---- change -------------------------------------------------------------------------------------------------- */

typedef enum freshet_wait {
    FRESHET_WAIT_NONE = 0,
    FRESHET_WAIT_HOSTS = 1 /* a strong write: see freshet_write_options */
} freshet_wait;

/* Told of each host that a strong write waited for, when the wait is over, on the calling thread: its id in 32
 * hexadecimal digits; whether it has the change, or could no longer serve what the change voided. */
typedef void (*freshet_host_fn)(const char *host, bool applied, void *arg);

typedef struct freshet_write_options {
    size_t struct_size;
    uint32_t deadline_ms;    /* 0: the cache's; when it passes first the change is FRESHET_QUEUED */
    uint32_t ttl_ms;         /* 0: the cache's; for a put only */
    uint64_t source_version; /* the row version or LSN; 0: none.  A put below the greatest that the key has seen since
                              * the last clear is FRESHET_OUTDATED (without a fleet: below the tier's entry) */
    const char *const *tags; /* for a put: what the entry belongs to, up to FRESHET_TAGS_MAX names; a change of any of
                              * them voids it (freshet_invalidate_tags) */
    size_t tag_count;
    const char *name_space; /* for a put: the namespace, NULL: none; freshet_clear_namespace voids all of one */
    freshet_wait wait;       /* FRESHET_WAIT_HOSTS: return when no host serves anything older any more.  Mostly that is
                              * a round trip later; for a host that does not answer it is the fleet's max_staleness_ms
                              * (and a thousandth) after Redis's confirmation, however short the deadline, which is for
                              * Redis alone.  freshet_change tells which.  Nobody is waited for when the change was
                              * queued, nor without a fleet */
    uint32_t wait_replicas;  /* how many replicas of Redis must have it before the deadline, or FRESHET_UNREPLICATED: a
                              * fail-over to one of them then does not lose it */
    freshet_host_fn on_host; /* of a strong write; NULL: the counts in freshet_change will do */
    void *on_host_arg;
} freshet_write_options;

/* What a change was given. */
typedef struct freshet_change {
    size_t struct_size;
    uint64_t version;          /* as in freshet_answer */
    uint64_t position;         /* in the history; 0 when queued */
    uint64_t epoch;            /* of the history; 0 without a fleet or when queued */
    uint32_t hosts_applied;    /* of a strong write: hosts that have it, this one included; ... */
    uint32_t hosts_waited_out; /* ... and those that did not say so within the bound, and serve nothing older by now */
    bool bound_waited; /* the bound was waited, for those or since the registry of hosts was too young to trust */
    uint32_t replicas; /* of wait_replicas: how many had it */
    char token[FRESHET_TOKEN_SIZE]; /* printable: who reads with it, on whatever host, gets nothing older than this
                                     * change; "" when queued */
} freshet_change;

typedef struct freshet_key {
    const void *data;
    size_t size;
} freshet_key;

/* Store a value, or that there is none (put_absent), for everybody.  FRESHET_OK: nobody on this host gets an older one
 * any more.  When Redis does not answer nothing is stored and the key is invalidated instead (FRESHET_QUEUED): a write
 * whose outcome is unknown must not come back later over a newer one.  While somebody guards the key (below) nothing is
 * stored either: FRESHET_GUARDED, and the key is invalidated.  `options` and `change` may be NULL. */
FRESHET_API freshet_result freshet_put(freshet *cache, const void *key, size_t key_size, const void *value,
                                       size_t value_size, const freshet_write_options *options, freshet_change *change);
FRESHET_API freshet_result freshet_put_absent(freshet *cache, const void *key, size_t key_size,
                                              const freshet_write_options *options, freshet_change *change);

/* Make everybody forget the key(s): call it after the database's commit.  Several keys travel in one signed frame (of a
 * partition; above 1,024 keys in several).  FRESHET_OK: confirmed.  FRESHET_QUEUED: written down in the tier's
 * directory and sent as soon as Redis answers, by whichever process lives. */
FRESHET_API freshet_result freshet_invalidate(freshet *cache, const void *key, size_t key_size,
                                              const freshet_write_options *options, freshet_change *change);
FRESHET_API freshet_result freshet_invalidate_many(freshet *cache, const freshet_key *keys, size_t count,
                                                   const freshet_write_options *options, freshet_change *change);

/* Make everybody forget every entry that has one of these tags (up to 1,024), or is of this namespace: one signed frame
 * a partition, however many entries there are, and nothing is searched for.  Results and order are those of keys: what
 * was stored or began to load before it is void, what is stored after it counts. */
FRESHET_API freshet_result freshet_invalidate_tags(freshet *cache, const char *const *tags, size_t count,
                                                   const freshet_write_options *options, freshet_change *change);
FRESHET_API freshet_result freshet_clear_namespace(freshet *cache, const char *name_space,
                                                   const freshet_write_options *options, freshet_change *change);

/* Make everybody forget everything in this cache.  One step, however much there is. */
FRESHET_API freshet_result freshet_clear(freshet *cache, const freshet_write_options *options, freshet_change *change);

/* ---- guard: the safe way to change database rows -------------------------------------------------------------
 *
 *     if (freshet_guard_begin(cache, keys, count, NULL, &guard) != FRESHET_OK)
 *         return;                                  nothing was touched: try again, or do without the change
 *     ... change the rows ...
 *     if (freshet_guard_left(guard) > enough)      time for the commit, by the database's own limit
 *         ... commit ...  else  ... roll back ...
 *     freshet_guard_end(guard, NULL, NULL);        in any case, after a roll-back too
 *
 * From begin to end nothing is stored under the keys: a load answers its caller, leaves nothing behind and is shared
 * with nobody, a put is FRESHET_GUARDED.  So no reader keeps the old row, whenever it read it; and a process that dies
 * between commit and end leaves nothing stale either, as its guard lasts until the deadline: hold_ms after the
 * library last prolonged it.  That is the promise's one condition: the database must have ended the transaction by
 * then.  Set its own time limit for transactions (or for the connection) below hold_ms.
 *
 * While the process lives its guards are prolonged, each third of hold_ms, also over reconnects, and for as long as it
 * takes.  A guard is lost when that does not succeed in time (the process was stopped, Redis was away), or when Redis's
 * history ended (a fail-over): then freshet_guard_left says 0 and freshet_guard_end FRESHET_GUARD_LOST, and a load may
 * have kept, until that end, what it read before the commit.  In a child after fork() there are no guards: those of the
 * parent stay the parent's. */

#define FRESHET_GUARD_KEYS_MAX 1024u /* keys that one guard has, at most; a key has at most 64 guards */

typedef struct freshet_guard freshet_guard;

typedef struct freshet_guard_options {
    size_t struct_size;
    uint32_t deadline_ms; /* for Redis; 0: the cache's */
    uint32_t hold_ms;     /* how long the guard outlives its holder; 0: 10,000; 100 to 600,000 */
    bool fixed;           /* do not prolong it: it ends hold_ms after its begin */
    freshet_wait wait;    /* FRESHET_WAIT_HOSTS: return when no host serves the keys any more, as of a strong write; so
                           * no cached read is older than the database's commit, wherever it is made */
} freshet_guard_options;

/* Guard the keys, all or none, whichever partitions they are in, and invalidate them.  Anything but FRESHET_OK: there
 * is no guard and the database must not be touched; FRESHET_ENET when Redis did not answer (it is never queued),
 * FRESHET_EBUSY when a key has too many guards.  What was guarded before a failure is let go, or ends by itself after
 * hold_ms.  `options` may be NULL. */
FRESHET_API freshet_result freshet_guard_begin(freshet *cache, const freshet_key *keys, size_t count,
                                               const freshet_guard_options *options, freshet_guard **ret_guard);

/* For so many more milliseconds the guard is in force, even if this process were to die now; 0: it is lost, or cannot
 * be shown to be held.  Counted on CLOCK_BOOTTIME from when Redis was last asked, less 0.1 %; a Redis whose clock is
 * set forward ends guards earlier, which freshet_guard_end finds out.  Any thread may ask. */
FRESHET_API int64_t freshet_guard_left(freshet_guard *guard);

/* End the guard: once more an invalidation of its keys, and the guard's memory goes.  FRESHET_OK: it was held from
 * begin to end without a break.  FRESHET_GUARD_LOST: it was not; the keys are invalidated all the same.
 * FRESHET_QUEUED: Redis does not answer; the guard ends by its deadline, and the keys wait in the outbox as those of
 * any invalidation.  Whether it was held cannot be shown then; freshet_guard_left has said what is known.  On a failure
 * (wrong arguments, a fleet that was left) the guard is as it was.  End all guards before the cache is closed.
 * `options` and `change` may be NULL. */
FRESHET_API freshet_result freshet_guard_end(freshet_guard *guard, const freshet_write_options *options,
                                             freshet_change *change);

/* Wait until what this process has handed to the tier is in it (fills are written behind the caller's back):
 * FRESHET_OK, or FRESHET_ETIMEOUT.  0: the cache's deadline. */
FRESHET_API freshet_result freshet_flush(freshet *cache, uint32_t deadline_ms);

/* ---- look inside --------------------------------------------------------------------------------------------- */

/* Counters are of the whole tier, all processes, since it was created; what a process
 * answered from the tier shows when it next calls, a second after the last time. */
typedef struct freshet_stats {
    size_t struct_size;
    uint64_t hits, absents, stales, misses; /* answers given, of gets and loads: from the tier */
    uint64_t redis_hits, redis_misses;      /* questions to Redis that the tier could not answer */
    uint64_t loads, joined, load_failures;  /* loaders called; callers that got another's load; loaders that failed */
    uint64_t puts, invalidations, clears;   /* changes by this host's processes */
    uint64_t queued, resent;                /* of them: left in the outbox; sent from it */
    uint64_t fills, fills_dropped;          /* records written to the tier; not written (queue or map full) */
    uint64_t fills_refused;                 /* loads that a change overtook, refused by Redis or void from birth */
    uint64_t evictions, voids, expired; /* records deleted for room; because a change voided them; past their time */
    uint64_t frames, frames_refused;    /* signed frames from the channel and the log: verified; not */
    uint64_t renewals, renewals_failed; /* of the proof that nothing was missed */
    uint64_t adoptions, repairs;        /* new epochs met; logs found trimmed or unreadable (tier voided) */
    uint64_t takeovers, reconnects;     /* of the subscriber's seat; of connections to Redis */
    uint64_t entries, bytes;            /* in the tier now: records; bytes of map and index in use */
    uint64_t tier_size, control_size;   /* bytes: what map and index may take; the control page */
    uint64_t map_full;                  /* times that LMDB had no page for us */
    uint32_t readers;                   /* LMDB reader slots in use */
    uint32_t fence_slots;               /* in a partition's table */
    uint64_t fences;                    /* slots that have ever been raised */
    uint32_t partitions;
    uint32_t outbox;        /* changes that Redis has not confirmed, on their way too: their keys are not served here */
    uint32_t processes;     /* that have the tier open */
    int32_t subscriber_pid; /* who listens for this host; 0: nobody */
    bool fleet;             /* the tier belongs to a fleet */
    int64_t proven_age_ms;  /* partition 0 and worst: how long ago it was proven that nothing is missing; -1: never */
    uint32_t max_staleness_ms;
    uint64_t epoch, position, applied, floor; /* of partition 0: history; newest position known; all fences are in up
                                               * to; records read below are void */
    uint64_t tag_changes;                     /* tags and namespaces that this host's processes changed */
    uint64_t tag_fences; /* slots of the tables of tags that have ever been raised, of 4,096 in a partition */
    uint64_t live_bytes; /* of `bytes`, what the entries take; the rest is of replaced and void ones, whose room is used
                          * again as their turn comes, of LMDB's own, and of the index */
    uint64_t index_size; /* bytes of `bytes` that the index takes */
    uint64_t memory;     /* bytes that the tier's files take now, by the file system: map, index, control page, LMDB's
                          * lock file.  Outside a pool the map's never become fewer */
    uint64_t pool_size;  /* bytes of the pool that the tier is in; 0: none */
    uint64_t pool_share, pool_minimum; /* of it: what this tier may take now; what it always may */
    uint64_t pool_free;                /* and what nobody has */
} freshet_stats;

FRESHET_API freshet_result freshet_stat(freshet *cache, freshet_stats *stats);

/* One record of the tier as freshet_each shows it. */
typedef struct freshet_entry {
    size_t struct_size;
    const void *key; /* lives during the callback */
    size_t key_size;
    uint64_t value_size;
    bool absent;
    bool servable;   /* it would be served now */
    const char *why; /* if not: "fence", "floor", "clear", "tag", "epoch", "expired", "age", "pending"; else "" */
    freshet_answer answer;
    const uint64_t *tags; /* of its tags and namespace the first 8 bytes of the hash, as a little-endian number: the
                           * names themselves are not kept (freshet_tag_hash).  Lives during the callback */
    uint32_t tag_count;
} freshet_entry;

/* Return false to end the walk. */
typedef bool (*freshet_each_fn)(const freshet_entry *entry, void *arg);

/* Show every record of the tier, in no order; the walk holds no snapshot, so what changes meanwhile may or may not
 * show. */
FRESHET_API freshet_result freshet_each(freshet *cache, freshet_each_fn fn, void *arg);

#ifdef __cplusplus
}
#endif
#endif
