/*
 * link_test.c - the loop's thread and its connections, against a real Redis and against servers that misbehave: it
 * reconnects, it keeps deadlines, it ends when told to, and nothing that the program around it does to its descriptors
 * kills that program.
 */
#include <test.h>

#include "fake.h"

#include <hosts.h>

#include <link.h>
#include <loop.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>

#define MOST      ((size_t)32 << 20)
#define SECOND_NS 1000000000ll

/* The owner of a loop and a link; what happened is counted on the loop's thread and read on the test's. */
struct owner {
    struct loop *loop;
    struct link *link;
    struct url url;
    uint32_t connect_ms;
    atomic_int starts, stops, losses, wakes, ups, downs, refusals, pushes, replies, nulls;
    atomic_bool blocked; /* all signals, on the loop's thread */
    pthread_mutex_t mutex;
    char why[256]; /* of the last down */
    char last_push[64], last_reply[64];
    void (*on_up)(struct owner *owner);
    void (*on_down)(struct owner *owner);
    void (*on_push)(struct owner *owner);
    _Atomic(void (*)(struct owner *owner)) task; /* to be done on the loop's thread */
    long long argument, outcome;                 /* of the task */
    atomic_llong size;                           /* of the last reply */
};

/* Note a text, for the test's thread to look at. */
static void note(struct owner *owner, char *text, size_t size, const char *source)
{
    pthread_mutex_lock(&owner->mutex);
    snprintf(text, size, "%s", source);
    pthread_mutex_unlock(&owner->mutex);
}

/* Is this part of what was noted? */
static bool noted(struct owner *owner, const char *text, const char *part)
{
    bool found;

    pthread_mutex_lock(&owner->mutex);
    found = strstr(text, part) != NULL;
    pthread_mutex_unlock(&owner->mutex);
    return found;
}

static void owner_up(struct link *link, void *arg)
{
    struct owner *owner = arg;

    EXPECT(link == owner->link && link_is_up(link));
    if (owner->on_up)
        owner->on_up(owner);
    atomic_fetch_add(&owner->ups, 1);
}

static void owner_down(struct link *link, freshet_result why, void *arg)
{
    struct owner *owner = arg;

    EXPECT(!link_is_up(link) && (why == FRESHET_ENET || why == FRESHET_EREDIS));
    EXPECT(freshet_error()[0]);
    note(owner, owner->why, sizeof owner->why, freshet_error());
    atomic_fetch_add(&owner->refusals, why == FRESHET_EREDIS);
    if (owner->on_down)
        owner->on_down(owner);
    atomic_fetch_add(&owner->downs, 1);
}

static void owner_push(struct link *link, const struct resp *message, void *arg)
{
    struct owner *owner = arg;

    (void)link;
    EXPECT(message->count == 3);
    note(owner, owner->last_push, sizeof owner->last_push, message->items[2]->text);
    if (owner->on_push)
        owner->on_push(owner);
    atomic_fetch_add(&owner->pushes, 1);
}

static void owner_reply(struct link *link, const struct resp *reply, void *arg)
{
    struct owner *owner = arg;

    (void)link;
    if (!reply) {
        atomic_fetch_add(&owner->nulls, 1);
        return;
    }
    if (reply->text)
        note(owner, owner->last_reply, sizeof owner->last_reply, reply->text);
    atomic_store(&owner->size, (long long)reply->size);
    atomic_fetch_add(&owner->replies, 1);
}

static void owner_start(struct loop *loop, void *arg)
{
    static const struct link_events events = {owner_up, owner_down, owner_push};
    struct owner *owner = arg;
    sigset_t set;
    bool blocked = pthread_sigmask(SIG_SETMASK, NULL, &set) == 0;

    for (int number = 1; number < 32; number++)
        if (number != SIGKILL && number != SIGSTOP)
            blocked = blocked && sigismember(&set, number) == 1;
    atomic_store(&owner->blocked, blocked);
    if (owner->url.host[0]) {
        owner->link = link_open(loop, &owner->url, owner->connect_ms, MOST, &events, owner);
        EXPECT(owner->link);
        link_start(owner->link);
    }
    atomic_fetch_add(&owner->starts, 1);
}

static void owner_wake(struct loop *loop, void *arg)
{
    struct owner *owner = arg;
    void (*task)(struct owner * owner) = atomic_load(&owner->task);

    (void)loop;
    atomic_fetch_add(&owner->wakes, 1);
    if (task) {
        task(owner);
        atomic_store(&owner->task, NULL);
    }
}

