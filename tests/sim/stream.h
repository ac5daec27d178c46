/*
 * stream.h - a stream as Redis keeps it, as far as one can see from outside: entries in nodes of limited size, because
 * an approximate trim (MAXLEN ~, MINID ~) removes whole nodes only.  Leans on reply.h.
 */
#ifndef SIM_STREAM_H
#define SIM_STREAM_H

#include <reply.h>

struct stream_id {
    uint64_t ms, seq;
};

struct stream_part { /* a field's name or value */
    char *bytes;
    size_t size;
};

struct stream_entry {
    struct stream_id id;
    struct stream_part *parts; /* name, value, name, ... */
    size_t count;              /* of parts */
    bool deleted;
};

struct stream_node {
    struct stream_entry *entries;
    size_t count, room; /* deleted ones among them */
    size_t live;
    size_t bytes; /* that Redis would need for it */
};

struct stream {
    struct stream_node *nodes;
    size_t count, room;
    size_t length;
    struct stream_id last, most_deleted;
    uint64_t added;
};

struct stream *stream_open(void);
struct stream *stream_copy(const struct stream *stream);
void stream_close(struct stream *stream);

int stream_compare(struct stream_id a, struct stream_id b);
/* `parts` are copied; the id is above the last. */
void stream_append(struct stream *stream, struct stream_id id, const struct stream_part *parts, size_t count);
struct stream_trim {
    enum { STREAM_KEEP_ALL, STREAM_MAXLEN, STREAM_MINID } by;
    bool approximate;
    uint64_t most; /* MAXLEN */
    struct stream_id least;
    uint64_t limit; /* 0: none */
};
size_t stream_trim(struct stream *stream, const struct stream_trim *trim); /* returns how many went */
bool stream_delete(struct stream *stream, struct stream_id id);

/* The entries from `first` to `last` in order, or the other way round: call `each` for at most `most` of them; returns
 * how many there were.  `each` may be NULL. */
size_t stream_walk(const struct stream *stream, struct stream_id first, struct stream_id last, bool backwards,
                   size_t most, void (*each)(void *arg, const struct stream_entry *entry), void *arg);

#endif
