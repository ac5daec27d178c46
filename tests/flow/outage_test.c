/*
 * outage_test.c - Redis out of reach, messages lost, a log trimmed: the bound holds, and no change is lost.
 */
#include <hosts.h>
#include <test.h>

#include <freshet_fleet.h>

#include <signal.h>
#include <string.h>
#include <unistd.h>

#define BOUND 300

/* A host with a deadline short enough for an outage, and so perhaps too short for joining on a busy machine. */
static freshet *join_with(const char *dir, struct redis *redis, freshet_policy policy)
{
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache = NULL;
    freshet_result joined;

    options.dir = dir;
    options.tier_size = 8u << 20;
    options.max_staleness_ms = BOUND;
    options.deadline_ms = 100;
    options.policy = policy;
    join.keyring = host_keyring();
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    joined = freshet_join(cache, redis->url, &join);
    EXPECT(joined == FRESHET_OK || joined == FRESHET_UNPROVEN);
    EXPECT(test_until(host_proven(cache), 5000));
    return cache;
}

TEST(without_redis_the_tier_serves_for_its_bound_and_then_misses)
{
    struct redis redis;
    freshet *a, *b;
    int64_t from;

    redis_start(&redis, NULL);
    a = join_with(fresh_dir(), &redis, FRESHET_SERVE_NONE);
    b = join_with(fresh_dir(), &redis, FRESHET_SERVE_STALE);
    host_share(a, b, "k", "v");
    redis_stop(&redis);
    from = test_now_ns();
    EXPECT_EQ(host_peek(b, "k", NULL, 0), FRESHET_OK);
    EXPECT(test_until(host_get(a, "k", NULL, 0) == FRESHET_MISS, 3000));
    EXPECT(test_now_ns() - from < (BOUND + 400) * 1000000LL);
    EXPECT(test_until(host_get(b, "k", NULL, 0) == FRESHET_STALE, 3000));
    freshet_close(a);
    freshet_close(b);
}

TEST(changes_that_redis_did_not_get_are_queued_and_arrive)
{
    static struct redis redis; /* keeps its arguments */
    char value[8];
    freshet *a, *b;

    redis_start(&redis, (const char *const[]){"--save", "3600 1", NULL});
    a = join_with(fresh_dir(), &redis, FRESHET_SERVE_STALE);
    b = join_with(fresh_dir(), &redis, FRESHET_SERVE_NONE);
    host_share(a, b, "k", "old");
    host_share(a, b, "kept", "v");
    (void)redis_do(&redis, "SAVE");
    redis_stop(&redis);
    EXPECT_EQ(host_invalidate(a, "k"), FRESHET_QUEUED);
    EXPECT_EQ(host_put(a, "other", "new"), FRESHET_QUEUED);
    EXPECT_EQ(host_stats(a).outbox, 2);
    /* Not served on this host, not even as stale, until it is confirmed. */
    EXPECT_EQ(host_get(a, "k", value, sizeof value), FRESHET_MISS);
    redis_restart(&redis);
    EXPECT(test_until(host_stats(a).resent >= 2 && host_stats(a).outbox == 0, 5000));
    EXPECT_EQ(host_get(a, "k", NULL, 0), FRESHET_MISS);
    EXPECT(test_until(host_get(b, "k", NULL, 0) == FRESHET_MISS, BOUND)); /* confirmed: the bound runs from here */
    EXPECT_EQ(host_get(b, "other", NULL, 0), FRESHET_MISS);
    EXPECT(test_until(host_proven(a) && host_proven(b), 5000));
    EXPECT_EQ(host_put(a, "k", "new"), FRESHET_OK);
    EXPECT(test_until(host_gets(b, "k", "new"), 1000));
    freshet_close(a);
    freshet_close(b);
}

TEST(a_stopped_redis_blocks_nobody_beyond_the_deadline)
{
    struct redis redis;
    int64_t from;
    freshet *a;

    redis_start(&redis, NULL);
    a = join_with(fresh_dir(), &redis, FRESHET_SERVE_NONE);
    EXPECT(test_until(host_put(a, "k", "v") == FRESHET_OK, 5000));
    EXPECT_EQ(kill(redis.pid, SIGSTOP), 0);
    from = test_now_ns();
    EXPECT_EQ(host_invalidate(a, "k"), FRESHET_QUEUED);
    EXPECT_EQ(host_get(a, "k", NULL, 0), FRESHET_MISS);
    EXPECT(test_now_ns() - from < 1500 * 1000000LL);
    EXPECT_EQ(kill(redis.pid, SIGCONT), 0);
    EXPECT(test_until(host_stats(a).outbox == 0 && host_proven(a), 8000));
    EXPECT_EQ(host_get(a, "k", NULL, 0), FRESHET_MISS);
    freshet_close(a);
}

