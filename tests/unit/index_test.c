/* index_test.c - the table of places: a key that has a slot is found, whatever grows beside it, and nothing that stands
 * in the file leads out of it. */
#include <test.h>

#include <errno.h>
#include <fcntl.h>
#include <index.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define NONCE 0x123456789abcdef0u
#define FIRST_PLACE 56u /* the first offset that a sheet has, in eights; a place is a key's number above it */

static const struct key_space space = {.k0 = 7, .k1 = 8, .partitions = 1, .fence_slots = 16};
static struct index the_index;
static char path[512];
static uint64_t forgotten; /* keys below it have no record any more */

static void index_make(uint64_t pages)
{
    snprintf(path, sizeof path, "%s/index", fresh_dir());
    EXPECT_EQ(index_create(&the_index, path, NONCE, pages), FRESHET_OK);
}

static struct key key_numbered(uint64_t number)
{
    struct key key;

    key_make(&key, &space, &number, sizeof number);
    key.data = NULL;
    return key;
}

/* What the table asks: a place is its key's number. */
static bool hash_of_place(void *arg, uint64_t place, struct key *ret_key)
{
    (void)arg;
    if (place < FIRST_PLACE + forgotten)
        return false;
    *ret_key = key_numbered(place - FIRST_PLACE);
    return true;
}

static uint64_t records(void)
{
    return atomic_load(&the_index.words[INDEX_RECORDS]);
}

static uint64_t insert(uint64_t number, uint8_t touched)
{
    struct key key = key_numbered(number);
    uint64_t evicted = 1;

    index_insert(&the_index, &key, FIRST_PLACE + number, touched, hash_of_place, NULL, &evicted);
    if (evicted == 0)
        atomic_fetch_add(&the_index.words[INDEX_RECORDS], 1);
    return evicted;
}

/* Slots of a key that lead to its place. */
static unsigned slots_of(uint64_t number, struct index_probe *ret_probe)
{
    struct key key = key_numbered(number);
    struct index_probe probe;
    unsigned found = 0;

    index_begin(&probe, &the_index, &key);
    while (index_next(&probe))
        if ((probe.word & PLACE_MASK) == FIRST_PLACE + number) {
            found++;
            if (ret_probe)
                *ret_probe = probe;
        }
    return found;
}

static uint64_t buckets(void)
{
    return index_shape(&the_index) & ((UINT64_C(1) << 56) - 1);
}

static void poke(off_t at, const void *bytes, size_t size)
{
    int fd = open(path, O_WRONLY);

    EXPECT(fd >= 0 && pwrite(fd, bytes, size, at) == (ssize_t)size);
    close(fd);
}

static off_t offset_of(const volatile void *at)
{
    return (const volatile char *)at - (const volatile char *)the_index.head;
}

/* ---- places ---- */

TEST(a_place_tells_log_sheet_and_offset)
{
    index_make(1000); /* 1024 sheets a log */
    for (uint32_t log = 0; log < INDEX_LOGS; log++)
        for (uint64_t number = 1; number < UINT64_C(1) << 50; number = number * 3 + 1)
            for (uint32_t offset = 56; offset < 4080; offset += 8) {
                uint64_t place = place_make(&the_index, log, number, offset);

                EXPECT(place != 0 && (place & ~PLACE_MASK) == 0);
                EXPECT(place_log(place) == log && place_offset(place) == offset);
                EXPECT_EQ(place_sheet(&the_index, place), number & 1023);
            }
    index_close(&the_index);
    index_close(&the_index); /* once more is welcome */
}

TEST(the_table_of_pages_is_each_logs_own)
{
    index_make(1000);
    for (uint32_t log = 0; log < INDEX_LOGS; log++)
        for (uint64_t number = 0; number < 1024; number++)
            index_set_page(&the_index, log, number, (uint32_t)(log * 10000 + number));
    EXPECT_EQ(insert(5, 0), 0);
    for (uint32_t log = 0; log < INDEX_LOGS; log++)
        for (uint64_t number = 0; number < 1024; number++)
            EXPECT_EQ(index_page(&the_index, log, number + 1024), log * 10000 + number);
    EXPECT_EQ(slots_of(5, NULL), 1);
    index_close(&the_index);
}

/* ---- filling and growing ---- */

