/*
 * source_test.c - the database's own versions (row versions, LSNs): what is older than what was seen is refused, on
 * every path, and says so.
 *
 * Each claim is tried on a host of its own and in a fleet.
 */
#include "hold.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define BOUND 5000

struct scene {
    bool fleet;
    struct redis redis;
    const char *dir;
    freshet *cache, *other; /* another host of the fleet; alone: the same host */
};

static void begin(struct scene *scene, bool fleet)
{
    *scene = (struct scene){.fleet = fleet, .dir = fresh_dir()};
    if (fleet) {
        redis_start(&scene->redis, NULL);
        scene->cache = host_join(scene->dir, &scene->redis, BOUND);
        scene->other = host_join(fresh_dir(), &scene->redis, BOUND);
    } else {
        scene->cache = host_solo(scene->dir, BOUND);
        scene->other = host_solo(scene->dir, BOUND);
    }
}

static void end(struct scene *scene)
{
    freshet_close(scene->cache);
    freshet_close(scene->other);
    if (scene->fleet)
        redis_stop(&scene->redis);
}

static freshet_write_options of_version(uint64_t version)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);

    options.source_version = version;
    return options;
}

static freshet_result put(freshet *cache, const char *value, uint64_t version)
{
    freshet_write_options options = of_version(version);

    return freshet_put(cache, "k", 1, value, strlen(value), &options, NULL);
}

static freshet_result put_absent(freshet *cache, uint64_t version)
{
    freshet_write_options options = of_version(version);

    return freshet_put_absent(cache, "k", 1, &options, NULL);
}

static freshet_result invalidate(freshet *cache, uint64_t version)
{
    freshet_write_options options = of_version(version);

    return freshet_invalidate(cache, "k", 1, &options, NULL);
}

/* ---- puts ---- */

TEST(a_put_of_an_older_source_is_refused_and_changes_nothing)
{
    for (int fleet = 0; fleet < 2; fleet++) {
        struct scene scene;
        freshet_stats stats;

        begin(&scene, fleet);
        EXPECT_EQ(put(scene.cache, "seven", 7), FRESHET_OK);
        stats = stats_of(scene.cache);
        EXPECT_EQ(put(scene.other, "six", 6), FRESHET_OUTDATED);
        EXPECT_EQ(put_absent(scene.other, 6), FRESHET_OUTDATED);
        EXPECT_EQ(put(scene.cache, "", 1), FRESHET_OUTDATED);
        EXPECT_EQ(stats_of(scene.cache).position, stats.position); /* no change, so nothing is void */
        EXPECT_EQ(stats_of(scene.other).outbox, 0);
        EXPECT(host_gets(scene.cache, "k", "seven") && test_until(host_gets(scene.other, "k", "seven"), 5000));
        EXPECT_EQ(put(scene.other, "seven again", 7), FRESHET_OK);
        EXPECT_EQ(put_absent(scene.other, 8), FRESHET_OK);
        EXPECT_EQ(put(scene.cache, "seven", 7), FRESHET_OUTDATED);
        EXPECT_EQ(host_get(scene.other, "k", NULL, 0), FRESHET_ABSENT);
        end(&scene);
    }
}

TEST(a_clear_lets_source_versions_begin_again)
{
    for (int fleet = 0; fleet < 2; fleet++) {
        struct scene scene;

        begin(&scene, fleet);
        EXPECT_EQ(put(scene.cache, "seven", 7), FRESHET_OK);
        EXPECT_EQ(freshet_clear(scene.other, NULL, NULL), FRESHET_OK);
        EXPECT_EQ(put(scene.cache, "one", 1), FRESHET_OK);
        EXPECT(host_gets(scene.cache, "k", "one"));
        end(&scene);
    }
}

TEST(an_invalidation_keeps_what_was_seen)
{
    for (int fleet = 0; fleet < 2; fleet++) {
        struct scene scene;

        begin(&scene, fleet);
        EXPECT_EQ(put(scene.cache, "seven", 7), FRESHET_OK);
        EXPECT_EQ(invalidate(scene.cache, 0), FRESHET_OK);
        EXPECT_EQ(put(scene.cache, "six", 6), FRESHET_OUTDATED);
        if (fleet) {
            EXPECT_EQ(invalidate(scene.other, 9), FRESHET_OK); /* and brings its own */
            EXPECT_EQ(put(scene.cache, "eight", 8), FRESHET_OUTDATED);
        }
        EXPECT_EQ(put(scene.cache, "nine", 9), FRESHET_OK);
        end(&scene);
    }
}

struct board {
    _Atomic uint64_t next, newest; /* versions: to be put; the greatest whose put returned OK */
};

static uint64_t value_now(freshet *cache)
{
    char text[64] = "0";

    return host_get(cache, "k", text, sizeof text) == FRESHET_OK ? strtoull(text, NULL, 10) : UINT64_MAX;
}

