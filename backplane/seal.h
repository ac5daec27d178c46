/*
 * seal.h - sign and verify frames (Ed25519), seal and open answers (XChaCha20-Poly1305).  With keyring.c the only file
 * that includes <sodium.h>.  The algorithms are fixed here, never by what a message says.
 *
 * Sealed bytes = value key id (8) | nonce (24) | ciphertext and tag (value size + 16).
 * Additional data = "freshet seal 2\0" | kind (1) | key id (8) | version (8) | writer (8) | source version (8) |
 *                   expiry (8, us of Redis's time, 0: never) | cache hash (16) | key size (4) |
 *                   count of tags (1) | tags (8 each) | key.
 * Integers are big-endian.
 */
#ifndef BACKPLANE_SEAL_H
#define BACKPLANE_SEAL_H

#include <freshet.h>
#include <keyring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SEAL_OVERHEAD 48u

freshet_result seal_init(void); /* libsodium, once; any thread */
void seal_random(void *bytes, size_t size);
/* BLAKE2b-256, for the table of frames already verified. */
void seal_digest(const void *bytes, size_t size, uint8_t ret_digest[32]);

/* Write key id and signature (72 bytes) for `body`. */
freshet_result seal_sign(struct keyring *keyring, const uint8_t *body, size_t size, uint8_t ret_head[72]);
enum seal_verdict { SEAL_GOOD, SEAL_SHORT, SEAL_UNKNOWN_KEY, SEAL_FORGED };
/* Verify a signed message; *ret_body points into it.  An unknown key id has the keyring read again once. */
enum seal_verdict seal_verify(struct keyring *keyring, const uint8_t *message, size_t size, const uint8_t **ret_body,
                              size_t *ret_body_size, uint64_t *ret_key_id);
const char *seal_verdict_name(enum seal_verdict verdict); /* "", "garbled", "unknown key", "bad signature" */

struct seal_facts {
    uint8_t kind; /* 1 value, 2 absent */
    uint64_t version, writer, source_version, expiry_us;
    uint8_t cache[16];
    const void *key;
    uint32_t key_size;
    const uint8_t *tags; /* 8 bytes each, as the record has them */
    uint32_t tag_count;  /* at most 17 */
};
/* Seal; ret_sealed has room for size + SEAL_OVERHEAD. */
freshet_result seal_value(struct keyring *keyring, const struct seal_facts *facts, const void *value, size_t size,
                          uint8_t *ret_sealed);
/* Open into ret_value (room for size - SEAL_OVERHEAD; NULL when that is 0); false: unknown key, or not sealed by a key
 * holder for just this. */
bool seal_open(struct keyring *keyring, const struct seal_facts *facts, const uint8_t *sealed, size_t size,
               uint8_t *ret_value);

#endif
