/*
 * network_test.c - the library on a faulty network: late, slow, cut in the middle of a reply, half open, stuck.
 *
 * Two hosts, a real redis-server, and freshet-chaos between it and one or both of them.  A table in this process plays
 * the database: a row's version is raised, then the key invalidated.  From the moment when that is confirmed every
 * older version is void, and no answer from a tier may be one that had been void for longer than the bound (P1).  When
 * all has calmed down nobody may have an older one at all: no invalidation was lost.
 */
#include <chaos.h>
#include <freshet_fleet.h>
#include <hosts.h>
#include <test.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_MS 1000000LL
#define KEYS      8u
#define VERSIONS  8192u

/* ---- the database ---- */

struct row {
    _Atomic uint32_t version;
    _Atomic int64_t void_ns[VERSIONS]; /* when a change after this version was confirmed; 0: none was */
};

static struct row rows[KEYS];

/* The value of a key's version: so many bytes, all of which follow from both. */
static size_t value_of(char *bytes, size_t size, uint32_t key, uint32_t version)
{
    size_t at = (size_t)snprintf(bytes, size, "%u:%u:", key, version);

    for (; at < 600; at++)
        bytes[at] = (char)('a' + (at + key + version) % 26);
    return at;
}

/* The version that a value is of. */
static uint32_t version_of(const freshet_buf *buf, uint32_t key)
{
    char text[32] = "", whole[700];
    unsigned of_key, version;
    size_t size = buf->size < sizeof text - 1 ? buf->size : sizeof text - 1;

    memcpy(text, buf->data, size);
    EXPECT_EQ(sscanf(text, "%u:%u:", &of_key, &version), 2);
    EXPECT(of_key == key && version < VERSIONS);
    EXPECT_EQ(buf->size, value_of(whole, sizeof whole, key, version));
    EXPECT(memcmp(buf->data, whole, buf->size) == 0);
    return version;
}

static freshet_result load_row(freshet_load_request *request, freshet_buf *value, void *arg)
{
    uint32_t key = *(uint32_t *)arg;
    char bytes[700];

    (void)request;
    return freshet_buf_set(value, bytes, value_of(bytes, sizeof bytes, key, rows[key].version));
}

static size_t name_of(char name[16], uint32_t key)
{
    return (size_t)snprintf(name, 16, "row:%u", key);
}

/* Commit, invalidate; note what is void from when on, if it is confirmed. */
static freshet_result change(freshet *cache, uint32_t key)
{
    struct row *row = &rows[key];
    uint32_t version = ++row->version;
    freshet_result result;
    int64_t now_ns;
    char name[16];
    size_t size = name_of(name, key);

    EXPECT(version < VERSIONS);
    result = freshet_invalidate(cache, name, size, NULL, NULL);
    EXPECT(result == FRESHET_OK || result == FRESHET_QUEUED);
    now_ns = test_now_ns();
    for (uint32_t i = version; result == FRESHET_OK && i-- > 0 && row->void_ns[i] == 0;)
        row->void_ns[i] = now_ns;
    return result;
}

/* ---- a reader who judges ---- */

struct reader {
    freshet *cache;
    unsigned bound_ms;
    uint64_t seed, reads, from_tier;
    int64_t oldest_ns; /* the longest that an answer from the tier had been void */
    freshet_buf buf;
};

static void judge(struct reader *reader, uint32_t key, const freshet_answer *answer, int64_t begun_ns)
{
    bool from_tier = answer->source == FRESHET_FROM_TIER;
    int64_t void_ns = rows[key].void_ns[version_of(&reader->buf, key)];
    int64_t late_ns = void_ns ? (from_tier ? answer->judged_at_ns : begun_ns) - void_ns : 0;

    reader->from_tier += from_tier;
    if (late_ns > reader->oldest_ns)
        reader->oldest_ns = late_ns;
    if (late_ns > reader->bound_ms * NS_PER_MS)
        fprintf(stderr, "void for %lld us, from %d, bound %u ms\n", (long long)late_ns / 1000, (int)answer->source,
                reader->bound_ms);
    EXPECT(late_ns <= reader->bound_ms * NS_PER_MS);
}