TEST(a_dead_process_leaves_its_queued_changes_to_a_sibling)
{
    const char *dir = fresh_dir();
    static struct redis redis; /* keeps its arguments */
    int queued[2];
    char byte;
    freshet *a;
    pid_t child;

    redis_start(&redis, (const char *const[]){"--save", "3600 1", NULL});
    EXPECT_EQ(pipe(queued), 0);
    child = test_fork();
    if (child == 0) {
        freshet *mine = join_with(dir, &redis, FRESHET_SERVE_NONE);

        EXPECT(test_until(host_put(mine, "k", "old") == FRESHET_OK, 5000));
        (void)redis_do(&redis, "SAVE");
        EXPECT_EQ(write(queued[1], "1", 1), 1);
        EXPECT(test_until(host_invalidate(mine, "k") == FRESHET_QUEUED, 5000));
        EXPECT_EQ(write(queued[1], "2", 1), 1);
        for (;;)
            pause();
    }
    EXPECT_EQ(read(queued[0], &byte, 1), 1);
    a = join_with(dir, &redis, FRESHET_SERVE_NONE);
    redis_stop(&redis);
    EXPECT_EQ(read(queued[0], &byte, 1), 1);
    test_kill(child, SIGKILL);
    EXPECT_EQ(host_get(a, "k", NULL, 0), FRESHET_MISS);
    redis_restart(&redis);
    EXPECT(test_until(host_stats(a).outbox == 0 && host_proven(a), 8000));
    EXPECT_EQ(host_get(a, "k", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(host_stats(a).subscriber_pid, getpid());
    freshet_close(a);
}

TEST(a_message_lost_with_its_connection_is_found_in_the_log)
{
    struct redis redis;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = join_with(fresh_dir(), &redis, FRESHET_SERVE_NONE);
    b = join_with(fresh_dir(), &redis, FRESHET_SERVE_NONE);
    for (int round = 0; round < 10; round++) {
        host_share(a, b, "k", "v");
        (void)redis_do(&redis, "CLIENT KILL TYPE pubsub");
        EXPECT_EQ(host_invalidate(a, "k"), FRESHET_OK); /* the last message, and nobody heard it */
        int64_t told = test_now_ns();
        EXPECT(test_until(host_get(b, "k", NULL, 0) == FRESHET_MISS, 2000));
        EXPECT(test_now_ns() - told < (BOUND + 100) * 1000000LL);
    }
    EXPECT_EQ(host_stats(b).repairs, 0);
    freshet_close(a);
    freshet_close(b);
}

TEST(a_log_that_was_trimmed_voids_what_it_may_have_named)
{
    const char *dir = fresh_dir();
    struct redis redis;
    int ready[2];
    char byte;
    freshet *a;
    pid_t child;

    redis_start(&redis, NULL);
    EXPECT_EQ(pipe(ready), 0);
    child = test_fork();
    if (child == 0) {
        freshet *mine = join_with(dir, &redis, FRESHET_SERVE_NONE);

        EXPECT(test_until(host_put(mine, "k", "v") == FRESHET_OK, 5000));
        EXPECT(freshet_flush(mine, 2000) == FRESHET_OK && host_peek(mine, "k", NULL, 0) == FRESHET_OK);
        EXPECT_EQ(write(ready[1], "1", 1), 1);
        EXPECT(test_until(host_stats(mine).repairs == 1, 20000));
        EXPECT_EQ(host_get(mine, "k", NULL, 0), FRESHET_MISS);
        EXPECT(test_until(host_proven(mine), 2000));
        test_child_done();
    }
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    test_kill(child, SIGSTOP);
    a = join_with(fresh_dir(), &redis, FRESHET_SERVE_NONE);
    EXPECT_EQ(host_invalidate(a, "k"), FRESHET_OK);
    EXPECT_EQ(host_invalidate(a, "another"), FRESHET_OK);
    (void)redis_do(&redis, "XTRIM freshet:{default:0}:log MAXLEN 1");
    (void)redis_do(&redis, "CLIENT KILL TYPE pubsub");
    test_kill(child, SIGCONT);
    test_join(child);
    freshet_close(a);
}

TEST(an_entry_of_the_log_that_nobody_signed_voids_up_to_it)
{
    struct redis redis;
    freshet_stats stats;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = join_with(fresh_dir(), &redis, FRESHET_SERVE_NONE);
    b = join_with(fresh_dir(), &redis, FRESHET_SERVE_NONE);
    host_share(a, b, "k", "v");
    /* A writer to Redis replaces the entry to come: the next change's id is taken, so its script leaps to a new
     * epoch. */
    stats = host_stats(a);
    (void)redis_do(&redis, "XADD freshet:{default:0}:log %llu-0 f nonsense", (unsigned long long)stats.position + 1);
    EXPECT_EQ(host_invalidate(a, "k"), FRESHET_OK);
    EXPECT_EQ(host_get(a, "k", NULL, 0), FRESHET_MISS);
    EXPECT(test_until(host_get(b, "k", NULL, 0) == FRESHET_MISS, 1000));
    EXPECT(test_until(host_proven(a) && host_proven(b), 3000));
    host_share(a, b, "k", "w");
    freshet_close(a);
    freshet_close(b);
}
