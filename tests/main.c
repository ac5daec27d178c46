/*
 * main.c - runs the tests that the program's files have registered (test.h).
 *
 * Each runs in a process of its own that leads a process group of its own, one after the other: bounds in milliseconds
 * are not to be measured beside a neighbour.  When it has ended, whatever it left running is killed, first the group,
 * then what left the group and came to us as its reaper; then its directories go.  A server's log is
 * shown when a test fails, since the directory that it stands in goes too.
 *
 * usage: PROGRAM [--list] [FILTER...]     a FILTER is a part of "file.name"; any one that fits will do
 * TEST_AGAIN=1 in the environment gives a test that fails a second chance, and says so.
 * TEST_PATIENCE=N makes every limit N times as long (valgrind, a busy machine).
 */
#include <test.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NAME_MAX_  200u
#define REASON_MAX 240u
#define EXIT_SKIP  77
#define LOG_TAIL   3000

struct test {
    char name[NAME_MAX_]; /* "file.name" */
    test_fn fn;
    unsigned seconds;
};

enum outcome { PASSED, FAILED, SKIPPED };

static struct test *tests;
static size_t tests_count, tests_room;
/* The present test's home, known in it and in its children. */
static char home[256];
/* Shared with the test: why it is skipped. */
static char *reason;
/* The present test's group, for the moment when we are told to end. */
static volatile pid_t running;

/* There only in a program with that sanitizer. */
extern void __asan_init(void) __attribute__((weak));
extern void __tsan_init(void) __attribute__((weak));

/* Asked by the thread sanitizer when it starts: children of ours have threads of their own. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "die_after_fork=0";
}

/* Looking whose a descriptor is, is no race with whoever opens or closes it just now: the answer is "not ours" either
 * way.  And the sanitizer watches numbers of descriptors as if they were variables, but does not see each that is
 * closed, or openat() take one: a number used again by another thread is no race either, nor a directory that one
 * function reads.
 */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:fd_is\nrace:loop_file_is_ours\nrace:dir_check\nrace:loop_socket\n"
           "race:tier_note_fds\nrace:dir_empty\nrace:dir_set_files_aside\n";
}

/* ---- what tests call ---- */

void test_register(const char *file, const char *name, test_fn fn, unsigned seconds)
{
    const char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
    int stem = (int)strcspn(base, ".");

    if (tests_count == tests_room) {
        tests_room = tests_room ? tests_room * 2 : 64;
        tests = realloc(tests, tests_room * sizeof *tests);
        if (!tests)
            abort();
    }
    snprintf(tests[tests_count].name, NAME_MAX_, "%.*s.%s", stem, base, name);
    tests[tests_count].fn = fn;
    tests[tests_count++].seconds = seconds;
}

void test_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    fflush(NULL);
    _exit(1);
}

void test_failed_eq(const char *file, int line, const char *what, long long a, long long b)
{
    fprintf(stderr, "%s:%d: not so: %s (%lld, %lld)\n", file, line, what, a, b);
    fflush(NULL);
    _exit(1);
}

void test_skip(const char *why)
{
    snprintf(reason, REASON_MAX, "%s", why);
    fflush(NULL);
    _exit(EXIT_SKIP);
}

void test_one_thread(void)
{
    if (test_thread_sanitized())
        test_skip("much work in one thread, or in processes of one each, which has no races that it sees");
}

/* Has this process other threads than the one that asks?  The thread sanitizer has one of its own. */
static bool has_threads(void)
{
    struct stat tasks;

    return stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink > (test_thread_sanitized() ? 2u : 1u) + 2u;
}

pid_t test_fork(void)
{
    pid_t child;

    if (test_sanitized() && has_threads())
        test_skip("the sanitizer's own locks do not survive the fork of a process with threads");
    fflush(NULL);
    child = fork(); /* in our group, which the runner kills */
    if (child < 0)
        test_failed(__FILE__, __LINE__, "fork");
    return child;
}

void test_child_done(void)
{
    fflush(NULL);
    _exit(0);
}

void test_join(pid_t child)
{
    int status;

    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            test_failed(__FILE__, __LINE__, "the child is there to wait for");
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIP)
        _exit(EXIT_SKIP);
    if (WIFSIGNALED(status))
        fprintf(stderr, "child %d: ended by signal %d (%s)\n", (int)child, WTERMSIG(status),
                strsignal(WTERMSIG(status)));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        test_failed(__FILE__, __LINE__, "the child ended well");
}

