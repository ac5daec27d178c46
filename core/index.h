/*
 * index.h - where each key's record begins: a hash table in shared memory, read without a lock and without a walk.
 *
 * A bucket is one cache line: seven slots and, for each, a byte that readers touch, so a hit looks at one line, mostly,
 * and writes to none that it has not read.  A key may stand in either of two buckets, so the table can be full to nine
 * tenths.  It grows bucket by bucket (W. Litwin, "Linear hashing", 1980): nothing is ever copied as a whole.
 *
 * A slot is 23 bits of the key's hash and a place; what the place holds must be compared with the key.  It also has,
 * for every log, a table that tells on which page of the map a sheet lies.
 *
 * Only one at a time may write, under the map's writer lock; any number read meanwhile.  The file stands beside the map
 * and is worth nothing without it: both carry the same nonce.  A reader who looks while a slot is being moved from one
 * bucket to the other may miss it, which costs a miss.
 */
#ifndef CORE_INDEX_H
#define CORE_INDEX_H

#include <bytes.h>
#include <freshet.h>
#include <key.h>
#include <stdatomic.h>
#include <sys/types.h>

#define INDEX_WAYS 7u
#define INDEX_LOGS 2u

/* Where a record begins: log, number of the sheet modulo the table's size, offset in eights; never 0. */
#define PLACE_OFFSET_BITS 9u
#define PLACE_SHEET_BITS  30u
#define PLACE_LOG_BITS    2u
#define PLACE_BITS        (PLACE_OFFSET_BITS + PLACE_SHEET_BITS + PLACE_LOG_BITS)
#define PLACE_MASK        ((UINT64_C(1) << PLACE_BITS) - 1)
#define INDEX_SHEETS_MOST (UINT32_C(1) << PLACE_SHEET_BITS)

struct index_bucket {
    _Alignas(64) _Atomic uint64_t slots[INDEX_WAYS]; /* 0: empty */
    _Atomic uint8_t touched[8];
};

/* Words that the tier keeps beside the table */
enum index_word {
    INDEX_RECORDS, /* slots in use; what a killed writer left uncounted the next sweep sets right */
    INDEX_LIVE,    /* bytes of their records in the logs, likewise */
    INDEX_INDEXED, /* of each log: how far its records are in the table (tier.c) */
    INDEX_HAND = INDEX_INDEXED + INDEX_LOGS, /* how far the sweep has come through the logs */
    INDEX_MET,                               /* slots in use behind it, ... */
    INDEX_MET_LIVE,                          /* ... and their bytes */
    INDEX_SWEPT,                             /* CLOCK_BOOTTIME at which somebody last had his turn at it, ns */
    INDEX_WORDS
};

struct index_head; /* index.c */

struct index {
    struct index_head *head;
    _Atomic uint64_t *shape; /* buckets in use, and the level above them */
    _Atomic uint64_t *words; /* INDEX_WORDS */
    _Atomic uint32_t *sheets[INDEX_LOGS]; /* pages of the map */
    struct index_bucket *buckets;
    uint32_t sheet_mask;
    uint64_t buckets_most;
    size_t size;
    char *path;
    dev_t dev;
    ino_t ino;
};

/* ---- the file ---- */

/* Of a tier of so many bytes the map gets these; the rest is the index's, which never takes more: memory that the map
 * has once used it never gives back, so neither may grow at the other's cost. */
static inline uint64_t index_leaves(uint64_t tier_size)
{
    return tier_size - tier_size / 10;
}
/* What the index of such a map may take, in bytes. */
static inline uint64_t index_most(uint64_t map_size)
{
    return map_size / 9;
}

/* Make it anew under `path` for a map of so many pages; `nonce` is the map's. */
freshet_result index_create(struct index *index, const char *path, uint64_t nonce, uint64_t map_pages);
/* Open it; *ret_unfit: it is missing, damaged, or another map's. */
freshet_result index_open(struct index *index, const char *path, uint64_t nonce, uint64_t map_pages, bool *ret_unfit);
void index_close(struct index *index);
/* Bytes of memory that it takes now, and those that it took when it was made. */
uint64_t index_bytes(const struct index *index);

/* ---- places ---- */

static inline uint64_t place_make(const struct index *index, uint32_t log, uint64_t number, uint32_t offset)
{
    return (uint64_t)log << (PLACE_SHEET_BITS + PLACE_OFFSET_BITS) | (number & index->sheet_mask) << PLACE_OFFSET_BITS |
           offset / 8;
}
static inline uint32_t place_log(uint64_t place)
{
    return (uint32_t)(place >> (PLACE_SHEET_BITS + PLACE_OFFSET_BITS)) & ((1u << PLACE_LOG_BITS) - 1);
}
static inline uint32_t place_sheet(const struct index *index, uint64_t place)
{
    return (uint32_t)(place >> PLACE_OFFSET_BITS) & index->sheet_mask;
}
static inline uint32_t place_offset(uint64_t place)
{
    return (uint32_t)(place & ((1u << PLACE_OFFSET_BITS) - 1)) * 8;
}

