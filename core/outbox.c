/*
 * outbox.c - changes that Redis has not confirmed, in the control page, so that they survive any process.
 *
 * There is no count to leak: what is in the outbox is what its slots say.  A slot is one word and a hash.  The word
 * holds all that decides: state, kind, partition, and the owner (owner.h).  Every step is one compare-and-swap of that
 * word, so after kill -9 at any instruction each slot is in one of these states:
 *
 *   FREE -> CLAIMED    the adder has it, the hash is not all there.  Nothing has been promised: it hides no key, and
 *                      when its owner is dead it is simply freed.
 *   CLAIMED -> SENDING the hash is there.  The key is not served on this host from here on.  An owner that dies leaves
 *                      an orphan, which is taken like a queued one: an invalidation too many costs a miss.
 *   SENDING -> QUEUED  the owner gave up waiting; nobody owns it.
 *   QUEUED -> SENDING  the seat's holder sends it.  It reads the hash only now that the slot is its own, so a slot that
 *                      was freed and filled anew in between does no harm: it is then the new one that is sent.
 *   SENDING -> FREE    confirmed.  The caller has raised the fence before; who sees the slot free sees the fence.
 *
 * The word at the page's start makes the empty case one load: lower half-word 0 when nothing is in, else 1 + how many
 * slots a reader must look at (the mark); above it a version.  An adder first claims, then raises mark and version in
 * one swap, then fills in.  Whoever finds the topmost slots free lowers the mark by swapping the word that it read
 * *before* it looked.  If an adder claimed a slot after that look, its version either came before the swap, which fails
 * then, or comes after it and raises the mark again: so the mark covers every slot of an adder that has got beyond its
 * claim, and with it every one that hides a key.  All of this is sequentially consistent: an adder may tell another
 * process that its change is queued by any road, and whoever has heard of it must find the mark up.
 *
 * A reader takes word, then hash, each an acquire, while the slot may change hands.  If it meets the hash of a later
 * owner, then the earlier one had been freed, and the fence, which the reader looks at next (servable.c), is up.
 *
 * The shared clears.  With all slots taken a change becomes a clear of its partition, which always has room: one word a
 * partition, {state, generation, owner}.  Many may add to it, and each of them must be followed by a clear that was
 * sent later than its adding.  So adding makes it QUEUED under a new generation, whatever it was; the sender takes it
 * under a new generation; and only the sender, with nothing added since, frees it.  An adder's own confirmation ends
 * nothing: it costs a second clear, in an emergency, and needs no counting of adders that may be dead.
 *
 * The recent ring remembers what was confirmed: after a fail-over the new master may never have heard of it.  Its
 * entries are owned while they are written, like slots, so a stopped writer scribbles over nobody.
 */
#include <control.h>

#include <bytes.h>
#include <clock.h>
#include <owner.h>
#include <page.h>
#include <step.h>
#include <trace.h>

/* A slot's word:  owner's start 27 | owner's pid 22 | 0, 6 | partition 4 | kind 2 | state 3.  Free: all 0.
 * A shared clear's:  start 27 | pid 22 | 0, 1 | generation 11 | state 3.
 * A recent entry's:  start 27 | pid 22 | 0, 1 | version 12 | full 1 | busy 1. */
#define STATE_MASK 7u
#define KIND_SHIFT 3
#define PARTITION_SHIFT 5
#define PLACE_MASK 0x1f8u /* kind and partition */
#define GENERATION_SHIFT 3
#define GENERATION_MASK 0x7ffu
#define RECENT_BUSY 1u
#define RECENT_FULL 2u
#define RECENT_VERSION_SHIFT 2
#define RECENT_VERSION_MASK 0xfffu

/* Slot numbers from here on name a shared clear: base + partition + 16 * generation. */
#define CLEAR_BASE CONTROL_OUTBOX_SLOTS
#define MARK_MASK 0xffffu

_Static_assert(CLEAR_BASE + FRESHET_PARTITIONS_MAX * (GENERATION_MASK + 1) - 1 <= UINT16_MAX,
               "a slot number has 16 bits");
_Static_assert(FRESHET_PARTITIONS_MAX <= 16, "a word has 4 bits for the partition");

/* ---- the words ---- */

static enum control_outbox_state outbox_state(uint64_t word)
{
    return (enum control_outbox_state)(word & STATE_MASK);
}

