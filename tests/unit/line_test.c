/*
 * line_test.c - blocking conversations with a real Redis, and with servers that misbehave: whatever they do, a call
 * ends by its deadline, its answer is its own, and the program around it comes to no harm.
 */
#include <test.h>

#include "fake.h"

#include <hosts.h>

#include <line.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>

#define MOST      ((size_t)32 << 20)
#define SECOND_NS 1000000000ll
#define MS_NS     1000000ll

static struct url line_url; /* outlives the lines; one set at a time */

/* Lines to a url. */
static struct lines *lines_to(const char *url, uint32_t connect_ms)
{
    struct lines *lines = NULL;

    url_free(&line_url);
    EXPECT(url_parse(&line_url, url) == FRESHET_OK);
    EXPECT(lines_open(&lines, &line_url, connect_ms, MOST) == FRESHET_OK);
    return lines;
}

/* One command of C strings. */
static freshet_result ask(struct lines *lines, int64_t ms, struct resp **ret_reply, bool *ret_sent, const char *a,
                          const char *b, const char *c)
{
    const char *argv[] = {a, b, c};

    return lines_ask(lines, c ? 3 : b ? 2 : 1, argv, NULL, test_now_ns() + ms * MS_NS, ret_reply, ret_sent);
}

/* GET and compare. */
static bool gets(struct lines *lines, const char *key, const char *value)
{
    struct resp *reply = NULL;
    bool right = ask(lines, 2000, &reply, NULL, "GET", key, NULL) == FRESHET_OK && reply->type == RESP_STRING &&
                 strcmp(reply->text, value) == 0;

    resp_free(reply);
    return right;
}

/* Ask, expecting a failure. */
static freshet_result fails(struct lines *lines, int64_t ms, bool *ret_sent)
{
    struct resp *reply = (struct resp *)1;
    freshet_result result = ask(lines, ms, &reply, ret_sent, "GET", "k", NULL);

    EXPECT(result < 0 ? !reply && freshet_error()[0] : reply != NULL);
    if (result == FRESHET_OK)
        resp_free(reply);
    return result;
}

/* Sockets among this process's descriptors. */
static int open_sockets(void)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    int count = 0;

    while ((entry = readdir(dir))) {
        char to[64];
        ssize_t size = readlinkat(dirfd(dir), entry->d_name, to, sizeof to);

        count += size > 7 && memcmp(to, "socket:", 7) == 0;
    }
    closedir(dir);
    return count;
}

TEST(an_answer_is_the_answer_whatever_its_size_and_bytes)
{
    struct redis redis;
    struct lines *lines;
    size_t size = 1 << 20, argv_sizes[3] = {3, 3, 0};
    char *value = malloc(size);
    const char *argv[] = {"SET", "big", value};
    struct resp *reply;
    uint64_t seed = 1;
    bool sent;

    EXPECT(value);
    redis_start(&redis, NULL);
    lines = lines_to(redis.url, 1000);
    for (size_t i = 0; i < size; i++)
        value[i] = (char)test_random(&seed);
    for (argv_sizes[2] = 0; argv_sizes[2] <= size; argv_sizes[2] = argv_sizes[2] * 4 + 1) {
        EXPECT(lines_ask(lines, 3, argv, argv_sizes, test_now_ns() + SECOND_NS, &reply, &sent) == FRESHET_OK && sent);
        EXPECT(reply->type == RESP_STATUS);
        resp_free(reply);
        EXPECT(ask(lines, 1000, &reply, &sent, "GET", "big", NULL) == FRESHET_OK && sent);
        EXPECT(reply->size == argv_sizes[2] && memcmp(reply->text, value, reply->size) == 0);
        resp_free(reply);
    }
    EXPECT(ask(lines, 1000, &reply, NULL, "GET", "none", NULL) == FRESHET_OK && reply->type == RESP_NIL);
    resp_free(reply);
    EXPECT(ask(lines, 1000, &reply, NULL, "GET", "a", "b") == FRESHET_OK && resp_is_error(reply, "ERR"));
    resp_free(reply);
    EXPECT(strstr(redis_do(&redis, "CLIENT LIST"), "name=freshet"));
    EXPECT_EQ(open_sockets(), 1); /* one after the other needs one connection */
    lines_close(lines);
    EXPECT_EQ(open_sockets(), 0);
    free(value);
}

