/*
 * guarded_test.c - the table of guards of a host without a fleet, and how long a fleet's guard is left.
 */
#include <clock.h>
#include <fcntl.h>
#include <guard.h>
#include <guarded.h>
#include <string.h>
#include <test.h>
#include <unistd.h>

static struct control page;

static void open_page(void)
{
    struct control_shape shape = {.name = "t", .tier_size = 1 << 20, .partitions = 1, .max_staleness_ms = 500};
    int dir = open(fresh_dir(), O_RDONLY | O_DIRECTORY);

    EXPECT(dir >= 0 && control_create(&page, dir, &shape) == FRESHET_OK);
    close(dir);
}

static int64_t in_ms(int64_t ms)
{
    return clock_boot_ns() / CLOCK_NS_PER_MS + ms;
}

/* A key's hash that is in row `row` (of 64). */
static void hash_in(uint8_t hash[16], unsigned row, unsigned number)
{
    memset(hash, 0, 16);
    hash[2] = (uint8_t)number;
    hash[3] = (uint8_t)(number >> 8);
    hash[8] = (uint8_t)row;
}

static bool is(unsigned row, unsigned number)
{
    uint8_t hash[16];
    struct key key;

    hash_in(hash, row, number);
    key_from_hash(&key, &page.space, hash);
    return guarded_is(&page, &key);
}

TEST(a_guarded_key_is_guarded_and_no_other)
{
    uint8_t hashes[2][16];
    struct guarded guarded[2];

    open_page();
    hash_in(hashes[0], 3, 1);
    hash_in(hashes[1], 4, 2);
    EXPECT(!is(3, 1));
    EXPECT(guarded_begin(&page, (const uint8_t(*)[16])hashes, 2, in_ms(60000), guarded));
    EXPECT(is(3, 1) && is(4, 2) && !is(3, 2) && !is(4, 1) && !is(5, 1));
    EXPECT(guarded_left(&page, guarded, 2) > 59000 && guarded_left(&page, guarded, 2) <= 60000);
    EXPECT(guarded_end(&page, guarded, 2));
    EXPECT(!is(3, 1) && !is(4, 2));
    EXPECT(!guarded_end(&page, guarded, 2)); /* once */
    EXPECT_EQ(guarded_left(&page, guarded, 2), 0);
}

TEST(a_full_row_takes_none_of_all)
{
    uint8_t hashes[CONTROL_GUARD_ROW][16], more[2][16];
    struct guarded guarded[CONTROL_GUARD_ROW], other[2];

    open_page();
    for (unsigned i = 0; i < CONTROL_GUARD_ROW; i++)
        hash_in(hashes[i], 7, i);
    EXPECT(guarded_begin(&page, (const uint8_t(*)[16])hashes, CONTROL_GUARD_ROW, in_ms(60000), guarded));
    hash_in(more[0], 8, 1);
    hash_in(more[1], 7, 1000);
    EXPECT(!guarded_begin(&page, (const uint8_t(*)[16])more, 2, in_ms(60000), other));
    EXPECT(!is(8, 1) && !is(7, 1000));
    EXPECT(guarded_end(&page, guarded + 20, 1));
    EXPECT(guarded_begin(&page, (const uint8_t(*)[16])more, 2, in_ms(60000), other));
    EXPECT(is(8, 1) && is(7, 1000) && is(7, 5) && !is(7, 20));
}

TEST(what_has_ended_is_nobodys_and_can_be_taken)
{
    uint8_t hashes[CONTROL_GUARD_ROW][16];
    struct guarded first[CONTROL_GUARD_ROW], second[CONTROL_GUARD_ROW];

    open_page();
    for (unsigned i = 0; i < CONTROL_GUARD_ROW; i++)
        hash_in(hashes[i], 7, i);
    EXPECT(guarded_begin(&page, (const uint8_t(*)[16])hashes, CONTROL_GUARD_ROW, in_ms(30), first));
    EXPECT(test_until(!is(7, 1), 5000));
    EXPECT(!guarded_prolong(&page, first, 1, in_ms(60000))); /* never again */
    EXPECT(!is(7, 0));
    EXPECT(guarded_begin(&page, (const uint8_t(*)[16])hashes, CONTROL_GUARD_ROW, in_ms(60000), second));
    EXPECT_EQ(guarded_left(&page, first, 1), 0);
    EXPECT(!guarded_end(&page, first, CONTROL_GUARD_ROW)); /* and it takes nothing from who came after */
    EXPECT(is(7, 1));
    EXPECT(guarded_end(&page, second, CONTROL_GUARD_ROW));
}

TEST(what_is_prolonged_lasts)
{
    uint8_t hash[1][16];
    struct guarded guarded[1];

    open_page();
    hash_in(hash[0], 1, 1);
    EXPECT(guarded_begin(&page, (const uint8_t(*)[16])hash, 1, in_ms(500), guarded));
    EXPECT(guarded_prolong(&page, guarded, 1, in_ms(60000)));
    EXPECT(guarded_left(&page, guarded, 1) > 50000);
    EXPECT(!test_until(!is(1, 1), 600));
    EXPECT(guarded_end(&page, guarded, 1));
}

/* Any bytes may stand in the table: they guard at the most what is not theirs, for some time. */
TEST(a_table_full_of_rubbish_breaks_nothing)
{
    uint8_t hash[1][16];
    struct guarded guarded[1];

    open_page();
    for (unsigned i = 0; i < CONTROL_GUARD_SLOTS; i++)
        atomic_store(&page.guards[i], i % 2 ? UINT64_MAX - i : i);
    hash_in(hash[0], 1, 1);
    (void)is(1, 1);
    if (guarded_begin(&page, (const uint8_t(*)[16])hash, 1, in_ms(60000), guarded))
        EXPECT(is(1, 1) && guarded_end(&page, guarded, 1));
}

TEST(how_long_a_guard_is_left_is_a_thousandth_less)
{
    int64_t ms = 1000000;

    EXPECT_EQ(guard_left_of(5 * ms, 10000, 5 * ms), 9990);
    EXPECT_EQ(guard_left_of(5 * ms, 10000, 105 * ms), 9890);
    EXPECT_EQ(guard_left_of(5 * ms, 10000, 5 * ms + 9990 * ms), 0);
    EXPECT_EQ(guard_left_of(5 * ms, 10000, 5 * ms + 9989 * ms), 1);
    EXPECT_EQ(guard_left_of(5 * ms, 10000, 3600000 * ms), 0);
    EXPECT_EQ(guard_left_of(5 * ms, 100, 5 * ms), 99);
}
