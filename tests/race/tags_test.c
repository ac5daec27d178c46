/*
 * tags_test.c - a tag changes while something of it is on its way: a load in its loader, one that others have joined,
 * one that others of the fleet wait for, an entry between Redis and the tier.  The old answer stays nowhere.
 */
#include "hold.h"

#define KEY "row:1"
#define TAG "red"

/* Two hosts, and a load on the first that has read the old row and is held in its loader. */
struct scene {
    struct redis redis;
    freshet *a, *b;
    struct row row;
};

static void begin(struct scene *scene)
{
    redis_start(&scene->redis, NULL);
    scene->a = host_join(fresh_dir(), &scene->redis, 2000);
    scene->b = host_join(fresh_dir(), &scene->redis, 2000);
    row_init(&scene->row, "old");
}

static void end(struct scene *scene)
{
    freshet_close(scene->a);
    freshet_close(scene->b);
    redis_stop(&scene->redis);
}

/* Reads the row, tells its tag, and stops before it answers. */
static freshet_result slow_loader(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    EXPECT_EQ(freshet_load_tag(request, TAG), FRESHET_OK);
    return row_slow_loader(request, buf, arg);
}

static freshet_result loader(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    EXPECT_EQ(freshet_load_tag(request, TAG), FRESHET_OK);
    return row_loader(request, buf, arg);
}

/* A load on a thread of its own. */
struct loading {
    pthread_t thread;
    freshet *cache;
    struct row *row;
    freshet_loader loader;
    freshet_result result;
    char got[64];
};

static void *loading_run(void *arg)
{
    struct loading *l = arg;
    freshet_buf buf = {0};

    l->result = freshet_load(l->cache, KEY, strlen(KEY), NULL, l->loader, l->row, &buf, NULL);
    snprintf(l->got, sizeof l->got, "%.*s", (int)buf.size, buf.data ? (char *)buf.data : "");
    freshet_buf_free(&buf);
    return NULL;
}

static void loading_begin(struct loading *l, freshet *cache, freshet_loader with, struct row *row)
{
    *l = (struct loading){.cache = cache, .row = row, .loader = with};
    EXPECT(pthread_create(&l->thread, NULL, loading_run, l) == 0);
}

static void loading_end(struct loading *l, const char *expected)
{
    EXPECT(pthread_join(l->thread, NULL) == 0);
    EXPECT_EQ(l->result, FRESHET_OK);
    if (strcmp(l->got, expected) != 0)
        fprintf(stderr, "got '%s', not '%s'\n", l->got, expected);
    EXPECT(strcmp(l->got, expected) == 0);
}

static uint64_t change_at(freshet *cache, const char *tag)
{
    freshet_change change = FRESHET_INIT(freshet_change);

    EXPECT_EQ(freshet_invalidate_tags(cache, &tag, 1, NULL, &change), FRESHET_OK);
    return change.position;
}

static void expect_gone(struct scene *scene)
{
    freshet *c = host_join(fresh_dir(), &scene->redis, 2000);
    freshet *hosts[] = {scene->a, scene->b, c};
    freshet_buf buf = {0};

    for (int i = 0; i < 3; i++)
        EXPECT(!gets_that(hosts[i], KEY, "old"));
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(freshet_load(hosts[i], KEY, strlen(KEY), NULL, loader, &scene->row, &buf, NULL), FRESHET_OK);
        EXPECT(buf.size == 3 && memcmp(buf.data, "new", 3) == 0);
    }
    for (int i = 0; i < 3; i++)
        EXPECT(!gets_that(hosts[i], KEY, "old"));
    freshet_buf_free(&buf);
    freshet_close(c);
}

static void change_during_a_load(bool of_other_host)
{
    struct scene scene;
    struct loading load;

    begin(&scene);
    loading_begin(&load, scene.a, slow_loader, &scene.row);
    EXPECT(hold_wait_on(&scene.row.read));
    scene.row.value = "new";
    (void)change_at(of_other_host ? scene.b : scene.a, TAG);
    sem_post(&scene.row.go);
    loading_end(&load, "old"); /* it began before: its own answer */
    EXPECT(freshet_flush(scene.a, 5000) == FRESHET_OK);
    expect_gone(&scene);
    EXPECT(stats_of(scene.a).fills_refused >= 1);
    end(&scene);
}

TEST(a_load_whose_tag_another_host_changes_leaves_nothing)
{
    change_during_a_load(true);
}

TEST(a_load_whose_tag_its_own_host_changes_leaves_nothing)
{
    change_during_a_load(false);
}

TEST(a_load_that_another_tags_change_meets_is_kept)
{
    struct scene scene;
    struct loading load;

    begin(&scene);
    loading_begin(&load, scene.a, slow_loader, &scene.row);
    EXPECT(hold_wait_on(&scene.row.read));
    (void)change_at(scene.b, "another");
    sem_post(&scene.row.go);
    loading_end(&load, "old");
    EXPECT(test_until(host_gets(scene.b, KEY, "old"), 5000)); /* nothing is wrong with it */
    end(&scene);
}

