/*
 * process_test.c - processes of one host are killed and stopped at any instruction (P5): nothing is corrupted, nobody
 * is blocked, and what is left behind is put in order.
 */
#include <hosts.h>
#include <test.h>

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KEYS     200
#define CHILDREN 4

/* The newest value that was put for sure, per key; shared. */
struct shared {
    _Atomic uint64_t put[CHILDREN][KEYS]; /* each child writes keys of its own */
    _Atomic uint64_t reads, wrong;
};

static struct shared *shared_open(void)
{
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    EXPECT(shared != MAP_FAILED);
    return shared;
}

/* A value of some length that tells its key and number all the way through. */
static size_t value_make(char *value, size_t room, unsigned child, unsigned key, uint64_t number)
{
    size_t size = 64 + number * 97 % (room - 64);
    int head = snprintf(value, room, "%u/%u/%llu/", child, key, (unsigned long long)number);

    for (size_t i = (size_t)head; i < size; i++)
        value[i] = (char)('a' + (i + number) % 26);
    return size;
}

/* Is the value whole, and not older than what was put before we asked? */
static bool value_right(const freshet_buf *buf, unsigned child, unsigned key, uint64_t least)
{
    static _Thread_local char wanted[6000];
    unsigned long long number;
    unsigned c, k;
    char head[64];

    snprintf(head, sizeof head, "%.*s", (int)buf->size, (char *)buf->data);
    if (sscanf(head, "%u/%u/%llu/", &c, &k, &number) != 3 || c != child || k != key || number < least)
        return false;
    return value_make(wanted, sizeof wanted, child, key, number) == buf->size &&
           memcmp(wanted, buf->data, buf->size) == 0;
}

/* Put own keys, read everybody's. */
_Noreturn static void child_work(struct shared *shared, const char *dir, unsigned child, uint64_t seed)
{
    freshet *cache = host_solo(dir, 0);
    freshet_buf buf = {0};
    char key[24];
    static char value[6000];

    for (;;) {
        uint64_t dice = test_random(&seed);
        unsigned k = (unsigned)(dice % KEYS), other = (unsigned)(dice >> 40) % CHILDREN;
        uint64_t least = shared->put[other][k];
        uint64_t number = shared->put[child][k] + 1;

        snprintf(key, sizeof key, "%u/%u", other, k);
        if (freshet_get(cache, key, strlen(key), NULL, &buf, NULL) == FRESHET_OK) {
            shared->reads++;
            if (!value_right(&buf, other, k, least)) {
                fprintf(stderr, "%s: found %.*s, wanted at least %llu\n", key, (int)(buf.size < 40 ? buf.size : 40),
                        (char *)buf.data, (unsigned long long)least);
                shared->wrong++;
            }
        }
        snprintf(key, sizeof key, "%u/%u", child, k);
        if (freshet_put(cache, key, strlen(key), value, value_make(value, sizeof value, child, k, number), NULL,
                        NULL) == FRESHET_OK)
            shared->put[child][k] = number;
    }
}

static pid_t child_begin(struct shared *shared, const char *dir, unsigned child, uint64_t seed)
{
    pid_t pid = test_fork();

    if (pid == 0)
        child_work(shared, dir, child, seed);
    return pid;
}

TEST_LONG(processes_killed_at_any_moment_corrupt_nothing, 120)
{
    struct shared *shared = shared_open();
    const char *dir = fresh_dir();
    pid_t children[CHILDREN];
    uint64_t seed = 1, reads;
    int rounds = test_long_runs() ? 400 : 60;
    int64_t latest = test_now_ns() + 40 * 1000000000LL; /* on a busy machine fewer will do */
    freshet *cache;

    for (unsigned i = 0; i < CHILDREN; i++)
        children[i] = child_begin(shared, dir, i, i);
    for (int round = 0; round < rounds && test_now_ns() < latest; round++) {
        unsigned victim = (unsigned)(test_random(&seed) % CHILDREN);
        int64_t end = test_now_ns() + (int64_t)(test_random(&seed) % 40 + 5) * 1000000;

        while (test_now_ns() < end)
            test_pause();
        test_kill(children[victim], SIGKILL);
        children[victim] = child_begin(shared, dir, victim, test_random(&seed));
    }
    reads = shared->reads;
    EXPECT(test_until(shared->reads > reads + 1000, 20000)); /* the survivors still work */
    for (int i = 0; i < CHILDREN; i++)
        test_kill(children[i], SIGKILL);
    EXPECT_EQ(shared->wrong, 0);
    cache = host_solo(dir, 0); /* and who comes after them */
    EXPECT_EQ(host_put(cache, "after", "x"), FRESHET_OK);
    EXPECT(host_gets(cache, "after", "x"));
    freshet_close(cache);
}

