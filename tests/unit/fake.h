/*
 * fake.h - a server that is no Redis: it greets as it should, and then does what a broken or hostile one might.
 * Included by the tests of single connections; a thread a connection, all of which go with the test's process.
 */
#ifndef TESTS_UNIT_FAKE_H
#define TESTS_UNIT_FAKE_H

#include <test.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct fake {
    char url[160];
    struct sockaddr_un address;
    const char *greeting;    /* what the first bytes that come are answered with; NULL: silence */
    const char *answer;      /* what later bytes are answered with; NULL: silence */
    size_t answer_size;      /* 0: strlen */
    unsigned drip_ms;        /* > 0: the answer goes byte by byte, with this long in between */
    bool close_at_once;      /* on accept */
    bool close_on_command;   /* instead of an answer */
    bool close_after_answer;
    bool deaf;               /* does not even read after the greeting */
    int fd;
    atomic_int connections, commands, closed;
};

struct fake_peer {
    struct fake *fake;
    int fd;
};

/* Send the answer as the fake would. */
static inline void fake_answer(const struct fake *fake, int fd)
{
    size_t size = fake->answer_size ? fake->answer_size : strlen(fake->answer), step = fake->drip_ms ? 1 : size;

    for (size_t at = 0; at < size; at += step) {
        if (send(fd, fake->answer + at, step, MSG_NOSIGNAL) < 0)
            return;
        for (unsigned ms = 0; ms < fake->drip_ms; ms++)
            test_pause();
    }
}

/* One connection. */
static inline void *fake_serve(void *arg)
{
    struct fake_peer peer = *(struct fake_peer *)arg;
    struct fake *fake = peer.fake;
    char bytes[65536];

    free(arg);
    if (!fake->close_at_once && recv(peer.fd, bytes, sizeof bytes, 0) > 0) {
        if (fake->greeting)
            (void)!send(peer.fd, fake->greeting, strlen(fake->greeting), MSG_NOSIGNAL);
        while (fake->deaf)
            test_pause();
        while (recv(peer.fd, bytes, sizeof bytes, 0) > 0) {
            atomic_fetch_add(&fake->commands, 1);
            if (fake->close_on_command)
                break;
            if (fake->answer)
                fake_answer(fake, peer.fd);
            if (fake->close_after_answer)
                break;
        }
    }
    close(peer.fd);
    atomic_fetch_add(&fake->closed, 1);
    return NULL;
}

static inline void *fake_accept(void *arg)
{
    struct fake *fake = arg;

    for (;;) {
        int fd = accept(fake->fd, NULL, NULL);
        struct fake_peer *peer = malloc(sizeof *peer);
        pthread_t thread;

        if (fd < 0 || !peer)
            return NULL;
        atomic_fetch_add(&fake->connections, 1);
        *peer = (struct fake_peer){fake, fd};
        if (pthread_create(&thread, NULL, fake_serve, peer) == 0)
            pthread_detach(thread);
    }
}

/* Listen on a unix socket in a fresh directory.  The fake stays until the test's process ends, as its threads do. */
static inline struct fake *fake_start(const struct fake *like)
{
    struct fake *fake = calloc(1, sizeof *fake);
    pthread_t thread;

    EXPECT(fake);
    fake->greeting = like->greeting;
    fake->answer = like->answer;
    fake->answer_size = like->answer_size;
    fake->drip_ms = like->drip_ms;
    fake->close_at_once = like->close_at_once;
    fake->close_on_command = like->close_on_command;
    fake->close_after_answer = like->close_after_answer;
    fake->deaf = like->deaf;
    fake->address.sun_family = AF_UNIX;
    EXPECT((size_t)snprintf(fake->address.sun_path, sizeof fake->address.sun_path, "%s/fake", fresh_dir()) <
           sizeof fake->address.sun_path);
    snprintf(fake->url, sizeof fake->url, "unix://%s", fake->address.sun_path);
    fake->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(fake->fd >= 0);
    EXPECT(bind(fake->fd, (struct sockaddr *)&fake->address, sizeof fake->address) == 0 && listen(fake->fd, 64) == 0);
    EXPECT(pthread_create(&thread, NULL, fake_accept, fake) == 0);
    pthread_detach(thread);
    return fake;
}
#define FAKE(...) fake_start(&(const struct fake){__VA_ARGS__})

#endif
