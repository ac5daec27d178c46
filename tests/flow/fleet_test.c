/*
 * fleet_test.c - hosts that are joined: what one changes the others see, and who may join.
 * Two directories stand for two hosts; that they are in one process makes no difference to them.
 */
#include <hosts.h>
#include <test.h>

#include <freshet_fleet.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Open with other options than host_solo's. */
static freshet *open_with(const char *dir, uint32_t partitions, uint32_t bound_ms, uint32_t deadline_ms)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache = NULL;

    options.dir = dir;
    options.tier_size = 8u << 20;
    options.partitions = partitions;
    options.max_staleness_ms = bound_ms;
    options.deadline_ms = deadline_ms;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    return cache;
}

static freshet_result join(freshet *cache, const char *url)
{
    freshet_join_options options = FRESHET_INIT(freshet_join_options);

    options.keyring = host_keyring();
    return freshet_join(cache, url, &options);
}

TEST(who_joins_is_proven_and_listens)
{
    struct redis redis;
    freshet_stats stats;
    freshet *cache;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 0);
    stats = host_stats(cache);
    EXPECT(stats.fleet && stats.epoch != 0 && stats.renewals > 0);
    EXPECT(stats.proven_age_ms >= 0 && stats.proven_age_ms < 500);
    EXPECT_EQ(stats.subscriber_pid, getpid());
    EXPECT_EQ(redis_int(&redis, "EXISTS freshet:{default:0}:head"), 1);
    freshet_close(cache);
    EXPECT_EQ(redis_int(&redis, "HLEN freshet:{default:0}:hosts"), 1); /* the registry's id alone: the host has gone */
}

TEST(what_one_host_puts_another_gets_and_keeps)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    struct redis redis;
    freshet_buf buf = {0};
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 0);
    b = host_join(fresh_dir(), &redis, 0);
    EXPECT_EQ(host_get(b, "k", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(host_put(a, "k", "one"), FRESHET_OK);
    EXPECT_EQ(freshet_get(b, "k", 1, NULL, &buf, &answer), FRESHET_OK);
    EXPECT(answer.source == FRESHET_FROM_REDIS && buf.size == 3 && memcmp(buf.data, "one", 3) == 0);
    EXPECT(answer.age_bound_ms >= 0 && answer.version > 0 && answer.writer != 0);
    EXPECT(freshet_flush(b, 0) == FRESHET_OK);
    EXPECT_EQ(freshet_get(b, "k", 1, NULL, &buf, &answer), FRESHET_OK);
    EXPECT_EQ(answer.source, FRESHET_FROM_TIER);
    EXPECT(freshet_flush(a, 0) == FRESHET_OK);
    EXPECT_EQ(host_peek(a, "k", NULL, 0), FRESHET_OK);
    freshet_buf_free(&buf);
    freshet_close(a);
    freshet_close(b);
}

TEST(a_change_on_one_host_leaves_no_copy_on_another)
{
    struct redis redis;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 0);
    b = host_join(fresh_dir(), &redis, 0);
    for (int round = 0; round < 20; round++) {
        char old[16], new[16];

        snprintf(old, sizeof old, "%d", round);
        snprintf(new, sizeof new, "%d+", round);
        EXPECT_EQ(host_put(a, "k", old), FRESHET_OK);
        EXPECT(test_until(host_gets(b, "k", old), 2000));
        EXPECT(host_gets(a, "k", old));
        if (round % 2) {
            EXPECT_EQ(host_put(b, "k", new), FRESHET_OK);
            EXPECT(host_gets(b, "k", new));
            EXPECT(test_until(host_gets(a, "k", new), 500));
        } else {
            EXPECT_EQ(host_invalidate(b, "k"), FRESHET_OK);
            EXPECT_EQ(host_get(b, "k", NULL, 0), FRESHET_MISS);
            EXPECT(test_until(host_get(a, "k", NULL, 0) == FRESHET_MISS, 500));
        }
    }
    freshet_close(a);
    freshet_close(b);
}

