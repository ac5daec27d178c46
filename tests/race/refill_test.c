/*
 * refill_test.c - a load that a change overtakes leaves nothing behind (P2).
 *
 * The reader misses, reads the old row and stops; the writer commits and changes the cache; the reader goes on and
 * fills.  Whatever the change was, whoever made it, whatever was read: nobody gets the old answer afterwards.
 */
#include "hold.h"

#define KEY "row:1"

/* Two hosts, and a load on the first that has read the old row and is held in its loader. */
struct scene {
    struct redis redis;
    freshet *a, *b;
    struct row row;
    struct call load;
};

static void begin(struct scene *scene, const char *old)
{
    redis_start(&scene->redis, NULL);
    scene->a = host_join(fresh_dir(), &scene->redis, 2000);
    scene->b = host_join(fresh_dir(), &scene->redis, 2000);
    row_init(&scene->row, old);
    call_begin(&scene->load, scene->a, KEY, &scene->row);
    EXPECT(hold_wait_on(&scene->row.read));
}

/* Let the load fill, late. */
static void finish(struct scene *scene)
{
    sem_post(&scene->row.go);
    call_end(&scene->load);
    EXPECT(freshet_flush(scene->a, 5000) == FRESHET_OK);
}

static void end(struct scene *scene)
{
    freshet_close(scene->a);
    freshet_close(scene->b);
    redis_stop(&scene->redis);
}

/* Neither host, nor one that comes anew and has only Redis, gets `old`; all of them get what is `now` when they load.
 */
static void expect_gone(struct scene *scene, const char *old, const char *now)
{
    freshet *c = host_join(fresh_dir(), &scene->redis, 2000);
    freshet *hosts[] = {scene->a, scene->b, c};
    freshet_buf buf = {0};

    for (int i = 0; i < 3; i++)
        EXPECT(!gets_that(hosts[i], KEY, old));
    scene->row.value = now;
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(freshet_load(hosts[i], KEY, strlen(KEY), NULL, row_loader, &scene->row, &buf, NULL), FRESHET_OK);
        EXPECT(buf.size == strlen(now) && memcmp(buf.data, now, buf.size) == 0);
    }
    for (int i = 0; i < 3; i++)
        EXPECT(!gets_that(hosts[i], KEY, old));
    freshet_buf_free(&buf);
    freshet_close(c);
}

TEST(a_load_that_an_invalidation_of_another_host_overtakes_leaves_nothing)
{
    struct scene scene;

    begin(&scene, "old");
    scene.row.value = "new";
    EXPECT_EQ(host_invalidate(scene.b, KEY), FRESHET_OK);
    finish(&scene);
    EXPECT(scene.load.result == FRESHET_OK && strcmp(scene.load.got, "old") == 0); /* it began before: its own answer */
    expect_gone(&scene, "old", "new");
    EXPECT(stats_of(scene.a).fills_refused >= 1);
    end(&scene);
}

TEST(a_load_that_an_invalidation_of_its_own_host_overtakes_leaves_nothing)
{
    struct scene scene;

    begin(&scene, "old");
    scene.row.value = "new";
    EXPECT_EQ(host_invalidate(scene.a, KEY), FRESHET_OK);
    finish(&scene);
    expect_gone(&scene, "old", "new");
    end(&scene);
}

TEST(a_load_that_an_invalidation_of_many_keys_overtakes_leaves_nothing)
{
    freshet_key keys[] = {{"other", 5}, {KEY, strlen(KEY)}, {"third", 5}};
    struct scene scene;

    begin(&scene, "old");
    EXPECT_EQ(freshet_invalidate_many(scene.b, keys, 3, NULL, NULL), FRESHET_OK);
    finish(&scene);
    expect_gone(&scene, "old", "new");
    end(&scene);
}

TEST(a_load_that_a_clear_overtakes_leaves_nothing)
{
    struct scene scene;

    begin(&scene, "old");
    EXPECT_EQ(freshet_clear(scene.b, NULL, NULL), FRESHET_OK);
    finish(&scene);
    expect_gone(&scene, "old", "new");
    end(&scene);
}

