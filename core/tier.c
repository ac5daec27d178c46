/*
 * tier.c - logs of records in the map, and the index that finds them.
 * Below writer.c and freshet.c, above map.c and index.c.
 *
 * A log is a sequence of sheets (sheet.h), rows of LMDB under {log, number}.  Records are appended and never changed.
 * LMDB's part is what is hard to do by oneself: a batch is there as a whole or not at all, whatever dies when; a
 * reader's pages are not used again under it; a wild pointer of the host program does not reach them.  But no reader
 * walks LMDB's tree.  The index knows where a record begins, and a table on which page of the map its sheet lies.
 *
 * Nor does a reader hold anything: no snapshot that would keep pages from being used again however long it is stopped.
 * It looks into the index, copies, and looks again (a seqlock, with the slot for its sequence).  LMDB writes over a
 * page at the earliest two commits after the one that freed it.  So a copy is whole if, when it was finished, the slot
 * still led to the record and the table to the pages, provided that they never do when those pages are used again:
 *
 *   - a sheet is deleted only by a transaction in which, under the writer's lock, no slot led to a record on it;
 *   - a slot is set only under the lock, to a sheet that is there: after a commit its writer takes the lock again and
 *     lets the slots lead to what he wrote (txn_publish).  Whoever had the lock in between, because he was quicker or
 *     the writer is dead, has done that first (txn_catch_up): the logs tell all that is needed, and how far they are
 *     indexed stands beside the index.  So what was committed is found, and compared with, by every later transaction;
 *   - the sheet at the head of a log is written again with more on it, which frees its old page; the table of pages is
 *     put right in the same way, before the next commit.  It may come back to the same page, so a copy from that sheet
 *     also needs that the log has not been indexed any further;
 *   - a slot and a table that lead to the same again, a whole turn of the table later, lead to a sheet of another
 *     number, and the number is compared too.
 *
 * Nothing read is believed: places, sheets and heads are checked, and the key is compared in full.
 */
#include <tier.h>

#include <buf.h>
#include <log.h>
#include <map.h>
#include <policy.h>
#include <sheet.h>
#include <shelf.h>
#include <step.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIER_LEAST_PAGES 512u /* for the map and the first buckets, in a pool */
#define READ_ROUNDS 8u  /* of looking again */
#define EACH_SHEETS 16u /* a snapshot in tier_each */
#define KEY_SIZE 8u
#define NUMBER_BITS 56u
#define NUMBER_MOST ((UINT64_C(1) << 48) - 1) /* no log comes so far: a sheet behind it is damage */
#define INDEXED_BITS 12 /* of an offset on a sheet, below the sheet's number */

/* The sheet at the head of a log, as it will be written. */
struct open_sheet {
    bool loaded, dirty;
    struct sheet head;
    uint8_t bytes[SHEET_SIZE];
};

/* A record that was written by the transaction: a fill, or a copy of one from a tail. */
struct written {
    struct key key; /* of a copy: without its bytes */
    uint64_t place, old; /* where it was before, 0: nowhere */
    uint64_t number, bytes, bytes_before; /* the last: of a copy */
    uint8_t touched;
    uint32_t fill; /* 1 + its place among the fills' heads; 0: a copy */
};

struct tier_txn {
    struct tier *tier;
    MDB_txn *txn;
    MDB_cursor *cursor;
    bool spoiled; /* an error came up: only tier_drop is left */
    uint64_t first[TIER_LOGS], last[TIER_LOGS]; /* numbers of the sheets when it began; 0: none */
    uint64_t tail[TIER_LOGS];                   /* the next to be looked at */
    uint64_t held[TIER_LOGS];                   /* up to here a record that was copied reaches: not to be deleted now */
    uint64_t seen[TIER_LOGS];                   /* what was indexed when it began */
    uint64_t owed;
    struct open_sheet open[TIER_LOGS];
};

struct tier {
    struct map *map;
    struct index index;
    struct key_space space;
    const uint8_t *base; /* the map's */
    bool gives;          /* free pages back to the system */
    struct shelf *shelf; /* NULL: none */
    uint64_t size, limit;
    uint32_t pages;
    struct tier_txn writing;
    /* of the transaction, kept for the next one */
    struct written *written;
    uint32_t written_count, written_room;
    struct record *fills;
    uint32_t fills_count, fills_room;
    uint64_t displaced; /* records that have lost their slots to others */
    uint8_t *scratch;
    size_t scratch_room;
};

/* The array with room for one more, moved if it must be; NULL: no memory, and it stays as it is. */
static void *with_room(void *array, uint32_t count, uint32_t *room, size_t size)
{
    uint32_t more = *room ? 2 * *room : 128;

    if (count < *room)
        return array;
    if ((array = realloc(array, more * size)))
        *room = more;
    return array;
}

/* ---- open and close ---- */

static freshet_result tier_open_index(struct tier *tier, const char *path, bool *ret_damaged)
{
    uint64_t pages = tier->map->size / MAP_PAGE;

    if (tier->map->fresh)
        return index_create(&tier->index, path, tier->map->nonce, pages);
    return index_open(&tier->index, path, tier->map->nonce, pages, ret_damaged);
}

freshet_result tier_open(struct tier **ret_tier, const char *dir_path, uint64_t generation,
                         const struct key_space *space, uint64_t size, uint64_t limit, bool *ret_damaged)
{
    struct tier *tier = calloc(1, sizeof *tier);
    char *path = NULL;
    freshet_result result;

    *ret_damaged = false;
    if (tier && asprintf(&path, "%s/map-%016llx-index", dir_path, (unsigned long long)generation) < 0)
        path = NULL;
    if (!path) {
        free(tier);
        return fail(FRESHET_ENOMEM, "no memory to open the tier in %s", dir_path);
    }
    tier->space = *space;
    tier->size = size;
    tier->limit = limit;
    result = map_open(&tier->map, dir_path, generation, index_leaves(size), ret_damaged);
    if (result == FRESHET_OK) {
        tier->base = tier->map->base;
        tier->pages = (uint32_t)(tier->map->size / MAP_PAGE);
        result = tier_open_index(tier, path, ret_damaged);
        if (result != FRESHET_OK)
            map_close(tier->map);
    }
    free(path);
    if (result == FRESHET_OK)
        *ret_tier = tier;
    else
        free(tier);
    return result;
}

void tier_close(struct tier *tier)
{
    if (!tier)
        return;
    map_close(tier->map);
    index_close(&tier->index);
    free(tier->written);
    free(tier->fills);
    free(tier->scratch);
    free(tier);
}

void tier_abandon(struct tier *tier)
{
    if (tier)
        map_abandon(tier->map);
}

bool tier_intact(const struct tier *tier)
{
    return map_intact(tier->map);
}

int tier_reader_check(struct tier *tier)
{
    return map_reader_check(tier->map);
}

uint64_t tier_size(const struct tier *tier)
{
    return tier->size;
}

bool tier_disk_full(const struct tier *tier)
{
    return atomic_load_explicit(&tier->map->full, memory_order_relaxed);
}

/* ---- a record's bytes ---- */

/* The page on which a sheet lies, by its slot in the table of a log that there is; 0: there can be none. */
static inline uint32_t sheet_page(const struct tier *tier, uint32_t log, uint32_t slot)
{
    uint32_t page = atomic_load_explicit(&tier->index.sheets[log][slot], memory_order_acquire);

    return page >= 2 && page < tier->pages ? page : 0;
}

static inline const uint8_t *sheet_bytes_at(const struct tier *tier, uint32_t page)
{
    return tier->base + (uint64_t)page * MAP_PAGE + MAP_HEAD;
}

/* Where a record's key and value lie: from `at` on its sheet, `left` bytes in all, going on over the next ones. */
struct run {
    const struct tier *tier;
    const uint8_t *sheet;
    uint32_t page;    /* where this sheet lies; 0: not looked up */
    uint32_t at, end; /* on it */
    uint32_t log;
    uint64_t number, left;
};

