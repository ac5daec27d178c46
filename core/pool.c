/*
 * pool.c - the pool's file, its lock, and who gets what.
 * Beside control.c; host.c opens it, writer.c asks and gives.
 *
 *     head, 512 bytes | slots of 448 bytes
 *
 * The file is made whole under another name and then given its own, and believed in nothing before it was checked, as
 * a control page is.  Slots are changed under the pool's lock only (the directory's, dir.h), with two exceptions that
 * are the owner's alone: what it could spare, and when it was last alive.
 *
 * Besides, each process of a cache holds a lock on the slot's byte of the file `lock`, for as long as it is in.  It
 * ends with the process.  A slot that nobody holds keeps its share, since the cache's files keep their memory, until
 * the cache's directory is gone; whoever needs room sees to that.  A directory that cannot be seen from here, being of
 * another mount namespace, is never taken for gone.
 */
#include <pool.h>

#include <bytes.h>
#include <clock.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <log.h>
#include <step.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define POOL_MAGIC 0x314c4f4f50465246u /* "FRFPOOL1" */
#define POOL_FORMAT 1u
#define POOL_K0 0x6c6f72746e6f4346u /* "FControl" */
#define POOL_K1 0x314c4f4f50465246u
#define POOL_FILE "pool"
#define POOL_FILE_NEW "pool.new"
#define POOL_PROBE "map-probe" /* goes with the map's files, should its maker die */
#define PROBE_PAGES 1024u
#define POOL_HEAD 512u
#define POOL_CHECKED (POOL_HEAD - 16u)
#define POOL_BOOT_ID 36u
#define LOCK_SLOT ((off_t)1 << 40) /* behind dir.c's bytes */
#define LOCK_WAIT_NS (20 * CLOCK_NS_PER_MS) /* of a writer: what it wants can wait for the next second; */
#define GIVE_WAIT_NS (2 * CLOCK_NS_PER_MS)  /* and what it gives, since it has the tier's writer lock then */
#define ALIVE_NS (3 * CLOCK_NS_PER_S)
#define REAP_EVERY_NS (5 * CLOCK_NS_PER_S)
#define JOIN_PAUSE_NS 2000000
#define STEP_SHARE 256u /* of the pool is asked for at a time */
#define STEP_LEAST 32u  /* pages */
#define SEEN_LEAST 8u   /* keys that came back make it worth asking, ... */
#define EARNED_STEPS 2u /* ... and for so much more */
#define WANT_SHARE 8u   /* of the pool is wanted at a time, at most: it may take a second until it is given */
#define DECAY 16u       /* by each asking all earnings lose one part in so many */
#define EARN_MOST (UINT64_C(1) << 40)
#define SETTLE_PART 64u  /* one page in so many, and so many pages, are left to a cache without a process beside what */
#define SETTLE_PAGES 64u /* its files hold: a disk's file system may yet count more for them */
#define MORE_NUM 3u /* who asks must earn more than 3/2 of the other, or both would take turns in taking */
#define MORE_DEN 2u

struct pool_slot {
    _Alignas(64) _Atomic uint64_t taken; /* 0: by nobody */
    _Atomic uint64_t dev, ino, mount;    /* the cache's directory, and the mount namespace from which its path is */
    _Atomic uint64_t minimum, most;
    _Atomic uint64_t share, target; /* target < share: to be lowered */
    _Alignas(64) _Atomic uint64_t earned;
    _Atomic uint64_t want, wanted_ns;
    _Alignas(64) _Atomic uint64_t spare;
    _Atomic uint64_t floor, alive_ns;
    char path[CONTROL_POOL_PATH];
};

struct pool_page {
    uint8_t head[POOL_HEAD];
    struct pool_slot slots[POOL_SLOTS];
};

_Static_assert(sizeof(struct pool_slot) == 448, "a part of the file's layout");

struct pool {
    struct dir dir;
    struct pool_page *page;
    uint64_t pages, nonce, mount;
    struct pool_slot *slot; /* NULL: not joined */
    uint64_t hits, seen;    /* earned and not told yet */
    int64_t reaped_ns;
    char path[CONTROL_POOL_PATH];
};

/* ---- the head ---- */

/*     0 magic u64 | 8 format u32 | 12 slots u32 | 16 pages u64 | 24 nonce u64 | 32 uid u32 | 40 boot id, 36 | zeros |
 *     496 check, 16                                                        all numbers little-endian */
static void head_encode(uint8_t bytes[POOL_HEAD], uint64_t pages, uint64_t nonce, const char boot_id[POOL_BOOT_ID])
{
    memset(bytes, 0, POOL_HEAD);
    bytes_put64(bytes, POOL_MAGIC);
    bytes_put32(bytes + 8, POOL_FORMAT);
    bytes_put32(bytes + 12, POOL_SLOTS);
    bytes_put64(bytes + 16, pages);
    bytes_put64(bytes + 24, nonce);
    bytes_put32(bytes + 32, geteuid());
    memcpy(bytes + 40, boot_id, POOL_BOOT_ID);
    key_siphash128(POOL_K0, POOL_K1, bytes, POOL_CHECKED, bytes + POOL_CHECKED);
}

