/*
 * chaos_wire.c - one direction of a connection (chaos_wire.h).
 *
 * All that is read goes into a queue of chunks, each with the time at which it is due, and wire_pump alone takes from
 * it.  With no fault at all a chunk is due when it is read, so the plain way and the faulty ways are one.
 *
 * Times are uv_hrtime()'s nanoseconds: libuv's timers count in milliseconds and may ring early by part of one, which
 * wire_pump notices, so that a latency is never shorter than was asked for.
 */
#include "chaos_wire.h"

#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define READ_MOST    65536u
#define NS_PER_MS    UINT64_C(1000000)
#define NS_PER_S     UINT64_C(1000000000)
#define CATCH_UP_NS  (20 * NS_PER_MS) /* of bandwidth that may be made up for when a timer rang late */
#define SLICES_PER_S 100u             /* a limited wire sends in pieces of so many a second */

enum chunk_kind { CHUNK_DATA, CHUNK_END, CHUNK_RESET };

struct chunk {
    struct chunk *next;
    uint64_t due_ns;
    size_t size, sent;
    enum chunk_kind kind;
    char data[];
};

static void wire_pump(struct wire *wire);

/* ---- the queue ---- */

/* Steele, Lea and Flood's SplitMix64. */
static uint64_t wire_random(struct wire *wire)
{
    uint64_t z = (wire->random += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* When what is read now is due.  It may be before what was read earlier: it waits behind that, nothing overtakes. */
static uint64_t wire_due_ns(struct wire *wire)
{
    const struct fault *fault = &wire->fault;
    uint64_t due_ns = uv_hrtime() + fault->latency_ms * NS_PER_MS;

    if (fault->jitter_ms)
        due_ns += wire_random(wire) % (fault->jitter_ms * NS_PER_MS + 1);
    return due_ns;
}

/* False: no memory. */
static bool wire_push(struct wire *wire, enum chunk_kind kind, const char *data, size_t size)
{
    struct chunk *chunk = malloc(sizeof *chunk + size);

    if (!chunk)
        return false;
    *chunk = (struct chunk){.due_ns = wire_due_ns(wire), .size = size, .kind = kind};
    if (size)
        memcpy(chunk->data, data, size);
    if (wire->last)
        wire->last->next = chunk;
    else
        wire->first = chunk;
    wire->last = chunk;
    wire->held += sizeof *chunk + size;
    return true;
}

static void wire_pop(struct wire *wire)
{
    struct chunk *chunk = wire->first;

    wire->first = chunk->next;
    if (!wire->first)
        wire->last = NULL;
    wire->held -= sizeof *chunk + chunk->size;
    free(chunk);
}

static void wire_lose(struct wire *wire, size_t size)
{
    wire->counts.lost += size;
    wire->total->lost += size;
    wire->lost_any = true;
}

static void wire_finish(struct wire *wire)
{
    if (wire->done)
        return;
    wire->done = true;
    wire->events->finished(wire->arg, wire);
}

/* Everything that is on its way gets lost, but for what libuv is writing just now. */
static void wire_swallow(struct wire *wire)
{
    struct chunk *writing = wire->writing ? wire->first : NULL;

    if (writing) { /* it is the first, and stays; of it, what libuv does not have yet is lost */
        wire_lose(wire, writing->size - writing->sent - wire->writing);
        wire->held -= writing->size - writing->sent - wire->writing;
        writing->size = writing->sent + wire->writing;
        wire->first = writing->next;
    }
    while (wire->first) {
        wire_lose(wire, wire->first->size - wire->first->sent);
        wire_pop(wire);
    }
    if (writing) {
        writing->next = NULL;
        wire->first = wire->last = writing;
    }
}

/* ---- reading ---- */

static bool wire_wants_to_read(const struct wire *wire)
{
    return wire->started && !wire->stopped && !wire->cutting && !wire->ended && wire->from->open &&
           !wire->fault.paused && wire->held < wire->limit;
}

/* One buffer for all: libuv reads into it and hands it over at once. */
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    static char room[READ_MOST];
    const struct wire *wire = ((struct side *)handle->data)->out;
    size_t most = wire->held < wire->limit ? wire->limit - wire->held : 1;

    (void)suggested;
    *buf = uv_buf_init(room, most < sizeof room ? (unsigned)most : (unsigned)sizeof room);
}

static void on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buf);

