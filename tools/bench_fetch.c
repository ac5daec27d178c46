/*
 * bench_fetch.c - a get that the tier cannot answer, beside a synchronous hiredis GET of the same bytes.
 *
 * Another host has loaded the records, so this one's tier has none of them; each is fetched once.  What is ours: a
 * question of two keys, a sealed answer to open and to judge, its record for the tier.  Both sides wait for Redis most
 * of the time, so wall time counts.
 *
 * Then eight threads fetch at once, beside eight that have a blocking connection each.
 */
#include "bench.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORDS        25600u /* the crowd's 32 slices, one to warm up */
#define RECORDS_QUICK  6400u
#define SLICE          400u /* operations between turns: some milliseconds */
#define SLICE_TOGETHER 800u

struct sides {
    freshet *cache;
    struct raw_redis *redis, *connections[BENCH_THREADS];
    struct bench_records records;
    double *ours, *floors; /* ns each */
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
        for (int turn = 0; turn < 2; turn++) {
            bool our_turn = (first / SLICE % 2 == 0) == (turn == 0);

            for (uint32_t i = first; i < first + SLICE; i++)
                if (!(our_turn ? fetch_one(sides, i) : get_one(sides, i)))
                    return bench_stop(bench, our_turn ? "a record was not fetched from Redis" : "Redis lost a string");
        }
        if (tool_ended)
            return false;
    }
    return true;
}

static bool allocate(struct sides *sides, uint32_t count, uint32_t size)
{
    sides->ours = calloc(count, sizeof *sides->ours);
    sides->floors = calloc(count, sizeof *sides->floors);
    sides->raw_buf = malloc(size);
    return bench_records_make(&sides->records, count, size, size) && sides->ours && sides->floors &&
           sides->raw_buf;
}

/* ---- eight threads ---- */

struct caller {
    struct sides *sides;
    struct raw_redis *redis; /* NULL: our side */
    pthread_barrier_t *start;
    uint32_t first, count;
    bool good;
};

static void *call(void *arg)
{
    struct caller *caller = arg;
    const struct bench_records *records = &caller->sides->records;
    unsigned char *room = malloc(records->size);
    freshet_buf buf = {0};

    caller->good = room != NULL;
    (void)pthread_barrier_wait(caller->start);
    for (uint32_t i = caller->first; i < caller->first + caller->count && caller->good; i++)
        caller->good =
            caller->redis
                ? raw_redis_get(caller->redis, records->keys[i], BENCH_KEY, room, records->size) ==
                      (int64_t)records->size
                : freshet_get(caller->sides->cache, records->keys[i], BENCH_KEY, NULL, &buf, NULL) == FRESHET_OK;
    freshet_buf_free(&buf);
    free(room);
    return NULL;
}

/* A slice of records, each asked for once, by all threads together: operations a second; < 0: failed. */
static double together(struct sides *sides, unsigned slice, bool ours)
{
    struct caller callers[BENCH_THREADS];
    pthread_t threads[BENCH_THREADS];
    pthread_barrier_t start;
    unsigned started = 0;
    int64_t from;
    bool good = true;

    if (pthread_barrier_init(&start, NULL, BENCH_THREADS + 1) != 0)
        return -1;
    for (; started < BENCH_THREADS; started++) {
        callers[started] = (struct caller){sides, ours ? NULL : sides->connections[started], &start,
                                           slice * SLICE_TOGETHER + started * (SLICE_TOGETHER / BENCH_THREADS),
                                           SLICE_TOGETHER / BENCH_THREADS, false};
        if (pthread_create(&threads[started], NULL, call, &callers[started]) != 0)
            _exit(TOOL_FAILED); /* those that were started wait for a barrier that never opens */
    }
    (void)pthread_barrier_wait(&start);
    from = bench_wall_ns();
    for (unsigned i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        good &= callers[i].good;
    }
    pthread_barrier_destroy(&start);
    return good ? SLICE_TOGETHER * 1e9 / (double)(bench_wall_ns() - from) : -1;
}

static double our_together(void *arg, unsigned slice)
{
    return together(arg, slice, true);
}

static double raw_together(void *arg, unsigned slice)
{
    return together(arg, slice, false);
}

static bool measure_together(struct bench *bench, struct sides *sides, const char *size_name)
{
    struct bench_row *row = bench_row_add(bench, 0, "%s/%u threads", size_name, BENCH_THREADS);
    bool good = true;

    bench_row_aim(row, BENCH_AIM_LEAST, 4, "gets/s");
    for (unsigned i = 0; i < BENCH_THREADS && good; i++)
        good = (sides->connections[i] = raw_redis_open(bench->socket, 10000)) != NULL ||
               bench_stop(bench, "cannot connect to its Redis");
    return good && bench_pair(bench, row, our_together, raw_together, sides);
}

/* ---- the run ---- */

static bool open_reader(struct bench *bench, struct sides *sides, const char *host)
{
    freshet_close(sides->cache);
    sides->cache = bench_open(bench, host, sides->records.count * (sides->records.size * UINT64_C(4) + 2048) +
                                               (8u << 20), BENCH_JOINED);
    return sides->cache != NULL;
}

static bool run_size(struct bench *bench, struct sides *sides, uint32_t size, const char *size_name)
{
    uint32_t count = bench->tool->quick ? RECORDS_QUICK : RECORDS;
    char hosts[3][32];

    if (!allocate(sides, count, size))
        return bench_stop(bench, "no memory");
    if (!(sides->redis = raw_redis_open(bench->socket, 10000)))
        return bench_stop(bench, "cannot connect to its Redis");
    snprintf(hosts[0], sizeof hosts[0], "writer-%u", size);
    snprintf(hosts[1], sizeof hosts[1], "reader-%u", size);
    snprintf(hosts[2], sizeof hosts[2], "crowd-%u", size);
    if (!fill(bench, sides, hosts[0]))
        return false;
    bench_progress(bench, "fetching %u records of %u bytes", count, size);
    if (!open_reader(bench, sides, hosts[1]) || !measure(bench, sides))
        return false;
    bench_rows_times(bench, size_name, 1.2, 0, sides->ours, sides->floors, count, SLICE);
    return open_reader(bench, sides, hosts[2]) && measure_together(bench, sides, size_name);
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
        for (unsigned i = 0; i < BENCH_THREADS; i++)
            raw_redis_close(sides.connections[i]);
        freshet_buf_free(&sides.buf);
        bench_records_free(&sides.records);
        free(sides.ours);
        free(sides.floors);
        free(sides.raw_buf);
    }
    return good;
}