/* Puts versions as they come, the greater of two first every other time; whatever returned OK is never undone. */
static void put_and_check(struct board *board, const char *dir, unsigned seed)
{
    freshet *cache = host_solo(dir, BOUND);

    for (int n = 0; n < 250; n++) {
        uint64_t version = atomic_fetch_add(&board->next, 1) ^ seed, newest, seen;
        char text[32];
        freshet_result result;

        snprintf(text, sizeof text, "%llu", (unsigned long long)version);
        result = put(cache, text, version);
        EXPECT(result == FRESHET_OK || result == FRESHET_OUTDATED);
        newest = board->newest;
        while (result == FRESHET_OK && newest < version &&
               !atomic_compare_exchange_weak(&board->newest, &newest, version))
            continue;
        newest = board->newest;
        seen = value_now(cache);
        EXPECT(seen == UINT64_MAX || seen >= newest);
    }
    freshet_close(cache);
}

TEST(of_puts_that_meet_on_a_host_the_greatest_version_stays)
{
    struct board *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const char *dir = fresh_dir();
    freshet *cache = host_solo(dir, BOUND);
    pid_t children[4];

    EXPECT(board != MAP_FAILED);
    board->next = 1000;
    for (unsigned i = 0; i < 4; i++) {
        children[i] = test_fork();
        if (children[i] == 0) {
            put_and_check(board, dir, i);
            test_child_done();
        }
    }
    for (int i = 0; i < 4; i++)
        test_join(children[i]);
    EXPECT_EQ(value_now(cache), board->newest);
    freshet_close(cache);
}

/* ---- loads ---- */

/* A database: a primary, and a replica that may be behind. */
struct database {
    uint64_t primary, replica; /* versions of the one row; 0: there is none */
    _Atomic int asked_primary, asked_replica;
    bool gone;   /* the row, in both */
    sem_t *hold; /* the reader waits here before it answers; NULL: not */
    sem_t *read;
};

static freshet_result database_read(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    struct database *database = arg;
    uint64_t version = request->prefer_primary ? database->primary : database->replica;
    char text[32];

    database->asked_primary += request->prefer_primary;
    database->asked_replica += !request->prefer_primary;
    request->source_version = version;
    if (database->hold) {
        sem_post(database->read);
        EXPECT(hold_wait_on(database->hold));
    }
    if (database->gone)
        return FRESHET_ABSENT;
    snprintf(text, sizeof text, "%llu", (unsigned long long)version);
    return freshet_buf_set(buf, text, strlen(text));
}

static freshet_result load(freshet *cache, struct database *database, char *ret_text, freshet_answer *answer)
{
    freshet_buf buf = {0};
    freshet_result result = freshet_load(cache, "k", 1, NULL, database_read, database, &buf, answer);

    if (ret_text)
        snprintf(ret_text, 32, "%.*s", (int)buf.size, buf.data ? (char *)buf.data : "");
    freshet_buf_free(&buf);
    EXPECT(freshet_flush(cache, 5000) == FRESHET_OK);
    return result;
}

/* The key has seen version 9 and holds nothing. */
static void see_nine(struct scene *scene)
{
    EXPECT_EQ(put(scene->cache, "nine", 9), FRESHET_OK);
    EXPECT_EQ(invalidate(scene->cache, 0), FRESHET_OK);
}

TEST(a_load_of_an_older_source_asks_the_primary_then)
{
    for (int fleet = 0; fleet < 2; fleet++) {
        struct database database = {.primary = 9, .replica = 9};
        freshet_answer answer = FRESHET_INIT(freshet_answer);
        struct scene scene;
        char text[32];

        begin(&scene, fleet);
        if (fleet)
            epoch_is_old(&scene.redis);
        EXPECT_EQ(load(scene.cache, &database, text, &answer), FRESHET_OK);
        EXPECT(database.asked_replica == 1 && database.asked_primary == 0); /* nobody has changed anything */
        see_nine(&scene);
        EXPECT_EQ(load(scene.cache, &database, text, &answer), FRESHET_OK);
        EXPECT(database.asked_replica == 1 && database.asked_primary == 1); /* just changed: the primary at once */
        EXPECT(strcmp(text, "9") == 0 && !answer.outdated);
        EXPECT(host_gets(scene.cache, "k", "9"));
        end(&scene);
    }
}

TEST(a_load_that_stays_older_is_not_kept_and_says_so)
{
    for (int gone = 0; gone < 2; gone++)
        for (int fleet = 0; fleet < 2; fleet++) {
            struct database database = {.primary = 8, .replica = 8, .gone = gone};
            freshet_answer answer = FRESHET_INIT(freshet_answer);
            struct scene scene;

            begin(&scene, fleet);
            see_nine(&scene);
            EXPECT_EQ(load(scene.cache, &database, NULL, &answer), gone ? FRESHET_ABSENT : FRESHET_OK);
            EXPECT(answer.outdated && answer.source_version == 8 && answer.source == FRESHET_FROM_LOADER);
            EXPECT_EQ(database.asked_primary + database.asked_replica, 2); /* it was given another chance */
            EXPECT(stats_of(scene.cache).fills_refused >= 1);
            EXPECT_EQ(host_get(scene.cache, "k", NULL, 0), FRESHET_MISS);
            EXPECT_EQ(host_get(scene.other, "k", NULL, 0), FRESHET_MISS);
            database.primary = 9;
            EXPECT_EQ(load(scene.cache, &database, NULL, &answer), gone ? FRESHET_ABSENT : FRESHET_OK);
            EXPECT(!answer.outdated);
            EXPECT_EQ(host_get(scene.other, "k", NULL, 0), gone ? FRESHET_ABSENT : FRESHET_OK);
            end(&scene);
        }
}

