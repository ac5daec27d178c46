/*
 * net.c - the simulated network (net.h), and the servers' ends of its connections.
 *
 * A message is delayed by the run's latency, now and then by much more, by a slow host and by a cut: what was sent
 * into a cut arrives after it, unless the connection ends before.  Everything here runs on the scheduler's stack or is
 * called by a fiber, and never waits.
 */
#include "net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct net net;

struct net_chunk {
    struct net_chunk *next;
    int64_t arrives;
    size_t size;
    struct sim_op *op;
    char bytes[];
};

/* ---- delays ---- */

static int64_t net_delay(const struct sim_host *host)
{
    int64_t delay = net.latency_ns + sim_between(&net.random, 0, net.latency_ns);

    if (sim_chance(&net.random, net.spike_chance))
        delay += sim_between(&net.random, 0, 400 * SIM_MS);
    if (host->slow_until > sim_now)
        delay += sim_between(&net.random, 0, host->slow_ns);
    if (host->cut_until > sim_now + delay)
        delay = host->cut_until - sim_now + sim_between(&net.random, 0, 20 * SIM_MS);
    return delay;
}

static void append(char **bytes, size_t *size, size_t *room, const void *more, size_t more_size)
{
    if (*size + more_size > *room) {
        *room = 2 * (*size + more_size) + 256;
        *bytes = realloc(*bytes, *room + 1);
    }
    memcpy(*bytes + *size, more, more_size);
    *size += more_size;
    (*bytes)[*size] = '\0'; /* numbers are read up to it at most */
}

static void wake(struct sim_conn *conn)
{
    sim_wake_all(&conn->waiters);
    sim_wake(conn->loop);
}

static struct net_chunk *chunk_make(const void *bytes, size_t size, int64_t arrives)
{
    struct net_chunk *chunk = calloc(1, sizeof *chunk + size);

    chunk->arrives = arrives;
    chunk->size = size;
    if (size)
        memcpy(chunk->bytes, bytes, size);
    return chunk;
}

/* ---- to the client ---- */

static void arrive_client(void *arg, uint64_t number)
{
    struct sim_conn *conn = arg;
    struct net_chunk *chunk;

    (void)number;
    while ((chunk = conn->back_first) && chunk->arrives <= sim_now) {
        if (!(conn->back_first = chunk->next))
            conn->back_last = &conn->back_first;
        if (conn->state == NET_OPEN)
            append(&conn->in, &conn->in_size, &conn->in_room, chunk->bytes, chunk->size);
        free(chunk);
    }
    wake(conn);
}

static void send_back(struct sim_conn *conn, const void *bytes, size_t size)
{
    int64_t arrives = sim_now + net_delay(conn->process->host);

    if (conn->server_gone || conn->process->dead || size == 0)
        return;
    if (arrives < conn->back_time)
        arrives = conn->back_time;
    conn->back_time = arrives;
    *conn->back_last = chunk_make(bytes, size, arrives);
    conn->back_last = &(*conn->back_last)->next;
    sim_at(arrives, arrive_client, conn, 0);
}

static void ended(void *arg, uint64_t error)
{
    struct sim_conn *conn = arg;

    if (conn->state == NET_ENDED)
        return;
    conn->state = NET_ENDED;
    conn->error = (int)error;
    wake(conn);
}

void net_reset(struct sim_conn *conn, int error)
{
    if (conn->server_gone)
        return;
    conn->server_gone = true;
    if (conn->state == NET_OPEN)
        redis_drop_client(net.servers[conn->server].model, conn->id);
    sim_at(sim_now + net_delay(conn->process->host), ended, conn, (uint64_t)error);
}

void net_reset_all(const struct sim_host *host, int server)
{
    for (struct sim_conn *conn = net.conns; conn; conn = conn->next)
        if ((!host || conn->process->host == host) && (server < 0 || conn->server == (unsigned)server) &&
            conn->state != NET_ENDED && conn->state != NET_NEW)
            net_reset(conn, ECONNRESET);
}

/* ---- at the server ---- */

/* A number of RESP's: *ret_next is behind its line; false: not all there. */
static bool read_number(const char *bytes, size_t size, char kind, long *ret_number, size_t *ret_next)
{
    const char *end = size ? memchr(bytes, '\n', size) : NULL;

    if (!end || bytes[0] != kind)
        return false;
    *ret_number = strtol(bytes + 1, NULL, 10);
    *ret_next = (size_t)(end - bytes) + 1;
    return true;
}

#define ARGUMENTS_MOST 600

