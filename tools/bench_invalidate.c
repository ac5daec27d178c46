/*
 * bench_invalidate.c - from the call on one host to gone on the other, beside raw PUBLISH to a subscriber with one
 * signature made before it and one checked after it.
 *
 * The floor signs and verifies in its place, on the way of each message: measured by themselves, over and over, both
 * are twice as fast as in a process that has just woken, and their sum with a PUBLISH would be a path that nothing
 * takes.
 *
 * Three processes: this one is host A and the publisher; the reader is host B, which reads the key over and over until
 * its tier no longer serves it; the subscriber blocks in hiredis.  Stamps are CLOCK_BOOTTIME, the same for all.
 *
 * The reader would take a core from the very threads that are being measured, so it runs as SCHED_IDLE: whoever has
 * work comes first.  Since a core that is busy so is also quicker to wake than one asleep, it goes on
 * reading while the floor is measured: both sides see the same machine.
 *
 * Host A listens as well, of course, and on two cores its thread gets in the way of host B's, as it would not on a host
 * of its own.  Redis writes to the latest subscriber first, so host B joins after host A.
 */
#include "bench.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS       2000u
#define ROUNDS_QUICK 400u
#define SLICE        50u  /* rounds between turns */
#define MESSAGE      160u /* bytes of a channel message with one key: hints, key id, signature, frame */
#define SIGNATURE_AT 24u
#define FRAME_AT     88u
#define PATIENCE_MS  10000
#define CHANNEL      "bench:floor"
#define WARM         "warm" /* the key that is read while the floor is measured */

/* What the processes share. */
struct shared {
    _Atomic uint32_t spin_until; /* the reader keeps its core warm until this is its order's number */
};

/* An order to a helper process, and its answer. */
struct order {
    uint32_t number;
    bool warm; /* only keep reading while the floor is measured */
    char key[BENCH_KEY];
};

struct reply {
    uint32_t number;
    bool good;
    int64_t at_ns; /* when it was seen; 0: ready */
};

struct helper {
    pid_t pid;
    int fd;
};

struct stage {
    struct shared *shared;
    struct helper reader, subscriber;
    freshet *cache; /* host A */
    struct raw_redis *redis;
    uint32_t number;
    double *ours, *floors;
};

/* ---- a helper process ---- */

static void answer(int fd, uint32_t number, bool good, int64_t at_ns)
{
    struct reply reply = {number, good, at_ns};

    (void)!send(fd, &reply, sizeof reply, MSG_NOSIGNAL);
}

static bool next_order(int fd, struct order *order)
{
    return recv(fd, order, sizeof *order, MSG_WAITALL) == (ssize_t)sizeof *order;
}

/* One round of the reader: have the key in the tier, say so, and watch it go. */
static void read_round(freshet *cache, int fd, const struct order *order)
{
    freshet_read_options tier = FRESHET_INIT(freshet_read_options);
    freshet_buf buf = {0};
    int64_t end = bench_wall_ns() + PATIENCE_MS * INT64_C(1000000);
    bool held = false;

    tier.tier_only = true;
    while (!held && bench_wall_ns() < end) {
        (void)freshet_get(cache, order->key, BENCH_KEY, NULL, &buf, NULL);
        (void)freshet_flush(cache, 100);
        held = freshet_get(cache, order->key, BENCH_KEY, &tier, &buf, NULL) == FRESHET_OK;
    }
    answer(fd, order->number, held, 0);
    while (held && bench_wall_ns() < end) {
        if (freshet_get(cache, order->key, BENCH_KEY, &tier, &buf, NULL) != FRESHET_OK) {
            answer(fd, order->number, true, bench_wall_ns());
            held = false;
        }
    }
    if (held)
        answer(fd, order->number, false, 0);
    freshet_buf_free(&buf);
}

/* Read on until the floor's slice is over. */
static void warm_round(freshet *cache, const struct shared *shared, const struct order *order)
{
    freshet_read_options tier = FRESHET_INIT(freshet_read_options);
    int64_t end = bench_wall_ns() + PATIENCE_MS * INT64_C(1000000);

    tier.tier_only = true;
    while (atomic_load(&shared->spin_until) < order->number && bench_wall_ns() < end)
        (void)freshet_get(cache, order->key, BENCH_KEY, &tier, NULL, NULL);
}

