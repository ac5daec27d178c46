/* command.c - the table of commands, the judgement before each, and what they need (call.h). */
#include <call.h>
#include <commands.h>

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define WRITES (COMMAND_WRITE | COMMAND_GROWS)

const struct command command_table[] = {
    {"append", command_append, 3, WRITES},
    {"auth", command_auth, -2, COMMAND_NO_SCRIPT},
    {"client", command_client, -2, COMMAND_NO_SCRIPT},
    {"config", command_config, -2, COMMAND_NO_SCRIPT},
    {"dbsize", command_dbsize, 1, 0},
    {"decr", command_incr, 2, WRITES},
    {"decrby", command_incr, 3, WRITES},
    {"del", command_del, -2, COMMAND_WRITE},
    {"echo", command_echo, 2, 0},
    {"eval", command_eval, -3, COMMAND_NO_SCRIPT},
    {"evalsha", command_eval, -3, COMMAND_NO_SCRIPT},
    {"exists", command_exists, -2, 0},
    {"expire", command_expire, -3, COMMAND_WRITE},
    {"expireat", command_expire, -3, COMMAND_WRITE},
    {"expiretime", command_ttl, 2, 0},
    {"flushall", command_flushall, -1, COMMAND_WRITE},
    {"flushdb", command_flushall, -1, COMMAND_WRITE},
    {"get", command_get, 2, 0},
    {"getdel", command_getdel, 2, COMMAND_WRITE},
    {"getrange", command_getrange, 4, 0},
    {"getset", command_getset, 3, WRITES},
    {"hdel", command_hdel, -3, COMMAND_WRITE},
    {"hello", command_hello, -1, COMMAND_NO_SCRIPT},
    {"hexists", command_hexists, 3, 0},
    {"hget", command_hget, 3, 0},
    {"hgetall", command_hgetall, 2, 0},
    {"hincrby", command_hincrby, 4, WRITES},
    {"hkeys", command_hgetall, 2, 0},
    {"hlen", command_hlen, 2, 0},
    {"hmget", command_hmget, -3, 0},
    {"hmset", command_hset, -4, WRITES},
    {"hset", command_hset, -4, WRITES},
    {"hsetnx", command_hsetnx, 4, WRITES},
    {"hstrlen", command_hstrlen, 3, 0},
    {"hvals", command_hgetall, 2, 0},
    {"incr", command_incr, 2, WRITES},
    {"incrby", command_incr, 3, WRITES},
    {"info", command_info, -1, 0},
    {"mget", command_mget, -2, 0},
    {"mset", command_mset, -3, WRITES},
    {"persist", command_persist, 2, COMMAND_WRITE},
    {"pexpire", command_expire, -3, COMMAND_WRITE},
    {"pexpireat", command_expire, -3, COMMAND_WRITE},
    {"pexpiretime", command_ttl, 2, 0},
    {"ping", command_ping, -1, COMMAND_LISTENS},
    {"psetex", command_setex, 4, WRITES},
    {"pttl", command_ttl, 2, 0},
    {"publish", command_publish, 3, 0},
    {"role", command_role, 1, COMMAND_NO_SCRIPT},
    {"script", command_script, -2, COMMAND_NO_SCRIPT},
    {"select", command_select, 2, 0},
    {"set", command_set, -3, WRITES},
    {"setex", command_setex, 4, WRITES},
    {"setnx", command_setnx, 3, WRITES},
    {"setrange", command_setrange, 4, WRITES},
    {"strlen", command_strlen, 2, 0},
    {"subscribe", command_subscribe, -2, COMMAND_NO_SCRIPT | COMMAND_LISTENS},
    {"substr", command_getrange, 4, 0},
    {"time", command_time, 1, 0},
    {"touch", command_exists, -2, 0},
    {"ttl", command_ttl, 2, 0},
    {"type", command_type, 2, 0},
    {"unlink", command_del, -2, COMMAND_WRITE},
    {"unsubscribe", command_unsubscribe, -1, COMMAND_NO_SCRIPT | COMMAND_LISTENS},
    {"wait", command_wait, 3, COMMAND_NO_SCRIPT},
    {"xadd", command_xadd, -5, WRITES},
    {"xdel", command_xdel, -3, COMMAND_WRITE},
    {"xinfo", command_xinfo, -2, 0},
    {"xlen", command_xlen, 2, 0},
    {"xrange", command_xrange, -4, 0},
    {"xrevrange", command_xrange, -4, 0},
    {"xtrim", command_xtrim, -4, COMMAND_WRITE},
};
const size_t command_table_size = sizeof command_table / sizeof *command_table;

