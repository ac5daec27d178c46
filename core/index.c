/*
 * index.c - the table's file, and what its one writer does.
 *
 *     head, 4096 bytes | a table of pages for each log, 4 bytes a sheet | buckets
 *
 * The file is given its greatest size at once, but memory only as the buckets come into use, always before they do: a
 * full file system leaves the table as large as it is, and is no SIGBUS.  The whole is mapped, so that growing moves
 * nothing.  For growing the file is opened again by its name, since a descriptor kept open might be closed, and its
 * number be another file's, by then.
 */
#include <index.h>

#include <errno.h>
#include <fcntl.h>
#include <log.h>
#include <step.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define INDEX_MAGIC 0x3278644965724646u /* "FFreIdx2" */
#define INDEX_HEAD_SIZE 4096u
#define INDEX_CHECKED 40u
#define INDEX_K0 0x6c6f72746e6f4346u /* "FControl" */
#define INDEX_K1 0x3178644965724646u
#define PAGE 4096u
#define BUCKET_BYTES 64u
#define BUCKETS_FIRST 256u
#define BUCKETS_STEP 1024u /* of memory taken at once */
#define FULL_NUM 7u /* grown when more than 7 of 10 slots are in use: buckets whose turn has not come hold more */
#define FULL_DEN 10u
#define SPLITS_MOST 4u /* for one record */

struct index_head {
    uint8_t head[64]; /* 0 magic u64 | 8 nonce | 16 map's pages | 24 sheets a log | 32 most buckets | 40 check, 16 */
    _Alignas(64) _Atomic uint64_t shape;
    _Alignas(64) _Atomic uint64_t words[INDEX_WORDS];
    _Atomic uint64_t room; /* buckets that have memory */
};

_Static_assert(sizeof(struct index_head) <= INDEX_HEAD_SIZE, "the tables begin behind it");
_Static_assert(sizeof(struct index_bucket) == BUCKET_BYTES, "a cache line");

/* ---- the file ---- */

struct index_plan {
    uint64_t sheets, buckets_most, fixed, size; /* fixed: bytes before the buckets */
};

static struct index_plan index_plan(uint64_t map_pages)
{
    struct index_plan plan = {.sheets = 1};
    uint64_t most;

    while (plan.sheets < map_pages)
        plan.sheets *= 2;
    plan.fixed = INDEX_HEAD_SIZE + (plan.sheets * 4 * INDEX_LOGS + PAGE - 1) / PAGE * PAGE;
    most = index_most(map_pages * PAGE);
    plan.buckets_most = most > plan.fixed + BUCKETS_FIRST * BUCKET_BYTES ? (most - plan.fixed) / BUCKET_BYTES
                                                                         : BUCKETS_FIRST;
    plan.size = plan.fixed + (plan.buckets_most * BUCKET_BYTES + PAGE - 1) / PAGE * PAGE;
    return plan;
}

static void index_head_encode(uint8_t head[64], uint64_t nonce, uint64_t map_pages, const struct index_plan *plan)
{
    memset(head, 0, 64);
    bytes_put64(head, INDEX_MAGIC);
    bytes_put64(head + 8, nonce);
    bytes_put64(head + 16, map_pages);
    bytes_put64(head + 24, plan->sheets);
    bytes_put64(head + 32, plan->buckets_most);
    key_siphash128(INDEX_K0, INDEX_K1, head, INDEX_CHECKED, head + INDEX_CHECKED);
}

/* Map an open file, whose numbers were checked or are our own. */
static bool index_map(struct index *index, int fd, const char *path, const struct index_plan *plan)
{
    struct stat st;
    uint8_t *base;

    if (fstat(fd, &st) != 0 || !(index->path = strdup(path)))
        return false;
    base = mmap(NULL, plan->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
        free(index->path);
        return false;
    }
    index->head = (struct index_head *)(void *)base;
    index->shape = &index->head->shape;
    index->words = index->head->words;
    for (uint32_t log = 0; log < INDEX_LOGS; log++)
        index->sheets[log] = (_Atomic uint32_t *)(void *)(base + INDEX_HEAD_SIZE) + log * plan->sheets;
    index->buckets = (struct index_bucket *)(void *)(base + plan->fixed);
    index->sheet_mask = (uint32_t)(plan->sheets - 1);
    index->buckets_most = plan->buckets_most;
    index->size = plan->size;
    index->dev = st.st_dev;
    index->ino = st.st_ino;
    return true;
}

static freshet_result index_failed(const char *path, const char *what)
{
    bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;

    return fail(full ? FRESHET_ENOSPC : FRESHET_EIO, "%s: cannot be %s: %s", path, what, strerror(errno));
}

/* posix_fallocate's own way of telling, as errno. */
static bool index_allocate(int fd, uint64_t from, uint64_t size)
{
    int rc;

    do
        rc = posix_fallocate(fd, (off_t)from, (off_t)size);
    while (rc == EINTR);
    errno = rc;
    return rc == 0;
}

