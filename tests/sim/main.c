/*
 * main.c - freshet-sim: simulate fleets through faults, a run for each seed, and check the promises on every answer.
 *
 * Each run has a process of its own, so that nothing of one is left to the next and the same seed is the same run
 * wherever it comes.  A run that fails is tried again with one operation or fault after the other left out, as long as
 * it goes on failing; what is left is told.
 */
#include "world.h"

#include "libc.h"

#include <errno.h>
#include <freshet_fleet.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RUN_S   20  /* of the processor's time, at most */
#define STUCK_S 600 /* of real time: nothing here waits for anything */

struct figures *figures;

static char place[64], keyring[80];
static struct plan plan;

static void usage(void)
{
    fprintf(stderr, "usage: freshet-sim [--first-seed S] [--seeds N] [--verbose] [--no-shrink] [--one]\n"
                    "  --first-seed S   the first seed, 1 unless given\n"
                    "  --seeds N        how many, 1 unless given\n"
                    "  --verbose        tell all that happens (one seed is enough to read)\n"
                    "  --no-shrink      do not look for a failing seed's shortest history\n"
                    "  --one            end with the first seed that fails\n"
                    "The last line is \"N seeds, N violations\".  Exit status: 0 none, 1 some, 2 bad usage.\n");
    exit(2);
}

