/*
 * chaos_test.c - freshet-chaos, the faulty network for tests: every fault does what it says, and nothing else.
 *
 * Client and server are sockets of the test itself, so it sees both ends.  What must not happen is looked for after
 * something that shows that it had its chance: the proxy's own counts, or bytes that were sent behind.
 */
#include <chaos.h>
#include <test.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT_MS   10000
#define NS_PER_MS 1000000LL

/* ---- both ends ---- */

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_un un;
};

/* A server that the test plays. */
struct server {
    int fd;
    char address[200];
};

static socklen_t unix_address(union address *address, const char *path)
{
    *address = (union address){.un = {.sun_family = AF_UNIX}};
    snprintf(address->un.sun_path, sizeof address->un.sun_path, "%.107s", path);
    return sizeof address->un;
}

static socklen_t tcp_address(union address *address, int port)
{
    *address = (union address){.in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)}};
    address->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sizeof address->in;
}

static struct server serve(enum chaos_kind kind)
{
    struct server server;
    union address address;
    char path[180];
    socklen_t size;

    snprintf(path, sizeof path, "%s/server", fresh_dir());
    size = kind == CHAOS_UNIX ? unix_address(&address, path) : tcp_address(&address, 0);
    server.fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(server.fd >= 0 && bind(server.fd, &address.any, size) == 0 && listen(server.fd, 1024) == 0);
    EXPECT(getsockname(server.fd, &address.any, &size) == 0);
    if (kind == CHAOS_UNIX)
        snprintf(server.address, sizeof server.address, "unix:%s", path);
    else
        snprintf(server.address, sizeof server.address, "tcp:127.0.0.1:%d", ntohs(address.in.sin_port));
    return server;
}

/* A socket that is connected to the proxy; -1 and errno. */
static int dial(const struct chaos *chaos)
{
    union address address;
    socklen_t size =
        chaos->port ? tcp_address(&address, chaos->port) : unix_address(&address, chaos->address + strlen("unix:"));
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), error;

    EXPECT(fd >= 0);
    if (connect(fd, &address.any, size) == 0)
        return fd;
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* The two ends of a connection through the proxy. */
struct ends {
    int client, server;
};

static struct ends join(const struct chaos *chaos, const struct server *server)
{
    struct ends ends = {.client = dial(chaos)};

    EXPECT(ends.client >= 0);
    ends.server = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC);
    EXPECT(ends.server >= 0);
    return ends;
}

static void part(struct ends ends)
{
    close(ends.client);
    close(ends.server);
}

static bool readable(int fd, int ms)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};

    return poll(&one, 1, ms) == 1;
}

static void say(int fd, const void *bytes, size_t size)
{
    EXPECT_EQ(send(fd, bytes, size, MSG_NOSIGNAL), size);
}

/* As many bytes as come until the end, an error or `most`; the errno, 0 for an end. */
static size_t hear_most(int fd, char *bytes, size_t most, int *ret_errno)
{
    size_t heard = 0;
    ssize_t size = 1;

    while (heard < most && size > 0) {
        EXPECT(readable(fd, WAIT_MS));
        size = recv(fd, bytes + heard, most - heard, 0);
        heard += size > 0 ? (size_t)size : 0;
    }
    *ret_errno = size < 0 ? errno : 0;
    return heard;
}

static void expect_hears(int fd, const char *text)
{
    char bytes[100];
    int error;

    EXPECT_EQ(hear_most(fd, bytes, strlen(text), &error), strlen(text));
    EXPECT(memcmp(bytes, text, strlen(text)) == 0);
}

static void expect_end(int fd)
{
    char byte;

    EXPECT(readable(fd, WAIT_MS));
    EXPECT_EQ(recv(fd, &byte, 1, 0), 0);
}

/* A reset, or on a unix socket, which has none, at least the end. */
static void expect_reset(int fd, enum chaos_kind kind)
{
    ssize_t size;
    char byte;

    EXPECT(readable(fd, WAIT_MS));
    size = recv(fd, &byte, 1, 0);
    EXPECT(size <= 0);
    if (kind == CHAOS_TCP)
        EXPECT(size < 0 && errno == ECONNRESET);
}

static void fill(char *bytes, size_t size, uint64_t seed)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)test_random(&seed);
}

/* A scene: a server, the proxy. */
struct scene {
    struct server server;
    struct chaos chaos;
};

static void begin_with(struct scene *scene, enum chaos_kind kind, const char *const *more)
{
    scene->server = serve(kind);
    chaos_start(&scene->chaos, scene->server.address, kind, more);
}

static void begin(struct scene *scene)
{
    begin_with(scene, CHAOS_TCP, NULL);
}

static void end(struct scene *scene)
{
    chaos_stop(&scene->chaos);
    close(scene->server.fd);
}

/* ---- forwarding ---- */

/* Send a lot, in pieces, and receive it at the other end, in one thread: what fits goes. */
static void expect_carries(int from, int to, uint64_t seed)
{
    enum { SIZE = 3000000 };
    char *sent = malloc(SIZE), *heard = malloc(SIZE);
    size_t out = 0, in = 0;

    EXPECT(sent && heard);
    fill(sent, SIZE, seed);
    while (in < SIZE) {
        struct pollfd two[2] = {{.fd = to, .events = POLLIN}, {.fd = out < SIZE ? from : -1, .events = POLLOUT}};
        ssize_t size;

        EXPECT(poll(two, 2, WAIT_MS) > 0);
        if (two[1].revents && (size = send(from, sent + out, SIZE - out, MSG_DONTWAIT | MSG_NOSIGNAL)) > 0)
            out += (size_t)size;
        if (two[0].revents) {
            size = recv(to, heard + in, SIZE - in, MSG_DONTWAIT);
            EXPECT(size > 0);
            in += (size_t)size;
        }
    }
    EXPECT(memcmp(sent, heard, SIZE) == 0);
    free(sent);
    free(heard);
}

