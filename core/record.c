/*
 * record.c - a record's head as bytes.
 *
 *     0 front u64 | 8 check u32 | as-of | born | version | writer | epoch | source version | expiry |
 *     tags, 64 bits each
 *
 * The front holds kind (2 bits), count of tags (5), size of the key (17), size of the value (31), and from bit 55 on
 * how each of the following is written: as-of (1 bit: 0 its distance to the base in 32 bits, 1 in full), born (2: the
 * as-of; 32 bits that it lies below; in full), version (1: as as-of's), writer and epoch (1 each: the base's; in full),
 * source version (1: none; in full), expiry (2: never; distance in 2^20 ns in 32 bits, both rounded down to
 * such; in full).  All little-endian.
 *
 * The check is for accidents (a map that was damaged, another program's file), not against this user's own malice,
 * whom the map lies open to anyway.  It is made of the numbers as they come out, so that damage to the base shows too.
 * A hit pays for it, so it is multiplications that do not wait for one another, and not SipHash.
 */
#include <record.h>

#include <bytes.h>
#include <freshet.h>

#define FRONT_TAGS   2
#define FRONT_KEY    7
#define FRONT_VALUE  24
#define FRONT_AS_OF  55 /* and what follows it, as above */
#define FRONT_BORN   56
#define FRONT_VERSION 58
#define FRONT_WRITER 59
#define FRONT_EPOCH  60
#define FRONT_SOURCE 61
#define FRONT_EXPIRY 62
/* One of these is set: a number in full, or tags.  Most heads have none. */
#define FRONT_RARE                                                                                  \
    (UINT64_C(0x1f) << FRONT_TAGS | UINT64_C(1) << FRONT_AS_OF | UINT64_C(2) << FRONT_BORN |        \
     UINT64_C(0xf) << FRONT_VERSION | UINT64_C(2) << FRONT_EXPIRY)

#define EXPIRY_SHIFT 20
#define FIXED_SIZE   12u

enum { AS_IS = 0, NEAR = 1, FULL = 2 }; /* of born and expiry */

/* Two words into one: both halves of a product of 128 bits, each word with a secret of its own (the step of wyhash,
 * Wang Yi, 2019). */
