/*
 * renew.c - proven-at: when may this host say that it missed nothing?  Reports are sent here and their answers
 * judged; the log's entries go to receive.c, what waits for Redis to outbox.c.
 *
 * The judging is pure (renew_judge); the rest is who asks when.  Scripts rotate, hosts adopt: the one thing that a
 * host may do about an epoch is to claim a position that it knows of ("insist"), and it does so only where a server
 * was seen to be behind - at once in its own epoch, after finding the master anew in another one.
 */
#include <fleet.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define RENEW_ENTRIES     256u  /* in one answer: verifying them takes some 40 ms of the loop */
#define RENEW_RECENT_MS   60000 /* what was confirmed so lately is sent again after a rotation: fail-overs last */
#define RENEW_RECENT_MOST 2048u /* so many keys are remembered, of all partitions together */
#define RENEW_RECENT_SLIP 64u   /* entries that are just being written cannot be read */
#define RENEW_BATCH       256u
#define RENEW_LEAST_MS    5u
#define RENEW_LATER_MS    5u /* a look costs Redis a script: under many changes one will do for all of them */

enum renew_verdict renew_judge(const struct renew_asked *asked, uint64_t epoch, const struct answer *answer)
{
    if (epoch != asked->page.epoch)
        return RENEW_MOVED;
    if (answer->position > answer->time_us + RENEW_REACH)
        return RENEW_BEYOND;
    if (answer->epoch == epoch)
        return answer->position < asked->page.position || answer->position < asked->page.applied ? RENEW_LOST
                                                                                                 : RENEW_SAME;
    /* Positions rise over epochs: the lower one is the older history. */
    return answer->position < asked->page.position ? RENEW_OLDER : RENEW_ADOPT;
}

bool renew_read(struct renew_report *ret_report, const struct resp *reply)
{
    struct answer *answer = &ret_report->answer;
    const void *registry;
    size_t size;

    *ret_report = (struct renew_report){0};
    if (!answer_read(answer, reply))
        return false;
    if (answer->status == ANSWER_CONFLICT)
        return false;
    if (answer->status != ANSWER_OK || !answer_number(answer, 0, ANSWER_POSITION_MAX, &ret_report->clear) ||
        ret_report->clear > answer->position ||
        !answer_number(answer, 1, FLEET_STALENESS_MOST_MS, &ret_report->max_staleness_ms) || answer->count < 4 ||
        !answer_bytes(answer, 2, &registry, &size) || size != 16) {
        answer->status = ANSWER_GARBLED;
        answer->text = "a report's answer that makes no sense";
        return false;
    }
    ret_report->registry = registry;
    ret_report->entries = answer->rest[3] && answer->rest[3]->type == RESP_ARRAY ? answer->rest[3] : NULL;
    return true;
}

/* ---- asking ---- */

struct renew_words {
    uint8_t context[FLEET_CONTEXT_SIZE];
    char applied[24], most[24];
    const char *argv[9];
    size_t sizes[9];
    struct fleet_words words;
};

/* The words of a report; notes what was known. */
static void renew_words(struct fleet *fleet, uint32_t partition, bool insist, uint32_t most, struct renew_asked *asked,
                        const char *ahead, struct renew_words *w)
{
    const struct fleet_names *names = &fleet->names[partition];

    asked->insist = insist;
    remote_part(fleet->host, partition, &asked->page);
    fleet_context(fleet, asked->page.epoch, insist ? asked->page.position : 0, w->context);
    (void)snprintf(w->applied, sizeof w->applied, "%" PRIu64, asked->page.applied);
    (void)snprintf(w->most, sizeof w->most, "%" PRIu32, most);
    w->words = (struct fleet_words){w->argv, w->sizes, 0};
    fleet_word_text(&w->words, names->head);
    fleet_word_text(&w->words, names->log);
    fleet_word_text(&w->words, names->hosts);
    fleet_word(&w->words, w->context, sizeof w->context);
    fleet_word(&w->words, fleet->facts.host_id, sizeof fleet->facts.host_id);
    fleet_word_text(&w->words, w->applied);
    fleet_word_text(&w->words, w->most);
    if (ahead[0])
        fleet_word_text(&w->words, ahead);
    asked->asked_ns = fleet_now_ns();
}

