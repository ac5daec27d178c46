/*
 * demo_worker.c - one of the four processes that read and write.
 *
 * A worker takes the trace's next request, whoever is free first, as a web server's processes take what comes in.  One
 * request in twenty changes the row; which ones follows from the request's number, so that both caches under test get
 * the very same work.  Every answer goes through demo_check.
 *
 * Two workers on different hosts have a second thread that measures how long an invalidation takes: one calls it, the
 * other watches an entry go from its host's tier.
 */
#include "demo.h"

#include <freshet_fleet.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define IDLE_NS 200000L
#define DEADLINE_MS 5000u
#define PROBE_MS 2000 /* a probe that takes longer has lost its partner */
#define PROBE_PAUSE_NS 10000000L /* between probes: watching takes a whole core, which the load needs */

struct worker {
    struct demo demo;
    struct demo_worker *me;
    unsigned number;
    uint32_t host;
    freshet *cache;
    freshet_buf buf;
    struct demo_table *table[SIDES];
    struct demo_redis *redis;
};

struct key {
    char text[24];
    size_t size;
};

static struct key row_key(const struct worker *worker, uint32_t row)
{
    struct key key;

    key.size = (size_t)snprintf(key.text, sizeof key.text, "row:%d", worker->demo.ids[row]);
    return key;
}

/* ---- through Freshet ---- */

struct loading {
    struct worker *worker;
    uint32_t row;
};

/* The loader: read the row from the table. */
static freshet_result load_row(freshet_load_request *request, freshet_buf *value, void *arg)
{
    struct loading *loading = arg;
    uint8_t bytes[DEMO_VALUE_MAX];
    size_t size = demo_table_read(loading->worker->table[SIDE_FRESHET], loading->row, bytes);

    (void)request;
    return size ? freshet_buf_set(value, bytes, size) : FRESHET_EIO;
}

static void fresh_read(struct worker *worker, uint32_t row)
{
    static const enum demo_counter counter[] = {COUNT_FAILED, COUNT_TIER, COUNT_REDIS, COUNT_LOADS};
    struct demo_read read = {.side = SIDE_FRESHET, .row = row, .host = worker->host};
    struct loading loading = {worker, row};
    struct key key = row_key(worker, row);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    freshet_result result;

    read.begin_ns = read.judged_ns = demo_now_ns();
    result = freshet_load(worker->cache, key.text, key.size, NULL, load_row, &loading, &worker->buf, &answer);
    if (result != FRESHET_OK || (unsigned)answer.source > FRESHET_FROM_LOADER) {
        demo_count(worker->me, COUNT_FAILED);
        fprintf(stderr, "demo: read: %s: %s\n", freshet_result_name(result), freshet_error());
        return;
    }
    demo_count_span(worker->me, demo_now_ns() - read.begin_ns);
    demo_count(worker->me, COUNT_READS);
    demo_count(worker->me, counter[answer.source]);
    read.source = answer.source;
    if (answer.source == FRESHET_FROM_TIER) {
        read.judged_ns = answer.judged_at_ns;
        read.allowed_ns = worker->demo.shared->bound_ms * 1000000LL;
    }
    demo_check(&worker->demo, worker->me, &read, worker->buf.data, worker->buf.size);
}

/* Tell everybody that the row has changed, and write down when that was confirmed (of a known change). */
static void announce(struct worker *worker, uint32_t row, uint32_t change)
{
    struct key key = row_key(worker, row);
    freshet_result result = freshet_invalidate(worker->cache, key.text, key.size, NULL, NULL);

    if (result == FRESHET_OK) {
        if (change)
            atomic_store(&worker->demo.changes[SIDE_FRESHET][change].confirmed_ns, demo_now_ns());
    } else if (result == FRESHET_QUEUED) {
        demo_count(worker->me, COUNT_QUEUED);
    } else {
        demo_count(worker->me, COUNT_FAILED);
        fprintf(stderr, "demo: invalidate: %s: %s\n", freshet_result_name(result), freshet_error());
    }
}

