/*
 * shelf.c - the shelf's slots: read and written in words, since another process may write while we read.
 *
 *     set    tags, 8 of 8 bytes | slots, 8 of 256 bytes
 *     slot   sequence (odd: being written) | mark | hash's low word | check | epoch | as-of | born | version | writer |
 *            source version | expiry | sizes: kind 8 bits, tags 8, key 16, value 16 | payload, 20 words: tags, key,
 *            value, the last two padded with zeros
 *
 * Nothing read is believed: any process of this user may have written to the page.  Sizes are checked against the
 * payload before they are used, and the key is compared in full.  And since the page, unlike LMDB's map, can be written
 * to by a host program's stray pointer, a check over all that is copied out tells what such a one has spoilt.
 *
 * The order is one of those of H.-J. Boehm, "Can seqlocks get along with programming language memory models?" (2012):
 * each word is read with acquire, so the second look at the sequence comes after all of them, and written with release,
 * so whoever sees one sees the odd sequence too.  (On x86 that costs nothing; ThreadSanitizer knows no fences.)
 */
#include <shelf.h>

#include <buf.h>
#include <bytes.h>
#include <step.h>

#define SLOT_WORDS    32u
#define PAYLOAD_WORDS (SHELF_PAYLOAD / 8)
#define SET_SHIFT     16 /* of the hash's low word, whose lowest bits choose the partition */

uint32_t shelf_rarity = 8;

struct slot {
    _Alignas(64) _Atomic uint64_t sequence;
    _Atomic uint64_t mark; /* read since the last look for a victim */
    _Atomic uint64_t low, check;
    _Atomic uint64_t fields[7]; /* epoch, as-of, born, version, writer, source version, expiry */
    _Atomic uint64_t sizes;
    _Atomic uint64_t payload[PAYLOAD_WORDS];
};

struct control_shelf {
    _Alignas(64) _Atomic uint64_t tags[SHELF_WAYS]; /* 0: nothing there */
    struct slot slots[SHELF_WAYS];
};

_Static_assert(sizeof(struct slot) == 8 * SLOT_WORDS, "four cache lines");
_Static_assert(sizeof(struct control_shelf) == SHELF_SET_SIZE, "no padding: the file's layout");

struct sizes {
    uint32_t kind, tags, key, value;
};

static inline uint64_t word(const _Atomic uint64_t *at)
{
    return atomic_load_explicit(at, memory_order_acquire);
}

/* Eight bytes as a word, in this machine's order. */
static inline uint64_t native(const uint8_t *bytes)
{
    uint64_t value;

    memcpy(&value, bytes, sizeof value);
    return value;
}

static inline void set_word(_Atomic uint64_t *at, uint64_t value)
{
    atomic_store_explicit(at, value, memory_order_release);
}

static inline struct control_shelf *shelf_set(const struct control *control, const struct key *key)
{
    return &control->shelf[bytes_get64(key->hash) >> SET_SHIFT & (control->shelf_sets - 1)];
}

static inline uint64_t shelf_tag(const struct key *key)
{
    uint64_t high = bytes_get64(key->hash + 8);

    return high ? high : 1;
}

const void *shelf_place(const struct control *control, const struct key *key)
{
    return shelf_set(control, key);
}

static inline uint32_t words_of(uint32_t bytes)
{
    return (bytes + 7) / 8;
}

static uint64_t sizes_pack(const struct sizes *sizes)
{
    return (uint64_t)sizes->kind | sizes->tags << 8 | (uint64_t)sizes->key << 16 | (uint64_t)sizes->value << 32;
}

/* False: no sizes of ours. */
static inline bool sizes_unpack(struct sizes *sizes, uint64_t packed)
{
    *sizes = (struct sizes){packed & 0xff, packed >> 8 & 0xff, packed >> 16 & 0xffff, packed >> 32 & 0xffff};
    return packed >> 48 == 0 && (sizes->kind == RECORD_VALUE || sizes->kind == RECORD_ABSENT) &&
           sizes->tags <= RECORD_TAGS_MAX &&
           sizes->tags + words_of(sizes->key) + words_of(sizes->value) <= PAYLOAD_WORDS;
}

