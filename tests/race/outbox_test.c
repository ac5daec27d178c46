/*
 * outbox_test.c - a change that Redis does not confirm: queued, not served on this host, sent when Redis is back, by
 * whoever lives.
 *
 * CLIENT PAUSE WRITE holds every script that may write while plain reads go on: so Redis still hands out the old
 * record, and this host must refuse it.
 */
#include "hold.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define BOUND 1000

struct scene {
    struct redis redis;
    const char *dir; /* of host a */
    freshet *a, *b;
    int64_t resumed_ns; /* when Redis took writes again */
};

static void begin(struct scene *scene)
{
    redis_start(&scene->redis, NULL);
    scene->dir = fresh_dir();
    scene->a = host_join(scene->dir, &scene->redis, BOUND);
    scene->b = host_join(fresh_dir(), &scene->redis, BOUND);
    EXPECT_EQ(host_put(scene->a, "k", "old"), FRESHET_OK);
    EXPECT_EQ(host_put(scene->a, "other", "still"), FRESHET_OK);
    warm(scene->a, "k", "old");
    warm(scene->b, "k", "old");
}

static void pause_redis(struct scene *scene)
{
    EXPECT(strcmp(redis_do(&scene->redis, "CLIENT PAUSE 100000 WRITE"), "OK") == 0);
}

static void resume_redis(struct scene *scene)
{
    EXPECT(strcmp(redis_do(&scene->redis, "CLIENT UNPAUSE"), "OK") == 0);
    scene->resumed_ns = test_now_ns();
}

static freshet_result invalidate_within(freshet *cache, const char *key, unsigned ms)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);

    options.deadline_ms = ms;
    return freshet_invalidate(cache, key, strlen(key), &options, NULL);
}

/* Was the host proven fresh after that moment?  Then nothing waits any more, nor is on its way a second time. */
static bool proven_since(freshet *cache, int64_t moment_ns)
{
    freshet_stats stats = stats_of(cache);

    return stats.proven_age_ms >= 0 && test_now_ns() - (stats.proven_age_ms + 1) * 1000000 > moment_ns;
}

/* Sent: nothing waits any more, and no host has the old value. */
static void expect_sent(struct scene *scene, freshet *a)
{
    EXPECT(test_until(proven_since(a, scene->resumed_ns), 15000));
    EXPECT_EQ(stats_of(a).outbox, 0);
    EXPECT(applied(scene->b, stats_of(a).position));
    EXPECT(test_until(!gets_that(scene->b, "k", "old"), 5000));
    EXPECT(!gets_that(a, "k", "old"));
    for (int i = 0; i < 50; i++) {
        EXPECT(!gets_that(scene->b, "k", "old") && !gets_that(a, "k", "old"));
        test_pause();
    }
}

static void end(struct scene *scene)
{
    freshet_close(scene->a);
    freshet_close(scene->b);
    redis_stop(&scene->redis);
}

