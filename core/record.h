/*
 * record.h - one cached entry and its bytes in the tier.  Pure; the only file that knows the layout.
 *
 * A record's bytes are a head, the full key, the value.  The head is dense, since every byte of it stands beside values
 * of a few dozen bytes: what neighbours have in common stands once in their sheet (sheet.h), and a head says only how
 * it differs.  Everything read is checked: any process of this user may have written to the map.
 */
#ifndef CORE_RECORD_H
#define CORE_RECORD_H

#include <bytes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define RECORD_TAGS_MAX  17u /* FRESHET_TAGS_MAX and a namespace */
#define RECORD_HEAD_LEAST 20u /* bytes of the shortest head */
#define RECORD_HEAD_MOST  (12u + 7u * 8u + 8u * RECORD_TAGS_MAX)
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

/* What the heads of a sheet have in common; each says how far it is off. */
struct record_base {
    uint64_t epoch, as_of, version, writer;
    int64_t expires_ns;
};

static inline struct record_base record_base_of(const struct record *record)
{
    return (struct record_base){record->epoch, record->as_of, record->version, record->writer, record->expires_ns};
}

/* The base as bytes, little-endian. */
#define RECORD_BASE_SIZE 40u
void record_base_encode(const struct record_base *base, uint8_t bytes[RECORD_BASE_SIZE]);
static inline struct record_base record_base_decode(const uint8_t bytes[RECORD_BASE_SIZE])
{
    return (struct record_base){bytes_get64(bytes), bytes_get64(bytes + 8), bytes_get64(bytes + 16),
                                bytes_get64(bytes + 24), (int64_t)bytes_get64(bytes + 32)};
}

/* Write the head to `bytes` (up to RECORD_HEAD_MOST of them); how many.  An expiry may come back earlier by up to 1.1
 * milliseconds, the first time; all else as it was. */
uint32_t record_encode(const struct record *record, const struct record_base *base, uint8_t *bytes);
/* Read it, with the base's bytes; its size, or 0 when it is no head of ours. `limit` bounds key + value. */
uint32_t record_decode(struct record *ret_record, const uint8_t base[RECORD_BASE_SIZE], const uint8_t *bytes,
                       size_t size, uint64_t limit);

/* Of two records of one key, does `next` replace `old`?  `epoch` is the page's.  Only a record of the page's epoch may
 * replace; within it the greater as-of, then the greater born, then the greater source version where both
 * have one, then the later expiry (equal in all: yes, the same answer). */
bool record_replaces(const struct record *next, const struct record *old, uint64_t epoch);

#endif
