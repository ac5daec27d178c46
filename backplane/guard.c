/*
 * guard.c - guards in Redis: begin, prolong, end (guard.h).  Above publish.c, which sends the frames of both ends.
 *
 * A begin is never queued: without Redis's word there is no guard, and the caller leaves the database alone.  What was
 * guarded before a failure is ended as far as can be done in a moment, and else ends by its deadline.  An end is
 * written down in the outbox like any invalidation, since by then the database has changed.
 *
 * How long a guard is in force is counted from before the question was sent, which is earlier than Redis counts from.
 * The loop's thread asks again each third of that time.  It never begins a guard anew: once Redis has said that one was
 * not held, or has begun another history, it is lost for good, and its end says so.
 *
 * A guard that is ended while a question about it is on its way is freed by the answer.
 */
#include <fleet.h>
#include <guard.h>
#include <publish.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define GUARD_UNDO_MS  250
#define GUARD_AGAIN    4  /* of a third of the time: when to ask again after no answer */
#define GUARD_LEAST_MS 10 /* but not more often */
#define GUARD_WORDS    8u /* of the hold script beside its records */
#define GUARD_FAR_MS   600000u
#define GUARD_DRIFT    1000 /* 0.1 % */

/* A guard's keys of one partition. */
struct guard_part {
    struct remote_guard *guard;
    uint32_t partition, first, count;
    uint64_t epoch;   /* that it was begun in */
    int64_t asked_ns; /* the last question that was answered "held" was sent after this */
    int64_t sent_ns;  /* when the one on its way was */
    int64_t due_ns;
    bool asking; /* one is on its way */
};

struct remote_guard {
    struct remote_guard *next;
    struct fleet *fleet; /* NULL: it is gone */
    uint8_t id[16];
    uint32_t hold_ms, parts_count;
    bool fixed;
    bool lost;  /* Redis said so */
    bool told;  /* the log heard of it */
    bool ended; /* only kept for the answers that are on their way */
    uint32_t count;
    uint8_t (*hashes)[16];
    struct guard_part parts[FRESHET_PARTITIONS_MAX];
};

int64_t guard_left_of(int64_t asked_ns, uint32_t hold_ms, int64_t now_ns)
{
    int64_t hold_ns = hold_ms * FLEET_NS_PER_MS;
    int64_t left_ns = asked_ns + hold_ns - hold_ns / GUARD_DRIFT - now_ns;

    return left_ns > 0 ? left_ns / FLEET_NS_PER_MS : 0;
}

/* ---- a guard in memory ---- */

static void guard_free(struct remote_guard *guard)
{
    if (!guard)
        return;
    free(guard->hashes);
    free(guard);
}

static struct remote_guard *guard_make(struct fleet *fleet, const struct remote_guarding *guarding)
{
    struct remote_guard *guard = calloc(1, sizeof *guard);

    if (!guard || !(guard->hashes = malloc(guarding->count * sizeof *guard->hashes))) {
        guard_free(guard);
        return NULL;
    }
    guard->fleet = fleet;
    guard->hold_ms = guarding->hold_ms;
    guard->fixed = guarding->fixed;
    guard->count = guarding->count;
    seal_random(guard->id, sizeof guard->id);
    guard->id[0] |= 1; /* zeros would be none */
    for (uint32_t i = 0; i < guarding->count; i++) {
        struct guard_part *part = &guard->parts[guard->parts_count];

        memcpy(guard->hashes[i], guarding->keys[i].hash, sizeof guard->hashes[i]);
        if (i == 0 || guarding->keys[i].partition != guarding->keys[i - 1].partition) {
            *part = (struct guard_part){.guard = guard, .partition = guarding->keys[i].partition, .first = i};
            guard->parts_count++;
        }
        guard->parts[guard->parts_count - 1].count++;
    }
    return guard;
}

/* Under the lock. */
static bool guard_asking(const struct remote_guard *guard)
{
    for (uint32_t i = 0; i < guard->parts_count; i++)
        if (guard->parts[i].asking)
            return true;
    return false;
}

