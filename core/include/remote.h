/*
 * remote.h - the door between one host (core) and its fleet (backplane).  Not installed.
 *
 * Upward: `struct remote_ops`, what core asks of a backplane.  Downward: `remote_*`, what core offers it.  Core knows
 * no Redis, no keys, no network; a backplane knows no map and no page.
 */
#ifndef CORE_REMOTE_H
#define CORE_REMOTE_H

#include <freshet.h>

/* A key as both sides name it.  data/size may be NULL/0 where only the hash is known. */
struct remote_key {
    const void *data;
    uint32_t size;
    uint8_t hash[16];
    uint32_t partition;
};

#define REMOTE_TAGS_MAX 17u /* of an entry: FRESHET_TAGS_MAX and a namespace, which is a tag here */

/* An entry on its way through the door.  Times of expiry are CLOCK_BOOTTIME ns; INT64_MAX: never. */
struct remote_record {
    bool absent;
    uint64_t epoch, as_of, born, version, writer, source_version;
    int64_t expires_ns;
    uint32_t tag_count;
    uint64_t tags[REMOTE_TAGS_MAX]; /* the first 8 bytes of their hashes, little-endian */
};

/* The right to fill one missing key once. */
struct remote_ticket {
    uint8_t id[16];
    uint64_t epoch;
    uint64_t position; /* when it was granted */
    bool prefer_primary;
};

enum remote_found {
    REMOTE_RECORD, /* an entry: *record and buf */
    REMOTE_NONE,   /* Redis answered: no live entry (for `ticket`: and somebody else may fill it) */
    REMOTE_TICKET, /* no entry, and the right to fill it is ours */
    REMOTE_CURRENT, /* of `latest`: the copy that the caller named */
    REMOTE_SEALED, /* an entry that this host cannot open, or that has just expired: nobody gets a ticket for it */
    REMOTE_GUARDED /* a database write is in progress: what is loaded now is for its caller alone */
};

struct remote_answer {
    enum remote_found found;
    struct remote_record record;
    uint64_t epoch, position; /* of the history when it was answered; 0: not told */
    int64_t asked_ns; /* CLOCK_BOOTTIME before the question was sent, the answer's own proof; 0: it has none */
    struct remote_ticket ticket;
};

enum remote_change_kind { REMOTE_INVALIDATE, REMOTE_PUT, REMOTE_CLEAR, REMOTE_TAGS };

struct remote_change {
    enum remote_change_kind kind;
    const struct remote_key *keys; /* REMOTE_PUT: one; CLEAR and TAGS: none */
    uint32_t count;
    bool absent;       /* PUT */
    const void *value; /* PUT */
    size_t value_size;
    uint32_t ttl_ms; /* PUT; 0: never expires */
    uint64_t source_version;
    const uint64_t *tags; /* PUT: the entry's, as in remote_record */
    uint32_t tag_count;
    const uint8_t (*tag_hashes)[16]; /* TAGS: those that change, `count` of them, in every partition */
    bool wait_hosts; /* until no host serves anything older; `on_host` (may be NULL) is told of each */
    freshet_host_fn on_host;
    void *on_host_arg;
    uint32_t wait_replicas;
};

/* What was confirmed: for several partitions the last one's. `record`: of a put, to go to the tier. */
struct remote_confirm {
    uint64_t epoch, position, version;
    struct remote_confirmed {
        uint64_t epoch, position; /* the newest of the partition; 0: none */
    } parts[FRESHET_PARTITIONS_MAX];
    uint32_t hosts_applied, hosts_waited_out, replicas; /* of what was waited for */
    bool bound_waited;
    struct remote_record record;
};

/* A guard as the backplane has it. */
struct remote_guard;
struct remote_guarding {
    const struct remote_key *keys; /* in the order of their partitions, each once */
    uint32_t count;
    uint32_t hold_ms;
    bool fixed;
    bool wait_hosts; /* return when no host serves anything older */
};

/* All calls are for any thread and end by their deadline (CLOCK_BOOTTIME ns).  A failure is FRESHET_ENET (not reached
 * in time), FRESHET_EREDIS or FRESHET_ENOMEM, with the thread's sentence set. */
