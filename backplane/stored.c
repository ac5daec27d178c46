/*
 * stored.c - head and record as the scripts write them, read with distrust (PROTOCOL.md, section 3).  Pure.
 *
 * Anybody who may write to Redis may have written these bytes.  What is not spelled exactly is not there: a garbled
 * record is no entry, a garbled head no head.  Positions and times are below 2^53 or it is a forgery; so a time in
 * microseconds may be multiplied by 1,000 without a thought for overflow.
 */
#include <stored.h>

#include <bytes.h>
#include <string.h>

#define STORED_FORMAT     2
#define STORED_SEALED_MIN 48u /* SEAL_OVERHEAD: an empty value */

/* The scripts' own form of a replication id: 40 hex digits. */
static bool stored_is_replid(const uint8_t *text)
{
    for (int i = 0; i < 40; i++) {
        bool digit = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f') ||
                     (text[i] >= 'A' && text[i] <= 'F');
        if (!digit)
            return false;
    }
    return true;
}

bool stored_head_decode(struct stored_head *ret_head, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    struct stored_head head = {0};

    if (size != STORED_HEAD_SIZE || memcmp(at, "FH", 2) != 0 || at[2] != STORED_FORMAT || !stored_is_replid(at + 12))
        return false;
    head.epoch = bytes_get64(at + 4);
    memcpy(head.replid, at + 12, 40);
    head.position = bytes_get64(at + 52);
    head.clear = bytes_get64(at + 60);
    head.newest_tag = bytes_get64(at + 68);
    head.max_staleness_ms = bytes_get32(at + 76);
    head.partitions = bytes_get16(at + 80);
    memcpy(head.registry, at + 84, 16);
    if (head.position > BYTES_NUMBER_MAX || head.clear > head.position || head.newest_tag > head.position)
        return false;
    *ret_head = head;
    return true;
}

/* What stands behind a record's fixed part; false when it is not what its state must have. */
static bool stored_rest(struct stored_record *record, const uint8_t *rest, size_t size)
{
    if (record->state == STORED_TOMBSTONE) {
        if (size % STORED_GUARD_SIZE != 0 || size / STORED_GUARD_SIZE > STORED_GUARDS_MAX)
            return false;
        record->guards = rest;
        record->guard_count = (uint32_t)(size / STORED_GUARD_SIZE);
        return true;
    }
    if ((record->state != STORED_VALUE && record->state != STORED_ABSENT) || size < 1 || rest[0] > STORED_TAGS_MAX ||
        size < 1 + (size_t)8 * rest[0] + STORED_SEALED_MIN)
        return false;
    record->tags = rest + 1;
    record->tag_count = rest[0];
    record->sealed = record->tags + (size_t)8 * rest[0];
    record->sealed_size = size - 1 - (size_t)8 * rest[0];
    return record->state == STORED_VALUE || record->sealed_size == STORED_SEALED_MIN;
}

bool stored_record_decode(struct stored_record *ret_record, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    struct stored_record record = {0};

    if (size < STORED_RECORD_HEAD || memcmp(at, "FR", 2) != 0 || at[2] != STORED_FORMAT)
        return false;
    record.state = at[3];
    record.born = bytes_get64(at + 4);
    record.version = bytes_get64(at + 12);
    record.writer = bytes_get64(at + 20);
    record.source_version = bytes_get64(at + 28);
    record.expiry_us = bytes_get64(at + 36);
    record.changed_us = bytes_get64(at + 44);
    record.source_seen = bytes_get64(at + 52);
    memcpy(record.ticket, at + 60, 16);
    record.ticket_epoch = bytes_get64(at + 76);
    record.ticket_position = bytes_get64(at + 84);
    record.ticket_until_us = bytes_get64(at + 92);
    if (record.born > BYTES_NUMBER_MAX || record.expiry_us > BYTES_NUMBER_MAX || record.changed_us > BYTES_NUMBER_MAX ||
        record.ticket_position > BYTES_NUMBER_MAX || record.ticket_until_us > BYTES_NUMBER_MAX)
        return false;
    if (!stored_rest(&record, at + STORED_RECORD_HEAD, size - STORED_RECORD_HEAD))
        return false;
    *ret_record = record;
    return true;
}
