/*
 * tier.c - a host's directory and its map in memory, for the simulator: core's dir.h and tier.h without a file system
 * and without LMDB.  The control page stays a file that each process maps, so that it outlives them all.
 *
 * A host has one map, which its processes share and a killed one leaves as it was at its last commit.  A transaction
 * holds the writer's lock of the host, as LMDB's does: a stopped process that holds it holds up the others' writers.
 */
#include "sim.h"

#include <dir.h>
#include <errno.h>
#include <fcntl.h>
#include <log.h>
#include <shelf.h>
#include <stdlib.h>
#include <string.h>
#include <tier.h>
#include <unistd.h>

#define ROWS_MOST 64u

struct row {
    bool used;
    uint8_t hash[16];
    struct record record;
    char *bytes; /* key, then value; never changed, so a reader may hold it */
};

struct sim_tier { /* a host's map */
    struct sim_tier *next;
    uint64_t generation;
    struct row rows[ROWS_MOST];
    uint32_t count; /* sorted by hash */
    struct sim_process *writer;
};

struct tier {
    struct sim_tier *map;
    struct sim_host *host;
    struct sim_process *process;
    struct key_space space;
    uint64_t size, limit;
    struct shelf *shelf;
};

struct tier_txn {
    struct tier *tier;
    struct row rows[ROWS_MOST];
    uint32_t count;
};

/* ---- the directory ---- */

/* A process's own identity stands in the device's place, so that each opens a tier of its own. */
freshet_result dir_open(struct dir *dir, const char *path, const char *name)
{
    struct sim_process *process = sim_self->process;

    (void)name;
    *dir = (struct dir){.fd = process->host->dirfd, .lock_fd = -1, .dev = (dev_t)process->pid, .ino = 1};
    dir->path = strdup(path ? path : process->host->path);
    return FRESHET_OK;
}

void dir_close(struct dir *dir)
{
    dir_leave(dir);
    dir_unlock(dir);
    free(dir->path);
    *dir = (struct dir){.fd = -1, .lock_fd = -1};
}

freshet_result dir_lock(struct dir *dir, int64_t deadline_ns)
{
    struct sim_host *host = sim_self->process->host;
    int64_t until = sim_true_ns(host, deadline_ns);

    while (host->opening && host->opening != sim_self->process) {
        if (sim_now >= until)
            return fail(FRESHET_EBUSY, "%s is being opened or closed by another process", dir->path);
        sim_sleep(SIM_MS / 2);
    }
    host->opening = sim_self->process;
    return FRESHET_OK;
}

void dir_unlock(struct dir *dir)
{
    (void)dir;
    if (sim_self->process->host->opening == sim_self->process)
        sim_self->process->host->opening = NULL;
}

freshet_result dir_enter(struct dir *dir)
{
    (void)dir;
    sim_self->process->entered = true;
    return FRESHET_OK;
}

void dir_leave(struct dir *dir)
{
    (void)dir;
    sim_self->process->entered = false;
}

static uint32_t dir_others(void)
{
    uint32_t others = 0;

    for (int pid = 4190000; pid < 4190064; pid++) {
        const struct sim_process *process = sim_process_of(pid);

        others +=
            process && process != sim_self->process && process->host == sim_self->process->host && process->entered;
    }
    return others;
}

bool dir_used(struct dir *dir)
{
    (void)dir;
    return dir_others() > 0;
}

uint32_t dir_count(struct dir *dir)
{
    (void)dir;
    return dir_others() + 1;
}

freshet_result dir_set_aside(struct dir *dir)
{
    (void)unlinkat(dir->fd, "control", 0);
    return FRESHET_OK;
}

freshet_result dir_set_map_aside(struct dir *dir)
{
    (void)dir;
    sim_self->process->host->maps = NULL;
    return FRESHET_OK;
}

void dir_abandon(struct dir *dir)
{
    (void)dir;
}

bool dir_intact(const struct dir *dir)
{
    (void)dir;
    return true;
}

ino_t dir_page(const struct dir *dir)
{
    (void)dir;
    return 1;
}

/* ---- the map ---- */

freshet_result tier_open(struct tier **ret_tier, const char *dir_path, uint64_t generation,
                         const struct key_space *space, uint64_t map_size, uint64_t limit, bool *ret_damaged)
{
    struct tier *tier = calloc(1, sizeof *tier);
    struct sim_host *host = sim_self->process->host;

    (void)dir_path;
    *ret_damaged = false;
    *tier = (struct tier){
        .space = *space, .host = host, .process = sim_self->process, .size = map_size, .limit = limit};
    for (tier->map = host->maps; tier->map && tier->map->generation != generation; tier->map = tier->map->next)
        ;
    if (!tier->map) {
        tier->map = calloc(1, sizeof *tier->map);
        tier->map->generation = generation;
        tier->map->next = host->maps;
        host->maps = tier->map;
    }
    *ret_tier = tier;
    return FRESHET_OK;
}

void tier_close(struct tier *tier)
{
    free(tier);
}

