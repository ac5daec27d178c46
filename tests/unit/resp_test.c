/*
 * resp_test.c - Redis's protocol: what is written is what was meant, and no bytes from a server can harm.
 */
#include <test.h>

#include <greeting.h>
#include <resp.h>

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST ((size_t)1 << 20)

/* Feed all at once; the first reply, or NULL (and *ret_result). */
static struct resp *read_one(const char *bytes, size_t size, size_t most, freshet_result *ret_result)
{
    struct resp_reader *reader = resp_reader_open(most);
    struct resp *reply = NULL;

    *ret_result = resp_reader_feed(reader, bytes, size);
    if (*ret_result == FRESHET_OK)
        *ret_result = resp_reader_next(reader, &reply);
    resp_reader_close(reader);
    return reply;
}

/* Is it refused, at once and for good? */
static bool refused(const char *bytes, size_t size, size_t most)
{
    struct resp_reader *reader = resp_reader_open(most);
    struct resp *reply = NULL;
    bool bad = resp_reader_feed(reader, bytes, size) == FRESHET_EIO || resp_reader_next(reader, &reply) == FRESHET_EIO;

    bad = bad && !reply && resp_reader_next(reader, &reply) == FRESHET_EIO && !reply;
    bad = bad && resp_reader_feed(reader, "+OK\r\n", 5) == FRESHET_EIO && freshet_error()[0];
    resp_reader_close(reader);
    return bad;
}
#define REFUSED(text) refused(text, sizeof(text) - 1, MOST)

/* Is it neither a reply nor wrong, so far? */
static bool waits(const char *bytes, size_t size, size_t most)
{
    freshet_result result;
    struct resp *reply = read_one(bytes, size, most, &result);

    resp_free(reply);
    return result == FRESHET_OK && !reply;
}
#define WAITS(text) waits(text, sizeof(text) - 1, MOST)

/* Write a reply back as it came. */
static size_t write_back(const struct resp *reply, char *out)
{
    size_t size;

    switch (reply->type) {
    case RESP_STRING:
        size = (size_t)sprintf(out, "$%zu\r\n", reply->size);
        memcpy(out + size, reply->text, reply->size);
        EXPECT(reply->text[reply->size] == '\0');
        memcpy(out + size + reply->size, "\r\n", 2);
        return size + reply->size + 2;
    case RESP_STATUS:
    case RESP_ERROR:
        EXPECT(reply->text[reply->size] == '\0');
        return (size_t)sprintf(out, "%c%.*s\r\n", reply->type == RESP_STATUS ? '+' : '-', (int)reply->size,
                               reply->text);
    case RESP_INTEGER:
        return (size_t)sprintf(out, ":%lld\r\n", reply->integer);
    case RESP_NIL:
        return (size_t)sprintf(out, "$-1\r\n");
    case RESP_ARRAY:
        size = (size_t)sprintf(out, "*%zu\r\n", reply->count);
        for (size_t i = 0; i < reply->count; i++)
            size += write_back(reply->items[i], out + size);
        return size;
    }
    return 0;
}

/* A conversation with all that there is in it. */
static const char sample[] =
    "+OK\r\n-ERR no\r\n:0\r\n:-9223372036854775808\r\n$-1\r\n$0\r\n\r\n$5\r\na\0\r\nb\r\n*0\r\n"
    "*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$3\r\nabc\r\n"
    "*5\r\n:1\r\n*2\r\n+in\r\n*1\r\n:2\r\n$-1\r\n-BAD in\r\n*0\r\n+\r\n"
    "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*0\r\n";
#define SAMPLE_SIZE    (sizeof sample - 1)
#define SAMPLE_REPLIES 12

/* Read the sample in pieces of `step`, write it back and compare. */
static void check_sample(size_t step)
{
    struct resp_reader *reader = resp_reader_open(MOST);
    char out[sizeof sample + 100];
    size_t size = 0, replies = 0;

    for (size_t at = 0; at < SAMPLE_SIZE; at += step) {
        struct resp *reply;

        EXPECT(resp_reader_feed(reader, sample + at, SAMPLE_SIZE - at < step ? SAMPLE_SIZE - at : step) == FRESHET_OK);
        for (;;) {
            EXPECT(resp_reader_next(reader, &reply) == FRESHET_OK);
            if (!reply)
                break;
            size += write_back(reply, out + size);
            replies++;
            resp_free(reply);
        }
    }
    EXPECT(resp_reader_empty(reader));
    EXPECT_EQ(replies, SAMPLE_REPLIES);
    EXPECT(size == SAMPLE_SIZE && memcmp(out, sample, size) == 0);
    resp_reader_close(reader);
}

