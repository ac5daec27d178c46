/*
 * async.c - calls for an event loop: each is the blocking call of freshet.c, run in a fiber; see freshet_async.h.
 *
 * A call copies what it was given into one block, starts its fiber, and is told of by one event at a time: a loader to
 * be called, or its end.  What comes to pass within the very call that began or answered it is told there; the rest by
 * freshet_async_next, which lets one fiber go on at a time, until there is something to tell.
 */
#include <freshet_async.h>

#include <changing.h>
#include <clock.h>
#include <fiber.h>
#include <log.h>
#include <options.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <tags.h>
#include <unistd.h>

#define CALLS_DEFAULT 16384u
#define ASKS_DEFAULT  32u
#define CLOSE_LOOK_MS 100
/* The first version's event: who has less has no place for what he is to free. */
#define EVENT_LEAST (offsetof(freshet_event, request) + sizeof(freshet_load_request *))

enum call_kind {
    CALL_GET,
    CALL_LOAD,
    CALL_PUT,
    CALL_PUT_ABSENT,
    CALL_INVALIDATE,
    CALL_TAGS,
    CALL_NAMESPACE,
    CALL_CLEAR,
    CALL_GUARD,
    CALL_GUARD_END
};

struct freshet_call {
    struct freshet_async *async;
    struct freshet_call *next, **link; /* among all */
    enum call_kind kind;
    freshet_event_kind event; /* what is to be told of it; NONE: nothing */
    freshet *cache;
    void *user;
    struct fiber *fiber;
    bool forgotten;

    /* What was given; pointers lead into `block`. */
    char *block;
    freshet_key key;
    freshet_key *keys;
    size_t count;
    const void *value;
    size_t value_size;
    const char **names; /* tags that change */
    const char *name;   /* a namespace that is cleared */
    union {
        freshet_read_options read;
        freshet_load_options load;
        freshet_write_options write;
        freshet_guard_options guard;
    } options;
    freshet_host_fn on_host;
    void *on_host_arg;
    freshet_guard *guard;

    /* What a loader is asked, and answers. */
    freshet_load_request *request; /* NULL: no loader is waited for */
    freshet_buf *loaded;
    freshet_result answered;

    /* What came of it. */
    freshet_result result;
    char sentence[LOG_SENTENCE];
    freshet_buf buf;
    freshet_answer answer;
    freshet_change change;
};

struct freshet_async {
    struct fibers *fibers;
    pid_t pid;
    uint32_t calls_max, count;
    bool busy; /* in a call on it */
    struct freshet_call *calls;
    struct freshet_call *told; /* by freshet_async_next, which runs one fiber at a time: there is one at most */
    struct freshet_call *front; /* the one whose event is told at once */
    /* Of the event told last.  Not in it: they may grow, and what stands behind them must not move. */
    char sentence[LOG_SENTENCE];
    freshet_answer answer;
    freshet_change change;
};

/* ---- the calls, each in its fiber ---- */

static void call_post(struct freshet_call *call, freshet_event_kind event)
{
    struct freshet_async *async = call->async;

    call->event = event;
    if (async->front != call)
        async->told = call;
}

/* As a loader: have the event loop call it, and wait for what it answers. */
static freshet_result call_loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    struct freshet_call *call = arg;

    if (call->forgotten)
        return FRESHET_ELOAD;
    call->request = request;
    call->loaded = value;
    call_post(call, FRESHET_EVENT_LOAD);
    fiber_suspend();
    call->request = NULL;
    return call->answered;
}

struct call_host {
    const struct freshet_call *call;
    const char *host;
    bool applied;
};

static void call_tell_host(void *arg)
{
    const struct call_host *told = arg;

    told->call->on_host(told->host, told->applied, told->call->on_host_arg);
}

static void call_host(const char *host, bool applied, void *arg)
{
    struct call_host told = {arg, host, applied};

    if (!told.call->forgotten)
        wait_outside(call_tell_host, &told);
}

