/*
 * storm_test.c - several hosts, several processes on each, everything at once: loads, gets, writes plain and guarded,
 * while processes are killed and stopped, connections cut, the network made slow and deaf, Redis's writes paused, its
 * data flushed, its replica promoted; and every answer is checked against the history of the "database" that stands
 * behind the cache.
 *
 * The database is shared memory.  A writer commits a new version of a row, then changes the cache; when the change is
 * confirmed, all older versions of the row are void from that moment on.  A read is wrong when
 *   - it is no value that was ever written for its key (corrupted),
 *   - it is older than what a process of the same host has changed before the read began (P3),
 *   - it had been void for longer than the bound at the last look at the clock (P1),
 * and an invalidation is lost when, after all has calmed down, a host still has something older than the row.
 *
 * Two storms: one of many writes, whose Redis loses its data now and then, and one of many reads on four hosts of four
 * processes, each host behind a faulty network of its own, with a master and a replica that change places.  Here a
 * replica is promoted only when it has everything: what a master had confirmed and lost is another test's
 * (failover_test.c), since the bound is then relative to the new one.
 *
 * FRESHET_STORM_OPERATIONS in the environment sets how many operations (else 100,000 and 1,000,000; with
 * TEST_LONG_RUNS=1 1,000,000 and 103,000,000, of which 98 in a hundred are reads).
 */
#include <chaos.h>
#include <freshet_fleet.h>
#include <hosts.h>
#include <test.h>

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BOUND      500
#define NS_PER_MS  1000000LL
#define HOSTS_MOST 4u
#define KEYS       512u
#define VERSIONS   8192u
#define VALUE_MOST 6000u

#define WORKERS_MOST  16u
#define GUARD_HOLD_MS 2000u

struct row {
    _Atomic uint32_t lock;                   /* the worker that writes it, plus one; 0: nobody */
    _Atomic uint32_t version;                /* committed */
    _Atomic uint32_t host_least[HOSTS_MOST]; /* no process of this host may get an older one any more */
    _Atomic int64_t void_ns[VERSIONS]; /* when the change that voids this version was known to be confirmed; 0: not */
};

struct counts {
    _Atomic uint64_t operations, reads, from_tier, from_redis, from_loader, misses, writes, puts, queued, clears;
    _Atomic uint64_t guards, guards_lost;
    _Atomic uint64_t too_old, before_own, corrupted, from_future, odd;
    _Atomic int64_t oldest_ns; /* the longest that an answer had been void */
    uint64_t kills, stops, cuts, pauses, flushes, fail_overs, network;
};

struct storm {
    struct row rows[KEYS];
    struct counts counts;
    uint64_t target;
    _Atomic uint64_t restarts[WORKERS_MOST];
};

/* What kind of storm. */
static struct shape {
    uint32_t hosts, workers;
    uint32_t writes; /* of 10,000 operations; a tenth of them are guarded */
    bool network;    /* each host has one of its own, and Redis a replica; else Redis loses its data now and then */
} shape;

static struct storm *storm;
static struct redis servers[2], *redis = &servers[0]; /* redis: the master */
static struct redis ways[HOSTS_MOST];                 /* by which a host reaches it */
static struct chaos nets[HOSTS_MOST];
static char address[160]; /* of the master: a link to its socket */
static const char *dirs[HOSTS_MOST];

/* ---- values ---- */

struct head {
    uint32_t key, version, size;
    uint32_t check;
};

/* FNV-1a, for want of anything better: it is chance that we guard against here. */
static uint32_t check_sum(const uint8_t *bytes, size_t size, uint32_t sum)
{
    for (size_t i = 0; i < size; i++)
        sum = (sum ^ bytes[i]) * 16777619u;
    return sum;
}

/* The value of a version of a row: most fit a page, some do not. */
static size_t value_make(uint8_t *value, uint32_t key, uint32_t version)
{
    uint64_t seed = (uint64_t)key << 32 | version;
    uint64_t dice = test_random(&seed);
    struct head head = {key, version, 0, 0};

    head.size = (uint32_t)(dice % 8 == 0 ? dice / 8 % (VALUE_MOST - sizeof head) : dice / 8 % 200);
    for (uint32_t i = 0; i < head.size; i++)
        value[sizeof head + i] = i % 8 ? (uint8_t)(value[sizeof head + i - 1] + 17) : (uint8_t)test_random(&seed);
    head.check = check_sum(value + sizeof head, head.size, check_sum((uint8_t *)&head, 12, 2166136261u));
    memcpy(value, &head, sizeof head);
    return sizeof head + head.size;
}