/* The next stretch of the run, up to `most` bytes; NULL: damaged. */
static const uint8_t *run_take(struct run *run, uint64_t most, uint32_t *ret_size)
{
    const uint8_t *bytes;
    struct sheet sheet;

    if (run->at == run->end) {
        uint32_t page =
            sheet_page(run->tier, run->log, (uint32_t)(run->number + 1) & run->tier->index.sheet_mask);
        const uint8_t *next = sheet_bytes_at(run->tier, page);

        if (page == 0 || !sheet_decode(&sheet, next) || sheet.log != run->log || sheet.number != run->number + 1)
            return NULL;
        run->number++;
        run->page = page;
        run->sheet = next;
        run->at = SHEET_HEAD;
        run->end = run->left < sheet.used - SHEET_HEAD ? SHEET_HEAD + (uint32_t)run->left : sheet.used;
        if (run->at == run->end)
            return NULL;
    }
    bytes = run->sheet + run->at;
    *ret_size = run->end - run->at < most ? run->end - run->at : (uint32_t)most;
    run->at += *ret_size;
    run->left -= *ret_size;
    return bytes;
}

/* Copy the next `size` bytes out. */
static bool run_copy(struct run *run, uint8_t *to, uint64_t size)
{
    while (size > 0) {
        uint32_t here;
        const uint8_t *bytes = run_take(run, size, &here);

        if (!bytes)
            return false;
        memcpy(to, bytes, here);
        to += here;
        size -= here;
    }
    return true;
}

static bool run_equals(struct run *run, const uint8_t *with, uint64_t size)
{
    while (size > 0) {
        uint32_t here;
        const uint8_t *bytes = run_take(run, size, &here);

        if (!bytes || memcmp(bytes, with, here) != 0)
            return false;
        with += here;
        size -= here;
    }
    return true;
}

/* The head at `at` of a sheet; its run of key and value.  False: none of ours. */
static inline bool run_open(struct run *run, const struct tier *tier, const uint8_t *bytes, const struct sheet *sheet,
                            uint32_t at, struct record *ret_record, uint32_t *ret_head)
{
    uint64_t size;

    *ret_head = record_decode(ret_record, bytes + SHEET_BASE, bytes + at, sheet->used - at, tier->limit);
    if (*ret_head == 0)
        return false;
    size = ret_record->key_size + ret_record->value_size;
    at += *ret_head;
    *run = (struct run){tier, bytes, 0, at, sheet->used, sheet->log, sheet->number, size};
    if (size < run->end - at)
        run->end = at + (uint32_t)size;
    return true;
}

/* The record at a place. */
static inline bool place_open(struct run *run, const struct tier *tier, uint64_t place, struct record *ret_record,
                              uint32_t *ret_head)
{
    uint32_t log = place_log(place), slot = place_sheet(&tier->index, place), at = place_offset(place);
    uint32_t page = log < TIER_LOGS ? sheet_page(tier, log, slot) : 0;
    const uint8_t *bytes = sheet_bytes_at(tier, page);
    struct sheet sheet;

    if (page == 0)
        return false;
    __builtin_prefetch(bytes + at);
    __builtin_prefetch(bytes + at + 64);
    if (!sheet_decode(&sheet, bytes) || sheet.log != log || (sheet.number & tier->index.sheet_mask) != slot ||
        at < SHEET_HEAD || at >= sheet.used)
        return false;
    if (!run_open(run, tier, bytes, &sheet, at, ret_record, ret_head))
        return false;
    run->page = page;
    return true;
}

/* ---- reading ---- */

/* How far the log of a place was indexed when the copy began: what lies before it is on sheets that are never written
 * again. */
static inline uint64_t log_indexed(const struct tier *tier, uint32_t log)
{
    return log < TIER_LOGS ? atomic_load_explicit(&tier->index.words[INDEX_INDEXED + log], memory_order_acquire)
                           : 0;
}

/* After the copy: do the slot and the table still lead to where it was taken from, and did they all along? */
static inline bool run_still_there(const struct run *run, const struct index_probe *probe, uint64_t indexed)
{
    uint64_t word = probe->word;

    copy_ends();
    return atomic_load_explicit(index_slot(probe), memory_order_relaxed) == word &&
           index_page(&run->tier->index, run->log, run->number) == run->page &&
           sheet_number(run->sheet) == run->number &&
           (run->number < indexed >> INDEXED_BITS || log_indexed(run->tier, run->log) == indexed);
}

/* The same as place_read of a record that goes on over several sheets. */
static __attribute__((noinline)) freshet_result place_read_long(struct run *run, const struct key *key,
                                                                uint64_t value_size, freshet_buf *buf)
{
    freshet_result result;

    if (!run_equals(run, key->data, key->size))
        return FRESHET_MISS; /* before memory is asked for */
    if (buf && (result = buf_reserve(buf, value_size)) != FRESHET_OK)
        return result;
    return !buf || run_copy(run, buf->data, value_size) ? FRESHET_OK : FRESHET_MISS;
}

/* Is it the key's?  Then copy the value.  FRESHET_MISS: it is not, or it is gone. */
static inline __attribute__((always_inline)) freshet_result
place_read(const struct tier *tier, const struct index_probe *probe, const struct key *key, struct record *ret_record,
           freshet_buf *buf)
{
    uint64_t indexed = log_indexed(tier, place_log(probe->word));
    freshet_result result;
    struct run run;
    uint32_t head;

    if (!place_open(&run, tier, probe->word & PLACE_MASK, ret_record, &head) || ret_record->key_size != key->size)
        return FRESHET_MISS;
    if (__builtin_expect(run.end - run.at == run.left, 1)) { /* all on one sheet */
        const uint8_t *bytes = run.sheet + run.at;

        if (memcmp(bytes, key->data, key->size) != 0)
            return FRESHET_MISS;
        if (buf && (result = buf_reserve(buf, ret_record->value_size)) != FRESHET_OK)
            return result;
        if (buf && ret_record->value_size)
            memcpy(buf->data, bytes + key->size, ret_record->value_size);
    } else {
        struct run whole = run; /* so that `run` itself can stay in registers */

        if ((result = place_read_long(&whole, key, ret_record->value_size, buf)) != FRESHET_OK)
            return result;
        run = whole;
    }
    if (buf)
        buf->size = ret_record->value_size;
    return run_still_there(&run, probe, indexed) ? FRESHET_OK : FRESHET_MISS;
}

/* Find the key; once more when its slot, or the table, moved under our eyes. */
static inline freshet_result index_read(const struct tier *tier, const struct key *key, struct record *ret_record,
                                        freshet_buf *buf)
{
    for (uint32_t round = 0; round < READ_ROUNDS; round++) {
        struct index_probe probe;
        bool again = false;

        index_begin(&probe, &tier->index, key);
        while (index_next(&probe)) {
            freshet_result result = place_read(tier, &probe, key, ret_record, buf);

            if (__builtin_expect(result == FRESHET_OK, 1))
                policy_touch(index_touched(&probe));
            if (result != FRESHET_MISS)
                return result;
            again = true; /* it moved under our eyes, or, rarely, it is another key of the same tag */
        }
        if (!again && index_shape(&tier->index) == probe.shape)
            break;
    }
    if (buf)
        buf->size = 0;
    return FRESHET_MISS;
}

/* Where free pages are given back to the system, a late look at one could be SIGBUS: a snapshot keeps them. */
static __attribute__((noinline)) freshet_result read_entered(struct tier *tier, const struct key *key,
                                                             struct record *ret_record, freshet_buf *buf)
{
    struct map_reader *reader;
    freshet_result result = map_enter(tier->map, &reader);

    if (result != FRESHET_OK)
        return result;
    result = index_read(tier, key, ret_record, buf);
    map_leave(tier->map, reader);
    return result;
}

freshet_result tier_read(struct tier *tier, const struct key *key, struct record *ret_record, freshet_buf *buf)
{
    if (buf)
        buf->size = 0; /* also: nothing that growing would have to keep */
    if (__builtin_expect(atomic_load_explicit(&tier->map->failed, memory_order_relaxed), 0))
        return fail(FRESHET_EIO, "the map has failed and waits to be opened again");
    if (__builtin_expect(tier->gives, 0))
        return read_entered(tier, key, ret_record, buf);
    return index_read(tier, key, ret_record, buf);
}

