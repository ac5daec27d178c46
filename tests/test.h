/*
 * test.h - a small test library: writing a test registers it, each runs in a process of its own.
 *
 *     TEST(what_one_process_puts_another_gets) { EXPECT(1 + 1 == 2); }
 *
 * A process a test: one that crashes or hangs fails alone, and nothing that it leaves in memory colours the next.  A
 * failed EXPECT says where and ends the test.  The whole ends with "N passed, N failed, N skipped".
 */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef void (*test_fn)(void);
void test_register(const char *file, const char *name, test_fn fn, unsigned seconds);

/* A test that must end within 60 seconds; TEST_LONG names its own. */
#define TEST(name) TEST_LONG(name, 60)
#define TEST_LONG(name, seconds)                                                                                       \
    static void name(void);                                                                                            \
    __attribute__((constructor)) static void register_##name(void)                                                     \
    {                                                                                                                  \
        test_register(__FILE__, #name, name, seconds);                                                                 \
    }                                                                                                                  \
    static void name(void)

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            test_failed(__FILE__, __LINE__, #condition);                                                               \
    } while (0)
/* The same for two integers, showing both. */
#define EXPECT_EQ(a, b)                                                                                                \
    do {                                                                                                               \
        long long a_ = (long long)(a), b_ = (long long)(b);                                                            \
        if (a_ != b_)                                                                                                  \
            test_failed_eq(__FILE__, __LINE__, #a " == " #b, a_, b_);                                                  \
    } while (0)
_Noreturn void test_failed(const char *file, int line, const char *what);
_Noreturn void test_failed_eq(const char *file, int line, const char *what, long long a, long long b);
/* End the test as skipped, with the reason that is printed. */
_Noreturn void test_skip(const char *why);

/* What this test leaves in memory goes with its process: its own buffers, or what the library gives up on purpose (a
 * map whose descriptors were closed, a child's inheritance).  No leak is looked for at its end. */
void test_leaves(void);

/* Run the block in a child process, wait for it, and fail when it failed. */
#define IN_CHILD(...)                                                                                                  \
    do {                                                                                                               \
        pid_t child_ = test_fork();                                                                                    \
        if (child_ == 0) {                                                                                             \
            __VA_ARGS__;                                                                                               \
            test_child_done();                                                                                         \
        }                                                                                                              \
        test_join(child_);                                                                                             \
    } while (0)
/* fork() whose child is killed when the test ends, whatever happens. */
pid_t test_fork(void);
_Noreturn void test_child_done(void);    /* leave a child well, without the parent's atexit */
void test_join(pid_t child);             /* wait for it; it must have ended well */
void test_kill(pid_t child, int signal); /* send, and for SIGKILL wait for its end */

/* An empty directory (mode 0700) on memory; goes with the test.  Static storage, a new one each call. */
const char *fresh_dir(void);
/* The directory that they are in: the same for every process of the test. */
const char *test_home(void);
/* CLOCK_BOOTTIME, and a wait for a condition: false when it did not come true within `ms`. */
int64_t test_now_ns(void);
bool test_until_fn(bool (*condition)(void *arg), void *arg, unsigned ms);
#define test_until(condition, ms)                                                                                      \
    __extension__({                                                                                                    \
        int64_t end_ = test_now_ns() + (int64_t)(ms)*1000000;                                                          \
        bool met_ = false;                                                                                             \
        while (!(met_ = (condition)) && test_now_ns() < end_)                                                          \
            test_pause();                                                                                              \
        met_;                                                                                                          \
    })
void test_pause(void); /* a millisecond, for the loops above */
/* Bytes that follow from a seed, the same on every run. */
uint64_t test_random(uint64_t *state);
/* True when the program was asked for long runs (TEST_LONG_RUNS=1 in the environment). */
bool test_long_runs(void);
/* True in a program made with a sanitizer, whose own locks do not survive a fork in the midst of other threads' calls.
 */
bool test_sanitized(void);
bool test_thread_sanitized(void);
/* Skip under ThreadSanitizer: much work in one thread, or in processes of one each, has no races that it sees. */
void test_one_thread(void);

#endif
