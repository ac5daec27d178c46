/*
 * strong.c - strong writes (strong.h): ask the registry, wait, mark, remove.  On the caller's thread and its own line.
 *
 * Partitions are waited for one after the other: their bounds run at the same time.  Between questions there is a pause
 * that grows, since a host that is slow by a little is slow by a lot; the first one is learned from how it went before.
 */
#include <fleet.h>
#include <strong.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define STRONG_PAUSE_LEAST_NS 20000
#define STRONG_PAUSE_MOST_NS  (20 * FLEET_NS_PER_MS)
#define STRONG_FIRST_MOST_NS  (2 * FLEET_NS_PER_MS)
#define STRONG_LEAVE_WORDS    6

/* ---- what is known ---- */

void strong_note(struct strong *strong, uint32_t partition, const struct answer *answer, uint64_t counter,
                 int64_t answered_ns)
{
    struct strong_part *part = &strong->parts[partition];

    *part = (struct strong_part){answer->epoch, answer->position, counter, answered_ns, part->frames + 1};
}

/* A decimal number at *at, ended by a space or the end, which is taken too. */
static bool strong_number(const char **at, const char *end, uint64_t *ret_number)
{
    const char *from = *at;
    uint64_t number = 0;

    for (; *at < end && **at >= '0' && **at <= '9'; (*at)++) {
        if (number > ANSWER_POSITION_MAX)
            return false;
        number = number * 10 + (uint64_t)(**at - '0');
    }
    if (*at == from || (*at < end && **at != ' '))
        return false;
    *at += *at < end;
    *ret_number = number;
    return true;
}

/* The same in hexadecimal, of at most 16 digits. */
static bool strong_hex(const char **at, const char *end, uint64_t *ret_number)
{
    const char *from = *at;
    uint64_t number = 0;

    for (; *at < end && **at != ' '; (*at)++) {
        int digit = **at >= '0' && **at <= '9' ? **at - '0' : **at >= 'a' && **at <= 'f' ? **at - 'a' + 10 : -1;

        if (digit < 0 || *at - from >= 16)
            return false;
        number = number << 4 | (uint64_t)digit;
    }
    if (*at == from)
        return false;
    *at += *at < end;
    *ret_number = number;
    return true;
}

enum strong_state strong_judge(const char *value, size_t size, const struct strong_part *part, uint64_t writer)
{
    const char *at = value, *end = value + size;
    uint64_t applied, position, by, counter;

    if (size == STRONG_MARK_SIZE && value[0] == '!')
        return STRONG_MARKED;
    if (!strong_number(&at, end, &applied))
        return STRONG_BEHIND;
    if (applied >= part->position)
        return STRONG_APPLIED;
    /* A frame ahead of the log.  The host has its position from the channel, where nothing is signed: it counts for the
     * very frame only, and when it is not below the one that Redis gave it. */
    if (part->frames == 1 && strong_number(&at, end, &position) && strong_hex(&at, end, &by) &&
        strong_number(&at, end, &counter) && at == end && position >= part->position && by == writer &&
        counter == part->counter && value[size - 1] != ' ')
        return STRONG_APPLIED;
    return STRONG_BEHIND;
}

void strong_init(struct strong_memory *memory)
{
    pthread_mutex_init(&memory->lock, NULL);
    atomic_init(&memory->pause_ns, STRONG_PAUSE_LEAST_NS);
}

void strong_fini(struct strong_memory *memory)
{
    pthread_mutex_destroy(&memory->lock);
}

void strong_learn(struct strong_memory *memory, uint32_t partition, const uint8_t id[16], int64_t now_ns)
{
    struct strong_registry *registry = &memory->registries[partition];

    pthread_mutex_lock(&memory->lock);
    if (registry->since_ns == 0 || memcmp(registry->id, id, sizeof registry->id) != 0) {
        memcpy(registry->id, id, sizeof registry->id);
        registry->since_ns = now_ns;
    }
    pthread_mutex_unlock(&memory->lock);
}

int64_t strong_known_ns(struct strong_memory *memory, uint32_t partition, const uint8_t id[16], int64_t now_ns)
{
    const struct strong_registry *registry = &memory->registries[partition];
    int64_t known_ns = -1;

    pthread_mutex_lock(&memory->lock);
    if (registry->since_ns != 0 && memcmp(registry->id, id, sizeof registry->id) == 0)
        known_ns = now_ns - registry->since_ns;
    pthread_mutex_unlock(&memory->lock);
    return known_ns;
}