static void owner_stop(struct loop *loop, void *arg)
{
    struct owner *owner = arg;

    (void)loop;
    atomic_fetch_add(&owner->stops, 1);
    link_close(owner->link);
    owner->link = NULL;
}

static void owner_lost(struct loop *loop, void *arg)
{
    struct owner *owner = arg;

    EXPECT(loop_is_lost(loop));
    link_close(owner->link);
    owner->link = NULL;
    atomic_fetch_add(&owner->losses, 1);
}

/* Open a loop, and a link when there is a url. */
static void owner_open(struct owner *owner, const char *url, uint32_t connect_ms)
{
    static const struct loop_events events = {owner_start, owner_wake, owner_stop, owner_lost};

    owner->connect_ms = connect_ms;
    pthread_mutex_init(&owner->mutex, NULL);
    if (url)
        EXPECT(url_parse(&owner->url, url) == FRESHET_OK);
    EXPECT(loop_open(&owner->loop, &events, owner) == FRESHET_OK);
    EXPECT(test_until(atomic_load(&owner->starts) == 1, 5000));
}

static void owner_close(struct owner *owner)
{
    int stops = atomic_load(&owner->stops);

    EXPECT(loop_close(owner->loop));
    EXPECT(atomic_load(&owner->losses) || atomic_load(&owner->stops) == stops + 1);
    url_free(&owner->url);
}

/* Do something on the loop's thread, and wait until it is done. */
static long long owner_do(struct owner *owner, void (*task)(struct owner *owner), long long argument)
{
    owner->argument = argument;
    atomic_store(&owner->task, task);
    loop_wake(owner->loop);
    EXPECT(test_until(!atomic_load(&owner->task), 5000));
    return owner->outcome;
}

static bool ask_now(struct owner *owner, uint32_t ms, const char *a, const char *b, const char *c)
{
    const char *argv[] = {a, b, c};

    return link_ask(owner->link, c ? 3 : b ? 2 : 1, argv, NULL, ms, owner_reply, owner);
}

static void task_ping(struct owner *owner)
{
    owner->outcome = ask_now(owner, (uint32_t)owner->argument, "PING", NULL, NULL);
}

static void task_subscribe(struct owner *owner)
{
    const char *channels[] = {"one", "two"};

    owner->outcome = link_subscribe(owner->link, 2, channels, (uint32_t)owner->argument, owner_reply, owner);
}

static void on_up_subscribe(struct owner *owner)
{
    owner->argument = 1000;
    task_subscribe(owner);
}

/* Does a PING come back within a second or two? */
static bool pings(struct owner *owner)
{
    int replies = atomic_load(&owner->replies);

    return owner_do(owner, task_ping, 1000) && test_until(atomic_load(&owner->replies) > replies, 2000);
}

/* ---- the loop alone ---- */

static atomic_int asked, answered;

static void on_wake_count(struct loop *loop, void *arg)
{
    (void)loop;
    (void)arg;
    atomic_store(&answered, atomic_load(&asked));
}

static void *waker_main(void *arg)
{
    for (int i = 0; i < 20000; i++) {
        atomic_fetch_add(&asked, 1);
        loop_wake(arg);
    }
    return NULL;
}

TEST(no_wake_is_lost_however_many_call)
{
    const struct loop_events events = {.wake = on_wake_count};
    struct loop *loop;
    pthread_t threads[4];

    EXPECT(loop_open(&loop, &events, NULL) == FRESHET_OK);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 4; i++)
            EXPECT(pthread_create(&threads[i], NULL, waker_main, loop) == 0);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        /* Well within the second after which it looks around anyway. */
        EXPECT(test_until(atomic_load(&answered) == atomic_load(&asked), 500));
    }
    EXPECT(loop_close(loop));
}

/* A shot a timer. */
static struct loop_timer *timers[3];
static atomic_int shots[3];

static void timer_fired(void *arg)
{
    int which = *(int *)arg;

    if (atomic_fetch_add(&shots[which], 1) == 9 && which == 1)
        loop_timer_unset(timers[1]);
}

static void timers_start(struct loop *loop, void *arg)
{
    static int numbers[3] = {0, 1, 2};

    (void)arg;
    for (int i = 0; i < 3; i++)
        timers[i] = loop_timer_open(loop, timer_fired, &numbers[i]);
    loop_timer_set(timers[0], 20, 0);
    loop_timer_set(timers[1], 0, 5);
    loop_timer_set(timers[2], 10, 0);
    loop_timer_set(timers[2], 600000, 0); /* put off */
}

