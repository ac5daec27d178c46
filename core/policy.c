/*
 * policy.c - who stays in the tier when room is needed: what is learnt, and how it is used.
 *
 *     head, 64 words | classes, 64 words | ghosts, sets of 8 words | tags, lines of 8 words of 4 tags
 *
 * Time is counted in bytes filled.  A dropped record was wanted again when its key is filled while the record would
 * still be in the main log, had it been kept: within the age of that log's tail, which is known from marks that are
 * set each time a sixteenth of the tier was appended there.
 *
 * Shares are in units of 2^-16.  The constants were chosen on real traces of three kinds (objects of an ORM, pages of
 * a shop, pages of a database) and on made ones of nine (skewed, drifting, sliding, looping, bursts, distances in an
 * LRU stack, and mixtures), and none of them is sharp: with half or double of any one the mean over the real traces
 * closes at most two hundredths less of the gap between LRU and the optimum.  What counts is that there are enough
 * ghosts, that runs may be long, that a hit in the small log is not counted as wanted, and that what leaves is as much
 * as comes round spent.
 */
#include "policy.h"

#define HEAD_WORDS 64u
#define CLASSES    64u
#define WAYS       8u /* words of a cache line */
#define TAGS       32u

#define SETS_LEAST  128u
#define LINES_LEAST 240u

#define ONE             UINT64_C(65536)
#define KEPT_LEAST      (ONE / 2)        /* of the bytes at the tails, */
#define KEPT_MOST       (ONE * 88 / 100) /* so that at most 7.3 bytes are copied for one that leaves */
#define KEPT_MOST_POOL  (ONE * 74 / 100) /* in a pool, where what a batch adds must be free beforehand */
#define SPENT_FIRST     (ONE * 38 / 100) /* of the bytes at the tails */
#define SPENT_SHARE     (ONE / 10)       /* of a class fewer of which return a record is spent, */
#define SPENT_MEMORY    2u               /* which is remembered over so many times what the tier holds, */
#define SPENT_RECORDS   65536u           /* and at most so many records */
#define STEP            (ONE / 1600)     /* of the threshold, at a record of mean size */
#define THRESHOLD_FIRST (ONE / 10)
#define THRESHOLD_LEAST (ONE / 200)
#define THRESHOLD_MOST  (ONE * 2)
#define SMALL_SHARE     6u    /* a sixth of the bytes for the small log */
#define SEEN_MOST       2000u /* of a class; then all that is known of it counts half */
#define GUESS_WEIGHT    8u
#define MARKS           32u                 /* of the main log's growth */
#define MARK_SHARE      16u                 /* of the tier between two of them */
#define HISTORY         40u                 /* events until all levels are halved: so many a record in the tier, */
#define HISTORY_LINE    180u                /* and at most so many a line of tags */
#define SWEEP_MOST      16u                 /* words an event */
#define RUN_MOST        (UINT64_C(4) << 20) /* bytes, unless records are large */
#define TICKS           1024u               /* of the ghosts' clock in a tier's bytes */

enum {
    W_CLOCK,
    W_THRESHOLD, /* 2^-32 */
    W_MEAN,
    W_MAIN_ALL,
    W_MAIN_NOW,
    W_CREDIT,
    W_EVENTS,
    W_SWEEP,
    W_SWEPT,
    W_SPENT, /* share of the bytes that came to the tails, 2^-32 */
    W_MARKS = 16
};
_Static_assert(W_MARKS + MARKS <= HEAD_WORDS, "the marks are in the head");

static uint64_t word_get(const struct policy *policy, size_t at)
{
    return atomic_load_explicit(&policy->words[at], memory_order_relaxed);
}

static void word_set(const struct policy *policy, size_t at, uint64_t value)
{
    atomic_store_explicit(&policy->words[at], value, memory_order_relaxed);
}

static uint64_t clamp(uint64_t value, uint64_t least, uint64_t most)
{
    return value < least ? least : value > most ? most : value;
}