int64_t strong_marked_ns(struct strong_memory *memory, const uint8_t host[16], const char mark[STRONG_MARK_SIZE],
                         int64_t now_ns)
{
    struct strong_mark *found = NULL;
    int64_t marked_ns = 0;

    pthread_mutex_lock(&memory->lock);
    for (uint32_t i = 0; i < STRONG_MARKS && !found; i++)
        if (memory->marks[i].since_ns != 0 && memcmp(memory->marks[i].mark, mark, STRONG_MARK_SIZE) == 0 &&
            memcmp(memory->marks[i].host, host, sizeof memory->marks[i].host) == 0)
            found = &memory->marks[i];
    if (found) {
        marked_ns = now_ns - found->since_ns;
    } else { /* one that is pushed out here only stays for longer */
        found = &memory->marks[memory->marks_next++ % STRONG_MARKS];
        memcpy(found->host, host, sizeof found->host);
        memcpy(found->mark, mark, STRONG_MARK_SIZE);
        found->since_ns = now_ns;
    }
    pthread_mutex_unlock(&memory->lock);
    return marked_ns;
}

/* ---- the registry's words ---- */

/* Swap what stands in a host's place; `from` NULL: whatever it is, `to` NULL: nothing.  False: it was not there, or
 * Redis did not do it. */
static bool strong_swap(struct fleet *fleet, uint32_t partition, const void *host, const char *from, size_t from_size,
                        const char *to, int64_t deadline_ns)
{
    const struct fleet_names *names = &fleet->names[partition];
    const char *argv[STRONG_LEAVE_WORDS];
    size_t sizes[STRONG_LEAVE_WORDS];
    struct fleet_words words = {argv, sizes, 0};
    uint8_t context[FLEET_CONTEXT_SIZE];
    struct resp *reply = NULL;
    struct answer answer;
    bool done;

    fleet_context(fleet, 0, 0, context);
    fleet_word_text(&words, names->head);
    fleet_word_text(&words, names->hosts);
    fleet_word(&words, context, sizeof context);
    fleet_word(&words, host, 16);
    fleet_word(&words, from ? from : "", from ? from_size : 0);
    fleet_word(&words, to ? to : "", to ? STRONG_MARK_SIZE : 0);
    done = lines_script(fleet->lines, SCRIPT_LEAVE, 2, words.count, argv, sizes, deadline_ns, &reply, NULL) ==
               FRESHET_OK &&
           answer_read(&answer, reply) && answer.status == ANSWER_OK;
    resp_free(reply);
    return done;
}

static void strong_draw_mark(char ret_mark[STRONG_MARK_SIZE + 1])
{
    uint64_t random[2];

    seal_random(random, sizeof random);
    (void)snprintf(ret_mark, STRONG_MARK_SIZE + 1, "!%016" PRIx64 "%016" PRIx64, random[0], random[1]);
}

void strong_leave(struct fleet *fleet, bool others, int64_t deadline_ns)
{
    const uint8_t *us = fleet->facts.host_id;
    bool marked[FRESHET_PARTITIONS_MAX] = {false};
    char mark[STRONG_MARK_SIZE + 1];

    /* First the mark, then the proof: a process that proves anything afterwards has reported after the mark, and
     * thereby overwritten it. */
    strong_draw_mark(mark);
    for (uint32_t p = 0; p < fleet->facts.partitions && !lines_away(fleet->lines); p++)
        marked[p] = strong_swap(fleet, p, us, NULL, 0, mark, deadline_ns);
    for (uint32_t p = 0; p < fleet->facts.partitions && !others; p++)
        if (marked[p])
            remote_forget_proof(fleet->host, p);
    remote_step("leaving");
    for (uint32_t p = 0; p < fleet->facts.partitions && !lines_away(fleet->lines); p++)
        if (marked[p])
            (void)strong_swap(fleet, p, us, mark, STRONG_MARK_SIZE, NULL, deadline_ns);
}

/* ---- waiting ---- */

struct strong_host {
    uint8_t id[16];
    bool applied;
};

struct strong_wait {
    struct fleet *fleet;
    const struct strong *strong;
    uint32_t bound_ms; /* the fleet's; until it is known the longest that there may be */
    bool bound_known;
    struct strong_host *hosts;
    uint32_t hosts_count, hosts_room;
    bool bound_waited;
    /* of the partition that is waited for */
    uint32_t partition;
    struct resp *reply; /* the last good answer of the registry; NULL: none yet */
    struct answer answer;
    bool marked;
};

