/*
 * check.c - the true history, and what every answer must be worth by it.
 *
 * The history is what Redis's servers ran: each confirmed change with its true time, and for each epoch which changes
 * are its own or lie before it.  A value knows how it came to be: a load began at a time, a put was run at one.  A
 * change voids every value that came to be before it.  So:
 *
 *   P1  nothing that voids an answer was confirmed in the page's history before the time that the answer itself proves
 *       (judged_at - age_bound), and that time is within the bound
 *   P2  no fill is taken by Redis whose load began before a change that this server has run; and after all is calm
 *       every process gives what the database has
 *   P3  after a change came back with OK nobody on its host gets an older version; after QUEUED nobody gets one from
 *       the tier or from Redis
 *   P4  after a strong change came back with OK nobody anywhere in the history gets an older version
 *   P6  a value is one that was made for this very key
 *
 * Times are the simulated world's true ones; a host's clock readings are turned into them.
 */
#include "world.h"

#include <answer.h>
#include <resp.h>
#include <scripts.h>
#include <seal.h>
#include <servable.h>

#include <host.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHANGES_MAX 2048u
#define VALUES_MAX  4096u
#define EPOCHS_MAX  128u
#define WORDS_MAX   2048u

struct change {
    int64_t at;
    uint64_t epoch, position, offset;
    uint32_t keys; /* bits; of a clear: all of the partition's */
};

struct value {
    unsigned key;
    bool put, absent, ran;
    int64_t filled;   /* when Redis took a load's */
    unsigned server;  /* which one */
    int64_t returned; /* when the put that brought it had come back; 0: not yet */
    uint64_t version;
    int64_t born; /* a load: when it began; a put: when Redis ran it */
    uint64_t sealed_version, sealed_writer;
};

struct epoch {
    uint64_t id;
    unsigned *before; /* the changes that its server had when it began */
    unsigned count;
};

struct guard { /* as Redis has it */
    uint8_t id[16];
    uint32_t keys;
    uint64_t epoch;
    int64_t until_us; /* of Redis's time */
};

struct history { /* what a server has run or copied */
    unsigned changes[CHANGES_MAX];
    unsigned count, base; /* below base: before its last start */
};

struct word { /* what a change's caller was told */
    int64_t at, ran;
    unsigned host, key;
    uint64_t version;
    bool queued, strong;
    unsigned change; /* its number + 1 */
    char *token;     /* NULL: none */
};

static struct {
    struct change changes[CHANGES_MAX];
    unsigned change_count;
    struct value values[VALUES_MAX];
    unsigned value_count;
    struct epoch epochs[EPOCHS_MAX];
    unsigned epoch_count;
    struct history servers[NET_SERVERS];
    struct word words[WORDS_MAX];
    unsigned word_count;
    struct guard guards[EVENTS_MAX];
    unsigned guard_count;
    int64_t resent[KEYS_MAX]; /* when a change of the key was last run that an outbox had sent */
    uint64_t announced[KEYS_MAX];
    bool announced_put[KEYS_MAX]; /* by a put, which has left an entry with its source version */
    uint64_t newest[FRESHET_PARTITIONS_MAX];
    uint64_t guarded[KEYS_MAX]; /* committed under a guard */
    char names[KEYS_MAX][33];   /* hex, as in Redis */
    unsigned partitions[KEYS_MAX];
    uint8_t tags[TAGS][16];
    bool lost; /* source versions that Redis had seen may be gone */
    struct resp_reader *reader;
} truth;

void check_fail(const char *format, ...)
{
    va_list arguments;

    if (sim_over)
        return;
    va_start(arguments, format);
    (void)vsnprintf(figures->why, sizeof figures->why, format, arguments);
    va_end(arguments);
    figures->failed = true;
    world_tell("VIOLATION %s", figures->why);
    sim_over = true;
    if (sim_self)
        (void)sim_wait(SIM_NEVER);
}

void check_start(void)
{
    static const char digits[] = "0123456789abcdef";

    memset(&truth, 0, sizeof truth);
    truth.value_count = 1; /* 0: none */
    truth.reader = resp_reader_open(1 << 20);
    for (unsigned tag = 0; tag < TAGS; tag++)
        remote_tag_hash("sim", tag == 2, world_tag(tag), strlen(world_tag(tag)), truth.tags[tag]);
    for (unsigned key = 0; key < KEYS_MAX; key++) {
        uint8_t hash[16];
        size_t size;
        const char *name = world_key(key, &size);

        remote_hash("sim", name, size, hash);
        truth.partitions[key] = remote_partition(hash, world.plan->partitions);
        for (unsigned i = 0; i < 16; i++) {
            truth.names[key][2 * i] = digits[hash[i] >> 4];
            truth.names[key][2 * i + 1] = digits[hash[i] & 15];
        }
    }
}