/* Who waits for a load that its tag's change overtook gets no old answer: it loads itself. */
TEST(a_joined_load_whose_tag_changes_is_no_answer_for_who_joined)
{
    struct scene scene;
    struct loading leader, joiner;

    begin(&scene);
    loading_begin(&leader, scene.a, slow_loader, &scene.row);
    EXPECT(hold_wait_on(&scene.row.read));
    scene.row.value = "new";
    EXPECT(applied(scene.a, change_at(scene.b, TAG)));
    loading_begin(&joiner, scene.a, loader, &scene.row); /* the key itself has not changed: it may wait */
    for (int i = 0; i < 50; i++)
        test_pause();
    sem_post(&scene.row.go);
    loading_end(&leader, "old");
    loading_end(&joiner, "new");
    end(&scene);
}

TEST(a_joined_load_is_no_answer_when_its_tag_changes_while_one_waits)
{
    struct scene scene;
    struct loading leader, joiner;

    begin(&scene);
    loading_begin(&leader, scene.a, slow_loader, &scene.row);
    EXPECT(hold_wait_on(&scene.row.read));
    loading_begin(&joiner, scene.a, loader, &scene.row);
    for (int i = 0; i < 50; i++)
        test_pause();
    EXPECT_EQ(scene.row.reads, 1); /* it waits */
    scene.row.value = "new";
    EXPECT(applied(scene.a, change_at(scene.b, TAG)));
    sem_post(&scene.row.go);
    loading_end(&leader, "old");
    loading_end(&joiner, "new");
    end(&scene);
}

/* It was stored, as nothing spoke against it; then the tag changed, and then it was handed on. */
TEST(a_joined_load_is_no_answer_when_its_tag_changes_as_it_lands)
{
    struct scene scene;
    struct loading leader, joiner;

    begin(&scene);
    loading_begin(&leader, scene.a, slow_loader, &scene.row);
    EXPECT(hold_wait_on(&scene.row.read));
    loading_begin(&joiner, scene.a, loader, &scene.row);
    for (int i = 0; i < 50; i++)
        test_pause();
    EXPECT_EQ(scene.row.reads, 1); /* it waits */
    hold_at("landing", true);
    sem_post(&scene.row.go);
    hold_reached();
    scene.row.value = "new";
    EXPECT(applied(scene.a, change_at(scene.b, TAG)));
    hold_go();
    loading_end(&leader, "old");
    loading_end(&joiner, "new");
    expect_gone(&scene);
    end(&scene);
}

/* The same without a fleet, where the tier is all there is. */
TEST(a_host_alone_keeps_no_load_whose_tag_changed)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    struct loading leader, joiner;
    struct row row;
    char got[8];

    row_init(&row, "old");
    loading_begin(&leader, cache, slow_loader, &row);
    EXPECT(hold_wait_on(&row.read));
    loading_begin(&joiner, cache, loader, &row);
    for (int i = 0; i < 50; i++)
        test_pause();
    row.value = "new";
    (void)change_at(cache, TAG);
    sem_post(&row.go);
    loading_end(&leader, "old");
    loading_end(&joiner, "new");
    EXPECT(freshet_flush(cache, 5000) == FRESHET_OK);
    EXPECT(host_get(cache, KEY, got, sizeof got) != FRESHET_OK || strcmp(got, "new") == 0);
    freshet_close(cache);
}

/* Another host waits for the ticket's holder; when the fill is refused, it gets the ticket itself, at once. */
TEST(a_refused_fill_hands_the_right_to_load_on)
{
    struct scene scene;
    struct loading holder, other;

    begin(&scene);
    loading_begin(&holder, scene.a, slow_loader, &scene.row);
    EXPECT(hold_wait_on(&scene.row.read));
    loading_begin(&other, scene.b, loader, &scene.row);
    for (int i = 0; i < 50; i++)
        test_pause();
    EXPECT_EQ(scene.row.reads, 1); /* it waits for the ticket */
    scene.row.value = "new";
    (void)change_at(scene.b, TAG);
    sem_post(&scene.row.go);
    loading_end(&holder, "old");
    loading_end(&other, "new");
    expect_gone(&scene);
    end(&scene);
}

/* An entry between Redis and the tier: read, not yet stored, when its tag changes. */
TEST(a_promotion_that_its_tags_change_overtakes_is_never_served)
{
    const char *tags[] = {TAG};
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    struct scene scene;
    struct call get;

    begin(&scene);
    options.tags = tags;
    options.tag_count = 1;
    EXPECT_EQ(freshet_put(scene.a, KEY, strlen(KEY), "old", 3, &options, NULL), FRESHET_OK);
    hold_at("fetched", false);
    call_begin(&get, scene.b, KEY, NULL);
    hold_reached();
    EXPECT(applied(scene.b, change_at(scene.a, TAG)));
    hold_go();
    call_end(&get);
    EXPECT(freshet_flush(scene.b, 5000) == FRESHET_OK);
    for (int i = 0; i < 50; i++) {
        EXPECT(!gets_that(scene.b, KEY, "old"));
        test_pause();
    }
    EXPECT_EQ(host_get(scene.b, KEY, NULL, 0), FRESHET_MISS);
    end(&scene);
}
