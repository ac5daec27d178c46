/*
 * store.c - records in Redis: fetch, ticket, fill, on the caller's thread and its own line.
 *
 * A fetch reads record and head in one atomic step, so the head's position is as-of: what was confirmed up to it is
 * in what we read.  That proves no age: a master that was demoted answers a plain read as before.  The age is judged by
 * the page's proof; where that is too old for the caller, a look (renew_look_proof) asks the master first.
 *
 * Neither that look nor a ticket's answer proves anything on a page that nobody has proven in this epoch yet: what this
 * host's processes changed last, and only the lost history's master had confirmed, is sent again first (renew.c).  Till
 * then the new master may hold what was filled before it heard of them.
 *
 * Where the head is not of the page's epoch, or is behind what we know, the answer could not be judged; then one look
 * has the page adopt what there is, and the question is asked once more.
 *
 * A record with tags may be older than a change of one of them, which its own key's history does not show.  Where this
 * host may not have heard of it (it joined later), the table of tags is asked behind the record.
 *
 * Whether an answer may be served is core's to judge.  Here only what is no answer at all falls away: void by a
 * clear, past its time, or not sealed by a key holder for just this key - that is a miss, never an error, for anybody
 * may write to Redis.
 */
#include <fleet.h>
#include <store.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define STORE_ROUNDS       2
#define STORE_GIVE_BACK_MS 250
#define STORE_TAG_SLOTS    4096u               /* of the table of tags, behind its word 0 */
#define STORE_TABLE_REACH  (UINT64_C(1) << 31) /* a new epoch's table is 2^32 and more ahead */

enum store_agreement store_agrees(const struct stored_head *head, const struct remote_part *page)
{
    if (!head || head->epoch != page->epoch || head->position < page->position || head->position < page->applied)
        return STORE_DIFFERS;
    return STORE_AGREES;
}

int64_t store_proof(const struct stored_head *head, const struct remote_part *page, const struct renew_proof *proof)
{
    if (page->proven_ns == 0)
        return 0;
    if (proof->asked_ns == 0 || proof->epoch != head->epoch || page->epoch != head->epoch ||
        head->position < proof->position)
        return 0;
    return proof->asked_ns;
}

bool store_lives(const struct stored_record *record, uint64_t clear, uint64_t now_us)
{
    if (record->state != STORED_VALUE && record->state != STORED_ABSENT)
        return false;
    return record->born >= clear && (record->expiry_us == 0 || record->expiry_us > now_us);
}

/* Open what a record seals into the buffer. */
static bool store_open(struct fleet *fleet, const struct remote_key *key, const struct stored_record *record,
                       freshet_buf *buf)
{
    struct seal_facts facts = {
        .kind = record->state == STORED_ABSENT ? 2 : 1,
        .version = record->version,
        .writer = record->writer,
        .source_version = record->source_version,
        .expiry_us = record->expiry_us,
        .key = key->data,
        .key_size = key->size,
        .tags = record->tags,
        .tag_count = record->tag_count,
    };

    memcpy(facts.cache, fleet->cache, sizeof facts.cache);
    if (seal_open(fleet->keyring, &facts, record->sealed, record->sealed_size, buf->data))
        return true;
    buf->size = 0;
    remote_count(fleet->host, REMOTE_FRAMES_REFUSED, 1);
    remote_say(FRESHET_DEBUG, "%s: an entry in Redis was not sealed for its key by a key holder, and is ignored",
               fleet->name);
    return false;
}

/* A record's bytes, read at `position` of `epoch`, as the answer: REMOTE_RECORD or REMOTE_NONE. */
static freshet_result store_answer(struct fleet *fleet, const struct remote_key *key, const void *bytes, size_t size,
                                   uint64_t epoch, uint64_t position, uint64_t clear, struct remote_answer *answer,
                                   freshet_buf *buf)
{
    struct stored_record record;
    size_t room;
    freshet_result result;

    answer->found = REMOTE_NONE;
    if (!stored_record_decode(&record, bytes, size) || !store_lives(&record, clear, fleet_time_us(fleet)) ||
        record.born > position || record.sealed_size < SEAL_OVERHEAD)
        return FRESHET_OK;
    room = record.sealed_size - SEAL_OVERHEAD;
    if (room > fleet->facts.value_max || (record.state == STORED_ABSENT && room != 0))
        return FRESHET_OK;
    /* Sized by the sealed bytes themselves, which are there and are as many; the value replaces them. */
    if ((result = freshet_buf_set(buf, record.sealed, room > 0 ? room : 1)) != FRESHET_OK)
        return result;
    if (!store_open(fleet, key, &record, buf))
        return FRESHET_OK;
    buf->size = room;
    answer->found = REMOTE_RECORD;
    answer->record = (struct remote_record){
        .absent = record.state == STORED_ABSENT,
        .epoch = epoch,
        .as_of = position,
        .born = record.born,
        .version = record.version,
        .writer = record.writer,
        .source_version = record.source_version,
        .expires_ns = fleet_boot_ns(fleet, record.expiry_us),
        .tag_count = record.tag_count,
    };
    for (uint32_t i = 0; i < record.tag_count; i++)
        answer->record.tags[i] = bytes_get_tag(record.tags + (size_t)8 * i);
    return FRESHET_OK;
}