TEST(every_key_is_found_after_each_step_of_growth)
{
    static bool gone[30000];
    uint64_t before, filled = 0, worst = 100, all_gone = 0;

    index_make(1000);
    before = buckets();
    for (uint64_t i = 0; i < 30000; i++) {
        uint64_t evicted = insert(i, (uint8_t)i);

        if (evicted) {
            gone[evicted - FIRST_PLACE] = true;
            all_gone++;
        }
        EXPECT_EQ(slots_of(i, NULL), 1);
        if (buckets() != before) {
            uint64_t used = (i + 1) * 100 / (buckets() * INDEX_WAYS);

            EXPECT(buckets() > before && buckets() <= before + 4);
            worst = used < worst ? used : worst;
            before = buckets();
            filled++;
            for (uint64_t j = i % 97; j <= i; j += 97)
                EXPECT_EQ(slots_of(j, NULL), !gone[j]);
        }
    }
    EXPECT(filled > 1000 && worst >= 65); /* it grows when it is full, and not before */
    EXPECT(all_gone <= 3); /* as long as it grows hardly anybody gives way */
    for (uint64_t i = 0; i < 30000; i++) {
        struct index_probe probe = {.way = 1};

        EXPECT_EQ(slots_of(i, &probe), !gone[i]);
        EXPECT(gone[i] || atomic_load(index_touched(&probe)) == (uint8_t)i); /* moved along */
    }
    EXPECT(index_bytes(&the_index) >= buckets() * 64 && index_bytes(&the_index) < the_index.size + 4096);
    index_close(&the_index);
}

/* Slots in use, each of a key whose bucket it is in. */
static uint64_t count_slots(void)
{
    uint64_t used = 0;

    for (uint64_t at = 0; at < buckets(); at++)
        for (uint32_t way = 0; way < INDEX_WAYS; way++) {
            uint64_t word = atomic_load(&the_index.buckets[at].slots[way]);
            struct key key;

            if (word == 0)
                continue;
            used++;
            key = key_numbered((word & PLACE_MASK) - FIRST_PLACE);
            EXPECT_EQ(word & ~PLACE_MASK, index_tag(&key));
            EXPECT(at == index_bucket_at(&the_index, index_shape(&the_index), index_first_hash(&key)) ||
                   at == index_bucket_at(&the_index, index_shape(&the_index), index_second_hash(&key)));
        }
    return used;
}

TEST(a_full_table_lets_the_coldest_go_and_says_whose_place_it_was)
{
    uint64_t most, gone = 0, slots, all;

    index_make(64);
    slots = the_index.buckets_most * INDEX_WAYS;
    all = slots * 2;
    most = the_index.buckets_most;
    for (uint64_t i = 0; i < all; i++) {
        uint64_t evicted = insert(i, i % 2 ? 3 : 0);

        EXPECT_EQ(slots_of(i, NULL), 1);
        if (evicted) {
            EXPECT_EQ(slots_of(evicted - FIRST_PLACE, NULL), 0);
            gone++;
        }
        EXPECT(buckets() <= most);
    }
    EXPECT_EQ(buckets(), most);
    EXPECT_EQ(records(), all - gone);
    EXPECT_EQ(count_slots(), records());
    EXPECT(records() >= slots * 95 / 100); /* two buckets a key, and those in the way step aside */
    slots = 0;
    for (uint64_t i = 1; i < all; i += 2)
        slots += slots_of(i, NULL);
    EXPECT(slots > records() * 6 / 10); /* of the touched ones more are left */
    index_close(&the_index);
}

TEST(slots_of_nobody_are_taken_first)
{
    index_make(64);
    for (uint64_t i = 0; i < the_index.buckets_most * INDEX_WAYS; i++)
        (void)insert(i, 3);
    forgotten = the_index.buckets_most * INDEX_WAYS; /* their records cannot be read any more */
    for (uint64_t i = forgotten; i < forgotten + 1000; i++) {
        EXPECT_EQ(insert(i, 0), 0);
        EXPECT_EQ(slots_of(i, NULL), 1);
    }
    index_close(&the_index);
}

TEST(a_full_file_system_leaves_the_table_as_large_as_it_is)
{
    const char *dir = fresh_dir();
    uint64_t found = 0;

    if (mount("none", dir, "tmpfs", 0, "size=256k,mode=0700") != 0)
        test_skip("mounting a small tmpfs needs root");
    snprintf(path, sizeof path, "%s/index", dir);
    EXPECT_EQ(index_create(&the_index, path, NONCE, 4096), FRESHET_OK);
    for (uint64_t i = 0; i < 50000; i++) {
        (void)insert(i, 0);
        EXPECT_EQ(slots_of(i, NULL), 1);
    }
    EXPECT(buckets() < 4096 && index_bytes(&the_index) < 256 * 1024);
    for (uint64_t i = 0; i < 50000; i++)
        found += slots_of(i, NULL);
    EXPECT(found == records() && found >= buckets() * INDEX_WAYS * 95 / 100);
    index_close(&the_index);
    EXPECT_EQ(index_create(&the_index, path, NONCE, 1 << 20), FRESHET_ENOSPC);
    EXPECT(access(path, F_OK) != 0 && errno == ENOENT);
    (void)umount2(dir, MNT_DETACH);
}

