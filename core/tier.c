/*
 * tier.c - the LMDB environment: open, read, write, drop.
 * Below writer.c and freshet.c, above LMDB; nothing else of ours includes <lmdb.h>.
 *
 * A read is renew, get, check, copy, reset on a transaction that the process keeps: no lock, no system call, no memory.
 * Nothing of the map is lent out, since one forgetful borrower would pin every page freed after his snapshot.
 *
 * LMDB trusts its file and its descriptors; we do not.  The file's first pages are checked before LMDB sees them,
 * since it answers nonsense with abort(); the file is stretched to the map's size, so that no page of the mapping lies
 * beyond its end (SIGBUS); and before each commit the descriptors are compared with the files that they were, because
 * a host program that closes what it does not know would have LMDB write pages into whatever got the number next.
 *
 * No WRITEMAP: the host program has the map read-only, and a full file system is an error of a commit.
 */
#include <tier.h>

#include <buf.h>
#include <bytes.h>
#include <log.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define POOL_SLOTS 64u
#define POOL_TRIES 4u
#define HASH_SIZE 16u
#define CHUNK_KEY_SIZE 20u
#define OPEN_TRIES 25
#define FREE_DBI_ 0u       /* LMDB's own list of free pages; its number is as fixed as the file format */
#define EACH_BATCH 128u    /* heads a snapshot in tier_each */
#define EACH_KEYS (128u << 10)

/* A read transaction that waits for its next use, and a cursor for records of many rows. */
struct tier_reader {
    MDB_txn *txn;
    MDB_cursor *cursor;
    struct tier_slot *slot; /* its place in the pool, once it has one */
};

/* A line of the cache each: threads that read at once share none. */
struct tier_slot {
    _Alignas(64) struct tier_reader *_Atomic reader;
};

struct tier_file {
    dev_t dev;
    ino_t ino;
};

enum tier_fd { FD_DATA, FD_META, FD_LOCK, FD_COUNT };

struct tier_txn {
    struct tier *tier;
    MDB_txn *txn;
    MDB_cursor *cursor;
    bool spoiled;     /* an error came up: only tier_drop is left */
    uint64_t chunks;  /* rows behind heads, as the tally will have them */
    bool tally_moved;
};

struct tier {
    struct tier_slot pool[POOL_SLOTS];
    MDB_env *env;
    MDB_dbi dbi;
    uint64_t map_size, limit, generation;
    uint32_t page_size;
    int fds[FD_COUNT]; /* LMDB's own; FD_META is -1 where it has but one */
    struct tier_file files[FD_COUNT];
    atomic_bool failed; /* LMDB has failed for good: to be opened again */
    struct tier_txn writing;
};

/* The row that counts rows behind heads, so that entries can be told without a walk.  One byte: before all others. */
static const uint8_t tally_key[1] = {0};

/* Stands in the pool for a reader that is in use: nobody but who took that one changes the slot meanwhile. */
static struct tier_reader reader_away;

/* The map that this process found damaged while it was open, by inode; its next opening starts a new one. */
static _Atomic uint64_t condemned_ino, condemned_generation;

/* ---- foreign codes end here ---- */

/* The tier cannot go on with this environment. */
static void tier_fail(struct tier *tier, bool condemn)
{
    if (condemn) {
        atomic_store(&condemned_ino, (uint64_t)tier->files[FD_DATA].ino);
        atomic_store(&condemned_generation, tier->generation);
    }
    atomic_store_explicit(&tier->failed, true, memory_order_release);
}

/* LMDB's answer as ours, noting what cannot be mended by trying again. */
static freshet_result tier_result(struct tier *tier, int rc, const char *doing)
{
    switch (rc) {
    case MDB_SUCCESS:
        return FRESHET_OK;
    case MDB_NOTFOUND:
        return FRESHET_MISS;
    case ENOMEM:
        return fail(FRESHET_ENOMEM, "no memory while %s", doing);
    case MDB_MAP_FULL:
    case MDB_TXN_FULL:
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return fail(FRESHET_ENOSPC, "no room in the map while %s: %s", doing, mdb_strerror(rc));
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
        tier_fail(tier, true);
        break;
    case MDB_PANIC:
    case MDB_BAD_RSLOT:
    case MDB_MAP_RESIZED:
        tier_fail(tier, false);
        break;
    default:
        break;
    }
    return fail(FRESHET_EIO, "LMDB failed while %s: %s", doing, mdb_strerror(rc));
}

/* ---- whose descriptors are these ---- */

static bool fd_is(int fd, const struct tier_file *file, bool *ret_unlinked)
{
    struct stat st;

    if (fd < 0 || fstat(fd, &st) != 0 || st.st_dev != file->dev || st.st_ino != file->ino)
        return false;
    *ret_unlinked = st.st_nlink == 0;
    return true;
}

static bool tier_owns_descriptors(const struct tier *tier, bool *ret_unlinked)
{
    for (int i = 0; i < FD_COUNT; i++) {
        bool unlinked = false;

        if (i == FD_META && tier->fds[i] < 0)
            continue;
        if (!fd_is(tier->fds[i], &tier->files[i], &unlinked))
            return false;
        *ret_unlinked |= unlinked;
    }
    return true;
}

bool tier_intact(const struct tier *tier)
{
    bool unlinked = false;

    return !atomic_load_explicit(&tier->failed, memory_order_acquire) && tier_owns_descriptors(tier, &unlinked) &&
           !unlinked;
}

/* Look at one open descriptor: LMDB's second one on the data file, or the lock file's? */
static void tier_note_fd(struct tier *tier, int fd)
{
    bool unlinked;

    if (fd == tier->fds[FD_DATA])
        return;
    if (fd_is(fd, &tier->files[FD_DATA], &unlinked))
        tier->fds[FD_META] = fd;
    else if (fd_is(fd, &tier->files[FD_LOCK], &unlinked))
        tier->fds[FD_LOCK] = fd;
}

/* Learn which descriptors LMDB has just opened.  Looking is all that is allowed: whoever opens the lock file himself
 * drops all of LMDB's locks when he closes it. */
