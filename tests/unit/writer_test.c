/* writer_test.c - the thread that writes: what is handed over arrives, full is normal, nobody waits. */
#include <test.h>

#include <clock.h>
#include <fcntl.h>
#include <page.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <step.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <writer.h>

#define MIB (1ull << 20)
#define LIMIT (17u << 20)

/* A page, a map and a writer. */
struct stage {
    const char *dir;
    struct control control;
    struct tier *tier;
    struct writer *writer;
};

static void stage_open_in(struct stage *stage, const char *dir, uint64_t map_size)
{
    const struct control_shape shape = {.name = "w", .tier_size = map_size, .partitions = 1, .max_staleness_ms = 500};
    int dirfd = open(fresh_dir(), O_RDONLY | O_DIRECTORY); /* apart from the map, which may have a small home */
    bool damaged;

    stage->dir = dir;
    EXPECT_EQ(control_create(&stage->control, dirfd, &shape), FRESHET_OK);
    close(dirfd);
    EXPECT_EQ(tier_open(&stage->tier, dir, stage->control.generation, &stage->control.space, map_size, LIMIT,
                        &damaged), FRESHET_OK);
    EXPECT_EQ(writer_open(&stage->writer, &stage->control, stage->tier), FRESHET_OK);
}

static void stage_open(struct stage *stage, uint64_t map_size)
{
    stage_open_in(stage, fresh_dir(), map_size);
}

static void stage_close(struct stage *stage)
{
    bool left = true;

    writer_close(stage->writer, &left);
    EXPECT(!left);
    tier_close(stage->tier);
    control_close(&stage->control);
}

/* The same page and map in a child. */
static void stage_inherit(struct stage *stage)
{
    bool damaged;

    writer_abandon(stage->writer);
    tier_abandon(stage->tier);
    EXPECT_EQ(tier_open(&stage->tier, stage->dir, stage->control.generation, &stage->control.space,
                        stage->control.tier_size, LIMIT, &damaged),
              FRESHET_OK);
    EXPECT_EQ(writer_open(&stage->writer, &stage->control, stage->tier), FRESHET_OK);
}

static void key_of(struct stage *stage, struct key *key, uint32_t *name)
{
    key_make(key, &stage->control.space, name, sizeof *name);
}

static void value_fill(uint8_t *value, size_t size, uint32_t name)
{
    uint64_t state = name + 1;

    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = test_random(&state);

        memcpy(value + i, &word, size - i < 8 ? size - i : 8);
    }
}

static struct record record_of(size_t size, uint64_t as_of)
{
    return (struct record){.kind = RECORD_VALUE, .as_of = as_of, .born = as_of, .expires_ns = RECORD_NEVER,
                           .key_size = sizeof(uint32_t), .value_size = size};
}

/* Hand over the value that `name` and `size` make. */
static freshet_result fill(struct stage *stage, uint32_t name, size_t size, uint64_t as_of)
{
    static uint8_t *value;
    struct record record = record_of(size, as_of);
    struct key key;

    if (!value)
        value = malloc(LIMIT);
    value_fill(value, size, name);
    key_of(stage, &key, &name);
    return writer_fill(stage->writer, &key, &record, value, NULL);
}

static freshet_result flush(struct stage *stage, unsigned ms)
{
    return writer_wait(stage->writer, UINT64_MAX, clock_boot_ns() + ms * CLOCK_NS_PER_MS);
}

/* Is it there, and every byte right?  A wrong byte fails the test. */
static bool has(struct stage *stage, uint32_t name, struct record *ret_record)
{
    static freshet_buf buf;
    static uint8_t *value;
    struct record record;
    struct key key;
    freshet_result result;

    if (!value)
        value = malloc(LIMIT);
    key_of(stage, &key, &name);
    result = tier_read(stage->tier, &key, &record, &buf);
    EXPECT(result == FRESHET_OK || result == FRESHET_MISS);
    if (result == FRESHET_MISS)
        return false;
    value_fill(value, buf.size, name);
    EXPECT(buf.size == record.value_size && memcmp(value, buf.data, buf.size) == 0);
    if (ret_record)
        *ret_record = record;
    return true;
}

static uint64_t counted(struct stage *stage, enum control_counter counter)
{
    return control_counted(&stage->control, counter);
}

static uint64_t records_in(struct stage *stage)
{
    struct tier_facts facts;

    tier_facts(stage->tier, &facts);
    return facts.rows;
}