static void fresh_write(struct worker *worker, uint32_t row)
{
    struct demo_worker *me = worker->me;
    uint32_t change;

    atomic_store(&me->in_hand, row);
    atomic_store(&me->change, 0);
    atomic_store(&me->stage, STAGE_COMMITTING);
    change = demo_table_change(worker->table[SIDE_FRESHET], row, worker->host);
    if (change) {
        atomic_store(&me->change, change);
        atomic_store(&me->stage, STAGE_INVALIDATING);
        announce(worker, row, change);
    }
    atomic_store(&me->stage, STAGE_NONE);
    demo_count(me, change ? COUNT_WRITES : COUNT_FAILED);
}

/* What a careful application does on its start: announce again what its predecessor may not have. */
static void announce_again(struct worker *worker)
{
    if (atomic_load(&worker->me->stage) != STAGE_NONE)
        announce(worker, atomic_load(&worker->me->in_hand), atomic_load(&worker->me->change));
    atomic_store(&worker->me->stage, STAGE_NONE);
}

/* ---- naively: cache-aside on Redis with a time to live ---- */

static void naive_read(struct worker *worker, uint32_t row)
{
    struct demo_read read = {.side = SIDE_NAIVE, .row = row, .host = worker->host, .source = FRESHET_FROM_REDIS};
    struct key key = row_key(worker, row);
    uint8_t value[DEMO_VALUE_MAX];
    int size;

    read.allowed_ns = worker->demo.shared->bound_ms * 1000000LL; /* so that both sides' figures say the same */
    read.begin_ns = read.judged_ns = demo_now_ns();
    size = demo_redis_get(worker->redis, key.text, value);
    if (size == 0) {
        read.source = FRESHET_FROM_LOADER;
        size = (int)demo_table_read(worker->table[SIDE_NAIVE], row, value);
        if (size > 0 && !demo_redis_setex(worker->redis, key.text, DEMO_TTL_S, value, (size_t)size))
            size = -1;
    }
    if (size <= 0) {
        demo_count(worker->me, COUNT_FAILED);
        return;
    }
    demo_count_span(worker->me, demo_now_ns() - read.begin_ns);
    demo_count(worker->me, COUNT_READS);
    demo_count(worker->me, read.source == FRESHET_FROM_REDIS ? COUNT_REDIS : COUNT_LOADS);
    demo_check(&worker->demo, worker->me, &read, value, (size_t)size);
}

static void naive_write(struct worker *worker, uint32_t row)
{
    struct key key = row_key(worker, row);
    uint32_t change = demo_table_change(worker->table[SIDE_NAIVE], row, worker->host);

    if (!change || !demo_redis_del(worker->redis, key.text)) {
        demo_count(worker->me, COUNT_FAILED);
        return;
    }
    atomic_store(&worker->demo.changes[SIDE_NAIVE][change].confirmed_ns, demo_now_ns());
    demo_count(worker->me, COUNT_WRITES);
}

/* ---- phases ---- */

static void one_request(struct worker *worker, enum demo_side side, uint64_t index)
{
    const struct demo_shared *shared = worker->demo.shared;
    uint32_t row = worker->demo.trace[index % shared->requests];
    bool write = demo_mix(shared->seed ^ demo_mix(index)) % DEMO_WRITE_EVERY == 0;

    if (side == SIDE_NAIVE)
        write ? naive_write(worker, row) : naive_read(worker, row);
    else
        write ? fresh_write(worker, row) : fresh_read(worker, row);
}

/* The trace's requests, shared with the other workers, until the phase's limit. */
static void work_load(struct worker *worker, enum demo_side side)
{
    struct demo_shared *shared = worker->demo.shared;

    for (;;) {
        uint64_t index = atomic_fetch_add(&shared->next, 1);

        if (index >= atomic_load(&shared->limit))
            return;
        one_request(worker, side, index);
    }
}

/* Every row once on this host, halved between its two workers. */
static void work_sweep(struct worker *worker)
{
    for (uint64_t row = worker->number % 2; row < worker->demo.shared->rows; row += 2)
        fresh_read(worker, (uint32_t)row);
}

