/*
 * dir.c - the tier's directory: opened once, by descriptor, and never by a name that somebody could have swapped since.
 *
 * Whoever can write into the directory can feed every process that serves from it, so it must be this user's alone.  A
 * symbolic link in its place is refused even when it leads to a good one: in /dev/shm anybody may have laid it.
 *
 * Bytes of the file `lock`: 0 the right to rearrange, 1 shared by whoever is in, and from 1024 on one for each that is
 * in, at its process id (a second open of the same process a whole range of ids further), for counting alone.  A lock
 * of a descriptor that nobody unlocks ends when the last copy of the descriptor is closed, in a forked child too.
 */
#include <dir.h>

#include <clock.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <log.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DIR_DEFAULT_PARENT "/dev/shm/freshet-"
#define DIR_LOCK "lock"
#define DIR_ASIDE "aside"
#define DIR_PAGE "control"
#define DIR_DEPTH 16 /* of what is removed from `aside` */

#define LOCK_TURN 0
#define LOCK_USED 1
#define LOCK_COUNT 1024
#define LOCK_RANGE (1 << 22) /* process ids, at most */
#define LOCK_RANGES 8
#define LOCK_COUNT_END (LOCK_COUNT + (off_t)LOCK_RANGE * LOCK_RANGES)

/* ---- opening ---- */

/* Is the directory behind `fd` fit? */
static freshet_result dir_check(int fd, const char *shown, struct stat *ret_st)
{
    if (fstat(fd, ret_st) != 0)
        return fail(FRESHET_EDIR, "%s cannot be examined: %s", shown, strerror(errno));
    if (ret_st->st_uid != geteuid())
        return fail(FRESHET_EDIR, "%s belongs to user %u, not to user %u who opens it: name another directory, or "
                    "chown this one", shown, (unsigned)ret_st->st_uid, (unsigned)geteuid());
    if (ret_st->st_mode & 077)
        return fail(FRESHET_EDIR, "%s is open to others than its owner (mode %04o): chmod 700 it, or name another "
                    "directory", shown, (unsigned)ret_st->st_mode & 07777);
    return FRESHET_OK;
}

/* Why can `name` not be opened? */
static freshet_result dir_open_failed(int at, const char *name, const char *shown, int error)
{
    struct stat st;

    if (error == EMFILE || error == ENFILE || error == ENOMEM)
        return fail(FRESHET_EIO, "%s cannot be opened: %s", shown, strerror(error));
    if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        if (S_ISLNK(st.st_mode))
            return fail(FRESHET_EDIR, "%s is a symbolic link, which is never followed: name the directory itself",
                        shown);
        if (!S_ISDIR(st.st_mode))
            return fail(FRESHET_EDIR, "%s is not a directory (mode %06o): move it away, or name another", shown,
                        (unsigned)st.st_mode);
        return fail(FRESHET_EDIR, "%s (user %u, mode %04o) cannot be opened by user %u: %s", shown, (unsigned)st.st_uid,
                    (unsigned)st.st_mode & 07777, (unsigned)geteuid(), strerror(error));
    }
    return fail(FRESHET_EDIR, "%s cannot be opened: %s", shown, strerror(error));
}

/* Open the directory `name` in `at`, making it when absent.  `shown`: its path, for people. */
static freshet_result dir_open_at(int at, const char *name, const char *shown, int *ret_fd, struct stat *ret_st)
{
    freshet_result result;
    bool made = mkdirat(at, name, 0700) == 0;
    int fd;

    if (!made && errno != EEXIST) {
        if (errno == ENOSPC || errno == EDQUOT)
            return fail(FRESHET_ENOSPC, "%s cannot be made: %s", shown, strerror(errno));
        return fail(FRESHET_EDIR, "%s cannot be made: %s%s", shown, strerror(errno),
                    errno == ENOENT ? " (only the last part of a path is created)" : "");
    }
    fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return dir_open_failed(at, name, shown, errno);
    if (made)
        (void)fchmod(fd, 0700); /* whatever a default ACL has added */
    if ((result = dir_check(fd, shown, ret_st)) != FRESHET_OK) {
        close(fd);
        return result;
    }
    *ret_fd = fd;
    return FRESHET_OK;
}

