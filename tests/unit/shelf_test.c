/* shelf_test.c - hot records beside the tier: what is put there comes back whole, or not at all. */
#include <test.h>

#include <bytes.h>
#include <clock.h>
#include <fcntl.h>
#include <pthread.h>
#include <shelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct control control;
static freshet_buf buf;

static void page_make(void)
{
    const struct control_shape shape = {
        .name = "shelf", .tier_size = 1 << 20, .partitions = 2, .max_staleness_ms = 500};
    int dirfd = open(fresh_dir(), O_RDONLY | O_DIRECTORY);

    EXPECT(dirfd >= 0);
    EXPECT_EQ(control_create(&control, dirfd, &shape), FRESHET_OK);
    close(dirfd);
}

static void page_drop(void)
{
    freshet_buf_free(&buf);
    control_close(&control);
}

static struct key key_named(const char *name)
{
    struct key key;

    key_make(&key, &control.space, name, strlen(name));
    return key;
}

static struct record record_of(const struct key *key, size_t value_size)
{
    return (struct record){.kind = RECORD_VALUE,
                           .epoch = 1,
                           .as_of = 2,
                           .born = 3,
                           .version = 4,
                           .writer = 5,
                           .source_version = 6,
                           .expires_ns = 7,
                           .key_size = key->size,
                           .value_size = value_size};
}

static void put(const char *name, const char *value)
{
    struct key key = key_named(name);
    struct record record = record_of(&key, strlen(value));

    shelf_put(&control, &key, &record, value);
}

static bool has(const char *name, const char *value)
{
    struct key key = key_named(name);
    struct record record;

    return shelf_read(&control, &key, &record, &buf) && buf.size == strlen(value) &&
           memcmp(buf.data, value, buf.size) == 0;
}

/* The set's words: tags, then slots of 32 words (sequence, mark, hash, ..., sizes at 11). */
static _Atomic uint64_t *set_of(const char *name)
{
    struct key key = key_named(name);

    return (_Atomic uint64_t *)(uintptr_t)shelf_place(&control, &key);
}

static _Atomic uint64_t *slot_of(const char *name)
{
    _Atomic uint64_t *set = set_of(name);
    struct key key = key_named(name);
    unsigned way = 0;

    while (way < SHELF_WAYS && set[way] != bytes_get64(key.hash + 8))
        way++;
    EXPECT(way < SHELF_WAYS);
    return set + SHELF_WAYS + (size_t)32 * way;
}

TEST(what_was_put_comes_back_with_all_its_fields)
{
    struct record back;
    struct key key;

    page_make();
    for (size_t tags = 0; tags <= 3; tags++)
        for (size_t size = 0; size + 8 * tags + 8 <= SHELF_PAYLOAD; size += 5) {
            char value[SHELF_PAYLOAD];
            struct record record;
            size_t words = tags + 1 + (size + 7) / 8;

            key = key_named("a key");
            record = record_of(&key, size);
            record.tag_count = (uint32_t)tags;
            for (size_t i = 0; i < tags; i++)
                record.tags[i] = 100 + i;
            for (size_t i = 0; i < size; i++)
                value[i] = (char)(i + size);
            shelf_put(&control, &key, &record, value);
            if (words * 8 > SHELF_PAYLOAD)
                continue;
            memset(&back, 0xff, sizeof back);
            EXPECT(shelf_read(&control, &key, &back, &buf));
            EXPECT(back.kind == RECORD_VALUE && back.epoch == 1 && back.as_of == 2 && back.born == 3);
            EXPECT(back.version == 4 && back.writer == 5 && back.source_version == 6 && back.expires_ns == 7);
            EXPECT(back.key_size == 5 && back.value_size == size && back.tag_count == tags);
            for (size_t i = 0; i < tags; i++)
                EXPECT_EQ(back.tags[i], 100 + i);
            EXPECT(buf.size == size && memcmp(buf.data, value, size) == 0);
        }
    page_drop();
}

TEST(an_absence_is_put_too)
{
    struct record record, back;
    struct key key;

    page_make();
    key = key_named("nothing");
    record = record_of(&key, 0);
    record.kind = RECORD_ABSENT;
    shelf_put(&control, &key, &record, NULL);
    EXPECT(shelf_read(&control, &key, &back, &buf));
    EXPECT(back.kind == RECORD_ABSENT && buf.size == 0);
    page_drop();
}

TEST(what_is_too_big_stays_in_the_tier)
{
    char big[SHELF_PAYLOAD + 200];

    page_make();
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    put("k", big);
    EXPECT(!has("k", big));
    big[SHELF_PAYLOAD - 8 + 1] = '\0'; /* a byte more than fits beside the key */
    put("k", big);
    EXPECT(!has("k", big));
    big[SHELF_PAYLOAD - 8] = '\0';
    put("k", big);
    EXPECT(has("k", big));
    put(big, "v"); /* a key of this size, and no room for the value */
    EXPECT(has(big, "v"));
    page_drop();
}

TEST(a_newer_copy_takes_the_older_ones_place)
{
    page_make();
    put("k", "old");
    put("k", "new");
    EXPECT(has("k", "new"));
    {
        struct key key = key_named("k");

        shelf_drop(&control, &key);
    }
    EXPECT(!has("k", "new") && !has("k", "old"));
    put("k", "again");
    EXPECT(has("k", "again"));
    page_drop();
}

TEST(what_is_read_outlives_what_is_not)
{
    char name[32];

    page_make();
    put("hot", "!");
    for (int i = 0; i < 4000; i++) {
        snprintf(name, sizeof name, "cold %d", i);
        put(name, "?");
        EXPECT(has("hot", "!"));
    }
    page_drop();
}

