/* bytes.h - big-endian integers in bytes: what the wire formats of PROTOCOL.md are made of. */
#ifndef BACKPLANE_BYTES_H
#define BACKPLANE_BYTES_H

#include <stdint.h>

/* The format's numbers below which positions and times stay: Lua has doubles. */
#define BYTES_NUMBER_MAX ((UINT64_C(1) << 53) - 1)

static inline void bytes_put16(uint8_t *to, uint16_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

static inline void bytes_put32(uint8_t *to, uint32_t value)
{
    bytes_put16(to, (uint16_t)(value >> 16));
    bytes_put16(to + 2, (uint16_t)value);
}

static inline void bytes_put64(uint8_t *to, uint64_t value)
{
    bytes_put32(to, (uint32_t)(value >> 32));
    bytes_put32(to + 4, (uint32_t)value);
}

static inline uint16_t bytes_get16(const uint8_t *from)
{
    return (uint16_t)(((unsigned)from[0] << 8) | from[1]);
}

static inline uint32_t bytes_get32(const uint8_t *from)
{
    return ((uint32_t)bytes_get16(from) << 16) | bytes_get16(from + 2);
}

static inline uint64_t bytes_get64(const uint8_t *from)
{
    return ((uint64_t)bytes_get32(from) << 32) | bytes_get32(from + 4);
}

/* A tag's number: the first 8 bytes of its hash, low byte first (PROTOCOL.md). */
static inline uint64_t bytes_get_tag(const uint8_t *from)
{
    return __builtin_bswap64(bytes_get64(from));
}

static inline void bytes_put_tag(uint8_t *to, uint64_t tag)
{
    bytes_put64(to, __builtin_bswap64(tag));
}

#endif
