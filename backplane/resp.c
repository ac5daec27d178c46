/*
 * resp.c - Redis's protocol (resp.h): the only file with <hiredis/...>. Below line.c and link.c, which own the sockets;
 * nothing here blocks or waits.
 *
 * hiredis's reader does the parsing, with object functions of ours, because its own trust the server: 0.14 allocates an
 * array for as many elements as a header claims, 1.2 nests without end, both buffer a bulk of any size.  Here an array
 * grows as its elements really come, so that memory follows bytes received; elements, depth and bytes have a limit
 * each; what only RESP3 knows is refused on every version.
 */
#include <resp.h>

#include <remote.h>

#include <hiredis/hiredis.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if HIREDIS_MAJOR >= 1
typedef size_t resp_count;
#else
typedef int resp_count;
#endif

enum resp_flaw { RESP_SOUND, RESP_GARBAGE, RESP_LIMIT, RESP_NO_MEMORY };

struct resp_reader {
    redisReader *hiredis;
    size_t most;
    size_t held;         /* bytes fed that are not part of a reply given out */
    size_t elements;     /* of the reply that is being read */
    enum resp_flaw flaw; /* why the object functions refused; for good */
};

/* ---- replies ---- */

void resp_free(struct resp *reply)
{
    if (!reply)
        return;
    for (size_t i = 0; i < reply->count; i++) /* at most RESP_DEPTH_MAX deep */
        resp_free(reply->items[i]);
    free(reply->items);
    free(reply);
}

bool resp_is_error(const struct resp *reply, const char *code)
{
    size_t size = strlen(code);

    return reply && reply->type == RESP_ERROR && reply->size >= size && memcmp(reply->text, code, size) == 0 &&
           (reply->text[size] == ' ' || reply->text[size] == '\0');
}

/* Is it an error with one of these codes?  The list ends with a NULL. */
static bool resp_is_one_of(const struct resp *reply, const char *const *codes)
{
    for (; *codes; codes++)
        if (resp_is_error(reply, *codes))
            return true;
    return false;
}

bool resp_is_unavailable(const struct resp *reply)
{
    static const char *const codes[] = {
        "LOADING", "MASTERDOWN", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "ERR max number of clients", NULL};

    return resp_is_one_of(reply, codes);
}

bool resp_is_refusal(const struct resp *reply)
{
    static const char *const codes[] = {"NOAUTH", "NOPERM", "WRONGPASS", "READONLY", "DENIED", NULL};

    return resp_is_one_of(reply, codes);
}

/* ---- commands ---- */

/* Bytes of "$SIZE\r\n", or of "*COUNT\r\n". */
static size_t resp_header_size(size_t number)
{
    size_t digits = 1;

    for (; number >= 10; number /= 10)
        digits++;
    return digits + 3;
}

/* Write "$SIZE\r\n" or "*COUNT\r\n"; returns what is behind it. */
static char *resp_put_header(char *out, char type, size_t number)
{
    size_t size = resp_header_size(number);

    out[0] = type;
    for (size_t i = size - 3; i >= 1; i--, number /= 10)
        out[i] = (char)('0' + number % 10);
    out[size - 2] = '\r';
    out[size - 1] = '\n';
    return out + size;
}

freshet_result resp_format(int argc, const char *const *argv, const size_t *sizes, char **ret_bytes, size_t *ret_size)
{
    size_t total;
    char *bytes, *out;

    if (argc < 1 || (size_t)argc > RESP_ELEMENTS_MAX)
        return remote_fail(FRESHET_EINVAL, "a command to Redis has 1 to %u arguments, not %d", RESP_ELEMENTS_MAX, argc);
    total = resp_header_size((size_t)argc);
    for (int i = 0; i < argc; i++) {
        size_t size = sizes ? sizes[i] : strlen(argv[i]);

        if (size > RESP_COMMAND_MAX || total > RESP_COMMAND_MAX)
            return remote_fail(FRESHET_ETOOBIG, "a command to Redis may have %zu bytes", RESP_COMMAND_MAX);
        total += resp_header_size(size) + size + 2;
    }
    if (!(bytes = malloc(total)))
        return remote_fail(FRESHET_ENOMEM, "no memory for a command of %zu bytes to Redis", total);
    out = resp_put_header(bytes, '*', (size_t)argc);
    for (int i = 0; i < argc; i++) {
        size_t size = sizes ? sizes[i] : strlen(argv[i]);

        out = resp_put_header(out, '$', size);
        if (size)
            memcpy(out, argv[i], size);
        out[size] = '\r';
        out[size + 1] = '\n';
        out += size + 2;
    }
    *ret_bytes = bytes;
    *ret_size = total;
    return FRESHET_OK;
}