const void *tier_place(const struct tier *tier, const struct key *key)
{
    return &tier->index.buckets[index_bucket_at(&tier->index, index_shape(&tier->index), index_first_hash(key))];
}

/* ---- in place ---- */

/* The rest of a run as pieces. */
static freshet_result view_take(struct tier_view *view, struct run *run)
{
    size_t room = sizeof view->some / sizeof *view->some;
    freshet_piece *pieces = view->some;

    if (run->left > (room - 1) * SHEET_ROOM) {
        room = (size_t)(run->left / SHEET_ROOM) + 2;
        if (!(view->own = pieces = malloc(room * sizeof *pieces)))
            return fail(FRESHET_ENOMEM, "no memory to lend a value of %llu bytes", (unsigned long long)run->left);
    }
    view->pieces = pieces;
    while (run->left > 0) {
        uint32_t size;
        const uint8_t *bytes = run_take(run, run->left, &size);

        if (!bytes || view->count == room)
            return FRESHET_MISS;
        pieces[view->count++] = (freshet_piece){bytes, size};
    }
    return FRESHET_OK;
}

/* The snapshot is taken first, so whatever the index leads to from then on is not written over until it ends. */
freshet_result tier_view(struct tier *tier, const struct key *key, struct record *ret_record,
                         struct tier_view *ret_view)
{
    struct index_probe probe;
    freshet_result result;

    *ret_view = (struct tier_view){0};
    if ((result = map_enter(tier->map, &ret_view->reader)) != FRESHET_OK)
        return result;
    result = FRESHET_MISS;
    index_begin(&probe, &tier->index, key);
    while (result == FRESHET_MISS && index_next(&probe)) {
        uint64_t indexed = log_indexed(tier, place_log(probe.word));
        struct run run;
        uint32_t head;

        ret_view->count = 0;
        free(ret_view->own);
        ret_view->own = NULL;
        if (place_open(&run, tier, probe.word & PLACE_MASK, ret_record, &head) && ret_record->key_size == key->size &&
            run_equals(&run, key->data, key->size) && (result = view_take(ret_view, &run)) == FRESHET_OK &&
            !run_still_there(&run, &probe, indexed))
            result = FRESHET_MISS;
        if (result == FRESHET_OK)
            policy_touch(index_touched(&probe));
    }
    if (result != FRESHET_OK)
        tier_view_end(tier, ret_view);
    return result;
}

void tier_view_end(struct tier *tier, struct tier_view *view)
{
    map_leave(tier->map, view->reader);
    free(view->own);
}

/* ---- rows ---- */

static void sheet_key(uint8_t key[KEY_SIZE], uint32_t log, uint64_t number)
{
    uint64_t word = (uint64_t)(log + 1) << NUMBER_BITS | number;

    for (int i = 0; i < 8; i++)
        key[i] = (uint8_t)(word >> (56 - 8 * i));
}

/* The log and number of a row; false: none of a log's. */
static bool sheet_key_read(const MDB_val *key, uint32_t *ret_log, uint64_t *ret_number)
{
    uint64_t word;

    if (key->mv_size != KEY_SIZE)
        return false;
    word = bytes_get64_big(key->mv_data);
    *ret_log = (uint32_t)(word >> NUMBER_BITS) - 1;
    *ret_number = word & ((UINT64_C(1) << NUMBER_BITS) - 1);
    return *ret_log < TIER_LOGS;
}

/* The first sheet of a log at or after a number.  MDB_NOTFOUND: none. */
static int sheet_find(const struct map *map, MDB_cursor *cursor, uint32_t log, uint64_t number, uint64_t *ret_number,
                      const uint8_t **ret_bytes)
{
    uint8_t bytes[KEY_SIZE];
    MDB_val key = {KEY_SIZE, bytes}, row;
    uint32_t found;
    int rc;

    sheet_key(bytes, log, number);
    if ((rc = mdb_cursor_get(cursor, &key, &row, MDB_SET_RANGE)) != 0)
        return rc;
    if (!sheet_key_read(&key, &found, ret_number) || found != log)
        return MDB_NOTFOUND;
    if (row.mv_size != SHEET_SIZE || *ret_number == 0 || *ret_number > NUMBER_MOST)
        return MDB_CORRUPTED;
    *ret_bytes = row.mv_data;
    return map_row_fits(map, row.mv_data) ? 0 : MDB_CORRUPTED;
}

/* The last sheet of a log; MDB_NOTFOUND: none. */
static int sheet_find_last(MDB_cursor *cursor, uint32_t log, uint64_t *ret_number)
{
    uint8_t bytes[KEY_SIZE];
    MDB_val key = {KEY_SIZE, bytes}, row;
    uint32_t found;
    int rc;

    sheet_key(bytes, log + 1, 0);
    rc = mdb_cursor_get(cursor, &key, &row, MDB_SET_RANGE);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &row, MDB_PREV);
    else if (rc == MDB_NOTFOUND)
        rc = mdb_cursor_get(cursor, &key, &row, MDB_LAST);
    if (rc != 0)
        return rc;
    if (!sheet_key_read(&key, &found, ret_number) || found != log)
        return MDB_NOTFOUND;
    return *ret_number > NUMBER_MOST ? MDB_CORRUPTED : 0;
}

/* The page of a row that is in the map. */
static uint32_t row_page(const struct tier *tier, const uint8_t *bytes)
{
    return (uint32_t)((uint64_t)(bytes - MAP_HEAD - tier->map->base) / MAP_PAGE);
}

/* ---- the writer's transactions ---- */

static freshet_result txn_result(struct tier_txn *txn, int rc, const char *doing)
{
    if (rc != 0 && rc != MDB_NOTFOUND)
        txn->spoiled = true;
    return map_result(txn->tier->map, rc, doing);
}

static freshet_result txn_no_memory(struct tier_txn *txn)
{
    txn->spoiled = true;
    return fail(FRESHET_ENOMEM, "no memory to write the tier");
}

void tier_drop(struct tier_txn *txn)
{
    MDB_cursor *cursor;
    MDB_txn *mdb;

    if (!txn)
        return;
    /* Cleared first: with the abort LMDB's lock goes, and the next writer may begin in the same place. */
    cursor = txn->cursor;
    mdb = txn->txn;
    txn->cursor = NULL;
    txn->txn = NULL;
    mdb_cursor_close(cursor);
    mdb_txn_abort(mdb);
}

/* The lock, and where the logs begin and end. */
static freshet_result txn_open(struct tier *tier)
{
    struct tier_txn *txn = &tier->writing;
    freshet_result result;
    MDB_txn *mdb;
    int rc;

    result = map_begin(tier->map, &mdb);
    if (result != FRESHET_OK)
        return result;
    txn->tier = tier;
    txn->txn = mdb;
    txn->cursor = NULL;
    txn->spoiled = false;
    txn->owed = 0;
    rc = mdb_cursor_open(mdb, tier->map->dbi, &txn->cursor);
    for (uint32_t log = 0; rc == 0 && log < TIER_LOGS; log++) {
        const uint8_t *bytes;

        txn->first[log] = txn->last[log] = txn->held[log] = 0;
        txn->open[log].loaded = txn->open[log].dirty = false;
        if ((rc = sheet_find(txn->tier->map, txn->cursor, log, 0, &txn->first[log], &bytes)) == 0)
            rc = sheet_find_last(txn->cursor, log, &txn->last[log]);
        if (rc == MDB_NOTFOUND)
            rc = 0;
        if (txn->last[log] == 0)
            txn->first[log] = 0;
        txn->tail[log] = txn->first[log];
    }
    if (rc == 0)
        return FRESHET_OK;
    tier_drop(txn);
    return map_result(tier->map, rc, "beginning to write");
}

/* ---- counting ----
 *
 * How many records there are, and their bytes, is what came less what left.  Who is killed between a slot and its count
 * leaves that wrong.  So the sweep, which goes through all logs again and again, counts what it meets: beside them are
 * the sums of what lies behind its hand, kept up by whoever lets something come or leave there, and when it has come
 * round they take the others' place. */

static void index_add(const struct tier *tier, enum index_word word, uint64_t n)
{
    (void)atomic_fetch_add_explicit(&tier->index.words[word], n, memory_order_relaxed);
}

