/*
 * world.h - one run: what is planned for it, what has happened in it, and what must be true of it.
 *
 * A plan is drawn from the seed beforehand: operations for each client and faults, all numbered, so that a failing run
 * can be told again without those that did not matter.  check.c keeps the true history and judges every answer by it.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include "net.h"
#include "sim.h"

#include <freshet.h>

#define KEYS_MAX    5u
#define CLIENTS_MAX 2u /* of a process */
#define TAGS        3u /* two tags, of which each key has one, and a namespace that all are in */
#define EVENTS_MAX  256u

/* ---- the plan ---- */

enum op_kind {
    OP_GET,
    OP_LOAD,
    OP_WATCH,
    OP_INVALIDATE,
    OP_INVALIDATE_TWO,
    OP_PUT,
    OP_CLEAR,
    OP_GUARD,
    OP_TAGS,
    OP_SPACE,
    OP_KINDS
};

struct sim_op {
    unsigned number; /* bit in the mask */
    enum op_kind kind;
    unsigned place, client;
    int64_t gap_ns; /* before it */
    unsigned key, other;
    int64_t before_ns, after_ns; /* a load's, around its look at the database; a change's, around its commit */
    bool replica;                /* a load: at the database's replica, if it may */
    bool remove;                 /* a change: the row goes */
    bool strong;                 /* a change: wait for all hosts */
    bool safe;                   /* a change: wait for a replica of Redis */
    bool follow;                 /* a read: with the token of the newest change that anybody was told of */
    bool latest;                 /* a read: what the master has now */
    uint32_t ttl_ms, bound_ms, hold_ms, ticket_ms;
    /* what came of it */
    unsigned word; /* whose token it reads with, + 1 */
    int64_t begun;
    unsigned token;              /* a load's or put's; 0: none */
    uint64_t version[KEYS_MAX];  /* that it committed; 0: none */
    int64_t ran[KEYS_MAX];       /* when Redis ran its change; 0: not */
    unsigned server;             /* that took its guard */
    unsigned change[KEYS_MAX];   /* the number of its change + 1; 0: none */
    int64_t guarded[KEYS_MAX];   /* when it began the guard */
    unsigned begun_by[KEYS_MAX]; /* the number of that change + 1 */
};

enum fault_kind {
    FAULT_CUT,
    FAULT_SLOW,
    FAULT_RESET,
    FAULT_KILL,
    FAULT_STOP,
    FAULT_UNREPLICATED,
    FAULT_FAILOVER,
    FAULT_REBOOT,
    FAULT_PAUSE,
    FAULT_FULL,
    FAULT_FLUSH,
    FAULT_TRIM,
    FAULT_EVICT,
    FAULT_REDIS_CLOCK,
    FAULT_HOST_CLOCK,
    FAULT_SCRIPTS,
    FAULT_KILL_PUBSUB,
    FAULT_ATTACK,
    FAULT_KINDS
};
extern const char *const fault_names[FAULT_KINDS];

struct fault {
    unsigned number;
    enum fault_kind kind;
    int64_t at, lasts;
    unsigned host, place;
    uint64_t chance; /* whatever else it needs */
};

enum attack { ATTACK_NONE, ATTACK_PUBLISH, ATTACK_WRITE };

struct plan {
    uint64_t seed;
    enum attack attack;
    unsigned hosts, places, clients, keys, partitions;
    uint32_t bound_ms, deadline_ms;
    bool alone; /* one host without a fleet */
    bool serve_stale, sources, tags;
    int64_t ends;           /* no fault begins later */
    int64_t replica_lag_ns; /* of the database */
    int64_t replication_ns; /* Redis's */
    int64_t latency_ns;
    double spikes, duplicates, losses, kills, pauses;
    unsigned place_host[SIM_PROCESSES_MAX];
    struct sim_op ops[EVENTS_MAX];
    unsigned op_count;
    struct fault faults[EVENTS_MAX];
    unsigned fault_count;
    bool left_out[2 * EVENTS_MAX]; /* by an operation's or fault's number */
};

bool plan_has(enum fault_kind kind); /* the run's */
void plan_make(struct plan *plan, uint64_t seed);

/* ---- figures, of all runs together (in memory that the runs share) ---- */

struct figures {
    uint64_t runs, reads, tier, redis, loader, joined, stale, misses, absents;
    uint64_t guards, guards_lost, guards_refused, strong, waited_out, safe, followed, latest;
    uint64_t changes, queued, outdated, clears, puts, fills, refused;
    uint64_t faults[FAULT_KINDS], epochs, finals, looked;
    uint64_t oldest_permille; /* the greatest age seen of something void, in thousandths of its bound */
    uint64_t steps, trace;
    /* of the last run */
    bool failed;
    char why[600];
};
extern struct figures *figures;

/* ---- the run ---- */

struct row_commit {
    int64_t at;
    uint64_t version;
    bool absent;
};

struct world {
    struct plan *plan;
    bool telling; /* print what happens */
    const char *keyring;
    struct sim_host hosts[SIM_HOSTS_MAX];
    struct sim_process *processes[SIM_PROCESSES_MAX];
    unsigned next_op[SIM_PROCESSES_MAX][CLIENTS_MAX];
    bool done[SIM_PROCESSES_MAX][CLIENTS_MAX]; /* all its operations */
    unsigned master;
    bool replicating;
    struct row_commit commits[KEYS_MAX][EVENTS_MAX];
    unsigned commit_count[KEYS_MAX];
    bool calm; /* no faults any more */
    unsigned finals_due;
};
extern struct world world;

void world_prepare(void); /* once a program */
/* Run a plan; the figures tell of it. */
void world_run(struct plan *plan, bool telling, const char *place, const char *keyring);
void world_start_process(unsigned place);
void world_fault(struct fault *fault);
void world_calm(void); /* all faults end */
bool world_settled(void);
const char *world_key(unsigned key, size_t *ret_size);
const char *world_tag(unsigned tag);
bool world_tagged(unsigned key, unsigned tag);
/* Say what happens, if anybody wants to know. */
void world_tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- the truth ---- */

void check_start(void);
/* A command was run by a server (net.h). */
void check_ran(unsigned server, struct sim_op *op, int argc, const char *const *argv, const size_t *sizes,
               const struct redis_reply *reply);
void check_replicated(unsigned replica, unsigned master); /* it has what the master had at its offset */
void check_rebooted(unsigned server);
/* A value comes to be: the load begins now, or the put is about to be sent.  The number to put into it. */
unsigned check_value(unsigned key, bool put, struct sim_op *op);
void check_value_is(unsigned token, uint64_t version, bool absent);
/* The token to read with, of the newest change of this key; NULL: there is none yet. */
const char *check_token(struct sim_op *op);
/* A call has come back. */
void check_read(struct sim_op *op, freshet_result result, const freshet_buf *buf, const freshet_answer *answer,
                bool loaded);
void check_changed(struct sim_op *op, freshet_result result, const freshet_change *change);
/* A row is committed under a guard that is surely held: whatever becomes of its holder, nobody may stay behind. */
void check_guarded(const struct sim_op *op, unsigned key);
/* A guard has ended; `sent`: its end is confirmed. */
void check_guard(struct sim_op *op, freshet_result result, bool sent);
/* All is calm: is this what it must be? */
void check_final(unsigned place, unsigned key, freshet_result result, const freshet_buf *buf);
void check_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t check_position(unsigned partition); /* the newest that was confirmed */
uint64_t check_epoch(void);

/* ---- somebody without a key ---- */

void attack_start(uint64_t seed);
void attack_sees(const void *message, size_t size);
void attack_now(void);

#endif
