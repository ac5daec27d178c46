/*
 * bench_get.c - a hit in the tier's map, beside raw LMDB with the same data.
 *
 * The tier is one that has joined a fleet, because that is what users have: the proof of freshness is looked at in
 * every read.  The largest are of a host alone, since a million records on their way through Redis take minutes; the
 * judge reads the same words there.
 */
#include "bench_reads.h"

static bool run_case(struct bench *bench, const struct reads_case *what)
{
    struct reads reads = {0};
    bool good = reads_start(bench, &reads, what);

    for (int zipf = 1; zipf >= 0 && good; zipf--) {
        struct bench_row *row = bench_row_add(bench, what->most, "%s/%s", what->name, zipf ? "zipf" : "uniform");

        good = reads_draw(bench, &reads, zipf) && bench_pair(bench, row, reads_ours, reads_raw, &reads);
    }
    reads_end(bench, &reads);
    return good;
}

bool bench_get(struct bench *bench)
{
    static const struct reads_case all[] = {
        {100000, 64, "100k/64B", BENCH_JOINED, 1.25, 0},
        {100000, 1024, "100k/1KiB", BENCH_JOINED, 1.10, 0},
        {100000, 16384, "100k/16KiB", BENCH_ALONE, 1.05, 0},
        {1000000, 64, "1M/64B", BENCH_ALONE, 1.25, 0},
        {1000000, 1024, "1M/1KiB", BENCH_ALONE, 1.10, 0},
    };
    static const struct reads_case quick[] = {
        {20000, 64, "20k/64B", BENCH_JOINED, 1.25, 0},
        {20000, 1024, "20k/1KiB", BENCH_ALONE, 1.10, 0},
        {2000, 16384, "2k/16KiB", BENCH_ALONE, 1.05, 0},
    };
    const struct reads_case *cases = bench->tool->quick ? quick : all;
    size_t count = bench->tool->quick ? sizeof quick / sizeof *quick : sizeof all / sizeof *all;

    for (size_t i = 0; i < count; i++)
        if (!run_case(bench, &cases[i]))
            return false;
    return true;
}
