/*
 * bench_get_beside.c - hits beside a writer that never pauses, and raw LMDB's reads beside its like.
 *
 * The writer is a process of its own.  For our side it fills the tier as fast as it can and makes 10,000 invalidations
 * a second; for the floor it puts as fast as it can, 100 a transaction.  It writes keys of its own, always the same
 * thousand: those of the records that are read which share a fence slot with one of them are left out, since their
 * misses would be timed, not their hits.
 *
 * The tail is in wall time, each read by itself: a reader that waits for a writer shows there and nowhere else.  So
 * does a machine that takes the processor away, which is why raw LMDB's own tail stands beside it.
 */
#include "bench_reads.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define OTHERS      1000u /* keys of the writer's own */
#define TAIL        50000u /* single reads between turns */
#define TAIL_AIM_NS 50000
#define BURST       100u

enum job { JOB_REST, JOB_TIER, JOB_RAW };

struct sides {
    struct reads reads;
    struct bench_records others;
    unsigned char *value;
    _Atomic uint32_t *job, *doing; /* shared: what the writer is to do, and does */
    _Atomic uint64_t *invalidated;
    struct bench_peer peer;
    double *times; /* of single reads */
};

static freshet_result loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    const struct sides *sides = arg;

    (void)request;
    return freshet_buf_set(value, sides->value, sides->others.size);
}

/* Fill, and keep up 10,000 invalidations a second of what was filled. */
static void write_tier(struct sides *sides)
{
    int64_t start = bench_wall_ns();
    freshet_buf buf = {0};
    uint64_t due = 0;

    for (uint32_t i = 0; atomic_load(sides->job) == JOB_TIER; i++) {
        (void)freshet_load(sides->reads.cache, sides->others.keys[i % OTHERS], BENCH_KEY, NULL, loader, sides, &buf,
                           NULL);
        for (; due < (uint64_t)(bench_wall_ns() - start) / 100000; due++) {
            (void)freshet_invalidate(sides->reads.cache, sides->others.keys[due % OTHERS], BENCH_KEY, NULL, NULL);
            atomic_fetch_add(sides->invalidated, 1);
        }
    }
    (void)freshet_flush(sides->reads.cache, 0);
    freshet_buf_free(&buf);
}

static void write_raw(struct sides *sides, struct raw_map *map)
{
    for (uint32_t i = 0; atomic_load(sides->job) == JOB_RAW || i % BURST != 0; i++)
        (void)raw_map_put(map, &sides->others, i % OTHERS, sides->value, i % BURST == BURST - 1);
}

/* The writer.  It was forked with both open: the tier opens itself anew, LMDB's environment is opened a second time and
 * the inherited one left alone. */
static void be_writer(struct bench *bench, void *arg, int fd)
{
    struct sides *sides = arg;
    struct timespec beat = {.tv_nsec = 50000};
    char ready = reads_again(bench, &sides->reads);

    if (!bench_peer_say(fd, &ready, 1) || !ready)
        return;
    for (;;) {
        uint32_t job = atomic_load(sides->job);

        atomic_store(sides->doing, job);
        if (job == JOB_TIER)
            write_tier(sides);
        else if (job == JOB_RAW)
            write_raw(sides, sides->reads.map);
        else
            (void)nanosleep(&beat, NULL);
    }
}

/* ---- the reader ---- */

/* Have the writer at this job; it may have to come to the end of a batch. */
static bool writer_set(struct sides *sides, uint32_t job)
{
    struct timespec beat = {.tv_nsec = 50000};
    int64_t end = bench_wall_ns() + INT64_C(20000000000);

    atomic_store(sides->job, job);
    while (atomic_load(sides->doing) != job && bench_wall_ns() < end)
        (void)nanosleep(&beat, NULL);
    return atomic_load(sides->doing) == job;
}

static double ours(void *arg, unsigned slice)
{
    struct sides *sides = arg;

    return writer_set(sides, JOB_TIER) ? reads_ours(&sides->reads, slice) : -1;
}

static double raw(void *arg, unsigned slice)
{
    struct sides *sides = arg;

    return writer_set(sides, JOB_RAW) ? reads_raw(&sides->reads, slice) : -1;
}

