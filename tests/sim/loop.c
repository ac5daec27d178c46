/*
 * loop.c - the loop's thread as a fiber: loop.h for the library's other objects, and as much of libuv as link.c asks
 * for, so that link.c itself is the real one.
 *
 * The fiber takes one thing after the other, as libuv does: what was asked to close, the timers that are due, the
 * streams that have something, the wake-ups; then it waits for the next.  Descriptors are never lost here.
 */
#include "libc.h"
#include "net.h"

#include <loop.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#define LOOP_END_NS (2 * SIM_S)

struct handle { /* what we know of a handle of libuv's */
    struct handle *next;
    uv_handle_t *uv;
    struct loop *loop;
    bool closing;
    uv_close_cb closed;
    /* a timer */
    uv_timer_cb fire;
    int64_t due_ns; /* of the host's clock; 0: not set */
    uint64_t repeat_ms;
    /* a stream */
    struct sim_conn *conn;
    uv_connect_t *connect;
    uv_connect_cb connected;
    uv_alloc_cb alloc;
    uv_read_cb read;
    bool ended; /* its reader was told */
};

struct written {
    struct written *next;
    uv_write_t *write;
    uv_write_cb fn;
};

struct loop {
    uv_loop_t uv; /* first */
    struct loop_events events;
    void *arg;
    struct sim_fiber *fiber;
    struct sim_waiters ends;
    bool woken, stopping, ended;
    struct handle *handles;
    struct written *written;
};

struct loop_timer {
    uv_timer_t uv;
    void (*fn)(void *arg);
    void *arg;
};

static int64_t host_now(void)
{
    return sim_boot_ns(sim_self->process->host, sim_now);
}

/* ---- handles ---- */

static struct handle *handle_of(const void *uv)
{
    return ((const uv_handle_t *)uv)->u.reserved[0];
}

static struct handle *handle_make(uv_loop_t *uv_loop, void *uv)
{
    struct handle *handle = calloc(1, sizeof *handle);
    struct loop *loop = (struct loop *)(void *)uv_loop;

    handle->uv = uv;
    handle->loop = loop;
    handle->uv->loop = uv_loop;
    handle->uv->u.reserved[0] = handle;
    handle->next = loop->handles;
    loop->handles = handle;
    return handle;
}

void uv_close(uv_handle_t *uv, uv_close_cb fn)
{
    struct handle *handle = handle_of(uv);

    handle->closing = true;
    handle->closed = fn;
    handle->due_ns = 0;
    if (handle->conn)
        net_close(handle->conn);
    handle->conn = NULL;
}

static bool close_some(struct loop *loop)
{
    bool any = false;

    for (struct handle **link = &loop->handles; *link;) {
        struct handle *handle = *link;

        if (!handle->closing) {
            link = &handle->next;
            continue;
        }
        *link = handle->next;
        if (handle->closed)
            handle->closed(handle->uv);
        free(handle);
        any = true;
        link = &loop->handles; /* the callback may have closed more */
    }
    return any;
}

/* ---- timers ---- */

int uv_timer_init(uv_loop_t *uv_loop, uv_timer_t *timer)
{
    (void)handle_make(uv_loop, timer);
    return 0;
}

int uv_timer_start(uv_timer_t *timer, uv_timer_cb fn, uint64_t after_ms, uint64_t repeat_ms)
{
    struct handle *handle = handle_of(timer);

    handle->fire = fn;
    handle->due_ns = host_now() + (int64_t)after_ms * SIM_MS;
    handle->repeat_ms = repeat_ms;
    return 0;
}

int uv_timer_stop(uv_timer_t *timer)
{
    handle_of(timer)->due_ns = 0;
    return 0;
}

void uv_update_time(uv_loop_t *loop)
{
    (void)loop;
}

uint64_t uv_hrtime(void)
{
    return (uint64_t)host_now();
}

/* Fire the timer that has been due for longest; false: none is. */
static bool fire_one(struct loop *loop)
{
    struct handle *first = NULL;

    for (struct handle *handle = loop->handles; handle; handle = handle->next)
        if (handle->due_ns && (!first || handle->due_ns < first->due_ns))
            first = handle;
    if (!first || first->due_ns > host_now())
        return false;
    first->due_ns = first->repeat_ms ? host_now() + (int64_t)first->repeat_ms * SIM_MS : 0;
    first->fire((uv_timer_t *)(void *)first->uv);
    return true;
}

static int64_t next_due(const struct loop *loop)
{
    int64_t due = SIM_NEVER;

    for (const struct handle *handle = loop->handles; handle; handle = handle->next)
        if (handle->due_ns && handle->due_ns < due)
            due = handle->due_ns;
    return due == SIM_NEVER ? due : sim_true_ns(sim_self->process->host, due) + 2;
}

/* ---- streams ---- */

int uv_tcp_init(uv_loop_t *uv_loop, uv_tcp_t *tcp)
{
    (void)handle_make(uv_loop, tcp);
    return 0;
}

int uv_pipe_init(uv_loop_t *uv_loop, uv_pipe_t *pipe, int ipc)
{
    (void)ipc;
    (void)handle_make(uv_loop, pipe);
    return 0;
}

int uv_tcp_open(uv_tcp_t *tcp, uv_os_sock_t fd)
{
    struct handle *handle = handle_of(tcp);

    handle->conn = libc_conn(fd);
    handle->conn->loop = handle->loop->fiber;
    return 0;
}

