/*
 * turn_test.c - many processes of a host miss one key: one of them loads, the others get its answer.
 *
 * And whatever happens to the one that loads, the others only ever lose a moment: it is killed, stopped, slow,
 * overtaken by a change, its loader fails or forks.
 */
#include "hold.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CROWD 64
#define KEYS  8
#define BOUND 10000

/* What the processes of a test have in common. */
struct common {
    _Atomic int ready, round, done;
    _Atomic int loads[KEYS];      /* of key n */
    _Atomic bool go;              /* lets a held loader answer */
    _Atomic bool old;             /* the row is the old one */
    _Atomic int64_t loaded_ns[2]; /* when the loader of the first, of the second process was called */
};

static struct common *common_make(void)
{
    struct common *common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    EXPECT(common != MAP_FAILED);
    return common;
}

/* A tier of one host: of a fleet, or on its own (redis NULL). */
static freshet *host_of(const char *dir, struct redis *redis)
{
    return redis ? host_join(dir, redis, BOUND) : host_solo(dir, BOUND);
}

/* ---- a crowd ---- */

struct slow {
    struct common *common;
    int key;
};

/* Takes long enough for everybody to come and wait. */
static freshet_result slow_loader(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    const struct slow *slow = arg;

    (void)request;
    slow->common->loads[slow->key]++;
    for (int ms = 0; ms < 20; ms++)
        test_pause();
    return freshet_buf_set(buf, "value", 5);
}

static void crowd_life(struct common *common, const char *dir, struct redis *redis)
{
    freshet *cache = host_of(dir, redis);

    common->ready++;
    for (int n = 0; n < KEYS; n++) {
        freshet_load_options options = FRESHET_INIT(freshet_load_options);
        struct slow slow = {common, n};
        freshet_buf buf = {0};
        char key[16];

        snprintf(key, sizeof key, "key:%d", n);
        EXPECT(test_until(common->round > n, 30000));
        options.deadline_ms = 20000;
        EXPECT_EQ(freshet_load(cache, key, strlen(key), &options, slow_loader, &slow, &buf, NULL), FRESHET_OK);
        EXPECT(buf.size == 5 && memcmp(buf.data, "value", 5) == 0);
        freshet_buf_free(&buf);
        common->done++;
    }
    freshet_close(cache);
}

static void expect_one_load(struct redis *redis)
{
    struct common *common = common_make();
    const char *dir = fresh_dir();
    freshet *cache = host_of(dir, redis);
    pid_t crowd[CROWD];

    for (int i = 0; i < CROWD; i++) {
        crowd[i] = test_fork();
        if (crowd[i] == 0) {
            crowd_life(common, dir, redis);
            test_child_done();
        }
    }
    EXPECT(test_until(common->ready == CROWD, 50000));
    for (int n = 0; n < KEYS; n++) {
        common->round = n + 1;
        EXPECT(test_until(common->done == CROWD * (n + 1), 30000));
        EXPECT_EQ(common->loads[n], 1);
    }
    for (int i = 0; i < CROWD; i++)
        test_join(crowd[i]);
    EXPECT(stats_of(cache).joined > 0);
    freshet_close(cache);
}

TEST_LONG(of_64_processes_that_miss_a_key_at_once_one_loads, 120)
{
    expect_one_load(NULL);
}

TEST_LONG(of_64_processes_of_a_fleets_host_one_loads, 120)
{
    struct redis redis;

    redis_start(&redis, NULL);
    expect_one_load(&redis);
    redis_stop(&redis);
}

TEST(who_comes_late_finds_what_was_loaded_meanwhile)
{
    freshet *cache = host_solo(fresh_dir(), BOUND);
    struct row row;

    row_init(&row, "value");
    for (int n = 0; n < 100; n++)
        sem_post(&row.go); /* should it be asked all the same, it answers */
    for (int n = 0; n < 100; n++) {
        freshet_buf buf = {0};
        struct call late;
        char key[16];

        snprintf(key, sizeof key, "key:%d", n);
        hold_at("missed", false);
        call_begin(&late, cache, key, &row);
        hold_reached(); /* it has found nothing in the tier */
        EXPECT_EQ(freshet_load(cache, key, strlen(key), NULL, row_loader, &row, &buf, NULL), FRESHET_OK);
        if (n % 2) /* the record is in the tier by now; else it may still be on its way */
            EXPECT_EQ(freshet_flush(cache, 10000), FRESHET_OK);
        hold_go();
        EXPECT_EQ(call_end(&late), FRESHET_OK);
        EXPECT(strcmp(late.got, "value") == 0);
        freshet_buf_free(&buf);
    }
    EXPECT(row.reads < 105); /* the tier's writer may lag on a busy machine, for longer than anybody waits */
    freshet_close(cache);
}

/* ---- two processes: the first loads, the second waits ---- */

