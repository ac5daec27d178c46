/*
 * receive.h - inward: frames from the channel and from the log become fences.
 *
 * The channel makes it fast: a frame that verifies raises its fences at once, for its position is no more than a
 * claim that costs a miss when it is false.  The log alone moves `applied`, entry by entry, without a gap.
 */
#ifndef BACKPLANE_RECEIVE_H
#define BACKPLANE_RECEIVE_H

#include <pthread.h>
#include <frame.h>
#include <resp.h>
#include <seal.h>

struct fleet;

#define RECEIVE_BUCKETS  256u
#define RECEIVE_WAYS     4u
#define RECEIVE_REACH    65536u /* how far beyond `applied` a channel's claim is believed */
#define RECEIVE_REFUSALS 64u    /* in a second; after them the channel's frames are hints only, unverified */

/* Digests of the frames verified lately, so that the log's copy of a frame need not be verified again, nor what this
 * process signed itself: verifying is the dearest step there is. */
struct receive {
    pthread_mutex_t lock; /* of the digests: those who sign are on threads of their own */
    uint8_t digests[RECEIVE_BUCKETS][RECEIVE_WAYS][32];
    uint8_t next[RECEIVE_BUCKETS];
    int64_t refusals_since_ns;
    uint32_t refusals;
};

enum receive_verdict {
    RECEIVE_GOOD,
    RECEIVE_UNVERIFIED, /* too short, of an unknown key, or forged */
    RECEIVE_GARBLED,    /* signed, but no frame that we can read */
    RECEIVE_FOREIGN     /* a frame of another cache, partition or number of partitions */
};

/* Is this verified body a frame of this cache and partition?  Pure. */
enum receive_verdict receive_judge(const uint8_t *body, size_t size, const uint8_t cache[16], uint32_t partition,
                                   uint32_t partitions, struct frame *ret_frame);

enum receive_step {
    RECEIVE_SKIP, /* applied already */
    RECEIVE_NEXT, /* the one after the last applied */
    RECEIVE_GAP
};
/* What is a log entry's position to us?  Pure. */
enum receive_step receive_step(uint64_t applied, uint64_t position);

/* Is a channel's claim of a position plausible?  Pure. */
bool receive_plausible(uint64_t applied, uint64_t position);

/* A message that this process has signed: genuine.  Any thread. */
void receive_signed(struct fleet *fleet, const uint8_t *message, size_t size);

/* A message of the channel; on the loop's thread, as the next. */
void receive_channel(struct fleet *fleet, uint32_t partition, const char *bytes, size_t size);

/* Entries of the log, as a report of the page's epoch brought them.  What leaves a gap or cannot be read voids the
 * partition up to `position`, which the same report showed.  True when the page is now complete up to `target`. */
bool receive_log(struct fleet *fleet, uint32_t partition, const struct resp *entries, uint64_t position,
                 uint64_t target);

#endif
