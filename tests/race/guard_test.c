/*
 * guard_test.c - what meets a database write in progress just in the wrong moment: loads that ran before it, begin
 * during it and land after it, whoever joins them, histories that end in between, and holders that stop or die there.
 */
#include "hold.h"

#include <guards.h>
#include <stdlib.h>

#define KEY "row:1"

/* Two caches that see one another (two hosts, or one opened twice), and a row that a loader is held in. */
struct scene {
    struct redis redis;
    bool fleet;
    const char *dir;
    freshet *a, *b;
    struct row row;
};

static void begin(struct scene *scene, bool fleet)
{
    *scene = (struct scene){.fleet = fleet, .dir = fresh_dir()};
    if (fleet)
        redis_start(&scene->redis, NULL);
    scene->a = fleet ? host_join(scene->dir, &scene->redis, 5000) : host_solo(scene->dir, 0);
    scene->b = fleet ? host_join(fresh_dir(), &scene->redis, 5000) : host_solo(scene->dir, 0);
    row_init(&scene->row, "old");
}

static void end(struct scene *scene)
{
    freshet_close(scene->a);
    freshet_close(scene->b);
    if (scene->fleet)
        redis_stop(&scene->redis);
}

/* The begin is in b's fences, too: nothing that began earlier may be joined there. */
static void known(struct scene *scene, freshet *who)
{
    if (scene->fleet)
        EXPECT(applied(who, stats_of(scene->a).position));
}

/* Load without being held: is it answered so? */
static bool loads(struct scene *scene, freshet *cache, const char *value)
{
    freshet_buf buf = {0};
    freshet_result result = freshet_load(cache, KEY, strlen(KEY), NULL, row_loader, &scene->row, &buf, NULL);
    bool so = result == FRESHET_OK && buf.size == strlen(value) && memcmp(buf.data, value, buf.size) == 0;

    freshet_buf_free(&buf);
    return so;
}

/* H8: no invalidation lies between the load and who comes after the commit; the guard does. */
TEST_BOTH(a_load_under_a_guard_is_joined_by_nobody)
{
    freshet_guard *guard = guard_begin(scene->a, 60000);
    struct call load, second;

    known(scene, scene->b);
    call_begin(&load, scene->b, KEY, &scene->row);
    EXPECT(hold_wait_on(&scene->row.read)); /* it has read the old row */
    scene->row.value = "new";               /* committed, and the guard's end is still to come */
    call_begin(&second, scene->b, KEY, &scene->row);
    EXPECT(test_until(scene->row.reads == 2, 1000)); /* it reads for itself, soon */
    EXPECT(loads(scene, scene->a, "new"));
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    EXPECT(loads(scene, scene->a, "new"));
    sem_post(&scene->row.go);
    sem_post(&scene->row.go);
    EXPECT(call_end(&load) == FRESHET_OK && call_end(&second) == FRESHET_OK);
    EXPECT(strcmp(load.got, "old") == 0); /* its own answer: it began before the commit */
    EXPECT(strcmp(second.got, "new") == 0);
    EXPECT(freshet_flush(scene->b, 5000) == FRESHET_OK);
    EXPECT(!gets_that(scene->a, KEY, "old") && !gets_that(scene->b, KEY, "old"));
}

/* Who waits for a load before that one hears of the guard is let go at once. */
TEST_BOTH(who_waits_for_a_load_that_meets_a_guard_goes_on_alone)
{
    freshet_guard *guard = guard_begin(scene->a, 60000);
    struct call first, second;

    known(scene, scene->b);
    hold_at("missed", true); /* the first, before it asks anybody */
    call_begin(&first, scene->b, KEY, &scene->row);
    hold_reached();
    call_begin(&second, scene->b, KEY, &scene->row);
    hold_go();
    EXPECT(test_until(scene->row.reads == 2, 10000)); /* both read for themselves, and are held in their loaders */
    scene->row.value = "new";
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    sem_post(&scene->row.go);
    sem_post(&scene->row.go);
    EXPECT(call_end(&first) == FRESHET_OK && call_end(&second) == FRESHET_OK);
    EXPECT(freshet_flush(scene->b, 5000) == FRESHET_OK);
    EXPECT(!gets_that(scene->a, KEY, "old") && !gets_that(scene->b, KEY, "old"));
}

