/*
 * demo_history.c - the shared file, the table, and the check of every read against the table's history.
 *
 * The history is the demo's judge, so it must not depend on what it judges.  A change is written down under SQLite's
 * write lock, between UPDATE and COMMIT, linked to the row's change before it; its three times are filled in as they
 * pass.  A time is always read on the side that favours the cache: "confirmed" after the call has returned, "begin"
 * before the read was asked for.  What remains is a violation beyond argument.
 *
 * A writer killed at any point leaves times that are 0, which accuse nobody; a change that never got to its COMMIT is
 * followed by another of the same version.
 */
#include "demo.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHANGES_SPARE 1000000u /* for the phases that end by the clock; untouched pages cost nothing */
#define BUSY_PAUSE_NS 50000L
#define BUSY_TRIES 200000

struct demo_table {
    const struct demo *demo;
    enum demo_side side;
    sqlite3 *db;
    sqlite3_stmt *begin, *version, *read, *update, *commit, *rollback;
};

/* ---- small things ---- */

int64_t demo_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

uint64_t demo_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void demo_pause(long ns)
{
    nanosleep(&(struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000}, NULL);
}

const char *demo_path(const struct demo *demo, const char *format, ...)
{
    static _Thread_local char paths[8][512];
    static _Thread_local unsigned next;
    char *path = paths[next++ % 8];
    int used = snprintf(path, sizeof paths[0], "%s/", demo->dir);
    va_list list;

    if (used < 0 || (size_t)used >= sizeof paths[0])
        return "";
    va_start(list, format);
    vsnprintf(path + used, sizeof paths[0] - (size_t)used, format, list);
    va_end(list);
    return path;
}

void demo_count(struct demo_worker *worker, enum demo_counter counter)
{
    atomic_fetch_add_explicit(&worker->counts[counter], 1, memory_order_relaxed);
}

/* A span's class: its power of two, and the three bits below the highest. */
static unsigned span_class(uint64_t ns)
{
    unsigned power = ns < 8 ? 3 : 63u - (unsigned)__builtin_clzll(ns);

    return power * 8 + (unsigned)((ns < 8 ? 8 : ns) >> (power - 3) & 7);
}

void demo_count_span(struct demo_worker *worker, int64_t ns)
{
    unsigned class = span_class(ns < 0 ? 0 : (uint64_t)ns);

    atomic_fetch_add_explicit(&worker->spans[class], 1, memory_order_relaxed);
}

int64_t demo_span(const struct demo *demo, double part)
{
    uint64_t counts[DEMO_SPANS] = {0}, all = 0, seen = 0;

    for (unsigned i = 0; i < DEMO_SPANS; i++) {
        for (unsigned w = 0; w < DEMO_WORKERS; w++)
            counts[i] += atomic_load(&demo->shared->worker[w].spans[i]);
        all += counts[i];
    }
    for (unsigned i = 24; i < DEMO_SPANS; i++)
        if (all > 0 && (double)(seen += counts[i]) >= part * (double)all)
            return (int64_t)((uint64_t)(8 + i % 8) << (i / 8 - 3));
    return 0;
}

/* ---- the shared file ---- */

/* Where the parts begin; the file is as long as what this returns. */
static size_t lay_out(struct demo *demo, void *base, uint64_t requests, uint64_t rows, uint64_t most)
{
    size_t at = (sizeof *demo->shared + 63) & ~(size_t)63;
    uint8_t *bytes = base;

    for (unsigned side = 0; side < SIDES; side++) {
        if (bytes)
            demo->changes[side] = (struct demo_change *)(void *)(bytes + at);
        at += (most + 1) * sizeof(struct demo_change);
    }
    for (unsigned side = 0; side < SIDES; side++) {
        if (bytes)
            demo->newest[side] = (_Atomic uint32_t *)(void *)(bytes + at);
        at += rows * sizeof(uint32_t);
    }
    if (bytes)
        demo->trace = (uint32_t *)(void *)(bytes + at);
    at += requests * sizeof(uint32_t);
    if (bytes)
        demo->ids = (int32_t *)(void *)(bytes + at);
    return at + rows * sizeof(int32_t);
}

