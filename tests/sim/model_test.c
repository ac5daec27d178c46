/*
 * model_test.c - the model of Redis (redis.h) against a real one: the same random commands and scripts, byte for byte
 * the same answers, and the same data afterwards.
 *
 * Time: the model's clock is set from the real server's.  A script is told which moment it runs in by a line before it,
 * which also leaves that moment where we can read it; so a script's answers and effects must be exactly the same.  A
 * plain command goes out together with TIME.  When a key expires may differ by what a busy machine makes of that.
 *
 * A run follows from its seed (TEST_SEED=N in the environment: that one); a difference names seed, number and command.
 */
#include <hosts.h>
#include <redis.h>
#include <scripts.h>
#include <test.h>

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define WORDS_MOST 24
#define ROOM       ((size_t)8 << 20)
#define CLIENT     7u
#define SLACK_MS   10
#define STALL      2000 /* ms; a busy machine may let a script wait between two looks at the clock */

static struct redis real;
static int wire = -1;
static struct redis_lua *lua;
static struct redis_world *world;
static struct redis_server *model;
static struct redis_reply model_reply;
static int64_t now_us;
static uint64_t seed, state, step; /* of this run */

struct words {
    int count;
    const char *data[WORDS_MOST];
    size_t size[WORDS_MOST];
};

struct reply { /* the real one's bytes */
    char *bytes;
    size_t size, room;
};

/* What the model delivered to whoever listens. */
static struct reply delivered;

/* ---- randomness and memory: what is made for a command lives until the next ---- */

static char *arena;
static size_t arena_used;

static void *take(size_t size)
{
    char *at = arena + arena_used;

    EXPECT(arena_used + size <= ROOM);
    arena_used += (size + 15) & ~(size_t)15;
    return at;
}

static uint64_t roll(uint64_t below)
{
    return test_random(&state) % below;
}

static bool one_in(uint64_t n)
{
    return roll(n) == 0;
}

static void word(struct words *words, const void *data, size_t size)
{
    if (words->count == WORDS_MOST)
        return;
    words->data[words->count] = data;
    words->size[words->count++] = size;
}

static void word_text(struct words *words, const char *text)
{
    word(words, text, strlen(text));
}

__attribute__((format(printf, 2, 3))) static void word_format(struct words *words, const char *format, ...)
{
    char *text = take(256);
    va_list args;

    va_start(args, format);
    word(words, text, (size_t)vsnprintf(text, 256, format, args));
    va_end(args);
}

static void word_random(struct words *words, size_t size)
{
    char *bytes = take(size);

    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)roll(256);
    word(words, bytes, size);
}

/* ---- the real server ---- */

static void reply_more(struct reply *reply, int fd)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    ssize_t got;

    if (reply->room - reply->size < 65536) {
        reply->room = reply->room * 2 + 131072;
        reply->bytes = realloc(reply->bytes, reply->room);
        EXPECT(reply->bytes != NULL);
    }
    EXPECT(poll(&ready, 1, 10000) == 1);
    got = read(fd, reply->bytes + reply->size, reply->room - reply->size - 1);
    EXPECT(got > 0);
    reply->size += (size_t)got;
    reply->bytes[reply->size] = '\0';
}

/* Where the reply at `at` ends, reading more when it is not there yet. */
static size_t reply_end(struct reply *reply, int fd, size_t at)
{
    size_t begin = at;
    long long number;
    char type;

    while (reply->size < at + 3 || !memchr(reply->bytes + at, '\n', reply->size - at))
        reply_more(reply, fd);
    type = reply->bytes[at];
    number = strtoll(reply->bytes + at + 1, NULL, 10);
    at = (size_t)((char *)memchr(reply->bytes + at, '\n', reply->size - at) - reply->bytes) + 1;
    if (type == '$' && number >= 0) {
        at += (size_t)number + 2;
        while (reply->size < at)
            reply_more(reply, fd);
    }
    for (long long i = 0; type == '*' && i < number; i++)
        at = reply_end(reply, fd, at);
    EXPECT(at > begin);
    return at;
}

