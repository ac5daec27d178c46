/*
 * receive.c - inward: verify, decode, raise fences, then applied.  On the loop's thread only.
 *
 * Nothing is parsed before its signature was verified.  Frames are not ordered or counted here, and a frame seen
 * twice raises its fences twice: a fence too high costs a miss, one too low a lie, so there is no reason to refuse
 * what is genuine.  What the log holds and we cannot read may be a change: the partition is then voided up to it.
 */
#include <fleet.h>

#include <inttypes.h>

enum receive_verdict receive_judge(const uint8_t *body, size_t size, const uint8_t cache[16], uint32_t partition,
                                   uint32_t partitions, struct frame *ret_frame)
{
    if (!frame_decode(ret_frame, body, size))
        return RECEIVE_GARBLED;
    if (ret_frame->partition != partition || memcmp(ret_frame->cache, cache, 16) != 0)
        return RECEIVE_FOREIGN;
    for (uint32_t i = 0; i < ret_frame->count && ret_frame->kind != FRAME_TAGS; i++) /* tags are of all partitions */
        if (remote_partition(ret_frame->hashes[i], partitions) != partition)
            return RECEIVE_FOREIGN;
    return RECEIVE_GOOD;
}

enum receive_step receive_step(uint64_t applied, uint64_t position)
{
    if (position <= applied)
        return RECEIVE_SKIP;
    return position == applied + 1 ? RECEIVE_NEXT : RECEIVE_GAP;
}

bool receive_plausible(uint64_t applied, uint64_t position)
{
    return position > applied && position - applied <= RECEIVE_REACH;
}

/* ---- verified lately? ---- */

static bool receive_known(struct receive *receive, const uint8_t digest[32])
{
    bool known = false;

    pthread_mutex_lock(&receive->lock);
    for (uint32_t way = 0; way < RECEIVE_WAYS && !known; way++)
        known = memcmp(receive->digests[digest[0]][way], digest, 32) == 0;
    pthread_mutex_unlock(&receive->lock);
    return known;
}

static void receive_remember(struct receive *receive, const uint8_t digest[32])
{
    uint8_t *next = &receive->next[digest[0]];

    pthread_mutex_lock(&receive->lock);
    memcpy(receive->digests[digest[0]][*next], digest, 32);
    *next = (uint8_t)((*next + 1u) % RECEIVE_WAYS);
    pthread_mutex_unlock(&receive->lock);
}

void receive_signed(struct fleet *fleet, const uint8_t *message, size_t size)
{
    uint8_t digest[32];

    seal_digest(message, size, digest);
    receive_remember(&fleet->receive, digest);
}

/* Verify a signed message and decode it; *ret_why names a refusal. */
static enum receive_verdict receive_open(struct fleet *fleet, uint32_t partition, const uint8_t *message, size_t size,
                                         struct frame *ret_frame, const char **ret_why)
{
    enum receive_verdict verdict;
    const uint8_t *body;
    size_t body_size;
    uint8_t digest[32];
    uint64_t key_id;

    *ret_why = "garbled";
    if (size < FRAME_SIGNED_HEAD + FRAME_BODY_HEAD || size > FRAME_MAX)
        return RECEIVE_UNVERIFIED;
    seal_digest(message, size, digest);
    if (receive_known(&fleet->receive, digest)) {
        body = message + FRAME_SIGNED_HEAD;
        body_size = size - FRAME_SIGNED_HEAD;
    } else {
        enum seal_verdict sealed = seal_verify(fleet->keyring, message, size, &body, &body_size, &key_id);

        if (sealed != SEAL_GOOD) {
            *ret_why = seal_verdict_name(sealed);
            return RECEIVE_UNVERIFIED;
        }
        receive_remember(&fleet->receive, digest);
        remote_count(fleet->host, REMOTE_FRAMES, 1);
    }
    verdict = receive_judge(body, body_size, fleet->cache, partition, fleet->facts.partitions, ret_frame);
    if (verdict == RECEIVE_FOREIGN)
        *ret_why = "of another cache or partition";
    return verdict;
}

static void receive_apply(struct fleet *fleet, uint32_t partition, const struct frame *frame, uint64_t position)
{
    if (frame->kind == FRAME_CLEAR)
        remote_raise_clear(fleet->host, partition, position);
    else if (frame->kind == FRAME_TAGS)
        remote_raise_tags(fleet->host, frame->hashes, frame->count, partition, position);
    else
        remote_raise(fleet->host, frame->hashes, frame->count, partition, position);
}

/* ---- the channel ---- */

/* Too many refusals in this second?  Then somebody feeds us rubbish, and a verification is dearer than a look at
 * the log. */
