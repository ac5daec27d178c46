/*
 * failover_test.c - a replica is promoted while the old master, cut off, still confirms changes: what it confirmed last
 * is sent again to the new one, and until then nothing of the new epoch is an answer.
 *
 * Each host reaches Redis by a socket's name of its own, which the test points elsewhere: no Sentinel, the same effect.
 */
#include "hold.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define BOUND 20000 /* nobody takes the seat of the one that is stopped, and its proof lasts as long as the test */
#define KEY   "k"

struct scene {
    struct redis old, promoted;
    struct redis a_sees, b_sees; /* url: the name that may be pointed elsewhere */
    const char *a_dir;
    pid_t subscriber; /* of a, with the seat */
    freshet *a, *b;
};

static void point(struct redis *name, const struct redis *server)
{
    (void)unlink(name->socket);
    EXPECT(symlink(server->socket, name->socket) == 0);
}

static void name_open(struct redis *name, const struct redis *server)
{
    *name = *server;
    snprintf(name->socket, sizeof name->socket, "%s/redis", fresh_dir());
    snprintf(name->url, sizeof name->url, "unix://%s", name->socket);
    point(name, server);
}

/* Host a: a subscriber in a process of its own, and this process.  Host b: this process.  All see the old master. */
static void begin(struct scene *scene)
{
    char port[16];

    redis_start_tcp(&scene->old, NULL);
    snprintf(port, sizeof port, "%d", scene->old.port);
    redis_start(&scene->promoted, (const char *const[]){"--replicaof", "127.0.0.1", port, NULL});
    name_open(&scene->a_sees, &scene->old);
    name_open(&scene->b_sees, &scene->old);
    (void)host_keyring();
    scene->a_dir = fresh_dir();
    scene->subscriber = test_fork();
    if (scene->subscriber == 0) {
        (void)host_join(scene->a_dir, &scene->a_sees, BOUND);
        for (;;)
            test_pause();
    }
    scene->b = host_join(fresh_dir(), &scene->b_sees, BOUND);
    scene->a = host_solo(scene->a_dir, BOUND);
    EXPECT(test_until(stats_of(scene->a).subscriber_pid == scene->subscriber, 20000));
    freshet_close(scene->a);
    scene->a = host_join(scene->a_dir, &scene->a_sees, BOUND);
    EXPECT_EQ(stats_of(scene->a).subscriber_pid, scene->subscriber);
    EXPECT(test_until(strstr(redis_do(&scene->promoted, "INFO replication"), "master_link_status:up") != NULL, 20000));
    EXPECT(test_until(strcmp(redis_do(&scene->promoted, "EXISTS freshet:{default:0}:head"), "1") == 0, 20000));
}

/* The replica is the master now; b has found out, a has not. */
static void promote(struct scene *scene)
{
    redis_do(&scene->promoted, "REPLICAOF NO ONE");
    point(&scene->b_sees, &scene->promoted);
    redis_do(&scene->old, "CLIENT KILL TYPE normal");
}

static void end(struct scene *scene)
{
    test_kill(scene->subscriber, SIGKILL);
    freshet_close(scene->a);
    freshet_close(scene->b);
    redis_stop(&scene->promoted);
}

/* The row is "old" until host a changes the cache by `change`, which only the old master confirms.  Host b had filled
 * in the new epoch before. */
static void change_at_the_lost_master(freshet_result (*change)(freshet *cache))
{
    struct scene scene;
    char value[64];

    begin(&scene);
    promote(&scene);
    EXPECT(test_until(freshet_load(scene.b, KEY, 1, NULL, host_loader, "old", NULL, NULL) == FRESHET_OK &&
                          strcmp(redis_do(&scene.promoted, "KEYS *record*"), "") != 0 && host_gets(scene.b, KEY, "old"),
                      20000));
    EXPECT(test_until(host_invalidate(scene.a, "another") == FRESHET_OK, 20000)); /* its line is up again */
    test_kill(scene.subscriber, SIGSTOP);
    EXPECT_EQ(change(scene.a), FRESHET_OK);
    redis_stop(&scene.old);
    point(&scene.a_sees, &scene.promoted);
    for (int i = 0; i < 20; i++) { /* read your writes: the host that changed it never gets the older value */
        freshet_result result = host_get(scene.a, KEY, value, sizeof value);

        EXPECT(result != FRESHET_OK || strcmp(value, "old") != 0);
        test_pause();
    }
    test_kill(scene.subscriber, SIGCONT);
    EXPECT(test_until(host_get(scene.b, KEY, value, sizeof value) == FRESHET_MISS, 20000)); /* and nobody for long */
    end(&scene);
}

static freshet_result invalidate_it(freshet *cache)
{
    return host_invalidate(cache, KEY);
}

static freshet_result clear_it(freshet *cache)
{
    return freshet_clear(cache, NULL, NULL);
}

TEST(what_a_lost_master_confirmed_is_not_undone_by_a_record_of_the_new_one)
{
    change_at_the_lost_master(invalidate_it);
}

TEST(a_clear_that_a_lost_master_confirmed_is_sent_again)
{
    change_at_the_lost_master(clear_it);
}