/* The version that a value is of; false: it is none of this key's. */
static bool value_check(const freshet_buf *buf, uint32_t key, uint32_t *ret_version)
{
    struct head head;

    if (buf->size < sizeof head)
        return false;
    memcpy(&head, buf->data, sizeof head);
    *ret_version = head.version;
    return head.key == key && head.version < VERSIONS && buf->size == sizeof head + head.size &&
           head.check ==
               check_sum((uint8_t *)buf->data + sizeof head, head.size, check_sum((uint8_t *)&head, 12, 2166136261u));
}

/* ---- a worker: one process of one host ---- */

struct worker {
    uint32_t index, host;
    uint64_t seed;
    freshet *cache;
    freshet_buf buf;
};

static size_t key_name(char *name, size_t size, uint32_t key)
{
    return (size_t)snprintf(name, size, "row:%u", key);
}

static freshet_result load_row(freshet_load_request *request, freshet_buf *value, void *arg)
{
    static _Thread_local uint8_t bytes[VALUE_MOST];
    uint32_t key = *(uint32_t *)arg;

    (void)request;
    return freshet_buf_set(value, bytes, value_make(bytes, key, storm->rows[key].version));
}

static void raise_to(_Atomic uint32_t *word, uint32_t value)
{
    uint32_t old = *word;

    while (old < value && !atomic_compare_exchange_weak(word, &old, value))
        continue;
}

/* Tell of a wrong answer, the first few in full. */
static void wrong(_Atomic uint64_t *counter, const char *what, const struct worker *worker, uint32_t key, uint32_t got,
                  const freshet_answer *answer, int64_t late_ns)
{
    if ((*counter)++ < 5)
        fprintf(stderr,
                "storm: worker %u, host %u, row %u: %s: version %u (row %u, host's least %u), source %d, age bound "
                "%lld ms, "
                "position %llu, void for %lld us\n",
                worker->index, worker->host, key, what, got, storm->rows[key].version,
                storm->rows[key].host_least[worker->host], (int)answer->source, (long long)answer->age_bound_ms,
                (unsigned long long)answer->position, (long long)(late_ns / 1000));
}

/* Judge what was read. `begun_ns`, `least`: from before the call. */
static void judge(const struct worker *worker, uint32_t key, const freshet_answer *answer, int64_t begun_ns,
                  uint32_t least)
{
    struct counts *counts = &storm->counts;
    struct row *row = &storm->rows[key];
    int64_t moment_ns = answer->source == FRESHET_FROM_TIER ? answer->judged_at_ns : begun_ns;
    int64_t void_ns, late_ns;
    uint32_t version = 0;

    counts->reads++;
    if (!value_check(&worker->buf, key, &version)) {
        wrong(&counts->corrupted, "corrupted", worker, key, version, answer, 0);
        return;
    }
    if (answer->source == FRESHET_FROM_TIER)
        counts->from_tier++;
    else if (answer->source == FRESHET_FROM_REDIS)
        counts->from_redis++;
    else
        counts->from_loader++;
    if (version > row->version)
        wrong(&counts->from_future, "from the future", worker, key, version, answer, 0);
    if (version < least)
        wrong(&counts->before_own, "older than its own host's change", worker, key, version, answer, 0);
    void_ns = row->void_ns[version];
    late_ns = void_ns ? moment_ns - void_ns : 0;
    if (late_ns > counts->oldest_ns)
        counts->oldest_ns = late_ns;
    if (late_ns > BOUND * NS_PER_MS)
        wrong(&counts->too_old, "beyond the bound", worker, key, version, answer, late_ns);
}

/* Count an answer that there should not be. */
static void odd(const char *what, freshet_result result)
{
    if (storm->counts.odd++ < 5)
        fprintf(stderr, "storm: %s answered %s: %s\n", what, freshet_result_name(result), freshet_error());
}

/* Get or load, and judge. */
static void read_row(struct worker *worker, uint32_t key, bool load)
{
    struct row *row = &storm->rows[key];
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    uint32_t least = row->host_least[worker->host];
    int64_t begun_ns = test_now_ns();
    freshet_result result;
    char name[16];
    size_t size = key_name(name, sizeof name, key);

    if (load)
        result = freshet_load(worker->cache, name, size, NULL, load_row, &key, &worker->buf, &answer);
    else
        result = freshet_get(worker->cache, name, size, NULL, &worker->buf, &answer);
    if (result == FRESHET_OK)
        judge(worker, key, &answer, begun_ns, least);
    else if (result == FRESHET_MISS && !load)
        storm->counts.misses++;
    else
        odd("a read", result);
}