static void wire_read_or_not(struct wire *wire)
{
    bool wants = wire_wants_to_read(wire);

    if (wants == wire->reading)
        return;
    wire->reading = wants;
    if (!wants)
        (void)uv_read_stop(&wire->from->uv.stream);
    else if (uv_read_start(&wire->from->uv.stream, on_alloc, on_read) != 0) {
        wire->reading = false;
        wire->events->gone(wire->arg, wire->from);
    }
}

/* The sender has said all. */
static void wire_take_end(struct wire *wire)
{
    wire->ended = true;
    wire_read_or_not(wire);
    if (wire->fault.half_open || !wire->to->open) {
        wire_lose(wire, 0);
        wire_finish(wire);
    } else if (wire_push(wire, CHUNK_END, NULL, 0)) {
        wire_pump(wire);
    } else {
        wire->events->cut(wire->arg, true);
    }
}

static void on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buf)
{
    struct side *side = stream->data;
    struct wire *wire = side->out;

    if (size == 0)
        return;
    if (size == UV_EOF) {
        wire_take_end(wire);
        return;
    }
    if (size < 0) {
        wire->events->gone(wire->arg, side);
        return;
    }
    wire->counts.read += (uint64_t)size;
    wire->total->read += (uint64_t)size;
    if (wire->fault.half_open || !wire->to->open) {
        wire_lose(wire, (size_t)size);
    } else if (wire_push(wire, CHUNK_DATA, buf->base, (size_t)size)) {
        wire_pump(wire);
    } else {
        wire->events->cut(wire->arg, true);
    }
}

/* ---- writing ---- */

static void on_timer(uv_timer_t *timer)
{
    wire_pump(timer->data);
}

static void wire_wait(struct wire *wire, uint64_t ns)
{
    uv_update_time(wire->timer.loop);
    (void)uv_timer_start(&wire->timer, on_timer, (ns + NS_PER_MS - 1) / NS_PER_MS, 0);
}

static void on_shutdown(uv_shutdown_t *request, int status)
{
    struct wire *wire = request->data;

    (void)status; /* a receiver that is gone needs no end */
    if (!wire->stopped)
        wire_finish(wire);
}

/* Bytes that the kernel has taken and the receiver's has not. */
static bool wire_is_draining(const struct wire *wire)
{
    uv_os_fd_t fd;
    int size = 0;

    return wire->to->open && wire->to->uv.handle.type == UV_TCP && uv_fileno(&wire->to->uv.handle, &fd) == 0 &&
           ioctl(fd, SIOCOUTQ, &size) == 0 && size > 0;
}

static void on_cutting(uv_timer_t *timer)
{
    struct wire *wire = timer->data;

    if (uv_hrtime() < wire->cut_ns && wire_is_draining(wire))
        return;
    (void)uv_timer_stop(timer);
    wire->events->cut(wire->arg, wire->fault.cut_resets);
}

/* All bytes that a fault lets through have been written.  A reset would overtake those that the receiver has no room
 * for yet, so it waits for them, though not for ever. */
static void wire_cut(struct wire *wire)
{
    wire->cutting = true;
    wire->cut_ns = uv_hrtime() + (wire->fault.cut_resets ? NS_PER_S : 0);
    (void)uv_timer_start(&wire->timer, on_cutting, 0, 1);
}

static void on_write(uv_write_t *request, int status)
{
    struct wire *wire = request->data;
    struct chunk *chunk = wire->first;
    size_t size = wire->writing;

    wire->writing = 0;
    if (wire->stopped)
        return;
    if (status != 0) {
        wire_lose(wire, chunk->size - chunk->sent);
        wire_pop(wire);
        if (wire->to->open)
            wire->events->gone(wire->arg, wire->to);
        return;
    }
    chunk->sent += size;
    wire->counts.sent += size;
    wire->total->sent += size;
    if (wire->fault.cut_after != FAULT_NEVER)
        wire->fault.cut_after -= size < wire->fault.cut_after ? size : wire->fault.cut_after;
    if (chunk->sent == chunk->size)
        wire_pop(wire);
    if (wire->fault.cut_after == 0)
        wire_cut(wire);
    else
        wire_pump(wire);
}