/* ---- values ---- */

unsigned check_value(unsigned key, bool put, struct sim_op *op)
{
    (void)op;
    if (truth.value_count == VALUES_MAX)
        abort();
    truth.values[truth.value_count] = (struct value){.key = key, .put = put, .born = put ? SIM_NEVER : sim_now};
    return truth.value_count++;
}

void check_value_is(unsigned token, uint64_t version, bool absent)
{
    truth.values[token].version = version;
    truth.values[token].absent = absent;
}

freshet_result __real_seal_value(struct keyring *keyring, const struct seal_facts *facts, const void *value,
                                 size_t size, uint8_t *ret_sealed);
freshet_result __wrap_seal_value(struct keyring *keyring, const struct seal_facts *facts, const void *value,
                                 size_t size, uint8_t *ret_sealed);
freshet_result __wrap_seal_value(struct keyring *keyring, const struct seal_facts *facts, const void *value,
                                 size_t size, uint8_t *ret_sealed)
{
    if (sim_self->op && sim_self->op->token) {
        truth.values[sim_self->op->token].sealed_version = facts->version;
        truth.values[sim_self->op->token].sealed_writer = facts->writer;
    }
    return __real_seal_value(keyring, facts, value, size, ret_sealed);
}

/* The judge's last verdict, and the page's epoch around it. */
enum verdict __real_servable(const struct record *record, const struct control *control, const struct key *key,
                             int64_t bound_ns, int64_t proof_ns, struct judgement *ret_judgement);
enum verdict __wrap_servable(const struct record *record, const struct control *control, const struct key *key,
                             int64_t bound_ns, int64_t proof_ns, struct judgement *ret_judgement);
enum verdict __wrap_servable(const struct record *record, const struct control *control, const struct key *key,
                             int64_t bound_ns, int64_t proof_ns, struct judgement *ret_judgement)
{
    const _Atomic uint64_t *epoch = &control->parts[key->partition].epoch;
    enum verdict verdict;

    sim_self->page_before = atomic_load(epoch);
    verdict = __real_servable(record, control, key, bound_ns, proof_ns, ret_judgement);
    sim_self->judged = (int)verdict;
    sim_self->judged_epoch = record->epoch;
    sim_self->judged_position = record->as_of;
    sim_self->page_after = atomic_load(epoch);
    return verdict;
}

/* ---- the history ---- */

static struct epoch *epoch_find(uint64_t id)
{
    for (unsigned i = 0; i < truth.epoch_count; i++)
        if (truth.epochs[i].id == id)
            return &truth.epochs[i];
    return NULL;
}

/* A server has answered in this epoch; if it is a new one, what came before belongs to it. */
static void epoch_met(unsigned server, uint64_t id)
{
    const struct history *history = &truth.servers[server];
    struct epoch *epoch;

    if (epoch_find(id) || truth.epoch_count == EPOCHS_MAX)
        return;
    epoch = &truth.epochs[truth.epoch_count++];
    *epoch = (struct epoch){.id = id, .count = history->count};
    epoch->before = malloc((history->count + 1) * sizeof *epoch->before);
    memcpy(epoch->before, history->changes, history->count * sizeof *epoch->before);
    figures->epochs++;
    if (truth.epoch_count > world.plan->partitions)
        truth.lost = true;
    world_tell("server %u begins epoch %016llx", server, (unsigned long long)id);
}

/* Is this change in that epoch's history? */
static bool change_counts(unsigned number, uint64_t id)
{
    const struct epoch *epoch = epoch_find(id);

    if (truth.changes[number].epoch == id)
        return true;
    for (unsigned i = 0; epoch && i < epoch->count; i++)
        if (epoch->before[i] == number)
            return true;
    return false;
}

void check_replicated(unsigned replica, unsigned master)
{
    struct history *to = &truth.servers[replica];
    const struct history *from = &truth.servers[master];
    uint64_t offset = redis_offset(net.servers[replica].model);

    to->count = to->base = 0;
    for (unsigned i = 0; i < from->count; i++)
        if (i < from->base || truth.changes[from->changes[i]].offset <= offset)
            to->changes[to->count++] = from->changes[i];
}

void check_rebooted(unsigned server)
{
    truth.servers[server].base = truth.servers[server].count;
}

