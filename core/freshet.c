/*
 * freshet.c - each public call told as the path its data takes.  Above everything else in core; the fleet, if there is
 * one, stands behind remote.h's door.
 *
 * An answer is judged once, after it was copied, by servable().  Where it came from makes no difference but
 * one: what Redis's master said itself is proven by the moment of asking, what the tier holds by proven-at.
 */
#include <buf.h>
#include <changing.h>
#include <clock.h>
#include <errno.h>
#include <fiber.h>
#include <host.h>
#include <log.h>
#include <options.h>
#include <servable.h>
#include <stdlib.h>
#include <step.h>
#include <string.h>
#include <token.h>
#include <tags.h>
#include <turn.h>

#define BOUND_DEFAULT_MS  500u
#define BOUND_LEAST_MS    20u
#define BOUND_MOST_MS     600000u
#define TIER_DEFAULT      (64ull << 20)
#define TIER_LEAST        (1ull << 20)
#define TIER_MOST         (1ull << 42)
#define POOL_LEAST        (4ull << 20)
#define TICKET_DEFAULT_MS 5000u
#define TURN_ROUNDS       8                     /* turns of others that a caller waits for, until it loads on its own */
#define PREFER_PRIMARY_NS (10 * CLOCK_NS_PER_S) /* after a change; as long as scripts/head.lua has it */
#define ASK_ROUNDS        4 /* questions to Redis whose answers a change overtook, before the answer is a miss */

/* ---- options ---- */

static bool name_fits(const char *name)
{
    size_t size = strnlen(name, FRESHET_NAME_MAX + 1);

    if (size == 0 || size > FRESHET_NAME_MAX || name[0] == '.')
        return false;
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == size;
}

/* Check the options and put the defaults in. */
static freshet_result options_check(freshet_options *o)
{
    if (!o->name)
        o->name = "default";
    if (!name_fits(o->name))
        return fail(FRESHET_EINVAL, "the name must be 1 to %u letters, digits, '.', '_' or '-', not starting with '.'",
                    FRESHET_NAME_MAX);
    if (o->tier_size && (o->tier_size < TIER_LEAST || o->tier_size > TIER_MOST))
        return fail(FRESHET_EINVAL, "tier_size is %llu bytes: give 1 MiB to 4 TiB, or 0",
                    (unsigned long long)o->tier_size);
    if (o->pool_size && (o->pool_size < POOL_LEAST || o->pool_size > TIER_MOST))
        return fail(FRESHET_EINVAL, "pool_size is %llu bytes: give 4 MiB to 4 TiB, or 0",
                    (unsigned long long)o->pool_size);
    if (!o->pool && (o->pool_size || o->pool_minimum))
        return fail(FRESHET_EINVAL, "pool_size and pool_minimum are for a cache in a pool: give its directory too");
    if (!o->value_max)
        o->value_max = FRESHET_VALUE_MAX_DEFAULT;
    if (o->value_max > (1u << 30))
        return fail(FRESHET_EINVAL, "value_max is %u bytes: give at most 1 GiB", o->value_max);
    if (!o->max_staleness_ms)
        o->max_staleness_ms = BOUND_DEFAULT_MS;
    if (o->max_staleness_ms < BOUND_LEAST_MS || o->max_staleness_ms > BOUND_MOST_MS)
        return fail(FRESHET_EINVAL, "max_staleness_ms is %u: give %u to %u", o->max_staleness_ms, BOUND_LEAST_MS,
                    BOUND_MOST_MS);
    if (o->policy != FRESHET_SERVE_NONE && o->policy != FRESHET_SERVE_STALE)
        return fail(FRESHET_EINVAL, "policy is %d: give FRESHET_SERVE_NONE or FRESHET_SERVE_STALE", (int)o->policy);
    if (o->partitions > FRESHET_PARTITIONS_MAX)
        return fail(FRESHET_EINVAL, "partitions is %u: give at most %u", o->partitions, FRESHET_PARTITIONS_MAX);
    if (!o->deadline_ms)
        o->deadline_ms = 1000;
    return FRESHET_OK;
}

/* ---- open and close ---- */

static void handle_free(freshet *cache)
{
    free(cache->path);
    free(cache->pool);
    free(cache);
}

/* fork() may come before or after: everything of ours in the handle is plain memory. */
freshet_result freshet_open(freshet **ret_cache, const freshet_options *given)
{
    freshet_options options;
    freshet *cache;
    freshet_result result;

    if (!ret_cache)
        return fail(FRESHET_EINVAL, "freshet_open: ret_cache is NULL");
    if ((result = options_take(&options, sizeof options, given, "freshet_options")) != FRESHET_OK)
        return result;
    if ((result = options_check(&options)) != FRESHET_OK)
        return result;
    if (!(cache = calloc(1, sizeof *cache)))
        return fail(FRESHET_ENOMEM, "no memory for a handle");
    if ((options.dir && !(cache->path = strdup(options.dir))) ||
        (options.pool && !(cache->pool = strdup(options.pool)))) {
        handle_free(cache);
        return fail(FRESHET_ENOMEM, "no memory for a handle");
    }
    strcpy(cache->name, options.name); /* name_fits has bounded it */
    cache->options = options;
    cache->options.name = cache->name;
    cache->options.dir = cache->path;
    cache->options.pool = cache->pool;
    if ((result = host_open(cache)) != FRESHET_OK) {
        handle_free(cache);
        return result;
    }
    *ret_cache = cache;
    return FRESHET_OK;
}

void freshet_close(freshet *cache)
{
    if (!cache)
        return;
    remote_detach(cache);
    host_close(atomic_load(&cache->host));
    handle_free(cache);
}

const char *freshet_dir(const freshet *cache)
{
    return cache ? atomic_load(&cache->host)->dir.path : "";
}

/* ---- one read, from door to door ---- */

struct reading {
    struct host *host;
    const struct remote_ops *ops; /* NULL: not joined */
    const freshet_options *options; /* the cache's */
    struct key key;
    freshet_buf *buf;
    freshet_buf scratch; /* stands in when the caller gave none */
    freshet_answer *answer;
    int64_t bound_ns;
    int64_t deadline_ns; /* 0 until somebody has to wait */
    uint32_t deadline_ms;
    bool serve_stale;
    freshet_read_level level;
    bool hashed;            /* `key` is complete */
    struct token_part need; /* at least this new; position 0: no claim */
    bool met;               /* Redis was seen to be as far */
    struct record record;
    struct judgement judgement;
};

freshet_result changing_key_check(const void *key, size_t key_size)
{
    if (!key || key_size == 0)
        return fail(FRESHET_EINVAL, "a key has 1 to %u bytes; this one is %s", FRESHET_KEY_MAX, key ? "empty" : "NULL");
    if (key_size > FRESHET_KEY_MAX)
        return fail(FRESHET_ETOOBIG, "a key has at most %u bytes, not %zu", FRESHET_KEY_MAX, key_size);
    return FRESHET_OK;
}

static const struct remote_ops *ops_of(struct freshet *cache, struct host *host)
{
    if (!atomic_load_explicit(&cache->joined, memory_order_acquire))
        return NULL;
    return atomic_load_explicit(&host->ops, memory_order_acquire);
}

/* An answer structure may be older (shorter) than ours. */
static freshet_result answer_start(freshet_answer *answer)
{
    size_t size = answer->struct_size;

    if (__builtin_expect(size == sizeof *answer, 1)) { /* a size that the compiler knows is a few words */
        memset(answer, 0, sizeof *answer);
    } else {
        if (size < sizeof size || size > 4096)
            return fail(FRESHET_EINVAL, "freshet_answer.struct_size is %zu: start it with FRESHET_INIT(freshet_answer)",
                        size);
        memset(answer, 0, size < sizeof *answer ? size : sizeof *answer);
    }
    answer->struct_size = size;
    return FRESHET_OK;
}

/* It and the first look are a part of the calls that begin with them: a hit pays for no more calls than it must. */
static inline __attribute__((always_inline)) freshet_result
reading_start(struct reading *r, freshet *cache, const void *key, size_t key_size, uint32_t bound_ms,
              uint32_t deadline_ms, freshet_buf *buf, freshet_answer *answer)
{
    freshet_result result;

    if (!cache)
        return fail(FRESHET_EINVAL, "the cache is NULL");
    if ((result = changing_key_check(key, key_size)) != FRESHET_OK)
        return result;
    if (answer && (result = answer_start(answer)) != FRESHET_OK)
        return result;
    if (!(r->host = host_of(cache)))
        return FRESHET_EIO;
    r->ops = ops_of(cache, r->host);
    r->options = &cache->options;
    r->scratch = (freshet_buf){0};
    r->buf = buf ? buf : &r->scratch;
    r->answer = answer;
    if (bound_ms == 0 || bound_ms > cache->options.max_staleness_ms)
        bound_ms = cache->options.max_staleness_ms;
    r->bound_ns = bound_ms * CLOCK_NS_PER_MS;
    r->deadline_ns = 0;
    r->deadline_ms = deadline_ms ? deadline_ms : cache->options.deadline_ms;
    r->serve_stale = cache->options.policy == FRESHET_SERVE_STALE;
    r->level = FRESHET_READ_BOUNDED;
    r->need.epoch = r->need.position = 0;
    r->met = false;
    r->key.data = key;
    r->key.size = (uint32_t)key_size;
    r->hashed = false;
    return FRESHET_OK;
}

