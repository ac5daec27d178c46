/*
 * record.h - one cached entry and its bytes in the tier.  Pure; the only file that knows the layout.
 *
 * A record's bytes are a head, fixed but for the tags at its end, the full key, the value.  What does not fit one LMDB
 * page goes on in further rows of a page each (tier.c): LMDB looks long for runs of pages, never for single ones.
 * Everything read is checked: any process of this user may have written to the map.
 */
#ifndef CORE_RECORD_H
#define CORE_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define RECORD_HEAD_SIZE 80u /* bytes without tags; holds a magic, a format and a check of the head itself */
#define RECORD_TAGS_MAX  17u /* FRESHET_TAGS_MAX and a namespace */
#define RECORD_HEAD_MOST (RECORD_HEAD_SIZE + 8u * RECORD_TAGS_MAX)
#define RECORD_NEVER     INT64_MAX

enum record_kind { RECORD_VALUE = 1, RECORD_ABSENT = 2 };

struct record {
    uint8_t kind;            /* enum record_kind */
    uint64_t epoch;          /* of the history that as_of and born count in; 0: this host's own, no fleet */
    uint64_t as_of;          /* position in the head read in the same atomic step */
    uint64_t born;           /* position at which Redis got it */
    uint64_t version;        /* us; audit */
    uint64_t writer;         /* audit */
    uint64_t source_version; /* 0: none */
    int64_t expires_ns;      /* CLOCK_BOOTTIME; RECORD_NEVER */
    uint32_t key_size;
    uint64_t value_size;
    uint32_t tag_count;
    uint64_t tags[RECORD_TAGS_MAX]; /* key_tag's numbers; only the first tag_count mean anything */
};

/* Copy what means anything: most records have no tags, and a hit should not pay for their room. */
static inline void record_copy(struct record *to, const struct record *from)
{
    memcpy(to, from, offsetof(struct record, tags));
    if (from->tag_count > 0)
        memcpy(to->tags, from->tags, from->tag_count * sizeof *from->tags);
}

/* Bytes of the head in the tier. */
static inline uint32_t record_head_size(const struct record *record)
{
    return RECORD_HEAD_SIZE + 8 * record->tag_count;
}

/* Write the head to `bytes` (record_head_size of them). */
void record_encode(const struct record *record, uint8_t *bytes);
/* Read it; false when it is no head of ours. `limit` bounds key + value. */
bool record_decode(struct record *ret_record, const uint8_t *bytes, size_t size, uint64_t limit);

/* Of two records of one key, does `next` replace `old`?  `epoch` is the page's.  Only a record of the page's epoch may
 * replace; within it the greater as-of, then the greater born, then the later expiry (equal in all: yes, the same
 * answer). */
bool record_replaces(const struct record *next, const struct record *old, uint64_t epoch);

#endif
