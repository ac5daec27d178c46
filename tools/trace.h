/*
 * trace.h - request traces: read from a file, and what LRU and Belady's optimum would have hit.
 *
 * The format follows from the name, after .xz, .zst or .gz, which xz, zstd or gzip unpack:
 *     .trace        big-endian 32-bit integers, a key each (cache2k's)
 *     .lis          lines "first count ...": so many keys in turn from the first (ARC's)
 *     all others    text, a key a line; empty lines are none
 * Keys become numbers from 0, in the order of their first request.
 */
#ifndef TOOLS_TRACE_H
#define TOOLS_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct trace {
    uint32_t *keys;
    size_t count;
    uint32_t distinct;
};

/* Read a trace of at least one request; false: why says what is wrong, and there is nothing to free. */
bool trace_read(struct trace *ret_trace, const char *path, char *why, size_t why_size);
void trace_free(struct trace *trace);

/* Requests that hit in a cache of `room` entries, at first empty; < 0: no memory. */
int64_t trace_lru(const struct trace *trace, uint32_t room);
int64_t trace_optimum(const struct trace *trace, uint32_t room);

#endif
