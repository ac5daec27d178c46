/*
 * world.c - one run of a plan: hosts, processes with their clients, the database, the end.
 *
 * A client does as an application should: it commits to the database, then tells the cache.  A process that is
 * killed starts again and goes on with what it had still to do.  When the plan is through all faults end; then
 * everything must come to rest, and every process must give what the database has.
 */
#include "world.h"

#include "libc.h"

#include <fcntl.h>
#include <freshet_fleet.h>
#include <host.h>
#include <scripts.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <step.h>
#include <string.h>
#include <unistd.h>

#define SETTLE_NS (20 * SIM_S) /* for everything to come to rest */
#define LOOK_NS   (50 * SIM_MS)

struct world world;

void world_tell(const char *format, ...)
{
    va_list arguments;

    if (!world.telling)
        return;
    printf("%10.3f ms  ", (double)sim_now / 1e6);
    if (sim_self)
        printf("process %u on host %u: ", sim_self->process->number, sim_self->process->host->number);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
}

static void world_hear(freshet_level level, const char *message, void *arg)
{
    (void)level;
    (void)arg;
    world_tell("  (%s)", message);
}

const char *world_key(unsigned key, size_t *ret_size)
{
    static const char *const names[KEYS_MAX] = {"ada", "bob", "cyd", "dan", "eve"};

    *ret_size = 3;
    return names[key];
}

const char *world_tag(unsigned tag)
{
    static const char *const names[TAGS] = {"even", "odd", "people"};

    return names[tag];
}

bool world_tagged(unsigned key, unsigned tag)
{
    return world.plan->tags && (tag == 2 || key % 2 == tag);
}

/* ---- the database ---- */

static uint64_t commit(unsigned key, bool absent)
{
    unsigned n = world.commit_count[key]++;
    uint64_t version = world.commits[key][n - 1].version + 1;

    world.commits[key][n] = (struct row_commit){sim_now, version, absent};
    return version;
}

static const struct row_commit *look_up(unsigned key, bool replica)
{
    unsigned n = world.commit_count[key] - 1;

    while (replica && n > 0 && world.commits[key][n].at > sim_now - world.plan->replica_lag_ns)
        n--;
    return &world.commits[key][n];
}

/* ---- what a client does ---- */

static void value_text(freshet_buf *buf, unsigned key, uint64_t version, unsigned token)
{
    char text[200];
    int size = snprintf(text, sizeof text, "key %u version %llu token %u ", key, (unsigned long long)version, token);

    memset(text + size, '.', sizeof text - (size_t)size);
    (void)freshet_buf_set(buf, text, (size_t)size + token * 7 % 100);
}

struct loading_op {
    struct sim_op *op;
    bool called;
};

static freshet_result load_row(freshet_load_request *request, freshet_buf *value, void *arg)
{
    struct loading_op *loading = arg;
    struct sim_op *op = loading->op;
    bool replica = op->replica && world.plan->replica_lag_ns && !request->prefer_primary;
    const struct row_commit *row;
    unsigned token = check_value(op->key, false, op);

    loading->called = true;
    op->token = token;
    sim_sleep(op->before_ns);
    row = look_up(op->key, replica);
    check_value_is(token, row->version, row->absent);
    world_tell("op %u: the loader sees version %llu of %u%s", op->number, (unsigned long long)row->version, op->key,
               replica ? " (at the replica)" : "");
    sim_sleep(op->after_ns);
    if (world.plan->sources)
        request->source_version = row->version;
    if (row->absent)
        return FRESHET_ABSENT;
    value_text(value, op->key, row->version, token);
    return FRESHET_OK;
}

