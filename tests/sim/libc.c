/*
 * libc.c - what the library asks the C library for, answered by the simulated world: clocks, threads, locks, sockets,
 * process ids, randomness.  The linker puts these in the real ones' place (--wrap), for the library's own objects,
 * which are otherwise those that run everywhere.
 *
 * A mutex or condition is kept in the caller's own pthread structure.  A static mutex is one for each process: here
 * they share one address space.  Ed25519 is left out: signing and verifying take 100 us each, which is a hundred times
 * what everything else in a change takes together.  In its place stands a keyed hash under a key that only this file
 * has, which nobody in the simulated world can forge either; seal.c around it is the real one.
 */
#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "libc.h"

#define FD_FIRST 1000000
#define SLICE_NS (20 * SIM_MS) /* line.c's SO_RCVTIMEO */

extern char __data_start, _end;

static struct sim_random libc_random;
static struct sim_conn *sockets[1 << 16];
static int socket_count;

void libc_start(uint64_t seed)
{
    libc_random = sim_stream(seed, 4);
    socket_count = 0;
}

/* ---- clocks ---- */

int __real_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts)
{
    int64_t ns;

    if (!sim_self)
        return __real_clock_gettime(id, ts);
    sim_pause();
    ns = sim_boot_ns(sim_self->process->host, sim_now);
    if (id == CLOCK_REALTIME)
        ns = SIM_REAL_US * 1000 + sim_now + sim_self->process->host->real_shift;
    *ts = (struct timespec){ns / SIM_S, ns % SIM_S};
    sim_pause();
    return 0;
}

int __wrap_nanosleep(const struct timespec *time, struct timespec *left);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
    (void)left;
    sim_sleep(time->tv_sec * SIM_S + time->tv_nsec);
    return 0;
}

int __wrap_clock_nanosleep(clockid_t id, int flags, const struct timespec *time, struct timespec *left);
int __wrap_clock_nanosleep(clockid_t id, int flags, const struct timespec *time, struct timespec *left)
{
    int64_t ns = time->tv_sec * SIM_S + time->tv_nsec;

    (void)id;
    (void)left;
    if (flags & TIMER_ABSTIME)
        ns = sim_true_ns(sim_self->process->host, ns) - sim_now;
    sim_sleep(ns);
    return 0;
}

/* ---- chance ---- */

static void draw_bytes(void *const to, const size_t size)
{
    uint8_t *bytes = to;

    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = sim_draw(&libc_random);

        memcpy(bytes + i, &word, size - i < 8 ? size - i : 8);
    }
}

ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned flags);
ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned flags)
{
    (void)flags;
    draw_bytes(bytes, size);
    return (ssize_t)size;
}

static const char *draw_name(void)
{
    return "simulated";
}

static uint32_t draw_32(void)
{
    return (uint32_t)sim_draw(&libc_random);
}

void libc_init(void)
{
    static struct randombytes_implementation drawn = {
        .implementation_name = draw_name, .random = draw_32, .buf = draw_bytes};

    randombytes_set_implementation(&drawn);
    if (sodium_init() < 0)
        abort();
}

uint64_t __wrap_backoff_seed(const void *salt); /* the real one looks at addresses */
uint64_t __wrap_backoff_seed(const void *salt)
{
    (void)salt;
    return sim_draw(&libc_random);
}

/* Guard pages cost four system calls; nobody here overruns them. */
void *__wrap_sodium_malloc(size_t size);
void *__wrap_sodium_malloc(size_t size)
{
    return calloc(1, size);
}

void __wrap_sodium_free(void *memory);
void __wrap_sodium_free(void *memory)
{
    free(memory);
}

/* ---- Ed25519's stand-in ---- */

static void stand_in(uint8_t *signature, const uint8_t *bytes, unsigned long long size, const uint8_t *public)
{
    static const uint8_t key[crypto_shorthash_KEYBYTES] = "nobody knows it";
    uint8_t both[64];

    memset(signature, 0, crypto_sign_BYTES);
    memcpy(both, public, 32);
    memset(both + 32, 0, 32);
    crypto_shorthash(both + 32, bytes, size, key);
    crypto_shorthash(signature, both, sizeof both, key);
    both[63] = 1;
    crypto_shorthash(signature + 8, both, sizeof both, key);
}

int __wrap_crypto_sign_detached(unsigned char *signature, unsigned long long *ret_size, const unsigned char *bytes,
                                unsigned long long size, const unsigned char *secret);