/* As a killed writer leaves it, and worse. */
static void miscount(struct stage *stage, uint64_t records)
{
    struct index index;
    char path[512];
    uint64_t nonce;
    bool unfit;
    int fd;

    snprintf(path, sizeof path, "%s/map-%016llx-index", stage->dir, (unsigned long long)stage->control.generation);
    EXPECT((fd = open(path, O_RDONLY)) >= 0 && pread(fd, &nonce, sizeof nonce, 8) == (ssize_t)sizeof nonce);
    close(fd);
    EXPECT_EQ(index_open(&index, path, nonce, index_leaves(stage->control.tier_size) / 4096, &unfit), FRESHET_OK);
    atomic_store(&index.words[INDEX_RECORDS], records);
    index_close(&index);
    EXPECT_EQ(records_in(stage), records);
}

/* Bytes of memory that the map's file takes. */
static uint64_t map_bytes(struct stage *stage)
{
    char path[512];
    struct stat st;

    snprintf(path, sizeof path, "%s/map-%016llx", stage->dir, (unsigned long long)stage->control.generation);
    EXPECT(stat(path, &st) == 0);
    EXPECT(st.st_size <= (off_t)stage->control.tier_size);
    return (uint64_t)st.st_blocks * 512;
}

/* ---- what is handed over ---- */

TEST(what_is_handed_over_is_there_after_a_wait)
{
    struct stage stage;
    uint64_t ticket = 0;
    struct record record = record_of(0, 1);
    uint32_t name = 77;
    struct key key;

    stage_open(&stage, 4 * MIB);
    EXPECT_EQ(flush(&stage, 0), FRESHET_OK); /* nothing handed over: nothing to wait for */
    for (uint32_t i = 0; i < 50; i++)
        EXPECT_EQ(fill(&stage, i, i * 37, 1), FRESHET_OK);
    key_of(&stage, &key, &name);
    record.kind = RECORD_ABSENT;
    EXPECT_EQ(writer_fill(stage.writer, &key, &record, NULL, &ticket), FRESHET_OK);
    EXPECT_EQ(ticket, 51);
    EXPECT_EQ(writer_wait(stage.writer, ticket, clock_boot_ns() + 10 * CLOCK_NS_PER_S), FRESHET_OK);
    for (uint32_t i = 0; i < 50; i++)
        EXPECT(has(&stage, i, NULL));
    EXPECT(has(&stage, name, &record));
    EXPECT_EQ(record.kind, RECORD_ABSENT);
    EXPECT_EQ(counted(&stage, COUNT_FILLS), 51);
    EXPECT_EQ(counted(&stage, COUNT_FILLS_DROPPED), 0);
    stage_close(&stage);
}

/* ---- when it is written ---- */

#define ROUNDS 200u
#define REST_NS CLOCK_NS_PER_MS /* as in writer.c */

static atomic_uint commits, begun, rests;

static void count_steps(const char *point)
{
    if (strcmp(point, "tier_committed") == 0)
        atomic_fetch_add(&commits, 1);
    if (strcmp(point, "writer_resting") == 0)
        atomic_fetch_add(&begun, 1);
    if (strcmp(point, "writer_rested") == 0)
        atomic_fetch_add(&rests, 1);
}

TEST(fills_that_come_one_by_one_share_a_commit)
{
    struct stage stage;
    bool brisk = false;

    stage_open(&stage, 16 * MIB);
    step_hook = count_steps;
    for (uint32_t round = 0; round < ROUNDS && !brisk; round++) { /* until one went by without a long pause */
        int64_t start_ns, took_ns;

        EXPECT_EQ(fill(&stage, 0, 64, round + 1), FRESHET_OK);
        EXPECT_EQ(flush(&stage, 20000), FRESHET_OK);
        atomic_store(&commits, 0);
        start_ns = clock_boot_ns();
        for (uint32_t i = 1; i <= 40; i++) {
            EXPECT_EQ(fill(&stage, i, 64, round + 1), FRESHET_OK);
            while (clock_boot_ns() < start_ns + i * (REST_NS / 10)) /* apart, but not by a rest */
                continue;
        }
        took_ns = clock_boot_ns() - start_ns;
        EXPECT(atomic_load(&commits) <= 2 + (uint64_t)took_ns / REST_NS);
        brisk = took_ns < 20 * REST_NS;
    }
    step_hook = (void (*)(const char *))0;
    if (!brisk)
        test_skip("the machine is too busy for forty fills in twenty milliseconds");
    stage_close(&stage);
}

