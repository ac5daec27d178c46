/*
 * async_test.c - calls that are set aside: each does what its blocking sister does, and none holds up another.
 *
 * A test's own event loop is poll() on the one descriptor; a loader that is to be called is answered by the test when
 * it likes.
 */
#include <fcntl.h>
#include <freshet_async.h>
#include <freshet_fleet.h>
#include <hosts.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <test.h>
#include <unistd.h>

#define MANY 1000

/* A call, and what has been heard of it. */
struct heard {
    freshet_event_kind kind; /* NONE: under way */
    freshet_call *call;
    freshet_load_request *request;
    freshet_result result;
    char value[64], error[256], token[FRESHET_TOKEN_SIZE];
    freshet_source source;
    freshet_guard *guard;
    uint32_t applied, waited_out;
};

static void hear(const freshet_event *event, struct heard *heard)
{
    heard->kind = event->kind;
    heard->call = event->call;
    if (event->kind == FRESHET_EVENT_LOAD)
        heard->request = event->request;
    if (event->kind != FRESHET_EVENT_DONE)
        return;
    heard->result = event->result;
    heard->guard = event->guard;
    if (event->answer)
        heard->source = event->answer->source;
    if (event->change) {
        heard->applied = event->change->hosts_applied;
        heard->waited_out = event->change->hosts_waited_out;
        memcpy(heard->token, event->change->token, sizeof heard->token);
    }
    snprintf(heard->value, sizeof heard->value, "%.*s", (int)event->value.size, (const char *)event->value.data);
    snprintf(heard->error, sizeof heard->error, "%s", event->error);
    freshet_buf value = event->value;
    freshet_buf_free(&value);
}

/* One turn of the loop; false: nothing came in so many ms. */
static bool turn(freshet_async *async, int ms)
{
    struct pollfd news = {.fd = freshet_async_fd(async), .events = POLLIN};
    freshet_event event = FRESHET_INIT(freshet_event);
    bool any = false;

    if (poll(&news, 1, ms) <= 0)
        return false;
    while (freshet_async_next(async, &event)) {
        EXPECT(event.kind != FRESHET_EVENT_NONE);
        hear(&event, event.user);
        any = true;
    }
    EXPECT(event.kind == FRESHET_EVENT_NONE);
    return any;
}

/* Until the call has something to tell. */
static struct heard *await(freshet_async *async, struct heard *heard)
{
    for (int i = 0; heard->kind == FRESHET_EVENT_NONE && i < 3000; i++)
        (void)turn(async, 10);
    EXPECT(heard->kind != FRESHET_EVENT_NONE);
    return heard;
}

static void begin_get(freshet_async *async, freshet *cache, const char *key, const freshet_read_options *options,
                      struct heard *heard)
{
    freshet_event event = FRESHET_INIT(freshet_event);

    *heard = (struct heard){0};
    EXPECT_EQ(freshet_async_get(async, cache, key, strlen(key), options, heard, &event), FRESHET_OK);
    EXPECT(event.user == heard);
    hear(&event, heard);
}

static void begin_load(freshet_async *async, freshet *cache, const char *key, const freshet_load_options *options,
                       struct heard *heard)
{
    freshet_event event = FRESHET_INIT(freshet_event);

    *heard = (struct heard){0};
    EXPECT_EQ(freshet_async_load(async, cache, key, strlen(key), options, heard, &event), FRESHET_OK);
    hear(&event, heard);
}

static void begin_put(freshet_async *async, freshet *cache, const char *key, const char *value,
                      const freshet_write_options *options, struct heard *heard)
{
    freshet_event event = FRESHET_INIT(freshet_event);

    *heard = (struct heard){0};
    EXPECT_EQ(freshet_async_put(async, cache, key, strlen(key), value, strlen(value), options, heard, &event),
              FRESHET_OK);
    hear(&event, heard);
}

static void begin_guard(freshet_async *async, freshet *cache, const char *key, const freshet_guard_options *options,
                        struct heard *heard)
{
    freshet_event event = FRESHET_INIT(freshet_event);
    freshet_key keys[1] = {{key, strlen(key)}};

    *heard = (struct heard){0};
    EXPECT_EQ(freshet_async_guard_begin(async, cache, keys, 1, options, heard, &event), FRESHET_OK);
    hear(&event, heard);
}

