/*
 * scripts_test.c - the Lua scripts alone, against a real Redis: each promise of PROTOCOL.md, section 4, and each way in
 * which Redis or a stranger may have spoilt what they find.
 *
 * It speaks to Redis over a socket of its own, since keys, values and ids are any bytes.
 */
#include <errno.h>
#include <frame.h>
#include <hosts.h>
#include <poll.h>
#include <scripts.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <stored.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <test.h>
#include <unistd.h>

/* ---- a conversation ------------------------------------------------------------------------------------------ */

struct reply {
    char type;   /* '+' '-' ':' '$' '*'; '0': nil */
    char *text;  /* NUL-terminated */
    size_t size; /* bytes, or items */
    struct reply *items;
};

struct words {
    size_t count;
    const void *data[1100];
    size_t size[1100];
};

static struct redis server;
static int wire = -1;
static char *arena, *arena_at; /* replies live until the test ends */
#define ARENA_SIZE ((size_t)64 << 20)

static void *arena_take(size_t size)
{
    char *at = arena_at;

    EXPECT(size < ARENA_SIZE - (size_t)(arena_at - arena));
    arena_at += (size + 15) & ~(size_t)15;
    return at;
}

static int wire_open(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    EXPECT(strlen(server.socket) < sizeof address.sun_path);
    strcpy(address.sun_path, server.socket);
    EXPECT(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

static char wire_byte(int fd)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    char c;

    EXPECT(poll(&ready, 1, 10000) == 1 && read(fd, &c, 1) == 1);
    return c;
}

static void wire_read(int fd, char *to, size_t size)
{
    while (size > 0) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        ssize_t got;

        EXPECT(poll(&ready, 1, 10000) == 1 && (got = read(fd, to, size)) > 0);
        to += got;
        size -= (size_t)got;
    }
}

static struct reply wire_reply(int fd)
{
    struct reply reply = {.type = wire_byte(fd)};
    char line[1024];
    size_t size = 0;

    while ((line[size] = wire_byte(fd)) != '\r')
        EXPECT(++size < sizeof line - 1);
    line[size] = '\0';
    EXPECT(wire_byte(fd) == '\n');
    if ((reply.type == '$' || reply.type == '*') && atoll(line) < 0) {
        reply.type = '0';
    } else if (reply.type == '*') {
        reply.size = (size_t)atoll(line);
        reply.items = arena_take(reply.size * sizeof *reply.items);
        for (size_t i = 0; i < reply.size; i++)
            reply.items[i] = wire_reply(fd);
    } else {
        bool bulk = reply.type == '$';

        reply.size = bulk ? (size_t)atoll(line) : size;
        reply.text = arena_take(reply.size + 3);
        if (bulk)
            wire_read(fd, reply.text, reply.size + 2);
        else
            memcpy(reply.text, line, size);
        reply.text[reply.size] = '\0';
    }
    return reply;
}

static void wire_write(int fd, const void *data, size_t size)
{
    for (const char *at = data; size > 0;) {
        ssize_t put = send(fd, at, size, MSG_NOSIGNAL);

        EXPECT(put > 0);
        at += put;
        size -= (size_t)put;
    }
}

static void word(struct words *words, const void *data, size_t size)
{
    EXPECT(words->count < 1100);
    words->data[words->count] = data;
    words->size[words->count++] = size;
}

static void word_text(struct words *words, const char *text)
{
    word(words, text, strlen(text));
}

static void word_number(struct words *words, uint64_t number)
{
    char *text = arena_take(24);

    word(words, text, (size_t)snprintf(text, 24, "%llu", (unsigned long long)number));
}

static struct reply wire_ask(int fd, const struct words *words)
{
    size_t size = 32;
    char *bytes, *at;

    for (size_t i = 0; i < words->count; i++)
        size += words->size[i] + 32;
    at = bytes = malloc(size);
    EXPECT(bytes != NULL);
    at += snprintf(at, 32, "*%zu\r\n", words->count);
    for (size_t i = 0; i < words->count; i++) {
        at += snprintf(at, 32, "$%zu\r\n", words->size[i]);
        memcpy(at, words->data[i], words->size[i]);
        at += words->size[i];
        memcpy(at, "\r\n", 2);
        at += 2;
    }
    wire_write(fd, bytes, (size_t)(at - bytes));
    free(bytes);
    return wire_reply(fd);
}

/* A plain command: words of text, NULL-terminated. */
static struct reply ask(const char *first, ...)
{
    struct words words = {.count = 0};
    va_list args;

    va_start(args, first);
    for (const char *text = first; text; text = va_arg(args, const char *))
        word_text(&words, text);
    va_end(args);
    return wire_ask(wire, &words);
}

/* ---- the calls ----------------------------------------------------------------------------------------------- */

#define PREFIX  "freshet:{t:0}:"
#define HEAD    PREFIX "head"
#define LOG     PREFIX "log"
#define HOSTS   PREFIX "hosts"
#define RECORD  PREFIX "record:"
#define TABLE   PREFIX "tagfence"
#define CHANNEL PREFIX "frames"
#define LEAP    (UINT64_C(1) << 32)

static void put64(uint8_t *to, uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8)
        to[i] = (uint8_t)value;
}

static uint64_t get64(const void *from)
{
    uint64_t value = 0;

    for (int i = 0; i < 8; i++)
        value = value << 8 | ((const uint8_t *)from)[i];
    return value;
}

struct context {
    uint64_t epoch, known, hint;
    uint32_t max_staleness;
    uint16_t partitions;
    uint8_t ticket[16];
};

/* A context as a new call would have it: ids that nobody has had before. */
static struct context context(void)
{
    static uint64_t calls;
    struct context now = {.epoch = 0xe000000000000000 + ++calls, .max_staleness = 500, .partitions = 1};

    memset(now.ticket, 0xfe, 16);
    put64(now.ticket + 8, calls);
    return now;
}

static void word_context(struct words *words, const struct context *now)
{
    uint8_t *at = arena_take(64);

    memset(at, 0, 64);
    put64(at, now->epoch);
    memset(at + 8, 0xaa, 8);
    put64(at + 16, now->epoch);
    put64(at + 24, now->known);
    put64(at + 32, now->hint);
    at[42] = (uint8_t)(now->max_staleness >> 8);
    at[43] = (uint8_t)now->max_staleness;
    at[45] = (uint8_t)now->partitions;
    memcpy(at + 48, now->ticket, 16);
    word(words, at, 64);
}

static void word_id(struct words *words, uint64_t id)
{
    uint8_t *at = arena_take(8);

    put64(at, id);
    word(words, at, 8);
}

/* A signed message's bytes, as far as scripts look at them. */
static void word_message(struct words *words, uint64_t version)
{
    uint8_t *at = arena_take(FRAME_SIGNED_HEAD + FRAME_BODY_HEAD);

    memset(at, '\r', FRAME_SIGNED_HEAD + FRAME_BODY_HEAD);
    put64(at + 92, version);
    put64(at + 100, 0xfeed);
    word(words, at, FRAME_SIGNED_HEAD + FRAME_BODY_HEAD);
}

static struct words script(enum script which, int keys)
{
    struct words words = {.count = 0};

    word_text(&words, "EVAL");
    word(&words, script_texts[which].text, script_texts[which].size);
    word_number(&words, (uint64_t)keys);
    return words;
}

static struct reply change(struct context now, int keys, const char *const *names, uint64_t source, uint64_t life_ms)
{
    struct words words = script(SCRIPT_CHANGE, 2 + keys);

    word_text(&words, HEAD);
    word_text(&words, LOG);
    for (int i = 0; i < keys; i++)
        word_text(&words, names[i]);
    word_context(&words, &now);
    word_text(&words, CHANNEL);
    word_message(&words, now.epoch);
    word_text(&words, keys > 0 ? "invalidate" : "clear");
    word_id(&words, source);
    word_number(&words, life_ms);
    return wire_ask(wire, &words);
}

/* A tag's hash, as it stands in a record (its first 8 bytes) and in a message; its slot is `low` mod 4,096, plus 1 for
 * the table's own word. */
static const uint8_t *tag(uint16_t low)
{
    uint8_t *hash = arena_take(16);

    memset(hash, 0xee, 16);
    hash[0] = (uint8_t)low;
    hash[1] = (uint8_t)(low >> 8);
    return hash;
}

static struct reply change_tags_as(struct context now, int count, const uint8_t *const *hashes)
{
    size_t size = FRAME_SIGNED_HEAD + FRAME_BODY_HEAD + (size_t)count * 16;
    struct words words = script(SCRIPT_CHANGE, 3);
    uint8_t *message = arena_take(size);

    memset(message, '\r', size);
    for (int i = 0; i < count; i++)
        memcpy(message + FRAME_SIGNED_HEAD + FRAME_BODY_HEAD + (size_t)i * 16, hashes[i], 16);
    word_text(&words, HEAD);
    word_text(&words, LOG);
    word_text(&words, TABLE);
    word_context(&words, &now);
    word_text(&words, CHANNEL);
    word(&words, message, size);
    word_text(&words, "tags");
    word_id(&words, 0);
    word_number(&words, 0);
    return wire_ask(wire, &words);
}

static struct reply change_tag(uint16_t low)
{
    const uint8_t *hash = tag(low);

    return change_tags_as(context(), 1, &hash);
}

static struct reply invalidate(const char *record)
{
    return change(context(), 1, &record, 0, 0);
}

static struct reply clear(void)
{
    return change(context(), 0, NULL, 0, 0);
}

/* What put and fill say of the record. */
struct content {
    const char *state;
    const void *sealed;
    size_t size;
    uint64_t source, expiry_us, px_ms;
    const void *tags;
    size_t tags_size;
    uint64_t version; /* 0: one of no time */
    uint64_t until_us; /* 0: not said */
};

static const char sealed_text[] = "forty-eight bytes of overhead, and then the value's own";

static struct content content(uint64_t source)
{
    return (struct content){.state = "1", .sealed = sealed_text, .size = sizeof sealed_text, .source = source};
}

static void word_content(struct words *words, const struct content *what)
{
    word_text(words, what->state);
    word_id(words, what->version ? what->version : 0xffffffffffffff01);
    word_id(words, 0xfeed);
    word_id(words, what->source);
    word_number(words, what->expiry_us);
    word(words, what->sealed, what->size);
    word_number(words, what->px_ms);
    word(words, what->tags ? what->tags : "", what->tags_size);
}

static struct reply put_as(struct context now, const char *record, struct content what)
{
    struct words words = script(SCRIPT_PUT, 3);

    word_text(&words, HEAD);
    word_text(&words, LOG);
    word_text(&words, record);
    word_context(&words, &now);
    word_text(&words, CHANNEL);
    word_message(&words, now.epoch);
    word_content(&words, &what);
    if (what.until_us)
        word_number(&words, what.until_us);
    return wire_ask(wire, &words);
}

static struct reply put(const char *record, uint64_t source)
{
    return put_as(context(), record, content(source));
}

static struct reply ticket_until(struct context now, const char *record, uint64_t ms, uint64_t until_us)
{
    struct words words = script(SCRIPT_TICKET, 3);

    word_text(&words, HEAD);
    word_text(&words, record);
    word_text(&words, TABLE);
    word_context(&words, &now);
    word_number(&words, ms);
    if (until_us)
        word_number(&words, until_us);
    return wire_ask(wire, &words);
}

static struct reply ticket_as(struct context now, const char *record, uint64_t ms)
{
    return ticket_until(now, record, ms, 0);
}

static struct reply fill_as(struct context now, const uint8_t ticket[16], const char *record, struct content what)
{
    struct words words = script(SCRIPT_FILL, 3);

    word_text(&words, HEAD);
    word_text(&words, record);
    word_text(&words, TABLE);
    word_context(&words, &now);
    word(&words, ticket, 16);
    word_content(&words, &what);
    return wire_ask(wire, &words);
}

static struct reply fill(const struct context *holder, const char *record, uint64_t source)
{
    return fill_as(context(), holder->ticket, record, content(source));
}

static struct reply give_back(const struct context *holder, const char *record)
{
    return fill_as(context(), holder->ticket, record, (struct content){.state = "0", .sealed = ""});
}

static const uint8_t host_id[16] = "a\r\n\0host's id \xff";

