/*
 * tree.h - a tree of LMDB's, looked through page by page before LMDB trusts it.  Pure but for reading the file.
 *
 * LMDB believes its pages: a number that leads out of the map, a node that reaches beyond its page, a list of free
 * pages that names one twice end in abort(), in a signal, or in a page written over.  Whoever opens a map looks first.
 */
#ifndef CORE_TREE_H
#define CORE_TREE_H

#include <stdint.h>

#define TREE_DEPTH_MOST  16u
#define TREE_LEAVES_MOST 2048u /* of a tree of rows: 1.2 GiB of sheets; of a larger one every n-th is looked at */

enum tree_kind { TREE_ROWS, TREE_FREE }; /* the latter: lists of free pages */

/* As a meta page tells of it. */
struct tree {
    uint64_t root; /* UINT64_MAX: empty */
    uint64_t depth, branches, leaves; /* pages of each kind */
    uint64_t rows;
};

/* NULL when both trees in the file may be walked and written, else why not; `last_page` is the last one in use.  Nobody
 * may use their pages again meanwhile: a snapshot is to be held.  *ret_error: errno where it was not to be found out,
 * which says nothing about the trees; else 0. */
const char *tree_fault(int fd, const struct tree trees[2], uint64_t last_page, int *ret_error);

#endif
