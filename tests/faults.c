/*
 * faults.c - a library in front of the C library whose functions fail when told (faults.h).
 *
 * The linker puts it before the C library in the order in which symbols are looked up, so that every library of the
 * program calls here.  An allocation goes on to glibc's own inner names, which need no looking up: dlsym() itself
 * allocates.
 */
/* Both names of what has two, open and open64, are to be met; the build makes one of them out of the other. */
#undef _FILE_OFFSET_BITS
#include <faults.h>

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SHOWN __attribute__((visibility("default")))
#define TRACED 65536u
#define DEPTH 8

static atomic_int armed; /* an enum fault_kind */
static _Atomic uint64_t counted, failing;
static atomic_bool ongoing;
static _Atomic int64_t blocks;
static char unwanted_name[32], *last_name = unwanted_name;

/* Is this the call that is to fail? */
static bool fails(enum fault_kind kind, const char *name)
{
    uint64_t number, n;

    if (atomic_load_explicit(&armed, memory_order_relaxed) != (int)kind)
        return false;
    number = ++counted;
    n = failing;
    if (n == 0 || number < n || (number > n && !ongoing))
        return false;
    (void)snprintf(last_name, sizeof unwanted_name, "%s", name);
    return true;
}

SHOWN void fault_arm(enum fault_kind kind, uint64_t n, bool on_and_on)
{
    last_name[0] = '\0';
    counted = 0;
    failing = n;
    ongoing = on_and_on;
    armed = kind;
}

SHOWN uint64_t fault_disarm(void)
{
    armed = FAULT_NONE;
    return counted;
}

SHOWN void fault_name(char ret_name[32])
{
    last_name = ret_name;
}

/* ---- memory ---- */

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *block, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *block);

static struct trace {
    void *block;
    void *from[DEPTH];
} *traces;
static pthread_mutex_t trace_lock = PTHREAD_MUTEX_INITIALIZER;

SHOWN void fault_trace(void)
{
    void *warm[DEPTH];

    (void)backtrace(warm, DEPTH); /* it loads what it needs at the first call */
    traces = __libc_calloc(TRACED, sizeof *traces);
}

static void trace_note(void *block)
{
    static _Thread_local bool within;

    if (!traces || within)
        return;
    within = true;
    pthread_mutex_lock(&trace_lock);
    for (size_t i = 0; i < TRACED; i++)
        if (!traces[i].block) {
            traces[i].block = block;
            memset(traces[i].from, 0, sizeof traces[i].from);
            (void)backtrace(traces[i].from, DEPTH);
            break;
        }
    pthread_mutex_unlock(&trace_lock);
    within = false;
}

static void trace_forget(const void *block)
{
    if (!traces)
        return;
    pthread_mutex_lock(&trace_lock);
    for (size_t i = 0; i < TRACED; i++)
        if (traces[i].block == block)
            traces[i].block = NULL;
    pthread_mutex_unlock(&trace_lock);
}

SHOWN void fault_show(void)
{
    struct trace *all = traces;

    traces = NULL;
    for (size_t i = 0; all && i < TRACED; i++)
        if (all[i].block) {
            (void)!write(2, "a block that nobody freed, from\n", 32);
            backtrace_symbols_fd(all[i].from, DEPTH, 2);
        }
}

static void *made(void *block)
{
    if (block) {
        blocks++;
        trace_note(block);
    }
    return block;
}

SHOWN void *malloc(size_t size)
{
    if (fails(FAULT_MEMORY, "malloc")) {
        errno = ENOMEM;
        return NULL;
    }
    return made(__libc_malloc(size));
}

SHOWN void *calloc(size_t count, size_t size)
{
    if (fails(FAULT_MEMORY, "calloc")) {
        errno = ENOMEM;
        return NULL;
    }
    return made(__libc_calloc(count, size));
}

SHOWN void *realloc(void *block, size_t size)
{
    void *moved;

    if (fails(FAULT_MEMORY, "realloc")) {
        errno = ENOMEM;
        return NULL;
    }
    moved = __libc_realloc(block, size);
    if (block && (moved || size == 0)) {
        blocks--;
        trace_forget(block);
    }
    return made(moved);
}

SHOWN int posix_memalign(void **ret_block, size_t alignment, size_t size)
{
    if (fails(FAULT_MEMORY, "posix_memalign"))
        return ENOMEM;
    *ret_block = made(__libc_memalign(alignment, size));
    return *ret_block ? 0 : ENOMEM;
}