/* Kind and partition, in a word's place. */
static uint64_t outbox_place(enum control_outbox_kind kind, uint32_t partition)
{
    return (uint64_t)kind << KIND_SHIFT | (uint64_t)partition << PARTITION_SHIFT;
}

/* Replace `seen`; false when the word is another by now. */
static bool outbox_swap(_Atomic uint64_t *word, uint64_t seen, uint64_t next)
{
    return atomic_compare_exchange_strong(word, &seen, next);
}

/* How many slots a walk must look at; the page may have been written to by anybody. */
static uint32_t outbox_reach(const struct control *control)
{
    uint32_t mark = (uint32_t)(atomic_load(&control->page->outbox_word) & MARK_MASK);

    if (mark == 0)
        return 0;
    return mark - 1 < CONTROL_OUTBOX_SLOTS ? mark - 1 : CONTROL_OUTBOX_SLOTS;
}

/* Raise mark and version: readers must look at the first `slots` slots, and at the shared clears. */
static void outbox_cover(struct control *control, uint32_t slots)
{
    _Atomic uint64_t *word = &control->page->outbox_word;
    uint64_t seen = atomic_load(word), mark;

    do
        mark = (seen & MARK_MASK) > slots + 1 ? seen & MARK_MASK : slots + 1;
    while (!atomic_compare_exchange_weak(word, &seen, ((seen >> 16) + 1) << 16 | mark));
}

/* The mark that would do, from what the slots say now. */
static uint32_t outbox_mark_needed(const struct control *control, uint32_t mark)
{
    uint32_t slots = mark - 1 < CONTROL_OUTBOX_SLOTS ? mark - 1 : CONTROL_OUTBOX_SLOTS;

    while (slots > 0 && outbox_state(atomic_load(&control->outbox[slots - 1].word)) == OUTBOX_FREE)
        slots--;
    if (slots > 0)
        return slots + 1;
    for (uint32_t p = 0; p < control->space.partitions; p++)
        if (outbox_state(atomic_load(&control->page->outbox_clears[p])) != OUTBOX_FREE)
            return 1;
    return 0;
}

/* Something was freed: lower the mark as far as it goes. */
static void outbox_lower(struct control *control)
{
    _Atomic uint64_t *word = &control->page->outbox_word;

    for (;;) {
        uint64_t seen = atomic_load(word);
        uint32_t mark = (uint32_t)(seen & MARK_MASK), needed;

        if (mark == 0 || (needed = outbox_mark_needed(control, mark)) >= mark)
            return;
        STEP("outbox_lowering");
        if (outbox_swap(word, seen, (seen & ~(uint64_t)MARK_MASK) | needed))
            return;
    }
}

/* ---- adding ---- */

/* Free what dead processes have claimed and never filled; how many. */
static uint32_t outbox_reap(struct control *control)
{
    struct owner_census census = {0};
    uint32_t freed = 0;

    for (uint32_t i = 0; i < CONTROL_OUTBOX_SLOTS; i++) {
        uint64_t word = atomic_load(&control->outbox[i].word);

        if (outbox_state(word) == OUTBOX_CLAIMED && !owner_alive_still(&census, word))
            freed += outbox_swap(&control->outbox[i].word, word, 0);
    }
    return freed;
}

/* Claim free slots, lowest first, until there are `count` in all; how many there are then. */
static uint32_t outbox_claim(struct control *control, uint64_t claimed, uint32_t have, uint32_t count,
                             uint16_t *ret_slots)
{
    for (uint32_t i = 0; i < CONTROL_OUTBOX_SLOTS && have < count; i++) {
        struct control_outbox *slot = &control->outbox[i];

        if (atomic_load_explicit(&slot->word, memory_order_relaxed) == 0 && outbox_swap(&slot->word, 0, claimed)) {
            STEP("outbox_claimed");
            ret_slots[have++] = (uint16_t)i;
        }
    }
    return have;
}

/* Claim all or none. */
static bool outbox_claim_all(struct control *control, uint64_t claimed, uint32_t count, uint16_t *ret_slots)
{
    uint32_t have = count <= CONTROL_OUTBOX_SLOTS ? outbox_claim(control, claimed, 0, count, ret_slots) : 0;

    if (have < count && count <= CONTROL_OUTBOX_SLOTS && outbox_reap(control) > 0)
        have = outbox_claim(control, claimed, have, count, ret_slots);
    if (have == count)
        return true;
    while (have > 0)
        (void)outbox_swap(&control->outbox[ret_slots[--have]].word, claimed, 0);
    outbox_lower(control); /* somebody may have found ours taken, and left the mark for our sake */
    return false;
}

