/* record_fuzz.c - a record's head in the tier: any process of this user may have written it. */
#include "fuzz.h"

#include <record.h>
#include <string.h>

#define LIMIT 100000u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    uint8_t again[RECORD_HEAD_SIZE];
    struct record record, twice;

    if (!record_decode(&record, bytes, size, LIMIT))
        return 0;
    FUZZ_EXPECT(size >= RECORD_HEAD_SIZE);
    FUZZ_EXPECT(record.kind == RECORD_VALUE || record.kind == RECORD_ABSENT);
    FUZZ_EXPECT(record.key_size >= 1 && record.key_size + record.value_size <= LIMIT);
    FUZZ_EXPECT(record.kind == RECORD_VALUE || record.value_size == 0);
    record_encode(&record, again);
    FUZZ_EXPECT(record_decode(&twice, again, sizeof again, LIMIT));
    FUZZ_EXPECT(twice.as_of == record.as_of && twice.born == record.born && twice.epoch == record.epoch &&
                twice.value_size == record.value_size && twice.key_size == record.key_size &&
                twice.expires_ns == record.expires_ns && twice.kind == record.kind && twice.writer == record.writer &&
                twice.version == record.version && twice.source_version == record.source_version);
    return 0;
}

unsigned fuzz_seed(unsigned number, uint8_t *ret_bytes, size_t *ret_size)
{
    struct record record = {.kind = number % 2 ? RECORD_ABSENT : RECORD_VALUE,
                            .epoch = number * 77ull,
                            .as_of = 1ull << 50,
                            .born = 1ull << 49,
                            .version = 1700000000000000u,
                            .writer = ~0ull,
                            .source_version = number,
                            .expires_ns = number == 2 ? RECORD_NEVER : 1000000000,
                            .key_size = number == 3 ? 65536 : 5,
                            .value_size = number % 2 ? 0 : 1000};

    memset(ret_bytes, 'k', RECORD_HEAD_SIZE + 64);
    record_encode(&record, ret_bytes);
    *ret_size = RECORD_HEAD_SIZE + (number % 2 ? 0 : 64);
    return 4;
}
