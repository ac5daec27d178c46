/*
 * page_fuzz.c - the bytes that a reader of a tier follows: the control page with its shelf, and the map's records.  Any
 * process of this user may have written them.
 *
 * The input is a list of changes, twelve bytes each: a file, a place, eight bytes to be mixed in.  They are made in the
 * live tier's files, then some keys are read, and what still stands as it was written is put back.  A tier that answers
 * hardly anything any more (fences and floors only rise) is replaced by a fresh one.
 */
#include "fuzz.h"

#include "../torture/pages.h"

#include <freshet.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEYS    48u
#define FILES   8u
#define CHANGES 16u
#define CHANGE  12u
#define ROUNDS  4096u /* after which it is looked whether the tier still answers */

static struct mapped {
    uint8_t *bytes;
    size_t size;
    bool map;
} files[FILES];
static unsigned file_count;
static freshet *cache;
static char dir[64];
static unsigned long long rounds, hits;

static void remove_tier(void)
{
    char command[128];

    for (unsigned i = 0; i < file_count; i++)
        munmap(files[i].bytes, files[i].size);
    file_count = 0;
    freshet_close(cache);
    cache = NULL;
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    FUZZ_EXPECT(system(command) == 0);
}

static void map_file(int at, const char *name)
{
    struct stat st;
    void *bytes;
    int fd = openat(at, name, O_RDWR | O_CLOEXEC);

    FUZZ_EXPECT(fd >= 0 && fstat(fd, &st) == 0);
    bytes = st.st_size < 4096 ? MAP_FAILED
                              : mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (bytes != MAP_FAILED)
        files[file_count++] = (struct mapped){bytes, (size_t)st.st_size, strncmp(name, "map", 3) == 0};
}

/* All but what is LMDB's own and the locks. */
static void map_files(void)
{
    DIR *listing = opendir(dir);
    struct dirent *entry;

    FUZZ_EXPECT(listing);
    while (file_count < FILES && (entry = readdir(listing)))
        if (entry->d_name[0] != '.' && !strstr(entry->d_name, "lock") && strcmp(entry->d_name, "aside") != 0)
            map_file(dirfd(listing), entry->d_name);
    closedir(listing);
    FUZZ_EXPECT(file_count > 0);
}

static size_t key_make(unsigned key, char name[16])
{
    return (size_t)snprintf(name, 16, "key:%u", key);
}

static void make_tier(void)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    char bytes[PAGES_VALUE_MOST], name[16];

    snprintf(dir, sizeof dir, "/dev/shm/freshet-fuzz-XXXXXX");
    FUZZ_EXPECT(mkdtemp(dir));
    options.dir = dir;
    options.tier_size = 1u << 20;
    options.deadline_ms = 100;
    FUZZ_EXPECT(freshet_open(&cache, &options) == FRESHET_OK);
    for (unsigned key = 0; key < KEYS; key++)
        (void)freshet_put(cache, name, key_make(key, name), bytes, pages_value(key, bytes), NULL, NULL);
    (void)freshet_flush(cache, 1000);
    map_files();
    hits = 0;
}

/* One change, and what it replaced. */
struct change {
    _Atomic uint64_t *word;
    uint64_t old, made;
};

/* A word of the file, from the number on one that is not zero, which means more. */
static _Atomic uint64_t *word_at(const struct mapped *file, uint64_t number)
{
    uint64_t place = number * 0x9e3779b97f4a7c15u % file->size / 8 * 8;

    for (int i = 0; i < 64 && place + 16 <= file->size && !*(uint64_t *)(void *)(file->bytes + place); i++)
        place += 8;
    if (file->map && !(pages_in_record(file->bytes, place) && pages_in_record(file->bytes, place + 7)))
        return NULL;
    return (_Atomic uint64_t *)(void *)(file->bytes + place);
}

/* Mix some bits in, or put another word of the file there. */
static bool change_make(struct change *change, const uint8_t *bytes)
{
    const struct mapped *file = &files[bytes[0] % file_count];
    const _Atomic uint64_t *from = NULL;
    uint64_t place = 0, mix;

    memcpy(&place, bytes + 1, 3);
    memcpy(&mix, bytes + 4, 8);
    if (!(change->word = word_at(file, place)))
        return false;
    if (bytes[0] / 16 % 2)
        from = word_at(file, mix);
    change->old = *change->word;
    change->made = from ? *from : change->old ^ mix;
    *change->word = change->made;
    return true;
}

static void read_keys(unsigned first)
{
    static freshet_buf buf;
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    char name[16];

    options.tier_only = true;
    for (unsigned i = 0; i < 4; i++) {
        unsigned key = (first + i * 7) % KEYS;
        freshet_result result = freshet_get(cache, name, key_make(key, name), &options, &buf, NULL);

        if (result != FRESHET_OK)
            continue;
        hits++;
        FUZZ_EXPECT(buf.size <= FRESHET_VALUE_MAX_DEFAULT);
        FUZZ_EXPECT(!pages_value_is_anothers(key, buf.data, buf.size));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct change changes[CHANGES];
    unsigned count = 0;

    if (!cache) {
        make_tier();
        (void)atexit(remove_tier);
    }
    for (size_t at = 0; at + CHANGE <= size && count < CHANGES; at += CHANGE)
        count += change_make(&changes[count], bytes + at);
    read_keys(size ? bytes[size - 1] : 0);
    while (count-- > 0)
        (void)atomic_compare_exchange_strong(changes[count].word, &changes[count].made, changes[count].old);
    if (++rounds % ROUNDS == 0) {
        if (hits < ROUNDS) {
            remove_tier();
            make_tier();
        }
        hits = 0;
    }
    return 0;
}

unsigned fuzz_seed(unsigned number, uint8_t *ret_bytes, size_t *ret_size)
{
    *ret_size = CHANGE * (1 + number % 8);
    for (size_t i = 0; i < *ret_size; i++)
        ret_bytes[i] = (uint8_t)((i + 1) * (number + 3) * 37);
    for (size_t at = 0; at < *ret_size; at += CHANGE) /* few bits, or a whole number */
        if (number % 2)
            memset(ret_bytes + at + 5, 0, 7);
    return 32;
}
