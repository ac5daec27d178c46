/*
 * hold.h - hold a thread at a named point of the library (core/step.h), or inside a loader, while others go on: an
 * interleaving that seldom happens becomes one that always does.
 *
 * One thread is held at a time.  The held thread goes on by itself after 20 s, so that a test whose claim fails ends.
 */
#ifndef TESTS_RACE_HOLD_H
#define TESTS_RACE_HOLD_H

#include <errno.h>
#include <hosts.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <step.h>
#include <string.h>
#include <test.h>
#include <time.h>

#define HOLD_S 20

/* Wait for a semaphore, but not for ever; false: in vain. */
static inline bool hold_wait_on(sem_t *semaphore)
{
    struct timespec end;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += HOLD_S;
    while (sem_timedwait(semaphore, &end) != 0)
        if (errno != EINTR)
            return false;
    return true;
}

/* ---- at a point ---- */

struct hold {
    _Atomic(const char *) point; /* where the next thread is to stop; NULL: nowhere */
    _Atomic bool anyone;         /* also the library's own threads */
    sem_t reached, go;
};

static struct hold hold;
static _Thread_local bool hold_this_thread;

static inline void hold_hook(const char *point)
{
    const char *wanted = hold.point;

    if (!wanted || strcmp(point, wanted) != 0 || !(hold.anyone || hold_this_thread))
        return;
    if (!atomic_compare_exchange_strong(&hold.point, &wanted, NULL))
        return; /* another thread was first */
    sem_post(&hold.reached);
    (void)hold_wait_on(&hold.go);
}

/* From now on: the next thread that comes to `point` stops there, if it called hold_me or `anyone`. */
static inline void hold_at(const char *point, bool anyone)
{
    if (!step_hook) {
        sem_init(&hold.reached, 0, 0);
        sem_init(&hold.go, 0, 0);
        step_hook = hold_hook;
    }
    hold.anyone = anyone;
    hold.point = point;
}

static inline void hold_me(void)
{
    hold_this_thread = true;
}

static inline void hold_reached(void)
{
    EXPECT(hold_wait_on(&hold.reached));
}

static inline void hold_go(void)
{
    sem_post(&hold.go);
}

/* ---- in a loader ---- */

/* A row of the database that stands behind the cache, whose reader is held after it has read. */
struct row {
    const char *_Atomic value; /* NULL: there is no such row */
    _Atomic unsigned reads;
    sem_t read, go;
};

static inline void row_init(struct row *row, const char *value)
{
    *row = (struct row){.value = value};
    sem_init(&row->read, 0, 0);
    sem_init(&row->go, 0, 0);
}

static inline freshet_result row_answer(const char *value, freshet_buf *buf)
{
    return value ? freshet_buf_set(buf, value, strlen(value)) : FRESHET_ABSENT;
}

/* Reads the row and stops before it answers. */
static inline freshet_result row_slow_loader(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    struct row *row = arg;
    const char *value = row->value;

    (void)request;
    row->reads++;
    sem_post(&row->read);
    return hold_wait_on(&row->go) ? row_answer(value, buf) : FRESHET_EIO;
}

static inline freshet_result row_loader(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    struct row *row = arg;

    (void)request;
    row->reads++;
    return row_answer(row->value, buf);
}

/* ---- a call on a thread of its own ---- */

struct call {
    pthread_t thread;
    freshet *cache;
    const char *key;
    struct row *row; /* NULL: a get */
    freshet_result result;
    char got[64];
};

static inline void *call_run(void *arg)
{
    struct call *call = arg;
    freshet_buf buf = {0};

    hold_me();
    if (call->row)
        call->result =
            freshet_load(call->cache, call->key, strlen(call->key), NULL, row_slow_loader, call->row, &buf, NULL);
    else
        call->result = freshet_get(call->cache, call->key, strlen(call->key), NULL, &buf, NULL);
    snprintf(call->got, sizeof call->got, "%.*s", (int)buf.size, buf.data ? (char *)buf.data : "");
    freshet_buf_free(&buf);
    return NULL;
}

static inline void call_begin(struct call *call, freshet *cache, const char *key, struct row *row)
{
    *call = (struct call){.cache = cache, .key = key, .row = row};
    EXPECT(pthread_create(&call->thread, NULL, call_run, call) == 0);
}

static inline freshet_result call_end(struct call *call)
{
    EXPECT(pthread_join(call->thread, NULL) == 0);
    return call->result;
}

/* ---- what must not be seen ---- */

/* Does a get, from the tier or from Redis, answer this very value? */
static inline bool gets_that(freshet *cache, const char *key, const char *value)
{
    char peeked[64], got[64];
    freshet_result tier = host_peek(cache, key, peeked, sizeof peeked), all = host_get(cache, key, got, sizeof got);

    return (tier == FRESHET_OK && strcmp(peeked, value) == 0) || (all == FRESHET_OK && strcmp(got, value) == 0);
}

/* The tier alone serves this value, soon at the latest (its proof may have lapsed on a busy machine). */
static inline bool tier_serves(freshet *cache, const char *key, const char *value)
{
    char got[64];

    return test_until(host_peek(cache, key, got, sizeof got) == FRESHET_OK && strcmp(got, value) == 0, 5000);
}

/* Bring the value from Redis into the tier. */
static inline void warm(freshet *cache, const char *key, const char *value)
{
    EXPECT(test_until(host_gets(cache, key, value), 5000));
    EXPECT(freshet_flush(cache, 5000) == FRESHET_OK);
    EXPECT(tier_serves(cache, key, value));
}

static inline freshet_stats stats_of(freshet *cache)
{
    return host_stats(cache);
}

/* All changes up to `position` are in the host's fences. */
static inline bool applied(freshet *cache, uint64_t position)
{
    return test_until(stats_of(cache).applied >= position, 10000);
}

/* An epoch begins with a clear of all that is older, and for a while after it every load asks the primary: over. */
static inline void epoch_is_old(struct redis *redis)
{
    const char *key = "freshet:{default:0}:head";
    char at[24];
    const void *argv[] = {"SETRANGE", key, at, "\0\0\0\0\0\0\0\0"}; /* when it was cleared, the head's last number */
    size_t sizes[] = {8, strlen(key), 0, 8};

    sizes[2] = (size_t)snprintf(at, sizeof at, "%lld", redis_int(redis, "STRLEN %s", key) - 8);
    (void)redis_ask(redis, 4, argv, sizes, NULL);
}

/* Where the last confirmed change of `key` stands. */
static inline uint64_t invalidate_at(freshet *cache, const char *key)
{
    freshet_change change = FRESHET_INIT(freshet_change);

    EXPECT_EQ(freshet_invalidate(cache, key, strlen(key), NULL, &change), FRESHET_OK);
    EXPECT(change.position > 0);
    return change.position;
}

#endif
