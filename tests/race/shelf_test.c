/*
 * shelf_test.c - a hot record's copy on the shelf is worth what the tier's is: each thing that voids the one voids the
 * other, on every host.
 */
#include "hold.h"

#include <host.h>
#include <shelf.h>

#define KEY "hot"
#define TAG "red"
#define HOT 40u

struct scene {
    struct redis redis;
    freshet *a, *b;
};

/* Is this value on the shelf, whatever it is worth? */
static bool shelved(freshet *cache, const char *value)
{
    freshet_buf buf = {0};
    struct shelf_hit hit;
    struct record record;
    struct key key;
    bool there = shelf_read(&atomic_load(&cache->host)->shelf, KEY, strlen(KEY), &key, &record, &buf, &hit) &&
                 buf.size == strlen(value) && memcmp(buf.data, value, buf.size) == 0;

    freshet_buf_free(&buf);
    return there;
}

static bool hot(freshet *cache, const char *value)
{
    return tier_serves(cache, KEY, value) && shelved(cache, value);
}

/* Read until the value has come onto the shelf. */
static void heat(freshet *cache, const char *value)
{
    warm(cache, KEY, value);
    EXPECT(test_until(hot(cache, value), 5000));
    EXPECT(tier_serves(cache, KEY, value));
}

static void heat_both(struct scene *scene, const char *value)
{
    warm(scene->a, KEY, value);
    warm(scene->b, KEY, value);
    EXPECT(test_until((int)hot(scene->a, value) + (int)hot(scene->b, value) == 2, 5000));
}

static void put_tagged(freshet *cache, const char *value, unsigned ttl_ms)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    const char *tag = TAG;

    options.tags = &tag;
    options.tag_count = 1;
    options.ttl_ms = ttl_ms;
    EXPECT_EQ(freshet_put(cache, KEY, strlen(KEY), value, strlen(value), &options, NULL), FRESHET_OK);
}

static void begin(struct scene *scene)
{
    redis_start(&scene->redis, NULL);
    scene->a = host_join(fresh_dir(), &scene->redis, 2000);
    scene->b = host_join(fresh_dir(), &scene->redis, 2000);
    put_tagged(scene->a, "old", 0);
    heat_both(scene, "old");
}

static void end(struct scene *scene)
{
    freshet_close(scene->a);
    freshet_close(scene->b);
    redis_stop(&scene->redis);
}

/* Not here any more at once, nor there when the change has come. */
static void expect_gone(struct scene *scene, freshet_result changed)
{
    EXPECT_EQ(changed, FRESHET_OK);
    EXPECT(!gets_that(scene->a, KEY, "old"));
    EXPECT(applied(scene->b, stats_of(scene->a).position));
    EXPECT(!gets_that(scene->b, KEY, "old"));
}

TEST(an_invalidation_voids_the_copy_on_the_shelf)
{
    struct scene scene;

    begin(&scene);
    expect_gone(&scene, host_invalidate(scene.a, KEY));
    end(&scene);
}

TEST(a_clear_voids_the_copy_on_the_shelf)
{
    struct scene scene;

    begin(&scene);
    expect_gone(&scene, freshet_clear(scene.a, NULL, NULL));
    end(&scene);
}

TEST(a_change_of_its_tag_voids_the_copy_on_the_shelf)
{
    const char *tag = TAG;
    struct scene scene;

    begin(&scene);
    expect_gone(&scene, freshet_invalidate_tags(scene.a, &tag, 1, NULL, NULL));
    end(&scene);
}

TEST(a_put_takes_the_place_of_the_copy_on_the_shelf)
{
    struct scene scene;

    begin(&scene);
    expect_gone(&scene, host_put(scene.a, KEY, "new"));
    EXPECT_EQ(freshet_flush(scene.a, 5000), FRESHET_OK);
    EXPECT(!shelved(scene.a, "old")); /* taken off when the tier had the new one */
    heat_both(&scene, "new");
    EXPECT(!shelved(scene.a, "old") && !shelved(scene.b, "old"));
    end(&scene);
}