/* Why a report failed, as a result and a sentence. */
static freshet_result renew_refused(const struct fleet *fleet, const struct answer *answer)
{
    char redis[300];

    (void)url_text(&fleet->url, redis, sizeof redis);
    if (answer->status != ANSWER_CONFLICT)
        return remote_fail(FRESHET_EREDIS, "Redis at %s answered a report with: %.200s", redis, answer->text);
    const char *what = answer->count > 0 && answer->rest[0]->text ? answer->rest[0]->text : "?";
    const char *theirs = answer->count > 1 && answer->rest[1]->text ? answer->rest[1]->text : "?";
    const char *ours = answer->count > 2 && answer->rest[2]->text ? answer->rest[2]->text : "?";
    if (strcmp(what, "max_staleness") == 0)
        return remote_fail(FRESHET_EINVAL,
                           "the fleet of '%s' at %s allows max_staleness_ms up to %.24s, this tier up to "
                           "%.24s: open it with at most that",
                           fleet->name, redis, theirs, ours);
    return remote_fail(FRESHET_EINVAL, "the fleet of '%s' at %s has %.24s %.24s, this tier %.24s", fleet->name, redis,
                       what, theirs, ours);
}

static bool renew_adopt(struct fleet *fleet, uint32_t partition, const struct renew_asked *asked,
                        const struct renew_report *report)
{
    const struct answer *answer = &report->answer;

    if (!remote_adopt(fleet->host, partition, asked->page.epoch, answer->epoch, answer->position, report->clear))
        return false;
    remote_count(fleet->host, REMOTE_ADOPTIONS, 1);
    remote_say(FRESHET_INFO, "%s: partition %" PRIu32 " goes on in epoch %016" PRIx64 " from position %" PRIu64,
               fleet->name, partition, answer->epoch, answer->position);
    return true;
}

/* ---- a caller's own look ---- */

/* One report on a line.  *ret_reply must be freed whatever happened. */
static freshet_result renew_ask_line(struct fleet *fleet, uint32_t partition, bool insist, int64_t deadline_ns,
                                     struct renew_asked *asked, struct renew_report *report, struct resp **ret_reply)
{
    struct renew_words w;
    freshet_result result;

    *ret_reply = NULL;
    renew_words(fleet, partition, insist, 0, asked, "", &w);
    result = lines_script(fleet->lines, SCRIPT_REPORT, 3, w.words.count, w.argv, w.sizes, deadline_ns, ret_reply, NULL);
    if (result != FRESHET_OK)
        return result;
    if (!renew_read(report, *ret_reply))
        return renew_refused(fleet, &report->answer);
    fleet_learn(fleet, asked->asked_ns, report);
    strong_learn(&fleet->strong, partition, report->registry, fleet_now_ns());
    return FRESHET_OK;
}

freshet_result renew_check(struct fleet *fleet, uint32_t partition, int64_t deadline_ns)
{
    struct renew_asked asked;
    struct renew_report report;
    struct resp *reply;
    freshet_result result = renew_ask_line(fleet, partition, false, deadline_ns, &asked, &report, &reply);

    resp_free(reply);
    return result;
}

/* A position from nowhere: say so; scripts put such a head right, so who still answers it runs none of ours. */
static void renew_beyond(struct fleet *fleet, uint32_t partition, const struct answer *answer)
{
    remote_count(fleet->host, REMOTE_RENEWALS_FAILED, 1);
    remote_say(FRESHET_WARN,
               "%s: Redis claims position %" PRIu64 " of partition %" PRIu32 ", far beyond its clock: not believed",
               fleet->name, answer->position, partition);
}

static freshet_result renew_look_noting(struct fleet *fleet, uint32_t partition, bool insist, int64_t deadline_ns,
                                        struct renew_proof *ret_proof)
{
    bool claim = false;

    for (int round = 0; round < 3; round++) {
        struct renew_asked asked;
        struct renew_report report;
        struct remote_part page;
        struct resp *reply;
        freshet_result result = renew_ask_line(fleet, partition, claim, deadline_ns, &asked, &report, &reply);
        enum renew_verdict verdict = RENEW_MOVED;
        bool there = false;

        if (result == FRESHET_OK) {
            remote_part(fleet->host, partition, &page);
            verdict = renew_judge(&asked, page.epoch, &report.answer);
            there = verdict == RENEW_SAME || (verdict == RENEW_ADOPT && renew_adopt(fleet, partition, &asked, &report));
            if (there)
                remote_raise_clear(fleet->host, partition, report.clear);
            if (verdict == RENEW_ADOPT) /* what was changed lately has to be sent again, before anything is proven */
                fleet_wake(fleet);
            if (verdict == RENEW_BEYOND)
                renew_beyond(fleet, partition, &report.answer);
            *ret_proof = (struct renew_proof){asked.asked_ns, report.answer.epoch, report.answer.position};
        }
        resp_free(reply);
        if (result != FRESHET_OK || there)
            return result;
        if (verdict == RENEW_BEYOND)
            break;
        if (verdict == RENEW_LOST || verdict == RENEW_OLDER) {
            lines_forget(fleet->lines); /* it may be a master of yesterday */
            if (!insist)
                break;
            claim = true;
        }
    }
    fleet_wake(fleet); /* the seat's holder finds out */
    return FRESHET_MISS;
}