/* The load read the old row before the guard began, and lands while it is in force, or after it. */
TEST_BOTH(a_load_from_before_a_guard_leaves_nothing_whenever_it_lands)
{
    for (int after = 0; after < 2; after++) {
        struct call load;
        freshet_guard *guard;

        scene->row.value = "old";
        EXPECT_EQ(host_invalidate(scene->b, KEY), FRESHET_OK);
        call_begin(&load, scene->b, KEY, &scene->row);
        EXPECT(hold_wait_on(&scene->row.read));
        guard = guard_begin(scene->a, 60000);
        known(scene, scene->b);
        scene->row.value = "new";
        EXPECT(loads(scene, scene->b, "new")); /* and it is not joined */
        if (after)
            EXPECT_EQ(guard_end(guard), FRESHET_OK);
        sem_post(&scene->row.go);
        EXPECT_EQ(call_end(&load), FRESHET_OK);
        EXPECT(freshet_flush(scene->b, 5000) == FRESHET_OK);
        EXPECT(!gets_that(scene->a, KEY, "old") && !gets_that(scene->b, KEY, "old"));
        if (!after)
            EXPECT_EQ(guard_end(guard), FRESHET_OK);
    }
}

TEST_BOTH(a_load_from_within_a_guard_leaves_nothing_after_its_end)
{
    freshet_guard *guard = guard_begin(scene->a, 60000);
    struct call load;

    call_begin(&load, scene->b, KEY, &scene->row);
    EXPECT(hold_wait_on(&scene->row.read));
    scene->row.value = "new";
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    sem_post(&scene->row.go);
    EXPECT_EQ(call_end(&load), FRESHET_OK);
    EXPECT(freshet_flush(scene->b, 5000) == FRESHET_OK);
    EXPECT(!gets_that(scene->a, KEY, "old") && !gets_that(scene->b, KEY, "old"));
}

/* A guard that broke before the commit: its end voids what was kept in the gap, also what is still on its way. */
TEST_BOTH(a_load_through_a_broken_guard_leaves_nothing_after_its_end)
{
    freshet_guard *guard = guard_begin_fixed(scene->a, 100);
    struct call load;

    EXPECT(test_until(host_put(scene->b, KEY, "old") == FRESHET_OK, 5000)); /* until then FRESHET_GUARDED */
    EXPECT_EQ(freshet_guard_left(guard), 0);
    EXPECT_EQ(host_invalidate(scene->b, KEY), FRESHET_OK);
    call_begin(&load, scene->b, KEY, &scene->row);
    EXPECT(hold_wait_on(&scene->row.read));
    scene->row.value = "new";
    EXPECT_EQ(guard_end(guard), FRESHET_GUARD_LOST);
    sem_post(&scene->row.go);
    EXPECT_EQ(call_end(&load), FRESHET_OK);
    EXPECT(freshet_flush(scene->b, 5000) == FRESHET_OK);
    known(scene, scene->b);
    EXPECT(!gets_that(scene->a, KEY, "old") && !gets_that(scene->b, KEY, "old"));
}

/* Redis is away: whether the key is guarded cannot be known, so a load that begins then is handed to nobody. */
TEST(a_load_that_could_not_ask_redis_is_joined_by_nobody)
{
    struct scene scene;
    freshet_guard *guard;
    struct call load, second;

    begin(&scene, true);
    guard = guard_begin(scene.a, 60000);
    known(&scene, scene.b);
    redis_stop(&scene.redis);
    call_begin(&load, scene.b, KEY, &scene.row);
    EXPECT(hold_wait_on(&scene.row.read));
    scene.row.value = "new";
    call_begin(&second, scene.b, KEY, &scene.row);
    EXPECT(test_until(scene.row.reads == 2, 2000)); /* it reads for itself */
    sem_post(&scene.row.go);
    sem_post(&scene.row.go);
    EXPECT(call_end(&load) == FRESHET_OK && call_end(&second) == FRESHET_OK);
    EXPECT(strcmp(second.got, "new") == 0);
    EXPECT(guard_end(guard) != FRESHET_OK);
    freshet_close(scene.a);
    freshet_close(scene.b);
}