static void guard_unlist(struct guards *guards, struct remote_guard *guard)
{
    struct remote_guard **link = &guards->list;

    while (*link && *link != guard)
        link = &(*link)->next;
    if (*link)
        *link = guard->next;
}

/* Under the lock: the caller has no more use for it. */
static void guard_forget(struct guards *guards, struct remote_guard *guard)
{
    guard->ended = true;
    if (guard_asking(guard))
        return;
    guard_unlist(guards, guard);
    guard_free(guard);
}

/* Under the lock. */
static int64_t guard_left_now(const struct remote_guard *guard)
{
    int64_t now_ns = fleet_now_ns(), least = INT64_MAX;

    if (guard->lost)
        return 0;
    for (uint32_t i = 0; i < guard->parts_count; i++) {
        int64_t left = guard_left_of(guard->parts[i].asked_ns, guard->hold_ms, now_ns);

        least = left < least ? left : least;
    }
    return least;
}

int64_t guard_left(struct remote_guard *guard)
{
    struct fleet *fleet = guard->fleet;
    int64_t left;

    if (!fleet)
        return 0;
    fleet_mind(fleet); /* who only waits for his guard has nobody else to start a lost loop again */
    pthread_mutex_lock(&fleet->guards.lock);
    left = guard_left_now(guard);
    pthread_mutex_unlock(&fleet->guards.lock);
    return left;
}

/* ---- begin and end ---- */

/* The words of the guard script for a part: its hashes are put in place, its frame is signed. */
static bool guard_words(struct fleet *fleet, struct publish_work *work, const struct guard_part *part, bool begin,
                        uint64_t source_version)
{
    const struct remote_guard *guard = part->guard;
    struct fleet_words words = {work->argv, work->sizes, 0};

    memcpy(work->hashes, guard->hashes + part->first, part->count * sizeof *work->hashes);
    if (!publish_sign(fleet, work, FRAME_INVALIDATE, part->partition, part->count, source_version))
        return false;
    publish_words_begin(fleet, work, &words, FRAME_INVALIDATE, part->partition, part->count);
    bytes_put64(work->source, source_version);
    bytes_put64(work->versions, part->epoch);
    (void)snprintf(work->px, sizeof work->px, "%" PRIu32, guard->hold_ms);
    fleet_word_text(&words, begin ? "begin" : "end");
    fleet_word(&words, guard->id, sizeof guard->id);
    if (begin)
        fleet_word_text(&words, work->px);
    else
        fleet_word(&words, work->versions, sizeof work->versions);
    fleet_word(&words, work->source, sizeof work->source);
    fleet_word_text(&words, PUBLISH_TOMBSTONE_MS);
    work->argc = words.count;
    return true;
}

static bool guard_held(const struct answer *answer)
{
    const void *held;
    size_t size;

    return answer->status == ANSWER_OK && answer_bytes(answer, 0, &held, &size) && size == 1 &&
           *(const char *)held == '1';
}

/* Redis has set the guard: raise our own fences.  A page that is in another epoch, or leaves this one while we are at
 * it, has not what the promise needs. */
static freshet_result guard_begun(struct fleet *fleet, struct guard_part *part, struct publish_work *work,
                                  const struct answer *answer, int64_t deadline_ns)
{
    struct remote_part page;

    part->epoch = answer->epoch;
    remote_part(fleet->host, part->partition, &page);
    if (page.epoch != answer->epoch)
        (void)renew_look(fleet, part->partition, false, deadline_ns);
    remote_step("guard_begun");
    remote_saw_position(fleet->host, part->partition, answer->position);
    remote_raise(fleet->host, (const uint8_t(*)[16])work->hashes, part->count, part->partition, answer->position);
    remote_part(fleet->host, part->partition, &page);
    if (page.epoch == answer->epoch) {
        strong_note(&work->strong, part->partition, answer, work->counter, fleet_now_ns());
        return FRESHET_OK;
    }
    fleet_wake(fleet);
    return remote_fail(FRESHET_ENET, "Redis has begun a new history just now: nothing is guarded, try again");
}

