/* bytes.h - little-endian numbers in bytes of any alignment; on the machines we know a load or a store each. */
#ifndef CORE_BYTES_H
#define CORE_BYTES_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BYTES_LE32(x) (x)
#define BYTES_LE64(x) (x)
#define BYTES_BE64(x) __builtin_bswap64(x)
#else
#define BYTES_LE32(x) __builtin_bswap32(x)
#define BYTES_LE64(x) __builtin_bswap64(x)
#define BYTES_BE64(x) (x)
#endif

static inline uint32_t bytes_get32(const uint8_t *bytes)
{
    uint32_t x;
    memcpy(&x, bytes, sizeof x);
    return BYTES_LE32(x);
}

static inline uint64_t bytes_get64(const uint8_t *bytes)
{
    uint64_t x;
    memcpy(&x, bytes, sizeof x);
    return BYTES_LE64(x);
}

/* The same of memory that another process may write to meanwhile: read once, so that what was checked is used. */
static inline uint64_t bytes_take64(const uint8_t *bytes)
{
    uint64_t x;
    memcpy(&x, bytes, sizeof x);
    __asm__ volatile("" : "+r"(x));
    return BYTES_LE64(x);
}

/* Big-endian: the order of these numbers is that of their bytes. */
static inline uint64_t bytes_get64_big(const uint8_t *bytes)
{
    uint64_t x;
    memcpy(&x, bytes, sizeof x);
    return BYTES_BE64(x);
}

static inline void bytes_put32(uint8_t *bytes, uint32_t x)
{
    const uint32_t little = BYTES_LE32(x);
    memcpy(bytes, &little, sizeof little);
}

static inline void bytes_put64(uint8_t *bytes, uint64_t x)
{
    const uint64_t little = BYTES_LE64(x);
    memcpy(bytes, &little, sizeof little);
}

#endif
