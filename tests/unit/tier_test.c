/* tier_test.c - the records of a host: what is written is read, nothing else is, and no neighbour can hurt.
 * The only test that leans on LMDB itself, to damage rows and hold snapshots as no code of ours would. */
#include <test.h>

#include <clock.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <sched.h>
#include <sheet.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <step.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <tier.h>
#include <tree.h>
#include <unistd.h>

#define MIB (1ull << 20)
#define LIMIT (17u << 20)
#define GENERATION 0x1234abcdull

static const struct key_space space = {.k0 = 1, .k1 = 2, .partitions = 1, .fence_slots = 16};

/* ---- helpers ---- */

static struct tier *tier_at(const char *dir, uint64_t map_size)
{
    struct tier *tier = NULL;
    bool damaged = true;

    EXPECT_EQ(tier_open(&tier, dir, GENERATION, &space, map_size, LIMIT, &damaged), FRESHET_OK);
    EXPECT(!damaged && tier);
    return tier;
}

static char *map_path(const char *dir)
{
    static char path[4][512];
    static unsigned next;
    char *to = path[next++ % 4];

    snprintf(to, sizeof path[0], "%s/map-%016llx", dir, GENERATION);
    return to;
}

/* Bytes that follow from a seed; equal seeds, equal bytes. */
static void bytes_fill(uint8_t *bytes, size_t size, uint64_t seed)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;

    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = test_random(&state);

        memcpy(bytes + i, &word, size - i < 8 ? size - i : 8);
    }
}

static struct record record_for(const struct key *key, size_t value_size, uint64_t as_of)
{
    return (struct record){.kind = RECORD_VALUE, .as_of = as_of, .born = as_of, .version = as_of * 3, .writer = 9,
                           .source_version = 4, .expires_ns = RECORD_NEVER, .key_size = key->size,
                           .value_size = value_size};
}

static freshet_result store(struct tier *tier, const struct key *key, const void *value, size_t size, uint64_t as_of)
{
    struct record record = record_for(key, size, as_of);
    struct tier_txn *txn;
    freshet_result result = tier_begin(tier, &txn);

    if (result != FRESHET_OK)
        return result;
    if ((result = tier_write(txn, key, &record, value, 0, 0)) != FRESHET_OK) {
        tier_drop(txn);
        return result;
    }
    return tier_commit(txn);
}

static freshet_result store_text(struct tier *tier, const char *name, const char *value)
{
    struct key key;

    key_make(&key, &space, name, strlen(name));
    return store(tier, &key, value, strlen(value), 1);
}

static freshet_result forget(struct tier *tier, const struct key *key)
{
    struct tier_txn *txn;

    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    tier_delete(txn, key);
    return tier_commit(txn);
}

static struct tier_fate keep_in_log(const struct tier_entry *entry, void *arg)
{
    (void)arg;
    return (struct tier_fate){true, entry->log, entry->touched};
}

/* Look at up to so many sheets at the tails, as many of each log, keeping all that is in use. */
static freshet_result tend_in(struct tier_txn *txn, uint32_t sheets)
{
    freshet_result result = FRESHET_OK;
    struct tier_found found;

    for (uint32_t log = 0; log < TIER_LOGS && result >= 0; log++) {
        result = FRESHET_OK;
        for (uint32_t i = 0; i < sheets / TIER_LOGS && result == FRESHET_OK; i++)
            result = tier_tail(txn, log, keep_in_log, NULL, &found);
    }
    return result < 0 ? result : FRESHET_OK;
}

static freshet_result tend(struct tier *tier, uint32_t sheets)
{
    struct tier_txn *txn;
    freshet_result result = tier_begin(tier, &txn);

    if (result != FRESHET_OK)
        return result;
    if ((result = tend_in(txn, sheets)) != FRESHET_OK) {
        tier_drop(txn);
        return result;
    }
    return tier_commit(txn);
}

static bool reads(struct tier *tier, const char *name, const char *value)
{
    freshet_buf buf = {0};
    struct record record;
    struct key key;
    bool same;

    key_make(&key, &space, name, strlen(name));
    same = tier_read(tier, &key, &record, &buf) == FRESHET_OK && buf.size == strlen(value) &&
           memcmp(buf.data, value, buf.size) == 0;
    freshet_buf_free(&buf);
    return same;
}

static freshet_result read_result(struct tier *tier, const struct key *key)
{
    freshet_buf buf = {0};
    struct record record;
    freshet_result result = tier_read(tier, key, &record, &buf);

    freshet_buf_free(&buf);
    return result;
}

static uint64_t records_in(struct tier *tier)
{
    struct tier_facts facts;

    tier_facts(tier, &facts);
    return facts.rows;
}

/* The raw map, in a process of its own only. */
static MDB_env *raw_open(const char *dir)
{
    MDB_env *env;

    EXPECT_EQ(mdb_env_create(&env), 0);
    EXPECT_EQ(mdb_env_open(env, map_path(dir), MDB_NOSUBDIR | MDB_NOSYNC | MDB_NOTLS, 0600), 0);
    return env;
}

static size_t raw_entries(const char *dir)
{
    size_t *entries = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    IN_CHILD({
        MDB_env *env = raw_open(dir);
        MDB_stat stat;

        EXPECT_EQ(mdb_env_stat(env, &stat), 0);
        *entries = stat.ms_entries;
    });
    return *entries;
}

static int *shared_ints(void)
{
    int *ints = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    EXPECT(ints != MAP_FAILED);
    return ints;
}

/* A value that proves itself: size and bytes follow from the seed at its start. */
static size_t storm_value(uint8_t *value, uint64_t seed)
{
    size_t size = 8 + (seed * 2654435761u >> 3) % (seed % 5 == 0 ? 20000 : 900);

    bytes_fill(value + 8, size - 8, seed);
    memcpy(value, &seed, 8);
    return size;
}

#define LIFE_KEYS 300u

/* The value of a key in a generation; larger than a sheet now and then. */
static size_t life_value(uint8_t *value, uint32_t name, uint64_t generation)
{
    return storm_value(value, (generation << 16 | name) * 5 + (name % 10 == 0 ? 0 : 1));
}

/* Write all keys anew, tend the tails and commit. */
static freshet_result life_write(struct tier *tier, uint64_t generation)
{
    uint8_t *value = malloc(32768);
    uint32_t names[LIFE_KEYS];
    struct tier_txn *txn;
    freshet_result result = tier_begin(tier, &txn);

    EXPECT_EQ(result, FRESHET_OK);
    for (uint32_t i = 0; i < LIFE_KEYS; i++) {
        struct record record;
        struct key key;

        names[i] = i;
        key_make(&key, &space, &names[i], sizeof names[i]);
        record = record_for(&key, life_value(value, i, generation), generation);
        EXPECT_EQ(tier_write(txn, &key, &record, value, i % TIER_LOGS, 0), FRESHET_OK);
        if (i == LIFE_KEYS / 2)
            EXPECT_EQ(tend_in(txn, 100), FRESHET_OK);
    }
    result = tier_commit(txn);
    free(value);
    return result;
}

/* ---- what is written is read ---- */

static void check_sizes(struct tier *tier, uint32_t key_size, size_t value_size, uint8_t *key_bytes, uint8_t *value)
{
    freshet_buf buf = {0};
    struct record record;
    struct key key;

    bytes_fill(key_bytes, key_size, key_size);
    bytes_fill(value, value_size, value_size + 77);
    key_make(&key, &space, key_bytes, key_size);
    EXPECT_EQ(store(tier, &key, value, value_size, 5), FRESHET_OK);
    EXPECT_EQ(tier_read(tier, &key, &record, &buf), FRESHET_OK);
    EXPECT_EQ(buf.size, value_size);
    EXPECT(value_size == 0 || memcmp(buf.data, value, value_size) == 0);
    EXPECT(record.key_size == key_size && record.value_size == value_size && record.as_of == 5 && record.version == 15);
    record.as_of = 0;
    EXPECT_EQ(tier_read(tier, &key, &record, NULL), FRESHET_OK);
    EXPECT_EQ(record.as_of, 5);
    freshet_buf_free(&buf);
    EXPECT_EQ(records_in(tier), 1);
    EXPECT_EQ(forget(tier, &key), FRESHET_OK);
    EXPECT_EQ(read_result(tier, &key), FRESHET_MISS);
    EXPECT_EQ(records_in(tier), 0);
}

TEST(what_is_written_is_read_back_at_every_edge_of_size)
{
    static const uint32_t keys[] = {1, 2, 16, 100, 3983, 3984, 3985, 4080, 8064, 8065, 65535, 65536};
    static const size_t edges[] = {0, 1, 64, 3984, 8064, 12144, 65536};
    struct tier *tier = tier_at(fresh_dir(), 128 * MIB);
    uint8_t *key_bytes = malloc(65536), *value = malloc(16 * MIB);

    test_leaves();
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
        for (size_t e = 0; e < sizeof edges / sizeof edges[0]; e++)
            for (size_t size = edges[e] ? edges[e] - 1 : 0; size <= edges[e] + 1; size++) {
                /* Around the edge of value alone, and of key and value together. */
                check_sizes(tier, keys[k], size, key_bytes, value);
                if (size > keys[k])
                    check_sizes(tier, keys[k], size - keys[k], key_bytes, value);
            }
    check_sizes(tier, 1, 16 * MIB, key_bytes, value);
    check_sizes(tier, 65536, 16 * MIB, key_bytes, value);
    tier_close(tier);
}

TEST(tags_stand_beside_values_of_every_size)
{
    static const size_t sizes[] = {0, 1, 3838, 3839, 3840, 3841, 3847, 3848, 3849, 3999, 4000, 8000, 100000};
    static uint8_t value[100000];
    struct tier *tier = tier_at(fresh_dir(), 16 * MIB);
    struct record got;
    freshet_buf buf = {0};
    struct key key;

    key_make(&key, &space, "k", 1);
    bytes_fill(value, sizeof value, 3);
    for (uint32_t tags = 0; tags <= RECORD_TAGS_MAX; tags++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            struct record record = record_for(&key, sizes[i], 5);
            struct tier_txn *txn;

            record.tag_count = tags;
            for (uint32_t t = 0; t < tags; t++)
                record.tags[t] = 1000 * t + i;
            EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
            EXPECT_EQ(tier_write(txn, &key, &record, value, 0, 0), FRESHET_OK);
            EXPECT_EQ(tier_commit(txn), FRESHET_OK);
            EXPECT_EQ(tier_read(tier, &key, &got, &buf), FRESHET_OK);
            EXPECT(buf.size == sizes[i] && memcmp(buf.data, value, sizes[i]) == 0);
            EXPECT_EQ(got.tag_count, tags);
            EXPECT(memcmp(got.tags, record.tags, tags * sizeof *got.tags) == 0);
            EXPECT_EQ(records_in(tier), 1);
        }
    freshet_buf_free(&buf);
    tier_close(tier);
}