/* ---- tags ---- */

bool store_tags_matter(const struct stored_head *head, const struct remote_record *record,
                       const struct remote_part *page)
{
    if (record->tag_count == 0 || head->newest_tag <= record->born)
        return false;
    /* What changed above the floor and up to `applied` is in the page's own fences, which the judge will look at. */
    return record->born < page->floor || head->newest_tag > page->applied;
}

/* A word of the table, as BITFIELD_RO says it: numbers with a sign.  What no script writes counts as a change. */
static uint64_t store_tag_word(const struct resp *item)
{
    return item && item->type == RESP_INTEGER && item->integer >= 0 ? (uint64_t)item->integer : UINT64_MAX;
}

bool store_tags_stand(const struct resp *reply, const struct stored_head *head, const struct remote_record *record)
{
    uint64_t whole;

    if (!reply || reply->type != RESP_ARRAY || reply->count != record->tag_count + 1u)
        return false;
    /* The table must know of all changes up to the head that the record was read beside, and be of its history. */
    whole = store_tag_word(reply->items[0]);
    if (whole < head->newest_tag || whole > head->position + STORE_TABLE_REACH)
        return false;
    for (uint32_t i = 0; i < record->tag_count; i++)
        if (store_tag_word(reply->items[i + 1]) > record->born)
            return false;
    return true;
}

/* Ask the table of tags about this record; void by it, or unknown, is no entry. */
static freshet_result store_ask_tags(struct fleet *fleet, uint32_t partition, const struct stored_head *head,
                                     int64_t deadline_ns, struct remote_answer *answer)
{
    const struct remote_record *record = &answer->record;
    const char *table = fleet->names[partition].tagfence;
    char slots[REMOTE_TAGS_MAX + 1][24] = {"#0"};
    const char *argv[2 + 3 * (REMOTE_TAGS_MAX + 1)] = {"BITFIELD_RO", table};
    size_t sizes[2 + 3 * (REMOTE_TAGS_MAX + 1)] = {strlen(argv[0]), strlen(table)};
    struct fleet_words words = {argv, sizes, 2};
    struct resp *reply = NULL;
    freshet_result result;

    for (uint32_t i = 0; i <= record->tag_count; i++) {
        if (i > 0)
            (void)snprintf(slots[i], sizeof slots[i], "#%u", 1 + (unsigned)(record->tags[i - 1] % STORE_TAG_SLOTS));
        fleet_word_text(&words, "GET");
        fleet_word_text(&words, "i64");
        fleet_word_text(&words, slots[i]);
    }
    result = lines_ask(fleet->lines, words.count, argv, sizes, deadline_ns, &reply, NULL);
    if (result == FRESHET_OK && !store_tags_stand(reply, head, record))
        answer->found = REMOTE_NONE;
    resp_free(reply);
    return result;
}

/* ---- fetch ---- */

static const struct resp *store_bulk(const struct resp *reply, size_t n)
{
    if (reply->type != RESP_ARRAY || reply->count != 2 || !reply->items[n] || reply->items[n]->type != RESP_STRING)
        return NULL;
    return reply->items[n];
}