static freshet_result call_run(struct freshet_call *call)
{
    freshet *cache = call->cache;
    const freshet_write_options *write = &call->options.write;

    switch (call->kind) {
    case CALL_GET:
        return freshet_get(cache, call->key.data, call->key.size, &call->options.read, &call->buf, &call->answer);
    case CALL_LOAD:
        return freshet_load(cache, call->key.data, call->key.size, &call->options.load, call_loader, call, &call->buf,
                            &call->answer);
    case CALL_PUT:
        return freshet_put(cache, call->key.data, call->key.size, call->value, call->value_size, write, &call->change);
    case CALL_PUT_ABSENT:
        return freshet_put_absent(cache, call->key.data, call->key.size, write, &call->change);
    case CALL_INVALIDATE:
        return freshet_invalidate_many(cache, call->keys, call->count, write, &call->change);
    case CALL_TAGS:
        return freshet_invalidate_tags(cache, call->names, call->count, write, &call->change);
    case CALL_NAMESPACE:
        return freshet_clear_namespace(cache, call->name, write, &call->change);
    case CALL_CLEAR:
        return freshet_clear(cache, write, &call->change);
    case CALL_GUARD:
        return freshet_guard_begin(cache, call->keys, call->count, &call->options.guard, &call->guard);
    case CALL_GUARD_END:
        return freshet_guard_end(call->guard, write, &call->change);
    }
    return FRESHET_EINVAL;
}

static void call_free(struct freshet_call *call)
{
    if (call->next)
        call->next->link = call->link;
    *call->link = call->next;
    call->async->count--;
    freshet_buf_free(&call->buf);
    free(call->block);
    free(call);
}

static void call_main(void *arg)
{
    struct freshet_call *call = arg;

    call->result = call_run(call);
    if (call->result < 0)
        memcpy(call->sentence, freshet_error(), strlen(freshet_error()) + 1);
    if (call->kind == CALL_GUARD && call->result == FRESHET_OK && call->forgotten)
        (void)freshet_guard_end(call->guard, NULL, NULL);
    if (call->forgotten)
        call_free(call);
    else
        call_post(call, FRESHET_EVENT_DONE);
}

/* ---- a call's beginning ---- */

/* Copy bytes into the call's block, and see to the alignment of what comes next. */
static void *block_put(char **at, const void *data, size_t size)
{
    char *place = *at;

    if (size)
        memcpy(place, data, size);
    *at = place + ((size + 15) & ~(size_t)15);
    return place;
}

static size_t block_room(size_t size)
{
    return (size + 15) & ~(size_t)15;
}

/* A string with its end, or what is too long to be valid, cut. */
static char *block_string(char **at, const char *text, size_t most)
{
    size_t size = strnlen(text, most);
    char *place = *at;

    place[size] = '\0';
    memcpy(place, text, size);
    *at = place + block_room(size + 1);
    return place;
}

static size_t block_string_room(const char *text, size_t most)
{
    return text ? block_room(strnlen(text, most) + 1) : 0;
}

/* The pointers that a call is given, beside numbers; whatever it has none of is NULL or 0. */
struct given {
    freshet_key key;
    const freshet_key *keys;
    size_t count;
    const void *value;
    size_t value_size;
    const char *const *names; /* `count` of them */
    const char *name;
    const char *const *tags;
    size_t tag_count;
    const char *name_space, *token;
    freshet_guard *guard; /* not copied */
};

static freshet_result given_check(const struct given *given)
{
    freshet_result result;

    for (size_t i = 0; given->keys && i < given->count; i++)
        if ((result = changing_key_check(given->keys[i].data, given->keys[i].size)) != FRESHET_OK)
            return result;
    for (size_t i = 0; given->names && i < given->count; i++)
        if ((result = tags_check(given->names[i], "tag")) != FRESHET_OK)
            return result;
    if (given->tag_count > FRESHET_TAGS_MAX || (given->tag_count > 0 && !given->tags))
        return fail(FRESHET_EINVAL, "an entry has at most %u tags, not %zu%s", FRESHET_TAGS_MAX, given->tag_count,
                    given->tags ? "" : " behind a NULL");
    for (size_t i = 0; i < given->tag_count; i++)
        if ((result = tags_check(given->tags[i], "tag")) != FRESHET_OK)
            return result;
    return FRESHET_OK;
}

