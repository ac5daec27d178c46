/*
 * many_test.c - many processes, and what happens around them: servers that fork before and after their open, workers
 * that are recycled, other PID namespaces, a small file system, files that go or are replaced, another LMDB, a rolling
 * restart.
 */
#include "torture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROCESSES 64u

/* ---- sixty-four at once ---- */

TEST_LONG(sixty_four_processes_open_read_fill_and_die_at_random, 300)
{
    struct torture *torture = torture_open(fresh_dir(), NULL, 8u << 20, TORTURE_WORKERS);
    unsigned rounds = test_long_runs() ? 20000 : 300;
    pid_t pids[PROCESSES];
    uint64_t seed = 21;

    if (test_sanitized())
        rounds = 100;
    /* Two of each worker's number: both change rows of their own, so each is told apart by its half of them. */
    for (unsigned i = 0; i < PROCESSES; i++)
        if ((pids[i] = test_fork()) == 0) {
            if (i < TORTURE_WORKERS)
                torture_work(torture, i, i);
            for (freshet *cache = torture_join(torture);;) { /* the others only read, and open and close more */
                for (unsigned n = 0; n < 50; n++)
                    (void)torture_read(torture, cache, (unsigned)(test_random(&seed) % TORTURE_ROWS), n % 4 == 0);
                freshet_close(cache);
                cache = torture_join(torture);
            }
        }
    EXPECT(test_until(torture->opens >= PROCESSES, 60000));
    for (unsigned round = 0; round < rounds; round++) {
        unsigned victim = (unsigned)(test_random(&seed) % PROCESSES);

        test_kill(pids[victim], SIGKILL);
        if ((pids[victim] = test_fork()) == 0)
            torture_work(torture, victim % TORTURE_WORKERS, seed + round);
        if (victim < TORTURE_WORKERS) /* its number is one process's at a time */
            continue;
        test_kill(pids[victim], SIGKILL);
        if ((pids[victim] = test_fork()) == 0)
            for (freshet *cache = torture_join(torture);;)
                (void)torture_read(torture, cache, (unsigned)(test_random(&seed) % TORTURE_ROWS), true);
    }
    EXPECT(test_until(torture->opens > PROCESSES + rounds / 2, 60000));
    for (unsigned i = 0; i < PROCESSES; i++)
        test_kill(pids[i], SIGKILL);
    torture_print(torture, "64 processes");
    torture_expect_sound(torture);
}

/* ---- prefork servers ---- */

/* A worker's life: some requests, then it ends, as those of a server that recycles them. */
static void serve(struct torture *torture, freshet *cache, unsigned worker, uint64_t seed)
{
    for (unsigned i = 0; i < 200; i++) {
        uint64_t dice = test_random(&seed);

        (void)torture_read(torture, cache, (unsigned)(dice >> 32) % TORTURE_ROWS, true);
        if (dice % 10 == 0)
            EXPECT_EQ(torture_change(torture, cache, worker, dice % 20 == 0), FRESHET_OK);
    }
}

/* `before`: the master opens and its workers use what they inherit; `after`: each opens its own. */
static void prefork(struct redis *redis, bool before, bool after)
{
    struct torture *torture = torture_open(fresh_dir(), redis, 4u << 20, 8);
    unsigned workers = test_long_runs() ? 2000 : 64;
    freshet *inherited = NULL;
    pid_t pids[8] = {0};

    if (before) {
        inherited = torture_join(torture);
        for (unsigned row = 0; row < TORTURE_ROWS; row++)
            EXPECT(torture_read(torture, inherited, row, true) >= 0);
    }
    for (unsigned n = 0; n < workers + 8; n++) {
        unsigned place = n % 8;

        if (pids[place])
            test_join(pids[place]); /* recycled: it ended well */
        if (n >= workers || (pids[place] = test_fork()) != 0)
            continue;
        if (before)
            serve(torture, inherited, place, n);
        if (after) {
            freshet *own = torture_join(torture);

            serve(torture, own, place, n + 1);
            freshet_close(own);
        }
        if (n % 2 == 0) /* some close what they inherited, some just end */
            freshet_close(inherited);
        test_child_done();
    }
    if (before) {
        for (unsigned row = 0; row < TORTURE_ROWS; row++) /* the master's own is none the worse */
            EXPECT(torture_read(torture, inherited, row, true) >= 0);
        freshet_close(inherited);
    }
    torture_print(torture, "prefork");
    for (int i = 1; i < 32; i++)
        EXPECT_EQ(torture->failures[i], 0);
    torture_expect_sound(torture);
}

