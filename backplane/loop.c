/*
 * loop.c - the thread that owns libuv (loop.h).  With link.c the only file that includes <uv.h>.
 *
 * libuv abort()s when a descriptor that it watches has gone, inside epoll_ctl, epoll_wait and uv_async_send alike, and
 * a library must not take its host program along.  So it never waits: our own poll() waits on its epoll descriptor, and
 * uv_run only takes what is ready, right after a look at every descriptor's identity.  Other threads wake us through a
 * socket pair of ours instead of uv_async: its ends have identities that can be checked (eventfds all look alike), and
 * a send() to it raises no signal.
 */
#include <loop.h>

#include <remote.h>

#include <uv.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOOP_FILES        64u  /* descriptors guarded */
#define LOOP_WAIT_MOST_MS 1000 /* a look at the descriptors at least so often */
#define LOOP_END_S        2

/* A descriptor and what it was when we made it.  The number is written last and taken back first, for the child after a
 * fork that reads this in whatever state it was. */
struct loop_file {
    atomic_int fd;
    dev_t device;
    ino_t inode;
};

struct loop {
    uv_loop_t uv;
    uv_pipe_t first; /* see loop_open_files */
    struct loop_events events;
    void *arg;
    pthread_t thread;
    atomic_bool woken, stopping, lost;
    struct loop_file near, far; /* the socket pair: far is sent to, near is read */
    struct loop_file backend;   /* libuv's epoll descriptor */
    struct loop_file files[LOOP_FILES];
};

struct loop_timer {
    uv_timer_t uv;
    struct loop *loop;
    void (*fn)(void *arg);
    void *arg;
};

/* ---- descriptors and their identity ---- */

static bool loop_file_set(struct loop_file *file, int fd)
{
    struct stat stat;

    if (fd < 0 || fstat(fd, &stat) != 0)
        return false;
    file->device = stat.st_dev;
    file->inode = stat.st_ino;
    atomic_store(&file->fd, fd);
    return true;
}

static bool loop_file_is_ours(const struct loop_file *file)
{
    int fd = atomic_load_explicit(&file->fd, memory_order_relaxed);
    struct stat stat;

    return fd >= 0 && fstat(fd, &stat) == 0 && stat.st_dev == file->device && stat.st_ino == file->inode;
}

/* Close a descriptor if it is still what it was. */
static void loop_file_close(struct loop_file *file)
{
    if (loop_file_is_ours(file))
        close(atomic_load(&file->fd));
    atomic_store(&file->fd, -1);
}

static bool loop_is_whole(const struct loop *loop)
{
    if (!loop_file_is_ours(&loop->backend) || !loop_file_is_ours(&loop->near) || !loop_file_is_ours(&loop->far))
        return false;
    for (size_t i = 0; i < LOOP_FILES; i++)
        if (atomic_load_explicit(&loop->files[i].fd, memory_order_relaxed) >= 0 && !loop_file_is_ours(&loop->files[i]))
            return false;
    return true;
}

bool loop_guard(struct loop *loop, int fd)
{
    for (size_t i = 0; i < LOOP_FILES; i++)
        if (atomic_load_explicit(&loop->files[i].fd, memory_order_relaxed) < 0)
            return loop_file_set(&loop->files[i], fd);
    return false;
}

bool loop_unguard(struct loop *loop, int fd)
{
    for (size_t i = 0; i < LOOP_FILES; i++) {
        if (atomic_load_explicit(&loop->files[i].fd, memory_order_relaxed) != fd)
            continue;
        if (!loop_file_is_ours(&loop->files[i])) {
            atomic_store(&loop->lost, true);
            return false;
        }
        atomic_store(&loop->files[i].fd, -1);
        return true;
    }
    return true;
}

bool loop_is_lost(const struct loop *loop)
{
    return atomic_load(&loop->lost);
}

void *loop_uv(struct loop *loop)
{
    return &loop->uv;
}

/* ---- the thread ---- */

