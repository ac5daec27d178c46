/*
 * guest_test.c - the library is a good guest (P8): the host program's signals, loop, output, threads and descriptors
 * are its own.
 */
#include <freshet_fleet.h>
#include <hosts.h>
#include <test.h>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <uv.h>

static unsigned entries(const char *path)
{
    DIR *dir = opendir(path);
    unsigned count = 0;

    EXPECT(dir != NULL);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static unsigned threads(void)
{
    return entries("/proc/self/task");
}

static unsigned descriptors(void)
{
    return entries("/proc/self/fd");
}

static void use(freshet *cache)
{
    freshet_buf buf = {0};

    (void)host_put(cache, "k", "v");
    (void)host_get(cache, "k", NULL, 0);
    (void)freshet_load(cache, "l", 1, NULL, host_loader, "row", &buf, NULL);
    (void)host_invalidate(cache, "k");
    freshet_buf_free(&buf);
}

/* ---- signals ---- */

static volatile sig_atomic_t handled, elsewhere, pipes;
static pid_t own_thread;

static void on_signal(int signal)
{
    if (signal == SIGPIPE)
        pipes++;
    handled++;
    if ((pid_t)syscall(SYS_gettid) != own_thread)
        elsewhere++;
}

TEST(signals_reach_the_programs_own_threads_only)
{
    const int signals[] = {SIGUSR1, SIGUSR2, SIGCHLD, SIGALRM, SIGTERM, SIGHUP, SIGIO, SIGWINCH};
    struct sigaction action = {.sa_handler = on_signal};
    struct redis redis;
    freshet *cache;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 500);
    use(cache);
    EXPECT(threads() > 2 + 1); /* "." and "..": there are others that a signal might go to */
    own_thread = (pid_t)syscall(SYS_gettid);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        EXPECT(sigaction(signals[i], &action, NULL) == 0);
    for (int i = 0; i < 500; i++) {
        sigset_t all, old;

        sigfillset(&all); /* blocked here, a signal would go to any thread that lets it in */
        sigprocmask(SIG_SETMASK, &all, &old);
        kill(getpid(), signals[(size_t)i % (sizeof signals / sizeof *signals)]);
        sigprocmask(SIG_SETMASK, &old, NULL);
        if (i % 20 == 0)
            use(cache);
    }
    EXPECT_EQ(handled, 500);
    EXPECT_EQ(elsewhere, 0);
    freshet_close(cache);
    redis_stop(&redis);
}

/* Redis goes away under the connections, in every state: no SIGPIPE, whatever the program does about it. */
static void lose_redis(freshet *cache, struct redis *redis)
{
    for (int i = 0; i < 5; i++) {
        freshet_write_options options = FRESHET_INIT(freshet_write_options);

        use(cache);
        redis_do(redis, i % 2 ? "CLIENT KILL TYPE normal" : "CLIENT KILL TYPE pubsub");
        use(cache);
        test_kill(redis->pid, SIGKILL);
        redis->pid = 0;
        options.deadline_ms = 50;
        for (int j = 0; j < 20; j++) {
            (void)freshet_invalidate(cache, "k", 1, &options, NULL);
            (void)host_get(cache, "k", NULL, 0);
            test_pause();
        }
        redis_restart(redis);
        EXPECT(test_until(host_put(cache, "k", "v") == FRESHET_OK, 20000));
    }
}

TEST(a_lost_redis_raises_no_sigpipe)
{
    struct redis redis;
    struct sigaction action = {.sa_handler = on_signal};
    freshet *cache;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 200);
    EXPECT(sigaction(SIGPIPE, &action, NULL) == 0);
    lose_redis(cache, &redis);
    EXPECT_EQ(pipes, 0);
    EXPECT(sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == on_signal);
    freshet_close(cache);
    redis_stop(&redis);
}

/* ---- output ---- */

