/*
 * host.c - the registry of this process's tiers: open, share, close, and live on after fork().
 * Between the public calls (freshet.c) and what a tier is made of (dir, control, tier, writer, flight).
 *
 * Whoever removes the files under us is noticed by name, once a second, off the path of a hit.
 *
 * Opening is serialised between processes by dir_lock, within this one by the registry's mutex.  The order is: the
 * directory, the control page (or a new one, everything old set aside), the map that this very page names, and
 * last we let ourselves be counted among the users.  So whoever holds the lock and sees no user may
 * rearrange anything.
 */
#include <clock.h>
#include <errno.h>
#include <fiber.h>
#include <host.h>
#include <log.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

_Atomic unsigned host_fork_generation = 1;

static pthread_once_t registry_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct host *registry; /* under registry_lock */
/* Hosts whose files have gone.  Calls may be under way there, and changes may wait in the page's outbox, which the
 * fleet's thread goes on sending; so they stay until this process closes its last handle. */
static struct host *ghosts;

static void registry_before_fork(void)
{
    pthread_mutex_lock(&registry_lock);
}

static void registry_in_parent(void)
{
    pthread_mutex_unlock(&registry_lock);
}

/* The child's registry is empty: what the parent had open is the parent's. */
static void registry_in_child(void)
{
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;

    registry_lock = fresh;
    registry = NULL;
    ghosts = NULL;
    fibers_after_fork();
    atomic_fetch_add(&host_fork_generation, 1);
}

static void registry_start(void)
{
    (void)pthread_atfork(registry_before_fork, registry_in_parent, registry_in_child);
}

/* ---- opening ---- */

/* The tier's upper limit was fixed with its page: the fleet's strong writes wait for no longer. */
static freshet_result host_bound_fits(const struct host *host, uint32_t bound_ms)
{
    if (bound_ms <= host->control.max_staleness_ms)
        return FRESHET_OK;
    return fail(FRESHET_EINVAL,
                "max_staleness_ms %u is above the tier's %u, fixed by who created it: give at most that", bound_ms,
                host->control.max_staleness_ms);
}

/* Does a page of another shape hold changes that Redis has not confirmed?  They must not be set aside with it. */
static bool host_changes_wait(const struct host *host)
{
    struct control_shape as_it_is = {.max_staleness_ms = host->shape.max_staleness_ms};
    struct control old;
    char why[256];
    bool wait = false;

    memcpy(as_it_is.name, host->shape.name, sizeof as_it_is.name);
    if (control_open(&old, host->dir.fd, &as_it_is, why, sizeof why) == CONTROL_FITS) {
        wait = control_outbox_waiting(&old, UINT32_MAX) > 0;
        control_close(&old);
    }
    return wait;
}

/* Is this page a copy of one that we had, put in its place?  Its map may be the very file that we still have open. */
static bool host_is_copy(const struct host *host)
{
    for (const struct host *ghost = ghosts; ghost; ghost = ghost->next)
        if (ghost->control.generation == host->control.generation)
            return true;
    return false;
}

/* ---- its pool ---- */

static int64_t host_deadline_ns(const struct host *host)
{
    return clock_boot_ns() + host->deadline_ms * CLOCK_NS_PER_MS;
}

/* Open the pool that the caller has named. */
static freshet_result host_open_pool(struct host *host, const freshet_options *options)
{
    freshet_result result;
    struct stat st;

    if (stat(options->pool, &st) == 0 && st.st_dev == host->dir.dev && st.st_ino == host->dir.ino)
        return fail(FRESHET_EINVAL, "pool: %s is the cache's own directory; a pool needs one for itself",
                    options->pool);
    result = pool_open(&host->pool, options->pool, options->pool_size, host_deadline_ns(host));
    if (result != FRESHET_OK)
        return result;
    if (options->tier_size > pool_pages(host->pool) * POOL_PAGE)
        return fail(FRESHET_EINVAL, "tier_size is %llu bytes, the pool in %s has only %llu: give that at most, or 0",
                    (unsigned long long)options->tier_size, pool_path(host->pool),
                    (unsigned long long)(pool_pages(host->pool) * POOL_PAGE));
    host->shape.pool = pool_nonce(host->pool);
    strcpy(host->shape.pool_path, pool_path(host->pool));
    return FRESHET_OK;
}

