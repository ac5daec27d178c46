/* pool_test.c - several caches share one size: who is in, who keeps what, how pages change hands, and that nobody's
 * death or garbage makes the shares more than there is. */
#include <test.h>

#include <clock.h>
#include <fcntl.h>
#include <log.h>
#include <pool.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <step.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1ull << 20)
#define SIZE (16 * MIB)
#define PAGES (SIZE / POOL_PAGE)
#define LEAST 256u
#define SETTLED(held) ((held) + (held) / 64 + 64) /* what is left to a cache without a process */
#define SLOT_AT(i) (512 + (off_t)(i)*448) /* in the file */
#define SLOT_MINIMUM 32
#define SLOT_SHARE 48
#define SLOT_TARGET 56

/* A cache of the pool, without any of its inside. */
struct stage {
    struct dir dir;
    struct pool *pool;
};

static int64_t soon(void)
{
    return clock_boot_ns() + 20 * CLOCK_NS_PER_MS;
}

/* A file of so many pages stands for what a cache holds. */
static void hold(const char *path, uint64_t pages)
{
    char name[256];
    int fd;

    snprintf(name, sizeof name, "%s/control", path);
    fd = open(name, O_RDWR | O_CREAT, 0600);
    EXPECT(fd >= 0);
    EXPECT_EQ(ftruncate(fd, 0), 0);
    EXPECT_EQ(posix_fallocate(fd, 0, (off_t)(pages * POOL_PAGE)), 0);
    close(fd);
}

static freshet_result stage_try(struct stage *stage, const char *pool, const char *path, uint64_t size,
                                uint64_t minimum)
{
    struct pool_member member = {.dir = &stage->dir, .minimum = minimum, .least = LEAST, .most = PAGES};
    freshet_result result;

    *stage = (struct stage){0};
    EXPECT_EQ(dir_open(&stage->dir, path, NULL), FRESHET_OK);
    if ((result = pool_open(&stage->pool, pool, size, soon())) == FRESHET_OK)
        result = pool_join(stage->pool, &member, soon());
    return result;
}

static void stage_open(struct stage *stage, const char *pool, const char *path, uint64_t minimum)
{
    freshet_result result = stage_try(stage, pool, path, SIZE, minimum);

    if (result != FRESHET_OK)
        fprintf(stderr, "%s\n", freshet_error());
    EXPECT_EQ(result, FRESHET_OK);
}

static void stage_close(struct stage *stage)
{
    pool_close(stage->pool);
    dir_close(&stage->dir);
}

/* Be alive, and have earned so much. */
static void earn(struct stage *stage, uint64_t hits)
{
    pool_tend(stage->pool, 0);
    pool_earn(stage->pool, hits, 16);
}

/* A word of a slot, from outside. */
static uint64_t *slot_word(const char *pool, unsigned slot, unsigned at, uint64_t *set)
{
    static uint64_t word;
    char name[256];
    int fd;

    snprintf(name, sizeof name, "%s/pool", pool);
    fd = open(name, O_RDWR);
    EXPECT(fd >= 0);
    if (set)
        EXPECT_EQ(pwrite(fd, set, sizeof *set, SLOT_AT(slot) + at), sizeof *set);
    EXPECT_EQ(pread(fd, &word, sizeof word, SLOT_AT(slot) + at), sizeof word);
    close(fd);
    return &word;
}

/* What all slots that are taken have together. */
static uint64_t shares(const char *pool)
{
    uint64_t all = 0;

    for (unsigned i = 0; i < POOL_SLOTS; i++)
        if (*slot_word(pool, i, 0, NULL))
            all += *slot_word(pool, i, SLOT_SHARE, NULL);
    return all;
}

