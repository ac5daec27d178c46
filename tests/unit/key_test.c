/* key_test.c - the hash against the reference's vectors, and where a key's numbers stand. */
#include <bytes.h>
#include <key.h>
#include <stdio.h>
#include <tags.h>
#include <vectors.h>

/* SipHash-2-4-128 under the key 00 01 .. 0f of the messages "", 00, 00 01, ... : the reference implementation's own. */
static const char *const vectors[64] = {
    "a3817f04ba25a8e66df67214c7550293",
    "da87c1d86b99af44347659119b22fc45",
    "8177228da4a45dc7fca38bdef60affe4",
    "9c70b60c5267a94e5f33b6b02985ed51",
    "f88164c12d9c8faf7d0f6e7c7bcd5579",
    "1368875980776f8854527a07690e9627",
    "14eeca338b208613485ea0308fd7a15e",
    "a1f1ebbed8dbc153c0b84aa61ff08239",
    "3b62a9ba6258f5610f83e264f31497b4",
    "264499060ad9baabc47f8b02bb6d71ed",
    "00110dc378146956c95447d3f3d0fbba",
    "0151c568386b6677a2b4dc6f81e5dc18",
    "d626b266905ef35882634df68532c125",
    "9869e247e9c08b10d029934fc4b952f7",
    "31fcefac66d7de9c7ec7485fe4494902",
    "5493e99933b0a8117e08ec0f97cfc3d9",
    "6ee2a4ca67b054bbfd3315bf85230577",
    "473d06e8738db89854c066c47ae47740",
    "a426e5e423bf4885294da481feaef723",
    "78017731cf65fab074d5208952512eb1",
    "9e25fc833f2290733e9344a5e83839eb",
    "568e495abe525a218a2214cd3e071d12",
    "4a29b54552d16b9a469c10528eff0aae",
    "c9d184ddd5a9f5e0cf8ce29a9abf691c",
    "2db479ae78bd50d8882a8a178a6132ad",
    "8ece5f042d5e447b5051b9eacb8d8f6f",
    "9c0b53b4b3c307e87eaee08678141f66",
    "abf248af69a6eae4bfd3eb2f129eeb94",
    "0664da1668574b88b935f3027358aef4",
    "aa4b9dc4bf337de90cd4fd3c467c6ab7",
    "ea5c7f471faf6bde2b1ad7d4686d2287",
    "2939b0183223fafc1723de4f52c43d35",
    "7c3956ca5eeafc3e363e9d556546eb68",
    "77c6077146f01c32b6b69d5f4ea9ffcf",
    "37a6986cb8847edf0925f0f1309b54de",
    "a705f0e69da9a8f907241a2e923c8cc8",
    "3dc47d1f29c448461e9e76ed904f6711",
    "0d62bf01e6fc0e1a0d3c4751c5d3692b",
    "8c03468bca7c669ee4fd5e084bbee7b5",
    "528a5bb93baf2c9c4473cce5d0d22bd9",
    "df6a301e95c95dad97ae0cc8c6913bd8",
    "801189902c857f39e73591285e70b6db",
    "e617346ac9c231bb3650ae34ccca0c5b",
    "27d93437efb721aa401821dcec5adf89",
    "89237d9ded9c5e78d8b1c9b166cc7342",
    "4a6d8091bf5e7d651189fa94a250b14c",
    "0e33f96055e7ae893ffc0e3dcf492902",
    "e61c432b720b19d18ec8d84bdc63151b",
    "f7e5aef549f782cf379055a608269b16",
    "438d030fd0b7a54fa837f2ad201a6403",
    "a590d3ee4fbf04e3247e0d27f286423f",
    "5fe2c1a172fe93c4b15cd37caef9f538",
    "2c97325cbd06b36eb2133dd08b3a017c",
    "92c814227a6bca949ff0659f002ad39e",
    "dce850110bd8328cfbd50841d6911d87",
    "67f14984c7da791248e32bb5922583da",
    "1938f2cf72d54ee97e94166fa91d2a36",
    "74481e9646ed49fe0f6224301604698e",
    "57fca5de98a9d6d8006438d0583d8a1d",
    "9fecde1cefdc1cbed4763674d9575359",
    "e3040c00eb28f15366ca73cbd872e740",
    "7697009a6a831dfecca91c5993670f7a",
    "5853542321f567a005d547a4f04759bd",
    "5150d1772f50834a503e069a973fbd7c",
};

static struct key_space space_of(const char *name, uint32_t partitions)
{
    struct key_space space = {.partitions = partitions, .fence_slots = 8192};

    key_space_name(&space, name);
    return space;
}