static freshet_result tier_note_fds(struct tier *tier, const char *path, const char *lock_path)
{
    struct stat st;
    DIR *fds;

    tier->fds[FD_META] = tier->fds[FD_LOCK] = -1;
    if (mdb_env_get_fd(tier->env, &tier->fds[FD_DATA]) != 0 || fstat(tier->fds[FD_DATA], &st) != 0)
        return fail(FRESHET_EIO, "%s: cannot look at the map's descriptor: %s", path, strerror(errno));
    tier->files[FD_DATA] = tier->files[FD_META] = (struct tier_file){st.st_dev, st.st_ino};
    if (lstat(lock_path, &st) != 0)
        return fail(FRESHET_EIO, "%s: %s", lock_path, strerror(errno));
    tier->files[FD_LOCK] = (struct tier_file){st.st_dev, st.st_ino};
    fds = opendir("/proc/self/fd");
    if (fds) {
        for (const struct dirent *entry; (entry = readdir(fds));)
            if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')
                tier_note_fd(tier, atoi(entry->d_name));
        closedir(fds);
    } else { /* no /proc: LMDB got low numbers, or we cannot know */
        for (int fd = 0; fd < 4096; fd++)
            tier_note_fd(tier, fd);
    }
    if (tier->fds[FD_LOCK] < 0)
        return fail(FRESHET_EIO, "%s: cannot find LMDB's descriptor of it among this process's", lock_path);
    for (int i = 0; i < FD_COUNT; i++) /* not every LMDB closes all of them at exec */
        if (tier->fds[i] >= 0)
            (void)fcntl(tier->fds[i], F_SETFD, FD_CLOEXEC);
    return FRESHET_OK;
}

/* ---- the file before LMDB sees it ---- */

/* A meta page as LMDB's format has it; there are two, and they are all that is checked. */
struct meta_db {
    uint32_t page_size; /* in the first; else unused */
    uint16_t flags, depth;
    size_t branch, leaf, overflow, entries, root;
};
struct meta_page {
    size_t number;
    uint16_t pad, flags;
    uint32_t bounds;
    uint32_t magic, version;
    void *address;
    size_t map_size;
    struct meta_db free, main;
    size_t last_page, txn;
};
#define META_FLAG 0x08u
#define META_MAGIC 0xBEEFC0DEu
#define META_VERSION 1u
#define META_INTEGERKEY 0x08u
#define META_SHAPE_FLAGS 0x7fu /* how keys and data lie; above them LMDB keeps the environment's own */
#define META_NO_ROOT ((size_t)-1)

static bool meta_db_sane(const struct meta_db *db, uint16_t flags, size_t last_page)
{
    return (db->flags & META_SHAPE_FLAGS) == flags && db->depth < 32 &&
           (db->root == META_NO_ROOT || (db->root > 1 && db->root <= last_page));
}

static bool meta_sane(const struct meta_page *meta, size_t number, uint64_t map_size)
{
    size_t page = meta->free.page_size;

    return meta->number == number && (meta->flags & META_FLAG) && meta->magic == META_MAGIC &&
           meta->version == META_VERSION && page >= 512 && page <= 65536 && (page & (page - 1)) == 0 &&
           meta->last_page >= 1 && meta->last_page < map_size / page &&
           meta_db_sane(&meta->free, META_INTEGERKEY, meta->last_page) && meta_db_sane(&meta->main, 0, meta->last_page);
}

/* NULL when LMDB may open the file, else why not.  A whole file has the map's size; only one whose maker died before he
 * stretched it is shorter, and then it is empty. */
static const char *tier_file_fault(int fd, const struct stat *st, uint64_t map_size)
{
    struct meta_page metas[2];
    uint64_t size = (uint64_t)st->st_size;
    size_t page;

    if (!S_ISREG(st->st_mode) || st->st_uid != geteuid() || (st->st_mode & 077))
        return "it is no plain file of this user alone";
    if (size == 0)
        return NULL;
    if (size > map_size)
        return "it is larger than the tier";
    if (pread(fd, &metas[0], sizeof metas[0], 0) != (ssize_t)sizeof metas[0])
        return "its first page is cut off";
    if (!meta_sane(&metas[0], 0, map_size))
        return "its first page is none of this LMDB's";
    page = metas[0].free.page_size;
    if (pread(fd, &metas[1], sizeof metas[1], (off_t)page) != (ssize_t)sizeof metas[1])
        return "its second page is cut off";
    if (!meta_sane(&metas[1], 1, map_size) || metas[1].free.page_size != page)
        return "its second page is none of this LMDB's";
    if (size < map_size && (metas[0].main.root != META_NO_ROOT || metas[1].main.root != META_NO_ROOT))
        return "it was truncated";
    return NULL;
}

/* Check what lies at the map's path.  The data file bears none of LMDB's locks, so it may be opened and closed here. */
static freshet_result tier_check_file(const char *path, const char *lock_path, uint64_t map_size, bool *ret_damaged)
{
    const char *fault = NULL;
    struct rlimit most;
    struct stat st;
    int fd;

    if (getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur < map_size)
        return fail(FRESHET_EIO, "this process may write files of %llu bytes only (ulimit -f), the tier needs %llu",
                    (unsigned long long)most.rlim_cur, (unsigned long long)map_size);
    if (lstat(lock_path, &st) == 0 && (!S_ISREG(st.st_mode) || st.st_uid != geteuid())) {
        *ret_damaged = true;
        return fail(FRESHET_EIO, "%s is no plain file of this user", lock_path);
    }
    fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return FRESHET_OK;
    if (fd < 0) {
        *ret_damaged = errno == ELOOP;
        return fail(FRESHET_EIO, "%s: %s", path, strerror(errno));
    }
    if (fstat(fd, &st) != 0)
        fault = strerror(errno);
    else
        fault = tier_file_fault(fd, &st, map_size);
    close(fd);
    if (!fault)
        return FRESHET_OK;
    *ret_damaged = true;
    return fail(FRESHET_EIO, "%s cannot be used: %s", path, fault);
}

/* The map that this very process saw fail goes, with its lock file.  Siblings see by the link count that theirs is
 * no longer the directory's, and follow; until then each judges what it reads by the control page, as ever. */
static void tier_unlink_condemned(const char *path, const char *lock_path, uint64_t generation)
{
    struct stat st;

    if (atomic_load(&condemned_generation) != generation || lstat(path, &st) != 0 ||
        (uint64_t)st.st_ino != atomic_load(&condemned_ino))
        return;
    say(FRESHET_WARN, "%s: found damaged, begun anew", path);
    (void)unlink(path);
    (void)unlink(lock_path);
}

/* ---- open and close ---- */

static void tier_pause(long ms)
{
    struct timespec pause = {0, ms * 1000000};

    (void)nanosleep(&pause, NULL);
}

