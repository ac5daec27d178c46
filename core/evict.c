/*
 * evict.c - who leaves the tier: the void and the expired.
 * Asked by writer.c for each record that it comes to; knows nothing of LMDB.
 *
 * A record that leaves by mistake costs a miss, so nothing here needs care about the order of loads; whether a record
 * may be served is servable.c's business alone.
 */
#include <evict.h>

#define EVICT_FREE_SHARE 24u
#define EVICT_FREE_LEAST 64u /* pages: what a few transactions in a row need to copy on write, however small the map */

/* Has the history moved on over it?  No reader will ever be served it again. */
static bool evict_void(const struct record *record, const struct key *key, const struct control *control)
{
    const struct control_part *part = &control->parts[key->partition];
    const _Atomic uint64_t *fence = control_fence(control, key->partition, key->slot);

    if (record->kind != RECORD_VALUE && record->kind != RECORD_ABSENT)
        return true;
    return record->epoch != atomic_load_explicit(&part->epoch, memory_order_acquire) ||
           record->as_of < atomic_load_explicit(&part->floor, memory_order_acquire) ||
           record->born < atomic_load_explicit(&part->clear, memory_order_acquire) ||
           record->as_of < atomic_load_explicit(fence, memory_order_acquire) ||
           control_tags_changed(control, key->partition, record->tags, record->tag_count, record->born);
}

enum evict_choice evict_choose(const struct record *record, const struct key *key, const struct control *control,
                               int64_t now_ns)
{
    if (evict_void(record, key, control))
        return EVICT_VOID;
    return record->expires_ns <= now_ns ? EVICT_EXPIRED : EVICT_KEEP;
}

uint64_t evict_reserve(uint64_t pages)
{
    return pages / EVICT_FREE_SHARE + EVICT_FREE_LEAST;
}

uint64_t evict_excess(uint64_t used, uint64_t pages)
{
    uint64_t free = evict_reserve(pages), mark = pages > free ? pages - free : 0;

    return used > mark ? used - mark : 0;
}
