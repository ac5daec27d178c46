/* token_test.c - tokens as text: what goes in comes out, and nothing else does. */
#include <string.h>
#include <test.h>
#include <token.h>

static struct key_space space(const char *name, uint32_t partitions)
{
    struct key_space space = {0};

    key_space_name(&space, name);
    space.partitions = partitions;
    return space;
}

static struct token random_token(uint64_t *seed, uint32_t partitions)
{
    struct token token = {0};

    for (uint32_t p = 0; p < partitions; p++)
        if (test_random(seed) % 3)
            token.parts[p] = (struct token_part){test_random(seed), (test_random(seed) >> 11) | 1};
    return token;
}

TEST(what_is_written_is_read)
{
    uint64_t seed = 5;

    for (int round = 0; round < 2000; round++) {
        uint32_t partitions = 1 + (uint32_t)(test_random(&seed) % FRESHET_PARTITIONS_MAX);
        struct key_space orders = space("orders", partitions);
        struct token token = random_token(&seed, partitions), read;
        char text[FRESHET_TOKEN_SIZE], again[FRESHET_TOKEN_SIZE];

        token_encode(&token, &orders, "orders", text);
        EXPECT(strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == strlen(text));
        EXPECT(token_decode(&read, &orders, "orders", text));
        token_encode(&read, &orders, "orders", again);
        EXPECT(strcmp(text, again) == 0);
        for (uint32_t p = 0; p < FRESHET_PARTITIONS_MAX; p++)
            EXPECT(read.parts[p].position == token.parts[p].position &&
                   (read.parts[p].position == 0 || read.parts[p].epoch == token.parts[p].epoch));
    }
}

TEST(nothing_is_a_token_that_says_nothing)
{
    struct key_space orders = space("orders", 1);
    struct token token = {0};
    char text[FRESHET_TOKEN_SIZE] = "x";

    token_encode(&token, &orders, "orders", text);
    EXPECT(text[0] == '\0');
    EXPECT(token_decode(&token, &orders, "orders", "") && token_decode(&token, &orders, "orders", NULL));
    EXPECT_EQ(token.parts[0].position, 0);
}

TEST(what_is_garbled_is_no_token)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    struct key_space orders = space("orders", 16), others = space("others", 16), one = space("orders", 1);
    uint64_t seed = 9;

    for (int round = 0; round < 300; round++) {
        struct token token = random_token(&seed, 16), read;
        char text[FRESHET_TOKEN_SIZE], spoilt[FRESHET_TOKEN_SIZE];
        size_t size, at;

        token.parts[7] = (struct token_part){1, 2};
        token_encode(&token, &orders, "orders", text);
        size = strlen(text);
        EXPECT(!token_decode(&read, &others, "others", text)); /* another cache's */
        EXPECT(!token_decode(&read, &one, "orders", text));    /* of a partition that there is not */
        for (int spoil = 0; spoil < 50; spoil++) {
            char to = digits[test_random(&seed) % 64];

            memcpy(spoilt, text, sizeof spoilt);
            at = test_random(&seed) % size;
            if (spoilt[at] == to)
                continue;
            spoilt[at] = to;
            EXPECT(!token_decode(&read, &orders, "orders", spoilt));
            EXPECT_EQ(read.parts[7].position, 0);
        }
        memcpy(spoilt, text, sizeof spoilt);
        spoilt[test_random(&seed) % size] = '\0'; /* cut short; at its first letter it says nothing */
        EXPECT(spoilt[0] == '\0' || !token_decode(&read, &orders, "orders", spoilt));
        memcpy(spoilt, text, sizeof spoilt);
        spoilt[test_random(&seed) % size] = "+/= \n\x80"[test_random(&seed) % 6];
        EXPECT(!token_decode(&read, &orders, "orders", spoilt));
    }
}

/* Whatever is handed in: no crash, and what decodes encodes to itself. */
TEST(any_text_is_read_or_refused)
{
    struct key_space orders = space("orders", 16);
    uint64_t seed = 21;

    for (int round = 0; round < 50000; round++) {
        char text[FRESHET_TOKEN_SIZE + 64], again[FRESHET_TOKEN_SIZE];
        size_t size = test_random(&seed) % (sizeof text - 1);
        struct token token;

        for (size_t i = 0; i < size; i++)
            text[i] = (char)(test_random(&seed) % 2 ? 'A' + (int)(test_random(&seed) % 26)
                                                    : 1 + (int)(test_random(&seed) % 127));
        text[size] = '\0';
        if (!token_decode(&token, &orders, "orders", text) || size == 0)
            continue;
        token_encode(&token, &orders, "orders", again);
        EXPECT(strcmp(text, again) == 0);
    }
}

TEST(the_later_of_two_stays_in_each_partition)
{
    struct token a = {.parts = {{1, 10}, {1, 20}, {0, 0}}}, b = {.parts = {{1, 11}, {2, 5}, {3, 7}}};

    token_join(&a, &b);
    EXPECT(a.parts[0].position == 11 && a.parts[0].epoch == 1);
    EXPECT(a.parts[1].position == 20 && a.parts[1].epoch == 1);
    EXPECT(a.parts[2].position == 7 && a.parts[2].epoch == 3);
}
