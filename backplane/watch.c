/*
 * watch.c - look over a fleet's shoulder without being a part of it: freshet_watch, and the small public helpers for
 * keys.
 *
 * A loop of its own subscribes; what it hears goes through a bounded queue to the caller's thread, which verifies,
 * decodes and calls back.  A callback that is slow loses messages (and is not told: the channel may lose them as
 * well), never memory.
 */
#include <fleet.h>

#include <stdio.h>
#include <stdlib.h>

#define WATCH_QUEUE      1024u
#define WATCH_PAUSE_NS   (250 * FLEET_NS_PER_MS)
#define WATCH_CONNECT_MS 5000u

struct watch_message {
    uint32_t partition;
    size_t size;
    char *bytes;
};

struct watch {
    struct url url;
    struct keyring *keyring;
    struct loop *loop;
    uint32_t connect_ms;
    uint32_t partitions;
    uint8_t cache[16];
    struct fleet_names names[FRESHET_PARTITIONS_MAX];

    struct link *link; /* the loop's thread */

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t news;
    struct watch_message queue[WATCH_QUEUE];
    uint32_t first, count;
    freshet_result ended; /* why the connection is no more; FRESHET_OK: it is */
    char why[300];
};

/* ---- the loop's thread ---- */

static void watch_end(struct watch *watch, freshet_result why, const char *text)
{
    pthread_mutex_lock(&watch->lock);
    if (watch->ended == FRESHET_OK) {
        watch->ended = why;
        (void)snprintf(watch->why, sizeof watch->why, "%s", text);
    }
    pthread_cond_broadcast(&watch->news);
    pthread_mutex_unlock(&watch->lock);
}

static void watch_subscribed(struct link *link, const struct resp *reply, void *arg)
{
    char text[300];

    (void)link;
    if (!reply || reply->type != RESP_ERROR)
        return; /* a lost connection is told by `down` */
    (void)snprintf(text, sizeof text, "Redis refuses SUBSCRIBE (%.120s): give its user &freshet:* +subscribe",
                   reply->text);
    watch_end(arg, FRESHET_EREDIS, text);
}

static void watch_up(struct link *link, void *arg)
{
    struct watch *watch = arg;
    const char *channels[FRESHET_PARTITIONS_MAX];

    for (uint32_t p = 0; p < watch->partitions; p++)
        channels[p] = watch->names[p].channel;
    (void)link_subscribe(link, (int)watch->partitions, channels, WATCH_CONNECT_MS, watch_subscribed, watch);
}

static void watch_down(struct link *link, freshet_result why, void *arg)
{
    (void)link;
    watch_end(arg, why == FRESHET_EREDIS ? FRESHET_EREDIS : FRESHET_ENET, freshet_error());
}

static void watch_push(struct link *link, const struct resp *message, void *arg)
{
    struct watch *watch = arg;
    struct watch_message next = {0};

    (void)link;
    if (message->type != RESP_ARRAY || message->count != 3 || message->items[1]->type != RESP_STRING ||
        message->items[2]->type != RESP_STRING || message->items[2]->size == 0)
        return;
    while (next.partition < watch->partitions &&
           strcmp(message->items[1]->text, watch->names[next.partition].channel) != 0)
        next.partition++;
    if (next.partition == watch->partitions)
        return;
    next.size = message->items[2]->size;
    if (next.size > FRAME_CHANNEL_HEAD + FRAME_MAX)
        next.size = FRAME_CHANNEL_HEAD + FRAME_MAX + 1; /* too long by one is garbled enough */
    if (!(next.bytes = malloc(next.size)))
        return;
    memcpy(next.bytes, message->items[2]->text, next.size);
    pthread_mutex_lock(&watch->lock);
    if (watch->count < WATCH_QUEUE) {
        watch->queue[(watch->first + watch->count++) % WATCH_QUEUE] = next;
        next.bytes = NULL;
    }
    pthread_cond_broadcast(&watch->news);
    pthread_mutex_unlock(&watch->lock);
    free(next.bytes);
}

static const struct link_events watch_link_events = {.up = watch_up, .down = watch_down, .push = watch_push};