freshet_result renew_look(struct fleet *fleet, uint32_t partition, bool insist, int64_t deadline_ns)
{
    struct renew_proof unused;

    return renew_look_noting(fleet, partition, insist, deadline_ns, &unused);
}

freshet_result renew_look_proof(struct fleet *fleet, uint32_t partition, int64_t deadline_ns,
                                struct renew_proof *ret_proof)
{
    return renew_look_noting(fleet, partition, false, deadline_ns, ret_proof);
}

/* ---- the loop's thread: one report at a time ---- */

static void renew_answered(struct link *link, const struct resp *reply, void *arg);

static void renew_send(struct renew_part *part)
{
    struct fleet *fleet = part->fleet;
    struct renew_words w;

    part->again = false;
    if (!part->catching_up)
        part->question = remote_ask(fleet->host, part->partition);
    renew_words(fleet, part->partition, part->insist, RENEW_ENTRIES, &part->asked, part->ahead, &w);
    part->asking = true;
    if (!link_script(fleet->ask, SCRIPT_REPORT, 3, w.words.count, w.argv, w.sizes, fleet->renew.wait_ms, renew_answered,
                     part)) {
        part->asking = part->catching_up = false;
        remote_count(fleet->host, REMOTE_RENEWALS_FAILED, 1);
    }
    part->ahead[0] = '\0';
}

void renew_tell(struct fleet *fleet, uint32_t partition, uint64_t position, uint64_t writer, uint64_t counter)
{
    struct renew_part *part = &fleet->renew.parts[partition];

    (void)snprintf(part->ahead, sizeof part->ahead, "%" PRIu64 " %" PRIx64 " %" PRIu64, position, writer, counter);
    renew_look_soon(fleet, partition);
}

void renew_look_soon(struct fleet *fleet, uint32_t partition)
{
    struct renew_part *part = &fleet->renew.parts[partition];

    if (!fleet->seat.held || !fleet->ask || !link_is_up(fleet->ask))
        return;
    if (part->asking)
        part->again = true;
    else
        renew_send(part);
}

void renew_look_later(struct fleet *fleet, uint32_t partition)
{
    fleet->renew.parts[partition].later = true;
    if (!fleet->renew.later_set)
        loop_timer_set(fleet->renew.later, RENEW_LATER_MS, 0);
    fleet->renew.later_set = true;
}

static void renew_later(void *arg)
{
    struct fleet *fleet = arg;

    fleet->renew.later_set = false;
    for (uint32_t p = 0; p < fleet->facts.partitions; p++)
        if (fleet->renew.parts[p].later) {
            fleet->renew.parts[p].later = false;
            renew_look_soon(fleet, p);
        }
}

void renew_look_all(struct fleet *fleet)
{
    for (uint32_t p = 0; p < fleet->facts.partitions; p++)
        renew_look_soon(fleet, p);
}

static int renew_compare(const void *a, const void *b)
{
    return memcmp(a, b, 16);
}

/* Each key once: what changes often, or was sent again after an earlier rotation, stands there many times. */
static uint32_t renew_unique(uint8_t (*hashes)[16], uint32_t count)
{
    uint32_t kept = 0;

    qsort(hashes, count, sizeof *hashes, renew_compare);
    for (uint32_t i = 0; i < count; i++)
        if (kept == 0 || memcmp(hashes[kept - 1], hashes[i], 16) != 0)
            memmove(hashes[kept++], hashes[i], 16);
    return kept;
}

/* May the ring of what was confirmed lately have lost some?  All partitions share it, and it may have come round within
 * the time.  `hashes` is room to work in. */