/* How much of the first chunk may go now; 0: nothing before *ret_wait_ns have passed. */
static size_t wire_allowance(struct wire *wire, uint64_t *ret_wait_ns)
{
    const struct chunk *chunk = wire->first;
    const struct fault *fault = &wire->fault;
    uint64_t now_ns = uv_hrtime(), size = chunk->size - chunk->sent;

    if (chunk->due_ns > now_ns) {
        *ret_wait_ns = chunk->due_ns - now_ns;
        return 0;
    }
    if (fault->cut_after < size)
        size = fault->cut_after;
    if (!fault->bandwidth)
        return (size_t)size;
    if (wire->free_ns > now_ns) {
        *ret_wait_ns = wire->free_ns - now_ns;
        return 0;
    }
    if (size > fault->bandwidth / SLICES_PER_S + 1)
        size = fault->bandwidth / SLICES_PER_S + 1;
    if (wire->free_ns + CATCH_UP_NS < now_ns)
        wire->free_ns = now_ns - CATCH_UP_NS;
    wire->free_ns += size * NS_PER_S / fault->bandwidth;
    return (size_t)size;
}

/* An end or a reset has arrived. */
static void wire_deliver_mark(struct wire *wire)
{
    bool reset = wire->first->kind == CHUNK_RESET;

    wire_pop(wire);
    if (reset)
        wire->events->cut(wire->arg, true);
    else if (uv_shutdown(&wire->shutdown, &wire->to->uv.stream, on_shutdown) != 0)
        wire_finish(wire);
}

/* Send what is due, arm the timer for what is not yet, and read as long as there is room. */
static void wire_pump(struct wire *wire)
{
    struct chunk *chunk;
    uint64_t wait_ns = 0;
    uv_buf_t buf;
    size_t size;

    wire_read_or_not(wire);
    chunk = wire->first;
    if (!chunk || wire->writing || wire->stopped || wire->cutting || wire->fault.paused || !wire->started ||
        !wire->to->open)
        return;
    if (chunk->kind != CHUNK_DATA && chunk->due_ns <= uv_hrtime()) {
        wire_deliver_mark(wire);
        return;
    }
    size = wire_allowance(wire, &wait_ns);
    if (size == 0) {
        wire_wait(wire, wait_ns);
        return;
    }
    buf = uv_buf_init(chunk->data + chunk->sent, (unsigned)size);
    wire->writing = size;
    if (uv_write(&wire->write, &wire->to->uv.stream, &buf, 1, on_write) != 0) {
        wire->writing = 0;
        wire->events->gone(wire->arg, wire->to);
    }
}

/* ---- from birth to death ---- */

void wire_init(struct wire *wire, uv_loop_t *loop, struct side *from, struct side *to, size_t limit, uint64_t random,
               const struct wire_events *events, void *arg, struct wire_counts *total)
{
    *wire = (struct wire){
        .from = from, .to = to, .limit = limit, .random = random, .events = events, .arg = arg, .total = total};
    fault_init(&wire->fault);
    from->out = wire;
    to->in = wire;
    (void)uv_timer_init(loop, &wire->timer);
    wire->timer.data = wire->write.data = wire->shutdown.data = wire;
}

void wire_start(struct wire *wire)
{
    wire->started = true;
    wire_pump(wire);
}

bool wire_changed(struct wire *wire)
{
    if (wire->lost_any && !wire->fault.half_open && wire->to->open)
        return false;
    if (wire->fault.half_open) {
        wire_swallow(wire);
        if (wire->ended)
            wire_finish(wire);
    }
    wire->free_ns = 0;
    if (!wire->cutting)
        (void)uv_timer_stop(&wire->timer);
    wire_pump(wire);
    return true;
}

void wire_sender_gone(struct wire *wire)
{
    wire->ended = true; /* it may have said so before, and broken since: the receiver learns of both */
    wire->reading = false;
    if (wire->fault.half_open || !wire->to->open) {
        wire_lose(wire, 0);
        wire_finish(wire);
    } else if (wire_push(wire, CHUNK_RESET, NULL, 0)) {
        wire_pump(wire);
    } else {
        wire->events->cut(wire->arg, true);
    }
}

void wire_receiver_gone(struct wire *wire)
{
    wire_swallow(wire);
    if (wire->ended)
        wire_finish(wire);
    else
        wire_read_or_not(wire);
}

void wire_stop(struct wire *wire, uv_close_cb closed)
{
    wire->stopped = true;
    uv_close((uv_handle_t *)&wire->timer, closed);
}

void wire_fini(struct wire *wire)
{
    while (wire->first)
        wire_pop(wire);
}
