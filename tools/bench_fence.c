/*
 * bench_fence.c - what a host spends on other hosts' changes: CPU time for each signed frame of 64 keys, received,
 * verified and applied, beside verifying one signature of as many bytes; and how often a host of eight processes
 * verifies each.
 *
 * A backlog is what shows the most that a host can take: the listener is stopped (SIGSTOP) while the frames are made,
 * and goes on with all of them before it.  As they come each wakes it up, which is the price of hearing of it at once;
 * that row promises nothing.  The listener's own asking thread does not count: a process that only listens has none.
 */
#include "bench.h"

#include <signal.h>
#include <string.h>
#include <time.h>

#define KEYS         64u
#define FRAMES       200u /* between turns */
#define BYTES        (56u + 16u * KEYS + 16u) /* of what is signed: body and the domain's prefix */
#define PROCESSES    8u
#define KEYS_A_S     600000.0
#define PATIENCE_NS  INT64_C(20000000000)

enum what { OPEN, AWAIT };

struct order {
    enum what what;
    uint64_t position; /* until this is applied */
};

struct report {
    bool good;
    int64_t cpu_ns;  /* of all threads but the one that answers, since the process began */
    uint64_t frames; /* that the host has verified */
};

struct sides {
    freshet *cache; /* the writer's host */
    struct bench_peer peers[PROCESSES];
    struct bench_records records;
    uint32_t next;
    int64_t spent; /* by the listener, when it was last asked */
    uint64_t position;
    bool backlog;
    unsigned char message[BYTES], signature[RAW_SIGNATURE];
};

/* ---- the host that listens ---- */

static void await(freshet *cache, const struct order *order, struct report *report)
{
    struct timespec beat = {.tv_nsec = 500000};
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    int64_t end = bench_wall_ns() + PATIENCE_NS;

    do {
        (void)nanosleep(&beat, NULL);
        report->good = freshet_stat(cache, &stats) == FRESHET_OK && stats.applied >= order->position;
    } while (!report->good && bench_wall_ns() < end);
    report->frames = stats.frames;
    report->cpu_ns = bench_process_ns() - bench_cpu_ns();
}

static void listen_on(struct bench *bench, void *arg, int fd)
{
    freshet *cache = NULL;
    struct order order;

    (void)arg;
    while (bench_peer_next(fd, &order, sizeof order)) {
        struct report report = {.good = true};

        if (order.what == OPEN)
            report.good = (cache = bench_open(bench, "listener", 32u << 20, BENCH_JOINED)) != NULL;
        else
            await(cache, &order, &report);
        if (!bench_peer_say(fd, &report, sizeof report))
            break;
    }
    freshet_close(cache);
}

static bool ask(struct sides *sides, unsigned which, enum what what, struct report *report)
{
    struct order order = {what, sides->position};

    return bench_peer_say(sides->peers[which].fd, &order, sizeof order) &&
           bench_peer_hear(sides->peers[which].fd, report, sizeof *report) && report->good;
}

/* ---- the writer ---- */

static bool send_frames(struct sides *sides)
{
    for (uint32_t i = 0; i < FRAMES; i++) {
        freshet_change change = FRESHET_INIT(freshet_change);
        freshet_key keys[KEYS];

        for (uint32_t k = 0; k < KEYS; k++)
            keys[k] = (freshet_key){sides->records.keys[(sides->next + k) % sides->records.count], BENCH_KEY};
        sides->next += KEYS;
        if (freshet_invalidate_many(sides->cache, keys, KEYS, NULL, &change) != FRESHET_OK)
            return false;
        sides->position = change.position;
    }
    return true;
}

/* The listener's CPU time for a slice of frames, ns each. */
static double ours(void *arg, unsigned slice)
{
    struct sides *sides = arg;
    struct report report;
    bool good;

    (void)slice;
    if (!ask(sides, 0, AWAIT, &report)) /* it may have renewed its proof meanwhile */
        return -1;
    sides->spent = report.cpu_ns;
    if (sides->backlog)
        (void)kill(sides->peers[0].pid, SIGSTOP);
    good = send_frames(sides);
    if (sides->backlog)
        (void)kill(sides->peers[0].pid, SIGCONT);
    if (!good || !ask(sides, 0, AWAIT, &report))
        return -1;
    return (double)(report.cpu_ns - sides->spent) / FRAMES;
}

static double verify(void *arg, unsigned slice)
{
    struct sides *sides = arg;
    int64_t start = bench_cpu_ns();

    (void)slice;
    for (uint32_t i = 0; i < FRAMES; i++)
        if (!raw_verify(sides->message, sizeof sides->message, sides->signature))
            return -1;
    return (double)(bench_cpu_ns() - start) / FRAMES;
}

/* ---- the run ---- */

static bool measure(struct bench *bench, struct sides *sides)
{
    struct bench_row *row = bench_row_add(bench, 1.3, "64 keys/a backlog"), *rate;

    sides->backlog = true;
    if (!bench_pair(bench, row, ours, verify, sides))
        return false;
    rate = bench_row_add(bench, 0, "64 keys/on one core");
    bench_row_aim(rate, BENCH_AIM_OURS_LEAST, KEYS_A_S, "keys/s");
    rate->ours = KEYS * 1e9 / row->ours;
    rate->floor = KEYS * 1e9 / row->floor;
    rate->spread = row->spread;
    sides->backlog = false;
    return bench_pair(bench, bench_row_add(bench, 0, "64 keys/as they come"), ours, verify, sides);
}

/* Eight processes of the host: what do they verify together of so many frames? */
static bool count(struct bench *bench, struct sides *sides)
{
    struct bench_row *row = bench_row_add(bench, 1, "%u processes/verified", PROCESSES);
    struct report before, after;

    row->unit = "frames";
    for (unsigned i = 1; i < PROCESSES; i++)
        if (!ask(sides, i, OPEN, &before))
            return bench_stop(bench, "a process of the host did not come up");
    if (!ask(sides, 0, AWAIT, &before) || !send_frames(sides) || !ask(sides, 0, AWAIT, &after))
        return bench_stop(bench, "the frames did not arrive: %s", freshet_error());
    row->ours = (double)(after.frames - before.frames);
    row->floor = FRAMES;
    return row->ours >= FRAMES || bench_stop(bench, "%.0f of %u frames were verified", row->ours, FRAMES);
}

bool bench_fence(struct bench *bench)
{
    struct sides sides = {0};
    struct report report;
    bool good = raw_sign_start() && raw_sign(sides.message, sizeof sides.message, sides.signature) &&
                bench_records_make(&sides.records, 4096, 8, 9);

    if (!good)
        (void)bench_stop(bench, "cannot draw a key pair");
    for (unsigned i = 0; i < PROCESSES && good; i++) /* before this process has a thread */
        good = bench_peer_start(bench, &sides.peers[i], listen_on, NULL);
    good = good && (ask(&sides, 0, OPEN, &report) || bench_stop(bench, "the listening host did not come up"));
    good = good && (sides.cache = bench_open(bench, "writer", 32u << 20, BENCH_JOINED)) != NULL &&
           (send_frames(&sides) || bench_stop(bench, "cannot invalidate: %s", freshet_error())) &&
           measure(bench, &sides) && count(bench, &sides);
    for (unsigned i = 0; i < PROCESSES; i++)
        bench_peer_stop(&sides.peers[i]);
    freshet_close(sides.cache);
    bench_records_free(&sides.records);
    return good;
}