TEST(nothing_is_ever_printed)
{
    struct redis redis;
    char path[400];
    int fd, out, err;
    freshet *cache, *stranger;
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    struct stat stat_;

    redis_start(&redis, NULL);
    (void)host_keyring();
    snprintf(path, sizeof path, "%s/output", fresh_dir());
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    fflush(NULL);
    out = dup(1);
    err = dup(2);
    EXPECT(fd >= 0 && dup2(fd, 1) == 1 && dup2(fd, 2) == 2);
    cache = host_join(fresh_dir(), &redis, 200);
    stranger = host_solo(fresh_dir(), 200);
    join.keyring = "/nonexistent";
    (void)freshet_join(stranger, redis.url, &join);
    (void)freshet_join(stranger, "nonsense", &join);
    redis_do(&redis, "SET freshet:{default:0}:head nonsense");
    use(cache);
    redis_do(&redis, "PUBLISH freshet:{default:0}:frames nonsense");
    lose_redis(cache, &redis);
    freshet_close(stranger);
    freshet_close(cache);
    fflush(NULL);
    EXPECT(dup2(out, 1) == 1 && dup2(err, 2) == 2);
    EXPECT(fstat(fd, &stat_) == 0);
    EXPECT_EQ(stat_.st_size, 0);
    redis_stop(&redis);
}

struct heard {
    pthread_mutex_t lock;
    unsigned lines, newlines;
    freshet *cache;
};

/* May call the library: it is never called under the library's locks. */
static void hear(freshet_level level, const char *message, void *arg)
{
    struct heard *heard = arg;

    (void)level;
    pthread_mutex_lock(&heard->lock);
    heard->lines++;
    heard->newlines += strchr(message, '\n') != NULL;
    pthread_mutex_unlock(&heard->lock);
    if (heard->cache) {
        freshet_stats stats = FRESHET_INIT(freshet_stats);

        (void)freshet_stat(heard->cache, &stats);
        (void)host_peek(heard->cache, "k", NULL, 0);
    }
}

TEST(the_log_callback_hears_lines_and_may_call_the_library)
{
    struct redis redis;
    struct heard heard = {.lock = PTHREAD_MUTEX_INITIALIZER};

    redis_start(&redis, NULL);
    freshet_log(hear, &heard, FRESHET_DEBUG);
    heard.cache = host_join(fresh_dir(), &redis, 200);
    lose_redis(heard.cache, &redis);
    freshet_log(NULL, NULL, FRESHET_DEBUG);
    EXPECT(heard.lines > 0);
    EXPECT_EQ(heard.newlines, 0);
    freshet_close(heard.cache);
    redis_stop(&redis);
}

/* ---- threads and descriptors ---- */

TEST(after_close_no_thread_and_no_descriptor_is_left)
{
    unsigned before_threads, before_descriptors;
    const char *dir = fresh_dir();
    freshet *cache = host_solo(dir, 0);

    use(cache);
    freshet_close(cache); /* once, for what the C library and its kin keep for good */
    before_threads = threads();
    before_descriptors = descriptors();
    for (int i = 0; i < 100; i++) {
        cache = host_solo(dir, 0);
        use(cache);
        freshet_close(cache);
    }
    EXPECT(test_until(threads() == before_threads, 5000));
    EXPECT_EQ(descriptors(), before_descriptors);
}

TEST(after_leaving_a_fleet_no_thread_and_no_descriptor_is_left)
{
    unsigned before_threads, before_descriptors;
    const char *dir = fresh_dir();
    struct redis redis;
    freshet *cache;

    redis_start(&redis, NULL);
    cache = host_join(dir, &redis, 500);
    use(cache);
    freshet_close(cache);
    before_threads = threads();
    before_descriptors = descriptors();
    for (int i = 0; i < 100; i++) {
        cache = host_join(dir, &redis, 500);
        if (i % 3 == 0)
            use(cache);
        if (i % 2 == 0)
            freshet_leave(cache);
        freshet_close(cache);
    }
    EXPECT(test_until(threads() == before_threads, 5000));
    EXPECT_EQ(descriptors(), before_descriptors);
    redis_stop(&redis);
}

