/*
 * map.c - the LMDB environment: opened, checked, read from, written to, closed.
 * Below tier.c, above LMDB; nothing else of ours includes <lmdb.h>.
 *
 * LMDB trusts its file and its descriptors; we do not.  The file's first pages are checked before LMDB sees them, and
 * its trees (tree.h) before it walks them, since it answers nonsense with abort(); the file is stretched to the map's
 * size, so that no page of the mapping lies beyond its end (SIGBUS); and before each commit the descriptors are
 * compared with the files that they were, because a host program that closes what it does not know would have LMDB
 * write pages into whatever got the number next.
 *
 * No WRITEMAP: the host program has the map read-only, and a full file system is an error of a commit.
 *
 * A read is renew, look, reset on a transaction that the process keeps: no lock, no system call, no memory.
 */
#include <map.h>

#include <bytes.h>
#include <clock.h>
#include <log.h>
#include <tree.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define POOL_TRIES 4u
#define OPEN_TRIES 25
#define SNAPSHOT_TRIES 100u
#define TXN_MOST (SIZE_MAX / 2) /* no map comes to so many commits */
#define LOCK_READERS 56u /* where in the lock file the count of its slots stands, */
#define ROW_HEAD (UINT64_C(1) << 16 | 4) /* of a page, at byte 10: a row's, and one page of it */
#define LOCK_HEAD 128u   /* and where they begin; those of a format that LMDB itself checks */
#define LOCK_SLOT 64u
#define GIVE_CALLS 4096u /* runs of free pages that are looked at by one giving back, */
#define GIVE_NS 5000000  /* and for so long: the writer's lock is held (a disk may have to write first) */
#define FREE_DBI_ 0u /* LMDB's own list of free pages; its number is as fixed as the file format */

/* The row that names the map: a random number.  One byte: before all others. */
static const uint8_t nonce_key[1] = {0};

/* Stands in the pool for a reader that is in use: nobody but who took that one changes the slot meanwhile. */
static struct map_reader reader_away;

/* The map that this process found damaged while it was open, by inode; its next opening starts a new one. */
static _Atomic uint64_t condemned_ino, condemned_generation;

/* ---- foreign codes end here ---- */

/* The tier cannot go on with this environment. */
void map_fail(struct map *map, bool condemn)
{
    if (condemn) {
        atomic_store(&condemned_ino, (uint64_t)map->files[FD_DATA].ino);
        atomic_store(&condemned_generation, map->generation);
    }
    atomic_store_explicit(&map->failed, true, memory_order_release);
}

/* LMDB's answer as ours, noting what cannot be mended by trying again. */
freshet_result map_result(struct map *map, int rc, const char *doing)
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
        atomic_store_explicit(&map->full, false, memory_order_relaxed);
        return fail(FRESHET_ENOSPC, "no room in the map while %s: %s", doing, mdb_strerror(rc));
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        atomic_store_explicit(&map->full, true, memory_order_relaxed);
        return fail(FRESHET_ENOSPC, "no room for the map while %s: %s", doing, mdb_strerror(rc));
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
        map_fail(map, true);
        break;
    case MDB_PANIC:
    case MDB_BAD_RSLOT:
    case MDB_MAP_RESIZED:
        map_fail(map, false);
        break;
    default:
        break;
    }
    return fail(FRESHET_EIO, "LMDB failed while %s: %s", doing, mdb_strerror(rc));
}

/* ---- whose descriptors are these ---- */

static bool fd_is(int fd, const struct map_file *file, bool *ret_unlinked)
{
    struct stat st;

    if (fd < 0 || fstat(fd, &st) != 0 || st.st_dev != file->dev || st.st_ino != file->ino)
        return false;
    *ret_unlinked = st.st_nlink == 0;
    return true;
}

static bool map_owns_descriptors(const struct map *map, bool *ret_unlinked)
{
    for (int i = 0; i < FD_COUNT; i++) {
        bool unlinked = false;

        if (i == FD_META && map->fds[i] < 0)
            continue;
        if (!fd_is(map->fds[i], &map->files[i], &unlinked))
            return false;
        *ret_unlinked |= unlinked;
    }
    return true;
}

bool map_intact(const struct map *map)
{
    bool unlinked = false;

    return !atomic_load_explicit(&map->failed, memory_order_acquire) && map_owns_descriptors(map, &unlinked) &&
           !unlinked;
}

