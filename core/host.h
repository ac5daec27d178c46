/*
 * host.h - one tier in one process: directory, control page, map, writer, and the fleet behind the door.
 *
 * LMDB allows a map to be open once in a process, so handles opened on one directory share one host, found in a
 * registry by the directory's device and inode.  After fork() a child has the parent's memory but neither its threads
 * nor its locks: the child's first call leaves the inherited host behind, untouched and leaked, and opens its own.
 */
#ifndef CORE_HOST_H
#define CORE_HOST_H

#include <control.h>
#include <dir.h>
#include <flight.h>
#include <keeper.h>
#include <pool.h>
#include <pthread.h>
#include <remote.h>
#include <shelf.h>
#include <tier.h>
#include <writer.h>

#define HOST_STRIPES 32u /* counters of the hit path, by thread, so that threads do not share a cache line */

/* Only ever rises, by its thread, which needs no lock for that; the last stripe is of all threads that came later. */
struct host_stripe {
    _Alignas(64) _Atomic uint64_t counts[3]; /* hits, absents, misses */
    _Atomic uint64_t flushed[3];
    _Atomic int64_t flushed_ns;
};

struct host {
    struct host *next; /* in the registry */
    unsigned references;
    unsigned born_in; /* the fork generation it was opened in */
    _Atomic unsigned good_in; /* the same; 0 once its files have gone from their directory: handles open anew */
    bool apart;       /* it has gone, and is no longer in the registry but among the ghosts */
    ino_t page;       /* the control page's inode */
    _Atomic int64_t looked_ns; /* when it was last seen whether that is still there */
    bool abandoned;   /* a child has left it behind */
    bool stuck;       /* a writer was left behind at a close: never to be closed */
    struct dir dir;
    struct control control;
    struct control_shape shape;
    uint64_t limit; /* bytes of the largest key + value */
    struct shelf shelf;
    _Atomic(struct tier *) tier;
    _Atomic(struct writer *) writer; /* NULL until the first fill, or wish for the shelf */
    struct pool *pool; /* NULL: in none */
    uint64_t pool_minimum; /* that was asked for, bytes */
    struct flights *flights;
    struct keeper *keeper; /* under `lock`; NULL until the first guard of a host without a fleet */
    pthread_mutex_t lock; /* the writer's and the keeper's start, mending, the door */
    const struct remote_ops *_Atomic ops;
    void *_Atomic remote;
    unsigned remote_holds;
    _Atomic uint32_t bound_ms; /* the smallest of the handles' */
    uint32_t deadline_ms;
    struct host_stripe stripes[HOST_STRIPES];
};

struct freshet {
    struct host *_Atomic host;
    char *path;              /* NULL: the default */
    char *pool;              /* NULL: none, or the one that the tier is in */
    freshet_options options; /* with defaults filled in; name, dir and pool point to our own copies */
    char name[FRESHET_NAME_MAX + 1];
    _Atomic bool joined;
    _Atomic bool rejoining; /* a child's first call is joining again: the others wait for it */
};

extern _Atomic unsigned host_fork_generation;

/* Open the host for this handle's options, or share the one that is there. */
freshet_result host_open(struct freshet *cache);
/* Let go; the last one closes. */
void host_close(struct host *host);
/* Once a second at most: are the tier's files still in their directory?  If somebody has removed or replaced them,
 * handles open anew at their next call; what is under way ends on the old ones. */
void host_look(struct host *host, int64_t now_ns);
/* In a child after fork, or when the files have gone: open anew what the handle had. */
freshet_result host_revive(struct freshet *cache);

/* The handle's host, opened anew first if we are a child or its files have gone; NULL with the thread's sentence set.
 */
static inline struct host *host_of(struct freshet *cache)
{
    struct host *host = atomic_load_explicit(&cache->host, memory_order_acquire);

    if (__builtin_expect(atomic_load_explicit(&host->good_in, memory_order_relaxed) ==
                             atomic_load_explicit(&host_fork_generation, memory_order_relaxed), 1))
        return host;
    if (host_revive(cache) != FRESHET_OK)
        return NULL;
    return atomic_load_explicit(&cache->host, memory_order_acquire);
}

/* The writer, started if need be; the tier is mended if its descriptors were closed behind our back.  FRESHET_MISS:
 * there is none, and something was dropped. */
freshet_result host_writer(struct host *host, struct writer **ret_writer);
/* Hand a record to it.  FRESHET_MISS: dropped. */
freshet_result host_fill(struct host *host, const struct key *key, const struct record *record, const void *value,
                         uint64_t *ret_ticket);
/* The load that held this turn is over: end it when what was filled is in the tier, or at once. */
void host_end_turn(struct host *host, struct turn *turn);
/* Count an answer of the hit path in this thread's stripe. */
void host_count(struct host *host, enum control_counter counter, int64_t now_ns);
/* Hand all stripes over to the page. */
void host_count_flush(struct host *host);

#endif
