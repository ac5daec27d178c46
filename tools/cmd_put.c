/*
 * cmd_put.c - freshet put, invalidate, clear: the changes, of keys, tags and namespaces, and what they came to.
 *
 * A change that was only queued is not done: status 4, and a sentence.  On a temporary tier, where nobody would send it
 * later, it is a failure.
 */
#include "tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Read standard input to its end. */
static bool read_input(freshet_buf *buf)
{
    size_t room = 0, size = 0, got;
    char *bytes = NULL;

    do {
        if (room - size < 65536) {
            char *grown = realloc(bytes, room = room * 2 + 131072);

            if (!grown) {
                free(bytes);
                return false;
            }
            bytes = grown;
        }
        got = fread(bytes + size, 1, room - size, stdin);
        size += got;
    } while (got > 0);
    *buf = (freshet_buf){bytes, size, room};
    return !ferror(stdin);
}

/* What a change came to: for programs an object, for people nothing unless something is to be known. */
static int tell(struct tool *tool, freshet_result result, const freshet_change *change, const char *what)
{
    struct json json = {.out = stdout};
    char time[TOOL_TIME_MAX];

    if (result < 0)
        return tool_failed(tool, result, what);
    if (result == FRESHET_QUEUED && tool->scratch[0])
        return tool_error(tool, TOOL_FAILED, "etimeout",
                          "%s: Redis has not confirmed it, and there is no tier here to keep it in: do it again", what);
    if (result == FRESHET_OUTDATED)
        return tool_error(tool, TOOL_FAILED, "outdated", "%s: %s", what, freshet_result_text(result));
    if (result == FRESHET_GUARDED)
        return tool_error(tool, TOOL_FAILED, "guarded",
                          "%s: nothing was stored: a database write is in progress on the key", what);
    if (result == FRESHET_UNREPLICATED)
        tool_note("%u of %u replicas have it", change->replicas, tool->wait_replicas);
    else if (result != FRESHET_OK)
        tool_note("Redis has not confirmed it: it is kept in the tier, and any process that has joined sends it as "
                  "soon as Redis answers");
    if (tool->json) {
        json_open(&json, NULL, '{');
        json_text(&json, "result", tool_result(result));
        json_uint(&json, "version", change->version);
        json_text(&json, "time", tool_time(change->version, time));
        json_uint(&json, "position", change->position);
        json_id(&json, "epoch", change->epoch);
        json_text(&json, "token", change->token);
        if (tool->wait_hosts) {
            json_uint(&json, "hosts_applied", change->hosts_applied);
            json_uint(&json, "hosts_waited_out", change->hosts_waited_out);
            json_bool(&json, "bound_waited", change->bound_waited);
        }
        if (tool->wait_replicas)
            json_uint(&json, "replicas", change->replicas);
        json_close(&json, '}');
    }
    return result == FRESHET_OK ? TOOL_DONE : TOOL_QUEUED;
}

/* What a change is to wait for. */
static void take_waits(const struct tool *tool, freshet_write_options *options)
{
    options->wait = tool->wait_hosts ? FRESHET_WAIT_HOSTS : FRESHET_WAIT_NONE;
    options->wait_replicas = tool->wait_replicas;
}

/* The value: the second word, or standard input. */
static int take_value(struct tool *tool, freshet_buf *buf, const void **ret_value, size_t *ret_size)
{
    const char *word = tool->args_count > 1 ? tool->args[1] : "-";

    *ret_value = "";
    *ret_size = 0;
    if (tool->absent && tool->args_count > 1)
        return tool_error(tool, TOOL_USAGE, "usage", "put --absent takes no value");
    if (tool->absent)
        return TOOL_DONE;
    *ret_value = word;
    *ret_size = strlen(word);
    if (strcmp(word, "-") != 0)
        return TOOL_DONE;
    if (!read_input(buf))
        return tool_error(tool, TOOL_FAILED, "eio", "cannot read standard input: %s", strerror(errno));
    *ret_value = buf->data ? buf->data : "";
    *ret_size = buf->size;
    return TOOL_DONE;
}

int cmd_put(struct tool *tool)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    freshet_change change = FRESHET_INIT(freshet_change);
    freshet_key *key = tool_keys(tool, 1);
    freshet_buf buf = {0};
    freshet *cache = NULL;
    const void *value;
    size_t size;
    freshet_result result;
    int status;

    if (!key)
        return TOOL_USAGE;
    if ((status = take_value(tool, &buf, &value, &size)) != TOOL_DONE)
        goto out;
    if ((status = tool_open(tool, TOOL_JOIN | TOOL_MAKE, &cache)) != TOOL_DONE)
        goto out;
    take_waits(tool, &options);
    options.ttl_ms = tool->ttl_ms;
    options.tags = tool->tags;
    options.tag_count = (size_t)tool->tags_count;
    options.name_space = tool->name_space;
    if (tool->absent)
        result = freshet_put_absent(cache, key->data, key->size, &options, &change);
    else
        result = freshet_put(cache, key->data, key->size, value, size, &options, &change);
    if (result == FRESHET_OK)
        (void)freshet_flush(cache, 0); /* the record is in the tier when we say so; if not, that is a miss, no loss */
    status = tell(tool, result, &change, "cannot put");
out:
    tool_close(tool, cache);
    freshet_buf_free(&buf);
    free(key);
    return status;
}

int cmd_invalidate(struct tool *tool)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    freshet_change change = FRESHET_INIT(freshet_change);
    freshet_key *keys = NULL;
    freshet *cache = NULL;
    freshet_result result;
    int status;

    if ((tool->args_count > 0) == (tool->tags_count > 0))
        return tool_error(tool, TOOL_USAGE, "usage", "invalidate needs keys, or --tag; not both");
    if (tool->args_count > 0 && !(keys = tool_keys(tool, tool->args_count)))
        return TOOL_USAGE;
    if ((status = tool_open(tool, TOOL_JOIN, &cache)) == TOOL_DONE) {
        take_waits(tool, &options);
        result = keys ? freshet_invalidate_many(cache, keys, (size_t)tool->args_count, &options, &change)
                      : freshet_invalidate_tags(cache, tool->tags, (size_t)tool->tags_count, &options, &change);
        status = tell(tool, result, &change, "cannot invalidate");
    }
    tool_close(tool, cache);
    free(keys);
    return status;
}

int cmd_clear(struct tool *tool)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    freshet_change change = FRESHET_INIT(freshet_change);
    freshet *cache = NULL;
    int status = tool_open(tool, TOOL_JOIN, &cache);

    if (status == TOOL_DONE) {
        take_waits(tool, &options);
        freshet_result result = tool->name_space ? freshet_clear_namespace(cache, tool->name_space, &options, &change)
                                                 : freshet_clear(cache, &options, &change);

        status = tell(tool, result, &change, "cannot clear");
    }
    tool_close(tool, cache);
    return status;
}
