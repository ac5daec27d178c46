/*
 * bench_hit.c - what a hit does, counted, not timed: system calls, calls that allocate or lock, locked instructions,
 * instructions in all, and stores to memory that other processes see.
 *
 * A child reads; its parent traces it.  System calls are counted over 10,000 hits, the rest by going through some
 * hits instruction by instruction.  The child is a fork, so what stands at an address there stands there here:
 * the parent looks at its own copy of each instruction, and knows malloc by its address.
 *
 * Stores are counted by the child itself, before: it takes away its own right to write to the tier's shared words, and
 * gives it back where a hit faults.  (LMDB's table of readers is left out: a reader's slot there is a line of its own,
 * and raw LMDB writes it too.)
 */
#include "bench_reads.h"

#include <elf.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define HITS    10000u
#define STEPPED 32u
#define SHARES  16u
#define HOTTEST 16u /* keys that are read: in the processor's cache by then */

enum kind { SMALL, LARGE, RAW, KINDS };

struct counts {
    uint64_t calls, allocations, locks, locked, instructions, stores;
};

struct stage {
    struct reads reads[2];      /* 64 B; 1 KiB */
    _Atomic uint32_t *stepping; /* shared: which of its hits the child is at, from 1 */
};

/* ---- the child ---- */

static void read_one(struct stage *stage, enum kind kind, uint32_t i)
{
    struct reads *reads = &stage->reads[kind != SMALL];
    const char *key = reads->records.keys[i % HOTTEST];

    if (kind == RAW)
        (void)raw_map_get_one(reads->map, key, reads->raw_buf);
    else
        (void)freshet_get(reads->cache, key, BENCH_KEY, NULL, &reads->buf, NULL);
}

static struct share {
    unsigned char *start;
    size_t size;
} shares[SHARES];
static volatile unsigned shares_count;
static volatile uint64_t faults;
static pthread_t reader;

static void shares_set(int rights)
{
    for (unsigned i = 0; i < shares_count; i++)
        (void)mprotect(shares[i].start, shares[i].size, rights);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    for (unsigned i = 0; i < shares_count; i++)
        if ((unsigned char *)info->si_addr >= shares[i].start &&
            (unsigned char *)info->si_addr < shares[i].start + shares[i].size) {
            if (pthread_equal(pthread_self(), reader))
                faults++;
            (void)mprotect(shares[i].start, shares[i].size, PROT_READ | PROT_WRITE);
            return;
        }
    (void)signal(SIGSEGV, SIG_DFL); /* a fault of another kind happens again, and ends us */
}

/* The shared words of a tier's directory: what is mapped to be written, LMDB's readers apart. */
static void shares_find(const char *dir)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[1024];

    shares_count = 0;
    while (maps && shares_count < SHARES && fgets(line, sizeof line, maps)) {
        unsigned long long from, to;

        if (sscanf(line, "%llx-%llx", &from, &to) == 2 && strstr(line, " rw-s ") && strstr(line, dir) &&
            !strstr(line, "-lock"))
            shares[shares_count++] = (struct share){(unsigned char *)(uintptr_t)from, (size_t)(to - from)};
    }
    if (maps)
        fclose(maps);
}

/* How many of a thousand hits store anything where others see it; each key was read before. */
static uint64_t count_stores(struct bench *bench, struct stage *stage, enum kind kind)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    char dir[400];

    snprintf(dir, sizeof dir, "%s/%s/", bench->dir, stage->reads[kind != SMALL].host);
    shares_find(dir);
    reader = pthread_self();
    faults = 0;
    (void)sigaction(SIGSEGV, &action, NULL);
    for (uint32_t i = 0; i < 1000 && shares_count > 0; i++) {
        shares_set(PROT_READ);
        read_one(stage, kind, i);
        shares_set(PROT_READ | PROT_WRITE);
    }
    (void)signal(SIGSEGV, SIG_DFL);
    return shares_count > 0 ? faults : UINT64_MAX;
}

/* The marks between which the parent counts: a system call that the library never makes. */
static void mark(void)
{
    (void)syscall(SYS_getppid);
}