static void op_read(freshet *cache, struct sim_op *op)
{
    freshet_read_options read = FRESHET_INIT(freshet_read_options);
    freshet_load_options load = FRESHET_INIT(freshet_load_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    struct loading_op loading = {op, false};
    freshet_buf buf = {0};
    freshet_result result;
    size_t size;
    const char *key = world_key(op->key, &size), *tag = world_tag(op->key % 2);

    read.bound_ms = load.bound_ms = op->bound_ms;
    load.ttl_ms = op->ttl_ms;
    load.ticket_ms = op->ticket_ms;
    if (op->follow)
        read.token = load.token = check_token(op);
    if (op->latest)
        read.level = load.level = FRESHET_READ_LATEST;
    if (world.plan->tags) {
        load.tags = &tag;
        load.tag_count = 1;
        load.name_space = world_tag(2);
    }
    if (op->kind == OP_GET)
        result = freshet_get(cache, key, size, &read, &buf, &answer);
    else
        result = freshet_load(cache, key, size, &load, load_row, &loading, &buf, &answer);
    check_read(op, result, &buf, &answer, loading.called);
    freshet_buf_free(&buf);
}

/* Look again and again, at what is in the tier, for a little longer than the bound. */
static void op_watch(freshet *cache, struct sim_op *op)
{
    freshet_read_options read = FRESHET_INIT(freshet_read_options);
    freshet_buf buf = {0};
    size_t size;
    const char *key = world_key(op->key, &size);

    read.bound_ms = op->bound_ms;
    read.tier_only = true;
    op_read(cache, op);
    op->word = 0;
    op->latest = false;
    for (unsigned i = 0, misses = 0; i < (world.calm ? 3 : 20) && misses < 3; i++) {
        freshet_answer answer = FRESHET_INIT(freshet_answer);
        freshet_result result;

        op->begun = sim_now;
        result = freshet_get(cache, key, size, &read, &buf, &answer);
        check_read(op, result, &buf, &answer, false);
        misses += result == FRESHET_MISS;
        sim_sleep(world.plan->bound_ms * SIM_MS / 12 + op->before_ns / 64);
    }
    freshet_buf_free(&buf);
}

static void op_commit(struct sim_op *op, unsigned key)
{
    op->version[key] = commit(key, op->remove);
    world_tell("op %u: version %llu of %u is committed%s", op->number, (unsigned long long)op->version[key], key,
               op->remove ? " (the row goes)" : "");
}

static freshet_result op_put(freshet *cache, struct sim_op *op, const freshet_write_options *options,
                             freshet_change *change)
{
    freshet_buf value = {0};
    freshet_result result;
    size_t size;
    const char *key = world_key(op->key, &size);

    op->token = check_value(op->key, true, op);
    check_value_is(op->token, op->version[op->key], op->remove);
    if (op->remove)
        return freshet_put_absent(cache, key, size, options, change);
    value_text(&value, op->key, op->version[op->key], op->token);
    result = freshet_put(cache, key, size, value.data, value.size, options, change);
    freshet_buf_free(&value);
    return result;
}

static void op_change(freshet *cache, struct sim_op *op)
{
    freshet_write_options options = FRESHET_INIT(freshet_write_options);
    freshet_change change = FRESHET_INIT(freshet_change);
    freshet_key keys[2];
    freshet_result result;
    unsigned tag = op->key % 2;
    const char *tag_name = world_tag(tag);

    sim_sleep(op->before_ns);
    op_commit(op, op->key);
    if (op->kind == OP_INVALIDATE_TWO && op->other != op->key)
        op_commit(op, op->other);
    for (unsigned key = 0; key < world.plan->keys; key++)
        if (key != op->key && (op->kind == OP_CLEAR || (op->kind == OP_TAGS && world_tagged(key, tag)) ||
                               (op->kind == OP_SPACE && world_tagged(key, 2))))
            op_commit(op, key);
    sim_sleep(op->after_ns / 8);
    keys[0].data = world_key(op->key, &keys[0].size);
    keys[1].data = world_key(op->other, &keys[1].size);
    if (world.plan->sources)
        options.source_version = op->version[op->key];
    options.ttl_ms = op->kind == OP_PUT ? op->ttl_ms : 0;
    options.wait = op->strong ? FRESHET_WAIT_HOSTS : FRESHET_WAIT_NONE;
    options.wait_replicas = op->safe ? 1 : 0;
    if (op->kind == OP_PUT && world.plan->tags) {
        options.tags = &tag_name;
        options.tag_count = 1;
        options.name_space = world_tag(2);
    }
    switch (op->kind) {
    case OP_INVALIDATE_TWO:
        result = freshet_invalidate_many(cache, keys, 2, &options, &change);
        break;
    case OP_PUT:
        result = op_put(cache, op, &options, &change);
        break;
    case OP_CLEAR:
        result = freshet_clear(cache, &options, &change);
        break;
    case OP_TAGS:
        result = freshet_invalidate_tags(cache, &tag_name, 1, &options, &change);
        break;
    case OP_SPACE:
        result = freshet_clear_namespace(cache, world_tag(2), &options, &change);
        break;
    default:
        result = freshet_invalidate(cache, keys[0].data, keys[0].size, &options, &change);
        break;
    }
    check_changed(op, result, &change);
}

/* The safe way: guard, transaction, commit if there is time left, end.  `replica`: a second row; `remove`: not
 * prolonged. */
static void op_guard(freshet *cache, struct sim_op *op)
{
    freshet_guard_options options = FRESHET_INIT(freshet_guard_options);
    freshet_change change = FRESHET_INIT(freshet_change);
    freshet_guard *guard = NULL;
    freshet_write_options write = FRESHET_INIT(freshet_write_options);
    bool two = op->replica && op->other != op->key && !world.plan->sources; /* an end takes one source version */
    freshet_key keys[2];
    freshet_result result;
    int64_t asked, left;

    keys[0].data = world_key(op->key, &keys[0].size);
    keys[1].data = world_key(op->other, &keys[1].size);
    options.hold_ms = op->hold_ms;
    options.fixed = op->remove;
    options.wait = op->strong ? FRESHET_WAIT_HOSTS : FRESHET_WAIT_NONE;
    result = freshet_guard_begin(cache, keys, two ? 2 : 1, &options, &guard);
    world_tell("op %u: guard begun: %s", op->number, freshet_result_name(result));
    if (result != FRESHET_OK) {
        figures->guards_refused++;
        return;
    }
    sim_sleep(op->after_ns);
    asked = sim_now;
    left = freshet_guard_left(guard);
    if (left * SIM_MS > sim_now - asked + SIM_MS) {
        op_commit(op, op->key);
        check_guarded(op, op->key);
        if (two) {
            op_commit(op, op->other);
            check_guarded(op, op->other);
        }
    } else {
        world_tell("op %u: no time is left: rolled back", op->number);
    }
    sim_sleep(op->before_ns);
    if (world.plan->sources)
        write.source_version = op->version[op->key];
    result = freshet_guard_end(guard, &write, &change);
    check_guard(op, result, change.position != 0);
}

static void op_run(freshet *cache, struct sim_op *op)
{
    static const char *const names[OP_KINDS] = {"get", "load",  "watch", "invalidate",      "invalidate two",
                                                "put", "clear", "guard", "change a tag of", "change the namespace of"};

    sim_sleep(op->gap_ns);
    op->begun = sim_now;
    sim_self->op = op;
    world_tell("op %u: %s %u", op->number, names[op->kind], op->key);
    if (op->kind == OP_WATCH)
        op_watch(cache, op);
    else if (op->kind == OP_GUARD)
        op_guard(cache, op);
    else if (op->kind == OP_GET || op->kind == OP_LOAD)
        op_read(cache, op);
    else
        op_change(cache, op);
    sim_self->op = NULL;
}

struct client {
    struct sim_process *process;
    unsigned place, client;
};

static void *client_main(void *arg)
{
    struct client *client = arg;
    unsigned *next = &world.next_op[client->place][client->client];

    while (*next < world.plan->op_count) {
        struct sim_op *op = &world.plan->ops[(*next)++];

        if (op->place == client->place && op->client == client->client && !world.plan->left_out[op->number])
            op_run(client->process->cache, op);
    }
    world.done[client->place][client->client] = true;
    return NULL;
}

/* ---- processes ---- */

static freshet *process_open(void)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache = NULL;
    freshet_result result;

    options.name = "sim";
    options.dir = sim_self->process->host->path;
    options.tier_size = 1 << 20;
    options.partitions = world.plan->partitions;
    options.max_staleness_ms = world.plan->bound_ms;
    options.deadline_ms = world.plan->deadline_ms;
    options.policy = world.plan->serve_stale ? FRESHET_SERVE_STALE : FRESHET_SERVE_NONE;
    while ((result = freshet_open(&cache, &options)) != FRESHET_OK) {
        world_tell("open: %s: %s", freshet_result_name(result), freshet_error());
        sim_sleep(100 * SIM_MS);
    }
    return cache;
}