TEST_LONG(prefork_servers_that_open_before_the_fork_recycle_their_workers, 300)
{
    if (test_sanitized())
        test_skip("the sanitizer's own locks do not survive the fork of a process with threads");
    prefork(NULL, true, false);
}
TEST_LONG(prefork_servers_that_open_after_the_fork_recycle_their_workers, 300)
{
    prefork(NULL, false, true);
}
TEST_LONG(prefork_servers_that_open_before_and_after_recycle_their_workers, 300)
{
    if (test_sanitized())
        test_skip("the sanitizer's own locks do not survive the fork of a process with threads");
    prefork(NULL, true, true);
}
TEST_LONG(in_a_fleet_prefork_servers_that_open_before_and_after_recycle_their_workers, 300)
{
    struct redis redis;

    if (test_sanitized())
        test_skip("the sanitizer's own locks do not survive the fork of a process with threads");
    redis_start(&redis, NULL);
    prefork(&redis, true, true);
    redis_stop(&redis);
}

/* ---- namespaces ---- */

/* Enter new namespaces as their root; false: it is not permitted, errno tells. */
static bool enter_namespaces(int flags)
{
    char line[64];
    unsigned uid = geteuid(), gid = getegid();
    static const char *const files[] = {"/proc/self/setgroups", "/proc/self/uid_map", "/proc/self/gid_map"};

    if (unshare(flags) == 0)
        return true;
    if (unshare(flags | CLONE_NEWUSER) != 0)
        return false;
    for (int i = 0; i < 3; i++) {
        int fd = open(files[i], O_WRONLY | O_CLOEXEC);
        int size = i == 0 ? snprintf(line, sizeof line, "deny")
                          : snprintf(line, sizeof line, "%u %u 1", i == 1 ? uid : gid, i == 1 ? uid : gid);

        if (fd < 0 || write(fd, line, (size_t)size) != size)
            return false;
        close(fd);
    }
    return true;
}

