/*
 * vectors.h - the test vectors of backplane/PROTOCOL.md, read from the page itself: what the page promises is what the
 * tests hold the code to.
 */
#ifndef TESTS_VECTORS_H
#define TESTS_VECTORS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <test.h>
#include <unistd.h>

struct vector {
    uint8_t bytes[4096];
    size_t size;
};

/* The page in the folder of `place` or above it. */
static inline FILE *vectors_page_above(const char *place)
{
    static const char page_name[] = "/backplane/PROTOCOL.md";
    char path[4096 + sizeof page_name];
    FILE *page = NULL;

    if (strlen(place) >= 4096)
        return NULL;
    strcpy(path, place);
    for (char *slash; !page && (slash = strrchr(path, '/'));) {
        strcpy(slash, page_name);
        page = fopen(path, "re");
        *slash = '\0';
    }
    return page;
}

/* The page, looked for from this source file, from the running program and from the working directory. */
static inline FILE *vectors_page(void)
{
    char place[4096] = "";
    FILE *page = vectors_page_above(__FILE__);

    if (!page && readlink("/proc/self/exe", place, sizeof place - 1) > 0)
        page = vectors_page_above(place);
    if (!page && getcwd(place, sizeof place - 1))
        page = vectors_page_above(strcat(place, "/"));
    return page;
}

static inline int vectors_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Append a line's hex digits. */
static inline void vectors_hex(struct vector *vector, const char *text)
{
    for (; *text == ' ' || *text == '='; text++)
        continue;
    for (; *text && *text != '\n'; text += 2) {
        int high = vectors_digit(text[0]), low = vectors_digit(text[1]);

        EXPECT(high >= 0 && low >= 0 && vector->size < sizeof vector->bytes);
        vector->bytes[vector->size++] = (uint8_t)(high * 16 + low);
    }
}

/* The vector of this name; the test fails when the page has none. */
static inline struct vector vector_of(const char *name)
{
    struct vector vector = {.size = 0};
    bool inside = false, found = false;
    char line[512];
    FILE *page = vectors_page();

    EXPECT(page != NULL);
    while (fgets(line, sizeof line, page)) {
        char *equals = strstr(line, " =");

        if (strncmp(line, "```", 3) == 0) {
            inside = strcmp(line, "```vectors\n") == 0;
            continue;
        }
        if (!inside)
            continue;
        if (line[0] != ' ') {
            if (found)
                break;
            found = equals && (size_t)(equals - line) == strlen(name) && strncmp(line, name, strlen(name)) == 0;
            if (found)
                vectors_hex(&vector, equals + 2);
        } else if (found) {
            vectors_hex(&vector, line);
        }
    }
    (void)fclose(page);
    EXPECT(found);
    return vector;
}

static inline bool vector_is(const struct vector *vector, const void *bytes, size_t size)
{
    return vector->size == size && memcmp(vector->bytes, bytes, size) == 0;
}

#endif