/* Over fields, sizes and so many words of the payload: against accidents, not malice.  In two chains, as record.c's. */
static inline uint64_t slot_check(const struct slot *slot, uint32_t words)
{
    uint64_t even = 0x9e3779b97f4a7c15u, odd = 0xc2b2ae3d27d4eb4fu;
    const _Atomic uint64_t *at = slot->fields; /* sizes and payload come next */

    words += (uint32_t)(slot->payload - slot->fields);
    for (; words >= 2; words -= 2, at += 2) {
        even = (even ^ word(at)) * 0xff51afd7ed558ccdu;
        even ^= even >> 32;
        odd = (odd ^ word(at + 1)) * 0xc4ceb9fe1a85ec53u;
        odd ^= odd >> 32;
    }
    if (words > 0)
        even = (even ^ word(at)) * 0xff51afd7ed558ccdu;
    return even ^ even >> 29 ^ (odd << 17 | odd >> 47);
}

/* ---- reading ---- */

static inline bool slot_has_key(const struct slot *slot, uint32_t at, const struct key *key)
{
    const uint8_t *bytes = key->data;
    uint32_t left = key->size;
    uint64_t last = 0;

    for (; left >= 8; left -= 8, bytes += 8)
        if (word(&slot->payload[at++]) != native(bytes))
            return false;
    memcpy(&last, bytes, left);
    return left == 0 || word(&slot->payload[at]) == last;
}

static inline void slot_copy_value(const struct slot *slot, uint32_t at, uint32_t size, uint8_t *to)
{
    uint64_t value;

    for (; size >= 8; size -= 8, to += 8) {
        value = word(&slot->payload[at++]);
        memcpy(to, &value, 8);
    }
    if (size > 0) {
        value = word(&slot->payload[at]);
        memcpy(to, &value, size);
    }
}

static inline bool slot_read(const struct slot *slot, const struct key *key, struct record *record, freshet_buf *buf)
{
    uint64_t sequence = word(&slot->sequence), check;
    struct sizes sizes;

    if (sequence & 1 || word(&slot->low) != bytes_get64(key->hash) ||
        !sizes_unpack(&sizes, word(&slot->sizes)) || sizes.key != key->size ||
        !slot_has_key(slot, sizes.tags, key) || buf_reserve(buf, sizes.value) != FRESHET_OK)
        return false;
    record->kind = (uint8_t)sizes.kind;
    record->epoch = word(&slot->fields[0]);
    record->as_of = word(&slot->fields[1]);
    record->born = word(&slot->fields[2]);
    record->version = word(&slot->fields[3]);
    record->writer = word(&slot->fields[4]);
    record->source_version = word(&slot->fields[5]);
    record->expires_ns = (int64_t)word(&slot->fields[6]);
    record->key_size = sizes.key;
    record->value_size = sizes.value;
    record->tag_count = sizes.tags;
    for (uint32_t i = 0; i < sizes.tags; i++)
        record->tags[i] = word(&slot->payload[i]);
    slot_copy_value(slot, sizes.tags + words_of(sizes.key), sizes.value, buf->data);
    buf->size = sizes.value;
    check = slot_check(slot, sizes.tags + words_of(sizes.key) + words_of(sizes.value)) ^ word(&slot->check);
    return word(&slot->sequence) == sequence && check == 0;
}

bool shelf_read(const struct control *control, const struct key *key, struct record *ret_record, freshet_buf *buf)
{
    struct control_shelf *set = shelf_set(control, key);
    uint64_t tag = shelf_tag(key);

    for (uint32_t way = 0; way < SHELF_WAYS; way++) {
        struct slot *slot = &set->slots[way];

        if (word(&set->tags[way]) != tag || !slot_read(slot, key, ret_record, buf))
            continue;
        if (word(&slot->mark) == 0)
            set_word(&slot->mark, 1);
        return true;
    }
    return false;
}

/* ---- writing ---- */

/* From here to slot_leave nobody else writes there, and what is read is not believed. */
static inline bool slot_enter(struct slot *slot, uint64_t *ret_sequence)
{
    uint64_t sequence = word(&slot->sequence);

    if (sequence & 1 || !atomic_compare_exchange_strong_explicit(&slot->sequence, &sequence, sequence + 1,
                                                                 memory_order_acquire, memory_order_relaxed))
        return false;
    *ret_sequence = sequence;
    STEP("shelf_entered");
    return true;
}

static inline void slot_leave(struct slot *slot, uint64_t sequence)
{
    set_word(&slot->sequence, sequence + 2);
}

/* Nobody writes there, nor has died doing so. */
static inline bool slot_is_free(const struct slot *slot)
{
    return (word(&slot->sequence) & 1) == 0;
}

/* The way for this key: its own, a free one, or that of one that was not read since somebody last looked here, from a
 * place on that changes. */