/* mdb_env_open, again while it fails only because a signal or another opener came in between. */
static int tier_env_open(struct tier *tier, const char *path)
{
    const unsigned flags = MDB_NOSUBDIR | MDB_NOSYNC | MDB_NOMETASYNC | MDB_NOTLS | MDB_NORDAHEAD;
    sigset_t all, before;
    int rc = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 0; i < OPEN_TRIES; i++) {
        if ((rc = mdb_env_create(&tier->env)) != 0)
            break;
        if ((rc = mdb_env_set_mapsize(tier->env, tier->map_size)) == 0 &&
            (rc = mdb_env_set_maxreaders(tier->env, TIER_READERS)) == 0)
            rc = mdb_env_open(tier->env, path, flags, 0600);
        if (rc == 0)
            break;
        mdb_env_close(tier->env);
        tier->env = NULL;
        if (rc != EINTR && rc != EAGAIN && rc != EBUSY)
            break;
        tier_pause(1 + i % 4);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

struct slot_count {
    long own;
    uint32_t own_count, all;
};

/* A line of mdb_reader_list is a slot: "pid thread txn". */
static int tier_count_slot(const char *line, void *arg)
{
    struct slot_count *count = arg;
    char *end;
    long pid = strtol(line, &end, 10);

    if (end == line || pid <= 0)
        return 0;
    count->all++;
    if (pid == count->own)
        count->own_count++;
    return 0;
}

/* Slots with our own process id, right after opening, were left by a dead namesake (a container's pid 1, say).
 * LMDB's own check takes them for ours; closing clears them, once a transaction has made it count the slots. */
static int tier_purge_namesakes(struct tier *tier, const char *path)
{
    struct slot_count count = {.own = getpid()};
    MDB_txn *txn = NULL;
    int dead, rc;

    if ((rc = mdb_reader_check(tier->env, &dead)) != 0)
        return rc;
    if (mdb_reader_list(tier->env, tier_count_slot, &count) < 0 || count.own_count == 0)
        return 0;
    if ((rc = mdb_txn_begin(tier->env, NULL, MDB_RDONLY, &txn)) != 0)
        return rc;
    mdb_txn_abort(txn);
    mdb_env_close(tier->env);
    tier->env = NULL;
    return tier_env_open(tier, path);
}

/* LMDB's own order of any two keys. */
static __attribute__((noinline)) int row_compare_bytes(const MDB_val *a, const MDB_val *b)
{
    size_t common = a->mv_size < b->mv_size ? a->mv_size : b->mv_size;
    int order = memcmp(a->mv_data, b->mv_data, common);

    return order ? order : (a->mv_size > b->mv_size) - (a->mv_size < b->mv_size);
}

/* The same order, since others may walk the map without us; but a hit compares some seventeen keys, and all of ours
 * except the tally's begin with a hash: mostly its first word decides, and nothing is called. */
static int row_compare(const MDB_val *a, const MDB_val *b)
{
    uint64_t x, y;

    if (__builtin_expect(a->mv_size < HASH_SIZE || b->mv_size < HASH_SIZE, 0))
        return row_compare_bytes(a, b);
    x = bytes_get64_big(a->mv_data);
    y = bytes_get64_big(b->mv_data);
    if (__builtin_expect(x != y, 1))
        return x < y ? -1 : 1;
    return row_compare_bytes(a, b);
}

/* Read a little of everything, so that a damaged tree shows now. */
static int tier_probe(struct tier *tier)
{
    MDB_txn *txn = NULL;
    MDB_cursor *cursor = NULL;
    MDB_envinfo info;
    MDB_val key, row;
    MDB_stat stat;
    int rc;

    if ((rc = mdb_txn_begin(tier->env, NULL, MDB_RDONLY, &txn)) != 0)
        return rc;
    if ((rc = mdb_dbi_open(txn, NULL, 0, &tier->dbi)) != 0 ||
        (rc = mdb_set_compare(txn, tier->dbi, row_compare)) != 0 || (rc = mdb_stat(txn, tier->dbi, &stat)) != 0 ||
        (rc = mdb_cursor_open(txn, tier->dbi, &cursor)) != 0)
        goto out;
    tier->page_size = stat.ms_psize;
    rc = mdb_cursor_get(cursor, &key, &row, MDB_FIRST);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &row, MDB_LAST);
    if (rc == MDB_NOTFOUND)
        rc = stat.ms_entries ? MDB_CORRUPTED : 0;
    if (rc == 0 && (rc = mdb_env_info(tier->env, &info)) == 0 && info.me_mapsize != tier->map_size)
        rc = MDB_INVALID;
out:
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return rc;
}

/* Open the environment on a checked path and make sure that it works. */
static freshet_result tier_open_env(struct tier *tier, const char *path, const char *lock_path, bool *ret_damaged)
{
    struct stat st;
    freshet_result result;
    int rc;

    if ((rc = tier_env_open(tier, path)) != 0 || (rc = tier_purge_namesakes(tier, path)) != 0)
        goto failed;
    if ((result = tier_note_fds(tier, path, lock_path)) != FRESHET_OK)
        return result;
    /* Sparse: takes no memory, but no page of the mapping is beyond the end any more. */
    if (fstat(tier->fds[FD_DATA], &st) != 0 ||
        ((uint64_t)st.st_size < tier->map_size && ftruncate(tier->fds[FD_DATA], (off_t)tier->map_size) != 0))
        return fail(errno == ENOSPC ? FRESHET_ENOSPC : FRESHET_EIO, "%s: cannot give it %llu bytes: %s", path,
                    (unsigned long long)tier->map_size, strerror(errno));
    if ((rc = tier_probe(tier)) == 0)
        return FRESHET_OK;
failed:
    if (rc == EAGAIN)
        return fail(FRESHET_EIO,
                    "%s: a process with this one's id uses it: give the containers that share it one PID namespace",
                    path);
    *ret_damaged = rc == MDB_INVALID || rc == MDB_VERSION_MISMATCH || rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND ||
                   rc == MDB_INCOMPATIBLE;
    return tier_result(tier, rc, "opening the map");
}