/* One read of a key: of the tier alone, or with all means. */
static freshet_result read_key(struct reader *reader, uint32_t key, bool load)
{
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    int64_t begun_ns = test_now_ns();
    freshet_result result;
    char name[16];
    size_t size = name_of(name, key);

    options.tier_only = true;
    reader->reads++;
    if (load)
        result = freshet_load(reader->cache, name, size, NULL, load_row, &key, &reader->buf, &answer);
    else
        result = freshet_get(reader->cache, name, size, &options, &reader->buf, &answer);
    EXPECT(result == FRESHET_OK || (!load && result == FRESHET_MISS));
    if (result == FRESHET_OK)
        judge(reader, key, &answer, begun_ns);
    return result;
}

static void read_any(struct reader *reader)
{
    uint64_t dice = test_random(&reader->seed);

    read_key(reader, dice % KEYS, (dice >> 32) % 8 == 0);
}

/* ---- the scene: Redis, the network, two hosts ---- */

struct scene {
    struct redis redis;
    struct chaos a_net, b_net; /* a_net: started when a is to go through one as well */
    freshet *a, *b;
    struct reader reader; /* of b */
    unsigned bound_ms;
};

static freshet_stats stats_of(freshet *cache)
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);

    EXPECT_EQ(freshet_stat(cache, &stats), FRESHET_OK);
    return stats;
}

static bool proven(freshet *cache)
{
    freshet_stats stats = stats_of(cache);

    return stats.proven_age_ms >= 0 && stats.proven_age_ms < stats.max_staleness_ms;
}

static freshet *join_by(const char *url, unsigned bound_ms)
{
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache = NULL;
    freshet_result result;

    options.dir = fresh_dir();
    options.tier_size = 8u << 20;
    options.max_staleness_ms = bound_ms;
    options.deadline_ms = 400;
    join.keyring = host_keyring();
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    result = freshet_join(cache, url, &join);
    if (result < 0)
        fprintf(stderr, "freshet_join: %s\n", freshet_error());
    EXPECT(result == FRESHET_OK || result == FRESHET_UNPROVEN);
    return cache;
}

enum { A_TOO = 1, MUTE = 2 };

/* Host b, and a if asked for (A_TOO), behind a network that has no fault yet.  MUTE: nothing that a says is heard on
 * the channel, so b can know it from the log alone. */
static void begin(struct scene *scene, enum chaos_kind kind, unsigned bound_ms, unsigned how)
{
    bool tcp = kind == CHAOS_TCP;
    char to[220], url[260];

    *scene = (struct scene){.bound_ms = bound_ms};
    if (tcp)
        redis_start_tcp(&scene->redis, NULL);
    else
        redis_start(&scene->redis, NULL);
    snprintf(to, sizeof to, "unix:%s", scene->redis.socket);
    if (tcp)
        snprintf(to, sizeof to, "tcp:127.0.0.1:%d", scene->redis.port);
    chaos_start(&scene->b_net, to, kind, NULL);
    if (how & A_TOO)
        chaos_start(&scene->a_net, to, kind, NULL);
    EXPECT(strcmp(redis_do(&scene->redis, "ACL SETUSER a on >a allkeys allchannels allcommands"), "OK") == 0);
    if (tcp)
        snprintf(url, sizeof url, "redis://a:a@127.0.0.1:%d", how & A_TOO ? scene->a_net.port : scene->redis.port);
    else
        snprintf(url, sizeof url, "unix://a:a@%s",
                 how & A_TOO ? scene->a_net.address + strlen("unix:") : scene->redis.socket);
    scene->a = join_by(url, bound_ms);
    scene->b = join_by(chaos_redis(&scene->b_net, &scene->redis).url, bound_ms);
    scene->reader = (struct reader){.cache = scene->b, .bound_ms = bound_ms, .seed = 11};
    EXPECT(test_until(proven(scene->a) && proven(scene->b), 10000));
    if (how & MUTE)
        EXPECT(strcmp(redis_do(&scene->redis, "ACL SETUSER a resetchannels"), "OK") == 0);
}

