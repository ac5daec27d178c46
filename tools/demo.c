/*
 * demo.c - Freshet's main job, shown and checked: two hosts, four processes, one Redis, a real trace.
 *
 * Run by tools/demo, which builds it and unpacks the trace.  This is the first process: it makes the table and the
 * keyrings, starts Redis and the workers, and steers them from phase to phase:
 *
 *     invalidations alone   how long one takes when nothing else runs
 *     the trace, Freshet    every read checked against the table's history
 *     the trace, naively    the same requests through GET / SETEX / DEL, checked in the same way
 *     faults, under load    a cut connection, forged frames, a replayed one, a process killed in mid-write
 *     every row, both hosts what was not lost must be there
 *
 * A phase begins and ends with idle workers, so its counts are its own.  What is started here is ended here, by its
 * own pid, and the directory goes with it, also when somebody presses ^C.
 *
 * usage: freshet-demo --trace FILE [--reads N] [--bound MS] [--seed N] [--json FILE]
 * Exit status: 0 no stale read and nothing else amiss, 1 otherwise, 2 bad usage.
 */
#include "demo.h"

#include <errno.h>
#include <freshet_fleet.h>
#include <ftw.h>
#include <getopt.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHANNEL "freshet:{" DEMO_CACHE ":0}:frames"
#define FRAME_MOST 20000u
#define ROOM_BYTES (256u << 20) /* what the demo wants of /dev/shm, else it goes to TMPDIR */
#define QUIET_PROBES 400u
#define QUIET_MS 20000
#define EFFECT_MS 15000   /* a fault must have shown its effect by then */
#define FAULT_NS 2000000000LL /* and is watched under load for so long: four bounds */
#define START_MS 30000
#define REPLAYS 100u

extern char **environ;

struct options {
    const char *trace, *json;
    uint64_t reads, seed;
    uint32_t bound_ms;
};

/* The whole demo, as its first process has it. */
struct stage {
    struct demo demo;
    struct demo_figures figures;
    char dir[256];
    pid_t redis_pid, worker_pid[DEMO_WORKERS];
    struct demo_redis *redis;
    freshet *host[DEMO_HOSTS]; /* to look at, not joined */
    bool broken;               /* something did not run: no good end */
};

static struct stage stage;
static volatile sig_atomic_t told_to_end;

/* ---- start and end ---- */

static void on_signal(int signal)
{
    told_to_end = signal;
}

static int remove_one(const char *path, const struct stat *stat, int type, struct FTW *where)
{
    (void)stat, (void)type, (void)where;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

static void end_process(pid_t *pid, int signal)
{
    if (*pid <= 0)
        return;
    (void)kill(*pid, signal);
    while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    *pid = 0;
}

/* The end of each process's log, when something went wrong. */
static void show_logs(void)
{
    static const char *const names[] = {"redis.log", "worker-1.log", "worker-2.log", "worker-3.log", "worker-4.log"};
    char bytes[1500];

    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        FILE *file = fopen(demo_path(&stage.demo, "%s", names[i]), "re");
        size_t size;

        if (!file)
            continue;
        (void)fseek(file, -(long)sizeof bytes, SEEK_END);
        if ((size = fread(bytes, 1, sizeof bytes, file)) > 0)
            fprintf(stderr, "--- %s\n%.*s\n", names[i], (int)size, bytes);
        fclose(file);
    }
}

/* Let the workers leave by themselves, then end whatever is left, and remove everything. */
static void clean_up(bool failed)
{
    if (stage.demo.shared)
        atomic_store(&stage.demo.shared->mode, MODE_END);
    for (unsigned host = 0; host < DEMO_HOSTS; host++)
        freshet_close(stage.host[host]);
    for (unsigned w = 0; w < DEMO_WORKERS; w++) {
        int64_t end = demo_now_ns() + (told_to_end ? 0 : 5000000000LL);

        while (stage.worker_pid[w] > 0 && demo_now_ns() < end)
            if (waitpid(stage.worker_pid[w], NULL, WNOHANG) != 0)
                stage.worker_pid[w] = 0;
            else
                demo_pause(2000000);
        end_process(&stage.worker_pid[w], SIGKILL);
    }
    demo_redis_close(stage.redis);
    end_process(&stage.redis_pid, SIGTERM);
    if (failed && stage.dir[0])
        show_logs();
    demo_close(&stage.demo);
    if (stage.dir[0])
        (void)nftw(stage.dir, remove_one, 32, FTW_DEPTH | FTW_PHYS);
}

