/*
 * faults.c - what goes wrong in a run, and how it ends.  On the scheduler's stack.
 */
#include "world.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ADMIN 999999u /* the client that administers Redis */

static unsigned replica_of_world(void)
{
    return 1 - world.master;
}

static struct redis_server *model(unsigned server)
{
    return net.servers[server].model;
}

/* ---- hosts and processes ---- */

static void restart(void *arg, uint64_t place)
{
    (void)arg;
    if (world.processes[place]->dead)
        world_start_process((unsigned)place);
}

static void kill_process(const struct fault *fault)
{
    struct sim_process *process = world.processes[fault->place];

    if (process->dead)
        return;
    sim_process_kill(process);
    net_forget(process);
    sim_at(sim_now + fault->lasts, restart, NULL, fault->place);
}

static void go_on(void *arg, uint64_t number)
{
    struct sim_process *process = arg;

    (void)number;
    if (process->stopped)
        sim_process_continue(process);
}

static void stop_process(const struct fault *fault)
{
    struct sim_process *process = world.processes[fault->place];

    if (process->dead || process->stopped)
        return;
    sim_process_stop(process);
    sim_at(sim_now + fault->lasts, go_on, process, 0);
}

/* ---- Redis ---- */

static void take_route(void *arg, uint64_t server)
{
    struct sim_host *host = arg;

    host->route = world.calm ? world.master : (unsigned)server;
}

static void come_up(void *arg, uint64_t server)
{
    (void)arg;
    net.servers[server].down = false;
}

/* The old master learns that it is one no more. */
static void demote(void *arg, uint64_t server)
{
    (void)arg;
    if (server == world.master)
        return;
    net.servers[server].down = false;
    redis_attach(model((unsigned)server), model(world.master));
    check_replicated((unsigned)server, world.master);
    net_reset_all(NULL, (int)server);
}

static void fail_over(const struct fault *fault)
{
    struct sim_random random = {fault->chance};
    unsigned old = world.master, new = replica_of_world();

    if (redis_is_master(model(new)) || net.servers[new].down)
        return; /* the last one is not over */
    if (sim_chance(&random, 0.3)) {
        (void)redis_replicate(model(new), UINT64_MAX);
        check_replicated(new, old);
    }
    redis_promote(model(new));
    world.master = new;
    if (sim_chance(&random, 0.4)) {
        net.servers[old].down = true;
        net_reset_all(NULL, (int)old);
    }
    for (unsigned i = 0; i < world.plan->hosts; i++)
        sim_at(sim_now + sim_between(&random, 0, sim_chance(&random, 0.5) ? 50 * SIM_MS : SIM_S), take_route,
               &world.hosts[i], new);
    sim_at(sim_now + fault->lasts, demote, NULL, old);
}

static void reboot(const struct fault *fault)
{
    static const enum redis_data data[] = {REDIS_KEPT, REDIS_SNAPSHOT, REDIS_EMPTY};
    struct sim_random random = {fault->chance};

    net_reset_all(NULL, (int)world.master);
    redis_reboot(model(world.master), data[sim_below(&random, 3)]);
    check_rebooted(world.master);
    net.servers[world.master].down = true;
    sim_at(sim_now + fault->lasts / 4, come_up, NULL, world.master);
}

/* There is room again. */
static void come_free(void *arg, uint64_t server)
{
    (void)arg;
    redis_set_full(model((unsigned)server), false);
}

static void fill_up(const struct fault *fault)
{
    redis_set_full(model(world.master), true);
    sim_at(sim_now + fault->lasts, come_free, NULL, world.master);
}

static void command(const char *const *words, int count)
{
    struct redis_reply reply = {0};
    size_t sizes[8];

    for (int i = 0; i < count; i++)
        sizes[i] = strlen(words[i]);
    redis_execute(model(world.master), ADMIN, count, words, sizes, &reply);
    redis_reply_free(&reply);
}