static bool renew_recent_whole(struct fleet *fleet, uint8_t (*hashes)[16])
{
    uint32_t total = 0;

    for (uint32_t p = 0; p < fleet->facts.partitions; p++) {
        total += remote_outbox_recent(fleet->host, p, REMOTE_OUTBOX_KEY, RENEW_RECENT_MS, RENEW_RECENT_MOST, hashes);
        total += remote_outbox_recent(fleet->host, p, REMOTE_OUTBOX_TAG, RENEW_RECENT_MS, RENEW_RECENT_MOST, hashes);
        total += remote_outbox_recent_clears(fleet->host, p, RENEW_RECENT_MS);
    }
    return total < RENEW_RECENT_MOST - RENEW_RECENT_SLIP;
}

/* Queue the keys or tags that were confirmed lately, each once.  False: there is no room. */
static bool renew_queue_recent(struct renew_part *part, enum remote_outbox_kind kind, uint8_t (*hashes)[16])
{
    struct fleet *fleet = part->fleet;
    uint16_t slots[RENEW_BATCH];
    uint32_t count =
        remote_outbox_recent(fleet->host, part->partition, kind, RENEW_RECENT_MS, RENEW_RECENT_MOST, hashes);

    count = renew_unique(hashes, count);
    for (uint32_t done = 0, batch; done < count; done += batch) {
        batch = count - done < RENEW_BATCH ? count - done : RENEW_BATCH;
        if (!remote_outbox_add(fleet->host, part->partition, kind, (const uint8_t(*)[16])(hashes + done), batch, slots))
            return false;
        remote_outbox_queue(fleet->host, slots, batch);
    }
    return true;
}

/* After a rotation the new history may lack what the old one confirmed last: queue it once more, before anything
 * is proven. */
static void renew_send_recent(struct renew_part *part)
{
    struct fleet *fleet = part->fleet;
    uint8_t(*hashes)[16] = malloc(RENEW_RECENT_MOST * sizeof *hashes);
    uint16_t slot;

    /* Without memory for them, without all of them, or without room, everything is sent: a clear.  Or it was one. */
    if (!hashes || remote_outbox_recent_clears(fleet->host, part->partition, RENEW_RECENT_MS) > 0 ||
        !renew_recent_whole(fleet, hashes) || !renew_queue_recent(part, REMOTE_OUTBOX_KEY, hashes) ||
        !renew_queue_recent(part, REMOTE_OUTBOX_TAG, hashes)) {
        (void)remote_outbox_add(fleet->host, part->partition, REMOTE_OUTBOX_CLEAR, NULL, 0, &slot);
        remote_outbox_queue(fleet->host, &slot, 1);
    }
    free(hashes);
}

/* Nothing is missing any more: prove it, unless changes of this host still wait for Redis. */
static void renew_settle(struct renew_part *part, uint64_t epoch, uint64_t target)
{
    struct fleet *fleet = part->fleet;
    struct remote_part page;

    if (part->catching_up) /* that took a while: the question is an old one by now */
        part->again = true;
    part->catching_up = false;
    remote_part(fleet->host, part->partition, &page);
    if (page.proven_ns == 0 && !page.forgotten && part->resent_epoch != epoch) {
        part->resent_epoch = epoch;
        renew_send_recent(part);
    }
    if (outbox_busy(fleet, part->partition)) {
        outbox_drain(fleet); /* and a look after it */
        return;
    }
    if (remote_prove(fleet->host, part->partition, part->question, epoch, target)) {
        remote_count(fleet->host, REMOTE_RENEWALS, 1);
        fleet_tell(fleet);
    }
}

/* Our own epoch: what is new in it? */
static void renew_same(struct renew_part *part, const struct renew_report *report)
{
    struct fleet *fleet = part->fleet;
    uint64_t position = report->answer.position;

    part->insist = false;
    remote_saw_position(fleet->host, part->partition, position);
    remote_raise_clear(fleet->host, part->partition, report->clear);
    if (!part->catching_up)
        part->target = position;
    if (receive_log(fleet, part->partition, report->entries, position, part->target)) {
        renew_settle(part, report->answer.epoch, part->target);
        return;
    }
    part->catching_up = true;
    part->again = true;
}