TEST(a_table_whose_file_was_replaced_grows_no_more)
{
    uint64_t before;

    index_make(1000);
    EXPECT(unlink(path) == 0);
    EXPECT(symlink("/dev/null", path) == 0);
    for (uint64_t i = 0; i < 20000; i++) {
        (void)insert(i, 0);
        EXPECT_EQ(slots_of(i, NULL), 1);
    }
    before = buckets();
    EXPECT(unlink(path) == 0);
    close(open(path, O_CREAT | O_RDWR, 0600));
    for (uint64_t i = 20000; i < 30000; i++)
        (void)insert(i, 0);
    EXPECT_EQ(buckets(), before);
    index_close(&the_index);
}

TEST(no_bucket_is_used_before_it_has_memory)
{
    uint64_t none = 0, before;
    struct stat st;

    index_make(4096);
    before = buckets();
    for (uint64_t i = 0; i < 100000; i++) {
        if (i % 5000 == 0 && i > 20000) /* garbage: nothing has any, it says */
            poke(offset_of(the_index.words + INDEX_WORDS), &none, sizeof none);
        (void)insert(i, 0);
        if (buckets() != before)
            EXPECT(index_bytes(&the_index) >= (uint64_t)offset_of(the_index.buckets + buckets()));
        before = buckets();
    }
    EXPECT(stat(path, &st) == 0 && (uint64_t)st.st_blocks * 512 >= index_bytes(&the_index));
    index_close(&the_index);
}

/* ---- readers meanwhile ---- */

#define STABLE 2000u

static atomic_bool stop;
static _Atomic uint64_t looks, misses, wrong;

/* Looks for keys that stay, as tier_read does: again when the table grew. */
static void *look_for_stable(void *arg)
{
    uint64_t state = (uintptr_t)arg;

    while (!atomic_load(&stop)) {
        uint64_t number = test_random(&state) % STABLE, shape;
        struct key key = key_numbered(number);
        struct index_probe probe;
        bool found = false;

        do {
            index_begin(&probe, &the_index, &key);
            shape = probe.shape;
            while (!found && index_next(&probe)) {
                uint64_t place = probe.word & PLACE_MASK;

                found = place == FIRST_PLACE + number;
                if (!found && index_tag(&key) != (probe.word & ~PLACE_MASK))
                    atomic_fetch_add(&wrong, 1);
            }
        } while (!found && index_shape(&the_index) != shape);
        atomic_fetch_add(&looks, 1);
        if (!found)
            atomic_fetch_add(&misses, 1);
    }
    return NULL;
}

