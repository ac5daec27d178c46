/*
 * ferry.h - one question for the records of many callers: threads that fetch at the same time share a round trip.
 *
 * What each gets was read after it asked, in one atomic step with the head; a caller whose deadline passes goes its own
 * way; and one whose company came to nothing is told to ask alone.  For threads; a fiber (core's fiber.h) asks on its
 * own, since one that shares its thread with a host program's events may be held up for long, and others would be with
 * it.
 */
#ifndef BACKPLANE_FERRY_H
#define BACKPLANE_FERRY_H

#include <line.h>

struct ferry; /* of a partition */
struct ferry_boat;

/* A reply to "MGET record... head", shared by all who were aboard: `place` is ours among its `count` records, the
 * head's stands behind them.  An error reply is everybody's. */
struct ferried {
    struct ferry_boat *boat;
    const struct resp *reply;
    size_t place, count;
};

/* `url`, `lines` and `head` stay the caller's and must outlive the ferry.  NULL: no memory. */
struct ferry *ferry_open(const struct url *url, struct lines *lines, const char *head);
void ferry_close(struct ferry *ferry); /* no call may be under way; NULL is welcome */

/* Ask for a record by its name, which is copied, beside the head.  True: *ret_result is as lines_ask's, and with
 * FRESHET_OK ferry_done is due.  False: ask alone. */
bool ferry_ask(struct ferry *ferry, const char *name, size_t name_size, int64_t deadline_ns,
               struct ferried *ret_ferried, freshet_result *ret_result);
/* Let go of the reply. */
void ferry_done(struct ferry *ferry, const struct ferried *ferried);

#endif
