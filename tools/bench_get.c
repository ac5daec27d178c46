/*
 * bench_get.c - a hit in the tier, beside raw LMDB with the same data.
 *
 * The tier is one that has joined a fleet, because that is what users have: the proof of freshness is looked at in
 * every read.  Both sides copy the value into one buffer that is used again, walk the same sequence of keys, and are
 * timed by the thread's own CPU time: the machine's other work is not ours.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#define RECORDS      100000u
#define SLICE        100000u    /* operations between turns */
#define SEQUENCE     (1u << 20) /* the slices walk through it, so that no two are alike */
#define SLICES       31u
#define SLICES_QUICK 7u

struct sides {
    freshet *cache;
    struct raw_map *map;
    struct bench_records records;
    freshet_buf buf;
    unsigned char *raw_buf;
    uint64_t sum; /* of what was read: nothing may be left out as unused */
};

/* One slice on our side: CPU ns; *ret_misses: how often the tier did not answer. */
static int64_t get_slice(struct sides *sides, const uint32_t *sequence, uint32_t *ret_misses)
{
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    int64_t start = bench_cpu_ns();

    options.tier_only = true; /* a miss must not turn into a question to Redis unseen */
    *ret_misses = 0;
    for (size_t i = 0; i < SLICE; i++) {
        if (freshet_get(sides->cache, sides->records.keys[sequence[i]], BENCH_KEY, &options, &sides->buf, NULL) ==
            FRESHET_OK)
            sides->sum += *(unsigned char *)sides->buf.data;
        else
            ++*ret_misses;
    }
    return bench_cpu_ns() - start;
}

/* Slices in turn, who begins changing; a slice in which the proof of freshness had run out is measured again. */
static bool measure(struct bench *bench, struct sides *sides, bool zipf, struct bench_row *row)
{
    unsigned slices = bench->tool->quick ? SLICES_QUICK : SLICES, again = 0;
    uint32_t *sequence = bench_sequence(RECORDS, SEQUENCE, zipf, 7), misses;
    double ours[BENCH_SLICES_MAX], floors[BENCH_SLICES_MAX];
    bool good = sequence != NULL;

    for (unsigned i = 0; good && i < slices + 1; i++) { /* the first only warms up */
        const uint32_t *at = sequence + (size_t)bench_random(&(uint64_t){i}) % (SEQUENCE - SLICE);
        int64_t our_ns = 0, raw_ns = 0;

        if (i % 2)
            our_ns = get_slice(sides, at, &misses);
        raw_ns = raw_map_get(sides->map, &sides->records, at, SLICE, sides->raw_buf, &sides->sum);
        if (i % 2 == 0)
            our_ns = get_slice(sides, at, &misses);
        if (raw_ns < 0 || tool_ended || (misses > 0 && ++again > slices)) {
            good = bench_stop(bench, raw_ns < 0 ? "LMDB lost a record"
                                                : "the tier's proof of freshness runs out again and again");
            break;
        }
        if (misses > 0) {
            i--;
            continue;
        }
        ours[i ? i - 1 : 0] = (double)our_ns / SLICE;
        floors[i ? i - 1 : 0] = (double)raw_ns / SLICE;
    }
    free(sequence);
    if (!good)
        return false;
    row->ours = bench_quantile(ours, slices, 0.5);
    row->floor = bench_quantile(floors, slices, 0.5);
    row->spread = bench_spread(floors, slices);
    return true;
}

/* Fill both sides with the same records, in the same order. */
static bool fill(struct bench *bench, struct sides *sides, uint32_t size, bool joined)
{
    uint64_t room = RECORDS * (size * UINT64_C(4) + 2048); /* nothing is to be evicted */
    char host[32], dir[320];
    bool good = true;

    snprintf(host, sizeof host, "host-%u", size);
    snprintf(dir, sizeof dir, "%s/raw-%u", bench->dir, size);
    if (!bench_records_make(&sides->records, RECORDS, size, size) || !(sides->raw_buf = malloc(size)))
        return bench_stop(bench, "no memory");
    bench_progress(bench, "filling a tier with %u records of %u bytes", RECORDS, size);
    if (!(sides->cache = bench_open(bench, host, room, joined)) || !bench_load(bench, sides->cache, &sides->records))
        return false;
    sides->map = raw_map_open(dir, room);
    for (uint32_t i = 0; sides->map && good && i < RECORDS; i++) {
        bench_value(&sides->records, i, sides->raw_buf);
        /* 100 a transaction as everywhere, with a value of its own each */
        good = raw_map_put(sides->map, &sides->records, i, sides->raw_buf, i % 100 == 99 || i == RECORDS - 1);
    }
    return (sides->map && good) || bench_stop(bench, "cannot fill the LMDB environment");
}

bool bench_get(struct bench *bench)
{
    static const uint32_t sizes[] = {64, 1024};
    static const char *const size_names[] = {"64B", "1KiB"};
    bool joined = bench->server > 0, good = true;

    for (size_t s = 0; s < 2 && good; s++) {
        struct sides sides = {0};

        good = fill(bench, &sides, sizes[s], joined);
        for (int zipf = 1; zipf >= 0 && good; zipf--) {
            struct bench_row *row =
                bench_row_add(bench, zipf ? 1.4 : 0, "100k/%s/%s", size_names[s], zipf ? "zipf" : "uniform");

            bench_progress(bench, "measuring %s", row->name);
            good = measure(bench, &sides, zipf, row);
        }
        freshet_close(sides.cache);
        raw_map_close(sides.map);
        freshet_buf_free(&sides.buf);
        free(sides.raw_buf);
        bench_records_free(&sides.records);
    }
    return good;
}
