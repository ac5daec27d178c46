/* record_fuzz.c - a record's head in the tier, and the base that it leans on: any process of this user may have written
 * them.  The first bytes are the base. */
#include "fuzz.h"

#include <bytes.h>
#include <record.h>
#include <string.h>

#define LIMIT 100000u
#define STEP_NS (1u << 20)

/* Written as of this base, it comes back; an expiry may be a little earlier. */
static void expect_again(const struct record *record, const struct record_base *base)
{
    uint8_t again[RECORD_HEAD_MOST], base_bytes[RECORD_BASE_SIZE];
    struct record twice;
    uint32_t size = record_encode(record, base, again);

    FUZZ_EXPECT(size >= RECORD_HEAD_LEAST && size <= RECORD_HEAD_MOST);
    record_base_encode(base, base_bytes);
    FUZZ_EXPECT(record_decode(&twice, base_bytes, again, size, LIMIT) == size);
    FUZZ_EXPECT(twice.as_of == record->as_of && twice.born == record->born && twice.epoch == record->epoch &&
                twice.value_size == record->value_size && twice.key_size == record->key_size &&
                twice.kind == record->kind && twice.writer == record->writer && twice.version == record->version &&
                twice.source_version == record->source_version && twice.tag_count == record->tag_count);
    FUZZ_EXPECT(memcmp(twice.tags, record->tags, record->tag_count * sizeof *record->tags) == 0);
    FUZZ_EXPECT(twice.expires_ns <= record->expires_ns &&
                (uint64_t)record->expires_ns - (uint64_t)twice.expires_ns < STEP_NS);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const struct record_base none = {0};
    struct record_base base, own;
    struct record record;
    uint32_t head;

    if (size < RECORD_BASE_SIZE)
        return 0;
    base = record_base_decode(bytes);
    head = record_decode(&record, bytes, bytes + RECORD_BASE_SIZE, size - RECORD_BASE_SIZE, LIMIT);
    if (head == 0)
        return 0;
    FUZZ_EXPECT(head >= RECORD_HEAD_LEAST && head <= RECORD_HEAD_MOST && head <= size - RECORD_BASE_SIZE);
    FUZZ_EXPECT(record.kind == RECORD_VALUE || record.kind == RECORD_ABSENT);
    FUZZ_EXPECT(record.key_size >= 1 && record.key_size + record.value_size <= LIMIT);
    FUZZ_EXPECT(record.kind == RECORD_VALUE || record.value_size == 0);
    FUZZ_EXPECT(record.tag_count <= RECORD_TAGS_MAX);
    own = record_base_of(&record);
    expect_again(&record, &base);
    expect_again(&record, &own);
    expect_again(&record, &none);
    return 0;
}

unsigned fuzz_seed(unsigned number, uint8_t *ret_bytes, size_t *ret_size)
{
    struct record record = {.kind = number % 2 ? RECORD_ABSENT : RECORD_VALUE,
                            .epoch = number * 77ull,
                            .as_of = 1ull << 50,
                            .born = number % 4 == 1 ? 1ull << 49 : (1ull << 50) - number,
                            .version = 1700000000000000u,
                            .writer = ~0ull,
                            .source_version = number,
                            .expires_ns = number == 2 ? RECORD_NEVER : 1000000000,
                            .key_size = number == 3 ? 65536 : 5,
                            .value_size = number % 2 ? 0 : 1000,
                            .tag_count = number > 4 ? number : 0};
    const struct record_base base = {77, (1ull << 50) + 5, 1700000000000000u, number, 5000000000};

    for (uint32_t i = 0; i < record.tag_count; i++)
        record.tags[i] = ~(uint64_t)i;
    bytes_put64(ret_bytes, base.epoch);
    bytes_put64(ret_bytes + 8, base.as_of);
    bytes_put64(ret_bytes + 16, base.version);
    bytes_put64(ret_bytes + 24, base.writer);
    bytes_put64(ret_bytes + 32, (uint64_t)base.expires_ns);
    *ret_size = RECORD_BASE_SIZE + record_encode(&record, &base, ret_bytes + RECORD_BASE_SIZE);
    return 8;
}
