/*
 * chaos_proxy.c - listening, connections, whom a command concerns, what there is to tell (chaos.h).
 *
 * A connection's faults are copied from those for new connections when it is accepted, then what was asked for "the
 * next N" is done to it; from then on only commands change them.  So every connection carries its own faults, and
 * whoever looks at one sees all that is wrong with it.
 */
#include "chaos_wire.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BACKLOG    1024
#define NEXT_MOST  64u      /* commands waiting for "next" connections */
#define DRAIN_MOST 1048576u /* bytes that a peer has said, when its connection is ended in an orderly way */

struct connection {
    struct proxy *proxy;
    struct connection *next, *previous;
    uint64_t id;
    struct side sides[WAYS]; /* where each wire begins: WAY_UP's the client, WAY_DOWN's the server */
    struct wire wires[WAYS];
    uv_connect_t connect;
    unsigned handles; /* not closed yet */
    bool connected, closing;
};

struct listener {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    struct proxy *proxy;
};

struct waiting { /* a command for the next connections */
    struct command command;
    uint64_t left;
};

struct proxy {
    struct proxy_options options;
    struct address_socket socket;
    struct listener *listener; /* NULL: connections are refused */
    struct connection *connections;
    struct fault faults[WAYS]; /* of new connections */
    struct waiting next[NEXT_MOST];
    unsigned next_count;
    uint64_t count, accepted, unreachable, cut;
    struct wire_counts totals[WAYS];
    bool full; /* somebody waits to be accepted */
};

static void proxy_accept(struct proxy *proxy);

/* ---- the end of a connection ---- */

static void connection_free(struct connection *connection)
{
    struct proxy *proxy = connection->proxy;

    if (connection->previous)
        connection->previous->next = connection->next;
    else
        proxy->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    for (int way = 0; way < WAYS; way++)
        wire_fini(&connection->wires[way]);
    free(connection);
    proxy->count--;
    if (proxy->full)
        proxy_accept(proxy);
}

static void on_closed(struct connection *connection)
{
    if (--connection->handles == 0)
        connection_free(connection);
}

static void on_side_closed(uv_handle_t *handle)
{
    on_closed(((struct side *)handle->data)->out->arg);
}

static void on_timer_closed(uv_handle_t *handle)
{
    on_closed(((struct wire *)handle->data)->arg);
}

