/*
 * stop_test.c - processes are stopped (SIGSTOP) at any instant, also in the midst of a write: no read of another
 * process waits for them, nobody crashes, and when they go on they are right (P5).
 *
 * A reader measures each of its reads from the tier.  The machine itself takes the processor away at times (two cores,
 * and neighbours), for any length of time; who waits for another gives it up of his own will, and the kernel counts
 * that.
 */
#include "torture.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS 6u

/* Raise a shared number. */
static void raise_to(_Atomic uint64_t *most, uint64_t value)
{
    uint64_t old = *most;

    while (value > old && !atomic_compare_exchange_weak(most, &old, value))
        continue;
}

static long waits(void)
{
    struct rusage usage;

    EXPECT_EQ(getrusage(RUSAGE_THREAD, &usage), 0);
    return usage.ru_nvcsw;
}

/* Read until told to stop; note the longest read, and how many gave the processor up. */
static void reader(struct torture *torture)
{
    freshet *cache = torture_join(torture);
    uint64_t seed = 99;

    while (!torture->stop) {
        unsigned row = (unsigned)(test_random(&seed) % TORTURE_ROWS);
        long before = waits();
        int64_t begun_ns = test_now_ns();

        (void)torture_read(torture, cache, row, false);
        raise_to(&torture->longest_ns, (uint64_t)(test_now_ns() - begun_ns));
        torture->first += torture_hit && waits() > before;
        torture->second++;
    }
    freshet_close(cache);
    test_child_done();
}

static pid_t reader_begin(struct torture *torture)
{
    pid_t pid = test_fork();

    if (pid == 0)
        reader(torture);
    return pid;
}

/* Stop some at random instants, all but the reader at times; go on with them after up to 60 ms. */
static void storm(struct torture *torture, unsigned rounds)
{
    uint64_t seed = 3;

    for (unsigned round = 0; round < rounds; round++) {
        uint64_t which = round % 10 == 9 ? ~0ull : test_random(&seed), before = torture->second;
        int pause_ms = (int)(test_random(&seed) % 60);

        for (unsigned i = 0; i < WORKERS; i++)
            if (which >> i & 1)
                test_kill(torture->pids[i], SIGSTOP);
        (void)poll(NULL, 0, pause_ms);
        EXPECT(test_until(torture->second > before, 5000)); /* reads go on while they stand still */
        for (unsigned i = 0; i < WORKERS; i++)
            if (which >> i & 1)
                test_kill(torture->pids[i], SIGCONT);
        (void)poll(NULL, 0, (int)(test_random(&seed) % 10));
    }
}

static void storm_beside_a_reader(struct redis *redis)
{
    struct torture *torture = torture_open(fresh_dir(), redis, 4u << 20, WORKERS);
    pid_t pid;

    (void)host_keyring();
    for (unsigned i = 0; i < WORKERS; i++)
        torture_spawn(torture, i, i);
    EXPECT(test_until(torture->answers > 1000, 20000));
    pid = reader_begin(torture);
    EXPECT(test_until(torture->second > 100, 10000));
    storm(torture, test_long_runs() ? 3000 : 60);
    torture->stop = true;
    test_join(pid);
    for (unsigned i = 0; i < WORKERS; i++) {
        test_join(torture->pids[i]); /* each goes on to its orderly end */
        torture->pids[i] = 0;
    }
    torture_print(torture, "stopped");
    printf("     of %llu reads beside stopped processes %llu of the tier waited; the longest took %.2f ms, the "
           "processor's absence included\n",
           (unsigned long long)torture->second, (unsigned long long)torture->first, (double)torture->longest_ns / 1e6);
    EXPECT_EQ(torture->first, 0);
    torture->stop = false;
    torture_expect_sound(torture);
}

TEST_LONG(no_read_waits_for_a_stopped_process, 600)
{
    if (test_sanitized())
        test_skip("measures what a sanitizer slows down");
    storm_beside_a_reader(NULL);
}

/* A get that misses asks Redis, whose processor time it then needs too. */
TEST_LONG(in_a_fleet_no_read_waits_for_a_stopped_process, 600)
{
    struct redis redis;

    if (test_sanitized())
        test_skip("measures what a sanitizer slows down");
    redis_start(&redis, NULL);
    storm_beside_a_reader(&redis);
    redis_stop(&redis);
}

/* In the midst of a write transaction: a process that does nothing but fill is there for much of its time, and one that
 * was met so makes the fills of another wait.  Reads do not, however long it lasts. */
TEST_LONG(a_writer_stopped_in_its_transaction_is_no_readers_business, 120)
{
    struct torture *torture = torture_open(fresh_dir(), NULL, 4u << 20, 1);
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    unsigned met = 0, waited = 0, rounds = test_long_runs() ? 2000 : 200;
    static char value[100000];
    uint64_t seed = 8;
    freshet *cache;
    pid_t pid;

    if (test_sanitized())
        test_skip("measures what a sanitizer slows down");
    if ((pid = test_fork()) == 0) {
        cache = torture_join(torture);
        for (unsigned i = 0; !torture->stop; i++) {
            char key[16];

            (void)freshet_put(cache, key, (size_t)snprintf(key, sizeof key, "fill:%u", i % 50), value, sizeof value,
                              NULL, NULL);
            torture->second++;
        }
        test_child_done();
    }
    EXPECT(test_until(torture->second > 10, 10000));
    cache = torture_join(torture);
    options.deadline_ms = 20;
    EXPECT_EQ(torture_change(torture, cache, 1, true), FRESHET_OK);
    EXPECT_EQ(freshet_flush(cache, 5000), FRESHET_OK);
    for (unsigned round = 0; round < rounds; round++) {
        int64_t begun_ns = test_now_ns(), wait_ns = (int64_t)(test_random(&seed) % 2000000);

        while (test_now_ns() < begun_ns + wait_ns)
            continue;
        test_kill(pid, SIGSTOP);
        (void)freshet_put(cache, "mine", 4, "1", 1, &options, NULL);
        met += freshet_flush(cache, 20) == FRESHET_ETIMEOUT; /* our fill waits: it was met in its transaction */
        for (int i = 0; i < 20; i++) {
            long before = waits();

            (void)torture_read(torture, cache, 1, false);
            waited += torture_hit && waits() > before;
        }
        test_kill(pid, SIGCONT);
        EXPECT(freshet_flush(cache, 10000) == FRESHET_OK);
    }
    printf("     stopped %u times, %u of them in a write transaction; reads that waited: %u\n", rounds, met, waited);
    EXPECT(met > 0);
    EXPECT_EQ(waited, 0);
    torture->stop = true;
    test_kill(pid, SIGKILL);
    freshet_close(cache);
    torture_expect_sound(torture);
}