/* Write into the partition's shared clear. */
static uint16_t outbox_share_clear(struct control *control, uint32_t partition)
{
    _Atomic uint64_t *word = &control->page->outbox_clears[partition];
    uint64_t seen = atomic_load(word), generation;

    do
        generation = ((seen >> GENERATION_SHIFT) + 1) & GENERATION_MASK;
    while (!atomic_compare_exchange_weak(word, &seen, generation << GENERATION_SHIFT | OUTBOX_QUEUED));
    STEP("outbox_shared");
    outbox_cover(control, 0);
    return (uint16_t)(CLEAR_BASE + partition + FRESHET_PARTITIONS_MAX * generation);
}

bool control_outbox_add(struct control *control, uint32_t partition, enum control_outbox_kind kind,
                        const uint8_t (*hashes)[16], uint32_t count, uint16_t *ret_slots)
{
    uint64_t ours = owner_self() | outbox_place(kind, partition);
    uint32_t highest = 0;

    if (kind == OUTBOX_CLEAR)
        count = 1;
    if (count == 0)
        return true;
    if (!outbox_claim_all(control, ours | OUTBOX_CLAIMED, count, ret_slots)) {
        if (kind != OUTBOX_CLEAR)
            return false;
        ret_slots[0] = outbox_share_clear(control, partition);
        return true;
    }
    for (uint32_t i = 0; i < count; i++)
        highest = ret_slots[i] > highest ? ret_slots[i] : highest;
    outbox_cover(control, highest + 1);
    STEP("outbox_covered");
    for (uint32_t i = 0; i < count; i++) {
        struct control_outbox *slot = &control->outbox[ret_slots[i]];

        atomic_store_explicit(&slot->low, kind == OUTBOX_CLEAR ? 0 : bytes_get64(hashes[i]), memory_order_release);
        atomic_store_explicit(&slot->high, kind == OUTBOX_CLEAR ? 0 : bytes_get64(hashes[i] + 8), memory_order_release);
        STEP("outbox_filled");
        atomic_store(&slot->word, ours | OUTBOX_SENDING);
    }
    TRACE(.event = "written", .partition = partition, .extra = kind, .hashes = hashes,
          .count = kind == OUTBOX_CLEAR ? 0 : count);
    return true;
}

/* ---- the recent ring ---- */

/* Own the next entry of the ring; NULL when all that come next are held up by others. */
static struct control_recent *outbox_recent_claim(struct control *control, uint64_t *ret_word)
{
    struct owner_census census = {0};

    for (int round = 0; round < 16; round++) {
        uint64_t number = atomic_fetch_add(&control->page->recent_next, 1);
        struct control_recent *entry = &control->recent[number % CONTROL_RECENT_SLOTS];
        uint64_t seen = atomic_load(&entry->word);
        uint64_t version = ((seen >> RECENT_VERSION_SHIFT) + 1) & RECENT_VERSION_MASK;

        if ((seen & RECENT_BUSY) && owner_alive_still(&census, seen))
            continue;
        *ret_word = owner_self() | version << RECENT_VERSION_SHIFT | RECENT_BUSY;
        if (outbox_swap(&entry->word, seen, *ret_word))
            return entry;
    }
    return NULL;
}

/* Remember a key or tag, or with `slot` NULL a clear, that was confirmed just now; `place` has kind and partition. */
static void outbox_remember(struct control *control, const struct control_outbox *slot, uint64_t place,
                            uint64_t position)
{
    uint64_t word;
    struct control_recent *entry = outbox_recent_claim(control, &word);

    if (!entry)
        return;
    atomic_store_explicit(&entry->low, slot ? atomic_load(&slot->low) : 0, memory_order_release);
    STEP("outbox_remembering");
    atomic_store_explicit(&entry->high, slot ? atomic_load(&slot->high) : 0, memory_order_release);
    atomic_store_explicit(&entry->confirmed_ns, (uint64_t)clock_boot_ns(), memory_order_release);
    atomic_store_explicit(&entry->position, position, memory_order_release);
    atomic_store_explicit(&entry->partition, place, memory_order_release);
    atomic_store(&entry->word, (word & ~(OWNER_MASK | RECENT_BUSY)) | RECENT_FULL);
}

