/*
 * ferry_test.c - callers who share a round trip: each gets its own answer, read after it asked, and whom another's
 * short deadline, broken connection or large value has cost an answer is told to ask alone.
 *
 * Gates at the ferry's steps hold boats at the pier and on their way, so that who shares with whom is not left to luck.
 */
#include "hold.h"

#include <ferry.h>

#define MOST      ((size_t)1 << 20) /* bytes of a reply */
#define MS_NS     1000000ll
#define SECOND_NS 1000000000ll
#define CROWD     40u

/* ---- gates ---- */

struct gate {
    const char *point;
    atomic_uint came;
    atomic_bool shut;
};

static struct gate gates[] = {{.point = "ferry_leaving"}, {.point = "ferry_crossing"}, {.point = "ferry_back"},
                              {.point = "ferry_aboard"}};
enum { LEAVING, CROSSING, BACK, ABOARD };

static void at_gate(const char *point)
{
    for (size_t i = 0; i < sizeof gates / sizeof gates[0]; i++) {
        if (strcmp(point, gates[i].point) != 0)
            continue;
        atomic_fetch_add(&gates[i].came, 1);
        (void)test_until(!atomic_load(&gates[i].shut), HOLD_S * 1000);
    }
}

static void gate_shut(int gate)
{
    atomic_store(&gates[gate].came, 0);
    atomic_store(&gates[gate].shut, true);
}

static void gate_open(int gate)
{
    atomic_store(&gates[gate].shut, false);
}

/* So many are at the gate, or have been since it was shut. */
static void gate_reached(int gate, unsigned count)
{
    EXPECT(test_until(atomic_load(&gates[gate].came) >= count, HOLD_S * 1000));
}

/* ---- callers ---- */

static struct url ferry_url;
static struct lines *ferry_lines;
static struct ferry *ferry;

static void ferry_begin(const char *url)
{
    EXPECT(url_parse(&ferry_url, url) == FRESHET_OK);
    EXPECT(lines_open(&ferry_lines, &ferry_url, 1000, MOST) == FRESHET_OK);
    EXPECT((ferry = ferry_open(&ferry_url, ferry_lines, "head")) != NULL);
    step_hook = at_gate;
}

static void ferry_end(void)
{
    step_hook = (void (*)(const char *))0;
    ferry_close(ferry);
    lines_close(ferry_lines);
    url_free(&ferry_url);
}

struct caller {
    pthread_t thread;
    char name[16], value[32], said[300];
    int64_t deadline_ns;
    size_t size; /* of what it got */
    freshet_result result;
    bool alone; /* it was told to ask so */
    bool right; /* the value, and the head */
};

static bool reads(const struct ferried *got, size_t n, const char *text)
{
    const struct resp *item = got->reply->type == RESP_ARRAY && n < got->reply->count ? got->reply->items[n] : NULL;

    return item && item->type == RESP_STRING && strcmp(item->text, text) == 0;
}

static void caller_ask(struct caller *caller)
{
    struct ferried got;

    caller->right = false;
    caller->alone =
        !ferry_ask(ferry, caller->name, strlen(caller->name), caller->deadline_ns, &got, &caller->result);
    if (caller->alone)
        return;
    if (caller->result != FRESHET_OK) {
        snprintf(caller->said, sizeof caller->said, "%s", freshet_error());
        return;
    }
    caller->right = reads(&got, got.place, caller->value) && reads(&got, got.count, "the head");
    if (got.reply->type == RESP_ARRAY && got.reply->items[got.place]->type == RESP_STRING)
        caller->size = got.reply->items[got.place]->size;
    ferry_done(ferry, &got);
}

static void *caller_run(void *arg)
{
    caller_ask(arg);
    return NULL;
}

static void caller_begin(struct caller *caller, unsigned number, int64_t ms)
{
    *caller = (struct caller){.deadline_ns = test_now_ns() + ms * MS_NS};
    snprintf(caller->name, sizeof caller->name, "k%u", number);
    snprintf(caller->value, sizeof caller->value, "value of %u", number);
    EXPECT(pthread_create(&caller->thread, NULL, caller_run, caller) == 0);
}

static void caller_end(struct caller *caller)
{
    EXPECT(pthread_join(caller->thread, NULL) == 0);
}

static void fill_redis(struct redis *redis, unsigned count)
{
    redis_start(redis, NULL);
    redis_do(redis, "SET head 'the head'");
    for (unsigned i = 0; i < count; i++)
        redis_do(redis, "SET k%u 'value of %u'", i, i);
}