/* Who finds the key on the shelf needs no hash; all others do. */
static inline __attribute__((always_inline)) void reading_hash(struct reading *r)
{
    if (!r->hashed)
        key_make(&r->key, &r->host->control.space, r->key.data, r->key.size);
    r->hashed = true;
}

/* Level and token, where they are given. */
static inline freshet_result reading_demand(struct reading *r, freshet_read_level level, const char *text)
{
    struct token token;

    if (level != FRESHET_READ_BOUNDED && level != FRESHET_READ_ANY && level != FRESHET_READ_LATEST)
        return fail(FRESHET_EINVAL, "level is %d: give FRESHET_READ_BOUNDED, _ANY or _LATEST", (int)level);
    r->level = level;
    r->serve_stale |= level == FRESHET_READ_ANY;
    if (!text || !text[0])
        return FRESHET_OK;
    reading_hash(r);
    if (!token_decode(&token, &r->host->control.space, r->host->shape.name, text))
        return fail(FRESHET_EINVAL, "the token is garbled, or of another cache");
    r->need = token.parts[r->key.partition];
    r->met = false;
    return FRESHET_OK;
}

/* The history that this host is in, as tokens name it: without a fleet it is the page's own. */
static uint64_t token_epoch(const struct control *control, uint64_t epoch)
{
    return epoch ? epoch : control->generation;
}

/* Is this host as far as the token demands?  Everything up to there is then in the fences that are looked at next. */
static bool reading_host_meets(const struct reading *r)
{
    const struct control *control = &r->host->control;
    const struct control_part *part = &control->parts[r->key.partition];
    uint64_t epoch = atomic_load_explicit(&part->epoch, memory_order_acquire);

    return token_epoch(control, epoch) == r->need.epoch &&
           atomic_load_explicit(epoch ? &part->applied : &part->position, memory_order_acquire) >= r->need.position;
}

/* Is the record in hand as new as the token demands, if the host's fences allow it?  Ask before they are looked at. */
static inline bool reading_meets(const struct reading *r)
{
    if (r->need.position == 0)
        return true;
    return token_epoch(&r->host->control, r->record.epoch) == r->need.epoch &&
           (r->record.as_of >= r->need.position || reading_host_meets(r));
}

static int64_t reading_deadline(struct reading *r)
{
    if (r->deadline_ns == 0)
        r->deadline_ns = clock_boot_ns() + r->deadline_ms * CLOCK_NS_PER_MS;
    return r->deadline_ns;
}

/* What is told of an answer, beside its value. */
static void answer_fill(const struct record *record, const struct judgement *judged, uint32_t partition,
                        freshet_source source, freshet_result result, freshet_answer *answer)
{
    freshet_answer full = {
        .partition = partition,
        .epoch = record->epoch,
        .source = source,
        .stale = result == FRESHET_STALE,
        .version = record->version,
        .writer = record->writer,
        .source_version = record->source_version,
        .position = record->as_of,
        .age_bound_ms = judged->age_ns < 0 ? -1 : (judged->age_ns + CLOCK_NS_PER_MS - 1) / CLOCK_NS_PER_MS,
        .ttl_ms = record->expires_ns == RECORD_NEVER ? -1 : (record->expires_ns - judged->now_ns) / CLOCK_NS_PER_MS,
        .judged_at_ns = judged->now_ns,
    };

    if (!answer)
        return;
    full.struct_size = answer->struct_size;
    if (__builtin_expect(full.struct_size == sizeof full, 1))
        *answer = full;
    else
        memcpy(answer, &full, full.struct_size < sizeof full ? full.struct_size : sizeof full);
}

/* The answer is servable: tell of it and name the result. */
static freshet_result reading_answer(struct reading *r, freshet_source source, freshet_result as)
{
    freshet_result result = as == FRESHET_OK && r->record.kind == RECORD_ABSENT ? FRESHET_ABSENT : as;

    if (result == FRESHET_ABSENT)
        r->buf->size = 0;
    if (r->answer)
        answer_fill(&r->record, &r->judgement, r->key.partition, source, result, r->answer);
    return result;
}

static freshet_result reading_end(struct reading *r, freshet_result result)
{
    if (result == FRESHET_MISS) {
        r->buf->size = 0;
        if (r->need.position != 0 && !r->met && !reading_host_meets(r))
            result = FRESHET_UNPROVEN;
    }
    if (r->scratch.data)
        freshet_buf_free(&r->scratch);
    return result;
}

/* The token is looked at first: what it demands is in the fences that the judge looks at next. */
static inline enum verdict read_judged(struct reading *r)
{
    bool meets = reading_meets(r);
    enum verdict verdict = servable(&r->record, &r->host->control, &r->key, r->bound_ns, 0, &r->judgement);

    return meets ? verdict : VOID_EPOCH; /* for this reader */
}

/* Ask the tier, without counting.  FRESHET_OK or FRESHET_ABSENT; FRESHET_MISS with the verdict; or a failure. */
static inline __attribute__((always_inline)) freshet_result read_tier_uncounted(struct reading *r,
                                                                                enum verdict *ret_verdict)
{
    const struct control *control = &r->host->control;
    struct tier *tier = atomic_load_explicit(&r->host->tier, memory_order_acquire);
    freshet_result result;

    /* The judge's random word comes from memory while the record is looked for. */
    __builtin_prefetch(control_fence(control, r->key.partition, r->key.slot));
    result = tier_read(tier, &r->key, &r->record, r->buf);
    *ret_verdict = VOID_EXPIRED;
    if (result != FRESHET_OK)
        return result == FRESHET_ENOMEM ? fail(result, "no memory for the value") : FRESHET_MISS;
    if ((*ret_verdict = read_judged(r)) != SERVABLE)
        return FRESHET_MISS;
    return reading_answer(r, FRESHET_FROM_TIER, FRESHET_OK);
}

/* Count an answer out of the tier. */
static inline freshet_result read_counted(struct reading *r, freshet_result result)
{
    if (result == FRESHET_OK || result == FRESHET_ABSENT)
        host_count(r->host, result == FRESHET_OK ? COUNT_HITS : COUNT_ABSENTS, r->judgement.now_ns);
    return result;
}

static inline __attribute__((always_inline)) freshet_result read_tier(struct reading *r, enum verdict *ret_verdict)
{
    return read_counted(r, read_tier_uncounted(r, ret_verdict));
}

/* One answer of 16.  The clock's last bits are as good as a die. */
static inline bool reading_is_sample(const struct reading *r)
{
    return (uint64_t)r->judgement.now_ns * UINT64_C(0x9e3779b97f4a7c15) >> 60 == 0;
}

/* Ask the shelf.  True: the answer is there, and counted. */
static inline __attribute__((always_inline)) bool read_shelf(struct reading *r, freshet_result *ret_result)
{
    struct shelf_hit hit;

    if (!shelf_read(&r->host->shelf, r->key.data, r->key.size, &r->key, &r->record, r->buf, &hit) ||
        read_judged(r) != SERVABLE)
        return false;
    shelf_use(&hit);
    if (__builtin_expect(reading_is_sample(r), 0))
        shelf_met(&r->host->shelf);
    *ret_result = read_counted(r, reading_answer(r, FRESHET_FROM_TIER, FRESHET_OK));
    return true;
}

/* The bound cannot be shown and Redis cannot be asked: what the policy says of a copy that is right in all else. */
static freshet_result read_stale(struct reading *r)
{
    enum verdict verdict;
    freshet_result result;

    if (!r->serve_stale)
        return FRESHET_MISS;
    result = read_tier_uncounted(r, &verdict);
    if (result == FRESHET_MISS ? verdict != TOO_OLD : result < 0 || r->level != FRESHET_READ_LATEST)
        return read_counted(r, result);
    /* Its bound cannot be shown, or not that it is the latest, however young it is. */
    if (r->record.kind == RECORD_ABSENT)
        return FRESHET_MISS; /* "there was no such row a while ago" helps nobody */
    control_count(&r->host->control, COUNT_STALES, 1);
    return reading_answer(r, FRESHET_FROM_TIER, FRESHET_STALE);
}

