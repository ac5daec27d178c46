/* policy_test.c - who stays: what a scan, a loop, a burst and a shift do to the tier, judged beside LRU and the
 * optimum; and that no state, however damaged, does more than choose badly. */
#include <replay.h>

#define ROOM 1000u /* records in the tier */
#define SIZE 1024u

static struct replay_trace trace_new(size_t count, uint32_t distinct)
{
    test_one_thread();
    return (struct replay_trace){.keys = replay_memory(count, sizeof(uint32_t)), .distinct = distinct, .size = SIZE};
}

static void ask(struct replay_trace *trace, uint32_t key)
{
    EXPECT(key < trace->distinct);
    trace->keys[trace->count++] = key;
}

/* The share of the requests that hit, in percent. */
static double ours(const struct replay_trace *trace)
{
    struct replay_result result = replay(trace, (uint64_t)ROOM * SIZE);

    EXPECT(result.held <= (uint64_t)ROOM * SIZE);
    EXPECT(result.copied <= POLICY_COPIES * result.filled);
    return replay_percent(trace, &result);
}

static double lru(const struct replay_trace *trace)
{
    struct replay_result result = replay_lru(trace, (uint64_t)ROOM * SIZE);

    return replay_percent(trace, &result);
}

static double optimum(const struct replay_trace *trace)
{
    struct replay_result result = replay_optimum(trace, ROOM);

    return replay_percent(trace, &result);
}

/* A rank below `n` whose weight is about 1 / (rank + 1): the exponent of the uniform number draws it. */
static uint32_t zipf(uint64_t *random, uint32_t n)
{
    double point = (double)(replay_random(random) >> 11) * 0x1p-53, most = 1;
    uint32_t rank = 0;

    for (uint32_t i = n; i > 1; i /= 2)
        most++;
    for (point *= most; point >= 1; point--) /* each doubling of the rank weighs the same */
        rank = 2 * rank + 1;
    rank += (uint32_t)(point * (rank + 1));
    return rank < n ? rank : n - 1;
}

TEST(the_judges_of_the_policy_are_right)
{
    struct replay_trace trace = trace_new(12, 5);
    static const uint32_t keys[] = {0, 1, 2, 3, 0, 1, 4, 0, 1, 2, 3, 4}; /* Belady's own example */
    struct replay_result result;

    for (size_t i = 0; i < 12; i++)
        ask(&trace, keys[i]);
    result = replay_lru(&trace, UINT64_C(3) * SIZE);
    EXPECT_EQ(result.hits, 2);
    result = replay_lru(&trace, UINT64_C(4) * SIZE);
    EXPECT_EQ(result.hits, 4);
    result = replay_optimum(&trace, 3);
    EXPECT_EQ(result.hits, 5);
    result = replay_optimum(&trace, 4);
    EXPECT_EQ(result.hits, 6);
    free(trace.keys);
}

/* Each key is asked for once, and every second one again after so many others: only who keeps recent ones hits. */
static void recency(uint32_t distance)
{
    struct replay_trace trace = trace_new(400000, 300000);

    for (uint32_t key = 0; key < 250000; key++) {
        ask(&trace, key);
        if (key >= distance && (key - distance) % 2 == 0)
            ask(&trace, key - distance);
    }
    EXPECT(lru(&trace) > 33);
    EXPECT(ours(&trace) > lru(&trace) - 0.5);
    free(trace.keys);
}

TEST(keys_that_return_soon_and_never_again_hit_as_with_lru)
{
    static const uint32_t distances[] = {5, 50, 140, 160, 300, 500, 640};

    for (size_t i = 0; i < sizeof distances / sizeof *distances; i++)
        recency(distances[i]);
}

/* Requests of which each is for the key that was the so-and-so-manieth latest: how late tells all that can be known, so
 * nothing is better than LRU.  `skew`: the later the rarer; else any of the latest `reach` is as likely.  One in
 * `fresh` is for a new key. */
static void stack(uint32_t reach, bool skew, uint32_t fresh)
{
    enum { COUNT = 300000 };
    struct replay_trace trace = trace_new(COUNT, COUNT);
    uint32_t *latest = replay_memory(COUNT, sizeof *latest), kept = 0, next = 0;
    uint64_t random = reach;

    while (trace.count < COUNT) {
        uint32_t late = skew ? zipf(&random, reach) : (uint32_t)(replay_random(&random) % reach), key;

        if (late < kept && replay_random(&random) % fresh != 0) {
            key = latest[kept - 1 - late];
            memmove(&latest[kept - 1 - late], &latest[kept - late], late * sizeof *latest);
            latest[kept - 1] = key;
        } else {
            key = latest[kept++] = next++;
        }
        ask(&trace, key);
    }
    EXPECT(ours(&trace) > lru(&trace) - 0.5);
    free(latest);
    free(trace.keys);
}