TEST(a_deadline_is_kept_and_a_late_answer_answers_nothing)
{
    struct redis redis;
    struct lines *lines;
    static const int deadlines[] = {1, 15, 60, 200};

    redis_start(&redis, NULL);
    lines = lines_to(redis.url, 1000);
    redis_do(&redis, "SET k old");
    redis_do(&redis, "SET other right");
    EXPECT(gets(lines, "k", "old"));
    for (size_t i = 0; i < sizeof deadlines / sizeof *deadlines; i++) {
        int64_t began_ns = test_now_ns();
        bool sent = false;

        /* Warm, so that the deadline meets the question itself and not the connecting. */
        EXPECT(gets(lines, "k", "old"));
        redis_do(&redis, "CLIENT PAUSE 400 ALL");
        began_ns = test_now_ns();
        EXPECT(fails(lines, deadlines[i], &sent) == FRESHET_ENET && sent);
        EXPECT(test_now_ns() - began_ns >= deadlines[i] * MS_NS);
        EXPECT(test_now_ns() - began_ns < (deadlines[i] + 150) * MS_NS);
        EXPECT(test_until(gets(lines, "other", "right"), 5000)); /* and never "old" */
    }
    EXPECT(fails(lines, 0, NULL) == FRESHET_ENET);
    EXPECT(fails(lines, -5, NULL) == FRESHET_ENET);
    EXPECT(gets(lines, "other", "right")); /* who gives no time puts nobody else away */
    lines_close(lines);
}

/* Kill the server a little later. */
static void *kill_soon(void *arg)
{
    for (int i = 0; i < 50; i++)
        test_pause();
    kill(((struct redis *)arg)->pid, SIGKILL);
    return NULL;
}

TEST(a_server_killed_in_a_call_ends_it_and_its_successor_is_found)
{
    struct redis redis;
    struct lines *lines;
    pthread_t thread;
    int64_t began_ns;
    bool sent = false;

    redis_start(&redis, NULL);
    lines = lines_to(redis.url, 1000);
    redis_do(&redis, "SET k v");
    EXPECT(gets(lines, "k", "v"));
    redis_do(&redis, "CLIENT PAUSE 60000 ALL");
    began_ns = test_now_ns();
    EXPECT(pthread_create(&thread, NULL, kill_soon, &redis) == 0);
    EXPECT(fails(lines, 20000, &sent) == FRESHET_ENET && sent);
    EXPECT(test_now_ns() - began_ns < 5 * SECOND_NS);
    pthread_join(thread, NULL);
    EXPECT(fails(lines, 1000, &sent) == FRESHET_ENET && !sent);
    EXPECT(lines_away(lines));
    redis_restart(&redis);
    redis_do(&redis, "SET k w");
    EXPECT(test_until(gets(lines, "k", "w"), 10000));
    EXPECT(!lines_away(lines));
    lines_close(lines);
}

TEST(a_restart_between_calls_is_not_noticed)
{
    struct redis redis;
    struct lines *lines;

    redis_start(&redis, NULL);
    lines = lines_to(redis.url, 1000);
    redis_do(&redis, "SET k v");
    EXPECT(gets(lines, "k", "v"));
    redis_restart(&redis);
    redis_do(&redis, "SET k w");
    EXPECT(gets(lines, "k", "w"));
    for (int i = 0; i < 20; i++) {
        redis_do(&redis, "CLIENT KILL TYPE normal");
        EXPECT(gets(lines, "k", "w"));
    }
    lines_close(lines);
}

