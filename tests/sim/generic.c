/* generic.c - commands on keys of any type (commands.h). */
#include <commands.h>

#include <stdio.h>
#include <string.h>

void command_dbsize(struct call *call)
{
    reply_integer(call->reply, (long long)call->server->keys.count);
}

void command_del(struct call *call)
{
    long long gone = 0;

    for (int i = 1; i < call->argc; i++) {
        struct entry *entry = call_find(call, i);

        if (!entry)
            continue;
        keys_remove(&call->server->keys, entry);
        call_wrote(call);
        gone++;
    }
    reply_integer(call->reply, gone);
}

void command_exists(struct call *call)
{
    long long count = 0;

    for (int i = 1; i < call->argc; i++)
        count += call_find(call, i) != NULL;
    reply_integer(call->reply, count);
}

void command_type(struct call *call)
{
    static const char *const names[] = {"string", "hash", "stream"};
    struct entry *entry = call_find(call, 1);

    reply_status(call->reply, entry ? names[entry->type] : "none");
}

void command_ttl(struct call *call)
{
    struct entry *entry = call_find(call, 1);
    bool milliseconds = call->command->name[0] == 'p';
    bool absolute = strstr(call->command->name, "time") != NULL;
    int64_t ms;

    if (!entry || entry->expires_ms == KEYS_NO_EXPIRY) {
        reply_integer(call->reply, entry ? -1 : -2);
        return;
    }
    ms = absolute ? entry->expires_ms : entry->expires_ms - call->now_ms;
    if (ms < 0)
        ms = 0;
    reply_integer(call->reply, milliseconds ? ms : (ms + 500) / 1000);
}

void command_persist(struct call *call)
{
    struct entry *entry = call_find(call, 1);
    bool had = entry && entry->expires_ms != KEYS_NO_EXPIRY;

    if (had) {
        entry->expires_ms = KEYS_NO_EXPIRY;
        call_wrote(call);
    }
    reply_integer(call->reply, had);
}

struct expire_options {
    bool nx, xx, gt, lt;
};

static bool expire_options(struct call *call, struct expire_options *ret_options)
{
    struct expire_options options = {0};

    for (int i = 3; i < call->argc; i++) {
        if (call_is(call, i, "NX")) {
            options.nx = true;
        } else if (call_is(call, i, "XX")) {
            options.xx = true;
        } else if (call_is(call, i, "GT")) {
            options.gt = true;
        } else if (call_is(call, i, "LT")) {
            options.lt = true;
        } else {
            reply_error(call->reply, "ERR Unsupported option %.*s", (int)call->sizes[i], call->argv[i]);
            return false;
        }
    }
    *ret_options = options;
    if (options.nx && (options.xx || options.gt || options.lt))
        reply_error(call->reply, "ERR NX and XX, GT or LT options at the same time are not compatible");
    else if (options.gt && options.lt)
        reply_error(call->reply, "ERR GT and LT options at the same time are not compatible");
    else
        return true;
    return false;
}

/* May the key's expiry become `ms`? */
static bool expire_may(const struct expire_options *options, int64_t has, int64_t ms)
{
    bool ever = has != KEYS_NO_EXPIRY;

    if ((options->nx && ever) || (options->xx && !ever))
        return false;
    if (options->gt && (!ever || ms <= has))
        return false;
    return !(options->lt && ever && ms >= has);
}

static void expire_tell(struct call *call, int64_t ms)
{
    char text[24];
    int size = snprintf(text, sizeof text, "%lld", (long long)ms);

    call_tell(call, 3, (const char *[]){"PEXPIREAT", call->argv[1], text},
              (const size_t[]){9, call->sizes[1], (size_t)size});
}

void command_expire(struct call *call)
{
    bool seconds = call->command->name[0] != 'p', relative = strstr(call->command->name, "at") == NULL;
    int64_t base = relative ? call->now_ms : 0;
    struct expire_options options;
    struct entry *entry;
    long long ms;

    if (!expire_options(call, &options) || !call_integer(call, 2, &ms))
        return;
    if ((seconds && (ms > INT64_MAX / 1000 || ms < INT64_MIN / 1000)) ||
        (seconds ? ms * 1000 : ms) > INT64_MAX - base) {
        reply_error(call->reply, "ERR invalid expire time in '%s' command", call->command->name);
        return;
    }
    ms = (seconds ? ms * 1000 : ms) + base;
    entry = call_find(call, 1);
    if (!entry || !expire_may(&options, entry->expires_ms, ms)) {
        reply_integer(call->reply, 0);
        return;
    }
    call_wrote(call);
    if (ms <= call->now_ms && !call->applies) {
        call_tell_text(call, "DEL", entry->key, entry->key_size);
        keys_remove(&call->server->keys, entry);
    } else {
        entry->expires_ms = ms;
        expire_tell(call, ms);
    }
    reply_integer(call->reply, 1);
}

void command_flushall(struct call *call)
{
    if (call->argc > 2 || (call->argc == 2 && !call_is(call, 1, "SYNC") && !call_is(call, 1, "ASYNC"))) {
        call_syntax_error(call);
        return;
    }
    keys_clear(&call->server->keys);
    call_wrote(call);
    reply_status(call->reply, "OK");
}