/* Open the one that the page names, which is not the caller's to choose. */
static freshet_result host_follow_pool(struct host *host)
{
    const char *path = host->control.pool_path;
    freshet_result result = pool_open(&host->pool, path, 0, host_deadline_ns(host));

    if (result == FRESHET_OK && pool_nonce(host->pool) == host->control.pool)
        return FRESHET_OK;
    return fail(FRESHET_EDIR,
                "%s belongs to a pool in %s, which is not there any more%s%s.  Name the pool that it is to be in, and "
                "it is begun anew there", host->dir.path, path, result == FRESHET_OK ? "" : ": ",
                result == FRESHET_OK ? "" : freshet_error());
}

/* Join it with a page of so many bytes and a tier of so many. */
static freshet_result host_join_pool(struct host *host, size_t control_size, uint64_t tier_size)
{
    uint64_t control_pages = (control_size + POOL_PAGE - 1) / POOL_PAGE;
    struct pool_member member = {
        .dir = &host->dir,
        .minimum = (host->pool_minimum + POOL_PAGE - 1) / POOL_PAGE,
        .least = control_pages + tier_least(tier_size),
        .most = control_pages + tier_least(tier_size) + tier_size / POOL_PAGE,
    };
    freshet_result result = pool_can_give(&host->dir);

    return result == FRESHET_OK ? pool_join(host->pool, &member, host_deadline_ns(host)) : result;
}

/* The page fits; is there room in its pool?  FRESHET_MISS: not for what the directory holds. */
static freshet_result host_join_with_page(struct host *host, char *ret_why, size_t why_size)
{
    freshet_result result = FRESHET_OK;

    if (host->control.pool == 0)
        return FRESHET_OK;
    if (!host->pool && (result = host_follow_pool(host)) != FRESHET_OK)
        return result;
    result = host_join_pool(host, host->control.size, host->control.tier_size);
    if (result == FRESHET_MISS)
        (void)snprintf(ret_why, why_size, "the pool in %s has no room for what it holds", pool_path(host->pool));
    return result;
}

/* Nothing of the old tier fits.  In a pool not even its memory may stay, and what is aside goes when more comes. */
static freshet_result host_set_aside(struct host *host, freshet_result (*set_aside)(struct dir *dir))
{
    freshet_result result = set_aside(&host->dir);

    return result == FRESHET_OK && host->pool ? set_aside(&host->dir) : result;
}

static freshet_result host_create_control(struct host *host)
{
    freshet_result result;

    if (host_set_aside(host, dir_set_aside) != FRESHET_OK)
        return FRESHET_EIO;
    if (host->pool) {
        if (host->shape.tier_size == 0)
            host->shape.tier_size = pool_pages(host->pool) * POOL_PAGE;
        result = host_join_pool(host, control_file_size(&host->shape), host->shape.tier_size);
        if (result == FRESHET_MISS)
            return fail(FRESHET_EBUSY, "%s has files of others that take more than its pool has left: remove them",
                        host->dir.path);
        if (result != FRESHET_OK)
            return result;
    }
    return control_create(&host->control, host->dir.fd, &host->shape);
}

/* ---- opening ---- */

/* Map a page that fits, or set everything aside and begin anew.  Under dir_lock. */
static freshet_result host_open_control(struct host *host)
{
    char why[512];
    enum control_fit fit = control_open(&host->control, host->dir.fd, &host->shape, why, sizeof why);
    freshet_result result;

    if (fit == CONTROL_FITS && host_is_copy(host)) {
        control_close(&host->control);
        (void)snprintf(why, sizeof why, "the file `control` is a copy of the one that this process had open");
        fit = CONTROL_FOREIGN;
    }
    if (fit == CONTROL_FITS) {
        if ((result = host_join_with_page(host, why, sizeof why)) != FRESHET_MISS)
            return result;
        control_close(&host->control);
        fit = CONTROL_SHAPE;
    }
    if (fit != CONTROL_MISSING && dir_used(&host->dir))
        return fail(fit == CONTROL_NAMESPACE ? FRESHET_EDIR : FRESHET_EBUSY,
                    "%s is in use by other processes and cannot be opened so: %s", host->dir.path, why);
    if (fit == CONTROL_SHAPE && host_changes_wait(host))
        return fail(FRESHET_EBUSY,
                    "%s holds changes that wait for Redis and cannot be begun anew: %s.  Open it as it is and join, "
                    "until they are sent",
                    host->dir.path, why);
    if (fit != CONTROL_MISSING)
        say(FRESHET_WARN, "%s: set aside and begun anew: %s", host->dir.path, why);
    return host_create_control(host);
}