/* The change that voids everything below `version` was confirmed (or, queued, is known to this host). */
static void note_change(const struct worker *worker, uint32_t key, uint32_t version, freshet_result result)
{
    struct row *row = &storm->rows[key];
    int64_t now_ns = test_now_ns();

    raise_to(&row->host_least[worker->host], version);
    if (result == FRESHET_OK)
        for (uint32_t v = version; v-- > 0 && row->void_ns[v] == 0;)
            row->void_ns[v] = now_ns;
    else
        storm->counts.queued++;
}

/* Change the cache for a version that is committed.  Under the row's lock. */
static void change_row(struct worker *worker, uint32_t key, uint32_t version, bool put)
{
    static uint8_t value[VALUE_MOST];
    freshet_result result;
    char name[16];
    size_t size = key_name(name, sizeof name, key);

    if (put)
        result = freshet_put(worker->cache, name, size, value, value_make(value, key, version), NULL, NULL);
    else
        result = freshet_invalidate(worker->cache, name, size, NULL, NULL);
    if (result == FRESHET_GUARDED) /* a guard of somebody who died: it was an invalidation */
        result = FRESHET_OK;
    if (result == FRESHET_OK || result == FRESHET_QUEUED)
        note_change(worker, key, version, result);
    else
        odd("a change", result);
}

/* The same with a guard around the commit.  False: there was none to be had, and nothing was committed. */
static bool change_guarded(struct worker *worker, uint32_t key, uint32_t version)
{
    freshet_guard_options options = FRESHET_INIT(freshet_guard_options);
    freshet_guard *guard = NULL;
    freshet_result result;
    char name[16];
    freshet_key one = {.data = name, .size = key_name(name, sizeof name, key)};

    options.hold_ms = GUARD_HOLD_MS;
    result = freshet_guard_begin(worker->cache, &one, 1, &options, &guard);
    if (result != FRESHET_OK) {
        if (result != FRESHET_ENET && result != FRESHET_EREDIS && result != FRESHET_EBUSY)
            odd("guard_begin", result);
        return false;
    }
    storm->rows[key].version = version;
    result = freshet_guard_end(guard, NULL, NULL);
    storm->counts.guards++;
    storm->counts.guards_lost += result == FRESHET_GUARD_LOST;
    if (result == FRESHET_GUARD_LOST) /* it was an invalidation all the same */
        result = FRESHET_OK;
    if (result == FRESHET_OK || result == FRESHET_QUEUED)
        note_change(worker, key, version, result);
    else
        odd("guard_end", result);
    return true;
}

/* Commit the next version of a row and change the cache, unless somebody else is at it. */
static void write_row(struct worker *worker, uint32_t key, bool put, bool guarded)
{
    struct row *row = &storm->rows[key];
    uint32_t nobody = 0, version;

    if (!atomic_compare_exchange_strong(&row->lock, &nobody, worker->index + 1))
        return;
    version = row->version + 1;
    if (version < VERSIONS && !(guarded && change_guarded(worker, key, version))) {
        row->version = version;
        change_row(worker, key, version, put);
        storm->counts.puts += put;
    }
    storm->counts.writes++;
    row->lock = 0;
}

/* What an application does after a crash: invalidate the rows whose writer died. */
static void recover(struct worker *worker)
{
    for (uint32_t key = 0; key < KEYS; key++)
        if (storm->rows[key].lock == worker->index + 1) {
            change_row(worker, key, storm->rows[key].version, false);
            storm->rows[key].lock = 0;
        }
}

static freshet *join_host(uint32_t host)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    freshet *cache = NULL;
    freshet_result result;

    options.dir = dirs[host];
    options.tier_size = 2u << 20; /* too small for all of it: eviction is part of the storm */
    options.max_staleness_ms = BOUND;
    join.keyring = host_keyring();
    EXPECT(test_until(freshet_open(&cache, &options) == FRESHET_OK, 30000)); /* a stopped sibling may hold the lock */
    result = freshet_join(cache, ways[host].url, &join);
    if (result != FRESHET_OK && result != FRESHET_UNPROVEN)
        fprintf(stderr, "storm: join: %s: %s\n", freshet_result_name(result), freshet_error());
    EXPECT(result == FRESHET_OK || result == FRESHET_UNPROVEN);
    return cache;
}

