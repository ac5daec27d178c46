/*
 * publish.c - outward: outbox -> frame -> seal -> script -> fences -> out.  On the caller's thread and its own line.
 *
 * The order is the promise.  First the change is written down in the outbox, where its keys count as pending and are
 * not served on this host: from here on nothing but a confirmation lets them be served again, whoever dies.  Then
 * Redis is asked. On its confirmation the fences rise to the position it gave, and only then the outbox lets go.
 * Without one the change is left in the outbox, for the holder of the seat to send as a new invalidation; a put's
 * value is never sent twice.
 *
 * A confirmation counts in its epoch only.  Where the page is in another one we look first; where it cannot be
 * brought there, or leaves it while we are at it, the change stays queued: the new history may not have it.
 */
#include <fleet.h>
#include <publish.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define PUBLISH_WORDS 16u /* of a script beside its records */

/* ---- a frame and its words ---- */

struct publish_work *publish_work_open(uint32_t room)
{
    size_t message = FRAME_SIGNED_HEAD + FRAME_BODY_HEAD + (size_t)room * 16;
    size_t words = room + PUBLISH_WORDS;
    struct publish_work *work = calloc(1, sizeof *work);

    if (!work)
        return NULL;
    work->room = room;
    work->message = malloc(message);
    work->hashes = malloc((room + 1u) * sizeof *work->hashes);
    work->slots = malloc((room + 1u) * sizeof *work->slots);
    work->records = malloc((room + 1u) * (size_t)FLEET_NAME_SIZE);
    work->argv = malloc(words * sizeof *work->argv);
    work->sizes = malloc(words * sizeof *work->sizes);
    if (work->message && work->hashes && work->slots && work->records && work->argv && work->sizes)
        return work;
    publish_work_close(work);
    return NULL;
}

void publish_work_close(struct publish_work *work)
{
    if (!work)
        return;
    free(work->message);
    free(work->hashes);
    free(work->slots);
    free(work->records);
    free(work->argv);
    free(work->sizes);
    free(work);
}

bool publish_sign(struct fleet *fleet, struct publish_work *work, enum frame_kind kind, uint32_t partition,
                  uint32_t count, uint64_t source_version)
{
    size_t room = FRAME_BODY_HEAD + (size_t)work->room * 16, size;
    struct frame frame = {
        .kind = (uint8_t)kind,
        .partition = (uint16_t)partition,
        .version = fleet_time_us(fleet),
        .writer = fleet->writer,
        .counter = atomic_fetch_add(&fleet->counter, 1) + 1,
        .source_version = source_version,
        .count = (uint16_t)(kind == FRAME_CLEAR ? 0 : count),
        .flags = work->strong.hosts ? FRAME_LOOK : 0,
        .hashes = (const uint8_t(*)[16])work->hashes,
    };

    memcpy(frame.cache, fleet->cache, sizeof frame.cache);
    size = frame_encode(&frame, work->message + FRAME_SIGNED_HEAD, room);
    if (size == 0 || seal_sign(fleet->keyring, work->message + FRAME_SIGNED_HEAD, size, work->message) != FRESHET_OK)
        return false;
    work->message_size = FRAME_SIGNED_HEAD + size;
    work->version = frame.version;
    work->counter = frame.counter;
    receive_signed(fleet, work->message, work->message_size);
    return true;
}

void publish_words_begin(struct fleet *fleet, struct publish_work *work, struct fleet_words *words,
                         enum frame_kind kind, uint32_t partition, uint32_t count)
{
    const struct fleet_names *names = &fleet->names[partition];
    struct remote_part page;

    remote_part(fleet->host, partition, &page);
    fleet_context(fleet, page.epoch, 0, work->context);
    fleet_word_text(words, names->head);
    fleet_word_text(words, names->log);
    if (kind == FRAME_TAGS)
        fleet_word_text(words, names->tagfence);
    for (uint32_t i = 0; i < count && kind != FRAME_TAGS && kind != FRAME_CLEAR; i++) {
        char *name = work->records + (size_t)i * FLEET_NAME_SIZE;

        fleet_word(words, name, fleet_record_name(names, work->hashes[i], name));
    }
    work->keys = words->count;
    fleet_word(words, work->context, sizeof work->context);
    fleet_word_text(words, names->channel);
    fleet_word(words, work->message, work->message_size);
}

