/*
 * loop.c - a thread that waits for sockets and for time (loop.h).  Above the system's poll(), below link.c.
 *
 * It stands on poll() alone, on no library for loops: those watch descriptors with epoll and abort() the process when
 * one that they watch has gone, and a library must not take its host program along.  No look beforehand helps, for the
 * host program may close its descriptors between the look and the use.  poll() only says that there is no such one.
 * What remains of that window is that a byte may be read from, or sent to, what took the number within it; so the look
 * stands right before each use.  Other threads wake us through a socket pair: its ends have identities that can be
 * checked (eventfds all look alike), and a send() to it raises no signal.
 */
#include <loop.h>

#include <remote.h>
#include <url.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
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
#define LOOP_CHUNK        65536u
#define LOOP_READS_MOST   16 /* chunks of one stream a turn: the others' turn comes too */
#define LOOP_KEEPALIVE_S  30

/* A descriptor and what it was when we made it.  The number is written last and taken back first, for the child after a
 * fork that reads this in whatever state it was. */
struct loop_file {
    atomic_int fd;
    dev_t device;
    ino_t inode;
};

struct loop {
    struct loop_events events;
    void *arg;
    pthread_t thread;
    atomic_bool woken, stopping, lost;
    struct loop_file near, far; /* the socket pair: far is sent to, near is read */
    struct loop_file files[LOOP_FILES];
    struct loop_timer *timers;
    struct loop_stream *streams;
    uint64_t turn;
    bool closing;           /* some timer or stream is closed and not freed yet */
    char chunk[LOOP_CHUNK]; /* what is received goes through here */
};

struct loop_timer {
    struct loop_timer *next;
    struct loop *loop;
    void (*fn)(void *arg);
    void (*closed)(void *arg);
    void *arg;
    bool set, closing;
    uint64_t due_ms, repeat_ms;
    uint64_t turn; /* in which it was last set or fired: once a turn is enough */
};

enum loop_stream_state { LOOP_CONNECTING, LOOP_OPEN, LOOP_ENDED, LOOP_CLOSING };

struct loop_stream {
    struct loop_stream *next;
    struct loop *loop;
    struct loop_stream_events events;
    void *arg;
    enum loop_stream_state state;
    struct loop_file *file;
    struct pollfd *polled; /* in this turn; NULL: not */
    char *out;             /* what waits to be sent: out[sent..size) */
    size_t sent, size, room;
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
    if (!loop_file_is_ours(&loop->near) || !loop_file_is_ours(&loop->far))
        return false;
    for (size_t i = 0; i < LOOP_FILES; i++)
        if (atomic_load_explicit(&loop->files[i].fd, memory_order_relaxed) >= 0 && !loop_file_is_ours(&loop->files[i]))
            return false;
    return true;
}

/* A place for a descriptor of ours; NULL: no room, or it is none. */
static struct loop_file *loop_guard(struct loop *loop, int fd)
{
    for (size_t i = 0; i < LOOP_FILES; i++)
        if (atomic_load_explicit(&loop->files[i].fd, memory_order_relaxed) < 0)
            return loop_file_set(&loop->files[i], fd) ? &loop->files[i] : NULL;
    return NULL;
}

bool loop_is_lost(const struct loop *loop)
{
    return atomic_load(&loop->lost);
}

uint64_t loop_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- streams ---- */

/* Its descriptor, if that is still its own; -1, and the loop is lost, if not. */
static int loop_stream_fd(struct loop_stream *stream)
{
    if (loop_file_is_ours(stream->file))
        return atomic_load(&stream->file->fd);
    atomic_store(&stream->loop->lost, true);
    return -1;
}

/* A socket whose number is none of the standard three: a host program that has closed those prints to them. */
static int loop_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), above;

    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    above = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
    return above;
}

/* Begin to connect; 0 or an errno. */
static int loop_dial(int fd, const struct url_address *address)
{
    int on = 1, idle_s = LOOP_KEEPALIVE_S;

    if (address->storage.ss_family != AF_UNIX) {
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    }
    if (connect(fd, (const struct sockaddr *)&address->storage, address->size) == 0 || errno == EINPROGRESS ||
        errno == EINTR)
        return 0; /* poll() tells of the end */
    return errno;
}

int loop_stream_open(struct loop *loop, const struct url_address *address, const struct loop_stream_events *events,
                     void *arg, struct loop_stream **ret_stream)
{
    struct loop_stream *stream = calloc(1, sizeof *stream);
    int fd, error;

    if (!stream)
        return ENOMEM;
    fd = loop_socket(address->storage.ss_family);
    if ((error = fd < 0 ? errno : loop_dial(fd, address)) != 0)
        goto fail;
    if (!(stream->file = loop_guard(loop, fd))) {
        error = EMFILE;
        goto fail;
    }
    stream->loop = loop;
    stream->events = *events;
    stream->arg = arg;
    stream->next = loop->streams;
    loop->streams = stream;
    *ret_stream = stream;
    return 0;
fail:
    if (fd >= 0)
        close(fd);
    free(stream);
    return error;
}

