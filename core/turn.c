/*
 * turn.c - the table of turns in the control page; see turn.h.  Below freshet.c and writer.c.
 *
 * A turn is one word: a part of the key's hash, a count of the slot's turns, "somebody waits", and a state.  All that
 * changes hands does so by one compare-and-swap of it, so a process that is killed or stopped anywhere leaves a slot
 * that says whose turn it was, and one that wakes up late finds that it is no longer its own.
 *
 *   FREE -> LOADING     claimed.  Then the claimer writes where its load begins, and last its name under the turn's
 *                       count.  A turn without a name for TURN_LAND_MS was claimed by somebody who did not live to
 *                       write it, and is lost.
 *   LOADING -> LANDING  the loader has answered; the record is in the writer's queue.  The caller has gone on with its
 *                       answer: nobody loads slower because others wait.
 *   ... -> FREE         the writer thread has committed (or dropped) it.  The bell rings for those who wait.
 *   ... -> LOADING      taken over, under the next count, from a holder that is lost.
 *
 * What the name and the start belong to is told by the count, and both may be overwritten late by somebody who slept:
 * then a holder looks nameless, or overtaken, and is taken over for nothing.  That costs a load.
 *
 * Those who wait sleep on the slot's bell, a futex, and wake now and then to see whether the holder lives: the dead
 * ring no bell.
 */
#include <turn.h>

#include <bytes.h>
#include <clock.h>
#include <fiber.h>
#include <limits.h>
#include <linux/futex.h>
#include <owner.h>
#include <page.h>
#include <step.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A turn's word:  hash 40 | count 21 | waited 1 | state 2.  A name:  owner 49 | the count's low 15 bits. */
#define STATE_MASK      3u
#define FREE            0u
#define LOADING         1u
#define LANDING         2u
#define WAITED          4u
#define COUNT_SHIFT     3
#define COUNT_MASK      0x1fffffu
#define HASH_SHIFT      24
#define NAME_COUNT_MASK 0x7fffu

#define TURN_WAYS    4u
#define TURN_PEEK_NS (2 * CLOCK_NS_PER_MS)
#define CLAIM_ROUNDS 4 /* attempts to claim while others are quicker */

_Static_assert(CONTROL_TURN_SLOTS % TURN_WAYS == 0, "buckets are whole");

/* Which turn it is, whatever has become of it. */
static uint64_t turn_which(uint64_t word)
{
    return word & ~(uint64_t)(STATE_MASK | WAITED);
}

static uint64_t turn_hash(const struct key *key)
{
    return bytes_get64(key->hash + 8) >> HASH_SHIFT << HASH_SHIFT;
}

static bool turn_is_of(uint64_t word, uint64_t hash)
{
    return (word & STATE_MASK) != FREE && word >> HASH_SHIFT == hash >> HASH_SHIFT;
}

/* The next turn of a slot, for a key of this hash. */
static uint64_t turn_next(uint64_t word, uint64_t hash)
{
    return hash | (((word >> COUNT_SHIFT) + 1) & COUNT_MASK) << COUNT_SHIFT | LOADING;
}

/* Does this name belong to this turn? */
static bool turn_named(uint64_t name, uint64_t word)
{
    return (name & NAME_COUNT_MASK) == (word >> COUNT_SHIFT & NAME_COUNT_MASK) && name >> OWNER_SHIFT != 0;
}

/* Is it known where the load began, and is that below the fence? */
static bool turn_overtaken(const struct control_turn *slot, uint64_t word, uint64_t fence)
{
    return turn_named(atomic_load(&slot->name), word) && atomic_load(&slot->start) < fence;
}

/* Landed so long ago that its record hangs somewhere? */
static bool turn_hangs(const struct control_turn *slot, uint64_t word)
{
    return (word & STATE_MASK) == LANDING &&
           clock_boot_ns() - (int64_t)atomic_load(&slot->landed_ns) > TURN_LAND_MS * CLOCK_NS_PER_MS;
}

