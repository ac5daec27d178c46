/*
 * writer.c - one thread that writes the tier: fills in batches, eviction, housekeeping.
 * Above tier.c and evict.c; host.c hands the fills down.
 *
 * A batch is whatever is queued when the thread is free: a lone fill is written at once, a flood a hundred at a time.
 * LMDB copies every page that it changes and hands out a freed page again two commits later at the earliest, so a
 * batch also ends at a sixteenth of the free pages, its copies at a sixth, and all stay far from the end of the map.
 *
 * After a batch the thread rests for a moment, unless somebody waits for what is queued: of fills that come one by one,
 * each as soon as Redis has answered, every one would else be a wake-up and a commit of its own, which costs several
 * times what the fetch did, on the processors that the callers and Redis want.
 *
 * The map is kept below its high-water mark inside the batches themselves: each deletes what it added too much.  Where
 * LMDB finds no page all the same (a stopped reader pins every page freed since), dead readers are cleared out, room
 * is made in small transactions where that helps, the batch tried once more, and then given up: a fill that is lost
 * costs a fetch.
 *
 * In a pool (pool.h) the files may hold no more pages than the share, by the file system's own count.  What a
 * transaction may add at most is known before it writes: a page of memory for each page that it changes, all told
 * generously.  It is begun only if the share has that much left; if not, pages that are free in the map are given back
 * first, for LMDB may choose others that have no memory yet.
 */
#include <writer.h>

#include <bytes.h>
#include <clock.h>
#include <evict.h>
#include <fiber.h>
#include <guarded.h>
#include <log.h>
#include <policy.h>
#include <sheet.h>
#include <step.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_LEAST (1u << 20) /* bytes of fills waiting: a sixteenth of the map within these two */
#define QUEUE_MOST (32u << 20)
#define QUEUE_COUNT 8192u
#define BATCH_COUNT 100u
#define BATCH_BYTES (1u << 20)
#define LARGE_PAGES 16u     /* for a record of more, room is made before its batch begins */
#define SHARE_FREE 16u      /* of the free pages one in so many may a batch take */
#define SHARE_COPIES 6u     /* and its copies, ... */
#define SHARE_COPIES_POOL 12u /* ... in a pool, where all that a transaction may add stays free */
#define TAIL_SHEETS 64u     /* looked at by a batch, beside what the policy may look at for each that it writes */
#define CHOOSE_ROUNDS 8u    /* transactions in which the policy makes room for a large record */
#define LOOKED_POOL 4u      /* for each that is written, in a pool: copies cost room there */
#define COPIES_LEAST 8u     /* sheets */
#define SLACK_SHARE 4u      /* where this part of the reserve is gone nothing is copied any more */
#define ROOM_SHEETS 64u     /* of a transaction that only makes room */
#define ROOM_LEAST 64u      /* pages, whatever the file system says */
#define ROOM_ROUNDS 20000u
#define SWEEP_SHEETS 16u    /* a transaction */
#define SWEEP_SECONDS 3600u /* for all sheets */
#define SWEEP_ROUNDS 16u    /* more, as long as most of what is met is void */
#define DEAD_SHARE 4u       /* if more than one in so many sheets is of the dead nobody else needs leave */
#define SHRINK_EVERY_NS (10 * CLOCK_NS_PER_S)
#define SHARE_SLACK 160u     /* pages of a share that are never planned with, and one in so many more of it and of */
#define SHARE_SLACK_PART 64u /* those that are free: what a transaction may add, and what the last two have freed */
#define SHARE_TICK 16u       /* pages that even one that changes next to nothing may add; two of them always fit */
#define SHARE_ADDS 96u       /* pages that any transaction may add: both trees, buckets of the index, and zeros that */
                             /* late readers have let a tmpfs put where pages had been given back */
#define SHARE_ADDS_PART 8u   /* one in so many more of those that it writes, for the trees */
#define SHARE_ADDS_FREE 256u /* and one for so many in the list of free pages, of which it may write a part again */
#define GIVE_MORE 64u        /* pages, lest each transaction have to give some back */
#define GIVE_COPIES 32u      /* sheets, for each transaction that only evicts to give, ... */
#define GIVE_COPIES_PART 128u /* ... or one in so many of the share */
#define GIVE_ROUNDS 64u      /* of a giving without fills that wait */
#define GIVE_ROUNDS_BUSY 4u
#define SHARE_FLOOR 384u     /* pages for the map that are never given */
#define VALUE_SHARE 8u       /* the largest value takes one in so many pages of what we have or could have */
#define ASK_EVERY_NS (10 * CLOCK_NS_PER_MS)
#define NEAR_SHARE 16u       /* of the pool: a key that comes back within so many bytes of fills would have been kept */
#define CLOSE_WAIT_NS (2 * CLOCK_NS_PER_S)
#define REST_NS CLOCK_NS_PER_MS /* between batches; a fill so late costs a fetch, seldom a load, at most */
#define REST_SHARE 2u           /* unless this part of a batch, or of the queue, has gathered */

/* What has become of a put that compares: its caller and the thread each hold it. */
struct receipt {
    _Atomic unsigned holds;
    _Atomic uint64_t word; /* one of these, or the position that it was given << 2 | RECEIPT_TAKEN */
};

#define RECEIPT_WAITS    0u
#define RECEIPT_GIVEN_UP 1u /* nobody waits for it any more: it must not happen */
#define RECEIPT_OUTDATED 2u
#define RECEIPT_TAKEN    3u
#define RECEIPT_GUARDED  (UINT64_C(1) << 63) /* beside the position: somebody guards the key, so it is only void */

/* A fill on its way; the key's and the value's bytes stand behind it.  Or, without a fill, the end of a turn. */
struct item {
    struct item *next;
    struct turn turn;        /* slot NULL: a fill */
    struct receipt *receipt; /* a put that compares; else NULL */
    uint64_t ticket;
    size_t size;
    struct key key;
    struct record record;
    const uint8_t *value;
    uint8_t bytes[];
};

struct writer {
    struct control *control;
    struct tier *tier;
    uint64_t queue_limit; /* bytes */
    uint64_t value_limit; /* a larger one would push out half of the others */