struct remote_ops {
    /* Ask for an entry, which the caller will judge by a bound of `bound_ns`.  answer->asked_ns is a proof of its own
     * only where the master was seen to be one; else 0, and the page's proven-at judges. */
    freshet_result (*fetch)(void *remote, const struct remote_key *key, int64_t bound_ns, int64_t deadline_ns,
                            struct remote_answer *answer, freshet_buf *buf);
    /* Ask the master, now, for its entry; `known` (may be NULL): a copy whose value need not be sent again. */
    freshet_result (*latest)(void *remote, const struct remote_key *key, const struct remote_record *known,
                             int64_t deadline_ns, struct remote_answer *answer, freshet_buf *buf);
    /* Ask for an entry or the right to fill it. */
    freshet_result (*ticket)(void *remote, const struct remote_key *key, uint32_t ticket_ms, int64_t deadline_ns,
                             struct remote_answer *answer, freshet_buf *buf);
    /* Fill.  FRESHET_OK and the record as Redis has it; FRESHET_MISS: a change came in between, nothing was stored;
     * FRESHET_OUTDATED. */
    freshet_result (*fill)(void *remote, const struct remote_key *key, const struct remote_ticket *ticket,
                           const struct remote_change *content, int64_t deadline_ns, struct remote_record *ret_record);
    /* Give the ticket back unused (the loader failed), so that others need not wait. */
    void (*give_back)(void *remote, const struct remote_key *key, const struct remote_ticket *ticket);
    /* Change: write down in the outbox, send, wait for the confirmation, raise this host's fences (remote_raise).
     * FRESHET_OK, FRESHET_QUEUED (Redis did not confirm in time: it stays in the outbox), FRESHET_OUTDATED (put),
     * FRESHET_GUARDED (put: it became an invalidation), FRESHET_UNREPLICATED (confirmed, but see wait_replicas). */
    freshet_result (*change)(void *remote, const struct remote_change *change, int64_t deadline_ns,
                             struct remote_confirm *ret_confirm);
    /* Guard all keys or none, and raise this host's fences.  FRESHET_OK, FRESHET_EBUSY (64 guards on a key), or a
     * failure; the keys are copied. */
    freshet_result (*guard_begin)(void *remote, const struct remote_guarding *guarding, int64_t deadline_ns,
                                  struct remote_guard **ret_guard);
    /* ms that it is surely in force; 0: lost. */
    int64_t (*guard_left)(struct remote_guard *guard);
    /* End it and free it.  FRESHET_OK, FRESHET_GUARD_LOST (confirmed, but not held), FRESHET_QUEUED; on a
     * failure it is as it was. */
    freshet_result (*guard_end)(void *remote, struct remote_guard *guard, uint64_t source_version, int64_t deadline_ns,
                                struct remote_confirm *ret_confirm);
    /* Free it without a word to Redis; also when its fleet has been left. */
    void (*guard_drop)(struct remote_guard *guard);
    /* Is Redis out of reach, as far as is known now?  For the stale policy. */
    bool (*away)(void *remote);
    /* Leave: end the thread, close connections, free.  Waits at most a second or so. */
    void (*close)(void *remote);
    /* In a child after fork: close inherited sockets by identity, touch nothing shared, leak the rest. */
    void (*abandon)(void *remote);
    /* In a child after fork, with the tier open again: join again as the parent had.  A new `remote` is attached by it.
     */
    freshet_result (*rejoin)(freshet *cache, void *abandoned);
};

/* ---- what core offers ---------------------------------------------------------------------------------------- */

struct remote_host; /* the tier as a backplane sees it; lives until `close` of the ops has returned */

/* Attach: from now on core asks `ops` for this handle.  FRESHET_EBUSY when this tier is joined in this process already:
 * then remote_attached makes the second handle share the first's. */
freshet_result remote_attach(freshet *cache, const struct remote_ops *ops, void *remote);
/* Take it away again: core asks no more; ops->close is called when the last handle let go. */
void remote_detach(freshet *cache);
/* True when this process has this tier joined already; this handle then holds that fleet too (remote_detach lets go).
 */
bool remote_attached(freshet *cache);
struct remote_host *remote_host(freshet *cache);

struct remote_facts {
    const char *name;
    uint32_t partitions;
    uint32_t max_staleness_ms;      /* the smallest of this process's handles: renew at a quarter of it */
    uint32_t tier_max_staleness_ms; /* the tier's upper limit, for the fleet's head */
    uint32_t deadline_ms;
    uint32_t value_max;
    uint8_t host_id[16]; /* random, drawn with the control page */
};
void remote_facts(struct remote_host *host, struct remote_facts *ret_facts);
void remote_key_from_hash(struct remote_host *host, const uint8_t hash[16], struct remote_key *ret_key);

/* Coherence.  Positions only rise; each of these may come late or twice and does no harm. */
void remote_raise(struct remote_host *host, const uint8_t (*hashes)[16], uint32_t count, uint32_t partition,
                  uint64_t position);
void remote_raise_tags(struct remote_host *host, const uint8_t (*hashes)[16], uint32_t count, uint32_t partition,
                       uint64_t position);
void remote_raise_clear(struct remote_host *host, uint32_t partition, uint64_t position);
void remote_applied(struct remote_host *host, uint32_t partition,
                    uint64_t position); /* everything up to here is in the fences */
void remote_repair(struct remote_host *host, uint32_t partition, uint64_t position); /* floor, then applied */
/* Adopt the history `to`, seen while the page had `from`. */
bool remote_adopt(struct remote_host *host, uint32_t partition, uint64_t from, uint64_t to, uint64_t position,
                  uint64_t clear);

struct remote_part {
    uint64_t epoch, applied, position, floor, clear;
    int64_t proven_ns;
    bool forgotten; /* unproven, but only since the host left: its history is the one that it was proven in */
};
void remote_part(struct remote_host *host, uint32_t partition, struct remote_part *ret_part);
void remote_saw_position(struct remote_host *host, uint32_t partition, uint64_t position); /* newest known */