static uint64_t live_in(struct tier *tier)
{
    struct tier_facts facts;

    tier_facts(tier, &facts);
    return facts.live_bytes;
}

TEST(what_was_replaced_takes_no_room_for_long)
{
    static const size_t sizes[] = {100000, 10, 50000, 50001, 49000, 0, 4000, 3000, 1000000, 7};
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, 16 * MIB);
    uint8_t *value = malloc(1000000);
    struct key key;

    test_leaves();
    key_make(&key, &space, "key", 3);
    EXPECT_EQ(raw_entries(dir), 1); /* the map's name */
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        freshet_buf buf = {0};
        struct record record;
        size_t sheets = (sizes[i] + 100) / SHEET_ROOM + 1;

        bytes_fill(value, sizes[i], i);
        EXPECT_EQ(store(tier, &key, value, sizes[i], i), FRESHET_OK);
        EXPECT(live_in(tier) >= sizes[i] + 3 + RECORD_HEAD_LEAST && live_in(tier) < sizes[i] + 100);
        for (int again = 0; again < 2; again++) /* what was copied goes with the next transaction */
            EXPECT_EQ(tend(tier, TIER_LOGS * 1000), FRESHET_OK);
        EXPECT(raw_entries(dir) <= 1 + 2 * (sheets + 1));
        EXPECT(live_in(tier) >= sizes[i] + 3 + RECORD_HEAD_LEAST && live_in(tier) < sizes[i] + 100);
        EXPECT_EQ(tier_read(tier, &key, &record, &buf), FRESHET_OK);
        EXPECT(buf.size == sizes[i] && (buf.size == 0 || memcmp(buf.data, value, buf.size) == 0));
        EXPECT_EQ(records_in(tier), 1);
        freshet_buf_free(&buf);
    }
    EXPECT_EQ(forget(tier, &key), FRESHET_OK);
    EXPECT_EQ(live_in(tier), 0);
    tier_close(tier);
}

TEST(another_key_of_the_same_hash_is_a_miss)
{
    struct tier *tier = tier_at(fresh_dir(), 16 * MIB);
    static const uint32_t sizes[] = {1, 100, 3984, 3985, 30000, 65536};
    uint8_t *mine = malloc(65536), *other = malloc(65536);

    test_leaves();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct record record;
        freshet_buf buf = {0};
        struct key key, same;

        bytes_fill(mine, sizes[i], i);
        memcpy(other, mine, sizes[i]);
        key_make(&key, &space, mine, sizes[i]);
        same = key;
        same.data = other;
        EXPECT_EQ(store(tier, &key, mine, i % 2 ? 20000 : 20, 3), FRESHET_OK);
        EXPECT_EQ(read_result(tier, &same), FRESHET_OK);
        other[sizes[i] - 1] ^= 1; /* the last byte: in the last row that holds any of the key */
        EXPECT_EQ(tier_read(tier, &same, &record, &buf), FRESHET_MISS);
        EXPECT_EQ(buf.size, 0);
        EXPECT_EQ(tier_read(tier, &same, &record, NULL), FRESHET_MISS);
        same.size--;
        EXPECT(sizes[i] == 1 || read_result(tier, &same) == FRESHET_MISS);
        EXPECT_EQ(read_result(tier, &key), FRESHET_OK);
        freshet_buf_free(&buf);
    }
    tier_close(tier);
}

TEST(entries_outlive_the_last_close_and_a_dropped_transaction_leaves_nothing)
{
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, MIB);
    struct record record;
    struct tier_fate where;
    struct tier_txn *txn;
    struct key key;

    EXPECT_EQ(store_text(tier, "a", "one"), FRESHET_OK);
    key_make(&key, &space, "b", 1);
    record = record_for(&key, 3, 1);
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    EXPECT_EQ(tier_write(txn, &key, &record, "two", 0, 0), FRESHET_OK);
    EXPECT_EQ(tier_peek(txn, &key, &record, &where), FRESHET_OK);
    tier_drop(txn);
    tier_drop(NULL);
    EXPECT(!reads(tier, "b", "two"));
    tier_close(tier);
    tier_close(NULL);
    tier = tier_at(dir, MIB);
    EXPECT(reads(tier, "a", "one") && !reads(tier, "b", "two"));
    tier_close(tier);
}

/* ---- walking ---- */

struct walk {
    unsigned seen, stop_at;
    uint8_t marks[500];
    struct tier *tier;
};

static bool walk_one(const uint8_t hash[16], const struct record *record, const void *key_bytes, void *arg)
{
    struct walk *walk = arg;
    struct key key;
    unsigned number;

    memcpy(&number, key_bytes, sizeof number);
    EXPECT(number < 500);
    key_make(&key, &space, key_bytes, record->key_size);
    EXPECT(memcmp(key.hash, hash, 16) == 0); /* the whole key, however many rows it lies in */
    walk->marks[number]++;
    if (number % 7 == 0) /* no snapshot is held: one may even write */
        EXPECT_EQ(forget(walk->tier, &key), FRESHET_OK);
    return ++walk->seen != walk->stop_at;
}

TEST(the_walk_shows_every_record_once_with_its_whole_key)
{
    struct walk *walk = calloc(1, sizeof *walk);
    uint8_t *bytes = calloc(1, 65536);

    test_leaves();
    walk->tier = tier_at(fresh_dir(), 32 * MIB);
    for (unsigned i = 0; i < 500; i++) {
        struct key key;

        memcpy(bytes, &i, sizeof i);
        key_make(&key, &space, bytes, i % 50 == 0 ? 65536 : i % 11 == 0 ? 5000 : 8);
        EXPECT_EQ(store(walk->tier, &key, bytes, i % 13 == 0 ? 30000 : 10, 1), FRESHET_OK);
    }
    EXPECT_EQ(tier_each(walk->tier, walk_one, walk), FRESHET_OK);
    for (unsigned i = 0; i < 500; i++)
        EXPECT_EQ(walk->marks[i], 1);
    EXPECT_EQ(records_in(walk->tier), 500 - 72);
    walk->seen = 0;
    walk->stop_at = 3;
    EXPECT_EQ(tier_each(walk->tier, walk_one, walk), FRESHET_OK);
    EXPECT_EQ(walk->seen, 3);
    tier_close(walk->tier);
}

struct swept {
    unsigned seen;
    uint8_t marks[100];
};

static struct tier_fate sweep_odd(const struct tier_entry *entry, void *arg)
{
    struct swept *swept = arg;
    unsigned number;

    EXPECT_EQ(entry->key.size, sizeof number);
    memcpy(&number, entry->key.data, sizeof number);
    EXPECT(number < 100 && entry->record.as_of == number && entry->touched == number % 3);
    EXPECT_EQ(entry->log, number % TIER_LOGS);
    swept->marks[number]++;
    swept->seen++;
    return (struct tier_fate){.keep = number % 2 == 0};
}

TEST(a_sweep_goes_on_where_it_ended_and_asks_about_each_record_once)
{
    struct tier *tier = tier_at(fresh_dir(), 16 * MIB);
    uint8_t *value = calloc(1, 20000);
    struct swept swept = {0};
    uint32_t asked, gone, all_asked = 0, all_gone = 0;
    struct tier_txn *txn;
    bool round;

    test_leaves();
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    EXPECT(tier_sweep(txn, 100, sweep_odd, &swept, &asked, &gone) && asked == 0);
    for (unsigned i = 0; i < 100; i++) {
        struct record record;
        struct key key;

        key_make(&key, &space, memcpy(value + 4 * i, &i, sizeof i), sizeof i);
        record = record_for(&key, i % 2 ? 20000 : 1, i);
        EXPECT_EQ(tier_write(txn, &key, &record, value, i % TIER_LOGS, (uint8_t)(i % 3)), FRESHET_OK);
    }
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
    do {
        EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
        round = tier_sweep(txn, 7, sweep_odd, &swept, &asked, &gone);
        all_asked += asked;
        all_gone += gone;
        tier_drop(txn); /* and what is gone is gone */
    } while (!round);
    EXPECT(all_asked == 100 && swept.seen == 100 && all_gone == 50);
    for (unsigned i = 0; i < 100; i++) {
        struct key key;

        key_make(&key, &space, &i, sizeof i);
        EXPECT_EQ(swept.marks[i], 1);
        EXPECT_EQ(read_result(tier, &key), i % 2 ? FRESHET_MISS : FRESHET_OK);
    }
    EXPECT_EQ(records_in(tier), 50);
    tier_close(tier);
}

/* LMDB on its own finds every row, each behind the one before, and all but the first are whole sheets. */
static void raw_walk(const char *dir, unsigned rows)
{
    MDB_env *env = raw_open(dir);
    uint8_t last[8] = {0};
    size_t last_size = 0;
    MDB_cursor *cursor;
    MDB_txn *txn;
    MDB_val key, row, found;
    MDB_stat stat;
    MDB_dbi dbi;

    EXPECT_EQ(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), 0);
    EXPECT_EQ(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    EXPECT_EQ(mdb_cursor_open(txn, dbi, &cursor), 0);
    EXPECT_EQ(mdb_stat(txn, dbi, &stat), 0);
    EXPECT_EQ(stat.ms_overflow_pages, stat.ms_entries - 1); /* a page each, and no more */
    for (unsigned seen = 0; mdb_cursor_get(cursor, &key, &row, MDB_NEXT) == 0; seen++, rows--) {
        size_t common = key.mv_size < last_size ? key.mv_size : last_size;
        int order = memcmp(last, key.mv_data, common);

        EXPECT(rows > 0 && key.mv_size <= sizeof last && (order < 0 || (order == 0 && last_size < key.mv_size)));
        EXPECT(mdb_get(txn, dbi, &key, &found) == 0 && found.mv_data == row.mv_data);
        EXPECT(seen == 0 || row.mv_size == SHEET_SIZE);
        memcpy(last, key.mv_data, last_size = key.mv_size);
    }
    EXPECT_EQ(rows, 0);
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    mdb_env_close(env);
}

