/* sheet_test.c - a sheet's head: what goes in comes out, and nothing that comes out leads beyond the sheet. */
#include <sheet.h>
#include <string.h>
#include <test.h>

static const struct sheet sample = {.log = 2,
                                    .number = 0x1122334455667788,
                                    .used = SHEET_SIZE,
                                    .first = 1024,
                                    .base = {.epoch = UINT64_MAX, .as_of = 1, .version = 2, .writer = 3,
                                             .expires_ns = RECORD_NEVER}};

static bool same(const struct sheet *a, const struct sheet *b)
{
    return a->log == b->log && a->number == b->number && a->used == b->used && a->first == b->first &&
           a->base.epoch == b->base.epoch && a->base.as_of == b->base.as_of && a->base.version == b->base.version &&
           a->base.writer == b->base.writer && a->base.expires_ns == b->base.expires_ns;
}

static bool comes_back(struct sheet sheet)
{
    uint8_t bytes[SHEET_HEAD + 8];
    struct sheet back;

    memset(bytes, 0xee, sizeof bytes);
    sheet_encode(&sheet, bytes);
    for (uint32_t i = SHEET_HEAD; i < sizeof bytes; i++)
        EXPECT_EQ(bytes[i], 0xee);
    EXPECT_EQ(sheet_number(bytes), sheet.number);
    return sheet_decode(&back, bytes) && same(&back, &sheet);
}

TEST(a_sheets_head_comes_back_as_it_was)
{
    static const uint32_t used[] = {SHEET_HEAD, SHEET_HEAD + 1, SHEET_HEAD + 8, 4079, SHEET_SIZE};
    struct sheet sheet = sample;

    for (sheet.log = 0; sheet.log < 3; sheet.log++)
        for (size_t i = 0; i < sizeof used / sizeof *used; i++)
            for (sheet.first = 0; sheet.first < used[i]; sheet.first += sheet.first ? SHEET_ALIGN : SHEET_HEAD) {
                sheet.used = used[i];
                EXPECT(comes_back(sheet));
            }
}

TEST(offsets_that_cannot_be_are_refused)
{
    struct sheet sheet = sample;

    for (sheet.used = 0; sheet.used < 65536; sheet.used++)
        for (unsigned i = 0; i < 5; i++) {
            const uint32_t first[] = {0, SHEET_HEAD, SHEET_HEAD - SHEET_ALIGN, SHEET_HEAD + 4, sheet.used & 0xfff8};
            bool good = sheet.used >= SHEET_HEAD && sheet.used <= SHEET_SIZE;

            sheet.first = first[i];
            good = good && (sheet.first == 0 || (sheet.first >= SHEET_HEAD && sheet.first < sheet.used &&
                                                 sheet.first % SHEET_ALIGN == 0));
            EXPECT_EQ(comes_back(sheet), good);
        }
}

TEST(what_is_no_sheet_is_refused)
{
    uint8_t bytes[SHEET_SIZE];
    struct sheet back;

    memset(bytes, 0, sizeof bytes);
    EXPECT(!sheet_decode(&back, bytes));
    memset(bytes, 0xff, sizeof bytes);
    EXPECT(!sheet_decode(&back, bytes));
    sheet_encode(&sample, bytes);
    for (unsigned bit = 0; bit < 24; bit++) { /* magic and format */
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        EXPECT(!sheet_decode(&back, bytes));
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    EXPECT(sheet_decode(&back, bytes));
}

TEST(noise_never_leads_beyond_the_sheet)
{
    uint64_t seed = 3, taken = 0;

    for (int round = 0; round < 1000000; round++) {
        uint8_t bytes[SHEET_HEAD];
        struct sheet back;

        sheet_encode(&sample, bytes);
        for (unsigned i = 3; i < sizeof bytes; i++)
            bytes[i] = (uint8_t)(test_random(&seed) >> (round % 3 ? 0 : 60));
        if (!sheet_decode(&back, bytes))
            continue;
        taken++;
        EXPECT(back.used >= SHEET_HEAD && back.used <= SHEET_SIZE && back.first < back.used);
        EXPECT(back.first == 0 || (back.first >= SHEET_HEAD && back.first % SHEET_ALIGN == 0));
    }
    EXPECT(taken > 100);
}

TEST(a_record_takes_its_bytes_and_up_to_the_next_place)
{
    for (uint64_t value = 0; value < 40; value++)
        for (uint32_t head = RECORD_HEAD_LEAST; head <= RECORD_HEAD_MOST; head += 4) {
            struct record record = {.key_size = 3, .value_size = value};
            uint64_t bytes = sheet_bytes(head, &record);

            EXPECT(bytes % SHEET_ALIGN == 0 && bytes >= head + 3 + value && bytes < head + 3 + value + SHEET_ALIGN);
        }
    EXPECT_EQ(SHEET_SIZE % SHEET_ALIGN, 0);
    EXPECT_EQ(SHEET_HEAD % SHEET_ALIGN, 0);
}