/* proven-at: note before asking, prove with the answer. */
struct remote_question {
    int64_t asked_ns;
    uint16_t rotation;
};
struct remote_question remote_ask(struct remote_host *host, uint32_t partition);
bool remote_prove(struct remote_host *host, uint32_t partition, struct remote_question question, uint64_t epoch,
                  uint64_t position);
/* Take it away: nothing is served from the tier before another question has been asked and answered. */
void remote_forget_proof(struct remote_host *host, uint32_t partition);

/* Redis's clock, as an offset to CLOCK_BOOTTIME in us. */
void remote_set_clock(struct remote_host *host, int64_t offset_us);
int64_t remote_clock(struct remote_host *host);

/* The fleet that the tier belongs to; false: its other processes belong to another. */
bool remote_claim_fleet(struct remote_host *host, uint64_t fleet);

/* The subscriber's seat: `holder` is a random id, 0 empty. */
uint64_t remote_seat(struct remote_host *host, int32_t *ret_pid);
bool remote_seat_take(struct remote_host *host, uint64_t seen, uint64_t holder);

/* The outbox (see control.h); of a clear: hashes NULL and count 0. */
enum remote_outbox_kind { REMOTE_OUTBOX_KEY, REMOTE_OUTBOX_TAG, REMOTE_OUTBOX_CLEAR };
bool remote_outbox_add(struct remote_host *host, uint32_t partition, enum remote_outbox_kind kind,
                       const uint8_t (*hashes)[16], uint32_t count, uint16_t *ret_slots);
void remote_outbox_done(struct remote_host *host, const uint16_t *slots, uint32_t count);
bool remote_outbox_confirmed(struct remote_host *host, const uint16_t *slots, uint32_t count, uint64_t position,
                             uint64_t epoch);
void remote_outbox_queue(struct remote_host *host, const uint16_t *slots, uint32_t count);
uint32_t remote_outbox_take(struct remote_host *host, uint32_t partition, enum remote_outbox_kind kind, uint32_t most,
                            uint8_t (*ret_hashes)[16], uint16_t *ret_slots);
uint32_t remote_outbox_recent(struct remote_host *host, uint32_t partition, enum remote_outbox_kind kind,
                              int64_t window_ms, uint32_t most, uint8_t (*ret_hashes)[16]);
uint32_t remote_outbox_recent_clears(struct remote_host *host, uint32_t partition, int64_t window_ms);
uint32_t remote_outbox_waiting(struct remote_host *host, uint32_t partition);
/* How many processes of this host have the tier open, this one included. */
uint32_t remote_processes(struct remote_host *host);

/* May this answer, asked for at asked_ns, be served now?  The one judge, for a backplane that wants to know before it
 * answers. */
bool remote_servable(struct remote_host *host, const struct remote_key *key, const struct remote_record *record,
                     int64_t asked_ns);

/* Count something for freshet_stat. */
enum remote_counter {
    REMOTE_QUEUED,
    REMOTE_RESENT,
    REMOTE_FRAMES,
    REMOTE_FRAMES_REFUSED,
    REMOTE_RENEWALS,
    REMOTE_RENEWALS_FAILED,
    REMOTE_ADOPTIONS,
    REMOTE_REPAIRS,
    REMOTE_TAKEOVERS,
    REMOTE_RECONNECTS
};
void remote_count(struct remote_host *host, enum remote_counter counter, uint64_t n);

/* Words for the caller and for the log callback (core's log.h, handed through the door). */
freshet_result remote_fail(freshet_result result, const char *format, ...) __attribute__((format(printf, 2, 3)));
void remote_say(freshet_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The name's hash key and a key's hash without any tier (PROTOCOL.md). */
void remote_hash(const char *name, const void *key, size_t key_size, uint8_t ret_hash[16]);
void remote_tag_hash(const char *name, bool name_space, const void *tag, size_t size, uint8_t ret_hash[16]);
uint32_t remote_partition(const uint8_t hash[16], uint32_t partitions);
/* Waiting, of a thread or of a call that is set aside meanwhile (core's fiber.h): hold no lock.  For a descriptor: 1 it
 * is ready, 0 the deadline passed, -1 it is none.  Between _enter and _leave a call talks to Redis: of one event loop's
 * only so many do at once; false: the deadline passed first. */
int remote_wait_ready(int fd, short events, int64_t deadline_ns);
void remote_wait_pause(int64_t ns);
bool remote_wait_is_aside(void);
bool remote_wait_enter(int64_t deadline_ns);
void remote_wait_leave(void);
/* A named point where a test may hold this thread (core's step.h). */
void remote_step(const char *point);
/* An event of the protocol, for a test that follows a run (core's trace.h). */
void remote_trace(const char *event, uint32_t partition, uint64_t epoch, uint64_t position, uint64_t extra,
                  const uint8_t (*hashes)[16], uint32_t count);

#endif
