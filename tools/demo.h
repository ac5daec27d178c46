/*
 * demo.h - what the demo's processes share: the trace, the history of the table, and the words they steer by.
 *
 * The demo is a program of five processes.  The first (demo.c) starts the others and Redis, says what is to be done,
 * and reports (demo_report.c).  Four workers (demo_worker.c), two a host, read and write.  All stand on one file of
 * shared memory (demo_history.c), which also holds each change ever made to the table with its times: that is what
 * every read is checked against.  Worker and first process know Freshet by its public headers only.
 *
 * Whatever a worker writes here it may die in the middle of (the demo kills one): single words, stored atomically, in
 * an order that is right wherever it ends.
 */
#ifndef TOOLS_DEMO_H
#define TOOLS_DEMO_H

#include <freshet.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define DEMO_CACHE "demo"
#define DEMO_HOSTS 2u
#define DEMO_WORKERS 4u /* two a host: worker w is of host w / 2 */
#define DEMO_WRITE_EVERY 20u
#define DEMO_TTL_S 60 /* of the naive side's entries */
#define DEMO_VALUE_MAX 256u
#define DEMO_PROBES_MAX 8192u
#define DEMO_SPANS 512u /* of how long reads take: eight a doubling */
#define DEMO_ASKER 0u   /* the worker that changes the probe's key */
#define DEMO_WATCHER 2u /* the one on the other host that sees it go */

/* The two caches under the same load: each with a table and a history of its own. */
enum demo_side { SIDE_FRESHET, SIDE_NAIVE, SIDES };

enum demo_mode { MODE_WAIT, MODE_LOAD, MODE_SWEEP, MODE_END };

/* What a worker counts; sums are over all of a phase. */
enum demo_counter {
    COUNT_READS,
    COUNT_TIER,
    COUNT_REDIS,
    COUNT_LOADS,
    COUNT_FAILED, /* reads without an answer, writes without a commit, calls that failed */
    COUNT_WRITES,
    COUNT_QUEUED,
    COUNT_OLD,    /* answers older than a change that was confirmed, by however little */
    COUNT_BEYOND, /* of them, older than allowed */
    COUNT_OWN,    /* answers older than a change confirmed on the reader's own host before it asked */
    COUNT_STALE,  /* reads that broke one of the last two */
    COUNT_CORRUPTED,
    COUNTERS
};

/* One change of one row.  The index of a change is its place in the history, from 1; 0 is none. */
struct demo_change {
    uint32_t version;
    uint32_t previous; /* change of the same row */
    uint32_t host;
    int64_t begin_ns;             /* just before COMMIT; all times are CLOCK_BOOTTIME */
    _Atomic int64_t end_ns;       /* just after; 0: not yet, or its writer died */
    _Atomic int64_t confirmed_ns; /* when the invalidation (naive: the DEL) had returned; 0: not, as far as is known */
};

enum demo_stage { STAGE_NONE, STAGE_COMMITTING, STAGE_INVALIDATING };

struct demo_worker {
    _Atomic int32_t ready;   /* its pid, once it can work */
    _Atomic uint32_t done;   /* the serial of the last phase that it has finished */
    _Atomic uint32_t stage;  /* enum demo_stage: where it is in a write */
    _Atomic uint32_t in_hand; /* the row that it writes */
    _Atomic uint32_t change; /* and the change */
    _Atomic uint64_t counts[COUNTERS];
    _Atomic int64_t oldest_ns; /* the largest age of an answer */
    _Atomic uint32_t spans[DEMO_SPANS];
};

enum demo_probe_state { PROBE_IDLE, PROBE_READY, PROBE_CALLED, PROBE_GONE };

/* Invalidation latency: one key at a time goes from the watcher's tier because the asker says so. */
struct demo_probe {
    _Atomic uint32_t on, state, number;
    _Atomic int64_t called_ns, gone_ns;
    _Atomic uint32_t valid; /* it went because of the change, not because the host could not prove itself fresh */
    _Atomic uint32_t count;
    int64_t latency_ns[DEMO_PROBES_MAX];
};

struct demo_shared {
    uint64_t requests, rows, changes_most, seed;
    uint32_t bound_ms;
    _Atomic uint32_t mode, side, serial; /* a new serial starts a phase */
    _Atomic uint64_t next, limit;        /* the next request, and where the phase ends */
    _Atomic uint32_t changes_used[SIDES];
    struct demo_worker worker[DEMO_WORKERS];
    struct demo_probe probe;
};

/* The shared file as one process sees it. */
struct demo {
    const char *dir;
    struct demo_shared *shared;
    size_t size;
    uint32_t *trace; /* row numbers, a request each */
    int32_t *ids;    /* a row's number -> its key in the trace */
    _Atomic uint32_t *newest[SIDES]; /* a row's newest change */
    struct demo_change *changes[SIDES];
};