/* Answer a loader. */
static void answer(freshet_async *async, struct heard *heard, const char *value)
{
    freshet_event event = FRESHET_INIT(freshet_event);

    EXPECT(heard->kind == FRESHET_EVENT_LOAD);
    EXPECT_EQ(freshet_async_answer(async, heard->call, value ? FRESHET_OK : FRESHET_ELOAD, value,
                                   value ? strlen(value) : 0, &event),
              FRESHET_OK);
    hear(&event, heard);
}

static freshet_async *open_async(uint32_t asks_max)
{
    freshet_async_options options = FRESHET_INIT(freshet_async_options);
    freshet_async *async;

    options.asks_max = asks_max;
    EXPECT_EQ(freshet_async_open(&async, &options), FRESHET_OK);
    return async;
}

/* ---- each call ---- */

TEST(what_is_in_the_tier_is_answered_at_once)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_async *async = open_async(0);
    freshet_stats stats;
    struct heard heard;

    EXPECT_EQ(host_put(cache, "key", "value"), FRESHET_OK);
    begin_get(async, cache, "key", NULL, &heard);
    EXPECT(heard.kind == FRESHET_EVENT_DONE && heard.result == FRESHET_OK && strcmp(heard.value, "value") == 0);
    EXPECT(heard.source == FRESHET_FROM_TIER && heard.call == NULL && freshet_async_calls(async) == 0);
    begin_load(async, cache, "key", NULL, &heard);
    EXPECT(heard.kind == FRESHET_EVENT_DONE && strcmp(heard.value, "value") == 0);
    begin_get(async, cache, "other", NULL, &heard);
    EXPECT(heard.kind == FRESHET_EVENT_DONE && heard.result == FRESHET_MISS);
    EXPECT(!turn(async, 20)); /* nothing comes after */
    EXPECT_EQ(freshet_flush(cache, 5000), FRESHET_OK);
    stats = host_stats(cache);
    EXPECT(stats.hits == 2 && stats.misses == 1);
    freshet_async_close(async);
    freshet_close(cache);
}

/* A host without a fleet waits for its tier's writer only; a fleet's for Redis. */
static void every_change(freshet *a, freshet *b)
{
    freshet_async *async = open_async(0);
    freshet_event event = FRESHET_INIT(freshet_event);
    freshet_write_options tagged = FRESHET_INIT(freshet_write_options);
    const char *tags[2] = {"red", "green"};
    freshet_key keys[2] = {{"k1", 2}, {"k2", 2}};
    struct heard heard = {0};

    tagged.tags = tags;
    tagged.tag_count = 2;
    tagged.name_space = "space";
    begin_put(async, a, "k1", "one", &tagged, &heard);
    EXPECT(await(async, &heard)->result == FRESHET_OK && heard.token[0]);
    EXPECT(test_until(host_gets(b, "k1", "one"), 5000));
    begin_put(async, a, "k2", "two", NULL, &heard);
    EXPECT(await(async, &heard)->result == FRESHET_OK);

    EXPECT_EQ(freshet_async_invalidate_tags(async, a, tags + 1, 1, NULL, &heard, &event), FRESHET_OK);
    hear(&event, &heard);
    EXPECT(await(async, &heard)->result == FRESHET_OK);
    EXPECT(test_until(host_get(b, "k1", NULL, 0) == FRESHET_MISS, 5000) && host_gets(a, "k2", "two"));

    begin_put(async, a, "k1", "three", &tagged, &heard);
    EXPECT(await(async, &heard)->result == FRESHET_OK);
    EXPECT_EQ(freshet_async_clear_namespace(async, a, "space", NULL, &heard, &event), FRESHET_OK);
    hear(&event, &heard);
    EXPECT(await(async, &heard)->result == FRESHET_OK);
    EXPECT(test_until(host_get(b, "k1", NULL, 0) == FRESHET_MISS, 5000) && host_gets(a, "k2", "two"));

    begin_put(async, a, "k1", "four", NULL, &heard);
    EXPECT(await(async, &heard)->result == FRESHET_OK);
    EXPECT_EQ(freshet_async_invalidate(async, a, keys, 2, NULL, &heard, &event), FRESHET_OK);
    hear(&event, &heard);
    EXPECT(await(async, &heard)->result == FRESHET_OK);
    EXPECT(host_get(a, "k1", NULL, 0) == FRESHET_MISS && host_get(a, "k2", NULL, 0) == FRESHET_MISS);

    EXPECT_EQ(freshet_async_put_absent(async, a, "k1", 2, NULL, &heard, &event), FRESHET_OK);
    hear(&event, &heard);
    EXPECT(await(async, &heard)->result == FRESHET_OK);
    EXPECT(test_until(host_get(b, "k1", NULL, 0) == FRESHET_ABSENT, 5000));
    EXPECT_EQ(freshet_async_clear(async, a, NULL, &heard, &event), FRESHET_OK);
    hear(&event, &heard);
    EXPECT(await(async, &heard)->result == FRESHET_OK);
    EXPECT(test_until(host_get(b, "k1", NULL, 0) == FRESHET_MISS, 5000));

    begin_guard(async, a, "k1", NULL, &heard);
    EXPECT(await(async, &heard)->result == FRESHET_OK && heard.guard);
    EXPECT_EQ(host_put(b, "k1", "five"), FRESHET_GUARDED);
    EXPECT_EQ(freshet_async_guard_end(async, a, heard.guard, NULL, &heard, &event), FRESHET_OK);
    hear(&event, &heard);
    EXPECT(await(async, &heard)->result == FRESHET_OK);
    EXPECT_EQ(host_put(b, "k1", "six"), FRESHET_OK);
    EXPECT(test_until(host_gets(a, "k1", "six"), 5000) && freshet_async_calls(async) == 0);
    freshet_async_close(async);
}