static void record_from_remote(struct record *record, const struct remote_record *remote, const struct key *key,
                               size_t value_size)
{
    *record = (struct record){
        .kind = remote->absent ? RECORD_ABSENT : RECORD_VALUE,
        .epoch = remote->epoch,
        .as_of = remote->as_of,
        .born = remote->born,
        .version = remote->version,
        .writer = remote->writer,
        .source_version = remote->source_version,
        .expires_ns = remote->expires_ns,
        .key_size = key->size,
        .value_size = remote->absent ? 0 : value_size,
        .tag_count = remote->tag_count,
    };
    memcpy(record->tags, remote->tags, sizeof record->tags);
}

static struct remote_key key_for_remote(const struct key *key)
{
    struct remote_key remote = {.data = key->data, .size = key->size, .partition = key->partition};

    memcpy(remote.hash, key->hash, sizeof remote.hash);
    return remote;
}

/* An entry came from Redis: judge it as any other, and hand it to the tier.  FRESHET_MISS: a change overtook it. */
static freshet_result read_remote_record(struct reading *r, const struct remote_answer *answer)
{
    STEP("fetched");
    record_from_remote(&r->record, &answer->record, &r->key, r->buf->size);
    if (r->record.kind == RECORD_ABSENT)
        r->buf->size = 0;
    bool meets = reading_meets(r);
    if (servable(&r->record, &r->host->control, &r->key, r->bound_ns, answer->asked_ns, &r->judgement) != SERVABLE ||
        !meets)
        return FRESHET_MISS;
    (void)host_fill(r->host, &r->key, &r->record, r->buf->data,
                    NULL); /* one that fails costs a fetch, not the answer */
    return reading_answer(r, FRESHET_FROM_REDIS, FRESHET_OK);
}

/* Redis was as far as the token demands when it answered. */
static void reading_met(struct reading *r, const struct remote_answer *answer)
{
    r->met |= answer->epoch == r->need.epoch && answer->position >= r->need.position;
}

/* Ask Redis, again while changes overtake its answers. */
static freshet_result read_remote(struct reading *r)
{
    struct remote_key key = key_for_remote(&r->key);
    freshet_result result = FRESHET_MISS;

    for (int round = 0; round < ASK_ROUNDS && result == FRESHET_MISS; round++) {
        struct remote_answer answer = {0};

        if (round > 0 && r->need.position != 0 && !r->met)
            break; /* it will not have got there by now */
        result = r->ops->fetch(atomic_load(&r->host->remote), &key, r->bound_ns, reading_deadline(r), &answer, r->buf);
        if (result == FRESHET_ENOMEM)
            return result;
        if (result < 0)
            return read_stale(r);
        reading_met(r, &answer);
        if (answer.found != REMOTE_RECORD) {
            control_count(&r->host->control, COUNT_REDIS_MISSES, 1);
            return FRESHET_MISS;
        }
        result = read_remote_record(r, &answer);
    }
    control_count(&r->host->control, result == FRESHET_MISS ? COUNT_REDIS_MISSES : COUNT_REDIS_HITS, 1);
    return result;
}

/* The tier's copy is what Redis's master has: it was read anew, as it were. */
static freshet_result read_confirmed(struct reading *r, const struct remote_answer *answer)
{
    struct control *control = &r->host->control;
    uint64_t as_of = r->record.as_of;
    bool meets;

    STEP("confirmed_latest");
    r->record.as_of = answer->position;
    r->record.epoch = answer->epoch;
    meets = reading_meets(r);
    if (servable(&r->record, control, &r->key, r->bound_ns, answer->asked_ns, &r->judgement) != SERVABLE || !meets) {
        r->record.as_of = as_of;
        return FRESHET_MISS;
    }
    if (as_of < atomic_load(control_fence(control, r->key.partition, r->key.slot))) /* a neighbour's change voided it */
        (void)host_fill(r->host, &r->key, &r->record, r->buf->data, NULL);
    return reading_answer(r, FRESHET_FROM_TIER, FRESHET_OK);
}

/* Ask Redis's master, whatever the tier has; only what the tier lacks is sent. */
static freshet_result read_latest(struct reading *r)
{
    struct remote_key key = key_for_remote(&r->key);
    freshet_result result = tier_read(atomic_load_explicit(&r->host->tier, memory_order_acquire), &r->key, &r->record,
                                      r->buf);
    struct remote_record known = {.born = r->record.born, .version = r->record.version, .writer = r->record.writer};
    bool have = result == FRESHET_OK && r->record.epoch != 0;

    if (result == FRESHET_ENOMEM)
        return fail(result, "no memory for the value");
    result = FRESHET_MISS;
    for (int round = 0; round < ASK_ROUNDS && result == FRESHET_MISS; round++) {
        struct remote_answer answer = {0};

        result = r->ops->latest(atomic_load(&r->host->remote), &key, have ? &known : NULL, reading_deadline(r), &answer,
                                r->buf);
        if (result == FRESHET_ENOMEM)
            return result;
        if (result < 0)
            return read_stale(r);
        reading_met(r, &answer);
        if (answer.found == REMOTE_CURRENT) {
            result = read_confirmed(r, &answer);
        } else if (answer.found == REMOTE_RECORD) {
            result = read_remote_record(r, &answer);
            have = false; /* its bytes stand in the buffer now */
        } else {
            control_count(&r->host->control, COUNT_REDIS_MISSES, 1);
            return FRESHET_MISS;
        }
    }
    control_count(&r->host->control, result == FRESHET_MISS ? COUNT_REDIS_MISSES : COUNT_REDIS_HITS, 1);
    return result;
}

/* Is it Redis that answers, whatever the tier has? */
static inline bool reading_passes_tier(const struct reading *r)
{
    return r->level == FRESHET_READ_LATEST && (r->ops || control_fleet(&r->host->control) != 0);
}

/* The first look of a read: into the tier, or, for the latest, to Redis; *ret_final: there is no second. */
static inline __attribute__((always_inline)) freshet_result read_first(struct reading *r, enum verdict *ret_verdict,
                                                                       bool *ret_final)
{
    freshet_result result;

    *ret_verdict = VOID_EPOCH;
    *ret_final = reading_passes_tier(r);
    if (!*ret_final && !r->hashed && shelf_helps(&r->host->shelf) && read_shelf(r, &result))
        return result;
    reading_hash(r);
    if (*ret_final)
        return r->ops ? read_latest(r) : FRESHET_MISS;
    result = read_tier(r, ret_verdict);
    if ((result == FRESHET_OK || result == FRESHET_ABSENT) && __builtin_expect(reading_is_sample(r), 0))
        shelf_missed(&r->host->shelf, &r->key, &r->record);
    if (result == FRESHET_MISS && *ret_verdict == TOO_OLD && r->level == FRESHET_READ_ANY)
        result = read_stale(r);
    return result;
}

/* The options of a read, checked, and the reading that they are for. */
static inline __attribute__((always_inline)) freshet_result
reading_begin(struct reading *r, freshet *cache, const void *key, size_t key_size, const freshet_read_options *options,
              bool given, freshet_buf *buf, freshet_answer *answer)
{
    freshet_result result;

    if ((result = reading_start(r, cache, key, key_size, options->bound_ms, options->deadline_ms, buf, answer)) !=
        FRESHET_OK)
        return result;
    if (given && (result = reading_demand(r, options->level, options->token)) != FRESHET_OK)
        return result;
    if (options->tier_only && r->level == FRESHET_READ_LATEST)
        return fail(FRESHET_EINVAL, "the latest is Redis's to tell: give no tier_only");
    if (options->tier_only)
        r->ops = NULL;
    return FRESHET_OK;
}

/* The tier was looked at: what now, and the end. */
static inline freshet_result reading_finish(struct reading *r, const freshet_read_options *options,
                                            freshet_result result, enum verdict verdict, bool final)
{
    if (result == FRESHET_MISS) {
        if (!options->tier_only || !options->probe)
            host_count(r->host, COUNT_MISSES, clock_boot_ns());
        if (r->ops && !final)
            result = read_remote(r);
        else if (verdict == TOO_OLD)
            result = read_stale(r);
    }
    return reading_end(r, result);
}

freshet_result freshet_get(freshet *cache, const void *key, size_t key_size, const freshet_read_options *given,
                           freshet_buf *buf, freshet_answer *answer)
{
    freshet_read_options options;
    struct reading r;
    enum verdict verdict;
    freshet_result result;
    bool final;

    if ((result = options_take(&options, sizeof options, given, "freshet_read_options")) != FRESHET_OK ||
        (result = reading_begin(&r, cache, key, key_size, &options, given != NULL, buf, answer)) != FRESHET_OK)
        return result;
    result = read_first(&r, &verdict, &final);
    return reading_finish(&r, &options, result, verdict, final);
}