static struct reply report_as(struct context now, const uint8_t host[16], uint64_t applied, uint64_t most)
{
    struct words words = script(SCRIPT_REPORT, 3);

    word_text(&words, HEAD);
    word_text(&words, LOG);
    word_text(&words, HOSTS);
    word_context(&words, &now);
    word(&words, host, 16);
    word_number(&words, applied);
    word_number(&words, most);
    return wire_ask(wire, &words);
}

static struct reply report(uint64_t known, uint64_t applied, uint64_t most)
{
    struct context now = context();

    now.known = known;
    return report_as(now, host_id, applied, most);
}

static bool says(const struct reply *reply, const char *status)
{
    return reply->type == '*' && reply->size > 0 && strcmp(reply->items[0].text, status) == 0;
}

#define EXPECT_SAYS(call, status)                                                                                      \
    do {                                                                                                               \
        const struct reply got_ = (call);                                                                              \
        if (!says(&got_, status))                                                                                      \
            fprintf(stderr, "said: %s\n", got_.type == '*' ? got_.items[0].text : got_.text);                          \
        EXPECT(says(&got_, status));                                                                                   \
    } while (0)

static uint64_t epoch_of(struct reply reply)
{
    EXPECT(reply.type == '*' && reply.size >= 4 && reply.items[1].size == 8);
    return get64(reply.items[1].text);
}

static uint64_t number_of(struct reply reply, size_t item)
{
    EXPECT(reply.type == '*' && reply.size > item);
    return strtoull(reply.items[item].text, NULL, 10);
}

static uint64_t position_of(struct reply reply)
{
    EXPECT(reply.type == '*' && reply.size >= 4);
    return number_of(reply, 2);
}

static struct stored_head head(void)
{
    struct reply bytes = ask("GET", HEAD, NULL);
    struct stored_head got;

    EXPECT(bytes.type == '$' && stored_head_decode(&got, bytes.text, bytes.size));
    return got;
}

static struct stored_record record(const char *name)
{
    struct reply bytes = ask("GET", name, NULL);
    struct stored_record got;

    EXPECT(bytes.type == '$' && stored_record_decode(&got, bytes.text, bytes.size));
    return got;
}

static long long whole(struct reply reply)
{
    EXPECT(reply.type == ':');
    return atoll(reply.text);
}

static long long pttl(const char *name)
{
    return whole(ask("PTTL", name, NULL));
}

/* Overwrite 8 bytes of a string. */
static void spoil64(const char *name, const char *at, uint64_t value)
{
    struct words words = {.count = 0};

    word_text(&words, "SETRANGE");
    word_text(&words, name);
    word_text(&words, at);
    word_id(&words, value);
    EXPECT(wire_ask(wire, &words).type == ':');
}

static uint64_t redis_us(void)
{
    struct reply time = ask("TIME", NULL);

    return strtoull(time.items[0].text, NULL, 10) * 1000000 + strtoull(time.items[1].text, NULL, 10);
}

static void start(const char *const *more)
{
    arena = arena_at = malloc(ARENA_SIZE);
    EXPECT(arena != NULL);
    redis_start(&server, more);
    wire = wire_open();
}

/* A changes' counter of the server's: what was written since its start. */
static long long writes(void)
{
    struct reply info = ask("INFO", "persistence", NULL);
    const char *at = strstr(info.text, "rdb_changes_since_last_save:");

    EXPECT(at != NULL);
    return atoll(at + strlen("rdb_changes_since_last_save:"));
}

static const char *const some[] = {RECORD "a", RECORD "b", RECORD "c", RECORD "d"};

/* ---- epochs and positions ------------------------------------------------------------------------------------ */

TEST(the_first_call_begins_an_epoch)
{
    struct context now = context();
    struct reply reply;
    struct stored_head first;
    uint64_t time;

    start(NULL);
    time = redis_us();
    reply = report_as(now, host_id, 0, 10);
    EXPECT_SAYS(reply, "OK");
    EXPECT(epoch_of(reply) == now.epoch && position_of(reply) >= time + LEAP);
    EXPECT(number_of(reply, 3) >= time && number_of(reply, 3) <= redis_us());
    EXPECT_EQ(position_of(reply), number_of(reply, 4)); /* clear */
    EXPECT(number_of(reply, 5) == 500 && reply.items[6].size == 16 && reply.items[7].size == 0);
    first = head();
    EXPECT(first.epoch == now.epoch && first.position == position_of(reply) && first.clear == first.position);
    EXPECT(first.partitions == 1 && first.max_staleness_ms == 500);
    EXPECT(memcmp(first.registry, reply.items[6].text, 16) == 0);
    EXPECT(epoch_of(report(0, 0, 10)) == now.epoch && position_of(report(0, 0, 10)) == first.position);
}

TEST(positions_are_dense_and_the_log_has_every_change)
{
    uint64_t epoch, from;
    struct reply reply;

    start(NULL);
    reply = report(0, 0, 10);
    epoch = epoch_of(reply);
    from = position_of(reply);
    EXPECT_EQ(position_of(invalidate(some[0])), from + 1);
    EXPECT_EQ(position_of(change(context(), 3, some, 0, 0)), from + 2);
    EXPECT_EQ(position_of(put(some[0], 0)), from + 3);
    EXPECT_EQ(position_of(clear()), from + 4);
    reply = report(epoch, from, 10);
    EXPECT(position_of(reply) == from + 4 && reply.items[7].size == 4);
    for (size_t i = 0; i < 4; i++) {
        struct reply *entry = &reply.items[7].items[i];

        EXPECT(strtoull(entry->items[0].text, NULL, 10) == from + 1 + i && entry->items[1].size == 128);
    }
    EXPECT(get64(reply.items[7].items[1].items[1].text + 92) != get64(reply.items[7].items[2].items[1].text + 92));
    reply = report(epoch, from + 2, 1);
    EXPECT(reply.items[7].size == 1 && strtoull(reply.items[7].items[0].items[0].text, NULL, 10) == from + 3);
    EXPECT_EQ(report(epoch, from + 4, 10).items[7].size, 0);
    EXPECT_EQ(report(epoch, from, 0).items[7].size, 0);
    EXPECT_EQ(report(epoch + 1, from, 10).items[7].size, 0); /* another history's reader gets nothing */
}

/* Put something else where one of ours should be. */
static void seat_stranger(const char *name, int kind)
{
    EXPECT(ask("DEL", name, NULL).type == ':');
    if (kind == 0)
        EXPECT(ask("RPUSH", name, "not", "ours", NULL).type == ':');
    else if (kind == 1)
        EXPECT(ask("SET", name, "not ours", NULL).type == '+');
    else
        EXPECT(ask("XADD", name, "9007199254740993-0", "not", "ours", NULL).type == '$');
}

/* The reply shows that an epoch has begun, above all that was. */
static void expect_new_epoch(struct stored_head before, struct reply reply)
{
    struct stored_head now = head();

    EXPECT_SAYS(reply, "OK");
    EXPECT(epoch_of(reply) != before.epoch && epoch_of(reply) == now.epoch);
    EXPECT(now.clear >= before.position + LEAP && memcmp(now.registry, before.registry, 16) != 0);
}

TEST(another_server_begins_another_epoch)
{
    static const char *const more[] = {"--enable-debug-command", "yes", NULL};
    struct stored_head before;
    struct context holder = context();

    start(more);
    EXPECT_SAYS(put(some[0], 0), "OK");
    EXPECT_SAYS(ticket_as(holder, some[1], 5000), "TICKET");
    before = head();
    EXPECT(ask("DEBUG", "CHANGE-REPL-ID", NULL).type == '+');
    expect_new_epoch(before, report(before.epoch, before.position, 10));
    EXPECT(whole(ask("EXISTS", LOG, NULL)) == 0);
    EXPECT_SAYS(ticket_as(context(), some[0], 100), "TICKET"); /* what was there is void */
    EXPECT_SAYS(fill(&holder, some[1], 0), "REFUSED");
}

/* Every script rotates by itself, whichever comes first. */
TEST(every_script_begins_the_epoch_when_it_is_first)
{
    static const char *const more[] = {"--enable-debug-command", "yes", NULL};
    struct stored_head before;
    struct context holder = context();

    start(more);
    EXPECT_SAYS(report(0, 0, 0), "OK");
    for (int i = 0; i < 5; i++) {
        struct reply reply;

        EXPECT_SAYS(put(some[0], 0), "OK");
        before = head();
        EXPECT(ask("DEBUG", "CHANGE-REPL-ID", NULL).type == '+');
        switch (i) {
        case 0:
            reply = invalidate(some[0]);
            break;
        case 1:
            reply = clear();
            break;
        case 2:
            reply = put(some[0], 0);
            break;
        case 3:
            reply = ticket_as(context(), some[0], 100);
            break;
        default:
            reply = fill(&holder, some[0], 0);
            break;
        }
        EXPECT(says(&reply, i < 3 ? "OK" : i == 3 ? "TICKET" : "REFUSED"));
        EXPECT(epoch_of(reply) != before.epoch && position_of(reply) >= before.position + LEAP);
        EXPECT_EQ(head().position, position_of(reply));
        EXPECT_SAYS(invalidate(some[1]), "OK");
        EXPECT_EQ(head().position, position_of(reply) + 1);
    }
}

TEST(a_server_without_its_data_begins_another_epoch)
{
    struct stored_head before;

    start(NULL);
    EXPECT_SAYS(put(some[0], 0), "OK");
    before = head();
    EXPECT(ask("FLUSHALL", NULL).type == '+');
    EXPECT_SAYS(report(0, 0, 0), "OK");
    EXPECT(head().epoch != before.epoch && head().position > before.position);
    before = head();
    redis_restart(&server);
    (void)close(wire);
    wire = wire_open();
    EXPECT_SAYS(report(0, 0, 0), "OK");
    EXPECT(head().epoch != before.epoch && head().position > before.position);
}

TEST(a_hint_above_the_position_begins_one_epoch_and_no_storm)
{
    struct context now = context();
    struct stored_head before;

    start(NULL);
    EXPECT_SAYS(invalidate(some[0]), "OK");
    before = head();
    now.hint = before.position;
    EXPECT(epoch_of(report_as(now, host_id, 0, 0)) == before.epoch);
    now = context();
    now.hint = before.position + 1;
    expect_new_epoch(before, report_as(now, host_id, 0, 0));
    before = head();
    EXPECT(before.clear >= now.hint + LEAP);
    for (int i = 0; i < 5; i++) {
        uint64_t hint = now.hint;

        now = context();
        now.hint = hint;
        EXPECT(epoch_of(report_as(now, host_id, 0, 0)) == before.epoch);
    }
}

TEST(an_unbelievable_hint_is_ignored)
{
    struct context now = context();
    struct stored_head before;

    start(NULL);
    EXPECT_SAYS(invalidate(some[0]), "OK");
    before = head();
    now.hint = (UINT64_C(1) << 53) - 1;
    EXPECT(epoch_of(report_as(now, host_id, 0, 0)) == before.epoch);
    now.hint = UINT64_MAX;
    EXPECT(epoch_of(report_as(now, host_id, 0, 0)) == before.epoch);
    for (int i = 0; i < 2; i++) { /* nor used for a start */
        EXPECT(ask("DEL", HEAD, NULL).type == ':');
        EXPECT_SAYS(report_as(now, host_id, 0, 0), "OK");
        EXPECT(head().position < UINT64_C(1) << 52);
        now.hint = UINT64_C(3) << 51;
    }
    now = context();
    now.hint = redis_us() + (UINT64_C(1) << 50) - 8 * LEAP; /* high, but believed: and the fleet lives on */
    before = head();
    expect_new_epoch(before, report_as(now, host_id, 0, 0));
    before = head();
    EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT(head().epoch == before.epoch && head().position == before.position + 1);
    seat_stranger(LOG, 2); /* an id beyond all bounds: leapt over without believing it */
    expect_new_epoch(before, invalidate(some[0]));
    EXPECT(head().position < before.position + 2 * LEAP);
}