/* A directory of our own, on memory if there is enough. */
static bool make_dir(void)
{
    struct statvfs room;
    const char *base = "/dev/shm";

    if (statvfs(base, &room) != 0 || (uint64_t)room.f_bavail * room.f_frsize < ROOM_BYTES || access(base, W_OK) != 0)
        base = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    snprintf(stage.dir, sizeof stage.dir, "%s/freshet-demo.XXXXXX", base);
    if (strlen(stage.dir) < 64 && mkdtemp(stage.dir)) /* a socket's path has 108 bytes */
        return true;
    fprintf(stderr, "demo: %s: %s\n", stage.dir, strerror(errno));
    stage.dir[0] = '\0';
    return false;
}

/* Start worker `number`: this program again, so that it inherits nothing of ours. */
static bool start_worker(unsigned number)
{
    char text[16], *argv[] = {(char[]){"freshet-demo"}, (char[]){"--worker"}, stage.dir, text, NULL};

    snprintf(text, sizeof text, "%u", number);
    atomic_store(&stage.demo.shared->worker[number].ready, 0);
    if (posix_spawn(&stage.worker_pid[number], "/proc/self/exe", NULL, NULL, argv, environ) == 0)
        return true;
    stage.worker_pid[number] = 0;
    return false;
}

/* Is every worker (that should be) there?  Says so when one is not. */
static bool workers_live(void)
{
    for (unsigned w = 0; w < DEMO_WORKERS; w++) {
        int status;

        if (stage.worker_pid[w] > 0 && waitpid(stage.worker_pid[w], &status, WNOHANG) == stage.worker_pid[w]) {
            demo_progress_end();
            fprintf(stderr, "demo: worker %u ended: %s %d\n", w + 1, WIFSIGNALED(status) ? "signal" : "status",
                    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
            stage.worker_pid[w] = 0;
            stage.broken = true;
        }
    }
    return !stage.broken && !told_to_end;
}

static bool await_workers(void)
{
    int64_t end = demo_now_ns() + START_MS * 1000000LL;

    for (;;) {
        unsigned ready = 0;

        for (unsigned w = 0; w < DEMO_WORKERS; w++)
            ready += atomic_load(&stage.demo.shared->worker[w].ready) != 0;
        if (ready == DEMO_WORKERS)
            return true;
        if (!workers_live())
            return false;
        if (demo_now_ns() > end) {
            fprintf(stderr, "demo: the workers did not get ready\n");
            return false;
        }
        demo_pause(2000000);
    }
}

/* Directories, keyrings (the second trusts the first and is trusted by it), and the tiers to look at. */
static bool make_hosts(void)
{
    const char *first = demo_path(&stage.demo, "host-1.keys"), *second = demo_path(&stage.demo, "host-2.keys");

    if (freshet_keygen(first, NULL) == FRESHET_OK && freshet_keygen(second, first) == FRESHET_OK)
        return true;
    fprintf(stderr, "demo: keyring: %s\n", freshet_error());
    return false;
}

static bool look_at_hosts(void)
{
    for (unsigned host = 0; host < DEMO_HOSTS; host++) {
        freshet_options options = FRESHET_INIT(freshet_options);

        options.name = DEMO_CACHE;
        options.dir = demo_path(&stage.demo, "host-%u", host + 1);
        options.max_staleness_ms = stage.figures.bound_ms;
        if (freshet_open(&stage.host[host], &options) != FRESHET_OK) {
            fprintf(stderr, "demo: %s: %s\n", options.dir, freshet_error());
            return false;
        }
    }
    return true;
}

static bool set_up(const struct options *options)
{
    char version[32] = "?";
    uint64_t reads;

    if (!make_dir() || !demo_create(&stage.demo, stage.dir, options->trace, options->reads, options->bound_ms))
        return false;
    reads = options->reads ? options->reads : stage.demo.shared->requests;
    if (reads > 1000000 && !options->reads)
        reads = 1000000;
    stage.demo.shared->seed = options->seed;
    stage.figures.bound_ms = options->bound_ms;
    stage.figures.rows = stage.demo.shared->rows;
    stage.figures.requests = options->reads ? reads * DEMO_WRITE_EVERY / (DEMO_WRITE_EVERY - 1) : reads;
    printf("Freshet: two hosts, two processes each, one Redis; %s rows, %s requests, every %uth a change\n",
           demo_commas(stage.figures.rows), demo_commas(stage.figures.requests), DEMO_WRITE_EVERY);
    fflush(stdout);
    if (!demo_table_create(&stage.demo, SIDE_FRESHET) || !demo_table_create(&stage.demo, SIDE_NAIVE))
        return false;
    if ((stage.redis_pid = demo_redis_start(&stage.demo)) <= 0 || !(stage.redis = demo_redis_open(&stage.demo)))
        return false;
    if (!make_hosts())
        return false;
    for (unsigned w = 0; w < DEMO_WORKERS; w++)
        if (!start_worker(w))
            return false;
    if (!await_workers() || !look_at_hosts())
        return false;
    (void)demo_redis_version(stage.redis, version);
    printf("redis-server %s on %s/redis.sock, libfreshet %s, bound %u ms\n\n", version, stage.dir, freshet_version(),
           options->bound_ms);
    fflush(stdout);
    return true;
}

/* ---- phases ---- */

static struct demo_sum sum_now(int64_t since_ns)
{
    struct demo_sum sum = {.seconds = (double)(demo_now_ns() - since_ns) / 1e9};

    for (unsigned w = 0; w < DEMO_WORKERS; w++) {
        struct demo_worker *worker = &stage.demo.shared->worker[w];
        int64_t oldest_ns = atomic_load(&worker->oldest_ns);

        for (unsigned i = 0; i < COUNTERS; i++)
            sum.count[i] += atomic_load(&worker->counts[i]);
        if (oldest_ns > sum.oldest_ns)
            sum.oldest_ns = oldest_ns;
    }
    return sum;
}

/* Set the workers, who are idle, to work. */
static int64_t phase_begin(enum demo_mode mode, enum demo_side side, uint64_t next, uint64_t limit)
{
    struct demo_shared *shared = stage.demo.shared;

    for (unsigned w = 0; w < DEMO_WORKERS; w++) {
        for (unsigned i = 0; i < COUNTERS; i++)
            atomic_store(&shared->worker[w].counts[i], 0);
        for (unsigned i = 0; i < DEMO_SPANS; i++)
            atomic_store(&shared->worker[w].spans[i], 0);
        atomic_store(&shared->worker[w].oldest_ns, 0);
    }
    atomic_store(&shared->next, next);
    atomic_store(&shared->limit, limit);
    atomic_store(&shared->side, side);
    atomic_store(&shared->mode, mode);
    atomic_fetch_add(&shared->serial, 1);
    return demo_now_ns();
}

static bool phase_done(void)
{
    uint32_t serial = atomic_load(&stage.demo.shared->serial);

    for (unsigned w = 0; w < DEMO_WORKERS; w++)
        if (stage.worker_pid[w] > 0 && atomic_load(&stage.demo.shared->worker[w].done) != serial)
            return false;
    return true;
}

/* Wait for the end of the phase, showing how far it is; `expected` reads are the whole, 0: unknown. */
static struct demo_sum phase_end(const char *what, int64_t begin_ns, double expected)
{
    struct demo_sum sum;

    while (!phase_done() && workers_live()) {
        sum = sum_now(begin_ns);
        demo_progress(what, &sum, expected > 0 ? (double)sum.count[COUNT_READS] / expected : -1);
        demo_pause(2000000);
    }
    sum = sum_now(begin_ns);
    sum.p50_ns = demo_span(&stage.demo, 0.50);
    sum.p99_ns = demo_span(&stage.demo, 0.99);
    demo_progress_end();
    atomic_store(&stage.demo.shared->mode, MODE_WAIT);
    return sum;
}

/* Freshet's figures count towards the last line, whichever the phase. */
static void add_up(const struct demo_sum *sum)
{
    stage.figures.reads += sum->count[COUNT_READS];
    stage.figures.stale += sum->count[COUNT_STALE];
    stage.figures.corrupted += sum->count[COUNT_CORRUPTED];
    stage.figures.failed += sum->count[COUNT_FAILED];
}

static int compare_times(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* What the probe has measured since it was last asked. */
static struct demo_latency latency_take(void)
{
    struct demo_probe *probe = &stage.demo.shared->probe;
    struct demo_latency latency = {.count = atomic_load(&probe->count)};

    if (latency.count > 0) {
        qsort(probe->latency_ns, latency.count, sizeof probe->latency_ns[0], compare_times);
        latency.p50_ms = (double)probe->latency_ns[latency.count / 2] / 1e6;
        latency.p99_ms = (double)probe->latency_ns[(uint64_t)latency.count * 99 / 100] / 1e6;
    }
    atomic_store(&probe->count, 0);
    return latency;
}

/* End probing, and wait until the last probe is over. */
static void probe_stop(void)
{
    struct demo_probe *probe = &stage.demo.shared->probe;
    int64_t end = demo_now_ns() + 5000000000LL;

    atomic_store(&probe->on, 0);
    while (atomic_load(&probe->state) != PROBE_IDLE && demo_now_ns() < end)
        demo_pause(1000000);
}

static void measure_quiet(void)
{
    struct demo_probe *probe = &stage.demo.shared->probe;
    int64_t end = demo_now_ns() + QUIET_MS * 1000000LL;

    atomic_store(&probe->on, 1);
    while (atomic_load(&probe->count) < QUIET_PROBES && demo_now_ns() < end && workers_live()) {
        demo_progress("invalidations, nothing else", NULL, (double)atomic_load(&probe->count) / QUIET_PROBES);
        demo_pause(2000000);
    }
    probe_stop();
    demo_progress_end();
    stage.figures.quiet = latency_take();
}

/* The trace through one of the two. */
static void replay_trace(enum demo_side side)
{
    uint64_t requests = stage.figures.requests;
    double expected = (double)requests * (DEMO_WRITE_EVERY - 1) / DEMO_WRITE_EVERY;
    int64_t begin_ns;

    atomic_store(&stage.demo.shared->probe.on, side == SIDE_FRESHET);
    begin_ns = phase_begin(MODE_LOAD, side, 0, requests);
    stage.figures.side[side] =
        phase_end(side == SIDE_FRESHET ? "the trace through Freshet" : "the same, cache-aside", begin_ns, expected);
    if (side == SIDE_FRESHET) {
        probe_stop();
        stage.figures.loaded = latency_take();
        add_up(&stage.figures.side[side]);
    } else if (stage.figures.side[side].count[COUNT_FAILED] > 0) {
        stage.broken = true;
    }
}

/* ---- faults ---- */

static void look(freshet_stats stats[DEMO_HOSTS])
{
    for (unsigned host = 0; host < DEMO_HOSTS; host++) {
        stats[host] = (freshet_stats)FRESHET_INIT(freshet_stats);
        if (freshet_stat(stage.host[host], &stats[host]) != FRESHET_OK)
            stage.broken = true;
    }
}

/* Wait until `met` says so of the hosts now and before; the time it took, -1: it did not. */
static double await_effect(const char *what, int64_t since_ns, const freshet_stats before[DEMO_HOSTS],
                           bool (*met)(const freshet_stats *before, const freshet_stats *now))
{
    int64_t end = demo_now_ns() + EFFECT_MS * 1000000LL;
    freshet_stats now[DEMO_HOSTS];

    for (;;) {
        struct demo_sum sum = sum_now(since_ns);
        unsigned hosts = 0;

        look(now);
        for (unsigned host = 0; host < DEMO_HOSTS; host++)
            hosts += met(&before[host], &now[host]);
        if (hosts == DEMO_HOSTS)
            return (double)(demo_now_ns() - since_ns) / 1e6;
        if (demo_now_ns() > end || told_to_end || stage.broken)
            return -1;
        demo_progress(what, &sum, -1);
        demo_pause(1000000);
    }
}

/* The same for host 1 alone, which need not happen: a second is given to it. */
static bool await_one(const freshet_stats *before, bool (*met)(const freshet_stats *before, const freshet_stats *now))
{
    int64_t end = demo_now_ns() + 1000000000LL;
    freshet_stats now[DEMO_HOSTS];

    do {
        look(now);
        if (met(before, &now[0]))
            return true;
        demo_pause(1000000);
    } while (demo_now_ns() < end);
    return false;
}

/* Let the load run on, to see what the fault does in the long run, then end the phase and tell. */
static void fault_end(struct demo_fault *fault, int64_t begin_ns)
{
    int64_t end = demo_now_ns() + FAULT_NS;

    while (demo_now_ns() < end && workers_live()) {
        struct demo_sum sum = sum_now(begin_ns);

        demo_progress(fault->name, &sum, -1);
        demo_pause(5000000);
    }
    atomic_store(&stage.demo.shared->limit, 0);
    fault->sum = phase_end(fault->name, begin_ns, 0);
    add_up(&fault->sum);
    demo_show_fault(fault);
    if (!fault->happened)
        stage.broken = true;
}

/* More of the trace, until the phase is ended. */
static int64_t fault_begin(void)
{
    return phase_begin(MODE_LOAD, SIDE_FRESHET, atomic_load(&stage.demo.shared->next), UINT64_MAX);
}

static bool has_reconnected(const freshet_stats *before, const freshet_stats *now)
{
    return now->reconnects > before->reconnects && now->proven_age_ms >= 0;
}

/* Cut the connection on which each host hears of changes. */
static void fault_cut(struct demo_fault *fault)
{
    freshet_stats before[DEMO_HOSTS];
    int64_t begin_ns = fault_begin();
    long long cut;
    double ms;

    look(before);
    cut = demo_redis_cut(stage.redis);
    ms = await_effect(fault->name, demo_now_ns(), before, has_reconnected);
    fault->happened = cut >= (long long)DEMO_HOSTS && ms >= 0;
    snprintf(fault->note, sizeof fault->note, "%lld cut; %s %.0f ms", cut,
             ms >= 0 ? "both hosts listened again after" : "no new connection:", ms);
    fault_end(fault, begin_ns);
}

static bool has_refused_two(const freshet_stats *before, const freshet_stats *now)
{
    return now->frames_refused >= before->frames_refused + 2;
}

/* Publish noise, and a genuine frame with one bit of its signature turned. */
static void fault_forge(struct demo_fault *fault, const uint8_t *frame, size_t size)
{
    static const char noise[] = "row:1 has changed, believe me";
    freshet_stats before[DEMO_HOSTS], after[DEMO_HOSTS];
    int64_t begin_ns = fault_begin();
    uint8_t forged[FRAME_MOST];
    long long heard;
    double ms;

    look(before);
    memcpy(forged, frame, size);
    forged[16 + 8 + 20] ^= 1; /* position and epoch, key id, signature (PROTOCOL.md) */
    heard = demo_redis_publish(stage.redis, CHANNEL, noise, sizeof noise - 1);
    heard += demo_redis_publish(stage.redis, CHANNEL, forged, size);
    ms = await_effect(fault->name, demo_now_ns(), before, has_refused_two);
    look(after);
    fault->happened = heard >= 4 && ms >= 0;
    snprintf(fault->note, sizeof fault->note,
             "noise and a broken signature; refused %llu times on host 1, %llu on host 2",
             (unsigned long long)(after[0].frames_refused - before[0].frames_refused),
             (unsigned long long)(after[1].frames_refused - before[1].frames_refused));
    fault_end(fault, begin_ns);
}

/* Publish a genuine frame again and again. */
static void fault_replay(struct demo_fault *fault, const uint8_t *frame, size_t size)
{
    freshet_stats before[DEMO_HOSTS], after[DEMO_HOSTS];
    int64_t begin_ns = fault_begin();
    long long heard = 0;

    look(before);
    for (unsigned i = 0; i < REPLAYS; i++)
        heard += demo_redis_publish(stage.redis, CHANNEL, frame, size);
    demo_pause(500000000);
    look(after);
    fault->happened = heard >= (long long)(REPLAYS * DEMO_HOSTS);
    snprintf(fault->note, sizeof fault->note,
             "%u times; genuine, so heard, but old, so harmless; %llu of %llu frames refused", REPLAYS,
             (unsigned long long)(after[0].frames_refused + after[1].frames_refused - before[0].frames_refused -
                                  before[1].frames_refused),
             (unsigned long long)(after[0].frames + after[1].frames - before[0].frames - before[1].frames));
    fault_end(fault, begin_ns);
}

static bool has_listener(const freshet_stats *before, const freshet_stats *now)
{
    (void)before;
    return now->subscriber_pid > 0 && kill(now->subscriber_pid, 0) == 0;
}

static bool has_resent(const freshet_stats *before, const freshet_stats *now)
{
    return now->resent > before->resent;
}

/* Which worker listens for host 1. */
static unsigned subscriber_of_host_1(const freshet_stats *stats)
{
    for (unsigned w = 0; w < DEMO_WORKERS / DEMO_HOSTS; w++)
        if (stage.worker_pid[w] == stats->subscriber_pid)
            return w;
    return 0;
}

/* Kill the process that listens for host 1 while it is in a change: committed, and telling the fleet. */
static void fault_kill(struct demo_fault *fault)
{
    freshet_stats before[DEMO_HOSTS], after[DEMO_HOSTS];
    int64_t begin_ns = fault_begin(), killed_ns, end = begin_ns + EFFECT_MS * 1000000LL;
    bool sent;
    pid_t pid;
    unsigned w;
    double ms;

    demo_pause(300000000);
    look(before);
    w = subscriber_of_host_1(&before[0]);
    while (atomic_load(&stage.demo.shared->worker[w].stage) != STAGE_INVALIDATING && demo_now_ns() < end)
        demo_pause(10000); /* it lasts some hundred microseconds */
    pid = stage.worker_pid[w];
    end_process(&stage.worker_pid[w], SIGKILL);
    killed_ns = demo_now_ns(); /* on a busy machine even dying takes its turn */
    ms = await_effect(fault->name, killed_ns, before, has_listener);
    look(after);
    fault->happened = ms >= 0 && after[0].subscriber_pid != pid;
    sent = await_one(&before[0], has_resent);
    snprintf(fault->note, sizeof fault->note,
             "process %d, host 1's listener; %d listens since %.0f ms after its end; %s",
             (int)pid, (int)after[0].subscriber_pid, ms,
             sent ? "its half-sent change was sent on" : "its change had arrived already");
    atomic_store(&stage.demo.shared->probe.state, PROBE_IDLE);
    atomic_store(&stage.demo.shared->worker[w].done, 0);
    if (!start_worker(w) || !await_workers())
        stage.broken = true;
    fault_end(fault, begin_ns);
}

/* With nobody writing any more, read every row on both hosts. */
static void fault_none(struct demo_fault *fault)
{
    freshet_stats after[DEMO_HOSTS];
    int64_t begin_ns;

    demo_pause(stage.figures.bound_ms * 1000000L);
    begin_ns = phase_begin(MODE_SWEEP, SIDE_FRESHET, 0, 0);
    fault->sum = phase_end(fault->name, begin_ns, (double)stage.figures.rows * DEMO_HOSTS);
    look(after);
    fault->happened = fault->sum.count[COUNT_READS] == stage.figures.rows * DEMO_HOSTS &&
                      fault->sum.count[COUNT_OLD] == 0 && after[0].outbox == 0 && after[1].outbox == 0;
    snprintf(fault->note, sizeof fault->note, "%s rows on each host, %s older than the table",
             demo_commas(stage.figures.rows), demo_commas(fault->sum.count[COUNT_OLD]));
    add_up(&fault->sum);
    demo_show_fault(fault);
    if (!fault->happened)
        stage.broken = true;
}

static void run_faults(void)
{
    static uint8_t frame[FRAME_MOST];
    struct demo_fault *fault = stage.figures.fault;
    int64_t begin_ns = fault_begin();
    struct demo_sum sum;
    size_t size;

    fault[0].name = "cut the listeners' connections";
    fault[1].name = "forged two frames";
    fault[2].name = "replayed a genuine frame";
    fault[3].name = "killed a process in mid-write";
    fault[4].name = "read everything back";
    size = demo_redis_hear(&stage.demo, CHANNEL, frame, sizeof frame, 5000);
    atomic_store(&stage.demo.shared->limit, 0);
    sum = phase_end("listening", begin_ns, 0);
    add_up(&sum);
    if (size < 16 + 72) {
        fprintf(stderr, "demo: no frame was heard on %s\n", CHANNEL);
        stage.broken = true;
        return;
    }
    printf("  and now, under the same load:\n");
    fault_cut(&fault[0]);
    if (workers_live())
        fault_forge(&fault[1], frame, size);
    if (workers_live())
        fault_replay(&fault[2], frame, size);
    if (workers_live())
        fault_kill(&fault[3]);
    if (workers_live())
        fault_none(&fault[4]);
    printf("\n");
}

/* ---- main ---- */

static bool perform(const struct options *options)
{
    if (!set_up(options))
        return false;
    measure_quiet();
    if (workers_live())
        replay_trace(SIDE_FRESHET);
    if (workers_live())
        replay_trace(SIDE_NAIVE);
    if (!workers_live())
        return false;
    demo_show_table(&stage.figures);
    run_faults();
    if (options->json && !demo_write_json(&stage.figures, options->json))
        return false;
    return workers_live() && stage.figures.quiet.count > 0 && stage.figures.loaded.count > 0;
}

static bool parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *ret_number)
{
    char *end;

    errno = 0;
    *ret_number = strtoull(text, &end, 10);
    return errno == 0 && *text >= '0' && *text <= '9' && *end == '\0' && *ret_number >= least && *ret_number <= most;
}

static int usage(FILE *file)
{
    fprintf(file, "usage: freshet-demo --trace FILE [--reads N] [--bound MS] [--seed N] [--json FILE]\n"
                  "  --trace FILE   big-endian 32-bit keys, one a request\n"
                  "  --reads N      about so many reads through each cache; by default the trace once\n"
                  "  --bound MS     max_staleness_ms, 20 to 60000 (500)\n"
                  "  --seed N       which requests are changes (1)\n"
                  "  --json FILE    write the figures there\n"
                  "Exit status: 0 no stale read and nothing else amiss, 1 otherwise, 2 bad usage.\n");
    return file == stdout ? 0 : 2;
}

/* 0: go on; else the exit status plus one. */
static int parse(struct options *options, int argc, char **argv)
{
    static const struct option longs[] = {{"trace", 1, NULL, 't'}, {"reads", 1, NULL, 'r'}, {"bound", 1, NULL, 'b'},
                                          {"seed", 1, NULL, 's'},  {"json", 1, NULL, 'j'},  {"help", 0, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    uint64_t number = 0;
    int option;

    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        bool good = true;

        switch (option) {
        case 't': options->trace = optarg; break;
        case 'j': options->json = optarg; break;
        case 'r': good = parse_number(optarg, 1000, 100000000, &options->reads); break;
        case 's': good = parse_number(optarg, 0, UINT64_MAX, &options->seed); break;
        case 'b':
            good = parse_number(optarg, 20, 60000, &number);
            options->bound_ms = (uint32_t)number;
            break;
        case 'h': return usage(stdout) + 1;
        default: return usage(stderr) + 1;
        }
        if (!good) {
            fprintf(stderr, "freshet-demo: %s: out of range\n", optarg);
            return usage(stderr) + 1;
        }
    }
    return options->trace && optind == argc ? 0 : usage(stderr) + 1;
}

int main(int argc, char **argv)
{
    struct options options = {.seed = 1, .bound_ms = 500};
    struct sigaction act = {.sa_handler = on_signal};
    bool well;
    int status;

    (void)signal(SIGPIPE, SIG_IGN);
    if (argc == 4 && strcmp(argv[1], "--worker") == 0)
        return demo_worker_main(argv[2], (unsigned)strtoul(argv[3], NULL, 10));
    if ((status = parse(&options, argc, argv)) != 0)
        return status - 1;
    (void)sigaction(SIGINT, &act, NULL);
    (void)sigaction(SIGTERM, &act, NULL);
    (void)sigaction(SIGHUP, &act, NULL);
    well = perform(&options) && !stage.broken && !told_to_end && stage.figures.failed == 0 &&
           stage.figures.corrupted == 0 && stage.figures.stale == 0;
    demo_progress_end();
    if (!well)
        fprintf(stderr, "demo: not well: %s stale, %s corrupted, %s failed%s\n", demo_commas(stage.figures.stale),
                demo_commas(stage.figures.corrupted), demo_commas(stage.figures.failed),
                told_to_end ? ", told to end" : stage.broken ? ", and not everything ran" : "");
    clean_up(!well && !told_to_end);
    printf("demo: %llu reads, %llu stale, p99 invalidation %.2f ms, bound %u ms\n",
           (unsigned long long)stage.figures.reads, (unsigned long long)stage.figures.stale,
           stage.figures.loaded.p99_ms, options.bound_ms);
    return well ? 0 : 1;
}