TEST(a_queued_invalidation_hides_the_key_on_this_host_and_is_sent_later)
{
    struct scene scene;
    freshet *sibling;
    freshet_change change = FRESHET_INIT(freshet_change);
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    struct row row;

    begin(&scene);
    sibling = host_join(scene.dir, &scene.redis, BOUND);
    pause_redis(&scene);
    options.deadline_ms = 300;
    EXPECT_EQ(freshet_invalidate(scene.a, "k", 1, &options, &change), FRESHET_QUEUED);
    EXPECT(change.position == 0 && change.epoch == 0);
    for (int i = 0; i < 200; i++) { /* between two attempts to send it, and during one */
        EXPECT_EQ(stats_of(scene.a).outbox, 1);
        test_pause();
    }
    EXPECT(stats_of(scene.a).queued >= 1);
    /* Not from the tier, not from Redis, not in another process.  Once its proof has lapsed each look waits. */
    for (int64_t start = test_now_ns(); test_now_ns() - start < 100 * INT64_C(1000000);) {
        EXPECT(!gets_that(scene.a, "k", "old") && !gets_that(sibling, "k", "old"));
        test_pause();
    }
    IN_CHILD({
        freshet *onlooker = host_solo(scene.dir, BOUND);

        EXPECT(!gets_that(onlooker, "k", "old"));
        freshet_close(onlooker);
    });
    row_init(&row, "row");
    {
        freshet_load_options load = FRESHET_INIT(freshet_load_options);
        freshet_buf buf = {0};

        load.deadline_ms = 300;
        EXPECT_EQ(freshet_load(scene.a, "k", 1, &load, row_loader, &row, &buf, NULL), FRESHET_OK);
        EXPECT(buf.size == 3 && memcmp(buf.data, "row", 3) == 0);
        freshet_buf_free(&buf);
    }
    resume_redis(&scene);
    expect_sent(&scene, scene.a);
    EXPECT(stats_of(scene.a).resent >= 1);
    freshet_close(sibling);
    end(&scene);
}

TEST(a_put_that_redis_does_not_confirm_is_queued_as_an_invalidation)
{
    struct scene scene;
    freshet_write_options options = FRESHET_INIT(freshet_write_options);

    begin(&scene);
    pause_redis(&scene);
    options.deadline_ms = 300;
    EXPECT_EQ(freshet_put(scene.a, "k", 1, "unsure", 6, &options, NULL), FRESHET_QUEUED);
    EXPECT(!gets_that(scene.a, "k", "old") && !gets_that(scene.a, "k", "unsure"));
    resume_redis(&scene);
    expect_sent(&scene, scene.a);
    EXPECT(!gets_that(scene.a, "k", "unsure") && !gets_that(scene.b, "k", "unsure"));
    EXPECT_EQ(host_put(scene.b, "k", "new"), FRESHET_OK);
    EXPECT(test_until(host_gets(scene.a, "k", "new"), 5000));
    end(&scene);
}

TEST(a_queued_clear_hides_everything_and_is_sent_later)
{
    struct scene scene;
    freshet_write_options options = FRESHET_INIT(freshet_write_options);

    begin(&scene);
    pause_redis(&scene);
    options.deadline_ms = 300;
    EXPECT_EQ(freshet_clear(scene.a, &options, NULL), FRESHET_QUEUED);
    EXPECT(!gets_that(scene.a, "k", "old") && !gets_that(scene.a, "other", "still"));
    resume_redis(&scene);
    expect_sent(&scene, scene.a);
    EXPECT(!gets_that(scene.b, "other", "still"));
    end(&scene);
}

TEST(when_redis_is_gone_changes_are_queued_and_sent_after_it_is_back)
{
    struct scene scene;

    begin(&scene);
    redis_stop(&scene.redis);
    EXPECT_EQ(invalidate_within(scene.a, "k", 300), FRESHET_QUEUED);
    EXPECT(!gets_that(scene.a, "k", "old"));
    for (int i = 0; i < 10; i++) /* the back-off makes the next ones quick; they are queued all the same */
        EXPECT_EQ(invalidate_within(scene.a, "other", 300), FRESHET_QUEUED);
    redis_restart(&scene.redis);
    EXPECT(test_until(stats_of(scene.a).outbox == 0, 15000));
    EXPECT(!gets_that(scene.a, "k", "old"));
    EXPECT(test_until(host_put(scene.b, "k", "new") == FRESHET_OK && host_gets(scene.a, "k", "new"), 20000));
    EXPECT(!gets_that(scene.b, "k", "old"));
    end(&scene);
}

