/*
 * hole_test.c - interleavings and forgeries that once broke this protocol on paper, where no other file's subject is
 * the same.  tests/HOLES.md has the list of all, each with its tests.
 */
#include "hold.h"

#include <freshet_fleet.h>
#include <signal.h>
#include <sys/mman.h>

#define BOUND   1000
#define PREFIX  "freshet:{default:0}:"
#define CHANNEL PREFIX "frames"

/* Two hosts of a fleet. */
struct scene {
    struct redis redis;
    freshet *a, *b;
};

static void begin(struct scene *scene)
{
    redis_start(&scene->redis, NULL);
    scene->a = host_join(fresh_dir(), &scene->redis, BOUND);
    scene->b = host_join(fresh_dir(), &scene->redis, BOUND);
}

static void end(struct scene *scene)
{
    freshet_close(scene->a);
    freshet_close(scene->b);
    redis_stop(&scene->redis);
}

static const char *record_name(const char *key)
{
    static char name[100];
    uint8_t hash[16];
    int at = snprintf(name, sizeof name, PREFIX "record:");

    freshet_key_hash("default", key, strlen(key), hash);
    for (int i = 0; i < 16; i++)
        at += snprintf(name + at, sizeof name - (size_t)at, "%02x", hash[i]);
    return name;
}

/* A string of Redis, with all its bytes. */
struct bytes {
    char data[1000];
    size_t size;
};

static void bytes_read(struct redis *redis, const char *key, struct bytes *bytes)
{
    const void *words[] = {"GET", key};
    const size_t sizes[] = {3, strlen(key)};
    const char *reply = redis_ask(redis, 2, words, sizes, &bytes->size);

    EXPECT(bytes->size > 100 && bytes->size <= sizeof bytes->data);
    memcpy(bytes->data, reply, bytes->size);
}

static void bytes_write(struct redis *redis, const char *key, const struct bytes *bytes)
{
    const void *words[] = {"SET", key, bytes->data};
    const size_t sizes[] = {3, strlen(key), bytes->size};

    EXPECT(strcmp(redis_ask(redis, 3, words, sizes, NULL), "OK") == 0);
}

/* ---- H1: positions of two histories in one table ---- */

/* Host b's listener finds the log trimmed, and is held in the midst of voiding what it has; k stands in both tiers. */
static pid_t begin_repairing(struct scene *scene, const char *dir, _Atomic int *phase)
{
    pid_t listener = test_fork();

    if (listener == 0) {
        freshet *own = host_join(dir, &scene->redis, BOUND);

        hold_at("repair_floor", true);
        *phase = 1;
        hold_reached();
        *phase = 2;
        EXPECT(test_until(*phase == 3, HOLD_S * 1000));
        hold_go();
        EXPECT(test_until(*phase == 4, HOLD_S * 1000));
        freshet_close(own);
        test_child_done();
    }
    return listener;
}

/* (a) The listener has decided "floor = applied = here" in one history and says so in the next.  Were positions to
 * begin anew, or words to be lowered, the host would take for applied what it has not heard of, for ever. */
