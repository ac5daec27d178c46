/*
 * pool.h - a size that several caches of a host share: who has how much of it, and who is to have more.
 *
 * A pool is a directory with one small file, mapped by every process of its caches.  A cache has a slot in it: which
 * directory it is, the least it keeps, and its *share*, the pages of memory that its files may hold now.  Pages that
 * are in no share are free; how many is never written down but counted each time, pool less shares, under the pool's
 * lock.  So whoever dies, at whatever instruction, has either changed a share or not, and nothing is lost or twice.
 *
 * Memory moves in two steps, so that the shares never add up to more than there is.  Who wants pages lowers another's
 * *target*.  That cache's own writer evicts, gives its files' pages back to the system, and only when they hold less
 * does it lower its share; what is free then goes to whoever wants it most.
 *
 * Who that is, is learnt: a cache earns by keys that come back soon after they were evicted, the hits that it would
 * have had with a little more memory.  Taking from who earns least until all earn alike climbs to the most hits in all
 * (A. Cidon et al., "Cliffhanger: scaling performance cliffs in web memory caches", NSDI 2016, whose shadow queues are
 * our ghosts; its cure for cliffs is not here).  Time is counted in such hits, not in seconds: where nobody would have
 * had any nothing moves.
 *
 * All counts are pages of 4 KiB, and of everything: map, index, control page, LMDB's lock file.  What stands in the
 * file may be anything, for another process of this user may have written it: it is clamped, and the worst that garbage
 * does is misses, or shares that are too large until their owners mend them.
 */
#ifndef CORE_POOL_H
#define CORE_POOL_H

#include <control.h>
#include <dir.h>

#define POOL_SLOTS 64u
#define POOL_PAGE  4096u

struct pool;

/* Open the pool in the directory `path`, making it when absent, of `size` bytes (0: what is there).  Waits for its lock
 * until deadline_ns.  FRESHET_EBUSY: it has another size. */
freshet_result pool_open(struct pool **ret_pool, const char *path, uint64_t size, int64_t deadline_ns);
/* Leave: what the share has above what the files hold is free again, once the last process of the cache leaves.  NULL
 * is welcome. */
void pool_close(struct pool *pool);
/* Child after fork: close what is ours of the descriptors, leak the rest. */
void pool_abandon(struct pool *pool);

const char *pool_path(const struct pool *pool); /* absolute */
uint64_t pool_nonce(const struct pool *pool);
uint64_t pool_pages(const struct pool *pool); /* its size */
bool pool_is_at(const struct pool *pool, const char *path);

/* What a cache asks for when it comes. */
struct pool_member {
    const struct dir *dir;
    uint64_t minimum; /* 0: what its slot has, else `least` */
    uint64_t least;   /* what its files take with next to nothing in them */
    uint64_t most;    /* what they can ever take */
};
/* Be one of the cache's processes in the pool: with a share of at least `least`, and of what its directory's files hold
 * already.  FRESHET_MISS: for these there is no room, and the files must go first.  FRESHET_EINVAL, FRESHET_EBUSY (no
 * slot, no room by the deadline, minimums that do not fit) with the reason.  Under the cache's dir_lock. */
freshet_result pool_join(struct pool *pool, const struct pool_member *member, int64_t deadline_ns);

/* The words of our own slot; any thread. */
uint64_t pool_share(const struct pool *pool);
uint64_t pool_minimum(const struct pool *pool);
/* The share, or what it is to be lowered to. */
uint64_t pool_target(const struct pool *pool);
/* Pages that are in nobody's share. */
uint64_t pool_free(const struct pool *pool);

/* ---- the writer's: one thread of the process ---- */

/* So many hits would have been had with a little more, by so many keys seen; they count at the next pool_ask. */
void pool_earn(struct pool *pool, uint64_t hits, uint64_t seen);
/* Would pool_ask do anything now?  Cheap. */
bool pool_hopeful(const struct pool *pool);
/* Take what is free for us, and ask others for the rest.  True: the share has grown. */
bool pool_ask(struct pool *pool, uint64_t pages);
/* Pages to ask for at a time. */
uint64_t pool_step(const struct pool *pool);
/* Lower the share to the target, but not below `keep`.  Under the cache's own writer lock, with `keep` measured under
 * it: nobody of the cache's processes may be writing by the old share.  True: it is at the target, or somebody has the
 * pool's lock, which is not waited for. */
bool pool_give(struct pool *pool, uint64_t keep);
/* So many pages of the share could go and nothing else need. */
void pool_spare(struct pool *pool, uint64_t pages);
/* Once a second: we are alive, and our files cannot hold fewer pages than `floor`. */
void pool_tend(struct pool *pool, uint64_t floor);

/* Pages that a directory's files hold, by the file system. */
uint64_t pool_measure(int dirfd);
/* Can pages be given back to the system there?  FRESHET_EDIR with the reason. */
freshet_result pool_can_give(const struct dir *dir);

#endif
