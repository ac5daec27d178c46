/*
 * control.c - the control page: its file, and the words that decide coherence.  The outbox in it is outbox.c's.
 *
 * The file is believed in nothing before it was checked: owner and mode by the system, then the head by its own hash,
 * then the file's size against the one that the head's numbers demand.  The numbers are copied out before the file is
 * mapped, so that nobody can change them under us.  What remains open to this user's other processes are the atomics,
 * and there a wild value costs misses or is this user's own malice.
 *
 * Coherence.  Positions rise across epochs (a new one starts far above the old), so every word here is fetch-max and a
 * store that comes an hour late changes nothing.  Two words do not rise, epoch and proven-at:
 *
 *   adopt   takes the proof away (new tag, time 0), raises floor, clear, applied and position, and only then swaps the
 *           epoch.  Stopped in between it has made records void (floor), never servable.  Applied may by then be far
 *           above what the old epoch's log holds, which would prove too much; but floor was raised to the same position
 *           first, so nothing of the old epoch is left to be served on that proof.
 *   prove   reads the proven word, then epoch and applied, and swaps the word it has read.  An adoption between changes
 *           the word, so the swap fails, and on the next round the tag is not the question's: a proof never crosses a
 *           rotation, however long its process was stopped.
 */
#include <control.h>

#include <bytes.h>
#include <clock.h>
#include <errno.h>
#include <fcntl.h>
#include <log.h>
#include <page.h>
#include <policy.h>
#include <stdio.h>
#include <step.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <trace.h>
#include <unistd.h>

#define CONTROL_MAGIC 0x5445485345524643u /* "CFRESHET" */
#define CONTROL_FORMAT 6u
#define CONTROL_FORMAT_POOL (CONTROL_FORMAT | 256u) /* in a pool: what knows no pools must not write beside it */
#define CONTROL_FILE "control"
#define CONTROL_FILE_NEW "control.new"
#define CONTROL_BOOT_ID 36u /* characters */
#define CONTROL_PAGE_SIZE 4096u
#define LATELY_NS (10u * (uint64_t)CLOCK_NS_PER_S)

#define SHELF_SHARE        64u
#define SHELF_SHARE_POOLED 256u
#define SHELF_LEAST        4u /* sets */
#define SHELF_MOST         1024u
#define FENCES_LEAST 8192u
#define FENCES_MOST (1u << 20)

/* ---- sizes ---- */

/* Where the tables are; all follows from tier size and partitions. */
struct control_plan {
    uint64_t tier_size;
    uint32_t partitions, fence_slots;
    uint32_t shelf_count; /* of sets */
    /* offsets in the file */
    size_t parts, outbox, recent, turns, guards, fences, tag_fences, policy, shelf, sets, size;
};

/* The greatest power of two that is not above `x`, within bounds that are powers of two. */
static uint32_t control_power(uint64_t x, uint32_t least, uint32_t most)
{
    uint32_t power = least;

    while (power < most && (uint64_t)power * 2 <= x)
        power *= 2;
    return power;
}

/* A partition's share of the fences: a power of two too; rounded up where rounding down would leave too few in all. */
static uint32_t control_fence_share(uint64_t tier_size, uint32_t partitions)
{
    uint32_t all = control_power(tier_size / 1024, FENCES_LEAST, FENCES_MOST);
    uint32_t share = control_power(all / partitions, 1, FENCES_MOST);

    return share * partitions < FENCES_LEAST ? share * 2 : share;
}

static size_t control_align(size_t offset, size_t to)
{
    return (offset + to - 1) / to * to;
}

/* A sixty-fourth of the tier is the shelf's, up to what a processor's own cache holds, more or less; of a tier in a
 * pool less, since the pool's size is that of each of its caches. */
static uint32_t control_shelf_sets(uint64_t tier_size, bool pooled)
{
    uint64_t sets = tier_size / (pooled ? SHELF_SHARE_POOLED : SHELF_SHARE) / CONTROL_SHELF_SET;

    return sets < SHELF_LEAST ? SHELF_LEAST : sets > SHELF_MOST ? SHELF_MOST : (uint32_t)sets;
}

/* `shape` is within its bounds: partitions up to FRESHET_PARTITIONS_MAX, so nothing here overflows. */
static struct control_plan control_plan(uint64_t tier_size, uint32_t partitions, bool pooled)
{
    struct control_plan plan = {.tier_size = tier_size, .partitions = partitions};

