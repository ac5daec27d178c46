/*
 * owner.c - processes as owners of words, told apart by what /proc says of them; see owner.h.  Below outbox.c and
 * turn.c, above nothing of ours.
 *
 * The control page is bound to one PID namespace (control.c), so an id means the same process to whoever reads it.
 */
#include <owner.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PID_MASK    0x3fffffu /* the kernel's own limit */
#define START_SHIFT 22        /* within the owner */
#define START_MASK  0x7ffffffu

struct owner_process {
    uint64_t start; /* clock ticks since boot */
    char state;     /* as in ps */
    long threads;
};

/* What /proc says of a process; false when it says nothing. */
static bool owner_look_up(pid_t pid, struct owner_process *ret_process)
{
    char path[40], text[512];
    char *field, *rest;
    ssize_t got;
    int fd;

    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return false;
    got = read(fd, text, sizeof text - 1);
    close(fd);
    if (got <= 0)
        return false;
    text[got] = '\0';
    if (!(field = strrchr(text, ')')) || field[1] != ' ') /* the name before it may hold anything */
        return false;
    *ret_process = (struct owner_process){.state = field[2]};
    field = strtok_r(field + 2, " ", &rest); /* field 3 */
    for (int number = 3; field && number < 22; number++) {
        if (number == 20)
            ret_process->threads = strtol(field, NULL, 10);
        field = strtok_r(NULL, " ", &rest);
    }
    if (!field)
        return false;
    ret_process->start = strtoull(field, NULL, 10);
    return true;
}

/* A start time as it is kept; 0 stands for "not known". */
static uint64_t owner_start(uint64_t ticks)
{
    return (ticks & START_MASK) ? ticks & START_MASK : 1;
}

static _Atomic uint64_t owner_myself; /* the owner bits of this process, once known */

static void owner_forget_myself(void)
{
    atomic_store(&owner_myself, 0);
}

static void owner_watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, owner_forget_myself);
}

uint64_t owner_self(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    uint64_t self = atomic_load(&owner_myself);
    struct owner_process process;
    pid_t pid = getpid();

    if (self != 0 && (self >> OWNER_SHIFT & PID_MASK) == (uint64_t)pid)
        return self;
    (void)pthread_once(&once, owner_watch_forks);
    self = (uint64_t)pid & PID_MASK;
    if (owner_look_up(pid, &process))
        self |= owner_start(process.start) << START_SHIFT;
    self <<= OWNER_SHIFT;
    atomic_store(&owner_myself, self);
    return self;
}

enum owner_life owner_look(uint64_t word)
{
    uint64_t owner = word >> OWNER_SHIFT;
    pid_t pid = (pid_t)(owner & PID_MASK);
    struct owner_process process;

    if (pid == 0)
        return OWNER_DEAD;
    if ((word & OWNER_MASK) == owner_self())
        return OWNER_RUNS;
    if (kill(pid, 0) != 0 && errno == ESRCH)
        return OWNER_DEAD;
    if (!owner_look_up(pid, &process)) /* gone meanwhile, or no /proc */
        return kill(pid, 0) == 0 || errno != ESRCH ? OWNER_RUNS : OWNER_DEAD;
    /* A zombie runs nothing any more, unless it is a main thread that left the others behind. */
    if ((process.state == 'Z' || process.state == 'X') && process.threads <= 1)
        return OWNER_DEAD;
    if (owner >> START_SHIFT != 0 && owner >> START_SHIFT != owner_start(process.start))
        return OWNER_DEAD;
    return process.state == 'T' || process.state == 't' ? OWNER_STOPPED : OWNER_RUNS;
}

bool owner_alive(uint64_t word)
{
    return owner_look(word) != OWNER_DEAD;
}

bool owner_alive_still(struct owner_census *census, uint64_t word)
{
    if (census->owner != (word & OWNER_MASK) || census->owner == 0)
        *census = (struct owner_census){.owner = word & OWNER_MASK, .alive = owner_alive(word)};
    return census->alive;
}
