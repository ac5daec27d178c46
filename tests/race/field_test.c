/*
 * field_test.c - races that people have met with their caches, each told from its beginning; what is written down here
 * is what usually goes wrong, and who may get what with Freshet.
 *
 * Every step is taken in the order told: calls that follow one another, loaders and threads that are held.  The stories
 * that are another file's whole subject are told there; tests/HOLES.md has the list of all of them.
 */
#include "hold.h"

#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY   "user:7"
#define BOUND 2000

extern char **environ;

/* Two hosts of a fleet. */
struct scene {
    struct redis redis;
    const char *dir; /* of host a */
    freshet *a, *b;
};

static void begin(struct scene *scene)
{
    redis_start(&scene->redis, NULL);
    scene->dir = fresh_dir();
    scene->a = host_join(scene->dir, &scene->redis, BOUND);
    scene->b = host_join(fresh_dir(), &scene->redis, BOUND);
}

static void end(struct scene *scene)
{
    freshet_close(scene->a);
    freshet_close(scene->b);
    redis_stop(&scene->redis);
}

static void in_both_tiers(struct scene *scene, const char *value)
{
    EXPECT_EQ(host_put(scene->a, KEY, value), FRESHET_OK);
    warm(scene->a, KEY, value);
    warm(scene->b, KEY, value);
}

/* Neither host, nor one that comes anew and has only Redis, gets this value. */
static void expect_nobody_gets(struct scene *scene, const char *value)
{
    freshet *newcomer = host_join(fresh_dir(), &scene->redis, BOUND);

    EXPECT(applied(scene->a, stats_of(newcomer).position) && applied(scene->b, stats_of(newcomer).position));
    EXPECT(freshet_flush(scene->a, 5000) == FRESHET_OK && freshet_flush(scene->b, 5000) == FRESHET_OK);
    EXPECT(!gets_that(scene->a, KEY, value) && !gets_that(scene->b, KEY, value) && !gets_that(newcomer, KEY, value));
    freshet_close(newcomer);
}

static void expect_load(freshet *cache, struct row *row, const char *value)
{
    freshet_load_options options = FRESHET_INIT(freshet_load_options);
    freshet_buf buf = {0};

    options.deadline_ms = 500;
    EXPECT_EQ(freshet_load(cache, KEY, strlen(KEY), &options, row_loader, row, &buf, NULL), FRESHET_OK);
    EXPECT(buf.size == strlen(value) && memcmp(buf.data, value, buf.size) == 0);
    freshet_buf_free(&buf);
}

static freshet_result put_version(freshet *cache, const char *value, uint64_t version)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);

    options.source_version = version;
    return freshet_put(cache, KEY, strlen(KEY), value, strlen(value), &options, NULL);
}

static freshet_result invalidate_version(freshet *cache, uint64_t version)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);

    options.source_version = version;
    return freshet_invalidate(cache, KEY, strlen(KEY), &options, NULL);
}

/* ---- two writers: the database has 1, then 3; their writes to the cache come in the other order ---- */

/* Usually: the cache keeps 1 for as long as nobody writes again.  Here the row's version decides, not who is last. */
TEST(write_write_race_with_reversed_cache_writes_keeps_the_later_row)
{
    struct scene scene;

    begin(&scene);
    EXPECT_EQ(put_version(scene.a, "0", 1), FRESHET_OK);
    /* a commits 1 (row version 2), b commits 3 (row version 3); then b is the quicker one */
    EXPECT_EQ(put_version(scene.b, "3", 3), FRESHET_OK);
    EXPECT_EQ(put_version(scene.a, "1", 2), FRESHET_OUTDATED);
    expect_nobody_gets(&scene, "1");
    EXPECT(test_until(host_gets(scene.a, KEY, "3") && host_gets(scene.b, KEY, "3"), 5000));
    end(&scene);
}

/* The same, but a's put has come to Redis first, and a is held before it hears so: it must not fill its own tier with
 * what has been overtaken by then. */
static void *put_one(void *arg)
{
    hold_me();
    EXPECT_EQ(host_put(arg, KEY, "1"), FRESHET_OK);
    return NULL;
}

TEST(write_write_race_in_which_the_earlier_writer_is_held_keeps_the_later_row)
{
    struct scene scene;
    pthread_t writer;

    begin(&scene);
    hold_at("confirmed", false);
    EXPECT(pthread_create(&writer, NULL, put_one, scene.a) == 0);
    hold_reached();
    EXPECT_EQ(host_put(scene.b, KEY, "3"), FRESHET_OK);
    EXPECT(applied(scene.a, stats_of(scene.b).position));
    hold_go();
    EXPECT(pthread_join(writer, NULL) == 0);
    expect_nobody_gets(&scene, "1");
    EXPECT(test_until(host_gets(scene.a, KEY, "3") && host_gets(scene.b, KEY, "3"), 5000));
    end(&scene);
}