    pthread_mutex_t lock; /* all up to the next blank line */
    pthread_cond_t work, done;
    struct item *first, **last;
    uint64_t bytes; /* queued or being written */
    uint32_t count;
    uint64_t handed, finished; /* tickets */
    unsigned holds;            /* the handle's, and the thread's: the last one frees */
    bool started, closing, ended, detached;
    int64_t shelve_ns; /* the shelf's next turn */
    bool resting;     /* the thread, till `rested_ns`: who brings what cannot wait has to wake it */
    uint32_t awaited; /* who waits for something queued */
    bool pressing;    /* the end of a turn is queued, or a put that compares: for those somebody waits elsewhere */
    pthread_t thread;

    atomic_bool broken, left;

    /* the thread's own */
    struct policy policy;
    int64_t housekept_ns, rested_ns;
    uint64_t room;        /* pages that we may count on; fewer than the map's after the file system had no more */
    int64_t shrunk_ns;
    struct pool *pool; /* NULL: none, and the next four are nothing */
    uint64_t fixed;    /* pages of the share that are not the map's and never grow: the control page */
    uint64_t beside;   /* those of the tier's other files when they were last looked at */
    bool pressed;      /* somebody had to go who could have stayed */
    uint64_t free;     /* pages in the map's list of free ones, when it was last looked at */
    uint64_t giving;   /* records go because others are to have their room: sheets that may be copied; else 0 */
    int64_t asked_ns;
};

/* What a transaction did, to be counted when it has been committed. */
struct tally {
    uint64_t fills, refused, dropped, evictions, voids, expired;
};

/* ---- transactions ---- */

static void tally_count(struct control *control, const struct tally *tally)
{
    const struct {
        enum control_counter counter;
        uint64_t n;
    } counts[] = {
        {COUNT_FILLS, tally->fills},           {COUNT_FILLS_REFUSED, tally->refused},
        {COUNT_FILLS_DROPPED, tally->dropped}, {COUNT_EVICTIONS, tally->evictions},
        {COUNT_VOIDS, tally->voids},           {COUNT_EXPIRED, tally->expired},
    };

    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        if (counts[i].n)
            control_count(control, counts[i].counter, counts[i].n);
}

/* Of a transaction that came to nothing: who was deleted in it is gone all the same. */
static void tally_count_gone(struct control *control, const struct tally *tally)
{
    const struct tally gone = {.evictions = tally->evictions, .voids = tally->voids, .expired = tally->expired};

    tally_count(control, &gone);
}

/* ---- a share ---- */

/* Pages that our files hold; under the writer lock, for an answer that lasts. */
static uint64_t share_held(struct writer *w)
{
    w->beside = tier_beside_held(w->tier);
    return w->fixed + w->beside + tier_map_held(w->tier);
}

/* Pages that the map may use: of what the share is to be lowered to, if it is. */
static uint64_t share_room(const struct writer *w)
{
    uint64_t share = pool_target(w->pool);
    uint64_t taken = w->fixed + w->beside + SHARE_SLACK + (share + w->free) / SHARE_SLACK_PART;

    return share > taken + ROOM_LEAST ? share - taken : ROOM_LEAST;
}

/* Let the policy know what it has to go by. */
static void share_plan(struct writer *w)
{
    policy_share(&w->policy, share_room(w) * POOL_PAGE, pool_pages(w->pool) * POOL_PAGE / NEAR_SHARE);
}

/* What a transaction that writes so many pages of records may add to what the files hold, and what must be left after
 * it.  No pages: one that only lets free pages grow old, since these may be what is missing. */
static uint64_t share_adds(struct tier_txn *txn, uint64_t pages)
{
    uint64_t tick = SHARE_TICK + tier_free_pages(txn) / SHARE_ADDS_FREE;

    return pages == 0 ? tick : pages + pages / SHARE_ADDS_PART + SHARE_ADDS + 3 * tick;
}

/* May this transaction, which has written nothing yet, write so many pages?  Gives pages back if that is what it
 * takes. */
static freshet_result writer_admit(struct writer *w, struct tier_txn *txn, uint64_t pages)
{
    uint64_t share, needs;

    if (!w->pool)
        return FRESHET_OK;
    share = pool_share(w->pool);
    needs = share_held(w) + share_adds(txn, pages);
    if (needs > share) {
        w->pressed = true;
        tier_give_back(txn, needs - share + GIVE_MORE);
        needs = share_held(w) + share_adds(txn, pages);
    }
    if (needs <= share)
        return FRESHET_OK;
    return fail(FRESHET_ENOSPC, "no room in the pool: of a share of %llu pages %llu would be held",
                (unsigned long long)share, (unsigned long long)needs);
}

/* Tell what was learnt, and ask for pages when there is need. */
static void writer_ask(struct writer *w, uint64_t pages)
{
    pool_earn(w->pool, w->policy.returned, w->policy.seen);
    w->policy.returned = w->policy.seen = 0;
    if (!w->pressed || clock_boot_ns() - w->asked_ns < ASK_EVERY_NS || !pool_hopeful(w->pool))
        return;
    w->pressed = false;
    if (!pool_ask(w->pool, pages))
        w->asked_ns = clock_boot_ns();
    share_plan(w);
}

/* Wait for the writer lock; whoever was left behind meanwhile has nothing to do with it any more. */
static freshet_result writer_begin(struct writer *w, struct tier_txn **ret_txn)
{
    freshet_result result = tier_begin(w->tier, ret_txn);

    if (result == FRESHET_OK && atomic_load(&w->left)) {
        tier_drop(*ret_txn);
        return FRESHET_EIO;
    }
    return result;
}

static freshet_result writer_commit(struct writer *w, struct tier_txn *txn, const struct tally *tally)
{
    freshet_result result = tier_commit(txn);

    if (result == FRESHET_OK)
        tally_count(w->control, tally);
    else
        tally_count_gone(w->control, tally);
    control_count(w->control, COUNT_EVICTIONS, tier_displaced(w->tier));
    return result;
}

static bool writer_must_end(const struct writer *w)
{
    return atomic_load(&w->left) || !tier_intact(w->tier);
}

/* ---- eviction ---- */

/* Why and how records are being looked at. */
struct judging {
    struct writer *w;
    struct tally *tally;
    int64_t now_ns;
    uint64_t room, most; /* bytes that may still be copied, and of one record */
    bool dead_only, none_stays;
};

static struct judging judging_begin(struct writer *w, struct tally *tally)
{
    return (struct judging){.w = w, .tally = tally, .now_ns = clock_boot_ns()};
}

