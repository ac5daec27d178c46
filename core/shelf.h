/*
 * shelf.h - the hottest small records a second time, in a table of the control page, where a hit finds them without a
 * walk down LMDB's tree.
 *
 * A copy is judged like the tier's own, by its as-of and born against the same page (servable.h), after it was copied
 * out.  So it can be no staler, whatever becomes of the original; void, it is only in the way until another takes its
 * place.
 *
 * The table is set-associative: a cache line of tags (8 bytes of the hashes), then a slot for each.  Slots are
 * seqlocks: a reader never waits, nor writes anything but a mark, which a hot slot has already; a writer that meets
 * another, even one that died or was stopped in the midst, lets it be.  A slot that a writer died in is lost until the
 * page is made anew, and its key is found in the tier as before.  What was void stays in the page's bytes until another
 * takes its place.
 */
#ifndef CORE_SHELF_H
#define CORE_SHELF_H

#include <bytes.h>
#include <control.h>
#include <record.h>

#define SHELF_WAYS       8u
#define SHELF_SET_SIZE   (64u + SHELF_WAYS * 256u)
#define SHELF_SETS_LEAST 16u
#define SHELF_SETS_MOST  (1u << 20)
#define SHELF_PAYLOAD    160u /* bytes of tags, key and value, each padded to 8 */

#define SHELF_SET_SHIFT 16 /* of the hash's low word, whose lowest bits choose the partition */

/* Where the key's set begins, to be fetched while something else is done. */
static inline void *shelf_place(const struct control *control, const struct key *key)
{
    uint64_t set = bytes_get64(key->hash) >> SHELF_SET_SHIFT & (control->shelf_sets - 1);

    return (uint8_t *)control->shelf + set * SHELF_SET_SIZE;
}

/* Copy the key's record out.  False: it is not there, or somebody is writing it, or there is no memory for the value;
 * *ret_record and *buf then have no meaning. */
bool shelf_read(const struct control *control, const struct key *key, struct record *ret_record, freshet_buf *buf);

/* Put a copy on the shelf, if it is small enough: in its own place, a free one, or that of one that was not read
 * lately. */
void shelf_put(const struct control *control, const struct key *key, const struct record *record, const void *value);

/* Take the key's copy off, since the tier has another now.  One that somebody is just putting there may come after all,
 * until a younger one takes its place; it is as good as its judgement. */
void shelf_drop(const struct control *control, const struct key *key);

/* Is one found in the tier at this moment to come onto the shelf?  One in so many, drawn by the clock: hot keys come
 * soon all the same, and the others cost nothing. */
extern uint32_t shelf_rarity; /* a power of two; tests change it */
static inline bool shelf_wants(int64_t now_ns)
{
    return (now_ns >> 5 & (shelf_rarity - 1)) == 0;
}

#endif
