/* give_test.c - memory of the map's free pages goes back to the system: what is in use stays, whoever reads. */
#include <test.h>

#include <clock.h>
#include <control.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <tier.h>
#include <unistd.h>

#define SIZE (8ull << 20)
#define VALUE 1500u
#define LIMIT (1u << 20)

struct stage {
    struct tier *tier;
    struct key_space space;
};

static void stage_open(struct stage *stage)
{
    bool damaged;

    *stage = (struct stage){0};
    key_space_name(&stage->space, "give");
    stage->space.partitions = 1;
    stage->space.fence_slots = 8192;
    EXPECT_EQ(tier_open(&stage->tier, fresh_dir(), 1, &stage->space, SIZE, LIMIT, &damaged), FRESHET_OK);
}

static void value_make(uint8_t *value, uint32_t name)
{
    for (uint32_t i = 0; i < VALUE; i += 4)
        memcpy(value + i, &(uint32_t){name * 2654435761u + i}, 4);
}

/* Write so many records from `first` on, in one transaction. */
static void fill(struct stage *stage, uint32_t first, uint32_t count)
{
    static uint8_t value[VALUE];
    struct tier_txn *txn;
    uint32_t names[256];

    EXPECT(count <= 256);
    EXPECT_EQ(tier_begin(stage->tier, &txn), FRESHET_OK);
    for (uint32_t i = 0; i < count; i++) {
        struct record record = {.kind = RECORD_VALUE, .as_of = 1, .born = 1, .expires_ns = RECORD_NEVER,
                                .key_size = sizeof *names, .value_size = VALUE};
        struct key key;

        names[i] = first + i;
        key_make(&key, &stage->space, &names[i], sizeof *names);
        value_make(value, names[i]);
        EXPECT_EQ(tier_write(txn, &key, &record, value, 0, 0), FRESHET_OK);
    }
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
}

/* Is it there, and every byte right?  A wrong one fails the test. */
static bool has(const struct stage *stage, uint32_t name)
{
    freshet_buf buf = {0};
    uint8_t wanted[VALUE];
    struct record record;
    struct key key;
    bool found;

    key_make(&key, &stage->space, &name, sizeof name);
    if ((found = tier_read(stage->tier, &key, &record, &buf) == FRESHET_OK)) {
        value_make(wanted, name);
        EXPECT(buf.size == VALUE && memcmp(buf.data, wanted, VALUE) == 0);
    }
    freshet_buf_free(&buf);
    return found;
}

static struct tier_fate drop(const struct tier_entry *entry, void *arg)
{
    (void)entry;
    (void)arg;
    return (struct tier_fate){0};
}

/* Drop so many sheets at the tail. */
static void shed(struct stage *stage, uint32_t sheets)
{
    struct tier_found found;
    struct tier_txn *txn;

    EXPECT_EQ(tier_begin(stage->tier, &txn), FRESHET_OK);
    for (uint32_t i = 0; i < sheets; i++)
        EXPECT(tier_tail(txn, 0, drop, NULL, &found) >= 0);
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
}

static void tick(struct stage *stage)
{
    struct tier_txn *txn;

    EXPECT_EQ(tier_begin(stage->tier, &txn), FRESHET_OK);
    EXPECT_EQ(tier_tick(txn), FRESHET_OK);
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
}

/* Give up to so many pages back; how many fewer the file then has. */
static uint64_t give(struct stage *stage, uint64_t pages)
{
    uint64_t before = tier_map_held(stage->tier);
    struct tier_txn *txn;

    EXPECT_EQ(tier_begin(stage->tier, &txn), FRESHET_OK);
    tier_give_back(txn, pages);
    tier_drop(txn);
    return before - tier_map_held(stage->tier);
}

/* One call ends after some milliseconds, so that others come to write: on a busy machine before all are given. */
static uint64_t give_all(struct stage *stage)
{
    uint64_t all = 0, pages;

    for (int none = 0; none < 3;) {
        pages = give(stage, 1000);
        none = pages > 0 ? 0 : none + 1;
        all += pages;
    }
    return all;
}

static uint64_t used(struct stage *stage)
{
    struct tier_usage usage;
    struct tier_txn *txn;

    EXPECT_EQ(tier_begin(stage->tier, &txn), FRESHET_OK);
    tier_usage(txn, &usage);
    tier_drop(txn);
    return usage.used;
}

TEST(free_pages_go_back_and_what_is_in_use_stays)
{
    struct stage stage;
    uint64_t held;

    stage_open(&stage);
    for (uint32_t i = 0; i < 10; i++)
        fill(&stage, i * 200, 200);
    held = tier_map_held(stage.tier);
    EXPECT(held >= used(&stage) && held > 700);
    shed(&stage, 400);
    EXPECT(give(&stage, 1000) < 100); /* the last commit could still be gone back to */
    tick(&stage);
    tick(&stage);
    EXPECT(give(&stage, 50) <= 50); /* no more than was asked for */
    EXPECT(give_all(&stage) > 300);
    EXPECT(tier_map_held(stage.tier) <= used(&stage) + 30);
    EXPECT_EQ(give(&stage, 1000), 0);
    EXPECT(!has(&stage, 0) && has(&stage, 1999) && has(&stage, 1500));
    for (uint32_t i = 10; i < 20; i++)
        fill(&stage, i * 200, 200); /* into the holes again */
    for (uint32_t i = 1500; i < 4000; i++)
        EXPECT(has(&stage, i));
    tier_close(stage.tier);
}