    plan.fence_slots = control_fence_share(tier_size, partitions);
    plan.parts = control_align(sizeof(struct control_page), 64);
    plan.outbox = plan.parts + partitions * sizeof(struct control_part);
    plan.recent = control_align(plan.outbox + CONTROL_OUTBOX_SLOTS * sizeof(struct control_outbox), 64);
    plan.turns = control_align(plan.recent + CONTROL_RECENT_SLOTS * sizeof(struct control_recent), 64);
    plan.guards = control_align(plan.turns + CONTROL_TURN_SLOTS * sizeof(struct control_turn), 64);
    plan.fences = control_align(plan.guards + CONTROL_GUARD_SLOTS * sizeof(uint64_t), CONTROL_PAGE_SIZE);
    plan.tag_fences = plan.fences + (size_t)partitions * plan.fence_slots * sizeof(uint64_t);
    plan.policy = control_align(plan.tag_fences + (size_t)partitions * CONTROL_TAG_SLOTS * sizeof(uint64_t), 64);
    plan.shelf_count = control_shelf_sets(tier_size, pooled);
    plan.shelf = control_align(plan.policy + policy_size(tier_size), 128);
    plan.sets = control_align(plan.shelf + sizeof(struct control_shelf) +
                                  plan.shelf_count * sizeof(struct control_shelf_line), CONTROL_PAGE_SIZE);
    plan.size = plan.sets + (size_t)plan.shelf_count * CONTROL_SHELF_SET;
    return plan;
}

/* The plan of a shape, with defaults where it says nothing. */
static struct control_plan control_plan_of(const struct control_shape *shape)
{
    return control_plan(shape->tier_size ? shape->tier_size : CONTROL_TIER_SIZE_DEFAULT,
                        shape->partitions ? shape->partitions : 1, shape->pool != 0);
}

size_t control_file_size(const struct control_shape *shape)
{
    return control_plan_of(shape).size;
}

/* ---- where we are ---- */

/* What a page is bound to: CLOCK_BOOTTIME and process ids mean nothing elsewhere. */
struct control_place {
    char boot_id[CONTROL_BOOT_ID + 1];
    uint64_t pid_namespace, time_namespace; /* inodes; 0: a kernel without */
};

static uint64_t control_namespace(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? st.st_ino : 0;
}

static bool control_find_place(struct control_place *ret_place)
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t got = -1;

    *ret_place = (struct control_place){0};
    if (fd >= 0) {
        got = read(fd, ret_place->boot_id, CONTROL_BOOT_ID);
        close(fd);
    }
    ret_place->pid_namespace = control_namespace("/proc/self/ns/pid");
    ret_place->time_namespace = control_namespace("/proc/self/ns/time");
    return got == (ssize_t)CONTROL_BOOT_ID;
}

/* ---- the head ---- */

/*     0 magic u64 | 8 format u32 | 12 head size u32 | 16 file size u64 | 24 tier size u64 | 32 partitions u32 |
 *     36 max staleness ms u32 | 40 fence slots u32 | 44 zero u32 | 48 outbox slots u32 | 52 recent slots u32 |
 *     56 uid u32 | 60 zero u32 | 64 boot id, 40 | 104 pid namespace u64 | 112 time namespace u64 | 120 host id, 16 |
 *     136 generation u64 | 144 name, 72 | 216 pool u64 | 224 its path, 272 | 496 check, 16
 *                                                                              all numbers little-endian */
struct control_head {
    uint64_t file_size, tier_size, generation;
    uint32_t partitions, max_staleness_ms, fence_slots, uid;
    struct control_place place;
    uint8_t host_id[16];
    char name[FRESHET_NAME_MAX + 1];
    uint64_t pool;
    char pool_path[CONTROL_POOL_PATH];
};

#define HEAD_CHECKED (CONTROL_HEAD_SIZE - 16u)

static void control_head_check(const uint8_t bytes[CONTROL_HEAD_SIZE], uint8_t ret_check[16])
{
    key_siphash128(CONTROL_HEAD_K0, CONTROL_HEAD_K1, bytes, HEAD_CHECKED, ret_check);
}