static void index_subtract(const struct tier *tier, enum index_word word, uint64_t n)
{
    _Atomic uint64_t *at = &tier->index.words[word];
    uint64_t had = atomic_load_explicit(at, memory_order_relaxed);

    atomic_store_explicit(at, had > n ? had - n : 0, memory_order_relaxed);
}

/* Is the place one that the sweep has behind it? */
static bool place_is_met(const struct tier *tier, uint64_t place)
{
    uint64_t hand = atomic_load_explicit(&tier->index.words[INDEX_HAND], memory_order_relaxed), last;
    uint32_t log = place_log(place);

    if (log >= TIER_LOGS || log != hand >> NUMBER_BITS)
        return log < hand >> NUMBER_BITS;
    last = tier->writing.last[log];
    return last - ((last - place_sheet(&tier->index, place)) & tier->index.sheet_mask) <
           (hand & ((UINT64_C(1) << NUMBER_BITS) - 1));
}

/* A record comes in (index_add) or leaves (index_subtract): so it is counted, and where the sweep has been already. */
static void count(const struct tier *tier, void (*change)(const struct tier *, enum index_word, uint64_t),
                  uint64_t place, uint64_t bytes)
{
    change(tier, INDEX_RECORDS, 1);
    change(tier, INDEX_LIVE, bytes);
    if (place_is_met(tier, place)) {
        change(tier, INDEX_MET, 1);
        change(tier, INDEX_MET_LIVE, bytes);
    }
}

/* ---- where a key stands, for the writer ---- */

/* The key and hash of the record at a place; key.data is NULL. */
static bool place_hash(void *arg, uint64_t place, struct key *ret_key)
{
    struct tier *tier = arg;
    struct record record;
    struct run run;
    uint32_t head, here;
    const uint8_t *bytes;
    uint8_t *own = NULL;
    bool good;

    if (!place_open(&run, tier, place, &record, &head))
        return false;
    if (run.end - run.at >= record.key_size) {
        bytes = run_take(&run, record.key_size, &here);
    } else {
        own = malloc(record.key_size);
        bytes = own && run_copy(&run, own, record.key_size) ? own : NULL;
    }
    if ((good = bytes != NULL))
        key_make(ret_key, &tier->space, bytes, record.key_size);
    ret_key->data = NULL;
    free(own);
    return good;
}

/* The slot whose record is the key's; false: none.  *ret_record, *ret_bytes: that record and what it takes. */
static bool slot_of_key(struct tier *tier, const struct key *key, struct record *ret_record, uint64_t *ret_bytes,
                        struct index_probe *probe)
{
    struct run run;
    uint32_t head;

    index_begin(probe, &tier->index, key);
    while (index_next(probe))
        if (place_open(&run, tier, probe->word & PLACE_MASK, ret_record, &head) && ret_record->key_size == key->size &&
            run_equals(&run, key->data, key->size)) {
            *ret_bytes = sheet_bytes(head, ret_record);
            return true;
        }
    return false;
}

/* The slot that leads to the place; false: none does. */
static bool slot_of_place(const struct tier *tier, const struct key *key, uint64_t place, struct index_probe *probe)
{
    index_begin(probe, &tier->index, key);
    while (index_next(probe))
        if ((probe->word & PLACE_MASK) == place)
            return true;
    return false;
}

/* What the shelf has of a key goes before the index leads elsewhere.  (Of one whose bytes cannot be had, with the next
 * fill.) */
static void leave_shelf(const struct tier *tier, const struct key *key)
{
    if (tier->shelf && key->data)
        shelf_drop(tier->shelf, key);
    STEP("tier_dropped");
}

/* Whose copy was read on the shelf counts as read. */
static void touch_as_shelf(const struct tier *tier, const struct key *key, _Atomic uint8_t *touched)
{
    if (tier->shelf && shelf_was_read(tier->shelf, key))
        policy_touch(touched);
}

static void slot_clear(const struct tier *tier, const struct key *key, _Atomic uint64_t *slot, uint64_t bytes)
{
    uint64_t place = atomic_load_explicit(slot, memory_order_relaxed) & PLACE_MASK;

    leave_shelf(tier, key);
    index_clear(slot);
    STEP("tier_cleared");
    count(tier, index_subtract, place, bytes);
}

freshet_result tier_peek(struct tier_txn *txn, const struct key *key, struct record *ret_record,
                         struct tier_fate *ret_where)
{
    struct tier *tier = txn->tier;
    struct index_probe probe;
    struct record record;
    uint64_t bytes;

    for (uint32_t i = tier->written_count; i-- > 0;) {
        const struct written *written = &tier->written[i];

        if (written->fill && memcmp(written->key.hash, key->hash, sizeof key->hash) == 0 &&
            written->key.size == key->size && memcmp(written->key.data, key->data, key->size) == 0) {
            record_copy(ret_record, &tier->fills[written->fill - 1]);
            *ret_where = (struct tier_fate){true, place_log(written->place), written->touched};
            return FRESHET_OK;
        }
    }
    if (!slot_of_key(tier, key, &record, &bytes, &probe))
        return FRESHET_MISS;
    record_copy(ret_record, &record);
    touch_as_shelf(tier, key, index_touched(&probe));
    *ret_where = (struct tier_fate){true, place_log(probe.word),
                                    atomic_load_explicit(index_touched(&probe), memory_order_relaxed)};
    return FRESHET_OK;
}

void tier_delete(struct tier_txn *txn, const struct key *key)
{
    struct index_probe probe;
    struct record record;
    uint64_t bytes;

    if (slot_of_key(txn->tier, key, &record, &bytes, &probe))
        slot_clear(txn->tier, key, index_slot(&probe), bytes);
}

/* ---- appending ---- */

/* Write the open sheet to the map. */
static freshet_result open_flush(struct tier_txn *txn, struct open_sheet *open)
{
    uint8_t name[KEY_SIZE];
    MDB_val key = {KEY_SIZE, name}, row = {SHEET_SIZE, open->bytes};

    if (!open->dirty)
        return FRESHET_OK;
    sheet_encode(&open->head, open->bytes);
    sheet_key(name, open->head.log, open->head.number);
    open->dirty = false;
    return txn_result(txn, mdb_put(txn->txn, txn->tier->map->dbi, &key, &row, 0), "writing a sheet");
}

static void open_begin(struct open_sheet *open, uint32_t log, uint64_t number)
{
    open->head = (struct sheet){.log = log, .number = number, .used = SHEET_HEAD};
    memset(open->bytes, 0, sizeof open->bytes);
    open->loaded = open->dirty = true;
}

/* The open sheet of a log, with what the last commit left on it. */
static freshet_result open_load(struct tier_txn *txn, uint32_t log)
{
    struct open_sheet *open = &txn->open[log];
    const uint8_t *bytes;
    uint64_t number;
    int rc;

    if (open->loaded)
        return FRESHET_OK;
    if (txn->last[log] == 0) {
        open_begin(open, log, 1);
        return FRESHET_OK;
    }
    if ((rc = sheet_find(txn->tier->map, txn->cursor, log, txn->last[log], &number, &bytes)) != 0)
        return txn_result(txn, rc == MDB_NOTFOUND ? MDB_CORRUPTED : rc, "going on with a log");
    memcpy(open->bytes, bytes, SHEET_SIZE);
    open->loaded = true;
    if (!sheet_decode(&open->head, open->bytes) || open->head.log != log || open->head.number != number)
        open_begin(open, log, number + 1); /* damaged: nothing on it can be found */
    return FRESHET_OK;
}

static freshet_result open_next(struct tier_txn *txn, struct open_sheet *open)
{
    freshet_result result = open_flush(txn, open);

    if (result == FRESHET_OK)
        open_begin(open, open->head.log, open->head.number + 1);
    return result;
}

