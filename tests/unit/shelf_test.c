/* shelf_test.c - the shelf: what is put there is found whole, whoever was killed before; what is taken off is gone. */
#include <test.h>

#include <fcntl.h>
#include <owner.h>
#include <pthread.h>
#include <shelf.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <step.h>
#include <string.h>
#include <sys/wait.h>
#include <tier.h>
#include <unistd.h>

#define MAP 77u

static const struct control_shape shape = {.name = "shelf", .tier_size = 1 << 20, .partitions = 2,
                                           .max_staleness_ms = 500};
static struct control control;
static struct shelf shelf;
static char dir[512];
static uint64_t map = MAP; /* whose shelf it is */

/* A page with a shelf of the least size. */
static void make(void)
{
    int fd;

    snprintf(dir, sizeof dir, "%s", fresh_dir());
    fd = open(dir, O_RDONLY | O_DIRECTORY);
    EXPECT(fd >= 0);
    EXPECT_EQ(control_create(&control, fd, &shape), FRESHET_OK);
    close(fd);
    shelf_open(&shelf, &control);
    shelf_belongs(&shelf, MAP);
}

/* A turn, however short ago the last one was. */
static bool begin(struct shelf_turn *turn)
{
    atomic_store(&control.shelf->next_ns, 0);
    return shelf_turn_begin(&shelf, map, turn);
}

struct sample {
    struct key key;
    struct record record;
    char name[64];
    uint8_t value[400];
};

static void sample_make(struct sample *sample, unsigned number, uint64_t as_of, uint32_t value_size)
{
    int size = snprintf(sample->name, sizeof sample->name, "%u-key", number);

    sample->record = (struct record){
        .kind = value_size ? RECORD_VALUE : RECORD_ABSENT, .epoch = 3, .as_of = as_of, .born = as_of - 1, .version = 5,
        .writer = 6, .source_version = 7, .expires_ns = (number + 1) * 1000000000ll, .key_size = (uint32_t)size,
        .value_size = value_size, .tag_count = number % 3, .tags = {number, as_of}};
    for (uint32_t i = 0; i < value_size; i++)
        sample->value[i] = (uint8_t)(number * 31 + as_of * 7 + i);
    key_make(&sample->key, &control.space, sample->name, (size_t)size);
}

static void put(struct shelf_turn *turn, unsigned number, uint64_t as_of, uint32_t value_size)
{
    struct sample sample;

    sample_make(&sample, number, as_of, value_size);
    shelf_put(&shelf, turn, &sample.key, &sample.record, sample.value);
}

static void put_one(unsigned number, uint64_t as_of, uint32_t value_size)
{
    struct shelf_turn turn;

    EXPECT(begin(&turn));
    put(&turn, number, as_of, value_size);
    shelf_turn_end(&shelf, &turn);
    EXPECT_EQ(turn.put, 1);
}

static void drop(unsigned number)
{
    struct sample sample;

    sample_make(&sample, number, 1, 1);
    shelf_drop(&shelf, &sample.key);
}

/* The as-of under which it is found, all of it right; 0: it is not there. */
static uint64_t found(unsigned number)
{
    struct sample sample;
    struct record record = {0};
    struct shelf_hit hit;
    freshet_buf buf = {0};
    uint64_t as_of = 0;
    struct key key;

    sample_make(&sample, number, 1, 1);
    if (shelf_read(&shelf, sample.name, sample.key.size, &key, &record, &buf, &hit)) {
        shelf_use(&hit);
        as_of = record.as_of;
        sample_make(&sample, number, as_of, (uint32_t)record.value_size);
        EXPECT(key.data == sample.name || strcmp(key.data, sample.name) == 0);
        EXPECT(memcmp(key.hash, sample.key.hash, sizeof key.hash) == 0 && key.size == sample.key.size);
        EXPECT(key.partition == sample.key.partition && key.slot == sample.key.slot);
        EXPECT(record.kind == sample.record.kind && record.epoch == 3 && record.born == as_of - 1);
        EXPECT(record.version == 5 && record.writer == 6 && record.source_version == 7);
        EXPECT(record.key_size == sample.record.key_size);
        EXPECT(record.expires_ns <= sample.record.expires_ns && /* out of a tier it may come a hair earlier */
               record.expires_ns > sample.record.expires_ns - 2000000);
        EXPECT(record.tag_count == number % 3);
        EXPECT(memcmp(record.tags, sample.record.tags, record.tag_count * sizeof *record.tags) == 0);
        EXPECT(buf.size == record.value_size);
        EXPECT(buf.size == 0 || memcmp(buf.data, sample.value, buf.size) == 0);
    }
    freshet_buf_free(&buf);
    return as_of;
}