static void control_head_encode(const struct control_head *head, uint8_t bytes[CONTROL_HEAD_SIZE])
{
    memset(bytes, 0, CONTROL_HEAD_SIZE);
    bytes_put64(bytes, CONTROL_MAGIC);
    bytes_put32(bytes + 8, head->pool ? CONTROL_FORMAT_POOL : CONTROL_FORMAT);
    bytes_put32(bytes + 12, CONTROL_HEAD_SIZE);
    bytes_put64(bytes + 16, head->file_size);
    bytes_put64(bytes + 24, head->tier_size);
    bytes_put32(bytes + 32, head->partitions);
    bytes_put32(bytes + 36, head->max_staleness_ms);
    bytes_put32(bytes + 40, head->fence_slots);
    bytes_put32(bytes + 48, CONTROL_OUTBOX_SLOTS);
    bytes_put32(bytes + 52, CONTROL_RECENT_SLOTS);
    bytes_put32(bytes + 56, head->uid);
    memcpy(bytes + 64, head->place.boot_id, CONTROL_BOOT_ID);
    bytes_put64(bytes + 104, head->place.pid_namespace);
    bytes_put64(bytes + 112, head->place.time_namespace);
    memcpy(bytes + 120, head->host_id, sizeof head->host_id);
    bytes_put64(bytes + 136, head->generation);
    memcpy(bytes + 144, head->name, sizeof head->name);
    bytes_put64(bytes + 216, head->pool);
    memcpy(bytes + 224, head->pool_path, sizeof head->pool_path);
    control_head_check(bytes, bytes + HEAD_CHECKED);
}

/* Read it; what is wrong with it in a few words, or NULL. */
static const char *control_head_decode(struct control_head *ret_head, const uint8_t bytes[CONTROL_HEAD_SIZE])
{
    uint32_t format = bytes_get64(bytes + 216) ? CONTROL_FORMAT_POOL : CONTROL_FORMAT;
    uint8_t check[16];

    if (bytes_get64(bytes) != CONTROL_MAGIC)
        return "it is no control page of this library";
    if (bytes_get32(bytes + 8) != format || bytes_get32(bytes + 12) != CONTROL_HEAD_SIZE)
        return "it has another version's format";
    control_head_check(bytes, check);
    if (memcmp(check, bytes + HEAD_CHECKED, sizeof check) != 0)
        return "its head is damaged";
    if (bytes_get32(bytes + 48) != CONTROL_OUTBOX_SLOTS || bytes_get32(bytes + 52) != CONTROL_RECENT_SLOTS)
        return "it has another version's tables";
    *ret_head = (struct control_head){
        .file_size = bytes_get64(bytes + 16),
        .tier_size = bytes_get64(bytes + 24),
        .partitions = bytes_get32(bytes + 32),
        .max_staleness_ms = bytes_get32(bytes + 36),
        .fence_slots = bytes_get32(bytes + 40),
        .uid = bytes_get32(bytes + 56),
        .place.pid_namespace = bytes_get64(bytes + 104),
        .place.time_namespace = bytes_get64(bytes + 112),
        .generation = bytes_get64(bytes + 136),
        .pool = bytes_get64(bytes + 216),
    };
    memcpy(ret_head->place.boot_id, bytes + 64, CONTROL_BOOT_ID);
    memcpy(ret_head->host_id, bytes + 120, sizeof ret_head->host_id);
    memcpy(ret_head->name, bytes + 144, sizeof ret_head->name - 1);
    memcpy(ret_head->pool_path, bytes + 224, sizeof ret_head->pool_path - 1);
    return NULL;
}

/* Do its numbers agree with one another and with the file? */
static const char *control_head_doubt(const struct control_head *head, uint64_t file_size)
{
    if (head->tier_size == 0 || head->tier_size > CONTROL_TIER_SIZE_MOST || head->partitions == 0 ||
        head->partitions > FRESHET_PARTITIONS_MAX)
        return "its sizes make no sense";

    struct control_plan plan = control_plan(head->tier_size, head->partitions, head->pool != 0);

    if (head->fence_slots != plan.fence_slots || head->file_size != plan.size)
        return "it has another version's tables";
    if (file_size != plan.size)
        return "its size is not the one that it says";
    return NULL;
}

/* ---- opening ---- */

/* Who this host is to others.  A copy of the directory has the same page, but is another file: it must not pass for
 * the original in the fleet's registry, or each would vouch for the other. */
static void control_identify(const struct control_head *head, const struct stat *st, uint8_t ret_host_id[16])
{
    uint8_t bytes[16 + 8 + 8 + CONTROL_BOOT_ID] = {0};

    memcpy(bytes, head->host_id, 16);
    bytes_put64(bytes + 16, (uint64_t)st->st_dev);
    bytes_put64(bytes + 24, (uint64_t)st->st_ino);
    memcpy(bytes + 32, head->place.boot_id, CONTROL_BOOT_ID);
    key_siphash128(CONTROL_HOST_K0, CONTROL_HOST_K1, bytes, sizeof bytes, ret_host_id);
}