/* What the policy says of a record that may still be served. */
static struct tier_fate writer_policy(struct writer *w, const struct tier_entry *entry)
{
    struct tier_fate fate = {.log = POLICY_MAIN, .touched = entry->touched};

    fate.keep = policy_judge(&w->policy, bytes_get64(entry->key.hash), entry->bytes, (enum policy_log)entry->log,
                             &fate.touched);
    return fate;
}

/* What becomes of one record. */
static struct tier_fate writer_judge(const struct tier_entry *entry, void *arg)
{
    const struct tier_fate gone = {0}, stays = {true, entry->log, entry->touched};
    struct judging *judging = arg;
    struct tier_fate fate;

    switch (evict_choose(&entry->record, &entry->key, judging->w->control, judging->now_ns)) {
    case EVICT_VOID:
        judging->tally->voids++;
        return gone;
    case EVICT_EXPIRED:
        judging->tally->expired++;
        return gone;
    default:
        break;
    }
    fate = judging->dead_only ? stays : judging->none_stays ? gone : writer_policy(judging->w, entry);
    if (fate.keep && (judging->room == 0 || entry->bytes > judging->most))
        fate = gone;
    if (fate.keep)
        judging->room -= entry->bytes < judging->room ? entry->bytes : judging->room;
    else
        judging->tally->evictions++;
    return fate;
}

static struct tier_fate writer_judge_sweep(const struct tier_entry *entry, void *arg)
{
    struct judging *judging = arg;
    enum evict_choice choice =
        evict_choose(&entry->record, &entry->key, judging->w->control, judging->now_ns);

    judging->tally->voids += choice == EVICT_VOID;
    judging->tally->expired += choice == EVICT_EXPIRED;
    return (struct tier_fate){.keep = choice == EVICT_KEEP};
}

/* Room is short as soon as another step would be needed; what is far from that can be spared. */
static void share_look(struct writer *w, const struct tier_usage *usage)
{
    uint64_t used = usage->used + pool_step(w->pool), reserve = evict_reserve(usage->all);
    uint64_t mark = reserve < usage->all ? usage->all - reserve : 0;

    w->pressed |= used > mark;
    pool_spare(w->pool, used < mark ? mark - used : 0);
}

/* Pages in use, and those that may be. */
static void writer_usage(struct writer *w, struct tier_txn *txn, struct tier_usage *ret_usage)
{
    tier_usage(txn, ret_usage);
    if (w->room < ret_usage->all)
        ret_usage->all = w->room;
    if (!w->pool)
        return;
    w->free = tier_free_pages(txn);
    if (share_room(w) < ret_usage->all)
        ret_usage->all = share_room(w);
    share_look(w, ret_usage);
}

static uint64_t usage_free(const struct tier_usage *usage)
{
    return usage->used < usage->all ? usage->all - usage->used : 0;
}

/* The file system had no page below the mark.  Live within what there is; the room grows again, slowly
 * (writer_housekeep).  Not oftener than now and then.  Where it is somebody's old snapshot that pins the pages less
 * room would free none, and be missed when it has gone. */
static void writer_shrink(struct writer *w)
{
    struct tier_usage usage;
    struct tier_txn *txn;

    if (!tier_disk_full(w->tier) || (w->shrunk_ns && clock_boot_ns() - w->shrunk_ns < SHRINK_EVERY_NS))
        return;
    if (writer_begin(w, &txn) != FRESHET_OK)
        return;
    writer_usage(w, txn, &usage);
    tier_drop(txn);
    if (usage.used < usage.all) {
        w->room = usage.used < ROOM_LEAST ? ROOM_LEAST : usage.used;
        w->shrunk_ns = clock_boot_ns();
    }
}

/* The next sheet of a log that has one, the fittest first. */
static freshet_result writer_tail(struct tier_txn *txn, const struct tier_usage *usage, struct judging *judging,
                                  struct tier_found *found)
{
    const uint64_t bytes[POLICY_LOGS] = {usage->log_sheets[POLICY_SMALL] * SHEET_ROOM,
                                         usage->log_sheets[POLICY_MAIN] * SHEET_ROOM};
    uint32_t log = policy_next(&judging->w->policy, bytes);
    freshet_result result = FRESHET_MISS;

    for (uint32_t i = 0; i < TIER_LOGS && result == FRESHET_MISS; i++)
        result = tier_tail(txn, (log + i) % TIER_LOGS, writer_judge, judging, found);
    return result;
}

static uint64_t usage_sheets(const struct tier_usage *usage)
{
    uint64_t sheets = 0;

    for (uint32_t log = 0; log < TIER_LOGS; log++)
        sheets += usage->log_sheets[log];
    return sheets;
}

/* Is so much of the logs nobody's that it is enough to take that? */
static bool usage_is_dead(const struct tier_usage *usage)
{
    uint64_t sheets = usage_sheets(usage);

    return usage->live < sheets && sheets - usage->live > sheets / DEAD_SHARE;
}

/* Free sheets at the tails until `more` pages fit below the mark, or so many were looked at.  `least`: so many in any
 * case. */
static freshet_result writer_evict(struct writer *w, struct tier_txn *txn, uint64_t more, uint32_t sheets,
                                   uint32_t least, struct judging *judging)
{
    struct tier_found found = {0};
    struct tier_usage usage;

    for (uint32_t i = 0; i < sheets; i++) {
        freshet_result result;
        uint64_t excess;

        writer_usage(w, txn, &usage);
        excess = evict_excess(usage.used - usage.owed + more, usage.all);
        if (i >= least && excess == 0)
            break;
        w->pressed = true;
        if (judging->room < SHEET_SIZE && !judging->none_stays) {
            if (w->giving || excess <= evict_reserve(usage.all) / SLACK_SHARE)
                break; /* the next batch goes on */
            judging->none_stays = true;
        }
        judging->dead_only = usage_is_dead(&usage) && !judging->none_stays;
        result = writer_tail(txn, &usage, judging, &found);
        if (result == FRESHET_MISS)
            break;
        if (result != FRESHET_OK)
            return result;
    }
    return FRESHET_OK;
}