static freshet_result append_bytes(struct tier_txn *txn, struct open_sheet *open, const uint8_t *bytes, uint64_t size)
{
    freshet_result result;

    while (size > 0) {
        uint32_t here = SHEET_SIZE - open->head.used;

        if (here == 0) {
            if ((result = open_next(txn, open)) != FRESHET_OK)
                return result;
            continue;
        }
        if (size < here)
            here = (uint32_t)size;
        memcpy(open->bytes + open->head.used, bytes, here);
        open->head.used += here;
        bytes += here;
        size -= here;
    }
    open->dirty = true;
    return FRESHET_OK;
}

/* Head, key and value at the head of a log. */
static freshet_result append(struct tier_txn *txn, uint32_t log, const struct record *record, const uint8_t *key,
                             const uint8_t *value, uint64_t *ret_place, uint64_t *ret_number, uint64_t *ret_bytes)
{
    struct open_sheet *open = &txn->open[log];
    struct record_base own = record_base_of(record);
    uint8_t head[RECORD_HEAD_MOST];
    freshet_result result = open_load(txn, log);
    uint32_t size;

    if (result != FRESHET_OK)
        return result;
    size = record_encode(record, open->head.first ? &open->head.base : &own, head);
    if (SHEET_SIZE - open->head.used < size) { /* a head lies on one sheet */
        if ((result = open_next(txn, open)) != FRESHET_OK)
            return result;
        size = record_encode(record, &own, head);
    }
    if (open->head.first == 0) {
        open->head.first = open->head.used;
        open->head.base = own;
    }
    *ret_place = place_make(&txn->tier->index, log, open->head.number, open->head.used);
    *ret_number = open->head.number;
    *ret_bytes = sheet_bytes(size, record);
    if ((result = append_bytes(txn, open, head, size)) != FRESHET_OK ||
        (result = append_bytes(txn, open, key, record->key_size)) != FRESHET_OK ||
        (result = append_bytes(txn, open, value, record->value_size)) != FRESHET_OK)
        return result;
    open->head.used = (open->head.used + SHEET_ALIGN - 1) / SHEET_ALIGN * SHEET_ALIGN;
    return FRESHET_OK;
}

static struct written *written_next(struct tier *tier)
{
    struct written *grown = with_room(tier->written, tier->written_count, &tier->written_room, sizeof *grown);

    if (!grown)
        return NULL;
    tier->written = grown;
    return &grown[tier->written_count];
}

static struct record *fills_next(struct tier *tier)
{
    struct record *grown = with_room(tier->fills, tier->fills_count, &tier->fills_room, sizeof *grown);

    if (!grown)
        return NULL;
    tier->fills = grown;
    return &grown[tier->fills_count];
}

uint64_t tier_pages(const struct record *record)
{
    uint64_t sheets = (RECORD_HEAD_MOST + record->key_size + record->value_size) / SHEET_ROOM + 2;

    return sheets + sheets / 64 + 3;
}

freshet_result tier_write(struct tier_txn *txn, const struct key *key, const struct record *record, const void *value,
                          uint32_t log, uint8_t touched)
{
    struct tier *tier = txn->tier;
    struct written *written = written_next(tier);
    struct record *fill = fills_next(tier), old;
    struct index_probe probe;
    freshet_result result;
    uint64_t bytes;

    if (record->key_size != key->size || record->tag_count > RECORD_TAGS_MAX || log >= TIER_LOGS ||
        record->key_size + record->value_size > tier->limit)
        return fail(FRESHET_EINVAL, "a record of %llu bytes is above the tier's limit",
                    (unsigned long long)(record->key_size + record->value_size));
    if (!written || !fill)
        return txn_no_memory(txn);
    *written = (struct written){.key = *key, .touched = touched, .fill = tier->fills_count + 1};
    if (slot_of_key(tier, key, &old, &bytes, &probe))
        written->old = probe.word & PLACE_MASK;
    result = append(txn, log, record, key->data, value, &written->place, &written->number, &written->bytes);
    if (result != FRESHET_OK)
        return result;
    record_copy(fill, record);
    tier->fills_count++;
    tier->written_count++;
    return FRESHET_OK;
}

/* ---- looking through a log ---- */

/* A sheet, record by record. */
struct leafing {
    const struct tier *tier;
    const uint8_t *bytes;
    struct sheet sheet;
    uint32_t at; /* where the next begins; 0: there is none */
};

static bool leafing_begin(struct leafing *leafing, const struct tier *tier, const uint8_t *bytes, uint32_t log,
                          uint64_t number)
{
    leafing->tier = tier;
    leafing->bytes = bytes;
    if (!sheet_decode(&leafing->sheet, bytes) || leafing->sheet.log != log || leafing->sheet.number != number)
        return false;
    leafing->at = leafing->sheet.first;
    return true;
}

/* The next record; false: that was all, or the rest is damaged. */
static bool leafing_next(struct leafing *leafing, struct run *ret_run, struct record *ret_record, uint64_t *ret_place,
                         uint64_t *ret_bytes)
{
    const struct sheet *sheet = &leafing->sheet;
    uint32_t at = leafing->at, head;

    if (at == 0 || !run_open(ret_run, leafing->tier, leafing->bytes, sheet, at, ret_record, &head))
        return false;
    *ret_place = place_make(&leafing->tier->index, sheet->log, sheet->number, at);
    *ret_bytes = sheet_bytes(head, ret_record);
    leafing->at = *ret_bytes < sheet->used - at ? at + (uint32_t)*ret_bytes : 0;
    return true;
}

/* A whole record, key and value in one piece: where it lies, or in the tier's own memory.  NULL: damaged, or there is
 * no memory. */
static const uint8_t *run_whole(struct tier *tier, struct run *run, uint64_t size)
{
    uint32_t here;

    if (run->end - run->at >= size && size > 0)
        return run_take(run, size, &here);
    if (tier->scratch_room < size) {
        free(tier->scratch);
        tier->scratch = malloc((size_t)size);
        tier->scratch_room = tier->scratch ? (size_t)size : 0;
    }
    return tier->scratch && run_copy(run, tier->scratch, size) ? tier->scratch : NULL;
}

/* ---- what was written is found ---- */

/* A record has lost its slot to another; what it took. */
static uint64_t displaced(struct tier *tier, uint64_t place)
{
    struct record record;
    const uint8_t *bytes;
    struct run run;
    struct key key;
    uint32_t head;

    if (!place_open(&run, tier, place, &record, &head))
        return 0;
    if ((bytes = run_whole(tier, &run, record.key_size))) {
        key_make(&key, &tier->space, bytes, record.key_size);
        leave_shelf(tier, &key);
    }
    return sheet_bytes(head, &record);
}

static void publish_insert(struct tier *tier, const struct written *written)
{
    uint64_t evicted;

    index_insert(&tier->index, &written->key, written->place, written->touched, place_hash, tier, &evicted);
    STEP("tier_inserted");
    tier->displaced += evicted != 0;
    count(tier, index_add, written->place, written->bytes);
    if (evicted != 0)
        count(tier, index_subtract, evicted, displaced(tier, evicted));
}

static void publish_move(struct tier *tier, const struct written *written, struct index_probe *probe,
                         uint64_t bytes_before)
{
    atomic_store_explicit(index_touched(probe), written->touched, memory_order_relaxed);
    index_move(index_slot(probe), written->place);
    STEP("tier_moved");
    count(tier, index_add, written->place, written->bytes);
    count(tier, index_subtract, probe->word & PLACE_MASK, bytes_before);
}

/* A record that its writer has in hand: in the place of what it replaces. */
static void publish_fill(struct tier *tier, const struct written *written, const struct record *record)
{
    struct index_probe probe;
    struct record old;
    uint64_t bytes, place;
    bool there = slot_of_key(tier, &written->key, &old, &bytes, &probe);

    place = there ? probe.word & PLACE_MASK : 0;
    if (there && (place == written->place || (place != written->old && !record_replaces(record, &old, record->epoch))))
        return;
    leave_shelf(tier, &written->key);
    if (there)
        publish_move(tier, written, &probe, bytes);
    else
        publish_insert(tier, written);
}

static void publish_copy(struct tier *tier, const struct written *written)
{
    struct index_probe probe;

    if (slot_of_place(tier, &written->key, written->old, &probe))
        publish_move(tier, written, &probe, written->bytes_before);
}

/* ---- the shelf ---- */