TEST(every_change_is_made_on_a_host_alone)
{
    const char *dir = fresh_dir();
    freshet *a = host_solo(dir, 0), *b = host_solo(dir, 0);

    every_change(a, b);
    freshet_close(a);
    freshet_close(b);
}

TEST(every_change_is_made_in_a_fleet)
{
    struct redis redis;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 0);
    b = host_join(fresh_dir(), &redis, 0);
    every_change(a, b);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

TEST(a_miss_asks_redis_and_a_token_is_kept)
{
    struct redis redis;
    freshet *a, *b;
    freshet_async *async = open_async(0);
    freshet_read_options with_token = FRESHET_INIT(freshet_read_options);
    struct heard put, got;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 0);
    b = host_join(fresh_dir(), &redis, 0);
    for (int i = 0; i < 20; i++) {
        char value[16];

        snprintf(value, sizeof value, "v%d", i);
        begin_put(async, a, "key", value, NULL, &put);
        EXPECT(await(async, &put)->result == FRESHET_OK);
        with_token.token = put.token;
        begin_get(async, b, "key", &with_token, &got);
        EXPECT(await(async, &got)->result == FRESHET_OK && strcmp(got.value, value) == 0);
    }
    freshet_async_close(async);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

/* ---- many at once ---- */

static int redis_clients(struct redis *redis)
{
    int clients = 0;

    for (const char *at = redis_do(redis, "CLIENT LIST"); (at = strstr(at, " name=")); at++)
        clients++;
    return clients;
}

TEST(a_thousand_loads_wait_at_once_on_few_connections)
{
    struct redis redis;
    freshet *cache;
    freshet_async *async = open_async(4);
    struct heard *heard = calloc(MANY, sizeof *heard);
    char key[32];
    int asked = 0;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 0);
    for (int i = 0; i < MANY; i++) {
        freshet_load_options options = FRESHET_INIT(freshet_load_options);

        options.deadline_ms = 30000;
        snprintf(key, sizeof key, "key:%d", i);
        begin_load(async, cache, key, &options, &heard[i]);
    }
    EXPECT_EQ(freshet_async_calls(async), MANY);
    for (int i = 0; i < MANY; i++) {
        EXPECT(await(async, &heard[i])->kind == FRESHET_EVENT_LOAD);
        asked++;
    }
    EXPECT_EQ(asked, MANY); /* all loaders run at once */
    /* 4 that ask; the loop's two; redis_do's own */
    EXPECT(redis_clients(&redis) <= 4 + 3);
    for (int i = MANY - 1; i >= 0; i--) {
        snprintf(key, sizeof key, "value:%d", i);
        answer(async, &heard[i], key);
    }
    for (int i = 0; i < MANY; i++) {
        snprintf(key, sizeof key, "value:%d", i);
        EXPECT(await(async, &heard[i])->result == FRESHET_OK && strcmp(heard[i].value, key) == 0);
    }
    EXPECT_EQ(freshet_async_calls(async), 0);
    EXPECT_EQ(host_stats(cache).loads, MANY);
    free(heard);
    freshet_async_close(async);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(loads_of_one_key_are_one_load)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_async *async = open_async(0);
    struct heard heard[100];

    for (int i = 0; i < 100; i++)
        begin_load(async, cache, "key", NULL, &heard[i]);
    EXPECT(heard[0].kind == FRESHET_EVENT_LOAD);
    for (int i = 1; i < 100; i++)
        EXPECT(heard[i].kind == FRESHET_EVENT_NONE);
    answer(async, &heard[0], "value");
    for (int i = 0; i < 100; i++)
        EXPECT(await(async, &heard[i])->result == FRESHET_OK && strcmp(heard[i].value, "value") == 0);
    EXPECT_EQ(host_stats(cache).loads, 1);
    freshet_async_close(async);
    freshet_close(cache);
}