static void trim(const struct fault *fault)
{
    char log[64];

    for (unsigned p = 0; p < world.plan->partitions; p++) {
        (void)snprintf(log, sizeof log, "freshet:{sim:%u}:log", p);
        command((const char *const[]){"XTRIM", log, "MAXLEN", fault->chance % 3 ? "0" : "1"}, 4);
    }
}

static void evict(const struct fault *fault)
{
    size_t count = redis_count(model(world.master)), size;
    const char *key;
    char name[256];

    if (count == 0)
        return;
    key = redis_key(model(world.master), fault->chance % count, &size);
    if (size >= sizeof name)
        return;
    memcpy(name, key, size);
    name[size] = '\0';
    world_tell("  (%s)", name);
    (void)redis_evict(model(world.master), name, size);
}

static void jump(const struct fault *fault)
{
    struct sim_random random = {fault->chance};
    unsigned server = sim_chance(&random, 0.7) ? world.master : replica_of_world();

    redis_set_clock(model(server), sim_between(&random, -600, 600) * 1000000);
}

/* ---- all of them ---- */

void world_fault(struct fault *fault)
{
    struct sim_host *host = &world.hosts[fault->host];

    figures->faults[fault->kind]++;
    world_tell("*** fault %u: %s (host %u, process %u, %lld ms)", fault->number, fault_names[fault->kind], fault->host,
               fault->place, (long long)(fault->lasts / SIM_MS));
    if (fault->chance % 3 == 0) /* what a later restart may find */
        redis_save(model(world.master));
    switch (fault->kind) {
    case FAULT_CUT:
        host->cut_until = sim_now + fault->lasts;
        break;
    case FAULT_SLOW:
        host->slow_until = sim_now + fault->lasts;
        host->slow_ns = (int64_t)(fault->chance % 300) * SIM_MS;
        break;
    case FAULT_RESET:
        net_reset_all(fault->chance % 3 ? host : NULL, -1);
        break;
    case FAULT_KILL:
        kill_process(fault);
        break;
    case FAULT_STOP:
        stop_process(fault);
        break;
    case FAULT_UNREPLICATED:
        world.replicating = false;
        break;
    case FAULT_FAILOVER:
        fail_over(fault);
        break;
    case FAULT_REBOOT:
        reboot(fault);
        break;
    case FAULT_PAUSE:
        net.servers[world.master].paused_until = sim_now + fault->lasts;
        break;
    case FAULT_FULL:
        fill_up(fault);
        break;
    case FAULT_FLUSH:
        redis_flush(model(world.master));
        break;
    case FAULT_TRIM:
        trim(fault);
        break;
    case FAULT_EVICT:
        evict(fault);
        break;
    case FAULT_REDIS_CLOCK:
        jump(fault);
        break;
    case FAULT_HOST_CLOCK:
        host->real_shift = (int64_t)(fault->chance % 1200) * SIM_S - 600 * SIM_S;
        break;
    case FAULT_SCRIPTS:
        command((const char *const[]){"SCRIPT", "FLUSH"}, 2);
        break;
    case FAULT_KILL_PUBSUB:
        command((const char *const[]){"CLIENT", "KILL", "TYPE", "pubsub"}, 4);
        break;
    case FAULT_ATTACK:
        attack_now();
        break;
    case FAULT_KINDS:
        break;
    }
}

void world_calm(void)
{
    world_tell("*** all faults end");
    world.calm = true;
    world.replicating = true;
    net.spike_chance = net.lose_chance = net.kill_chance = 0;
    for (unsigned i = 0; i < world.plan->hosts; i++) {
        world.hosts[i].cut_until = world.hosts[i].slow_until = 0;
        world.hosts[i].route = world.master;
    }
    for (unsigned i = 0; i < NET_SERVERS; i++) {
        net.servers[i].down = false;
        net.servers[i].paused_until = 0;
        redis_set_full(model(i), false);
    }
    if (redis_is_master(model(replica_of_world())))
        demote(NULL, replica_of_world());
    for (unsigned i = 0; i < world.plan->places; i++) {
        if (world.processes[i]->dead)
            world_start_process(i);
        else if (world.processes[i]->stopped)
            sim_process_continue(world.processes[i]);
    }
}
