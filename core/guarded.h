/*
 * guarded.h - guards of a host without a fleet: a fixed table in the control page (guarded.c tells how it stays exact).
 */
#ifndef CORE_GUARDED_H
#define CORE_GUARDED_H

#include <control.h>

/* One key of a guard: its slot, and the word that it has there for as long as the guard is held. */
struct guarded {
    uint32_t slot;
    uint64_t word;
};

/* Guard all keys until `deadline_ms` (CLOCK_BOOTTIME), or none: false, a key's row is full. */
bool guarded_begin(struct control *control, const uint8_t (*hashes)[16], uint32_t count, int64_t deadline_ms,
                   struct guarded *ret_guarded);
/* Put the deadline off.  False: one of them was not held any more; the others are put off all the same. */
bool guarded_prolong(struct control *control, struct guarded *guarded, uint32_t count, int64_t deadline_ms);
/* Let go of all.  False: one of them was not held any more. */
bool guarded_end(struct control *control, struct guarded *guarded, uint32_t count);
/* For how many ms all of them are in force; 0: one has ended. */
int64_t guarded_left(const struct control *control, const struct guarded *guarded, uint32_t count);

/* Does somebody guard the key now?  To be asked after the position was read or taken that the answer is to count from:
 * a guard that comes later raises the key's fence above it. */
bool guarded_is(const struct control *control, const struct key *key);

#endif
