/*
 * tags_test.c - tags and namespaces: one change voids every entry that has the tag, on every host, however the entry
 * got there and whoever was away when it happened; and it voids nothing else.
 */
#include <hosts.h>
#include <test.h>

#include <freshet_fleet.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BOUND 500
#define TABLE "freshet:{default:0}:tagfence"

static freshet_stats stats_of(freshet *cache)
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);

    EXPECT(freshet_stat(cache, &stats) == FRESHET_OK);
    return stats;
}

/* Put, with a tag and in a namespace; NULL: none. */
static void put(freshet *cache, const char *key, const char *tag, const char *name_space)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);

    options.tags = &tag;
    options.tag_count = tag ? 1 : 0;
    options.name_space = name_space;
    EXPECT_EQ(freshet_put(cache, key, strlen(key), key, strlen(key), &options, NULL), FRESHET_OK);
}

static freshet_result change(freshet *cache, const char *tag)
{
    return freshet_invalidate_tags(cache, &tag, 1, NULL, NULL);
}

/* In the tier, served from there alone. */
static bool tier_serves(freshet *cache, const char *key)
{
    return test_until(host_peek(cache, key, NULL, 0) == FRESHET_OK, 2000);
}

/* Both have it in their tiers. */
static void share(freshet *a, freshet *b, const char *key, const char *tag, const char *name_space)
{
    put(a, key, tag, name_space);
    EXPECT(test_until(host_gets(b, key, key), 2000));
    EXPECT(freshet_flush(a, 2000) == FRESHET_OK && freshet_flush(b, 2000) == FRESHET_OK);
    EXPECT(tier_serves(a, key) && tier_serves(b, key));
}

/* What ls would say of the key: "" when it would be served; NULL when it is not in the tier. */
struct wanted {
    const char *key, *why;
    uint32_t tag_count;
    uint64_t tag;
};

static bool on_entry(const freshet_entry *entry, void *arg)
{
    struct wanted *wanted = arg;

    if (entry->key_size == strlen(wanted->key) && memcmp(entry->key, wanted->key, entry->key_size) == 0) {
        wanted->why = entry->why;
        wanted->tag_count = entry->tag_count;
        wanted->tag = entry->tag_count ? entry->tags[0] : 0;
    }
    return true;
}

static struct wanted look(freshet *cache, const char *key)
{
    struct wanted wanted = {.key = key};

    EXPECT_EQ(freshet_each(cache, on_entry, &wanted), FRESHET_OK);
    return wanted;
}

static freshet *join_partitions(struct redis *redis, uint32_t partitions)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    freshet *cache = NULL;

    options.dir = fresh_dir();
    options.tier_size = 8u << 20;
    options.partitions = partitions;
    options.deadline_ms = 3000;
    join.keyring = host_keyring();
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    EXPECT_EQ(freshet_join(cache, redis->url, &join), FRESHET_OK);
    return cache;
}

/* ---- what a change voids, and what not ---- */

