/*
 * bench_redis.c - the floor of fetch and invalidate: blocking hiredis on the unix socket, one command at a time.
 */
#include "bench.h"

#include <hiredis/hiredis.h>
#include <stdlib.h>
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

/* ---- a script that somebody else sent ---- */

bool raw_redis_script(struct raw_redis *redis, const struct raw_script *script)
{
    redisReply *reply =
        redisCommandArgv(context(redis), script->count, (const char **)script->words, script->sizes);
    bool good = reply && reply->type == REDIS_REPLY_ARRAY && reply->elements > 0 &&
                reply->element[0]->type == REDIS_REPLY_STRING && strcmp(reply->element[0]->str, "OK") == 0;

    if (reply)
        freeReplyObject(reply);
    return good;
}

bool raw_redis_watch(struct raw_redis *redis)
{
    redisReply *reply = redisCommand(context(redis), "MONITOR");
    bool good = reply && reply->type == REDIS_REPLY_STATUS;

    if (reply)
        freeReplyObject(reply);
    return good;
}

void raw_script_free(struct raw_script *script)
{
    for (int i = 0; i < script->count; i++)
        free(script->words[i]);
    *script = (struct raw_script){0};
}

static int hex(char c)
{
    return c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
}

/* One word as MONITOR quotes it, from behind its quotation mark to behind the one that ends it. */
static const char *unquote(const char *at, char *word, size_t *ret_size)
{
    static const char plain[] = "nrtab", meant[] = "\n\r\t\a\b";
    size_t size = 0;

    for (; *at && *at != '"'; size++) {
        const char *found;

        if (*at != '\\') {
            word[size] = *at++;
        } else if (at[1] == 'x' && at[2] && at[3]) {
            word[size] = (char)(hex(at[2]) << 4 | hex(at[3]));
            at += 4;
        } else if (at[1]) {
            found = strchr(plain, at[1]);
            word[size] = found ? meant[found - plain] : at[1];
            at += 2;
        } else {
            return NULL;
        }
    }
    *ret_size = size;
    return *at ? at + 1 : NULL;
}

/* A line of MONITOR's into words; false: it is no EVALSHA, or has too many. */
static bool script_read(struct raw_script *script, const char *line)
{
    const char *at = strstr(line, "] \"EVALSHA\"");

    *script = (struct raw_script){0};
    for (at = at ? at + 2 : NULL; at && *at == '"';) {
        char *word = script->count < (int)RAW_WORDS_MAX ? malloc(strlen(at) + 1) : NULL;

        if (!word)
            break;
        script->words[script->count] = word;
        at = unquote(at + 1, word, &script->sizes[script->count++]);
        if (at && *at == '\0')
            return true;
        at = at && *at == ' ' ? at + 1 : NULL;
    }
    raw_script_free(script);
    return false;
}

bool raw_redis_overhear(struct raw_redis *redis, struct raw_script *ret_script)
{
    for (;;) {
        void *received = NULL;
        const redisReply *reply;
        bool found;

        if (redisGetReply(context(redis), &received) != REDIS_OK)
            return false;
        reply = received;
        found = reply->type == REDIS_REPLY_STATUS && script_read(ret_script, reply->str);
        freeReplyObject(received);
        if (found)
            return true;
    }
}

/* ---- the channel ---- */

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