/* ---- many at once ---- */

struct many {
    struct reading *readings;
    freshet_get_item *items;
    size_t count, stride; /* bytes from item to item: a caller's may be shorter or longer than ours */
    freshet_read_options options;
    bool given;
};

static freshet_get_item *many_item(const struct many *many, size_t i)
{
    return (freshet_get_item *)(void *)((char *)many->items + i * many->stride);
}

/* Hash all keys, so that the lines that are looked at first come from memory side by side. */
static freshet_result many_begin(struct many *many, freshet *cache)
{
    for (size_t i = 0; i < many->count; i++) {
        freshet_get_item *item = many_item(many, i);
        struct reading *r = &many->readings[i];
        freshet_result result = reading_begin(r, cache, item->key, item->key_size, &many->options, many->given,
                                              item->buf, item->answer);

        if (result != FRESHET_OK)
            return result;
        reading_hash(r);
        __builtin_prefetch(tier_place(atomic_load_explicit(&r->host->tier, memory_order_acquire), &r->key));
        __builtin_prefetch(control_fence(&r->host->control, r->key.partition, r->key.slot));
    }
    return FRESHET_OK;
}

/* Copy everything out, then judge everything: what is answered from the tier was all servable at the moment between. */
static void many_read_tier(struct many *many)
{
    for (size_t i = 0; i < many->count; i++) {
        struct reading *r = &many->readings[i];

        many_item(many, i)->result =
            tier_read(atomic_load_explicit(&r->host->tier, memory_order_acquire), &r->key, &r->record, r->buf);
    }
    for (size_t i = 0; i < many->count; i++) {
        struct reading *r = &many->readings[i];
        freshet_get_item *item = many_item(many, i);
        enum verdict verdict = VOID_EXPIRED;

        if (item->result == FRESHET_OK && (verdict = read_judged(r)) == SERVABLE)
            item->result = read_counted(r, reading_answer(r, FRESHET_FROM_TIER, FRESHET_OK));
        else if (item->result != FRESHET_ENOMEM)
            item->result = FRESHET_MISS;
        if (item->result == FRESHET_MISS && verdict == TOO_OLD && r->level == FRESHET_READ_ANY)
            item->result = read_stale(r);
        item->result = reading_finish(r, &many->options, item->result, verdict, false);
    }
}

freshet_result freshet_get_many(freshet *cache, freshet_get_item *items, size_t count,
                                const freshet_read_options *given)
{
    struct many many = {.items = items, .count = count, .given = given != NULL};
    freshet_result result;

    if (count == 0)
        return FRESHET_OK;
    if (!items || items->struct_size < sizeof *items || items->struct_size > 4096)
        return fail(FRESHET_EINVAL, "freshet_get_many: start every item with FRESHET_INIT(freshet_get_item)");
    many.stride = items->struct_size;
    if ((result = options_take(&many.options, sizeof many.options, given, "freshet_read_options")) != FRESHET_OK)
        return result;
    if (count > SIZE_MAX / sizeof *many.readings || !(many.readings = malloc(count * sizeof *many.readings)))
        return fail(FRESHET_ENOMEM, "no memory to read %zu keys at once", count);
    result = many_begin(&many, cache);
    if (result == FRESHET_OK && !reading_passes_tier(many.readings)) {
        many_read_tier(&many);
    } else if (result == FRESHET_OK) {
        for (size_t i = 0; i < count; i++) {
            enum verdict verdict;
            bool final;

            result = read_first(&many.readings[i], &verdict, &final);
            many_item(&many, i)->result = reading_finish(&many.readings[i], &many.options, result, verdict, final);
        }
        result = FRESHET_OK;
    }
    free(many.readings);
    return result;
}

/* ---- in place ---- */

/* In the tier: FRESHET_OK when `fn` was called or the answer is that there is none; FRESHET_MISS: ask otherwise. */
static freshet_result view_tier(struct reading *r, freshet_view_fn fn, void *arg, enum verdict *ret_verdict)
{
    struct tier *tier = atomic_load_explicit(&r->host->tier, memory_order_acquire);
    struct tier_view view;
    freshet_result result;

    reading_hash(r);
    result = tier_view(tier, &r->key, &r->record, &view);

    *ret_verdict = VOID_EXPIRED;
    if (result != FRESHET_OK)
        return result == FRESHET_ENOMEM ? result : FRESHET_MISS;
    if ((*ret_verdict = read_judged(r)) == SERVABLE) {
        result = read_counted(r, reading_answer(r, FRESHET_FROM_TIER, FRESHET_OK));
        if (result == FRESHET_OK)
            fn(view.pieces, view.count, r->answer, arg);
    } else {
        result = FRESHET_MISS;
    }
    tier_view_end(tier, &view);
    return result;
}

freshet_result freshet_view(freshet *cache, const void *key, size_t key_size, const freshet_read_options *given,
                            freshet_view_fn fn, void *arg)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    freshet_read_options options;
    freshet_buf buf = {0};
    struct reading r;
    enum verdict verdict = VOID_EPOCH;
    freshet_result result;
    bool final = false;

    if (!fn)
        return fail(FRESHET_EINVAL, "freshet_view: the function is NULL");
    if ((result = options_take(&options, sizeof options, given, "freshet_read_options")) != FRESHET_OK ||
        (result = reading_begin(&r, cache, key, key_size, &options, given != NULL, &buf, &answer)) != FRESHET_OK)
        return result;
    if (r.level == FRESHET_READ_BOUNDED) {
        result = view_tier(&r, fn, arg, &verdict);
        if (result != FRESHET_MISS)
            return reading_end(&r, result);
    } else {
        result = read_first(&r, &verdict, &final);
    }
    result = reading_finish(&r, &options, result, verdict, final);
    if (result == FRESHET_OK || result == FRESHET_STALE) {
        const freshet_piece piece = {buf.data, buf.size};

        fn(&piece, buf.size > 0, &answer, arg);
    }
    freshet_buf_free(&buf);
    return result;
}

/* ---- get or load ---- */

struct loading {
    freshet_load_options options;
    freshet_loader loader;
    void *arg;
    uint32_t ttl_ms; /* of the cache */
    uint32_t value_max;
    bool prefer_primary;
    bool outdated;                /* it is older than what was known of the key */
    bool alone;                   /* what others load is not new enough */
    bool unshared;                /* it is for this caller alone */
    struct flight *flight;        /* who waits in this process for this load; NULL: nobody may */
    struct turn turn;             /* among the host's processes, while it is ours */
    int64_t since_ns;             /* when the load began that the answer is of */
    struct remote_change content; /* what the loader answered */
    /* The rest is set when it is needed: a hit pays for none of it. */
    struct reading r;
    struct tags tags, given; /* of the answer; of the options */
};

freshet_result freshet_load_tag(freshet_load_request *request, const char *tag)
{
    struct loading *l = request ? request->own : NULL;

    if (!l)
        return fail(FRESHET_EINVAL, "freshet_load_tag: the request is none of a running loader's");
    return tags_add(&l->tags, &l->r.host->control.space, tag);
}

/* Call the loader; its value is in the reading's buffer. */
static freshet_result load_call(struct loading *l)
{
    freshet_load_request request = {
        .key = l->r.key.data,
        .key_size = l->r.key.size,
        .prefer_primary = l->prefer_primary,
        .ttl_ms = l->options.ttl_ms ? l->options.ttl_ms : l->ttl_ms,
        .own = l,
    };
    uint32_t ttl_told = request.ttl_ms;
    freshet_result result;

    l->r.buf->size = 0;
    l->tags = l->given; /* what an earlier call told is of an earlier answer */
    l->since_ns = clock_boot_ns();
    control_count(&l->r.host->control, COUNT_LOADS, 1);
    result = l->loader(&request, l->r.buf, l->arg);
    if (result != FRESHET_OK && result != FRESHET_ABSENT) {
        control_count(&l->r.host->control, COUNT_LOAD_FAILURES, 1);
        l->r.buf->size = 0;
        return fail(FRESHET_ELOAD, "the loader answered %s (%d)", freshet_result_name(result), (int)result);
    }
    if (result == FRESHET_ABSENT && request.ttl_ms == ttl_told && l->options.absent_ttl_ms)
        request.ttl_ms = l->options.absent_ttl_ms;
    if (result == FRESHET_ABSENT)
        l->r.buf->size = 0;
    l->content = (struct remote_change){
        .kind = REMOTE_PUT,
        .absent = result == FRESHET_ABSENT,
        .value = l->r.buf->data,
        .value_size = l->r.buf->size,
        .ttl_ms = request.ttl_ms,
        .source_version = request.source_version,
        .tags = l->tags.numbers,
        .tag_count = l->tags.count,
    };
    return result;
}