/* A thread loads, a call waits for it, and hears of it at once rather than at its deadline. */
static freshet_result slow_loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    (void)request;
    (void)!write(((int *)arg)[1], "!", 1); /* it runs */
    char byte;
    (void)!read(((int *)arg)[2], &byte, 1); /* it may end */
    return freshet_buf_set(value, "of a thread", 11);
}

struct threads_load {
    freshet *cache;
    int pipes[4];
};

static void *threads_load(void *arg)
{
    struct threads_load *load = arg;
    freshet_buf buf = {0};

    EXPECT_EQ(freshet_load(load->cache, "key", 3, NULL, slow_loader, load->pipes, &buf, NULL), FRESHET_OK);
    freshet_buf_free(&buf);
    return NULL;
}

TEST(a_call_joins_the_load_of_a_thread)
{
    struct threads_load load = {.cache = host_solo(fresh_dir(), 0)};
    freshet_async *async = open_async(0);
    freshet_load_options options = FRESHET_INIT(freshet_load_options);
    struct heard heard;
    pthread_t thread;
    char byte;

    options.deadline_ms = 60000;
    EXPECT(pipe(load.pipes) == 0 && pipe(load.pipes + 2) == 0);
    EXPECT(pthread_create(&thread, NULL, threads_load, &load) == 0);
    EXPECT(read(load.pipes[0], &byte, 1) == 1);
    begin_load(async, load.cache, "key", &options, &heard);
    EXPECT(heard.kind == FRESHET_EVENT_NONE && !turn(async, 20));
    EXPECT(write(load.pipes[3], "!", 1) == 1);
    EXPECT(await(async, &heard)->result == FRESHET_OK && strcmp(heard.value, "of a thread") == 0);
    EXPECT(pthread_join(thread, NULL) == 0);
    freshet_async_close(async);
    freshet_close(load.cache);
}

/* Loaders may take as long as they like, and the deadline of who waits for them passes meanwhile. */
TEST(who_waits_past_his_deadline_loads_on_his_own)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_async *async = open_async(0);
    freshet_load_options soon = FRESHET_INIT(freshet_load_options);
    struct heard first, second;

    soon.deadline_ms = 50;
    begin_load(async, cache, "key", NULL, &first);
    begin_load(async, cache, "key", &soon, &second);
    EXPECT(first.kind == FRESHET_EVENT_LOAD && second.kind == FRESHET_EVENT_NONE);
    EXPECT(await(async, &second)->kind == FRESHET_EVENT_LOAD);
    answer(async, &second, "second");
    EXPECT(await(async, &second)->result == FRESHET_OK && strcmp(second.value, "second") == 0);
    answer(async, &first, "first");
    EXPECT(await(async, &first)->result == FRESHET_OK && strcmp(first.value, "first") == 0);
    freshet_async_close(async);
    freshet_close(cache);
}

