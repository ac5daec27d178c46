/* record_test.c - a record's head: what goes in comes out, and nothing else is taken for one. */
#include <bytes.h>
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

static const struct record_base no_base;

#define STEP_NS (1 << 20) /* an expiry may come back so much earlier, less one */

/* All as it was, but for an expiry that may be a little earlier. */
static bool same_but_earlier(const struct record *back, const struct record *record)
{
    struct record later = *back;

    if (back->expires_ns > record->expires_ns || record->expires_ns - (uint64_t)back->expires_ns >= STEP_NS)
        return false;
    later.expires_ns = record->expires_ns;
    return same(&later, record);
}

static uint32_t decode_from(struct record *ret_record, const struct record_base *base, const uint8_t *bytes,
                            size_t size, uint64_t limit)
{
    uint8_t base_bytes[RECORD_BASE_SIZE];

    record_base_encode(base, base_bytes);
    return record_decode(ret_record, base_bytes, bytes, size, limit);
}

/* Does this record, written down as of a base, come back? */
static bool comes_back_from(const struct record *record, const struct record_base *base, uint64_t limit)
{
    uint8_t bytes[RECORD_HEAD_MOST + 8];
    struct record back = {0};
    uint32_t size;

    memset(bytes, 0xee, sizeof bytes);
    size = record_encode(record, base, bytes);
    EXPECT(size >= RECORD_HEAD_LEAST && size <= RECORD_HEAD_MOST);
    for (size_t i = size; i < sizeof bytes; i++)
        EXPECT_EQ(bytes[i], 0xee);
    if (decode_from(&back, base, bytes, size, limit) == 0)
        return false;
    EXPECT(same_but_earlier(&back, record));
    EXPECT_EQ(decode_from(&back, base, bytes, sizeof bytes, limit), size); /* whatever stands behind it */
    EXPECT_EQ(decode_from(&back, base, bytes, size - 1, limit), 0);
    return true;
}