/* Open the map that the page names; a damaged one goes aside, once, and an empty one begins: the page stays true. */
static freshet_result host_open_tier(struct host *host)
{
    freshet_result result = FRESHET_EIO;
    struct tier *tier = NULL;
    bool damaged = false;

    for (int round = 0; round < 2; round++) {
        result =
            tier_open(&tier, host->dir.path, host->control.generation, &host->control.space, host->control.tier_size,
                      host->limit, &damaged);
        if (result == FRESHET_OK || !damaged || dir_used(&host->dir))
            break;
        say(FRESHET_WARN, "%s: the map is damaged (%s): set aside and begun anew", host->dir.path, freshet_error());
        if ((result = host_set_aside(host, dir_set_map_aside)) != FRESHET_OK)
            break;
    }
    if (tier && host->pool)
        tier_will_give(tier);
    if (tier) {
        shelf_open(&host->shelf, &host->control);
        tier_use_shelf(tier, &host->shelf);
    }
    atomic_store(&host->tier, tier);
    return result;
}

/* Everything below the lock: page, map, and being counted. */
static freshet_result host_open_locked(struct host *host)
{
    freshet_result result;

    if ((result = host_open_control(host)) != FRESHET_OK)
        return result;
    host->page = dir_page(&host->dir);
    if ((result = host_bound_fits(host, host->shape.max_staleness_ms)) != FRESHET_OK)
        return result;
    if ((result = host_open_tier(host)) != FRESHET_OK)
        return result;
    return dir_enter(&host->dir);
}

/* Free a host that nobody else knows of, whatever of it is open. */
static void host_free(struct host *host)
{
    struct tier *tier = atomic_load(&host->tier);

    keeper_close(host->keeper);
    if (tier)
        tier_close(tier);
    if (host->control.page)
        control_close(&host->control);
    flights_close(host->flights);
    pthread_mutex_destroy(&host->lock);
    pool_close(host->pool);
    dir_close(&host->dir);
    free(host);
}

/* In a pool what is held idly must be given to others, so the writer is there from the beginning. */
static freshet_result host_start_writer(struct host *host)
{
    struct writer *writer = NULL;
    freshet_result result = FRESHET_OK;
    bool left;

    pthread_mutex_lock(&host->lock);
    if (!atomic_load(&host->writer)) {
        result = writer_open(&writer, &host->control, atomic_load(&host->tier));
        if (result == FRESHET_OK && host->pool && (result = writer_share(writer, host->pool)) != FRESHET_OK)
            writer_close(writer, &left);
        if (result == FRESHET_OK)
            atomic_store_explicit(&host->writer, writer, memory_order_release);
    }
    pthread_mutex_unlock(&host->lock);
    return result;
}

/* Open the directory's tier for the first time in this process.  Takes over `dir`. */
static freshet_result host_create(struct host **ret_host, const struct freshet *cache, struct dir *dir)
{
    struct host *host = aligned_alloc(64, (sizeof *host + 63) / 64 * 64);
    freshet_result result = FRESHET_ENOMEM;

    if (!host) {
        dir_close(dir);
        return fail(FRESHET_ENOMEM, "no memory to open %s", cache->name);
    }
    memset(host, 0, sizeof *host);
    host->dir = *dir;
    pthread_mutex_init(&host->lock, NULL);
    host->born_in = atomic_load(&host_fork_generation);
    host->good_in = host->born_in;
    host->looked_ns = clock_boot_ns();
    host->limit = (uint64_t)cache->options.value_max + FRESHET_KEY_MAX;
    host->deadline_ms = cache->options.deadline_ms;
    memcpy(host->shape.name, cache->name, sizeof host->shape.name);
    host->shape.tier_size = cache->options.tier_size;
    host->shape.partitions = cache->options.partitions;
    host->shape.max_staleness_ms = cache->options.max_staleness_ms;
    host->pool_minimum = cache->options.pool_minimum;
    if ((result = flights_open(&host->flights)) != FRESHET_OK)
        goto failed;
    if (cache->options.pool && (result = host_open_pool(host, &cache->options)) != FRESHET_OK)
        goto failed;
    if ((result = dir_lock(&host->dir, clock_boot_ns() + host->deadline_ms * CLOCK_NS_PER_MS)) != FRESHET_OK)
        goto failed;
    result = host_open_locked(host);
    dir_unlock(&host->dir);
    if (result == FRESHET_OK && host->pool)
        result = host_start_writer(host);
    if (result != FRESHET_OK)
        goto failed;
    *ret_host = host;
    return FRESHET_OK;
failed:
    host_free(host);
    return result;
}