/* Redis has set the guard, and its history ends before this host's fences are raised. */
static void *begin_held(void *arg)
{
    static freshet_guard *guard;
    struct scene *scene = arg;
    freshet_result result;

    hold_me();
    result = guard_on(scene->a, KEY, 60000, false, &guard);
    return result == FRESHET_OK ? guard : NULL;
}

TEST(a_guard_whose_history_ends_at_its_begin_does_not_come_about)
{
    struct scene scene;
    pthread_t thread;
    void *guard;
    uint64_t epoch;

    begin(&scene, true);
    epoch = stats_of(scene.a).epoch;
    hold_at("guard_begun", false);
    EXPECT(pthread_create(&thread, NULL, begin_held, &scene) == 0);
    hold_reached();
    EXPECT(strcmp(redis_do(&scene.redis, "FLUSHALL"), "OK") == 0);
    EXPECT(test_until(stats_of(scene.a).epoch != epoch, 10000));
    hold_go();
    EXPECT(pthread_join(thread, &guard) == 0);
    EXPECT(guard == NULL);
    end(&scene);
}

struct ending {
    pthread_t thread;
    freshet_guard *guard;
    freshet_result result;
};

static void *ending_run(void *arg)
{
    struct ending *ending = arg;

    hold_me();
    ending->result = guard_end(ending->guard);
    return NULL;
}

/* End the guard on a thread that stops at `point`. */
static void ending_begin(struct ending *ending, freshet_guard *guard, const char *point)
{
    *ending = (struct ending){.guard = guard};
    hold_at(point, false);
    EXPECT(pthread_create(&ending->thread, NULL, ending_run, ending) == 0);
    hold_reached();
}

/* The end is written down before it is sent: a holder that is killed right there has told its host, not Redis. */
TEST(an_end_that_its_holder_is_killed_in_is_sent_by_a_sibling)
{
    struct scene scene;
    struct database *database = database_open(1);
    pid_t child;

    begin(&scene, true);
    child = test_fork();
    if (child == 0) {
        freshet *cache = host_join(scene.dir, &scene.redis, 5000);
        struct ending ending;

        freshet_guard *guard = guard_begin(cache, 60000);
        database->row = 2;
        ending_begin(&ending, guard, "guard_ending");
        database->phase = 1;
        (void)test_until(false, HOLD_S * 1000); /* until it is killed */
        test_child_done();
    }
    EXPECT(test_until(database->phase == 1, 30000));
    uint64_t resent = stats_of(scene.a).resent;
    EXPECT_EQ(guard_get(scene.a), -1);
    test_kill(child, SIGKILL);
    EXPECT(test_until(stats_of(scene.a).resent > resent, 10000));
    EXPECT(!guard_keeps(scene.b, database)); /* and the guard is in force still, for as long as it holds */
    EXPECT_EQ(guard_load(scene.b, database), 2);
    end(&scene);
}

/* Without a fleet: who prolongs is stopped between its look at the clock and the swap, for longer than the guard holds.
 * Somebody gets through in the meantime; then the swap goes on, and must not hide it. */
TEST(a_guard_that_broke_while_it_was_being_prolonged_is_lost)
{
    struct scene scene;
    freshet_guard *guard;

    begin(&scene, false);
    guard = guard_begin(scene.a, 400);
    hold_at("guard_swap", true);
    hold_reached();
    EXPECT(test_until(loads(&scene, scene.b, "old") && gets_that(scene.b, KEY, "old"), 10000));
    hold_go();
    EXPECT_EQ(freshet_guard_left(guard), 0);
    scene.row.value = "new";
    EXPECT_EQ(guard_end(guard), FRESHET_GUARD_LOST);
    EXPECT(!gets_that(scene.b, KEY, "old"));
    end(&scene);
}

/* The same at its end. */
TEST(a_guard_that_broke_while_it_was_being_ended_is_lost)
{
    struct scene scene;
    struct ending ending;

    begin(&scene, false);
    ending_begin(&ending, guard_begin_fixed(scene.a, 1000), "guard_swap");
    EXPECT(test_until(loads(&scene, scene.b, "old") && gets_that(scene.b, KEY, "old"), 10000));
    hold_go();
    EXPECT(pthread_join(ending.thread, NULL) == 0);
    EXPECT_EQ(ending.result, FRESHET_GUARD_LOST);
    end(&scene);
}