static unsigned key_named(const char *name, size_t size)
{
    for (unsigned key = 0; key < world.plan->keys; key++)
        if (size > 32 && memcmp(name + size - 32, truth.names[key], 32) == 0)
            return key;
    return KEYS_MAX;
}

static void ran_change(unsigned server, struct sim_op *op, const struct answer *said, uint32_t keys)
{
    struct history *history = &truth.servers[server];
    unsigned number = truth.change_count++;

    if (number == CHANGES_MAX)
        abort();
    truth.lost |= op && op->kind == OP_CLEAR; /* which lets source versions begin again */
    truth.changes[number] = (struct change){.at = sim_now,
                                            .epoch = said->epoch,
                                            .position = said->position,
                                            .offset = redis_offset(net.servers[server].model),
                                            .keys = keys};
    history->changes[history->count++] = number;
    for (unsigned key = 0; key < KEYS_MAX; key++)
        if (keys >> key & 1)
            truth.newest[truth.partitions[key]] = said->position;
    for (unsigned key = 0; key < KEYS_MAX; key++)
        if (keys >> key & 1) {
            world_tell("server %u runs change %u of key %u at %llu%s", server, number, key,
                       (unsigned long long)said->position, op ? "" : " (sent again)");
            if (!op)
                truth.resent[key] = sim_now;
            if (op && op->version[key]) {
                op->ran[key] = sim_now;
                op->change[key] = number + 1;
            }
        }
    sim_note(said->position);
}

/* A guard's begin or end, or a put that met one: an invalidation. */
static void ran_guard(unsigned server, struct sim_op *op, const struct answer *said, uint32_t keys, bool guard)
{
    ran_change(server, op, said, keys);
    for (unsigned key = 0; op && guard && key < KEYS_MAX; key++)
        if ((keys >> key & 1) && !op->guarded[key]) {
            op->guarded[key] = sim_now;
            op->begun_by[key] = truth.change_count;
            op->server = server;
        }
}

/* Follow the guards: begun, prolonged while they last, ended. */
static void guard_ran(unsigned server, enum script script, const struct answer *said, uint32_t keys,
                      const char *const *argv)
{
    const char *id = argv[script == SCRIPT_GUARD ? 4 : 1];
    int64_t now_us = redis_time_us(net.servers[server].model);
    struct guard *guard = truth.guards;

    const void *held = NULL;
    size_t size = 0;

    while (guard < &truth.guards[truth.guard_count] && (memcmp(guard->id, id, 16) != 0 || guard->epoch != said->epoch))
        guard++;
    if ((script == SCRIPT_HOLD || memcmp(argv[3], "end", 3) == 0) && answer_bytes(said, 0, &held, &size) && size == 1 &&
        *(const char *)held == '1' && world.plan->attack != ATTACK_WRITE &&
        (guard == &truth.guards[truth.guard_count] || guard->until_us <= now_us))
        check_fail("guards: Redis says that a guard was held, which %s",
                   guard == &truth.guards[truth.guard_count] ? "this history does not know" : "had run out");
    if (script == SCRIPT_GUARD && memcmp(argv[3], "begin", 5) == 0) {
        if (guard == &truth.guards[EVENTS_MAX])
            return;
        truth.guard_count += guard == &truth.guards[truth.guard_count];
        *guard = (struct guard){.keys = keys, .epoch = said->epoch, .until_us = now_us + atol(argv[5]) * 1000};
        memcpy(guard->id, id, 16);
    } else if (guard < &truth.guards[truth.guard_count]) {
        if (script == SCRIPT_GUARD)
            guard->keys &= ~keys;
        else if (guard->until_us > now_us)
            guard->until_us = now_us + atol(argv[2]) * 1000;
    }
}

/* Nothing is stored on a key, and nobody gets the right to, while somebody guards it. */
static void guard_heeded(unsigned server, const struct sim_op *op, const struct answer *said, const char *what)
{
    int64_t now_us = redis_time_us(net.servers[server].model);

    if (world.plan->attack == ATTACK_WRITE || plan_has(FAULT_EVICT) || plan_has(FAULT_REDIS_CLOCK))
        return;
    for (unsigned i = 0; i < truth.guard_count; i++)
        if (truth.guards[i].epoch == said->epoch && (truth.guards[i].keys >> op->key & 1) &&
            truth.guards[i].until_us > now_us)
            check_fail("guards: op %u's %s of key %u is taken while somebody guards it", op->number, what, op->key);
}

