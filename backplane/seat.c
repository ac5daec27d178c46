/*
 * seat.c - who listens for this host: watch the seat, take it, leave it.  On the loop's thread.
 *
 * A holder may be dead (kill -9), stopped, or cut off while we are not.  The first shows in its pid, the others in
 * proven-at: when it is older than half the bound, and our own connection is up, we take over; a holder that finds
 * another in the seat stops listening.  While Redis is away for everybody the seat stays where it is.
 */
#include <fleet.h>

#include <errno.h>
#include <signal.h>

#define SEAT_LEAST_MS 5u
#define SEAT_PING_NS  (1000 * FLEET_NS_PER_MS) /* how often a connection with nothing to do says a word */

static void seat_tick(void *arg);

enum seat_move seat_judge(const struct seat_view *view)
{
    int64_t idle_since = view->proven_ns > view->since_ns ? view->proven_ns : view->since_ns;

    if (view->holder == view->us)
        return view->held ? SEAT_KEEP : SEAT_BEGIN;
    if (view->holder == 0 || view->holder_dead)
        return SEAT_TAKE;
    if (view->held)
        return SEAT_LEAVE;
    return view->reached && view->now_ns - idle_since > view->patience_ns ? SEAT_TAKE : SEAT_WATCH;
}

/* A number below `most`. */
static uint32_t seat_random(struct seat *seat, uint32_t most)
{
    seat->random = seat->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return most ? (uint32_t)(seat->random >> 33) % most : 0;
}

/* Half the bound, and up to a quarter more by chance. */
static void seat_draw(struct fleet *fleet, uint32_t bound_ms)
{
    fleet->seat.patience_ns = (bound_ms / 2 + seat_random(&fleet->seat, bound_ms / 4 + 1)) * FLEET_NS_PER_MS;
}

/* The oldest proof of all partitions. */
static int64_t seat_proven(struct fleet *fleet)
{
    int64_t oldest = INT64_MAX;

    for (uint32_t p = 0; p < fleet->facts.partitions; p++) {
        struct remote_part page;

        remote_part(fleet->host, p, &page);
        if (page.proven_ns < oldest)
            oldest = page.proven_ns;
    }
    return oldest;
}

static void seat_begin(struct fleet *fleet)
{
    fleet->seat.held = true;
    if (fleet->ears)
        link_start(fleet->ears);
    renew_start(fleet);
    outbox_drain(fleet);
}

static void seat_leave(struct fleet *fleet)
{
    fleet->seat.held = false;
    if (fleet->ears)
        link_stop(fleet->ears);
}

/* Sit down, unless somebody is quicker. */
static void seat_take(struct fleet *fleet, uint64_t seen)
{
    if (!remote_seat_take(fleet->host, seen, fleet->writer))
        return;
    if (seen)
        remote_count(fleet->host, REMOTE_TAKEOVERS, 1);
    fleet->seat.holder = fleet->writer;
    if (!fleet->seat.held)
        seat_begin(fleet);
}

static void seat_pinged(struct link *link, const struct resp *reply, void *arg)
{
    (void)link;
    if (reply)
        fleet_heard(arg, true, "");
}

/* Who does not hold the seat has nothing to ask: a word now and then tells a silent connection from a dead one. */
static void seat_probe(struct fleet *fleet, int64_t now_ns)
{
    struct seat *seat = &fleet->seat;

    if (seat->held || !fleet->ask || !link_is_up(fleet->ask) || now_ns - seat->asked_ns < SEAT_PING_NS)
        return;
    seat->asked_ns = now_ns;
    (void)link_ask(fleet->ask, 1, (const char *const[]){"PING"}, (const size_t[]){4}, fleet->renew.wait_ms, seat_pinged,
                   fleet);
}

static void seat_tick(void *arg)
{
    struct fleet *fleet = arg;
    struct seat *seat = &fleet->seat;
    struct remote_facts facts;
    int32_t pid = 0;

    remote_facts(fleet->host, &facts);
    struct seat_view view = {
        .us = fleet->writer,
        .holder = remote_seat(fleet->host, &pid),
        .held = seat->held,
        .reached = fleet->ask && link_is_up(fleet->ask) && !atomic_load(&fleet->silent),
        .now_ns = fleet_now_ns(),
        .proven_ns = seat_proven(fleet),
        .patience_ns = seat->patience_ns,
    };
    view.holder_dead = pid > 0 && kill(pid, 0) != 0 && errno == ESRCH;
    if (view.holder != seat->holder) { /* whoever is new in it gets time to show what it can */
        seat->holder = view.holder;
        seat->since_ns = view.now_ns;
        seat_draw(fleet, facts.max_staleness_ms);
        view.patience_ns = seat->patience_ns;
    }
    view.since_ns = seat->since_ns;
    switch (seat_judge(&view)) {
    case SEAT_BEGIN:
        seat_begin(fleet);
        break;
    case SEAT_LEAVE:
        seat_leave(fleet);
        break;
    case SEAT_TAKE:
        seat_take(fleet, view.holder);
        break;
    case SEAT_KEEP:
    case SEAT_WATCH:
        break;
    }
    seat_probe(fleet, view.now_ns);
    uint32_t period = facts.max_staleness_ms / 8 > SEAT_LEAST_MS ? facts.max_staleness_ms / 8 : SEAT_LEAST_MS;
    loop_timer_set(seat->timer, period + seat_random(seat, period / 4 + 1), 0);
}

bool seat_init(struct fleet *fleet)
{
    struct seat *seat = &fleet->seat;

    *seat = (struct seat){0};
    seal_random(&seat->random, sizeof seat->random);
    seat_draw(fleet, fleet->facts.max_staleness_ms);
    seat->timer = loop_timer_open(fleet->turning, seat_tick, fleet);
    if (!seat->timer)
        return false;
    loop_timer_set(seat->timer, 0, 0); /* at once: a seat may be empty */
    return true;
}

void seat_fini(struct fleet *fleet)
{
    struct seat *seat = &fleet->seat;

    if (seat->timer)
        loop_timer_close(seat->timer);
    seat->timer = NULL;
    seat->held = false;
    if (remote_seat(fleet->host, NULL) == fleet->writer)
        (void)remote_seat_take(fleet->host, fleet->writer, 0);
}

void seat_lost(struct fleet *fleet)
{
    fleet->seat = (struct seat){0};
}
