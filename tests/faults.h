/*
 * faults.h - allocations and system calls that fail when a test says so, one at a time (faults.c).
 *
 * A library in front of the C library, so that what LMDB, hiredis and libsodium ask for is met too.  Only what goes by
 * a name of the C library is met; what that does within itself (a thread's stack) is not.
 */
#ifndef TESTS_FAULTS_H
#define TESTS_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

enum fault_kind {
    FAULT_NONE,
    FAULT_MEMORY, /* malloc, calloc, realloc, strdup and the like */
    FAULT_SYSTEM, /* open, mmap, ftruncate, fcntl, read and write, fsync, sockets, threads, randomness */
    FAULT_CLOCK   /* clock_gettime */
};

/* From now on count the calls of this kind, on all threads, and let the n-th fail (from 1; 0: none), or from the n-th
 * on every one until disarmed. */
void fault_arm(enum fault_kind kind, uint64_t n, bool on_and_on);
/* How many were counted; all goes well again. */
uint64_t fault_disarm(void);
/* From now on, keep here the name of the function that failed last ("": none); shared with whoever is to know it when
 * the process has crashed. */
void fault_name(char ret_name[32]);
/* Blocks of memory that are allocated and not freed at this moment; -1: a sanitizer stands before us, nothing is met.
 */
int64_t fault_blocks(void);
/* Note where each block comes from, from now on (at most 65,536); show on stderr who holds those that are left. */
void fault_trace(void);
void fault_show(void);

#endif
