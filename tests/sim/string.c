/* string.c - commands on strings (commands.h). */
#include <commands.h>

#include <stdio.h>
#include <string.h>

#define STRING_MOST ((long long)512 << 20)

/* Add a string's bytes to the reply. */
static void reply_entry(struct call *call, const struct entry *entry)
{
    if (entry)
        reply_bulk(call->reply, entry->bytes, entry->size);
    else
        reply_nil(call->reply);
}

void command_get(struct call *call)
{
    struct entry *entry;

    if (call_find_type(call, 1, VALUE_STRING, &entry))
        reply_entry(call, entry);
}

void command_getdel(struct call *call)
{
    struct entry *entry;

    if (!call_find_type(call, 1, VALUE_STRING, &entry))
        return;
    reply_entry(call, entry);
    if (entry) {
        call_wrote(call);
        call_tell_text(call, "DEL", call->argv[1], call->sizes[1]);
        keys_remove(&call->server->keys, entry);
    }
}

void command_mget(struct call *call)
{
    reply_array(call->reply, (size_t)call->argc - 1);
    for (int i = 1; i < call->argc; i++) {
        struct entry *entry = call_find(call, i);

        reply_entry(call, entry && entry->type == VALUE_STRING ? entry : NULL);
    }
}

/* Whatever was there, it is this string now. */
static struct entry *put(struct call *call, int key, int value)
{
    struct entry *entry = call_find(call, key);

    if (!entry)
        entry = keys_add(&call->server->keys, call->argv[key], call->sizes[key], VALUE_STRING);
    entry_set(entry, call->argv[value], call->sizes[value]);
    call_wrote(call);
    return entry;
}

static void put_for_ever(struct call *call, int key, int value)
{
    put(call, key, value)->expires_ms = KEYS_NO_EXPIRY;
}

static void put_until(struct call *call, int key, int value, int64_t ms)
{
    char text[24];
    int size = snprintf(text, sizeof text, "%lld", (long long)ms);

    put(call, key, value)->expires_ms = ms;
    call_tell(call, 5, (const char *[]){"SET", call->argv[key], call->argv[value], "PXAT", text},
              (const size_t[]){3, call->sizes[key], call->sizes[value], 4, (size_t)size});
}

struct set_options {
    bool nx, xx, get, keep, seconds, relative;
    int expiry;  /* the argument; 0: none */
    size_t time; /* which of the four words was before it */
};

static bool set_options(struct call *call, struct set_options *options)
{
    static const struct {
        const char *name;
        bool seconds, relative;
    } times[] = {{"EX", true, true}, {"PX", false, true}, {"EXAT", true, false}, {"PXAT", false, false}};

    for (int i = 3; i < call->argc; i++) {
        bool found = true;

        if (call_is(call, i, "NX") && !options->xx)
            options->nx = true;
        else if (call_is(call, i, "XX") && !options->nx)
            options->xx = true;
        else if (call_is(call, i, "GET"))
            options->get = true;
        else if (call_is(call, i, "KEEPTTL") && !options->expiry)
            options->keep = true;
        else
            found = false;
        for (size_t t = 0; !found && t < 4; t++) {
            if (!call_is(call, i, times[t].name) || options->keep || i + 1 >= call->argc)
                continue;
            if (options->expiry && options->time != t) /* the same again is welcome, and the last one counts */
                continue;
            options->time = t;
            options->seconds = times[t].seconds;
            options->relative = times[t].relative;
            options->expiry = ++i;
            found = true;
        }
        if (!found) {
            call_syntax_error(call);
            return false;
        }
    }
    return true;
}

void command_set(struct call *call)
{
    struct set_options options = {0};
    int64_t expires_ms = KEYS_NO_EXPIRY;
    struct entry *entry = NULL;

    if (!set_options(call, &options))
        return;
    if (options.expiry && !call_expiry(call, options.expiry, options.seconds, options.relative, &expires_ms))
        return;
    if (options.get) {
        if (!call_find_type(call, 1, VALUE_STRING, &entry))
            return;
        reply_entry(call, entry);
    } else {
        entry = call_find(call, 1);
    }
    if ((options.nx && entry) || (options.xx && !entry)) {
        if (!options.get)
            reply_nil(call->reply);
        return;
    }
    if (options.keep) {
        put(call, 1, 2);
        call_tell(call, 4, (const char *[]){"SET", call->argv[1], call->argv[2], "KEEPTTL"},
                  (const size_t[]){3, call->sizes[1], call->sizes[2], 7});
    } else if (options.expiry) {
        put_until(call, 1, 2, expires_ms);
    } else {
        put_for_ever(call, 1, 2);
        call_tell(call, 3, call->argv, call->sizes);
    }
    if (!options.get)
        reply_status(call->reply, "OK");
}