TEST(what_is_handed_over_within_a_rest_is_written_without_being_asked_for)
{
    struct stage stage;

    stage_open(&stage, 16 * MIB);
    for (uint32_t i = 0; i < 20; i++) {
        EXPECT_EQ(fill(&stage, 2 * i, 64, 1), FRESHET_OK);
        EXPECT_EQ(flush(&stage, 20000), FRESHET_OK);
        EXPECT_EQ(fill(&stage, 2 * i + 1, 64, 1), FRESHET_OK);
        EXPECT(test_until(has(&stage, 2 * i + 1, NULL), 900)); /* before the next housekeeping */
    }
    stage_close(&stage);
}

/* Wait for the end of a turn, as whoever waits for it would see it. */
static bool turn_ends(const struct turn *turn)
{
    int64_t end_ns = clock_boot_ns() + 20 * CLOCK_NS_PER_S;

    while (atomic_load(&turn->slot->word) != turn->word) /* the turn's number alone: the slot is free */
        if (clock_boot_ns() > end_ns)
            return false;
    return true;
}

/* Of many rounds, each soon after a batch: in how many the rest went on to its end while somebody waited, for a fill
 * of his own or for the end of a turn. */
static unsigned rests_waited_for(struct stage *stage, bool turns)
{
    unsigned ends = 0;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct turn turn = {0};
        int64_t start_ns;
        struct key key;

        EXPECT_EQ(fill(stage, 0, 64, i + 1), FRESHET_OK);
        EXPECT_EQ(flush(stage, 20000), FRESHET_OK);
        key_of(stage, &key, &i);
        EXPECT_EQ(turn_enter(&stage->control, &key, 1, 0, &turn), TURN_OURS);
        atomic_store(&begun, 0);
        atomic_store(&rests, 0);
        start_ns = clock_boot_ns();
        EXPECT_EQ(fill(stage, 1, 64, i + 1), FRESHET_OK);
        while (atomic_load(&begun) == 0 && clock_boot_ns() < start_ns + REST_NS) /* perhaps it need not rest */
            continue;
        if (turns && writer_ends_turn(stage->writer, &turn)) {
            EXPECT(turn_ends(&turn));
        } else {
            EXPECT_EQ(flush(stage, 20000), FRESHET_OK);
            turn_end(&turn);
        }
        ends += atomic_load(&rests) > 0;
    }
    return ends;
}

TEST(nobody_waits_for_a_rest_to_end)
{
    struct stage stage;

    stage_open(&stage, 16 * MIB);
    step_hook = count_steps;
    /* Where the machine holds us up between two steps the rest is over before we come. */
    EXPECT(rests_waited_for(&stage, false) < ROUNDS / 2);
    EXPECT(rests_waited_for(&stage, true) < ROUNDS / 2);
    step_hook = (void (*)(const char *))0;
    stage_close(&stage);
}

TEST(closing_writes_what_is_queued)
{
    struct stage stage;
    bool left;

    stage_open(&stage, 16 * MIB);
    for (uint32_t i = 0; i < 500; i++)
        EXPECT_EQ(fill(&stage, i, 1000, 1), FRESHET_OK);
    writer_close(stage.writer, &left);
    EXPECT(!left);
    EXPECT_EQ(records_in(&stage), 500);
    writer_close(NULL, &left);
    EXPECT(!left);
    tier_close(stage.tier);
    control_close(&stage.control);
}

