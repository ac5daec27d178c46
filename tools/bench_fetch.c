/*
 * bench_fetch.c - a get that the tier cannot answer, beside a synchronous hiredis GET of the same bytes.
 *
 * Another host has loaded the records, so this one's tier has none of them; each is fetched once.  What is ours: a
 * question of two keys, a sealed answer to open and to judge, its record for the tier.  Both sides wait for Redis most
 * of the time, so wall time counts.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#define RECORDS       20000u
#define RECORDS_QUICK 4000u
#define SLICE         200u /* operations between turns: a few milliseconds */

struct sides {
    freshet *cache;
    struct raw_redis *redis;
    struct bench_records records;
    double *ours, *floors, *slice_floors; /* ns each; the last: a median a slice */
    freshet_buf buf;
    unsigned char *raw_buf;
};

/* The other host: loads all, and beside them the same bytes as plain strings. */
static bool fill(struct bench *bench, struct sides *sides, const char *host)
{
    uint64_t room = sides->records.count * (sides->records.size * UINT64_C(4) + 2048) + (8u << 20);
    freshet *other;
    bool good;

    bench_progress(bench, "another host loads %u records of %u bytes", sides->records.count, sides->records.size);
    if (!(other = bench_open(bench, host, room, true)))
        return false;
    good = bench_load(bench, other, &sides->records);
    freshet_close(other);
    for (uint32_t i = 0; good && i < sides->records.count; i++) {
        bench_value(&sides->records, i, sides->raw_buf);
        good = raw_redis_set(sides->redis, sides->records.keys[i], BENCH_KEY, sides->raw_buf, sides->records.size) ||
               bench_stop(bench, "Redis refuses a SET");
    }
    return good;
}

static bool fetch_one(struct sides *sides, uint32_t i)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    int64_t start = bench_wall_ns();
    freshet_result result = freshet_get(sides->cache, sides->records.keys[i], BENCH_KEY, NULL, &sides->buf, &answer);

    sides->ours[i] = (double)(bench_wall_ns() - start);
    return result == FRESHET_OK && answer.source == FRESHET_FROM_REDIS && sides->buf.size == sides->records.size;
}

static bool get_one(struct sides *sides, uint32_t i)
{
    int64_t start = bench_wall_ns();
    int64_t size = raw_redis_get(sides->redis, sides->records.keys[i], BENCH_KEY, sides->raw_buf, sides->records.size);

    sides->floors[i] = (double)(bench_wall_ns() - start);
    return size == (int64_t)sides->records.size;
}

/* Slices in turn; both sides end with the same records read once. */
static bool measure(struct bench *bench, struct sides *sides)
{
    uint32_t count = sides->records.count;

    for (uint32_t first = 0; first < count; first += SLICE) {
        double copy[SLICE];

        for (int turn = 0; turn < 2; turn++) {
            bool our_turn = (first / SLICE % 2 == 0) == (turn == 0);

            for (uint32_t i = first; i < first + SLICE; i++)
                if (!(our_turn ? fetch_one(sides, i) : get_one(sides, i)))
                    return bench_stop(bench, our_turn ? "a record was not fetched from Redis" : "Redis lost a string");
        }
        memcpy(copy, sides->floors + first, sizeof copy);
        sides->slice_floors[first / SLICE] = bench_quantile(copy, SLICE, 0.5);
        if (tool_ended)
            return false;
    }
    return true;
}

static bool allocate(struct sides *sides, uint32_t count, uint32_t size)
{
    sides->ours = calloc(count, sizeof *sides->ours);
    sides->floors = calloc(count, sizeof *sides->floors);
    sides->slice_floors = calloc(count / SLICE, sizeof *sides->slice_floors);
    sides->raw_buf = malloc(size);
    return bench_records_make(&sides->records, count, size, size) && sides->ours && sides->floors &&
           sides->slice_floors && sides->raw_buf;
}

static bool run_size(struct bench *bench, struct sides *sides, uint32_t size, const char *size_name)
{
    uint32_t count = bench->tool->quick ? RECORDS_QUICK : RECORDS;
    char hosts[2][32];
    double spread;

    if (!allocate(sides, count, size))
        return bench_stop(bench, "no memory");
    if (!(sides->redis = raw_redis_open(bench->socket, 10000)))
        return bench_stop(bench, "cannot connect to its Redis");
    snprintf(hosts[0], sizeof hosts[0], "writer-%u", size);
    snprintf(hosts[1], sizeof hosts[1], "reader-%u", size);
    if (!fill(bench, sides, hosts[0]))
        return false;
    bench_progress(bench, "fetching %u records of %u bytes", count, size);
    if (!(sides->cache = bench_open(bench, hosts[1], count * (size * UINT64_C(4) + 2048) + (8u << 20), true)) ||
        !measure(bench, sides))
        return false;
    spread = bench_spread(sides->slice_floors, count / SLICE);
    for (int tail = 0; tail < 2; tail++) {
        struct bench_row *row =
            bench_row_add(bench, tail ? 0 : 1.8, "%uk/%s/%s", count / 1000, size_name, tail ? "p99" : "p50");

        row->ours = bench_quantile(sides->ours, count, tail ? 0.99 : 0.5);
        row->floor = bench_quantile(sides->floors, count, tail ? 0.99 : 0.5);
        row->spread = spread;
    }
    return true;
}

bool bench_fetch(struct bench *bench)
{
    static const uint32_t sizes[] = {64, 1024};
    static const char *const names[] = {"64B", "1KiB"};
    bool good = true;

    for (size_t s = 0; s < 2 && good; s++) {
        struct sides sides = {0};

        good = run_size(bench, &sides, sizes[s], names[s]);
        freshet_close(sides.cache);
        raw_redis_close(sides.redis);
        freshet_buf_free(&sides.buf);
        bench_records_free(&sides.records);
        free(sides.ours);
        free(sides.floors);
        free(sides.slice_floors);
        free(sides.raw_buf);
    }
    return good;
}