/* p99.9 of single reads, by wall time. */
static double tail(struct sides *sides, unsigned slice, bool tier)
{
    struct reads *reads = &sides->reads;
    const uint32_t *at = reads_at(reads, slice);
    freshet_read_options options = FRESHET_INIT(freshet_read_options);

    options.tier_only = true;
    if (!writer_set(sides, tier ? JOB_TIER : JOB_RAW))
        return -1;
    for (size_t i = 0; i < TAIL; i++) {
        int64_t start = bench_wall_ns();

        const char *key = reads->records.keys[at[i]];
        bool there = tier ? freshet_get(reads->cache, key, BENCH_KEY, &options, &reads->buf, NULL) == FRESHET_OK
                          : raw_map_get_one(reads->map, key, reads->raw_buf);

        sides->times[i] = (double)(bench_wall_ns() - start);
        if (!there)
            return tier ? BENCH_AGAIN : -1;
    }
    return bench_quantile(sides->times, TAIL, 0.999);
}

static double our_tail(void *arg, unsigned slice)
{
    return tail(arg, slice, true);
}

static double raw_tail(void *arg, unsigned slice)
{
    return tail(arg, slice, false);
}

/* Leave out of the sequence what the writer's fences void: the next record that is there stands in. */
static bool leave_out_void(struct bench *bench, struct sides *sides)
{
    struct reads *reads = &sides->reads;
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    bool *there = calloc(reads->records.count, sizeof *there);
    uint32_t count = 0;

    options.tier_only = true;
    for (uint32_t i = 0; there && i < reads->records.count; i++) {
        there[i] = freshet_get(reads->cache, reads->records.keys[i], BENCH_KEY, &options, &reads->buf, NULL) ==
                   FRESHET_OK;
        count += there[i];
    }
    if (count < reads->records.count / 2) {
        free(there);
        return bench_stop(bench, "the writer's invalidations void half of what is to be read");
    }
    for (size_t i = 0; i < READS_SEQUENCE; i++)
        while (!there[reads->sequence[i]])
            reads->sequence[i] = (reads->sequence[i] + 1) % reads->records.count;
    free(there);
    return true;
}

/* ---- the run ---- */

/* Words that both processes see. */
static bool share(struct sides *sides)
{
    unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return false;
    sides->job = (void *)page;
    sides->doing = (void *)(page + 64);
    sides->invalidated = (void *)(page + 128);
    return true;
}

static bool run_case(struct bench *bench, struct sides *sides, const struct reads_case *what)
{
    char ready = 0;
    int64_t end;

    sides->times = calloc(TAIL, sizeof *sides->times);
    sides->value = calloc(1, what->size);
    if (!share(sides) || !sides->times || !sides->value ||
        !bench_records_make(&sides->others, OTHERS, what->size, what->size + 1))
        return bench_stop(bench, "no memory");
    if (!reads_start(bench, &sides->reads, what) || !reads_draw(bench, &sides->reads, true) ||
        !bench_peer_start(bench, &sides->peer, be_writer, sides))
        return false;
    if (!bench_peer_hear(sides->peer.fd, &ready, 1) || !ready || !writer_set(sides, JOB_TIER))
        return bench_stop(bench, "the writer did not come up");
    end = bench_wall_ns() + INT64_C(20000000000);
    while (atomic_load(sides->invalidated) < 4 * OTHERS && bench_wall_ns() < end && !tool_ended)
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return leave_out_void(bench, sides) &&
           bench_pair(bench, bench_row_add(bench, what->most, "%s/zipf", what->name), ours, raw, sides);
}

static bool run_tail(struct bench *bench, struct sides *sides, const char *name)
{
    struct bench_row *row = bench_row_add(bench, 0, "%s/p99.9", name);

    bench_row_aim(row, BENCH_AIM_OURS_MOST, TAIL_AIM_NS, "ns");
    return bench_pair(bench, row, our_tail, raw_tail, sides);
}

bool bench_get_beside(struct bench *bench)
{
    uint32_t count = bench->tool->quick ? 20000 : 100000;
    const struct reads_case cases[] = {
        {count, 64, bench->tool->quick ? "20k/64B" : "100k/64B", BENCH_ALONE, 1.2, 0},
        {count, 1024, bench->tool->quick ? "20k/1KiB" : "100k/1KiB", BENCH_ALONE, 1.2, 0},
    };
    bool good = true;

    for (size_t i = 0; i < 2 && good; i++) {
        struct sides sides = {0};

        good = run_case(bench, &sides, &cases[i]) && run_tail(bench, &sides, cases[i].name);
        bench_peer_stop(&sides.peer);
        reads_end(bench, &sides.reads);
        bench_records_free(&sides.others);
        free(sides.times);
        free(sides.value);
        if (sides.job)
            munmap((void *)sides.job, 4096);
    }
    return good;
}
