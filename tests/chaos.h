/*
 * chaos.h - a faulty network for a test: freshet-chaos, started by the test and ended with it, by its own pid.
 *
 *     struct chaos net;
 *     chaos_start(&net, redis.url, CHAOS_UNIX, NULL);
 *     by_way = chaos_redis(&net, &redis);                  for host_join
 *     chaos_do(&net, "latency 50 jitter 10");
 *     EXPECT(test_until(chaos_number(&net, "down.lost") > 0, 5000));
 *
 * The program is FRESHET_CHAOS, or the one beside this program in the build.
 */
#ifndef TESTS_CHAOS_H
#define TESTS_CHAOS_H

#include <hosts.h>
#include <sys/types.h>

enum chaos_kind { CHAOS_UNIX, CHAOS_TCP };

struct chaos {
    pid_t pid;
    char control[200];
    char address[200]; /* where it listens, "tcp:HOST:PORT" or "unix:PATH" */
    int port;          /* 0: a unix socket */
};

const char *chaos_program(void);
/* Start it towards `to` ("unix:PATH", "unix://PATH" or "tcp:HOST:PORT") with more words of the command line
 * (NULL-terminated; NULL: none), and wait until it listens. */
void chaos_start(struct chaos *chaos, const char *to, enum chaos_kind kind, const char *const *more);
/* SIGTERM and wait; EXPECTs that it ends well. */
void chaos_stop(struct chaos *chaos);
/* The same Redis by way of the proxy: for host_join.  redis_do goes on talking to it directly. */
struct redis chaos_redis(const struct chaos *chaos, const struct redis *redis);

/* One command; the text of its answer, "OK ..." or "ERR ...".  Good until the 16th call after. */
const char *chaos_say(const struct chaos *chaos, const char *line);
/* The same; EXPECTs OK, and returns what stands behind it. */
const char *chaos_do(const struct chaos *chaos, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A number that stat tells: "connections", "up.lost". */
long long chaos_number(const struct chaos *chaos, const char *name);
/* The number behind a dotted name in any of its answers; EXPECTs that there is one. */
long long chaos_find(const char *json, const char *name);
/* The connection that a TCP server knows by this port of its client; 0: none. */
long long chaos_connection(const struct chaos *chaos, int port);

#endif
