/*
 * pool_test.c - several caches of a host share a size: it is never exceeded, every cache keeps its minimum, and the
 * rest goes where it saves misses.  What the files hold is asked of the file system, all along.
 */
#include <hosts.h>
#include <test.h>

#include <dirent.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB   (1ull << 20)
#define POOL  (16 * MIB)
#define VALUE 1000u

/* ---- what is held ---- */

static uint64_t held_by(const char *path)
{
    DIR *dir = opendir(path);
    uint64_t held = 0;
    struct stat st;

    if (!dir)
        return 0;
    for (const struct dirent *entry; (entry = readdir(dir));) {
        char name[512];

        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (lstat(name, &st) == 0 && S_ISREG(st.st_mode))
            held += (uint64_t)st.st_blocks * 512;
        else if (strcmp(entry->d_name, "aside") == 0)
            held += held_by(name);
    }
    closedir(dir);
    return held;
}

/* A watchman: adds up what several directories hold, again and again. */
struct watch {
    _Atomic bool end;
    _Atomic uint64_t most, looks;
    const char *dirs[4];
    unsigned count;
    pid_t pid;
};

/* What is looked at one after the other may have moved meanwhile, and be seen twice.  So each is taken at its least
 * over three looks around: what was there all that time was there at once. */
static uint64_t watch_look(const struct watch *watch)
{
    uint64_t least[4] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX}, all = 0;

    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < watch->count; i++) {
            uint64_t held = held_by(watch->dirs[i]);

            if (held < least[i])
                least[i] = held;
        }
    for (unsigned i = 0; i < watch->count; i++)
        all += least[i];
    return all;
}

static struct watch *watch_start(const char *const *dirs, unsigned count)
{
    struct watch *watch = mmap(NULL, sizeof *watch, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    EXPECT(watch != MAP_FAILED);
    watch->count = count;
    for (unsigned i = 0; i < count; i++)
        watch->dirs[i] = dirs[i];
    if ((watch->pid = test_fork()) == 0) {
        while (!watch->end) {
            uint64_t all = watch_look(watch);

            if (all > watch->most)
                watch->most = all;
            watch->looks++;
            test_pause();
        }
        test_child_done();
    }
    return watch;
}

/* It saw never more than so much. */
static void watch_end(struct watch *watch, uint64_t most)
{
    watch->end = true;
    test_join(watch->pid);
    EXPECT(watch->looks > 0);
    if (watch->most > most)
        fprintf(stderr, "held %llu of %llu\n", (unsigned long long)watch->most, (unsigned long long)most);
    EXPECT(watch->most <= most);
    (void)munmap(watch, sizeof *watch);
}

/* ---- caches ---- */

static freshet_result cache_try(freshet **ret_cache, const char *dir, const char *pool, uint64_t minimum)
{
    freshet_options options = FRESHET_INIT(freshet_options);

    options.dir = dir;
    options.pool = pool;
    options.pool_size = pool ? POOL : 0;
    options.pool_minimum = minimum;
    options.deadline_ms = 3000;
    return freshet_open(ret_cache, &options);
}

static freshet *cache_open(const char *dir, const char *pool, uint64_t minimum)
{
    freshet *cache = NULL;
    freshet_result result = cache_try(&cache, dir, pool, minimum);

    if (result != FRESHET_OK)
        fprintf(stderr, "%s\n", freshet_error());
    EXPECT_EQ(result, FRESHET_OK);
    return cache;
}

/* A value that follows from its key. */
static void value_make(char *value, uint64_t key)
{
    for (size_t i = 0; i < VALUE; i += 8)
        memcpy(value + i, &(uint64_t){key * 0x9e3779b97f4a7c15u + i}, 8);
}

static freshet_result value_load(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    char value[VALUE];

    (void)request;
    value_make(value, *(const uint64_t *)arg);
    return freshet_buf_set(buf, value, sizeof value);
}

/* Ask for a key, through to the source; true: the tier had it.  A wrong byte fails the test. */
static bool ask(freshet *cache, uint64_t key)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    static freshet_buf buf;
    char wanted[VALUE];

    EXPECT_EQ(freshet_load(cache, &key, sizeof key, NULL, value_load, &key, &buf, &answer), FRESHET_OK);
    value_make(wanted, key);
    EXPECT(buf.size == VALUE && memcmp(buf.data, wanted, VALUE) == 0);
    return answer.source == FRESHET_FROM_TIER;
}

