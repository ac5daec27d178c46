/*
 * local_test.c - the tier alone, without any Redis: a complete cache of one host.
 */
#include <hosts.h>
#include <test.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Open with the given options; the result. */
static freshet_result open_with(freshet **ret_cache, const char *dir, uint64_t tier_size, uint32_t value_max)
{
    freshet_options options = FRESHET_INIT(freshet_options);

    options.dir = dir;
    options.tier_size = tier_size;
    options.value_max = value_max;
    options.deadline_ms = 10000;
    return freshet_open(ret_cache, &options);
}

static freshet_stats stats_of(freshet *cache)
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);

    EXPECT_EQ(freshet_flush(cache, 10000), FRESHET_OK);
    EXPECT_EQ(freshet_stat(cache, &stats), FRESHET_OK);
    return stats;
}

/* Bytes that follow from a number, so that a value found under a wrong key shows. */
static void pattern(uint8_t *bytes, size_t size, uint64_t seed)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = i % 8 == 0 ? (uint8_t)test_random(&seed) : (uint8_t)(bytes[i - 1] * 31 + 7);
}

TEST(what_one_process_puts_another_gets)
{
    const char *dir = fresh_dir();
    freshet *cache;

    IN_CHILD({
        freshet *own = host_solo(dir, 0);

        EXPECT_EQ(host_put(own, "k", "value"), FRESHET_OK);
        freshet_close(own);
    });
    cache = host_solo(dir, 0);
    EXPECT(host_gets(cache, "k", "value"));
    EXPECT_EQ(host_put(cache, "k", "newer"), FRESHET_OK);
    IN_CHILD({
        freshet *own = host_solo(dir, 0);

        EXPECT(host_gets(own, "k", "newer"));
        EXPECT_EQ(host_invalidate(own, "k"), FRESHET_OK);
        freshet_close(own);
    });
    EXPECT_EQ(host_get(cache, "k", NULL, 0), FRESHET_MISS);
    freshet_close(cache);
}

TEST(a_key_has_1_byte_to_64_KiB_and_any_bytes)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    const size_t sizes[] = {1, 2, 15, 16, 17, 511, 512, 4079, 4080, 4096, 65535, 65536};
    uint8_t *key = malloc(65537);
    freshet_buf buf = {0};

    EXPECT(key != NULL);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        pattern(key, sizes[i], i);
        EXPECT_EQ(freshet_put(cache, key, sizes[i], &sizes[i], sizeof sizes[i], NULL, NULL), FRESHET_OK);
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        pattern(key, sizes[i], i);
        EXPECT_EQ(freshet_get(cache, key, sizes[i], NULL, &buf, NULL), FRESHET_OK);
        EXPECT(buf.size == sizeof sizes[i] && memcmp(buf.data, &sizes[i], buf.size) == 0);
        key[sizes[i] - 1] ^= 1;
        EXPECT_EQ(freshet_get(cache, key, sizes[i], NULL, &buf, NULL), FRESHET_MISS);
    }
    EXPECT_EQ(freshet_put(cache, "\0", 1, "zero", 4, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_put(cache, "\0\0", 2, "two", 3, NULL, NULL), FRESHET_OK);
    EXPECT(freshet_get(cache, "\0", 1, NULL, &buf, NULL) == FRESHET_OK && buf.size == 4);
    EXPECT_EQ(freshet_put(cache, key, 65537, "x", 1, NULL, NULL), FRESHET_ETOOBIG);
    EXPECT(freshet_error()[0] != '\0');
    EXPECT_EQ(freshet_get(cache, key, 65537, NULL, &buf, NULL), FRESHET_ETOOBIG);
    EXPECT_EQ(freshet_put(cache, key, 0, "x", 1, NULL, NULL), FRESHET_EINVAL);
    EXPECT_EQ(freshet_get(cache, key, 0, NULL, &buf, NULL), FRESHET_EINVAL);
    EXPECT_EQ(freshet_invalidate(cache, NULL, 3, NULL, NULL), FRESHET_EINVAL);
    free(key);
    freshet_buf_free(&buf);
    freshet_close(cache);
}