void publish_words(struct fleet *fleet, struct publish_work *work, enum frame_kind kind, uint32_t partition,
                   uint32_t count, uint64_t source_version)
{
    struct fleet_words words = {work->argv, work->sizes, 0};

    publish_words_begin(fleet, work, &words, kind, partition, count);
    bytes_put64(work->source, source_version);
    fleet_word_text(&words, kind == FRAME_CLEAR ? "clear" : kind == FRAME_TAGS ? "tags" : "invalidate");
    fleet_word(&words, work->source, sizeof work->source);
    fleet_word_text(&words, PUBLISH_TOMBSTONE_MS);
    work->argc = words.count;
}

/* The words of the put script. */
static void publish_put_words(struct fleet *fleet, struct publish_work *work, uint32_t partition,
                              const struct remote_change *put, uint64_t expiry_us, const uint8_t *sealed,
                              size_t sealed_size)
{
    struct fleet_words words = {work->argv, work->sizes, 0};

    publish_words_begin(fleet, work, &words, FRAME_PUT, partition, 1);
    bytes_put64(work->versions, work->version);
    bytes_put64(work->writers, fleet->writer);
    bytes_put64(work->source, put->source_version);
    (void)snprintf(work->expiry, sizeof work->expiry, "%" PRIu64, expiry_us);
    (void)snprintf(work->px, sizeof work->px, "%" PRIu32, put->ttl_ms);
    fleet_word_text(&words, put->absent ? "2" : "1");
    fleet_word(&words, work->versions, sizeof work->versions);
    fleet_word(&words, work->writers, sizeof work->writers);
    fleet_word(&words, work->source, sizeof work->source);
    fleet_word_text(&words, work->expiry);
    fleet_word(&words, sealed, sealed_size);
    fleet_word_text(&words, work->px);
    fleet_word(&words, work->tags, (size_t)8 * put->tag_count);
    fleet_word_text(&words, work->until);
    work->argc = words.count;
}

/* ---- one frame on its way ---- */

void publish_write_down(struct publishing *p)
{
    struct remote_host *host = p->fleet->host;

    p->slots = p->count;
    p->stands_for_all = false;
    if (p->kind != FRAME_CLEAR &&
        remote_outbox_add(host, p->partition, p->kind == FRAME_TAGS ? REMOTE_OUTBOX_TAG : REMOTE_OUTBOX_KEY,
                          (const uint8_t(*)[16])p->work->hashes, p->count, p->work->slots))
        return;
    p->stands_for_all = p->kind != FRAME_CLEAR;
    p->slots = 1;
    /* There is always room for a clear. */
    (void)remote_outbox_add(host, p->partition, REMOTE_OUTBOX_CLEAR, NULL, 0, p->work->slots);
}

freshet_result publish_queue(struct publishing *p)
{
    remote_outbox_queue(p->fleet->host, p->work->slots, p->slots);
    remote_count(p->fleet->host, REMOTE_QUEUED, 1);
    fleet_wake(p->fleet);
    return FRESHET_QUEUED;
}

/* Redis has confirmed: raise our own fences, then let go. */
static freshet_result publish_confirmed(struct publishing *p, const struct answer *answer)
{
    struct fleet *fleet = p->fleet;
    struct remote_part page;
    const uint8_t(*hashes)[16] = (const uint8_t(*)[16])p->work->hashes;

    remote_trace("confirmed", p->partition, answer->epoch, answer->position, p->kind, hashes,
                 p->kind == FRAME_CLEAR ? 0 : p->count);
    remote_part(fleet->host, p->partition, &page);
    if (page.epoch != answer->epoch) {
        (void)renew_look(fleet, p->partition, false, p->deadline_ns);
        remote_part(fleet->host, p->partition, &page);
        fleet_wake(fleet);
        if (page.epoch != answer->epoch)
            return publish_queue(p);
    }
    remote_step("confirmed");
    remote_saw_position(fleet->host, p->partition, answer->position);
    if (p->kind == FRAME_CLEAR)
        remote_raise_clear(fleet->host, p->partition, answer->position);
    else if (p->kind == FRAME_TAGS)
        remote_raise_tags(fleet->host, hashes, p->count, p->partition, answer->position);
    else
        remote_raise(fleet->host, hashes, p->count, p->partition, answer->position);
    if (remote_outbox_confirmed(fleet->host, p->work->slots, p->slots, answer->position, answer->epoch)) {
        strong_note(&p->work->strong, p->partition, answer, p->work->counter,
                    p->answered_ns ? p->answered_ns : fleet_now_ns());
        return FRESHET_OK;
    }
    /* A new epoch came just now, and may not have our change among what it was sent again: it stays written down. */
    return publish_queue(p);
}