static size_t given_room(const struct given *given)
{
    size_t room = block_room(given->key.size) + block_room(given->value_size);

    for (size_t i = 0; given->keys && i < given->count; i++)
        room += block_room(given->keys[i].size) + sizeof *given->keys;
    for (size_t i = 0; given->names && i < given->count; i++)
        room += block_string_room(given->names[i], FRESHET_TAG_MAX) + sizeof *given->names;
    for (size_t i = 0; i < given->tag_count; i++)
        room += block_string_room(given->tags[i], FRESHET_TAG_MAX) + sizeof *given->tags;
    room += block_string_room(given->name, FRESHET_TAG_MAX + 1);
    room += block_string_room(given->name_space, FRESHET_TAG_MAX + 1);
    return room + block_string_room(given->token, FRESHET_TOKEN_SIZE) + 64; /* arrays end aligned too */
}

/* Copy it all; *given then has the copies. */
static freshet_result call_copy(struct freshet_call *call, struct given *given)
{
    freshet_result result = given_check(given);
    char *at;

    if (result != FRESHET_OK)
        return result;
    if (!(at = call->block = malloc(given_room(given))))
        return fail(FRESHET_ENOMEM, "no memory for a call");
    if (given->keys) {
        call->keys = block_put(&at, given->keys, given->count * sizeof *given->keys);
        for (size_t i = 0; i < given->count; i++)
            call->keys[i].data = block_put(&at, given->keys[i].data, given->keys[i].size);
    }
    if (given->names) {
        call->names = block_put(&at, given->names, given->count * sizeof *given->names);
        for (size_t i = 0; i < given->count; i++)
            call->names[i] = block_string(&at, given->names[i], FRESHET_TAG_MAX);
    }
    if (given->tags && given->tag_count) {
        const char **tags = block_put(&at, given->tags, given->tag_count * sizeof *given->tags);

        for (size_t i = 0; i < given->tag_count; i++)
            tags[i] = block_string(&at, given->tags[i], FRESHET_TAG_MAX);
        given->tags = tags;
    }
    call->count = given->count;
    call->key = (freshet_key){block_put(&at, given->key.data, given->key.size), given->key.size};
    if (given->value) /* an empty one is a value too */
        call->value = block_put(&at, given->value, given->value_size);
    call->value_size = given->value_size;
    call->name = given->name ? block_string(&at, given->name, FRESHET_TAG_MAX + 1) : NULL;
    given->name_space = given->name_space ? block_string(&at, given->name_space, FRESHET_TAG_MAX + 1) : NULL;
    given->token = given->token ? block_string(&at, given->token, FRESHET_TOKEN_SIZE) : NULL;
    return FRESHET_OK;
}

static freshet_result async_check(const freshet_async *async, const freshet_event *event)
{
    if (!async)
        return fail(FRESHET_EINVAL, "the freshet_async is NULL");
    if (async->pid != getpid())
        return fail(FRESHET_EINVAL, "the freshet_async is the parent process's: open one in this child");
    if (async->busy || wait_is_aside())
        return fail(FRESHET_EINVAL, "a call on the freshet_async is under way already: it is one thread's, and not to "
                                    "be called from its callbacks");
    if (event && (event->struct_size < EVENT_LEAST || event->struct_size > 4096))
        return fail(FRESHET_EINVAL, "freshet_event.struct_size is %zu: start it with FRESHET_INIT(freshet_event)",
                    event->struct_size);
    return FRESHET_OK;
}