TEST(a_repair_of_an_ended_history_that_goes_on_late_hides_no_change)
{
    _Atomic int *phase = mmap(NULL, sizeof *phase, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const char *dir = fresh_dir();
    struct scene scene;
    uint64_t epoch, position;
    pid_t listener;

    EXPECT(phase != MAP_FAILED);
    redis_start(&scene.redis, NULL);
    (void)host_keyring();
    listener = begin_repairing(&scene, dir, phase);
    EXPECT(test_until(*phase == 1, 20000));
    test_kill(listener, SIGSTOP);
    scene.a = host_join(fresh_dir(), &scene.redis, BOUND);
    for (int i = 0; i < 300; i++) /* a position that a history which began at 1 would be long in reaching */
        EXPECT_EQ(host_invalidate(scene.a, "another"), FRESHET_OK);
    EXPECT(redis_int(&scene.redis, "XTRIM " PREFIX "log MAXLEN 0") > 0);
    test_kill(listener, SIGCONT);
    EXPECT(test_until(*phase == 2, 20000)); /* held */
    scene.b = host_join(dir, &scene.redis, BOUND);
    epoch = stats_of(scene.b).epoch;
    EXPECT(strcmp(redis_do(&scene.redis, "FLUSHALL"), "OK") == 0);
    EXPECT(test_until(host_put(scene.a, "k", "old") == FRESHET_OK && stats_of(scene.a).epoch != epoch &&
                          stats_of(scene.b).epoch == stats_of(scene.a).epoch && host_gets(scene.b, "k", "old"),
                      20000));
    warm(scene.b, "k", "old");
    *phase = 3; /* it goes on: applied = the old history's position */
    position = invalidate_at(scene.a, "k");
    EXPECT(applied(scene.b, position));
    EXPECT(!gets_that(scene.b, "k", "old"));
    EXPECT(test_until(host_proven(scene.b), 10000));
    EXPECT(!gets_that(scene.b, "k", "old"));
    *phase = 4;
    test_join(listener);
    end(&scene);
}

/* (b) What a fence had voided stays void through the change of histories: a reader that looked at the epoch before and
 * looks at the fence afterwards finds it where it was. */
TEST(what_was_void_before_a_new_history_is_so_in_it)
{
    struct scene scene;
    struct call reader;
    uint64_t epoch;

    begin(&scene);
    EXPECT_EQ(host_put(scene.a, "k", "old"), FRESHET_OK);
    epoch = stats_of(scene.b).epoch;
    hold_at("fetched", false);
    call_begin(&reader, scene.b, "k", NULL);
    hold_reached(); /* with the answer in its hand */
    EXPECT(applied(scene.b, invalidate_at(scene.a, "k")));
    EXPECT(strcmp(redis_do(&scene.redis, "FLUSHALL"), "OK") == 0);
    EXPECT(test_until(stats_of(scene.b).epoch != epoch, 10000));
    hold_go();
    call_end(&reader);
    EXPECT(reader.result != FRESHET_OK || strcmp(reader.got, "old") != 0);
    EXPECT(freshet_flush(scene.b, 5000) == FRESHET_OK);
    for (int i = 0; i < 50; i++) {
        EXPECT(!gets_that(scene.b, "k", "old"));
        test_pause();
    }
    end(&scene);
}

/* ---- H4: the position on the channel is nobody's word ---- */

/* Publish the log's newest frame, which is genuine, as if it stood somewhere else. */
static void publish_again_as(struct redis *redis, const char *position)
{
    const void *words[] = {"EVAL",
                           "local frame = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][2][2]; "
                           "local epoch = string.sub(redis.call('GET', KEYS[2]), 5, 12); "
                           "return redis.call('PUBLISH', ARGV[1], struct.pack('>I8', tonumber(ARGV[2])) .. epoch .. "
                           "frame)",
                           "2",
                           PREFIX "log",
                           PREFIX "head",
                           CHANNEL,
                           position};
    size_t sizes[7];

    for (int i = 0; i < 7; i++)
        sizes[i] = strlen(words[i]);
    EXPECT(redis_ask(redis, 7, words, sizes, NULL)[0] != '-');
}

/* The messages of n+1, which names k, and of n+2 are lost; the frame of n+2 comes as n+1.  Who took it at its word
 * would never look for the true n+1. */
TEST(a_true_frame_published_under_another_position_hides_no_change)
{
    freshet_join_options options = FRESHET_INIT(freshet_join_options);
    struct scene scene;
    freshet *mute = host_solo(fresh_dir(), BOUND);
    char url[300], position[32];

    begin(&scene);
    EXPECT(strcmp(redis_do(&scene.redis, "ACL SETUSER mute on >secret ~* &* +@all"), "OK") == 0);
    snprintf(url, sizeof url, "unix://mute:secret@%s", scene.redis.socket);
    options.keyring = host_keyring();
    EXPECT_EQ(freshet_join(mute, url, &options), FRESHET_OK);
    EXPECT(strcmp(redis_do(&scene.redis, "ACL SETUSER mute resetchannels"), "OK") == 0);
    for (int i = 0; i < 10; i++) {
        uint64_t lost;

        EXPECT_EQ(host_put(scene.a, "k", "old"), FRESHET_OK);
        warm(scene.b, "k", "old");
        EXPECT(applied(scene.b, stats_of(scene.a).position));
        lost = invalidate_at(mute, "k");
        EXPECT_EQ(host_invalidate(mute, "another"), FRESHET_OK);
        snprintf(position, sizeof position, "%llu", (unsigned long long)lost);
        publish_again_as(&scene.redis, position);
        EXPECT(applied(scene.b, lost + 1));
        EXPECT_EQ(host_peek(scene.b, "k", NULL, 0), FRESHET_MISS);
    }
    freshet_close(mute);
    end(&scene);
}

/* A position from the end of all numbers would kill the key for ever. */
TEST(a_true_frame_published_under_a_huge_position_kills_no_key)
{
    struct scene scene;

    begin(&scene);
    EXPECT_EQ(host_invalidate(scene.a, "k"), FRESHET_OK);
    EXPECT(applied(scene.b, stats_of(scene.a).position));
    for (int i = 0; i < 3; i++)
        publish_again_as(&scene.redis, "9007199254740991");
    EXPECT_EQ(host_put(scene.a, "k", "new"), FRESHET_OK);
    warm(scene.b, "k", "new");
    end(&scene);
}

/* ---- H5: a writer's frames may come in any order ---- */

static void *put_late(void *arg)
{
    hold_me();
    EXPECT_EQ(host_put(arg, "k", "new"), FRESHET_OK);
    return NULL;
}

/* The put has its number, and is held before it is sent; a later number of the same writer is applied first. */
TEST(a_frame_that_its_writer_numbered_earlier_and_sent_later_counts)
{
    struct scene scene;
    pthread_t writer;

    begin(&scene);
    EXPECT_EQ(host_put(scene.a, "k", "old"), FRESHET_OK);
    warm(scene.b, "k", "old");
    hold_at("outbox_claimed", false);
    EXPECT(pthread_create(&writer, NULL, put_late, scene.a) == 0);
    hold_reached();
    EXPECT(applied(scene.b, invalidate_at(scene.a, "another")));
    hold_go();
    EXPECT(pthread_join(writer, NULL) == 0);
    EXPECT(applied(scene.b, stats_of(scene.a).position));
    EXPECT(!gets_that(scene.b, "k", "old"));
    EXPECT(test_until(host_gets(scene.b, "k", "new"), 5000));
    end(&scene);
}

/* ---- H11: a version from the future ---- */

/* Redis's clock was ten minutes ahead (or the master before it had another): the key that was put then can be changed
 * now, by a host that knows the right time. */
TEST(a_record_of_a_clock_that_was_ahead_is_changed_like_any_other)
{
    freshet_change change = FRESHET_INIT(freshet_change);
    uint64_t ahead = 0;
    struct scene scene;
    freshet *c;

    redis_start_on_clock(&scene.redis, NULL);
    redis_jump(&scene.redis, 600);
    scene.a = host_join(fresh_dir(), &scene.redis, BOUND);
    scene.b = host_join(fresh_dir(), &scene.redis, BOUND);
    EXPECT_EQ(freshet_put(scene.a, "k", 1, "old", 3, NULL, &change), FRESHET_OK);
    ahead = change.version;
    warm(scene.b, "k", "old");
    redis_jump(&scene.redis, 0);
    c = host_join(fresh_dir(), &scene.redis, BOUND);
    EXPECT_EQ(freshet_invalidate(c, "k", 1, NULL, &change), FRESHET_OK);
    EXPECT(change.version + 300000000 < ahead);
    EXPECT(applied(scene.a, change.position) && applied(scene.b, change.position));
    EXPECT(!gets_that(scene.a, "k", "old") && !gets_that(scene.b, "k", "old") && !gets_that(c, "k", "old"));
    EXPECT_EQ(freshet_put(c, "k", 1, "new", 3, NULL, &change), FRESHET_OK);
    EXPECT(change.version < ahead);
    EXPECT(test_until(host_gets(scene.a, "k", "new") && host_gets(scene.b, "k", "new"), 5000));
    freshet_close(c);
    end(&scene);
}

/* A forger with write access cannot make a key unchangeable either. */
TEST(a_forged_record_from_the_far_future_is_changed_like_any_other)
{
    static const size_t words[] = {12, 36, 44}; /* version, expiry, time of the last change */
    struct scene scene;
    struct bytes record;

    begin(&scene);
    for (int i = 0; i < 4; i++) {
        const char *value = i % 2 ? "odd" : "even";

        EXPECT_EQ(host_put(scene.a, "k", value), FRESHET_OK);
        warm(scene.b, "k", value);
        bytes_read(&scene.redis, record_name("k"), &record);
        for (int word = 0; word < 3; word++) /* one of them, then all */
            if (i == word || i == 3)
                memcpy(record.data + words[word], "\0\x1f\xff\xff\xff\xff\xff\xff", 8);
        bytes_write(&scene.redis, record_name("k"), &record);
        EXPECT(applied(scene.b, invalidate_at(scene.a, "k")));
        EXPECT(!gets_that(scene.a, "k", value) && !gets_that(scene.b, "k", value));
        bytes_write(&scene.redis, record_name("k"), &record);
    }
    EXPECT_EQ(host_put(scene.b, "k", "last"), FRESHET_OK);
    EXPECT(test_until(host_gets(scene.a, "k", "last"), 5000));
    end(&scene);
}

/* ---- H13: one tier, two bounds ---- */

/* Redis is stopped: who asked for 300 ms is served no longer than that, though a sibling that is content with 10 s
 * keeps the very same proof. */
TEST(each_process_of_a_tier_counts_by_its_own_bound)
{
    const char *dir = fresh_dir();
    struct redis redis;
    freshet *patient, *hasty;
    freshet_read_options tier_only = FRESHET_INIT(freshet_read_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);

    redis_start(&redis, NULL);
    patient = host_join(dir, &redis, 10000);
    hasty = host_join(dir, &redis, 300);
    EXPECT_EQ(host_put(patient, "k", "v"), FRESHET_OK);
    warm(patient, "k", "v");
    warm(hasty, "k", "v");
    test_kill(redis.pid, SIGSTOP);
    tier_only.tier_only = true;
    EXPECT(test_until(stats_of(hasty).proven_age_ms > 300, 5000));
    EXPECT_EQ(freshet_get(hasty, "k", 1, &tier_only, NULL, &answer), FRESHET_MISS);
    EXPECT_EQ(freshet_get(patient, "k", 1, &tier_only, NULL, &answer), FRESHET_OK);
    EXPECT(answer.age_bound_ms > 300 && answer.age_bound_ms <= 10000);
    tier_only.bound_ms = 300; /* for one read */
    EXPECT_EQ(freshet_get(patient, "k", 1, &tier_only, NULL, &answer), FRESHET_MISS);
    test_kill(redis.pid, SIGCONT);
    EXPECT(test_until(host_gets(hasty, "k", "v"), 10000));
    freshet_close(patient);
    freshet_close(hasty);
    redis_stop(&redis);
}

/* ---- H14: what Redis answers is judged as what the tier has ---- */

/* A server that is behind (a lagging replica, an older dump): record and head of before the change. */
TEST(an_answer_from_behind_what_this_host_knows_is_none)
{
    struct scene scene;
    struct bytes record, head;
    char name[100];

    begin(&scene);
    snprintf(name, sizeof name, "%s", record_name("k"));
    for (int i = 0; i < 5; i++) {
        EXPECT_EQ(host_put(scene.a, "k", "old"), FRESHET_OK);
        bytes_read(&scene.redis, name, &record);
        bytes_read(&scene.redis, PREFIX "head", &head);
        EXPECT(applied(scene.b, invalidate_at(scene.a, "k")));
        {
            const void *words[] = {"MSET", name, record.data, PREFIX "head", head.data};
            const size_t sizes[] = {4, strlen(name), record.size, strlen(PREFIX "head"), head.size};

            EXPECT(strcmp(redis_ask(&scene.redis, 5, words, sizes, NULL), "OK") == 0);
        }
        for (int n = 0; n < 20; n++) { /* and when the hosts have made it begin a new history, too */
            EXPECT(!gets_that(scene.a, "k", "old") && !gets_that(scene.b, "k", "old"));
            test_pause();
        }
        EXPECT(test_until(host_invalidate(scene.a, "k") == FRESHET_OK && host_proven(scene.b), 20000));
    }
    end(&scene);
}

/* ---- H17: that there is nothing must be sealed, too ---- */

TEST(an_absence_that_nobody_sealed_is_no_answer)
{
    struct scene scene;
    struct bytes record, absent;

    begin(&scene);
    EXPECT_EQ(host_put(scene.a, "k", ""), FRESHET_OK); /* sealed, and as many bytes as a sealed absence */
    bytes_read(&scene.redis, record_name("k"), &record);
    record.data[3] = 2; /* the state */
    bytes_write(&scene.redis, record_name("k"), &record);
    EXPECT_EQ(host_get(scene.b, "k", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(freshet_put_absent(scene.a, "gone", 4, NULL, NULL), FRESHET_OK);
    EXPECT(test_until(host_get(scene.b, "gone", NULL, 0) == FRESHET_ABSENT, 5000));
    bytes_read(&scene.redis, record_name("gone"), &absent);
    bytes_write(&scene.redis, record_name("k"), &absent); /* true, of another key */
    EXPECT_EQ(host_get(scene.b, "k", NULL, 0), FRESHET_MISS);
    absent.data[3] = 1; /* an empty value that nobody put */
    bytes_write(&scene.redis, record_name("fourth"), &absent);
    EXPECT_EQ(host_get(scene.b, "fourth", NULL, 0), FRESHET_MISS);
    end(&scene);
}
