/*
 * strong.h - strong writes: wait until every live host has applied a change, or can no longer serve what it voided.
 *
 * Who waits asks the registry of hosts (scripts/wait.lua) until all entries say that they have the change; a frame that
 * is waited for says so (FRAME_LOOK), and hosts report it at once.  Whatever happens the wait ends when the fleet's
 * max_staleness has passed on our own CLOCK_BOOTTIME since Redis answered: a host that has not applied the change by
 * then has no proof from after it, and serves nothing.  A thousandth more is for clocks that run at other rates.
 *
 * The registry speaks for all hosts only when it has been known under one id for as long: who was there before an id
 * was drawn needs that time to report again, or stops serving.
 *
 * An entry that does not answer gets a mark, which any report of its host overwrites.  Only a mark that was seen for as
 * long, unchanged, lets the entry be removed: so the dead cost one wait, the living never lose their place.
 */
#ifndef BACKPLANE_STRONG_H
#define BACKPLANE_STRONG_H

#include <answer.h>
#include <freshet.h>
#include <pthread.h>
#include <stdatomic.h>

struct fleet;

#define STRONG_MARKS     64u
#define STRONG_MARK_SIZE 33u /* "!" and 32 digits */

/* What of a change Redis has confirmed in a partition: the newest frame. */
struct strong_part {
    uint64_t epoch, position, counter;
    int64_t answered_ns; /* CLOCK_BOOTTIME; 0: nothing */
    uint32_t frames;
};

struct strong {
    bool hosts; /* wait for them */
    uint32_t
        replicas;    /* how many must have it, and how many frames are yet to be sent, so that the first ones do not */
    uint32_t frames; /* wait all the time away */
    uint32_t replicas_reached; /* the fewest of all frames */
    struct strong_part parts[FRESHET_PARTITIONS_MAX];
};

/* Redis has confirmed a frame, answering at `answered_ns`. */
void strong_note(struct strong *strong, uint32_t partition, const struct answer *answer, uint64_t counter,
                 int64_t answered_ns);

/* How long nobody serves without a proof, by our clock. */
static inline int64_t strong_bound_ns(uint32_t max_staleness_ms)
{
    return max_staleness_ms * INT64_C(1001000);
}

enum strong_state {
    STRONG_APPLIED, /* it has the change */
    STRONG_BEHIND,  /* not yet, or not known */
    STRONG_MARKED   /* somebody waited for it in vain */
};
/* What does a registry's value say of the change that `writer` made?  Pure. */
enum strong_state strong_judge(const char *value, size_t size, const struct strong_part *part, uint64_t writer);

/* What this process knows of the registries: since when each id, and since when each mark. */
struct strong_memory {
    struct strong_registry {
        uint8_t id[16];
        int64_t since_ns; /* 0: none is known */
    } registries[FRESHET_PARTITIONS_MAX];
    struct strong_mark {
        uint8_t host[16];
        char mark[STRONG_MARK_SIZE];
        int64_t since_ns;
    } marks[STRONG_MARKS];
    uint32_t marks_next;
    _Atomic int64_t pause_ns; /* before the first question: hosts need a moment, and learning it saves a round trip */
    pthread_mutex_t lock;     /* last: before the registries gcc 14 takes a store into them for one past its end */
};

void strong_init(struct strong_memory *memory);
void strong_fini(struct strong_memory *memory);
/* A partition's registry has this id now; any thread. */
void strong_learn(struct strong_memory *memory, uint32_t partition, const uint8_t id[16], int64_t now_ns);
/* For how long has it had this id?  -1: it has not, as far as we know. */
int64_t strong_known_ns(struct strong_memory *memory, uint32_t partition, const uint8_t id[16], int64_t now_ns);
/* For how long has this host borne this mark?  0: we see it for the first time, and remember. */
int64_t strong_marked_ns(struct strong_memory *memory, const uint8_t host[16], const char mark[STRONG_MARK_SIZE],
                         int64_t now_ns);

/* What a wait came to. */
struct strong_verdict {
    uint32_t applied, waited_out;
    bool bound_waited;
};
/* Wait for all hosts; `fn` (may be NULL) is told of each when the wait is over.  Any thread but the loop's. */
void strong_wait(struct fleet *fleet, const struct strong *strong, freshet_host_fn fn, void *arg,
                 struct strong_verdict *ret_verdict);

/* This host serves nothing any more, or nothing of this fleet (`others`: its other processes serve another): take it
 * off the registries, as far as that is possible by the deadline. */
void strong_leave(struct fleet *fleet, bool others, int64_t deadline_ns);

#endif
