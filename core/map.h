/*
 * map.h - the LMDB environment under the tier: opened with distrust, read by a pool of transactions, written by one.
 *
 * The rows in it are tier.c's business.  Here is what keeps LMDB from hurting its host program: files checked before it
 * sees them, descriptors compared before it writes, readers that belong to the process and not to threads, and its
 * return codes made ours.
 */
#ifndef CORE_MAP_H
#define CORE_MAP_H

#include <freshet.h>
#include <lmdb.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#define MAP_PAGE    4096u /* bytes */
#define MAP_HEAD    16u   /* of a page LMDB's own */
#define MAP_READERS 4096u /* LMDB's reader slots */
#define MAP_SLOTS   64u   /* read transactions that a process keeps */

/* A read transaction that waits for its next use. */
struct map_reader {
    MDB_txn *txn;
    struct map_slot *slot; /* its place in the pool, once it has one */
};

/* A line of the cache each: threads that read at once share none. */
struct map_slot {
    _Alignas(64) struct map_reader *_Atomic reader;
};

struct map_file {
    dev_t dev;
    ino_t ino;
};

enum map_fd { FD_DATA, FD_META, FD_LOCK, FD_COUNT };

struct map {
    struct map_slot pool[MAP_SLOTS];
    MDB_env *env;
    MDB_dbi dbi;
    uint64_t size, generation;
    uint64_t nonce; /* the map's name, drawn when it was made */
    bool fresh;     /* that was just now */
    const uint8_t *base; /* where the file is mapped, for reading */
    uint32_t page_size;
    int fds[FD_COUNT]; /* LMDB's own; FD_META is -1 where it has but one */
    struct map_file files[FD_COUNT];
    atomic_bool failed; /* LMDB has failed for good: to be opened again */
    atomic_bool full;   /* the last time there was no room it was not the map's own size, but the file system's */
};

/* Open (or make) the map `map-GENERATION` in the directory.  Under dir_lock.  A map that LMDB refuses or that is
 * damaged is FRESHET_EIO with *ret_damaged set.  One that this process found damaged while it was open is unlinked and
 * begun anew here. */
freshet_result map_open(struct map **ret_map, const char *dir_path, uint64_t generation, uint64_t size,
                        bool *ret_damaged);
/* As tier_close, tier_abandon, tier_intact and tier_reader_check (tier.h) say. */
void map_close(struct map *map);
void map_abandon(struct map *map);
bool map_intact(const struct map *map);
int map_reader_check(struct map *map);
/* The map cannot go on with this environment; `condemn`: nor with this file. */
void map_fail(struct map *map, bool condemn);
/* LMDB's answer as ours, noting what cannot be mended by trying again. */
freshet_result map_result(struct map *map, int rc, const char *doing);

/* A snapshot of now: any thread, no lock, no system call. */
freshet_result map_enter(struct map *map, struct map_reader **ret_reader);
void map_leave(struct map *map, struct map_reader *reader);

/* Wait for LMDB's writer lock. */
freshet_result map_begin(struct map *map, MDB_txn **ret_txn);
/* Write what is there already, so that there is something to commit; LMDB's answer. */
int map_touch(struct map *map, MDB_txn *txn);
/* A row's page of its own, as LMDB gave it: has it the head that LMDB will believe when the row is deleted? */
bool map_row_fits(const struct map *map, const void *row);
/* The transaction is over, whatever the result. */
freshet_result map_commit(struct map *map, MDB_txn *txn);

/* Pages of a transaction's snapshot in use (both trees, the list of free ones), and rows. */
uint64_t map_pages_used(const struct map *map, MDB_txn *txn, uint64_t *ret_rows);
/* Reader slots in use, all processes'. */
uint32_t map_readers(struct map *map);

/* ---- memory: LMDB's file never shrinks, so in a pool parts of it are given back (map_give_back) ---- */

/* Pages of memory that the file takes, by the file system. */
uint64_t map_held(const struct map *map);
/* Pages that LMDB's lock file may take. */
#define MAP_LOCK_PAGES (MAP_READERS * 64u / MAP_PAGE + 2)
/* Pages of the file that are neither in use nor beyond the last ever used. */
uint64_t map_pages_free(const struct map *map, MDB_txn *txn);
/* Give up to so many free pages back to the system, those that LMDB will use again last.  Of a write transaction in
 * which nothing has been written yet. */
void map_give_back(struct map *map, MDB_txn *txn, uint64_t pages);

#endif
