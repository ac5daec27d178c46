/*
 * cmd_stat.c - freshet stat: how fresh the tier is, what it answered, what is in it.
 *
 * One table says which counter stands in which group; the screen and the JSON both follow it, so neither can
 * forget one.
 */
#include "tool.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

struct counter {
    const char *name;  /* in JSON */
    const char *label; /* for people */
    size_t offset;     /* of a uint64_t in freshet_stats; 0: a heading */
};

#define COUNTER(field, label) {#field, label, offsetof(freshet_stats, field)}
#define GROUP(label) {NULL, label, 0}

static const struct counter counters[] = {
    GROUP("Answers"),
    COUNTER(hits, "hits"),
    COUNTER(absents, "known absent"),
    COUNTER(stales, "stale"),
    COUNTER(misses, "misses"),
    COUNTER(redis_hits, "found in Redis"),
    COUNTER(redis_misses, "not in Redis either"),
    COUNTER(loads, "loads"),
    COUNTER(joined, "joined another's load"),
    COUNTER(load_failures, "loads that failed"),
    GROUP("Changes by this host"),
    COUNTER(puts, "puts"),
    COUNTER(invalidations, "invalidations"),
    COUNTER(clears, "clears"),
    COUNTER(tag_changes, "tags changed"),
    COUNTER(queued, "queued"),
    COUNTER(resent, "sent again"),
    GROUP("Records"),
    COUNTER(entries, "entries"),
    COUNTER(bytes, "bytes in use"),
    COUNTER(live_bytes, "of them entries"),
    COUNTER(index_size, "of them the index"),
    COUNTER(tier_size, "bytes at most"),
    COUNTER(control_size, "control page"),
    COUNTER(memory, "bytes of memory, all"),
    COUNTER(fills, "written"),
    COUNTER(fills_dropped, "not written, no room"),
    COUNTER(fills_refused, "not written, overtaken"),
    COUNTER(evictions, "left for room"),
    COUNTER(voids, "void, removed"),
    COUNTER(expired, "expired, removed"),
    COUNTER(map_full, "map full"),
    GROUP("Pool"),
    COUNTER(pool_size, "bytes, of all caches"),
    COUNTER(pool_share, "of them this cache's"),
    COUNTER(pool_minimum, "which it keeps at least"),
    COUNTER(pool_free, "of them nobody's"),
    GROUP("Fleet"),
    COUNTER(frames, "frames verified"),
    COUNTER(frames_refused, "frames refused"),
    COUNTER(renewals, "proofs"),
    COUNTER(renewals_failed, "proofs that failed"),
    COUNTER(adoptions, "new epochs"),
    COUNTER(repairs, "repairs"),
    COUNTER(takeovers, "take-overs"),
    COUNTER(reconnects, "reconnects"),
};

static uint64_t counter_value(const freshet_stats *stats, const struct counter *counter)
{
    uint64_t value;

    memcpy(&value, (const char *)stats + counter->offset, sizeof value);
    return value;
}

/* Of the gets and loads that the tier was asked, the share that it answered; -1: none yet. */
static double hit_ratio(const freshet_stats *stats)
{
    double answered = (double)stats->hits + (double)stats->absents;
    double asked = answered + (double)stats->stales + (double)stats->misses;

    return asked > 0 ? answered / asked : -1;
}

static void print_json(const struct tool *tool, const char *dir, const freshet_stats *stats)
{
    struct json json = {.out = stdout};

    json_open(&json, NULL, '{');
    json_text(&json, "name", tool_name(tool));
    json_text(&json, "dir", dir);
    json_bool(&json, "fleet", stats->fleet);
    json_int(&json, "proven_age_ms", stats->proven_age_ms);
    json_uint(&json, "max_staleness_ms", stats->max_staleness_ms);
    json_id(&json, "epoch", stats->epoch);
    json_uint(&json, "position", stats->position);
    json_uint(&json, "applied", stats->applied);
    json_uint(&json, "floor", stats->floor);
    json_uint(&json, "partitions", stats->partitions);
    json_int(&json, "subscriber_pid", stats->subscriber_pid);
    json_uint(&json, "processes", stats->processes);
    json_uint(&json, "outbox", stats->outbox);
    json_uint(&json, "fences", stats->fences);
    json_uint(&json, "fence_slots", stats->fence_slots);
    json_uint(&json, "tag_fences", stats->tag_fences);
    json_uint(&json, "readers", stats->readers);
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++)
        if (counters[i].name)
            json_uint(&json, counters[i].name, counter_value(stats, &counters[i]));
    if (hit_ratio(stats) < 0)
        json_null(&json, "hit_ratio");
    else
        json_real(&json, "hit_ratio", hit_ratio(stats), 4);
    json_close(&json, '}');
}

