/*
 * torture.c - rows, values that prove themselves, workers (torture.h).
 */
#include "torture.h"

#include <freshet_fleet.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define BOUND_MS 100

struct head { /* of a value */
    uint64_t sum; /* of all that follows */
    uint64_t row, version, size;
};

static uint64_t sum_of(const char *bytes, size_t size)
{
    uint64_t sum = 0xcbf29ce484222325u;

    for (size_t i = 0; i < size; i++)
        sum = (sum ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    return sum;
}

size_t torture_value(unsigned row, uint64_t version, char *bytes)
{
    uint64_t state = row * 1000003u + version, dice = test_random(&state);
    size_t size = sizeof(struct head) + (dice % 50 == 0 ? dice % (TORTURE_LARGEST - 100) : dice % 3000);
    struct head head = {.row = row, .version = version, .size = size};

    memcpy(bytes, &head, sizeof head);
    for (size_t at = sizeof head; at < size; at++)
        bytes[at] = (char)(at * 31 + version);
    head.sum = sum_of(bytes + sizeof head.sum, size - sizeof head.sum);
    memcpy(bytes, &head.sum, sizeof head.sum);
    return size;
}

uint64_t torture_version(unsigned row, const void *bytes, size_t size)
{
    struct head head;

    if (size < sizeof head)
        return 0;
    memcpy(&head, bytes, sizeof head);
    if (head.row != row || head.size != size ||
        head.sum != sum_of((const char *)bytes + sizeof head.sum, size - sizeof head.sum))
        return 0;
    return head.version;
}

size_t torture_key(unsigned row, char key[16])
{
    return (size_t)snprintf(key, 16, "row:%u", row);
}

struct torture *torture_open(const char *dir, struct redis *redis, uint64_t tier_size, unsigned workers)
{
    struct torture *torture = mmap(NULL, sizeof *torture, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    EXPECT(torture != MAP_FAILED && workers <= TORTURE_WORKERS);
    torture->dir = dir;
    torture->redis = redis;
    torture->tier_size = tier_size;
    torture->workers = workers;
    return torture;
}

/* ---- calls ---- */

static freshet_result count(struct torture *torture, freshet_result result)
{
    if (result < 0)
        torture->failures[-result]++;
    return result;
}

freshet *torture_join(struct torture *torture)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet_join_options joining = FRESHET_INIT(freshet_join_options);
    freshet_result result = FRESHET_OK;
    freshet *cache = NULL;

    options.dir = torture->dir;
    options.tier_size = torture->tier_size;
    options.max_staleness_ms = BOUND_MS;
    options.deadline_ms = 3000;
    /* A sibling that was stopped in its open makes ours FRESHET_EBUSY at the deadline: that is no failure here. */
    EXPECT(test_until((result = freshet_open(&cache, &options)) != FRESHET_EBUSY, 30000));
    if (result != FRESHET_OK) {
        fprintf(stderr, "open: %s\n", freshet_error());
        EXPECT_EQ(result, FRESHET_OK);
    }
    torture->opens++;
    if (!torture->redis)
        return cache;
    joining.keyring = host_keyring();
    result = freshet_join(cache, torture->redis->url, &joining);
    if (result < 0) {
        fprintf(stderr, "join: %s\n", freshet_error());
        EXPECT_EQ(result, FRESHET_OK);
    }
    return cache;
}

struct loading {
    struct torture *torture;
    unsigned row;
};

static freshet_result loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    static _Thread_local char bytes[TORTURE_LARGEST];
    const struct loading *loading = arg;

    (void)request;
    loading->torture->loads++;
    return freshet_buf_set(value, bytes,
                           torture_value(loading->row, loading->torture->rows[loading->row] + 1, bytes));
}

_Thread_local bool torture_hit;

freshet_result torture_read(struct torture *torture, freshet *cache, unsigned row, bool load)
{
    static _Thread_local freshet_buf buf;
    struct loading loading = {torture, row};
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    uint64_t least = torture->told[row], version;
    freshet_result result;
    char key[16];
    size_t size = torture_key(row, key);

    if (load)
        result = freshet_load(cache, key, size, NULL, loader, &loading, &buf, &answer);
    else
        result = freshet_get(cache, key, size, NULL, &buf, &answer);
    count(torture, result);
    torture_hit = result == FRESHET_OK && answer.source == FRESHET_FROM_TIER;
    if (result != FRESHET_OK)
        return result;
    torture->answers++;
    torture->hits += torture_hit;
    version = torture_version(row, buf.data, buf.size);
    if (version == 0 || version < least + 1) { /* values count from 1 */
        if (!torture->quiet)
            fprintf(stderr, "row %u: version %llu of %zu bytes, at least %llu was told of\n", row,
                    (unsigned long long)version, buf.size, (unsigned long long)least + 1);
        torture->wrong++;
    }
    return result;
}