/* ---- hiredis's object functions ---- */

/* Refuse what is being read, and remember why; hiredis itself will say "out of memory" of everything. */
static void *resp_refuse(struct resp_reader *reader, enum resp_flaw flaw)
{
    reader->flaw = flaw;
    return NULL;
}

/* Hang a new element into its array, which has room for a power of two of them. */
static bool resp_hang(struct resp *array, struct resp *item)
{
    size_t count = array->count;

    if (count == 0 || (count >= 4 && (count & (count - 1)) == 0)) {
        size_t room = count == 0 ? 4 : count * 2;
        struct resp **grown = realloc(array->items, room * sizeof *grown);

        if (!grown)
            return false;
        array->items = grown;
    }
    array->items[array->count++] = item;
    return true;
}

/* Make the object for a task: text is copied behind the structure itself. */
static struct resp *resp_make(const redisReadTask *task, enum resp_type type, const char *text, size_t size)
{
    struct resp_reader *reader = task->privdata;
    struct resp *reply;

    if (reader->elements >= RESP_ELEMENTS_MAX || size > reader->most)
        return resp_refuse(reader, RESP_LIMIT);
    if (!(reply = malloc(sizeof *reply + size + 1)))
        return resp_refuse(reader, RESP_NO_MEMORY);
    *reply = (struct resp){.type = type, .size = size};
    if (text) {
        char *copy = (char *)(reply + 1);

        memcpy(copy, text, size);
        copy[size] = '\0';
        reply->text = copy;
    }
    if (task->parent && !resp_hang(task->parent->obj, reply)) {
        free(reply);
        return resp_refuse(reader, RESP_NO_MEMORY);
    }
    reader->elements++;
    return reply;
}

static void *resp_make_string(const redisReadTask *task, char *text, size_t size)
{
    switch (task->type) {
    case REDIS_REPLY_STRING:
        /* hiredis skips the two bytes behind a bulk unseen; they are in its buffer. */
        if (text[size] != '\r' || text[size + 1] != '\n')
            return resp_refuse(task->privdata, RESP_GARBAGE);
        return resp_make(task, RESP_STRING, text, size);
    case REDIS_REPLY_STATUS:
        return resp_make(task, RESP_STATUS, text, size);
    case REDIS_REPLY_ERROR:
        return resp_make(task, RESP_ERROR, text, size);
    default:
        return resp_refuse(task->privdata, RESP_GARBAGE);
    }
}

static void *resp_make_array(const redisReadTask *task, resp_count count)
{
    struct resp_reader *reader = task->privdata;
    unsigned depth = 1;

    for (const redisReadTask *up = task->parent; up; up = up->parent)
        depth++;
    if (task->type != REDIS_REPLY_ARRAY)
        return resp_refuse(reader, RESP_GARBAGE);
    if (depth > RESP_DEPTH_MAX || (size_t)count > RESP_ELEMENTS_MAX - reader->elements)
        return resp_refuse(reader, RESP_LIMIT);
    return resp_make(task, RESP_ARRAY, NULL, 0);
}

static void *resp_make_integer(const redisReadTask *task, long long value)
{
    struct resp *reply = resp_make(task, RESP_INTEGER, NULL, 0);

    if (reply)
        reply->integer = value;
    return reply;
}

static void *resp_make_nil(const redisReadTask *task)
{
    return resp_make(task, RESP_NIL, NULL, 0);
}

#if HIREDIS_MAJOR >= 1
static void *resp_make_double(const redisReadTask *task, double value, char *text, size_t size)
{
    (void)value, (void)text, (void)size;
    return resp_refuse(task->privdata, RESP_GARBAGE);
}

static void *resp_make_bool(const redisReadTask *task, int value)
{
    (void)value;
    return resp_refuse(task->privdata, RESP_GARBAGE);
}
#endif

static void resp_free_object(void *object)
{
    resp_free(object);
}

static redisReplyObjectFunctions resp_functions = {
    .createString = resp_make_string,
    .createArray = resp_make_array,
    .createInteger = resp_make_integer,
    .createNil = resp_make_nil,
#if HIREDIS_MAJOR >= 1
    .createDouble = resp_make_double,
    .createBool = resp_make_bool,
#endif
    .freeObject = resp_free_object,
};

/* ---- reading ---- */

struct resp_reader *resp_reader_open(size_t most)
{
    struct resp_reader *reader = calloc(1, sizeof *reader);

    if (!reader)
        return NULL;
    reader->most = most;
    if (!(reader->hiredis = redisReaderCreateWithFunctions(&resp_functions))) {
        free(reader);
        return NULL;
    }
    reader->hiredis->privdata = reader;
    return reader;
}

