/*
 * backoff.h - how long to wait before trying again: full jitter (anything from nothing to a cap, so that a thousand
 * hosts do not return as one) under a cap that doubles from 10 ms to 2 s.  Pure but for its seed.
 */
#ifndef BACKPLANE_BACKOFF_H
#define BACKPLANE_BACKOFF_H

#include <stdint.h>

#define BACKOFF_LEAST_MS 10u
#define BACKOFF_MOST_MS  2000u

struct backoff {
    uint64_t random; /* splitmix64's state */
    unsigned failures;
};

void backoff_init(struct backoff *backoff, uint64_t seed);
/* Something different in each process and thread. */
uint64_t backoff_seed(const void *salt);
/* One more failure: milliseconds to wait, 1 at least. */
uint32_t backoff_next(struct backoff *backoff);
void backoff_reset(struct backoff *backoff);

#endif
