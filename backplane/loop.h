/*
 * loop.h - the thread that owns libuv: a loop of our own, never the host program's.  All signals blocked.
 *
 * A host program may close descriptors it does not know (daemons do).  Were our epoll descriptor among them libuv would
 * abort() the process; so before each turn the loop looks whether it and all that it watches are still its own (fstat),
 * and if not ends the turn-taking with `lost`, leaking the loop; its owner starts another.
 */
#ifndef BACKPLANE_LOOP_H
#define BACKPLANE_LOOP_H

#include <freshet.h>
#include <stdint.h>

struct loop;
struct loop_timer;

struct loop_events { /* all on the thread; any may be NULL */
    /* First of all. */
    void (*start)(struct loop *loop, void *arg);
    /* After loop_wake (many may become one). */
    void (*wake)(struct loop *loop, void *arg);
    /* Close all links and timers, or the thread cannot end. */
    void (*stop)(struct loop *loop, void *arg);
    /* Descriptors are gone: the last call, `stop` does not follow, and nothing of libuv may be touched any more.
     * link_close and loop_timer_close know that and may be called. */
    void (*lost)(struct loop *loop, void *arg);
};

freshet_result loop_open(struct loop **ret_loop, const struct loop_events *events, void *arg);
/* Any thread but the loop's: stop, wait for the end at most two seconds, free.  False when it did not end in that time
 * (it hangs in the resolver, say): the loop is leaked, still runs, and what its callbacks touch must stay.  NULL is
 * welcome. */
bool loop_close(struct loop *loop);
void loop_abandon(struct loop *loop); /* child after fork: close our copies of its sockets, touch nothing else, leak */
void loop_wake(struct loop *loop);    /* any thread, for as long as the loop is not closed */
bool loop_is_lost(const struct loop *loop); /* any thread */
void *loop_uv(struct loop *loop);           /* uv_loop_t *, for link.c */

/* On the loop's thread.  One shot or repeated (repeat_ms > 0); set again as often as you like. */
struct loop_timer *loop_timer_open(struct loop *loop, void (*fn)(void *arg), void *arg); /* NULL: no memory */
void loop_timer_set(struct loop_timer *timer, uint64_t after_ms, uint64_t repeat_ms);
void loop_timer_unset(struct loop_timer *timer);
void loop_timer_close(struct loop_timer *timer); /* NULL is welcome */

/* For link.c, on the loop's thread: a socket that libuv watches.  False: no room, or it is no descriptor. */
bool loop_guard(struct loop *loop, int fd);
/* It is about to be closed.  False: it is no longer ours, and must not be; the loop is then lost. */
bool loop_unguard(struct loop *loop, int fd);

#endif
