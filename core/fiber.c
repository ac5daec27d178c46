/*
 * fiber.c - fibers and their waiting; see fiber.h.  Above clocks and the thread's sentence, below all that waits.
 *
 * A loop's fibers live on one thread and switch by makecontext and swapcontext.  What they wait for ends up in one
 * epoll set: sockets, a timer for the nearest deadline, and an eventfd by which other threads say that a condition has
 * news.  The set's own descriptor is what the host program watches.
 */
#include <fiber.h>

#include <clock.h>
#include <log.h>

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <ucontext.h>
#include <unistd.h>

/* The sanitizers must be told of every switch, or they take one stack for another. */
#if defined(__has_feature)
#define FIBER_HAS(feature) __has_feature(feature)
#else
#define FIBER_HAS(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || FIBER_HAS(address_sanitizer)
#define FIBER_ASAN 1
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__) || FIBER_HAS(thread_sanitizer)
#define FIBER_TSAN 1
#include <sanitizer/tsan_interface.h>
#endif

#if defined(FIBER_ASAN) || defined(FIBER_TSAN)
#define STACK_SIZE ((size_t)1 << 20)
#else
#define STACK_SIZE ((size_t)128 << 10) /* the deepest calls, which sign or hear replies, take 22 KiB */
#endif
#define STACK_GUARD  ((size_t)64 << 10) /* the largest page there is */
#define STACKS_SPARE 64u
#define READY_MOST   64 /* events taken from the kernel at once */
#define NEVER        INT64_MAX

/* What the epoll set says of each descriptor: these, or the number of a fiber's wait. */
enum { WATCH_TIMER, WATCH_NEWS, WATCH_FIRST };

enum woken { WOKEN_BY_TIME, WOKEN_BY_FD, WOKEN_BY_NEWS };

struct fiber {
    struct fibers *home;
    struct fiber *ready_next;
    bool ready, done;
    enum woken woken;
    int64_t until_ns; /* NEVER: no deadline */
    size_t heap_at;   /* place among the sleepers, from 1; 0: none */
    uint64_t watch;   /* the number of its wait for a descriptor */
    struct fiber *watch_next;
    pthread_cond_t *news;
    struct fiber *news_next, **news_link; /* under `news_lock`: who waits for a condition; ... */
    struct fiber *told_next;              /* ... or, of his home, has been told */
    struct fiber *slot_next; /* in line for a talk with Redis */
    bool in_line;
    void (*fn)(void *arg);
    void *arg;
    char *stack;
    ucontext_t context;
    char sentence[LOG_SENTENCE];
#ifdef FIBER_TSAN
    void *tsan;
#endif
#ifdef FIBER_ASAN
    void *fake;
#endif
};

struct fibers {
    int epoll_fd, timer_fd, event_fd;
    struct stat epoll_was, timer_was, event_was; /* the host program may have closed them, and have its own there */
    int64_t timer_ns; /* what the timer is set to; NEVER: not */
    struct fiber *ready, **ready_last;
    struct fiber **heap; /* sleepers, the earliest first; from 1 */
    size_t heap_count, heap_room;
    uint32_t count; /* fibers that are not at their end */
    struct fiber *watchers; /* who wait for descriptors: as many as talk to Redis */
    uint64_t watch;         /* the last wait's number */
    struct fiber *told; /* under `news_lock` */
    uint32_t slots;     /* talks with Redis that may still begin */
    struct fiber *line, **line_last;
    char *stacks[STACKS_SPARE];
    uint32_t stacks_count;
    ucontext_t context; /* of the loop's own stack */
    char *sentence;
    void (*errand)(void *arg); /* what the fiber wants to have done outside */
    void *errand_arg;
#ifdef FIBER_TSAN
    void *tsan;
#endif
#ifdef FIBER_ASAN
    void *fake;
    const void *bottom;
    size_t size;
#endif
};

static _Thread_local struct fiber *fiber_here;

/* Fibers that wait for a condition.  The lock is the innermost. */
static pthread_mutex_t news_lock = PTHREAD_MUTEX_INITIALIZER;
static struct fiber *news_waiters;
static _Atomic uint32_t news_count;