static void timers_stop(struct loop *loop, void *arg)
{
    (void)loop;
    (void)arg;
    for (int i = 0; i < 3; i++)
        loop_timer_close(timers[i]);
    loop_timer_close(NULL);
}

TEST(timers_fire_once_or_again_and_can_be_put_off)
{
    const struct loop_events events = {.start = timers_start, .stop = timers_stop};
    struct loop *loop;
    int64_t began_ns = test_now_ns();

    EXPECT(loop_open(&loop, &events, NULL) == FRESHET_OK);
    EXPECT(test_until(atomic_load(&shots[0]) && atomic_load(&shots[1]) == 10, 2000));
    EXPECT(test_now_ns() - began_ns >= 44 * 1000000ll);
    for (int i = 0; i < 30; i++)
        test_pause();
    EXPECT_EQ(atomic_load(&shots[0]), 1);
    EXPECT_EQ(atomic_load(&shots[1]), 10);
    EXPECT_EQ(atomic_load(&shots[2]), 0);
    EXPECT(loop_close(loop));
}

static void timers_forget(struct loop *loop, void *arg)
{
    (void)loop;
    (void)arg;
}

TEST(a_loop_that_does_not_end_is_left_after_two_seconds)
{
    const struct loop_events events = {.start = timers_start, .stop = timers_forget};
    struct loop *loop;
    int64_t began_ns;

    EXPECT(loop_open(&loop, &events, NULL) == FRESHET_OK);
    EXPECT(test_until(atomic_load(&shots[0]), 2000));
    began_ns = test_now_ns();
    EXPECT(!loop_close(loop));
    EXPECT(test_now_ns() - began_ns >= 1900 * 1000000ll && test_now_ns() - began_ns < 3 * SECOND_NS);
}

TEST(an_idle_loop_sleeps)
{
    const struct loop_events events = {.wake = on_wake_count};
    struct timespec used;
    struct loop *loop;
    clockid_t clock;

    EXPECT(loop_open(&loop, &events, NULL) == FRESHET_OK);
    atomic_fetch_add(&asked, 1);
    loop_wake(loop);
    EXPECT(test_until(atomic_load(&answered) == 1, 1000));
    for (int i = 0; i < 300; i++)
        test_pause();
    EXPECT(clock_getcpuclockid(getpid(), &clock) == 0);
    EXPECT(loop_close(loop));
    EXPECT(clock_gettime(clock, &used) == 0);
    EXPECT(used.tv_sec == 0 && used.tv_nsec < 200 * 1000000);
}

TEST(all_signals_are_blocked_on_the_thread)
{
    struct owner owner = {0};

    owner_open(&owner, NULL, 0);
    EXPECT(atomic_load(&owner.blocked));
    owner_close(&owner);
}

/* ---- asking ---- */

/* Ten thousand numbered questions at once; each answer must be its own. */
static int next_echo;
static bool echoes_right = true;

static void echo_reply(struct link *link, const struct resp *reply, void *arg)
{
    struct owner *owner = arg;
    char expected[16];

    (void)link;
    snprintf(expected, sizeof expected, "%d", next_echo++);
    echoes_right = echoes_right && reply && reply->text && strcmp(reply->text, expected) == 0;
    atomic_fetch_add(&owner->replies, 1);
}

static void task_echoes(struct owner *owner)
{
    owner->outcome = 1;
    for (int i = 0; i < owner->argument; i++) {
        char text[16];
        const char *argv[] = {"ECHO", text};

        snprintf(text, sizeof text, "%d", i);
        owner->outcome = owner->outcome && link_ask(owner->link, 2, argv, NULL, 5000, echo_reply, owner);
    }
}

static void task_big(struct owner *owner)
{
    size_t size = (size_t)owner->argument;
    char *value = malloc(size);
    const char *argv[] = {"ECHO", value};

    EXPECT(value);
    memset(value, 'v', size);
    EXPECT(link_ask(owner->link, 2, argv, (size_t[]){4, size}, 5000, owner_reply, owner));
    free(value);
}

TEST(answers_come_in_order_and_at_any_size)
{
    struct redis redis;
    struct owner owner = {0};

    redis_start(&redis, NULL);
    owner_open(&owner, redis.url, 1000);
    EXPECT(test_until(atomic_load(&owner.ups) == 1, 2000));
    EXPECT(strstr(redis_do(&redis, "CLIENT LIST"), "name=freshet"));
    EXPECT(owner_do(&owner, task_echoes, 10000) == 1);
    EXPECT(test_until(atomic_load(&owner.replies) == 10000, 5000));
    EXPECT(echoes_right);
    for (long long size = 1; size <= 4 << 20; size *= 8) {
        int replies = atomic_load(&owner.replies);

        owner_do(&owner, task_big, size);
        EXPECT(test_until(atomic_load(&owner.replies) > replies, 5000));
        EXPECT_EQ(atomic_load(&owner.size), size);
    }
    EXPECT_EQ(atomic_load(&owner.downs), 0);
    owner_close(&owner);
}