/* Two commits that change next to nothing: what was freed before them can be had after. */
static void writer_age(struct writer *w)
{
    for (int i = 0; i < 2; i++) {
        struct tier_txn *txn;

        if (writer_begin(w, &txn) != FRESHET_OK)
            return;
        if (writer_admit(w, txn, 0) != FRESHET_OK || tier_tick(txn) != FRESHET_OK) {
            tier_drop(txn);
            return;
        }
        if (tier_commit(txn) != FRESHET_OK)
            return;
    }
}

/* Drop whole sheets, copying nothing, in small transactions until `more` pages fit below the mark; at least `least`. */
static void writer_make_room(struct writer *w, uint64_t more, uint32_t least)
{
    bool deleted = false;

    for (uint32_t round = 0; round < ROOM_ROUNDS && !writer_must_end(w); round++) {
        struct tally tally = {0};
        struct judging judging = judging_begin(w, &tally);
        struct tier_usage usage, after;
        struct tier_txn *txn;

        if (writer_begin(w, &txn) != FRESHET_OK)
            return;
        writer_usage(w, txn, &usage);
        if (least == 0 && evict_excess(usage.used + more, usage.all) == 0) {
            tier_drop(txn);
            break;
        }
        judging.none_stays = true;
        if (writer_admit(w, txn, ROOM_SHEETS / 4) != FRESHET_OK ||
            writer_evict(w, txn, more, ROOM_SHEETS, least, &judging) != FRESHET_OK) {
            tier_drop(txn);
            tally_count_gone(w->control, &tally);
            break;
        }
        least = 0;
        tier_usage(txn, &after);
        if (after.used == usage.used && after.owed == 0) { /* there is nothing to drop */
            tier_drop(txn);
            break;
        }
        if (writer_commit(w, txn, &tally) != FRESHET_OK)
            break;
        deleted = true;
    }
    if (deleted)
        writer_age(w);
}

/* ---- fills ---- */

static void receipt_drop(struct receipt *receipt)
{
    if (receipt && atomic_fetch_sub(&receipt->holds, 1) == 1)
        free(receipt);
}

/* Without a fleet: does the tier know a later version of the source?  A clear lets them begin anew. */
static bool writer_outdated(const struct writer *w, const struct item *item, const struct record *old)
{
    return item->record.epoch == 0 && old->epoch == 0 && item->record.source_version != 0 &&
           old->source_version > item->record.source_version &&
           old->born >= atomic_load(&w->control->parts[item->key.partition].clear);
}

/* Give a put that compares its position, and void what is older.  False: its caller has gone, or somebody guards the
 * key: it is not to be written. */
static bool writer_give_position(struct writer *w, const struct item *item, struct record *record)
{
    uint64_t seen = RECEIPT_WAITS, position = atomic_load(&item->receipt->word);

    if ((position & 3) != RECEIPT_TAKEN) { /* else in an earlier attempt */
        position = control_next_position(w->control, item->key.partition) << 2 | RECEIPT_TAKEN;
        if (guarded_is(w->control, &item->key)) /* asked behind the position: guarded.h */
            position |= RECEIPT_GUARDED;
        if (!atomic_compare_exchange_strong(&item->receipt->word, &seen, position))
            return false;
    }
    record->as_of = record->born = (position & ~RECEIPT_GUARDED) >> 2;
    (void)control_raise(control_fence(w->control, item->key.partition, item->key.slot), record->as_of);
    return !(position & RECEIPT_GUARDED);
}

/* Write one fill, unless it is void already or the tier has a better one. */
static freshet_result writer_put(struct writer *w, struct tier_txn *txn, const struct item *item, struct tally *tally)
{
    struct record record = item->record, old;
    struct tier_fate where = {0};
    freshet_result result;
    bool there;

    if (item->turn.slot)
        return FRESHET_OK;
    result = tier_peek(txn, &item->key, &old, &where);
    if (result < 0)
        return result;
    there = result == FRESHET_OK;
    if (there && writer_outdated(w, item, &old)) {
        uint64_t seen = RECEIPT_WAITS;

        if (item->receipt)
            (void)atomic_compare_exchange_strong(&item->receipt->word, &seen, RECEIPT_OUTDATED);
        tally->refused++;
        return FRESHET_OK;
    }
    if (item->receipt && !writer_give_position(w, item, &record))
        return FRESHET_OK;
    if (evict_choose(&record, &item->key, w->control, clock_boot_ns()) != EVICT_KEEP ||
        (there && !record_replaces(&record, &old, record.epoch))) {
        tally->refused++;
        return FRESHET_OK;
    }
    where.log = policy_admit(&w->policy, bytes_get64(item->key.hash), item->size,
                             there && where.log < POLICY_LOGS ? (enum policy_log)where.log : POLICY_LOGS,
                             &where.touched);
    result = tier_write(txn, &item->key, &record, item->value, where.log, where.touched);
    if (result == FRESHET_EINVAL) { /* above the limit that the tier was opened with: no fault of the transaction's */
        tally->dropped++;
        return FRESHET_OK;
    }
    tally->fills += result == FRESHET_OK;
    return result;
}

/* Bytes that an attempt may copy. */
static uint64_t attempt_copies(const struct writer *w, const struct tier_usage *usage)
{
    uint64_t sheets = usage_free(usage) / (w->pool ? SHARE_COPIES_POOL : SHARE_COPIES);

    if (w->giving)
        sheets = w->giving;
    return (sheets < COPIES_LEAST ? COPIES_LEAST : sheets) * SHEET_ROOM;
}

/* How many sheets to look at when so many are written. */
static uint32_t looked_most(const struct writer *w, uint64_t sheets)
{
    return TAIL_SHEETS + (w->pool ? LOOKED_POOL : POLICY_COPIES + 1) * (uint32_t)sheets;
}

/* Pages of records that an attempt may write: the fills that it takes, and copies, of which the last may be as large as
 * all before. */
static uint64_t attempt_pages(const struct writer *w, const struct item *item, uint32_t most,
                              const struct tier_usage *usage)
{
    uint64_t budget = usage_free(usage) / SHARE_FREE, copies = 2 * attempt_copies(w, usage) / SHEET_ROOM;
    uint64_t first = item && most ? tier_pages(&item->record) : 0, bytes = 0, fills;

    for (uint32_t i = 0; i < most && item; i++, item = item->next)
        bytes += item->size;
    fills = bytes / SHEET_ROOM + 1;
    if (fills > budget)
        fills = budget;
    return (fills > first ? fills : first) + copies + TIER_LOGS;
}

