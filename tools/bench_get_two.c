/*
 * bench_get_two.c - what a hit costs while a second thread, or a second process, reads the same tier: CPU time an
 * operation of the two at once, beside that of one alone.
 *
 * Readers that share no line they write to cost each other nothing but the processor's shared caches.
 */
#include "bench_reads.h"

#include <pthread.h>

struct sides {
    struct reads reads;
    struct bench_peer peer; /* the second process */
    bool processes;
};

struct second {
    struct sides *sides;
    pthread_barrier_t *start;
    unsigned slice;
    double ns;
};

/* The second reader's own slice: its own buffer, its own part of the sequence. */
static double second_slice(struct reads *reads, unsigned slice)
{
    freshet_buf buf = {0};
    uint64_t sum = 0;
    double ns =
        reads_tier(reads->cache, &reads->records, reads_at(reads, slice + 1000), READS_SLICE, &buf, &sum);

    freshet_buf_free(&buf);
    return ns;
}

static void *second_thread(void *arg)
{
    struct second *second = arg;

    (void)pthread_barrier_wait(second->start);
    second->ns = second_slice(&second->sides->reads, second->slice);
    return NULL;
}

/* The second process: a slice for each number that it is told.  It was forked with the cache, and opens it anew. */
static void second_process(struct bench *bench, void *arg, int fd)
{
    struct sides *sides = arg;
    unsigned slice;
    double ns;

    (void)bench;
    while (bench_peer_next(fd, &slice, sizeof slice)) {
        ns = second_slice(&sides->reads, slice);
        if (!bench_peer_say(fd, &ns, sizeof ns))
            break;
    }
}

static double mean(double one, double other)
{
    if (one == BENCH_AGAIN || other == BENCH_AGAIN)
        return BENCH_AGAIN;
    return one < 0 || other < 0 ? -1 : (one + other) / 2;
}

static double two_threads(struct sides *sides, unsigned slice)
{
    pthread_barrier_t start;
    struct second second = {sides, &start, slice, -1};
    pthread_t thread;
    double ns;

    if (pthread_barrier_init(&start, NULL, 2) != 0)
        return -1;
    if (pthread_create(&thread, NULL, second_thread, &second) != 0) {
        pthread_barrier_destroy(&start);
        return -1;
    }
    (void)pthread_barrier_wait(&start);
    ns = reads_ours(&sides->reads, slice);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&start);
    return mean(ns, second.ns);
}

static double two_processes(struct sides *sides, unsigned slice)
{
    double ns, other;

    if (!bench_peer_say(sides->peer.fd, &slice, sizeof slice))
        return -1;
    ns = reads_ours(&sides->reads, slice);
    return bench_peer_hear(sides->peer.fd, &other, sizeof other) ? mean(ns, other) : -1;
}

static double two(void *arg, unsigned slice)
{
    struct sides *sides = arg;

    return sides->processes ? two_processes(sides, slice) : two_threads(sides, slice);
}

static double one(void *arg, unsigned slice)
{
    struct sides *sides = arg;

    return reads_ours(&sides->reads, slice);
}

static bool run_case(struct bench *bench, const struct reads_case *what)
{
    struct sides sides = {0};
    bool good = reads_start(bench, &sides.reads, what) && reads_draw(bench, &sides.reads, true) &&
                bench_peer_start(bench, &sides.peer, second_process, &sides);

    for (int processes = 0; processes < 2 && good; processes++) {
        struct bench_row *row =
            bench_row_add(bench, what->most, "%s/%s", what->name, processes ? "2 processes" : "2 threads");

        sides.processes = processes;
        good = bench_pair(bench, row, two, one, &sides);
    }
    bench_peer_stop(&sides.peer);
    reads_end(bench, &sides.reads);
    return good;
}

bool bench_get_two(struct bench *bench)
{
    uint32_t count = bench->tool->quick ? 20000 : 100000;
    const struct reads_case cases[] = {
        {count, 64, bench->tool->quick ? "20k/64B" : "100k/64B", BENCH_ALONE, 1.05, 0},
        {count, 1024, bench->tool->quick ? "20k/1KiB" : "100k/1KiB", BENCH_ALONE, 1.05, 0},
    };

    return run_case(bench, &cases[0]) && run_case(bench, &cases[1]);
}