TEST(a_cache_comes_with_its_minimum_and_leaves_nothing_behind_that_it_does_not_hold)
{
    const char *pool = fresh_dir(), *home = fresh_dir();
    struct stage a, b;

    stage_open(&a, pool, home, 1024);
    EXPECT_EQ(pool_share(a.pool), 1024);
    EXPECT_EQ(pool_minimum(a.pool), 1024);
    EXPECT_EQ(pool_free(a.pool), PAGES - 1024);
    stage_open(&b, pool, fresh_dir(), 0);
    EXPECT_EQ(pool_share(b.pool), LEAST);
    EXPECT_EQ(pool_free(b.pool), PAGES - 1024 - LEAST);
    EXPECT(pool_ask(a.pool, 1000));
    EXPECT_EQ(pool_share(a.pool), 2024);
    hold(home, 1500);
    stage_close(&a);
    EXPECT_EQ(pool_free(b.pool), PAGES - SETTLED(1500) - LEAST); /* what it holds */
    hold(home, 100);
    stage_open(&a, pool, home, 0); /* the minimum is remembered */
    EXPECT_EQ(pool_minimum(a.pool), 1024);
    stage_close(&a);
    EXPECT_EQ(pool_free(b.pool), PAGES - 1024 - LEAST); /* or keeps */
    stage_open(&a, pool, home, 0);
    EXPECT_EQ(unlinkat(a.dir.fd, "control", 0), 0);
    stage_close(&a);
    EXPECT_EQ(pool_free(b.pool), PAGES - LEAST); /* a directory without files is no cache's */
    stage_close(&b);
}

TEST(what_does_not_fit_is_refused_with_the_reason)
{
    const char *pool = fresh_dir(), *home = fresh_dir();
    struct stage a, b;

    EXPECT_EQ(stage_try(&a, pool, home, 0, 0), FRESHET_EINVAL); /* no pool yet, and no size */
    EXPECT(strstr(freshet_error(), "give pool_size"));
    stage_close(&a);
    stage_open(&a, pool, home, 3000);
    EXPECT_EQ(stage_try(&b, pool, fresh_dir(), 2 * SIZE, 0), FRESHET_EBUSY);
    EXPECT(strstr(freshet_error(), "has 16777216 bytes, not 33554432"));
    stage_close(&b);
    EXPECT_EQ(stage_try(&b, pool, fresh_dir(), 0, PAGES - 3000 + 1), FRESHET_EBUSY);
    EXPECT(strstr(freshet_error(), "keep 12288000 as their minimums"));
    stage_close(&b);
    EXPECT_EQ(stage_try(&b, pool, fresh_dir(), 0, PAGES + 1), FRESHET_EINVAL);
    stage_close(&b);
    EXPECT_EQ(stage_try(&b, pool, fresh_dir(), 0, LEAST - 1), FRESHET_EINVAL);
    EXPECT(strstr(freshet_error(), "with nothing in it"));
    stage_close(&b);
    EXPECT_EQ(stage_try(&b, pool, home, 0, 3001), FRESHET_EBUSY); /* in use with another */
    EXPECT(strstr(freshet_error(), "in use with a pool_minimum"));
    stage_close(&b);
    stage_open(&b, pool, fresh_dir(), PAGES - 3000); /* just so many: nobody who failed has left anything */
    EXPECT_EQ(pool_free(b.pool), 0);
    stage_close(&b);
    stage_close(&a);
}