/* {record, head} as Redis gave it.  *ret_again: not of the page's history, or its clock is not known yet. */
static freshet_result store_fetched(struct fleet *fleet, const struct remote_key *key, const struct resp *reply,
                                    const struct remote_part *page, const struct renew_proof *proof,
                                    struct stored_head *head, struct remote_answer *answer, freshet_buf *buf,
                                    bool *ret_again)
{
    const struct resp *record = store_bulk(reply, 0), *text = store_bulk(reply, 1);
    bool whole = text && stored_head_decode(head, text->text, text->size);

    answer->found = REMOTE_NONE;
    if (reply->type == RESP_ERROR)
        return remote_fail(FRESHET_EREDIS, "Redis answered MGET with: %.200s", reply->text);
    /* A head from beyond is forged: as-of so high would outlive every change. */
    *ret_again = store_agrees(whole ? head : NULL, page) != STORE_AGREES || remote_clock(fleet->host) == 0 ||
                 head->position > fleet_time_us(fleet) + RENEW_REACH;
    if (*ret_again)
        return FRESHET_OK;
    answer->epoch = head->epoch;
    answer->position = head->position;
    if (!record)
        return FRESHET_OK;
    answer->asked_ns = store_proof(head, page, proof);
    return store_answer(fleet, key, record->text, record->size, head->epoch, head->position, head->clear, answer, buf);
}

/* Will the page's proof do, when the answer comes?  Renewals are at a quarter of the bound, so mostly it will. */
static bool store_proven(struct fleet *fleet, uint32_t partition, int64_t bound_ns)
{
    struct remote_part page;

    remote_part(fleet->host, partition, &page);
    return page.proven_ns != 0 && fleet_now_ns() - page.proven_ns < bound_ns / 4 * 3;
}

freshet_result store_fetch(void *remote, const struct remote_key *key, int64_t bound_ns, int64_t deadline_ns,
                           struct remote_answer *answer, freshet_buf *buf)
{
    struct fleet *fleet = remote;
    const struct fleet_names *names = &fleet->names[key->partition];
    char name[FLEET_NAME_SIZE];
    const char *argv[] = {"MGET", name, names->head};
    size_t sizes[] = {4, fleet_record_name(names, key->hash, name), strlen(names->head)};
    freshet_result result = FRESHET_OK;
    bool again = true, look;

    fleet_mind(fleet);
    look = !store_proven(fleet, key->partition, bound_ns);
    for (int round = 0; result == FRESHET_OK && again && round < STORE_ROUNDS; round++) {
        struct renew_proof proof = {0};
        struct stored_head head;
        struct remote_part page;
        struct resp *reply = NULL;

        if ((round > 0 || look) &&
            (result = renew_look_proof(fleet, key->partition, deadline_ns, &proof)) != FRESHET_OK)
            break;
        remote_part(fleet->host, key->partition, &page);
        answer->asked_ns = 0;
        result = lines_ask(fleet->lines, 3, argv, sizes, deadline_ns, &reply, NULL);
        if (result == FRESHET_OK)
            result = store_fetched(fleet, key, reply, &page, &proof, &head, answer, buf, &again);
        resp_free(reply);
        if (result == FRESHET_OK && !again && answer->found == REMOTE_RECORD &&
            store_tags_matter(&head, &answer->record, &page))
            result = store_ask_tags(fleet, key->partition, &head, deadline_ns, answer);
    }
    if (again)
        answer->found = REMOTE_NONE; /* another history than this host's: what it has is no answer for us */
    return result == FRESHET_MISS || result == FRESHET_EINVAL ? FRESHET_OK : result;
}

/* ---- ticket ---- */

static void store_ticket_taken(const struct answer *said, const uint8_t context[FLEET_CONTEXT_SIZE],
                               struct remote_answer *answer)
{
    const void *prefer;
    size_t size;

    answer->found = REMOTE_TICKET;
    memcpy(answer->ticket.id, context + FLEET_CONTEXT_SIZE - sizeof answer->ticket.id, sizeof answer->ticket.id);
    answer->ticket.epoch = said->epoch;
    answer->ticket.position = said->position;
    answer->ticket.prefer_primary = answer_bytes(said, 0, &prefer, &size) && size == 1 && *(const char *)prefer == '1';
}