/* Writers that only invalidate may come in any order: a reader that read 1 between the commits leaves nothing behind
 * after either. */
TEST(write_write_race_with_reversed_invalidations_keeps_neither_row)
{
    struct scene scene;
    struct call reader;
    struct row row;

    begin(&scene);
    row_init(&row, "1");
    call_begin(&reader, scene.a, KEY, &row);
    EXPECT(hold_wait_on(&row.read));
    row.value = "3";
    EXPECT_EQ(host_invalidate(scene.b, KEY), FRESHET_OK); /* for the commit of 3 */
    EXPECT_EQ(host_invalidate(scene.a, KEY), FRESHET_OK); /* for that of 1 */
    sem_post(&row.go);
    EXPECT_EQ(call_end(&reader), FRESHET_OK);
    EXPECT(strcmp(reader.got, "1") == 0);
    expect_nobody_gets(&scene, "1");
    expect_load(scene.b, &row, "3");
    expect_nobody_gets(&scene, "1");
    end(&scene);
}

/* ---- the delete fails because Redis is away ---- */

/* Usually: the application logs the error, and the old row lives on in Redis and in every host's memory.  Here Redis
 * hangs with the old row in it and later goes on: the writer's host never serves it again, the others not beyond the
 * bound, and nobody once Redis is back. */
TEST(delete_that_fails_because_redis_is_away_is_made_good)
{
    struct scene scene;
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    struct row row;
    int64_t queued_ns;

    begin(&scene);
    in_both_tiers(&scene, "old");
    row_init(&row, "new"); /* committed */
    test_kill(scene.redis.pid, SIGSTOP);
    options.deadline_ms = 200;
    EXPECT_EQ(freshet_invalidate(scene.a, KEY, strlen(KEY), &options, NULL), FRESHET_QUEUED);
    queued_ns = test_now_ns();
    expect_load(scene.a, &row, "new");
    EXPECT_EQ(host_peek(scene.a, KEY, NULL, 0), FRESHET_MISS);
    while (host_peek(scene.b, KEY, NULL, 0) == FRESHET_OK) /* nobody has confirmed the change: this is no lie yet */
        EXPECT(test_now_ns() < queued_ns + (BOUND + 1000) * 1000000LL);
    expect_load(scene.b, &row, "new");
    test_kill(scene.redis.pid, SIGCONT);
    EXPECT(test_until(stats_of(scene.a).outbox == 0, 15000));
    expect_nobody_gets(&scene, "old");
    EXPECT_EQ(freshet_load(scene.b, KEY, strlen(KEY), NULL, row_loader, &row, NULL, &answer), FRESHET_OK);
    expect_nobody_gets(&scene, "old");
    end(&scene);
}

/* ---- the database's replica is behind ---- */

struct addresses {
    const char *primary, *replica;
    uint64_t primary_version, replica_version; /* 0: the table has no such column */
    int asked_primary, asked_replica;
    bool deaf; /* reads the replica whatever it is told */
};

static freshet_result address_read(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    struct addresses *table = arg;
    bool primary = request->prefer_primary && !table->deaf;
    const char *address = primary ? table->primary : table->replica;

    table->asked_primary += primary;
    table->asked_replica += !primary;
    request->source_version = primary ? table->primary_version : table->replica_version;
    return freshet_buf_set(buf, address, strlen(address));
}

static freshet_result address_load(freshet *cache, struct addresses *table, char *ret_address, freshet_answer *answer)
{
    freshet_buf buf = {0};
    freshet_result result = freshet_load(cache, KEY, strlen(KEY), NULL, address_read, table, &buf, answer);

    snprintf(ret_address, 32, "%.*s", (int)buf.size, buf.data ? (char *)buf.data : "");
    freshet_buf_free(&buf);
    return result;
}

/* Usually: the customer moves, the cache is told, the next reader asks the replica, which has not heard of it, and the
 * parcel goes to the old address for as long as the entry lives.  Here the reader is told to ask the primary. */