int __wrap_crypto_sign_detached(unsigned char *signature, unsigned long long *ret_size, const unsigned char *bytes,
                                unsigned long long size, const unsigned char *secret)
{
    (void)ret_size;
    stand_in(signature, bytes, size, secret + 32);
    return 0;
}

int __wrap_crypto_sign_verify_detached(const unsigned char *signature, const unsigned char *bytes,
                                       unsigned long long size, const unsigned char *public);
int __wrap_crypto_sign_verify_detached(const unsigned char *signature, const unsigned char *bytes,
                                       unsigned long long size, const unsigned char *public)
{
    uint8_t right[crypto_sign_BYTES];

    stand_in(right, bytes, size, public);
    return memcmp(right, signature, sizeof right) == 0 ? 0 : -1;
}

/* ---- processes ---- */

pid_t __wrap_getpid(void);
pid_t __wrap_getpid(void)
{
    return sim_self ? sim_self->process->pid : 1;
}

int __wrap_kill(pid_t pid, int signal);
int __wrap_kill(pid_t pid, int signal)
{
    (void)signal;
    if (sim_process_of(pid))
        return 0;
    errno = ESRCH;
    return -1;
}

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...)
{
    va_list arguments;
    int mode;

    if (strncmp(path, "/proc/", 6) == 0 && path[6] >= '0' && path[6] <= '9') { /* a simulated process has no entry */
        errno = ENOENT;
        return -1;
    }
    va_start(arguments, flags);
    mode = flags & O_CREAT ? va_arg(arguments, int) : 0;
    va_end(arguments);
    return __real_open64(path, flags, mode);
}

int __wrap_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int __wrap_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
    (void)prepare;
    (void)parent;
    (void)child;
    return 0;
}

/* ---- threads ---- */

struct thread {
    struct sim_fiber *fiber;
    struct sim_waiters waiters;
    void *(*fn)(void *arg);
    void *arg;
    bool ended;
};

static void *thread_main(void *arg)
{
    struct thread *thread = arg;

    (void)thread->fn(thread->arg);
    thread->ended = true;
    sim_wake_all(&thread->waiters);
    return NULL;
}

int __wrap_pthread_create(pthread_t *ret_thread, const pthread_attr_t *attributes, void *(*fn)(void *arg), void *arg);
int __wrap_pthread_create(pthread_t *ret_thread, const pthread_attr_t *attributes, void *(*fn)(void *arg), void *arg)
{
    struct thread *thread = calloc(1, sizeof *thread);

    (void)attributes;
    thread->fn = fn;
    thread->arg = arg;
    thread->fiber = sim_spawn(sim_self->process, thread_main, thread);
    *ret_thread = (pthread_t)thread;
    return 0;
}

int __wrap_pthread_join(pthread_t id, void **ret_value);
int __wrap_pthread_join(pthread_t id, void **ret_value)
{
    struct thread *thread = (struct thread *)id;

    (void)ret_value;
    while (!thread->ended)
        (void)sim_wait_in(&thread->waiters, SIM_NEVER);
    return 0;
}

int __wrap_pthread_detach(pthread_t id);
int __wrap_pthread_detach(pthread_t id)
{
    (void)id;
    return 0;
}

int __wrap_pthread_setname_np(pthread_t id, const char *name);
int __wrap_pthread_setname_np(pthread_t id, const char *name)
{
    (void)id;
    (void)name;
    return 0;
}

int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *old);
int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
    (void)how;
    (void)set;
    (void)old;
    return 0;
}

/* ---- locks ---- */

struct lock {
    struct sim_fiber *owner;
    struct sim_waiters waiters;
};

_Static_assert(sizeof(struct lock) <= sizeof(pthread_mutex_t), "a lock fits in a mutex");
_Static_assert(sizeof(struct sim_waiters) <= sizeof(pthread_cond_t), "a list fits in a condition");

/* A static mutex's owner in this process; NULL: it is an ordinary one. */
static struct sim_fiber **static_owner(const void *mutex)
{
    struct sim_lock *locks = sim_self->process->locks;

    if ((const char *)mutex < &__data_start || (const char *)mutex >= &_end)
        return NULL;
    for (unsigned i = 0; i < SIM_STATIC_LOCKS; i++) {
        if (!locks[i].mutex)
            locks[i].mutex = mutex;
        if (locks[i].mutex == mutex)
            return &locks[i].owner;
    }
    abort();
}

int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes);
int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes)
{
    (void)attributes;
    memset(mutex, 0, sizeof *mutex);
    return 0;
}