TEST(many_keys_of_all_partitions_go_at_once)
{
    enum { KEYS = 3000 };
    static char names[KEYS][16];
    static freshet_key keys[KEYS];
    freshet_change change = FRESHET_INIT(freshet_change);
    struct redis redis;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = open_with(fresh_dir(), 4, 0, 5000);
    b = open_with(fresh_dir(), 4, 0, 5000);
    EXPECT_EQ(join(a, redis.url), FRESHET_OK);
    EXPECT_EQ(join(b, redis.url), FRESHET_OK);
    for (int i = 0; i < KEYS; i++) {
        keys[i].data = names[i];
        keys[i].size = (size_t)snprintf(names[i], sizeof names[i], "key-%d", i);
        if (i % 100 == 0) {
            EXPECT_EQ(host_put(a, names[i], "v"), FRESHET_OK);
            EXPECT(host_gets(b, names[i], "v"));
        }
    }
    EXPECT_EQ(freshet_invalidate_many(a, keys, KEYS, NULL, &change), FRESHET_OK);
    EXPECT(change.position > 0 && change.epoch != 0);
    for (int i = 0; i < KEYS; i += 100) {
        EXPECT_EQ(host_get(a, names[i], NULL, 0), FRESHET_MISS);
        EXPECT(test_until(host_get(b, names[i], NULL, 0) == FRESHET_MISS, 500));
    }
    EXPECT(host_proven(a) && host_proven(b));
    EXPECT_EQ(host_stats(b).repairs, 0);
    freshet_close(a);
    freshet_close(b);
}

TEST(a_clear_makes_all_hosts_forget_everything)
{
    struct redis redis;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 0);
    b = host_join(fresh_dir(), &redis, 0);
    EXPECT_EQ(host_put(a, "x", "1"), FRESHET_OK);
    EXPECT_EQ(host_put(a, "y", "2"), FRESHET_OK);
    EXPECT(host_gets(b, "x", "1") && host_gets(b, "y", "2"));
    EXPECT_EQ(freshet_clear(b, NULL, NULL), FRESHET_OK);
    EXPECT(host_get(b, "x", NULL, 0) == FRESHET_MISS && host_get(b, "y", NULL, 0) == FRESHET_MISS);
    EXPECT(test_until(host_get(a, "x", NULL, 0) == FRESHET_MISS && host_get(a, "y", NULL, 0) == FRESHET_MISS, 500));
    EXPECT_EQ(host_put(a, "x", "3"), FRESHET_OK);
    EXPECT(test_until(host_gets(b, "x", "3"), 500));
    freshet_close(a);
    freshet_close(b);
}

TEST(known_absence_expiry_and_source_versions_travel)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    struct redis redis;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 0);
    b = host_join(fresh_dir(), &redis, 0);
    EXPECT_EQ(freshet_put_absent(a, "gone", 4, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(host_get(b, "gone", NULL, 0), FRESHET_ABSENT);
    options.ttl_ms = 300;
    EXPECT_EQ(freshet_put(a, "short", 5, "v", 1, &options, NULL), FRESHET_OK);
    EXPECT(host_gets(b, "short", "v"));
    EXPECT(test_until(host_get(b, "short", NULL, 0) == FRESHET_MISS, 3000));
    EXPECT_EQ(host_get(a, "short", NULL, 0), FRESHET_MISS);
    options.ttl_ms = 0;
    options.source_version = 8;
    EXPECT_EQ(freshet_put(a, "row", 3, "8", 1, &options, NULL), FRESHET_OK);
    options.source_version = 7;
    EXPECT_EQ(freshet_put(b, "row", 3, "7", 1, &options, NULL), FRESHET_OUTDATED);
    EXPECT(host_gets(b, "row", "8"));
    EXPECT_EQ(host_stats(b).outbox, 0);
    freshet_close(a);
    freshet_close(b);
}

TEST(large_and_empty_values_come_through)
{
    size_t size = 3u << 20;
    char *value = malloc(size);
    struct redis redis;
    freshet_buf buf = {0};
    uint64_t seed = 7;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 0);
    b = host_join(fresh_dir(), &redis, 0);
    for (size_t i = 0; i < size; i++)
        value[i] = (char)test_random(&seed);
    EXPECT_EQ(freshet_put(a, "big", 3, value, size, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_get(b, "big", 3, NULL, &buf, NULL), FRESHET_OK);
    EXPECT(buf.size == size && memcmp(buf.data, value, size) == 0);
    EXPECT_EQ(freshet_put(a, "none", 4, "", 0, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_get(b, "none", 4, NULL, &buf, NULL), FRESHET_OK);
    EXPECT_EQ(buf.size, 0);
    freshet_buf_free(&buf);
    free(value);
    freshet_close(a);
    freshet_close(b);
}

static freshet_result counting_loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    (void)request;
    ++*(int *)arg;
    return freshet_buf_set(value, "loaded", 6);
}

TEST(one_load_serves_the_whole_fleet)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    struct redis redis;
    freshet_buf buf = {0};
    int loads = 0;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 0);
    b = host_join(fresh_dir(), &redis, 0);
    EXPECT_EQ(freshet_load(a, "k", 1, NULL, counting_loader, &loads, &buf, &answer), FRESHET_OK);
    EXPECT_EQ(answer.source, FRESHET_FROM_LOADER);
    EXPECT_EQ(freshet_load(b, "k", 1, NULL, counting_loader, &loads, &buf, &answer), FRESHET_OK);
    EXPECT(answer.source == FRESHET_FROM_REDIS && buf.size == 6);
    EXPECT_EQ(loads, 1);
    EXPECT_EQ(host_invalidate(b, "k"), FRESHET_OK);
    EXPECT_EQ(freshet_load(b, "k", 1, NULL, counting_loader, &loads, &buf, &answer), FRESHET_OK);
    EXPECT(test_until(freshet_load(a, "k", 1, NULL, counting_loader, &loads, &buf, &answer) == FRESHET_OK, 100));
    EXPECT_EQ(loads, 2);
    freshet_buf_free(&buf);
    freshet_close(a);
    freshet_close(b);
}