/* Open the default directory: two levels, both ours.  dir->path is set. */
static freshet_result dir_open_default(struct dir *dir, const char *name, struct stat *ret_st)
{
    char parent[64];
    size_t size = sizeof parent + strlen(name) + 1;
    freshet_result result;
    int fd;

    (void)snprintf(parent, sizeof parent, DIR_DEFAULT_PARENT "%u", (unsigned)geteuid());
    if (!(dir->path = malloc(size)))
        return fail(FRESHET_ENOMEM, "no memory to open %s/%s", parent, name);
    (void)snprintf(dir->path, size, "%s/%s", parent, name);
    if ((result = dir_open_at(AT_FDCWD, parent, parent, &fd, ret_st)) != FRESHET_OK)
        return result;
    result = dir_open_at(fd, name, dir->path, &dir->fd, ret_st);
    close(fd);
    return result;
}

/* Open the directory that the caller has named.  dir->path is set. */
static freshet_result dir_open_named(struct dir *dir, const char *path, struct stat *ret_st)
{
    size_t size = strlen(path);

    while (size > 1 && path[size - 1] == '/') /* a slash at the end would follow a link */
        size--;
    if (size == 0)
        return fail(FRESHET_EDIR, "the directory's path is empty");
    if (!(dir->path = strndup(path, size)))
        return fail(FRESHET_ENOMEM, "no memory to open %s", path);
    return dir_open_at(AT_FDCWD, dir->path, dir->path, &dir->fd, ret_st);
}

/* Open the lock file, making it when absent.  It is never removed: a lock on a removed file is nobody's. */
static freshet_result dir_open_lock(struct dir *dir)
{
    struct stat st;

    dir->lock_fd = openat(dir->fd, DIR_LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
    if (dir->lock_fd < 0) {
        if (errno == ENOSPC || errno == EDQUOT)
            return fail(FRESHET_ENOSPC, "%s/" DIR_LOCK " cannot be made: %s", dir->path, strerror(errno));
        return fail(errno == EMFILE || errno == ENFILE || errno == ENOMEM ? FRESHET_EIO : FRESHET_EDIR,
                    "%s/" DIR_LOCK " cannot be opened: %s", dir->path, strerror(errno));
    }
    if (fstat(dir->lock_fd, &st) != 0)
        return fail(FRESHET_EDIR, "%s/" DIR_LOCK " cannot be examined: %s", dir->path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
        return fail(FRESHET_EDIR, "%s/" DIR_LOCK " (user %u, mode %06o) is not a plain file of user %u alone: "
                    "remove it", dir->path, (unsigned)st.st_uid, (unsigned)st.st_mode, (unsigned)geteuid());
    dir->lock_ino = st.st_ino;
    return FRESHET_OK;
}

freshet_result dir_open(struct dir *dir, const char *path, const char *name)
{
    struct stat st;
    freshet_result result;

    *dir = (struct dir){.fd = -1, .lock_fd = -1};
    result = path ? dir_open_named(dir, path, &st) : dir_open_default(dir, name, &st);
    if (result == FRESHET_OK) {
        dir->dev = st.st_dev;
        dir->ino = st.st_ino;
        result = dir_open_lock(dir);
    }
    if (result == FRESHET_OK)
        return FRESHET_OK;
    if (dir->lock_fd >= 0)
        close(dir->lock_fd);
    if (dir->fd >= 0)
        close(dir->fd);
    free(dir->path);
    *dir = (struct dir){.fd = -1, .lock_fd = -1};
    return result;
}

/* ---- closing ---- */

/* Is this descriptor still the file that we opened?  A host program may have closed it, and its number may be
 * another's. */
static bool dir_still(int fd, dev_t dev, ino_t ino)
{
    struct stat st;

    return fd >= 0 && ino != 0 && fstat(fd, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

bool dir_intact(const struct dir *dir)
{
    return dir_still(dir->fd, dir->dev, dir->ino) && dir_still(dir->lock_fd, dir->dev, dir->lock_ino);
}

ino_t dir_page(const struct dir *dir)
{
    struct stat st;

    return fstatat(dir->fd, DIR_PAGE, &st, AT_SYMLINK_NOFOLLOW) == 0 ? st.st_ino : 0;
}

void dir_abandon(struct dir *dir)
{
    if (dir_still(dir->lock_fd, dir->dev, dir->lock_ino))
        close(dir->lock_fd);
    if (dir_still(dir->fd, dir->dev, dir->ino))
        close(dir->fd);
    dir->fd = dir->lock_fd = -1;
}

void dir_close(struct dir *dir)
{
    dir_leave(dir);
    dir_unlock(dir);
    dir_abandon(dir);
    free(dir->path);
    *dir = (struct dir){.fd = -1, .lock_fd = -1};
}

/* ---- locks ---- */

/* Set a lock of ours on some bytes (F_RDLCK, F_WRLCK, F_UNLCK) without waiting; 0 or an errno, EAGAIN: taken. */
static int dir_set(const struct dir *dir, short type, off_t start, off_t size)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = size};

    if (!dir_still(dir->lock_fd, dir->dev, dir->lock_ino))
        return EBADF;
    while (fcntl(dir->lock_fd, F_OFD_SETLK, &lock) != 0)
        if (errno != EINTR)
            return errno == EACCES ? EAGAIN : errno;
    return 0;
}

/* Does somebody else hold a lock on these bytes?  Some one of them, at *ret_at. */
static bool dir_held(const struct dir *dir, off_t start, off_t size, off_t *ret_at)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = size};

    if (!dir_still(dir->lock_fd, dir->dev, dir->lock_ino) || fcntl(dir->lock_fd, F_OFD_GETLK, &lock) != 0 ||
        lock.l_type == F_UNLCK)
        return false;
    *ret_at = lock.l_start < start ? start : lock.l_start;
    return true;
}