/* A fiber and its loop are on one thread, but the compiler must not believe that of code around a switch. */
__attribute__((noinline)) struct fiber *fiber_self(void)
{
    return fiber_here;
}

static __attribute__((noinline)) void fiber_be(struct fiber *fiber)
{
    fiber_here = fiber;
}

bool wait_is_aside(void)
{
    return fiber_self() != NULL;
}

/* ---- switching ---- */

static void fiber_leave(struct fiber *fiber)
{
    struct fibers *home = fiber->home;

#ifdef FIBER_ASAN
    __sanitizer_start_switch_fiber(fiber->done ? NULL : &fiber->fake, home->bottom, home->size);
#endif
#ifdef FIBER_TSAN
    __tsan_switch_to_fiber(home->tsan, 0);
#endif
    swapcontext(&fiber->context, &home->context);
#ifdef FIBER_ASAN
    __sanitizer_finish_switch_fiber(fiber->fake, &home->bottom, &home->size);
#endif
}

static void fiber_enter(struct fiber *fiber)
{
    struct fibers *home = fiber->home;

    home->sentence = fail_sentence(fiber->sentence);
    fiber_be(fiber);
#ifdef FIBER_ASAN
    __sanitizer_start_switch_fiber(&home->fake, fiber->stack + STACK_GUARD, STACK_SIZE);
#endif
#ifdef FIBER_TSAN
    home->tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber->tsan, 0);
#endif
    swapcontext(&home->context, &fiber->context);
#ifdef FIBER_ASAN
    __sanitizer_finish_switch_fiber(home->fake, NULL, NULL);
#endif
    fiber_be(NULL);
    (void)fail_sentence(home->sentence);
}

static void fiber_main(void)
{
    struct fiber *fiber = fiber_self();

#ifdef FIBER_ASAN
    __sanitizer_finish_switch_fiber(NULL, &fiber->home->bottom, &fiber->home->size);
#endif
    fiber->fn(fiber->arg);
    fiber->done = true;
    fiber_leave(fiber); /* never to come back */
}

/* ---- stacks ---- */