/* What is wrong with it, or NULL; *ret_other_boot: nothing but its age. */
static const char *head_doubt(const uint8_t bytes[POOL_HEAD], const char boot_id[POOL_BOOT_ID], bool *ret_other_boot)
{
    uint8_t check[16];
    uint64_t pages = bytes_get64(bytes + 16);

    *ret_other_boot = false;
    if (bytes_get64(bytes) != POOL_MAGIC)
        return "it is no pool of this library";
    if (bytes_get32(bytes + 8) != POOL_FORMAT || bytes_get32(bytes + 12) != POOL_SLOTS)
        return "it has another version's format";
    key_siphash128(POOL_K0, POOL_K1, bytes, POOL_CHECKED, check);
    if (memcmp(check, bytes + POOL_CHECKED, sizeof check) != 0)
        return "its head is damaged";
    if (bytes_get32(bytes + 32) != geteuid())
        return "it was made by another user";
    if (pages == 0 || pages > CONTROL_TIER_SIZE_MOST / POOL_PAGE || bytes_get64(bytes + 24) == 0)
        return "its numbers make no sense";
    *ret_other_boot = memcmp(bytes + 40, boot_id, POOL_BOOT_ID) != 0;
    return *ret_other_boot ? "it is of an earlier boot of this host" : NULL;
}

static bool boot_read(char ret_boot_id[POOL_BOOT_ID])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t got = -1;

    if (fd >= 0) {
        got = read(fd, ret_boot_id, POOL_BOOT_ID);
        close(fd);
    }
    return got == (ssize_t)POOL_BOOT_ID;
}

/* ---- the file ---- */

static freshet_result pool_failed(const struct pool *pool, const char *what)
{
    bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;

    return fail(full ? FRESHET_ENOSPC : FRESHET_EIO, "%s/" POOL_FILE " cannot be %s: %s", pool->path, what,
                strerror(errno));
}

/* Map the file behind `fd`, whose head was checked or is our own. */
static freshet_result pool_map(struct pool *pool, int fd, const uint8_t head[POOL_HEAD])
{
    void *page = mmap(NULL, sizeof *pool->page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (page == MAP_FAILED)
        return pool_failed(pool, "mapped");
    pool->page = page;
    pool->pages = bytes_get64(head + 16);
    pool->nonce = bytes_get64(head + 24);
    return FRESHET_OK;
}

/* Make the file: allocated in full and filled in under a temporary name. */
static freshet_result pool_create(struct pool *pool, uint64_t pages, const char boot_id[POOL_BOOT_ID])
{
    uint8_t head[POOL_HEAD];
    freshet_result result = FRESHET_OK;
    uint64_t nonce = 0;
    int fd;

    if (pages == 0)
        return fail(FRESHET_EINVAL, "there is no pool in %s yet: give pool_size", pool->path);
    if (getrandom(&nonce, sizeof nonce, GRND_NONBLOCK) != (ssize_t)sizeof nonce)
        return fail(FRESHET_EIO, "the system gives no random bytes: %s", strerror(errno));
    head_encode(head, pages, nonce | 1, boot_id);
    (void)unlinkat(pool->dir.fd, POOL_FILE_NEW, 0); /* of somebody who was killed right here */
    fd = openat(pool->dir.fd, POOL_FILE_NEW, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return pool_failed(pool, "made");
    if (fchmod(fd, 0600) != 0 || (errno = posix_fallocate(fd, 0, sizeof *pool->page)) != 0 ||
        pwrite(fd, head, sizeof head, 0) != (ssize_t)sizeof head)
        result = pool_failed(pool, "filled in");
    STEP("pool_written");
    if (result == FRESHET_OK && renameat(pool->dir.fd, POOL_FILE_NEW, pool->dir.fd, POOL_FILE) != 0)
        result = pool_failed(pool, "named");
    if (result == FRESHET_OK)
        result = pool_map(pool, fd, head);
    else
        (void)unlinkat(pool->dir.fd, POOL_FILE_NEW, 0);
    close(fd);
    return result;
}

/* Check the open file outside in; what is wrong with it, or NULL with *ret_head filled in. */
static const char *pool_doubt(int fd, const char boot_id[POOL_BOOT_ID], uint8_t ret_head[POOL_HEAD],
                              bool *ret_other_boot)
{
    struct stat st;

    *ret_other_boot = false;
    if (fstat(fd, &st) != 0)
        return strerror(errno);
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077) || st.st_nlink != 1)
        return "it is no plain file of this user alone";
    if (st.st_size != (off_t)sizeof(struct pool_page) || pread(fd, ret_head, POOL_HEAD, 0) != (ssize_t)POOL_HEAD)
        return "it has another size than a pool's";
    return head_doubt(ret_head, boot_id, ret_other_boot);
}

