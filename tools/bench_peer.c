/*
 * bench_peer.c - a second process of a measurement: forked, spoken to over a socket, never left behind.
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

#define PATIENCE_MS 30000

bool bench_peer_start(struct bench *bench, struct bench_peer *peer, void (*run)(struct bench *bench, void *arg, int fd),
                      void *arg)
{
    pid_t parent = getpid();
    int fds[2];

    *peer = (struct bench_peer){.fd = -1};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        return bench_stop(bench, "cannot make a socket: %s", strerror(errno));
    if ((peer->pid = fork()) == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fds[0]);
        if (getppid() == parent)
            run(bench, arg, fds[1]);
        _exit(0);
    }
    close(fds[1]);
    peer->fd = fds[0];
    return peer->pid > 0 || bench_stop(bench, "cannot start a process: %s", strerror(errno));
}

void bench_peer_stop(struct bench_peer *peer)
{
    if (peer->pid > 0) {
        close(peer->fd);
        (void)kill(peer->pid, SIGKILL);
        while (waitpid(peer->pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    peer->pid = 0;
}

bool bench_peer_say(int fd, const void *words, size_t size)
{
    return send(fd, words, size, MSG_NOSIGNAL) == (ssize_t)size;
}

bool bench_peer_next(int fd, void *ret_words, size_t size)
{
    return recv(fd, ret_words, size, MSG_WAITALL) == (ssize_t)size;
}

bool bench_peer_hear(int fd, void *ret_words, size_t size)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    int ready;

    do
        ready = poll(&wait, 1, PATIENCE_MS);
    while (ready < 0 && errno == EINTR && !tool_ended);
    return ready == 1 && bench_peer_next(fd, ret_words, size);
}
