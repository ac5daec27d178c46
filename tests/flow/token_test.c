/*
 * token_test.c - read levels and tokens (P3): who has written, or read, never goes back in time, on whatever host.
 */
#include <hosts.h>
#include <test.h>

#include <freshet_fleet.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- one read or write ---- */

struct got {
    freshet_result result;
    freshet_answer answer;
    char value[64];
};

static struct got get(freshet *cache, const char *key, freshet_read_level level, const char *token)
{
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    struct got got = {.answer = FRESHET_INIT(freshet_answer)};
    freshet_buf buf = {0};

    options.level = level;
    options.token = token;
    options.deadline_ms = 300;
    got.result = freshet_get(cache, key, strlen(key), &options, &buf, &got.answer);
    snprintf(got.value, sizeof got.value, "%.*s", (int)buf.size, buf.data ? (char *)buf.data : "");
    freshet_buf_free(&buf);
    return got;
}

static struct got load(freshet *cache, const char *key, freshet_read_level level, const char *token, const char *row)
{
    freshet_load_options options = FRESHET_INIT(freshet_load_options);
    struct got got = {.answer = FRESHET_INIT(freshet_answer)};
    freshet_buf buf = {0};

    options.level = level;
    options.token = token;
    options.deadline_ms = 300;
    got.result = freshet_load(cache, key, strlen(key), &options, host_loader, (void *)row, &buf, &got.answer);
    snprintf(got.value, sizeof got.value, "%.*s", (int)buf.size, buf.data ? (char *)buf.data : "");
    freshet_buf_free(&buf);
    return got;
}

static freshet_change put(freshet *cache, const char *key, const char *value)
{
    freshet_change change = FRESHET_INIT(freshet_change);

    EXPECT_EQ(freshet_put(cache, key, strlen(key), value, strlen(value), NULL, &change), FRESHET_OK);
    EXPECT(change.token[0] != '\0');
    return change;
}

static void warm(freshet *cache, const char *key, const char *value)
{
    EXPECT(test_until(host_gets(cache, key, value), 5000));
    EXPECT(freshet_flush(cache, 5000) == FRESHET_OK);
    EXPECT(test_until(host_peek(cache, key, NULL, 0) == FRESHET_OK, 5000));
}

/* Nobody is told of changes any more: hosts learn of them by their renewals alone, a quarter of the bound apart. */
static void deafen(struct redis *redis)
{
    EXPECT(redis_int(redis, "CLIENT KILL TYPE pubsub") >= 0);
    (void)redis_do(redis, "ACL SETUSER default resetchannels");
}

/* ---- tokens ---- */

TEST(who_reads_with_a_writes_token_gets_that_write_on_any_host)
{
    struct redis redis;
    freshet *a, *b;
    unsigned behind = 0;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 60000);
    b = host_join(fresh_dir(), &redis, 60000);
    (void)put(a, "k", "0");
    warm(a, "k", "0");
    warm(b, "k", "0");
    deafen(&redis);
    for (int round = 1; round < 20; round++) {
        freshet *writer = round % 2 ? a : b, *reader = round % 2 ? b : a;
        char value[16];
        freshet_change change;
        struct got got;

        snprintf(value, sizeof value, "%d", round);
        change = put(writer, "k", value);
        got = get(reader, "k", FRESHET_READ_BOUNDED, NULL);
        behind += got.result == FRESHET_OK && strcmp(got.value, value) != 0;
        got = get(reader, "k", FRESHET_READ_BOUNDED, change.token);
        EXPECT(got.result == FRESHET_OK && strcmp(got.value, value) == 0);
        got = load(reader, "k", FRESHET_READ_BOUNDED, change.token, "a row");
        EXPECT(got.result == FRESHET_OK && strcmp(got.value, value) == 0);
        warm(reader, "k", value);
    }
    EXPECT(behind > 0); /* without a token it does go back: there was something to prevent */
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

TEST(reads_with_the_last_answers_token_never_go_back)
{
    char token[FRESHET_TOKEN_SIZE] = "", next[FRESHET_TOKEN_SIZE];
    struct redis redis;
    freshet *hosts[2];
    long last = -1;
    unsigned back = 0;

    redis_start(&redis, NULL);
    for (int h = 0; h < 2; h++)
        hosts[h] = host_join(fresh_dir(), &redis, 60000);
    (void)put(hosts[0], "k", "0");
    warm(hosts[0], "k", "0");
    warm(hosts[1], "k", "0");
    deafen(&redis);
    for (int round = 1; round < 40; round++) {
        char value[16];
        struct got got;

        snprintf(value, sizeof value, "%d", round);
        if (round % 3 == 0)
            (void)put(hosts[round % 2], "k", value);
        got = get(hosts[(round / 2) % 2], "k", FRESHET_READ_BOUNDED, NULL);
        back += got.result == FRESHET_OK && atol(got.value) < last;
        got = get(hosts[(round / 2) % 2], "k", FRESHET_READ_BOUNDED, token);
        EXPECT_EQ(got.result, FRESHET_OK);
        EXPECT(atol(got.value) >= last);
        last = atol(got.value);
        EXPECT_EQ(freshet_token_of(hosts[0], &got.answer, next), FRESHET_OK);
        EXPECT_EQ(freshet_token_join(hosts[1], token, next, token), FRESHET_OK);
    }
    EXPECT(back > 0);
    for (int h = 0; h < 2; h++)
        freshet_close(hosts[h]);
    redis_stop(&redis);
}

