/*
 * turn.h - one loader a key and host: who misses while a sibling process loads waits for what it brings.
 *
 * A turn is only good manners.  Nobody believes anything because of it: who has waited looks into the tier and judges
 * what is there as any answer, and who has waited in vain loads on its own.  So a turn may be lost, taken
 * over or be another key's by a freak of hashing, and the worst of it is a load too many or a short wait.
 */
#ifndef CORE_TURN_H
#define CORE_TURN_H

#include <control.h>

#define TURN_LOOK_MS 20 /* between two looks at whether the holder lives */
#define TURN_LAND_MS 50 /* a landed load's way into the tier, or a claim's to its owner's name; longer: it hangs */

struct turn {
    struct control_turn *slot; /* NULL: none */
    uint64_t word;             /* which turn of the slot's it is */
    uint64_t owner;            /* whose process took it; a forked child is another's */
    int64_t unknown_ns;        /* since when its holder is seen to have no name */
};

enum turn_place {
    TURN_OURS,   /* load, then turn_land, turn_end */
    TURN_THEIRS, /* a sibling loads: turn_wait */
    TURN_NONE    /* the table is full: load without */
};

/* A key is missing in the tier.  `start`: the position that a load begun now is as old as; `fence`: the newest change
 * of the key.  A load that began below it is overtaken, and its turn becomes ours. */
enum turn_place turn_enter(struct control *control, const struct key *key, uint64_t start, uint64_t fence,
                           struct turn *ret_turn);

enum turn_news {
    TURN_GOES_ON,
    TURN_OVER,  /* look into the tier */
    TURN_MOVED, /* the same, and then enter anew: somebody has taken it over, or it is another one by now */
    TURN_LOST   /* its holder is dead, stopped, overtaken, or does not get its answer into the tier: turn_take */
};

/* Wait for a moment at most, or until the turn is over or the deadline (CLOCK_BOOTTIME) passed. */
enum turn_news turn_wait(struct turn *turn, uint64_t fence, int64_t deadline_ns);
/* Take a lost turn over; false when somebody was quicker: enter anew. */
bool turn_take(struct turn *turn, uint64_t start);
/* The answer is there, and on its way into the tier. */
void turn_land(const struct turn *turn);
/* It is in the tier, or will not be: let the others go on.  Once is enough, more does no harm; not of a child that
 * inherited it. */
void turn_end(struct turn *turn);

#endif
