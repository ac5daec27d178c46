/*
 * keys.h - a server's data: keys with a value (string, hash or stream) and perhaps a time to expire.  Knows no commands
 * and no clock.  The order of its list follows from what was done, so a run chooses the same keys again.
 */
#ifndef SIM_KEYS_H
#define SIM_KEYS_H

#include <stream.h>

#define KEYS_NO_EXPIRY INT64_MIN

enum value_type { VALUE_STRING, VALUE_HASH, VALUE_STREAM };

struct keys_field {
    char *name, *value;
    size_t name_size, value_size;
};

struct entry {
    char *key;
    size_t key_size;
    uint64_t hash;
    size_t index; /* in the list */
    struct entry *next;
    int64_t expires_ms; /* KEYS_NO_EXPIRY: never */
    enum value_type type;
    char *bytes; /* VALUE_STRING */
    size_t size, room;
    struct keys_field *fields; /* VALUE_HASH, in the order of their coming */
    size_t fields_count, fields_room;
    struct stream *stream; /* VALUE_STREAM */
};

struct keys {
    struct entry **buckets;
    size_t buckets_count; /* a power of two */
    struct entry **list;
    size_t count, room;
};

void keys_init(struct keys *keys);
void keys_fini(struct keys *keys);
void keys_copy(struct keys *to, const struct keys *from); /* `to` is not initialised */
void keys_clear(struct keys *keys);

struct entry *keys_find(const struct keys *keys, const void *key, size_t size);
/* A new, empty value; there must be none of this name. */
struct entry *keys_add(struct keys *keys, const void *key, size_t size, enum value_type type);
void keys_remove(struct keys *keys, struct entry *entry);

void entry_set(struct entry *entry, const void *bytes, size_t size); /* becomes a string, whatever it was */
/* Make a string at least `size` bytes long, with zeros; bytes may then be written to. */
void entry_extend(struct entry *entry, size_t size);
struct keys_field *entry_field(const struct entry *entry, const void *name, size_t size); /* NULL: none */
/* True: there was none of this name before. */
bool entry_set_field(struct entry *entry, const void *name, size_t name_size, const void *value, size_t size);
bool entry_drop_field(struct entry *entry, const void *name, size_t size);

#endif
