/* frame_test.c - a frame's body has one spelling, the page's. */
#include <frame.h>
#include <remote.h>
#include <vectors.h>

static uint8_t page_hashes[2][16];

/* The page's frame, from its meaning. */
static struct frame page_frame(void)
{
    struct frame frame = {.kind = FRAME_INVALIDATE,
                          .version = 1750000000000000,
                          .writer = 0x1122334455667788,
                          .counter = 7,
                          .source_version = 42,
                          .count = 2,
                          .hashes = (const uint8_t(*)[16])page_hashes};

    remote_hash("orders", "orders", 6, frame.cache);
    remote_hash("orders", "customer:1", 10, page_hashes[0]);
    remote_hash("orders", "customer:2", 10, page_hashes[1]);
    return frame;
}

TEST(names_hash_as_the_page_says)
{
    struct vector cache = vector_of("cache hash"), key = vector_of("key hash"),
                  partition = vector_of("partition of 16");
    uint8_t hash[16];

    remote_hash("orders", "orders", 6, hash);
    EXPECT(vector_is(&cache, hash, 16));
    remote_hash("orders", "customer:1", 10, hash);
    EXPECT(vector_is(&key, hash, 16));
    EXPECT_EQ(remote_partition(hash, 16), partition.bytes[1]);
    EXPECT_EQ(remote_partition(hash, 1), 0);
}

TEST(a_frame_is_written_as_the_page_says)
{
    struct vector body = vector_of("body"), clear = vector_of("clear");
    struct frame frame = page_frame();
    uint8_t bytes[256];

    EXPECT_EQ(frame_encode(&frame, bytes, sizeof bytes), body.size);
    EXPECT(vector_is(&body, bytes, body.size));
    frame.kind = FRAME_CLEAR;
    frame.partition = 2;
    frame.version++;
    frame.counter++;
    frame.source_version = 0;
    frame.count = 0;
    frame.hashes = NULL;
    EXPECT_EQ(frame_encode(&frame, bytes, sizeof bytes), FRAME_BODY_HEAD);
    frame.flags = 2;
    EXPECT_EQ(frame_encode(&frame, bytes + 128, 128), 0);
    frame.flags = FRAME_LOOK;
    EXPECT_EQ(frame_encode(&frame, bytes + 128, 128), FRAME_BODY_HEAD);
    EXPECT(frame_decode(&frame, bytes + 128, FRAME_BODY_HEAD) && frame.flags == FRAME_LOOK);
    EXPECT(memcmp(clear.bytes + FRAME_SIGNED_HEAD, bytes, FRAME_BODY_HEAD) == 0);
}

TEST(a_frame_is_read_as_the_page_says)
{
    struct vector body = vector_of("body"), clear = vector_of("clear");
    struct frame want = page_frame(), frame;

    EXPECT(frame_decode(&frame, body.bytes, body.size));
    EXPECT_EQ(frame.kind, want.kind);
    EXPECT(memcmp(frame.cache, want.cache, 16) == 0);
    EXPECT_EQ(frame.partition, 0);
    EXPECT_EQ(frame.version, want.version);
    EXPECT_EQ(frame.writer, want.writer);
    EXPECT_EQ(frame.counter, 7);
    EXPECT_EQ(frame.source_version, 42);
    EXPECT_EQ(frame.count, 2);
    EXPECT(memcmp(frame.hashes, page_hashes, 32) == 0);
    EXPECT(frame_decode(&frame, clear.bytes + FRAME_SIGNED_HEAD, clear.size - FRAME_SIGNED_HEAD));
    EXPECT(frame.kind == FRAME_CLEAR && frame.partition == 2 && frame.count == 0 && frame.hashes == NULL);
}