TEST(where_only_recency_tells_anything_it_hits_as_with_lru)
{
    stack(ROOM / 2, false, 50);
    stack(ROOM * 9 / 10, false, 50);
    stack(ROOM * 3 / 2, false, 20);
    stack(ROOM * 4, false, 20);
    stack(ROOM * 2, true, 50);
    stack(ROOM * 8, true, 20);
}

TEST(a_loop_longer_than_the_tier_hits_nearly_as_often_as_it_can)
{
    static const uint32_t loops[] = {1050, 1200, 2000, 5000};

    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
        struct replay_trace trace = trace_new(300000, loops[i]);

        for (uint32_t j = 0; j < 300000; j++)
            ask(&trace, j % loops[i]);
        EXPECT(lru(&trace) < 0.01);
        EXPECT(ours(&trace) > 0.7 * optimum(&trace));
        free(trace.keys);
    }
}

TEST(a_scan_does_not_push_out_what_is_wanted)
{
    struct replay_trace trace = trace_new(400000, 500000), alone = trace_new(400000, 500000);
    uint64_t random = 1, same = 1;
    double share;

    for (uint32_t i = 0, next = 100000; i < 400000; i++) {
        if (i / 1000 % 2 == 1) {
            ask(&trace, next++);
        } else {
            ask(&trace, zipf(&random, 20000));
            ask(&alone, zipf(&same, 20000));
        }
    }
    /* Of the requests that are no scan's nearly as many hit as if there were none. */
    share = ours(&trace) * (double)trace.count / (double)alone.count;
    EXPECT(share > ours(&alone) - 2);
    EXPECT(lru(&trace) * (double)trace.count / (double)alone.count < lru(&alone) - 2); /* it could be worse */
    free(trace.keys);
    free(alone.keys);
}

TEST(skewed_requests_come_nearer_to_the_optimum)
{
    struct replay_trace still = trace_new(400000, 20000), moving = trace_new(400000, 60000),
                        wonders = trace_new(400000, 420000);
    uint64_t random = 2;

    for (uint32_t i = 0; i < 400000; i++) {
        ask(&still, zipf(&random, 20000));
        ask(&moving, zipf(&random, 20000) + i / 50);
        ask(&wonders, i % 2 ? zipf(&random, 20000) : 20000 + i / 2);
    }
    EXPECT(ours(&still) > lru(&still) + 0.3 * (optimum(&still) - lru(&still)));
    EXPECT(ours(&moving) > lru(&moving) + 0.2 * (optimum(&moving) - lru(&moving)));
    EXPECT(ours(&wonders) > lru(&wonders) + 0.3 * (optimum(&wonders) - lru(&wonders)));
    free(still.keys);
    free(moving.keys);
    free(wonders.keys);
}

TEST(a_new_working_set_is_taken_up)
{
    struct replay_trace trace = trace_new(400000, 80000);
    uint64_t random = 3;

    for (uint32_t i = 0; i < 400000; i++)
        ask(&trace, i / 100000 * 20000 + zipf(&random, 20000));
    EXPECT(ours(&trace) > lru(&trace) + 0.2 * (optimum(&trace) - lru(&trace)));
    free(trace.keys);
}

TEST(large_values_do_not_push_out_the_small)
{
    struct replay_trace trace = trace_new(400000, 20000);
    uint32_t *sizes = replay_memory(20000, sizeof *sizes);
    uint64_t random = 4;
    struct replay_result mine, theirs;

    for (uint32_t key = 0; key < 20000; key++) /* one in twenty: three quarters of the bytes */
        sizes[key] = replay_hash(key) % 20 == 0 ? 30000 : 500;
    for (uint32_t i = 0; i < 400000; i++)
        ask(&trace, zipf(&random, 20000));
    trace.sizes = sizes;
    mine = replay(&trace, UINT64_C(1500) * ROOM);
    theirs = replay_lru(&trace, UINT64_C(1500) * ROOM);
    EXPECT(replay_percent(&trace, &mine) > replay_percent(&trace, &theirs) + 10);
    EXPECT(mine.hit_bytes > theirs.hit_bytes * 3 / 4); /* what that costs the large ones */
    EXPECT(mine.held <= UINT64_C(1500) * ROOM);
    EXPECT(mine.copied <= POLICY_COPIES * mine.filled);
    free(trace.keys);
    free(sizes);
}

/* ---- the state ---- */

TEST(the_state_is_a_hundredth_of_the_tier)
{
    EXPECT(policy_size(0) >= 1024 && policy_size(0) <= 24 << 10);
    EXPECT_EQ(policy_size(1 << 20), policy_size(0));
    for (uint64_t tier = 16 << 20; tier < UINT64_C(1) << 40; tier *= 2)
        EXPECT(policy_size(tier) <= tier / 100 + 4096);
    for (uint64_t tier = 1; tier != 0; tier *= 2) /* every size is one */
        EXPECT(policy_size(tier) % 64 == 0 && policy_size(tier) < UINT64_C(1) << 40);
}

