/*
 * policy.h - who stays in the tier when room is needed.  Pure: it knows no LMDB, no clock and no record, only hashes,
 * bytes and what it was told before.
 *
 * Records lie in two logs, each read again at its tail when room is needed.  All new ones enter the *small* log, a
 * sixth of the bytes: most are never read again and are gone before they could push out anything.  What is worth it
 * is copied to the *main* log, and at that one's tail again.  Worth is learnt, not decreed: a record found at a tail
 * is of a class (which log; was it read since it was written there; how often was its key wanted in the past), and of
 * every class it is known which share was wanted again within a lap of the main log: of those that were kept, by their
 * mark at the next tail; of those that were dropped, by a sample of ghosts.  The classes whose share, by the byte, is
 * above a threshold are kept, and the threshold moves so that as many bytes leave as come to the main log's tail
 * *spent*: unread for a lap, or of a class that hardly ever returns.  So one rule is a queue with second chances where
 * only recent keys return, nearly a frozen set where keys return in a loop longer than the tier, and ranks by frequency
 * in between.
 *
 * How often a key was wanted is kept for some four times as many keys as there are records of 1 KiB: lines of 32 tags,
 * each with a level that grows by rarer and rarer steps (to 15, which is about 70 times) and is halved by a sweep that
 * never ends; a new key takes the place of the one that was wanted least, and longest ago.  Fills count, and laps of
 * the main log with a hit; a hit soon after the fill does not: it tells of one burst.
 *
 * A hit stores one byte at most, and none if the record is marked already.  Everything else is the writer's, one at a
 * time, in constant time a call.  The state lies in shared memory and may hold anything: every word is clamped where
 * it is read, and the worst that garbage does is a bad choice.  A new state is zeros.
 */
#ifndef CORE_POLICY_H
#define CORE_POLICY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum policy_log { POLICY_SMALL = 0, POLICY_MAIN, POLICY_LOGS };
#define POLICY_READ 0x80u /* in a record's touch byte: read since it was written to this log; below it, its class */

struct policy {
    _Atomic uint64_t *words; /* shared */
    uint64_t tier;           /* the bytes that the logs may hold together */
    uint32_t sets;           /* of ghosts, each a cache line */
    uint32_t lines;          /* of tags, the same */
    uint64_t holds;          /* the bytes that the logs do hold together: fewer in a pool */
    uint64_t near;           /* in a pool: so many bytes more would have kept whoever comes back that soon; else 0 */
    uint64_t returned, seen; /* since they were last set to zero: hits that those would have been; ghosts met for it */
};

/* Bytes of state for a tier of so many bytes: 1 % of it, and no less than 24 KiB. */
size_t policy_size(uint64_t tier);
/* Look at the state in `words`, policy_size(tier) bytes on a cache line's border.  Nothing is written. */
void policy_open(struct policy *policy, void *words, uint64_t tier);

/* In a pool: what the logs may hold now, and how near those must be that count as returned. */
void policy_share(struct policy *policy, uint64_t holds, uint64_t near);

/* A reader's part of a hit. */
static inline void policy_touch(_Atomic uint8_t *touch)
{
    uint8_t seen = atomic_load_explicit(touch, memory_order_relaxed);

    if (!(seen & POLICY_READ))
        atomic_store_explicit(touch, (uint8_t)(seen | POLICY_READ), memory_order_relaxed);
}

/* A record of `bytes` in all comes in.  `replaced`: the log where the record lies whose place it takes, void or not,
 * with *touch its touch byte; POLICY_LOGS when there is none, as after a miss.  The log that it is to be appended to,
 * with *touch its first touch byte. */
enum policy_log policy_admit(struct policy *policy, uint64_t hash, uint64_t bytes, enum policy_log replaced,
                             uint8_t *touch);

/* The log whose tail to look at next, of logs that hold so many bytes (dead ones too). */
enum policy_log policy_next(struct policy *policy, const uint64_t bytes[POLICY_LOGS]);

/* A record that may still be served was found at the tail of `log`.  True: append it to the main log, with *touch as
 * set here.  False: it leaves.  In the long run no more than POLICY_COPIES bytes are kept for one that leaves, and in a
 * row no more than the bytes of some 272 records of mean size, so whoever asks until there is room comes to an end. */
#define POLICY_COPIES 8u
bool policy_judge(struct policy *policy, uint64_t hash, uint64_t bytes, enum policy_log log, uint8_t *touch);

#endif