struct pair {
    struct common *common;
    const char *dir;
    struct redis *redis, server;
    freshet *cache;
    pid_t first, second;
};

struct held {
    struct common *common;
    int which;
};

/* Says that it was called, then answers what the row was at that time; the first one only when it may. */
static freshet_result held_loader(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    const struct held *held = arg;
    const char *row = held->common->old ? "old" : "new";

    (void)request;
    held->common->loaded_ns[held->which] = test_now_ns();
    if (held->which == 0 && !test_until(held->common->go, 50000))
        return FRESHET_EIO;
    return freshet_buf_set(buf, row, 3);
}

/* A process that loads "k" and expects the value; NULL: the loader's failure. */
static pid_t loader_begin(struct pair *pair, int which, unsigned deadline_ms, const char *value)
{
    pid_t child = test_fork();

    if (child == 0) {
        freshet_load_options options = FRESHET_INIT(freshet_load_options);
        freshet *cache = host_of(pair->dir, pair->redis);
        struct held held = {pair->common, which};
        freshet_buf buf = {0};

        options.deadline_ms = deadline_ms;
        pair->common->ready++;
        EXPECT_EQ(freshet_load(cache, "k", 1, &options, held_loader, &held, &buf, NULL), FRESHET_OK);
        EXPECT(buf.size == 3 && memcmp(buf.data, value, 3) == 0);
        pair->common->done++;
        freshet_buf_free(&buf);
        freshet_close(cache);
        test_child_done();
    }
    return child;
}

/* The first is in its loader, having read the old row; the second has come and waits for it. */
static void pair_begin(struct pair *pair, bool fleet, unsigned deadline_ms, const char *second_gets)
{
    *pair = (struct pair){.common = common_make(), .dir = fresh_dir()};
    if (fleet) {
        redis_start(&pair->server, NULL);
        pair->redis = &pair->server;
    }
    pair->cache = host_of(pair->dir, pair->redis);
    pair->common->old = true;
    pair->first = loader_begin(pair, 0, 50000, "old");
    EXPECT(test_until(pair->common->loaded_ns[0] != 0, 20000));
    pair->second = loader_begin(pair, 1, deadline_ms, second_gets);
    EXPECT(test_until(pair->common->ready == 2, 20000));
    for (int ms = 0; ms < 150; ms++) { /* it waits, though it looks now and then */
        EXPECT(pair->common->loaded_ns[1] == 0);
        test_pause();
    }
    pair->common->old = false;
}

/* How long after `since_ns` the second called its own loader, in ms. */
static int64_t second_loads_after(const struct pair *pair, int64_t since_ns)
{
    EXPECT(test_until(pair->common->loaded_ns[1] != 0, 20000));
    return (pair->common->loaded_ns[1] - since_ns) / 1000000;
}

static void pair_end(struct pair *pair)
{
    freshet_close(pair->cache);
    if (pair->redis)
        redis_stop(pair->redis);
}

TEST(who_waits_gets_the_answer_and_does_not_load)
{
    for (int fleet = 0; fleet < 2; fleet++) {
        struct pair pair;

        pair_begin(&pair, fleet, 50000, "old");
        pair.common->go = true;
        test_join(pair.first);
        test_join(pair.second);
        EXPECT(pair.common->loaded_ns[1] == 0);
        EXPECT_EQ(stats_of(pair.cache).joined, 1);
        pair_end(&pair);
    }
}

TEST(a_loading_process_that_is_killed_is_noticed_within_a_moment)
{
    struct pair pair;
    int64_t killed_ns;

    pair_begin(&pair, false, 50000, "new");
    test_kill(pair.first, SIGKILL);
    killed_ns = test_now_ns();
    EXPECT(second_loads_after(&pair, killed_ns) < 1000); /* on an idle machine some 20 */
    test_join(pair.second);
    pair_end(&pair);
}

TEST(a_loading_process_that_is_stopped_is_passed_by_and_brings_nothing_old_back)
{
    struct pair pair;
    int64_t stopped_ns;

    pair_begin(&pair, false, 50000, "new");
    stopped_ns = test_now_ns();
    test_kill(pair.first, SIGSTOP);
    EXPECT(second_loads_after(&pair, stopped_ns) < 1000);
    test_join(pair.second);
    EXPECT_EQ(host_put(pair.cache, "k", "put"), FRESHET_OK);
    pair.common->go = true;
    test_kill(pair.first, SIGCONT);
    test_join(pair.first);
    EXPECT(freshet_flush(pair.cache, 5000) == FRESHET_OK);
    EXPECT(host_gets(pair.cache, "k", "put"));
    pair_end(&pair);
}

TEST(a_slow_load_is_waited_for_until_the_deadline_only)
{
    struct pair pair;
    int64_t began_ns = test_now_ns();

    pair_begin(&pair, false, 400, "new");
    EXPECT(second_loads_after(&pair, began_ns) >= 390);
    test_join(pair.second);
    pair.common->go = true;
    test_join(pair.first);
    pair_end(&pair);
}

