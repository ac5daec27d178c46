/* redis.c - worlds and servers: commands in, replication, restarts (redis.h). */
#include <call.h>
#include <redis.h>
#include <script.h>

#include <stdlib.h>
#include <string.h>

struct redis_world *redis_open(struct redis_lua *lua, const struct redis_hooks *hooks, uint64_t seed)
{
    struct redis_world *world = reply_alloc(sizeof *world);

    world->lua = lua;
    world->hooks = *hooks;
    world->random = seed;
    return world;
}

/* SplitMix64, by Steele, Lea and Flood. */
static uint64_t world_random(struct redis_world *world)
{
    uint64_t z = (world->random += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void server_draw_replid(struct redis_server *server)
{
    static const char digits[] = "0123456789abcdef";
    uint64_t random = 0;

    for (unsigned i = 0; i < REDIS_REPLID_SIZE; i++) {
        if (i % 16 == 0)
            random = world_random(server->world);
        server->replid[i] = digits[random >> (i % 16 * 4) & 15];
    }
    server->replid[REDIS_REPLID_SIZE] = '\0';
}

static void server_no_second_replid(struct redis_server *server)
{
    memset(server->replid2, '0', REDIS_REPLID_SIZE);
    server->replid2[REDIS_REPLID_SIZE] = '\0';
    server->offset2 = -1;
}

struct redis_server *redis_add(struct redis_world *world, unsigned number)
{
    struct redis_server *server = reply_alloc(sizeof *server), **last = &world->servers;

    server->world = world;
    server->number = number;
    strcpy(server->policy, "noeviction");
    strcpy(server->maxmemory, "0");
    keys_init(&server->keys);
    server_draw_replid(server);
    server_no_second_replid(server);
    while (*last)
        last = &(*last)->next;
    *last = server;
    return server;
}

/* ---- clients ---- */

struct client *server_client(struct redis_server *server, uint64_t id)
{
    struct client *client;

    for (size_t i = 0; i < server->clients_count; i++)
        if (server->clients[i]->id == id)
            return server->clients[i];
    client = reply_alloc(sizeof *client);
    client->id = id;
    if (server->clients_count == server->clients_room) {
        server->clients_room = server->clients_room * 2 + 8;
        server->clients = reply_grow(server->clients, server->clients_room * sizeof *server->clients);
    }
    server->clients[server->clients_count++] = client;
    return client;
}

void server_forget_client(struct redis_server *server, size_t index, bool hang_up)
{
    const struct redis_hooks *hooks = &server->world->hooks;
    struct client *client = server->clients[index];

    server->clients_count--;
    memmove(&server->clients[index], &server->clients[index + 1],
            (server->clients_count - index) * sizeof *server->clients);
    if (hang_up && hooks->hang_up)
        hooks->hang_up(hooks->arg, server, client->id);
    for (size_t i = 0; i < client->channels_count; i++)
        free(client->channels[i]);
    free(client->channels);
    free(client->channel_sizes);
    free(client->name);
    free(client);
}

void redis_drop_client(struct redis_server *server, uint64_t client)
{
    for (size_t i = server->clients_count; i-- > 0;)
        if (server->clients[i]->id == client)
            server_forget_client(server, i, false);
}

bool redis_subscribed(const struct redis_server *server, uint64_t client)
{
    for (size_t i = 0; i < server->clients_count; i++)
        if (server->clients[i]->id == client)
            return server->clients[i]->channels_count > 0;
    return false;
}

/* ---- commands ---- */

static struct call server_call(struct redis_server *server, struct client *client, struct redis_reply *reply)
{
    int64_t now_us = redis_time_us(server);

    return (struct call){.server = server, .client = client, .reply = reply, .now_us = now_us, .now_ms = now_us / 1000};
}

void redis_execute(struct redis_server *server, uint64_t client, int argc, const char *const *argv, const size_t *sizes,
                   struct redis_reply *reply)
{
    struct call call = server_call(server, server_client(server, client), reply);

    reply->size = 0;
    reply->waits = false;
    call.argc = argc;
    call.argv = argv;
    call.sizes = sizes;
    command_run(&call);
    server_commit(server);
    call.client->seen_offset = server->offset;
}

void redis_wait_reply(const struct redis_server *server, uint64_t offset, struct redis_reply *reply)
{
    reply->size = 0;
    reply->waits = false;
    reply_integer(reply, redis_acked(server, offset));
}

/* ---- replication ---- */

unsigned server_replicas(const struct redis_server *server)
{
    unsigned count = 0;

    for (const struct redis_server *one = server->world->servers; one; one = one->next)
        count += one->master == server;
    return count;
}

unsigned redis_acked(const struct redis_server *master, uint64_t offset)
{
    unsigned count = 0;

    for (const struct redis_server *one = master->world->servers; one; one = one->next)
        count += one->master == master && one->acked >= offset &&
                 memcmp(one->replid, master->replid, REDIS_REPLID_SIZE) == 0;
    return count;
}

/* Forget what every replica has: the log's entries are dense, so their place follows from their offset. */
static void server_trim_log(struct redis_server *server)
{
    uint64_t needed = server->offset;
    size_t gone = 0;

    for (const struct redis_server *one = server->world->servers; one; one = one->next)
        if (one->master == server && one->offset < needed)
            needed = one->offset;
    while (gone < server->log_count && server->log[gone].offset <= needed)
        redis_reply_free(&server->log[gone++].bytes);
    if (gone > 0)
        memmove(server->log, server->log + gone, (server->log_count - gone) * sizeof *server->log);
    server->log_count -= gone;
}

static void server_drop_log(struct redis_server *server)
{
    for (size_t i = 0; i < server->log_count; i++)
        redis_reply_free(&server->log[i].bytes);
    server->log_count = 0;
}

void server_commit(struct redis_server *server)
{
    if (!server->wrote)
        return;
    server->wrote = false;
    server->offset++;
    if (!server->had_replicas)
        return;
    if (server->log_count == server->log_room) {
        server_trim_log(server);
        if (server->log_count * 2 >= server->log_room) {
            server->log_room = server->log_room * 2 + 64;
            server->log = reply_grow(server->log, server->log_room * sizeof *server->log);
        }
    }
    server->log[server->log_count++] = (struct transaction){.offset = server->offset, .bytes = server->pending};
    server->pending = (struct redis_reply){0};
}

static void server_full_copy(struct redis_server *replica, struct redis_server *master)
{
    keys_fini(&replica->keys);
    keys_copy(&replica->keys, &master->keys);
    memcpy(replica->replid, master->replid, sizeof replica->replid);
    server_no_second_replid(replica);
    replica->offset = master->offset;
    replica->acked = 0;
    server_drop_log(replica);
}

void redis_attach(struct redis_server *replica, struct redis_server *master)
{
    replica->master = master;
    master->had_replicas = true;
    replica->had_replicas = true; /* it may have some when it is promoted */
    server_full_copy(replica, master);
}

struct redis_server *redis_master_of(const struct redis_server *replica)
{
    return replica->master;
}

/* Run the commands of one transaction. */
static void server_apply(struct redis_server *replica, const struct transaction *transaction)
{
    const char *at = transaction->bytes.bytes, *end = at + transaction->bytes.size;
    struct redis_reply ignored = {0};
    const char *argv[64], **words = argv;
    size_t sizes[64], *words_sizes = sizes;
    uint32_t room = 64, count, size;

    while (at < end) {
        struct call call = server_call(replica, NULL, &ignored);

        memcpy(&count, at, sizeof count);
        at += sizeof count;
        if (count > room) {
            words = reply_grow(words == argv ? NULL : words, count * sizeof *words);
            words_sizes = reply_grow(words_sizes == sizes ? NULL : words_sizes, count * sizeof *words_sizes);
            room = count;
        }
        for (uint32_t i = 0; i < count; i++) {
            memcpy(&size, at, sizeof size);
            words[i] = at + sizeof size;
            words_sizes[i] = size;
            at += sizeof size + size;
        }
        call.applies = true;
        call.argc = (int)count;
        call.argv = words;
        call.sizes = words_sizes;
        command_do(&call, command_find(words[0], words_sizes[0]));
        ignored.size = 0;
    }
    if (words != argv) {
        free(words);
        free(words_sizes);
    }
    redis_reply_free(&ignored);
}

uint64_t redis_replicate(struct redis_server *replica, uint64_t up_to)
{
    struct redis_server *master = replica->master;
    uint64_t first;

    if (!master || master->master) /* the one it follows is none any more */
        return replica->offset;
    first = master->log_count ? master->log[0].offset : master->offset + 1;
    if (memcmp(replica->replid, master->replid, REDIS_REPLID_SIZE) != 0 || replica->offset > master->offset ||
        replica->offset + 1 < first) {
        server_full_copy(replica, master);
        return replica->offset;
    }
    while (replica->offset < up_to && replica->offset < master->offset) {
        uint64_t place = replica->offset + 1 - first;

        /* What was written while nobody followed is in no log. */
        if (place >= master->log_count || master->log[place].offset != replica->offset + 1) {
            server_full_copy(replica, master);
            break;
        }
        replica->offset++;
        server_apply(replica, &master->log[place]);
    }
    return replica->offset;
}

void redis_acknowledge(struct redis_server *replica)
{
    replica->acked = replica->offset;
}

void redis_promote(struct redis_server *server)
{
    if (!server->master)
        return;
    server->master = NULL;
    memcpy(server->replid2, server->replid, sizeof server->replid2);
    server->offset2 = (int64_t)server->offset + 1;
    server_draw_replid(server);
}

uint64_t redis_offset(const struct redis_server *server)
{
    return server->offset;
}

/* ---- faults ---- */

void redis_save(struct redis_server *server)
{
    if (server->has_saved)
        keys_fini(&server->saved);
    keys_copy(&server->saved, &server->keys);
    server->has_saved = true;
    server->saved_offset = server->offset;
    memcpy(server->saved_replid, server->replid, sizeof server->saved_replid);
}

void redis_reboot(struct redis_server *server, enum redis_data data)
{
    while (server->clients_count > 0)
        server_forget_client(server, server->clients_count - 1, true);
    if (server->scripts_count)
        memset(server->scripts, 0, server->scripts_count * sizeof *server->scripts);
    server_drop_log(server);
    server->full = false;
    if (data != REDIS_KEPT)
        keys_clear(&server->keys);
    if (data == REDIS_SNAPSHOT && server->has_saved) {
        keys_fini(&server->keys);
        keys_copy(&server->keys, &server->saved);
        server->offset = server->saved_offset;
        memcpy(server->replid, server->saved_replid, sizeof server->replid);
    } else if (data != REDIS_KEPT) {
        server->offset = 0;
        server_draw_replid(server);
    }
    server->acked = 0;
    if (server->master) /* goes on where it was, if its master can still tell it what came after */
        return;
    server_draw_replid(server);
    server_no_second_replid(server);
}

/* The world's own hand in the data, told to the replicas like a command. */
static void server_does(struct redis_server *server, int argc, const char *const *argv, const size_t *sizes)
{
    struct redis_reply ignored = {0};
    struct call call = server_call(server, NULL, &ignored);

    call.argc = argc;
    call.argv = argv;
    call.sizes = sizes;
    command_do(&call, command_find(argv[0], sizes[0]));
    server_commit(server);
    redis_reply_free(&ignored);
}

bool redis_evict(struct redis_server *server, const char *key, size_t size)
{
    if (server->master || !keys_find(&server->keys, key, size))
        return false;
    server_does(server, 2, (const char *[]){"DEL", key}, (const size_t[]){3, size});
    return true;
}

void redis_expire(struct redis_server *server)
{
    struct call call = server_call(server, NULL, NULL);

    for (size_t i = server->keys.count; i-- > 0 && !server->master;) {
        struct entry *entry = server->keys.list[i];

        if (entry->expires_ms != KEYS_NO_EXPIRY && call.now_ms > entry->expires_ms)
            call_expire(&call, entry);
    }
    server_commit(server);
}

void redis_flush(struct redis_server *server)
{
    if (!server->master)
        server_does(server, 1, (const char *[]){"FLUSHALL"}, (const size_t[]){8});
}

/* ---- questions ---- */

unsigned redis_number(const struct redis_server *server)
{
    return server->number;
}

bool redis_is_master(const struct redis_server *server)
{
    return !server->master;
}

const char *redis_replid(const struct redis_server *server)
{
    return server->replid;
}

void redis_set_replid(struct redis_server *server, const char *replid)
{
    memcpy(server->replid, replid, REDIS_REPLID_SIZE);
}

int64_t redis_time_us(const struct redis_server *server)
{
    return server->world->hooks.now_us(server->world->hooks.arg) + server->offset_us;
}

void redis_set_clock(struct redis_server *server, int64_t offset_us)
{
    server->offset_us = offset_us;
}

void redis_set_full(struct redis_server *server, bool full)
{
    server->full = full;
}

size_t redis_count(const struct redis_server *server)
{
    return server->keys.count;
}

const char *redis_key(const struct redis_server *server, size_t index, size_t *ret_size)
{
    *ret_size = server->keys.list[index]->key_size;
    return server->keys.list[index]->key;
}

/* ---- the end ---- */

static void server_close(struct redis_server *server)
{
    while (server->clients_count > 0)
        server_forget_client(server, server->clients_count - 1, false);
    server_drop_log(server);
    redis_reply_free(&server->pending);
    keys_fini(&server->keys);
    if (server->has_saved)
        keys_fini(&server->saved);
    free(server->clients);
    free(server->log);
    free(server->scripts);
    free(server);
}

void redis_close(struct redis_world *world)
{
    if (!world)
        return;
    while (world->servers) {
        struct redis_server *next = world->servers->next;

        server_close(world->servers);
        world->servers = next;
    }
    free(world);
}