/* One crosses and is held, and the next waits at the pier as captain. */
static void hold_two(struct caller *first, struct caller *captain, int64_t captain_ms)
{
    gate_shut(CROSSING);
    caller_begin(first, 0, 20000);
    gate_reached(CROSSING, 1);
    gate_shut(LEAVING);
    caller_begin(captain, 1, captain_ms);
    gate_reached(LEAVING, 1);
}

TEST(who_comes_while_a_boat_is_under_way_shares_the_next)
{
    struct caller first, crowd[CROWD];
    struct redis redis;
    long long before;

    fill_redis(&redis, CROWD + 1);
    ferry_begin(redis.url);
    before = redis_int(&redis, "EVAL 'return redis.call(\"INFO\", \"stats\"):match(\"processed:(%%d+)\")' 0");
    hold_two(&first, &crowd[0], 20000);
    for (unsigned i = 1; i < CROWD; i++) /* more than a boat has room for: a second captain comes to the gate */
        caller_begin(&crowd[i], i + 1, 20000);
    gate_reached(ABOARD, CROWD - 2);
    gate_reached(LEAVING, 2);
    gate_open(LEAVING);
    gate_open(CROSSING);
    caller_end(&first);
    EXPECT(first.right);
    for (unsigned i = 0; i < CROWD; i++) {
        caller_end(&crowd[i]);
        EXPECT(crowd[i].right);
    }
    /* Three questions, the first words of as many connections, and what asked for the count. */
    EXPECT(redis_int(&redis, "EVAL 'return redis.call(\"INFO\", \"stats\"):match(\"processed:(%%d+)\")' 0") - before <=
           3 + 3 * 4 + 3);
    ferry_end();
}

TEST(a_boat_that_hangs_holds_up_nobody_after_it)
{
    struct caller first, second;
    struct redis redis;

    fill_redis(&redis, 2);
    ferry_begin(redis.url);
    gate_shut(CROSSING);
    caller_begin(&first, 0, 20000);
    gate_reached(CROSSING, 1);
    caller_begin(&second, 1, 20000);
    gate_reached(CROSSING, 2); /* he went without waiting for the first one's return */
    gate_open(CROSSING);
    caller_end(&second);
    caller_end(&first);
    EXPECT(first.right && second.right);
    ferry_end();
}

/* All ask alone for a while, and then in company again. */
static void expect_alone_for_a_while(void)
{
    struct caller caller;
    int64_t since_ns = test_now_ns();

    caller_begin(&caller, 0, 20000);
    caller_end(&caller);
    EXPECT(caller.alone || test_now_ns() - since_ns > SECOND_NS / 2);
}

TEST(a_captain_whose_deadline_passes_costs_the_others_a_try)
{
    struct caller first, captain, passenger;
    struct redis redis;

    fill_redis(&redis, 3);
    ferry_begin(redis.url);
    gate_shut(ABOARD);
    gate_open(ABOARD);
    hold_two(&first, &captain, 200);
    caller_begin(&passenger, 2, 20000);
    gate_reached(ABOARD, 1);
    EXPECT(test_until(test_now_ns() > captain.deadline_ns, 1000));
    gate_open(LEAVING);
    gate_open(CROSSING);
    caller_end(&captain);
    caller_end(&passenger);
    caller_end(&first);
    EXPECT(captain.alone && passenger.alone);
    EXPECT(first.right);
    expect_alone_for_a_while();
    ferry_end();
}

TEST(who_has_little_time_left_asks_alone)
{
    struct caller caller;
    struct redis redis;

    fill_redis(&redis, 1);
    ferry_begin(redis.url);
    caller_begin(&caller, 0, 40);
    caller_end(&caller);
    EXPECT(caller.alone);
    caller_begin(&caller, 0, 20000);
    caller_end(&caller);
    EXPECT(caller.right);
    ferry_end();
}

TEST(a_passenger_in_a_hurry_gets_off_alone)
{
    struct caller first, captain, passenger;
    struct redis redis;

    fill_redis(&redis, 3);
    ferry_begin(redis.url);
    hold_two(&first, &captain, 20000);
    caller_begin(&passenger, 2, 150);
    caller_end(&passenger); /* while the boat is still at the pier */
    EXPECT_EQ(passenger.result, FRESHET_ENET);
    EXPECT(strstr(passenger.said, "did not answer before the deadline"));
    EXPECT(test_now_ns() >= passenger.deadline_ns);
    gate_open(LEAVING);
    gate_open(CROSSING);
    caller_end(&captain);
    caller_end(&first);
    EXPECT(captain.right && first.right);
    ferry_end();
}