/* Read an entry; false when it is none of this place, or was written to meanwhile. */
static bool outbox_recent_read(const struct control_recent *entry, uint64_t place, uint64_t since_ns,
                               uint8_t ret_hash[16])
{
    uint64_t word = atomic_load_explicit(&entry->word, memory_order_acquire);
    uint64_t low = atomic_load_explicit(&entry->low, memory_order_acquire);
    uint64_t high = atomic_load_explicit(&entry->high, memory_order_acquire);
    uint64_t confirmed_ns = atomic_load_explicit(&entry->confirmed_ns, memory_order_acquire);

    if ((word & RECENT_BUSY) || !(word & RECENT_FULL) || confirmed_ns < since_ns)
        return false;
    if (atomic_load_explicit(&entry->partition, memory_order_acquire) != place)
        return false;
    bytes_put64(ret_hash, low);
    bytes_put64(ret_hash + 8, high);
    return atomic_load_explicit(&entry->word, memory_order_relaxed) == word;
}

/* When a window of time began that ends now. */
static uint64_t outbox_since_ns(int64_t window_ms)
{
    int64_t now_ns = clock_boot_ns();

    if (window_ms >= now_ns / CLOCK_NS_PER_MS)
        return 0;
    return (uint64_t)(now_ns - (window_ms > 0 ? window_ms : 0) * CLOCK_NS_PER_MS);
}

uint32_t control_outbox_recent_clears(const struct control *control, uint32_t partition, int64_t window_ms)
{
    uint64_t since_ns = outbox_since_ns(window_ms);
    uint32_t found = 0;
    uint8_t hash[16];

    for (uint32_t i = 0; i < CONTROL_RECENT_SLOTS; i++)
        found += outbox_recent_read(&control->recent[i], outbox_place(OUTBOX_CLEAR, partition), since_ns, hash);
    return found;
}

uint32_t control_outbox_recent(struct control *control, uint32_t partition, enum control_outbox_kind kind,
                               int64_t window_ms, uint32_t most, uint8_t (*ret_hashes)[16])
{
    uint64_t place = outbox_place(kind, partition);
    uint64_t since_ns = outbox_since_ns(window_ms), next = atomic_load(&control->page->recent_next);
    uint32_t found = 0;

    for (uint32_t back = 1; back <= CONTROL_RECENT_SLOTS && found < most; back++)
        found += outbox_recent_read(&control->recent[(next - back) % CONTROL_RECENT_SLOTS], place, since_ns,
                                    ret_hashes[found]);
    return found;
}

/* ---- ending ---- */

/* The shared clear that a slot number names, if it is still ours under that number's generation. */
static _Atomic uint64_t *outbox_taken_clear(struct control *control, uint32_t slot, uint64_t *ret_seen)
{
    uint32_t partition = (slot - CLEAR_BASE) % FRESHET_PARTITIONS_MAX;
    uint64_t generation = (slot - CLEAR_BASE) / FRESHET_PARTITIONS_MAX;

    *ret_seen = atomic_load(&control->page->outbox_clears[partition]);
    if (*ret_seen != (owner_self() | generation << GENERATION_SHIFT | OUTBOX_SENDING))
        return NULL;
    return &control->page->outbox_clears[partition];
}

/* Is the page by now in another epoch than the one that this was confirmed in (0: in none)? */
static bool outbox_outlived(const struct control *control, uint32_t partition, uint64_t epoch)
{
    return epoch != 0 && atomic_load(&control->parts[partition].epoch) != epoch;
}

/* Free one slot, if it is this process's.  First it is remembered, then the epoch is looked at, and only then is it
 * freed: who adopts an epoch later reads the ring later, and who did so before is found out here. */