TEST(rows_lie_in_the_order_that_lmdb_has_without_us)
{
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, 16 * MIB);
    uint8_t value[10000];
    unsigned rows = 1; /* the name */
    uint64_t bytes = 0;
    struct key key;

    bytes_fill(value, sizeof value, 9);
    for (unsigned i = 0; i < 800; i++) { /* more than 256 sheets: their numbers change in two bytes */
        bool large = i % 5 == 0;

        key_make(&key, &space, &i, sizeof i);
        EXPECT_EQ(store(tier, &key, value, large ? sizeof value : 100, 1), FRESHET_OK);
        EXPECT_EQ(read_result(tier, &key), FRESHET_OK);
    }
    bytes = live_in(tier);
    rows += (unsigned)(bytes / SHEET_ROOM);
    while (raw_entries(dir) > rows) /* a little is left at a sheet's end, where a head finds no room */
        EXPECT(++rows < 2 + (bytes + bytes / 100) / SHEET_ROOM);
    EXPECT(rows > 300);
    tier_close(tier);
    IN_CHILD({ raw_walk(dir, rows); });
}

/* ---- damage ---- */

/* Change bytes of the sheets of such a number of log 0, wherever in the file they stand, as a program gone wild would;
 * how many.  `size` 0: flip a bit. */
static unsigned damage_sheets(const char *dir, uint64_t number, uint32_t at, const void *bytes, size_t size)
{
    int fd = open(map_path(dir), O_RDWR);
    uint8_t page[4096];
    unsigned found = 0;

    EXPECT(fd >= 0);
    for (off_t where = 8192; pread(fd, page, sizeof page, where) == (ssize_t)sizeof page; where += 4096) {
        struct sheet sheet;

        if (!sheet_decode(&sheet, page + 16) || sheet.log != 0 || sheet.number != number)
            continue;
        found++;
        if (size == 0)
            page[16 + at] ^= 4;
        else
            memcpy(page + 16 + at, bytes, size);
        EXPECT(pwrite(fd, page, sizeof page, where) == (ssize_t)sizeof page);
    }
    close(fd);
    return found;
}

static bool count_one(const uint8_t hash[16], const struct record *record, const void *key_bytes, void *arg)
{
    (void)hash, (void)record, (void)key_bytes;
    ++*(unsigned *)arg;
    return true;
}

/* The bystander on sheets 1 to 3, the victim on sheets 4 to 6, somebody behind both. */
static struct tier *damage_stage(const char *dir, const struct key *victim, const uint8_t *value)
{
    struct tier *tier = tier_at(dir, MIB);
    struct key key;

    key_make(&key, &space, "bystander", 9);
    EXPECT_EQ(store(tier, &key, value, 3 * SHEET_ROOM - 9 - 40, 1), FRESHET_OK); /* its head finds no room behind it */
    EXPECT_EQ(store(tier, victim, value, 3 * SHEET_ROOM - victim->size - 40, 1), FRESHET_OK);
    EXPECT_EQ(store_text(tier, "behind", "well too"), FRESHET_OK);
    return tier;
}

/* After the damage: at most the victim is gone, nothing is wrong, and it can be written over. */
static void expect_mendable(struct tier *tier, const struct key *victim, const uint8_t *value, bool gone)
{
    freshet_buf buf = {0};
    struct record record;
    struct key key;
    unsigned seen = 0;

    if (tier_read(tier, victim, &record, &buf) == FRESHET_OK)
        EXPECT(!gone && buf.size == 3 * SHEET_ROOM - victim->size - 40 && memcmp(buf.data, value, buf.size) == 0);
    EXPECT_EQ(tier_each(tier, count_one, &seen), FRESHET_OK);
    EXPECT(seen >= 2 && seen <= 3);
    EXPECT_EQ(store(tier, victim, value, 5, 2), FRESHET_OK);
    EXPECT_EQ(read_result(tier, victim), FRESHET_OK);
    for (int round = 0; round < 3; round++)
        EXPECT_EQ(tend(tier, 1000), FRESHET_OK);
    EXPECT_EQ(read_result(tier, victim), FRESHET_OK);
    key_make(&key, &space, "bystander", 9);
    EXPECT_EQ(tier_read(tier, &key, &record, &buf), FRESHET_OK);
    EXPECT(buf.size == 3 * SHEET_ROOM - 9 - 40 && memcmp(buf.data, value, buf.size) == 0);
    EXPECT(reads(tier, "behind", "well too"));
    freshet_buf_free(&buf);
}

TEST(damaged_sheets_are_misses_and_can_be_written_over)
{
    static const struct {
        uint64_t sheet;
        uint32_t at;
        size_t size;
        bool gone; /* surely: the others hurt what a record may do without */
    } damages[] = {
        {4, 0, 0, true}, {4, 2, 0, true}, {4, 3, 0, true}, {4, 4, 2, true}, {4, 8, 0, true}, {4, 15, 0, true},
        {4, 16, 40, false}, {4, 6, 0, false}, {4, 6, 2, false}, {4, 0, SHEET_SIZE, true}, {4, 56, 20, true},
        {4, 76, 3, true}, {5, 0, 0, true}, {5, 3, 0, true}, {5, 4, 2, true}, {5, 8, 0, true}, {5, 0, SHEET_SIZE, true},
        {6, 0, 0, true}, {6, 0, SHEET_SIZE, true}, {6, 4, 2, true}, {6, 8, 8, true}};
    static uint8_t value[3 * SHEET_ROOM], garbage[2][SHEET_SIZE];
    struct key victim;

    test_leaves();
    bytes_fill(value, sizeof value, 1);
    bytes_fill(garbage[1], sizeof garbage[1], 2);
    key_make(&victim, &space, "victim", 6);
    for (size_t i = 0; i < 2 * sizeof damages / sizeof *damages; i++) {
        const char *dir = fresh_dir();
        struct tier *tier = damage_stage(dir, &victim, value);

        EXPECT_EQ(read_result(tier, &victim), FRESHET_OK);
        EXPECT(damage_sheets(dir, damages[i / 2].sheet, damages[i / 2].at, garbage[i % 2], damages[i / 2].size) > 0);
        expect_mendable(tier, &victim, value, damages[i / 2].gone);
        tier_close(tier);
    }
}

/* The index as it lies in its file. */
static void raw_index(struct index *index, const char *dir, uint64_t map_size)
{
    char path[600];
    uint64_t nonce;
    bool unfit;
    int fd;

    snprintf(path, sizeof path, "%s-index", map_path(dir));
    EXPECT((fd = open(path, O_RDONLY)) >= 0 && pread(fd, &nonce, sizeof nonce, 8) == (ssize_t)sizeof nonce);
    close(fd);
    EXPECT_EQ(index_open(index, path, nonce, index_leaves(map_size) / 4096, &unfit), FRESHET_OK);
}

static struct tier_fate drop_all(const struct tier_entry *entry, void *arg)
{
    (void)entry, (void)arg;
    return (struct tier_fate){0};
}

TEST(no_slot_leads_to_a_sheet_that_was_deleted)
{
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, MIB);
    static uint8_t value[3 * SHEET_ROOM];
    struct index_probe probe;
    struct index index;
    struct tier_found found;
    struct tier_txn *txn;
    struct key key;

    key_make(&key, &space, "twice", 5);
    EXPECT_EQ(store_text(tier, "twice", "value"), FRESHET_OK);
    raw_index(&index, dir, MIB);
    index_begin(&probe, &index, &key);
    EXPECT(index_next(&probe) && probe.other && probe.other != probe.bucket);
    atomic_store(&probe.other->slots[3], probe.word); /* as whoever was killed while he moved it leaves it */
    index_close(&index);
    key_make(&key, &space, "filler", 6);
    EXPECT_EQ(store(tier, &key, value, sizeof value, 1), FRESHET_OK);
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    EXPECT_EQ(tier_tail(txn, 0, drop_all, NULL, &found), FRESHET_OK);
    EXPECT_EQ(found.kept, 0);
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
    EXPECT(!reads(tier, "twice", "value")); /* its page may be another's at any time */
    tier_close(tier);
}

static struct tier_fate add_bytes(const struct tier_entry *entry, void *arg)
{
    *(uint64_t *)arg += entry->bytes;
    return (struct tier_fate){.keep = true};
}

/* Sweep until it has come round: records met, and their bytes. */
static uint64_t count_round(struct tier *tier, uint64_t *ret_bytes)
{
    uint32_t asked, gone;
    uint64_t all = 0;
    bool round;

    *ret_bytes = 0;
    do {
        struct tier_txn *txn;

        EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
        round = tier_sweep(txn, 1000, add_bytes, ret_bytes, &asked, &gone);
        tier_drop(txn);
        all += asked;
    } while (!round);
    return all;
}

/* Fills of some of 500 keys with heads of any size, deletions, and a look at so many sheets at the tails, as they
 * come. */
static void stir(struct tier *tier, uint64_t *state, uint64_t round, uint32_t sheets)
{
    static const uint8_t value[300];
    uint32_t names[20];
    struct tier_txn *txn;

    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    for (int i = 0; i < 20; i++) {
        struct record record;
        struct key key;

        names[i] = (uint32_t)(test_random(state) % 500);
        key_make(&key, &space, &names[i], sizeof names[i]);
        record = record_for(&key, test_random(state) % 300, round << (test_random(state) % 40));
        if (i % 2) /* heads of other sizes on another sheet */
            record.expires_ns = (int64_t)(test_random(state) >> 2);
        record.version = record.as_of;
        record.writer = test_random(state) % 2;
        if (i % 5 == 4)
            tier_delete(txn, &key);
        else
            EXPECT_EQ(tier_write(txn, &key, &record, value, (uint32_t)i % TIER_LOGS, 0), FRESHET_OK);
    }
    if (round % 2)
        EXPECT_EQ(tend_in(txn, sheets), FRESHET_OK);
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
}

TEST(records_and_their_bytes_are_counted_right_whatever_becomes_of_them)
{
    struct tier *tier = tier_at(fresh_dir(), 8 * MIB);
    uint64_t state = 3, bytes;

    for (uint64_t round = 0; round < 300; round++) {
        uint64_t records, live;

        stir(tier, &state, round, 20);
        records = records_in(tier);
        live = live_in(tier);
        EXPECT_EQ(count_round(tier, &bytes), records);
        EXPECT_EQ(bytes, live);
        EXPECT(records_in(tier) == records && live_in(tier) == live);
    }
    tier_close(tier);
}