freshet_result publish_settle(struct publishing *p, freshet_result asked, const struct resp *reply,
                              struct answer *ret_answer)
{
    if (asked != FRESHET_OK) {
        remote_say(FRESHET_DEBUG, "%s: a change waits for Redis: %s", p->fleet->name, freshet_error());
        return publish_queue(p);
    }
    (void)answer_read(ret_answer, reply);
    if (ret_answer->status == ANSWER_OK)
        return publish_confirmed(p, ret_answer);
    if (ret_answer->status == ANSWER_GUARDED && p->kind == FRAME_PUT) {
        if (ret_answer->time_us < p->work->version) /* its clock was put back, perhaps: learn it */
            fleet_wake(p->fleet);
        freshet_result result = publish_confirmed(p, ret_answer);

        return result == FRESHET_OK ? FRESHET_GUARDED : result;
    }
    if (ret_answer->status == ANSWER_OUTDATED && p->kind == FRAME_PUT) {
        remote_outbox_done(p->fleet->host, p->work->slots, p->slots);
        return FRESHET_OUTDATED;
    }
    remote_say(FRESHET_WARN, "%s: Redis did not take a change, which waits now: %.200s", p->fleet->name,
               ret_answer->text);
    return publish_queue(p);
}

/* Run the script whose words stand in `work`, and wait for as many replicas as are asked for. */
static freshet_result publish_run(struct publishing *p, enum script script, struct resp **ret_reply)
{
    struct publish_work *work = p->work;
    struct strong *strong = &work->strong;
    int64_t now = fleet_now_ns(), left = p->deadline_ns - now;
    struct lines_replicas replicas = {
        .wanted = strong->replicas,
        .deadline_ns = now + (left > 0 ? left / (strong->frames > 0 ? strong->frames : 1) : 0),
    };
    freshet_result result = lines_script_replicated(p->fleet->lines, script, work->keys, work->argc, work->argv,
                                                    work->sizes, p->deadline_ns, ret_reply, &replicas);

    if (strong->frames > 0)
        strong->frames--;
    if (replicas.reached < strong->replicas_reached)
        strong->replicas_reached = replicas.reached;
    p->answered_ns = replicas.answered_ns;
    return result;
}

/* Send the invalidation of work->hashes, or a clear. */
static freshet_result publish_send(struct publishing *p, struct remote_confirm *confirm)
{
    struct fleet *fleet = p->fleet;
    struct publish_work *work = p->work;
    struct resp *reply = NULL;
    struct answer answer;
    freshet_result result;

    publish_write_down(p);
    if (lines_away(fleet->lines))
        return publish_queue(p);
    if (!publish_sign(fleet, work, p->kind, p->partition, p->count, p->source_version)) {
        remote_say(FRESHET_ERROR, "%s: a change could not be signed, and waits: %s", fleet->name, freshet_error());
        return publish_queue(p);
    }
    publish_words(fleet, work, p->kind, p->partition, p->count, p->source_version);
    result = publish_run(p, SCRIPT_CHANGE, &reply);
    result = publish_settle(p, result, reply, &answer);
    resp_free(reply);
    if (result == FRESHET_OK)
        *confirm =
            (struct remote_confirm){.epoch = answer.epoch, .position = answer.position, .version = work->version};
    return result;
}

/* ---- the four kinds of change ---- */

/* Invalidate: a frame for each run of keys of one partition. */
static freshet_result publish_invalidate(struct fleet *fleet, struct publish_work *work,
                                         const struct remote_change *change, int64_t deadline_ns,
                                         struct remote_confirm *confirm)
{
    freshet_result result = FRESHET_OK;