TEST(replies_come_whole_however_they_are_cut)
{
    for (size_t step = 1; step <= SAMPLE_SIZE; step++)
        check_sample(step);
}

TEST(a_truncated_reply_is_no_reply_and_no_error)
{
    static const char reply[] = "*3\r\n$3\r\nabc\r\n*2\r\n:12\r\n-ERR x\r\n$-1\r\n";

    for (size_t size = 0; size < sizeof reply - 1; size++)
        EXPECT(waits(reply, size, MOST));
}

TEST(a_command_is_written_as_redis_reads_it)
{
    static const char expected[] = "*4\r\n$3\r\nSET\r\n$0\r\n\r\n$5\r\n\0\r\n\r\n\r\n$10\r\n0123456789\r\n";
    const char *argv[] = {"SET", "", "\0\r\n\r\n", "0123456789"};
    const size_t sizes[] = {3, 0, 5, 10};
    char *bytes;
    size_t size;

    EXPECT(resp_format(4, argv, sizes, &bytes, &size) == FRESHET_OK);
    EXPECT(size == sizeof expected - 1 && memcmp(bytes, expected, size) == 0);
    free(bytes);
    EXPECT(resp_format(2, (const char *[]){"GET", "k"}, NULL, &bytes, &size) == FRESHET_OK);
    EXPECT(size == 20 && memcmp(bytes, "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", size) == 0);
    free(bytes);
    EXPECT(resp_format(0, argv, sizes, &bytes, &size) == FRESHET_EINVAL);
    EXPECT(resp_format(-1, argv, sizes, &bytes, &size) == FRESHET_EINVAL);
    EXPECT(resp_format(1, argv, (size_t[]){RESP_COMMAND_MAX + 1}, &bytes, &size) == FRESHET_ETOOBIG);
    EXPECT(resp_format(2, argv, (size_t[]){SIZE_MAX, SIZE_MAX}, &bytes, &size) == FRESHET_ETOOBIG);
}

TEST(a_command_read_back_as_a_reply_is_itself)
{
    uint64_t seed = 3;

    for (int round = 0; round < 2000; round++) {
        char text[4][300];
        const char *argv[4] = {text[0], text[1], text[2], text[3]};
        size_t sizes[4], size;
        int argc = 1 + (int)(test_random(&seed) % 4);
        freshet_result result;
        struct resp *reply;
        char *bytes;

        for (int i = 0; i < argc; i++) {
            sizes[i] = test_random(&seed) % sizeof text[i];
            for (size_t j = 0; j < sizes[i]; j++)
                text[i][j] = (char)test_random(&seed);
        }
        EXPECT(resp_format(argc, argv, sizes, &bytes, &size) == FRESHET_OK);
        reply = read_one(bytes, size, MOST, &result);
        EXPECT(result == FRESHET_OK && reply && reply->type == RESP_ARRAY && reply->count == (size_t)argc);
        for (int i = 0; i < argc; i++)
            EXPECT(reply->items[i]->size == sizes[i] && memcmp(reply->items[i]->text, text[i], sizes[i]) == 0);
        resp_free(reply);
        free(bytes);
    }
}

TEST(what_is_not_resp2_is_refused)
{
    EXPECT(REFUSED("HTTP/1.1 400 Bad Request\r\n"));
    EXPECT(REFUSED("\r\n"));
    EXPECT(REFUSED("\0"));
    EXPECT(REFUSED("$x\r\n"));
    EXPECT(REFUSED("$-2\r\n"));
    EXPECT(REFUSED("$3\r\nabcXY+OK\r\n")); /* no line's end behind the bytes */
    EXPECT(REFUSED("*-2\r\n"));
    EXPECT(REFUSED("*x\r\n"));
    EXPECT(REFUSED("*99999999999999999999\r\n"));
    EXPECT(REFUSED("*2\r\n+OK\r\n?"));
    EXPECT(REFUSED("%1\r\n+a\r\n+b\r\n")); /* RESP3 from here on */
    EXPECT(REFUSED("~1\r\n+a\r\n"));
    EXPECT(REFUSED(">1\r\n+a\r\n"));
    EXPECT(REFUSED(",1.5\r\n"));
    EXPECT(REFUSED("#t\r\n"));
    EXPECT(REFUSED("=5\r\ntxt:a\r\n"));
    EXPECT(REFUSED("(12345\r\n"));
}