freshet_result index_create(struct index *index, const char *path, uint64_t nonce, uint64_t map_pages)
{
    struct index_plan plan = index_plan(map_pages);
    freshet_result result;
    int fd;

    *index = (struct index){0};
    if (plan.sheets > INDEX_SHEETS_MOST)
        return fail(FRESHET_EINVAL, "%s: a tier of %llu pages is more than the %u that an index can tell apart", path,
                    (unsigned long long)map_pages, INDEX_SHEETS_MOST);
    if (unlink(path) != 0 && errno != ENOENT)
        return index_failed(path, "replaced");
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return index_failed(path, "made");
    if (ftruncate(fd, (off_t)plan.size) != 0 || !index_allocate(fd, 0, plan.fixed + BUCKETS_FIRST * BUCKET_BYTES) ||
        !index_map(index, fd, path, &plan)) {
        result = index_failed(path, "given its size");
        close(fd);
        (void)unlink(path);
        return result;
    }
    close(fd);
    atomic_store(&index->head->room, BUCKETS_FIRST);
    atomic_store(index->shape, UINT64_C(8) << 56 | BUCKETS_FIRST);
    index_head_encode(index->head->head, nonce, map_pages, &plan);
    return FRESHET_OK;
}

static bool index_file_fits(int fd, uint64_t nonce, uint64_t map_pages, const struct index_plan *plan)
{
    uint8_t head[64], wanted[64];
    struct stat st;

    index_head_encode(wanted, nonce, map_pages, plan);
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 077) == 0 &&
           (uint64_t)st.st_size == plan->size && pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head &&
           memcmp(head, wanted, sizeof head) == 0;
}

freshet_result index_open(struct index *index, const char *path, uint64_t nonce, uint64_t map_pages, bool *ret_unfit)
{
    struct index_plan plan = index_plan(map_pages);
    freshet_result result = FRESHET_OK;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    *index = (struct index){0};
    *ret_unfit = false;
    if (fd < 0) {
        *ret_unfit = errno == ENOENT || errno == ELOOP;
        return index_failed(path, "opened");
    }
    if (!index_file_fits(fd, nonce, map_pages, &plan)) {
        *ret_unfit = true;
        result = fail(FRESHET_EIO, "%s is damaged or belongs to another map", path);
    } else if (!index_map(index, fd, path, &plan)) {
        result = index_failed(path, "mapped");
    }
    close(fd);
    return result;
}

void index_close(struct index *index)
{
    if (!index->head)
        return;
    munmap(index->head, index->size);
    free(index->path);
    *index = (struct index){0};
}

static uint64_t index_room(const struct index *index)
{
    uint64_t room = atomic_load_explicit(&index->head->room, memory_order_relaxed);

    return room < index->buckets_most ? room : index->buckets_most;
}

uint64_t index_bytes(const struct index *index)
{
    return (uint64_t)((const uint8_t *)index->buckets - (const uint8_t *)index->head) +
           index_room(index) * BUCKET_BYTES;
}

/* ---- growing ---- */

