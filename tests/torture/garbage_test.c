/*
 * garbage_test.c - another process of the user writes garbage into the tier's files while we read and fill: no crash,
 * no hang, and never the value of another key.
 *
 * Nothing can be said of a value's own bytes, which anybody may have written; so each value names its key all the way
 * through, and one that is mostly another key's is a wrong answer.  Files are named by a pattern; which bytes mean
 * what is not known here, but for the map's pages: those of LMDB's own tree LMDB trusts, and asserts.
 */
#include "pages.h"
#include "torture.h"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILES 16u

struct garbage { /* shared */
    _Atomic uint64_t reads, hits, wrong, writes;
    _Atomic bool stop;
};

static struct garbage *garbage_open(void)
{
    struct garbage *garbage = mmap(NULL, sizeof *garbage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    EXPECT(garbage != MAP_FAILED);
    return garbage;
}

/* ---- who writes garbage ---- */

struct mapped {
    uint8_t *bytes;
    size_t size;
    bool records_only; /* a map in which LMDB's tree is to be spared */
};

/* Map the files that there are now. */
static unsigned map_files(const char *dir, const char *pattern, bool records_only, struct mapped files[FILES])
{
    DIR *listing = opendir(dir);
    struct dirent *entry;
    unsigned count = 0;

    EXPECT(listing);
    while (count < FILES && (entry = readdir(listing))) {
        char path[700];
        struct stat st;
        void *bytes;
        int fd;

        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (fnmatch(pattern, entry->d_name, 0) != 0 || (fd = open(path, O_RDWR | O_CLOEXEC)) < 0)
            continue;
        bytes = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= 1024
                    ? mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                    : MAP_FAILED;
        close(fd);
        if (bytes != MAP_FAILED)
            files[count++] = (struct mapped){bytes, (size_t)st.st_size, records_only};
    }
    closedir(listing);
    return count;
}

/* Somewhere that holds something: a byte that is not zero, if a few looks find one.  SIZE_MAX: there is no place. */
static size_t place_in(const struct mapped *file, uint64_t *seed)
{
    size_t found = SIZE_MAX;

    for (int i = 0; i < 200; i++) {
        size_t at = (size_t)(test_random(seed) % (file->size - 128)) / 64 * 64 + test_random(seed) % 56;

        if (file->records_only &&
            !(pages_in_record(file->bytes, at / 64 * 64) && pages_in_record(file->bytes, at / 64 * 64 + 63)))
            continue;
        found = at;
        if (file->bytes[at])
            break;
    }
    return found;
}

/* Change a few bytes in one of the ways that find things. */
static void scribble(const struct mapped *file, uint64_t *seed)
{
    static const uint64_t numbers[] = {0, 1, 7, 8, 0x7fffffff, 0x80000000, 0xffffffff, ~0ull, 1ull << 63, 4096};
    uint64_t dice = test_random(seed), number = numbers[(dice >> 20) % (sizeof numbers / sizeof numbers[0])];
    size_t at = place_in(file, seed), from = place_in(file, seed);

    if (at == SIZE_MAX || from == SIZE_MAX)
        return;
    switch (dice % 6) {
    case 0:
        file->bytes[at] ^= (uint8_t)(1u << (dice >> 8) % 8);
        break;
    case 1:
        file->bytes[at] = (uint8_t)(dice >> 8);
        break;
    case 2:
        memcpy(file->bytes + at / 8 * 8, &number, 8);
        break;
    case 3:
        memcpy(file->bytes + at / 4 * 4, &number, 4);
        break;
    case 4: /* a true number in a wrong place */
        memmove(file->bytes + at / 8 * 8, file->bytes + from / 8 * 8, 8);
        break;
    default: /* a run of them */
        memmove(file->bytes + at / 64 * 64, file->bytes + from / 64 * 64, 64);
    }
}

_Noreturn static void scribbler(struct garbage *garbage, const char *dir, const char *pattern, bool records_only,
                                 uint64_t seed)
{
    struct mapped files[FILES];
    unsigned count;

    while (!garbage->stop) {
        EXPECT(test_until((count = map_files(dir, pattern, records_only, files)) > 0 || garbage->stop, 20000));
        for (unsigned i = 0; count && i < 2000 && !garbage->stop; i++) {
            scribble(&files[test_random(&seed) % count], &seed);
            garbage->writes++;
            if (i % 20 == 0)
                test_pause();
        }
        for (unsigned i = 0; i < count; i++)
            munmap(files[i].bytes, files[i].size);
    }
    test_child_done();
}

/* ---- who reads it ---- */

static freshet_result loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    char bytes[PAGES_VALUE_MOST];

    (void)request;
    return freshet_buf_set(value, bytes, pages_value(*(unsigned *)arg, bytes));
}

static void read_one(struct garbage *garbage, freshet *cache, unsigned key, bool load, freshet_buf *buf)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    char name[16];
    size_t size = (size_t)snprintf(name, sizeof name, "key:%u", key);
    freshet_result result = load ? freshet_load(cache, name, size, NULL, loader, &key, buf, &answer)
                                 : freshet_get(cache, name, size, NULL, buf, &answer);

    garbage->reads++;
    if (result != FRESHET_OK)
        return;
    garbage->hits += answer.source == FRESHET_FROM_TIER;
    if (pages_value_is_anothers(key, buf->data, buf->size)) {
        fprintf(stderr, "key %u: another key's value\n", key);
        garbage->wrong++;
    }
}

static freshet_result open_small(freshet **ret_cache, const char *dir)
{
    freshet_options options = FRESHET_INIT(freshet_options);

    options.dir = dir;
    options.tier_size = 4u << 20;
    options.deadline_ms = 50;
    return freshet_open(ret_cache, &options);
}