TEST(a_token_of_an_ended_history_is_unproven_or_loaded)
{
    freshet_change change, newer;
    struct redis redis;
    struct got got;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 500);
    b = host_join(fresh_dir(), &redis, 500);
    change = put(a, "k", "old");
    EXPECT_EQ(redis_int(&redis, "DEL freshet:{default:0}:head"), 1);
    EXPECT(test_until(host_put(a, "k", "new") == FRESHET_OK && host_gets(b, "k", "new"), 5000));
    newer = put(a, "k", "newer");
    EXPECT(newer.epoch != change.epoch);
    got = get(b, "k", FRESHET_READ_BOUNDED, change.token);
    EXPECT(got.result == FRESHET_UNPROVEN && got.value[0] == '\0');
    got = get(b, "k", FRESHET_READ_ANY, change.token);
    EXPECT_EQ(got.result, FRESHET_UNPROVEN);
    got = get(b, "k", FRESHET_READ_LATEST, change.token);
    EXPECT_EQ(got.result, FRESHET_UNPROVEN);
    got = load(b, "k", FRESHET_READ_BOUNDED, change.token, "row");
    EXPECT(got.result == FRESHET_OK && strcmp(got.value, "row") == 0 && got.answer.source == FRESHET_FROM_LOADER);
    /* What was confirmed lately is sent again after a rotation, so the key may have been void, and the row kept. */
    EXPECT_EQ(freshet_token_of(b, &got.answer, change.token), got.answer.position ? FRESHET_OK : FRESHET_UNPROVEN);
    EXPECT((change.token[0] == '\0') == (got.answer.position == 0));
    EXPECT(test_until((newer = put(a, "k", "newer"), host_gets(b, "k", "newer")), 5000));
    got = get(b, "k", FRESHET_READ_BOUNDED, newer.token);
    EXPECT(got.result == FRESHET_OK && strcmp(got.value, "newer") == 0);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

TEST(a_position_that_redis_has_not_reached_is_unproven)
{
    freshet_answer ahead = FRESHET_INIT(freshet_answer);
    char token[FRESHET_TOKEN_SIZE];
    struct redis redis;
    struct got got;
    freshet *cache;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 500);
    (void)put(cache, "k", "v");
    got = get(cache, "k", FRESHET_READ_BOUNDED, NULL);
    ahead = got.answer;
    ahead.position += 1000; /* a forger's, or of writes that were lost */
    EXPECT_EQ(freshet_token_of(cache, &ahead, token), FRESHET_OK);
    EXPECT_EQ(get(cache, "k", FRESHET_READ_BOUNDED, token).result, FRESHET_UNPROVEN);
    EXPECT_EQ(get(cache, "none", FRESHET_READ_BOUNDED, token).result, FRESHET_UNPROVEN);
    EXPECT_EQ(load(cache, "k", FRESHET_READ_BOUNDED, token, "row").answer.source, FRESHET_FROM_LOADER);
    EXPECT_EQ(get(cache, "k", FRESHET_READ_BOUNDED, "rubbish").result, FRESHET_EINVAL);
    token[4] = token[4] == 'A' ? 'B' : 'A';
    EXPECT_EQ(get(cache, "k", FRESHET_READ_BOUNDED, token).result, FRESHET_EINVAL);
    EXPECT_EQ(load(cache, "k", FRESHET_READ_BOUNDED, token, "row").result, FRESHET_EINVAL);
    EXPECT_EQ(freshet_token_join(cache, token, NULL, token), FRESHET_EINVAL);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_token_speaks_of_every_partition_it_was_given)
{
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet_change cleared = FRESHET_INIT(freshet_change), change = FRESHET_INIT(freshet_change);
    char token[FRESHET_TOKEN_SIZE] = "", key[16];
    struct redis redis;
    freshet *hosts[2];

    redis_start(&redis, NULL);
    join.keyring = host_keyring();
    options.partitions = 8;
    options.max_staleness_ms = 60000;
    for (int h = 0; h < 2; h++) {
        options.dir = fresh_dir();
        EXPECT_EQ(freshet_open(&hosts[h], &options), FRESHET_OK);
        EXPECT_EQ(freshet_join(hosts[h], redis.url, &join), FRESHET_OK);
    }
    for (int i = 0; i < 32; i++) {
        snprintf(key, sizeof key, "k%d", i);
        (void)put(hosts[0], key, "old");
        warm(hosts[1], key, "old");
    }
    deafen(&redis);
    for (int i = 0; i < 32; i++) {
        snprintf(key, sizeof key, "k%d", i);
        change = put(hosts[0], key, "new");
        EXPECT_EQ(freshet_token_join(hosts[0], token, change.token, token), FRESHET_OK);
    }
    for (int i = 0; i < 32; i++) {
        snprintf(key, sizeof key, "k%d", i);
        EXPECT(strcmp(get(hosts[1], key, FRESHET_READ_BOUNDED, token).value, "new") == 0);
    }
    EXPECT_EQ(freshet_clear(hosts[0], NULL, &cleared), FRESHET_OK);
    for (int i = 0; i < 32; i++) {
        snprintf(key, sizeof key, "k%d", i);
        EXPECT_EQ(get(hosts[1], key, FRESHET_READ_BOUNDED, cleared.token).result, FRESHET_MISS);
    }
    for (int h = 0; h < 2; h++)
        freshet_close(hosts[h]);
    redis_stop(&redis);
}