static int wire_open(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(address.sun_path, real.socket);
    EXPECT(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

static void wire_send(int fd, const struct words *words, const char *before)
{
    size_t size = strlen(before), room = size + 64;
    char *bytes, *at;

    for (int i = 0; i < words->count; i++)
        room += words->size[i] + 32;
    bytes = malloc(room);
    EXPECT(bytes != NULL);
    memcpy(bytes, before, size);
    at = bytes + size;
    at += sprintf(at, "*%d\r\n", words->count);
    for (int i = 0; i < words->count; i++) {
        at += sprintf(at, "$%zu\r\n", words->size[i]);
        memcpy(at, words->data[i], words->size[i]);
        at += words->size[i];
        *at++ = '\r';
        *at++ = '\n';
    }
    for (char *from = bytes; from < at;) {
        ssize_t put = send(fd, from, (size_t)(at - from), MSG_NOSIGNAL);

        EXPECT(put > 0);
        from += put;
    }
    free(bytes);
}

/* The two numbers of TIME's answer, as microseconds. */
static int64_t time_of(const char *bytes)
{
    long long seconds, micros;

    EXPECT(sscanf(bytes, "*2\r\n$%*d\r\n%lld\r\n$%*d\r\n%lld", &seconds, &micros) == 2);
    return seconds * 1000000 + micros;
}

/* Ask the real server; sets now_us to its time just before.  Returns where the reply is. */
static const char *real_ask(const struct words *words, size_t *ret_size)
{
    static struct reply reply;
    size_t begin, end;

    reply.size = 0;
    wire_send(wire, words, "*1\r\n$4\r\nTIME\r\n");
    begin = reply_end(&reply, wire, 0);
    end = reply_end(&reply, wire, begin);
    now_us = time_of(reply.bytes);
    *ret_size = end - begin;
    return reply.bytes + begin;
}

static const char *real_text(const char *first, ...)
{
    struct words words = {0};
    va_list args;
    size_t size;

    va_start(args, first);
    for (const char *text = first; text; text = va_arg(args, const char *))
        word_text(&words, text);
    va_end(args);
    return real_ask(&words, &size);
}

/* ---- the model ---- */

static int64_t model_now(void *arg)
{
    (void)arg;
    return now_us;
}

static void model_deliver(void *arg, struct redis_server *server, uint64_t client, const void *bytes, size_t size)
{
    (void)arg;
    EXPECT(server == model && client == CLIENT + 1);
    delivered.bytes = realloc(delivered.bytes, delivered.size + size);
    EXPECT(delivered.bytes != NULL);
    memcpy(delivered.bytes + delivered.size, bytes, size);
    delivered.size += size;
}

static void model_ask(struct redis_server *server, const struct words *words)
{
    redis_execute(server, CLIENT, words->count, words->data, words->size, &model_reply);
}

static void begin(uint64_t of_seed)
{
    static const struct redis_hooks hooks = {.now_us = model_now, .deliver = model_deliver};
    const char *info, *found;

    if (!arena) {
        EXPECT((arena = malloc(ROOM)) != NULL);
        redis_start(&real, (const char *const[]){"--databases", "1", "--hash-max-listpack-value", "1000000",
                                                 "--hash-max-listpack-entries", "1000000", NULL});
        wire = wire_open();
        lua = redis_lua_open();
        EXPECT(lua != NULL);
    }
    (void)real_text("FLUSHALL", NULL);
    (void)real_text("SCRIPT", "FLUSH", NULL);
    info = real_text("INFO", NULL);
    if (!strstr(info, "redis_version:7.0."))
        test_skip("the model is of Redis 7.0, and here is another");
    found = strstr(info, "master_replid:");
    EXPECT(found != NULL);
    redis_close(world);
    world = redis_open(lua, &hooks, of_seed);
    model = redis_add(world, 0);
    redis_set_replid(model, found + 14);
    seed = state = of_seed;
    step = 0;
}

static uint64_t first_seed(void)
{
    const char *word_ = getenv("TEST_SEED");

    return word_ ? strtoull(word_, NULL, 10) : 1;
}

/* ---- telling a difference ---- */

static void show(const char *title, const char *bytes, size_t size)
{
    fprintf(stderr, "%s", title);
    for (size_t i = 0; i < size && i < 400; i++) {
        unsigned char c = (unsigned char)bytes[i];

        if (c == '\r' || c == '\n')
            fputs(c == '\r' ? "" : " | ", stderr);
        else if (c >= ' ' && c < 127)
            fputc(c, stderr);
        else
            fprintf(stderr, "\\x%02x", c);
    }
    fputs("\n", stderr);
}

_Noreturn static void differ(const struct words *words, const char *bytes, size_t size)
{
    size_t at = 0;

    while (at < size && at < model_reply.size && bytes[at] == model_reply.bytes[at])
        at++;
    fprintf(stderr, "seed %llu, command %llu, from byte %zu of the answer on:\n", (unsigned long long)seed,
            (unsigned long long)step, at);
    for (int i = 0; i < words->count; i++)
        show("  word   ", words->data[i], words->size[i] > 300 ? 300 : words->size[i]);
    show("  redis  ", bytes, size);
    show("  model  ", model_reply.bytes, model_reply.size);
    test_failed(__FILE__, __LINE__, "the model answers as Redis does");
}

/* Do both say the same, but for numbers that differ by no more than `slack`? */
static bool same_but_for(const char *a, size_t a_size, const char *b, size_t b_size, long long slack)
{
    char a_text[32], b_text[32];

    if (a_size == b_size && memcmp(a, b, a_size) == 0)
        return true;
    if (!slack || a_size >= sizeof a_text || b_size >= sizeof b_text || a[0] != ':' || b[0] != ':')
        return false;
    memcpy(a_text, a, a_size);
    memcpy(b_text, b, b_size);
    a_text[a_size] = b_text[b_size] = '\0';
    return llabs(strtoll(a_text + 1, NULL, 10) - strtoll(b_text + 1, NULL, 10)) <= slack;
}

/* A stream's radix tree is none of ours: make the number of its nodes 0. */
static size_t mask_nodes(char *bytes, size_t size)
{
    static const char name[] = "radix-tree-nodes\r\n:";
    char *at = memmem(bytes, size, name, strlen(name)), *end;

    if (!at)
        return size;
    at += strlen(name);
    end = memchr(at, '\r', size - (size_t)(at - bytes));
    *at = '0';
    memmove(at + 1, end, size - (size_t)(end - bytes));
    return size - (size_t)(end - at - 1);
}

static void compare(const struct words *words, const char *bytes, size_t size, long long slack)
{
    static char *copy;
    static size_t room;

    if (size > room) {
        room = size * 2;
        copy = realloc(copy, room);
        EXPECT(copy != NULL);
    }
    memcpy(copy, bytes, size);
    size = mask_nodes(copy, size);
    model_reply.size = mask_nodes(model_reply.bytes, model_reply.size);
    if (!same_but_for(copy, size, model_reply.bytes, model_reply.size, slack))
        differ(words, copy, size);
}

/* The same command to both. */
static void both(const struct words *words, long long slack)
{
    size_t size;
    const char *bytes = real_ask(words, &size);

    model_ask(model, words);
    compare(words, bytes, size, slack);
}

static void both_text(long long slack, const char *first, ...)
{
    struct words words = {0};
    va_list args;

    va_start(args, first);
    for (const char *text = first; text; text = va_arg(args, const char *))
        word_text(&words, text);
    va_end(args);
    both(&words, slack);
}

/* Nothing is about to expire: the real server's clock has gone on by some milliseconds. */
static void let_pass(void)
{
    int64_t until;

    (void)real_text("PING", NULL);
    until = now_us + SLACK_MS * 1000;
    EXPECT(test_until((real_text("PING", NULL), now_us > until), 5000));
}

/* ---- commands ---- */

static const char *const keys[] = {"string",
                                   "other",
                                   "hash",
                                   "hash2",
                                   "stream",
                                   "stream2",
                                   "freshet:{t:0}:head",
                                   "freshet:{t:0}:log",
                                   "freshet:{t:0}:record:a",
                                   "freshet:{t:0}:record:b",
                                   "freshet:{t:0}:record:c",
                                   "freshet:{t:0}:hosts",
                                   "freshet:{t:0}:tagfence"};
#define KEYS_COUNT (sizeof keys / sizeof *keys)
enum { KEY_HEAD = 6, KEY_LOG, KEY_RECORD, KEY_HOSTS = 11, KEY_TAGFENCE };

static void word_integer(struct words *words)
{
    static const char *const odd[] = {"",
                                      "-",
                                      "01",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "1.0",
                                      "x",
                                      "-0",
                                      "9223372036854775807",
                                      "9223372036854775808",
                                      "-9223372036854775808",
                                      "1e3",
                                      "0x10",
                                      "nan"};

    if (one_in(12))
        word_text(words, odd[roll(sizeof odd / sizeof *odd)]);
    else if (one_in(3))
        word_format(words, "%d", (int)roll(5) - 2);
    else
        word_format(words, "%lld", (long long)roll(400) - 40);
}

static void word_value(struct words *words)
{
    switch (roll(6)) {
    case 0:
        word_integer(words);
        break;
    case 1:
        word_random(words, roll(80));
        break;
    case 2:
        word_random(words, roll(6000));
        break;
    default:
        word_format(words, "value-%u", (unsigned)roll(1000));
    }
}

static void word_id(struct words *words)
{
    static const char *const odd[] = {"-",
                                      "+",
                                      "*",
                                      "",
                                      "5-",
                                      "-5",
                                      "x",
                                      "5-x",
                                      "5-*",
                                      "(5",
                                      "(5-1",
                                      "(-",
                                      "0-0",
                                      "0-1",
                                      "18446744073709551615-18446744073709551615",
                                      "18446744073709551616",
                                      "007"};

    if (one_in(6))
        word_text(words, odd[roll(sizeof odd / sizeof *odd)]);
    else if (one_in(2))
        word_format(words, "%llu-%llu", (unsigned long long)(roll(60) + step / 8), (unsigned long long)roll(3));
    else
        word_format(words, "%llu", (unsigned long long)(roll(60) + step / 8));
}

/* A time to live.  What ends while the run goes on would end for one a moment before the other: so it is far off, or so
 * near (`ends_soon`) that both are waited for. */
static bool ends_soon;

static void word_life(struct words *words, bool milliseconds)
{
    if (one_in(12)) {
        word_format(words, "%d", -(int)roll(40));
    } else if (one_in(12)) {
        word_text(words, one_in(2) ? "9223372036854775807" : "x");
    } else if (milliseconds && one_in(4)) {
        word_format(words, "%u", 1 + (unsigned)roll(3));
        ends_soon = true;
    } else {
        word_format(words, "%u", 100000 + (unsigned)roll(1000000));
    }
}

/* SET's options, often the wrong ones. */
static void word_set_options(struct words *words)
{
    static const char *const alone[] = {"NX", "XX", "GET", "KEEPTTL", "keepttl", "ZZ"};
    static const char *const timed[] = {"PX", "px", "EX", "PXAT", "EXAT"};

    while (one_in(2)) {
        if (one_in(2)) {
            word_text(words, alone[roll(6)]);
            continue;
        }
        word_text(words, timed[roll(5)]);
        if (words->data[words->count - 1][2] == 'A')
            word_format(words, "%lld",
                        one_in(6) ? 1
                                  : (now_us / 1000000 + 500 + (long long)roll(1000)) *
                                        (words->data[words->count - 1][0] == 'P' ? 1000 : 1));
        else
            word_life(words, (words->data[words->count - 1][0] | ' ') == 'p');
    }
}

static void word_trim(struct words *words)
{
    word_text(words, one_in(2) ? "MAXLEN" : "MINID");
    if (!one_in(4))
        word_text(words, one_in(3) ? "=" : "~");
    if (one_in(2))
        word_integer(words);
    else
        word_id(words);
    if (one_in(5)) {
        word_text(words, "LIMIT");
        word_integer(words);
    }
}

/* One letter of a command's pattern. */
static void word_of(struct words *words, char kind)
{
    static const char *const channels[] = {"a", "b", "freshet:{t:0}:frames"};

    switch (kind) {
    case 'k':
        word_text(words, keys[roll(KEYS_COUNT)]);
        break;
    case 's': /* usually where a string is */
        word_text(words, one_in(6) ? keys[roll(KEYS_COUNT)] : keys[roll(2)]);
        break;
    case 'h':
        word_text(words, one_in(6) ? keys[roll(KEYS_COUNT)] : keys[2 + roll(2)]);
        break;
    case 'x':
        word_text(words, one_in(6) ? keys[roll(KEYS_COUNT)] : keys[4 + roll(2)]);
        break;
    case 'f':
        word_format(words, "field%u", (unsigned)roll(6));
        break;
    case 'v':
        word_value(words);
        break;
    case 'n':
        word_integer(words);
        break;
    case 'm':
        word_life(words, words->data[0][0] == 'P');
        break;
    case 'i':
        word_id(words);
        break;
    case 'o':
        word_set_options(words);
        break;
    case 't':
        if (one_in(2))
            word_trim(words);
        break;
    case 'T':
        word_trim(words);
        break;
    case 'c':
        if (one_in(2)) {
            word_text(words, one_in(9) ? "LIMIT" : "COUNT");
            word_integer(words);
        }
        break;
    case 'e': {
        static const char *const options[] = {"NX", "XX", "GT", "LT", "gt", "QQ"};

        while (one_in(3))
            word_text(words, options[roll(6)]);
        break;
    }
    default:
        word_text(words, channels[roll(3)]);
    }
}

static const struct {
    const char *name, *pattern;
    unsigned weight, slack;
} commands[] = {
    {"SET", "svo", 6, 0},
    {"GET", "s", 3, 0},
    {"MGET", "kkk", 2, 0},
    {"MSET", "svsv", 1, 0},
    {"SETEX", "smv", 1, 0},
    {"PSETEX", "smv", 1, 0},
    {"SETNX", "sv", 1, 0},
    {"GETSET", "sv", 1, 0},
    {"GETDEL", "s", 1, 0},
    {"APPEND", "sv", 2, 0},
    {"STRLEN", "s", 1, 0},
    {"GETRANGE", "snn", 3, 0},
    {"SETRANGE", "snv", 3, 0},
    {"INCR", "s", 1, 0},
    {"DECR", "s", 1, 0},
    {"INCRBY", "sn", 1, 0},
    {"DECRBY", "sn", 1, 0},
    {"DEL", "kk", 2, 0},
    {"UNLINK", "k", 2, 0},
    {"EXISTS", "kk", 1, 0},
    {"TYPE", "k", 2, 0},
    {"TTL", "k", 1, 2},
    {"PTTL", "k", 2, STALL},
    {"EXPIRETIME", "k", 1, 2},
    {"PEXPIRETIME", "k", 1, STALL},
    {"EXPIRE", "kme", 2, 0},
    {"PEXPIRE", "kme", 2, 0},
    {"PERSIST", "k", 1, 0},
    {"HSET", "hfv", 4, 0},
    {"HSET", "hfvfv", 1, 0},
    {"HMSET", "hfv", 1, 0},
    {"HSETNX", "hfv", 1, 0},
    {"HGET", "hf", 2, 0},
    {"HMGET", "hff", 1, 0},
    {"HGETALL", "h", 2, 0},
    {"HKEYS", "h", 1, 0},
    {"HVALS", "h", 1, 0},
    {"HLEN", "h", 1, 0},
    {"HEXISTS", "hf", 1, 0},
    {"HSTRLEN", "hf", 1, 0},
    {"HDEL", "hff", 2, 0},
    {"HINCRBY", "hfn", 1, 0},
    {"XADD", "xtifv", 12, 0},
    {"XADD", "xtifvfv", 2, 0},
    {"XLEN", "x", 1, 0},
    {"XRANGE", "xiic", 3, 0},
    {"XREVRANGE", "xiic", 2, 0},
    {"XTRIM", "xT", 3, 0},
    {"XDEL", "xii", 1, 0},
    {"XINFO", "", 0, 0},
    {"PUBLISH", "pv", 1, 0},
    {"PING", "", 1, 0},
    {"ECHO", "v", 1, 0},
    {"SELECT", "n", 1, 0},
    {"FLUSHALL", "", 0, 0},
    {"NOSUCH", "vk", 1, 0},
};
#define COMMANDS_COUNT (sizeof commands / sizeof *commands)

static bool shows_time(const struct words *words)
{
    for (int i = 0; i < words->count; i++)
        if (words->size[i] > 0 && words->size[i] < 3 && words->data[i][words->size[i] - 1] == '*')
            return true;
    return false;
}

/* A random command to both; XADD with "*" only where it fails. */
static void random_command(void)
{
    struct words words = {0};
    size_t which, size = 0;
    const char *bytes;

    ends_soon = false;
    do
        which = roll(COMMANDS_COUNT);
    while (commands[which].weight <= roll(12));
    word_text(&words, commands[which].name);
    for (const char *kind = commands[which].pattern; *kind; kind++)
        if (!one_in(60))
            word_of(&words, *kind);
    if (one_in(60))
        word_value(&words);
    if (strcmp(commands[which].name, "XADD") == 0 && shows_time(&words))
        return;
    bytes = real_ask(&words, &size);
    model_ask(model, &words);
    compare(&words, bytes, size, commands[which].slack);
    if (ends_soon)
        let_pass();
}

/* What is in every key, on both sides. */
static void compare_data(void)
{
    for (size_t i = 0; i < KEYS_COUNT; i++) {
        both_text(0, "TYPE", keys[i], NULL);
        both_text(STALL, "PEXPIRETIME", keys[i], NULL);
        both_text(0, "GET", keys[i], NULL);
        both_text(0, "HGETALL", keys[i], NULL);
        both_text(0, "XRANGE", keys[i], "-", "+", NULL);
        both_text(0, "XREVRANGE", keys[i], "+", "-", "COUNT", "2", NULL);
        both_text(0, "XINFO", "STREAM", keys[i], NULL);
    }
    arena_used = 0;
}

TEST_LONG(commands_answer_as_in_redis, 300)
{
    uint64_t first = first_seed(), count = test_long_runs() ? 60 : 6;

    for (uint64_t s = first; s < first + count; s++) {
        begin(s);
        for (step = 0; step < 1500; step++) {
            arena_used = 0;
            random_command();
            if (step % 100 == 99)
                compare_data();
        }
    }
}

/* ---- scripts ---- */

/* What a script is given: keys and arguments, a letter each.  Of several one is drawn; a script that is not listed
 * gets what comes. */
static const struct {
    const char *name, *keys, *args;
} shapes[] = {
    {"change", "hlR", "cpmKsn"},   {"change", "hl", "cpmCsn"},     {"change", "hlt", "cpMGsn"},
    {"change", "hl?", "cpmksn"},   {"put", "hlr", "cpmSvisebngU"}, {"ticket", "hrt", "cnU"},
    {"fill", "hrt", "cTSiisebng"}, {"report", "hlo", "cHaNA"},     {"leave", "ho", "cHFO"},
    {"guard", "hlr", "cpmBdwsn"},  {"guard", "hlrR", "cpmEdqsn"},  {"hold", "hr", "cdwq"},
    {"wait", "ho", "c"},           {"latest", "hrt", "cL"},
};

/* A script's text as both get it: first of all it says which moment this is. */
static char *told_text[SCRIPT_ALL];
static size_t told_size[SCRIPT_ALL];
static char last_ticket[16];

static void tell_texts(void)
{
    static const char line[] = "local MOMENT = redis.call('TIME') redis.pcall('SET', 'clock', MOMENT[1] .. ' ' .. "
                               "MOMENT[2]) ";
    static const char asks[] = "redis.call('TIME')", asked[] = "MOMENT";

    for (int i = 0; i < SCRIPT_ALL && !told_text[0 + i]; i++) {
        const char *from = script_texts[i].text, *found;
        char *to = malloc(sizeof line + script_texts[i].size);

        EXPECT(to != NULL);
        told_text[i] = to;
        to = stpcpy(to, line);
        while ((found = strstr(from, asks)) != NULL) {
            memcpy(to, from, (size_t)(found - from));
            to = stpcpy(to + (found - from), asked);
            from = found + strlen(asks);
        }
        EXPECT(from != script_texts[i].text);
        to = stpcpy(to, from);
        told_size[i] = (size_t)(to - told_text[i]);
    }
}

static void put_number(uint8_t *to, uint64_t value, unsigned size)
{
    while (size-- > 0) {
        to[size] = (uint8_t)value;
        value >>= 8;
    }
}

/* A position: near the head's, or anything. */
static uint64_t random_position(const uint8_t *head)
{
    uint64_t position = 0;

    for (int i = 0; i < 8; i++)
        position = position << 8 | head[52 + i];
    switch (roll(8)) {
    case 0:
        return 0;
    case 1:
        return test_random(&state) >> roll(64);
    case 2:
        return (uint64_t)now_us + roll(UINT64_C(1) << 40);
    default:
        return position + roll(8) - 4;
    }
}

/* The head as the model has it, for what a host would know; zeros when there is none. */
static const uint8_t *head_now(void)
{
    static uint8_t head[140];
    struct words words = {0};

    word_text(&words, "GET");
    word_text(&words, keys[KEY_HEAD]);
    model_ask(model, &words);
    memset(head, 0, sizeof head);
    if (model_reply.size > 132 && memcmp(model_reply.bytes, "$132\r\n", 6) == 0)
        memcpy(head, model_reply.bytes + 6, 132);
    return head;
}

static void word_context(struct words *words, const uint8_t *head)
{
    uint8_t *at = take(64);

    for (int i = 0; i < 64; i++)
        at[i] = (uint8_t)roll(256);
    if (!one_in(5))
        memcpy(at + 24, head + 4, 8);
    put_number(at + 32, one_in(8) ? random_position(head) : 0, 8);
    put_number(at + 40, one_in(20) ? 1000 : 500, 4);
    put_number(at + 44, one_in(40) ? 2 : 1, 2);
    word(words, at, 64);
}

/* One of a few tags, 8 bytes. */
static void put_tag(char *to)
{
    memset(to, 0, 8);
    to[0] = (char)(1 + roll(4));
    to[1] = (char)roll(2);
}

/* What a caller has of a record: its born, version and writer, as the model has them, or nearly. */
static void word_copy(struct words *words)
{
    struct words ask = {0};
    uint8_t *bytes = take(24);
    uint64_t born = 0;

    word_text(&ask, "GET");
    word(&ask, words->data[4], words->size[4]);
    model_ask(model, &ask);
    if (model_reply.size > 40 && memcmp(model_reply.bytes, "$-1", 3) != 0 && !one_in(6))
        memcpy(bytes, (const char *)memchr(model_reply.bytes, '\n', model_reply.size) + 5, 24);
    else
        memset(bytes, 0, 24);
    for (int i = 0; i < 8; i++)
        born = born << 8 | bytes[i];
    word_format(words, "%llu", (unsigned long long)born);
    word(words, bytes + 8, 8);
    word(words, bytes + 16, 8);
}

/* A host's mark in the registry, or none; what it is to be may be no mark. */
static void word_mark(struct words *words, bool new)
{
    if (one_in(3))
        word_text(words, "");
    else
        word_format(words, "%smark%u", new &&one_in(8) ? "" : "!", (unsigned)roll(2));
}

/* The moment that a record is to end. */
static void word_expiry(struct words *words)
{
    uint64_t us = one_in(2) ? 0 : (uint64_t)now_us + 60000000 + roll(200000000);

    ends_soon = one_in(16);
    word_format(words, "%llu", (unsigned long long)(ends_soon ? (uint64_t)now_us - roll(1000000) : us));
}

static void word_tags(struct words *words)
{
    size_t count = one_in(3) ? 1 + roll(3) : 0;
    char *tags = take(count * 8);

    for (size_t i = 0; i < count; i++)
        put_tag(tags + 8 * i);
    word(words, tags, count * 8);
}

/* A signed message as far as scripts look at it; `tags`: one that names some. */
static void word_message(struct words *words, bool tags)
{
    size_t size = tags ? 128 + 16 * roll(5) : one_in(20) ? 127 : 128 + roll(500);

    word_random(words, size);
    for (size_t at = 128; tags && at < size; at += 16)
        put_tag((char *)(uintptr_t)words->data[words->count - 1] + at);
}

/* Fixed words; false: it is none. */
static bool word_fixed(struct words *words, char kind)
{
    static const struct {
        char kind;
        const char *text;
    } fixed[] = {{'p', "freshet:{t:0}:frames"}, {'B', "begin"}, {'E', "end"}, {'K', "invalidate"}, {'G', "tags"}};

    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        if (fixed[i].kind != kind)
            continue;
        word_text(words, fixed[i].text);
        return true;
    }
    if (kind == 'T') /* a fill is drawn with the ticket that was asked for last, or none would ever fit */
        word(words, last_ticket, 16);
    return kind == 'T';
}

static void word_source(struct words *words)
{
    uint8_t *id = take(8);

    put_number(id, one_in(2) ? 0 : roll(6), 8);
    word(words, id, 8);
}

/* Until when a put or a ticket is wanted ('U'), mostly for longer; when a put was signed ('v'), mostly a while ago, now
 * and then before the clock was put back. */
static void word_time(struct words *words, char kind)
{
    uint8_t *id = take(8);

    put_number(id, (uint64_t)now_us - 90000000 + roll(100000000), 8);
    if (kind == 'v')
        word(words, id, 8);
    else
        word_format(words, "%llu", (unsigned long long)((uint64_t)now_us + roll(90000000) - 10000000));
}

/* What a host may claim of its partition beside its name: three numbers, or nothing. */
static void word_claim(struct words *words)
{
    if (one_in(3))
        word_format(words, "%u %x %u", (unsigned)roll(99), (unsigned)roll(999), (unsigned)roll(9));
}

static void word_script_argument(struct words *words, char kind, const uint8_t *head)
{
    if (word_fixed(words, kind))
        return;
    switch (kind) {
    case 'c':
        word_context(words, head);
        break;
    case 'm':
    case 'M':
        word_message(words, kind == 'M');
        break;
    case 'g':
        word_tags(words);
        break;
    case 'H':
    case 'd':
        word_format(words, "%s-with-16-b%u", kind == 'd' ? "guard" : "hosts", (unsigned)roll(3));
        break;
    case 'w':
        word_format(words, "%u", (unsigned)(one_in(2) ? 1 + roll(9) : roll(600010)));
        break;
    case 'L':
        word_copy(words);
        break;
    case 'F':
    case 'O':
        word_mark(words, kind == 'O');
        break;
    case 'A':
        word_claim(words);
        break;
    case 'v':
    case 'U':
        word_time(words, kind);
        break;
    case 'q':
        word(words, memcpy(take(8), head + 4, 8), 8);
        break;
    case 'C':
        word_text(words, one_in(4) ? "clear" : "invalidate");
        break;
    case 'S':
        word_format(words, "%u", (unsigned)(one_in(10) ? roll(4) : 1 + roll(2)));
        break;
    case 's':
        word_source(words);
        break;
    case 'i':
        word_random(words, 8);
        break;
    case 'e':
        word_expiry(words);
        break;
    case 'b':
        word_random(words, one_in(12) ? roll(48) : 48 + roll(300));
        break;
    case 'n':
    case 'N':
        word_format(words, "%u", (unsigned)(kind == 'N' ? roll(40) : one_in(3) ? 0 : 100000 + roll(1000000)));
        break;
    case 'a':
        word_format(words, "%llu", (unsigned long long)random_position(head));
        break;
    default:
        word_value(words);
    }
}

static void word_script_key(struct words *words, char kind)
{
    if (kind == 'h' || kind == 'l')
        word_text(words, keys[kind == 'h' ? KEY_HEAD : KEY_LOG]);
    else if (kind == 'o' || kind == 't')
        word_text(words, keys[kind == 'o' ? KEY_HOSTS : KEY_TAGFENCE]);
    else
        word_text(words, keys[KEY_RECORD + roll(3)]);
}

/* Make one argument something that no host would send. */
static void garble(struct words *words, int from)
{
    static const char *const odd[] = {"",          "-1",
                                      "1e3",       "nan",
                                      "inf",       "-inf",
                                      "0x10",      "9007199254740993",
                                      "1e300",     " 5 ",
                                      "5.5",       "-0",
                                      "x",         "9007190664806400",
                                      "4294967296"};
    int which = from + (int)roll((uint64_t)(words->count - from));

    switch (roll(4)) {
    case 0:
        words->count--;
        break;
    case 1: {
        char *bytes = take(words->size[which] + 1);

        memcpy(bytes, words->data[which], words->size[which]);
        if (words->size[which])
            bytes[roll(words->size[which])] = (char)roll(256);
        words->data[which] = bytes;
        break;
    }
    case 2:
        words->size[which] = words->size[which] ? roll(words->size[which]) : 0;
        break;
    default:
        words->data[which] = odd[roll(sizeof odd / sizeof *odd)];
        words->size[which] = strlen(words->data[which]);
    }
}

static struct words script_words(int script)
{
    const char *name = script_texts[script].name, *shape_keys = "hlr", *shape_args = "c?????";
    uint64_t fitting = 0;
    const uint8_t *head = head_now();
    struct words words = {0};
    char count[16];

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, name) == 0 && one_in(++fitting))
            shape_keys = shapes[i].keys, shape_args = shapes[i].args;
    word_text(&words, "EVAL");
    word(&words, told_text[script], told_size[script]);
    word_text(&words, "");
    for (const char *kind = shape_keys; *kind; kind++) {
        if (*kind != 'R')
            word_script_key(&words, *kind);
        for (uint64_t n = *kind == 'R' ? roll(4) : 0; n > 0; n--)
            word_script_key(&words, 'r');
    }
    snprintf(count, sizeof count, "%d", words.count - 3);
    words.data[2] = strcpy(take(16), count);
    words.size[2] = strlen(count);
    for (const char *kind = shape_args; *kind; kind++)
        word_script_argument(&words, *kind, head);
    if (one_in(8))
        garble(&words, 3);
    if ((strcmp(name, "ticket") == 0 && one_in(2)) && words.size[5] == 64)
        memcpy(last_ticket, words.data[5] + 48, 16);
    return words;
}