TEST(a_fill_that_is_void_from_birth_is_refused)
{
    struct stage stage;
    struct record record = record_of(0, 5);
    uint32_t name = 1;
    struct key key;

    stage_open(&stage, MIB);
    key_of(&stage, &key, &name);
    control_raise(control_fence(&stage.control, key.partition, key.slot), 6);
    EXPECT_EQ(fill(&stage, name, 10, 5), FRESHET_OK);
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    EXPECT(!has(&stage, name, NULL));
    record.as_of = record.born = 9;
    record.epoch = 3; /* the page has none */
    EXPECT_EQ(writer_fill(stage.writer, &key, &record, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    EXPECT(!has(&stage, name, NULL));
    EXPECT_EQ(counted(&stage, COUNT_FILLS_REFUSED), 2);
    EXPECT_EQ(fill(&stage, name, 10, 6), FRESHET_OK);
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    EXPECT(has(&stage, name, NULL));
    stage_close(&stage);
}

TEST(of_two_fills_the_one_read_later_stays)
{
    struct stage stage;
    struct record record;

    stage_open(&stage, MIB);
    EXPECT_EQ(fill(&stage, 1, 10, 8), FRESHET_OK);
    EXPECT_EQ(fill(&stage, 1, 20, 7), FRESHET_OK); /* in the same batch or the next: the same */
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    EXPECT(has(&stage, 1, &record) && record.as_of == 8);
    EXPECT_EQ(fill(&stage, 1, 5000, 9), FRESHET_OK);
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    EXPECT(has(&stage, 1, &record) && record.as_of == 9 && record.value_size == 5000);
    EXPECT_EQ(records_in(&stage), 1);
    stage_close(&stage);
}

/* ---- full is normal ---- */

static void churn(uint64_t map_size, size_t value_most, unsigned fills)
{
    struct stage stage;
    uint64_t state = 5, found = 0;

    stage_open(&stage, map_size);
    for (uint32_t i = 0; i < fills; i++) {
        size_t size = test_random(&state) % (value_most + 1);

        EXPECT_EQ(fill(&stage, i, size, i + 1), FRESHET_OK);
        if (i % 50 == 49)
            EXPECT_EQ(flush(&stage, 30000), FRESHET_OK);
    }
    EXPECT_EQ(flush(&stage, 30000), FRESHET_OK);
    EXPECT(map_bytes(&stage) <= map_size);
    EXPECT_EQ(counted(&stage, COUNT_FILLS), fills);
    EXPECT_EQ(counted(&stage, COUNT_FILLS_DROPPED), 0);
    for (uint32_t i = 0; i < fills; i++)
        found += has(&stage, i, NULL);
    EXPECT_EQ(found, records_in(&stage));
    EXPECT_EQ(found + counted(&stage, COUNT_EVICTIONS), fills);
    EXPECT(found * (value_most / 2 + 100) > map_size / 5); /* full, and not of air */
    stage_close(&stage);
}

TEST(a_small_map_takes_20000_small_puts_and_stays_small)
{
    churn(MIB, 200, 20000);
}

TEST(a_small_map_takes_20000_puts_of_mixed_sizes_and_stays_small)
{
    churn(MIB, 3000, 20000);
}

TEST(a_map_of_4_mib_takes_20000_puts_of_large_values)
{
    churn(4 * MIB, 20000, 20000);
}

TEST(one_key_overwritten_for_ever_fills_no_map)
{
    struct stage stage;

    stage_open(&stage, MIB);
    for (uint32_t i = 0; i < 5000; i++)
        while (fill(&stage, i % 3, 60000, i + 1) != FRESHET_OK)
            EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    EXPECT_EQ(counted(&stage, COUNT_FILLS), 5000);
    EXPECT(has(&stage, 4999 % 3, NULL));
    stage_close(&stage);
}

TEST(values_of_16_mib_fit_a_map_of_64_mib_one_after_the_other)
{
    struct stage stage;

    stage_open(&stage, 64 * MIB);
    for (uint32_t i = 0; i < 2000; i++) /* others are there already */
        EXPECT(fill(&stage, 1000 + i, 12000, 1) == FRESHET_OK || flush(&stage, 30000) == FRESHET_OK);
    for (uint32_t i = 0; i < 8; i++) {
        EXPECT_EQ(flush(&stage, 30000), FRESHET_OK);
        EXPECT_EQ(fill(&stage, i % 5, 16 * MIB, i + 2), FRESHET_OK);
        EXPECT_EQ(flush(&stage, 30000), FRESHET_OK);
        EXPECT(has(&stage, i % 5, NULL));
    }
    EXPECT(map_bytes(&stage) <= 64 * MIB);
    stage_close(&stage);
}

TEST(what_is_larger_than_a_quarter_of_the_map_is_dropped_and_counted)
{
    struct stage stage;

    stage_open(&stage, MIB);
    EXPECT_EQ(fill(&stage, 1, MIB / 4 + 1, 1), FRESHET_MISS);
    EXPECT_EQ(counted(&stage, COUNT_FILLS_DROPPED), 1);
    EXPECT_EQ(fill(&stage, 2, MIB / 4, 1), FRESHET_OK);
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    EXPECT(!has(&stage, 1, NULL) && has(&stage, 2, NULL));
    stage_close(&stage);
}

TEST(what_is_read_stays_while_a_scan_goes_by)
{
    struct stage stage;
    uint32_t missed = 0;

    stage_open(&stage, 4 * MIB);
    for (uint32_t i = 0; i < 500; i++)
        EXPECT_EQ(fill(&stage, i, 1000, 1), FRESHET_OK);
    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t hot = i % 500;

        if (i % 20 == 0)
            EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
        EXPECT_EQ(fill(&stage, 100000 + i, 1000, 1), FRESHET_OK); /* never read */
        if (has(&stage, hot, NULL))
            continue;
        missed += i > 10000; /* it has had time to learn */
        EXPECT_EQ(fill(&stage, hot, 1000, 1), FRESHET_OK);
    }
    EXPECT(missed < 10);
    stage_close(&stage);
}

TEST(void_and_expired_records_are_swept_out)
{
    struct stage stage;
    struct record record = record_of(0, 50);
    struct key key;

    stage_open(&stage, 16 * MIB);
    for (uint32_t i = 0; i < 3000; i++)
        EXPECT_EQ(fill(&stage, i, 100, i < 2000 ? 1 : 50), FRESHET_OK);
    record.expires_ns = clock_boot_ns() + CLOCK_NS_PER_S / 5;
    for (uint32_t i = 3000; i < 3100; i++) {
        key_of(&stage, &key, &i);
        EXPECT_EQ(writer_fill(stage.writer, &key, &record, NULL, NULL), FRESHET_OK);
    }
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    EXPECT(records_in(&stage) >= 3000);
    control_raise(&stage.control.parts[0].clear, 50);
    EXPECT(test_until(records_in(&stage) == 1000, 15000));
    EXPECT_EQ(counted(&stage, COUNT_VOIDS), 2000);
    EXPECT_EQ(counted(&stage, COUNT_EXPIRED), 100);
    EXPECT_EQ(counted(&stage, COUNT_EVICTIONS), 0);
    EXPECT(has(&stage, 2500, NULL));
    miscount(&stage, 77);
    EXPECT(test_until(records_in(&stage) == 1000, 15000)); /* its sweep counts them */
    stage_close(&stage);
}

TEST(a_full_file_system_costs_fills_and_nothing_else)
{
    struct stage stage;
    const char *dir = fresh_dir();
    uint64_t found = 0;

    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", dir, "tmpfs", 0, "size=2m,mode=0700") != 0)
        test_skip("mounting a small tmpfs is not allowed here");
    stage_open_in(&stage, dir, 64 * MIB);
    for (uint32_t i = 0; i < 4000; i++) {
        EXPECT_EQ(fill(&stage, i, 1000, 1), FRESHET_OK);
        if (i % 50 == 49)
            EXPECT_EQ(flush(&stage, 20000), FRESHET_OK);
    }
    EXPECT(counted(&stage, COUNT_MAP_FULL) > 0);
    EXPECT(!writer_broken(stage.writer) && tier_intact(stage.tier));
    for (uint32_t i = 0; i < 4000; i++)
        found += has(&stage, i, NULL);
    EXPECT(found > 500);
    EXPECT(counted(&stage, COUNT_FILLS) + counted(&stage, COUNT_FILLS_DROPPED) == 4000);
    EXPECT(counted(&stage, COUNT_FILLS) > 2000); /* it goes on within what it got */
    stage_close(&stage);
    EXPECT(umount2(dir, MNT_DETACH) == 0);
}

TEST(a_view_that_lasts_costs_fills_and_does_not_shrink_the_tier)
{
    struct stage stage;
    struct tier_view view;
    struct record record;
    uint32_t name = 3999;
    uint64_t before;
    struct key key;

    stage_open(&stage, MIB);
    for (uint32_t i = 0; i < 4000; i++) {
        EXPECT_EQ(fill(&stage, i, 1000, 1), FRESHET_OK);
        if (i % 10 == 9)
            EXPECT_EQ(flush(&stage, 20000), FRESHET_OK);
    }
    before = records_in(&stage);
    key_of(&stage, &key, &name);
    EXPECT_EQ(tier_view(stage.tier, &key, &record, &view), FRESHET_OK);
    for (uint32_t i = 0; i < 10000; i++) {
        EXPECT_EQ(fill(&stage, 10000 + i, 1000, 1), FRESHET_OK);
        if (i % 10 == 9)
            EXPECT_EQ(flush(&stage, 20000), FRESHET_OK);
    }
    EXPECT(counted(&stage, COUNT_FILLS_DROPPED) > 3000);
    EXPECT(records_in(&stage) > before / 2);
    tier_view_end(stage.tier, &view);
    for (uint32_t i = 0; i < 4000; i++) {
        EXPECT_EQ(fill(&stage, 20000 + i, 1000, 1), FRESHET_OK);
        if (i % 10 == 9)
            EXPECT_EQ(flush(&stage, 20000), FRESHET_OK);
    }
    EXPECT(has(&stage, 23999, NULL));
    EXPECT(records_in(&stage) > before * 3 / 4);
    stage_close(&stage);
}

/* Bytes of memory that the index's file takes. */
static uint64_t index_file_bytes(struct stage *stage)
{
    char path[512];
    struct stat st;

    snprintf(path, sizeof path, "%s/map-%016llx-index", stage->dir, (unsigned long long)stage->control.generation);
    EXPECT(stat(path, &st) == 0);
    return (uint64_t)st.st_blocks * 512;
}

TEST(map_and_index_stay_within_the_size_when_records_grow_smaller)
{
    struct stage stage;

    stage_open(&stage, 16 * MIB);
    for (uint32_t i = 0; i < 4000; i++) {
        EXPECT_EQ(fill(&stage, i, 20000, 1), FRESHET_OK);
        if (i % 50 == 49)
            EXPECT_EQ(flush(&stage, 20000), FRESHET_OK);
    }
    for (uint32_t i = 0; i < 300000; i++) {
        EXPECT_EQ(fill(&stage, 10000 + i, 20, 1), FRESHET_OK);
        if (i % 2000 == 1999)
            EXPECT_EQ(flush(&stage, 20000), FRESHET_OK);
    }
    EXPECT(map_bytes(&stage) + index_file_bytes(&stage) <= 16 * MIB);
    stage_close(&stage);
}

/* ---- neighbours ---- */

static int *shared_ints(void)
{
    int *ints = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    EXPECT(ints != MAP_FAILED);
    return ints;
}

/* A sibling that holds LMDB's writer lock and is stopped. */
static pid_t stopped_holder(struct stage *stage)
{
    int *step = shared_ints(), status;
    pid_t holder = test_fork();

    if (holder == 0) {
        struct tier_txn *txn;

        stage_inherit(stage);
        EXPECT_EQ(tier_begin(stage->tier, &txn), FRESHET_OK);
        *(volatile int *)step = 1;
        raise(SIGSTOP);
        tier_drop(txn);
        pause();
    }
    EXPECT(test_until(*(volatile int *)step == 1, 20000));
    EXPECT(waitpid(holder, &status, WUNTRACED) == holder && WIFSTOPPED(status));
    return holder;
}

TEST(a_stopped_sibling_holds_up_no_caller)
{
    struct stage stage;
    pid_t holder;
    int64_t start, longest = 0;
    uint32_t dropped = 0;

    stage_open(&stage, 16 * MIB);
    EXPECT_EQ(fill(&stage, 1, 100, 1), FRESHET_OK);
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    holder = stopped_holder(&stage);
    for (uint32_t i = 0; i < 20000; i++) {
        start = clock_boot_ns();
        dropped += fill(&stage, i + 2, 100, 1) == FRESHET_MISS;
        if (clock_boot_ns() - start > longest)
            longest = clock_boot_ns() - start;
    }
    EXPECT(longest < CLOCK_NS_PER_S);
    EXPECT(dropped > 10000 && dropped < 20000);
    EXPECT_EQ(counted(&stage, COUNT_FILLS_DROPPED), dropped);
    EXPECT(has(&stage, 1, NULL));
    start = clock_boot_ns();
    EXPECT_EQ(flush(&stage, 100), FRESHET_ETIMEOUT);
    EXPECT(clock_boot_ns() - start >= 100 * CLOCK_NS_PER_MS && clock_boot_ns() - start < 5 * CLOCK_NS_PER_S);
    test_kill(holder, SIGCONT);
    EXPECT_EQ(flush(&stage, 20000), FRESHET_OK);
    EXPECT(has(&stage, 2, NULL) && has(&stage, 20001 - dropped, NULL)); /* the first and the last that were taken */
    test_kill(holder, SIGKILL);
    stage_close(&stage);
}

/* Put a record of this version of its source, compared. */
static freshet_result put_compared(struct stage *stage, uint32_t name, uint64_t version, unsigned ms,
                                   uint64_t *ret_position)
{
    struct record record = record_of(8, 0);
    uint8_t value[8];
    struct key key;

    record.source_version = version;
    value_fill(value, sizeof value, name);
    key_of(stage, &key, &name);
    return writer_put_compared(stage->writer, &key, &record, value, clock_boot_ns() + ms * CLOCK_NS_PER_MS,
                               ret_position);
}

TEST(a_put_that_compares_happens_in_time_or_never)
{
    uint64_t position = 0, first;
    struct record record;
    struct stage stage;
    struct key key;
    uint32_t one = 1;
    pid_t holder;

    stage_open(&stage, 8 * MIB);
    key_of(&stage, &key, &one);
    EXPECT_EQ(put_compared(&stage, 1, 7, 10000, &first), FRESHET_OK);
    EXPECT(has(&stage, 1, &record) && record.source_version == 7 && record.born == first);
    EXPECT_EQ(atomic_load(control_fence(&stage.control, 0, key.slot)), first);
    EXPECT_EQ(put_compared(&stage, 1, 6, 10000, &position), FRESHET_OUTDATED);
    EXPECT_EQ(atomic_load(control_fence(&stage.control, 0, key.slot)), first); /* and has changed nothing */
    holder = stopped_holder(&stage);
    EXPECT_EQ(put_compared(&stage, 1, 8, 50, &position), FRESHET_MISS);
    test_kill(holder, SIGKILL);
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK); /* the thread has come to it by now */
    EXPECT(has(&stage, 1, &record) && record.source_version == 7);
    EXPECT_EQ(atomic_load(control_fence(&stage.control, 0, key.slot)), first);
    EXPECT_EQ(put_compared(&stage, 1, 7, 10000, &position), FRESHET_OK);
    EXPECT(position > first && has(&stage, 1, &record) && record.born == position);
    stage_close(&stage);
}