/* Send of what waits as much as the system takes.  An error shows as one of receiving. */
static void loop_stream_flush(struct loop_stream *stream)
{
    while (stream->state == LOOP_OPEN && stream->sent < stream->size) {
        int fd = loop_stream_fd(stream);
        ssize_t sent = fd < 0 ? -1 : send(fd, stream->out + stream->sent, stream->size - stream->sent,
                                          MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent < 0 && fd >= 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return;
        stream->sent += (size_t)sent;
    }
    if (stream->sent == stream->size)
        stream->sent = stream->size = 0;
}

bool loop_stream_send(struct loop_stream *stream, const char *bytes, size_t size)
{
    if (atomic_load(&stream->loop->lost))
        return false;
    if (stream->sent) {
        memmove(stream->out, stream->out + stream->sent, stream->size - stream->sent);
        stream->size -= stream->sent;
        stream->sent = 0;
    }
    if (stream->size + size > stream->room) {
        size_t room = (stream->size + size) * 2;
        char *grown = realloc(stream->out, room);

        if (!grown)
            return false;
        stream->out = grown;
        stream->room = room;
    }
    memcpy(stream->out + stream->size, bytes, size);
    stream->size += size;
    loop_stream_flush(stream);
    if (stream->size == 0 && stream->room > LOOP_CHUNK) { /* a large one is not kept */
        free(stream->out);
        stream->out = NULL;
        stream->room = 0;
    }
    return true;
}

size_t loop_stream_queued(const struct loop_stream *stream)
{
    return stream->size - stream->sent;
}

void loop_stream_close(struct loop_stream *stream)
{
    stream->state = LOOP_CLOSING;
    stream->loop->closing = true;
    if (!atomic_load(&stream->loop->lost) && loop_stream_fd(stream) >= 0)
        loop_file_close(stream->file);
}

/* The connection has come about, or not. */
static void loop_stream_connected(struct loop_stream *stream)
{
    socklen_t size = sizeof(int);
    int fd = loop_stream_fd(stream), error = 0;

    if (fd < 0)
        return;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        error = errno;
    stream->state = error ? LOOP_ENDED : LOOP_OPEN;
    stream->events.connected(stream, error, stream->arg);
}

/* Take what has come.  A callback may close the stream. */
static void loop_stream_receive(struct loop_stream *stream)
{
    struct loop *loop = stream->loop;
    ssize_t size = LOOP_CHUNK;

    for (int i = 0; i < LOOP_READS_MOST && size == LOOP_CHUNK && stream->state == LOOP_OPEN; i++) {
        int fd = loop_stream_fd(stream);

        if (fd < 0)
            return;
        size = recv(fd, loop->chunk, LOOP_CHUNK, MSG_DONTWAIT);
        if (size > 0) {
            stream->events.received(stream, loop->chunk, (size_t)size, stream->arg);
        } else if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
            stream->state = LOOP_ENDED;
            stream->events.ended(stream, size == 0 ? 0 : errno, stream->arg);
        }
    }
}

/* Tell the streams what poll() has said of them.  No loop of callbacks goes on when the loop is lost. */
static void loop_tell_streams(struct loop *loop)
{
    for (struct loop_stream *stream = loop->streams; stream && !atomic_load(&loop->lost); stream = stream->next) {
        short said = stream->polled ? stream->polled->revents : 0;

        stream->polled = NULL;
        if (!said)
            continue;
        if (stream->state == LOOP_CONNECTING)
            loop_stream_connected(stream);
        else if (stream->state == LOOP_OPEN && said & ~POLLOUT)
            loop_stream_receive(stream);
        if (stream->state == LOOP_OPEN && said & POLLOUT)
            loop_stream_flush(stream);
    }
}

/* ---- the thread ---- */

/* Until the next timer is due, at most the time for a look at the descriptors. */
static int loop_patience_ms(const struct loop *loop)
{
    uint64_t now_ms = loop_now_ms(), most_ms = LOOP_WAIT_MOST_MS;

    for (const struct loop_timer *timer = loop->timers; timer; timer = timer->next)
        if (timer->set && timer->due_ms < now_ms + most_ms)
            most_ms = timer->due_ms > now_ms ? timer->due_ms - now_ms : 0;
    return (int)most_ms;
}

/* Wait until something is to be done, and do what the sockets want.  Whatever poll says, the descriptors are looked at
 * before they are used. */