TEST(a_garbled_head_is_replaced)
{
    static const struct {
        const char *at;
        uint64_t value;
    } spoils[] = {
        {"0", 0},
        {"52", UINT64_MAX},
        {"52", (UINT64_C(1) << 53) - 1},
        {"60", (UINT64_C(1) << 53) - 1},
        {"132", 0} /* too long */,
    };
    uint64_t last = 0;

    start(NULL);
    for (size_t i = 0; i < sizeof spoils / sizeof *spoils; i++) {
        EXPECT_SAYS(invalidate(some[0]), "OK");
        EXPECT(head().position > last);
        last = head().position;
        spoil64(HEAD, spoils[i].at, spoils[i].value);
        EXPECT_SAYS(invalidate(some[0]), "OK");
        EXPECT(head().position > last + LEAP && head().position < last + 10 * LEAP);
    }
    EXPECT(ask("SET", HEAD, "", NULL).type == '+');
    EXPECT_SAYS(invalidate(some[0]), "OK");
}

/* No host would ever see a position above it again. */
TEST(a_head_from_beyond_the_clock_heals_at_the_next_call)
{
    uint64_t beyond[] = {(UINT64_C(1) << 53) - (UINT64_C(1) << 33) - 5, 0}, epoch;

    start(NULL);
    beyond[1] = redis_us() + (UINT64_C(1) << 50) + 60000000;
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        EXPECT_SAYS(invalidate(some[0]), "OK");
        spoil64(HEAD, "4", 0x666);
        spoil64(HEAD, "52", beyond[i]);
        EXPECT_SAYS(report(0x666, beyond[i], 0), "OK");
        epoch = head().epoch;
        EXPECT(epoch != 0x666 && head().position < redis_us() + 8 * LEAP);
        EXPECT_SAYS(invalidate(some[0]), "OK"); /* and lives on */
        EXPECT_EQ(head().epoch, epoch);
    }
}

/* What is just believed must not begin an epoch that is not: that would be one epoch a call. */
TEST(a_head_at_the_edge_of_belief_begins_no_storm)
{
    static const char *const more[] = {"--enable-debug-command", "yes", NULL};
    uint64_t epoch;

    start(more);
    EXPECT_SAYS(invalidate(some[0]), "OK");
    spoil64(HEAD, "52", redis_us() + (UINT64_C(1) << 50) - 1);
    EXPECT(ask("DEBUG", "CHANGE-REPL-ID", NULL).type == '+');
    EXPECT_SAYS(invalidate(some[0]), "OK");
    epoch = head().epoch;
    for (int i = 0; i < 5; i++) {
        EXPECT_SAYS(invalidate(some[0]), "OK");
        EXPECT_EQ(head().epoch, epoch);
    }
}

TEST(a_replica_answers_nothing)
{
    struct stored_head before;
    struct context holder = context();
    struct reply replies[5];

    start(NULL);
    EXPECT_SAYS(put(some[0], 0), "OK");
    before = head();
    EXPECT(ask("REPLICAOF", "127.0.0.1", "1", NULL).type == '+');
    replies[0] = invalidate(some[0]);
    replies[1] = put(some[0], 0);
    replies[2] = ticket_as(context(), some[0], 100);
    replies[3] = fill(&holder, some[0], 0);
    replies[4] = report(before.epoch, before.position, 10);
    for (int i = 0; i < 5; i++)
        EXPECT(replies[i].type == '-' && strncmp(replies[i].text, "READONLY", 8) == 0);
    EXPECT(ask("REPLICAOF", "NO", "ONE", NULL).type == '+'); /* promoted: a history of its own */
    expect_new_epoch(before, report(before.epoch, before.position, 10));
}

/* ---- conflicts ----------------------------------------------------------------------------------------------- */

static void expect_conflict(struct context now, const char *what, const char *theirs, const char *ours)
{
    struct reply before = ask("GET", HEAD, NULL), after, reply[5];
    long long written = writes();
    uint8_t ticket[16] = {1};

    reply[0] = report_as(now, host_id, 0, 10);
    reply[1] = change(now, 1, some, 0, 0);
    reply[2] = put_as(now, some[0], content(0));
    reply[3] = ticket_as(now, some[0], 100);
    reply[4] = fill_as(now, ticket, some[0], content(0));
    for (int i = 0; i < 5; i++) {
        EXPECT_SAYS(reply[i], "CONFLICT");
        EXPECT(reply[i].size == 4 && strcmp(reply[i].items[1].text, what) == 0);
        EXPECT(strcmp(reply[i].items[2].text, theirs) == 0 && strcmp(reply[i].items[3].text, ours) == 0);
    }
    after = ask("GET", HEAD, NULL);
    EXPECT(after.size == before.size && memcmp(after.text, before.text, after.size) == 0);
    EXPECT_EQ(writes(), written);
}

TEST(a_host_that_does_not_fit_the_fleet_changes_nothing)
{
    struct context now = context();

    start(NULL);
    EXPECT_SAYS(report_as(now, host_id, 0, 10), "OK");
    now.partitions = 16;
    expect_conflict(now, "partitions", "1", "16");
    now = context();
    now.max_staleness = 501;
    expect_conflict(now, "max_staleness", "500", "501");
    now.max_staleness = 499;
    EXPECT_SAYS(report_as(now, host_id, 0, 10), "OK");
    EXPECT_EQ(head().max_staleness_ms, 500);
    spoil64(HEAD, "12", 0x3031323334353637); /* of another server: still the fleet's figures */
    now.max_staleness = 501;
    expect_conflict(now, "max_staleness", "500", "501");
    now.max_staleness = 499;
    EXPECT_SAYS(report_as(now, host_id, 0, 10), "OK");
    EXPECT_EQ(head().max_staleness_ms, 500);
    EXPECT(ask("SETRANGE", HEAD, "2", "2", NULL).type == ':'); /* a format to come: '2' is 50 */
    expect_conflict(context(), "format", "50", "2");
}

TEST(a_call_that_makes_no_sense_changes_nothing)
{
    struct content what = content(0);
    struct context now = context();
    struct words words;
    long long written;

    start(NULL);
    words = script(SCRIPT_REPORT, 3);
    EXPECT_SAYS(report(0, 0, 0), "OK");
    written = writes();
    what.size = 47;
    EXPECT(put_as(now, some[0], what).type == '-' && fill_as(now, now.ticket, some[0], what).type == '-');
    what = content(0);
    what.state = "0";
    EXPECT(put_as(now, some[0], what).type == '-' && fill_as(now, now.ticket, some[0], what).type == '-');
    what.state = "3";
    EXPECT(put_as(now, some[0], what).type == '-');
    what = content(0);
    what.expiry_us = UINT64_C(1) << 53;
    EXPECT(put_as(now, some[0], what).type == '-');
    EXPECT(ticket_as(now, some[0], 0).type == '-');
    word_text(&words, HEAD);
    word_text(&words, LOG);
    word_text(&words, HOSTS);
    word_text(&words, "a short context");
    word(&words, host_id, 16);
    word_text(&words, "0");
    word_text(&words, "0");
    EXPECT(wire_ask(wire, &words).type == '-');
    EXPECT_EQ(writes(), written);
}

/* ---- changes and records ------------------------------------------------------------------------------------- */

TEST(a_put_is_stored_as_it_came)
{
    uint8_t sealed[256];
    struct content what = content(7);
    struct stored_record got;
    struct reply reply;

    start(NULL);
    for (int i = 0; i < 256; i++)
        sealed[i] = (uint8_t)i;
    what.sealed = sealed;
    what.size = sizeof sealed;
    what.expiry_us = redis_us() + 60000000;
    what.px_ms = 60000;
    reply = put_as(context(), some[0], what);
    EXPECT_SAYS(reply, "OK");
    got = record(some[0]);
    EXPECT(got.state == STORED_VALUE && got.born == position_of(reply) && got.changed_us == number_of(reply, 3));
    EXPECT(got.version == 0xffffffffffffff01 && got.writer == 0xfeed && got.source_version == 7 &&
           got.source_seen == 7);
    EXPECT(got.expiry_us == what.expiry_us && got.sealed_size == 256 && memcmp(got.sealed, sealed, 256) == 0);
    EXPECT(pttl(some[0]) > 50000 && pttl(some[0]) <= 60000);
    reply = ticket_as(context(), some[0], 100);
    EXPECT_SAYS(reply, "RECORD");
    EXPECT(reply.items[4].size == 101 + 256 && memcmp(reply.items[4].text + 101, sealed, 256) == 0);
    what.state = "2";
    what.size = 48;
    what.tags = sealed;
    what.tags_size = 136; /* all that there may be */
    EXPECT_SAYS(put_as(context(), some[0], what), "OK");
    got = record(some[0]);
    EXPECT(got.state == STORED_ABSENT && got.tag_count == 17 && memcmp(got.tags, sealed, 136) == 0);
    EXPECT(got.sealed_size == 48);
    what.tags_size = 144;
    EXPECT(put_as(context(), some[0], what).type == '-');
    what.tags_size = 7;
    EXPECT(put_as(context(), some[0], what).type == '-');
}

TEST(a_put_that_its_caller_has_given_up_is_an_invalidation)
{
    struct content late = content(0);
    struct stored_record got;
    struct reply reply;

    start(NULL);
    late.version = redis_us();
    late.until_us = redis_us() + 60000000;
    EXPECT_SAYS(put_as(context(), some[0], late), "OK");
    EXPECT(record(some[0]).state == STORED_VALUE);
    late.until_us = redis_us() - 1;
    reply = put_as(context(), some[0], late);
    EXPECT_SAYS(reply, "GUARDED");
    got = record(some[0]);
    EXPECT(got.state == STORED_TOMBSTONE && got.born == position_of(reply));
}

/* Then `until` says nothing of how late it is. */
TEST(a_put_from_before_the_clock_was_put_back_is_an_invalidation)
{
    struct content what = content(0);

    start(NULL);
    what.version = redis_us() + 1000000;
    what.until_us = what.version + 60000000;
    EXPECT_SAYS(put_as(context(), some[0], what), "GUARDED");
    EXPECT(record(some[0]).state == STORED_TOMBSTONE);
    what.version = redis_us() + 20000; /* no more than a host's idea of it may be off */
    EXPECT_SAYS(put_as(context(), some[0], what), "OK");
    EXPECT(record(some[0]).state == STORED_VALUE);
}

TEST(a_ticket_that_its_caller_has_given_up_is_not_granted)
{
    start(NULL);
    EXPECT_SAYS(ticket_until(context(), some[0], 5000, redis_us() - 1), "WAIT");
    EXPECT_SAYS(ticket_until(context(), some[0], 5000, redis_us() + 60000000), "TICKET");
    EXPECT_SAYS(put(some[1], 0), "OK"); /* an answer is one, however late it comes */
    EXPECT_SAYS(ticket_until(context(), some[1], 5000, redis_us() - 1), "RECORD");
}

TEST(only_what_never_expires_stays_for_ever)
{
    struct content what = content(0);

    start(NULL);
    EXPECT_SAYS(put(some[0], 0), "OK");
    EXPECT_EQ(pttl(some[0]), -1);
    what.expiry_us = redis_us() + 30000000; /* an expiry, and no px */
    EXPECT_SAYS(put_as(context(), some[0], what), "OK");
    EXPECT(pttl(some[0]) > 25000 && pttl(some[0]) <= 30000);
    what.expiry_us = redis_us() + 50000; /* short: kept while its change is to be remembered */
    what.px_ms = 50;
    EXPECT_SAYS(put_as(context(), some[0], what), "OK");
    EXPECT(pttl(some[0]) > 9000);
    EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT(pttl(some[0]) > 9000 && pttl(some[0]) <= 10000);
    EXPECT_SAYS(change(context(), 1, some, 5, 100000), "OK");
    EXPECT(pttl(some[0]) > 90000 && pttl(some[0]) <= 100000);
    EXPECT_SAYS(change(context(), 1, some, 0, 100000), "OK"); /* the source version was seen before */
    EXPECT(pttl(some[0]) > 90000);
    EXPECT_SAYS(change(context(), 1, some, 0, 10), "OK");
    EXPECT(pttl(some[0]) > 9000);
    EXPECT_SAYS(ticket_as(context(), some[1], 3000), "TICKET");
    EXPECT(pttl(some[1]) > 3500 && pttl(some[1]) <= 4000);
}