/* Tell of a loaded answer: it was read at some time since the load began. */
static freshet_result load_answer(struct loading *l, freshet_result result)
{
    int64_t now_ns = clock_boot_ns();

    l->r.judgement = (struct judgement){.now_ns = now_ns, .age_ns = now_ns - l->since_ns};
    if (l->r.answer)
        answer_fill(&l->r.record, &l->r.judgement, l->r.key.partition, FRESHET_FROM_LOADER, result, l->r.answer);
    if (l->outdated && l->r.answer && l->r.answer->struct_size > offsetof(freshet_answer, outdated))
        l->r.answer->outdated = true;
    return result;
}

/* The loaded answer as a record that nothing stores. */
static void load_record(struct loading *l)
{
    l->r.record = (struct record){
        .kind = l->content.absent ? RECORD_ABSENT : RECORD_VALUE,
        .source_version = l->content.source_version,
        .expires_ns = l->content.ttl_ms ? clock_boot_ns() + l->content.ttl_ms * CLOCK_NS_PER_MS : RECORD_NEVER,
        .key_size = l->r.key.size,
        .value_size = l->content.value_size,
        .tag_count = l->tags.count,
    };
    memcpy(l->r.record.tags, l->tags.numbers, sizeof l->tags.numbers);
}

/* Is a change of the key, or of a tag of the options', in this host's outbox? */
static bool load_waiting(const struct loading *l)
{
    const struct control *control = &l->r.host->control;

    return control_outbox_pending(control, &l->r.key) ||
           control_outbox_pending_tags(control, l->r.key.partition, l->given.numbers, l->given.count);
}

/* Has something changed so lately, as far as this host knows, that the source's replica may not have it yet?  Asked
 * where no ticket tells of the key itself. */
static bool load_after_change(const struct loading *l)
{
    const struct control *control = &l->r.host->control;
    uint64_t changed_ns = atomic_load(&control->parts[l->r.key.partition].newest_change_ns);

    if (load_waiting(l))
        return true;
    return changed_ns != 0 && clock_boot_ns() - (int64_t)changed_ns < PREFER_PRIMARY_NS;
}

/* Would a replica that is behind be too old for this caller, however long ago the change was? */
static bool load_demands(const struct loading *l)
{
    return l->alone || l->r.need.position != 0;
}

/* Load and keep nothing: no ticket was to be had in time. */
static freshet_result load_unkept(struct loading *l)
{
    freshet_result result;

    l->prefer_primary |= load_demands(l) || l->outdated || load_after_change(l);
    l->outdated = false;
    result = load_call(l);
    if (result < 0)
        return result;
    load_record(l);
    return load_answer(l, result);
}

/* Nobody may share this load: it began under a guard, or we cannot know whether it did. */
static freshet_result load_alone(struct loading *l)
{
    flight_land(l->r.host->flights, l->flight, FRESHET_MISS, NULL, NULL, 0);
    l->flight = NULL;
    host_end_turn(l->r.host, &l->turn);
    l->turn = (struct turn){0};
    return load_unkept(l);
}

/* The newest change that voids what is known of this key: its own, a clear, or one that only the floor stands for. */
static uint64_t load_fence(const struct loading *l)
{
    const struct control *control = &l->r.host->control;
    const struct control_part *part = &control->parts[l->r.key.partition];
    uint64_t fence = atomic_load(control_fence(control, l->r.key.partition, l->r.key.slot));
    uint64_t clear = atomic_load(&part->clear), floor = atomic_load(&part->floor);

    if (fence < clear)
        fence = clear;
    return fence < floor ? floor : fence;
}

/* Without a fleet: has the tier a later version of the source's?  Since a clear they begin anew. */
static bool local_outdated(struct host *host, const struct key *key, uint64_t source_version)
{
    struct record old;

    return source_version && tier_read(atomic_load(&host->tier), key, &old, NULL) == FRESHET_OK && old.epoch == 0 &&
           old.born >= atomic_load(&host->control.parts[key->partition].clear) && old.source_version > source_version;
}

/* Without a fleet the fences tell of the key itself, and of the tags that the load is to have. */
static bool load_after_own_change(const struct loading *l)
{
    const struct control *control = &l->r.host->control;
    uint64_t newest = load_fence(l), fence;

    for (uint32_t i = 0; i < l->given.count; i++) {
        fence = atomic_load(control_tag_fence(control, l->r.key.partition, l->given.numbers[i]));
        newest = fence > newest ? fence : newest;
    }
    return control_changed_lately(control, l->r.key.partition, newest);
}

/* Load for this host alone: the record is as old as the position at which the load began. */
static freshet_result load_local(struct loading *l, uint64_t start)
{
    freshet_result result;

    l->prefer_primary = load_after_own_change(l);
    result = load_call(l);
    if (result >= 0 && local_outdated(l->r.host, &l->r.key, l->content.source_version)) {
        l->prefer_primary = true; /* a replica that is behind: once more */
        result = load_call(l);
    }
    if (result < 0)
        return result;
    load_record(l);
    l->r.record.as_of = l->r.record.born = start;
    l->r.record.version = clock_real_us();
    l->outdated = l->unshared = local_outdated(l->r.host, &l->r.key, l->content.source_version);
    if (l->outdated)
        control_count(&l->r.host->control, COUNT_FILLS_REFUSED, 1);
    else if (l->content.value_size <= l->value_max) /* compared again as it is written */
        (void)host_fill(l->r.host, &l->r.key, &l->r.record, l->content.value, NULL);
    return load_answer(l, result);
}

/* The same, unless somebody guards the key: to be asked after `start` was read (guarded.h). */
static freshet_result load_here(struct loading *l, uint64_t start)
{
    if (guarded_is(&l->r.host->control, &l->r.key)) {
        l->prefer_primary = true;
        return load_alone(l);
    }
    STEP("load_unguarded");
    return load_local(l, start);
}

/* Load with the right to fill, and fill.  A fill that a change overtook, or that is older than what Redis has seen of
 * the key (l->outdated), is refused: the caller still has its answer, and nobody else gets it. */
static freshet_result load_with_ticket(struct loading *l, const struct remote_ticket *ticket)
{
    struct remote_key key = key_for_remote(&l->r.key);
    void *remote = atomic_load(&l->r.host->remote);
    struct remote_record stored = {0};
    freshet_result result, filled;

    /* Redis has not heard of what waits in this host's outbox. */
    l->prefer_primary = ticket->prefer_primary || load_demands(l) || l->outdated || load_waiting(l);
    l->outdated = l->unshared = false;
    result = load_call(l);
    if (result < 0 || l->content.value_size > l->value_max) {
        l->r.ops->give_back(remote, &key, ticket);
        if (result >= 0)
            load_record(l);
        return result < 0 ? result : load_answer(l, result);
    }
    STEP("loaded");
    filled = l->r.ops->fill(remote, &key, ticket, &l->content, clock_boot_ns() + l->r.deadline_ms * CLOCK_NS_PER_MS,
                            &stored);
    if (filled == FRESHET_OK) {
        record_from_remote(&l->r.record, &stored, &l->r.key, l->content.value_size);
        (void)host_fill(l->r.host, &l->r.key, &l->r.record, l->content.value, NULL);
    } else {
        l->unshared = filled > 0;
        l->outdated = filled == FRESHET_OUTDATED;
        if (filled > 0)
            control_count(&l->r.host->control, COUNT_FILLS_REFUSED, 1);
        load_record(l);
    }
    return load_answer(l, result);
}

/* Somebody else in the fleet loads: look again in a moment, a little later each time.  False: there is no time for
 * another answer.  Not to ask is better than to go without the answer: it may be a ticket, which others wait for. */
static bool load_pause(int64_t deadline_ns, int round)
{
    int64_t pause = CLOCK_NS_PER_MS << (round < 4 ? round : 4);

    if (pause >= deadline_ns - clock_boot_ns())
        return false;
    wait_pause(pause);
    return true;
}

/* Does this host serve nothing of the key just now, nor of a tag of the entry that was found, since a change of it
 * waits for Redis?  Then there is no sense in waiting for an answer from there. */
static bool load_hidden(const struct loading *l, bool found)
{
    const struct control *control = &l->r.host->control;

    return control_outbox_pending(control, &l->r.key) ||
           (found && control_outbox_pending_tags(control, l->r.key.partition, l->r.record.tags, l->r.record.tag_count));
}