static void *process_main(void *arg)
{
    unsigned place = (unsigned)(uintptr_t)arg;
    freshet_join_options options = FRESHET_INIT(freshet_join_options);
    freshet_result result = FRESHET_OK;
    freshet *cache = process_open();

    options.keyring = world.keyring;
    options.connect_ms = 300;
    options.allow_evicting_redis = true;
    while (!world.plan->alone && (result = freshet_join(cache, "redis://127.0.0.1:6379", &options)) != FRESHET_OK &&
           result != FRESHET_UNPROVEN) {
        world_tell("join: %s: %s", freshet_result_name(result), freshet_error());
        sim_sleep(100 * SIM_MS);
    }
    world_tell("joined: %s", freshet_result_name(result));
    sim_self->process->cache = cache;
    for (unsigned i = 0; i < world.plan->clients; i++) {
        struct client *client = malloc(sizeof *client);

        *client = (struct client){sim_self->process, place, i};
        (void)sim_spawn(sim_self->process, client_main, client);
    }
    return NULL;
}

void world_start_process(unsigned place)
{
    struct sim_process *process = sim_process_start(&world.hosts[world.plan->place_host[place]], place);

    world.processes[place] = process;
    memset(world.done[place], 0, sizeof world.done[place]);
    world_tell("process %u starts on host %u", place, process->host->number);
    (void)sim_spawn(process, process_main, (void *)(uintptr_t)place);
}