/* Read a whole trace: its keys, in the machine's own byte order. */
static int32_t *read_trace(const char *path, uint64_t *ret_count)
{
    FILE *file = fopen(path, "re");
    int32_t *keys = NULL;
    struct stat stat;
    uint8_t four[4];
    uint64_t count;

    if (!file || fstat(fileno(file), &stat) != 0) {
        fprintf(stderr, "demo: %s: %s\n", path, strerror(errno));
        goto done;
    }
    if (stat.st_size < 4 || stat.st_size % 4 != 0 || stat.st_size / 4 > 100000000) {
        fprintf(stderr, "demo: %s: not a trace: it should be big-endian 32-bit keys, one to 100,000,000\n", path);
        goto done;
    }
    count = (uint64_t)stat.st_size / 4;
    if (!(keys = malloc(count * sizeof *keys)))
        goto done;
    for (uint64_t i = 0; i < count; i++) {
        if (fread(four, 1, 4, file) != 4) {
            fprintf(stderr, "demo: %s: cannot be read\n", path);
            free(keys);
            keys = NULL;
            goto done;
        }
        keys[i] = (int32_t)((uint32_t)four[0] << 24 | (uint32_t)four[1] << 16 | (uint32_t)four[2] << 8 | four[3]);
    }
    *ret_count = count;
done:
    if (file)
        fclose(file);
    return keys;
}