TEST(a_new_history_voids_the_copy_on_the_shelf)
{
    struct scene scene;
    uint64_t epoch;

    begin(&scene);
    epoch = stats_of(scene.a).epoch;
    EXPECT(strcmp(redis_do(&scene.redis, "FLUSHALL"), "OK") == 0);
    EXPECT(test_until(host_proven_in_another(scene.a, epoch) && host_proven_in_another(scene.b, epoch), 10000));
    EXPECT(!gets_that(scene.a, KEY, "old") && !gets_that(scene.b, KEY, "old"));
    end(&scene);
}

TEST(a_copy_on_the_shelf_is_not_served_beyond_its_bound)
{
    struct scene scene;
    char got[16];

    begin(&scene);
    redis_stop(&scene.redis);
    EXPECT(test_until(stats_of(scene.b).proven_age_ms > 2000, 10000));
    EXPECT(shelved(scene.b, "old"));
    EXPECT_EQ(host_peek(scene.b, KEY, got, sizeof got), FRESHET_MISS);
    freshet_close(scene.a);
    freshet_close(scene.b);
}

/* Without a fleet: the host's own changes, and the time to live. */
TEST(a_copy_on_the_shelf_expires_with_its_record)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    char got[16];

    put_tagged(cache, "short", 1500);
    heat(cache, "short");
    EXPECT(test_until(host_peek(cache, KEY, got, sizeof got) == FRESHET_MISS, 5000));
    EXPECT(shelved(cache, "short"));
    put_tagged(cache, "old", 0);
    heat(cache, "old");
    EXPECT_EQ(host_invalidate(cache, KEY), FRESHET_OK);
    EXPECT(shelved(cache, "old"));
    EXPECT_EQ(host_peek(cache, KEY, got, sizeof got), FRESHET_MISS);
    freshet_close(cache);
}

/* As if it came from the database: no change, so no other key is voided by it. */
static void load(freshet *cache, const char *name, char *value)
{
    freshet_buf buf = {0};

    EXPECT_EQ(freshet_load(cache, name, strlen(name), NULL, host_loader, value, &buf, NULL), FRESHET_OK);
    freshet_buf_free(&buf);
}

static bool tier_has(freshet *cache, const char *name)
{
    struct host *host = atomic_load(&cache->host);
    struct record record;
    struct key key;

    key_make(&key, &host->control.space, name, strlen(name));
    return tier_read(atomic_load(&host->tier), &key, &record, NULL) == FRESHET_OK;
}

/* What is read on the shelf alone is wanted all the same: the tier keeps the record while others come and go. */
TEST(the_tier_keeps_what_the_shelf_answers)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    char name[32], got[256], value[201] = "";
    unsigned kept = 0;
    freshet *cache;

    memset(value, 'v', sizeof value - 1);
    options.dir = fresh_dir();
    options.tier_size = 1 << 20;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    for (unsigned other = 0; other < 40000; other++) {
        snprintf(name, sizeof name, "other %u", other);
        load(cache, name, value);
        if (other % 100 == 0)
            EXPECT_EQ(freshet_flush(cache, 5000), FRESHET_OK);
        snprintf(name, sizeof name, "hot %u", other % HOT);
        if (other < HOT)
            load(cache, name, value);
        for (unsigned i = 0; i < 4; i++)
            (void)host_peek(cache, name, got, sizeof got);
    }
    for (unsigned hot = 0; hot < HOT; hot++) {
        snprintf(name, sizeof name, "hot %u", hot);
        kept += tier_has(cache, name);
    }
    EXPECT(kept >= HOT - HOT / 10);
    freshet_close(cache);
}

/* Without a fill of its own a process has no writer, until a wish asks for one. */
TEST(who_only_reads_has_its_wishes_fulfilled)
{
    const char *dir = fresh_dir();
    freshet *cache = host_solo(dir, 0);

    put_tagged(cache, "old", 0);
    EXPECT_EQ(freshet_flush(cache, 5000), FRESHET_OK);
    IN_CHILD({
        heat(cache, "old");
    });
    freshet_close(cache);
}