/* Under the lock: open the file, or make it. */
static freshet_result pool_open_locked(struct pool *pool, uint64_t pages)
{
    char boot_id[POOL_BOOT_ID];
    uint8_t head[POOL_HEAD];
    freshet_result result;
    const char *doubt;
    bool other_boot;
    int fd;

    if (!boot_read(boot_id))
        return fail(FRESHET_EIO, "/proc/sys/kernel/random/boot_id cannot be read: of which boot is this?");
    fd = openat(pool->dir.fd, POOL_FILE, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && errno == ENOENT)
        return pool_create(pool, pages, boot_id);
    if (fd < 0)
        return pool_failed(pool, "opened");
    doubt = pool_doubt(fd, boot_id, head, &other_boot);
    if (doubt && other_boot && !dir_used(&pool->dir)) {
        close(fd);
        return pool_create(pool, pages ? pages : bytes_get64(head + 16), boot_id);
    }
    if (doubt)
        result = fail(FRESHET_EDIR,
                      "%s/" POOL_FILE " cannot be used: %s.  End the processes of the pool's caches, then remove it "
                      "and their directories", pool->path, doubt);
    else if (pages && pages != bytes_get64(head + 16))
        result = fail(FRESHET_EBUSY,
                      "the pool in %s has %llu bytes, not %llu: give the same pool_size, or 0; for another remove it "
                      "and its caches' directories", pool->path,
                      (unsigned long long)(bytes_get64(head + 16) * POOL_PAGE),
                      (unsigned long long)(pages * POOL_PAGE));
    else
        result = pool_map(pool, fd, head);
    close(fd);
    return result;
}

/* The path that other processes will find it by. */
static freshet_result pool_name(struct pool *pool)
{
    char *path = realpath(pool->dir.path, NULL);
    freshet_result result = FRESHET_OK;

    if (!path)
        return fail(FRESHET_EDIR, "%s cannot be found by its path: %s", pool->dir.path, strerror(errno));
    if (strlen(path) >= sizeof pool->path)
        result = fail(FRESHET_EINVAL, "the pool's path has %zu bytes, at most %zu are possible: %s", strlen(path),
                      sizeof pool->path - 1, path);
    else
        strcpy(pool->path, path);
    free(path);
    return result;
}

static uint64_t mount_namespace(void)
{
    struct stat st, root;

    if (stat("/proc/self/ns/mnt", &st) != 0 || stat("/", &root) != 0)
        return 0;
    return st.st_ino ^ (uint64_t)root.st_ino << 32 ^ (uint64_t)root.st_dev << 16; /* and the root: there is chroot() */
}

freshet_result pool_open(struct pool **ret_pool, const char *path, uint64_t size, int64_t deadline_ns)
{
    struct pool *pool = calloc(1, sizeof *pool);
    freshet_result result;

    if (!pool)
        return fail(FRESHET_ENOMEM, "no memory to open the pool in %s", path);
    if ((result = dir_open(&pool->dir, path, NULL)) != FRESHET_OK) {
        free(pool);
        return result;
    }
    pool->mount = mount_namespace();
    if ((result = pool_name(pool)) == FRESHET_OK && (result = dir_lock(&pool->dir, deadline_ns)) == FRESHET_OK) {
        if ((result = pool_open_locked(pool, size / POOL_PAGE)) == FRESHET_OK)
            result = dir_enter(&pool->dir);
        dir_unlock(&pool->dir);
    }
    if (result == FRESHET_OK)
        *ret_pool = pool;
    else
        pool_close(pool);
    return result;
}

const char *pool_path(const struct pool *pool)
{
    return pool->path;
}

uint64_t pool_nonce(const struct pool *pool)
{
    return pool->nonce;
}

uint64_t pool_pages(const struct pool *pool)
{
    return pool->pages;
}

bool pool_is_at(const struct pool *pool, const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && st.st_dev == pool->dir.dev && st.st_ino == pool->dir.ino;
}

/* ---- words ---- */

/* A count of pages; anything may stand there. */
static uint64_t word_pages(const struct pool *pool, const _Atomic uint64_t *word)
{
    uint64_t pages = atomic_load_explicit(word, memory_order_acquire);

    return pages < pool->pages ? pages : pool->pages;
}

