/*
 * outbox.c - the seat's holder sends what Redis has not confirmed: changes of this host's processes that met an
 * outage, that died on the way, and the recent ones after a rotation.  On the loop's thread.
 *
 * What is sent again is a new invalidation with a position of its own; the order does not matter, and one too many
 * costs a miss.  An entry leaves the outbox only after its fences were raised to a position of the page's epoch.
 */
#include <fleet.h>
#include <publish.h>

static void outbox_answered(struct link *link, const struct resp *reply, void *arg);

bool outbox_init(struct fleet *fleet)
{
    fleet->outbox = (struct outbox){.work = publish_work_open(OUTBOX_BATCH)};
    return fleet->outbox.work != NULL;
}

void outbox_fini(struct fleet *fleet)
{
    struct outbox *outbox = &fleet->outbox;

    if (outbox->sending)
        remote_outbox_queue(fleet->host, outbox->work->slots, outbox->count);
    outbox->sending = false;
    publish_work_close(outbox->work);
    outbox->work = NULL;
}

bool outbox_busy(const struct fleet *fleet, uint32_t partition)
{
    return (fleet->outbox.sending && fleet->outbox.partition == partition) ||
           remote_outbox_waiting(fleet->host, partition) > 0;
}

/* Take a batch of one kind and partition and send it; false when there is none, or it cannot be sent now. */
static bool outbox_send(struct fleet *fleet, uint32_t partition, enum remote_outbox_kind entries)
{
    struct outbox *outbox = &fleet->outbox;
    struct publish_work *work = outbox->work;
    enum frame_kind kind = entries == REMOTE_OUTBOX_CLEAR ? FRAME_CLEAR
                           : entries == REMOTE_OUTBOX_TAG ? FRAME_TAGS
                                                          : FRAME_INVALIDATE;

    outbox->partition = partition;
    outbox->kind = entries;
    outbox->count = remote_outbox_take(fleet->host, partition, entries, OUTBOX_BATCH, work->hashes, work->slots);
    if (outbox->count == 0)
        return false;
    if (publish_sign(fleet, work, kind, partition, outbox->count, 0)) {
        publish_words(fleet, work, kind, partition, outbox->count, 0);
        outbox->sending = link_script(fleet->ask, SCRIPT_CHANGE, work->keys, work->argc, work->argv, work->sizes,
                                      fleet->renew.wait_ms, outbox_answered, fleet);
    }
    if (!outbox->sending)
        remote_outbox_queue(fleet->host, work->slots, outbox->count);
    return outbox->sending;
}

void outbox_drain(struct fleet *fleet)
{
    if (fleet->outbox.sending || !fleet->outbox.work || !fleet->seat.held || !fleet->ask || !link_is_up(fleet->ask))
        return;
    for (uint32_t p = 0; p < fleet->facts.partitions; p++)
        if (remote_outbox_waiting(fleet->host, p) > 0 &&
            (outbox_send(fleet, p, REMOTE_OUTBOX_CLEAR) || outbox_send(fleet, p, REMOTE_OUTBOX_TAG) ||
             outbox_send(fleet, p, REMOTE_OUTBOX_KEY)))
            return;
}

/* Redis has confirmed a batch: raise its fences, then let go of it. */
static void outbox_confirmed(struct fleet *fleet, const struct answer *answer)
{
    struct outbox *outbox = &fleet->outbox;

    const uint8_t(*hashes)[16] = (const uint8_t(*)[16])outbox->work->hashes;

    remote_trace("resent", outbox->partition, answer->epoch, answer->position, outbox->kind, hashes,
                 outbox->kind == REMOTE_OUTBOX_CLEAR ? 0 : outbox->count);
    remote_saw_position(fleet->host, outbox->partition, answer->position);
    if (outbox->kind == REMOTE_OUTBOX_CLEAR)
        remote_raise_clear(fleet->host, outbox->partition, answer->position);
    else if (outbox->kind == REMOTE_OUTBOX_TAG)
        remote_raise_tags(fleet->host, hashes, outbox->count, outbox->partition, answer->position);
    else
        remote_raise(fleet->host, hashes, outbox->count, outbox->partition, answer->position);
    remote_count(fleet->host, REMOTE_RESENT, outbox->count);
    (void)remote_outbox_confirmed(fleet->host, outbox->work->slots, outbox->count, answer->position, answer->epoch);
}

static void outbox_answered(struct link *link, const struct resp *reply, void *arg)
{
    struct fleet *fleet = arg;
    struct outbox *outbox = &fleet->outbox;
    struct remote_part page;
    struct answer answer;
    bool confirmed;

    (void)link;
    if (!outbox->sending)
        return;
    outbox->sending = false;
    confirmed = answer_read(&answer, reply) && answer.status == ANSWER_OK;
    remote_part(fleet->host, outbox->partition, &page);
    if (confirmed && answer.epoch == page.epoch) {
        outbox_confirmed(fleet, &answer);
        outbox_drain(fleet);
    } else {
        remote_outbox_queue(fleet->host, outbox->work->slots, outbox->count);
        if (reply && !confirmed)
            remote_say(FRESHET_WARN, "%s: Redis did not take a change that waits: %.200s", fleet->name, answer.text);
    }
    /* All sent, or sent into another epoch: a report proves the one and adopts the other. */
    if (confirmed && !outbox->sending)
        renew_look_soon(fleet, outbox->partition);
}