/* Wait until something is to be done. */
static void loop_wait(struct loop *loop)
{
    int timeout = uv_loop_alive(&loop->uv) ? uv_backend_timeout(&loop->uv) : LOOP_WAIT_MOST_MS;
    struct pollfd fds[2] = {
        {.fd = atomic_load(&loop->backend.fd), .events = POLLIN},
        {.fd = atomic_load(&loop->near.fd), .events = POLLIN},
    };
    char bytes[64];

    if (timeout < 0 || timeout > LOOP_WAIT_MOST_MS)
        timeout = LOOP_WAIT_MOST_MS;
    /* Whatever poll says, the descriptors are looked at next. */
    if (timeout > 0 && poll(fds, 2, timeout) > 0 && fds[1].revents & POLLIN && loop_file_is_ours(&loop->near))
        while (recv(atomic_load(&loop->near.fd), bytes, sizeof bytes, MSG_DONTWAIT) == sizeof bytes)
            ;
}

/* Tell the owner that somebody called. */
static void loop_answer(struct loop *loop)
{
    /* Taken back before the owner looks: who calls from now on is heard again. */
    if (!atomic_load_explicit(&loop->woken, memory_order_relaxed) || !atomic_exchange(&loop->woken, false))
        return;
    if (loop->events.wake && !atomic_load(&loop->stopping))
        loop->events.wake(loop, loop->arg);
}

/* The loop is done for: close what is still ours of its sockets, leave the rest as it is. */
static void loop_lose(struct loop *loop)
{
    atomic_store(&loop->lost, true);
    for (size_t i = 0; i < LOOP_FILES; i++)
        loop_file_close(&loop->files[i]);
    remote_say(FRESHET_ERROR, "the library's descriptors were closed by the program; its network thread begins anew");
    if (loop->events.lost)
        loop->events.lost(loop, loop->arg);
}

static void *loop_main(void *loop_arg)
{
    struct loop *loop = loop_arg;
    bool stopped = false;

    if (loop->events.start)
        loop->events.start(loop, loop->arg);
    for (;;) {
        if (atomic_load(&loop->lost) || !loop_is_whole(loop)) {
            loop_lose(loop);
            return NULL;
        }
        loop_answer(loop);
        if (atomic_load(&loop->stopping) && !stopped) {
            stopped = true;
            if (loop->events.stop)
                loop->events.stop(loop, loop->arg);
        }
        uv_run(&loop->uv, UV_RUN_NOWAIT);
        if (stopped && !uv_loop_alive(&loop->uv))
            return NULL;
        loop_wait(loop);
    }
}

/* Start the thread with all signals blocked, so that the host program's handlers never run on it. */
static int loop_start_thread(struct loop *loop)
{
    sigset_t all, before;
    int rc;

    sigfillset(&all);
    if ((rc = pthread_sigmask(SIG_SETMASK, &all, &before)) != 0)
        return rc;
    rc = pthread_create(&loop->thread, NULL, loop_main, loop);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0)
        (void)pthread_setname_np(loop->thread, "freshet");
    return rc;
}

/* ---- open and close ---- */

/* Occupy the closed ones of descriptors 0 to 2 while libuv makes its own: it asserts that its are none of them. */
static void loop_hold_standard(int held[3])
{
    for (int i = 0; i < 3; i++)
        held[i] = -1;
    for (int i = 0; i < 3; i++) {
        int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

        if (fd > STDERR_FILENO || fd < 0) {
            if (fd >= 0)
                close(fd);
            return;
        }
        held[i] = fd;
    }
}

static void loop_release_standard(const int held[3])
{
    for (int i = 0; i < 3; i++)
        if (held[i] >= 0)
            close(held[i]);
}

/* Make the descriptors; 0, or an errno with nothing left open. */
static int loop_open_files(struct loop *loop)
{
    int held[3], pair[2], rc;

    loop_hold_standard(held);
    if ((rc = uv_loop_init(&loop->uv)) != 0) {
        rc = -rc; /* libuv's codes are negated errnos */
        goto done;
    }
    /* With the first stream comes a spare descriptor (for accept, when there are no more): let it come now too. */
    if (uv_pipe_init(&loop->uv, &loop->first, 0) == 0) {
        uv_close((uv_handle_t *)&loop->first, NULL);
        uv_run(&loop->uv, UV_RUN_NOWAIT);
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
        rc = errno;
        uv_loop_close(&loop->uv);
        goto done;
    }
    if (!loop_file_set(&loop->near, pair[0]) || !loop_file_set(&loop->far, pair[1]) ||
        !loop_file_set(&loop->backend, uv_backend_fd(&loop->uv))) {
        rc = errno;
        close(pair[0]);
        close(pair[1]);
        uv_loop_close(&loop->uv);
    }
done:
    loop_release_standard(held);
    return rc;
}