SHOWN void *aligned_alloc(size_t alignment, size_t size)
{
    void *block;

    return posix_memalign(&block, alignment, size) == 0 ? block : NULL;
}

SHOWN void free(void *block)
{
    if (!block)
        return;
    blocks--;
    trace_forget(block);
    __libc_free(block);
}

SHOWN int64_t fault_blocks(void)
{
    static void *(*volatile allocate)(size_t size) = malloc;
    int64_t before = blocks;
    void *block = allocate(1);
    bool met = blocks > before;

    free(block);
    return met ? before : -1;
}

/* ---- the system ---- */

/* The function of this name in the C library. */
#define REAL(name)                                                                                                     \
    __extension__({                                                                                                    \
        static _Atomic(void *) real_;                                                                                  \
        if (!real_)                                                                                                    \
            real_ = dlsym(RTLD_NEXT, #name);                                                                           \
        (__typeof__(name) *)real_;                                                                                     \
    })

#define FAILS(name, error)                                                                                             \
    do {                                                                                                               \
        if (fails(FAULT_SYSTEM, #name)) {                                                                              \
            errno = error;                                                                                             \
            return -1;                                                                                                 \
        }                                                                                                              \
    } while (0)

/* A function that answers -1 and errno. */
#define SYSTEM(type, name, error, parameters, arguments)                                                               \
    SHOWN type name parameters                                                                                         \
    {                                                                                                                  \
        FAILS(name, error);                                                                                            \
        return REAL(name) arguments;                                                                                   \
    }

static int mode_of(int flags, va_list list)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(list, int) : 0;
}

#define OPENS(name)                                                                                                    \
    SHOWN int name(const char *path, int flags, ...)                                                                   \
    {                                                                                                                  \
        va_list list;                                                                                                  \
        int mode;                                                                                                      \
        va_start(list, flags);                                                                                         \
        mode = mode_of(flags, list);                                                                                   \
        va_end(list);                                                                                                  \
        FAILS(name, EMFILE);                                                                                           \
        return REAL(name)(path, flags, mode);                                                                          \
    }
#define OPENS_AT(name)                                                                                                 \
    SHOWN int name(int at, const char *path, int flags, ...)                                                           \
    {                                                                                                                  \
        va_list list;                                                                                                  \
        int mode;                                                                                                      \
        va_start(list, flags);                                                                                         \
        mode = mode_of(flags, list);                                                                                   \
        va_end(list);                                                                                                  \
        FAILS(name, EMFILE);                                                                                           \
        return REAL(name)(at, path, flags, mode);                                                                      \
    }
#define CONTROLS(name)                                                                                                 \
    SHOWN int name(int fd, int command, ...)                                                                           \
    {                                                                                                                  \
        va_list list;                                                                                                  \
        void *argument;                                                                                                \
        va_start(list, command);                                                                                       \
        argument = va_arg(list, void *);                                                                               \
        va_end(list);                                                                                                  \
        FAILS(name, ENOLCK);                                                                                           \
        return REAL(name)(fd, command, argument);                                                                      \
    }
#define MAPS(name, offset_type)                                                                                        \
    SHOWN void *name(void *address, size_t size, int protection, int flags, int fd, offset_type offset)                \
    {                                                                                                                  \
        if (fails(FAULT_SYSTEM, #name)) {                                                                              \
            errno = ENOMEM;                                                                                            \
            return MAP_FAILED;                                                                                         \
        }                                                                                                              \
        return REAL(name)(address, size, protection, flags, fd, offset);                                               \
    }

OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)
CONTROLS(fcntl)
CONTROLS(fcntl64)
MAPS(mmap, off_t)
MAPS(mmap64, off64_t)
SYSTEM(int, ftruncate, ENOSPC, (int fd, off_t size), (fd, size))
SYSTEM(int, ftruncate64, ENOSPC, (int fd, off64_t size), (fd, size))
SYSTEM(int, fallocate, ENOSPC, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size))
SYSTEM(int, fallocate64, ENOSPC, (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size))
SYSTEM(ssize_t, pread, EIO, (int fd, void *bytes, size_t size, off_t at), (fd, bytes, size, at))
SYSTEM(ssize_t, pread64, EIO, (int fd, void *bytes, size_t size, off64_t at), (fd, bytes, size, at))
SYSTEM(ssize_t, pwrite, ENOSPC, (int fd, const void *bytes, size_t size, off_t at), (fd, bytes, size, at))
SYSTEM(ssize_t, pwrite64, ENOSPC, (int fd, const void *bytes, size_t size, off64_t at), (fd, bytes, size, at))
SYSTEM(ssize_t, pwritev, ENOSPC, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at))
SYSTEM(ssize_t, pwritev64, ENOSPC, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at))
SYSTEM(ssize_t, read, EIO, (int fd, void *bytes, size_t size), (fd, bytes, size))
SYSTEM(ssize_t, write, ENOSPC, (int fd, const void *bytes, size_t size), (fd, bytes, size))
SYSTEM(ssize_t, writev, ENOSPC, (int fd, const struct iovec *parts, int count), (fd, parts, count))
SYSTEM(off_t, lseek, EIO, (int fd, off_t at, int whence), (fd, at, whence))
SYSTEM(int, fsync, EIO, (int fd), (fd))
SYSTEM(int, fdatasync, EIO, (int fd), (fd))
SYSTEM(int, msync, EIO, (void *address, size_t size, int flags), (address, size, flags))
SYSTEM(int, mprotect, ENOMEM, (void *address, size_t size, int protection), (address, size, protection))
SYSTEM(int, mlock, ENOMEM, (const void *address, size_t size), (address, size))
SYSTEM(int, fstat, EIO, (int fd, struct stat *ret_stat), (fd, ret_stat))
SYSTEM(int, fstat64, EIO, (int fd, struct stat64 *ret_stat), (fd, ret_stat))
SYSTEM(int, fchmod, EPERM, (int fd, mode_t mode), (fd, mode))
SYSTEM(int, mkdirat, ENOSPC, (int at, const char *path, mode_t mode), (at, path, mode))
SYSTEM(int, socket, EMFILE, (int family, int type, int protocol), (family, type, protocol))
SYSTEM(int, socketpair, EMFILE, (int family, int type, int protocol, int pair[2]), (family, type, protocol, pair))
SYSTEM(int, connect, ECONNREFUSED, (int fd, __CONST_SOCKADDR_ARG to, socklen_t size), (fd, to, size))
SYSTEM(ssize_t, send, ECONNRESET, (int fd, const void *bytes, size_t size, int flags), (fd, bytes, size, flags))
SYSTEM(ssize_t, sendmsg, ECONNRESET, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
SYSTEM(ssize_t, recv, ECONNRESET, (int fd, void *bytes, size_t size, int flags), (fd, bytes, size, flags))
SYSTEM(int, eventfd, EMFILE, (unsigned count, int flags), (count, flags))
SYSTEM(int, poll, ENOMEM, (struct pollfd *fds, nfds_t count, int ms), (fds, count, ms))
SYSTEM(int, ppoll, ENOMEM, (struct pollfd *fds, nfds_t count, const struct timespec *time, const sigset_t *mask),
       (fds, count, time, mask))
SYSTEM(int, epoll_create1, EMFILE, (int flags), (flags))
SYSTEM(int, epoll_ctl, ENOSPC, (int fd, int what, int on, struct epoll_event *event), (fd, what, on, event))
SYSTEM(int, timerfd_create, EMFILE, (clockid_t id, int flags), (id, flags))
SYSTEM(int, renameat, EIO, (int from, const char *name, int to, const char *new_name), (from, name, to, new_name))
SYSTEM(int, unlinkat, EPERM, (int at, const char *name, int flags), (at, name, flags))
/* getrandom() is left alone: a kernel that has answered once goes on, and libsodium ends the process if it does not. */
SHOWN int posix_fallocate(int fd, off_t at, off_t size)
{
    return fails(FAULT_SYSTEM, "posix_fallocate") ? ENOSPC : REAL(posix_fallocate)(fd, at, size);
}

SHOWN int posix_fallocate64(int fd, off64_t at, off64_t size)
{
    return fails(FAULT_SYSTEM, "posix_fallocate64") ? ENOSPC : REAL(posix_fallocate64)(fd, at, size);
}

SHOWN int pthread_create(pthread_t *ret_thread, const pthread_attr_t *attributes, void *(*run)(void *), void *arg)
{
    return fails(FAULT_SYSTEM, "pthread_create") ? EAGAIN : REAL(pthread_create)(ret_thread, attributes, run, arg);
}

SHOWN int clock_gettime(clockid_t id, struct timespec *time)
{
    if (fails(FAULT_CLOCK, "clock_gettime")) {
        errno = EINVAL;
        return -1;
    }
    return REAL(clock_gettime)(id, time);
}
