/*
 * bench_sign.c - the part of invalidate's floor that no network is to blame for: an Ed25519 signature made and checked.
 */
#include "bench.h"

#include <sodium.h>

double raw_sign_verify(size_t size, unsigned slices, unsigned each)
{
    unsigned char public_key[crypto_sign_PUBLICKEYBYTES], secret_key[crypto_sign_SECRETKEYBYTES];
    unsigned char message[256] = {0}, signature[crypto_sign_BYTES];
    double times[BENCH_SLICES_MAX];

    if (sodium_init() < 0 || size > sizeof message || slices == 0 || slices > BENCH_SLICES_MAX || each == 0 ||
        crypto_sign_keypair(public_key, secret_key) != 0)
        return -1;
    for (unsigned slice = 0; slice < slices; slice++) {
        int64_t start = bench_cpu_ns();

        for (unsigned i = 0; i < each; i++) {
            message[0]++;
            if (crypto_sign_detached(signature, NULL, message, size, secret_key) != 0 ||
                crypto_sign_verify_detached(signature, message, size, public_key) != 0)
                return -1;
        }
        times[slice] = (double)(bench_cpu_ns() - start) / each;
    }
    sodium_memzero(secret_key, sizeof secret_key);
    return bench_quantile(times, slices, 0.5);
}