freshet_result tier_open(struct tier **ret_tier, const char *dir_path, uint64_t generation, uint64_t map_size,
                         uint64_t limit, bool *ret_damaged)
{
    struct tier *tier = NULL;
    char *path = NULL, *lock_path = NULL;
    freshet_result result = FRESHET_ENOMEM;

    *ret_damaged = false;
    if (asprintf(&path, "%s/map-%016llx", dir_path, (unsigned long long)generation) < 0)
        path = NULL;
    if (!path || asprintf(&lock_path, "%s-lock", path) < 0)
        lock_path = NULL;
    if (lock_path)
        tier = aligned_alloc(_Alignof(struct tier), sizeof *tier);
    if (!tier) {
        fail(FRESHET_ENOMEM, "no memory to open the map in %s", dir_path);
        goto out;
    }
    memset(tier, 0, sizeof *tier);
    tier->map_size = map_size - map_size % (uint64_t)sysconf(_SC_PAGESIZE);
    tier->limit = limit;
    tier->generation = generation;
    tier->fds[FD_DATA] = tier->fds[FD_META] = tier->fds[FD_LOCK] = -1;
    tier_unlink_condemned(path, lock_path, generation);
    result = tier_check_file(path, lock_path, tier->map_size, ret_damaged);
    if (result == FRESHET_OK)
        result = tier_open_env(tier, path, lock_path, ret_damaged);
    if (result == FRESHET_OK) {
        *ret_tier = tier;
    } else {
        mdb_env_close(tier->env);
        free(tier);
    }
out:
    free(path);
    free(lock_path);
    return result;
}

/* Forget a reader that was taken, whatever becomes of its transaction. */
static void reader_forget(struct tier_reader *reader)
{
    mdb_cursor_close(reader->cursor);
    if (reader->slot)
        atomic_store_explicit(&reader->slot->reader, NULL, memory_order_relaxed);
    free(reader);
}

static void reader_free(struct tier_reader *reader)
{
    MDB_txn *txn = reader->txn;

    reader_forget(reader);
    mdb_txn_abort(txn);
}

void tier_close(struct tier *tier)
{
    bool unlinked = false;

    if (!tier)
        return;
    if (!tier_owns_descriptors(tier, &unlinked)) { /* closing would close somebody else's */
        tier_abandon(tier);
        return;
    }
    for (unsigned i = 0; i < POOL_SLOTS; i++) {
        struct tier_reader *reader = atomic_load(&tier->pool[i].reader);

        if (reader && reader != &reader_away)
            reader_free(reader);
    }
    mdb_env_close(tier->env);
    free(tier);
}

void tier_abandon(struct tier *tier)
{
    bool unlinked;

    if (!tier)
        return;
    atomic_store_explicit(&tier->failed, true, memory_order_release);
    for (int i = 0; i < FD_COUNT; i++) {
        if (fd_is(tier->fds[i], &tier->files[i], &unlinked))
            close(tier->fds[i]);
        tier->fds[i] = -1;
    }
}

int tier_reader_check(struct tier *tier)
{
    int dead = 0;

    /* Asked through a descriptor that is not the lock file any more, the kernel would call every reader dead. */
    if (!tier_intact(tier) || mdb_reader_check(tier->env, &dead) != 0)
        return 0;
    return dead;
}

/* ---- the pool of read transactions ---- */

static _Thread_local unsigned reader_thread __attribute__((tls_model("initial-exec")));
static _Atomic unsigned reader_threads;

/* Where this thread looks first. */
static inline unsigned reader_home(void)
{
    if (__builtin_expect(reader_thread == 0, 0))
        reader_thread = atomic_fetch_add_explicit(&reader_threads, 1, memory_order_relaxed) % POOL_SLOTS + 1;
    return reader_thread - 1;
}

static inline struct tier_reader *pool_take(struct tier *tier, unsigned tries)
{
    unsigned home = reader_home();

    for (unsigned i = 0; i < tries; i++) {
        struct tier_slot *slot = &tier->pool[(home + i) % POOL_SLOTS];
        struct tier_reader *reader = atomic_load_explicit(&slot->reader, memory_order_relaxed);

        if (reader && reader != &reader_away &&
            atomic_compare_exchange_strong_explicit(&slot->reader, &reader, &reader_away, memory_order_acquire,
                                                    memory_order_relaxed))
            return reader;
    }
    return NULL;
}

/* A place for a new reader; where there is none, end it. */
static __attribute__((noinline)) void pool_settle(struct tier *tier, struct tier_reader *reader)
{
    unsigned home = reader_home();

    for (unsigned i = 0; i < POOL_TRIES; i++) {
        struct tier_reader *none = NULL;

        reader->slot = &tier->pool[(home + i) % POOL_SLOTS];
        if (atomic_compare_exchange_strong_explicit(&reader->slot->reader, &none, reader, memory_order_release,
                                                    memory_order_relaxed))
            return;
    }
    reader->slot = NULL;
    reader_free(reader);
}

/* Keep a reset transaction for the next one.  Its place was kept for it, so it goes back without asking. */
static inline void pool_give(struct tier *tier, struct tier_reader *reader)
{
    if (__builtin_expect(reader->slot != NULL, 1))
        atomic_store_explicit(&reader->slot->reader, reader, memory_order_release);
    else
        pool_settle(tier, reader);
}

/* A transaction of one's own; when LMDB's table is full, after clearing out the dead, one of anybody's. */
static freshet_result reader_begin(struct tier *tier, struct tier_reader **ret_reader)
{
    struct tier_reader *reader = calloc(1, sizeof *reader);
    int rc;

    if (!reader)
        return fail(FRESHET_ENOMEM, "no memory to read the map");
    rc = mdb_txn_begin(tier->env, NULL, MDB_RDONLY, &reader->txn);
    if (rc == MDB_READERS_FULL && tier_reader_check(tier) > 0)
        rc = mdb_txn_begin(tier->env, NULL, MDB_RDONLY, &reader->txn);
    if (rc == 0) {
        *ret_reader = reader;
        return FRESHET_OK;
    }
    free(reader);
    if (rc == MDB_READERS_FULL && (reader = pool_take(tier, POOL_SLOTS))) {
        if ((rc = mdb_txn_renew(reader->txn)) == 0) {
            *ret_reader = reader;
            return FRESHET_OK;
        }
        reader_free(reader);
    }
    return tier_result(tier, rc, "beginning to read");
}

/* A pooled transaction would not go on.  A slot that is not ours any more must not be written to, as ending the
 * transaction would: that little memory is left. */