TEST(a_failed_open_or_join_leaves_nothing_behind)
{
    unsigned before_threads, before_descriptors;
    freshet *cache = host_solo(fresh_dir(), 0);
    freshet_options bad = FRESHET_INIT(freshet_options);
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    freshet *none;

    use(cache);
    join.keyring = host_keyring();
    (void)freshet_join(cache, "nonsense://x", &join);
    before_threads = threads();
    before_descriptors = descriptors();
    for (int i = 0; i < 50; i++) {
        bad.dir = i % 2 ? "/proc/nothing/here" : "/dev/null";
        EXPECT(freshet_open(&none, &bad) < 0);
        join.keyring = i % 2 ? host_keyring() : "/dev/null";
        EXPECT(freshet_join(cache, i % 2 ? "rediss://x" : "redis://127.0.0.1:1", &join) < 0);
    }
    EXPECT(test_until(threads() == before_threads, 5000));
    EXPECT_EQ(descriptors(), before_descriptors);
    use(cache);
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    EXPECT(host_gets(cache, "k", "v"));
    freshet_close(cache);
}

/* ---- the program's own loop ---- */

struct program {
    uv_timer_t timer;
    uv_signal_t signal;
    uv_process_t child;
    freshet *cache;
    unsigned turns, signals, exits;
};

static void on_turn(uv_timer_t *timer)
{
    struct program *program = timer->data;

    use(program->cache);
    if (program->turns++ % 10 == 0)
        kill(getpid(), SIGUSR1);
    if (program->turns > 200 && program->exits) {
        uv_timer_stop(timer);
        uv_signal_stop(&program->signal);
    }
}

static void on_last_turn(uv_timer_t *timer)
{
    (void)timer; /* one shot */
}

static void on_uv_signal(uv_signal_t *signal, int number)
{
    struct program *program = signal->data;

    (void)number;
    program->signals++;
}

static void on_exit_(uv_process_t *child, int64_t status, int signal)
{
    struct program *program = child->data;

    (void)status, (void)signal;
    program->exits++;
}

TEST(the_programs_own_libuv_loop_goes_on)
{
    char *words[] = {"true", NULL};
    uv_process_options_t options = {.file = "true", .args = words, .exit_cb = on_exit_};
    struct program program = {0};
    uv_loop_t loop;
    struct redis redis;

    redis_start(&redis, NULL);
    EXPECT(uv_loop_init(&loop) == 0);
    program.timer.data = program.signal.data = program.child.data = &program;
    EXPECT(uv_timer_init(&loop, &program.timer) == 0 && uv_signal_init(&loop, &program.signal) == 0);
    program.cache = host_join(fresh_dir(), &redis, 500);
    EXPECT(uv_signal_start(&program.signal, on_uv_signal, SIGUSR1) == 0);
    EXPECT(uv_timer_start(&program.timer, on_turn, 1, 2) == 0);
    EXPECT(uv_spawn(&loop, &program.child, &options) == 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT(program.turns > 200 && program.signals >= 15 && program.exits == 1);
    freshet_close(program.cache);
    EXPECT(uv_timer_start(&program.timer, on_last_turn, 1, 0) == 0);
    uv_run(&loop, UV_RUN_DEFAULT); /* still in order when the library's own loop is gone */
    uv_close((uv_handle_t *)&program.timer, NULL);
    uv_close((uv_handle_t *)&program.signal, NULL);
    uv_close((uv_handle_t *)&program.child, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT(uv_loop_close(&loop) == 0);
    redis_stop(&redis);
}

/* A program at its limit of open files gets an answer, not an abort. */
TEST(without_descriptors_to_be_had_calls_fail_cleanly)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache = host_solo(fresh_dir(), 0), *none;
    int fds[1024];
    int count = 0;

    options.dir = fresh_dir();
    use(cache);
    EXPECT(setrlimit(RLIMIT_NOFILE, &(struct rlimit){64, 64}) == 0);
    while (count < 1024 && (fds[count] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        count++;
    EXPECT(freshet_open(&none, &options) < 0);
    EXPECT(freshet_error()[0] != '\0');
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    EXPECT(host_gets(cache, "k", "v"));
    while (count > 0)
        close(fds[--count]);
    EXPECT_EQ(freshet_open(&none, &options), FRESHET_OK);
    freshet_close(none);
    freshet_close(cache);
}
