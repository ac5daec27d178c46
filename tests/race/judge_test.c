/*
 * judge_test.c - what is decided at which moment: the clock is the last thing that is read before an answer is judged.
 *
 * clock_gettime is the test's own here, so that something can happen just while the clock is read.  What happens then
 * is not before the reading, and the answer still stands; had the clock been read first, and the page after it, the
 * answer would have fallen, and the other way round a reader that was stopped in between would serve what is too old.
 */
#include "hold.h"

#include <fcntl.h>
#include <servable.h>
#include <sys/syscall.h>
#include <unistd.h>

static void (*_Atomic while_reading)(void);

/* Stands in the C library's place for the whole program. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    void (*happen)(void) = while_reading;

    if (happen && clock == CLOCK_BOOTTIME) {
        while_reading = (void (*)(void))0;
        happen();
    }
    return (int)syscall(SYS_clock_gettime, clock, now);
}

static struct key_space space = {.partitions = 1, .fence_slots = 16};
static _Atomic uint64_t fences[16];
static struct control_part part;

static void a_change_comes(void)
{
    atomic_store(&fences[0], 100);
}

static void an_epoch_comes(void)
{
    atomic_store(&part.epoch, 9);
}

static void time_passes(void)
{
    int64_t end = test_now_ns() + 60 * 1000000LL;

    while (test_now_ns() < end)
        test_pause();
}

/* Judge a record of position 50 while `happen`s, with a proof of this moment and a bound of 50 ms. */
static enum verdict judge_while(void (*happen)(void))
{
    const char *dir = fresh_dir();
    freshet *cache = host_solo(dir, 0); /* for a page: the outbox is part of what is judged */
    struct control control = {.space = space, .parts = &part, .fences = fences};
    struct record record = {.kind = RECORD_VALUE, .epoch = 7, .as_of = 50, .born = 50, .expires_ns = RECORD_NEVER};
    struct judgement judgement;
    struct control whole;
    struct control_shape shape = {.name = "default"};
    struct key key = {.slot = 0};
    enum verdict verdict;
    char why[200];
    int64_t proof_ns;
    int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    EXPECT(dirfd >= 0 && control_open(&whole, dirfd, &shape, why, sizeof why) == CONTROL_FITS);
    control.page = whole.page;
    control.outbox = whole.outbox;
    atomic_store(&part.epoch, 7);
    atomic_store(&fences[0], 0);
    proof_ns = test_now_ns();
    while_reading = happen;
    verdict = servable(&record, &control, &key, 50 * 1000000LL, proof_ns, &judgement);
    EXPECT(!while_reading); /* it did look at the clock */
    control_close(&whole);
    close(dirfd);
    freshet_close(cache);
    return verdict;
}

TEST(a_change_at_the_moment_of_the_last_look_at_the_clock_is_after_it)
{
    EXPECT_EQ(judge_while(a_change_comes), SERVABLE);
    EXPECT_EQ(judge_while(an_epoch_comes), SERVABLE);
}

TEST(time_that_passes_before_the_last_look_at_the_clock_counts)
{
    EXPECT_EQ(judge_while(time_passes), TOO_OLD);
}