static freshet_result reader_refused(struct tier *tier, struct tier_reader *reader, int rc,
                                     struct tier_reader **ret_reader)
{
    if (rc == MDB_BAD_RSLOT)
        reader_forget(reader);
    else
        reader_free(reader);
    if (rc == MDB_BAD_RSLOT && !tier_intact(tier))
        return tier_result(tier, rc, "going on reading");
    return reader_begin(tier, ret_reader);
}

/* A snapshot of now. */
static inline freshet_result tier_enter(struct tier *tier, struct tier_reader **ret_reader)
{
    struct tier_reader *reader;
    int rc;

    if (__builtin_expect(atomic_load_explicit(&tier->failed, memory_order_relaxed), 0))
        return fail(FRESHET_EIO, "the map has failed and waits to be opened again");
    reader = pool_take(tier, POOL_TRIES);
    if (!reader)
        return reader_begin(tier, ret_reader);
    if (__builtin_expect((rc = mdb_txn_renew(reader->txn)) != 0, 0))
        return reader_refused(tier, reader, rc, ret_reader);
    *ret_reader = reader;
    return FRESHET_OK;
}

static inline void tier_leave(struct tier *tier, struct tier_reader *reader)
{
    mdb_txn_reset(reader->txn);
    pool_give(tier, reader);
}

/* ---- rows ---- */

static void chunk_key(uint8_t key[CHUNK_KEY_SIZE], const uint8_t hash[16], uint32_t number)
{
    memcpy(key, hash, HASH_SIZE);
    for (int i = 0; i < 4; i++)
        key[HASH_SIZE + i] = (uint8_t)(number >> (24 - 8 * i));
}

/* Bytes of key and value that the head row has room for. */
static inline uint32_t record_room(const struct record *record)
{
    return TIER_ROW - record_head_size(record);
}

/* Bytes of key and value: what is spread over the rows. */
static uint64_t record_bytes(const struct record *record)
{
    return (uint64_t)record->key_size + record->value_size;
}

/* Rows behind the head. */
static uint64_t record_chunks(const struct record *record)
{
    uint64_t bytes = record_bytes(record), room = record_room(record);

    return bytes <= room ? 0 : (bytes - room + TIER_ROW - 1) / TIER_ROW;
}

uint64_t tier_pages(const struct record *record)
{
    uint64_t rows = record_chunks(record) + 1;

    return rows + rows / 64 + 3;
}

bool tier_next_hash(uint8_t hash[16])
{
    for (unsigned i = HASH_SIZE; i-- > 0;)
        if (++hash[i] != 0)
            return true;
    return false;
}

/* Is it a head row whose sizes agree? */
static inline bool head_decode(const struct tier *tier, const MDB_val *row, struct record *ret_record)
{
    uint64_t bytes, room;

    if (row->mv_size < RECORD_HEAD_SIZE || row->mv_size > TIER_ROW ||
        !record_decode(ret_record, row->mv_data, row->mv_size, tier->limit))
        return false;
    bytes = record_bytes(ret_record);
    room = record_room(ret_record);
    return row->mv_size == TIER_ROW - room + (bytes < room ? bytes : room);
}

/* Bytes of key and value as they come, row by row: the key is compared (or copied), the value copied. */
struct taking {
    const uint8_t *compare; /* the key wanted, or NULL */
    uint8_t *key_to;        /* where a copy of the key goes, or NULL */
    uint8_t *value_to;      /* or NULL */
    uint64_t key_size, end; /* of key + value that are wanted */
    uint64_t at;
};

/* Take the next `size` bytes; false: another key. */
static bool taking_take(struct taking *taking, const uint8_t *bytes, size_t size)
{
    uint64_t at = taking->at;
    size_t of_key = at >= taking->key_size ? 0 : taking->key_size - at < size ? (size_t)(taking->key_size - at) : size;

    if (of_key && taking->compare && memcmp(taking->compare + at, bytes, of_key) != 0)
        return false;
    if (of_key && taking->key_to)
        memcpy(taking->key_to + at, bytes, of_key);
    if (taking->value_to && size > of_key)
        memcpy(taking->value_to + (at + of_key - taking->key_size), bytes + of_key, size - of_key);
    taking->at += size;
    return true;
}

/* Go on through the rows behind the head until `end`.  FRESHET_MISS: damaged, or another key. */
static freshet_result taking_chunks(struct taking *taking, struct tier *tier, MDB_cursor *cursor,
                                    const uint8_t hash[16], const struct record *record)
{
    uint64_t bytes = record_bytes(record);

    for (uint32_t number = 1; taking->at < taking->end; number++) {
        uint8_t wanted[CHUNK_KEY_SIZE];
        MDB_val key = {CHUNK_KEY_SIZE, wanted}, row;
        uint64_t left = bytes - taking->at;
        int rc;

        chunk_key(wanted, hash, number);
        rc = mdb_cursor_get(cursor, &key, &row, number == 1 ? MDB_SET_KEY : MDB_NEXT);
        if (rc != 0)
            return tier_result(tier, rc, "reading a row");
        if (key.mv_size != CHUNK_KEY_SIZE || memcmp(key.mv_data, wanted, CHUNK_KEY_SIZE) != 0 ||
            row.mv_size != (left < TIER_ROW ? left : TIER_ROW) || !taking_take(taking, row.mv_data, row.mv_size))
            return FRESHET_MISS;
    }
    return FRESHET_OK;
}

/* ---- reading ---- */

/* The reader's cursor, fit for its present snapshot. */
static freshet_result reader_cursor(struct tier *tier, struct tier_reader *reader)
{
    int rc = reader->cursor ? mdb_cursor_renew(reader->txn, reader->cursor)
                            : mdb_cursor_open(reader->txn, tier->dbi, &reader->cursor);

    return rc == 0 ? FRESHET_OK : tier_result(tier, rc, "reading a row");
}

/* A record of several rows. */
static __attribute__((noinline)) freshet_result read_rows(struct tier *tier, struct tier_reader *reader,
                                                          const struct key *key, const struct record *record,
                                                          const MDB_val *head, freshet_buf *buf)
{
    struct taking taking = {.compare = key->data, .key_size = key->size, .end = key->size};
    const uint8_t *here = (const uint8_t *)head->mv_data + record_head_size(record);
    uint32_t room = record_room(record);
    freshet_result result;

    if (!taking_take(&taking, here, key->size < room ? key->size : room))
        return FRESHET_MISS; /* before memory is asked for */
    taking.at = 0;
    if (buf) {
        if ((result = buf_reserve(buf, record->value_size)) != FRESHET_OK)
            return result;
        taking.value_to = buf->data;
        taking.end = record_bytes(record);
    }
    (void)taking_take(&taking, here, room);
    if (taking.at >= taking.end)
        return FRESHET_OK;
    if ((result = reader_cursor(tier, reader)) != FRESHET_OK)
        return result;
    result = taking_chunks(&taking, tier, reader->cursor, key->hash, record);
    /* A host program that closed LMDB's lock file has let go of our place among the readers: pages may have been used
     * again under the copy, which takes long enough for that here. */
    return result == FRESHET_OK && !tier_intact(tier) ? FRESHET_MISS : result;
}

