/*
 * fiber.c - true time, events, fibers: the scheduler of the simulated world (sim.h).
 *
 * Events wait in a heap, ordered by time and then by a number drawn by chance, so that what happens at one time happens
 * in any order.  A fiber has a stack of its own; a fiber that waits is one entry in the heap at most.  A killed
 * process's fibers are simply never run again: at the very point where they were, as after kill -9.
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

/* AddressSanitizer must be told of every switch, or it takes one fiber's stack for another's.  gcc and clang name it
 * differently. */
#if defined(__SANITIZE_ADDRESS__)
#define FIBERS_TOLD 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBERS_TOLD 1
#endif
#endif
#ifdef FIBERS_TOLD
#include <sanitizer/common_interface_defs.h>
#endif

#define STACK_SIZE ((size_t)512 << 10)
#define HEAP_FIRST 1024u

int64_t sim_now;
uint64_t sim_trace;
bool sim_over;
struct sim_fiber *sim_self;

struct sim_event {
    int64_t when;
    uint64_t order;
    sim_event_fn fn;
    void *arg;
    uint64_t number;
};

static struct {
    struct sim_event *events;
    size_t count, room;
    struct sim_random order, preempt;
    double preempt_chance;
    ucontext_t main;
    struct sim_process *processes[64];
    unsigned process_count;
    char *spare_stacks[64];
    unsigned spare_count;
} sched;

/* ---- chance ---- */