static void word_set(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t more(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static bool slot_taken(const struct pool_slot *slot)
{
    return atomic_load_explicit(&slot->taken, memory_order_acquire) != 0;
}

static uint64_t slot_share(const struct pool *pool, const struct pool_slot *slot)
{
    return word_pages(pool, &slot->share);
}

/* What it will have when it has given what it was asked for. */
static uint64_t slot_goal(const struct pool *pool, const struct pool_slot *slot)
{
    return less(word_pages(pool, &slot->target), slot_share(pool, slot));
}

static uint64_t slot_earned(const struct pool_slot *slot)
{
    return less(atomic_load_explicit(&slot->earned, memory_order_relaxed), EARN_MOST);
}

/* Has one of its processes said so lately? */
static bool slot_alive(const struct pool_slot *slot, int64_t now_ns)
{
    uint64_t alive_ns = atomic_load_explicit(&slot->alive_ns, memory_order_relaxed);

    return (uint64_t)now_ns + CLOCK_NS_PER_S - alive_ns < ALIVE_NS + CLOCK_NS_PER_S; /* nor in the future */
}

static bool slot_short(const struct pool *pool, const struct pool_slot *slot)
{
    return slot_share(pool, slot) < word_pages(pool, &slot->minimum);
}

/* What it wants and has not got. */
static uint64_t slot_want(const struct pool *pool, const struct pool_slot *slot, int64_t now_ns)
{
    uint64_t wanted_ns = atomic_load_explicit(&slot->wanted_ns, memory_order_relaxed);
    bool lately = (uint64_t)now_ns + CLOCK_NS_PER_S - wanted_ns < ALIVE_NS + CLOCK_NS_PER_S;

    return lately && slot_alive(slot, now_ns) ? word_pages(pool, &slot->want) : 0;
}

uint64_t pool_free(const struct pool *pool)
{
    uint64_t shares = 0;

    for (unsigned i = 0; i < POOL_SLOTS; i++)
        if (slot_taken(&pool->page->slots[i]))
            shares += slot_share(pool, &pool->page->slots[i]);
    return shares < pool->pages ? pool->pages - shares : 0;
}

uint64_t pool_share(const struct pool *pool)
{
    return slot_share(pool, pool->slot);
}

uint64_t pool_minimum(const struct pool *pool)
{
    return word_pages(pool, &pool->slot->minimum);
}

uint64_t pool_target(const struct pool *pool)
{
    return slot_goal(pool, pool->slot);
}

uint64_t pool_step(const struct pool *pool)
{
    return more(pool->pages / STEP_SHARE, STEP_LEAST);
}

/* ---- who is in ---- */

static off_t slot_byte(const struct pool *pool, const struct pool_slot *slot)
{
    return LOCK_SLOT + (slot - pool->page->slots);
}

/* Hold the slot for as long as this process lives. */
static freshet_result slot_hold(struct pool *pool, const struct pool_slot *slot, short type)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = slot_byte(pool, slot), .l_len = 1};

    if (!dir_intact(&pool->dir) || fcntl(pool->dir.lock_fd, F_OFD_SETLK, &lock) != 0)
        return fail(FRESHET_EIO, "%s cannot be entered: %s", pool->path, strerror(errno));
    return FRESHET_OK;
}

/* Does anybody else? */
static bool slot_held(const struct pool *pool, const struct pool_slot *slot)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot_byte(pool, slot), .l_len = 1};

    return !dir_intact(&pool->dir) || fcntl(pool->dir.lock_fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

static void slot_free(struct pool_slot *slot)
{
    word_set(&slot->taken, 0);
    STEP("pool_slot_freed");
    word_set(&slot->share, 0);
    word_set(&slot->target, 0);
}

/* Nobody is in: the share need be no larger than what the files hold.  Where there are none the slot is free. */
static void slot_settle(const struct pool *pool, struct pool_slot *slot, int dirfd)
{
    uint64_t held = pool_measure(dirfd);
    uint64_t keeps = more(held + held / SETTLE_PART + SETTLE_PAGES, word_pages(pool, &slot->minimum));

    if (held == 0) {
        slot_free(slot);
        return;
    }
    if (keeps < slot_share(pool, slot))
        word_set(&slot->share, keeps);
    word_set(&slot->target, slot_share(pool, slot));
    word_set(&slot->want, 0);
}

/* Look after a cache without a process; where its directory is gone its slot is free. */
static void slot_reap(struct pool *pool, struct pool_slot *slot)
{
    char path[CONTROL_POOL_PATH];
    struct stat st;
    int fd;

    if (slot == pool->slot || atomic_load(&slot->mount) != pool->mount || slot_held(pool, slot))
        return;
    memcpy(path, slot->path, sizeof path);
    path[sizeof path - 1] = '\0';
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)
            slot_free(slot);
        return;
    }
    if (fstat(fd, &st) == 0) {
        if (st.st_dev != atomic_load(&slot->dev) || st.st_ino != atomic_load(&slot->ino))
            slot_free(slot);
        else
            slot_settle(pool, slot, fd);
    }
    close(fd);
}

static void pool_reap(struct pool *pool, int64_t now_ns)
{
    if (pool->reaped_ns && now_ns - pool->reaped_ns < REAP_EVERY_NS)
        return;
    pool->reaped_ns = now_ns;
    for (unsigned i = 0; i < POOL_SLOTS; i++)
        if (slot_taken(&pool->page->slots[i]))
            slot_reap(pool, &pool->page->slots[i]);
}

/* ---- who gets what: all under the pool's lock ---- */

/* Does the one come before the other? */
static bool slot_before(const struct pool *pool, const struct pool_slot *a, const struct pool_slot *b)
{
    bool a_short = slot_short(pool, a), b_short = slot_short(pool, b);

    return a_short != b_short ? a_short : slot_earned(a) > slot_earned(b);
}

/* Pages that are free for this one: others that come first want theirs. */
static uint64_t free_for(const struct pool *pool, const struct pool_slot *slot, int64_t now_ns)
{
    uint64_t left = pool_free(pool);

    for (unsigned i = 0; i < POOL_SLOTS; i++) {
        const struct pool_slot *other = &pool->page->slots[i];

        if (other != slot && slot_taken(other) && slot_before(pool, other, slot))
            left -= less(left, slot_want(pool, other, now_ns));
    }
    return left;
}

