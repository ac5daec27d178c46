/*
 * cmd_ls.c - freshet ls: the tier's records, also those that would not be served, and why not.
 *
 * Records are shown as the walk meets them, so a tier of millions needs no memory here; the order is the tier's own.
 */
#include "tool.h"

#include <stdlib.h>
#include <string.h>

struct listing {
    const struct tool *tool;
    freshet_key prefix;
    uint64_t shown;
};

static void show_json(const struct listing *listing, const freshet_entry *entry)
{
    struct json json = {.out = stdout};
    char time[TOOL_TIME_MAX];

    json_open(&json, NULL, '{');
    tool_json_key(listing->tool, &json, entry->key, entry->key_size);
    json_uint(&json, "size", entry->value_size);
    json_bool(&json, "absent", entry->absent);
    json_bool(&json, "servable", entry->servable);
    json_text(&json, "why", entry->why);
    json_uint(&json, "version", entry->answer.version);
    json_text(&json, "time", tool_time(entry->answer.version, time));
    json_id(&json, "writer", entry->answer.writer);
    json_uint(&json, "source_version", entry->answer.source_version);
    json_uint(&json, "position", entry->answer.position);
    json_int(&json, "age_bound_ms", entry->answer.age_bound_ms);
    json_int(&json, "ttl_ms", entry->answer.ttl_ms);
    json_close(&json, '}');
}

static void show_line(const struct listing *listing, const freshet_entry *entry)
{
    char time[TOOL_TIME_MAX], size[32], ttl[32] = "-";

    if (listing->shown == 0)
        printf("%12s  %-8s  %12s  %-27s  %s\n", "SIZE", "SERVED", "TTL s", "WRITTEN", "KEY");
    if (entry->answer.ttl_ms >= 0)
        snprintf(ttl, sizeof ttl, "%.1f", (double)entry->answer.ttl_ms / 1000);
    printf("%12s  %-8s  %12s  %-27s  ", entry->absent ? "absent" : tool_number(entry->value_size, size),
           entry->servable ? "yes" : entry->why, ttl, tool_time(entry->answer.version, time));
    tool_print_key(listing->tool, stdout, entry->key, entry->key_size);
    putchar('\n');
}

static bool on_entry(const freshet_entry *entry, void *arg)
{
    struct listing *listing = arg;

    if (entry->key_size < listing->prefix.size ||
        (listing->prefix.size && memcmp(entry->key, listing->prefix.data, listing->prefix.size) != 0))
        return true;
    if (listing->tool->json)
        show_json(listing, entry);
    else
        show_line(listing, entry);
    listing->shown++;
    return !ferror(stdout) && !tool_ended;
}

int cmd_ls(struct tool *tool)
{
    struct listing listing = {.tool = tool};
    freshet *cache = NULL;
    freshet_result result;
    int status;

    if (tool->args_count && !tool_key(tool, tool->args[0], &listing.prefix))
        return TOOL_USAGE;
    if ((status = tool_open(tool, TOOL_LOOK, &cache)) != TOOL_DONE)
        return status;
    tool_catch_signals();
    result = freshet_each(cache, on_entry, &listing);
    if (result < 0)
        status = tool_failed(tool, result, "cannot list");
    else if (listing.prefix.size && listing.shown == 0)
        status = TOOL_NO_ENTRY;
    tool_close(tool, cache);
    return status;
}
