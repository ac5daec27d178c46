/*
 * bench_evict.c - how well the tier chooses what stays: a real trace, asked of a real tier through the public calls,
 * beside LRU and Belady's optimum for as many entries.
 *
 *     freshet bench evict TRACE [ENTRIES...]
 *
 * Each request is a freshet_load with the value at hand, and after a miss a freshet_flush, so that the next request for
 * the key finds it.  All records are of one size.  How many of them a tier holds is for the tier to say: its size is
 * found by filling tiers until about the number that was asked for is left in one, and what is compared with is a cache
 * of as many entries as were ever counted in the tier while the trace ran.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#include "trace.h"

#define VALUE        1024u
#define TIER_LEAST   (UINT64_C(1) << 20)
#define TRIES        8u
#define SIZES_MOST   16
#define QUICK        100000u /* requests with --quick */
#define COUNTS       64u     /* times that the entries are counted in a run */
#define FLUSH_MS     60000u
#define FILL_BATCH   64u
#define SHARE_WANTED 0.30
#define BELOW_MOST   0.5 /* points below LRU */

struct evict_row {
    uint32_t asked, entries; /* entries: the most that were counted */
    uint32_t value;
    uint64_t tier, dropped;
    double lru, ours, best; /* percent */
};

struct evict_run {
    struct bench *bench;
    struct trace trace;
    struct evict_row rows[SIZES_MOST];
    unsigned count;
    unsigned char *value;
    uint32_t value_size;
    uint64_t tier;
    freshet_buf buf;
};

static freshet_result loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    const struct evict_run *run = arg;

    (void)request;
    return freshet_buf_set(value, run->value, run->value_size);
}

/* Ask for a key; 1: it was there, 0: it is now on its way, < 0: failed, and that was said. */
static int ask(struct evict_run *run, freshet *cache, uint32_t key)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    char text[BENCH_KEY + 1];
    freshet_result result;

    snprintf(text, sizeof text, "evict:%026u", key);
    result = freshet_load(cache, text, BENCH_KEY, NULL, loader, run, &run->buf, &answer);
    if (result != FRESHET_OK) {
        bench_stop_result(run->bench, result, "cannot load");
        return -1;
    }
    return answer.source == FRESHET_FROM_TIER;
}

static bool flush(struct evict_run *run, freshet *cache)
{
    freshet_result result = freshet_flush(cache, FLUSH_MS);

    return result == FRESHET_OK || bench_stop_result(run->bench, result, "cannot flush");
}

static bool look(struct evict_run *run, freshet *cache, freshet_stats *ret_stats)
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    freshet_result result = freshet_stat(cache, &stats);

    *ret_stats = stats;
    return result == FRESHET_OK || bench_stop_result(run->bench, result, "cannot look into the tier");
}

static void tier_remove(struct evict_run *run, freshet *cache, const char *host)
{
    char dir[320];

    freshet_close(cache);
    snprintf(dir, sizeof dir, "%s/%s", run->bench->dir, host);
    tool_scratch_remove(dir);
}

/* ---- a tier of so many entries ---- */

/* How many of `count` records stay in a tier of run->tier bytes; 0: failed. */
static uint64_t entries_left(struct evict_run *run, uint32_t count)
{
    freshet *cache = bench_open(run->bench, "probe", run->tier, false);
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    bool good = cache != NULL;

    for (uint32_t i = 0; good && i < count; i++)
        good = !tool_ended && ask(run, cache, i) >= 0 && (i % FILL_BATCH != FILL_BATCH - 1 || flush(run, cache));
    good = good && flush(run, cache) && look(run, cache, &stats);
    if (cache)
        tier_remove(run, cache, "probe");
    return good ? stats.entries : 0;
}

/* Find the tier's size, or of a small one the value's, for about so many entries. */
static bool tier_fit(struct evict_run *run, uint32_t wanted)
{
    run->value_size = VALUE;
    run->tier = TIER_LEAST + (uint64_t)wanted * 2 * VALUE;
    for (unsigned i = 0; i < TRIES; i++) {
        uint64_t entries;

        free(run->value);
        if (!(run->value = calloc(1, run->value_size)))
            return bench_stop(run->bench, "no memory");
        bench_progress(run->bench, "finding a tier of %u entries", wanted);
        if ((entries = entries_left(run, 3 * wanted + 100)) == 0)
            return tool_ended ? false : bench_stop(run->bench, "the tier does not hold one record");
        if (entries >= wanted - wanted / 100 && entries <= wanted + wanted / 100)
            break;
        if (run->tier > TIER_LEAST || entries < wanted) {
            run->tier = (uint64_t)((double)run->tier * wanted / (double)entries);
            run->tier = run->tier < TIER_LEAST ? TIER_LEAST : run->tier;
        } else { /* it cannot be smaller: its records must be larger */
            run->value_size = (uint32_t)((double)run->value_size * (double)entries / wanted);
        }
    }
    return true;
}

/* ---- the trace ---- */

/* Replay the trace; the row's hits and entries. */
static bool replay(struct evict_run *run, freshet *cache, struct evict_row *row)
{
    size_t every = run->trace.count / COUNTS + 1;
    freshet_stats stats;
    uint64_t hits = 0;

    for (size_t i = 0; i < run->trace.count; i++) {
        int there = ask(run, cache, run->trace.keys[i]);

        if (there < 0 || tool_ended || (there == 0 && !flush(run, cache)))
            return false;
        hits += (unsigned)there;
        if (i % every == every - 1 || i + 1 == run->trace.count) {
            if (!look(run, cache, &stats))
                return false;
            row->entries = stats.entries > row->entries ? (uint32_t)stats.entries : row->entries;
            row->dropped = stats.fills_dropped;
            bench_progress(run->bench, "%u entries: %zu of %zu requests, %.2f %% hit", row->asked, i + 1,
                           run->trace.count, 100.0 * (double)hits / (double)(i + 1));
        }
    }
    row->ours = 100.0 * (double)hits / (double)run->trace.count;
    return true;
}