TEST(what_is_put_is_found_whole)
{
    make();
    for (unsigned number = 0; number < 30; number++)
        EXPECT_EQ(found(number), 0);
    for (unsigned number = 0; number < 12; number++) {
        put_one(number, number + 9, number * 30);
        EXPECT_EQ(found(number), number + 9);
    }
    for (unsigned number = 0; number < 12; number++)
        EXPECT_EQ(found(number), number + 9);
    put_one(5, 100, 77);
    EXPECT_EQ(found(5), 100);
    put_one(5, 99, 78); /* whoever puts knows which is the newest */
    EXPECT_EQ(found(5), 99);
    control_close(&control);
}

TEST(what_is_taken_off_is_gone_and_nothing_else)
{
    make();
    for (unsigned number = 0; number < 12; number++)
        put_one(number, number + 9, 40);
    drop(99);
    for (unsigned number = 0; number < 12; number += 2)
        drop(number);
    for (unsigned number = 0; number < 12; number++)
        EXPECT_EQ(found(number), number % 2 ? number + 9 : 0);
    put_one(4, 200, 40);
    for (unsigned number = 0; number < 12; number++)
        EXPECT_EQ(found(number), number == 4 ? 200 : number % 2 ? number + 9 : 0);
    control_close(&control);
}

/* A stray store of the host program's. */
static void expect_a_crash(uint8_t *at)
{
    pid_t wild = fork();
    int status;

    if (wild == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        *(volatile uint8_t *)at = 1;
        _exit(0);
    }
    EXPECT_EQ(waitpid(wild, &status, 0), wild);
    EXPECT(!WIFEXITED(status) || WEXITSTATUS(status) != 0); /* a sanitizer reports, and exits */
}

/* A process opens the page as another does, and finds what is there. */
TEST(another_process_finds_it_and_its_memory_cannot_be_written_to)
{
    struct shelf_turn turn;

    make();
    put_one(1, 10, 100);
    IN_CHILD({
        char why[200];
        int fd = open(dir, O_RDONLY | O_DIRECTORY);

        EXPECT_EQ(control_open(&control, fd, &shape, why, sizeof why), CONTROL_FITS);
        shelf_open(&shelf, &control);
        shelf_belongs(&shelf, MAP);
        EXPECT_EQ(found(1), 10);
        put_one(2, 20, 100);
    });
    EXPECT_EQ(found(2), 20);

    expect_a_crash((uint8_t *)(uintptr_t)control.shelf_sets);
    expect_a_crash(control.shelf_room);
    EXPECT(begin(&turn));
    put(&turn, 3, 30, 100);
    shelf_turn_end(&shelf, &turn);
    expect_a_crash(control.shelf_room);
    EXPECT_EQ(found(1), 10);
    control_close(&control);
}

