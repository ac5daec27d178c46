/* admin.c - commands about the server, the connection, channels (commands.h). */
#include <commands.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What INFO and HELLO name: the version that the model is held to. */
#define VERSION "7.0.15"

static void unknown_subcommand(struct call *call, const char *command)
{
    reply_error(call->reply, "ERR unknown subcommand '%.*s'. Try %s HELP.", call_width(call, 1), call->argv[1],
                command);
}

static void wrong_arity(struct call *call, const char *subcommand)
{
    reply_error(call->reply, "ERR wrong number of arguments for '%s|%s' command", call->command->name, subcommand);
}

void command_ping(struct call *call)
{
    if (call->argc > 2) {
        reply_error(call->reply, "ERR wrong number of arguments for 'ping' command");
    } else if (call->client && call->client->channels_count > 0) {
        reply_array(call->reply, 2);
        reply_text(call->reply, "pong");
        reply_bulk(call->reply, call->argc == 2 ? call->argv[1] : "", call->argc == 2 ? call->sizes[1] : 0);
    } else if (call->argc == 2) {
        reply_bulk(call->reply, call->argv[1], call->sizes[1]);
    } else {
        reply_status(call->reply, "PONG");
    }
}

void command_echo(struct call *call)
{
    reply_bulk(call->reply, call->argv[1], call->sizes[1]);
}

void command_time(struct call *call)
{
    reply_array(call->reply, 2);
    reply_number(call->reply, call->now_us / 1000000);
    reply_number(call->reply, call->now_us % 1000000);
}

void command_auth(struct call *call)
{
    if (call->argc > 3)
        call_syntax_error(call);
    else if (call->argc == 2)
        reply_error(call->reply, "ERR AUTH <password> called without any password configured for the default user. Are "
                                 "you sure your configuration is correct?");
    else if (call_is(call, 1, "default")) /* it has "nopass" */
        reply_status(call->reply, "OK");
    else
        reply_error(call->reply, "WRONGPASS invalid username-password pair or user is disabled.");
}

void command_select(struct call *call)
{
    long long number;

    if (!call_integer(call, 1, &number))
        return;
    if (number < INT32_MIN || number > INT32_MAX)
        reply_error(call->reply, "ERR value is out of range, value must between -2147483648 and 2147483647");
    else if (number != 0)
        reply_error(call->reply, "ERR DB index is out of range");
    else
        reply_status(call->reply, "OK");
}

void command_hello(struct call *call)
{
    long long version = 2;

    if (call->argc > 1 && !call_parse(call->argv[1], call->sizes[1], &version)) {
        reply_error(call->reply, "ERR Protocol version is not an integer or out of range");
        return;
    }
    if (version != 2) {
        reply_error(call->reply, "NOPROTO unsupported protocol version");
        return;
    }
    reply_array(call->reply, 14);
    reply_text(call->reply, "server");
    reply_text(call->reply, "redis");
    reply_text(call->reply, "version");
    reply_text(call->reply, VERSION);
    reply_text(call->reply, "proto");
    reply_integer(call->reply, 2);
    reply_text(call->reply, "id");
    reply_integer(call->reply, (long long)call->client->id);
    reply_text(call->reply, "mode");
    reply_text(call->reply, "standalone");
    reply_text(call->reply, "role");
    reply_text(call->reply, call->server->master ? "replica" : "master");
    reply_text(call->reply, "modules");
    reply_array(call->reply, 0);
}

/* ---- INFO, ROLE, CONFIG ---- */

static void info_line(struct redis_reply *text, const char *name, const char *value)
{
    reply_add(text, name, strlen(name));
    reply_add(text, ":", 1);
    reply_add(text, value, strlen(value));
    reply_add(text, "\r\n", 2);
}

static void info_number(struct redis_reply *text, const char *name, long long number)
{
    char value[24];

    (void)snprintf(value, sizeof value, "%lld", number);
    info_line(text, name, value);
}

static void info_title(struct redis_reply *text, const char *title)
{
    if (text->size > 0)
        reply_add(text, "\r\n", 2);
    reply_add(text, "# ", 2);
    reply_add(text, title, strlen(title));
    reply_add(text, "\r\n", 2);
}

static void info_replication(struct call *call, struct redis_reply *text)
{
    const struct redis_server *server = call->server;
    bool active = server->had_replicas || server->master;

    info_title(text, "Replication");
    info_line(text, "role", server->master ? "slave" : "master");
    if (server->master) {
        info_line(text, "master_host", "master.invalid");
        info_number(text, "master_port", 6379);
        info_line(text, "master_link_status", server->master->master ? "down" : "up");
        info_number(text, "slave_repl_offset", (long long)server->offset);
        info_number(text, "slave_read_only", 1);
    }
    info_number(text, "connected_slaves", server_replicas(server));
    info_line(text, "master_failover_state", "no-failover");
    info_line(text, "master_replid", server->replid);
    info_line(text, "master_replid2", server->replid2);
    info_number(text, "master_repl_offset", active ? (long long)server->offset : 0);
    info_number(text, "second_repl_offset", server->offset2);
    info_number(text, "repl_backlog_active", active);
    info_number(text, "repl_backlog_size", 1048576);
    info_number(text, "repl_backlog_first_byte_offset", active);
    info_number(text, "repl_backlog_histlen", active ? (long long)server->offset : 0);
}

