/*
 * promotion_test.c - a value on its way from Redis to the tier when the change comes: it is void when it arrives.
 *
 * The thread is held at "fetched" (the answer is read, the tier has nothing yet).  In the meantime the change is
 * confirmed and this host has heard of it.
 */
#include "hold.h"

#define KEY "k"

/* Both hosts have joined, Redis has "old", and b's reader is held with it in its hand. */
struct scene {
    struct redis redis;
    freshet *a, *b;
    struct call get;
};

static void begin(struct scene *scene)
{
    redis_start(&scene->redis, NULL);
    scene->a = host_join(fresh_dir(), &scene->redis, 2000);
    scene->b = host_join(fresh_dir(), &scene->redis, 2000);
    EXPECT_EQ(host_put(scene->a, KEY, "old"), FRESHET_OK);
    hold_at("fetched", false);
    call_begin(&scene->get, scene->b, KEY, NULL);
    hold_reached();
}

static void finish(struct scene *scene)
{
    hold_go();
    call_end(&scene->get);
    EXPECT(freshet_flush(scene->b, 5000) == FRESHET_OK);
}

static void end(struct scene *scene)
{
    freshet_close(scene->a);
    freshet_close(scene->b);
    redis_stop(&scene->redis);
}

TEST(a_promotion_that_an_invalidation_overtakes_is_never_served)
{
    struct scene scene;

    begin(&scene);
    EXPECT(applied(scene.b, invalidate_at(scene.a, KEY)));
    finish(&scene);
    for (int i = 0; i < 50; i++) {
        EXPECT(!gets_that(scene.b, KEY, "old"));
        test_pause();
    }
    EXPECT_EQ(host_get(scene.b, KEY, NULL, 0), FRESHET_MISS);
    end(&scene);
}

TEST(a_promotion_that_a_put_overtakes_gives_way_to_it)
{
    struct scene scene;
    freshet_change change = FRESHET_INIT(freshet_change);

    begin(&scene);
    EXPECT_EQ(freshet_put(scene.a, KEY, 1, "new", 3, NULL, &change), FRESHET_OK);
    EXPECT(applied(scene.b, change.position));
    finish(&scene);
    EXPECT(!gets_that(scene.b, KEY, "old"));
    EXPECT(test_until(host_gets(scene.b, KEY, "new"), 5000));
    end(&scene);
}

TEST(a_promotion_that_a_put_of_its_own_host_overtakes_gives_way_to_it)
{
    struct scene scene;

    begin(&scene);
    EXPECT_EQ(host_put(scene.b, KEY, "new"), FRESHET_OK); /* the tier gets this one first, then the older one */
    finish(&scene);
    EXPECT(!gets_that(scene.b, KEY, "old"));
    EXPECT(host_gets(scene.b, KEY, "new"));
    end(&scene);
}

TEST(a_promotion_that_a_clear_overtakes_is_never_served)
{
    struct scene scene;
    freshet_change change = FRESHET_INIT(freshet_change);

    begin(&scene);
    EXPECT_EQ(freshet_clear(scene.a, NULL, &change), FRESHET_OK);
    EXPECT(applied(scene.b, change.position));
    finish(&scene);
    EXPECT(!gets_that(scene.b, KEY, "old"));
    EXPECT_EQ(host_get(scene.b, KEY, NULL, 0), FRESHET_MISS); /* Redis still has the record: born before the clear */
    end(&scene);
}

TEST(a_promotion_of_an_ended_history_is_never_served)
{
    struct scene scene;
    uint64_t epoch;

    begin(&scene);
    epoch = stats_of(scene.b).epoch;
    EXPECT(strcmp(redis_do(&scene.redis, "FLUSHALL"), "OK") == 0);
    EXPECT(test_until(host_invalidate(scene.a, KEY) == FRESHET_OK, 10000)); /* queued, if it meets the adoption */
    EXPECT(test_until(stats_of(scene.b).epoch != epoch, 10000));
    finish(&scene);
    EXPECT(!gets_that(scene.b, KEY, "old"));
    end(&scene);
}

/* A record that Redis keeps from before a clear is void however late it is read. */
TEST(after_a_clear_nothing_older_is_read_from_redis)
{
    struct redis redis;
    freshet *a, *b, *c;
    char key[16];

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 2000);
    b = host_join(fresh_dir(), &redis, 2000);
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "k%d", i);
        EXPECT_EQ(host_put(a, key, "old"), FRESHET_OK);
        warm(b, key, "old");
    }
    EXPECT_EQ(freshet_clear(a, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(host_put(a, "k7", "new"), FRESHET_OK);
    EXPECT(applied(b, stats_of(a).position));
    c = host_join(fresh_dir(), &redis, 2000);
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "k%d", i);
        EXPECT(!gets_that(a, key, "old") && !gets_that(b, key, "old") && !gets_that(c, key, "old"));
        EXPECT(i != 7 || (host_gets(a, key, "new") && host_gets(b, key, "new") && host_gets(c, key, "new")));
    }
    freshet_close(a);
    freshet_close(b);
    freshet_close(c);
    redis_stop(&redis);
}

/* Read your writes (P3): the change has returned, so no process of this host gets the older value. */
TEST(after_a_change_returns_no_process_of_the_host_gets_the_older_value)
{
    struct redis redis;
    const char *dir = fresh_dir();
    freshet *a, *sibling;
    char value[16], before[16];

    redis_start(&redis, NULL);
    a = host_join(dir, &redis, 2000);
    sibling = host_join(dir, &redis, 2000);
    EXPECT_EQ(host_put(a, KEY, "0"), FRESHET_OK);
    for (int i = 1; i < 200; i++) {
        snprintf(before, sizeof before, "%d", i - 1);
        snprintf(value, sizeof value, "%d", i);
        EXPECT_EQ(host_put(i % 2 ? a : sibling, KEY, value), FRESHET_OK);
        EXPECT(!gets_that(a, KEY, before) && !gets_that(sibling, KEY, before));
        EXPECT(host_gets(i % 2 ? sibling : a, KEY, value));
    }
    EXPECT_EQ(host_put(a, KEY, "last"), FRESHET_OK);
    IN_CHILD({
        freshet *other = host_solo(dir, 2000); /* not joined: the tier alone */

        EXPECT(!gets_that(other, KEY, "198"));
        freshet_close(other);
    });
    freshet_close(a);
    freshet_close(sibling);
    redis_stop(&redis);
}