/* SplitMix64's last steps: another number of the same key. */
static uint64_t scatter(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

size_t policy_size(uint64_t tier)
{
    struct policy policy;

    policy_open(&policy, NULL, tier);
    return (HEAD_WORDS + CLASSES + ((size_t)policy.sets + policy.lines) * WAYS) * sizeof(uint64_t);
}

void policy_open(struct policy *policy, void *words, uint64_t tier)
{
    tier = clamp(tier, 1, UINT64_C(1) << 44);
    *policy = (struct policy){.words = words, .tier = tier, .holds = tier};
    policy->sets = (uint32_t)clamp(tier * 2 / 1000 / 64, SETS_LEAST, 1u << 16);
    policy->lines = (uint32_t)clamp(tier * 8 / 1000 / 64, LINES_LEAST, UINT32_MAX);
}

void policy_share(struct policy *policy, uint64_t holds, uint64_t near)
{
    policy->holds = clamp(holds, 1, policy->tier);
    policy->near = near;
}

/* The mean size of a record. */
static uint64_t mean_size(const struct policy *policy)
{
    return clamp(word_get(policy, W_MEAN) >> 8, 1, policy->tier);
}

/* About how many records the tier holds. */
static uint64_t population(const struct policy *policy)
{
    return policy->holds / mean_size(policy) + 1;
}

/* ---- how often a key was wanted ---- */

/* How often it was, at which a level begins, and the level of half that. */
static const uint8_t level_from[16] = {0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 16, 22, 30, 40, 54, 72};
static const uint8_t level_half[16] = {0, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 9, 9, 11, 12, 13};

static size_t line_of(const struct policy *policy, uint64_t hash)
{
    return HEAD_WORDS + CLASSES + ((size_t)policy->sets + (size_t)((hash >> 32) * policy->lines >> 32)) * WAYS;
}

/* A tag: 12 bits of the key's | level 4.  Level 0: none. */
static uint16_t tag_of(uint64_t hash)
{
    return (uint16_t)(scatter(hash) >> 20 << 4);
}

static void line_read(const struct policy *policy, size_t line, uint16_t ret_tags[TAGS])
{
    for (unsigned i = 0; i < TAGS; i++)
        ret_tags[i] = (uint16_t)(word_get(policy, line + i / 4) >> i % 4 * 16);
}

static void line_write(const struct policy *policy, size_t line, const uint16_t tags[TAGS])
{
    for (unsigned i = 0; i < TAGS; i += 4) {
        uint64_t word =
            tags[i] | (uint64_t)tags[i + 1] << 16 | (uint64_t)tags[i + 2] << 32 | (uint64_t)tags[i + 3] << 48;

        if (word != word_get(policy, line + i / 4))
            word_set(policy, line + i / 4, word);
    }
}

/* Where the key's tag is; TAGS: it is not. */
static unsigned line_find(const uint16_t tags[TAGS], uint16_t tag)
{
    unsigned i = 0;

    while (i < TAGS && ((tags[i] & 15) == 0 || (tags[i] ^ tag) >> 4 != 0))
        i++;
    return i;
}

/* The key's level. */
static unsigned wanted(const struct policy *policy, uint64_t hash)
{
    uint16_t tags[TAGS];
    unsigned at;

    line_read(policy, line_of(policy, hash), tags);
    at = line_find(tags, tag_of(hash));
    return at < TAGS ? tags[at] & 15u : 0;
}

/* One event more: sweep on. */
static void sweep(const struct policy *policy)
{
    uint64_t words = (uint64_t)policy->lines * WAYS;
    uint64_t events =
        clamp(population(policy) * HISTORY, words / SWEEP_MOST + 1, (uint64_t)policy->lines * HISTORY_LINE);
    uint64_t due = clamp(word_get(policy, W_SWEPT), 0, 4095) + (words << 12) / events;
    uint64_t at = word_get(policy, W_SWEEP) % words;

    for (; due >= 4096; due -= 4096) {
        size_t place = HEAD_WORDS + CLASSES + (size_t)policy->sets * WAYS + at;
        uint64_t word = word_get(policy, place), half = word;

        for (unsigned bit = 0; bit < 64; bit += 16)
            half ^= (uint64_t)((word >> bit & 15) ^ level_half[word >> bit & 15]) << bit;
        if (half != word)
            word_set(policy, place, half);
        at = (at + 1) % words;
    }
    word_set(policy, W_SWEEP, at);
    word_set(policy, W_SWEPT, due);
}

/* The key was wanted once more: its level now.  The line is in order of the last time. */
static unsigned want(const struct policy *policy, uint64_t hash)
{
    uint64_t events = word_get(policy, W_EVENTS) + 1;
    size_t line = line_of(policy, hash);
    uint16_t tags[TAGS], tag = tag_of(hash);
    unsigned at, level = 1;

    word_set(policy, W_EVENTS, events);
    sweep(policy);
    line_read(policy, line, tags);
    at = line_find(tags, tag);
    if (at < TAGS) {
        level = tags[at] & 15u;
        if (level < 15 && scatter(hash + events) % (unsigned)(level_from[level + 1] - level_from[level]) == 0)
            level++;
    } else { /* the lowest, and of these the one farthest back, makes room */
        at = 0;
        for (unsigned i = 1; i < TAGS; i++)
            if ((tags[i] & 15) <= (tags[at] & 15))
                at = i;
    }
    for (; at > 0; at--)
        tags[at] = tags[at - 1];
    tags[0] = (uint16_t)(tag | level);
    line_write(policy, line, tags);
    return level;
}

/* ---- what becomes of a class ---- */

static unsigned class_of(enum policy_log log, bool read, unsigned level)
{
    return (log == POLICY_MAIN ? 32u : 0u) + (read ? 16u : 0u) + level;
}

/* One more of this class whose future is known.  Its word: how many were wanted again 32 | how many in all 32. */
static void class_learn(const struct policy *policy, unsigned class, bool again)
{
    size_t at = HEAD_WORDS + class % CLASSES;
    uint64_t word = word_get(policy, at), all = clamp(word & UINT32_MAX, 0, SEEN_MOST), yes = clamp(word >> 32, 0, all);

    if (all == SEEN_MOST) {
        all /= 2;
        yes /= 2;
    }
    word_set(policy, at, (yes + again) << 32 | (all + 1));
}

/* The share that is wanted again; at first a guess. */
static uint64_t class_share(const struct policy *policy, unsigned class)
{
    uint64_t word = word_get(policy, HEAD_WORDS + class % CLASSES);
    uint64_t all = clamp(word & UINT32_MAX, 0, SEEN_MOST), yes = clamp(word >> 32, 0, all);
    uint64_t guess = class & 16 ? ONE * 6 / 10 : class & 32 ? ONE / 50 : ONE * 3 / 10;

    return (yes * ONE + GUESS_WEIGHT * guess) / (all + GUESS_WEIGHT);
}

/* ---- ghosts: what becomes of the dropped ---- */

static uint64_t mark_step(const struct policy *policy)
{
    return policy->tier / MARK_SHARE + 1;
}

/* So many bytes are appended to the main log. */
static void main_grow(const struct policy *policy, uint64_t bytes)
{
    uint64_t step = mark_step(policy), all = word_get(policy, W_MAIN_ALL);

    for (uint64_t mark = all / step + 1; mark <= (all + bytes) / step; mark++)
        word_set(policy, W_MARKS + mark % MARKS, word_get(policy, W_CLOCK));
    word_set(policy, W_MAIN_ALL, all + bytes);
}

/* Bytes filled since the record at the main log's tail was appended there; never far from the tier's own size, lest a
 * tail that stands still makes everything seem to be wanted again in time. */
static uint64_t tail_age(const struct policy *policy)
{
    uint64_t step = mark_step(policy), clock = word_get(policy, W_CLOCK), all = word_get(policy, W_MAIN_ALL);
    uint64_t tail = all - clamp(word_get(policy, W_MAIN_NOW), 0, all), mark = tail / step, born, next;

    if (all / step - mark >= MARKS - 1)
        return policy->holds;
    born = word_get(policy, W_MARKS + mark % MARKS);
    next = mark < all / step ? word_get(policy, W_MARKS + (mark + 1) % MARKS) : clock;
    if (next > born)
        born += clamp(next - born, 0, 4 * policy->tier) * (tail % step * 256 / step) / 256;
    return clamp(clock - born, policy->holds / 4, policy->holds * 2);
}

static uint64_t tick_bytes(const struct policy *policy)
{
    return policy->tier / TICKS + 1;
}

/* Of so many keys the ghost of one is kept: so that it stays for two tiers of fills, and as long as it counts as
 * near. */
static uint64_t ghost_one_in(const struct policy *policy)
{
    uint64_t population_near = policy->near / mean_size(policy) + 1;

    return clamp(population(policy), population_near, UINT64_MAX) * 2 / ((uint64_t)policy->sets * WAYS) + 1;
}

static bool ghost_sampled(const struct policy *policy, uint64_t spread)
{
    return (spread >> 40) % ghost_one_in(policy) == 0;
}

static size_t ghost_set(const struct policy *policy, uint64_t spread)
{
    return HEAD_WORDS + CLASSES + (size_t)((spread & UINT32_MAX) * policy->sets >> 32) * WAYS;
}

/* A ghost: 24 bits of the hash | class 8 | when, in ticks 32.  Zero: none. */
static void ghost_put(const struct policy *policy, uint64_t hash, unsigned class)
{
    uint64_t spread = scatter(hash), now = word_get(policy, W_CLOCK) / tick_bytes(policy), oldest = 0, word;
    size_t set = ghost_set(policy, spread), place = set;

    if (!ghost_sampled(policy, spread))
        return;
    for (size_t at = set; at < set + WAYS; at++) {
        uint64_t age = (word = word_get(policy, at)) != 0 ? (now - word) & UINT32_MAX : UINT64_MAX;

        if (age >= oldest) {
            oldest = age;
            place = at;
        }
    }
    if ((word = word_get(policy, place)) != 0) /* that one did not come back */
        class_learn(policy, (unsigned)(word >> 32), false);
    word_set(policy, place, hash >> 40 << 40 | (uint64_t) class << 32 | (now & UINT32_MAX));
}

/* Would a record of this class, dropped so long ago, still be here if the logs held `near` bytes more?  The small log
 * would have its share of them, and all that is filled goes through it; the main log the rest, and its lap is longer by
 * as much. */
static bool ghost_near(const struct policy *policy, unsigned class, uint64_t age)
{
    if (policy->near == 0)
        return false;
    if (!(class & 32))
        return age <= policy->near / SMALL_SHARE;
    return age / 4096 <= policy->near / 4096 * (tail_age(policy) / 4096) / (policy->holds / 4096 + 1);
}

/* A key is filled: if its ghost is here, its class has one more that is known. */
static void ghost_take(struct policy *policy, uint64_t hash)
{
    uint64_t spread = scatter(hash), now = word_get(policy, W_CLOCK) / tick_bytes(policy);
    size_t set = ghost_set(policy, spread);

    for (size_t at = set; at < set + WAYS; at++) {
        uint64_t word = word_get(policy, at), age = ((now - word) & UINT32_MAX) * tick_bytes(policy);

        if (word == 0 || word >> 40 != hash >> 40)
            continue;
        class_learn(policy, (unsigned)(word >> 32), age <= tail_age(policy));
        if (ghost_near(policy, (unsigned)(word >> 32), age)) {
            policy->returned += ghost_one_in(policy);
            policy->seen++;
        }
        word_set(policy, at, 0);
        return;
    }
}

/* ---- the calls ---- */

/* What a record's touch byte tells of the class that it had when it was kept. */
static void past_learn(const struct policy *policy, uint8_t touch)
{
    unsigned past = touch & (POLICY_READ - 1);

    if (past > 0 && past <= CLASSES)
        class_learn(policy, past - 1, touch & POLICY_READ);
}

enum policy_log policy_admit(struct policy *policy, uint64_t hash, uint64_t bytes, enum policy_log replaced,
                             uint8_t *touch)
{
    uint64_t mean = word_get(policy, W_MEAN);
    bool fresh = replaced >= POLICY_LOGS, read = !fresh && *touch & POLICY_READ;

    bytes = clamp(bytes, 1, policy->tier);
    mean = mean ? clamp(mean, 256, policy->tier << 8) : bytes << 8;
    word_set(policy, W_MEAN, mean + bytes - (mean >> 8));
    word_set(policy, W_CLOCK, word_get(policy, W_CLOCK) + bytes);
    if (fresh)
        ghost_take(policy, hash);
    else
        past_learn(policy, *touch);
    if (fresh || (read && replaced == POLICY_MAIN)) /* what is only written is not wanted */
        (void)want(policy, hash);
    *touch = 0;
    if (!read || replaced != POLICY_MAIN)
        return POLICY_SMALL;
    main_grow(policy, bytes);
    return POLICY_MAIN;
}

enum policy_log policy_next(struct policy *policy, const uint64_t bytes[POLICY_LOGS])
{
    uint64_t small = clamp(bytes[POLICY_SMALL], 0, policy->tier), large = clamp(bytes[POLICY_MAIN], 0, policy->tier);

    word_set(policy, W_MAIN_NOW, large);
    return large == 0 || small * SMALL_SHARE >= small + large ? POLICY_SMALL : POLICY_MAIN;
}

/* The most bytes that are kept in a row.  Runs of good records are what makes the threshold mean something, but the
 * writer waits for each. */
static uint64_t run_most(const struct policy *policy)
{
    uint64_t mean = mean_size(policy), most = clamp(256 * mean, 0, RUN_MOST);

    return clamp(policy->holds / 8, 0, most > 16 * mean ? most : 16 * mean) + 16 * mean;
}

/* Which share of the bytes at the tails is to be kept, now that one more record, of this class and size, has come.  A
 * queue with second chances (CLOCK) lets go what comes round unread, and nothing else.  In amount so does this, within
 * the limits above: as many bytes leave as come to the main log's tail *spent*, unread or of a class that hardly ever
 * returns; which ones leave is chosen by worth.  So a lap is about as long as in that queue, which mostly is not far
 * below LRU.  (A share fixed for all cost several points where only recency tells anything.)  Where the limits or the
 * small log's part are too much, it is up to three points below LRU: a set that nearly fits beside keys that come once;
 * and up to twelve, where all that returns does so just before LRU would drop it. */
static uint64_t spend(const struct policy *policy, unsigned class, uint64_t bytes)
{
    uint64_t spent = clamp(word_get(policy, W_SPENT), 0, ONE << 16), mean = mean_size(policy),
             weight = clamp(bytes * 256 / mean, 1, 64 * 256),
             memory = clamp(population(policy) * SPENT_MEMORY, 128, SPENT_RECORDS) * 256;

    if (spent == 0)
        spent = SPENT_FIRST << 16;
    if ((class & 32) && (!(class & 16) || class_share(policy, class) < SPENT_SHARE))
        spent += ((ONE << 16) - spent) * weight / memory;
    else
        spent -= spent * weight / memory;
    word_set(policy, W_SPENT, spent);
    return clamp(ONE - (spent >> 16), KEPT_LEAST, policy->near ? KEPT_MOST_POOL : KEPT_MOST);
}

/* Is a record of this class and size worth a lap of the main log?  Moves the threshold. */
static bool worth(const struct policy *policy, unsigned class, uint64_t bytes)
{
    uint64_t mean = mean_size(policy), threshold = word_get(policy, W_THRESHOLD);
    uint64_t credit = clamp(word_get(policy, W_CREDIT), 0, policy->tier),
             step = (STEP << 8) * clamp(bytes * 256 / mean, 1, 8 * 256), share = spend(policy, class, bytes);
    bool keep;

    threshold = threshold ? clamp(threshold, THRESHOLD_LEAST << 16, THRESHOLD_MOST << 16) : THRESHOLD_FIRST << 16;
    keep = class_share(policy, class) * mean >= (threshold >> 16) * bytes && credit + bytes <= run_most(policy);
    /* Wanted once, kept for a lap, and not wanted in it: where keys return once or never, more laps of them would make
     * each too short for any to return. */
    if (class == class_of(POLICY_MAIN, false, 0) || class == class_of(POLICY_MAIN, false, 1))
        keep = false;
    if (keep) {
        threshold += step * (ONE - share) / ONE;
        credit += bytes;
    } else {
        threshold -= clamp(step * share / ONE, 0, threshold);
        credit -= clamp(POLICY_COPIES * bytes, 0, credit);
    }
    word_set(policy, W_THRESHOLD, clamp(threshold, THRESHOLD_LEAST << 16, THRESHOLD_MOST << 16));
    word_set(policy, W_CREDIT, credit);
    return keep;
}

bool policy_judge(struct policy *policy, uint64_t hash, uint64_t bytes, enum policy_log log, uint8_t *touch)
{
    bool read = *touch & POLICY_READ, keep;
    unsigned class;

    bytes = clamp(bytes, 1, policy->tier);
    past_learn(policy, *touch);
    class = class_of(log, read, log == POLICY_MAIN && read ? want(policy, hash) : wanted(policy, hash));
    keep = worth(policy, class, bytes);
    if (keep) {
        main_grow(policy, bytes);
        *touch = (uint8_t)(class + 1);
    } else {
        ghost_put(policy, hash, class);
    }
    return keep;
}
