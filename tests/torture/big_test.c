/*
 * big_test.c - a tier as large as the machine allows: filled to its end and beyond, opened by others, read.
 *
 * What must not grow with the tier is asked of it: the time that a process needs to open it, the longest step of its
 * writer, what a process takes that has read little.  What may grow is printed.  Short, it takes 64 MiB; with
 * TEST_LONG_RUNS=1 3 GiB of 20 million small records, and 8 GiB of large ones, and some ten minutes each.
 */
#include "torture.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define MIB          (UINT64_C(1) << 20)
#define KEY_SIZE     32u
#define VALUE_MOST   16384u
#define FLUSH_EVERY  4000u       /* fills: the writer's queue takes 8192, ... */
#define FLUSH_BYTES  (2u * MIB) /* ... and the sixteenth part of the tier's bytes */
#define LOOKS        20000u
#define OPENS        7u
#define OPEN_MOST_NS 20000000 /* of CPU time, and of the quickest of them: neighbours may take the processor */

struct big {
    uint64_t tier_size;
    uint64_t fits, more; /* records that it must hold, and those that come on top */
    uint64_t value_least, value_most;
};

struct shared { /* what children found out */
    int64_t fill_ns, churn_ns, cpu_ns, longest_ns, longest_cpu_ns, first_ns, again_ns;
    int64_t open_ns[OPENS], warm_ns[OPENS], wall_ns[OPENS]; /* the last in wall time, of the latter */
    uint64_t payload, there, wrong, tables_kb, pss_kb;
    freshet_stats full, after;
};

/* ---- records that follow from their number ---- */

static uint64_t big_mix(uint64_t number)
{
    return test_random(&number);
}

static void big_key(uint64_t number, char key[KEY_SIZE + 1])
{
    snprintf(key, KEY_SIZE + 1, "%016llx%016llx", (unsigned long long)big_mix(number), (unsigned long long)number);
}

static size_t big_value(const struct big *big, uint64_t number, unsigned char *value)
{
    uint64_t word = big_mix(number ^ 0x5555555555555555u);
    size_t size = (size_t)(big->value_least + word % (big->value_most - big->value_least + 1)) / 8 * 8;

    for (size_t at = 0; at < size; at += 8, word += 0x9e3779b97f4a7c15u)
        memcpy(value + at, &word, 8);
    return size;
}

struct loading {
    const struct big *big;
    uint64_t number, bytes;
};

static freshet_result big_loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    static unsigned char bytes[VALUE_MOST];
    struct loading *loading = arg;
    size_t size = big_value(loading->big, loading->number, bytes);

    (void)request;
    loading->bytes += size;
    return freshet_buf_set(value, bytes, size);
}

/* Is it there?  What is there is right. */
static bool big_look(const struct big *big, freshet *cache, uint64_t number, struct shared *shared)
{
    static unsigned char bytes[VALUE_MOST];
    static freshet_buf buf;
    char key[KEY_SIZE + 1];
    freshet_result result;

    big_key(number, key);
    result = freshet_get(cache, key, KEY_SIZE, NULL, &buf, NULL);
    EXPECT(result == FRESHET_OK || result == FRESHET_MISS);
    if (result == FRESHET_MISS)
        return false;
    shared->wrong += buf.size != big_value(big, number, bytes) || memcmp(buf.data, bytes, buf.size) != 0;
    return true;
}

/* ---- what a process does ---- */

static freshet *big_open(const struct big *big, const char *dir)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache = NULL;

    options.dir = dir;
    options.tier_size = big->tier_size;
    options.deadline_ms = 10000;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    return cache;
}

