/*
 * bench.h - what the measurements share: where they run, the keys, the statistics, the table.
 *
 * Every figure stands beside its floor, measured in the same process and the same run, the two sides taking turns in
 * slices; a machine that slows down for a second slows both.  When the floor itself moved, the figure is printed and
 * not judged.
 */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tool.h"

#define BENCH_KEY        32u /* bytes of every key */
#define BENCH_ROWS       40
#define BENCH_SLICES_MAX 64
#define BENCH_THREADS    8    /* that fill a joined tier: each record is a question to Redis, or two */
#define BENCH_MOVED      1.30 /* a floor whose spread is above this proves nothing */

#define BENCH_AGAIN      (-2.0) /* what a side says of a slice that shows nothing and is to be measured again */

enum bench_aim { /* what is promised, of the ratio or of our own figure */
    BENCH_AIM_NONE = 0,
    BENCH_AIM_MOST,       /* ratio */
    BENCH_AIM_LEAST,      /* ratio */
    BENCH_AIM_OURS_MOST,  /* ours; not judged when the floor itself is above it: then the machine is not fit */
    BENCH_AIM_OURS_LEAST, /* ours, likewise */
};

struct bench_row {
    char name[48];
    const char *unit;
    double ours, floor, spread; /* and the floor's own spread; 1: it was counted and cannot move */
    enum bench_aim aim;
    double bound;
};

struct bench {
    struct tool *tool;
    const char *name;
    char dir[256]; /* all that the run makes is in it */
    char keyring[288];
    char socket[288], url[320]; /* the private Redis; "" when there is none */
    pid_t server;
    struct bench_row rows[BENCH_ROWS];
    unsigned rows_count;
};

/* Each in its file; false: it could not be measured, and that was said (or a signal came). */
bool bench_get(struct bench *bench);
bool bench_get_hot(struct bench *bench);
bool bench_get_two(struct bench *bench);
bool bench_get_beside(struct bench *bench);
bool bench_hit(struct bench *bench);
bool bench_fetch(struct bench *bench);
bool bench_change(struct bench *bench);
bool bench_invalidate(struct bench *bench);
bool bench_fence(struct bench *bench);
bool bench_fill(struct bench *bench);
bool bench_memory(struct bench *bench);
bool bench_strong(struct bench *bench);
bool bench_evict(struct bench *bench); /* shows its own table, and adds no rows */

