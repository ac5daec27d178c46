/*
 * protocol_test.c - PROTOCOL.md is enough: a program in another language, which shares no code with us, listens to a
 * live channel, verifies a frame, and opens what Redis holds (tests/protocol_test.py, on PyNaCl).
 */
#include <hosts.h>
#include <test.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Start the program; its standard output can be read from the descriptor. */
static pid_t start_python(const char *const *argv, int *ret_out)
{
    int out[2];
    pid_t child;

    EXPECT(pipe2(out, O_CLOEXEC) == 0);
    child = test_fork();
    if (child == 0) {
        (void)dup2(out[1], 1);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    (void)close(out[1]);
    *ret_out = out[0];
    return child;
}

/* Read until the word was seen or the other side has ended. */
static bool wait_for_word(int out, const char *word)
{
    char text[4096] = "";
    size_t size = 0;
    ssize_t got;

    while (size < sizeof text - 1 && (got = read(out, text + size, sizeof text - 1 - size)) > 0) {
        size += (size_t)got;
        text[size] = '\0';
        if (strstr(text, word))
            return true;
    }
    return false;
}

static void expect_understood(const char *value)
{
    struct redis redis;
    freshet *cache;
    int out;
    pid_t child;

    if (!TEST_PYNACL)
        test_skip("no Python with PyNaCl (Debian: python3-nacl)");
    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 0);
    const char *argv[] = {TEST_PYTHON,
                          TEST_PROTOCOL,
                          "--socket",
                          redis.socket,
                          "--name",
                          "default",
                          "--keyring",
                          host_keyring(),
                          "--expect-key",
                          "a key/42",
                          value ? "--expect-value" : NULL,
                          value,
                          NULL};
    child = start_python(argv, &out);
    EXPECT(wait_for_word(out, "READY"));
    if (value)
        EXPECT_EQ(host_put(cache, "a key/42", value), FRESHET_OK);
    else
        EXPECT_EQ(freshet_put_absent(cache, "a key/42", 8, NULL, NULL), FRESHET_OK);
    test_join(child);
    (void)close(out);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(another_language_verifies_a_live_frame_and_opens_the_value)
{
    expect_understood("the value that is expected");
}

TEST(another_language_verifies_a_live_frame_and_opens_an_absence)
{
    expect_understood(NULL);
}
