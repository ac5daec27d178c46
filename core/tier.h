/*
 * tier.h - the host's records: appended to logs in LMDB's map, found through an index in shared memory.
 *
 * A hit is one line of the index, one page of the map, a copy.  Any thread reads, without a lock, a system call or a
 * walk; one thread of the process writes, one process at a time, in batches.  Records leave at the tail of their log,
 * where whoever asks decides for each: dropped, or copied to the head of a log.
 */
#ifndef CORE_TIER_H
#define CORE_TIER_H

#include <freshet.h>
#include <index.h>
#include <key.h>
#include <record.h>

#define TIER_LOGS INDEX_LOGS

struct tier;

/* Open (or make) the map `map-GENERATION` in the directory, and its index, of `size` bytes together; `limit`: the
 * greatest key + value that any record may have; `space` names keys and is copied.  Under dir_lock.  A map that LMDB
 * refuses or that is damaged is FRESHET_EIO with *ret_damaged set: set it aside and try again.  A map that this process
 * found damaged while it was open is unlinked and begun anew here. */
freshet_result tier_open(struct tier **ret_tier, const char *dir_path, uint64_t generation,
                         const struct key_space *space, uint64_t size, uint64_t limit, bool *ret_damaged);
/* No other thread may be in the tier.  NULL is welcome. */
void tier_close(struct tier *tier);
/* Child after fork, or descriptors gone: close only the descriptors that are still the tier's files, leak the rest. */
void tier_abandon(struct tier *tier);
/* The descriptors are still the tier's files (a host program may have closed them), the map is still the
 * directory's, and LMDB has not failed for good.  False: abandon it and open it again. */
bool tier_intact(const struct tier *tier);

/* ---- readers: any thread, no lock, no system call ---- */

/* Copy the record of `key` out: its head to *ret_record, its value to *buf (NULL: head only).  FRESHET_OK,
 * FRESHET_MISS (none, or another key of the same hash, or damaged: *ret_record is anything then, *buf empty),
 * FRESHET_ENOMEM, FRESHET_EIO.  One that is found counts as used (policy.h). */
freshet_result tier_read(struct tier *tier, const struct key *key, struct record *ret_record, freshet_buf *buf);

/* The line of memory that a read looks at first, to be fetched while something else is done. */
const void *tier_place(const struct tier *tier, const struct key *key);

/* The same record where it lies, in pieces, until tier_view_end: pages that are in use now are not used again until
 * then. */
struct tier_view {
    struct map_reader *reader;
    const freshet_piece *pieces; /* of the value */
    size_t count;
    freshet_piece some[8], *own; /* `own`: to be freed */
};
freshet_result tier_view(struct tier *tier, const struct key *key, struct record *ret_record,
                         struct tier_view *ret_view);
void tier_view_end(struct tier *tier, struct tier_view *view);

/* Walk all records, renewing the snapshot as it goes; none is held during a call.  `key_bytes`, valid during the call,
 * is the full key. */
typedef bool (*tier_each_fn)(const uint8_t hash[16], const struct record *record, const void *key_bytes, void *arg);
freshet_result tier_each(struct tier *tier, tier_each_fn fn, void *arg);

/* ---- the writer: one thread of the process ---- */

/* A record that somebody decides about. */
struct tier_entry {
    struct key key; /* with its bytes */
    struct record record;
    uint32_t log;
    uint8_t touched; /* what readers left on it */
    uint64_t bytes;  /* that it takes in a log */
};
struct tier_fate {
    bool keep;
    uint32_t log; /* to whose head it is copied; only at a tail */
    uint8_t touched;
};

struct shelf;
/* Copies of the tier's records are on it from now on.  Before any write. */
void tier_use_shelf(struct tier *tier, struct shelf *shelf);

struct tier_txn;
/* Wait for LMDB's writer lock (a stopped sibling may hold it: only ever the library's own thread waits here). */
freshet_result tier_begin(struct tier *tier, struct tier_txn **ret_txn);
/* The transaction is over, whatever the result; what it wrote is found from now on.  FRESHET_ENOSPC: no page (or no
 * room in the file system). */
freshet_result tier_commit(struct tier_txn *txn);
/* Records that left since this was last asked because the index had no slot for them (rare). */
uint64_t tier_displaced(struct tier *tier);
void tier_drop(struct tier_txn *txn); /* abort; NULL is welcome.  What was deleted stays so. */
/* After FRESHET_ENOSPC, ENOMEM or EIO from one of these the transaction must be dropped; tier_commit would refuse. */
/* Head of what is stored under the key, also by this transaction, its log and its mark; FRESHET_MISS: nothing, or
 * damaged. */
