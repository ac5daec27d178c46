/*
 * bench_get_hot.c - hits on keys of which some are asked for far more often than others: beside raw LMDB, and beside
 * the plainest table in shared memory that would do the same work (bench_table.c).
 *
 * Both sides are read for a while before anything counts.
 */
#include "bench_reads.h"

#include <stdlib.h>

struct sides {
    struct reads reads; /* first: bench_reads' own sides take it */
    struct raw_table *table;
};

static double table_side(void *arg, unsigned slice)
{
    struct sides *sides = arg;
    struct reads *reads = &sides->reads;
    int64_t ns =
        raw_table_get(sides->table, &reads->records, reads_at(reads, slice), READS_SLICE, reads->raw_buf, &reads->sum);

    return ns < 0 ? -1 : (double)ns / READS_SLICE;
}

static bool fill_table(struct bench *bench, struct sides *sides)
{
    struct reads *reads = &sides->reads;
    bool good = (sides->table = raw_table_open(reads->records.count, reads->records.size)) != NULL;

    for (uint32_t i = 0; good && i < reads->records.count; i++) {
        bench_value(&reads->records, i, reads->raw_buf);
        good = raw_table_put(sides->table, &reads->records, i, reads->raw_buf);
    }
    return good || bench_stop(bench, "cannot fill the table");
}

static bool warm(struct bench *bench, struct reads *reads)
{
    for (unsigned i = 0; i < bench_slices(bench); i++) {
        double ns = reads_ours(reads, 1000 + i);

        if (tool_ended || (ns < 0 && ns != BENCH_AGAIN))
            return bench_stop(bench, "cannot read the tier: %s", freshet_error());
    }
    return true;
}

static bool run_case(struct bench *bench, const struct reads_case *what)
{
    struct sides sides = {0};
    bool good = reads_start(bench, &sides.reads, what) && reads_draw(bench, &sides.reads, true) &&
                fill_table(bench, &sides) && warm(bench, &sides.reads);

    good = good && bench_pair(bench, bench_row_add(bench, what->most, "%s/zipf", what->name), reads_ours, reads_raw,
                              &sides.reads);
    good = good && bench_pair(bench, bench_row_add(bench, what->most > 0 ? 1.6 : 0, "%s/zipf, a table", what->name),
                              reads_ours, table_side, &sides);
    raw_table_close(sides.table);
    reads_end(bench, &sides.reads);
    return good;
}

bool bench_get_hot(struct bench *bench)
{
    uint32_t count = bench->tool->quick ? 20000 : 100000;
    const struct reads_case cases[] = {
        {count, 64, bench->tool->quick ? "20k/64B" : "100k/64B", BENCH_JOINED, 0.40, 0},
        {count, 1024, bench->tool->quick ? "20k/1KiB" : "100k/1KiB", BENCH_JOINED, 0.40, 0},
        {10000, 64, "10k/64B", BENCH_JOINED, 0, 0},
    };
    bool good = true;

    for (size_t i = 0; i < sizeof cases / sizeof *cases && good; i++)
        good = run_case(bench, &cases[i]);
    return good;
}
