/*
 * failover_test.c - another server stands where the master stood, or the master loses things: through all of it the
 * bound holds, nobody gets on its own host what it has changed, and soon after all goes on.
 *
 * Readers on both hosts check every answer while it happens (history.h).  The hosts know one address, a symbolic link
 * to the socket of whoever is the master: what a virtual address or a proxy is elsewhere.
 */
#include <history.h>

#include <freshet_fleet.h>

#include <signal.h>
#include <unistd.h>

#define BOUND 300

struct scene {
    struct redis first, second; /* the second is the first's replica, where there is one */
    struct redis address;       /* what the hosts know; only its url counts */
    char link[160];
    struct history *history;
    freshet *a, *b; /* a writes */
    struct history_reader readers[2];
};

/* From now on the address leads to this server. */
static void address_leads_to(struct scene *scene, const struct redis *redis)
{
    char new[170];

    snprintf(new, sizeof new, "%s.new", scene->link);
    EXPECT_EQ(symlink(redis->socket, new), 0);
    EXPECT_EQ(rename(new, scene->link), 0);
}

static void replica_of(struct redis *replica, const struct redis *master)
{
    EXPECT(strcmp(redis_do(replica, "REPLICAOF 127.0.0.1 %d", master->port), "OK") == 0);
    EXPECT(test_until(strstr(redis_do(replica, "INFO replication"), "master_link_status:up"), 20000));
}

static freshet *join(const char *url)
{
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache = NULL;

    options.dir = fresh_dir();
    options.tier_size = 8u << 20;
    options.max_staleness_ms = BOUND;
    options.deadline_ms = 300;
    join.keyring = host_keyring();
    join.allow_evicting_redis = true;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    EXPECT(freshet_join(cache, url, &join) >= 0);
    EXPECT(test_until(host_proven(cache), 10000));
    return cache;
}

static unsigned work(struct scene *scene, unsigned ms)
{
    return history_work(scene->history, scene->a, ms);
}

/* The hosts have joined the first server (with the second as its replica), and readers read. */
static void begin(struct scene *scene, bool replica, const char *const *more)
{
    static const char *const at_once[] = {"--repl-diskless-sync-delay", "0", NULL};

    *scene = (struct scene){.history = history_open(BOUND)};
    redis_start_tcp(&scene->first, replica ? at_once : more);
    if (replica) {
        redis_start_tcp(&scene->second, at_once);
        replica_of(&scene->second, &scene->first); /* before the hosts come: the first replica costs an epoch */
    }
    snprintf(scene->link, sizeof scene->link, "%s/master", fresh_dir());
    snprintf(scene->address.url, sizeof scene->address.url, "unix://%s", scene->link);
    address_leads_to(scene, &scene->first);
    scene->a = join(scene->address.url);
    scene->b = join(scene->address.url);
    history_reader_begin(&scene->readers[0], scene->history, scene->a, true);
    history_reader_begin(&scene->readers[1], scene->history, scene->b, false);
    EXPECT(work(scene, 300) > 5);
}

/* All goes on: changes are confirmed, both hosts are proven, what one puts the other gets, and its tier serves it. */
static void expect_well(struct scene *scene)
{
    EXPECT(test_until(history_change(scene->history, scene->a, true), 15000));
    EXPECT(test_until(host_proven(scene->a) && host_proven(scene->b), 15000));
    EXPECT_EQ(host_stats(scene->a).epoch, host_stats(scene->b).epoch);
    EXPECT_EQ(host_stats(scene->a).outbox, 0);
    EXPECT(work(scene, 300) > 5);
    host_share(scene->b, scene->a, "other", "well");
}

static void end(struct scene *scene)
{
    scene->history->stop = true;
    for (int i = 0; i < 2; i++)
        history_reader_end(&scene->readers[i]);
    history_expect_kept(scene->history);
    freshet_close(scene->a);
    freshet_close(scene->b);
    if (scene->second.pid)
        redis_stop(&scene->second);
    if (scene->first.pid)
        redis_stop(&scene->first);
}