/* One question.  *ret_again: a record of another history than the page's. */
static freshet_result store_ticket_ask(struct fleet *fleet, const struct remote_key *key, const char *life,
                                       int64_t deadline_ns, struct remote_answer *answer, freshet_buf *buf,
                                       bool *ret_again)
{
    const struct fleet_names *names = &fleet->names[key->partition];
    uint8_t context[FLEET_CONTEXT_SIZE];
    char name[FLEET_NAME_SIZE];
    char until[24]; /* a ticket that its caller does not hear of would keep the others waiting */
    const char *argv[] = {names->head, name, names->tagfence, (const char *)context, life, until};
    size_t sizes[] = {strlen(names->head), fleet_record_name(names, key->hash, name), strlen(names->tagfence),
                      sizeof context, strlen(life), 0};
    struct resp *reply = NULL;
    struct remote_part page;
    struct answer said;
    const void *bytes;
    size_t size;
    freshet_result result;

    answer->found = REMOTE_NONE;
    *ret_again = false;
    remote_part(fleet->host, key->partition, &page);
    fleet_context(fleet, page.epoch, 0, context);
    fleet_until(fleet, deadline_ns, until);
    sizes[5] = strlen(until);
    answer->asked_ns = page.proven_ns != 0 ? fleet_now_ns() : 0;
    result = lines_script(fleet->lines, SCRIPT_TICKET, 3, 6, argv, sizes, deadline_ns, &reply, NULL);
    if (result != FRESHET_OK)
        return result;
    if (!answer_read(&said, reply) || said.status == ANSWER_CONFLICT) {
        result = remote_fail(FRESHET_EREDIS, "Redis answered the ticket script with: %.200s", said.text);
    } else if (said.status == ANSWER_TICKET) {
        store_ticket_taken(&said, context, answer);
        remote_trace("ticket", key->partition, said.epoch, said.position, bytes_get64(answer->ticket.id), &key->hash,
                     1);
    } else if (said.status == ANSWER_GUARDED) {
        answer->found = REMOTE_GUARDED;
    } else if (said.status == ANSWER_WAIT) {
        /* Too late for it, and yet here in time: our idea of its clock is an old one. */
        *ret_again = said.time_us > strtoull(until, NULL, 10);
    } else if (said.status == ANSWER_RECORD && answer_bytes(&said, 0, &bytes, &size)) {
        *ret_again = said.epoch != page.epoch || said.position < page.position || remote_clock(fleet->host) == 0;
        if (!*ret_again)
            result = store_answer(fleet, key, bytes, size, said.epoch, said.position, 0, answer, buf);
        if (!*ret_again && answer->found == REMOTE_NONE)
            answer->found = REMOTE_SEALED; /* waiting for another's fill would be in vain */
    }
    /* A ticket keeps its worth: what is filled with it is as old as the fill.  But the page has to know the epoch
     * then. */
    if (result == FRESHET_OK && said.epoch != page.epoch && !*ret_again && answer->found == REMOTE_TICKET)
        (void)renew_look(fleet, key->partition, false, deadline_ns);
    resp_free(reply);
    return result;
}

freshet_result store_ticket(void *remote, const struct remote_key *key, uint32_t ticket_ms, int64_t deadline_ns,
                            struct remote_answer *answer, freshet_buf *buf)
{
    struct fleet *fleet = remote;
    freshet_result result;
    char life[24];
    bool again;

    fleet_mind(fleet);
    (void)snprintf(life, sizeof life, "%" PRIu32, ticket_ms);
    result = store_ticket_ask(fleet, key, life, deadline_ns, answer, buf, &again);
    if (result == FRESHET_OK && again) {
        result = renew_look(fleet, key->partition, false, deadline_ns);
        if (result == FRESHET_OK)
            result = store_ticket_ask(fleet, key, life, deadline_ns, answer, buf, &again);
    }
    return result == FRESHET_MISS || result == FRESHET_EINVAL ? FRESHET_OK : result;
}

/* ---- the latest ---- */

/* One question.  *ret_again: of another history than the page's. */
static freshet_result store_latest_ask(struct fleet *fleet, const struct remote_key *key,
                                       const struct remote_record *known, int64_t deadline_ns,
                                       struct remote_answer *answer, freshet_buf *buf, bool *ret_again)
{
    const struct fleet_names *names = &fleet->names[key->partition];
    uint8_t context[FLEET_CONTEXT_SIZE], version[8], writer[8];
    char name[FLEET_NAME_SIZE], born[24];
    const char *argv[] = {names->head, name, names->tagfence, (const char *)context, born, (const char *)version,
                          (const char *)writer};
    size_t sizes[] = {strlen(names->head), fleet_record_name(names, key->hash, name), strlen(names->tagfence),
                      sizeof context, 0, sizeof version, sizeof writer};
    struct resp *reply = NULL;
    struct remote_part page;
    struct answer said;
    const void *bytes;
    size_t size;
    freshet_result result;