freshet_result dir_lock(struct dir *dir, int64_t deadline_ns)
{
    long pause_ns = 100000;
    int error;

    while ((error = dir_set(dir, F_WRLCK, LOCK_TURN, 1)) == EAGAIN) {
        int64_t left_ns = deadline_ns - clock_boot_ns();

        if (left_ns <= 0)
            return fail(FRESHET_EBUSY, "%s is being opened or closed by another process, which does not get done: "
                        "is it stopped?", dir->path);
        if (left_ns > pause_ns)
            left_ns = pause_ns;
        (void)nanosleep(&(struct timespec){.tv_nsec = (long)left_ns}, NULL);
        pause_ns = pause_ns < 2500000 ? pause_ns * 2 : 5000000;
    }
    if (error)
        return fail(FRESHET_EIO, "%s cannot be locked: %s", dir->path, strerror(error));
    return FRESHET_OK;
}

void dir_unlock(struct dir *dir)
{
    (void)dir_set(dir, F_UNLCK, LOCK_TURN, 1);
}

freshet_result dir_enter(struct dir *dir)
{
    off_t at = LOCK_COUNT + (off_t)(getpid() & (LOCK_RANGE - 1));
    int error = dir_set(dir, F_RDLCK, LOCK_USED, 1);

    if (error)
        return fail(FRESHET_EIO, "%s cannot be entered: %s", dir->path, strerror(error));
    for (int range = 0; range < LOCK_RANGES; range++, at += LOCK_RANGE)
        if (dir_set(dir, F_WRLCK, at, 1) != EAGAIN)
            break; /* one that finds no byte to be counted by is in all the same */
    return FRESHET_OK;
}

void dir_leave(struct dir *dir)
{
    (void)dir_set(dir, F_UNLCK, LOCK_COUNT, LOCK_COUNT_END - LOCK_COUNT);
    (void)dir_set(dir, F_UNLCK, LOCK_USED, 1);
}

bool dir_used(struct dir *dir)
{
    off_t at;

    return dir_held(dir, LOCK_USED, 1, &at);
}

/* Count the others' bytes in [start, end): the system shows any one, so look to both sides of it.  Each takes one byte,
 * and no more are counted than could be. */
static uint32_t dir_count_range(const struct dir *dir, off_t start, off_t end, uint32_t most)
{
    uint32_t found = 0;
    off_t at;

    while (found < most && start < end && dir_held(dir, start, end - start, &at)) {
        found++;
        found += dir_count_range(dir, start, at, most - found);
        start = at + 1;
    }
    return found;
}