static void work(struct worker *worker)
{
    struct demo_shared *shared = worker->demo.shared;
    uint32_t done = 0;

    for (;;) {
        uint32_t serial = atomic_load(&shared->serial), mode = atomic_load(&shared->mode);

        if (mode == MODE_END)
            return;
        if (serial == done || mode == MODE_WAIT) {
            demo_pause(IDLE_NS);
            continue;
        }
        if (mode == MODE_SWEEP)
            work_sweep(worker);
        else
            work_load(worker, (enum demo_side)atomic_load(&shared->side));
        atomic_store(&worker->me->done, done = serial);
    }
}

/* ---- the probe ---- */

static freshet_result load_probe(freshet_load_request *request, freshet_buf *value, void *arg)
{
    (void)request, (void)arg;
    return freshet_buf_set(value, "here", 4);
}

/* Wait for the partner; false: it does not come, or the demo ends. */
static bool probe_await(struct worker *worker, uint32_t state)
{
    struct demo_shared *shared = worker->demo.shared;
    int64_t end = demo_now_ns() + PROBE_MS * 1000000LL;

    while (atomic_load(&shared->probe.state) != state) {
        if (atomic_load(&shared->mode) == MODE_END || demo_now_ns() > end)
            return false;
        demo_pause(20000);
    }
    return true;
}

static size_t probe_key(const struct worker *worker, char key[32])
{
    return (size_t)snprintf(key, 32, "probe:%u", atomic_load(&worker->demo.shared->probe.number) % 64);
}

/* The asker's part of one probe: call, and note when. */
static void probe_ask(struct worker *worker)
{
    struct demo_probe *probe = &worker->demo.shared->probe;
    uint32_t count = atomic_load(&probe->count);
    char key[32];
    size_t size = probe_key(worker, key);
    freshet_result result;

    atomic_store(&probe->called_ns, demo_now_ns());
    atomic_store(&probe->state, PROBE_CALLED);
    result = freshet_invalidate(worker->cache, key, size, NULL, NULL);
    if (probe_await(worker, PROBE_GONE) && result == FRESHET_OK && atomic_load(&probe->valid) &&
        count < DEMO_PROBES_MAX) {
        probe->latency_ns[count] = atomic_load(&probe->gone_ns) - atomic_load(&probe->called_ns);
        if (probe->latency_ns[count] >= 0)
            atomic_store(&probe->count, count + 1);
    }
    atomic_fetch_add(&probe->number, 1);
    atomic_store(&probe->state, PROBE_IDLE);
}

/* The watcher's part: have the entry in the tier, then look until it is gone. */
static void probe_watch(struct worker *worker, freshet_buf *buf)
{
    struct demo_probe *probe = &worker->demo.shared->probe;
    freshet_read_options peek = FRESHET_INIT(freshet_read_options);
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    int64_t end = demo_now_ns() + PROBE_MS * 1000000LL;
    char key[32];
    size_t size = probe_key(worker, key);

    peek.tier_only = true;
    (void)freshet_load(worker->cache, key, size, NULL, load_probe, NULL, buf, NULL);
    (void)freshet_flush(worker->cache, 0);
    if (freshet_get(worker->cache, key, size, &peek, buf, NULL) != FRESHET_OK)
        return; /* try again */
    atomic_store(&probe->state, PROBE_READY);
    while (freshet_get(worker->cache, key, size, &peek, buf, NULL) == FRESHET_OK && demo_now_ns() < end)
        continue;
    atomic_store(&probe->gone_ns, demo_now_ns());
    atomic_store(&probe->valid, freshet_stat(worker->cache, &stats) == FRESHET_OK && stats.proven_age_ms >= 0 &&
                                    stats.proven_age_ms < worker->demo.shared->bound_ms);
    if (probe_await(worker, PROBE_CALLED))
        atomic_store(&probe->state, PROBE_GONE);
    else
        atomic_store(&probe->state, PROBE_IDLE);
}