TEST(an_invalidation_leaves_a_tombstone_that_names_the_change)
{
    struct context now = context();
    struct stored_record got;
    struct reply reply;

    start(NULL);
    EXPECT_SAYS(put(some[0], 3), "OK");
    reply = change(now, 2, some, 0, 60000);
    EXPECT_SAYS(reply, "OK");
    for (int i = 0; i < 2; i++) {
        got = record(some[i]);
        EXPECT(got.state == STORED_TOMBSTONE && got.sealed_size == 0 && got.born == position_of(reply));
        EXPECT(got.version == now.epoch && got.writer == 0xfeed && got.changed_us == number_of(reply, 3));
        EXPECT_EQ(got.source_seen, i == 0 ? 3 : 0);
    }
    EXPECT(whole(ask("EXISTS", some[2], NULL)) == 0);
    EXPECT_SAYS(ticket_as(context(), some[0], 100), "TICKET");
}

TEST(a_call_takes_1024_keys)
{
    static char names[1024][64];
    const char *list[1024];
    uint64_t from;

    start(NULL);
    for (int i = 0; i < 1024; i++) {
        (void)snprintf(names[i], sizeof names[i], RECORD "%d", i);
        list[i] = names[i];
    }
    EXPECT_SAYS(put(list[1023], 9), "OK");
    from = head().position;
    EXPECT_EQ(position_of(change(context(), 1024, list, 0, 60000)), from + 1);
    EXPECT_EQ(whole(ask("DBSIZE", NULL)), 1024 + 2);
    EXPECT(record(list[1023]).source_seen == 9 && record(list[0]).state == STORED_TOMBSTONE);
    EXPECT(record(list[1023]).born == from + 1);
}

TEST(a_clear_voids_what_was_there)
{
    struct context holder = context();
    struct stored_head before;

    start(NULL);
    EXPECT_SAYS(put(some[0], 9), "OK");
    EXPECT_SAYS(ticket_as(holder, some[1], 5000), "TICKET");
    before = head();
    EXPECT_SAYS(clear(), "OK");
    EXPECT(head().clear == before.position + 1 && head().epoch == before.epoch);
    EXPECT_EQ(number_of(report(before.epoch, 0, 0), 4), before.position + 1);
    EXPECT_SAYS(fill(&holder, some[1], 0), "REFUSED");
    EXPECT_SAYS(ticket_as(context(), some[0], 100), "TICKET");
    EXPECT(record(some[0]).state == STORED_TOMBSTONE && pttl(some[0]) > 0);
    EXPECT_SAYS(put(some[0], 8), "OK"); /* source versions begin again */
    EXPECT_SAYS(ticket_as(context(), some[0], 100), "RECORD");
}

TEST(what_is_past_its_expiry_is_no_entry)
{
    struct content what = content(0);
    uint64_t end;

    start(NULL);
    what.expiry_us = end = redis_us() + 30000;
    what.px_ms = 60000;
    EXPECT_SAYS(put_as(context(), some[0], what), "OK");
    EXPECT(test_until(redis_us() > end, 5000));
    EXPECT_SAYS(ticket_as(context(), some[0], 100), "TICKET");
    EXPECT_SAYS(put(some[1], 0), "OK");
    spoil64(some[1], "4", head().position + 1); /* born in a future: not here */
    EXPECT_SAYS(ticket_as(context(), some[1], 100), "TICKET");
}

/* ---- tickets ------------------------------------------------------------------------------------------------- */

TEST(one_caller_fills_and_the_others_wait)
{
    struct context holder = context(), other = context();
    struct reply reply;
    long long log;

    start(NULL);
    EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT_SAYS(ticket_as(holder, some[0], 5000), "TICKET");
    EXPECT_SAYS(ticket_as(other, some[0], 5000), "WAIT");
    EXPECT_SAYS(ticket_as(holder, some[0], 5000), "TICKET"); /* asked again: still his */
    EXPECT_SAYS(fill(&other, some[0], 0), "REFUSED");
    log = whole(ask("XLEN", LOG, NULL));
    reply = fill(&holder, some[0], 4);
    EXPECT_SAYS(reply, "OK");
    EXPECT(whole(ask("XLEN", LOG, NULL)) == log && position_of(reply) == head().position);
    EXPECT(record(some[0]).born == head().position && record(some[0]).source_seen == 4);
    EXPECT(record(some[0]).changed_us > 0);
    EXPECT_SAYS(fill(&holder, some[0], 4), "REFUSED"); /* once */
    EXPECT_SAYS(ticket_as(other, some[0], 5000), "RECORD");
}

TEST(a_ticket_is_broken_by_whatever_happens)
{
    static const char *const more[] = {"--enable-debug-command", "yes", NULL};
    enum { CHANGE, PUT, CLEAR, ROTATION, LOST, BACK, KINDS };

    start(more);
    for (int what = 0; what < KINDS; what++) {
        struct context holder = context();

        EXPECT_SAYS(invalidate(some[0]), "OK");
        EXPECT_SAYS(ticket_as(holder, some[0], 60000), "TICKET");
        switch (what) {
        case CHANGE:
            EXPECT_SAYS(change(context(), 3, some, 0, 0), "OK");
            break;
        case PUT:
            EXPECT_SAYS(put(some[0], 0), "OK");
            break;
        case CLEAR:
            EXPECT_SAYS(clear(), "OK");
            break;
        case ROTATION:
            EXPECT(ask("DEBUG", "CHANGE-REPL-ID", NULL).type == '+');
            break;
        case LOST:
            EXPECT(ask("DEL", some[0], NULL).type == ':');
            break;
        default:
            EXPECT_SAYS(give_back(&holder, some[0]), "OK");
            break;
        }
        EXPECT_SAYS(fill(&holder, some[0], 0), "REFUSED");
        EXPECT_SAYS(give_back(&holder, some[0]), "REFUSED");
        if (what != PUT)
            EXPECT_SAYS(ticket_as(context(), some[0], 5000), "TICKET");
    }
}

TEST(a_ticket_ends)
{
    struct context holder = context(), other = context();

    start(NULL);
    EXPECT_SAYS(change(context(), 1, some, 1, 100000), "OK"); /* a tombstone that will outlive the ticket */
    EXPECT_SAYS(ticket_as(holder, some[0], 60), "TICKET");
    EXPECT(test_until(record(some[0]).ticket_until_us < redis_us(), 5000));
    EXPECT_SAYS(ticket_as(other, some[0], 5000), "TICKET");
    EXPECT_SAYS(fill(&holder, some[0], 0), "REFUSED");
    EXPECT_SAYS(fill(&other, some[0], 0), "OK");
    EXPECT_SAYS(ticket_as(holder, some[1], 40), "TICKET");
    EXPECT(test_until(record(some[1]).ticket_until_us < redis_us(), 5000));
    EXPECT_SAYS(fill(&holder, some[1], 0), "REFUSED");
    EXPECT_SAYS(ticket_as(holder, some[2], 5000), "TICKET");
    spoil64(some[2], "92", (UINT64_C(1) << 53) - 1); /* ends in another age: the clock was put back, or somebody lied */
    EXPECT_SAYS(ticket_as(other, some[2], 5000), "TICKET");
    spoil64(some[2], "76", head().epoch + 1); /* of another epoch, whatever else it says */
    EXPECT_SAYS(fill(&other, some[2], 0), "REFUSED");
    EXPECT_SAYS(ticket_as(holder, some[2], 5000), "TICKET");
}

TEST(nobodys_ticket_fills_nothing)
{
    static const uint8_t zeros[16];

    start(NULL);
    EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT_SAYS(fill_as(context(), zeros, some[0], content(0)), "REFUSED");
    EXPECT_SAYS(fill_as(context(), zeros, some[1], content(0)), "REFUSED");
    spoil64(some[0], "76", head().epoch);
    spoil64(some[0], "84", head().position);
    spoil64(some[0], "92", redis_us() + 1000000);
    EXPECT_SAYS(fill_as(context(), zeros, some[0], content(0)), "REFUSED");
}

TEST(a_ticket_given_back_is_free_and_what_the_key_knew_stays)
{
    struct context holder = context();

    start(NULL);
    EXPECT_SAYS(change(context(), 1, some, 9, 100000), "OK");
    EXPECT_SAYS(ticket_as(holder, some[0], 1000), "TICKET");
    EXPECT(pttl(some[0]) > 90000 && record(some[0]).source_seen == 9); /* a ticket shortens no life */
    EXPECT_SAYS(give_back(&holder, some[0]), "OK");
    EXPECT(pttl(some[0]) > 90000 && record(some[0]).source_seen == 9);
    EXPECT_SAYS(ticket_as(context(), some[0], 1000), "TICKET");
    EXPECT_SAYS(ticket_as(holder, some[1], 60000), "TICKET"); /* a key that knew nothing */
    EXPECT_SAYS(give_back(&holder, some[1]), "OK");
    EXPECT_EQ(whole(ask("EXISTS", some[1], NULL)), 0);
}

TEST(the_loader_is_sent_to_the_primary_for_a_while_after_a_change)
{
    struct context holder = context();
    struct reply reply;
    uint64_t long_ago;

    start(NULL);
    EXPECT_SAYS(report(0, 0, 0), "OK");
    reply = ticket_as(context(), some[0], 5000);
    EXPECT(strcmp(reply.items[4].text, "1") == 0); /* a new epoch: changes may be lost */
    long_ago = redis_us() - 11000000;
    spoil64(HEAD, "124", long_ago);
    reply = ticket_as(context(), some[1], 5000);
    EXPECT(strcmp(reply.items[4].text, "0") == 0);
    EXPECT_SAYS(invalidate(some[2]), "OK");
    reply = ticket_as(holder, some[2], 5000);
    EXPECT(strcmp(reply.items[4].text, "1") == 0);
    EXPECT_SAYS(fill(&holder, some[2], 0), "OK");
    EXPECT(record(some[2]).changed_us > long_ago); /* still known under the fill */
    EXPECT_SAYS(invalidate(some[2]), "OK");
    spoil64(some[2], "44", long_ago);
    reply = ticket_as(context(), some[2], 5000);
    EXPECT(strcmp(reply.items[4].text, "0") == 0);
    EXPECT_SAYS(clear(), "OK");
    reply = ticket_as(context(), some[1], 5000);
    EXPECT(strcmp(reply.items[4].text, "1") == 0);
}

/* ---- source versions ----------------------------------------------------------------------------------------- */

TEST(an_older_source_version_stores_nothing)
{
    struct context holder = context();
    uint64_t from;

    start(NULL);
    EXPECT_SAYS(put(some[0], 0x0100000000000000), "OK");
    from = head().position;
    EXPECT_SAYS(put(some[0], 0x00ffffffffffffff), "OUTDATED");
    EXPECT(head().position == from && record(some[0]).source_version == 0x0100000000000000);
    EXPECT_SAYS(put(some[0], 0x0100000000000000), "OK"); /* the same again */
    EXPECT_SAYS(put(some[0], 0x8000000000000000), "OK"); /* all 64 bits */
    EXPECT_SAYS(put(some[0], 0x7fffffffffffffff), "OUTDATED");
    EXPECT_SAYS(put(some[0], 0), "OK"); /* none is not an old one */
    EXPECT(record(some[0]).source_version == 0 && record(some[0]).source_seen == 0x8000000000000000);
    EXPECT_SAYS(change(context(), 1, some, 3, 60000), "OK"); /* an invalidation is never refused, and lowers nothing */
    EXPECT_EQ(record(some[0]).source_seen, 0x8000000000000000);
    EXPECT_SAYS(put(some[0], 0x7fffffffffffffff), "OUTDATED");
    EXPECT_SAYS(ticket_as(holder, some[0], 5000), "TICKET");
    EXPECT_SAYS(fill(&holder, some[0], 0x7fffffffffffffff), "OUTDATED");
    EXPECT(record(some[0]).state == STORED_TOMBSTONE && record(some[0]).source_seen == 0x8000000000000000);
    EXPECT_SAYS(fill(&holder, some[0], 0x8000000000000001), "REFUSED"); /* its ticket went with it */
    holder = context();
    EXPECT_SAYS(ticket_as(holder, some[0], 5000), "TICKET");
    EXPECT_SAYS(fill(&holder, some[0], 0x8000000000000001), "OK");
    EXPECT_EQ(record(some[0]).source_seen, 0x8000000000000001);
}