static void ran_put(unsigned server, struct sim_op *op)
{
    struct value *value = &truth.values[op->token];

    (void)server;
    value->born = sim_now;
    value->ran = true;
    for (unsigned i = 1;
         world.plan->sources && !truth.lost && world.plan->attack != ATTACK_WRITE && i < truth.value_count; i++)
        if (truth.values[i].key == value->key && truth.values[i].ran && truth.values[i].version > value->version)
            check_fail("source versions: Redis takes version %llu of key %u after version %llu",
                       (unsigned long long)value->version, value->key, (unsigned long long)truth.values[i].version);
}

static void ran_fill(unsigned server, struct sim_op *op, const struct answer *said)
{
    const struct history *history = &truth.servers[server];
    struct value *value = &truth.values[op->token];

    (void)said;
    value->ran = true;
    value->filled = sim_now;
    value->server = server;
    figures->fills++;
    for (unsigned i = 0; i < history->count; i++) {
        const struct change *change = &truth.changes[history->changes[i]];

        if ((change->keys >> value->key & 1) && change->at > value->born && world.plan->attack != ATTACK_WRITE)
            check_fail("P2: op %u's load of key %u began at %.3f ms, was overtaken by change %u at %.3f ms, and its "
                       "fill was taken at %.3f ms",
                       op->number, value->key, (double)value->born / 1e6, history->changes[i], (double)change->at / 1e6,
                       (double)sim_now / 1e6);
    }
}

static uint32_t keys_changed(const char *const *argv, const size_t *sizes, long count);

static void ran_guards(unsigned server, enum script script, const struct sim_op *op, const struct answer *said,
                       const char *const *argv, const size_t *sizes, long count)
{
    if (said->status == ANSWER_OK && script == SCRIPT_GUARD)
        guard_ran(server, script, said, keys_changed(argv, sizes, count), argv + 3 + count);
    else if (said->status == ANSWER_OK && script == SCRIPT_HOLD)
        guard_ran(server, script, said, 0, argv + 3 + count);
    else if (op && said->status == ANSWER_OK && script == SCRIPT_PUT)
        guard_heeded(server, op, said, "put");
    else if (op && said->status == ANSWER_OK && script == SCRIPT_FILL &&
             !(sizes[3 + count + 2] == 1 && argv[3 + count + 2][0] == '0'))
        guard_heeded(server, op, said, "fill");
    else if (op && said->status == ANSWER_TICKET)
        guard_heeded(server, op, said, "asking for a ticket");
}

static enum script script_named(int argc, const char *const *argv, const size_t *sizes)
{
    if (argc < 4 || sizes[0] < 4 || memcmp(argv[0], "EVAL", 4) != 0)
        return SCRIPT_ALL;
    for (unsigned i = 0; i < SCRIPT_ALL; i++) {
        const struct script_text *text = &script_texts[i];

        if (sizes[0] == 7 ? sizes[1] == strlen(text->sha1) && memcmp(argv[1], text->sha1, sizes[1]) == 0
                          : sizes[1] == text->size && memcmp(argv[1], text->text, sizes[1]) == 0)
            return (enum script)i;
    }
    return SCRIPT_ALL;
}

/* Which keys does a tag of this message void? */
static bool tags_change(const char *message, size_t size, unsigned key)
{
    for (unsigned tag = 0; tag < TAGS; tag++)
        if (world_tagged(key, tag) && memmem(message, size, truth.tags[tag], 16))
            return true;
    return false;
}

/* The keys that a change's record names are of; a clear's are all of its partition, a tag's those that have it. */
static uint32_t keys_changed(const char *const *argv, const size_t *sizes, long count)
{
    bool tags = sizes[3 + count + 3] == 4 && memcmp(argv[3 + count + 3], "tags", 4) == 0;
    uint32_t keys = 0;

    for (long i = 2; i < count && !tags; i++)
        keys |= 1u << key_named(argv[3 + i], sizes[3 + i]);
    if (count > 2 && !tags)
        return keys & ((1u << KEYS_MAX) - 1);
    for (unsigned key = 0; key < world.plan->keys; key++) {
        char part[16];

        (void)snprintf(part, sizeof part, ":%u}:", truth.partitions[key]);
        if (memmem(argv[3], sizes[3], part, strlen(part)) &&
            (!tags || tags_change(argv[3 + count + 2], sizes[3 + count + 2], key)))
            keys |= 1u << key;
    }
    return keys;
}