static void words_fill(uint64_t *words, size_t size, uint64_t kind)
{
    uint64_t random = kind;

    for (size_t i = 0; i < size / sizeof *words; i++)
        words[i] = kind < 4 ? (uint64_t[]){UINT64_MAX, 1, UINT64_C(1) << 63, 0x0101010101010101}[kind]
                            : replay_random(&random);
}

TEST(whatever_is_in_the_state_it_goes_on_and_soon_chooses_well_again)
{
    struct replay_trace trace = trace_new(200000, 20000);
    uint64_t tier = (uint64_t)ROOM * SIZE, random = 5;
    size_t size = policy_size(tier);
    uint64_t *words = aligned_alloc(64, size);

    EXPECT(words != NULL);
    for (uint32_t i = 0; i < 200000; i++)
        ask(&trace, zipf(&random, 20000));
    for (uint64_t kind = 0; kind < 40; kind++) {
        struct replay_result result;

        words_fill(words, size, kind);
        result = replay_policy(&trace, tier, words);
        EXPECT(result.held <= tier && result.judged <= ROOM);
        EXPECT(result.copied <= POLICY_COPIES * result.filled + tier);
        EXPECT(replay_percent(&trace, &result) > lru(&trace) - 3);
        result = replay_policy(&trace, tier, words); /* and now it knows better */
        EXPECT(replay_percent(&trace, &result) > lru(&trace));
    }
    free(words);
    free(trace.keys);
}

TEST(words_that_change_under_it_harm_nobody)
{
    uint64_t tier = 1 << 20, random = 6;
    size_t size = policy_size(tier);
    uint64_t *words = aligned_alloc(64, size);
    struct policy policy;

    EXPECT(words != NULL);
    memset(words, 0, size);
    policy_open(&policy, words, tier);
    for (uint32_t i = 0; i < 300000; i++) {
        uint64_t at = replay_random(&random) % (i % 2 ? 64 : size / 8), bytes = replay_random(&random);
        uint64_t held[POLICY_LOGS] = {replay_random(&random) >> i % 64, replay_random(&random) >> i % 61};
        uint8_t touch = (uint8_t)replay_random(&random);

        atomic_store(&policy.words[at], replay_random(&random) >> i % 64);
        EXPECT(policy_admit(&policy, random, bytes >> i % 64, (enum policy_log)(i % 3), &touch) < POLICY_LOGS);
        EXPECT(policy_next(&policy, held) < POLICY_LOGS);
        (void)policy_judge(&policy, random, bytes >> i % 63, (enum policy_log)(i % 2), &touch);
    }
    free(words);
}

TEST(what_was_learnt_outlives_the_process)
{
    struct replay_trace trace = trace_new(100000, 20000);
    uint64_t tier = (uint64_t)ROOM * SIZE, random = 7;
    size_t size = policy_size(tier);
    uint64_t *words = aligned_alloc(64, size);
    struct replay_result first, second;

    EXPECT(words != NULL);
    memset(words, 0, size);
    for (uint32_t i = 0; i < 20000; i++)
        ask(&trace, zipf(&random, 20000));
    first = replay_policy(&trace, tier, words);
    second = replay_policy(&trace, tier, words); /* an empty tier, but it knows who will return */
    EXPECT(second.hits > first.hits + trace.count / 100);
    free(words);
    free(trace.keys);
}

/* ---- the calls ---- */

TEST(a_hit_stores_once)
{
    _Atomic uint8_t touch = 7;

    policy_touch(&touch);
    EXPECT_EQ(atomic_load(&touch), POLICY_READ | 7);
    policy_touch(&touch);
    EXPECT_EQ(atomic_load(&touch), POLICY_READ | 7);
}

TEST(a_record_that_is_only_written_does_not_stay_in_the_main_log)
{
    uint64_t tier = 1 << 20, *words = aligned_alloc(64, policy_size(tier));
    struct policy policy;
    uint8_t touch = 0;

    EXPECT(words != NULL);
    memset(words, 0, policy_size(tier));
    policy_open(&policy, words, tier);
    EXPECT_EQ(policy_admit(&policy, 1, 100, POLICY_LOGS, &touch), POLICY_SMALL);
    EXPECT_EQ(touch, 0);
    touch = POLICY_READ | 5; /* read there since: its successor is there too */
    EXPECT_EQ(policy_admit(&policy, 1, 100, POLICY_MAIN, &touch), POLICY_MAIN);
    EXPECT_EQ(touch, 0);
    touch = 5;
    EXPECT_EQ(policy_admit(&policy, 1, 100, POLICY_MAIN, &touch), POLICY_SMALL);
    touch = POLICY_READ;
    EXPECT_EQ(policy_admit(&policy, 1, 100, POLICY_SMALL, &touch), POLICY_SMALL);
    free(words);
}