/* A put that took its position before the guard came is void; one that takes it later sees the guard. */
static void *put_held(void *arg)
{
    struct scene *scene = arg;
    freshet_result *result = malloc(sizeof *result);

    EXPECT(result != NULL);
    hold_me();
    *result = host_put(scene->b, KEY, "old");
    return result;
}

TEST(without_a_fleet_a_put_that_a_guard_overtakes_leaves_nothing)
{
    struct scene scene;
    freshet_guard *guard;
    freshet_result *result;
    pthread_t thread;

    begin(&scene, false);
    hold_at("put_placed", false);
    EXPECT(pthread_create(&thread, NULL, put_held, &scene) == 0);
    hold_reached();
    guard = guard_begin(scene.a, 60000);
    hold_go();
    EXPECT(pthread_join(thread, (void **)&result) == 0);
    EXPECT(*result == FRESHET_OK || *result == FRESHET_GUARDED);
    EXPECT(freshet_flush(scene.b, 5000) == FRESHET_OK);
    EXPECT(!gets_that(scene.a, KEY, "old") && !gets_that(scene.b, KEY, "old"));
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    EXPECT(!gets_that(scene.a, KEY, "old") && !gets_that(scene.b, KEY, "old"));
    free(result);
    end(&scene);
}

/* A guard is in the table before its fences rise: who reads a position behind them must see it. */
static void *begin_slowly(void *arg)
{
    struct scene *scene = arg;

    hold_me();
    return guard_begin(scene->a, 60000);
}

TEST(without_a_fleet_a_guard_holds_before_its_fences_rise)
{
    struct scene scene;
    pthread_t thread;
    void *guard;

    begin(&scene, false);
    hold_at("guard_set", false);
    EXPECT(pthread_create(&thread, NULL, begin_slowly, &scene) == 0);
    hold_reached();
    EXPECT(loads(&scene, scene.b, "old"));
    EXPECT(freshet_flush(scene.b, 5000) == FRESHET_OK);
    hold_go();
    EXPECT(pthread_join(thread, &guard) == 0);
    EXPECT(!gets_that(scene.a, KEY, "old") && !gets_that(scene.b, KEY, "old"));
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    end(&scene);
}

/* Redis prolonged the guard when it was asked, not when we read its answer. */
TEST(how_long_a_guard_is_left_counts_from_the_asking)
{
    struct scene scene;
    freshet_guard *guard;

    begin(&scene, true);
    hold_at("guard_answer", true);
    guard = guard_begin(scene.a, 1500);
    hold_reached(); /* an answer is here, and with it Redis's deadline: at most so long from now */
    int64_t ends_ns = test_now_ns() + 1500 * 1000000LL;
    EXPECT(test_until(freshet_guard_left(guard) < 600, 5000)); /* of what the begin gave */
    hold_at("guard_answer", true);                             /* what is asked next is not answered */
    hold_go();
    hold_reached();
    int64_t left_ns = freshet_guard_left(guard) * 1000000LL;
    EXPECT(left_ns > 0 && test_now_ns() + left_ns <= ends_ns);
    hold_go();
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    end(&scene);
}

/* A load that looked for guards before one came is void; and one that reads its position later sees it. */
TEST(without_a_fleet_a_load_that_a_guard_overtakes_leaves_nothing)
{
    struct scene scene;
    freshet_guard *guard;
    struct call load;

    begin(&scene, false);
    hold_at("load_unguarded", false);
    call_begin(&load, scene.b, KEY, &scene.row);
    hold_reached();
    guard = guard_begin(scene.a, 60000);
    sem_post(&scene.row.go);
    hold_go();
    EXPECT_EQ(call_end(&load), FRESHET_OK);
    EXPECT(freshet_flush(scene.b, 5000) == FRESHET_OK);
    EXPECT(!gets_that(scene.a, KEY, "old") && !gets_that(scene.b, KEY, "old"));
    EXPECT_EQ(guard_end(guard), FRESHET_OK);
    EXPECT(!gets_that(scene.a, KEY, "old") && !gets_that(scene.b, KEY, "old"));
    end(&scene);
}