/* So many that they cannot all be there: those that are read stay. */
TEST(who_is_read_stays_when_others_come)
{
    unsigned wanted = 0, there = 0;

    make();
    for (unsigned number = 0; number < 2000; number++) {
        put_one(number, 9, 60);
        EXPECT_EQ(found(number), 9);
        for (unsigned hot = 0; hot < 8; hot++)
            (void)found(hot);
    }
    for (unsigned number = 0; number < 2000; number++) {
        bool is = found(number) != 0;

        there += is;
        wanted += is && number < 8;
    }
    EXPECT_EQ(wanted, 8);
    EXPECT(there >= control.shelf_count * 12 && there <= control.shelf_count * CONTROL_SHELF_WAYS);
    control_close(&control);
}

TEST(what_is_too_large_does_not_fit)
{
    struct record record = {.key_size = 32, .value_size = 400};

    EXPECT(shelf_fits(&record));
    record.value_size = 401;
    EXPECT(!shelf_fits(&record));
    record.value_size = UINT64_MAX - 100;
    EXPECT(!shelf_fits(&record));
    record = (struct record){.key_size = 300, .value_size = 0, .tag_count = RECORD_TAGS_MAX};
    EXPECT(!shelf_fits(&record));
}

/* Page and shelf together; in a pool, whose size the pages of all its caches are part of, they are a smaller part. */
TEST(the_page_is_a_twentieth_of_the_tier_at_most)
{
    for (uint64_t size = 32ull << 20; size <= 64ull << 30; size += size / 3) {
        struct control_shape one = {.name = "size", .tier_size = size, .partitions = 1};
        size_t alone = control_file_size(&one);

        EXPECT(alone <= size / 20);
        one.pool = 1;
        EXPECT(control_file_size(&one) <= size / 30);
        EXPECT(control_file_size(&one) <= alone);
    }
}

/* ---- who is killed ---- */

static const char *end_at;

static void end_there(const char *point)
{
    if (strcmp(point, end_at) == 0)
        (void)raise(SIGKILL);
}

static void killed_at(const char *point, unsigned number)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        struct shelf_turn turn;

        end_at = point;
        step_hook = end_there;
        if (begin(&turn))
            put(&turn, number, 50, 60);
        _exit(0);
    }
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST(a_killed_writer_costs_its_set_until_the_next_comes)
{
    static const char *const points[] = {"shelf_opened", "shelf_written"};

    make();
    for (unsigned i = 0; i < 2; i++) {
        unsigned there = 0;

        for (unsigned number = 0; number < 12; number++)
            put_one(number, number + 9, 60);
        killed_at(points[i], 3);
        EXPECT_EQ(found(3), 0);
        for (unsigned number = 0; number < 12; number++)
            there += found(number) != 0;
        EXPECT(there < 12);
        put_one(3, 70, 60); /* its lock has gone with it */
        EXPECT_EQ(found(3), 70);
        for (unsigned number = 0; number < 12; number++)
            (void)found(number);
    }
    control_close(&control);
}

/* ---- turns ---- */

TEST(one_at_a_time_has_a_turn)
{
    struct shelf_turn turn;

    make();
    EXPECT(begin(&turn));
    IN_CHILD({
        struct shelf_turn other;

        EXPECT(!begin(&other));
    });
    shelf_turn_end(&shelf, &turn);
    IN_CHILD({
        struct shelf_turn other;

        EXPECT(begin(&other));
        shelf_turn_end(&shelf, &other);
    });
    EXPECT(!shelf_turn_begin(&shelf, MAP, &turn)); /* too soon */
    atomic_store(&control.shelf->next_ns, INT64_MAX); /* somebody wrote that there */
    EXPECT(shelf_turn_begin(&shelf, MAP, &turn));
    shelf_turn_end(&shelf, &turn);
    control_close(&control);
}

TEST(another_map_has_another_shelf)
{
    struct shelf_turn turn;

    make();
    put_one(1, 10, 20);
    shelf_belongs(&shelf, MAP);
    EXPECT_EQ(found(1), 10);
    shelf_belongs(&shelf, MAP + 1);
    EXPECT_EQ(found(1), 0);
    EXPECT(!begin(&turn)); /* MAP's writer has not noticed yet */
    map = MAP + 1;
    put_one(1, 11, 20);
    EXPECT_EQ(found(1), 11);
    control_close(&control);
}

