/*
 * many_test.c - many entries at once, and entries lent in place: the same answers as one by one and copied.
 */
#include <hosts.h>
#include <test.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS 200u

static freshet *opened(uint64_t tier_size)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache = NULL;

    options.dir = fresh_dir();
    options.tier_size = tier_size;
    options.deadline_ms = 10000;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    return cache;
}

/* Every third is absent, every fifth missing, the others are there in all sizes. */
static freshet_result put_nth(freshet *cache, uint32_t i)
{
    size_t size = i % 7 == 0 ? 0 : i * i * 3;
    uint8_t *value = malloc(size + 1);
    freshet_result result;

    memset(value, (int)i, size + 1);
    if (i % 5 == 0)
        result = freshet_invalidate(cache, &i, sizeof i, NULL, NULL);
    else if (i % 3 == 0)
        result = freshet_put_absent(cache, &i, sizeof i, NULL, NULL);
    else
        result = freshet_put(cache, &i, sizeof i, value, size, NULL, NULL);
    free(value);
    return result;
}

struct many {
    uint32_t keys[KEYS];
    freshet_buf bufs[KEYS];
    freshet_answer answers[KEYS];
    freshet_get_item items[KEYS];
};

static struct many *many_make(void)
{
    struct many *many = calloc(1, sizeof *many);

    for (uint32_t i = 0; i < KEYS; i++) {
        many->keys[i] = i;
        many->answers[i] = (freshet_answer)FRESHET_INIT(freshet_answer);
        many->items[i] = (freshet_get_item)FRESHET_INIT(freshet_get_item);
        many->items[i].key = &many->keys[i];
        many->items[i].key_size = sizeof many->keys[i];
        many->items[i].buf = &many->bufs[i];
        many->items[i].answer = &many->answers[i];
    }
    return many;
}

static void many_free(struct many *many)
{
    for (uint32_t i = 0; i < KEYS; i++)
        freshet_buf_free(&many->bufs[i]);
    free(many);
}

static bool same_as_alone(freshet *cache, const freshet_get_item *item)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    freshet_buf buf = {0};
    freshet_result result = freshet_get(cache, item->key, item->key_size, NULL, &buf, &answer);
    bool same = result == item->result && buf.size == item->buf->size &&
                (buf.size == 0 || memcmp(buf.data, item->buf->data, buf.size) == 0) &&
                answer.position == item->answer->position && answer.source == item->answer->source;

    freshet_buf_free(&buf);
    return same;
}

TEST(many_at_once_are_answered_as_one_by_one)
{
    freshet *cache = opened(64u << 20);
    freshet_stats before = FRESHET_INIT(freshet_stats), after = FRESHET_INIT(freshet_stats);
    struct many *many = many_make();
    unsigned found = 0, absent = 0;

    for (uint32_t i = 0; i < KEYS; i++)
        EXPECT(put_nth(cache, i) >= 0);
    EXPECT_EQ(freshet_flush(cache, 10000), FRESHET_OK);
    EXPECT_EQ(freshet_stat(cache, &before), FRESHET_OK);
    EXPECT_EQ(freshet_get_many(cache, many->items, KEYS, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_stat(cache, &after), FRESHET_OK);
    for (uint32_t i = 0; i < KEYS; i++) {
        EXPECT(same_as_alone(cache, &many->items[i]));
        found += many->items[i].result == FRESHET_OK;
        absent += many->items[i].result == FRESHET_ABSENT;
    }
    EXPECT_EQ(after.hits - before.hits, found);
    EXPECT_EQ(after.absents - before.absents, absent);
    EXPECT_EQ(after.misses - before.misses, KEYS - found - absent);
    EXPECT(found > KEYS / 3 && absent > KEYS / 10);
    many_free(many);
    freshet_close(cache);
}

TEST(what_many_at_once_cannot_have_from_the_tier_comes_from_redis)
{
    struct many *many = many_make();
    struct redis redis;
    freshet *a, *b;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, 500);
    b = host_join(fresh_dir(), &redis, 500);
    for (uint32_t i = 0; i < KEYS; i++)
        EXPECT(put_nth(a, i) >= 0);
    EXPECT_EQ(freshet_get_many(b, many->items, KEYS, NULL), FRESHET_OK);
    for (uint32_t i = 0; i < KEYS; i++) {
        freshet_result wanted = i % 5 == 0 ? FRESHET_MISS : i % 3 == 0 ? FRESHET_ABSENT : FRESHET_OK;

        EXPECT_EQ(many->items[i].result, wanted);
        EXPECT(wanted == FRESHET_MISS || many->answers[i].source == FRESHET_FROM_REDIS);
    }
    many_free(many);
    freshet_close(a);
    freshet_close(b);
}