/* Map the file and find its tables; the numbers come from a checked head or our own. */
static bool control_map(struct control *control, int fd, const struct control_head *head)
{
    struct control_plan plan = control_plan(head->tier_size, head->partitions, head->pool != 0);
    struct stat st;
    uint8_t *base, *room;

    if (fstat(fd, &st) != 0)
        return false;
    base = mmap(NULL, plan.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return false;
    room = mmap(NULL, plan.size - plan.sets, PROT_NONE, MAP_SHARED, fd, (off_t)plan.sets);
    if (room == MAP_FAILED || mprotect(base + plan.sets, plan.size - plan.sets, PROT_READ) != 0) {
        if (room != MAP_FAILED)
            munmap(room, plan.size - plan.sets);
        munmap(base, plan.size);
        return false;
    }
    *control = (struct control){
        .page = (struct control_page *)(void *)base,
        .size = plan.size,
        .tier_size = head->tier_size,
        .max_staleness_ms = head->max_staleness_ms,
        .generation = head->generation,
        .pool = head->pool,
        .parts = (struct control_part *)(void *)(base + plan.parts),
        .outbox = (struct control_outbox *)(void *)(base + plan.outbox),
        .recent = (struct control_recent *)(void *)(base + plan.recent),
        .turns = (struct control_turn *)(void *)(base + plan.turns),
        .guards = (_Atomic uint64_t *)(void *)(base + plan.guards),
        .policy = base + plan.policy,
        .shelf = (struct control_shelf *)(void *)(base + plan.shelf),
        .shelf_lines = (struct control_shelf_line *)(void *)(base + plan.shelf + sizeof(struct control_shelf)),
        .shelf_sets = base + plan.sets,
        .shelf_room = room,
        .shelf_count = plan.shelf_count,
        .fences = (_Atomic uint64_t *)(void *)(base + plan.fences),
        .tag_fences = (_Atomic uint64_t *)(void *)(base + plan.tag_fences),
    };
    memcpy(control->pool_path, head->pool_path, sizeof control->pool_path);
    control_identify(head, &st, control->host_id);
    key_space_name(&control->space, head->name);
    control->space.partitions = head->partitions;
    control->space.fence_slots = plan.fence_slots;
    return true;
}

static void control_close_fd(int fd)
{
    int error = errno;

    close(fd);
    errno = error;
}

/* A sentence of control_open's: what, why. */
static enum control_fit control_unfit(enum control_fit fit, char *ret_why, size_t why_size, const char *why)
{
    (void)snprintf(ret_why, why_size, "the file `" CONTROL_FILE "` does not fit: %s", why);
    return fit;
}

/* The system failed us: the same, and the thread's sentence too. */
static enum control_fit control_failed(char *ret_why, size_t why_size, const char *what)
{
    (void)snprintf(ret_why, why_size, "the file `" CONTROL_FILE "` cannot be %s: %s", what, strerror(errno));
    (void)fail(FRESHET_EIO, "%s", ret_why);
    return CONTROL_FOREIGN;
}

/* Is it a file that only this user can have written? */
static const char *control_stat_doubt(const struct stat *st)
{
    if (!S_ISREG(st->st_mode))
        return "it is no regular file";
    if (st->st_uid != geteuid())
        return "it belongs to another user";
    if (st->st_mode & 077)
        return "others than its owner may open it (its mode should be 0600)";
    if (st->st_nlink != 1)
        return "it has a second name (a hard link)";
    if (st->st_size < (off_t)CONTROL_HEAD_SIZE)
        return "it is too short to be a control page";
    return NULL;
}

/* Of this boot and these namespaces, and what was asked for?  On CONTROL_FITS `ret_why` is untouched. */
static enum control_fit control_judge(const struct control_head *head, const struct control_place *place,
                                      const struct control_shape *shape, char *ret_why, size_t why_size)
{
    if (head->uid != geteuid())
        return control_unfit(CONTROL_FOREIGN, ret_why, why_size, "it was made by another user");
    if (memcmp(head->place.boot_id, place->boot_id, CONTROL_BOOT_ID) != 0)
        return control_unfit(CONTROL_BOOT, ret_why, why_size, "it is of an earlier boot of this host");
    if (head->place.pid_namespace != place->pid_namespace)
        return control_unfit(CONTROL_NAMESPACE, ret_why, why_size,
                             "it was made in another PID namespace (a container?), whose process ids mean others");
    if (head->place.time_namespace != place->time_namespace)
        return control_unfit(CONTROL_NAMESPACE, ret_why, why_size,
                             "it was made in another time namespace, whose boot clock differs");
    if (strcmp(head->name, shape->name) != 0) {
        (void)snprintf(ret_why, why_size, "the directory holds the cache \"%s\", not \"%s\"", head->name, shape->name);
        return CONTROL_SHAPE;
    }
    if (shape->tier_size != 0 && head->tier_size != shape->tier_size) {
        (void)snprintf(ret_why, why_size, "its tier_size is %llu, not %llu", (unsigned long long)head->tier_size,
                       (unsigned long long)shape->tier_size);
        return CONTROL_SHAPE;
    }
    if (shape->partitions != 0 && head->partitions != shape->partitions) {
        (void)snprintf(ret_why, why_size, "it has %u partitions, not %u", head->partitions, shape->partitions);
        return CONTROL_SHAPE;
    }
    if (shape->pool != 0 && head->pool != shape->pool) {
        (void)snprintf(ret_why, why_size, "it is %s%s, not of the pool in %s", head->pool ? "of another pool, in " :
                       "of no pool", head->pool_path, shape->pool_path);
        return CONTROL_SHAPE;
    }
    return CONTROL_FITS;
}

/* The open file: check it outside in, then map it. */
static enum control_fit control_open_fd(struct control *control, int fd, const struct control_shape *shape,
                                        char *ret_why, size_t why_size)
{
    uint8_t bytes[CONTROL_HEAD_SIZE];
    struct control_head head;
    struct control_place place;
    enum control_fit fit;
    const char *doubt;
    struct stat st;
    ssize_t got;

    if (fstat(fd, &st) != 0)
        return control_failed(ret_why, why_size, "examined");
    if ((doubt = control_stat_doubt(&st)))
        return control_unfit(CONTROL_FOREIGN, ret_why, why_size, doubt);
    if ((got = pread(fd, bytes, sizeof bytes, 0)) < 0)
        return control_failed(ret_why, why_size, "read");
    if (got != (ssize_t)sizeof bytes)
        return control_unfit(CONTROL_FOREIGN, ret_why, why_size, "it is too short to be a control page");
    if ((doubt = control_head_decode(&head, bytes)) || (doubt = control_head_doubt(&head, (uint64_t)st.st_size)))
        return control_unfit(CONTROL_FOREIGN, ret_why, why_size, doubt);
    if (!control_find_place(&place))
        return control_failed(ret_why, why_size, "judged without /proc/sys/kernel/random/boot_id");
    if ((fit = control_judge(&head, &place, shape, ret_why, why_size)) != CONTROL_FITS)
        return fit;
    if (!control_map(control, fd, &head))
        return control_failed(ret_why, why_size, "mapped");
    return CONTROL_FITS;
}

enum control_fit control_open(struct control *control, int dirfd, const struct control_shape *shape,
                              char *ret_why, size_t why_size)
{
    /* O_NONBLOCK: somebody may have put a pipe in its place. */
    int fd = openat(dirfd, CONTROL_FILE, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    enum control_fit fit;

    *control = (struct control){0};
    if (why_size > 0)
        ret_why[0] = '\0';
    if (fd < 0) {
        if (errno == ENOENT) {
            (void)snprintf(ret_why, why_size, "there is no control page");
            return CONTROL_MISSING;
        }
        if (errno == ELOOP)
            return control_unfit(CONTROL_FOREIGN, ret_why, why_size, "it is a symbolic link");
        if (errno == EISDIR || errno == ENXIO)
            return control_unfit(CONTROL_FOREIGN, ret_why, why_size, "it is no regular file");
        return control_failed(ret_why, why_size, "opened");
    }
    fit = control_open_fd(control, fd, shape, ret_why, why_size);
    close(fd); /* a mapping needs no descriptor, and one less can be closed behind our back */
    return fit;
}

/* ---- making ---- */

/* Draw who we are. */
static bool control_draw(struct control_head *head)
{
    uint8_t bytes[24];
    ssize_t got;

    do
        got = getrandom(bytes, sizeof bytes, 0);
    while (got < 0 && errno == EINTR);
    if (got != (ssize_t)sizeof bytes)
        return false;
    memcpy(head->host_id, bytes, sizeof head->host_id);
    head->generation = bytes_get64(bytes + 16);
    if (head->generation == 0)
        head->generation = 1;
    return true;
}

/* Allocate all of it, so that a store into the mapping never finds the file system full. */
static int control_allocate(int fd, size_t size)
{
    struct rlimit limit;
    int error;

    /* Past this limit the kernel would send SIGXFSZ to a program that has done nothing wrong. */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < size)
        return EFBIG;
    for (int round = 0; round < 1000; round++) /* tmpfs gives up, and starts over, when a signal comes */
        if ((error = posix_fallocate(fd, 0, (off_t)size)) != EINTR)
            return error;
    return EINTR;
}

/* The system's reason in ours. */
static freshet_result control_create_failed(int error, const char *what, size_t size)
{
    switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return fail(FRESHET_ENOSPC, "no room for the control page of %zu bytes (%s): free some, or open with a smaller "
                    "tier_size or in another directory", size, strerror(error));
    case ENOMEM:
        return fail(FRESHET_ENOMEM, "no memory to map the control page of %zu bytes", size);
    case EACCES:
    case EPERM:
    case EROFS:
        return fail(FRESHET_EDIR, "the control page cannot be %s: %s", what, strerror(error));
    default:
        return fail(FRESHET_EIO, "the control page cannot be %s: %s", what, strerror(error));
    }
}