TEST(closing_leaves_a_writer_behind_that_a_stopped_sibling_holds_up)
{
    struct stage stage;
    pid_t holder;
    int64_t start;
    bool left = false;

    test_leaves();
    stage_open(&stage, MIB);
    holder = stopped_holder(&stage);
    EXPECT_EQ(fill(&stage, 1, 100, 1), FRESHET_OK);
    start = clock_boot_ns();
    writer_close(stage.writer, &left);
    EXPECT(left);
    EXPECT(clock_boot_ns() - start >= 2 * CLOCK_NS_PER_S - CLOCK_NS_PER_MS &&
           clock_boot_ns() - start < 6 * CLOCK_NS_PER_S);
    test_kill(holder, SIGKILL); /* the ghost gets its lock, finds that it was left, and ends without a trace */
    (void)test_until(false, 200);
    EXPECT_EQ(counted(&stage, COUNT_FILLS), 0);
}

TEST(a_killed_reader_costs_fills_only_until_he_is_missed)
{
    struct stage stage;
    int *step = shared_ints();
    pid_t reader;

    stage_open(&stage, MIB);
    EXPECT_EQ(fill(&stage, 1, 200000, 1), FRESHET_OK);
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    reader = test_fork();
    if (reader == 0) {
        struct tier_view view;
        struct record record;
        uint32_t name = 1;
        struct key key;

        stage_inherit(&stage);
        key_of(&stage, &key, &name);
        *(volatile int *)step = tier_view(stage.tier, &key, &record, &view) == FRESHET_OK;
        for (;;) /* the snapshot held */
            pause();
    }
    EXPECT(test_until(*(volatile int *)step == 1, 20000));
    test_kill(reader, SIGKILL);
    for (uint32_t i = 0; i < 20000; i++) {
        EXPECT_EQ(fill(&stage, 1000 + i, 1000, 1), FRESHET_OK);
        if (i % 50 == 49)
            EXPECT_EQ(flush(&stage, 20000), FRESHET_OK);
    }
    EXPECT(counted(&stage, COUNT_MAP_FULL) < 20);
    EXPECT(has(&stage, 20999, NULL));
    EXPECT_EQ(counted(&stage, COUNT_FILLS_DROPPED), 0);
    stage_close(&stage);
}

