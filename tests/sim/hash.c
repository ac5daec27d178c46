/* hash.c - commands on hashes (commands.h). */
#include <commands.h>

#include <stdio.h>

static void reply_value(struct call *call, const struct entry *entry, int arg)
{
    const struct keys_field *field = entry ? entry_field(entry, call->argv[arg], call->sizes[arg]) : NULL;

    if (field)
        reply_bulk(call->reply, field->value, field->value_size);
    else
        reply_nil(call->reply);
}

static struct entry *hash_of(struct call *call, struct entry *entry)
{
    return entry ? entry : keys_add(&call->server->keys, call->argv[1], call->sizes[1], VALUE_HASH);
}

void command_hset(struct call *call)
{
    struct entry *entry;
    long long added = 0;

    if (call->argc % 2 != 0) {
        reply_error(call->reply, "ERR wrong number of arguments for '%s' command", call->command->name);
        return;
    }
    if (!call_find_type(call, 1, VALUE_HASH, &entry))
        return;
    entry = hash_of(call, entry);
    for (int i = 2; i < call->argc; i += 2)
        added += entry_set_field(entry, call->argv[i], call->sizes[i], call->argv[i + 1], call->sizes[i + 1]);
    call_wrote(call);
    if (call->command->name[1] == 's')
        reply_integer(call->reply, added);
    else
        reply_status(call->reply, "OK");
}

void command_hsetnx(struct call *call)
{
    struct entry *entry;
    bool taken;

    if (!call_find_type(call, 1, VALUE_HASH, &entry))
        return;
    taken = entry && entry_field(entry, call->argv[2], call->sizes[2]);
    if (!taken) {
        (void)entry_set_field(hash_of(call, entry), call->argv[2], call->sizes[2], call->argv[3], call->sizes[3]);
        call_wrote(call);
    }
    reply_integer(call->reply, !taken);
}

void command_hget(struct call *call)
{
    struct entry *entry;

    if (call_find_type(call, 1, VALUE_HASH, &entry))
        reply_value(call, entry, 2);
}

void command_hmget(struct call *call)
{
    struct entry *entry;

    if (!call_find_type(call, 1, VALUE_HASH, &entry))
        return;
    reply_array(call->reply, (size_t)call->argc - 2);
    for (int i = 2; i < call->argc; i++)
        reply_value(call, entry, i);
}

/* HGETALL, HKEYS, HVALS */
void command_hgetall(struct call *call)
{
    bool names = call->command->name[1] != 'v', values = call->command->name[1] != 'k';
    struct entry *entry;

    if (!call_find_type(call, 1, VALUE_HASH, &entry))
        return;
    reply_array(call->reply, entry ? entry->fields_count * ((size_t)names + (size_t)values) : 0);
    for (size_t i = 0; entry && i < entry->fields_count; i++) {
        if (names)
            reply_bulk(call->reply, entry->fields[i].name, entry->fields[i].name_size);
        if (values)
            reply_bulk(call->reply, entry->fields[i].value, entry->fields[i].value_size);
    }
}

void command_hlen(struct call *call)
{
    struct entry *entry;

    if (call_find_type(call, 1, VALUE_HASH, &entry))
        reply_integer(call->reply, entry ? (long long)entry->fields_count : 0);
}

void command_hexists(struct call *call)
{
    struct entry *entry;

    if (call_find_type(call, 1, VALUE_HASH, &entry))
        reply_integer(call->reply, entry && entry_field(entry, call->argv[2], call->sizes[2]));
}

void command_hstrlen(struct call *call)
{
    struct keys_field *field;
    struct entry *entry;

    if (!call_find_type(call, 1, VALUE_HASH, &entry))
        return;
    field = entry ? entry_field(entry, call->argv[2], call->sizes[2]) : NULL;
    reply_integer(call->reply, field ? (long long)field->value_size : 0);
}

void command_hdel(struct call *call)
{
    struct entry *entry;
    long long gone = 0;

    if (!call_find_type(call, 1, VALUE_HASH, &entry))
        return;
    for (int i = 2; entry && i < call->argc; i++)
        gone += entry_drop_field(entry, call->argv[i], call->sizes[i]);
    if (gone > 0)
        call_wrote(call);
    if (entry && entry->fields_count == 0)
        keys_remove(&call->server->keys, entry);
    reply_integer(call->reply, gone);
}

void command_hincrby(struct call *call)
{
    long long by, number = 0;
    struct keys_field *field;
    struct entry *entry;
    char text[24];

    if (!call_integer(call, 3, &by) || !call_find_type(call, 1, VALUE_HASH, &entry))
        return;
    field = entry ? entry_field(entry, call->argv[2], call->sizes[2]) : NULL;
    if (field && !call_parse(field->value, field->value_size, &number)) {
        reply_error(call->reply, "ERR hash value is not an integer");
        return;
    }
    if (__builtin_add_overflow(number, by, &number)) {
        reply_error(call->reply, "ERR increment or decrement would overflow");
        return;
    }
    (void)entry_set_field(hash_of(call, entry), call->argv[2], call->sizes[2], text,
                          (size_t)snprintf(text, sizeof text, "%lld", number));
    call_wrote(call);
    reply_integer(call->reply, number);
}
