/*
 * epoch_test.c - Redis loses its memory, all of it or its last moments: no host serves what the loss brought back.
 */
#include <hosts.h>
#include <test.h>

#include <freshet_fleet.h>

#include <stdio.h>
#include <string.h>

#define BOUND 300
#define HEAD  "freshet:{default:0}:head"

TEST(after_flushall_all_hosts_go_on_in_one_new_epoch)
{
    struct redis redis;
    freshet_stats before;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    for (int round = 0; round < 3; round++) {
        host_share(a, b, "k", "v");
        before = host_stats(a);
        EXPECT_EQ(before.epoch, host_stats(b).epoch);
        (void)redis_do(&redis, "FLUSHALL");
        EXPECT(test_until(host_proven_in_another(a, before.epoch) && host_proven_in_another(b, before.epoch), 5000));
        EXPECT_EQ(host_stats(a).epoch, host_stats(b).epoch);
        EXPECT(host_stats(a).position > before.position);
        EXPECT_EQ(host_get(a, "k", NULL, 0), FRESHET_MISS);
        EXPECT_EQ(host_get(b, "k", NULL, 0), FRESHET_MISS);
    }
    freshet_close(a);
    freshet_close(b);
}

/* Whoever reports first after the loss writes the new head, be it the host with the smaller limit. */
TEST(after_flushall_hosts_of_different_limits_are_all_proven_again)
{
    struct redis redis;
    freshet *slow, *quick;

    redis_start(&redis, NULL);
    slow = host_join(fresh_dir(), &redis, 4000);
    quick = host_join(fresh_dir(), &redis, 100);
    for (int round = 0; round < 2; round++) {
        uint64_t epoch = host_stats(slow).epoch;

        (void)redis_do(&redis, "FLUSHALL");
        EXPECT(test_until(host_proven_in_another(quick, epoch), 5000)); /* it looks forty times as often */
        EXPECT(test_until(host_proven_in_another(slow, epoch), 5000));
        host_share(slow, quick, "k", "v");
    }
    freshet_close(slow);
    freshet_close(quick);
}

TEST(a_change_that_meets_the_new_epoch_first_is_seen_by_all)
{
    struct redis redis;
    uint64_t epoch;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    host_share(a, b, "k", "old");
    epoch = host_stats(a).epoch;
    (void)redis_do(&redis, "FLUSHALL");
    EXPECT_EQ(host_put(a, "k", "new"), FRESHET_OK);
    EXPECT(host_stats(a).epoch != epoch);
    /* What was confirmed lately is invalidated once more in a new epoch: at worst that costs the new value, too. */
    EXPECT(host_gets(a, "k", "new") || host_get(a, "k", NULL, 0) == FRESHET_MISS);
    EXPECT(test_until(!host_gets(b, "k", "old"), 2 * BOUND));
    EXPECT(test_until(host_proven_in_another(b, epoch), 5000));
    EXPECT(!host_gets(b, "k", "old"));
    freshet_close(a);
    freshet_close(b);
}

TEST(a_redis_restarted_without_its_data_is_joined_anew)
{
    struct redis redis;
    uint64_t epoch;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    host_share(a, b, "k", "v");
    epoch = host_stats(a).epoch;
    redis_restart(&redis);
    EXPECT(test_until(host_proven_in_another(a, epoch) && host_proven_in_another(b, epoch), 8000));
    EXPECT_EQ(host_get(b, "k", NULL, 0), FRESHET_MISS);
    host_share(b, a, "k", "w");
    freshet_close(a);
    freshet_close(b);
}