uint32_t dir_count(struct dir *dir)
{
    return dir_count_range(dir, LOCK_COUNT, LOCK_COUNT_END, 4096) + 1;
}

/* ---- setting aside ---- */

static bool dir_is_dot(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* Remove what is in the directory behind `fd`, which is closed.  What resists stays. */
static void dir_empty(int fd, int depth)
{
    DIR *listing = fdopendir(fd);
    struct dirent *entry;
    int inner;

    if (!listing) {
        close(fd);
        return;
    }
    while ((entry = readdir(listing))) {
        if (dir_is_dot(entry->d_name) || unlinkat(fd, entry->d_name, 0) == 0)
            continue;
        inner = depth > 0 ? openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        if (inner >= 0)
            dir_empty(inner, depth - 1);
        (void)unlinkat(fd, entry->d_name, AT_REMOVEDIR);
    }
    closedir(listing);
}

/* Open `aside`, empty.  Anything else in its place is removed, never followed. */
static freshet_result dir_open_aside(struct dir *dir, int *ret_fd)
{
    char shown[512];
    struct stat st;
    freshet_result result;
    int fd;

    (void)snprintf(shown, sizeof shown, "%s/" DIR_ASIDE, dir->path);
    (void)unlinkat(dir->fd, DIR_ASIDE, 0); /* does nothing to a directory */
    if ((result = dir_open_at(dir->fd, DIR_ASIDE, shown, &fd, &st)) != FRESHET_OK)
        return result;
    *ret_fd = fd;
    fd = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        dir_empty(fd, DIR_DEPTH);
    return FRESHET_OK;
}

/* Is this one of the tier's files, or of its map's alone? */
static bool dir_is_tiers(const char *name, bool map_only)
{
    if (strncmp(name, "map", 3) == 0)
        return true;
    return !map_only && (strncmp(name, "control", 7) == 0 || strncmp(name, "outbox", 6) == 0);
}

/* Move one file; where it cannot go, it is removed: a new tier must not find it. */
static freshet_result dir_move(const struct dir *dir, int aside, const char *name)
{
    if (renameat(dir->fd, name, aside, name) == 0 || errno == ENOENT)
        return FRESHET_OK;
    if (unlinkat(dir->fd, name, 0) == 0)
        return FRESHET_OK;
    return fail(FRESHET_EIO, "%s/%s can be neither set aside nor removed: %s", dir->path, name, strerror(errno));
}

/* Move what the listing shows; *ret_moved tells how many. */
static freshet_result dir_move_listed(const struct dir *dir, int aside, DIR *listing, bool map_only,
                                      unsigned *ret_moved)
{
    freshet_result result = FRESHET_OK;
    struct dirent *entry;

    *ret_moved = 0;
    while (result == FRESHET_OK && (entry = readdir(listing)))
        if (dir_is_tiers(entry->d_name, map_only)) {
            result = dir_move(dir, aside, entry->d_name);
            ++*ret_moved;
        }
    return result;
}

static freshet_result dir_set_files_aside(struct dir *dir, bool map_only)
{
    freshet_result result;
    unsigned moved;
    DIR *listing;
    int aside, fd;

    if ((result = dir_open_aside(dir, &aside)) != FRESHET_OK)
        return result;
    fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a place in the listing of its own */
    if (fd < 0 || !(listing = fdopendir(fd))) {
        result = fail(FRESHET_EIO, "%s cannot be listed: %s", dir->path, strerror(errno));
        if (fd >= 0)
            close(fd);
        close(aside);
        return result;
    }
    /* A listing from which files go may skip some: again, until one finds none. */
    while ((result = dir_move_listed(dir, aside, listing, map_only, &moved)) == FRESHET_OK && moved > 0)
        rewinddir(listing);
    closedir(listing);
    close(aside);
    return result;
}

freshet_result dir_set_aside(struct dir *dir)
{
    return dir_set_files_aside(dir, false);
}

freshet_result dir_set_map_aside(struct dir *dir)
{
    return dir_set_files_aside(dir, true);
}