/* May this handle share an open host? */
static freshet_result host_fits(const struct host *host, const struct freshet *cache)
{
    const freshet_options *options = &cache->options;

    if (strcmp(host->shape.name, cache->name) != 0)
        return fail(FRESHET_EBUSY, "%s is open in this process as the cache \"%s\", not \"%s\": one directory a cache",
                    host->dir.path, host->shape.name, cache->name);
    if (options->tier_size && options->tier_size != host->control.tier_size)
        return fail(FRESHET_EBUSY, "%s is open in this process with %llu bytes, not %llu: give the same size, or 0",
                    host->dir.path, (unsigned long long)host->control.tier_size,
                    (unsigned long long)options->tier_size);
    if (options->partitions && options->partitions != host->control.space.partitions)
        return fail(FRESHET_EBUSY, "%s is open in this process with %u partitions, not %u", host->dir.path,
                    host->control.space.partitions, options->partitions);
    if (options->pool && (!host->pool || !pool_is_at(host->pool, options->pool)))
        return fail(FRESHET_EBUSY, "%s is open in this process in %s%s, not in the pool %s", host->dir.path,
                    host->pool ? "the pool " : "no pool", host->pool ? pool_path(host->pool) : "", options->pool);
    if ((options->pool_size && options->pool_size / POOL_PAGE != pool_pages(host->pool)) ||
        (options->pool_minimum && (options->pool_minimum + POOL_PAGE - 1) / POOL_PAGE != pool_minimum(host->pool)))
        return fail(FRESHET_EBUSY, "%s is open in this process in a pool of %llu bytes with a minimum of %llu: give "
                    "the same, or 0", host->dir.path, (unsigned long long)(pool_pages(host->pool) * POOL_PAGE),
                    (unsigned long long)(pool_minimum(host->pool) * POOL_PAGE));
    if (options->value_max + (uint64_t)FRESHET_KEY_MAX > host->limit)
        return fail(FRESHET_EBUSY, "%s is open in this process with a smaller value_max: open the larger one first",
                    host->dir.path);
    return host_bound_fits(host, options->max_staleness_ms);
}

static struct host *registry_find(const struct dir *dir)
{
    for (struct host *host = registry; host; host = host->next)
        if (host->dir.dev == dir->dev && host->dir.ino == dir->ino)
            return host;
    return NULL;
}

/* Under registry_lock. */
static freshet_result host_open_registered(struct freshet *cache, struct host **ret_host)
{
    struct dir dir;
    struct host *host;
    freshet_result result;

    if ((result = dir_open(&dir, cache->path, cache->name)) != FRESHET_OK)
        return result;
    host = registry_find(&dir);
    if (host) {
        dir_close(&dir);
        if ((result = host_fits(host, cache)) != FRESHET_OK)
            return result;
    } else {
        if ((result = host_create(&host, cache, &dir)) != FRESHET_OK)
            return result;
        host->next = registry;
        registry = host;
    }
    host->references++;
    uint32_t bound = atomic_load(&host->bound_ms);
    if (bound == 0 || cache->options.max_staleness_ms < bound)
        atomic_store(&host->bound_ms, cache->options.max_staleness_ms);
    *ret_host = host;
    return FRESHET_OK;
}

freshet_result host_open(struct freshet *cache)
{
    struct host *host = NULL;
    freshet_result result;

    pthread_once(&registry_once, registry_start);
    pthread_mutex_lock(&registry_lock);
    result = host_open_registered(cache, &host);
    pthread_mutex_unlock(&registry_lock);
    if (result == FRESHET_OK)
        atomic_store_explicit(&cache->host, host, memory_order_release);
    return result;
}