uint64_t sim_draw(struct sim_random *random) /* splitmix64 */
{
    uint64_t z = (random->state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t sim_below(struct sim_random *random, uint64_t most)
{
    return most ? sim_draw(random) % most : 0;
}

bool sim_chance(struct sim_random *random, double chance)
{
    return chance > 0 && (double)(sim_draw(random) >> 11) < chance * 9007199254740992.0;
}

int64_t sim_between(struct sim_random *random, int64_t least, int64_t most)
{
    return most <= least ? least : least + (int64_t)sim_below(random, (uint64_t)(most - least) + 1);
}

struct sim_random sim_stream(uint64_t seed, uint64_t number)
{
    struct sim_random random = {seed * UINT64_C(0x2545f4914f6cdd1d) ^ number * UINT64_C(0x9e6c63d0876a9a47)};

    (void)sim_draw(&random);
    return random;
}

void sim_note(uint64_t what)
{
    sim_trace = (sim_trace ^ what) * UINT64_C(0x100000001b3);
    sim_trace ^= sim_trace >> 29;
}

/* ---- events ---- */

static bool event_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->when != b->when ? a->when < b->when : a->order < b->order;
}

void sim_at(int64_t when, sim_event_fn fn, void *arg, uint64_t number)
{
    struct sim_event event = {when < sim_now ? sim_now : when, sim_draw(&sched.order), fn, arg, number};
    size_t at = sched.count++;

    if (sched.count > sched.room) {
        sched.room = sched.room ? 2 * sched.room : HEAP_FIRST;
        sched.events = realloc(sched.events, sched.room * sizeof *sched.events);
    }
    for (; at > 0 && event_before(&event, &sched.events[(at - 1) / 2]); at = (at - 1) / 2)
        sched.events[at] = sched.events[(at - 1) / 2];
    sched.events[at] = event;
}

static struct sim_event event_take(void)
{
    struct sim_event first = sched.events[0], last = sched.events[--sched.count];
    size_t at = 0;

    for (size_t child; (child = 2 * at + 1) < sched.count; at = child) {
        if (child + 1 < sched.count && event_before(&sched.events[child + 1], &sched.events[child]))
            child++;
        if (!event_before(&sched.events[child], &last))
            break;
        sched.events[at] = sched.events[child];
    }
    if (sched.count)
        sched.events[at] = last;
    return first;
}

void sim_run(int64_t end)
{
    while (!sim_over && sched.count && sched.events[0].when <= end) {
        struct sim_event event = event_take();

        sim_now = event.when;
        event.fn(event.arg, event.number);
    }
    if (!sim_over && end != SIM_NEVER && sim_now < end)
        sim_now = end;
}

void sim_start(uint64_t seed, double preempt_chance)
{
    sim_now = 0;
    sim_trace = seed;
    sched.order = sim_stream(seed, 1);
    sched.preempt = sim_stream(seed, 2);
    sched.preempt_chance = preempt_chance;
}

/* ---- switching ---- */

#ifdef FIBERS_TOLD
static void *main_fake;
static const void *main_bottom;
static size_t main_size;
#endif

static void fiber_entry(void)
{
    struct sim_fiber *fiber = sim_self;

#ifdef FIBERS_TOLD
    __sanitizer_finish_switch_fiber(NULL, &main_bottom, &main_size);
#endif
    (void)fiber->fn(fiber->arg);
    fiber->done = true;
#ifdef FIBERS_TOLD
    __sanitizer_start_switch_fiber(NULL, main_bottom, main_size);
#endif
    setcontext(&sched.main);
}

static void fiber_switch_to(struct sim_fiber *fiber)
{
    sim_self = fiber;
#ifdef FIBERS_TOLD
    __sanitizer_start_switch_fiber(&main_fake, fiber->stack, STACK_SIZE);
#endif
    swapcontext(&sched.main, fiber->context);
#ifdef FIBERS_TOLD
    __sanitizer_finish_switch_fiber(main_fake, NULL, NULL);
#endif
    sim_self = NULL;
    if (fiber->done && sched.spare_count < 64) {
        sched.spare_stacks[sched.spare_count++] = fiber->stack;
        fiber->stack = NULL;
    }
}

static void fiber_switch_back(void)
{
    struct sim_fiber *fiber = sim_self;
#ifdef FIBERS_TOLD
    void *fake;

    __sanitizer_start_switch_fiber(&fake, main_bottom, main_size);
#endif
    swapcontext(fiber->context, &sched.main);
#ifdef FIBERS_TOLD
    __sanitizer_finish_switch_fiber(fake, &main_bottom, &main_size);
#endif
}

static void fiber_run(void *arg, uint64_t number)
{
    struct sim_fiber *fiber = arg;

    (void)number;
    fiber->queued = false;
    if (fiber->done || fiber->dead)
        return;
    if (fiber->process->stopped) {
        fiber->queued = true;
        fiber->deferred_next = fiber->process->deferred;
        fiber->process->deferred = fiber;
        return;
    }
    sim_note((uint64_t)sim_now << 8 ^ (uint64_t)fiber->process->pid);
    fiber_switch_to(fiber);
}

static void fiber_queue(struct sim_fiber *fiber)
{
    if (fiber->queued)
        return;
    fiber->queued = true;
    sim_at(sim_now, fiber_run, fiber, 0);
}

struct sim_fiber *sim_spawn(struct sim_process *process, void *(*fn)(void *arg), void *arg)
{
    struct sim_fiber *fiber = calloc(1, sizeof *fiber);
    ucontext_t *context = calloc(1, sizeof *context);

    fiber->process = process;
    fiber->fn = fn;
    fiber->arg = arg;
    if (sched.spare_count)
        fiber->stack = sched.spare_stacks[--sched.spare_count];
    else
        fiber->stack =
            mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fiber->stack == MAP_FAILED)
        abort();
    getcontext(context);
    context->uc_stack.ss_sp = fiber->stack;
    context->uc_stack.ss_size = STACK_SIZE;
    context->uc_link = NULL;
    makecontext(context, fiber_entry, 0);
    fiber->context = context;
    fiber->next = process->fibers;
    process->fibers = fiber;
    fiber_queue(fiber);
    return fiber;
}

/* ---- waiting ---- */

static void wait_over(void *arg, uint64_t number)
{
    struct sim_fiber *fiber = arg;

    if (fiber->waiting && fiber->wait_number == number && !fiber->dead) {
        fiber->waiting = false;
        fiber_queue(fiber);
    }
}

bool sim_wait(int64_t until)
{
    struct sim_fiber *fiber = sim_self;

    fiber->woken = false;
    fiber->waiting = true;
    fiber->wait_number++;
    if (until != SIM_NEVER)
        sim_at(until, wait_over, fiber, fiber->wait_number);
    fiber_switch_back();
    return fiber->woken;
}