TEST(readers_find_what_stays_while_the_table_grows)
{
    uint64_t rounds = test_long_runs() ? 40 : 4;
    pthread_t threads[2];

    for (uint64_t round = 0; round < rounds; round++) {
        index_make(4096);
        atomic_store(&stop, false);
        for (uint64_t i = 0; i < STABLE; i++)
            EXPECT_EQ(insert(i, 3), 0); /* no other gives way as late */
        for (uintptr_t i = 0; i < 2; i++)
            EXPECT(pthread_create(&threads[i], NULL, look_for_stable, (void *)(round * 2 + i + 1)) == 0);
        for (uint64_t i = STABLE; i < 150000; i++) {
            uint64_t evicted = insert(i, 0);

            EXPECT(evicted == 0 || evicted >= FIRST_PLACE + STABLE);
        }
        atomic_store(&stop, true);
        for (int i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        for (uint64_t i = 0; i < STABLE; i++)
            EXPECT_EQ(slots_of(i, NULL), 1);
        EXPECT_EQ(count_slots(), records());
        atomic_store(&the_index.words[INDEX_RECORDS], 0);
        index_close(&the_index);
    }
    EXPECT(looks > 10000);
    EXPECT_EQ(wrong, 0);
    /* Only one that steps from a full bucket to its other one may be missed, once. */
    EXPECT(misses <= looks / 1000);
}

/* ---- the file ---- */

static freshet_result opens(uint64_t nonce, uint64_t pages, bool *ret_unfit)
{
    struct index other;
    freshet_result result = index_open(&other, path, nonce, pages, ret_unfit);

    index_close(&other);
    return result;
}

TEST(a_file_is_opened_by_its_own_map_only)
{
    bool unfit;
    struct index other;
    uint8_t head[64], good[64];
    struct stat st;
    int fd;

    index_make(1000);
    EXPECT(opens(NONCE, 1000, &unfit) == FRESHET_OK && !unfit);
    EXPECT_EQ(insert(3, 0), 0);
    EXPECT_EQ(index_open(&other, path, NONCE, 1000, &unfit), FRESHET_OK); /* and is the same table */
    EXPECT(index_shape(&other) == index_shape(&the_index) && atomic_load(&other.words[INDEX_RECORDS]) == 1);
    index_close(&other);
    EXPECT(opens(NONCE + 1, 1000, &unfit) < 0 && unfit);
    EXPECT(opens(NONCE, 1001, &unfit) < 0 && unfit);
    EXPECT(opens(NONCE, 4000, &unfit) < 0 && unfit);
    fd = open(path, O_RDONLY);
    EXPECT(pread(fd, good, sizeof good, 0) == sizeof good && fstat(fd, &st) == 0);
    close(fd);
    for (unsigned i = 0; i < sizeof good; i++) {
        memcpy(head, good, sizeof head);
        head[i] ^= (uint8_t)(1 + i);
        poke(0, head, sizeof head);
        EXPECT(opens(NONCE, 1000, &unfit) < 0 && unfit);
    }
    poke(0, good, sizeof good);
    EXPECT(opens(NONCE, 1000, &unfit) == FRESHET_OK && !unfit);
    EXPECT(chmod(path, 0640) == 0);
    EXPECT(opens(NONCE, 1000, &unfit) < 0 && unfit);
    EXPECT(chmod(path, 0600) == 0);
    index_close(&the_index);
    for (off_t size = 0; size < st.st_size + 4096; size += size < 4096 ? 63 : 4096) {
        EXPECT(truncate(path, size) == 0);
        if (size != st.st_size)
            EXPECT(opens(NONCE, 1000, &unfit) < 0 && unfit);
    }
    EXPECT(unlink(path) == 0);
    EXPECT(opens(NONCE, 1000, &unfit) < 0 && unfit);
    EXPECT(symlink("/dev/null", path) == 0);
    EXPECT(opens(NONCE, 1000, &unfit) < 0 && unfit);
}

/* ---- garbage ---- */

/* A number that somebody gone wild may have left. */
static uint64_t wild(uint64_t *state)
{
    static const uint64_t odd[] = {0, 1, UINT64_MAX, INT64_MAX, UINT64_C(1) << 56, UINT64_C(255) << 56,
                                   (UINT64_C(1) << 56) - 1, UINT64_C(8) << 56, UINT32_MAX, 511, 512};
    uint64_t draw = test_random(state);

    return draw % 3 ? test_random(state) >> (draw >> 8 & 63) : odd[(draw >> 16) % (sizeof odd / sizeof *odd)];
}

static bool hash_of_anything(void *arg, uint64_t place, struct key *ret_key)
{
    (void)arg;
    *ret_key = key_numbered(place);
    return place % 3 != 0;
}

TEST(garbage_never_leads_out_of_the_table)
{
    uint64_t state = 5;

    index_make(256);
    for (int round = 0; round < (test_long_runs() ? 200000 : 3000); round++) {
        uint64_t shape = wild(&state), evicted;
        struct key key = key_numbered(test_random(&state));
        struct index_probe probe;

        if (round % 4) /* nearly right: a level and a count that might be */
            shape = (shape & 31) << 56 | (wild(&state) & 0xffff);
        poke(offset_of(the_index.shape), &shape, sizeof shape);
        for (int i = 0; i < 20; i++) {
            uint64_t word = wild(&state);

            poke(offset_of(the_index.buckets) + (off_t)(test_random(&state) % (the_index.buckets_most * 8)) * 8, &word,
                 sizeof word);
        }
        for (unsigned i = 0; i < INDEX_WORDS + 1; i++) { /* the last is how many have memory */
            uint64_t word = wild(&state);

            poke(offset_of(the_index.words) + 8 * (off_t)i, &word, sizeof word);
        }
        index_begin(&probe, &the_index, &key);
        while (index_next(&probe)) {
            EXPECT(probe.bucket >= the_index.buckets && probe.bucket < the_index.buckets + the_index.buckets_most);
            EXPECT(place_log(probe.word) <= 3 && place_sheet(&the_index, probe.word) <= the_index.sheet_mask);
            EXPECT(place_offset(probe.word) < 4096);
        }
        for (int i = 0; i < 20; i++) {
            key = key_numbered(test_random(&state));
            index_insert(&the_index, &key, 1 + test_random(&state) % PLACE_MASK, 0, hash_of_anything, NULL, &evicted);
        }
        EXPECT(index_bytes(&the_index) <= the_index.size);
    }
    index_close(&the_index);
}