TEST(who_is_refused_is_told_why)
{
    struct redis redis;
    struct lines *lines;
    char url[300];
    struct resp *reply;
    bool sent;

    redis_start(&redis, NULL);
    redis_do(&redis, "SET k zero");
    redis_do(&redis, "ACL SETUSER reader on >pw ~* +@all -set");
    redis_do(&redis, "CONFIG SET requirepass s3cret");
    snprintf(redis.password, sizeof redis.password, "s3cret");

    lines = lines_to(redis.url, 1000);
    EXPECT(fails(lines, 1000, &sent) == FRESHET_EREDIS && !sent && strstr(freshet_error(), "wants a password"));
    EXPECT(lines_away(lines) && fails(lines, 1000, NULL) == FRESHET_EREDIS &&
           strstr(freshet_error(), "wants a password"));
    lines_close(lines);

    snprintf(url, sizeof url, "unix://:wr0ng@%s", redis.socket);
    lines = lines_to(url, 1000);
    EXPECT(fails(lines, 1000, NULL) == FRESHET_EREDIS && strstr(freshet_error(), "refuses the password"));
    EXPECT(!strstr(freshet_error(), "wr0ng"));
    lines_close(lines);

    snprintf(url, sizeof url, "unix://:s3cret@%s?db=3", redis.socket);
    lines = lines_to(url, 1000);
    EXPECT(ask(lines, 1000, &reply, NULL, "GET", "k", NULL) == FRESHET_OK && reply->type == RESP_NIL);
    resp_free(reply);
    lines_close(lines);

    snprintf(url, sizeof url, "unix://:s3cret@%s?db=9999", redis.socket);
    lines = lines_to(url, 1000);
    EXPECT(fails(lines, 1000, NULL) == FRESHET_EREDIS && strstr(freshet_error(), "database number"));
    lines_close(lines);

    snprintf(url, sizeof url, "unix://reader:pw@%s", redis.socket);
    lines = lines_to(url, 1000);
    EXPECT(gets(lines, "k", "zero"));
    EXPECT(ask(lines, 1000, &reply, &sent, "SET", "k", "x") == FRESHET_EREDIS && !sent && !reply);
    EXPECT(strstr(freshet_error(), "ACL SETUSER reader +set"));
    EXPECT(gets(lines, "k", "zero")); /* the connection is none the worse */
    EXPECT_EQ(open_sockets(), 1);
    lines_close(lines);
}

TEST(a_password_where_none_is_wanted_is_told)
{
    struct redis redis;
    struct lines *lines;
    char url[300];

    redis_start(&redis, NULL);
    snprintf(url, sizeof url, "unix://:pw@%s", redis.socket);
    lines = lines_to(url, 1000);
    EXPECT(fails(lines, 1000, NULL) == FRESHET_EREDIS && strstr(freshet_error(), "take it out"));
    lines_close(lines);
}

TEST(a_replica_is_a_refusal_and_a_lost_master_an_absence)
{
    struct redis redis;
    struct lines *lines;
    struct resp *reply;
    bool sent;

    redis_start(&redis, NULL);
    lines = lines_to(redis.url, 1000);
    redis_do(&redis, "REPLICAOF 127.0.0.1 1");
    EXPECT(ask(lines, 1000, &reply, &sent, "SET", "k", "v") == FRESHET_EREDIS && !sent &&
           strstr(freshet_error(), "replica"));
    redis_do(&redis, "CONFIG SET replica-serve-stale-data no");
    EXPECT(fails(lines, 1000, &sent) == FRESHET_ENET && !sent && strstr(freshet_error(), "MASTERDOWN"));
    redis_do(&redis, "REPLICAOF NO ONE");
    EXPECT(ask(lines, 1000, &reply, &sent, "SET", "k", "v") == FRESHET_OK && sent);
    resp_free(reply);
    lines_close(lines);
}

TEST(a_demoted_master_is_left_for_the_one_that_the_address_leads_to)
{
    struct redis old, new;
    struct lines *lines;
    struct resp *reply;
    char link[160], url[200];
    bool sent;

    redis_start(&old, NULL);
    redis_start(&new, NULL);
    snprintf(link, sizeof link, "%s/master", fresh_dir());
    snprintf(url, sizeof url, "unix://%s", link);
    EXPECT(symlink(old.socket, link) == 0);
    lines = lines_to(url, 1000);
    EXPECT(ask(lines, 1000, &reply, &sent, "SET", "k", "v") == FRESHET_OK);
    resp_free(reply);
    EXPECT(unlink(link) == 0 && symlink(new.socket, link) == 0);
    EXPECT(ask(lines, 1000, &reply, &sent, "SET", "k", "v") == FRESHET_OK); /* it is still a master: no harm in it */
    resp_free(reply);
    EXPECT(strcmp(redis_do(&new, "GET k"), "(nil)") == 0);
    redis_do(&old, "REPLICAOF 127.0.0.1 1");
    EXPECT(ask(lines, 1000, &reply, &sent, "SET", "k", "v") == FRESHET_OK && sent);
    resp_free(reply);
    EXPECT(strcmp(redis_do(&new, "GET k"), "v") == 0);
    lines_close(lines);
}

