/*
 * stream.c - a stream in nodes (stream.h).
 *
 * Redis begins another node at 100 entries or 4,096 bytes of its own encoding.  How an entry is encoded is therefore
 * counted here, though nothing is encoded: numbers take 2 to 10 bytes, also where they are spelled as text; text takes
 * its size, a head of 1, 2 or 5 bytes, and its whole length once more at the end for walking backwards.
 */
#include <stream.h>

#include <stdlib.h>
#include <string.h>

#define NODE_ENTRIES 100u
#define NODE_BYTES   4096u
#define NODE_HEAD    7u /* two lengths and an end mark */

struct stream *stream_open(void)
{
    return reply_alloc(sizeof(struct stream));
}

static void entry_free(struct stream_entry *entry)
{
    for (size_t i = 0; i < entry->count; i++)
        free(entry->parts[i].bytes);
    free(entry->parts);
    entry->parts = NULL;
    entry->count = 0;
}

static void node_free(struct stream_node *node)
{
    for (size_t i = 0; i < node->count; i++)
        entry_free(&node->entries[i]);
    free(node->entries);
}

void stream_close(struct stream *stream)
{
    if (!stream)
        return;
    for (size_t i = 0; i < stream->count; i++)
        node_free(&stream->nodes[i]);
    free(stream->nodes);
    free(stream);
}

static struct stream_part *parts_copy(const struct stream_part *parts, size_t count)
{
    struct stream_part *copy = reply_alloc(count * sizeof *copy);

    for (size_t i = 0; i < count; i++) {
        copy[i].bytes = reply_copy(parts[i].bytes, parts[i].size);
        copy[i].size = parts[i].size;
    }
    return copy;
}

struct stream *stream_copy(const struct stream *stream)
{
    struct stream *copy = stream_open();

    *copy = *stream;
    copy->room = stream->count;
    copy->nodes = reply_alloc(stream->count * sizeof *copy->nodes);
    for (size_t n = 0; n < stream->count; n++) {
        const struct stream_node *from = &stream->nodes[n];
        struct stream_node *to = &copy->nodes[n];

        *to = *from;
        to->room = from->count;
        to->entries = reply_alloc(from->count * sizeof *to->entries);
        for (size_t i = 0; i < from->count; i++) {
            to->entries[i] = from->entries[i];
            to->entries[i].parts = parts_copy(from->entries[i].parts, from->entries[i].count);
        }
    }
    return copy;
}

int stream_compare(struct stream_id a, struct stream_id b)
{
    if (a.ms != b.ms)
        return a.ms < b.ms ? -1 : 1;
    return a.seq < b.seq ? -1 : a.seq > b.seq;
}

/* ---- what an element takes in Redis ---- */

static size_t number_bytes(int64_t number)
{
    if (number >= 0 && number <= 127)
        return 2;
    if (number >= -4096 && number <= 4095)
        return 3;
    if (number >= INT16_MIN && number <= INT16_MAX)
        return 4;
    if (number >= -8388608 && number <= 8388607)
        return 5;
    return number >= INT32_MIN && number <= INT32_MAX ? 6 : 10;
}

/* Is it a number as Redis itself would print it? */
static bool is_number(const char *bytes, size_t size, int64_t *ret_number)
{
    char text[24], *end;
    size_t digits = size > 0 && bytes[0] == '-' ? 1 : 0;

    if (size == 0 || size > 20 || size == digits || (bytes[digits] == '0' && size > 1))
        return false;
    for (size_t i = digits; i < size; i++)
        if (bytes[i] < '0' || bytes[i] > '9')
            return false;
    memcpy(text, bytes, size);
    text[size] = '\0';
    *ret_number = strtoll(text, &end, 10);
    return size < 19 || (*ret_number != INT64_MAX && *ret_number != INT64_MIN);
}

static size_t part_bytes(const struct stream_part *part)
{
    int64_t number;
    size_t size;

    if (is_number(part->bytes, part->size, &number))
        return number_bytes(number);
    size = part->size + (part->size < 64 ? 1 : part->size < 4096 ? 2 : 5);
    return size + (size < 128 ? 1 : size < 16383 ? 2 : size < 2097151 ? 3 : 4);
}

static bool same_names(const struct stream_entry *a, const struct stream_entry *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i += 2)
        if (a->parts[i].size != b->parts[i].size || memcmp(a->parts[i].bytes, b->parts[i].bytes, a->parts[i].size) != 0)
            return false;
    return true;
}

/* A node's first entry also stands there as the master, whose names the others leave out. */
static size_t node_bytes(const struct stream_entry *first)
{
    size_t size = NODE_HEAD + number_bytes(1) + number_bytes(0) + number_bytes((int64_t)first->count / 2);

    for (size_t i = 0; i < first->count; i += 2)
        size += part_bytes(&first->parts[i]);
    return size + number_bytes(0);
}

static size_t entry_bytes(const struct stream_entry *first, const struct stream_entry *entry)
{
    bool same = same_names(first, entry);
    size_t pieces = entry->count / 2 + 3, size;

    size = number_bytes(same ? 2 : 0) + number_bytes((int64_t)(entry->id.ms - first->id.ms)) +
           number_bytes((int64_t)(entry->id.seq - first->id.seq));
    if (!same) {
        size += number_bytes((int64_t)entry->count / 2);
        pieces += entry->count / 2 + 1;
    }
    for (size_t i = same ? 1 : 0; i < entry->count; i += same ? 2 : 1)
        size += part_bytes(&entry->parts[i]);
    return size + number_bytes((int64_t)pieces);
}

