/*
 * guard.h - database writes in progress, as the fleet knows them: begun and ended on the caller's own line, prolonged
 * by the loop's thread.  guard_begin, guard_left, guard_end and guard_drop are remote.h's operations of the same names.
 */
#ifndef BACKPLANE_GUARD_H
#define BACKPLANE_GUARD_H

#include <pthread.h>
#include <remote.h>

struct fleet;
struct loop_timer;

/* The guards that a process holds in a fleet. */
struct guards {
    pthread_mutex_t lock; /* the list, and what changes in a guard; never held while waiting for Redis */
    struct remote_guard *list;
    struct loop_timer *timer; /* the loop's thread */
};

void guards_init(struct guards *guards);
void guards_fini(struct guards *guards); /* the fleet goes: what is still held is lost */

/* ---- the loop's thread ---- */

bool guards_start(struct fleet *fleet);
void guards_stop(struct fleet *fleet);
void guards_lost(struct fleet *fleet);  /* the loop was lost: no answer will come any more */
void guards_turn(struct fleet *fleet);  /* prolong what is due */
void guards_hurry(struct fleet *fleet); /* connected again: prolong what was due in the meantime */

/* ---- any thread ---- */

freshet_result guard_begin(void *remote, const struct remote_guarding *guarding, int64_t deadline_ns,
                           struct remote_guard **ret_guard);
int64_t guard_left(struct remote_guard *guard);
freshet_result guard_end(void *remote, struct remote_guard *guard, uint64_t source_version, int64_t deadline_ns,
                         struct remote_confirm *ret_confirm);
void guard_drop(struct remote_guard *guard);

/* For how many ms a guard is in force that Redis granted or prolonged for `hold_ms` when it was asked at asked_ns: the
 * two clocks may go 0.1 % apart.  Pure. */
int64_t guard_left_of(int64_t asked_ns, uint32_t hold_ms, int64_t now_ns);

#endif