TEST(a_reply_may_have_so_many_bytes_and_no_more)
{
    char bytes[200];
    struct resp *reply;
    freshet_result result;
    int size = snprintf(bytes, sizeof bytes, "$100\r\n%0100d\r\n", 7); /* 108 bytes */

    reply = read_one(bytes, (size_t)size, 108, &result);
    EXPECT(reply && reply->size == 100);
    resp_free(reply);
    EXPECT(refused(bytes, (size_t)size, 107));
    for (int part = 1; part < size; part++)
        EXPECT(waits(bytes, (size_t)part, 108));
    EXPECT(refused("$109\r\n", 6, 108)); /* told by its header alone */
    EXPECT(refused("*2\r\n$109\r\n", 10, 108));
    EXPECT(REFUSED("$9223372036854775807\r\n"));
    EXPECT(REFUSED("$1048577\r\nx"));
    EXPECT(WAITS("$1000000\r\nx"));
}

TEST(many_small_replies_at_once_are_not_one_large_one)
{
    struct resp_reader *reader = resp_reader_open(16);
    struct resp *reply;

    for (int round = 0; round < 3; round++) {
        EXPECT(resp_reader_feed(reader, "+one\r\n+two\r\n$5\r\nthree\r\n:4\r\n", 27) == FRESHET_OK);
        for (int i = 0; i < 4; i++) {
            EXPECT(!resp_reader_empty(reader));
            EXPECT(resp_reader_next(reader, &reply) == FRESHET_OK && reply);
            resp_free(reply);
        }
        EXPECT(resp_reader_next(reader, &reply) == FRESHET_OK && !reply && resp_reader_empty(reader));
    }
    resp_reader_close(reader);
}

TEST(a_line_without_end_is_refused)
{
    static const char types[] = {'+', '-', ':', '$', '*'};
    struct resp *reply;

    for (size_t i = 0; i < sizeof types; i++) {
        struct resp_reader *reader = resp_reader_open((size_t)64 << 20);
        freshet_result result = resp_reader_feed(reader, &types[i], 1);
        char chunk[4096];
        size_t fed = 0;

        memset(chunk, '1', sizeof chunk);
        for (; result == FRESHET_OK && fed < (1u << 20); fed += sizeof chunk)
            if ((result = resp_reader_feed(reader, chunk, sizeof chunk)) == FRESHET_OK)
                result = resp_reader_next(reader, &reply);
        EXPECT(result == FRESHET_EIO && fed <= RESP_LINE_MAX + 2 * sizeof chunk);
        resp_reader_close(reader);
    }
}

TEST(elements_and_depth_have_an_end)
{
    size_t size = 0, count = RESP_ELEMENTS_MAX;
    char *bytes = malloc(count * 4 + 64);
    freshet_result result;
    struct resp *reply;

    EXPECT(bytes);
    EXPECT(REFUSED("*1048577\r\n"));
    EXPECT(REFUSED("*2147483647\r\n"));
    EXPECT(WAITS("*1048575\r\n"));
    EXPECT(REFUSED("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n"));
    EXPECT(WAITS("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r"));
    /* A million elements, with the array itself: just one below the limit, then at it, then above by nesting. */
    size = (size_t)sprintf(bytes, "*%zu\r\n", count - 1);
    for (size_t i = 0; i < count - 1; i++, size += 4)
        memcpy(bytes + size, ":1\r\n", 4);
    reply = read_one(bytes, size, (size_t)64 << 20, &result);
    EXPECT(reply && reply->count == count - 1 && reply->items[count - 2]->integer == 1);
    resp_free(reply);
    memcpy(bytes + size - 4, "*1\r\n", 4);
    memcpy(bytes + size, ":1\r\n", 4);
    EXPECT(refused(bytes, size + 4, (size_t)64 << 20));
    free(bytes);
}

TEST(claims_of_a_server_cost_no_memory)
{
    struct mallinfo2 before, after;
    struct resp_reader *readers[64];
    struct resp *reply;

    before = mallinfo2();
    for (int i = 0; i < 64; i++) {
        readers[i] = resp_reader_open((size_t)1 << 30);
        EXPECT(resp_reader_feed(readers[i], "*1000000\r\n*1000\r\n$1000000000\r\nx", 31) == FRESHET_OK);
        EXPECT(resp_reader_next(readers[i], &reply) == FRESHET_OK && !reply);
    }
    after = mallinfo2();
    EXPECT(after.uordblks + after.hblkhd < before.uordblks + before.hblkhd + (1u << 20));
    for (int i = 0; i < 64; i++)
        resp_reader_close(readers[i]);
}

