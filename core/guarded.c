/*
 * guarded.c - guards of a host without a fleet, in the control page, so that they bind every process of the host.
 *
 * A table of rows, a row for the keys of one hash: a look at a key reads one row.  A slot is one word, {deadline in ms
 * of CLOCK_BOOTTIME, some bits of the key's hash}, and every step is one compare-and-swap of it, so a process may be
 * killed or stopped anywhere.  Two keys that share row and bits share their guards: that costs a load that is not kept.
 *
 * A word whose deadline has passed counts as free, so a holder that was killed leaves nothing to clean up.  Nobody but
 * the holder changes a word before, and who takes the slot afterwards puts in a later deadline: a holder that finds its
 * own word in the slot, before its deadline, has held it all the time.
 *
 * Order: a guard is in the table first, then its keys' fences rise to positions taken after that.  Whoever reads or
 * takes a position and looks here afterwards either sees the guard, or has a position below the fence: void from birth.
 */
#include <guarded.h>

#include <bytes.h>
#include <clock.h>
#include <step.h>

#define BITS       24
#define BITS_MASK  ((UINT64_C(1) << BITS) - 1)
#define UNTIL_MOST ((INT64_C(1) << (64 - BITS)) - 1)

static int64_t guarded_now_ms(void)
{
    return clock_boot_ns() / CLOCK_NS_PER_MS;
}

static uint64_t guarded_word(const uint8_t hash[16], int64_t until_ms)
{
    return (uint64_t)(until_ms < UNTIL_MOST ? until_ms : UNTIL_MOST) << BITS | (bytes_get64(hash) >> 16 & BITS_MASK);
}

static int64_t guarded_word_until(uint64_t word)
{
    return (int64_t)(word >> BITS);
}

/* The row that a hash belongs to, as the number of its first slot. */
static uint32_t guarded_row(const uint8_t hash[16])
{
    return (uint32_t)(bytes_get64(hash + 8) % (CONTROL_GUARD_SLOTS / CONTROL_GUARD_ROW)) * CONTROL_GUARD_ROW;
}

/* Take a slot of the row that is free. */
static bool guarded_claim(struct control *control, const uint8_t hash[16], int64_t until_ms,
                          struct guarded *ret_guarded)
{
    uint32_t row = guarded_row(hash);
    uint64_t word = guarded_word(hash, until_ms);

    for (uint32_t i = row; i < row + CONTROL_GUARD_ROW; i++) {
        uint64_t seen = atomic_load(&control->guards[i]);

        if (guarded_word_until(seen) > guarded_now_ms() ||
            !atomic_compare_exchange_strong(&control->guards[i], &seen, word))
            continue;
        *ret_guarded = (struct guarded){.slot = i, .word = word};
        return true;
    }
    return false;
}

/* Replace the word if it is ours still; false when it is not, or has ended.  The clock is read again behind the swap: a
 * process that was stopped before it would else put off what had ended meanwhile, and had let somebody pass. */
static bool guarded_swap(struct control *control, struct guarded *guarded, uint64_t next)
{
    uint64_t word = guarded->word, seen = word;

    if (guarded_word_until(word) <= guarded_now_ms())
        return false;
    STEP("guard_swap");
    if (!atomic_compare_exchange_strong(&control->guards[guarded->slot], &seen, next))
        return false;
    guarded->word = next;
    return guarded_word_until(word) > guarded_now_ms();
}

bool guarded_begin(struct control *control, const uint8_t (*hashes)[16], uint32_t count, int64_t deadline_ms,
                   struct guarded *ret_guarded)
{
    uint32_t have = 0;

    while (have < count && guarded_claim(control, hashes[have], deadline_ms, &ret_guarded[have]))
        have++;
    if (have < count)
        (void)guarded_end(control, ret_guarded, have);
    return have == count;
}

bool guarded_prolong(struct control *control, struct guarded *guarded, uint32_t count, int64_t deadline_ms)
{
    bool held = true;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t bits = guarded[i].word & BITS_MASK;

        held &= guarded_swap(control, &guarded[i], (uint64_t)deadline_ms << BITS | bits);
    }
    return held;
}

bool guarded_end(struct control *control, struct guarded *guarded, uint32_t count)
{
    bool held = true;

    for (uint32_t i = 0; i < count; i++)
        held &= guarded_swap(control, &guarded[i], 0);
    return held;
}

int64_t guarded_left(const struct control *control, const struct guarded *guarded, uint32_t count)
{
    int64_t until = INT64_MAX, now;

    for (uint32_t i = 0; i < count; i++) {
        if (atomic_load(&control->guards[guarded[i].slot]) != guarded[i].word)
            return 0;
        if (guarded_word_until(guarded[i].word) < until)
            until = guarded_word_until(guarded[i].word);
    }
    now = guarded_now_ms();
    return until > now ? until - now : 0;
}

bool guarded_is(const struct control *control, const struct key *key)
{
    uint32_t row = guarded_row(key->hash);
    uint64_t bits = guarded_word(key->hash, 0);

    for (uint32_t i = row; i < row + CONTROL_GUARD_ROW; i++) {
        uint64_t word = atomic_load(&control->guards[i]);

        if (word != 0 && (word & BITS_MASK) == bits && guarded_word_until(word) > guarded_now_ms())
            return true;
    }
    return false;
}
