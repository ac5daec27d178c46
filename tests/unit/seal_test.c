/* seal_test.c - signatures and seals are the page's, and hold for nothing but what they were made for. */
#include <fcntl.h>
#include <frame.h>
#include <keyring.h>
#include <remote.h>
#include <seal.h>
#include <vectors.h>

/* A keyring file with these lines. */
static const char *keyring_file(const char *text)
{
    static char path[256];
    int fd;

    (void)snprintf(path, sizeof path, "%s/keyring", fresh_dir());
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    EXPECT(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    (void)close(fd);
    return path;
}

#define PAGE_KEYRING                                                                                                   \
    "freshet keyring 1\n"                                                                                              \
    "sign 9d24e2eeaf27c2a0 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"                         \
    "value 62093cd92cefd1bc 404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f\n"

static struct keyring *page_keyring(void)
{
    struct keyring *keyring = NULL;

    EXPECT(keyring_open(&keyring, keyring_file(PAGE_KEYRING)) == FRESHET_OK);
    return keyring;
}

/* A keyring that shares nothing with the page's. */
static struct keyring *other_keyring(void)
{
    struct keyring *keyring = NULL;
    char path[256];

    (void)snprintf(path, sizeof path, "%s/other", fresh_dir());
    EXPECT(keyring_generate(path, NULL) == FRESHET_OK);
    EXPECT(keyring_open(&keyring, path) == FRESHET_OK);
    return keyring;
}

static struct seal_facts page_facts(void)
{
    static uint8_t tags[16];
    struct seal_facts facts = {.kind = 1,
                               .version = 1750000000000000,
                               .writer = 0x1122334455667788,
                               .source_version = 42,
                               .expiry_us = 1750000060000000,
                               .key = "customer:1",
                               .key_size = 10,
                               .tags = tags,
                               .tag_count = 2};

    remote_hash("orders", "orders", 6, facts.cache);
    memcpy(tags, vector_of("tag hash").bytes, 8);
    memcpy(tags + 8, vector_of("namespace hash").bytes, 8);
    return facts;
}

TEST(a_frame_is_signed_as_the_page_says)
{
    struct vector body = vector_of("body"), message = vector_of("signed message");
    struct keyring *keyring = page_keyring();
    uint8_t head[72];

    EXPECT(seal_sign(keyring, body.bytes, body.size, head) == FRESHET_OK);
    EXPECT(memcmp(head, message.bytes, 72) == 0);
    EXPECT(seal_sign(keyring, body.bytes, 0, head) == FRESHET_EINVAL);
    EXPECT(seal_sign(keyring, body.bytes, FRAME_BODY_MAX + 1, head) == FRESHET_EINVAL);
    keyring_close(keyring);
}

TEST(a_signed_message_verifies_and_nothing_else_does)
{
    struct vector message = vector_of("signed message"), body = vector_of("body");
    struct keyring *keyring = page_keyring(), *other = other_keyring();
    const uint8_t *got;
    size_t got_size;
    uint64_t id;

    EXPECT(seal_verify(keyring, message.bytes, message.size, &got, &got_size, &id) == SEAL_GOOD);
    EXPECT(vector_is(&body, got, got_size) && id == 0x9d24e2eeaf27c2a0);
    EXPECT(got == message.bytes + 72);
    EXPECT(seal_verify(other, message.bytes, message.size, &got, &got_size, &id) == SEAL_UNKNOWN_KEY);
    for (size_t i = 0; i < message.size; i++) {
        enum seal_verdict verdict;

        message.bytes[i] ^= 0x10;
        verdict = seal_verify(keyring, message.bytes, message.size, &got, &got_size, &id);
        EXPECT(verdict == (i < 8 ? SEAL_UNKNOWN_KEY : SEAL_FORGED));
        message.bytes[i] ^= 0x10;
    }
    EXPECT(seal_verify(keyring, message.bytes, message.size - 1, &got, &got_size, &id) == SEAL_FORGED);
    for (size_t size = 0; size <= 72; size++)
        EXPECT(seal_verify(keyring, message.bytes, size, &got, &got_size, &id) == SEAL_SHORT);
    keyring_close(keyring);
    keyring_close(other);
}

TEST(the_largest_frame_is_signed_and_a_larger_one_is_garbled)
{
    static uint8_t message[FRAME_MAX + 1];
    struct keyring *keyring = page_keyring();
    const uint8_t *got;
    size_t got_size;
    uint64_t id;

    EXPECT(seal_sign(keyring, message + 72, FRAME_BODY_MAX, message) == FRESHET_OK);
    EXPECT(seal_verify(keyring, message, FRAME_MAX, &got, &got_size, &id) == SEAL_GOOD);
    EXPECT(seal_verify(keyring, message, FRAME_MAX + 1, &got, &got_size, &id) == SEAL_SHORT);
    keyring_close(keyring);
}

TEST(the_pages_sealed_answers_open)
{
    struct vector sealed = vector_of("sealed"), absent = vector_of("absent sealed"), value = vector_of("value");
    struct keyring *keyring = page_keyring();
    struct seal_facts facts = page_facts();
    uint8_t got[64];

    EXPECT(seal_open(keyring, &facts, sealed.bytes, sealed.size, got));
    EXPECT(vector_is(&value, got, sealed.size - SEAL_OVERHEAD));
    facts.kind = 2;
    facts.source_version = facts.expiry_us = facts.tag_count = 0;
    EXPECT_EQ(absent.size, SEAL_OVERHEAD);
    EXPECT(seal_open(keyring, &facts, absent.bytes, absent.size, NULL));
    keyring_close(keyring);
}

/* Open with one fact changed by `change`. */
#define REFUSES(change)                                                                                                \
    do {                                                                                                               \
        struct seal_facts facts = page_facts();                                                                        \
        change;                                                                                                        \
        EXPECT(!seal_open(keyring, &facts, sealed.bytes, sealed.size, got));                                           \
    } while (0)

TEST(an_answer_opens_only_in_its_place)
{
    struct vector sealed = vector_of("sealed");
    struct keyring *keyring = page_keyring(), *other = other_keyring();
    struct seal_facts right = page_facts();
    uint8_t got[64], swapped[16];

    memcpy(swapped, right.tags + 8, 8);
    memcpy(swapped + 8, right.tags, 8);

    REFUSES(facts.kind = 2);
    REFUSES(facts.version++);
    REFUSES(facts.writer++);
    REFUSES(facts.source_version = 0);
    REFUSES(facts.expiry_us = 0);
    REFUSES(facts.cache[0] ^= 1);
    REFUSES(facts.key = "customer:2");
    REFUSES(facts.key_size = 9);
    REFUSES(facts.key_size = 0);
    REFUSES(facts.tag_count = 0);
    REFUSES(facts.tag_count = 1);
    REFUSES(facts.tags += 8; facts.tag_count = 1);
    REFUSES(facts.tags = swapped);
    EXPECT(!seal_open(other, &right, sealed.bytes, sealed.size, got));
    for (size_t i = 0; i < sealed.size; i++) {
        sealed.bytes[i] ^= 1;
        EXPECT(!seal_open(keyring, &right, sealed.bytes, sealed.size, got));
        sealed.bytes[i] ^= 1;
    }
    for (size_t size = 0; size < sealed.size; size++)
        EXPECT(!seal_open(keyring, &right, sealed.bytes, size, got));
    memset(sealed.bytes, 0, 8); /* "the first key" is not what a message may ask for */
    EXPECT(!seal_open(keyring, &right, sealed.bytes, sealed.size, got));
    keyring_close(keyring);
    keyring_close(other);
}

TEST(answers_and_keys_of_every_size_come_back)
{
    static const size_t keys[] = {1, 512, 513, 65536}, values[] = {0, 1, 100000};
    static uint8_t key[65536], value[100000], got[100000], sealed[100000 + SEAL_OVERHEAD],
        again[100000 + SEAL_OVERHEAD];
    struct keyring *keyring = page_keyring();

    memset(value, 7, sizeof value);
    for (size_t k = 0; k < 4; k++) {
        for (size_t v = 0; v < 3; v++) {
            struct seal_facts facts = page_facts();

            facts.key = key;
            facts.key_size = (uint32_t)keys[k];
            EXPECT(seal_value(keyring, &facts, values[v] > 0 ? value : NULL, values[v], sealed) == FRESHET_OK);
            EXPECT(seal_value(keyring, &facts, values[v] > 0 ? value : NULL, values[v], again) == FRESHET_OK);
            EXPECT(memcmp(sealed + 8, again + 8, 24) != 0); /* no nonce twice */
            memset(got, 0, sizeof got);
            EXPECT(seal_open(keyring, &facts, sealed, values[v] + SEAL_OVERHEAD, got));
            EXPECT(memcmp(got, value, values[v]) == 0);
        }
    }
    keyring_close(keyring);
}

TEST(verdicts_have_names_and_digests_differ)
{
    uint8_t a[32], b[32];

    EXPECT(strcmp(seal_verdict_name(SEAL_GOOD), "") == 0 && strcmp(seal_verdict_name(SEAL_SHORT), "garbled") == 0);
    EXPECT(strcmp(seal_verdict_name(SEAL_UNKNOWN_KEY), "unknown key") == 0);
    EXPECT(strcmp(seal_verdict_name(SEAL_FORGED), "bad signature") == 0);
    EXPECT(seal_init() == FRESHET_OK && seal_init() == FRESHET_OK);
    seal_digest("a", 1, a);
    seal_digest("b", 1, b);
    EXPECT(memcmp(a, b, 32) != 0);
    seal_random(a, sizeof a);
    seal_random(b, sizeof b);
    EXPECT(memcmp(a, b, 32) != 0);
}