/* In a new namespace its first process, with the id 1, tries to open the tier. */
static void open_from_elsewhere(struct torture *torture)
{
    EXPECT(enter_namespaces(CLONE_NEWPID | CLONE_NEWNS));
    IN_CHILD({
        freshet_options options = FRESHET_INIT(freshet_options);
        freshet *other = NULL;
        freshet_result result;

        EXPECT_EQ(getpid(), 1);
        EXPECT(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        EXPECT(mount("proc", "/proc", "proc", 0, NULL) == 0);
        options.dir = torture->dir;
        options.deadline_ms = 500;
        result = freshet_open(&other, &options);
        printf("     %s: %s\n", freshet_result_name(result), freshet_error());
        EXPECT(result == FRESHET_EDIR || result == FRESHET_EBUSY);
        EXPECT(strstr(freshet_error(), "namespace"));
    });
}

TEST(a_process_of_another_pid_namespace_is_refused_and_told_why)
{
    struct torture *torture = torture_open(fresh_dir(), NULL, 4u << 20, 1);
    freshet *cache;

    IN_CHILD({ /* whether it may be, is known only by trying */
        if (!enter_namespaces(CLONE_NEWPID | CLONE_NEWNS))
            test_skip("no new PID namespace is permitted here");
    });
    cache = torture_join(torture);
    EXPECT_EQ(torture_change(torture, cache, 3, true), FRESHET_OK);
    IN_CHILD(open_from_elsewhere(torture));
    EXPECT_EQ(torture_read(torture, cache, 3, false), FRESHET_OK); /* and it has broken nothing */
    EXPECT_EQ(torture_change(torture, cache, 3, true), FRESHET_OK);
    EXPECT_EQ(torture_read(torture, cache, 3, false), FRESHET_OK);
    freshet_close(cache);
    torture_expect_sound(torture);
}

/* ---- a small file system ---- */

#define SMALL (64u << 20)

/* The caller's, and a page for each block of a file that takes what is left. */
static void take_the_rest(const char *path)
{
    static char zeros[1 << 16];
    char name[600];
    int fd;

    snprintf(name, sizeof name, "%s/hog", path);
    fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    EXPECT(fd >= 0);
    for (size_t size = sizeof zeros; size >= 4096;)
        if (write(fd, zeros, size) < 0)
            size /= 2;
    close(fd);
}

static void in_a_small_file_system(const char *path)
{
    struct torture *torture;
    char dir[500];
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache = NULL;
    freshet_result result;
    freshet_stats stats;

    EXPECT(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    EXPECT(mount("tmpfs", path, "tmpfs", 0, "size=64m,mode=700") == 0);
    snprintf(dir, sizeof dir, "%s/tier", path);
    torture = torture_open(dir, NULL, 48u << 20, 4); /* a tier, its page, and not much else */
    for (unsigned i = 0; i < 4; i++)
        torture_spawn(torture, i, i);
    EXPECT(test_until(torture->loads > 500, 30000));
    take_the_rest(path);
    EXPECT(test_until(torture->answers > 20000, 60000)); /* dropped fills, no SIGBUS, no failure */
    for (unsigned i = 0; i < 4; i++)
        EXPECT_EQ(kill(torture->pids[i], 0), 0);
    torture->stop = true;
    for (unsigned i = 0; i < 4; i++) {
        test_join(torture->pids[i]);
        torture->pids[i] = 0;
    }
    torture_print(torture, "64 MB, full");
    EXPECT_EQ(torture->wrong, 0);
    for (int i = 1; i < 32; i++)
        EXPECT(torture->failures[i] == 0 || i == -FRESHET_ENOSPC);
    snprintf(dir, sizeof dir, "%s/second", path); /* there is no room for another: an error of open */
    options.dir = dir;
    result = freshet_open(&cache, &options);
    printf("     a second tier there: %s: %s\n", freshet_result_name(result), freshet_error());
    EXPECT_EQ(result, FRESHET_ENOSPC);
    snprintf(dir, sizeof dir, "%s/hog", path);
    EXPECT(unlink(dir) == 0); /* and with room again the tier takes fills */
    torture->stop = false;
    torture_expect_sound(torture);
    cache = torture_join(torture);
    stats = host_stats(cache);
    EXPECT(stats.bytes <= stats.tier_size);
    freshet_close(cache);
}

TEST_LONG(a_full_file_system_of_64_MB_costs_fills_and_never_a_signal, 120)
{
    const char *path = fresh_dir();

    IN_CHILD({
        if (!enter_namespaces(CLONE_NEWNS))
            test_skip("no mounting is permitted here");
        in_a_small_file_system(path);
    });
}

/* ---- files that go ---- */

static bool tier_file(const char *name)
{
    return name[0] != '.' && strcmp(name, "aside") != 0;
}

/* Remove the tier's files, or put copies of them in their places. */
static void spoil_files(const char *dir, bool replace)
{
    DIR *listing = opendir(dir);
    struct dirent *entry;
    char path[700], copy[720], command[1500];

    EXPECT(listing);
    while ((entry = readdir(listing))) {
        if (!tier_file(entry->d_name))
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        snprintf(copy, sizeof copy, "%s/.copy", dir);
        snprintf(command, sizeof command, "cp --sparse=always '%s' '%s'", path, copy);
        if (replace)
            EXPECT(system(command) == 0 && rename(copy, path) == 0);
        else
            EXPECT(unlink(path) == 0);
    }
    closedir(listing);
}

/* A third process comes and changes a row: have the two that were there all of it, and nothing else? */
static bool is_shared(struct torture *torture, freshet *cache)
{
    uint64_t wrong = torture->wrong, second;

    IN_CHILD({
        freshet *late = torture_join(torture);

        (void)torture_change(torture, late, 1, true);
        (void)freshet_flush(late, 1000);
        freshet_close(late);
    });
    second = torture->second;
    EXPECT(test_until(torture->second > second + 3, 5000));
    return torture_read(torture, cache, 1, false) == FRESHET_OK && torture->first && torture->wrong == wrong;
}

/* Of two processes that have the tier open when its files go, each finds out by itself, within a second or so, and
 * until then has what it had.  Then they share one tier with whoever comes. */
static void files_go(struct redis *redis, bool replace)
{
    struct torture *torture = torture_open(fresh_dir(), redis, 4u << 20, 2);
    freshet *cache;
    pid_t pid;
    int64_t begun_ns;

    (void)host_keyring();
    if ((pid = test_fork()) == 0) {
        cache = torture_join(torture);
        while (!torture->stop) {
            torture->first = torture_read(torture, cache, 1, false) == FRESHET_OK;
            torture->second++;
            test_pause();
        }
        freshet_close(cache);
        test_child_done();
    }
    EXPECT(test_until(torture->second > 10, 10000));
    cache = torture_join(torture);
    EXPECT(test_until(torture_change(torture, cache, 1, true) == FRESHET_OK && torture->first, 5000));
    torture->quiet = true; /* until it is noticed they are as two hosts, which in a fleet the bound holds together */
    spoil_files(torture->dir, replace);
    begun_ns = test_now_ns();
    EXPECT(test_until(is_shared(torture, cache), 10000));
    printf("     noticed, and one tier again, after %.2f s\n", (double)(test_now_ns() - begun_ns) / 1e9);
    torture->wrong = 0;
    torture->quiet = false;
    for (int i = 0; i < 200; i++) {
        (void)torture_change(torture, cache, 1, i % 2);
        test_pause();
    }
    EXPECT(test_until(torture_change(torture, cache, 1, true) == FRESHET_OK && torture->first, 5000));
    torture->stop = true;
    test_join(pid);
    freshet_close(cache);
    EXPECT_EQ(torture->wrong, 0);
    torture_expect_sound(torture);
}

static unsigned descriptors(void)
{
    DIR *listing = opendir("/proc/self/fd");
    unsigned count = 0;

    EXPECT(listing);
    while (readdir(listing))
        count++;
    closedir(listing);
    return count;
}

static bool has_page(const char *dir)
{
    char path[700];

    snprintf(path, sizeof path, "%s/control", dir);
    return access(path, F_OK) == 0;
}

/* Both handles of a process open anew, more than once; when they are closed all that they had is. */
static void files_go_from_two_handles(struct redis *redis)
{
    struct torture *torture = torture_open(fresh_dir(), redis, 4u << 20, 2);
    unsigned before = descriptors();
    freshet *a = torture_join(torture), *b = torture_join(torture);

    for (int round = 0; round < 2; round++) {
        EXPECT(test_until(torture_change(torture, a, 1, true) == FRESHET_OK, 5000));
        EXPECT(test_until(torture_read(torture, b, 1, false) == FRESHET_OK, 5000));
        spoil_files(torture->dir, false);
        EXPECT(test_until(torture_read(torture, b, 1, true) == FRESHET_OK && has_page(torture->dir), 5000));
        EXPECT(test_until(torture_change(torture, a, 1, true) == FRESHET_OK, 5000));
        EXPECT(test_until(torture_read(torture, b, 1, false) == FRESHET_OK, 5000));
        EXPECT_EQ(host_stats(b).processes, 1);
        if (round == 1) { /* one that is closed before it has noticed */
            spoil_files(torture->dir, false);
            EXPECT(test_until(torture_read(torture, b, 1, true) == FRESHET_OK && has_page(torture->dir), 5000));
        }
    }
    freshet_close(b);
    freshet_close(a);
    EXPECT_EQ(torture->wrong, 0);
    EXPECT(test_until(descriptors() == before, 5000));
    torture_expect_sound(torture);
}

TEST(files_that_go_leave_nothing_behind)
{
    files_go_from_two_handles(NULL);
}
TEST(in_a_fleet_files_that_go_leave_nothing_behind)
{
    struct redis redis;

    redis_start(&redis, NULL);
    (void)host_keyring();
    files_go_from_two_handles(&redis);
    redis_stop(&redis);
}

TEST(files_that_are_removed_under_us_are_noticed_within_seconds)
{
    files_go(NULL, false);
}
TEST(files_that_are_replaced_under_us_are_noticed_within_seconds)
{
    files_go(NULL, true);
}

TEST(in_a_fleet_files_that_are_removed_under_us_are_noticed_within_seconds)
{
    struct redis redis;

    redis_start(&redis, NULL);
    files_go(&redis, false);
    redis_stop(&redis);
}

/* ---- another LMDB ---- */

TEST(an_environment_of_the_programs_own_goes_on_beside_ours)
{
    struct torture *torture = torture_open(fresh_dir(), NULL, 4u << 20, 1);
    const char *dir = fresh_dir();
    freshet *cache = torture_join(torture);
    MDB_env *env;
    MDB_dbi dbi;
    MDB_txn *txn, *reading;
    uint64_t seed = 4;

    EXPECT(mdb_env_create(&env) == 0 && mdb_env_set_mapsize(env, 4u << 20) == 0);
    EXPECT(mdb_env_open(env, dir, 0, 0600) == 0 && mdb_txn_begin(env, NULL, 0, &txn) == 0);
    EXPECT(mdb_dbi_open(txn, NULL, 0, &dbi) == 0 && mdb_txn_commit(txn) == 0);
    EXPECT(mdb_txn_begin(env, NULL, MDB_RDONLY, &reading) == 0); /* a thread's only one, and its own */
    for (uint64_t i = 0; i < 300; i++) {
        unsigned row = (unsigned)(test_random(&seed) % TORTURE_ROWS);
        MDB_val key = {sizeof i, &i}, got;

        EXPECT(mdb_txn_begin(env, NULL, 0, &txn) == 0 && mdb_put(txn, dbi, &key, &key, 0) == 0);
        EXPECT_EQ(torture_change(torture, cache, row, true), FRESHET_OK); /* in the midst of its write */
        EXPECT_EQ(torture_read(torture, cache, row, true), FRESHET_OK);
        EXPECT(mdb_txn_commit(txn) == 0);
        mdb_txn_reset(reading);
        EXPECT(mdb_txn_renew(reading) == 0 && mdb_get(reading, dbi, &key, &got) == 0 && *(uint64_t *)got.mv_data == i);
    }
    freshet_close(cache);
    mdb_txn_reset(reading);
    EXPECT(mdb_txn_renew(reading) == 0);
    mdb_txn_abort(reading);
    mdb_env_close(env);
    torture_expect_sound(torture);
}

/* ---- restarts ---- */

/* A process of the application: it asks for rows, most for few of them, and says what the tier answered. */
static void ask_for_rows(struct torture *torture, unsigned asks, uint64_t seed)
{
    freshet *cache = torture_join(torture);

    for (unsigned i = 0; i < asks; i++) {
        uint64_t dice = test_random(&seed);
        uint64_t hits = torture->hits;

        (void)torture_read(torture, cache, (unsigned)((dice >> 32) % 200 * (dice % 100) / 100), true);
        torture->first += torture->hits > hits;
        torture->second++;
    }
    EXPECT_EQ(freshet_flush(cache, 5000), FRESHET_OK);
    freshet_close(cache);
}

static double hit_rate_of(struct torture *torture, unsigned asks, uint64_t seed)
{
    torture->first = torture->second = 0;
    IN_CHILD({ ask_for_rows(torture, asks, seed); });
    return (double)torture->first / (double)torture->second;
}

/* In a fleet the new ones serve what was there as soon as the log has been read from where it stood. */
static void restarts(struct redis *redis)
{
    struct torture *torture = torture_open(fresh_dir(), redis, 8u << 20, 4);
    double cold = hit_rate_of(torture, 2000, 1), warm = hit_rate_of(torture, 2000, 2), worst = 1;
    pid_t pid;

    /* All are gone between one and the next: */
    for (uint64_t n = 3; n < 8; n++) {
        double rate = hit_rate_of(torture, 200, n);

        worst = rate < worst ? rate : worst;
    }
    printf("     of the tier: %.3f of the first 2,000 answers, then %.3f, right after a restart %.3f\n", cold, warm,
           worst);
    EXPECT(warm > 0.99 && worst > 0.99);
    /* ... and one after the other, the way an application is rolled. */
    for (uint64_t n = 0; n < 6; n++) {
        double rate;

        if ((pid = test_fork()) == 0) {
            ask_for_rows(torture, 200, n + 20);
            test_child_done();
        }
        rate = hit_rate_of(torture, 500, n + 10);
        test_join(pid);
        EXPECT(rate > 0.99);
    }
    EXPECT_EQ(torture->wrong, 0);
}

TEST(the_tier_is_warm_when_all_processes_have_gone_and_come_back)
{
    restarts(NULL);
}
TEST(in_a_fleet_the_tier_is_warm_when_all_processes_have_gone_and_come_back)
{
    struct redis redis;

    redis_start(&redis, NULL);
    (void)host_keyring();
    restarts(&redis);
    redis_stop(&redis);
}
