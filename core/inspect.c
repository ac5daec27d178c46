/*
 * inspect.c - look inside: the numbers of freshet_stat and the walk of freshet_each.
 * Beside freshet.c, and apart from it since nothing here is on any value's path.
 */
#include <clock.h>
#include <host.h>
#include <log.h>
#include <servable.h>
#include <string.h>

static void stat_counters(const struct control *control, freshet_stats *s)
{
    uint64_t *const into[] = {
        [COUNT_HITS] = &s->hits,
        [COUNT_ABSENTS] = &s->absents,
        [COUNT_STALES] = &s->stales,
        [COUNT_MISSES] = &s->misses,
        [COUNT_REDIS_HITS] = &s->redis_hits,
        [COUNT_REDIS_MISSES] = &s->redis_misses,
        [COUNT_LOADS] = &s->loads,
        [COUNT_JOINED] = &s->joined,
        [COUNT_LOAD_FAILURES] = &s->load_failures,
        [COUNT_PUTS] = &s->puts,
        [COUNT_INVALIDATIONS] = &s->invalidations,
        [COUNT_CLEARS] = &s->clears,
        [COUNT_QUEUED] = &s->queued,
        [COUNT_RESENT] = &s->resent,
        [COUNT_FILLS] = &s->fills,
        [COUNT_FILLS_DROPPED] = &s->fills_dropped,
        [COUNT_FILLS_REFUSED] = &s->fills_refused,
        [COUNT_EVICTIONS] = &s->evictions,
        [COUNT_VOIDS] = &s->voids,
        [COUNT_EXPIRED] = &s->expired,
        [COUNT_FRAMES] = &s->frames,
        [COUNT_FRAMES_REFUSED] = &s->frames_refused,
        [COUNT_RENEWALS] = &s->renewals,
        [COUNT_RENEWALS_FAILED] = &s->renewals_failed,
        [COUNT_ADOPTIONS] = &s->adoptions,
        [COUNT_REPAIRS] = &s->repairs,
        [COUNT_TAKEOVERS] = &s->takeovers,
        [COUNT_RECONNECTS] = &s->reconnects,
        [COUNT_MAP_FULL] = &s->map_full,
        [COUNT_TAG_CHANGES] = &s->tag_changes,
    };

    for (int i = 0; i < COUNT_ALL; i++)
        *into[i] = control_counted(control, (enum control_counter)i);
}

/* How long ago each partition was proven, and of them the worst; -1 when one never was. */
static int64_t stat_proven_age_ms(const struct control *control)
{
    int64_t worst = 0;

    for (uint32_t p = 0; p < control->space.partitions; p++) {
        int64_t proven = control_proven_ns(control, p);
        int64_t age = clock_boot_ns() - proven;

        if (proven == 0)
            return -1;
        if (age > worst)
            worst = age;
    }
    return (worst + CLOCK_NS_PER_MS - 1) / CLOCK_NS_PER_MS;
}

static void stat_coherence(struct control *control, freshet_stats *s)
{
    const struct control_part *part = &control->parts[0];
    struct control_seat seat = control_seat(control);
    size_t slots = (size_t)control->space.fence_slots * control->space.partitions;

    s->fleet = control_fleet(control) != 0;
    s->proven_age_ms = s->fleet ? stat_proven_age_ms(control) : -1;
    s->max_staleness_ms = control->max_staleness_ms;
    s->epoch = atomic_load(&part->epoch);
    s->position = atomic_load(&part->position);
    s->applied = atomic_load(&part->applied);
    s->floor = atomic_load(&part->floor);
    s->subscriber_pid = seat.holder ? seat.pid : 0;
    s->outbox = control_outbox_count(control);
    s->partitions = control->space.partitions;
    s->fence_slots = control->space.fence_slots;
    for (size_t i = 0; i < slots; i++)
        s->fences += atomic_load_explicit(&control->fences[i], memory_order_relaxed) != 0;
    for (size_t i = 0; i < (size_t)CONTROL_TAG_SLOTS * control->space.partitions; i++)
        s->tag_fences += atomic_load_explicit(&control->tag_fences[i], memory_order_relaxed) != 0;
}

