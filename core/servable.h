/*
 * servable.h - the one judge of every answer, whether from the tier, from Redis, or for somebody who joins a load.
 *
 * Call it after the value has been copied.  It reads, in this order: proven-at (acquire), epoch, floor, the outbox,
 * fence, clear, the tags (outbox, then fences), expiry, and the clock last: whatever made the answer void before
 * proven-at is in the fences that are read after it, so "fresh at the last look at the clock" is what is proven, not
 * "fresh at the copy".  The outbox stands before fence, clear and tag fences, since a change leaves it only when those
 * are raised: the other way round it could be missed in both.
 *
 * Without a fleet (page epoch 0) a host is its own history: nothing to prove, and only records of epoch 0 are its own.
 */
#ifndef CORE_SERVABLE_H
#define CORE_SERVABLE_H

#include <control.h>
#include <record.h>

enum verdict {
    SERVABLE = 0,
    VOID_EPOCH,
    VOID_FLOOR,
    VOID_FENCE,
    VOID_PENDING,
    VOID_CLEAR,
    VOID_TAG,
    VOID_EXPIRED,
    TOO_OLD, /* everything else is right, but the bound cannot be shown: what a stale policy may forgive */
};

struct judgement {
    int64_t now_ns; /* the last reading of the clock */
    int64_t age_ns; /* of the proof; 0 without a fleet; -1 when there is none */
};

/* `proof_ns`: CLOCK_BOOTTIME of asking when the answer came from Redis's master itself, else 0: the page's
 * proven-at. */
enum verdict servable(const struct record *record, const struct control *control, const struct key *key,
                      int64_t bound_ns, int64_t proof_ns, struct judgement *ret_judgement);
/* "" , "epoch", "floor", "fence", "pending", "clear", "tag", "expired", "age" */
const char *verdict_name(enum verdict verdict);

#endif
