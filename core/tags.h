/*
 * tags.h - the names of tags and namespaces, as callers give them, become the numbers that a record carries.
 *
 * A record knows its tags by 64 bits of their hashes, a table knows when each was last changed: nobody keeps a list of
 * a tag's records, so a change costs the same however many there are, and memory is bounded.  Two tags that meet in a
 * slot cost a miss.  A namespace is one more tag, hashed in a domain of its own.
 */
#ifndef CORE_TAGS_H
#define CORE_TAGS_H

#include <freshet.h>
#include <key.h>
#include <record.h>

#define TAGS_CHANGE_MAX 1024u /* in one call: what a frame holds */

struct tags {
    uint32_t count;
    bool has_space; /* one of them is the namespace */
    uint64_t numbers[RECORD_TAGS_MAX];
};

_Static_assert(RECORD_TAGS_MAX == FRESHET_TAGS_MAX + 1, "16 tags and a namespace");

/* Is it a name at all?  `what` names it in the sentence. */
freshet_result tags_check(const char *name, const char *what);
/* What the options of a put or a load give. */
freshet_result tags_take(struct tags *tags, const struct key_space *space, const char *const *names, size_t count,
                         const char *name_space);
/* One more. */
freshet_result tags_add(struct tags *tags, const struct key_space *space, const char *name);

#endif
