/*
 * fiber.h - where a call waits, and who waits there: a thread, or a fiber that is set aside so that its thread goes on.
 *
 * All that blocks on another process, on Redis or on another's load waits by wait_*.  On a thread of the caller's that
 * is a plain wait; inside a fiber (async.c) it is a switch back to the event loop, and the call's straight line goes on
 * later, from the same place.  So there is one protocol, not one for each way of waiting.
 *
 * Rules for code that a fiber may run: no lock is held across a wait (but the one handed to wait_news), and nothing
 * of the caller's is called but through wait_outside, since a fiber's stack is small and not the caller's own.
 */
#ifndef CORE_FIBER_H
#define CORE_FIBER_H

#include <freshet.h>
#include <pthread.h>

/* ---- waiting, for everybody ---- */

/* Until the descriptor is ready for `events` (as poll's).  1; 0: the deadline (CLOCK_BOOTTIME ns) passed; -1: it is no
 * descriptor. */
int wait_ready(int fd, short events, int64_t deadline_ns);
void wait_pause(int64_t ns);
/* Until wait_tell of the same condition, under its lock; false: the deadline passed first.  May return for nothing. */
bool wait_news(pthread_cond_t *news, pthread_mutex_t *lock, int64_t deadline_ns);
/* Wake all who wait for it, threads and fibers; under its lock. */
void wait_tell(pthread_cond_t *news);
/* Is the caller a fiber? */
bool wait_is_aside(void);
/* Of a fiber's loop only so many talk to Redis at once (a thread: always).  False: the deadline passed first. */
bool wait_enter(int64_t deadline_ns);
void wait_leave(void);
/* Call something of the caller's: on the event loop's own stack. */
void wait_outside(void (*fn)(void *arg), void *arg);

/* ---- fibers, for async.c ---- */

struct fibers; /* those of one event loop */
struct fiber;

freshet_result fibers_open(struct fibers **ret_fibers, uint32_t asks_max);
/* None may be left, unless this is a child after fork(). */
void fibers_close(struct fibers *fibers);
int fibers_fd(const struct fibers *fibers);
/* Run `fn` until it waits or has come to its end. */
freshet_result fiber_start(struct fibers *fibers, void (*fn)(void *arg), void *arg, struct fiber **ret_fiber);
/* Go on with whoever can go on; false: nobody can.  Returns after one each, so that what they did can be told. */
bool fibers_run(struct fibers *fibers);
/* In a fiber: wait for fiber_resume.  Outside: let it go on now. */
void fiber_suspend(void);
void fiber_resume(struct fiber *fiber);
struct fiber *fiber_self(void);

/* In a child after fork(): free one of the parent's, which will not go on here. */
void fiber_abandon(struct fiber *fiber);
/* In a child after fork(): nobody waits any more. */
void fibers_after_fork(void);

#endif