TEST(one_change_voids_all_of_the_tag_on_every_host_and_nothing_else)
{
    enum { PARTITIONS = 4, KEYS = 60 };
    struct redis redis;
    freshet *a, *b;
    char key[KEYS][16];
    bool there[KEYS];
    long long logged = 0;

    redis_start(&redis, NULL);
    a = join_partitions(&redis, PARTITIONS);
    b = join_partitions(&redis, PARTITIONS);
    for (int i = 0; i < KEYS; i++) {
        snprintf(key[i], sizeof key[i], "key:%d", i);
        share(a, b, key[i], i % 3 == 0 ? "red" : i % 3 == 1 ? "blue" : NULL, NULL);
    }
    for (int i = 0; i < KEYS; i++) /* the fences' slots are few: a later key may have voided an earlier one */
        there[i] = host_peek(a, key[i], NULL, 0) == FRESHET_OK && host_peek(b, key[i], NULL, 0) == FRESHET_OK;
    for (int p = 0; p < PARTITIONS; p++)
        logged += redis_int(&redis, "XLEN freshet:{default:%d}:log", p);
    EXPECT_EQ(change(a, "red"), FRESHET_OK);
    for (int i = 0; i < KEYS; i += 3)
        EXPECT_EQ(host_get(a, key[i], NULL, 0), FRESHET_MISS); /* the writer's own host: at once */
    for (int i = 0; i < KEYS; i += 3)
        EXPECT(test_until(host_get(b, key[i], NULL, 0) == FRESHET_MISS, 2000));
    for (int i = 0; i < KEYS; i++)
        EXPECT(i % 3 == 0 || !there[i] || (tier_serves(a, key[i]) && tier_serves(b, key[i])));
    for (int p = 0; p < PARTITIONS; p++)
        logged -= redis_int(&redis, "XLEN freshet:{default:%d}:log", p);
    EXPECT_EQ(logged, -PARTITIONS); /* a frame a partition, however many entries */
    EXPECT_EQ(stats_of(a).tag_changes, 1);
    EXPECT_EQ(stats_of(a).tag_fences, PARTITIONS);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

TEST(any_of_an_entrys_sixteen_tags_voids_it)
{
    const char *tags[17];
    char names[17][8];
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    struct redis redis;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    for (int i = 0; i < 17; i++) {
        snprintf(names[i], sizeof names[i], "t%d", i);
        tags[i] = names[i];
    }
    options.tags = tags;
    options.name_space = "space";
    options.tag_count = 17;
    EXPECT_EQ(freshet_put(a, "k", 1, "v", 1, &options, NULL), FRESHET_EINVAL);
    options.tag_count = 16;
    for (int i = 0; i < 17; i++) {
        EXPECT_EQ(freshet_put(a, "k", 1, "v", 1, &options, NULL), FRESHET_OK);
        EXPECT(test_until(host_gets(b, "k", "v"), 2000));
        EXPECT(freshet_flush(b, 2000) == FRESHET_OK && tier_serves(b, "k"));
        EXPECT_EQ(look(b, "k").tag_count, 17);
        EXPECT_EQ(change(a, "t16"), FRESHET_OK); /* the one that it has not */
        EXPECT(tier_serves(b, "k"));
        EXPECT_EQ(i < 16 ? change(a, tags[i]) : freshet_clear_namespace(a, "space", NULL, NULL), FRESHET_OK);
        EXPECT_EQ(host_get(a, "k", NULL, 0), FRESHET_MISS);
        EXPECT(test_until(host_get(b, "k", NULL, 0) == FRESHET_MISS, 2000));
    }
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

TEST(a_namespace_is_cleared_and_its_namesakes_are_not)
{
    struct redis redis;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    share(a, b, "in", NULL, "shop");
    share(a, b, "other", NULL, "blog");
    share(a, b, "tagged", "shop", NULL); /* a tag of the same name is another thing */
    share(a, b, "none", NULL, NULL);
    share(a, b, "shop", NULL, NULL); /* and so is a key */
    EXPECT_EQ(freshet_clear_namespace(b, "shop", NULL, NULL), FRESHET_OK);
    EXPECT_EQ(host_get(b, "in", NULL, 0), FRESHET_MISS);
    EXPECT(test_until(host_get(a, "in", NULL, 0) == FRESHET_MISS, 2000));
    EXPECT(tier_serves(a, "other") && tier_serves(a, "tagged") && tier_serves(a, "none") && tier_serves(a, "shop"));
    EXPECT_EQ(change(a, "shop"), FRESHET_OK);
    EXPECT(test_until(host_get(b, "tagged", NULL, 0) == FRESHET_MISS, 2000));
    EXPECT(tier_serves(b, "shop") && tier_serves(b, "other"));
    EXPECT_EQ(host_invalidate(a, "shop"), FRESHET_OK);
    EXPECT(tier_serves(b, "other") && tier_serves(b, "none"));
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

TEST(what_is_stored_after_the_change_counts)
{
    struct redis redis;
    freshet *a, *b;
    struct wanted wanted;
    uint8_t hash[16];
    uint64_t number = 0;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    share(a, b, "k", "red", NULL);
    EXPECT_EQ(change(b, "red"), FRESHET_OK);
    EXPECT(test_until(host_get(a, "k", NULL, 0) == FRESHET_MISS, 2000));
    wanted = look(a, "k");
    EXPECT(wanted.why == NULL || strcmp(wanted.why, "tag") == 0);
    share(a, b, "k", "red", NULL);
    wanted = look(b, "k");
    EXPECT(wanted.why && strcmp(wanted.why, "") == 0);
    freshet_tag_hash(NULL, "red", false, hash);
    for (int i = 7; i >= 0; i--)
        number = number << 8 | hash[i];
    EXPECT(wanted.tag_count == 1 && wanted.tag == number);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

/* Before anybody has told this host of its own change (who listens for it is stopped). */
TEST(a_change_holds_on_its_own_host_when_it_returns)
{
    const char *dir = fresh_dir();
    struct redis redis;
    freshet *mine;
    int ready[2];
    char byte;
    pid_t child;

    redis_start(&redis, NULL);
    EXPECT_EQ(pipe(ready), 0);
    if ((child = test_fork()) == 0) {
        freshet *theirs = host_join(dir, &redis, 10000);

        EXPECT(test_until(stats_of(theirs).subscriber_pid == getpid(), 5000));
        EXPECT_EQ(write(ready[1], "1", 1), 1);
        for (;;)
            pause();
    }
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    mine = host_join(dir, &redis, 10000);
    put(mine, "red", "red", NULL);
    put(mine, "in", NULL, "space");
    put(mine, "none", NULL, NULL);
    EXPECT(freshet_flush(mine, 2000) == FRESHET_OK && tier_serves(mine, "red") && tier_serves(mine, "in"));
    test_kill(child, SIGSTOP);
    EXPECT_EQ(change(mine, "red"), FRESHET_OK);
    EXPECT_EQ(freshet_clear_namespace(mine, "space", NULL, NULL), FRESHET_OK);
    EXPECT(host_peek(mine, "red", NULL, 0) == FRESHET_MISS && host_peek(mine, "in", NULL, 0) == FRESHET_MISS);
    EXPECT_EQ(host_peek(mine, "none", NULL, 0), FRESHET_OK);
    EXPECT_EQ(stats_of(mine).subscriber_pid, child); /* nobody has taken over yet */
    test_kill(child, SIGKILL);
    freshet_close(mine);
    redis_stop(&redis);
}

/* ---- loads ---- */

static freshet_result tagging_loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    EXPECT_EQ(freshet_load_tag(request, "from the loader"), FRESHET_OK);
    EXPECT_EQ(freshet_load_tag(request, ""), FRESHET_EINVAL);
    EXPECT_EQ(freshet_load_tag(request, NULL), FRESHET_EINVAL);
    return arg ? freshet_buf_set(value, arg, strlen(arg)) : FRESHET_ABSENT;
}

/* Load `k` with a tag from the options and one from the loader; from whom the answer came. */
static freshet_source load(freshet *cache, const char *value, freshet_result expected)
{
    const char *tags[] = {"from the options"};
    freshet_load_options options = FRESHET_INIT(freshet_load_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    freshet_buf buf = {0};

    options.tags = tags;
    options.tag_count = 1;
    options.name_space = "space";
    EXPECT_EQ(freshet_load(cache, "k", 1, &options, tagging_loader, (void *)(uintptr_t)value, &buf, &answer), expected);
    EXPECT(freshet_flush(cache, 2000) == FRESHET_OK);
    freshet_buf_free(&buf);
    return answer.source;
}

static void loads_are_voided(freshet *a, freshet *b, const char *value, freshet_result expected)
{
    for (int round = 0; round < 3; round++) {
        EXPECT_EQ(load(a, value, expected), FRESHET_FROM_LOADER);
        EXPECT(test_until(host_peek(a, "k", NULL, 0) == expected, 2000));
        EXPECT(load(b, value, expected) != FRESHET_FROM_LOADER);
        EXPECT_EQ(look(b, "k").tag_count, 3);
        EXPECT_EQ(round == 0   ? change(b, "from the loader")
                  : round == 1 ? change(b, "from the options")
                               : freshet_clear_namespace(b, "space", NULL, NULL),
                  FRESHET_OK);
        EXPECT_EQ(host_get(b, "k", NULL, 0), FRESHET_MISS);
        EXPECT(test_until(host_get(a, "k", NULL, 0) == FRESHET_MISS, 2000));
    }
}

TEST(what_is_loaded_has_the_tags_of_the_options_and_of_the_loader)
{
    struct redis redis;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    loads_are_voided(a, b, "row", FRESHET_OK);
    loads_are_voided(a, b, NULL, FRESHET_ABSENT);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

static freshet_result greedy_loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    freshet_result result = FRESHET_OK;
    char name[16];

    for (int i = 0; i < *(int *)arg && result == FRESHET_OK; i++) {
        snprintf(name, sizeof name, "t%d", i);
        result = freshet_load_tag(request, name);
    }
    return result == FRESHET_OK ? freshet_buf_set(value, "v", 1) : result;
}

/* Answers first what is older than the stored, and is asked again. */
static freshet_result lagging_loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    int *calls = arg;
    char name[16];

    ++*calls;
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof name, "t%d", i);
        EXPECT_EQ(freshet_load_tag(request, name), FRESHET_OK);
    }
    request->source_version = *calls == 1 ? 5 : 7;
    return freshet_buf_set(value, "v", 1);
}

TEST(a_loader_that_is_asked_twice_tells_its_tags_once)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    struct redis redis;
    freshet *cache;
    int calls = 0;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, BOUND);
    options.source_version = 6;
    EXPECT_EQ(freshet_put(cache, "k", 1, "newer", 5, &options, NULL), FRESHET_OK);
    EXPECT_EQ(host_invalidate(cache, "k"), FRESHET_OK); /* Redis remembers version 6 */
    EXPECT_EQ(freshet_load(cache, "k", 1, NULL, lagging_loader, &calls, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(calls, 2);
    EXPECT(freshet_flush(cache, 2000) == FRESHET_OK && look(cache, "k").tag_count == 10);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_loader_may_give_sixteen_tags_and_no_more)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    int many = 17;

    EXPECT_EQ(freshet_load(cache, "k", 1, NULL, greedy_loader, &many, NULL, NULL), FRESHET_ELOAD);
    many = 16;
    EXPECT_EQ(freshet_load(cache, "k", 1, NULL, greedy_loader, &many, NULL, NULL), FRESHET_OK);
    EXPECT(freshet_flush(cache, 2000) == FRESHET_OK && look(cache, "k").tag_count == 16);
    freshet_close(cache);
}