static void take_it_away(const char *point)
{
    if (strcmp(point, "shelf_opened") == 0)
        shelf_belongs(&shelf, MAP + 1);
}

TEST(a_turn_ends_when_the_shelf_becomes_another_maps)
{
    struct shelf_turn turn;

    make();
    for (unsigned number = 0; number < 12; number++)
        put_one(number, 10, 20);
    EXPECT(begin(&turn));
    step_hook = take_it_away;
    put(&turn, 1, 11, 20);
    step_hook = (void (*)(const char *))0;
    put(&turn, 2, 11, 20);
    shelf_turn_end(&shelf, &turn);
    EXPECT_EQ(turn.put, 0);
    for (unsigned number = 0; number < 12; number++)
        EXPECT_EQ(found(number), 0);
    control_close(&control);
}

TEST(a_turn_from_before_exec_is_nobodys)
{
    struct shelf_turn turn;

    make();
    atomic_store(&control.shelf->owner, owner_self());
    EXPECT(begin(&turn));
    EXPECT(!begin(&turn));
    shelf_turn_end(&shelf, &turn);
    control_close(&control);
}

/* ---- readers beside the writer ---- */

static _Atomic bool over;
static _Atomic unsigned long finds;

/* Every other time the same one. */
static void *read_on(void *arg)
{
    unsigned round = 0;

    (void)arg;
    for (; !over; round++)
        finds += found(round % 2 ? round % 24 : 0) != 0;
    return NULL;
}

/* Mostly it is the same entry, in the same place, that is written while it is copied. */
TEST(a_reader_gets_all_of_an_entry_or_nothing)
{
    struct shelf_turn turn;
    pthread_t threads[2];
    unsigned round = 0;

    make();
    for (int i = 0; i < 2; i++)
        EXPECT_EQ(pthread_create(&threads[i], NULL, read_on, NULL), 0);
    EXPECT(begin(&turn));
    for (int64_t end = test_now_ns() + 700000000; test_now_ns() < end || finds < 1000; round++) {
        if (round % 8 == 0)
            put(&turn, round / 8 % 24, 9 + round, 8 + round * 13 % 300);
        else
            put(&turn, 0, 9 + round, 300);
        if (round % 64 == 0)
            drop(round / 64 % 24);
    }
    shelf_turn_end(&shelf, &turn);
    over = true;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    control_close(&control);
}

/* ---- with a tier ---- */

static struct tier *tier;

static void tier_make(void)
{
    bool damaged;

    make();
    EXPECT_EQ(tier_open(&tier, dir, 1, &control.space, 4 << 20, 1 << 16, &damaged), FRESHET_OK);
    tier_use_shelf(tier, &shelf);
    map = atomic_load(&control.shelf->map);
}

static void tier_put(unsigned number, uint64_t as_of)
{
    struct tier_txn *txn;
    struct sample sample;

    sample_make(&sample, number, as_of, 60);
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    EXPECT_EQ(tier_write(txn, &sample.key, &sample.record, sample.value, 0, 0), FRESHET_OK);
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
}

static uint64_t tier_has(unsigned number)
{
    struct sample sample;
    struct record record;

    sample_make(&sample, number, 1, 1);
    return tier_read(tier, &sample.key, &record, NULL) == FRESHET_OK ? record.as_of : 0;
}

static uint8_t tier_touched(unsigned number)
{
    struct tier_fate where;
    struct tier_txn *txn;
    struct sample sample;
    struct record record;

    sample_make(&sample, number, 1, 1);
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    EXPECT_EQ(tier_peek(txn, &sample.key, &record, &where), FRESHET_OK);
    tier_drop(txn);
    return where.touched;
}