static freshet_result call_make(freshet_async *async, freshet *cache, enum call_kind kind, void *user,
                                freshet_event *event, struct freshet_call **ret_call)
{
    struct freshet_call *call;
    freshet_result result = async_check(async, event);

    if (result != FRESHET_OK)
        return result;
    if (!cache || !event)
        return fail(FRESHET_EINVAL, "the %s is NULL", cache ? "event" : "cache");
    if (async->count >= async->calls_max)
        return fail(FRESHET_EBUSY, "%u calls are under way: wait for some, or raise calls_max", async->count);
    if (!(call = calloc(1, sizeof *call)))
        return fail(FRESHET_ENOMEM, "no memory for a call");
    call->async = async;
    call->kind = kind;
    call->cache = cache;
    call->user = user;
    call->answer.struct_size = sizeof call->answer;
    call->change.struct_size = sizeof call->change;
    call->link = &async->calls;
    if ((call->next = async->calls))
        call->next->link = &call->next;
    async->calls = call;
    async->count++;
    *ret_call = call;
    return FRESHET_OK;
}

/* ---- events ---- */

/* Tell of a call what is to be told; one that is done ends here. */
static void event_tell(struct freshet_call *call, freshet_event *event)
{
    freshet_event full = {.kind = call->event, .call = call, .user = call->user};
    struct freshet_async *async = call->async;
    size_t size = event->struct_size;

    call->event = FRESHET_EVENT_NONE;
    if (full.kind == FRESHET_EVENT_LOAD)
        full.request = call->request;
    if (full.kind == FRESHET_EVENT_DONE) {
        full.call = NULL;
        full.result = call->result;
        memcpy(async->sentence, call->sentence, strlen(call->sentence) + 1);
        full.error = async->sentence;
        full.value = call->buf;
        call->buf = (freshet_buf){0};
        async->answer = call->answer;
        async->change = call->change;
        full.answer = call->kind == CALL_GET || call->kind == CALL_LOAD ? &async->answer : NULL;
        full.change = full.answer || call->kind == CALL_GUARD ? NULL : &async->change;
        if (call->kind == CALL_GUARD && call->result == FRESHET_OK)
            full.guard = call->guard;
        call_free(call);
    }
    full.struct_size = size;
    memcpy(event, &full, size < sizeof full ? size : sizeof full);
}

/* The call has been begun or answered: tell how it stands. */
static void call_front(struct freshet_call *call, freshet_event *event)
{
    call->async->front = NULL;
    call->async->busy = false;
    event_tell(call, event);
}

/* Start the fiber, in front. */
static freshet_result call_start(struct freshet_call *call, freshet_event *event)
{
    freshet_async *async = call->async;
    freshet_result result;

    async->front = call;
    async->busy = true;
    result = fiber_start(async->fibers, call_main, call, &call->fiber);
    if (result == FRESHET_OK) {
        call_front(call, event);
        return FRESHET_OK;
    }
    async->front = NULL;
    async->busy = false;
    call_free(call);
    return result;
}

bool freshet_async_next(freshet_async *async, freshet_event *event)
{
    struct freshet_call *call;

    if (!event || async_check(async, event) != FRESHET_OK)
        return false;
    async->busy = true;
    while (!async->told && fibers_run(async->fibers))
        continue;
    async->busy = false;
    if (!(call = async->told)) {
        freshet_event none = {.struct_size = event->struct_size};

        memcpy(event, &none, event->struct_size < sizeof none ? event->struct_size : sizeof none);
        return false;
    }
    async->told = NULL;
    event_tell(call, event);
    return true;
}

freshet_result freshet_async_answer(freshet_async *async, freshet_call *call, freshet_result result, const void *value,
                                    size_t value_size, freshet_event *event)
{
    freshet_result checked = async_check(async, event);

    if (checked != FRESHET_OK)
        return checked;
    if (!event || !call || call->async != async || !call->request || call->event != FRESHET_EVENT_NONE)
        return fail(FRESHET_EINVAL, "freshet_async_answer: the call does not wait for a loader's answer");
    if (!value && value_size)
        return fail(FRESHET_EINVAL, "the value is NULL, but has %zu bytes", value_size);
    call->answered = result;
    if (result == FRESHET_OK)
        call->answered = freshet_buf_set(call->loaded, value, value_size);
    async->front = call;
    async->busy = true;
    fiber_resume(call->fiber);
    call_front(call, event);
    return FRESHET_OK;
}

