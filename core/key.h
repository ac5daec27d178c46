/*
 * key.h - a caller's key becomes the few numbers that everything below works with.  Pure.
 *
 * The hash is SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012) under a key that follows from the
 * cache's name, so that every host of a fleet, in any language, names a key alike (PROTOCOL.md).  The name is no
 * secret: whoever finds two keys of one hash gains a miss, since the full key is compared wherever a record is read.
 */
#ifndef CORE_KEY_H
#define CORE_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct key_space {
    uint64_t k0, k1;      /* the SipHash key of the cache */
    uint64_t tags[2][2];  /* of its tags, and of its namespaces */
    uint32_t partitions;  /* 1 to 16 */
    uint32_t fence_slots; /* in a partition, a power of two */
};

struct key {
    const void *data; /* the caller's */
    uint32_t size;
    uint8_t hash[16];   /* first 8 bytes: low word, little-endian; then the high word */
    uint32_t partition; /* low word mod partitions */
    uint32_t slot;      /* in the partition's fence table: high word mod fence_slots */
};

/* SipHash-2-4-128. */
void key_siphash128(uint64_t k0, uint64_t k1, const void *data, size_t size, uint8_t ret_hash[16]);
/* The SipHash keys of the cache `name`: SipHash-128 of the name, alone and with what follows it for tags and
 * namespaces, under the key 00 01 .. 0f. */
void key_space_name(struct key_space *space, const char *name);
void key_make(struct key *key, const struct key_space *space, const void *data, size_t size);
/* The same from a hash alone (frames and the outbox name keys so); data NULL, size 0. */
void key_from_hash(struct key *key, const struct key_space *space, const uint8_t hash[16]);
/* A tag's hash, or a namespace's: of domains of their own.  Its number is what records and tables know it by. */
void key_tag(const struct key_space *space, bool name_space, const void *data, size_t size, uint8_t ret_hash[16]);
uint64_t key_tag_number(const uint8_t hash[16]);

#endif
