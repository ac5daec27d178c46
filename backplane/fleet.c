/*
 * fleet.c - stands behind remote.h: joins, opens and closes all below it, and hands the parts their work.
 *
 * A join first asks (admission.c), then claims the tier for this fleet, adopts Redis's history, and starts the loop.
 * Until the claim nothing on this host has changed, so a join that fails leaves the cache as it was.  A Redis that
 * cannot be reached is no failure: the loop goes on trying, and nothing is served from the tier until it is proven.
 *
 * The loop may be lost, when the host program closes descriptors that it does not know.  Callers notice (fleet_mind)
 * and start another; the lost one is leaked, since its streams and timers never end.
 */
#include <admission.h>
#include <fleet.h>
#include <publish.h>
#include <store.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define FLEET_LEAVE_MS        200
#define FLEET_REPORT_MOST     ((size_t)8 << 20)     /* bytes of a report: the script stops at one MiB of the log */
#define FLEET_TRIP_US         50000                 /* a longer round trip measures no clock */
#define FLEET_PROVEN_PAUSE_NS (5 * FLEET_NS_PER_MS) /* a sibling may be the one who proves: look for ourselves, too */

static const struct remote_ops fleet_ops;

/* ---- the process's fleets, so that a second handle on a tier finds the first's ---- */

static pthread_mutex_t fleets_lock = PTHREAD_MUTEX_INITIALIZER;
static struct fleet *fleets;
static pthread_once_t fleets_once = PTHREAD_ONCE_INIT;

static void fleets_hold(void)
{
    pthread_mutex_lock(&fleets_lock);
}

static void fleets_release(void)
{
    pthread_mutex_unlock(&fleets_lock);
}

/* A fork while another thread holds the list would leave it held in the child for ever. */
static void fleets_guard(void)
{
    (void)pthread_atfork(fleets_hold, fleets_release, fleets_release);
}

/* Stand behind the door, and in the list: in one step, so that who is told FRESHET_EBUSY finds there who was quicker.
 */
static freshet_result fleets_attach(struct fleet *fleet, freshet *cache)
{
    freshet_result result;

    fleets_hold();
    result = remote_attach(cache, &fleet_ops, fleet);
    if (result == FRESHET_OK) {
        fleet->next = fleets;
        fleets = fleet;
    }
    fleets_release();
    return result;
}

static void fleets_remove(struct fleet *fleet)
{
    fleets_hold();
    for (struct fleet **link = &fleets; *link; link = &(*link)->next)
        if (*link == fleet) {
            *link = fleet->next;
            break;
        }
    fleets_release();
}

/* Which fleet has this tier in this process?  0: none. */
static uint64_t fleets_find(const struct remote_host *host)
{
    uint64_t id = 0;

    fleets_hold();
    for (const struct fleet *fleet = fleets; fleet && !id; fleet = fleet->next)
        if (fleet->host == host)
            id = fleet->id;
    fleets_release();
    return id;
}

/* ---- names, contexts, clocks ---- */

void fleet_name(struct fleet_names *names, const char *name, uint32_t partition)
{
    char prefix[FLEET_NAME_SIZE - 40];

    (void)snprintf(prefix, sizeof prefix, "freshet:{%.*s:%u}:", (int)FRESHET_NAME_MAX, name, partition % 100u);
    (void)snprintf(names->head, sizeof names->head, "%shead", prefix);
    (void)snprintf(names->log, sizeof names->log, "%slog", prefix);
    (void)snprintf(names->hosts, sizeof names->hosts, "%shosts", prefix);
    (void)snprintf(names->channel, sizeof names->channel, "%sframes", prefix);
    (void)snprintf(names->tagfence, sizeof names->tagfence, "%stagfence", prefix);
    (void)snprintf(names->record, sizeof names->record, "%srecord:", prefix);
    names->record_size = strlen(names->record);
}

