/*
 * tree.c - LMDB's pages as its format 1 has them.
 *
 *     0 page number u64 | 8 u16 | 10 flags u16 | 12 end of the pointers u16 | 14 start of the nodes u16 | 16 pointers
 *     a node:  0 size of the data u32 | 4 flags u16 | 6 size of the key u16 | 8 key, data
 *     in a branch the first six bytes are the child's page number; of a row too large for a leaf the data is a run's
 *     a run:   0 page number u64 | 10 flags u16 | 12 pages u32 | 16 data
 */
#include <tree.h>

#include <bytes.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE       4096u
#define PAGE_HEAD  16u
#define NODE_HEAD  8u
#define KEY_MOST   511u

#define FLAG_BRANCH 0x01u
#define FLAG_LEAF   0x02u
#define FLAG_RUN    0x04u
#define NODE_RUN    0x01u /* the data is a run's page number */

struct looking {
    int fd;
    uint64_t last_page;
    uint8_t *taken; /* a bit a page: it has been met; NULL: not all leaves are looked at */
    enum tree_kind kind;
    const struct tree *tree;
    uint64_t branches, leaves, rows; /* of the tree, met so far */
    uint64_t every;            /* which leaves are looked at */
    const char *fault;
    int error; /* of this process, and not the tree's fault */
};

static uint32_t get16(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8;
}

static bool wrong(struct looking *looking, const char *fault)
{
    looking->fault = fault;
    return false;
}

/* It could not be looked at. */
static bool failed(struct looking *looking, int error)
{
    looking->error = error;
    return wrong(looking, "it cannot be looked at");
}

static bool is_page(const struct looking *looking, uint64_t number)
{
    return number >= 2 && number <= looking->last_page;
}

/* These pages are somebody's: nobody else's. */
static bool pages_take(struct looking *looking, uint64_t number, uint64_t pages)
{
    if (!is_page(looking, number) || pages > looking->last_page - number + 1)
        return wrong(looking, "its tree leads out of it");
    for (; looking->taken && pages > 0; number++, pages--) {
        uint8_t bit = (uint8_t)(1u << number % 8);

        if (looking->taken[number / 8] & bit)
            return wrong(looking, "a page of it is used twice");
        looking->taken[number / 8] |= bit;
    }
    return true;
}

static bool page_read(struct looking *looking, uint64_t number, uint32_t flags, uint8_t page[PAGE])
{
    ssize_t got;

    if (!pages_take(looking, number, 1))
        return false;
    if ((got = pread(looking->fd, page, PAGE, (off_t)(number * PAGE))) < 0)
        return failed(looking, errno);
    if (got != (ssize_t)PAGE)
        return wrong(looking, "a page of its tree lies behind its end");
    if (bytes_get64(page) != number || get16(page + 10) != flags)
        return wrong(looking, "a page of its tree is none");
    return true;
}

/* ---- lists of free pages ---- */

/* A count, and so many page numbers, each below the one before. */
static bool list_is_sane(struct looking *looking, const uint8_t *bytes, uint64_t size)
{
    uint64_t count = size >= 8 ? bytes_get64(bytes) : 0, before = UINT64_MAX;

    if (size < 8 || size % 8 != 0 || count > size / 8 - 1)
        return wrong(looking, "a list of its free pages is damaged");
    for (uint64_t i = 1; i <= count; i++) {
        uint64_t number = bytes_get64(bytes + 8 * i);

        if (number >= before)
            return wrong(looking, "a list of its free pages is out of order");
        if (!pages_take(looking, number, 1))
            return false;
        before = number;
    }
    return true;
}

static bool run_is_sane(struct looking *looking, uint64_t number, uint64_t size)
{
    uint64_t pages = (PAGE_HEAD - 1 + size) / PAGE + 1;
    uint8_t *run;
    ssize_t got;
    bool good;

    if (!pages_take(looking, number, pages))
        return false;
    if (looking->kind == TREE_ROWS)
        return true; /* its own head is looked at when it is used */
    if (!(run = malloc(pages * PAGE)))
        return failed(looking, ENOMEM);
    got = pread(looking->fd, run, pages * PAGE, (off_t)(number * PAGE));
    good = got == (ssize_t)(pages * PAGE) && bytes_get64(run) == number && get16(run + 10) == FLAG_RUN &&
           bytes_get32(run + 12) == pages;
    if (got < 0)
        failed(looking, errno);
    else if (!good)
        wrong(looking, "a list of its free pages is none");
    good = good && list_is_sane(looking, run + PAGE_HEAD, size);
    free(run);
    return good;
}

/* ---- nodes ---- */

/* Do the keys rise? */
static bool key_is_above(const struct looking *looking, const uint8_t *key, uint32_t size, const uint8_t *before,
                         uint32_t before_size)
{
    uint32_t common = size < before_size ? size : before_size;
    int order;

    if (looking->kind == TREE_FREE)
        return bytes_get64(key) > bytes_get64(before);
    order = memcmp(before, key, common);
    return order < 0 || (order == 0 && before_size < size);
}