void tier_use_shelf(struct tier *tier, struct shelf *shelf)
{
    tier->shelf = shelf;
    shelf_belongs(shelf, tier->map->nonce);
}

bool tier_wished(const struct tier *tier)
{
    return tier->shelf && shelf_due(tier->shelf);
}

/* The record of that hash, with its key and value, if it may lie on the shelf. */
static bool record_of_hash(struct tier *tier, const uint8_t hash[16], struct key *ret_key, struct record *ret_record,
                           const uint8_t **ret_value)
{
    struct index_probe probe;
    struct key wanted, key;
    const uint8_t *bytes;
    struct run run;
    uint32_t head;

    key_from_hash(&wanted, &tier->space, hash);
    index_begin(&probe, &tier->index, &wanted);
    while (index_next(&probe)) {
        uint64_t place = probe.word & PLACE_MASK;

        if (!place_hash(tier, place, &key) || memcmp(key.hash, hash, sizeof key.hash) != 0)
            continue; /* another key's; of this one the first is what readers get */
        if (!place_open(&run, tier, place, ret_record, &head) || !shelf_fits(ret_record) ||
            !(bytes = run_whole(tier, &run, ret_record->key_size + ret_record->value_size)))
            return false;
        key_make(ret_key, &tier->space, bytes, ret_record->key_size);
        *ret_value = bytes + ret_record->key_size;
        return true;
    }
    return false;
}

uint32_t tier_shelve(struct tier_txn *txn, int64_t *ret_next_ns)
{
    struct tier *tier = txn->tier;
    struct shelf_turn turn;

    if (!tier->shelf || !shelf_turn_begin(tier->shelf, tier->map->nonce, &turn))
        return 0;
    for (uint32_t i = 0; i < SHELF_WISHES; i++) {
        struct record record;
        struct key key;
        const uint8_t *value;
        uint8_t hash[16];

        if (shelf_wish_take(tier->shelf, i, hash) && record_of_hash(tier, hash, &key, &record, &value))
            shelf_put(tier->shelf, &turn, &key, &record, value);
    }
    *ret_next_ns = shelf_turn_end(tier->shelf, &turn);
    return turn.put;
}

/* ---- how far a log is indexed ---- */

/* The table of pages from a sheet to the log's end; *ret_end: where that is. */
static int log_set_pages(struct tier_txn *txn, uint32_t log, uint64_t from, uint64_t *ret_end)
{
    struct sheet sheet = {.used = SHEET_SIZE};
    const uint8_t *bytes;
    int rc = 0;

    for (uint64_t number = from; rc == 0 && number <= txn->last[log]; number++)
        if ((rc = sheet_find(txn->tier->map, txn->cursor, log, number, &number, &bytes)) == 0) {
            index_set_page(&txn->tier->index, log, number, row_page(txn->tier, bytes));
            if (!sheet_decode(&sheet, bytes))
                sheet.used = SHEET_SIZE;
        }
    *ret_end = txn->last[log] << INDEXED_BITS | sheet.used;
    return rc;
}

/* Index what begins on the sheet at or after an offset. */
static void log_index_sheet(struct tier_txn *txn, const uint8_t *bytes, uint32_t log, uint64_t number, uint32_t from)
{
    struct tier *tier = txn->tier;
    struct leafing leafing;
    struct record record;
    struct run run;
    uint64_t place, size;

    if (!leafing_begin(&leafing, tier, bytes, log, number))
        return;
    while (leafing_next(&leafing, &run, &record, &place, &size)) {
        struct written written = {.place = place, .number = number, .bytes = size};
        const uint8_t *key;

        if (place_offset(place) < from || !(key = run_whole(tier, &run, record.key_size)))
            continue;
        key_make(&written.key, &tier->space, key, record.key_size);
        STEP("tier_catching_up");
        publish_fill(tier, &written, &record);
    }
}

/* Do what whoever wrote last has not done, or not yet. */
static freshet_result txn_catch_up(struct tier_txn *txn)
{
    for (uint32_t log = 0; log < TIER_LOGS; log++) {
        uint64_t had = log_indexed(txn->tier, log), from = had >> INDEXED_BITS, end;
        const uint8_t *bytes;
        int rc;

        if (txn->last[log] == 0)
            continue;
        if (from < txn->first[log] || from > txn->last[log]) {
            from = txn->first[log];
            had = 0;
        }
        rc = log_set_pages(txn, log, from, &end);
        for (uint64_t number = from; rc == 0 && end != had && number <= txn->last[log]; number++)
            if ((rc = sheet_find(txn->tier->map, txn->cursor, log, number, &number, &bytes)) == 0)
                log_index_sheet(txn, bytes, log, number,
                                number == had >> INDEXED_BITS ? (uint32_t)(had & ((1u << INDEXED_BITS) - 1)) : 0);
        if (rc != 0)
            return map_result(txn->tier->map, rc, "catching up with the logs");
        atomic_store_explicit(&txn->tier->index.words[INDEX_INDEXED + log], end, memory_order_release);
    }
    return FRESHET_OK;
}

freshet_result tier_begin(struct tier *tier, struct tier_txn **ret_txn)
{
    struct tier_txn *txn = &tier->writing;
    freshet_result result = txn_open(tier);

    if (result != FRESHET_OK)
        return result;
    if ((result = txn_catch_up(txn)) != FRESHET_OK) {
        tier_drop(txn);
        return result;
    }
    for (uint32_t log = 0; log < TIER_LOGS; log++)
        txn->seen[log] = log_indexed(tier, log);
    tier->written_count = tier->fills_count = 0;
    *ret_txn = txn;
    return FRESHET_OK;
}

/* Nobody has written in between: as catching up would, but what is needed is at hand. */
static freshet_result txn_publish_own(struct tier_txn *txn)
{
    struct tier *tier = txn->tier;

    for (uint32_t log = 0; log < TIER_LOGS; log++) {
        uint64_t from = txn->seen[log] >> INDEXED_BITS, end;
        int rc;

        if (txn->last[log] == 0)
            continue;
        if ((rc = log_set_pages(txn, log, from > txn->first[log] ? from : txn->first[log], &end)) != 0)
            return map_result(tier->map, rc, "publishing");
        txn->seen[log] = end;
    }
    STEP("tier_pages_set");
    for (uint32_t i = 0; i < tier->written_count; i++) {
        const struct written *written = &tier->written[i];

        STEP("tier_slot_set");
        if (written->fill)
            publish_fill(tier, written, &tier->fills[written->fill - 1]);
        else
            publish_copy(tier, written);
    }
    STEP("tier_slots_set");
    for (uint32_t log = 0; log < TIER_LOGS; log++)
        if (txn->last[log] != 0)
            atomic_store_explicit(&tier->index.words[INDEX_INDEXED + log], txn->seen[log], memory_order_release);
    return FRESHET_OK;
}

/* Take the lock again and let the index lead to what was committed. */
static freshet_result txn_publish(struct tier *tier)
{
    struct tier_txn *txn = &tier->writing;
    freshet_result result;
    bool alone = true;

    if (tier->written_count == 0)
        return FRESHET_OK;
    STEP("tier_committed");
    if ((result = txn_open(tier)) != FRESHET_OK)
        return result;
    STEP("tier_publishing");
    for (uint32_t log = 0; log < TIER_LOGS; log++)
        alone = alone && log_indexed(tier, log) == txn->seen[log];
    result = alone ? txn_publish_own(txn) : txn_catch_up(txn);
    tier_drop(txn);
    return result;
}

uint64_t tier_displaced(struct tier *tier)
{
    uint64_t displaced = tier->displaced;

    tier->displaced = 0;
    return displaced;
}

freshet_result tier_commit(struct tier_txn *txn)
{
    struct tier *tier = txn->tier;
    MDB_txn *mdb = txn->txn;
    freshet_result result = FRESHET_OK;

    if (txn->spoiled) {
        tier_drop(txn);
        return fail(FRESHET_EIO, "a write transaction that had failed was to be committed");
    }
    for (uint32_t log = 0; log < TIER_LOGS && result == FRESHET_OK; log++)
        if (txn->open[log].loaded)
            result = open_flush(txn, &txn->open[log]);
    if (result != FRESHET_OK) {
        tier_drop(txn);
        return result;
    }
    mdb_cursor_close(txn->cursor);
    txn->cursor = NULL;
    txn->txn = NULL; /* gone, whatever commit says */
    if ((result = map_commit(tier->map, mdb)) != FRESHET_OK)
        return result;
    return txn_publish(tier);
}