static void be_reader(struct bench *bench, void *arg, int fd)
{
    struct stage *stage = arg;
    uint64_t stores[KINDS] = {0};
    bool good = reads_again(bench, &stage->reads[0]) && reads_again(bench, &stage->reads[1]);

    for (int kind = 0; kind < KINDS && good; kind++)
        for (uint32_t i = 0; i < 100000; i++)
            read_one(stage, kind, i);
    for (int kind = 0; kind < RAW && good; kind++)
        stores[kind] = count_stores(bench, stage, kind);
    if (!bench_peer_say(fd, stores, sizeof stores) || !good || ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        return;
    (void)raise(SIGSTOP);
    for (int kind = 0; kind < KINDS; kind++) {
        mark();
        for (uint32_t i = 0; i < HITS; i++)
            read_one(stage, kind, i);
        mark();
    }
    for (int kind = 0; kind < KINDS; kind++) {
        (void)raise(SIGSTOP);
        for (uint32_t i = 0; i < STEPPED; i++) {
            atomic_store(stage->stepping, i + 1);
            read_one(stage, kind, i);
        }
        atomic_store(stage->stepping, 0);
    }
}

/* ---- its parent ---- */

/* Let it go on until it stops for `signal`; false: it ended, or stopped for something else. */
static bool stopped(pid_t pid, int signal)
{
    int status;

    while (waitpid(pid, &status, __WALL) != pid)
        if (errno != EINTR)
            return false;
    return WIFSTOPPED(status) && WSTOPSIG(status) == signal;
}

/* The system calls between two marks. */
static bool count_calls(pid_t pid, uint64_t *ret_calls)
{
    struct __ptrace_syscall_info info;
    unsigned marks = 0;

    *ret_calls = 0;
    while (marks < 2) {
        if (ptrace(PTRACE_SYSCALL, pid, NULL, NULL) != 0 || !stopped(pid, SIGTRAP | 0x80) ||
            ptrace((enum __ptrace_request)PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) <= 0)
            return false;
        if (info.op != PTRACE_SYSCALL_INFO_ENTRY)
            continue;
        if (info.entry.nr == SYS_getppid)
            marks++;
        else if (marks == 1)
            ++*ret_calls;
    }
    return true;
}

#if defined(__x86_64__)
static uintptr_t place(const struct user_regs_struct *registers)
{
    return registers->rip;
}

/* Does the instruction lock a line: a prefix that says so, or an exchange with memory? */
static bool locks_a_line(const unsigned char *at)
{
    bool locked = false;

    for (;; at++) {
        if (*at == 0xf0)
            locked = true;
        else if (*at != 0x66 && *at != 0x67 && *at != 0xf2 && *at != 0xf3 && *at != 0x2e && *at != 0x3e)
            break;
    }
    at += (*at & 0xf0) == 0x40; /* REX */
    return locked || ((*at == 0x86 || *at == 0x87) && at[1] < 0xc0);
}
#elif defined(__aarch64__)
static uintptr_t place(const struct user_regs_struct *registers)
{
    return registers->pc;
}

/* Load-exclusive, compare-and-swap and the other atomics of this architecture. */
static bool locks_a_line(const unsigned char *at)
{
    uint32_t word;

    memcpy(&word, at, sizeof word);
    return (word & 0x3fe00000) == 0x08400000 || (word & 0x3fa07c00) == 0x08a07c00 || (word & 0x3b200c00) == 0x38200000;
}
#else
static uintptr_t place(const struct user_regs_struct *registers)
{
    (void)registers;
    return 0;
}

static bool locks_a_line(const unsigned char *at)
{
    (void)at;
    return false;
}
#endif

static bool is_one_of(uintptr_t at, const uintptr_t *places, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (places[i] == at)
            return true;
    return false;
}

/* Where the child is about to go on. */
static void count_step(uintptr_t at, struct counts *counts)
{
    const uintptr_t allocators[] = {(uintptr_t)malloc, (uintptr_t)calloc, (uintptr_t)realloc, (uintptr_t)free};
    const uintptr_t lockers[] = {(uintptr_t)pthread_mutex_lock, (uintptr_t)pthread_mutex_trylock,
                                 (uintptr_t)pthread_rwlock_rdlock, (uintptr_t)pthread_rwlock_wrlock,
                                 (uintptr_t)pthread_spin_lock};

    counts->instructions++;
    counts->allocations += is_one_of(at, allocators, sizeof allocators / sizeof *allocators);
    counts->locks += is_one_of(at, lockers, sizeof lockers / sizeof *lockers);
    counts->locked += locks_a_line((const unsigned char *)at);
}

static int by_instructions(const void *a, const void *b)
{
    const struct counts *x = a, *y = b;

    return (x->instructions > y->instructions) - (x->instructions < y->instructions);
}

/* From the child's stop through its hits, instruction by instruction, to the end of them: what the median hit took.
 * (Steps are so slow that one of the hits may be that which does what is done once a second.) */
static bool step_through(const struct stage *stage, pid_t pid, struct counts *counts)
{
    struct counts hits[STEPPED] = {0};
    bool begun = false;
    uint64_t calls;
    uint32_t hit;

    if (ptrace(PTRACE_CONT, pid, NULL, NULL) != 0 || !stopped(pid, SIGSTOP))
        return false;
    while (!begun || atomic_load(stage->stepping)) {
        struct user_regs_struct registers;
        struct iovec room = {&registers, sizeof registers};

        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) != 0 || !stopped(pid, SIGTRAP) ||
            ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &room) != 0 || tool_ended)
            return false;
        hit = atomic_load(stage->stepping);
        begun |= hit != 0;
        if (hit > 0 && hit <= STEPPED && place(&registers) != 0)
            count_step(place(&registers), &hits[hit - 1]);
    }
    qsort(hits, STEPPED, sizeof *hits, by_instructions);
    calls = counts->calls;
    *counts = hits[STEPPED / 2];
    counts->calls = calls;
    return true;
}