    for (uint32_t i = 0; i < change->count;) {
        struct publishing p = {
            .fleet = fleet,
            .work = work,
            .kind = FRAME_INVALIDATE,
            .partition = change->keys[i].partition,
            .source_version = change->source_version,
            .deadline_ns = deadline_ns,
        };

        while (i < change->count && p.count < work->room && change->keys[i].partition == p.partition)
            memcpy(work->hashes[p.count++], change->keys[i++].hash, 16);
        if (publish_send(&p, confirm) != FRESHET_OK)
            result = FRESHET_QUEUED;
    }
    return result;
}

/* A clear, or a change of tags: a frame for each partition. */
static freshet_result publish_everywhere(struct fleet *fleet, struct publish_work *work,
                                         const struct remote_change *change, int64_t deadline_ns,
                                         struct remote_confirm *confirm)
{
    bool tags = change->kind == REMOTE_TAGS;
    freshet_result result = FRESHET_OK;

    if (tags)
        memcpy(work->hashes, change->tag_hashes, change->count * sizeof *work->hashes);
    for (uint32_t partition = 0; partition < fleet->facts.partitions; partition++) {
        struct publishing p = {
            .fleet = fleet,
            .work = work,
            .kind = tags ? FRAME_TAGS : FRAME_CLEAR,
            .partition = partition,
            .count = tags ? change->count : 0,
            .deadline_ns = deadline_ns,
        };

        if (publish_send(&p, confirm) != FRESHET_OK)
            result = FRESHET_QUEUED;
    }
    return result;
}

/* Seal a put's answer; the version must stand in work already. */
static freshet_result publish_seal(struct fleet *fleet, struct publish_work *work, const struct remote_change *put,
                                   uint64_t expiry_us, uint8_t *sealed)
{
    struct seal_facts facts = {
        .kind = put->absent ? 2 : 1,
        .version = work->version,
        .writer = fleet->writer,
        .source_version = put->source_version,
        .expiry_us = expiry_us,
        .key = put->keys[0].data,
        .key_size = put->keys[0].size,
        .tags = work->tags,
        .tag_count = put->tag_count,
    };

    for (uint32_t i = 0; i < put->tag_count; i++)
        bytes_put_tag(work->tags + (size_t)8 * i, put->tags[i]);
    memcpy(facts.cache, fleet->cache, sizeof facts.cache);
    return seal_value(fleet->keyring, &facts, put->value, put->absent ? 0 : put->value_size, sealed);
}

/* Send a put that has been sealed and signed. */
static freshet_result publish_put_send(struct publishing *p, const struct remote_change *put, uint64_t expiry_us,
                                       const uint8_t *sealed, struct remote_confirm *confirm)
{
    struct fleet *fleet = p->fleet;
    struct publish_work *work = p->work;
    size_t sealed_size = SEAL_OVERHEAD + (put->absent ? 0 : put->value_size);
    struct resp *reply = NULL;
    struct answer answer;
    freshet_result result;

    /* When its caller gives it up an invalidation is sent in its stead, and others may change the key: what comes later
     * must not be stored over theirs. */
    fleet_until(fleet, p->deadline_ns, work->until);
    publish_put_words(fleet, work, p->partition, put, expiry_us, sealed, sealed_size);
    result = publish_run(p, SCRIPT_PUT, &reply);
    result = publish_settle(p, result, reply, &answer);
    resp_free(reply);
    if (result == FRESHET_OK || result == FRESHET_GUARDED)
        *confirm = (struct remote_confirm){
            .epoch = answer.epoch,
            .position = answer.position,
            .version = work->version,
            .record = {.absent = put->absent,
                       .epoch = answer.epoch,
                       .as_of = answer.position,
                       .born = answer.position,
                       .version = work->version,
                       .writer = fleet->writer,
                       .source_version = put->source_version,
                       .expires_ns = fleet_boot_ns(fleet, expiry_us),
                       .tag_count = put->tag_count},
        };
    if (result == FRESHET_OK && put->tag_count > 0)
        memcpy(confirm->record.tags, put->tags, put->tag_count * sizeof *put->tags);
    return result;
}

