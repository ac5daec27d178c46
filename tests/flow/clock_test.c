/*
 * clock_test.c - wall clocks that jump, Redis's or a host's: nothing is decided by them.
 *
 * Positions rise whatever the clock says, and freshness is measured on each host's own CLOCK_BOOTTIME.
 */
#include <history.h>

#include <freshet_fleet.h>

#include <signal.h>
#include <unistd.h>

#define BOUND 300

struct scene {
    struct redis redis;
    struct history *history;
    freshet *a, *b; /* a writes */
    struct history_reader readers[2];
};

static void begin(struct scene *scene)
{
    scene->history = history_open(BOUND);
    scene->a = host_join(fresh_dir(), &scene->redis, BOUND);
    scene->b = host_join(fresh_dir(), &scene->redis, BOUND);
    history_reader_begin(&scene->readers[0], scene->history, scene->a, true);
    history_reader_begin(&scene->readers[1], scene->history, scene->b, false);
    EXPECT(history_work(scene->history, scene->a, 300) > 5);
}

static void end(struct scene *scene)
{
    scene->history->stop = true;
    for (int i = 0; i < 2; i++)
        history_reader_end(&scene->readers[i]);
    history_expect_kept(scene->history);
    freshet_close(scene->a);
    freshet_close(scene->b);
    redis_stop(&scene->redis);
}

