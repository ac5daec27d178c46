/*
 * keeper.h - prolongs the guards of this process on a host without a fleet: a thread that sleeps till the next is due.
 */
#ifndef CORE_KEEPER_H
#define CORE_KEEPER_H

#include <guarded.h>

struct keeper;

/* A guard in its care. */
struct kept {
    struct kept *next;
    struct guarded *guarded;
    uint32_t count, hold_ms;
    bool fixed; /* only looked after, not prolonged */
    bool lost;
    int64_t due_ns;
};

freshet_result keeper_open(struct keeper **ret_keeper, struct control *control);
void keeper_close(struct keeper *keeper); /* waits for the thread; NULL is welcome */

/* From now on; FRESHET_ENOMEM when there is no thread to be had. */
freshet_result keeper_add(struct keeper *keeper, struct kept *kept);
/* No longer: let go of its slots.  True when it was held until now. */
bool keeper_end(struct keeper *keeper, struct kept *kept);
/* ms that it is in force; 0: lost. */
int64_t keeper_left(struct keeper *keeper, const struct kept *kept);

#endif