static void loop_wait(struct loop *loop)
{
    struct pollfd fds[LOOP_FILES + 1] = {{.fd = atomic_load(&loop->near.fd), .events = POLLIN}};
    nfds_t count = 1;
    char bytes[64];

    for (struct loop_stream *stream = loop->streams; stream; stream = stream->next) {
        short events = stream->state == LOOP_CONNECTING ? POLLOUT : POLLIN;

        if (stream->state != LOOP_CONNECTING && stream->state != LOOP_OPEN)
            continue;
        if (loop_stream_queued(stream))
            events |= POLLOUT;
        fds[count] = (struct pollfd){.fd = atomic_load(&stream->file->fd), .events = events};
        stream->polled = &fds[count++];
    }
    if (poll(fds, count, loop_patience_ms(loop)) <= 0) {
        for (struct loop_stream *stream = loop->streams; stream; stream = stream->next)
            stream->polled = NULL;
        return;
    }
    if (fds[0].revents & POLLIN && loop_file_is_ours(&loop->near))
        while (recv(atomic_load(&loop->near.fd), bytes, sizeof bytes, MSG_DONTWAIT) == sizeof bytes)
            ;
    loop_tell_streams(loop);
}

/* Fire what is due, the earliest first, each once a turn. */
static void loop_fire(struct loop *loop)
{
    uint64_t now_ms = loop_now_ms();

    loop->turn++;
    for (;;) {
        struct loop_timer *first = NULL;

        for (struct loop_timer *timer = loop->timers; timer; timer = timer->next)
            if (timer->set && timer->due_ms <= now_ms && timer->turn != loop->turn &&
                (!first || timer->due_ms < first->due_ms))
                first = timer;
        if (!first || atomic_load(&loop->lost))
            return;
        first->turn = loop->turn;
        first->set = first->repeat_ms > 0;
        first->due_ms = now_ms + first->repeat_ms;
        first->fn(first->arg);
    }
}

/* Free what was closed: nobody is in the midst of its callback now. */
static void loop_sweep(struct loop *loop)
{
    if (!loop->closing)
        return;
    loop->closing = false;
    for (struct loop_timer **at = &loop->timers, *timer; (timer = *at);) {
        if (!timer->closing) {
            at = &timer->next;
            continue;
        }
        *at = timer->next;
        if (timer->closed)
            timer->closed(timer->arg);
        free(timer);
    }
    for (struct loop_stream **at = &loop->streams, *stream; (stream = *at);) {
        if (stream->state != LOOP_CLOSING) {
            at = &stream->next;
            continue;
        }
        *at = stream->next;
        if (stream->events.closed)
            stream->events.closed(stream->arg);
        free(stream->out);
        free(stream);
    }
}

/* Is there nothing left that could call anybody? */
static bool loop_is_idle(const struct loop *loop)
{
    for (const struct loop_timer *timer = loop->timers; timer; timer = timer->next)
        if (timer->set)
            return false;
    return !loop->streams;
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
        loop_fire(loop);
        loop_sweep(loop);
        if (stopped && loop_is_idle(loop))
            return NULL;
        loop_wait(loop);
        loop_sweep(loop);
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

/* Occupy the closed ones of descriptors 0 to 2 while we make ours: a host program prints to those. */
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
    int held[3], pair[2], rc = 0;

    loop_hold_standard(held);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
        rc = errno;
    } else if (!loop_file_set(&loop->near, pair[0]) || !loop_file_set(&loop->far, pair[1])) {
        rc = errno;
        close(pair[0]);
        close(pair[1]);
    }
    loop_release_standard(held);
    return rc;
}

/* The thread has ended: free what it left.  Of a lost loop the streams' and timers' owners may still hold some. */
static void loop_free(struct loop *loop)
{
    while (loop->timers && !atomic_load(&loop->lost)) {
        struct loop_timer *timer = loop->timers;

        loop->timers = timer->next;
        free(timer);
    }
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

struct loop_timer *loop_timer_open(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    struct loop_timer *timer = calloc(1, sizeof *timer);

    if (!timer)
        return NULL;
    timer->loop = loop;
    timer->fn = fn;
    timer->arg = arg;
    timer->next = loop->timers;
    loop->timers = timer;
    return timer;
}

void loop_timer_set(struct loop_timer *timer, uint64_t after_ms, uint64_t repeat_ms)
{
    timer->set = true;
    timer->due_ms = loop_now_ms() + after_ms;
    timer->repeat_ms = repeat_ms;
}

void loop_timer_unset(struct loop_timer *timer)
{
    timer->set = false;
}

void loop_timer_close(struct loop_timer *timer)
{
    loop_timer_close_then(timer, NULL);
}

void loop_timer_close_then(struct loop_timer *timer, void (*fn)(void *arg))
{
    if (!timer)
        return;
    timer->set = false;
    timer->closing = true;
    timer->closed = fn;
    timer->loop->closing = true;
}
