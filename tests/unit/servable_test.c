/* servable_test.c - the one judge: each reason on both sides of its edge. */
#include <clock.h>
#include <fcntl.h>
#include <pthread.h>
#include <servable.h>
#include <string.h>
#include <test.h>
#include <unistd.h>

#define EPOCH    0xabcdef0123456789u
#define BOUND_NS (500 * CLOCK_NS_PER_MS)

static struct control page;
static struct key key;
static struct control_part *part;

/* A page in a fleet whose history is at position 100, proven just now; the key is made. */
static void page_make(bool fleet)
{
    struct control_shape shape = {.name = "orders", .tier_size = 1 << 20, .partitions = 2, .max_staleness_ms = 500};
    int fd = open(fresh_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    EXPECT(control_create(&page, fd, &shape) == FRESHET_OK);
    close(fd);
    key_make(&key, &page.space, "k", 1);
    part = &page.parts[key.partition];
    if (!fleet)
        return;
    EXPECT(control_join_fleet(&page, 1, false));
    EXPECT(control_adopt(&page, key.partition, 0, EPOCH, 100, 0));
    EXPECT(control_prove(&page, key.partition, control_ask(&page, key.partition), EPOCH, 100));
}

static const struct record good = {
    .kind = RECORD_VALUE, .epoch = EPOCH, .as_of = 100, .born = 90, .expires_ns = RECORD_NEVER, .key_size = 1};

static enum verdict judge(struct record record)
{
    struct judgement judgement;

    return servable(&record, &page, &key, BOUND_NS, 0, &judgement);
}

TEST(what_nothing_speaks_against_is_served)
{
    struct judgement judgement;
    int64_t before;

    page_make(true);
    before = clock_boot_ns();
    EXPECT_EQ(servable(&good, &page, &key, BOUND_NS, 0, &judgement), SERVABLE);
    EXPECT(judgement.now_ns >= before && judgement.now_ns <= clock_boot_ns());
    EXPECT(judgement.age_ns >= 0 && judgement.age_ns < BOUND_NS);
}

TEST(another_epochs_record_is_void)
{
    struct record record = good;

    page_make(true);
    record.epoch = EPOCH + 1;
    EXPECT_EQ(judge(record), VOID_EPOCH);
    record.epoch = 0;
    EXPECT_EQ(judge(record), VOID_EPOCH);
}

TEST(below_the_floor_is_void)
{
    struct record record = good;

    page_make(true);
    record.as_of = 99;
    EXPECT_EQ(judge(record), VOID_FLOOR);
    (void)control_raise(&part->floor, 101);
    EXPECT_EQ(judge(good), VOID_FLOOR);
    record.as_of = 101;
    EXPECT_EQ(judge(record), SERVABLE);
}

TEST(below_its_fence_is_void)
{
    struct record record = good;

    page_make(true);
    (void)control_raise(control_fence(&page, key.partition, key.slot), 100);
    EXPECT_EQ(judge(good), SERVABLE);
    (void)control_raise(control_fence(&page, key.partition, key.slot), 101);
    EXPECT_EQ(judge(good), VOID_FENCE);
    record.as_of = 101;
    EXPECT_EQ(judge(record), SERVABLE);
    /* the other partition's fence is no matter of ours */
    page_make(true);
    (void)control_raise(control_fence(&page, 1 - key.partition, key.slot), 101);
    EXPECT_EQ(judge(good), SERVABLE);
}

TEST(what_was_born_before_a_clear_is_void)
{
    struct record record = good;

    page_make(true);
    (void)control_raise(&part->clear, 90);
    EXPECT_EQ(judge(good), SERVABLE);
    (void)control_raise(&part->clear, 91);
    EXPECT_EQ(judge(good), VOID_CLEAR);
    record.born = 91;
    EXPECT_EQ(judge(record), SERVABLE);
}

TEST(what_was_born_before_a_change_of_its_tag_is_void)
{
    struct record record = good;

    page_make(true);
    record.tag_count = 2;
    record.tags[0] = 7;
    record.tags[1] = 0xabcdef0000000fff;
    EXPECT_EQ(judge(record), SERVABLE);
    for (uint32_t i = 0; i < 2; i++) {
        (void)control_raise(control_tag_fence(&page, key.partition, record.tags[i]), 90);
        EXPECT_EQ(judge(record), SERVABLE);
        (void)control_raise(control_tag_fence(&page, key.partition, record.tags[i]), 91 + i);
        EXPECT_EQ(judge(record), VOID_TAG); /* however new its as-of */
        EXPECT_EQ(judge(good), SERVABLE);   /* it has no tags */
        record.born = 91 + i;
        EXPECT_EQ(judge(record), SERVABLE);
    }
    (void)control_raise(control_tag_fence(&page, key.partition, 8), 100);     /* another tag's */
    (void)control_raise(control_tag_fence(&page, 1 - key.partition, 7), 100); /* another partition's */
    EXPECT_EQ(judge(record), SERVABLE);
    record.tag_count = 1;
    (void)control_raise(control_tag_fence(&page, key.partition, 0xfff), 100); /* the tag that it has no more */
    EXPECT_EQ(judge(record), SERVABLE);
    EXPECT(strcmp(verdict_name(VOID_TAG), "tag") == 0);
}

TEST(what_has_a_tag_in_the_outbox_is_not_served)
{
    uint8_t hash[1][16] = {{7, 0, 0, 0, 0, 0, 0, 1}};
    struct record record = good;
    uint16_t slot;

    page_make(true);
    record.tag_count = 2;
    record.tags[0] = 9;
    record.tags[1] = 0x0100000000000007;
    EXPECT(control_outbox_add(&page, key.partition, OUTBOX_TAG, (const uint8_t(*)[16])hash, 1, &slot));
    EXPECT_EQ(judge(record), VOID_PENDING);
    EXPECT_EQ(judge(good), SERVABLE);
    control_outbox_queue(&page, &slot, 1);
    EXPECT_EQ(judge(record), VOID_PENDING);
    record.tags[1]++; /* another tag, be it of the same slot of the fences or not */
    EXPECT_EQ(judge(record), SERVABLE);
    record.tags[1] = 0x0200000000000007;
    EXPECT_EQ(judge(record), SERVABLE);
    record.tags[1] = 0x0100000000000007;
    EXPECT_EQ(control_outbox_take(&page, key.partition, OUTBOX_KEY, 1, NULL, &slot), 0);
    EXPECT_EQ(control_outbox_take(&page, key.partition, OUTBOX_TAG, 1, NULL, &slot), 1);
    EXPECT_EQ(judge(record), VOID_PENDING); /* on its way */
    control_outbox_done(&page, &slot, 1, 0);
    EXPECT_EQ(judge(record), SERVABLE);
    EXPECT(control_outbox_add(&page, 1 - key.partition, OUTBOX_TAG, (const uint8_t(*)[16])hash, 1, &slot));
    EXPECT_EQ(judge(record), SERVABLE); /* another partition's */
}

TEST(what_waits_in_the_outbox_is_not_served)
{
    uint16_t slot;

    page_make(true);
    EXPECT(control_outbox_add(&page, key.partition, OUTBOX_KEY, (const uint8_t(*)[16]) & key.hash, 1, &slot));
    EXPECT_EQ(judge(good), VOID_PENDING);
    control_outbox_queue(&page, &slot, 1);
    EXPECT_EQ(judge(good), VOID_PENDING);
    EXPECT_EQ(control_outbox_take(&page, key.partition, OUTBOX_KEY, 1, NULL, &slot), 1);
    control_outbox_done(&page, &slot, 1, 0);
    EXPECT_EQ(judge(good), SERVABLE);
}

TEST(past_its_time_is_expired)
{
    struct record record = good;

    page_make(true);
    record.expires_ns = clock_boot_ns();
    EXPECT_EQ(judge(record), VOID_EXPIRED);
    record.expires_ns = clock_boot_ns() + 60 * CLOCK_NS_PER_S;
    EXPECT_EQ(judge(record), SERVABLE);
    record.expires_ns = -1;
    EXPECT_EQ(judge(record), VOID_EXPIRED);
}

TEST(an_old_proof_is_too_old_and_says_how_old)
{
    struct judgement judgement;

    page_make(true);
    EXPECT(test_until(judge(good) == TOO_OLD, 2000)); /* nobody renews */
    EXPECT_EQ(servable(&good, &page, &key, BOUND_NS, 0, &judgement), TOO_OLD);
    EXPECT(judgement.age_ns >= BOUND_NS);
    EXPECT_EQ(judgement.age_ns, judgement.now_ns - control_proven_ns(&page, key.partition));
    EXPECT_EQ(servable(&good, &page, &key, judgement.age_ns + CLOCK_NS_PER_S, 0, &judgement), SERVABLE);
    EXPECT_EQ(servable(&good, &page, &key, 0, 0, &judgement), TOO_OLD); /* age < 0: never */
}

TEST(an_answer_may_bring_its_own_proof)
{
    struct judgement judgement;
    int64_t now;

    page_make(true);
    EXPECT(test_until(judge(good) == TOO_OLD, 2000));
    now = clock_boot_ns();
    EXPECT_EQ(servable(&good, &page, &key, BOUND_NS, now, &judgement), SERVABLE);
    EXPECT_EQ(judgement.age_ns, judgement.now_ns - now);
    EXPECT_EQ(servable(&good, &page, &key, BOUND_NS, now - BOUND_NS, &judgement), TOO_OLD);
    /* the page's is the later one: it counts */
    EXPECT_EQ(servable(&good, &page, &key, INT64_MAX, 1, &judgement), SERVABLE);
    EXPECT_EQ(judgement.age_ns, judgement.now_ns - control_proven_ns(&page, key.partition));
}

TEST(no_proof_serves_nothing)
{
    struct judgement judgement;

    page_make(true);
    EXPECT(control_adopt(&page, key.partition, EPOCH, EPOCH + 5, 100, 0));
    struct record record = good;
    record.epoch = EPOCH + 5;
    EXPECT_EQ(servable(&record, &page, &key, INT64_MAX, 0, &judgement), TOO_OLD);
    EXPECT_EQ(judgement.age_ns, -1);
}

TEST(a_proof_from_the_future_is_none)
{
    struct judgement judgement;
    uint64_t ahead = (uint64_t)(clock_boot_ns() + 60 * CLOCK_NS_PER_S) / 1000;

    page_make(true);
    atomic_store(&part->proven, (uint64_t)control_tag(EPOCH) << 48 | ahead);
    EXPECT_EQ(servable(&good, &page, &key, BOUND_NS, 0, &judgement), TOO_OLD);
    EXPECT_EQ(judgement.age_ns, -1);
    /* a hair is the processors' */
    EXPECT_EQ(servable(&good, &page, &key, BOUND_NS, clock_boot_ns() + 300000, &judgement), SERVABLE);
    EXPECT(judgement.age_ns >= 0);
}

TEST(a_host_alone_needs_no_proof)
{
    struct record record = good;
    struct judgement judgement;

    page_make(false);
    EXPECT_EQ(judge(good), VOID_EPOCH);
    record.epoch = 0;
    EXPECT_EQ(servable(&record, &page, &key, BOUND_NS, 0, &judgement), SERVABLE);
    EXPECT_EQ(judgement.age_ns, 0);
    (void)control_raise(control_fence(&page, key.partition, key.slot), 101);
    EXPECT_EQ(judge(record), VOID_FENCE);
}

TEST(what_a_host_knew_alone_is_void_in_a_fleet)
{
    struct record record = good;

    page_make(false);
    record.epoch = 0;
    EXPECT_EQ(judge(record), SERVABLE);
    EXPECT(control_join_fleet(&page, 77, false));
    EXPECT_EQ(judge(record), VOID_EPOCH); /* before any history of it was met, too */
}

TEST(a_reason_to_be_void_outranks_age)
{
    struct record record = good;

    page_make(true);
    EXPECT(test_until(judge(good) == TOO_OLD, 2000));
    record.as_of = 99;
    EXPECT_EQ(judge(record), VOID_FLOOR);
    record = good;
    record.expires_ns = 1;
    EXPECT_EQ(judge(record), VOID_EXPIRED);
}

TEST(every_verdict_has_its_name)
{
    EXPECT(strcmp(verdict_name(SERVABLE), "") == 0);
    EXPECT(strcmp(verdict_name(VOID_EPOCH), "epoch") == 0);
    EXPECT(strcmp(verdict_name(VOID_FLOOR), "floor") == 0);
    EXPECT(strcmp(verdict_name(VOID_FENCE), "fence") == 0);
    EXPECT(strcmp(verdict_name(VOID_PENDING), "pending") == 0);
    EXPECT(strcmp(verdict_name(VOID_CLEAR), "clear") == 0);
    EXPECT(strcmp(verdict_name(VOID_EXPIRED), "expired") == 0);
    EXPECT(strcmp(verdict_name(TOO_OLD), "age") == 0);
}

/* ---- a queued change, confirmed while somebody reads ---- */

static _Atomic uint64_t queued; /* the newest change that was answered "queued": its position-to-be */
static _Atomic bool over;

/* Queues the change n of the key, then, as the seat's holder, confirms it at position n. */
static void *change_again_and_again(void *unused)
{
    uint16_t slot;

    for (uint64_t n = 101; !over; n++) {
        if (!control_outbox_add(&page, key.partition, OUTBOX_KEY, (const uint8_t(*)[16]) & key.hash, 1, &slot))
            break;
        control_outbox_queue(&page, &slot, 1);
        atomic_store(&queued, n);
        if (control_outbox_take(&page, key.partition, OUTBOX_KEY, 1, NULL, &slot) != 1)
            break;
        (void)control_raise(control_fence(&page, key.partition, key.slot), n);
        control_outbox_done(&page, &slot, 1, n);
    }
    return unused;
}

TEST(a_change_leaves_the_outbox_only_into_the_fence)
{
    int64_t end = test_now_ns() + (test_long_runs() ? 20 : 2) * CLOCK_NS_PER_S;
    struct judgement judgement;
    struct record record = good;
    pthread_t thread;

    page_make(true);
    EXPECT(pthread_create(&thread, NULL, change_again_and_again, NULL) == 0);
    while (test_now_ns() < end) {
        uint64_t n = atomic_load(&queued);

        record.as_of = n - 1; /* read before that change: may not be served from here on */
        if (n != 0)
            EXPECT(servable(&record, &page, &key, INT64_MAX, 0, &judgement) != SERVABLE);
    }
    over = true;
    EXPECT(pthread_join(thread, NULL) == 0);
    EXPECT(queued > 1000);
}
