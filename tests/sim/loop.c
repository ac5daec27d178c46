/*
 * loop.c - the loop's thread as a fiber: loop.h for the library's other objects, so that link.c is the real one.
 *
 * The fiber takes one thing after the other: what was asked to close, the timers that are due, the streams that have
 * something, the wake-ups; then it waits for the next.  Descriptors are never lost here.
 */
#include "libc.h"
#include "net.h"

#include <loop.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOOP_END_NS (2 * SIM_S)
#define LOOP_CHUNK  65536u

struct loop_stream {
    struct loop_stream *next;
    struct loop_stream_events events;
    void *arg;
    struct sim_conn *conn; /* NULL: closed */
    bool connected;        /* or not, but its owner was told; ... */
    bool ended;            /* ... of its end too */
};

struct loop {
    struct loop_events events;
    void *arg;
    struct sim_fiber *fiber;
    struct sim_waiters ends;
    bool woken, stopping, ended;
    struct loop_timer *timers;
    struct loop_stream *streams;
};

struct loop_timer {
    struct loop_timer *next;
    void (*fn)(void *arg);
    void (*closed)(void *arg);
    void *arg;
    bool closing;
    int64_t due_ns; /* of the host's clock; 0: not set */
    uint64_t repeat_ms;
};

static int64_t host_now(void)
{
    return sim_boot_ns(sim_self->process->host, sim_now);
}

uint64_t loop_now_ms(void)
{
    return (uint64_t)host_now() / 1000000;
}

/* ---- timers ---- */

struct loop_timer *loop_timer_open(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    struct loop_timer *timer = calloc(1, sizeof *timer);

    timer->fn = fn;
    timer->arg = arg;
    timer->next = loop->timers;
    loop->timers = timer;
    return timer;
}

void loop_timer_set(struct loop_timer *timer, uint64_t after_ms, uint64_t repeat_ms)
{
    timer->due_ns = host_now() + (int64_t)after_ms * SIM_MS;
    timer->repeat_ms = repeat_ms;
}

void loop_timer_unset(struct loop_timer *timer)
{
    timer->due_ns = 0;
}

void loop_timer_close(struct loop_timer *timer)
{
    loop_timer_close_then(timer, NULL);
}

void loop_timer_close_then(struct loop_timer *timer, void (*fn)(void *arg))
{
    if (!timer)
        return;
    timer->due_ns = 0;
    timer->closed = fn;
    timer->closing = true;
}

/* Fire the timer that has been due for longest; false: none is. */
static bool fire_one(struct loop *loop)
{
    struct loop_timer *first = NULL;

    for (struct loop_timer *timer = loop->timers; timer; timer = timer->next)
        if (timer->due_ns && (!first || timer->due_ns < first->due_ns))
            first = timer;
    if (!first || first->due_ns > host_now())
        return false;
    first->due_ns = first->repeat_ms ? host_now() + (int64_t)first->repeat_ms * SIM_MS : 0;
    first->fn(first->arg);
    return true;
}

static int64_t next_due(const struct loop *loop)
{
    int64_t due = SIM_NEVER;

    for (const struct loop_timer *timer = loop->timers; timer; timer = timer->next)
        if (timer->due_ns && timer->due_ns < due)
            due = timer->due_ns;
    return due == SIM_NEVER ? due : sim_true_ns(sim_self->process->host, due) + 2;
}

/* ---- streams ---- */

int loop_stream_open(struct loop *loop, const struct url_address *address, const struct loop_stream_events *events,
                     void *arg, struct loop_stream **ret_stream)
{
    struct loop_stream *stream = calloc(1, sizeof *stream);

    (void)address;
    stream->events = *events;
    stream->arg = arg;
    stream->conn = net_new(sim_self->process);
    stream->conn->loop = loop->fiber;
    stream->next = loop->streams;
    loop->streams = stream;
    net_connect(stream->conn);
    *ret_stream = stream;
    return 0;
}

bool loop_stream_send(struct loop_stream *stream, const char *bytes, size_t size)
{
    if (stream->conn)
        (void)net_send(stream->conn, bytes, size);
    return true;
}

size_t loop_stream_queued(const struct loop_stream *stream)
{
    (void)stream;
    return 0;
}