TEST(several_processes_fill_one_small_map_and_die_as_they_like)
{
    struct stage stage;
    uint64_t state = 3;
    pid_t children[3];

    stage_open(&stage, 4 * MIB);
    for (int round = 0; round < (test_long_runs() ? 300 : 12); round++) {
        int64_t until = test_now_ns() + (int64_t)(test_random(&state) % 60000000) + 5000000;

        for (unsigned c = 0; c < 3; c++)
            if ((children[c] = test_fork()) == 0) {
                stage_inherit(&stage);
                for (uint32_t i = 0;; i++) {
                    EXPECT(fill(&stage, (c * 1000 + i) % 3000, i % 37 == 0 ? 30000 : i % 900, 1 + i) >= 0);
                    if (i % 40 == 0)
                        EXPECT_EQ(flush(&stage, 30000), FRESHET_OK);
                    (void)has(&stage, i % 3000, NULL);
                }
            }
        while (test_now_ns() < until)
            for (uint32_t i = 0; i < 3000; i += 7)
                (void)has(&stage, i, NULL);
        for (unsigned c = 0; c < 3; c++)
            test_kill(children[c], SIGKILL);
    }
    EXPECT_EQ(fill(&stage, 5000, 100, 1), FRESHET_OK); /* and the lock is nobody's */
    EXPECT_EQ(flush(&stage, 20000), FRESHET_OK);
    EXPECT(has(&stage, 5000, NULL));
    EXPECT(map_bytes(&stage) <= 4 * MIB);
    stage_close(&stage);
}

