/*
 * guard.c - a database write in progress: begin, left, end (freshet.h).  Beside freshet.c; below it the fleet behind
 * remote.h's door, or, on a host without one, keeper.c and the control page's own table.
 *
 * Both ends are invalidations.  The first voids what was read before it, and breaks the tickets of loads that run; in
 * between nothing is kept of what is loaded; the second voids whatever a broken guard may have let pass.  So whatever
 * becomes of a guard, when its end is confirmed nothing older than the commit is served any more.
 */
#include <changing.h>
#include <clock.h>
#include <keeper.h>
#include <log.h>
#include <options.h>
#include <stdlib.h>
#include <step.h>

#define HOLD_DEFAULT_MS 10000u
#define HOLD_LEAST_MS   100u
#define HOLD_MOST_MS    600000u

struct freshet_guard {
    freshet *cache;
    struct host *host;
    unsigned born_in;        /* the fork generation */
    struct remote_key *keys; /* hashes only: what was passed in is the caller's */
    uint32_t count;
    /* of a fleet */
    const struct remote_ops *ops; /* NULL: of this host alone */
    void *remote;
    struct remote_guard *remote_guard;
    /* of this host alone */
    struct keeper *keeper;
    struct kept kept;
};

/* ---- begin ---- */

/* By partition, then by hash; of equal ones the second goes. */
static int guard_compare(const void *a, const void *b)
{
    const struct remote_key *x = a, *y = b;

    if (x->partition != y->partition)
        return x->partition < y->partition ? -1 : 1;
    return memcmp(x->hash, y->hash, sizeof x->hash);
}

static uint32_t guard_unique(struct remote_key *keys, size_t count)
{
    uint32_t kept = 0;

    qsort(keys, count, sizeof *keys, guard_compare);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || guard_compare(&keys[kept - 1], &keys[i]) != 0) {
            keys[kept] = keys[i];
            keys[kept].data = NULL;
            keys[kept++].size = 0;
        }
    return kept;
}

static void guard_free(freshet_guard *guard)
{
    if (!guard)
        return;
    free(guard->kept.guarded);
    free(guard->keys);
    free(guard);
}

static freshet_result guard_check(const freshet_key *keys, size_t count, freshet_guard_options *options)
{
    freshet_result result;

    if (!keys || count == 0 || count > FRESHET_GUARD_KEYS_MAX)
        return fail(FRESHET_EINVAL, "freshet_guard_begin: give 1 to %u keys", FRESHET_GUARD_KEYS_MAX);
    for (size_t i = 0; i < count; i++)
        if ((result = changing_key_check(keys[i].data, keys[i].size)) != FRESHET_OK)
            return result;
    if (!options->hold_ms)
        options->hold_ms = HOLD_DEFAULT_MS;
    if (options->hold_ms < HOLD_LEAST_MS || options->hold_ms > HOLD_MOST_MS)
        return fail(FRESHET_EINVAL, "hold_ms is %u: give %u to %u", options->hold_ms, HOLD_LEAST_MS, HOLD_MOST_MS);
    return FRESHET_OK;
}

/* This process's keeper on the host; NULL with the thread's sentence set. */
static struct keeper *guard_keeper(struct host *host)
{
    struct keeper *keeper = NULL;

    pthread_mutex_lock(&host->lock);
    if (host->keeper || keeper_open(&keeper, &host->control) == FRESHET_OK) {
        if (!host->keeper)
            host->keeper = keeper;
        keeper = host->keeper;
    }
    pthread_mutex_unlock(&host->lock);
    return keeper;
}

/* Take the next position for each key: what was read before it is void. */
static uint64_t guard_raise(struct host *host, const freshet_guard *guard)
{
    uint64_t position = 0;

    for (uint32_t i = 0; i < guard->count; i++) {
        struct key key;

        key_from_hash(&key, &host->control.space, guard->keys[i].hash);
        position = changing_local(&host->control, &key);
    }
    return position;
}

static freshet_result guard_begin_local(freshet_guard *guard, const freshet_guard_options *options)
{
    struct control *control = &guard->host->control;
    uint8_t(*hashes)[16] = malloc(guard->count * sizeof *hashes);
    struct kept *kept = &guard->kept;
    bool good;

    *kept = (struct kept){.count = guard->count, .hold_ms = options->hold_ms, .fixed = options->fixed};
    kept->guarded = calloc(guard->count, sizeof *kept->guarded);
    if (!hashes || !kept->guarded) {
        free(hashes);
        return fail(FRESHET_ENOMEM, "no memory to guard %u keys", guard->count);
    }
    for (uint32_t i = 0; i < guard->count; i++)
        memcpy(hashes[i], guard->keys[i].hash, sizeof hashes[i]);
    good = guarded_begin(control, (const uint8_t(*)[16])hashes, guard->count,
                         clock_boot_ns() / CLOCK_NS_PER_MS + options->hold_ms, kept->guarded);
    free(hashes);
    if (!good)
        return fail(FRESHET_EBUSY, "too many guards are in force on this host, for one of the keys or in all");
    STEP("guard_set");
    (void)guard_raise(guard->host, guard);
    if (!(guard->keeper = guard_keeper(guard->host)) || keeper_add(guard->keeper, kept) != FRESHET_OK) {
        (void)guarded_end(control, kept->guarded, kept->count);
        return FRESHET_ENOMEM;
    }
    return FRESHET_OK;
}