/* A line of the table; the note may say more. */
static void row(const char *label, const char *value, const char *note)
{
    printf("  %-24s%20s%s%s\n", label, value, *note ? "  " : "", note);
}

static void row_number(const char *label, uint64_t value, const char *note)
{
    char text[32];

    row(label, tool_number(value, text), note);
}

/* How fresh: the first thing that one wants to know. */
static void print_freshness(const freshet_stats *stats)
{
    char text[64], note[96];

    puts("Freshness");
    if (!stats->fleet) {
        row("proven", "always", "a tier of this host alone");
    } else if (stats->proven_age_ms < 0) {
        row("proven", "never", "nothing is served until Redis has been asked");
    } else {
        snprintf(text, sizeof text, "%lld ms ago", (long long)stats->proven_age_ms);
        row("proven", text, stats->proven_age_ms < (int64_t)stats->max_staleness_ms ? "" : "too long ago: not served");
    }
    snprintf(text, sizeof text, "%u ms", stats->max_staleness_ms);
    row("bound", text, "");
    row_number("position", stats->position, "");
    snprintf(note, sizeof note, "%llu behind",
             (unsigned long long)(stats->position > stats->applied ? stats->position - stats->applied : 0));
    row_number("applied", stats->applied, stats->fleet ? note : "");
    row_number("floor", stats->floor, "");
    snprintf(text, sizeof text, "%016llx", (unsigned long long)stats->epoch);
    row("epoch", stats->fleet ? text : "-", "");
    row_number("partitions", stats->partitions,
               stats->partitions > 1 ? "the above: of partition 0; proven: the worst" : "");
    snprintf(text, sizeof text, "pid %d", stats->subscriber_pid);
    row("subscriber", stats->subscriber_pid ? text : stats->fleet ? "nobody" : "-", "");
    row_number("outbox", stats->outbox, stats->outbox ? "changes wait for Redis" : "");
    snprintf(note, sizeof note, "of %llu slots",
             (unsigned long long)stats->fence_slots * (stats->partitions ? stats->partitions : 1));
    row_number("fences", stats->fences, note);
    snprintf(note, sizeof note, "of %llu slots", 4096ull * (stats->partitions ? stats->partitions : 1));
    row_number("tag fences", stats->tag_fences, stats->tag_fences ? note : "");
    row_number("processes", stats->processes, "this one among them");
    row_number("readers", stats->readers, "");
}

static void print_table(const struct tool *tool, const char *dir, const freshet_stats *stats)
{
    bool shown = true;
    char text[32];

    printf("%s in %s\n\n", tool_name(tool), dir);
    print_freshness(stats);
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++) {
        if (!counters[i].name) {
            shown = (stats->fleet || strcmp(counters[i].label, "Fleet") != 0) &&
                    (stats->pool_size || strcmp(counters[i].label, "Pool") != 0);
            if (shown)
                printf("\n%s\n", counters[i].label);
            continue;
        }
        if (!shown)
            continue;
        row_number(counters[i].label, counter_value(stats, &counters[i]), "");
        if (strcmp(counters[i].name, "misses") == 0) {
            snprintf(text, sizeof text, "%.2f %%", 100 * hit_ratio(stats));
            row("hit ratio", hit_ratio(stats) < 0 ? "-" : text, "");
        }
    }
}

/* Wait for the next second of --watch; a signal ends it early. */
static void pause_a_second(void)
{
    struct timespec second = {.tv_sec = 1};

    (void)nanosleep(&second, NULL);
}

int cmd_stat(struct tool *tool)
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    freshet *cache = NULL;
    int status = tool_open(tool, TOOL_LOOK, &cache);
    bool screen = tool->repeat && !tool->json && isatty(STDOUT_FILENO);
    uint64_t shown = 0, most = tool->count ? tool->count : tool->repeat ? UINT64_MAX : 1;

    if (status != TOOL_DONE)
        return status;
    tool_catch_signals();
    while (!tool_ended) {
        freshet_result result = freshet_stat(cache, &stats);

        if (result < 0) {
            status = tool_failed(tool, result, "cannot look");
            break;
        }
        if (screen)
            fputs("\033[H\033[2J", stdout);
        else if (shown && !tool->json)
            putchar('\n');
        if (tool->json)
            print_json(tool, freshet_dir(cache), &stats);
        else
            print_table(tool, freshet_dir(cache), &stats);
        if (fflush(stdout) != 0 || ++shown >= most)
            break;
        pause_a_second();
    }
    tool_close(tool, cache);
    return status;
}
