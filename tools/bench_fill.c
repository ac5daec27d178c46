/*
 * bench_fill.c - records on their way into the tier, beside raw LMDB writing 100 a transaction.
 *
 * Ours is freshet_load with a loader that has the value at hand: the miss, the load, and the record handed to the
 * writer's queue, until freshet_flush says that all are in the map.  (A put without a fleet waits for its own
 * record, one at a time; fills are what comes in numbers.)  A flush every so many records stands for the pauses
 * of a real program; what the queue drops all the same is no record written, and divides nothing.  Wall time: two
 * threads share our work.
 *
 * Churn is a tier that has been full for long, where a new record takes the room of an old one and one in four runs out
 * of its time soon, beside raw LMDB with as many records that deletes one for each that it puts.  Both sides in CPU
 * time, ours of all threads, the caller's share included.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#define SLICE        2000u /* records between turns */
#define SLICES       41u
#define SLICES_QUICK 11u
#define FLUSH_EVERY  500u

struct sides {
    freshet *cache;
    struct raw_map *map;
    struct bench_records records;
    unsigned char *value;
};

static freshet_result loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    const struct sides *sides = arg;

    (void)request;
    return freshet_buf_set(value, sides->value, sides->records.size);
}

static uint64_t dropped(freshet *cache)
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);

    return freshet_stat(cache, &stats) == FRESHET_OK ? stats.fills_dropped : 0;
}

/* Wall ns per record that landed; < 0: failed. */
static double fill_slice(struct sides *sides, uint32_t first, freshet_buf *buf)
{
    uint64_t before = dropped(sides->cache), lost;
    int64_t start = bench_wall_ns(), ns;

    for (uint32_t i = first; i < first + SLICE; i++) {
        if (freshet_load(sides->cache, sides->records.keys[i], BENCH_KEY, NULL, loader, sides, buf, NULL) != FRESHET_OK)
            return -1;
        if ((i - first) % FLUSH_EVERY == FLUSH_EVERY - 1 && freshet_flush(sides->cache, 10000) != FRESHET_OK)
            return -1;
    }
    if (freshet_flush(sides->cache, 10000) != FRESHET_OK)
        return -1;
    ns = bench_wall_ns() - start;
    lost = dropped(sides->cache) - before;
    return lost < SLICE / 2 ? (double)ns / (double)(SLICE - lost) : -1;
}

static double raw_slice(struct sides *sides, uint32_t first)
{
    int64_t start = bench_wall_ns();

    for (uint32_t i = first; i < first + SLICE; i++)
        if (!raw_map_put(sides->map, &sides->records, i, sides->value, i % 100 == 99))
            return -1;
    return (double)(bench_wall_ns() - start) / SLICE;
}

static bool measure(struct bench *bench, struct sides *sides, unsigned slices, struct bench_row *row)
{
    double ours[BENCH_SLICES_MAX], floors[BENCH_SLICES_MAX];
    freshet_buf buf = {0};
    bool good = true;

    for (unsigned i = 0; i < slices && good; i++) {
        uint32_t first = i * SLICE;

        if (i % 2)
            ours[i] = fill_slice(sides, first, &buf);
        floors[i] = raw_slice(sides, first);
        if (i % 2 == 0)
            ours[i] = fill_slice(sides, first, &buf);
        good = !tool_ended && ours[i] > 0 && floors[i] > 0;
    }
    freshet_buf_free(&buf);
    if (!good)
        return bench_stop(bench, "a record could not be written: %s", freshet_error());
    row->ours = bench_quantile(ours, slices, 0.5);
    row->floor = bench_quantile(floors, slices, 0.5);
    row->spread = bench_spread(floors, slices);
    return true;
}

/* ---- churn ---- */

struct churn {
    struct sides sides;
    uint32_t next, next_raw; /* records that were written */
    uint32_t window;         /* that raw LMDB keeps */
    freshet_buf buf;
};

/* Load one, and let one in four live for a third of a second. */
static bool churn_one(struct churn *churn)
{
    struct sides *sides = &churn->sides;
    freshet_load_options options = FRESHET_INIT(freshet_load_options);
    uint32_t i = churn->next++;

    options.ttl_ms = i % 4 == 0 ? 300 : 0;
    return freshet_load(sides->cache, sides->records.keys[i % sides->records.count], BENCH_KEY, &options, loader,
                        sides, &churn->buf, NULL) == FRESHET_OK &&
           (i % FLUSH_EVERY != FLUSH_EVERY - 1 || freshet_flush(sides->cache, 10000) == FRESHET_OK);
}