int __wrap_pthread_mutex_destroy(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_destroy(pthread_mutex_t *mutex)
{
    (void)mutex;
    return 0;
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    struct lock *lock = (struct lock *)mutex;
    struct sim_fiber **owner;

    if (!sim_self)
        return 0;
    sim_pause();
    if ((owner = static_owner(mutex))) {
        while (*owner)
            sim_sleep(SIM_MS / 10);
        *owner = sim_self;
        return 0;
    }
    while (lock->owner)
        (void)sim_wait_in(&lock->waiters, SIM_NEVER);
    lock->owner = sim_self;
    return 0;
}

int __wrap_pthread_mutex_trylock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_trylock(pthread_mutex_t *mutex)
{
    struct sim_fiber **owner = sim_self ? static_owner(mutex) : NULL;

    if (owner ? *owner != NULL : sim_self && ((struct lock *)mutex)->owner != NULL)
        return EBUSY;
    return __wrap_pthread_mutex_lock(mutex);
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    struct lock *lock = (struct lock *)mutex;
    struct sim_fiber **owner;

    if (!sim_self)
        return 0;
    if ((owner = static_owner(mutex))) {
        *owner = NULL;
        return 0;
    }
    lock->owner = NULL;
    sim_wake_all(&lock->waiters);
    return 0;
}

int __wrap_pthread_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attributes);
int __wrap_pthread_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attributes)
{
    (void)attributes;
    memset(cond, 0, sizeof *cond);
    return 0;
}

int __wrap_pthread_cond_destroy(pthread_cond_t *cond);
int __wrap_pthread_cond_destroy(pthread_cond_t *cond)
{
    (void)cond;
    return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *cond);
int __wrap_pthread_cond_broadcast(pthread_cond_t *cond)
{
    sim_wake_all((struct sim_waiters *)cond);
    return 0;
}

int __wrap_pthread_cond_signal(pthread_cond_t *cond);
int __wrap_pthread_cond_signal(pthread_cond_t *cond)
{
    sim_wake_one((struct sim_waiters *)cond);
    return 0;
}

static int cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t until)
{
    bool woken;

    (void)__wrap_pthread_mutex_unlock(mutex);
    woken = sim_wait_in((struct sim_waiters *)cond, until);
    (void)__wrap_pthread_mutex_lock(mutex);
    return woken ? 0 : ETIMEDOUT;
}

int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    return cond_wait(cond, mutex, SIM_NEVER);
}

/* The first true time at which the host's clock shows this one or a later one. */
static int64_t until_host(const struct timespec *at)
{
    return sim_true_ns(sim_self->process->host, at->tv_sec * SIM_S + at->tv_nsec) + 2;
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *at);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *at)
{
    return cond_wait(cond, mutex, until_host(at));
}

/* The keyring's: never held while anybody waits. */
int __wrap_pthread_rwlock_rdlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_rdlock(pthread_rwlock_t *lock)
{
    (void)lock;
    return 0;
}

int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *lock)
{
    (void)lock;
    return 0;
}

int __wrap_pthread_rwlock_unlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_unlock(pthread_rwlock_t *lock)
{
    (void)lock;
    return 0;
}

/* ---- futexes in the control page, which all of a host's processes have at addresses of their own ---- */

#define FUTEX_SLOTS 64u

static struct futex {
    struct sim_fiber *fiber;
    uint32_t *word;
} futexes[FUTEX_SLOTS];

static long futex_wait(uint32_t *word, uint32_t value, const struct timespec *time)
{
    unsigned i = 0;
    bool woken;

    if (__atomic_load_n(word, __ATOMIC_SEQ_CST) != value) {
        errno = EAGAIN;
        return -1;
    }
    while (i < FUTEX_SLOTS && futexes[i].fiber && !futexes[i].fiber->dead)
        i++;
    if (i == FUTEX_SLOTS)
        abort();
    futexes[i] = (struct futex){sim_self, word};
    woken = sim_wait(time ? sim_now + time->tv_sec * SIM_S + time->tv_nsec : SIM_NEVER);
    futexes[i] = (struct futex){0};
    if (!woken)
        errno = ETIMEDOUT;
    return woken ? 0 : -1;
}

/* Another process's mapping of the same page has the same bytes at another address: wake everybody who waits for a
 * word of the same place in a page; one too many looks again. */
static long futex_wake(const uint32_t *word)
{
    for (unsigned i = 0; i < FUTEX_SLOTS; i++)
        if (futexes[i].fiber && (((uintptr_t)futexes[i].word ^ (uintptr_t)word) & 4095) == 0)
            sim_wake(futexes[i].fiber);
    return 1;
}

