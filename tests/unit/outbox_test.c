/* outbox_test.c - no change is lost, hidden or left over, wherever a process dies. */
#include <clock.h>
#include <control.h>
#include <errno.h>
#include <fcntl.h>
#include <page.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <step.h>
#include <string.h>
#include <sys/wait.h>
#include <test.h>
#include <unistd.h>

static struct control page;

static void page_make(void)
{
    struct control_shape shape = {.name = "orders", .tier_size = 1 << 20, .partitions = 4, .max_staleness_ms = 500};
    int fd = open(fresh_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    EXPECT(control_create(&page, fd, &shape) == FRESHET_OK);
    close(fd);
}

/* The hash that stands for number `n` in partition n mod 4. */
static const uint8_t (*hash_of(uint64_t n))[16]
{
    static _Thread_local uint8_t hashes[8][1][16]; /* a hook may ask for one while a call has another */
    static _Thread_local unsigned next;
    uint8_t(*hash)[16] = hashes[next++ % 8];

    memset(hash, 0, 16);
    hash[0][0] = (uint8_t)(n % 4);
    memcpy(hash[0] + 8, &n, sizeof n);
    return (const uint8_t(*)[16])hash;
}

static bool pending(uint64_t n)
{
    struct key key;

    key_from_hash(&key, &page.space, hash_of(n)[0]);
    EXPECT_EQ(key.partition, n % 4);
    return control_outbox_pending(&page, &key);
}

static uint16_t added(uint64_t n)
{
    uint16_t slot;

    EXPECT(control_outbox_add(&page, (uint32_t)(n % 4), OUTBOX_KEY, hash_of(n), 1, &slot));
    EXPECT(pending(n));
    return slot;
}

static void done(uint16_t slot, uint64_t position)
{
    control_outbox_done(&page, &slot, 1, position);
}

static uint32_t mark(void)
{
    return (uint32_t)(atomic_load(control_outbox_word(&page)) & 0xffff);
}

/* Take and confirm whatever waits anywhere; how much it was. */
static uint32_t drain(void)
{
    static uint8_t hashes[CONTROL_OUTBOX_SLOTS][16];
    static uint16_t slots[CONTROL_OUTBOX_SLOTS];
    uint32_t all = 0, n;

    for (uint32_t p = 0; p < 4; p++)
        for (unsigned kind = OUTBOX_KEY; kind <= OUTBOX_CLEAR; kind++)
            while ((n = control_outbox_take(&page, p, (enum control_outbox_kind)kind, CONTROL_OUTBOX_SLOTS, hashes,
                                            slots)) > 0) {
                control_outbox_done(&page, slots, n, 1);
                all += n;
            }
    return all;
}

/* Take every slot there is, with keys of partition 0; how many it was. */
static uint32_t fill_up(uint16_t *slots)
{
    uint32_t n = 0;

    while (control_outbox_add(&page, 0, OUTBOX_KEY, hash_of(4 * n), 1, &slots[n]))
        n++;
    return n;
}

/* Nothing is in, and every slot can be used. */
static void expect_empty(void)
{
    static uint16_t slots[CONTROL_OUTBOX_SLOTS];

    EXPECT_EQ(drain(), 0);
    EXPECT_EQ(mark(), 0);
    EXPECT_EQ(control_outbox_waiting(&page, UINT32_MAX), 0);
    EXPECT_EQ(fill_up(slots), CONTROL_OUTBOX_SLOTS);
    control_outbox_done(&page, slots, CONTROL_OUTBOX_SLOTS, 0);
    EXPECT_EQ(mark(), 0);
}

/* ---- one process ---- */

TEST(what_is_added_hides_its_key_until_it_is_done)
{
    uint16_t a, b;

    page_make();
    EXPECT_EQ(mark(), 0);
    EXPECT(!pending(5));
    a = added(5);
    EXPECT(!pending(1) && !pending(6)); /* another key of the partition; another partition */
    b = added(6);
    EXPECT_EQ(control_outbox_waiting(&page, UINT32_MAX), 0); /* they are on the way */
    EXPECT_EQ(control_outbox_count(&page), 2);               /* and hide their keys */
    done(a, 10);
    EXPECT(!pending(5) && pending(6));
    done(b, 11);
    EXPECT(!pending(6));
    expect_empty();
}

TEST(the_same_key_twice_hides_until_both_are_done)
{
    uint16_t a, b;

    page_make();
    a = added(5);
    b = added(5);
    done(b, 1);
    EXPECT(pending(5));
    done(a, 2);
    EXPECT(!pending(5));
}

TEST(every_byte_of_the_hash_counts)
{
    struct key key;
    uint8_t hash[1][16] = {{0}};
    uint16_t slot;

    page_make();
    EXPECT(control_outbox_add(&page, 0, OUTBOX_KEY, (const uint8_t(*)[16])hash, 1, &slot));
    for (int i = 0; i < 16; i++) {
        memset(hash, 0, sizeof hash);
        hash[0][i] = 0x40; /* a multiple of 4: the partition stays */
        key_from_hash(&key, &page.space, hash[0]);
        EXPECT(!control_outbox_pending(&page, &key));
    }
    memset(hash, 0, sizeof hash);
    key_from_hash(&key, &page.space, hash[0]);
    EXPECT(control_outbox_pending(&page, &key));
}

TEST(a_clear_hides_its_partition_alone)
{
    uint16_t slot;

    page_make();
    EXPECT(control_outbox_add(&page, 2, OUTBOX_CLEAR, NULL, 0, &slot));
    EXPECT(pending(2) && pending(6) && pending(4002) && !pending(1) && !pending(3) && !pending(4));
    control_outbox_queue(&page, &slot, 1);
    EXPECT(pending(2));
    EXPECT_EQ(control_outbox_waiting(&page, 2), 1);
    EXPECT_EQ(control_outbox_waiting(&page, 1), 0);
    EXPECT_EQ(control_outbox_take(&page, 2, OUTBOX_KEY, 10, NULL, &slot), 0);
    EXPECT_EQ(control_outbox_take(&page, 2, OUTBOX_CLEAR, 10, NULL, &slot), 1);
    done(slot, 5);
    EXPECT(!pending(2));
    expect_empty();
}

TEST(what_is_queued_is_taken_once)
{
    uint8_t hashes[10][16];
    uint16_t slots[10], mine[3] = {0};

    page_make();
    for (unsigned i = 0; i < 3; i++)
        mine[i] = added(1 + 4 * i);
    EXPECT_EQ(control_outbox_take(&page, 1, OUTBOX_KEY, 10, hashes, slots), 0);
    control_outbox_queue(&page, mine, 3);
    EXPECT_EQ(control_outbox_waiting(&page, 1), 3);
    EXPECT_EQ(control_outbox_take(&page, 0, OUTBOX_KEY, 10, hashes, slots), 0);
    EXPECT_EQ(control_outbox_take(&page, 1, OUTBOX_KEY, 2, hashes, slots), 2);
    EXPECT_EQ(control_outbox_waiting(&page, 1), 1);
    EXPECT_EQ(control_outbox_take(&page, 1, OUTBOX_KEY, 10, hashes + 2, slots + 2), 1);
    EXPECT_EQ(control_outbox_take(&page, 1, OUTBOX_KEY, 10, hashes + 3, slots + 3), 0);
    for (unsigned i = 0; i < 3; i++)
        EXPECT(memcmp(hashes[i], hash_of(1 + 4 * i)[0], 16) == 0);
    EXPECT(pending(1) && pending(5) && pending(9));
    control_outbox_queue(&page, slots, 3); /* it did not get through */
    EXPECT_EQ(control_outbox_waiting(&page, 1), 3);
    EXPECT_EQ(drain(), 3);
    expect_empty();
}

TEST(done_twice_or_by_another_ends_nothing)
{
    uint16_t slot;

    page_make();
    slot = added(1);
    IN_CHILD({
        done(slot, 5);
        control_outbox_queue(&page, &slot, 1);
    });
    EXPECT(pending(1));
    EXPECT_EQ(control_outbox_waiting(&page, UINT32_MAX), 0);
    control_outbox_queue(&page, &slot, 1);
    done(slot, 5); /* it has been given away */
    EXPECT(pending(1));
    EXPECT_EQ(drain(), 1);
    done(slot, 5);
    expect_empty();
}

TEST(a_full_outbox_refuses_all_or_nothing_and_clears_instead)
{
    static uint16_t slots[CONTROL_OUTBOX_SLOTS];
    static uint8_t many[CONTROL_OUTBOX_SLOTS + 1][16];
    uint16_t clear[3], ends[2];
    uint32_t before;

    page_make();
    EXPECT_EQ(fill_up(slots), CONTROL_OUTBOX_SLOTS);
    EXPECT(!pending(2));
    ends[0] = slots[7];
    ends[1] = slots[4095];
    control_outbox_done(&page, ends, 2, 0);
    before = mark();
    EXPECT(!control_outbox_add(&page, 1, OUTBOX_KEY, (const uint8_t(*)[16])many, 3, clear)); /* room for two */
    EXPECT(mark() <= before);
    EXPECT(!pending(1));
    EXPECT(control_outbox_add(&page, 1, OUTBOX_KEY, (const uint8_t(*)[16])many, 2, clear));
    EXPECT(control_outbox_add(&page, 2, OUTBOX_CLEAR, NULL, 0, clear));
    EXPECT(pending(2) && pending(6) && !pending(3));
    control_outbox_queue(&page, clear, 1);
    done(clear[0], 9); /* the adder's own: ends nothing */
    EXPECT(pending(2));
    EXPECT_EQ(control_outbox_waiting(&page, 2), 1);
    EXPECT_EQ(control_outbox_take(&page, 2, OUTBOX_CLEAR, 5, NULL, clear), 1);
    EXPECT_EQ(control_outbox_waiting(&page, 2), 0);
    done(clear[0], 9);
    EXPECT(!pending(2));
    for (uint32_t i = 0; i < CONTROL_OUTBOX_SLOTS; i++)
        done((uint16_t)i, 0);
    EXPECT(!control_outbox_add(&page, 1, OUTBOX_KEY, (const uint8_t(*)[16])many, CONTROL_OUTBOX_SLOTS + 1, slots));
    expect_empty();
}

TEST(a_shared_clear_ends_only_with_one_sent_after_the_last_adding)
{
    static uint16_t slots[CONTROL_OUTBOX_SLOTS];
    uint16_t first, second, third, sent, again;

    page_make();
    (void)fill_up(slots);
    EXPECT(control_outbox_add(&page, 3, OUTBOX_CLEAR, NULL, 0, &first));
    EXPECT(control_outbox_add(&page, 3, OUTBOX_CLEAR, NULL, 0, &second));
    EXPECT_EQ(control_outbox_take(&page, 3, OUTBOX_CLEAR, 5, NULL, &sent), 1);
    EXPECT(control_outbox_add(&page, 3, OUTBOX_CLEAR, NULL, 0, &third)); /* while it is on its way */
    done(sent, 7);
    EXPECT(pending(3));
    EXPECT_EQ(control_outbox_take(&page, 3, OUTBOX_CLEAR, 5, NULL, &again), 1);
    done(sent, 7); /* the earlier sending's, late, by the same process */
    EXPECT(pending(3));
    control_outbox_queue(&page, &sent, 1);
    EXPECT_EQ(control_outbox_waiting(&page, 3), 0); /* nor does it give away what is another's */
    control_outbox_queue(&page, &again, 1);
    EXPECT_EQ(control_outbox_take(&page, 3, OUTBOX_CLEAR, 5, NULL, &again), 1);
    done(again, 8);
    EXPECT(!pending(3));
    done(first, 9);
    done(second, 9);
    EXPECT_EQ(control_outbox_waiting(&page, 3), 0);
    for (int i = 0; i < 5000; i++) { /* generations come round */
        EXPECT(control_outbox_add(&page, 3, OUTBOX_CLEAR, NULL, 0, &first));
        EXPECT(first >= CONTROL_OUTBOX_SLOTS && pending(3));
        EXPECT_EQ(control_outbox_take(&page, 3, OUTBOX_CLEAR, 5, NULL, &sent), 1);
        done(sent, 1);
        EXPECT(!pending(3));
    }
    control_outbox_done(&page, slots, CONTROL_OUTBOX_SLOTS, 0);
    expect_empty();
}

TEST(the_mark_falls_as_far_as_it_may)
{
    uint16_t slots[10];

    page_make();
    for (unsigned i = 0; i < 10; i++)
        slots[i] = added(i);
    EXPECT_EQ(mark(), 11);
    done(slots[3], 0);
    EXPECT_EQ(mark(), 11);
    for (unsigned i = 5; i < 10; i++)
        done(slots[i], 0);
    EXPECT_EQ(mark(), 6);
    done(slots[4], 0);
    EXPECT_EQ(mark(), 4); /* over the hole */
    for (unsigned i = 0; i < 3; i++)
        done(slots[i], 0);
    EXPECT_EQ(mark(), 0);
}

/* ---- interleavings, stepped ---- */

static const char *act_at;
static void (*act)(void);

/* At the point, once, and not within itself: do what another thread or process would. */
static void act_hook(const char *point)
{
    void (*now)(void) = act;

    if (!now || strcmp(point, act_at) != 0)
        return;
    act = NULL;
    now();
}

static void at(const char *point, void (*what)(void))
{
    act_at = point;
    act = what;
    step_hook = act_hook;
}

static uint16_t others;

static void other_adds(void)
{
    others = added(7);
    EXPECT(pending(7));
}

static void other_comes_and_goes(void)
{
    done(added(3), 1);
}

TEST(lowering_the_mark_never_uncovers_an_adder)
{
    uint16_t slot;

    page_make();
    slot = added(1);
    at("outbox_lowering", other_adds); /* all was seen free; now somebody adds; then the swap */
    done(slot, 5);
    EXPECT(!act);
    EXPECT(pending(7));
    done(others, 6);
    EXPECT_EQ(mark(), 0);
}

TEST(an_adder_between_claim_and_mark_is_covered_in_the_end)
{
    uint16_t slot;

    page_make();
    at("outbox_claimed", other_comes_and_goes); /* claims above ours, frees, lowers: ours is claimed, the mark may go */
    slot = added(1);
    EXPECT(!act);
    EXPECT(pending(1));
    done(slot, 1);
    expect_empty();
}

TEST(an_adder_between_mark_and_hash_is_left_its_mark)
{
    uint16_t slot;

    page_make();
    at("outbox_covered", other_comes_and_goes);
    slot = added(1);
    EXPECT(!act && pending(1));
    at("outbox_filled", other_comes_and_goes);
    done(slot, 1);
    slot = added(2);
    EXPECT(!act && pending(2));
    done(slot, 1);
    expect_empty();
}

/* ---- owners that die ---- */

static const char *die_at;

static void die_hook(const char *point)
{
    if (strcmp(point, die_at) == 0)
        kill(getpid(), SIGKILL);
}

/* Run `life` in a child that dies at the point; it must get there. */
static void dies_at(const char *point, void (*life)(void))
{
    int status;
    pid_t child = test_fork();

    if (child == 0) {
        die_at = point;
        step_hook = die_hook;
        life();
        test_child_done();
    }
    while (waitpid(child, &status, 0) < 0)
        EXPECT(errno == EINTR);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void life_adds(void)
{
    uint8_t three[3][16];
    uint16_t slots[3];

    for (unsigned i = 0; i < 3; i++)
        memcpy(three[i], hash_of(1 + 4 * i)[0], 16);
    (void)control_outbox_add(&page, 1, OUTBOX_KEY, (const uint8_t(*)[16])three, 3, slots);
    control_outbox_done(&page, slots, 3, 77);
}

TEST(an_adder_that_dies_before_it_has_promised_leaves_nothing)
{
    static const char *const points[] = {"outbox_claimed", "outbox_covered", "outbox_filled"};
    static uint16_t slots[CONTROL_OUTBOX_SLOTS];

    for (unsigned i = 0; i < 3; i++) {
        page_make();
        dies_at(points[i], life_adds);
        EXPECT(!pending(1) && !pending(5) && !pending(9));
        EXPECT_EQ(control_outbox_waiting(&page, UINT32_MAX), 0);
        EXPECT_EQ(fill_up(slots), CONTROL_OUTBOX_SLOTS); /* every slot can be used again */
        control_outbox_done(&page, slots, CONTROL_OUTBOX_SLOTS, 0);
        expect_empty();
    }
}

TEST(a_sender_that_dies_leaves_orphans_that_are_sent)
{
    static const char *const points[] = {"outbox_remembering", "outbox_remembered"};

    for (unsigned i = 0; i < 2; i++) {
        uint8_t hashes[5][16];
        uint16_t slots[5];

        page_make();
        dies_at(points[i], life_adds);
        EXPECT(pending(1) && pending(5) && pending(9));
        EXPECT_EQ(control_outbox_waiting(&page, 1), 3);
        EXPECT_EQ(control_outbox_take(&page, 1, OUTBOX_KEY, 5, hashes, slots), 3);
        for (unsigned n = 0; n < 3; n++)
            EXPECT(memcmp(hashes[n], hash_of(1 + 4 * n)[0], 16) == 0);
        EXPECT(pending(1));
        control_outbox_done(&page, slots, 3, 5);
        expect_empty();
    }
}

TEST(who_dies_while_freeing_leaves_only_a_mark_too_high)
{
    static const char *const points[] = {"outbox_freed", "outbox_lowering"};

    for (unsigned i = 0; i < 2; i++) {
        page_make();
        dies_at(points[i], life_adds);
        EXPECT(!pending(1) && !pending(5) && !pending(9));
        EXPECT_EQ(control_outbox_waiting(&page, UINT32_MAX), 0);
        done(added(3), 1); /* the next to come lowers it */
        expect_empty();
    }
}

static void life_takes(void)
{
    uint8_t hash[1][16];
    uint16_t slot;

    (void)control_outbox_take(&page, 1, OUTBOX_KEY, 1, hash, &slot);
    control_outbox_done(&page, &slot, 1, 5);
}

TEST(a_taker_that_dies_is_taken_over_from)
{
    static const char *const points[] = {"outbox_taken", "outbox_remembering", "outbox_remembered"};

    for (unsigned i = 0; i < 3; i++) {
        uint16_t slot;

        page_make();
        slot = added(1);
        control_outbox_queue(&page, &slot, 1);
        dies_at(points[i], life_takes);
        EXPECT(pending(1));
        EXPECT_EQ(control_outbox_waiting(&page, 1), 1);
        EXPECT_EQ(drain(), 1);
        expect_empty();
    }
}

static void life_shares(void)
{
    uint16_t slot;

    (void)control_outbox_add(&page, 1, OUTBOX_CLEAR, NULL, 0, &slot);
}

TEST(a_shared_clear_outlives_its_adder_and_its_sender)
{
    static uint16_t slots[CONTROL_OUTBOX_SLOTS];
    pid_t child;

    page_make();
    (void)fill_up(slots);
    dies_at("outbox_shared", life_shares);
    EXPECT(pending(1));
    EXPECT_EQ(control_outbox_waiting(&page, 1), 1);
    if ((child = test_fork()) == 0) {
        uint16_t sent;

        EXPECT_EQ(control_outbox_take(&page, 1, OUTBOX_CLEAR, 1, NULL, &sent), 1);
        test_child_done();
    }
    test_join(child);
    EXPECT(pending(1));
    EXPECT_EQ(control_outbox_waiting(&page, 1), 1);
    EXPECT_EQ(drain(), 1);
    EXPECT(!pending(1));
    control_outbox_done(&page, slots, CONTROL_OUTBOX_SLOTS, 0);
    expect_empty();
}

/* A child that has added key 1 and lives on, until it is told (a byte) or killed. */
static pid_t living_sender(int *ret_tell)
{
    int ready[2], tell[2];
    char byte;
    pid_t child;

    EXPECT(pipe(ready) == 0 && pipe(tell) == 0);
    if ((child = test_fork()) == 0) {
        uint16_t slot = added(1);

        EXPECT(write(ready[1], "!", 1) == 1);
        if (read(tell[0], &byte, 1) == 1)
            done(slot, 3);
        test_child_done();
    }
    EXPECT(read(ready[0], &byte, 1) == 1);
    *ret_tell = tell[1];
    return child;
}

TEST(what_a_living_process_sends_is_left_to_it)
{
    uint16_t slot;
    int tell;
    pid_t child;

    page_make();
    child = living_sender(&tell);
    EXPECT(pending(1));
    EXPECT_EQ(control_outbox_waiting(&page, 1), 0);
    EXPECT_EQ(control_outbox_take(&page, 1, OUTBOX_KEY, 1, NULL, &slot), 0);
    test_kill(child, SIGSTOP); /* stopped is not dead */
    EXPECT_EQ(control_outbox_take(&page, 1, OUTBOX_KEY, 1, NULL, &slot), 0);
    EXPECT(pending(1));
    test_kill(child, SIGCONT);
    EXPECT(write(tell, "!", 1) == 1);
    test_join(child);
    expect_empty();
}

TEST(a_zombie_is_dead)
{
    siginfo_t info;
    int tell;
    pid_t child;

    page_make();
    child = living_sender(&tell);
    EXPECT(kill(child, SIGKILL) == 0);
    EXPECT(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0); /* ended, not buried */
    EXPECT(kill(child, 0) == 0);
    EXPECT(test_until(control_outbox_waiting(&page, 1) == 1, 2000));
    EXPECT_EQ(drain(), 1);
    expect_empty();
}

TEST(a_process_id_that_came_again_is_another_owner)
{
    uint64_t word;
    int tell;
    pid_t child;

    page_make();
    child = living_sender(&tell);
    word = atomic_load(&page.outbox[0].word);
    EXPECT_EQ(control_outbox_waiting(&page, 1), 0);
    atomic_store(&page.outbox[0].word, word ^ (uint64_t)4 << 37); /* the same id, started at another time */
    EXPECT_EQ(control_outbox_waiting(&page, 1), 1);
    EXPECT_EQ(drain(), 1);
    test_kill(child, SIGKILL);
}

TEST(a_forked_child_is_an_owner_of_its_own)
{
    uint16_t slot;

    page_make();
    done(added(2), 1); /* the parent knows itself */
    IN_CHILD({
        slot = added(1);
        EXPECT((atomic_load(&page.outbox[slot].word) >> 15 & 0x3fffff) == (uint64_t)getpid());
    });
    EXPECT_EQ(control_outbox_waiting(&page, 1), 1); /* and dead now */
    EXPECT_EQ(drain(), 1);
}

TEST(garbage_in_the_page_ends_no_walk_outside_it)
{
    uint16_t slots[4];

    page_make();
    memset(page.outbox, 0xff, CONTROL_OUTBOX_SLOTS * sizeof *page.outbox);
    memset(page.recent, 0xff, CONTROL_RECENT_SLOTS * sizeof *page.recent);
    atomic_store(&page.page->outbox_word, UINT64_MAX);
    for (unsigned p = 0; p < 4; p++)
        atomic_store(&page.page->outbox_clears[p], UINT64_MAX);
    (void)pending(1);
    (void)control_outbox_waiting(&page, UINT32_MAX);
    (void)drain();
    (void)control_outbox_add(&page, 1, OUTBOX_KEY, hash_of(1), 1, slots);
    EXPECT(control_outbox_add(&page, 1, OUTBOX_CLEAR, NULL, 0, slots));
    EXPECT(pending(1));
    uint16_t any[3] = {0, 4095, 65535};
    control_outbox_done(&page, any, 3, 1);
    control_outbox_queue(&page, any, 3);
    uint8_t hashes[8][16];
    (void)control_outbox_recent(&page, 1, OUTBOX_KEY, INT64_MAX, 8, hashes);
}

/* ---- the recent ring ---- */

TEST(what_was_confirmed_is_remembered_for_a_while)
{
    uint8_t hashes[8][16];
    uint16_t slot;

    page_make();
    done(added(1), 10);
    done(added(2), 11); /* another partition */
    done(added(5), 12);
    done(added(9), 0); /* never had to be sent */
    EXPECT(control_outbox_add(&page, 1, OUTBOX_CLEAR, NULL, 0, &slot));
    done(slot, 13); /* a clear */
    EXPECT_EQ(control_outbox_recent(&page, 1, OUTBOX_KEY, 60000, 8, hashes), 2);
    EXPECT(memcmp(hashes[0], hash_of(5)[0], 16) == 0 && memcmp(hashes[1], hash_of(1)[0], 16) == 0);
    EXPECT_EQ(control_outbox_recent(&page, 1, OUTBOX_KEY, INT64_MAX, 8, hashes), 2);
    EXPECT_EQ(control_outbox_recent(&page, 1, OUTBOX_KEY, 60000, 1, hashes), 1);
    EXPECT(memcmp(hashes[0], hash_of(5)[0], 16) == 0); /* the newest */
    EXPECT_EQ(control_outbox_recent(&page, 3, OUTBOX_KEY, 60000, 8, hashes), 0);
    EXPECT(test_until(control_outbox_recent(&page, 1, OUTBOX_KEY, 30, 8, hashes) == 0, 2000));
    EXPECT_EQ(control_outbox_recent(&page, 1, OUTBOX_KEY, 60000, 8, hashes), 2); /* not removed */
    EXPECT_EQ(control_outbox_recent(&page, 1, OUTBOX_KEY, -5, 8, hashes), 0);
    EXPECT_EQ(control_outbox_recent_clears(&page, 1, 60000), 1);
    EXPECT_EQ(control_outbox_recent_clears(&page, 2, 60000), 0);
    EXPECT_EQ(control_outbox_recent_clears(&page, 1, -5), 0);
}

TEST(tags_are_remembered_apart_from_keys)
{
    uint8_t hashes[8][16];
    uint16_t slot;

    page_make();
    done(added(1), 10);
    EXPECT(control_outbox_add(&page, 1, OUTBOX_TAG, hash_of(2), 1, &slot));
    EXPECT(!pending(1)); /* a key of the partition is no tag */
    done(slot, 11);
    EXPECT(control_outbox_add(&page, 2, OUTBOX_TAG, hash_of(3), 1, &slot));
    done(slot, 12);
    EXPECT_EQ(control_outbox_recent(&page, 1, OUTBOX_KEY, 60000, 8, hashes), 1);
    EXPECT(memcmp(hashes[0], hash_of(1)[0], 16) == 0);
    EXPECT_EQ(control_outbox_recent(&page, 1, OUTBOX_TAG, 60000, 8, hashes), 1);
    EXPECT(memcmp(hashes[0], hash_of(2)[0], 16) == 0);
    EXPECT_EQ(control_outbox_recent(&page, 2, OUTBOX_TAG, 60000, 8, hashes), 1);
    EXPECT_EQ(control_outbox_recent_clears(&page, 1, 60000), 0);
}

static void an_epoch_comes(void)
{
    atomic_store(&page.parts[1].epoch, 8);
}

/* Whoever adopted the epoch may have read the ring before this was in it, and so would never send it again. */
TEST(what_was_confirmed_in_an_epoch_that_ends_meanwhile_stays_written_down)
{
    uint8_t hashes[8][16];
    uint16_t slot;

    page_make();
    atomic_store(&page.parts[1].epoch, 7);
    slot = added(1);
    EXPECT(control_outbox_confirmed(&page, &slot, 1, 10, 7));
    EXPECT(!pending(1));
    slot = added(5);
    at("outbox_remembered", an_epoch_comes);
    EXPECT(!control_outbox_confirmed(&page, &slot, 1, 11, 7));
    EXPECT(pending(5));
    EXPECT_EQ(control_outbox_waiting(&page, 1), 1);
    EXPECT_EQ(control_outbox_recent(&page, 1, OUTBOX_KEY, 60000, 8, hashes), 2);
    EXPECT(control_outbox_add(&page, 1, OUTBOX_CLEAR, NULL, 0, &slot)); /* a clear likewise */
    EXPECT(!control_outbox_confirmed(&page, &slot, 1, 12, 7));
    EXPECT_EQ(control_outbox_waiting(&page, 1), 2);
    EXPECT_EQ(control_outbox_recent_clears(&page, 1, 60000), 1);
    EXPECT_EQ(drain(), 2);
}

TEST(the_ring_keeps_the_newest)
{
    static uint8_t hashes[CONTROL_RECENT_SLOTS + 1][16];

    page_make();
    for (uint64_t n = 0; n < CONTROL_RECENT_SLOTS + 100; n++)
        done(added(4 * n), n + 1);
    EXPECT_EQ(control_outbox_recent(&page, 0, OUTBOX_KEY, 60000, CONTROL_RECENT_SLOTS + 1, hashes),
              CONTROL_RECENT_SLOTS);
    for (uint64_t i = 0; i < CONTROL_RECENT_SLOTS; i++)
        EXPECT(memcmp(hashes[i], hash_of(4 * (CONTROL_RECENT_SLOTS + 99 - i))[0], 16) == 0);
}

TEST(a_dead_writers_entry_of_the_ring_is_used_again)
{
    static uint8_t hashes[CONTROL_RECENT_SLOTS + 1][16];

    page_make();
    for (int i = 0; i < 3; i++)
        dies_at("outbox_remembering", life_adds);
    EXPECT_EQ(control_outbox_recent(&page, 1, OUTBOX_KEY, 60000, 8, hashes), 0); /* half-written */
    (void)drain();
    for (uint64_t n = 0; n < CONTROL_RECENT_SLOTS; n++)
        done(added(4 * n), n + 1);
    EXPECT_EQ(control_outbox_recent(&page, 0, OUTBOX_KEY, 60000, CONTROL_RECENT_SLOTS + 1, hashes),
              CONTROL_RECENT_SLOTS);
}

static void others_go_all_the_way_round(void)
{
    for (uint64_t n = 0; n < 2 * CONTROL_RECENT_SLOTS; n++)
        done(added(4 * n), n + 1);
}

TEST(a_writer_of_the_ring_that_is_held_up_scribbles_over_nobody)
{
    static uint8_t hashes[CONTROL_RECENT_SLOTS + 1][16];

    page_make();
    at("outbox_remembering", others_go_all_the_way_round);
    done(added(1), 5);
    EXPECT(!act);
    EXPECT_EQ(control_outbox_recent(&page, 0, OUTBOX_KEY, 60000, CONTROL_RECENT_SLOTS + 1, hashes),
              CONTROL_RECENT_SLOTS - 1);
    EXPECT_EQ(control_outbox_recent(&page, 1, OUTBOX_KEY, 60000, 8, hashes), 1);
    EXPECT(memcmp(hashes[0], hash_of(1)[0], 16) == 0);
}

/* ---- all at once ---- */

/* Add, check, confirm, leave behind, take over, for as long as it lasts. */
static void life_at_random(uint64_t seed)
{
    for (;;) {
        uint64_t n = test_random(&seed) % 64 + 1000 * (seed % 3), dice = test_random(&seed) % 16;
        uint8_t hashes[4][16];
        uint16_t slots[4];
        uint32_t count;

        if (dice < 12) {
            slots[0] = added(n); /* EXPECTs that it is pending */
            if (dice < 9)
                done(slots[0], 1 + n);
            else
                control_outbox_queue(&page, slots, 1);
        } else if (dice == 12) {
            EXPECT(control_outbox_add(&page, (uint32_t)n % 4, OUTBOX_CLEAR, NULL, 0, slots));
            EXPECT(pending(n));
            control_outbox_done(&page, slots, 1, 1);
        } else {
            count = control_outbox_take(&page, (uint32_t)n % 4, OUTBOX_KEY, 4, hashes, slots);
            for (uint32_t i = 0; i < count; i++) {
                struct key key;

                key_from_hash(&key, &page.space, hashes[i]);
                EXPECT_EQ(key.partition, n % 4); /* a whole hash of ours, not two halves */
                EXPECT(memcmp(hashes[i] + 1, "\0\0\0\0\0\0\0", 7) == 0);
                EXPECT(control_outbox_pending(&page, &key));
            }
            if (dice < 15)
                control_outbox_done(&page, slots, count, 1 + n);
            else
                control_outbox_queue(&page, slots, count);
        }
    }
}

TEST_LONG(kill_9_at_any_moment_loses_and_leaks_nothing, 120)
{
    int64_t end = test_now_ns() + (test_long_runs() ? 60 : 3) * CLOCK_NS_PER_S;
    uint64_t seed = (uint64_t)test_now_ns(), life = 0, promised = 4000000;
    uint16_t slot;
    pid_t children[3] = {0};
    int status;

    page_make();
    slot = added(promised); /* one change that nobody confirms: it must be there in the end */
    while (test_now_ns() < end) {
        unsigned c = (unsigned)(test_random(&seed) % 3);

        if (children[c] == 0) {
            if ((children[c] = test_fork()) == 0)
                life_at_random(++life * 77 + c + seed);
            life++;
        }
        for (uint64_t spin = test_random(&seed) % 200000; spin > 0; spin--)
            EXPECT((spin & 1023) != 0 || pending(promised));
        EXPECT(kill(children[c], SIGKILL) == 0);
        EXPECT(waitpid(children[c], &status, 0) == children[c]);
        EXPECT(WIFSIGNALED(status)); /* not by a failed EXPECT of its own */
        children[c] = 0;
    }
    for (unsigned c = 0; c < 3; c++)
        if (children[c])
            test_kill(children[c], SIGKILL);
    EXPECT(pending(promised));
    (void)drain();
    done(slot, 1);
    EXPECT(!pending(promised));
    expect_empty();
}

/* ---- readers beside writers ---- */

static _Atomic uint64_t told;  /* a key whose change was answered "queued" ... */
static _Atomic uint64_t heard; /* ... and which nobody ends before the reader has looked */
static _Atomic bool over;

/* Comes and goes, so that the mark rises and falls all the time. */
static void *come_and_go(void *unused)
{
    for (uint64_t n = 0; !over; n++)
        done(added(n % 64 + 1000), 0);
    return unused;
}

/* Leaves a change in the outbox, tells of it, and goes on when the other has looked. */
static void *queue_and_tell(void *unused)
{
    for (uint64_t n = 5000; !over; n++) {
        uint16_t slot = added(n);

        control_outbox_queue(&page, &slot, 1);
        atomic_store(&told, n);
        while (atomic_load(&heard) != n && !over)
            continue;
        if (control_outbox_take(&page, (uint32_t)(n % 4), OUTBOX_KEY, 1, NULL, &slot) == 1)
            done(slot, 0);
    }
    return unused;
}

TEST(whoever_has_heard_of_a_change_finds_it_pending)
{
    int64_t end = test_now_ns() + (test_long_runs() ? 20 : 2) * CLOCK_NS_PER_S;
    pthread_t threads[3];
    uint64_t rounds = 0, n, last = 0;

    page_make();
    EXPECT(pthread_create(&threads[0], NULL, come_and_go, NULL) == 0);
    EXPECT(pthread_create(&threads[1], NULL, come_and_go, NULL) == 0);
    EXPECT(pthread_create(&threads[2], NULL, queue_and_tell, NULL) == 0);
    while (test_now_ns() < end) {
        if ((n = atomic_load(&told)) == last)
            continue;
        EXPECT(pending(n));
        atomic_store(&heard, last = n);
        rounds++;
    }
    over = true;
    for (unsigned i = 0; i < 3; i++)
        EXPECT(pthread_join(threads[i], NULL) == 0);
    EXPECT(rounds > 5);
    (void)drain();
    expect_empty();
}