/* Fill the new file and give it its name. */
static freshet_result control_create_fd(struct control *control, int dirfd, int fd, const struct control_head *head)
{
    size_t size = head->file_size;
    int error;

    if (fchmod(fd, 0600) != 0) /* whatever the umask left of it */
        return control_create_failed(errno, "given its mode", size);
    if ((error = control_allocate(fd, size)) != 0)
        return control_create_failed(error, "allocated", size);
    if (!control_map(control, fd, head))
        return control_create_failed(errno, "mapped", size);
    control_head_encode(head, control->page->head);
    STEP("control_written");
    if (renameat(dirfd, CONTROL_FILE_NEW, dirfd, CONTROL_FILE) != 0) {
        error = errno;
        control_close(control);
        return control_create_failed(error, "named", size);
    }
    return FRESHET_OK;
}

freshet_result control_create(struct control *control, int dirfd, const struct control_shape *shape)
{
    struct control_plan plan = control_plan_of(shape);
    struct control_head head = {.file_size = plan.size,
                                .tier_size = plan.tier_size,
                                .partitions = plan.partitions,
                                .max_staleness_ms = shape->max_staleness_ms,
                                .fence_slots = plan.fence_slots,
                                .uid = geteuid(),
                                .pool = shape->pool};
    freshet_result result;
    int fd;

    *control = (struct control){0};
    if (!memchr(shape->name, '\0', sizeof shape->name) || plan.partitions > FRESHET_PARTITIONS_MAX ||
        plan.tier_size > CONTROL_TIER_SIZE_MOST)
        return fail(FRESHET_EINVAL, "a control page is for at most %u partitions and a tier of at most %llu bytes",
                    FRESHET_PARTITIONS_MAX, CONTROL_TIER_SIZE_MOST);
    (void)snprintf(head.name, sizeof head.name, "%s", shape->name);
    if (shape->pool)
        (void)snprintf(head.pool_path, sizeof head.pool_path, "%s", shape->pool_path);
    if (!control_find_place(&head.place))
        return fail(FRESHET_EIO, "/proc/sys/kernel/random/boot_id cannot be read: of which boot is this?");
    if (!control_draw(&head))
        return fail(FRESHET_EIO, "the system gives no random bytes: %s", strerror(errno));
    (void)unlinkat(dirfd, CONTROL_FILE_NEW, 0); /* of somebody who was killed right here */
    fd = openat(dirfd, CONTROL_FILE_NEW, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return control_create_failed(errno, "made", plan.size);
    result = control_create_fd(control, dirfd, fd, &head);
    if (result != FRESHET_OK)
        (void)unlinkat(dirfd, CONTROL_FILE_NEW, 0);
    control_close_fd(fd);
    return result;
}

void control_close(struct control *control)
{
    if (control->page) {
        munmap(control->page, control->size);
        munmap(control->shelf_room, (size_t)control->shelf_count * CONTROL_SHELF_SET);
    }
    *control = (struct control){0};
}

/* ---- a partition's words ---- */

bool control_raise(_Atomic uint64_t *word, uint64_t value)
{
    uint64_t seen = atomic_load_explicit(word, memory_order_acquire);

    while (seen < value)
        if (atomic_compare_exchange_weak_explicit(word, &seen, value, memory_order_acq_rel, memory_order_acquire))
            return true;
    return false;
}

bool control_tags_changed(const struct control *control, uint32_t partition, const uint64_t *tags, uint32_t count,
                          uint64_t born)
{
    for (uint32_t i = 0; i < count; i++)
        if (atomic_load_explicit(control_tag_fence(control, partition, tags[i]), memory_order_acquire) > born)
            return true;
    return false;
}

/* A mark is set by the first change that finds the last one ten seconds old, so what lies above the one before covers
 * at least that time.  Who sleeps while it sets one leaves them lower, which lets more count as lately changed. */
uint64_t control_next_position(struct control *control, uint32_t partition)
{
    uint64_t position = atomic_fetch_add_explicit(&control->parts[partition].position, 1, memory_order_acq_rel) + 1;
    uint64_t now_ns = (uint64_t)clock_boot_ns(), set_ns = atomic_load(&control->page->mark_ns[partition]);

    (void)control_raise(&control->parts[partition].newest_change_ns, now_ns);
    if (now_ns >= set_ns + LATELY_NS &&
        atomic_compare_exchange_strong(&control->page->mark_ns[partition], &set_ns, now_ns)) {
        atomic_store(&control->page->mark_before[partition], atomic_load(&control->page->mark[partition]));
        atomic_store(&control->page->mark[partition], position - 1);
    }
    return position;
}

bool control_changed_lately(const struct control *control, uint32_t partition, uint64_t position)
{
    uint64_t newest_ns = atomic_load(&control->parts[partition].newest_change_ns);

    return position > atomic_load(&control->page->mark_before[partition]) &&
           (uint64_t)clock_boot_ns() < newest_ns + LATELY_NS;
}

struct control_question control_ask(const struct control *control, uint32_t partition)
{
    uint64_t proven = atomic_load_explicit(&control->parts[partition].proven, memory_order_acquire);

    return (struct control_question){.asked_ns = clock_boot_ns(), .rotation = (uint16_t)(proven >> 48)};
}

/* A proven word; the time is rounded down, which is the safe side. */
static uint64_t control_proven_word(uint64_t epoch, int64_t asked_ns)
{
    uint64_t us = asked_ns > 0 ? (uint64_t)asked_ns / 1000 : 0;

    return (uint64_t)control_tag(epoch) << 48 | (us & 0xffffffffffffu);
}

bool control_prove(struct control *control, uint32_t partition, struct control_question question,
                   uint64_t epoch, uint64_t position)
{
    struct control_part *part = &control->parts[partition];
    uint64_t next = control_proven_word(epoch, question.asked_ns);
    uint64_t seen = atomic_load_explicit(&part->proven, memory_order_acquire);

    for (;;) {
        if ((uint16_t)(seen >> 48) != question.rotation)
            return false;
        if (epoch == 0 || atomic_load_explicit(&part->epoch, memory_order_acquire) != epoch)
            return false;
        if (atomic_load_explicit(&part->applied, memory_order_acquire) < position)
            return false;
        STEP("prove_checked");
        if (control_proof_ns(seen, epoch) >= control_proof_ns(next, epoch))
            return control_proof_ns(seen, epoch) > 0;
        if (atomic_compare_exchange_strong_explicit(&part->proven, &seen, next, memory_order_acq_rel,
                                                    memory_order_acquire))
            return true;
    }
}

/* Take the proof away, in the name of the epoch that comes. */
static void control_unprove(struct control_part *part, uint64_t epoch)
{
    uint64_t seen = atomic_load_explicit(&part->proven, memory_order_acquire);

    while (!atomic_compare_exchange_weak_explicit(&part->proven, &seen, control_proven_word(epoch, 0),
                                                  memory_order_acq_rel, memory_order_acquire))
        continue;
}

/* What is left of a forgotten proof: that there was one, for this epoch.  It is never taken for a time, since the word
 * has another tag. */
static uint64_t control_forgotten_word(uint64_t epoch)
{
    return (uint64_t)control_tag(epoch) << 8 | 1;
}

bool control_forgotten(const struct control *control, uint32_t partition)
{
    const struct control_part *part = &control->parts[partition];
    uint64_t proven = atomic_load_explicit(&part->proven, memory_order_acquire);
    uint64_t epoch = atomic_load_explicit(&part->epoch, memory_order_acquire);

    return (uint16_t)(proven >> 48) != control_tag(epoch) &&
           (proven & 0xffffffffffffu) == control_forgotten_word(epoch);
}

void control_forget_proof(struct control *control, uint32_t partition)
{
    struct control_part *part = &control->parts[partition];
    uint64_t seen = atomic_load_explicit(&part->proven, memory_order_acquire);
    uint64_t epoch, next;
    uint16_t tag;

    /* Neither the epoch's tag nor one that a question on its way has noted: its answer proves nothing any more. */
    do {
        epoch = atomic_load_explicit(&part->epoch, memory_order_acquire);
        tag = (uint16_t)((seen >> 48) + 1);
        if (tag == control_tag(epoch))
            tag++;
        next = (uint64_t)tag << 48;
        if (control_proof_ns(seen, epoch) > 0 || (seen & 0xffffffffffffu) == control_forgotten_word(epoch))
            next |= control_forgotten_word(epoch);
    } while (!atomic_compare_exchange_weak_explicit(&part->proven, &seen, next, memory_order_acq_rel,
                                                    memory_order_acquire));
}

/* Everything up to the position counts as changed, and for all we know just now. */
static void control_floor(struct control_part *part, uint64_t position)
{
    (void)control_raise(&part->newest_change_ns, (uint64_t)clock_boot_ns());
    (void)control_raise(&part->floor, position);
}

bool control_adopt(struct control *control, uint32_t partition, uint64_t from, uint64_t to,
                   uint64_t position, uint64_t clear)
{
    struct control_part *part = &control->parts[partition];
    uint64_t seen = atomic_load_explicit(&part->epoch, memory_order_acquire);

    if (seen == to || seen != from || to == 0) /* done already, too late, or nonsense */
        return seen == to && to != 0;
    control_unprove(part, to);
    STEP("adopt_unproven");
    control_floor(part, position);
    (void)control_raise(&part->clear, clear);
    TRACE(.event = "floor", .partition = partition, .position = position);
    STEP("adopt_floor");
    TRACE(.event = "applied", .partition = partition, .position = position);
    (void)control_raise(&part->applied, position);
    (void)control_raise(&part->position, position);
    STEP("adopt_applied");
    TRACE(.event = "epoch", .partition = partition, .epoch = to, .position = position, .extra = from);
    seen = from;
    if (atomic_compare_exchange_strong_explicit(&part->epoch, &seen, to, memory_order_acq_rel, memory_order_acquire))
        return true;
    return seen == to;
}

void control_repair(struct control *control, uint32_t partition, uint64_t position)
{
    struct control_part *part = &control->parts[partition];

    control_floor(part, position);
    TRACE(.event = "floor", .partition = partition, .position = position);
    STEP("repair_floor");
    TRACE(.event = "applied", .partition = partition, .position = position);
    (void)control_raise(&part->applied, position);
    (void)control_raise(&part->position, position);
}

int64_t control_proven_ns(const struct control *control, uint32_t partition)
{
    const struct control_part *part = &control->parts[partition];
    uint64_t proven = atomic_load_explicit(&part->proven, memory_order_acquire);

    return control_proof_ns(proven, atomic_load_explicit(&part->epoch, memory_order_acquire));
}

/* ---- host-wide words ---- */

void control_count(struct control *control, enum control_counter counter, uint64_t n)
{
    atomic_fetch_add_explicit(&control->page->counters[counter], n, memory_order_relaxed);
}

uint64_t control_counted(const struct control *control, enum control_counter counter)
{
    return atomic_load_explicit(&control->page->counters[counter], memory_order_relaxed);
}

void control_set_redis_clock(struct control *control, int64_t offset_us)
{
    atomic_store_explicit(&control->page->redis_clock_us, offset_us, memory_order_relaxed);
}

int64_t control_redis_clock(const struct control *control)
{
    return atomic_load_explicit(&control->page->redis_clock_us, memory_order_relaxed);
}

uint64_t control_fleet(const struct control *control)
{
    return atomic_load_explicit(&control->page->fleet, memory_order_acquire);
}

bool control_join_fleet(struct control *control, uint64_t fleet, bool alone)
{
    uint64_t seen = 0;

    if (fleet == 0)
        return false;
    while (!atomic_compare_exchange_strong(&control->page->fleet, &seen, fleet)) {
        if (seen == fleet)
            return true;
        if (!alone)
            return false;
        /* What was proven of the other fleet says nothing here. */
        for (uint32_t p = 0; p < control->space.partitions; p++)
            control_unprove(&control->parts[p], 0);
    }
    return true;
}

/* The seat is two words, as a holder takes all of one.  The pid carries half of its holder's number, so a pid that a
 * stopped process stores late is known for what it is, and read as "not known yet". */
struct control_seat control_seat(const struct control *control)
{
    uint64_t holder = atomic_load_explicit(&control->page->seat_holder, memory_order_acquire);
    uint64_t pid = atomic_load_explicit(&control->page->seat_pid, memory_order_acquire);
    struct control_seat seat = {.holder = holder};

    if (holder != 0 && pid >> 32 == (holder & 0xffffffffu))
        seat.pid = (int32_t)(uint32_t)pid;
    return seat;
}

bool control_seat_take(struct control *control, uint64_t seen, uint64_t holder, int32_t pid)
{
    struct control_page *page = control->page;
    uint64_t next = holder << 32 | (uint32_t)pid;
    uint64_t old;

    if (!atomic_compare_exchange_strong(&page->seat_holder, &seen, holder))
        return false;
    /* For as long as the seat is ours the word becomes ours; a predecessor that wakes up finds its swap fail, then the
     * seat not its own. */
    old = atomic_load(&page->seat_pid);
    while (atomic_load(&page->seat_holder) == holder && old != next)
        if (atomic_compare_exchange_strong(&page->seat_pid, &old, next))
            break;
    return true;
}
