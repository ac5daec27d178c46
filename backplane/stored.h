/*
 * stored.h - the bytes of what Redis holds: head and record.  Pure; fuzzed.  The Lua scripts write them, this file
 * reads them (and PROTOCOL.md describes them); all integers big-endian.
 */
#ifndef BACKPLANE_STORED_H
#define BACKPLANE_STORED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STORED_HEAD_SIZE   132u /* a head, exactly */
#define STORED_RECORD_HEAD 100u /* a record's fixed part */
#define STORED_TAGS_MAX    17u  /* 16 tags and a namespace */
#define STORED_GUARD_SIZE  24u
#define STORED_GUARDS_MAX  64u

struct stored_head {
    uint64_t epoch;
    char replid[41]; /* of the server that wrote it; NUL-terminated here */
    uint64_t position, clear;
    uint64_t newest_tag; /* position of the newest tag change of this epoch; 0: none */
    uint32_t max_staleness_ms;
    uint16_t partitions;
    uint8_t registry[16];
};
bool stored_head_decode(struct stored_head *ret_head, const void *bytes, size_t size);

enum stored_state { STORED_TOMBSTONE = 0, STORED_VALUE = 1, STORED_ABSENT = 2 };

struct stored_record {
    uint8_t state;
    uint64_t born, version, writer, source_version;
    uint64_t expiry_us;   /* Redis's time; 0: never */
    uint64_t source_seen; /* the greatest source version this key ever had, tombstones included */
    uint64_t changed_us;  /* Redis's time of the last change, for prefer_primary */
    uint8_t ticket[16];   /* zeros: none */
    uint64_t ticket_epoch, ticket_position, ticket_until_us;
    const uint8_t *sealed; /* into the bytes given, as the two below; size 0 for a tombstone */
    size_t sealed_size;
    const uint8_t *tags; /* of a live record: 8 bytes each */
    uint32_t tag_count;
    const uint8_t *guards; /* of a tombstone: STORED_GUARD_SIZE each, an id of 16 bytes and a deadline in us */
    uint32_t guard_count;
};
bool stored_record_decode(struct stored_record *ret_record, const void *bytes, size_t size);

#endif
