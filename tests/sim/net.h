/*
 * net.h - connections between simulated processes and simulated Redis servers.
 *
 * A connection is two queues of bytes that arrive in order, each a while after it was sent; between connections nothing
 * is ordered.  What a server has received it runs at once (redis.h), and its replies travel back.  libc.c makes sockets
 * of connections for line.c, loop.c makes streams of them for link.c.
 */
#ifndef SIM_NET_H
#define SIM_NET_H

#include "redis.h"
#include "sim.h"

#define NET_SERVERS 2u

enum net_state { NET_NEW, NET_CONNECTING, NET_OPEN, NET_ENDED };

struct net_chunk;

struct sim_conn {
    struct sim_conn *next, *process_next;
    uint64_t id; /* the server's name for the client, too */
    struct sim_process *process;
    unsigned server;
    enum net_state state;
    int error;        /* why it ended or could not begin: an errno; 0: the peer has closed it */
    bool server_gone; /* the server's end is closed: what arrives there is lost */
    bool blocking;
    char *in; /* arrived and not read yet */
    size_t in_size, in_room;
    struct sim_waiters waiters;
    struct sim_fiber *loop; /* to be woken too */
    struct net_chunk *out_first, **out_last, *back_first, **back_last;
    int64_t out_time, back_time; /* of the last that was sent */
    char *heard;                 /* at the server, not whole yet */
    size_t heard_size, heard_room;
    struct sim_op *op;        /* whose command is being heard */
    struct redis_reply *held; /* a WAIT */
};

/* What the world is told of each command that a server has run. */
typedef void (*net_ran_fn)(unsigned server, struct sim_op *op, int argc, const char *const *argv, const size_t *sizes,
                           const struct redis_reply *reply);

struct net_server {
    struct redis_server *model;
    bool down;            /* refuses */
    int64_t paused_until; /* takes nothing up */
};

struct net {
    struct redis_world *world;
    struct net_server servers[NET_SERVERS];
    struct sim_random random;
    struct sim_conn *conns;
    uint64_t next_id;
    int64_t latency_ns;      /* one way, at least */
    double spike_chance;     /* of a message that takes long */
    double duplicate_chance; /* of a published message */
    double lose_chance;      /* of a published message (its connection's buffer overran, say) */
    double kill_chance;      /* of a connection's end with a message on its way */
    net_ran_fn ran;
};
extern struct net net;

void net_start(uint64_t seed, struct redis_lua *lua, net_ran_fn ran);
struct sim_conn *net_new(struct sim_process *process);
void net_connect(struct sim_conn *conn);
/* False: it has ended. */
bool net_send(struct sim_conn *conn, const void *bytes, size_t size);
size_t net_take(struct sim_conn *conn, void *bytes, size_t room); /* of what has arrived */
void net_close(struct sim_conn *conn);                            /* by the client */
void net_reset(struct sim_conn *conn, int error);                 /* by the network or the server */
void net_reset_all(const struct sim_host *host, int server);      /* of a host (NULL: all) at a server (-1: all) */
void net_forget(struct sim_process *process);                     /* it was killed */

#endif