/* ---- changes ---- */

static struct stream_node *node_for(struct stream *stream, size_t size)
{
    struct stream_node *node = stream->count ? &stream->nodes[stream->count - 1] : NULL;

    if (node && node->bytes + size < NODE_BYTES && node->count < NODE_ENTRIES)
        return node;
    if (stream->count == stream->room) {
        stream->room = stream->room * 2 + 4;
        stream->nodes = reply_grow(stream->nodes, stream->room * sizeof *stream->nodes);
    }
    node = &stream->nodes[stream->count++];
    *node = (struct stream_node){0};
    return node;
}

void stream_append(struct stream *stream, struct stream_id id, const struct stream_part *parts, size_t count)
{
    struct stream_entry entry = {.id = id, .parts = parts_copy(parts, count), .count = count};
    struct stream_node *node;
    size_t size = 0;

    for (size_t i = 0; i < count; i++)
        size += parts[i].size;
    node = node_for(stream, size);
    if (node->count == node->room) {
        node->room = node->room ? node->room * 2 : 8;
        node->entries = reply_grow(node->entries, node->room * sizeof *node->entries);
    }
    node->entries[node->count++] = entry;
    node->live++;
    if (node->count == 1)
        node->bytes = node_bytes(&entry);
    node->bytes += entry_bytes(&node->entries[0], &entry);
    stream->length++;
    stream->last = id;
    stream->added++;
}

static void drop_nodes(struct stream *stream, size_t at, size_t count)
{
    if (count == 0)
        return;
    for (size_t i = at; i < at + count; i++)
        node_free(&stream->nodes[i]);
    memmove(&stream->nodes[at], &stream->nodes[at + count], (stream->count - at - count) * sizeof *stream->nodes);
    stream->count -= count;
}

/* Does this entry go by the trim, when `left` are in the stream? */
static bool goes(const struct stream_trim *trim, size_t left, struct stream_id id)
{
    return trim->by == STREAM_MAXLEN ? left > trim->most : stream_compare(id, trim->least) < 0;
}

/* An exact trim goes on inside the first node that stays. */
static size_t trim_inside(struct stream *stream, const struct stream_trim *trim, struct stream_node *node)
{
    size_t gone = 0;

    for (size_t i = 0; i < node->count; i++) {
        struct stream_entry *entry = &node->entries[i];

        if (entry->deleted)
            continue;
        if (!goes(trim, stream->length, entry->id))
            break;
        entry->deleted = true;
        stream->length--;
        node->live--;
        gone++;
    }
    return gone;
}

size_t stream_trim(struct stream *stream, const struct stream_trim *trim)
{
    size_t gone = 0, whole = 0;

    while (trim->by != STREAM_KEEP_ALL && whole < stream->count) {
        struct stream_node *node = &stream->nodes[whole];
        bool all;

        if (trim->by == STREAM_MAXLEN && stream->length <= trim->most)
            break;
        if (trim->limit && gone + node->live > trim->limit)
            break;
        all = trim->by == STREAM_MAXLEN
                  ? stream->length - node->live >= trim->most
                  : stream_compare(node->entries[node->count - 1].id, trim->least) < 0; /* deleted or not */
        if (all) {
            gone += node->live;
            stream->length -= node->live;
            whole++;
            continue;
        }
        if (!trim->approximate)
            gone += trim_inside(stream, trim, node);
        break;
    }
    drop_nodes(stream, 0, whole);
    return gone;
}

bool stream_delete(struct stream *stream, struct stream_id id)
{
    for (size_t n = 0; n < stream->count; n++) {
        struct stream_node *node = &stream->nodes[n];

        for (size_t i = 0; i < node->count; i++) {
            if (node->entries[i].deleted || stream_compare(node->entries[i].id, id) != 0)
                continue;
            node->entries[i].deleted = true;
            stream->length--;
            if (stream_compare(id, stream->most_deleted) > 0)
                stream->most_deleted = id;
            if (--node->live == 0)
                drop_nodes(stream, n, 1);
            return true;
        }
    }
    return false;
}

/* The first node whose entries reach up to `id`. */
static size_t find_node(const struct stream *stream, struct stream_id id)
{
    size_t low = 0, high = stream->count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct stream_node *node = &stream->nodes[middle];

        if (stream_compare(node->entries[node->count - 1].id, id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

size_t stream_walk(const struct stream *stream, struct stream_id first, struct stream_id last, bool backwards,
                   size_t most, void (*each)(void *arg, const struct stream_entry *entry), void *arg)
{
    size_t begin = find_node(stream, first), seen = 0;

    for (size_t n = begin; n < stream->count; n++) {
        const struct stream_node *node = &stream->nodes[backwards ? stream->count - 1 - (n - begin) : n];

        for (size_t i = 0; i < node->count && seen < most; i++) {
            const struct stream_entry *entry = &node->entries[backwards ? node->count - 1 - i : i];

            if (entry->deleted || stream_compare(entry->id, first) < 0)
                continue;
            if (stream_compare(entry->id, last) > 0) {
                if (backwards)
                    continue;
                return seen;
            }
            if (each)
                each(arg, entry);
            seen++;
        }
        if (seen == most)
            break;
    }
    return seen;
}