/* Would so many pages more be too much? */
static bool writer_lacks(struct writer *w, uint64_t pages)
{
    struct tier_usage usage;
    struct tier_txn *txn;

    if (writer_begin(w, &txn) != FRESHET_OK)
        return false;
    writer_usage(w, txn, &usage);
    tier_drop(txn);
    return evict_excess(usage.used - usage.owed + pages, usage.all) > 0;
}

/* Delete in one transaction, as the policy says, what is too much with so many pages more. */
static freshet_result writer_choose(struct writer *w, uint64_t pages)
{
    struct tally tally = {0};
    struct judging judging = judging_begin(w, &tally);
    struct tier_usage usage;
    struct tier_txn *txn;
    freshet_result result = writer_begin(w, &txn);
    uint64_t budget;

    if (result != FRESHET_OK)
        return result;
    writer_usage(w, txn, &usage);
    judging.room = judging.most = attempt_copies(w, &usage);
    budget = usage_free(&usage) / SHARE_FREE; /* of what is deleted too: that takes pages in the list of free ones */
    budget = looked_most(w, pages < budget ? pages : budget);
    if ((w->pool && (result = writer_admit(w, txn, attempt_pages(w, NULL, 0, &usage))) != FRESHET_OK) ||
        (result = writer_evict(w, txn, pages, (uint32_t)budget, 0, &judging)) != FRESHET_OK) {
        tier_drop(txn);
        tally_count_gone(w->control, &tally);
        return result;
    }
    return writer_commit(w, txn, &tally);
}

/* Make room for a record that is large beside what one batch may take.  Only if the policy does not come to an end in
 * time, or can copy no more, does everything go that stands at the tails: so a tier of large records would be a queue
 * in which nothing stays for being read. */
static void writer_room_for_large(struct writer *w, uint64_t pages)
{
    bool done = false;

    for (uint32_t round = 0; round < CHOOSE_ROUNDS && !writer_must_end(w) && writer_lacks(w, pages); round++) {
        if (writer_choose(w, pages) != FRESHET_OK)
            break;
        done = true;
    }
    if (done)
        writer_age(w);
    writer_make_room(w, pages, 0);
}

/* Write up to `most` fills in one transaction, and delete what is then too much.  *ret_taken: how many were looked
 * at, all of them written or none. */
static freshet_result writer_attempt(struct writer *w, const struct item *item, uint32_t most, uint32_t *ret_taken)
{
    struct tally tally = {0};
    struct judging judging = judging_begin(w, &tally);
    struct tier_usage usage;
    struct tier_txn *txn;
    uint64_t budget, spent = 0;
    freshet_result result;

    *ret_taken = most;
    if (item && tier_pages(&item->record) > LARGE_PAGES) {
        if (w->pool) { /* who has room to be had need not let everything go for it */
            w->pressed = true;
            w->asked_ns = 0;
            writer_ask(w, tier_pages(&item->record) + pool_step(w->pool));
        }
        writer_room_for_large(w, tier_pages(&item->record));
    }
    if ((result = writer_begin(w, &txn)) != FRESHET_OK)
        return result;
    writer_usage(w, txn, &usage);
    budget = usage_free(&usage) / SHARE_FREE;
    if (w->pool && (result = writer_admit(w, txn, attempt_pages(w, item, most, &usage))) != FRESHET_OK)
        goto failed;
    for (*ret_taken = 0; *ret_taken < most && item; item = item->next) {
        spent += item->size;
        if (*ret_taken > 0 && spent / SHEET_ROOM > budget)
            break;
        ++*ret_taken;
        if ((result = writer_put(w, txn, item, &tally)) != FRESHET_OK)
            goto failed;
    }
    judging.room = judging.most = attempt_copies(w, &usage);
    result = writer_evict(w, txn, 0, looked_most(w, (w->giving ? judging.room : spent) / SHEET_ROOM), 0, &judging);
    if (result != FRESHET_OK)
        goto failed;
    return writer_commit(w, txn, &tally);
failed:
    tier_drop(txn);
    tally_count_gone(w->control, &tally);
    return result;
}

/* Write the first fills of a list, as many as one transaction takes; when there is no room, once more after room was
 * made.  How many are done with, written or not. */
static uint32_t writer_write_some(struct writer *w, const struct item *item, uint32_t count)
{
    uint32_t taken;
    freshet_result result = writer_attempt(w, item, count, &taken);

    if (result == FRESHET_ENOSPC && !writer_must_end(w)) {
        /* In a map that is full for a snapshot no deletion makes room: what is in use must not pay for it. */
        uint32_t least = tier_disk_full(w->tier) ? TAIL_SHEETS : 0;
        uint64_t pages = 0;
        const struct item *it = item;

        control_count(w->control, COUNT_MAP_FULL, 1);
        for (uint32_t i = 0; i < taken && it; i++, it = it->next)
            pages += tier_pages(&it->record);
        if (tier_reader_check(w->tier) == 0)
            writer_shrink(w);
        writer_make_room(w, pages, least);
        if (least == 0)
            writer_age(w);
        result = writer_attempt(w, item, taken, &taken);
    }
    if (taken == 0)
        taken = 1;
    if (result != FRESHET_OK) {
        control_count(w->control, COUNT_FILLS_DROPPED, taken);
        say(FRESHET_DEBUG, "tier: %u fills dropped: %s", taken, freshet_error());
    }
    return taken;
}

/* ---- giving to others in the pool ---- */

/* Give back what is free, and lower the share as far as our files then allow.  True: it is at the target.  *ret_full:
 * records must go first. */
static bool writer_lower(struct writer *w, bool *ret_full)
{
    uint64_t target = pool_target(w->pool), copies = pool_share(w->pool) / GIVE_COPIES_PART, keep, left;
    struct tier_usage usage;
    struct tier_txn *txn;
    bool done;

    *ret_full = false;
    if (writer_begin(w, &txn) != FRESHET_OK)
        return true; /* not now */
    writer_usage(w, txn, &usage);
    *ret_full = evict_excess(usage.used, usage.all) > 0;
    keep = share_held(w) + share_adds(txn, 2 * COPIES_LEAST + TIER_LOGS);
    if (keep > target) {
        tier_give_back(txn, keep - target);
        keep = share_held(w) + share_adds(txn, 2 * COPIES_LEAST + TIER_LOGS);
    }
    copies = copies < GIVE_COPIES ? GIVE_COPIES : copies;
    done = pool_give(w->pool, *ret_full ? keep + 4 * copies : keep); /* what is copied takes room, for a while */
    left = pool_share(w->pool);
    left = left > keep ? (left - keep) / 4 : 0;
    w->giving = COPIES_LEAST + (left < copies ? left : copies);
    tier_drop(txn);
    return done;
}