TEST(replica_lag_after_an_invalidation_brings_no_old_address_back)
{
    struct addresses table = {.primary = "old street", .replica = "old street"};
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    struct scene scene;
    char got[32];

    begin(&scene);
    epoch_is_old(&scene.redis);
    EXPECT_EQ(address_load(scene.b, &table, got, &answer), FRESHET_OK);
    EXPECT(table.asked_replica == 1 && table.asked_primary == 0); /* in quiet times the replica does the work */
    table.primary = "new street";
    EXPECT_EQ(host_invalidate(scene.a, KEY), FRESHET_OK);
    EXPECT(applied(scene.b, stats_of(scene.a).position));
    EXPECT_EQ(address_load(scene.b, &table, got, &answer), FRESHET_OK);
    EXPECT(strcmp(got, "new street") == 0 && table.asked_primary == 1);
    expect_nobody_gets(&scene, "old street");
    EXPECT(test_until(host_gets(scene.a, KEY, "new street"), 5000));
    end(&scene);
}

/* And a loader that cannot choose, but knows the row's version, keeps what is older to itself. */
TEST(replica_lag_with_row_versions_keeps_no_old_address)
{
    struct addresses table = {
        .primary = "new street", .replica = "old street", .primary_version = 2, .replica_version = 1, .deaf = true};
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    struct scene scene;
    char got[32];

    begin(&scene);
    EXPECT_EQ(invalidate_version(scene.a, 2), FRESHET_OK);
    EXPECT(applied(scene.b, stats_of(scene.a).position));
    EXPECT_EQ(address_load(scene.b, &table, got, &answer), FRESHET_OK);
    EXPECT(answer.outdated && table.asked_replica == 2); /* its caller is told, after a second try */
    expect_nobody_gets(&scene, "old street");
    table.deaf = false;
    EXPECT_EQ(address_load(scene.b, &table, got, &answer), FRESHET_OK);
    EXPECT(!answer.outdated && strcmp(got, "new street") == 0);
    end(&scene);
}

/* ---- an UPDATE by hand, and the administrator's invalidation ---- */

static const char *tool_path(void)
{
    static char path[PATH_MAX + 32];
    ssize_t size = readlink("/proc/self/exe", path, PATH_MAX);

    if (getenv("FRESHET_TOOL"))
        return getenv("FRESHET_TOOL");
    path[size > 0 ? size : 0] = '\0';
    if (strrchr(path, '/'))
        strcpy(strrchr(path, '/'), "/../tools/freshet");
    if (access(path, X_OK) != 0)
        test_skip("the tool was not built beside this program; FRESHET_TOOL can name it");
    return path;
}

