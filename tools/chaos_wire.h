/*
 * chaos_wire.h - one direction of a connection: what is on its way, and when it may arrive (chaos_wire.c).
 *
 * A connection (chaos_proxy.c) is two sides and two wires.  A wire reads from one side, keeps what it read until it is
 * due, and writes it to the other.  It never holds more than its limit: then it stops reading, and the sender feels
 * it.  An end and a reset travel on the wire like bytes, behind them.
 */
#ifndef TOOLS_CHAOS_WIRE_H
#define TOOLS_CHAOS_WIRE_H

#include "chaos.h"

#include <uv.h>

struct wire;

/* One end of a connection: a TCP or unix stream. */
struct side {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    struct wire *out, *in; /* the wire that reads from it; the one that writes to it */
    bool open;             /* the handle is in use; closing it once is enough */
};

struct wire_counts {
    uint64_t read, sent, lost; /* bytes: from its sender; to its receiver; swallowed by a fault or a dead receiver */
};

struct wire_events {
    void (*cut)(void *arg, bool reset);             /* the connection is to end now */
    void (*gone)(void *arg, struct side *side);     /* this side broke: reset by its peer, or cannot be written to */
    void (*finished)(void *arg, struct wire *wire); /* the end has arrived, or is known never to arrive */
};

struct chunk;

struct wire {
    struct fault fault;
    struct side *from, *to;
    const struct wire_events *events;
    void *arg;
    uv_timer_t timer;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct wire_counts counts;
    struct wire_counts *total; /* counted along: of all connections */
    struct chunk *first, *last;
    size_t held, limit; /* bytes of chunks, their heads included */
    size_t writing;     /* bytes of the first chunk that libuv has now; 0: none */
    uint64_t free_ns;   /* bandwidth: when the next byte may go */
    uint64_t random;
    uint64_t cut_ns; /* when a reset waits no longer */
    bool started, reading;
    bool cutting;  /* all that a fault lets through was sent: the connection is about to end */
    bool ended;    /* the sender's end or reset was read */
    bool done;     /* the end arrived, or never will */
    bool lost_any; /* bytes or the end were swallowed: the stream has a hole, so nothing may follow */
    bool stopped;
};

void wire_init(struct wire *wire, uv_loop_t *loop, struct side *from, struct side *to, size_t limit, uint64_t random,
               const struct wire_events *events, void *arg, struct wire_counts *total);
/* Both sides are connected: begin. */
void wire_start(struct wire *wire);
/* The faults were changed: act by them.  False: the stream has a hole and is to go on, which cannot be. */
bool wire_changed(struct wire *wire);
/* The sender is gone for good, its handle closed: that travels on as a reset. */
void wire_sender_gone(struct wire *wire);
/* The receiver is gone, its handle closed: what is on its way, and all that comes, is lost. */
void wire_receiver_gone(struct wire *wire);
/* No more reading, writing or waiting; the timer is closed with `closed`. */
void wire_stop(struct wire *wire, uv_close_cb closed);
/* Free what was on its way, when all handles are closed. */
void wire_fini(struct wire *wire);

#endif
