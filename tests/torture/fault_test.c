/*
 * fault_test.c - each n-th allocation and each n-th system call fails, one at a time, in the midst of a life of a
 * cache: no crash, no hang, no block and no descriptor left, no invalidation lost, and a failure that says what it is.
 *
 * Each n is a child of its own.  It first lives through the same without a fault, so that what is allocated once a
 * process is not taken for a leak; then with the fault; and then asks, without one, what has become of its changes.
 */
#include "torture.h"

#include <faults.h>
#include <freshet_fleet.h>

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHANGED_KEYS 6
#define HANGS_MS     30000

struct life { /* shared: what the child found */
    const char *dir;
    struct redis *redis;
    bool gone[CHANGED_KEYS]; /* the change of key i was answered with OK or QUEUED */
    uint64_t counted;
    char name[32]; /* of what failed */
};

/* A result of a call of the library: is it one, and does a failure say what it is? */
static freshet_result told(freshet_result result)
{
    EXPECT(strcmp(freshet_result_name(result), "FRESHET_?") != 0);
    if (result < 0 && strlen(freshet_error()) < 10) {
        fprintf(stderr, "%s says no more than \"%s\"\n", freshet_result_name(result), freshet_error());
        EXPECT(false);
    }
    return result;
}

static size_t key_name(int i, char name[16])
{
    return (size_t)snprintf(name, 16, "key:%d", i);
}

static freshet *life_open(const struct life *life)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet_join_options joining = FRESHET_INIT(freshet_join_options);
    freshet *cache = NULL;

    options.dir = life->dir;
    options.tier_size = 2u << 20;
    options.max_staleness_ms = 100;
    options.deadline_ms = 300;
    if (told(freshet_open(&cache, &options)) != FRESHET_OK)
        return NULL;
    joining.keyring = host_keyring();
    if (life->redis)
        (void)told(freshet_join(cache, life->redis->url, &joining));
    return cache;
}

static bool done(freshet_result result)
{
    return told(result) == FRESHET_OK || result == FRESHET_QUEUED;
}

/* The changes: each of a key of its own, whose old value stands in the tier. */
static void life_changes(struct life *life, freshet *cache)
{
    freshet_guard_options options = FRESHET_INIT(freshet_guard_options);
    freshet_write_options tagged = FRESHET_INIT(freshet_write_options);
    freshet_key keys[2];
    freshet_guard *guard = NULL;
    char names[CHANGED_KEYS][16];

    for (int i = 0; i < CHANGED_KEYS; i++)
        (void)key_name(i, names[i]);
    life->gone[0] = done(freshet_invalidate(cache, names[0], strlen(names[0]), NULL, NULL));
    tagged.tags = (const char *const[]){"a tag"};
    tagged.tag_count = 1;
    life->gone[1] = done(freshet_put(cache, names[1], strlen(names[1]), "new", 3, &tagged, NULL));
    keys[0] = (freshet_key){names[2], strlen(names[2])};
    keys[1] = (freshet_key){names[3], strlen(names[3])};
    life->gone[2] = life->gone[3] = done(freshet_invalidate_many(cache, keys, 2, NULL, NULL));
    keys[0] = (freshet_key){names[4], strlen(names[4])};
    options.hold_ms = 500;
    if (told(freshet_guard_begin(cache, keys, 1, &options, &guard)) == FRESHET_OK) {
        (void)freshet_guard_left(guard);
        if (told(freshet_guard_end(guard, NULL, NULL)) < 0)
            while (freshet_guard_end(guard, NULL, NULL) < 0)
                test_pause();
        life->gone[4] = true;
    }
    life->gone[5] = done(freshet_invalidate_tags(cache, (const char *const[]){"old tag"}, 1, NULL, NULL));
}

/* Open, read, load, change, look, close. */
static void life_live(struct life *life)
{
    freshet *cache = life_open(life);
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    freshet_buf buf = {0};
    char name[16];

    if (!cache)
        return;
    for (int i = 0; i < CHANGED_KEYS; i++)
        (void)told(freshet_get(cache, name, key_name(i, name), NULL, &buf, NULL));
    (void)told(freshet_load(cache, "load", 4, NULL, host_loader, "loaded", &buf, NULL));
    (void)told(freshet_put_absent(cache, "absent", 6, NULL, NULL));
    life_changes(life, cache);
    (void)told(freshet_load(cache, "load", 4, NULL, host_loader, "loaded", &buf, NULL));
    (void)told(freshet_flush(cache, 300));
    (void)told(freshet_stat(cache, &stats));
    freshet_buf_free(&buf);
    freshet_close(cache);
}

/* The tier as it is found: each key has an old value; the last is tagged. */
static void life_prepare(struct life *life)
{
    freshet *cache = life_open(life);
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    char name[16];

    EXPECT(cache);
    options.tags = (const char *const[]){"old tag"};
    for (int i = 0; i < CHANGED_KEYS; i++) {
        options.tag_count = i == CHANGED_KEYS - 1;
        EXPECT(test_until(freshet_put(cache, name, key_name(i, name), "old", 3, &options, NULL) == FRESHET_OK, 5000));
    }
    EXPECT_EQ(freshet_flush(cache, 5000), FRESHET_OK);
    freshet_close(cache);
}