static freshet_result publish_put(struct fleet *fleet, struct publish_work *work, const struct remote_change *put,
                                  int64_t deadline_ns, struct remote_confirm *confirm)
{
    struct publishing p = {
        .fleet = fleet,
        .work = work,
        .kind = FRAME_PUT,
        .partition = put->keys[0].partition,
        .count = 1,
        .source_version = put->source_version,
        .deadline_ns = deadline_ns,
    };
    uint8_t *sealed = malloc(SEAL_OVERHEAD + (put->absent ? 0 : put->value_size));
    uint64_t expiry_us = 0;
    freshet_result result = FRESHET_OK;

    if (!sealed)
        return remote_fail(FRESHET_ENOMEM, "no memory to seal a value of %zu bytes", put->value_size);
    memcpy(work->hashes[0], put->keys[0].hash, 16);
    /* An expiry is told in Redis's time, so that must be known. */
    bool away = lines_away(fleet->lines) ||
                (remote_clock(fleet->host) == 0 && renew_look(fleet, p.partition, false, deadline_ns) < 0);
    if (!away) {
        if (!publish_sign(fleet, work, FRAME_PUT, p.partition, 1, put->source_version)) {
            free(sealed);
            return FRESHET_EKEYRING;
        }
        if (put->ttl_ms)
            expiry_us = work->version + put->ttl_ms * UINT64_C(1000);
        result = publish_seal(fleet, work, put, expiry_us, sealed);
    }
    if (result == FRESHET_OK) {
        publish_write_down(&p);
        result = away ? publish_queue(&p) : publish_put_send(&p, put, expiry_us, sealed, confirm);
    }
    free(sealed);
    return result;
}

/* A strong write's bound is the fleet's: it must be known before, for afterwards there may be nobody to tell it. */
static void publish_prepare(struct fleet *fleet, struct publish_work *work, const struct remote_change *change,
                            int64_t deadline_ns)
{
    work->strong.hosts = change->wait_hosts;
    work->strong.replicas = change->wait_replicas;
    work->strong.replicas_reached = UINT32_MAX;
    work->strong.frames = change->kind == REMOTE_PUT ? 1 : fleet->facts.partitions + change->count / FRAME_KEYS_MAX;
    if (change->wait_hosts && atomic_load(&fleet->max_staleness_ms) == 0)
        (void)renew_look(fleet, 0, false, deadline_ns);
}

/* Tell what was confirmed, and wait for what is to be waited for. */
static freshet_result publish_finish(struct fleet *fleet, const struct publish_work *work,
                                     const struct remote_change *change, freshet_result result,
                                     struct remote_confirm *confirm)
{
    const struct strong *strong = &work->strong;
    struct strong_verdict verdict;

    if (result < 0 || result == FRESHET_QUEUED || result == FRESHET_OUTDATED)
        return result;
    for (uint32_t p = 0; p < fleet->facts.partitions; p++)
        confirm->parts[p] = (struct remote_confirmed){strong->parts[p].epoch, strong->parts[p].position};
    if (strong->hosts) {
        strong_wait(fleet, strong, change->on_host, change->on_host_arg, &verdict);
        confirm->hosts_applied = verdict.applied;
        confirm->hosts_waited_out = verdict.waited_out;
        confirm->bound_waited = verdict.bound_waited;
    }
    if (strong->replicas > 0)
        confirm->replicas = strong->replicas_reached;
    return result == FRESHET_OK && confirm->replicas < strong->replicas ? FRESHET_UNREPLICATED : result;
}

freshet_result publish_change(void *remote, const struct remote_change *change, int64_t deadline_ns,
                              struct remote_confirm *ret_confirm)
{
    struct fleet *fleet = remote;
    bool many = change->kind == REMOTE_INVALIDATE || change->kind == REMOTE_TAGS;
    uint32_t room = !many ? 1 : change->count < FRAME_KEYS_MAX ? change->count : FRAME_KEYS_MAX;
    struct publish_work *work = publish_work_open(room);
    freshet_result result;

    if (!work)
        return remote_fail(FRESHET_ENOMEM, "no memory for a change of %" PRIu32 " keys", change->count);
    fleet_mind(fleet);
    publish_prepare(fleet, work, change, deadline_ns);
    switch (change->kind) {
    case REMOTE_PUT:
        result = publish_put(fleet, work, change, deadline_ns, ret_confirm);
        break;
    case REMOTE_CLEAR:
    case REMOTE_TAGS:
        result = publish_everywhere(fleet, work, change, deadline_ns, ret_confirm);
        break;
    default:
        result = publish_invalidate(fleet, work, change, deadline_ns, ret_confirm);
        break;
    }
    result = publish_finish(fleet, work, change, result, ret_confirm);
    publish_work_close(work);
    return result;
}