/* The key of a record that was met, with its bytes; false: damaged. */
static bool entry_open(struct tier *tier, struct tier_entry *entry, struct run run)
{
    const uint8_t *bytes = run_whole(tier, &run, entry->record.key_size);

    if (bytes)
        key_make(&entry->key, &tier->space, bytes, entry->record.key_size);
    return bytes != NULL;
}

/* ---- the tail ---- */

/* Copy a record to the head of a log. */
static freshet_result tail_copy(struct tier_txn *txn, const struct tier_entry *entry, struct run run,
                                struct tier_fate fate, uint64_t place)
{
    struct tier *tier = txn->tier;
    const uint8_t *bytes = run_whole(tier, &run, entry->record.key_size + entry->record.value_size);
    struct written *written = written_next(tier);
    freshet_result result;

    if (!bytes || !written)
        return bytes ? txn_no_memory(txn) : FRESHET_MISS;
    *written = (struct written){
        .key = entry->key, .old = place, .bytes_before = entry->bytes, .touched = fate.touched};
    written->key.data = NULL;
    result = append(txn, fate.log, &entry->record, bytes, bytes + entry->record.key_size, &written->place,
                    &written->number, &written->bytes);
    if (result == FRESHET_OK)
        tier->written_count++;
    return result;
}

/* Decide about one record. */
static freshet_result tail_judge(struct tier_txn *txn, struct tier_entry *entry, struct run run, uint64_t place,
                                 tier_judge_fn judge, void *arg, struct tier_found *found)
{
    struct tier *tier = txn->tier;
    struct index_probe probe;
    struct tier_fate fate;
    freshet_result result = FRESHET_MISS;

    if (!entry_open(tier, entry, run) || !slot_of_place(tier, &entry->key, place, &probe)) {
        found->dead += entry->bytes;
        return FRESHET_OK;
    }
    touch_as_shelf(tier, &entry->key, index_touched(&probe));
    entry->touched = atomic_load_explicit(index_touched(&probe), memory_order_relaxed);
    fate = judge(entry, arg);
    if (fate.keep && fate.log < TIER_LOGS) {
        result = tail_copy(txn, entry, run, fate, place);
        if (result != FRESHET_OK && !entry_open(tier, entry, run)) /* its key may have lain where the copy was made */
            entry->key.data = NULL;
    }
    if (result == FRESHET_OK) {
        found->kept += entry->bytes;
        return result;
    }
    slot_clear(tier, &entry->key, index_slot(&probe), entry->bytes);
    found->dropped += entry->bytes;
    return result == FRESHET_MISS ? FRESHET_OK : result;
}

static int row_delete(struct tier_txn *txn, uint32_t log, uint64_t number)
{
    uint8_t name[KEY_SIZE];
    MDB_val key = {KEY_SIZE, name};

    sheet_key(name, log, number);
    return mdb_del(txn->txn, txn->tier->map->dbi, &key, NULL);
}

freshet_result tier_tail(struct tier_txn *txn, uint32_t log, tier_judge_fn judge, void *arg,
                         struct tier_found *ret_found)
{
    struct tier_entry entry = {.log = log};
    freshet_result result = FRESHET_OK;
    struct leafing leafing;
    const uint8_t *bytes;
    uint64_t number, place;
    struct run run;
    int rc;

    *ret_found = (struct tier_found){0};
    if (txn->tail[log] == 0 || txn->tail[log] >= txn->last[log])
        return FRESHET_MISS;
    if ((rc = sheet_find(txn->tier->map, txn->cursor, log, txn->tail[log], &number, &bytes)) != 0)
        return txn_result(txn, rc, "looking at a log's tail");
    if (number >= txn->last[log])
        return FRESHET_MISS;
    txn->tail[log] = number + 1;
    if (leafing_begin(&leafing, txn->tier, bytes, log, number))
        while (result == FRESHET_OK && leafing_next(&leafing, &run, &entry.record, &place, &entry.bytes)) {
            uint64_t kept = ret_found->kept;

            result = tail_judge(txn, &entry, run, place, judge, arg, ret_found);
            if (ret_found->kept > kept) /* it may go on over the next ones, but not beyond the sheet being written */
                txn->held[log] = number + entry.bytes / SHEET_ROOM + 1;
        }
    if (result != FRESHET_OK)
        return result;
    if (ret_found->kept == 0 && number > txn->held[log]) {
        /* A slot that led here all the same (a killed writer may have left it twice) leads nowhere from now on. */
        index_set_page(&txn->tier->index, log, number, 0);
        return txn_result(txn, row_delete(txn, log, number), "deleting a sheet");
    }
    txn->owed++;
    return FRESHET_OK;
}

freshet_result tier_tick(struct tier_txn *txn)
{
    return txn_result(txn, map_touch(txn->tier->map, txn->txn), "ageing the free pages");
}

/* ---- sweeping ---- */

struct sweeping {
    tier_judge_fn judge;
    void *arg;
    uint32_t asked, gone;
    uint64_t bytes; /* of those that stay */
};

static void sweep_sheet(struct tier_txn *txn, const uint8_t *bytes, uint32_t log, uint64_t number,
                        struct sweeping *sweeping)
{
    struct tier_entry entry = {.log = log};
    struct leafing leafing;
    struct run run;
    uint64_t place;

    if (!leafing_begin(&leafing, txn->tier, bytes, log, number))
        return;
    while (leafing_next(&leafing, &run, &entry.record, &place, &entry.bytes)) {
        struct index_probe probe;

        if (!entry_open(txn->tier, &entry, run) || !slot_of_place(txn->tier, &entry.key, place, &probe))
            continue;
        sweeping->asked++;
        entry.touched = atomic_load_explicit(index_touched(&probe), memory_order_relaxed);
        if (sweeping->judge(&entry, sweeping->arg).keep) {
            sweeping->bytes += entry.bytes;
            continue;
        }
        slot_clear(txn->tier, &entry.key, index_slot(&probe), entry.bytes);
        sweeping->gone++;
    }
}

/* On from a log and number, which it leaves where it ended; MDB_NOTFOUND: that was the last sheet. */
static int sweep_on(struct tier_txn *txn, uint32_t *log, uint64_t *number, uint32_t sheets, struct sweeping *sweeping)
{
    while (sheets > 0) {
        const uint8_t *bytes;
        int rc = MDB_NOTFOUND;

        if (txn->last[*log])
            rc = sheet_find(txn->tier->map, txn->cursor, *log, *number, number, &bytes);
        if (rc != 0 && (rc != MDB_NOTFOUND || *log + 1 == TIER_LOGS))
            return rc;
        if (rc == 0) {
            sweep_sheet(txn, bytes, *log, *number, sweeping);
            ++*number;
            sheets--;
        } else {
            ++*log;
            *number = 0;
        }
    }
    return 0;
}

