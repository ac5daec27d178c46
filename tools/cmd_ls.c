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
    uint64_t wanted[FRESHET_TAGS_MAX + 1]; /* tags that a record must have to be shown */
    uint32_t wanted_count;
    uint64_t shown;
};

/* A tag or namespace given, as records know it. */
static void want(struct listing *listing, const char *name, bool name_space)
{
    uint8_t hash[16];
    uint64_t number = 0;

    freshet_tag_hash(tool_name(listing->tool), name, name_space, hash);
    for (int byte = 7; byte >= 0; byte--)
        number = number << 8 | hash[byte];
    listing->wanted[listing->wanted_count++] = number;
}

static bool is_wanted(const struct listing *listing, const freshet_entry *entry)
{
    for (uint32_t i = 0; i < listing->wanted_count; i++) {
        bool has = false;

        for (uint32_t tag = 0; tag < entry->tag_count && !has; tag++)
            has = entry->tags[tag] == listing->wanted[i];
        if (!has)
            return false;
    }
    return true;
}

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
    json_open(&json, "tags", '[');
    for (uint32_t i = 0; i < entry->tag_count; i++)
        json_id(&json, NULL, entry->tags[i]);
    json_close(&json, ']');
    json_close(&json, '}');
}

static void show_line(const struct listing *listing, const freshet_entry *entry)
{
    char time[TOOL_TIME_MAX], size[32], ttl[32] = "-";

    if (listing->shown == 0)
        printf("%12s  %-8s  %12s  %4s  %-27s  %s\n", "SIZE", "SERVED", "TTL s", "TAGS", "WRITTEN", "KEY");
    if (entry->answer.ttl_ms >= 0)
        snprintf(ttl, sizeof ttl, "%.1f", (double)entry->answer.ttl_ms / 1000);
    printf("%12s  %-8s  %12s  %4u  %-27s  ", entry->absent ? "absent" : tool_number(entry->value_size, size),
           entry->servable ? "yes" : entry->why, ttl, entry->tag_count, tool_time(entry->answer.version, time));
    tool_print_key(listing->tool, stdout, entry->key, entry->key_size);
    putchar('\n');
}

static bool on_entry(const freshet_entry *entry, void *arg)
{
    struct listing *listing = arg;

    if (entry->key_size < listing->prefix.size ||
        (listing->prefix.size && memcmp(entry->key, listing->prefix.data, listing->prefix.size) != 0) ||
        !is_wanted(listing, entry))
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
    for (int i = 0; i < tool->tags_count; i++)
        want(&listing, tool->tags[i], false);
    if (tool->name_space)
        want(&listing, tool->name_space, true);
    if ((status = tool_open(tool, TOOL_LOOK, &cache)) != TOOL_DONE)
        return status;
    tool_catch_signals();
    result = freshet_each(cache, on_entry, &listing);
    if (result < 0)
        status = tool_failed(tool, result, "cannot list");
    else if ((listing.prefix.size || listing.wanted_count) && listing.shown == 0)
        status = TOOL_NO_ENTRY;
    tool_close(tool, cache);
    return status;
}
