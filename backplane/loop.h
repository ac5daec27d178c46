/*
 * loop.h - a thread of our own that waits for sockets and for time, never the host program's.  All signals blocked.
 *
 * A host program may close descriptors it does not know (daemons do), at any moment.  The loop watches its own with
 * poll() and looks whether each is still its own (fstat) before it uses it; if one is not, it ends the turn-taking with
 * `lost`, leaking what the streams' owners had; its owner starts another.
 */
#ifndef BACKPLANE_LOOP_H
#define BACKPLANE_LOOP_H

#include <freshet.h>
#include <stdint.h>

struct loop;
struct loop_stream;
struct loop_timer;
struct url_address;

struct loop_events { /* all on the thread; any may be NULL */
    /* First of all. */
    void (*start)(struct loop *loop, void *arg);
    /* After loop_wake (many may become one). */
    void (*wake)(struct loop *loop, void *arg);
    /* Close all streams and unset or close all timers, or the thread cannot end. */
    void (*stop)(struct loop *loop, void *arg);
    /* Descriptors are gone: the last call, `stop` does not follow, and no stream or timer fires any more.  All calls
     * below may still be made, and do nothing. */
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
uint64_t loop_now_ms(void);                 /* CLOCK_MONOTONIC, which the timers go by */

/* On the loop's thread.  One shot or repeated (repeat_ms > 0); set again as often as you like. */
struct loop_timer *loop_timer_open(struct loop *loop, void (*fn)(void *arg), void *arg); /* NULL: no memory */
void loop_timer_set(struct loop_timer *timer, uint64_t after_ms, uint64_t repeat_ms);
void loop_timer_unset(struct loop_timer *timer);
void loop_timer_close(struct loop_timer *timer); /* NULL is welcome */
/* The same, and `fn` (with the timer's argument) when the turn is over and no callback that is under way can need what
 * it frees.  A lost loop does not come to it. */
void loop_timer_close_then(struct loop_timer *timer, void (*fn)(void *arg));

/* On the loop's thread: a connection.  All callbacks but `closed` only before loop_stream_close. */
struct loop_stream_events {
    void (*connected)(struct loop_stream *stream, int error, void *arg); /* 0, or an errno: close it then */
    void (*received)(struct loop_stream *stream, const char *bytes, size_t size, void *arg);
    void (*ended)(struct loop_stream *stream, int error, void *arg); /* by the peer (0) or an errno: close it then */
    /* The last one, when the turn of loop_stream_close is over; a lost loop does not come to it. */
    void (*closed)(void *arg);
};
/* Begin to connect; 0, or an errno with nothing left to close. */
int loop_stream_open(struct loop *loop, const struct url_address *address, const struct loop_stream_events *events,
                     void *arg, struct loop_stream **ret_stream);
/* Send now what the system takes, keep a copy of the rest until it takes that.  False: no memory. */
bool loop_stream_send(struct loop_stream *stream, const char *bytes, size_t size);
size_t loop_stream_queued(const struct loop_stream *stream); /* bytes kept so */
void loop_stream_close(struct loop_stream *stream);          /* once */

#endif