TEST(what_a_snapshot_still_shows_is_not_given)
{
    struct stage stage;
    struct tier_view view;
    struct record record;
    struct key key;
    uint32_t name = 10;
    uint8_t wanted[VALUE];
    size_t seen = 0;

    stage_open(&stage);
    for (uint32_t i = 0; i < 10; i++)
        fill(&stage, i * 200, 200);
    tick(&stage);
    tick(&stage);
    (void)give(&stage, 1000);
    key_make(&key, &stage.space, &name, sizeof name);
    EXPECT_EQ(tier_view(stage.tier, &key, &record, &view), FRESHET_OK);
    shed(&stage, 400);
    for (int i = 0; i < 4; i++)
        tick(&stage);
    EXPECT(give(&stage, 1000) < 20);
    value_make(wanted, name);
    for (size_t i = 0; i < view.count; i++) {
        EXPECT(memcmp(view.pieces[i].data, wanted + seen, view.pieces[i].size) == 0);
        seen += view.pieces[i].size;
    }
    EXPECT_EQ(seen, VALUE);
    tier_view_end(stage.tier, &view);
    EXPECT(give_all(&stage) > 300);
    tier_close(stage.tier);
}

/* A reader that is held where it copies: its buffer cannot be written until it is let go. */
static struct held {
    struct stage *stage;
    void *page;
    _Atomic bool caught, go;
    freshet_result result;
} held;

static void held_handler(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_addr < held.page || (char *)info->si_addr >= (char *)held.page + 4096) {
        (void)signal(number, SIG_DFL); /* another fault than the one that is waited for: die of it */
        return;
    }
    atomic_store(&held.caught, true);
    while (!atomic_load(&held.go))
        (void)sched_yield();
    (void)mprotect(held.page, 4096, PROT_READ | PROT_WRITE);
}

static void *held_read(void *arg)
{
    freshet_buf buf = {.data = held.page, .capacity = 4096};
    uint32_t name = 10;
    struct record record;
    struct key key;

    key_make(&key, &held.stage->space, &name, sizeof name);
    held.result = tier_read(held.stage->tier, &key, &record, &buf);
    return arg;
}

TEST(what_a_hit_is_copying_is_not_given)
{
    struct sigaction action = {.sa_sigaction = held_handler, .sa_flags = SA_SIGINFO};
    struct stage stage;
    pthread_t thread;

    stage_open(&stage);
    tier_will_give(stage.tier);
    for (uint32_t i = 0; i < 10; i++)
        fill(&stage, i * 200, 200);
    tick(&stage);
    tick(&stage);
    (void)give(&stage, 1000);
    held.stage = &stage;
    held.page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(held.page != MAP_FAILED && sigaction(SIGSEGV, &action, NULL) == 0);
    EXPECT(pthread_create(&thread, NULL, held_read, NULL) == 0);
    EXPECT(test_until(atomic_load(&held.caught), 10000));
    shed(&stage, 400);
    for (int i = 0; i < 4; i++)
        tick(&stage);
    EXPECT(give(&stage, 1000) < 20); /* on a full file system it would die of a page that is gone */
    atomic_store(&held.go, true);
    EXPECT(pthread_join(thread, NULL) == 0);
    EXPECT_EQ(held.result, FRESHET_MISS); /* its record left meanwhile */
    EXPECT(give_all(&stage) > 300);
    tier_close(stage.tier);
}

struct beside {
    const struct stage *stage;
    _Atomic bool end;
    _Atomic uint64_t hits;
};

static void *read_beside(void *arg)
{
    struct beside *beside = arg;
    uint64_t state = 5;

    while (!beside->end)
        beside->hits += has(beside->stage, (uint32_t)(test_random(&state) % 40000));
    return NULL;
}

TEST_LONG(whoever_reads_meanwhile_gets_whole_values_or_none, 120)
{
    uint32_t rounds = test_long_runs() ? 20000 : test_sanitized() ? 100 : 400, next = 0;
    struct beside beside = {0};
    struct stage stage;
    pthread_t threads[2];

    if (test_thread_sanitized())
        test_skip("what is copied is not seen by ThreadSanitizer (tier.c)");
    stage_open(&stage);
    beside.stage = &stage;
    for (int i = 0; i < 2; i++)
        EXPECT_EQ(pthread_create(&threads[i], NULL, read_beside, &beside), 0);
    for (uint32_t round = 0; round < rounds; round++) {
        fill(&stage, next % 40000, 200);
        next += 200;
        if (used(&stage) > 600)
            shed(&stage, 120);
        (void)give(&stage, round % 7 * 40); /* all that may go, each time, of whatever age */
    }
    EXPECT(test_until(beside.hits > 1000, 20000));
    beside.end = true;
    for (int i = 0; i < 2; i++)
        EXPECT_EQ(pthread_join(threads[i], NULL), 0);
    tier_close(stage.tier);
}