const struct command *command_find(const char *name, size_t size)
{
    size_t low = 0, high = command_table_size;

    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strncasecmp(name, command_table[middle].name, size);

        if (order == 0 && command_table[middle].name[size])
            order = -1;
        if (order == 0)
            return &command_table[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

void command_do(struct call *call, const struct command *command)
{
    call->command = command;
    call->told = call->wrote = false;
    command->run(call);
    if (call->wrote && !call->told)
        call_tell(call, call->argc, call->argv, call->sizes);
}

static bool arity_fits(const struct call *call, const struct command *command)
{
    return command->arity > 0 ? call->argc == command->arity : call->argc >= -command->arity;
}

static int unknown_width(const struct call *call, int arg, int room)
{
    return call->sizes[arg] < (size_t)room ? (int)call->sizes[arg] : room;
}

/* "unknown command 'x', with args beginning with: 'a' 'b' " */
static void unknown(struct call *call)
{
    char text[600];
    int size = snprintf(text, sizeof text,
                        "ERR unknown command '%.*s', with args beginning with: ", call_width(call, 0), call->argv[0]);
    int begin = size;

    for (int i = 1; i < call->argc && size - begin < 128; i++)
        size += snprintf(text + size, sizeof text - (size_t)size, "'%.*s' ",
                         unknown_width(call, i, 128 - (size - begin)), call->argv[i]);
    reply_error(call->reply, "%s", text);
}

static const char no_memory[] = "OOM command not allowed when used memory > 'maxmemory'.";
static const char read_only[] = "READONLY You can't write against a read only replica.";

void command_run(struct call *call)
{
    const struct command *command = command_find(call->argv[0], call->sizes[0]);

    if (!command)
        unknown(call);
    else if (!arity_fits(call, command))
        reply_error(call->reply, "ERR wrong number of arguments for '%s' command", command->name);
    else if (call->server->full && command->flags & COMMAND_GROWS)
        reply_error(call->reply, "%s", no_memory);
    else if (call->server->master && command->flags & COMMAND_WRITE)
        reply_error(call->reply, "%s", read_only);
    else if (call->client->channels_count > 0 && !(command->flags & COMMAND_LISTENS))
        reply_error(call->reply,
                    "ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed "
                    "in this context",
                    command->name);
    else
        command_do(call, command);
}

void command_run_script(struct call *call)
{
    const struct command *command = command_find(call->argv[0], call->sizes[0]);

    if (!command)
        reply_error(call->reply, "ERR Unknown Redis command called from script");
    else if (!arity_fits(call, command))
        reply_error(call->reply, "ERR Wrong number of args calling Redis command from script");
    else if (command->flags & COMMAND_NO_SCRIPT)
        reply_error(call->reply, "ERR This Redis command is not allowed from script");
    else if (call->server->master && command->flags & COMMAND_WRITE)
        reply_error(call->reply, "%s", read_only);
    else if (call->full && command->flags & COMMAND_GROWS)
        reply_error(call->reply, "%s", no_memory);
    else
        command_do(call, command);
}

/* ---- what commands need ---- */

struct entry *call_find(struct call *call, int arg)
{
    struct entry *entry = keys_find(&call->server->keys, call->argv[arg], call->sizes[arg]);

    if (!entry || entry->expires_ms == KEYS_NO_EXPIRY || call->now_ms <= entry->expires_ms || call->applies)
        return entry;
    if (!call->server->master) /* a replica waits for its master to say so */
        call_expire(call, entry);
    return NULL;
}

bool call_find_type(struct call *call, int arg, enum value_type type, struct entry **ret_entry)
{
    *ret_entry = call_find(call, arg);
    if (!*ret_entry || (*ret_entry)->type == type)
        return true;
    reply_error(call->reply, "WRONGTYPE Operation against a key holding the wrong kind of value");
    return false;
}

bool call_is(const struct call *call, int arg, const char *word)
{
    return call->sizes[arg] == strlen(word) && strncasecmp(call->argv[arg], word, call->sizes[arg]) == 0;
}

bool call_parse(const char *bytes, size_t size, long long *ret_number)
{
    bool negative = size > 0 && bytes[0] == '-';
    unsigned long long number = 0, most = negative ? 1ull << 63 : ~0ull >> 1;
    size_t at = negative ? 1 : 0;

    if (size == 1 && bytes[0] == '0') {
        *ret_number = 0;
        return true;
    }
    if (at == size || size > 20 || bytes[at] == '0')
        return false;
    for (; at < size; at++) {
        unsigned digit = (unsigned char)bytes[at] - '0';

        if (digit > 9 || number > (most - digit) / 10)
            return false;
        number = number * 10 + digit;
    }
    *ret_number = (long long)(negative ? 0ull - number : number);
    return true;
}

bool call_integer(struct call *call, int arg, long long *ret_number)
{
    if (call_parse(call->argv[arg], call->sizes[arg], ret_number))
        return true;
    reply_error(call->reply, "ERR value is not an integer or out of range");
    return false;
}

int call_width(const struct call *call, int arg)
{
    return call->sizes[arg] < 128 ? (int)call->sizes[arg] : 128;
}

void call_syntax_error(struct call *call)
{
    reply_error(call->reply, "ERR syntax error");
}

void call_wrote(struct call *call)
{
    call->wrote = true;
}

static void pending_number(struct redis_reply *pending, size_t number)
{
    uint32_t bytes = (uint32_t)number;

    reply_add(pending, &bytes, sizeof bytes);
}

void call_tell(struct call *call, int argc, const char *const *argv, const size_t *sizes)
{
    struct redis_server *server = call->server;

    call->told = true;
    if (call->applies)
        return;
    server->wrote = true;
    if (!server->had_replicas)
        return;
    pending_number(&server->pending, (size_t)argc);
    for (int i = 0; i < argc; i++) {
        pending_number(&server->pending, sizes[i]);
        reply_add(&server->pending, argv[i], sizes[i]);
    }
}

void call_tell_text(struct call *call, const char *first, const char *key, size_t key_size)
{
    call_tell(call, 2, (const char *[]){first, key}, (const size_t[]){strlen(first), key_size});
}

void call_expire(struct call *call, struct entry *entry)
{
    bool told = call->told;

    call_tell_text(call, "DEL", entry->key, entry->key_size);
    call->told = told;
    keys_remove(&call->server->keys, entry);
}

static void deliver(struct redis_server *server, const struct client *client, const char *channel, size_t size,
                    const char *message, size_t message_size)
{
    struct redis_reply push = {0};

    if (server->world->hooks.deliver) {
        reply_array(&push, 3);
        reply_text(&push, "message");
        reply_bulk(&push, channel, size);
        reply_bulk(&push, message, message_size);
        server->world->hooks.deliver(server->world->hooks.arg, server, client->id, push.bytes, push.size);
        redis_reply_free(&push);
    }
}

void call_publish(struct call *call, const char *channel, size_t size, const char *message, size_t message_size)
{
    struct redis_server *server = call->server;
    long long receivers = 0;

    for (size_t c = 0; c < server->clients_count; c++) {
        struct client *client = server->clients[c];

        for (size_t i = 0; i < client->channels_count; i++) {
            if (client->channel_sizes[i] != size || memcmp(client->channels[i], channel, size) != 0)
                continue;
            deliver(server, client, channel, size, message, message_size);
            receivers++;
        }
    }
    reply_integer(call->reply, receivers);
}

bool call_expiry(struct call *call, int arg, bool seconds, bool relative, int64_t *ret_ms)
{
    long long number;

    if (!call_integer(call, arg, &number))
        return false;
    if (number <= 0 || (seconds && number > INT64_MAX / 1000))
        goto invalid;
    if (seconds)
        number *= 1000;
    if (relative && number > INT64_MAX - call->now_ms)
        goto invalid;
    *ret_ms = relative ? number + call->now_ms : number;
    return true;
invalid:
    reply_error(call->reply, "ERR invalid expire time in '%s' command", call->command->name);
    return false;
}
