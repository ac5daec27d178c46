/*
 * evict_sim.c - the eviction policy on a real trace, without a tier: what it hits beside LRU and Belady's optimum, and
 * what it copies.  `freshet bench evict` measures the same in the tier itself.
 *
 * usage: evict-sim TRACE ENTRIES...     (records of 1 KiB; tools/trace.h has the formats)
 */
#include <replay.h>
#include <stdio.h>

#define SIZE 1024u

_Noreturn void test_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    exit(3);
}

static double show(const struct replay_trace *trace, const struct trace *keys, uint32_t entries)
{
    uint64_t tier = (uint64_t)entries * SIZE;
    struct replay_result mine = replay(trace, tier);
    double count = (double)trace->count / 100, share, lru = (double)trace_lru(keys, entries) / count,
           best = (double)trace_optimum(keys, entries) / count, ours = replay_percent(trace, &mine);

    share = best > lru ? (ours - lru) / (best - lru) : 0;
    printf("%8u %8.2f %8.2f %8.2f %8.3f %8.2f %8llu %9.2f\n", entries, lru, ours, best, share,
           mine.filled ? (double)mine.copied / (double)mine.filled : 0, (unsigned long long)mine.judged,
           100.0 * (double)policy_size(tier) / (double)tier);
    return share;
}

int main(int argc, char **argv)
{
    struct trace keys;
    struct replay_trace trace;
    char why[512];
    double sum = 0;

    if (argc < 3) {
        fprintf(stderr, "usage: evict-sim TRACE ENTRIES...\n");
        return 2;
    }
    if (!trace_read(&keys, argv[1], why, sizeof why)) {
        fprintf(stderr, "evict-sim: %s\n", why);
        return 3;
    }
    trace = (struct replay_trace){.keys = keys.keys, .count = keys.count, .distinct = keys.distinct, .size = SIZE};
    printf("%zu requests for %u keys\n", keys.count, keys.distinct);
    printf("%8s %8s %8s %8s %8s %8s %8s %9s\n", "entries", "LRU %", "ours %", "best %", "share", "copies", "judged",
           "state %");
    for (int i = 2; i < argc; i++) {
        char *end;
        unsigned long entries = strtoul(argv[i], &end, 10);

        if (*end || entries < 1 || entries > 1u << 30) {
            fprintf(stderr, "evict-sim: \"%s\" is not a number of entries\n", argv[i]);
            return 2;
        }
        sum += show(&trace, &keys, (uint32_t)entries);
    }
    printf("mean share %.3f\n", sum / (argc - 2));
    trace_free(&keys);
    return 0;
}