void check_ran(unsigned server, struct sim_op *op, int argc, const char *const *argv, const size_t *sizes,
               const struct redis_reply *reply)
{
    enum script script = script_named(argc, argv, sizes);
    struct resp *said = NULL;
    struct answer answer;
    long keys;

    figures->steps++;
    sim_note((uint64_t)sim_now ^ (uint64_t)argc << 56 ^ reply->size);
    if (script == SCRIPT_ALL || resp_reader_feed(truth.reader, reply->bytes, reply->size) != FRESHET_OK ||
        resp_reader_next(truth.reader, &said) != FRESHET_OK || !said)
        return;
    keys = strtol(argv[2], NULL, 10);
    if (answer_read(&answer, said) && answer.epoch != 0) {
        epoch_met(server, answer.epoch);
        if ((script == SCRIPT_CHANGE || script == SCRIPT_PUT) && answer.status == ANSWER_OK && world.plan->attack)
            attack_sees(argv[3 + keys + 2], sizes[3 + keys + 2]);
        if (script == SCRIPT_CHANGE && answer.status == ANSWER_OK)
            ran_change(server, op, &answer, keys_changed(argv, sizes, keys));
        if ((script == SCRIPT_GUARD && answer.status == ANSWER_OK) ||
            (script == SCRIPT_PUT && answer.status == ANSWER_GUARDED))
            ran_guard(server, op, &answer, keys_changed(argv, sizes, keys), script == SCRIPT_GUARD);
        ran_guards(server, script, op, &answer, argv, sizes, keys);
        if (script == SCRIPT_PUT && answer.status == ANSWER_OK) {
            ran_change(server, op, &answer, keys_changed(argv, sizes, keys));
            ran_put(server, op);
        }
        if (script == SCRIPT_FILL && answer.status == ANSWER_OK && op && op->token &&
            !(sizes[3 + keys + 2] == 1 && argv[3 + keys + 2][0] == '0'))
            ran_fill(server, op, &answer);
        figures->refused += script == SCRIPT_FILL && answer.status == ANSWER_REFUSED;
    }
    resp_free(said);
}

/* ---- judging ---- */

/* Which value is it?  0: unknown (an absence that nothing tells apart). */
static unsigned value_of(const struct sim_op *op, freshet_result result, const freshet_buf *buf,
                         const freshet_answer *answer, bool loaded)
{
    char text[200];
    unsigned key, token = 0;
    unsigned long long version;

    if (result == FRESHET_ABSENT) {
        if (loaded && answer->source == FRESHET_FROM_LOADER)
            return op->token;
        for (unsigned i = 1; answer->version && i < truth.value_count; i++)
            if (truth.values[i].sealed_version == answer->version && truth.values[i].sealed_writer == answer->writer &&
                truth.values[i].key == op->key)
                token = i;
        if (token && !truth.values[token].absent)
            check_fail("P6: op %u is told that there is no %u, which nobody had said", op->number, op->key);
        return token;
    }
    (void)snprintf(text, sizeof text, "%.*s", (int)(buf->size < sizeof text ? buf->size : sizeof text - 1),
                   buf->data ? (const char *)buf->data : "");
    if (sscanf(text, "key %u version %llu token %u ", &key, &version, &token) != 3 || token == 0 ||
        token >= truth.value_count || key != op->key || truth.values[token].key != op->key ||
        truth.values[token].version != version || truth.values[token].absent)
        check_fail("P6: op %u gets for key %u what was never made for it: %.80s", op->number, op->key, text);
    return token;
}

/* The first change in the epoch's history that voids the value; NULL: none. */
static const struct change *first_voider(const struct value *value, uint64_t epoch)
{
    const struct change *first = NULL;

    for (unsigned i = 0; i < truth.change_count; i++)
        if ((truth.changes[i].keys >> value->key & 1) && truth.changes[i].at > value->born &&
            (!first || truth.changes[i].at < first->at) && change_counts(i, epoch))
            first = &truth.changes[i];
    return first;
}

const char *check_token(struct sim_op *op)
{
    op->word = 0;
    for (unsigned i = 0; i < truth.word_count; i++)
        if (truth.words[i].key == op->key && truth.words[i].token)
            op->word = i + 1;
    figures->followed += op->word != 0;
    return op->word ? truth.words[op->word - 1].token : NULL;
}

