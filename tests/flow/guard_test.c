/*
 * guard_test.c - guards, the safe way to change database rows: what is kept, what is not, and what its end says.
 *
 * Most claims hold on a host alone and in a fleet alike, and are tested on both.
 */
#include <freshet_fleet.h>
#include <guards.h>
#include <stdlib.h>
#include <sys/wait.h>

#define HOLD 1000

/* Two caches that see one another: two hosts of a fleet, or one host opened twice. */
struct scene {
    struct redis redis;
    bool fleet;
    const char *dir;
    freshet *a, *b;
    struct database *database;
};

static void begin(struct scene *scene, bool fleet)
{
    *scene = (struct scene){.fleet = fleet, .dir = fresh_dir(), .database = database_open(1)};
    if (fleet) {
        redis_start(&scene->redis, NULL);
        scene->a = host_join(scene->dir, &scene->redis, 2000);
        scene->b = host_join(fresh_dir(), &scene->redis, 2000);
    } else {
        scene->a = host_solo(scene->dir, 0);
        scene->b = host_solo(scene->dir, 0);
    }
}

static void end(struct scene *scene)
{
    freshet_close(scene->a);
    freshet_close(scene->b);
    if (scene->fleet)
        redis_stop(&scene->redis);
}

/* For how long the only guard of the only record is in force, by Redis's own clock and word. */
static long long redis_left_us(struct redis *redis)
{
    char name[128];

    snprintf(name, sizeof name, "%s", redis_do(redis, "KEYS freshet:{default:0}:record:*"));
    return redis_int(redis,
                     "EVAL 'local t=redis.call(\"TIME\") local r=redis.call(\"GET\",KEYS[1]) "
                     "return string.format(\"%%d\",struct.unpack(\">I8\",r,117)-t[1]*1000000-t[2])' 1 %s",
                     name);
}

/* Soon, at the latest, whatever is loaded is kept again. */
static bool keeps_soon(freshet *cache, struct database *database)
{
    return test_until(guard_keeps(cache, database), 10000);
}

/* ---- from begin to end ---- */

TEST_BOTH(nothing_is_kept_of_what_is_loaded_under_a_guard)
{
    freshet_guard *guard;

    EXPECT(keeps_soon(scene->a, scene->database) && keeps_soon(scene->b, scene->database));
    guard = guard_begin(scene->a, HOLD * 10);
    EXPECT(guard_get(scene->a) == -1 && test_until(guard_get(scene->b) == -1, 5000)); /* a begin is an invalidation */
    EXPECT(!guard_keeps(scene->a, scene->database) && !guard_keeps(scene->b, scene->database));
    EXPECT_EQ(guard_load(scene->b, scene->database), 1);
    scene->database->row = 2;
    EXPECT_EQ(guard_load(scene->b, scene->database), 2); /* nobody kept the 1 */
    EXPECT(freshet_guard_left(guard) > HOLD && freshet_guard_left(guard) <= HOLD * 10);
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    EXPECT(keeps_soon(scene->a, scene->database) && keeps_soon(scene->b, scene->database));
    EXPECT(guard_get(scene->a) == 2 && guard_get(scene->b) == 2);
}

TEST_BOTH(a_guards_end_is_an_invalidation_that_tells_its_position)
{
    freshet_guard *guard = guard_begin(scene->a, HOLD * 10);
    freshet_change before = FRESHET_INIT(freshet_change), change = FRESHET_INIT(freshet_change);

    EXPECT_EQ(freshet_invalidate(scene->b, GUARD_KEY, strlen(GUARD_KEY), NULL, &before), FRESHET_OK);
    EXPECT_EQ(freshet_guard_end(guard, NULL, &change), FRESHET_OK);
    EXPECT(change.position > before.position && change.version > 0 && change.epoch == before.epoch);
}

TEST_BOTH(other_keys_are_not_touched)
{
    freshet_guard *guard = guard_begin(scene->a, HOLD * 10);

    EXPECT_EQ(host_put(scene->a, "other", "1"), FRESHET_OK);
    EXPECT(test_until(host_gets(scene->b, "other", "1"), 5000));
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
}