    answer->found = REMOTE_NONE;
    *ret_again = false;
    sizes[4] = (size_t)snprintf(born, sizeof born, "%" PRIu64, known ? known->born : 0);
    bytes_put64(version, known ? known->version : 0);
    bytes_put64(writer, known ? known->writer : 0);
    remote_part(fleet->host, key->partition, &page);
    fleet_context(fleet, page.epoch, 0, context);
    answer->asked_ns = page.proven_ns != 0 ? fleet_now_ns() : 0;
    result = lines_script(fleet->lines, SCRIPT_LATEST, 3, 7, argv, sizes, deadline_ns, &reply, NULL);
    if (result != FRESHET_OK)
        return result;
    if (!answer_read(&said, reply) || said.status == ANSWER_CONFLICT) {
        result = remote_fail(FRESHET_EREDIS, "Redis answered the script latest with: %.200s", said.text);
    } else {
        *ret_again = said.epoch != page.epoch || said.position < page.position || remote_clock(fleet->host) == 0;
        answer->epoch = said.epoch;
        answer->position = said.position;
        if (!*ret_again && said.status == ANSWER_CURRENT)
            answer->found = REMOTE_CURRENT;
        else if (!*ret_again && said.status == ANSWER_RECORD && answer_bytes(&said, 0, &bytes, &size))
            result = store_answer(fleet, key, bytes, size, said.epoch, said.position, 0, answer, buf);
    }
    resp_free(reply);
    return result;
}

freshet_result store_latest(void *remote, const struct remote_key *key, const struct remote_record *known,
                            int64_t deadline_ns, struct remote_answer *answer, freshet_buf *buf)
{
    struct fleet *fleet = remote;
    freshet_result result;
    bool again;

    fleet_mind(fleet);
    result = store_latest_ask(fleet, key, known, deadline_ns, answer, buf, &again);
    if (result == FRESHET_OK && again) {
        result = renew_look(fleet, key->partition, false, deadline_ns);
        if (result == FRESHET_OK)
            result = store_latest_ask(fleet, key, known, deadline_ns, answer, buf, &again);
        if (again)
            answer->found = REMOTE_NONE;
    }
    return result == FRESHET_MISS || result == FRESHET_EINVAL ? FRESHET_OK : result;
}

/* ---- fill ---- */

/* The fill script's words and answer; `sealed_size` 0: give the ticket back. */
static freshet_result store_fill_send(struct fleet *fleet, const struct remote_key *key,
                                      const struct remote_ticket *ticket, const struct seal_facts *facts,
                                      const uint8_t *sealed, size_t sealed_size, uint32_t ttl_ms, int64_t deadline_ns,
                                      struct answer *ret_said, struct resp **ret_reply)
{
    const struct fleet_names *names = &fleet->names[key->partition];
    uint8_t context[FLEET_CONTEXT_SIZE], version[8], writer[8], source[8];
    char name[FLEET_NAME_SIZE], state[4], expiry[24], px[24];
    const char *argv[14];
    size_t sizes[14];
    struct fleet_words words = {argv, sizes, 0};
    struct remote_part page;
    freshet_result result;

    remote_part(fleet->host, key->partition, &page);
    fleet_context(fleet, page.epoch, 0, context);
    bytes_put64(version, facts->version);
    bytes_put64(writer, facts->writer);
    bytes_put64(source, facts->source_version);
    (void)snprintf(state, sizeof state, "%u", facts->kind & 3u);
    (void)snprintf(expiry, sizeof expiry, "%" PRIu64, facts->expiry_us);
    (void)snprintf(px, sizeof px, "%" PRIu32, ttl_ms);
    fleet_word_text(&words, names->head);
    fleet_word(&words, name, fleet_record_name(names, key->hash, name));
    fleet_word_text(&words, names->tagfence);
    fleet_word(&words, context, sizeof context);
    fleet_word(&words, ticket->id, sizeof ticket->id);
    fleet_word_text(&words, state);
    fleet_word(&words, version, sizeof version);
    fleet_word(&words, writer, sizeof writer);
    fleet_word(&words, source, sizeof source);
    fleet_word_text(&words, expiry);
    fleet_word(&words, sealed_size ? (const char *)sealed : "", sealed_size);
    fleet_word_text(&words, px);
    fleet_word(&words, facts->tag_count ? (const char *)facts->tags : "", (size_t)8 * facts->tag_count);
    result = lines_script(fleet->lines, SCRIPT_FILL, 3, words.count, argv, sizes, deadline_ns, ret_reply, NULL);
    if (result == FRESHET_OK && (!answer_read(ret_said, *ret_reply) || ret_said->status == ANSWER_CONFLICT))
        return remote_fail(FRESHET_EREDIS, "Redis answered the fill script with: %.200s", ret_said->text);
    return result;
}