static void check_bound(const struct sim_op *op, unsigned token, const freshet_answer *answer)
{
    const struct sim_host *host = sim_self->process->host;
    uint32_t bound_ms = op->bound_ms ? op->bound_ms : world.plan->bound_ms;
    uint64_t epoch = sim_self->judged_epoch;
    int64_t age_ms = answer->source == FRESHET_FROM_LOADER ? bound_ms : answer->age_bound_ms, at, since;
    const struct change *change;

    if (age_ms < 0 || age_ms > bound_ms)
        check_fail("P1: op %u gets an answer of key %u that is proven for %lld ms, beyond its bound of %u ms",
                   op->number, op->key, (long long)age_ms, bound_ms);
    if (answer->source == FRESHET_FROM_LOADER)
        epoch = sim_self->judged_epoch = atomic_load(
            &atomic_load(&((freshet *)sim_self->process->cache)->host)->control.parts[truth.partitions[op->key]].epoch);
    else if (epoch != sim_self->page_before && epoch != sim_self->page_after)
        epoch = sim_self->page_after;
    at = sim_true_ns(host, answer->judged_at_ns);
    since = sim_true_ns(host, answer->judged_at_ns - age_ms * SIM_MS);
    change = first_voider(&truth.values[token], epoch);
    if (!change)
        return;
    if (op->latest && change->at < op->begun)
        check_fail("latest: op %u asks for the latest of key %u at %.3f ms and gets what was voided at %.3f ms",
                   op->number, op->key, (double)op->begun / 1e6, (double)change->at / 1e6);
    figures->looked++;
    if (at > change->at) {
        uint64_t permille = (uint64_t)((at - change->at) / (bound_ms * 1000));

        if (permille > figures->oldest_permille)
            figures->oldest_permille = permille;
    }
    if (change->at < since)
        check_fail("P1: op %u gets version %llu of key %u from %s at %.3f ms, proven for %lld ms (bound %u ms); it was "
                   "voided at %.3f ms",
                   op->number, (unsigned long long)truth.values[token].version, op->key,
                   answer->source == FRESHET_FROM_TIER    ? "the tier"
                   : answer->source == FRESHET_FROM_REDIS ? "Redis"
                                                          : "a load it joined",
                   (double)at / 1e6, (long long)age_ms, bound_ms, (double)change->at / 1e6);
}

/* A put that is under way may come before or after another change, and then its older version stays (source versions
 * and guards are against that).  One that had come back may not come after what was committed later. */
static bool put_may_stay(const struct value *value, uint64_t version)
{
    for (unsigned i = 0; i < world.commit_count[value->key]; i++)
        if (world.commits[value->key][i].version == version)
            return value->put && (!value->returned || world.commits[value->key][i].at <= value->returned);
    return false;
}

/* Is this word of another host's nothing that this answer must heed?  (P4)  A loader here is not bound by it, an answer
 * that says it is stale neither; nor, where Redis is split in two, one of the other history. */
static bool word_is_far(const struct word *word, freshet_result result, const freshet_answer *answer, bool loaded)
{
    uint64_t epoch = sim_self->judged_epoch;

    if (!word->strong || word->queued || !word->change || result == FRESHET_STALE)
        return true;
    return (answer->source == FRESHET_FROM_LOADER && loaded) || !change_counts(word->change - 1, epoch);
}

/* P3: what this host was told before the call began; P4: what any was, of a strong write. */
static void check_words(const struct sim_op *op, unsigned token, freshet_result result, const freshet_answer *answer,
                        bool loaded)
{
    const struct value *value = &truth.values[token];

    for (unsigned i = 0; i < truth.word_count; i++) {
        const struct word *word = &truth.words[i];
        bool told = op->word == i + 1, ours = told || word->host == sim_self->process->host->number;

        /* What comes back in the very moment that we begin (both were stopped) does not come before. */
        if (word->key != op->key || word->at > op->begun || (!told && word->at == op->begun) ||
            value->version >= word->version ||
            /* at the same moment: Redis was stopped, and what it ran then is in no order of time */
            (value->put && value->born >= word->ran && put_may_stay(value, word->version)) ||
            (ours && !told && word->queued && answer->source == FRESHET_FROM_LOADER) ||
            (!ours && word_is_far(word, result, answer, loaded)))
            continue;
        check_fail("%s: op %u gets version %llu of key %u from %s at %.3f ms; a %schange to version %llu had come back "
                   "with %s on host %u at %.3f ms",
                   told   ? "P3 (token)"
                   : ours ? "P3"
                          : "P4",
                   op->number, (unsigned long long)value->version, op->key,
                   answer->source == FRESHET_FROM_TIER    ? "the tier"
                   : answer->source == FRESHET_FROM_REDIS ? "Redis"
                                                          : "a loader",
                   (double)sim_now / 1e6, word->strong ? "strong " : "", (unsigned long long)word->version,
                   word->queued ? "QUEUED" : "OK", word->host, (double)word->at / 1e6);
    }
}