TEST(a_value_has_0_bytes_to_its_limit)
{
    const size_t most = 16u << 20;
    const size_t sizes[] = {0, 1, 3900, 3983, 3984, 3985, 4080, 4096, 8160, 100000, most - 1, most};
    freshet *cache;
    uint8_t *value = malloc(most + 1);
    freshet_buf buf = {0};
    char key[16];

    EXPECT(value && open_with(&cache, fresh_dir(), 96u << 20, 0) == FRESHET_OK);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(key, sizeof key, "k%zu", i);
        pattern(value, sizes[i], i);
        EXPECT_EQ(freshet_put(cache, key, strlen(key), value, sizes[i], NULL, NULL), FRESHET_OK);
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(key, sizeof key, "k%zu", i);
        pattern(value, sizes[i], i);
        EXPECT_EQ(freshet_get(cache, key, strlen(key), NULL, &buf, NULL), FRESHET_OK);
        EXPECT(buf.size == sizes[i] && (buf.size == 0 || memcmp(buf.data, value, buf.size) == 0));
    }
    EXPECT_EQ(freshet_put(cache, "k", 1, value, most + 1, NULL, NULL), FRESHET_ETOOBIG);
    EXPECT(strstr(freshet_error(), "value_max") != NULL);
    for (size_t size = 70000; size > 10; size -= 9999) { /* a shorter one leaves nothing of a longer one behind */
        pattern(value, size, size);
        EXPECT_EQ(freshet_put(cache, "same", 4, value, size, NULL, NULL), FRESHET_OK);
        EXPECT(freshet_get(cache, "same", 4, NULL, &buf, NULL) == FRESHET_OK && buf.size == size);
        EXPECT(memcmp(buf.data, value, size) == 0);
    }
    free(value);
    freshet_buf_free(&buf);
    freshet_close(cache);
}

TEST(an_entry_expires_after_its_ttl)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    int64_t put_ns = test_now_ns();

    options.ttl_ms = 300;
    EXPECT_EQ(freshet_put(cache, "short", 5, "x", 1, &options, NULL), FRESHET_OK);
    EXPECT_EQ(host_put(cache, "long", "x"), FRESHET_OK);
    if (freshet_get(cache, "short", 5, NULL, NULL, &answer) == FRESHET_OK)
        EXPECT(answer.ttl_ms >= 0 && answer.ttl_ms <= 300);
    else
        EXPECT(test_now_ns() - put_ns >= 298 * 1000000LL);
    EXPECT(test_until(host_get(cache, "short", NULL, 0) == FRESHET_MISS, 5000));
    EXPECT(test_now_ns() - put_ns >= 298 * 1000000LL); /* 2 ms too early at most, never too late */
    EXPECT_EQ(freshet_get(cache, "long", 4, NULL, NULL, &answer), FRESHET_OK);
    EXPECT_EQ(answer.ttl_ms, -1);
    freshet_close(cache);
}

static freshet_result absent_loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    (void)request, (void)value;
    ++*(int *)arg;
    return FRESHET_ABSENT;
}

static freshet_result failing_loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    (void)request, (void)value, (void)arg;
    return FRESHET_EIO;
}

TEST(that_there_is_no_such_thing_is_an_entry_too)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_buf buf = {0};
    int calls = 0;

    EXPECT_EQ(freshet_put_absent(cache, "gone", 4, NULL, NULL), FRESHET_OK);
    EXPECT(freshet_get(cache, "gone", 4, NULL, &buf, NULL) == FRESHET_ABSENT && buf.size == 0);
    EXPECT_EQ(freshet_load(cache, "no row", 6, NULL, absent_loader, &calls, &buf, NULL), FRESHET_ABSENT);
    EXPECT_EQ(freshet_flush(cache, 5000), FRESHET_OK);
    EXPECT_EQ(freshet_load(cache, "no row", 6, NULL, absent_loader, &calls, &buf, NULL), FRESHET_ABSENT);
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(host_put(cache, "gone", "back"), FRESHET_OK);
    EXPECT(host_gets(cache, "gone", "back"));
    EXPECT_EQ(freshet_load(cache, "bad", 3, NULL, failing_loader, NULL, &buf, NULL), FRESHET_ELOAD);
    EXPECT(strstr(freshet_error(), "loader") != NULL);
    EXPECT_EQ(host_get(cache, "bad", NULL, 0), FRESHET_MISS);
    freshet_buf_free(&buf);
    freshet_close(cache);
}