/* Memory for buckets up to `count`. */
static bool index_make_room(struct index *index, uint64_t count)
{
    uint64_t room = index_room(index), to = room + BUCKETS_STEP, from;
    struct stat st;
    bool good;
    int fd;

    if (count <= room)
        return true;
    if (count > index->buckets_most)
        return false;
    if (to < count) /* garbage */
        to = count;
    if (to > index->buckets_most)
        to = index->buckets_most;
    fd = open(index->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return false;
    from = (uint64_t)((const uint8_t *)index->buckets - (const uint8_t *)index->head) + room * BUCKET_BYTES;
    good = fstat(fd, &st) == 0 && st.st_dev == index->dev && st.st_ino == index->ino &&
           index_allocate(fd, from, (to - room) * BUCKET_BYTES);
    close(fd);
    if (good)
        atomic_store_explicit(&index->head->room, to, memory_order_release);
    return good;
}

/* A slot in a bucket, or -1. */
static int bucket_free_way(const struct index_bucket *bucket)
{
    for (uint32_t way = 0; way < INDEX_WAYS; way++)
        if (atomic_load_explicit(&bucket->slots[way], memory_order_relaxed) == 0)
            return (int)way;
    return -1;
}

static void bucket_set(struct index_bucket *bucket, uint32_t way, uint64_t word, uint8_t touched)
{
    atomic_store_explicit(&bucket->touched[way], touched, memory_order_relaxed);
    atomic_store_explicit(&bucket->slots[way], word, memory_order_release);
}

/* Take what belongs there now from the bucket that is split to the new one behind all others: there first, then the
 * new shape, then away from here, so that a reader who looks again when the shape has changed misses nothing. */
static bool index_split(struct index *index, index_hash_fn hash, void *arg)
{
    uint64_t shape = index_shape(index), level = shape >> 56 & 31, count = shape & ((UINT64_C(1) << 56) - 1);
    uint64_t old_at = count - (UINT64_C(1) << level), next;
    struct index_bucket *old, *new;
    bool leaves[INDEX_WAYS] = {false};

    if (count < (UINT64_C(1) << level) || count >= (UINT64_C(2) << level) || !index_make_room(index, count + 1))
        return false; /* the first two: damaged */
    next = (count + 1 == UINT64_C(2) << level ? level + 1 : level) << 56 | (count + 1);
    old = &index->buckets[old_at];
    new = &index->buckets[count];
    for (uint32_t way = 0; way < INDEX_WAYS; way++) {
        uint64_t word = atomic_load_explicit(&old->slots[way], memory_order_relaxed), one, two;
        struct key key;

        bucket_set(new, way, 0, 0);
        if (word == 0)
            continue;
        leaves[way] = true;
        if (!hash(arg, word & PLACE_MASK, &key) || index_tag(&key) != (word & ~PLACE_MASK))
            continue; /* nobody's */
        one = index_bucket_at(index, next, index_first_hash(&key));
        two = index_bucket_at(index, next, index_second_hash(&key));
        leaves[way] = one != old_at && two != old_at;
        if (leaves[way] && (one == count || two == count))
            bucket_set(new, way, word, atomic_load_explicit(&old->touched[way], memory_order_relaxed));
    }
    STEP("index_split_set");
    atomic_store_explicit(index->shape, next, memory_order_release);
    STEP("index_split_shaped");
    for (uint32_t way = 0; way < INDEX_WAYS; way++)
        if (leaves[way])
            index_clear(&old->slots[way]);
    return true;
}

static void index_grow(struct index *index, index_hash_fn hash, void *arg)
{
    for (unsigned i = 0; i < SPLITS_MOST; i++) {
        uint64_t count = index_shape(index) & ((UINT64_C(1) << 56) - 1);
        uint64_t records = atomic_load_explicit(&index->words[INDEX_RECORDS], memory_order_relaxed);

        if (records / FULL_NUM * FULL_DEN < count * INDEX_WAYS || !index_split(index, hash, arg))
            return;
    }
}

/* ---- inserting ---- */

/* Let one of a full bucket go to its other bucket, where that has room; the way that is free then, or -1. */
static int bucket_relieve(struct index *index, struct index_bucket *bucket, index_hash_fn hash, void *arg)
{
    for (uint32_t way = 0; way < INDEX_WAYS; way++) {
        uint64_t word = atomic_load_explicit(&bucket->slots[way], memory_order_relaxed), shape = index_shape(index);
        struct index_bucket *one, *two, *other;
        struct key key;
        int free_way;

        if (word == 0 || !hash(arg, word & PLACE_MASK, &key) || index_tag(&key) != (word & ~PLACE_MASK)) {
            index_clear(&bucket->slots[way]);
            return (int)way;
        }
        one = &index->buckets[index_bucket_at(index, shape, index_first_hash(&key))];
        two = &index->buckets[index_bucket_at(index, shape, index_second_hash(&key))];
        other = one == bucket ? two : one;
        if (other == bucket || (free_way = bucket_free_way(other)) < 0)
            continue;
        bucket_set(other, (uint32_t)free_way, word, atomic_load_explicit(&bucket->touched[way], memory_order_relaxed));
        STEP("index_relieved");
        index_clear(&bucket->slots[way]);
        return (int)way;
    }
    return -1;
}

static uint32_t bucket_coldest(const struct index_bucket *bucket)
{
    uint32_t coldest = 0;

    for (uint32_t way = 1; way < INDEX_WAYS; way++)
        if (atomic_load_explicit(&bucket->touched[way], memory_order_relaxed) <
            atomic_load_explicit(&bucket->touched[coldest], memory_order_relaxed))
            coldest = way;
    return coldest;
}

void index_insert(struct index *index, const struct key *key, uint64_t place, uint8_t touched, index_hash_fn hash,
                  void *arg, uint64_t *ret_evicted)
{
    struct index_bucket *bucket, *other;
    uint64_t shape, word = index_tag(key) | place;
    int way;

    index_grow(index, hash, arg);
    *ret_evicted = 0;
    shape = index_shape(index);
    bucket = &index->buckets[index_bucket_at(index, shape, index_first_hash(key))];
    other = &index->buckets[index_bucket_at(index, shape, index_second_hash(key))];
    way = bucket_free_way(bucket);
    if (way < 0 && (way = bucket_free_way(other)) >= 0)
        bucket = other;
    if (way < 0)
        way = bucket_relieve(index, bucket, hash, arg);
    if (way < 0 && (way = bucket_relieve(index, other, hash, arg)) >= 0)
        bucket = other;
    if (way < 0) {
        way = (int)bucket_coldest(bucket);
        *ret_evicted = atomic_load_explicit(&bucket->slots[way], memory_order_relaxed) & PLACE_MASK;
    }
    bucket_set(bucket, (uint32_t)way, word, touched);
}
