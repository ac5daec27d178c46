/*
 * cmd_get.c - freshet get: one entry, as a reader of the tier would get it.
 *
 * The value goes to standard output as it is, so that `freshet get k | ...` is exact to the byte; what is known of it
 * is for --json.
 */
#include "tool.h"

#include <stdlib.h>

static void print_json(const struct tool *tool, const freshet_key *key, freshet_result result, const freshet_buf *buf,
                       const freshet_answer *answer)
{
    static const char *const sources[] = {"nowhere", "tier", "redis", "loader"};
    struct json json = {.out = stdout};
    char time[TOOL_TIME_MAX];

    json_open(&json, NULL, '{');
    tool_json_key(tool, &json, key->data, key->size);
    json_text(&json, "result", tool_result(result));
    if (result == FRESHET_OK || result == FRESHET_STALE)
        json_bytes(&json, "value", buf->data ? buf->data : "", buf->size);
    if (result != FRESHET_MISS) {
        json_text(&json, "source", sources[answer->source & 3]);
        json_bool(&json, "stale", answer->stale);
        json_uint(&json, "version", answer->version);
        json_text(&json, "time", tool_time(answer->version, time));
        json_id(&json, "writer", answer->writer);
        json_uint(&json, "source_version", answer->source_version);
        json_uint(&json, "position", answer->position);
        json_int(&json, "age_bound_ms", answer->age_bound_ms);
        json_int(&json, "ttl_ms", answer->ttl_ms);
    }
    json_close(&json, '}');
}

int cmd_get(struct tool *tool)
{
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    freshet_buf buf = {0};
    freshet *cache = NULL;
    freshet_key *key = tool_keys(tool, 1);
    freshet_result result;
    int status;

    if (!key)
        return TOOL_USAGE;
    if ((status = tool_open(tool, TOOL_JOIN, &cache)) != TOOL_DONE)
        goto out;
    options.level = tool->latest ? FRESHET_READ_LATEST : tool->any ? FRESHET_READ_ANY : FRESHET_READ_BOUNDED;
    options.token = tool->token;
    result = freshet_get(cache, key->data, key->size, &options, &buf, &answer);
    if (result < 0) {
        status = tool_failed(tool, result, "cannot get");
        goto out;
    }
    status = result == FRESHET_OK ? TOOL_DONE : result == FRESHET_STALE ? TOOL_STALE : TOOL_NO_ENTRY;
    if (tool->json)
        print_json(tool, key, result, &buf, &answer);
    else if (status != TOOL_NO_ENTRY)
        fwrite(buf.data ? buf.data : "", 1, buf.size, stdout);
    if (!tool->json && result == FRESHET_ABSENT)
        tool_note("known to be absent");
out:
    freshet_buf_free(&buf);
    tool_close(tool, cache);
    free(key);
    return status;
}