TEST(source_versions_survive_another_epoch)
{
    static const char *const more[] = {"--enable-debug-command", "yes", NULL};

    start(more);
    EXPECT_SAYS(put(some[0], 9), "OK");
    EXPECT(ask("DEBUG", "CHANGE-REPL-ID", NULL).type == '+');
    EXPECT_SAYS(put(some[0], 8), "OUTDATED");
    EXPECT_SAYS(clear(), "OK");
    EXPECT(ask("DEBUG", "CHANGE-REPL-ID", NULL).type == '+');
    EXPECT_SAYS(put(some[0], 8), "OK"); /* and a clear's leave too */
}

/* ---- strangers ----------------------------------------------------------------------------------------------- */

/* One call, the `call`th of them, while a stranger sits in `place`; then everything works as if he had never been. */
static void expect_gives_way(const char *place, int kind, int call)
{
    struct context holder = context();
    struct stored_head before;
    struct reply reply;

    EXPECT(ask("DEL", HEAD, LOG, HOSTS, some[0], NULL).type == ':');
    EXPECT_SAYS(report(0, 0, 10), "OK");
    EXPECT_SAYS(invalidate(some[1]), "OK");
    before = head();
    seat_stranger(place, kind);
    switch (call) {
    case 0:
        reply = invalidate(some[0]);
        break;
    case 1:
        reply = clear();
        break;
    case 2:
        reply = put(some[0], 1);
        break;
    case 3:
        reply = ticket_as(holder, some[0], 5000);
        break;
    default:
        reply = report(before.epoch, before.position - 1, 10);
        break;
    }
    EXPECT(says(&reply, call == 3 ? "TICKET" : "OK"));
    EXPECT_SAYS(report(0, 0, 10), "OK");
    EXPECT_SAYS(put(some[0], 1), "OK");
    EXPECT_SAYS(invalidate(some[0]), "OK");
    reply = report(head().epoch, head().position - 1, 10);
    EXPECT(says(&reply, "OK") && reply.items[7].size == 1);
    EXPECT_SAYS(ticket_as(holder, some[0], 5000), "TICKET");
    EXPECT_SAYS(fill(&holder, some[0], 1), "OK");
    EXPECT_SAYS(ticket_as(context(), some[0], 5000), "RECORD");
    EXPECT_EQ(whole(ask("HLEN", HOSTS, NULL)), 2);
}

TEST(what_is_not_ours_gives_way)
{
    static const char *const places[] = {HEAD, LOG, HOSTS, RECORD "a"};

    start(NULL);
    for (int place = 0; place < 4; place++)
        for (int kind = 0; kind < 3; kind++)
            for (int call = 0; call < 5; call++)
                expect_gives_way(places[place], kind, call);
}

TEST(a_log_that_is_none_is_removed_by_whoever_reads_it)
{
    struct stored_head before;
    struct reply reply;

    start(NULL);
    EXPECT_SAYS(invalidate(some[0]), "OK");
    before = head();
    seat_stranger(LOG, 0);
    reply = report(before.epoch, before.position - 1, 10);
    EXPECT(says(&reply, "OK") && reply.items[7].size == 0);
    EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT(head().epoch == before.epoch && head().position == before.position + 1);
}

TEST(a_foreign_entry_in_the_log_is_leapt_over)
{
    struct stored_head before;
    char id[32];

    start(NULL);
    EXPECT_SAYS(invalidate(some[0]), "OK");
    before = head();
    (void)snprintf(id, sizeof id, "%llu-0", (unsigned long long)before.position + 5);
    EXPECT(ask("XADD", LOG, id, "f", "forged", NULL).type == '$');
    EXPECT_EQ(report(before.epoch, before.position, 10).items[7].size, 0); /* beyond the head: not shown */
    EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT(head().epoch != before.epoch && head().position > before.position + 5 + LEAP);
    EXPECT_EQ(whole(ask("XLEN", LOG, NULL)), 1);
}

TEST(a_gap_in_the_log_can_be_seen)
{
    struct stored_head now;
    struct reply reply;
    uint64_t from;
    char id[32];

    start(NULL);
    from = position_of(report(0, 0, 0));
    for (int i = 0; i < 5; i++)
        EXPECT_SAYS(invalidate(some[0]), "OK");
    now = head();
    (void)snprintf(id, sizeof id, "%llu-0", (unsigned long long)from + 1);
    EXPECT_EQ(whole(ask("XDEL", LOG, id, NULL)), 1);
    reply = report(now.epoch, from, 10);
    EXPECT(reply.items[7].size == 4 && strtoull(reply.items[7].items[0].items[0].text, NULL, 10) == from + 2);
    EXPECT(ask("XTRIM", LOG, "MAXLEN", "0", NULL).type == ':');
    reply = report(now.epoch, from, 10);
    EXPECT(reply.items[7].size == 0 && position_of(reply) == from + 5);
    EXPECT(ask("DEL", LOG, NULL).type == ':');
    EXPECT_SAYS(invalidate(some[0]), "OK"); /* goes on, densely, in the same epoch */
    EXPECT(head().position == from + 6 && head().epoch == now.epoch);
    EXPECT(ask("XADD", LOG, "9007199254740000-1", "g", "no field f", NULL).type == '$');
    EXPECT_EQ(report(now.epoch, from + 5, 10).items[7].size, 1);
}

TEST(the_log_forgets_what_two_marks_have_passed)
{
    static const char *const more[] = {"--stream-node-max-entries", "10", NULL};

    start(more);
    for (int i = 0; i < 50; i++)
        EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT_EQ(whole(ask("XLEN", LOG, NULL)), 50);
    spoil64(HEAD, "108", redis_us() - 61000000); /* a minute later: mark the position */
    EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT_EQ(whole(ask("XLEN", LOG, NULL)), 51);
    for (int i = 0; i < 20; i++)
        EXPECT_SAYS(invalidate(some[0]), "OK");
    spoil64(HEAD, "108", redis_us() - 61000000); /* another: what is older than the mark goes, a node at a time */
    EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT(whole(ask("XLEN", LOG, NULL)) >= 22 && whole(ask("XLEN", LOG, NULL)) <= 32);
    spoil64(HEAD, "108", redis_us() + 3600000000); /* the clock was put back: the mark does not wait for it */
    EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT_EQ(whole(ask("XLEN", LOG, NULL)) <= 12, 1);
}

TEST(a_large_log_comes_in_pieces)
{
    struct words words = {.count = 0};
    uint64_t from, epoch;
    struct reply reply;
    char *big = calloc(1, 300000);

    start(NULL);
    from = position_of(report(0, 0, 0));
    epoch = head().epoch;
    words = script(SCRIPT_CHANGE, 2);
    word_text(&words, HEAD);
    word_text(&words, LOG);
    struct context now = context();
    word_context(&words, &now);
    word_text(&words, CHANNEL);
    word(&words, big, 300000);
    word_text(&words, "clear");
    word_id(&words, 0);
    word_text(&words, "0");
    for (int i = 0; i < 5; i++)
        EXPECT_SAYS(wire_ask(wire, &words), "OK");
    free(big);
    reply = report(epoch, from, 100);
    EXPECT(reply.items[7].size == 3);
    EXPECT_EQ(report(epoch, from + 3, 100).items[7].size, 2);
}

/* ---- guards -------------------------------------------------------------------------------------------------- */

/* The n-th guard's id. */
static const uint8_t *guard_id(int n)
{
    uint8_t *id = arena_take(16);

    memset(id, 0xab, 16);
    put64(id + 8, (uint64_t)n);
    return id;
}

/* The guard script's words, from the kind on; `third`: ms of a begin, the epoch of an end. */
static struct words guard_words(const char *kind, int keys, const char *const *names)
{
    struct context now = context();
    struct words words = script(SCRIPT_GUARD, 2 + keys);

    word_text(&words, HEAD);
    word_text(&words, LOG);
    for (int i = 0; i < keys; i++)
        word_text(&words, names[i]);
    word_context(&words, &now);
    word_text(&words, CHANNEL);
    word_message(&words, now.epoch);
    word_text(&words, kind);
    return words;
}

static struct reply guard_begin(const uint8_t *id, uint64_t hold_ms, int keys, const char *const *names)
{
    struct words words = guard_words("begin", keys, names);

    word(&words, id, 16);
    word_number(&words, hold_ms);
    word_id(&words, 0);
    word_number(&words, 86400000);
    return wire_ask(wire, &words);
}

static struct reply guard_end(const uint8_t *id, uint64_t epoch, int keys, const char *const *names)
{
    struct words words = guard_words("end", keys, names);

    word(&words, id, 16);
    word_id(&words, epoch);
    word_id(&words, 0);
    word_number(&words, 86400000);
    return wire_ask(wire, &words);
}

static struct reply guard_hold(const uint8_t *id, uint64_t hold_ms, uint64_t epoch, int keys, const char *const *names)
{
    struct context now = context();
    struct words words = script(SCRIPT_HOLD, 1 + keys);

    word_text(&words, HEAD);
    for (int i = 0; i < keys; i++)
        word_text(&words, names[i]);
    word_context(&words, &now);
    word(&words, id, 16);
    word_number(&words, hold_ms);
    word_id(&words, epoch);
    return wire_ask(wire, &words);
}

static bool held(struct reply reply)
{
    EXPECT(says(&reply, "OK") && reply.size == 5 && reply.items[4].size == 1);
    return reply.items[4].text[0] == '1';
}

/* The n-th guard's deadline, us. */
static uint64_t guard_ends(const char *name, unsigned n)
{
    struct stored_record got = record(name);

    EXPECT(got.state == STORED_TOMBSTONE && n < got.guard_count);
    return get64(got.guards + (size_t)n * STORED_GUARD_SIZE + 16);
}

/* Its place in the record, for spoil64. */
static const char *guard_at(unsigned n)
{
    char *at = arena_take(16);

    snprintf(at, 16, "%u", STORED_RECORD_HEAD + n * STORED_GUARD_SIZE + 16);
    return at;
}

TEST(a_guard_is_set_on_every_key_and_taken_from_every_key)
{
    uint64_t begun, begun_us, epoch;
    struct reply reply;

    start(NULL);
    EXPECT_SAYS(put(some[0], 5), "OK");
    begun_us = redis_us();
    reply = guard_begin(guard_id(1), 30000, 3, some);
    EXPECT(held(reply));
    begun = position_of(reply);
    epoch = epoch_of(reply);
    EXPECT_EQ(whole(ask("XLEN", LOG, NULL)), 2);
    for (int i = 0; i < 3; i++) {
        struct stored_record got = record(some[i]);

        EXPECT(got.state == STORED_TOMBSTONE && got.born == begun && got.changed_us >= begun_us);
        EXPECT_EQ(got.guard_count, 1);
        EXPECT(memcmp(got.guards, guard_id(1), 16) == 0);
        EXPECT(guard_ends(some[i], 0) >= begun_us + 30000000 && guard_ends(some[i], 0) <= redis_us() + 30000000);
        EXPECT(pttl(some[i]) > 30000); /* the tombstone outlives it */
    }
    EXPECT_EQ(record(some[0]).source_seen, 5);
    reply = guard_end(guard_id(1), epoch, 3, some);
    EXPECT(held(reply) && position_of(reply) == begun + 1);
    for (int i = 0; i < 3; i++)
        EXPECT(record(some[i]).guard_count == 0 && record(some[i]).born == begun + 1);
    EXPECT_EQ(whole(ask("XLEN", LOG, NULL)), 3);
}

TEST(on_a_guarded_key_nobody_fills_and_nobody_puts)
{
    struct context before = context(), holder = context();
    long long written;
    uint64_t position;

    start(NULL);
    EXPECT_SAYS(ticket_as(before, some[0], 60000), "TICKET");
    EXPECT(held(guard_begin(guard_id(1), 30000, 1, some)));
    EXPECT_SAYS(fill(&before, some[0], 0), "REFUSED"); /* a load that ran when the guard began */
    written = writes();
    EXPECT_SAYS(ticket_as(holder, some[0], 60000), "GUARDED");
    EXPECT_EQ(writes(), written);
    EXPECT_SAYS(fill(&holder, some[0], 0), "REFUSED");
    position = head().position;
    EXPECT_SAYS(put(some[0], 7), "GUARDED");
    EXPECT_EQ(head().position, position + 1); /* it is an invalidation */
    EXPECT(record(some[0]).state == STORED_TOMBSTONE && record(some[0]).born == position + 1);
    EXPECT_EQ(record(some[0]).source_seen, 7);
    EXPECT_SAYS(put(some[0], 6), "OUTDATED");
    EXPECT_SAYS(ticket_as(holder, some[0], 60000), "GUARDED");
    EXPECT(held(guard_end(guard_id(1), head().epoch, 1, some)));
    EXPECT_SAYS(ticket_as(holder, some[0], 60000), "TICKET");
    EXPECT_SAYS(fill(&holder, some[0], 7), "OK");
}