static bool info_wants(const struct call *call, const char *section)
{
    for (int i = 1; i < call->argc; i++)
        if (call_is(call, i, section) || call_is(call, i, "all") || call_is(call, i, "default") ||
            call_is(call, i, "everything"))
            return true;
    return call->argc == 1;
}

void command_info(struct call *call)
{
    struct redis_reply text = {0};

    if (info_wants(call, "server")) {
        info_title(&text, "Server");
        info_line(&text, "redis_version", VERSION);
        info_line(&text, "redis_mode", "standalone");
        info_number(&text, "arch_bits", 64);
    }
    if (info_wants(call, "clients")) {
        info_title(&text, "Clients");
        info_number(&text, "connected_clients", (long long)call->server->clients_count);
    }
    if (info_wants(call, "memory")) {
        info_title(&text, "Memory");
        info_line(&text, "maxmemory", call->server->maxmemory);
        info_line(&text, "maxmemory_policy", call->server->policy);
    }
    if (info_wants(call, "replication"))
        info_replication(call, &text);
    reply_bulk(call->reply, text.bytes ? text.bytes : "", text.size);
    redis_reply_free(&text);
}

void command_role(struct call *call)
{
    const struct redis_server *server = call->server;

    if (server->master) {
        reply_array(call->reply, 5);
        reply_text(call->reply, "slave");
        reply_text(call->reply, "master.invalid");
        reply_integer(call->reply, 6379);
        reply_text(call->reply, server->master->master ? "connect" : "connected");
        reply_integer(call->reply, (long long)server->offset);
        return;
    }
    reply_array(call->reply, 3);
    reply_text(call->reply, "master");
    reply_integer(call->reply, server->had_replicas ? (long long)server->offset : 0);
    reply_array(call->reply, 0);
}

static char *config_value(struct redis_server *server, const struct call *call, int arg, size_t *ret_room)
{
    if (call_is(call, arg, "maxmemory-policy")) {
        *ret_room = sizeof server->policy;
        return server->policy;
    }
    *ret_room = sizeof server->maxmemory;
    return call_is(call, arg, "maxmemory") ? server->maxmemory : NULL;
}

void command_config(struct call *call)
{
    struct redis_server *server = call->server;
    char *value = NULL;
    size_t room = 0;

    if (call_is(call, 1, "GET") && call->argc == 3) {
        value = config_value(server, call, 2, &room);
        reply_array(call->reply, value ? 2 : 0);
        if (value) {
            reply_bulk(call->reply, call->argv[2], call->sizes[2]);
            reply_text(call->reply, value);
        }
    } else if (call_is(call, 1, "SET") && call->argc == 4) {
        value = config_value(server, call, 2, &room);
        if (!value || call->sizes[3] >= room) {
            reply_error(call->reply, "ERR Unknown option or number of arguments for CONFIG SET - '%.*s'",
                        call_width(call, 2), call->argv[2]);
            return;
        }
        memcpy(value, call->argv[3], call->sizes[3]);
        value[call->sizes[3]] = '\0';
        reply_status(call->reply, "OK");
    } else if (call_is(call, 1, "RESETSTAT") && call->argc == 2) {
        reply_status(call->reply, "OK");
    } else if (call_is(call, 1, "GET") || call_is(call, 1, "SET")) {
        wrong_arity(call, call_is(call, 1, "GET") ? "get" : "set");
    } else {
        unknown_subcommand(call, "CONFIG");
    }
}

/* ---- clients ---- */

static void client_set_name(struct call *call)
{
    for (size_t i = 0; i < call->sizes[2]; i++) {
        if (call->argv[2][i] < '!' || call->argv[2][i] > '~') {
            reply_error(call->reply, "ERR Client names cannot contain spaces, newlines or special characters.");
            return;
        }
    }
    free(call->client->name);
    call->client->name = call->sizes[2] ? reply_copy(call->argv[2], call->sizes[2]) : NULL;
    reply_status(call->reply, "OK");
}

/* CLIENT KILL TYPE pubsub|normal, or ID n.  The one who asks is spared, as SKIPME is the default. */
static void client_kill(struct call *call)
{
    struct redis_server *server = call->server;
    bool by_type = call_is(call, 2, "TYPE"), listeners = by_type && call_is(call, 3, "pubsub");
    long long id = 0, killed = 0;

    if (!by_type && !call_is(call, 2, "ID")) {
        call_syntax_error(call);
        return;
    }
    if (by_type && !listeners && !call_is(call, 3, "normal")) {
        reply_error(call->reply, "ERR Unknown client type '%.*s'", call_width(call, 3), call->argv[3]);
        return;
    }
    if (!by_type && (!call_parse(call->argv[3], call->sizes[3], &id) || id <= 0)) {
        reply_error(call->reply, "ERR client-id should be greater than 0");
        return;
    }
    for (size_t i = server->clients_count; i-- > 0;) {
        struct client *client = server->clients[i];

        if (client == call->client)
            continue;
        if (by_type ? (client->channels_count > 0) != listeners : client->id != (uint64_t)id)
            continue;
        server_forget_client(server, i, true);
        killed++;
    }
    reply_integer(call->reply, killed);
}