size_t fleet_record_name(const struct fleet_names *names, const uint8_t hash[16], char *ret_name)
{
    static const char digits[] = "0123456789abcdef";
    char *to = ret_name + names->record_size;

    memcpy(ret_name, names->record, names->record_size);
    for (int i = 0; i < 16; i++) {
        *to++ = digits[hash[i] >> 4];
        *to++ = digits[hash[i] & 15];
    }
    *to = '\0';
    return names->record_size + 32;
}

void fleet_context(const struct fleet *fleet, uint64_t known_epoch, uint64_t hint,
                   uint8_t ret_context[FLEET_CONTEXT_SIZE])
{
    /* new epoch 8, new registry 16, known epoch 8, hint 8, max_staleness 4, partitions 2, 0 2, random 16 */
    uint32_t max_staleness_ms = atomic_load(&fleet->max_staleness_ms);

    seal_random(ret_context, FLEET_CONTEXT_SIZE);
    ret_context[0] |= 1; /* an epoch is never 0 */
    bytes_put64(ret_context + 24, known_epoch);
    bytes_put64(ret_context + 32, hint);
    bytes_put32(ret_context + 40, max_staleness_ms ? max_staleness_ms : fleet->facts.tier_max_staleness_ms);
    bytes_put16(ret_context + 44, (uint16_t)fleet->facts.partitions);
    bytes_put16(ret_context + 46, 0);
    ret_context[48] |= 1; /* nor is a ticket */
}

uint64_t fleet_time_us(const struct fleet *fleet)
{
    int64_t offset = remote_clock(fleet->host), boot_us = fleet_now_ns() / 1000;
    struct timespec real;

    if (offset != 0 && boot_us + offset > 0)
        return (uint64_t)(boot_us + offset);
    clock_gettime(CLOCK_REALTIME, &real);
    return (uint64_t)real.tv_sec * 1000000u + (uint64_t)real.tv_nsec / 1000u;
}

void fleet_until(const struct fleet *fleet, int64_t deadline_ns, char ret_text[24])
{
    int64_t left_us = (deadline_ns - fleet_now_ns()) / 1000;
    uint64_t until = fleet_time_us(fleet) + (left_us > 0 ? (uint64_t)left_us / 4 * 3 : 0);

    (void)snprintf(ret_text, 24, "%" PRIu64, until < ANSWER_POSITION_MAX ? until : ANSWER_POSITION_MAX);
}

int64_t fleet_boot_ns(const struct fleet *fleet, uint64_t redis_us)
{
    int64_t offset = remote_clock(fleet->host), boot_us;

    if (redis_us == 0)
        return INT64_MAX;
    if (redis_us > ANSWER_POSITION_MAX)
        return INT64_MAX - 1; /* beyond all time, but not "never" */
    boot_us = (int64_t)redis_us - offset;
    return boot_us <= 0 ? 0 : boot_us > INT64_MAX / 1000 - 1 ? INT64_MAX - 1 : boot_us * 1000;
}

void fleet_learn(struct fleet *fleet, int64_t asked_ns, const struct renew_report *report)
{
    int64_t trip_us = (fleet_now_ns() - asked_ns) / 1000;
    int64_t offset = (int64_t)report->answer.time_us - asked_ns / 1000 - trip_us / 2; /* both below 2^53 */
    int64_t known = remote_clock(fleet->host), far = offset > known ? offset - known : known - offset;

    /* A long trip may have been long on one way only: it corrects what it contradicts, and refines nothing. */
    if (known == 0 || trip_us <= FLEET_TRIP_US || far > trip_us / 2)
        remote_set_clock(fleet->host, offset ? offset : 1); /* 0 means that it is not known */
    if (report->max_staleness_ms >= fleet->facts.tier_max_staleness_ms)
        atomic_store(&fleet->max_staleness_ms, (uint32_t)report->max_staleness_ms);
}

/* ---- the loop's thread ---- */

