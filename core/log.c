/*
 * log.c - the thread's (or fiber's) last sentence, the host's callback, and the step hook.
 *
 * Neither allocates nor locks: a failure is most in need of words when memory is short, and a child after fork may
 * come here while a thread that it does not have was in the middle.
 */
#include <fiber.h>
#include <log.h>
#include <step.h>
#include <trace.h>

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#define LOG_LISTENERS 16u

void (*_Atomic step_hook)(const char *point);
void (*_Atomic trace_hook)(const struct trace *trace);

static _Thread_local char log_sentence[LOG_SENTENCE];
static _Thread_local char *log_place; /* of the fiber that runs; NULL: the thread's own */

static __attribute__((noinline)) char *log_here(void)
{
    return log_place ? log_place : log_sentence;
}

char *fail_sentence(char *place)
{
    char *before = log_place;

    log_place = place;
    return before;
}

freshet_result fail(freshet_result result, const char *format, ...)
{
    int error = errno;
    char line[LOG_SENTENCE]; /* an argument may be the last sentence itself */
    va_list args;

    va_start(args, format);
    (void)vsnprintf(line, sizeof line, format, args);
    va_end(args);
    (void)snprintf(log_here(), LOG_SENTENCE, "%s", line);
    errno = error;
    return result;
}

void fail_clear(void)
{
    log_here()[0] = '\0';
}

const char *freshet_error(void)
{
    return log_here();
}

/* The callback, its argument and level belong together, but are three words.  Each call of freshet_log fills the next
 * of these, then says which it is; whoever reads looks whether it has been used again meanwhile. */
static struct {
    _Atomic(freshet_log_fn) fn;
    void *_Atomic arg;
    _Atomic int least;
} log_listeners[LOG_LISTENERS];
static _Atomic unsigned log_drawn;  /* numbers given out */
static _Atomic unsigned log_now;    /* the number in force; slot = number mod LOG_LISTENERS */

void freshet_log(freshet_log_fn fn, void *arg, freshet_level least)
{
    unsigned number = atomic_fetch_add(&log_drawn, 1) + 1;

    atomic_store(&log_listeners[number % LOG_LISTENERS].fn, fn);
    atomic_store(&log_listeners[number % LOG_LISTENERS].arg, arg);
    atomic_store(&log_listeners[number % LOG_LISTENERS].least, (int)least);
    atomic_store(&log_now, number);
}

/* Who listens to this level?  NULL: nobody. */
static freshet_log_fn log_listener(freshet_level level, void **ret_arg)
{
    for (;;) {
        unsigned number = atomic_load(&log_now);
        freshet_log_fn fn = atomic_load(&log_listeners[number % LOG_LISTENERS].fn);
        int least = atomic_load(&log_listeners[number % LOG_LISTENERS].least);

        *ret_arg = atomic_load(&log_listeners[number % LOG_LISTENERS].arg);
        if (atomic_load(&log_drawn) - number < LOG_LISTENERS)
            return fn && (int)level >= least ? fn : NULL;
    }
}

struct log_saying {
    freshet_log_fn fn;
    freshet_level level;
    char line[LOG_SENTENCE];
    void *arg;
};

static void log_hand_over(void *arg)
{
    const struct log_saying *saying = arg;

    saying->fn(saying->level, saying->line, saying->arg);
}

void say(freshet_level level, const char *format, ...)
{
    struct log_saying saying = {.level = level};
    int error = errno;
    va_list args;

    if (!(saying.fn = log_listener(level, &saying.arg)))
        return;
    va_start(args, format);
    (void)vsnprintf(saying.line, sizeof saying.line, format, args);
    va_end(args);
    wait_outside(log_hand_over, &saying);
    errno = error;
}