/* ---- the end ---- */

static struct control *control_of(const struct sim_process *process)
{
    freshet *cache = process->cache;

    return cache ? &atomic_load(&cache->host)->control : NULL;
}

bool world_settled(void)
{
    for (unsigned i = 0; i < world.plan->places; i++) {
        for (unsigned client = 0; client < world.plan->clients; client++)
            if (!world.done[i][client])
                return false;
        const struct sim_process *process = world.processes[i];
        struct control *control = control_of(process);

        if (!control || control_outbox_count(control) > 0) /* waiting, or being sent */
            return false;
        for (uint32_t p = 0; !world.plan->alone && p < world.plan->partitions; p++) {
            int64_t proven = control_proven_ns(control, p), now = sim_boot_ns(process->host, sim_now);

            if (proven == 0 || now - proven >= world.plan->bound_ms * SIM_MS)
                return false;
        }
    }
    return true;
}

bool plan_has(enum fault_kind kind)
{
    for (unsigned i = 0; i < world.plan->fault_count; i++)
        if (world.plan->faults[i].kind == kind)
            return true;
    return false;
}

/* Every process must give what the database has, and keep it. */
static void *final_main(void *arg)
{
    struct sim_process *process = arg;
    /* What somebody who was killed or gave up has left lasts a while: a ticket 5 s. */
    unsigned tries = world.plan->attack || plan_has(FAULT_REDIS_CLOCK) ? 1 : 24;

    for (unsigned key = 0; key < world.plan->keys && !sim_over; key++) {
        freshet_answer answer = FRESHET_INIT(freshet_answer);
        freshet_buf buf = {0};
        freshet_result result;
        size_t size;
        freshet_load_options load = FRESHET_INIT(freshet_load_options);
        const char *name = world_key(key, &size), *tag = world_tag(key % 2);

        if (world.plan->tags) {
            load.tags = &tag;
            load.tag_count = 1;
            load.name_space = world_tag(2);
        }
        for (unsigned try = 0; try < tries; try++) {
            struct sim_op op = {.number = 1000 + key, .kind = OP_LOAD, .key = key, .begun = sim_now};
            struct loading_op loading = {&op, false};

            sim_self->op = &op;
            result = freshet_load(process->cache, name, size, &load, load_row, &loading, &buf, &answer);
            check_read(&op, result, &buf, &answer, loading.called);
            check_final(process->number, key, result, &buf);
            sim_self->op = NULL;
            if (sim_over || answer.source != FRESHET_FROM_LOADER)
                break;
            sim_sleep(300 * SIM_MS);
        }
        /* A clock that is put back makes guards and tickets last, ten minutes at most.  Who publishes can void a key
         * for as long as no change comes; no attacker is held to have caused misses. */
        if (!sim_over && answer.source == FRESHET_FROM_LOADER && !world.plan->attack && !plan_has(FAULT_REDIS_CLOCK))
            check_fail("liveness: all is calm, and process %u keeps nothing of key %u", process->number, key);
        freshet_buf_free(&buf);
    }
    world.finals_due--;
    return NULL;
}

static void world_step(const char *point)
{
    (void)point;
    sim_pause();
}