TEST(without_a_fault_everything_is_carried_both_ways)
{
    for (int way = 0; way < 4; way++) {
        struct server server = serve(way & 1 ? CHAOS_TCP : CHAOS_UNIX);
        struct chaos chaos;
        struct ends ends;

        chaos_start(&chaos, server.address, way & 2 ? CHAOS_TCP : CHAOS_UNIX, NULL);
        ends = join(&chaos, &server);
        expect_carries(ends.client, ends.server, 1);
        expect_carries(ends.server, ends.client, 2);
        EXPECT_EQ(shutdown(ends.client, SHUT_WR), 0); /* half an end is handed on as half an end */
        expect_end(ends.server);
        say(ends.server, "after", 5);
        expect_hears(ends.client, "after");
        close(ends.server);
        expect_end(ends.client);
        EXPECT(test_until(chaos_number(&chaos, "connections") == 0, WAIT_MS));
        EXPECT_EQ(chaos_number(&chaos, "up.sent"), 3000000);
        EXPECT_EQ(chaos_number(&chaos, "down.sent"), 3000005);
        close(ends.client);
        chaos_stop(&chaos);
        close(server.fd);
    }
}

TEST(a_reset_by_either_end_is_handed_on)
{
    struct linger at_once = {.l_onoff = 1};
    struct scene scene;

    begin(&scene);
    for (int who = 0; who < 2; who++) {
        struct ends ends = join(&scene.chaos, &scene.server);

        say(ends.client, "x", 1);
        expect_hears(ends.server, "x");
        EXPECT_EQ(setsockopt(who ? ends.client : ends.server, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
        close(who ? ends.client : ends.server);
        expect_reset(who ? ends.server : ends.client, CHAOS_TCP);
        close(who ? ends.server : ends.client);
    }
    EXPECT(test_until(chaos_number(&scene.chaos, "connections") == 0, WAIT_MS));
    end(&scene);
}

TEST(a_server_out_of_reach_costs_its_clients_a_reset_and_nothing_else)
{
    struct scene scene;
    struct ends ends;
    int client;

    begin(&scene);
    ends = join(&scene.chaos, &scene.server);
    close(scene.server.fd);
    client = dial(&scene.chaos);
    expect_reset(client, CHAOS_TCP);
    close(client);
    EXPECT_EQ(chaos_number(&scene.chaos, "unreachable"), 1);
    say(ends.client, "x", 1);
    expect_hears(ends.server, "x");
    part(ends);
    chaos_stop(&scene.chaos);
}

/* ---- latency ---- */

static int64_t trip_ms(int from, int to)
{
    int64_t begun = test_now_ns();

    say(from, "x", 1);
    expect_hears(to, "x");
    return (test_now_ns() - begun) / NS_PER_MS;
}

TEST(latency_is_never_less_than_asked_for_and_has_a_direction)
{
    struct scene scene;
    struct ends ends;

    begin(&scene);
    ends = join(&scene.chaos, &scene.server);
    EXPECT_EQ(trip_ms(ends.client, ends.server) < 100, 1);
    chaos_do(&scene.chaos, "latency 100 up");
    for (int i = 0; i < 3; i++) {
        EXPECT(trip_ms(ends.client, ends.server) >= 100);
        EXPECT(trip_ms(ends.server, ends.client) < 100);
    }
    chaos_do(&scene.chaos, "latency 150ms");
    chaos_do(&scene.chaos, "latency off up");
    EXPECT(trip_ms(ends.server, ends.client) >= 150);
    EXPECT(trip_ms(ends.client, ends.server) < 150);
    part(ends);
    ends = join(&scene.chaos, &scene.server); /* those to come as well */
    EXPECT(trip_ms(ends.server, ends.client) >= 150);
    chaos_do(&scene.chaos, "clear");
    EXPECT(trip_ms(ends.server, ends.client) < 150);
    part(ends);
    end(&scene);
}

/* An end is not faster than the bytes before it. */
TEST(an_end_travels_behind_the_bytes)
{
    struct scene scene;
    struct ends ends;
    int64_t begun;

    begin_with(&scene, CHAOS_TCP, (const char *const[]){"--do", "latency 100", NULL});
    ends = join(&scene.chaos, &scene.server);
    begun = test_now_ns();
    say(ends.client, "last", 4);
    close(ends.client);
    expect_hears(ends.server, "last");
    expect_end(ends.server);
    EXPECT(test_now_ns() - begun >= 100 * NS_PER_MS);
    close(ends.server);
    end(&scene);
}

TEST(jitter_keeps_the_order)
{
    struct scene scene;
    struct ends ends;
    uint32_t heard;

    begin_with(&scene, CHAOS_UNIX, (const char *const[]){"--do", "latency 1 jitter 20", NULL});
    ends = join(&scene.chaos, &scene.server);
    for (uint32_t i = 0; i < 300; i++) {
        say(ends.client, &i, sizeof i);
        if (i % 10 == 0)
            EXPECT(chaos_number(&scene.chaos, "up.read") >= 0); /* a turn of its loop: so there are many pieces */
    }
    for (uint32_t i = 0; i < 300; i++) {
        int error;

        EXPECT_EQ(hear_most(ends.server, (char *)&heard, sizeof heard, &error), sizeof heard);
        EXPECT_EQ(heard, i);
    }
    part(ends);
    end(&scene);
}

#define TRIPS 6

static void measure(const char *seed, int64_t trips[TRIPS])
{
    struct scene scene;
    struct ends ends;

    begin_with(&scene, CHAOS_UNIX, (const char *const[]){"--seed", seed, "--do", "latency 0 jitter 400 up", NULL});
    ends = join(&scene.chaos, &scene.server);
    for (int i = 0; i < TRIPS; i++)
        trips[i] = trip_ms(ends.client, ends.server);
    part(ends);
    end(&scene);
}

TEST(the_same_seed_gives_the_same_jitter)
{
    int64_t one[TRIPS], again[TRIPS], other[TRIPS];
    bool differs = false;

    measure("7", one);
    measure("7", again);
    measure("8", other);
    for (int i = 0; i < TRIPS; i++) {
        EXPECT(llabs(one[i] - again[i]) < 100);
        differs = differs || llabs(one[i] - other[i]) > 100;
    }
    EXPECT(differs);
}

/* Push until nothing more is taken, as told by the proxy's counts standing still. */
static size_t push_until_full(const struct chaos *chaos, int fd)
{
    static char bytes[65536];
    size_t pushed = 0;
    long long seen = -1;

    for (;;) {
        ssize_t size = send(fd, bytes, sizeof bytes, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (size > 0) {
            pushed += (size_t)size;
            EXPECT(pushed < 64u << 20);
            continue;
        }
        EXPECT(errno == EAGAIN);
        long long now = chaos_number(chaos, "up.read");
        if (now == seen)
            return pushed;
        seen = now;
    }
}

TEST(what_is_late_is_held_within_the_buffer_and_then_the_sender_waits)
{
    struct scene scene;
    struct ends ends;

    begin_with(&scene, CHAOS_UNIX, (const char *const[]){"--buffer", "64K", "--do", "latency 3600s", NULL});
    ends = join(&scene.chaos, &scene.server);
    EXPECT(push_until_full(&scene.chaos, ends.client) > 65000);
    EXPECT(chaos_number(&scene.chaos, "up.held") >= 60000);
    EXPECT(chaos_number(&scene.chaos, "up.held") < 70000);
    EXPECT_EQ(chaos_number(&scene.chaos, "up.sent"), 0);
    for (int i = 0; i < 20; i++) /* small pieces weigh what they cost */
        (void)send(ends.server, "x", 1, MSG_NOSIGNAL);
    EXPECT(test_until(chaos_number(&scene.chaos, "down.read") == 20, WAIT_MS));
    EXPECT(chaos_number(&scene.chaos, "down.held") > 20);
    part(ends);
    end(&scene);
}

/* ---- bandwidth ---- */

TEST(bandwidth_is_what_was_asked_for)
{
    enum { SIZE = 100000, RATE = 200000 };
    static char bytes[SIZE], heard[SIZE];
    struct scene scene;
    struct ends ends;
    int64_t begun, took_ns;
    int error;

    begin(&scene);
    ends = join(&scene.chaos, &scene.server);
    chaos_do(&scene.chaos, "bandwidth %d down", RATE);
    fill(bytes, SIZE, 5);
    begun = test_now_ns();
    say(ends.server, bytes, SIZE);
    EXPECT_EQ(hear_most(ends.client, heard, SIZE, &error), SIZE);
    took_ns = test_now_ns() - begun;
    EXPECT(memcmp(bytes, heard, SIZE) == 0);
    /* Half a second, less the first slice and what a late timer may make up for; much more only on a busy machine. */
    EXPECT(took_ns >= 450 * NS_PER_MS);
    EXPECT(took_ns < 1500 * NS_PER_MS);
    begun = test_now_ns();
    say(ends.client, bytes, SIZE); /* the other direction is free */
    EXPECT_EQ(hear_most(ends.server, heard, SIZE, &error), SIZE);
    EXPECT(test_now_ns() - begun < 450 * NS_PER_MS);
    part(ends);
    end(&scene);
}

/* ---- the end after N bytes ---- */

/* Send as long as it is taken, and receive until the end. */
static size_t push_and_hear(int from, int to, const char *bytes, char *heard, size_t most, int *ret_errno)
{
    size_t out = 0, in = 0;

    for (;;) {
        struct pollfd two[2] = {{.fd = to, .events = POLLIN}, {.fd = out < most ? from : -1, .events = POLLOUT}};
        ssize_t size;

        EXPECT(poll(two, 2, WAIT_MS) > 0);
        if (two[1].revents && (size = send(from, bytes + out, most - out, MSG_DONTWAIT | MSG_NOSIGNAL)) > 0)
            out += (size_t)size;
        else if (two[1].revents)
            out = most; /* the end is known here */
        if (!two[0].revents)
            continue;
        size = recv(to, heard + in, most - in, MSG_DONTWAIT);
        if (size <= 0) {
            *ret_errno = size < 0 ? errno : 0;
            return in;
        }
        in += (size_t)size;
    }
}

static void expect_cut_after(struct scene *scene, bool up, size_t most, bool reset)
{
    static char bytes[200000], heard[200000];
    struct ends ends;
    size_t size;
    int error;

    chaos_do(&scene->chaos, "%s %zu %s next 1", reset ? "reset" : "drop", most, up ? "up" : "down");
    ends = join(&scene->chaos, &scene->server);
    fill(bytes, sizeof bytes, most);
    size = push_and_hear(up ? ends.client : ends.server, up ? ends.server : ends.client, bytes, heard, sizeof bytes,
                         &error);
    EXPECT_EQ(size, most);
    EXPECT(memcmp(bytes, heard, size) == 0);
    EXPECT_EQ(error, reset ? ECONNRESET : 0);
    part(ends);
}

TEST(a_connection_is_dropped_after_so_many_bytes_and_not_one_more)
{
    static const size_t sizes[] = {1, 2, 3, 17, 1000, 4096, 65536, 65537, 150000};
    struct scene scene;

    begin(&scene);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 4; kind++)
            expect_cut_after(&scene, kind & 1, sizes[i], kind & 2);
    EXPECT_EQ(chaos_number(&scene.chaos, "cut"), 4 * sizeof sizes / sizeof *sizes);
    end(&scene);
}

TEST(drop_and_reset_without_a_number_act_at_once_on_those_that_are_there)
{
    for (int kind = 0; kind < 2; kind++) {
        struct scene scene;
        struct ends ends;

        begin_with(&scene, kind ? CHAOS_TCP : CHAOS_UNIX, NULL);
        ends = join(&scene.chaos, &scene.server);
        say(ends.client, "x", 1);
        expect_hears(ends.server, "x");
        chaos_do(&scene.chaos, "reset");
        expect_reset(ends.client, kind ? CHAOS_TCP : CHAOS_UNIX);
        expect_reset(ends.server, kind ? CHAOS_TCP : CHAOS_UNIX);
        part(ends);
        ends = join(&scene.chaos, &scene.server); /* and not on others */
        say(ends.client, "y", 1);
        expect_hears(ends.server, "y");
        chaos_do(&scene.chaos, "drop");
        expect_end(ends.client);
        expect_end(ends.server);
        part(ends);
        end(&scene);
    }
}

/* ---- half-open ---- */

TEST(a_half_open_connection_swallows_everything_and_ends_nothing)
{
    struct scene scene;
    struct ends ends;

    begin(&scene);
    ends = join(&scene.chaos, &scene.server);
    chaos_do(&scene.chaos, "half-open");
    say(ends.client, "abc", 3);
    say(ends.server, "defgh", 5);
    EXPECT(test_until(chaos_number(&scene.chaos, "up.lost") == 3, WAIT_MS));
    EXPECT(test_until(chaos_number(&scene.chaos, "down.lost") == 5, WAIT_MS));
    EXPECT(!readable(ends.client, 0) && !readable(ends.server, 0));
    close(ends.server); /* nobody tells the client */
    EXPECT(test_until(strstr(chaos_do(&scene.chaos, "list"), "\"read\": 5") != NULL, WAIT_MS));
    say(ends.client, "more", 4);
    EXPECT(test_until(chaos_number(&scene.chaos, "up.lost") == 7, WAIT_MS));
    EXPECT(!readable(ends.client, 0));
    EXPECT_EQ(chaos_number(&scene.chaos, "connections"), 1);
    chaos_do(&scene.chaos, "clear"); /* and when it hears again, it hears that it has missed something */
    expect_reset(ends.client, CHAOS_TCP);
    close(ends.client);
    EXPECT(test_until(chaos_number(&scene.chaos, "connections") == 0, WAIT_MS));
    end(&scene);
}

TEST(a_half_open_direction_leaves_the_other_alone)
{
    struct scene scene;
    struct ends ends;

    begin(&scene);
    ends = join(&scene.chaos, &scene.server);
    chaos_do(&scene.chaos, "half-open down");
    say(ends.server, "lost", 4);
    say(ends.client, "x", 1);
    expect_hears(ends.server, "x");
    EXPECT(test_until(chaos_number(&scene.chaos, "down.lost") == 4, WAIT_MS));
    EXPECT(!readable(ends.client, 0));
    part(ends);
    end(&scene);
}

/* Only what has lost something has a hole. */
TEST(a_stream_with_a_hole_is_never_gone_on_with)
{
    struct scene scene;
    struct ends silent, talking, late;

    begin(&scene);
    silent = join(&scene.chaos, &scene.server);
    talking = join(&scene.chaos, &scene.server);
    late = join(&scene.chaos, &scene.server);
    chaos_do(&scene.chaos, "latency 3600s up");
    say(late.client, "under way", 9);
    EXPECT(test_until(chaos_number(&scene.chaos, "up.read") == 9, WAIT_MS));
    chaos_do(&scene.chaos, "half-open up");
    say(talking.client, "x", 1);
    EXPECT(test_until(chaos_number(&scene.chaos, "up.lost") == 10, WAIT_MS));
    chaos_do(&scene.chaos, "clear");
    expect_reset(talking.server, CHAOS_TCP);
    expect_reset(talking.client, CHAOS_TCP);
    expect_reset(late.server, CHAOS_TCP);
    say(silent.client, "y", 1);
    expect_hears(silent.server, "y");
    part(silent);
    part(talking);
    part(late);
    end(&scene);
}

/* ---- pause ---- */

TEST(a_pause_makes_the_sender_wait_and_loses_nothing)
{
    struct scene scene;
    struct ends ends;
    static char heard[65536];
    size_t pushed, got = 0;
    int error;

    begin(&scene);
    ends = join(&scene.chaos, &scene.server);
    chaos_do(&scene.chaos, "pause up");
    pushed = push_until_full(&scene.chaos, ends.client);
    EXPECT_EQ(chaos_number(&scene.chaos, "up.read"), 0);
    EXPECT(!readable(ends.server, 0));
    say(ends.server, "x", 1); /* the other direction goes on */
    expect_hears(ends.client, "x");
    chaos_do(&scene.chaos, "resume");
    while (got < pushed)
        got += hear_most(ends.server, heard, pushed - got < sizeof heard ? pushed - got : sizeof heard, &error);
    EXPECT_EQ(chaos_number(&scene.chaos, "up.lost"), 0);
    part(ends);
    end(&scene);
}

/* ---- new connections ---- */

TEST(refused_connections_are_refused_and_the_place_is_kept)
{
    for (int kind = 0; kind < 2; kind++) {
        struct scene scene;
        struct ends ends, other;

        begin_with(&scene, kind ? CHAOS_TCP : CHAOS_UNIX, NULL);
        ends = join(&scene.chaos, &scene.server);
        for (int i = 0; i < 3; i++) {
            chaos_do(&scene.chaos, "refuse");
            EXPECT_EQ(dial(&scene.chaos), -1);
            EXPECT_EQ(errno, ECONNREFUSED);
            say(ends.client, "x", 1); /* who is there stays */
            expect_hears(ends.server, "x");
            chaos_do(&scene.chaos, i ? "clear" : "accept");
            other = join(&scene.chaos, &scene.server);
            say(other.client, "y", 1);
            expect_hears(other.server, "y");
            part(other);
        }
        part(ends);
        end(&scene);
    }
}

TEST(a_fault_concerns_those_that_were_named)
{
    struct scene scene;
    struct ends old, other, new;
    const char *list;
    char reset[40];

    begin(&scene);
    old = join(&scene.chaos, &scene.server);
    chaos_do(&scene.chaos, "latency 200 new");
    EXPECT(trip_ms(old.client, old.server) < 200);
    new = join(&scene.chaos, &scene.server);
    EXPECT(trip_ms(new.client, new.server) >= 200);
    chaos_do(&scene.chaos, "latency off all");
    chaos_do(&scene.chaos, "latency 200 old up");
    other = join(&scene.chaos, &scene.server);
    EXPECT(trip_ms(old.client, old.server) >= 200 && trip_ms(other.client, other.server) < 200);
    chaos_do(&scene.chaos, "clear");
    list = chaos_do(&scene.chaos, "list"); /* the newest first */
    snprintf(reset, sizeof reset, "reset conn %lld", chaos_find(list, "id"));
    chaos_do(&scene.chaos, "%s", reset);
    expect_reset(other.client, CHAOS_TCP);
    EXPECT(trip_ms(old.client, old.server) < 200);
    EXPECT(strncmp(chaos_say(&scene.chaos, reset), "ERR there is no connection", 26) == 0);
    part(old);
    part(other);
    part(new);
    end(&scene);
}

TEST(a_fault_of_the_next_n_is_over_after_n)
{
    struct scene scene;
    struct ends ends[4];

    begin(&scene);
    chaos_do(&scene.chaos, "latency 150 next 2");
    chaos_do(&scene.chaos, "half-open up next 1");
    EXPECT_EQ(chaos_find(chaos_do(&scene.chaos, "stat"), "next.left"), 2);
    for (int i = 0; i < 4; i++)
        ends[i] = join(&scene.chaos, &scene.server);
    EXPECT(strstr(chaos_do(&scene.chaos, "stat"), "\"next\": []"));
    say(ends[0].client, "x", 1);
    EXPECT(test_until(chaos_number(&scene.chaos, "up.lost") == 1, WAIT_MS));
    EXPECT(trip_ms(ends[1].client, ends[1].server) >= 150);
    EXPECT(trip_ms(ends[2].client, ends[2].server) < 150);
    EXPECT(trip_ms(ends[3].client, ends[3].server) < 150);
    for (int i = 0; i < 4; i++)
        part(ends[i]);
    end(&scene);
}

TEST(who_finds_no_room_waits_for_it)
{
    struct scene scene;
    struct ends ends[2];
    int waiting, served;

    begin_with(&scene, CHAOS_TCP, (const char *const[]){"--most", "2", NULL});
    for (int i = 0; i < 2; i++)
        ends[i] = join(&scene.chaos, &scene.server);
    waiting = dial(&scene.chaos); /* the kernel's queue has it */
    EXPECT(waiting >= 0);
    say(waiting, "z", 1);
    EXPECT(trip_ms(ends[0].client, ends[0].server) >= 0);
    EXPECT_EQ(chaos_number(&scene.chaos, "accepted"), 2);
    part(ends[1]);
    served = accept4(scene.server.fd, NULL, NULL, SOCK_CLOEXEC);
    EXPECT(served >= 0);
    expect_hears(served, "z");
    close(waiting);
    close(served);
    part(ends[0]);
    end(&scene);
}

TEST(thousands_of_connections_at_a_time)
{
    enum { MANY = 3000 };
    static struct ends ends[MANY];
    struct rlimit limit;
    struct scene scene;
    int many;

    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    many = limit.rlim_cur > 2 * MANY + 200 ? MANY : (int)(limit.rlim_cur - 200) / 2;
    begin_with(&scene, CHAOS_UNIX, (const char *const[]){"--do", "latency 5 jitter 5", NULL});
    for (int i = 0; i < many; i++)
        ends[i] = join(&scene.chaos, &scene.server);
    for (int i = 0; i < many; i++)
        say(ends[i].client, &i, sizeof i);
    for (int i = 0; i < many; i++) {
        int heard, error;

        EXPECT_EQ(hear_most(ends[i].server, (char *)&heard, sizeof heard, &error), sizeof heard);
        EXPECT_EQ(heard, i); /* clients are served in the order of their coming */
    }
    EXPECT_EQ(chaos_number(&scene.chaos, "connections"), many);
    EXPECT(strlen(chaos_do(&scene.chaos, "list")) > (size_t)many * 100);
    for (int i = 0; i < many; i++)
        part(ends[i]);
    EXPECT(test_until(chaos_number(&scene.chaos, "connections") == 0, WAIT_MS));
    end(&scene);
}

/* ---- the control socket ---- */

TEST(a_command_that_is_not_understood_changes_nothing_and_says_what_would_be)
{
    static const struct {
        const char *line, *says;
    } bad[] = {
        {"", "say one of"},
        {"slow 5", "there is no command"},
        {"latency", "no number"},
        {"latency -5", "no number from 0 to 3600000"},
        {"latency 5x", "give milliseconds"},
        {"latency 99999999999999999999", "no number"},
        {"latency 3601s", "no number"},
        {"latency 5 jitter", "jitter: \"\" is no number"},
        {"latency 5 jitter x", "jitter: \"x\" is no number"},
        {"latency 5 sideways", "one word too many"},
        {"latency 5 up down", "two directions"},
        {"latency 5 all old", "one word too many"},
        {"latency 5 next", "next: \"\" is no number"},
        {"latency 5 next 0", "no number from 1"},
        {"latency 5 conn x", "conn: \"x\""},
        {"latency 5 conn 99", "there is no connection 99"},
        {"bandwidth 0", "no number from 1"},
        {"bandwidth 64Q", "64K"},
        {"drop 5 off", "one word too many"},
        {"reset 99999999999M", "no number"},
        {"pause 5", "one word too many"},
        {"refuse up", "one word too many"},
        {"stat now", "one word too many"},
        {"latency 1 jitter 1 up next 1 a b c d", "too many words"},
        {"quit quit", "one word too many"},
    };
    struct scene scene;
    char before[2000];

    begin(&scene);
    snprintf(before, sizeof before, "%s", chaos_do(&scene.chaos, "stat"));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *answer = chaos_say(&scene.chaos, bad[i].line);

        if (strncmp(answer, "ERR ", 4) != 0 || !strstr(answer, bad[i].says))
            fprintf(stderr, "\"%s\": %s\n", bad[i].line, answer);
        EXPECT(strncmp(answer, "ERR ", 4) == 0 && strstr(answer, bad[i].says));
    }
    EXPECT(strcmp(before, chaos_do(&scene.chaos, "stat")) == 0);
    EXPECT(strstr(chaos_do(&scene.chaos, "help"), "half-open"));
    end(&scene);
}

static int dial_control(const struct chaos *chaos)
{
    union address address;
    socklen_t size = unix_address(&address, chaos->control);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    EXPECT(fd >= 0 && connect(fd, &address.any, size) == 0);
    return fd;
}

TEST(the_control_socket_takes_a_line_at_a_time_from_anybody)
{
    static char garbage[5000], heard[20000];
    struct scene scene;
    int fd, deaf, error;
    size_t size;

    begin(&scene);
    fd = dial_control(&scene.chaos);
    say(fd, "accept\nbad\r\n\naccept\r\nacc", 23); /* several lines at once, and an unfinished one */
    EXPECT_EQ(shutdown(fd, SHUT_WR), 0);
    size = hear_most(fd, heard, sizeof heard - 1, &error);
    heard[size] = '\0';
    EXPECT(strncmp(heard, "OK\nERR there is no command \"bad\"", 32) == 0);
    EXPECT(size > 3 && strcmp(heard + size - 4, "\nOK\n") == 0);
    close(fd);
    memset(garbage, 'x', sizeof garbage);
    fd = dial_control(&scene.chaos); /* a line without an end */
    (void)send(fd, garbage, sizeof garbage, MSG_NOSIGNAL);
    size = hear_most(fd, heard, sizeof heard - 1, &error);
    EXPECT(strncmp(heard, "ERR the line is too long", 24) == 0);
    close(fd);
    fd = dial_control(&scene.chaos);
    say(fd, "st\0at\n", 6);
    (void)hear_most(fd, heard, 10, &error);
    EXPECT(strncmp(heard, "ERR a zero", 10) == 0);
    close(fd);
    deaf = dial_control(&scene.chaos); /* asks and never listens */
    EXPECT_EQ(fcntl(deaf, F_SETFL, O_NONBLOCK), 0);
    for (int i = 0; i < 100000 && send(deaf, "help\n", 5, MSG_NOSIGNAL) > 0; i++)
        continue;
    EXPECT_EQ(chaos_number(&scene.chaos, "connections"), 0); /* others are served */
    close(deaf);
    end(&scene);
}

/* ---- all at once ---- */

#define CLIENTS 6u
#define SERVERS 64u

/* One end of a connection: what it sends and hears follows from the client's number and the place. */
struct talker {
    int fd; /* -1: none */
    bool server;
    uint32_t id; /* a server learns it from the first four bytes */
    size_t sent, heard;
};

static uint8_t byte_at(uint32_t id, bool up, size_t at)
{
    if (up && at < 4)
        return (uint8_t)(id >> 8 * at);
    return (uint8_t)(id * 37 + at * 11 + (at >> 8) * 3 + up);
}

static void talker_end(struct talker *talker)
{
    close(talker->fd);
    talker->fd = -1;
}

/* Send a little, hear what there is: the next bytes of the stream, and no others. */
static void talk(struct talker *talker, uint64_t *seed)
{
    uint8_t bytes[8192];
    size_t size = test_random(seed) % sizeof bytes;
    ssize_t done;

    if (!talker->server || talker->heard >= 4) {
        for (size_t i = 0; i < size; i++)
            bytes[i] = byte_at(talker->id, !talker->server, talker->sent + i);
        done = send(talker->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        talker->sent += done > 0 ? (size_t)done : 0;
    }
    done = recv(talker->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    for (ssize_t i = 0; i < done; i++, talker->heard++) {
        if (talker->server && talker->heard < 4)
            talker->id |= (uint32_t)bytes[i] << 8 * talker->heard;
        EXPECT_EQ(bytes[i], byte_at(talker->id, talker->server, talker->heard));
    }
    if (done == 0 || (done < 0 && errno != EAGAIN))
        talker_end(talker);
}

static void say_something(const struct chaos *chaos, uint64_t *seed)
{
    static const char *const verbs[] = {"latency 3 jitter 5",
                                        "latency off",
                                        "bandwidth 300K",
                                        "bandwidth off",
                                        "drop 20000",
                                        "drop",
                                        "reset 5000",
                                        "reset",
                                        "drop off",
                                        "half-open",
                                        "half-open off",
                                        "pause",
                                        "resume",
                                        "latency 1",
                                        "clear",
                                        "clear",
                                        "bandwidth 1M",
                                        "reset 100000",
                                        "list",
                                        "stat"};
    static const char *const ways[] = {"", "", "up", "down", "both"};
    static const char *const whom[] = {"", "all", "old", "new", "next 1", "next 3", "conn"};
    uint64_t dice = test_random(seed);
    const char *verb = verbs[dice % 20], *who = whom[(dice >> 16) % 7];
    char line[100], number[24] = "";

    if (strcmp(verb, "list") == 0 || strcmp(verb, "stat") == 0)
        snprintf(line, sizeof line, "%s", verb);
    else if (dice >> 60 == 0)
        snprintf(line, sizeof line, "%s", dice & 1 << 20 ? "refuse" : "accept");
    else {
        if (strcmp(who, "conn") == 0)
            snprintf(number, sizeof number, " %d", (int)(dice >> 32 & 63) + 1);
        snprintf(line, sizeof line, "%s %s %s%s", verb, ways[(dice >> 8) % 5], who, number);
    }
    const char *answer = chaos_say(chaos, line);
    EXPECT(strncmp(answer, "OK", 2) == 0 || strstr(answer, "there is no connection") || strstr(answer, "say clear"));
}

/* Whatever is said in whatever order: what arrives is the beginning of what was sent, and nothing hangs in the end. */
TEST(no_order_of_commands_gives_a_stream_a_hole)
{
    static struct talker clients[CLIENTS], servers[SERVERS];
    uint64_t seed = 20261121, heard = 0;
    struct scene scene;
    uint32_t id = 0;

    begin_with(&scene, CHAOS_TCP, (const char *const[]){"--buffer", "32K", NULL});
    EXPECT_EQ(fcntl(scene.server.fd, F_SETFL, O_NONBLOCK), 0);
    for (uint32_t i = 0; i < SERVERS; i++)
        servers[i].fd = -1;
    for (uint32_t i = 0; i < CLIENTS; i++)
        clients[i].fd = -1;
    for (int step = 0; step < 4000; step++) {
        if (step % 4 == 0)
            say_something(&scene.chaos, &seed);
        for (uint32_t i = 0; i < CLIENTS; i++) {
            if (clients[i].fd < 0)
                clients[i] = (struct talker){.fd = dial(&scene.chaos), .id = ++id};
            else if (test_random(&seed) % 200 == 0)
                talker_end(&clients[i]);
            else
                talk(&clients[i], &seed);
        }
        for (uint32_t i = 0; i < SERVERS; i++) {
            size_t before = servers[i].heard;

            if (servers[i].fd < 0)
                servers[i] = (struct talker){.fd = accept(scene.server.fd, NULL, NULL), .server = true};
            else
                talk(&servers[i], &seed);
            heard += servers[i].heard > before ? servers[i].heard - before : 0;
        }
    }
    EXPECT(heard > 1000000);
    chaos_do(&scene.chaos, "clear");
    for (uint32_t i = 0; i < CLIENTS; i++)
        if (clients[i].fd >= 0)
            talker_end(&clients[i]);
    for (uint32_t i = 0; i < SERVERS; i++)
        if (servers[i].fd >= 0)
            talker_end(&servers[i]);
    close(scene.server.fd);
    EXPECT(test_until(chaos_number(&scene.chaos, "connections") == 0, WAIT_MS));
    EXPECT(chaos_number(&scene.chaos, "cut") > 20 && chaos_number(&scene.chaos, "up.lost") > 0);
    chaos_stop(&scene.chaos);
}

/* ---- the program ---- */

/* Run it to its end; what it wrote to both outputs. */
static int run_program(char *said, size_t size, const char *const *words)
{
    const char *argv[20] = {chaos_program()};
    char path[200];
    pid_t child;
    int status;
    FILE *file;

    for (int i = 0; words[i] && i < 18; i++)
        argv[i + 1] = words[i];
    snprintf(path, sizeof path, "%s/said", fresh_dir());
    fflush(NULL);
    child = fork();
    if (child == 0) {
        int fd = open(path, O_WRONLY | O_CREAT, 0600);

        if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
            _exit(126);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    while (waitpid(child, &status, 0) < 0)
        EXPECT(errno == EINTR);
    file = fopen(path, "r");
    EXPECT(file);
    said[fread(said, 1, size - 1, file)] = '\0';
    fclose(file);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#define RUN(said, ...) run_program(said, sizeof said, (const char *const[]){__VA_ARGS__, NULL})

TEST(wrong_words_on_the_command_line_end_it_with_a_remedy)
{
    char said[4000], path[200];
    struct scene scene;

    begin_with(&scene, CHAOS_UNIX, NULL);
    EXPECT(RUN(said, "--help") == 0 && strstr(said, "Exit status"));
    EXPECT(RUN(said, "--version") == 0 && strstr(said, "freshet-chaos "));
    EXPECT(RUN(said, "--nonsense") == 2);
    EXPECT(RUN(said, "-l", "tcp:0") == 2 && strstr(said, "must be given"));
    EXPECT(RUN(said, "-l", "tcp:0", "-t", "tcp:66000") == 2 && strstr(said, "give tcp:PORT"));
    EXPECT(RUN(said, "-l", "unix:", "-t", "tcp:1") == 2 && strstr(said, "path of a unix socket"));
    EXPECT(RUN(said, "-l", "tcp:0", "-t", "tcp:1", "-c", "tcp:5") == 2 && strstr(said, "give it with"));
    EXPECT(RUN(said, "-l", "tcp:0", "-t", "tcp:1", "more") == 2 && strstr(said, "one word too many"));
    EXPECT(RUN(said, "-l", "tcp:0", "-t", "tcp:1", "--seed", "x") == 2 && strstr(said, "--seed"));
    EXPECT(RUN(said, "-l", "tcp:0", "-t", "tcp:1", "--buffer", "1") == 2 && strstr(said, "--buffer"));
    EXPECT(RUN(said, "-l", "tcp:0", "-t", "tcp:1", "--do", "latency") == 2 && strstr(said, "no number"));
    EXPECT(RUN(said, "-l", "tcp:0", "-t", "tcp:1", "--do", "stat") == 2 && strstr(said, "control"));
    EXPECT(RUN(said, "-l", "tcp:0", "-t", "tcp:1", "--do", "reset") == 2 && strstr(said, "next N"));
    EXPECT(RUN(said, "-l", "tcp:0", "-t", "tcp:1", "--most", "999999") == 3 && strstr(said, "ulimit"));
    snprintf(path, sizeof path, "%s/none/x", fresh_dir());
    EXPECT(RUN(said, "-l", path, "-t", "tcp:1") == 3 && strstr(said, "directory"));
    /* Where somebody listens, nobody else does; what is no socket is not removed. */
    EXPECT(RUN(said, "-l", scene.chaos.address, "-t", "tcp:1") == 3 && strstr(said, "somebody else listens"));
    EXPECT(RUN(said, "-l", "tcp:0", "-t", "tcp:1", "-c", scene.chaos.control) == 3 && strstr(said, "somebody else"));
    EXPECT(RUN(said, "-l", "tcp:0", "-t", "tcp:1", "-c", fresh_dir()) == 3 && strstr(said, "no socket"));
    end(&scene);
}

TEST(ctl_says_a_command_and_its_status_tells)
{
    struct scene scene;
    char said[4000];

    begin(&scene);
    EXPECT(RUN(said, "ctl", scene.chaos.control, "latency", "5", "up") == 0);
    EXPECT_EQ(chaos_number(&scene.chaos, "up.latency_ms"), 5);
    EXPECT(RUN(said, "ctl", scene.chaos.control, "latency 6") == 0);
    EXPECT(RUN(said, "ctl", scene.chaos.control, "stat") == 0 && said[0] == '{' && strchr(said, '\n')[1] == '\0');
    EXPECT_EQ(chaos_find(said, "down.latency_ms"), 6);
    EXPECT(RUN(said, "ctl", scene.chaos.control, "latency") == 1 && strstr(said, "no number"));
    EXPECT(RUN(said, "ctl", scene.chaos.control) == 2);
    EXPECT(RUN(said, "ctl", scene.chaos.control, "a\nb") == 2);
    EXPECT(RUN(said, "ctl", "/nonexistent", "stat") == 3 && strstr(said, "is the proxy running"));
    EXPECT(RUN(said, "ctl", "name", "stat") == 2);
    end(&scene);
}

static bool exists(const char *path)
{
    struct stat stat;

    return lstat(path, &stat) == 0;
}

/* However it is ended: well, its sockets removed, its connections closed. */
TEST(ended_it_leaves_nothing_behind)
{
    static const int signals[] = {SIGTERM, SIGINT, 0};

    for (int i = 0; i < 3; i++) {
        struct scene scene;
        struct ends ends;
        int status;

        begin_with(&scene, CHAOS_UNIX, (const char *const[]){"--do", "latency 3600s", NULL});
        ends = join(&scene.chaos, &scene.server);
        say(ends.client, "x", 1);
        EXPECT(exists(scene.chaos.control) && exists(scene.chaos.address + 5));
        if (signals[i])
            EXPECT_EQ(kill(scene.chaos.pid, signals[i]), 0);
        else
            chaos_do(&scene.chaos, "quit");
        EXPECT_EQ(waitpid(scene.chaos.pid, &status, 0), scene.chaos.pid);
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        EXPECT(!exists(scene.chaos.control) && !exists(scene.chaos.address + 5));
        expect_end(ends.server);
        part(ends);
        close(scene.server.fd);
    }
}

TEST(the_sockets_of_one_that_was_killed_are_taken_over)
{
    struct scene scene;
    struct chaos dead;
    char said[100];
    pid_t child;

    begin_with(&scene, CHAOS_UNIX, NULL);
    dead = scene.chaos;
    test_kill(dead.pid, SIGKILL);
    EXPECT(exists(dead.control) && exists(dead.address + 5));
    child = test_fork();
    if (child == 0)
        _exit(RUN(said, "-l", dead.address, "-t", scene.server.address, "-c", dead.control));
    EXPECT(test_until(exists(dead.control) && RUN(said, "ctl", dead.control, "quit") == 0, WAIT_MS));
    test_join(child);
    EXPECT(!exists(dead.control) && !exists(dead.address + 5));
    close(scene.server.fd);
}