/* All faults gone, all changes out: both hosts are proven again and have what the database has, nothing else. */
static void expect_calm(struct scene *scene)
{
    struct reader reader = {.cache = scene->a, .bound_ms = scene->bound_ms};

    if (scene->a_net.pid)
        chaos_do(&scene->a_net, "clear");
    chaos_do(&scene->b_net, "clear");
    EXPECT(test_until(stats_of(scene->a).outbox == 0 && stats_of(scene->b).outbox == 0, 20000));
    EXPECT(test_until(proven(scene->a) && proven(scene->b), 20000));
    for (uint32_t key = 0; key < KEYS; key++) {
        EXPECT(test_until(stats_of(scene->b).applied >= stats_of(scene->a).position, 10000));
        EXPECT_EQ(read_key(&scene->reader, key, true), FRESHET_OK);
        EXPECT_EQ(version_of(&scene->reader.buf, key), rows[key].version);
        EXPECT_EQ(read_key(&reader, key, true), FRESHET_OK);
        EXPECT_EQ(version_of(&reader.buf, key), rows[key].version);
    }
    freshet_buf_free(&reader.buf);
}

/* All keys are in b's tier. */
static void warm(struct scene *scene)
{
    for (uint32_t key = 0; key < KEYS; key++)
        EXPECT(test_until(read_key(&scene->reader, key, true) == FRESHET_OK &&
                              freshet_flush(scene->b, 0) == FRESHET_OK &&
                              read_key(&scene->reader, key, false) == FRESHET_OK,
                          10000));
}

static void end(struct scene *scene)
{
    if (getenv("TEST_FIGURES"))
        fprintf(stderr, "bound %u ms: %llu reads, %llu from the tier, the oldest void for %lld us\n", scene->bound_ms,
                (unsigned long long)scene->reader.reads, (unsigned long long)scene->reader.from_tier,
                (long long)scene->reader.oldest_ns / 1000);
    freshet_buf_free(&scene->reader.buf);
    freshet_close(scene->a);
    freshet_close(scene->b);
    if (scene->a_net.pid)
        chaos_stop(&scene->a_net);
    chaos_stop(&scene->b_net);
    redis_stop(&scene->redis);
}

/* ---- a writer beside the reader ---- */

struct writer {
    struct scene *scene;
    uint64_t changes; /* to make */
    uint64_t seed;
    void (*between)(struct scene *scene, uint64_t change);
    _Atomic uint64_t made, queued;
    _Atomic bool done;
};

static void *write_all(void *arg)
{
    struct writer *writer = arg;

    for (uint64_t i = 0; i < writer->changes; i++) {
        if (writer->between)
            writer->between(writer->scene, i);
        writer->queued += change(writer->scene->a, test_random(&writer->seed) % KEYS) == FRESHET_QUEUED;
        writer->made++;
    }
    writer->done = true;
    return NULL;
}

/* Host a makes so many changes while host b reads; the queued ones are told. */
static uint64_t run(struct scene *scene, uint64_t changes, void (*between)(struct scene *scene, uint64_t change))
{
    struct writer writer = {.scene = scene, .changes = changes, .seed = 3, .between = between};
    pthread_t thread;

    EXPECT_EQ(pthread_create(&thread, NULL, write_all, &writer), 0);
    while (!writer.done)
        read_any(&scene->reader);
    EXPECT_EQ(pthread_join(thread, NULL), 0);
    return writer.queued;
}

/* ---- late and slow ---- */

/* A change is made when b knows of the one before, and until then reads what it has. */
static void pace(struct scene *scene, uint64_t change)
{
    (void)change;
    EXPECT(test_until(stats_of(scene->b).applied >= stats_of(scene->a).position, 10000));
}