freshet_result torture_change(struct torture *torture, freshet *cache, unsigned row, bool put)
{
    static _Thread_local char bytes[TORTURE_LARGEST];
    uint64_t version = torture->rows[row] + 1;
    freshet_result result;
    char key[16];
    size_t size = torture_key(row, key);

    torture->rows[row] = version; /* committed */
    if (put)
        result = freshet_put(cache, key, size, bytes, torture_value(row, version + 1, bytes), NULL, NULL);
    else
        result = freshet_invalidate(cache, key, size, NULL, NULL);
    count(torture, result);
    if (result != FRESHET_OK && result != FRESHET_QUEUED)
        return result;
    if (result == FRESHET_OK)
        torture->told[row] = version;
    torture->changes++;
    return result;
}

static void guarded(struct torture *torture, freshet *cache, unsigned row)
{
    freshet_guard_options options = FRESHET_INIT(freshet_guard_options);
    freshet_guard *guard;
    freshet_key key;
    char name[16];

    key = (freshet_key){.data = name, .size = torture_key(row, name)};
    options.hold_ms = 200;
    if (count(torture, freshet_guard_begin(cache, &key, 1, &options, &guard)) != FRESHET_OK)
        return;
    torture->rows[row]++;
    if (count(torture, freshet_guard_end(guard, NULL, NULL)) == FRESHET_OK)
        torture->told[row] = torture->rows[row];
}

/* ---- workers ---- */

/* A row of its own. */
static unsigned own_row(const struct torture *torture, unsigned worker, uint64_t dice)
{
    return (unsigned)(dice % (TORTURE_ROWS / torture->workers)) * torture->workers + worker;
}

/* One thing of what a program does. */
static freshet *work_once(struct torture *torture, freshet *cache, unsigned worker, uint64_t dice)
{
    unsigned row = (unsigned)(dice >> 32) % TORTURE_ROWS, own = own_row(torture, worker, dice >> 32);
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    unsigned what = (unsigned)(dice % 1000);

    if (what < 600)
        (void)torture_read(torture, cache, row, true);
    else if (what < 800)
        (void)torture_read(torture, cache, row, false);
    else if (what < 970) /* a fleet's put may still be on its way when its killed caller's successor writes */
        (void)torture_change(torture, cache, own, !torture->redis && what < 900);
    else if (what < 980)
        guarded(torture, cache, own);
    else if (what < 985)
        (void)freshet_flush(cache, 100);
    else if (what < 990)
        (void)freshet_stat(cache, &stats);
    else if (what < 991)
        (void)freshet_clear(cache, NULL, NULL);
    else {
        freshet_close(cache);
        cache = torture_join(torture);
    }
    return cache;
}

_Noreturn void torture_work(struct torture *torture, unsigned worker, uint64_t seed)
{
    freshet *cache = torture_join(torture);

    while (!torture->stop)
        cache = work_once(torture, cache, worker, test_random(&seed));
    freshet_close(cache);
    test_child_done();
}

void torture_spawn(struct torture *torture, unsigned worker, uint64_t seed)
{
    pid_t pid = test_fork();

    if (pid == 0)
        torture_work(torture, worker, seed);
    torture->pids[worker] = pid;
}

void torture_end(struct torture *torture)
{
    for (unsigned i = 0; i < torture->workers; i++) {
        pid_t pid = torture->pids[i];

        if (pid > 0 && kill(pid, SIGKILL) == 0)
            while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                continue;
        torture->pids[i] = 0;
    }
}

/* ---- judgement ---- */

void torture_expect_sound(struct torture *torture)
{
    freshet *cache = torture_join(torture);
    unsigned filled = 0;
    freshet_stats stats;

    EXPECT_EQ(torture->wrong, 0);
    EXPECT(!torture->redis || test_until(host_proven(cache), 10000));
    for (unsigned row = 0; row < TORTURE_ROWS; row++) {
        /* Somebody was killed who guarded it. */
        EXPECT(test_until(torture_change(torture, cache, row, true) == FRESHET_OK, 10000));
        EXPECT(torture_read(torture, cache, row, true) == FRESHET_OK);
    }
    EXPECT_EQ(freshet_flush(cache, 10000), FRESHET_OK);
    for (unsigned row = 0; row < TORTURE_ROWS; row++)
        filled += torture_read(torture, cache, row, false) == FRESHET_OK;
    EXPECT(filled > TORTURE_ROWS / 2); /* what is put last is there */
    EXPECT_EQ(torture->wrong, 0);
    EXPECT(test_until((stats = host_stats(cache)).readers <= 2, 15000)); /* ours, and our writer's */
    EXPECT(stats.bytes <= stats.tier_size);
    EXPECT_EQ(stats.processes, 1);
    freshet_close(cache);
}

void torture_print(const struct torture *torture, const char *what)
{
    printf("     %s: answers %llu, from the tier %llu, loads %llu, changes %llu, opens %llu; failed calls", what,
           (unsigned long long)torture->answers, (unsigned long long)torture->hits, (unsigned long long)torture->loads,
           (unsigned long long)torture->changes, (unsigned long long)torture->opens);
    for (int i = 1; i < 32; i++)
        if (torture->failures[i])
            printf(" %s %llu", freshet_result_name((freshet_result)-i), (unsigned long long)torture->failures[i]);
    printf("\n");
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

uint64_t torture_quantile(uint64_t *numbers, size_t size, unsigned per_mille)
{
    if (size == 0)
        return 0;
    qsort(numbers, size, sizeof *numbers, compare);
    return numbers[(size - 1) * per_mille / 1000];
}