TEST(tcp_by_name_works_whatever_address_the_name_has_first)
{
    struct redis redis;
    struct owner owner = {0};
    struct url_address address;
    char url[64];

    redis_start_tcp(&redis, NULL);
    snprintf(url, sizeof url, "redis://localhost:%d/2", redis.port);
    owner_open(&owner, url, 1000);
    EXPECT(test_until(atomic_load(&owner.ups) == 1, 5000));
    EXPECT(pings(&owner));
    EXPECT(link_address(owner.link, &address) && address.storage.ss_family == AF_INET);
    EXPECT(strstr(redis_do(&redis, "CLIENT LIST"), "db=2"));
    owner_close(&owner);
}

TEST(an_answer_that_does_not_come_in_time_ends_the_connection)
{
    struct redis redis;
    struct owner owner = {0};

    redis_start(&redis, NULL);
    owner_open(&owner, redis.url, 1000);
    EXPECT(test_until(atomic_load(&owner.ups) == 1, 2000));
    redis_do(&redis, "CLIENT PAUSE 500 ALL");
    EXPECT(owner_do(&owner, task_ping, 5000) == 1);
    EXPECT(owner_do(&owner, task_ping, 100) == 1); /* behind one that has more time */
    EXPECT(test_until(atomic_load(&owner.downs) == 1, 400));
    EXPECT_EQ(atomic_load(&owner.nulls), 2);
    EXPECT(noted(&owner, owner.why, "in time"));
    EXPECT(test_until(atomic_load(&owner.ups) == 2, 5000));
    EXPECT(pings(&owner));
    owner_close(&owner);
}

TEST(a_link_comes_back_after_kills_and_restarts)
{
    struct redis redis;
    struct owner owner = {0};
    int ups;

    redis_start(&redis, NULL);
    owner_open(&owner, redis.url, 1000);
    EXPECT(test_until(atomic_load(&owner.ups) == 1, 2000));
    for (int i = 2; i < 12; i++) {
        EXPECT(pings(&owner));
        redis_do(&redis, "CLIENT KILL TYPE normal");
        EXPECT(test_until(atomic_load(&owner.ups) == i, 500)); /* it did well: hardly any back-off */
        EXPECT_EQ(atomic_load(&owner.downs), i - 1);
    }
    ups = atomic_load(&owner.ups);
    redis_restart(&redis);
    EXPECT(test_until(atomic_load(&owner.ups) > ups, 5000));
    EXPECT(pings(&owner));
    owner_close(&owner);
}

TEST(who_waits_is_told_when_the_server_dies)
{
    struct redis redis;
    struct owner owner = {0};

    redis_start(&redis, NULL);
    owner_open(&owner, redis.url, 1000);
    EXPECT(test_until(atomic_load(&owner.ups) == 1, 2000));
    redis_do(&redis, "CLIENT PAUSE 60000 ALL");
    for (int i = 0; i < 5; i++)
        EXPECT(owner_do(&owner, task_ping, 60000) == 1);
    kill(redis.pid, SIGKILL);
    EXPECT(test_until(atomic_load(&owner.nulls) == 5 && atomic_load(&owner.downs) >= 1, 2000));
    EXPECT(owner_do(&owner, task_ping, 1000) == 0); /* down: not even asked */
    owner_close(&owner);
}

TEST(a_refused_link_says_why_and_goes_on_trying)
{
    struct redis redis;
    struct owner owner = {0};
    char url[300];

    redis_start(&redis, NULL);
    redis_do(&redis, "CONFIG SET requirepass s3cret");
    snprintf(redis.password, sizeof redis.password, "s3cret");
    snprintf(url, sizeof url, "unix://:wr0ng@%s", redis.socket);
    owner_open(&owner, url, 1000);
    EXPECT(test_until(atomic_load(&owner.refusals) >= 2, 5000));
    EXPECT_EQ(atomic_load(&owner.ups), 0);
    EXPECT(noted(&owner, owner.why, "password") && !noted(&owner, owner.why, "wr0ng"));
    redis_do(&redis, "CONFIG SET requirepass wr0ng");
    snprintf(redis.password, sizeof redis.password, "wr0ng");
    EXPECT(test_until(atomic_load(&owner.ups) == 1, 10000));
    owner_close(&owner);
}