/* Close what nobody uses any more.  False: its writer is held up by a stopped sibling, now or at an earlier close; then
 * the map stays open in this process, and the next open of the directory goes on with it (LMDB allows no second one).
 */
static bool host_shut(struct host *host)
{
    struct writer *writer = atomic_exchange(&host->writer, NULL);
    bool left = false, locked;

    host_count_flush(host);
    if (writer)
        writer_close(writer, &left);
    if (left)
        say(FRESHET_WARN, "%s: closed with its writer held up by a stopped process; the map stays open",
            host->dir.path);
    host->stuck |= left;
    if (host->stuck)
        return false;
    /* LMDB's last closer tidies its lock file: nobody may be opening meanwhile.  Late is better than never. */
    locked = dir_lock(&host->dir, clock_boot_ns() + 2 * CLOCK_NS_PER_S) == FRESHET_OK;
    tier_close(atomic_exchange(&host->tier, NULL));
    dir_leave(&host->dir);
    if (locked)
        dir_unlock(&host->dir);
    return true;
}

/* Under registry_lock: take it out of the list that it is in. */
static void host_unlist(struct host *host)
{
    struct host **link = host->apart ? &ghosts : &registry;

    while (*link != host)
        link = &(*link)->next;
    *link = host->next;
}

/* Is there a handle that has not been opened anew? */
static bool ghosts_held(void)
{
    for (const struct host *ghost = ghosts; ghost; ghost = ghost->next)
        if (ghost->references > 0)
            return true;
    return false;
}

/* Of a process that has no handle left: nobody can be in a call there any more. */
static void ghosts_close(struct host *ghost)
{
    while (ghost) {
        struct host *next = ghost->next;
        const struct remote_ops *ops = atomic_exchange(&ghost->ops, NULL);

        if (ops)
            ops->close(atomic_exchange(&ghost->remote, NULL));
        if (host_shut(ghost))
            host_free(ghost);
        ghost = next;
    }
}

void host_close(struct host *host)
{
    struct host *gone = NULL;

    if (host->born_in != atomic_load(&host_fork_generation))
        return; /* a child closes a handle that it never used: the host is the parent's */
    /* All under the lock: this process must not open the map anew before it is closed. */
    pthread_mutex_lock(&registry_lock);
    if (--host->references == 0 && !host->apart && host_shut(host)) {
        host_unlist(host);
        host_free(host);
    }
    if (!registry && !ghosts_held()) {
        gone = ghosts;
        ghosts = NULL;
    }
    pthread_mutex_unlock(&registry_lock);
    ghosts_close(gone);
}

/* ---- files that go ---- */

/* Is the page in the directory another one than ours, or none?  Then the handles open anew. */
static bool host_is_gone(struct host *host, const struct dir *dir)
{
    if (dir_page(dir) == host->page)
        return false;
    if (atomic_exchange(&host->good_in, 0) != 0)
        say(FRESHET_WARN, "%s: its files were removed or replaced; it is opened anew", host->dir.path);
    return true;
}

void host_look(struct host *host, int64_t now_ns)
{
    int64_t looked_ns = atomic_load_explicit(&host->looked_ns, memory_order_relaxed);

    if (now_ns - looked_ns < CLOCK_NS_PER_S || !atomic_compare_exchange_strong(&host->looked_ns, &looked_ns, now_ns))
        return;
    if (pthread_mutex_trylock(&host->lock) != 0)
        return; /* it is being mended, or the like */
    if (dir_intact(&host->dir)) /* of descriptors that the host program has closed nothing can be told */
        (void)host_is_gone(host, &host->dir);
    pthread_mutex_unlock(&host->lock);
}

/* Under registry_lock: put it aside, as it is, and let a handle go from it. */
static void host_set_apart(struct host *host)
{
    if (!host->apart) {
        host_unlist(host);
        host->apart = true;
        host->next = ghosts;
        ghosts = host;
    }
}

/* ---- after fork ---- */