static bool receive_flooded(struct receive *receive, int64_t now_ns)
{
    if (now_ns - receive->refusals_since_ns > 1000 * FLEET_NS_PER_MS) {
        receive->refusals_since_ns = now_ns;
        receive->refusals = 0;
    }
    return receive->refusals >= RECEIVE_REFUSALS;
}

/* A message that came over the channel: raise what it names.  False: refused; *ret_why says why.  *ret_raised: its
 * fences are up, so that the log has nothing urgent to add. */
static bool receive_message(struct fleet *fleet, uint32_t partition, const uint8_t *message, size_t size,
                            const char **ret_why, bool *ret_raised)
{
    struct remote_part page;
    struct frame frame;

    *ret_why = "garbled";
    if (size < FRAME_CHANNEL_HEAD || receive_open(fleet, partition, message + FRAME_CHANNEL_HEAD,
                                                  size - FRAME_CHANNEL_HEAD, &frame, ret_why) != RECEIVE_GOOD)
        return false;
    remote_part(fleet->host, partition, &page);
    uint64_t position = bytes_get64(message), epoch = bytes_get64(message + 8);
    *ret_raised = epoch == page.epoch && receive_plausible(page.applied, position);
    if (*ret_raised)
        receive_apply(fleet, partition, &frame, position);
    if (*ret_raised && frame.flags & FRAME_LOOK)
        renew_tell(fleet, partition, position, frame.writer, frame.counter);
    return true;
}

void receive_channel(struct fleet *fleet, uint32_t partition, const char *bytes, size_t size)
{
    const char *why = "too many others were";
    bool raised = false;

    if (size == 0) /* somebody who joins tries whether he may publish */
        return;
    if (receive_flooded(&fleet->receive, fleet_now_ns()) ||
        !receive_message(fleet, partition, (const uint8_t *)bytes, size, &why, &raised)) {
        fleet->receive.refusals++;
        remote_count(fleet->host, REMOTE_FRAMES_REFUSED, 1);
        remote_say(FRESHET_DEBUG, "a frame on the channel was refused: %s", why);
    }
    if (raised) /* one look will do for many of these */
        renew_look_later(fleet, partition);
    else
        renew_look_soon(fleet, partition);
}

/* ---- the log ---- */

/* One entry: {position, signed message}.  False: it is no entry that we can apply; *ret_why says why. */
static bool receive_entry(struct fleet *fleet, uint32_t partition, const struct resp *entry, uint64_t *applied,
                          const char **ret_why)
{
    uint64_t position;
    struct frame frame;

    *ret_why = "garbled";
    if (entry->type != RESP_ARRAY || entry->count != 2 ||
        !answer_decimal(entry->items[0], ANSWER_POSITION_MAX, &position) || entry->items[1]->type != RESP_STRING)
        return false;
    switch (receive_step(*applied, position)) {
    case RECEIVE_SKIP:
        return true;
    case RECEIVE_GAP:
        *ret_why = "entries are missing";
        return false;
    case RECEIVE_NEXT:
        break;
    }
    if (receive_open(fleet, partition, (const uint8_t *)entry->items[1]->text, entry->items[1]->size, &frame,
                     ret_why) != RECEIVE_GOOD) {
        remote_count(fleet->host, REMOTE_FRAMES_REFUSED, 1);
        return false;
    }
    remote_step("log_read");
    receive_apply(fleet, partition, &frame, position);
    remote_applied(fleet->host, partition, position);
    if (frame.flags & FRAME_LOOK) /* somebody waits, perhaps for us, and the next report tells that we have it */
        renew_look_later(fleet, partition);
    *applied = position;
    return true;
}

bool receive_log(struct fleet *fleet, uint32_t partition, const struct resp *entries, uint64_t position,
                 uint64_t target)
{
    const char *why = "entries are missing";
    struct remote_part page;
    bool good = true;

    remote_part(fleet->host, partition, &page);
    uint64_t applied = page.applied;
    if (applied >= target)
        return true;
    if (!entries || entries->type != RESP_ARRAY || entries->count == 0)
        good = false; /* there must be some: the log was trimmed, or lost */
    for (size_t i = 0; good && i < entries->count; i++)
        good = receive_entry(fleet, partition, entries->items[i], &applied, &why);
    if (good)
        return applied >= target;
    remote_repair(fleet->host, partition, position);
    remote_count(fleet->host, REMOTE_REPAIRS, 1);
    remote_say(FRESHET_WARN,
               "%s: the log cannot be followed from position %" PRIu64 " on (%s): everything cached up to %" PRIu64
               " is void",
               fleet->name, applied + 1, why, position);
    return true;
}
