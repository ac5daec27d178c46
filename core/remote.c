/*
 * remote.c - the door to a backplane: what core offers it, in words of its own (remote.h).
 * Thin on purpose: each call is one of control.c's, servable.c's or log.c's, so that a backplane (and the simulator
 * that will stand in its place) needs nothing of core but one header.
 */
#include <clock.h>
#include <endian.h>
#include <fiber.h>
#include <host.h>
#include <log.h>
#include <servable.h>
#include <stdarg.h>
#include <stdio.h>
#include <step.h>
#include <string.h>
#include <trace.h>
#include <unistd.h>

static struct host *host_behind(struct remote_host *remote)
{
    return (struct host *)remote;
}

struct remote_host *remote_host(freshet *cache)
{
    return (struct remote_host *)host_of(cache);
}

/* ---- the door itself ---- */

freshet_result remote_attach(freshet *cache, const struct remote_ops *ops, void *remote)
{
    struct host *host = host_of(cache);
    freshet_result result = FRESHET_OK;

    if (!host)
        return FRESHET_EIO;
    pthread_mutex_lock(&host->lock);
    if (host->remote_holds) {
        result = FRESHET_EBUSY;
    } else {
        atomic_store(&host->remote, remote);
        atomic_store_explicit(&host->ops, ops, memory_order_release);
        host->remote_holds = 1;
        atomic_store(&cache->joined, true);
    }
    pthread_mutex_unlock(&host->lock);
    return result;
}

bool remote_attached(freshet *cache)
{
    struct host *host = host_of(cache);
    bool attached;

    if (!host)
        return false;
    pthread_mutex_lock(&host->lock);
    attached = host->remote_holds > 0;
    if (attached && !atomic_exchange(&cache->joined, true))
        host->remote_holds++;
    pthread_mutex_unlock(&host->lock);
    return attached;
}

void remote_detach(freshet *cache)
{
    struct host *host = atomic_load(&cache->host);
    const struct remote_ops *ops = NULL;
    void *remote = NULL;

    if (host->born_in != atomic_load(&host_fork_generation) || !atomic_load(&cache->joined))
        return; /* never used in this child, or not joined */
    pthread_mutex_lock(&host->lock);
    atomic_store(&cache->joined, false);
    if (--host->remote_holds == 0) {
        ops = atomic_exchange(&host->ops, NULL);
        remote = atomic_exchange(&host->remote, NULL);
    }
    pthread_mutex_unlock(&host->lock);
    if (ops)
        ops->close(remote);
}

void remote_facts(struct remote_host *remote, struct remote_facts *ret_facts)
{
    struct host *host = host_behind(remote);

    *ret_facts = (struct remote_facts){
        .name = host->shape.name,
        .partitions = host->control.space.partitions,
        .max_staleness_ms = atomic_load(&host->bound_ms),
        .tier_max_staleness_ms = host->control.max_staleness_ms,
        .deadline_ms = host->deadline_ms,
        .value_max = (uint32_t)(host->limit - FRESHET_KEY_MAX),
    };
    memcpy(ret_facts->host_id, host->control.host_id, sizeof ret_facts->host_id);
}

void remote_key_from_hash(struct remote_host *remote, const uint8_t hash[16], struct remote_key *ret_key)
{
    struct key key;

    key_from_hash(&key, &host_behind(remote)->control.space, hash);
    *ret_key = (struct remote_key){.partition = key.partition};
    memcpy(ret_key->hash, hash, sizeof ret_key->hash);
}

/* ---- coherence ---- */

void remote_raise(struct remote_host *remote, const uint8_t (*hashes)[16], uint32_t count, uint32_t partition,
                  uint64_t position)
{
    struct control *control = &host_behind(remote)->control;
    struct key key;

    for (uint32_t i = 0; i < count; i++) {
        key_from_hash(&key, &control->space, hashes[i]);
        (void)control_raise(control_fence(control, partition, key.slot), position);
    }
    TRACE(.event = "fence", .partition = partition, .position = position, .hashes = hashes, .count = count);
    (void)control_raise(&control->parts[partition].newest_change_ns, (uint64_t)clock_boot_ns());
}

void remote_raise_tags(struct remote_host *remote, const uint8_t (*hashes)[16], uint32_t count, uint32_t partition,
                       uint64_t position)
{
    struct control *control = &host_behind(remote)->control;

    for (uint32_t i = 0; i < count; i++)
        (void)control_raise(control_tag_fence(control, partition, key_tag_number(hashes[i])), position);
    (void)control_raise(&control->parts[partition].newest_change_ns, (uint64_t)clock_boot_ns());
}

void remote_raise_clear(struct remote_host *remote, uint32_t partition, uint64_t position)
{
    struct control_part *part = &host_behind(remote)->control.parts[partition];

    if (control_raise(&part->clear, position))
        (void)control_raise(&part->newest_change_ns, (uint64_t)clock_boot_ns());
    TRACE(.event = "clear", .partition = partition, .position = position);
}

void remote_applied(struct remote_host *remote, uint32_t partition, uint64_t position)
{
    TRACE(.event = "applied", .partition = partition, .position = position);
    (void)control_raise(&host_behind(remote)->control.parts[partition].applied, position);
}