static void hex_of(const uint8_t hash[16], char text[33])
{
    for (int i = 0; i < 16; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", hash[i]);
}

TEST(the_hash_is_siphash_2_4_128)
{
    uint8_t message[64], hash[16];
    char text[33];

    for (unsigned i = 0; i < 64; i++)
        message[i] = (uint8_t)i;
    for (unsigned size = 0; size < 64; size++) {
        key_siphash128(bytes_get64(message), bytes_get64(message + 8), message, size, hash);
        hex_of(hash, text);
        EXPECT(strcmp(text, vectors[size]) == 0);
    }
}

TEST(the_hash_does_not_care_where_the_key_lies)
{
    struct key_space space = space_of("orders", 1);
    uint8_t room[128];
    struct key first, key;

    for (unsigned size = 1; size < 100; size++)
        for (unsigned at = 0; at < 9; at++) {
            memset(room, 0xa5, sizeof room);
            memset(room + at, 'k', size);
            key_make(&key, &space, room + at, size);
            if (at == 0)
                first = key;
            EXPECT(memcmp(first.hash, key.hash, 16) == 0 && first.slot == key.slot);
        }
}

TEST(the_largest_key_is_hashed_like_any_other)
{
    static uint8_t big[65536];
    struct key_space space = space_of("orders", 1);
    struct key a, b;

    key_make(&a, &space, big, sizeof big);
    big[sizeof big - 1] = 1;
    key_make(&b, &space, big, sizeof big);
    EXPECT(memcmp(a.hash, b.hash, 16) != 0);
    EXPECT_EQ(b.size, 65536);
    EXPECT(b.data == big);
}

TEST(names_part_the_spaces)
{
    struct key_space orders = space_of("orders", 1), users = space_of("users", 1), again = space_of("orders", 1);
    struct key a, b, c;

    key_make(&a, &orders, "k", 1);
    key_make(&b, &users, "k", 1);
    key_make(&c, &again, "k", 1);
    EXPECT(memcmp(a.hash, b.hash, 16) != 0);
    EXPECT(memcmp(a.hash, c.hash, 16) == 0);
}

TEST(every_place_follows_from_the_hash)
{
    for (uint32_t partitions = 1; partitions <= 16; partitions++) {
        struct key_space space = space_of("orders", partitions);
        uint32_t seen = 0;

        for (unsigned i = 0; i < 400; i++) {
            struct key key, again;

            key_make(&key, &space, &i, sizeof i);
            key_from_hash(&again, &space, key.hash);
            EXPECT_EQ(key.partition, bytes_get64(key.hash) % partitions);
            EXPECT_EQ(key.slot, bytes_get64(key.hash + 8) % space.fence_slots);
            EXPECT(again.partition == key.partition && again.slot == key.slot);
            EXPECT(memcmp(again.hash, key.hash, 16) == 0 && again.data == NULL && again.size == 0);
            seen |= 1u << key.partition;
        }
        EXPECT_EQ(seen, (1u << partitions) - 1);
    }
}

TEST(a_space_for_hashing_alone_needs_no_tables)
{
    struct key_space space = {0};
    struct key key;

    key_space_name(&space, "orders");
    key_make(&key, &space, "k", 1);
    EXPECT_EQ(key.partition, 0);
}

TEST(tags_and_namespaces_hash_as_the_page_says)
{
    struct vector tag = vector_of("tag hash"), space_hash = vector_of("namespace hash");
    struct key_space space = space_of("orders", 1), users = space_of("users", 1);
    uint8_t hash[16];
    struct key key;

    key_tag(&space, false, "region:eu", 9, hash);
    EXPECT(vector_is(&tag, hash, 16));
    EXPECT_EQ(key_tag_number(hash), bytes_get64(tag.bytes));
    key_tag(&space, true, "shop", 4, hash);
    EXPECT(vector_is(&space_hash, hash, 16));
    key_tag(&space, true, "region:eu", 9, hash);
    EXPECT(!vector_is(&tag, hash, 16));
    key_make(&key, &space, "region:eu", 9);
    EXPECT(!vector_is(&tag, key.hash, 16));
    key_tag(&users, false, "region:eu", 9, hash);
    EXPECT(!vector_is(&tag, hash, 16));
}

TEST(no_entry_gets_more_tags_than_a_record_holds)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i",
                                        "j", "k", "l", "m", "n", "o", "p", "q"};
    struct key_space space = space_of("orders", 1);
    struct tags tags;

    EXPECT_EQ(tags_take(&tags, &space, NULL, 0, NULL), FRESHET_OK);
    EXPECT_EQ(tags.count, 0);
    EXPECT_EQ(tags_take(&tags, &space, names, 17, NULL), FRESHET_EINVAL);
    EXPECT_EQ(tags_take(&tags, &space, NULL, 1, NULL), FRESHET_EINVAL);
    EXPECT_EQ(tags_take(&tags, &space, names, 16, "space"), FRESHET_OK);
    EXPECT_EQ(tags.count, RECORD_TAGS_MAX);
    EXPECT_EQ(tags_add(&tags, &space, "q"), FRESHET_EINVAL);
    EXPECT_EQ(tags.count, RECORD_TAGS_MAX);
    EXPECT_EQ(tags_take(&tags, &space, names, 15, NULL), FRESHET_OK);
    EXPECT_EQ(tags_add(&tags, &space, "q"), FRESHET_OK);
    EXPECT_EQ(tags_add(&tags, &space, "r"), FRESHET_EINVAL); /* the place left is a namespace's */
}
