/*
 * log_test.c - messages get lost, the log does not: what a host missed it finds there, within the bound; what is
 * missing from the log itself voids everything.
 *
 * Messages are lost on purpose and for certain: the writer's user loses its right to the channel (the change itself
 * succeeds, PUBLISH in it fails), so the other host stays subscribed and knows of nothing.  A host is cut off
 * likewise: its user loses every right and its connections.
 */
#include "hold.h"

#include <freshet_fleet.h>

#define LOG   "freshet:{default:0}:log"
#define BOUND 1000

struct scene {
    struct redis redis;
    freshet *a, *b; /* users a and b of Redis */
};

/* Join as a user of Redis's own. */
static freshet *join_as(struct redis *redis, const char *user)
{
    freshet_join_options options = FRESHET_INIT(freshet_join_options);
    freshet *cache = host_solo(fresh_dir(), BOUND);
    char url[300];

    snprintf(url, sizeof url, "unix://%s:secret@%s", user, redis->socket);
    options.keyring = host_keyring();
    EXPECT_EQ(freshet_join(cache, url, &options), FRESHET_OK);
    return cache;
}

static void begin(struct scene *scene)
{
    redis_start(&scene->redis, NULL);
    EXPECT(strcmp(redis_do(&scene->redis, "ACL SETUSER a on >secret ~* &* +@all"), "OK") == 0);
    EXPECT(strcmp(redis_do(&scene->redis, "ACL SETUSER b on >secret ~* &* +@all"), "OK") == 0);
    scene->a = join_as(&scene->redis, "a");
    scene->b = join_as(&scene->redis, "b");
}

static void end(struct scene *scene)
{
    freshet_close(scene->a);
    freshet_close(scene->b);
    redis_stop(&scene->redis);
}

static void mute(struct scene *scene)
{
    EXPECT(strcmp(redis_do(&scene->redis, "ACL SETUSER a resetchannels"), "OK") == 0);
}

/* b loses Redis, at once, and notices. */
static void cut_off(struct scene *scene)
{
    EXPECT(strcmp(redis_do(&scene->redis, "ACL SETUSER b -@all"), "OK") == 0);
    redis_do(&scene->redis, "CLIENT KILL USER b");
    EXPECT(
        test_until(stats_of(scene->b).proven_age_ms > BOUND, 10000)); /* and past it: nothing is on its way any more */
}

static void reconnect(struct scene *scene)
{
    EXPECT(strcmp(redis_do(&scene->redis, "ACL SETUSER b +@all"), "OK") == 0);
}

/* Is the host proven fresh, as late as `position`? */
static bool proven(freshet *cache, uint64_t position)
{
    freshet_stats stats = stats_of(cache);

    return stats.applied >= position && stats.proven_age_ms >= 0 && stats.proven_age_ms < BOUND;
}

/* From the change on, `old` may be read for as long as the bound, and then never again. */
static void expect_gone_within_bound(freshet *cache, const char *key, const char *old, int64_t confirmed_ns)
{
    freshet_buf buf = {0};
    bool seen_late = false;

    do {
        freshet_answer answer = FRESHET_INIT(freshet_answer);
        freshet_result result = freshet_get(cache, key, strlen(key), NULL, &buf, &answer);

        if (result == FRESHET_OK && buf.size == strlen(old) && memcmp(buf.data, old, buf.size) == 0)
            seen_late = seen_late || answer.judged_at_ns - confirmed_ns > BOUND * 1000000LL;
        EXPECT(!seen_late);
    } while (test_now_ns() < confirmed_ns + 3 * BOUND * 1000000LL);
    freshet_buf_free(&buf);
}