TEST(without_a_fleet_a_token_is_the_hosts_own)
{
    freshet *a = host_solo(fresh_dir(), 0), *b = host_solo(fresh_dir(), 0);
    freshet_change change = put(a, "k", "v");
    struct got got = get(a, "k", FRESHET_READ_LATEST, change.token);

    EXPECT(got.result == FRESHET_OK && strcmp(got.value, "v") == 0);
    (void)put(b, "k", "other");
    EXPECT_EQ(get(b, "k", FRESHET_READ_BOUNDED, change.token).result, FRESHET_UNPROVEN);
    freshet_close(a);
    freshet_close(b);
}

/* ---- levels ---- */

static long long sent_bytes(struct redis *redis)
{
    const char *at = strstr(redis_do(redis, "INFO stats"), "total_net_output_bytes:");

    EXPECT(at != NULL);
    return atoll(at + strlen("total_net_output_bytes:"));
}

TEST(the_latest_moves_no_value_that_the_tier_has)
{
    enum { SIZE = 300000, READS = 20 };
    static char value[SIZE];
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    struct redis redis;
    freshet_buf buf = {0};
    long long before;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 60000);
    b = host_join(fresh_dir(), &redis, 60000);
    memset(value, 'v', sizeof value);
    EXPECT_EQ(freshet_put(a, "k", 1, value, sizeof value, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_get(b, "k", 1, NULL, &buf, NULL), FRESHET_OK);
    EXPECT(freshet_flush(b, 5000) == FRESHET_OK);
    options.level = FRESHET_READ_LATEST;
    before = sent_bytes(&redis);
    for (int i = 0; i < READS; i++) {
        EXPECT_EQ(freshet_get(b, "k", 1, &options, &buf, &answer), FRESHET_OK);
        EXPECT(answer.source == FRESHET_FROM_TIER && buf.size == SIZE && answer.age_bound_ms < 2000);
    }
    EXPECT(sent_bytes(&redis) - before < SIZE / 2);
    deafen(&redis);
    memset(value, 'w', sizeof value);
    EXPECT_EQ(freshet_put(a, "k", 1, value, sizeof value, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_get(b, "k", 1, &options, &buf, &answer), FRESHET_OK); /* the tier knows nothing of it yet */
    EXPECT(answer.source == FRESHET_FROM_REDIS && ((char *)buf.data)[0] == 'w');
    EXPECT_EQ(host_invalidate(a, "k"), FRESHET_OK);
    EXPECT_EQ(freshet_get(b, "k", 1, &options, &buf, &answer), FRESHET_MISS);
    EXPECT(strcmp(load(b, "k", FRESHET_READ_LATEST, NULL, "row").value, "row") == 0);
    freshet_buf_free(&buf);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

TEST(any_serves_what_there_is_and_says_that_it_is_stale)
{
    struct redis redis;
    struct got got;
    freshet *cache;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 200);
    (void)put(cache, "k", "v");
    warm(cache, "k", "v");
    EXPECT_EQ(get(cache, "k", FRESHET_READ_ANY, NULL).result, FRESHET_OK); /* within the bound it is an answer as any */
    (void)put(cache, "void", "v");
    warm(cache, "void", "v");
    redis_stop(&redis);
    EXPECT(test_until(get(cache, "k", FRESHET_READ_BOUNDED, NULL).result == FRESHET_MISS, 5000));
    got = get(cache, "k", FRESHET_READ_ANY, NULL);
    EXPECT(got.result == FRESHET_STALE && strcmp(got.value, "v") == 0 && got.answer.stale);
    got = load(cache, "k", FRESHET_READ_ANY, NULL, "row");
    EXPECT(got.result == FRESHET_STALE && strcmp(got.value, "v") == 0);
    EXPECT_EQ(get(cache, "k", FRESHET_READ_LATEST, NULL).result, FRESHET_MISS);
    EXPECT_EQ(host_invalidate(cache, "void"), FRESHET_QUEUED);
    EXPECT_EQ(get(cache, "void", FRESHET_READ_ANY, NULL).result, FRESHET_MISS); /* known to be void is never served */
    freshet_close(cache);
}

/* However young the tier's copy is: Redis was not asked. */
TEST(what_redis_could_not_be_asked_for_is_never_called_the_latest)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    struct redis redis;
    struct got got;
    freshet *cache;

    redis_start(&redis, NULL);
    options.dir = fresh_dir();
    options.max_staleness_ms = 60000;
    options.policy = FRESHET_SERVE_STALE;
    join.keyring = host_keyring();
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    EXPECT_EQ(freshet_join(cache, redis.url, &join), FRESHET_OK);
    (void)put(cache, "k", "v");
    warm(cache, "k", "v");
    EXPECT_EQ(get(cache, "k", FRESHET_READ_LATEST, NULL).result, FRESHET_OK);
    redis_stop(&redis);
    got = get(cache, "k", FRESHET_READ_LATEST, NULL);
    EXPECT(got.result == FRESHET_STALE && strcmp(got.value, "v") == 0 && got.answer.stale);
    EXPECT_EQ(get(cache, "k", FRESHET_READ_BOUNDED, NULL).result, FRESHET_OK);
    freshet_close(cache);
}