/* Nobody wants to know: whatever it holds or waits for is let go. */
static void call_forget(struct freshet_call *call)
{
    call->forgotten = true;
    if (call->request) { /* as if the loader had failed */
        call->answered = FRESHET_ELOAD;
        fiber_resume(call->fiber);
    }
}

void freshet_async_forget(freshet_async *async, freshet_call *call)
{
    if (async_check(async, NULL) != FRESHET_OK || !call || call->async != async)
        return;
    async->busy = true;
    call_forget(call);
    async->busy = false;
}

/* ---- open and close ---- */

freshet_result freshet_async_open(freshet_async **ret_async, const freshet_async_options *given)
{
    freshet_async_options options;
    freshet_async *async;
    freshet_result result = options_take(&options, sizeof options, given, "freshet_async_options");

    if (result != FRESHET_OK)
        return result;
    if (!ret_async)
        return fail(FRESHET_EINVAL, "freshet_async_open: ret_async is NULL");
    if (!(async = calloc(1, sizeof *async)))
        return fail(FRESHET_ENOMEM, "no memory for an event loop's calls");
    if ((result = fibers_open(&async->fibers, options.asks_max ? options.asks_max : ASKS_DEFAULT)) != FRESHET_OK) {
        free(async);
        return result;
    }
    async->pid = getpid();
    async->calls_max = options.calls_max ? options.calls_max : CALLS_DEFAULT;
    *ret_async = async;
    return FRESHET_OK;
}

void freshet_async_close(freshet_async *async)
{
    struct freshet_call *next;

    if (!async)
        return;
    if (async->pid == getpid()) {
        if (async->busy) { /* it would wait for itself */
            say(FRESHET_ERROR, "freshet_async_close was called from a callback of its own calls: it is not closed");
            return;
        }
        async->busy = true;
        for (struct freshet_call *call = async->calls; call; call = next) {
            next = call->next; /* to forget one ends or starts no other */
            if (!call->forgotten)
                call_forget(call);
        }
        while (async->count) {
            struct pollfd news = {.fd = fibers_fd(async->fibers), .events = POLLIN};

            while (fibers_run(async->fibers))
                continue;
            if (async->count)
                (void)poll(&news, 1, CLOSE_LOOK_MS);
        }
    }
    while (async->calls) { /* of a child: those of its parent */
        fiber_abandon(async->calls->fiber);
        call_free(async->calls);
    }
    fibers_close(async->fibers);
    free(async);
}

int freshet_async_fd(const freshet_async *async)
{
    return async ? fibers_fd(async->fibers) : -1;
}

uint32_t freshet_async_calls(const freshet_async *async)
{
    return async ? async->count : 0;
}

/* ---- begin ---- */

/* What all begins have in common: a call, a copy of what it was given, its start. */
static freshet_result call_begin(freshet_async *async, freshet *cache, enum call_kind kind, struct given *given,
                                 const void *options, size_t options_size, void *user, freshet_event *event)
{
    struct freshet_call *call = NULL;
    freshet_result result = call_make(async, cache, kind, user, event, &call);

    if (result != FRESHET_OK)
        return result;
    if ((result = call_copy(call, given)) != FRESHET_OK) {
        call_free(call);
        return result;
    }
    memcpy(&call->options, options, options_size);
    if (kind == CALL_GET) {
        call->options.read.token = given->token;
    } else if (kind == CALL_LOAD) {
        call->options.load.token = given->token;
        call->options.load.tags = given->tags;
        call->options.load.name_space = given->name_space;
    } else if (kind != CALL_GUARD) {
        freshet_write_options *write = &call->options.write;

        write->tags = given->tags;
        write->name_space = given->name_space;
        call->on_host = write->on_host;
        call->on_host_arg = write->on_host_arg;
        write->on_host = write->on_host ? call_host : NULL;
        write->on_host_arg = call;
    }
    call->guard = given->guard;
    return call_start(call, event);
}