void fleet_heard(struct fleet *fleet, bool heard, const char *why)
{
    char redis[300];

    if (atomic_exchange(&fleet->silent, !heard) == !heard)
        return;
    (void)url_text(&fleet->url, redis, sizeof redis);
    if (heard)
        remote_say(FRESHET_INFO, "%s: Redis at %s answers", fleet->name, redis);
    else
        remote_say(FRESHET_WARN, "%s: Redis at %s is of no service: %s", fleet->name, redis, why);
}

void fleet_tell(struct fleet *fleet)
{
    pthread_mutex_lock(&fleet->lock);
    pthread_cond_broadcast(&fleet->news);
    pthread_mutex_unlock(&fleet->lock);
}

static void fleet_ask_up(struct link *link, void *arg)
{
    struct fleet *fleet = arg;
    struct url_address address;

    if (link_address(link, &address))
        lines_set_address(fleet->lines, &address);
    lines_reached(fleet->lines);
    remote_count(fleet->host, REMOTE_RECONNECTS, 1);
    if (!fleet->refused)
        fleet_heard(fleet, true, "");
    renew_look_all(fleet);
    guards_hurry(fleet);
}

static void fleet_ask_down(struct link *link, freshet_result why, void *arg)
{
    (void)link;
    (void)why;
    fleet_heard(arg, false, freshet_error());
}

static void fleet_subscribed(struct link *link, const struct resp *reply, void *arg)
{
    struct fleet *fleet = arg;

    (void)link;
    if (!reply)
        return;
    if (reply->type == RESP_ERROR)
        remote_say(FRESHET_ERROR,
                   "%s: Redis refuses SUBSCRIBE (%.120s), so changes come late: give its user " FLEET_REMEDY,
                   fleet->name, reply->text);
    else
        renew_look_all(fleet); /* what was published while we were deaf */
}

static void fleet_ears_up(struct link *link, void *arg)
{
    struct fleet *fleet = arg;
    const char *channels[FRESHET_PARTITIONS_MAX];

    for (uint32_t p = 0; p < fleet->facts.partitions; p++)
        channels[p] = fleet->names[p].channel;
    remote_count(fleet->host, REMOTE_RECONNECTS, 1);
    (void)link_subscribe(link, (int)fleet->facts.partitions, channels, fleet->renew.wait_ms, fleet_subscribed, fleet);
}

static void fleet_ears_down(struct link *link, freshet_result why, void *arg)
{
    (void)link;
    (void)why;
    (void)arg; /* the link connects again; until then the timer's questions find what we do not hear */
}

/* {"message", channel, payload} */
static void fleet_ears_push(struct link *link, const struct resp *message, void *arg)
{
    struct fleet *fleet = arg;

    (void)link;
    if (message->type != RESP_ARRAY || message->count != 3 || message->items[1]->type != RESP_STRING ||
        message->items[2]->type != RESP_STRING)
        return;
    for (uint32_t p = 0; p < fleet->facts.partitions; p++)
        if (strcmp(message->items[1]->text, fleet->names[p].channel) == 0)
            receive_channel(fleet, p, message->items[2]->text, message->items[2]->size);
}

static const struct link_events fleet_ask_events = {.up = fleet_ask_up, .down = fleet_ask_down};
static const struct link_events fleet_ears_events = {
    .up = fleet_ears_up, .down = fleet_ears_down, .push = fleet_ears_push};

static void fleet_loop_start(struct loop *loop, void *arg)
{
    struct fleet *fleet = arg;
    bool good;

    fleet->turning = loop;
    fleet->receive.refusals = 0;
    good = renew_init(fleet) && outbox_init(fleet);
    fleet->ask = link_open(loop, &fleet->url, fleet->connect_ms, FLEET_REPORT_MOST, &fleet_ask_events, fleet);
    fleet->ears =
        link_open(loop, &fleet->url, fleet->connect_ms, FRAME_MAX + FLEET_REPLY_ROOM, &fleet_ears_events, fleet);
    if (fleet->ask)
        link_start(fleet->ask);
    if (!good || !fleet->ask || !fleet->ears || !seat_init(fleet) || !guards_start(fleet))
        remote_say(FRESHET_ERROR, "%s: no memory for the fleet's loop: this process cannot renew", fleet->name);
}