void tier_abandon(struct tier *tier)
{
    (void)tier;
}

bool tier_intact(const struct tier *tier)
{
    (void)tier;
    return true;
}

static struct row *row_find(struct row *rows, uint32_t count, const uint8_t hash[16])
{
    for (uint32_t i = 0; i < count; i++)
        if (memcmp(rows[i].hash, hash, 16) == 0)
            return &rows[i];
    return NULL;
}

freshet_result tier_read(struct tier *tier, const struct key *key, struct record *ret_record, freshet_buf *buf)
{
    const struct row *row;
    freshet_result result = FRESHET_OK;

    sim_pause();
    row = row_find(tier->map->rows, tier->map->count, key->hash);
    if (buf)
        buf->size = 0;
    if (!row || row->record.key_size != key->size || memcmp(row->bytes, key->data, key->size) != 0)
        return FRESHET_MISS;
    *ret_record = row->record;
    if (buf)
        result = freshet_buf_set(buf, row->bytes + row->record.key_size, row->record.value_size);
    sim_pause(); /* between the copy and the judge */
    return result;
}

const void *tier_place(const struct tier *tier, const struct key *key)
{
    (void)key;
    return tier;
}

freshet_result tier_view(struct tier *tier, const struct key *key, struct record *ret_record,
                         struct tier_view *ret_view)
{
    freshet_buf buf = {0};
    freshet_result result = tier_read(tier, key, ret_record, &buf);

    *ret_view = (struct tier_view){.pieces = ret_view->some, .count = 1};
    ret_view->some[0] = (freshet_piece){buf.data, buf.size}; /* never freed: runs are short */
    return result;
}

void tier_view_end(struct tier *tier, struct tier_view *view)
{
    (void)tier;
    (void)view;
}

freshet_result tier_each(struct tier *tier, tier_each_fn fn, void *arg)
{
    for (uint32_t i = 0; i < tier->map->count; i++)
        if (!fn(tier->map->rows[i].hash, &tier->map->rows[i].record, tier->map->rows[i].bytes, arg))
            break;
    return FRESHET_OK;
}

/* ---- transactions ---- */

freshet_result tier_begin(struct tier *tier, struct tier_txn **ret_txn)
{
    struct tier_txn *txn = calloc(1, sizeof *txn);

    sim_pause();
    while (tier->map->writer && !tier->map->writer->dead)
        sim_sleep(SIM_MS / 4);
    tier->map->writer = tier->process;
    txn->tier = tier;
    txn->count = tier->map->count;
    memcpy(txn->rows, tier->map->rows, sizeof txn->rows);
    *ret_txn = txn;
    return FRESHET_OK;
}

uint64_t tier_displaced(struct tier *tier)
{
    (void)tier;
    return 0;
}

/* As the library's: before another record of a key is found. */
static void rows_leave_shelf(struct tier_txn *txn)
{
    const struct sim_tier *map = txn->tier->map;

    for (uint32_t i = 0; i < txn->count; i++) {
        const struct row *row = &txn->rows[i];
        bool stays = false;
        struct key key;

        for (uint32_t j = 0; j < map->count; j++)
            stays |= map->rows[j].bytes == row->bytes;
        key_make(&key, &txn->tier->space, row->bytes, row->record.key_size);
        if (!stays)
            shelf_drop(txn->tier->shelf, &key);
    }
}

freshet_result tier_commit(struct tier_txn *txn)
{
    struct sim_tier *map = txn->tier->map;

    sim_pause();
    rows_leave_shelf(txn);
    sim_pause();
    map->count = txn->count;
    memcpy(map->rows, txn->rows, sizeof map->rows);
    tier_drop(txn);
    return FRESHET_OK;
}

void tier_drop(struct tier_txn *txn)
{
    if (!txn)
        return;
    txn->tier->map->writer = NULL;
    free(txn);
}

freshet_result tier_peek(struct tier_txn *txn, const struct key *key, struct record *ret_record,
                         struct tier_fate *ret_where)
{
    const struct row *row = row_find(txn->rows, txn->count, key->hash);

    if (!row)
        return FRESHET_MISS;
    *ret_record = row->record;
    *ret_where = (struct tier_fate){.keep = true};
    return FRESHET_OK;
}

freshet_result tier_write(struct tier_txn *txn, const struct key *key, const struct record *record, const void *value,
                          uint32_t log, uint8_t touched)
{
    struct row row = {.used = true, .record = *record};
    uint32_t at = 0;

    (void)log;
    (void)touched;
    tier_delete(txn, key);
    if (txn->count == ROWS_MOST)
        return FRESHET_ENOSPC;
    memcpy(row.hash, key->hash, 16);
    row.bytes = malloc(key->size + (size_t)record->value_size + 1);
    memcpy(row.bytes, key->data, key->size);
    if (record->value_size)
        memcpy(row.bytes + key->size, value, (size_t)record->value_size);
    while (at < txn->count && memcmp(txn->rows[at].hash, key->hash, 16) < 0)
        at++;
    memmove(&txn->rows[at + 1], &txn->rows[at], (txn->count++ - at) * sizeof row);
    txn->rows[at] = row;
    sim_pause();
    return FRESHET_OK;
}