static void expect_bound_kept(unsigned bound_ms, const char *fault, uint64_t changes)
{
    struct scene scene;

    begin(&scene, CHAOS_TCP, bound_ms, MUTE);
    warm(&scene);
    chaos_do(&scene.b_net, "%s", fault);
    run(&scene, changes, pace);
    EXPECT(scene.reader.from_tier > 1000);
    EXPECT(scene.reader.oldest_ns > 0); /* what b had been told by nobody it did serve, for a while */
    expect_calm(&scene);
    end(&scene);
}

TEST(the_bound_of_500_ms_is_kept_on_a_late_network)
{
    expect_bound_kept(500, "latency 50 jitter 20", 10);
}
TEST(the_bound_of_100_ms_is_kept_on_a_late_network)
{
    expect_bound_kept(100, "latency 50 jitter 10 down", 30);
}
TEST(the_bound_of_2_s_is_kept_on_a_late_network)
{
    expect_bound_kept(2000, "latency 50 jitter 20", 5);
}
/* A stored value takes a good 30 ms. */
TEST(the_bound_is_kept_on_a_slow_network)
{
    expect_bound_kept(300, "bandwidth 20K", 15);
}

/* The proof counts from the question: when its answer comes it is older than the bound, always. */
TEST(a_round_trip_longer_than_the_bound_leaves_the_tier_unused)
{
    struct scene scene;
    uint64_t renewed;

    begin(&scene, CHAOS_UNIX, 100, 0);
    warm(&scene);
    chaos_do(&scene.b_net, "latency 55 jitter 10");
    EXPECT(test_until(stats_of(scene.b).proven_age_ms >= 110, 10000)); /* what was asked before has been answered */
    renewed = stats_of(scene.b).renewals;
    scene.reader.from_tier = 0;
    run(&scene, 20, NULL);
    EXPECT(test_until(stats_of(scene.b).renewals > renewed + 3, 10000)); /* it was proven, only too late */
    EXPECT_EQ(scene.reader.from_tier, 0);
    expect_calm(&scene);
    warm(&scene); /* and it is used again */
    end(&scene);
}

/* ---- half open and stuck ---- */

/* From the moment when b's network broke, its tier serves for the bound and no longer, whatever was changed. */
static void expect_silent_after_bound(struct scene *scene, int64_t broken_ns)
{
    int64_t until_ns = broken_ns + scene->bound_ms * NS_PER_MS;
    uint32_t key = 0;

    EXPECT_EQ(change(scene->a, 0), FRESHET_OK);
    while (test_now_ns() <= until_ns) /* judged at each read */
        (void)read_key(&scene->reader, key++ % KEYS, false);
    for (int i = 0; i < 100; i++)
        EXPECT_EQ(read_key(&scene->reader, key++ % KEYS, false), FRESHET_MISS);
}

TEST(a_half_open_network_ends_the_serving_within_the_bound_and_its_return_begins_it_again)
{
    struct scene scene;

    begin(&scene, CHAOS_TCP, 300, 0);
    warm(&scene);
    chaos_do(&scene.b_net, "half-open");
    expect_silent_after_bound(&scene, test_now_ns());
    EXPECT(test_until(chaos_number(&scene.b_net, "accepted") > 6, 20000)); /* it tries again and again */
    EXPECT_EQ(read_key(&scene.reader, 0, false), FRESHET_MISS);
    EXPECT_EQ(read_key(&scene.reader, 1, true), FRESHET_OK); /* by the loader */
    EXPECT_EQ(change(scene.b, 1), FRESHET_QUEUED);
    expect_calm(&scene);
    warm(&scene);
    end(&scene);
}

/* The connections of old stay half open for ever; nobody says so, new ones would work. */
TEST(half_open_connections_are_given_up_without_being_told)
{
    for (int way = 0; way < 3; way++) {
        static const char *const ways[] = {"both", "up", "down"};
        struct scene scene;
        uint64_t reconnects;

        begin(&scene, CHAOS_UNIX, 300, 0);
        warm(&scene);
        reconnects = stats_of(scene.b).reconnects;
        chaos_do(&scene.b_net, "half-open old %s", ways[way]);
        (void)change(scene.a, 0);
        EXPECT(test_until(stats_of(scene.b).reconnects > reconnects && proven(scene.b), 20000));
        warm(&scene); /* judged */
        expect_calm(&scene);
        end(&scene);
    }
}