/* Without a fault: everything works again, and what was changed is nowhere as it was. */
static void life_judge(struct life *life)
{
    freshet *cache = NULL;
    freshet_buf buf = {0};
    char name[16];

    EXPECT(test_until((cache = life_open(life)) != NULL, 10000));
    for (int i = 0; i < CHANGED_KEYS; i++) {
        freshet_result result = freshet_get(cache, name, key_name(i, name), NULL, &buf, NULL);

        if (result == FRESHET_OK && life->gone[i] && buf.size == 3 && memcmp(buf.data, "old", 3) == 0) {
            fprintf(stderr, "key %d: the old value after its change was confirmed\n", i);
            EXPECT(false);
        }
    }
    EXPECT(test_until(host_put(cache, "after", "1") == FRESHET_OK && freshet_flush(cache, 1000) == FRESHET_OK &&
                          host_gets(cache, "after", "1"),
                      10000));
    freshet_buf_free(&buf);
    freshet_close(cache);
}

static int descriptors(void)
{
    DIR *listing = opendir("/proc/self/fd");
    int count = 0;

    EXPECT(listing);
    while (readdir(listing))
        count++;
    closedir(listing);
    return count;
}

/* To whoever asks whether it is still its own (fstat), a descriptor seems lost: the library leaves it alone then, and
 * whatever stands behind it.  And an environment of LMDB's that could not write its page is given up as it is, for
 * others may be reading there. */
static bool leaves_on_purpose(const char *name)
{
    return strncmp(name, "fstat", 5) == 0 || strncmp(name, "pwrite", 6) == 0;
}

static void life_child(struct life *life, enum fault_kind kind, uint64_t n, bool on_and_on)
{
    struct life warm = *life;
    int64_t blocks;
    int fds;

    warm.dir = fresh_dir();
    life_prepare(&warm);
    life_live(&warm);
    life_prepare(life);
    if (getenv("TEST_FAULT_TRACE"))
        fault_trace();
    blocks = fault_blocks();
    fds = descriptors();
    fault_name(life->name);
    fault_arm(kind, n, on_and_on);
    life_live(life);
    life->counted = fault_disarm();
    life_judge(life);
    if (leaves_on_purpose(life->name))
        return;
    EXPECT(test_until(descriptors() == fds, 3000));
    if (!test_until(fault_blocks() <= blocks, 1000)) {
        fault_show();
        EXPECT_EQ(fault_blocks(), blocks);
    }
}

/* One n; false, and a line on stderr, when it went wrong. */
static bool life_try(struct life *life, enum fault_kind kind, uint64_t n, bool on_and_on)
{
    pid_t pid;
    int status = 0;

    life->dir = fresh_dir();
    life->name[0] = '\0';
    memset(life->gone, 0, sizeof life->gone);
    if ((pid = test_fork()) == 0) {
        life_child(life, kind, n, on_and_on);
        test_child_done();
    }
    if (!test_until(waitpid(pid, &status, WNOHANG) == pid, HANGS_MS)) {
        fprintf(stderr, "kind %d, call %llu: it hangs\n", kind, (unsigned long long)n);
        test_kill(pid, SIGKILL);
        return false;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    fprintf(stderr, "kind %d, call %llu (%s%s): %s %d\n", kind, (unsigned long long)n, life->name,
            on_and_on ? ", and all after it" : "", WIFSIGNALED(status) ? "signal" : "exit status",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return false;
}

/* First of all: under a sanitizer not even a server can be started beside them. */
static void need_faults(void)
{
    if (test_sanitized() || fault_blocks() < 0)
        test_skip("the sanitizer stands before the functions that are to fail");
}

/* Every n in a long run, some in a short one. */
static void lives(struct redis *redis, enum fault_kind kind, bool on_and_on, unsigned some)
{
    struct life *life = mmap(NULL, sizeof *life, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t seed = 11, counted, tried = 0, wrong = 0;

    need_faults();
    EXPECT(life != MAP_FAILED);
    life->redis = redis;
    (void)host_keyring();
    EXPECT(life_try(life, kind, 0, false)); /* without a fault: counts, and proves that nothing is left then */
    counted = life->counted;
    EXPECT(counted > 10);
    for (uint64_t n = 1; n <= counted; n++) {
        if (!test_long_runs() && test_random(&seed) % counted >= some)
            continue;
        tried++;
        wrong += !life_try(life, kind, n, on_and_on);
    }
    printf("     %llu of %llu calls failed, one at a time\n", (unsigned long long)tried, (unsigned long long)counted);
    EXPECT(tried > some / 4);
    EXPECT_EQ(wrong, 0);
}

static void lives_in_a_fleet(enum fault_kind kind, bool on_and_on, unsigned some)
{
    struct redis redis;

    need_faults();
    redis_start(&redis, NULL);
    lives(&redis, kind, on_and_on, some);
    redis_stop(&redis);
}

TEST_LONG(memory_may_be_short_at_any_call, 3600)
{
    lives(NULL, FAULT_MEMORY, false, 100);
}
TEST_LONG(memory_may_be_short_from_any_call_on, 3600)
{
    lives(NULL, FAULT_MEMORY, true, 60);
}
TEST_LONG(any_system_call_may_fail, 3600)
{
    lives(NULL, FAULT_SYSTEM, false, 150);
}
TEST_LONG(in_a_fleet_memory_may_be_short_at_any_call, 3600)
{
    lives_in_a_fleet(FAULT_MEMORY, false, 60);
}
TEST_LONG(in_a_fleet_any_system_call_may_fail, 3600)
{
    lives_in_a_fleet(FAULT_SYSTEM, false, 60);
}
TEST_LONG(any_look_at_the_clock_may_fail, 3600)
{
    lives(NULL, FAULT_CLOCK, false, 60);
}