/* Pages that this one and those before it want, less what is free or has been asked for and is on its way. */
static uint64_t still_to_ask(const struct pool *pool, const struct pool_slot *slot, int64_t now_ns)
{
    uint64_t wanted = slot_want(pool, slot, now_ns), coming = pool_free(pool);

    for (unsigned i = 0; i < POOL_SLOTS; i++) {
        const struct pool_slot *other = &pool->page->slots[i];

        if (other == slot || !slot_taken(other) || !slot_alive(other, now_ns))
            continue;
        if (slot_before(pool, other, slot))
            wanted += slot_want(pool, other, now_ns);
        coming += slot_share(pool, other) - slot_goal(pool, other);
    }
    return wanted > coming ? wanted - coming : 0;
}

/* What another can be asked for: nothing below its minimum; more than what it has to spare only for one that earns
 * more. */
static uint64_t can_ask(const struct pool *pool, const struct pool_slot *slot, const struct pool_slot *other,
                        int64_t now_ns)
{
    uint64_t keeps = more(word_pages(pool, &other->minimum), word_pages(pool, &other->floor));
    uint64_t goal = slot_goal(pool, other);

    if (other == slot || !slot_taken(other) || !slot_alive(other, now_ns))
        return 0;
    if (!slot_short(pool, slot) && slot_earned(slot) / MORE_NUM * MORE_DEN <= slot_earned(other))
        keeps = more(keeps, goal - less(goal, word_pages(pool, &other->spare)));
    return goal > keeps ? goal - keeps : 0;
}

/* Lower targets until so many pages are on their way: first of who earns least. */
static void ask_others(struct pool *pool, const struct pool_slot *slot, uint64_t pages, int64_t now_ns)
{
    for (unsigned round = 0; pages > 0 && round < POOL_SLOTS; round++) {
        struct pool_slot *least = NULL;
        uint64_t can, amount;

        for (unsigned i = 0; i < POOL_SLOTS; i++) {
            struct pool_slot *other = &pool->page->slots[i];

            if (can_ask(pool, slot, other, now_ns) && (!least || slot_earned(other) < slot_earned(least)))
                least = other;
        }
        if (!least)
            return;
        can = can_ask(pool, slot, least, now_ns);
        amount = less(can, pages);
        STEP("pool_asking");
        word_set(&least->target, slot_goal(pool, least) - amount);
        word_set(&least->spare, word_pages(pool, &least->spare) - less(word_pages(pool, &least->spare), amount));
        pages -= amount;
    }
}

/* Give the slot what is free for it, up to `pages`. */
static uint64_t slot_grow(struct pool *pool, struct pool_slot *slot, uint64_t pages, int64_t now_ns)
{
    uint64_t share = slot_share(pool, slot), got = less(pages, free_for(pool, slot, now_ns));

    if (got == 0)
        return 0;
    STEP("pool_growing");
    word_set(&slot->target, share + got); /* before: a share above its target would be given back */
    word_set(&slot->share, share + got);
    return got;
}

/* Take what is free, and see that the rest comes. */
static uint64_t slot_ask(struct pool *pool, struct pool_slot *slot, uint64_t pages, int64_t now_ns)
{
    uint64_t most = word_pages(pool, &slot->most), got, rest;

    pages = less(pages, most - less(most, slot_share(pool, slot)));
    got = slot_grow(pool, slot, pages, now_ns);
    word_set(&slot->want, pages - got);
    word_set(&slot->wanted_ns, (uint64_t)now_ns);
    if (got < pages) {
        pool_reap(pool, now_ns);
        rest = less(still_to_ask(pool, slot, now_ns), pages - got);
        ask_others(pool, slot, rest, now_ns);
    }
    return got;
}

/* ---- joining ---- */

static struct pool_slot *slot_find(const struct pool *pool, const struct dir *dir)
{
    for (unsigned i = 0; i < POOL_SLOTS; i++) {
        struct pool_slot *slot = &pool->page->slots[i];

        if (slot_taken(slot) && atomic_load(&slot->dev) == dir->dev && atomic_load(&slot->ino) == dir->ino)
            return slot;
    }
    return NULL;
}

static struct pool_slot *slot_find_free(const struct pool *pool)
{
    for (unsigned i = 0; i < POOL_SLOTS; i++)
        if (!slot_taken(&pool->page->slots[i]) && !slot_held(pool, &pool->page->slots[i]))
            return &pool->page->slots[i];
    return NULL;
}

/* May the cache keep so much, with what the others keep? */
static freshet_result minimum_fits(const struct pool *pool, const struct pool_slot *slot, uint64_t minimum)
{
    uint64_t others = 0;

    for (unsigned i = 0; i < POOL_SLOTS; i++)
        if (&pool->page->slots[i] != slot && slot_taken(&pool->page->slots[i]))
            others += word_pages(pool, &pool->page->slots[i].minimum);
    if (others + minimum <= pool->pages)
        return FRESHET_OK;
    return fail(FRESHET_EBUSY,
                "the pool in %s has %llu bytes, of which its other caches keep %llu as their minimums: there is no "
                "room for one of %llu.  Give a smaller pool_minimum, make a larger pool, or remove the directory of a "
                "cache that is not needed any more",
                pool->path, (unsigned long long)(pool->pages * POOL_PAGE), (unsigned long long)(others * POOL_PAGE),
                (unsigned long long)(minimum * POOL_PAGE));
}