_Noreturn static void work(uint32_t index)
{
    struct worker worker = {.index = index, .host = index % shape.hosts};

    worker.seed = index + 1000 * storm->restarts[index]++;
    worker.cache = join_host(worker.host);
    recover(&worker);
    while (storm->counts.operations++ < storm->target) {
        uint64_t dice = test_random(&worker.seed);
        uint32_t key = (uint32_t)(dice >> 32) % KEYS, kind = (uint32_t)(dice % 10000);

        if ((dice >> 16) % 250000 < shape.writes / 10) {
            freshet_result result = freshet_clear(worker.cache, NULL, NULL);

            storm->counts.clears++;
            EXPECT(result == FRESHET_OK || result == FRESHET_QUEUED);
        } else if (kind < shape.writes) {
            write_row(&worker, key, kind % 5 < 2, kind % 10 == 9);
        } else {
            read_row(&worker, key, kind % 10 > 0);
        }
    }
    freshet_buf_free(&worker.buf);
    freshet_close(worker.cache);
    test_child_done();
}

/* ---- the storm ---- */

static void wait_ms(uint64_t ms)
{
    int64_t end = test_now_ns() + (int64_t)ms * NS_PER_MS;

    while (test_now_ns() < end && storm->counts.operations < storm->target)
        test_pause();
}

static pid_t begin_worker(uint32_t index)
{
    pid_t child = test_fork();

    if (child == 0)
        work(index);
    return child;
}

/* How far a server's history goes, by the name that INFO gives it. */
static long long offset_of(struct redis *server, const char *name)
{
    const char *at = strstr(redis_do(server, "INFO replication"), name);

    EXPECT(at != NULL);
    return strtoll(at + strlen(name), NULL, 10);
}

/* The master and its replica change places.  Nobody reaches either until the replica has everything. */
static void fail_over(void)
{
    struct redis *next = redis == &servers[0] ? &servers[1] : &servers[0];
    char link[170];

    for (uint32_t host = 0; host < shape.hosts; host++) {
        chaos_do(&nets[host], "refuse");
        chaos_do(&nets[host], "reset");
    }
    EXPECT(test_until(offset_of(redis, "master_repl_offset:") == offset_of(next, "slave_repl_offset:"), 20000));
    redis_do(next, "REPLICAOF NO ONE");
    redis_do(redis, "REPLICAOF 127.0.0.1 %d", next->port);
    snprintf(link, sizeof link, "%s.new", address);
    EXPECT_EQ(symlink(next->socket, link), 0);
    EXPECT_EQ(rename(link, address), 0);
    redis = next;
    for (uint32_t host = 0; host < shape.hosts; host++)
        chaos_do(&nets[host], "accept");
    EXPECT(test_until(strstr(redis_do(redis, "INFO replication"), "state=online") != NULL, 30000));
    storm->counts.fail_overs++;
}

/* What is wrong just now, and until when; 0: nothing. */
static int64_t net_until_ns[HOSTS_MOST], stopped_until_ns[WORKERS_MOST];

static int64_t in_a_while(uint64_t dice, uint32_t most_ms)
{
    return test_now_ns() + (int64_t)(20 + dice % most_ms) * NS_PER_MS;
}

/* For a while a host's network is not what it was. */
static void bad_network(uint64_t dice)
{
    static const char *const faults[] = {"latency 20 jitter 15",
                                         "bandwidth 200K",
                                         "half-open",
                                         "half-open down",
                                         "half-open up",
                                         "pause",
                                         "reset 300",
                                         "drop 100 down",
                                         "latency 400",
                                         "half-open next 1",
                                         "pause next 1",
                                         "refuse"};
    uint32_t host = (uint32_t)(dice >> 24) % shape.hosts;

    chaos_do(&nets[host], "%s", faults[(dice >> 32) % (sizeof faults / sizeof *faults)]);
    net_until_ns[host] = in_a_while(dice >> 8, BOUND);
    storm->counts.network++;
}

/* End what has lasted long enough. */
static void mend(const pid_t *workers, int64_t now_ns)
{
    for (uint32_t host = 0; host < shape.hosts; host++)
        if (net_until_ns[host] && now_ns >= net_until_ns[host]) {
            chaos_do(&nets[host], "clear");
            chaos_do(&nets[host], "resume");
            chaos_do(&nets[host], "accept");
            net_until_ns[host] = 0;
        }
    for (uint32_t i = 0; i < shape.workers; i++)
        if (stopped_until_ns[i] && now_ns >= stopped_until_ns[i]) {
            test_kill(workers[i], SIGCONT);
            stopped_until_ns[i] = 0;
        }
}

