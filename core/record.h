/*
 * record.h - one cached entry and its bytes in the tier.  Pure; the only file that knows the layout.
 *
 * A record's bytes are a fixed head, the full key, the value.  What does not fit one LMDB page goes on in
 * further rows of a page each (tier.c): LMDB looks long for runs of pages, never for single ones.
 * Everything read is checked: any process of this user may have written to the map.
 */
#ifndef CORE_RECORD_H
#define CORE_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORD_HEAD_SIZE 80u /* bytes; holds a magic, a format and a check of the head itself */
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
};

/* Write the head to `bytes` (RECORD_HEAD_SIZE of them). */
void record_encode(const struct record *record, uint8_t *bytes);
/* Read it; false when it is no head of ours. `limit` bounds key + value. */
bool record_decode(struct record *ret_record, const uint8_t *bytes, size_t size, uint64_t limit);

/* Of two records of one key, does `next` replace `old`?  `epoch` is the page's.  Only a record of the page's epoch may
 * replace; within it the greater as-of, then the greater born, then the later expiry (equal in all: yes, the same
 * answer). */
bool record_replaces(const struct record *next, const struct record *old, uint64_t epoch);

#endif