/* Whether a load's caller still waits is judged by Redis's clock, which a host learns four times per bound. */
TEST(no_load_waits_since_the_clock_of_redis_has_jumped)
{
    struct redis redis;
    freshet *cache;
    char value[16];

    redis_start_on_clock(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 600000);
    for (int i = 0; i < 6; i++) {
        const int jumps[] = {0, 3600, 7200, -3600, 10, 0};
        freshet_load_options options = FRESHET_INIT(freshet_load_options);
        freshet_answer answer = FRESHET_INIT(freshet_answer);
        freshet_buf buf = {0};
        int64_t begun;

        redis_jump(&redis, jumps[i]);
        (void)snprintf(value, sizeof value, "value %d", i);
        options.deadline_ms = 20000;
        begun = test_now_ns();
        EXPECT_EQ(freshet_load(cache, value, strlen(value), &options, host_loader, value, &buf, &answer), FRESHET_OK);
        EXPECT(answer.source == FRESHET_FROM_LOADER && test_now_ns() - begun < 10000 * INT64_C(1000000));
        EXPECT(host_gets(cache, value, value)); /* and it was kept */
        freshet_buf_free(&buf);
    }
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(the_clock_of_redis_jumps_ten_minutes_to_and_fro)
{
    const int jumps[] = {600, 0, -600, 0, 600, -600, 0};
    struct scene scene;
    uint64_t epoch, position;
    long long before;

    redis_start_on_clock(&scene.redis, NULL);
    before = redis_int(&scene.redis, "EVAL 'return redis.call(\"TIME\")[1]' 0");
    redis_jump(&scene.redis, 600);
    EXPECT(test_until(redis_int(&scene.redis, "EVAL 'return redis.call(\"TIME\")[1]' 0") - before >= 600, 5000));
    redis_jump(&scene.redis, 0);
    begin(&scene);
    epoch = host_stats(scene.b).epoch;
    for (size_t i = 0; i < sizeof jumps / sizeof jumps[0]; i++) {
        position = host_stats(scene.a).position;
        redis_jump(&scene.redis, jumps[i]);
        EXPECT(history_work(scene.history, scene.a, 400) > 5);
        EXPECT(test_until(host_proven(scene.a) && host_proven(scene.b), 5000));
        EXPECT(host_stats(scene.a).position > position);
        host_share(scene.a, scene.b, "other", i % 2 ? "well" : "fine");
    }
    EXPECT_EQ(host_stats(scene.b).epoch, epoch); /* it is no reason to forget anything */
    EXPECT_EQ(host_stats(scene.b).repairs, 0);
    end(&scene);
}

/* A server whose clock is behind takes over from one whose clock was ahead: an epoch begins above all that is known. */
TEST(a_server_that_is_behind_by_ten_minutes_begins_above_what_is_known)
{
    struct scene scene;
    uint64_t epoch, position;

    redis_start_on_clock(&scene.redis, NULL);
    redis_jump(&scene.redis, 600);
    begin(&scene);
    for (int round = 0; round < 2; round++) {
        epoch = host_stats(scene.b).epoch;
        position = host_stats(scene.a).position;
        redis_jump(&scene.redis, round == 0 ? -600 : -1200);
        (void)redis_do(&scene.redis, "FLUSHALL");
        (void)history_work(scene.history, scene.a, 300);
        EXPECT(test_until(host_proven_in_another(scene.a, epoch) && host_proven_in_another(scene.b, epoch), 10000));
        EXPECT(host_stats(scene.a).position > position);
        EXPECT(test_until(history_change(scene.history, scene.a, true), 5000));
    }
    host_share(scene.a, scene.b, "other", "well");
    end(&scene);
}

/* ---- a host ---- */

#define JUMPING "clock_test.the_clock_of_a_host_jumps_ten_minutes_to_and_fro"

/* In the host with the clock: write while it jumps, then leave. */
static void live_with_the_clock(const char *clock)
{
    const int jumps[] = {600, 0, -600, 600, -600, 0};
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    freshet_options options = FRESHET_INIT(freshet_options);
    struct history *history = history_open(BOUND);
    struct history_reader reader;
    struct timespec real;
    freshet *cache = NULL;

    unsetenv("LD_PRELOAD");
    host_set_clock(clock, 600);
    clock_gettime(CLOCK_REALTIME, &real);
    EXPECT(real.tv_sec > time(NULL) - 5 && test_now_ns() > 0);
    options.dir = fresh_dir();
    options.tier_size = 8u << 20;
    options.max_staleness_ms = BOUND;
    options.deadline_ms = 3000;
    join.keyring = getenv("CLOCK_TEST_KEYRING");
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    EXPECT_EQ(freshet_join(cache, getenv("CLOCK_TEST_URL"), &join), FRESHET_OK);
    history_reader_begin(&reader, history, cache, true);
    for (size_t i = 0; i < sizeof jumps / sizeof jumps[0]; i++) {
        int64_t boot_ns = test_now_ns();

        host_set_clock(clock, jumps[i]);
        EXPECT(history_work(history, cache, 300) > 5);
        EXPECT(host_proven(cache) || test_until(host_proven(cache), 5000));
        EXPECT(test_now_ns() - boot_ns < 60 * INT64_C(1000000000)); /* CLOCK_BOOTTIME does not jump */
    }
    EXPECT_EQ(host_put(cache, "done", "yes"), FRESHET_OK);
    history->stop = true;
    history_reader_end(&reader);
    history_expect_kept(history);
    freshet_close(cache);
}

TEST(the_clock_of_a_host_jumps_ten_minutes_to_and_fro)
{
    const char *inside = getenv("CLOCK_TEST_CLOCK");
    char clock[200];
    struct redis redis;
    freshet *other;
    char seen[16] = "", got[16];
    int changes = 0;
    pid_t child;

    if (inside) {
        live_with_the_clock(inside);
        return;
    }
    if (test_sanitized())
        test_skip("a sanitizer's own library must be the first that is loaded, not a clock");
    redis_start(&redis, NULL);
    other = host_join(fresh_dir(), &redis, BOUND);
    snprintf(clock, sizeof clock, "%s/clock", fresh_dir());
    host_set_clock(clock, 0);
    setenv("CLOCK_TEST_KEYRING", host_keyring(), 1);
    setenv("CLOCK_TEST_URL", redis.url, 1);
    setenv("CLOCK_TEST_CLOCK", clock, 1);
    child = test_fork();
    if (child == 0) {
        host_preload_clock(clock);
        if (!freopen("/dev/null", "w", stdout))
            _exit(1);
        execl("/proc/self/exe", "flow-test", JUMPING, (char *)NULL);
        _exit(1);
    }
    while (!host_gets(other, "done", "yes")) { /* what it writes arrives here all the while */
        EXPECT(kill(child, 0) == 0);
        if (host_get(other, "k", got, sizeof got) == FRESHET_OK && strcmp(seen, got) != 0) {
            memcpy(seen, got, sizeof seen);
            changes++;
        }
        test_pause();
    }
    test_join(child);
    EXPECT(changes > 20);
    freshet_close(other);
    redis_stop(&redis);
}