/* Begin a part.  *ret_sent: Redis may have set it, whatever the result says. */
static freshet_result guard_begin_part(struct fleet *fleet, struct guard_part *part, struct publish_work *work,
                                       int64_t deadline_ns, bool *ret_sent)
{
    struct resp *reply = NULL;
    struct answer answer;
    freshet_result result;

    *ret_sent = false;
    if (!guard_words(fleet, work, part, true, 0))
        return FRESHET_EKEYRING;
    part->asked_ns = fleet_now_ns();
    result = lines_script(fleet->lines, SCRIPT_GUARD, work->keys, work->argc, work->argv, work->sizes, deadline_ns,
                          &reply, ret_sent);
    if (result == FRESHET_OK) {
        (void)answer_read(&answer, reply);
        if (answer.status == ANSWER_OK)
            result = guard_begun(fleet, part, work, &answer, deadline_ns);
        else if (answer.status == ANSWER_FULL)
            result = remote_fail(FRESHET_EBUSY, "a key has as many guards in force as it may have: nothing is guarded");
        else
            result = remote_fail(FRESHET_EREDIS, "Redis answered the guard script with: %.200s", answer.text);
    }
    if (result == FRESHET_OK)
        remote_trace("guarded", part->partition, answer.epoch, answer.position, bytes_get64(part->guard->id),
                     (const uint8_t(*)[16])(part->guard->hashes + part->first), part->count);
    resp_free(reply);
    return result;
}

/* Let go of the first `count` parts of a guard that did not come about; nobody hears whether that worked. */
static void guard_undo(struct fleet *fleet, struct remote_guard *guard, uint32_t count, struct publish_work *work)
{
    int64_t deadline_ns = fleet_now_ns() + GUARD_UNDO_MS * FLEET_NS_PER_MS;

    for (uint32_t i = 0; i < count && !lines_away(fleet->lines); i++) {
        struct resp *reply = NULL;

        if (guard_words(fleet, work, &guard->parts[i], false, 0))
            (void)lines_script(fleet->lines, SCRIPT_GUARD, work->keys, work->argc, work->argv, work->sizes, deadline_ns,
                               &reply, NULL);
        resp_free(reply);
    }
}

/* From now on the loop prolongs it. */
static void guard_list(struct fleet *fleet, struct remote_guard *guard)
{
    pthread_mutex_lock(&fleet->guards.lock);
    for (uint32_t i = 0; i < guard->parts_count; i++)
        guard->parts[i].due_ns = guard->parts[i].asked_ns + guard->hold_ms * FLEET_NS_PER_MS / 3;
    guard->next = fleet->guards.list;
    fleet->guards.list = guard;
    pthread_mutex_unlock(&fleet->guards.lock);
    if (!guard->fixed)
        fleet_nudge(fleet);
}

freshet_result guard_begin(void *remote, const struct remote_guarding *guarding, int64_t deadline_ns,
                           struct remote_guard **ret_guard)
{
    struct fleet *fleet = remote;
    struct remote_guard *guard = guard_make(fleet, guarding);
    struct publish_work *work = publish_work_open(guarding->count);
    freshet_result result = FRESHET_OK;
    uint32_t begun = 0;
    bool sent = false;

    fleet_mind(fleet);
    if (!guard || !work)
        result = remote_fail(FRESHET_ENOMEM, "no memory to guard %" PRIu32 " keys", guarding->count);
    else if (lines_away(fleet->lines))
        result = remote_fail(FRESHET_ENET, "Redis cannot be reached: nothing is guarded");
    if (work)
        work->strong.hosts = guarding->wait_hosts;
    for (; result == FRESHET_OK && begun < guard->parts_count; begun++) {
        result = guard_begin_part(fleet, &guard->parts[begun], work, deadline_ns, &sent);
        remote_step("guard_part_begun");
    }
    if (result == FRESHET_OK) {
        struct strong_verdict verdict;

        guard_list(fleet, guard); /* it is prolonged while we wait */
        if (guarding->wait_hosts)
            strong_wait(fleet, &work->strong, NULL, NULL, &verdict);
        *ret_guard = guard;
    } else {
        if (begun > 0)
            guard_undo(fleet, guard, sent ? begun : begun - 1, work);
        guard_free(guard);
    }
    publish_work_close(work);
    return result;
}