static inline uint64_t check_mix(uint64_t a, uint64_t b)
{
    __extension__ unsigned __int128 product = (unsigned __int128)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint32_t record_check(uint64_t front, const struct record *record)
{
    uint64_t check = check_mix(front ^ 0x9e3779b97f4a7c15u, record->as_of ^ 0xff51afd7ed558ccdu);

    check ^= check_mix(record->born ^ 0xc2b2ae3d27d4eb4fu, record->version ^ 0xc4ceb9fe1a85ec53u);
    check ^= check_mix(record->writer ^ 0x165667b19e3779f9u, record->epoch ^ 0x27d4eb2f165667c5u);
    check ^= check_mix(record->source_version ^ 0x85ebca77c2b2ae63u,
                       (uint64_t)record->expires_ns ^ 0xd6e8feb86659fd93u);
    for (uint32_t i = 0; i < record->tag_count; i++)
        check = check_mix(check ^ 0xa0761d6478bd642fu, record->tags[i] ^ 0xe7037ed1a0b428dbu);
    return (uint32_t)(check ^ check >> 32);
}

/* ---- writing ---- */

static uint8_t *put32(uint8_t *to, uint64_t number)
{
    bytes_put32(to, (uint32_t)number);
    return to + 4;
}

static uint8_t *put64(uint8_t *to, uint64_t number)
{
    bytes_put64(to, number);
    return to + 8;
}

/* A number near the base's, or in full; the flag tells. */
static uint8_t *put_near(uint8_t *to, uint64_t number, uint64_t base, unsigned flag, uint64_t *front)
{
    int64_t off = (int64_t)(number - base);

    if (off >= INT32_MIN && off <= INT32_MAX)
        return put32(to, (uint64_t)off);
    *front |= UINT64_C(1) << flag;
    return put64(to, number);
}

static uint8_t *put_unless(uint8_t *to, uint64_t number, uint64_t usual, unsigned flag, uint64_t *front)
{
    if (number == usual)
        return to;
    *front |= UINT64_C(1) << flag;
    return put64(to, number);
}

static uint8_t *put_born(uint8_t *to, const struct record *record, uint64_t *front)
{
    uint64_t below = record->as_of - record->born;

    if (below == 0)
        return to;
    *front |= (uint64_t)(below <= UINT32_MAX ? NEAR : FULL) << FRONT_BORN;
    return below <= UINT32_MAX ? put32(to, below) : put64(to, record->born);
}

/* Down to a multiple of 2^20 ns: a record that is copied often, from base to base, loses that once, and no copy is
 * taken for an older answer. */
static inline int64_t expiry_floor(int64_t expires_ns)
{
    return (int64_t)((uint64_t)expires_ns >> EXPIRY_SHIFT << EXPIRY_SHIFT);
}

/* The expiry that can be written. */
static uint8_t *put_expiry(uint8_t *to, int64_t base, int64_t *expires_ns, uint64_t *front)
{
    int64_t steps;

    if (*expires_ns == RECORD_NEVER)
        return to;
    if (*expires_ns > 0)
        *expires_ns = expiry_floor(*expires_ns);
    if (*expires_ns > 0 && base > 0 && base != RECORD_NEVER) {
        steps = (*expires_ns >> EXPIRY_SHIFT) - (base >> EXPIRY_SHIFT);
        if (steps >= INT32_MIN && steps <= INT32_MAX) {
            *front |= (uint64_t)NEAR << FRONT_EXPIRY;
            return put32(to, (uint64_t)steps);
        }
    }
    *front |= (uint64_t)FULL << FRONT_EXPIRY;
    return put64(to, (uint64_t)*expires_ns);
}

void record_base_encode(const struct record_base *base, uint8_t bytes[RECORD_BASE_SIZE])
{
    bytes_put64(bytes, base->epoch);
    bytes_put64(bytes + 8, base->as_of);
    bytes_put64(bytes + 16, base->version);
    bytes_put64(bytes + 24, base->writer);
    bytes_put64(bytes + 32, (uint64_t)base->expires_ns);
}

uint32_t record_encode(const struct record *record, const struct record_base *base, uint8_t *bytes)
{
    uint64_t front = (uint64_t)record->kind | (uint64_t)record->tag_count << FRONT_TAGS |
                     (uint64_t)record->key_size << FRONT_KEY | record->value_size << FRONT_VALUE;
    struct record written;
    uint8_t *to = bytes + FIXED_SIZE;

    record_copy(&written, record);
    to = put_near(to, record->as_of, base->as_of, FRONT_AS_OF, &front);
    to = put_born(to, record, &front);
    to = put_near(to, record->version, base->version, FRONT_VERSION, &front);
    to = put_unless(to, record->writer, base->writer, FRONT_WRITER, &front);
    to = put_unless(to, record->epoch, base->epoch, FRONT_EPOCH, &front);
    to = put_unless(to, record->source_version, 0, FRONT_SOURCE, &front);
    to = put_expiry(to, base->expires_ns, &written.expires_ns, &front);
    for (uint32_t i = 0; i < record->tag_count; i++)
        to = put64(to, record->tags[i]);
    bytes_put64(bytes, front);
    bytes_put32(bytes + 8, record_check(front, &written));
    return (uint32_t)(to - bytes);
}

/* ---- reading ---- */

/* Bytes behind the fixed ones, by what the front says; tags included. */
static inline uint32_t front_size(uint64_t front, uint32_t tags)
{
    static const uint8_t widths[4] = {0, 4, 8, 8};
    uint64_t eights = (front >> FRONT_WRITER & 1) + (front >> FRONT_EPOCH & 1) + (front >> FRONT_SOURCE & 1) + tags;

    return (uint32_t)(8 + (front >> FRONT_AS_OF & 1) * 4 + widths[front >> FRONT_BORN & 3] +
                      (front >> FRONT_VERSION & 1) * 4 + widths[front >> FRONT_EXPIRY & 3] + eights * 8);
}

/* Kind and sizes, into the record; false: they make no sense together. */
static inline bool get_front(struct record *record, uint64_t front, uint64_t limit)
{
    uint64_t key_size = front >> FRONT_KEY & 0x1ffff, value_size = front >> FRONT_VALUE & 0x7fffffff;
    uint32_t kind = front & 3;

    record->kind = (uint8_t)kind;
    record->key_size = (uint32_t)key_size;
    record->value_size = value_size;
    record->tag_count = front >> FRONT_TAGS & 0x1f;
    if (kind != RECORD_VALUE && (kind != RECORD_ABSENT || value_size != 0))
        return false;
    return key_size - 1 < FRESHET_KEY_MAX && key_size + value_size <= limit;
}

static inline uint64_t get_number(const uint8_t **at)
{
    uint64_t number = bytes_get64(*at);

    *at += 8;
    return number;
}

static inline int64_t get_offset(const uint8_t **at)
{
    int64_t off = (int32_t)bytes_get32(*at);

    *at += 4;
    return off;
}

/* An expiry so many steps from the base's; in unsigned numbers: a damaged base must not overflow. */
static inline int64_t expiry_near(int64_t base_ns, int64_t steps)
{
    return (int64_t)((uint64_t)expiry_floor(base_ns) + ((uint64_t)steps << EXPIRY_SHIFT));
}

/* A head of any looks. */
static __attribute__((noinline)) uint32_t decode_rare(struct record *record, const uint8_t *base_bytes,
                                                      const uint8_t *bytes, size_t size, uint64_t front)
{
    uint32_t born = (uint32_t)(front >> FRONT_BORN) & 3, expiry = (uint32_t)(front >> FRONT_EXPIRY) & 3, head;
    const struct record_base base = record_base_decode(base_bytes);
    const uint8_t *at = bytes + FIXED_SIZE;

    head = FIXED_SIZE + front_size(front, record->tag_count);
    if (record->tag_count > RECORD_TAGS_MAX || head > size)
        return 0;
    record->as_of = front >> FRONT_AS_OF & 1 ? get_number(&at) : base.as_of + (uint64_t)get_offset(&at);
    record->born = record->as_of;
    if (born == NEAR)
        record->born -= (uint64_t)get_offset(&at) & 0xffffffffu;
    else if (born != AS_IS)
        record->born = get_number(&at);
    record->version = front >> FRONT_VERSION & 1 ? get_number(&at) : base.version + (uint64_t)get_offset(&at);
    record->writer = front >> FRONT_WRITER & 1 ? get_number(&at) : base.writer;
    record->epoch = front >> FRONT_EPOCH & 1 ? get_number(&at) : base.epoch;
    record->source_version = front >> FRONT_SOURCE & 1 ? get_number(&at) : 0;
    record->expires_ns = RECORD_NEVER;
    if (expiry == NEAR)
        record->expires_ns = expiry_near(base.expires_ns, get_offset(&at));
    else if (expiry != AS_IS)
        record->expires_ns = (int64_t)get_number(&at);
    for (uint32_t i = 0; i < record->tag_count; i++)
        record->tags[i] = get_number(&at);
    return bytes_get32(bytes + 8) == record_check(front, record) ? head : 0;
}

/* Every hit comes by: what most heads look like is read in one go, and the base where it stands. */
uint32_t record_decode(struct record *ret_record, const uint8_t base[RECORD_BASE_SIZE], const uint8_t *bytes,
                       size_t size, uint64_t limit)
{
    const uint8_t *at = bytes + FIXED_SIZE;
    uint64_t front, born, expires;

    if (size < RECORD_HEAD_LEAST)
        return 0;
    front = bytes_take64(bytes);
    if (!get_front(ret_record, front, limit))
        return 0;
    if (__builtin_expect((front & FRONT_RARE) != 0, 0))
        return decode_rare(ret_record, base, bytes, size, front);
    born = front >> FRONT_BORN & 1;
    expires = front >> FRONT_EXPIRY & 1;
    if (RECORD_HEAD_LEAST + 4 * (born + expires) > size)
        return 0;
    ret_record->tag_count = 0; /* as was seen; so the check has no loop here */
    ret_record->epoch = bytes_get64(base);
    ret_record->as_of = bytes_get64(base + 8) + (uint64_t)get_offset(&at);
    ret_record->born = ret_record->as_of - (born ? (uint64_t)get_offset(&at) & 0xffffffffu : 0);
    ret_record->version = bytes_get64(base + 16) + (uint64_t)get_offset(&at);
    ret_record->writer = bytes_get64(base + 24);
    ret_record->source_version = 0;
    ret_record->expires_ns =
        expires ? expiry_near((int64_t)bytes_get64(base + 32), get_offset(&at)) : RECORD_NEVER;
    return bytes_get32(bytes + 8) == record_check(front, ret_record) ? (uint32_t)(at - bytes) : 0;
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
    if (next->source_version && old->source_version && next->source_version != old->source_version)
        return next->source_version > old->source_version; /* loaded twice while nothing was changed here */
    return next->expires_ns >= old->expires_ns;
}