/* Leave the inherited host behind: its threads are not here, its locks may be held by ghosts. */
static void host_abandon(struct host *ghost)
{
    if (ghost->abandoned)
        return;
    ghost->abandoned = true;
    if (atomic_load(&ghost->writer))
        writer_abandon(atomic_load(&ghost->writer));
    tier_abandon(atomic_load(&ghost->tier));
    shelf_abandon(&ghost->shelf);
    pool_abandon(ghost->pool);
    dir_abandon(&ghost->dir);
    if (atomic_load(&ghost->ops))
        atomic_load(&ghost->ops)->abandon(atomic_load(&ghost->remote));
}

freshet_result host_revive(struct freshet *cache)
{
    struct host *ghost, *host = NULL;
    freshet_result result = FRESHET_OK;
    bool revived = false;

    pthread_mutex_lock(&registry_lock);
    ghost = atomic_load(&cache->host);
    if (atomic_load(&ghost->good_in) != atomic_load(&host_fork_generation)) { /* else another thread was quicker */
        if (ghost->born_in != atomic_load(&host_fork_generation))
            host_abandon(ghost);
        else
            host_set_apart(ghost);
        result = host_open_registered(cache, &host);
        if (result == FRESHET_OK) {
            ghost->references--;
            atomic_store(&cache->rejoining, atomic_load(&cache->joined));
            atomic_store_explicit(&cache->host, host, memory_order_release);
            revived = true;
        }
    }
    pthread_mutex_unlock(&registry_lock);
    if (result != FRESHET_OK)
        return result;
    if (revived && atomic_load(&cache->joined)) {
        const struct remote_ops *ops = atomic_load(&ghost->ops);

        atomic_store(&cache->joined, false);
        /* A fleet that cannot be reached now goes on trying; the tier itself is open, which is what was asked. */
        if (ops && !remote_attached(cache) && ops->rejoin(cache, atomic_load(&ghost->remote)) < 0)
            say(FRESHET_WARN, "opened anew: could not join the fleet again: %s", freshet_error());
        atomic_store(&cache->rejoining, false);
    }
    return FRESHET_OK;
}

/* ---- filling ---- */

/* The host program has closed descriptors of ours.  Open the map again beside the old one, which readers may still be
 * in and which is therefore leaked; its memory stays valid. */
static freshet_result host_mend(struct host *host, struct writer *broken)
{
    struct dir dir;
    struct tier *tier = NULL;
    bool damaged;
    freshet_result result = FRESHET_OK;

    pthread_mutex_lock(&host->lock);
    if (atomic_load(&host->writer) != broken)
        goto out;
    if ((result = dir_open(&dir, host->dir.path, host->shape.name)) != FRESHET_OK)
        goto out;
    if (host_is_gone(host, &dir)) { /* not to be opened under the old page's name beside the new one */
        dir_close(&dir);
        result = FRESHET_MISS;
        goto out;
    }
    say(FRESHET_WARN, "%s: descriptors of the tier were closed by the host program; opening it again", host->dir.path);
    if (dir.ino != host->dir.ino || dir.dev != host->dir.dev) {
        dir_close(&dir);
        result =
            fail(FRESHET_EDIR, "%s was replaced while it was open: close the cache and open it again", host->dir.path);
        goto out;
    }
    if ((result = dir_lock(&dir, clock_boot_ns() + CLOCK_NS_PER_S)) != FRESHET_OK) {
        dir_close(&dir);
        goto out;
    }
    tier_abandon(atomic_load(&host->tier));
    result = tier_open(&tier, host->dir.path, host->control.generation, &host->control.space, host->control.tier_size,
                      host->limit, &damaged);
    if (result == FRESHET_OK && host->pool)
        tier_will_give(tier);
    if (result == FRESHET_OK)
        tier_use_shelf(tier, &host->shelf);
    if (result == FRESHET_OK)
        result = dir_enter(&dir);
    dir_unlock(&dir);
    if (result != FRESHET_OK) {
        dir_close(&dir);
        goto out;
    }
    free(dir.path); /* the handles know the old one; it says the same */
    dir.path = host->dir.path;
    host->dir.path = NULL;
    if (host->dir.fd == dir.fd || host->dir.fd == dir.lock_fd) /* the old numbers are the new ones' */
        host->dir.fd = -1;
    if (host->dir.lock_fd == dir.fd || host->dir.lock_fd == dir.lock_fd)
        host->dir.lock_fd = -1;
    dir_abandon(&host->dir);
    host->dir = dir;
    atomic_store(&host->tier, tier);
    atomic_store(&host->writer, NULL); /* the broken one has ended its thread; its memory is left to late callers */
out:
    pthread_mutex_unlock(&host->lock);
    return result;
}