/* Others are to have some of ours: let records go until the files hold no more than the target. */
static void writer_give(struct writer *w, unsigned rounds)
{
    bool full;

    for (; rounds > 0 && pool_target(w->pool) < pool_share(w->pool) && !writer_must_end(w); rounds--) {
        uint32_t taken;

        if (writer_lower(w, &full))
            break;
        if (!full || writer_attempt(w, NULL, 0, &taken) != FRESHET_OK)
            writer_age(w); /* what is free is too young */
        w->giving = 0;
    }
    w->giving = 0;
    share_plan(w);
}

/* ---- housekeeping ---- */

/* Look at some sheets for the void and the expired.  *ret_share: how often to do so in a second; *ret_void: most of
 * what was met was so.  False: the sweep has come round, or cannot go on. */
static bool writer_sweep(struct writer *w, uint64_t *ret_share, bool *ret_void)
{
    struct tally tally = {0};
    struct judging judging = judging_begin(w, &tally);
    struct tier_usage usage;
    struct tier_txn *txn;
    uint32_t asked, gone;
    bool round;

    if (writer_must_end(w) || writer_begin(w, &txn) != FRESHET_OK)
        return false;
    tier_usage(txn, &usage);
    round = tier_sweep(txn, SWEEP_SHEETS, writer_judge_sweep, &judging, &asked, &gone);
    tier_drop(txn);
    tally_count(w->control, &tally);
    *ret_share = usage_sheets(&usage) / (SWEEP_SHEETS * SWEEP_SECONDS) + 1;
    *ret_void = gone > asked / 2;
    return !round;
}

static bool writer_idle(struct writer *w)
{
    bool idle;

    pthread_mutex_lock(&w->lock);
    idle = !w->first && !w->closing;
    pthread_mutex_unlock(&w->lock);
    return idle;
}

/* Once a second, and more often while there is much to do. */
static void writer_tend(struct writer *w)
{
    struct tier_usage usage;
    struct tier_txn *txn;

    if (writer_begin(w, &txn) == FRESHET_OK) {
        (void)share_held(w);
        writer_usage(w, txn, &usage);
        tier_drop(txn);
    }
    pool_tend(w->pool, w->fixed + w->beside + (w->fixed + w->beside) / SHARE_SLACK_PART + SHARE_SLACK + SHARE_FLOOR);
    w->pressed |= pool_share(w->pool) < pool_minimum(w->pool);
    writer_ask(w, pool_step(w->pool));
    writer_give(w, GIVE_ROUNDS);
}

/* Put on the shelf what readers wished for; soon again when there was something, else when the house is kept. */
static void writer_shelve(struct writer *w)
{
    struct tier_txn *txn;
    uint32_t count = 0;
    int64_t next_ns = 0;

    if (tier_wished(w->tier) && tier_intact(w->tier) && writer_begin(w, &txn) == FRESHET_OK) {
        count = tier_shelve(txn, &next_ns);
        tier_drop(txn);
    }
    w->shelve_ns = count > 0 ? next_ns : w->housekept_ns + CLOCK_NS_PER_S;
}

static void writer_housekeep(struct writer *w)
{
    uint64_t share = 1;
    bool is_void = false;

    w->housekept_ns = clock_boot_ns();
    if (!tier_intact(w->tier))
        return;
    (void)tier_reader_check(w->tier);
    if (w->pool)
        writer_tend(w);
    if (w->room < UINT64_MAX / 2)
        w->room += w->room / 256 + 1;
    if (!tier_sweep_turn(w->tier, w->housekept_ns, CLOCK_NS_PER_S))
        return;
    for (uint64_t i = 0; i < share || (is_void && i < share + SWEEP_ROUNDS && writer_idle(w)); i++)
        if (!writer_sweep(w, &share, &is_void))
            break;
}

/* ---- the thread ---- */

static void items_free(struct item *item)
{
    while (item) {
        struct item *next = item->next;

        turn_end(&item->turn);
        receipt_drop(item->receipt);
        free(item);
        item = next;
    }
}

/* Under the lock: take what is queued, as much as makes a batch. */
static struct item *queue_take(struct writer *w, uint32_t *ret_count, uint64_t *ret_bytes)
{
    struct item *batch = w->first, **end = &w->first;

    *ret_count = 0;
    *ret_bytes = 0;
    while (*end && *ret_count < BATCH_COUNT && (*ret_count == 0 || *ret_bytes + (*end)->size <= BATCH_BYTES)) {
        ++*ret_count;
        *ret_bytes += (*end)->size;
        end = &(*end)->next;
    }
    w->first = *end;
    *end = NULL;
    if (!w->first) {
        w->last = &w->first;
        w->pressing = false;
    }
    return batch;
}

/* Under the lock: these are over; tell those who wait. */
static void queue_finish(struct writer *w, uint64_t ticket, uint32_t count, uint64_t bytes)
{
    w->finished = ticket;
    w->count -= count;
    w->bytes -= bytes;
    wait_tell(&w->done);
}

static void writer_write(struct writer *w, struct item *batch, uint32_t count, uint64_t bytes)
{
    uint64_t ticket = 0;
    uint32_t left = count;
    const struct item *item = batch;

    while (left > 0) {
        uint32_t taken = left;

        if (writer_must_end(w))
            control_count(w->control, COUNT_FILLS_DROPPED, left);
        else if (item->turn.slot)
            taken = 1; /* no transaction for it */
        else
            taken = writer_write_some(w, item, left);
        for (left -= taken; taken > 0; taken--) {
            ticket = item->ticket;
            item = item->next;
        }
    }
    pthread_mutex_lock(&w->lock);
    queue_finish(w, ticket, count, bytes);
    pthread_mutex_unlock(&w->lock);
    items_free(batch);
    if (w->pool && !writer_must_end(w)) { /* behind all that somebody may wait for */
        writer_ask(w, pool_step(w->pool));
        writer_give(w, GIVE_ROUNDS_BUSY);
    }
}