void test_kill(pid_t child, int signal)
{
    int status;

    if (kill(child, signal) != 0)
        test_failed(__FILE__, __LINE__, "the child is there to be signalled");
    if (signal != SIGKILL)
        return;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
}

const char *test_home(void)
{
    if (mkdir(home, 0700) != 0 && errno != EEXIST)
        test_failed(__FILE__, __LINE__, "the test's directory can be made");
    return home;
}

const char *fresh_dir(void)
{
    static char paths[64][320];
    static unsigned next;
    char *path = paths[__atomic_fetch_add(&next, 1, __ATOMIC_RELAXED) % 64];

    snprintf(path, sizeof paths[0], "%s/XXXXXX", test_home());
    if (!mkdtemp(path))
        test_failed(__FILE__, __LINE__, "a fresh directory can be made");
    return path;
}

int64_t test_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

void test_pause(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

bool test_until_fn(bool (*condition)(void *arg), void *arg, unsigned ms)
{
    return test_until(condition(arg), ms);
}

/* Steele, Lea and Flood's SplitMix64: any seed will do, also 0. */
uint64_t test_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

bool test_long_runs(void)
{
    const char *word = getenv("TEST_LONG_RUNS");

    return word && word[0] && strcmp(word, "0") != 0;
}

bool test_sanitized(void)
{
    return __asan_init || __tsan_init;
}

bool test_thread_sanitized(void)
{
    return __tsan_init;
}

/* ---- what a test leaves behind ---- */

/* Remove one thing; what a test mounted comes off first. */
static int remove_one(const char *path, const struct stat *stat, int type, struct FTW *where)
{
    (void)stat, (void)type, (void)where;
    if (remove(path) != 0 && errno == EBUSY && umount2(path, MNT_DETACH) == 0)
        (void)remove(path);
    return 0;
}

static void remove_home(void)
{
    if (access(home, F_OK) == 0)
        (void)nftw(home, remove_one, 32, FTW_DEPTH | FTW_PHYS);
}

/* Show the end of every log file that the test's servers wrote. */
static void show_logs(void)
{
    char pattern[300], bytes[LOG_TAIL + 1];
    glob_t found;

    snprintf(pattern, sizeof pattern, "%s/*/*.log", home);
    if (glob(pattern, 0, NULL, &found) != 0)
        return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        FILE *file = fopen(found.gl_pathv[i], "r");
        size_t size;

        if (!file)
            continue;
        (void)fseek(file, -LOG_TAIL, SEEK_END);
        size = fread(bytes, 1, LOG_TAIL, file);
        fprintf(stderr, "--- %s\n%.*s---\n", found.gl_pathv[i], (int)size, bytes);
        fclose(file);
    }
    globfree(&found);
}

/* Kill by pid what left the test's group (a session of its own) and was given to us, its reaper. */
static void kill_adopted(void)
{
    char path[64];
    FILE *file;
    int pid;

    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    if (!(file = fopen(path, "re")))
        return;
    while (fscanf(file, "%d", &pid) == 1)
        (void)kill(pid, SIGKILL);
    fclose(file);
}

/* End the test's group and everything that came from it. */
static void end_group(pid_t leader)
{
    (void)kill(-leader, SIGKILL);
    for (;;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);

        if (pid < 0 && errno != EINTR)
            return; /* none left */
        if (pid != 0)
            continue;
        kill_adopted();
        test_pause();
    }
}

/* ---- running ---- */

/* Told to end: take the test along. */
static void on_signal(int signal)
{
    if (running > 0)
        (void)kill(-running, SIGKILL);
    _exit(128 + signal);
}

static unsigned patience(void)
{
    const char *word = getenv("TEST_PATIENCE");
    long times = word ? strtol(word, NULL, 10) : 1;

    return times < 1 || times > 1000 ? 1 : (unsigned)times;
}

/* Wait for the test until it has used up its time; false: it has. */
static bool wait_for(pid_t leader, unsigned seconds, int *ret_status)
{
    int64_t end = test_now_ns() + (int64_t)seconds * 1000000000LL;
    sigset_t child_ends;

    sigemptyset(&child_ends);
    sigaddset(&child_ends, SIGCHLD);
    for (;;) {
        pid_t pid = waitpid(leader, ret_status, WNOHANG);
        struct timespec most = {.tv_nsec = 200000000};

        if (pid == leader)
            return true;
        if (test_now_ns() > end)
            return false;
        (void)sigtimedwait(&child_ends, NULL, &most); /* held back in main, so none is missed */
    }
}