/* Lead a load in the fleet: an entry, the right to fill, or wait for who has it. */
static freshet_result load_remote(struct loading *l)
{
    struct remote_key key = key_for_remote(&l->r.key);
    uint32_t ticket_ms = l->options.ticket_ms ? l->options.ticket_ms : TICKET_DEFAULT_MS;
    freshet_result result;
    bool again = false;

    for (int round = 0;; round++) {
        struct remote_answer answer = {0};

        /* Who has waited for others until now does not ask for a ticket that he would not hear of. */
        result = clock_boot_ns() < reading_deadline(&l->r)
                     ? l->r.ops->ticket(atomic_load(&l->r.host->remote), &key, ticket_ms, reading_deadline(&l->r),
                                        &answer, l->r.buf)
                     : FRESHET_ENET;
        if (result == FRESHET_ENOMEM)
            return result;
        if (result < 0) {
            result = read_stale(&l->r);
            return result == FRESHET_MISS ? load_alone(l) : result;
        }
        if (answer.found == REMOTE_GUARDED) {
            l->prefer_primary = true;
            return load_alone(l);
        }
        if (answer.found == REMOTE_TICKET) {
            control_count(&l->r.host->control, COUNT_REDIS_MISSES, 1);
            result = load_with_ticket(l, &answer.ticket);
            if (!l->outdated || again)
                return result;
            again = true; /* a replica that is behind: once more, from the primary */
            continue;
        }
        if (answer.found == REMOTE_RECORD && (result = read_remote_record(&l->r, &answer)) != FRESHET_MISS) {
            control_count(&l->r.host->control, COUNT_REDIS_HITS, 1);
            return result;
        }
        if (answer.found == REMOTE_RECORD && !reading_meets(&l->r))
            return load_unkept(l); /* what Redis has is not new enough for this caller, but stands for the others */
        if (answer.found == REMOTE_SEALED || load_hidden(l, answer.found == REMOTE_RECORD) ||
            !load_pause(reading_deadline(&l->r), round))
            return load_unkept(l);
    }
}

/* May this host's knowledge of changes be relied on just now?  Else a running load may have been overtaken unseen. */
static bool load_host_fresh(const struct loading *l)
{
    const struct control *control = &l->r.host->control;
    uint32_t p = l->r.key.partition;

    if (control_outbox_pending(control, &l->r.key))
        return false;
    if (atomic_load(&control->parts[p].epoch) == 0)
        return true;
    int64_t proven = control_proven_ns(control, p);
    return proven != 0 && clock_boot_ns() - proven < l->r.bound_ns;
}

/* What another's load has left in the tier, judged as any answer. */
static freshet_result load_left(struct loading *l)
{
    enum verdict verdict;
    freshet_result result = read_tier_uncounted(&l->r, &verdict);

    if (result == FRESHET_OK || result == FRESHET_ABSENT)
        control_count(&l->r.host->control, COUNT_JOINED, 1);
    return result;
}

/* Join the load that runs, if nothing has changed since it began.  FRESHET_MISS: its result is no answer for us. */
static freshet_result load_join(struct loading *l, struct flight *flight)
{
    struct control *control = &l->r.host->control;
    freshet_result result =
        flight_wait(l->r.host->flights, flight, reading_deadline(&l->r), &l->r.record, l->r.buf, &l->since_ns);

    if (result == FRESHET_MISS) /* not one to be handed on; but there may be one in the tier */
        return load_left(l);
    if (result != FRESHET_OK && result != FRESHET_ABSENT)
        return FRESHET_MISS;
    /* Judged as any answer, and as late: what came while we waited counts.  It was born when the load began, in
     * whatever history: a newer one has its floor above that. */
    l->r.record.born = l->r.record.as_of;
    l->r.record.epoch = atomic_load(&control->parts[l->r.key.partition].epoch);
    if (servable(&l->r.record, control, &l->r.key, l->r.bound_ns, 0, &l->r.judgement) != SERVABLE)
        return FRESHET_MISS;
    control_count(control, COUNT_JOINED, 1);
    return reading_answer(&l->r, FRESHET_FROM_LOADER, FRESHET_OK);
}

static uint64_t load_position(const struct loading *l)
{
    return atomic_load(&l->r.host->control.parts[l->r.key.partition].position);
}

/* Wait for the turn of a sibling.  *ret_place: whose it is then; FRESHET_MISS: look at that. */
static freshet_result load_turn_wait(struct loading *l, uint64_t *start, enum turn_place *ret_place)
{
    enum turn_news news;
    freshet_result result;

    do
        news = turn_wait(&l->turn, load_fence(l), reading_deadline(&l->r));
    while (news == TURN_GOES_ON && clock_boot_ns() < reading_deadline(&l->r));
    *ret_place = TURN_NONE;
    if (news == TURN_GOES_ON)
        return FRESHET_MISS;
    if (news != TURN_LOST && (result = load_left(l)) != FRESHET_MISS)
        return result;
    *start = load_position(l);
    if (news == TURN_LOST && turn_take(&l->turn, *start))
        *ret_place = TURN_OURS;
    else if (news != TURN_OVER) /* who has waited in vain for a load that came to its end loads on his own */
        *ret_place = turn_enter(&l->r.host->control, &l->r.key, *start, load_fence(l), &l->turn);
    return FRESHET_MISS;
}

/* Of the processes that miss one key at once one goes on, the others wait until its answer is in the tier.
 * FRESHET_MISS: go on, with the turn or, where waiting came to nothing, without.  *start: where the load begins. */
static freshet_result load_turn(struct loading *l, uint64_t *start)
{
    enum turn_place place = turn_enter(&l->r.host->control, &l->r.key, *start, load_fence(l), &l->turn);
    freshet_result result = FRESHET_MISS;

    for (int round = 0; place == TURN_THEIRS && round < TURN_ROUNDS && result == FRESHET_MISS; round++)
        result = load_turn_wait(l, start, &place);
    if (place != TURN_OURS)
        l->turn = (struct turn){0};
    /* It may have come into the tier between our look and our turn. */
    return result == FRESHET_MISS && place == TURN_OURS ? load_left(l) : result;
}

/* A miss in the tier: one caller of this process goes on, the others wait for it. */
static freshet_result load_missed(struct loading *l)
{
    bool fresh = !l->alone && load_host_fresh(l), lead = fresh, found = false;
    uint64_t start = load_position(l);
    freshet_result result = FRESHET_MISS;

    STEP("missed");
    if (fresh && !(lead = flight_enter(l->r.host->flights, &l->r.key, start, load_fence(l), &l->flight))) {
        result = load_join(l, l->flight);
        l->flight = NULL;
        if (result != FRESHET_MISS)
            return result;
        start = load_position(l); /* overtaken, failed or too slow: on our own then */
    }
    if (lead)
        found = (result = load_turn(l, &start)) != FRESHET_MISS;
    if (!found)
        result = l->r.ops ? load_remote(l) : load_here(l, start);
    if (l->flight) {
        struct record landed = l->r.record;

        landed.as_of = start; /* those who wait compare it with the fence: the load began here */
        STEP("landing");
        flight_land(l->r.host->flights, l->flight, found || l->unshared ? FRESHET_MISS : result, &landed,
                    l->r.buf->data, l->r.buf->size);
    }
    host_end_turn(l->r.host, &l->turn);
    return result;
}

freshet_result freshet_load(freshet *cache, const void *key, size_t key_size, const freshet_load_options *given,
                            freshet_loader loader, void *arg, freshet_buf *buf, freshet_answer *answer)
{
    struct loading l;
    enum verdict verdict;
    freshet_result result;
    bool final;

    if (!loader)
        return fail(FRESHET_EINVAL, "freshet_load: the loader is NULL");
    memset(&l, 0, offsetof(struct loading, r));
    l.loader = loader;
    l.arg = arg;
    if ((result = options_take(&l.options, sizeof l.options, given, "freshet_load_options")) != FRESHET_OK)
        return result;
    if ((result = reading_start(&l.r, cache, key, key_size, l.options.bound_ms, l.options.deadline_ms, buf, answer)) !=
        FRESHET_OK)
        return result;
    l.ttl_ms = cache->options.ttl_ms;
    l.value_max = cache->options.value_max;
    if (given && (result = reading_demand(&l.r, l.options.level, l.options.token)) != FRESHET_OK)
        return result;
    result = read_first(&l.r, &verdict, &final);
    if (result == FRESHET_MISS) {
        host_count(l.r.host, COUNT_MISSES, clock_boot_ns());
        l.alone = final || (l.r.need.position != 0 && !reading_host_meets(&l.r));
        result =
            tags_take(&l.given, &l.r.host->control.space, l.options.tags, l.options.tag_count, l.options.name_space);
        if (result != FRESHET_OK)
            return reading_end(&l.r, result);
        if (!l.r.ops && control_fleet(&l.r.host->control) != 0)
            result = load_unkept(&l); /* a fleet's tier that this handle has not joined: it may look, not fill */
        else
            result = load_missed(&l);
    }
    return reading_end(&l.r, result);
}

/* ---- change ---- */

