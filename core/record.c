/*
 * record.c - a record's head as bytes.
 *
 *     0 magic u32 | 4 format u8 | 5 kind u8 | 6 tags u8 | 7 zero u8 | 8 key size u32 | 12 value size u32 |
 *     16 epoch | 24 as-of | 32 born | 40 version | 48 writer | 56 source version | 64 expiry (each 64 bits) |
 *     72 check u64 of all else | 80 tags (each 64 bits)                                little-endian, 80 bytes and more
 *
 * Every byte here is paid for twice: the tree's leaves hold fewer records, so a hit finds fewer of them in the CPU's
 * cache. The check is for accidents (a map that was damaged, another program's file), not against this user's own
 * malice, whom the map lies open to anyway.  A hit pays for it, so it is two chains of multiplications side by side,
 * and not SipHash: any single word that changes changes it, others by chance once in 2^64.
 */
#include <record.h>

#include <bytes.h>
#include <freshet.h>

#define RECORD_MAGIC   0x32527246u /* "FrR2" */
#define RECORD_FORMAT  2u
#define RECORD_CHECKED 72u

/* The first eight bytes as a number: what is always the same, and where kind and count of tags stand. */
#define RECORD_FRONT      ((uint64_t)RECORD_FORMAT << 32 | RECORD_MAGIC)
#define RECORD_FRONT_FREE (UINT64_C(0xffff) << 40)

/* The check goes on over the tags. */
static uint64_t record_check_tags(uint64_t check, const uint8_t *tags, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        check = (check ^ bytes_get64(tags + 8 * i)) * 0xff51afd7ed558ccdu;
        check ^= check >> 32;
    }
    return check;
}

/* Two words into the two chains. */
static inline void record_check_two(uint64_t *even, uint64_t *odd, const uint8_t *bytes)
{
    *even = (*even ^ bytes_get64(bytes)) * 0xff51afd7ed558ccdu;
    *even ^= *even >> 32;
    *odd = (*odd ^ bytes_get64(bytes + 8)) * 0xc4ceb9fe1a85ec53u;
    *odd ^= *odd >> 32;
}

/* The check of a head: its first RECORD_CHECKED bytes, and the tags. */
static inline uint64_t record_check(const uint8_t *bytes, uint32_t tags)
{
    uint64_t even = 0x9e3779b97f4a7c15u, odd = 0xc2b2ae3d27d4eb4fu;

    record_check_two(&even, &odd, bytes);
    record_check_two(&even, &odd, bytes + 16);
    record_check_two(&even, &odd, bytes + 32);
    record_check_two(&even, &odd, bytes + 48);
    even = (even ^ bytes_get64(bytes + RECORD_CHECKED - 8)) * 0xff51afd7ed558ccdu;
    even ^= even >> 29 ^ (odd << 17 | odd >> 47);
    return __builtin_expect(tags == 0, 1) ? even : record_check_tags(even, bytes + RECORD_HEAD_SIZE, tags);
}

void record_encode(const struct record *record, uint8_t *bytes)
{
    memset(bytes, 0, RECORD_HEAD_SIZE);
    bytes_put32(bytes, RECORD_MAGIC);
    bytes[4] = RECORD_FORMAT;
    bytes[5] = record->kind;
    bytes[6] = (uint8_t)record->tag_count;
    bytes_put32(bytes + 8, record->key_size);
    bytes_put32(bytes + 12, (uint32_t)record->value_size); /* the largest value_max is 1 GiB */
    bytes_put64(bytes + 16, record->epoch);
    bytes_put64(bytes + 24, record->as_of);
    bytes_put64(bytes + 32, record->born);
    bytes_put64(bytes + 40, record->version);
    bytes_put64(bytes + 48, record->writer);
    bytes_put64(bytes + 56, record->source_version);
    bytes_put64(bytes + 64, (uint64_t)record->expires_ns);
    for (uint32_t i = 0; i < record->tag_count; i++)
        bytes_put64(bytes + RECORD_HEAD_SIZE + 8 * i, record->tags[i]);
    bytes_put64(bytes + RECORD_CHECKED, record_check(bytes, record->tag_count));
}

/* Do kind and sizes make sense together? */
static inline bool record_sound(uint8_t kind, uint32_t key_size, uint32_t value_size, uint64_t limit)
{
    if (kind != RECORD_VALUE && kind != RECORD_ABSENT)
        return false;
    if (kind == RECORD_ABSENT && value_size != 0)
        return false;
    if (key_size == 0 || key_size > FRESHET_KEY_MAX)
        return false;
    return (uint64_t)key_size + value_size <= limit;
}

bool record_decode(struct record *ret_record, const uint8_t *bytes, size_t size, uint64_t limit)
{
    uint64_t front;
    uint32_t tags, key_size, value_size;
    uint8_t kind;

    if (size < RECORD_HEAD_SIZE)
        return false;
    front = bytes_get64(bytes);
    kind = (uint8_t)(front >> 40);
    tags = (uint8_t)(front >> 48);
    if ((front & ~RECORD_FRONT_FREE) != RECORD_FRONT || tags > RECORD_TAGS_MAX || size < RECORD_HEAD_SIZE + 8 * tags)
        return false;
    key_size = bytes_get32(bytes + 8);
    value_size = bytes_get32(bytes + 12);
    if (!record_sound(kind, key_size, value_size, limit) ||
        bytes_get64(bytes + RECORD_CHECKED) != record_check(bytes, tags))
        return false;
    /* One by one: an initialiser would clear the room for tags at every hit. */
    ret_record->kind = kind;
    ret_record->tag_count = tags;
    ret_record->key_size = key_size;
    ret_record->value_size = value_size;
    ret_record->epoch = bytes_get64(bytes + 16);
    ret_record->as_of = bytes_get64(bytes + 24);
    ret_record->born = bytes_get64(bytes + 32);
    ret_record->version = bytes_get64(bytes + 40);
    ret_record->writer = bytes_get64(bytes + 48);
    ret_record->source_version = bytes_get64(bytes + 56);
    ret_record->expires_ns = (int64_t)bytes_get64(bytes + 64);
    for (uint32_t i = 0; i < tags; i++)
        ret_record->tags[i] = bytes_get64(bytes + RECORD_HEAD_SIZE + 8 * i);
    return true;
}

bool record_replaces(const struct record *next, const struct record *old, uint64_t epoch)
{
    if (next->epoch != epoch)
        return false;
    if (old->epoch != epoch)
        return true;
    if (next->as_of != old->as_of)
        return next->as_of > old->as_of;
    if (next->born != old->born)
        return next->born > old->born;
    return next->expires_ns >= old->expires_ns;
}