TEST(where_nobody_listens_calls_fail_at_once)
{
    struct lines *lines;
    char url[200];
    int64_t began_ns = test_now_ns();
    int away = 0, calls = 0;
    bool sent = true;

    snprintf(url, sizeof url, "unix://%s/nobody", fresh_dir());
    lines = lines_to(url, 1000);
    EXPECT(!lines_away(lines));
    EXPECT(fails(lines, 1000, &sent) == FRESHET_ENET && !sent && strstr(freshet_error(), "nobody"));
    /* The back-off grows: after a second hardly any call tries. */
    while (test_now_ns() - began_ns < SECOND_NS) {
        EXPECT(fails(lines, 1000, &sent) == FRESHET_ENET && !sent);
        away += lines_away(lines);
        calls++;
    }
    EXPECT(calls > 10000 && away > calls * 9 / 10);
    lines_reached(lines);
    EXPECT(!lines_away(lines));
    lines_close(lines);
}

TEST(an_unresolved_name_waits_for_its_address)
{
    struct redis redis;
    struct url_address address;
    struct lines *lines;
    struct url numeric;
    char url[100];

    redis_start_tcp(&redis, NULL);
    redis_do(&redis, "SET k v");
    snprintf(url, sizeof url, "redis://localhost:%d", redis.port);
    lines = lines_to(url, 1000);
    EXPECT(fails(lines, 1000, NULL) == FRESHET_ENET && !lines_away(lines));
    snprintf(url, sizeof url, "redis://127.0.0.1:%d", redis.port);
    EXPECT(url_parse(&numeric, url) == FRESHET_OK && url_numeric(&numeric, &address));
    lines_set_address(lines, &address);
    EXPECT(gets(lines, "k", "v"));
    lines_set_address(lines, &address); /* the same: the connection stays */
    EXPECT(gets(lines, "k", "v"));
    EXPECT_EQ(open_sockets(), 1);
    lines_close(lines);
    lines = lines_to(url, 1000); /* a numeric one needs nobody */
    EXPECT(gets(lines, "k", "v"));
    lines_close(lines);
}

TEST(another_address_takes_over)
{
    struct fake *one = FAKE(.greeting = "+OK\r\n", .answer = "$3\r\none\r\n"),
                *two = FAKE(.greeting = "+OK\r\n", .answer = "$3\r\ntwo\r\n");
    struct url_address address = {.size = sizeof two->address};
    struct lines *lines;

    lines = lines_to(one->url, 1000);
    EXPECT(gets(lines, "k", "one"));
    memcpy(&address.storage, &two->address, sizeof two->address);
    lines_set_address(lines, &address);
    EXPECT(gets(lines, "k", "two"));
    EXPECT(gets(lines, "k", "two"));
    EXPECT_EQ(atomic_load(&two->connections), 1);
    lines_close(lines);
}

/* A thread that asks for its own key, over and over. */
struct asker {
    struct lines *lines;
    int number;
    atomic_bool *stop;
    int right, wrong, failed, unsent;
    pthread_t thread;
};

static void *asker_main(void *arg)
{
    struct asker *asker = arg;
    char key[16], value[32];

    snprintf(key, sizeof key, "k%d", asker->number);
    snprintf(value, sizeof value, "value of %d", asker->number);
    while (!atomic_load(asker->stop)) {
        struct resp *reply = NULL;
        bool sent = false;
        freshet_result result = ask(asker->lines, 1000, &reply, &sent, "GET", key, NULL);

        if (result != FRESHET_OK) {
            asker->failed++;
            asker->unsent += !sent;
        } else if (reply->type == RESP_STRING && strcmp(reply->text, value) == 0) {
            asker->right++;
        } else {
            asker->wrong++;
        }
        resp_free(reply);
    }
    return NULL;
}

TEST(eight_threads_get_their_own_answers_while_connections_are_killed)
{
    struct redis redis;
    struct asker askers[8];
    atomic_bool stop = false;
    struct lines *lines;
    int kills = 0;
    int64_t end_ns;

    redis_start(&redis, NULL);
    lines = lines_to(redis.url, 1000);
    for (int i = 0; i < 8; i++) {
        redis_do(&redis, "SET k%d 'value of %d'", i, i);
        askers[i] = (struct asker){.lines = lines, .number = i, .stop = &stop};
        EXPECT(pthread_create(&askers[i].thread, NULL, asker_main, &askers[i]) == 0);
    }
    for (end_ns = test_now_ns() + 2 * SECOND_NS; test_now_ns() < end_ns; kills++) {
        redis_do(&redis, "CLIENT KILL TYPE normal");
        for (int i = 0; i < 20; i++)
            test_pause();
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 8; i++) {
        pthread_join(askers[i].thread, NULL);
        EXPECT_EQ(askers[i].wrong, 0);
        EXPECT(askers[i].right > 100);
        /* A kill costs a thread the one call on its way; one in a greeting also those of the back-off, which are not
         * sent. */
        EXPECT(askers[i].failed - askers[i].unsent <= kills + 1);
    }
    EXPECT(open_sockets() <= 8);
    lines_close(lines);
    EXPECT_EQ(open_sockets(), 0);
}

