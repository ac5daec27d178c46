/* reply.c - RESP2 replies (reply.h). */
#include <reply.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ERROR_MOST 1024u

void *reply_alloc(size_t size)
{
    void *memory = calloc(1, size ? size : 1);

    if (!memory)
        abort();
    return memory;
}

void *reply_grow(void *memory, size_t size)
{
    void *grown = realloc(memory, size ? size : 1);

    if (!grown)
        abort();
    return grown;
}

char *reply_copy(const void *bytes, size_t size)
{
    char *copy = reply_grow(NULL, size + 1);

    if (size)
        memcpy(copy, bytes, size);
    copy[size] = '\0';
    return copy;
}

void redis_reply_free(struct redis_reply *reply)
{
    free(reply->bytes);
    *reply = (struct redis_reply){0};
}

void reply_add(struct redis_reply *reply, const void *bytes, size_t size)
{
    if (reply->size + size >= reply->room) {
        reply->room = (reply->size + size) * 2 + 64;
        reply->bytes = reply_grow(reply->bytes, reply->room);
    }
    if (size)
        memcpy(reply->bytes + reply->size, bytes, size);
    reply->size += size;
    reply->bytes[reply->size] = '\0'; /* numbers are read up to it at most */
}

/* A line of a type and a number: the most frequent thing, so without printf. */
static void reply_head(struct redis_reply *reply, char type, long long number)
{
    char line[32], *at = line + sizeof line;
    unsigned long long rest = number < 0 ? 0ull - (unsigned long long)number : (unsigned long long)number;

    *--at = '\n';
    *--at = '\r';
    do {
        *--at = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (number < 0)
        *--at = '-';
    *--at = type;
    reply_add(reply, at, (size_t)(line + sizeof line - at));
}

void reply_status(struct redis_reply *reply, const char *text)
{
    reply_add(reply, "+", 1);
    reply_add(reply, text, strlen(text));
    reply_add(reply, "\r\n", 2);
}

void reply_error_bytes(struct redis_reply *reply, const char *text, size_t size)
{
    size_t begin;

    reply_add(reply, "-", 1);
    begin = reply->size;
    reply_add(reply, text, size);
    for (size_t i = begin; i < reply->size; i++)
        if (reply->bytes[i] == '\r' || reply->bytes[i] == '\n')
            reply->bytes[i] = ' ';
    reply_add(reply, "\r\n", 2);
}

void reply_error(struct redis_reply *reply, const char *format, ...)
{
    char text[ERROR_MOST];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    reply_error_bytes(reply, text, strlen(text));
}

void reply_integer(struct redis_reply *reply, long long number)
{
    reply_head(reply, ':', number);
}

void reply_bulk(struct redis_reply *reply, const void *bytes, size_t size)
{
    reply_head(reply, '$', (long long)size);
    reply_add(reply, bytes, size);
    reply_add(reply, "\r\n", 2);
}

void reply_text(struct redis_reply *reply, const char *text)
{
    reply_bulk(reply, text, strlen(text));
}

void reply_number(struct redis_reply *reply, long long number)
{
    char text[24];

    reply_bulk(reply, text, (size_t)snprintf(text, sizeof text, "%lld", number));
}

void reply_nil(struct redis_reply *reply)
{
    reply_add(reply, "$-1\r\n", 5);
}

void reply_nil_array(struct redis_reply *reply)
{
    reply_add(reply, "*-1\r\n", 5);
}

void reply_array(struct redis_reply *reply, size_t count)
{
    reply_head(reply, '*', (long long)count);
}

bool reply_is_error(const struct redis_reply *reply)
{
    return reply->size > 0 && reply->bytes[0] == '-';
}
