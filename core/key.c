/*
 * key.c - SipHash-2-4 with 128 bits of output, and what follows from it.
 *
 * Every hit hashes its key, so the message is read in words of eight bytes wherever it lies, and the state stays in
 * registers.
 */
#include <key.h>

#include <bytes.h>
#include <freshet.h>

struct sip {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t sip_turn(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static inline __attribute__((always_inline)) void sip_round(struct sip *s)
{
    s->v0 += s->v1;
    s->v2 += s->v3;
    s->v1 = sip_turn(s->v1, 13) ^ s->v0;
    s->v3 = sip_turn(s->v3, 16) ^ s->v2;
    s->v0 = sip_turn(s->v0, 32);
    s->v2 += s->v1;
    s->v0 += s->v3;
    s->v1 = sip_turn(s->v1, 17) ^ s->v2;
    s->v3 = sip_turn(s->v3, 21) ^ s->v0;
    s->v2 = sip_turn(s->v2, 32);
}

static inline __attribute__((always_inline)) void sip_take(struct sip *s, uint64_t word)
{
    s->v3 ^= word;
    sip_round(s);
    sip_round(s);
    s->v0 ^= word;
}

static inline __attribute__((always_inline)) uint64_t sip_end(struct sip *s)
{
    sip_round(s);
    sip_round(s);
    sip_round(s);
    sip_round(s);
    return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

/* The last word: what is left of the message, and its size in the top byte. */
static inline uint64_t sip_last(const uint8_t *rest, size_t size)
{
    uint64_t word = (uint64_t)size << 56;
    size_t left = size & 7;

    for (size_t i = 0; i < left; i++)
        word |= (uint64_t)rest[i] << (8 * i);
    return word;
}

/* Both halves of the hash, as numbers. */
static inline __attribute__((always_inline)) uint64_t sip_128(uint64_t k0, uint64_t k1, const void *data, size_t size,
                                                              uint64_t *ret_high)
{
    struct sip s = {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du ^ 0xee, k0 ^ 0x6c7967656e657261u,
                    k1 ^ 0x7465646279746573u};
    const uint8_t *at = data;
    uint64_t low;

    for (size_t words = size / 8; words > 0; words--, at += 8)
        sip_take(&s, bytes_get64(at));
    sip_take(&s, sip_last(at, size));
    s.v2 ^= 0xee;
    low = sip_end(&s);
    s.v1 ^= 0xdd;
    *ret_high = sip_end(&s);
    return low;
}

void key_siphash128(uint64_t k0, uint64_t k1, const void *data, size_t size, uint8_t ret_hash[16])
{
    uint64_t high, low = sip_128(k0, k1, data, size, &high);

    bytes_put64(ret_hash, low);
    bytes_put64(ret_hash + 8, high);
}

/* The SipHash key that follows from these bytes. */
static void key_space_derive(const void *data, size_t size, uint64_t *ret_k0, uint64_t *ret_k1)
{
    static const uint8_t first[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    uint8_t hash[16];

    key_siphash128(bytes_get64(first), bytes_get64(first + 8), data, size, hash);
    *ret_k0 = bytes_get64(hash);
    *ret_k1 = bytes_get64(hash + 8);
}

void key_space_name(struct key_space *space, const char *name)
{
    static const char tag[] = "tag", name_space[] = "namespace";
    size_t size = strnlen(name, FRESHET_NAME_MAX);
    char text[FRESHET_NAME_MAX + 1 + sizeof name_space];

    key_space_derive(name, size, &space->k0, &space->k1);
    memcpy(text, name, size);
    text[size] = '\0'; /* no name has one: nothing else is hashed under these keys */
    memcpy(text + size + 1, tag, sizeof tag - 1);
    key_space_derive(text, size + sizeof tag, &space->tags[0][0], &space->tags[0][1]);
    memcpy(text + size + 1, name_space, sizeof name_space - 1);
    key_space_derive(text, size + sizeof name_space, &space->tags[1][0], &space->tags[1][1]);
}

void key_tag(const struct key_space *space, bool name_space, const void *data, size_t size, uint8_t ret_hash[16])
{
    key_siphash128(space->tags[name_space][0], space->tags[name_space][1], data, size, ret_hash);
}

uint64_t key_tag_number(const uint8_t hash[16])
{
    return bytes_get64(hash);
}

/* Where the key's words stand.  Most caches have one partition or a power of two: no division then. */
static inline void key_place(struct key *key, const struct key_space *space, uint64_t low, uint64_t high)
{
    uint32_t partitions = space->partitions;

    if ((partitions & (partitions - 1)) == 0) /* a space for hashing alone has none: partition 0 */
        key->partition = partitions ? (uint32_t)low & (partitions - 1) : 0;
    else
        key->partition = (uint32_t)(low % partitions);
    key->slot = (uint32_t)high & (space->fence_slots - 1);
}

void key_make(struct key *key, const struct key_space *space, const void *data, size_t size)
{
    uint64_t high, low = sip_128(space->k0, space->k1, data, size, &high);

    key->data = data;
    key->size = (uint32_t)size;
    bytes_put64(key->hash, low);
    bytes_put64(key->hash + 8, high);
    key_place(key, space, low, high);
}

void key_from_hash(struct key *key, const struct key_space *space, const uint8_t hash[16])
{
    key->data = NULL;
    key->size = 0;
    memmove(key->hash, hash, sizeof key->hash);
    key_place(key, space, bytes_get64(hash), bytes_get64(hash + 8));
}
