/*
 * page.h - the control page as it lies in the file, for control.c, outbox.c and turn.c alone.
 *
 *     head, 512 bytes, immutable | the host's words | partitions | outbox | recent | turns | guards | fences |
 *     tag fences | the policy's words | the shelf's head and lines | the shelf's sets
 *
 * Each table starts on a cache line of its own, the fences and the shelf's sets on a page.  Everything after the head
 * is zero at first, and all but the sets is atomics.
 */
#ifndef CORE_PAGE_H
#define CORE_PAGE_H

#include <control.h>

struct control_page {
    uint8_t head[CONTROL_HEAD_SIZE];
    /* read by every hit: by themselves */
    _Alignas(64) _Atomic uint64_t outbox_word;
    _Atomic uint64_t fleet;
    _Alignas(64) _Atomic uint64_t outbox_clears[FRESHET_PARTITIONS_MAX]; /* the shared clear of each partition */
    _Alignas(64) _Atomic uint64_t recent_next;
    _Atomic int64_t redis_clock_us;
    _Atomic uint64_t seat_holder;
    _Atomic uint64_t seat_pid; /* upper half: the low half of the holder that it belongs to */
    _Alignas(64) _Atomic uint64_t counters[COUNT_ALL];
    /* Without a fleet: the position at the last time mark, the one before, and when that was; see control.c. */
    _Alignas(64) _Atomic uint64_t mark[FRESHET_PARTITIONS_MAX];
    _Atomic uint64_t mark_before[FRESHET_PARTITIONS_MAX], mark_ns[FRESHET_PARTITIONS_MAX];
};

/* One entry of the outbox; the words' layout is told in outbox.c. */
struct control_outbox {
    _Alignas(32) _Atomic uint64_t word;
    _Atomic uint64_t low, high; /* the key's or tag's hash */
};

/* A change of a key or tag that was confirmed some time ago. */
struct control_recent {
    _Atomic uint64_t word;
    _Atomic uint64_t low, high;
    _Atomic uint64_t confirmed_ns; /* CLOCK_BOOTTIME */
    _Atomic uint64_t position;
    _Atomic uint64_t partition; /* and the kind, both as in the outbox's word */
};

/* A load that some process of the host has begun; the words' layout is told in turn.c. */
struct control_turn {
    _Alignas(64) _Atomic uint64_t word;
    _Atomic uint64_t name;
    _Atomic uint64_t start;
    _Atomic uint64_t landed_ns; /* CLOCK_BOOTTIME */
    _Atomic uint32_t bell;
};

_Static_assert(offsetof(struct control_page, outbox_word) == CONTROL_HEAD_SIZE, "control_outbox_word knows it");
_Static_assert(sizeof(struct control_part) == 64, "a partition is a cache line");
_Static_assert(sizeof(struct control_outbox) == 32, "two entries a cache line");
_Static_assert(sizeof(struct control_recent) == 48, "no padding: the file's layout");
_Static_assert(sizeof(struct control_turn) == 64, "a turn is a cache line");

#endif
