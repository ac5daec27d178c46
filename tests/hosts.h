/*
 * hosts.h - what tests of several hosts share: a private Redis, keyrings, caches that join.
 *
 * Every server is started by the test itself, listens on a unix socket in a fresh directory (and on 127.0.0.1 when
 * asked), and ends with the test, by its own pid.
 */
#ifndef TESTS_HOSTS_H
#define TESTS_HOSTS_H

#include <freshet.h>
#include <sys/types.h>

struct redis {
    pid_t pid;
    char dir[128];
    char socket[160];
    char url[200];     /* unix://SOCKET */
    int port;          /* 0: unix socket only */
    char password[64]; /* set it after telling the server one ("ACL SETUSER", "--requirepass"): redis_do then says it
                          first */
    char more[16][80]; /* the arguments given, for redis_restart */
    char clock[160];   /* a file that says how far its wall clock is off; "": it is right */
};

/* Start redis-server with a few more arguments ("--save", "", ..., NULL-terminated; NULL: none). Waits until it
 * answers. */
void redis_start(struct redis *redis, const char *const *more);
void redis_start_tcp(struct redis *redis, const char *const *more); /* also on a free port of 127.0.0.1 */
/* With a wall clock of its own, which redis_jump puts so many seconds off; CLOCK_MONOTONIC stays right. */
void redis_start_on_clock(struct redis *redis, const char *const *more);
void redis_jump(struct redis *redis, int seconds);
/* Give this process, which is about to exec, such a clock; `clock` is the file that host_set_clock writes. */
void host_preload_clock(const char *clock);
void host_set_clock(const char *clock, int seconds);
void redis_stop(struct redis *redis);                               /* SIGTERM, wait */
void redis_restart(struct redis *redis); /* kill -9 and start again in the same place, without its data */
/* One command as redis-cli would: space-separated words (single quotes group); the reply's text as redis-cli --raw
 * shows it
 * ("(nil)" for nothing, errors with their "-", an array's elements a line each); good until the 16th call after. */
const char *redis_do(struct redis *redis, const char *format, ...) __attribute__((format(printf, 2, 3)));
long long redis_int(struct redis *redis, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for any bytes; ret_size may be NULL. */
const char *redis_ask(struct redis *redis, int argc, const void *const *argv, const size_t *sizes, size_t *ret_size);

/* A keyring of a fresh fleet, made by freshet_keygen in a fresh directory.  Static storage, the same file for the whole
 * test. */
const char *host_keyring(void);

/* Open a cache on `dir` with sensible options for tests (bound_ms 0: the default), and join; EXPECTs that it works. */
freshet *host_solo(const char *dir, unsigned bound_ms);                      /* no fleet */
freshet *host_join(const char *dir, struct redis *redis, unsigned bound_ms); /* OK, proven */

/* Shortcuts on NUL-terminated strings. */
freshet_result host_get(freshet *cache, const char *key, char *value,
                        size_t size); /* value: NUL-terminated copy; may be NULL */
freshet_result host_put(freshet *cache, const char *key, const char *value);
freshet_result host_invalidate(freshet *cache, const char *key);
bool host_gets(freshet *cache, const char *key, const char *value); /* OK and just this value */
/* get with tier_only. */
freshet_result host_peek(freshet *cache, const char *key, char *value, size_t size);
/* A loader that answers the string `arg`. */
freshet_result host_loader(struct freshet_load_request *request, freshet_buf *value, void *arg);

/* What the library says of itself. */
freshet_stats host_stats(freshet *cache);
/* Is it proven just now that the host missed nothing?  And in another epoch than this one? */
bool host_proven(freshet *cache);
bool host_proven_in_another(freshet *cache, uint64_t epoch);
/* Put through a, and have it in the tiers of both. */
void host_share(freshet *a, freshet *b, const char *key, const char *value);

#endif