/* The moment that the real server's script noted. */
static void read_clock(void)
{
    long long seconds, micros;
    const char *bytes = real_text("GET", "clock", NULL);

    if (sscanf(bytes, "$%*d\r\n%lld %lld", &seconds, &micros) == 2)
        now_us = seconds * 1000000 + micros;
}

static const char *status_of(const char *bytes)
{
    static char status[32];

    if (sscanf(bytes, "*%*d\r\n$%*d\r\n%31s", status) == 1)
        return status;
    return bytes[0] == '-' ? "error" : "else";
}

static struct {
    char status[32];
    unsigned count;
} seen[32];

static void note(const char *status)
{
    size_t i = 0;

    while (i < 31 && seen[i].count && strcmp(seen[i].status, status) != 0)
        i++;
    snprintf(seen[i].status, sizeof seen[i].status, "%s", status);
    seen[i].count++;
}

static unsigned noted(const char *status)
{
    for (size_t i = 0; i < 32; i++)
        if (strcmp(seen[i].status, status) == 0)
            return seen[i].count;
    return 0;
}

static void random_script(int which)
{
    static struct reply kept;
    struct words words;
    const char *bytes;
    size_t size;

    ends_soon = false;
    words = script_words(which);
    bytes = real_ask(&words, &size);
    if (size > kept.room) {
        kept.room = size * 2;
        kept.bytes = realloc(kept.bytes, kept.room);
        EXPECT(kept.bytes != NULL);
    }
    memcpy(kept.bytes, bytes, size);
    read_clock();
    model_ask(model, &words);
    compare(&words, kept.bytes, size, 0);
    note(status_of(kept.bytes));
    if (ends_soon)
        let_pass();
}