TEST(items_of_a_wrong_size_or_a_bad_key_are_refused_and_nothing_is_read)
{
    freshet *cache = opened(0);
    struct many *many = many_make();

    EXPECT_EQ(freshet_get_many(cache, NULL, 0, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_get_many(cache, NULL, 1, NULL), FRESHET_EINVAL);
    many->items[3].key_size = 0;
    many->items[0].result = FRESHET_STALE;
    EXPECT_EQ(freshet_get_many(cache, many->items, KEYS, NULL), FRESHET_EINVAL);
    EXPECT_EQ(many->items[0].result, FRESHET_STALE);
    many->items[0].struct_size = 3;
    EXPECT_EQ(freshet_get_many(cache, many->items, KEYS, NULL), FRESHET_EINVAL);
    many_free(many);
    freshet_close(cache);
}

static atomic_bool stop_counting;
static atomic_uint rounds; /* that were begun to read */

/* First the first key is given the next number, then the last, once in every other round, at any moment of it. */
static void *count_on(void *arg)
{
    const uint32_t first = 0, last = KEYS - 1;
    freshet *cache = arg;
    uint64_t seed = 1;

    for (uint32_t n = 1; !stop_counting; n++) {
        unsigned seen = rounds;
        int64_t until_ns;

        while (rounds < seen + 2 && !stop_counting)
            test_pause();
        until_ns = test_now_ns() + (int64_t)(test_random(&seed) % 2000000);
        while (test_now_ns() < until_ns)
            continue;
        EXPECT(freshet_put(cache, &first, sizeof first, &n, sizeof n, NULL, NULL) >= 0);
        EXPECT(freshet_put(cache, &last, sizeof last, &n, sizeof n, NULL, NULL) >= 0);
        EXPECT_EQ(freshet_flush(cache, 10000), FRESHET_OK);
    }
    return NULL;
}

TEST(many_at_once_are_of_one_moment_at_every_level)
{
    freshet *cache = opened(64u << 20);
    struct many *many = many_make();
    uint8_t *large = calloc(1, 30000);
    int64_t until_ns;
    pthread_t thread;

    for (uint32_t i = 1; i < KEYS - 1; i++) /* copying them takes a while */
        EXPECT(freshet_put(cache, &i, sizeof i, large, 30000, NULL, NULL) >= 0);
    EXPECT_EQ(freshet_flush(cache, 10000), FRESHET_OK);
    EXPECT_EQ(pthread_create(&thread, NULL, count_on, cache), 0);
    until_ns = test_now_ns() + 50000000000;
    for (int level = FRESHET_READ_BOUNDED; level <= FRESHET_READ_LATEST; level++) {
        freshet_read_options options = FRESHET_INIT(freshet_read_options);
        unsigned both = 0;

        options.level = (freshet_read_level)level;
        while (both < 100) { /* at times one of the two is just being written */
            uint32_t first, last;

            EXPECT(test_now_ns() < until_ns);
            rounds++;
            EXPECT_EQ(freshet_get_many(cache, many->items, KEYS, &options), FRESHET_OK);
            if (many->items[0].result != FRESHET_OK || many->items[KEYS - 1].result != FRESHET_OK)
                continue;
            memcpy(&first, many->bufs[0].data, sizeof first);
            memcpy(&last, many->bufs[KEYS - 1].data, sizeof last);
            EXPECT(first >= last); /* the last was younger only after the first was void */
            both++;
        }
    }
    stop_counting = true;
    pthread_join(thread, NULL);
    free(large);
    many_free(many);
    freshet_close(cache);
}

/* ---- in place ---- */

struct lent {
    uint8_t *bytes;
    size_t size, count;
    unsigned calls;
    freshet_source source;
};

static void take(const freshet_piece *pieces, size_t count, const freshet_answer *answer, void *arg)
{
    struct lent *lent = arg;

    lent->calls++;
    lent->size = 0;
    lent->count = count;
    lent->source = answer->source;
    for (size_t i = 0; i < count; i++) {
        memcpy(lent->bytes + lent->size, pieces[i].data, pieces[i].size);
        lent->size += pieces[i].size;
    }
}

TEST(what_is_lent_is_what_would_be_copied)
{
    freshet *cache = opened(64u << 20);
    struct lent lent = {.bytes = malloc(1u << 20)};

    for (uint32_t i = 0; i < KEYS; i++)
        EXPECT(put_nth(cache, i) >= 0);
    EXPECT_EQ(freshet_flush(cache, 10000), FRESHET_OK);
    for (uint32_t i = 0; i < KEYS; i++) {
        freshet_buf buf = {0};
        freshet_result result = freshet_get(cache, &i, sizeof i, NULL, &buf, NULL);

        lent.calls = 0;
        EXPECT_EQ(freshet_view(cache, &i, sizeof i, NULL, take, &lent), result);
        EXPECT_EQ(lent.calls, result == FRESHET_OK);
        if (result == FRESHET_OK) {
            EXPECT(lent.size == buf.size && (buf.size == 0 || memcmp(lent.bytes, buf.data, buf.size) == 0));
            EXPECT(lent.source == FRESHET_FROM_TIER && (lent.count > 1) >= (buf.size > 4096));
        }
        freshet_buf_free(&buf);
    }
    EXPECT_EQ(freshet_put(cache, "empty", 5, "", 0, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_flush(cache, 10000), FRESHET_OK);
    for (int level = FRESHET_READ_BOUNDED; level <= FRESHET_READ_LATEST; level++) {
        freshet_read_options options = FRESHET_INIT(freshet_read_options);

        options.level = (freshet_read_level)level;
        EXPECT_EQ(freshet_view(cache, "empty", 5, &options, take, &lent), FRESHET_OK);
        EXPECT_EQ(lent.count, 0);
    }
    EXPECT_EQ(freshet_view(cache, "k", 1, NULL, NULL, NULL), FRESHET_EINVAL);
    free(lent.bytes);
    freshet_close(cache);
}

struct slow {
    freshet *cache;
    uint8_t *before;
    size_t size;
    bool same;
};

/* While it is lent the tier is written over many times; what was lent stays. */
static void churn_meanwhile(const freshet_piece *pieces, size_t count, const freshet_answer *answer, void *arg)
{
    struct slow *slow = arg;
    static uint8_t other[3000];
    size_t at = 0;

    (void)answer;
    for (uint32_t i = 0; i < 3000; i++)
        (void)freshet_put(slow->cache, &i, sizeof i, other, sizeof other, NULL, NULL);
    (void)freshet_flush(slow->cache, 20000);
    slow->same = true;
    for (size_t i = 0; i < count; i++) {
        slow->same &= memcmp(pieces[i].data, slow->before + at, pieces[i].size) == 0;
        at += pieces[i].size;
    }
    slow->same &= at == slow->size;
}

TEST(what_is_lent_stays_as_it_is_however_much_is_written_meanwhile)
{
    freshet *cache = opened(2u << 20);
    struct slow slow = {.cache = cache, .size = 100000};

    slow.before = malloc(slow.size);
    for (size_t i = 0; i < slow.size; i++)
        slow.before[i] = (uint8_t)(i * 7 + i / 251);
    EXPECT_EQ(freshet_put(cache, "lent", 4, slow.before, slow.size, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_flush(cache, 10000), FRESHET_OK);
    EXPECT_EQ(freshet_view(cache, "lent", 4, NULL, churn_meanwhile, &slow), FRESHET_OK);
    EXPECT(slow.same);
    free(slow.before);
    freshet_close(cache);
}