TEST(a_pause_longer_than_the_bound_brings_nothing_old_back)
{
    static const char *const ways[] = {"both", "up", "down"};

    for (int i = 0; i < 6; i++) {
        struct scene scene;

        begin(&scene, i % 2 ? CHAOS_TCP : CHAOS_UNIX, 100 + 100u * (i % 2), 0);
        warm(&scene);
        chaos_do(&scene.b_net, "pause %s", ways[i / 2]);
        expect_silent_after_bound(&scene, test_now_ns());
        EXPECT_EQ(change(scene.a, 1), FRESHET_OK);
        EXPECT(test_until(stats_of(scene.b).proven_age_ms > 2 * (int64_t)scene.bound_ms, 10000));
        chaos_do(&scene.b_net, "resume");
        while (!proven(scene.b)) /* what was stuck comes all at once: answers to questions of long ago */
            (void)read_key(&scene.reader, (uint32_t)(test_random(&scene.reader.seed) % KEYS), false);
        EXPECT(stats_of(scene.b).applied >= stats_of(scene.a).position);
        for (uint32_t key = 0; key < 2; key++)
            EXPECT_EQ(read_key(&scene.reader, key, false), FRESHET_MISS);
        warm(&scene);
        expect_calm(&scene);
        end(&scene);
    }
}

/* ---- one of the two connections ---- */

/* Ids of b's connections at its proxy, by what Redis says of them: the subscriber's, or another's that runs scripts. */
static long long connection_of(struct scene *scene, bool subscribed)
{
    const char *at = redis_do(&scene->redis, "CLIENT LIST TYPE %s", subscribed ? "pubsub" : "normal");
    long long id = 0;
    int port;

    for (; at && *at && !id; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
        const char *addr = strstr(at, " addr=127.0.0.1:");

        if (addr && sscanf(addr, " addr=127.0.0.1:%d", &port) == 1)
            id = chaos_connection(&scene->b_net, port);
    }
    return id;
}

/* The channel makes it fast, correctness does not lean on it: what it lost is read in the log, within the bound, while
 * everything else goes on being served. */
TEST(a_subscription_that_is_half_open_costs_speed_and_nothing_else)
{
    struct scene scene;
    long long subscriber;
    uint64_t reconnects;
    unsigned late = 0;

    begin(&scene, CHAOS_TCP, 300, 0);
    warm(&scene);
    subscriber = connection_of(&scene, true);
    EXPECT(subscriber > 0);
    reconnects = stats_of(scene.b).reconnects;
    chaos_do(&scene.b_net, "half-open down conn %lld", subscriber);
    for (uint32_t key = 1; key < 6; key++) {
        int64_t confirmed_ns;

        EXPECT_EQ(change(scene.a, key), FRESHET_OK);
        confirmed_ns = test_now_ns();
        late += read_key(&scene.reader, key, false) == FRESHET_OK; /* not heard */
        while (read_key(&scene.reader, key, false) == FRESHET_OK)
            EXPECT(test_now_ns() < confirmed_ns + 2 * 300 * NS_PER_MS); /* judged besides */
        EXPECT_EQ(read_key(&scene.reader, 0, false), FRESHET_OK);       /* proven all the time */
    }
    EXPECT(late > 0);
    EXPECT(test_until(stats_of(scene.b).reconnects > reconnects, 20000)); /* silence was noticed */
    EXPECT(test_until(connection_of(&scene, true) > subscriber, 20000));
    EXPECT(test_until(chaos_find(chaos_do(&scene.b_net, "stat"), "down.lost") > 0, 10));
    expect_calm(&scene);
    end(&scene);
}

