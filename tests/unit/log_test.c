/* log_test.c - sentences a thread, lines for the host's callback, results in words. */
#include <errno.h>
#include <freshet.h>
#include <log.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <test.h>

TEST(a_failure_leaves_its_sentence_and_its_errno)
{
    EXPECT(strcmp(freshet_error(), "") == 0);
    errno = ENOSPC;
    EXPECT_EQ(fail(FRESHET_EDIR, "%s is %d", "answer", 42), FRESHET_EDIR);
    EXPECT(errno == ENOSPC && strcmp(freshet_error(), "answer is 42") == 0);
    EXPECT_EQ(fail(FRESHET_EIO, "again: %s", freshet_error()), FRESHET_EIO); /* of itself */
    EXPECT(strcmp(freshet_error(), "again: answer is 42") == 0);
    fail_clear();
    EXPECT(strcmp(freshet_error(), "") == 0);
}

TEST(a_sentence_too_long_is_cut)
{
    char word[2000];

    memset(word, 'x', sizeof word);
    word[sizeof word - 1] = '\0';
    (void)fail(FRESHET_EIO, "%s", word);
    EXPECT(strlen(freshet_error()) > 400 && strlen(freshet_error()) < 1000);
}

static void *fails(void *arg)
{
    (void)fail(FRESHET_EIO, "not yours");
    return arg;
}

TEST(each_thread_has_its_own_sentence)
{
    pthread_t thread;

    (void)fail(FRESHET_EIO, "mine");
    EXPECT(pthread_create(&thread, NULL, fails, NULL) == 0 && pthread_join(thread, NULL) == 0);
    EXPECT(strcmp(freshet_error(), "mine") == 0);
}

static _Atomic int heard, wrong;
static char last[600];

static void listen_one(freshet_level level, const char *message, void *arg)
{
    heard++;
    wrong += arg != &heard;
    (void)snprintf(last, sizeof last, "%d %s", (int)level, message);
}

TEST(only_who_listens_hears_and_only_from_its_level_up)
{
    say(FRESHET_ERROR, "nobody");
    freshet_log(listen_one, &heard, FRESHET_WARN);
    say(FRESHET_INFO, "too low");
    EXPECT_EQ(heard, 0);
    say(FRESHET_WARN, "%s %d", "line", 7);
    EXPECT(heard == 1 && wrong == 0 && strcmp(last, "2 line 7") == 0);
    freshet_log(NULL, NULL, FRESHET_DEBUG);
    say(FRESHET_ERROR, "gone");
    EXPECT_EQ(heard, 1);
}

static void listen_two(freshet_level level, const char *message, void *arg)
{
    (void)level;
    (void)message;
    wrong += arg != &wrong;
}

static _Atomic bool over;

static void *switches(void *arg)
{
    while (!over) {
        freshet_log(listen_two, &wrong, FRESHET_DEBUG);
        freshet_log(NULL, NULL, FRESHET_DEBUG);
    }
    return arg;
}

static void *talks(void *arg)
{
    for (int i = 0; i < 100000; i++)
        say(FRESHET_INFO, "x");
    return arg;
}

TEST(a_callback_never_gets_anothers_argument)
{
    pthread_t one, two;

    EXPECT(pthread_create(&one, NULL, switches, NULL) == 0 && pthread_create(&two, NULL, talks, NULL) == 0);
    EXPECT(pthread_join(two, NULL) == 0);
    over = true;
    EXPECT(pthread_join(one, NULL) == 0);
    EXPECT_EQ(wrong, 0);
}

TEST(every_result_has_its_name_and_text)
{
    for (int r = FRESHET_EKEYRING; r <= FRESHET_UNREPLICATED; r++) {
        if (r == 7 || r == 8) /* guards' */
            continue;
        EXPECT(strncmp(freshet_result_name((freshet_result)r), "FRESHET_", 8) == 0);
        EXPECT(strcmp(freshet_result_name((freshet_result)r), "FRESHET_?") != 0);
        EXPECT(strlen(freshet_result_text((freshet_result)r)) > 3);
    }
    EXPECT(strcmp(freshet_result_name(FRESHET_MISS), "FRESHET_MISS") == 0);
    EXPECT(freshet_result_name((freshet_result)77) && freshet_result_text((freshet_result)-99));
    EXPECT(strcmp(freshet_version(), FRESHET_VERSION) == 0);
}