static void stat_pool(const struct pool *pool, freshet_stats *s)
{
    if (!pool)
        return;
    s->pool_size = pool_pages(pool) * POOL_PAGE;
    s->pool_share = pool_share(pool) * POOL_PAGE;
    s->pool_minimum = pool_minimum(pool) * POOL_PAGE;
    s->pool_free = pool_free(pool) * POOL_PAGE;
}

freshet_result freshet_stat(freshet *cache, freshet_stats *stats)
{
    freshet_stats full = {0};
    struct tier_facts facts = {0};
    struct host *host;

    if (!cache || !stats)
        return fail(FRESHET_EINVAL, "freshet_stat: the %s is NULL", cache ? "stats" : "cache");
    if (stats->struct_size < sizeof(size_t) || stats->struct_size > 4096)
        return fail(FRESHET_EINVAL, "freshet_stats.struct_size is %zu: start it with FRESHET_INIT(freshet_stats)",
                    stats->struct_size);
    if (!(host = host_of(cache)))
        return FRESHET_EIO;
    host_count_flush(host);
    stat_counters(&host->control, &full);
    stat_coherence(&host->control, &full);
    tier_facts(atomic_load(&host->tier), &facts);
    full.entries = facts.rows;
    full.bytes = facts.used_bytes + facts.index_bytes;
    full.live_bytes = facts.live_bytes;
    full.index_size = facts.index_bytes;
    full.tier_size = host->control.tier_size;
    full.control_size = host->control.size;
    full.readers = facts.readers;
    full.memory = facts.held_bytes + host->control.size;
    stat_pool(host->pool, &full);
    full.processes = dir_count(&host->dir);
    full.struct_size = stats->struct_size;
    memcpy(stats, &full, full.struct_size < sizeof full ? full.struct_size : sizeof full);
    return FRESHET_OK;
}

struct walk {
    struct host *host;
    int64_t bound_ns;
    freshet_each_fn fn;
    void *arg;
};

static bool walk_one(const uint8_t hash[16], const struct record *record, const void *key_bytes, void *arg)
{
    struct walk *walk = arg;
    struct control *control = &walk->host->control;
    struct judgement judged;
    struct key key;
    enum verdict verdict;

    key_from_hash(&key, &control->space, hash);
    verdict = servable(record, control, &key, walk->bound_ns, 0, &judged);
    freshet_entry entry = {
        .struct_size = sizeof entry,
        .key = key_bytes,
        .key_size = record->key_size,
        .value_size = record->value_size,
        .absent = record->kind == RECORD_ABSENT,
        .servable = verdict == SERVABLE,
        .why = verdict_name(verdict),
        .answer =
            {
                .struct_size = sizeof entry.answer,
                .source = FRESHET_FROM_TIER,
                .version = record->version,
                .writer = record->writer,
                .source_version = record->source_version,
                .position = record->as_of,
                .age_bound_ms = judged.age_ns < 0 ? -1 : (judged.age_ns + CLOCK_NS_PER_MS - 1) / CLOCK_NS_PER_MS,
                .ttl_ms =
                    record->expires_ns == RECORD_NEVER ? -1 : (record->expires_ns - judged.now_ns) / CLOCK_NS_PER_MS,
                .judged_at_ns = judged.now_ns,
            },
        .tags = record->tags,
        .tag_count = record->tag_count,
    };
    return walk->fn(&entry, walk->arg);
}

freshet_result freshet_each(freshet *cache, freshet_each_fn fn, void *arg)
{
    struct walk walk = {.fn = fn, .arg = arg};

    if (!cache || !fn)
        return fail(FRESHET_EINVAL, "freshet_each: the %s is NULL", cache ? "callback" : "cache");
    if (!(walk.host = host_of(cache)))
        return FRESHET_EIO;
    walk.bound_ns = cache->options.max_staleness_ms * CLOCK_NS_PER_MS;
    return tier_each(atomic_load(&walk.host->tier), walk_one, &walk);
}