TEST(another_key_of_the_same_hash_is_not_mistaken)
{
    struct key key, other;
    struct record back;

    page_make();
    put("mine", "value");
    key = key_named("mine");
    other = key;
    other.data = "thin";
    EXPECT(!shelf_read(&control, &other, &back, &buf));
    other.data = "min";
    other.size = 3;
    EXPECT(!shelf_read(&control, &other, &back, &buf));
    EXPECT(shelf_read(&control, &key, &back, &buf));
    page_drop();
}

TEST(a_slot_whose_writer_died_is_passed_over_and_its_key_finds_another)
{
    _Atomic uint64_t *slot;

    page_make();
    put("k", "value");
    slot = slot_of("k");
    slot[0] |= 1;
    EXPECT(!has("k", "value"));
    put("k", "elsewhere");
    EXPECT(has("k", "elsewhere"));
    for (int i = 0; i < 4000; i++) { /* all slots of all sets, but that one, go on */
        char name[32];

        snprintf(name, sizeof name, "other %d", i);
        put(name, name);
    }
    EXPECT(slot[0] & 1);
    page_drop();
}

/* Killed before it had written its tag, or just after it had taken one away. */
TEST(a_slot_without_a_tag_whose_writer_died_closes_nothing)
{
    _Atomic uint64_t *set;
    unsigned there = 0, tried = 0;

    page_make();
    for (unsigned sets = 0; sets < control.shelf_sets; sets++)
        ((_Atomic uint64_t *)control.shelf)[sets * SHELF_SET_SIZE / 8 + SHELF_WAYS] = 1; /* way 0 of each */
    for (int i = 0; i < 200; i++) {
        char name[32];

        snprintf(name, sizeof name, "key %d", i);
        put(name, name);
        set = set_of(name);
        EXPECT(set[SHELF_WAYS] == 1 && set[0] == 0);
        tried++;
        there += has(name, name);
    }
    EXPECT_EQ(there, tried);
    page_drop();
}

TEST(a_stray_store_into_the_page_costs_a_copy_and_spoils_no_value)
{
    page_make();
    for (unsigned at = 2; at < 12 + 2; at++) { /* from the hash on, every word of it: key and value have one each */
        _Atomic uint64_t *slot;

        put("k", "value");
        slot = slot_of("k");
        for (unsigned bit = 0; bit < 64; bit++) {
            slot[at] ^= UINT64_C(1) << bit;
            EXPECT(!has("k", "value"));
            slot[at] ^= UINT64_C(1) << bit;
        }
        EXPECT(has("k", "value"));
    }
    page_drop();
}

TEST(who_is_slow_to_put_an_older_record_does_not_hide_the_newer)
{
    struct record older, newer;
    struct key key;

    page_make();
    key = key_named("k");
    older = newer = record_of(&key, 3);
    newer.as_of = older.as_of + 1;
    shelf_put(&control, &key, &newer, "new");
    shelf_put(&control, &key, &older, "old");
    EXPECT(has("k", "new"));
    older.epoch++; /* of another history: nobody knows which is newer, and the judge will tell */
    shelf_put(&control, &key, &older, "old");
    EXPECT(has("k", "old"));
    page_drop();
}

TEST(sizes_that_somebody_spoilt_are_not_believed)
{
    uint64_t seed = 5;
    _Atomic uint64_t *slot;

    page_make();
    for (int i = 0; i < 20000; i++) {
        put("k", "value");
        slot = slot_of("k");
        slot[11] = i < 64 ? UINT64_C(1) << i : test_random(&seed) >> test_random(&seed) % 64;
        if (i % 2)
            slot[11] = (slot[11] & ~UINT64_C(0xff0000)) | 1 << 16; /* of the right key size */
        (void)has("k", "value"); /* the sanitizers look on */
    }
    page_drop();
}

/* ---- many at once ---- */

static _Atomic bool over;

/* A value says in each of its words who wrote it; a mixture would show. */
static void *write_on(void *arg)
{
    uint64_t seed = (uintptr_t)arg;
    char name[2] = "a";

    while (!over) {
        uint64_t value[10];
        struct key key;
        struct record record;

        name[0] = (char)('a' + test_random(&seed) % 4);
        key = key_named(name);
        record = record_of(&key, 8 * (1 + test_random(&seed) % 10));
        record.version = test_random(&seed);
        record.writer = record.version ^ (uint8_t)name[0];
        for (size_t i = 0; i < 10; i++)
            value[i] = record.version + i;
        shelf_put(&control, &key, &record, value);
        if (test_random(&seed) % 64 == 0)
            shelf_drop(&control, &key);
    }
    return NULL;
}

TEST(a_reader_gets_a_whole_copy_or_none_while_others_write)
{
    pthread_t threads[2];
    uint64_t got = 0;

    page_make();
    over = false;
    for (size_t i = 0; i < 2; i++)
        EXPECT_EQ(pthread_create(&threads[i], NULL, write_on, (void *)(i + 1)), 0);
    for (int64_t end = clock_boot_ns() + 300 * CLOCK_NS_PER_MS; clock_boot_ns() < end || got == 0;)
        for (char name[2] = "a"; name[0] < 'e'; name[0]++) {
            struct key key = key_named(name);
            struct record record;
            uint64_t value[10];

            if (!shelf_read(&control, &key, &record, &buf))
                continue;
            got++;
            EXPECT_EQ(record.writer, record.version ^ (uint8_t)name[0]);
            EXPECT(buf.size == record.value_size && buf.size <= sizeof value);
            memcpy(value, buf.data, buf.size);
            for (size_t i = 0; i < buf.size / 8; i++)
                EXPECT_EQ(value[i], record.version + i);
        }
    over = true;
    for (size_t i = 0; i < 2; i++)
        EXPECT_EQ(pthread_join(threads[i], NULL), 0);
    page_drop();
}