TEST(pages_go_from_who_earns_less_to_who_earns_more_and_never_below_a_minimum)
{
    const char *pool = fresh_dir();
    struct stage a, b;

    stage_open(&a, pool, fresh_dir(), 1000);
    stage_open(&b, pool, fresh_dir(), 1000);
    EXPECT(pool_ask(b.pool, PAGES)); /* all that is free */
    EXPECT_EQ(pool_share(b.pool), PAGES - 1000);
    EXPECT(!pool_ask(a.pool, 100)); /* who has earned nothing gets nothing */
    EXPECT_EQ(pool_target(b.pool), pool_share(b.pool));
    earn(&b, 100);
    (void)pool_ask(b.pool, 1);
    earn(&a, 110);
    EXPECT(!pool_ask(a.pool, 100)); /* nor who has earned about the same */
    EXPECT_EQ(pool_target(b.pool), pool_share(b.pool));
    earn(&a, 500);
    EXPECT(!pool_ask(a.pool, 100)); /* it has first to be given */
    EXPECT(pool_target(b.pool) < PAGES - 1000 - 100); /* more with each time, up to an eighth of all */
    earn(&a, 500);
    (void)pool_ask(a.pool, 100);
    EXPECT_EQ(pool_target(b.pool), PAGES - 1000 - PAGES / 8);
    EXPECT_EQ(pool_share(b.pool), PAGES - 1000);
    EXPECT(!pool_ask(b.pool, 50)); /* who is to give gets nothing */
    EXPECT(!pool_give(b.pool, PAGES - 1000 - 40)); /* as much as it could do without */
    EXPECT_EQ(pool_share(b.pool), PAGES - 1000 - 40);
    EXPECT_EQ(pool_free(a.pool), 40);
    EXPECT(pool_give(b.pool, 0));
    EXPECT_EQ(pool_share(b.pool), PAGES - 1000 - PAGES / 8);
    EXPECT(!pool_ask(b.pool, 50)); /* who earns more comes first */
    EXPECT(pool_ask(a.pool, 100));
    EXPECT_EQ(pool_share(a.pool), 1000 + PAGES / 8);
    for (int i = 0; i < 100; i++) {
        earn(&a, 5000);
        (void)pool_ask(a.pool, PAGES);
        (void)pool_give(b.pool, 0);
    }
    EXPECT_EQ(pool_share(b.pool), 1000);
    EXPECT_EQ(pool_share(a.pool), PAGES - 1000);
    stage_close(&b);
    stage_close(&a);
}

TEST(what_can_be_spared_goes_without_any_earning)
{
    const char *pool = fresh_dir();
    struct stage a, b;

    stage_open(&a, pool, fresh_dir(), 1000);
    stage_open(&b, pool, fresh_dir(), 1000);
    EXPECT(pool_ask(b.pool, PAGES));
    EXPECT(!pool_hopeful(a.pool));
    pool_spare(b.pool, 500);
    EXPECT(pool_hopeful(a.pool));
    (void)pool_ask(a.pool, 300);
    EXPECT_EQ(pool_target(b.pool), PAGES - 1000 - 300);
    (void)pool_ask(a.pool, 800);
    EXPECT_EQ(pool_target(b.pool), PAGES - 1000 - 500); /* so much, and once */
    EXPECT(pool_give(b.pool, 0));
    EXPECT(pool_ask(a.pool, 800));
    EXPECT_EQ(pool_share(a.pool), 1500);
    stage_close(&b);
    stage_close(&a);
}

TEST(who_lacks_its_minimum_gets_it_whatever_others_have_earned)
{
    const char *pool = fresh_dir(), *home = fresh_dir();
    struct stage a, b;
    pid_t child;

    stage_open(&b, pool, fresh_dir(), 1000);
    earn(&b, 10000);
    EXPECT(pool_ask(b.pool, PAGES));
    EXPECT_EQ(pool_free(b.pool), 0);
    child = test_fork();
    if (child == 0) { /* waits at the door until it is given what it needs */
        struct pool_member member = {.dir = &a.dir, .minimum = 2000, .least = LEAST, .most = PAGES};

        EXPECT_EQ(dir_open(&a.dir, home, NULL), FRESHET_OK);
        EXPECT_EQ(pool_open(&a.pool, pool, 0, clock_boot_ns() + 30 * CLOCK_NS_PER_S), FRESHET_OK);
        EXPECT_EQ(pool_join(a.pool, &member, clock_boot_ns() + 30 * CLOCK_NS_PER_S), FRESHET_OK);
        EXPECT(pool_share(a.pool) >= LEAST);
        EXPECT(test_until((pool_tend(a.pool, 0), (void)pool_ask(a.pool, 1), pool_share(a.pool) >= 2000), 20000));
        hold(home, 10);
        test_child_done();
    }
    EXPECT(test_until((pool_tend(b.pool, 0), (void)pool_ask(b.pool, 64), pool_target(b.pool) < pool_share(b.pool)),
                      20000));
    EXPECT(test_until((pool_tend(b.pool, 0), (void)pool_give(b.pool, 0), pool_share(b.pool) == PAGES - 2000), 20000));
    test_join(child);
    stage_close(&b);
}