TEST(counts_hold_at_both_ends)
{
    static uint8_t hashes[FRAME_KEYS_MAX + 1][16], body[FRAME_BODY_MAX + 16];
    struct frame frame = page_frame(), got;

    frame.hashes = (const uint8_t(*)[16])hashes;
    frame.count = FRAME_KEYS_MAX;
    EXPECT_EQ(frame_encode(&frame, body, sizeof body), FRAME_BODY_MAX);
    EXPECT_EQ(frame_encode(&frame, body, FRAME_BODY_MAX - 1), 0);
    EXPECT(frame_decode(&got, body, FRAME_BODY_MAX) && got.count == FRAME_KEYS_MAX);
    frame.count = FRAME_KEYS_MAX + 1;
    EXPECT_EQ(frame_encode(&frame, body, sizeof body), 0);
    body[53] = 1; /* 1,025 */
    EXPECT(!frame_decode(&got, body, FRAME_BODY_MAX + 16));
    frame.count = 0;
    EXPECT_EQ(frame_encode(&frame, body, sizeof body), 0);
    frame.kind = FRAME_CLEAR;
    EXPECT_EQ(frame_encode(&frame, body, sizeof body), FRAME_BODY_HEAD);
    frame.count = 1;
    EXPECT_EQ(frame_encode(&frame, body, sizeof body), 0);
    frame.kind = 0;
    EXPECT_EQ(frame_encode(&frame, body, sizeof body), 0);
    frame.kind = 5;
    EXPECT_EQ(frame_encode(&frame, body, sizeof body), 0);
}

TEST(a_garbled_frame_is_refused)
{
    struct vector body = vector_of("body");
    struct frame frame;
    static const struct {
        size_t at;
        uint8_t value;
    } spoils[] = {
        {0, 0}, {0, 2}, {1, 0}, {1, 5}, {1, FRAME_CLEAR}, {53, 0}, {53, 1}, {53, 3}, {52, 4}, {54, 1}, {55, 2},
    };

    for (size_t i = 0; i < sizeof spoils / sizeof *spoils; i++) {
        struct vector spoilt = body;

        spoilt.bytes[spoils[i].at] = spoils[i].value;
        EXPECT(!frame_decode(&frame, spoilt.bytes, spoilt.size));
    }
    for (size_t size = 0; size < body.size; size++)
        EXPECT(!frame_decode(&frame, body.bytes, size));
    EXPECT(!frame_decode(&frame, body.bytes, body.size + 1));
    EXPECT(!frame_decode(&frame, body.bytes, body.size + 16));
}

TEST(what_is_read_and_written_again_is_the_same)
{
    uint64_t state = 1;
    uint8_t body[FRAME_BODY_HEAD + 64], again[sizeof body];
    int good = 0;

    for (int round = 0; round < 20000; round++) {
        struct frame frame;
        size_t size = FRAME_BODY_HEAD + 16 * (test_random(&state) % 5);

        for (size_t i = 0; i < size; i++)
            body[i] = (uint8_t)test_random(&state);
        body[0] = 1;
        body[1] = (uint8_t)(test_random(&state) % 6);
        body[52] = body[54] = 0;
        body[55] = (uint8_t)(test_random(&state) % 2);
        body[53] = (uint8_t)(test_random(&state) % 5);
        if (!frame_decode(&frame, body, size))
            continue;
        good++;
        EXPECT_EQ(frame_encode(&frame, again, sizeof again), size);
        EXPECT(memcmp(body, again, size) == 0);
    }
    EXPECT(good > 500);
}

TEST(kinds_have_names)
{
    EXPECT(strcmp(frame_kind_name(FRAME_INVALIDATE), "invalidate") == 0);
    EXPECT(strcmp(frame_kind_name(FRAME_PUT), "put") == 0);
    EXPECT(strcmp(frame_kind_name(FRAME_CLEAR), "clear") == 0);
    EXPECT(strcmp(frame_kind_name(FRAME_TAGS), "tags") == 0);
    EXPECT(strcmp(frame_kind_name(9), "unknown") == 0);
}