static void fleet_loop_wake(struct loop *loop, void *arg)
{
    struct fleet *fleet = arg;

    (void)loop;
    guards_turn(fleet);
    if (!atomic_exchange(&fleet->looks, false))
        return;
    renew_look_all(fleet);
    outbox_drain(fleet);
}

static void fleet_loop_stop(struct loop *loop, void *arg)
{
    struct fleet *fleet = arg;

    (void)loop;
    seat_fini(fleet);
    renew_fini(fleet);
    outbox_fini(fleet);
    guards_stop(fleet);
    if (fleet->ask)
        link_close(fleet->ask);
    if (fleet->ears)
        link_close(fleet->ears);
    fleet->ask = fleet->ears = NULL;
}

/* The descriptors were closed under us: forget all that the loop knows of; callers start another. */
static void fleet_loop_lost(struct loop *loop, void *arg)
{
    struct fleet *fleet = arg;

    (void)loop;
    seat_lost(fleet);
    outbox_fini(fleet);
    guards_lost(fleet);
    fleet->ask = fleet->ears = NULL;
    fleet->renew.timer = NULL;
    atomic_store(&fleet->silent, true);
    atomic_store(&fleet->lost, true);
}

static const struct loop_events fleet_loop_events = {
    .start = fleet_loop_start, .wake = fleet_loop_wake, .stop = fleet_loop_stop, .lost = fleet_loop_lost};

/* ---- callers' threads ---- */

void fleet_wake(struct fleet *fleet)
{
    atomic_store(&fleet->looks, true);
    fleet_nudge(fleet);
}

void fleet_nudge(struct fleet *fleet)
{
    pthread_mutex_lock(&fleet->lock);
    if (fleet->loop && !atomic_load(&fleet->lost))
        loop_wake(fleet->loop);
    pthread_mutex_unlock(&fleet->lock);
}

void fleet_mind(struct fleet *fleet)
{
    bool again = false;

    if (!atomic_load_explicit(&fleet->lost, memory_order_acquire))
        return;
    pthread_mutex_lock(&fleet->lock);
    if (atomic_load(&fleet->lost)) {
        if (fleet->loop)
            (void)loop_close(fleet->loop); /* its thread has ended */
        fleet->loop = NULL;
        atomic_store(&fleet->lost, false);
        again = loop_open(&fleet->loop, &fleet_loop_events, fleet) == FRESHET_OK;
        if (!again)
            atomic_store(&fleet->lost, true); /* the next caller tries again */
    }
    pthread_mutex_unlock(&fleet->lock);
    if (again)
        remote_say(FRESHET_WARN, "%s: the host program closed descriptors of the library's; they were opened again",
                   fleet->name);
}

static bool fleet_away(void *remote)
{
    struct fleet *fleet = remote;

    fleet_mind(fleet);
    return lines_away(fleet->lines) || atomic_load(&fleet->silent);
}

/* Is every partition proven within the bound? */
static bool fleet_proven(const struct fleet *fleet)
{
    int64_t now = fleet_now_ns();

    for (uint32_t p = 0; p < fleet->facts.partitions; p++) {
        struct remote_part page;

        remote_part(fleet->host, p, &page);
        if (page.proven_ns == 0 || now - page.proven_ns >= fleet->facts.max_staleness_ms * FLEET_NS_PER_MS)
            return false;
    }
    return true;
}

/* Wait for the first proof; by us, or by whichever sibling holds the seat. */
static freshet_result fleet_wait(struct fleet *fleet, int64_t deadline_ns)
{
    while (!fleet_proven(fleet)) {
        struct timespec until;

        if (fleet_now_ns() >= deadline_ns)
            return FRESHET_UNPROVEN;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += FLEET_PROVEN_PAUSE_NS;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        pthread_mutex_lock(&fleet->lock);
        (void)pthread_cond_timedwait(&fleet->news, &fleet->lock, &until);
        pthread_mutex_unlock(&fleet->lock);
    }
    return FRESHET_OK;
}

