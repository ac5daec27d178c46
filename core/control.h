/*
 * control.h - the control page: what the host's processes know together about what may be served.
 *
 * A file of its own in the tier's directory, allocated in full before it is mapped (a full file system is an error at
 * open, never a SIGBUS later).  All words that decide coherence are atomics that only rise, so a process that was
 * stopped for an hour and then finishes its store does no harm.  The atomics live in control.c, outbox.c, turn.c,
 * guarded.c, policy.c and in the inline readers of this file; nobody else touches the page.
 *
 * The order of stores: fence, then applied, then proven-at, each a release; a reader takes proven-at first (acquire),
 * copies nothing after, and looks at the clock last (servable.c).
 */
#ifndef CORE_CONTROL_H
#define CORE_CONTROL_H

#include <freshet.h>
#include <key.h>
#include <stdatomic.h>

#define CONTROL_OUTBOX_SLOTS 4096u
#define CONTROL_RECENT_SLOTS 2048u
#define CONTROL_TURN_SLOTS   512u
#define CONTROL_GUARD_SLOTS  4096u
#define CONTROL_GUARD_ROW    64u /* slots for the keys of one hash: so many guards a key */
#define CONTROL_TAG_SLOTS    4096u /* in a partition's table of tags; the same as Redis's, PROTOCOL.md */

/* The file starts with an immutable head of this size, whose last 16 bytes are SipHash-2-4-128 of those before under
 * the key below: a check against damage, not a secret. */
#define CONTROL_HEAD_SIZE 512u
#define CONTROL_HEAD_K0   0x6c6f72746e6f4346u /* "FControl" */
#define CONTROL_HEAD_K1   0x3130656761507246u /* "FrPage01" */
#define CONTROL_HOST_K0   0x6c6f72746e6f4346u /* the same, for who we are to others */
#define CONTROL_HOST_K1   0x313074736f487246u /* "FrHost01" */

/* Without a word from anybody. */
#define CONTROL_TIER_SIZE_DEFAULT (64ull << 20)
#define CONTROL_TIER_SIZE_MOST    (1ull << 42) /* what the index can tell apart */
#define CONTROL_POOL_PATH         272u         /* bytes of a pool's path, with the 0 at its end */

/* What a page is made for; checked against an existing one. */
struct control_shape {
    char name[FRESHET_NAME_MAX + 1];
    uint64_t tier_size;        /* 0: whatever an existing page has, else CONTROL_TIER_SIZE_DEFAULT */
    uint32_t partitions;       /* 0: whatever an existing page has, else 1 */
    uint32_t max_staleness_ms; /* the tier's upper limit, fixed by its creator */
    uint64_t pool;             /* the nonce of the pool that it is in; 0: whatever an existing page has, else none */
    char pool_path[CONTROL_POOL_PATH];
};

enum control_fit {
    CONTROL_FITS,
    CONTROL_MISSING,   /* no file */
    CONTROL_FOREIGN,   /* not ours: another magic, format, owner, truncated, head damaged */
    CONTROL_BOOT,      /* of an earlier boot of this host */
    CONTROL_NAMESPACE, /* made in another PID or time namespace */
    CONTROL_SHAPE      /* ours and of this boot, but of another name, size, pool or partitions */
};

struct control_part;  /* one partition's words */
struct control_page;  /* the mapping */

/* The shelf (shelf.h): a head, a line for each set, and the sets, of one page each. */
#define CONTROL_SHELF_SET  4096u
#define CONTROL_SHELF_WAYS 20u
struct control_shelf {
    _Alignas(128) _Atomic uint64_t map; /* the nonce of the map whose records it has */
    _Atomic uint64_t owner;             /* who has a turn to write to it; owner.h */
    _Atomic int64_t next_ns;            /* CLOCK_BOOTTIME of the next one */
};
struct control_shelf_line {
    _Alignas(128) _Atomic uint64_t number; /* odd: the set is being written */
    _Atomic uint64_t tags[CONTROL_SHELF_WAYS / 4]; /* 16 bits a way; 0: nothing there */
    _Atomic uint16_t fences[CONTROL_SHELF_WAYS];   /* in which line of the fences an entry's is: a hint */
    _Atomic uint8_t starts[CONTROL_SHELF_WAYS];    /* of the entries, in 64 bytes; bit 6: the hint's 17th */
    _Atomic uint32_t used; /* a bit a way: read since the set was written */
    _Atomic uint32_t read; /* the same, since the policy asked about its record */
};