static void world_replicate(void *arg, uint64_t number)
{
    unsigned replica = 1 - world.master;

    (void)arg;
    (void)number;
    if (world.replicating && !redis_is_master(net.servers[replica].model) &&
        redis_master_of(net.servers[replica].model) == net.servers[world.master].model) {
        (void)redis_replicate(net.servers[replica].model, UINT64_MAX);
        redis_acknowledge(net.servers[replica].model);
        check_replicated(replica, world.master);
    }
    sim_at(sim_now + world.plan->replication_ns, world_replicate, NULL, 0);
}

static void fault_due(void *arg, uint64_t number)
{
    (void)number;
    if (!world.calm)
        world_fault(arg);
}

static void world_hosts(const char *place)
{
    struct sim_random random = sim_stream(world.plan->seed, 5);

    for (unsigned i = 0; i < world.plan->hosts; i++) {
        struct sim_host *host = &world.hosts[i];

        host->number = i;
        host->boot_base = sim_between(&random, 10, 100000) * SIM_S;
        host->drift_ppm = sim_between(&random, -500, 500);
        (void)snprintf(host->path, sizeof host->path, "%s/%u", place, i);
        host->dirfd = open(host->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void)unlinkat(host->dirfd, "control", 0);
    }
}

static void world_begin(const char *place)
{
    struct plan *plan = world.plan;

    net.latency_ns = plan->latency_ns;
    net.spike_chance = plan->spikes;
    net.duplicate_chance = plan->duplicates;
    net.lose_chance = plan->losses;
    net.kill_chance = plan->kills;
    world.replicating = true;
    world_hosts(place);
    for (unsigned key = 0; key < KEYS_MAX; key++) {
        world.commits[key][0] = (struct row_commit){-3600 * SIM_S, 1, false};
        world.commit_count[key] = 1;
    }
    for (unsigned i = 0; i < plan->places; i++)
        world_start_process(i);
    for (unsigned i = 0; i < plan->fault_count; i++)
        if (!plan->left_out[plan->faults[i].number])
            sim_at(plan->faults[i].at, fault_due, &plan->faults[i], 0);
    sim_at(0, world_replicate, NULL, 0);
    step_hook = world_step;
    if (world.telling)
        freshet_log(world_hear, NULL, FRESHET_DEBUG);
}

/* All is calm: wait for rest, then look at everything. */
static void world_end(void)
{
    int64_t until = sim_now + SETTLE_NS;

    while (!sim_over && !world_settled() && sim_now < until)
        sim_run(sim_now + LOOK_NS);
    if (sim_over || (world.plan->attack == ATTACK_WRITE && !world_settled()))
        return; /* who writes may hold back what he likes */
    if (!world_settled()) {
        check_fail("liveness: all is calm for %lld s, and not everything is fresh and sent",
                   (long long)(SETTLE_NS / SIM_S));
        return;
    }
    sim_run(sim_now + 2 * world.plan->bound_ms * SIM_MS); /* the last change may be served that long */
    world_tell("all is calm and settled");
    world.finals_due = world.plan->places;
    for (unsigned i = 0; i < world.plan->places; i++)
        (void)sim_spawn(world.processes[i], final_main, world.processes[i]);
    until = sim_now + SETTLE_NS;
    while (!sim_over && world.finals_due > 0 && sim_now < until)
        sim_run(sim_now + LOOK_NS);
    if (!sim_over && world.finals_due > 0)
        check_fail("liveness: all is calm, and a load does not end");
}

static struct redis_lua *lua; /* the scripts, compiled: the same in every run */

void world_prepare(void)
{
    lua = redis_lua_open();
    net_start(0, lua, NULL);
    for (unsigned i = 0; i < SCRIPT_ALL; i++) {
        const struct script_text *text = &script_texts[i];
        struct redis_reply reply = {0};

        redis_execute(net.servers[0].model, 1, 3, (const char *const[]){"SCRIPT", "LOAD", text->text},
                      (const size_t[]){6, 4, text->size}, &reply);
        redis_reply_free(&reply);
    }
    redis_close(net.world);
}

void world_run(struct plan *plan, bool telling, const char *place, const char *keyring)
{
    world = (struct world){.plan = plan, .telling = telling, .keyring = keyring};
    sim_start(plan->seed, plan->pauses);
    libc_start(plan->seed);
    check_start();
    attack_start(plan->seed);
    redis_lua_hoard(lua);
    net_start(plan->seed, lua, check_ran);
    world_begin(place);
    sim_run(plan->ends);
    world_calm();
    world_end();
    figures->runs++;
    figures->trace = sim_trace;
}
