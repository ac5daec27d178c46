/*
 * bench_change.c - a change, from the call to its confirmation, beside what it cannot do without: the very same script
 * with the very same words by a blocking hiredis connection, and one Ed25519 signature over as many bytes.
 *
 * The words are overheard: a third connection watches (MONITOR) while one change is made, and is closed before anything
 * is measured.  They are taken down anew for each slice, since a put that comes late is refused.  Host A listens to the
 * fleet as any host does, and hears the floor's changes as it hears its own.  Both sides wait for Redis, so wall time
 * counts.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#define CHANGES       4000u
#define CHANGES_QUICK 800u
#define SLICE         100u
#define VALUE         1024u
#define MESSAGE_AT    3 /* of ARGV: context, channel, signed message */
#define SIGNED_HEAD   72u

struct sides {
    freshet *cache;
    struct raw_redis *redis;
    struct bench_records records;
    unsigned char value[VALUE];
    double *ours, *floors;
};

static freshet_result change_one(struct sides *sides, bool put, uint32_t i)
{
    const char *key = sides->records.keys[i];

    return put ? freshet_put(sides->cache, key, BENCH_KEY, sides->value, VALUE, NULL, NULL)
               : freshet_invalidate(sides->cache, key, BENCH_KEY, NULL, NULL);
}

/* The change is the one with a signed message: the listener asks things meanwhile. */
static bool is_change(const struct raw_script *script)
{
    int at = script->count > 2 ? 2 + atoi(script->words[2]) + MESSAGE_AT : 0;

    return at > 2 && at < script->count && script->sizes[at] >= 2 * RAW_SIGNATURE;
}

/* Take down the script of one change; false, in a second at most: it did not come by. */
static bool overhear_one(struct raw_redis *watcher, struct raw_script *script)
{
    int64_t end = bench_wall_ns() + INT64_C(1000000000);

    while (bench_wall_ns() < end && raw_redis_overhear(watcher, script)) {
        if (is_change(script))
            return true;
        raw_script_free(script);
    }
    return false;
}

static bool overhear(struct bench *bench, struct sides *sides, bool put, uint32_t i, struct raw_script *script)
{
    bool heard = false;

    for (int tries = 0; tries < 5 && !heard && !tool_ended; tries++) {
        struct raw_redis *watcher = raw_redis_open(bench->socket, 10000);
        bool good = watcher && raw_redis_watch(watcher);
        freshet_result result = good ? change_one(sides, put, i) : FRESHET_OK;

        heard = good && result == FRESHET_OK && overhear_one(watcher, script);
        raw_redis_close(watcher);
        if (result != FRESHET_OK)
            return bench_stop_result(bench, result, "cannot change a key");
    }
    return heard || bench_stop(bench, "cannot see what is sent to Redis");
}

static bool raw_slice(struct bench *bench, struct sides *sides, bool put, uint32_t first)
{
    struct raw_script script;
    unsigned char signature[RAW_SIGNATURE];
    const unsigned char *message;
    size_t size;
    bool good = true;

    if (!overhear(bench, sides, put, first, &script))
        return false;
    message = (unsigned char *)script.words[2 + atoi(script.words[2]) + MESSAGE_AT];
    size = script.sizes[2 + atoi(script.words[2]) + MESSAGE_AT] - SIGNED_HEAD;
    for (uint32_t i = first; i < first + SLICE && good; i++) {
        int64_t start = bench_wall_ns();

        good = raw_sign(message + SIGNED_HEAD, size, signature) && raw_redis_script(sides->redis, &script);
        sides->floors[i] = (double)(bench_wall_ns() - start);
    }
    raw_script_free(&script);
    return good || bench_stop(bench, "Redis refuses the script");
}

static bool our_slice(struct bench *bench, struct sides *sides, bool put, uint32_t first)
{
    for (uint32_t i = first; i < first + SLICE; i++) {
        int64_t start = bench_wall_ns();
        freshet_result result = change_one(sides, put, i);

        sides->ours[i] = (double)(bench_wall_ns() - start);
        if (result != FRESHET_OK)
            return bench_stop_result(bench, result, "cannot change a key");
    }
    return true;
}

static bool measure(struct bench *bench, struct sides *sides, bool put)
{
    uint32_t count = sides->records.count;

    for (uint32_t first = 0; first < count; first += SLICE) {
        bool ours_first = first / SLICE % 2;

        bench_progress(bench, "%u of %u %s", first, count, put ? "puts" : "invalidations");
        if (ours_first && !our_slice(bench, sides, put, first))
            return false;
        if (!raw_slice(bench, sides, put, first) || (!ours_first && !our_slice(bench, sides, put, first)) ||
            tool_ended)
            return false;
    }
    bench_rows_times(bench, put ? "put 1KiB" : "invalidate", 1.25, 0, sides->ours, sides->floors, count, SLICE);
    return true;
}

bool bench_change(struct bench *bench)
{
    uint32_t count = bench->tool->quick ? CHANGES_QUICK : CHANGES;
    struct sides sides = {.ours = calloc(count, sizeof *sides.ours), .floors = calloc(count, sizeof *sides.floors)};
    bool good = bench_records_make(&sides.records, count, VALUE, 5) && sides.ours && sides.floors;

    if (!good)
        (void)bench_stop(bench, "no memory");
    else if (!raw_sign_start())
        good = bench_stop(bench, "cannot draw a key pair");
    else if (!(sides.redis = raw_redis_open(bench->socket, 10000)))
        good = bench_stop(bench, "cannot connect to its Redis");
    good = good && (sides.cache = bench_open(bench, "writer", 32u << 20, BENCH_JOINED)) != NULL &&
           measure(bench, &sides, false) && measure(bench, &sides, true);
    freshet_close(sides.cache);
    raw_redis_close(sides.redis);
    bench_records_free(&sides.records);
    free(sides.ours);
    free(sides.floors);
    return good;
}