static bool measure(struct evict_run *run, uint32_t wanted)
{
    struct evict_row *row = &run->rows[run->count];
    freshet *cache;
    int64_t lru, best;
    bool good;

    *row = (struct evict_row){.asked = wanted};
    if (!tier_fit(run, wanted) || !(cache = bench_open(run->bench, "host", run->tier, false)))
        return false;
    row->tier = run->tier;
    row->value = run->value_size;
    good = replay(run, cache, row);
    tier_remove(run, cache, "host");
    if (!good)
        return false;
    lru = trace_lru(&run->trace, row->entries);
    best = trace_optimum(&run->trace, row->entries);
    if (lru < 0 || best < 0)
        return bench_stop(run->bench, "no memory");
    row->lru = 100.0 * (double)lru / (double)run->trace.count;
    row->best = 100.0 * (double)best / (double)run->trace.count;
    run->count++;
    return true;
}

/* ---- showing ---- */

static double share_of(const struct evict_row *row)
{
    return row->best > row->lru ? (row->ours - row->lru) / (row->best - row->lru) : 0;
}

static void show(const struct evict_run *run)
{
    double sum = 0, least = 100;

    printf("%-8s %8s %8s %12s %8s %8s %8s %8s %8s\n", "evict", "entries", "value", "tier", "LRU %", "ours %", "best %",
           "share", "dropped");
    for (unsigned i = 0; i < run->count; i++) {
        const struct evict_row *row = &run->rows[i];

        printf("%-8u %8u %8u %12llu %8.2f %8.2f %8.2f %8.3f %8llu\n", row->asked, row->entries, row->value,
               (unsigned long long)row->tier, row->lru, row->ours, row->best, share_of(row),
               (unsigned long long)row->dropped);
        sum += share_of(row);
        least = row->ours - row->lru < least ? row->ours - row->lru : least;
    }
    sum /= run->count;
    printf("mean share of the gap closed: %.3f, %s %.2f\n", sum, sum >= SHARE_WANTED ? "good: at least" : "LOW: below",
           SHARE_WANTED);
    printf("against LRU at the least %+.2f points, %s %.1f below\n", least,
           least >= -BELOW_MOST ? "good: no more than" : "LOW: more than", BELOW_MOST);
    if (run->bench->tool->quick)
        puts("--quick: the trace's beginning; a glance, not a measurement");
}

static void show_json(const struct evict_run *run)
{
    struct json json = {.out = stdout};

    json_open(&json, NULL, '{');
    json_text(&json, "bench", run->bench->name);
    json_open(&json, "rows", '[');
    for (unsigned i = 0; i < run->count; i++) {
        const struct evict_row *row = &run->rows[i];

        json_open(&json, NULL, '{');
        json_real(&json, "asked", row->asked, 0);
        json_real(&json, "entries", row->entries, 0);
        json_real(&json, "value_size", row->value, 0);
        json_real(&json, "tier_size", (double)row->tier, 0);
        json_real(&json, "lru", row->lru, 3);
        json_real(&json, "ours", row->ours, 3);
        json_real(&json, "best", row->best, 3);
        json_real(&json, "share", share_of(row), 4);
        json_real(&json, "fills_dropped", (double)row->dropped, 0);
        json_text(&json, "unit", "percent");
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_close(&json, '}');
}

/* ---- the bench ---- */

/* The sizes asked for, else four: from a 256th of the trace's keys to an eighth. */
static int sizes_take(struct evict_run *run, uint32_t sizes[SIZES_MOST])
{
    static const uint32_t parts[] = {256, 64, 16, 8};
    const struct tool *tool = run->bench->tool;
    int count = tool->args_count - 2;

    if (count <= 0) {
        for (count = 0; count < 4; count++)
            sizes[count] = run->trace.distinct / parts[count] > 16 ? run->trace.distinct / parts[count] : 16;
        return count;
    }
    for (int i = 0; i < count; i++) {
        char *end;
        unsigned long entries = strtoul(tool->args[i + 2], &end, 10);

        if (count > SIZES_MOST || *end || entries < 1 || entries > 100000000) {
            bench_stop(run->bench, "\"%s\" is not a number of entries, or more than %d of them", tool->args[i + 2],
                       SIZES_MOST);
            return 0;
        }
        sizes[i] = (uint32_t)entries;
    }
    return count;
}

bool bench_evict(struct bench *bench)
{
    struct evict_run run = {.bench = bench};
    uint32_t sizes[SIZES_MOST];
    char why[512];
    bool good = true;
    int count;

    if (bench->tool->args_count < 2)
        return bench_stop(bench, "needs a trace: bench evict TRACE [ENTRIES...]");
    if (!trace_read(&run.trace, bench->tool->args[1], why, sizeof why))
        return bench_stop(bench, "%s", why);
    if (bench->tool->quick && run.trace.count > QUICK)
        run.trace.count = QUICK;
    if ((count = sizes_take(&run, sizes)) == 0)
        good = false;
    for (int i = 0; i < count && good; i++)
        good = measure(&run, sizes[i]);
    if (good && bench->tool->json)
        show_json(&run);
    else if (good)
        show(&run);
    freshet_buf_free(&run.buf);
    free(run.value);
    trace_free(&run.trace);
    return good;
}