TEST(a_closing_server_raises_no_signal)
{
    struct fake *fake = FAKE(.greeting = "+OK\r\n", .close_on_command = true);
    size_t size = (size_t)8 << 20;
    const char *argv[] = {"SET", "k", calloc(1, size)};
    struct lines *lines;
    struct resp *reply;
    bool sent = true;

    signal(SIGPIPE, SIG_DFL);
    lines = lines_to(fake->url, 1000);
    for (int i = 0; i < 20; i++) {
        /* Too large for the socket's buffer: Redis cannot have had it all, and so not have run it. */
        EXPECT(lines_ask(lines, 3, argv, (size_t[]){3, 1, size}, test_now_ns() + SECOND_NS, &reply, &sent) ==
               FRESHET_ENET);
        EXPECT(!sent && !lines_away(lines));
    }
    EXPECT(fails(lines, 1000, &sent) == FRESHET_ENET && sent); /* a small one it may have run */
    lines_close(lines);
    free((void *)(uintptr_t)argv[2]);
}

TEST(a_connection_closed_while_idle_costs_nothing)
{
    struct fake *fake = FAKE(.greeting = "+OK\r\n", .answer = "$1\r\nv\r\n", .close_after_answer = true);
    struct lines *lines;

    lines = lines_to(fake->url, 1000);
    for (int i = 1; i <= 50; i++) {
        EXPECT(gets(lines, "k", "v"));
        EXPECT(test_until(atomic_load(&fake->closed) == i, 1000));
    }
    EXPECT_EQ(atomic_load(&fake->connections), 50);
    lines_close(lines);
}

TEST(a_command_taken_but_not_answered_is_not_sent_again)
{
    struct fake *fake = FAKE(.greeting = "+OK\r\n", .close_on_command = true);
    struct lines *lines;
    bool sent = false;

    lines = lines_to(fake->url, 1000);
    EXPECT(fails(lines, 1000, &sent) == FRESHET_ENET && sent);
    EXPECT(test_until(atomic_load(&fake->closed) == 1, 1000));
    EXPECT_EQ(atomic_load(&fake->commands), 1);
    EXPECT_EQ(atomic_load(&fake->connections), 1);
    lines_close(lines);
}

TEST(garbage_ends_the_connection_and_not_the_program)
{
    static const char *const answers[] = {"HTTP/1.1 400 Bad Request\r\n\r\n", "*1048577\r\n", "$99999999999\r\n",
                                          "$3\r\nabcdef", ">1\r\n+x\r\n"};

    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        struct fake *fake = FAKE(.greeting = "+OK\r\n", .answer = answers[i]);
        struct lines *lines;
        bool sent = false;

        lines = lines_to(fake->url, 1000);
        EXPECT(fails(lines, 3000, &sent) == FRESHET_ENET && sent && !strstr(freshet_error(), "deadline"));
        EXPECT(fails(lines, 3000, NULL) == FRESHET_ENET);
        EXPECT_EQ(atomic_load(&fake->connections), 2);
        lines_close(lines);
    }
}

TEST(a_greeting_that_is_none_puts_us_away)
{
    struct fake *const fakes[] = {FAKE(.greeting = "220 smtp ready\r\n"), FAKE(.greeting = NULL),
                                  FAKE(.close_at_once = true)};

    for (size_t i = 0; i < 3; i++) {
        struct lines *lines;
        int64_t began_ns = test_now_ns();
        bool sent = true;

        lines = lines_to(fakes[i]->url, 300);
        EXPECT(fails(lines, 5000, &sent) == FRESHET_ENET && !sent);
        EXPECT(test_now_ns() - began_ns < SECOND_NS); /* connect_ms, not the deadline */
        EXPECT(lines_away(lines) || test_now_ns() - began_ns > 300 * MS_NS);
        lines_close(lines);
    }
}

TEST(more_answers_than_questions_are_not_taken_for_the_next_ones)
{
    struct fake *fake = FAKE(.greeting = "+OK\r\n", .answer = "$1\r\nv\r\n$5\r\nwrong\r\n");
    struct lines *lines;

    lines = lines_to(fake->url, 1000);
    for (int i = 0; i < 20; i++)
        EXPECT(gets(lines, "k", "v"));
    EXPECT_EQ(atomic_load(&fake->connections), 20);
    lines_close(lines);
}