TEST(who_is_at_the_door_too_long_is_told_why)
{
    const char *pool = fresh_dir(), *home = fresh_dir();
    struct stage a, b;

    stage_open(&b, pool, fresh_dir(), 1000);
    EXPECT(pool_ask(b.pool, PAGES));
    EXPECT_EQ(stage_try(&a, pool, home, 0, 2000), FRESHET_EBUSY); /* nobody gives */
    EXPECT(strstr(freshet_error(), "has no room yet"));
    stage_close(&a);
    EXPECT(pool_give(b.pool, 0));
    hold(home, 3000); /* a directory with more in it than there is room for */
    EXPECT_EQ(stage_try(&a, pool, home, 0, 2000), FRESHET_MISS);
    stage_close(&a);
    stage_close(&b);
}

/* ---- the dead ---- */

TEST(the_dead_keep_what_they_hold_until_their_directory_is_gone)
{
    const char *pool = fresh_dir(), *home = fresh_dir();
    struct stage a, b, c;
    pid_t child = test_fork();
    char name[256];

    if (child == 0) {
        stage_open(&a, pool, home, 1000);
        hold(home, 1200);
        EXPECT(pool_ask(a.pool, 2000));
        EXPECT_EQ(pool_share(a.pool), 3000);
        (void)raise(SIGSTOP);
    }
    EXPECT(test_until(waitpid(child, NULL, WUNTRACED | WNOHANG) == child, 20000));
    stage_open(&b, pool, fresh_dir(), 500); /* while it lives its share is its own, stopped or not */
    EXPECT_EQ(pool_free(b.pool), PAGES - 3500);
    test_kill(child, SIGKILL);
    stage_open(&c, pool, fresh_dir(), 500); /* now it is what its files hold */
    EXPECT_EQ(pool_free(c.pool), PAGES - SETTLED(1200) - 1000);
    stage_close(&c);
    snprintf(name, sizeof name, "%s/control", home);
    EXPECT_EQ(unlink(name), 0);
    snprintf(name, sizeof name, "%s/lock", home);
    EXPECT_EQ(unlink(name), 0);
    EXPECT_EQ(rmdir(home), 0);
    stage_open(&c, pool, fresh_dir(), 500);
    EXPECT_EQ(pool_free(c.pool), PAGES - 1000); /* nothing, not even the minimum */
    stage_close(&c);
    stage_close(&b);
}

static const char *die_at;

static void die(const char *point)
{
    if (strcmp(point, die_at) == 0)
        (void)raise(SIGKILL);
}

/* Everything that a cache does in a pool, beside one with all that it does not have. */
static void live(const char *pool, const char *home, const char *other)
{
    uint64_t target = 400;
    struct stage a, b;

    stage_open(&b, pool, other, 300);
    stage_open(&a, pool, home, 300);
    hold(home, 200);
    (void)pool_ask(a.pool, 500);
    (void)pool_ask(b.pool, PAGES);
    earn(&a, 100000);
    (void)pool_ask(a.pool, PAGES);
    (void)pool_give(b.pool, 0);
    (void)pool_ask(a.pool, PAGES);
    (void)slot_word(pool, 1, SLOT_TARGET, &target); /* the second that came */
    (void)pool_give(a.pool, 0);
    EXPECT_EQ(unlinkat(a.dir.fd, "control", 0), 0);
    stage_close(&a);
    stage_close(&b);
}