/* CLOCK_MONOTONIC at which CLOCK_BOOTTIME will be `deadline_ns`, as long as the host does not sleep. */
static struct timespec writer_monotonic(int64_t deadline_ns)
{
    struct timespec now;
    int64_t left = deadline_ns - clock_boot_ns(), at;

    clock_gettime(CLOCK_MONOTONIC, &now);
    if (left < 0)
        left = 0;
    if (left > 1000000 * CLOCK_NS_PER_S)
        left = 1000000 * CLOCK_NS_PER_S;
    at = now.tv_sec * CLOCK_NS_PER_S + now.tv_nsec + left;
    return (struct timespec){at / CLOCK_NS_PER_S, at % CLOCK_NS_PER_S};
}

/* Under the lock: is what is queued to be written now? */
static bool queue_presses(const struct writer *w)
{
    return w->closing || w->pressing || w->awaited > 0 || w->count >= BATCH_COUNT / REST_SHARE ||
           w->bytes >= BATCH_BYTES / REST_SHARE || w->bytes >= w->queue_limit / REST_SHARE;
}

/* Under the lock: wait for something to do, and, soon after a batch, for more of it. */
static void writer_await(struct writer *w)
{
    int64_t keep_ns = w->housekept_ns + CLOCK_NS_PER_S;
    struct timespec at = writer_monotonic(keep_ns < w->shelve_ns ? keep_ns : w->shelve_ns);

    while (!w->first && !w->closing)
        if (pthread_cond_timedwait(&w->work, &w->lock, &at) != 0)
            return;
    if (!w->first || queue_presses(w) || clock_boot_ns() >= w->rested_ns)
        return;
    at = writer_monotonic(w->rested_ns);
    w->resting = true;
    STEP("writer_resting");
    while (w->resting)
        if (pthread_cond_timedwait(&w->work, &w->lock, &at) != 0)
            break;
    if (w->resting)
        STEP("writer_rested"); /* to the end */
    w->resting = false;
}

/* Under the lock: the thread has something to do, or is to do it now. */
static void writer_rouse(struct writer *w)
{
    w->resting = false;
    pthread_cond_signal(&w->work);
}

static void writer_free(struct writer *w)
{
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->work);
    pthread_cond_destroy(&w->done);
    free(w);
}

/* Under the lock, which it gives up: one hold less. */
static void writer_release(struct writer *w)
{
    bool last = --w->holds == 0;

    pthread_mutex_unlock(&w->lock);
    if (last)
        writer_free(w);
}

/* The end of the thread: whatever is queued is dropped, nobody waits any more. */
static void writer_end(struct writer *w)
{
    struct item *rest;

    pthread_mutex_lock(&w->lock);
    rest = w->first;
    if (!atomic_load(&w->left)) {
        if (!tier_intact(w->tier)) {
            atomic_store(&w->broken, true);
            if (!w->closing && !w->detached) { /* its memory is left to late callers, so nobody will join it */
                w->detached = true;
                pthread_detach(w->thread);
            }
        }
        if (w->count)
            control_count(w->control, COUNT_FILLS_DROPPED, w->count);
    }
    w->first = NULL;
    w->last = &w->first;
    w->ended = true;
    queue_finish(w, w->handed, w->count, w->bytes);
    writer_release(w);
    items_free(rest);
}

static void *writer_main(void *arg)
{
    struct writer *w = arg;

    for (;;) {
        struct item *batch;
        uint64_t bytes;
        uint32_t count;
        bool closing;

        pthread_mutex_lock(&w->lock);
        writer_await(w);
        batch = queue_take(w, &count, &bytes);
        closing = w->closing;
        pthread_mutex_unlock(&w->lock);
        if (batch) {
            writer_write(w, batch, count, bytes);
            w->rested_ns = clock_boot_ns() + REST_NS;
        }
        if (writer_must_end(w) || (closing && !batch))
            break;
        if (!closing && clock_boot_ns() - w->housekept_ns >= CLOCK_NS_PER_S)
            writer_housekeep(w);
        if (!closing && clock_boot_ns() >= w->shelve_ns)
            writer_shelve(w);
    }
    writer_end(w);
    return NULL;
}

/* Under the lock: start the thread, deaf to all signals. */
static bool writer_start(struct writer *w)
{
    sigset_t all, before;
    int rc;

    if (w->started)
        return true;
    w->housekept_ns = clock_boot_ns();
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&w->thread, NULL, writer_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return false;
    (void)pthread_setname_np(w->thread, "freshet-writer");
    w->started = true;
    w->holds++;
    return true;
}

/* ---- what host.c calls ---- */

freshet_result writer_open(struct writer **ret_writer, struct control *control, struct tier *tier)
{
    struct writer *w = calloc(1, sizeof *w);
    uint64_t limit = tier_size(tier) / 16;
    pthread_condattr_t monotonic;

    if (!w)
        return fail(FRESHET_ENOMEM, "no memory for the tier's writer");
    w->control = control;
    w->tier = tier;
    policy_open(&w->policy, control->policy, control->tier_size);
    w->queue_limit = limit < QUEUE_LEAST ? QUEUE_LEAST : limit > QUEUE_MOST ? QUEUE_MOST : limit;
    w->value_limit = tier_size(tier) / 4;
    w->last = &w->first;
    w->holds = 1;
    w->room = UINT64_MAX;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->work, &monotonic);
    pthread_cond_init(&w->done, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *ret_writer = w;
    return FRESHET_OK;
}

freshet_result writer_share(struct writer *w, struct pool *pool)
{
    bool started;

    w->pool = pool;
    w->fixed = (w->control->size + POOL_PAGE - 1) / POOL_PAGE;
    w->beside = tier_beside_held(w->tier);
    share_plan(w);
    pthread_mutex_lock(&w->lock);
    started = writer_start(w);
    pthread_mutex_unlock(&w->lock);
    return started ? FRESHET_OK : fail(FRESHET_ENOMEM, "the thread of a cache in a pool cannot be started");
}

void writer_rise(struct writer *w)
{
    pthread_mutex_lock(&w->lock);
    (void)writer_start(w);
    pthread_mutex_unlock(&w->lock);
}

