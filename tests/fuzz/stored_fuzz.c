/* stored_fuzz.c - head and record, as whoever may write to Redis may have written them. */
#include "fuzz.h"

#include <stored.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct stored_record record;
    struct stored_head head;

    if (stored_head_decode(&head, bytes, size)) {
        FUZZ_EXPECT(size == STORED_HEAD_SIZE);
        FUZZ_EXPECT(memchr(head.replid, 0, sizeof head.replid) != NULL);
        FUZZ_EXPECT(head.position < 1ull << 53 && head.clear <= head.position);
    }
    if (stored_record_decode(&record, bytes, size)) {
        FUZZ_EXPECT(size >= STORED_RECORD_HEAD && record.state <= STORED_ABSENT);
        FUZZ_EXPECT(record.sealed_size == 0 ||
                    (record.sealed >= bytes && record.sealed + record.sealed_size <= bytes + size));
        FUZZ_EXPECT(record.state != STORED_TOMBSTONE || (record.sealed_size == 0 && record.tag_count == 0));
        FUZZ_EXPECT(record.tag_count <= STORED_TAGS_MAX && record.guard_count <= STORED_GUARDS_MAX);
        FUZZ_EXPECT(record.tag_count == 0 ||
                    (record.tags > bytes && record.tags + 8u * record.tag_count == record.sealed));
        FUZZ_EXPECT(record.guard_count == 0 || record.guards + 24u * record.guard_count == bytes + size);
        FUZZ_EXPECT(record.born < 1ull << 53 && record.ticket_position < 1ull << 53);
    }
    return 0;
}

static uint8_t *put(uint8_t *at, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        at[i] = (uint8_t)(value >> 8 * (size - 1 - i));
    return at + size;
}

unsigned fuzz_seed(unsigned number, uint8_t *ret_bytes, size_t *ret_size)
{
    uint8_t *at = ret_bytes;

    if (number < 2) { /* a head, by PROTOCOL.md */
        memcpy(at, "FH\2", 4);
        at = put(at + 4, 0x1122334455667788u, 8);
        memset(at, 'a', 40);
        at = put(put(put(at + 40, 1ull << 50, 8), 1ull << 49, 8), 0, 8);
        at = put(put(put(at, 500, 4), 1, 2), 0, 2);
        memset(at, 7, 16);
        at = put(put(at + 16, 1ull << 50, 8), 1700000000000000u, 8);
        at = put(put(at, 0, 8), 1700000000000000u, 8);
    } else { /* a record: tombstone, value, absent */
        memcpy(at, "FR\2", 3);
        at[3] = (uint8_t)(number - 2);
        at = put(put(put(at + 4, 1ull << 50, 8), 1700000000000000u, 8), ~0ull, 8);
        at = put(put(put(put(at, 5, 8), 0, 8), 1700000000000000u, 8), 5, 8);
        memset(at, number == 3 ? 0 : 9, 16);
        at = put(put(put(at + 16, 0x1122334455667788u, 8), 1ull << 50, 8), 1700000000000000u, 8);
        if (number == 2) {
            memset(at, 3, 2 * STORED_GUARD_SIZE);
            at += 2 * STORED_GUARD_SIZE;
        } else {
            *at++ = (uint8_t)(number - 2); /* tags */
            memset(at, 4, 8u * (number - 2));
            at += 8u * (number - 2);
            memset(at, 0x5a, 48 + 20);
            at += number == 3 ? 48 + 20 : 48;
        }
    }
    *ret_size = (size_t)(at - ret_bytes);
    return 5;
}