/* ---- making and freeing ---- */

static void fleet_free(struct fleet *fleet)
{
    if (!fleet)
        return;
    guards_fini(&fleet->guards);
    lines_close(fleet->lines);
    if (fleet->keyring)
        keyring_close(fleet->keyring);
    url_free(&fleet->url);
    free(fleet->url_given);
    free(fleet->keyring_path);
    pthread_cond_destroy(&fleet->news);
    pthread_mutex_destroy(&fleet->lock);
    pthread_mutex_destroy(&fleet->receive.lock);
    strong_fini(&fleet->strong);
    free(fleet);
}

/* Everything that needs no network.  On failure there is nothing to free. */
static freshet_result fleet_make(struct fleet **ret_fleet, struct remote_host *host, const char *url,
                                 const freshet_join_options *options)
{
    struct fleet *fleet = calloc(1, sizeof *fleet);
    pthread_condattr_t attributes;
    freshet_result result;

    if (!fleet)
        return remote_fail(FRESHET_ENOMEM, "no memory to join");
    pthread_mutex_init(&fleet->lock, NULL);
    pthread_mutex_init(&fleet->receive.lock, NULL);
    guards_init(&fleet->guards);
    strong_init(&fleet->strong);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&fleet->news, &attributes);
    pthread_condattr_destroy(&attributes);
    fleet->host = host;
    fleet->connect_ms = options->connect_ms ? options->connect_ms : 1000;
    fleet->allow_evicting_redis = options->allow_evicting_redis;
    remote_facts(host, &fleet->facts);
    (void)snprintf(fleet->name, sizeof fleet->name, "%s", fleet->facts.name);
    fleet->facts.name = fleet->name;
    remote_hash(fleet->name, fleet->name, strlen(fleet->name), fleet->cache);
    for (uint32_t p = 0; p < fleet->facts.partitions; p++)
        fleet_name(&fleet->names[p], fleet->name, p);
    result = url_parse(&fleet->url, url);
    if (result == FRESHET_OK)
        result = seal_init();
    if (result == FRESHET_OK)
        result = keyring_open(&fleet->keyring, options->keyring);
    if (result == FRESHET_OK)
        result = lines_open(&fleet->lines, &fleet->url, fleet->connect_ms,
                            fleet->facts.value_max + (size_t)FLEET_REPLY_ROOM);
    if (result == FRESHET_OK &&
        (!(fleet->url_given = strdup(url)) || !(fleet->keyring_path = strdup(options->keyring))))
        result = remote_fail(FRESHET_ENOMEM, "no memory to join");
    if (result != FRESHET_OK) {
        fleet_free(fleet);
        return result;
    }
    fleet->id = url_fleet(&fleet->url, fleet->name);
    seal_random(&fleet->writer, sizeof fleet->writer);
    fleet->writer |= 1; /* 0 would be nobody */
    *ret_fleet = fleet;
    return FRESHET_OK;
}

/* Where is Redis?  A name that cannot be resolved now may be later: then it is out of reach, no more. */
static freshet_result fleet_resolve(struct fleet *fleet)
{
    freshet_result result = url_resolve(&fleet->url, &fleet->address);

    fleet->resolved = result == FRESHET_OK;
    if (fleet->resolved)
        lines_set_address(fleet->lines, &fleet->address);
    return result;
}

/* End the loop.  False: its thread did not come to an end, and may still be in our memory. */
static bool fleet_end_loop(struct fleet *fleet)
{
    struct loop *loop;

    pthread_mutex_lock(&fleet->lock); /* the loop's thread takes it for a moment only */
    loop = fleet->loop;
    fleet->loop = NULL;
    pthread_mutex_unlock(&fleet->lock);
    return loop_close(loop);
}

/* Start the loop and stand behind the door.  On failure the fleet is as it was, but for *ret_lost: its loop did not
 * end, so its memory must stay. */