int uv_pipe_open(uv_pipe_t *pipe, uv_file fd)
{
    return uv_tcp_open((uv_tcp_t *)(void *)pipe, fd);
}

int uv_tcp_connect(uv_connect_t *connect, uv_tcp_t *tcp, const struct sockaddr *address, uv_connect_cb fn)
{
    struct handle *handle = handle_of(tcp);

    (void)address;
    handle->connect = connect;
    handle->connected = fn;
    net_connect(handle->conn);
    return 0;
}

void uv_pipe_connect(uv_connect_t *connect, uv_pipe_t *pipe, const char *name, uv_connect_cb fn)
{
    (void)name;
    (void)uv_tcp_connect(connect, (uv_tcp_t *)(void *)pipe, NULL, fn);
}

int uv_tcp_nodelay(uv_tcp_t *tcp, int on)
{
    (void)tcp;
    (void)on;
    return 0;
}

int uv_tcp_keepalive(uv_tcp_t *tcp, int on, unsigned delay)
{
    (void)tcp;
    (void)on;
    (void)delay;
    return 0;
}

int uv_read_start(uv_stream_t *stream, uv_alloc_cb alloc, uv_read_cb read)
{
    struct handle *handle = handle_of(stream);

    handle->alloc = alloc;
    handle->read = read;
    return 0;
}

size_t uv_stream_get_write_queue_size(const uv_stream_t *stream)
{
    (void)stream;
    return 0;
}

uv_buf_t uv_buf_init(char *base, unsigned size)
{
    return (uv_buf_t){.base = base, .len = size};
}

int uv_write(uv_write_t *write, uv_stream_t *stream, const uv_buf_t *bufs, unsigned count, uv_write_cb fn)
{
    struct handle *handle = handle_of(stream);
    struct written *written = calloc(1, sizeof *written);

    (void)count;
    if (handle->conn)
        (void)net_send(handle->conn, bufs[0].base, bufs[0].len);
    *written = (struct written){handle->loop->written, write, fn};
    handle->loop->written = written;
    return 0;
}

const char *uv_strerror(int error)
{
    (void)error;
    return "an error of the simulated network";
}

static bool tell_written(struct loop *loop)
{
    struct written *written = loop->written;

    if (!written)
        return false;
    loop->written = written->next;
    written->fn(written->write, 0);
    free(written);
    return true;
}

/* Has this stream something to tell?  Told, if so. */
static bool tell_stream(struct handle *handle)
{
    struct sim_conn *conn = handle->conn;
    uv_stream_t *stream = (uv_stream_t *)(void *)handle->uv;
    uv_buf_t buf = {0};

    if (handle->connect && (conn->state == NET_OPEN || conn->state == NET_ENDED)) {
        uv_connect_t *connect = handle->connect;

        handle->connect = NULL;
        handle->connected(connect, conn->state == NET_OPEN ? 0 : UV_ECONNREFUSED);
        return true;
    }
    if (!handle->read || (!conn->in_size && (conn->state != NET_ENDED || handle->ended)))
        return false;
    if (!conn->in_size) {
        handle->ended = true;
        handle->read(stream, conn->error ? UV_ECONNRESET : UV_EOF, &buf);
        return true;
    }
    handle->alloc(handle->uv, 65536, &buf);
    if (!buf.base) {
        conn->in_size = 0;
        return true;
    }
    handle->read(stream, (ssize_t)net_take(conn, buf.base, buf.len), &buf);
    return true;
}

static bool tell_one(struct loop *loop)
{
    for (struct handle *handle = loop->handles; handle; handle = handle->next)
        if (handle->conn && !handle->closing && tell_stream(handle))
            return true; /* the list may be another now */
    return false;
}

/* ---- the loop ---- */

static bool loop_turn(struct loop *loop)
{
    bool busy = close_some(loop);

    busy |= tell_written(loop);
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
    while (loop->handles || loop->written) {
        (void)tell_written(loop);
        (void)close_some(loop);
    }
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

void *loop_uv(struct loop *loop)
{
    return &loop->uv;
}

static void loop_timer_fired(uv_timer_t *uv)
{
    struct loop_timer *timer = uv->data;

    timer->fn(timer->arg);
}

struct loop_timer *loop_timer_open(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    struct loop_timer *timer = calloc(1, sizeof *timer);

    timer->fn = fn;
    timer->arg = arg;
    (void)uv_timer_init(&loop->uv, &timer->uv);
    timer->uv.data = timer;
    return timer;
}

void loop_timer_set(struct loop_timer *timer, uint64_t after_ms, uint64_t repeat_ms)
{
    (void)uv_timer_start(&timer->uv, loop_timer_fired, after_ms, repeat_ms);
}

void loop_timer_unset(struct loop_timer *timer)
{
    (void)uv_timer_stop(&timer->uv);
}

static void loop_timer_closed(uv_handle_t *uv)
{
    free(uv->data);
}

void loop_timer_close(struct loop_timer *timer)
{
    if (timer)
        uv_close((uv_handle_t *)&timer->uv, loop_timer_closed);
}

bool loop_guard(struct loop *loop, int fd)
{
    (void)loop;
    (void)fd;
    return true;
}

bool loop_unguard(struct loop *loop, int fd)
{
    (void)loop;
    (void)fd;
    return true;
}