void sim_wake(struct sim_fiber *fiber)
{
    if (!fiber || !fiber->waiting || fiber->dead)
        return;
    fiber->waiting = false;
    fiber->woken = true;
    fiber_queue(fiber);
}

void sim_sleep(int64_t ns)
{
    int64_t until = sim_now + (ns > 0 ? ns : 0);

    do
        (void)sim_wait(until);
    while (sim_now < until);
}

void sim_pause(void)
{
    uint64_t how;

    if (!sim_self || !sim_chance(&sched.preempt, sched.preempt_chance))
        return;
    how = sim_below(&sched.preempt, 1000);
    if (how < 700) /* others first, if any are ready */
        sim_sleep(0);
    else if (how < 950)
        sim_sleep(sim_between(&sched.preempt, 0, 2 * SIM_MS));
    else if (how < 990)
        sim_sleep(sim_between(&sched.preempt, 0, 60 * SIM_MS));
    else
        sim_sleep(sim_between(&sched.preempt, 0, 1500 * SIM_MS));
}

static void waiters_remove(struct sim_waiters *waiters, const struct sim_fiber *fiber)
{
    for (struct sim_fiber **link = &waiters->first; *link; link = &(*link)->wait_next)
        if (*link == fiber) {
            *link = fiber->wait_next;
            return;
        }
}

bool sim_wait_in(struct sim_waiters *waiters, int64_t until)
{
    struct sim_fiber **end = &waiters->first;
    bool woken;

    while (*end)
        end = &(*end)->wait_next;
    sim_self->wait_next = NULL;
    *end = sim_self;
    woken = sim_wait(until);
    waiters_remove(waiters, sim_self);
    return woken;
}

void sim_wake_all(struct sim_waiters *waiters)
{
    for (struct sim_fiber *fiber = waiters->first; fiber; fiber = fiber->wait_next)
        sim_wake(fiber);
}

void sim_wake_one(struct sim_waiters *waiters)
{
    for (struct sim_fiber *fiber = waiters->first; fiber; fiber = fiber->wait_next)
        if (fiber->waiting && !fiber->dead) {
            sim_wake(fiber);
            return;
        }
}

/* ---- processes ---- */

int64_t sim_boot_ns(const struct sim_host *host, int64_t at)
{
    return host->boot_base + at + at / 1000000 * host->drift_ppm + at % 1000000 * host->drift_ppm / 1000000;
}

int64_t sim_true_ns(const struct sim_host *host, int64_t boot_ns)
{
    int64_t passed = boot_ns - host->boot_base;

    if (passed > 1000 * SIM_S) /* no run lasts so long */
        return passed;
    return passed * 1000000 / (1000000 + host->drift_ppm);
}

struct sim_process *sim_process_start(struct sim_host *host, unsigned number)
{
    struct sim_process *process = calloc(1, sizeof *process);

    if (sched.process_count == 64)
        abort();
    process->number = number;
    process->host = host;
    process->pid = 4190000 + (int)sched.process_count; /* beyond what the kernel gives */
    sched.processes[sched.process_count++] = process;
    return process;
}

struct sim_process *sim_process_of(int pid)
{
    int at = pid - 4190000;

    if (at < 0 || at >= (int)sched.process_count || sched.processes[at]->dead)
        return NULL;
    return sched.processes[at];
}

void sim_process_kill(struct sim_process *process)
{
    process->dead = true;
    process->entered = false;
    if (process->host->opening == process)
        process->host->opening = NULL;
    for (struct sim_fiber *fiber = process->fibers; fiber; fiber = fiber->next)
        fiber->dead = true;
}

void sim_process_stop(struct sim_process *process)
{
    process->stopped = true;
}

void sim_process_continue(struct sim_process *process)
{
    struct sim_fiber *fiber = process->deferred, *next;

    process->stopped = false;
    process->deferred = NULL;
    for (; fiber; fiber = next) {
        next = fiber->deferred_next;
        fiber->queued = false;
        if (!fiber->dead)
            fiber_queue(fiber);
    }
}
