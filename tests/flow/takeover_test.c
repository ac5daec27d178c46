/*
 * takeover_test.c - the subscriber's seat: whoever sits in it may be killed, stopped, or leave; a sibling goes on.
 */
#include <hosts.h>
#include <test.h>

#include <freshet_fleet.h>

#include <signal.h>
#include <unistd.h>

#define BOUND 300

/* A process on `dir` that has taken the seat; it leaves the cache open until it is told by the end of `go_on`. */
static pid_t start_subscriber(const char *dir, struct redis *redis, int go_on)
{
    int ready[2];
    char byte;
    pid_t child;

    EXPECT_EQ(pipe(ready), 0);
    child = test_fork();
    if (child == 0) {
        freshet *mine = host_join(dir, redis, BOUND);

        EXPECT(test_until(host_stats(mine).subscriber_pid == getpid(), 5000));
        EXPECT_EQ(write(ready[1], "1", 1), 1);
        (void)read(go_on, &byte, 1);
        freshet_close(mine);
        test_child_done();
    }
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    return child;
}

TEST(when_the_subscriber_is_killed_a_sibling_takes_over)
{
    const char *dir = fresh_dir();
    struct redis redis;
    int go_on[2];
    freshet *mine, *other;
    pid_t child;

    redis_start(&redis, NULL);
    EXPECT_EQ(pipe(go_on), 0);
    child = start_subscriber(dir, &redis, go_on[0]);
    mine = host_join(dir, &redis, BOUND);
    other = host_join(fresh_dir(), &redis, BOUND);
    EXPECT_EQ(host_stats(mine).subscriber_pid, child);
    test_kill(child, SIGKILL);
    EXPECT(test_until(host_stats(mine).subscriber_pid == getpid(), 2000));
    EXPECT(test_until(host_proven(mine), 2000));
    EXPECT_EQ(host_stats(mine).takeovers, 1);
    EXPECT_EQ(host_put(other, "k", "v"), FRESHET_OK);
    EXPECT(host_gets(mine, "k", "v"));
    EXPECT_EQ(host_invalidate(other, "k"), FRESHET_OK);
    EXPECT(test_until(host_get(mine, "k", NULL, 0) == FRESHET_MISS, 500));
    freshet_close(mine);
    freshet_close(other);
}

TEST(a_stopped_subscriber_loses_the_seat_and_does_not_take_it_back)
{
    const char *dir = fresh_dir();
    struct redis redis;
    int go_on[2];
    freshet *mine;
    pid_t child;

    redis_start(&redis, NULL);
    EXPECT_EQ(pipe(go_on), 0);
    child = start_subscriber(dir, &redis, go_on[0]);
    mine = host_join(dir, &redis, BOUND);
    EXPECT_EQ(host_put(mine, "k", "v"), FRESHET_OK);
    test_kill(child, SIGSTOP);
    EXPECT(test_until(host_stats(mine).subscriber_pid == getpid(), 3000));
    EXPECT(test_until(host_proven(mine), 1000));
    EXPECT(host_gets(mine, "k", "v"));
    test_kill(child, SIGCONT);
    /* It finds us in the seat and stops listening: one connection of the two stays. */
    EXPECT(test_until(redis_int(&redis, "PUBLISH freshet:{default:0}:frames ''") == 1, 3000));
    for (int i = 0; i < 100; i++) {
        EXPECT_EQ(host_stats(mine).subscriber_pid, getpid());
        EXPECT(host_proven(mine));
        test_pause();
    }
    EXPECT_EQ(write(go_on[1], "1", 1), 1);
    test_join(child);
    EXPECT_EQ(host_stats(mine).subscriber_pid, getpid());
    freshet_close(mine);
}

TEST(a_subscriber_that_leaves_hands_the_seat_on)
{
    const char *dir = fresh_dir();
    struct redis redis;
    int go_on[2];
    freshet *mine;
    pid_t child;

    redis_start(&redis, NULL);
    EXPECT_EQ(pipe(go_on), 0);
    child = start_subscriber(dir, &redis, go_on[0]);
    mine = host_join(dir, &redis, BOUND);
    EXPECT_EQ(write(go_on[1], "1", 1), 1);
    test_join(child);
    EXPECT(test_until(host_stats(mine).subscriber_pid == getpid(), 500));
    EXPECT(test_until(host_proven(mine), 500));
    EXPECT_EQ(redis_int(&redis, "HLEN freshet:{default:0}:hosts"), 2); /* the host is still there */
    freshet_close(mine);
}

TEST(while_redis_is_away_nobody_fights_for_the_seat)
{
    const char *dir = fresh_dir();
    struct redis redis;
    int go_on[2];
    freshet *mine;
    pid_t child;

    redis_start(&redis, NULL);
    EXPECT_EQ(pipe(go_on), 0);
    child = start_subscriber(dir, &redis, go_on[0]);
    mine = host_join(dir, &redis, BOUND);
    redis_stop(&redis);
    for (int64_t end = test_now_ns() + 3 * BOUND * 1000000LL; test_now_ns() < end; test_pause())
        EXPECT_EQ(host_stats(mine).subscriber_pid, child);
    redis_restart(&redis);
    EXPECT(test_until(host_proven(mine), 5000));
    EXPECT(host_stats(mine).takeovers <= 2);
    EXPECT_EQ(write(go_on[1], "1", 1), 1);
    test_join(child);
    freshet_close(mine);
}