/* In the snapshot: find, check, compare, copy. */
static inline freshet_result read_record(struct tier *tier, struct tier_reader *reader, const struct key *key,
                                         struct record *ret_record, freshet_buf *buf)
{
    MDB_val hash = {HASH_SIZE, (void *)(uintptr_t)key->hash}, row;
    const uint8_t *data;
    freshet_result result;
    int rc = mdb_get(reader->txn, tier->dbi, &hash, &row);

    if (rc != 0)
        return rc == MDB_NOTFOUND ? FRESHET_MISS : tier_result(tier, rc, "reading a record");
    __builtin_prefetch((const uint8_t *)row.mv_data + 64); /* the head's check takes long enough for the rest to come */
    __builtin_prefetch((const uint8_t *)row.mv_data + 128);
    __builtin_prefetch((const uint8_t *)row.mv_data + row.mv_size - 1);
    if (!head_decode(tier, &row, ret_record) || ret_record->key_size != key->size)
        return FRESHET_MISS;
    if (__builtin_expect(record_bytes(ret_record) > record_room(ret_record), 0)) {
        result = read_rows(tier, reader, key, ret_record, &row, buf);
        if (result != FRESHET_OK)
            return result;
    } else {
        data = (const uint8_t *)row.mv_data + record_head_size(ret_record);
        if (memcmp(data, key->data, key->size) != 0)
            return FRESHET_MISS;
        if (buf && (result = buf_reserve(buf, ret_record->value_size)) != FRESHET_OK)
            return result;
        if (buf && ret_record->value_size)
            memcpy(buf->data, data + key->size, ret_record->value_size);
    }
    if (buf)
        buf->size = ret_record->value_size;
    return FRESHET_OK;
}

freshet_result tier_read(struct tier *tier, const struct key *key, struct record *ret_record, freshet_buf *buf)
{
    struct tier_reader *reader;
    struct record record;
    freshet_result result;

    if (buf)
        buf->size = 0; /* also: nothing that growing would have to keep */
    result = tier_enter(tier, &reader);
    if (__builtin_expect(result != FRESHET_OK, 0))
        return result;
    result = read_record(tier, reader, key, &record, buf);
    tier_leave(tier, reader);
    if (result == FRESHET_OK)
        record_copy(ret_record, &record);
    return result;
}

/* ---- walking ---- */

struct each_entry {
    uint8_t hash[HASH_SIZE];
    struct record record;
    size_t key_at; /* in the batch's keys */
};

struct each_batch {
    struct each_entry entries[EACH_BATCH];
    uint32_t count;
    uint8_t next[HASH_SIZE]; /* where the walk goes on */
    bool more;
    size_t keys_used;
    uint8_t keys[EACH_KEYS];
};

/* Copy one head and its key; FRESHET_MISS where it is damaged. */
static freshet_result each_take(struct each_batch *batch, struct tier *tier, struct tier_reader *reader,
                                const uint8_t hash[16], const MDB_val *row)
{
    struct each_entry *entry = &batch->entries[batch->count];
    struct taking taking = {.key_to = batch->keys + batch->keys_used};
    freshet_result result = FRESHET_OK;
    size_t head;

    if (!head_decode(tier, row, &entry->record) || entry->record.key_size > FRESHET_KEY_MAX)
        return FRESHET_MISS;
    taking.key_size = taking.end = entry->record.key_size;
    head = record_head_size(&entry->record);
    taking_take(&taking, (const uint8_t *)row->mv_data + head, row->mv_size - head);
    if (taking.at < taking.end)
        result = taking_chunks(&taking, tier, reader->cursor, hash, &entry->record);
    if (result != FRESHET_OK)
        return result;
    memcpy(entry->hash, hash, HASH_SIZE);
    entry->key_at = batch->keys_used;
    batch->keys_used += entry->record.key_size;
    batch->count++;
    return FRESHET_OK;
}

/* Fill the batch from `next` on, in one snapshot.  The next head is found by its hash: rows of a large record in
 * between are stepped over. */
static freshet_result each_fill(struct each_batch *batch, struct tier *tier, struct tier_reader *reader)
{
    freshet_result result = reader_cursor(tier, reader);

    batch->count = 0;
    batch->keys_used = 0;
    for (uint32_t seen = 0; result == FRESHET_OK && batch->more && seen < EACH_BATCH; seen++) {
        MDB_val key = {HASH_SIZE, batch->next}, row;
        uint8_t hash[HASH_SIZE];
        int rc = mdb_cursor_get(reader->cursor, &key, &row, MDB_SET_RANGE);

        if (rc == MDB_NOTFOUND) {
            batch->more = false;
            break;
        }
        if (rc != 0)
            return tier_result(tier, rc, "walking the records");
        if (batch->keys_used + FRESHET_KEY_MAX > EACH_KEYS)
            break;
        if (key.mv_size < HASH_SIZE)
            return FRESHET_OK; /* cannot be: nothing shorter sorts behind a hash that was asked for */
        memcpy(hash, key.mv_data, HASH_SIZE);
        if (key.mv_size == HASH_SIZE)
            result = each_take(batch, tier, reader, hash, &row);
        if (result == FRESHET_MISS)
            result = FRESHET_OK;
        memcpy(batch->next, hash, HASH_SIZE);
        batch->more = tier_next_hash(batch->next);
    }
    return result;
}

