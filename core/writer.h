/*
 * writer.h - the thread that writes the tier: fills handed over by callers, in batches, and the housekeeping that keeps
 * the map below its size.  Callers never wait for LMDB: a full queue drops the fill and counts it.
 *
 * A thread that dies inside an LMDB write transaction takes the environment with it, so transactions live on this
 * thread only, all signals blocked.  It starts with the first fill, or soon after the first wish for the shelf
 * (shelf.h), in a pool at once, since what is held idly is to be given to others.  Housekeeping wakes once a second
 * while it runs.
 */
#ifndef CORE_WRITER_H
#define CORE_WRITER_H

#include <control.h>
#include <pool.h>
#include <tier.h>
#include <turn.h>

struct writer;

freshet_result writer_open(struct writer **ret_writer, struct control *control, struct tier *tier);
/* The tier is in a pool, where it has joined: keep to the share, ask for more, give.  Starts the thread.  Before the
 * first fill.  The pool must outlive the writer. */
freshet_result writer_share(struct writer *writer, struct pool *pool);
/* Start the thread without a fill: readers have wishes (shelf.h). */
void writer_rise(struct writer *writer);
/* Write what is queued, end the thread (waits at most two seconds for a lock that a stopped sibling holds, then
 * leaves the thread behind and leaks what it uses: *ret_left true, neither tier nor control page may then be
 * closed). */
void writer_close(struct writer *writer, bool *ret_left);
/* Child after fork: the thread is not there; leak. */
void writer_abandon(struct writer *writer);

/* Hand over a copy.  `ret_ticket` (may be NULL) can be waited for.  FRESHET_OK, FRESHET_MISS when dropped (counted),
 * or FRESHET_ENOMEM. */
freshet_result writer_fill(struct writer *writer, const struct key *key, const struct record *record, const void *value,
                           uint64_t *ret_ticket);
/* Without a fleet: store a record unless the tier has one of a later source version, compared in the very transaction
 * that writes it; the position is taken, and the fence raised, there too.  Waits.  FRESHET_OK with *ret_position (the
 * record itself may have found no room); FRESHET_GUARDED, likewise, and nothing stored; FRESHET_OUTDATED; FRESHET_MISS:
 * not by the deadline, or there was no place in the queue; in both nothing was changed, nor will be. */
freshet_result writer_put_compared(struct writer *writer, const struct key *key, const struct record *record,
                                   const void *value, int64_t deadline_ns, uint64_t *ret_position);
/* End the turn when what is queued now is in the tier (or dropped).  False: nothing is queued, and it goes on. */
bool writer_ends_turn(struct writer *writer, const struct turn *turn);
/* Wait until everything up to `ticket` (UINT64_MAX: all handed over so far) was written or dropped: FRESHET_OK, or
 * FRESHET_ETIMEOUT at deadline_ns (CLOCK_BOOTTIME). */
freshet_result writer_wait(struct writer *writer, uint64_t ticket, int64_t deadline_ns);
/* The map's descriptors were closed behind our back, or LMDB has failed for good: set by the thread, which drops
 * what is queued and ends; read by host.c, which re-opens. */
bool writer_broken(const struct writer *writer);

#endif