/* freshet --dir DIR --url URL --keyring FILE invalidate KEY, as a process of its own; its exit status. */
static int tool_invalidate(struct redis *redis, const char *dir)
{
    const char *program = tool_path();
    char *const words[] = {(char *)(uintptr_t)program,
                           "-d",
                           (char *)(uintptr_t)dir,
                           "--url",
                           redis->url,
                           "--keyring",
                           (char *)(uintptr_t)host_keyring(),
                           "invalidate",
                           KEY,
                           NULL};
    int status;
    pid_t tool;

    EXPECT(posix_spawn(&tool, program, NULL, NULL, words, environ) == 0);
    EXPECT(waitpid(tool, &status, 0) == tool && WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Usually: the row is corrected by hand, the administrator deletes the key from Redis, and every process goes on with
 * what it has in memory; or a reader puts the row from before back.  Here the tool makes all hosts forget it, on any
 * machine, and a load from before the UPDATE leaves nothing. */
TEST(manual_update_and_an_administrators_invalidation_reach_every_host)
{
    struct scene scene;
    struct call reader;
    struct row row;

    begin(&scene);
    row_init(&row, "wrong");
    EXPECT_EQ(host_put(scene.a, "another", "kept"), FRESHET_OK);
    call_begin(&reader, scene.b, KEY, &row); /* it has read the row, and takes its time */
    EXPECT(hold_wait_on(&row.read));
    warm(scene.b, "another", "kept");
    row.value = "right";                                      /* UPDATE, in the database's shell */
    EXPECT_EQ(tool_invalidate(&scene.redis, fresh_dir()), 0); /* a machine without a tier */
    sem_post(&row.go);
    EXPECT_EQ(call_end(&reader), FRESHET_OK);
    expect_nobody_gets(&scene, "wrong");
    expect_load(scene.a, &row, "right");
    row.value = "corrected again";
    warm(scene.b, KEY, "right");
    EXPECT_EQ(tool_invalidate(&scene.redis, scene.dir), 0); /* beside the application, on host a */
    EXPECT(!gets_that(scene.a, KEY, "right"));              /* there at once */
    expect_nobody_gets(&scene, "right");
    expect_load(scene.b, &row, "corrected again");
    EXPECT(host_gets(scene.b, "another", "kept"));
    end(&scene);
}

/* ---- background refresh ---- */

/* Usually: a thread renews entries before they expire; it has read the old row when the change comes, and puts it back
 * afterwards, with a new time to live.  Who renews with the row's version is told that it is late. */
TEST(background_refresh_does_not_put_the_changed_row_back)
{
    struct scene scene;

    begin(&scene);
    EXPECT_EQ(put_version(scene.a, "old", 1), FRESHET_OK);
    warm(scene.b, KEY, "old");
    /* the refresher reads version 1 and is slow; the row becomes version 2 */
    EXPECT_EQ(invalidate_version(scene.b, 2), FRESHET_OK);
    EXPECT_EQ(put_version(scene.a, "old", 1), FRESHET_OUTDATED);
    expect_nobody_gets(&scene, "old");
    EXPECT_EQ(put_version(scene.a, "new", 2), FRESHET_OK);
    EXPECT(test_until(host_gets(scene.b, KEY, "new"), 5000));
    end(&scene);
}

/* Who renews by loading what has expired needs no versions.  The entry's record is still in Redis, dead but there. */
TEST(background_refresh_of_an_expired_entry_that_a_change_overtakes_leaves_nothing)
{
    struct scene scene;
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    struct call refresher;
    struct row row;

    options.ttl_ms = 100;
    for (int put = 0; put < 2; put++) {
        begin(&scene);
        row_init(&row, "old");
        EXPECT_EQ(freshet_put(scene.a, KEY, strlen(KEY), "old", 3, &options, NULL), FRESHET_OK);
        EXPECT(test_until(host_get(scene.a, KEY, NULL, 0) == FRESHET_MISS, 5000));
        call_begin(&refresher, scene.a, KEY, &row);
        EXPECT(hold_wait_on(&row.read));
        row.value = "new";
        EXPECT_EQ(put ? host_put(scene.b, KEY, "new") : host_invalidate(scene.b, KEY), FRESHET_OK);
        sem_post(&row.go);
        EXPECT_EQ(call_end(&refresher), FRESHET_OK);
        EXPECT(stats_of(scene.a).fills_refused >= 1);
        expect_nobody_gets(&scene, "old");
        EXPECT(!put || test_until(host_gets(scene.a, KEY, "new"), 5000));
        end(&scene);
    }
}

/* ---- a removal while a load runs ---- */

/* What the test's processes see. */
struct board {
    _Atomic int phase; /* 1: the worker has read the row; 2: it may go on; 3: it is done */
    _Atomic bool changed;
};

static freshet_result board_loader(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    struct board *board = arg;
    const char *value = board->changed ? "new" : "old";

    (void)request;
    if (board->phase == 0) {
        board->phase = 1;
        EXPECT(test_until(board->phase == 2, HOLD_S * 1000));
    }
    return freshet_buf_set(buf, value, 3);
}

/* Usually: the entry is not there yet, so there is nothing to remove; then the load that runs in the background (a
 * worker process of the same host) stores what it had read before.  In the foreground: refill_test.c. */
TEST(removal_during_a_background_load_is_not_lost)
{
    struct board *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct scene scene;
    freshet_buf buf = {0};
    pid_t worker;

    EXPECT(board != MAP_FAILED);
    begin(&scene);
    worker = test_fork();
    if (worker == 0) {
        freshet *own = host_join(scene.dir, &scene.redis, BOUND);

        EXPECT_EQ(freshet_load(own, KEY, strlen(KEY), NULL, board_loader, board, NULL, NULL), FRESHET_OK);
        EXPECT(freshet_flush(own, 5000) == FRESHET_OK);
        freshet_close(own);
        board->phase = 3;
        test_child_done();
    }
    EXPECT(test_until(board->phase == 1, 20000));
    board->changed = true;
    EXPECT_EQ(host_invalidate(scene.a, KEY), FRESHET_OK); /* nothing is there to be removed */
    /* who asks from now on, on this host too, does not wait for the worker to get what it has read */
    EXPECT_EQ(freshet_load(scene.a, KEY, strlen(KEY), NULL, board_loader, board, &buf, NULL), FRESHET_OK);
    EXPECT(buf.size == 3 && memcmp(buf.data, "new", 3) == 0);
    board->phase = 2;
    EXPECT(test_until(board->phase == 3, 20000));
    test_join(worker);
    expect_nobody_gets(&scene, "old");
    freshet_buf_free(&buf);
    end(&scene);
}