/* H9, third: a put while the write is in progress brings what may be from before it. */
TEST_BOTH(a_put_on_a_guarded_key_stores_nothing)
{
    freshet_guard *guard = guard_begin(scene->a, HOLD * 10);
    freshet_change change = FRESHET_INIT(freshet_change);
    freshet_write_options options = FRESHET_INIT(freshet_write_options);

    EXPECT_EQ(freshet_put(scene->b, GUARD_KEY, strlen(GUARD_KEY), "1", 1, NULL, &change), FRESHET_GUARDED);
    EXPECT(change.position > 0);
    EXPECT(guard_get(scene->a) == -1 && guard_get(scene->b) == -1);
    EXPECT_EQ(freshet_put_absent(scene->a, GUARD_KEY, strlen(GUARD_KEY), NULL, NULL), FRESHET_GUARDED);
    EXPECT(host_get(scene->b, GUARD_KEY, NULL, 0) == FRESHET_MISS);
    options.source_version = 7; /* compared, and then stored by another thread */
    EXPECT_EQ(freshet_put(scene->b, GUARD_KEY, strlen(GUARD_KEY), "1", 1, &options, &change), FRESHET_GUARDED);
    EXPECT(change.position > 0);
    EXPECT(guard_get(scene->a) == -1 && guard_get(scene->b) == -1);
    EXPECT(!guard_keeps(scene->b, scene->database)); /* the puts left the guard in its place */
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    EXPECT_EQ(host_put(scene->b, GUARD_KEY, "2"), FRESHET_OK);
    EXPECT(test_until(guard_get(scene->a) == 2, 5000));
}

/* H9, first: who ends must not end the other's. */
TEST_BOTH(of_two_guards_on_a_key_each_holds_until_its_own_end)
{
    freshet_guard *first = guard_begin(scene->a, HOLD * 10), *second = guard_begin(scene->b, HOLD * 10);

    EXPECT_EQ(guard_end(first), FRESHET_OK);
    EXPECT(!guard_keeps(scene->a, scene->database) && !guard_keeps(scene->b, scene->database));
    EXPECT(freshet_guard_left(second) > 0);
    scene->database->row = 2;
    EXPECT_EQ(guard_end(second), FRESHET_OK);
    EXPECT(keeps_soon(scene->a, scene->database));
    EXPECT_EQ(guard_get(scene->a), 2);
}

/* H9, second: and what others do to the key and the cache meanwhile leaves it where it is. */
TEST_BOTH(an_invalidation_or_a_clear_does_not_end_a_guard)
{
    freshet_guard *guard = guard_begin(scene->a, HOLD * 10);

    EXPECT_EQ(host_invalidate(scene->b, GUARD_KEY), FRESHET_OK);
    EXPECT(!guard_keeps(scene->a, scene->database) && !guard_keeps(scene->b, scene->database));
    EXPECT_EQ(freshet_clear(scene->b, NULL, NULL), FRESHET_OK);
    EXPECT(!guard_keeps(scene->a, scene->database) && !guard_keeps(scene->b, scene->database));
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    EXPECT(keeps_soon(scene->b, scene->database));
}