TEST(a_change_under_a_load_leaves_nothing_behind)
{
    struct redis redis;
    freshet *cache;
    freshet_async *async = open_async(0);
    struct heard heard;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 0);
    begin_load(async, cache, "key", NULL, &heard);
    EXPECT(await(async, &heard)->kind == FRESHET_EVENT_LOAD);
    EXPECT_EQ(host_invalidate(cache, "key"), FRESHET_OK);
    answer(async, &heard, "of before");
    EXPECT(await(async, &heard)->result == FRESHET_OK && strcmp(heard.value, "of before") == 0);
    EXPECT(host_get(cache, "key", NULL, 0) == FRESHET_MISS);
    freshet_async_close(async);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_strong_write_waits_for_a_host_while_others_go_on)
{
    struct redis redis;
    freshet *a, *solo;
    freshet_async *async = open_async(0);
    freshet_write_options strong = FRESHET_INIT(freshet_write_options);
    struct heard waits, heard;
    pid_t child;
    int turns = 0;

    redis_start(&redis, NULL);
    (void)host_keyring();
    const char *dir = fresh_dir();
    if ((child = test_fork()) == 0) {
        (void)host_join(dir, &redis, 1000);
        pause();
    }
    a = host_join(fresh_dir(), &redis, 1000);
    solo = host_solo(fresh_dir(), 0);
    strong.wait = FRESHET_WAIT_HOSTS;
    do { /* until both hosts are known */
        begin_put(async, a, "key", "value", &strong, &heard);
        EXPECT(await(async, &heard)->result == FRESHET_OK);
    } while (heard.applied != 2);
    kill(child, SIGSTOP);
    begin_put(async, a, "key", "value", &strong, &waits);
    EXPECT(waits.kind == FRESHET_EVENT_NONE);
    for (; waits.kind == FRESHET_EVENT_NONE; turns++) {
        begin_put(async, solo, "own", "value", NULL, &heard);
        EXPECT(await(async, &heard)->result == FRESHET_OK);
    }
    EXPECT(waits.result == FRESHET_OK && waits.applied == 1 && waits.waited_out == 1);
    EXPECT(turns > 10);
    kill(child, SIGKILL);
    EXPECT(waitpid(child, NULL, 0) == child);
    freshet_async_close(async);
    freshet_close(solo);
    freshet_close(a);
    redis_stop(&redis);
}

TEST(who_takes_one_event_a_turn_gets_them_all)
{
    struct redis redis;
    freshet *cache;
    freshet_async *async = open_async(3);
    freshet_event event = FRESHET_INIT(freshet_event);
    struct heard heard[50];
    int under_way = 0;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 0);
    for (int i = 0; i < 50; i++) {
        begin_put(async, cache, i % 2 ? "a" : "b", "value", NULL, &heard[i]);
        under_way += heard[i].kind == FRESHET_EVENT_NONE;
    }
    for (int looks = 0; under_way > 0; looks++) {
        struct pollfd news = {.fd = freshet_async_fd(async), .events = POLLIN};

        EXPECT(poll(&news, 1, 5000) == 1 && looks < 1000);
        under_way -= freshet_async_next(async, &event);
    }
    EXPECT_EQ(freshet_async_calls(async), 0);
    freshet_async_close(async);
    freshet_close(cache);
    redis_stop(&redis);
}

/* ---- to give up ---- */