struct control {
    struct control_page *page;
    size_t size;
    struct key_space space;
    uint64_t tier_size;
    uint32_t max_staleness_ms;
    uint8_t host_id[16]; /* of the page and the file that it is in */
    uint64_t generation; /* random, drawn with the page; the map's file name carries it (tier.c), so that a map never
                          * meets a page that is not its own */
    uint64_t pool;       /* the nonce of its pool; 0: none */
    char pool_path[CONTROL_POOL_PATH];
    /* where the tables are */
    struct control_part *parts;
    _Atomic uint64_t *fences;     /* partitions * fence_slots */
    _Atomic uint64_t *tag_fences; /* partitions * CONTROL_TAG_SLOTS */
    void *policy; /* of eviction; policy.c */
    struct control_shelf *shelf;
    struct control_shelf_line *shelf_lines;
    const uint8_t *shelf_sets; /* for reading alone */
    uint8_t *shelf_room;       /* the same memory, where nothing may be read or written but in a turn */
    uint32_t shelf_count;      /* of sets */
    struct control_outbox *outbox;
    struct control_recent *recent;
    struct control_turn *turns;
    _Atomic uint64_t *guards; /* of a host without a fleet: guarded.c */
};

/* ---- the file (dirfd: the tier's directory) ---- */

/* Does the file `control` in the directory fit?  On CONTROL_FITS it is mapped.  `ret_why` gets a sentence otherwise.
 * freshet_error is set only for failures of the system (then CONTROL_FOREIGN). */
enum control_fit control_open(struct control *control, int dirfd, const struct control_shape *shape, char *ret_why,
                              size_t why_size);
/* Make it: allocated in full, filled in under a temporary name, renamed into place, mapped.  FRESHET_ENOSPC and the
 * like. */
freshet_result control_create(struct control *control, int dirfd, const struct control_shape *shape);
void control_close(struct control *control);
/* Bytes that a page of this shape takes. */
size_t control_file_size(const struct control_shape *shape);

/* ---- a partition's words ---- */

struct control_part {
    _Alignas(64) _Atomic uint64_t epoch; /* 0: no fleet */
    _Atomic uint64_t floor;
    _Atomic uint64_t clear;
    _Atomic uint64_t applied;
    _Atomic uint64_t proven;           /* 16 bits: the epoch's tag; 48: CLOCK_BOOTTIME in us; see control_proof_ns */
    _Atomic uint64_t position;         /* newest known; without a fleet the counter itself */
    _Atomic uint64_t newest_change_ns; /* CLOCK_BOOTTIME of the last change applied, or adoption or repair */
    char pad[8];
};

/* Raise a word to at least `value` (fetch-max, release).  True when it was below. */
bool control_raise(_Atomic uint64_t *word, uint64_t value);

static inline _Atomic uint64_t *control_fence(const struct control *control, uint32_t partition, uint32_t slot)
{
    return &control->fences[(size_t)partition * control->space.fence_slots + slot];
}

/* Records with a tag of this slot that were born below are void. */
static inline _Atomic uint64_t *control_tag_fence(const struct control *control, uint32_t partition, uint64_t tag)
{
    return &control->tag_fences[(size_t)partition * CONTROL_TAG_SLOTS + (tag & (CONTROL_TAG_SLOTS - 1))];
}
/* Has one of these tags changed since the record was born? */
bool control_tags_changed(const struct control *control, uint32_t partition, const uint64_t *tags, uint32_t count,
                          uint64_t born);

/* Without a fleet: take the next position of the partition. */
uint64_t control_next_position(struct control *control, uint32_t partition);
/* Without a fleet: was the change at this position (a fence) made in the last ten seconds?  True for some time more,
 * while others are made. */
bool control_changed_lately(const struct control *control, uint32_t partition, uint64_t position);

/* A proof and the epoch that it is for cannot share a word, so the proof carries 16 bits that follow from the epoch.
 * Whoever reads takes the proof first, the epoch second: where the tag is another epoch's, nothing is proven.  So an
 * adopter that is stopped halfway, while a sibling still proves the old epoch, leaves no proof behind that the new one
 * inherits. */