/* ---- demo_history.c: the shared file, the table, the check ---- */

int64_t demo_now_ns(void);
uint64_t demo_mix(uint64_t x); /* a number that looks random, the same each run */
void demo_pause(long ns);
/* DIR/name, in one of a few static buffers. */
const char *demo_path(const struct demo *demo, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Make the shared file from a trace of big-endian 32-bit keys; says what is wrong on stderr. */
bool demo_create(struct demo *demo, const char *dir, const char *trace_path, uint64_t reads, uint32_t bound_ms);
bool demo_open(struct demo *demo, const char *dir);
void demo_close(struct demo *demo);

/* The row's value at a version: key, version, bytes that follow from both, checksum.  Returns its size. */
size_t demo_value(int32_t id, uint64_t version, uint8_t value[DEMO_VALUE_MAX]);

struct demo_table; /* the stand-in for a database: a row a key, in SQLite */
bool demo_table_create(const struct demo *demo, enum demo_side side);
struct demo_table *demo_table_open(const struct demo *demo, enum demo_side side);
void demo_table_close(struct demo_table *table);
/* Read a row; returns the value's size, 0 on failure. */
size_t demo_table_read(struct demo_table *table, uint32_t row, uint8_t value[DEMO_VALUE_MAX]);
/* Change a row and write the history; returns the change, 0 on failure. */
uint32_t demo_table_change(struct demo_table *table, uint32_t row, uint32_t host);

/* One read to check. */
struct demo_read {
    enum demo_side side;
    uint32_t row, host;
    freshet_source source;
    int64_t begin_ns;  /* before the call */
    int64_t judged_ns; /* the time that the answer's age is counted to */
    int64_t allowed_ns;
};
/* Check the value that the read returned against the history, and count. */
void demo_check(const struct demo *demo, struct demo_worker *worker, const struct demo_read *read, const void *value,
                size_t size);
void demo_count(struct demo_worker *worker, enum demo_counter counter);
/* Count how long a read took; and the time within which `part` of all counted were done. */
void demo_count_span(struct demo_worker *worker, int64_t ns);
int64_t demo_span(const struct demo *demo, double part);

/* ---- demo_redis.c: Redis, for the naive side and for mischief ---- */

struct demo_redis;
pid_t demo_redis_start(const struct demo *demo);
struct demo_redis *demo_redis_open(const struct demo *demo);
void demo_redis_close(struct demo_redis *redis);
/* A value's size, 0 when there is none, -1 on failure. */
int demo_redis_get(struct demo_redis *redis, const char *key, uint8_t value[DEMO_VALUE_MAX]);
bool demo_redis_setex(struct demo_redis *redis, const char *key, int ttl_s, const void *value, size_t size);
bool demo_redis_del(struct demo_redis *redis, const char *key);
/* How many subscribers were cut off, or heard it; -1 on failure. */
long long demo_redis_cut(struct demo_redis *redis);
long long demo_redis_publish(struct demo_redis *redis, const char *channel, const void *bytes, size_t size);
/* Wait for a message on the channel; its size, 0 when none came. */
size_t demo_redis_hear(const struct demo *demo, const char *channel, uint8_t *message, size_t most, unsigned ms);
/* The server's version, in `version`. */
bool demo_redis_version(struct demo_redis *redis, char version[32]);

/* ---- demo_worker.c ---- */

int demo_worker_main(const char *dir, unsigned number);

/* ---- demo_report.c: what is shown ---- */

/* A phase's sums. */
struct demo_sum {
    uint64_t count[COUNTERS];
    int64_t oldest_ns;
    int64_t p50_ns, p99_ns; /* of what a read takes */
    double seconds;
};

struct demo_latency {
    uint32_t count;
    double p50_ms, p99_ms;
};

struct demo_fault {
    const char *name;
    char note[240];
    bool happened; /* it had the effect that it should have */
    struct demo_sum sum;
};
#define DEMO_FAULTS 5u

struct demo_figures {
    uint32_t bound_ms;
    uint64_t rows, requests;
    struct demo_sum side[SIDES];
    struct demo_latency quiet, loaded; /* invalidation: nothing else running; under the full load */
    struct demo_fault fault[DEMO_FAULTS];
    uint64_t reads, stale, corrupted, failed; /* Freshet's, over everything */
};

/* 1234567 -> "1,234,567", in one of a few static buffers. */
const char *demo_commas(uint64_t number);
/* One line that says how far a phase is: rewritten on a terminal, else every few seconds. */
void demo_progress(const char *what, const struct demo_sum *sum, double part);
void demo_progress_end(void);
void demo_show_table(const struct demo_figures *figures);
void demo_show_fault(const struct demo_fault *fault);
bool demo_write_json(const struct demo_figures *figures, const char *path);

#endif
