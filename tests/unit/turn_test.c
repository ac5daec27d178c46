/* turn_test.c - the table of turns: one of a host's processes loads, and nobody waits for the dead, or for ever. */
#include <clock.h>
#include <control.h>
#include <fcntl.h>
#include <page.h>
#include <pthread.h>
#include <signal.h>
#include <step.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <test.h>
#include <turn.h>
#include <unistd.h>

static struct control page;

static void page_make(void)
{
    struct control_shape shape = {.name = "turns", .tier_size = 1 << 20, .partitions = 1, .max_staleness_ms = 500};
    int fd = open(fresh_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    EXPECT(control_create(&page, fd, &shape) == FRESHET_OK);
    close(fd);
}

/* Keys with one number's bucket are 0, 1, 2...: their hashes differ in the part that a turn shows. */
static struct key key_in(uint32_t bucket, uint64_t n)
{
    uint8_t hash[16] = {0};
    struct key key;

    memcpy(hash + 4, &bucket, sizeof bucket);
    n <<= 24;
    memcpy(hash + 8, &n, sizeof n);
    key_from_hash(&key, &page.space, hash);
    return key;
}

static enum turn_place enter(uint64_t n, uint64_t start, uint64_t fence, struct turn *ret_turn)
{
    struct key key = key_in(5, n);

    return turn_enter(&page, &key, start, fence, ret_turn);
}

static int64_t in_ms(int64_t ms)
{
    return clock_boot_ns() + ms * CLOCK_NS_PER_MS;
}

/* Wait until the turn is another thing than going on. */
static enum turn_news news_of(struct turn *turn, uint64_t fence, int64_t ms)
{
    int64_t end = in_ms(ms);
    enum turn_news news;

    do
        news = turn_wait(turn, fence, end);
    while (news == TURN_GOES_ON && clock_boot_ns() < end);
    return news;
}

TEST(the_first_has_the_turn_and_the_second_waits_until_it_ends)
{
    struct turn ours, theirs, other;

    page_make();
    EXPECT_EQ(enter(1, 7, 7, &ours), TURN_OURS);
    EXPECT_EQ(enter(1, 8, 7, &theirs), TURN_THEIRS);
    EXPECT_EQ(enter(2, 8, 7, &other), TURN_OURS); /* another key waits for nobody */
    EXPECT_EQ(news_of(&theirs, 7, 100), TURN_GOES_ON);
    turn_land(&ours);
    EXPECT_EQ(turn_wait(&theirs, 7, in_ms(1)), TURN_GOES_ON); /* its record is not in the tier yet */
    turn_end(&ours);
    EXPECT_EQ(news_of(&theirs, 7, 100), TURN_OVER);
    EXPECT(ours.slot == NULL);
    turn_end(&ours);
    turn_end(&other);
    EXPECT_EQ(enter(1, 8, 7, &ours), TURN_OURS);
    turn_end(&ours);
}

struct waiter {
    struct turn turn;
    enum turn_news news;
    int64_t heard_ns;
};

static void *wait_for_news(void *arg)
{
    struct waiter *waiter = arg;

    do
        waiter->news = turn_wait(&waiter->turn, 0, in_ms(20000));
    while (waiter->news == TURN_GOES_ON);
    waiter->heard_ns = clock_boot_ns();
    return NULL;
}

TEST(those_who_wait_hear_the_bell_at_once)
{
    int64_t best = INT64_MAX;

    page_make();
    for (int i = 0; i < 20; i++) {
        struct waiter waiter = {0};
        struct turn ours;
        pthread_t thread;
        int64_t ended;

        EXPECT_EQ(enter(1, 7, 0, &ours), TURN_OURS);
        EXPECT_EQ(enter(1, 7, 0, &waiter.turn), TURN_THEIRS);
        EXPECT(pthread_create(&thread, NULL, wait_for_news, &waiter) == 0);
        EXPECT(test_until(atomic_load(&ours.slot->word) & 4, 5000)); /* it waits */
        turn_land(&ours);
        ended = clock_boot_ns();
        turn_end(&ours);
        EXPECT(pthread_join(thread, NULL) == 0);
        EXPECT_EQ(waiter.news, TURN_OVER);
        if (waiter.heard_ns - ended < best)
            best = waiter.heard_ns - ended;
    }
    EXPECT(best < 5 * CLOCK_NS_PER_MS); /* and not at the next look, 20 ms on */
}

TEST(a_load_that_a_change_overtook_is_waited_for_by_nobody)
{
    struct turn old, waits, ours, late;

    page_make();
    EXPECT_EQ(enter(1, 7, 0, &old), TURN_OURS);
    EXPECT_EQ(enter(1, 7, 7, &waits), TURN_THEIRS);
    EXPECT_EQ(turn_wait(&waits, 8, in_ms(1)), TURN_LOST); /* the change came while we waited */
    EXPECT_EQ(enter(1, 9, 8, &ours), TURN_OURS);          /* or before we came */
    EXPECT(!turn_take(&waits, 9));
    EXPECT_EQ(turn_wait(&waits, 8, in_ms(1)), TURN_MOVED);
    EXPECT_EQ(enter(1, 9, 8, &late), TURN_THEIRS);
    turn_land(&old);
    turn_end(&old); /* not its own any more: the other's goes on */
    EXPECT_EQ(turn_wait(&late, 8, in_ms(1)), TURN_GOES_ON);
    turn_end(&ours);
    EXPECT_EQ(turn_wait(&late, 8, in_ms(1)), TURN_OVER);
}

TEST(a_load_that_landed_and_does_not_get_into_the_tier_is_lost)
{
    struct turn ours, theirs, next;
    int64_t landed;

    page_make();
    EXPECT_EQ(enter(1, 7, 0, &ours), TURN_OURS);
    EXPECT_EQ(enter(1, 7, 0, &theirs), TURN_THEIRS);
    EXPECT_EQ(news_of(&theirs, 0, 3 * TURN_LAND_MS), TURN_GOES_ON); /* a loader may take its time */
    landed = clock_boot_ns();
    turn_land(&ours);
    EXPECT_EQ(news_of(&theirs, 0, 5000), TURN_LOST);
    EXPECT(clock_boot_ns() - landed >= TURN_LAND_MS * CLOCK_NS_PER_MS);
    EXPECT_EQ(enter(1, 7, 0, &next), TURN_OURS); /* who comes now does not begin to wait */
    turn_end(&next);
}

TEST(a_full_bucket_gives_no_turn)
{
    struct turn turns[5], elsewhere;
    struct key other;

    page_make();
    for (uint64_t n = 0; n < 4; n++)
        EXPECT_EQ(enter(n, 7, 0, &turns[n]), TURN_OURS);
    EXPECT_EQ(enter(4, 7, 0, &turns[4]), TURN_NONE);
    EXPECT_EQ(enter(3, 7, 0, &turns[4]), TURN_THEIRS); /* what is in is found */
    other = key_in(6, 4);
    EXPECT_EQ(turn_enter(&page, &other, 7, 0, &elsewhere), TURN_OURS);
    turn_end(&turns[2]);
    EXPECT_EQ(enter(4, 7, 0, &turns[4]), TURN_OURS);
}

/* What a child does, until it is killed or stopped at `point`. */
static const char *mortal_point;
static int mortal_signal;

static void mortal_hook(const char *point)
{
    if (strcmp(point, mortal_point) == 0)
        (void)kill(getpid(), mortal_signal);
}

static void mortal_life(uint64_t n)
{
    struct turn turn;

    if (enter(n, 7, 0, &turn) == TURN_OURS) {
        turn_land(&turn);
        turn_end(&turn);
    }
}

/* A child that takes the turn of key `n` and meets `signal` at `point`. */
static pid_t mortal(uint64_t n, const char *point, int signal)
{
    pid_t child;

    mortal_point = point;
    mortal_signal = signal;
    child = test_fork();
    if (child == 0) {
        step_hook = mortal_hook;
        mortal_life(n);
        for (;;)
            pause(); /* a stopped one that was continued: it lives on */
    }
    if (signal == SIGKILL) {
        siginfo_t info;

        EXPECT(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
        test_kill(child, SIGKILL); /* it has done so itself; this buries it */
    }
    return child;
}

static bool taken(uint64_t n)
{
    const struct control_turn *bucket = &page.turns[5 % (CONTROL_TURN_SLOTS / 4) * 4];

    for (int way = 0; way < 4; way++)
        if ((atomic_load(&bucket[way].word) & 3) && atomic_load(&bucket[way].word) >> 24 == n)
            return true;
    return false;
}

static const char *const points[] = {"turn_claimed", "turn_ours", "turn_landing"};

TEST(a_holder_that_is_killed_anywhere_is_noticed_soon)
{
    for (unsigned i = 0; i < 3; i++) {
        struct turn turn;
        int64_t began;

        page_make();
        (void)mortal(1, points[i], SIGKILL);
        EXPECT(taken(1));
        began = clock_boot_ns();
        EXPECT_EQ(enter(1, 7, 0, &turn), TURN_THEIRS);
        EXPECT_EQ(news_of(&turn, 0, 5000), TURN_LOST);
        EXPECT(clock_boot_ns() - began < 1000 * CLOCK_NS_PER_MS);
        EXPECT(turn_take(&turn, 8));
        turn_end(&turn);
        EXPECT(!taken(1));
    }
}

TEST(a_holder_that_is_stopped_anywhere_is_noticed_and_does_no_harm_when_it_goes_on)
{
    for (unsigned i = 0; i < 3; i++) {
        struct turn turn, late;
        pid_t child;

        page_make();
        child = mortal(1, points[i], SIGSTOP);
        EXPECT(test_until(taken(1), 5000));
        EXPECT_EQ(enter(1, 7, 0, &turn), TURN_THEIRS);
        EXPECT_EQ(news_of(&turn, 0, 5000), TURN_LOST);
        EXPECT(turn_take(&turn, 8));
        test_kill(child, SIGCONT);
        for (int ms = 0; ms < 50; ms++) {
            EXPECT(taken(1)); /* what it ends is not ours */
            test_pause();
        }
        turn_land(&turn);
        turn_end(&turn);
        EXPECT(!taken(1));
        EXPECT_EQ(enter(1, 9, 0, &late), TURN_OURS);
        turn_end(&late);
        test_kill(child, SIGKILL);
    }
}

TEST(a_full_bucket_of_the_dead_has_room)
{
    struct turn turn;

    page_make();
    for (uint64_t n = 0; n < 4; n++)
        (void)mortal(n, points[n % 3], SIGKILL);
    EXPECT_EQ(enter(9, 7, 0, &turn), TURN_OURS);
    turn_end(&turn);
}

TEST(a_child_does_not_end_its_parents_turn)
{
    struct turn ours, theirs;

    page_make();
    EXPECT_EQ(enter(1, 7, 0, &ours), TURN_OURS);
    IN_CHILD({
        EXPECT_EQ(enter(1, 7, 0, &theirs), TURN_THEIRS);
        turn_land(&ours);
        turn_end(&ours);
        EXPECT_EQ(turn_wait(&theirs, 0, in_ms(1)), TURN_GOES_ON);
    });
    EXPECT(taken(1));
    turn_end(&ours);
    EXPECT(!taken(1));
}

TEST(a_damaged_table_costs_no_more_than_a_wait)
{
    struct turn turn;

    page_make();
    memset(page.turns, 0xff, CONTROL_TURN_SLOTS * sizeof *page.turns);
    for (uint64_t n = 0; n < 100; n++) {
        int64_t end = in_ms(5);
        enum turn_place place = enter(n, 7, 0, &turn);

        if (place == TURN_THEIRS)
            while (turn_wait(&turn, 0, end) == TURN_GOES_ON && clock_boot_ns() < end)
                continue;
        if (place == TURN_OURS)
            turn_end(&turn);
    }
}

/* Many processes take turns at one key: at no time have two of them one. */
TEST(two_never_have_one_turn)
{
    struct shared {
        atomic_int inside, ready;
        atomic_uint turns;
    } *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t children[6];

    EXPECT(shared != MAP_FAILED);
    page_make();
    for (int i = 0; i < 6; i++) {
        children[i] = test_fork();
        if (children[i] == 0) {
            struct turn turn;

            for (shared->ready++; shared->ready < 6;)
                test_pause();
            for (int n = 0; n < 3000; n++) {
                enum turn_place place = enter(1, 7, 0, &turn);

                EXPECT(place != TURN_NONE);
                if (place == TURN_OURS) {
                    EXPECT_EQ(atomic_fetch_add(&shared->inside, 1), 0);
                    shared->turns++;
                    EXPECT_EQ(atomic_fetch_sub(&shared->inside, 1), 1);
                    turn_end(&turn);
                } else if (n % 10 == 0) {
                    (void)turn_wait(&turn, 0, in_ms(1000));
                }
            }
            test_child_done();
        }
    }
    for (int i = 0; i < 6; i++)
        test_join(children[i]);
    EXPECT(shared->turns > 1000);
}