TEST(a_tighter_bound_asks_redis_where_the_caches_own_would_not)
{
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    struct redis redis;
    freshet_buf buf = {0};
    freshet *cache;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 60000);
    (void)put(cache, "k", "v");
    warm(cache, "k", "v");
    options.bound_ms = 20;
    EXPECT(
        test_until(freshet_get(cache, "k", 1, NULL, &buf, &answer) == FRESHET_OK && answer.age_bound_ms > 30, 20000));
    EXPECT_EQ(answer.source, FRESHET_FROM_TIER);
    EXPECT_EQ(freshet_get(cache, "k", 1, &options, &buf, &answer), FRESHET_OK);
    EXPECT(answer.source == FRESHET_FROM_REDIS && answer.age_bound_ms <= 20);
    freshet_buf_free(&buf);
    freshet_close(cache);
    redis_stop(&redis);
}

/* ---- replicas ---- */

static freshet_change put_to(freshet *cache, uint32_t replicas, freshet_result expected)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    freshet_change change = FRESHET_INIT(freshet_change);

    options.wait_replicas = replicas;
    options.deadline_ms = 400;
    EXPECT_EQ(freshet_put(cache, "k", 1, "v", 1, &options, &change), expected);
    EXPECT(change.position > 0 && change.token[0]); /* confirmed it is */
    return change;
}

TEST(a_write_waits_for_as_many_replicas_as_are_asked_for)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    struct redis master, replica;
    freshet *cache;

    redis_start_tcp(&master, NULL);
    redis_start(&replica, NULL);
    EXPECT(strcmp(redis_do(&replica, "REPLICAOF 127.0.0.1 %d", master.port), "OK") == 0);
    EXPECT(test_until(strstr(redis_do(&master, "INFO replication"), "state=online") != NULL, 20000));
    cache = host_join(fresh_dir(), &master, 500);
    options.wait_replicas = 1;
    EXPECT(
        test_until(freshet_put(cache, "k", 1, "0", 1, &options, NULL) == FRESHET_OK, 20000)); /* it is still loading */
    EXPECT_EQ(put_to(cache, 1, FRESHET_OK).replicas, 1);
    EXPECT_EQ(redis_int(&replica, "EXISTS freshet:{default:0}:head"), 1);
    EXPECT_EQ(put_to(cache, 2, FRESHET_UNREPLICATED).replicas, 1);
    EXPECT(kill(replica.pid, SIGSTOP) == 0);
    EXPECT_EQ(put_to(cache, 1, FRESHET_UNREPLICATED).replicas, 0);
    EXPECT(host_gets(cache, "k", "v"));
    EXPECT(kill(replica.pid, SIGCONT) == 0);
    EXPECT(test_until(freshet_put(cache, "k", 1, "w", 1, &options, NULL) == FRESHET_OK, 20000));
    freshet_close(cache);
    redis_stop(&replica);
    redis_stop(&master);
}