TEST(a_stopped_process_blocks_nobody)
{
    struct shared *shared = shared_open();
    const char *dir = fresh_dir();
    freshet *cache = host_solo(dir, 0);
    uint64_t seed = 7, slowest = 0;
    pid_t child = child_begin(shared, dir, 0, 3);

    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    EXPECT(test_until(shared->reads > 100, 20000));
    for (int round = 0; round < 20; round++) { /* some of these stop it within a write transaction */
        int64_t end = test_now_ns() + (int64_t)(test_random(&seed) % 10 + 1) * 1000000;

        while (test_now_ns() < end)
            test_pause();
        test_kill(child, SIGSTOP);
        for (int i = 0; i < 50; i++) {
            int64_t begun = test_now_ns();
            freshet_result result = host_get(cache, "k", NULL, 0);
            uint64_t took = (uint64_t)(test_now_ns() - begun);

            EXPECT(result == FRESHET_OK || result == FRESHET_MISS);
            slowest = took > slowest ? took : slowest;
        }
        {
            freshet_write_options options = FRESHET_INIT(freshet_write_options);
            int64_t begun = test_now_ns();

            options.deadline_ms = 100;
            EXPECT_EQ(freshet_put(cache, "k", 1, "w", 1, &options, NULL), FRESHET_OK);
            EXPECT(test_now_ns() - begun < 3000 * 1000000LL);
            EXPECT(!host_gets(cache, "k", "v"));
        }
        test_kill(child, SIGCONT);
        EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    }
    EXPECT(slowest < 1000000000);
    test_kill(child, SIGKILL);
    freshet_close(cache);
}

TEST(a_process_may_close_while_its_sibling_is_stopped_in_a_write)
{
    struct shared *shared = shared_open();
    const char *dir = fresh_dir();
    pid_t child = child_begin(shared, dir, 0, 3);
    uint64_t seed = 9;

    EXPECT(test_until(shared->reads > 100, 20000));
    for (int round = 0; round < 5; round++) {
        int64_t end = test_now_ns() + (int64_t)(test_random(&seed) % 10 + 1) * 1000000;
        int64_t begun;

        while (test_now_ns() < end)
            test_pause();
        test_kill(child, SIGSTOP);
        IN_CHILD({
            freshet_options options = FRESHET_INIT(freshet_options);
            freshet *cache;
            freshet_result result;

            options.dir = dir;
            options.deadline_ms = 500;
            begun = test_now_ns();
            result = freshet_open(&cache, &options);
            EXPECT(result == FRESHET_OK || result == FRESHET_EBUSY);
            if (result == FRESHET_OK) {
                (void)host_put(cache, "k", "v");
                freshet_close(cache);
            }
            EXPECT(test_now_ns() - begun < 8000 * 1000000LL);
        });
        test_kill(child, SIGCONT);
    }
    test_kill(child, SIGKILL);
}

TEST(processes_come_and_go_together)
{
    const char *dir = fresh_dir();
    pid_t children[8];

    for (int i = 0; i < 8; i++)
        if ((children[i] = test_fork()) == 0) {
            for (int round = 0; round < 10; round++) {
                freshet *cache = host_solo(dir, 0);
                char key[16];

                snprintf(key, sizeof key, "k%d", i);
                EXPECT_EQ(host_put(cache, key, key), FRESHET_OK);
                EXPECT(host_gets(cache, key, key));
                freshet_close(cache);
            }
            test_child_done();
        }
    for (int i = 0; i < 8; i++)
        test_join(children[i]);
}