/* Host B, which joins when it gets its first order.  The tier's threads are started first: they must not inherit the
 * idle class. */
static void be_reader(struct bench *bench, struct shared *shared, int fd)
{
    struct sched_param none = {0};
    struct order order;
    freshet *cache = next_order(fd, &order) ? bench_open(bench, "reader", 16u << 20, true) : NULL;
    bool good = cache && freshet_put(cache, order.key, BENCH_KEY, "up", 2, NULL, NULL) == FRESHET_OK &&
                freshet_flush(cache, 0) == FRESHET_OK && sched_setscheduler(0, SCHED_IDLE, &none) == 0;

    answer(fd, 0, good, 0);
    while (good && next_order(fd, &order)) {
        if (order.warm)
            warm_round(cache, shared, &order);
        else
            read_round(cache, fd, &order);
    }
    freshet_close(cache);
}

static void be_subscriber(struct bench *bench, struct shared *shared, int fd)
{
    struct raw_redis *redis = raw_redis_open(bench->socket, 600000);
    bool good = redis && raw_redis_subscribe(redis, CHANNEL);
    unsigned char message[MESSAGE];

    (void)shared;
    answer(fd, 0, good, 0);
    for (uint32_t number = 1; good && raw_redis_next(redis, message, sizeof message); number++) {
        good = raw_verify(message + FRAME_AT, sizeof message - FRAME_AT, message + SIGNATURE_AT);
        answer(fd, number, good, bench_wall_ns());
    }
    raw_redis_close(redis);
}

/* Start a helper; it ends when its socket or its parent goes. */
static bool helper_start(struct bench *bench, struct shared *shared, struct helper *helper,
                         void (*run)(struct bench *, struct shared *, int))
{
    pid_t parent = getpid();
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        return false;
    helper->fd = fds[0];
    if ((helper->pid = fork()) == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fds[0]);
        if (getppid() == parent)
            run(bench, shared, fds[1]);
        _exit(0);
    }
    close(fds[1]);
    return helper->pid > 0;
}

