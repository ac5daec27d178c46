/* record_test.c - a record's head: what goes in comes out, and nothing else is taken for one. */
#include <freshet.h>
#include <record.h>
#include <string.h>
#include <test.h>

#define LIMIT (65536u + 1000u)

static const struct record sample = {.kind = RECORD_VALUE,
                                     .epoch = 0x1122334455667788,
                                     .as_of = 9000000000000001,
                                     .born = 8999,
                                     .version = 1753000000123456,
                                     .writer = UINT64_MAX,
                                     .source_version = 0x8000000000000000,
                                     .expires_ns = RECORD_NEVER,
                                     .key_size = 12,
                                     .value_size = 345};

static bool same(const struct record *a, const struct record *b)
{
    return a->kind == b->kind && a->epoch == b->epoch && a->as_of == b->as_of && a->born == b->born &&
           a->version == b->version && a->writer == b->writer && a->source_version == b->source_version &&
           a->expires_ns == b->expires_ns && a->key_size == b->key_size && a->value_size == b->value_size &&
           a->tag_count == b->tag_count && memcmp(a->tags, b->tags, a->tag_count * sizeof *a->tags) == 0;
}

/* Does this record, written down, come back? */
static bool comes_back(struct record record, uint64_t limit)
{
    uint8_t bytes[RECORD_HEAD_MOST];
    struct record back = {0}, untouched = {0};

    record_encode(&record, bytes);
    if (!record_decode(&back, bytes, record_head_size(&record), limit)) {
        EXPECT(same(&back, &untouched));
        return false;
    }
    EXPECT(same(&back, &record));
    return true;
}

TEST(a_head_comes_back_as_it_was)
{
    struct record record = sample;

    EXPECT(comes_back(record, LIMIT));
    record.expires_ns = 0;
    EXPECT(comes_back(record, LIMIT));
    record.expires_ns = -1;
    EXPECT(comes_back(record, LIMIT));
    record.kind = RECORD_ABSENT;
    record.value_size = 0;
    EXPECT(comes_back(record, LIMIT));
}

TEST(every_single_bit_is_checked)
{
    uint8_t bytes[RECORD_HEAD_SIZE];
    struct record back;

    record_encode(&sample, bytes);
    for (unsigned bit = 0; bit < 8 * RECORD_HEAD_SIZE; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        EXPECT(!record_decode(&back, bytes, sizeof bytes, LIMIT));
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    EXPECT(record_decode(&back, bytes, sizeof bytes, LIMIT));
}

TEST(tags_are_a_part_of_the_head)
{
    uint8_t bytes[RECORD_HEAD_MOST];
    struct record record = sample, back;

    for (record.tag_count = 0; record.tag_count <= RECORD_TAGS_MAX; record.tag_count++) {
        for (uint32_t i = 0; i < record.tag_count; i++)
            record.tags[i] = 0x0123456789abcdef * (i + 1);
        EXPECT(comes_back(record, LIMIT));
        record_encode(&record, bytes);
        for (size_t size = 0; size < record_head_size(&record); size++)
            EXPECT(!record_decode(&back, bytes, size, LIMIT));
        for (unsigned bit = 0; bit < 8 * record_head_size(&record); bit++) {
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            EXPECT(!record_decode(&back, bytes, sizeof bytes, LIMIT));
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
    bytes[6] = RECORD_TAGS_MAX + 1;
    EXPECT(!record_decode(&back, bytes, sizeof bytes, LIMIT));
}

TEST(noise_is_no_head)
{
    uint64_t seed = 7;
    uint8_t bytes[RECORD_HEAD_SIZE];
    struct record back;

    memset(bytes, 0, sizeof bytes);
    EXPECT(!record_decode(&back, bytes, sizeof bytes, UINT64_MAX));
    for (int round = 0; round < 20000; round++) {
        record_encode(&sample, bytes); /* the magic stays: the check must tell */
        for (unsigned i = 4; i < RECORD_HEAD_SIZE; i++)
            bytes[i] = (uint8_t)test_random(&seed);
        EXPECT(!record_decode(&back, bytes, sizeof bytes, UINT64_MAX));
    }
}

TEST(a_short_head_is_none)
{
    uint8_t bytes[RECORD_HEAD_SIZE + 8];
    struct record back;

    record_encode(&sample, bytes);
    for (size_t size = 0; size < RECORD_HEAD_SIZE; size++)
        EXPECT(!record_decode(&back, bytes, size, LIMIT));
    EXPECT(record_decode(&back, bytes, RECORD_HEAD_SIZE, LIMIT));
    EXPECT(record_decode(&back, bytes, sizeof bytes, LIMIT));
}

TEST(sizes_that_cannot_be_are_refused)
{
    struct record record = sample;

    EXPECT(comes_back(record, 12 + 345));
    EXPECT(!comes_back(record, 12 + 344));
    record.value_size = UINT32_MAX; /* the most that the head can say; with the key it is more */
    EXPECT(!comes_back(record, LIMIT));
    EXPECT(!comes_back(record, UINT32_MAX));
    record = sample;
    record.key_size = 0;
    EXPECT(!comes_back(record, LIMIT));
    record.key_size = FRESHET_KEY_MAX;
    EXPECT(comes_back(record, LIMIT));
    record.key_size = FRESHET_KEY_MAX + 1;
    EXPECT(!comes_back(record, LIMIT));
}

TEST(kinds_that_cannot_be_are_refused)
{
    struct record record = sample;

    record.kind = RECORD_ABSENT; /* and yet a value */
    EXPECT(!comes_back(record, LIMIT));
    for (unsigned kind = 0; kind < 256; kind++) {
        record = sample;
        record.kind = (uint8_t)kind;
        record.value_size = 0;
        EXPECT(comes_back(record, LIMIT) == (kind == RECORD_VALUE || kind == RECORD_ABSENT));
    }
}

TEST(only_a_later_answer_of_this_epoch_replaces)
{
    struct record old = sample, next = sample;
    uint64_t epoch = sample.epoch;

    old.expires_ns = next.expires_ns = 1000;
    EXPECT(record_replaces(&next, &old, epoch)); /* the same answer */
    next.expires_ns = 999;
    EXPECT(!record_replaces(&next, &old, epoch));
    next.expires_ns = 1001;
    EXPECT(record_replaces(&next, &old, epoch));
    next.born = old.born - 1;
    EXPECT(!record_replaces(&next, &old, epoch));
    next.born = old.born + 1;
    next.expires_ns = 1;
    EXPECT(record_replaces(&next, &old, epoch));
    next.as_of = old.as_of - 1;
    EXPECT(!record_replaces(&next, &old, epoch));
    next.as_of = old.as_of + 1;
    next.born = 0;
    EXPECT(record_replaces(&next, &old, epoch));

    old.epoch = epoch + 1; /* what the page has left behind gives way, whatever its position */
    next.as_of = 0;
    EXPECT(record_replaces(&next, &old, epoch));
    next.epoch = epoch + 1; /* and never comes back */
    old.epoch = epoch;
    next.as_of = UINT64_MAX;
    EXPECT(!record_replaces(&next, &old, epoch));
    old.epoch = next.epoch = epoch + 1;
    EXPECT(!record_replaces(&next, &old, epoch));
}