/* What a fill's answer says: the record as Redis has it, or that it was refused. */
static freshet_result store_filled(struct fleet *fleet, const struct answer *said, const struct seal_facts *facts,
                                   const struct remote_change *content, struct remote_record *ret_record)
{
    switch (said->status) {
    case ANSWER_OK:
        *ret_record = (struct remote_record){
            .absent = facts->kind == 2,
            .epoch = said->epoch,
            .as_of = said->position,
            .born = said->position,
            .version = facts->version,
            .writer = facts->writer,
            .source_version = facts->source_version,
            .expires_ns = fleet_boot_ns(fleet, facts->expiry_us),
            .tag_count = content->tag_count,
        };
        memcpy(ret_record->tags, content->tags, content->tag_count * sizeof *content->tags);
        return FRESHET_OK;
    case ANSWER_REFUSED:
        return FRESHET_MISS;
    case ANSWER_OUTDATED:
        return FRESHET_OUTDATED;
    default:
        return remote_fail(FRESHET_EREDIS, "Redis answered the fill script with: %.200s", said->text);
    }
}

freshet_result store_fill(void *remote, const struct remote_key *key, const struct remote_ticket *ticket,
                          const struct remote_change *content, int64_t deadline_ns, struct remote_record *ret_record)
{
    struct fleet *fleet = remote;
    size_t size = content->absent ? 0 : content->value_size;
    uint8_t tags[8 * REMOTE_TAGS_MAX];
    struct seal_facts facts = {
        .kind = content->absent ? 2 : 1,
        .version = fleet_time_us(fleet),
        .writer = fleet->writer,
        .source_version = content->source_version,
        .key = key->data,
        .key_size = key->size,
        .tags = tags,
        .tag_count = content->tag_count,
    };
    struct resp *reply = NULL;
    struct answer said;
    freshet_result result;
    uint8_t *sealed;

    if (content->ttl_ms && remote_clock(fleet->host) == 0 &&
        (result = renew_look(fleet, key->partition, false, deadline_ns)) != FRESHET_OK)
        return result; /* an expiry is told in Redis's time */
    if (content->ttl_ms) {
        facts.version = fleet_time_us(fleet);
        facts.expiry_us = facts.version + content->ttl_ms * UINT64_C(1000);
    }
    for (uint32_t i = 0; i < content->tag_count; i++)
        bytes_put_tag(tags + (size_t)8 * i, content->tags[i]);
    if (!(sealed = malloc(size + SEAL_OVERHEAD)))
        return remote_fail(FRESHET_ENOMEM, "no memory to seal a value of %zu bytes", size);
    memcpy(facts.cache, fleet->cache, sizeof facts.cache);
    result = seal_value(fleet->keyring, &facts, content->value, size, sealed);
    if (result == FRESHET_OK) {
        remote_step("filling");
        result = store_fill_send(fleet, key, ticket, &facts, sealed, size + SEAL_OVERHEAD, content->ttl_ms, deadline_ns,
                                 &said, &reply);
    }
    if (result == FRESHET_OK)
        result = store_filled(fleet, &said, &facts, content, ret_record);
    if (result == FRESHET_OK)
        remote_trace("filled", key->partition, said.epoch, said.position, bytes_get64(ticket->id), &key->hash, 1);
    resp_free(reply);
    free(sealed);
    return result;
}

void store_give_back(void *remote, const struct remote_key *key, const struct remote_ticket *ticket)
{
    struct fleet *fleet = remote;
    struct seal_facts none = {0};
    struct resp *reply = NULL;
    struct answer said;

    if (lines_away(fleet->lines))
        return; /* it ends by itself */
    (void)store_fill_send(fleet, key, ticket, &none, NULL, 0, 0, fleet_now_ns() + STORE_GIVE_BACK_MS * FLEET_NS_PER_MS,
                          &said, &reply);
    resp_free(reply);
}
