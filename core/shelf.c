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
    return (struct control_shelf *)shelf_place(control, key);
}

static inline uint64_t shelf_tag(const struct key *key)
{
    uint64_t high = bytes_get64(key->hash + 8);

    return high ? high : 1;
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

/* What is copied out, as it stood in the slot; the sizes were taken before. */
struct copy {
    uint64_t fields[7];
    uint64_t payload[PAYLOAD_WORDS];
};

#define CHECK_STEP 0xff51afd7ed558ccdu /* from one pair's place to the next */

__extension__ typedef unsigned __int128 shelf_sum;

/* Two words of the check, under a number of their place.  No product waits for another. */
static inline shelf_sum check_pair(uint64_t even, uint64_t odd, uint64_t place)
{
    return (shelf_sum)(even ^ place) * (odd ^ 0xc2b2ae3d27d4eb4fu);
}

/* Copy fields and so many words of the payload, each read once, and answer the check over them: against accidents, not
 * malice. */
static inline uint64_t slot_copy(const struct slot *slot, uint64_t sizes, uint32_t words, struct copy *copy)
{
    uint64_t place = 4 * CHECK_STEP;
    shelf_sum sum;
    uint32_t i;

#pragma GCC unroll 7
    for (i = 0; i < 7; i++)
        copy->fields[i] = word(&slot->fields[i]);
    sum = check_pair(copy->fields[0], copy->fields[1], CHECK_STEP);
    sum += check_pair(copy->fields[2], copy->fields[3], 2 * CHECK_STEP);
    sum += check_pair(copy->fields[4], copy->fields[5], 3 * CHECK_STEP);
    sum += check_pair(copy->fields[6], sizes, place);
#pragma GCC unroll 2
    for (i = 0; i + 1 < words; i += 2) {
        copy->payload[i] = word(&slot->payload[i]);
        copy->payload[i + 1] = word(&slot->payload[i + 1]);
        sum += check_pair(copy->payload[i], copy->payload[i + 1], place += CHECK_STEP);
    }
    if (i < words) {
        copy->payload[i] = word(&slot->payload[i]);
        sum += check_pair(copy->payload[i], 0, place += CHECK_STEP);
    }
    return (uint64_t)sum ^ (uint64_t)(sum >> 64);
}

/* ---- reading ---- */

/* The words of a key, zeros behind its last byte, are those of the caller's? */
static inline bool has_key(const uint64_t *words, const struct key *key)
{
    const uint8_t *bytes = key->data;
    uint32_t left = key->size;
    uint64_t last = 0, differ = 0;

    for (; left >= 8; left -= 8, bytes += 8)
        differ |= *words++ ^ native(bytes);
    if (left > 0) {
        memcpy(&last, bytes, left);
        differ |= *words ^ last;
    }
    return differ == 0;
}

static inline uint32_t sizes_words(const struct sizes *sizes)
{
    return sizes->tags + words_of(sizes->key) + words_of(sizes->value);
}

/* All is read into a copy of our own first: what is looked at is what is handed out. */
static inline bool slot_read(const struct slot *slot, const struct key *key, struct record *record, freshet_buf *buf)
{
    uint64_t sequence = word(&slot->sequence), packed = word(&slot->sizes), check;
    struct sizes sizes;
    struct copy copy;

    if (sequence & 1 || word(&slot->low) != bytes_get64(key->hash) || !sizes_unpack(&sizes, packed) ||
        sizes.key != key->size)
        return false;
    check = slot_copy(slot, packed, sizes_words(&sizes), &copy) ^ word(&slot->check);
    if (word(&slot->sequence) != sequence || check != 0)
        return false;
    if (!has_key(copy.payload + sizes.tags, key) || buf_reserve(buf, sizes.value) != FRESHET_OK)
        return false;
    record->kind = (uint8_t)sizes.kind;
    record->epoch = copy.fields[0];
    record->as_of = copy.fields[1];
    record->born = copy.fields[2];
    record->version = copy.fields[3];
    record->writer = copy.fields[4];
    record->source_version = copy.fields[5];
    record->expires_ns = (int64_t)copy.fields[6];
    record->key_size = sizes.key;
    record->value_size = sizes.value;
    record->tag_count = sizes.tags;
    for (uint32_t i = 0; i < sizes.tags; i++)
        record->tags[i] = copy.payload[i];
    memcpy(buf->data, copy.payload + sizes.tags + words_of(sizes.key), sizes.value);
    buf->size = sizes.value;
    return true;
}

/* The way before this one that has the tag too; SHELF_WAYS: none. */
static __attribute__((noinline)) uint32_t shelf_before(const struct control_shelf *set, uint64_t tag, uint32_t way)
{
    while (way-- > 0)
        if (word(&set->tags[way]) == tag)
            return way;
    return SHELF_WAYS;
}

bool shelf_read(const struct control *control, const struct key *key, struct record *ret_record, freshet_buf *buf)
{
    struct control_shelf *set = shelf_set(control, key);
    uint64_t tag = shelf_tag(key);
    uint32_t found = SHELF_WAYS;

    /* Which way it is cannot be foreseen: no branch on it.  With two of one tag the last that can be read is taken. */
#pragma GCC unroll 8
    for (uint32_t way = 0; way < SHELF_WAYS; way++)
        found = word(&set->tags[way]) == tag ? way : found;
    for (; found < SHELF_WAYS; found = shelf_before(set, tag, found)) {
        struct slot *slot = &set->slots[found];

        if (!slot_read(slot, key, ret_record, buf))
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
    set_word(&slot->check, slot_copy(slot, sizes_pack(sizes), sizes_words(sizes), &(struct copy){0}));
}

/* Does it hold a younger record of the key already, of the same history?  Who was slow to put his does not take it
 * away. */
static bool slot_has_younger(const struct slot *slot, const struct key *key, const struct record *record)
{
    uint64_t packed = word(&slot->sizes);
    struct sizes sizes;
    struct copy copy;

    if (word(&slot->low) != bytes_get64(key->hash) || !sizes_unpack(&sizes, packed) || sizes.key != key->size)
        return false;
    (void)slot_copy(slot, packed, sizes_words(&sizes), &copy);
    return has_key(copy.payload + sizes.tags, key) && copy.fields[0] == record->epoch &&
           copy.fields[1] > record->as_of;
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