static int compare_keys(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

/* The distinct keys, sorted: a row each. */
static int32_t *distinct(const int32_t *keys, uint64_t count, uint64_t *ret_rows)
{
    int32_t *ids = malloc(count * sizeof *ids);
    uint64_t rows = 0;

    if (!ids)
        return NULL;
    memcpy(ids, keys, count * sizeof *ids);
    qsort(ids, count, sizeof *ids, compare_keys);
    for (uint64_t i = 0; i < count; i++)
        if (rows == 0 || ids[rows - 1] != ids[i])
            ids[rows++] = ids[i];
    *ret_rows = rows;
    return ids;
}

/* Map the file, creating it with `size` bytes when that is not 0. */
static bool map_shared(struct demo *demo, size_t size)
{
    int fd = open(demo_path(demo, "shared"), size ? O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC : O_RDWR | O_CLOEXEC, 0600);
    void *base = MAP_FAILED;
    struct stat stat;

    if (fd >= 0 && (size == 0 || ftruncate(fd, (off_t)size) == 0) && fstat(fd, &stat) == 0) {
        demo->size = (size_t)stat.st_size;
        base = mmap(NULL, demo->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (base == MAP_FAILED)
        fprintf(stderr, "demo: %s: %s\n", demo_path(demo, "shared"), strerror(errno));
    if (fd >= 0)
        close(fd);
    demo->shared = base == MAP_FAILED ? NULL : base;
    return demo->shared != NULL;
}

bool demo_create(struct demo *demo, const char *dir, const char *trace_path, uint64_t reads, uint32_t bound_ms)
{
    uint64_t count = 0, rows = 0, most = reads / 10 + CHANGES_SPARE;
    int32_t *keys, *ids = NULL;
    bool made = false;

    *demo = (struct demo){.dir = dir};
    if (!(keys = read_trace(trace_path, &count)) || !(ids = distinct(keys, count, &rows)))
        goto done;
    if (!map_shared(demo, lay_out(demo, NULL, count, rows, most)))
        goto done;
    (void)lay_out(demo, demo->shared, count, rows, most);
    demo->shared->requests = count;
    demo->shared->rows = rows;
    demo->shared->changes_most = most;
    demo->shared->bound_ms = bound_ms;
    memcpy(demo->ids, ids, rows * sizeof *ids);
    for (uint64_t i = 0; i < count; i++) {
        const int32_t *id = bsearch(&keys[i], ids, rows, sizeof *ids, compare_keys);

        demo->trace[i] = (uint32_t)(id - ids);
    }
    made = true;
done:
    free(keys);
    free(ids);
    return made;
}

bool demo_open(struct demo *demo, const char *dir)
{
    *demo = (struct demo){.dir = dir};
    if (!map_shared(demo, 0))
        return false;
    (void)lay_out(demo, demo->shared, demo->shared->requests, demo->shared->rows, demo->shared->changes_most);
    return true;
}

void demo_close(struct demo *demo)
{
    if (demo->shared)
        munmap(demo->shared, demo->size);
    *demo = (struct demo){0};
}

/* ---- the table ---- */

size_t demo_value(int32_t id, uint64_t version, uint8_t value[DEMO_VALUE_MAX])
{
    uint64_t seed = demo_mix((uint64_t)(uint32_t)id), sum = 0;
    size_t words = 8 + seed % (DEMO_VALUE_MAX / 8 - 8 + 1);
    uint64_t word[DEMO_VALUE_MAX / 8];

    word[0] = (uint64_t)(uint32_t)id;
    word[1] = version;
    for (size_t i = 2; i < words - 1; i++)
        word[i] = demo_mix(seed + version * DEMO_VALUE_MAX + i);
    for (size_t i = 0; i < words - 1; i++)
        sum = demo_mix(sum ^ word[i]);
    word[words - 1] = sum;
    memcpy(value, word, words * 8);
    return words * 8;
}

/* SQLite's own waiting is in whole milliseconds; a write here takes some microseconds. */
static int on_busy(void *arg, int tries)
{
    (void)arg;
    demo_pause(BUSY_PAUSE_NS);
    return tries < BUSY_TRIES;
}

static void table_complain(struct demo_table *table, const char *what)
{
    fprintf(stderr, "demo: table: %s: %s\n", what, table->db ? sqlite3_errmsg(table->db) : "no memory");
}

/* Open the file.  Nobody needs it after the demo, so it need not reach a disk. */
static bool table_connect(struct demo_table *table)
{
    const char *path = demo_path(table->demo, table->side == SIDE_FRESHET ? "table.db" : "table-naive.db");

    if (sqlite3_open(path, &table->db) != SQLITE_OK || sqlite3_busy_handler(table->db, on_busy, NULL) != SQLITE_OK ||
        sqlite3_exec(table->db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;", NULL, NULL, NULL) != SQLITE_OK) {
        table_complain(table, path);
        return false;
    }
    return true;
}

bool demo_table_create(const struct demo *demo, enum demo_side side)
{
    struct demo_table table = {.demo = demo, .side = side};
    uint8_t value[DEMO_VALUE_MAX];
    sqlite3_stmt *insert = NULL;
    bool made = false;

    if (!table_connect(&table))
        goto done;
    if (sqlite3_exec(table.db, "CREATE TABLE row (id INTEGER PRIMARY KEY, version INTEGER, value BLOB); BEGIN", NULL,
                     NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(table.db, "INSERT INTO row VALUES (?, 1, ?)", -1, &insert, NULL) != SQLITE_OK)
        goto done;
    for (uint64_t row = 0; row < demo->shared->rows; row++) {
        size_t size = demo_value(demo->ids[row], 1, value);

        sqlite3_bind_int(insert, 1, demo->ids[row]);
        sqlite3_bind_blob(insert, 2, value, (int)size, SQLITE_STATIC);
        if (sqlite3_step(insert) != SQLITE_DONE || sqlite3_reset(insert) != SQLITE_OK)
            goto done;
    }
    made = sqlite3_exec(table.db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK;
done:
    if (!made)
        table_complain(&table, "cannot be made");
    sqlite3_finalize(insert);
    sqlite3_close(table.db);
    return made;
}

struct demo_table *demo_table_open(const struct demo *demo, enum demo_side side)
{
    struct demo_table *table = calloc(1, sizeof *table);
    static const char *const texts[] = {"BEGIN IMMEDIATE", "SELECT version FROM row WHERE id = ?",
                                        "SELECT value FROM row WHERE id = ?",
                                        "UPDATE row SET version = ?2, value = ?3 WHERE id = ?1", "COMMIT", "ROLLBACK"};
    sqlite3_stmt **statements[6];

    if (!table)
        return NULL;
    table->demo = demo;
    table->side = side;
    statements[0] = &table->begin, statements[1] = &table->version, statements[2] = &table->read;
    statements[3] = &table->update, statements[4] = &table->commit, statements[5] = &table->rollback;
    if (!table_connect(table))
        goto fail;
    for (unsigned i = 0; i < 6; i++)
        if (sqlite3_prepare_v2(table->db, texts[i], -1, statements[i], NULL) != SQLITE_OK) {
            table_complain(table, texts[i]);
            goto fail;
        }
    return table;
fail:
    demo_table_close(table);
    return NULL;
}

void demo_table_close(struct demo_table *table)
{
    if (!table)
        return;
    sqlite3_finalize(table->begin);
    sqlite3_finalize(table->version);
    sqlite3_finalize(table->read);
    sqlite3_finalize(table->update);
    sqlite3_finalize(table->commit);
    sqlite3_finalize(table->rollback);
    sqlite3_close(table->db);
    free(table);
}

/* Run a statement that gives no rows. */
static bool run(sqlite3_stmt *statement)
{
    int rc = sqlite3_step(statement);

    (void)sqlite3_reset(statement);
    return rc == SQLITE_DONE;
}

size_t demo_table_read(struct demo_table *table, uint32_t row, uint8_t value[DEMO_VALUE_MAX])
{
    size_t size = 0;

    sqlite3_bind_int(table->read, 1, table->demo->ids[row]);
    if (sqlite3_step(table->read) == SQLITE_ROW) {
        int bytes = sqlite3_column_bytes(table->read, 0);

        if (bytes > 0 && bytes <= (int)DEMO_VALUE_MAX) {
            memcpy(value, sqlite3_column_blob(table->read, 0), (size_t)bytes);
            size = (size_t)bytes;
        }
    } else {
        table_complain(table, "read");
    }
    (void)sqlite3_reset(table->read);
    return size;
}

/* Within the transaction: the row's version, or -1. */
static int64_t row_version(struct demo_table *table, uint32_t row)
{
    int64_t version = -1;

    sqlite3_bind_int(table->version, 1, table->demo->ids[row]);
    if (sqlite3_step(table->version) == SQLITE_ROW)
        version = sqlite3_column_int64(table->version, 0);
    (void)sqlite3_reset(table->version);
    return version;
}

/* Write the change down before its COMMIT; 0: the history is full. */
static uint32_t history_add(const struct demo *demo, enum demo_side side, uint32_t row, uint32_t host, uint32_t version)
{
    uint32_t index = atomic_fetch_add(&demo->shared->changes_used[side], 1) + 1;
    struct demo_change *change = &demo->changes[side][index];

    if (index > demo->shared->changes_most)
        return 0;
    change->version = version;
    change->previous = atomic_load(&demo->newest[side][row]);
    change->host = host;
    change->begin_ns = demo_now_ns();
    atomic_store(&demo->newest[side][row], index); /* before the COMMIT: whoever can read the row finds its change */
    return index;
}

uint32_t demo_table_change(struct demo_table *table, uint32_t row, uint32_t host)
{
    const struct demo *demo = table->demo;
    uint8_t value[DEMO_VALUE_MAX];
    uint32_t change;
    int64_t version;
    size_t size;

    if (!run(table->begin)) {
        table_complain(table, "begin");
        return 0;
    }
    if ((version = row_version(table, row)) < 0)
        goto fail;
    size = demo_value(demo->ids[row], (uint64_t)version + 1, value);
    sqlite3_bind_int(table->update, 1, demo->ids[row]);
    sqlite3_bind_int64(table->update, 2, version + 1);
    sqlite3_bind_blob(table->update, 3, value, (int)size, SQLITE_STATIC);
    if (!run(table->update))
        goto fail;
    if ((change = history_add(demo, table->side, row, host, (uint32_t)version + 1)) == 0 || !run(table->commit))
        goto fail;
    atomic_store(&demo->changes[table->side][change].end_ns, demo_now_ns());
    return change;
fail:
    table_complain(table, "change");
    (void)run(table->rollback);
    return 0;
}

/* ---- the check ---- */

/* What befell a row after a version: the earliest time of each, 0 for none. */
struct after {
    bool known; /* the version was written at all */
    int64_t ended_ns, confirmed_ns, own_ns;
};

static void earliest(int64_t *time, int64_t other)
{
    if (other != 0 && (*time == 0 || other < *time))
        *time = other;
}

/* Walk the row's changes back to the version. */
static struct after changes_after(const struct demo *demo, const struct demo_read *read, uint64_t version)
{
    uint32_t index = atomic_load(&demo->newest[read->side][read->row]);
    struct after after = {0};

    for (; index != 0; index = demo->changes[read->side][index].previous) {
        struct demo_change *change = &demo->changes[read->side][index];
        int64_t confirmed_ns;

        if (change->version <= version) {
            after.known = change->version == version;
            return after;
        }
        confirmed_ns = atomic_load(&change->confirmed_ns);
        earliest(&after.ended_ns, atomic_load(&change->end_ns));
        earliest(&after.confirmed_ns, confirmed_ns);
        if (change->host == read->host)
            earliest(&after.own_ns, confirmed_ns);
    }
    after.known = version == 1; /* as the table was made */
    return after;
}

void demo_check(const struct demo *demo, struct demo_worker *worker, const struct demo_read *read, const void *value,
                size_t size)
{
    uint8_t right[DEMO_VALUE_MAX];
    struct after after;
    uint64_t version = 0;
    int64_t since_ns, age_ns;
    bool beyond, own;

    if (size >= 16)
        memcpy(&version, (const uint8_t *)value + 8, 8);
    after = changes_after(demo, read, version);
    if (!after.known || demo_value(demo->ids[read->row], version, right) != size || memcmp(right, value, size) != 0) {
        demo_count(worker, COUNT_CORRUPTED);
        return;
    }
    /* What was loaded must have been the row at some time during the call; a confirmation does not matter. */
    since_ns = read->source == FRESHET_FROM_LOADER ? after.ended_ns : after.confirmed_ns;
    age_ns = since_ns == 0 || since_ns >= read->judged_ns ? 0 : read->judged_ns - since_ns;
    beyond = age_ns > read->allowed_ns;
    own = read->side == SIDE_FRESHET && after.own_ns != 0 && after.own_ns < read->begin_ns;
    if (age_ns > 0)
        demo_count(worker, COUNT_OLD);
    if (beyond)
        demo_count(worker, COUNT_BEYOND);
    if (own)
        demo_count(worker, COUNT_OWN);
    if (beyond || own)
        demo_count(worker, COUNT_STALE);
    if (age_ns > atomic_load_explicit(&worker->oldest_ns, memory_order_relaxed))
        atomic_store_explicit(&worker->oldest_ns, age_ns, memory_order_relaxed);
}