static freshet_result fleet_launch(struct fleet *fleet, freshet *cache, bool *ret_lost)
{
    freshet_result result;

    *ret_lost = false;
    pthread_mutex_lock(&fleet->lock);
    result = loop_open(&fleet->loop, &fleet_loop_events, fleet);
    pthread_mutex_unlock(&fleet->lock);
    if (result != FRESHET_OK)
        return result;
    result = fleets_attach(fleet, cache);
    if (result == FRESHET_OK)
        return FRESHET_OK;
    *ret_lost = !fleet_end_loop(fleet);
    if (result == FRESHET_EBUSY)
        return remote_fail(FRESHET_EBUSY, "another thread has joined the tier just now");
    return result;
}

/* Tell the registry that this host serves nothing any more. */
static void fleet_say_goodbye(struct fleet *fleet, bool others)
{
    strong_leave(fleet, others, fleet_now_ns() + FLEET_LEAVE_MS * FLEET_NS_PER_MS);
}

static void fleet_close(void *remote)
{
    struct fleet *fleet = remote;
    bool ended;

    fleets_remove(fleet);
    ended = fleet_end_loop(fleet);
    /* A loop that was lost, or does not end, has not done this itself. */
    if (remote_seat(fleet->host, NULL) == fleet->writer)
        (void)remote_seat_take(fleet->host, fleet->writer, 0);
    if (remote_processes(fleet->host) <= 1)
        fleet_say_goodbye(fleet, false);
    if (ended)
        fleet_free(fleet);
    else
        remote_say(FRESHET_WARN, "%s: the fleet's thread did not end in time and is left behind", fleet->name);
}

/* ---- after fork ---- */

static void fleet_abandon(void *remote)
{
    struct fleet *fleet = remote;

    lines_abandon(fleet->lines);
    if (fleet->loop)
        loop_abandon(fleet->loop);
    /* The ghost stays in the list: no tier that this child opens has its host, and core holds a lock just now. */
}

static freshet_result fleet_rejoin(freshet *cache, void *abandoned)
{
    const struct fleet *ghost = abandoned; /* only what was fixed at its join may be read */
    freshet_join_options options = FRESHET_INIT(freshet_join_options);
    struct fleet *fleet = NULL;
    freshet_result result;
    bool lost;

    options.keyring = ghost->keyring_path;
    options.connect_ms = ghost->connect_ms;
    options.allow_evicting_redis = ghost->allow_evicting_redis;
    result = fleet_make(&fleet, remote_host(cache), ghost->url_given, &options);
    if (result != FRESHET_OK)
        return result;
    fleet->address = ghost->address;
    fleet->resolved = ghost->resolved;
    if (fleet->resolved)
        lines_set_address(fleet->lines, &fleet->address);
    result = fleet_launch(fleet, cache, &lost);
    if (result != FRESHET_OK && !lost)
        fleet_free(fleet);
    return result;
}

static const struct remote_ops fleet_ops = {
    .fetch = store_fetch,
    .latest = store_latest,
    .ticket = store_ticket,
    .fill = store_fill,
    .give_back = store_give_back,
    .change = publish_change,
    .guard_begin = guard_begin,
    .guard_left = guard_left,
    .guard_end = guard_end,
    .guard_drop = guard_drop,
    .away = fleet_away,
    .close = fleet_close,
    .abandon = fleet_abandon,
    .rejoin = fleet_rejoin,
};

/* ---- join and leave ---- */

/* The options, of whatever age, with what must be given. */
static freshet_result join_options(freshet_join_options *ret_options, const freshet_join_options *given)
{
    size_t size;

    *ret_options = (freshet_join_options)FRESHET_INIT(freshet_join_options);
    if (given) {
        memcpy(&size, given, sizeof size);
        if (size < sizeof size || size > 4096)
            return remote_fail(FRESHET_EINVAL,
                               "freshet_join_options.struct_size is %zu: start it with "
                               "FRESHET_INIT(freshet_join_options)",
                               size);
        memcpy(ret_options, given, size < sizeof *ret_options ? size : sizeof *ret_options);
    }
    if (!ret_options->keyring)
        return remote_fail(FRESHET_EINVAL, "give the keyring's path; freshet_keygen makes one");
    if (ret_options->connect_ms > 600000)
        return remote_fail(FRESHET_EINVAL, "connect_ms is %u: give at most 600,000", ret_options->connect_ms);
    return FRESHET_OK;
}

