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
 * What lies here the index leads to: a record that leaves the tier, or is replaced, takes its copy off first (or right
 * after, where another needed its slot in a full index).
 *
 * Only the tier's writer puts something here, in turns of which a host has one at a time: what readers of its process
 * wished for.  Readers of a set share a bit for each entry, written when it is not set; wishes and what is counted stay
 * in their own process, for one hit of 16.  Where few hits would be found here, nobody looks.  The sets are mapped for
 * reading alone, and once more for a turn, so that a wild pointer of the host program hardly reaches the values.  Line
 * and set may hold anything: whoever reads stays within the set, and compares the key.
 *
 * Measured (README): 5 to 12 % less for a hit of 64 B; records of 1 KiB gained nothing, so only small ones are taken.
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
    _Atomic bool idle;    /* too few of this process's hits are here: nobody need look */
    _Atomic bool turning; /* it is this process's turn */
    _Alignas(64) _Atomic uint32_t looked, met; /* hits of a sample, and those that are here */
    _Alignas(64) struct shelf_wish wishes[SHELF_WISHES];
};

/* The shelf of a page, which outlives it. */
void shelf_open(struct shelf *shelf, const struct control *control);

/* ---- readers: any thread, no lock, no system call ---- */

/* Where an entry was found. */
struct shelf_hit {
    struct control_shelf_line *line;
    uint32_t way;
};
/* Copy the key's record out, if it is here: *ret_key in full, *ret_record, its value to *buf.  False: it is not, or is
 * being changed, or there is no memory; all of these are anything then. */
bool shelf_read(const struct shelf *shelf, const void *key, size_t size, struct key *ret_key,
                struct record *ret_record, freshet_buf *buf, struct shelf_hit *ret_hit);
/* It was worth something: the entry stays before others, and the policy will hear of it. */
static inline void shelf_use(const struct shelf_hit *hit)
{
    uint32_t bit = UINT32_C(1) << hit->way;

    if (atomic_load_explicit(&hit->line->used, memory_order_relaxed) & bit)
        return;
    (void)atomic_fetch_or_explicit(&hit->line->used, bit, memory_order_relaxed);
    (void)atomic_fetch_or_explicit(&hit->line->read, bit, memory_order_relaxed);
}

/* May a record of these sizes lie here? */
bool shelf_fits(const struct record *record);

/* Is it worth looking? */
static inline bool shelf_helps(const struct shelf *shelf)
{
    return !atomic_load_explicit(&shelf->idle, memory_order_relaxed);
}

/* A hit of the sample (one of so many, whatever answered): it was here. */
void shelf_met(struct shelf *shelf);
/* The same: it was found elsewhere.  If it is not here, that is wished for.  (A wish that two threads have torn is for
 * nothing.) */
void shelf_missed(struct shelf *shelf, const struct key *key, const struct record *record);

/* In a child after fork, of what it has inherited and leaves behind: no turn goes on. */
void shelf_abandon(struct shelf *shelf);

/* ---- the writer, under the lock of the map whose records they are ---- */

/* From now on it has records of the map with this nonce; what is here of another goes.  Under dir_lock. */
void shelf_belongs(struct shelf *shelf, uint64_t map);

/* Is there a wish, and is it time for a turn? */
bool shelf_due(const struct shelf *shelf);
/* Take the one out of a place; false: there was none. */
bool shelf_wish_take(struct shelf *shelf, uint32_t at, uint8_t ret_hash[16]);

struct shelf_turn {
    uint64_t map;
    int64_t begun_ns;
    uint32_t put, displaced; /* entries */
    bool over;               /* the shelf has become another map's meanwhile */
};
/* Begin a turn, if it is time for one, nobody who lives has it and the shelf is this map's. */
bool shelf_turn_begin(struct shelf *shelf, uint64_t map, struct shelf_turn *ret_turn);
/* Put a copy of a record that the index leads to here. */
void shelf_put(struct shelf *shelf, struct shelf_turn *turn, const struct key *key, const struct record *record,
               const void *value);
/* The next one comes so much later that all turns together take a small part of one processor: CLOCK_BOOTTIME, ns. */
int64_t shelf_turn_end(struct shelf *shelf, struct shelf_turn *turn);

/* Was the key's copy read since this was last asked? */
bool shelf_was_read(struct shelf *shelf, const struct key *key);

/* The index is about to lead to another record of this key, or to none. */
void shelf_drop(struct shelf *shelf, const struct key *key);

#endif