/* A command as people type it. */
static size_t read_inline(const char *bytes, size_t size, int *ret_argc, const char **argv, size_t *sizes)
{
    const char *end = memchr(bytes, '\r', size);

    if (!end || end + 1 == bytes + size)
        return 0;
    *ret_argc = 0;
    for (const char *at = bytes; at < end; at += sizes[(*ret_argc)++] + 1) {
        const char *space = memchr(at, ' ', (size_t)(end - at));

        argv[*ret_argc] = at;
        sizes[*ret_argc] = (size_t)((space ? space : end) - at);
    }
    return (size_t)(end - bytes) + 2;
}

/* One whole command out of what was heard; its size, or 0. */
static size_t read_command(const char *bytes, size_t size, int *ret_argc, const char **argv, size_t *sizes)
{
    size_t at, next;
    long count, length;

    if (size && bytes[0] != '*')
        return read_inline(bytes, size, ret_argc, argv, sizes);
    if (!read_number(bytes, size, '*', &count, &at) || count < 1 || count > ARGUMENTS_MOST)
        return 0;
    for (long i = 0; i < count; i++) {
        if (!read_number(bytes + at, size - at, '$', &length, &next) || at + next + (size_t)length + 2 > size)
            return 0;
        argv[i] = bytes + at + next;
        sizes[i] = (size_t)length;
        at += next + (size_t)length + 2;
    }
    *ret_argc = (int)count;
    return at;
}

static void waited(void *arg, uint64_t give_up)
{
    struct sim_conn *conn = arg;
    struct redis_reply *reply = conn->held;
    struct redis_server *model = net.servers[conn->server].model;

    if (!reply || conn->server_gone)
        return;
    if (redis_acked(model, reply->wait_offset) < reply->wait_replicas && sim_now < (int64_t)give_up) {
        sim_at(sim_now + SIM_MS, waited, conn, give_up);
        return;
    }
    redis_wait_reply(model, reply->wait_offset, reply);
    conn->held = NULL;
    send_back(conn, reply->bytes, reply->size);
    redis_reply_free(reply);
    free(reply);
}

static void hold(struct sim_conn *conn, const struct redis_reply *reply)
{
    conn->held = malloc(sizeof *reply);
    *conn->held = *reply;
    sim_at(sim_now, waited, conn,
           (uint64_t)(reply->wait_ms > 0 ? sim_now + reply->wait_ms * SIM_MS : sim_now + 3600 * SIM_S));
}

static void run_commands(struct sim_conn *conn)
{
    struct net_server *server = &net.servers[conn->server];
    static const char *argv[ARGUMENTS_MOST];
    static size_t sizes[ARGUMENTS_MOST];
    size_t at = 0, size;
    int argc;

    while (!conn->server_gone && !conn->held &&
           (size = read_command(conn->heard + at, conn->heard_size - at, &argc, argv, sizes)) > 0) {
        struct redis_reply reply = {0};

        redis_execute(server->model, conn->id, argc, argv, sizes, &reply);
        if (net.ran)
            net.ran(conn->server, conn->op, argc, argv, sizes, &reply);
        at += size;
        if (reply.waits) {
            hold(conn, &reply);
            break;
        }
        if (sim_chance(&net.random, net.kill_chance))
            net_reset(conn, ECONNRESET); /* it has run, and nobody hears of it */
        else
            send_back(conn, reply.bytes, reply.size);
        redis_reply_free(&reply);
    }
    memmove(conn->heard, conn->heard + at, conn->heard_size - at);
    conn->heard_size -= at;
    conn->heard[conn->heard_size] = '\0';
}

static void arrive_server(void *arg, uint64_t number)
{
    struct sim_conn *conn = arg;
    struct net_server *server = &net.servers[conn->server];
    struct net_chunk *chunk;

    (void)number;
    if (server->paused_until > sim_now) {
        sim_at(server->paused_until, arrive_server, conn, 0);
        return;
    }
    while ((chunk = conn->out_first) && chunk->arrives <= sim_now) {
        if (!(conn->out_first = chunk->next))
            conn->out_last = &conn->out_first;
        if (!conn->server_gone && !server->down) {
            append(&conn->heard, &conn->heard_size, &conn->heard_room, chunk->bytes, chunk->size);
            conn->op = chunk->op;
            run_commands(conn);
        }
        free(chunk);
    }
}