TEST(a_load_that_a_put_overtakes_leaves_the_put_value)
{
    struct scene scene;

    begin(&scene, "old");
    EXPECT_EQ(host_put(scene.b, KEY, "put"), FRESHET_OK);
    finish(&scene);
    EXPECT(test_until(host_gets(scene.a, KEY, "put"), 5000));
    EXPECT(test_until(host_gets(scene.b, KEY, "put"), 5000));
    expect_gone(&scene, "old", "put");
    end(&scene);
}

TEST(a_load_of_nothing_that_a_put_overtakes_leaves_the_put_value)
{
    struct scene scene;

    begin(&scene, NULL);
    EXPECT_EQ(host_put(scene.b, KEY, "put"), FRESHET_OK);
    finish(&scene);
    EXPECT_EQ(scene.load.result, FRESHET_ABSENT);
    for (int i = 0; i < 2; i++) {
        freshet *host = i ? scene.b : scene.a;

        EXPECT(host_get(host, KEY, NULL, 0) != FRESHET_ABSENT);
        EXPECT(host_peek(host, KEY, NULL, 0) != FRESHET_ABSENT);
        EXPECT(test_until(host_gets(host, KEY, "put"), 5000));
    }
    end(&scene);
}

TEST(a_load_that_a_put_of_nothing_overtakes_leaves_the_absence)
{
    struct scene scene;

    begin(&scene, "old");
    EXPECT_EQ(freshet_put_absent(scene.b, KEY, strlen(KEY), NULL, NULL), FRESHET_OK);
    finish(&scene);
    EXPECT(!gets_that(scene.a, KEY, "old") && !gets_that(scene.b, KEY, "old"));
    EXPECT(test_until(host_get(scene.a, KEY, NULL, 0) == FRESHET_ABSENT, 5000));
    EXPECT(test_until(host_get(scene.b, KEY, NULL, 0) == FRESHET_ABSENT, 5000));
    end(&scene);
}

TEST(a_load_from_before_a_lost_history_leaves_nothing)
{
    struct scene scene;

    begin(&scene, "old");
    EXPECT(strcmp(redis_do(&scene.redis, "FLUSHALL"), "OK") == 0);
    EXPECT(test_until(host_invalidate(scene.b, KEY) == FRESHET_OK, 10000)); /* queued, if it meets the adoption */
    finish(&scene);
    expect_gone(&scene, "old", "new");
    end(&scene);
}

TEST(a_load_from_before_a_change_is_not_joined_after_it)
{
    struct scene scene;
    freshet_buf buf = {0};

    begin(&scene, "old");
    scene.row.value = "new";
    EXPECT_EQ(host_invalidate(scene.a, KEY), FRESHET_OK);
    /* the first load still runs: who comes now must not wait for it and take what it read */
    EXPECT_EQ(freshet_load(scene.a, KEY, strlen(KEY), NULL, row_loader, &scene.row, &buf, NULL), FRESHET_OK);
    EXPECT(buf.size == 3 && memcmp(buf.data, "new", 3) == 0);
    finish(&scene);
    EXPECT(!gets_that(scene.a, KEY, "old") && !gets_that(scene.b, KEY, "old"));
    freshet_buf_free(&buf);
    end(&scene);
}

