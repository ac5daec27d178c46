/*
 * evict.c - who leaves the tier: void, expired, or cold.
 * Asked by writer.c for each record that its hand comes to; knows nothing of LMDB.
 *
 * A record that leaves by mistake costs a miss, so nothing here needs care about the order of loads; whether a record
 * may be served is servable.c's business alone.
 */
#include <evict.h>

#define EVICT_MARK_PERCENT 85u
#define EVICT_FREE_LEAST   32u /* pages: what a transaction on a small map needs to copy on write */

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

enum evict_choice evict_choose(const struct record *record, const struct key *key, struct control *control,
                               int64_t now_ns, bool need)
{
    if (evict_void(record, key, control))
        return EVICT_VOID;
    if (record->expires_ns <= now_ns)
        return EVICT_EXPIRED;
    if (!need || control_touch_clear(control, key->touch))
        return EVICT_KEEP;
    return EVICT_COLD;
}

uint64_t evict_excess(uint64_t used, uint64_t pages)
{
    uint64_t mark = pages / 100 * EVICT_MARK_PERCENT + pages % 100 * EVICT_MARK_PERCENT / 100;

    if (pages - mark < EVICT_FREE_LEAST)
        mark = pages > EVICT_FREE_LEAST ? pages - EVICT_FREE_LEAST : 0;
    return used > mark ? used - mark : 0;
}
