/*
 * shelf.h - copies of the hottest small records, found without SipHash and without the index, in few pages of memory.
 *
 * A hit in the tier hashes its key, then waits for three or four places in memory, each known from the one before: the
 * index's line, the sheet, the fence.  Few records get most of the reads.  Copies of theirs lie side by side here, in
 * sets of one page with a line of tags each.  The hash is cheap and means nothing elsewhere; the line tells where the
 * entry is and where its fence, so both come at once.  A copy is judged by the same fences as its record and is void
 * whenever that is.  And it is taken off before the index leads to another record of its key, so nobody who has read
 * the newer one gets the older one afterwards.
 *
 * Only the tier's writer puts something here, in turns of which a host has one at a time: what readers of its process
 * wished for.  Readers write a bit that an entry was used, if it is not set, and their wishes, in memory of their own
 * process.  The sets are mapped for reading alone and written by pwrite, as LMDB's pages are: a wild pointer of the
 * host program does not reach the values.  The lines may hold anything; all that is read there is checked.
 *
 * Measured (README): 30 to 40 % less for a hit where some thousand keys are hot, 10 % where 100,000 are read by Zipf's
 * law; records of 1 KiB gained nothing, so only small ones are taken.
 */
#ifndef CORE_SHELF_H
#define CORE_SHELF_H

#include <control.h>
#include <record.h>

#define SHELF_WISHES 256u

/* The hash of a record that some reader of this process would rather meet here. */
struct shelf_wish {
    _Atomic uint64_t low, high; /* low 0: none */
};

struct shelf {
    const struct control *control;
    const char *dir_path; /* the host's */
    struct shelf_wish wishes[SHELF_WISHES];
};

/* The shelf of the page in a directory; both outlive it. */
void shelf_open(struct shelf *shelf, const struct control *control, const char *dir_path);

/* ---- readers: any thread, no lock, no system call ---- */

/* Copy the key's record out, if it is here: *ret_key in full, *ret_record, its value to *buf.  False: it is not, or is
 * being changed, or there is no memory; all three are anything then. */
bool shelf_read(const struct shelf *shelf, const void *key, size_t size, struct key *ret_key,
                struct record *ret_record, freshet_buf *buf);

/* May a record of these sizes lie here? */
bool shelf_fits(const struct record *record);

/* The record was found elsewhere.  Torn by another reader's, a wish is for nothing. */
static inline void shelf_wish(struct shelf *shelf, const struct key *key)
{
    uint64_t low = bytes_get64(key->hash), high = bytes_get64(key->hash + 8);
    struct shelf_wish *wish = &shelf->wishes[low % SHELF_WISHES];

    if (atomic_load_explicit(&wish->low, memory_order_relaxed) == low)
        return;
    atomic_store_explicit(&wish->high, high, memory_order_relaxed);
    atomic_store_explicit(&wish->low, low, memory_order_relaxed);
}

/* ---- the writer, under the lock of the map whose records they are ---- */

/* From now on it has records of the map with this nonce; `fresh`: that is new, and what is here goes. */
void shelf_belongs(struct shelf *shelf, uint64_t map, bool fresh);

/* Is there a wish, and is it time for a turn? */
bool shelf_due(const struct shelf *shelf);
/* Take the one out of a place; false: there was none. */
bool shelf_wish_take(struct shelf *shelf, uint32_t at, uint8_t ret_hash[16]);

struct shelf_turn {
    int fd; /* the page's file, locked */
    int64_t begun_ns;
    uint32_t put, displaced; /* entries */
};
/* Begin a turn, if it is time for one, nobody else has it and the shelf is this map's. */
bool shelf_turn_begin(struct shelf *shelf, uint64_t map, struct shelf_turn *ret_turn);
/* Put a copy of a record that the index leads to here. */
void shelf_put(struct shelf *shelf, struct shelf_turn *turn, const struct key *key, const struct record *record,
               const void *value);
/* The next one comes so much later that all turns together take a small part of one processor. */
void shelf_turn_end(struct shelf *shelf, struct shelf_turn *turn);

/* The index is about to lead to another record of this key. */
void shelf_drop(struct shelf *shelf, const struct key *key);

#endif
