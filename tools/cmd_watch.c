/*
 * cmd_watch.c - freshet watch: every frame of the fleet's channels as it comes, verified or refused.
 *
 * Frames name keys by hash only; the keys given on the command line are hashed here, so that theirs can be told
 * from the rest.  Needs Redis and the keyring, but no tier.
 */
#include "tool.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct watching {
    const struct tool *tool;
    freshet_key *keys;
    uint8_t (*hashes)[16]; /* of the keys */
    uint64_t shown;
};

/* The command line's key of this hash; NULL: none of them. */
static const freshet_key *known_key(const struct watching *watching, const uint8_t hash[16])
{
    for (int i = 0; i < watching->tool->args_count; i++)
        if (memcmp(watching->hashes[i], hash, 16) == 0)
            return &watching->keys[i];
    return NULL;
}

/* Without keys every frame is wanted; with keys those that name one, and those that name all. */
static bool wanted(const struct watching *watching, const freshet_frame_seen *frame)
{
    if (watching->tool->args_count == 0 || !frame->verified || frame->keys == 0 || strcmp(frame->kind, "tags") == 0)
        return true; /* a clear or a change of tags may be one of the keys' too */
    for (uint32_t i = 0; i < frame->keys; i++)
        if (known_key(watching, frame->hashes[i]))
            return true;
    return false;
}

static uint64_t real_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void show_json(const struct watching *watching, const freshet_frame_seen *frame)
{
    struct json json = {.out = stdout};
    char time[TOOL_TIME_MAX];

    json_open(&json, NULL, '{');
    json_text(&json, "seen", tool_time(real_us(), time));
    json_bool(&json, "verified", frame->verified);
    json_text(&json, "why", frame->why);
    json_id(&json, "key_id", frame->key_id);
    if (frame->verified) {
        json_text(&json, "kind", frame->kind);
        json_uint(&json, "partition", frame->partition);
        json_id(&json, "epoch", frame->epoch);
        json_uint(&json, "position", frame->position);
        json_uint(&json, "version", frame->version);
        json_text(&json, "time", tool_time(frame->version, time));
        json_id(&json, "writer", frame->writer);
        json_uint(&json, "counter", frame->counter);
        json_uint(&json, "source_version", frame->source_version);
        json_open(&json, "hashes", '[');
        for (uint32_t i = 0; i < frame->keys; i++)
            json_hex(&json, NULL, frame->hashes[i], 16);
        json_close(&json, ']');
        json_open(&json, "keys", '[');
        for (uint32_t i = 0; i < frame->keys; i++) {
            const freshet_key *key = known_key(watching, frame->hashes[i]);

            if (key) {
                json_open(&json, NULL, '{');
                tool_json_key(watching->tool, &json, key->data, key->size);
                json_close(&json, '}');
            }
        }
        json_close(&json, ']');
    }
    json_close(&json, '}');
}

static void show_line(const struct watching *watching, const freshet_frame_seen *frame)
{
    char time[TOOL_TIME_MAX];

    if (!frame->verified) {
        printf("%s  REFUSED   %s, key %016llx\n", tool_time(real_us(), time), frame->why,
               (unsigned long long)frame->key_id);
        return;
    }
    printf("%s  verified  %-10s  partition %u  position %llu  writer %016llx  %s %u:",
           tool_time(frame->version, time), frame->kind, frame->partition, (unsigned long long)frame->position,
           (unsigned long long)frame->writer, strcmp(frame->kind, "tags") == 0 ? "tags" : "keys", frame->keys);
    for (uint32_t i = 0; i < frame->keys; i++) {
        const freshet_key *key = known_key(watching, frame->hashes[i]);

        putchar(' ');
        if (key)
            tool_print_key(watching->tool, stdout, key->data, key->size);
        else
            for (int byte = 0; byte < 16; byte++)
                printf("%02x", frame->hashes[i][byte]);
    }
    puts(frame->keys ? "" : " all");
}

static bool on_frame(const freshet_frame_seen *frame, void *arg)
{
    struct watching *watching = arg;

    if (tool_ended)
        return false;
    if (!frame || !wanted(watching, frame))
        return true;
    if (watching->tool->json)
        show_json(watching, frame);
    else
        show_line(watching, frame);
    watching->shown++;
    return fflush(stdout) == 0 && (!watching->tool->count || watching->shown < watching->tool->count);
}

/* How many channels there are: what was said, else what a tier here knows, else one. */
static uint32_t partitions_of(struct tool *tool)
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    freshet *cache = NULL;
    uint32_t partitions = tool->partitions;

    if (partitions == 0 && tool_tier_exists(tool) && tool_open(tool, TOOL_LOOK, &cache) == TOOL_DONE) {
        if (freshet_stat(cache, &stats) == FRESHET_OK)
            partitions = stats.partitions;
        tool_close(tool, cache);
    }
    return partitions ? partitions : 1;
}

int cmd_watch(struct tool *tool)
{
    freshet_join_options options = FRESHET_INIT(freshet_join_options);
    struct watching watching = {.tool = tool};
    freshet_result result;
    int status = TOOL_DONE;

    if (!tool->url || !tool->keyring)
        return tool_error(tool, TOOL_USAGE, "usage", "watch needs --url and --keyring");
    watching.keys = tool_keys(tool, tool->args_count);
    watching.hashes = calloc((size_t)tool->args_count + 1, sizeof *watching.hashes);
    if (!watching.keys || !watching.hashes) {
        free(watching.keys);
        free(watching.hashes);
        return TOOL_USAGE;
    }
    for (int i = 0; i < tool->args_count; i++)
        freshet_key_hash(tool_name(tool), watching.keys[i].data, watching.keys[i].size, watching.hashes[i]);
    options.keyring = tool->keyring;
    tool_catch_signals();
    result = freshet_watch(tool_name(tool), partitions_of(tool), tool->url, &options, 0, on_frame, &watching);
    if (result != FRESHET_OK && !tool_ended && !(tool->count && watching.shown >= tool->count))
        status = tool_failed(tool, result, "cannot watch");
    free(watching.keys);
    free(watching.hashes);
    return status;
}