/* However that came about: an intact ticket on a guarded key fills nothing. */
TEST(a_ticket_beside_a_guard_fills_nothing)
{
    struct context holder = context();

    start(NULL);
    EXPECT_SAYS(ticket_as(holder, some[0], 60000), "TICKET");
    EXPECT_SAYS(ticket_as(holder, some[1], 60000), "TICKET");
    struct reply bytes = ask("GET", some[0], NULL);
    struct words words = {.count = 0};
    char *guarded = arena_take(bytes.size + STORED_GUARD_SIZE);

    memcpy(guarded, bytes.text, bytes.size);
    memcpy(guarded + bytes.size, guard_id(1), 16);
    put64((uint8_t *)guarded + bytes.size + 16, redis_us() + 60000000);
    word_text(&words, "SET");
    word_text(&words, some[0]);
    word(&words, guarded, bytes.size + STORED_GUARD_SIZE);
    EXPECT(wire_ask(wire, &words).type == '+');
    EXPECT_SAYS(fill(&holder, some[0], 0), "REFUSED");
    EXPECT_EQ(record(some[0]).guard_count, 1);
    EXPECT_SAYS(fill(&holder, some[1], 0), "OK");
}

TEST(whatever_changes_a_key_leaves_its_guards)
{
    struct context holder = context();

    start(NULL);
    EXPECT(held(guard_begin(guard_id(1), 30000, 2, some)));
    EXPECT(held(guard_begin(guard_id(2), 40000, 1, some)));
    EXPECT_EQ(record(some[0]).guard_count, 2);
    EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT_EQ(record(some[0]).guard_count, 2);
    EXPECT(pttl(some[0]) > 39000);
    EXPECT_SAYS(clear(), "OK");
    EXPECT_SAYS(ticket_as(holder, some[0], 60000), "GUARDED");
    EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT_SAYS(put(some[0], 0), "GUARDED");
    EXPECT_EQ(record(some[0]).guard_count, 2);
    EXPECT(held(guard_end(guard_id(1), head().epoch, 2, some)));
    EXPECT_EQ(record(some[0]).guard_count, 1);
    EXPECT_SAYS(ticket_as(holder, some[0], 60000), "GUARDED");
    EXPECT_SAYS(ticket_as(holder, some[1], 60000), "TICKET");
    EXPECT(held(guard_end(guard_id(2), head().epoch, 1, some)));
    EXPECT_SAYS(ticket_as(holder, some[0], 60000), "TICKET");
}

/* An end is an invalidation whatever it says. */
static void expect_broken(int keys)
{
    uint64_t position = head().position;
    struct context holder = context();

    EXPECT(!held(guard_end(guard_id(1), head().epoch, keys, some)));
    EXPECT(head().position > position);
    for (int i = 0; i < keys; i++) {
        EXPECT_EQ(record(some[i]).born, head().position);
        EXPECT_SAYS(ticket_as(holder, some[i], 60000), "TICKET");
    }
}

TEST(an_end_tells_whatever_broke_its_guard)
{
    static const char *const more[] = {"--enable-debug-command", "yes", NULL};
    uint64_t epoch;

    start(more);
    EXPECT(held(guard_begin(guard_id(1), 30000, 2, some)));
    spoil64(some[1], guard_at(0), redis_us() - 1); /* its time is over, on one of the keys */
    expect_broken(2);
    expect_broken(2); /* it has ended */
    EXPECT(held(guard_begin(guard_id(1), 30000, 2, some)));
    EXPECT_EQ(whole(ask("DEL", some[0], NULL)), 1); /* evicted, say */
    expect_broken(2);
    EXPECT(held(guard_begin(guard_id(1), 30000, 2, some)));
    epoch = head().epoch;
    EXPECT(ask("DEBUG", "CHANGE-REPL-ID", NULL).type == '+'); /* a promoted replica */
    EXPECT(!held(guard_end(guard_id(1), epoch, 2, some)));
    EXPECT(head().epoch != epoch);
    /* filled after its time, then begun and ended by another: nothing of it is left */
    EXPECT(held(guard_begin(guard_id(1), 30000, 1, some)));
    spoil64(some[0], guard_at(0), redis_us() - 1);
    EXPECT_SAYS(put(some[0], 0), "OK");
    EXPECT(held(guard_begin(guard_id(2), 30000, 1, some)) && held(guard_end(guard_id(2), head().epoch, 1, some)));
    expect_broken(1);
}

TEST(a_guard_is_prolonged_but_never_begun_again)
{
    static const char *const more[] = {"--enable-debug-command", "yes", NULL};
    uint64_t epoch;

    start(more);
    EXPECT(held(guard_begin(guard_id(1), 1000, 2, some)));
    epoch = head().epoch;
    EXPECT(held(guard_hold(guard_id(1), 90000, epoch, 2, some)));
    for (int i = 0; i < 2; i++) {
        EXPECT(guard_ends(some[i], 0) > redis_us() + 80000000);
        EXPECT(pttl(some[i]) > 89000);
    }
    EXPECT_EQ(head().position, record(some[0]).born); /* it is no change */
    spoil64(some[0], guard_at(0), redis_us() - 1);
    EXPECT(!held(guard_hold(guard_id(1), 100000, epoch, 2, some)));
    EXPECT(guard_ends(some[0], 0) <= redis_us());
    EXPECT(guard_ends(some[1], 0) > redis_us() + 95000000); /* what is left of it */
    EXPECT(!held(guard_hold(guard_id(2), 30000, epoch, 2, some)));
    EXPECT_EQ(record(some[1]).guard_count, 1);
    EXPECT(!held(guard_hold(guard_id(1), 30000, epoch, 1, some + 3)));
    EXPECT_EQ(whole(ask("EXISTS", some[3], NULL)), 0);
    EXPECT(held(guard_begin(guard_id(3), 30000, 1, some)));
    EXPECT(ask("DEBUG", "CHANGE-REPL-ID", NULL).type == '+');
    EXPECT(!held(guard_hold(guard_id(3), 30000, epoch, 1, some)));
    EXPECT(head().epoch != epoch);
}

TEST(a_key_has_at_most_64_guards)
{
    long long written;
    struct reply reply;

    start(NULL);
    for (int i = 1; i <= 64; i++)
        EXPECT(held(guard_begin(guard_id(i), 30000 + (uint64_t)i, 1, some)));
    written = writes();
    reply = guard_begin(guard_id(65), 30000, 4, some);
    EXPECT(says(&reply, "FULL"));
    EXPECT_EQ(writes(), written);                            /* none of the four */
    EXPECT(held(guard_begin(guard_id(64), 30000, 1, some))); /* the same once more is no other */
    EXPECT_EQ(record(some[0]).guard_count, 64);
    EXPECT_SAYS(put(some[0], 0), "GUARDED");
    spoil64(some[0], guard_at(7), redis_us() - 1); /* one is over, and makes room */
    EXPECT(held(guard_begin(guard_id(65), 30000, 1, some)));
    EXPECT_EQ(record(some[0]).guard_count, 64);
}

TEST(a_guard_whose_time_is_over_is_none)
{
    struct context holder = context();

    start(NULL);
    EXPECT(held(guard_begin(guard_id(1), 30000, 2, some)));
    spoil64(some[0], guard_at(0), redis_us() - 1);
    EXPECT_SAYS(ticket_as(holder, some[0], 60000), "TICKET");
    EXPECT_EQ(record(some[0]).guard_count, 0);
    EXPECT_SAYS(fill(&holder, some[0], 0), "OK");
    spoil64(some[1], guard_at(0), redis_us() - 1);
    EXPECT_SAYS(put(some[1], 0), "OK");
}

/* The clock was put back, or a forger was here: it ends all the same, and nothing else breaks by it. */
TEST(a_deadline_further_off_than_any_is_cut)
{
    static const uint64_t far[] = {UINT64_C(1) << 52, (UINT64_C(1) << 53) + 1, UINT64_MAX};

    start(NULL);
    for (int i = 0; i < 3; i++) {
        EXPECT(held(guard_begin(guard_id(1), 1000, 2, some)));
        spoil64(some[0], guard_at(0), far[i]);
        spoil64(some[1], guard_at(0), far[i]);
        EXPECT_SAYS(ticket_as(context(), some[0], 60000), "GUARDED");
        EXPECT(guard_ends(some[0], 0) <= redis_us() + 600000000);
        EXPECT_SAYS(invalidate(some[1]), "OK");
        EXPECT(guard_ends(some[1], 0) <= redis_us() + 600000000);
        EXPECT(pttl(some[1]) > 0 && pttl(some[1]) <= 601000);
        EXPECT(held(guard_end(guard_id(1), head().epoch, 2, some)));
    }
}

/* Begun before Redis's clock was put back by five minutes: what is orphaned does not last for those, too. */
TEST(a_guard_lasts_no_longer_because_the_clock_was_put_back)
{
    static const char changed_at[] = "44";
    const uint64_t minutes = 300000000;

    start(NULL);
    EXPECT(held(guard_begin(guard_id(1), 20000, 3, some)));
    EXPECT(held(guard_begin(guard_id(2), 30000, 3, some)));
    for (int i = 0; i < 3; i++) {
        spoil64(some[i], changed_at, redis_us() + minutes);
        spoil64(some[i], guard_at(0), redis_us() + minutes + 20000000);
        spoil64(some[i], guard_at(1), redis_us() + minutes + 30000000);
    }
    EXPECT_SAYS(ticket_as(context(), some[0], 60000), "GUARDED");
    EXPECT_SAYS(invalidate(some[1]), "OK");
    EXPECT(held(guard_hold(guard_id(2), 30000, head().epoch, 1, some + 2)));
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(record(some[i]).guard_count, 2);
        EXPECT(record(some[i]).changed_us <= redis_us());
        EXPECT(guard_ends(some[i], 0) > redis_us() + 10000000 && guard_ends(some[i], 0) <= redis_us() + 20000000);
        EXPECT(guard_ends(some[i], 1) > redis_us() + 20000000 && guard_ends(some[i], 1) <= redis_us() + 30000000);
    }
    EXPECT_SAYS(ticket_as(context(), some[0], 60000), "GUARDED"); /* they are not cut once more */
    EXPECT(guard_ends(some[0], 0) > redis_us() + 10000000);
    EXPECT(held(guard_end(guard_id(1), head().epoch, 3, some)) && held(guard_end(guard_id(2), head().epoch, 3, some)));
}

TEST(garbled_guards_are_no_entry)
{
    struct context holder = context();

    start(NULL);
    EXPECT(held(guard_begin(guard_id(1), 30000, 1, some)));
    EXPECT(ask("APPEND", some[0], "x", NULL).type == ':');
    EXPECT_SAYS(ticket_as(holder, some[0], 60000), "TICKET");
    EXPECT(!held(guard_end(guard_id(1), head().epoch, 1, some)));
    EXPECT(held(guard_begin(guard_id(1), 30000, 1, some)));
    EXPECT(held(guard_end(guard_id(1), head().epoch, 1, some)));
}

