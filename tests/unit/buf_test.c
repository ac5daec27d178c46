/* buf_test.c - the caller's buffer: holds what it was given, keeps its memory, loses nothing when memory is short. */
#include <buf.h>
#include <stdlib.h>
#include <string.h>
#include <test.h>

TEST(a_buffer_holds_what_it_was_given_last)
{
    freshet_buf buf = {0};

    EXPECT(freshet_buf_set(&buf, "hello", 5) == FRESHET_OK && buf.size == 5 && memcmp(buf.data, "hello", 5) == 0);
    EXPECT(freshet_buf_set(&buf, "you", 3) == FRESHET_OK && buf.size == 3 && memcmp(buf.data, "you", 3) == 0);
    EXPECT(freshet_buf_set(&buf, NULL, 0) == FRESHET_OK && buf.size == 0 && buf.data);
    freshet_buf_free(&buf);
    EXPECT(!buf.data && buf.size == 0 && buf.capacity == 0);
    freshet_buf_free(&buf);
    freshet_buf_free(NULL);
}

TEST(an_empty_value_has_somewhere_to_point_at)
{
    freshet_buf buf = {0};

    EXPECT(freshet_buf_set(&buf, "", 0) == FRESHET_OK && buf.data && buf.size == 0);
    freshet_buf_free(&buf);
}

TEST(memory_is_kept_for_the_next_value)
{
    freshet_buf buf = {0};
    void *data;

    EXPECT(buf_reserve(&buf, 10000) == FRESHET_OK && buf.capacity >= 10000 && buf.size == 0);
    data = buf.data;
    for (size_t size = 0; size <= 10000; size += 100)
        EXPECT(buf_reserve(&buf, size) == FRESHET_OK && buf.data == data);
    freshet_buf_free(&buf);
}

TEST(growing_keeps_what_is_held)
{
    freshet_buf buf = {0};

    EXPECT(freshet_buf_set(&buf, "hello", 5) == FRESHET_OK);
    EXPECT(buf_reserve(&buf, 1 << 20) == FRESHET_OK);
    EXPECT(buf.size == 5 && memcmp(buf.data, "hello", 5) == 0 && buf.capacity >= 1 << 20);
    freshet_buf_free(&buf);
}

TEST(no_memory_leaves_it_as_it_was)
{
    freshet_buf buf = {0};

    EXPECT(freshet_buf_set(&buf, "hello", 5) == FRESHET_OK);
    EXPECT(buf_reserve(&buf, SIZE_MAX) == FRESHET_ENOMEM);
    EXPECT(buf_reserve(&buf, SIZE_MAX - 63) == FRESHET_ENOMEM);
    EXPECT(buf.size == 5 && memcmp(buf.data, "hello", 5) == 0);
    EXPECT(freshet_buf_set(&buf, NULL, 3) == FRESHET_EINVAL);
    EXPECT(freshet_buf_set(NULL, "x", 1) == FRESHET_EINVAL);
    EXPECT(buf.size == 5 && memcmp(buf.data, "hello", 5) == 0);
    freshet_buf_free(&buf);
}

TEST(a_buffer_may_be_given_a_part_of_itself)
{
    freshet_buf buf = {0};

    EXPECT(freshet_buf_set(&buf, "abcdefgh", 8) == FRESHET_OK);
    EXPECT(freshet_buf_set(&buf, (char *)buf.data + 2, 5) == FRESHET_OK);
    EXPECT(buf.size == 5 && memcmp(buf.data, "cdefg", 5) == 0);
    freshet_buf_free(&buf);
}