TEST(a_load_that_an_invalidation_overtook_is_not_waited_for)
{
    for (int fleet = 0; fleet < 2; fleet++) {
        struct pair pair;
        int64_t changed_ns;

        pair_begin(&pair, fleet, 50000, "new");
        changed_ns = test_now_ns();
        EXPECT_EQ(host_invalidate(pair.cache, "k"), FRESHET_OK);
        EXPECT(second_loads_after(&pair, changed_ns) < 1000);
        test_join(pair.second);
        pair.common->go = true;
        test_join(pair.first); /* it began before: its own answer */
        EXPECT(freshet_flush(pair.cache, 5000) == FRESHET_OK);
        EXPECT(host_gets(pair.cache, "k", "new"));
        pair_end(&pair);
    }
}

TEST(a_load_that_a_clear_overtook_is_not_waited_for)
{
    struct pair pair;
    int64_t changed_ns;

    pair_begin(&pair, true, 50000, "new");
    changed_ns = test_now_ns();
    EXPECT_EQ(freshet_clear(pair.cache, NULL, NULL), FRESHET_OK);
    EXPECT(second_loads_after(&pair, changed_ns) < 1000);
    test_join(pair.second);
    pair.common->go = true;
    test_join(pair.first);
    EXPECT(freshet_flush(pair.cache, 5000) == FRESHET_OK);
    EXPECT(host_gets(pair.cache, "k", "new"));
    pair_end(&pair);
}

/* ---- loaders that fail, and that fork ---- */

static freshet_result failing_loader(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    const struct held *held = arg;

    (void)request;
    (void)buf;
    held->common->loads[held->which]++;
    (void)test_until(held->common->go, 20000);
    return FRESHET_EIO;
}

TEST(a_load_that_failed_leaves_the_others_to_their_own_loaders)
{
    struct common *common = common_make();
    struct held fails = {common, 0}, works = {common, 1};
    const char *dir = fresh_dir();
    pid_t first = test_fork(), second;

    if (first == 0) {
        freshet *cache = host_solo(dir, BOUND);

        EXPECT_EQ(freshet_load(cache, "k", 1, NULL, failing_loader, &fails, NULL, NULL), FRESHET_ELOAD);
        freshet_close(cache);
        test_child_done();
    }
    EXPECT(test_until(common->loads[0] == 1, 20000));
    second = test_fork();
    if (second == 0) {
        freshet *cache = host_solo(dir, BOUND);

        common->ready++;
        EXPECT_EQ(freshet_load(cache, "k", 1, NULL, held_loader, &works, NULL, NULL), FRESHET_OK);
        freshet_close(cache);
        test_child_done();
    }
    EXPECT(test_until(common->ready == 1, 20000));
    common->go = true;
    test_join(first);
    test_join(second);
    EXPECT(common->loaded_ns[1] != 0);
}

/* Forks; the child goes on as if it had been the caller. */
static freshet_result forking_loader(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    struct held *held = arg;

    (void)request;
    held->which = test_fork() == 0;
    held->common->ready++;
    if (held->which == 0)
        (void)test_until(held->common->go, 20000);
    return freshet_buf_set(buf, "fork", 4);
}

TEST(a_child_that_a_loader_forked_ends_nobodys_turn)
{
    struct common *common = common_make();
    struct held forks = {common, 0}, waits = {common, 1};
    const char *dir = fresh_dir();
    pid_t parent = test_fork(), second;
    freshet_buf buf = {0};

    test_leaves();
    if (parent == 0) {
        freshet *cache = host_solo(dir, BOUND);

        EXPECT_EQ(freshet_load(cache, "k", 1, NULL, forking_loader, &forks, &buf, NULL), FRESHET_OK);
        common->done++;
        if (forks.which == 0)
            EXPECT(test_until(common->done == 3, 20000)); /* its children go with it */
        test_child_done();
    }
    EXPECT(test_until(common->ready == 2 && common->done == 1, 20000)); /* the grandchild has come through */
    second = test_fork();
    if (second == 0) {
        freshet *cache = host_solo(dir, BOUND);

        common->ready++;
        EXPECT_EQ(freshet_load(cache, "k", 1, NULL, held_loader, &waits, &buf, NULL), FRESHET_OK);
        EXPECT(buf.size == 4 && memcmp(buf.data, "fork", 4) == 0);
        common->done++;
        freshet_close(cache);
        test_child_done();
    }
    EXPECT(test_until(common->ready == 3, 20000));
    for (int ms = 0; ms < 100; ms++) {
        EXPECT(common->loaded_ns[1] == 0);
        test_pause();
    }
    common->go = true;
    test_join(second);
    test_join(parent);
    EXPECT(common->loaded_ns[1] == 0);
}
