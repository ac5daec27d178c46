/*
 * sim.h - the simulated world: true time, chance, events, fibers, hosts and processes.
 *
 * Everything runs in one thread.  A simulated thread is a fiber, which runs until it waits; a simulated process is the
 * fibers and connections that belong to it; a host is a clock, a tier and the processes on it.  True time stands still
 * while a fiber runs and leaps to the next event when all wait.  All that may differ between two runs is drawn from the
 * run's seed, so a seed is a run.
 */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_MS            INT64_C(1000000) /* ns */
#define SIM_S             (1000 * SIM_MS)
#define SIM_NEVER         INT64_MAX
#define SIM_HOSTS_MAX     3u
#define SIM_PROCESSES_MAX 6u
#define SIM_STATIC_LOCKS  8u
#define SIM_REAL_US       INT64_C(1700000000000000) /* the true time at the run's start, us since 1970 */

/* ---- chance: streams apart, so that one more draw of one kind does not change all others ---- */

struct sim_random {
    uint64_t state;
};
uint64_t sim_draw(struct sim_random *random);
uint64_t sim_below(struct sim_random *random, uint64_t most); /* 0 to most - 1 */
bool sim_chance(struct sim_random *random, double chance);
int64_t sim_between(struct sim_random *random, int64_t least, int64_t most);
struct sim_random sim_stream(uint64_t seed, uint64_t number);

/* ---- time and events ---- */

extern int64_t sim_now;       /* ns since the run's start */
extern uint64_t sim_trace;    /* a hash of everything that happened */
extern bool sim_over;         /* a violation or the end: the scheduler returns */
void sim_note(uint64_t what); /* into the trace */

typedef void (*sim_event_fn)(void *arg, uint64_t number);
/* On the scheduler's own stack: must not wait.  What is due at one time comes in an order by chance. */
void sim_at(int64_t when, sim_event_fn fn, void *arg, uint64_t number);
/* Run events until sim_over, or nothing is left, or `end` has come. */
void sim_run(int64_t end);
void sim_start(uint64_t seed, double preempt_chance);

/* ---- hosts and processes ---- */

struct sim_tier;
struct sim_conn;
struct sim_fiber;
struct sim_op;

struct sim_host {
    unsigned number;
    int64_t boot_base;  /* CLOCK_BOOTTIME at the run's start */
    int64_t drift_ppm;  /* how much faster its clock runs */
    int64_t real_shift; /* CLOCK_REALTIME's error, ns */
    int64_t cut_until;  /* nothing comes through between it and Redis */
    int64_t slow_until, slow_ns;
    unsigned route; /* the server that new connections reach */
    int dirfd;      /* of its tier's directory */
    char path[64];
    struct sim_tier *maps;
    struct sim_process *opening; /* who holds the directory's lock */
};

struct sim_lock { /* a mutex of a static variable, apart for each process */
    const void *mutex;
    struct sim_fiber *owner;
};

struct sim_process {
    unsigned number; /* of its place */
    int pid;         /* another each time it starts */
    struct sim_host *host;
    bool dead, stopped, entered;
    struct sim_fiber *fibers, *deferred;
    struct sim_conn *conns;
    struct sim_lock locks[SIM_STATIC_LOCKS];
    void *cache; /* the client's own: its freshet */
};

int64_t sim_boot_ns(const struct sim_host *host, int64_t at); /* what CLOCK_BOOTTIME shows at a true time */
int64_t sim_true_ns(const struct sim_host *host, int64_t boot_ns);

struct sim_process *sim_process_start(struct sim_host *host, unsigned number);
struct sim_process *sim_process_of(int pid);        /* NULL: no such process */
void sim_process_kill(struct sim_process *process); /* at the point where each of its fibers waits just now */
void sim_process_stop(struct sim_process *process);
void sim_process_continue(struct sim_process *process);

/* ---- fibers ---- */

struct sim_fiber {
    struct sim_fiber *next; /* of the process */
    struct sim_fiber *wait_next;
    struct sim_fiber *deferred_next;
    struct sim_process *process;
    void *(*fn)(void *arg);
    void *arg;
    char *stack;
    void *context; /* fiber.c's */
    bool done, dead, waiting, queued, woken;
    uint64_t wait_number;
    struct sim_op *op; /* what it is doing, for the checker */
    /* what the judge said last, for the checker */
    int judged;
    uint64_t judged_epoch, judged_position, page_before, page_after;
};

extern struct sim_fiber *sim_self; /* NULL: the scheduler */

struct sim_fiber *sim_spawn(struct sim_process *process, void *(*fn)(void *arg), void *arg);
/* Wait until woken or until a true time; false: that time has come. */
bool sim_wait(int64_t until);
void sim_wake(struct sim_fiber *fiber); /* as often as you like; NULL is welcome */
void sim_sleep(int64_t ns);             /* of true time */
void sim_pause(void);                   /* perhaps another fiber runs now, perhaps for long */

/* Those who wait for one thing. */
struct sim_waiters {
    struct sim_fiber *first;
};
bool sim_wait_in(struct sim_waiters *waiters, int64_t until);
void sim_wake_all(struct sim_waiters *waiters);
void sim_wake_one(struct sim_waiters *waiters);

#endif