/* All that a program does. */
static void read_some(struct garbage *garbage, freshet *cache, unsigned count, uint64_t *seed)
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    freshet_buf buf = {0};

    for (unsigned i = 0; i < count && !garbage->stop; i++) {
        uint64_t dice = test_random(seed);
        unsigned key = (unsigned)(dice >> 32) % PAGES_KEYS;

        read_one(garbage, cache, key, dice % 4 == 0, &buf);
        if (dice % 300 == 1)
            (void)freshet_invalidate(cache, "key:1", 5, NULL, NULL);
        if (dice % 300 == 2)
            (void)freshet_flush(cache, 20);
        if (dice % 300 == 3)
            (void)freshet_stat(cache, &stats);
    }
    freshet_buf_free(&buf);
}

/* That over and over; opens anew now and then. */
_Noreturn static void reader(struct garbage *garbage, const char *dir, uint64_t seed)
{
    freshet *cache;

    while (!garbage->stop) {
        if (open_small(&cache, dir) != FRESHET_OK) {
            test_pause();
            continue;
        }
        read_some(garbage, cache, 3000, &seed);
        freshet_close(cache);
    }
    test_child_done();
}

/* Readers beside one who writes garbage into the files of this name. */
static void garbage_in(const char *pattern, bool records_only, unsigned ms)
{
    struct garbage *garbage = garbage_open();
    const char *dir = fresh_dir();
    pid_t readers[2], pid;

    for (int i = 0; i < 2; i++)
        if ((readers[i] = test_fork()) == 0)
            reader(garbage, dir, (uint64_t)i);
    EXPECT(test_until(garbage->hits > 2000, 20000));
    if ((pid = test_fork()) == 0)
        scribbler(garbage, dir, pattern, records_only, 17);
    (void)test_until(garbage->stop, ms);
    garbage->stop = true;
    test_join(pid);
    for (int i = 0; i < 2; i++)
        test_join(readers[i]); /* it has not crashed, and comes to its end */
    printf("     garbage %llu times into %s: %llu reads, %llu answers of the tier\n",
           (unsigned long long)garbage->writes, pattern, (unsigned long long)garbage->reads,
           (unsigned long long)garbage->hits);
    EXPECT(garbage->writes > 50 && garbage->reads > 100);
    EXPECT_EQ(garbage->wrong, 0);
}

static unsigned garbage_ms(void)
{
    return test_long_runs() ? 120000 : 2500;
}

TEST_LONG(garbage_in_the_control_page_and_what_else_is_shared_is_survived, 300)
{
    garbage_in("[!ml]*", false, garbage_ms());
}
TEST_LONG(garbage_in_the_maps_records_is_survived, 300)
{
    garbage_in("map-*[!kx]", true, garbage_ms());
}
TEST_LONG(garbage_in_the_index_is_survived, 300)
{
    garbage_in("map-*-index", false, garbage_ms());
}
TEST_LONG(garbage_anywhere_in_the_map_is_survived, 300)
{
    if (!getenv("TEST_GARBAGE_MAP"))
        test_skip("LMDB abort()s when its own tree is spoilt while it is open (TEST_GARBAGE_MAP=1 shows it)");
    garbage_in("map-*[!kx]", false, garbage_ms());
}
TEST_LONG(garbage_in_the_maps_locks_is_survived, 300)
{
    if (!getenv("TEST_GARBAGE_MAP"))
        test_skip("LMDB trusts its lock file's mutexes; garbage there hangs or abort()s: TEST_GARBAGE_MAP=1");
    garbage_in("map-*-lock", false, garbage_ms());
}

/* ---- while nobody has the tier open ---- */

static bool show(const freshet_entry *entry, void *arg)
{
    (void)entry;
    ++*(unsigned *)arg;
    return true;
}

/* Open what is there, use it in every way, close it. */
static void visit(struct garbage *garbage, const char *dir, uint64_t seed)
{
    unsigned shown = 0;
    freshet *cache;

    EXPECT_EQ(open_small(&cache, dir), FRESHET_OK); /* what cannot be used was set aside */
    read_some(garbage, cache, 600, &seed);
    (void)freshet_flush(cache, 1000);
    (void)freshet_each(cache, show, &shown); /* a row's own head is damage that shows only now */
    read_some(garbage, cache, 600, &seed);
    freshet_close(cache);
}

TEST_LONG(garbage_in_a_tier_that_nobody_has_open_takes_nobody_down, 3000)
{
    unsigned rounds = test_long_runs() ? 20000 : test_sanitized() ? 10 : 50;
    struct garbage *garbage = garbage_open();
    const char *dir = fresh_dir();
    uint64_t seed = 5;

    for (unsigned round = 0; round < rounds; round++) {
        struct mapped files[FILES];
        unsigned count;

        IN_CHILD({
            alarm(60);
            visit(garbage, dir, round);
        });
        count = map_files(dir, round % 4 == 0 ? "*[!l]" : round % 4 == 1 ? "map-*-lock" : "map-*", false, files);
        for (unsigned i = 0; count && i < 200; i++)
            scribble(&files[test_random(&seed) % count], &seed);
        for (unsigned i = 0; i < count; i++)
            munmap(files[i].bytes, files[i].size);
    }
    printf("     %llu reads, %llu answers of the tier\n", (unsigned long long)garbage->reads,
           (unsigned long long)garbage->hits);
    EXPECT(garbage->hits > garbage->reads / 20);
    EXPECT_EQ(garbage->wrong, 0);
}
