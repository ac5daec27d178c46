/*
 * replay.h - requests replayed through the tier's policy, with logs that are only lists: what the policy can do, apart
 * from the tier that it is built into.  Beside it the two that it is judged by: LRU, which it must not fall below, and
 * Belady's optimum, which nobody reaches.
 *
 * Keys are numbers from 0.  A key is asked for, and filled when it is not there.
 */
#ifndef TESTS_REPLAY_H
#define TESTS_REPLAY_H

#include <test.h>

#include "../tools/trace.h"
#include <policy.h>
#include <stdlib.h>
#include <string.h>

struct replay_trace {
    uint32_t *keys;
    size_t count;
    uint32_t distinct;     /* keys are below it */
    const uint32_t *sizes; /* of each key's record; NULL: all of `size` */
    uint32_t size;
};

struct replay_result {
    uint64_t hits, hit_bytes, asked_bytes;
    uint64_t filled, copied; /* bytes */
    uint64_t held;           /* the most bytes that the logs ever held */
    uint64_t judged;         /* the most records judged for one fill */
};

static inline double replay_percent(const struct replay_trace *trace, const struct replay_result *result)
{
    return trace->count ? 100.0 * (double)result->hits / (double)trace->count : 0;
}

static inline void *replay_memory(size_t count, size_t size)
{
    void *memory = calloc(count + 1, size);

    EXPECT(memory != NULL);
    return memory;
}

static inline uint32_t replay_size(const struct replay_trace *trace, uint32_t key)
{
    return trace->sizes ? trace->sizes[key] : trace->size;
}

/* A step of SplitMix64, and a key's hash. */
static inline uint64_t replay_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline uint64_t replay_hash(uint32_t key)
{
    uint64_t state = key;

    return replay_random(&state);
}

/* ---- the policy ---- */

struct replay_log {
    uint32_t *keys; /* a ring with room for every key */
    uint64_t head, tail, bytes;
};

struct replay_state {
    struct policy policy;
    struct replay_log logs[POLICY_LOGS];
    uint32_t room;
    _Atomic uint8_t *touch;
    bool *here;
};

static inline void replay_append(struct replay_state *state, enum policy_log log, uint32_t key, uint64_t size)
{
    struct replay_log *to = &state->logs[log];

    to->keys[to->head++ % state->room] = key;
    to->bytes += size;
}

/* Take the next record from a tail and do with it as the policy says. */
static inline void replay_judge(struct replay_state *state, const struct replay_trace *trace,
                                struct replay_result *result)
{
    uint64_t bytes[POLICY_LOGS] = {state->logs[POLICY_SMALL].bytes, state->logs[POLICY_MAIN].bytes}, size;
    enum policy_log log = policy_next(&state->policy, bytes);
    struct replay_log *from = &state->logs[log];
    uint8_t touch;
    uint32_t key;

    EXPECT(log < POLICY_LOGS && from->tail < from->head); /* it never names an empty one */
    key = from->keys[from->tail++ % state->room];
    size = replay_size(trace, key);
    from->bytes -= size;
    touch = state->touch[key];
    if (policy_judge(&state->policy, replay_hash(key), size, log, &touch)) {
        state->touch[key] = touch;
        replay_append(state, POLICY_MAIN, key, size);
        result->copied += size;
    } else {
        state->here[key] = false;
    }
}

static inline void replay_fill(struct replay_state *state, const struct replay_trace *trace, uint32_t key,
                               struct replay_result *result)
{
    uint64_t size = replay_size(trace, key), judged = 0, held;
    uint8_t touch = 0;
    enum policy_log log = policy_admit(&state->policy, replay_hash(key), size, POLICY_LOGS, &touch);

    EXPECT(log < POLICY_LOGS);
    while (state->logs[0].bytes + state->logs[1].bytes + size > state->policy.tier &&
           state->logs[0].bytes + state->logs[1].bytes > 0) {
        replay_judge(state, trace, result);
        judged++;
    }
    state->touch[key] = touch;
    state->here[key] = true;
    replay_append(state, log, key, size);
    result->filled += size;
    held = state->logs[0].bytes + state->logs[1].bytes;
    result->held = held > result->held ? held : result->held;
    result->judged = judged > result->judged ? judged : result->judged;
}

/* Replay through the policy whose state is in `words`. */
static inline struct replay_result replay_policy(const struct replay_trace *trace, uint64_t tier, void *words)
{
    struct replay_result result = {0};
    struct replay_state state = {.room = trace->distinct + 1,
                                 .touch = replay_memory(trace->distinct, 1),
                                 .here = replay_memory(trace->distinct, sizeof(bool))};

    policy_open(&state.policy, words, tier);
    for (unsigned i = 0; i < POLICY_LOGS; i++)
        state.logs[i].keys = replay_memory(state.room, sizeof(uint32_t));
    for (size_t i = 0; i < trace->count; i++) {
        uint32_t key = trace->keys[i];

        result.asked_bytes += replay_size(trace, key);
        if (state.here[key]) {
            result.hits++;
            result.hit_bytes += replay_size(trace, key);
            policy_touch(&state.touch[key]);
        } else {
            replay_fill(&state, trace, key, &result);
        }
    }
    for (unsigned i = 0; i < POLICY_LOGS; i++)
        free(state.logs[i].keys);
    free((void *)state.touch);
    free(state.here);
    return result;
}

/* The same, with a new state. */
static inline struct replay_result replay(const struct replay_trace *trace, uint64_t tier)
{
    void *words = aligned_alloc(64, (policy_size(tier) + 63) / 64 * 64);
    struct replay_result result;

    EXPECT(words != NULL);
    memset(words, 0, policy_size(tier));
    result = replay_policy(trace, tier, words);
    free(words);
    return result;
}

/* ---- what it is judged by ---- */

static inline struct replay_result replay_lru(const struct replay_trace *trace, uint64_t tier)
{
    uint32_t end = trace->distinct; /* the ring's beginning and end */
    uint32_t *after = replay_memory(end, sizeof *after), *before = replay_memory(end, sizeof *before);
    bool *here = replay_memory(end, sizeof *here);
    struct replay_result result = {0};
    uint64_t held = 0;

    after[end] = before[end] = end;
    for (size_t i = 0; i < trace->count; i++) {
        uint32_t key = trace->keys[i], size = replay_size(trace, key), last;

        result.asked_bytes += size;
        if (here[key]) {
            result.hits++;
            result.hit_bytes += size;
            after[before[key]] = after[key];
            before[after[key]] = before[key];
        } else {
            for (held += size; held > tier && (last = before[end]) != end; held -= replay_size(trace, last)) {
                here[last] = false;
                before[end] = before[last];
                after[before[last]] = end;
            }
            here[key] = true;
        }
        after[key] = after[end];
        before[key] = end;
        before[after[end]] = key;
        after[end] = key;
    }
    free(after);
    free(before);
    free(here);
    return result;
}

/* Belady's, for records of one size of which `room` fit. */
static inline struct replay_result replay_optimum(const struct replay_trace *trace, uint32_t room)
{
    const struct trace keys = {.keys = trace->keys, .count = trace->count, .distinct = trace->distinct};
    int64_t hits = trace_optimum(&keys, room);

    EXPECT(hits >= 0);
    return (struct replay_result){.hits = (uint64_t)hits};
}

#endif
