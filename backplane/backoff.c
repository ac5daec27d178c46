/*
 * backoff.c - how long to wait before trying again (backoff.h).
 */
#include <backoff.h>

#include <time.h>
#include <unistd.h>

void backoff_init(struct backoff *backoff, uint64_t seed)
{
    *backoff = (struct backoff){.random = seed};
}

uint64_t backoff_seed(const void *salt)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return ((uint64_t)now.tv_nsec << 32) ^ (uint64_t)now.tv_sec ^ ((uint64_t)getpid() << 16) ^
           (uint64_t)(uintptr_t)salt;
}

uint32_t backoff_next(struct backoff *backoff)
{
    uint32_t most = BACKOFF_MOST_MS;
    uint64_t x = backoff->random += 0x9e3779b97f4a7c15u;

    if (backoff->failures < 8 && BACKOFF_LEAST_MS << backoff->failures < most)
        most = BACKOFF_LEAST_MS << backoff->failures;
    if (backoff->failures < 8)
        backoff->failures++;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    return 1 + (uint32_t)(x % most);
}

void backoff_reset(struct backoff *backoff)
{
    backoff->failures = 0;
}
