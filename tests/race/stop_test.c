/*
 * stop_test.c - the process that listens for its host is stopped (SIGSTOP) or killed.
 *
 * Its sibling takes over; without one nothing is served beyond the bound.  Whatever the stopped one
 * does when it goes on, it does no harm: all words of the page only rise.
 */
#include "hold.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define BOUND    500
#define VERSIONS 100000

/* What was confirmed, and when, for every process to check its reads against. */
struct history {
    _Atomic uint32_t version;            /* the newest confirmed value of "k" */
    _Atomic int64_t confirmed[VERSIONS]; /* when it was, as its writer saw it: later rather than earlier */
    _Atomic uint64_t tier_reads, too_late;
    _Atomic bool ready, stop;
};

static struct history *history_open(void)
{
    struct history *history = mmap(NULL, sizeof *history, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    EXPECT(history != MAP_FAILED);
    return history;
}

/* Write the next version through `cache`. */
static void history_write(struct history *history, freshet *cache)
{
    uint32_t next = history->version + 1;
    char value[16];

    EXPECT(next < VERSIONS);
    snprintf(value, sizeof value, "%u", next);
    EXPECT_EQ(host_put(cache, "k", value), FRESHET_OK);
    history->confirmed[next] = test_now_ns();
    history->version = next;
}

/* Read once and judge: had the next version been confirmed longer than the bound ago at the last look at the clock? */
static freshet_result history_read(struct history *history, freshet *cache, bool tier_only)
{
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    freshet_buf buf = {0};
    freshet_result result;

    options.tier_only = tier_only;
    options.deadline_ms = 200;
    result = freshet_get(cache, "k", 1, &options, &buf, &answer);
    if (result == FRESHET_OK) {
        char value[16];
        unsigned long version;

        snprintf(value, sizeof value, "%.*s", (int)buf.size, (char *)buf.data);
        version = strtoul(value, NULL, 10);
        EXPECT(version > 0 && version < VERSIONS - 1);
        if (history->confirmed[version + 1] &&
            answer.judged_at_ns - history->confirmed[version + 1] > BOUND * 1000000LL)
            history->too_late++;
        if (answer.source == FRESHET_FROM_TIER)
            history->tier_reads++;
    }
    freshet_buf_free(&buf);
    return result;
}

/* A process of b's host that has joined and reads until told to stop. */
static pid_t reader_begin(struct history *history, const char *dir, struct redis *redis)
{
    pid_t child = test_fork();

    if (child == 0) {
        freshet *cache = host_join(dir, redis, BOUND);

        history->ready = true;
        while (!history->stop) {
            (void)history_read(history, cache, false);
            test_pause();
        }
        freshet_close(cache);
        test_child_done();
    }
    return child;
}

struct scene {
    struct redis redis;
    struct history *history;
    const char *dir; /* of host b */
    freshet *a;
    pid_t subscriber;
};

static void begin(struct scene *scene)
{
    redis_start(&scene->redis, NULL);
    (void)host_keyring();
    scene->dir = fresh_dir();
    scene->history = history_open();
    scene->subscriber = reader_begin(scene->history, scene->dir, &scene->redis);
    scene->a = host_join(fresh_dir(), &scene->redis, BOUND);
    EXPECT(test_until(scene->history->ready, 20000));
    history_write(scene->history, scene->a);
}

static void end(struct scene *scene)
{
    scene->history->stop = true;
    test_join(scene->subscriber);
    EXPECT_EQ(scene->history->too_late, 0);
    freshet_close(scene->a);
    redis_stop(&scene->redis);
}

/* Write, and read at b's host, for `ms`. */
static void work(struct scene *scene, freshet *b, unsigned ms, bool tier_only)
{
    int64_t end = test_now_ns() + ms * 1000000LL;

    while (test_now_ns() < end) {
        history_write(scene->history, scene->a);
        for (int i = 0; i < 20; i++) {
            (void)history_read(scene->history, b, tier_only);
            test_pause();
        }
    }
}

TEST(a_sibling_takes_over_from_a_stopped_subscriber_and_the_resumed_one_does_no_harm)
{
    struct scene scene;
    freshet *sibling;
    uint64_t hits;

    begin(&scene);
    sibling = host_join(scene.dir, &scene.redis, BOUND);
    EXPECT_EQ(stats_of(sibling).subscriber_pid, scene.subscriber);
    work(&scene, sibling, 300, false);
    test_kill(scene.subscriber, SIGSTOP);
    work(&scene, sibling, 1500, false);
    EXPECT_EQ(stats_of(sibling).subscriber_pid, getpid());
    EXPECT(stats_of(sibling).takeovers >= 1);
    hits = scene.history->tier_reads;
    work(&scene, sibling, 1500, false); /* three seconds in all; in these the tier serves again */
    EXPECT(scene.history->tier_reads > hits);
    test_kill(scene.subscriber, SIGCONT);
    work(&scene, sibling, 1000, false);
    EXPECT(stats_of(sibling).proven_age_ms <= BOUND);
    scene.history->stop = true;
    freshet_close(sibling);
    end(&scene);
}

TEST(without_a_sibling_nothing_is_served_beyond_the_bound)
{
    struct scene scene;
    freshet *onlooker;
    int64_t stopped_ns;

    begin(&scene);
    onlooker = host_solo(scene.dir, BOUND); /* has the tier open, but has not joined: reads what others keep proven */
    EXPECT(test_until(history_read(scene.history, onlooker, true) == FRESHET_OK, 5000));
    test_kill(scene.subscriber, SIGSTOP);
    stopped_ns = test_now_ns();
    work(&scene, onlooker, BOUND + 100, true);
    while (test_now_ns() < stopped_ns + 3000 * 1000000LL) {
        history_write(scene.history, scene.a);
        EXPECT_EQ(history_read(scene.history, onlooker, true), FRESHET_MISS);
        test_pause();
    }
    test_kill(scene.subscriber, SIGCONT); /* its own reads begin where they were stopped: too_late counts them too */
    EXPECT(test_until(history_read(scene.history, onlooker, true) == FRESHET_OK, 10000));
    work(&scene, onlooker, 500, true);
    freshet_close(onlooker);
    end(&scene);
}

TEST(a_sibling_takes_over_from_a_killed_subscriber)
{
    struct scene scene;
    freshet *sibling;

    begin(&scene);
    sibling = host_join(scene.dir, &scene.redis, BOUND);
    test_kill(scene.subscriber, SIGKILL);
    EXPECT(test_until(stats_of(sibling).subscriber_pid == getpid(), 10000));
    work(&scene, sibling, 1000, false);
    EXPECT(stats_of(sibling).proven_age_ms <= BOUND);
    EXPECT(scene.history->tier_reads > 0);
    scene.subscriber = reader_begin(scene.history, scene.dir, &scene.redis);
    work(&scene, sibling, 500, false);
    freshet_close(sibling);
    end(&scene);
}

/* The seat goes round among many, stopped and resumed in turn. */
TEST(stops_in_turn_never_lead_beyond_the_bound)
{
    struct scene scene;
    freshet *sibling;
    pid_t third;

    begin(&scene);
    sibling = host_join(scene.dir, &scene.redis, BOUND);
    third = reader_begin(scene.history, scene.dir, &scene.redis);
    for (int i = 0; i < 6; i++) {
        test_kill(i % 2 ? third : scene.subscriber, SIGSTOP);
        work(&scene, sibling, 400, false);
        test_kill(i % 2 ? third : scene.subscriber, SIGCONT);
        work(&scene, sibling, 100, false);
    }
    scene.history->stop = true;
    test_join(third);
    freshet_close(sibling);
    end(&scene);
}