/* The second server is the master now, and the address leads to it. */
static void promote(struct scene *scene)
{
    (void)redis_do(&scene->second, "REPLICAOF NO ONE");
    address_leads_to(scene, &scene->second);
}

/* ---- fail-over ---- */

TEST(a_promoted_replica_that_has_everything)
{
    struct scene scene;
    uint64_t epoch;

    begin(&scene, true, NULL);
    epoch = host_stats(scene.b).epoch;
    EXPECT_EQ(redis_int(&scene.first, "WAIT 1 5000"), 1);
    test_kill(scene.first.pid, SIGKILL);
    scene.first.pid = 0;
    promote(&scene);
    (void)work(&scene, 500);
    expect_well(&scene);
    EXPECT(host_stats(scene.b).epoch != epoch); /* nobody can know that it has everything */
    end(&scene);
}

TEST(a_promoted_replica_that_lacks_the_last_writes)
{
    struct scene scene;
    uint64_t resent;

    begin(&scene, true, NULL);
    host_share(scene.a, scene.b, "lost", "old");
    EXPECT_EQ(redis_int(&scene.first, "WAIT 1 5000"), 1);
    (void)redis_do(&scene.second, "REPLICAOF NO ONE"); /* from here on it hears nothing */
    EXPECT_EQ(host_invalidate(scene.a, "lost"), FRESHET_OK);
    (void)work(&scene, 200);
    resent = host_stats(scene.a).resent;
    test_kill(scene.first.pid, SIGKILL);
    scene.first.pid = 0;
    address_leads_to(&scene, &scene.second);
    (void)work(&scene, 500);
    expect_well(&scene);
    EXPECT(host_stats(scene.a).resent > resent);
    for (int i = 0; i < 20; i++) { /* its record is there, and void */
        EXPECT(!host_gets(scene.a, "lost", "old") && !host_gets(scene.b, "lost", "old"));
        test_pause();
    }
    end(&scene);
}

/* Two masters for a while: what the one that loses has confirmed must reach the hosts that were with the other, where
 * the key was loaded meanwhile, before the change. */
TEST(what_the_losing_master_confirmed_last_is_sent_to_the_winning_one)
{
    const char *const keys[] = {"split", "cleared"};
    struct scene scene;
    freshet *early;

    begin(&scene, true, NULL);
    for (int clear = 0; clear < 2; clear++) {
        struct redis *from = clear ? &scene.second : &scene.first, *to = clear ? &scene.first : &scene.second;
        freshet_buf buf = {0};

        (void)redis_do(to, "REPLICAOF NO ONE");
        early = join(to->url);
        EXPECT_EQ(freshet_load(early, keys[clear], strlen(keys[clear]), NULL, host_loader, "old", &buf, NULL),
                  FRESHET_OK);
        freshet_buf_free(&buf);
        EXPECT(test_until(host_gets(early, keys[clear], "old"), 5000));
        EXPECT_EQ(clear ? freshet_clear(scene.a, NULL, NULL) : host_invalidate(scene.a, keys[clear]), FRESHET_OK);
        address_leads_to(&scene, to);
        replica_of(from, to);
        (void)work(&scene, 300);
        expect_well(&scene);
        EXPECT(test_until(!host_gets(early, keys[clear], "old"), 5000));
        freshet_close(early);
    }
    end(&scene);
}

/* Nobody tells the hosts; their connections to the old master are good, and it answers what it is asked. */
TEST(a_demoted_master_that_still_answers_is_left_for_the_new_one)
{
    struct scene scene;

    begin(&scene, true, NULL);
    promote(&scene);
    replica_of(&scene.first, &scene.second);
    (void)work(&scene, 500);
    expect_well(&scene);
    EXPECT(strstr(redis_do(&scene.first, "PING"), "PONG") != NULL);
    end(&scene);
}

/* There and back again: the old master returns as a replica and is promoted in its turn. */
TEST(fail_overs_back_and_forth)
{
    struct scene scene;

    begin(&scene, true, NULL);
    for (int round = 0; round < 4; round++) {
        struct redis *from = round % 2 ? &scene.second : &scene.first, *to = round % 2 ? &scene.first : &scene.second;

        (void)redis_do(to, "REPLICAOF NO ONE");
        (void)work(&scene, 100); /* what is confirmed here is lost */
        address_leads_to(&scene, to);
        replica_of(from, to);
        (void)work(&scene, 400);
        EXPECT(test_until(history_change(scene.history, scene.a, true), 15000));
        EXPECT(test_until(host_proven(scene.a) && host_proven(scene.b), 15000));
    }
    expect_well(&scene);
    end(&scene);
}

