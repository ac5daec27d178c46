/*
 * owner.h - whose word of the control page is this, and does its owner live?
 *
 * A word that belongs to a process names it in its upper 49 bits: the process id with the process's start time, since
 * ids come again.  The lower OWNER_SHIFT bits are the word's own.
 */
#ifndef CORE_OWNER_H
#define CORE_OWNER_H

#include <stdbool.h>
#include <stdint.h>

#define OWNER_SHIFT 15
#define OWNER_MASK  (~(uint64_t)0 << OWNER_SHIFT)

/* This process as an owner, in a word's place; after fork() the child is another. */
uint64_t owner_self(void);

enum owner_life {
    OWNER_DEAD,    /* it runs nothing any more; nobody (an owner of 0) counts as dead */
    OWNER_STOPPED, /* SIGSTOP or a debugger holds it: alive, but nothing comes of it now */
    OWNER_RUNS,    /* or nothing else is known */
};
enum owner_life owner_look(uint64_t word);

/* Does the owner in this word live, stopped or not?  In doubt it does. */
bool owner_alive(uint64_t word);

/* The same for a walk over many words, which mostly have few owners. */
struct owner_census {
    uint64_t owner;
    bool alive;
};
bool owner_alive_still(struct owner_census *census, uint64_t word);

#endif
