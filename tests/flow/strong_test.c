/*
 * strong_test.c - strong writes (P4): a call with wait = all hosts returns when nobody serves the older value any more,
 * and says of each host whether it has the change or the bound was waited.
 *
 * Other hosts are processes of their own, so that they can be stopped and killed.  They read their tiers all the time
 * and note when they last served a value; each test holds that against the moment at which the write returned.
 */
#include <hosts.h>
#include <test.h>

#include <freshet_fleet.h>

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BOUND     400
#define BOUND_NS  (BOUND * INT64_C(1001000)) /* and the thousandth */
#define SLACK_NS  INT64_C(2000000000)        /* what a busy machine may take to run us again */
#define PROMPT_NS INT64_C(60000000)          /* and what it takes when it is not */
#define MS        INT64_C(1000000)
#define VALUES    64
#define HOSTS_KEY "freshet:{default:0}:hosts"

/* One host's report to the test. */
struct host {
    pid_t pid;
    _Atomic bool ready, stop;
    _Atomic int64_t served[VALUES]; /* when it last served the value of this number from its tier */
};

static struct host *hosts_map(unsigned count)
{
    struct host *hosts = mmap(NULL, count * sizeof *hosts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    EXPECT(hosts != MAP_FAILED);
    return hosts;
}

/* Read "k": from the tier alone as often as we can, from Redis now and then. */
static void host_read(struct host *host, freshet *cache, bool tier_only)
{
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    freshet_buf buf = {0};
    char text[16];

    options.tier_only = tier_only;
    options.deadline_ms = 100;
    if (freshet_get(cache, "k", 1, &options, &buf, &answer) == FRESHET_OK && answer.source == FRESHET_FROM_TIER) {
        snprintf(text, sizeof text, "%.*s", (int)buf.size, (char *)buf.data);
        unsigned long number = strtoul(text, NULL, 10);
        EXPECT(number < VALUES);
        host->served[number] = answer.judged_at_ns;
    }
    freshet_buf_free(&buf);
}

static void host_begin(struct host *host, const char *dir, struct redis *redis)
{
    pid_t child;

    host->ready = host->stop = false;
    child = test_fork();
    if (child == 0) {
        freshet *cache = host_join(dir, redis, BOUND);

        host->ready = true;
        for (unsigned i = 0; !host->stop; i++) {
            host_read(host, cache, i % 8 != 0);
            if (i % 8 == 0)
                test_pause();
        }
        freshet_close(cache);
        test_child_done();
    }
    host->pid = child; /* the structure is shared: only the parent writes here */
    EXPECT(test_until(host->ready, 20000));
}

/* Stop it, and wait until it has stopped: a signal takes its time. */
static void host_halt(pid_t pid)
{
    int status;

    EXPECT(kill(pid, SIGSTOP) == 0);
    EXPECT(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
}

static void host_end(struct host *host)
{
    host->stop = true;
    test_join(host->pid);
}

/* What a strong write said, and how long it took. */
struct written {
    freshet_result result;
    freshet_change change;
    int64_t returned_ns, took_ns;
    unsigned told, told_applied; /* by the callback */
};

static void on_host(const char *id, bool applied, void *arg)
{
    struct written *written = arg;

    EXPECT(strlen(id) == 32 && strspn(id, "0123456789abcdef") == 32);
    written->told++;
    written->told_applied += applied;
}

static struct written put(freshet *cache, const char *value, freshet_wait wait)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    struct written written = {.change = FRESHET_INIT(freshet_change)};
    int64_t start = test_now_ns();

    options.wait = wait;
    options.on_host = on_host;
    options.on_host_arg = &written;
    written.result = freshet_put(cache, "k", 1, value, strlen(value), &options, &written.change);
    written.returned_ns = test_now_ns();
    written.took_ns = written.returned_ns - start;
    EXPECT(written.took_ns < BOUND_NS + SLACK_NS);
    return written;
}

/* All hosts that are there have got the value, so that there is something to be stale. */
static void all_serve(struct host *hosts, unsigned count, unsigned number, int64_t since_ns)
{
    for (unsigned i = 0; i < count; i++)
        EXPECT(test_until(hosts[i].served[number] > since_ns, 20000));
}

static void none_served_after(struct host *hosts, unsigned count, unsigned number, int64_t returned_ns)
{
    for (unsigned i = 0; i < count; i++)
        EXPECT(hosts[i].served[number] < returned_ns);
}

/* The registry speaks for all hosts only when the writer has known it for a bound. */
static void registry_ages(freshet *cache)
{
    struct written written;

    EXPECT(test_until((written = put(cache, "0", FRESHET_WAIT_HOSTS), !written.change.bound_waited), 20000));
}

static long long marks(struct redis *redis)
{
    return redis_int(redis, "EVAL 'local n = 0 for _, v in ipairs(redis.call(\"HVALS\", KEYS[1])) do "
                            "if string.find(v, \"^!%%x+$\") then n = n + 1 end end return n' 1 " HOSTS_KEY);
}

TEST(a_strong_write_returns_when_all_hosts_have_it)
{
    struct host *hosts = hosts_map(3);
    struct written written;
    struct redis redis;
    freshet *cache;

    redis_start(&redis, NULL);
    (void)host_keyring();
    for (int i = 0; i < 3; i++)
        host_begin(&hosts[i], fresh_dir(), &redis);
    cache = host_join(fresh_dir(), &redis, BOUND);
    registry_ages(cache);
    for (unsigned round = 1; round < 20; round++) {
        char value[16];

        snprintf(value, sizeof value, "%u", round);
        written = put(cache, value, FRESHET_WAIT_HOSTS);
        EXPECT_EQ(written.result, FRESHET_OK);
        EXPECT(!written.change.bound_waited && written.took_ns < BOUND_NS);
        EXPECT(written.change.hosts_applied == 4 && written.change.hosts_waited_out == 0);
        EXPECT(written.told == 4 && written.told_applied == 4);
        all_serve(hosts, 3, round, written.returned_ns);
        none_served_after(hosts, 3, round - 1, written.returned_ns);
    }
    for (int i = 0; i < 3; i++)
        host_end(&hosts[i]);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_plain_write_waits_for_nobody)
{
    struct host *hosts = hosts_map(1);
    struct written written;
    struct redis redis;
    freshet *cache;

    redis_start(&redis, NULL);
    (void)host_keyring();
    host_begin(&hosts[0], fresh_dir(), &redis);
    cache = host_join(fresh_dir(), &redis, BOUND);
    host_halt(hosts[0].pid);
    written = put(cache, "1", FRESHET_WAIT_NONE);
    EXPECT(written.result == FRESHET_OK && written.took_ns < BOUND_NS / 2);
    EXPECT(written.told == 0 && written.change.hosts_applied == 0 && !written.change.bound_waited);
    EXPECT(kill(hosts[0].pid, SIGCONT) == 0);
    host_end(&hosts[0]);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_stopped_host_costs_the_bound_and_no_more)
{
    struct host *hosts = hosts_map(2);
    struct written written;
    struct redis redis;
    freshet *cache;

    redis_start(&redis, NULL);
    (void)host_keyring();
    for (int i = 0; i < 2; i++)
        host_begin(&hosts[i], fresh_dir(), &redis);
    cache = host_join(fresh_dir(), &redis, BOUND);
    registry_ages(cache);
    written = put(cache, "1", FRESHET_WAIT_HOSTS);
    all_serve(hosts, 2, 1, written.returned_ns);
    host_halt(hosts[0].pid);
    written = put(cache, "2", FRESHET_WAIT_HOSTS);
    EXPECT(written.result == FRESHET_OK && written.change.bound_waited);
    EXPECT(written.took_ns >= BOUND * MS);
    EXPECT(written.change.hosts_applied == 2 && written.change.hosts_waited_out == 1);
    EXPECT(written.told == 3 && written.told_applied == 2);
    EXPECT(kill(hosts[0].pid, SIGCONT) == 0);
    all_serve(hosts, 2, 2, written.returned_ns);
    none_served_after(hosts, 2, 1, written.returned_ns);
    /* It is alive, and keeps its place. */
    EXPECT(test_until((written = put(cache, "3", FRESHET_WAIT_HOSTS), !written.change.bound_waited), 20000));
    EXPECT_EQ(written.change.hosts_applied, 3);
    for (int i = 0; i < 2; i++)
        host_end(&hosts[i]);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(the_wait_ends_with_the_bound)
{
    struct host *hosts = hosts_map(1);
    struct written written;
    struct redis redis;
    int64_t best = INT64_MAX;
    freshet *cache;

    redis_start(&redis, NULL);
    (void)host_keyring();
    host_begin(&hosts[0], fresh_dir(), &redis);
    cache = host_join(fresh_dir(), &redis, BOUND);
    registry_ages(cache);
    for (int round = 0; round < 20 && best > BOUND_NS + PROMPT_NS; round++) {
        host_halt(hosts[0].pid);
        written = put(cache, "1", FRESHET_WAIT_HOSTS);
        EXPECT(written.change.bound_waited && written.took_ns >= BOUND_NS);
        best = written.took_ns < best ? written.took_ns : best;
        EXPECT(kill(hosts[0].pid, SIGCONT) == 0);
        EXPECT(test_until(marks(&redis) == 0, 20000));
    }
    EXPECT(best < BOUND_NS + PROMPT_NS);
    host_end(&hosts[0]);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_dead_host_is_waited_for_and_then_taken_off)
{
    struct host *hosts = hosts_map(1);
    struct written written;
    struct redis redis;
    freshet *cache;
    int waits = 0;

    redis_start(&redis, NULL);
    (void)host_keyring();
    host_begin(&hosts[0], fresh_dir(), &redis);
    cache = host_join(fresh_dir(), &redis, BOUND);
    registry_ages(cache);
    EXPECT_EQ(redis_int(&redis, "HLEN " HOSTS_KEY), 3);
    test_kill(hosts[0].pid, SIGKILL);
    do {
        written = put(cache, "1", FRESHET_WAIT_HOSTS);
        EXPECT(written.change.bound_waited == (written.change.hosts_waited_out == 1));
        EXPECT(++waits <= 4);
    } while (written.change.bound_waited);
    EXPECT(waits > 1 && written.change.hosts_applied == 1);
    EXPECT_EQ(redis_int(&redis, "HLEN " HOSTS_KEY), 2);
    freshet_close(cache);
    redis_stop(&redis);
}

/* A host that is stopped for longer than the bound again and again bears marks, and overwrites them. */
TEST(a_live_host_is_never_taken_off)
{
    struct host *hosts = hosts_map(1);
    struct written written;
    struct redis redis;
    freshet *cache;

    redis_start(&redis, NULL);
    (void)host_keyring();
    host_begin(&hosts[0], fresh_dir(), &redis);
    cache = host_join(fresh_dir(), &redis, BOUND);
    registry_ages(cache);
    for (unsigned round = 1; round < 4; round++) {
        char value[16];

        snprintf(value, sizeof value, "%u", round);
        written = put(cache, value, FRESHET_WAIT_HOSTS);
        all_serve(hosts, 1, round, written.returned_ns);
        host_halt(hosts[0].pid);
        written = put(cache, "40", FRESHET_WAIT_HOSTS);
        EXPECT(written.change.bound_waited);
        EXPECT_EQ(marks(&redis), 1);
        EXPECT(kill(hosts[0].pid, SIGCONT) == 0);
        EXPECT(test_until(marks(&redis) == 0, 20000));
        none_served_after(hosts, 1, round, written.returned_ns);
        /* The mark was seen for longer than a bound by now, but it stands no more. */
        EXPECT(test_until((written = put(cache, "41", FRESHET_WAIT_HOSTS), !written.change.bound_waited), 20000));
        EXPECT_EQ(written.change.hosts_applied, 2);
        EXPECT_EQ(redis_int(&redis, "HLEN " HOSTS_KEY), 3);
    }
    host_end(&hosts[0]);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(hosts_that_join_and_leave_are_all_waited_for)
{
    struct host *hosts = hosts_map(4);
    struct written written;
    struct redis redis;
    freshet *cache;
    unsigned number = 1;

    redis_start(&redis, NULL);
    (void)host_keyring();
    cache = host_join(fresh_dir(), &redis, BOUND);
    registry_ages(cache);
    for (unsigned round = 0; round < 6; round++) {
        struct host *host = &hosts[round % 4];
        pid_t starter;
        char value[16];

        memset((void *)host->served, 0, sizeof host->served);
        starter = test_fork(); /* joins, and leaves again, while we write */
        if (starter == 0) {
            for (int i = 0; i < 3; i++) {
                host_begin(host, fresh_dir(), &redis);
                host_end(host);
            }
            test_child_done();
        }
        for (unsigned i = 0; i < 8; i++) {
            int64_t before;

            snprintf(value, sizeof value, "%u", number = number % (VALUES - 2) + 1);
            before = test_now_ns();
            written = put(cache, value, FRESHET_WAIT_HOSTS);
            EXPECT_EQ(written.result, FRESHET_OK);
            for (unsigned old = 0; old < VALUES; old++) /* whatever was served since is this value */
                if (old != number)
                    none_served_after(hosts, 4, old, before > written.returned_ns ? 0 : written.returned_ns);
        }
        test_join(starter);
    }
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_lost_registry_speaks_for_nobody)
{
    struct host *hosts = hosts_map(1);
    struct written written;
    struct redis redis;
    int64_t lost_ns;
    freshet *cache;

    redis_start(&redis, NULL);
    (void)host_keyring();
    host_begin(&hosts[0], fresh_dir(), &redis);
    cache = host_join(fresh_dir(), &redis, BOUND);
    registry_ages(cache);
    written = put(cache, "1", FRESHET_WAIT_HOSTS);
    all_serve(hosts, 1, 1, written.returned_ns);
    /* The other host cannot tell that it is there: nobody knows of it. */
    host_halt(hosts[0].pid);
    lost_ns = test_now_ns();
    EXPECT_EQ(redis_int(&redis, "DEL " HOSTS_KEY), 1);
    EXPECT(test_until(redis_int(&redis, "EXISTS " HOSTS_KEY) == 1, 5000)); /* our own report draws another */
    written = put(cache, "2", FRESHET_WAIT_HOSTS);
    EXPECT(written.result == FRESHET_OK);
    EXPECT(written.returned_ns - lost_ns >= BOUND_NS); /* it may have grown old before we wrote: the machine is busy */
    EXPECT(kill(hosts[0].pid, SIGCONT) == 0);
    all_serve(hosts, 1, 2, written.returned_ns);
    none_served_after(hosts, 1, 1, written.returned_ns);
    registry_ages(cache);
    host_end(&hosts[0]);
    freshet_close(cache);
    redis_stop(&redis);
}

/* Nobody can put entries of an ended history forward: the next one's registry has another name. */
TEST(entries_of_an_old_epoch_do_not_count)
{
    struct host *hosts = hosts_map(1);
    struct written written;
    struct redis redis;
    freshet *cache;

    redis_start(&redis, NULL);
    (void)host_keyring();
    host_begin(&hosts[0], fresh_dir(), &redis);
    cache = host_join(fresh_dir(), &redis, BOUND);
    registry_ages(cache);
    host_halt(hosts[0].pid);
    EXPECT_EQ(redis_int(&redis, "DEL freshet:{default:0}:head"), 1);
    written = put(cache, "2", FRESHET_WAIT_HOSTS); /* the change itself begins the epoch; `hosts` is as it was */
    EXPECT(written.result == FRESHET_OK && written.change.bound_waited && written.took_ns >= BOUND * MS);
    EXPECT(kill(hosts[0].pid, SIGCONT) == 0);
    /* What was confirmed lately is sent again, so "2" may be void by now; it is not "0" that comes back. */
    EXPECT(test_until((put(cache, "3", FRESHET_WAIT_NONE), test_pause(), hosts[0].served[3] > 0), 20000));
    none_served_after(hosts, 1, 0, written.returned_ns);
    host_end(&hosts[0]);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_cloned_directory_is_a_host_of_its_own)
{
    struct host *hosts = hosts_map(2);
    struct written written;
    struct redis redis;
    char command[400], clone[200];
    const char *dir = fresh_dir();
    freshet *cache;

    redis_start(&redis, NULL);
    (void)host_keyring();
    host_begin(&hosts[0], dir, &redis);
    host_end(&hosts[0]);
    snprintf(clone, sizeof clone, "%s", fresh_dir());
    snprintf(command, sizeof command, "cp -a %s/. %s/", dir, clone);
    EXPECT_EQ(system(command), 0);
    host_begin(&hosts[0], dir, &redis);
    host_begin(&hosts[1], clone, &redis);
    cache = host_join(fresh_dir(), &redis, BOUND);
    registry_ages(cache);
    EXPECT_EQ(redis_int(&redis, "HLEN " HOSTS_KEY), 4);
    written = put(cache, "1", FRESHET_WAIT_HOSTS);
    EXPECT_EQ(written.change.hosts_applied, 3);
    all_serve(hosts, 2, 1, written.returned_ns);
    host_halt(hosts[1].pid); /* one speaks for itself alone */
    written = put(cache, "2", FRESHET_WAIT_HOSTS);
    EXPECT(written.change.bound_waited && written.change.hosts_waited_out == 1);
    EXPECT(kill(hosts[1].pid, SIGCONT) == 0);
    all_serve(hosts, 2, 2, written.returned_ns);
    none_served_after(hosts, 2, 1, written.returned_ns);
    for (int i = 0; i < 2; i++)
        host_end(&hosts[i]);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_redis_that_dies_during_the_wait_lengthens_nothing)
{
    struct host *hosts = hosts_map(1);
    struct written written;
    struct redis redis;
    freshet *cache;
    pid_t killer;

    redis_start(&redis, NULL);
    (void)host_keyring();
    host_begin(&hosts[0], fresh_dir(), &redis);
    cache = host_join(fresh_dir(), &redis, BOUND);
    registry_ages(cache);
    written = put(cache, "1", FRESHET_WAIT_HOSTS);
    all_serve(hosts, 1, 1, written.returned_ns);
    host_halt(hosts[0].pid);
    killer = test_fork();
    if (killer == 0) {
        EXPECT(test_until(redis_int(&redis, "XLEN freshet:{default:0}:log") > 2, 20000));
        test_pause();
        EXPECT(kill(redis.pid, SIGSTOP) == 0);
        test_child_done();
    }
    written = put(cache, "2", FRESHET_WAIT_HOSTS);
    test_join(killer);
    if (written.result == FRESHET_OK) { /* else it was stopped before it had answered */
        EXPECT(written.change.bound_waited && written.took_ns >= BOUND * MS);
        EXPECT(kill(hosts[0].pid, SIGCONT) == 0);
        EXPECT(kill(redis.pid, SIGCONT) == 0);
        all_serve(hosts, 1, 2, written.returned_ns);
        none_served_after(hosts, 1, 1, written.returned_ns);
    } else {
        EXPECT_EQ(written.result, FRESHET_QUEUED);
        EXPECT(kill(hosts[0].pid, SIGCONT) == 0);
        EXPECT(kill(redis.pid, SIGCONT) == 0);
    }
    host_end(&hosts[0]);
    freshet_close(cache);
    redis_stop(&redis);
}