freshet_result host_writer(struct host *host, struct writer **ret_writer)
{
    for (int round = 0; round < 2; round++) {
        struct writer *writer = atomic_load_explicit(&host->writer, memory_order_acquire);
        freshet_result result;

        if (!writer) {
            if ((result = host_start_writer(host)) != FRESHET_OK)
                return result;
            writer = atomic_load_explicit(&host->writer, memory_order_acquire);
        }
        if (!writer_broken(writer)) {
            *ret_writer = writer;
            return FRESHET_OK;
        }
        if ((result = host_mend(host, writer)) != FRESHET_OK)
            break;
    }
    control_count(&host->control, COUNT_FILLS_DROPPED, 1);
    return FRESHET_MISS;
}

freshet_result host_fill(struct host *host, const struct key *key, const struct record *record, const void *value,
                         uint64_t *ret_ticket)
{
    struct writer *writer;
    freshet_result result = host_writer(host, &writer);

    return result == FRESHET_OK ? writer_fill(writer, key, record, value, ret_ticket) : result;
}

void host_end_turn(struct host *host, struct turn *turn)
{
    struct writer *writer = atomic_load_explicit(&host->writer, memory_order_acquire);

    turn_land(turn);
    if (!writer || !writer_ends_turn(writer, turn))
        turn_end(turn);
}

/* ---- counting ---- */

static _Thread_local unsigned host_thread __attribute__((tls_model("initial-exec")));
static _Atomic unsigned host_threads;

static void host_stripe_flush(struct host *host, struct host_stripe *stripe)
{
    static const enum control_counter counters[3] = {COUNT_HITS, COUNT_ABSENTS, COUNT_MISSES};

    for (unsigned i = 0; i < 3; i++) {
        uint64_t all = atomic_load_explicit(&stripe->counts[i], memory_order_relaxed);
        uint64_t before = atomic_exchange_explicit(&stripe->flushed[i], all, memory_order_relaxed);

        if (all != before) /* of two who flush at once one may take back what the other took twice */
            control_count(&host->control, counters[i], all - before);
    }
}

/* A thread's first answer. */
static __attribute__((noinline)) void host_thread_start(void)
{
    host_thread = atomic_fetch_add(&host_threads, 1) + 1;
    if (host_thread == 0 || host_thread > HOST_STRIPES)
        host_thread = HOST_STRIPES;
}

/* Once a second. */
static __attribute__((noinline)) void host_stripe_due(struct host *host, struct host_stripe *stripe, int64_t now_ns)
{
    struct writer *writer;

    atomic_store_explicit(&stripe->flushed_ns, now_ns, memory_order_relaxed);
    host_stripe_flush(host, stripe);
    host_look(host, now_ns);
    if (!atomic_load_explicit(&host->writer, memory_order_relaxed) && shelf_due(&host->shelf) &&
        host_writer(host, &writer) == FRESHET_OK)
        writer_rise(writer); /* nobody else fulfils the wishes of who only reads */
}

void host_count(struct host *host, enum control_counter counter, int64_t now_ns)
{
    struct host_stripe *stripe;
    _Atomic uint64_t *count;

    if (__builtin_expect(host_thread == 0, 0))
        host_thread_start();
    stripe = &host->stripes[host_thread - 1];
    count = &stripe->counts[counter == COUNT_HITS ? 0 : counter == COUNT_ABSENTS ? 1 : 2];
    if (__builtin_expect(host_thread == HOST_STRIPES, 0))
        atomic_fetch_add_explicit(count, 1, memory_order_relaxed);
    else
        atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + 1, memory_order_relaxed);
    if (__builtin_expect(now_ns - atomic_load_explicit(&stripe->flushed_ns, memory_order_relaxed) > CLOCK_NS_PER_S, 0))
        host_stripe_due(host, stripe, now_ns);
}

void host_count_flush(struct host *host)
{
    for (unsigned i = 0; i < HOST_STRIPES; i++)
        host_stripe_flush(host, &host->stripes[i]);
}