/* ---- a careless host program ---- */

TEST(closed_descriptors_break_the_writer_and_it_says_so)
{
    struct stage stage;
    struct record record = record_of(3, 1);
    uint32_t name = 1;
    char link[64], target[512];
    struct key key;
    bool left;

    test_leaves();
    stage_open(&stage, MIB);
    EXPECT_EQ(fill(&stage, name, 100, 1), FRESHET_OK);
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    EXPECT(!writer_broken(stage.writer));
    for (int fd = 3; fd < 100; fd++) {
        ssize_t size;

        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        if ((size = readlink(link, target, sizeof target - 1)) <= 0)
            continue;
        target[size] = 0;
        if (strstr(target, "/map-"))
            close(fd);
    }
    EXPECT(fill(&stage, 2, 100, 1) >= 0);        /* FRESHET_MISS if it has noticed already */
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK); /* over, if not written */
    EXPECT(test_until(writer_broken(stage.writer), 10000));
    EXPECT_EQ(counted(&stage, COUNT_FILLS_DROPPED), 1);
    key_of(&stage, &key, &name);
    EXPECT_EQ(writer_fill(stage.writer, &key, &record, "abc", NULL), FRESHET_MISS);
    writer_close(stage.writer, &left);
    EXPECT(!left);
    tier_close(stage.tier);
    control_close(&stage.control);
}

