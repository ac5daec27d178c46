/* strong_test.c - what a strong write may conclude from the registry of hosts. */
#include <stdio.h>
#include <string.h>
#include <strong.h>
#include <test.h>

#define WRITER UINT64_C(0xfedc000000000001)

static enum strong_state judge(const char *value, uint32_t frames)
{
    struct strong_part part = {.epoch = 1, .position = 100, .counter = 7, .answered_ns = 1, .frames = frames};

    return strong_judge(value, strlen(value), &part, WRITER);
}

TEST(who_has_applied_it_is_not_waited_for)
{
    EXPECT(judge("100", 1) == STRONG_APPLIED && judge("101", 3) == STRONG_APPLIED);
    EXPECT(judge("99", 1) == STRONG_BEHIND && judge("0", 1) == STRONG_BEHIND);
    EXPECT(judge("100 3 ab 4", 1) == STRONG_APPLIED);
    EXPECT(judge("9007199254740991", 1) == STRONG_APPLIED);
}

TEST(a_frame_ahead_of_the_log_counts_for_itself_alone)
{
    EXPECT(judge("98 100 fedc000000000001 7", 1) == STRONG_APPLIED);
    EXPECT(judge("98 105 fedc000000000001 7", 1) == STRONG_APPLIED);
    EXPECT(judge("98 99 fedc000000000001 7", 1) == STRONG_BEHIND);  /* its fences are too low */
    EXPECT(judge("98 100 fedc000000000002 7", 1) == STRONG_BEHIND); /* another writer's */
    EXPECT(judge("98 100 fedc000000000001 8", 1) == STRONG_BEHIND); /* another frame */
    EXPECT(judge("98 100 fedc000000000001 7", 2) == STRONG_BEHIND); /* there is one before it */
}

TEST(what_makes_no_sense_is_waited_for)
{
    static const char *const values[] = {
        "",
        " ",
        "-1",
        "1e3",
        "100x",
        "x100",
        "98 100",
        "98 100 ",
        "98 100 fedc000000000001",
        "98 100 fedc000000000001 ",
        "98 100 fedc000000000001 7 ",
        "98 100 fedc000000000001 7x",
        "98 100 0fedc000000000001 7",
        "98 100 FEDC 7",
        "99999999999999999999999999",
        "!",
        "!x",
        "! 100",
    };

    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        EXPECT(judge(values[i], 1) == STRONG_BEHIND);
    EXPECT(judge("!0123456789abcdef0123456789abcdef", 1) == STRONG_MARKED);
}

TEST(a_registry_is_known_from_its_first_sight_on)
{
    static const uint8_t one[16] = "one", two[16] = "two";
    struct strong_memory memory = {0};

    strong_init(&memory);
    EXPECT_EQ(strong_known_ns(&memory, 0, one, 1000), -1);
    strong_learn(&memory, 0, one, 1000);
    strong_learn(&memory, 0, one, 3000);
    EXPECT_EQ(strong_known_ns(&memory, 0, one, 5000), 4000);
    EXPECT_EQ(strong_known_ns(&memory, 1, one, 5000), -1);
    strong_learn(&memory, 0, two, 6000);
    EXPECT_EQ(strong_known_ns(&memory, 0, one, 7000), -1);
    strong_learn(&memory, 0, one, 8000); /* back again, as if new */
    EXPECT_EQ(strong_known_ns(&memory, 0, one, 8000), 0);
    strong_fini(&memory);
}

TEST(a_mark_is_as_old_as_its_first_sight)
{
    static const uint8_t one[16] = "one", two[16] = "two";
    char mark[STRONG_MARK_SIZE + 1], other[STRONG_MARK_SIZE + 1];
    struct strong_memory memory = {0};

    strong_init(&memory);
    snprintf(mark, sizeof mark, "!%032d", 1);
    snprintf(other, sizeof other, "!%032d", 2);
    EXPECT_EQ(strong_marked_ns(&memory, one, mark, 100), 0);
    EXPECT_EQ(strong_marked_ns(&memory, one, mark, 300), 200);
    EXPECT_EQ(strong_marked_ns(&memory, one, other, 300), 0);
    EXPECT_EQ(strong_marked_ns(&memory, two, mark, 300), 0);
    for (unsigned i = 0; i < 2 * STRONG_MARKS; i++) {
        snprintf(other, sizeof other, "!%032u", 100 + i);
        EXPECT_EQ(strong_marked_ns(&memory, two, other, 400), 0);
    }
    EXPECT_EQ(strong_marked_ns(&memory, one, mark, 500), 0); /* forgotten: it waits again */
    strong_fini(&memory);
}