/* A clear stands for every key: no fence is raised by it. */
TEST(a_load_from_before_a_clear_is_not_joined_after_it)
{
    struct scene scene;
    freshet_buf buf = {0};

    begin(&scene, "old");
    scene.row.value = "new";
    EXPECT_EQ(freshet_clear(scene.a, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_load(scene.a, KEY, strlen(KEY), NULL, row_loader, &scene.row, &buf, NULL), FRESHET_OK);
    EXPECT(buf.size == 3 && memcmp(buf.data, "new", 3) == 0);
    finish(&scene);
    EXPECT(!gets_that(scene.a, KEY, "old") && !gets_that(scene.b, KEY, "old"));
    freshet_buf_free(&buf);
    end(&scene);
}

/* Who waits for another's load when the change comes and returns gets nothing from before it either (P3). */
TEST(a_load_that_is_joined_and_then_overtaken_is_no_answer_for_who_joined)
{
    struct scene scene;
    struct call second;

    begin(&scene, "old");
    call_begin(&second, scene.a, KEY, &scene.row);
    EXPECT(!test_until(scene.row.reads > 1, 100)); /* it waits for the first */
    scene.row.value = "new";
    EXPECT_EQ(host_invalidate(scene.a, KEY), FRESHET_OK);
    sem_post(&scene.row.go);
    sem_post(&scene.row.go);
    EXPECT_EQ(call_end(&second), FRESHET_OK);
    EXPECT(strcmp(second.got, "new") == 0);
    call_end(&scene.load);
    EXPECT(!gets_that(scene.a, KEY, "old") && !gets_that(scene.b, KEY, "old"));
    end(&scene);
}

/* The same when the change comes after the load was stored: what was right to keep then is no answer now. */
TEST(a_load_that_is_joined_and_overtaken_when_it_lands_is_no_answer_for_who_joined)
{
    struct scene scene;
    struct call second;

    begin(&scene, "old");
    call_begin(&second, scene.a, KEY, &scene.row);
    EXPECT(!test_until(scene.row.reads > 1, 100)); /* it waits for the first */
    hold_at("landing", false);
    sem_post(&scene.row.go);
    hold_reached();
    scene.row.value = "new";
    EXPECT(applied(scene.a, invalidate_at(scene.b, KEY)));
    sem_post(&scene.row.go);
    hold_go();
    EXPECT_EQ(call_end(&second), FRESHET_OK);
    EXPECT(strcmp(second.got, "new") == 0);
    EXPECT_EQ(call_end(&scene.load), FRESHET_OK);
    EXPECT(!gets_that(scene.a, KEY, "old") && !gets_that(scene.b, KEY, "old"));
    end(&scene);
}

TEST(an_undisturbed_load_is_called_once_for_all_who_ask)
{
    struct scene scene;
    struct call second, third;

    begin(&scene, "row");
    call_begin(&second, scene.a, KEY, &scene.row);
    call_begin(&third, scene.b, KEY, &scene.row);
    EXPECT(!test_until(scene.row.reads > 1, 100)); /* they wait, in this process and in the other host */
    finish(&scene);
    sem_post(&scene.row.go); /* in vain, or for one that lost patience: then the next line tells */
    sem_post(&scene.row.go);
    EXPECT(call_end(&second) == FRESHET_OK && strcmp(second.got, "row") == 0);
    EXPECT(call_end(&third) == FRESHET_OK && strcmp(third.got, "row") == 0);
    EXPECT_EQ(scene.row.reads, 1);
    end(&scene);
}

/* Without any fleet the same holds between the processes and threads of one host. */
TEST(without_a_fleet_a_load_that_a_change_overtakes_leaves_nothing)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    struct row row;
    struct call load;

    for (int change = 0; change < 3; change++) {
        row_init(&row, "old");
        call_begin(&load, cache, KEY, &row);
        EXPECT(hold_wait_on(&row.read));
        if (change == 0)
            EXPECT_EQ(host_invalidate(cache, KEY), FRESHET_OK);
        else if (change == 1)
            EXPECT_EQ(freshet_clear(cache, NULL, NULL), FRESHET_OK);
        else
            EXPECT_EQ(host_put(cache, KEY, "put"), FRESHET_OK);
        sem_post(&row.go);
        EXPECT_EQ(call_end(&load), FRESHET_OK);
        EXPECT(freshet_flush(cache, 5000) == FRESHET_OK);
        EXPECT(!gets_that(cache, KEY, "old"));
        EXPECT(change != 2 || host_gets(cache, KEY, "put"));
    }
    freshet_close(cache);
}