/* End a part.  FRESHET_OK, FRESHET_QUEUED, FRESHET_GUARD_LOST (confirmed, but not held). */
static freshet_result guard_end_part(struct fleet *fleet, const struct guard_part *part, struct publish_work *work,
                                     uint64_t source_version, int64_t deadline_ns, struct remote_confirm *confirm)
{
    struct publishing p = {
        .fleet = fleet,
        .work = work,
        .kind = FRAME_INVALIDATE,
        .partition = part->partition,
        .count = part->count,
        .source_version = source_version,
        .deadline_ns = deadline_ns,
    };
    struct resp *reply = NULL;
    struct answer answer;
    freshet_result result;

    memcpy(work->hashes, part->guard->hashes + part->first, part->count * sizeof *work->hashes);
    publish_write_down(&p);
    if (lines_away(fleet->lines))
        return publish_queue(&p);
    if (!guard_words(fleet, work, part, false, source_version)) {
        remote_say(FRESHET_ERROR, "%s: a guard's end could not be signed, and waits: %s", fleet->name, freshet_error());
        return publish_queue(&p);
    }
    remote_step("guard_ending");
    result = lines_script(fleet->lines, SCRIPT_GUARD, work->keys, work->argc, work->argv, work->sizes, deadline_ns,
                          &reply, NULL);
    result = publish_settle(&p, result, reply, &answer);
    if (result == FRESHET_OK) {
        *confirm =
            (struct remote_confirm){.epoch = answer.epoch, .position = answer.position, .version = work->version};
        result = guard_held(&answer) ? FRESHET_OK : FRESHET_GUARD_LOST;
    }
    if (result == FRESHET_OK)
        remote_trace("unguarded", part->partition, answer.epoch, answer.position, bytes_get64(part->guard->id),
                     (const uint8_t(*)[16])(part->guard->hashes + part->first), part->count);
    resp_free(reply);
    return result;
}

freshet_result guard_end(void *remote, struct remote_guard *guard, uint64_t source_version, int64_t deadline_ns,
                         struct remote_confirm *ret_confirm)
{
    struct fleet *fleet = remote;
    struct publish_work *work = publish_work_open(guard->count);
    bool queued = false, held = true;

    if (!work) /* the guard stays: the caller may try again */
        return remote_fail(FRESHET_ENOMEM, "no memory to end a guard on %" PRIu32 " keys", guard->count);
    fleet_mind(fleet);
    for (uint32_t i = 0; i < guard->parts_count; i++) {
        freshet_result result = guard_end_part(fleet, &guard->parts[i], work, source_version, deadline_ns, ret_confirm);

        queued |= result == FRESHET_QUEUED;
        held &= result != FRESHET_GUARD_LOST;
    }
    for (uint32_t p = 0; p < fleet->facts.partitions; p++)
        ret_confirm->parts[p] =
            (struct remote_confirmed){work->strong.parts[p].epoch, work->strong.parts[p].position};
    publish_work_close(work);
    pthread_mutex_lock(&fleet->guards.lock);
    held &= !guard->lost;
    guard_forget(&fleet->guards, guard);
    pthread_mutex_unlock(&fleet->guards.lock);
    if (queued)
        ret_confirm->position = ret_confirm->epoch = 0;
    if (queued) /* whatever became of it, first of all it is not confirmed */
        return FRESHET_QUEUED;
    return held ? FRESHET_OK : FRESHET_GUARD_LOST;
}

