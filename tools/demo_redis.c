/*
 * demo_redis.c - the demo's own Redis, and its own commands to it; of the demo's files the only one with <hiredis.h>.
 *
 * Freshet talks to Redis by itself.  This is for what stands beside it: the naive cache-aside that it is compared with,
 * and the mischief that it has to bear.
 */
#include "demo.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_MS 10000

struct demo_redis {
    redisContext *context;
};

static redisContext *connect_now(const struct demo *demo)
{
    redisContext *context =
        redisConnectUnixWithTimeout(demo_path(demo, "redis.sock"), (struct timeval){.tv_sec = 5});

    if (context && context->err == 0)
        return context;
    if (context)
        redisFree(context);
    return NULL;
}

/* In the child: become the server.  It ends with us, keeps nothing, and listens on its socket only. */
_Noreturn static void become_server(const struct demo *demo)
{
    const char *socket = demo_path(demo, "redis.sock"), *log = demo_path(demo, "redis.log");

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700", "--save",
           "", "--appendonly", "no", "--dir", demo->dir, "--logfile", log, "--daemonize", "no", (char *)NULL);
    fprintf(stderr, "demo: redis-server: %s\n", strerror(errno));
    _exit(127);
}

pid_t demo_redis_start(const struct demo *demo)
{
    int64_t end = demo_now_ns() + START_MS * 1000000LL;
    pid_t pid = fork();

    if (pid == 0)
        become_server(demo);
    while (pid > 0 && demo_now_ns() < end && waitpid(pid, NULL, WNOHANG) == 0) {
        redisContext *context = connect_now(demo);

        if (context) {
            redisFree(context);
            return pid;
        }
        demo_pause(5000000);
    }
    fprintf(stderr, "demo: redis-server did not start; see its log above or run it by hand\n");
    if (pid > 0)
        (void)kill(pid, SIGKILL);
    return -1;
}

struct demo_redis *demo_redis_open(const struct demo *demo)
{
    struct demo_redis *redis = calloc(1, sizeof *redis);

    if (redis && !(redis->context = connect_now(demo))) {
        free(redis);
        redis = NULL;
    }
    return redis;
}

void demo_redis_close(struct demo_redis *redis)
{
    if (!redis)
        return;
    redisFree(redis->context);
    free(redis);
}

/* An integer reply, or -1. */
static long long integer(redisReply *reply)
{
    long long number = reply && reply->type == REDIS_REPLY_INTEGER ? reply->integer : -1;

    freeReplyObject(reply);
    return number;
}

int demo_redis_get(struct demo_redis *redis, const char *key, uint8_t value[DEMO_VALUE_MAX])
{
    redisReply *reply = redisCommand(redis->context, "GET naive:%s", key);
    int size = -1;

    if (reply && reply->type == REDIS_REPLY_NIL)
        size = 0;
    if (reply && reply->type == REDIS_REPLY_STRING && (size_t)reply->len <= DEMO_VALUE_MAX) {
        size = (int)reply->len;
        memcpy(value, reply->str, (size_t)size);
    }
    freeReplyObject(reply);
    return size;
}

bool demo_redis_setex(struct demo_redis *redis, const char *key, int ttl_s, const void *value, size_t size)
{
    redisReply *reply = redisCommand(redis->context, "SETEX naive:%s %d %b", key, ttl_s, value, size);
    bool done = reply && reply->type == REDIS_REPLY_STATUS;

    freeReplyObject(reply);
    return done;
}

bool demo_redis_del(struct demo_redis *redis, const char *key)
{
    return integer(redisCommand(redis->context, "DEL naive:%s", key)) >= 0;
}

long long demo_redis_cut(struct demo_redis *redis)
{
    return integer(redisCommand(redis->context, "CLIENT KILL TYPE pubsub"));
}

long long demo_redis_publish(struct demo_redis *redis, const char *channel, const void *bytes, size_t size)
{
    return integer(redisCommand(redis->context, "PUBLISH %s %b", channel, bytes, size));
}

size_t demo_redis_hear(const struct demo *demo, const char *channel, uint8_t *message, size_t most, unsigned ms)
{
    redisContext *context = connect_now(demo);
    size_t size = 0;

    if (!context)
        return 0;
    (void)redisSetTimeout(context, (struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000});
    freeReplyObject(redisCommand(context, "SUBSCRIBE %s", channel));
    for (redisReply *reply = NULL; size == 0 && redisGetReply(context, (void **)&reply) == REDIS_OK; reply = NULL) {
        bool array = reply->type == REDIS_REPLY_ARRAY && reply->elements == 3;

        if (array && strcmp(reply->element[0]->str, "message") == 0 && (size_t)reply->element[2]->len <= most) {
            size = (size_t)reply->element[2]->len;
            memcpy(message, reply->element[2]->str, size);
        }
        freeReplyObject(reply);
    }
    redisFree(context);
    return size;
}

bool demo_redis_version(struct demo_redis *redis, char version[32])
{
    redisReply *reply = redisCommand(redis->context, "INFO server");
    const char *line = reply && reply->type == REDIS_REPLY_STRING ? strstr(reply->str, "redis_version:") : NULL;
    bool known = line && sscanf(line, "redis_version:%31[0-9a-zA-Z.-]", version) == 1;

    freeReplyObject(reply);
    return known;
}