/* Say why a run ends early; always false. */
bool bench_stop(const struct bench *bench, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool bench_stop_result(const struct bench *bench, freshet_result result, const char *what);
/* One line to stderr about what is being done, for who waits; not with --json. */
void bench_progress(const struct bench *bench, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A row in ns whose ratio is to be at most `most`; 0: nothing is promised. */
struct bench_row *bench_row_add(struct bench *bench, double most, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void bench_row_aim(struct bench_row *row, enum bench_aim aim, double bound, const char *unit);

/* One side's slice: its figure, < 0: failed, BENCH_AGAIN. */
typedef double (*bench_side)(void *arg, unsigned slice);
/* Let both sides take turns, who begins changing, and set the row's medians and spread; a first slice only warms up. */
bool bench_pair(struct bench *bench, struct bench_row *row, bench_side ours, bench_side floors, void *arg);
unsigned bench_slices(const struct bench *bench);
/* Two rows, NAME/p50 and NAME/p99, of `count` times each in the order in which they were taken; their spread is that of
 * the medians of the floor's slices. */
void bench_rows_times(struct bench *bench, const char *name, double most, double most_tail, double *ours,
                      double *floors, size_t count, size_t slice);

/* ---- the private Redis, and hosts on it (bench_host.c) ---- */

bool bench_server_start(struct bench *bench); /* false: there is none on the PATH; nothing was said */
void bench_server_stop(struct bench *bench);
enum bench_how { BENCH_ALONE = 0, BENCH_JOINED = 1 };
/* A cache in the directory `host` of the run; NULL: said why. */
freshet *bench_open(struct bench *bench, const char *host, uint64_t tier_size, unsigned how);

struct bench_records {
    char (*keys)[BENCH_KEY];
    uint32_t count;
    uint32_t size; /* of a value */
};
bool bench_records_make(struct bench_records *records, uint32_t count, uint32_t size, uint64_t seed);
/* The key of record `i`, where `*seed` went through those before it. */
void bench_key(uint64_t *seed, uint32_t i, char ret_key[BENCH_KEY]);
void bench_records_free(struct bench_records *records);
/* The value of record `i`: its number, then bytes that follow from it. */
void bench_value(const struct bench_records *records, uint32_t i, unsigned char *ret_value);
/* Load them all by several threads, until the tier (and Redis, when joined) holds every one.  By freshet_load: a put
 * raises its key's fence, and of many more keys than fence slots the later puts would void the earlier records. */
bool bench_load(struct bench *bench, freshet *cache, const struct bench_records *records);

/* ---- another process (bench_peer.c) ---- */

struct bench_peer {
    pid_t pid;
    int fd;
};
/* Fork one that runs `run` and ends with its socket or its parent; false: said why. */
bool bench_peer_start(struct bench *bench, struct bench_peer *peer, void (*run)(struct bench *bench, void *arg, int fd),
                      void *arg);
void bench_peer_stop(struct bench_peer *peer);
/* Orders and answers of a fixed size; false: the other end is gone, or, for who hears an answer, silent for half a
 * minute. */
bool bench_peer_say(int fd, const void *words, size_t size);
bool bench_peer_hear(int fd, void *ret_words, size_t size);
bool bench_peer_next(int fd, void *ret_words, size_t size); /* an order: wait for as long as it takes */

/* ---- numbers (bench.c) ---- */

int64_t bench_cpu_ns(void);  /* this thread's */
int64_t bench_wall_ns(void); /* CLOCK_BOOTTIME: the same in every process */
int64_t bench_process_ns(void); /* CPU time of all threads of this process */
uint64_t bench_random(uint64_t *state);
/* Of n > 0 values, which are put in order: the value below which `share` of them lie. */
double bench_quantile(double *values, size_t n, double share);
/* How far they moved: third quartile over first. Puts them in order. */
double bench_spread(double *values, size_t n);
/* `count` numbers below n, Zipf with exponent 0.99 (0 the most frequent) or uniform; NULL: no memory. */
uint32_t *bench_sequence(uint32_t n, size_t count, bool zipf, uint64_t seed);

/* ---- the floors: nothing but the foreign library itself ---- */

struct raw_map; /* bench_lmdb.c: an LMDB environment with the tier's flags */
struct raw_map *raw_map_open(const char *dir, uint64_t size); /* made if absent; NULL: failed */
void raw_map_close(struct raw_map *map);
/* Put record `i`, and commit what was put since the last commit if asked. */
bool raw_map_put(struct raw_map *map, const struct bench_records *records, uint32_t i, const unsigned char *value,
                 bool commit);
/* Renew + get + memcpy + reset. */
bool raw_map_get_one(struct raw_map *map, const char *key, unsigned char *buf);
/* Look up in turn. The CPU time taken, ns; < 0: one was not there. */
int64_t raw_map_get(struct raw_map *map, const struct bench_records *records, const uint32_t *sequence, size_t count,
                    unsigned char *buf, uint64_t *sum);

bool raw_map_commit(struct raw_map *map);
/* Delete a record within the same transaction as the puts. */
bool raw_map_drop(struct raw_map *map, const struct bench_records *records, uint32_t i);

struct raw_table; /* bench_table.c: a seqlock table with SipHash */
struct raw_table *raw_table_open(uint32_t records, uint32_t value_size); /* NULL: no memory */
void raw_table_close(struct raw_table *table);
bool raw_table_put(struct raw_table *table, const struct bench_records *records, uint32_t i,
                   const unsigned char *value);
/* As raw_map_get. */
int64_t raw_table_get(struct raw_table *table, const struct bench_records *records, const uint32_t *sequence,
                      size_t count, unsigned char *buf, uint64_t *sum);

#define RAW_WORDS_MAX 32u
struct raw_script { /* a call of a script, word by word from "EVALSHA" on */
    int count;
    char *words[RAW_WORDS_MAX];
    size_t sizes[RAW_WORDS_MAX];
};

struct raw_redis; /* bench_redis.c: a blocking hiredis connection on the unix socket */
struct raw_redis *raw_redis_open(const char *socket, unsigned timeout_ms); /* NULL: failed */
void raw_redis_close(struct raw_redis *redis);
bool raw_redis_set(struct raw_redis *redis, const char *key, size_t key_size, const void *value, size_t size);
/* The value copied to buf (size bytes of room); its size, < 0: none. */
int64_t raw_redis_get(struct raw_redis *redis, const char *key, size_t key_size, void *buf, size_t size);
/* Run the script by its hash, with these words behind it; false: it was refused. */
bool raw_redis_script(struct raw_redis *redis, const struct raw_script *script);
/* Watch what others send: from raw_redis_watch on, the next EVALSHA that comes by is taken down. */
bool raw_redis_watch(struct raw_redis *redis);
bool raw_redis_overhear(struct raw_redis *redis, struct raw_script *ret_script);
void raw_script_free(struct raw_script *script);
bool raw_redis_publish(struct raw_redis *redis, const char *channel, const void *data, size_t size);
bool raw_redis_subscribe(struct raw_redis *redis, const char *channel);
/* Wait for a message of just this size. */
bool raw_redis_next(struct raw_redis *redis, void *ret_message, size_t size);

/* bench_sign.c: Ed25519 with one key pair, drawn by raw_sign_start before any fork. */
#define RAW_SIGNATURE 64u
bool raw_sign_start(void);
bool raw_sign(const unsigned char *message, size_t size, unsigned char ret_signature[RAW_SIGNATURE]);
bool raw_verify(const unsigned char *message, size_t size, const unsigned char signature[RAW_SIGNATURE]);

#endif