/* The next close is a reset: TCP sends one when it may not linger; a unix socket just closes. */
static void side_reset(struct side *side)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    uv_os_fd_t fd;

    if (uv_fileno(&side->uv.handle, &fd) == 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

/* The next close is an orderly one: the end goes first, and what the peer had said is read, since the kernel sends a
 * reset for what nobody has. */
static void side_end(struct side *side)
{
    char bytes[16384];
    ssize_t size;
    uv_os_fd_t fd;

    if (uv_fileno(&side->uv.handle, &fd) != 0)
        return;
    (void)shutdown(fd, SHUT_WR);
    for (size_t drained = 0; drained < DRAIN_MOST; drained += (size_t)size)
        if ((size = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) <= 0)
            break;
}

static void side_close(struct side *side)
{
    side->open = false;
    uv_close(&side->uv.handle, on_side_closed);
}

static void connection_close(struct connection *connection, bool reset)
{
    if (connection->closing)
        return;
    connection->closing = true;
    for (int way = 0; way < WAYS; way++)
        wire_stop(&connection->wires[way], on_timer_closed);
    for (int way = 0; way < WAYS; way++) {
        struct side *side = &connection->sides[way];

        if (!side->open)
            continue;
        if (reset)
            side_reset(side);
        else
            side_end(side);
        side_close(side);
    }
}

/* ---- what its wires tell ---- */

/* A reset has come through, or a fault's bytes have been let through. */
static void on_cut(void *arg, bool reset)
{
    struct connection *connection = arg;

    for (int way = 0; way < WAYS; way++)
        if (connection->wires[way].fault.cut_after == 0 && !connection->closing) {
            connection->proxy->cut++;
            break;
        }
    connection_close(connection, reset);
}

static void on_gone(void *arg, struct side *side)
{
    struct connection *connection = arg;

    if (connection->closing || !side->open)
        return;
    side_close(side);
    wire_receiver_gone(side->in);
    if (!connection->closing)
        wire_sender_gone(side->out);
}

static void on_finished(void *arg, struct wire *wire)
{
    struct connection *connection = arg;

    (void)wire;
    if (connection->wires[WAY_UP].done && connection->wires[WAY_DOWN].done)
        connection_close(connection, false);
}

static const struct wire_events wire_events = {on_cut, on_gone, on_finished};

/* ---- the beginning of a connection ---- */

/* Its faults were changed. */
static void connection_changed(struct connection *connection)
{
    for (int way = 0; way < WAYS; way++)
        if (connection->wires[way].fault.cut_after == 0) {
            on_cut(connection, connection->wires[way].fault.cut_resets);
            return;
        }
    for (int way = 0; way < WAYS && !connection->closing; way++)
        if (!wire_changed(&connection->wires[way]))
            connection_close(connection, true);
}

static void connection_apply(struct connection *connection, const struct command *command)
{
    struct fault faults[WAYS] = {connection->wires[WAY_UP].fault, connection->wires[WAY_DOWN].fault};

    command_apply(command, faults);
    for (int way = 0; way < WAYS; way++)
        connection->wires[way].fault = faults[way];
}

static void on_connect(uv_connect_t *request, int status)
{
    struct connection *connection = request->data;

    if (connection->closing)
        return;
    if (status != 0) {
        connection->proxy->unreachable++;
        connection_close(connection, true);
        return;
    }
    connection->connected = true;
    for (int way = 0; way < WAYS && !connection->closing; way++)
        wire_start(&connection->wires[way]);
}

static void connection_connect(struct connection *connection)
{
    const struct address *target = &connection->proxy->options.target;
    struct side *server = &connection->sides[WAY_DOWN];

    connection->connect.data = connection;
    if (address_is_unix(target))
        uv_pipe_connect(&connection->connect, &server->uv.pipe, target->at.un.sun_path, on_connect);
    else if (uv_tcp_connect(&connection->connect, &server->uv.tcp, &target->at.any, on_connect) != 0)
        on_connect(&connection->connect, UV_ECONNREFUSED);
}

static void side_init(struct connection *connection, struct side *side, const struct address *address)
{
    uv_loop_t *loop = connection->proxy->options.loop;

    if (address_is_unix(address))
        (void)uv_pipe_init(loop, &side->uv.pipe, 0);
    else {
        (void)uv_tcp_init(loop, &side->uv.tcp);
        (void)uv_tcp_nodelay(&side->uv.tcp, 1); /* for a handle that has no socket yet: when it gets one */
    }
    side->uv.handle.data = side;
    side->open = true;
    connection->handles++;
}

/* A connection with the faults of new ones; NULL: no memory. */
static struct connection *connection_open(struct proxy *proxy)
{
    struct connection *connection = calloc(1, sizeof *connection);
    struct side *sides;

    if (!connection)
        return NULL;
    sides = connection->sides;
    connection->proxy = proxy;
    connection->id = ++proxy->accepted;
    side_init(connection, &sides[WAY_UP], &proxy->socket.address);
    side_init(connection, &sides[WAY_DOWN], &proxy->options.target);
    for (int way = 0; way < WAYS; way++) {
        uint64_t seed = (proxy->options.seed ^ connection->id << 1 ^ (uint64_t)way) * 0x9e3779b97f4a7c15u;

        wire_init(&connection->wires[way], proxy->options.loop, &sides[way], &sides[!way], proxy->options.buffer, seed,
                  &wire_events, connection, &proxy->totals[way]);
        connection->wires[way].fault = proxy->faults[way];
        connection->handles++;
    }
    connection->next = proxy->connections;
    if (connection->next)
        connection->next->previous = connection;
    proxy->connections = connection;
    proxy->count++;
    return connection;
}

/* Do to it what was asked for the next connections. */
static void connection_take_waiting(struct connection *connection)
{
    struct proxy *proxy = connection->proxy;
    unsigned kept = 0;

    for (unsigned i = 0; i < proxy->next_count; i++) {
        connection_apply(connection, &proxy->next[i].command);
        if (--proxy->next[i].left)
            proxy->next[kept++] = proxy->next[i];
    }
    proxy->next_count = kept;
}

/* Take whoever waits, if there is room; libuv accepts nobody else before. */
static void proxy_accept(struct proxy *proxy)
{
    struct connection *connection;

    if (!proxy->listener)
        return;
    proxy->full = proxy->count >= proxy->options.most || !(connection = connection_open(proxy));
    if (proxy->full)
        return;
    if (uv_accept(&proxy->listener->uv.stream, &connection->sides[WAY_UP].uv.stream) != 0) {
        connection_close(connection, true);
        return;
    }
    connection_take_waiting(connection);
    connection_changed(connection);
    if (!connection->closing)
        connection_connect(connection);
}

/* ---- listening ---- */

static void on_connection(uv_stream_t *stream, int status)
{
    struct listener *listener = stream->data;

    if (status == 0 && listener == listener->proxy->listener)
        proxy_accept(listener->proxy);
}

static void on_listener_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void proxy_refuse(struct proxy *proxy)
{
    if (proxy->listener)
        uv_close(&proxy->listener->uv.handle, on_listener_closed);
    proxy->listener = NULL;
    proxy->full = false; /* whoever waited is refused as well */
}

/* False: why. */
static bool proxy_listen(struct proxy *proxy, char *why)
{
    struct address_socket *socket = &proxy->socket;
    struct listener *listener;
    char text[ADDRESS_TEXT];
    int rc;

    if (proxy->listener)
        return true;
    if (!address_bind(socket, why))
        return false;
    if (!(listener = calloc(1, sizeof *listener))) {
        close(socket->fd);
        snprintf(why, CHAOS_WHY_MOST, "no memory");
        return false;
    }
    listener->proxy = proxy;
    listener->uv.handle.data = NULL;
    if (address_is_unix(&socket->address)) {
        (void)uv_pipe_init(proxy->options.loop, &listener->uv.pipe, 0);
        rc = uv_pipe_open(&listener->uv.pipe, socket->fd);
    } else {
        (void)uv_tcp_init(proxy->options.loop, &listener->uv.tcp);
        rc = uv_tcp_open(&listener->uv.tcp, socket->fd);
    }
    if (rc != 0)
        close(socket->fd);
    socket->fd = -1; /* the handle's */
    listener->uv.handle.data = listener;
    proxy->listener = listener;
    if (rc == 0 && (rc = uv_listen(&listener->uv.stream, BACKLOG, on_connection)) == 0)
        return true;
    snprintf(why, CHAOS_WHY_MOST, "cannot listen at %s: %s", address_text(&socket->address, text), uv_strerror(rc));
    proxy_refuse(proxy);
    return false;
}

/* ---- what there is to tell ---- */

static void counts_json(struct json *json, const struct wire_counts *counts, uint64_t held)
{
    json_uint(json, "read", counts->read);
    json_uint(json, "sent", counts->sent);
    json_uint(json, "lost", counts->lost);
    json_uint(json, "held", held);
}

static void stat_json(struct json *json, const struct proxy *proxy)
{
    uint64_t held[WAYS] = {0};
    char text[ADDRESS_TEXT];

    for (const struct connection *connection = proxy->connections; connection; connection = connection->next)
        for (int way = 0; way < WAYS; way++)
            held[way] += connection->wires[way].held;
    json_text(json, "listen", address_text(&proxy->socket.address, text));
    json_text(json, "to", address_text(&proxy->options.target, text));
    json_uint(json, "seed", proxy->options.seed);
    json_bool(json, "accepting", proxy->listener != NULL);
    json_uint(json, "connections", proxy->count);
    json_uint(json, "accepted", proxy->accepted);
    json_uint(json, "unreachable", proxy->unreachable);
    json_uint(json, "cut", proxy->cut);
    for (int way = 0; way < WAYS; way++) {
        json_open(json, way_names[way], '{');
        counts_json(json, &proxy->totals[way], held[way]);
        fault_json(json, "faults", &proxy->faults[way]);
        json_close(json, '}');
    }
    json_open(json, "next", '[');
    for (unsigned i = 0; i < proxy->next_count; i++) {
        json_open(json, NULL, '{');
        json_text(json, "command", proxy->next[i].command.text);
        json_uint(json, "left", proxy->next[i].left);
        json_close(json, '}');
    }
    json_close(json, ']');
}

/* The address by which a TCP server knows the connection; a unix socket has none. */
static void seen_as_json(struct json *json, const struct connection *connection)
{
    const struct side *server = &connection->sides[WAY_DOWN];
    struct address address = {.size = sizeof address.at};
    char text[ADDRESS_TEXT];
    int size = (int)sizeof address.at;

    if (server->open && connection->connected && !address_is_unix(&connection->proxy->options.target) &&
        uv_tcp_getsockname(&server->uv.tcp, &address.at.any, &size) == 0)
        json_text(json, "seen_as", address_text(&address, text));
}

static void list_json(struct json *json, const struct proxy *proxy)
{
    json_open(json, "connections", '[');
    for (const struct connection *connection = proxy->connections; connection; connection = connection->next) {
        if (connection->closing)
            continue;
        json_open(json, NULL, '{');
        json_uint(json, "id", connection->id);
        seen_as_json(json, connection);
        for (int way = 0; way < WAYS; way++) {
            const struct wire *wire = &connection->wires[way];

            json_open(json, way_names[way], '{');
            counts_json(json, &wire->counts, wire->held);
            json_bool(json, "open", connection->sides[way].open);
            fault_json(json, "faults", &wire->fault);
            json_close(json, '}');
        }
        json_close(json, '}');
    }
    json_close(json, ']');
}

/* ---- commands ---- */

/* A line; the caller's to free.  NULL: no memory. */
__attribute__((format(printf, 1, 2))) static char *answer(const char *format, ...)
{
    char *line;
    va_list args;
    int size;

    va_start(args, format);
    size = vasprintf(&line, format, args);
    va_end(args);
    return size < 0 ? NULL : line;
}

static char *answer_json(const struct proxy *proxy, void (*tell)(struct json *json, const struct proxy *proxy))
{
    char *text = NULL;
    size_t size = 0;
    struct json json = {.out = open_memstream(&text, &size)};

    if (!json.out)
        return NULL;
    fputs("OK ", json.out);
    json_open(&json, NULL, '{');
    tell(&json, proxy);
    json_close(&json, '}');
    if (fclose(json.out) != 0) {
        free(text);
        return NULL;
    }
    text[size - 1] = '\0'; /* the newline is put by whoever sends the line */
    return text;
}

/* Every fault of everybody is to end, for those to come as well. */
static bool proxy_clear(struct proxy *proxy, char *why)
{
    proxy->next_count = 0;
    return proxy_listen(proxy, why);
}

static char *proxy_fault(struct proxy *proxy, const struct command *command)
{
    bool everybody = command->which == WHICH_ALL || command->which == WHICH_OLD, found = false;
    char why[CHAOS_WHY_MOST];
    uint64_t changed = 0;

    if (command->which == WHICH_NEXT && proxy->next_count == NEXT_MOST)
        return answer("ERR %u commands wait for next connections already: say clear first", NEXT_MOST);
    if (command->which == WHICH_NEXT)
        proxy->next[proxy->next_count++] = (struct waiting){*command, command->number};
    if (command->which == WHICH_ALL || command->which == WHICH_NEW)
        command_apply(command, proxy->faults);
    for (struct connection *connection = proxy->connections; connection; connection = connection->next) {
        if (connection->closing || !(everybody || (command->which == WHICH_CONN && connection->id == command->number)))
            continue;
        found = true;
        changed++;
        connection_apply(connection, command);
        connection_changed(connection);
    }
    if (command->which == WHICH_CONN && !found)
        return answer("ERR there is no connection %" PRIu64 ": see list for those that there are", command->number);
    if (command->verb == VERB_CLEAR && command->which == WHICH_ALL && command->ways[WAY_UP] &&
        command->ways[WAY_DOWN] && !proxy_clear(proxy, why))
        return answer("ERR %s", why);
    if (command->which == WHICH_NEXT)
        return answer("OK the next %" PRIu64, command->number);
    return answer("OK %" PRIu64 " changed%s", changed,
                  command->which == WHICH_ALL || command->which == WHICH_NEW ? ", and those to come" : "");
}

char *proxy_command(struct proxy *proxy, const char *line, bool *ret_quit)
{
    struct command command;
    char why[CHAOS_WHY_MOST];

    *ret_quit = false;
    if (!command_parse(line, &command, why))
        return answer("ERR %s", why);
    switch (command.verb) {
    case VERB_STAT:
        return answer_json(proxy, stat_json);
    case VERB_LIST:
        return answer_json(proxy, list_json);
    case VERB_HELP:
        return answer("OK %s", command_help());
    case VERB_QUIT:
        *ret_quit = true;
        return answer("OK");
    case VERB_REFUSE:
        proxy_refuse(proxy);
        return answer("OK");
    case VERB_ACCEPT:
        return proxy_listen(proxy, why) ? answer("OK") : answer("ERR %s", why);
    default:
        return proxy_fault(proxy, &command);
    }
}

/* ---- open and close ---- */

struct proxy *proxy_open(const struct proxy_options *options, char why[CHAOS_WHY_MOST])
{
    struct proxy *proxy = calloc(1, sizeof *proxy);

    if (!proxy) {
        snprintf(why, CHAOS_WHY_MOST, "no memory");
        return NULL;
    }
    proxy->options = *options;
    proxy->socket = (struct address_socket){.address = options->listen, .fd = -1, .holder = -1};
    for (int way = 0; way < WAYS; way++)
        fault_init(&proxy->faults[way]);
    if (proxy_listen(proxy, why))
        return proxy;
    proxy_stop(proxy);
    (void)uv_run(options->loop, UV_RUN_NOWAIT); /* handles close in the loop's turn */
    proxy_close(proxy);
    return NULL;
}

const struct address *proxy_address(const struct proxy *proxy)
{
    return &proxy->socket.address;
}

void proxy_stop(struct proxy *proxy)
{
    proxy_refuse(proxy);
    for (struct connection *connection = proxy->connections; connection; connection = connection->next)
        connection_close(connection, false);
    address_release(&proxy->socket);
}

void proxy_close(struct proxy *proxy)
{
    free(proxy);
}