TEST(whoever_dies_at_any_step_costs_nobody_a_page)
{
    static const char *const points[] = {"pool_written", "pool_slot_claimed", "pool_growing",    "pool_asking",
                                         "pool_giving",  "pool_given",        "pool_slot_freed", ""};

    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        const char *pool = fresh_dir(), *home = fresh_dir(), *other = fresh_dir();
        pid_t child = test_fork();
        struct stage a, b;
        int status;

        if (child == 0) {
            die_at = points[i];
            atomic_store(&step_hook, die);
            live(pool, home, other);
            test_child_done();
        }
        EXPECT_EQ(waitpid(child, &status, 0), child);
        EXPECT(points[i][0] ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
                            : WIFEXITED(status) && WEXITSTATUS(status) == 0);
        if (i > 0)
            EXPECT(shares(pool) <= PAGES);
        stage_open(&a, pool, home, 300); /* as if nothing had been */
        stage_open(&b, pool, other, 300);
        EXPECT(shares(pool) <= PAGES);
        for (unsigned round = 0; round < 3; round++) {
            (void)pool_give(b.pool, 0);
            earn(&a, 1);
            (void)pool_ask(a.pool, PAGES);
            (void)pool_give(b.pool, 0);
            earn(&b, 1000000);
            (void)pool_ask(b.pool, PAGES);
            (void)pool_give(a.pool, 0);
        }
        (void)pool_ask(b.pool, PAGES);
        EXPECT_EQ(pool_share(a.pool), 300);
        EXPECT_EQ(pool_share(b.pool), PAGES - 300);
        stage_close(&a);
        stage_close(&b);
    }
}

struct crowd {
    const char *pool, *homes[4];
};

/* Ask and give, for ever. */
_Noreturn static void crowd_member(const struct crowd *crowd, unsigned i)
{
    uint64_t state = (uint64_t)getpid();
    struct stage a;

    if (stage_try(&a, crowd->pool, crowd->homes[i], SIZE, 300) != FRESHET_OK)
        test_child_done(); /* the crowd is thick just now */
    hold(crowd->homes[i], 200);
    for (;;) {
        uint64_t dice = test_random(&state);

        earn(&a, dice % 1000);
        (void)pool_ask(a.pool, dice >> 10 & 1023);
        if (pool_target(a.pool) < pool_share(a.pool))
            (void)pool_give(a.pool, 200 + (dice >> 20 & 1023));
        EXPECT(pool_share(a.pool) >= 200);
    }
}

TEST_LONG(a_crowd_that_is_killed_all_the_time_never_has_more_than_there_is, 120)
{
    struct crowd crowd = {.pool = fresh_dir()};
    unsigned rounds = test_long_runs() ? 2000 : test_sanitized() ? 20 : 60;
    uint64_t state = 1;
    pid_t pids[4];
    struct stage last;
    struct dir lock;

    EXPECT_EQ(dir_open(&lock, crowd.pool, NULL), FRESHET_OK);
    for (unsigned i = 0; i < 4; i++)
        crowd.homes[i] = fresh_dir();
    stage_open(&last, crowd.pool, fresh_dir(), 300);
    for (unsigned i = 0; i < 4; i++)
        if ((pids[i] = test_fork()) == 0)
            crowd_member(&crowd, i);
    for (unsigned round = 0; round < rounds; round++) {
        unsigned i = (unsigned)(test_random(&state) % 4);

        for (unsigned look = 0; look < 5; look++) { /* under the lock: nothing changes hands while it is added up */
            EXPECT_EQ(dir_lock(&lock, clock_boot_ns() + 20 * CLOCK_NS_PER_S), FRESHET_OK);
            EXPECT(shares(crowd.pool) <= PAGES);
            dir_unlock(&lock);
        }
        test_kill(pids[i], SIGKILL);
        if ((pids[i] = test_fork()) == 0)
            crowd_member(&crowd, i);
    }
    for (unsigned i = 0; i < 4; i++)
        test_kill(pids[i], SIGKILL);
    EXPECT(shares(crowd.pool) <= PAGES);
    dir_close(&lock);
    stage_close(&last);
}

