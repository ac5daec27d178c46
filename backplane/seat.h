/*
 * seat.h - the subscriber's seat: one process of a host listens and renews for all.
 *
 * Nothing depends on there being exactly one: all words of the page only rise, and two at once cost a few questions.
 * So the seat is taken from whoever does not do the work, not only from the dead.
 */
#ifndef BACKPLANE_SEAT_H
#define BACKPLANE_SEAT_H

#include <stdbool.h>
#include <stdint.h>

struct fleet;
struct loop_timer;

struct seat {
    struct loop_timer *timer;
    bool held;        /* by us */
    uint64_t holder;  /* whom we saw in it last */
    int64_t since_ns; /* since when, as far as we saw */
    int64_t
        patience_ns;  /* how long it may go without a proof; drawn anew each time, so that siblings do not all jump */
    int64_t asked_ns; /* when we last said a word, not holding it */
    uint64_t random;  /* for the jitter */
};

enum seat_move {
    SEAT_KEEP,  /* it is ours, and stays so */
    SEAT_BEGIN, /* it is ours, and we do not know it yet */
    SEAT_LEAVE, /* somebody else sits in it now */
    SEAT_TAKE,  /* it is empty, its holder is dead, or nothing has been proven for too long */
    SEAT_WATCH
};
struct seat_view {
    uint64_t us, holder;
    bool holder_dead, held, reached; /* reached: our own connection is up, so we could do better */
    int64_t now_ns, proven_ns, since_ns, patience_ns;
};
/* What to do about the seat?  Pure. */
enum seat_move seat_judge(const struct seat_view *view);

/* On the loop's thread. */
bool seat_init(struct fleet *fleet);
void seat_fini(struct fleet *fleet); /* leave it empty, so that a sibling takes it at its next look */
void seat_lost(struct fleet *fleet); /* the loop is lost: forget, touch nothing of it */

#endif