void check_read(struct sim_op *op, freshet_result result, const freshet_buf *buf, const freshet_answer *answer,
                bool loaded)
{
    unsigned token;

    world_tell("op %u: %s%s%.*s (source %d, age %lld ms, as-of %llu)", op->number, freshet_result_name(result),
               result == FRESHET_OK ? ", " : "", result == FRESHET_OK ? 30 : 0,
               buf->data ? (const char *)buf->data : "", (int)answer->source, (long long)answer->age_bound_ms,
               (unsigned long long)answer->position);
    sim_note((uint64_t)result << 32 ^ (uint64_t)answer->source ^ answer->position);
    figures->reads++;
    if (result == FRESHET_MISS)
        figures->misses++;
    if (result != FRESHET_OK && result != FRESHET_ABSENT && result != FRESHET_STALE)
        return;
    figures->latest += op->latest;
    figures->absents += result == FRESHET_ABSENT;
    figures->stale += result == FRESHET_STALE;
    figures->tier += answer->source == FRESHET_FROM_TIER;
    figures->redis += answer->source == FRESHET_FROM_REDIS;
    figures->loader += answer->source == FRESHET_FROM_LOADER && loaded;
    figures->joined += answer->source == FRESHET_FROM_LOADER && !loaded;
    token = value_of(op, result, buf, answer, loaded);
    if (sim_over || token == 0 || world.plan->attack == ATTACK_WRITE) /* who writes may bring older answers back */
        return;
    if (result != FRESHET_STALE && !(answer->source == FRESHET_FROM_LOADER && loaded))
        check_bound(op, token, answer);
    check_words(op, token, result, answer, loaded);
}

/* When was the change run, of which its caller knows no more than that it waits?  Its outbox may have been quicker than
 * its return. */
static int64_t ran_meanwhile(const struct sim_op *op, unsigned key)
{
    return truth.resent[key] > op->begun ? truth.resent[key] : sim_now;
}

/* This host was told that its change is done, or waits. */
static void word_given(const struct sim_op *op, bool queued, const char *token)
{
    for (unsigned key = 0; key < world.plan->keys && truth.word_count < WORDS_MAX; key++) {
        if (!op->version[key])
            continue;
        truth.words[truth.word_count++] = (struct word){
            .at = sim_now,
            .ran = op->ran[key] ? op->ran[key] : ran_meanwhile(op, key),
            .host = sim_self->process->host->number,
            .key = key,
            .version = op->version[key],
            .queued = queued,
            .strong = op->strong && !queued && op->kind != OP_GUARD,
            .change = op->change[key],
            .token = token && token[0] ? strdup(token) : NULL,
        };
        if (op->version[key] > truth.announced[key]) {
            truth.announced[key] = op->version[key];
            truth.announced_put[key] = op->kind == OP_PUT;
        }
    }
}

/* P4's figures; and what a replica is said to have, it has. */
static void check_waited(const struct sim_op *op, freshet_result result, const freshet_change *change)
{
    const struct history *history = &truth.servers[1 - world.master];
    bool there = false;

    if (result != FRESHET_OK)
        return;
    figures->strong += op->strong && !world.plan->alone;
    figures->waited_out += change->hosts_waited_out;
    if (!op->safe || world.plan->alone || change->replicas == 0 || !op->change[op->key])
        return;
    figures->safe++;
    for (unsigned i = 0; i < history->count; i++)
        there |= history->changes[i] == op->change[op->key] - 1;
    for (unsigned i = 0; i < world.plan->fault_count; i++)
        there |= world.plan->faults[i].kind == FAULT_FAILOVER;
    if (!there)
        check_fail("replicas: op %u's change is said to be at %u of them, and is at none", op->number,
                   change->replicas);
}

void check_changed(struct sim_op *op, freshet_result result, const freshet_change *change)
{
    world_tell("op %u: %s", op->number, freshet_result_name(result));
    sim_note((uint64_t)result << 40 ^ op->number);
    figures->changes++;
    figures->puts += op->kind == OP_PUT;
    figures->clears += op->kind == OP_CLEAR;
    figures->queued += result == FRESHET_QUEUED;
    figures->outdated += result == FRESHET_OUTDATED;
    if (op->kind == OP_PUT)
        truth.values[op->token].returned = sim_now;
    if (result == FRESHET_OUTDATED)
        return;
    check_waited(op, result, change);
    if (result != FRESHET_OK && result != FRESHET_QUEUED && result != FRESHET_GUARDED && result != FRESHET_UNREPLICATED)
        check_fail("op %u: a change came back with %s (%s)", op->number, freshet_result_name(result), freshet_error());
    if (world.plan->alone && op->kind == OP_PUT) /* nobody else tells */
        truth.values[op->token].born = sim_now;
    word_given(op, result == FRESHET_QUEUED, change->token);
}