/* The thread has ended: free what it left.  libuv closes numbers, whatever they are by now, so only while all is in
 * order. */
static void loop_free(struct loop *loop)
{
    if (!atomic_load(&loop->lost) && loop_is_whole(loop))
        (void)uv_loop_close(&loop->uv);
    loop_file_close(&loop->near);
    loop_file_close(&loop->far);
    free(loop);
}

freshet_result loop_open(struct loop **ret_loop, const struct loop_events *events, void *arg)
{
    struct loop *loop = calloc(1, sizeof *loop);
    char what[96];
    int rc;

    if (!loop)
        return remote_fail(FRESHET_ENOMEM, "no memory for the network thread");
    loop->events = *events;
    loop->arg = arg;
    atomic_init(&loop->near.fd, -1);
    atomic_init(&loop->far.fd, -1);
    atomic_init(&loop->backend.fd, -1);
    for (size_t i = 0; i < LOOP_FILES; i++)
        atomic_init(&loop->files[i].fd, -1);
    if ((rc = loop_open_files(loop)) != 0) {
        free(loop);
        return remote_fail(rc == ENOMEM ? FRESHET_ENOMEM : FRESHET_EIO, "no descriptors for the network thread: %s",
                           strerror_r(rc, what, sizeof what));
    }
    *ret_loop = loop; /* the thread's first callback may use it */
    if ((rc = loop_start_thread(loop)) != 0) {
        *ret_loop = NULL;
        loop_free(loop);
        return remote_fail(FRESHET_EIO, "the network thread cannot be started: %s", strerror_r(rc, what, sizeof what));
    }
    return FRESHET_OK;
}

bool loop_close(struct loop *loop)
{
    struct timespec end;

    if (!loop)
        return true;
    atomic_store(&loop->stopping, true);
    loop_wake(loop);
    clock_gettime(CLOCK_REALTIME, &end); /* the only clock that pthread_timedjoin_np knows */
    end.tv_sec += LOOP_END_S;
    if (pthread_timedjoin_np(loop->thread, NULL, &end) != 0) {
        pthread_detach(loop->thread);
        remote_say(FRESHET_WARN, "the network thread did not end within %d s; it is left to itself", LOOP_END_S);
        return false;
    }
    loop_free(loop);
    return true;
}

void loop_abandon(struct loop *loop)
{
    if (!loop)
        return;
    /* close() alone: it leaves the epoll set alone, which the parent shares, for the parent's copies are still open. */
    for (size_t i = 0; i < LOOP_FILES; i++)
        loop_file_close(&loop->files[i]);
    loop_file_close(&loop->near);
    loop_file_close(&loop->far);
}

void loop_wake(struct loop *loop)
{
    if (atomic_exchange(&loop->woken, true))
        return; /* it has not looked yet since somebody else called */
    if (loop_file_is_ours(&loop->far))
        (void)send(atomic_load(&loop->far.fd), "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* ---- timers ---- */

static void loop_timer_fired(uv_timer_t *uv)
{
    struct loop_timer *timer = uv->data;

    timer->fn(timer->arg);
}

static void loop_timer_closed(uv_handle_t *uv)
{
    free(uv->data);
}

struct loop_timer *loop_timer_open(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    struct loop_timer *timer = calloc(1, sizeof *timer);

    if (!timer)
        return NULL;
    timer->loop = loop;
    timer->fn = fn;
    timer->arg = arg;
    (void)uv_timer_init(&loop->uv, &timer->uv); /* cannot fail */
    timer->uv.data = timer;
    return timer;
}

void loop_timer_set(struct loop_timer *timer, uint64_t after_ms, uint64_t repeat_ms)
{
    if (atomic_load(&timer->loop->lost))
        return;
    uv_update_time(&timer->loop->uv); /* its clock stands still during a turn */
    (void)uv_timer_start(&timer->uv, loop_timer_fired, after_ms, repeat_ms);
}

void loop_timer_unset(struct loop_timer *timer)
{
    if (!atomic_load(&timer->loop->lost))
        (void)uv_timer_stop(&timer->uv);
}

void loop_timer_close(struct loop_timer *timer)
{
    if (timer && !atomic_load(&timer->loop->lost))
        uv_close((uv_handle_t *)&timer->uv, loop_timer_closed);
}