void command_setex(struct call *call)
{
    int64_t ms;

    if (!call_expiry(call, 2, call->command->name[0] != 'p', true, &ms))
        return;
    put_until(call, 1, 3, ms);
    reply_status(call->reply, "OK");
}

void command_setnx(struct call *call)
{
    bool free_name = !call_find(call, 1);

    if (free_name)
        put_for_ever(call, 1, 2);
    reply_integer(call->reply, free_name);
}

void command_getset(struct call *call)
{
    struct entry *entry;

    if (!call_find_type(call, 1, VALUE_STRING, &entry))
        return;
    reply_entry(call, entry);
    put_for_ever(call, 1, 2);
}

void command_mset(struct call *call)
{
    if (call->argc % 2 == 0) {
        reply_error(call->reply, "ERR wrong number of arguments for 'mset' command");
        return;
    }
    for (int i = 1; i < call->argc; i += 2)
        put_for_ever(call, i, i + 1);
    reply_status(call->reply, "OK");
}

void command_append(struct call *call)
{
    struct entry *entry;
    size_t at;

    if (!call_find_type(call, 1, VALUE_STRING, &entry))
        return;
    if (!entry)
        entry = put(call, 1, 2);
    else if (call->sizes[2] > 0) {
        at = entry->size;
        entry_extend(entry, at + call->sizes[2]);
        memcpy(entry->bytes + at, call->argv[2], call->sizes[2]);
    }
    call_wrote(call);
    reply_integer(call->reply, (long long)entry->size);
}

void command_strlen(struct call *call)
{
    struct entry *entry;

    if (call_find_type(call, 1, VALUE_STRING, &entry))
        reply_integer(call->reply, entry ? (long long)entry->size : 0);
}

void command_getrange(struct call *call)
{
    struct entry *entry;
    long long first, last, size;

    if (!call_integer(call, 2, &first) || !call_integer(call, 3, &last) ||
        !call_find_type(call, 1, VALUE_STRING, &entry))
        return;
    size = entry ? (long long)entry->size : 0;
    if (first < 0 && last < 0 && first > last)
        size = 0;
    if (first < 0)
        first = first + size < 0 ? 0 : first + size;
    if (last < 0)
        last = last + size < 0 ? 0 : last + size;
    if (last >= size)
        last = size - 1;
    if (size == 0 || first > last)
        reply_bulk(call->reply, "", 0);
    else
        reply_bulk(call->reply, entry->bytes + first, (size_t)(last - first + 1));
}

void command_setrange(struct call *call)
{
    struct entry *entry;
    long long at;

    if (!call_integer(call, 2, &at))
        return;
    if (at < 0) {
        reply_error(call->reply, "ERR offset is out of range");
        return;
    }
    if (!call_find_type(call, 1, VALUE_STRING, &entry))
        return;
    if (call->sizes[3] == 0) {
        reply_integer(call->reply, entry ? (long long)entry->size : 0);
        return;
    }
    if (at > STRING_MOST - (long long)call->sizes[3]) {
        reply_error(call->reply, "ERR string exceeds maximum allowed size (proto-max-bulk-len)");
        return;
    }
    if (!entry) {
        entry = keys_add(&call->server->keys, call->argv[1], call->sizes[1], VALUE_STRING);
        entry_set(entry, "", 0);
    }
    entry_extend(entry, (size_t)at + call->sizes[3]);
    memcpy(entry->bytes + at, call->argv[3], call->sizes[3]);
    call_wrote(call);
    reply_integer(call->reply, (long long)entry->size);
}

void command_incr(struct call *call)
{
    bool down = call->command->name[0] == 'd';
    long long by = 1, number = 0;
    struct entry *entry;
    char text[24];

    if (call->argc == 3 && !call_integer(call, 2, &by))
        return;
    if (down && by == INT64_MIN) {
        reply_error(call->reply, "ERR decrement would overflow");
        return;
    }
    if (!call_find_type(call, 1, VALUE_STRING, &entry))
        return;
    if (entry && !call_parse(entry->bytes, entry->size, &number)) {
        reply_error(call->reply, "ERR value is not an integer or out of range");
        return;
    }
    if (__builtin_add_overflow(number, down ? -by : by, &number)) {
        reply_error(call->reply, "ERR increment or decrement would overflow");
        return;
    }
    if (!entry)
        entry = keys_add(&call->server->keys, call->argv[1], call->sizes[1], VALUE_STRING);
    entry_set(entry, text, (size_t)snprintf(text, sizeof text, "%lld", number));
    call_wrote(call);
    reply_integer(call->reply, number);
}