void command_client(struct call *call)
{
    if (call_is(call, 1, "SETNAME")) {
        if (call->argc == 3)
            client_set_name(call);
        else
            wrong_arity(call, "setname");
    } else if (call_is(call, 1, "GETNAME") && call->argc == 2) {
        if (call->client->name)
            reply_text(call->reply, call->client->name);
        else
            reply_nil(call->reply);
    } else if (call_is(call, 1, "ID") && call->argc == 2) {
        reply_integer(call->reply, (long long)call->client->id);
    } else if (call_is(call, 1, "KILL") && call->argc == 4) {
        client_kill(call);
    } else {
        unknown_subcommand(call, "CLIENT");
    }
}

/* ---- channels ---- */

static size_t channel_find(const struct client *client, const char *channel, size_t size)
{
    size_t i = 0;

    while (i < client->channels_count &&
           (client->channel_sizes[i] != size || memcmp(client->channels[i], channel, size) != 0))
        i++;
    return i;
}

static void reply_subscription(struct call *call, const char *what, const char *channel, size_t size)
{
    reply_array(call->reply, 3);
    reply_text(call->reply, what);
    if (channel)
        reply_bulk(call->reply, channel, size);
    else
        reply_nil(call->reply);
    reply_integer(call->reply, (long long)call->client->channels_count);
}

void command_subscribe(struct call *call)
{
    struct client *client = call->client;

    for (int i = 1; i < call->argc; i++) {
        size_t count = client->channels_count;

        if (channel_find(client, call->argv[i], call->sizes[i]) == count) {
            client->channels = reply_grow(client->channels, (count + 1) * sizeof *client->channels);
            client->channel_sizes = reply_grow(client->channel_sizes, (count + 1) * sizeof *client->channel_sizes);
            client->channels[count] = reply_copy(call->argv[i], call->sizes[i]);
            client->channel_sizes[count] = call->sizes[i];
            client->channels_count++;
        }
        reply_subscription(call, "subscribe", call->argv[i], call->sizes[i]);
    }
}

static void unsubscribe(struct call *call, const char *channel, size_t size)
{
    struct client *client = call->client;
    size_t at = channel_find(client, channel, size);
    char *own = reply_copy(channel, size);

    if (at < client->channels_count) {
        free(client->channels[at]);
        client->channels_count--;
        memmove(&client->channels[at], &client->channels[at + 1],
                (client->channels_count - at) * sizeof *client->channels);
        memmove(&client->channel_sizes[at], &client->channel_sizes[at + 1],
                (client->channels_count - at) * sizeof *client->channel_sizes);
    }
    reply_subscription(call, "unsubscribe", own, size);
    free(own);
}

void command_unsubscribe(struct call *call)
{
    struct client *client = call->client;

    for (int i = 1; i < call->argc; i++)
        unsubscribe(call, call->argv[i], call->sizes[i]);
    if (call->argc == 1 && client->channels_count == 0)
        reply_subscription(call, "unsubscribe", NULL, 0);
    while (call->argc == 1 && client->channels_count > 0)
        unsubscribe(call, client->channels[0], client->channel_sizes[0]);
}

void command_publish(struct call *call)
{
    call_publish(call, call->argv[1], call->sizes[1], call->argv[2], call->sizes[2]);
    call_wrote(call); /* the replicas' listeners hear it too */
}

void command_wait(struct call *call)
{
    struct redis_server *server = call->server;
    long long replicas, ms;

    if (server->master) {
        reply_error(call->reply,
                    "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 "
                    "if a replica is configured to be writable (which is not the default) writes to "
                    "replicas are just local and are not propagated.");
        return;
    }
    if (!call_integer(call, 1, &replicas))
        return;
    if (!call_parse(call->argv[2], call->sizes[2], &ms)) {
        reply_error(call->reply, "ERR timeout is not an integer or out of range");
        return;
    }
    if (ms < 0) {
        reply_error(call->reply, "ERR timeout is negative");
        return;
    }
    if (redis_acked(server, call->client->seen_offset) >= replicas) {
        redis_wait_reply(server, call->client->seen_offset, call->reply);
        return;
    }
    call->reply->waits = true;
    call->reply->wait_offset = call->client->seen_offset;
    call->reply->wait_replicas = replicas > UINT32_MAX ? UINT32_MAX : (unsigned)replicas;
    call->reply->wait_ms = ms;
}