freshet_result freshet_guard_begin(freshet *cache, const freshet_key *keys, size_t count,
                                   const freshet_guard_options *given, freshet_guard **ret_guard)
{
    freshet_write_options write = FRESHET_INIT(freshet_write_options);
    freshet_guard_options options;
    struct changing c;
    freshet_guard *guard;
    freshet_result result;

    if (!ret_guard)
        return fail(FRESHET_EINVAL, "freshet_guard_begin: ret_guard is NULL");
    if ((result = options_take(&options, sizeof options, given, "freshet_guard_options")) != FRESHET_OK ||
        (result = guard_check(keys, count, &options)) != FRESHET_OK)
        return result;
    write.deadline_ms = options.deadline_ms;
    write.wait = options.wait; /* judged as any change's */
    if ((result = changing_start(&c, cache, &write, NULL)) != FRESHET_OK)
        return result;
    guard = calloc(1, sizeof *guard);
    if (!guard || !(guard->keys = changing_keys(&c.host->control.space, keys, count))) {
        guard_free(guard);
        return fail(FRESHET_ENOMEM, "no memory to guard %zu keys", count);
    }
    guard->cache = cache;
    guard->host = c.host;
    guard->born_in = c.host->born_in;
    guard->count = guard_unique(guard->keys, count);
    guard->ops = c.ops;
    guard->remote = atomic_load(&c.host->remote);
    control_count(&c.host->control, COUNT_INVALIDATIONS, guard->count);
    if (c.ops) {
        struct remote_guarding guarding = {guard->keys, guard->count, options.hold_ms, options.fixed,
                                            options.wait == FRESHET_WAIT_HOSTS};

        result = c.ops->guard_begin(guard->remote, &guarding, c.deadline_ns, &guard->remote_guard);
    } else {
        result = guard_begin_local(guard, &options);
    }
    if (result != FRESHET_OK) {
        guard_free(guard);
        return result;
    }
    *ret_guard = guard;
    return FRESHET_OK;
}

/* ---- left ---- */

/* Is it ours, and are we where it was begun?  Not in a child, nor in another fleet or none. */
static bool guard_here(const freshet_guard *guard)
{
    if (guard->born_in != atomic_load(&host_fork_generation))
        return false;
    return guard->ops == atomic_load(&guard->host->ops) && guard->remote == atomic_load(&guard->host->remote) &&
           (guard->ops || control_fleet(&guard->host->control) == 0);
}

int64_t freshet_guard_left(freshet_guard *guard)
{
    if (!guard || !guard_here(guard))
        return 0;
    return guard->ops ? guard->ops->guard_left(guard->remote_guard) : keeper_left(guard->keeper, &guard->kept);
}

/* ---- end ---- */

/* The guard is of another place: forget it, and invalidate where we are now. */
static freshet_result guard_end_elsewhere(freshet_guard *guard, struct changing *c, struct remote_confirm *confirm)
{
    struct remote_change invalidate = {
        .kind = REMOTE_INVALIDATE,
        .keys = guard->keys,
        .count = guard->count,
        .source_version = c->options.source_version,
    };
    freshet_result lost = FRESHET_GUARD_LOST;

    if (c->ops) {
        freshet_result result = c->ops->change(atomic_load(&c->host->remote), &invalidate, c->deadline_ns, confirm);

        if (result < 0)
            return result;
        lost = result == FRESHET_OK ? FRESHET_GUARD_LOST : result;
    } else {
        confirm->position = guard_raise(c->host, guard);
    }
    /* A parent's guard is left alone by its child, memory and all: its locks may be held by ghosts. */
    if (guard->born_in != atomic_load(&host_fork_generation))
        return lost;
    if (guard->ops)
        guard->ops->guard_drop(guard->remote_guard);
    else
        (void)keeper_end(guard->keeper, &guard->kept);
    return lost;
}

static freshet_result guard_end_local(freshet_guard *guard, struct changing *c, struct remote_confirm *confirm)
{
    confirm->position = guard_raise(c->host, guard);
    confirm->version = clock_real_us();
    return keeper_end(guard->keeper, &guard->kept) ? FRESHET_OK : FRESHET_GUARD_LOST;
}

freshet_result freshet_guard_end(freshet_guard *guard, const freshet_write_options *options, freshet_change *change)
{
    struct remote_confirm confirm = {0};
    struct changing c;
    freshet_result result;

    if (!guard)
        return fail(FRESHET_EINVAL, "freshet_guard_end: the guard is NULL");
    if ((result = changing_start(&c, guard->cache, options, change)) != FRESHET_OK)
        return result;
    control_count(&c.host->control, COUNT_INVALIDATIONS, guard->count);
    if (!guard_here(guard))
        result = guard_end_elsewhere(guard, &c, &confirm);
    else if (guard->ops)
        result = guard->ops->guard_end(guard->remote, guard->remote_guard, c.options.source_version, c.deadline_ns,
                                       &confirm);
    else
        result = guard_end_local(guard, &c, &confirm);
    if (result < 0)
        return result;
    guard_free(guard);
    return changing_end(&c, result, &confirm);
}