static void helper_stop(struct helper *helper)
{
    if (helper->pid > 0) {
        close(helper->fd);
        (void)kill(helper->pid, SIGKILL);
        while (waitpid(helper->pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    helper->pid = 0;
}

/* The next answer of a helper, which must be to `number`. */
static bool helper_hear(struct helper *helper, uint32_t number, int64_t *ret_at_ns)
{
    struct pollfd wait = {.fd = helper->fd, .events = POLLIN};
    struct reply reply;

    if (poll(&wait, 1, 2 * PATIENCE_MS) != 1 || recv(helper->fd, &reply, sizeof reply, MSG_WAITALL) != sizeof reply)
        return false;
    *ret_at_ns = reply.at_ns;
    return reply.good && reply.number == number;
}

/* ---- the rounds ---- */

/* Let everybody come to rest: who waits must be waiting. */
static void settle(uint64_t *seed)
{
    struct timespec time = {.tv_nsec = 200000 + (long)(bench_random(seed) % 200000)};

    (void)nanosleep(&time, NULL);
}

static bool our_slice(struct bench *bench, struct stage *stage, const struct bench_records *records, uint32_t first)
{
    uint64_t seed = first;

    for (uint32_t i = first; i < first + SLICE; i++) {
        struct order order = {.number = ++stage->number};
        int64_t start, seen;
        freshet_result result;

        memcpy(order.key, records->keys[i], BENCH_KEY);
        result = freshet_put(stage->cache, order.key, BENCH_KEY, "value", 5, NULL, NULL);
        if (result != FRESHET_OK)
            return bench_stop_result(bench, result, "cannot put");
        if (send(stage->reader.fd, &order, sizeof order, MSG_NOSIGNAL) != sizeof order ||
            !helper_hear(&stage->reader, order.number, &seen))
            return bench_stop(bench, "the other host did not get the record");
        settle(&seed);
        start = bench_wall_ns();
        result = freshet_invalidate(stage->cache, order.key, BENCH_KEY, NULL, NULL);
        if (result != FRESHET_OK)
            return bench_stop_result(bench, result, "cannot invalidate");
        if (!helper_hear(&stage->reader, order.number, &seen))
            return bench_stop(bench, "the other host kept the record");
        stage->ours[i] = (double)(seen - start);
    }
    return true;
}

static bool raw_slice(struct bench *bench, struct stage *stage, uint32_t first)
{
    struct order warm = {.number = ++stage->number, .warm = true, .key = WARM};
    unsigned char message[MESSAGE] = {0};
    uint64_t seed = first;
    bool good = true;

    if (send(stage->reader.fd, &warm, sizeof warm, MSG_NOSIGNAL) != sizeof warm)
        return bench_stop(bench, "the other host is gone");
    for (uint32_t i = first; i < first + SLICE && good; i++) {
        int64_t start, seen = 0;

        settle(&seed);
        message[FRAME_AT]++;
        start = bench_wall_ns();
        good = raw_sign(message + FRAME_AT, sizeof message - FRAME_AT, message + SIGNATURE_AT) &&
               raw_redis_publish(stage->redis, CHANNEL, message, sizeof message) &&
               helper_hear(&stage->subscriber, i + 1, &seen);
        stage->floors[i] = (double)(seen - start);
    }
    atomic_store(&stage->shared->spin_until, warm.number);
    return good || bench_stop(bench, "a message did not reach the subscriber");
}

static bool measure(struct bench *bench, struct stage *stage, uint32_t rounds)
{
    struct bench_records records;
    bool good = true;

    if (!bench_records_make(&records, rounds, 8, 3))
        return bench_stop(bench, "no memory");
    for (uint32_t from = 0; from < rounds && good; from += SLICE) {
        bench_progress(bench, "%u of %u invalidations", from, rounds);
        if (from / SLICE % 2)
            good = our_slice(bench, stage, &records, from) && raw_slice(bench, stage, from);
        else
            good = raw_slice(bench, stage, from) && our_slice(bench, stage, &records, from);
        good = good && !tool_ended;
    }
    bench_records_free(&records);
    if (!good)
        return false;
    bench_rows_times(bench, "1 key", 1.3, 2, stage->ours, stage->floors, rounds, SLICE);
    return true;
}

/* Start the helpers before this process has a thread, be host A, then have host B join. */
static bool set_up(struct bench *bench, struct stage *stage, uint32_t rounds)
{
    struct order join = {.key = WARM};
    int64_t at;

    stage->ours = calloc(rounds, sizeof *stage->ours);
    stage->floors = calloc(rounds, sizeof *stage->floors);
    stage->shared = mmap(NULL, sizeof *stage->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!stage->ours || !stage->floors || stage->shared == MAP_FAILED)
        return bench_stop(bench, "no memory");
    if (!raw_sign_start())
        return bench_stop(bench, "cannot draw a key pair");
    if (!helper_start(bench, stage->shared, &stage->subscriber, be_subscriber) ||
        !helper_start(bench, stage->shared, &stage->reader, be_reader))
        return bench_stop(bench, "cannot start a process: %s", strerror(errno));
    if (!helper_hear(&stage->subscriber, 0, &at))
        return bench_stop(bench, "the subscriber did not come up");
    if (!(stage->redis = raw_redis_open(bench->socket, PATIENCE_MS)))
        return bench_stop(bench, "cannot connect to its Redis");
    if (!(stage->cache = bench_open(bench, "writer", 16u << 20, true)))
        return false;
    if (send(stage->reader.fd, &join, sizeof join, MSG_NOSIGNAL) != sizeof join ||
        !helper_hear(&stage->reader, 0, &at))
        return bench_stop(bench, "the other host did not come up");
    return true;
}

bool bench_invalidate(struct bench *bench)
{
    uint32_t rounds = bench->tool->quick ? ROUNDS_QUICK : ROUNDS;
    struct stage stage = {0};
    bool good = set_up(bench, &stage, rounds) && measure(bench, &stage, rounds);

    helper_stop(&stage.reader);
    helper_stop(&stage.subscriber);
    freshet_close(stage.cache);
    raw_redis_close(stage.redis);
    if (stage.shared && stage.shared != MAP_FAILED)
        munmap(stage.shared, sizeof *stage.shared);
    free(stage.ours);
    free(stage.floors);
    return good;
}