/* The same for changes. */
static freshet_result call_begin_change(freshet_async *async, freshet *cache, enum call_kind kind, struct given *given,
                                        const freshet_write_options *write, void *user, freshet_event *event)
{
    freshet_write_options options;
    freshet_result result = options_take(&options, sizeof options, write, "freshet_write_options");

    if (result != FRESHET_OK)
        return result;
    options.struct_size = sizeof options;
    given->tags = options.tags;
    given->tag_count = options.tag_count;
    given->name_space = options.name_space;
    return call_begin(async, cache, kind, given, &options, sizeof options, user, event);
}

/* A first look, without a call: a hit in the tier needs no stack of its own.  FRESHET_MISS: it was none. */
static freshet_result async_look(freshet_async *async, freshet *cache, const freshet_key *key,
                                 freshet_read_options *look, void *user, freshet_event *event)
{
    freshet_event full = {.kind = FRESHET_EVENT_DONE, .user = user, .error = ""};
    freshet_result result = async_check(async, event);

    if (result != FRESHET_OK)
        return result;
    if (!cache || !event || look->tier_only || look->level == FRESHET_READ_LATEST)
        return FRESHET_MISS;
    look->tier_only = look->probe = true;
    async->answer.struct_size = sizeof async->answer;
    full.result = freshet_get(cache, key->data, key->size, look, &full.value, &async->answer);
    look->tier_only = look->probe = false;
    if (full.result != FRESHET_OK && full.result != FRESHET_ABSENT) {
        freshet_buf_free(&full.value);
        return FRESHET_MISS;
    }
    full.answer = &async->answer;
    full.struct_size = event->struct_size;
    memcpy(event, &full, full.struct_size < sizeof full ? full.struct_size : sizeof full);
    return FRESHET_OK;
}

freshet_result freshet_async_get(freshet_async *async, freshet *cache, const void *key, size_t key_size,
                                 const freshet_read_options *read, void *user, freshet_event *event)
{
    freshet_read_options options;
    struct given given = {.key = {key, key_size}};
    freshet_result result = options_take(&options, sizeof options, read, "freshet_read_options");

    if (result != FRESHET_OK || (result = changing_key_check(key, key_size)) != FRESHET_OK)
        return result;
    options.struct_size = sizeof options;
    if ((result = async_look(async, cache, &given.key, &options, user, event)) != FRESHET_MISS)
        return result;
    given.token = options.token;
    return call_begin(async, cache, CALL_GET, &given, &options, sizeof options, user, event);
}

freshet_result freshet_async_load(freshet_async *async, freshet *cache, const void *key, size_t key_size,
                                  const freshet_load_options *load, void *user, freshet_event *event)
{
    freshet_load_options options;
    freshet_read_options look;
    struct given given = {.key = {key, key_size}};
    freshet_result result = options_take(&options, sizeof options, load, "freshet_load_options");

    if (result != FRESHET_OK || (result = changing_key_check(key, key_size)) != FRESHET_OK)
        return result;
    options.struct_size = sizeof options;
    look = (freshet_read_options){
        .struct_size = sizeof look, .bound_ms = options.bound_ms, .level = options.level, .token = options.token};
    if ((result = async_look(async, cache, &given.key, &look, user, event)) != FRESHET_MISS)
        return result;
    given.token = options.token;
    given.tags = options.tags;
    given.tag_count = options.tag_count;
    given.name_space = options.name_space;
    return call_begin(async, cache, CALL_LOAD, &given, &options, sizeof options, user, event);
}