static freshet_result member_minimum(const struct pool *pool, const struct pool_slot *slot,
                                     const struct pool_member *member, uint64_t *ret_minimum)
{
    uint64_t had = slot ? word_pages(pool, &slot->minimum) : 0;

    *ret_minimum = member->minimum ? member->minimum : more(had, member->least);
    if (*ret_minimum > pool->pages)
        return fail(FRESHET_EINVAL,
                    "pool_minimum: %llu bytes are more than the pool in %s has, %llu.  A cache of this tier_size takes "
                    "%llu with nothing in it",
                    (unsigned long long)(*ret_minimum * POOL_PAGE), pool->path,
                    (unsigned long long)(pool->pages * POOL_PAGE), (unsigned long long)(member->least * POOL_PAGE));
    if (*ret_minimum < member->least)
        return fail(FRESHET_EINVAL,
                    "pool_minimum is %llu bytes, but a cache of this tier_size takes %llu with nothing in it: give at "
                    "least that, or 0, or a smaller tier_size",
                    (unsigned long long)(*ret_minimum * POOL_PAGE), (unsigned long long)(member->least * POOL_PAGE));
    if (slot && *ret_minimum != had && slot_held(pool, slot))
        return fail(FRESHET_EBUSY,
                    "the cache is in use with a pool_minimum of %llu bytes, not %llu: give the same, or 0",
                    (unsigned long long)(had * POOL_PAGE), (unsigned long long)(*ret_minimum * POOL_PAGE));
    return minimum_fits(pool, slot, *ret_minimum);
}

/* Where the cache is to be found, by others who see what we see. */
static freshet_result slot_name(const struct pool *pool, struct pool_slot *slot, const struct pool_member *member)
{
    char *path = realpath(member->dir->path, NULL);

    if (!path || strlen(path) >= sizeof slot->path) {
        free(path);
        return fail(FRESHET_EINVAL, "%s: the path of a cache in a pool may have %zu bytes at most", member->dir->path,
                    sizeof slot->path - 1);
    }
    memset(slot->path, 0, sizeof slot->path);
    strcpy(slot->path, path);
    free(path);
    word_set(&slot->mount, pool->mount);
    return FRESHET_OK;
}

/* Fill in a free slot; it is taken with the last word. */
static freshet_result slot_claim(struct pool *pool, struct pool_slot *slot, const struct pool_member *member)
{
    freshet_result result;

    slot_free(slot);
    if ((result = slot_name(pool, slot, member)) != FRESHET_OK)
        return result;
    word_set(&slot->dev, member->dir->dev);
    word_set(&slot->ino, member->dir->ino);
    word_set(&slot->minimum, 0);
    word_set(&slot->most, pool->pages);
    word_set(&slot->earned, 0);
    word_set(&slot->want, 0);
    word_set(&slot->spare, 0);
    word_set(&slot->floor, 0);
    STEP("pool_slot_claimed");
    word_set(&slot->taken, 1);
    return FRESHET_OK;
}

/* One try, under the lock.  FRESHET_ETIMEOUT: there is no room yet; FRESHET_MISS: there may be, but not for what the
 * files hold. */
static freshet_result join_locked(struct pool *pool, const struct pool_member *member, uint64_t held)
{
    struct pool_slot *slot = slot_find(pool, member->dir);
    int64_t now_ns = clock_boot_ns();
    uint64_t minimum, need = more(member->least, held), share;
    freshet_result result;

    if (!slot)
        pool_reap(pool, now_ns);
    if ((result = member_minimum(pool, slot, member, &minimum)) != FRESHET_OK)
        return result;
    if (!slot) {
        if (!(slot = slot_find_free(pool)))
            return fail(FRESHET_EBUSY, "the pool in %s has %u caches, and no more are possible: remove the directory "
                        "of one that is not needed any more", pool->path, POOL_SLOTS);
        if ((result = slot_claim(pool, slot, member)) != FRESHET_OK)
            return result;
    } else if (!slot_held(pool, slot) && (result = slot_name(pool, slot, member)) != FRESHET_OK) {
        return result; /* it may have been moved */
    }
    pool->slot = slot;
    if ((result = slot_hold(pool, slot, F_RDLCK)) != FRESHET_OK)
        return result;
    word_set(&slot->minimum, minimum);
    word_set(&slot->most, less(member->most, pool->pages));
    word_set(&slot->alive_ns, (uint64_t)now_ns);
    share = slot_share(pool, slot);
    if (share < more(need, minimum))
        (void)slot_ask(pool, slot, more(need, minimum) - share, now_ns);
    if (slot_share(pool, slot) >= need)
        return FRESHET_OK;
    return need > more(member->least, minimum) ? FRESHET_MISS : FRESHET_ETIMEOUT;
}

