/*
 * torture.h - what the tests share in which processes are killed, stopped and starved: a table of rows in shared
 * memory, as a database would have it, values that prove themselves, and workers that read and change rows until they
 * die.
 *
 * Only the owner of a row changes it: it first says so in `rows` (the database's commit), then tells the cache, and
 * only when that has said OK, in `told`.  So a read that begins later must answer at least `told`, whoever dies where.
 */
#ifndef TESTS_TORTURE_H
#define TESTS_TORTURE_H

#include <hosts.h>
#include <stdatomic.h>
#include <stdint.h>
#include <test.h>

#define TORTURE_ROWS    512u
#define TORTURE_WORKERS 32u
#define TORTURE_LARGEST 40000u

struct torture { /* shared by all processes of the test */
    _Atomic uint64_t rows[TORTURE_ROWS]; /* each row's version; 0: never written */
    _Atomic uint64_t told[TORTURE_ROWS]; /* the version that the cache has confirmed to know of */
    _Atomic uint64_t answers, hits, loads, changes, opens, wrong;
    _Atomic uint64_t failures[32]; /* calls that failed, by -result */
    _Atomic uint64_t longest_ns;   /* of the reads of who asks to be watched */
    _Atomic pid_t pids[TORTURE_WORKERS];
    _Atomic bool stop;
    _Atomic bool quiet; /* wrong answers are counted, and not told of */
    _Atomic uint64_t kills, first, second; /* the test's own */
    const char *dir;
    struct redis *redis; /* NULL: no fleet */
    uint64_t tier_size;
    unsigned workers;
};

struct torture *torture_open(const char *dir, struct redis *redis, uint64_t tier_size, unsigned workers);
freshet *torture_join(struct torture *torture); /* open the tier, and join the fleet if there is one; retries */

/* A value that names its key and version and carries a checksum; returns its size. */
size_t torture_value(unsigned row, uint64_t version, char *bytes);
/* The version of a value that is whole and of this row; 0: it is not. */
uint64_t torture_version(unsigned row, const void *bytes, size_t size);
size_t torture_key(unsigned row, char key[16]);

/* Load the row, or only get it, and hold the answer against `told`.  The result of the call. */
freshet_result torture_read(struct torture *torture, freshet *cache, unsigned row, bool load);
/* Whether this thread's last read was answered from the tier. */
extern _Thread_local bool torture_hit;
/* The owner's change: commit, then put or invalidate.  The result of the call. */
freshet_result torture_change(struct torture *torture, freshet *cache, unsigned row, bool put);

/* Read, change and open anew at random, for ever; in a child of its own. */
_Noreturn void torture_work(struct torture *torture, unsigned worker, uint64_t seed);
/* Fork the worker, noting its pid. */
void torture_spawn(struct torture *torture, unsigned worker, uint64_t seed);
/* Kill those that are noted and wait for their ends. */
void torture_end(struct torture *torture);
/* After all: nothing was wrong; who comes now fills and reads, within the size; no reader's slot is held for good. */
void torture_expect_sound(struct torture *torture);
/* Print what was done, in a line. */
void torture_print(const struct torture *torture, const char *what);

/* The value that so many thousandths of the sorted numbers are below. */
uint64_t torture_quantile(uint64_t *numbers, size_t count, unsigned per_mille);

#endif