TEST(what_redis_forgot_of_its_last_moments_is_sent_again)
{
    static struct redis redis; /* keeps its arguments */
    uint64_t epoch;
    freshet *a, *b;

    redis_start(&redis, (const char *const[]){"--save", "3600 1", NULL});
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    host_share(a, b, "k", "old");
    host_share(a, b, "kept", "v");
    (void)redis_do(&redis, "SAVE");
    EXPECT_EQ(host_invalidate(a, "k"),
              FRESHET_OK); /* confirmed, and then forgotten: the record is back after the restart */
    epoch = host_stats(a).epoch;
    redis_restart(&redis);
    EXPECT(test_until(host_proven_in_another(a, epoch) && host_proven_in_another(b, epoch), 8000));
    EXPECT(host_stats(a).resent >= 1);
    EXPECT_EQ(host_get(a, "k", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(host_get(b, "k", NULL, 0), FRESHET_MISS);
    freshet_close(a);
    freshet_close(b);
}

/* Put the head back to what it was `changes` changes ago. */
static void turn_back(struct redis *redis, freshet *cache, int changes)
{
    size_t size;
    char head[256];
    const char *bytes =
        redis_ask(redis, 2, (const void *const[]){"GET", HEAD}, (const size_t[]){3, strlen(HEAD)}, &size);

    EXPECT(size > 0 && size <= sizeof head);
    memcpy(head, bytes, size);
    for (int i = 0; i < changes; i++)
        EXPECT_EQ(host_invalidate(cache, "x"), FRESHET_OK);
    (void)redis_ask(redis, 3, (const void *const[]){"SET", HEAD, head}, (const size_t[]){3, strlen(HEAD), size}, NULL);
}

TEST(a_head_that_fell_back_begins_a_new_epoch)
{
    struct redis redis;
    uint64_t epoch;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    host_share(a, b, "k", "v");
    epoch = host_stats(a).epoch;
    turn_back(&redis, a, 5);
    EXPECT(test_until(host_proven_in_another(a, epoch) && host_proven_in_another(b, epoch), 5000));
    EXPECT_EQ(host_stats(a).epoch, host_stats(b).epoch);
    host_share(a, b, "k", "w");
    freshet_close(a);
    freshet_close(b);
}

TEST(a_server_with_an_older_history_is_told_and_begins_a_newer_one)
{
    struct redis redis;
    uint64_t epoch, position;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    for (int round = 0; round < 2; round++) { /* each leaps 2^32 ahead: more than an hour before the clock */
        epoch = host_stats(a).epoch;
        turn_back(&redis, a, 3);
        EXPECT(test_until(host_proven_in_another(a, epoch) && host_proven_in_another(b, epoch), 5000));
    }
    host_share(a, b, "k", "v");
    epoch = host_stats(a).epoch;
    position = host_stats(a).position;
    (void)redis_do(&redis, "FLUSHALL"); /* what begins now begins lower */
    EXPECT(test_until(host_proven_in_another(a, epoch) && host_proven_in_another(b, epoch), 10000));
    EXPECT(host_stats(a).position > position);
    EXPECT_EQ(host_stats(a).epoch, host_stats(b).epoch);
    EXPECT_EQ(host_get(b, "k", NULL, 0), FRESHET_MISS);
    host_share(b, a, "k", "w");
    freshet_close(a);
    freshet_close(b);
}

/* The head's bytes; returns its size. */
static size_t head_get(struct redis *redis, char head[256])
{
    size_t size;
    const char *bytes =
        redis_ask(redis, 2, (const void *const[]){"GET", HEAD}, (const size_t[]){3, strlen(HEAD)}, &size);

    EXPECT(size == 132);
    memcpy(head, bytes, size);
    return size;
}

static void put64(char *to, uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8)
        to[i] = (char)value;
}

static uint64_t get64(const char *from)
{
    uint64_t value = 0;

    for (int i = 0; i < 8; i++)
        value = value << 8 | (unsigned char)from[i];
    return value;
}

TEST(a_forged_head_of_a_huge_position_disables_nobody)
{
    const uint64_t forged[] = {(UINT64_C(1) << 53) - (UINT64_C(1) << 33) - 5, (UINT64_C(1) << 53) - 1};
    struct redis redis;
    freshet *a, *b;
    char head[256];

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    for (int round = 0; round < 2; round++) {
        uint64_t epoch, position;

        host_share(a, b, "k", "v");
        epoch = host_stats(a).epoch;
        position = host_stats(a).position;
        EXPECT_EQ(head_get(&redis, head), 132);
        put64(head + 4, 0x1234567);
        put64(head + 52, forged[round]);
        (void)redis_ask(&redis, 3, (const void *const[]){"SET", HEAD, head}, (const size_t[]){3, strlen(HEAD), 132},
                        NULL);
        EXPECT(test_until(host_proven_in_another(a, epoch) && host_proven_in_another(b, epoch), 8000));
        EXPECT(host_stats(a).epoch == host_stats(b).epoch && host_stats(a).epoch != 0x1234567);
        EXPECT(host_stats(a).position > position && host_stats(a).position < position + (UINT64_C(1) << 40));
        host_share(b, a, "k", "w");
    }
    freshet_close(a);
    freshet_close(b);
}

/* More changes than a host remembers: which of them the new history lacks cannot be told any more. */
TEST(after_more_changes_than_are_remembered_everything_is_sent_again)
{
    static char names[2100][16];
    freshet_key keys[2100];
    struct redis redis;
    uint64_t epoch;
    freshet *cache;
    char head[256];

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, BOUND);
    for (size_t i = 0; i < 2100; i++) {
        (void)snprintf(names[i], sizeof names[i], "key %zu", i);
        keys[i] = (freshet_key){names[i], strlen(names[i])};
    }
    for (int round = 0; round < 2; round++) {
        size_t count = round == 0 ? 500 : 2100;

        EXPECT_EQ(freshet_invalidate_many(cache, keys, count, NULL, NULL), FRESHET_OK);
        epoch = host_stats(cache).epoch;
        (void)redis_do(&redis, "FLUSHALL");
        EXPECT(test_until(host_proven_in_another(cache, epoch), 8000));
        EXPECT_EQ(head_get(&redis, head), 132);
        EXPECT((get64(head + 116) != 0) == (round == 1)); /* where the last clear was asked for */
    }
    freshet_close(cache);
}

