/*
 * bench.c - freshet bench: runs one measurement and shows its rows.
 *
 * It touches nobody's tier and nobody's Redis: all happens in a directory and on a server of its own, which go when
 * it ends, also by Ctrl-C.
 */
#include "bench.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SLICES       31u
#define SLICES_QUICK 7u

/* ---- saying ---- */

bool bench_stop(const struct bench *bench, const char *format, ...)
{
    char text[512];
    va_list args;

    if (tool_ended)
        return false;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)tool_error(bench->tool, TOOL_FAILED, "eio", "bench %s: %s", bench->name, text);
    return false;
}

bool bench_stop_result(const struct bench *bench, freshet_result result, const char *what)
{
    char text[128];

    snprintf(text, sizeof text, "bench %s: %s", bench->name, what);
    (void)tool_failed(bench->tool, result, text);
    return false;
}

void bench_progress(const struct bench *bench, const char *format, ...)
{
    va_list args;

    if (bench->tool->json || !isatty(STDERR_FILENO))
        return;
    va_start(args, format);
    fputs("  ", stderr);
    vfprintf(stderr, format, args);
    fputs("\033[K\r", stderr);
    va_end(args);
}

struct bench_row *bench_row_add(struct bench *bench, double most, const char *format, ...)
{
    struct bench_row *row = &bench->rows[bench->rows_count < BENCH_ROWS - 1 ? bench->rows_count++ : BENCH_ROWS - 1];
    va_list args;

    *row = (struct bench_row){.spread = 1};
    bench_row_aim(row, most > 0 ? BENCH_AIM_MOST : BENCH_AIM_NONE, most, "ns");
    va_start(args, format);
    vsnprintf(row->name, sizeof row->name, format, args);
    va_end(args);
    return row;
}

void bench_row_aim(struct bench_row *row, enum bench_aim aim, double bound, const char *unit)
{
    row->aim = aim;
    row->bound = bound;
    row->unit = unit;
}

/* ---- numbers ---- */

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t bench_cpu_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