/* CPU time of all threads of this process. */
static int64_t cpu_now_ns(void)
{
    struct timespec now;

    EXPECT(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == 0);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int64_t greater(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Load records as fast as they are written; ns. */
static int64_t big_fill(const struct big *big, freshet *cache, uint64_t from, uint64_t to, struct shared *shared)
{
    struct loading loading = {.big = big};
    freshet_buf buf = {0};
    char key[KEY_SIZE + 1];
    int64_t begun_ns = test_now_ns(), cpu_ns = cpu_now_ns(), ns, one_cpu_ns;
    uint64_t flushed = 0;

    for (uint64_t i = from; i < to; i++) {
        loading.number = i;
        big_key(i, key);
        EXPECT_EQ(freshet_load(cache, key, KEY_SIZE, NULL, big_loader, &loading, &buf, NULL), FRESHET_OK);
        if (i % FLUSH_EVERY != 0 && loading.bytes - flushed < FLUSH_BYTES)
            continue;
        flushed = loading.bytes;
        ns = test_now_ns();
        one_cpu_ns = cpu_now_ns();
        EXPECT_EQ(freshet_flush(cache, 60000), FRESHET_OK);
        shared->longest_ns = greater(test_now_ns() - ns, shared->longest_ns);
        shared->longest_cpu_ns = greater(cpu_now_ns() - one_cpu_ns, shared->longest_cpu_ns);
    }
    EXPECT_EQ(freshet_flush(cache, 60000), FRESHET_OK);
    shared->payload += loading.bytes;
    shared->cpu_ns = (cpu_now_ns() - cpu_ns) / (int64_t)(to - from);
    freshet_buf_free(&buf);
    return test_now_ns() - begun_ns;
}

static uint64_t big_there(const struct big *big, freshet *cache, uint64_t from, uint64_t to, struct shared *shared)
{
    uint64_t there = 0, seed = from + 1;

    for (unsigned i = 0; i < LOOKS; i++)
        there += big_look(big, cache, from + test_random(&seed) % (to - from), shared);
    return there;
}

static void big_fill_whole(const struct big *big, const char *dir, struct shared *shared)
{
    freshet *cache = big_open(big, dir);

    shared->fill_ns = big_fill(big, cache, 0, big->fits, shared);
    shared->full = host_stats(cache);
    shared->there = big_there(big, cache, 0, big->fits, shared);
    freshet_close(cache);
}

static void big_churn(const struct big *big, const char *dir, struct shared *shared)
{
    freshet *cache = big_open(big, dir);

    shared->longest_ns = shared->longest_cpu_ns = 0;
    shared->churn_ns = big_fill(big, cache, big->fits, big->fits + big->more, shared);
    shared->after = host_stats(cache);
    shared->there = big_there(big, cache, big->fits + big->more - big->fits / 50, big->fits + big->more, shared);
    freshet_close(cache);
}

/* kB behind `name` in one of this process's files. */
static uint64_t own_kilobytes(const char *path, const char *name)
{
    unsigned long long kb = 0;
    char line[256];
    FILE *in = fopen(path, "r");

    EXPECT(in);
    while (kb == 0 && fgets(line, sizeof line, in))
        if (strncmp(line, name, strlen(name)) == 0)
            kb = strtoull(line + strlen(name), NULL, 10);
    fclose(in);
    return kb;
}

static int64_t big_looks_ns(const struct big *big, freshet *cache, struct shared *shared)
{
    int64_t begun_ns = test_now_ns();

    (void)big_there(big, cache, big->fits, big->fits + big->more, shared);
    return (test_now_ns() - begun_ns) / LOOKS;
}

/* A process that comes, looks here and there, and tells what that took. */
static void big_visit(const struct big *big, const char *dir, struct shared *shared)
{
    freshet *cache = big_open(big, dir);

    shared->first_ns = big_looks_ns(big, cache, shared);
    shared->again_ns = big_looks_ns(big, cache, shared);
    shared->tables_kb = own_kilobytes("/proc/self/status", "VmPTE:");
    shared->pss_kb = own_kilobytes("/proc/self/smaps_rollup", "Pss:");
    freshet_close(cache);
}

static void big_opens(const struct big *big, const char *dir, int64_t ns[OPENS], int64_t wall_ns[OPENS])
{
    for (unsigned i = 0; i < OPENS; i++)
        IN_CHILD({
            int64_t begun_ns = test_now_ns(), cpu_ns = cpu_now_ns();
            freshet *cache = big_open(big, dir);

            ns[i] = cpu_now_ns() - cpu_ns;
            wall_ns[i] = test_now_ns() - begun_ns;
            freshet_close(cache);
        });
}

/* ---- judgement ---- */

/* Bytes that the file whose name ends so takes. */
static uint64_t file_takes(const char *dir_path, const char *start, const char *end)
{
    DIR *dir = opendir(dir_path);
    struct dirent *entry;
    uint64_t bytes = 0;

    EXPECT(dir);
    while ((entry = readdir(dir))) {
        size_t size = strlen(entry->d_name);
        char path[700];
        struct stat st;

        if (size < strlen(end) || strncmp(entry->d_name, start, strlen(start)) != 0 ||
            strcmp(entry->d_name + size - strlen(end), end) != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir_path, entry->d_name);
        EXPECT(stat(path, &st) == 0);
        bytes += (uint64_t)st.st_blocks * 512;
    }
    closedir(dir);
    return bytes;
}

static int64_t least(const int64_t ns[OPENS])
{
    int64_t found = ns[0];

    for (unsigned i = 1; i < OPENS; i++)
        found = ns[i] < found ? ns[i] : found;
    return found;
}

static void big_print_space(const struct big *big, const char *dir)
{
    double size = (double)big->tier_size / 100;

    printf("     of the size: control page %.2f %%, index %.2f %%, all %.2f %%\n",
           (double)file_takes(dir, "control", "") / size, (double)file_takes(dir, "map-", "-index") / size,
           (double)file_takes(dir, "", "") / size);
}

static void big_print_speed(const char *what, uint64_t records, int64_t ns, const struct shared *shared)
{
    printf("     %s: %.0f records/s, %lld ns of CPU time each; waits for the writer: at most %.1f ms, %.1f of CPU\n",
           what, (double)records * 1e9 / (double)ns, (long long)shared->cpu_ns, (double)shared->longest_ns / 1e6,
           (double)shared->longest_cpu_ns / 1e6);
}

static void big_tier(const struct big *big)
{
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const char *dir = fresh_dir();
    struct statvfs fs;
    freshet *cache;

    EXPECT(shared != MAP_FAILED && statvfs(dir, &fs) == 0);
    if (fs.f_bavail * fs.f_bsize < big->tier_size + big->tier_size / 8)
        test_skip("the file system under /dev/shm is too small");
    IN_CHILD({ big_fill_whole(big, dir, shared); });
    EXPECT(shared->full.fills_dropped == 0 && shared->full.map_full == 0);
    EXPECT_EQ(shared->full.entries + shared->full.evictions, big->fits);
    EXPECT(shared->full.evictions <= 5 + big->fits / 10000); /* both of whose buckets were full before the table grew */
    EXPECT(shared->there > LOOKS - 10);
    big_print_speed("filled", big->fits, shared->fill_ns, shared);
    printf("     %llu records of %.0f MiB: the files take %.3f times that\n", (unsigned long long)big->fits,
           (double)shared->payload / MIB, (double)file_takes(dir, "", "") / (double)shared->payload);
    big_print_space(big, dir);
    big_opens(big, dir, shared->open_ns, shared->wall_ns);
    IN_CHILD({ big_churn(big, dir, shared); });
    EXPECT(shared->after.fills_dropped == 0 && shared->after.map_full == 0);
    EXPECT(shared->after.evictions > 0 && shared->after.bytes <= big->tier_size);
    big_print_speed("in the full tier", big->more, shared->churn_ns, shared);
    printf("     %llu entries, %llu left; of the last ones %.1f %% are there\n",
           (unsigned long long)shared->after.entries, (unsigned long long)shared->after.evictions,
           100.0 * (double)shared->there / LOOKS);
    big_print_space(big, dir);
    cache = big_open(big, dir);
    big_opens(big, dir, shared->warm_ns, shared->wall_ns);
    IN_CHILD({ big_visit(big, dir, shared); });
    freshet_close(cache);
    EXPECT_EQ(shared->wrong, 0);
    printf("     opened in %.2f ms of CPU time, beside another process in %.2f ms, by the clock %.2f ms\n",
           (double)least(shared->open_ns) / 1e6, (double)least(shared->warm_ns) / 1e6,
           (double)least(shared->wall_ns) / 1e6);
    printf("     %u looks: %lld ns each, again %lld ns; that process: page tables %llu kB, PSS %llu kB\n", LOOKS,
           (long long)shared->first_ns, (long long)shared->again_ns, (unsigned long long)shared->tables_kb,
           (unsigned long long)shared->pss_kb);
    if (!test_sanitized())
        EXPECT(least(shared->open_ns) < OPEN_MOST_NS && least(shared->warm_ns) < OPEN_MOST_NS);
}

TEST_LONG(a_big_tier_of_small_records, 3600)
{
    const struct big small = {64 * MIB, 400000, 200000, 64, 64}, large = {3072 * MIB, 20000000, 5000000, 64, 64};

    big_tier(test_long_runs() ? &large : &small);
}

TEST_LONG(a_big_tier_of_large_records, 3600)
{
    const struct big small = {64 * MIB, 5500, 8000, 1024, 16384}, large = {8192 * MIB, 760000, 500000, 1024, 16384};

    big_tier(test_long_runs() ? &large : &small);
}