freshet_result pool_join(struct pool *pool, const struct pool_member *member, int64_t deadline_ns)
{
    freshet_result result;

    for (;;) {
        if ((result = dir_lock(&pool->dir, deadline_ns)) != FRESHET_OK)
            return result;
        result = join_locked(pool, member, pool_measure(member->dir->fd));
        dir_unlock(&pool->dir);
        if (result != FRESHET_ETIMEOUT || clock_boot_ns() >= deadline_ns)
            break;
        (void)nanosleep(&(struct timespec){.tv_nsec = JOIN_PAUSE_NS}, NULL);
    }
    if (result == FRESHET_ETIMEOUT)
        return fail(FRESHET_EBUSY,
                    "the pool in %s has no room yet for a cache of %llu bytes: its others hold the rest, and give none "
                    "while their processes are stopped, or all gone.  Try again, start one, or remove the directory of "
                    "a cache that is not needed any more",
                    pool->path, (unsigned long long)(member->least * POOL_PAGE));
    return result;
}

/* The last one out leaves no more than is needed. */
static void pool_leave(struct pool *pool)
{
    struct pool_slot *slot = pool->slot;
    char path[CONTROL_POOL_PATH];
    struct stat st;
    int fd;

    if (!slot || dir_lock(&pool->dir, clock_boot_ns() + CLOCK_NS_PER_S) != FRESHET_OK)
        return;
    (void)slot_hold(pool, slot, F_UNLCK);
    memcpy(path, slot->path, sizeof path);
    path[sizeof path - 1] = '\0';
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && !slot_held(pool, slot) && fstat(fd, &st) == 0 && st.st_dev == atomic_load(&slot->dev) &&
        st.st_ino == atomic_load(&slot->ino))
        slot_settle(pool, slot, fd);
    if (fd >= 0)
        close(fd);
    dir_unlock(&pool->dir);
}

void pool_close(struct pool *pool)
{
    if (!pool)
        return;
    pool_leave(pool);
    if (pool->page)
        munmap(pool->page, sizeof *pool->page);
    dir_close(&pool->dir);
    free(pool);
}

void pool_abandon(struct pool *pool)
{
    if (pool)
        dir_abandon(&pool->dir);
}

/* ---- the writer's ---- */

void pool_earn(struct pool *pool, uint64_t hits, uint64_t seen)
{
    pool->hits = less(pool->hits + hits, EARN_MOST);
    pool->seen += seen;
}

bool pool_hopeful(const struct pool *pool)
{
    int64_t now_ns = clock_boot_ns();

    if (pool->seen >= SEEN_LEAST || slot_short(pool, pool->slot) || free_for(pool, pool->slot, now_ns) > 0)
        return true;
    for (unsigned i = 0; i < POOL_SLOTS; i++)
        if (can_ask(pool, pool->slot, &pool->page->slots[i], now_ns) > 0)
            return true;
    return false;
}

/* What we have earned counts, and what all have earned before counts a little less.  False: too little to tell. */
static bool earnings_tell(struct pool *pool)
{
    if (pool->seen < SEEN_LEAST)
        return false;
    for (unsigned i = 0; i < POOL_SLOTS; i++) {
        struct pool_slot *slot = &pool->page->slots[i];

        word_set(&slot->earned, slot_earned(slot) - slot_earned(slot) / DECAY);
    }
    word_set(&pool->slot->earned, less(slot_earned(pool->slot) + pool->hits, EARN_MOST));
    pool->hits = pool->seen = 0;
    return true;
}

bool pool_ask(struct pool *pool, uint64_t pages)
{
    uint64_t minimum, share, wanted, got = 0;
    struct pool_slot *slot = pool->slot;

    if (dir_lock(&pool->dir, clock_boot_ns() + LOCK_WAIT_NS) != FRESHET_OK)
        return false;
    wanted = slot_want(pool, slot, clock_boot_ns());
    minimum = word_pages(pool, &slot->minimum);
    share = slot_share(pool, slot);
    if (earnings_tell(pool))
        pages = more(pages, less(wanted + EARNED_STEPS * pages, pool->pages / WANT_SHARE));
    pages = more(pages, wanted);
    if (share < minimum)
        pages = more(pages, minimum - share);
    if (slot_goal(pool, slot) >= share || share < minimum) /* else it is to give */
        got = slot_ask(pool, slot, pages, clock_boot_ns());
    dir_unlock(&pool->dir);
    return got > 0;
}

bool pool_give(struct pool *pool, uint64_t keep)
{
    struct pool_slot *slot = pool->slot;
    uint64_t goal;

    if (dir_lock(&pool->dir, clock_boot_ns() + GIVE_WAIT_NS) != FRESHET_OK)
        return true; /* not now */
    goal = slot_goal(pool, slot);
    if (more(goal, keep) < slot_share(pool, slot)) {
        STEP("pool_giving");
        word_set(&slot->share, more(goal, keep));
        STEP("pool_given");
    }
    dir_unlock(&pool->dir);
    return keep <= goal;
}