/* ---- garbage ---- */

static void file_write(const char *pool, off_t at, const void *bytes, size_t size)
{
    char name[256];
    int fd;

    snprintf(name, sizeof name, "%s/pool", pool);
    fd = open(name, O_RDWR);
    EXPECT(fd >= 0);
    EXPECT_EQ(pwrite(fd, bytes, size, at), (long)size);
    close(fd);
}

TEST(a_file_that_is_no_pool_is_refused_and_left_alone)
{
    for (unsigned at = 0; at < 512; at += 4) {
        const char *pool = fresh_dir();
        struct stage a, b;

        stage_open(&a, pool, fresh_dir(), 300);
        file_write(pool, at, "?!?", 3);
        EXPECT_EQ(stage_try(&b, pool, fresh_dir(), SIZE, 300), FRESHET_EDIR);
        EXPECT(strstr(freshet_error(), "cannot be used"));
        stage_close(&b);
        EXPECT(pool_ask(a.pool, 100)); /* who is in stays in */
        stage_close(&a);
    }
}

TEST(a_pool_file_of_others_is_refused)
{
    const char *pool = fresh_dir();
    char name[256], second[256];
    struct stage a;

    stage_open(&a, pool, fresh_dir(), 300);
    stage_close(&a);
    snprintf(name, sizeof name, "%s/pool", pool);
    snprintf(second, sizeof second, "%s/second", pool);
    EXPECT_EQ(chmod(name, 0644), 0);
    EXPECT_EQ(stage_try(&a, pool, fresh_dir(), SIZE, 300), FRESHET_EDIR);
    stage_close(&a);
    EXPECT_EQ(chmod(name, 0600), 0);
    EXPECT_EQ(link(name, second), 0);
    EXPECT_EQ(stage_try(&a, pool, fresh_dir(), SIZE, 300), FRESHET_EDIR);
    stage_close(&a);
    EXPECT_EQ(unlink(name), 0);
    EXPECT_EQ(symlink(second, name), 0);
    EXPECT_EQ(stage_try(&a, pool, fresh_dir(), SIZE, 300), FRESHET_EIO);
    stage_close(&a);
    EXPECT_EQ(unlink(name), 0);
    EXPECT_EQ(truncate(second, 1000), 0);
    EXPECT_EQ(rename(second, name), 0);
    EXPECT_EQ(stage_try(&a, pool, fresh_dir(), SIZE, 300), FRESHET_EDIR);
    EXPECT(strstr(freshet_error(), "another size"));
    stage_close(&a);
}