/* One fault. */
static void fault(pid_t *workers, uint64_t *seed)
{
    struct counts *counts = &storm->counts;
    uint64_t dice = test_random(seed);
    uint32_t victim = (uint32_t)(dice >> 32) % shape.workers;

    if (shape.network && dice % 100 < 2) {
        fail_over();
    } else if (shape.network && dice % 100 < 20) {
        bad_network(dice);
    } else if (!shape.network && dice % 40 == 0) {
        redis_do(redis, "FLUSHALL");
        counts->flushes++;
    } else if (dice % 10 < 4) {
        test_kill(workers[victim], SIGKILL);
        workers[victim] = begin_worker(victim);
        stopped_until_ns[victim] = 0;
        counts->kills++;
    } else if (dice % 10 < 6) {
        test_kill(workers[victim], SIGSTOP);
        stopped_until_ns[victim] = in_a_while(dice >> 8, 2 * BOUND);
        counts->stops++;
    } else if (dice % 10 < 9) {
        redis_do(redis, dice >> 9 & 1 ? "CLIENT KILL TYPE normal" : "CLIENT KILL TYPE pubsub");
        counts->cuts++;
    } else {
        redis_do(redis, "CLIENT PAUSE %d WRITE", (int)((dice >> 8) % (2 * BOUND)));
        counts->pauses++;
    }
}

static uint64_t operations_wanted(uint64_t usual, uint64_t many)
{
    const char *word = getenv("FRESHET_STORM_OPERATIONS");
    unsigned long long count = word ? strtoull(word, NULL, 10) : 0;

    return count ? count : test_long_runs() ? many : usual;
}

/* Wait until every host has sent what it had queued, for a process of its own is needed for that, and the others have
 * heard of it. */
static void calm_down(freshet *caches[])
{
    int64_t end;

    for (uint32_t host = 0; host < shape.hosts; host++) {
        freshet_stats stats = FRESHET_INIT(freshet_stats);

        caches[host] = join_host(host);
        EXPECT(test_until(freshet_stat(caches[host], &stats) == FRESHET_OK && stats.outbox == 0 &&
                              stats.proven_age_ms >= 0 && stats.proven_age_ms < BOUND,
                          30000));
    }
    for (end = test_now_ns() + 2 * BOUND * NS_PER_MS; test_now_ns() < end;)
        test_pause();
}

/* All has calmed down: the host has nothing older than the row. */
static uint64_t lost_invalidations(freshet *cache, uint32_t host)
{
    struct worker worker = {.host = host, .cache = cache};
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    uint64_t lost = 0;

    for (uint32_t key = 0; key < KEYS; key++) {
        char name[16];
        size_t size = key_name(name, sizeof name, key);
        uint32_t version = 0;

        if (freshet_get(worker.cache, name, size, NULL, &worker.buf, &answer) != FRESHET_OK)
            continue;
        if (value_check(&worker.buf, key, &version) && version == storm->rows[key].version)
            continue;
        wrong(&storm->counts.too_old, "left behind", &worker, key, version, &answer, 0);
        lost++;
    }
    freshet_buf_free(&worker.buf);
    return lost;
}

static void print_counts(uint64_t lost, int64_t took_ns)
{
    struct counts *c = &storm->counts;

    printf(
        "storm: %llu operations in %.1f s: %llu reads (%llu tier, %llu Redis, %llu loader), %llu misses, %llu writes "
        "(%llu puts, %llu queued), %llu clears\n",
        (unsigned long long)c->operations, (double)took_ns / 1e9, (unsigned long long)c->reads,
        (unsigned long long)c->from_tier, (unsigned long long)c->from_redis, (unsigned long long)c->from_loader,
        (unsigned long long)c->misses, (unsigned long long)c->writes, (unsigned long long)c->puts,
        (unsigned long long)c->queued, (unsigned long long)c->clears);
    printf("storm: %llu kills, %llu stops, %llu cuts, %llu pauses, %llu flushes, %llu bad networks, %llu fail-overs; "
           "%llu guards, %llu of them lost\n",
           (unsigned long long)c->kills, (unsigned long long)c->stops, (unsigned long long)c->cuts,
           (unsigned long long)c->pauses, (unsigned long long)c->flushes, (unsigned long long)c->network,
           (unsigned long long)c->fail_overs, (unsigned long long)c->guards, (unsigned long long)c->guards_lost);
    printf("storm: %llu reads beyond the bound of %d ms (the oldest void for %lld ms), %llu before own changes, "
           "%llu lost invalidations, %llu corrupted\n",
           (unsigned long long)c->too_old, BOUND, (long long)(c->oldest_ns / NS_PER_MS),
           (unsigned long long)c->before_own, (unsigned long long)lost, (unsigned long long)c->corrupted);
}