freshet_result changing_start(struct changing *c, freshet *cache, const freshet_write_options *given,
                              freshet_change *change)
{
    freshet_result result;

    if (!cache)
        return fail(FRESHET_EINVAL, "the cache is NULL");
    if ((result = options_take(&c->options, sizeof c->options, given, "freshet_write_options")) != FRESHET_OK)
        return result;
    if (change && (change->struct_size < sizeof(size_t) || change->struct_size > 4096))
        return fail(FRESHET_EINVAL, "freshet_change.struct_size is %zu: start it with FRESHET_INIT(freshet_change)",
                    change->struct_size);
    host_look(atomic_load_explicit(&cache->host, memory_order_acquire), clock_boot_ns());
    if (!(c->host = host_of(cache)))
        return FRESHET_EIO;
    c->deadline_ns = clock_boot_ns() +
                     (c->options.deadline_ms ? c->options.deadline_ms : cache->options.deadline_ms) * CLOCK_NS_PER_MS;
    c->ops = ops_of(cache, c->host);
    for (int round = 0; !c->ops && atomic_load(&cache->rejoining) && load_pause(c->deadline_ns, round); round++)
        c->ops = ops_of(cache, c->host); /* a child's first call is under way in another thread */
    if (!c->ops && control_fleet(&c->host->control) != 0)
        return fail(FRESHET_EFLEET, "%s belongs to a fleet: freshet_join before changing anything in it",
                    c->host->dir.path);
    if (c->options.wait != FRESHET_WAIT_NONE && c->options.wait != FRESHET_WAIT_HOSTS)
        return fail(FRESHET_EINVAL, "wait is %d: give FRESHET_WAIT_NONE or FRESHET_WAIT_HOSTS", (int)c->options.wait);
    if (!c->options.ttl_ms)
        c->options.ttl_ms = cache->options.ttl_ms;
    c->deadline_ns = clock_boot_ns() +
                     (c->options.deadline_ms ? c->options.deadline_ms : cache->options.deadline_ms) * CLOCK_NS_PER_MS;
    c->change = change;
    return FRESHET_OK;
}

void changing_waits(const struct changing *c, struct remote_change *change)
{
    change->wait_hosts = c->options.wait == FRESHET_WAIT_HOSTS;
    change->on_host = c->options.on_host;
    change->on_host_arg = c->options.on_host_arg;
    change->wait_replicas = c->options.wait_replicas;
}

freshet_result changing_end(struct changing *c, freshet_result result, const struct remote_confirm *confirm)
{
    freshet_change full = {
        .version = confirm->version,
        .position = confirm->position,
        .epoch = confirm->epoch,
        .hosts_applied = confirm->hosts_applied,
        .hosts_waited_out = confirm->hosts_waited_out,
        .bound_waited = confirm->bound_waited,
        .replicas = confirm->replicas,
    };

    struct token token = {0};

    for (uint32_t p = 0; p < c->host->control.space.partitions; p++)
        if (c->ops)
            token.parts[p] = (struct token_part){confirm->parts[p].epoch, confirm->parts[p].position};
        else
            token.parts[p] = (struct token_part){c->host->control.generation,
                                                 atomic_load(&c->host->control.parts[p].position)};
    if (result >= 0 && result != FRESHET_QUEUED && (!c->ops || confirm->position != 0))
        token_encode(&token, &c->host->control.space, c->host->shape.name, full.token);
    if (result == FRESHET_QUEUED) /* a part of it may be confirmed: that is no position of the whole */
        full.position = full.epoch = 0;
    if (c->change) {
        full.struct_size = c->change->struct_size;
        memcpy(c->change, &full, full.struct_size < sizeof full ? full.struct_size : sizeof full);
    }
    return result;
}

uint64_t changing_local(struct control *control, const struct key *key)
{
    uint64_t position = control_next_position(control, key->partition);

    (void)control_raise(control_fence(control, key->partition, key->slot), position);
    return position;
}

/* The same as put_local, for a put that says which version of its source it is. */
static freshet_result put_local_compared(struct changing *c, const struct key *key, const struct record *record,
                                         const void *value, struct remote_confirm *confirm)
{
    struct writer *writer;
    freshet_result result = host_writer(c->host, &writer);

    confirm->version = record->version;
    if (result == FRESHET_OK)
        result = writer_put_compared(writer, key, record, value, c->deadline_ns, &confirm->position);
    if (result != FRESHET_MISS)
        return result;
    if (local_outdated(c->host, key, record->source_version))
        return FRESHET_OUTDATED;
    confirm->position = changing_local(&c->host->control, key); /* it has not come into the tier, nor will it */
    return guarded_is(&c->host->control, key) ? FRESHET_GUARDED : FRESHET_OK;
}

/* Store for this host alone, and wait until the copy is in the tier: with no Redis behind it there is no other. */
static freshet_result put_local(struct changing *c, const struct key *key, const struct remote_change *change,
                                struct remote_confirm *confirm)
{
    struct record record = {
        .kind = change->absent ? RECORD_ABSENT : RECORD_VALUE,
        .version = clock_real_us(),
        .source_version = change->source_version,
        .expires_ns = change->ttl_ms ? clock_boot_ns() + change->ttl_ms * CLOCK_NS_PER_MS : RECORD_NEVER,
        .key_size = key->size,
        .value_size = change->value_size,
        .tag_count = change->tag_count,
    };
    uint64_t ticket;

    memcpy(record.tags, change->tags, change->tag_count * sizeof *change->tags);
    if (change->source_version)
        return put_local_compared(c, key, &record, change->value, confirm);
    record.as_of = record.born = changing_local(&c->host->control, key);
    *confirm = (struct remote_confirm){.position = record.as_of, .version = record.version};
    if (guarded_is(&c->host->control, key)) /* asked behind the position: guarded.h */
        return FRESHET_GUARDED;
    STEP("put_placed");
    for (int round = 0; round < 2; round++) {
        freshet_result result = host_fill(c->host, key, &record, change->value, &ticket);

        if (result == FRESHET_OK) {
            (void)writer_wait(atomic_load(&c->host->writer), ticket, c->deadline_ns);
            break;
        }
        if (result < 0)
            return result;
        if (!atomic_load(&c->host->writer)) /* dropped: the queue is full; wait for room, once */
            break;
        (void)writer_wait(atomic_load(&c->host->writer), UINT64_MAX, c->deadline_ns);
    }
    return FRESHET_OK;
}

static freshet_result put_any(freshet *cache, const void *key_data, size_t key_size, bool absent, const void *value,
                              size_t value_size, const freshet_write_options *given, freshet_change *change)
{
    struct remote_confirm confirm = {0};
    struct changing c;
    struct tags tags;
    struct key key;
    freshet_result result;

    if ((result = changing_key_check(key_data, key_size)) != FRESHET_OK ||
        (result = changing_start(&c, cache, given, change)) != FRESHET_OK)
        return result;
    if (!value && value_size)
        return fail(FRESHET_EINVAL, "the value is NULL, but has %zu bytes", value_size);
    if (value_size > cache->options.value_max)
        return fail(FRESHET_ETOOBIG, "the value has %zu bytes; value_max is %u", value_size, cache->options.value_max);
    result = tags_take(&tags, &c.host->control.space, c.options.tags, c.options.tag_count, c.options.name_space);
    if (result != FRESHET_OK)
        return result;
    key_make(&key, &c.host->control.space, key_data, key_size);
    struct remote_key remote_key = key_for_remote(&key);
    struct remote_change put = {
        .kind = REMOTE_PUT,
        .keys = &remote_key,
        .count = 1,
        .absent = absent,
        .value = value,
        .value_size = value_size,
        .ttl_ms = c.options.ttl_ms,
        .source_version = c.options.source_version,
        .tags = tags.numbers,
        .tag_count = tags.count,
    };
    changing_waits(&c, &put);
    control_count(&c.host->control, COUNT_PUTS, 1);
    if (!c.ops)
        return changing_end(&c, put_local(&c, &key, &put, &confirm), &confirm);
    result = c.ops->change(atomic_load(&c.host->remote), &put, c.deadline_ns, &confirm);
    if (result == FRESHET_OK || result == FRESHET_UNREPLICATED) {
        struct record record;

        record_from_remote(&record, &confirm.record, &key, value_size);
        (void)host_fill(c.host, &key, &record, value, NULL);
    }
    return changing_end(&c, result, &confirm);
}

freshet_result freshet_put(freshet *cache, const void *key, size_t key_size, const void *value, size_t value_size,
                           const freshet_write_options *options, freshet_change *change)
{
    return put_any(cache, key, key_size, false, value, value_size, options, change);
}

freshet_result freshet_put_absent(freshet *cache, const void *key, size_t key_size,
                                  const freshet_write_options *options, freshet_change *change)
{
    return put_any(cache, key, key_size, true, NULL, 0, options, change);
}

