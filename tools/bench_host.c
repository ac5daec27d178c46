/*
 * bench_host.c - where the measurements run: a private redis-server, hosts on it, and what they hold.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- the server ---- */

/* Become the server; its words go to a file, and it never outlives us. */
_Noreturn static void run_server(const struct bench *bench, pid_t parent)
{
    char log[300];
    int in = open("/dev/null", O_RDONLY), out;

    snprintf(log, sizeof log, "%s/redis.log", bench->dir);
    out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)setpgid(0, 0); /* a Ctrl-C is for us: the server ends when we are done with it */
    if (getppid() != parent || in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
        _exit(127);
    execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", bench->socket, "--unixsocketperm", "700",
           "--save", "", "--appendonly", "no", "--dir", bench->dir, "--daemonize", "no", "--maxmemory-policy",
           "noeviction", (char *)NULL);
    _exit(127);
}

static void pause_ms(long ms)
{
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    (void)nanosleep(&time, NULL);
}

bool bench_server_start(struct bench *bench)
{
    int64_t end = bench_wall_ns() + INT64_C(10000000000);
    pid_t parent = getpid();

    snprintf(bench->socket, sizeof bench->socket, "%s/redis.sock", bench->dir);
    snprintf(bench->url, sizeof bench->url, "unix://%s", bench->socket);
    if ((bench->server = fork()) == 0)
        run_server(bench, parent);
    while (bench->server > 0 && bench_wall_ns() < end && !tool_ended) {
        struct raw_redis *redis = raw_redis_open(bench->socket, 1000);

        if (redis) {
            raw_redis_close(redis);
            return true;
        }
        if (waitpid(bench->server, NULL, WNOHANG) == bench->server)
            bench->server = 0; /* it ended: most likely there is no such program */
        pause_ms(5);
    }
    bench_server_stop(bench);
    return false;
}

void bench_server_stop(struct bench *bench)
{
    if (bench->server > 0) {
        (void)kill(bench->server, SIGTERM);
        while (waitpid(bench->server, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    bench->server = 0;
    bench->socket[0] = bench->url[0] = '\0';
}

/* ---- hosts ---- */

freshet *bench_open(struct bench *bench, const char *host, uint64_t tier_size, unsigned how)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    char dir[320];
    freshet *cache = NULL;
    freshet_result result;

    snprintf(dir, sizeof dir, "%s/%s", bench->dir, host);
    options.name = "bench";
    options.dir = dir;
    options.tier_size = tier_size;
    options.deadline_ms = 10000; /* a busy machine is slow, not wrong */
    join.keyring = bench->keyring;
    if ((result = freshet_open(&cache, &options)) != FRESHET_OK) {
        bench_stop_result(bench, result, "cannot open a tier");
        return NULL;
    }
    if (how & BENCH_JOINED && (result = freshet_join(cache, bench->url, &join)) != FRESHET_OK) {
        bench_stop_result(bench, result, "cannot join");
        freshet_close(cache);
        return NULL;
    }
    return cache;
}

/* ---- records ---- */

void bench_key(uint64_t *seed, uint32_t i, char ret_key[BENCH_KEY])
{
    char text[BENCH_KEY + 1];

    snprintf(text, sizeof text, "user:%016llx:%010u", (unsigned long long)bench_random(seed), i);
    memcpy(ret_key, text, BENCH_KEY);
}

bool bench_records_make(struct bench_records *records, uint32_t count, uint32_t size, uint64_t seed)
{
    *records = (struct bench_records){calloc(count, sizeof *records->keys), count, size};
    for (uint32_t i = 0; records->keys && i < count; i++) /* in this order they arrive at random places of a tree */
        bench_key(&seed, i, records->keys[i]);
    return records->keys != NULL;
}

void bench_records_free(struct bench_records *records)
{
    free(records->keys);
    *records = (struct bench_records){0};
}

void bench_value(const struct bench_records *records, uint32_t i, unsigned char *ret_value)
{
    memset(ret_value, 'a' + (int)(i % 26), records->size);
    if (records->size >= sizeof i)
        memcpy(ret_value, &i, sizeof i);
}

/* One of the threads that load. */
struct loading {
    freshet *cache;
    const struct bench_records *records;
    const bool *there;
    uint32_t first, step;
    _Atomic int *result; /* the first failure */
};

/* The value of one record, where the loader finds it. */
struct supply {
    const unsigned char *value;
    uint32_t size;
};

static freshet_result supply_value(freshet_load_request *request, freshet_buf *value, void *arg)
{
    const struct supply *supply = arg;

    (void)request;
    return freshet_buf_set(value, supply->value, supply->size);
}

static void *load_some(void *arg)
{
    const struct loading *loading = arg;
    const struct bench_records *records = loading->records;
    unsigned char *value = malloc(records->size + sizeof(uint32_t));
    struct supply supply = {value, records->size};
    freshet_buf buf = {0};
    unsigned loaded = 0;

    for (uint32_t i = loading->first; value && i < records->count && !tool_ended; i += loading->step) {
        freshet_result result;
        int none = 0;

        if (loading->there[i])
            continue;
        bench_value(records, i, value);
        result = freshet_load(loading->cache, records->keys[i], BENCH_KEY, NULL, supply_value, &supply, &buf, NULL);
        if (result == FRESHET_OK && ++loaded % 64 == 0)
            (void)freshet_flush(loading->cache, 10000); /* keeps the writer's queue from dropping what is to be there */
        if (result != FRESHET_OK) {
            (void)atomic_compare_exchange_strong(loading->result, &none, (int)result);
            break;
        }
    }
    freshet_buf_free(&buf);
    free(value);
    return NULL;
}

static freshet_result load_once(freshet *cache, const struct bench_records *records, const bool *there)
{
    struct loading loadings[BENCH_THREADS];
    pthread_t threads[BENCH_THREADS];
    _Atomic int result = 0;
    unsigned started = 0;

    for (; started < BENCH_THREADS; started++) {
        loadings[started] = (struct loading){cache, records, there, started, BENCH_THREADS, &result};
        if (pthread_create(&threads[started], NULL, load_some, &loadings[started]) != 0) {
            result = FRESHET_ENOMEM;
            break;
        }
    }
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    if (result == FRESHET_OK)
        result = freshet_flush(cache, 10000);
    return (freshet_result)result;
}

/* Which of the records does the tier hold, with the right value? */
static uint32_t count_there(freshet *cache, const struct bench_records *records, bool *there)
{
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    freshet_buf buf = {0};
    uint32_t count = 0, number;

    options.tier_only = true;
    for (uint32_t i = 0; i < records->count; i++) {
        there[i] = freshet_get(cache, records->keys[i], BENCH_KEY, &options, &buf, NULL) == FRESHET_OK &&
                   buf.size == records->size;
        if (there[i] && records->size >= sizeof number) {
            memcpy(&number, buf.data, sizeof number);
            there[i] = number == i;
        }
        count += there[i];
    }
    freshet_buf_free(&buf);
    return count;
}

bool bench_load(struct bench *bench, freshet *cache, const struct bench_records *records)
{
    bool *there = calloc(records->count, sizeof *there);
    uint32_t count = 0;

    if (!there)
        return bench_stop(bench, "no memory");
    for (int round = 0; round < 10 && count < records->count && !tool_ended; round++) {
        freshet_result result = load_once(cache, records, there);

        if (result != FRESHET_OK) {
            free(there);
            return bench_stop_result(bench, result, "cannot fill the tier");
        }
        count = count_there(cache, records, there);
    }
    free(there);
    return count == records->count || bench_stop(bench, "the tier holds %u of %u records", count, records->count);
}