/* Those who wait for a turn that has changed hands look anew. */
static void turn_ring(struct control_turn *slot, uint64_t word)
{
    atomic_fetch_add(&slot->bell, 1);
    if (word & WAITED)
        (void)syscall(SYS_futex, &slot->bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Replace `seen` by a turn of ours. */
static bool turn_claim(struct control_turn *slot, uint64_t seen, uint64_t hash, uint64_t start, struct turn *ret_turn)
{
    uint64_t next = turn_next(seen, hash), mine = seen;

    if (!atomic_compare_exchange_strong(&slot->word, &mine, next))
        return false;
    STEP("turn_claimed");
    atomic_store(&slot->start, start);
    atomic_store(&slot->name, owner_self() | (next >> COUNT_SHIFT & NAME_COUNT_MASK));
    turn_ring(slot, seen);
    *ret_turn = (struct turn){.slot = slot, .word = turn_which(next), .owner = owner_self()};
    STEP("turn_ours");
    return true;
}

/* A slot of a full bucket that nobody living holds: claim it. */
static bool turn_reap(struct control_turn *bucket, uint64_t hash, uint64_t start, struct turn *ret_turn)
{
    for (uint32_t way = 0; way < TURN_WAYS; way++) {
        uint64_t seen = atomic_load(&bucket[way].word), name = atomic_load(&bucket[way].name);

        if ((!turn_named(name, seen) || !owner_alive(name) || turn_hangs(&bucket[way], seen)) &&
            turn_claim(&bucket[way], seen, hash, start, ret_turn))
            return true;
    }
    return false;
}

enum turn_place turn_enter(struct control *control, const struct key *key, uint64_t start, uint64_t fence,
                           struct turn *ret_turn)
{
    uint64_t hash = turn_hash(key);
    uint32_t first = (uint32_t)(bytes_get64(key->hash) >> 32) % (CONTROL_TURN_SLOTS / TURN_WAYS) * TURN_WAYS;
    struct control_turn *bucket = &control->turns[first];

    *ret_turn = (struct turn){0};
    for (int round = 0; round < CLAIM_ROUNDS; round++) {
        struct control_turn *free = NULL, *theirs = NULL;
        uint64_t free_word = 0, word = 0;

        for (uint32_t way = 0; way < TURN_WAYS && !theirs; way++) {
            word = atomic_load(&bucket[way].word);
            if (turn_is_of(word, hash)) {
                theirs = &bucket[way];
            } else if (!free && (word & STATE_MASK) == FREE) {
                free = &bucket[way];
                free_word = word;
            }
        }
        if (theirs && !turn_overtaken(theirs, word, fence) && !turn_hangs(theirs, word)) {
            *ret_turn = (struct turn){.slot = theirs, .word = turn_which(word)};
            return TURN_THEIRS;
        }
        if (theirs ? turn_claim(theirs, word, hash, start, ret_turn)
                   : free && turn_claim(free, free_word, hash, start, ret_turn))
            return TURN_OURS;
        if (!theirs && !free)
            return turn_reap(bucket, hash, start, ret_turn) ? TURN_OURS : TURN_NONE;
    }
    return TURN_NONE;
}

/* Is the holder lost to those who wait?  `looked`: some time has passed since the last look at whether it lives. */
static bool turn_is_lost(struct turn *turn, uint64_t word, uint64_t fence, bool looked)
{
    uint64_t name = atomic_load(&turn->slot->name);

    if (!turn_named(name, word)) {
        int64_t now_ns = clock_boot_ns();

        if (turn->unknown_ns == 0)
            turn->unknown_ns = now_ns;
        return now_ns - turn->unknown_ns > TURN_LAND_MS * CLOCK_NS_PER_MS;
    }
    if (turn_overtaken(turn->slot, word, fence) || turn_hangs(turn->slot, word))
        return true;
    return looked && owner_look(name) != OWNER_RUNS;
}

/* The same for a call that is set aside.  No descriptor tells of a futex: look now and then, ever more rarely. */
static bool turn_peek(struct control_turn *slot, uint32_t bell, int64_t ns)
{
    int64_t waited = 0;

    while (waited < ns) {
        int64_t pause = waited + TURN_PEEK_NS < ns ? waited + TURN_PEEK_NS : ns - waited;

        wait_pause(pause);
        waited += pause;
        if (atomic_load(&slot->bell) != bell)
            return true;
    }
    return false;
}

/* Sleep until the bell rings, a while at most; false: it did not. */
static bool turn_sleep(struct control_turn *slot, uint32_t bell, int64_t deadline_ns)
{
    int64_t left = deadline_ns - clock_boot_ns();
    struct timespec time = {.tv_nsec = TURN_LOOK_MS * CLOCK_NS_PER_MS};

    if (left <= 0)
        return false;
    if (left < time.tv_nsec)
        time.tv_nsec = (long)left;
    if (wait_is_aside())
        return turn_peek(slot, bell, time.tv_nsec);
    return syscall(SYS_futex, &slot->bell, FUTEX_WAIT, bell, &time, NULL, 0) == 0;
}

enum turn_news turn_wait(struct turn *turn, uint64_t fence, int64_t deadline_ns)
{
    struct control_turn *slot = turn->slot;
    uint32_t bell = atomic_load(&slot->bell);
    uint64_t word = atomic_load(&slot->word);

    for (;;) {
        if (turn_which(word) != turn->word)
            return TURN_MOVED;
        if ((word & STATE_MASK) == FREE)
            return TURN_OVER;
        if ((word & WAITED) || atomic_compare_exchange_weak(&slot->word, &word, word | WAITED))
            break;
    }
    if (turn_is_lost(turn, word, fence, false))
        return TURN_LOST;
    if (turn_sleep(slot, bell, deadline_ns))
        return TURN_GOES_ON;
    return turn_is_lost(turn, word, fence, true) ? TURN_LOST : TURN_GOES_ON;
}

bool turn_take(struct turn *turn, uint64_t start)
{
    uint64_t word = atomic_load(&turn->slot->word);

    if (turn_which(word) != turn->word || (word & STATE_MASK) == FREE)
        return false;
    return turn_claim(turn->slot, word, word >> HASH_SHIFT << HASH_SHIFT, start, turn);
}

/* Ours still?  A child has its parent's turn in memory, not in hand. */
static bool turn_is_ours(const struct turn *turn, uint64_t word)
{
    return turn_which(word) == turn->word && (word & STATE_MASK) != FREE && turn->owner == owner_self();
}

void turn_land(const struct turn *turn)
{
    uint64_t word;

    if (!turn->slot)
        return;
    word = atomic_load(&turn->slot->word);
    atomic_store(&turn->slot->landed_ns, (uint64_t)clock_boot_ns());
    while (turn_is_ours(turn, word) &&
           !atomic_compare_exchange_weak(&turn->slot->word, &word, (word & ~(uint64_t)STATE_MASK) | LANDING))
        continue;
    STEP("turn_landing");
}

void turn_end(struct turn *turn)
{
    uint64_t word;

    if (!turn->slot)
        return;
    word = atomic_load(&turn->slot->word);
    while (turn_is_ours(turn, word))
        if (atomic_compare_exchange_weak(&turn->slot->word, &word, turn_which(word) | FREE)) {
            turn_ring(turn->slot, word);
            break;
        }
    *turn = (struct turn){0};
}