static inline uint16_t control_tag(uint64_t epoch)
{
    return (uint16_t)(epoch ^ epoch >> 16 ^ epoch >> 32 ^ epoch >> 48);
}

/* The time in a proven word, in ns; 0 when it proves nothing for this epoch. */
static inline int64_t control_proof_ns(uint64_t proven, uint64_t epoch)
{
    return (uint16_t)(proven >> 48) == control_tag(epoch) ? (int64_t)(proven & 0xffffffffffffu) * 1000 : 0;
}

/* What a renewer notes before it asks. */
struct control_question {
    int64_t asked_ns;  /* CLOCK_BOOTTIME before sending */
    uint16_t rotation; /* the tag of the proven word, then */
};
struct control_question control_ask(const struct control *control, uint32_t partition);
/* The answer showed that nothing was missing: proven-at rises to the asking time, unless the epoch is another, the
 * position is not applied, or the page met a new epoch since the question.  True when proven (now or already later). */
bool control_prove(struct control *control, uint32_t partition, struct control_question question, uint64_t epoch,
                   uint64_t position);
/* Take the proof away, also from questions that are on their way: nothing is served before a new one was asked. */
void control_forget_proof(struct control *control, uint32_t partition);
/* Is it unproven for no other reason than that? */
bool control_forgotten(const struct control *control, uint32_t partition);
/* Adopt a history: unproven, then floor, clear, applied, position, then the epoch by compare-and-swap from `from`.
 * True when the page then has `to`, through us or through a sibling that was quicker. */
bool control_adopt(struct control *control, uint32_t partition, uint64_t from, uint64_t to, uint64_t position,
                   uint64_t clear);
/* The log was trimmed or unreadable up to `position`: floor, then applied. */
void control_repair(struct control *control, uint32_t partition, uint64_t position);
/* proven-at in ns of CLOCK_BOOTTIME; 0: never. */
int64_t control_proven_ns(const struct control *control, uint32_t partition);

/* ---- host-wide words ---- */

enum control_counter { /* one for each counter of freshet_stats, in its order */
                       COUNT_HITS,
                       COUNT_ABSENTS,
                       COUNT_STALES,
                       COUNT_MISSES,
                       COUNT_REDIS_HITS,
                       COUNT_REDIS_MISSES,
                       COUNT_LOADS,
                       COUNT_JOINED,
                       COUNT_LOAD_FAILURES,
                       COUNT_PUTS,
                       COUNT_INVALIDATIONS,
                       COUNT_CLEARS,
                       COUNT_QUEUED,
                       COUNT_RESENT,
                       COUNT_FILLS,
                       COUNT_FILLS_DROPPED,
                       COUNT_FILLS_REFUSED,
                       COUNT_EVICTIONS,
                       COUNT_VOIDS,
                       COUNT_EXPIRED,
                       COUNT_FRAMES,
                       COUNT_FRAMES_REFUSED,
                       COUNT_RENEWALS,
                       COUNT_RENEWALS_FAILED,
                       COUNT_ADOPTIONS,
                       COUNT_REPAIRS,
                       COUNT_TAKEOVERS,
                       COUNT_RECONNECTS,
                       COUNT_MAP_FULL,
                       COUNT_TAG_CHANGES,
                       COUNT_ALL
};
void control_count(struct control *control, enum control_counter counter, uint64_t n);
uint64_t control_counted(const struct control *control, enum control_counter counter);

/* The difference between Redis's clock and CLOCK_BOOTTIME, us; newest estimate wins. 0 when never told. */
void control_set_redis_clock(struct control *control, int64_t offset_us);
int64_t control_redis_clock(const struct control *control);

/* Which fleet (a hash of its address) and whether: 0 none.  control_join_fleet answers false when another is set
 * and `alone` is false; changing from one fleet to another takes every partition's proof away. */
uint64_t control_fleet(const struct control *control);
bool control_join_fleet(struct control *control, uint64_t fleet, bool alone);

/* The subscriber's seat: {pid, random id of the process's fleet}. */
struct control_seat {
    uint64_t holder;
    int32_t pid;
};
struct control_seat control_seat(const struct control *control);
/* Take it from whoever is seen in it; false when somebody was quicker. `holder` 0 leaves it empty. */
bool control_seat_take(struct control *control, uint64_t seen, uint64_t holder, int32_t pid);