int64_t bench_process_ns(void)
{
    return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

int64_t bench_wall_ns(void)
{
    return clock_ns(CLOCK_BOOTTIME);
}

/* SplitMix64: short, and the same on every machine. */
uint64_t bench_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

double bench_quantile(double *values, size_t n, double share)
{
    size_t at = (size_t)((double)n * share);

    qsort(values, n, sizeof *values, by_value);
    return values[at < n ? at : n - 1];
}

double bench_spread(double *values, size_t n)
{
    double low = bench_quantile(values, n, 0.25), high = bench_quantile(values, n, 0.75);

    return low > 0 ? high / low : INFINITY;
}

uint32_t *bench_sequence(uint32_t n, size_t count, bool zipf, uint64_t seed)
{
    uint32_t *sequence = calloc(count, sizeof *sequence);
    double *below = calloc(n, sizeof *below); /* the weight of all ranks up to this one */
    double sum = 0;

    for (uint32_t i = 0; below && i < n; i++)
        below[i] = sum += zipf ? pow(i + 1, -0.99) : 1;
    for (size_t i = 0; sequence && below && i < count; i++) {
        double point = sum * ((double)(bench_random(&seed) >> 11) * 0x1p-53);
        uint32_t low = 0, high = n - 1;

        while (low < high) { /* the first rank whose weight reaches the point */
            uint32_t middle = low + (high - low) / 2;

            if (below[middle] < point)
                low = middle + 1;
            else
                high = middle;
        }
        sequence[i] = low;
    }
    if (!below) {
        free(sequence);
        sequence = NULL;
    }
    free(below);
    return sequence;
}

/* ---- two sides in turn ---- */

unsigned bench_slices(const struct bench *bench)
{
    return bench->tool->quick ? SLICES_QUICK : SLICES;
}

bool bench_pair(struct bench *bench, struct bench_row *row, bench_side ours, bench_side floors, void *arg)
{
    double our_times[SLICES], floor_times[SLICES];
    unsigned slices = bench_slices(bench), again = 0;

    bench_progress(bench, "measuring %s", row->name);
    for (unsigned i = 0; i < slices + 1; i++) { /* the first only warms up */
        unsigned at = i ? i - 1 : 0;

        if (i % 2)
            our_times[at] = ours(arg, i);
        floor_times[at] = floors(arg, i);
        if (i % 2 == 0)
            our_times[at] = ours(arg, i);
        if (tool_ended)
            return false;
        if (our_times[at] == BENCH_AGAIN || floor_times[at] == BENCH_AGAIN) {
            if (++again > slices)
                return bench_stop(bench, "%s: slices that show nothing, again and again: %s", row->name,
                                  freshet_error());
            i--;
        } else if (our_times[at] < 0 || floor_times[at] < 0) {
            return bench_stop(bench, "%s: %s failed: %s", row->name, our_times[at] < 0 ? "our side" : "the floor",
                              our_times[at] < 0 ? freshet_error() : "a record was not there, or was not taken");
        }
    }
    row->ours = bench_quantile(our_times, slices, 0.5);
    row->floor = bench_quantile(floor_times, slices, 0.5);
    row->spread = bench_spread(floor_times, slices);
    return true;
}

void bench_rows_times(struct bench *bench, const char *name, double most, double most_tail, double *ours,
                      double *floors, size_t count, size_t slice)
{
    double medians[BENCH_SLICES_MAX], spread;
    size_t slices = count / slice < BENCH_SLICES_MAX ? count / slice : BENCH_SLICES_MAX;

    for (size_t i = 0; i < slices; i++)
        medians[i] = bench_quantile(floors + i * slice, slice, 0.5);
    spread = bench_spread(medians, slices);
    for (int tail = 0; tail < 2; tail++) {
        struct bench_row *row = bench_row_add(bench, tail ? most_tail : most, "%s/%s", name, tail ? "p99" : "p50");

        row->ours = bench_quantile(ours, count, tail ? 0.99 : 0.5);
        row->floor = bench_quantile(floors, count, tail ? 0.99 : 0.5);
        row->spread = spread;
    }
}

/* ---- showing ---- */

/* 1234567.8 as "1,234,568"; small ones with decimals. */
static const char *amount(double number, char buffer[32])
{
    if (number < 100)
        snprintf(buffer, 32, "%.*f", number < 10 && number != floor(number) ? 2 : 1, number);
    else
        tool_number((uint64_t)llround(number), buffer);
    return buffer;
}

static bool met(const struct bench_row *row)
{
    bool ratio = row->aim == BENCH_AIM_MOST || row->aim == BENCH_AIM_LEAST;
    double figure = ratio ? row->ours / row->floor : row->ours;

    return row->aim == BENCH_AIM_MOST || row->aim == BENCH_AIM_OURS_MOST ? figure <= row->bound : figure >= row->bound;
}

/* Does the row prove anything? */
static bool steady(const struct bench_row *row)
{
    if (row->spread == 1) /* counted */
        return true;
    if (row->aim == BENCH_AIM_OURS_MOST && row->ours > row->bound && row->floor > row->bound)
        return false;
    if (row->aim == BENCH_AIM_OURS_LEAST && row->ours < row->bound && row->floor < row->bound)
        return false;
    return row->spread <= BENCH_MOVED;
}

/* In a word, for programs. */
static const char *judged(const struct bench_row *row)
{
    if (row->aim == BENCH_AIM_NONE)
        return "none";
    return !steady(row) ? "moved" : met(row) ? "good" : "bad";
}

static void verdict(const struct bench_row *row, char *text, size_t size)
{
    bool most = row->aim == BENCH_AIM_MOST || row->aim == BENCH_AIM_OURS_MOST;
    bool ratio = row->aim == BENCH_AIM_MOST || row->aim == BENCH_AIM_LEAST;
    char bound[32];

    if (!(row->spread <= BENCH_MOVED))
        snprintf(text, size, "not judged: the floor moved by %.0f %%", 100 * (row->spread - 1));
    else if (row->aim == BENCH_AIM_NONE)
        snprintf(text, size, "no promise");
    else if (!steady(row))
        snprintf(text, size, "not judged: nor does the floor keep to %s", amount(row->bound, bound));
    else
        snprintf(text, size, "%s %s%s", met(row) ? (most ? "good: at most" : "good: at least")
                                                 : (most ? "BAD: above" : "BAD: below"),
                 amount(row->bound, bound), ratio ? " x" : "");
}

static void show_table(const struct bench *bench)
{
    char ours[32], floors[32], text[80];

    if (isatty(STDERR_FILENO))
        fputs("\033[K", stderr);
    printf("%-28s %12s %12s %-8s %8s %7s  %s\n", bench->name, "ours", "floor", "", "ratio", "spread", "judged");
    for (unsigned i = 0; i < bench->rows_count; i++) {
        const struct bench_row *row = &bench->rows[i];
        char ratio[16] = "-";

        verdict(row, text, sizeof text);
        if (row->floor > 0)
            snprintf(ratio, sizeof ratio, "%.2f", row->ours / row->floor);
        printf("%-28s %12s %12s %-8s %8s %7.2f  %s\n", row->name, amount(row->ours, ours), amount(row->floor, floors),
               row->unit, ratio, row->spread, text);
    }
    if (bench->tool->quick)
        puts("--quick: fewer slices; a glance, not a measurement");
}

static void show_json(const struct bench *bench)
{
    static const char *const aims[] = {NULL, "ratio_most", "ratio_least", "ours_most", "ours_least"};
    struct json json = {.out = stdout};

    json_open(&json, NULL, '{');
    json_text(&json, "bench", bench->name);
    json_open(&json, "rows", '[');
    for (unsigned i = 0; i < bench->rows_count; i++) {
        const struct bench_row *row = &bench->rows[i];

        json_open(&json, NULL, '{');
        json_text(&json, "case", row->name);
        json_real(&json, "ours", row->ours, row->ours < 10 ? 3 : 1);
        json_real(&json, "floor", row->floor, row->floor < 10 ? 3 : 1);
        json_real(&json, "ratio", row->ours / row->floor, 3);
        json_text(&json, "unit", row->unit);
        json_real(&json, "spread", row->spread, 3);
        if (aims[row->aim])
            json_real(&json, aims[row->aim], row->bound, 2);
        json_text(&json, "judged", judged(row));
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_close(&json, '}');
}

/* ---- the command ---- */

static const struct {
    const char *name;
    bool (*run)(struct bench *bench);
    bool needs_redis, uses_redis;
} benches[] = {
    {"get", bench_get, false, true},
    {"get-hot", bench_get_hot, false, true},
    {"get-2", bench_get_two, false, false},
    {"get-beside", bench_get_beside, false, false},
    {"hit", bench_hit, false, true},
    {"fetch", bench_fetch, true, true},
    {"change", bench_change, true, true},
    {"invalidate", bench_invalidate, true, true},
    {"fence", bench_fence, true, true},
    {"fill", bench_fill, false, false},
    {"memory", bench_memory, false, false},
    {"strong", bench_strong, true, true},
    {"evict", bench_evict, false, false},
};

/* The place of the run: a directory, a keyring, a server if one is to be had. */
static bool prepare(struct bench *bench, bool needs_redis, bool uses_redis)
{
    freshet_result result;

    if (!tool_scratch_make(bench->dir, sizeof bench->dir))
        return bench_stop(bench, "cannot make a temporary directory");
    if (bench->tool->local && needs_redis)
        return bench_stop(bench, "needs Redis: it has no --local");
    if (!uses_redis || bench->tool->local)
        return true;
    if (!bench_server_start(bench)) {
        if (needs_redis)
            return bench_stop(bench,
                              "needs redis-server on the PATH (it starts one of its own), and could not start it");
        tool_note("bench %s: no redis-server on the PATH: measuring a tier of this host alone", bench->name);
        return true;
    }
    snprintf(bench->keyring, sizeof bench->keyring, "%s/keyring", bench->dir);
    result = freshet_keygen(bench->keyring, NULL);
    return result == FRESHET_OK || bench_stop_result(bench, result, "cannot make a keyring");
}

int cmd_bench(struct tool *tool)
{
    struct bench *bench = calloc(1, sizeof *bench);
    bool good = false;
    size_t which = 0;

    while (which < sizeof benches / sizeof *benches && strcmp(benches[which].name, tool->args[0]) != 0)
        which++;
    if (which == sizeof benches / sizeof *benches || !bench) {
        free(bench);
        return tool_error(tool, TOOL_USAGE, "usage",
                          "bench measures get, get-hot, get-2, get-beside, hit, fetch, change, invalidate, fence, "
                          "fill, memory, strong or evict, not \"%s\"",
                          tool->args[0]);
    }
    if (tool->args_count > 1 && benches[which].run != bench_evict) {
        free(bench);
        return tool_error(tool, TOOL_USAGE, "usage", "bench %s takes no more words", tool->args[0]);
    }
    bench->tool = tool;
    bench->name = benches[which].name;
    tool_catch_signals();
    if (prepare(bench, benches[which].needs_redis, benches[which].uses_redis))
        good = benches[which].run(bench) && !tool_ended;
    bench_server_stop(bench);
    if (bench->dir[0])
        tool_scratch_remove(bench->dir);
    if (good && bench->rows_count > 0 && tool->json)
        show_json(bench);
    else if (good && bench->rows_count > 0)
        show_table(bench);
    else if (tool_ended)
        tool_note("bench %s: ended before it was done", bench->name);
    free(bench);
    return good ? TOOL_DONE : TOOL_FAILED;
}