/* So many questions for keys of which the lower are asked more often; the hits. */
static unsigned ask_hot(freshet *cache, unsigned count, unsigned keys, uint64_t *state)
{
    unsigned hits = 0;

    for (unsigned i = 0; i < count; i++) {
        double point = (double)(test_random(state) >> 11) * 0x1p-53;

        hits += ask(cache, (uint64_t)(keys * point * point));
        if (i % 256 == 255)
            EXPECT_EQ(freshet_flush(cache, 20000), FRESHET_OK);
    }
    return hits;
}

/* So many keys that were never asked for. */
static void ask_scan(freshet *cache, unsigned count, uint64_t *next)
{
    for (unsigned i = 0; i < count; i++) {
        EXPECT(!ask(cache, (*next)++));
        if (i % 256 == 255)
            EXPECT_EQ(freshet_flush(cache, 20000), FRESHET_OK);
    }
}

static void heavy(void)
{
    if (test_thread_sanitized())
        test_skip("too slow under ThreadSanitizer; pool_test of the unit suite has the races");
}

TEST_LONG(what_is_left_goes_where_it_saves_misses_and_the_minimum_stays, 240)
{
    const char *dirs[2] = {fresh_dir(), fresh_dir()}, *pool = fresh_dir();
    uint64_t next = 1ull << 40, state = 1, halves_state = 1;
    freshet *hot, *scan;
    struct watch *watch;
    double first, last;

    heavy();
    watch = watch_start(dirs, 2);
    hot = cache_open(dirs[0], pool, 3 * MIB);
    scan = cache_open(dirs[1], pool, 3 * MIB);
    ask_scan(scan, 30000, &next); /* it takes all that is left */
    EXPECT(host_stats(scan).pool_share > 10 * MIB);
    EXPECT(host_stats(hot).pool_share >= 3 * MIB);
    first = ask_hot(hot, 4000, 12000, &halves_state) / 4000.0;
    for (unsigned round = 0; round < 40 && host_stats(hot).pool_share < POOL - 3 * MIB - MIB / 2; round++) {
        (void)ask_hot(hot, 4000, 12000, &state);
        ask_scan(scan, 4000, &next);
    }
    last = ask_hot(hot, 8000, 12000, &state) / 8000.0;
    EXPECT(host_stats(hot).pool_share >= POOL - 3 * MIB - MIB / 2);
    EXPECT(host_stats(scan).pool_share >= 3 * MIB); /* whatever others want */
    EXPECT(host_stats(scan).pool_share <= 3 * MIB + MIB / 2);
    EXPECT(last > first + 0.2);
    EXPECT(host_stats(hot).memory + host_stats(scan).memory <= POOL);
    freshet_close(hot);
    freshet_close(scan);
    watch_end(watch, POOL);
}

TEST_LONG(what_an_idle_cache_holds_goes_to_a_busy_one, 120)
{
    const char *dirs[2] = {fresh_dir(), fresh_dir()}, *pool = fresh_dir();
    uint64_t next = 1, state = 1;
    freshet *busy, *idle;
    struct watch *watch;

    heavy();
    watch = watch_start(dirs, 2);
    idle = cache_open(dirs[0], pool, 3 * MIB);
    busy = cache_open(dirs[1], pool, 3 * MIB);
    ask_scan(idle, 20000, &next);
    EXPECT(host_stats(idle).memory > 9 * MIB);
    EXPECT(test_until((ask_hot(busy, 2000, 14000, &state), host_stats(busy).pool_share > POOL - 3 * MIB - MIB / 2),
                      60000));
    EXPECT(host_stats(idle).memory <= 3 * MIB);
    EXPECT(host_stats(idle).pool_share >= 3 * MIB);
    EXPECT(ask_hot(busy, 2000, 9000, &state) > 1000);
    freshet_close(busy);
    freshet_close(idle);
    watch_end(watch, POOL);
}

TEST_LONG(what_nobody_needs_is_had_at_once_and_without_evicting_anything, 120)
{
    const char *dirs[2] = {fresh_dir(), fresh_dir()}, *pool = fresh_dir();
    uint64_t next = 1, evictions;
    freshet *a, *b;

    heavy();
    a = cache_open(dirs[0], pool, 0);
    b = cache_open(dirs[1], pool, 0);
    ask_scan(a, 6000, &next);
    EXPECT_EQ(host_stats(a).evictions, 0); /* there was more, all along */
    ask_scan(b, 1000, &next);
    evictions = host_stats(b).evictions;
    EXPECT_EQ(evictions, 0);
    freshet_close(a);
    freshet_close(b);
}