static bool comes_back(struct record record, uint64_t limit)
{
    const struct record_base own = record_base_of(&record);

    EXPECT_EQ(comes_back_from(&record, &own, limit), comes_back_from(&record, &no_base, limit));
    return comes_back_from(&record, &own, limit);
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

/* ---- how the numbers are written ---- */

/* A number, with the size of the head that it shall make when all else is the base's. */
struct edge {
    uint64_t off;
    uint32_t size;
};

static const struct record_base edge_base = {
    .epoch = 5, .as_of = UINT64_C(1) << 50, .version = UINT64_C(1) << 51, .writer = 7, .expires_ns = INT64_C(1) << 60};

static struct record edge_record(void)
{
    return (struct record){.kind = RECORD_VALUE, .epoch = edge_base.epoch, .as_of = edge_base.as_of,
                           .born = edge_base.as_of, .version = edge_base.version, .writer = edge_base.writer,
                           .expires_ns = RECORD_NEVER, .key_size = 1, .value_size = 1};
}

static void expect_size(const struct record *record, uint32_t size)
{
    uint8_t bytes[RECORD_HEAD_MOST];

    EXPECT_EQ(record_encode(record, &edge_base, bytes), size);
    EXPECT(comes_back_from(record, &edge_base, LIMIT));
}

TEST(numbers_near_the_bases_are_short_and_all_others_whole)
{
    static const struct edge near[] = {
        {0, 20}, {1, 20}, {-UINT64_C(1), 20}, {INT32_MAX, 20}, {(uint64_t)INT32_MAX + 1, 24},
        {(uint64_t)INT32_MIN, 20}, {(uint64_t)INT32_MIN - 1, 24}, {UINT64_C(1) << 63, 24}};
    struct record record;

    for (size_t i = 0; i < sizeof near / sizeof *near; i++) {
        record = edge_record();
        record.as_of += near[i].off;
        record.born = record.as_of;
        expect_size(&record, near[i].size);
        record = edge_record();
        record.version += near[i].off;
        expect_size(&record, near[i].size);
    }
    record = edge_record();
    record.writer++;
    expect_size(&record, 28);
    record = edge_record();
    record.epoch = 0;
    expect_size(&record, 28);
    record = edge_record();
    record.source_version = 1;
    expect_size(&record, 28);
}

TEST(a_birth_is_as_short_as_it_lies_near_below_the_as_of)
{
    static const struct edge below[] = {{0, 20}, {1, 24}, {UINT32_MAX, 24}, {UINT64_C(1) << 32, 28},
                                        {-UINT64_C(1), 28} /* above it, which nobody writes */};

    for (size_t i = 0; i < sizeof below / sizeof *below; i++) {
        struct record record = edge_record();

        record.born = record.as_of - below[i].off;
        expect_size(&record, below[i].size);
    }
}

TEST(an_expiry_is_never_later_than_it_was_and_hardly_earlier)
{
    static const int64_t offs[] = {0, 1, STEP_NS - 1, STEP_NS, -1, -STEP_NS, -STEP_NS - 1, 12345678901234};
    struct record record = edge_record(), back;
    uint8_t bytes[RECORD_HEAD_MOST];

    for (size_t i = 0; i < sizeof offs / sizeof *offs; i++) {
        record.expires_ns = edge_base.expires_ns + offs[i];
        expect_size(&record, 24);
        /* once it was rounded it stays as it is */
        EXPECT(record_encode(&record, &edge_base, bytes) && decode_from(&back, &edge_base, bytes, 24, LIMIT));
        EXPECT_EQ(back.expires_ns, edge_base.expires_ns + (offs[i] & ~(int64_t)(STEP_NS - 1)));
        record = back;
        EXPECT(record_encode(&record, &edge_base, bytes) && decode_from(&back, &edge_base, bytes, 24, LIMIT));
        EXPECT_EQ(back.expires_ns, record.expires_ns);
    }
    record.expires_ns = edge_base.expires_ns + ((int64_t)INT32_MAX + 1) * STEP_NS - 1; /* the last in 32 bits */
    expect_size(&record, 24);
    record.expires_ns++;
    expect_size(&record, 28);
    record.expires_ns = edge_base.expires_ns + (int64_t)INT32_MIN * STEP_NS;
    expect_size(&record, 24);
    record.expires_ns--;
    expect_size(&record, 28);
    record.expires_ns = RECORD_NEVER;
    expect_size(&record, 20);
    record.expires_ns = RECORD_NEVER - 1;
    expect_size(&record, 28);
    record.expires_ns = 1;
    expect_size(&record, 28);
    record.expires_ns = 0;
    expect_size(&record, 28);
    record.expires_ns = INT64_MIN;
    expect_size(&record, 28);
}

TEST(an_expiry_is_rounded_once_from_whatever_base)
{
    uint64_t seed = 5;

    for (int round = 0; round < 100000; round++) {
        const struct record_base one = {.expires_ns = (int64_t)(test_random(&seed) >> 14)};
        const struct record_base two = {.expires_ns = round % 4 ? (int64_t)(test_random(&seed) >> 14) : RECORD_NEVER};
        struct record record = edge_record(), back, again;
        uint8_t bytes[RECORD_HEAD_MOST];

        record.expires_ns = one.expires_ns + (int64_t)(test_random(&seed) >> 34);
        EXPECT(decode_from(&back, &one, bytes, record_encode(&record, &one, bytes), LIMIT));
        EXPECT(decode_from(&again, &two, bytes, record_encode(&back, &two, bytes), LIMIT));
        EXPECT_EQ(again.expires_ns, back.expires_ns);
        EXPECT(record_replaces(&again, &back, back.epoch)); /* a copy of it takes its place */
    }
}

/* A number from everywhere, mostly from where the widths change. */
static uint64_t odd_number(uint64_t *seed, uint64_t near)
{
    static const uint64_t offs[] = {0, 1, INT32_MAX, (uint64_t)INT32_MAX + 1, UINT32_MAX, UINT64_C(1) << 32,
                                    UINT64_C(1) << 63, INT64_MAX, UINT64_MAX};
    uint64_t draw = test_random(seed), off = offs[draw % (sizeof offs / sizeof *offs)] + (draw >> 8 & 3) - 1;

    switch (draw >> 16 & 7) {
    case 0: return draw >> (draw >> 32 & 63);
    case 1: return off;
    case 2: return near;
    case 3: return near - off;
    default: return near + off;
    }
}

TEST(any_record_comes_back_from_any_base)
{
    uint64_t seed = 11;

    test_one_thread();
    for (int round = 0; round < (test_long_runs() ? 20000000 : 400000); round++) {
        struct record_base base;
        struct record record = {0};

        base.epoch = odd_number(&seed, 1);
        base.as_of = odd_number(&seed, UINT64_C(1) << 50);
        base.version = odd_number(&seed, UINT64_C(1) << 50);
        base.writer = odd_number(&seed, 1);
        base.expires_ns = (int64_t)odd_number(&seed, INT64_C(1) << 50);
        record.kind = round % 3 ? RECORD_VALUE : RECORD_ABSENT;
        record.epoch = odd_number(&seed, base.epoch);
        record.as_of = odd_number(&seed, base.as_of);
        record.born = odd_number(&seed, record.as_of);
        record.version = odd_number(&seed, base.version);
        record.writer = odd_number(&seed, base.writer);
        record.source_version = odd_number(&seed, 0);
        record.expires_ns = (int64_t)odd_number(&seed, (uint64_t)base.expires_ns);
        record.key_size = 1 + (uint32_t)(test_random(&seed) % FRESHET_KEY_MAX);
        record.value_size = round % 3 ? test_random(&seed) >> 33 >> round % 31 : 0;
        record.tag_count = round % 5 ? 0 : (uint32_t)(test_random(&seed) % (RECORD_TAGS_MAX + 1));
        for (uint32_t i = 0; i < record.tag_count; i++)
            record.tags[i] = test_random(&seed);
        EXPECT(comes_back_from(&record, &base, UINT64_MAX));
    }
}

/* ---- what is none ---- */

/* Every bit of this head, flipped. */
static void expect_checked(const struct record *record, const struct record_base *base)
{
    uint8_t bytes[RECORD_HEAD_MOST];
    struct record_base other;
    struct record back;
    uint32_t size = record_encode(record, base, bytes);

    for (unsigned bit = 0; bit < 8 * size; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        EXPECT(!decode_from(&back, base, bytes, sizeof bytes, LIMIT));
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    EXPECT(decode_from(&back, base, bytes, size, LIMIT));
    for (unsigned bit = 0; bit < 8 * sizeof other; bit++) { /* of the base, where the head leans on it */
        other = *base;
        ((uint8_t *)&other)[bit / 8] ^= (uint8_t)(1u << bit % 8);
        EXPECT(!decode_from(&back, &other, bytes, size, LIMIT) || same(&back, record));
    }
}

TEST(every_single_bit_is_checked)
{
    struct record_base own = record_base_of(&sample);
    struct record record = edge_record();

    expect_checked(&sample, &no_base);
    expect_checked(&sample, &own);
    expect_checked(&record, &edge_base);
    record.expires_ns = edge_base.expires_ns - 5 * STEP_NS;
    record.born -= 12345;
    expect_checked(&record, &edge_base);
}

TEST(tags_are_a_part_of_the_head)
{
    uint8_t bytes[RECORD_HEAD_MOST];
    struct record record = sample, back;

    for (record.tag_count = 0; record.tag_count <= RECORD_TAGS_MAX; record.tag_count++) {
        uint32_t size;

        for (uint32_t i = 0; i < record.tag_count; i++)
            record.tags[i] = 0x0123456789abcdef * (i + 1);
        EXPECT(comes_back(record, LIMIT));
        size = record_encode(&record, &no_base, bytes);
        for (uint32_t part = 0; part < size; part++)
            EXPECT(!decode_from(&back, &no_base, bytes, part, LIMIT));
        expect_checked(&record, &no_base);
    }
    for (record.tag_count = RECORD_TAGS_MAX + 1; record.tag_count < 32; record.tag_count++) {
        uint8_t long_bytes[RECORD_HEAD_MOST + 16 * 8] = {0};

        bytes_put64(long_bytes, RECORD_VALUE | record.tag_count << 2 | 1 << 7 | 1 << 24);
        EXPECT(!decode_from(&back, &no_base, long_bytes, sizeof long_bytes, LIMIT));
    }
}

TEST(noise_is_no_head)
{
    uint64_t seed = 7;
    uint8_t bytes[RECORD_HEAD_MOST];
    struct record back;
    uint32_t size;

    memset(bytes, 0, sizeof bytes);
    EXPECT(!decode_from(&back, &no_base, bytes, sizeof bytes, UINT64_MAX));
    memset(bytes, 0xff, sizeof bytes);
    EXPECT(!decode_from(&back, &no_base, bytes, sizeof bytes, UINT64_MAX));
    for (int round = 0; round < 20000; round++) {
        size = record_encode(&sample, &no_base, bytes);
        for (unsigned i = 8; i < size; i++) /* the front stays: the check must tell */
            bytes[i] = (uint8_t)test_random(&seed);
        EXPECT(!decode_from(&back, &no_base, bytes, sizeof bytes, UINT64_MAX));
    }
}

TEST(sizes_that_cannot_be_are_refused)
{
    struct record record = sample;

    EXPECT(comes_back(record, 12 + 345));
    EXPECT(!comes_back(record, 12 + 344));
    record.value_size = INT32_MAX; /* the most that the head can say; with the key it is more */
    EXPECT(comes_back(record, UINT64_MAX));
    EXPECT(!comes_back(record, LIMIT));
    EXPECT(!comes_back(record, INT32_MAX));
    record = sample;
    record.key_size = 0;
    EXPECT(!comes_back(record, LIMIT));
    record.key_size = FRESHET_KEY_MAX;
    EXPECT(comes_back(record, LIMIT));
    record.key_size = FRESHET_KEY_MAX + 1;
    EXPECT(!comes_back(record, UINT64_MAX));
}

TEST(kinds_that_cannot_be_are_refused)
{
    struct record record = sample;

    record.kind = RECORD_ABSENT; /* and yet a value */
    EXPECT(!comes_back(record, LIMIT));
    for (unsigned kind = 0; kind < 4; kind++) {
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