/* The test's process: the test, and an orderly exit, so that a sanitizer can look for leaks. */
static bool leaves;

void test_leaves(void)
{
    leaves = true;
}

_Noreturn static void run_child(const struct test *test, const sigset_t *mask)
{
    (void)setpgid(0, 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGTERM, SIG_DFL);
    (void)sigprocmask(SIG_SETMASK, mask, NULL);
    test->fn();
    fflush(NULL);
    if (leaves)
        _exit(0);
    exit(0);
}

/* Run one test; what it says on stderr passes through. */
static enum outcome run(const struct test *test, const sigset_t *mask, char *ret_why, size_t why_size)
{
    unsigned seconds = test->seconds * patience();
    int status = 0;
    pid_t leader;

    reason[0] = '\0';
    ret_why[0] = '\0';
    fflush(NULL);
    leader = fork();
    if (leader < 0) {
        snprintf(ret_why, why_size, "fork: %s", strerror(errno));
        return FAILED;
    }
    if (leader == 0)
        run_child(test, mask);
    (void)setpgid(leader, leader);
    running = leader;
    if (!wait_for(leader, seconds, &status))
        snprintf(ret_why, why_size, "not done after %u s", seconds);
    else if (WIFSIGNALED(status))
        snprintf(ret_why, why_size, "signal %d, %s", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) == EXIT_SKIP)
        snprintf(ret_why, why_size, "%s", reason[0] ? reason : "no reason given");
    else if (WEXITSTATUS(status) != 0)
        snprintf(ret_why, why_size, "exit status %d", WEXITSTATUS(status));
    end_group(leader);
    running = 0;
    if (!ret_why[0])
        return PASSED;
    return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIP ? SKIPPED : FAILED;
}

static bool wanted(const struct test *test, int filters, char **filter)
{
    for (int i = 0; i < filters; i++)
        if (strstr(test->name, filter[i]))
            return true;
    return filters == 0;
}

/* Where this test's directories are to be; made by the first fresh_dir. */
static void choose_home(size_t number)
{
    const char *base = getenv("TMPDIR");

    snprintf(home, sizeof home, "%s/freshet-test-%d.%zu", base && base[0] ? base : "/dev/shm", (int)getpid(), number);
}

int main(int argc, char **argv)
{
    static const char *const words[] = {"ok  ", "FAIL", "skip"};
    unsigned counts[3] = {0};
    bool list = argc > 1 && strcmp(argv[1], "--list") == 0;
    sigset_t child_ends, mask;
    char why[REASON_MAX];

    argc -= 1 + list;
    argv += 1 + list;
    setvbuf(stdout, NULL, _IOLBF, 0);
    reason = mmap(NULL, REASON_MAX, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (reason == MAP_FAILED || prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
        return 2;
    sigemptyset(&child_ends);
    sigaddset(&child_ends, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_ends, &mask);
    (void)signal(SIGINT, on_signal);
    (void)signal(SIGTERM, on_signal);
    for (size_t i = 0; i < tests_count; i++) {
        int64_t begin = test_now_ns();
        enum outcome outcome;

        if (!wanted(&tests[i], argc, argv))
            continue;
        if (list) {
            printf("%s\n", tests[i].name);
            continue;
        }
        choose_home(i);
        outcome = run(&tests[i], &mask, why, sizeof why);
        if (outcome == FAILED && getenv("TEST_AGAIN")) {
            printf("again           %s: %s; once more, and that counts\n", tests[i].name, why);
            show_logs();
            outcome = run(&tests[i], &mask, why, sizeof why);
        }
        counts[outcome]++;
        printf("%s %6lld ms  %s%s%s\n", words[outcome], (long long)((test_now_ns() - begin) / 1000000), tests[i].name,
               why[0] ? ": " : "", why);
        if (outcome == FAILED)
            show_logs();
        remove_home();
    }
    free(tests);
    if (list)
        return 0;
    printf("%u passed, %u failed, %u skipped\n", counts[PASSED], counts[FAILED], counts[SKIPPED]);
    return counts[FAILED] == 0 && counts[PASSED] > 0 ? 0 : 1;
}