/* A process of host a queues an invalidation and dies by SIGKILL. */
static void queue_and_die(struct scene *scene)
{
    int told[2];
    pid_t child;
    char done = 0;

    EXPECT(pipe(told) == 0);
    child = test_fork();
    if (child == 0) {
        freshet *own = host_join(scene->dir, &scene->redis, BOUND);

        EXPECT(write(told[1], "j", 1) == 1);
        EXPECT(test_until(stats_of(own).outbox > 0 || invalidate_within(own, "k", 300) == FRESHET_QUEUED, 10000));
        EXPECT(write(told[1], "q", 1) == 1);
        for (;;)
            test_pause();
    }
    EXPECT(read(told[0], &done, 1) == 1 && done == 'j');
    pause_redis(scene);
    EXPECT(read(told[0], &done, 1) == 1 && done == 'q');
    test_kill(child, SIGKILL);
}

static const char *mortal_point;

static void mortal_hook(const char *point)
{
    if (strcmp(point, mortal_point) == 0)
        (void)kill(getpid(), SIGKILL);
}

/* From the slot's claim on, through sending, to the moment after Redis's answer. */
TEST(a_process_killed_anywhere_in_its_change_leaves_no_old_answer)
{
    static const char *const points[] = {"outbox_covered", "outbox_filled", "confirmed", "outbox_remembered",
                                         "outbox_freed"};
    struct scene scene;

    begin(&scene);
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        siginfo_t info;
        pid_t child;

        EXPECT_EQ(host_put(scene.a, "k", "old"), FRESHET_OK);
        warm(scene.b, "k", "old");
        mortal_point = points[i];
        child = test_fork();
        if (child == 0) {
            freshet *own = host_join(scene.dir, &scene.redis, BOUND);

            step_hook = mortal_hook;
            (void)host_invalidate(own, "k");
            test_child_done();
        }
        EXPECT(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
        EXPECT(info.si_code == CLD_KILLED);
        test_kill(child, SIGKILL); /* it has done so itself; this buries it */
        /* Up to "filled" nothing was promised.  From then on the key is hidden here, at once and until it is sent. */
        for (int n = 0; i > 1 && n < 20; n++) {
            EXPECT(!gets_that(scene.a, "k", "old"));
            test_pause();
        }
        EXPECT(test_until(stats_of(scene.a).outbox == 0, 10000));
        if (i > 1)
            EXPECT(test_until(!gets_that(scene.b, "k", "old"), 10000));
    }
    end(&scene);
}

TEST(a_sibling_sends_what_a_killed_process_had_queued)
{
    struct scene scene;

    begin(&scene);
    queue_and_die(&scene);
    EXPECT_EQ(stats_of(scene.a).outbox, 1);
    EXPECT(!gets_that(scene.a, "k", "old"));
    resume_redis(&scene);
    expect_sent(&scene, scene.a);
    end(&scene);
}

TEST(the_next_process_sends_what_a_killed_one_had_queued)
{
    struct scene scene;
    freshet *next;

    begin(&scene);
    queue_and_die(&scene);
    freshet_close(scene.a); /* nobody is left on this host */
    next = host_solo(scene.dir, BOUND);
    EXPECT_EQ(stats_of(next).outbox, 1);
    EXPECT(!gets_that(next, "k", "old"));
    freshet_close(next);
    resume_redis(&scene);
    scene.a = host_join(scene.dir, &scene.redis, BOUND);
    expect_sent(&scene, scene.a);
    end(&scene);
}

/* Killed in the middle of sending, never having said "queued": the change may be anywhere, so it must not be lost. */
TEST(an_invalidation_whose_sender_is_killed_while_sending_is_not_lost)
{
    struct scene scene;
    pid_t child;

    begin(&scene);
    pause_redis(&scene);
    child = test_fork();
    if (child == 0) { /* the inherited handle: the child opens and joins anew, and waits in the change */
        (void)invalidate_within(scene.a, "k", 60000);
        test_child_done();
    }
    EXPECT(test_until(host_peek(scene.a, "k", NULL, 0) == FRESHET_MISS && stats_of(scene.a).processes > 1, 10000));
    EXPECT(!gets_that(scene.a, "k", "old"));
    test_kill(child, SIGKILL);
    EXPECT(!gets_that(scene.a, "k", "old"));
    resume_redis(&scene);
    expect_sent(&scene, scene.a);
    end(&scene);
}

