/* evict_test.c - who leaves, and when there is too much. */
#include <test.h>

#include <clock.h>
#include <evict.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static void page_make(struct control *control)
{
    const struct control_shape shape = {
        .name = "evict", .tier_size = 1 << 20, .partitions = 2, .max_staleness_ms = 500};
    int dirfd = open(fresh_dir(), O_RDONLY | O_DIRECTORY);

    EXPECT(dirfd >= 0);
    EXPECT_EQ(control_create(control, dirfd, &shape), FRESHET_OK);
    close(dirfd);
}

static struct record record_at(uint64_t as_of, uint64_t born)
{
    return (struct record){
        .kind = RECORD_VALUE, .as_of = as_of, .born = born, .expires_ns = RECORD_NEVER, .key_size = 1};
}

TEST(a_record_that_the_history_has_passed_is_void)
{
    struct control control;
    struct record record = record_at(100, 50);
    struct key key;
    int64_t now = clock_boot_ns();

    page_make(&control);
    key_make(&key, &control.space, "k", 1);
    EXPECT_EQ(evict_choose(&record, &key, &control, now), EVICT_KEEP);
    control_raise(control_fence(&control, key.partition, key.slot), 100);
    EXPECT_EQ(evict_choose(&record, &key, &control, now), EVICT_KEEP); /* at the fence is not below it */
    control_raise(control_fence(&control, key.partition, key.slot), 101);
    EXPECT_EQ(evict_choose(&record, &key, &control, now), EVICT_VOID);
    record.as_of = 200;
    control_raise(&control.parts[key.partition].floor, 200);
    EXPECT_EQ(evict_choose(&record, &key, &control, now), EVICT_KEEP);
    control_raise(&control.parts[key.partition].floor, 201);
    EXPECT_EQ(evict_choose(&record, &key, &control, now), EVICT_VOID);
    record.as_of = 300;
    control_raise(&control.parts[key.partition].clear, 50);
    EXPECT_EQ(evict_choose(&record, &key, &control, now), EVICT_KEEP);
    control_raise(&control.parts[key.partition].clear, 51);
    EXPECT_EQ(evict_choose(&record, &key, &control, now), EVICT_VOID);
    record.born = 51;
    EXPECT_EQ(evict_choose(&record, &key, &control, now), EVICT_KEEP);
    record.epoch = 7;
    EXPECT_EQ(evict_choose(&record, &key, &control, now), EVICT_VOID);
    control_close(&control);
}

TEST(a_record_whose_tag_changed_is_void)
{
    struct control control;
    struct record record = record_at(100, 50);
    struct key key;
    int64_t now = clock_boot_ns();

    page_make(&control);
    key_make(&key, &control.space, "k", 1);
    record.tag_count = 2;
    record.tags[0] = 1;
    record.tags[1] = 2;
    control_raise(control_tag_fence(&control, key.partition, 2), 50);
    EXPECT_EQ(evict_choose(&record, &key, &control, now), EVICT_KEEP);
    control_raise(control_tag_fence(&control, key.partition, 2), 51);
    EXPECT_EQ(evict_choose(&record, &key, &control, now), EVICT_VOID);
    record.tag_count = 1;
    EXPECT_EQ(evict_choose(&record, &key, &control, now), EVICT_KEEP);
    control_close(&control);
}

TEST(another_partitions_history_voids_nothing)
{
    struct control control;
    struct record record = record_at(1, 1);
    struct key key;

    page_make(&control);
    key_make(&key, &control.space, "k", 1);
    control_raise(&control.parts[1 - key.partition].floor, 1000);
    control_raise(&control.parts[1 - key.partition].clear, 1000);
    EXPECT_EQ(evict_choose(&record, &key, &control, clock_boot_ns()), EVICT_KEEP);
    control_close(&control);
}

TEST(an_expired_record_leaves_at_its_time_and_not_before)
{
    struct control control;
    struct record record = record_at(1, 1);
    struct key key;

    page_make(&control);
    key_make(&key, &control.space, "k", 1);
    record.expires_ns = 1000;
    EXPECT_EQ(evict_choose(&record, &key, &control, 999), EVICT_KEEP);
    EXPECT_EQ(evict_choose(&record, &key, &control, 1000), EVICT_EXPIRED);
    EXPECT_EQ(evict_choose(&record, &key, &control, 1000), EVICT_EXPIRED);
    record.expires_ns = RECORD_NEVER;
    EXPECT_EQ(evict_choose(&record, &key, &control, INT64_MAX - 1), EVICT_KEEP);
    control_close(&control);
}

TEST(damaged_rows_are_void)
{
    struct control control;
    struct record record = {0};
    struct key key;

    page_make(&control);
    key_make(&key, &control.space, "k", 1);
    EXPECT_EQ(evict_choose(&record, &key, &control, 1), EVICT_VOID);
    control_close(&control);
}

TEST(one_page_in_24_is_left_free_and_64_more)
{
    EXPECT_EQ(evict_excess(2236, 2400), 0);
    EXPECT_EQ(evict_excess(2237, 2400), 1);
    EXPECT_EQ(evict_excess(2400, 2400), 164);
    EXPECT_EQ(evict_excess(182, 256), 0);
    EXPECT_EQ(evict_excess(183, 256), 1);
    EXPECT_EQ(evict_excess(10, 32), 10);
    EXPECT_EQ(evict_excess(0, 0), 0);
}