TEST_LONG(the_memory_of_a_cache_without_a_process_stays_until_its_directory_is_gone, 120)
{
    const char *dirs[2] = {fresh_dir(), fresh_dir()}, *pool = fresh_dir();
    char command[600], name[300];
    uint64_t next = 1, held;
    freshet *cache, *probe;
    pid_t child;

    heavy();
    if ((child = test_fork()) == 0) {
        cache = cache_open(dirs[0], pool, 3 * MIB);
        ask_scan(cache, 8000, &next);
        (void)raise(SIGKILL);
    }
    (void)waitpid(child, NULL, 0);
    held = held_by(dirs[0]);
    EXPECT(held > 8 * MIB);
    cache = cache_open(dirs[1], pool, 3 * MIB);
    ask_scan(cache, 20000, &next);
    EXPECT_EQ(held_by(dirs[0]), held);
    EXPECT(held_by(dirs[1]) + held <= POOL);
    probe = cache_open(dirs[0], NULL, 0); /* all of it is still there, and in the pool */
    EXPECT_EQ(host_stats(probe).pool_size, POOL);
    EXPECT_EQ(host_stats(probe).pool_minimum, 3 * MIB);
    EXPECT(ask(probe, 7900));
    freshet_close(probe);
    snprintf(name, sizeof name, "%s", dirs[0]);
    snprintf(command, sizeof command, "rm -rf '%s'", name);
    EXPECT_EQ(system(command), 0);
    EXPECT(test_until((ask_scan(cache, 500, &next), held_by(dirs[1]) > POOL - 2 * MIB), 60000));
    EXPECT(held_by(dirs[1]) <= POOL);
    freshet_close(cache);
}

/* ---- a snapshot that pins what was freed ---- */

struct pinned {
    const char *dir, *pool;
};

/* While the view lasts no page can be used again: another process of the cache writes all the same. */
static void fill_beside(const freshet_piece *pieces, size_t count, const freshet_answer *answer, void *arg)
{
    const struct pinned *pinned = arg;

    (void)pieces, (void)count, (void)answer;
    IN_CHILD({
        freshet *cache = cache_open(pinned->dir, pinned->pool, 0);
        static char large[400 << 10];
        uint64_t next = 1 << 20;

        for (unsigned i = 0; i < 32; i++) { /* each a transaction that may add much */
            next++;
            EXPECT_EQ(freshet_put(cache, &next, sizeof next, large, sizeof large, NULL, NULL), FRESHET_OK);
            EXPECT(held_by(pinned->dir) <= host_stats(cache).pool_share);
        }
        for (unsigned i = 0; i < 256; i++) {
            ask_scan(cache, 32, &next);
            EXPECT_EQ(freshet_flush(cache, 20000), FRESHET_OK);
            EXPECT(held_by(pinned->dir) <= host_stats(cache).pool_share);
        }
        EXPECT(host_stats(cache).fills_dropped > 0);
        freshet_close(cache);
    });
}

TEST_LONG(a_share_is_not_exceeded_where_no_page_can_be_used_again, 120)
{
    const char *dirs[2] = {fresh_dir(), fresh_dir()}, *pool = fresh_dir();
    struct pinned pinned = {dirs[0], pool};
    freshet *cache, *other;
    uint64_t next = 1, key;

    heavy();
    other = cache_open(dirs[1], pool, 11 * MIB);
    cache = cache_open(dirs[0], pool, 0);
    ask_scan(cache, 8000, &next);
    EXPECT_EQ(freshet_flush(cache, 20000), FRESHET_OK);
    key = next - 3;
    EXPECT_EQ(freshet_view(cache, &key, sizeof key, NULL, fill_beside, &pinned), FRESHET_OK);
    EXPECT(held_by(dirs[0]) <= 5 * MIB);
    ask_scan(cache, 2000, &next); /* it goes on */
    EXPECT_EQ(freshet_flush(cache, 20000), FRESHET_OK);
    EXPECT(ask(cache, next - 3));
    freshet_close(cache);
    freshet_close(other);
}

/* ---- opening ---- */