void guard_drop(struct remote_guard *guard)
{
    struct fleet *fleet = guard->fleet;

    if (!fleet) {
        if (!guard_asking(guard))
            guard_free(guard); /* else a loop that did not end may still come back to it */
        return;
    }
    pthread_mutex_lock(&fleet->guards.lock);
    guard_forget(&fleet->guards, guard);
    pthread_mutex_unlock(&fleet->guards.lock);
}

void guards_init(struct guards *guards)
{
    *guards = (struct guards){0};
    pthread_mutex_init(&guards->lock, NULL);
}

void guards_fini(struct guards *guards)
{
    for (struct remote_guard *guard = guards->list, *next; guard; guard = next) {
        next = guard->next;
        guard->fleet = NULL;
        if (guard->ended)
            guard_free(guard);
    }
    guards->list = NULL;
    pthread_mutex_destroy(&guards->lock);
}

/* ---- the loop's thread ---- */

/* Under the lock: a guard that is lost, or is so as far as we can tell; said once. */
static void guard_tell(struct remote_guard *guard)
{
    if (guard->told || guard->ended || guard_left_now(guard) > 0)
        return;
    guard->told = true;
    remote_say(FRESHET_WARN, "%s: a guard on %" PRIu32 " keys is lost: %s", guard->fleet->name, guard->count,
               guard->lost ? "Redis does not hold it any more" : "it could not be prolonged in time");
}

/* Under the lock: a question came back, or could not be sent. */
static void guard_answered(struct guards *guards, struct guard_part *part, const struct answer *answer)
{
    struct remote_guard *guard = part->guard;
    int64_t now_ns = fleet_now_ns(), pause_ns = guard->hold_ms * FLEET_NS_PER_MS / 3 / GUARD_AGAIN;

    part->asking = false;
    if (guard->ended) {
        guard_forget(guards, guard);
        return;
    }
    if (answer && answer->status == ANSWER_OK && guard_held(answer) && answer->epoch == part->epoch)
        part->asked_ns = part->sent_ns;
    else if (answer && answer->status == ANSWER_OK)
        guard->lost = true;
    else
        part->due_ns =
            now_ns + (pause_ns > GUARD_LEAST_MS * FLEET_NS_PER_MS ? pause_ns : GUARD_LEAST_MS * FLEET_NS_PER_MS);
    guard_tell(guard);
}

static void guard_reply(struct link *link, const struct resp *reply, void *arg)
{
    struct guard_part *part = arg;
    struct fleet *fleet = part->guard->fleet;
    struct answer answer;

    (void)link;
    remote_step("guard_answer");
    if (reply)
        (void)answer_read(&answer, reply);
    pthread_mutex_lock(&fleet->guards.lock);
    guard_answered(&fleet->guards, part, reply ? &answer : NULL);
    pthread_mutex_unlock(&fleet->guards.lock);
    guards_turn(fleet);
}

/* Ask Redis to prolong a part.  Its guard stays where it is, as `asking` is set. */
static bool guard_send(struct fleet *fleet, struct guard_part *part)
{
    const struct remote_guard *guard = part->guard;
    const struct fleet_names *names = &fleet->names[part->partition];
    const char **argv = malloc((part->count + GUARD_WORDS) * sizeof *argv);
    size_t *sizes = malloc((part->count + GUARD_WORDS) * sizeof *sizes);
    char(*records)[FLEET_NAME_SIZE] = malloc(part->count * sizeof *records), hold[24];
    uint8_t context[FLEET_CONTEXT_SIZE], epoch[8];
    bool sent = false;

    if (argv && sizes && records) {
        struct fleet_words words = {argv, sizes, 0};

        fleet_context(fleet, part->epoch, 0, context);
        bytes_put64(epoch, part->epoch);
        (void)snprintf(hold, sizeof hold, "%" PRIu32, guard->hold_ms);
        fleet_word_text(&words, names->head);
        for (uint32_t i = 0; i < part->count; i++)
            fleet_word(&words, records[i], fleet_record_name(names, guard->hashes[part->first + i], records[i]));
        int keys = words.count;
        fleet_word(&words, context, sizeof context);
        fleet_word(&words, guard->id, sizeof guard->id);
        fleet_word_text(&words, hold);
        fleet_word(&words, epoch, sizeof epoch);
        sent = link_script(fleet->ask, SCRIPT_HOLD, keys, words.count, argv, sizes, fleet->renew.wait_ms, guard_reply,
                           part);
    }
    free(argv);
    free(sizes);
    free(records);
    return sent;
}

