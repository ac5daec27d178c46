/*
 * fork_test.c - fork() before and after open, with and without a fleet; and descriptors that somebody closes.
 */
#include <hosts.h>
#include <test.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* With `redis` the tests are run in a fleet. */
static freshet *open_either(struct redis *redis)
{
    if (!redis)
        return host_solo(fresh_dir(), 2000);
    redis_start(redis, NULL);
    return host_join(fresh_dir(), redis, 2000);
}

static void close_either(freshet *cache, struct redis *redis)
{
    freshet_close(cache);
    if (redis)
        redis_stop(redis);
}

/* The cache works in this process: a change of each kind, each seen. */
static void expect_works(freshet *cache, const char *key)
{
    freshet_buf buf = {0};

    EXPECT_EQ(host_put(cache, key, "one"), FRESHET_OK);
    EXPECT(test_until(host_gets(cache, key, "one"), 10000));
    EXPECT_EQ(host_put(cache, key, "two"), FRESHET_OK);
    EXPECT(test_until(host_gets(cache, key, "two"), 10000));
    EXPECT_EQ(host_invalidate(cache, key), FRESHET_OK);
    EXPECT_EQ(host_get(cache, key, NULL, 0), FRESHET_MISS);
    EXPECT_EQ(freshet_load(cache, key, strlen(key), NULL, host_loader, "three", &buf, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_flush(cache, 10000), FRESHET_OK);
    EXPECT(test_until(host_gets(cache, key, "three"), 10000));
    freshet_buf_free(&buf);
}

static void fork_after_open(struct redis *redis)
{
    freshet *cache = open_either(redis);
    pid_t children[3];

    EXPECT_EQ(host_put(cache, "shared", "before"), FRESHET_OK);
    for (int i = 0; i < 3; i++)
        if ((children[i] = test_fork()) == 0) {
            char key[16];

            snprintf(key, sizeof key, "child%d", i);
            EXPECT(test_until(host_gets(cache, "shared", "before") || host_gets(cache, "shared", "after"), 10000));
            expect_works(cache, key);
            EXPECT_EQ(host_put(cache, key, "seen"), FRESHET_OK);
            IN_CHILD({ /* nested */
                       char own[24];

                       snprintf(own, sizeof own, "grandchild%d", i);
                       EXPECT(test_until(host_gets(cache, key, "seen"), 10000));
                       expect_works(cache, own);
                       freshet_close(cache);
            });
            expect_works(cache, key);
            EXPECT_EQ(host_put(cache, key, "seen"), FRESHET_OK);
            freshet_close(cache);
            test_child_done();
        }
    expect_works(cache, "parent");
    EXPECT_EQ(host_put(cache, "shared", "after"), FRESHET_OK);
    for (int i = 0; i < 3; i++) {
        char key[16];

        test_join(children[i]);
        snprintf(key, sizeof key, "child%d", i);
        EXPECT(test_until(host_gets(cache, key, "seen"), 10000));
    }
    expect_works(cache, "parent");
    EXPECT(host_gets(cache, "shared", "after"));
    close_either(cache, redis);
}

TEST(fork_after_open_leaves_both_working)
{
    fork_after_open(NULL);
}
TEST(fork_after_join_leaves_both_working)
{
    struct redis redis;

    fork_after_open(&redis);
}

TEST(fork_before_open_is_nothing_special)
{
    const char *dir = fresh_dir();
    pid_t child = test_fork();
    freshet *cache;

    cache = host_solo(dir, 0);
    if (child == 0) {
        expect_works(cache, "child");
        freshet_close(cache);
        test_child_done();
    }
    expect_works(cache, "parent");
    test_join(child);
    freshet_close(cache);
}

/* Leave in the ordinary way, with all exit handlers - but not a leak sanitizer's: what threads of the parent held is
 * nobody's here. */
static void leave_orderly(void)
{
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

    dup2(fd, 1);
    if (test_sanitized())
        test_child_done();
    exit(0);
}

static void child_that_never_calls(struct redis *redis)
{
    freshet *cache = open_either(redis);

    for (int i = 0; i < 10; i++) {
        IN_CHILD(leave_orderly());
        IN_CHILD(freshet_close(cache));
        expect_works(cache, "parent");
    }
    close_either(cache, redis);
}

TEST(a_child_that_only_exits_or_closes_does_no_harm)
{
    child_that_never_calls(NULL);
}
TEST(a_child_of_a_fleet_that_only_exits_or_closes_does_no_harm)
{
    struct redis redis;

    child_that_never_calls(&redis);
}

/* A thread that keeps the cache busy, so that forks happen in the midst of everything. */
struct busy {
    freshet *cache;
    _Atomic bool stop;
};

static void *keep_busy(void *arg)
{
    struct busy *busy = arg;
    char key[16];
    freshet_buf buf = {0};

    for (unsigned i = 0; !busy->stop; i++) {
        snprintf(key, sizeof key, "busy%u", i % 50);
        if (i % 4 == 0)
            (void)host_put(busy->cache, key, "x");
        else
            (void)freshet_load(busy->cache, key, strlen(key), NULL, host_loader, "y", &buf, NULL);
    }
    freshet_buf_free(&buf);
    return NULL;
}

static void fork_while_busy(struct redis *redis, int forks)
{
    struct busy busy = {0};
    pthread_t threads[3];

    busy.cache = open_either(redis);
    for (int i = 0; i < 3; i++)
        EXPECT(pthread_create(&threads[i], NULL, keep_busy, &busy) == 0);
    for (int i = 0; i < forks; i++)
        IN_CHILD({
            expect_works(busy.cache, "child");
            freshet_close(busy.cache);
        });
    busy.stop = true;
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    expect_works(busy.cache, "parent");
    close_either(busy.cache, redis);
}

TEST(fork_in_the_midst_of_calls_leaves_both_working)
{
    fork_while_busy(NULL, 30);
}
TEST(fork_in_the_midst_of_a_fleets_calls_leaves_both_working)
{
    struct redis redis;

    fork_while_busy(&redis, 15);
}

TEST(the_parent_may_close_first)
{
    const char *dir = fresh_dir();
    freshet *cache = host_solo(dir, 0);
    int go[2];
    pid_t child;
    char byte;

    EXPECT(pipe(go) == 0);
    child = test_fork();
    if (child == 0) {
        EXPECT(read(go[0], &byte, 1) == 1);
        expect_works(cache, "child");
        freshet_close(cache);
        test_child_done();
    }
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    freshet_close(cache);
    EXPECT(write(go[1], "g", 1) == 1);
    test_join(child);
    cache = host_solo(dir, 0);
    expect_works(cache, "again");
    freshet_close(cache);
}

/* ---- descriptors ---- */

static void close_from_3(void)
{
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
}

static void child_closes_descriptors(struct redis *redis)
{
    freshet *cache = open_either(redis);

    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    for (int i = 0; i < 5; i++)
        IN_CHILD({
            close_from_3();
            EXPECT(test_until(host_gets(cache, "k", "v"), 10000));
            expect_works(cache, "child");
            freshet_close(cache);
        });
    expect_works(cache, "parent");
    EXPECT(host_gets(cache, "k", "v"));
    close_either(cache, redis);
}

TEST(a_child_that_closes_all_descriptors_keeps_working)
{
    child_closes_descriptors(NULL);
}
TEST(a_child_of_a_fleet_that_closes_all_descriptors_keeps_working)
{
    struct redis redis;

    child_closes_descriptors(&redis);
}

/* The process itself closes what it does not know, and its own files get those numbers. */
static void own_process_closes_descriptors(struct redis *redis)
{
    freshet *cache = open_either(redis);
    const char *dir = fresh_dir();
    int files[40];
    char path[400], byte;
    struct stat stat_;
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    int64_t end;
    unsigned worked = 0;

    if (test_thread_sanitized() && redis)
        test_skip("to the thread sanitizer what is tested here is a race, and rightly so");
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    EXPECT_EQ(freshet_flush(cache, 5000), FRESHET_OK);
    close_from_3();
    for (int i = 0; i < 40; i++) {
        snprintf(path, sizeof path, "%s/file%d", dir, i);
        files[i] = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        EXPECT(files[i] >= 3 && write(files[i], "!", 1) == 1);
    }
    options.deadline_ms = 500;
    end = test_now_ns() + 3000 * 1000000LL;
    for (int i = 0; test_now_ns() < end; i++) {
        char key[16];
        freshet_result put;
        freshet_result get;

        snprintf(key, sizeof key, "k%d", i % 50);
        put = freshet_put(cache, key, strlen(key), "value", 5, &options, NULL);
        if (put != FRESHET_OK && put != FRESHET_QUEUED && put != FRESHET_EIO && put != FRESHET_ENET)
            test_failed(__FILE__, __LINE__, freshet_error());
        get = host_get(cache, key, NULL, 0);
        EXPECT(get == FRESHET_OK || get == FRESHET_MISS || get == FRESHET_EIO);
        worked += put == FRESHET_OK && get == FRESHET_OK;
        test_pause();
    }
    freshet_close(cache);
    for (int i = 0; i < 40; i++) {
        EXPECT(fstat(files[i], &stat_) == 0); /* ours, still open */
        snprintf(path, sizeof path, "%s/file%d", dir, i);
        EXPECT(stat_.st_size == 1 && pread(files[i], &byte, 1, 0) == 1 && byte == '!');
        EXPECT(lseek(files[i], 0, SEEK_CUR) == 1);
    }
    EXPECT(worked > 0); /* it has mended itself */
    cache = redis ? host_join(fresh_dir(), redis, 2000) : host_solo(fresh_dir(), 0);
    expect_works(cache, "new");
    close_either(cache, redis);
    test_child_done(); /* no look for leaks: what stood behind the lost descriptors is left alone on purpose */
}

/* Another host of the fleet, which keeps everybody's network threads busy until it is killed. */
static pid_t busy_host(struct redis *redis)
{
    pid_t child = test_fork();
    freshet *cache;

    if (child != 0)
        return child;
    cache = host_join(fresh_dir(), redis, 100);
    for (;;)
        (void)host_invalidate(cache, "k");
}

/* Whatever the network thread is at in that moment, between its look at a descriptor and the use of it too. */
TEST_LONG(there_is_no_moment_when_closing_all_descriptors_ends_the_process, 120)
{
    struct redis redis;
    freshet *cache;
    pid_t busy;

    if (test_thread_sanitized())
        test_skip("to the thread sanitizer what is tested here is a race, and rightly so");
    test_leaves(); /* what stood behind the lost descriptors is left alone on purpose */
    redis_start(&redis, NULL);
    busy = busy_host(&redis);
    cache = host_join(fresh_dir(), &redis, 100);
    for (int round = 0; round < 500; round++) {
        close_from_3();
        EXPECT(test_until(host_put(cache, "other", "value") == FRESHET_OK, 10000));
    }
    test_kill(busy, SIGKILL);
    expect_works(cache, "after");
    close_either(cache, &redis);
}

TEST(a_process_that_closes_all_its_descriptors_survives_and_its_files_stay_its_own)
{
    own_process_closes_descriptors(NULL);
}
TEST(a_process_of_a_fleet_that_closes_all_its_descriptors_survives_and_its_files_stay_its_own)
{
    struct redis redis;

    own_process_closes_descriptors(&redis);
}

static void descriptors_end_at_exec(struct redis *redis)
{
    freshet *cache;
    int told[2], status;
    char list[512] = "";
    ssize_t size;
    pid_t child;

    cache = open_either(redis);
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    EXPECT(test_until(host_gets(cache, "k", "v"), 5000));
    EXPECT(pipe2(told, O_CLOEXEC) == 0);
    child = test_fork();
    if (child == 0) {
        dup2(told[1], 1);
        execlp("sh", "sh", "-c", "for f in /proc/$$/fd/*; do readlink $f; done; true", (char *)NULL);
        _exit(1);
    }
    close(told[1]);
    while ((size = read(told[0], list + strlen(list), sizeof list - 1 - strlen(list))) > 0)
        continue;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
    EXPECT(list[0] && !strstr(list, "control") && !strstr(list, "map") && !strstr(list, "lock") &&
           !strstr(list, "event"));
    EXPECT(!redis || !strstr(list, "socket:"));
    close(told[0]);
    close_either(cache, redis);
}

TEST(no_descriptor_of_the_library_outlives_exec)
{
    descriptors_end_at_exec(NULL);
}
TEST(no_descriptor_of_a_fleet_outlives_exec)
{
    struct redis redis;

    descriptors_end_at_exec(&redis);
}