TEST_LONG(scripts_answer_and_leave_behind_what_they_do_in_redis, 300)
{
    uint64_t first = first_seed(), count = test_long_runs() ? 60 : 6;

    for (uint64_t s = first; s < first + count; s++) {
        begin(s);
        tell_texts();
        for (step = 0; step < 1000; step++) {
            arena_used = 0;
            if (one_in(12))
                random_command();
            else
                random_script(one_in(5) ? SCRIPT_PUT : (int)roll(SCRIPT_ALL));
            if (step % 100 == 99)
                compare_data();
        }
    }
    for (size_t i = 0; i < 32 && seen[i].count; i++)
        printf("    %s: %u\n", seen[i].status, seen[i].count);
    EXPECT(noted("OK") > 100 && noted("RECORD") > 0 && noted("TICKET") > 0 && noted("WAIT") > 0);
    EXPECT(noted("REFUSED") > 0 && noted("OUTDATED") > 0 && noted("CONFLICT") > 0 && noted("error") > 10);
    EXPECT(noted("GUARDED") > 0 && noted("CURRENT") > 0 && noted("NONE") > 0);
}

/* ---- Lua as scripts find it ---- */

static const char *const snippets[] = {
    "return redis.call('GET')",
    "return redis.pcall('GET')",
    "return redis.call('NOPE')",
    "return redis.call()",
    "return redis.pcall()",
    "return redis.call({})",
    "return redis.call('GET', nil)",
    "return redis.call('ECHO', 1)",
    "return redis.call('ECHO', 0.1)",
    "return redis.call('ECHO', 9007199254740991)",
    "return redis.call('ECHO', 1e300)",
    "return redis.call('SUBSCRIBE', 'x')",
    "return redis.call('EVAL', 'return 1', 0)",
    "return redis.error_reply('My error')",
    "return redis.error_reply('-My error')",
    "return redis.error_reply()",
    "return redis.status_reply('fine')",
    "return redis.status_reply(1)",
    "return {err='oops'}",
    "return {err='oops\\nfoo'}",
    "return {ok='fine'}",
    "\nx = 1",
    "\nreturn y",
    "\nerror('boo')",
    "\nerror({err='boo'})",
    "\nerror({err='BOO x'})",
    "\nerror()",
    "\nerror(5)",
    "\nerror('boo', 0)",
    "\nerror('boo', 2)",
    "return nil .. 'x'",
    "return nil + 1",
    "return nil x .. 'x'",
    "return (",
    "return ('x'):rep(3)",
    "local t = {} return t.a.b",
    "return 3.99",
    "return -3.99",
    "return {1, 2, nil, 4}",
    "return {1, {2, {3, 'x'}}, true, false, 5}",
    "return true",
    "return false",
    "return nil",
    "return {}",
    "return function() end",
    "redis.call('HSET', 'h', 'a', 'b') return redis.call('GET', 'h')",
    "redis.call('HSET', 'h', 'a', 'b') return redis.pcall('GET', 'h')",
    "redis.call('HSET', 'h', 'a', 'b') return redis.pcall('GET', 'h').err",
    "return redis.call('HGETALL', 'h')",
    "return redis.call('SET', 'k', 'v')",
    "return redis.call('SET', 'k', 'v').ok",
    "return redis.call('GET', 'none')",
    "return type(redis.call('GET', 'none'))",
    "return type(redis.call('XRANGE', 'none', '-', '+'))",
    "redis.call('XADD', 's', '5-0', 'f', 'v') return type(redis.call('XRANGE', 's', '-', '+', 'COUNT', 0))",
    "return redis.call('XRANGE', 's', '-', '+')[1][2][2]",
    "local a, b = pcall(redis.call, 'GET') return {type(b), b}",
    "local a, b = pcall(error, 'hu') return {type(b), b}",
    "local a, b = pcall(function() error('hu') end) return {tostring(a), b}",
    "local a, b = pcall(error, {err='x'}) return {type(b), b}",
    "local a, b, c = pcall(function() return 1, 2 end) return {tostring(a), b, c}",
    "return select('#', pcall(error))",
    "return string.format('%d', 9007190664806400)",
    "return string.format('%.0f', 2^53)",
    "return string.format('%d', 'x')",
    "return string.rep('ab', 3)",
    "return string.rep(nil, 3)",
    "return tostring(1e15) .. tostring(123456789012345678)",
    "return tostring(0/0) .. tostring(1/0)",
    "return tonumber('0x10') .. tostring(tonumber('1e3')) .. tostring(tonumber(' 5 ')) .. tostring(tonumber(''))",
    "return string.match('master_replid:abc', 'master_replid:(%x+)')",
    "return math.max(1, 2.5) * 2",
    "return math.max(1, 0/0) .. ''",
    "return math.floor(-0.5) .. ''",
    "return table.concat({1, 'a', 2.5}, ',')",
    "local t = {3, 1, 2} table.sort(t) return t",
    "return unpack({1, 2, 3})",
    "return {unpack({1, 2, 3})}",
    "return {bit.band(5, 3), bit.bor(5, 3), bit.bxor(5, 3), bit.bnot(0), bit.lshift(1, 31), bit.rshift(-1, 28)}",
    "return {bit.tobit(2^32 - 1), bit.tobit(2^31), bit.lshift(1, 33)}",
    "return redis.sha1hex('') .. redis.sha1hex('abc') .. redis.sha1hex(string.rep('a', 200))",
    "return redis.sha1hex()",
    "return redis.REDIS_VERSION_NUM > 0",
    "return #KEYS + #ARGV",
    "return struct.pack('>I8', 2^53)",
    "return struct.pack('>I8', -1)",
    "return struct.pack('>I8', 1.7)",
    "return struct.pack('>I8', 0/0)",
    "return struct.pack('>I8', 1/0)",
    "return struct.pack('>I8', -1/0)",
    "return struct.pack('>I8', 1e19)",
    "return struct.pack('>I8', 1e300)",
    "return struct.pack('>I8', -1e300)",
    "return struct.pack('>I4', 2^40 + 5)",
    "return struct.pack('>I12', 5)",
    "return 0/0",
    "return 1e300",
    "return -1e300",
    "return {struct.unpack('>i2c0', '\\255\\255abcdef')}",
    "return struct.pack('>I8')",
    "return struct.pack('>I8', 'x')",
    "return struct.pack('>I33', 1)",
    "return struct.pack('>q', 1)",
    "return struct.pack('c8', 'short')",
    "return struct.pack('c0', 'whole') .. struct.pack('s', 'nul') .. struct.pack('c2', 'cut')",
    "return struct.pack('>hHbBiIlLxfd', -2, 3, -4, 5, -6, 7, -8, 9, 1.5, 2.5)",
    "return struct.pack('<hHbBiIlLxfd', -2, 3, -4, 5, -6, 7, -8, 9, 1.5, 2.5)",
    "return {struct.unpack('>I2I2', 'abcd')}",
    "return {struct.unpack('>I2c0', '\\0\\3abcdef')}",
    "return {struct.unpack('>i1i2i4i8', string.rep('\\255', 15))}",
    "return {struct.unpack('s', 'ab\\0cd')}",
    "return {struct.unpack('s', 'abcd')}",
    "return {struct.unpack('>I8', 'short')}",
    "return {struct.unpack('>I2', 'abcd', 3)}",
    "return {struct.unpack('>I2', 'abcd', 4)}",
    "return {struct.unpack('>I2', 'abcd', 0)}",
    "return {struct.unpack('c0', 'abcd')}",
    "return tostring(struct.unpack('>I8', string.rep('\\255', 8)))",
    "return tostring(struct.unpack('>d', struct.pack('>d', 0.1)))",
    "return tostring(struct.unpack('<f', struct.pack('<f', 0.1)))",
    "return struct.size('>I2I8c16d')",
    "return struct.size('s')",
    "return struct.size('c0')",
    "return struct.size('i8i4 >i2')",
    "string.foo = 1",
    "redis.foo = 1",
    "KEYS[3] = 'x' return KEYS[3]",
    "local s = 0 for i = 1, 1000 do s = s + i end return s",
    "local function f(n) if n == 0 then error('deep') end f(n - 1) end f(3)",
    "local t = setmetatable({}, {__index = function(t, k) return k .. '!' end}) return t.x",
};