TEST_BOTH(a_guard_on_many_keys_guards_each_and_ends_on_each)
{
    enum { MANY = FRESHET_GUARD_KEYS_MAX };
    static char names[MANY][16];
    static freshet_key keys[MANY + 1];
    freshet_guard *guard = NULL;

    for (int i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i], "row:%d", i);
        keys[i] = (freshet_key){names[i], strlen(names[i])};
    }
    keys[MANY] = keys[0];
    EXPECT_EQ(freshet_guard_begin(scene->a, keys, MANY + 1, NULL, &guard), FRESHET_EINVAL);
    keys[1] = keys[0]; /* one twice: it is guarded once, and was held */
    EXPECT_EQ(freshet_guard_begin(scene->a, keys, MANY, NULL, &guard), FRESHET_OK);
    for (int i = 0; i < MANY; i += 100)
        EXPECT_EQ(freshet_put(scene->b, keys[i].data, keys[i].size, "1", 1, NULL, NULL), FRESHET_GUARDED);
    EXPECT_EQ(freshet_put(scene->b, names[1], strlen(names[1]), "1", 1, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    for (int i = 0; i < MANY; i += 100)
        EXPECT_EQ(freshet_put(scene->b, keys[i].data, keys[i].size, "1", 1, NULL, NULL), FRESHET_OK);
}

TEST_BOTH(after_a_guards_end_the_loader_is_told_to_ask_the_primary)
{
    freshet_guard *guard;

    EXPECT(keeps_soon(scene->a, scene->database));
    guard = guard_begin(scene->a, HOLD * 10);
    EXPECT_EQ(guard_load(scene->b, scene->database), 1);
    EXPECT(scene->database->preferred);
    scene->database->preferred = false;
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    EXPECT_EQ(guard_load(scene->b, scene->database), 1);
    EXPECT(!scene->fleet || scene->database->preferred);
}

TEST_BOTH(what_makes_no_sense_is_refused)
{
    freshet_key key = {GUARD_KEY, strlen(GUARD_KEY)}, empty = {"", 0};
    freshet_guard_options options = FRESHET_INIT(freshet_guard_options);
    freshet_write_options write = FRESHET_INIT(freshet_write_options);
    freshet_guard *guard = NULL;

    EXPECT_EQ(freshet_guard_begin(NULL, &key, 1, NULL, &guard), FRESHET_EINVAL);
    EXPECT_EQ(freshet_guard_begin(scene->a, NULL, 1, NULL, &guard), FRESHET_EINVAL);
    EXPECT_EQ(freshet_guard_begin(scene->a, &key, 0, NULL, &guard), FRESHET_EINVAL);
    EXPECT_EQ(freshet_guard_begin(scene->a, &empty, 1, NULL, &guard), FRESHET_EINVAL);
    EXPECT_EQ(freshet_guard_begin(scene->a, &key, 1, NULL, NULL), FRESHET_EINVAL);
    options.hold_ms = 99;
    EXPECT_EQ(freshet_guard_begin(scene->a, &key, 1, &options, &guard), FRESHET_EINVAL);
    options.hold_ms = 600001;
    EXPECT_EQ(freshet_guard_begin(scene->a, &key, 1, &options, &guard), FRESHET_EINVAL);
    options.struct_size = 1;
    EXPECT_EQ(freshet_guard_begin(scene->a, &key, 1, &options, &guard), FRESHET_EINVAL);
    EXPECT(guard == NULL);
    EXPECT_EQ(freshet_guard_left(NULL), 0);
    options = (freshet_guard_options)FRESHET_INIT(freshet_guard_options);
    options.wait = (freshet_wait)2;
    EXPECT_EQ(freshet_guard_begin(scene->a, &key, 1, &options, &guard), FRESHET_EINVAL);
    EXPECT_EQ(freshet_guard_end(NULL, NULL, NULL), FRESHET_EINVAL);
    guard = guard_begin(scene->a, HOLD * 10);
    write.struct_size = 1;
    EXPECT_EQ(freshet_guard_end(guard, &write, NULL), FRESHET_EINVAL); /* and it is still there */
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
}

TEST_BOTH(a_key_has_64_guards_and_no_more)
{
    freshet_guard *guards[64], *other = NULL;

    for (int i = 0; i < 64; i++)
        guards[i] = guard_begin(i % 2 ? scene->a : scene->b, HOLD * 10);
    EXPECT_EQ(guard_on(scene->a, GUARD_KEY, HOLD, false, &other), FRESHET_EBUSY);
    EXPECT(other == NULL && strlen(freshet_error()) > 0);
    EXPECT_EQ(guard_end(guards[0]), FRESHET_OK);
    guards[0] = guard_begin(scene->a, HOLD * 10);
    for (int i = 0; i < 64; i++)
        EXPECT_EQ(guard_end(guards[i]), FRESHET_OK);
    EXPECT(keeps_soon(scene->a, scene->database));
}

/* ---- the holder lives, dies, stops ---- */

TEST_BOTH(a_living_holders_guard_outlives_its_time)
{
    freshet_guard *guard = guard_begin(scene->a, 300);
    int64_t end_ns = test_now_ns() + 2000 * 1000000LL;

    while (test_now_ns() < end_ns) {
        EXPECT(freshet_guard_left(guard) > 0 && freshet_guard_left(guard) <= 300);
        EXPECT(!guard_keeps(scene->b, scene->database));
        test_pause();
    }
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    EXPECT(keeps_soon(scene->b, scene->database));
}

/* H7: the commit comes after the deadline. */
TEST_BOTH(a_fixed_guard_ends_in_its_time_and_a_late_commit_hears_of_it)
{
    freshet_guard *guard = guard_begin_fixed(scene->a, 200);

    EXPECT(!guard_keeps(scene->b, scene->database));
    EXPECT(keeps_soon(scene->b, scene->database)); /* 200 ms later: the old row */
    EXPECT_EQ(freshet_guard_left(guard), 0);
    scene->database->row = 2;
    EXPECT_EQ(guard_end(guard), FRESHET_GUARD_LOST);
    EXPECT(guard_get(scene->a) != 1); /* and the old row is gone all the same */
    EXPECT(test_until(guard_get(scene->b) != 1, 5000));
    EXPECT_EQ(guard_load(scene->b, scene->database), 2);
}

/* Nobody met the guard after its deadline, so nobody took it away: it was broken nevertheless. */
TEST_BOTH(a_guard_whose_deadline_passed_unnoticed_is_lost)
{
    freshet_guard *guard = guard_begin_fixed(scene->a, 100);

    EXPECT(test_until(freshet_guard_left(guard) == 0, 5000));
    EXPECT(!scene->fleet || test_until(redis_left_us(&scene->redis) <= 0, 5000)); /* it counts from a little later */
    EXPECT_EQ(guard_end(guard), FRESHET_GUARD_LOST);
}

/* A process of a's host: it guards the row, and does as the phases say. */
static pid_t holder(struct scene *scene, uint32_t hold_ms)
{
    pid_t child = test_fork();

    if (child == 0) {
        freshet *cache = scene->fleet ? host_join(scene->dir, &scene->redis, 2000) : host_solo(scene->dir, 0);
        freshet_guard *guard = guard_begin(cache, hold_ms);

        scene->database->phase = 1;
        EXPECT(test_until(scene->database->phase == 2, 30000));
        scene->database->row = 2; /* committed */
        scene->database->phase = 3;
        EXPECT(test_until(scene->database->phase == 4, 30000));
        scene->database->left = freshet_guard_left(guard);
        scene->database->result = guard_end(guard);
        freshet_close(cache);
        test_child_done();
    }
    EXPECT(test_until(scene->database->phase == 1, 30000));
    return child;
}

/* The crash between the database's commit and the end of the guard: kill -9 in just that place. */
TEST_BOTH(a_holder_that_is_killed_after_its_commit_leaves_nothing_stale)
{
    pid_t child;

    EXPECT(keeps_soon(scene->a, scene->database) && keeps_soon(scene->b, scene->database));
    child = holder(scene, HOLD);
    EXPECT(test_until(guard_get(scene->a) == -1 && guard_get(scene->b) == -1, 5000)); /* the other host hears of it */
    EXPECT_EQ(guard_load(scene->b, scene->database), 1); /* the old row, read under the guard */
    EXPECT(guard_get(scene->a) == -1 && guard_get(scene->b) == -1);
    scene->database->phase = 2;
    EXPECT(test_until(scene->database->phase == 3, 30000));
    test_kill(child, SIGKILL);
    EXPECT(guard_get(scene->a) != 1 && guard_get(scene->b) != 1);
    EXPECT_EQ(guard_load(scene->a, scene->database), 2);
    EXPECT(keeps_soon(scene->a, scene->database) && keeps_soon(scene->b, scene->database)); /* after the deadline */
    EXPECT(guard_get(scene->a) == 2 && guard_get(scene->b) == 2);
}

/* A holder that is killed before its commit: the deadline ends the guard, and not before it. */
TEST_BOTH(a_killed_holders_guard_lasts_until_its_deadline)
{
    pid_t child = holder(scene, HOLD);
    int64_t killed_ns;

    test_kill(child, SIGKILL);
    killed_ns = test_now_ns();
    EXPECT(keeps_soon(scene->b, scene->database));
    /* it was prolonged at the latest a third of its time before */
    EXPECT(test_now_ns() - killed_ns > (HOLD * 2 / 3 - 100) * 1000000LL);
    EXPECT(test_now_ns() - killed_ns < HOLD * 3 * 1000000LL);
}

TEST_BOTH(a_holder_that_is_stopped_beyond_its_deadline_loses_its_guard)
{
    pid_t child = holder(scene, 300);

    test_kill(child, SIGSTOP);
    EXPECT(keeps_soon(scene->b, scene->database)); /* what is read now is from before the commit */
    EXPECT_EQ(guard_get(scene->b), 1);
    test_kill(child, SIGCONT);
    scene->database->phase = 2;
    EXPECT(test_until(scene->database->phase == 3, 30000));
    scene->database->phase = 4;
    test_join(child);
    EXPECT_EQ(scene->database->left, 0);
    EXPECT_EQ(scene->database->result, FRESHET_GUARD_LOST);
    EXPECT(test_until(guard_get(scene->b) != 1, 5000));
    EXPECT_EQ(guard_load(scene->b, scene->database), 2);
}

TEST_BOTH(a_child_after_fork_has_no_guards_and_leaves_its_parents_alone)
{
    freshet_guard *guard = guard_begin(scene->a, HOLD * 10);

    if (test_sanitized())
        test_leaves();
    IN_CHILD({
        EXPECT_EQ(freshet_guard_left(guard), 0);
        EXPECT_EQ(guard_end(guard), FRESHET_GUARD_LOST);
    });
    EXPECT(freshet_guard_left(guard) > 0);
    EXPECT(!guard_keeps(scene->b, scene->database));
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
}

/* ---- Redis goes, comes, forgets ---- */

TEST(without_redis_no_guard_begins_and_the_database_is_left_alone)
{
    freshet_guard *guard = NULL;
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    struct scene scene;

    begin(&scene, true);
    redis_stop(&scene.redis);
    for (int round = 0; round < 3; round++) {
        EXPECT_EQ(guard_on(scene.a, GUARD_KEY, HOLD, false, &guard), FRESHET_ENET);
        EXPECT(guard == NULL);
        EXPECT(strlen(freshet_error()) > 0);
    }
    EXPECT_EQ(freshet_stat(scene.a, &stats), FRESHET_OK);
    EXPECT_EQ(stats.outbox, 0); /* nothing is queued of it */
    redis_restart(&scene.redis);
    EXPECT(test_until(guard_on(scene.a, GUARD_KEY, HOLD, false, &guard) == FRESHET_OK, 10000));
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    end(&scene);
}

TEST(a_redis_that_does_not_answer_begins_no_guard_and_the_call_ends_by_its_deadline)
{
    freshet_guard_options options = FRESHET_INIT(freshet_guard_options);
    freshet_key key = {GUARD_KEY, strlen(GUARD_KEY)};
    freshet_guard *guard = NULL;
    struct scene scene;
    int64_t begun_ns;

    begin(&scene, true);
    options.deadline_ms = 300;
    test_kill(scene.redis.pid, SIGSTOP);
    begun_ns = test_now_ns();
    EXPECT_EQ(freshet_guard_begin(scene.a, &key, 1, &options, &guard), FRESHET_ENET);
    EXPECT(guard == NULL && test_now_ns() - begun_ns < 3000 * 1000000LL);
    test_kill(scene.redis.pid, SIGCONT);
    EXPECT(keeps_soon(scene.b, scene.database)); /* Redis took it in after all: it ends by itself */
    end(&scene);
}

TEST(without_redis_an_end_is_queued_and_the_guard_ends_by_its_deadline)
{
    struct scene scene;
    freshet_guard *guard;
    freshet_change change = FRESHET_INIT(freshet_change);
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    int64_t ended_ns;

    begin(&scene, true);
    EXPECT(keeps_soon(scene.a, scene.database) && keeps_soon(scene.b, scene.database));
    guard = guard_begin(scene.a, 3000);
    test_kill(scene.redis.pid, SIGSTOP);
    scene.database->row = 2;
    options.deadline_ms = 200;
    ended_ns = test_now_ns();
    EXPECT_EQ(freshet_guard_end(guard, &options, &change), FRESHET_QUEUED);
    EXPECT_EQ(change.position, 0);
    EXPECT_EQ(guard_get(scene.a), -1);
    test_kill(scene.redis.pid, SIGCONT);
    if (test_now_ns() - ended_ns < 1000 * 1000000LL) /* in force in Redis still, as far as the end had not arrived */
        (void)guard_keeps(scene.b, scene.database);
    EXPECT(keeps_soon(scene.a, scene.database) && keeps_soon(scene.b, scene.database));
    EXPECT(test_until(guard_get(scene.a) == 2 && guard_get(scene.b) == 2, 5000));
    end(&scene);
}

/* Nobody is left on the host who could say a word to Redis: the deadline is all there is. */
TEST(a_guard_of_a_fleet_that_was_left_is_lost_and_ends_by_its_deadline)
{
    freshet_join_options options = FRESHET_INIT(freshet_join_options);
    struct scene scene;
    freshet_guard *guard;

    begin(&scene, true);
    guard = guard_begin(scene.a, 1500);
    freshet_leave(scene.a);
    EXPECT_EQ(freshet_guard_left(guard), 0);
    EXPECT(!guard_keeps(scene.b, scene.database));
    EXPECT_EQ(guard_end(guard), FRESHET_EFLEET); /* it cannot invalidate: the guard is still there */
    EXPECT(keeps_soon(scene.b, scene.database));
    scene.database->row = 2;
    options.keyring = host_keyring();
    EXPECT_EQ(freshet_join(scene.a, scene.redis.url, &options), FRESHET_OK);
    EXPECT_EQ(guard_end(guard), FRESHET_GUARD_LOST);
    EXPECT(test_until(guard_get(scene.b) != 1, 5000));
    end(&scene);
}

static void expect_lost(struct scene *scene, freshet_guard *guard)
{
    EXPECT(test_until(freshet_guard_left(guard) == 0, 10000)); /* the loop hears of it when it next prolongs */
    scene->database->row = 2;
    EXPECT(test_until(guard_keeps(scene->b, scene->database), 10000));
    EXPECT_EQ(guard_end(guard), FRESHET_GUARD_LOST);
    EXPECT(test_until(guard_get(scene->b) != 1, 5000));
}

TEST(a_guard_is_lost_with_redis_data)
{
    struct scene scene;
    freshet_guard *guard;

    begin(&scene, true);
    guard = guard_begin(scene.a, HOLD);
    EXPECT(strcmp(redis_do(&scene.redis, "FLUSHALL"), "OK") == 0);
    expect_lost(&scene, guard);
    end(&scene);
}

TEST(a_guard_is_lost_with_a_restart_of_redis)
{
    struct scene scene;
    freshet_guard *guard;

    begin(&scene, true);
    guard = guard_begin(scene.a, HOLD);
    redis_restart(&scene.redis);
    expect_lost(&scene, guard);
    end(&scene);
}

/* Nobody prolonged it in between: only the epoch tells. */
TEST(a_guard_whose_history_ended_is_lost_though_its_mark_is_still_there)
{
    struct scene scene;
    freshet_guard *guard;

    begin(&scene, true);
    guard = guard_begin_fixed(scene.a, 60000);
    EXPECT(strcmp(redis_do(&scene.redis, "DEL freshet:{default:0}:head"), "1") == 0);
    EXPECT_EQ(guard_end(guard), FRESHET_GUARD_LOST);
    end(&scene);
}

TEST(a_guard_whose_mark_was_evicted_is_lost)
{
    struct scene scene;
    freshet_guard *guard;
    const char *name;

    begin(&scene, true);
    guard = guard_begin_fixed(scene.a, 60000);
    name = redis_do(&scene.redis, "KEYS freshet:{default:0}:record:*");
    EXPECT(strcmp(redis_do(&scene.redis, "DEL %s", name), "1") == 0);
    EXPECT_EQ(guard_end(guard), FRESHET_GUARD_LOST);
    end(&scene);
}

TEST(a_guard_is_prolonged_over_a_lost_connection)
{
    unsigned hold_ms = test_sanitized() || test_thread_sanitized() ? 3000 : 900; /* they connect slowly */
    struct scene scene;
    freshet_guard *guard;
    int64_t start;

    begin(&scene, true);
    guard = guard_begin(scene.a, hold_ms);
    for (start = test_now_ns(); test_now_ns() - start < 2 * hold_ms * 1000000LL;) {
        (void)redis_do(&scene.redis, "CLIENT KILL TYPE normal SKIPME yes");
        EXPECT(!test_until(freshet_guard_left(guard) == 0, 400));
    }
    EXPECT(!guard_keeps(scene.b, scene.database));
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    end(&scene);
}

/* A host program that closes what it does not know, as daemons do, and then does nothing but look at its guard. */
TEST_BOTH(a_guard_outlives_its_programs_closing_of_all_descriptors)
{
    freshet_guard *guard;
    int64_t end_ns;

    if (test_thread_sanitized())
        test_skip("the thread sanitizer takes the number of a descriptor, used again, for a shared variable");
    guard = guard_begin(scene->a, 900);
    end_ns = test_now_ns() + 2000 * 1000000LL;
    test_leaves();
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    while (test_now_ns() < end_ns) {
        EXPECT(freshet_guard_left(guard) > 0);
        test_pause();
    }
    EXPECT(test_until(!guard_keeps(scene->b, scene->database), 10000));
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
}

/* What it says must be so: Redis's own deadline, read after it, leaves at least as much, less the time between. */
TEST(what_guard_left_says_is_so)
{
    struct scene scene;
    freshet_guard *guard;

    begin(&scene, true);
    guard = guard_begin(scene.a, 600);
    for (int round = 0; round < 200; round++) {
        int64_t asked_ns = test_now_ns(), left_ms = freshet_guard_left(guard);
        long long told_us = redis_left_us(&scene.redis);

        EXPECT(left_ms > 0 && left_ms <= 600);
        EXPECT(told_us + (test_now_ns() - asked_ns) / 1000 >= left_ms * 1000);
        test_pause();
    }
    test_kill(scene.redis.pid, SIGSTOP); /* nothing can be prolonged, and it says so in time */
    int64_t stopped_ns = test_now_ns();
    EXPECT(test_until(freshet_guard_left(guard) == 0, 5000));
    EXPECT(test_now_ns() - stopped_ns < 700 * 1000000LL);
    test_kill(scene.redis.pid, SIGCONT);
    EXPECT(guard_end(guard) != FRESHET_QUEUED);
    end(&scene);
}

/* ---- several partitions ---- */

static freshet *join_of(const char *dir, struct redis *redis, uint32_t partitions)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    freshet *cache = NULL;

    options.dir = dir;
    options.tier_size = 8u << 20;
    options.partitions = partitions;
    options.max_staleness_ms = 2000;
    options.deadline_ms = 3000;
    join.keyring = host_keyring();
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    EXPECT_EQ(freshet_join(cache, redis->url, &join), FRESHET_OK);
    return cache;
}

