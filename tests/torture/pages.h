/*
 * pages.h - what the tests share that write garbage into a tier's files: which bytes of a map are records, and values
 * that name their key all the way through.
 */
#ifndef TESTS_PAGES_H
#define TESTS_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PAGES_KEYS       2000u
#define PAGES_VALUE_MOST 6000u

#define PAGE          4096u
#define PAGE_HEAD     16u  /* bytes, before what a page holds */
#define PAGE_FLAGS    10u  /* where they stand in the head */
#define PAGE_PAGES    12u  /* of a run of pages: how many */
#define PAGE_OVERFLOW 0x04 /* the flag of a run that holds one large row and nothing of LMDB's tree */

/* Is this within what a run of pages holds?  The head of its first page tells; it stands at most 4 pages before. */
static inline bool pages_in_record(const uint8_t *map, size_t at)
{
    for (size_t back = 0; back < 4 && back <= at / PAGE; back++) {
        const uint8_t *page = map + (at / PAGE - back) * PAGE;
        uint64_t number;
        uint32_t pages;
        uint16_t flags;

        memcpy(&number, page, 8);
        memcpy(&flags, page + PAGE_FLAGS, 2);
        memcpy(&pages, page + PAGE_PAGES, 4);
        if (number == at / PAGE - back && flags == PAGE_OVERFLOW && back < pages)
            return back > 0 || (at % PAGE >= PAGE_HEAD && at % PAGE < PAGE - 64);
    }
    return false;
}

static inline uint64_t pages_word(unsigned key)
{
    return 0x9e3779b97f4a7c15u * (key + 1);
}

static inline size_t pages_value(unsigned key, char *bytes)
{
    size_t words = key % 10 == 0 ? PAGES_VALUE_MOST / 8 : 64 + key % 100; /* a stray line is not most of it */
    uint64_t word = pages_word(key);

    for (size_t i = 0; i < words; i++)
        memcpy(bytes + i * 8, &word, 8);
    return words * 8;
}

/* Is most of it another key's? */
static inline bool pages_value_is_anothers(unsigned key, const char *bytes, size_t size)
{
    size_t others = 0;

    for (size_t at = 0; at + 8 <= size; at += 8) {
        uint64_t word;

        memcpy(&word, bytes + at, 8);
        for (unsigned other = 0; word != pages_word(key) && other < PAGES_KEYS; other++)
            if (word == pages_word(other)) {
                others++;
                break;
            }
    }
    return others > size / 16;
}

#endif