TEST(wrong_counts_are_right_again_when_the_sweep_has_come_round)
{
    static const uint64_t wrong[] = {0, 7, 100000, UINT64_MAX};
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, 8 * MIB);
    uint64_t state = 3, round = 0, records, live, bytes;
    struct index index;

    test_one_thread();
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong * 20; i++) {
        uint32_t asked, gone, sheets = 1 + (uint32_t)(test_random(&state) % 5), rounds = 0, steps = 0;

        for (int j = 0; j < 10; j++)
            stir(tier, &state, ++round, 6);
        raw_index(&index, dir, 8 * MIB);
        for (int word = INDEX_RECORDS; word <= (int)INDEX_LIVE; word++)
            atomic_store(&index.words[word], wrong[i / 20]);
        if (i % 3 == 0) /* the sweep's own words, which it begins anew */
            for (int word = INDEX_HAND; word < (int)INDEX_WORDS; word++)
                atomic_store(&index.words[word], test_random(&state));
        index_close(&index);
        while (rounds < 2) { /* the first one may have been under way */
            struct tier_txn *txn;

            EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
            rounds += tier_sweep(txn, sheets, add_bytes, &bytes, &asked, &gone);
            tier_drop(txn);
            if (rounds < 2)
                stir(tier, &state, ++round, 6); /* records come, leave and move on both sides of the hand */
            EXPECT(++steps < 5000);
        }
        records = records_in(tier);
        live = live_in(tier);
        EXPECT_EQ(count_round(tier, &bytes), records);
        EXPECT_EQ(bytes, live);
    }
    tier_close(tier);
}

static void raw_put(const char *dir, uint32_t log, uint64_t number)
{
    MDB_env *env = raw_open(dir);
    uint8_t name[8], bytes[SHEET_SIZE] = {0};
    const struct sheet sheet = {.log = log, .number = number, .used = SHEET_HEAD};
    MDB_val key = {sizeof name, name}, row = {sizeof bytes, bytes};
    MDB_txn *txn;
    MDB_dbi dbi;

    for (int i = 0; i < 8; i++)
        name[i] = (uint8_t)(((uint64_t)(log + 1) << 56 | number) >> (56 - 8 * i));
    sheet_encode(&sheet, bytes);
    EXPECT_EQ(mdb_txn_begin(env, NULL, 0, &txn), 0);
    EXPECT_EQ(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    EXPECT_EQ(mdb_put(txn, dbi, &key, &row, 0), 0);
    EXPECT_EQ(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

TEST(numbers_that_no_log_comes_to_are_damage)
{
    static const uint64_t numbers[] = {UINT64_C(1) << 50, (UINT64_C(1) << 56) - 1};

    test_leaves();
    for (unsigned i = 0; i < 2 * TIER_LOGS; i++) {
        const char *dir = fresh_dir();
        struct tier *tier = tier_at(dir, MIB);
        unsigned seen = 0;

        EXPECT_EQ(store_text(tier, "a", "b"), FRESHET_OK);
        IN_CHILD({ raw_put(dir, i / 2, numbers[i % 2]); });
        EXPECT_EQ(tier_each(tier, count_one, &seen), FRESHET_EIO);
        EXPECT_EQ(store_text(tier, "c", "d"), FRESHET_EIO);
        EXPECT(!tier_intact(tier));
        tier_abandon(tier);
        tier = tier_at(dir, MIB);
        EXPECT_EQ(store_text(tier, "c", "d"), FRESHET_OK);
        tier_close(tier);
    }
}

TEST(garbage_in_the_index_is_misses_and_no_wrong_value)
{
    int rounds = test_long_runs() ? 20000 : 300;
    uint64_t state = 17, found = 0;
    const char *dir = NULL;
    struct tier *tier = NULL;
    freshet_buf buf = {0};
    uint8_t *value = malloc(32768);
    struct index index;

    test_leaves();
    for (int round = 0; round < rounds; round++) {
        uint64_t fixed, size;

        if (round % 50 == 0) {
            if (tier) {
                index_close(&index);
                tier_close(tier);
            }
            tier = tier_at(dir = fresh_dir(), 8 * MIB);
            EXPECT_EQ(life_write(tier, 1), FRESHET_OK);
            raw_index(&index, dir, 8 * MIB);
        }
        fixed = (uint64_t)((char *)index.buckets - (char *)index.head);
        size = round % 3 == 0 ? fixed - 64 : 4096 + 256 * 64; /* head and tables, or the first buckets */
        for (int i = 0; i < 200; i++) {
            uint64_t at = (64 + test_random(&state) % size) & ~UINT64_C(7), draw = test_random(&state);
            uint64_t base = round % 3 == 2 && at > 4096 ? fixed - 4096 : 0;
            uint64_t *word = (uint64_t *)(void *)((char *)index.head + base + at);

            *word = draw % 3 == 0 ? draw : draw % 3 == 1 ? *word ^ UINT64_C(1) << (draw >> 8 & 63) : draw >> 40 & 4095;
        }
        for (uint32_t i = 0; i < LIFE_KEYS; i++) {
            struct record record;
            struct key key;

            key_make(&key, &space, &i, sizeof i);
            if (tier_read(tier, &key, &record, &buf) != FRESHET_OK)
                continue;
            found++;
            EXPECT(buf.size == life_value(value, i, record.as_of) && memcmp(buf.data, value, buf.size) == 0);
        }
        if (round % 5 == 4)
            EXPECT(life_write(tier, (uint64_t)round) <= FRESHET_MISS); /* may find no room: never more than that */
    }
    EXPECT(found > 1000);
    index_close(&index);
    tier_close(tier);
    freshet_buf_free(&buf);
}

/* What tier_open says of the file as it is now. */
static freshet_result opens(const char *dir, uint64_t map_size, bool *ret_damaged)
{
    struct tier *tier = NULL;
    freshet_result result = tier_open(&tier, dir, GENERATION, &space, map_size, LIMIT, ret_damaged);

    if (result == FRESHET_OK)
        tier_close(tier);
    else
        EXPECT(tier == NULL);
    return result;
}

static void poke(const char *dir, off_t at, const void *bytes, size_t size)
{
    int fd = open(map_path(dir), O_WRONLY);

    EXPECT(fd >= 0 && pwrite(fd, bytes, size, at) == (ssize_t)size);
    close(fd);
}

static const char *filled_dir(void)
{
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, MIB);

    for (unsigned i = 0; i < 200; i++) {
        struct key key;

        key_make(&key, &space, &i, sizeof i);
        EXPECT_EQ(store(tier, &key, "value", 5, 1), FRESHET_OK);
    }
    tier_close(tier);
    return dir;
}

TEST(a_garbled_or_cut_off_file_is_refused_before_lmdb_sees_it)
{
    uint8_t garbage[8192], zero[8192] = {0};
    bool damaged;
    const char *dir;
    uint64_t state = 1;

    bytes_fill(garbage, sizeof garbage, 5);
    for (int i = 0; i < 14; i++) {
        uint8_t byte;

        dir = filled_dir();
        EXPECT_EQ(opens(dir, MIB, &damaged), FRESHET_OK);
        switch (i) {
        case 0: poke(dir, 0, garbage, sizeof garbage); break;
        case 1: poke(dir, 0, zero, sizeof zero); break;
        case 2: poke(dir, 4096, garbage, 4096); break;
        case 3: EXPECT(truncate(map_path(dir), 1) == 0); break;
        case 4: EXPECT(truncate(map_path(dir), 4096) == 0); break;
        case 5: EXPECT(truncate(map_path(dir), 8192) == 0); break;
        case 6: EXPECT(truncate(map_path(dir), 5 * 4096 + 100) == 0); break;
        case 7: EXPECT(truncate(map_path(dir), MIB + 1) == 0); break;
        case 8: EXPECT(unlink(map_path(dir)) == 0 && symlink("/dev/null", map_path(dir)) == 0); break;
        case 9: EXPECT(chmod(map_path(dir), 0640) == 0); break;
        case 10: EXPECT(unlink(map_path(dir)) == 0 && mkdir(map_path(dir), 0700) == 0); break;
        case 11: EXPECT(unlink(map_path(dir)) == 0 && mkfifo(map_path(dir), 0600) == 0); break;
        default: /* all pages of the tree gone, both roots well */
            byte = (uint8_t)test_random(&state);
            for (off_t at = 8192; at < (off_t)MIB; at += 4096)
                poke(dir, at, i == 12 ? zero : memset(garbage, byte | 0x80, sizeof garbage), 64);
        }
        EXPECT_EQ(opens(dir, MIB, &damaged), FRESHET_EIO);
        EXPECT(damaged);
    }
}

/* ---- garbage in LMDB's own pages, there when the map is opened ---- */

/* All that writers, views and listings do.  FRESHET_EIO is welcome. */
static void use_hard(struct tier *tier, uint64_t *state)
{
    static const uint8_t value[60000];
    unsigned seen = 0;

    for (uint32_t i = 0; i < 20; i++) {
        struct tier_view view;
        struct record record;
        struct tier_txn *txn;
        struct key key;
        uint32_t asked, gone;
        uint64_t bytes;

        key_make(&key, &space, &i, sizeof i);
        if (tier_begin(tier, &txn) == FRESHET_OK) {
            (void)tier_sweep(txn, 40, add_bytes, &bytes, &asked, &gone);
            tier_drop(txn);
        }
        (void)store(tier, &key, value, test_random(state) % sizeof value, 100 + i);
        (void)tend(tier, (uint32_t)(test_random(state) % 100));
        if (tier_view(tier, &key, &record, &view) == FRESHET_OK)
            tier_view_end(tier, &view);
    }
    (void)tier_each(tier, count_one, &seen);
}

/* Bytes of a file. */
static uint8_t *file_load(const char *path, size_t *ret_size)
{
    int fd = open(path, O_RDONLY);
    struct stat st;
    uint8_t *bytes;

    EXPECT(fd >= 0 && fstat(fd, &st) == 0 && (bytes = malloc((size_t)st.st_size)));
    EXPECT(pread(fd, bytes, (size_t)st.st_size, 0) == st.st_size);
    close(fd);
    *ret_size = (size_t)st.st_size;
    return bytes;
}

static void file_store(const char *path, const uint8_t *bytes, size_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

    EXPECT(fd >= 0 && pwrite(fd, bytes, size, 0) == (ssize_t)size);
    close(fd);
}

/* Change a few words of pages that are LMDB's: the first two, its trees' and the heads of rows. */
static void garble_tree(uint8_t *map, size_t size, uint64_t *state)
{
    static const uint64_t words[] = {0, 1, 2, 3, 0xffff, 0xffffffff, UINT64_MAX, 1u << 20, 4096, 5};
    unsigned changes = 1 + (unsigned)(test_random(state) % 3);

    while (changes > 0) {
        uint64_t dice = test_random(state), at = test_random(state) % (size / 4096) * 4096, word;
        uint8_t *page = map + at;
        bool meta = dice % 8 == 0, row = dice % 8 == 1;

        if (meta)
            page = map + dice / 8 % 2 * 4096;
        else if (row ? page[10] != 4 : page[10] != 1 && page[10] != 2)
            continue;
        page += (row ? dice >> 8 & 15 : dice % 16 == 1 ? dice >> 8 & 63 : meta ? dice >> 8 & 255 : dice >> 8 & 4095) &
                ~7u;
        word = dice >> 32 & 1 ? words[(dice >> 33) % 10] : dice;
        if (dice >> 40 & 1)
            memcpy(page + (dice >> 41 & 6), &word, 2);
        else
            memcpy(page, &word, 8);
        changes--;
    }
}

TEST_LONG(garbage_in_lmdbs_pages_that_is_there_at_open_kills_nobody, 3000)
{
    unsigned rounds = test_long_runs() ? 20000 : test_sanitized() ? 60 : 400, refused = 0, dead = 0;
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, 4 * MIB);
    char index_path[600];
    uint8_t *map, *garbled, *index;
    size_t size, index_size;
    uint64_t state = 11;

    test_one_thread();
    for (uint64_t round = 0; round < 30; round++) {
        EXPECT_EQ(life_write(tier, round), FRESHET_OK);
        EXPECT_EQ(tend(tier, 600), FRESHET_OK);
    }
    tier_close(tier);
    map = file_load(map_path(dir), &size);
    snprintf(index_path, sizeof index_path, "%s-index", map_path(dir));
    index = file_load(index_path, &index_size);
    garbled = malloc(size);
    for (unsigned round = 0; round < rounds; round++) {
        int status;
        pid_t child;

        memcpy(garbled, map, size);
        garble_tree(garbled, size, &state);
        file_store(map_path(dir), garbled, size);
        file_store(index_path, index, index_size);
        if ((child = test_fork()) == 0) {
            const struct rlimit memory = {UINT64_C(1) << 30, UINT64_C(1) << 30};
            bool damaged;

            alarm(30); /* LMDB may also count to 2^32, or ask for memory without end */
            if (!test_sanitized())
                EXPECT(setrlimit(RLIMIT_AS, &memory) == 0);
            if (tier_open(&tier, dir, GENERATION, &space, 4 * MIB, LIMIT, &damaged) != FRESHET_OK)
                _exit(damaged ? 3 : 4);
            use_hard(tier, &state);
            tier_close(tier);
            _exit(0);
        }
        while (waitpid(child, &status, 0) < 0)
            EXPECT(errno == EINTR);
        refused += WIFEXITED(status) && WEXITSTATUS(status) == 3;
        if (!WIFEXITED(status) || WEXITSTATUS(status) == 4)
            fprintf(stderr, "round %u: %x\n", round, (unsigned)status);
        dead += !WIFEXITED(status) || WEXITSTATUS(status) == 4;
    }
    free(map);
    free(garbled);
    free(index);
    printf("     %u of %u refused\n", refused, rounds);
    EXPECT_EQ(dead, 0);
    EXPECT(refused > rounds / 8 && refused < rounds);
}

TEST(a_file_whose_maker_died_before_stretching_it_is_taken_over)
{
    const char *dir = fresh_dir();
    struct tier *tier;
    struct stat st;

    IN_CHILD({ mdb_env_close(raw_open(dir)); });
    tier = tier_at(dir, MIB);
    EXPECT_EQ(store_text(tier, "a", "b"), FRESHET_OK);
    /* no page of the mapping lies beyond the end */
    EXPECT(stat(map_path(dir), &st) == 0 && st.st_size == (off_t)(index_leaves(MIB) / 4096 * 4096));
    tier_close(tier);
    EXPECT(truncate(map_path(dir), 0) == 0); /* an empty file is a new one */
    tier = tier_at(dir, MIB);
    EXPECT_EQ(records_in(tier), 0);
    tier_close(tier);
}

TEST(a_map_that_fails_while_open_is_begun_anew_and_siblings_follow)
{
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, MIB);
    int *step = shared_ints();
    uint8_t zero[64] = {0};
    struct key key;
    pid_t child;

    test_leaves();
    for (unsigned i = 0; i < 200; i++) {
        key_make(&key, &space, &i, sizeof i);
        EXPECT_EQ(store(tier, &key, "value", 5, 1), FRESHET_OK);
    }
    child = test_fork();
    if (child == 0) {
        struct tier *sibling;

        tier_abandon(tier);
        sibling = tier_at(dir, MIB);
        EXPECT(tier_intact(sibling));
        *(volatile int *)step = 1;
        EXPECT(test_until(*(volatile int *)step == 2, 20000));
        EXPECT(!tier_intact(sibling)); /* its map is no longer the directory's */
        tier_abandon(sibling);
        sibling = tier_at(dir, MIB);
        EXPECT(reads(sibling, "new", "born"));
        tier_close(sibling);
        test_child_done();
    }
    EXPECT(test_until(*(volatile int *)step == 1, 20000));
    for (off_t at = 8192; at < (off_t)MIB; at += 4096)
        poke(dir, at, zero, sizeof zero);
    EXPECT_EQ(read_result(tier, &key), FRESHET_MISS); /* no reader walks LMDB's tree */
    EXPECT_EQ(store_text(tier, "new", "born"), FRESHET_EIO);
    EXPECT(!tier_intact(tier));
    EXPECT_EQ(read_result(tier, &key), FRESHET_EIO);
    tier_abandon(tier);
    tier = tier_at(dir, MIB);
    EXPECT_EQ(records_in(tier), 0);
    EXPECT_EQ(store_text(tier, "new", "born"), FRESHET_OK);
    EXPECT(reads(tier, "new", "born"));
    *(volatile int *)step = 2;
    test_join(child);
    EXPECT(tier_intact(tier));
    tier_close(tier);
}

