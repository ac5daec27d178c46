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
 * A hit pays for it, so it is two chains of multiplications side by side, and not SipHash.
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

#define EXPIRY_SHIFT 20
#define FIXED_SIZE   12u

enum { AS_IS = 0, NEAR = 1, FULL = 2 }; /* of born and expiry */

static inline uint64_t check_step(uint64_t check, uint64_t word, uint64_t factor)
{
    check = (check ^ word) * factor;
    return check ^ check >> 32;
}

static inline uint32_t record_check(uint64_t front, const struct record *record)
{
    uint64_t even = check_step(0x9e3779b97f4a7c15u, front, 0xff51afd7ed558ccdu);
    uint64_t odd = check_step(0xc2b2ae3d27d4eb4fu, record->as_of, 0xc4ceb9fe1a85ec53u);

    even = check_step(even, record->born, 0xff51afd7ed558ccdu);
    odd = check_step(odd, record->version, 0xc4ceb9fe1a85ec53u);
    even = check_step(even, record->writer, 0xff51afd7ed558ccdu);
    odd = check_step(odd, record->epoch, 0xc4ceb9fe1a85ec53u);
    even = check_step(even, record->source_version, 0xff51afd7ed558ccdu);
    odd = check_step(odd, (uint64_t)record->expires_ns, 0xc4ceb9fe1a85ec53u);
    for (uint32_t i = 0; i < record->tag_count; i++)
        even = check_step(even, record->tags[i], 0xff51afd7ed558ccdu);
    even ^= odd << 17 | odd >> 47;
    return (uint32_t)even; /* the last step has folded the upper half in: once more would fold it out */
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

/* Do kind and sizes make sense together? */
static inline bool record_sound(uint32_t kind, uint32_t tags, uint64_t key_size, uint64_t value_size, uint64_t limit)
{
    if (kind != RECORD_VALUE && (kind != RECORD_ABSENT || value_size != 0))
        return false;
    return tags <= RECORD_TAGS_MAX && key_size > 0 && key_size <= FRESHET_KEY_MAX && key_size + value_size <= limit;
}

static inline void get_numbers(struct record *record, const struct record_base *base, uint64_t front,
                               const uint8_t *at)
{
    uint32_t born = (uint32_t)(front >> FRONT_BORN) & 3, expiry = (uint32_t)(front >> FRONT_EXPIRY) & 3;

    record->as_of = front >> FRONT_AS_OF & 1 ? get_number(&at) : base->as_of + (uint64_t)get_offset(&at);
    record->born = record->as_of;
    if (__builtin_expect(born == NEAR, 0))
        record->born -= (uint64_t)get_offset(&at) & 0xffffffffu;
    else if (__builtin_expect(born != AS_IS, 0))
        record->born = get_number(&at);
    record->version = front >> FRONT_VERSION & 1 ? get_number(&at) : base->version + (uint64_t)get_offset(&at);
    record->writer = front >> FRONT_WRITER & 1 ? get_number(&at) : base->writer;
    record->epoch = front >> FRONT_EPOCH & 1 ? get_number(&at) : base->epoch;
    record->source_version = front >> FRONT_SOURCE & 1 ? get_number(&at) : 0;
    record->expires_ns = RECORD_NEVER;
    if (expiry == NEAR) /* in unsigned numbers: a damaged base must not overflow */
        record->expires_ns =
            (int64_t)((uint64_t)expiry_floor(base->expires_ns) + ((uint64_t)get_offset(&at) << EXPIRY_SHIFT));
    else if (expiry != AS_IS)
        record->expires_ns = (int64_t)get_number(&at);
    for (uint32_t i = 0; i < record->tag_count; i++)
        record->tags[i] = get_number(&at);
}

uint32_t record_decode(struct record *ret_record, const struct record_base *base, const uint8_t *bytes, size_t size,
                       uint64_t limit)
{
    uint64_t front, key_size, value_size;
    uint32_t tags, kind, head;

    if (size < RECORD_HEAD_LEAST)
        return 0;
    front = bytes_take64(bytes);
    kind = front & 3;
    tags = front >> FRONT_TAGS & 0x1f;
    key_size = front >> FRONT_KEY & 0x1ffff;
    value_size = front >> FRONT_VALUE & 0x7fffffff;
    if (!record_sound(kind, tags, key_size, value_size, limit))
        return 0;
    head = FIXED_SIZE + front_size(front, tags);
    if (head > size)
        return 0;
    ret_record->kind = (uint8_t)kind;
    ret_record->tag_count = tags;
    ret_record->key_size = (uint32_t)key_size;
    ret_record->value_size = value_size;
    get_numbers(ret_record, base, front, bytes + FIXED_SIZE);
    return bytes_get32(bytes + 8) == record_check(front, ret_record) ? head : 0;
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