static double churn_ours(void *arg, unsigned slice)
{
    struct churn *churn = arg;
    uint64_t before = dropped(churn->sides.cache), lost;
    int64_t start = bench_process_ns(), ns;

    (void)slice;
    for (uint32_t i = 0; i < SLICE; i++)
        if (!churn_one(churn))
            return -1;
    if (freshet_flush(churn->sides.cache, 10000) != FRESHET_OK)
        return -1;
    ns = bench_process_ns() - start;
    lost = dropped(churn->sides.cache) - before;
    return lost < SLICE / 2 ? (double)ns / (double)(SLICE - lost) : -1;
}

static bool churn_raw_one(struct churn *churn)
{
    const struct bench_records *records = &churn->sides.records;
    uint32_t i = churn->next_raw++;

    return raw_map_put(churn->sides.map, records, i % records->count, churn->sides.value, false) &&
           (i < churn->window || raw_map_drop(churn->sides.map, records, (i - churn->window) % records->count)) &&
           (i % 100 != 99 || raw_map_commit(churn->sides.map));
}

static double churn_raw(void *arg, unsigned slice)
{
    struct churn *churn = arg;
    int64_t start = bench_cpu_ns();

    (void)slice;
    for (uint32_t i = 0; i < SLICE; i++)
        if (!churn_raw_one(churn))
            return -1;
    return (double)(bench_cpu_ns() - start) / SLICE;
}

/* Write until twice as many have left as are in, then give raw LMDB as many. */
static bool churn_settle(struct bench *bench, struct churn *churn)
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    bool good = true;

    bench_progress(bench, "filling a tier until it has been full for a while");
    do {
        for (unsigned i = 0; i < SLICE && good; i++)
            good = churn_one(churn);
        good = good && freshet_stat(churn->sides.cache, &stats) == FRESHET_OK && !tool_ended;
    } while (good && stats.evictions + stats.expired < 2 * stats.entries);
    churn->window = (uint32_t)stats.entries;
    for (uint32_t i = 0; i < 2 * churn->window + 100 && good; i++)
        good = churn_raw_one(churn);
    return good || bench_stop(bench, "cannot fill both sides: %s", freshet_error());
}

static bool bench_churn(struct bench *bench)
{
    uint64_t tier = bench->tool->quick ? 8u << 20 : 64u << 20;
    struct churn churn = {.sides.value = calloc(1, 1024)};
    struct sides *sides = &churn.sides;
    char dir[320];
    bool good;

    snprintf(dir, sizeof dir, "%s/raw-churn", bench->dir);
    if (!sides->value || !bench_records_make(&sides->records, (uint32_t)(tier / 128), 1024, 1))
        good = bench_stop(bench, "no memory");
    else if (!(sides->map = raw_map_open(dir, 8 * tier)))
        good = bench_stop(bench, "cannot open an LMDB environment");
    else
        good = (sides->cache = bench_open(bench, "host-churn", tier, BENCH_ALONE)) != NULL;
    good = good && churn_settle(bench, &churn) &&
           bench_pair(bench, bench_row_add(bench, 1.5, "churn/1KiB"), churn_ours, churn_raw, &churn);
    freshet_close(sides->cache);
    raw_map_close(sides->map);
    freshet_buf_free(&churn.buf);
    bench_records_free(&sides->records);
    free(sides->value);
    return good;
}

bool bench_fill(struct bench *bench)
{
    static const uint32_t sizes[] = {64, 1024};
    static const char *const names[] = {"64B", "1KiB"};
    unsigned slices = bench->tool->quick ? SLICES_QUICK : SLICES;
    uint32_t count = slices * SLICE;
    bool good = true;

    for (size_t s = 0; s < 2 && good; s++) {
        uint64_t room = count * (sizes[s] * UINT64_C(4) + 2048);
        struct sides sides = {.value = calloc(1, sizes[s])};
        char host[32], dir[320];

        snprintf(host, sizeof host, "host-%u", sizes[s]);
        snprintf(dir, sizeof dir, "%s/raw-%u", bench->dir, sizes[s]);
        if (!sides.value || !bench_records_make(&sides.records, count, sizes[s], 1))
            good = bench_stop(bench, "no memory");
        else if (!(sides.map = raw_map_open(dir, room)))
            good = bench_stop(bench, "cannot open an LMDB environment");
        else
            good = (sides.cache = bench_open(bench, host, room, false)) != NULL;
        if (good) {
            struct bench_row *row = bench_row_add(bench, 0, "%uk/%s", count / 1000, names[s]);

            bench_progress(bench, "writing %s", row->name);
            good = measure(bench, &sides, slices, row);
        }
        freshet_close(sides.cache);
        raw_map_close(sides.map);
        bench_records_free(&sides.records);
        free(sides.value);
    }
    return good && bench_churn(bench);
}
