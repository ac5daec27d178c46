/* tier_test.c - the LMDB map: what is written is read, nothing else is, and no neighbour can hurt.
 * The only test that leans on LMDB itself, to damage rows and hold snapshots as no code of ours would. */
#include <test.h>

#include <clock.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <tier.h>
#include <unistd.h>

#define MIB (1ull << 20)
#define LIMIT (17u << 20)
#define GENERATION 0x1234abcdull

static const struct key_space space = {.k0 = 1, .k1 = 2, .partitions = 1, .fence_slots = 16, .touch_slots = 16};

/* ---- helpers ---- */

static struct tier *tier_at(const char *dir, uint64_t map_size)
{
    struct tier *tier = NULL;
    bool damaged = true;

    EXPECT_EQ(tier_open(&tier, dir, GENERATION, map_size, LIMIT, &damaged), FRESHET_OK);
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
    if ((result = tier_write(txn, key, &record, value)) != FRESHET_OK) {
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

static freshet_result forget(struct tier *tier, const uint8_t hash[16])
{
    struct tier_txn *txn;

    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    EXPECT_EQ(tier_delete(txn, hash), FRESHET_OK);
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
    EXPECT_EQ(forget(tier, key.hash), FRESHET_OK);
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
            EXPECT_EQ(tier_write(txn, &key, &record, value), FRESHET_OK);
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

TEST(a_shorter_record_leaves_no_rows_of_its_predecessor)
{
    static const size_t sizes[] = {100000, 10, 50000, 50001, 49000, 0, 4000, 3000, 1000000, 7};
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, 16 * MIB);
    uint8_t *value = malloc(1000000);
    struct key key;

    test_leaves();
    key_make(&key, &space, "key", 3);
    EXPECT_EQ(raw_entries(dir), 0);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        freshet_buf buf = {0};
        struct record record;
        size_t chunks = sizes[i] + 3 <= 3984 ? 0 : (sizes[i] + 3 - 3984 + TIER_ROW - 1) / TIER_ROW;

        bytes_fill(value, sizes[i], i);
        EXPECT_EQ(store(tier, &key, value, sizes[i], i), FRESHET_OK);
        EXPECT_EQ(raw_entries(dir), 1 + 1 + chunks); /* the tally, the head, the rest */
        EXPECT_EQ(tier_read(tier, &key, &record, &buf), FRESHET_OK);
        EXPECT(buf.size == sizes[i] && (buf.size == 0 || memcmp(buf.data, value, buf.size) == 0));
        EXPECT_EQ(records_in(tier), 1);
        freshet_buf_free(&buf);
    }
    tier_close(tier);
}

TEST(another_key_of_the_same_hash_is_a_miss)
{
    struct tier *tier = tier_at(fresh_dir(), 16 * MIB);
    static const uint32_t sizes[] = {1, 100, 3984, 3985, 30000, 65536};
    uint8_t *mine = malloc(65536), *other = malloc(65536);

    test_leaves();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct record record = {.as_of = 4711};
        freshet_buf buf = {0};
        struct key key, same;

        bytes_fill(mine, sizes[i], i);
        memcpy(other, mine, sizes[i]);
        key_make(&key, &space, mine, sizes[i]);
        same = key;
        same.data = other;
        EXPECT_EQ(store(tier, &key, mine, 20000, 3), FRESHET_OK);
        EXPECT_EQ(read_result(tier, &same), FRESHET_OK);
        other[sizes[i] - 1] ^= 1; /* the last byte: in the last row that holds any of the key */
        EXPECT_EQ(tier_read(tier, &same, &record, &buf), FRESHET_MISS);
        EXPECT(record.as_of == 4711 && buf.size == 0);
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
    struct tier_txn *txn;
    struct key key;

    EXPECT_EQ(store_text(tier, "a", "one"), FRESHET_OK);
    key_make(&key, &space, "b", 1);
    record = record_for(&key, 3, 1);
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    EXPECT_EQ(tier_write(txn, &key, &record, "two"), FRESHET_OK);
    EXPECT_EQ(tier_peek(txn, key.hash, &record), FRESHET_OK);
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
        EXPECT_EQ(forget(walk->tier, hash), FRESHET_OK);
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

TEST(a_scan_goes_on_where_it_ended)
{
    struct tier *tier = tier_at(fresh_dir(), 16 * MIB);
    uint8_t from[16] = {0}, hashes[7][16], *value = calloc(1, 20000);
    struct record records[7];
    uint32_t count, all = 0;
    struct tier_txn *txn;

    test_leaves();
    for (unsigned i = 0; i < 100; i++) {
        struct key key;

        key_make(&key, &space, &i, sizeof i);
        EXPECT_EQ(store(tier, &key, value, i % 2 ? 20000 : 1, i), FRESHET_OK);
    }
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    do {
        EXPECT_EQ(tier_scan(txn, from, 7, hashes, records, &count), FRESHET_OK);
        for (uint32_t i = 0; i < count; i++) {
            EXPECT(memcmp(hashes[i], from, 16) >= 0 && records[i].key_size == 4);
            memcpy(from, hashes[i], 16);
            EXPECT(tier_next_hash(from));
        }
        all += count;
    } while (count == 7);
    tier_drop(txn);
    EXPECT_EQ(all, 100);
    memset(from, 0xff, 16);
    EXPECT(!tier_next_hash(from) && from[0] == 0 && from[15] == 0);
    tier_close(tier);
}

/* LMDB on its own finds every row, each behind the one before. */
static void raw_walk(const char *dir, unsigned rows)
{
    MDB_env *env = raw_open(dir);
    uint8_t last[20] = {0};
    size_t last_size = 0;
    MDB_cursor *cursor;
    MDB_txn *txn;
    MDB_val key, row, found;
    MDB_dbi dbi;

    EXPECT_EQ(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), 0);
    EXPECT_EQ(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    EXPECT_EQ(mdb_cursor_open(txn, dbi, &cursor), 0);
    for (unsigned seen = 0; mdb_cursor_get(cursor, &key, &row, MDB_NEXT) == 0; seen++, rows--) {
        size_t common = key.mv_size < last_size ? key.mv_size : last_size;
        int order = memcmp(last, key.mv_data, common);

        EXPECT(rows > 0 && key.mv_size <= sizeof last && (order < 0 || (order == 0 && last_size < key.mv_size)));
        EXPECT(mdb_get(txn, dbi, &key, &found) == 0 && found.mv_data == row.mv_data);
        memcpy(last, key.mv_data, last_size = key.mv_size);
    }
    EXPECT_EQ(rows, 0);
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    mdb_env_close(env);
}

TEST(rows_lie_in_the_order_that_lmdb_has_without_us)
{
    static const uint8_t ends[4] = {0x00, 0x7f, 0x80, 0xff};
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, 16 * MIB);
    uint8_t value[10000];
    unsigned rows = 1; /* the tally */
    struct key key;

    bytes_fill(value, sizeof value, 9);
    for (unsigned i = 0; i < 256; i++) { /* hashes that differ in the first or the last byte of either word */
        bool large = i % 5 == 0;

        key_make(&key, &space, &i, sizeof i);
        memset(key.hash, 0x55, sizeof key.hash);
        for (unsigned at = 0; at < 4; at++)
            key.hash[at / 2 * 8 + at % 2 * 7] = ends[i >> 2 * at & 3];
        EXPECT_EQ(store(tier, &key, value, large ? sizeof value : 100, 1), FRESHET_OK);
        EXPECT_EQ(read_result(tier, &key), FRESHET_OK);
        rows += large ? 3 : 1;
    }
    tier_close(tier);
    IN_CHILD({ raw_walk(dir, rows); });
}

/* ---- damage ---- */

enum damage {
    HEAD_FLIPPED, HEAD_SHORT, HEAD_LONG, HEAD_EMPTY, HEAD_GONE, CHUNK_GONE, CHUNK_SHORT, CHUNK_LONG, DAMAGES
};

/* Write garbage over a record of three rows, as another program would. */
static void damage_record(const char *dir, const uint8_t hash[16], enum damage damage)
{
    MDB_env *env = raw_open(dir);
    uint8_t name[20] = {0}, bytes[5000] = {0};
    MDB_val key = {damage < CHUNK_GONE ? 16 : 20, name}, row;
    MDB_txn *txn;
    MDB_dbi dbi;

    memcpy(name, hash, 16);
    name[19] = 2;
    EXPECT_EQ(mdb_txn_begin(env, NULL, 0, &txn), 0);
    EXPECT_EQ(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    EXPECT_EQ(mdb_get(txn, dbi, &key, &row), 0);
    EXPECT(row.mv_size < sizeof bytes);
    memcpy(bytes, row.mv_data, row.mv_size);
    row.mv_data = bytes;
    if (damage == HEAD_FLIPPED)
        bytes[17] ^= 1; /* a value of another size */
    if (damage == HEAD_SHORT || damage == CHUNK_SHORT)
        row.mv_size--;
    if (damage == HEAD_LONG || damage == CHUNK_LONG)
        row.mv_size++;
    if (damage == HEAD_EMPTY)
        row.mv_size = 0;
    if (damage == HEAD_GONE || damage == CHUNK_GONE)
        EXPECT_EQ(mdb_del(txn, dbi, &key, NULL), 0);
    else
        EXPECT_EQ(mdb_put(txn, dbi, &key, &row, 0), 0);
    EXPECT_EQ(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

static bool count_one(const uint8_t hash[16], const struct record *record, const void *key_bytes, void *arg)
{
    (void)hash, (void)record, (void)key_bytes;
    ++*(unsigned *)arg;
    return true;
}

TEST(damaged_rows_are_misses_and_can_be_deleted_and_written_over)
{
    const char *dir = fresh_dir();
    struct tier *tier = tier_at(dir, 4 * MIB);
    uint8_t value[9000], hashes[4][16], zero[16] = {0};
    struct record records[4];
    struct tier_txn *txn;
    struct key key;
    uint32_t count;

    bytes_fill(value, sizeof value, 1);
    key_make(&key, &space, "victim", 6);
    EXPECT_EQ(store_text(tier, "bystander", "well"), FRESHET_OK);
    for (int damage = 0; damage < DAMAGES; damage++)
        for (int mend = 0; mend < 2; mend++) {
            unsigned seen = 0;

            EXPECT_EQ(store(tier, &key, value, sizeof value, 1), FRESHET_OK);
            EXPECT_EQ(read_result(tier, &key), FRESHET_OK);
            IN_CHILD({ damage_record(dir, key.hash, (enum damage)damage); });
            EXPECT_EQ(read_result(tier, &key), FRESHET_MISS);
            EXPECT_EQ(tier_each(tier, count_one, &seen), FRESHET_OK);
            EXPECT(seen >= 1 && seen <= 2);
            EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
            EXPECT_EQ(tier_scan(txn, zero, 4, hashes, records, &count), FRESHET_OK);
            EXPECT_EQ(count, 2); /* the victim too, whatever is left of it */
            tier_drop(txn);
            if (mend) {
                EXPECT_EQ(store(tier, &key, value, 5, 2), FRESHET_OK);
                EXPECT_EQ(read_result(tier, &key), FRESHET_OK);
            }
            EXPECT_EQ(forget(tier, key.hash), FRESHET_OK);
            EXPECT_EQ(raw_entries(dir), 2); /* the bystander and the tally */
            EXPECT(reads(tier, "bystander", "well"));
        }
    tier_close(tier);
}

/* What tier_open says of the file as it is now. */
static freshet_result opens(const char *dir, uint64_t map_size, bool *ret_damaged)
{
    struct tier *tier = NULL;
    freshet_result result = tier_open(&tier, dir, GENERATION, map_size, LIMIT, ret_damaged);

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

TEST(a_file_whose_maker_died_before_stretching_it_is_taken_over)
{
    const char *dir = fresh_dir();
    struct tier *tier;
    struct stat st;

    IN_CHILD({ mdb_env_close(raw_open(dir)); });
    tier = tier_at(dir, MIB);
    EXPECT_EQ(store_text(tier, "a", "b"), FRESHET_OK);
    EXPECT(stat(map_path(dir), &st) == 0 && st.st_size == (off_t)MIB); /* no page of the mapping lies beyond the end */
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
    EXPECT_EQ(read_result(tier, &key), FRESHET_EIO);
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
        EXPECT_EQ(tier_open(&tier, fresh_dir(), 1, MIB, LIMIT, &damaged), FRESHET_EIO);
        EXPECT(!damaged);
    });
}

/* ---- several processes ---- */

#define STORM_KEYS 400u

/* A value that proves itself: size and bytes follow from the seed at its start. */
static size_t storm_value(uint8_t *value, uint64_t seed)
{
    size_t size = 8 + (seed * 2654435761u >> 3) % (seed % 5 == 0 ? 20000 : 900);

    bytes_fill(value + 8, size - 8, seed);
    memcpy(value, &seed, 8);
    return size;
}

_Noreturn static void storm_writer(const char *dir, uint64_t seed, volatile int *commits)
{
    struct tier *tier = tier_at(dir, 32 * MIB);
    uint8_t *value = malloc(32768);
    uint64_t state = seed;

    for (;;) {
        struct tier_txn *txn;

        EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
        for (int i = 0; i < 40; i++) {
            uint32_t name = (uint32_t)(test_random(&state) % STORM_KEYS);
            uint64_t content = test_random(&state) >> 8;
            size_t size = storm_value(value, content);
            struct record record;
            struct key key;

            key_make(&key, &space, &name, sizeof name);
            record = record_for(&key, size, content);
            EXPECT_EQ(tier_write(txn, &key, &record, value), FRESHET_OK);
        }
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
        EXPECT_EQ(tier_write(txn, &key, &record, "new"), FRESHET_OK);
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
        EXPECT_EQ(tier_write(txn, &key, &record, "value"), FRESHET_OK);
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
        EXPECT_EQ(store_text(tier, "parent2", "3"), FRESHET_OK);
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
    EXPECT(facts.readers >= 1 && facts.readers <= 64 && facts.rows == 50 && facts.map_bytes == 8 * MIB);
    EXPECT(facts.used_bytes > 50 * 200 && facts.used_bytes < 2 * MIB);
    tier_close(crowd.tier);
}