/* ---- servers that misbehave ---- */

TEST(attempts_thin_out_where_nobody_listens)
{
    struct owner owner = {0};
    char url[200];
    int downs;

    snprintf(url, sizeof url, "unix://%s/nobody", fresh_dir());
    owner_open(&owner, url, 1000);
    for (int i = 0; i < 1000; i++)
        test_pause();
    downs = atomic_load(&owner.downs);
    EXPECT(downs >= 2 && downs < 60);
    owner_close(&owner);
}

/* Runs into trouble with such a server, again and again, and never comes up (or only for the greeting). */
static void fails_with(struct fake *fake, const char *why, bool comes_up)
{
    struct owner owner = {0};

    owner_open(&owner, fake->url, fake->greeting ? 2000 : 200);
    EXPECT(test_until(atomic_load(&owner.downs) >= 3 && noted(&owner, owner.why, why), 10000));
    EXPECT(comes_up ? atomic_load(&owner.ups) >= 3 : atomic_load(&owner.ups) == 0);
    EXPECT(atomic_load(&fake->connections) >= 3);
    owner_close(&owner);
}

TEST(a_server_that_is_no_redis_is_dropped)
{
    fails_with(FAKE(.greeting = "220 smtp ready\r\n"), "not Redis", false);
    fails_with(FAKE(.greeting = "*1048577\r\n"), "larger", false);
    fails_with(FAKE(.greeting = NULL), "in time", false);
    fails_with(FAKE(.greeting = "", .close_at_once = true), "Redis at", false);
    fails_with(FAKE(.greeting = "+OK\r\n+OK\r\n"), "nobody had asked", true);
    fails_with(FAKE(.greeting = "+OK\r\n*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"), "nobody had asked", true);
}

/* A subscriber is told garbage in place of its confirmation. */
static void garbles(const char *answer, const char *why)
{
    struct fake *fake = FAKE(.greeting = "+OK\r\n", .answer = answer);
    struct owner owner = {.on_up = on_up_subscribe};

    owner_open(&owner, fake->url, 2000);
    EXPECT(test_until(atomic_load(&owner.downs) >= 2 && noted(&owner, owner.why, why), 10000));
    EXPECT(atomic_load(&owner.nulls) >= 2);
    owner_close(&owner);
}

TEST(a_subscriber_believes_only_what_a_subscription_says)
{
    garbles("+OK\r\n", "nobody had asked");
    garbles("*0\r\n", "nobody had asked");
    garbles("*1\r\n$7\r\nmessage\r\n", "nobody had asked");
    garbles("*2\r\n$7\r\nmessage\r\n$1\r\na\r\n", "nobody had asked");
    garbles("*2\r\n$4\r\npong\r\n$0\r\n\r\n", "nobody had asked");
    garbles("*3\r\n$7\r\nmessage\r\n:1\r\n$1\r\na\r\n", "nobody had asked");
    garbles("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n*0\r\n", "nobody had asked");
    garbles("*3\r\n$-1\r\n$1\r\na\r\n$1\r\na\r\n", "nobody had asked");
    garbles("*4\r\n$8\r\npmessage\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n", "nobody had asked");
    garbles(":1\r\n", "nobody had asked");
    garbles("*8388608\r\n", "larger");
}

static void task_flood(struct owner *owner)
{
    size_t size = 1 << 20;
    char *value = calloc(1, size);
    const char *argv[] = {"ECHO", value};
    int taken = 0;

    while (taken < 100 && link_ask(owner->link, 2, argv, (size_t[]){4, size}, 300, owner_reply, owner))
        taken++;
    owner->outcome = taken;
    free(value);
}

TEST(what_waits_to_be_sent_has_a_limit)
{
    struct fake *fake = FAKE(.greeting = "+OK\r\n", .deaf = true);
    struct owner owner = {0};
    long long taken;

    owner_open(&owner, fake->url, 1000);
    EXPECT(test_until(atomic_load(&owner.ups) == 1, 2000));
    taken = owner_do(&owner, task_flood, 0);
    EXPECT(taken >= 30 && taken <= 40); /* 32 MiB, and what the socket took */
    EXPECT(test_until(atomic_load(&owner.nulls) == taken, 2000));
    owner_close(&owner);
}

/* ---- subscriptions ---- */

