/*
 * seal.c - what proves where bytes come from: Ed25519 over frames, XChaCha20-Poly1305 over answers (PROTOCOL.md,
 * sections 2 and 5).  With keyring.c the only file that includes <sodium.h>.
 *
 * libsodium abort()s the process when it is called with sizes that cannot be, so every size is judged here first.  A
 * key is copied out of the keyring for one call and wiped after it: a keyring that changes meanwhile disturbs nobody.
 */
#include <seal.h>

#include <bytes.h>
#include <frame.h>
#include <remote.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t seal_frame_prefix[16] = "freshet frame 1"; /* its NUL belongs to it */
static const uint8_t seal_answer_prefix[15] = "freshet seal 2"; /* likewise */

#define SEAL_AD_HEAD 77u
#define SEAL_NONCE   crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
#define SEAL_TAG     crypto_aead_xchacha20poly1305_ietf_ABYTES

_Static_assert(8 + SEAL_NONCE + SEAL_TAG == SEAL_OVERHEAD, "sealed bytes are as PROTOCOL.md says");
_Static_assert(8 + crypto_sign_BYTES == FRAME_SIGNED_HEAD, "signed messages are as PROTOCOL.md says");

freshet_result seal_init(void)
{
    if (sodium_init() < 0)
        return remote_fail(FRESHET_EIO, "libsodium cannot start: the system gives no randomness");
    return FRESHET_OK;
}

void seal_random(void *bytes, size_t size)
{
    randombytes_buf(bytes, size);
}

void seal_digest(const void *bytes, size_t size, uint8_t ret_digest[32])
{
    crypto_generichash(ret_digest, 32, bytes, size, NULL, 0);
}

/* ---- frames -------------------------------------------------------------------------------------------------- */

/* What is signed: prefix and body, in one piece, because Ed25519 reads it twice.  Returns its size; 0: no body. */
static size_t seal_signed_bytes(uint8_t *to, const uint8_t *body, size_t size)
{
    if (size == 0 || size > FRAME_BODY_MAX)
        return 0;
    memcpy(to, seal_frame_prefix, sizeof seal_frame_prefix);
    memcpy(to + sizeof seal_frame_prefix, body, size);
    return sizeof seal_frame_prefix + size;
}

freshet_result seal_sign(struct keyring *keyring, const uint8_t *body, size_t size, uint8_t ret_head[72])
{
    uint8_t bytes[sizeof seal_frame_prefix + FRAME_BODY_MAX];
    uint8_t secret[crypto_sign_SECRETKEYBYTES];
    size_t bytes_size = seal_signed_bytes(bytes, body, size);
    uint64_t id;

    if (bytes_size == 0)
        return remote_fail(FRESHET_EINVAL, "a frame of %zu bytes cannot be signed", size);
    if (!keyring_sign_key(keyring, &id, secret))
        return remote_fail(FRESHET_EKEYRING, "the keyring has no signing key");
    bytes_put64(ret_head, id);
    crypto_sign_detached(ret_head + 8, NULL, bytes, bytes_size, secret);
    sodium_memzero(secret, sizeof secret);
    return FRESHET_OK;
}

enum seal_verdict seal_verify(struct keyring *keyring, const uint8_t *message, size_t size, const uint8_t **ret_body,
                              size_t *ret_body_size, uint64_t *ret_key_id)
{
    uint8_t bytes[sizeof seal_frame_prefix + FRAME_BODY_MAX];
    uint8_t public[crypto_sign_PUBLICKEYBYTES];
    size_t bytes_size;
    uint64_t id;

    if (size <= FRAME_SIGNED_HEAD || size > FRAME_MAX)
        return SEAL_SHORT;
    id = bytes_get64(message);
    *ret_key_id = id;
    if (!keyring_trusted(keyring, id, public) && !(keyring_refresh(keyring) && keyring_trusted(keyring, id, public)))
        return SEAL_UNKNOWN_KEY;
    bytes_size = seal_signed_bytes(bytes, message + FRAME_SIGNED_HEAD, size - FRAME_SIGNED_HEAD);
    if (crypto_sign_verify_detached(message + 8, bytes, bytes_size, public) != 0)
        return SEAL_FORGED;
    *ret_body = message + FRAME_SIGNED_HEAD;
    *ret_body_size = size - FRAME_SIGNED_HEAD;
    return SEAL_GOOD;
}