void writer_close(struct writer *w, bool *ret_left)
{
    struct timespec at = writer_monotonic(clock_boot_ns() + CLOSE_WAIT_NS);
    bool join = false;

    *ret_left = false;
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    writer_rouse(w);
    while (w->started && !w->ended)
        if (pthread_cond_timedwait(&w->done, &w->lock, &at) != 0)
            break;
    if (w->started && !w->ended) {
        atomic_store(&w->left, true);
        *ret_left = true;
    }
    if (w->started && !w->detached) {
        w->detached = *ret_left;
        if (*ret_left)
            pthread_detach(w->thread);
        else
            join = true;
    }
    pthread_t thread = w->thread;

    writer_release(w);
    if (join)
        pthread_join(thread, NULL);
}

void writer_abandon(struct writer *w)
{
    (void)w; /* its lock may be held by a thread that is not here, and its thread is the parent's */
}

bool writer_broken(const struct writer *w)
{
    return atomic_load_explicit(&w->broken, memory_order_acquire);
}

static struct item *item_make(const struct key *key, const struct record *record, const void *value)
{
    size_t value_size = (size_t)record->value_size;
    struct item *item = malloc(sizeof *item + key->size + value_size);

    if (!item)
        return NULL;
    *item = (struct item){.key = *key};
    record_copy(&item->record, record);
    /* Room for tags that it has not is not counted: it would make the queue shorter, and QUEUE_COUNT bounds it. */
    item->size = offsetof(struct item, bytes) - sizeof record->tags + 8 * record->tag_count + key->size + value_size;
    item->key.data = item->bytes;
    item->value = item->bytes + key->size;
    memcpy(item->bytes, key->data, key->size);
    if (value_size)
        memcpy(item->bytes + key->size, value, value_size);
    return item;
}

/* Under the lock: room for one more, and somebody to write it? */
static bool queue_admits(struct writer *w, size_t size)
{
    if (w->closing || w->ended || (w->count > 0 && (w->count >= QUEUE_COUNT || w->bytes + size > w->queue_limit)))
        return false;
    return writer_start(w);
}

/* Under the lock. */
static void queue_append(struct writer *w, struct item *item)
{
    item->ticket = ++w->handed;
    *w->last = item;
    w->last = &item->next;
    w->count++;
    w->bytes += item->size;
    w->pressing |= item->turn.slot || item->receipt;
    if (!w->resting || queue_presses(w))
        writer_rouse(w);
}

/* A larger value would push out too much. */
static uint64_t writer_value_limit(const struct writer *w)
{
    uint64_t most;

    if (!w->pool)
        return w->value_limit;
    most = (pool_target(w->pool) + pool_free(w->pool)) * POOL_PAGE / VALUE_SHARE;
    return most < w->value_limit ? most : w->value_limit;
}

static freshet_result writer_hand_over(struct writer *w, const struct key *key, const struct record *record,
                                       const void *value, struct receipt *receipt, uint64_t *ret_ticket)
{
    struct item *item = NULL;
    bool taken = false;

    if (record->value_size <= writer_value_limit(w) && !(item = item_make(key, record, value)))
        return fail(FRESHET_ENOMEM, "no memory to hand %llu bytes to the tier", (unsigned long long)record->value_size);
    pthread_mutex_lock(&w->lock);
    if (item && (taken = queue_admits(w, item->size))) {
        item->receipt = receipt;
        queue_append(w, item);
    }
    if (ret_ticket)
        *ret_ticket = w->handed;
    pthread_mutex_unlock(&w->lock);
    if (taken)
        return FRESHET_OK;
    free(item);
    control_count(w->control, COUNT_FILLS_DROPPED, 1);
    return FRESHET_MISS;
}

freshet_result writer_fill(struct writer *w, const struct key *key, const struct record *record, const void *value,
                           uint64_t *ret_ticket)
{
    return writer_hand_over(w, key, record, value, NULL, ret_ticket);
}

freshet_result writer_put_compared(struct writer *w, const struct key *key, const struct record *record,
                                   const void *value, int64_t deadline_ns, uint64_t *ret_position)
{
    struct receipt *receipt = calloc(1, sizeof *receipt);
    uint64_t ticket = 0, word = RECEIPT_WAITS;
    freshet_result result;

    if (!receipt)
        return fail(FRESHET_ENOMEM, "no memory for a put");
    atomic_store(&receipt->holds, 2);
    result = writer_hand_over(w, key, record, value, receipt, &ticket);
    if (result != FRESHET_OK) {
        free(receipt);
        return result;
    }
    (void)writer_wait(w, ticket, deadline_ns);
    /* One that is still to come must not: another put may follow before it does. */
    (void)atomic_compare_exchange_strong(&receipt->word, &word, RECEIPT_GIVEN_UP);
    receipt_drop(receipt);
    *ret_position = (word & ~RECEIPT_GUARDED) >> 2;
    if (word & RECEIPT_GUARDED)
        return FRESHET_GUARDED;
    return (word & 3) == RECEIPT_TAKEN ? FRESHET_OK : word == RECEIPT_OUTDATED ? FRESHET_OUTDATED : FRESHET_MISS;
}

bool writer_ends_turn(struct writer *w, const struct turn *turn)
{
    struct item *item;
    bool taken = false;

    if (!turn->slot || !(item = malloc(sizeof *item)))
        return false;
    *item = (struct item){.size = sizeof *item, .turn = *turn};
    pthread_mutex_lock(&w->lock);
    if (w->count > 0 && (taken = queue_admits(w, item->size)))
        queue_append(w, item);
    pthread_mutex_unlock(&w->lock);
    if (!taken)
        free(item);
    return taken;
}

freshet_result writer_wait(struct writer *w, uint64_t ticket, int64_t deadline_ns)
{
    freshet_result result = FRESHET_OK;

    pthread_mutex_lock(&w->lock);
    if (ticket > w->handed)
        ticket = w->handed;
    w->awaited++;
    if (w->finished < ticket)
        writer_rouse(w);
    while (w->finished < ticket && result == FRESHET_OK)
        if (!wait_news(&w->done, &w->lock, deadline_ns) && w->finished < ticket)
            result = FRESHET_ETIMEOUT;
    w->awaited--;
    pthread_mutex_unlock(&w->lock);
    if (result == FRESHET_ETIMEOUT)
        return fail(result, "the deadline passed before the tier was written");
    return FRESHET_OK;
}