TEST(descriptors_closed_in_idleness_are_noticed_within_seconds)
{
    struct stage stage;
    bool left;

    test_leaves();
    stage_open(&stage, MIB);
    EXPECT_EQ(fill(&stage, 1, 100, 1), FRESHET_OK);
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    tier_abandon(stage.tier);
    EXPECT(test_until(writer_broken(stage.writer), 10000));
    writer_close(stage.writer, &left);
    EXPECT(!left);
    control_close(&stage.control);
}

static _Atomic int signals_heard_elsewhere;

static void on_signal(int signal)
{
    char name[16] = "";

    (void)signal;
    pthread_getname_np(pthread_self(), name, sizeof name);
    if (strcmp(name, "freshet-writer") == 0)
        atomic_fetch_add(&signals_heard_elsewhere, 1);
}

TEST(the_thread_hears_none_of_the_programs_signals)
{
    struct sigaction action = {.sa_handler = on_signal};
    struct stage stage;
    sigset_t after;

    EXPECT(sigaction(SIGUSR1, &action, NULL) == 0);
    stage_open(&stage, 4 * MIB);
    for (uint32_t i = 0; i < 2000; i++) {
        EXPECT_EQ(fill(&stage, i, 100, 1), FRESHET_OK);
        if (i % 10 == 0)
            EXPECT(kill(getpid(), SIGUSR1) == 0);
    }
    EXPECT_EQ(flush(&stage, 10000), FRESHET_OK);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    EXPECT(!sigismember(&after, SIGUSR1) && !sigismember(&after, SIGTERM)); /* the caller's own mask is as it was */
    EXPECT_EQ(signals_heard_elsewhere, 0);
    stage_close(&stage);
}

/* ---- threads ---- */

static void *crowd_fill(void *arg)
{
    struct stage *stage = arg;
    uint8_t value[200];

    for (uint32_t i = 0; i < 2000; i++) {
        struct record record = record_of(sizeof value, 1);
        uint64_t ticket;
        struct key key;

        value_fill(value, sizeof value, i);
        key_of(stage, &key, &i);
        EXPECT(writer_fill(stage->writer, &key, &record, value, &ticket) >= 0);
        if (i % 100 == 0)
            EXPECT_EQ(writer_wait(stage->writer, ticket, clock_boot_ns() + 20 * CLOCK_NS_PER_S), FRESHET_OK);
    }
    return NULL;
}

TEST(many_threads_hand_over_at_once)
{
    struct stage stage;
    pthread_t threads[8];

    stage_open(&stage, 4 * MIB);
    for (int i = 0; i < 8; i++)
        EXPECT(pthread_create(&threads[i], NULL, crowd_fill, &stage) == 0);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    EXPECT_EQ(flush(&stage, 20000), FRESHET_OK);
    EXPECT_EQ(records_in(&stage), 2000);
    EXPECT_EQ(counted(&stage, COUNT_FILLS) + counted(&stage, COUNT_FILLS_DROPPED) +
                  counted(&stage, COUNT_FILLS_REFUSED), 16000);
    stage_close(&stage);
}