/* The host program has closed our descriptors: open the pool's again. */
static void pool_mend(struct pool *pool)
{
    struct dir dir;

    dir_abandon(&pool->dir); /* first: the new ones may get the same numbers */
    if (dir_open(&dir, pool->path, NULL) != FRESHET_OK)
        return;
    if (dir.dev != pool->dir.dev || dir.ino != pool->dir.ino || dir_enter(&dir) != FRESHET_OK) {
        dir_close(&dir);
        return;
    }
    free(pool->dir.path);
    pool->dir = dir;
    (void)slot_hold(pool, pool->slot, F_RDLCK);
}

/* Garbage has made the shares more than there is: we give our part of what is too much. */
static void pool_heal(struct pool *pool)
{
    uint64_t shares = 0, share = pool_share(pool), keeps;

    for (unsigned i = 0; i < POOL_SLOTS; i++)
        if (slot_taken(&pool->page->slots[i]))
            shares += slot_share(pool, &pool->page->slots[i]);
    if (shares <= pool->pages || dir_lock(&pool->dir, clock_boot_ns() + LOCK_WAIT_NS) != FRESHET_OK)
        return;
    keeps = more(word_pages(pool, &pool->slot->minimum), share - less(share, shares - pool->pages));
    if (keeps < pool_target(pool))
        word_set(&pool->slot->target, keeps);
    dir_unlock(&pool->dir);
}

void pool_spare(struct pool *pool, uint64_t pages)
{
    if (pages < pool_step(pool)) /* as good as none: it will be needed soon */
        pages = 0;
    if (pages != atomic_load_explicit(&pool->slot->spare, memory_order_relaxed))
        word_set(&pool->slot->spare, pages);
}

void pool_tend(struct pool *pool, uint64_t floor)
{
    word_set(&pool->slot->floor, floor);
    word_set(&pool->slot->alive_ns, (uint64_t)clock_boot_ns());
    if (!dir_intact(&pool->dir))
        pool_mend(pool);
    pool_heal(pool);
    if (clock_boot_ns() - pool->reaped_ns >= REAP_EVERY_NS &&
        dir_lock(&pool->dir, clock_boot_ns() + LOCK_WAIT_NS) == FRESHET_OK) {
        pool_reap(pool, clock_boot_ns());
        dir_unlock(&pool->dir);
    }
}

/* ---- measuring ---- */

/* Of the files behind `fd`, which is closed, and of those in directories in it. */
static uint64_t measure_dir(int fd, int depth)
{
    DIR *listing = fdopendir(fd);
    const struct dirent *entry;
    uint64_t pages = 0;
    struct stat st;
    int inner;

    if (!listing) {
        close(fd);
        return 0;
    }
    while ((entry = readdir(listing))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (S_ISREG(st.st_mode))
            pages += ((uint64_t)st.st_blocks * 512 + POOL_PAGE - 1) / POOL_PAGE;
        inner = S_ISDIR(st.st_mode) && depth > 0
                    ? openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        if (inner >= 0)
            pages += measure_dir(inner, depth - 1);
    }
    closedir(listing);
    return pages;
}

uint64_t pool_measure(int dirfd)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a place in the listing of its own */

    return fd < 0 ? 0 : measure_dir(fd, 2);
}

/* Write one page of a file, and count those that it then takes; 0: that cannot be. */
static uint64_t probe_write(int fd, uint64_t page)
{
    static const uint8_t bytes[POOL_PAGE] = {1};
    struct stat st;

    if (pwrite(fd, bytes, sizeof bytes, (off_t)(page * POOL_PAGE)) != (ssize_t)sizeof bytes || fsync(fd) != 0 ||
        fstat(fd, &st) != 0)
        return 0;
    return ((uint64_t)st.st_blocks * 512 + POOL_PAGE - 1) / POOL_PAGE;
}

/* Does a page in a hole take a page, and is a page given back when it is punched out?  NULL: so it is. */
static const char *probe_doubt(int fd)
{
    int rc;

    if (ftruncate(fd, (off_t)(PROBE_PAGES * POOL_PAGE)) != 0)
        return strerror(errno);
    if (probe_write(fd, PROBE_PAGES / 2) != 1)
        return "a page takes more memory than a page: is it mounted with huge pages, or large blocks?";
    do
        rc = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(PROBE_PAGES / 2 * POOL_PAGE), POOL_PAGE);
    while (rc != 0 && errno == EINTR);
    if (rc != 0)
        return strerror(errno);
    return probe_write(fd, PROBE_PAGES - 1) == 1 ? NULL : "what is punched out stays";
}

freshet_result pool_can_give(const struct dir *dir)
{
    const char *doubt;
    int fd;

    (void)unlinkat(dir->fd, POOL_PROBE, 0);
    fd = openat(dir->fd, POOL_PROBE, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return fail(FRESHET_EIO, "%s/" POOL_PROBE " cannot be made: %s", dir->path, strerror(errno));
    doubt = probe_doubt(fd);
    close(fd);
    (void)unlinkat(dir->fd, POOL_PROBE, 0);
    if (!doubt)
        return FRESHET_OK;
    return fail(FRESHET_EDIR,
                "%s cannot be in a pool: its file system does not take back parts of files (%s).  Put it on a tmpfs, "
                "ext4, xfs or btrfs", dir->path, doubt);
}