/* The other way round: what is heard on the channel voids, but proves nothing. */
TEST(a_report_that_is_half_open_is_given_up_and_meanwhile_the_bound_is_kept)
{
    struct scene scene;
    uint64_t reconnects;

    begin(&scene, CHAOS_TCP, 300, 0);
    warm(&scene);
    reconnects = stats_of(scene.b).reconnects;
    for (long long subscriber = connection_of(&scene, true), id = 1; id <= subscriber + 3; id++)
        if (id != subscriber) {
            char line[60];

            snprintf(line, sizeof line, "half-open down conn %lld", id);
            (void)chaos_say(&scene.b_net, line); /* those that there are */
        }
    for (uint32_t key = 1; key < 4; key++) {
        EXPECT_EQ(change(scene.a, key), FRESHET_OK);
        EXPECT(test_until(read_key(&scene.reader, key, false) == FRESHET_MISS, 1000)); /* heard, or past the bound */
    }
    EXPECT(test_until(stats_of(scene.b).reconnects > reconnects && proven(scene.b), 20000));
    warm(&scene);
    expect_calm(&scene);
    end(&scene);
}

/* ---- cut ---- */

/* Resets, of what is there and of what comes, after a few bytes or at once. */
static void storm(struct scene *scene, uint64_t change)
{
    static uint64_t seed = 99;
    uint64_t dice = test_random(&seed);

    if (change % 5 == 0)
        chaos_do(&scene->a_net, "reset %s", dice & 1 ? "both" : "old");
    if (change % 11 == 0)
        chaos_do(&scene->a_net, "reset %u %s next 2", (unsigned)(dice >> 8) % 700 + 1, dice & 2 ? "up" : "down");
    if (change % 7 == 0)
        chaos_do(&scene->b_net, "reset old");
    if (change % 50 == 49)
        chaos_do(&scene->a_net, "clear");
}

TEST(a_storm_of_resets_loses_no_invalidation)
{
    struct scene scene;
    uint64_t queued;

    begin(&scene, CHAOS_TCP, 300, A_TOO);
    warm(&scene);
    queued = run(&scene, test_long_runs() ? 3000 : 300, storm);
    EXPECT(chaos_number(&scene.a_net, "cut") > 20);
    expect_calm(&scene);
    EXPECT(queued > 0 && stats_of(scene.a).resent >= queued);
    end(&scene);
}

/* The network of b ends after N bytes, over a range of N: in the middle of greetings, reports, stored answers. */
static void expect_survives_cuts(const char *verb, const char *way, unsigned first, unsigned step, unsigned last)
{
    struct scene scene;
    struct reader a_reader;

    begin(&scene, CHAOS_UNIX, 300, 0);
    a_reader = (struct reader){.cache = scene.a, .bound_ms = scene.bound_ms};
    warm(&scene);
    for (unsigned size = first; size <= last; size += step) {
        long long cut = chaos_number(&scene.b_net, "cut");
        uint32_t key = size % KEYS;

        EXPECT_EQ(change(scene.a, key), FRESHET_OK);
        (void)read_key(&a_reader, key, true); /* now Redis has it */
        chaos_do(&scene.b_net, "%s %u %s", verb, size, way);
        (void)read_key(&scene.reader, key, true);
        (void)change(scene.b, (key + 1) % KEYS);
        EXPECT(test_until(chaos_number(&scene.b_net, "cut") > cut, 10000));
        (void)read_key(&scene.reader, (key + 1) % KEYS, true);
        chaos_do(&scene.b_net, "clear");
        EXPECT(test_until(proven(scene.b), 20000));
    }
    freshet_buf_free(&a_reader.buf);
    expect_calm(&scene);
    end(&scene);
}

TEST_LONG(replies_that_end_in_the_middle_are_survived, 900)
{
    expect_survives_cuts("drop", "down", 1, test_long_runs() ? 1 : 61, 1500);
}
TEST_LONG(requests_that_end_in_the_middle_are_survived, 900)
{
    expect_survives_cuts("drop", "up", 1, test_long_runs() ? 1 : 61, 1500);
}
TEST_LONG(connections_that_are_reset_in_the_middle_are_survived, 900)
{
    expect_survives_cuts("reset", "both", 2, test_long_runs() ? 1 : 67, 1500);
}