bool net_send(struct sim_conn *conn, const void *bytes, size_t size)
{
    int64_t arrives = sim_now + net_delay(conn->process->host);

    if (conn->state != NET_OPEN)
        return false;
    if (arrives < conn->out_time)
        arrives = conn->out_time;
    conn->out_time = arrives;
    *conn->out_last = chunk_make(bytes, size, arrives);
    (*conn->out_last)->op = sim_self ? sim_self->op : NULL;
    conn->out_last = &(*conn->out_last)->next;
    sim_at(arrives, arrive_server, conn, 0);
    if (sim_chance(&net.random, net.kill_chance))
        net_reset(conn, ECONNRESET);
    return true;
}

/* ---- beginning and end ---- */

static void connected(void *arg, uint64_t number)
{
    struct sim_conn *conn = arg;

    (void)number;
    if (conn->state != NET_CONNECTING || conn->server_gone)
        return;
    if (net.servers[conn->server].down) {
        ended(conn, ECONNREFUSED);
        return;
    }
    conn->state = NET_OPEN;
    wake(conn);
}

struct sim_conn *net_new(struct sim_process *process)
{
    struct sim_conn *conn = calloc(1, sizeof *conn);

    conn->id = ++net.next_id;
    conn->process = process;
    conn->out_last = &conn->out_first;
    conn->back_last = &conn->back_first;
    conn->process_next = process->conns;
    process->conns = conn;
    conn->next = net.conns;
    net.conns = conn;
    return conn;
}

void net_connect(struct sim_conn *conn)
{
    if (conn->state != NET_NEW)
        return;
    conn->state = NET_CONNECTING;
    conn->server = conn->process->host->route;
    sim_at(sim_now + net_delay(conn->process->host) + net_delay(conn->process->host), connected, conn, 0);
}

size_t net_take(struct sim_conn *conn, void *bytes, size_t room)
{
    size_t size = conn->in_size < room ? conn->in_size : room;

    if (size)
        memcpy(bytes, conn->in, size);
    memmove(conn->in, conn->in + size, conn->in_size - size);
    conn->in_size -= size;
    return size;
}

static void closed(void *arg, uint64_t number)
{
    struct sim_conn *conn = arg;

    (void)number;
    if (conn->server_gone)
        return;
    conn->server_gone = true;
    redis_drop_client(net.servers[conn->server].model, conn->id);
}

/* What is on its way arrives all the same, and then the end. */
static void let_go(struct sim_conn *conn)
{
    int64_t arrives = sim_now + net_delay(conn->process->host);

    if (conn->state == NET_OPEN)
        sim_at(arrives > conn->out_time ? arrives + 1 : conn->out_time + 1, closed, conn, 0);
    conn->state = NET_ENDED;
    conn->in_size = 0;
}

void net_close(struct sim_conn *conn)
{
    let_go(conn);
    conn->loop = NULL;
}

void net_forget(struct sim_process *process)
{
    for (struct sim_conn *conn = process->conns; conn; conn = conn->process_next)
        let_go(conn);
}

/* ---- the servers' side of redis.h ---- */

static int64_t hook_now(void *arg)
{
    (void)arg;
    return SIM_REAL_US + sim_now / 1000;
}

static struct sim_conn *conn_of(const struct redis_server *server, uint64_t client)
{
    for (struct sim_conn *conn = net.conns; conn; conn = conn->next)
        if (conn->id == client && net.servers[conn->server].model == server)
            return conn;
    return NULL;
}

static void hook_deliver(void *arg, struct redis_server *server, uint64_t client, const void *bytes, size_t size)
{
    struct sim_conn *conn = conn_of(server, client);

    (void)arg;
    if (!conn || sim_chance(&net.random, net.lose_chance))
        return;
    send_back(conn, bytes, size);
    if (sim_chance(&net.random, net.duplicate_chance))
        send_back(conn, bytes, size);
}

static void hang_up_later(void *arg, uint64_t number)
{
    (void)number;
    net_reset(arg, 0);
}

static void hook_hang_up(void *arg, struct redis_server *server, uint64_t client)
{
    struct sim_conn *conn = conn_of(server, client);

    (void)arg;
    if (conn)
        sim_at(sim_now, hang_up_later, conn, 0);
}

void net_start(uint64_t seed, struct redis_lua *lua, net_ran_fn ran)
{
    static const struct redis_hooks hooks = {.now_us = hook_now, .deliver = hook_deliver, .hang_up = hook_hang_up};

    net = (struct net){.random = sim_stream(seed, 3), .ran = ran, .latency_ns = SIM_MS / 5};
    net.world = redis_open(lua, &hooks, seed);
    for (unsigned i = 0; i < NET_SERVERS; i++)
        net.servers[i].model = redis_add(net.world, i);
    redis_attach(net.servers[1].model, net.servers[0].model);
}