static char *stack_take(struct fibers *fibers)
{
    char *stack;

    if (fibers->stacks_count)
        return fibers->stacks[--fibers->stacks_count];
    stack = mmap(NULL, STACK_GUARD + STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
    if (stack == MAP_FAILED)
        return NULL;
    if (mprotect(stack, STACK_GUARD, PROT_NONE) != 0) {
        munmap(stack, STACK_GUARD + STACK_SIZE);
        return NULL;
    }
    return stack;
}

static void stack_give(struct fibers *fibers, char *stack)
{
    if (fibers->stacks_count < STACKS_SPARE)
        fibers->stacks[fibers->stacks_count++] = stack;
    else
        munmap(stack, STACK_GUARD + STACK_SIZE);
}

/* ---- sleepers: a heap by deadline ---- */

static void heap_put(struct fibers *fibers, size_t at, struct fiber *fiber)
{
    fibers->heap[at] = fiber;
    fiber->heap_at = at;
}

static void heap_up(struct fibers *fibers, struct fiber *fiber, size_t at)
{
    for (; at > 1 && fibers->heap[at / 2]->until_ns > fiber->until_ns; at /= 2)
        heap_put(fibers, at, fibers->heap[at / 2]);
    heap_put(fibers, at, fiber);
}

static void heap_down(struct fibers *fibers, struct fiber *fiber, size_t at)
{
    for (size_t child; (child = 2 * at) <= fibers->heap_count; at = child) {
        if (child < fibers->heap_count && fibers->heap[child + 1]->until_ns < fibers->heap[child]->until_ns)
            child++;
        if (fibers->heap[child]->until_ns >= fiber->until_ns)
            break;
        heap_put(fibers, at, fibers->heap[child]);
    }
    heap_put(fibers, at, fiber);
}

/* Room for everybody, so that going to sleep cannot fail. */
static bool heap_grow(struct fibers *fibers)
{
    size_t room = fibers->heap_room ? 2 * fibers->heap_room : 64;
    struct fiber **heap;

    if (fibers->count + 2 < fibers->heap_room)
        return true;
    if (!(heap = realloc(fibers->heap, room * sizeof(struct fiber *))))
        return false;
    fibers->heap = heap;
    fibers->heap_room = room;
    return true;
}

static void sleep_begin(struct fiber *fiber, int64_t until_ns)
{
    struct fibers *fibers = fiber->home;

    fiber->until_ns = until_ns;
    if (until_ns != NEVER)
        heap_up(fibers, fiber, ++fibers->heap_count);
}

static void sleep_end(struct fiber *fiber)
{
    struct fibers *fibers = fiber->home;
    size_t at = fiber->heap_at;
    struct fiber *last;

    if (at == 0)
        return;
    fiber->heap_at = 0;
    last = fibers->heap[fibers->heap_count--];
    if (last == fiber)
        return;
    if (at > 1 && fibers->heap[at / 2]->until_ns > last->until_ns)
        heap_up(fibers, last, at);
    else
        heap_down(fibers, last, at);
}

/* ---- who can go on ---- */

static void fiber_wake(struct fiber *fiber, enum woken woken)
{
    if (fiber->ready)
        return;
    sleep_end(fiber);
    fiber->woken = woken;
    fiber->ready = true;
    fiber->ready_next = NULL;
    *fiber->home->ready_last = fiber;
    fiber->home->ready_last = &fiber->ready_next;
}

/* In a fiber: aside until somebody wakes it, the deadline at the latest. */
static enum woken fiber_sleep(struct fiber *fiber, int64_t until_ns)
{
    sleep_begin(fiber, until_ns);
    fiber_leave(fiber);
    return fiber->woken;
}

static void fiber_free(struct fiber *fiber)
{
    struct fibers *home = fiber->home;

    stack_give(home, fiber->stack);
#ifdef FIBER_TSAN
    __tsan_destroy_fiber(fiber->tsan);
#endif
    home->count--;
    free(fiber);
}

void fiber_abandon(struct fiber *fiber)
{
    fiber_free(fiber);
}

/* Until it waits, or has come to its end. */
static void fiber_go(struct fiber *fiber)
{
    struct fibers *home = fiber->home;

    for (;;) {
        fiber_enter(fiber);
        if (!home->errand)
            break;
        home->errand(home->errand_arg);
        home->errand = NULL;
    }
    if (fiber->done)
        fiber_free(fiber);
}

/* Have the timer ring for the nearest deadline.  One that rings too early is set again then. */
static void fibers_set_timer(struct fibers *fibers)
{
    int64_t next_ns = fibers->heap_count ? fibers->heap[1]->until_ns : NEVER;
    struct itimerspec at = {.it_value = {.tv_sec = next_ns / CLOCK_NS_PER_S, .tv_nsec = next_ns % CLOCK_NS_PER_S}};

    if (next_ns >= fibers->timer_ns)
        return;
    fibers->timer_ns = next_ns;
    (void)timerfd_settime(fibers->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

freshet_result fiber_start(struct fibers *fibers, void (*fn)(void *arg), void *arg, struct fiber **ret_fiber)
{
    struct fiber *fiber = calloc(1, sizeof *fiber);

    if (!fiber || !heap_grow(fibers) || !(fiber->stack = stack_take(fibers))) {
        free(fiber);
        return fail(FRESHET_ENOMEM, "no memory for a call's stack");
    }
    fiber->home = fibers;
    fiber->fn = fn;
    fiber->arg = arg;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack + STACK_GUARD;
    fiber->context.uc_stack.ss_size = STACK_SIZE;
    fiber->context.uc_link = NULL;
    makecontext(&fiber->context, fiber_main, 0);
#ifdef FIBER_TSAN
    fiber->tsan = __tsan_create_fiber(0);
#endif
    fibers->count++;
    *ret_fiber = fiber;
    fiber_go(fiber);
    fibers_set_timer(fibers);
    return FRESHET_OK;
}

void fiber_suspend(void)
{
    (void)fiber_sleep(fiber_self(), NEVER);
}

void fiber_resume(struct fiber *fiber)
{
    struct fibers *home = fiber->home;

    fiber_go(fiber);
    fibers_set_timer(home);
}

void wait_outside(void (*fn)(void *arg), void *arg)
{
    struct fiber *fiber = fiber_self();

    if (!fiber) {
        fn(arg);
        return;
    }
    fiber->home->errand = fn;
    fiber->home->errand_arg = arg;
    fiber_leave(fiber);
}

/* ---- a descriptor ---- */

static int wait_ready_here(int fd, short events, int64_t deadline_ns)
{
    for (;;) {
        int64_t left_ns = deadline_ns - clock_boot_ns();
        struct pollfd ready = {.fd = fd, .events = events};
        struct timespec left = {.tv_sec = left_ns / CLOCK_NS_PER_S, .tv_nsec = left_ns % CLOCK_NS_PER_S};
        int rc;

        if (left_ns <= 0)
            return 0;
        rc = ppoll(&ready, 1, &left, NULL);
        if (rc > 0)
            return ready.revents & POLLNVAL ? -1 : 1;
        if (rc < 0 && errno != EINTR)
            return -1;
    }
}

/* Numbers and not addresses: of a descriptor that the host program closed, and of which somebody has a copy (a child),
 * the set may tell when its fiber is long gone. */
static void watch_begin(struct fiber *fiber)
{
    struct fibers *home = fiber->home;

    fiber->watch = home->watch;
    fiber->watch_next = home->watchers;
    home->watchers = fiber;
}

static void watch_end(struct fiber *fiber)
{
    struct fiber **link = &fiber->home->watchers;

    while (*link != fiber)
        link = &(*link)->watch_next;
    *link = fiber->watch_next;
}

static void watch_wake(struct fibers *fibers, uint64_t watch)
{
    struct fiber *fiber = fibers->watchers;

    while (fiber && fiber->watch != watch)
        fiber = fiber->watch_next;
    if (fiber)
        fiber_wake(fiber, WOKEN_BY_FD);
}

int wait_ready(int fd, short events, int64_t deadline_ns)
{
    struct fiber *fiber = fiber_self();
    struct epoll_event watch = {0};
    enum woken woken;

    if (!fiber)
        return wait_ready_here(fd, events, deadline_ns);
    if (clock_boot_ns() >= deadline_ns)
        return 0;
    watch.events = (events & POLLIN ? EPOLLIN : 0u) | (events & POLLOUT ? EPOLLOUT : 0u) | EPOLLONESHOT;
    watch.data.u64 = ++fiber->home->watch;
    if (epoll_ctl(fiber->home->epoll_fd, EPOLL_CTL_ADD, fd, &watch) != 0)
        return -1;
    watch_begin(fiber);
    woken = fiber_sleep(fiber, deadline_ns);
    watch_end(fiber);
    (void)epoll_ctl(fiber->home->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    return woken == WOKEN_BY_FD ? 1 : 0;
}

void wait_pause(int64_t ns)
{
    struct fiber *fiber = fiber_self();
    struct timespec time = {.tv_sec = ns / CLOCK_NS_PER_S, .tv_nsec = ns % CLOCK_NS_PER_S};

    if (ns <= 0)
        return;
    if (fiber)
        (void)fiber_sleep(fiber, clock_boot_ns() + ns);
    else
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}

static bool fd_is_ours(int fd, const struct stat *was)
{
    struct stat is;

    return fd >= 0 && fstat(fd, &is) == 0 && is.st_dev == was->st_dev && is.st_ino == was->st_ino;
}

/* Have the epoll set readable, so that the loop comes back. */
static void fibers_nudge(struct fibers *fibers)
{
    const uint64_t one = 1;
    ssize_t rc;

    if (!fd_is_ours(fibers->event_fd, &fibers->event_was))
        return;
    do
        rc = write(fibers->event_fd, &one, sizeof one);
    while (rc < 0 && errno == EINTR);
}

/* ---- a condition ---- */

/* A deadline on CLOCK_BOOTTIME as a time of CLOCK_MONOTONIC, which is what a condition can wait for. */
static struct timespec wait_until(int64_t deadline_ns)
{
    struct timespec now;
    int64_t left = deadline_ns - clock_boot_ns();

    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t at = now.tv_sec * CLOCK_NS_PER_S + now.tv_nsec + (left > 0 ? left : 0);
    return (struct timespec){.tv_sec = at / CLOCK_NS_PER_S, .tv_nsec = at % CLOCK_NS_PER_S};
}

/* Under `news_lock`: among those who wait, and not any more. */
static void news_join(struct fiber *fiber, pthread_cond_t *news)
{
    fiber->news = news;
    fiber->news_link = &news_waiters;
    if ((fiber->news_next = news_waiters))
        fiber->news_next->news_link = &fiber->news_next;
    news_waiters = fiber;
    atomic_fetch_add(&news_count, 1);
}

static void news_leave(struct fiber *fiber)
{
    if (fiber->news_next)
        fiber->news_next->news_link = fiber->news_link;
    *fiber->news_link = fiber->news_next;
    fiber->news = NULL;
    atomic_fetch_sub(&news_count, 1);
}

bool wait_news(pthread_cond_t *news, pthread_mutex_t *lock, int64_t deadline_ns)
{
    struct fiber *fiber = fiber_self();
    struct timespec until;
    enum woken woken;

    if (!fiber) {
        until = wait_until(deadline_ns);
        return pthread_cond_timedwait(news, lock, &until) != ETIMEDOUT;
    }
    pthread_mutex_lock(&news_lock);
    news_join(fiber, news);
    pthread_mutex_unlock(&news_lock);
    pthread_mutex_unlock(lock);
    woken = fiber_sleep(fiber, deadline_ns);
    pthread_mutex_lock(&news_lock); /* told or not, on neither list after this */
    if (fiber->news) {
        news_leave(fiber);
    } else if (woken != WOKEN_BY_NEWS) {
        struct fiber **link = &fiber->home->told;

        while (*link && *link != fiber)
            link = &(*link)->told_next;
        if (*link)
            *link = fiber->told_next;
    }
    pthread_mutex_unlock(&news_lock);
    pthread_mutex_lock(lock);
    return woken == WOKEN_BY_NEWS || clock_boot_ns() < deadline_ns;
}

void wait_tell(pthread_cond_t *news)
{
    struct fiber *next;

    pthread_cond_broadcast(news);
    if (atomic_load(&news_count) == 0)
        return;
    pthread_mutex_lock(&news_lock);
    for (struct fiber *fiber = news_waiters; fiber; fiber = next) {
        next = fiber->news_next;
        if (fiber->news != news)
            continue;
        news_leave(fiber);
        if (!fiber->home->told)
            fibers_nudge(fiber->home);
        fiber->told_next = fiber->home->told;
        fiber->home->told = fiber;
    }
    pthread_mutex_unlock(&news_lock);
}

static void fibers_take_told(struct fibers *fibers)
{
    struct fiber *told, *next;

    pthread_mutex_lock(&news_lock);
    told = fibers->told;
    fibers->told = NULL;
    pthread_mutex_unlock(&news_lock);
    for (; told; told = next) {
        next = told->told_next;
        fiber_wake(told, WOKEN_BY_NEWS);
    }
}

/* ---- the line for Redis ---- */

bool wait_enter(int64_t deadline_ns)
{
    struct fiber *fiber = fiber_self();
    struct fibers *home = fiber ? fiber->home : NULL;

    if (!fiber)
        return true;
    if (home->slots > 0) {
        home->slots--;
        return true;
    }
    fiber->slot_next = NULL;
    fiber->in_line = true;
    *home->line_last = fiber;
    home->line_last = &fiber->slot_next;
    (void)fiber_sleep(fiber, deadline_ns);
    if (!fiber->in_line)
        return true; /* the slot was handed over */
    struct fiber **link = &home->line;
    while (*link != fiber)
        link = &(*link)->slot_next;
    if (!(*link = fiber->slot_next))
        home->line_last = link;
    fiber->in_line = false;
    return false;
}

void wait_leave(void)
{
    struct fiber *fiber = fiber_self(), *next;
    struct fibers *home = fiber ? fiber->home : NULL;

    if (!fiber)
        return;
    if (!(next = home->line)) {
        home->slots++;
        return;
    }
    if (!(home->line = next->slot_next))
        home->line_last = &home->line;
    next->in_line = false;
    fiber_wake(next, WOKEN_BY_NEWS);
    fibers_nudge(home);
}

/* ---- the loop ---- */

/* Note what a new descriptor is; -1 stays -1. */
static int fd_note(int fd, struct stat *ret_was)
{
    if (fd >= 0 && fstat(fd, ret_was) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

freshet_result fibers_open(struct fibers **ret_fibers, uint32_t asks_max)
{
    struct fibers *fibers = calloc(1, sizeof *fibers);
    struct epoll_event watch = {.events = EPOLLIN};

    if (!fibers)
        return fail(FRESHET_ENOMEM, "no memory for an event loop's calls");
    fibers->timer_ns = NEVER;
    fibers->watch = WATCH_FIRST;
    fibers->ready_last = &fibers->ready;
    fibers->line_last = &fibers->line;
    fibers->slots = asks_max;
    fibers->epoll_fd = fd_note(epoll_create1(EPOLL_CLOEXEC), &fibers->epoll_was);
    fibers->timer_fd = fd_note(timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK), &fibers->timer_was);
    fibers->event_fd = fd_note(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), &fibers->event_was);
    if (fibers->epoll_fd < 0 || fibers->timer_fd < 0 || fibers->event_fd < 0)
        goto fail;
    watch.data.u64 = WATCH_TIMER;
    if (epoll_ctl(fibers->epoll_fd, EPOLL_CTL_ADD, fibers->timer_fd, &watch) != 0)
        goto fail;
    watch.data.u64 = WATCH_NEWS;
    if (epoll_ctl(fibers->epoll_fd, EPOLL_CTL_ADD, fibers->event_fd, &watch) != 0)
        goto fail;
    *ret_fibers = fibers;
    return FRESHET_OK;
fail:
    (void)fail(FRESHET_EIO, "no descriptors for an event loop's calls: %s", strerror(errno));
    fibers_close(fibers);
    return FRESHET_EIO;
}

void fibers_close(struct fibers *fibers)
{
    if (!fibers)
        return;
    if (fd_is_ours(fibers->epoll_fd, &fibers->epoll_was))
        close(fibers->epoll_fd);
    if (fd_is_ours(fibers->timer_fd, &fibers->timer_was))
        close(fibers->timer_fd);
    if (fd_is_ours(fibers->event_fd, &fibers->event_was))
        close(fibers->event_fd);
    while (fibers->stacks_count)
        munmap(fibers->stacks[--fibers->stacks_count], STACK_GUARD + STACK_SIZE);
    free(fibers->heap);
    free(fibers);
}

int fibers_fd(const struct fibers *fibers)
{
    return fibers->epoll_fd;
}

/* Look at the descriptors and at the clock, and make ready whom they concern. */
static void fibers_look(struct fibers *fibers)
{
    struct epoll_event events[READY_MOST];
    int count = epoll_wait(fibers->epoll_fd, events, READY_MOST, 0);
    uint64_t number;
    int64_t now_ns;

    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 == WATCH_TIMER) {
            (void)!read(fibers->timer_fd, &number, sizeof number);
            fibers->timer_ns = NEVER;
        } else if (events[i].data.u64 == WATCH_NEWS) {
            (void)!read(fibers->event_fd, &number, sizeof number);
        } else {
            watch_wake(fibers, events[i].data.u64);
        }
    }
    fibers_take_told(fibers); /* after the eventfd was read: who tells us later writes to it again */
    if (!fibers->heap_count)
        return;
    now_ns = clock_boot_ns();
    while (fibers->heap_count && fibers->heap[1]->until_ns <= now_ns)
        fiber_wake(fibers->heap[1], WOKEN_BY_TIME);
}

bool fibers_run(struct fibers *fibers)
{
    struct fiber *fiber;
    bool any;

    if (!fibers->ready)
        fibers_look(fibers);
    if ((any = fibers->ready != NULL)) {
        fiber = fibers->ready;
        if (!(fibers->ready = fiber->ready_next))
            fibers->ready_last = &fibers->ready;
        fiber->ready = false;
        fiber_go(fiber);
    }
    fibers_set_timer(fibers);
    return any;
}

void fibers_after_fork(void)
{
    news_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    news_waiters = NULL;
    atomic_store(&news_count, 0);
    fiber_be(NULL);
}