TEST(a_forgotten_load_lets_the_next_one_load)
{
    struct redis redis;
    freshet *cache;
    freshet_async *async = open_async(0);
    struct heard first, second;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 0);
    begin_load(async, cache, "key", NULL, &first);
    EXPECT(await(async, &first)->kind == FRESHET_EVENT_LOAD);
    begin_load(async, cache, "key", NULL, &second);
    EXPECT(second.kind == FRESHET_EVENT_NONE);
    freshet_async_forget(async, first.call);
    first.kind = FRESHET_EVENT_NONE;
    EXPECT(await(async, &second)->kind == FRESHET_EVENT_LOAD && first.kind == FRESHET_EVENT_NONE);
    answer(async, &second, "value");
    EXPECT(await(async, &second)->result == FRESHET_OK);
    EXPECT(test_until(host_gets(cache, "key", "value"), 5000)); /* it had the right to fill */
    EXPECT(freshet_async_calls(async) == 0 || test_until((turn(async, 10), freshet_async_calls(async) == 0), 5000));
    freshet_async_close(async);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_forgotten_guard_is_ended_and_a_forgotten_change_made)
{
    struct redis redis;
    freshet *cache;
    freshet_async *async = open_async(0);
    freshet_guard_options hold = FRESHET_INIT(freshet_guard_options);
    struct heard heard;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 0);
    hold.hold_ms = 600000;
    for (int answered = 0; answered < 2; answered++) { /* before and after Redis has answered */
        begin_guard(async, cache, "key", &hold, &heard);
        EXPECT(heard.kind == FRESHET_EVENT_NONE);
        freshet_call *call = heard.call;
        if (answered) {
            struct pollfd news = {.fd = freshet_async_fd(async), .events = POLLIN};
            EXPECT(poll(&news, 1, 5000) == 1);
        }
        freshet_async_forget(async, call);
        EXPECT(test_until((turn(async, 10), freshet_async_calls(async) == 0), 10000));
        EXPECT(heard.kind == FRESHET_EVENT_NONE);
        EXPECT_EQ(host_put(cache, "key", "free"), FRESHET_OK);
    }
    begin_put(async, cache, "key", "forgotten", NULL, &heard);
    EXPECT(heard.kind == FRESHET_EVENT_NONE);
    freshet_async_forget(async, heard.call);
    EXPECT(test_until((turn(async, 10), freshet_async_calls(async) == 0), 10000));
    EXPECT(host_gets(cache, "key", "forgotten") && heard.kind == FRESHET_EVENT_NONE);
    freshet_async_close(async);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(close_brings_all_to_its_end)
{
    struct redis redis;
    freshet *cache;
    freshet_async *async = open_async(0);
    struct heard load, joined, put, guard;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 0);
    begin_load(async, cache, "key", NULL, &load);
    EXPECT(await(async, &load)->kind == FRESHET_EVENT_LOAD);
    begin_load(async, cache, "key", NULL, &joined);
    begin_put(async, cache, "other", "value", NULL, &put);
    begin_guard(async, cache, "third", NULL, &guard);
    EXPECT_EQ(freshet_async_calls(async), 4);
    freshet_async_close(async);
    EXPECT(host_gets(cache, "other", "value"));
    EXPECT_EQ(host_put(cache, "third", "free"), FRESHET_OK);
    freshet_close(cache);
    redis_stop(&redis);
}

/* ---- what goes wrong ---- */

TEST(failures_come_with_their_sentence)
{
    struct redis redis;
    freshet *cache;
    freshet_async *async = open_async(0);
    freshet_read_options bad = FRESHET_INIT(freshet_read_options);
    freshet_event event = FRESHET_INIT(freshet_event);
    struct heard one, two;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 0);
    bad.token = "no token";
    begin_get(async, cache, "key", &bad, &one);
    EXPECT(one.kind == FRESHET_EVENT_DONE && one.result == FRESHET_EINVAL && strstr(one.error, "garbled"));
    begin_load(async, cache, "key", NULL, &one);
    EXPECT(await(async, &one)->kind == FRESHET_EVENT_LOAD);
    begin_put(async, cache, "x", "y", NULL, &two); /* another fiber between the failure and its telling */
    answer(async, &one, NULL);
    EXPECT(await(async, &one)->result == FRESHET_ELOAD && strstr(one.error, "loader"));
    EXPECT(await(async, &two)->result == FRESHET_OK && two.error[0] == '\0');
    EXPECT_EQ(freshet_async_answer(async, NULL, FRESHET_OK, "v", 1, &event), FRESHET_EINVAL);
    EXPECT_EQ(freshet_async_get(async, cache, "", 0, NULL, NULL, &event), FRESHET_EINVAL);
    EXPECT_EQ(freshet_async_get(async, NULL, "k", 1, NULL, NULL, &event), FRESHET_EINVAL);
    EXPECT_EQ(freshet_async_get(NULL, cache, "k", 1, NULL, NULL, &event), FRESHET_EINVAL);
    EXPECT_EQ(freshet_async_guard_begin(async, cache, NULL, 1, NULL, NULL, &event), FRESHET_EINVAL);
    event.struct_size = offsetof(freshet_event, guard); /* no place for what comes: it would be lost */
    EXPECT_EQ(freshet_async_get(async, cache, "k", 1, NULL, NULL, &event), FRESHET_EINVAL);
    EXPECT_EQ(freshet_async_calls(async), 0);
    freshet_async_close(async);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(while_redis_is_away_nothing_waits_beyond_its_deadline)
{
    struct redis redis;
    freshet *cache;
    freshet_async *async = open_async(2);
    freshet_write_options soon = FRESHET_INIT(freshet_write_options);
    struct heard heard[20];

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 0);
    kill(redis.pid, SIGSTOP);
    soon.deadline_ms = 200;
    for (int i = 0; i < 20; i++) {
        char key[16];

        snprintf(key, sizeof key, "k%d", i);
        begin_put(async, cache, key, "value", &soon, &heard[i]);
    }
    for (int i = 0; i < 20; i++)
        EXPECT(await(async, &heard[i])->result == FRESHET_QUEUED);
    kill(redis.pid, SIGCONT);
    EXPECT(test_until(host_stats(cache).outbox == 0, 10000));
    begin_put(async, cache, "k", "value", NULL, &heard[0]);
    EXPECT(await(async, &heard[0])->result == FRESHET_OK);
    freshet_async_close(async);
    freshet_close(cache);
    redis_stop(&redis);
}