TEST(garbage_in_the_slots_is_clamped_and_mended)
{
    const char *pool = fresh_dir();
    uint64_t state = 7, words[56];
    struct stage a, b;

    stage_open(&a, pool, fresh_dir(), 300);
    stage_open(&b, pool, fresh_dir(), 300);
    for (unsigned round = 0; round < 2000; round++) {
        unsigned slot = (unsigned)(test_random(&state) % POOL_SLOTS);

        for (unsigned i = 0; i < 56; i++)
            words[i] = test_random(&state) >> test_random(&state) % 64;
        if (slot < 2) /* that these are a's and b's stays */
            file_write(pool, SLOT_AT(slot) + SLOT_MINIMUM, words, sizeof words - SLOT_MINIMUM);
        else
            file_write(pool, SLOT_AT(slot), words, sizeof words);
        EXPECT(pool_share(a.pool) <= PAGES && pool_target(a.pool) <= pool_share(a.pool));
        EXPECT(pool_free(a.pool) <= PAGES);
        (void)pool_hopeful(a.pool);
        earn(&a, test_random(&state));
        (void)pool_ask(a.pool, test_random(&state) % PAGES);
        EXPECT(pool_share(a.pool) <= PAGES);
        (void)pool_give(b.pool, test_random(&state) % PAGES);
        EXPECT(pool_share(b.pool) <= PAGES);
    }
    memset(words, 0, sizeof words);
    for (unsigned i = 2; i < POOL_SLOTS; i++)
        file_write(pool, SLOT_AT(i), words, sizeof words);
    words[0] = 300;
    for (unsigned i = 0; i < 2; i++)
        (void)slot_word(pool, i, SLOT_MINIMUM, words);
    words[0] = PAGES; /* both say that they have all */
    for (unsigned i = 0; i < 2; i++) {
        (void)slot_word(pool, i, SLOT_SHARE, words);
        (void)slot_word(pool, i, SLOT_TARGET, words);
    }
    for (unsigned i = 0; i < 4; i++) {
        earn(&a, 10);
        (void)pool_give(a.pool, 400);
        earn(&b, 10);
        (void)pool_give(b.pool, 400);
    }
    EXPECT(shares(pool) <= PAGES);
    stage_close(&a);
    stage_close(&b);
}

TEST(descriptors_that_the_program_has_closed_are_opened_again)
{
    const char *pool = fresh_dir(), *home = fresh_dir();
    struct stage a, b;

    stage_open(&a, pool, home, 300);
    hold(home, 200);
    for (int fd = 3; fd < 64; fd++)
        if (fd != a.dir.fd && fd != a.dir.lock_fd)
            (void)close(fd);
    EXPECT(!pool_ask(a.pool, 100)); /* without its lock nothing is changed */
    EXPECT(pool_give(a.pool, 0)); /* nor waited for */
    EXPECT_EQ(pool_share(a.pool), 300);
    pool_tend(a.pool, 0);
    EXPECT(pool_ask(a.pool, 100));
    stage_open(&b, pool, fresh_dir(), 300); /* and the slot is held again */
    EXPECT_EQ(pool_free(b.pool), PAGES - 700);
    stage_close(&b);
    stage_close(&a);
}

TEST(all_slots_taken_is_an_error_that_says_so)
{
    static struct stage stages[POOL_SLOTS];
    struct stage one_more;
    char pool[256];

    snprintf(pool, sizeof pool, "%s", fresh_dir());
    for (unsigned i = 0; i < POOL_SLOTS; i++)
        EXPECT_EQ(stage_try(&stages[i], pool, fresh_dir(), POOL_SLOTS * 2ull * LEAST * POOL_PAGE, 0), FRESHET_OK);
    EXPECT_EQ(stage_try(&one_more, pool, fresh_dir(), 0, 0), FRESHET_EBUSY);
    EXPECT(strstr(freshet_error(), "no more are possible"));
    stage_close(&one_more);
    for (unsigned i = 0; i < POOL_SLOTS; i++)
        stage_close(&stages[i]);
}

TEST(pages_can_be_given_back_here)
{
    struct dir dir;

    EXPECT_EQ(dir_open(&dir, fresh_dir(), NULL), FRESHET_OK);
    EXPECT_EQ(pool_can_give(&dir), FRESHET_OK);
    dir_close(&dir);
}

TEST(a_cache_that_was_moved_is_found_where_it_is)
{
    const char *pool = fresh_dir(), *home = fresh_dir();
    char moved[300];
    struct stage a, b;

    stage_open(&a, pool, home, 300);
    hold(home, 1000);
    stage_close(&a);
    snprintf(moved, sizeof moved, "%s-moved", home);
    EXPECT(rename(home, moved) == 0);
    stage_open(&a, pool, moved, 300); /* the same directory under another name */
    stage_close(&a);
    stage_open(&b, pool, fresh_dir(), 300);
    EXPECT(pool_free(b.pool) <= PAGES - 1000 - 300);
    stage_close(&b);
    EXPECT(rename(moved, home) == 0);
}
