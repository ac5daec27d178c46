/*
 * trace_test.c - the model's rules hold for the library itself: while two hosts work through kills, stops, cuts, a
 * paused Redis and lost data, every process writes down the protocol's events (core/trace.h), each answer that it got
 * and each change that returned; afterwards trace_check.py merges the files and looks for an event that breaks a rule.
 *
 * A file is written with one write() an event, so that a killed process has written all that it did.  The checker then
 * spoils copies of the trace, once for each rule, and must find that: so a run that shows nothing is a failure too.
 */
#include "hold.h"

#include <fcntl.h>
#include <freshet_fleet.h>
#include <remote.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <trace.h>
#include <unistd.h>

#define BOUND     500
#define NS_PER_MS 1000000LL
#define HOSTS     2u
#define WORKERS   4u
#define KEYS      48u

struct shared {
    _Atomic uint64_t operations, odd;
    uint64_t target;
};

static struct shared *shared;
static struct redis redis;
static const char *dirs[HOSTS];
static const char *traces;

/* ---- writing it down ---- */

static int trace_file = -1;
static uint32_t trace_host;

/* ns pid host event partition epoch position extra more hashes; - where there is none */
static void trace_line(const struct trace *trace, const char *more)
{
    char line[8192];
    int size = snprintf(line, sizeof line, "%lld %d %u %s %u %llx %llu %llx %s ", (long long)test_now_ns(),
                        (int)getpid(), trace_host, trace->event, trace->partition, (unsigned long long)trace->epoch,
                        (unsigned long long)trace->position, (unsigned long long)trace->extra, more);

    for (uint32_t i = 0; i < trace->count && (size_t)size + 34 < sizeof line; i++) {
        for (int n = 0; n < 16; n++)
            size += snprintf(line + size, sizeof line - (size_t)size, "%02x", trace->hashes[i][n]);
        line[size++] = i + 1 < trace->count ? ',' : '\n';
    }
    if (trace->count == 0)
        size += snprintf(line + size, sizeof line - (size_t)size, "-\n");
    if (write(trace_file, line, (size_t)size) != size)
        _exit(3);
}

static void trace_heard(const struct trace *trace)
{
    trace_line(trace, "-");
}

static void trace_begin(uint32_t host)
{
    char path[200];

    trace_host = host;
    snprintf(path, sizeof path, "%s/%d", traces, (int)getpid());
    trace_file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    EXPECT(trace_file >= 0);
    trace_hook = trace_heard;
}

/* What only the caller knows: an answer, or a change that has returned. */
static void trace_own(const char *event, const char *key, uint64_t position, int source, const char *more)
{
    uint8_t hash[1][16];
    struct trace trace = {.event = event, .position = position, .extra = (uint64_t)source, .count = 1};

    remote_hash("default", key, strlen(key), hash[0]);
    trace.hashes = (const uint8_t(*)[16])hash;
    trace_line(&trace, more);
}

/* ---- a worker ---- */

struct worker {
    uint32_t index, host;
    uint64_t seed;
    freshet *cache;
};

static void odd(const char *what, freshet_result result)
{
    if (shared->odd++ < 5)
        fprintf(stderr, "trace: %s answered %s: %s\n", what, freshet_result_name(result), freshet_error());
}

static void read_key(struct worker *worker, const char *key, bool load)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    long long begun_ns = test_now_ns();
    freshet_buf buf = {0};
    freshet_result result;
    char more[64];

    if (load)
        result = freshet_load(worker->cache, key, strlen(key), NULL, host_loader, "row", &buf, &answer);
    else
        result = freshet_get(worker->cache, key, strlen(key), NULL, &buf, &answer);
    freshet_buf_free(&buf);
    snprintf(more, sizeof more, "%lld,%lld", begun_ns, (long long)answer.judged_at_ns);
    if (result == FRESHET_OK && (answer.source == FRESHET_FROM_TIER || answer.source == FRESHET_FROM_REDIS))
        trace_own("read", key, answer.position, answer.source == FRESHET_FROM_TIER, more);
    else if (result != FRESHET_OK && result != FRESHET_MISS)
        odd("a read", result);
}

static void change_key(struct worker *worker, const char *key, bool put)
{
    freshet_change change = FRESHET_INIT(freshet_change);
    freshet_result result;

    if (put)
        result = freshet_put(worker->cache, key, strlen(key), "row", 3, NULL, &change);
    else
        result = freshet_invalidate(worker->cache, key, strlen(key), NULL, &change);
    if (result == FRESHET_OK)
        trace_own("returned", key, change.position, 0, "-");
    else if (result != FRESHET_QUEUED && result != FRESHET_GUARDED)
        odd("a change", result);
}

/* What others do with the key while it is guarded takes a moment. */
static void guard_key(struct worker *worker, const char *key)
{
    freshet_key one = {.data = key, .size = strlen(key)};
    freshet_guard *guard;
    freshet_result result = freshet_guard_begin(worker->cache, &one, 1, NULL, &guard);

    if (result == FRESHET_ENET || result == FRESHET_EREDIS || result == FRESHET_EBUSY)
        return;
    if (result != FRESHET_OK) {
        odd("a guard's begin", result);
        return;
    }
    for (int i = 0; i < 3; i++)
        test_pause();
    result = freshet_guard_end(guard, NULL, NULL);
    if (result != FRESHET_OK && result != FRESHET_QUEUED && result != FRESHET_GUARD_LOST)
        odd("a guard's end", result);
}