/* ---- joining ---- */

TEST(a_join_that_fails_leaves_the_cache_as_it_was)
{
    freshet_join_options options = FRESHET_INIT(freshet_join_options);
    struct redis redis;
    freshet *cache;

    redis_start(&redis, NULL);
    cache = host_solo(fresh_dir(), 0);
    EXPECT_EQ(host_put(cache, "k", "alone"), FRESHET_OK);
    EXPECT_EQ(freshet_join(cache, redis.url, NULL), FRESHET_EINVAL);
    EXPECT_EQ(freshet_join(cache, redis.url, &options), FRESHET_EINVAL);
    options.keyring = "/nonexistent/keyring";
    EXPECT_EQ(freshet_join(cache, redis.url, &options), FRESHET_EKEYRING);
    EXPECT_EQ(join(cache, "http://somewhere"), FRESHET_EINVAL);
    (void)redis_do(&redis, "CONFIG SET maxmemory-policy allkeys-lru");
    EXPECT_EQ(join(cache, redis.url), FRESHET_EREDIS);
    EXPECT(strstr(freshet_error(), "allkeys-lru") != NULL);
    EXPECT(!host_stats(cache).fleet && host_gets(cache, "k", "alone"));
    EXPECT_EQ(host_put(cache, "k", "still"), FRESHET_OK);
    options.keyring = host_keyring();
    options.allow_evicting_redis = true;
    EXPECT_EQ(freshet_join(cache, redis.url, &options), FRESHET_OK);
    EXPECT_EQ(host_get(cache, "k", NULL, 0),
              FRESHET_MISS); /* what the host knew alone is no part of the fleet's history */
    freshet_close(cache);
}

TEST(a_fleet_takes_nobody_with_other_values)
{
    struct redis redis, other;
    freshet *a, *loose, *cut, *b;
    const char *dir = fresh_dir();

    redis_start(&redis, NULL);
    redis_start(&other, NULL);
    a = host_join(dir, &redis, 300);
    loose = open_with(fresh_dir(), 1, 600, 1000);
    EXPECT_EQ(join(loose, redis.url), FRESHET_EINVAL);
    EXPECT(strstr(freshet_error(), "300") != NULL);
    cut = open_with(fresh_dir(), 2, 300, 1000);
    EXPECT_EQ(join(cut, redis.url), FRESHET_EINVAL);
    EXPECT(!host_stats(cut).fleet && !host_stats(loose).fleet);
    EXPECT_EQ(join(a, other.url), FRESHET_EBUSY);
    b = open_with(dir, 1, 300, 1000);
    EXPECT_EQ(host_put(a, "k", "v"), FRESHET_OK);
    EXPECT_EQ(join(b, redis.url), FRESHET_OK); /* the second handle shares the first's */
    EXPECT(host_gets(b, "k", "v"));
    freshet_close(a);
    EXPECT_EQ(host_put(b, "k", "w"), FRESHET_OK);
    freshet_close(b);
    freshet_close(loose);
    freshet_close(cut);
}

