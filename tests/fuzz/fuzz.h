/*
 * fuzz.h - what the fuzz targets share: a decoder of foreign bytes is called through LLVMFuzzerTestOneInput, so
 * libFuzzer can drive it (link with -fsanitize=fuzzer and without main.c); fuzz/main.c drives all of them without it,
 * the same way on every run.
 *
 * A target checks more than that nothing crashes: what was decoded must be in its ranges, and what can be written
 * again must come out the same.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Examples to begin from, each a good input; returns how many there are.  `ret_bytes` has room for FUZZ_MOST. */
#define FUZZ_MOST 70000u
unsigned fuzz_seed(unsigned number, uint8_t *ret_bytes, size_t *ret_size);

/* A claim about what was decoded: the process ends when it is false, as fuzzers expect. */
#define FUZZ_EXPECT(condition)                                                                                         \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            abort();                                                                                                   \
    } while (0)

#endif