void check_guarded(const struct sim_op *op, unsigned key)
{
    uint64_t version = op->version[key];

    for (unsigned i = 0; i < world.plan->fault_count; i++)
        switch (world.plan->faults[i].kind) {
        case FAULT_FAILOVER:
        case FAULT_REBOOT:
        case FAULT_FLUSH:
        case FAULT_EVICT:
        case FAULT_REDIS_CLOCK:
            return; /* a guard may be lost by these, which its end would tell; but a holder may die before it */
        default:
            break;
        }
    if (version > truth.guarded[key])
        truth.guarded[key] = version;
    /* Nobody served the key any more when the guard began: from the commit on nobody gets the old row, anywhere. */
    if (op->strong && !world.plan->alone && truth.word_count < WORDS_MAX)
        truth.words[truth.word_count++] = (struct word){
            .at = sim_now,
            .ran = sim_now,
            .host = SIM_HOSTS_MAX,
            .key = key,
            .version = version,
            .strong = true,
            .change = op->begun_by[key],
        };
}

/* Held from begin to end: nothing that was loaded before the commit may have been kept in between. */
static void guard_held(const struct sim_op *op)
{
    if (world.plan->attack == ATTACK_WRITE) /* who writes can take a guard off and put it on again */
        return;
    for (unsigned i = 1; i < truth.value_count; i++) {
        const struct value *value = &truth.values[i];

        if (op->version[value->key] && !value->put && value->ran && value->version < op->version[value->key] &&
            value->server == op->server && value->filled > op->guarded[value->key] &&
            value->filled < op->ran[value->key])
            check_fail("guards: op %u's was held, but version %llu of key %u was filled at %.3f ms, after it began at "
                       "%.3f ms",
                       op->number, (unsigned long long)value->version, value->key, (double)value->filled / 1e6,
                       (double)op->guarded[value->key] / 1e6);
    }
}

void check_guard(struct sim_op *op, freshet_result result, bool sent)
{
    world_tell("op %u: guard ended: %s", op->number, freshet_result_name(result));
    sim_note((uint64_t)result << 41 ^ op->number);
    figures->guards++;
    figures->guards_lost += result == FRESHET_GUARD_LOST;
    if (result != FRESHET_OK && result != FRESHET_GUARD_LOST && result != FRESHET_QUEUED)
        check_fail("op %u: a guard's end came back with %s (%s)", op->number, freshet_result_name(result),
                   freshet_error());
    if (result == FRESHET_OK && !world.plan->alone)
        guard_held(op);
    word_given(op, !sent, NULL);
}

uint64_t check_position(unsigned partition)
{
    return truth.newest[partition];
}

uint64_t check_epoch(void)
{
    return truth.epoch_count ? truth.epochs[truth.epoch_count - 1].id : 0;
}

/* Must the source version of the newest change be known where puts are judged by it?  Without a fleet an entry has it,
 * and an invalidation leaves none. */
static bool sources_known(unsigned key)
{
    return world.plan->sources && !truth.lost && (!world.plan->alone || truth.announced_put[key]);
}

void check_final(unsigned place, unsigned key, freshet_result result, const freshet_buf *buf)
{
    unsigned long long version = 0;
    unsigned token = 0;

    if (result == FRESHET_ABSENT)
        return; /* judged as every read is */
    if (result != FRESHET_OK || sscanf(buf->data, "key %*u version %llu token %u ", &version, &token) != 2) {
        check_fail("liveness: all is calm, and process %u gets %s for key %u", place, freshet_result_name(result), key);
        return;
    }
    figures->finals++;
    if (world.plan->attack == ATTACK_WRITE)
        return;
    if (version < truth.guarded[key] && !truth.values[token].put)
        check_fail(
            "guards: all is calm, and process %u gets version %llu of key %u; version %llu was committed under a "
            "guard",
            place, version, key, (unsigned long long)truth.guarded[key]);
    if (version < truth.announced[key] &&
        (sources_known(key) || !put_may_stay(&truth.values[token], truth.announced[key])))
        check_fail(
            "P2: all is calm, and process %u gets version %llu of key %u; a change to version %llu was announced",
            place, version, key, (unsigned long long)truth.announced[key]);
}
