/*
 * history.h - what was confirmed, and when, so that readers on every host can check what they get.
 *
 * One key, "k", whose values count up.  A writer notes the time when a change had been confirmed, as it saw it: later
 * rather than earlier.  A reader on another host must not get what was changed longer than the bound before its last
 * look at the clock (P1); a reader on the writer's own host must not get what was changed before it asked (P3).
 */
#ifndef TESTS_HISTORY_H
#define TESTS_HISTORY_H

#include <hosts.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <test.h>

#define HISTORY_MOST 200000u

struct history {
    unsigned bound_ms;
    _Atomic uint32_t row;                    /* what the database has */
    _Atomic uint32_t newest;                 /* the last one that was tried */
    _Atomic int64_t confirmed[HISTORY_MOST]; /* 0: not, or not yet */
    _Atomic uint64_t reads, tier_reads, too_late, not_own;
    _Atomic int64_t oldest_ns; /* the largest age met */
    _Atomic bool stop;
};

/* For every process of the test. */
static inline struct history *history_open(unsigned bound_ms)
{
    struct history *history = mmap(NULL, sizeof *history, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    EXPECT(history != MAP_FAILED);
    history->bound_ms = bound_ms;
    return history;
}

/* Change the key through `cache`: commit the next row, then put it or invalidate.  False: not confirmed. */
static inline bool history_change(struct history *history, freshet *cache, bool put)
{
    uint32_t next = history->newest + 1;
    char value[16];
    freshet_result result;
    bool confirmed;

    EXPECT(next < HISTORY_MOST - 1);
    snprintf(value, sizeof value, "%u", next);
    history->row = next;
    result = put ? host_put(cache, "k", value) : host_invalidate(cache, "k");
    confirmed = result == FRESHET_OK || result == FRESHET_GUARDED; /* too late by Redis's clock: it invalidates */
    EXPECT(confirmed || result == FRESHET_QUEUED);
    if (confirmed)
        history->confirmed[next] = test_now_ns();
    history->newest = next;
    return confirmed;
}

/* The database's row. */
static inline freshet_result history_loader(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    struct history *history = arg;
    char value[16];

    (void)request;
    return freshet_buf_set(buf, value, (size_t)snprintf(value, sizeof value, "%u", history->row));
}

/* When was the first change after `version` confirmed?  0: none was, as far as is known. */
static inline int64_t history_voided(const struct history *history, uint32_t version)
{
    for (uint32_t n = version + 1; n <= history->newest; n++)
        if (history->confirmed[n])
            return history->confirmed[n];
    return 0;
}

/* Read once, loading or not, and judge.  `own`: on the writer's host. */
static inline freshet_result history_read(struct history *history, freshet *cache, bool load, bool own)
{
    freshet_load_options load_options = FRESHET_INIT(freshet_load_options);
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    int64_t asked_ns = test_now_ns(), voided_ns;
    freshet_buf buf = {0};
    freshet_result result;

    load_options.deadline_ms = options.deadline_ms = 200;
    result = load ? freshet_load(cache, "k", 1, &load_options, history_loader, history, &buf, &answer)
                  : freshet_get(cache, "k", 1, &options, &buf, &answer);
    history->reads++;
    if (result == FRESHET_OK) {
        char value[16];
        uint32_t version;

        snprintf(value, sizeof value, "%.*s", (int)buf.size, (char *)buf.data);
        version = (uint32_t)strtoul(value, NULL, 10);
        EXPECT(version < HISTORY_MOST - 1);
        voided_ns = history_voided(history, version);
        if (voided_ns && answer.judged_at_ns - voided_ns > history->bound_ms * INT64_C(1000000)) {
            fprintf(stderr, "%u was served, from %d, %lld ms after its change was confirmed\n", version, answer.source,
                    (long long)(answer.judged_at_ns - voided_ns) / 1000000);
            history->too_late++;
        }
        if (voided_ns && own && asked_ns > voided_ns) {
            fprintf(stderr, "%u was served, from %d, on its writer's host\n", version, answer.source);
            history->not_own++;
        }
        if (voided_ns && answer.judged_at_ns - voided_ns > history->oldest_ns)
            history->oldest_ns = answer.judged_at_ns - voided_ns;
        history->tier_reads += answer.source == FRESHET_FROM_TIER;
    }
    freshet_buf_free(&buf);
    return result;
}

/* Change for a while; how many changes were confirmed. */
static inline unsigned history_work(struct history *history, freshet *cache, unsigned ms)
{
    int64_t end = test_now_ns() + ms * INT64_C(1000000);
    unsigned confirmed = 0;

    for (unsigned n = 0; test_now_ns() < end; n++) {
        confirmed += history_change(history, cache, n % 3 != 0);
        for (int pause = 0; pause < 5; pause++)
            test_pause();
    }
    return confirmed;
}

/* ---- a thread that reads until told to stop ---- */

struct history_reader {
    struct history *history;
    freshet *cache;
    bool own;
    pthread_t thread;
};

static inline void *history_reader_run(void *arg)
{
    struct history_reader *reader = arg;

    for (unsigned n = 0; !reader->history->stop; n++) {
        (void)history_read(reader->history, reader->cache, n % 8 == 7, reader->own);
        if (n % 4 == 0)
            test_pause();
    }
    return NULL;
}

static inline void history_reader_begin(struct history_reader *reader, struct history *history, freshet *cache,
                                        bool own)
{
    *reader = (struct history_reader){.history = history, .cache = cache, .own = own};
    EXPECT(pthread_create(&reader->thread, NULL, history_reader_run, reader) == 0);
}

static inline void history_reader_end(struct history_reader *reader)
{
    EXPECT(pthread_join(reader->thread, NULL) == 0);
}

/* Nobody was ever served what he must not get; and there was enough to see. */
static inline void history_expect_kept(const struct history *history)
{
    EXPECT_EQ(history->too_late, 0);
    EXPECT_EQ(history->not_own, 0);
    EXPECT(history->reads > 100 && history->tier_reads > 10);
}

#endif
