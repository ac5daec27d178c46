/*
 * demo_report.c - what the demo shows: how far it is, the table, a line a fault, and the figures as JSON.
 */
#include "demo.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TTY_NS 200000000LL
#define LINE_NS 5000000000LL

static int64_t progress_next_ns; /* 0: nothing was shown of this phase yet */
static bool progress_shown;

const char *demo_commas(uint64_t number)
{
    static char texts[16][32];
    static unsigned next;
    char *text = texts[next++ % 16], digits[24];
    int count = snprintf(digits, sizeof digits, "%llu", (unsigned long long)number), at = 0;

    for (int i = 0; i < count; i++) {
        if (i > 0 && (count - i) % 3 == 0)
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = '\0';
    return text;
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0.0;
}

static uint64_t a_second(const struct demo_sum *sum)
{
    return sum->seconds > 0 ? (uint64_t)((double)sum->count[COUNT_READS] / sum->seconds) : 0;
}

void demo_progress(const char *what, const struct demo_sum *sum, double part)
{
    bool tty = isatty(STDOUT_FILENO) == 1, first = progress_next_ns == 0;
    int64_t now = demo_now_ns();

    if (now < progress_next_ns)
        return;
    progress_next_ns = now + (tty ? TTY_NS : LINE_NS);
    if (first) /* what is over at once needs no line */
        return;
    printf("%s  %-30s", tty ? "\r" : "", what);
    if (part >= 0)
        printf(" %3.0f %%", 100 * part);
    if (sum)
        printf("  %s reads, %s a second, %s stale%s", demo_commas(sum->count[COUNT_READS]), demo_commas(a_second(sum)),
               demo_commas(sum->count[COUNT_STALE]), tty ? "\033[K" : "");
    if (!tty)
        putchar('\n');
    progress_shown = tty;
    fflush(stdout);
}

void demo_progress_end(void)
{
    if (progress_shown)
        printf("\r\033[K");
    progress_shown = false;
    progress_next_ns = 0;
    fflush(stdout);
}

/* ---- the table ---- */

static void rule(void)
{
    printf("  %.*s\n", 84, "------------------------------------------------------------------------------------");
}

static void row(const char *name, const char *ours, const char *theirs)
{
    printf("  %-36s %23s %23s\n", name, ours, theirs);
}

/* "12,345  95.1 %" */
static const char *share(uint64_t part, uint64_t whole)
{
    static char texts[8][48];
    static unsigned next;
    char *text = texts[next++ % 8];

    snprintf(text, sizeof texts[0], "%s  %5.1f %%", demo_commas(part), percent(part, whole));
    return text;
}

/* "850 ns", "1.23 ms", "12.3 s" */
static const char *span(int64_t ns)
{
    static char texts[8][48];
    static unsigned next;
    char *text = texts[next++ % 8];

    if (ns == 0)
        return "none";
    if (ns < 10000)
        snprintf(text, sizeof texts[0], "%lld ns", (long long)ns);
    else if (ns < 1000000)
        snprintf(text, sizeof texts[0], "%.0f us", (double)ns / 1e3);
    else if (ns < 10000000000LL)
        snprintf(text, sizeof texts[0], ns < 10000000 ? "%.2f ms" : "%.0f ms", (double)ns / 1e6);
    else
        snprintf(text, sizeof texts[0], "%.1f s", (double)ns / 1e9);
    return text;
}

/* "850 ns / 120 us" */
static const char *spans(const struct demo_sum *sum)
{
    static char texts[4][64];
    static unsigned next;
    char *text = texts[next++ % 4];

    snprintf(text, sizeof texts[0], "%s / %s", span(sum->p50_ns), span(sum->p99_ns));
    return text;
}

static void latency_row(const char *name, const struct demo_latency *latency)
{
    char text[64];

    snprintf(text, sizeof text, "%.2f / %.2f ms", latency->p50_ms, latency->p99_ms);
    row(name, latency->count ? text : "not measured", "-");
}

void demo_show_table(const struct demo_figures *figures)
{
    const struct demo_sum *ours = &figures->side[SIDE_FRESHET], *naive = &figures->side[SIDE_NAIVE];
    uint64_t reads = ours->count[COUNT_READS], naive_reads = naive->count[COUNT_READS];
    char bound[64];

    printf("\n");
    row("the same work, twice", "Freshet", "cache-aside, TTL 60 s");
    rule();
    row("reads, each checked", demo_commas(reads), demo_commas(naive_reads));
    row("  from the host's own memory", share(ours->count[COUNT_TIER], reads), "-");
    row("  from Redis", share(ours->count[COUNT_REDIS], reads), share(naive->count[COUNT_REDIS], naive_reads));
    row("  loaded from the table", share(ours->count[COUNT_LOADS], reads),
        share(naive->count[COUNT_LOADS], naive_reads));
    row("rows changed", demo_commas(ours->count[COUNT_WRITES]), demo_commas(naive->count[COUNT_WRITES]));
    row("what a read takes, p50 / p99", spans(ours), spans(naive));
    row("reads a second, four processes", demo_commas(a_second(ours)), demo_commas(a_second(naive)));
    rule();
    row("older than a confirmed change", demo_commas(ours->count[COUNT_OLD]), demo_commas(naive->count[COUNT_OLD]));
    snprintf(bound, sizeof bound, "  STALE: by more than the %u ms bound", figures->bound_ms);
    row(bound, demo_commas(ours->count[COUNT_BEYOND]), demo_commas(naive->count[COUNT_BEYOND]));
    row("  STALE: than a change of one's host", demo_commas(ours->count[COUNT_OWN]), "-");
    row("  the largest age seen", span(ours->oldest_ns), span(naive->oldest_ns));
    snprintf(bound, sizeof bound, "%u ms", figures->bound_ms);
    row("  the largest age allowed", bound, "no bound");
    row("corrupted values", demo_commas(ours->count[COUNT_CORRUPTED]), demo_commas(naive->count[COUNT_CORRUPTED]));
    rule();
    latency_row("invalidation p50 / p99, idle hosts", &figures->quiet);
    latency_row("  under the full load", &figures->loaded);
    printf("  (from the call on one host until the entry is gone on the other)\n\n");
}

void demo_show_fault(const struct demo_fault *fault)
{
    printf("  %-4s %s\n       %s\n", fault->happened ? "ok" : "FAIL", fault->name, fault->note);
    printf("       %s reads meanwhile, %s stale, largest age %s\n", demo_commas(fault->sum.count[COUNT_READS]),
           demo_commas(fault->sum.count[COUNT_STALE]), span(fault->sum.oldest_ns));
    fflush(stdout);
}

/* ---- JSON ---- */

static void json_sum(FILE *file, const struct demo_sum *sum)
{
    static const char *const names[COUNTERS] = {
        [COUNT_READS] = "reads",         [COUNT_TIER] = "from_tier", [COUNT_REDIS] = "from_redis",
        [COUNT_LOADS] = "loads",         [COUNT_FAILED] = "failed",  [COUNT_WRITES] = "writes",
        [COUNT_QUEUED] = "queued",       [COUNT_OLD] = "old",        [COUNT_BEYOND] = "beyond_bound",
        [COUNT_OWN] = "older_than_own",  [COUNT_STALE] = "stale",    [COUNT_CORRUPTED] = "corrupted"};

    for (unsigned i = 0; i < COUNTERS; i++)
        fprintf(file, "\"%s\": %llu, ", names[i], (unsigned long long)sum->count[i]);
    fprintf(file, "\"largest_age_ms\": %.3f, \"seconds\": %.3f, \"reads_per_second\": %llu, "
            "\"read_p50_ns\": %lld, \"read_p99_ns\": %lld",
            (double)sum->oldest_ns / 1e6, sum->seconds, (unsigned long long)a_second(sum), (long long)sum->p50_ns,
            (long long)sum->p99_ns);
}

static void json_latency(FILE *file, const char *name, const struct demo_latency *latency)
{
    fprintf(file, "  \"%s\": {\"count\": %u, \"p50_ms\": %.3f, \"p99_ms\": %.3f},\n", name, latency->count,
            latency->p50_ms, latency->p99_ms);
}

/* A string with what JSON minds escaped. */
static void json_string(FILE *file, const char *text)
{
    fputc('"', file);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', file);
        fputc((unsigned char)*text < ' ' ? ' ' : *text, file);
    }
    fputc('"', file);
}