/* What readers wished for. */
static uint32_t shelve(void)
{
    struct tier_txn *txn;
    int64_t next_ns;
    uint32_t count;

    atomic_store(&control.shelf->next_ns, 0);
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    count = tier_shelve(txn, &next_ns);
    tier_drop(txn);
    return count;
}

/* A reader has met the tier's record. */
static void wish(unsigned number)
{
    struct sample sample;

    sample_make(&sample, number, 1, 60);
    shelf_missed(&shelf, &sample.key, &sample.record);
}

TEST(a_wish_brings_the_tiers_record)
{
    tier_make();
    EXPECT(!tier_wished(tier));
    tier_put(1, 10);
    tier_put(2, 20);
    wish(1);
    wish(3); /* there is none */
    EXPECT(tier_wished(tier));
    EXPECT_EQ(shelve(), 1);
    EXPECT(!tier_wished(tier));
    EXPECT(found(1) == 10 && found(2) == 0 && found(3) == 0);
    EXPECT_EQ(shelve(), 0);
    tier_close(tier);
    control_close(&control);
}

static uint8_t touched_at_tail[8];

static struct tier_fate look_at_tail(const struct tier_entry *entry, void *arg)
{
    (void)arg;
    touched_at_tail[entry->key.data ? ((const char *)entry->key.data)[0] - '0' : 7] = entry->touched;
    return (struct tier_fate){.keep = true, .log = 1};
}

/* What the policy is told of the records at a tail. */
static void tail(uint32_t log)
{
    struct tier_found tail_found;
    struct tier_txn *txn;

    memset(touched_at_tail, 0, sizeof touched_at_tail);
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    EXPECT_EQ(tier_tail(txn, log, look_at_tail, NULL, &tail_found), FRESHET_OK);
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
}

/* Fill the sheet at a log's head, so that what is on it can be looked at. */
static void next_sheet(uint32_t log)
{
    struct tier_txn *txn;
    struct sample sample;

    sample_make(&sample, 70, 9, 400);
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    for (unsigned i = 0; i < 12; i++)
        EXPECT_EQ(tier_write(txn, &sample.key, &sample.record, sample.value, log, 0), FRESHET_OK);
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
}

TEST(the_policy_hears_of_reads_on_the_shelf_once)
{
    tier_make();
    for (unsigned number = 1; number < 4; number++)
        tier_put(number, 10);
    wish(1);
    wish(2);
    EXPECT_EQ(shelve(), 2);
    EXPECT_EQ(found(1), 10);
    for (unsigned number = 10; number < 40; number++) /* in all sets: nothing of what was read is forgotten */
        put_one(number, 10, 60);
    wish(3);
    EXPECT_EQ(shelve(), 1);
    next_sheet(0);
    tail(0);
    EXPECT(touched_at_tail[1] != 0 && touched_at_tail[2] == 0 && touched_at_tail[3] == 0);
    next_sheet(1);
    tail(1);
    EXPECT(touched_at_tail[1] == 0);
    EXPECT_EQ(found(1), 10);
    EXPECT(tier_touched(1) != 0 && tier_touched(2) == 0); /* and who writes it anew */
    tier_close(tier);
    control_close(&control);
}

static void sample_of_hits(unsigned number, unsigned count)
{
    while (count-- > 0)
        wish(number);
}

static struct tier_fate let_go(const struct tier_entry *entry, void *arg)
{
    (void)entry;
    (void)arg;
    return (struct tier_fate){0};
}