static bool outbox_done_one(struct control *control, uint32_t slot, uint64_t position, uint64_t epoch)
{
    struct control_outbox *entry;
    _Atomic uint64_t *clear;
    uint64_t seen, after = 0;
    uint32_t partition;

    if (slot >= CLEAR_BASE) {
        partition = (slot - CLEAR_BASE) % FRESHET_PARTITIONS_MAX;
        if (!(clear = outbox_taken_clear(control, slot, &seen)))
            return true;
        if (position != 0)
            outbox_remember(control, NULL, outbox_place(OUTBOX_CLEAR, partition), position);
        after = seen & GENERATION_MASK << GENERATION_SHIFT;
        if (outbox_outlived(control, partition, epoch))
            after |= OUTBOX_QUEUED;
        (void)outbox_swap(clear, seen, after);
        return (after & STATE_MASK) == OUTBOX_FREE;
    }
    entry = &control->outbox[slot];
    seen = atomic_load(&entry->word);
    if (outbox_state(seen) != OUTBOX_SENDING || (seen & OWNER_MASK) != owner_self())
        return true;
    partition = (uint32_t)(seen >> PARTITION_SHIFT & 15);
    if (position != 0)
        outbox_remember(control, (seen >> KIND_SHIFT & 3) == OUTBOX_CLEAR ? NULL : entry, seen & PLACE_MASK, position);
    STEP("outbox_remembered");
    if (outbox_outlived(control, partition, epoch))
        after = (seen & PLACE_MASK) | OUTBOX_QUEUED;
    (void)outbox_swap(&entry->word, seen, after);
    return after == 0;
}

bool control_outbox_confirmed(struct control *control, const uint16_t *slots, uint32_t count, uint64_t position,
                              uint64_t epoch)
{
    bool all = true;

    for (uint32_t i = 0; i < count; i++)
        all &= outbox_done_one(control, slots[i], position, epoch);
    STEP("outbox_freed");
    outbox_lower(control);
    return all;
}

void control_outbox_done(struct control *control, const uint16_t *slots, uint32_t count, uint64_t position)
{
    (void)control_outbox_confirmed(control, slots, count, position, 0);
}

void control_outbox_queue(struct control *control, const uint16_t *slots, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t seen;

        if (slots[i] >= CLEAR_BASE) {
            _Atomic uint64_t *clear = outbox_taken_clear(control, slots[i], &seen);

            if (clear)
                (void)outbox_swap(clear, seen, (seen & GENERATION_MASK << GENERATION_SHIFT) | OUTBOX_QUEUED);
            continue;
        }
        seen = atomic_load(&control->outbox[slots[i]].word);
        if (outbox_state(seen) == OUTBOX_SENDING && (seen & OWNER_MASK) == owner_self())
            (void)outbox_swap(&control->outbox[slots[i]].word, seen, (seen & PLACE_MASK) | OUTBOX_QUEUED);
    }
}

/* ---- taking over ---- */

/* Does this entry wait for somebody to send it? */
static bool outbox_waits(struct owner_census *census, uint64_t word)
{
    return outbox_state(word) == OUTBOX_QUEUED ||
           (outbox_state(word) == OUTBOX_SENDING && !owner_alive_still(census, word));
}

/* Take the partition's shared clear, if it waits. */
static bool outbox_take_clear(struct control *control, uint32_t partition, struct owner_census *census,
                              uint16_t *ret_slot)
{
    _Atomic uint64_t *word = &control->page->outbox_clears[partition];
    uint64_t seen = atomic_load(word);
    uint64_t generation = ((seen >> GENERATION_SHIFT) + 1) & GENERATION_MASK;

    if (!outbox_waits(census, seen) ||
        !outbox_swap(word, seen, owner_self() | generation << GENERATION_SHIFT | OUTBOX_SENDING))
        return false;
    *ret_slot = (uint16_t)(CLEAR_BASE + partition + FRESHET_PARTITIONS_MAX * generation);
    return true;
}

uint32_t control_outbox_take(struct control *control, uint32_t partition, enum control_outbox_kind kind,
                             uint32_t most, uint8_t (*ret_hashes)[16], uint16_t *ret_slots)
{
    uint64_t place = outbox_place(kind, partition), self = owner_self();
    uint32_t reach = outbox_reach(control), taken = 0;
    struct owner_census census = {0};
    bool freed = false;

    for (uint32_t i = 0; i < reach && taken < most; i++) {
        struct control_outbox *slot = &control->outbox[i];
        uint64_t seen = atomic_load(&slot->word);

        if (outbox_state(seen) == OUTBOX_CLAIMED && !owner_alive_still(&census, seen))
            freed |= outbox_swap(&slot->word, seen, 0);
        if ((seen & PLACE_MASK) != place || !outbox_waits(&census, seen) ||
            !outbox_swap(&slot->word, seen, self | place | OUTBOX_SENDING))
            continue;
        STEP("outbox_taken");
        if (ret_hashes) {
            bytes_put64(ret_hashes[taken], atomic_load_explicit(&slot->low, memory_order_acquire));
            bytes_put64(ret_hashes[taken] + 8, atomic_load_explicit(&slot->high, memory_order_acquire));
        }
        ret_slots[taken++] = (uint16_t)i;
    }
    if (kind == OUTBOX_CLEAR && taken < most && outbox_take_clear(control, partition, &census, &ret_slots[taken])) {
        if (ret_hashes)
            memset(ret_hashes[taken], 0, 16);
        taken++;
    }
    if (freed)
        outbox_lower(control);
    return taken;
}