TEST(a_limit_on_file_sizes_is_told_not_died_of)
{
    IN_CHILD({
        struct tier *tier = NULL;
        bool damaged;

        const struct rlimit limit = {65536, 65536};

        EXPECT(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        EXPECT_EQ(tier_open(&tier, fresh_dir(), 1, &space, MIB, LIMIT, &damaged), FRESHET_EIO);
        EXPECT(!damaged);
    });
}

/* ---- several processes ---- */

#define STORM_KEYS 400u

_Noreturn static void storm_writer(const char *dir, uint64_t seed, volatile int *commits)
{
    struct tier *tier = tier_at(dir, 32 * MIB);
    uint8_t *value = malloc(32768);
    uint64_t state = seed;

    for (;;) {
        struct tier_txn *txn;
        uint32_t names[40];

        EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
        for (int i = 0; i < 40; i++) {
            uint64_t content = test_random(&state) >> 8;
            size_t size = storm_value(value, content);
            struct record record;
            struct key key;

            names[i] = (uint32_t)(test_random(&state) % STORM_KEYS);
            key_make(&key, &space, &names[i], sizeof names[i]);
            record = record_for(&key, size, content);
            EXPECT_EQ(tier_write(txn, &key, &record, value, names[i] % TIER_LOGS, 0), FRESHET_OK);
        }
        EXPECT_EQ(tend_in(txn, 200), FRESHET_OK);
        EXPECT_EQ(tier_commit(txn), FRESHET_OK);
        ++*commits;
    }
}

/* Reads until told to stop; counts what it found, and fails on any byte that is wrong. */
static void storm_reader(const char *dir, volatile int *stop, volatile int *found)
{
    struct tier *tier = tier_at(dir, 32 * MIB);
    uint8_t *value = malloc(32768);
    freshet_buf buf = {0};
    uint64_t state = 99;

    while (!*stop) {
        uint32_t name = (uint32_t)(test_random(&state) % STORM_KEYS);
        struct record record;
        struct key key;
        freshet_result result;

        key_make(&key, &space, &name, sizeof name);
        result = tier_read(tier, &key, &record, &buf);
        if (result == FRESHET_MISS)
            continue;
        EXPECT_EQ(result, FRESHET_OK);
        EXPECT_EQ(buf.size, storm_value(value, record.as_of));
        EXPECT(memcmp(buf.data, value, buf.size) == 0);
        ++*found;
    }
    freshet_buf_free(&buf);
    tier_close(tier);
}

TEST(readers_see_only_whole_values_while_writers_are_killed)
{
    const char *dir = fresh_dir();
    int *ints = shared_ints(), kills = test_long_runs() ? 2000 : 60;
    uint64_t state = 7;
    pid_t readers[2];

    IN_CHILD({ tier_close(tier_at(dir, 32 * MIB)); }); /* no two may make it at once: dir.c sees to that */
    for (int i = 0; i < 2; i++)
        if ((readers[i] = test_fork()) == 0) {
            storm_reader(dir, &ints[0], &ints[1 + i]);
            test_child_done();
        }
    for (int i = 0; i < kills; i++) {
        volatile int *commits = &ints[8];
        int before = *commits;
        int64_t until;
        pid_t writer = test_fork();

        if (writer == 0)
            storm_writer(dir, (uint64_t)i + 1, commits);
        EXPECT(test_until(*commits > before, 30000)); /* well under way */
        until = test_now_ns() + (int64_t)(test_random(&state) % 15000000);
        (void)test_until(test_now_ns() > until, 1000);
        test_kill(writer, SIGKILL);
    }
    ints[0] = 1;
    for (int i = 0; i < 2; i++) {
        test_join(readers[i]);
        EXPECT(ints[1 + i] > 50);
    }
    IN_CHILD({ storm_reader(dir, (volatile int *)&(int){1}, &ints[4]); });
}

/* ---- writers that die ---- */

static const char *die_at;
static unsigned die_after;

static void die_hook(const char *point)
{
    if (strcmp(point, die_at) == 0 && die_after-- == 0)
        kill(getpid(), SIGKILL);
}

/* Is every key there, of this generation? */
static bool life_there(struct tier *tier, uint64_t generation)
{
    uint8_t *value = malloc(32768);
    freshet_buf buf = {0};
    unsigned right = 0;

    for (uint32_t i = 0; i < LIFE_KEYS; i++) {
        struct record record;
        struct key key;
        size_t size = life_value(value, i, generation);

        key_make(&key, &space, &i, sizeof i);
        if (tier_read(tier, &key, &record, &buf) != FRESHET_OK)
            continue;
        if (record.as_of != generation) { /* then that one whole */
            size = life_value(value, i, record.as_of);
            EXPECT(buf.size == size && memcmp(buf.data, value, size) == 0);
            continue;
        }
        EXPECT(buf.size == size && memcmp(buf.data, value, size) == 0);
        right++;
    }
    free(value);
    freshet_buf_free(&buf);
    return right == LIFE_KEYS;
}

TEST_LONG(what_a_killed_writer_committed_is_found_by_the_next, 300)
{
    static const struct {
        const char *point;
        unsigned most; /* it is come to more often */
    } steps[] = {{"tier_committed", 1}, {"tier_publishing", 1}, {"tier_pages_set", 1}, {"tier_slot_set", 250},
                 {"tier_slots_set", 1}, {"index_split_set", 20}, {"index_split_shaped", 20}};
    const char *dir = fresh_dir();
    struct tier *tier;
    uint64_t generation = 1;

    test_one_thread();
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        for (unsigned after = 0; after < steps[i].most; after += 1 + steps[i].most / 8) {
            bool splits = strncmp(steps[i].point, "index", 5) == 0; /* only a new table is split */
            int status;
            pid_t child;

            if (splits)
                dir = fresh_dir();
            if (!splits)
                IN_CHILD({
                    tier = tier_at(dir, 32 * MIB);
                    EXPECT_EQ(life_write(tier, generation), FRESHET_OK);
                    tier_close(tier);
                });
            generation++;
            if ((child = test_fork()) == 0) {
                tier = tier_at(dir, 32 * MIB);
                die_at = steps[i].point;
                die_after = after;
                step_hook = die_hook;
                for (uint64_t more = 0; more < 30; more++) {
                    uint32_t name = 1000 + (uint32_t)more; /* others, so that the table grows */

                    (void)life_write(tier, generation);
                    for (unsigned j = 0; splits && j < 100; j++, name += 100) {
                        struct key key;

                        key_make(&key, &space, &name, sizeof name);
                        (void)store(tier, &key, "other", 5, 1);
                    }
                }
                _exit(1); /* it never came to that point */
            }
            while (waitpid(child, &status, 0) < 0)
                EXPECT(errno == EINTR);
            EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
            IN_CHILD({
                struct tier_txn *txn;

                tier = tier_at(dir, 32 * MIB);
                (void)life_there(tier, generation); /* whatever is found is whole */
                EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
                tier_drop(txn);
                EXPECT(life_there(tier, generation));
                for (int round = 0; round < 4; round++)
                    EXPECT_EQ(tend(tier, 3000), FRESHET_OK);
                EXPECT(life_there(tier, generation));
                tier_close(tier);
            });
        }
}

TEST(what_killed_writers_left_uncounted_the_next_sweep_counts)
{
    static const char *const points[] = {"tier_inserted", "tier_moved", "tier_cleared"};
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, 8 * MIB);
    uint64_t state = 3, bytes, records, live;

    for (uint64_t round = 0; round < 60; round++) /* so that most fills replace something */
        stir(tier, &state, round, 6);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        for (unsigned after = 0; after < 5; after++) {
            pid_t child = test_fork();
            int status;

            if (child == 0) {
                tier = tier_at(dir, 8 * MIB);
                die_at = points[i];
                die_after = after;
                step_hook = die_hook;
                state += after;
                for (uint64_t round = 100 * (i + 1) + after;; round++)
                    stir(tier, &state, round, 6);
            }
            while (waitpid(child, &status, 0) < 0)
                EXPECT(errno == EINTR);
            EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        }
        stir(tier, &state, 100 * (i + 1) + 50, 6);
        records = records_in(tier);
        live = live_in(tier);
        EXPECT(count_round(tier, &bytes) != records || bytes != live); /* else nothing is shown here */
        records = records_in(tier);
        live = live_in(tier);
        EXPECT_EQ(count_round(tier, &bytes), records);
        EXPECT_EQ(bytes, live);
    }
    tier_close(tier);
}