freshet_result tier_peek(struct tier_txn *txn, const struct key *key, struct record *ret_record,
                         struct tier_fate *ret_where);
/* Append to a log; the key's bytes must stay until the transaction is over.  What the tier has by then stays if it
 * replaces this one (record_replaces). */
freshet_result tier_write(struct tier_txn *txn, const struct key *key, const struct record *record, const void *value,
                          uint32_t log, uint8_t touched);
/* At once, whatever becomes of the transaction. */
void tier_delete(struct tier_txn *txn, const struct key *key);

typedef struct tier_fate (*tier_judge_fn)(const struct tier_entry *entry, void *arg);

/* What one sheet held, in bytes. */
struct tier_found {
    uint64_t dead, kept, dropped;
};
/* The next sheet from the tail of a log: ask about every record that begins on it and is still in use.  A sheet with
 * nothing left on it is deleted, one from which something was copied goes with a later transaction.  FRESHET_MISS: the
 * log has none that is not being written. */
freshet_result tier_tail(struct tier_txn *txn, uint32_t log, tier_judge_fn judge, void *arg,
                         struct tier_found *ret_found);

/* Give the transaction something to commit: LMDB hands out freed pages again two commits later. */
freshet_result tier_tick(struct tier_txn *txn);

/* Look at the records of up to so many sheets, from where the last sweep of any process ended; those that are not kept
 * are deleted, at once.  *ret_asked, *ret_gone: records.  True: it has come round, and the counts of records are right
 * again, whatever killed writers left uncounted. */
bool tier_sweep(struct tier_txn *txn, uint32_t sheets, tier_judge_fn judge, void *arg, uint32_t *ret_asked,
                uint32_t *ret_gone);
/* Has a reader of this process wished for something there, and is it time? */
bool tier_wished(const struct tier *tier);
/* Put on the shelf what this process's readers wished for, in a transaction that has written nothing; how many, and if
 * any, when to come again. */
uint32_t tier_shelve(struct tier_txn *txn, int64_t *ret_next_ns);
/* Is it this process's turn to sweep?  One has it in so much time. */
bool tier_sweep_turn(struct tier *tier, int64_t now_ns, int64_t every_ns);

/* The map's pages, inside a write transaction: `used`; `owed`, those of them that will go as soon as others have
 * been committed; `live`, what the records in use would take; `all` there may be. */
struct tier_usage {
    uint64_t used, owed, live, all;
    uint64_t log_sheets[TIER_LOGS];
};
void tier_usage(struct tier_txn *txn, struct tier_usage *ret_usage);
/* Pages that writing the record may take, at most. */
uint64_t tier_pages(const struct record *record);
uint64_t tier_size(const struct tier *tier); /* bytes, map and index */
/* Pages of memory that the map's file takes, by the file system; those that the tier's other files take, the control
 * page not among them; what these take with next to nothing in a tier of so many bytes. */
uint64_t tier_map_held(const struct tier *tier);
uint64_t tier_beside_held(const struct tier *tier);
uint64_t tier_least(uint64_t size);
/* Pages of the map that are free, and given back to the system as far as they may be, up to so many: of a transaction
 * that has written nothing yet. */
uint64_t tier_free_pages(struct tier_txn *txn);
void tier_give_back(struct tier_txn *txn, uint64_t pages);
/* Some process of the cache may do so from now on: reads hold a snapshot meanwhile.  Before any reads. */
void tier_will_give(struct tier *tier);
/* After FRESHET_ENOSPC: was it the file system that had no more? */
bool tier_disk_full(const struct tier *tier);
/* Free reader slots of dead processes; how many. */
int tier_reader_check(struct tier *tier);
/* rows: records; live_bytes: what they take in the logs; used_bytes: of map pages in use; index_bytes: beside the map;
 * size: what both may take; held_bytes: what the files take, by the file system; readers: slots in use, all
 * processes'. */
struct tier_facts {
    uint64_t rows, live_bytes, used_bytes, index_bytes, size, held_bytes;
    uint32_t readers;
};
void tier_facts(struct tier *tier, struct tier_facts *ret_facts);

#endif