TEST(a_big_reply_leaves_no_big_buffer_behind)
{
    struct resp_reader *reader = resp_reader_open((size_t)64 << 20);
    size_t size = (size_t)8 << 20;
    char *bytes = malloc(size + 32);
    struct mallinfo2 before = mallinfo2(), after;
    struct resp *reply;
    size_t head;

    EXPECT(bytes);
    head = (size_t)sprintf(bytes, "$%zu\r\n", size);

    memset(bytes + head, 'v', size);
    memcpy(bytes + head + size, "\r\n", 2);
    for (int round = 0; round < 2; round++) {
        EXPECT(resp_reader_feed(reader, bytes, head + size + 2) == FRESHET_OK);
        EXPECT(resp_reader_next(reader, &reply) == FRESHET_OK && reply && reply->size == size);
        resp_free(reply);
    }
    after = mallinfo2();
    EXPECT(after.uordblks + after.hblkhd < before.uordblks + before.hblkhd + (1u << 20));
    resp_reader_close(reader);
    free(bytes);
}

/* Mutate the sample, feed it in random pieces, and let come what may. */
static void fuzz_once(uint64_t *seed)
{
    static const char tokens[] = "+-:$*\r\n0123456789%~>,#=(_!|";
    struct resp_reader *reader = resp_reader_open(1000);
    char bytes[SAMPLE_SIZE * 2];
    size_t size = SAMPLE_SIZE, changes = 1 + test_random(seed) % 6;
    freshet_result result = FRESHET_OK;

    memcpy(bytes, sample, size);
    for (; changes; changes--) {
        size_t at = test_random(seed) % size, span = 1 + test_random(seed) % 8;

        switch (test_random(seed) % 5) {
        case 0:
            bytes[at] = (char)test_random(seed);
            break;
        case 1:
        case 2:
            bytes[at] = tokens[test_random(seed) % (sizeof tokens - 1)];
            break;
        case 3: /* cut out */
            span = span < size - at ? span : size - at;
            memmove(bytes + at, bytes + at + span, size - at - span);
            size -= span;
            break;
        default: /* double */
            span = span < size - at ? span : size - at;
            memmove(bytes + at + span, bytes + at, size - at);
            size += span;
        }
        if (size < 10)
            break;
    }
    for (size_t at = 0, step; at < size && result == FRESHET_OK; at += step) {
        struct resp *reply = NULL;

        step = 1 + test_random(seed) % 40;
        step = step < size - at ? step : size - at;
        result = resp_reader_feed(reader, bytes + at, step);
        while (result == FRESHET_OK && (result = resp_reader_next(reader, &reply)) == FRESHET_OK && reply) {
            char out[SAMPLE_SIZE * 3];

            (void)write_back(reply, out);
            resp_free(reply);
        }
    }
    EXPECT(result == FRESHET_OK || result == FRESHET_EIO);
    resp_reader_close(reader);
}

TEST_LONG(two_hundred_thousand_mutations_harm_nothing, 120)
{
    uint64_t seed = 20240607;
    int rounds = test_long_runs() ? 5000000 : 200000;

    test_one_thread();
    for (int i = 0; i < rounds; i++)
        fuzz_once(&seed);
}

TEST(pure_garbage_harms_nothing)
{
    uint64_t seed = 99;

    for (int round = 0; round < 100000; round++) {
        char bytes[64];
        size_t size = 1 + test_random(&seed) % sizeof bytes;
        freshet_result result;

        for (size_t i = 0; i < size; i++)
            bytes[i] = (char)test_random(&seed);
        bytes[0] = "+-:$*"[test_random(&seed) % 5];
        resp_free(read_one(bytes, size, 100, &result));
    }
}

/* An error reply with this text. */
static struct resp error_of(const char *text)
{
    return (struct resp){.type = RESP_ERROR, .text = text, .size = strlen(text)};
}

TEST(errors_are_told_apart_by_their_first_word)
{
    static const char *const unavailable[] = {"LOADING Redis is loading the dataset in memory",
                                              "MASTERDOWN Link",
                                              "BUSY Redis is",
                                              "TRYAGAIN x",
                                              "CLUSTERDOWN",
                                              "ERR max number of clients reached"};
    static const char *const refusals[] = {"NOAUTH Authentication required.", "NOPERM x", "WRONGPASS x", "READONLY x",
                                           "DENIED x"};
    static const char *const others[] = {"BUSYGROUP x", "BUSYKEY", "ERR x",      "", "NOSCRIPT No matching script",
                                         "LOADINGS",    "NOPER",   "WRONGTYPE x"};
    struct resp status = {.type = RESP_STATUS, .text = "LOADING", .size = 7};

    for (size_t i = 0; i < sizeof unavailable / sizeof *unavailable; i++) {
        struct resp error = error_of(unavailable[i]);

        EXPECT(resp_is_unavailable(&error) && !resp_is_refusal(&error));
    }
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct resp error = error_of(refusals[i]);

        EXPECT(resp_is_refusal(&error) && !resp_is_unavailable(&error));
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct resp error = error_of(others[i]);

        EXPECT(!resp_is_refusal(&error) && !resp_is_unavailable(&error));
    }
    EXPECT(!resp_is_unavailable(&status) && !resp_is_unavailable(NULL) && !resp_is_refusal(NULL));
}