TEST(a_subscription_brings_every_message_and_survives_kills)
{
    struct redis redis;
    struct owner owner = {.on_up = on_up_subscribe};

    redis_start(&redis, NULL);
    owner_open(&owner, redis.url, 1000);
    for (int round = 1; round <= 3; round++) {
        EXPECT(test_until(atomic_load(&owner.replies) == round, 5000));
        EXPECT_EQ(redis_int(&redis, "PUBLISH one first"), 1);
        for (int i = 0; i < 200; i++)
            redis_do(&redis, "PUBLISH two number%d", i);
        EXPECT(test_until(atomic_load(&owner.pushes) == round * 201, 5000));
        EXPECT(noted(&owner, owner.last_push, "number199"));
        EXPECT(owner_do(&owner, task_ping, 1000) == 0); /* for pushes only */
        redis_do(&redis, "CLIENT KILL TYPE pubsub");
    }
    owner_close(&owner);
}

TEST(a_silent_subscription_is_asked_for_a_sign_of_life)
{
    struct redis redis;
    struct owner owner = {.on_up = on_up_subscribe};
    int64_t began_ns;

    redis_start(&redis, NULL);
    owner_open(&owner, redis.url, 100);
    EXPECT(test_until(atomic_load(&owner.replies) == 1, 5000));
    EXPECT(test_until(strstr(redis_do(&redis, "INFO commandstats"), "cmdstat_ping:calls=3"), 3000));
    EXPECT_EQ(atomic_load(&owner.downs), 0);
    EXPECT_EQ(redis_int(&redis, "PUBLISH one still"), 1);
    EXPECT(test_until(atomic_load(&owner.pushes) == 1, 1000));
    /* A server that hangs with the connection open says nothing: that is the end. */
    kill(redis.pid, SIGSTOP);
    began_ns = test_now_ns();
    EXPECT(test_until(atomic_load(&owner.downs) >= 1, 2000));
    EXPECT(test_now_ns() - began_ns >= 90 * 1000000ll && test_now_ns() - began_ns < SECOND_NS);
    kill(redis.pid, SIGCONT);
    EXPECT(test_until(atomic_load(&owner.replies) == 2, 10000));
    owner_close(&owner);
}

TEST(a_channel_that_the_acl_lacks_is_an_error_to_the_subscriber)
{
    struct redis redis;
    struct owner owner = {.on_up = on_up_subscribe};
    char url[300];

    redis_start(&redis, NULL);
    redis_do(&redis, "ACL SETUSER listener on >pw ~* +@all resetchannels &one");
    snprintf(url, sizeof url, "unix://listener:pw@%s", redis.socket);
    owner_open(&owner, url, 1000);
    EXPECT(test_until(atomic_load(&owner.replies) == 1, 5000));
    EXPECT(noted(&owner, owner.last_reply, "NOPERM"));
    EXPECT(owner_do(&owner, task_ping, 1000) == 1); /* nothing is subscribed: commands go on */
    EXPECT(test_until(atomic_load(&owner.replies) == 2, 1000));
    owner_close(&owner);
}

/* ---- scripts ---- */

static void task_script(struct owner *owner)
{
    const char *argv[] = {"freshet:{t:0}:hosts", ""};

    owner->outcome = link_script(owner->link, SCRIPT_LEAVE, 1, 2, argv, NULL, 1000, owner_reply, owner);
}

TEST(a_link_sends_a_script_once_and_its_name_from_then_on)
{
    struct redis redis;
    struct owner owner = {0};
    int replies = 0;

    redis_start(&redis, NULL);
    owner_open(&owner, redis.url, 1000);
    EXPECT(test_until(atomic_load(&owner.ups) == 1, 2000));
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3; i++) {
            EXPECT(owner_do(&owner, task_script, 0) == 1);
            EXPECT(test_until(atomic_load(&owner.replies) == replies + 1, 1000));
            replies++;
            EXPECT(!noted(&owner, owner.last_reply, "NOSCRIPT"));
            EXPECT_EQ(redis_int(&redis, "SCRIPT EXISTS %s", script_texts[SCRIPT_LEAVE].sha1), 1);
        }
        redis_do(&redis, "SCRIPT FLUSH");
    }
    EXPECT_EQ(atomic_load(&owner.downs), 0);
    owner_close(&owner);
}

/* ---- the owner's freedom ---- */

static void reply_close(struct link *link, const struct resp *reply, void *arg)
{
    struct owner *owner = arg;

    link_close(link);
    owner->link = NULL;
    atomic_fetch_add(reply ? &owner->replies : &owner->nulls, 1);
}

static void task_close_in_reply(struct owner *owner)
{
    const char *argv[] = {"PING"};

    for (int i = 0; i < 5; i++)
        EXPECT(link_ask(owner->link, 1, argv, NULL, 1000, i == 2 ? reply_close : owner_reply, owner));
}