long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
    va_list arguments;
    uint32_t *word, value;
    const struct timespec *time;
    int operation;

    va_start(arguments, number);
    word = va_arg(arguments, uint32_t *);
    operation = va_arg(arguments, int);
    value = va_arg(arguments, uint32_t);
    time = va_arg(arguments, const struct timespec *);
    va_end(arguments);
    if (number != SYS_futex)
        abort();
    switch (operation & ~(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME)) {
    case FUTEX_WAIT:
        return futex_wait(word, value, time);
    case FUTEX_WAKE:
        return futex_wake(word);
    default:
        abort();
    }
}

/* ---- sockets, for line.c; those of link.c are loop.c's ---- */

struct sim_conn *libc_conn(int fd)
{
    return fd >= FD_FIRST && fd < FD_FIRST + socket_count ? sockets[fd - FD_FIRST] : NULL;
}

int __wrap_socket(int family, int type, int protocol);
int __wrap_socket(int family, int type, int protocol)
{
    (void)family;
    (void)type;
    (void)protocol;
    if (socket_count == sizeof sockets / sizeof sockets[0])
        abort();
    sockets[socket_count] = net_new(sim_self->process);
    return FD_FIRST + socket_count++;
}

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    (void)address;
    (void)size;
    net_connect(libc_conn(fd));
    errno = EINPROGRESS;
    return -1;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    struct sim_conn *conn = libc_conn(fd);

    (void)level;
    (void)name;
    (void)size;
    *(int *)value = conn->state == NET_OPEN ? 0 : conn->error ? conn->error : ECONNREFUSED;
    return 0;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    (void)fd;
    (void)level;
    (void)name;
    (void)value;
    (void)size;
    return 0;
}

int __real_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...)
{
    va_list arguments;
    long value;

    if (libc_conn(fd))
        return 0;
    va_start(arguments, command);
    value = va_arg(arguments, long);
    va_end(arguments);
    return __real_fcntl64(fd, command, value);
}

int __real_fstat64(int fd, struct stat64 *st);
int __wrap_fstat64(int fd, struct stat64 *st);
int __wrap_fstat64(int fd, struct stat64 *st)
{
    struct sim_conn *conn = libc_conn(fd);

    if (!conn) { /* which file it is would be another on each run */
        int rc = __real_fstat64(fd, st);

        st->st_dev = st->st_ino = 0;
        return rc;
    }
    memset(st, 0, sizeof *st);
    st->st_dev = 7;
    st->st_ino = conn->id;
    return 0;
}

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
    struct sim_conn *conn = libc_conn(fd);

    if (!conn)
        return __real_close(fd);
    net_close(conn);
    return 0;
}

ssize_t __wrap_send(int fd, const void *bytes, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *bytes, size_t size, int flags)
{
    (void)flags;
    sim_pause();
    if (net_send(libc_conn(fd), bytes, size))
        return (ssize_t)size;
    errno = EPIPE;
    return -1;
}

ssize_t __wrap_recv(int fd, void *bytes, size_t room, int flags);
ssize_t __wrap_recv(int fd, void *bytes, size_t room, int flags)
{
    struct sim_conn *conn = libc_conn(fd);
    int64_t until = sim_now + SLICE_NS;

    while (!(flags & MSG_DONTWAIT) && !conn->in_size && conn->state == NET_OPEN && sim_now < until)
        (void)sim_wait_in(&conn->waiters, until);
    if (conn->in_size) {
        if (flags & MSG_PEEK)
            return 1;
        return (ssize_t)net_take(conn, bytes, room);
    }
    if (conn->state == NET_ENDED) {
        errno = conn->error;
        return conn->error ? -1 : 0;
    }
    errno = EAGAIN;
    return -1;
}

int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *time, const sigset_t *mask);
int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *time, const sigset_t *mask)
{
    struct sim_conn *conn = libc_conn(fds[0].fd);
    int64_t until = sim_now + time->tv_sec * SIM_S + time->tv_nsec;

    (void)count;
    (void)mask;
    for (;;) {
        if (conn->state == NET_ENDED || (conn->state == NET_OPEN && (fds[0].events & POLLOUT || conn->in_size))) {
            fds[0].revents = fds[0].events;
            return 1;
        }
        if (sim_now >= until)
            return 0;
        (void)sim_wait_in(&conn->waiters, until);
    }
}

int __wrap_poll(struct pollfd *fds, nfds_t count, int ms);
int __wrap_poll(struct pollfd *fds, nfds_t count, int ms)
{
    (void)fds;
    (void)count;
    sim_sleep(ms * SIM_MS);
    return 0;
}
