/*
 * leave_test.c - the last process of a host leaves the fleet's registry just when another one comes: who comes keeps
 * the place, for a host that serves without being registered is one that no strong write waits for.
 */
#include "hold.h"

#include <sys/mman.h>
#include <unistd.h>

static void *close_held(void *cache)
{
    hold_me();
    freshet_close(cache);
    return NULL;
}

TEST(who_comes_while_the_last_one_leaves_stays_registered)
{
    const char *dir = fresh_dir();
    _Atomic int *phase = mmap(NULL, sizeof *phase, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct redis redis;
    pthread_t thread;
    freshet *cache;
    pid_t comer;

    EXPECT(phase != MAP_FAILED);
    redis_start(&redis, NULL);
    (void)host_keyring();
    comer = test_fork();
    if (comer == 0) {
        EXPECT(test_until(*phase == 1, 20000));
        freshet *other = host_join(dir, &redis, 60000); /* renews in 15 s: nothing puts it back by chance */
        *phase = 2;
        EXPECT(test_until(*phase == 3, 20000));
        freshet_close(other);
        test_child_done();
    }
    cache = host_join(dir, &redis, 60000);
    hold_at("leaving", false);
    EXPECT(pthread_create(&thread, NULL, close_held, cache) == 0);
    hold_reached();
    *phase = 1;
    EXPECT(test_until(*phase == 2, 20000));
    hold_go();
    EXPECT(pthread_join(thread, NULL) == 0);
    EXPECT_EQ(redis_int(&redis, "HLEN freshet:{default:0}:hosts"), 2);
    *phase = 3;
    test_join(comer);
    EXPECT_EQ(redis_int(&redis, "HLEN freshet:{default:0}:hosts"), 1);
    redis_stop(&redis);
}