bool demo_write_json(const struct demo_figures *figures, const char *path)
{
    FILE *file = fopen(path, "we");
    bool written;

    if (!file) {
        fprintf(stderr, "demo: %s: %s\n", path, strerror(errno));
        return false;
    }
    fprintf(file, "{\n  \"reads\": %llu, \"stale\": %llu, \"corrupted\": %llu, \"failed\": %llu,\n",
            (unsigned long long)figures->reads, (unsigned long long)figures->stale,
            (unsigned long long)figures->corrupted, (unsigned long long)figures->failed);
    fprintf(file, "  \"bound_ms\": %u, \"rows\": %llu, \"requests\": %llu,\n", figures->bound_ms,
            (unsigned long long)figures->rows, (unsigned long long)figures->requests);
    json_latency(file, "invalidation_idle", &figures->quiet);
    json_latency(file, "invalidation_loaded", &figures->loaded);
    fprintf(file, "  \"freshet\": {");
    json_sum(file, &figures->side[SIDE_FRESHET]);
    fprintf(file, "},\n  \"cache_aside\": {");
    json_sum(file, &figures->side[SIDE_NAIVE]);
    fprintf(file, "},\n  \"faults\": [");
    for (unsigned i = 0; i < DEMO_FAULTS; i++) {
        fprintf(file, "%s\n    {\"name\": ", i ? "," : "");
        json_string(file, figures->fault[i].name ? figures->fault[i].name : "");
        fprintf(file, ", \"note\": ");
        json_string(file, figures->fault[i].note);
        fprintf(file, ", \"happened\": %s, ", figures->fault[i].happened ? "true" : "false");
        json_sum(file, &figures->fault[i].sum);
        fprintf(file, "}");
    }
    fprintf(file, "\n  ]\n}\n");
    written = !ferror(file);
    if (fclose(file) != 0 || !written) {
        fprintf(stderr, "demo: %s: %s\n", path, strerror(errno));
        return false;
    }
    return true;
}
