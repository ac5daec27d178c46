/*
 * main.c - drives one fuzz target without libFuzzer: its own examples first, then mutations of them that follow from a
 * fixed seed, so that what fails once fails always.  Each input lies at the very end of a page before one that
 * cannot be read, so that a step beyond it shows also without a sanitizer.
 *
 * usage: PROGRAM [ROUNDS [SEED]]     200,000 rounds; prints the seed of a round that takes the process down
 *        PROGRAM FILE                one input, as libFuzzer saves it
 */
#include "fuzz.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROUNDS 200000u
#define ROOM (FUZZ_MOST + 4096u)

static uint64_t round_seed;
static uint8_t *guarded_end;

static uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void on_crash(int signal_)
{
    char line[80];
    int size = snprintf(line, sizeof line, "fuzz: signal %d in the round of seed %llu\n", signal_,
                        (unsigned long long)round_seed);

    (void)!write(2, line, (size_t)size);
    signal(signal_, SIG_DFL);
    raise(signal_);
}

/* Change the bytes in one of the ways that find things; returns the new size. */
static size_t mutate(uint8_t *bytes, size_t size, uint64_t *state)
{
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff, '\n', '\r', '$', '*', ':', '-', '/', '%', '@'};
    uint64_t dice = random_next(state);
    size_t at = size ? (size_t)(dice >> 32) % size : 0, run = (size_t)(dice >> 8) % 16 + 1;

    if (run > size - at)
        run = size - at;
    switch (dice % 9) {
    case 0: /* flip a bit */
        if (size)
            bytes[at] ^= (uint8_t)(1u << (dice >> 16) % 8);
        return size;
    case 1: /* any byte */
        if (size)
            bytes[at] = (uint8_t)(dice >> 16);
        return size;
    case 2: /* an edge of a range, or a byte that means something */
        if (size)
            bytes[at] = edges[(dice >> 16) % sizeof edges];
        return size;
    case 3: /* a run of the same */
        memset(bytes + at, edges[(dice >> 16) % sizeof edges], run);
        return size;
    case 4: /* cut short */
        return at;
    case 5: /* take some out */
        memmove(bytes + at, bytes + at + run, size - at - run);
        return size - run;
    case 6: /* say some twice */
        if (size + run > FUZZ_MOST)
            return size;
        memmove(bytes + at + run, bytes + at, size - at);
        return size + run;
    case 7: /* more behind */
        for (size_t i = 0; i < run && size < FUZZ_MOST; i++)
            bytes[size++] = (uint8_t)random_next(state);
        return size;
    default: /* a number one more or less */
        if (size)
            bytes[at] = (uint8_t)(bytes[at] + ((dice >> 16) % 2 ? 1 : -1));
        return size;
    }
}

/* Show the target an input whose last byte is the last that may be read. */
static void show(const uint8_t *bytes, size_t size)
{
    memcpy(guarded_end - size, bytes, size);
    (void)LLVMFuzzerTestOneInput(guarded_end - size, size);
}

static bool guard_open(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (ROOM + page) / page * page;
    uint8_t *map = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (map == MAP_FAILED || mprotect(map + room, page, PROT_NONE) != 0)
        return false;
    guarded_end = map + room;
    return true;
}

static int run_file(const char *path)
{
    static uint8_t bytes[FUZZ_MOST];
    FILE *file = fopen(path, "re");
    size_t size;

    if (!file) {
        perror(path);
        return 2;
    }
    size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    show(bytes, size);
    return 0;
}

int main(int argc, char **argv)
{
    static uint8_t bytes[FUZZ_MOST];
    unsigned long long rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : ROUNDS;
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    size_t size = 0;
    unsigned seeds;

    if (!guard_open())
        return 2;
    if (argc > 1 && rounds == 0)
        return run_file(argv[1]);
    for (const int *fatal = (const int[]){SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, 0}; *fatal; fatal++)
        signal(*fatal, on_crash);
    seeds = fuzz_seed(0, bytes, &size);
    for (unsigned i = 0; i < seeds; i++) {
        fuzz_seed(i, bytes, &size);
        show(bytes, size);
    }
    for (unsigned long long round = 0; round < rounds; round++) {
        uint64_t state = round_seed = first + round;

        fuzz_seed((unsigned)(random_next(&state) % seeds), bytes, &size);
        for (uint64_t changes = random_next(&state) % 6 + 1; changes; changes--)
            size = mutate(bytes, size, &state);
        show(bytes, size);
    }
    printf("%llu rounds from seed %llu\n", rounds, (unsigned long long)first);
    return 0;
}