void loop_stream_close(struct loop_stream *stream)
{
    net_close(stream->conn);
    stream->conn = NULL;
}

/* Has this stream something to tell?  Told, if so. */
static bool tell_stream(struct loop_stream *stream)
{
    struct sim_conn *conn = stream->conn;
    static char chunk[LOOP_CHUNK];
    char *bytes;
    size_t size;

    if (!stream->connected && conn->state != NET_OPEN && conn->state != NET_ENDED)
        return false;
    if (!stream->connected) {
        stream->connected = true;
        stream->ended = conn->state == NET_ENDED;
        stream->events.connected(stream, stream->ended ? ECONNREFUSED : 0, stream->arg);
        return true;
    }
    if (stream->ended || (!conn->in_size && conn->state != NET_ENDED))
        return false;
    if (!conn->in_size) {
        stream->ended = true;
        stream->events.ended(stream, conn->error ? ECONNRESET : 0, stream->arg);
        return true;
    }
    size = net_take(conn, chunk, sizeof chunk);
    if (!(bytes = malloc(size))) /* a fiber of another process may come here meanwhile */
        abort();
    memcpy(bytes, chunk, size);
    stream->events.received(stream, bytes, size, stream->arg);
    free(bytes);
    return true;
}

static bool tell_one(struct loop *loop)
{
    for (struct loop_stream *stream = loop->streams; stream; stream = stream->next)
        if (stream->conn && tell_stream(stream))
            return true; /* the list may be another now */
    return false;
}

/* ---- the loop ---- */

static bool close_timers(struct loop *loop)
{
    bool any = false;

    for (struct loop_timer **at = &loop->timers, *timer; (timer = *at);) {
        if (!timer->closing) {
            at = &timer->next;
            continue;
        }
        *at = timer->next;
        if (timer->closed)
            timer->closed(timer->arg);
        free(timer);
        any = true;
    }
    return any;
}

static bool close_streams(struct loop *loop)
{
    bool any = false;

    for (struct loop_stream **at = &loop->streams, *stream; (stream = *at);) {
        if (stream->conn) {
            at = &stream->next;
            continue;
        }
        *at = stream->next;
        if (stream->events.closed)
            stream->events.closed(stream->arg);
        free(stream);
        any = true;
    }
    return any;
}

static bool close_some(struct loop *loop)
{
    bool any = close_timers(loop);

    return close_streams(loop) || any;
}

static bool loop_turn(struct loop *loop)
{
    bool busy = close_some(loop);

    busy |= fire_one(loop);
    busy |= tell_one(loop);
    if (loop->woken) {
        loop->woken = false;
        busy = true;
        if (loop->events.wake)
            loop->events.wake(&*loop, loop->arg);
    }
    return busy;
}

static void *loop_main(void *arg)
{
    struct loop *loop = arg;

    if (loop->events.start)
        loop->events.start(loop, loop->arg);
    while (!loop->stopping)
        if (!loop_turn(loop) && !loop->stopping)
            (void)sim_wait(next_due(loop));
    if (loop->events.stop)
        loop->events.stop(loop, loop->arg);
    while (loop->timers || loop->streams)
        (void)close_some(loop);
    loop->ended = true;
    sim_wake_all(&loop->ends);
    return NULL;
}

freshet_result loop_open(struct loop **ret_loop, const struct loop_events *events, void *arg)
{
    struct loop *loop = calloc(1, sizeof *loop);

    loop->events = *events;
    loop->arg = arg;
    loop->fiber = sim_spawn(sim_self->process, loop_main, loop);
    *ret_loop = loop;
    return FRESHET_OK;
}

bool loop_close(struct loop *loop)
{
    int64_t until = sim_now + LOOP_END_NS;

    if (!loop)
        return true;
    loop->stopping = true;
    sim_wake(loop->fiber);
    while (!loop->ended && sim_now < until)
        (void)sim_wait_in(&loop->ends, until);
    return loop->ended;
}

void loop_abandon(struct loop *loop)
{
    (void)loop;
}

void loop_wake(struct loop *loop)
{
    loop->woken = true;
    sim_wake(loop->fiber);
}

bool loop_is_lost(const struct loop *loop)
{
    (void)loop;
    return false;
}