/* ---- who was away (design review, H6) ---- */

TEST(a_host_that_joined_after_the_change_never_serves_what_it_voided)
{
    struct redis redis;
    freshet *a, *c;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    put(a, "old", "red", NULL);
    put(a, "untouched", "blue", NULL);
    EXPECT_EQ(change(a, "red"), FRESHET_OK);
    put(a, "new", "red", NULL);
    c = host_join(fresh_dir(), &redis, BOUND); /* its tables know of none of this; Redis still has all three */
    EXPECT_EQ(stats_of(c).tag_fences, 0);
    EXPECT_EQ(host_get(c, "old", NULL, 0), FRESHET_MISS);
    EXPECT(host_gets(c, "untouched", "untouched") && host_gets(c, "new", "new"));
    EXPECT(freshet_flush(c, 2000) == FRESHET_OK);
    for (int i = 0; i < 20; i++, test_pause())
        EXPECT_EQ(host_get(c, "old", NULL, 0), FRESHET_MISS);
    EXPECT(tier_serves(c, "untouched") && tier_serves(c, "new"));
    EXPECT_EQ(load(c, "row", FRESHET_OK), FRESHET_FROM_LOADER);
    freshet_close(a);
    freshet_close(c);
    redis_stop(&redis);
}

TEST(a_void_record_that_redis_keeps_is_never_promoted)
{
    struct redis redis;
    freshet *a, *b;
    freshet_buf buf = {0};

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    put(a, "k", "red", NULL); /* b has never read it */
    EXPECT_EQ(change(a, "red"), FRESHET_OK);
    EXPECT(test_until(host_get(b, "k", NULL, 0) == FRESHET_MISS, 2000));
    for (int i = 0; i < 20; i++, test_pause()) {
        EXPECT_EQ(host_get(a, "k", NULL, 0), FRESHET_MISS);
        EXPECT_EQ(host_get(b, "k", NULL, 0), FRESHET_MISS);
    }
    EXPECT_EQ(freshet_load(b, "k", 1, NULL, host_loader, "row", &buf, NULL), FRESHET_OK); /* a miss is one for loads */
    EXPECT(buf.size == 3 && memcmp(buf.data, "row", 3) == 0);
    EXPECT(test_until(host_gets(a, "k", "row"), 2000));
    freshet_buf_free(&buf);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

TEST(a_table_that_redis_lost_voids_what_it_may_have_voided)
{
    struct redis redis;
    freshet *a, *c;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    put(a, "old", "red", NULL);
    put(a, "blue", "blue", NULL);
    put(a, "plain", NULL, NULL);
    EXPECT_EQ(change(a, "red"), FRESHET_OK);
    put(a, "new", "red", NULL);
    EXPECT_EQ(redis_int(&redis, "DEL " TABLE), 1);
    c = host_join(fresh_dir(), &redis, BOUND);
    EXPECT_EQ(host_get(c, "old", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(host_get(c, "blue", NULL, 0), FRESHET_MISS); /* nobody can say any more */
    EXPECT(host_gets(c, "plain", "plain") && host_gets(c, "new", "new"));
    EXPECT(strcmp(redis_do(&redis, "SET " TABLE " nonsense"), "OK") == 0);
    EXPECT_EQ(host_get(c, "old", NULL, 0), FRESHET_MISS);
    EXPECT(redis_int(&redis, "DEL " TABLE) == 1 && redis_int(&redis, "LPUSH " TABLE " x") == 1);
    EXPECT_EQ(host_get(c, "old", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(change(c, "green"), FRESHET_OK); /* a whole table again */
    EXPECT_EQ(redis_int(&redis, "STRLEN " TABLE), 8 * 4097);
    freshet_close(c);
    c = host_join(fresh_dir(), &redis, BOUND);
    EXPECT_EQ(host_get(c, "old", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(host_get(c, "blue", NULL, 0), FRESHET_MISS);
    EXPECT(host_gets(c, "plain", "plain") && host_gets(c, "new", "new"));
    freshet_close(a);
    freshet_close(c);
    redis_stop(&redis);
}

/* ---- Redis away ---- */

static freshet *join_hasty(struct redis *redis)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    freshet *cache = NULL;
    freshet_result joined;

    options.dir = fresh_dir();
    options.tier_size = 8u << 20;
    options.max_staleness_ms = 5000;
    options.deadline_ms = 100;
    join.keyring = host_keyring();
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    joined = freshet_join(cache, redis->url, &join);
    EXPECT(joined == FRESHET_OK || joined == FRESHET_UNPROVEN);
    EXPECT(test_until(stats_of(cache).proven_age_ms >= 0, 5000));
    return cache;
}

TEST(a_change_that_waits_for_redis_hides_its_tag_here_and_nothing_else)
{
    struct redis redis;
    freshet *a, *b;
    struct wanted wanted;

    redis_start(&redis, NULL);
    a = join_hasty(&redis);
    b = host_join(fresh_dir(), &redis, 5000);
    share(b, a, "red", "red", NULL);
    share(b, a, "in", NULL, "space");
    share(b, a, "blue", "blue", NULL);
    share(b, a, "none", NULL, NULL);
    EXPECT(kill(redis.pid, SIGSTOP) == 0);
    EXPECT_EQ(change(a, "red"), FRESHET_QUEUED);
    EXPECT_EQ(freshet_clear_namespace(a, "space", NULL, NULL), FRESHET_QUEUED);
    EXPECT_EQ(stats_of(a).outbox, 2);
    EXPECT_EQ(host_peek(a, "red", NULL, 0), FRESHET_MISS); /* though its proof is young */
    EXPECT_EQ(host_peek(a, "in", NULL, 0), FRESHET_MISS);
    wanted = look(a, "red");
    EXPECT(wanted.why && strcmp(wanted.why, "pending") == 0);
    EXPECT_EQ(host_peek(a, "blue", NULL, 0), FRESHET_OK);
    EXPECT_EQ(host_peek(a, "none", NULL, 0), FRESHET_OK);
    EXPECT(kill(redis.pid, SIGCONT) == 0);
    EXPECT(test_until(stats_of(a).outbox == 0, 10000));
    EXPECT(test_until(host_get(b, "red", NULL, 0) == FRESHET_MISS && host_get(b, "in", NULL, 0) == FRESHET_MISS, 5000));
    EXPECT(host_get(a, "red", NULL, 0) == FRESHET_MISS && host_get(a, "in", NULL, 0) == FRESHET_MISS);
    EXPECT(tier_serves(a, "blue") && tier_serves(b, "blue") && tier_serves(b, "none"));
    EXPECT(redis_int(&redis, "EXISTS " TABLE) == 1 && stats_of(a).resent >= 2);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

/* The lost tail of a fail-over: the new server never heard of the change, so its writer tells it again. */
TEST(a_confirmed_change_is_told_to_the_server_of_a_new_history)
{
    struct redis redis;
    freshet *a;
    uint64_t epoch;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    EXPECT_EQ(change(a, "red"), FRESHET_OK);
    EXPECT_EQ(stats_of(a).resent, 0);
    epoch = stats_of(a).epoch;
    redis_restart(&redis);
    EXPECT(test_until(stats_of(a).epoch != epoch && stats_of(a).resent > 0, 20000));
    EXPECT_EQ(redis_int(&redis, "STRLEN " TABLE), 8 * 4097);
    EXPECT(test_until(stats_of(a).outbox == 0, 5000));
    freshet_close(a);
    redis_stop(&redis);
}

/* ---- without a fleet ---- */

TEST(a_host_alone_has_tags_and_namespaces_too)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_change told = FRESHET_INIT(freshet_change);
    const char *two[] = {"red", "green"}, *its[] = {"red", "blue"};
    freshet_write_options options = FRESHET_INIT(freshet_write_options);

    options.tags = its;
    options.tag_count = 2;
    options.name_space = "space";
    for (int round = 0; round < 3; round++) {
        EXPECT_EQ(freshet_put(cache, "k", 1, "v", 1, &options, NULL), FRESHET_OK);
        put(cache, "none", NULL, NULL);
        EXPECT(host_gets(cache, "k", "v"));
        if (round == 0)
            EXPECT_EQ(freshet_invalidate_tags(cache, two, 2, NULL, &told), FRESHET_OK);
        else if (round == 1)
            EXPECT_EQ(change(cache, "blue"), FRESHET_OK);
        else
            EXPECT_EQ(freshet_clear_namespace(cache, "space", NULL, NULL), FRESHET_OK);
        EXPECT_EQ(host_get(cache, "k", NULL, 0), FRESHET_MISS);
        EXPECT(host_gets(cache, "none", "none"));
    }
    EXPECT(told.position > 0 && told.epoch == 0 && told.version > 0);
    EXPECT_EQ(load(cache, "row", FRESHET_OK), FRESHET_FROM_LOADER);
    EXPECT_EQ(load(cache, "row", FRESHET_OK), FRESHET_FROM_TIER);
    EXPECT_EQ(change(cache, "from the loader"), FRESHET_OK);
    EXPECT_EQ(load(cache, "row", FRESHET_OK), FRESHET_FROM_LOADER);
    EXPECT_EQ(stats_of(cache).tag_changes, 5);
    freshet_close(cache);
}

TEST(tags_that_cannot_be_are_refused)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    char name[FRESHET_TAG_MAX + 2];
    const char *tags[] = {name};
    freshet_write_options options = FRESHET_INIT(freshet_write_options);

    memset(name, 'x', sizeof name);
    name[FRESHET_TAG_MAX + 1] = '\0';
    options.tag_count = 1;
    EXPECT_EQ(freshet_put(cache, "k", 1, "v", 1, &options, NULL), FRESHET_EINVAL); /* no array */
    options.tags = tags;
    EXPECT_EQ(freshet_put(cache, "k", 1, "v", 1, &options, NULL), FRESHET_EINVAL);
    EXPECT_EQ(change(cache, name), FRESHET_EINVAL);
    EXPECT_EQ(freshet_clear_namespace(cache, name, NULL, NULL), FRESHET_EINVAL);
    name[FRESHET_TAG_MAX] = '\0';
    EXPECT_EQ(freshet_put(cache, "k", 1, "v", 1, &options, NULL), FRESHET_OK);
    EXPECT_EQ(change(cache, name), FRESHET_OK);
    EXPECT_EQ(host_get(cache, "k", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(change(cache, ""), FRESHET_EINVAL);
    EXPECT_EQ(change(cache, NULL), FRESHET_EINVAL);
    EXPECT_EQ(freshet_invalidate_tags(cache, tags, 0, NULL, NULL), FRESHET_EINVAL);
    EXPECT_EQ(freshet_invalidate_tags(cache, NULL, 1, NULL, NULL), FRESHET_EINVAL);
    EXPECT_EQ(freshet_invalidate_tags(NULL, tags, 1, NULL, NULL), FRESHET_EINVAL);
    EXPECT_EQ(freshet_clear_namespace(cache, NULL, NULL, NULL), FRESHET_EINVAL);
    options.name_space = "";
    EXPECT_EQ(freshet_put(cache, "k", 1, "v", 1, &options, NULL), FRESHET_EINVAL);
    EXPECT_EQ(freshet_load_tag(NULL, "x"), FRESHET_EINVAL);
    freshet_close(cache);
}

/* ---- waiting for all hosts ---- */

TEST(a_strong_change_of_a_tag_returns_when_every_host_has_it)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    freshet_change told = FRESHET_INIT(freshet_change);
    const char *red = "red";
    struct redis redis;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    options.wait = FRESHET_WAIT_HOSTS;
    for (int round = 0; round < 5; round++) {
        share(a, b, "red", "red", NULL);
        share(a, b, "in", NULL, "space");
        EXPECT_EQ(freshet_invalidate_tags(a, &red, 1, &options, &told), FRESHET_OK);
        EXPECT_EQ(host_peek(b, "red", NULL, 0), FRESHET_MISS); /* at once */
        EXPECT(told.position > 0);
        EXPECT_EQ(freshet_clear_namespace(a, "space", &options, &told), FRESHET_OK);
        EXPECT_EQ(host_peek(b, "in", NULL, 0), FRESHET_MISS);
    }
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}