void remote_repair(struct remote_host *remote, uint32_t partition, uint64_t position)
{
    control_repair(&host_behind(remote)->control, partition, position);
}

bool remote_adopt(struct remote_host *remote, uint32_t partition, uint64_t from, uint64_t to, uint64_t position,
                  uint64_t clear)
{
    return control_adopt(&host_behind(remote)->control, partition, from, to, position, clear);
}

void remote_part(struct remote_host *remote, uint32_t partition, struct remote_part *ret_part)
{
    struct control *control = &host_behind(remote)->control;
    struct control_part *part = &control->parts[partition];

    *ret_part = (struct remote_part){
        .epoch = atomic_load(&part->epoch),
        .applied = atomic_load(&part->applied),
        .position = atomic_load(&part->position),
        .floor = atomic_load(&part->floor),
        .clear = atomic_load(&part->clear),
        .proven_ns = control_proven_ns(control, partition),
        .forgotten = control_forgotten(control, partition),
    };
}

void remote_saw_position(struct remote_host *remote, uint32_t partition, uint64_t position)
{
    (void)control_raise(&host_behind(remote)->control.parts[partition].position, position);
}

struct remote_question remote_ask(struct remote_host *remote, uint32_t partition)
{
    struct control_question question = control_ask(&host_behind(remote)->control, partition);

    return (struct remote_question){.asked_ns = question.asked_ns, .rotation = question.rotation};
}

bool remote_prove(struct remote_host *remote, uint32_t partition, struct remote_question question, uint64_t epoch,
                  uint64_t position)
{
    struct control_question asked = {.asked_ns = question.asked_ns, .rotation = question.rotation};

    if (!control_prove(&host_behind(remote)->control, partition, asked, epoch, position))
        return false;
    TRACE(.event = "proven", .partition = partition, .epoch = epoch, .position = position,
          .extra = (uint64_t)asked.asked_ns);
    return true;
}

void remote_forget_proof(struct remote_host *remote, uint32_t partition)
{
    control_forget_proof(&host_behind(remote)->control, partition);
}

void remote_set_clock(struct remote_host *remote, int64_t offset_us)
{
    control_set_redis_clock(&host_behind(remote)->control, offset_us);
}

int64_t remote_clock(struct remote_host *remote)
{
    return control_redis_clock(&host_behind(remote)->control);
}

/* What this host knew on its own, or of another fleet, is no part of the fleet's history: its partitions get an epoch
 * that nothing carries, so that their records are void even before Redis has been reached. */
static void remote_leave_history(struct control *control, bool of_a_fleet)
{
    for (uint32_t p = 0; p < control->space.partitions; p++) {
        uint64_t position = atomic_load(&control->parts[p].position);
        uint64_t epoch = atomic_load(&control->parts[p].epoch);
        uint64_t nobody = (control->generation ^ epoch) | 1;

        if (epoch == 0 || of_a_fleet)
            (void)control_adopt(control, p, epoch, nobody, position + 1, position + 1);
    }
}

bool remote_claim_fleet(struct remote_host *remote, uint64_t fleet)
{
    struct host *host = host_behind(remote);
    struct control *control = &host->control;
    uint64_t before = control_fleet(control);
    /* Changes that wait belong to the fleet they were made in. */
    bool free = !dir_used(&host->dir) && control_outbox_waiting(control, UINT32_MAX) == 0;
    bool ours = control_join_fleet(control, fleet, free);

    if (ours && before != fleet)
        remote_leave_history(control, before != 0);
    return ours;
}

uint64_t remote_seat(struct remote_host *remote, int32_t *ret_pid)
{
    struct control_seat seat = control_seat(&host_behind(remote)->control);

    if (ret_pid)
        *ret_pid = seat.pid;
    return seat.holder;
}

bool remote_seat_take(struct remote_host *remote, uint64_t seen, uint64_t holder)
{
    return control_seat_take(&host_behind(remote)->control, seen, holder, holder ? (int32_t)getpid() : 0);
}

/* ---- the outbox ---- */

static enum control_outbox_kind outbox_kind(enum remote_outbox_kind kind)
{
    switch (kind) {
    case REMOTE_OUTBOX_TAG:
        return OUTBOX_TAG;
    case REMOTE_OUTBOX_CLEAR:
        return OUTBOX_CLEAR;
    default:
        return OUTBOX_KEY;
    }
}

bool remote_outbox_add(struct remote_host *remote, uint32_t partition, enum remote_outbox_kind kind,
                       const uint8_t (*hashes)[16], uint32_t count, uint16_t *ret_slots)
{
    return control_outbox_add(&host_behind(remote)->control, partition, outbox_kind(kind), hashes, count, ret_slots);
}

void remote_outbox_done(struct remote_host *remote, const uint16_t *slots, uint32_t count)
{
    control_outbox_done(&host_behind(remote)->control, slots, count, 0);
}

bool remote_outbox_confirmed(struct remote_host *remote, const uint16_t *slots, uint32_t count, uint64_t position,
                             uint64_t epoch)
{
    return control_outbox_confirmed(&host_behind(remote)->control, slots, count, position, epoch);
}