bool tier_sweep(struct tier_txn *txn, uint32_t sheets, tier_judge_fn judge, void *arg, uint32_t *ret_asked,
                uint32_t *ret_gone)
{
    const struct tier *tier = txn->tier;
    _Atomic uint64_t *words = tier->index.words;
    uint64_t hand = atomic_load_explicit(&words[INDEX_HAND], memory_order_relaxed);
    uint64_t number = hand & ((UINT64_C(1) << NUMBER_BITS) - 1);
    uint32_t log = (uint32_t)(hand >> NUMBER_BITS);
    struct sweeping sweeping = {.judge = judge, .arg = arg};
    int rc;

    if (log >= TIER_LOGS || number > txn->last[log] + 1) /* damaged */
        log = 0, number = 0;
    if (log == 0 && number == 0) {
        atomic_store_explicit(&words[INDEX_HAND], 0, memory_order_relaxed);
        atomic_store_explicit(&words[INDEX_MET], 0, memory_order_relaxed);
        atomic_store_explicit(&words[INDEX_MET_LIVE], 0, memory_order_relaxed);
    }
    rc = sweep_on(txn, &log, &number, sheets, &sweeping);
    index_add(tier, INDEX_MET, sweeping.asked - sweeping.gone);
    index_add(tier, INDEX_MET_LIVE, sweeping.bytes);
    *ret_asked = sweeping.asked;
    *ret_gone = sweeping.gone;
    atomic_store_explicit(&words[INDEX_HAND], rc == 0 ? (uint64_t)log << NUMBER_BITS | number : 0,
                          memory_order_relaxed);
    if (rc != MDB_NOTFOUND)
        return rc != 0; /* damaged: what was met is not all */
    atomic_store_explicit(&words[INDEX_RECORDS], atomic_load_explicit(&words[INDEX_MET], memory_order_relaxed),
                          memory_order_relaxed);
    atomic_store_explicit(&words[INDEX_LIVE], atomic_load_explicit(&words[INDEX_MET_LIVE], memory_order_relaxed),
                          memory_order_relaxed);
    return true;
}

bool tier_sweep_turn(struct tier *tier, int64_t now_ns, int64_t every_ns)
{
    uint64_t swept = atomic_load_explicit(&tier->index.words[INDEX_SWEPT], memory_order_relaxed);

    return (uint64_t)now_ns - swept >= (uint64_t)every_ns &&
           atomic_compare_exchange_strong(&tier->index.words[INDEX_SWEPT], &swept, (uint64_t)now_ns);
}

/* ---- walking ---- */

struct each_entry {
    struct record record;
    uint8_t hash[16];
    size_t key_at; /* in the batch's keys */
};

/* What one snapshot showed. */
struct each_batch {
    struct each_entry *entries;
    uint32_t count, room;
    uint8_t *keys;
    size_t keys_used, keys_room;
    uint32_t log;
    uint64_t number;
    bool more;
};

static bool each_take(struct each_batch *batch, const struct tier *tier, struct run *run, const struct record *record,
                      uint64_t place)
{
    struct index_probe probe;
    struct each_entry *entry;
    struct key key;

    if (!(entry = with_room(batch->entries, batch->count, &batch->room, sizeof *entry)))
        return false;
    batch->entries = entry;
    if (batch->keys_room - batch->keys_used < record->key_size) {
        size_t room = 2 * batch->keys_room + record->key_size;
        uint8_t *grown = realloc(batch->keys, room);

        if (!grown)
            return false;
        batch->keys = grown;
        batch->keys_room = room;
    }
    entry = &batch->entries[batch->count];
    if (!run_copy(run, batch->keys + batch->keys_used, record->key_size))
        return true;
    key_make(&key, &tier->space, batch->keys + batch->keys_used, record->key_size);
    if (!slot_of_place(tier, &key, place, &probe))
        return true; /* it stands elsewhere by now, or nowhere */
    memcpy(entry->hash, key.hash, sizeof entry->hash);
    record_copy(&entry->record, record);
    entry->key_at = batch->keys_used;
    batch->keys_used += record->key_size;
    batch->count++;
    return true;
}

/* The next sheets, in one snapshot. */
static freshet_result each_fill(struct each_batch *batch, struct tier *tier, MDB_cursor *cursor)
{
    batch->count = 0;
    batch->keys_used = 0;
    for (uint32_t seen = 0; batch->more && seen < EACH_SHEETS; seen++) {
        struct leafing leafing;
        const uint8_t *bytes;
        struct record record;
        struct run run;
        uint64_t number, place, size;
        int rc = sheet_find(tier->map, cursor, batch->log, batch->number, &number, &bytes);

        if (rc == MDB_NOTFOUND) {
            batch->number = 0;
            batch->more = ++batch->log < TIER_LOGS;
            continue;
        }
        if (rc != 0)
            return map_result(tier->map, rc, "walking the records");
        if (leafing_begin(&leafing, tier, bytes, batch->log, number))
            while (leafing_next(&leafing, &run, &record, &place, &size))
                if (!each_take(batch, tier, &run, &record, place))
                    return fail(FRESHET_ENOMEM, "no memory to walk the records");
        batch->number = number + 1;
    }
    return FRESHET_OK;
}

static freshet_result each_snapshot(struct each_batch *batch, struct tier *tier)
{
    struct map_reader *reader;
    MDB_cursor *cursor;
    freshet_result result;
    int rc;

    if ((result = map_enter(tier->map, &reader)) != FRESHET_OK)
        return result;
    if ((rc = mdb_cursor_open(reader->txn, tier->map->dbi, &cursor)) == 0) {
        result = each_fill(batch, tier, cursor);
        mdb_cursor_close(cursor);
    } else {
        result = map_result(tier->map, rc, "walking the records");
    }
    map_leave(tier->map, reader);
    return result;
}

freshet_result tier_each(struct tier *tier, tier_each_fn fn, void *arg)
{
    struct each_batch batch = {.more = true};
    freshet_result result = FRESHET_OK;

    while (batch.more && result == FRESHET_OK) {
        result = each_snapshot(&batch, tier);
        for (uint32_t i = 0; i < batch.count && result == FRESHET_OK; i++)
            if (!fn(batch.entries[i].hash, &batch.entries[i].record, batch.keys + batch.entries[i].key_at, arg)) {
                batch.more = false;
                break;
            }
    }
    free(batch.entries);
    free(batch.keys);
    return result;
}

/* ---- how full ---- */

static uint64_t live_bytes(const struct tier *tier)
{
    return atomic_load_explicit(&tier->index.words[INDEX_LIVE], memory_order_relaxed);
}

void tier_usage(struct tier_txn *txn, struct tier_usage *ret_usage)
{
    const struct tier *tier = txn->tier;
    uint64_t rows;

    *ret_usage = (struct tier_usage){
        .used = map_pages_used(tier->map, txn->txn, &rows),
        .owed = txn->owed,
        .live = live_bytes(tier) / SHEET_ROOM,
        .all = tier->pages,
    };
    for (uint32_t log = 0; log < TIER_LOGS; log++) {
        uint64_t last = txn->open[log].loaded ? txn->open[log].head.number : txn->last[log];

        ret_usage->log_sheets[log] = last > txn->tail[log] ? last - txn->tail[log] : 0;
    }
}

void tier_facts(struct tier *tier, struct tier_facts *ret_facts)
{
    struct map_reader *reader;
    uint64_t rows;

    *ret_facts = (struct tier_facts){
        .rows = atomic_load_explicit(&tier->index.words[INDEX_RECORDS], memory_order_relaxed),
        .live_bytes = live_bytes(tier),
        .size = tier->size,
        .index_bytes = index_bytes(&tier->index),
        .held_bytes = (tier_map_held(tier) + tier_beside_held(tier)) * MAP_PAGE,
    };
    if (map_enter(tier->map, &reader) != FRESHET_OK)
        return;
    ret_facts->used_bytes = map_pages_used(tier->map, reader->txn, &rows) * MAP_PAGE;
    map_leave(tier->map, reader);
    ret_facts->readers = map_readers(tier->map);
}

/* ---- memory ---- */

uint64_t tier_map_held(const struct tier *tier)
{
    return map_held(tier->map);
}

uint64_t tier_beside_held(const struct tier *tier)
{
    return MAP_LOCK_PAGES + (index_bytes(&tier->index) + MAP_PAGE - 1) / MAP_PAGE;
}

/* The index's tables of pages are twice as large as the map at most. */
uint64_t tier_least(uint64_t size)
{
    uint64_t pages = index_leaves(size) / MAP_PAGE;

    return MAP_LOCK_PAGES + TIER_LEAST_PAGES + (pages * 2 * sizeof(uint32_t) * TIER_LOGS + MAP_PAGE - 1) / MAP_PAGE;
}

uint64_t tier_free_pages(struct tier_txn *txn)
{
    return map_pages_free(txn->tier->map, txn->txn);
}

void tier_will_give(struct tier *tier)
{
    tier->gives = true;
}

void tier_give_back(struct tier_txn *txn, uint64_t pages)
{
    map_give_back(txn->tier->map, txn->txn, pages);
}