/* Run the plan in a process of its own; false: it failed, and figures->why says why. */
static bool run(bool telling)
{
    int status;
    pid_t child;

    figures->failed = false;
    figures->why[0] = '\0';
    fflush(NULL);
    if ((child = fork()) < 0) {
        perror("fork");
        exit(2);
    }
    if (child == 0) {
        (void)setitimer(ITIMER_PROF, &(struct itimerval){.it_value.tv_sec = RUN_S}, NULL);
        (void)alarm(STUCK_S);
        world_run(&plan, telling, place, keyring);
        fflush(NULL);
        _exit(0);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (!figures->failed && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
        figures->failed = true;
        (void)snprintf(figures->why, sizeof figures->why, "the run %s",
                       WIFSIGNALED(status) && (WTERMSIG(status) == SIGPROF || WTERMSIG(status) == SIGALRM)
                           ? "does not end"
                           : "crashed");
    }
    return !figures->failed;
}

/* Leave out what the failure does not need. */
static void shrink(void)
{
    bool again = true;
    struct figures kept = *figures;

    for (int round = 0; again && round < 4; round++) {
        again = false;
        for (unsigned i = 0; i < 2 * EVENTS_MAX; i++) {
            unsigned number = 2 * EVENTS_MAX - 1 - i; /* faults first */

            if (plan.left_out[number] ||
                (number < EVENTS_MAX ? number >= plan.op_count : number - EVENTS_MAX >= plan.fault_count))
                continue;
            plan.left_out[number] = true;
            if (!run(false) && strncmp(figures->why, kept.why, strcspn(kept.why, ":")) == 0)
                again = true;
            else
                plan.left_out[number] = false;
        }
    }
    *figures = kept;
}

static void place_make(void)
{
    strcpy(place, "/dev/shm/freshet-sim.XXXXXX");
    if (!mkdtemp(place)) {
        strcpy(place, "/tmp/freshet-sim.XXXXXX");
        if (!mkdtemp(place)) {
            perror(place);
            exit(2);
        }
    }
    for (unsigned i = 0; i < SIM_HOSTS_MAX; i++) {
        char path[80];

        (void)snprintf(path, sizeof path, "%s/%u", place, i);
        (void)mkdir(path, 0700);
    }
    (void)snprintf(keyring, sizeof keyring, "%s/keyring", place);
    if (freshet_keygen(keyring, NULL) != FRESHET_OK) {
        fprintf(stderr, "freshet-sim: %s\n", freshet_error());
        exit(2);
    }
}

static void place_remove(void)
{
    char path[100];

    for (unsigned i = 0; i < SIM_HOSTS_MAX; i++) {
        (void)snprintf(path, sizeof path, "%s/%u/control", place, i);
        (void)unlink(path);
        (void)snprintf(path, sizeof path, "%s/%u", place, i);
        (void)rmdir(path);
    }
    (void)unlink(keyring);
    (void)rmdir(place);
}

static void tell_figures(double seconds)
{
    const struct figures *f = figures;

    printf(
        "%llu runs in %.1f s; %llu reads: %llu from the tier, %llu from Redis, %llu loaded, %llu joined, %llu stale, "
        "%llu misses; %llu of them absent\n",
        (unsigned long long)f->runs, seconds, (unsigned long long)f->reads, (unsigned long long)f->tier,
        (unsigned long long)f->redis, (unsigned long long)f->loader, (unsigned long long)f->joined,
        (unsigned long long)f->stale, (unsigned long long)f->misses, (unsigned long long)f->absents);
    printf("%llu changes: %llu puts, %llu clears, %llu queued, %llu outdated; %llu fills, %llu refused; %llu epochs; "
           "%llu last looks\n%llu guards, %llu lost, %llu not begun; %llu strong changes, %llu hosts waited out; %llu "
           "replicated; %llu reads with a token, %llu of the latest\n",
           (unsigned long long)f->changes, (unsigned long long)f->puts, (unsigned long long)f->clears,
           (unsigned long long)f->queued, (unsigned long long)f->outdated, (unsigned long long)f->fills,
           (unsigned long long)f->refused, (unsigned long long)f->epochs, (unsigned long long)f->finals,
           (unsigned long long)f->guards, (unsigned long long)f->guards_lost, (unsigned long long)f->guards_refused,
           (unsigned long long)f->strong, (unsigned long long)f->waited_out, (unsigned long long)f->safe,
           (unsigned long long)f->followed, (unsigned long long)f->latest);
    printf("void answers within their bound: %llu, the oldest at %.1f %% of it; commands to Redis: %llu; trace "
           "%016llx\nfaults:",
           (unsigned long long)f->looked, (double)f->oldest_permille / 10, (unsigned long long)f->steps,
           (unsigned long long)f->trace);
    for (unsigned i = 0; i < FAULT_KINDS; i++)
        printf("%s %s %llu", i ? "," : "", fault_names[i], (unsigned long long)f->faults[i]);
    printf("\n");
}

/* One seed; false: a violation, which is told. */
static bool seed_run(uint64_t seed, bool verbose, bool shrinking)
{
    plan_make(&plan, seed);
    if (run(verbose))
        return true;
    printf("seed %llu: %s\n", (unsigned long long)seed, figures->why);
    if (shrinking) {
        shrink();
        printf("seed %llu, what it takes:\n", (unsigned long long)seed);
        struct figures kept = *figures;

        (void)run(true);
        *figures = kept;
    }
    return false;
}

int main(int argc, char **argv)
{
    uint64_t first = 1, seeds = 1, done = 0, violations = 0, trace = 0;
    bool verbose = false, shrinking = true, one = false;
    struct timespec begun, ended;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--verbose") == 0)
            verbose = true;
        else if (strcmp(argv[i], "--no-shrink") == 0)
            shrinking = false;
        else if (strcmp(argv[i], "--one") == 0)
            one = true;
        else if (strcmp(argv[i], "--first-seed") == 0 && i + 1 < argc)
            first = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc)
            seeds = strtoull(argv[++i], NULL, 10);
        else
            usage();
    }
    figures = mmap(NULL, sizeof *figures, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (figures == MAP_FAILED)
        return 2;
    (void)mallopt(M_TOP_PAD, 16 << 20); /* the kernel is asked less often */
    (void)mallopt(M_TRIM_THRESHOLD, 64 << 20);
    libc_init();
    place_make();
    world_prepare();
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (uint64_t seed = first; seed < first + seeds && !(one && violations); seed++) {
        violations += !seed_run(seed, verbose, shrinking);
        done++;
        trace = (trace ^ figures->trace) * UINT64_C(0x100000001b3);
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    figures->trace = trace;
    tell_figures((double)(ended.tv_sec - begun.tv_sec) + (double)(ended.tv_nsec - begun.tv_nsec) / 1e9);
    place_remove();
    printf("%llu seeds, %llu violations\n", (unsigned long long)done, (unsigned long long)violations);
    return violations ? 1 : 0;
}