uint32_t remote_outbox_recent_clears(struct remote_host *remote, uint32_t partition, int64_t window_ms)
{
    return control_outbox_recent_clears(&host_behind(remote)->control, partition, window_ms);
}

void remote_outbox_queue(struct remote_host *remote, const uint16_t *slots, uint32_t count)
{
    control_outbox_queue(&host_behind(remote)->control, slots, count);
}

uint32_t remote_outbox_take(struct remote_host *remote, uint32_t partition, enum remote_outbox_kind kind, uint32_t most,
                            uint8_t (*ret_hashes)[16], uint16_t *ret_slots)
{
    return control_outbox_take(&host_behind(remote)->control, partition, outbox_kind(kind), most, ret_hashes,
                               ret_slots);
}

uint32_t remote_outbox_recent(struct remote_host *remote, uint32_t partition, enum remote_outbox_kind kind,
                              int64_t window_ms, uint32_t most, uint8_t (*ret_hashes)[16])
{
    return control_outbox_recent(&host_behind(remote)->control, partition, outbox_kind(kind), window_ms, most,
                                 ret_hashes);
}

uint32_t remote_outbox_waiting(struct remote_host *remote, uint32_t partition)
{
    return control_outbox_waiting(&host_behind(remote)->control, partition);
}

uint32_t remote_processes(struct remote_host *remote)
{
    return dir_count(&host_behind(remote)->dir);
}

/* ---- judging, counting, saying ---- */

bool remote_servable(struct remote_host *remote, const struct remote_key *remote_key,
                     const struct remote_record *remote_record, int64_t asked_ns)
{
    struct host *host = host_behind(remote);
    struct judgement judgement;
    struct key key;
    struct record record = {
        .kind = remote_record->absent ? RECORD_ABSENT : RECORD_VALUE,
        .epoch = remote_record->epoch,
        .as_of = remote_record->as_of,
        .born = remote_record->born,
        .expires_ns = remote_record->expires_ns,
        .tag_count = remote_record->tag_count,
    };

    memcpy(record.tags, remote_record->tags, sizeof record.tags);
    key_from_hash(&key, &host->control.space, remote_key->hash);
    return servable(&record, &host->control, &key, atomic_load(&host->bound_ms) * CLOCK_NS_PER_MS, asked_ns,
                    &judgement) == SERVABLE;
}

void remote_count(struct remote_host *remote, enum remote_counter counter, uint64_t n)
{
    static const enum control_counter counters[] = {
        [REMOTE_QUEUED] = COUNT_QUEUED,       [REMOTE_RESENT] = COUNT_RESENT,
        [REMOTE_FRAMES] = COUNT_FRAMES,       [REMOTE_FRAMES_REFUSED] = COUNT_FRAMES_REFUSED,
        [REMOTE_RENEWALS] = COUNT_RENEWALS,   [REMOTE_RENEWALS_FAILED] = COUNT_RENEWALS_FAILED,
        [REMOTE_ADOPTIONS] = COUNT_ADOPTIONS, [REMOTE_REPAIRS] = COUNT_REPAIRS,
        [REMOTE_TAKEOVERS] = COUNT_TAKEOVERS, [REMOTE_RECONNECTS] = COUNT_RECONNECTS,
    };

    control_count(&host_behind(remote)->control, counters[counter], n);
}

freshet_result remote_fail(freshet_result result, const char *format, ...)
{
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fail(result, "%s", text);
}

void remote_say(freshet_level level, const char *format, ...)
{
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    say(level, "%s", text);
}

void remote_hash(const char *name, const void *key, size_t key_size, uint8_t ret_hash[16])
{
    struct key_space space = {0};

    key_space_name(&space, name);
    key_siphash128(space.k0, space.k1, key, key_size, ret_hash);
}

void remote_tag_hash(const char *name, bool name_space, const void *tag, size_t size, uint8_t ret_hash[16])
{
    struct key_space space = {0};

    key_space_name(&space, name);
    key_tag(&space, name_space, tag, size, ret_hash);
}

uint32_t remote_partition(const uint8_t hash[16], uint32_t partitions)
{
    uint64_t low;

    memcpy(&low, hash, sizeof low);
    return (uint32_t)(le64toh(low) % partitions);
}

int remote_wait_ready(int fd, short events, int64_t deadline_ns)
{
    return wait_ready(fd, events, deadline_ns);
}

void remote_wait_pause(int64_t ns)
{
    wait_pause(ns);
}

bool remote_wait_is_aside(void)
{
    return wait_is_aside();
}

bool remote_wait_enter(int64_t deadline_ns)
{
    return wait_enter(deadline_ns);
}

void remote_wait_leave(void)
{
    wait_leave();
}

void remote_step(const char *point)
{
    STEP(point);
}

void remote_trace(const char *event, uint32_t partition, uint64_t epoch, uint64_t position, uint64_t extra,
                  const uint8_t (*hashes)[16], uint32_t count)
{
    TRACE(.event = event, .partition = partition, .epoch = epoch, .position = position, .extra = extra,
          .hashes = hashes, .count = count);
}
