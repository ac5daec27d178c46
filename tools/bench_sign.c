/*
 * bench_sign.c - the part of invalidate's floor that no network is to blame for: an Ed25519 signature made and checked.
 */
#include "bench.h"

#include <sodium.h>

static unsigned char public_key[crypto_sign_PUBLICKEYBYTES], secret_key[crypto_sign_SECRETKEYBYTES];

bool raw_sign_start(void)
{
    return sodium_init() >= 0 && crypto_sign_keypair(public_key, secret_key) == 0;
}

bool raw_sign(const unsigned char *message, size_t size, unsigned char ret_signature[RAW_SIGNATURE])
{
    return crypto_sign_detached(ret_signature, NULL, message, size, secret_key) == 0;
}

bool raw_verify(const unsigned char *message, size_t size, const unsigned char signature[RAW_SIGNATURE])
{
    return crypto_sign_verify_detached(signature, message, size, public_key) == 0;
}