TEST(every_answer_tells_where_it_came_from)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    freshet_change change = FRESHET_INIT(freshet_change);
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    freshet_buf buf = {0};

    EXPECT_EQ(freshet_get(cache, "k", 1, NULL, &buf, &answer), FRESHET_MISS);
    EXPECT_EQ(answer.source, FRESHET_FROM_NOWHERE);
    EXPECT_EQ(freshet_load(cache, "k", 1, NULL, host_loader, "row", &buf, &answer), FRESHET_OK);
    EXPECT_EQ(answer.source, FRESHET_FROM_LOADER);
    EXPECT_EQ(freshet_flush(cache, 5000), FRESHET_OK);
    EXPECT_EQ(freshet_load(cache, "k", 1, NULL, failing_loader, NULL, &buf, &answer), FRESHET_OK);
    EXPECT_EQ(answer.source, FRESHET_FROM_TIER);
    options.source_version = 7;
    EXPECT_EQ(freshet_put(cache, "v", 1, "x", 1, &options, &change), FRESHET_OK);
    EXPECT(change.position > 0 && change.epoch == 0 && change.version > 0);
    EXPECT_EQ(freshet_get(cache, "v", 1, NULL, &buf, &answer), FRESHET_OK);
    EXPECT(answer.source_version == 7 && answer.version == change.version && answer.position == change.position);
    EXPECT(!answer.stale && answer.age_bound_ms >= 0 && answer.judged_at_ns > 0);
    options.source_version = 6;
    EXPECT_EQ(freshet_put(cache, "v", 1, "older", 5, &options, NULL), FRESHET_OUTDATED);
    EXPECT(host_gets(cache, "v", "x"));
    EXPECT_EQ(freshet_clear(cache, NULL, NULL), FRESHET_OK); /* a restored database counts anew */
    EXPECT_EQ(freshet_put(cache, "v", 1, "restored", 8, &options, NULL), FRESHET_OK);
    EXPECT(host_gets(cache, "v", "restored"));
    freshet_buf_free(&buf);
    freshet_close(cache);
}

/* Who looks before he asks in earnest (a binding that may not wait under its interpreter's lock) is one reader. */
TEST(a_look_before_the_call_in_earnest_counts_its_hit_and_not_its_miss)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_read_options look = FRESHET_INIT(freshet_read_options);
    freshet_stats stats;

    look.tier_only = true;
    EXPECT_EQ(freshet_get(cache, "k", 1, &look, NULL, NULL), FRESHET_MISS);
    look.probe = true;
    EXPECT_EQ(freshet_get(cache, "k", 1, &look, NULL, NULL), FRESHET_MISS);
    look.tier_only = false; /* then it is the call in earnest */
    EXPECT_EQ(freshet_get(cache, "k", 1, &look, NULL, NULL), FRESHET_MISS);
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    look.tier_only = true;
    EXPECT_EQ(freshet_get(cache, "k", 1, &look, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_flush(cache, 5000), FRESHET_OK);
    stats = host_stats(cache);
    EXPECT(stats.misses == 2 && stats.hits == 1);
    freshet_close(cache);
}