/* The event loop comes back after the deadline: what was answered in time is heard, however long it is. */
TEST(an_answer_in_time_is_heard_late)
{
    struct redis redis;
    freshet *a, *b;
    freshet_async *async = open_async(0);
    freshet_read_options soon = FRESHET_INIT(freshet_read_options);
    static char value[100000];
    struct heard heard;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 0);
    b = host_join(fresh_dir(), &redis, 0);
    EXPECT_EQ(freshet_put(a, "key", 3, value, sizeof value, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(host_put(b, "other", "a connection"), FRESHET_OK);
    soon.deadline_ms = 100;
    begin_get(async, b, "key", &soon, &heard);
    EXPECT(heard.kind == FRESHET_EVENT_NONE);
    EXPECT(!test_until(false, 200)); /* the loop is elsewhere */
    EXPECT(await(async, &heard)->result == FRESHET_OK);
    freshet_async_close(async);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

/* A loop that is held up while a call of it connects says nothing of Redis. */
TEST(a_loop_that_is_held_up_keeps_redis_from_nobody)
{
    struct redis redis;
    freshet *cache;
    freshet_async *async = open_async(0);
    struct heard heard[2];

    redis_start_tcp(&redis, NULL); /* unlike a unix socket's its connect has to be waited for */
    snprintf(redis.url, sizeof redis.url, "redis://127.0.0.1:%d", redis.port);
    cache = host_join(fresh_dir(), &redis, 0);
    begin_get(async, cache, "a", NULL, &heard[0]);
    begin_get(async, cache, "b", NULL, &heard[1]);
    EXPECT(!test_until(false, 1200)); /* deadline and connect_ms are a second */
    (void)await(async, &heard[0]);
    (void)await(async, &heard[1]);
    EXPECT_EQ(host_put(cache, "key", "value"), FRESHET_OK);
    freshet_async_close(async);
    freshet_close(cache);
    redis_stop(&redis);
}

/* A host program that closes our sockets while it has copies of them: the kernel goes on telling of those. */
TEST(a_socket_closed_behind_our_back_is_told_of_in_vain)
{
    struct redis redis;
    freshet *cache;
    freshet_async *async = open_async(0);
    freshet_write_options soon = FRESHET_INIT(freshet_write_options);
    struct heard heard;
    int closed = 0;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 0);
    begin_put(async, cache, "key", "value", NULL, &heard);
    EXPECT(await(async, &heard)->result == FRESHET_OK);
    kill(redis.pid, SIGSTOP);
    soon.deadline_ms = 100;
    begin_put(async, cache, "key", "value", &soon, &heard);
    EXPECT(heard.kind == FRESHET_EVENT_NONE);
    for (int fd = 3; fd < 100; fd++) { /* of the calls: those of the library's thread have no time-out */
        struct timeval slice = {0};
        socklen_t size = sizeof slice;

        if (getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &slice, &size) == 0 && slice.tv_usec)
            closed += fcntl(fd, F_DUPFD, 200) >= 200 && close(fd) == 0;
    }
    EXPECT(closed > 0);
    EXPECT(await(async, &heard)->result == FRESHET_QUEUED);
    kill(redis.pid, SIGCONT);
    for (int i = 0; i < 20; i++)
        EXPECT(!turn(async, 10)); /* the answer comes, but nobody waits for it */
    freshet_async_close(async);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_file_in_place_of_a_descriptor_of_ours_is_not_written_to)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_async *async;
    struct heard first, second;
    FILE *file = tmpfile();
    int next = dup(fileno(file));

    close(next);
    EXPECT_EQ(freshet_async_open(&async, NULL), FRESHET_OK);
    EXPECT(freshet_async_fd(async) == next && dup2(fileno(file), next + 1) >= 0 && dup2(fileno(file), next + 2) >= 0);
    begin_load(async, cache, "key", NULL, &first);
    begin_load(async, cache, "key", NULL, &second);
    answer(async, &first, "value");
    EXPECT(lseek(fileno(file), 0, SEEK_END) == 0);
    freshet_async_forget(async, second.call);
    freshet_async_close(async);
    EXPECT(lseek(next + 2, 0, SEEK_END) == 0); /* nor closed */
    freshet_close(cache);
}