struct loader_call {
    pthread_t thread;
    freshet *cache;
    struct database *database;
    freshet_answer answer;
    freshet_result result;
    char text[32];
};

static void *loader_call_run(void *arg)
{
    struct loader_call *call = arg;

    call->result = load(call->cache, call->database, call->text, &call->answer);
    return NULL;
}

static void loader_call_begin(struct loader_call *call, freshet *cache, struct database *database)
{
    *call = (struct loader_call){.cache = cache, .database = database, .answer = FRESHET_INIT(freshet_answer)};
    EXPECT(pthread_create(&call->thread, NULL, loader_call_run, call) == 0);
}

TEST(who_waits_is_not_handed_an_answer_that_turned_out_older)
{
    for (int fleet = 0; fleet < 2; fleet++) {
        sem_t go, read;
        struct database behind = {.primary = 8, .replica = 8, .hold = &go, .read = &read};
        struct database right = {.primary = 9, .replica = 9};
        struct loader_call first, second;
        struct scene scene;

        sem_init(&go, 0, 0);
        sem_init(&read, 0, 0);
        begin(&scene, fleet);
        see_nine(&scene);
        loader_call_begin(&first, scene.cache, &behind);
        EXPECT(hold_wait_on(&read));
        loader_call_begin(&second, scene.cache, &right);
        for (int ms = 0; ms < 50; ms++) {
            EXPECT(right.asked_primary + right.asked_replica == 0); /* it waits for the first */
            test_pause();
        }
        sem_post(&go);
        EXPECT(hold_wait_on(&read)); /* the first tries again */
        sem_post(&go);
        EXPECT(pthread_join(first.thread, NULL) == 0 && pthread_join(second.thread, NULL) == 0);
        EXPECT(first.answer.outdated && strcmp(first.text, "8") == 0);
        EXPECT(!second.answer.outdated && strcmp(second.text, "9") == 0);
        EXPECT(host_gets(scene.cache, "k", "9"));
        end(&scene);
    }
}

/* ---- prefer_primary ---- */

static bool prefers(freshet *cache, const char *key)
{
    struct database database = {.primary = 1, .replica = 1};

    EXPECT_EQ(freshet_load(cache, key, strlen(key), NULL, database_read, &database, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(database.asked_primary + database.asked_replica, 1);
    return database.asked_primary == 1;
}

TEST(the_loader_is_told_to_prefer_the_primary_after_a_change)
{
    for (int fleet = 0; fleet < 2; fleet++) {
        freshet_write_options shortly = FRESHET_INIT(freshet_write_options);
        struct scene scene;

        shortly.ttl_ms = 1;
        begin(&scene, fleet);
        if (fleet) {
            EXPECT(prefers(scene.cache, "before"));
            epoch_is_old(&scene.redis);
        }
        EXPECT(!prefers(scene.cache, "k"));
        EXPECT_EQ(host_invalidate(scene.other, "k"), FRESHET_OK);
        EXPECT(test_until(host_get(scene.cache, "k", NULL, 0) == FRESHET_MISS, 5000));
        EXPECT(prefers(scene.cache, "k"));
        EXPECT(!prefers(scene.cache, "another"));
        EXPECT_EQ(freshet_put(scene.cache, "put", 3, "v", 1, &shortly, NULL), FRESHET_OK);
        EXPECT(test_until(host_get(scene.cache, "put", NULL, 0) == FRESHET_MISS, 5000));
        EXPECT(prefers(scene.cache, "put"));
        EXPECT_EQ(freshet_clear(scene.other, NULL, NULL), FRESHET_OK);
        EXPECT(test_until(host_get(scene.cache, "another", NULL, 0) == FRESHET_MISS, 5000));
        EXPECT(prefers(scene.cache, "another") && prefers(scene.cache, "third"));
        end(&scene);
    }
}

TEST(the_loader_is_told_so_while_a_change_waits_for_redis)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    freshet_load_options load_options = FRESHET_INIT(freshet_load_options);
    struct database database = {.primary = 1, .replica = 1};
    struct scene scene;

    begin(&scene, true);
    EXPECT(strcmp(redis_do(&scene.redis, "CLIENT PAUSE 100000 WRITE"), "OK") == 0);
    options.deadline_ms = load_options.deadline_ms = 100;
    EXPECT_EQ(freshet_invalidate(scene.cache, "k", 1, &options, NULL), FRESHET_QUEUED);
    EXPECT_EQ(freshet_load(scene.cache, "k", 1, &load_options, database_read, &database, NULL, NULL), FRESHET_OK);
    EXPECT(database.asked_primary == 1 && database.asked_replica == 0);
    EXPECT(strcmp(redis_do(&scene.redis, "CLIENT UNPAUSE"), "OK") == 0);
    end(&scene);
}