/* ---- restarts ---- */

TEST(a_restart_with_all_data)
{
    struct scene scene;

    begin(&scene, false, (const char *const[]){"--save", "3600 1", NULL});
    for (int round = 0; round < 2; round++) {
        redis_stop(&scene.first); /* SIGTERM: it saves */
        (void)work(&scene, 200);
        redis_restart(&scene.first);
        (void)work(&scene, 300);
        expect_well(&scene);
    }
    end(&scene);
}

TEST(a_restart_with_data_of_a_while_ago)
{
    struct scene scene;

    begin(&scene, false, (const char *const[]){"--save", "3600 100000", NULL});
    host_share(scene.a, scene.b, "lost", "old");
    (void)redis_do(&scene.first, "SAVE");
    EXPECT_EQ(host_invalidate(scene.a, "lost"), FRESHET_OK);
    (void)work(&scene, 200);
    redis_restart(&scene.first); /* kill -9 */
    (void)work(&scene, 500);
    expect_well(&scene);
    EXPECT(!host_gets(scene.a, "lost", "old") && !host_gets(scene.b, "lost", "old"));
    end(&scene);
}

TEST(restarts_without_data)
{
    struct scene scene;

    begin(&scene, false, NULL);
    for (int round = 0; round < 3; round++) {
        redis_restart(&scene.first);
        (void)work(&scene, 300);
    }
    expect_well(&scene);
    end(&scene);
}

/* ---- what operators and limits do ---- */

TEST(flushes_while_everybody_reads_and_writes)
{
    struct scene scene;

    begin(&scene, false, NULL);
    for (int round = 0; round < 10; round++) {
        (void)redis_do(&scene.first, round % 2 ? "FLUSHALL" : "FLUSHDB");
        (void)work(&scene, 100);
    }
    expect_well(&scene);
    end(&scene);
}

TEST(subscribers_and_everybody_killed_again_and_again)
{
    struct scene scene;
    uint64_t reconnects;

    begin(&scene, false, NULL);
    reconnects = host_stats(scene.b).reconnects;
    for (int round = 0; round < 20; round++) {
        (void)redis_do(&scene.first, round % 5 == 4 ? "CLIENT KILL TYPE normal" : "CLIENT KILL TYPE pubsub");
        (void)work(&scene, 50);
    }
    expect_well(&scene);
    EXPECT(host_stats(scene.b).reconnects > reconnects);
    EXPECT_EQ(host_stats(scene.b).repairs, 0); /* the log has it all */
    end(&scene);
}

/* A frame of many keys is more than the server holds for a subscriber. */
TEST(a_subscriber_that_its_servers_output_limit_kills)
{
    static char names[1000][16];
    freshet_key keys[1000];
    struct scene scene;
    uint64_t reconnects;

    for (size_t i = 0; i < 1000; i++)
        keys[i] = (freshet_key){names[i], (size_t)snprintf(names[i], sizeof names[i], "many:%zu", i)};
    begin(&scene, false, NULL);
    EXPECT(strcmp(redis_do(&scene.first, "CONFIG SET client-output-buffer-limit 'pubsub 2048 0 0'"), "OK") == 0);
    host_share(scene.a, scene.b, "many:7", "old");
    reconnects = host_stats(scene.b).reconnects;
    for (int round = 0; round < 10; round++) {
        freshet_change change = FRESHET_INIT(freshet_change);
        freshet_result result = freshet_invalidate_many(scene.a, keys, 1000, NULL, &change);
        int64_t told_ns = test_now_ns();

        EXPECT(result == FRESHET_OK || result == FRESHET_QUEUED);
        if (result == FRESHET_OK) {
            EXPECT(test_until(!host_gets(scene.b, "many:7", "old"), 5000));
            EXPECT(test_now_ns() - told_ns < (BOUND + 200) * INT64_C(1000000));
        }
        (void)work(&scene, 50);
        host_share(scene.a, scene.b, "many:7", "old");
    }
    EXPECT(test_until(host_stats(scene.b).reconnects > reconnects, 5000));
    expect_well(&scene);
    EXPECT_EQ(host_stats(scene.b).repairs, 0);
    end(&scene);
}

