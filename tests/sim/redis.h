/*
 * redis.h - Redis servers in memory, for the simulator: the commands that the library and its scripts use, the very
 * scripts in Lua 5.1, expiry, publish, replication with a tail that can be lost, promotion, restarts, eviction.
 *
 * Deterministic: time comes from the world alone, and what a server draws (its replid) follows from the world's seed.
 * No thread, no socket, no clock.  The replies are RESP2, byte for byte what Redis 7 writes; sim/model_test.c
 * holds the model to the real server with random commands.
 *
 * Who uses it plays the network: it carries commands to redis_execute and replies back, delivers what `deliver` is told
 * (or drops it), and says how far each replica has come.  Nothing here waits: WAIT says what is to be waited for.
 *
 * One thread at a time; without memory the program ends.  Hooks are called in the midst of a command: they must not
 * call back into the model, nor switch to another stack.  A command needs up to 128 KiB of stack (Lua's buffers).
 */
#ifndef SIM_REDIS_H
#define SIM_REDIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REDIS_REPLID_SIZE 40u /* hex */

/* The Lua state with every script met so far, each compiled once; any number of worlds, one after the other or side by
 * side, may share it (nothing of one is seen by another). */
struct redis_lua;
struct redis_lua *redis_lua_open(void);
void redis_lua_hoard(struct redis_lua *lua); /* collect no garbage from now on: for a process that soon ends */
void redis_lua_close(struct redis_lua *lua); /* after the worlds; NULL is welcome */

struct redis_server;
struct redis_world; /* the servers of one run */

struct redis_hooks {
    void *arg;
    /* The simulated true time, us since 1970; a server's TIME is this plus its own offset. */
    int64_t (*now_us)(void *arg);
    /* A published message for a client that has subscribed at this server: the RESP bytes that go down its connection.
     * `bytes` are good during the call.  NULL: nobody listens. */
    void (*deliver)(void *arg, struct redis_server *server, uint64_t client, const void *bytes, size_t size);
    /* The server ended this client's connection (CLIENT KILL, redis_reboot).  NULL: nobody cares. */
    void (*hang_up)(void *arg, struct redis_server *server, uint64_t client);
};

struct redis_world *redis_open(struct redis_lua *lua, const struct redis_hooks *hooks, uint64_t seed);
void redis_close(struct redis_world *world); /* with its servers; NULL is welcome */

/* A new server: an empty master with a replid of its own.  `number` is for the world's own use. */
struct redis_server *redis_add(struct redis_world *world, unsigned number);
unsigned redis_number(const struct redis_server *server);
bool redis_is_master(const struct redis_server *server);
const char *redis_replid(const struct redis_server *server);            /* 40 hex digits */
void redis_set_replid(struct redis_server *server, const char *replid); /* for comparisons with a real one */
int64_t redis_time_us(const struct redis_server *server);               /* its own clock */
void redis_set_clock(struct redis_server *server, int64_t offset_us);   /* jumps: any value, at any moment */
void redis_set_full(struct redis_server *server, bool full);            /* no memory left: writes answer -OOM */

/* ---- commands ---- */

struct redis_reply { /* zeroed at first; may be used again and again; redis_reply_free once */
    char *bytes;     /* RESP2 */
    size_t size, room;
    /* WAIT that cannot be answered yet: no bytes; answer redis_wait_reply once redis_acked(server, wait_offset) >=
     * wait_replicas, or when wait_ms have passed (0: never). */
    bool waits;
    uint64_t wait_offset;
    unsigned wait_replicas;
    int64_t wait_ms;
};
void redis_reply_free(struct redis_reply *reply);

/* Run one command to its end for a client (an id that the world chooses per connection, not 0; first use opens it).
 * The reply replaces what `reply` held.  A command of several replies (SUBSCRIBE of two channels) has them all. */
void redis_execute(struct redis_server *server, uint64_t client, int argc, const char *const *argv, const size_t *sizes,
                   struct redis_reply *reply);
/* The connection is gone: subscriptions and what it had waited for. */
void redis_drop_client(struct redis_server *server, uint64_t client);
bool redis_subscribed(const struct redis_server *server, uint64_t client);
/* The reply of a WAIT: how many replicas have come as far as `offset`. */
void redis_wait_reply(const struct redis_server *server, uint64_t offset, struct redis_reply *reply);

/* ---- replication ----
 *
 * A master keeps the effects of its writes, a transaction a command or script, numbered: its offset.  A replica is a
 * copy of the master at some offset, and applies the next ones when told to.  As in Redis a promoted replica draws a
 * new replid and goes on with what it has; what the old master had beyond that is lost with its demotion. */

uint64_t redis_offset(const struct redis_server *server);
/* Make it a replica of `master`, by full copy: data, replid, offset; connections stay, its own data are gone.  Also how
 * a demoted master comes back. */
void redis_attach(struct redis_server *replica, struct redis_server *master);
struct redis_server *redis_master_of(const struct redis_server *replica); /* NULL: it is a master */
/* Apply the master's transactions up to this offset (UINT64_MAX: all); returns the replica's offset.  When the master
 * has had another history since (promoted elsewhere, restarted) this is a full copy, as Redis makes one. */
uint64_t redis_replicate(struct redis_server *replica, uint64_t up_to);
/* The master hears how far the replica has come; call when that message arrives. */
void redis_acknowledge(struct redis_server *replica);
unsigned redis_acked(const struct redis_server *master, uint64_t offset);
/* REPLICAOF NO ONE: a master from now on, with a new replid; its former master does not learn of it. */
void redis_promote(struct redis_server *server);

/* ---- faults ---- */

/* Remember the data as they are now, for REDIS_SNAPSHOT. */
void redis_save(struct redis_server *server);
enum redis_data { REDIS_EMPTY, REDIS_KEPT, REDIS_SNAPSHOT };
/* The process ends and another starts: no connection, no script, no subscription is left, a master has a new replid.
 * Data: none, all of it, or those of the last redis_save (none if there was none). */
void redis_reboot(struct redis_server *server, enum redis_data data);
/* Evict a key, as maxmemory would (the replicas are told); false: there was none, or it is a replica. */
bool redis_evict(struct redis_server *server, const char *key, size_t size);
/* Delete what has expired, as Redis does in the background; without it a key goes when it is next asked for. */
void redis_expire(struct redis_server *server);
/* Empty a master, as FLUSHALL would. */
void redis_flush(struct redis_server *server);

/* The keys in a fixed order, for choosing one: 0 to redis_count - 1 (among them some that have expired and not been
 * asked for).  Good until the next command. */
size_t redis_count(const struct redis_server *server);
const char *redis_key(const struct redis_server *server, size_t index, size_t *ret_size);

#endif