static void close_link(struct owner *owner)
{
    link_close(owner->link);
    owner->link = NULL;
}

static void drop_link(struct owner *owner)
{
    link_drop(owner->link);
    EXPECT(!link_is_up(owner->link));
}

static void stop_link(struct owner *owner)
{
    link_stop(owner->link);
}

static void start_link(struct owner *owner)
{
    link_start(owner->link);
}

TEST(a_link_may_be_closed_in_any_of_its_callbacks)
{
    struct redis redis;
    struct owner in_reply = {0}, in_up = {.on_up = close_link}, in_down = {.on_down = close_link},
                 in_push = {.on_up = on_up_subscribe, .on_push = close_link};

    redis_start(&redis, NULL);
    owner_open(&in_reply, redis.url, 1000);
    EXPECT(test_until(atomic_load(&in_reply.ups) == 1, 2000));
    owner_do(&in_reply, task_close_in_reply, 0);
    EXPECT(test_until(atomic_load(&in_reply.replies) == 3 && atomic_load(&in_reply.nulls) == 2, 2000));
    owner_close(&in_reply);

    owner_open(&in_push, redis.url, 1000);
    EXPECT(test_until(atomic_load(&in_push.replies) == 1, 2000));
    redis_do(&redis, "PUBLISH one a");
    redis_do(&redis, "PUBLISH one b");
    EXPECT(test_until(atomic_load(&in_push.pushes) == 1, 2000));
    owner_close(&in_push);
    EXPECT_EQ(atomic_load(&in_push.pushes), 1);

    owner_open(&in_up, redis.url, 1000);
    EXPECT(test_until(atomic_load(&in_up.ups) == 1, 2000));
    owner_close(&in_up);

    owner_open(&in_down, redis.url, 1000);
    EXPECT(test_until(atomic_load(&in_down.ups) == 1, 2000));
    redis_do(&redis, "CLIENT KILL TYPE normal");
    EXPECT(test_until(atomic_load(&in_down.downs) == 1, 2000));
    owner_close(&in_down);
    EXPECT_EQ(atomic_load(&in_down.ups), 1);
}

TEST(a_dropped_link_comes_back_ever_later_and_a_stopped_one_when_told)
{
    struct redis redis;
    struct owner owner = {0};

    redis_start(&redis, NULL);
    owner_open(&owner, redis.url, 1000);
    EXPECT(test_until(atomic_load(&owner.ups) == 1, 2000));
    for (int i = 1; i <= 4; i++) {
        EXPECT(pings(&owner));
        EXPECT(owner_do(&owner, task_ping, 1000) == 1);
        owner_do(&owner, drop_link, 0);
        EXPECT_EQ(atomic_load(&owner.downs), i);
        EXPECT(test_until(atomic_load(&owner.ups) == i + 1, 2000));
    }
    owner_do(&owner, stop_link, 0);
    EXPECT(owner_do(&owner, task_ping, 1000) == 0);
    for (int i = 0; i < 50; i++)
        test_pause();
    EXPECT_EQ(atomic_load(&owner.downs), 4); /* who stops knows */
    EXPECT_EQ(atomic_load(&owner.ups), 5);
    owner_do(&owner, start_link, 0);
    EXPECT(test_until(atomic_load(&owner.ups) == 6, 2000));
    /* Dropping at every `up` must not become a storm. */
    owner.on_up = drop_link;
    redis_do(&redis, "CLIENT KILL TYPE normal");
    for (int i = 0; i < 500; i++)
        test_pause();
    EXPECT(atomic_load(&owner.ups) < 60);
    owner_close(&owner);
}

/* ---- the program around it ---- */

/* ThreadSanitizer calls it a race to close another thread's descriptors, which here is the point, and gives up when a
 * child of several threads starts one. */
static void not_with_tsan(void)
{
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
    test_skip("not for ThreadSanitizer");
#endif
#elif defined(__SANITIZE_THREAD__)
    test_skip("not for ThreadSanitizer");
#endif
}