/* ---- eviction ---- */

/* Fill the server's memory with other people's records, through the cache and around it. */
static void crowd(struct scene *scene, int from, int count)
{
    static char value[2000];

    memset(value, 'v', sizeof value - 1);
    for (int n = from; n < from + count; n++) {
        freshet_write_options options = FRESHET_INIT(freshet_write_options);
        char key[24];

        snprintf(key, sizeof key, "crowd:%d", n);
        options.ttl_ms = 600000;
        EXPECT(freshet_put(scene->a, key, strlen(key), value, sizeof value, &options, NULL) >= 0);
        (void)redis_do(&scene->first, "SET foreign:%d %s EX 600", n, value);
    }
}

static void evict(struct scene *scene, const char *policy)
{
    long long evicted = 0;

    EXPECT(strcmp(redis_do(&scene->first, "CONFIG SET maxmemory-policy %s", policy), "OK") == 0);
    EXPECT(strcmp(redis_do(&scene->first, "CONFIG SET maxmemory-samples 1"), "OK") == 0); /* a poor choice of victims */
    EXPECT(strcmp(redis_do(&scene->first, "CONFIG SET maxmemory 3mb"), "OK") == 0);
    for (int round = 0; round < 10; round++) {
        crowd(scene, 60 * round, 60);
        (void)work(scene, 60);
    }
    evicted = atoll(strstr(redis_do(&scene->first, "INFO stats"), "evicted_keys:") + strlen("evicted_keys:"));
    EXPECT(evicted > 100);
    EXPECT(strcmp(redis_do(&scene->first, "CONFIG SET maxmemory 0"), "OK") == 0);
    (void)work(scene, 300);
    expect_well(scene);
}

TEST(a_redis_that_evicts_what_may_expire_keeps_its_history)
{
    const char *const policies[] = {"volatile-lru", "volatile-random", "volatile-ttl"};
    struct scene scene;
    uint64_t epoch;

    begin(&scene, false, NULL);
    epoch = host_stats(scene.b).epoch;
    for (int i = 0; i < 3; i++)
        evict(&scene, policies[i]);
    EXPECT_EQ(host_stats(scene.b).epoch, epoch); /* head and log do not expire */
    EXPECT_EQ(host_stats(scene.b).repairs, 0);
    end(&scene);
}

TEST(a_redis_that_evicts_anything_costs_epochs_and_nothing_else)
{
    const char *const keys[] = {"head", "log", "tagfence", "hosts"};
    struct scene scene;

    begin(&scene, false, NULL);
    evict(&scene, "allkeys-random");
    for (int round = 0; round < 8; round++) { /* each of them for certain */
        (void)redis_do(&scene.first, "DEL freshet:{default:0}:%s", keys[round % 4]);
        (void)work(&scene, 100);
    }
    expect_well(&scene);
    end(&scene);
}

/* ---- the log ---- */

TEST(a_log_that_is_trimmed_or_gone)
{
    const char *const commands[] = {"XTRIM freshet:{default:0}:log MAXLEN 0", "DEL freshet:{default:0}:log",
                                    "XTRIM freshet:{default:0}:log MAXLEN 1", "SET freshet:{default:0}:log nonsense"};
    struct scene scene;

    begin(&scene, false, NULL);
    for (int round = 0; round < 16; round++) {
        /* A change that is gone from the log before the other host can have read it there. */
        EXPECT_EQ(redis_int(&scene.first, "CLIENT KILL TYPE pubsub") >= 0, 1);
        (void)history_change(scene.history, scene.a, round % 2);
        (void)redis_do(&scene.first, "%s", commands[round % 4]);
        (void)work(&scene, 60);
    }
    expect_well(&scene);
    end(&scene);
}