/* What has left the tier is not answered from the shelf: other paths do not look there. */
TEST(what_leaves_the_tier_leaves_the_shelf)
{
    struct tier_found tail_found;
    struct tier_txn *txn;
    struct sample sample;
    uint32_t asked, gone;

    tier_make();
    for (unsigned number = 1; number < 4; number++) {
        tier_put(number, 10);
        wish(number);
    }
    EXPECT_EQ(shelve(), 3);
    sample_make(&sample, 1, 10, 60);
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    tier_delete(txn, &sample.key);
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
    EXPECT(found(1) == 0 && found(2) == 10 && found(3) == 10);
    next_sheet(0);
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    EXPECT_EQ(tier_tail(txn, 0, let_go, NULL, &tail_found), FRESHET_OK);
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
    EXPECT(found(2) == 0 && found(3) == 0 && tier_has(2) == 0);
    tier_put(2, 10);
    wish(2);
    EXPECT_EQ(shelve(), 1);
    EXPECT_EQ(tier_begin(tier, &txn), FRESHET_OK);
    (void)tier_sweep(txn, 1000, let_go, NULL, &asked, &gone);
    EXPECT_EQ(tier_commit(txn), FRESHET_OK);
    EXPECT(gone > 0 && found(2) == 0);
    tier_close(tier);
    control_close(&control);
}

TEST(nobody_looks_where_too_little_is)
{
    struct sample large;

    tier_make();
    tier_put(1, 10);
    EXPECT(shelf_helps(&shelf));
    sample_of_hits(1, 300);
    EXPECT(!shelf_helps(&shelf)); /* it is not there yet */
    EXPECT_EQ(shelve(), 1);
    sample_of_hits(1, 512);
    EXPECT(shelf_helps(&shelf));
    sample_make(&large, 2, 10, 1);
    large.record.value_size = 1000;
    for (unsigned i = 0; i < 512; i++)
        shelf_missed(&shelf, &large.key, &large.record);
    EXPECT(!shelf_helps(&shelf));
    EXPECT(!tier_wished(tier));
    for (unsigned i = 0; i < 256; i++)
        shelf_met(&shelf);
    EXPECT(shelf_helps(&shelf));
    tier_close(tier);
    control_close(&control);
}

static uint64_t on_shelf, in_tier;

/* Between the shelf's end of the old record and the index's. */
static void look_at(const char *point)
{
    if (strcmp(point, "tier_dropped") == 0) {
        on_shelf = found(1);
        in_tier = tier_has(1);
    }
}

TEST(nobody_meets_the_older_record_after_the_newer_one)
{
    tier_make();
    tier_put(1, 10);
    wish(1);
    EXPECT_EQ(shelve(), 1);
    EXPECT_EQ(found(1), 10);
    on_shelf = 99;
    step_hook = look_at;
    tier_put(1, 11);
    step_hook = (void (*)(const char *))0;
    EXPECT_EQ(on_shelf, 0);
    EXPECT_EQ(in_tier, 10);
    EXPECT_EQ(found(1), 0);
    EXPECT_EQ(tier_has(1), 11);
    wish(1);
    EXPECT_EQ(shelve(), 1);
    EXPECT_EQ(found(1), 11);
    tier_close(tier);
    control_close(&control);
}

/* Who commits and dies before the index leads there: whoever comes next takes the copy off. */
TEST(a_dead_writers_record_takes_the_copy_off_too)
{
    int status;
    pid_t child;

    tier_make();
    tier_put(1, 10);
    wish(1);
    EXPECT_EQ(shelve(), 1);
    tier_close(tier);
    child = fork();
    if (child == 0) {
        bool damaged;

        if (tier_open(&tier, dir, 1, &control.space, 4 << 20, 1 << 16, &damaged) != FRESHET_OK)
            _exit(1);
        tier_use_shelf(tier, &shelf);
        end_at = "tier_committed";
        step_hook = end_there;
        tier_put(1, 11);
        _exit(1);
    }
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT(WIFSIGNALED(status));
    EXPECT_EQ(found(1), 10);

    bool damaged;

    EXPECT_EQ(tier_open(&tier, dir, 1, &control.space, 4 << 20, 1 << 16, &damaged), FRESHET_OK);
    tier_use_shelf(tier, &shelf);
    EXPECT_EQ(found(1), 10);
    tier_put(2, 12);
    EXPECT_EQ(found(1), 0);
    EXPECT_EQ(tier_has(1), 11);
    tier_close(tier);
    control_close(&control);
}