TEST(who_opens_without_a_pool_is_in_it_all_the_same)
{
    const char *dir = fresh_dir(), *pool = fresh_dir(), *other = fresh_dir();
    freshet *a = cache_open(dir, pool, 4 * MIB), *b = NULL;

    IN_CHILD({
        freshet *c = cache_open(dir, NULL, 0);

        EXPECT_EQ(host_stats(c).pool_size, POOL);
        EXPECT_EQ(host_stats(c).pool_minimum, 4 * MIB);
        EXPECT(host_put(c, "k", "v") == FRESHET_OK);
        freshet_close(c);
        EXPECT_EQ(cache_try(&c, dir, other, 0), FRESHET_EBUSY); /* and cannot be in another */
        EXPECT(strstr(freshet_error(), "of another pool"));
    });
    EXPECT(host_gets(a, "k", "v"));
    EXPECT_EQ(cache_try(&b, dir, other, 0), FRESHET_EBUSY);
    EXPECT_EQ(cache_try(&b, dir, pool, 5 * MIB), FRESHET_EBUSY);
    EXPECT_EQ(cache_try(&b, dir, pool, 4 * MIB), FRESHET_OK);
    freshet_close(b);
    freshet_close(a);
    a = cache_open(dir, pool, 0);
    EXPECT(host_gets(a, "k", "v")); /* a restart keeps it */
    freshet_close(a);
    a = cache_open(dir, other, 0);
    EXPECT(!host_gets(a, "k", "v")); /* another pool begins anew */
    EXPECT_EQ(host_stats(a).entries, 0);
    freshet_close(a);
}

TEST(options_that_do_not_fit_are_refused)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    const char *dir = fresh_dir(), *pool = fresh_dir();
    freshet *cache = NULL, *b = NULL;

    options.dir = dir;
    options.pool_size = POOL;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL); /* of what pool? */
    options.pool = pool;
    options.pool_size = 1;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
    options.pool_size = 0;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
    EXPECT(strstr(freshet_error(), "give pool_size"));
    options.pool_size = POOL;
    options.tier_size = 2 * POOL;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
    options.tier_size = 0;
    options.pool_minimum = 1;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
    options.pool_minimum = 2 * POOL;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
    EXPECT(cache == NULL);
    options.pool_minimum = 12 * MIB;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    EXPECT_EQ(cache_try(&b, fresh_dir(), pool, 5 * MIB), FRESHET_EBUSY);
    EXPECT(strstr(freshet_error(), "pool_minimum"));
    EXPECT_EQ(host_stats(cache).pool_share, 12 * MIB);
    EXPECT_EQ(host_stats(cache).tier_size, POOL);
    freshet_close(cache);
}

TEST(a_tier_that_was_none_of_a_pool_is_begun_anew_in_one_and_leaves_no_memory)
{
    const char *dir = fresh_dir(), *pool = fresh_dir();
    freshet *cache = host_solo(dir, 0);
    uint64_t next = 1;

    ask_scan(cache, 7000, &next);
    EXPECT(held_by(dir) > 7 * MIB);
    freshet_close(cache);
    cache = cache_open(dir, pool, 0);
    EXPECT(held_by(dir) < 2 * MIB);
    freshet_close(cache);
}

/* ---- storms ---- */

/* One of the processes of two caches whose keys are hot by turns. */
_Noreturn static void storm_work(const char *dir, const char *pool, unsigned own)
{
    freshet *cache = cache_open(dir, pool, 3 * MIB);
    uint64_t state = (uint64_t)getpid(), next = state << 32;

    for (unsigned turn = own;; turn++) {
        if (turn % 2)
            (void)ask_hot(cache, 3000, 10000, &state);
        else
            ask_scan(cache, 3000, &next);
    }
}

TEST_LONG(caches_that_are_killed_all_the_time_stay_within_the_size, 240)
{
    const char *dirs[2] = {fresh_dir(), fresh_dir()}, *pool = fresh_dir();
    unsigned rounds = test_long_runs() ? 1000 : test_sanitized() ? 10 : 40;
    uint64_t state = 3, next = 1ull << 60;
    struct watch *watch;
    pid_t pids[4];
    freshet *cache;

    heavy();
    watch = watch_start(dirs, 2);
    for (unsigned i = 0; i < 4; i++)
        if ((pids[i] = test_fork()) == 0)
            storm_work(dirs[i % 2], pool, i);
    for (unsigned round = 0; round < rounds; round++) {
        unsigned i = (unsigned)(test_random(&state) % 4);
        uint64_t looks = watch->looks;

        EXPECT(test_until(watch->looks > looks + 20, 20000));
        test_kill(pids[i], SIGKILL);
        if ((pids[i] = test_fork()) == 0)
            storm_work(dirs[i % 2], pool, i);
    }
    for (unsigned i = 0; i < 4; i++)
        test_kill(pids[i], SIGKILL);
    cache = cache_open(dirs[0], pool, 3 * MIB); /* and goes on */
    ask_scan(cache, 2000, &next);
    EXPECT_EQ(freshet_flush(cache, 20000), FRESHET_OK);
    EXPECT(ask(cache, next - 5));
    freshet_close(cache);
    watch_end(watch, POOL);
}