static uint32_t shelf_choose(struct control_shelf *set, uint64_t tag, uint64_t from)
{
    for (uint32_t way = 0; way < SHELF_WAYS; way++)
        if (word(&set->tags[way]) == tag && slot_is_free(&set->slots[way]))
            return way;
    for (uint32_t way = 0; way < SHELF_WAYS; way++)
        if (word(&set->tags[way]) == 0 && slot_is_free(&set->slots[way]))
            return way;
    for (uint32_t i = 0; i < SHELF_WAYS; i++) {
        struct slot *slot = &set->slots[(from + i) % SHELF_WAYS];

        if (word(&slot->mark) == 0 && slot_is_free(slot))
            return (uint32_t)((from + i) % SHELF_WAYS);
        set_word(&slot->mark, 0);
    }
    return (uint32_t)(from % SHELF_WAYS);
}

static void slot_write_bytes(struct slot *slot, uint32_t at, const uint8_t *bytes, uint32_t size)
{
    for (uint32_t done = 0; done < size; done += 8) {
        uint64_t value = 0;

        memcpy(&value, bytes + done, size - done < 8 ? size - done : 8);
        set_word(&slot->payload[at++], value);
    }
}

static void slot_write(struct slot *slot, const struct key *key, const struct record *record, const struct sizes *sizes,
                       const void *value)
{
    set_word(&slot->mark, 0);
    set_word(&slot->low, bytes_get64(key->hash));
    set_word(&slot->fields[0], record->epoch);
    set_word(&slot->fields[1], record->as_of);
    set_word(&slot->fields[2], record->born);
    set_word(&slot->fields[3], record->version);
    set_word(&slot->fields[4], record->writer);
    set_word(&slot->fields[5], record->source_version);
    set_word(&slot->fields[6], (uint64_t)record->expires_ns);
    set_word(&slot->sizes, sizes_pack(sizes));
    for (uint32_t i = 0; i < sizes->tags; i++)
        set_word(&slot->payload[i], record->tags[i]);
    slot_write_bytes(slot, sizes->tags, key->data, sizes->key);
    slot_write_bytes(slot, sizes->tags + words_of(sizes->key), value, sizes->value);
    set_word(&slot->check, slot_check(slot, sizes->tags + words_of(sizes->key) + words_of(sizes->value)));
}

/* Does it hold a younger record of the key already, of the same history?  Who was slow to put his does not take it
 * away. */
static bool slot_has_younger(const struct slot *slot, const struct key *key, const struct record *record)
{
    struct sizes sizes;

    return word(&slot->low) == bytes_get64(key->hash) && sizes_unpack(&sizes, word(&slot->sizes)) &&
           sizes.key == key->size && slot_has_key(slot, sizes.tags, key) && word(&slot->fields[0]) == record->epoch &&
           word(&slot->fields[1]) > record->as_of;
}

void shelf_put(const struct control *control, const struct key *key, const struct record *record, const void *value)
{
    struct sizes sizes = {record->kind, record->tag_count, key->size, (uint32_t)record->value_size};
    struct control_shelf *set = shelf_set(control, key);
    uint64_t tag = shelf_tag(key), sequence;
    struct slot *slot;
    uint32_t way;

    if (record->value_size > SHELF_PAYLOAD || key->size > SHELF_PAYLOAD || record->tag_count > RECORD_TAGS_MAX ||
        sizes.tags + words_of(sizes.key) + words_of(sizes.value) > PAYLOAD_WORDS)
        return;
    way = shelf_choose(set, tag, record->version + record->as_of);
    slot = &set->slots[way];
    if (!slot_enter(slot, &sequence))
        return;
    if (!slot_has_younger(slot, key, record)) {
        set_word(&set->tags[way], tag);
        slot_write(slot, key, record, &sizes, value);
    }
    slot_leave(slot, sequence);
}

void shelf_drop(const struct control *control, const struct key *key)
{
    struct control_shelf *set = shelf_set(control, key);
    uint64_t tag = shelf_tag(key), sequence;

    for (uint32_t way = 0; way < SHELF_WAYS; way++) {
        struct slot *slot = &set->slots[way];

        if (word(&set->tags[way]) != tag || !slot_enter(slot, &sequence))
            continue;
        if (word(&set->tags[way]) == tag) {
            set_word(&set->tags[way], 0);
            set_word(&slot->sizes, 0);
            STEP("shelf_emptied");
        }
        slot_leave(slot, sequence);
    }
}