/* Nobody tells the host that its master was demoted: its connections are still good, and plain reads are answered. */
TEST(a_demoted_master_proves_nothing)
{
    struct redis old, promoted;
    freshet *host, *writer, *other;
    int64_t start;

    redis_start_tcp(&old, NULL);
    redis_start(&promoted, NULL);
    /* Before the hosts come: the first replica costs an epoch. */
    EXPECT(strcmp(redis_do(&promoted, "REPLICAOF 127.0.0.1 %d", old.port), "OK") == 0);
    EXPECT(test_until(strstr(redis_do(&promoted, "INFO replication"), "master_link_status:up"), 20000));
    host = host_join(fresh_dir(), &old, BOUND);
    writer = host_join(fresh_dir(), &old, BOUND);
    host_share(writer, host, "held", "OLD");
    EXPECT_EQ(host_put(writer, "far", "OLD"), FRESHET_OK); /* this one only Redis has */
    EXPECT(test_until(host_stats(host).proven_age_ms >= 0 && host_stats(host).proven_age_ms < BOUND, 5000));
    (void)redis_do(&promoted, "REPLICAOF NO ONE");
    (void)redis_do(&old, "REPLICAOF 127.0.0.1 1");
    other = host_join(fresh_dir(), &promoted, BOUND);
    EXPECT_EQ(host_put(other, "held", "NEW"), FRESHET_OK);
    EXPECT_EQ(host_put(other, "far", "NEW"), FRESHET_OK);
    start = test_now_ns();
    EXPECT(test_until(test_now_ns() - start > BOUND * INT64_C(1000000), 5000));
    do {
        EXPECT(!host_gets(host, "far", "OLD"));
        EXPECT(!host_gets(host, "held", "OLD"));
        EXPECT(!host_gets(writer, "far", "OLD"));
        test_pause();
    } while (test_now_ns() - start < 4 * BOUND * INT64_C(1000000));
    EXPECT(host_gets(other, "far", "NEW"));
    freshet_close(host);
    freshet_close(writer);
    freshet_close(other);
    redis_stop(&promoted);
    redis_stop(&old);
}
