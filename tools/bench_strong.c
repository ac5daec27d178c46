/*
 * bench_strong.c - a strong write beside a plain one: the same invalidation, with and without the wait for all hosts.
 *
 * Host B is a process of its own that has joined and does nothing but listen; the two kinds of write take turns in
 * slices.  The writer first waits until it has known the registry of hosts for the bound, as it has most of the time.
 */
#include "bench.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS       2000u
#define ROUNDS_QUICK 400u
#define SLICE        50u
#define PATIENCE_MS  10000

struct other {
    pid_t pid;
    int fd; /* it ends when this is closed */
};

/* Host B: join, say so, listen until nobody wants us any more. */
static void be_other(struct bench *bench, int fd)
{
    freshet *cache = bench_open(bench, "other", 16u << 20, true);
    char ready = cache != NULL;

    if (send(fd, &ready, 1, MSG_NOSIGNAL) == 1 && ready)
        (void)recv(fd, &ready, 1, 0);
    freshet_close(cache);
}

static bool other_start(struct bench *bench, struct other *other)
{
    pid_t parent = getpid();
    struct pollfd wait;
    char ready = 0;
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        return false;
    if ((other->pid = fork()) == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fds[0]);
        if (getppid() == parent)
            be_other(bench, fds[1]);
        _exit(0);
    }
    close(fds[1]);
    other->fd = fds[0];
    wait = (struct pollfd){.fd = fds[0], .events = POLLIN};
    return other->pid > 0 && poll(&wait, 1, PATIENCE_MS) == 1 && recv(fds[0], &ready, 1, 0) == 1 && ready;
}

static void other_stop(struct other *other)
{
    if (other->pid <= 0)
        return;
    close(other->fd);
    (void)kill(other->pid, SIGKILL);
    while (waitpid(other->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
}

/* One slice of writes; their times in ns. */
static bool slice(struct bench *bench, freshet *cache, bool strong, uint32_t first, double *times)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    char key[BENCH_KEY];

    options.wait = strong ? FRESHET_WAIT_HOSTS : FRESHET_WAIT_NONE;
    for (uint32_t i = first; i < first + SLICE; i++) {
        freshet_change change = FRESHET_INIT(freshet_change);
        freshet_result result;
        int64_t start;

        memset(key, 0, sizeof key);
        (void)snprintf(key, sizeof key, "key-%u", i);
        start = bench_wall_ns();
        result = freshet_invalidate(cache, key, sizeof key, &options, &change);
        times[i] = (double)(bench_wall_ns() - start);
        if (result != FRESHET_OK)
            return bench_stop_result(bench, result, "cannot invalidate");
        if (strong && (change.hosts_applied != 2 || change.hosts_waited_out != 0))
            return bench_stop(bench, "the other host did not answer in time");
    }
    return true;
}

/* Write until the registry is known for long enough. */
static bool settle(struct bench *bench, freshet *cache)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    int64_t end = bench_wall_ns() + PATIENCE_MS * INT64_C(1000000);
    freshet_change change = FRESHET_INIT(freshet_change);

    options.wait = FRESHET_WAIT_HOSTS;
    do {
        if (freshet_invalidate(cache, "settle", 6, &options, &change) != FRESHET_OK || bench_wall_ns() > end)
            return bench_stop(bench, "the hosts did not come to know each other");
    } while (change.bound_waited);
    return true;
}

static bool measure(struct bench *bench, freshet *cache, uint32_t rounds)
{
    static double strong[ROUNDS], plain[ROUNDS];

    for (uint32_t from = 0; from < rounds; from += SLICE) {
        bool first = from / SLICE % 2;

        bench_progress(bench, "%u of %u writes", from, rounds);
        if (!slice(bench, cache, first, from, first ? strong : plain) ||
            !slice(bench, cache, !first, from, first ? plain : strong) || tool_ended)
            return false;
    }
    bench_rows_times(bench, "2 hosts", 0, 0, strong, plain, rounds, SLICE);
    return true;
}

bool bench_strong(struct bench *bench)
{
    struct other other = {0};
    freshet *cache = NULL;
    bool good = other_start(bench, &other); /* before this process has a thread */

    if (!good)
        (void)bench_stop(bench, "the other host did not come up");
    good = good && (cache = bench_open(bench, "writer", 16u << 20, true)) != NULL && settle(bench, cache) &&
           measure(bench, cache, bench->tool->quick ? ROUNDS_QUICK : ROUNDS);
    other_stop(&other);
    freshet_close(cache);
    return good;
}