TEST(whoever_catches_up_may_die_too)
{
    const char *dir = fresh_dir();
    struct tier *tier;

    for (unsigned after = 0; after < 280; after += 31) {
        for (int life = 0; life < 2; life++) {
            int status;
            pid_t child = test_fork();

            if (child == 0) {
                tier = tier_at(dir, 32 * MIB);
                die_at = life == 0 ? "tier_committed" : "tier_catching_up";
                die_after = life == 0 ? 0 : after;
                step_hook = die_hook;
                (void)life_write(tier, 7 + after);
                _exit(1);
            }
            while (waitpid(child, &status, 0) < 0)
                EXPECT(errno == EINTR);
            EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        }
        IN_CHILD({
            tier = tier_at(dir, 32 * MIB);
            EXPECT_EQ(tend(tier, 6), FRESHET_OK);
            EXPECT(life_there(tier, 7 + after));
            tier_close(tier);
        });
    }
}

/* A record that expires. */
static void write_expiring(struct tier_txn *txn, const char *name, uint8_t first, int64_t expires_ns, uint64_t version)
{
    uint8_t value[300] = {first};
    struct record record;
    struct key key;

    key_make(&key, &space, name, strlen(name));
    record = record_for(&key, sizeof value, 5);
    record.expires_ns = expires_ns;
    record.source_version = version;
    EXPECT_EQ(tier_write(txn, &key, &record, value, 0, 0), FRESHET_OK);
}

static struct tier_fate keep_in_another(const struct tier_entry *entry, void *arg)
{
    (void)arg;
    return (struct tier_fate){true, entry->log + 1, 0};
}

/* Its sheet is the tail, and the log goes on. */
static void old_record(struct tier *tier, const char *name, int64_t expires_ns)
{
    struct tier_txn *txn;

    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    write_expiring(txn, name, 1, expires_ns, 1);
    for (int i = 1; i < 20; i++)
        write_expiring(txn, (const char[]){'a', (char)('a' + i), 0}, 1, expires_ns + i * 12345678, 1);
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
}

TEST(a_copy_that_another_indexes_takes_its_records_place)
{
    const char *dir = fresh_dir();
    struct tier *tier;
    int status;
    pid_t child = test_fork();

    if (child == 0) {
        struct tier_found found;
        struct tier_txn *txn;

        tier = tier_at(dir, 4 * MIB);
        old_record(tier, "k", 1234567890123);
        EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
        EXPECT_EQ(tier_tail(txn, 0, keep_in_log, NULL, &found), FRESHET_OK);
        EXPECT(found.kept > 0); /* and leans on another base */
        die_at = "tier_committed";
        step_hook = die_hook;
        (void)tier_commit(txn);
        _exit(1);
    }
    while (waitpid(child, &status, 0) < 0)
        EXPECT(errno == EINTR);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    IN_CHILD({
        struct tier_found found;
        struct tier_txn *txn;

        tier = tier_at(dir, 4 * MIB);
        EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
        EXPECT_EQ(tier_tail(txn, 0, keep_in_log, NULL, &found), FRESHET_OK);
        EXPECT(found.kept == 0 && found.dead > 0);
        tier_drop(txn);
        tier_close(tier);
    });
}

TEST(a_copy_that_another_indexes_does_not_replace_what_came_beside_it)
{
    const char *dir = fresh_dir();
    struct tier *tier;
    int status;
    pid_t child = test_fork();

    if (child == 0) {
        struct tier_found found;
        struct tier_txn *txn;

        tier = tier_at(dir, 4 * MIB);
        old_record(tier, "k", RECORD_NEVER - 999999999);
        EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
        write_expiring(txn, "k", 2, RECORD_NEVER - 999999999, 2);
        EXPECT_EQ(tier_tail(txn, 0, keep_in_another, NULL, &found), FRESHET_OK);
        EXPECT(found.kept > 0);
        die_at = "tier_committed";
        step_hook = die_hook;
        (void)tier_commit(txn);
        _exit(1);
    }
    while (waitpid(child, &status, 0) < 0)
        EXPECT(errno == EINTR);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    IN_CHILD({
        struct tier_txn *txn;
        struct record record;
        struct key key;

        tier = tier_at(dir, 4 * MIB);
        EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
        tier_drop(txn);
        key_make(&key, &space, "k", 1);
        EXPECT_EQ(tier_read(tier, &key, &record, NULL), FRESHET_OK);
        EXPECT_EQ(record.source_version, 2);
        tier_close(tier);
    });
}

/* ---- writers that are stopped ---- */

static void stop_hook(const char *point)
{
    if (strcmp(point, die_at) == 0 && die_after-- == 0)
        raise(SIGSTOP);
}

/* One is stopped right after its commit, or as it publishes with the lock in hand, while another goes on for many
 * batches.  Then it goes on as if nothing had been. */
TEST_LONG(a_writer_stopped_after_its_commit_spoils_nothing, 120)
{
    int *ints = shared_ints(), rounds = test_long_runs() ? 100 : test_sanitized() ? 2 : 6;
    const char *dir = fresh_dir();
    pid_t readers[2], writer;

    test_one_thread();
    IN_CHILD({ tier_close(tier_at(dir, 32 * MIB)); }); /* no two may make it at once: dir.c sees to that */
    for (int i = 0; i < 2; i++)
        if ((readers[i] = test_fork()) == 0) {
            storm_reader(dir, &ints[0], &ints[1 + i]);
            test_child_done();
        }
    for (int round = 0; round < rounds; round++) {
        volatile int *commits = &ints[8], *others = &ints[9];
        int before = *others, status;
        pid_t other;

        if ((writer = test_fork()) == 0) {
            die_at = "tier_committed";
            die_after = 3;
            step_hook = stop_hook;
            storm_writer(dir, (uint64_t)round + 1, commits);
        }
        EXPECT(waitpid(writer, &status, WUNTRACED) == writer && WIFSTOPPED(status));
        if ((other = test_fork()) == 0)
            storm_writer(dir, (uint64_t)round + 1000, others);
        EXPECT(test_until(*others > before + 400, 60000));
        before = *commits;
        test_kill(writer, SIGCONT);
        EXPECT(test_until(*commits > before + 20, 60000)); /* both at once */
        test_kill(writer, SIGKILL);
        test_kill(other, SIGKILL);
    }
    ints[0] = 1;
    for (int i = 0; i < 2; i++) {
        test_join(readers[i]);
        EXPECT(ints[1 + i] > 50);
    }
}