TEST(lua_is_as_scripts_find_it_in_redis)
{
    begin(1);
    for (step = 0; step < sizeof snippets / sizeof *snippets; step++)
        both_text(0, "EVAL", snippets[step], "1", "a-key", "an-argument", NULL);
    both_text(0, "EVALSHA", "abc", "0", NULL);
    both_text(0, "EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0", NULL);
    both_text(0, "EVAL", "return 1", "x", NULL);
    both_text(0, "EVAL", "return 1", "2", "a", NULL);
    both_text(0, "EVAL", "return 1", "-1", NULL);
    both_text(0, "EVAL", NULL);
    both_text(0, "SCRIPT", "LOAD", "return 1", NULL);
    both_text(0, "EVALSHA", "E0E1F9FABFC9D4800C877A703B823AC0578FF8DB", "0", NULL);
    both_text(0, "SCRIPT", "EXISTS", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "aa", NULL);
    both_text(0, "SCRIPT", "LOAD", "return x 1", NULL);
    both_text(0, "SCRIPT", "FLUSH", NULL);
    both_text(0, "EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0", NULL);
    both_text(0, "SCRIPT", NULL);
    both_text(0, "SCRIPT", "FOO", NULL);
}

TEST(the_connection_and_the_server_answer_as_in_redis)
{
    begin(1);
    both_text(0, "PING", NULL);
    both_text(0, "ping", "hello", NULL);
    both_text(0, "PING", "a", "b", NULL);
    both_text(0, "AUTH", "x", NULL);
    both_text(0, "AUTH", "x", "y", NULL);
    both_text(0, "AUTH", "default", "y", NULL);
    both_text(0, "AUTH", "x", "y", "z", NULL);
    both_text(0, "SELECT", "0", NULL);
    both_text(0, "SELECT", "1", NULL);
    both_text(0, "CLIENT", "SETNAME", "a b", NULL);
    both_text(0, "CLIENT", "SETNAME", "freshet", NULL);
    both_text(0, "CLIENT", "GETNAME", NULL);
    both_text(0, "CLIENT", "SETNAME", "", NULL);
    both_text(0, "CLIENT", "GETNAME", NULL);
    both_text(0, "CLIENT", "SETNAME", NULL);
    both_text(0, "CLIENT", "FOO", NULL);
    both_text(0, "CLIENT", NULL);
    both_text(0, "HELLO", "9", NULL);
    both_text(0, "HELLO", "x", NULL);
    both_text(0, "WAIT", "0", "0", NULL);
    both_text(0, "WAIT", "x", "0", NULL);
    both_text(0, "WAIT", "1", "-1", NULL);
    both_text(0, "WAIT", "1", "x", NULL);
    both_text(0, "ROLE", NULL);
    both_text(0, "CONFIG", "GET", "maxmemory-policy", NULL);
    both_text(0, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru", NULL);
    both_text(0, "CONFIG", "GET", "maxmemory-policy", NULL);
    both_text(0, "CONFIG", "SET", "maxmemory-policy", "noeviction", NULL);
    both_text(0, "CONFIG", "GET", NULL);
    both_text(0, "CONFIG", "FOO", NULL);
    both_text(0, "INFO", "replication", NULL);
    both_text(0, "FLUSHALL", "NOW", NULL);
    both_text(0, "FLUSHALL", "ASYNC", NULL);
    both_text(0, "UNSUBSCRIBE", NULL);
    both_text(0, "UNSUBSCRIBE", "x", NULL);
    both_text(0, "SUBSCRIBE", NULL);
    both_text(0, "XINFO", "FOO", NULL);
    both_text(0, "XINFO", "STREAM", "none", NULL);
    both_text(0, "", NULL);
}

/* A script that needs no database may run anywhere; who may write is told with the same words. */
static void ask_for_writes(void)
{
    both_text(0, "SET", "k", "v", NULL);
    both_text(0, "GET", "k", NULL);
    both_text(0, "DEL", "k", NULL);
    both_text(0, "XADD", "k", "1-1", "f", "v", NULL);
    both_text(0, "EVAL", "return redis.call('SET', 'k', 'v')", "0", NULL);
    both_text(0, "EVAL", "return redis.pcall('SET', 'k', 'v')", "0", NULL);
    both_text(0, "EVAL", "return redis.pcall('HSET', 'h', 'k', 'v').err", "0", NULL);
    both_text(0, "EVAL", "return redis.call('UNLINK', 'k')", "0", NULL);
    both_text(0, "EVAL", "return redis.call('GET', 'k')", "0", NULL);
    both_text(0, "PUBLISH", "a", "b", NULL);
}

TEST(a_server_without_memory_refuses_as_redis_does)
{
    begin(1);
    both_text(0, "SET", "k", "v", NULL);
    (void)real_text("CONFIG", "SET", "maxmemory", "1", NULL);
    redis_set_full(model, true);
    ask_for_writes();
    (void)real_text("CONFIG", "SET", "maxmemory", "0", NULL);
    redis_set_full(model, false);
    ask_for_writes();
}

TEST(a_replica_refuses_as_redis_does)
{
    begin(1);
    both_text(0, "SET", "k", "v", NULL);
    (void)real_text("REPLICAOF", "127.0.0.1", "1", NULL); /* nobody is there: the data stay */
    redis_attach(model, redis_add(world, 1));
    model_reply.size = 0;
    both_text(0, "EXISTS", "none", NULL);
    both_text(0, "SET", "k", "v", NULL);
    both_text(0, "XADD", "k", "1-1", "f", "v", NULL);
    both_text(0, "EVAL", "return redis.call('SET', 'k', 'v')", "0", NULL);
    both_text(0, "EVAL", "return redis.pcall('SET', 'k', 'v')", "0", NULL);
    both_text(0, "EVAL", "return redis.call('GET', 'none')", "0", NULL);
    both_text(0, "WAIT", "0", "0", NULL);
    both_text(0, "PUBLISH", "a", "b", NULL);
    tell_texts();
    for (int i = 0; i < SCRIPT_ALL; i++) {
        struct words words = script_words(i);

        both(&words, 0);
    }
}

TEST(what_is_published_comes_as_in_redis)
{
    int listener;
    struct reply heard = {0};
    struct words words = {0};
    size_t end = 0;

    begin(1);
    listener = wire_open();
    word_text(&words, "SUBSCRIBE");
    word_text(&words, "a");
    word_text(&words, "b");
    word_text(&words, "a");
    wire_send(listener, &words, "");
    redis_execute(model, CLIENT + 1, words.count, words.data, words.size, &model_reply);
    for (int i = 0; i < 3; i++)
        end = reply_end(&heard, listener, end);
    compare(&words, heard.bytes, end, 0);
    EXPECT(redis_subscribed(model, CLIENT + 1) && !redis_subscribed(model, CLIENT));
    both_text(0, "PUBLISH", "a", "one", NULL);
    both_text(0, "PUBLISH", "c", "two", NULL);
    both_text(0, "EVAL", "return redis.call('PUBLISH', KEYS[1], 'thr\\0ee')", "1", "b", NULL);
    heard.size = end = 0;
    for (int i = 0; i < 2; i++)
        end = reply_end(&heard, listener, end);
    EXPECT(delivered.size == end && memcmp(delivered.bytes, heard.bytes, end) == 0);
    /* Who listens may say little else. */
    words.count = 0;
    word_text(&words, "GET");
    word_text(&words, "a");
    wire_send(listener, &words, "");
    redis_execute(model, CLIENT + 1, words.count, words.data, words.size, &model_reply);
    heard.size = 0;
    end = reply_end(&heard, listener, 0);
    compare(&words, heard.bytes, end, 0);
    words.count = 0;
    word_text(&words, "PING");
    wire_send(listener, &words, "");
    redis_execute(model, CLIENT + 1, words.count, words.data, words.size, &model_reply);
    heard.size = 0;
    end = reply_end(&heard, listener, 0);
    compare(&words, heard.bytes, end, 0);
    both_text(0, "CLIENT", "KILL", "TYPE", "pubsub", NULL);
    EXPECT(!redis_subscribed(model, CLIENT + 1));
    both_text(0, "PUBLISH", "a", "nobody", NULL);
    free(heard.bytes);
    close(listener);
}

/* ---- replication, by itself: what it should be follows from the master ---- */

/* Everything that a server shows of its keys, as one text. */
static struct reply data_of(struct redis_server *server)
{
    static const char *const questions[][4] = {{"TYPE"}, {"PEXPIRETIME"}, {"GET"}, {"HGETALL"}, {"XINFO", "STREAM"}};
    struct reply data = {0};

    for (size_t i = 0; i < KEYS_COUNT * 6; i++) {
        struct words words = {0};

        if (i % 6 == 5) {
            word_text(&words, "XRANGE");
            word_text(&words, keys[i / 6]);
            word_text(&words, "-");
            word_text(&words, "+");
        } else {
            word_text(&words, questions[i % 6][0]);
            if (questions[i % 6][1])
                word_text(&words, questions[i % 6][1]);
            word_text(&words, keys[i / 6]);
        }
        model_ask(server, &words);
        data.bytes = realloc(data.bytes, data.size + model_reply.size + 1);
        EXPECT(data.bytes != NULL);
        memcpy(data.bytes + data.size, model_reply.bytes, model_reply.size);
        data.size += model_reply.size;
    }
    return data;
}

static bool same_data(struct redis_server *a, struct redis_server *b)
{
    struct reply of_a = data_of(a), of_b = data_of(b);
    bool same = of_a.size == of_b.size && memcmp(of_a.bytes, of_b.bytes, of_a.size) == 0;

    free(of_a.bytes);
    free(of_b.bytes);
    return same;
}

/* Something for the model alone to do, which may well change its data. */
static void random_work(struct redis_server *server)
{
    struct words words = {0};
    size_t which = roll(COMMANDS_COUNT);

    arena_used = 0;
    now_us += (int64_t)roll(30000);
    if (one_in(3)) {
        words = script_words((int)roll(SCRIPT_ALL));
    } else {
        word_text(&words, commands[which].name);
        for (const char *kind = commands[which].pattern; *kind; kind++)
            word_of(&words, *kind);
    }
    model_ask(server, &words);
}

static int64_t replica_hears;

static void hears(void *arg, struct redis_server *server, uint64_t client, const void *bytes, size_t size)
{
    (void)arg, (void)client, (void)bytes, (void)size;
    replica_hears += redis_number(server) == 1;
}

static void begin_alone(uint64_t of_seed)
{
    static const struct redis_hooks hooks = {.now_us = model_now, .deliver = hears};

    if (!arena)
        EXPECT((arena = malloc(ROOM)) != NULL && (lua = redis_lua_open()) != NULL);
    redis_close(world);
    world = redis_open(lua, &hooks, of_seed);
    model = redis_add(world, 0);
    now_us = 1700000000000000;
    seed = state = of_seed;
    step = 0;
    tell_texts();
}

TEST(a_replica_ends_up_with_what_its_master_has)
{
    for (uint64_t s = 1; s < 40; s++) {
        struct redis_server *replica;

        begin_alone(s);
        replica = redis_add(world, 1);
        for (step = 0; step < 300; step++) {
            random_work(model);
            if (step == 100)
                redis_attach(replica, model);
            if (step > 100 && one_in(4))
                (void)redis_replicate(replica, redis_offset(replica) + roll(9));
            if (one_in(90))
                redis_flush(model);
            if (step < 100 || (step < 299 && !one_in(20)))
                continue;
            EXPECT_EQ(redis_replicate(replica, UINT64_MAX), redis_offset(model));
            EXPECT(same_data(model, replica));
        }
    }
}

TEST(a_master_that_lost_its_post_loses_what_its_replica_had_not_heard)
{
    struct redis_server *replica;
    struct reply before, after;
    char replid[REDIS_REPLID_SIZE + 1];

    begin_alone(5);
    replica = redis_add(world, 1);
    redis_attach(replica, model);
    EXPECT(strcmp(redis_replid(replica), redis_replid(model)) == 0);
    strcpy(replid, redis_replid(model));
    for (step = 0; step < 300; step++)
        random_work(model);
    (void)redis_replicate(replica, redis_offset(model) / 2);
    EXPECT_EQ(redis_offset(replica), redis_offset(model) / 2);
    before = data_of(replica);
    redis_promote(replica);
    after = data_of(replica);
    EXPECT(redis_is_master(replica) && strcmp(redis_replid(replica), replid) != 0);
    EXPECT(before.size == after.size && memcmp(before.bytes, after.bytes, after.size) == 0);
    /* Both are masters now, and answer; nothing goes from one to the other. */
    EXPECT(redis_is_master(model) && !same_data(model, replica));
    random_work(model);
    (void)redis_replicate(replica, UINT64_MAX);
    redis_attach(model, replica);
    EXPECT(!redis_is_master(model) && redis_master_of(model) == replica && same_data(model, replica));
    for (step = 0; step < 100; step++)
        random_work(replica);
    (void)redis_replicate(model, UINT64_MAX);
    EXPECT(same_data(model, replica));
    free(before.bytes);
    free(after.bytes);
}

static void set_number(struct redis_server *server, int number)
{
    struct words words = {0};

    arena_used = 0;
    word_text(&words, "SET");
    word_text(&words, "string");
    word_format(&words, "%d", number);
    model_ask(server, &words);
}

static int get_number(struct redis_server *server)
{
    struct words words = {0};
    int number = -1;

    word_text(&words, "GET");
    word_text(&words, "string");
    model_ask(server, &words);
    if (model_reply.bytes[1] != '-')
        EXPECT(sscanf(model_reply.bytes, "$%*d\r\n%d", &number) == 1);
    return number;
}

TEST(a_restart_keeps_what_it_is_told_to_keep_and_draws_a_new_replid)
{
    static const enum redis_data kinds[] = {REDIS_KEPT, REDIS_SNAPSHOT, REDIS_EMPTY, REDIS_SNAPSHOT};
    static const int numbers[] = {2, 1, -1, 1};
    char replid[REDIS_REPLID_SIZE + 1];

    for (int i = 0; i < 4; i++) {
        struct words words = {0};

        begin_alone(6);
        set_number(model, 1);
        redis_save(model);
        set_number(model, 2);
        if (i == 3)
            redis_reboot(model, REDIS_EMPTY);
        word_text(&words, "SCRIPT");
        word_text(&words, "LOAD");
        word_text(&words, "return 1");
        model_ask(model, &words);
        strcpy(replid, redis_replid(model));
        redis_reboot(model, kinds[i]);
        EXPECT(strcmp(redis_replid(model), replid) != 0);
        EXPECT_EQ(get_number(model), numbers[i]);
        words.data[1] = "EXISTS", words.size[1] = 6;
        words.data[2] = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", words.size[2] = 40;
        model_ask(model, &words);
        EXPECT(memcmp(model_reply.bytes, "*1\r\n:0\r\n", 8) == 0);
    }
}

TEST(wait_says_how_many_replicas_have_it)
{
    struct redis_server *one, *two;
    struct words wait = {0};

    begin_alone(7);
    one = redis_add(world, 1);
    two = redis_add(world, 2);
    redis_attach(one, model);
    redis_attach(two, model);
    set_number(model, 1);
    word_text(&wait, "WAIT");
    word_text(&wait, "1");
    word_text(&wait, "500");
    model_ask(model, &wait);
    EXPECT(model_reply.waits && model_reply.wait_replicas == 1 && model_reply.wait_ms == 500);
    EXPECT(model_reply.wait_offset == redis_offset(model) && model_reply.size == 0);
    (void)redis_replicate(one, UINT64_MAX);
    EXPECT_EQ(redis_acked(model, redis_offset(model)), 0);
    redis_acknowledge(one);
    EXPECT_EQ(redis_acked(model, redis_offset(model)), 1);
    model_ask(model, &wait);
    EXPECT(!model_reply.waits && memcmp(model_reply.bytes, ":1\r\n", 4) == 0);
    set_number(model, 2);
    redis_wait_reply(model, redis_offset(model), &model_reply);
    EXPECT(memcmp(model_reply.bytes, ":0\r\n", 4) == 0);
    /* A snapshot that is older than what the master still remembers is no place to go on from: a full copy. */
    redis_save(two);
    (void)redis_replicate(two, UINT64_MAX);
    for (int i = 0; i < 500; i++) {
        set_number(model, i);
        (void)redis_replicate(one, UINT64_MAX);
        (void)redis_replicate(two, UINT64_MAX);
    }
    redis_reboot(two, REDIS_SNAPSHOT);
    EXPECT_EQ(redis_replicate(two, UINT64_MAX), redis_offset(model));
    EXPECT_EQ(get_number(two), 499);
}

TEST(a_key_expires_by_its_servers_clock_and_on_a_replica_when_the_master_says_so)
{
    struct redis_server *replica;
    struct words words = {0};

    begin_alone(8);
    replica = redis_add(world, 1);
    redis_attach(replica, model);
    word_text(&words, "SET");
    word_text(&words, "string");
    word_text(&words, "5");
    word_text(&words, "PX");
    word_text(&words, "1000");
    model_ask(model, &words);
    (void)redis_replicate(replica, UINT64_MAX);
    EXPECT(get_number(model) == 5 && get_number(replica) == 5);
    redis_set_clock(replica, 2000000);
    EXPECT(get_number(model) == 5 && get_number(replica) == -1 && redis_count(replica) == 1);
    now_us += 1000000;
    EXPECT_EQ(get_number(model), 5);
    now_us += 1000;
    EXPECT(get_number(model) == -1 && redis_count(model) == 0 && redis_count(replica) == 1);
    (void)redis_replicate(replica, UINT64_MAX);
    EXPECT(redis_count(replica) == 0);
    model_ask(model, &words);
    redis_set_clock(model, -600000000);
    now_us += 10000000;
    EXPECT_EQ(get_number(model), 5);
    redis_set_clock(model, 600000000);
    redis_expire(model);
    EXPECT(redis_count(model) == 0);
    set_number(model, 1);
    EXPECT(redis_evict(model, "string", 6) && !redis_evict(model, "string", 6) && get_number(model) == -1);
}

TEST(what_a_master_publishes_its_replicas_listeners_hear)
{
    struct redis_server *replica;
    struct words words = {0};

    begin_alone(9);
    replica = redis_add(world, 1);
    redis_attach(replica, model);
    word_text(&words, "SUBSCRIBE");
    word_text(&words, "a");
    redis_execute(replica, CLIENT, words.count, words.data, words.size, &model_reply);
    words.data[0] = "PUBLISH", words.size[0] = 7;
    word_text(&words, "news");
    model_ask(model, &words);
    EXPECT_EQ(replica_hears, 0);
    (void)redis_replicate(replica, UINT64_MAX);
    EXPECT_EQ(replica_hears, 1);
}

/* What an approximate trim removes depends on how Redis keeps a stream's entries: by the hundred, or in 4,096 bytes. */
TEST(an_approximate_trim_removes_what_it_removes_in_redis)
{
    static const size_t sizes[] = {1, 10, 27, 28, 60, 63, 64, 100, 127, 128, 300, 2000, 4000, 5000};
    char value[5001], text[24];

    begin(1);
    memset(value, 'v', sizeof value);
    for (step = 0; step < sizeof sizes / sizeof *sizes; step++) {
        uint64_t id = 1000;

        value[sizes[step]] = '\0';
        for (int i = 0; i < 330; i++) {
            id += roll(i < 150 ? 3 : 100000) + 1;
            snprintf(text, sizeof text, "%llu", (unsigned long long)id);
            both_text(0, "XADD", "stream", text, one_in(30) ? "other" : "f", one_in(10) ? text : value, NULL);
        }
        value[sizes[step]] = 'v';
        both_text(0, "XINFO", "STREAM", "stream", NULL);
        both_text(0, "XTRIM", "stream", "MAXLEN", "~", "250", NULL);
        both_text(0, "XTRIM", "stream", "MINID", "~", "1150", NULL);
        both_text(0, "XTRIM", "stream", "MAXLEN", "99", NULL);
        both_text(0, "XTRIM", "stream", "MAXLEN", "~", "1", NULL);
        both_text(0, "XRANGE", "stream", "-", "+", NULL);
        both_text(0, "XINFO", "STREAM", "stream", NULL);
        both_text(0, "DEL", "stream", NULL);
    }
}