uint32_t control_outbox_waiting(struct control *control, uint32_t partition)
{
    uint32_t reach = outbox_reach(control), waiting = 0;
    struct owner_census census = {0};

    if ((atomic_load(&control->page->outbox_word) & MARK_MASK) == 0)
        return 0;
    for (uint32_t p = 0; p < control->space.partitions; p++)
        if (partition == UINT32_MAX || partition == p)
            waiting += outbox_waits(&census, atomic_load(&control->page->outbox_clears[p]));
    for (uint32_t i = 0; i < reach; i++) {
        uint64_t word = atomic_load(&control->outbox[i].word);

        if (partition == UINT32_MAX || (word >> PARTITION_SHIFT & 15) == partition)
            waiting += outbox_waits(&census, word);
    }
    return waiting;
}

uint32_t control_outbox_count(const struct control *control)
{
    uint32_t reach = outbox_reach(control), count = 0;

    if ((atomic_load(&control->page->outbox_word) & MARK_MASK) == 0)
        return 0;
    for (uint32_t p = 0; p < control->space.partitions; p++)
        count += outbox_state(atomic_load(&control->page->outbox_clears[p])) != OUTBOX_FREE;
    for (uint32_t i = 0; i < reach; i++) {
        enum control_outbox_state state = outbox_state(atomic_load(&control->outbox[i].word));

        count += state == OUTBOX_SENDING || state == OUTBOX_QUEUED;
    }
    return count;
}

/* ---- the reader ---- */

bool control_outbox_pending_slow(const struct control *control, const struct key *key)
{
    uint32_t reach = outbox_reach(control);
    uint64_t clear = outbox_place(OUTBOX_CLEAR, key->partition), one = outbox_place(OUTBOX_KEY, key->partition);
    uint64_t low = bytes_get64(key->hash), high = bytes_get64(key->hash + 8);

    if (outbox_state(atomic_load(&control->page->outbox_clears[key->partition])) != OUTBOX_FREE)
        return true;
    for (uint32_t i = 0; i < reach; i++) {
        const struct control_outbox *slot = &control->outbox[i];
        uint64_t word = atomic_load(&slot->word);

        if (outbox_state(word) != OUTBOX_SENDING && outbox_state(word) != OUTBOX_QUEUED)
            continue;
        if ((word & PLACE_MASK) == clear)
            return true;
        if ((word & PLACE_MASK) == one && atomic_load_explicit(&slot->low, memory_order_acquire) == low &&
            atomic_load_explicit(&slot->high, memory_order_acquire) == high)
            return true;
    }
    return false;
}

/* Is this number one of them? */
static bool outbox_names(const uint64_t *tags, uint32_t count, uint64_t number)
{
    for (uint32_t i = 0; i < count; i++)
        if (tags[i] == number)
            return true;
    return false;
}

bool control_outbox_pending_tags(const struct control *control, uint32_t partition, const uint64_t *tags,
                                 uint32_t count)
{
    uint64_t place = outbox_place(OUTBOX_TAG, partition);
    uint32_t reach;

    if ((atomic_load(&control->page->outbox_word) & MARK_MASK) == 0)
        return false;
    reach = outbox_reach(control);
    for (uint32_t i = 0; i < reach; i++) {
        const struct control_outbox *slot = &control->outbox[i];
        uint64_t word = atomic_load(&slot->word);

        if ((outbox_state(word) == OUTBOX_SENDING || outbox_state(word) == OUTBOX_QUEUED) &&
            (word & PLACE_MASK) == place &&
            outbox_names(tags, count, atomic_load_explicit(&slot->low, memory_order_acquire)))
            return true;
    }
    return false;
}