TEST(closed_descriptors_lose_the_loop_and_not_the_program)
{
    struct redis redis;
    int pairs[8][2];

    not_with_tsan();
    redis_start(&redis, NULL);
    for (int again = 0; again < 5; again++)
        IN_CHILD({
            struct owner owner = {0};
            struct owner next = {0};
            char byte;

            owner_open(&owner, redis.url, 1000);
            EXPECT(test_until(atomic_load(&owner.ups) == 1, 2000));
            EXPECT(pings(&owner));
            for (int fd = 3; fd < 256; fd++)
                close(fd);
            for (int i = 0; i < 8; i++) /* the numbers are in use again at once */
                EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]) == 0);
            for (int i = 0; i < 10; i++)
                loop_wake(owner.loop);
            EXPECT(test_until(atomic_load(&owner.losses) == 1, 3000));
            loop_wake(owner.loop);
            owner_close(&owner);
            EXPECT_EQ(atomic_load(&owner.stops), 0);
            for (int i = 0; i < 8; i++)
                for (int j = 0; j < 2; j++)
                    EXPECT(recv(pairs[i][j], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
            owner_open(&next, redis.url, 1000);
            EXPECT(test_until(atomic_load(&next.ups) == 1, 2000));
            EXPECT(pings(&next));
            owner_close(&next);
        });
}

/* The descriptor of the only connected unix socket to the server. */
static int find_socket(const char *path)
{
    for (int fd = 3; fd < 256; fd++) {
        struct sockaddr_un peer = {0};
        socklen_t size = sizeof peer;

        if (getpeername(fd, (struct sockaddr *)&peer, &size) == 0 && peer.sun_family == AF_UNIX &&
            strcmp(peer.sun_path, path) == 0)
            return fd;
    }
    return -1;
}

TEST(a_connection_replaced_under_us_is_left_alone)
{
    struct redis redis;

    not_with_tsan();
    redis_start(&redis, NULL);
    IN_CHILD({
        struct owner owner = {0};
        int fd;
        int pipe_ends[2];
        char byte = 'x';

        owner_open(&owner, redis.url, 1000);
        EXPECT(test_until(atomic_load(&owner.ups) == 1, 2000));
        fd = find_socket(redis.socket);
        EXPECT(fd > 2 && pipe(pipe_ends) == 0 && dup2(pipe_ends[1], fd) == fd);
        loop_wake(owner.loop);
        EXPECT(test_until(atomic_load(&owner.losses) == 1, 3000));
        owner_close(&owner);
        EXPECT(fcntl(pipe_ends[0], F_SETFL, O_NONBLOCK) == 0);
        EXPECT(read(pipe_ends[0], &byte, 1) < 0 && errno == EAGAIN); /* nobody wrote into it */
        EXPECT(write(fd, "y", 1) == 1);                              /* nor closed it */
    });
}

TEST(a_child_lets_go_of_the_loop_and_the_parent_goes_on)
{
    struct redis redis;
    struct owner owner = {0};

    not_with_tsan();
    redis_start(&redis, NULL);
    owner_open(&owner, redis.url, 1000);
    EXPECT(test_until(atomic_load(&owner.ups) == 1, 2000));
    for (int i = 0; i < 5; i++) {
        IN_CHILD({
            struct owner own = {0};

            loop_abandon(owner.loop);
            EXPECT(find_socket(redis.socket) < 0);
            owner_open(&own, redis.url, 1000);
            EXPECT(test_until(atomic_load(&own.ups) == 1, 2000));
            EXPECT(pings(&own));
            owner_close(&own);
        });
        EXPECT(pings(&owner));
    }
    EXPECT_EQ(atomic_load(&owner.ups), 1);
    EXPECT_EQ(atomic_load(&owner.downs), 0);
    owner_close(&owner);
}

TEST(a_loop_works_in_a_program_without_standard_descriptors)
{
    struct redis redis;
    struct owner owner = {0};
    int saved = dup(STDERR_FILENO);
    bool up, clear;

    redis_start(&redis, NULL);
    close(0);
    close(1);
    close(2);
    owner_open(&owner, redis.url, 1000);
    up = test_until(atomic_load(&owner.ups) == 1, 2000) && pings(&owner);
    clear = fcntl(0, F_GETFD) < 0 && fcntl(1, F_GETFD) < 0 && fcntl(2, F_GETFD) < 0;
    owner_close(&owner);
    EXPECT(dup2(saved, STDERR_FILENO) == STDERR_FILENO);
    EXPECT(up && clear);
}

TEST(loops_leave_no_descriptor_behind)
{
    struct redis redis;
    int before = -1;

    redis_start(&redis, NULL);
    for (int i = 0; i < 20; i++) {
        struct owner owner = {0};
        int next;

        owner_open(&owner, redis.url, 1000);
        if (i % 2)
            EXPECT(test_until(atomic_load(&owner.ups) == 1, 2000));
        owner_close(&owner);
        next = open("/dev/null", O_RDONLY); /* the lowest free number does not rise */
        EXPECT(before < 0 || next == before);
        before = next;
        close(next);
    }
}
