/*
 * tier.h - the LMDB environment: open, read, write, drop.  tier.c is the only file with <lmdb.h>.
 *
 * One unnamed database.  Row key: the 16 bytes of the key's hash; the head row holds the record's head and what fits of
 * key and value in one page (TIER_ROW bytes); further rows have a 4-byte big-endian chunk number (from 1)
 * behind the hash.  NOSYNC | NOMETASYNC | NOTLS, no WRITEMAP.  All rows of a record are written in one transaction.
 */
#ifndef CORE_TIER_H
#define CORE_TIER_H

#include <freshet.h>
#include <key.h>
#include <record.h>

#define TIER_ROW     4080u /* bytes of a row's data: exactly one overflow page */
#define TIER_READERS 4096u /* LMDB's reader slots */

struct tier;

/* Open (or make) the map `map-GENERATION` in the directory; `limit`: the greatest key + value that any record may
 * have.  Under dir_lock.  A map that LMDB refuses or that is damaged is FRESHET_EIO with *ret_damaged set: set it
 * aside and try again.  A map that this process found damaged while it was open is unlinked and begun anew here. */
freshet_result tier_open(struct tier **ret_tier, const char *dir_path, uint64_t generation, uint64_t map_size,
                         uint64_t limit, bool *ret_damaged);
/* No other thread may be in the tier.  NULL is welcome. */
void tier_close(struct tier *tier);
/* Child after fork, or descriptors gone: close only the descriptors that are still the tier's files, leak the rest. */
void tier_abandon(struct tier *tier);
/* The descriptors are still the tier's files (a host program may have closed them), the map is still the
 * directory's, and LMDB has not failed for good.  False: abandon it and open it again. */
bool tier_intact(const struct tier *tier);

/* ---- readers: any thread, no lock, no system call ---- */

/* Copy the record of `key` out: its head to *ret_record, its value to *buf (NULL: head only).  FRESHET_OK,
 * FRESHET_MISS (none, or another key of the same hash, or damaged: *ret_record is then untouched, *buf empty),
 * FRESHET_ENOMEM, FRESHET_EIO. */
freshet_result tier_read(struct tier *tier, const struct key *key, struct record *ret_record, freshet_buf *buf);

/* Walk all heads, renewing the snapshot as it goes; none is held during a call.  `key_bytes`, valid during the call,
 * is the full key. */
typedef bool (*tier_each_fn)(const uint8_t hash[16], const struct record *record, const void *key_bytes, void *arg);
freshet_result tier_each(struct tier *tier, tier_each_fn fn, void *arg);

/* ---- the writer: one thread of the process ---- */

struct tier_txn;
/* Wait for LMDB's writer lock (a stopped sibling may hold it: only ever the library's own thread waits here). */
freshet_result tier_begin(struct tier *tier, struct tier_txn **ret_txn);
/* The transaction is over, whatever the result.  FRESHET_ENOSPC: no page (or no room in the file system). */
freshet_result tier_commit(struct tier_txn *txn);
void tier_drop(struct tier_txn *txn); /* abort; NULL is welcome */
/* After FRESHET_ENOSPC, ENOMEM or EIO from one of these the transaction must be dropped; tier_commit would refuse. */
/* Head of what is stored under the hash; FRESHET_MISS: nothing, or damaged. */
freshet_result tier_peek(struct tier_txn *txn, const uint8_t hash[16], struct record *ret_record);
freshet_result tier_write(struct tier_txn *txn, const struct key *key, const struct record *record, const void *value);
freshet_result tier_delete(struct tier_txn *txn, const uint8_t hash[16]);
/* From the first head at or after `hash` on: up to `most` heads with their hashes, in order; fewer at the end.
 * Where rows are damaged the record is all zero (kind 0): delete it. */
freshet_result tier_scan(struct tier_txn *txn, const uint8_t hash[16], uint32_t most, uint8_t (*ret_hashes)[16],
                         struct record *ret_records, uint32_t *ret_count);
/* Give the transaction something to commit: LMDB hands out freed pages again two commits later. */
freshet_result tier_tick(struct tier_txn *txn);

/* Pages in use (database and free list's own) and in all, inside a write transaction. */
void tier_usage(struct tier_txn *txn, uint64_t *ret_used, uint64_t *ret_pages);
/* Pages that writing the record may take beyond what it replaces, at most. */
uint64_t tier_pages(const struct record *record);
uint32_t tier_page_size(const struct tier *tier);
uint64_t tier_map_size(const struct tier *tier);
/* The hash after this one; false: this was the last. */
bool tier_next_hash(uint8_t hash[16]);
/* Free reader slots of dead processes; how many. */
int tier_reader_check(struct tier *tier);
/* rows: records; bytes: of map pages in use; readers: slots in use, all processes'. */
struct tier_facts {
    uint64_t rows, used_bytes, map_bytes;
    uint32_t readers;
};
void tier_facts(struct tier *tier, struct tier_facts *ret_facts);

#endif