TEST(a_lost_last_message_is_found_in_the_log_within_the_bound_though_all_is_silent_after_it)
{
    struct scene scene;
    uint64_t position;
    int64_t confirmed_ns;

    begin(&scene);
    EXPECT_EQ(host_put(scene.a, "k", "old"), FRESHET_OK);
    warm(scene.b, "k", "old");
    mute(&scene);
    position = invalidate_at(scene.a, "k");
    confirmed_ns = test_now_ns();
    expect_gone_within_bound(scene.b, "k", "old", confirmed_ns);
    EXPECT(test_until(proven(scene.b, position), 5000));
    EXPECT_EQ(host_peek(scene.b, "k", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(stats_of(scene.b).repairs, 0); /* it was read, nothing else became void */
    end(&scene);
}

TEST(a_lost_put_is_found_in_the_log_within_the_bound)
{
    struct scene scene;
    int64_t confirmed_ns;

    begin(&scene);
    EXPECT_EQ(host_put(scene.a, "k", "old"), FRESHET_OK);
    warm(scene.b, "k", "old");
    mute(&scene);
    EXPECT_EQ(host_put(scene.a, "k", "new"), FRESHET_OK);
    confirmed_ns = test_now_ns();
    expect_gone_within_bound(scene.b, "k", "old", confirmed_ns);
    EXPECT(test_until(host_gets(scene.b, "k", "new"), 5000));
    end(&scene);
}

TEST(cut_connections_cost_no_message)
{
    struct scene scene;

    begin(&scene);
    for (int i = 0; i < 20; i++) {
        uint64_t position;

        EXPECT_EQ(host_put(scene.a, "k", "old"), FRESHET_OK);
        EXPECT(test_until(host_gets(scene.b, "k", "old"), 5000));
        redis_do(&scene.redis, i % 3 == 2 ? "CLIENT KILL TYPE normal" : "CLIENT KILL TYPE pubsub");
        EXPECT(test_until(host_invalidate(scene.a, "k") == FRESHET_OK, 10000));
        position = stats_of(scene.a).position;
        EXPECT(applied(scene.b, position));
        EXPECT(!gets_that(scene.b, "k", "old") && !gets_that(scene.a, "k", "old"));
    }
    end(&scene);
}

/* The next message arrives, the one before it never does: applied must not step over the gap. */
TEST(a_message_after_a_lost_one_does_not_hide_it)
{
    struct scene scene;
    freshet *c;

    begin(&scene);
    c = host_join(fresh_dir(), &scene.redis, BOUND); /* the default user: its messages arrive */
    for (int i = 0; i < 10; i++) {
        uint64_t later;

        EXPECT_EQ(host_put(c, "lost", "old"), FRESHET_OK);
        warm(scene.b, "lost", "old");
        mute(&scene);
        (void)invalidate_at(scene.a, "lost");
        later = invalidate_at(c, "heard");
        EXPECT(applied(scene.b, later));
        EXPECT(host_peek(scene.b, "lost", NULL, 0) == FRESHET_MISS); /* applied so far means: in the fences so far */
    }
    freshet_close(c);
    end(&scene);
}

enum damage { TRIMMED, DELETED, FIRST_MISSING, MIDDLE_MISSING, LAST_MISSING, GARBLED, OTHER_TYPE };

/* While b is cut off three keys change and the log suffers: b can not know which, so everything it has is void. */
static void expect_void_after(enum damage damage)
{
    struct scene scene;
    uint64_t positions[3];
    char key[16];

    begin(&scene);
    for (int i = 0; i < 6; i++) {
        snprintf(key, sizeof key, "k%d", i);
        EXPECT_EQ(host_put(scene.a, key, "old"), FRESHET_OK);
        warm(scene.b, key, "old");
    }
    EXPECT(applied(scene.b, stats_of(scene.a).position)); /* all of that is behind it */
    cut_off(&scene);
    for (int i = 0; i < 3; i++) {
        snprintf(key, sizeof key, "k%d", i);
        positions[i] = invalidate_at(scene.a, key);
    }
    if (damage == TRIMMED)
        EXPECT_EQ(redis_int(&scene.redis, "XTRIM " LOG " MAXLEN 0") > 0, 1);
    else if (damage == DELETED)
        EXPECT_EQ(redis_int(&scene.redis, "DEL " LOG), 1);
    else if (damage == OTHER_TYPE)
        EXPECT(strcmp(redis_do(&scene.redis, "SET " LOG " nonsense"), "OK") == 0);
    else if (damage == GARBLED) { /* an entry that nobody signed, in the place of the middle one */
        EXPECT_EQ(redis_int(&scene.redis, "DEL " LOG), 1);
        for (int i = 0; i < 3; i++)
            redis_do(&scene.redis, "XADD " LOG " %llu-0 f nonsense", (unsigned long long)positions[i]);
    } else
        EXPECT_EQ(redis_int(&scene.redis, "XDEL " LOG " %llu-0", (unsigned long long)positions[damage - FIRST_MISSING]),
                  1);
    reconnect(&scene);
    EXPECT(test_until(proven(scene.b, positions[2]), 10000));
    for (int i = 0; i < 3; i++) {
        snprintf(key, sizeof key, "k%d", i);
        EXPECT(!gets_that(scene.b, key, "old"));
    }
    EXPECT(stats_of(scene.b).floor >= positions[damage == MIDDLE_MISSING ? 1 : damage == FIRST_MISSING ? 0 : 2]);
    EXPECT(stats_of(scene.b).repairs >= 1);
    EXPECT_EQ(host_peek(scene.b, "k5", NULL, 0), FRESHET_MISS); /* it might have been this one */
    EXPECT(test_until(host_gets(scene.b, "k5", "old"), 5000));  /* it was not: Redis still has it */
    EXPECT_EQ(host_put(scene.a, "k0", "new"), FRESHET_OK);      /* and life goes on */
    EXPECT(test_until(host_gets(scene.b, "k0", "new"), 5000));
    end(&scene);
}

TEST(a_trimmed_log_voids_everything_on_the_host_that_missed_it)
{
    expect_void_after(TRIMMED);
}
TEST(a_deleted_log_voids_everything_on_the_host_that_missed_it)
{
    expect_void_after(DELETED);
}
TEST(a_log_whose_first_new_entry_is_missing_voids_everything)
{
    expect_void_after(FIRST_MISSING);
}
TEST(a_log_with_a_gap_voids_everything)
{
    expect_void_after(MIDDLE_MISSING);
}
TEST(a_log_whose_last_entry_is_missing_voids_everything)
{
    expect_void_after(LAST_MISSING);
}
TEST(a_log_entry_that_nobody_signed_voids_everything)
{
    expect_void_after(GARBLED);
}
TEST(a_log_of_another_type_voids_everything)
{
    expect_void_after(OTHER_TYPE);
}

/* Invalidate `key` from a process and host of its own, as Redis's user a; `muted`: without a message. */
static void invalidate_elsewhere(struct scene *scene, const char *key, bool muted)
{
    IN_CHILD({
        freshet *other;

        hold.point = NULL;
        other = join_as(&scene->redis, "a");
        if (muted)
            mute(scene);
        EXPECT_EQ(host_invalidate(other, key), FRESHET_OK);
        freshet_close(other);
    });
}

/*
 * The proof counts from the question, not from the answer: an answer that was long on its way proves little.  Host b is
 * held with an answer in its hand; then k changes, silently, and the bound passes.  What b holds shows that it had
 * missed nothing before, and no more than that.
 */
TEST(a_late_answer_proves_only_what_was_true_when_it_was_asked_for)
{
    struct scene scene;
    int64_t confirmed_ns;

    begin(&scene);
    EXPECT_EQ(host_put(scene.a, "k", "old"), FRESHET_OK);
    warm(scene.b, "k", "old");
    freshet_close(scene.a); /* of this process's threads b's alone shall be held */
    hold_at("log_read", true);
    invalidate_elsewhere(&scene, "another", false);
    hold_reached();
    invalidate_elsewhere(&scene, "k", true);
    confirmed_ns = test_now_ns();
    while (test_now_ns() < confirmed_ns + BOUND * 1000000LL)
        test_pause();
    hold_at("log_read", true); /* the next answer, which has k, waits as well */
    hold_go();
    for (int i = 0; i < 100; i++) {
        EXPECT_EQ(host_peek(scene.b, "k", NULL, 0), FRESHET_MISS);
        test_pause();
    }
    hold_reached();
    hold_go();
    EXPECT(test_until(proven(scene.b, 0), 10000));
    EXPECT_EQ(host_peek(scene.b, "k", NULL, 0), FRESHET_MISS);
    freshet_close(scene.b);
    redis_stop(&scene.redis);
}