TEST(what_was_deleted_before_a_stopped_writer_goes_on_stays_so)
{
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, MIB);
    unsigned seen = 0;
    struct key key;
    pid_t writer;
    int status;

    EXPECT_EQ(store_text(tier, "other", "1"), FRESHET_OK);
    if ((writer = test_fork()) == 0) {
        tier_abandon(tier);
        tier = tier_at(dir, MIB);
        die_at = "tier_committed";
        die_after = 0;
        step_hook = stop_hook;
        EXPECT_EQ(store_text(tier, "mine", "2"), FRESHET_OK);
        tier_close(tier);
        test_child_done();
    }
    EXPECT(waitpid(writer, &status, WUNTRACED) == writer && WIFSTOPPED(status));
    key_make(&key, &space, "mine", 4);
    EXPECT_EQ(forget(tier, &key), FRESHET_OK); /* to delete it, it must have been found */
    EXPECT_EQ(records_in(tier), 1);
    test_kill(writer, SIGCONT);
    test_join(writer);
    EXPECT(!reads(tier, "mine", "2") && reads(tier, "other", "1"));
    EXPECT_EQ(tier_each(tier, count_one, &seen), FRESHET_OK);
    EXPECT(seen == 1 && records_in(tier) == 1);
    tier_close(tier);
}

/* A value that takes thousands of sheets is copied for long enough to be stopped in the midst of it. */
_Noreturn static void giant_writer(const char *dir, volatile int *commits)
{
    struct tier *tier = tier_at(dir, 64 * MIB);
    uint8_t *value = malloc(8 * MIB);

    for (uint64_t round = 1;; round++) {
        struct tier_txn *txn;
        struct record record;
        struct key key;

        key_make(&key, &space, "giant", 5);
        bytes_fill(value, 8 * MIB - 8 * (round % 999), round);
        record = record_for(&key, 8 * MIB - 8 * (round % 999), round);
        EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
        EXPECT_EQ(tier_write(txn, &key, &record, value, 0, 0), FRESHET_OK);
        EXPECT_EQ(tend_in(txn, 4000 * TIER_LOGS), FRESHET_OK);
        EXPECT_EQ(tier_commit(txn), FRESHET_OK);
        ++*commits;
    }
}

static void giant_reader(const char *dir, volatile int *stop, volatile int *found)
{
    struct tier *tier = tier_at(dir, 64 * MIB);
    uint8_t *value = malloc(8 * MIB);
    freshet_buf buf = {0};

    while (!*stop) {
        struct record record;
        struct key key;

        key_make(&key, &space, "giant", 5);
        if (tier_read(tier, &key, &record, &buf) == FRESHET_MISS)
            continue;
        EXPECT_EQ(buf.size, 8 * MIB - 8 * (record.as_of % 999));
        bytes_fill(value, buf.size, record.as_of);
        EXPECT(memcmp(buf.data, value, buf.size) == 0);
        ++*found;
    }
    free(value);
    freshet_buf_free(&buf);
    tier_close(tier);
}

TEST_LONG(a_reader_stopped_in_the_midst_of_a_copy_gets_it_whole_or_not_at_all, 120)
{
    int *ints = shared_ints(), stops = test_long_runs() ? 2000 : test_sanitized() ? 8 : 25;
    volatile int *commits = &ints[8];
    const char *dir = fresh_dir();
    uint64_t state = 5;
    pid_t readers[3], writer;

    if ((writer = test_fork()) == 0)
        giant_writer(dir, commits);
    EXPECT(test_until(*commits > 1, 20000));
    for (int i = 0; i < 3; i++)
        if ((readers[i] = test_fork()) == 0) {
            giant_reader(dir, &ints[0], &ints[1 + i]);
            test_child_done();
        }
    for (int i = 0; i < stops; i++) {
        int64_t until = test_now_ns() + (int64_t)(test_random(&state) % 5000000);
        int before = *commits;

        EXPECT(test_until(test_now_ns() > until, 1000));
        test_kill(readers[i % 2], SIGSTOP);
        EXPECT(test_until(*commits > before + 1 + i % 5, 20000)); /* its pages were used again meanwhile */
        test_kill(readers[i % 2], SIGCONT);
    }
    ints[0] = 1;
    for (int i = 0; i < 3; i++)
        test_join(readers[i]);
    EXPECT(ints[3] > 0);
    test_kill(writer, SIGKILL);
}

/* One key, a value that lies on one sheet with its head: nothing but a look after the copy tells that the sheet's page
 * is another's by now. */
#define LONE_SIZE 3900u

static void lone_write(struct tier *tier, uint64_t round)
{
    uint8_t value[LONE_SIZE];
    struct tier_txn *txn;
    struct record record;
    struct key key;

    key_make(&key, &space, "lone", 4);
    bytes_fill(value, sizeof value, round);
    record = record_for(&key, sizeof value, round);
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    EXPECT_EQ(tier_write(txn, &key, &record, value, 0, 0), FRESHET_OK);
    EXPECT_EQ(tend_in(txn, 12), FRESHET_OK);
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
}

static void lone_reader(const char *dir, volatile int *stop, volatile int *found)
{
    struct tier *tier = tier_at(dir, MIB);
    uint8_t value[LONE_SIZE];
    freshet_buf buf = {0};
    uint64_t known = 0;

    while (!*stop) {
        struct record record;
        struct key key;

        key_make(&key, &space, "lone", 4);
        if (tier_read(tier, &key, &record, &buf) != FRESHET_OK)
            continue;
        if (record.as_of != known) /* seldom, so that nearly all the time goes to reading */
            bytes_fill(value, sizeof value, known = record.as_of);
        EXPECT(buf.size == sizeof value && memcmp(buf.data, value, sizeof value) == 0);
        ++*found;
    }
    freshet_buf_free(&buf);
    tier_close(tier);
}

TEST_LONG(a_reader_stopped_as_he_copies_from_one_sheet_looks_again, 120)
{
    int *ints = shared_ints(), stops = test_long_runs() ? 20000 : 1000, status;
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, MIB);
    uint64_t state = 5, round = 1;
    pid_t reader;

    lone_write(tier, round++);
    if ((reader = test_fork()) == 0) {
        tier_abandon(tier);
        lone_reader(dir, &ints[0], &ints[1]);
        test_child_done();
    }
    for (int i = 0; i < stops; i++) {
        int64_t until = test_now_ns() + (int64_t)(test_random(&state) % 200000);
        int before = ints[1];

        EXPECT(test_until(*(volatile int *)&ints[1] != before, 20000));
        while (test_now_ns() < until)
            ;
        test_kill(reader, SIGSTOP);
        EXPECT(waitpid(reader, &status, WUNTRACED) == reader && WIFSTOPPED(status));
        for (int j = 0; j < 8; j++)
            lone_write(tier, round++);
        test_kill(reader, SIGCONT);
    }
    ints[0] = 1;
    test_join(reader);
    tier_close(tier);
}

TEST_LONG(churn_of_many_times_the_maps_size_never_fills_it, 120)
{
    struct tier *tier = tier_at(fresh_dir(), 4 * MIB);
    uint64_t state = 9, written = 0, times = test_long_runs() ? 400 : test_sanitized() ? 8 : 30;
    uint8_t *value = malloc(32768);
    uint32_t first = 0, next = 0;

    test_one_thread();
    test_leaves();
    while (written < times * 4 * MIB) { /* a window of keys: what leaves it is deleted */
        struct tier_usage usage;
        struct tier_txn *txn;
        uint32_t names[10];

        EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
        for (int i = 0; i < 10; i++) {
            size_t size = storm_value(value, test_random(&state));
            struct record record;
            struct key key;

            names[i] = next++;
            key_make(&key, &space, &names[i], sizeof names[i]);
            record = record_for(&key, size, *(uint64_t *)(void *)value);
            EXPECT_EQ(tier_write(txn, &key, &record, value, next % TIER_LOGS, 0), FRESHET_OK);
            written += size;
        }
        for (; first + 600 < next; first++) {
            struct key key;

            key_make(&key, &space, &first, sizeof first);
            tier_delete(txn, &key);
        }
        EXPECT_EQ(tend_in(txn, 120), FRESHET_OK);
        tier_usage(txn, &usage);
        EXPECT(usage.used < usage.all);
        EXPECT_EQ(tier_commit(txn), FRESHET_OK);
        EXPECT(records_in(tier) <= 600);
    }
    for (; first < next; first++) {
        struct record record;
        struct key key;

        key_make(&key, &space, &first, sizeof first);
        EXPECT_EQ(tier_read(tier, &key, &record, NULL), FRESHET_OK);
    }
    tier_close(tier);
}

TEST(a_stopped_writer_blocks_nobodys_reads)
{
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, MIB);
    struct tier_txn *txn;
    int *step = shared_ints(), status;
    int64_t start;
    pid_t writer;

    EXPECT_EQ(store_text(tier, "key", "old"), FRESHET_OK);
    writer = test_fork();
    if (writer == 0) {
        struct tier *own;
        struct record record;
        struct key key;

        tier_abandon(tier);
        own = tier_at(dir, MIB);
        key_make(&key, &space, "key", 3);
        record = record_for(&key, 3, 2);
        EXPECT_EQ(tier_begin(own, &txn), FRESHET_OK);
        EXPECT_EQ(tier_write(txn, &key, &record, "new", 0, 0), FRESHET_OK);
        *(volatile int *)step = 1;
        raise(SIGSTOP);
        test_child_done();
    }
    EXPECT(test_until(*(volatile int *)step == 1, 20000));
    EXPECT(waitpid(writer, &status, WUNTRACED) == writer && WIFSTOPPED(status));
    start = test_now_ns();
    for (int i = 0; i < 10000; i++)
        EXPECT(reads(tier, "key", "old"));
    EXPECT(test_now_ns() - start < 5 * CLOCK_NS_PER_S);
    test_kill(writer, SIGKILL); /* and its lock is free again */
    EXPECT_EQ(store_text(tier, "key", "mine"), FRESHET_OK);
    EXPECT(reads(tier, "key", "mine"));
    tier_close(tier);
}