freshet_result freshet_async_put(freshet_async *async, freshet *cache, const void *key, size_t key_size,
                                 const void *value, size_t value_size, const freshet_write_options *options, void *user,
                                 freshet_event *event)
{
    struct given given = {.key = {key, key_size}, .value = value, .value_size = value_size};
    freshet_result result = changing_key_check(key, key_size);

    if (result != FRESHET_OK)
        return result;
    if (!value && value_size)
        return fail(FRESHET_EINVAL, "the value is NULL, but has %zu bytes", value_size);
    if (cache && value_size > cache->options.value_max)
        return fail(FRESHET_ETOOBIG, "the value has %zu bytes; value_max is %u", value_size, cache->options.value_max);
    return call_begin_change(async, cache, CALL_PUT, &given, options, user, event);
}

freshet_result freshet_async_put_absent(freshet_async *async, freshet *cache, const void *key, size_t key_size,
                                        const freshet_write_options *options, void *user, freshet_event *event)
{
    struct given given = {.key = {key, key_size}};
    freshet_result result = changing_key_check(key, key_size);

    if (result != FRESHET_OK)
        return result;
    return call_begin_change(async, cache, CALL_PUT_ABSENT, &given, options, user, event);
}

freshet_result freshet_async_invalidate(freshet_async *async, freshet *cache, const freshet_key *keys, size_t count,
                                        const freshet_write_options *options, void *user, freshet_event *event)
{
    struct given given = {.keys = keys, .count = count};

    if (!keys || count == 0 || count > UINT32_MAX / sizeof(struct remote_key))
        return fail(FRESHET_EINVAL, "freshet_async_invalidate: give 1 key or more");
    return call_begin_change(async, cache, CALL_INVALIDATE, &given, options, user, event);
}

freshet_result freshet_async_invalidate_tags(freshet_async *async, freshet *cache, const char *const *tags,
                                             size_t count, const freshet_write_options *options, void *user,
                                             freshet_event *event)
{
    struct given given = {.names = tags, .count = count};

    if (!tags || count == 0 || count > TAGS_CHANGE_MAX)
        return fail(FRESHET_EINVAL, "freshet_async_invalidate_tags: give 1 to %u tags", TAGS_CHANGE_MAX);
    return call_begin_change(async, cache, CALL_TAGS, &given, options, user, event);
}

freshet_result freshet_async_clear_namespace(freshet_async *async, freshet *cache, const char *name_space,
                                             const freshet_write_options *options, void *user, freshet_event *event)
{
    struct given given = {.name = name_space};
    freshet_result result = tags_check(name_space, "namespace");

    if (result != FRESHET_OK)
        return result;
    return call_begin_change(async, cache, CALL_NAMESPACE, &given, options, user, event);
}

freshet_result freshet_async_clear(freshet_async *async, freshet *cache, const freshet_write_options *options,
                                   void *user, freshet_event *event)
{
    struct given given = {0};

    return call_begin_change(async, cache, CALL_CLEAR, &given, options, user, event);
}

freshet_result freshet_async_guard_begin(freshet_async *async, freshet *cache, const freshet_key *keys, size_t count,
                                         const freshet_guard_options *guard, void *user, freshet_event *event)
{
    freshet_guard_options options;
    struct given given = {.keys = keys, .count = count};
    freshet_result result = options_take(&options, sizeof options, guard, "freshet_guard_options");

    if (result != FRESHET_OK)
        return result;
    if (!keys || count == 0 || count > FRESHET_GUARD_KEYS_MAX)
        return fail(FRESHET_EINVAL, "a guard has 1 to %u keys, not %zu", FRESHET_GUARD_KEYS_MAX, count);
    options.struct_size = sizeof options;
    return call_begin(async, cache, CALL_GUARD, &given, &options, sizeof options, user, event);
}

freshet_result freshet_async_guard_end(freshet_async *async, freshet *cache, freshet_guard *guard,
                                       const freshet_write_options *options, void *user, freshet_event *event)
{
    struct given given = {.guard = guard};

    if (!guard)
        return fail(FRESHET_EINVAL, "the guard is NULL");
    return call_begin_change(async, cache, CALL_GUARD_END, &given, options, user, event);
}
