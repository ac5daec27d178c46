/*
 * plan.c - what a seed means: the shape of the world, the clients' operations, the faults.  Pure.
 */
#include "world.h"

#include <string.h>

const char *const fault_names[FAULT_KINDS] = {
    [FAULT_CUT] = "a host cut off",
    [FAULT_SLOW] = "a slow host",
    [FAULT_RESET] = "connections reset",
    [FAULT_KILL] = "a process killed",
    [FAULT_STOP] = "a process stopped",
    [FAULT_UNREPLICATED] = "replication cut",
    [FAULT_FAILOVER] = "fail-over",
    [FAULT_REBOOT] = "Redis restarted",
    [FAULT_PAUSE] = "Redis stopped",
    [FAULT_FULL] = "Redis without memory",
    [FAULT_FLUSH] = "FLUSHALL",
    [FAULT_TRIM] = "log trimmed",
    [FAULT_EVICT] = "a key evicted",
    [FAULT_REDIS_CLOCK] = "Redis's clock jumped",
    [FAULT_HOST_CLOCK] = "a host's real time jumped",
    [FAULT_SCRIPTS] = "scripts forgotten",
    [FAULT_KILL_PUBSUB] = "subscribers killed",
    [FAULT_ATTACK] = "attacks",
};

/* How often each is drawn, of all. */
static const unsigned weights[FAULT_KINDS] = {
    [FAULT_CUT] = 12,        [FAULT_SLOW] = 8,         [FAULT_RESET] = 10,     [FAULT_KILL] = 10,
    [FAULT_STOP] = 12,       [FAULT_UNREPLICATED] = 6, [FAULT_FAILOVER] = 10,  [FAULT_REBOOT] = 6,
    [FAULT_PAUSE] = 5,       [FAULT_FULL] = 3,         [FAULT_FLUSH] = 4,      [FAULT_TRIM] = 6,
    [FAULT_EVICT] = 8,       [FAULT_REDIS_CLOCK] = 4,  [FAULT_HOST_CLOCK] = 2, [FAULT_SCRIPTS] = 2,
    [FAULT_KILL_PUBSUB] = 4,
};

static void plan_shape(struct plan *plan, struct sim_random *random)
{
    static const uint32_t bounds[] = {250, 500, 900, 1500};

    plan->alone = sim_chance(random, 0.04);
    plan->hosts = plan->alone ? 1 : 2 + (unsigned)sim_below(random, 2);
    plan->places = plan->hosts + (unsigned)sim_below(random, 3);
    for (unsigned i = 0; i < plan->places; i++)
        plan->place_host[i] = i < plan->hosts ? i : (unsigned)sim_below(random, plan->hosts);
    plan->clients = 1 + (unsigned)sim_below(random, CLIENTS_MAX);
    plan->keys = 1 + (unsigned)sim_below(random, KEYS_MAX - 1);
    plan->partitions = sim_chance(random, 0.25) ? 2 : 1;
    plan->bound_ms = bounds[sim_below(random, 4)];
    plan->deadline_ms = (uint32_t)sim_between(random, 50, 1000);
    plan->serve_stale = sim_chance(random, 0.2);
    plan->sources = sim_chance(random, 0.5);
    plan->tags = !plan->sources && sim_chance(random, 0.6); /* a tag tells no source version */
    plan->ends = sim_between(random, 800, 2500) * SIM_MS;
    plan->replica_lag_ns = sim_chance(random, 0.5) ? sim_between(random, 1, 2000) * SIM_MS : 0;
    plan->replication_ns = sim_between(random, 1, 40) * SIM_MS;
    plan->latency_ns = sim_between(random, 50, 3000) * 1000;
    plan->spikes = sim_chance(random, 0.5) ? 0.01 : 0;
    plan->duplicates = sim_chance(random, 0.3) ? 0.2 : 0;
    plan->losses = sim_chance(random, 0.3) ? 0.2 : 0;
    plan->kills = sim_chance(random, 0.3) ? 0.01 : 0;
    plan->pauses = sim_chance(random, 0.3) ? 0 : sim_chance(random, 0.5) ? 0.003 : 0.02;
}