/* A server that talks of an older history: find the master anew, and if it is the same, claim what we know. */
static void renew_older(struct renew_part *part, const struct answer *answer)
{
    struct fleet *fleet = part->fleet;

    part->catching_up = false;
    part->insist = true;
    remote_say(FRESHET_WARN,
               "%s: Redis talks of an older history (position %" PRIu64 ", known %" PRIu64 "): connecting anew",
               fleet->name, answer->position, part->asked.page.position);
    lines_forget(fleet->lines);
    link_drop(fleet->ask);
    if (fleet->ears)
        link_drop(fleet->ears);
}

/* A report came back. */
static void renew_judged(struct renew_part *part, const struct renew_report *report)
{
    struct fleet *fleet = part->fleet;
    struct remote_part page;

    remote_part(fleet->host, part->partition, &page);
    switch (renew_judge(&part->asked, page.epoch, &report->answer)) {
    case RENEW_SAME:
        renew_same(part, report);
        break;
    case RENEW_ADOPT:
        part->insist = part->catching_up = false;
        /* The adoption voids proven-at, so the question asked before it proves nothing: ask again. */
        if (renew_adopt(fleet, part->partition, &part->asked, report))
            part->again = true;
        break;
    case RENEW_MOVED:
        part->catching_up = false;
        part->again = true;
        break;
    case RENEW_LOST:
        part->catching_up = false;
        part->again = !part->insist;
        part->insist = true;
        break;
    case RENEW_OLDER:
        renew_older(part, &report->answer);
        break;
    case RENEW_BEYOND:
        part->catching_up = false; /* the timer asks again */
        renew_beyond(fleet, part->partition, &report->answer);
        break;
    }
}

static void renew_answered(struct link *link, const struct resp *reply, void *arg)
{
    struct renew_part *part = arg;
    struct fleet *fleet = part->fleet;
    struct renew_report report;

    (void)link;
    part->asking = false;
    if (!reply || !renew_read(&report, reply)) {
        part->catching_up = part->again = false;
        remote_count(fleet->host, REMOTE_RENEWALS_FAILED, 1);
        if (reply) {
            fleet->refused = true;
            (void)renew_refused(fleet, &report.answer);
            fleet_heard(fleet, false, freshet_error());
            if (report.answer.status == ANSWER_GARBLED || strstr(report.answer.text, "READONLY")) {
                link_drop(fleet->ask); /* a replica by now, or no Redis: find the master anew */
                if (fleet->ears)
                    link_drop(fleet->ears);
            }
        }
        return;
    }
    fleet->refused = false;
    fleet_heard(fleet, true, "");
    fleet_learn(fleet, part->asked.asked_ns, &report);
    strong_learn(&fleet->strong, part->partition, report.registry, fleet_now_ns());
    renew_judged(part, &report);
    if (part->again && fleet->seat.held && link_is_up(fleet->ask) && !part->asking)
        renew_send(part);
}

/* ---- when ---- */

static void renew_tick(void *arg)
{
    struct fleet *fleet = arg;
    struct remote_facts facts;

    if (!fleet->seat.held)
        return; /* and no next time: renew_start winds it up again */
    /* Another handle of this process may have been opened with a smaller bound: look each time. */
    remote_facts(fleet->host, &facts);
    uint32_t period = facts.max_staleness_ms / 4;
    loop_timer_set(fleet->renew.timer, period > RENEW_LEAST_MS ? period : RENEW_LEAST_MS, 0);
    if (!fleet->ask || !link_is_up(fleet->ask))
        remote_count(fleet->host, REMOTE_RENEWALS_FAILED, 1);
    renew_look_all(fleet);
    outbox_drain(fleet);
}

bool renew_init(struct fleet *fleet)
{
    uint32_t bound = fleet->facts.max_staleness_ms;

    fleet->renew = (struct renew){.wait_ms = bound < 200 ? 200 : bound > 2000 ? 2000 : bound};
    for (uint32_t p = 0; p < FRESHET_PARTITIONS_MAX; p++)
        fleet->renew.parts[p] = (struct renew_part){.fleet = fleet, .partition = p};
    fleet->renew.timer = loop_timer_open(fleet->turning, renew_tick, fleet);
    fleet->renew.later = loop_timer_open(fleet->turning, renew_later, fleet);
    return fleet->renew.timer && fleet->renew.later;
}

void renew_start(struct fleet *fleet)
{
    renew_tick(fleet);
}

void renew_fini(struct fleet *fleet)
{
    if (fleet->renew.timer)
        loop_timer_close(fleet->renew.timer);
    if (fleet->renew.later)
        loop_timer_close(fleet->renew.later);
    fleet->renew.timer = fleet->renew.later = NULL;
}