TEST(an_answer_that_drips_is_awaited_to_the_deadline_and_no_further)
{
    struct fake *fake = FAKE(.greeting = "+OK\r\n", .answer = "$9\r\n123456789\r\n", .drip_ms = 10);
    struct lines *lines;
    int64_t began_ns;

    lines = lines_to(fake->url, 1000);
    EXPECT(gets(lines, "k", "123456789"));
    began_ns = test_now_ns();
    EXPECT(fails(lines, 60, NULL) == FRESHET_ENET);
    EXPECT(test_now_ns() - began_ns < SECOND_NS / 2);
    lines_close(lines);
}

TEST(a_script_is_known_after_its_first_use)
{
    struct redis redis;
    struct lines *lines;
    const char *argv[] = {"freshet:{t:0}:hosts", ""};
    struct resp *reply;

    redis_start(&redis, NULL);
    lines = lines_to(redis.url, 1000);
    for (int round = 0; round < 3; round++) {
        EXPECT_EQ(redis_int(&redis, "SCRIPT EXISTS %s", script_texts[SCRIPT_LEAVE].sha1), 0);
        for (int i = 0; i < 2; i++) {
            EXPECT(lines_script(lines, SCRIPT_LEAVE, 1, 2, argv, NULL, test_now_ns() + SECOND_NS, &reply, NULL) ==
                   FRESHET_OK);
            EXPECT(reply && !resp_is_error(reply, "NOSCRIPT"));
            resp_free(reply);
            EXPECT_EQ(redis_int(&redis, "SCRIPT EXISTS %s", script_texts[SCRIPT_LEAVE].sha1), 1);
        }
        redis_do(&redis, "SCRIPT FLUSH");
    }
    lines_close(lines);
}

TEST(a_child_lets_go_and_the_parent_goes_on)
{
    struct redis redis;
    struct lines *lines, *own;
    struct asker askers[4];
    atomic_bool stop = false;

    redis_start(&redis, NULL);
    lines = lines_to(redis.url, 1000);
    for (int i = 0; i < 4; i++) {
        redis_do(&redis, "SET k%d 'value of %d'", i, i);
        askers[i] = (struct asker){.lines = lines, .number = i, .stop = &stop};
        EXPECT(pthread_create(&askers[i].thread, NULL, asker_main, &askers[i]) == 0);
    }
    redis_do(&redis, "SET k v");
    for (int i = 0; i < 20; i++)
        IN_CHILD({
            lines_abandon(lines);
            EXPECT_EQ(open_sockets(), 0);
            own = NULL;
            EXPECT(lines_open(&own, &line_url, 1000, MOST) == FRESHET_OK);
            EXPECT(gets(own, "k", "v"));
            lines_close(own);
        });
    atomic_store(&stop, true);
    for (int i = 0; i < 4; i++) {
        pthread_join(askers[i].thread, NULL);
        EXPECT_EQ(askers[i].wrong, 0);
        EXPECT_EQ(askers[i].failed, 0);
        EXPECT(askers[i].right > 0);
    }
    lines_close(lines);
}

TEST(descriptors_that_the_program_closed_are_not_written_to)
{
    struct redis redis;
    struct lines *lines;
    int pairs[8][2];
    char byte;

    redis_start(&redis, NULL);
    lines = lines_to(redis.url, 1000);
    redis_do(&redis, "SET k v");
    EXPECT(gets(lines, "k", "v"));
    /* A daemon's way: all gone, and the numbers in use again for something else. */
    for (int fd = 3; fd < 256; fd++)
        close(fd);
    for (int i = 0; i < 8; i++)
        EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]) == 0);
    EXPECT(gets(lines, "k", "v"));
    EXPECT(gets(lines, "k", "v"));
    lines_close(lines);
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 2; j++)
            EXPECT(recv(pairs[i][j], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

TEST(a_program_without_standard_descriptors_gets_none_of_ours_there)
{
    struct redis redis;
    struct lines *lines;
    int saved = dup(STDERR_FILENO);

    redis_start(&redis, NULL);
    redis_do(&redis, "SET k v");
    lines = lines_to(redis.url, 1000);
    close(0);
    close(1);
    close(2);
    bool right = gets(lines, "k", "v"), clear = fcntl(0, F_GETFD) < 0 && fcntl(1, F_GETFD) < 0 && fcntl(2, F_GETFD) < 0;
    dup2(saved, STDERR_FILENO);
    EXPECT(right && clear);
    lines_close(lines);
}