/* Look at one open descriptor: LMDB's second one on the data file, or the lock file's? */
static void map_note_fd(struct map *map, int fd)
{
    bool unlinked;

    if (fd == map->fds[FD_DATA])
        return;
    if (fd_is(fd, &map->files[FD_DATA], &unlinked))
        map->fds[FD_META] = fd;
    else if (fd_is(fd, &map->files[FD_LOCK], &unlinked))
        map->fds[FD_LOCK] = fd;
}

/* Learn which descriptors LMDB has just opened.  Looking is all that is allowed: whoever opens the lock file himself
 * drops all of LMDB's locks when he closes it. */
static freshet_result map_note_fds(struct map *map, const char *path, const char *lock_path)
{
    struct stat st;
    DIR *fds;

    map->fds[FD_META] = map->fds[FD_LOCK] = -1;
    if (mdb_env_get_fd(map->env, &map->fds[FD_DATA]) != 0 || fstat(map->fds[FD_DATA], &st) != 0)
        return fail(FRESHET_EIO, "%s: cannot look at the map's descriptor: %s", path, strerror(errno));
    map->files[FD_DATA] = map->files[FD_META] = (struct map_file){st.st_dev, st.st_ino};
    if (lstat(lock_path, &st) != 0)
        return fail(FRESHET_EIO, "%s: %s", lock_path, strerror(errno));
    map->files[FD_LOCK] = (struct map_file){st.st_dev, st.st_ino};
    fds = opendir("/proc/self/fd");
    if (fds) {
        for (const struct dirent *entry; (entry = readdir(fds));)
            if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')
                map_note_fd(map, atoi(entry->d_name));
        closedir(fds);
    } else { /* no /proc: LMDB got low numbers, or we cannot know */
        for (int fd = 0; fd < 4096; fd++)
            map_note_fd(map, fd);
    }
    if (map->fds[FD_LOCK] < 0)
        return fail(FRESHET_EIO, "%s: cannot find LMDB's descriptor of it among this process's", lock_path);
    for (int i = 0; i < FD_COUNT; i++) /* not every LMDB closes all of them at exec */
        if (map->fds[i] >= 0)
            (void)fcntl(map->fds[i], F_SETFD, FD_CLOEXEC);
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
static const char *map_file_fault(int fd, const struct stat *st, uint64_t map_size)
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
static freshet_result map_check_file(const char *path, const char *lock_path, uint64_t map_size, bool *ret_damaged)
{
    const char *fault = NULL;
    struct rlimit most;
    struct stat st;
    int fd;

    if (getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur < map_size)
        return fail(FRESHET_EIO, "this process may write files of %llu bytes only (ulimit -f), the tier needs %llu",
                    (unsigned long long)most.rlim_cur, (unsigned long long)map_size);
    if (lstat(lock_path, &st) == 0) {
        if (!S_ISREG(st.st_mode) || st.st_uid != geteuid())
            fault = "is no plain file of this user";
        else if (st.st_size != 0 && st.st_size < (off_t)(LOCK_HEAD + LOCK_SLOT))
            fault = "was cut off";
        if (fault) {
            *ret_damaged = true;
            return fail(FRESHET_EIO, "%s %s", lock_path, fault);
        }
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
        fault = map_file_fault(fd, &st, map_size);
    close(fd);
    if (!fault)
        return FRESHET_OK;
    *ret_damaged = true;
    return fail(FRESHET_EIO, "%s cannot be used: %s", path, fault);
}

/* The map that this very process saw fail goes, with its lock file.  Siblings see by the link count that theirs is
 * no longer the directory's, and follow; until then each judges what it reads by the control page, as ever. */
static void map_unlink_condemned(const char *path, const char *lock_path, uint64_t generation)
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

static void map_pause(long ms)
{
    struct timespec pause = {0, ms * 1000000};

    (void)nanosleep(&pause, NULL);
}

/* mdb_env_open, again while it fails only because a signal or another opener came in between. */
static int map_env_open(struct map *map, const char *path)
{
    const unsigned flags = MDB_NOSUBDIR | MDB_NOSYNC | MDB_NOMETASYNC | MDB_NOTLS | MDB_NORDAHEAD;
    sigset_t all, before;
    int rc = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 0; i < OPEN_TRIES; i++) {
        if ((rc = mdb_env_create(&map->env)) != 0)
            break;
        if ((rc = mdb_env_set_mapsize(map->env, map->size)) == 0 &&
            (rc = mdb_env_set_maxreaders(map->env, MAP_READERS)) == 0)
            rc = mdb_env_open(map->env, path, flags, 0600);
        if (rc == 0)
            break;
        mdb_env_close(map->env);
        map->env = NULL;
        if (rc != EINTR && rc != EAGAIN && rc != EBUSY)
            break;
        map_pause(1 + i % 4);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

struct slot_count {
    long own;
    uint32_t own_count, all;
};

/* A line of mdb_reader_list is a slot: "pid thread txn". */
static int map_count_slot(const char *line, void *arg)
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
 * LMDB's own check takes them for ours; closing clears them, once a transaction has made it count the slots.
 * *ret_again: it was closed, and opened again. */
static int map_purge_namesakes(struct map *map, const char *path, bool *ret_again)
{
    struct slot_count count = {.own = getpid()};
    MDB_txn *txn = NULL;
    int dead, rc;

    *ret_again = false;
    if ((rc = mdb_reader_check(map->env, &dead)) != 0)
        return rc;
    if (mdb_reader_list(map->env, map_count_slot, &count) < 0 || count.own_count == 0)
        return 0;
    if ((rc = mdb_txn_begin(map->env, NULL, MDB_RDONLY, &txn)) != 0)
        return rc;
    mdb_txn_abort(txn);
    mdb_env_close(map->env);
    map->env = NULL;
    *ret_again = true;
    return map_env_open(map, path);
}

/* NULL when the table of readers may be gone through. */
static const char *map_lock_fault(const struct map *map)
{
    uint8_t bytes[4];
    struct stat st;

    if (fstat(map->fds[FD_LOCK], &st) != 0 || pread(map->fds[FD_LOCK], bytes, 4, LOCK_READERS) != 4)
        return "its lock file cannot be read";
    return bytes_get32(bytes) <= ((uint64_t)st.st_size - LOCK_HEAD) / LOCK_SLOT ? NULL : "its lock file is damaged";
}

static struct tree meta_tree(const struct meta_db *db)
{
    return (struct tree){db->root, db->depth, db->branch, db->leaf, db->entries};
}

static bool map_read_metas(const struct map *map, struct meta_page metas[2])
{
    return pread(map->fds[FD_DATA], &metas[0], sizeof metas[0], 0) == (ssize_t)sizeof metas[0] &&
           pread(map->fds[FD_DATA], &metas[1], sizeof metas[1], MAP_PAGE) == (ssize_t)sizeof metas[1];
}

/* NULL when a snapshot's trees are in order.  *ret_again: commits came in between, and there is another by now.
 * *ret_error: as tree_fault's. */
static const char *map_trees_fault(const struct map *map, MDB_txn *txn, bool *ret_again, int *ret_error)
{
    size_t id = mdb_txn_id(txn);
    struct meta_page metas[2], then[2], meta, other;
    struct tree trees[2];
    const char *fault;

    *ret_again = false;
    *ret_error = 0;
    if (!map_read_metas(map, metas)) {
        *ret_error = EIO;
        return "its first pages cannot be read";
    }
    meta = metas[id & 1];
    other = metas[~id & 1];
    /* The two are of commits in a row; 0 and 0 are a new map's. */
    if (meta.txn != id || (other.txn + 1 != id && other.txn != id + 1 && (id != 0 || other.txn != 0)) ||
        id > TXN_MOST) {
        *ret_again = true;
        return "its first pages and its lock file do not agree";
    }
    if (!meta_sane(&meta, id & 1, map->size) || meta.free.page_size != MAP_PAGE)
        return "its first pages are none of this LMDB's";
    trees[TREE_ROWS] = meta_tree(&meta.main);
    trees[TREE_FREE] = meta_tree(&meta.free);
    fault = tree_fault(map->fds[FD_DATA], trees, meta.last_page, ret_error);
    /* A commit may have been writing one just as it was read. */
    *ret_again = fault && *ret_error == 0 && map_read_metas(map, then) && memcmp(metas, then, sizeof metas) != 0;
    return fault;
}

/* Look at LMDB's trees before it does, in a snapshot, which keeps their pages. */
static freshet_result map_check_trees(struct map *map, const char *path, bool *ret_damaged)
{
    const char *fault = map_lock_fault(map);
    bool again = !fault;
    int rc = 0, error = 0, dead;

    for (unsigned i = 0; again && i < SNAPSHOT_TRIES; i++) {
        MDB_txn *txn;

        rc = mdb_txn_begin(map->env, NULL, MDB_RDONLY, &txn);
        if (rc == MDB_READERS_FULL && mdb_reader_check(map->env, &dead) == 0) /* killed ones' slots */
            rc = mdb_txn_begin(map->env, NULL, MDB_RDONLY, &txn);
        if (rc != 0)
            break;
        fault = map_trees_fault(map, txn, &again, &error);
        mdb_txn_abort(txn);
    }
    if (rc != 0)
        return rc == EAGAIN ? FRESHET_OK : map_result(map, rc, "looking at the map"); /* map_open_env tells of that */
    if (!fault)
        return FRESHET_OK;
    if (error)
        return fail(error == ENOMEM ? FRESHET_ENOMEM : FRESHET_EIO, "%s cannot be looked through: %s", path,
                    strerror(error));
    *ret_damaged = true;
    return fail(FRESHET_EIO, "%s cannot be used: %s", path, fault);
}

/* Name a new map. */
static int map_name(struct map *map)
{
    MDB_txn *txn = NULL;
    int rc;

    if (getrandom(&map->nonce, sizeof map->nonce, GRND_NONBLOCK) != (ssize_t)sizeof map->nonce)
        return EAGAIN;
    if ((rc = mdb_txn_begin(map->env, NULL, 0, &txn)) != 0)
        return rc;
    if ((rc = map_touch(map, txn)) != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    rc = mdb_txn_commit(txn);
    map->fresh = rc == 0;
    return rc == EIO ? ENOSPC : rc; /* a short write: what a full tmpfs looks like to LMDB */
}

/* A page begins with its own number, so any row tells where the mapping begins; there the first page must stand. */
static int map_find_base(struct map *map, const void *in_a_leaf)
{
    const uint8_t *page = (const uint8_t *)((uintptr_t)in_a_leaf & ~((uintptr_t)map->page_size - 1));
    struct meta_page meta;
    uint64_t number;

    memcpy(&number, page, sizeof number);
    if (number < 2 || number >= map->size / map->page_size)
        return MDB_CORRUPTED;
    map->base = page - number * map->page_size;
    memcpy(&meta, map->base, sizeof meta);
    return meta_sane(&meta, 0, map->size) ? 0 : MDB_CORRUPTED;
}

/* Read the name, and a little of everything, so that a damaged tree shows now. */
static int map_probe(struct map *map)
{
    MDB_val name = {sizeof nonce_key, (void *)(uintptr_t)nonce_key}, key, row;
    MDB_cursor *cursor = NULL;
    MDB_txn *txn = NULL;
    MDB_envinfo info;
    MDB_stat stat;
    int rc;

    if ((rc = mdb_txn_begin(map->env, NULL, MDB_RDONLY, &txn)) != 0)
        return rc;
    if ((rc = mdb_dbi_open(txn, NULL, 0, &map->dbi)) != 0 || (rc = mdb_stat(txn, map->dbi, &stat)) != 0 ||
        (rc = mdb_cursor_open(txn, map->dbi, &cursor)) != 0)
        goto out;
    map->page_size = stat.ms_psize;
    if (map->page_size != MAP_PAGE) {
        rc = MDB_INVALID;
        goto out;
    }
    if ((rc = mdb_env_info(map->env, &info)) != 0)
        goto out;
    rc = stat.ms_entries ? mdb_cursor_get(cursor, &key, &row, MDB_LAST) : MDB_NOTFOUND;
    if (rc == 0)
        rc = mdb_get(txn, map->dbi, &name, &row);
    if (rc == 0 && row.mv_size != sizeof map->nonce)
        rc = MDB_CORRUPTED;
    if (rc == MDB_NOTFOUND && stat.ms_entries)
        rc = MDB_CORRUPTED;
    if (rc == 0)
        memcpy(&map->nonce, row.mv_data, sizeof map->nonce);
    if (rc == 0 && info.me_mapsize != map->size)
        rc = MDB_INVALID;
    if (rc == 0)
        rc = map_find_base(map, row.mv_data);
out:
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return rc;
}

/* Open the environment on a checked path and make sure that it works. */
static freshet_result map_open_env(struct map *map, const char *path, const char *lock_path, bool *ret_damaged)
{
    struct stat st;
    freshet_result result;
    bool again;
    int rc;

    if ((rc = map_env_open(map, path)) != 0)
        goto failed;
    if ((result = map_note_fds(map, path, lock_path)) != FRESHET_OK ||
        (result = map_check_trees(map, path, ret_damaged)) != FRESHET_OK)
        return result;
    if ((rc = map_purge_namesakes(map, path, &again)) != 0)
        goto failed;
    if (again && (result = map_note_fds(map, path, lock_path)) != FRESHET_OK)
        return result;
    /* Sparse: takes no memory, but no page of the mapping is beyond the end any more. */
    if (fstat(map->fds[FD_DATA], &st) != 0 ||
        ((uint64_t)st.st_size < map->size && ftruncate(map->fds[FD_DATA], (off_t)map->size) != 0))
        return fail(errno == ENOSPC ? FRESHET_ENOSPC : FRESHET_EIO, "%s: cannot give it %llu bytes: %s", path,
                    (unsigned long long)map->size, strerror(errno));
    rc = map_probe(map);
    if (rc == MDB_NOTFOUND && (rc = map_name(map)) == 0)
        rc = map_probe(map);
    if (rc == 0)
        return FRESHET_OK;
failed:
    if (rc == EAGAIN)
        return fail(FRESHET_EIO,
                    "%s: a process with this one's id uses it: give the containers that share it one PID namespace",
                    path);
    *ret_damaged = rc == MDB_INVALID || rc == MDB_VERSION_MISMATCH || rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND ||
                   rc == MDB_INCOMPATIBLE;
    return map_result(map, rc, "opening the map");
}

freshet_result map_open(struct map **ret_map, const char *dir_path, uint64_t generation, uint64_t size,
                        bool *ret_damaged)
{
    struct map *map = NULL;
    char *path = NULL, *lock_path = NULL;
    freshet_result result = FRESHET_ENOMEM;

    *ret_damaged = false;
    if (sysconf(_SC_PAGESIZE) != MAP_PAGE)
        return fail(FRESHET_EIO, "this machine's pages have %ld bytes; the tier's layout needs pages of %u",
                    sysconf(_SC_PAGESIZE), MAP_PAGE);
    if (asprintf(&path, "%s/map-%016llx", dir_path, (unsigned long long)generation) < 0)
        path = NULL;
    if (!path || asprintf(&lock_path, "%s-lock", path) < 0)
        lock_path = NULL;
    if (lock_path)
        map = aligned_alloc(_Alignof(struct map), sizeof *map);
    if (!map) {
        fail(FRESHET_ENOMEM, "no memory to open the map in %s", dir_path);
        goto out;
    }
    memset(map, 0, sizeof *map);
    map->size = size - size % MAP_PAGE;
    map->generation = generation;
    map->fds[FD_DATA] = map->fds[FD_META] = map->fds[FD_LOCK] = -1;
    map_unlink_condemned(path, lock_path, generation);
    result = map_check_file(path, lock_path, map->size, ret_damaged);
    if (result == FRESHET_OK)
        result = map_open_env(map, path, lock_path, ret_damaged);
    if (result == FRESHET_OK) {
        *ret_map = map;
    } else {
        mdb_env_close(map->env);
        free(map);
    }
out:
    free(path);
    free(lock_path);
    return result;
}

/* Forget a reader that was taken, whatever becomes of its transaction. */
static void reader_forget(struct map_reader *reader)
{
    if (reader->slot)
        atomic_store_explicit(&reader->slot->reader, NULL, memory_order_relaxed);
    free(reader);
}

static void reader_free(struct map_reader *reader)
{
    MDB_txn *txn = reader->txn;

    reader_forget(reader);
    mdb_txn_abort(txn);
}

void map_close(struct map *map)
{
    bool unlinked = false;

    if (!map)
        return;
    if (!map_owns_descriptors(map, &unlinked)) { /* closing would close somebody else's */
        map_abandon(map);
        return;
    }
    for (unsigned i = 0; i < MAP_SLOTS; i++) {
        struct map_reader *reader = atomic_load(&map->pool[i].reader);

        if (reader && reader != &reader_away)
            reader_free(reader);
    }
    mdb_env_close(map->env);
    free(map);
}

void map_abandon(struct map *map)
{
    bool unlinked;

    if (!map)
        return;
    atomic_store_explicit(&map->failed, true, memory_order_release);
    for (int i = 0; i < FD_COUNT; i++) {
        if (fd_is(map->fds[i], &map->files[i], &unlinked))
            close(map->fds[i]);
        map->fds[i] = -1;
    }
}

int map_reader_check(struct map *map)
{
    int dead = 0;

    /* Asked through a descriptor that is not the lock file any more, the kernel would call every reader dead. */
    if (!map_intact(map) || mdb_reader_check(map->env, &dead) != 0)
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
        reader_thread = atomic_fetch_add_explicit(&reader_threads, 1, memory_order_relaxed) % MAP_SLOTS + 1;
    return reader_thread - 1;
}

static inline struct map_reader *pool_take(struct map *map, unsigned tries)
{
    unsigned home = reader_home();

    for (unsigned i = 0; i < tries; i++) {
        struct map_slot *slot = &map->pool[(home + i) % MAP_SLOTS];
        struct map_reader *reader = atomic_load_explicit(&slot->reader, memory_order_relaxed);

        if (reader && reader != &reader_away &&
            atomic_compare_exchange_strong_explicit(&slot->reader, &reader, &reader_away, memory_order_acquire,
                                                    memory_order_relaxed))
            return reader;
    }
    return NULL;
}

/* A place for a new reader; where there is none, end it. */
static __attribute__((noinline)) void pool_settle(struct map *map, struct map_reader *reader)
{
    unsigned home = reader_home();

    for (unsigned i = 0; i < POOL_TRIES; i++) {
        struct map_reader *none = NULL;

        reader->slot = &map->pool[(home + i) % MAP_SLOTS];
        if (atomic_compare_exchange_strong_explicit(&reader->slot->reader, &none, reader, memory_order_release,
                                                    memory_order_relaxed))
            return;
    }
    reader->slot = NULL;
    reader_free(reader);
}

/* Keep a reset transaction for the next one.  Its place was kept for it, so it goes back without asking. */
static inline void pool_give(struct map *map, struct map_reader *reader)
{
    if (__builtin_expect(reader->slot != NULL, 1))
        atomic_store_explicit(&reader->slot->reader, reader, memory_order_release);
    else
        pool_settle(map, reader);
}

/* A transaction of one's own; when LMDB's table is full, after clearing out the dead, one of anybody's. */
static freshet_result reader_begin(struct map *map, struct map_reader **ret_reader)
{
    struct map_reader *reader = calloc(1, sizeof *reader);
    int rc;

    if (!reader)
        return fail(FRESHET_ENOMEM, "no memory to read the map");
    rc = mdb_txn_begin(map->env, NULL, MDB_RDONLY, &reader->txn);
    if (rc == MDB_READERS_FULL && map_reader_check(map) > 0)
        rc = mdb_txn_begin(map->env, NULL, MDB_RDONLY, &reader->txn);
    if (rc == 0) {
        *ret_reader = reader;
        return FRESHET_OK;
    }
    free(reader);
    if (rc == MDB_READERS_FULL && (reader = pool_take(map, MAP_SLOTS))) {
        if ((rc = mdb_txn_renew(reader->txn)) == 0) {
            *ret_reader = reader;
            return FRESHET_OK;
        }
        reader_free(reader);
    }
    return map_result(map, rc, "beginning to read");
}

/* A pooled transaction would not go on.  A slot that is not ours any more must not be written to, as ending the
 * transaction would: that little memory is left. */
static freshet_result reader_refused(struct map *map, struct map_reader *reader, int rc,
                                     struct map_reader **ret_reader)
{
    if (rc == MDB_BAD_RSLOT)
        reader_forget(reader);
    else
        reader_free(reader);
    if (rc == MDB_BAD_RSLOT && !map_intact(map))
        return map_result(map, rc, "going on reading");
    return reader_begin(map, ret_reader);
}

/* A snapshot of now. */
freshet_result map_enter(struct map *map, struct map_reader **ret_reader)
{
    struct map_reader *reader;
    int rc;

    if (__builtin_expect(atomic_load_explicit(&map->failed, memory_order_relaxed), 0))
        return fail(FRESHET_EIO, "the map has failed and waits to be opened again");
    reader = pool_take(map, POOL_TRIES);
    if (!reader)
        return reader_begin(map, ret_reader);
    if (__builtin_expect((rc = mdb_txn_renew(reader->txn)) != 0, 0))
        return reader_refused(map, reader, rc, ret_reader);
    *ret_reader = reader;
    return FRESHET_OK;
}

void map_leave(struct map *map, struct map_reader *reader)
{
    mdb_txn_reset(reader->txn);
    pool_give(map, reader);
}

/* ---- the writer ---- */

freshet_result map_begin(struct map *map, MDB_txn **ret_txn)
{
    int rc;

    if (!map_intact(map)) {
        map_fail(map, false);
        return fail(FRESHET_EIO, "the map's descriptors are not ours any more");
    }
    rc = mdb_txn_begin(map->env, NULL, 0, ret_txn);
    if (rc == EINVAL) {
        /* LMDB 0.9.26 to 0.9.31 destroy the shared mutex at a close that meets an open (ITS#10095).  As long as anybody
         * has the lock file open nobody makes the mutex anew, so only new files help. */
        map_fail(map, true);
    }
    return rc == 0 ? FRESHET_OK : map_result(map, rc, "beginning to write");
}

int map_touch(struct map *map, MDB_txn *txn)
{
    MDB_val key = {sizeof nonce_key, (void *)(uintptr_t)nonce_key}, row = {sizeof map->nonce, &map->nonce};

    return mdb_put(txn, map->dbi, &key, &row, 0);
}

bool map_row_fits(const struct map *map, const void *row)
{
    const uint8_t *page = (const uint8_t *)row - MAP_HEAD;
    uint64_t at = (uint64_t)(page - map->base);

    /* One of the transaction's own lies elsewhere, in memory that nobody else writes. */
    return (uintptr_t)page < (uintptr_t)map->base || at >= map->size ||
           (bytes_get64(page) == at / MAP_PAGE && bytes_get64(page + 8) >> 16 == ROW_HEAD);
}

freshet_result map_commit(struct map *map, MDB_txn *txn)
{
    int rc;

    if (!map_intact(map)) { /* LMDB would write to whatever has the descriptor's number now */
        map_fail(map, false);
        mdb_txn_abort(txn);
        return fail(FRESHET_EIO, "the map's descriptors are not ours any more");
    }
    rc = mdb_txn_commit(txn);
    if (rc == EIO) /* a short write: what a full tmpfs looks like to LMDB */
        rc = ENOSPC;
    return map_result(map, rc, "committing");
}

/* ---- how full ---- */

/* Both meta pages and both trees.  What is neither in use nor beyond the last page ever used stands in the free list;
 * of that, pages freed by the last commit or since the oldest reader's snapshot cannot be had yet, which this figure
 * does not show: the writer's high-water mark leaves room for them. */
uint64_t map_pages_used(const struct map *map, MDB_txn *txn, uint64_t *ret_rows)
{
    MDB_stat rows = {0}, list = {0};

    (void)mdb_stat(txn, map->dbi, &rows);
    (void)mdb_stat(txn, FREE_DBI_, &list);
    *ret_rows = rows.ms_entries;
    return 2 + rows.ms_branch_pages + rows.ms_leaf_pages + rows.ms_overflow_pages + list.ms_branch_pages +
           list.ms_leaf_pages + list.ms_overflow_pages;
}

uint32_t map_readers(struct map *map)
{
    struct slot_count count = {0};

    (void)mdb_reader_list(map->env, map_count_slot, &count);
    return count.all;
}

/* ---- memory ---- */

uint64_t map_held(const struct map *map)
{
    struct stat st;

    /* A file that cannot be asked is taken for whole: then nothing is written. */
    if (fstat(map->fds[FD_DATA], &st) != 0 || st.st_ino != map->files[FD_DATA].ino)
        return map->size / MAP_PAGE;
    return ((uint64_t)st.st_blocks * 512 + MAP_PAGE - 1) / MAP_PAGE;
}

uint64_t map_pages_free(const struct map *map, MDB_txn *txn)
{
    uint64_t rows, used = map_pages_used(map, txn, &rows);
    MDB_envinfo info;

    if (mdb_env_info(map->env, &info) != 0 || info.me_last_pgno + 1 < used)
        return 0;
    return info.me_last_pgno + 1 - used;
}

/* A line of mdb_reader_list: is its snapshot older? */
static int reader_oldest(const char *line, void *arg)
{
    uint64_t *oldest = arg;
    long pid;
    char txn[24];

    if (sscanf(line, "%ld %*s %23s", &pid, txn) == 2 && pid > 0 && txn[0] >= '0' && txn[0] <= '9') {
        uint64_t seen = strtoull(txn, NULL, 10);

        if (seen < *oldest)
            *oldest = seen;
    }
    return 0;
}

/* Giving back: the file, and how much is still to be given. */
struct giving {
    int fd;
    uint64_t pages, calls, last; /* the last page of the map */
    int64_t until_ns;
    bool failed; /* or over */
};

/* A run of free pages: punch out as much of its end as is wanted.  What has no memory is skipped. */
static void give_run(struct giving *giving, uint64_t from, uint64_t to)
{
    off_t data;
    int rc;

    if (giving->pages == 0 || giving->failed)
        return;
    if (to + 1 - from > giving->pages)
        from = to + 1 - giving->pages;
    giving->calls++;
    /* LMDB sets the place itself before it writes there. */
    data = lseek(giving->fd, (off_t)(from * MAP_PAGE), SEEK_DATA);
    if (data < 0 || (uint64_t)data >= (to + 1) * MAP_PAGE)
        return;
    if ((uint64_t)data / MAP_PAGE > from)
        from = (uint64_t)data / MAP_PAGE;
    do
        rc = fallocate(giving->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(from * MAP_PAGE),
                       (off_t)((to + 1 - from) * MAP_PAGE));
    while (rc != 0 && errno == EINTR);
    giving->failed = rc != 0 || clock_boot_ns() >= giving->until_ns;
    if (rc == 0)
        giving->pages -= to + 1 - from;
}

/* A record of the free list: a count, and as many numbers of pages, falling. */
static void give_record(struct giving *giving, const MDB_val *row)
{
    const uint8_t *bytes = row->mv_data;
    uint64_t count, from = 0, to = 0, page;

    if (row->mv_size < sizeof count)
        return;
    memcpy(&count, bytes, sizeof count);
    if (count > row->mv_size / sizeof count - 1)
        return;
    for (uint64_t i = 1; i <= count && giving->pages > 0 && giving->calls < GIVE_CALLS; i++) {
        memcpy(&page, bytes + i * sizeof page, sizeof page);
        if (page < 2 || page > giving->last)
            return;
        if (from && page + 1 == from) {
            from = page;
            continue;
        }
        if (from)
            give_run(giving, from, to);
        from = to = page;
    }
    if (from && giving->calls < GIVE_CALLS)
        give_run(giving, from, to);
}

/* LMDB may write over a page that transaction t has freed as soon as t is below every snapshot, its own being the
 * last commit.  That is what is given back here, under the same lock: whatever may look at such a page must be ready
 * for it to be written over now, and so it is for zeros.  (But on a tmpfs that is full a look at a page that was given
 * back is SIGBUS; so where pages are given back readers hold a snapshot too, tier_will_give.)  LMDB itself never reads
 * a free page: it makes a new one in memory, and writes it whole.  A transaction takes from the free list when it first
 * needs a page, so one that has written nothing has taken nothing.  The list can be looked at in a snapshot only; that
 * of now is the same. */
void map_give_back(struct map *map, MDB_txn *txn, uint64_t pages)
{
    struct giving giving = {.fd = map->fds[FD_DATA],
                            .pages = pages,
                            .last = map->size / MAP_PAGE - 1,
                            .until_ns = clock_boot_ns() + GIVE_NS};
    uint64_t oldest = mdb_txn_id(txn) - 1, freed;
    struct map_reader *reader;
    MDB_cursor *cursor;
    MDB_val key, row;
    int rc;

    if (!map_intact(map) || map_enter(map, &reader) != FRESHET_OK)
        return;
    if (mdb_reader_list(map->env, reader_oldest, &oldest) >= 0 && mdb_txn_id(reader->txn) + 1 == mdb_txn_id(txn) &&
        mdb_cursor_open(reader->txn, FREE_DBI_, &cursor) == 0) {
        rc = mdb_cursor_get(cursor, &key, &row, MDB_LAST);
        for (; rc == 0 && giving.pages > 0 && !giving.failed && giving.calls < GIVE_CALLS;
             rc = mdb_cursor_get(cursor, &key, &row, MDB_PREV)) {
            if (key.mv_size != sizeof freed)
                break;
            memcpy(&freed, key.mv_data, sizeof freed);
            if (freed < oldest)
                give_record(&giving, &row);
        }
        mdb_cursor_close(cursor);
    }
    map_leave(map, reader);
}