/*
 * Reports go through, changes do not: a host that owes the fleet an invalidation does not call itself fresh, or the
 * fleet's newest state would be what this host is still keeping from it.
 */
TEST(while_a_change_waits_nothing_is_proven)
{
    struct scene scene;

    begin(&scene);
    EXPECT(strcmp(redis_do(&scene.redis, "CONFIG SET maxmemory 1"), "OK") == 0);
    EXPECT_EQ(invalidate_within(scene.a, "k", 300), FRESHET_QUEUED);
    EXPECT(test_until(stats_of(scene.a).proven_age_ms > 2 * BOUND, 10000));
    EXPECT(test_until(stats_of(scene.b).proven_age_ms < BOUND, 10000)); /* who owes nothing is proven */
    EXPECT_EQ(host_peek(scene.a, "other", NULL, 0), FRESHET_MISS);
    EXPECT(strcmp(redis_do(&scene.redis, "CONFIG SET maxmemory 0"), "OK") == 0);
    scene.resumed_ns = test_now_ns();
    expect_sent(&scene, scene.a);
    EXPECT(test_until(host_gets(scene.a, "other", "still"), 5000));
    end(&scene);
}

TEST(more_queued_keys_than_the_outbox_holds_become_a_clear)
{
    struct scene scene;
    char key[16];
    freshet_key keys[500];
    char names[500][16];

    begin(&scene);
    pause_redis(&scene);
    for (int round = 0; round < 12; round++) {
        freshet_write_options options = FRESHET_INIT(freshet_write_options);

        for (int i = 0; i < 500; i++) {
            snprintf(names[i], sizeof names[i], "many%d", round * 500 + i);
            keys[i] = (freshet_key){names[i], strlen(names[i])};
        }
        options.deadline_ms = 50;
        EXPECT_EQ(freshet_invalidate_many(scene.a, keys, 500, &options, NULL), FRESHET_QUEUED);
    }
    EXPECT_EQ(invalidate_within(scene.a, "k", 100), FRESHET_QUEUED);
    EXPECT(!gets_that(scene.a, "k", "old"));
    resume_redis(&scene);
    expect_sent(&scene, scene.a);
    snprintf(key, sizeof key, "many%d", 5999);
    EXPECT_EQ(host_put(scene.b, key, "new"), FRESHET_OK);
    EXPECT(test_until(host_gets(scene.a, key, "new"), 5000));
    end(&scene);
}

TEST(a_tier_with_queued_changes_is_not_begun_anew_in_another_size)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    struct scene scene;
    freshet *again = NULL;

    begin(&scene);
    pause_redis(&scene);
    EXPECT_EQ(invalidate_within(scene.a, "k", 100), FRESHET_QUEUED);
    freshet_close(scene.a);
    options.dir = scene.dir;
    options.tier_size = 24u << 20;
    options.max_staleness_ms = BOUND;
    EXPECT_EQ(freshet_open(&again, &options), FRESHET_EBUSY);
    EXPECT(strstr(freshet_error(), "wait for Redis"));
    resume_redis(&scene);
    scene.a = host_join(scene.dir, &scene.redis, BOUND); /* as it was: sends them */
    EXPECT(test_until(!gets_that(scene.b, "k", "old") && stats_of(scene.a).outbox == 0, 10000));
    EXPECT(test_until(proven_since(scene.a, scene.resumed_ns), 10000));
    freshet_close(scene.a);
    EXPECT_EQ(freshet_open(&scene.a, &options), FRESHET_OK); /* now it may */
    freshet_close(scene.a);
    freshet_close(scene.b);
    redis_stop(&scene.redis);
}
