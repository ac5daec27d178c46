/*
 * outbox.h - changes that Redis has not confirmed yet, sent again by whoever holds the seat.
 *
 * The outbox itself lies in the tier's control page, so that it outlives every process.  Here is who empties it.
 */
#ifndef BACKPLANE_OUTBOX_H
#define BACKPLANE_OUTBOX_H

#include <remote.h>
#include <stdbool.h>
#include <stdint.h>

struct fleet;
struct publish_work;

#define OUTBOX_BATCH 256u

/* One batch on its way; on the loop's thread only. */
struct outbox {
    struct publish_work *work;
    bool sending;
    enum remote_outbox_kind kind;
    uint32_t partition;
    uint32_t count;
};

bool outbox_init(struct fleet *fleet);
void outbox_fini(struct fleet *fleet); /* what is on its way waits again */
/* Does anything of this partition wait, or is it on its way by us? */
bool outbox_busy(const struct fleet *fleet, uint32_t partition);
/* Send what waits, batch after batch; nothing to do when a batch is on its way or we do not hold the seat. */
void outbox_drain(struct fleet *fleet);

#endif
