/*
 * bench_reads.h - the same records in a tier and in raw LMDB, and slices of reads on either side: what every bench of
 * hits begins with.
 */
#ifndef TOOLS_BENCH_READS_H
#define TOOLS_BENCH_READS_H

#include "bench.h"

#define READS_SLICE    100000u    /* operations between turns */
#define READS_SEQUENCE (1u << 20) /* keys that are drawn */

struct reads {
    freshet *cache;
    struct raw_map *map;
    struct bench_records records;
    uint32_t *sequence;      /* the slices walk through it, so that no two are alike */
    uint64_t room;           /* bytes of either map */
    char host[64], raw[320]; /* directories: of the tier in the run, and of LMDB */
    freshet_buf buf;
    unsigned char *raw_buf;
    uint64_t sum; /* of what was read: nothing may be left out as unused */
};

/* One kind of data. */
struct reads_case {
    uint32_t count, size;
    const char *name; /* "100k/64B" */
    unsigned how;     /* enum bench_how */
    double most;      /* the ratio that is promised */
    uint64_t room;    /* bytes of the tier and of LMDB's map; 0: so many that neither is ever short of any */
};

/* Fill both sides with the same records, in the same order; false: said why. */
bool reads_start(struct bench *bench, struct reads *reads, const struct reads_case *what);
/* In a child that was forked with them: LMDB's environment anew, the inherited one left alone.  (The tier opens
 * itself.) */
bool reads_again(struct bench *bench, struct reads *reads);
/* Draw the keys of the slices to come. */
bool reads_draw(struct bench *bench, struct reads *reads, bool zipf);
/* Close, and remove what it took on memory. */
void reads_end(const struct bench *bench, struct reads *reads);

/* Where a slice begins in the sequence. */
const uint32_t *reads_at(const struct reads *reads, unsigned slice);
/* Look up in turn on this thread; CPU ns an operation.  BENCH_AGAIN: the tier did not answer each. */
double reads_tier(freshet *cache, const struct bench_records *records, const uint32_t *sequence, size_t count,
                  freshet_buf *buf, uint64_t *sum);
/* As bench_side, with a struct reads. */
double reads_ours(void *arg, unsigned slice);
double reads_raw(void *arg, unsigned slice);

#endif