/* Names of keys in all partitions, each in one. */
static void keys_of(freshet_key *keys, char (*names)[16], int count)
{
    for (int i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "row:%d", i);
        keys[i] = (freshet_key){names[i], strlen(names[i])};
    }
}

TEST(keys_of_several_partitions_are_guarded_all_or_none)
{
    enum { KEYS = 40 };
    char names[KEYS][16];
    freshet_key keys[KEYS];
    freshet_guard *guard = NULL, *fillers[64];
    struct redis redis;
    freshet *cache;

    redis_start(&redis, NULL);
    cache = join_of(fresh_dir(), &redis, 4);
    keys_of(keys, names, KEYS);
    EXPECT_EQ(freshet_guard_begin(cache, keys, KEYS, NULL, &guard), FRESHET_OK);
    for (int i = 0; i < KEYS; i++)
        EXPECT_EQ(host_put(cache, names[i], "1"), FRESHET_GUARDED);
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    for (int i = 0; i < KEYS; i++)
        EXPECT_EQ(host_put(cache, names[i], "1"), FRESHET_OK);
    /* each in turn has no room for another: whichever partition it is in, nothing is guarded of all */
    for (int full = 0; full < 8; full++) {
        for (int i = 0; i < 64; i++)
            EXPECT_EQ(guard_on(cache, names[full], 60000, true, &fillers[i]), FRESHET_OK);
        guard = NULL;
        EXPECT_EQ(freshet_guard_begin(cache, keys, KEYS, NULL, &guard), FRESHET_EBUSY);
        EXPECT(guard == NULL);
        for (int i = 0; i < KEYS; i++)
            EXPECT_EQ(host_put(cache, names[i], "1"), i == full ? FRESHET_GUARDED : FRESHET_OK);
        for (int i = 0; i < 64; i++)
            EXPECT_EQ(guard_end(fillers[i]), FRESHET_OK);
    }
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_guard_that_is_broken_in_one_partition_is_lost)
{
    enum { KEYS = 40 };
    char names[KEYS][16];
    freshet_key keys[KEYS];
    freshet_guard *guard = NULL;
    struct redis redis;
    freshet *cache;

    redis_start(&redis, NULL);
    cache = join_of(fresh_dir(), &redis, 4);
    keys_of(keys, names, KEYS);
    for (int partition = 0; partition < 4; partition++) {
        EXPECT_EQ(freshet_guard_begin(cache, keys, KEYS, NULL, &guard), FRESHET_OK);
        EXPECT(strcmp(redis_do(&redis, "DEL freshet:{default:%d}:head", partition), "1") == 0);
        freshet_result result = guard_end(guard);
        EXPECT(result == FRESHET_GUARD_LOST);
    }
    freshet_close(cache);
    redis_stop(&redis);
}