/* ---- the outbox: changes that Redis has not confirmed, key hashes only, in the page so that they survive kill -9 ----
 * How it stays exact at any instruction, and why: outbox.c. */

enum control_outbox_kind { OUTBOX_KEY = 1, OUTBOX_CLEAR = 2, OUTBOX_TAG = 3 };
enum control_outbox_state {
    OUTBOX_FREE = 0,
    OUTBOX_CLAIMED = 1, /* being filled in by its owner: nothing has been promised, so it blocks nobody; freed when its
                         * owner dies */
    OUTBOX_SENDING = 2, /* its owner has it on the way to Redis */
    OUTBOX_QUEUED = 3,  /* nobody has: whoever holds the seat sends it */
};

/* Write down `count` hashes of keys or tags (or one OUTBOX_CLEAR) of a partition, in state SENDING; ret_slots gets
 * their indexes.  False when there is no room, and nothing is written down: write down a clear of the partition
 * instead, for which room is always kept (so that call cannot fail).  With no slot left the clears of a partition share
 * one, which only the seat's holder ends: the adder may send its clear all the same, and another follows later. */
bool control_outbox_add(struct control *control, uint32_t partition, enum control_outbox_kind kind,
                        const uint8_t (*hashes)[16], uint32_t count, uint16_t *ret_slots);
/* Confirmed in `epoch`, and its fence is raised: remember them for `recent`, and free them if the page is still in that
 * epoch; else they are left QUEUED and it answers false: the new history may lack them.  Slots that are no longer this
 * process's are left alone. */
bool control_outbox_confirmed(struct control *control, const uint16_t *slots, uint32_t count, uint64_t position,
                              uint64_t epoch);
/* Free them, whatever the epoch; `position` 0: and do not remember them (it never had to be sent). */
void control_outbox_done(struct control *control, const uint16_t *slots, uint32_t count, uint64_t position);
/* Not confirmed: leave them for the seat's holder. */
void control_outbox_queue(struct control *control, const uint16_t *slots, uint32_t count);
/* Take up to `most` QUEUED entries of one kind and partition, and SENDING ones whose owner is dead, to send them (state
 * SENDING, owner self).  Returns how many; ret_hashes may be NULL for clears. */
uint32_t control_outbox_take(struct control *control, uint32_t partition, enum control_outbox_kind kind, uint32_t most,
                             uint8_t (*ret_hashes)[16], uint16_t *ret_slots);
/* Keys (or tags) confirmed within the last `window_ms`, newest first, for sending again after a rotation; they stay. */
uint32_t control_outbox_recent(struct control *control, uint32_t partition, enum control_outbox_kind kind,
                               int64_t window_ms, uint32_t most, uint8_t (*ret_hashes)[16]);
/* How many clears of a partition were.  A new epoch begins with one, but a master that was cut off may have confirmed
 * another since. */
uint32_t control_outbox_recent_clears(const struct control *control, uint32_t partition, int64_t window_ms);
/* How many wait (QUEUED, or orphaned), in all partitions or in one (UINT32_MAX: all). */
uint32_t control_outbox_waiting(struct control *control, uint32_t partition);
/* How many hide their keys: those that wait, and those on their way to Redis. */
uint32_t control_outbox_count(const struct control *control);
/* Is this key (or its partition, by a clear) in the outbox?  Called for each hit: one load when the outbox is empty. */
bool control_outbox_pending_slow(const struct control *control, const struct key *key);
/* Is one of these tags in the outbox? */
bool control_outbox_pending_tags(const struct control *control, uint32_t partition, const uint64_t *tags,
                                 uint32_t count);
/* Upper 48 bits: a version that every add raises; lower 16: 0 when nothing is in, else 1 + how many slots need looking
 * at. */
static inline const _Atomic uint64_t *control_outbox_word(const struct control *control)
{
    /* It stands right behind the page's head (page.h), so that a hit need not call anybody for it. */
    return (const _Atomic uint64_t *)(const void *)((const uint8_t *)control->page + CONTROL_HEAD_SIZE);
}

static inline bool control_outbox_pending(const struct control *control, const struct key *key)
{
    /* seq_cst pairs with the adder's own: see outbox.c */
    if ((atomic_load_explicit(control_outbox_word(control), memory_order_seq_cst) & 0xffff) == 0)
        return false;
    return control_outbox_pending_slow(control, key);
}

#endif