freshet_result tier_each(struct tier *tier, tier_each_fn fn, void *arg)
{
    struct each_batch *batch = malloc(sizeof *batch);
    freshet_result result = FRESHET_OK;

    if (!batch)
        return fail(FRESHET_ENOMEM, "no memory to walk the records");
    memset(batch->next, 0, sizeof batch->next);
    batch->more = true;
    while (batch->more && result == FRESHET_OK) {
        struct tier_reader *reader;

        if ((result = tier_enter(tier, &reader)) != FRESHET_OK)
            break;
        result = each_fill(batch, tier, reader);
        tier_leave(tier, reader);
        for (uint32_t i = 0; i < batch->count && result == FRESHET_OK; i++)
            if (!fn(batch->entries[i].hash, &batch->entries[i].record, batch->keys + batch->entries[i].key_at, arg)) {
                batch->more = false;
                break;
            }
    }
    free(batch);
    return result;
}

/* ---- the writer's transactions ---- */

/* Read the tally, once a transaction. */
static int txn_load_tally(struct tier_txn *txn)
{
    MDB_val key = {sizeof tally_key, (void *)(uintptr_t)tally_key}, row;
    int rc = mdb_get(txn->txn, txn->tier->dbi, &key, &row);

    if (rc == 0 && row.mv_size == sizeof txn->chunks)
        memcpy(&txn->chunks, row.mv_data, sizeof txn->chunks);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int txn_store_tally(struct tier_txn *txn)
{
    MDB_val key = {sizeof tally_key, (void *)(uintptr_t)tally_key};
    MDB_val row = {sizeof txn->chunks, &txn->chunks};

    txn->tally_moved = false;
    return mdb_put(txn->txn, txn->tier->dbi, &key, &row, 0);
}

freshet_result tier_begin(struct tier *tier, struct tier_txn **ret_txn)
{
    struct tier_txn *txn = &tier->writing;
    int rc;

    *txn = (struct tier_txn){.tier = tier};
    if (!tier_intact(tier)) {
        tier_fail(tier, false);
        return fail(FRESHET_EIO, "the map's descriptors are not ours any more");
    }
    rc = mdb_txn_begin(tier->env, NULL, 0, &txn->txn);
    if (rc == EINVAL) {
        /* LMDB 0.9.26 to 0.9.31 destroy the shared mutex at a close that meets an open (ITS#10095).  As long as anybody
         * has the lock file open nobody makes the mutex anew, so only new files help. */
        tier_fail(tier, true);
    }
    if (rc != 0)
        return tier_result(tier, rc, "beginning to write");
    if ((rc = mdb_cursor_open(txn->txn, tier->dbi, &txn->cursor)) == 0 && (rc = txn_load_tally(txn)) == 0) {
        *ret_txn = txn;
        return FRESHET_OK;
    }
    tier_drop(txn);
    return tier_result(tier, rc, "beginning to write");
}

void tier_drop(struct tier_txn *txn)
{
    struct tier_txn ending;

    if (!txn)
        return;
    /* Cleared first: with the abort LMDB's lock goes, and the next writer may begin in the same place. */
    ending = *txn;
    *txn = (struct tier_txn){.tier = ending.tier};
    mdb_cursor_close(ending.cursor);
    mdb_txn_abort(ending.txn);
}

freshet_result tier_commit(struct tier_txn *txn)
{
    struct tier *tier = txn->tier;
    MDB_txn *mdb = txn->txn;
    int rc;

    if (txn->spoiled) {
        tier_drop(txn);
        return fail(FRESHET_EIO, "a write transaction that had failed was to be committed");
    }
    if (txn->tally_moved && (rc = txn_store_tally(txn)) != 0) {
        tier_drop(txn);
        return tier_result(tier, rc, "committing");
    }
    if (!tier_intact(tier)) { /* LMDB would write to whatever has the descriptor's number now */
        tier_fail(tier, false);
        tier_drop(txn);
        return fail(FRESHET_EIO, "the map's descriptors are not ours any more");
    }
    mdb_cursor_close(txn->cursor);
    txn->cursor = NULL;
    txn->txn = NULL; /* gone, whatever commit says */
    rc = mdb_txn_commit(mdb);
    if (rc == EIO) /* a short write: what a full tmpfs looks like to LMDB */
        rc = ENOSPC;
    return tier_result(tier, rc, "committing");
}

/* Note that the transaction is lost, and say why. */
static freshet_result txn_result(struct tier_txn *txn, int rc, const char *doing)
{
    if (rc != 0 && rc != MDB_NOTFOUND)
        txn->spoiled = true;
    return tier_result(txn->tier, rc, doing);
}

freshet_result tier_peek(struct tier_txn *txn, const uint8_t hash[16], struct record *ret_record)
{
    MDB_val key = {HASH_SIZE, (void *)(uintptr_t)hash}, row;
    struct record record;
    int rc = mdb_get(txn->txn, txn->tier->dbi, &key, &row);

    if (rc != 0)
        return txn_result(txn, rc, "looking at a record");
    if (!head_decode(txn->tier, &row, &record))
        return FRESHET_MISS;
    record_copy(ret_record, &record);
    return FRESHET_OK;
}

/* Delete rows from `from` (a key of the hash) on, as long as they are the hash's. */
static int txn_delete_rows(struct tier_txn *txn, const uint8_t *from, size_t size)
{
    MDB_val key = {size, (void *)(uintptr_t)from}, row;
    int rc = mdb_cursor_get(txn->cursor, &key, &row, MDB_SET_RANGE);

    while (rc == 0 && key.mv_size >= HASH_SIZE && memcmp(key.mv_data, from, HASH_SIZE) == 0) {
        if (key.mv_size > HASH_SIZE) {
            txn->chunks -= txn->chunks > 0;
            txn->tally_moved = true;
        }
        if ((rc = mdb_cursor_del(txn->cursor, 0)) == 0)
            rc = mdb_cursor_get(txn->cursor, &key, &row, MDB_NEXT);
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

freshet_result tier_delete(struct tier_txn *txn, const uint8_t hash[16])
{
    uint8_t from[HASH_SIZE]; /* the caller's may be LMDB's own memory, which a deletion moves */

    memcpy(from, hash, sizeof from);
    return txn_result(txn, txn_delete_rows(txn, from, sizeof from), "deleting a record");
}

/* Bytes `at` to `at + size` of key and value, in one piece: where they lie, or put together in `room`. */
static const uint8_t *record_piece(const struct key *key, const uint8_t *value, uint64_t at, size_t size, uint8_t *room)
{
    size_t of_key;

    if (at >= key->size)
        return value + (at - key->size);
    of_key = key->size - at < size ? (size_t)(key->size - at) : size;
    memcpy(room, (const uint8_t *)key->data + at, of_key);
    if (size > of_key)
        memcpy(room + of_key, value, size - of_key);
    return room;
}

/* The rows behind the head. */
static int txn_put_chunks(struct tier_txn *txn, const struct key *key, const struct record *record, const void *value)
{
    uint8_t room[TIER_ROW], name[CHUNK_KEY_SIZE];
    uint64_t bytes = record_bytes(record), at = record_room(record);
    int rc = 0;

    for (uint32_t number = 1; rc == 0 && at < bytes; number++) {
        size_t size = bytes - at < TIER_ROW ? (size_t)(bytes - at) : TIER_ROW;
        MDB_val row_key = {sizeof name, name};
        MDB_val row = {size, (void *)(uintptr_t)record_piece(key, value, at, size, room)};

        chunk_key(name, key->hash, number);
        rc = mdb_put(txn->txn, txn->tier->dbi, &row_key, &row, 0);
        at += size;
    }
    return rc;
}

freshet_result tier_write(struct tier_txn *txn, const struct key *key, const struct record *record, const void *value)
{
    uint8_t head[TIER_ROW];
    uint64_t bytes = record_bytes(record), chunks = record_chunks(record);
    size_t head_size = record_head_size(record), room = record_room(record);
    size_t here = bytes < room ? (size_t)bytes : room;
    MDB_val row_key = {HASH_SIZE, (void *)(uintptr_t)key->hash}, row = {head_size + here, head};
    const uint8_t *piece;
    int rc;

    if (record->key_size != key->size || record->tag_count > RECORD_TAGS_MAX || bytes > txn->tier->limit ||
        chunks >= UINT32_MAX)
        return fail(FRESHET_EINVAL, "a record of %llu bytes is above the tier's limit", (unsigned long long)bytes);
    /* Whatever stands there goes first, unless it is plainly one row, to be overwritten by one. */
    struct record old;
    freshet_result found = tier_peek(txn, key->hash, &old);

    if (found < 0)
        return found;
    if (!(found == FRESHET_OK && chunks == 0 && record_chunks(&old) == 0) &&
        (rc = txn_delete_rows(txn, key->hash, HASH_SIZE)) != 0)
        return txn_result(txn, rc, "replacing a record");
    record_encode(record, head);
    piece = record_piece(key, value, 0, here, head + head_size);
    if (piece != head + head_size)
        memcpy(head + head_size, piece, here);
    if ((rc = mdb_put(txn->txn, txn->tier->dbi, &row_key, &row, 0)) != 0)
        return txn_result(txn, rc, "writing a record");
    if (chunks == 0)
        return FRESHET_OK;
    if ((rc = txn_put_chunks(txn, key, record, value)) != 0)
        return txn_result(txn, rc, "writing a record's rows");
    txn->chunks += chunks;
    txn->tally_moved = true;
    return FRESHET_OK;
}

freshet_result tier_scan(struct tier_txn *txn, const uint8_t hash[16], uint32_t most,
                         uint8_t (*ret_hashes)[16], struct record *ret_records, uint32_t *ret_count)
{
    uint8_t next[HASH_SIZE];
    bool more = true;

    memcpy(next, hash, sizeof next);
    *ret_count = 0;
    while (more && *ret_count < most) {
        MDB_val key = {HASH_SIZE, next}, row;
        struct record *record = &ret_records[*ret_count];
        int rc = mdb_cursor_get(txn->cursor, &key, &row, MDB_SET_RANGE);

        if (rc == MDB_NOTFOUND)
            break;
        if (rc != 0)
            return txn_result(txn, rc, "looking through the records");
        if (key.mv_size < HASH_SIZE)
            break;
        memcpy(next, key.mv_data, HASH_SIZE);
        memcpy(ret_hashes[*ret_count], next, HASH_SIZE);
        if (key.mv_size != HASH_SIZE || !head_decode(txn->tier, &row, record))
            memset(record, 0, sizeof *record);
        ++*ret_count;
        more = tier_next_hash(next);
    }
    return FRESHET_OK;
}

freshet_result tier_tick(struct tier_txn *txn)
{
    return txn_result(txn, txn_store_tally(txn), "ageing the free pages");
}

/* ---- how full ---- */

/* Pages of the two meta pages and of both trees.  What is neither in use nor beyond the last page ever used stands
 * in the free list; of that, pages freed by the last commit or since the oldest reader's snapshot cannot be had yet,
 * which this figure does not show: the writer's high-water mark leaves room for them. */
static uint64_t pages_in_use(MDB_txn *txn, MDB_dbi dbi, uint64_t *ret_rows)
{
    MDB_stat rows = {0}, list = {0};

    (void)mdb_stat(txn, dbi, &rows);
    (void)mdb_stat(txn, FREE_DBI_, &list);
    *ret_rows = rows.ms_entries;
    return 2 + rows.ms_branch_pages + rows.ms_leaf_pages + rows.ms_overflow_pages + list.ms_branch_pages +
           list.ms_leaf_pages + list.ms_overflow_pages;
}

void tier_usage(struct tier_txn *txn, uint64_t *ret_used, uint64_t *ret_pages)
{
    uint64_t rows;

    *ret_used = pages_in_use(txn->txn, txn->tier->dbi, &rows);
    *ret_pages = txn->tier->map_size / txn->tier->page_size;
}

uint32_t tier_page_size(const struct tier *tier)
{
    return tier->page_size;
}

uint64_t tier_map_size(const struct tier *tier)
{
    return tier->map_size;
}

void tier_facts(struct tier *tier, struct tier_facts *ret_facts)
{
    MDB_val key = {sizeof tally_key, (void *)(uintptr_t)tally_key}, row;
    struct slot_count count = {0};
    struct tier_reader *reader;
    uint64_t chunks = 0;

    *ret_facts = (struct tier_facts){.map_bytes = tier->map_size};
    if (tier_enter(tier, &reader) != FRESHET_OK)
        return;
    ret_facts->used_bytes = pages_in_use(reader->txn, tier->dbi, &ret_facts->rows) * tier->page_size;
    if (mdb_get(reader->txn, tier->dbi, &key, &row) == 0 && row.mv_size == sizeof chunks) {
        memcpy(&chunks, row.mv_data, sizeof chunks);
        chunks++; /* the tally's own row */
    }
    tier_leave(tier, reader);
    ret_facts->rows -= chunks < ret_facts->rows ? chunks : ret_facts->rows;
    (void)mdb_reader_list(tier->env, tier_count_slot, &count);
    ret_facts->readers = count.all;
}