TEST(too_many_calls_are_refused)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_async_options few = FRESHET_INIT(freshet_async_options);
    freshet_event event = FRESHET_INIT(freshet_event);
    freshet_async *async;
    struct heard heard[2];

    few.calls_max = 2;
    EXPECT_EQ(freshet_async_open(&async, &few), FRESHET_OK);
    begin_load(async, cache, "a", NULL, &heard[0]);
    begin_load(async, cache, "b", NULL, &heard[1]);
    EXPECT_EQ(freshet_async_load(async, cache, "c", 1, NULL, NULL, &event), FRESHET_EBUSY);
    answer(async, &heard[0], "value");
    EXPECT(await(async, &heard[0])->result == FRESHET_OK);
    begin_load(async, cache, "c", NULL, &heard[0]);
    EXPECT(heard[0].kind == FRESHET_EVENT_LOAD);
    freshet_async_close(async);
    freshet_close(cache);
}

/* The log callback, and on_host, find the stack that they are used to, and may not begin calls. */
static freshet_async *callbacks_async;
static freshet *callbacks_cache;
static _Atomic int callbacks;

static void on_host(const char *host, bool applied, void *arg)
{
    freshet_event event = FRESHET_INIT(freshet_event);
    char *deep = alloca(1 << 20); /* more than a fiber has */

    (void)host;
    (void)applied;
    (void)arg;
    memset(deep, 1, 1 << 20);
    EXPECT(deep[12345] == 1);
    EXPECT_EQ(freshet_async_get(callbacks_async, callbacks_cache, "k", 1, NULL, NULL, &event), FRESHET_EINVAL);
    callbacks++;
}

TEST(callbacks_run_on_the_callers_own_stack)
{
    struct redis redis;
    freshet_write_options strong = FRESHET_INIT(freshet_write_options);
    struct heard heard;

    redis_start(&redis, NULL);
    callbacks_cache = host_join(fresh_dir(), &redis, 0);
    callbacks_async = open_async(0);
    strong.wait = FRESHET_WAIT_HOSTS;
    strong.on_host = on_host;
    begin_put(callbacks_async, callbacks_cache, "key", "value", &strong, &heard);
    EXPECT(await(callbacks_async, &heard)->result == FRESHET_OK);
    EXPECT_EQ(callbacks, 1);
    freshet_async_close(callbacks_async);
    freshet_close(callbacks_cache);
    redis_stop(&redis);
}

TEST(a_child_opens_its_own)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_async *async = open_async(0);
    struct heard waits, heard;

    begin_load(async, cache, "key", NULL, &waits);
    EXPECT(waits.kind == FRESHET_EVENT_LOAD);
    IN_CHILD({
        freshet_event event = FRESHET_INIT(freshet_event);
        freshet_async *own;

        EXPECT_EQ(freshet_async_get(async, cache, "k", 1, NULL, NULL, &event), FRESHET_EINVAL);
        EXPECT(!freshet_async_next(async, &event));
        freshet_async_close(async);
        EXPECT_EQ(freshet_async_open(&own, NULL), FRESHET_OK);
        begin_put(own, cache, "childs", "value", NULL, &heard);
        EXPECT(await(own, &heard)->result == FRESHET_OK);
        freshet_async_close(own);
    });
    answer(async, &waits, "value");
    EXPECT(await(async, &waits)->result == FRESHET_OK && host_gets(cache, "childs", "value"));
    freshet_async_close(async);
    freshet_close(cache);
}
