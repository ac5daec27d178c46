/* keys.c - a server's data (keys.h): a table of chains beside a list. */
#include <keys.h>

#include <stdlib.h>
#include <string.h>

#define BUCKETS_FIRST 64u

void keys_init(struct keys *keys)
{
    *keys = (struct keys){.buckets_count = BUCKETS_FIRST};
    keys->buckets = reply_alloc(BUCKETS_FIRST * sizeof(struct entry *));
}

/* Free the value alone. */
static void entry_empty(struct entry *entry)
{
    free(entry->bytes);
    for (size_t i = 0; i < entry->fields_count; i++) {
        free(entry->fields[i].name);
        free(entry->fields[i].value);
    }
    free(entry->fields);
    stream_close(entry->stream);
    entry->bytes = NULL;
    entry->fields = NULL;
    entry->stream = NULL;
    entry->size = entry->room = entry->fields_count = entry->fields_room = 0;
}

static void entry_free(struct entry *entry)
{
    entry_empty(entry);
    free(entry->key);
    free(entry);
}

void keys_fini(struct keys *keys)
{
    for (size_t i = 0; i < keys->count; i++)
        entry_free(keys->list[i]);
    free(keys->list);
    free(keys->buckets);
    *keys = (struct keys){0};
}

void keys_clear(struct keys *keys)
{
    keys_fini(keys);
    keys_init(keys);
}

/* FNV-1a: keys here are nobody's attack. */
static uint64_t keys_hash(const void *key, size_t size)
{
    const unsigned char *at = key;
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ at[i]) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

struct entry *keys_find(const struct keys *keys, const void *key, size_t size)
{
    uint64_t hash = keys_hash(key, size);

    for (struct entry *entry = keys->buckets[hash & (keys->buckets_count - 1)]; entry; entry = entry->next)
        if (entry->hash == hash && entry->key_size == size && memcmp(entry->key, key, size) == 0)
            return entry;
    return NULL;
}

static void keys_link(struct keys *keys, struct entry *entry)
{
    struct entry **bucket = &keys->buckets[entry->hash & (keys->buckets_count - 1)];

    entry->next = *bucket;
    *bucket = entry;
}

static void keys_more_room(struct keys *keys)
{
    if (keys->count == keys->room) {
        keys->room = keys->room ? keys->room * 2 : 16;
        keys->list = reply_grow(keys->list, keys->room * sizeof(struct entry *));
    }
    if (keys->count < keys->buckets_count)
        return;
    free(keys->buckets);
    keys->buckets_count *= 2;
    keys->buckets = reply_alloc(keys->buckets_count * sizeof(struct entry *));
    for (size_t i = 0; i < keys->count; i++)
        keys_link(keys, keys->list[i]);
}

struct entry *keys_add(struct keys *keys, const void *key, size_t size, enum value_type type)
{
    struct entry *entry = reply_alloc(sizeof *entry);

    entry->key = reply_copy(key, size);
    entry->key_size = size;
    entry->hash = keys_hash(key, size);
    entry->expires_ms = KEYS_NO_EXPIRY;
    entry->type = type;
    if (type == VALUE_STREAM)
        entry->stream = stream_open();
    keys_more_room(keys);
    entry->index = keys->count;
    keys->list[keys->count++] = entry;
    keys_link(keys, entry);
    return entry;
}

void keys_remove(struct keys *keys, struct entry *entry)
{
    struct entry **at = &keys->buckets[entry->hash & (keys->buckets_count - 1)];

    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    keys->list[entry->index] = keys->list[--keys->count];
    keys->list[entry->index]->index = entry->index;
    entry_free(entry);
}

void keys_copy(struct keys *to, const struct keys *from)
{
    keys_init(to);
    for (size_t i = 0; i < from->count; i++) {
        const struct entry *old = from->list[i];
        struct entry *entry = keys_add(to, old->key, old->key_size, VALUE_HASH);

        entry->expires_ms = old->expires_ms;
        entry->type = old->type;
        if (old->type == VALUE_STRING)
            entry_set(entry, old->bytes, old->size);
        for (size_t f = 0; f < old->fields_count; f++)
            (void)entry_set_field(entry, old->fields[f].name, old->fields[f].name_size, old->fields[f].value,
                                  old->fields[f].value_size);
        if (old->type == VALUE_STREAM)
            entry->stream = stream_copy(old->stream);
    }
}

void entry_set(struct entry *entry, const void *bytes, size_t size)
{
    if (entry->type != VALUE_STRING || entry->room < size + 1) {
        char *copy = reply_copy(bytes, size);

        entry_empty(entry);
        entry->type = VALUE_STRING;
        entry->bytes = copy;
        entry->room = size + 1;
    } else {
        memmove(entry->bytes, bytes, size);
    }
    entry->size = size;
}

void entry_extend(struct entry *entry, size_t size)
{
    if (size <= entry->size)
        return;
    if (size + 1 > entry->room) {
        entry->room = size + 1;
        entry->bytes = reply_grow(entry->bytes, entry->room);
    }
    memset(entry->bytes + entry->size, 0, size - entry->size);
    entry->size = size;
}

struct keys_field *entry_field(const struct entry *entry, const void *name, size_t size)
{
    for (size_t i = 0; i < entry->fields_count; i++)
        if (entry->fields[i].name_size == size && memcmp(entry->fields[i].name, name, size) == 0)
            return &entry->fields[i];
    return NULL;
}

bool entry_set_field(struct entry *entry, const void *name, size_t name_size, const void *value, size_t size)
{
    struct keys_field *field = entry_field(entry, name, name_size);
    bool is_new = !field;

    if (is_new) {
        if (entry->fields_count == entry->fields_room) {
            entry->fields_room = entry->fields_room * 2 + 4;
            entry->fields = reply_grow(entry->fields, entry->fields_room * sizeof *entry->fields);
        }
        field = &entry->fields[entry->fields_count++];
        *field = (struct keys_field){.name = reply_copy(name, name_size), .name_size = name_size};
    }
    free(field->value);
    field->value = reply_copy(value, size);
    field->value_size = size;
    return is_new;
}

bool entry_drop_field(struct entry *entry, const void *name, size_t size)
{
    struct keys_field *field = entry_field(entry, name, size);

    if (!field)
        return false;
    free(field->name);
    free(field->value);
    memmove(field, field + 1, (size_t)(entry->fields + entry->fields_count - field - 1) * sizeof *field);
    entry->fields_count--;
    return true;
}
