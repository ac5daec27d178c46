/*
 * history_test.c - Redis loses its data: FLUSHALL, a restart without them, a head that is gone.
 *
 * Scripts draw a new epoch, hosts adopt it; positions go on rising; everything of the history before is void, also
 * what a host had not yet heard of when it ended.
 */
#include "hold.h"

#include <signal.h>

#define BOUND 1000
#define HEAD "freshet:{default:0}:head"

struct scene {
    struct redis redis;
    freshet *a, *b;
    freshet_stats before; /* b's */
};

static void begin(struct scene *scene)
{
    redis_start(&scene->redis, NULL);
    scene->a = host_join(fresh_dir(), &scene->redis, BOUND);
    scene->b = host_join(fresh_dir(), &scene->redis, BOUND);
    EXPECT_EQ(host_put(scene->a, "k", "old"), FRESHET_OK);
    EXPECT_EQ(host_put(scene->a, "other", "old"), FRESHET_OK);
    EXPECT_EQ(freshet_load(scene->a, "loaded", 6, NULL, host_loader, "old", NULL, NULL), FRESHET_OK);
    warm(scene->b, "k", "old");
    warm(scene->b, "other", "old");
    warm(scene->b, "loaded", "old");
    scene->before = stats_of(scene->b);
}

/* k was changed after the loss: nobody gets the old value, both hosts live in a new epoch, further up, and work. */
static void expect_new_history(struct scene *scene, int64_t confirmed_ns)
{
    freshet_stats a, b;

    while (test_now_ns() < confirmed_ns + 2 * BOUND * 1000000LL) {
        int64_t begun = test_now_ns();
        bool old = gets_that(scene->b, "k", "old") || gets_that(scene->a, "k", "old");

        EXPECT(!old || begun < confirmed_ns + BOUND * 1000000LL);
        EXPECT(!gets_that(scene->a, "k", "old")); /* whoever changed it at once */
    }
    /* what was changed lately is sent again in the new history: a put may have to be said twice */
    EXPECT(test_until(host_put(scene->a, "k", "new") == FRESHET_OK && host_gets(scene->b, "k", "new"), 20000));
    EXPECT(test_until(stats_of(scene->b).epoch == stats_of(scene->a).epoch, 10000));
    a = stats_of(scene->a);
    b = stats_of(scene->b);
    EXPECT(b.epoch != scene->before.epoch && b.epoch != 0);
    EXPECT(b.position > scene->before.position && a.position >= b.applied && b.adoptions >= 1);
    EXPECT(test_until(stats_of(scene->b).applied >= a.position, 10000));
    EXPECT(stats_of(scene->b).floor > scene->before.position);
    EXPECT_EQ(host_get(scene->b, "other", NULL, 0), FRESHET_MISS);  /* of the ended history, in the tier and in Redis */
    EXPECT_EQ(host_get(scene->b, "loaded", NULL, 0), FRESHET_MISS); /* which no change has named since either */
    freshet_close(scene->a);
    freshet_close(scene->b);
    redis_stop(&scene->redis);
}

/* Invalidate as soon as Redis takes it. */
static int64_t invalidate_soon(freshet *cache, const char *key)
{
    EXPECT(test_until(host_invalidate(cache, key) == FRESHET_OK, 20000));
    return test_now_ns();
}

TEST(flushall_begins_a_new_history)
{
    struct scene scene;

    begin(&scene);
    EXPECT(strcmp(redis_do(&scene.redis, "FLUSHALL"), "OK") == 0);
    expect_new_history(&scene, invalidate_soon(scene.a, "k"));
}

TEST(flushall_alone_is_noticed_without_any_change)
{
    struct scene scene;

    begin(&scene);
    EXPECT(strcmp(redis_do(&scene.redis, "FLUSHALL"), "OK") == 0);
    EXPECT(test_until(stats_of(scene.b).epoch != scene.before.epoch, 10000));
    EXPECT(test_until(stats_of(scene.a).epoch == stats_of(scene.b).epoch, 10000));
    EXPECT_EQ(host_peek(scene.b, "k", NULL, 0), FRESHET_MISS);
    expect_new_history(&scene, invalidate_soon(scene.a, "k"));
}

TEST(a_restart_of_redis_without_its_data_begins_a_new_history)
{
    struct scene scene;

    begin(&scene);
    redis_restart(&scene.redis);
    expect_new_history(&scene, invalidate_soon(scene.a, "k"));
}

TEST(a_lost_head_begins_a_new_history)
{
    struct scene scene;

    begin(&scene);
    EXPECT_EQ(redis_int(&scene.redis, "DEL " HEAD), 1);
    expect_new_history(&scene, invalidate_soon(scene.a, "k"));
}

TEST(a_garbled_head_begins_a_new_history)
{
    struct scene scene;

    begin(&scene);
    EXPECT(strcmp(redis_do(&scene.redis, "SET " HEAD " nonsense"), "OK") == 0);
    expect_new_history(&scene, invalidate_soon(scene.a, "k"));
}

TEST(a_head_of_another_type_begins_a_new_history)
{
    struct scene scene;

    begin(&scene);
    EXPECT_EQ(redis_int(&scene.redis, "DEL " HEAD), 1);
    EXPECT_EQ(redis_int(&scene.redis, "LPUSH " HEAD " nonsense"), 1);
    expect_new_history(&scene, invalidate_soon(scene.a, "k"));
}

/* The change was confirmed, this host had not heard of it, and then history ended: it must not be taken as current. */
TEST(a_change_that_a_host_missed_before_the_history_ended_is_not_undone_by_it)
{
    struct redis redis;
    freshet *a;
    freshet *b;
    pid_t subscriber;
    const char *dir = fresh_dir();
    int64_t lost_ns;

    redis_start(&redis, NULL);
    (void)host_keyring();
    a = host_join(fresh_dir(), &redis, BOUND);
    subscriber = test_fork();
    if (subscriber == 0) {
        freshet *own = host_join(dir, &redis, BOUND);

        EXPECT_EQ(host_put(own, "k", "old"), FRESHET_OK);
        for (;;)
            test_pause();
    }
    EXPECT(test_until(host_gets(a, "k", "old"), 10000));
    b = host_solo(dir, BOUND); /* reads the tier, does nothing to keep it proven */
    EXPECT(tier_serves(b, "k", "old"));
    test_kill(subscriber, SIGSTOP);
    EXPECT_EQ(host_invalidate(a, "k"), FRESHET_OK);
    redis_restart(&redis);
    lost_ns = test_now_ns();
    EXPECT(test_until(host_invalidate(a, "another") == FRESHET_OK, 20000));
    while (test_now_ns() < lost_ns + BOUND * 1000000LL)
        test_pause();
    EXPECT_EQ(host_peek(b, "k", NULL, 0), FRESHET_MISS);
    test_kill(subscriber, SIGCONT);
    EXPECT(test_until(stats_of(b).epoch == stats_of(a).epoch, 10000));
    for (int i = 0; i < 100; i++) {
        EXPECT_EQ(host_peek(b, "k", NULL, 0), FRESHET_MISS);
        test_pause();
    }
    test_kill(subscriber, SIGKILL);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}
