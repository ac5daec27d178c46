/*
 * bench_redis.c - the floor of fetch and invalidate: blocking hiredis on the unix socket, one command at a time.
 */
#include "bench.h"

#include <hiredis/hiredis.h>
#include <string.h>
#include <sys/time.h>

/* A raw_redis is hiredis' own context; the name keeps its type out of the other files. */
static redisContext *context(struct raw_redis *redis)
{
    return (redisContext *)redis;
}

struct raw_redis *raw_redis_open(const char *socket, unsigned timeout_ms)
{
    struct timeval timeout = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
    redisContext *redis = redisConnectUnixWithTimeout(socket, timeout);

    if (redis && (redis->err || redisSetTimeout(redis, timeout) != REDIS_OK)) {
        redisFree(redis);
        redis = NULL;
    }
    return (struct raw_redis *)redis;
}

void raw_redis_close(struct raw_redis *redis)
{
    if (redis)
        redisFree(context(redis));
}

bool raw_redis_set(struct raw_redis *redis, const char *key, size_t key_size, const void *value, size_t size)
{
    redisReply *reply = redisCommand(context(redis), "SET %b %b", key, key_size, value, size);
    bool good = reply && reply->type == REDIS_REPLY_STATUS;

    if (reply)
        freeReplyObject(reply);
    return good;
}

int64_t raw_redis_get(struct raw_redis *redis, const char *key, size_t key_size, void *buf, size_t size)
{
    redisReply *reply = redisCommand(context(redis), "GET %b", key, key_size);
    int64_t got = -1;

    if (reply && reply->type == REDIS_REPLY_STRING && (size_t)reply->len <= size) {
        memcpy(buf, reply->str, (size_t)reply->len);
        got = (int64_t)reply->len;
    }
    if (reply)
        freeReplyObject(reply);
    return got;
}

bool raw_redis_publish(struct raw_redis *redis, const char *channel, const void *data, size_t size)
{
    redisReply *reply = redisCommand(context(redis), "PUBLISH %s %b", channel, data, size);
    bool good = reply && reply->type == REDIS_REPLY_INTEGER && reply->integer > 0;

    if (reply)
        freeReplyObject(reply);
    return good;
}

bool raw_redis_subscribe(struct raw_redis *redis, const char *channel)
{
    redisReply *reply = redisCommand(context(redis), "SUBSCRIBE %s", channel);
    bool good = reply && reply->type == REDIS_REPLY_ARRAY;

    if (reply)
        freeReplyObject(reply);
    return good;
}

bool raw_redis_next(struct raw_redis *redis, void *ret_message, size_t size)
{
    void *received = NULL;
    const redisReply *reply;
    bool good;

    if (redisGetReply(context(redis), &received) != REDIS_OK)
        return false;
    reply = received; /* "message", channel, payload */
    good = reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 && reply->element[2]->type == REDIS_REPLY_STRING &&
           (size_t)reply->element[2]->len == size;
    if (good)
        memcpy(ret_message, reply->element[2]->str, size);
    freeReplyObject(received);
    return good;
}