void resp_reader_close(struct resp_reader *reader)
{
    if (!reader)
        return;
    redisReaderFree(reader->hiredis);
    free(reader);
}

bool resp_reader_empty(const struct resp_reader *reader)
{
    return reader->held == 0;
}

/* Say what the flaw is; the reader is of no use any more. */
static freshet_result resp_spoiled(struct resp_reader *reader, enum resp_flaw flaw)
{
    reader->flaw = flaw;
    if (flaw == RESP_NO_MEMORY)
        return remote_fail(FRESHET_ENOMEM, "no memory for a reply from Redis");
    if (flaw == RESP_LIMIT)
        return remote_fail(FRESHET_EIO, "a reply is larger than it can be (%zu bytes, %u elements, %u deep)",
                           reader->most, RESP_ELEMENTS_MAX, RESP_DEPTH_MAX);
    return remote_fail(FRESHET_EIO, "what came is not Redis's protocol (RESP2); is that a Redis?");
}

freshet_result resp_reader_feed(struct resp_reader *reader, const char *bytes, size_t size)
{
    if (reader->flaw != RESP_SOUND)
        return resp_spoiled(reader, reader->flaw);
    if (size == 0)
        return FRESHET_OK;
    if (reader->held > reader->most || size > SIZE_MAX - reader->held)
        return resp_spoiled(reader, RESP_LIMIT);
    if (redisReaderFeed(reader->hiredis, bytes, size) != REDIS_OK)
        return resp_spoiled(reader, RESP_NO_MEMORY);
    reader->held += size;
    return FRESHET_OK;
}

/* The reply is not whole yet: can it ever be?  What hiredis has not consumed is one unfinished item, without its type's
 * byte: if a line's end is in it, it is a bulk's size and part of the bulk, for anything else would be finished. */
static enum resp_flaw resp_hopeless(const struct resp_reader *reader)
{
    const redisReader *hiredis = reader->hiredis;
    size_t left = hiredis->len - hiredis->pos, size = 0;
    const char *at, *end;

    if (reader->held > reader->most)
        return RESP_LIMIT;
    if (left < 2)
        return RESP_SOUND;
    at = hiredis->buf + hiredis->pos;
    end = memchr(at, '\r', left < 24 ? left : 24);
    if (!end)
        return left > RESP_LINE_MAX ? RESP_LIMIT : RESP_SOUND;
    for (; at < end && *at >= '0' && *at <= '9'; at++) {
        size = size * 10 + (size_t)(*at - '0');
        if (size > reader->most)
            break;
    }
    /* Not all digits: a line with a lone '\r' in it. */
    if (at < end && size <= reader->most)
        return left > RESP_LINE_MAX ? RESP_LIMIT : RESP_SOUND;
    return size > reader->most ? RESP_LIMIT : RESP_SOUND;
}

/* hiredis keeps a big reply's buffer until the next bytes come, which on an idle line may be never: begin afresh. */
static void resp_slim(struct resp_reader *reader, size_t reply_size)
{
    redisReader *fresh = NULL;

    if (reply_size > RESP_LINE_MAX && reader->held == 0)
        fresh = redisReaderCreateWithFunctions(&resp_functions);
    if (!fresh)
        return;
    redisReaderFree(reader->hiredis);
    reader->hiredis = fresh;
    fresh->privdata = reader;
}

freshet_result resp_reader_next(struct resp_reader *reader, struct resp **ret_reply)
{
    void *object = NULL;
    size_t left, size;

    *ret_reply = NULL;
    if (reader->flaw != RESP_SOUND)
        return resp_spoiled(reader, reader->flaw);
    if (reader->held == 0)
        return FRESHET_OK;
    if (redisReaderGetReply(reader->hiredis, &object) != REDIS_OK)
        return resp_spoiled(reader, reader->flaw != RESP_SOUND              ? reader->flaw
                                    : reader->hiredis->err == REDIS_ERR_OOM ? RESP_NO_MEMORY
                                                                            : RESP_GARBAGE);
    if (!object) {
        enum resp_flaw flaw = resp_hopeless(reader);

        return flaw == RESP_SOUND ? FRESHET_OK : resp_spoiled(reader, flaw);
    }
    left = reader->hiredis->len - reader->hiredis->pos;
    size = reader->held - left;
    if (size > reader->most) {
        resp_free(object);
        return resp_spoiled(reader, RESP_LIMIT);
    }
    reader->held = left;
    reader->elements = 0;
    resp_slim(reader, size);
    *ret_reply = object;
    return FRESHET_OK;
}
