/* trace_test.c - request traces as the benches read them, and the two that judge them. */
#include <test.h>

#include "../../tools/trace.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct trace trace;
static char why[512], path[400];

static const char *file_with(const char *name, const void *bytes, size_t size)
{
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", fresh_dir(), name);
    file = fopen(path, "w");
    EXPECT(file && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
    return path;
}

static bool reads(const char *name, const void *bytes, size_t size)
{
    trace_free(&trace);
    return trace_read(&trace, file_with(name, bytes, size), why, sizeof why);
}

static bool keys_are(const char *keys)
{
    bool same = trace.count == strlen(keys);

    for (size_t i = 0; same && i < trace.count; i++)
        same = trace.keys[i] == (uint32_t)(keys[i] - '0');
    return same;
}

TEST(each_format_gives_the_keys_in_order_of_their_first_request)
{
    EXPECT(reads("a.trace", "\0\0\1\0\0\0\0\1\0\0\1\0\377\377\377\377", 16));
    EXPECT(keys_are("0102") && trace.distinct == 3);
    EXPECT(reads("a.lis", "7 3 0 0\n9 1 0 1\n\n6 2 0 2\n", 25));
    EXPECT(keys_are("012230") && trace.distinct == 4);
    EXPECT(reads("a.txt", "one\r\ntwo\n\none\ntwo ", 18));
    EXPECT(keys_are("0102") && trace.distinct == 3);
    trace_free(&trace);
}

TEST(what_is_wrong_with_a_trace_is_said)
{
    EXPECT(!reads("a.trace", "\0\0\1\0\0", 5) && strstr(why, "midst"));
    EXPECT(!reads("a.lis", "7 1000001\n", 10) && strstr(why, "at most a million"));
    EXPECT(!reads("a.lis", "seven\n", 6) && strstr(why, "a key and a count"));
    EXPECT(!reads("a.txt", "\n\n", 2) && strstr(why, "no requests"));
    EXPECT(!reads("a.txt.gz", "no gzip", 7) && strstr(why, "unpacked"));
    EXPECT(!trace_read(&trace, "/nowhere/a.txt", why, sizeof why) && strstr(why, "No such file"));
    (void)file_with("a.txt.gz", "", 0);
    EXPECT(setenv("PATH", "/nowhere", 1) == 0);
    EXPECT(!trace_read(&trace, path, why, sizeof why) && strstr(why, "gzip") && strstr(why, "PATH"));
}

TEST(a_packed_trace_is_unpacked)
{
    char command[900];

    (void)file_with("it's; a $name.txt", "a\nb\na\n", 6);
    snprintf(command, sizeof command, "gzip \"$TRACE\"");
    EXPECT(setenv("TRACE", path, 1) == 0);
    if (system(command) != 0)
        test_skip("there is no gzip");
    EXPECT(snprintf(command, sizeof command, "%s.gz", path) > 0);
    EXPECT(trace_read(&trace, command, why, sizeof why) && keys_are("010"));
    trace_free(&trace);
}

TEST(many_keys_stay_apart)
{
    unsigned char *bytes = calloc(300000, 4);

    EXPECT(bytes != NULL);
    for (uint32_t i = 0; i < 300000; i++) { /* each twice */
        bytes[(size_t)4 * i + 1] = (unsigned char)(i % 150000 >> 16);
        bytes[(size_t)4 * i + 2] = (unsigned char)(i % 150000 >> 8);
        bytes[(size_t)4 * i + 3] = (unsigned char)(i % 150000);
    }
    EXPECT(reads("a.trace", bytes, 1200000));
    EXPECT(trace.count == 300000 && trace.distinct == 150000);
    for (uint32_t i = 0; i < 300000; i++)
        EXPECT(trace.keys[i] == i % 150000);
    EXPECT_EQ(trace_lru(&trace, 149999), 0);
    EXPECT_EQ(trace_lru(&trace, 150000), 150000);
    EXPECT_EQ(trace_optimum(&trace, 149999), 149999);
    trace_free(&trace);
    free(bytes);
}

TEST(lru_and_the_optimum_are_right)
{
    EXPECT(reads("a.txt", "0\n1\n2\n3\n0\n1\n4\n0\n1\n2\n3\n4\n", 24)); /* Belady's own example */
    EXPECT(trace_lru(&trace, 3) == 2 && trace_lru(&trace, 4) == 4 && trace_lru(&trace, 5) == 7);
    EXPECT(trace_optimum(&trace, 3) == 5 && trace_optimum(&trace, 4) == 6 && trace_optimum(&trace, 5) == 7);
    EXPECT(trace_lru(&trace, 0) == 0 && trace_optimum(&trace, 0) == 0 && trace_optimum(&trace, 1) == 0);
    trace_free(&trace);
}