TEST(a_guard_that_makes_no_sense_changes_nothing)
{
    static const uint8_t none[16] = {0};
    struct words words;
    long long written;

    start(NULL);
    EXPECT_SAYS(report(0, 0, 0), "OK");
    written = writes();
    EXPECT(guard_begin(none, 1000, 1, some).type == '-');
    EXPECT(guard_begin(guard_id(1), 0, 1, some).type == '-');
    EXPECT(guard_begin(guard_id(1), 600001, 1, some).type == '-');
    EXPECT(guard_begin(guard_id(1), 1000, 0, some).type == '-');
    EXPECT(guard_end(none, 1, 1, some).type == '-');
    EXPECT(guard_end(guard_id(1), 1, 0, some).type == '-');
    EXPECT(guard_hold(none, 1000, 1, 1, some).type == '-');
    EXPECT(guard_hold(guard_id(1), 0, 1, 1, some).type == '-');
    EXPECT(guard_hold(guard_id(1), 600001, 1, 1, some).type == '-');
    EXPECT(guard_hold(guard_id(1), 1000, 1, 0, some).type == '-');
    words = guard_words("begin", 1, some);
    EXPECT(wire_ask(wire, &words).type == '-'); /* nothing behind the kind */
    for (int wrong = 0; wrong < 5; wrong++) {
        static const char *const kinds[] = {"begins", "begin", "begin", "end", "end"};
        static const size_t ids[] = {16, 15, 16, 17, 16}, sources[] = {8, 8, 7, 8, 8};

        words = guard_words(kinds[wrong], 1, some);
        word(&words, guard_id(1), ids[wrong] < 16 ? ids[wrong] : 16);
        if (ids[wrong] > 16)
            words.data[words.count - 1] = "seventeen bytes !", words.size[words.count - 1] = 17;
        if (kinds[wrong][0] == 'b')
            word_text(&words, "1000");
        else
            word(&words, "epoch of 9", wrong == 4 ? 9 : 8);
        word(&words, "\0\0\0\0\0\0\0\0", sources[wrong]);
        word_text(&words, "1000");
        EXPECT(wire_ask(wire, &words).type == '-');
    }
    words = guard_words("begin", 1, some);
    word(&words, guard_id(1), 16);
    word_text(&words, "nan");
    word_id(&words, 0);
    word_text(&words, "nan");
    EXPECT(wire_ask(wire, &words).type == '-');
    EXPECT_EQ(writes(), written);
}

TEST(a_guard_begins_the_epoch_when_it_is_first)
{
    uint64_t epoch;

    start(NULL);
    EXPECT(held(guard_begin(guard_id(1), 30000, 1, some)));
    epoch = head().epoch;
    EXPECT_EQ(whole(ask("DEL", HEAD, NULL)), 1);
    EXPECT(!held(guard_hold(guard_id(1), 30000, epoch, 1, some)));
    EXPECT(head().epoch != epoch);
    EXPECT_EQ(record(some[0]).guard_count, 1); /* it is lost, but nobody fills before its deadline */
    EXPECT_SAYS(ticket_as(context(), some[0], 1000), "GUARDED");
    EXPECT(!held(guard_end(guard_id(1), epoch, 1, some)));
    EXPECT_SAYS(ticket_as(context(), some[0], 1000), "TICKET");
}

/* ---- the registry -------------------------------------------------------------------------------------------- */

static const char *told(const uint8_t host[16])
{
    struct words words = {.count = 0};
    struct reply reply;

    word_text(&words, "HGET");
    word_text(&words, HOSTS);
    word(&words, host, 16);
    reply = wire_ask(wire, &words);
    return reply.type == '$' ? reply.text : "";
}

TEST(hosts_are_registered_with_what_they_have_applied)
{
    static const uint8_t other[16] = "another host";
    struct context now = context();
    struct stored_head there;

    start(NULL);
    EXPECT_SAYS(report(0, 0, 0), "OK");
    EXPECT_SAYS(invalidate(some[0]), "OK");
    there = head();
    EXPECT(strcmp(told(host_id), "0") == 0);
    EXPECT_SAYS(report(there.epoch, there.position - 1, 0), "OK");
    EXPECT_EQ(strtoull(told(host_id), NULL, 10), there.position - 1);
    EXPECT_SAYS(report(there.epoch, there.position + 1000, 0), "OK"); /* nobody is ahead of the head */
    EXPECT_EQ(strtoull(told(host_id), NULL, 10), there.position);
    EXPECT_SAYS(report_as(now, other, there.position, 0), "OK"); /* of no epoch, or another: nothing */
    EXPECT(strcmp(told(other), "0") == 0);
    EXPECT_EQ(whole(ask("HLEN", HOSTS, NULL)), 3);
    EXPECT(memcmp(head().registry, there.registry, 16) == 0);
}

static struct reply report_ahead(uint64_t known, uint64_t applied, const char *ahead)
{
    struct context now = context();
    struct words words = script(SCRIPT_REPORT, 3);

    now.known = known;
    word_text(&words, HEAD);
    word_text(&words, LOG);
    word_text(&words, HOSTS);
    word_context(&words, &now);
    word(&words, host_id, 16);
    word_number(&words, applied);
    word_number(&words, 0);
    word_text(&words, ahead);
    return wire_ask(wire, &words);
}

TEST(a_report_may_name_one_frame_ahead_of_the_log)
{
    struct stored_head there;
    char want[64];

    start(NULL);
    EXPECT_SAYS(report(0, 0, 0), "OK");
    there = head();
    EXPECT_SAYS(report_ahead(there.epoch, there.position, "123 ab 7"), "OK");
    snprintf(want, sizeof want, "%llu 123 ab 7", (unsigned long long)there.position);
    EXPECT(strcmp(told(host_id), want) == 0);
    EXPECT_SAYS(report_ahead(there.epoch, there.position, ""), "OK");
    EXPECT_EQ(strtoull(told(host_id), NULL, 10), there.position);
    EXPECT(strchr(told(host_id), ' ') == NULL);
    EXPECT_SAYS(report_ahead(1, there.position, "123 ab 7"), "OK"); /* of another history: nothing at all */
    EXPECT(strcmp(told(host_id), "0") == 0);
    EXPECT(report_ahead(there.epoch, there.position, "123 xy 7").type == '-');
    EXPECT(report_ahead(there.epoch, there.position, "1 2").type == '-');
}

static struct reply leave(const uint8_t host[16], const char *from, const char *to)
{
    struct context now = context();
    struct words words = script(SCRIPT_LEAVE, 2);

    word_text(&words, HEAD);
    word_text(&words, HOSTS);
    word_context(&words, &now);
    word(&words, host, 16);
    word_text(&words, from);
    word_text(&words, to);
    return wire_ask(wire, &words);
}

TEST(a_mark_stands_until_the_host_reports)
{
    static const uint8_t nobody[16] = "nobody";
    struct stored_head there;

    start(NULL);
    EXPECT_SAYS(report(0, 0, 0), "OK");
    there = head();
    EXPECT_SAYS(leave(nobody, "", "!x"), "REFUSED"); /* who is not there bears no mark */
    EXPECT_EQ(whole(ask("HLEN", HOSTS, NULL)), 2);
    EXPECT_SAYS(leave(host_id, "1", "!x"), "REFUSED");
    EXPECT_SAYS(leave(host_id, "0", "!x"), "OK");
    EXPECT(strcmp(told(host_id), "!x") == 0);
    EXPECT_SAYS(report(there.epoch, there.position, 0), "OK"); /* it lives */
    EXPECT_EQ(strtoull(told(host_id), NULL, 10), there.position);
    EXPECT_SAYS(leave(host_id, "!x", ""), "REFUSED");
    EXPECT_EQ(whole(ask("HLEN", HOSTS, NULL)), 2);
    EXPECT_SAYS(leave(host_id, "", "!y"), "OK");
    EXPECT_SAYS(leave(host_id, "!x", ""), "REFUSED");
    EXPECT_SAYS(leave(host_id, "!y", ""), "OK");
    EXPECT_EQ(whole(ask("HLEN", HOSTS, NULL)), 1);
    EXPECT(leave(host_id, "", "no mark").type == '-');
    /* Without memory a mark cannot be overwritten: then there is no proof either. */
    EXPECT_SAYS(report(there.epoch, there.position, 0), "OK");
    EXPECT_SAYS(leave(host_id, "", "!z"), "OK");
    EXPECT(ask("CONFIG", "SET", "maxmemory", "1", NULL).type == '+');
    EXPECT(report(there.epoch, there.position, 0).type == '-');
    EXPECT(ask("CONFIG", "SET", "maxmemory", "0", NULL).type == '+');
}

TEST(who_waits_sees_all_hosts_of_one_registry)
{
    static const uint8_t other[16] = "another host";
    struct context now = context();
    struct words words;
    struct reply reply;

    start(NULL);
    words = script(SCRIPT_WAIT, 2);
    EXPECT_SAYS(report(0, 0, 0), "OK");
    EXPECT_SAYS(report_as(context(), other, 0, 0), "OK");
    word_text(&words, HEAD);
    word_text(&words, HOSTS);
    word_context(&words, &now);
    reply = wire_ask(wire, &words);
    EXPECT_SAYS(reply, "OK");
    EXPECT(number_of(reply, 4) == 500 && reply.items[5].size == 16 && reply.items[6].size == 4);
    EXPECT(memcmp(reply.items[5].text, head().registry, 16) == 0);
    EXPECT(ask("HDEL", HOSTS, "registry", NULL).type == ':');
    reply = wire_ask(wire, &words);
    EXPECT(reply.items[5].size == 0 && reply.items[6].size == 0);
    EXPECT(ask("SET", HOSTS, "not ours", NULL).type == '+');
    reply = wire_ask(wire, &words);
    EXPECT(says(&reply, "OK") && reply.items[5].size == 0 && reply.items[6].size == 0);
}

static struct reply latest(const char *record, uint64_t born, uint64_t version, uint64_t writer)
{
    struct context now = context();
    struct words words = script(SCRIPT_LATEST, 3);

    word_text(&words, HEAD);
    word_text(&words, record);
    word_text(&words, TABLE);
    word_context(&words, &now);
    word_number(&words, born);
    word_id(&words, version);
    word_id(&words, writer);
    return wire_ask(wire, &words);
}

TEST(the_latest_comes_without_its_bytes_where_they_are)
{
    struct stored_record there;
    struct reply reply;

    start(NULL);
    EXPECT_SAYS(report(0, 0, 0), "OK");
    EXPECT_SAYS(latest(some[0], 0, 0, 0), "NONE");
    EXPECT_SAYS(put(some[0], 0), "OK");
    there = record(some[0]);
    reply = latest(some[0], 0, 0, 0);
    EXPECT_SAYS(reply, "RECORD");
    EXPECT(reply.size == 5 && reply.items[4].size > 100);
    reply = latest(some[0], there.born, there.version, there.writer);
    EXPECT_SAYS(reply, "CURRENT");
    EXPECT_EQ(reply.size, 4);
    EXPECT_SAYS(latest(some[0], there.born - 1, there.version, there.writer), "RECORD");
    EXPECT_SAYS(latest(some[0], there.born, there.version + 1, there.writer), "RECORD");
    EXPECT_SAYS(latest(some[0], there.born, there.version, there.writer + 1), "RECORD");
    EXPECT_SAYS(invalidate(some[0]), "OK");
    EXPECT_SAYS(latest(some[0], there.born, there.version, there.writer), "NONE");
    EXPECT_SAYS(put(some[0], 0), "OK");
    there = record(some[0]);
    EXPECT_SAYS(clear(), "OK");
    EXPECT_SAYS(latest(some[0], there.born, there.version, there.writer), "NONE");
}

TEST(a_lost_registry_gets_another_id)
{
    struct stored_head before;
    struct reply reply;

    start(NULL);
    EXPECT_SAYS(report(0, 0, 0), "OK");
    before = head();
    EXPECT(whole(ask("DEL", HOSTS, NULL)) == 1);
    EXPECT_SAYS(report(0, 0, 0), "OK");
    EXPECT(memcmp(head().registry, before.registry, 16) != 0 && head().epoch == before.epoch);
    EXPECT_EQ(whole(ask("HLEN", HOSTS, NULL)), 2);
    before = head();
    EXPECT(ask("HSET", HOSTS, "registry", "another fleet's!", NULL).type == ':');
    reply = report(0, 0, 0);
    EXPECT(memcmp(reply.items[6].text, before.registry, 16) != 0);
    EXPECT(memcmp(head().registry, reply.items[6].text, 16) == 0);
}

TEST(a_quiet_report_writes_nothing)
{
    struct stored_head there;
    long long written;

    start(NULL);
    EXPECT_SAYS(invalidate(some[0]), "OK");
    there = head();
    EXPECT_SAYS(report(there.epoch, there.position, 10), "OK");
    there = head();
    written = writes();
    for (int i = 0; i < 10; i++)
        EXPECT_SAYS(report(there.epoch, there.position, 10), "OK");
    EXPECT_EQ(writes(), written);
}

