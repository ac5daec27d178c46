/*
 * guard_storm_test.c - writers that are killed at any moment of a database write, readers that check every answer.
 *
 * A row's every version and the moment of its commit stand in memory that all processes share, so that each answer
 * out of the cache can be judged: the next version must not have been committed longer than the bound ago, though its
 * writer may have been killed right after the commit.  Readers are slow at times, so that loads overlap whole writes.
 */
#include <freshet_fleet.h>
#include <hosts.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <test.h>
#include <unistd.h>

#define BOUND    500
#define HOLD     2000
#define ROWS     48
#define VERSIONS 20000
#define WRITERS  4
#define STORM_MS 8000
#define PATIENCE_NS 30000000000LL

struct storm {
    bool guarded, fleet;
    struct redis redis;
    const char *dirs[2];
    _Atomic int rows[ROWS];                       /* the committed version of each */
    _Atomic int64_t committed_ns[ROWS][VERSIONS]; /* when it was, or a moment before */
    _Atomic bool stop;
    _Atomic uint64_t cached, violations, writes, lost;
};

struct reader {
    pthread_t thread;
    struct storm *storm;
    freshet *cache;
    uint64_t random;
};

static struct storm *storm_open(bool guarded, bool fleet)
{
    struct storm *storm = mmap(NULL, sizeof *storm, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    EXPECT(storm != MAP_FAILED);
    storm->guarded = guarded;
    storm->fleet = fleet;
    storm->dirs[0] = fresh_dir();
    storm->dirs[1] = fleet ? fresh_dir() : storm->dirs[0];
    return storm;
}

static freshet *storm_cache(struct storm *storm, int host)
{
    return storm->fleet ? host_join(storm->dirs[host], &storm->redis, BOUND) : host_solo(storm->dirs[host], BOUND);
}

/* ---- writers ---- */

static void die_sometimes(uint64_t *random, unsigned one_in)
{
    if (test_random(random) % one_in == 0)
        (void)kill(getpid(), SIGKILL);
}

/* The transaction: the next version of the row, if nobody else is quicker. */
static void commit(struct storm *storm, int row)
{
    int version = storm->rows[row];
    int64_t none = 0;

    EXPECT(version + 2 < VERSIONS);
    (void)atomic_compare_exchange_strong(&storm->committed_ns[row][version + 1], &none, test_now_ns());
    if (atomic_compare_exchange_strong(&storm->rows[row], &version, version + 1))
        storm->writes++;
}

static void write_guarded(struct storm *storm, freshet *cache, int row, uint64_t *random)
{
    freshet_guard_options options = FRESHET_INIT(freshet_guard_options);
    char name[16];
    freshet_key key = {name, (size_t)snprintf(name, sizeof name, "row:%d", row)};
    freshet_guard *guard;

    options.hold_ms = HOLD;
    if (freshet_guard_begin(cache, &key, 1, &options, &guard) != FRESHET_OK)
        return; /* the database is left alone */
    die_sometimes(random, 30);
    if (freshet_guard_left(guard) > HOLD / 2)
        commit(storm, row);
    die_sometimes(random, 10);
    if (freshet_guard_end(guard, NULL, NULL) == FRESHET_GUARD_LOST)
        storm->lost++;
}

static void write_plain(struct storm *storm, freshet *cache, int row, uint64_t *random)
{
    char name[16];
    int size = snprintf(name, sizeof name, "row:%d", row);

    commit(storm, row);
    die_sometimes(random, 10);
    (void)freshet_invalidate(cache, name, (size_t)size, NULL, NULL);
}

static pid_t writer(struct storm *storm, int host, uint64_t seed)
{
    pid_t child = test_fork();

    if (child == 0) {
        freshet *cache = storm_cache(storm, host);
        uint64_t random = seed;

        while (!storm->stop) {
            int row = (int)(test_random(&random) % ROWS);

            (storm->guarded ? write_guarded : write_plain)(storm, cache, row, &random);
            /* Readers get their turn: with all rows guarded all the time nothing would be cached. */
            uint64_t enough = storm->cached + test_random(&random) % 64;
            for (int i = 0; i < 100 && storm->cached < enough; i++)
                test_pause();
        }
        test_child_done();
    }
    return child;
}

/* ---- readers ---- */

struct reading {
    struct storm *storm;
    uint64_t *random;
    int row;
};

/* Read the row, and at times take long to answer. */
static freshet_result load_row(freshet_load_request *request, freshet_buf *value, void *arg)
{
    struct reading *reading = arg;
    int version = reading->storm->rows[reading->row];

    (void)request;
    if (test_random(reading->random) % 4 == 0)
        for (uint64_t i = test_random(reading->random) % 20; i > 0; i--)
            test_pause();
    return freshet_buf_set(value, &version, sizeof version);
}

static void *read_rows(void *arg)
{
    struct reader *reader = arg;
    struct storm *storm = reader->storm;
    freshet_buf buf = {0};

    while (!storm->stop) {
        struct reading reading = {storm, &reader->random, (int)(test_random(&reader->random) % ROWS)};
        freshet_answer answer = FRESHET_INIT(freshet_answer);
        char name[16];
        int size = snprintf(name, sizeof name, "row:%d", reading.row), version;

        EXPECT_EQ(freshet_load(reader->cache, name, (size_t)size, NULL, load_row, &reading, &buf, &answer), FRESHET_OK);
        EXPECT_EQ(buf.size, sizeof version);
        memcpy(&version, buf.data, sizeof version);
        if (answer.source == FRESHET_FROM_LOADER)
            continue;
        storm->cached++;
        int64_t next_ns = storm->committed_ns[reading.row][version + 1];
        if (next_ns != 0 && answer.judged_at_ns - next_ns > BOUND * 1000000LL)
            storm->violations++;
    }
    freshet_buf_free(&buf);
    return NULL;
}

/* ---- the storm ---- */

/* Has so much happened that it says something? */
static bool storm_says(const struct storm *storm, unsigned deaths)
{
    return deaths >= 10 && storm->writes >= 50 && storm->cached >= 1000 && (storm->guarded || storm->violations > 0);
}

/* Replace the writers that have died, until the time is over, and on a busy machine until enough has happened; how
 * many. */
static unsigned storm_blow(struct storm *storm, unsigned ms)
{
    int64_t end_ns = test_now_ns() + ms * 1000000LL;
    pid_t writers[WRITERS] = {0};
    unsigned deaths = 0, seed = 1;
    int status;

    while (test_now_ns() < end_ns || (!storm_says(storm, deaths) && test_now_ns() < end_ns + PATIENCE_NS)) {
        for (int i = 0; i < WRITERS; i++) {
            if (writers[i] && waitpid(writers[i], &status, WNOHANG) == writers[i]) {
                EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* and not by a failed EXPECT */
                writers[i] = 0;
                deaths++;
            }
            if (!writers[i])
                writers[i] = writer(storm, i % 2, seed++);
        }
        test_pause();
    }
    storm->stop = true;
    for (int i = 0; i < WRITERS; i++)
        (void)waitpid(writers[i], &status, 0);
    return deaths;
}

static void storm_run(struct storm *storm, unsigned ms)
{
    struct reader readers[4];
    freshet *caches[2];
    struct redis redis; /* not in shared memory: a fork's answer is written to it by both */
    unsigned deaths;

    if (test_sanitized())
        test_skip("the sanitizer's own locks do not survive a fork among running threads");
    if (storm->fleet) {
        redis_start(&redis, NULL);
        storm->redis = redis;
    }
    (void)host_keyring();
    for (int host = 0; host < 2; host++)
        caches[host] = storm_cache(storm, host);
    for (int i = 0; i < 4; i++) {
        readers[i] = (struct reader){.storm = storm, .cache = caches[i % 2], .random = 1000u + (unsigned)i};
        EXPECT(pthread_create(&readers[i].thread, NULL, read_rows, &readers[i]) == 0);
    }
    deaths = storm_blow(storm, ms);
    for (int i = 0; i < 4; i++)
        EXPECT(pthread_join(readers[i].thread, NULL) == 0);
    printf("%llu reads out of the cache, %llu commits, %u writers killed, %llu guards lost: %llu stale\n",
           (unsigned long long)storm->cached, (unsigned long long)storm->writes, deaths,
           (unsigned long long)storm->lost, (unsigned long long)storm->violations);
    EXPECT(storm_says(storm, deaths));
    for (int host = 0; host < 2; host++)
        freshet_close(caches[host]);
    if (storm->fleet)
        redis_stop(&redis);
}

TEST(guarded_writers_that_are_killed_anywhere_leave_nothing_stale)
{
    struct storm *storm = storm_open(true, true);

    storm_run(storm, test_long_runs() ? 10 * STORM_MS : STORM_MS);
    EXPECT_EQ(storm->violations, 0);
}

TEST(without_a_fleet_guarded_writers_that_are_killed_anywhere_leave_nothing_stale)
{
    struct storm *storm = storm_open(true, false);

    storm_run(storm, test_long_runs() ? 10 * STORM_MS : STORM_MS);
    EXPECT_EQ(storm->violations, 0);
}

/* What guards are for, and that the storm would show it. */
TEST(plain_writers_that_are_killed_before_they_invalidate_leave_stale_rows)
{
    struct storm *storm = storm_open(false, true);

    storm_run(storm, STORM_MS / 2);
    EXPECT(storm->violations > 0);
}