/* Joined in this process already?  FRESHET_OK: and now this handle has it too; FRESHET_MISS: no. */
static freshet_result join_shared(freshet *cache, struct remote_host *host, uint64_t id)
{
    uint64_t theirs = fleets_find(host);

    if (theirs == 0)
        return FRESHET_MISS;
    if (theirs != id)
        return remote_fail(FRESHET_EBUSY, "this process has joined the tier to another fleet: leave that one first");
    return remote_attached(cache) ? FRESHET_OK : FRESHET_MISS;
}

/* Ask, claim, adopt: the part that may fail.  FRESHET_OK, also when Redis cannot be reached. */
static freshet_result join_prepare(struct fleet *fleet, int64_t deadline_ns)
{
    freshet_result result = fleet_resolve(fleet);

    if (result == FRESHET_OK)
        result = admission_ask(fleet, deadline_ns);
    if (result != FRESHET_OK && result != FRESHET_ENET)
        return result;
    if (!remote_claim_fleet(fleet->host, fleet->id)) {
        if (result == FRESHET_OK)
            fleet_say_goodbye(fleet, true);
        return remote_fail(FRESHET_EBUSY, "other processes have joined this tier to another fleet");
    }
    /* Insist on what this host knows, unless siblings are proven elsewhere: then it is we who found the wrong
     * server. */
    bool insist = !fleet_proven(fleet);
    for (uint32_t p = 0; result == FRESHET_OK && p < fleet->facts.partitions; p++)
        (void)renew_look(fleet, p, insist, deadline_ns); /* what does not succeed now the loop does later */
    return FRESHET_OK;
}

/* Have the fleet's loop run behind the door; if another thread was quicker, share what it has.  *ret_ours: the door has
 * this fleet, or its memory must stay for another reason. */
static freshet_result join_launch(struct fleet *fleet, freshet *cache, struct remote_host *host, bool *ret_ours)
{
    freshet_result result;
    bool lost;

    do {
        result = fleet_launch(fleet, cache, &lost);
        *ret_ours = result == FRESHET_OK || lost;
        if (result == FRESHET_EBUSY)
            result = join_shared(cache, host, fleet->id);
    } while (result == FRESHET_MISS && !lost); /* that one has left again */
    return result == FRESHET_MISS ? FRESHET_EBUSY : result;
}

freshet_result freshet_join(freshet *cache, const char *url, const freshet_join_options *given)
{
    freshet_join_options options;
    struct fleet *fleet = NULL;
    struct remote_host *host;
    int64_t deadline_ns;
    freshet_result result;
    bool ours = false;

    if (!cache || !url)
        return remote_fail(FRESHET_EINVAL, "freshet_join: the %s is NULL", cache ? "url" : "cache");
    if ((result = join_options(&options, given)) != FRESHET_OK)
        return result;
    (void)pthread_once(&fleets_once, fleets_guard);
    if (!(host = remote_host(cache)))
        return FRESHET_EIO;
    if ((result = fleet_make(&fleet, host, url, &options)) != FRESHET_OK)
        return result;
    deadline_ns = fleet_now_ns() + fleet->facts.deadline_ms * FLEET_NS_PER_MS;
    result = join_shared(cache, host, fleet->id);
    if (result == FRESHET_MISS && (result = join_prepare(fleet, deadline_ns)) == FRESHET_OK)
        result = join_launch(fleet, cache, host, &ours);
    if (result == FRESHET_OK)
        result = fleet_wait(fleet, deadline_ns); /* whoever proves it */
    if (!ours)
        fleet_free(fleet);
    return result;
}

void freshet_leave(freshet *cache)
{
    if (cache)
        remote_detach(cache);
}
