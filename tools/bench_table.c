/*
 * bench_table.c - the other floor of a hot hit: the plainest table in shared memory that could stand in for one.
 *
 * Open addressing, half full, a slot a record: a sequence that is odd while somebody writes, the hash, the key, the
 * value.  A read hashes its key with SipHash-2-4 (64 bits, a random key), probes, compares the key, copies the value
 * and looks at the sequence again.  No clock, no check, no eviction, no fence: what is above it is what ours adds.
 */
#include "bench.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct slot {
    _Atomic uint32_t sequence;
    uint32_t size; /* of the value */
    uint64_t hash;
    char key[BENCH_KEY];
    unsigned char value[];
};

struct raw_table {
    uint64_t k0, k1;
    uint64_t mask;    /* slots - 1 */
    size_t slot_size; /* bytes, whole lines */
    unsigned char *slots;
    size_t bytes;
};

struct sip {
    uint64_t a, b, c, d;
};

static inline uint64_t turn(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static inline __attribute__((always_inline)) void sip_rounds(struct sip *s, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        s->a += s->b, s->b = turn(s->b, 13) ^ s->a, s->a = turn(s->a, 32);
        s->c += s->d, s->d = turn(s->d, 16) ^ s->c;
        s->a += s->d, s->d = turn(s->d, 21) ^ s->a;
        s->c += s->b, s->b = turn(s->b, 17) ^ s->c, s->c = turn(s->c, 32);
    }
}

/* SipHash-2-4 of a key of BENCH_KEY bytes. */
static uint64_t sip_hash(uint64_t k0, uint64_t k1, const char *key)
{
    struct sip s = {k0 ^ UINT64_C(0x736f6d6570736575), k1 ^ UINT64_C(0x646f72616e646f6d),
                    k0 ^ UINT64_C(0x6c7967656e657261), k1 ^ UINT64_C(0x7465646279746573)};
    uint64_t word;

    for (unsigned i = 0; i < BENCH_KEY; i += sizeof word) {
        memcpy(&word, key + i, sizeof word);
        s.d ^= word;
        sip_rounds(&s, 2);
        s.a ^= word;
    }
    word = (uint64_t)BENCH_KEY << 56;
    s.d ^= word;
    sip_rounds(&s, 2);
    s.a ^= word;
    s.c ^= 0xff;
    sip_rounds(&s, 4);
    return s.a ^ s.b ^ s.c ^ s.d;
}

struct raw_table *raw_table_open(uint32_t records, uint32_t value_size)
{
    struct raw_table *table = calloc(1, sizeof *table);
    uint64_t seed = (uint64_t)bench_wall_ns(), slots = 64;

    while (slots < 2 * (uint64_t)records)
        slots *= 2;
    if (!table)
        return NULL;
    *table = (struct raw_table){.k0 = bench_random(&seed), .k1 = bench_random(&seed), .mask = slots - 1};
    table->slot_size = (sizeof(struct slot) + value_size + 63) / 64 * 64;
    table->bytes = slots * table->slot_size;
    table->slots = mmap(NULL, table->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (table->slots == MAP_FAILED) {
        free(table);
        return NULL;
    }
    return table;
}

void raw_table_close(struct raw_table *table)
{
    if (table)
        munmap(table->slots, table->bytes);
    free(table);
}

static inline struct slot *slot_at(const struct raw_table *table, uint64_t at)
{
    return (void *)(table->slots + (at & table->mask) * table->slot_size);
}

bool raw_table_put(struct raw_table *table, const struct bench_records *records, uint32_t i, const unsigned char *value)
{
    uint64_t hash = sip_hash(table->k0, table->k1, records->keys[i]) | 1; /* 0: a slot that is free */

    for (uint64_t at = hash >> 1, tried = 0; tried <= table->mask; at++, tried++) {
        struct slot *slot = slot_at(table, at);

        if (slot->hash != 0)
            continue;
        atomic_fetch_add_explicit(&slot->sequence, 1, memory_order_acquire);
        slot->hash = hash;
        slot->size = records->size;
        memcpy(slot->key, records->keys[i], BENCH_KEY);
        memcpy(slot->value, value, records->size);
        atomic_fetch_add_explicit(&slot->sequence, 1, memory_order_release);
        return true;
    }
    return false;
}

static bool table_get(const struct raw_table *table, const char *key, unsigned char *buf, uint32_t room)
{
    uint64_t hash = sip_hash(table->k0, table->k1, key) | 1;

    for (uint64_t at = hash >> 1, tried = 0; tried <= table->mask; at++, tried++) {
        struct slot *slot = slot_at(table, at);
        uint32_t sequence = atomic_load_explicit(&slot->sequence, memory_order_acquire);

        if (slot->hash == 0)
            return false;
        if (slot->hash != hash || memcmp(slot->key, key, BENCH_KEY) != 0)
            continue;
        if (sequence & 1 || slot->size > room)
            return false;
        memcpy(buf, slot->value, slot->size);
        atomic_signal_fence(memory_order_acquire); /* enough where loads stay in order; and here nobody writes */
        return atomic_load_explicit(&slot->sequence, memory_order_relaxed) == sequence;
    }
    return false;
}

int64_t raw_table_get(struct raw_table *table, const struct bench_records *records, const uint32_t *sequence,
                      size_t count, unsigned char *buf, uint64_t *sum)
{
    int64_t start = bench_cpu_ns();

    for (size_t i = 0; i < count; i++) {
        if (!table_get(table, records->keys[sequence[i]], buf, records->size))
            return -1;
        *sum += buf[0];
    }
    return bench_cpu_ns() - start;
}