/* An answer of wait.lua that makes sense? */
static bool strong_read(struct strong_wait *w, struct resp *reply, struct answer *answer)
{
    uint64_t bound_ms;
    const void *id;
    size_t size;

    if (!answer_read(answer, reply) || answer->status != ANSWER_OK || answer->count < 3 ||
        !answer_number(answer, 0, FLEET_STALENESS_MOST_MS, &bound_ms) || !answer_bytes(answer, 1, &id, &size) ||
        (size != 0 && size != 16) || !answer->rest[2] || answer->rest[2]->type != RESP_ARRAY ||
        answer->rest[2]->count % 2 != 0)
        return false;
    for (size_t i = 0; i < answer->rest[2]->count; i++)
        if (!answer->rest[2]->items[i] || answer->rest[2]->items[i]->type != RESP_STRING ||
            (i % 2 == 0 && answer->rest[2]->items[i]->size != 16))
            return false;
    if (!w->bound_known || bound_ms > w->bound_ms)
        w->bound_ms = (uint32_t)bound_ms;
    w->bound_known = true;
    return true;
}

/* Ask the registry.  False: there was no answer; the last one still stands. */
static bool strong_ask(struct strong_wait *w, int64_t deadline_ns)
{
    struct fleet *fleet = w->fleet;
    const struct fleet_names *names = &fleet->names[w->partition];
    uint8_t context[FLEET_CONTEXT_SIZE];
    const char *argv[] = {names->head, names->hosts, (const char *)context};
    size_t sizes[] = {strlen(names->head), strlen(names->hosts), sizeof context};
    struct resp *reply = NULL;
    struct answer answer;

    fleet_context(fleet, w->strong->parts[w->partition].epoch, 0, context);
    if (lines_script(fleet->lines, SCRIPT_WAIT, 2, 3, argv, sizes, deadline_ns, &reply, NULL) != FRESHET_OK ||
        !strong_read(w, reply, &answer)) {
        resp_free(reply);
        return false;
    }
    resp_free(w->reply);
    w->reply = reply;
    w->answer = answer;
    if (answer.rest[1]->size == 16)
        strong_learn(&fleet->strong, w->partition, (const uint8_t *)answer.rest[1]->text, fleet_now_ns());
    return true;
}

/* What of the i-th entry of the last answer? */
static enum strong_state strong_state(const struct strong_wait *w, size_t i)
{
    const struct resp *id = w->answer.rest[2]->items[i], *value = w->answer.rest[2]->items[i + 1];

    if (memcmp(id->text, w->fleet->facts.host_id, 16) == 0) /* our own fences were raised before anybody was told */
        return STRONG_APPLIED;
    return strong_judge(value->text, value->size, &w->strong->parts[w->partition], w->fleet->writer);
}

/* Does it still have to be waited for?  What has borne one mark for long enough is dead, and taken off. */
static bool strong_lacks(struct strong_wait *w, size_t i, int64_t deadline_ns)
{
    const struct resp *id = w->answer.rest[2]->items[i], *value = w->answer.rest[2]->items[i + 1];
    enum strong_state state = strong_state(w, i);

    if (state != STRONG_MARKED)
        return state == STRONG_BEHIND;
    return strong_marked_ns(&w->fleet->strong, (const uint8_t *)id->text, value->text, fleet_now_ns()) <=
               strong_bound_ns(w->bound_ms) ||
           !strong_swap(w->fleet, w->partition, id->text, value->text, value->size, NULL, deadline_ns);
}

/* Have all hosts the change, as far as the answer to a question asked at `asked_ns` tells? */
static bool strong_all(struct strong_wait *w, int64_t asked_ns, int64_t deadline_ns)
{
    const struct resp *registry = w->answer.rest[1], *hosts = w->answer.rest[2];
    bool all = registry->size == 16 && w->answer.epoch == w->strong->parts[w->partition].epoch &&
               strong_known_ns(&w->fleet->strong, w->partition, (const uint8_t *)registry->text, asked_ns) >=
                   strong_bound_ns(w->bound_ms);

    for (size_t i = 0; i < hosts->count && all; i += 2)
        all = !strong_lacks(w, i, deadline_ns);
    return all;
}

/* Most of the bound has passed: who has still not applied it may be dead. */
static void strong_mark_all(struct strong_wait *w, int64_t deadline_ns)
{
    const struct resp *hosts = w->answer.rest[2];

    for (size_t i = 0; i < hosts->count && fleet_now_ns() < deadline_ns; i += 2) {
        const struct resp *id = hosts->items[i], *value = hosts->items[i + 1];
        char mark[STRONG_MARK_SIZE + 1];

        if (strong_state(w, i) != STRONG_BEHIND)
            continue;
        strong_draw_mark(mark);
        if (strong_swap(w->fleet, w->partition, id->text, value->text, value->size, mark, deadline_ns))
            (void)strong_marked_ns(&w->fleet->strong, (const uint8_t *)id->text, mark, fleet_now_ns());
    }
}