TEST(what_was_read_before_a_call_does_not_answer_it)
{
    struct caller first, second;
    struct redis redis;

    fill_redis(&redis, 1);
    ferry_begin(redis.url);
    gate_shut(BACK);
    caller_begin(&first, 0, 20000);
    gate_reached(BACK, 1); /* its answer is here, and not yet told of */
    redis_do(&redis, "SET k0 later");
    caller_begin(&second, 0, 20000);
    gate_reached(BACK, 2);
    gate_open(BACK);
    caller_end(&first);
    caller_end(&second);
    EXPECT(first.right);
    EXPECT(!second.right && second.size == 5);
    ferry_end();
}

TEST(a_connection_that_breaks_costs_those_aboard_a_try)
{
    struct caller first, captain, passenger;
    struct redis redis;

    fill_redis(&redis, 3);
    ferry_begin(redis.url);
    gate_shut(ABOARD);
    gate_open(ABOARD);
    hold_two(&first, &captain, 20000);
    caller_begin(&passenger, 2, 20000);
    gate_reached(ABOARD, 1);
    redis_stop(&redis);
    gate_open(LEAVING);
    gate_open(CROSSING);
    caller_end(&captain);
    caller_end(&passenger);
    caller_end(&first);
    EXPECT(captain.alone && passenger.alone);
    EXPECT_EQ(first.result, FRESHET_ENET); /* he was alone: a failure as any */
    EXPECT(!first.alone && strstr(first.said, "Redis at"));
    expect_alone_for_a_while();
    ferry_end();
}

TEST(values_too_large_to_come_together_are_asked_for_alone)
{
    struct caller first, crowd[4];
    struct redis redis;

    fill_redis(&redis, 5);
    for (unsigned i = 1; i < 5; i++)
        redis_do(&redis, "SETRANGE k%u %zu x", i, MOST - 1000);
    ferry_begin(redis.url);
    gate_shut(ABOARD);
    gate_open(ABOARD);
    hold_two(&first, &crowd[0], 20000);
    for (unsigned i = 1; i < 4; i++)
        caller_begin(&crowd[i], i + 1, 20000);
    gate_reached(ABOARD, 3);
    gate_open(LEAVING);
    gate_open(CROSSING);
    caller_end(&first);
    EXPECT(first.right);
    for (unsigned i = 0; i < 4; i++) {
        caller_end(&crowd[i]);
        EXPECT(crowd[i].alone);
    }
    ferry_end();
}

TEST(after_a_heavy_reply_all_ask_alone_for_a_while)
{
    struct caller caller;
    struct redis redis;

    fill_redis(&redis, 2);
    redis_do(&redis, "SETRANGE k1 70000 x");
    ferry_begin(redis.url);
    caller_begin(&caller, 1, 20000);
    caller_end(&caller);
    EXPECT_EQ(caller.size, 70001);
    expect_alone_for_a_while();
    ferry_end();
}

/* ---- without gates ---- */

struct asker {
    pthread_t thread;
    unsigned number;
    atomic_bool *stop;
    atomic_uint right;
};

static void *asker_run(void *arg)
{
    struct asker *asker = arg;
    struct caller caller = {0};

    snprintf(caller.name, sizeof caller.name, "k%u", asker->number);
    snprintf(caller.value, sizeof caller.value, "value of %u", asker->number);
    while (!atomic_load(asker->stop)) {
        caller.deadline_ns = test_now_ns() + 5 * SECOND_NS;
        caller_ask(&caller);
        if (caller.alone)
            test_pause();
        else
            EXPECT(caller.right || caller.result == FRESHET_ENET);
        atomic_fetch_add(&asker->right, !caller.alone && caller.right);
    }
    return NULL;
}

TEST(eight_threads_get_their_own_answers_while_connections_are_killed)
{
    struct asker askers[8];
    atomic_bool stop = false;
    struct redis redis;

    fill_redis(&redis, 8);
    ferry_begin(redis.url);
    for (unsigned i = 0; i < 8; i++) {
        askers[i] = (struct asker){.number = i, .stop = &stop};
        EXPECT(pthread_create(&askers[i].thread, NULL, asker_run, &askers[i]) == 0);
    }
    for (unsigned round = 1; round <= 4; round++) {
        redis_do(&redis, "CLIENT KILL TYPE normal");
        for (unsigned i = 0; i < 8; i++)
            EXPECT(test_until(atomic_load(&askers[i].right) >= round * 100, 10000));
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 8; i++)
        EXPECT(pthread_join(askers[i].thread, NULL) == 0);
    ferry_end();
}