/* ---- looking ---- */

/* The copy is behind us, and what is looked at next comes after it, on every machine.  (ThreadSanitizer knows no
 * fences; nor does it see what is copied.) */
static inline void copy_ends(void)
{
#ifdef __SANITIZE_THREAD__
    atomic_signal_fence(memory_order_acquire);
#else
    atomic_thread_fence(memory_order_acquire);
#endif
}

/* The other side: that it begins is seen before anything of what is written next. */
static inline void copy_changes(void)
{
#ifdef __SANITIZE_THREAD__
    atomic_signal_fence(memory_order_seq_cst);
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

/* One after the other, the slots that may be a key's. */
struct index_probe {
    uint64_t tag;
    struct index_bucket *bucket, *other; /* `other` NULL: this is the second one */
    uint32_t way;
    uint64_t word;              /* of the slot found */
    uint64_t shape;             /* the table's, when it began */
};

static inline uint64_t index_tag(const struct key *key)
{
    return bytes_get64(key->hash + 8) & ~PLACE_MASK;
}

static inline uint64_t index_shape(const struct index *index)
{
    return atomic_load_explicit(index->shape, memory_order_acquire);
}

/* Level in the upper byte, count of buckets below: 2^level <= count < 2^(level + 1).  Anything is clamped, since
 * another process may have written it. */
static inline uint64_t index_bucket_at(const struct index *index, uint64_t shape, uint64_t hash)
{
    uint64_t count = shape & ((UINT64_C(1) << 56) - 1), low = (UINT64_C(1) << (shape >> 56 & 31)) - 1;
    uint64_t at = hash & (low * 2 + 1);

    if (at >= count)
        at &= low;
    return __builtin_expect(at < index->buckets_most, 1) ? at : 0;
}
static inline uint64_t index_first_hash(const struct key *key)
{
    return bytes_get64(key->hash) >> 16;
}
static inline uint64_t index_second_hash(const struct key *key)
{
    return bytes_get64(key->hash + 8) & 0xffffffffu;
}

static inline void index_begin(struct index_probe *probe, const struct index *index, const struct key *key)
{
    uint64_t shape = index_shape(index);

    probe->tag = index_tag(key);
    probe->shape = shape;
    probe->bucket = &index->buckets[index_bucket_at(index, shape, index_first_hash(key))];
    probe->other = &index->buckets[index_bucket_at(index, shape, index_second_hash(key))];
    probe->way = 0;
}

/* The next candidate; false: there is none. */
static inline bool index_next(struct index_probe *probe)
{
    for (;;) {
        for (uint32_t way = probe->way; way < INDEX_WAYS; way++) {
            uint64_t word = atomic_load_explicit(&probe->bucket->slots[way], memory_order_acquire);

            if ((word & ~PLACE_MASK) == probe->tag && word != 0) {
                probe->word = word;
                probe->way = way + 1;
                return true;
            }
        }
        if (!probe->other || probe->other == probe->bucket)
            return false;
        probe->bucket = probe->other;
        probe->other = NULL;
        probe->way = 0;
    }
}

/* The slot and the byte of the candidate found last. */
static inline _Atomic uint64_t *index_slot(const struct index_probe *probe)
{
    return &probe->bucket->slots[probe->way - 1];
}
static inline _Atomic uint8_t *index_touched(const struct index_probe *probe)
{
    return &probe->bucket->touched[probe->way - 1];
}

/* ---- writing: one at a time ---- */

/* The hash of the key whose record begins there; false: there is no record to be read. */
typedef bool (*index_hash_fn)(void *arg, uint64_t place, struct key *ret_key);

/* Give a key that has no slot one.  Where neither bucket has room, whoever was touched least in them gives way:
 * *ret_evicted gets its place, else 0. */
void index_insert(struct index *index, const struct key *key, uint64_t place, uint8_t touched, index_hash_fn hash,
                  void *arg, uint64_t *ret_evicted);
/* Let a slot point elsewhere. */
static inline void index_move(_Atomic uint64_t *slot, uint64_t place)
{
    uint64_t tag = atomic_load_explicit(slot, memory_order_relaxed) & ~PLACE_MASK;

    atomic_store_explicit(slot, tag | place, memory_order_release);
}
static inline void index_clear(_Atomic uint64_t *slot)
{
    atomic_store_explicit(slot, 0, memory_order_release);
}

/* The page on which a sheet lies. */
static inline uint32_t index_page(const struct index *index, uint32_t log, uint64_t number)
{
    return atomic_load_explicit(&index->sheets[log][number & index->sheet_mask], memory_order_acquire);
}
static inline void index_set_page(const struct index *index, uint32_t log, uint64_t number, uint32_t page)
{
    atomic_store_explicit(&index->sheets[log][number & index->sheet_mask], page, memory_order_release);
}

#endif