TEST(many_invalidations_and_a_clear)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_key keys[3000];
    char names[3000][12];

    for (int i = 0; i < 3000; i++) {
        snprintf(names[i], sizeof names[i], "k%d", i);
        keys[i] = (freshet_key){names[i], strlen(names[i])};
        if (i % 10 == 0)
            EXPECT_EQ(host_put(cache, names[i], "x"), FRESHET_OK);
    }
    EXPECT_EQ(host_put(cache, "stays", "x"), FRESHET_OK);
    EXPECT_EQ(freshet_invalidate_many(cache, keys, 3000, NULL, NULL), FRESHET_OK);
    for (int i = 0; i < 3000; i += 10)
        EXPECT_EQ(host_get(cache, names[i], NULL, 0), FRESHET_MISS);
    EXPECT_EQ(host_put(cache, "k0", "again"), FRESHET_OK);
    EXPECT(host_gets(cache, "k0", "again"));
    EXPECT_EQ(freshet_clear(cache, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(host_get(cache, "k0", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(host_get(cache, "stays", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(host_put(cache, "k0", "after"), FRESHET_OK);
    EXPECT(host_gets(cache, "k0", "after"));
    EXPECT_EQ(freshet_invalidate_many(cache, keys, 0, NULL, NULL), FRESHET_EINVAL);
    freshet_close(cache);
}

/* An options structure of an older program ends early, one of a newer program has more than we know. */
TEST(options_of_an_older_or_newer_program_are_understood)
{
    struct {
        freshet_read_options known;
        uint64_t unknown[20];
    } newer = {.known = FRESHET_INIT(freshet_read_options), .unknown = {1, 2, 3}};
    struct {
        size_t struct_size;
        uint32_t deadline_ms;
        char beyond[64];
    } older = {.struct_size = offsetof(freshet_read_options, bound_ms), .deadline_ms = 100};
    freshet_options short_options = {.struct_size = offsetof(freshet_options, value_max)};
    freshet_answer answer = {.struct_size = offsetof(freshet_answer, writer), .source_version = 0xabab};
    freshet_read_options wrong = {.struct_size = 3};
    freshet_answer no_size = {0};
    freshet *cache;

    memset(older.beyond, 0xff, sizeof older.beyond);
    newer.known.struct_size = sizeof newer;
    short_options.dir = fresh_dir();
    short_options.value_max = UINT32_MAX; /* lies beyond its size: not to be read */
    EXPECT_EQ(freshet_open(&cache, &short_options), FRESHET_OK);
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    EXPECT_EQ(freshet_get(cache, "k", 1, &newer.known, NULL, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_get(cache, "k", 1, (freshet_read_options *)&older, NULL, &answer), FRESHET_OK);
    EXPECT(answer.source == FRESHET_FROM_TIER && answer.source_version == 0xabab); /* beyond its size: not written */
    EXPECT_EQ(freshet_get(cache, "k", 1, &wrong, NULL, NULL), FRESHET_EINVAL);
    EXPECT(strstr(freshet_error(), "FRESHET_INIT") != NULL);
    EXPECT_EQ(freshet_get(cache, "k", 1, NULL, NULL, &no_size), FRESHET_EINVAL);
    freshet_close(cache);
}

static freshet_result load_zeros(freshet_load_request *request, freshet_buf *value, void *arg)
{
    static const uint8_t zeros[300000];
    const uint32_t *size = arg;

    (void)request;
    EXPECT(*size <= sizeof zeros);
    return freshet_buf_set(value, zeros, *size);
}

/* In a tier full of others half a tier's worth of keys is read over and over, and of fifty requests one is for a key of
 * which nobody asks again: how many of the second half hit, in percent.  Each fill is alone in its batch, but not those
 * of the others, of which some come into the main log so. */
static unsigned wanted_and_once(uint32_t size)
{
    enum { TIER = 64 << 20 };
    uint32_t wanted = TIER / 2 / size, hits = 0, once = 0, requests = 50 * (TIER / size);
    freshet_buf buf = {0};
    uint64_t random = size;
    freshet *cache;

    EXPECT_EQ(open_with(&cache, fresh_dir(), TIER, 0), FRESHET_OK);
    for (uint32_t i = 0; i < 2 * TIER / size + requests; i++) {
        bool others = i < 2 * TIER / size || test_random(&random) % 50 == 0;
        uint32_t key = others ? wanted + once++ : (uint32_t)(test_random(&random) % wanted);
        freshet_answer answer = FRESHET_INIT(freshet_answer);

        EXPECT_EQ(freshet_load(cache, &key, sizeof key, NULL, load_zeros, &size, &buf, &answer), FRESHET_OK);
        hits += i >= 2 * TIER / size + requests / 2 && answer.source == FRESHET_FROM_TIER;
        if (answer.source != FRESHET_FROM_TIER && (i >= 2 * TIER / size || i % 64 == 0))
            EXPECT_EQ(freshet_flush(cache, 10000), FRESHET_OK);
    }
    EXPECT(stats_of(cache).evictions > 0);
    freshet_buf_free(&buf);
    freshet_close(cache);
    return hits * 100 / (requests - requests / 2);
}

TEST(of_large_values_too_the_wanted_stay)
{
    EXPECT(wanted_and_once(56000) >= 90); /* with LRU 98; 26 when everything went that stood at the tails */
}

TEST(a_full_tier_is_never_an_error_and_never_above_its_size)
{
    freshet *cache;
    uint8_t value[3000];
    freshet_buf buf = {0};
    char key[24];
    unsigned found = 0;
    struct stat file;

    EXPECT_EQ(open_with(&cache, fresh_dir(), 1u << 20, 0), FRESHET_OK);
    for (unsigned i = 0; i < 3000; i++) { /* 9 MB */
        snprintf(key, sizeof key, "key %u", i);
        pattern(value, sizeof value, i);
        EXPECT_EQ(freshet_put(cache, key, strlen(key), value, sizeof value, NULL, NULL), FRESHET_OK);
        if (i % 100 == 0)
            EXPECT(stats_of(cache).bytes <= 1u << 20);
    }
    for (unsigned i = 0; i < 3000; i++) {
        freshet_result result;

        snprintf(key, sizeof key, "key %u", i);
        pattern(value, sizeof value, i);
        result = freshet_get(cache, key, strlen(key), NULL, &buf, NULL);
        EXPECT(result == FRESHET_OK || result == FRESHET_MISS);
        found += result == FRESHET_OK;
        EXPECT(result != FRESHET_OK || (buf.size == sizeof value && memcmp(buf.data, value, sizeof value) == 0));
    }
    EXPECT(found > 20);
    EXPECT(stats_of(cache).evictions > 0);
    (void)file;
    for (unsigned i = 0; i < 20; i++) { /* each larger than the whole tier: answered well, simply not kept */
        uint8_t *large = calloc(1, 2u << 20);

        EXPECT(large && freshet_put(cache, "large", 5, large, 2u << 20, NULL, NULL) == FRESHET_OK);
        free(large);
        EXPECT(host_get(cache, "large", NULL, 0) >= 0);
    }
    EXPECT_EQ(host_put(cache, "small", "still works"), FRESHET_OK);
    EXPECT(test_until(host_put(cache, "small", "still works") == FRESHET_OK && host_gets(cache, "small", "still works"),
                      5000));
    freshet_buf_free(&buf);
    freshet_close(cache);
}

TEST(several_caches_in_one_process_do_not_mix)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *caches[5];
    char value[16];

    for (int i = 0; i < 5; i++) {
        snprintf(value, sizeof value, "cache%d", i);
        options.name = value;
        options.dir = fresh_dir();
        options.tier_size = (uint64_t)(i + 1) << 20;
        EXPECT_EQ(freshet_open(&caches[i], &options), FRESHET_OK);
        EXPECT_EQ(host_put(caches[i], "k", value), FRESHET_OK);
    }
    for (int i = 0; i < 5; i++) {
        snprintf(value, sizeof value, "cache%d", i);
        EXPECT(host_gets(caches[i], "k", value));
    }
    EXPECT_EQ(freshet_clear(caches[2], NULL, NULL), FRESHET_OK);
    EXPECT_EQ(host_get(caches[2], "k", NULL, 0), FRESHET_MISS);
    EXPECT(host_gets(caches[3], "k", "cache3"));
    for (int i = 0; i < 5; i++)
        freshet_close(caches[i]);
}

TEST(one_directory_opened_twice_is_one_tier)
{
    const char *dir = fresh_dir();
    freshet *one = host_solo(dir, 0);
    freshet *two = host_solo(dir, 0);

    EXPECT_EQ(host_put(one, "k", "v"), FRESHET_OK);
    EXPECT(host_gets(two, "k", "v"));
    EXPECT_EQ(host_invalidate(two, "k"), FRESHET_OK);
    EXPECT_EQ(host_get(one, "k", NULL, 0), FRESHET_MISS);
    freshet_close(one);
    EXPECT_EQ(host_put(two, "k", "w"), FRESHET_OK);
    one = host_solo(dir, 0);
    EXPECT(host_gets(one, "k", "w"));
    freshet_close(two);
    EXPECT(host_gets(one, "k", "w"));
    freshet_close(one);
    one = host_solo(dir, 0); /* entries stay for whoever opens it next */
    EXPECT(host_gets(one, "k", "w"));
    freshet_close(one);
}

TEST(another_shape_is_refused_while_in_use_and_set_aside_afterwards)
{
    const char *dir = fresh_dir();
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache, *other = (freshet *)&cache;

    options.dir = dir;
    options.tier_size = 4u << 20;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    options.tier_size = 8u << 20;
    options.deadline_ms = 200;
    IN_CHILD({
        EXPECT_EQ(freshet_open(&other, &options), FRESHET_EBUSY);
        EXPECT(other == (freshet *)&cache && strlen(freshet_error()) > 10); /* left as it was */
        options.tier_size = 4u << 20;
        options.name = "another";
        EXPECT_EQ(freshet_open(&other, &options), FRESHET_EBUSY);
    });
    EXPECT_EQ(freshet_open(&other, &options), FRESHET_EBUSY);
    freshet_close(cache);
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    EXPECT_EQ(host_get(cache, "k", NULL, 0), FRESHET_MISS); /* a new one was begun */
    EXPECT_EQ(host_put(cache, "k", "w"), FRESHET_OK);
    freshet_close(cache);
    options.tier_size = 0; /* whatever it has */
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    EXPECT(host_gets(cache, "k", "w"));
    freshet_close(cache);
}

/* Overwrite or cut a file of the tier while nobody has it open. */
static void damage(const char *dir, const char *prefix, off_t at, off_t cut)
{
    char command[512];
    int fd;
    FILE *list;
    char path[512] = "";

    snprintf(command, sizeof command, "ls %s/%s* | grep -v lock | head -n 1", dir, prefix);
    list = popen(command, "r");
    EXPECT(list && fgets(path, sizeof path, list));
    pclose(list);
    path[strcspn(path, "\n")] = '\0';
    fd = open(path, O_RDWR | O_CLOEXEC);
    EXPECT(fd >= 0);
    EXPECT(cut >= 0 ? ftruncate(fd, cut) == 0 : pwrite(fd, "garbage!garbage!", 16, at) == 16);
    close(fd);
}

TEST(damaged_files_are_set_aside_never_misread)
{
    const struct {
        const char *prefix;
        off_t at, cut;
    } damages[] = {{"control", 0, -1}, {"control", 16, -1}, {"control", 0, 0}, {"control", 0, 100},
                   {"map", 0, 0},      {"map", 0, 100},     {"map", 16, -1}};

    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        const char *dir = fresh_dir();
        freshet *cache = host_solo(dir, 0);

        EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
        freshet_close(cache);
        damage(dir, damages[i].prefix, damages[i].at, damages[i].cut);
        IN_CHILD({
            freshet *own = host_solo(dir, 0);
            freshet_result result = host_get(own, "k", NULL, 0);

            EXPECT(result == FRESHET_MISS || host_gets(own, "k", "v"));
            EXPECT_EQ(host_put(own, "k", "w"), FRESHET_OK);
            EXPECT(host_gets(own, "k", "w"));
            freshet_close(own);
        });
    }
}

/* ---- threads ---- */

#define THREADS 8
#define KEYS    64

struct worker {
    freshet *cache;
    uint64_t seed;
    unsigned rounds;
};

/* A value names its key, so that a mix-up shows. */
static void *work(void *arg)
{
    struct worker *worker = arg;
    freshet_buf buf = {0};
    char key[16], value[64], got[64];

    for (unsigned i = 0; i < worker->rounds; i++) {
        uint64_t dice = test_random(&worker->seed);

        snprintf(key, sizeof key, "k%u", (unsigned)(dice % KEYS));
        snprintf(value, sizeof value, "%s=%llu", key, (unsigned long long)dice);
        if (dice >> 60 == 0)
            EXPECT(freshet_put(worker->cache, key, strlen(key), value, strlen(value), NULL, NULL) == FRESHET_OK);
        else if (dice >> 60 == 1)
            EXPECT(host_invalidate(worker->cache, key) == FRESHET_OK);
        else if (dice >> 60 <= 4)
            EXPECT(freshet_load(worker->cache, key, strlen(key), NULL, host_loader, value, &buf, NULL) == FRESHET_OK);
        else
            EXPECT(freshet_get(worker->cache, key, strlen(key), NULL, &buf, NULL) >= 0);
        if (buf.size) {
            snprintf(got, sizeof got, "%.*s", (int)buf.size, (char *)buf.data);
            EXPECT(strncmp(got, key, strlen(key)) == 0 && got[strlen(key)] == '=');
        }
        buf.size = 0;
    }
    freshet_buf_free(&buf);
    return NULL;
}

TEST(eight_threads_share_one_cache)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    struct worker workers[THREADS];
    pthread_t threads[THREADS];

    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){cache, i, 5000};
        EXPECT(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    freshet_close(cache);
}

struct counted {
    _Atomic int calls;
};

static freshet_result counting_loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    struct counted *counted = arg;
    int64_t end = test_now_ns() + 50 * 1000000;

    (void)request;
    counted->calls++;
    while (test_now_ns() < end)
        test_pause();
    return freshet_buf_set(value, "row", 3);
}

struct joiner {
    freshet *cache;
    struct counted *counted;
};

static void *join_in(void *arg)
{
    struct joiner *joiner = arg;
    freshet_buf buf = {0};

    EXPECT(freshet_load(joiner->cache, "k", 1, NULL, counting_loader, joiner->counted, &buf, NULL) == FRESHET_OK);
    EXPECT(buf.size == 3);
    freshet_buf_free(&buf);
    return NULL;
}

TEST(of_many_threads_that_miss_one_loads)
{
    struct counted counted = {0};
    struct joiner joiner = {host_solo(fresh_dir(), 0), &counted};
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++)
        EXPECT(pthread_create(&threads[i], NULL, join_in, &joiner) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    EXPECT_EQ(counted.calls, 1);
    freshet_close(joiner.cache);
}

static bool count_entry(const freshet_entry *entry, void *arg)
{
    unsigned *counts = arg;

    EXPECT(entry->key_size > 0 && entry->servable == (entry->why[0] == '\0'));
    counts[entry->servable]++;
    return true;
}

TEST(each_shows_every_record_and_why_one_is_not_served)
{
    freshet *cache = host_solo(fresh_dir(), 0);
    unsigned counts[2] = {0, 0};

    for (int i = 0; i < 20; i++) {
        char key[8];

        snprintf(key, sizeof key, "k%d", i);
        EXPECT_EQ(host_put(cache, key, "v"), FRESHET_OK);
    }
    EXPECT_EQ(freshet_each(cache, count_entry, counts), FRESHET_OK);
    EXPECT_EQ(counts[1], 20);
    EXPECT_EQ(stats_of(cache).entries, 20);
    EXPECT_EQ(host_invalidate(cache, "k3"), FRESHET_OK);
    counts[0] = counts[1] = 0;
    EXPECT_EQ(freshet_each(cache, count_entry, counts), FRESHET_OK);
    EXPECT(counts[1] == 19 && counts[0] <= 1); /* housekeeping may have taken it already */
    freshet_close(cache);
}

TEST(the_default_directory_is_made_private)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache;
    char name[64];
    struct stat stat_;

    snprintf(name, sizeof name, "test-%d", (int)getpid());
    options.name = name;
    options.tier_size = 1u << 20;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    EXPECT(strncmp(freshet_dir(cache), "/dev/shm/freshet-", 17) == 0);
    EXPECT(stat(freshet_dir(cache), &stat_) == 0 && (stat_.st_mode & 07777) == 0700);
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    {
        char command[256];

        snprintf(command, sizeof command, "rm -r '%s'", freshet_dir(cache));
        freshet_close(cache);
        EXPECT(system(command) == 0);
    }
}