/* The first question came too early, or in time: come a little later next time, or earlier. */
static void strong_tune(struct strong_memory *memory, bool early)
{
    int64_t pause = atomic_load_explicit(&memory->pause_ns, memory_order_relaxed);

    pause = early ? pause + pause / 2 : pause - pause / 16;
    pause = pause < STRONG_PAUSE_LEAST_NS  ? STRONG_PAUSE_LEAST_NS
            : pause > STRONG_FIRST_MOST_NS ? STRONG_FIRST_MOST_NS
                                           : pause;
    atomic_store_explicit(&memory->pause_ns, pause, memory_order_relaxed);
}

/* Wait for one partition.  False: its bound was waited. */
static bool strong_wait_part(struct strong_wait *w)
{
    const struct strong_part *part = &w->strong->parts[w->partition];
    int64_t pause = atomic_load_explicit(&w->fleet->strong.pause_ns, memory_order_relaxed), least = pause;

    for (int round = 0;; round++) {
        int64_t bound = strong_bound_ns(w->bound_ms), end = part->answered_ns + bound, now = fleet_now_ns(), asked;

        if (now >= end)
            return false;
        remote_wait_pause(pause < end - now ? pause : end - now);
        asked = fleet_now_ns();
        if (asked >= end)
            return false;
        if (strong_ask(w, end)) {
            if (strong_all(w, asked, end)) {
                if (round < 3)
                    strong_tune(&w->fleet->strong, round > 0);
                return true;
            }
            if (!w->marked && asked > part->answered_ns + bound / 4 * 3) {
                strong_mark_all(w, end);
                w->marked = true;
            }
        }
        pause = round == 0 ? least / 2 : pause * 2;
        pause = pause < STRONG_PAUSE_MOST_NS ? pause : STRONG_PAUSE_MOST_NS;
        if (pause > bound / 16)
            pause = bound / 16;
    }
}

/* Add a host's part to its verdict. */
static void strong_count(struct strong_wait *w, const uint8_t id[16], bool applied)
{
    struct strong_host *grown;

    for (uint32_t i = 0; i < w->hosts_count; i++)
        if (memcmp(w->hosts[i].id, id, 16) == 0) {
            w->hosts[i].applied &= applied;
            return;
        }
    if (w->hosts_count == w->hosts_room) {
        if (!(grown = realloc(w->hosts, (w->hosts_room + 16) * sizeof *w->hosts)))
            return; /* it is not named, but was waited for */
        w->hosts = grown;
        w->hosts_room += 16;
    }
    memcpy(w->hosts[w->hosts_count].id, id, 16);
    w->hosts[w->hosts_count++].applied = applied;
}

/* The wait for a partition is over: what has each host done? */
static void strong_count_all(struct strong_wait *w, bool all)
{
    const struct resp *hosts = w->reply ? w->answer.rest[2] : NULL;

    for (size_t i = 0; hosts && i < hosts->count; i += 2) {
        enum strong_state state = strong_state(w, i);

        if (!all || state == STRONG_APPLIED) /* all have it: then who bears a mark was taken off */
            strong_count(w, (const uint8_t *)hosts->items[i]->text, state == STRONG_APPLIED);
    }
}

void strong_wait(struct fleet *fleet, const struct strong *strong, freshet_host_fn fn, void *arg,
                 struct strong_verdict *ret_verdict)
{
    uint32_t known_ms = atomic_load(&fleet->max_staleness_ms);
    struct strong_wait w = {
        .fleet = fleet,
        .strong = strong,
        .bound_ms = known_ms ? known_ms : FLEET_STALENESS_MOST_MS,
        .bound_known = known_ms != 0,
    };

    *ret_verdict = (struct strong_verdict){0};
    for (uint32_t p = 0; p < fleet->facts.partitions; p++) {
        if (strong->parts[p].answered_ns == 0)
            continue;
        w.partition = p;
        w.marked = false;
        bool all = strong_wait_part(&w);
        w.bound_waited |= !all;
        strong_count_all(&w, all);
        resp_free(w.reply);
        w.reply = NULL;
    }
    for (uint32_t i = 0; i < w.hosts_count; i++) {
        char id[33];

        for (int k = 0; k < 16; k++)
            (void)snprintf(id + 2 * (size_t)k, 3, "%02x", w.hosts[i].id[k]);
        if (w.hosts[i].applied)
            ret_verdict->applied++;
        else
            ret_verdict->waited_out++;
        if (fn)
            fn(id, w.hosts[i].applied, arg);
    }
    ret_verdict->bound_waited = w.bound_waited;
    free(w.hosts);
}