static bool trace(struct bench *bench, struct stage *stage, pid_t pid, struct counts counts[KINDS])
{
    if (!stopped(pid, SIGSTOP) || ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD) != 0)
        return bench_stop(bench, "cannot trace a process of its own: is ptrace allowed here?");
    for (int kind = 0; kind < KINDS; kind++)
        if (!count_calls(pid, &counts[kind].calls))
            return bench_stop(bench, "the reader ended while its system calls were counted");
    for (int kind = 0; kind < KINDS; kind++) {
        bench_progress(bench, "stepping through %u hits", STEPPED);
        if (!step_through(stage, pid, &counts[kind]))
            return bench_stop(bench, "the reader ended while its instructions were counted");
    }
    return true;
}

/* ---- the rows ---- */

static void show_one(struct bench *bench, const char *kind, const char *what, const char *unit, double ours, double raw,
                     double most)
{
    struct bench_row *row = bench_row_add(bench, 0, "%s/%s", kind, what);

    bench_row_aim(row, most < 0 ? BENCH_AIM_NONE : BENCH_AIM_OURS_MOST, most, unit);
    row->ours = ours;
    row->floor = raw;
}

static void show(struct bench *bench, const char *kind, const struct counts *ours, const struct counts *raw)
{
    show_one(bench, kind, "system calls", "/10,000", (double)ours->calls, (double)raw->calls, 0);
    show_one(bench, kind, "stores others see", "/hit", (double)ours->stores / 1000, 0, 0.01);
    if (ours->instructions <= 1) /* no machine whose steps can be read */
        return;
    show_one(bench, kind, "allocations", "/hit", (double)ours->allocations, (double)raw->allocations, 0);
    show_one(bench, kind, "locks", "/hit", (double)ours->locks, (double)raw->locks, 0);
    show_one(bench, kind, "locked instructions", "/hit", (double)ours->locked, (double)raw->locked, -1);
    show_one(bench, kind, "instructions", "/hit", (double)ours->instructions, (double)raw->instructions, -1);
}

bool bench_hit(struct bench *bench)
{
    const struct reads_case cases[] = {{10000, 64, "64B", BENCH_JOINED, 0, 0},
                                       {10000, 1024, "1KiB", BENCH_ALONE, 0, 0}};
    struct counts counts[KINDS] = {0};
    uint64_t stores[KINDS];
    struct stage stage = {0};
    struct bench_peer peer = {0};
    bool good;

    stage.stepping = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    good = stage.stepping != MAP_FAILED || bench_stop(bench, "no memory");
    for (int i = 0; i < 2 && good; i++)
        good = reads_start(bench, &stage.reads[i], &cases[i]);
    good = good && bench_peer_start(bench, &peer, be_reader, &stage) &&
           (bench_peer_hear(peer.fd, stores, sizeof stores) || bench_stop(bench, "the reader did not come up")) &&
           trace(bench, &stage, peer.pid, counts);
    for (int kind = 0; kind < RAW && good; kind++) {
        counts[kind].stores = stores[kind];
        show(bench, kind == SMALL ? "64B" : "1KiB", &counts[kind], &counts[RAW]);
    }
    bench_peer_stop(&peer);
    for (int i = 0; i < 2; i++)
        reads_end(bench, &stage.reads[i]);
    if (stage.stepping != MAP_FAILED)
        munmap((void *)stage.stepping, 4096);
    return good;
}