/* The second thread of asker and watcher. */
static void *probe_run(void *arg)
{
    struct worker *worker = arg;
    struct demo_shared *shared = worker->demo.shared;
    freshet_buf buf = {0};

    while (atomic_load(&shared->mode) != MODE_END) {
        uint32_t state = atomic_load(&shared->probe.state);

        if (worker->number == DEMO_ASKER && state == PROBE_READY)
            probe_ask(worker);
        else if (worker->number == DEMO_WATCHER && state == PROBE_IDLE && atomic_load(&shared->probe.on))
            probe_watch(worker, &buf);
        else
            demo_pause(100000);
        if (worker->number == DEMO_WATCHER && atomic_load(&shared->mode) == MODE_LOAD)
            demo_pause(PROBE_PAUSE_NS);
    }
    freshet_buf_free(&buf);
    return NULL;
}

/* ---- start and end ---- */

static void on_message(freshet_level level, const char *message, void *arg)
{
    static const char *const words[] = {"debug", "info", "warning", "error"};
    FILE *log = arg;

    fprintf(log, "%.3f %d %s: %s\n", (double)demo_now_ns() / 1e9, (int)getpid(), words[level], message);
}

/* Open the host's tier and join the fleet. */
static bool join(struct worker *worker)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet_join_options joining = FRESHET_INIT(freshet_join_options);
    const struct demo *demo = &worker->demo;
    freshet_result result;
    char url[600];

    options.name = DEMO_CACHE;
    options.dir = demo_path(demo, "host-%u", worker->host + 1);
    options.max_staleness_ms = demo->shared->bound_ms;
    options.deadline_ms = DEADLINE_MS;
    joining.keyring = demo_path(demo, "host-%u.keys", worker->host + 1);
    snprintf(url, sizeof url, "unix://%s", demo_path(demo, "redis.sock"));
    result = freshet_open(&worker->cache, &options);
    if (result == FRESHET_OK)
        result = freshet_join(worker->cache, url, &joining);
    if (result != FRESHET_OK)
        fprintf(stderr, "demo: worker %u: %s: %s\n", worker->number, freshet_result_name(result), freshet_error());
    return result == FRESHET_OK;
}

static bool worker_open(struct worker *worker, const char *dir, unsigned number)
{
    *worker = (struct worker){.number = number, .host = number / 2};
    if (number >= DEMO_WORKERS || !demo_open(&worker->demo, dir))
        return false;
    worker->me = &worker->demo.shared->worker[number];
    for (unsigned side = 0; side < SIDES; side++)
        if (!(worker->table[side] = demo_table_open(&worker->demo, (enum demo_side)side)))
            return false;
    if (!(worker->redis = demo_redis_open(&worker->demo)))
        return false;
    return join(worker);
}

static void worker_close(struct worker *worker)
{
    freshet_close(worker->cache);
    freshet_buf_free(&worker->buf);
    for (unsigned side = 0; side < SIDES; side++)
        demo_table_close(worker->table[side]);
    demo_redis_close(worker->redis);
    demo_close(&worker->demo);
}

int demo_worker_main(const char *dir, unsigned number)
{
    struct demo naming = {.dir = dir};
    FILE *log = fopen(demo_path(&naming, "worker-%u.log", number + 1), "ae");
    struct worker worker;
    pthread_t probe;
    bool probing;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!log)
        return 1;
    setvbuf(log, NULL, _IOLBF, 0);
    freshet_log(on_message, log, FRESHET_INFO);
    if (!worker_open(&worker, dir, number)) {
        worker_close(&worker);
        fclose(log);
        return 1;
    }
    announce_again(&worker);
    probing = (number == DEMO_ASKER || number == DEMO_WATCHER) && pthread_create(&probe, NULL, probe_run, &worker) == 0;
    atomic_store(&worker.me->ready, getpid());
    work(&worker);
    if (probing)
        pthread_join(probe, NULL);
    worker_close(&worker);
    freshet_log(NULL, NULL, FRESHET_ERROR);
    fclose(log);
    return 0;
}