const char *seal_verdict_name(enum seal_verdict verdict)
{
    switch (verdict) {
    case SEAL_GOOD:
        return "";
    case SEAL_SHORT:
        return "garbled";
    case SEAL_UNKNOWN_KEY:
        return "unknown key";
    case SEAL_FORGED:
        return "bad signature";
    }
    return "garbled";
}

/* ---- answers ------------------------------------------------------------------------------------------------- */

/* Additional data: on the stack for keys of usual size, else allocated. */
struct seal_place {
    uint8_t few[SEAL_AD_HEAD + 512];
    uint8_t *bytes;
    size_t size;
};

/* Write down where an answer belongs; false when there is no memory. */
static bool seal_place_init(struct seal_place *place, const struct seal_facts *facts, uint64_t key_id)
{
    uint8_t *at = place->few;
    size_t tags = (size_t)8 * facts->tag_count;

    place->size = SEAL_AD_HEAD + tags + facts->key_size;
    if (place->size > sizeof place->few && !(at = malloc(place->size)))
        return false;
    place->bytes = at;
    memcpy(at, seal_answer_prefix, sizeof seal_answer_prefix);
    at[15] = facts->kind;
    bytes_put64(at + 16, key_id);
    bytes_put64(at + 24, facts->version);
    bytes_put64(at + 32, facts->writer);
    bytes_put64(at + 40, facts->source_version);
    bytes_put64(at + 48, facts->expiry_us);
    memcpy(at + 56, facts->cache, 16);
    bytes_put32(at + 72, facts->key_size);
    at[76] = (uint8_t)facts->tag_count;
    if (tags > 0)
        memcpy(at + SEAL_AD_HEAD, facts->tags, tags);
    if (facts->key_size > 0)
        memcpy(at + SEAL_AD_HEAD + tags, facts->key, facts->key_size);
    return true;
}

static void seal_place_fini(struct seal_place *place)
{
    if (place->bytes != place->few)
        free(place->bytes);
}

freshet_result seal_value(struct keyring *keyring, const struct seal_facts *facts, const void *value, size_t size,
                          uint8_t *ret_sealed)
{
    static const uint8_t nothing[1];
    struct seal_place place;
    uint8_t key[crypto_aead_xchacha20poly1305_ietf_KEYBYTES];
    uint64_t id = 0;

    if (!keyring_value_key(keyring, &id, key))
        return remote_fail(FRESHET_EKEYRING, "the keyring has no value key");
    if (!seal_place_init(&place, facts, id)) {
        sodium_memzero(key, sizeof key);
        return remote_fail(FRESHET_ENOMEM, "no memory for a key of %u bytes", facts->key_size);
    }
    bytes_put64(ret_sealed, id);
    randombytes_buf(ret_sealed + 8, SEAL_NONCE);
    crypto_aead_xchacha20poly1305_ietf_encrypt(ret_sealed + 8 + SEAL_NONCE, NULL, size > 0 ? value : nothing, size,
                                               place.bytes, place.size, NULL, ret_sealed + 8, key);
    sodium_memzero(key, sizeof key);
    seal_place_fini(&place);
    return FRESHET_OK;
}

bool seal_open(struct keyring *keyring, const struct seal_facts *facts, const uint8_t *sealed, size_t size,
               uint8_t *ret_value)
{
    struct seal_place place;
    uint8_t key[crypto_aead_xchacha20poly1305_ietf_KEYBYTES];
    uint8_t nothing[1]; /* an absent answer has no bytes, and its caller perhaps no room */
    uint64_t id;
    int rc;

    if (size < SEAL_OVERHEAD)
        return false;
    id = bytes_get64(sealed);
    if (id == 0 ||
        (!keyring_value_key(keyring, &id, key) && !(keyring_refresh(keyring) && keyring_value_key(keyring, &id, key))))
        return false;
    if (!seal_place_init(&place, facts, id)) {
        sodium_memzero(key, sizeof key);
        return false;
    }
    rc = crypto_aead_xchacha20poly1305_ietf_decrypt(size > SEAL_OVERHEAD ? ret_value : nothing, NULL, NULL,
                                                    sealed + 8 + SEAL_NONCE, size - 8 - SEAL_NONCE, place.bytes,
                                                    place.size, sealed + 8, key);
    sodium_memzero(key, sizeof key);
    seal_place_fini(&place);
    return rc == 0;
}