/* Under the lock: the next part that is to be asked for now; NULL: none, and *ret_next_ns says when there will be. */
static struct guard_part *guards_due(struct guards *guards, int64_t now_ns, int64_t *ret_next_ns)
{
    *ret_next_ns = INT64_MAX;
    for (struct remote_guard *guard = guards->list; guard; guard = guard->next)
        for (uint32_t i = 0; i < guard->parts_count; i++) {
            struct guard_part *part = &guard->parts[i];

            if (guard->fixed || guard->ended || part->asking)
                continue;
            if (part->due_ns <= now_ns)
                return part;
            if (part->due_ns < *ret_next_ns)
                *ret_next_ns = part->due_ns;
        }
    return NULL;
}

void guards_turn(struct fleet *fleet)
{
    struct guards *guards = &fleet->guards;
    struct guard_part *part;
    int64_t now_ns, next_ns;

    if (!guards->timer)
        return;
    pthread_mutex_lock(&guards->lock);
    while (now_ns = fleet_now_ns(), (part = guards_due(guards, now_ns, &next_ns))) {
        bool sent;

        part->asking = true;
        part->sent_ns = now_ns;
        part->due_ns = now_ns + part->guard->hold_ms * FLEET_NS_PER_MS / 3;
        pthread_mutex_unlock(&guards->lock); /* sending may call back */
        sent = fleet->ask && link_is_up(fleet->ask) && guard_send(fleet, part);
        pthread_mutex_lock(&guards->lock);
        if (!sent)
            guard_answered(guards, part, NULL);
    }
    pthread_mutex_unlock(&guards->lock);
    if (next_ns != INT64_MAX) {
        uint64_t after_ms = next_ns > now_ns ? (uint64_t)((next_ns - now_ns) / FLEET_NS_PER_MS) + 1 : 1;

        loop_timer_set(guards->timer, after_ms < GUARD_FAR_MS ? after_ms : GUARD_FAR_MS, 0);
    }
}

static void guards_tick(void *arg)
{
    guards_turn(arg);
}

void guards_hurry(struct fleet *fleet)
{
    int64_t now_ns = fleet_now_ns();

    pthread_mutex_lock(&fleet->guards.lock);
    for (struct remote_guard *guard = fleet->guards.list; guard; guard = guard->next)
        for (uint32_t i = 0; i < guard->parts_count; i++)
            if (now_ns - guard->parts[i].asked_ns > guard->hold_ms * FLEET_NS_PER_MS / 3)
                guard->parts[i].due_ns = now_ns;
    pthread_mutex_unlock(&fleet->guards.lock);
    guards_turn(fleet);
}

bool guards_start(struct fleet *fleet)
{
    fleet->guards.timer = loop_timer_open(fleet->turning, guards_tick, fleet);
    if (!fleet->guards.timer)
        return false;
    guards_turn(fleet); /* of a loop before this one */
    return true;
}

void guards_stop(struct fleet *fleet)
{
    if (fleet->guards.timer)
        loop_timer_close(fleet->guards.timer);
    fleet->guards.timer = NULL;
}

void guards_lost(struct fleet *fleet)
{
    fleet->guards.timer = NULL;
    pthread_mutex_lock(&fleet->guards.lock);
    for (struct remote_guard *guard = fleet->guards.list, *next; guard; guard = next) {
        next = guard->next;
        for (uint32_t i = 0; i < guard->parts_count; i++)
            guard->parts[i].asking = false;
        if (guard->ended)
            guard_forget(&fleet->guards, guard);
    }
    pthread_mutex_unlock(&fleet->guards.lock);
}