/* Overwrite one record until there is no page left; true when that came to pass. */
static bool churn_until_full(struct tier *tier, int most)
{
    uint8_t value[3000] = {0};
    struct key key;

    key_make(&key, &space, "churn", 5);
    for (int i = 0; i < most; i++) {
        freshet_result result = store(tier, &key, value, sizeof value, (uint64_t)i);

        if (result == FRESHET_OK)
            result = tend(tier, 4 * TIER_LOGS);
        if (result == FRESHET_ENOSPC)
            return true;
        EXPECT_EQ(result, FRESHET_OK);
    }
    return false;
}

TEST(a_reader_killed_in_mid_snapshot_does_not_fill_the_map_for_ever)
{
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, MIB);
    int *step = shared_ints();
    pid_t reader;

    EXPECT_EQ(store_text(tier, "a", "b"), FRESHET_OK);
    reader = test_fork();
    if (reader == 0) {
        MDB_txn *txn;

        tier_abandon(tier);
        EXPECT_EQ(mdb_txn_begin(raw_open(dir), NULL, MDB_RDONLY, &txn), 0);
        *(volatile int *)step = 1;
        pause();
    }
    EXPECT(test_until(*(volatile int *)step == 1, 20000));
    EXPECT(churn_until_full(tier, 5000));
    EXPECT(reads(tier, "a", "b")); /* full, and reads go on */
    EXPECT_EQ(tier_reader_check(tier), 0); /* he lives */
    test_kill(reader, SIGKILL);
    EXPECT_EQ(tier_reader_check(tier), 1);
    EXPECT(!churn_until_full(tier, 5000));
    tier_close(tier);
}

/* Two namespaces, both with a process 1. */
static void namesake(void (*run)(const char *dir), const char *dir)
{
    pid_t outer = test_fork();

    if (outer == 0) {
        pid_t inner;
        int status;

        if (unshare(CLONE_NEWPID) != 0)
            _exit(77);
        inner = test_fork();
        if (inner == 0) {
            run(dir);
            test_child_done();
        }
        EXPECT(waitpid(inner, &status, 0) == inner);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status) == SIGKILL ? 0 : 1);
    }
    test_join(outer);
}

static void namesake_dies(const char *dir)
{
    MDB_txn *txn;

    EXPECT_EQ(getpid(), 1);
    EXPECT_EQ(mdb_txn_begin(raw_open(dir), NULL, MDB_RDONLY, &txn), 0);
    _exit(0); /* its slot stays, in mid-snapshot */
}

static void namesake_lives(const char *dir)
{
    struct tier *tier = tier_at(dir, MIB);

    EXPECT_EQ(getpid(), 1);
    EXPECT(!churn_until_full(tier, 5000));
    tier_close(tier);
}

TEST(the_slot_of_a_dead_namesake_is_cleared_at_open)
{
    const char *dir = fresh_dir();

    IN_CHILD({ tier_close(tier_at(dir, MIB)); });
    namesake(namesake_dies, dir);
    namesake(namesake_lives, dir);
}

/* ---- a careless host program ---- */

/* Close every descriptor whose file's name holds `part`, as a program that closes what it does not know; how many. */
static int close_all(const char *part, int *ret_fds)
{
    char link[64], target[512];
    int closed = 0;

    for (int fd = 3; fd < 256; fd++) {
        ssize_t size;

        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        size = readlink(link, target, sizeof target - 1);
        if (size <= 0)
            continue;
        target[size] = 0;
        if (strstr(target, part)) {
            close(fd);
            ret_fds[closed++] = fd;
        }
    }
    return closed;
}

TEST(closed_descriptors_are_noticed_and_nobody_elses_file_is_written)
{
    static const char *const parts[] = {"/map-", "-lock", "abcd"};
    uint8_t before[4096], after[4096];

    test_leaves();
    for (int i = 0; i < 3; i++) {
        const char *dir = fresh_dir();
        struct tier *tier = tier_at(dir, MIB), *again;
        char other[512];
        int fds[16], count, theirs[16];
        struct tier_txn *txn;
        struct record record;
        struct key key;

        EXPECT_EQ(store_text(tier, "a", "b"), FRESHET_OK);
        key_make(&key, &space, "k", 1);
        record = record_for(&key, 5, 1);
        EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
        EXPECT_EQ(tier_write(txn, &key, &record, "value", 0, 0), FRESHET_OK);
        count = close_all(parts[i], fds);
        EXPECT(count >= 1);
        snprintf(other, sizeof other, "%s/other", dir);
        bytes_fill(before, sizeof before, 3);
        for (int j = 0; j < count; j++) { /* their numbers go to somebody else */
            theirs[j] = open(other, O_RDWR | O_CREAT, 0600);
            EXPECT_EQ(theirs[j], fds[j]);
        }
        EXPECT(pwrite(theirs[0], before, sizeof before, 0) == sizeof before);
        EXPECT(!tier_intact(tier));
        EXPECT_EQ(tier_commit(txn), FRESHET_EIO);
        EXPECT_EQ(tier_begin(tier, &txn), FRESHET_EIO);
        EXPECT_EQ(tier_reader_check(tier), 0);
        EXPECT(pread(theirs[0], after, sizeof after, 0) == sizeof after && memcmp(before, after, sizeof after) == 0);
        tier_close(tier);
        EXPECT_EQ(close_all("map-", fds), 0); /* nothing of ours is left open */
        for (int j = 0; j < count; j++)
            EXPECT(fcntl(theirs[j], F_GETFD) >= 0); /* and theirs still is */
        again = tier_at(dir, MIB);
        EXPECT(reads(again, "a", "b") && !reads(again, "k", "value"));
        EXPECT_EQ(store_text(again, "c", "d"), FRESHET_OK);
        tier_close(again);
        EXPECT(pread(theirs[0], after, sizeof after, 0) == sizeof after && memcmp(before, after, sizeof after) == 0);
        for (int j = 0; j < count; j++)
            close(theirs[j]);
    }
}

TEST(a_child_leaves_the_inherited_tier_and_opens_its_own)
{
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, 4 * MIB);
    int *step = shared_ints(), fds[16];
    pid_t child;

    EXPECT_EQ(store_text(tier, "parent", "1"), FRESHET_OK);
    EXPECT(reads(tier, "parent", "1"));
    child = test_fork();
    if (child == 0) {
        struct tier *own;

        tier_abandon(tier);
        EXPECT_EQ(close_all("map-", fds), 0);
        own = tier_at(dir, 4 * MIB);
        for (int i = 0; i < 2000; i++) {
            EXPECT(reads(own, "parent", "1"));
            /* the parent may be stopped in the midst of a read, and hold pages for as long */
            EXPECT(test_until(store_text(own, "child", "2") == FRESHET_OK, 10000));
        }
        tier_close(own);
        *(volatile int *)step = 1;
        test_child_done();
    }
    for (int i = 0; i < 2000 || *(volatile int *)step == 0; i++) {
        EXPECT(reads(tier, "parent", "1"));
        EXPECT(test_until(store_text(tier, "parent2", "3") == FRESHET_OK, 10000)); /* so may the child */
    }
    test_join(child);
    EXPECT(reads(tier, "child", "2") && reads(tier, "parent2", "3") && tier_intact(tier));
    tier_close(tier);
}

/* ---- threads ---- */

struct crowd {
    struct tier *tier;
    atomic_bool stop;
    _Atomic unsigned wrong, right;
};

static void *crowd_reader(void *arg)
{
    struct crowd *crowd = arg;
    freshet_buf buf = {0};
    uint64_t state = (uintptr_t)&buf;

    for (unsigned i = 0; i < 2000 && !atomic_load(&crowd->stop); i++) {
        uint32_t name = (uint32_t)(test_random(&state) % 50);
        struct record record;
        struct key key;

        key_make(&key, &space, &name, sizeof name);
        if (tier_read(crowd->tier, &key, &record, &buf) != FRESHET_OK) {
            atomic_fetch_add(&crowd->wrong, 1);
            break;
        }
        /* All bytes of a value are its record's as-of, low byte. */
        for (size_t j = 0; j < buf.size; j += 97)
            if (((uint8_t *)buf.data)[j] != (uint8_t)record.as_of)
                atomic_fetch_add(&crowd->wrong, 1);
        atomic_fetch_add(&crowd->right, 1);
    }
    freshet_buf_free(&buf);
    return NULL;
}

TEST(more_threads_than_pooled_readers_read_what_one_writes)
{
    struct crowd crowd = {.tier = tier_at(fresh_dir(), 8 * MIB)};
    uint8_t value[9000];
    pthread_t threads[90];
    struct tier_facts facts;

    for (uint32_t i = 0; i < 50; i++) {
        struct key key;

        key_make(&key, &space, &i, sizeof i);
        memset(value, 1, sizeof value);
        EXPECT_EQ(store(crowd.tier, &key, value, sizeof value, 1), FRESHET_OK);
    }
    for (int i = 0; i < 90; i++)
        EXPECT(pthread_create(&threads[i], NULL, crowd_reader, &crowd) == 0);
    for (uint32_t i = 0; i < 300; i++) {
        uint32_t name = i % 50;
        struct key key;

        key_make(&key, &space, &name, sizeof name);
        memset(value, (int)i, sizeof value);
        EXPECT_EQ(store(crowd.tier, &key, value, i % 3 ? 200 : sizeof value, i), FRESHET_OK);
    }
    for (int i = 0; i < 90; i++)
        pthread_join(threads[i], NULL);
    EXPECT_EQ(crowd.wrong, 0);
    EXPECT_EQ(crowd.right, 90 * 2000);
    tier_facts(crowd.tier, &facts);
    EXPECT(facts.readers >= 1 && facts.readers <= 64 && facts.rows == 50 && facts.size == 8 * MIB);
    EXPECT(facts.used_bytes > 50 * 200 && facts.used_bytes < 2 * MIB);
    tier_close(crowd.tier);
}

TEST(what_cannot_be_looked_at_is_not_taken_for_damaged)
{
    const struct tree trees[2] = {{.root = 2, .depth = 1, .leaves = 1, .rows = 1}, {.root = UINT64_MAX}};
    int error = 0;

    EXPECT(tree_fault(-1, trees, 100, &error) != NULL);
    EXPECT_EQ(error, EBADF);
}