static bool leaf_node_is_sane(struct looking *looking, const uint8_t *node, uint32_t left)
{
    uint64_t size = bytes_get32(node);
    uint32_t flags = get16(node + 4), at = NODE_HEAD + get16(node + 6);

    if (flags & ~NODE_RUN)
        return wrong(looking, "a row of it is of no kind that we write");
    if ((flags & NODE_RUN ? 8 : size) > left - at)
        return wrong(looking, "a row of it reaches beyond its page");
    if (flags & NODE_RUN)
        return run_is_sane(looking, bytes_get64(node + at), size);
    return looking->kind == TREE_ROWS || list_is_sane(looking, node + at, size);
}

/* The nodes of a page, with their keys in order; in a branch the first one's key says nothing. */
static bool nodes_are_sane(struct looking *looking, const uint8_t page[PAGE], bool leaf, uint32_t *ret_count)
{
    uint32_t lower = get16(page + 12), upper = get16(page + 14), count = (lower - PAGE_HEAD) / 2, before_size = 0;
    const uint8_t *before = NULL;

    if (lower < PAGE_HEAD || lower % 2 || lower > upper || upper > PAGE || count < (leaf ? 1u : 2u))
        return wrong(looking, "a page of its tree is damaged");
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = get16(page + PAGE_HEAD + 2 * i), size;
        const uint8_t *node = page + at;

        if (at < upper || at % 2 || at > PAGE - NODE_HEAD)
            return wrong(looking, "a page of its tree is damaged");
        size = get16(node + 6);
        if (size > KEY_MOST || size > PAGE - NODE_HEAD - at ||
            ((leaf || i > 0) && (looking->kind == TREE_FREE ? size != 8 : size == 0)))
            return wrong(looking, "a key of it is damaged");
        if (before && !key_is_above(looking, node + NODE_HEAD, size, before, before_size))
            return wrong(looking, "its keys are out of order");
        if (leaf && !leaf_node_is_sane(looking, node, PAGE - at))
            return false;
        if (leaf || i > 0) {
            before = node + NODE_HEAD;
            before_size = size;
        }
    }
    *ret_count = count;
    return true;
}

/* ---- the tree ---- */

static bool leaf_is_sane(struct looking *looking, uint64_t number)
{
    uint8_t page[PAGE];
    uint32_t count;

    if (++looking->leaves > looking->tree->leaves)
        return wrong(looking, "its tree has more leaves than it counts");
    if ((looking->leaves - 1) % looking->every != 0)
        return pages_take(looking, number, 1);
    if (!page_read(looking, number, FLAG_LEAF, page) || !nodes_are_sane(looking, page, true, &count))
        return false;
    looking->rows += count;
    return true;
}

/* All below a page that is `depth` pages above nothing.  As deep as the tree is. */
static bool branch_is_sane(struct looking *looking, uint64_t number, uint64_t depth) /* NOLINT: bounded */
{
    uint8_t page[PAGE];
    uint32_t count;

    if (depth == 1)
        return leaf_is_sane(looking, number);
    if (++looking->branches > looking->tree->branches)
        return wrong(looking, "its tree has more branches than it counts");
    if (!page_read(looking, number, FLAG_BRANCH, page) || !nodes_are_sane(looking, page, false, &count))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *node = page + get16(page + PAGE_HEAD + 2 * i);

        if (!branch_is_sane(looking, bytes_get32(node) | (uint64_t)get16(node + 4) << 32, depth - 1))
            return false;
    }
    return true;
}

static bool tree_is_sane(struct looking *looking, enum tree_kind kind, const struct tree *tree)
{
    looking->kind = kind;
    looking->tree = tree;
    looking->branches = looking->leaves = looking->rows = 0;
    if (tree->root == UINT64_MAX)
        return (tree->depth == 0 && tree->rows == 0) || wrong(looking, "its tree has no root");
    if (tree->depth == 0 || tree->depth > TREE_DEPTH_MOST)
        return wrong(looking, "its tree is too deep");
    if (tree->branches > looking->last_page || tree->leaves > looking->last_page)
        return wrong(looking, "its tree has more pages than there are");
    if (!branch_is_sane(looking, tree->root, tree->depth))
        return false;
    if (looking->every == 1 ? looking->rows != tree->rows : tree->rows < tree->leaves)
        return wrong(looking, "its tree has not as many rows as it counts");
    return true;
}

const char *tree_fault(int fd, const struct tree trees[2], uint64_t last_page, int *ret_error)
{
    struct looking looking = {.fd = fd, .last_page = last_page, .every = 1};

    if (trees[TREE_ROWS].leaves > TREE_LEAVES_MOST)
        looking.every = trees[TREE_ROWS].leaves / TREE_LEAVES_MOST + 1;
    else if (!(looking.taken = calloc(1, last_page / 8 + 1)))
        (void)failed(&looking, ENOMEM);
    if (!looking.fault && tree_is_sane(&looking, TREE_ROWS, &trees[TREE_ROWS])) {
        looking.every = 1;
        (void)tree_is_sane(&looking, TREE_FREE, &trees[TREE_FREE]);
    }
    free(looking.taken);
    *ret_error = looking.error;
    return looking.fault;
}