static void watch_start(struct loop *loop, void *arg)
{
    struct watch *watch = arg;

    watch->link =
        link_open(loop, &watch->url, watch->connect_ms, FRAME_MAX + FLEET_REPLY_ROOM, &watch_link_events, watch);
    if (watch->link)
        link_start(watch->link);
    else
        watch_end(watch, FRESHET_ENOMEM, "no memory to watch");
}

static void watch_wake(struct loop *loop, void *arg)
{
    (void)loop;
    (void)arg;
}

static void watch_stop(struct loop *loop, void *arg)
{
    struct watch *watch = arg;

    (void)loop;
    if (watch->link)
        link_close(watch->link);
    watch->link = NULL;
}

static void watch_lost(struct loop *loop, void *arg)
{
    struct watch *watch = arg;

    (void)loop;
    watch->link = NULL;
    watch_end(watch, FRESHET_ENET, "the host program closed descriptors of the library's");
}

static const struct loop_events watch_loop_events = {
    .start = watch_start, .wake = watch_wake, .stop = watch_stop, .lost = watch_lost};

/* ---- the caller's thread ---- */

/* Tell of one message; false: the caller has seen enough. */
static bool watch_show(struct watch *watch, const struct watch_message *message, freshet_watch_fn fn, void *arg)
{
    freshet_frame_seen seen = FRESHET_INIT(freshet_frame_seen);
    const uint8_t *bytes = (const uint8_t *)message->bytes, *body;
    enum seal_verdict verdict = SEAL_SHORT;
    struct frame frame;
    size_t body_size;

    seen.why = "garbled";
    seen.kind = "unknown";
    seen.partition = message->partition;
    if (message->size >= FRAME_CHANNEL_HEAD) {
        seen.position = bytes_get64(bytes);
        seen.epoch = bytes_get64(bytes + 8);
        verdict = seal_verify(watch->keyring, bytes + FRAME_CHANNEL_HEAD, message->size - FRAME_CHANNEL_HEAD, &body,
                              &body_size, &seen.key_id);
        seen.why = seal_verdict_name(verdict);
    }
    if (verdict == SEAL_GOOD) {
        seen.why = "garbled";
        if (receive_judge(body, body_size, watch->cache, message->partition, watch->partitions, &frame) ==
            RECEIVE_GOOD) {
            seen.verified = true;
            seen.why = "";
            seen.kind = frame_kind_name(frame.kind);
            seen.version = frame.version;
            seen.writer = frame.writer;
            seen.counter = frame.counter;
            seen.source_version = frame.source_version;
            seen.keys = frame.count;
            seen.hashes = frame.hashes;
        }
    }
    return fn(&seen, arg);
}

/* The next message, or none within a pause; *ret_result: the connection has ended (and the queue is empty). */
static bool watch_next(struct watch *watch, int64_t end_ns, struct watch_message *ret_message,
                       freshet_result *ret_result)
{
    int64_t left = end_ns - fleet_now_ns();
    struct timespec until;
    bool got;

    if (left > WATCH_PAUSE_NS)
        left = WATCH_PAUSE_NS;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (left > 0)
        until.tv_nsec += left;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&watch->lock);
    if (watch->count == 0 && watch->ended == FRESHET_OK)
        (void)pthread_cond_timedwait(&watch->news, &watch->lock, &until);
    if ((got = watch->count > 0)) {
        *ret_message = watch->queue[watch->first];
        watch->first = (watch->first + 1) % WATCH_QUEUE;
        watch->count--;
    } else {
        *ret_result = watch->ended;
    }
    pthread_mutex_unlock(&watch->lock);
    return got;
}

static freshet_result watch_run(struct watch *watch, uint32_t duration_ms, freshet_watch_fn fn, void *arg)
{
    int64_t end = duration_ms ? fleet_now_ns() + duration_ms * FLEET_NS_PER_MS : INT64_MAX;
    freshet_result result = FRESHET_OK;

    while (result == FRESHET_OK && fleet_now_ns() < end) {
        struct watch_message message = {0};

        if (watch_next(watch, end, &message, &result)) {
            bool more = watch_show(watch, &message, fn, arg);

            free(message.bytes);
            if (!more)
                return FRESHET_OK;
        } else if (result == FRESHET_OK && duration_ms == 0 && !fn(NULL, arg)) {
            return FRESHET_OK;
        }
    }
    return result == FRESHET_OK ? FRESHET_OK : remote_fail(result, "%s", watch->why);
}