static freshet *join_host(uint32_t host)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    freshet *cache = NULL;
    freshet_result result;

    options.dir = dirs[host];
    options.max_staleness_ms = BOUND;
    join.keyring = host_keyring();
    EXPECT(test_until(freshet_open(&cache, &options) == FRESHET_OK, 30000)); /* a stopped sibling may hold the lock */
    result = freshet_join(cache, redis.url, &join);
    EXPECT(result == FRESHET_OK || result == FRESHET_UNPROVEN);
    return cache;
}

_Noreturn static void work(uint32_t index, uint64_t seed)
{
    struct worker worker = {.index = index, .host = index % HOSTS, .seed = seed};

    trace_begin(worker.host);
    worker.cache = join_host(worker.host);
    while (shared->operations++ < shared->target) {
        uint64_t dice = test_random(&worker.seed);
        char key[16];

        snprintf(key, sizeof key, "row:%u", (unsigned)(dice >> 32) % KEYS);
        if (dice % 4000 == 0)
            (void)freshet_clear(worker.cache, NULL, NULL);
        else if (dice % 200 == 1)
            guard_key(&worker, key);
        else if (dice % 100 < 6)
            change_key(&worker, key, dice % 100 < 2);
        else
            read_key(&worker, key, dice % 100 >= 20);
    }
    freshet_close(worker.cache);
    test_child_done();
}

/* ---- the run ---- */

static pid_t begin_worker(uint32_t index, uint64_t seed)
{
    pid_t child = test_fork();

    if (child == 0)
        work(index, seed);
    return child;
}

static void wait_ms(uint64_t ms)
{
    int64_t end = test_now_ns() + (int64_t)ms * NS_PER_MS;

    while (test_now_ns() < end && shared->operations < shared->target)
        test_pause();
}

static void fault(pid_t *workers, uint64_t *seed)
{
    static unsigned flushes;
    uint64_t dice = test_random(seed);
    uint32_t victim = (uint32_t)(dice >> 32) % WORKERS;

    if (shared->operations > shared->target / 4 * (flushes + 1)) { /* at a quarter, at half, ... */
        redis_do(&redis, "FLUSHALL");
        flushes++;
    } else if (dice % 10 < 4) {
        test_kill(workers[victim], SIGKILL);
        workers[victim] = begin_worker(victim, dice | 1);
    } else if (dice % 10 < 6) {
        test_kill(workers[victim], SIGSTOP);
        wait_ms(20 + (dice >> 8) % (2 * BOUND));
        test_kill(workers[victim], SIGCONT);
    } else if (dice % 10 < 9) {
        redis_do(&redis, dice >> 9 & 1 ? "CLIENT KILL TYPE normal" : "CLIENT KILL TYPE pubsub");
    } else {
        redis_do(&redis, "CLIENT PAUSE %d WRITE", (int)((dice >> 8) % BOUND));
    }
}

/* All that was written down is confirmed in the end: somebody has to be there for it. */
static void settle(uint32_t host)
{
    pid_t child = test_fork();

    if (child == 0) {
        freshet *cache;

        trace_begin(host);
        cache = join_host(host);
        EXPECT(test_until(stats_of(cache).outbox == 0 && stats_of(cache).proven_age_ms >= 0, 30000));
        freshet_close(cache);
        test_child_done();
    }
    test_join(child);
}

static void check(void)
{
    char bound[16];
    int status;
    pid_t child;

    snprintf(bound, sizeof bound, "%d", BOUND);
    child = test_fork();
    if (child == 0) {
        execl(TEST_PYTHON, TEST_PYTHON, TEST_TRACE_CHECK, "--bound-ms", bound, "--spoil", traces, (char *)NULL);
        _exit(127);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    EXPECT(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_LONG(what_real_runs_do_is_what_the_model_allows, 300)
{
    pid_t workers[WORKERS];
    uint64_t seed = 7;
    int status;

    redis_start(&redis, NULL);
    (void)host_keyring();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(shared != MAP_FAILED);
    shared->target = test_long_runs() ? 1000000 : 30000;
    traces = fresh_dir();
    for (uint32_t host = 0; host < HOSTS; host++)
        dirs[host] = fresh_dir();
    for (uint32_t i = 0; i < WORKERS; i++)
        workers[i] = begin_worker(i, i + 1);
    while (shared->operations < shared->target) {
        wait_ms(50 + test_random(&seed) % 150);
        fault(workers, &seed);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        while (waitpid(workers[i], &status, 0) < 0 && errno == EINTR)
            continue;
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    redis_do(&redis, "CLIENT UNPAUSE");
    for (uint32_t host = 0; host < HOSTS; host++)
        settle(host);
    EXPECT_EQ(shared->odd, 0);
    check();
    redis_stop(&redis);
}