/* The sentence for a refusal. */
static bool advises(const char *url_as_text, const char *error_text, freshet_result result, const char *advice)
{
    struct resp error = error_of(error_text);
    struct url url;
    bool right;

    EXPECT(url_parse(&url, url_as_text) == FRESHET_OK);
    right = greeting_refusal(&error, &url) == result && strstr(freshet_error(), advice) &&
            !strstr(freshet_error(), "s3cret") && !strchr(freshet_error(), '\n');
    url_free(&url);
    return right;
}

TEST(a_refusal_says_what_to_do)
{
    EXPECT(advises("redis://h", "NOAUTH Authentication required.", FRESHET_EREDIS, "redis://:PASSWORD@"));
    EXPECT(advises("redis://me:s3cret@h", "WRONGPASS invalid", FRESHET_EREDIS, "user me"));
    EXPECT(advises("redis://h", "READONLY You can't write", FRESHET_EREDIS, "master"));
    EXPECT(advises("redis://me:s3cret@h", "NOPERM this user has no permissions to run the 'evalsha' command",
                   FRESHET_EREDIS, "ACL SETUSER me +evalsha"));
    EXPECT(advises("redis://h", "NOPERM this user has no permissions to access one of the keys used as arguments",
                   FRESHET_EREDIS, "ACL SETUSER default ~freshet:*"));
    EXPECT(advises("redis://h", "NOPERM User x has no permissions to access the 'a' channel", FRESHET_EREDIS,
                   "&freshet:*"));
    EXPECT(advises("redis://h", "DENIED protected\nmode\x01", FRESHET_EREDIS, "protected?mode?"));
    EXPECT(advises("redis://h", "LOADING Redis is loading", FRESHET_ENET, "not of service"));
}

TEST(the_first_words_are_said_together_and_judged_one_by_one)
{
    struct resp ok = {.type = RESP_STATUS, .text = "OK", .size = 2}, wrong = error_of("WRONGPASS x"),
                none = error_of("ERR AUTH <password> called without any password configured for the default user."),
                range = error_of("ERR DB index is out of range"),
                noperm = error_of("NOPERM no 'client|setname' command"),
                noauth = error_of("NOAUTH Authentication required."), unknown = error_of("ERR unknown subcommand");
    struct greeting greeting;
    struct url url;

    EXPECT(url_parse(&url, "redis://me:p@h/3") == FRESHET_OK && greeting_make(&greeting, &url) == FRESHET_OK);
    EXPECT_EQ(greeting.count, 3);
    EXPECT(memmem(greeting.bytes, greeting.size,
                  "*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$1\r\np\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n", 50));
    EXPECT(greeting_judge(&greeting, 0, &ok, &url) == FRESHET_OK);
    EXPECT(greeting_judge(&greeting, 0, &wrong, &url) == FRESHET_EREDIS);
    EXPECT(greeting_judge(&greeting, 0, &none, &url) == FRESHET_EREDIS && strstr(freshet_error(), "take it out"));
    EXPECT(greeting_judge(&greeting, 1, &range, &url) == FRESHET_EREDIS && strstr(freshet_error(), "database number"));
    EXPECT(greeting_judge(&greeting, 2, &noperm, &url) == FRESHET_OK);
    EXPECT(greeting_judge(&greeting, 2, &unknown, &url) == FRESHET_OK);
    greeting_free(&greeting);
    url_free(&url);
    EXPECT(url_parse(&url, "redis://h") == FRESHET_OK && greeting_make(&greeting, &url) == FRESHET_OK);
    EXPECT_EQ(greeting.count, 1);
    EXPECT(greeting_judge(&greeting, 0, &noauth, &url) == FRESHET_EREDIS);
    EXPECT(greeting_judge(&greeting, 0, &ok, &url) == FRESHET_OK);
    greeting_free(&greeting);
}