static void watch_free(struct watch *watch)
{
    while (watch->count > 0) {
        free(watch->queue[watch->first].bytes);
        watch->first = (watch->first + 1) % WATCH_QUEUE;
        watch->count--;
    }
    if (watch->keyring)
        keyring_close(watch->keyring);
    url_free(&watch->url);
    pthread_cond_destroy(&watch->news);
    pthread_mutex_destroy(&watch->lock);
    free(watch);
}

static freshet_result watch_open(struct watch **ret_watch, const char *name, uint32_t partitions, const char *url,
                                 const freshet_join_options *options)
{
    struct watch *watch = calloc(1, sizeof *watch);
    pthread_condattr_t attributes;
    freshet_result result;

    if (!watch)
        return remote_fail(FRESHET_ENOMEM, "no memory to watch");
    pthread_mutex_init(&watch->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&watch->news, &attributes);
    pthread_condattr_destroy(&attributes);
    watch->connect_ms = options->connect_ms ? options->connect_ms : 1000;
    watch->partitions = partitions;
    remote_hash(name, name, strlen(name), watch->cache);
    for (uint32_t p = 0; p < partitions; p++)
        fleet_name(&watch->names[p], name, p);
    result = url_parse(&watch->url, url);
    if (result == FRESHET_OK)
        result = seal_init();
    if (result == FRESHET_OK)
        result = keyring_open(&watch->keyring, options->keyring);
    if (result == FRESHET_OK)
        result = loop_open(&watch->loop, &watch_loop_events, watch);
    if (result != FRESHET_OK) {
        watch_free(watch);
        return result;
    }
    *ret_watch = watch;
    return FRESHET_OK;
}

static freshet_result watch_check(const char *name, uint32_t partitions, const char *url,
                                  const freshet_join_options *options, freshet_watch_fn fn)
{
    if (!url || !fn)
        return remote_fail(FRESHET_EINVAL, "freshet_watch: the %s is NULL", url ? "callback" : "url");
    if (!options || options->struct_size < sizeof *options || !options->keyring)
        return remote_fail(FRESHET_EINVAL, "freshet_watch: give options with the keyring's path");
    if (partitions > FRESHET_PARTITIONS_MAX)
        return remote_fail(FRESHET_EINVAL, "partitions is %u: give at most %u", partitions, FRESHET_PARTITIONS_MAX);
    if (name[0] == '\0' || strnlen(name, FRESHET_NAME_MAX + 1) > FRESHET_NAME_MAX || name[0] == '.' ||
        name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")] != '\0')
        return remote_fail(FRESHET_EINVAL,
                           "the name must be 1 to %u letters, digits, '.', '_' or '-', not starting with '.'",
                           FRESHET_NAME_MAX);
    return FRESHET_OK;
}

freshet_result freshet_watch(const char *name, uint32_t partitions, const char *url,
                             const freshet_join_options *options, uint32_t duration_ms, freshet_watch_fn fn, void *arg)
{
    struct watch *watch = NULL;
    freshet_result result;

    if (!name)
        name = "default";
    if ((result = watch_check(name, partitions, url, options, fn)) != FRESHET_OK)
        return result;
    if ((result = watch_open(&watch, name, partitions ? partitions : 1, url, options)) != FRESHET_OK)
        return result;
    result = watch_run(watch, duration_ms, fn, arg);
    if (loop_close(watch->loop)) /* else its thread may still be in our memory */
        watch_free(watch);
    return result;
}

/* ---- keys ---- */

freshet_result freshet_keygen(const char *path, const char *like)
{
    freshet_result result;

    if (!path)
        return remote_fail(FRESHET_EINVAL, "freshet_keygen: the path is NULL");
    if ((result = seal_init()) != FRESHET_OK)
        return result;
    return keyring_generate(path, like);
}

void freshet_key_hash(const char *name, const void *key, size_t key_size, uint8_t ret_hash[16])
{
    remote_hash(name ? name : "default", key, key_size, ret_hash);
}

void freshet_tag_hash(const char *name, const char *tag, bool name_space, uint8_t ret_hash[16])
{
    remote_tag_hash(name ? name : "default", name_space, tag, strlen(tag), ret_hash);
}
