/*
 * keeper.c - see keeper.h.  Between guard.c and the table (guarded.c); the fleet's guards are prolonged by its loop.
 *
 * A guard ends by its deadline, so that a holder that dies ends it; and a holder that lives puts the deadline off, each
 * third of its time.  Nobody else could: who finds a deadline passed cannot tell how lately its holder has died, and
 * the database may just be committing what it sent last.
 */
#include <keeper.h>

#include <clock.h>
#include <errno.h>
#include <log.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct keeper {
    struct control *control;
    pthread_mutex_t lock; /* all that follows, and each struct kept */
    pthread_cond_t news;
    struct kept *list;
    pthread_t thread;
    bool started, closing;
};

/* Prolong what is due; when the next one is. */
static int64_t keeper_turn(struct keeper *keeper)
{
    int64_t next_ns = INT64_MAX;

    for (struct kept *kept = keeper->list; kept; kept = kept->next) {
        int64_t now_ns = clock_boot_ns();

        if (kept->fixed || kept->lost)
            continue;
        if (kept->due_ns <= now_ns) {
            int64_t until_ms = now_ns / CLOCK_NS_PER_MS + kept->hold_ms;

            kept->lost = !guarded_prolong(keeper->control, kept->guarded, kept->count, until_ms);
            kept->due_ns = now_ns + kept->hold_ms * CLOCK_NS_PER_MS / 3;
            if (kept->lost)
                say(FRESHET_WARN, "a guard on %u keys is lost: this process did not prolong it in time", kept->count);
        }
        next_ns = kept->due_ns < next_ns ? kept->due_ns : next_ns;
    }
    return next_ns;
}

/* Wait until then, or until something is new. */
static void keeper_wait(struct keeper *keeper, int64_t until_ns)
{
    int64_t left = until_ns - clock_boot_ns();
    struct timespec at;

    if (until_ns == INT64_MAX) {
        (void)pthread_cond_wait(&keeper->news, &keeper->lock);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &at);
    left += at.tv_sec * CLOCK_NS_PER_S + at.tv_nsec;
    at = (struct timespec){.tv_sec = left / CLOCK_NS_PER_S, .tv_nsec = left % CLOCK_NS_PER_S};
    (void)pthread_cond_timedwait(&keeper->news, &keeper->lock, &at);
}

static void *keeper_main(void *arg)
{
    struct keeper *keeper = arg;

    pthread_mutex_lock(&keeper->lock);
    while (!keeper->closing)
        keeper_wait(keeper, keeper_turn(keeper));
    pthread_mutex_unlock(&keeper->lock);
    return NULL;
}

/* Under the lock: start the thread, deaf to all signals. */
static bool keeper_start(struct keeper *keeper)
{
    sigset_t all, before;

    if (keeper->started)
        return true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    keeper->started = pthread_create(&keeper->thread, NULL, keeper_main, keeper) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (keeper->started)
        (void)pthread_setname_np(keeper->thread, "freshet-keeper");
    return keeper->started;
}

freshet_result keeper_open(struct keeper **ret_keeper, struct control *control)
{
    struct keeper *keeper = calloc(1, sizeof *keeper);
    pthread_condattr_t monotonic;

    if (!keeper)
        return fail(FRESHET_ENOMEM, "no memory for guards");
    keeper->control = control;
    pthread_mutex_init(&keeper->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&keeper->news, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *ret_keeper = keeper;
    return FRESHET_OK;
}

void keeper_close(struct keeper *keeper)
{
    if (!keeper)
        return;
    pthread_mutex_lock(&keeper->lock);
    keeper->closing = true;
    pthread_cond_broadcast(&keeper->news);
    pthread_mutex_unlock(&keeper->lock);
    if (keeper->started)
        (void)pthread_join(keeper->thread, NULL);
    pthread_cond_destroy(&keeper->news);
    pthread_mutex_destroy(&keeper->lock);
    free(keeper);
}

freshet_result keeper_add(struct keeper *keeper, struct kept *kept)
{
    freshet_result result = FRESHET_OK;

    pthread_mutex_lock(&keeper->lock);
    if (!kept->fixed && !keeper_start(keeper)) {
        result = fail(FRESHET_ENOMEM, "no thread can be started to prolong guards");
    } else {
        kept->due_ns = clock_boot_ns() + kept->hold_ms * CLOCK_NS_PER_MS / 3;
        kept->next = keeper->list;
        keeper->list = kept;
        pthread_cond_broadcast(&keeper->news);
    }
    pthread_mutex_unlock(&keeper->lock);
    return result;
}

bool keeper_end(struct keeper *keeper, struct kept *kept)
{
    struct kept **link = &keeper->list;
    bool held;

    pthread_mutex_lock(&keeper->lock);
    while (*link && *link != kept)
        link = &(*link)->next;
    if (*link)
        *link = kept->next;
    held = guarded_end(keeper->control, kept->guarded, kept->count) && !kept->lost;
    pthread_mutex_unlock(&keeper->lock);
    return held;
}

int64_t keeper_left(struct keeper *keeper, const struct kept *kept)
{
    int64_t left;

    pthread_mutex_lock(&keeper->lock);
    left = kept->lost ? 0 : guarded_left(keeper->control, kept->guarded, kept->count);
    pthread_mutex_unlock(&keeper->lock);
    return left;
}