/* Servers, networks, and what everybody shares. */
static void begin_storm(uint64_t operations)
{
    static const char *const at_once[] = {"--repl-diskless-sync-delay", "0", NULL};

    if (shape.network) {
        redis_start_tcp(&servers[0], at_once);
        redis_start_tcp(&servers[1], at_once);
        redis_do(&servers[1], "REPLICAOF 127.0.0.1 %d", servers[0].port);
        EXPECT(test_until(strstr(redis_do(&servers[0], "INFO replication"), "state=online") != NULL, 20000));
    } else {
        redis_start(&servers[0], NULL);
    }
    snprintf(address, sizeof address, "%s/master", fresh_dir());
    EXPECT_EQ(symlink(redis->socket, address), 0);
    for (uint32_t host = 0; host < shape.hosts; host++) {
        char to[170];

        snprintf(to, sizeof to, "unix:%s", address);
        ways[host] = *redis;
        if (shape.network) {
            chaos_start(&nets[host], to, CHAOS_UNIX, NULL);
            ways[host] = chaos_redis(&nets[host], redis);
        }
        dirs[host] = fresh_dir();
    }
    (void)host_keyring();
    storm = mmap(NULL, sizeof *storm, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(storm != MAP_FAILED);
    storm->target = operations;
}

static void end_storm(void)
{
    for (uint32_t host = 0; shape.network && host < shape.hosts; host++)
        chaos_stop(&nets[host]);
    for (uint32_t i = 0; i < 2; i++)
        if (servers[i].pid)
            redis_stop(&servers[i]);
}

static void storm_through(uint64_t operations)
{
    pid_t workers[WORKERS_MOST];
    freshet *caches[HOSTS_MOST];
    uint64_t seed = 42, lost = 0;
    int64_t begun_ns;
    int status;

    begin_storm(operations);
    begun_ns = test_now_ns();
    for (uint32_t i = 0; i < shape.workers; i++)
        workers[i] = begin_worker(i);
    while (storm->counts.operations < storm->target) {
        wait_ms(10 + test_random(&seed) % 100);
        mend(workers, test_now_ns());
        fault(workers, &seed);
    }
    mend(workers, INT64_MAX);
    for (uint32_t i = 0; i < shape.workers; i++) {
        while (waitpid(workers[i], &status, 0) < 0 && errno == EINTR)
            continue;
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    redis_do(redis, "CLIENT UNPAUSE");
    begun_ns = test_now_ns() - begun_ns;
    for (uint32_t key = 0; key < KEYS; key++) /* a last kill may have left a row locked: its restart recovers it */
        EXPECT_EQ(storm->rows[key].lock, 0);
    calm_down(caches);
    for (uint32_t host = 0; host < shape.hosts; host++) {
        lost += lost_invalidations(caches[host], host);
        freshet_close(caches[host]);
    }
    print_counts(lost, begun_ns);
    EXPECT_EQ(storm->counts.too_old, 0);
    EXPECT_EQ(storm->counts.before_own, 0);
    EXPECT_EQ(storm->counts.corrupted, 0);
    EXPECT_EQ(storm->counts.from_future, 0);
    EXPECT_EQ(storm->counts.odd, 0);
    EXPECT_EQ(lost, 0);
    EXPECT(storm->counts.from_tier > storm->counts.operations / 10 &&
           storm->counts.from_redis > 0); /* it was a test at all */
    end_storm();
}

TEST_LONG(in_a_storm_nothing_is_stale_lost_or_corrupted, 1200)
{
    shape = (struct shape){.hosts = 2, .workers = 4, .writes = 500};
    storm_through(operations_wanted(test_sanitized() ? 30000 : 100000, 1000000));
}

TEST_LONG(four_hosts_on_bad_networks_keep_every_promise_through_fail_overs, 7200)
{
    shape = (struct shape){.hosts = 4, .workers = 16, .writes = 20, .network = true};
    storm_through(operations_wanted(test_sanitized() ? 40000 : 1000000, 103000000));
}