static void rows_delete(struct row *rows, uint32_t *count, const uint8_t hash[16])
{
    struct row *row = row_find(rows, *count, hash);

    if (!row)
        return;
    memmove(row, row + 1, (size_t)(&rows[*count] - (row + 1)) * sizeof *row);
    --*count;
}

/* At once, as the library's. */
void tier_delete(struct tier_txn *txn, const struct key *key)
{
    rows_delete(txn->rows, &txn->count, key->hash);
    rows_delete(txn->tier->map->rows, &txn->tier->map->count, key->hash);
}

/* There are no logs here: all rows are on one sheet, which is asked about as a whole. */
static uint32_t rows_judge(struct tier_txn *txn, tier_judge_fn judge, void *arg, uint32_t *ret_gone)
{
    uint32_t asked = 0;

    *ret_gone = 0;
    for (uint32_t i = 0; i < txn->count; asked++) {
        struct tier_entry entry = {.record = txn->rows[i].record, .bytes = 1};

        key_make(&entry.key, &txn->tier->space, txn->rows[i].bytes, entry.record.key_size);
        if (judge(&entry, arg).keep) {
            i++;
            continue;
        }
        tier_delete(txn, &entry.key);
        ++*ret_gone;
    }
    return asked;
}

freshet_result tier_tail(struct tier_txn *txn, uint32_t log, tier_judge_fn judge, void *arg,
                         struct tier_found *ret_found)
{
    uint32_t gone;

    *ret_found = (struct tier_found){0};
    if (log != 0 || txn->count == 0)
        return FRESHET_MISS;
    (void)rows_judge(txn, judge, arg, &gone);
    return FRESHET_OK;
}

bool tier_sweep(struct tier_txn *txn, uint32_t sheets, tier_judge_fn judge, void *arg, uint32_t *ret_asked,
                uint32_t *ret_gone)
{
    (void)sheets;
    *ret_asked = rows_judge(txn, judge, arg, ret_gone);
    return true;
}

/* ---- the shelf: the library's own ---- */

void tier_use_shelf(struct tier *tier, struct shelf *shelf)
{
    tier->shelf = shelf;
    shelf_belongs(shelf, tier->map->generation);
}

bool tier_wished(const struct tier *tier)
{
    return shelf_due(tier->shelf);
}

uint32_t tier_shelve(struct tier_txn *txn, int64_t *ret_next_ns)
{
    struct shelf *shelf = txn->tier->shelf;
    struct shelf_turn turn;

    if (!shelf_turn_begin(shelf, txn->tier->map->generation, &turn))
        return 0;
    for (uint32_t i = 0; i < SHELF_WISHES; i++) {
        const struct row *row;
        struct key key;
        uint8_t hash[16];

        if (!shelf_wish_take(shelf, i, hash) || !(row = row_find(txn->rows, txn->count, hash)))
            continue;
        key_make(&key, &txn->tier->space, row->bytes, row->record.key_size);
        if (shelf_fits(&row->record))
            shelf_put(shelf, &turn, &key, &row->record, row->bytes + row->record.key_size);
    }
    *ret_next_ns = shelf_turn_end(shelf, &turn);
    return turn.put;
}

bool tier_sweep_turn(struct tier *tier, int64_t now_ns, int64_t every_ns)
{
    (void)tier, (void)now_ns, (void)every_ns;
    return true;
}

freshet_result tier_tick(struct tier_txn *txn)
{
    (void)txn;
    return FRESHET_OK;
}

void tier_usage(struct tier_txn *txn, struct tier_usage *ret_usage)
{
    *ret_usage = (struct tier_usage){.used = txn->count, .live = txn->count, .all = txn->tier->size / 4096};
}

uint64_t tier_pages(const struct record *record)
{
    (void)record;
    return 1;
}

bool tier_disk_full(const struct tier *tier)
{
    (void)tier;
    return false;
}

uint64_t tier_size(const struct tier *tier)
{
    return tier->size;
}

int tier_reader_check(struct tier *tier)
{
    (void)tier;
    return 0;
}

void tier_facts(struct tier *tier, struct tier_facts *ret_facts)
{
    *ret_facts = (struct tier_facts){.rows = tier->map->count, .size = tier->size, .readers = 1};
}

/* ---- memory: no simulated cache is in a pool ---- */

uint64_t tier_map_held(const struct tier *tier)
{
    (void)tier;
    return 0;
}

uint64_t tier_beside_held(const struct tier *tier)
{
    (void)tier;
    return 0;
}

uint64_t tier_least(uint64_t size)
{
    return size;
}

uint64_t tier_free_pages(struct tier_txn *txn)
{
    (void)txn;
    return 0;
}

void tier_will_give(struct tier *tier)
{
    (void)tier;
}

void tier_give_back(struct tier_txn *txn, uint64_t pages)
{
    (void)txn;
    (void)pages;
}