TEST(a_replica_and_a_missing_channel_are_refused_with_the_remedy)
{
    struct redis redis;
    char url[256];
    freshet *cache;

    redis_start(&redis, NULL);
    cache = host_solo(fresh_dir(), 0);
    (void)redis_do(&redis, "ACL SETUSER app on >secret ~freshet:* +@all resetchannels");
    snprintf(url, sizeof url, "unix://app:secret@%s", redis.socket);
    EXPECT_EQ(join(cache, url), FRESHET_EREDIS);
    EXPECT(strstr(freshet_error(), "&freshet:*") != NULL);
    (void)redis_do(&redis, "ACL SETUSER app &freshet:*");
    (void)redis_do(&redis, "REPLICAOF 127.0.0.1 1");
    EXPECT_EQ(join(cache, url), FRESHET_EREDIS);
    EXPECT(strstr(freshet_error(), "master") != NULL);
    (void)redis_do(&redis, "REPLICAOF NO ONE");
    EXPECT_EQ(join(cache, url), FRESHET_OK);
    freshet_close(cache);
}

TEST(a_redis_that_comes_later_is_joined_then)
{
    struct redis redis;
    freshet *cache;

    redis_start(&redis, NULL);
    redis_stop(&redis);
    cache = open_with(fresh_dir(), 1, 0, 200);
    EXPECT_EQ(join(cache, redis.url), FRESHET_UNPROVEN);
    EXPECT_EQ(host_get(cache, "k", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_QUEUED);
    EXPECT_EQ(host_stats(cache).outbox, 1);
    redis_restart(&redis);
    EXPECT(test_until(host_proven(cache) && host_stats(cache).outbox == 0, 5000));
    EXPECT_EQ(host_get(cache, "k", NULL, 0), FRESHET_MISS); /* a put that waited is an invalidation */
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    EXPECT(host_gets(cache, "k", "v"));
    freshet_close(cache);
}

TEST(who_left_may_join_again)
{
    struct redis redis;
    freshet *cache;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 0);
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    for (int i = 0; i < 5; i++) {
        freshet_leave(cache);
        EXPECT_EQ(host_put(cache, "k", "w"), FRESHET_EFLEET);
        EXPECT_EQ(host_stats(cache).subscriber_pid, 0);
        EXPECT_EQ(join(cache, redis.url), FRESHET_OK);
        EXPECT(host_gets(cache, "k", "v"));
    }
    freshet_close(cache);
}

struct joiner {
    freshet *cache;
    const char *url;
    pthread_barrier_t *gate;
    freshet_result result;
};

static void *joiner_run(void *arg)
{
    struct joiner *joiner = arg;

    (void)pthread_barrier_wait(joiner->gate);
    joiner->result = join(joiner->cache, joiner->url);
    return NULL;
}

TEST(two_handles_of_a_process_may_join_at_once)
{
    pthread_barrier_t gate;
    struct redis redis;

    if (test_thread_sanitized())
        test_skip("the thread sanitizer takes the number of a descriptor, used again, for a shared variable");
    redis_start(&redis, NULL);
    (void)host_keyring();
    EXPECT_EQ(pthread_barrier_init(&gate, NULL, 2), 0);
    for (int round = 0; round < 20; round++) {
        const char *dir = fresh_dir();
        struct joiner joiners[2];
        pthread_t threads[2];

        for (int i = 0; i < 2; i++) {
            joiners[i] = (struct joiner){.cache = host_solo(dir, 0), .url = redis.url, .gate = &gate};
            EXPECT_EQ(pthread_create(&threads[i], NULL, joiner_run, &joiners[i]), 0);
        }
        for (int i = 0; i < 2; i++)
            EXPECT_EQ(pthread_join(threads[i], NULL), 0);
        for (int i = 0; i < 2; i++) {
            EXPECT_EQ(joiners[i].result, FRESHET_OK);
            EXPECT(host_proven(joiners[i].cache));
        }
        EXPECT_EQ(host_put(joiners[0].cache, "k", "v"), FRESHET_OK);
        freshet_close(joiners[round % 2].cache);
        EXPECT(host_gets(joiners[1 - round % 2].cache, "k", "v")); /* it has the fleet still */
        EXPECT_EQ(host_put(joiners[1 - round % 2].cache, "k", "w"), FRESHET_OK);
        freshet_close(joiners[1 - round % 2].cache);
    }
    (void)pthread_barrier_destroy(&gate);
}