freshet_result freshet_invalidate(freshet *cache, const void *key, size_t key_size,
                                  const freshet_write_options *options, freshet_change *change)
{
    freshet_key one = {.data = key, .size = key_size};

    return freshet_invalidate_many(cache, &one, 1, options, change);
}

struct remote_key *changing_keys(const struct key_space *space, const freshet_key *keys, size_t count)
{
    struct remote_key *remote = calloc(count, sizeof *remote);
    size_t n = 0;

    for (uint32_t p = 0; remote && p < space->partitions && n < count; p++)
        for (size_t i = 0; i < count; i++) {
            struct key key;

            key_make(&key, space, keys[i].data, keys[i].size);
            if (key.partition == p)
                remote[n++] = key_for_remote(&key);
        }
    return remote;
}

freshet_result freshet_invalidate_many(freshet *cache, const freshet_key *keys, size_t count,
                                       const freshet_write_options *given, freshet_change *change)
{
    struct remote_confirm confirm = {0};
    struct changing c;
    struct remote_change invalidate = {.kind = REMOTE_INVALIDATE};
    freshet_result result;

    if (!keys || count == 0 || count > UINT32_MAX / sizeof(struct remote_key))
        return fail(FRESHET_EINVAL, "freshet_invalidate_many: give 1 key or more");
    for (size_t i = 0; i < count; i++)
        if ((result = changing_key_check(keys[i].data, keys[i].size)) != FRESHET_OK)
            return result;
    if ((result = changing_start(&c, cache, given, change)) != FRESHET_OK)
        return result;
    control_count(&c.host->control, COUNT_INVALIDATIONS, count);
    if (!c.ops) {
        for (size_t i = 0; i < count; i++) {
            struct key key;

            key_make(&key, &c.host->control.space, keys[i].data, keys[i].size);
            confirm.position = changing_local(&c.host->control, &key);
        }
        confirm.version = clock_real_us();
        return changing_end(&c, FRESHET_OK, &confirm);
    }
    invalidate.keys = changing_keys(&c.host->control.space, keys, count);
    if (!invalidate.keys)
        return fail(FRESHET_ENOMEM, "no memory for %zu keys", count);
    invalidate.count = (uint32_t)count;
    invalidate.source_version = c.options.source_version;
    changing_waits(&c, &invalidate);
    result = c.ops->change(atomic_load(&c.host->remote), &invalidate, c.deadline_ns, &confirm);
    free((void *)invalidate.keys);
    return changing_end(&c, result, &confirm);
}

/* Change tags or a namespace, as their hashes, in every partition. */
static freshet_result change_tags(struct changing *c, const uint8_t (*hashes)[16], uint32_t count)
{
    struct control *control = &c->host->control;
    struct remote_confirm confirm = {0};
    struct remote_change tags = {.kind = REMOTE_TAGS, .tag_hashes = hashes, .count = count};
    freshet_result result;

    control_count(control, COUNT_TAG_CHANGES, count);
    if (c->ops) {
        changing_waits(c, &tags);
        result = c->ops->change(atomic_load(&c->host->remote), &tags, c->deadline_ns, &confirm);
        return changing_end(c, result, &confirm);
    }
    for (uint32_t p = 0; p < control->space.partitions; p++) {
        confirm.position = control_next_position(control, p);
        for (uint32_t i = 0; i < count; i++)
            (void)control_raise(control_tag_fence(control, p, key_tag_number(hashes[i])), confirm.position);
    }
    confirm.version = clock_real_us();
    return changing_end(c, FRESHET_OK, &confirm);
}

freshet_result freshet_invalidate_tags(freshet *cache, const char *const *tags, size_t count,
                                       const freshet_write_options *given, freshet_change *change)
{
    uint8_t(*hashes)[16];
    struct changing c;
    freshet_result result;

    if (!tags || count == 0 || count > TAGS_CHANGE_MAX)
        return fail(FRESHET_EINVAL, "freshet_invalidate_tags: give 1 to %u tags", TAGS_CHANGE_MAX);
    for (size_t i = 0; i < count; i++)
        if ((result = tags_check(tags[i], "tag")) != FRESHET_OK)
            return result;
    if ((result = changing_start(&c, cache, given, change)) != FRESHET_OK)
        return result;
    if (!(hashes = malloc(count * sizeof *hashes)))
        return fail(FRESHET_ENOMEM, "no memory for %zu tags", count);
    for (size_t i = 0; i < count; i++)
        key_tag(&c.host->control.space, false, tags[i], strlen(tags[i]), hashes[i]);
    result = change_tags(&c, (const uint8_t(*)[16])hashes, (uint32_t)count);
    free(hashes);
    return result;
}

freshet_result freshet_clear_namespace(freshet *cache, const char *name_space, const freshet_write_options *given,
                                       freshet_change *change)
{
    uint8_t hash[1][16];
    struct changing c;
    freshet_result result;

    if ((result = tags_check(name_space, "namespace")) != FRESHET_OK ||
        (result = changing_start(&c, cache, given, change)) != FRESHET_OK)
        return result;
    key_tag(&c.host->control.space, true, name_space, strlen(name_space), hash[0]);
    return change_tags(&c, (const uint8_t(*)[16])hash, 1);
}

freshet_result freshet_clear(freshet *cache, const freshet_write_options *given, freshet_change *change)
{
    struct remote_confirm confirm = {0};
    struct remote_change clear = {.kind = REMOTE_CLEAR};
    struct changing c;
    freshet_result result;

    if ((result = changing_start(&c, cache, given, change)) != FRESHET_OK)
        return result;
    control_count(&c.host->control, COUNT_CLEARS, 1);
    if (c.ops) {
        changing_waits(&c, &clear);
        result = c.ops->change(atomic_load(&c.host->remote), &clear, c.deadline_ns, &confirm);
        return changing_end(&c, result, &confirm);
    }
    for (uint32_t p = 0; p < c.host->control.space.partitions; p++) {
        confirm.position = control_next_position(&c.host->control, p);
        (void)control_raise(&c.host->control.parts[p].clear, confirm.position);
    }
    confirm.version = clock_real_us();
    return changing_end(&c, FRESHET_OK, &confirm);
}

/* ---- tokens ---- */

freshet_result freshet_token_of(freshet *cache, const freshet_answer *answer, char ret_token[FRESHET_TOKEN_SIZE])
{
    struct token token = {0};
    struct host *host;

    if (!cache || !answer || !ret_token || answer->struct_size < offsetof(freshet_answer, epoch) + sizeof answer->epoch)
        return fail(FRESHET_EINVAL, "freshet_token_of: give a cache, an answer of this header's, and room");
    ret_token[0] = '\0';
    if (!(host = host_of(cache)))
        return FRESHET_EIO;
    if (answer->partition >= host->control.space.partitions || answer->position >> 53)
        return fail(FRESHET_EINVAL, "freshet_token_of: the answer is none of this cache's");
    if (answer->position == 0)
        return FRESHET_UNPROVEN;
    token.parts[answer->partition] =
        (struct token_part){token_epoch(&host->control, answer->epoch), answer->position};
    token_encode(&token, &host->control.space, host->shape.name, ret_token);
    return FRESHET_OK;
}

freshet_result freshet_token_join(freshet *cache, const char *a, const char *b, char ret_token[FRESHET_TOKEN_SIZE])
{
    struct token one, two;
    struct host *host;

    if (!cache || !ret_token)
        return fail(FRESHET_EINVAL, "freshet_token_join: the %s is NULL", cache ? "room" : "cache");
    if (!(host = host_of(cache)))
        return FRESHET_EIO;
    if (!token_decode(&one, &host->control.space, host->shape.name, a) ||
        !token_decode(&two, &host->control.space, host->shape.name, b))
        return fail(FRESHET_EINVAL, "a token is garbled, or of another cache");
    token_join(&one, &two);
    token_encode(&one, &host->control.space, host->shape.name, ret_token);
    return FRESHET_OK;
}

freshet_result freshet_flush(freshet *cache, uint32_t deadline_ms)
{
    struct host *host;
    struct writer *writer;

    if (!cache)
        return fail(FRESHET_EINVAL, "the cache is NULL");
    if (!(host = host_of(cache)))
        return FRESHET_EIO;
    host_count_flush(host);
    writer = atomic_load_explicit(&host->writer, memory_order_acquire);
    if (!writer)
        return FRESHET_OK;
    if (!deadline_ms)
        deadline_ms = cache->options.deadline_ms;
    if (writer_wait(writer, UINT64_MAX, clock_boot_ns() + deadline_ms * CLOCK_NS_PER_MS) == FRESHET_OK)
        return FRESHET_OK;
    return fail(FRESHET_ETIMEOUT,
                "the tier's writer did not come through in %u ms: a stopped process may hold its lock", deadline_ms);
}