/* ---- channel, permissions, memory ---------------------------------------------------------------------------- */

TEST(a_change_is_published_with_its_position)
{
    struct words words = {.count = 0};
    struct reply reply, heard;
    int listener;

    start(NULL);
    listener = wire_open();
    word_text(&words, "SUBSCRIBE");
    word_text(&words, CHANNEL);
    EXPECT(wire_ask(listener, &words).type == '*');
    for (int i = 0; i < 3; i++) {
        reply = i == 0 ? invalidate(some[0]) : i == 1 ? put(some[0], 0) : clear();
        heard = wire_reply(listener);
        EXPECT(heard.size == 3 && heard.items[2].size == 16 + 128);
        EXPECT(get64(heard.items[2].text) == position_of(reply) && get64(heard.items[2].text + 8) == epoch_of(reply));
        EXPECT(heard.items[2].text[16] == '\r');
    }
    (void)close(listener);
}

TEST(a_writer_without_the_channel_still_writes)
{
    uint64_t from;

    start(NULL);
    from = position_of(report(0, 0, 0));
    EXPECT(ask("ACL", "SETUSER", "mute", "on", ">pass", "~*", "+@all", "resetchannels", NULL).type == '+');
    EXPECT(ask("AUTH", "mute", "pass", NULL).type == '+');
    EXPECT(ask("PUBLISH", CHANNEL, "x", NULL).type == '-'); /* indeed mute */
    EXPECT_EQ(position_of(invalidate(some[0])), from + 1);
    EXPECT_EQ(position_of(put(some[0], 0)), from + 2);
    EXPECT(head().position == from + 2 && record(some[0]).born == from + 2);
    EXPECT_EQ(whole(ask("XLEN", LOG, NULL)), 2);
}

TEST(a_full_redis_refuses_and_keeps_its_history)
{
    struct stored_head before;
    long long written;
    struct reply reply;

    start(NULL);
    EXPECT_SAYS(put(some[0], 0), "OK");
    EXPECT_SAYS(report(head().epoch, head().position - 1, 0), "OK");
    before = head();
    EXPECT(ask("CONFIG", "SET", "maxmemory", "1", NULL).type == '+');
    written = writes();
    reply = invalidate(some[0]);
    EXPECT(reply.type == '-' && strncmp(reply.text, "OOM", 3) == 0);
    reply = put(some[0], 0);
    EXPECT(reply.type == '-' && strncmp(reply.text, "OOM", 3) == 0);
    EXPECT_EQ(writes(), written);
    EXPECT_SAYS(report(before.epoch, before.position, 10), "OK"); /* who is registered is answered on */
    EXPECT_SAYS(ticket_as(context(), some[0], 100), "RECORD");
    EXPECT(report_as(context(), (const uint8_t *)"an unknown host!", 0, 10).type == '-');
    EXPECT(ask("CONFIG", "SET", "maxmemory", "0", NULL).type == '+');
    EXPECT_EQ(position_of(invalidate(some[0])), before.position + 1);
    EXPECT_EQ(head().epoch, before.epoch);
}

TEST(scripts_are_known_by_their_sha1)
{
    start(NULL);
    for (int i = 0; i < SCRIPT_ALL; i++) {
        struct words words = {.count = 0};
        struct reply reply;

        word_text(&words, "SCRIPT");
        word_text(&words, "LOAD");
        word(&words, script_texts[i].text, script_texts[i].size);
        reply = wire_ask(wire, &words);
        EXPECT(reply.type == '$' && strcmp(reply.text, script_texts[i].sha1) == 0);
        EXPECT(strlen(script_texts[i].text) == script_texts[i].size && script_texts[i].name[0]);
    }
}

/* ---- tags ---------------------------------------------------------------------------------------------------- */

/* A word of the table; 0: it has none. */
static uint64_t table_word(unsigned slot)
{
    char from[16], to[16];
    struct reply bytes;

    snprintf(from, sizeof from, "%u", slot * 8);
    snprintf(to, sizeof to, "%u", slot * 8 + 7);
    bytes = ask("GETRANGE", TABLE, from, to, NULL);
    return bytes.size == 8 ? get64(bytes.text) : 0;
}

static struct content tagged(const uint8_t *hash)
{
    struct content what = content(0);

    what.tags = hash;
    what.tags_size = 8;
    return what;
}

TEST(a_tag_change_takes_a_position_and_a_place_in_the_table)
{
    const uint8_t *hashes[3];
    struct reply reply;
    uint64_t position;
    long long logged;

    start(NULL);
    hashes[0] = tag(0);
    hashes[1] = tag(4095);
    hashes[2] = tag(0x1fff); /* shares the slot of the one before */
    EXPECT_SAYS(put_as(context(), some[0], tagged(tag(7))), "OK");
    position = head().position;
    logged = atoll(ask("XLEN", LOG, NULL).text);
    EXPECT_EQ(head().newest_tag, 0);
    reply = change_tags_as(context(), 3, hashes);
    EXPECT_SAYS(reply, "OK");
    EXPECT_EQ(position_of(reply), position + 1);
    EXPECT(head().position == position + 1 && head().newest_tag == position + 1 && head().clear < position);
    EXPECT_EQ(atoll(ask("XLEN", LOG, NULL).text), logged + 1);
    EXPECT_EQ(atoll(ask("STRLEN", TABLE, NULL).text), 8 * 4097);
    EXPECT(table_word(0) == position + 1 && table_word(1) == position + 1 && table_word(4096) == position + 1);
    EXPECT(table_word(2) == 0 && table_word(4095) == 0);
    EXPECT_SAYS(ticket_as(context(), some[0], 100), "RECORD"); /* of another tag */
    EXPECT_SAYS(change_tag(1), "OK");
    EXPECT(table_word(0) == position + 2 && table_word(1) == position + 1 && table_word(2) == position + 2);
}

TEST(a_record_older_than_its_tags_change_is_a_miss)
{
    const uint8_t *theirs;
    struct content two;
    uint8_t both[16];

    start(NULL);
    theirs = tag(100);
    memcpy(both, tag(200), 8);
    memcpy(both + 8, theirs, 8);
    two = tagged(both);
    two.tags_size = 16;
    EXPECT_SAYS(put_as(context(), some[0], tagged(theirs)), "OK");
    EXPECT_SAYS(put_as(context(), some[1], two), "OK");
    EXPECT_SAYS(put(some[2], 0), "OK");
    EXPECT_SAYS(change_tag(99), "OK");
    for (int i = 0; i < 3; i++)
        EXPECT_SAYS(ticket_as(context(), some[i], 100), "RECORD");
    EXPECT_SAYS(change_tag(100), "OK");
    EXPECT_SAYS(put_as(context(), some[3], tagged(theirs)), "OK"); /* after it: this one counts */
    EXPECT_SAYS(ticket_as(context(), some[2], 100), "RECORD");     /* has no tags */
    EXPECT_SAYS(ticket_as(context(), some[3], 100), "RECORD");
    EXPECT_SAYS(ticket_as(context(), some[0], 100), "TICKET");
    EXPECT_SAYS(ticket_as(context(), some[1], 100), "TICKET");
    EXPECT_SAYS(change_tag(100), "OK");
    EXPECT_SAYS(ticket_as(context(), some[3], 100), "TICKET");
}

TEST(a_fill_whose_tag_changed_during_the_load_is_refused)
{
    struct context holder = context();
    struct reply reply;

    start(NULL);
    EXPECT_SAYS(change_tag(5), "OK"); /* long before: no matter */
    EXPECT_SAYS(ticket_as(holder, some[0], 1000), "TICKET");
    EXPECT_SAYS(change_tag(6), "OK");
    EXPECT_SAYS(ticket_as(context(), some[0], 100), "WAIT"); /* nobody knows yet what tags it will have */
    EXPECT_SAYS(fill_as(context(), holder.ticket, some[0], tagged(tag(6))), "REFUSED");
    EXPECT_EQ(ask("GET", some[0], NULL).type, '0'); /* the ticket went with it */
    holder = context();
    reply = ticket_as(holder, some[0], 1000); /* the broken one holds up nobody */
    EXPECT_SAYS(reply, "TICKET");
    EXPECT(strcmp(reply.items[4].text, "1") == 0); /* a database's replica may not have the change that tag 6 told of */
    EXPECT_SAYS(fill_as(context(), holder.ticket, some[0], tagged(tag(6))), "OK");
    EXPECT_SAYS(ticket_as(context(), some[0], 100), "RECORD");

    EXPECT_SAYS(ticket_as(holder = context(), some[1], 1000), "TICKET");
    EXPECT_SAYS(change_tag(6), "OK");
    EXPECT_SAYS(fill_as(context(), holder.ticket, some[1], tagged(tag(5))), "OK"); /* of another tag: kept */
    EXPECT_SAYS(ticket_as(holder = context(), some[2], 1000), "TICKET");
    EXPECT_SAYS(change_tag(6), "OK");
    EXPECT_SAYS(fill(&holder, some[2], 0), "OK"); /* of none */
}

TEST(a_table_that_was_lost_voids_what_it_may_have_voided)
{
    static const char *const spoils[][4] = {
        {"DEL", TABLE},
        {"SETRANGE", TABLE, "0", "\x01\x01\x01\x01\x01\x01\x01\x01"}, /* of a time to come */
        {"SET", TABLE, "short"},
        {"LPUSH", TABLE "x", "list"}, /* and renamed, below */
    };

    start(NULL);
    for (size_t i = 0; i < sizeof spoils / sizeof *spoils; i++) {
        struct context holder = context();
        uint64_t last;

        EXPECT(ask("FLUSHALL", NULL).type == '+');
        EXPECT_SAYS(put_as(context(), some[0], tagged(tag(100))), "OK");
        EXPECT_SAYS(put(some[2], 0), "OK");
        EXPECT_SAYS(ticket_as(holder, some[3], 60000), "TICKET");
        EXPECT_SAYS(change_tag(5), "OK");
        last = head().newest_tag;
        EXPECT_SAYS(put_as(context(), some[1], tagged(tag(100))), "OK");
        EXPECT(ask(spoils[i][0], spoils[i][1], spoils[i][2], spoils[i][3], NULL).type != '-');
        if (i == 3)
            EXPECT(ask("RENAME", TABLE "x", TABLE, NULL).type == '+');
        EXPECT_SAYS(ticket_as(context(), some[2], 100), "RECORD"); /* no tags: no doubt */
        EXPECT_SAYS(ticket_as(context(), some[1], 100), "RECORD"); /* born after the last change */
        EXPECT_SAYS(ticket_as(context(), some[0], 100), "TICKET"); /* its tag may have changed */
        EXPECT_SAYS(fill_as(context(), holder.ticket, some[3], tagged(tag(100))), "REFUSED");
        EXPECT_SAYS(change_tag(6), "OK"); /* writes a whole one */
        EXPECT_EQ(atoll(ask("STRLEN", TABLE, NULL).text), 8 * 4097);
        EXPECT(table_word(0) == head().position && table_word(7) == head().position && table_word(101) == last);
        EXPECT_SAYS(ticket_as(context(), some[1], 100), "RECORD");
    }
}

TEST(a_new_epoch_needs_no_table)
{
    start(NULL);
    EXPECT_SAYS(put_as(context(), some[0], tagged(tag(100))), "OK");
    EXPECT_SAYS(change_tag(5), "OK");
    spoil64(HEAD, "12", 0x3031323334353637);                   /* of another server */
    EXPECT_SAYS(ticket_as(context(), some[0], 100), "TICKET"); /* void by the epoch's beginning */
    EXPECT_EQ(head().newest_tag, 0);
    EXPECT_SAYS(put_as(context(), some[1], tagged(tag(5))), "OK");
    EXPECT_SAYS(ticket_as(context(), some[1], 100), "RECORD");
    EXPECT_SAYS(change_tag(5), "OK");
    EXPECT_SAYS(ticket_as(context(), some[1], 100), "TICKET");
}

TEST(a_tag_change_that_makes_no_sense_changes_nothing)
{
    struct context now = context();
    long long written;

    start(NULL);
    EXPECT_SAYS(report(0, 0, 0), "OK");
    written = writes();
    EXPECT(change_tags_as(now, 0, NULL).type == '-');
    EXPECT_EQ(writes(), written);
}
