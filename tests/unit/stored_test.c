/* stored_test.c - head and record are read as the page says, and nothing else is taken for one. */
#include <stored.h>
#include <vectors.h>

TEST(a_head_is_read_as_the_page_says)
{
    struct vector bytes = vector_of("head");
    struct stored_head head;

    EXPECT(stored_head_decode(&head, bytes.bytes, bytes.size));
    EXPECT_EQ(head.epoch, 0xa1b2c3d4e5f60718);
    EXPECT(strcmp(head.replid, "0123456789abcdef0123456789abcdef01234567") == 0);
    EXPECT_EQ(head.position, 1750004294967297);
    EXPECT_EQ(head.clear, 1750004294967296);
    EXPECT_EQ(head.newest_tag, 0);
    EXPECT_EQ(head.max_staleness_ms, 500);
    EXPECT_EQ(head.partitions, 1);
    EXPECT_EQ(head.registry[15], 15);
}

TEST(a_garbled_head_is_no_head)
{
    struct vector bytes = vector_of("head");
    struct stored_head head = {.position = 7};
    static const struct {
        size_t at;
        uint8_t value;
    } spoils[] = {
        {0, 'f'},
        {1, 'R'},
        {2, 1},
        {2, 3},
        {12, 'g'},
        {51, 0},
        {52, 0x20} /* 2^61 */,
        {60, 1} /* clear above */,
        {68, 1} /* tag above */,
    };

    for (size_t i = 0; i < sizeof spoils / sizeof *spoils; i++) {
        struct vector spoilt = bytes;

        spoilt.bytes[spoils[i].at] = spoils[i].value;
        EXPECT(!stored_head_decode(&head, spoilt.bytes, spoilt.size));
    }
    for (size_t size = 0; size < bytes.size; size++)
        EXPECT(!stored_head_decode(&head, bytes.bytes, size));
    EXPECT(!stored_head_decode(&head, bytes.bytes, bytes.size + 1));
    EXPECT_EQ(head.position, 7); /* left alone */
}

TEST(a_record_is_read_as_the_page_says)
{
    struct vector bytes = vector_of("record"), sealed = vector_of("sealed"), tag = vector_of("tag hash"),
                  space = vector_of("namespace hash");
    struct stored_record record;

    EXPECT(stored_record_decode(&record, bytes.bytes, bytes.size));
    EXPECT_EQ(record.state, STORED_VALUE);
    EXPECT_EQ(record.born, 1750004294967297);
    EXPECT_EQ(record.version, 1750000000000000);
    EXPECT_EQ(record.writer, 0x1122334455667788);
    EXPECT_EQ(record.source_version, 42);
    EXPECT_EQ(record.expiry_us, 1750000060000000);
    EXPECT_EQ(record.changed_us, 1750000000000000);
    EXPECT_EQ(record.source_seen, 42);
    EXPECT_EQ(record.ticket_until_us, 0);
    EXPECT(vector_is(&sealed, record.sealed, record.sealed_size));
    EXPECT_EQ(record.tag_count, 2);
    EXPECT(memcmp(record.tags, tag.bytes, 8) == 0 && memcmp(record.tags + 8, space.bytes, 8) == 0);
}

TEST(ids_use_all_bits_and_numbers_do_not)
{
    struct vector bytes = vector_of("record");
    struct stored_record record;
    static const size_t ids[] = {12, 20, 28, 52, 76}, numbers[] = {4, 36, 44, 84, 92};

    for (size_t i = 0; i < 5; i++) {
        struct vector high = bytes;

        memset(high.bytes + ids[i], 0xff, 8);
        EXPECT(stored_record_decode(&record, high.bytes, high.size));
        high = bytes;
        memset(high.bytes + numbers[i], 0xff, 8);
        high.bytes[numbers[i]] = 0;
        high.bytes[numbers[i] + 1] = 0x1f; /* 2^53 - 1 */
        EXPECT(stored_record_decode(&record, high.bytes, high.size));
        high.bytes[numbers[i] + 1] = 0x20;
        EXPECT(!stored_record_decode(&record, high.bytes, high.size));
    }
}

TEST(states_have_the_bytes_that_belong_to_them)
{
    struct vector bytes = vector_of("record");
    const size_t least = STORED_RECORD_HEAD + 1 + 16 + 48;
    struct stored_record record;

    for (size_t size = 0; size < least; size++)
        EXPECT(!stored_record_decode(&record, bytes.bytes, size));
    EXPECT(stored_record_decode(&record, bytes.bytes, least) && record.sealed_size == 48 && record.tag_count == 2);
    bytes.bytes[3] = STORED_ABSENT;
    EXPECT(stored_record_decode(&record, bytes.bytes, least));
    EXPECT(!stored_record_decode(&record, bytes.bytes, least + 1));
    EXPECT(!stored_record_decode(&record, bytes.bytes, STORED_RECORD_HEAD));
    bytes.bytes[3] = 3;
    EXPECT(!stored_record_decode(&record, bytes.bytes, bytes.size));
    bytes.bytes[3] = STORED_VALUE;
    bytes.bytes[2] = 1;
    EXPECT(!stored_record_decode(&record, bytes.bytes, bytes.size));
}

TEST(tags_and_guards_are_counted)
{
    struct vector bytes = vector_of("record");
    struct stored_record record;

    for (unsigned count = 0; count < 256; count++) {
        bytes.bytes[STORED_RECORD_HEAD] = (uint8_t)count;
        bool fits = stored_record_decode(&record, bytes.bytes, STORED_RECORD_HEAD + 1 + 8 * (size_t)count + 48);

        EXPECT_EQ(fits, count <= STORED_TAGS_MAX);
        EXPECT(!fits || (record.tag_count == count && record.sealed_size == 48));
        EXPECT(!stored_record_decode(&record, bytes.bytes, STORED_RECORD_HEAD + 8 * (size_t)count + 48));
    }
    bytes.bytes[3] = STORED_TOMBSTONE;
    for (size_t rest = 0; rest < 24 * 66; rest++) {
        bool fits = stored_record_decode(&record, bytes.bytes, STORED_RECORD_HEAD + rest);

        EXPECT_EQ(fits, rest % STORED_GUARD_SIZE == 0 && rest <= STORED_GUARD_SIZE * STORED_GUARDS_MAX);
        EXPECT(!fits || (record.guard_count == rest / 24 && record.sealed_size == 0 && record.tag_count == 0));
    }
}
