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

    *row = (struct bench_row){.most = most};
    va_start(args, format);
    vsnprintf(row->name, sizeof row->name, format, args);
    va_end(args);
    return row;
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

/* ---- showing ---- */

/* 1234567.8 as "1,234,568"; below 100 with a decimal. */
static const char *amount(double ns, char buffer[32])
{
    if (ns < 100)
        snprintf(buffer, 32, "%.1f", ns);
    else
        tool_number((uint64_t)llround(ns), buffer);
    return buffer;
}

static void verdict(const struct bench_row *row, char *text, size_t size)
{
    double ratio = row->ours / row->floor;

    if (!(row->spread <= BENCH_MOVED))
        snprintf(text, size, "not judged: the floor moved by %.0f %%", 100 * (row->spread - 1));
    else if (row->most > 0)
        snprintf(text, size, "%s %.1f", ratio <= row->most ? "good: at most" : "SLOW: above", row->most);
    else
        snprintf(text, size, "no promise");
}

static void show_table(const struct bench *bench)
{
    char ours[32], floors[32], text[80];

    if (isatty(STDERR_FILENO))
        fputs("\033[K", stderr);
    printf("%-24s %14s %14s %8s %8s  %s\n", bench->name, "ours ns", "floor ns", "ratio", "spread", "judged");
    for (unsigned i = 0; i < bench->rows_count; i++) {
        const struct bench_row *row = &bench->rows[i];

        verdict(row, text, sizeof text);
        printf("%-24s %14s %14s %8.2f %8.2f  %s\n", row->name, amount(row->ours, ours), amount(row->floor, floors),
               row->ours / row->floor, row->spread, text);
    }
    if (bench->tool->quick)
        puts("--quick: fewer slices; a glance, not a measurement");
}

static void show_json(const struct bench *bench)
{
    struct json json = {.out = stdout};

    json_open(&json, NULL, '{');
    json_text(&json, "bench", bench->name);
    json_open(&json, "rows", '[');
    for (unsigned i = 0; i < bench->rows_count; i++) {
        const struct bench_row *row = &bench->rows[i];

        json_open(&json, NULL, '{');
        json_text(&json, "case", row->name);
        json_real(&json, "ours", row->ours, 1);
        json_real(&json, "floor", row->floor, 1);
        json_real(&json, "ratio", row->ours / row->floor, 3);
        json_text(&json, "unit", "ns");
        json_real(&json, "spread", row->spread, 3);
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
    {"fetch", bench_fetch, true, true},
    {"invalidate", bench_invalidate, true, true},
    {"fill", bench_fill, false, false},
    {"strong", bench_strong, true, true},
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
                          "bench measures get, fetch, invalidate, fill or strong, not "
                          "\"%s\"",
                          tool->args[0]);
    }
    bench->tool = tool;
    bench->name = benches[which].name;
    tool_catch_signals();
    if (prepare(bench, benches[which].needs_redis, benches[which].uses_redis))
        good = benches[which].run(bench) && !tool_ended;
    bench_server_stop(bench);
    if (bench->dir[0])
        tool_scratch_remove(bench->dir);
    if (good && tool->json)
        show_json(bench);
    else if (good)
        show_table(bench);
    else if (tool_ended)
        tool_note("bench %s: ended before it was done", bench->name);
    free(bench);
    return good ? TOOL_DONE : TOOL_FAILED;
}