TEST(a_second_handle_waits_for_the_proof_as_well)
{
    const char *dir = fresh_dir();
    struct redis redis;
    freshet *first, *second;

    if (test_thread_sanitized())
        test_skip("the thread sanitizer takes the number of a descriptor, used again, for a shared variable");
    redis_start(&redis, NULL);
    redis_stop(&redis);
    first = open_with(dir, 1, 0, 200);
    EXPECT_EQ(join(first, redis.url), FRESHET_UNPROVEN);
    second = open_with(dir, 1, 0, 200);
    EXPECT_EQ(join(second, redis.url), FRESHET_UNPROVEN);
    redis_restart(&redis);
    EXPECT(test_until(host_proven(second), 5000));
    EXPECT_EQ(join(second, redis.url), FRESHET_OK);
    freshet_close(first);
    EXPECT_EQ(host_put(second, "k", "v"), FRESHET_OK);
    freshet_close(second);
}

/* ---- what others may write ---- */

TEST(what_no_key_holder_signed_or_sealed_changes_nothing)
{
    struct redis redis;
    uint8_t hash[16];
    char name[96] = "freshet:{default:0}:record:";
    char record[160] = {'F', 'R', 1, 1};
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 0);
    b = host_join(fresh_dir(), &redis, 0);
    EXPECT_EQ(host_put(a, "k", "v"), FRESHET_OK);
    EXPECT(host_gets(b, "k", "v"));
    for (int i = 0; i < 5; i++)
        (void)redis_do(&redis, "PUBLISH freshet:{default:0}:frames '%0*d'", 16 + i * 50, 0);
    EXPECT(test_until(host_stats(b).frames_refused >= 5, 2000));
    EXPECT(freshet_flush(b, 0) == FRESHET_OK);
    EXPECT_EQ(host_peek(b, "k", NULL, 0), FRESHET_OK);
    /* A record out of nothing is a miss. */
    freshet_key_hash("default", "forged", 6, hash);
    for (int i = 0; i < 16; i++)
        snprintf(name + strlen(name), 3, "%02x", hash[i]);
    memset(record + 100, 'x', 60);
    (void)redis_ask(&redis, 3, (const void *const[]){"SET", name, record},
                    (const size_t[]){3, strlen(name), sizeof record}, NULL);
    EXPECT_EQ(host_get(b, "forged", NULL, 0), FRESHET_MISS);
    freshet_close(a);
    freshet_close(b);
}

struct seen {
    int verified, refused;
    uint32_t keys;
    uint64_t position;
    bool hash_fits;
};

static bool see(const freshet_frame_seen *frame, void *arg)
{
    struct seen *seen = arg;
    uint8_t hash[16];

    if (!frame)
        return true;
    if (!frame->verified) {
        seen->refused++;
    } else {
        freshet_key_hash("default", "k", 1, hash);
        seen->verified++;
        seen->keys += frame->keys;
        seen->position = frame->position;
        seen->hash_fits = frame->keys == 1 && memcmp(frame->hashes[0], hash, 16) == 0;
    }
    return seen->verified < 2 || seen->refused < 1;
}

TEST(a_watcher_sees_frames_verified_and_refused)
{
    freshet_join_options options = FRESHET_INIT(freshet_join_options);
    struct seen seen = {0};
    struct redis redis;
    freshet *cache;
    pid_t writer;

    redis_start(&redis, NULL);
    options.keyring = host_keyring();
    EXPECT_EQ(freshet_watch(NULL, 1, "unix:///nonexistent", &options, 1000, see, &seen), FRESHET_ENET);
    writer = test_fork();
    if (writer == 0) {
        cache = host_join(fresh_dir(), &redis, 0);
        EXPECT(test_until(redis_int(&redis, "PUBLISH freshet:{default:0}:frames ''") >= 2, 5000));
        EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
        EXPECT_EQ(host_invalidate(cache, "k"), FRESHET_OK);
        (void)redis_do(&redis, "PUBLISH freshet:{default:0}:frames nonsense");
        freshet_close(cache);
        test_child_done();
    }
    EXPECT_EQ(freshet_watch(NULL, 1, redis.url, &options, 8000, see, &seen), FRESHET_OK);
    EXPECT(seen.verified == 2 && seen.refused == 1 && seen.keys == 2 && seen.position > 0 && seen.hash_fits);
    test_join(writer);
}