static void plan_op(struct plan *plan, struct sim_random *random, unsigned place, unsigned client)
{
    static const unsigned chances[OP_KINDS] = {19, 31, 12, 14, 3, 8, 2, 6, 3, 2};
    struct sim_op *op = &plan->ops[plan->op_count];
    unsigned pick = (unsigned)sim_below(random, 100), kind = 0;

    while (pick >= chances[kind])
        pick -= chances[kind++];
    if (kind == OP_INVALIDATE_TWO && plan->sources) /* it takes one source version for all of its keys */
        kind = OP_INVALIDATE;
    if ((kind == OP_TAGS || kind == OP_SPACE) && !plan->tags)
        kind = OP_GET;
    *op = (struct sim_op){.number = plan->op_count++, .kind = (enum op_kind)kind, .place = place, .client = client};
    op->gap_ns = sim_chance(random, 0.4) ? sim_between(random, 0, 3) * SIM_MS
                                         : sim_between(random, 0, 2 * plan->ends / SIM_MS / 12) * SIM_MS;
    op->key = (unsigned)sim_below(random, plan->keys);
    op->other = (unsigned)sim_below(random, plan->keys);
    op->before_ns = sim_chance(random, 0.5) ? sim_between(random, 0, 2 * SIM_MS) : sim_between(random, 0, 150 * SIM_MS);
    op->after_ns = sim_chance(random, 0.6) ? sim_between(random, 0, 2 * SIM_MS) : sim_between(random, 0, 400 * SIM_MS);
    op->replica = sim_chance(random, 0.6);
    op->remove = sim_chance(random, 0.15);
    op->follow = sim_chance(random, 0.2);
    op->latest = sim_chance(random, 0.08);
    op->strong = sim_chance(random, 0.2);
    op->safe = sim_chance(random, 0.1);
    op->ttl_ms = sim_chance(random, 0.2) ? (uint32_t)sim_between(random, 50, 3000) : 0;
    op->hold_ms = (uint32_t)sim_between(random, 100, sim_chance(random, 0.5) ? 300 : 3000);
    op->ticket_ms = (uint32_t)sim_between(random, 100, 1500);
    op->bound_ms = sim_chance(random, 0.15) ? (uint32_t)sim_between(random, 20, plan->bound_ms) : 0;
}

static bool fault_fits(const struct plan *plan, enum fault_kind kind)
{
    /* The hint to ask the database's primary lasts ten seconds of Redis's clock from the last change that Redis
     * remembers: who lets the clock leap or the memory be evicted has no hint, and must not ask a lagging replica. */
    if (plan->alone)
        return kind == FAULT_KILL || kind == FAULT_STOP || kind == FAULT_HOST_CLOCK;
    return plan->replica_lag_ns == 0 || (kind != FAULT_REDIS_CLOCK && kind != FAULT_EVICT);
}

static void plan_fault(struct plan *plan, struct sim_random *random)
{
    struct fault *fault = &plan->faults[plan->fault_count];
    unsigned sum = 0, pick, kind = 0;

    for (unsigned i = 0; i < FAULT_KINDS; i++)
        sum += weights[i];
    pick = (unsigned)sim_below(random, sum);
    while (pick >= weights[kind])
        pick -= weights[kind++];
    *fault = (struct fault){.number = EVENTS_MAX + plan->fault_count, .kind = (enum fault_kind)kind};
    fault->at = sim_between(random, 50 * SIM_MS, plan->ends);
    fault->lasts = sim_chance(random, 0.5) ? sim_between(random, 0, 200 * SIM_MS) : sim_between(random, 0, 2 * SIM_S);
    fault->host = (unsigned)sim_below(random, plan->hosts);
    fault->place = (unsigned)sim_below(random, plan->places);
    fault->chance = sim_draw(random);
    if (fault_fits(plan, fault->kind))
        plan->fault_count++;
}

void plan_make(struct plan *plan, uint64_t seed)
{
    struct sim_random random = sim_stream(seed, 0);
    unsigned ops, faults;

    memset(plan, 0, sizeof *plan);
    plan->seed = seed;
    plan_shape(plan, &random);
    for (unsigned place = 0; place < plan->places; place++)
        for (unsigned client = 0; client < plan->clients; client++) {
            ops = 3 + (unsigned)sim_below(&random, 14);
            for (unsigned i = 0; i < ops && plan->op_count < EVENTS_MAX; i++)
                plan_op(plan, &random, place, client);
        }
    if (!plan->alone && sim_chance(&random, 0.12)) {
        plan->attack = sim_chance(&random, 0.5) ? ATTACK_PUBLISH : ATTACK_WRITE;
        for (unsigned i = 0; i < 20; i++) {
            plan->faults[i] = (struct fault){.number = EVENTS_MAX + i, .kind = FAULT_ATTACK};
            plan->faults[i].at = sim_between(&random, 0, plan->ends);
        }
        plan->fault_count = 20;
    }
    faults = (unsigned)sim_below(&random, 7);
    for (unsigned i = 0; i < faults; i++)
        plan_fault(plan, &random);
}
