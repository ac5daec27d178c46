/* xstream.c - commands on streams (commands.h). */
#include <commands.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_USUAL 10000u /* entries that an approximate trim removes at most, unless told otherwise */

static const struct stream_id id_first = {0, 0}, id_last = {UINT64_MAX, UINT64_MAX};

/* ---- ids ---- */

static bool parse_part(const char *text, uint64_t *ret_number)
{
    char *end;

    if (!*text || strchr(text, '-'))
        return false;
    errno = 0;
    *ret_number = strtoull(text, &end, 10);
    return errno == 0 && !*end;
}

/* "ms", "ms-seq", and where allowed "-", "+" and "ms-*" (ret_any_seq). */
static bool parse_id(const char *bytes, size_t size, bool strict, uint64_t missing_seq, struct stream_id *ret_id,
                     bool *ret_any_seq)
{
    char text[128], *dash;

    if (size >= sizeof text)
        return false;
    memcpy(text, bytes, size);
    text[size] = '\0';
    if (ret_any_seq)
        *ret_any_seq = false;
    if (!strict && size == 1 && (text[0] == '-' || text[0] == '+')) {
        *ret_id = text[0] == '-' ? id_first : id_last;
        return true;
    }
    ret_id->seq = missing_seq;
    if ((dash = strchr(text, '-')) != NULL) {
        *dash = '\0';
        if (ret_any_seq && strcmp(dash + 1, "*") == 0)
            *ret_any_seq = true;
        else if (!parse_part(dash + 1, &ret_id->seq))
            return false;
    }
    return parse_part(text, &ret_id->ms);
}

static bool arg_id(struct call *call, int arg, bool strict, uint64_t missing_seq, struct stream_id *ret_id,
                   bool *ret_any_seq)
{
    if (parse_id(call->argv[arg], call->sizes[arg], strict, missing_seq, ret_id, ret_any_seq))
        return true;
    reply_error(call->reply, "ERR Invalid stream ID specified as stream command argument");
    return false;
}

/* An end of a range; "(" before it leaves the id itself out. */
static bool arg_bound(struct call *call, int arg, bool is_first, struct stream_id *ret_id)
{
    const char *bytes = call->argv[arg];
    size_t size = call->sizes[arg];
    bool open = size > 1 && bytes[0] == '(';

    if (!parse_id(bytes + open, size - open, open, is_first ? 0 : UINT64_MAX, ret_id, NULL)) {
        reply_error(call->reply, "ERR Invalid stream ID specified as stream command argument");
        return false;
    }
    if (!open)
        return true;
    if (stream_compare(*ret_id, is_first ? id_last : id_first) == 0) {
        reply_error(call->reply, "ERR invalid %s ID for the interval", is_first ? "start" : "end");
        return false;
    }
    if (is_first)
        ret_id->ms += ++ret_id->seq == 0;
    else
        ret_id->ms -= ret_id->seq-- == 0;
    return true;
}

static void reply_id(struct call *call, struct stream_id id)
{
    char text[48];

    reply_bulk(call->reply, text,
               (size_t)snprintf(text, sizeof text, "%llu-%llu", (unsigned long long)id.ms, (unsigned long long)id.seq));
}

static void reply_entry(void *arg, const struct stream_entry *entry)
{
    struct call *call = arg;

    reply_array(call->reply, 2);
    reply_id(call, entry->id);
    reply_array(call->reply, entry->count);
    for (size_t i = 0; i < entry->count; i++)
        reply_bulk(call->reply, entry->parts[i].bytes, entry->parts[i].size);
}

/* ---- XADD, XTRIM ---- */

struct add_options {
    struct stream_trim trim;
    bool limited, must_exist, by_time, any_seq;
    struct stream_id id;
    int at; /* the id's argument */
};

static bool trim_option(struct call *call, int *i, struct add_options *options, bool maxlen)
{
    long long most;

    if (options->trim.by != STREAM_KEEP_ALL) {
        reply_error(call->reply, "ERR syntax error, MAXLEN and MINID options at the same time are not compatible");
        return false;
    }
    options->trim.approximate = false;
    if (*i + 2 < call->argc && (call_is(call, *i + 1, "~") || call_is(call, *i + 1, "=")))
        options->trim.approximate = call->argv[++*i][0] == '~';
    ++*i;
    if (!maxlen) {
        options->trim.by = STREAM_MINID;
        return arg_id(call, *i, true, 0, &options->trim.least, NULL);
    }
    options->trim.by = STREAM_MAXLEN;
    if (!call_integer(call, *i, &most))
        return false;
    if (most < 0)
        reply_error(call->reply, "ERR The MAXLEN argument must be >= 0.");
    options->trim.most = (uint64_t)most;
    return most >= 0;
}

static bool limit_option(struct call *call, int arg, struct add_options *options)
{
    long long limit;

    if (!call_integer(call, arg, &limit))
        return false;
    if (limit < 0) {
        reply_error(call->reply, "ERR The LIMIT argument must be >= 0.");
        return false;
    }
    options->trim.limit = (uint64_t)limit;
    options->limited = true;
    return true;
}

static bool limit_judge(struct call *call, struct add_options *options, bool adds)
{
    if (options->trim.limit && options->trim.by == STREAM_KEEP_ALL)
        reply_error(call->reply, "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy");
    else if (!adds && options->trim.by == STREAM_KEEP_ALL)
        reply_error(call->reply, "ERR syntax error, XTRIM must be called with a trimming strategy");
    else if (options->limited && !options->trim.approximate)
        reply_error(call->reply, "ERR syntax error, LIMIT cannot be used without the special ~ option");
    else
        return true;
    return false;
}

static bool add_options(struct call *call, bool adds, struct add_options *options)
{
    int i;

    for (i = 2; i < call->argc; i++) {
        bool more = i + 1 < call->argc;

        if (adds && call_is(call, i, "*")) {
            options->by_time = true;
            break;
        }
        if ((call_is(call, i, "MAXLEN") || call_is(call, i, "MINID")) && more) {
            if (!trim_option(call, &i, options, call_is(call, i, "MAXLEN")))
                return false;
        } else if (call_is(call, i, "LIMIT") && more) {
            if (!limit_option(call, ++i, options))
                return false;
        } else if (adds && call_is(call, i, "NOMKSTREAM")) {
            options->must_exist = true;
        } else if (adds) {
            if (!arg_id(call, i, true, 0, &options->id, &options->any_seq))
                return false;
            break;
        } else {
            call_syntax_error(call);
            return false;
        }
    }
    if (!limit_judge(call, options, adds))
        return false;
    if (!options->limited && options->trim.approximate)
        options->trim.limit = LIMIT_USUAL;
    options->at = i;
    return true;
}

/* The id that the entry gets; false: it would not be the highest. */
static bool next_id(const struct call *call, const struct stream *stream, const struct add_options *options,
                    struct stream_id *ret_id)
{
    struct stream_id id = options->id;

    if (options->by_time) {
        id = (struct stream_id){(uint64_t)call->now_ms, 0};
        if (id.ms <= stream->last.ms) {
            id = stream->last;
            id.ms += ++id.seq == 0;
        }
    } else if (options->any_seq) {
        if (id.ms == stream->last.ms && stream->last.seq == UINT64_MAX)
            return false;
        id.seq = id.ms == stream->last.ms ? stream->last.seq + 1 : 0;
    }
    *ret_id = id;
    return stream_compare(id, stream->last) > 0;
}

/* What a replica hears: the same with the id spelled out. */
static void add_tell(struct call *call, int at, struct stream_id id)
{
    const char **argv = reply_alloc((size_t)call->argc * sizeof *argv);
    size_t *sizes = reply_alloc((size_t)call->argc * sizeof *sizes);
    char text[48];

    for (int i = 0; i < call->argc; i++) {
        argv[i] = call->argv[i];
        sizes[i] = call->sizes[i];
    }
    argv[at] = text;
    sizes[at] = (size_t)snprintf(text, sizeof text, "%llu-%llu", (unsigned long long)id.ms, (unsigned long long)id.seq);
    call_tell(call, call->argc, argv, sizes);
    free(argv);
    free(sizes);
}

static void add_entry(struct call *call, struct stream *stream, const struct add_options *options)
{
    size_t count = (size_t)(call->argc - options->at - 1);
    struct stream_part few[8], *parts = count <= 8 ? few : reply_alloc(count * sizeof *parts);
    struct stream_id id;

    if (!next_id(call, stream, options, &id)) {
        reply_error(call->reply, "ERR The ID specified in XADD is equal or smaller than the target stream top item");
        goto done;
    }
    for (size_t i = 0; i < count; i++)
        parts[i] = (struct stream_part){(char *)(uintptr_t)call->argv[options->at + 1 + (int)i],
                                        call->sizes[options->at + 1 + (int)i]};
    stream_append(stream, id, parts, count);
    reply_id(call, id);
    (void)stream_trim(stream, &options->trim);
    call_wrote(call);
    if (options->by_time || options->any_seq)
        add_tell(call, options->at, id);
done:
    if (parts != few)
        free(parts);
}

void command_xadd(struct call *call)
{
    struct add_options options = {0};
    struct entry *entry;
    int words;

    if (!add_options(call, true, &options))
        return;
    words = call->argc - options.at - 1;
    if (words < 2 || words % 2 != 0) {
        reply_error(call->reply, "ERR wrong number of arguments for 'xadd' command");
        return;
    }
    if (!options.by_time && !options.any_seq && stream_compare(options.id, id_first) == 0) {
        reply_error(call->reply, "ERR The ID specified in XADD must be greater than 0-0");
        return;
    }
    if (!call_find_type(call, 1, VALUE_STREAM, &entry))
        return;
    if (!entry && options.must_exist) {
        reply_nil(call->reply);
        return;
    }
    if (!entry)
        entry = keys_add(&call->server->keys, call->argv[1], call->sizes[1], VALUE_STREAM);
    if (stream_compare(entry->stream->last, id_last) == 0) {
        reply_error(call->reply, "ERR The stream has exhausted the last possible ID, unable to add more items");
        return;
    }
    add_entry(call, entry->stream, &options);
}

void command_xtrim(struct call *call)
{
    struct add_options options = {0};
    struct entry *entry;
    size_t gone = 0;

    if (!add_options(call, false, &options) || !call_find_type(call, 1, VALUE_STREAM, &entry))
        return;
    if (entry)
        gone = stream_trim(entry->stream, &options.trim);
    if (gone > 0)
        call_wrote(call);
    reply_integer(call->reply, (long long)gone);
}

void command_xdel(struct call *call)
{
    struct entry *entry;
    struct stream_id id;
    long long gone = 0;

    if (!call_find_type(call, 1, VALUE_STREAM, &entry))
        return;
    for (int i = 2; entry && i < call->argc; i++)
        if (!arg_id(call, i, true, 0, &id, NULL))
            return;
    for (int i = 2; entry && i < call->argc; i++)
        if (parse_id(call->argv[i], call->sizes[i], true, 0, &id, NULL))
            gone += stream_delete(entry->stream, id);
    if (gone > 0)
        call_wrote(call);
    reply_integer(call->reply, gone);
}

/* ---- reading ---- */

void command_xlen(struct call *call)
{
    struct entry *entry;

    if (call_find_type(call, 1, VALUE_STREAM, &entry))
        reply_integer(call->reply, entry ? (long long)entry->stream->length : 0);
}

void command_xrange(struct call *call)
{
    bool backwards = call->command->name[2] == 'e';
    struct stream_id first, last;
    long long most = -1;
    struct entry *entry;

    /* As they stand: the one that is wrong first is the one that is told. */
    if (!arg_bound(call, backwards ? 3 : 2, true, &first) || !arg_bound(call, backwards ? 2 : 3, false, &last))
        return;
    for (int i = 4; i < call->argc; i += 2) {
        if (!call_is(call, i, "COUNT") || i + 1 >= call->argc) {
            call_syntax_error(call);
            return;
        }
        if (!call_integer(call, i + 1, &most))
            return;
        if (most < 0)
            most = 0;
    }
    if (!call_find_type(call, 1, VALUE_STREAM, &entry))
        return;
    if (!entry) {
        reply_array(call->reply, 0);
    } else if (most == 0) {
        reply_nil_array(call->reply);
    } else {
        size_t limit = most < 0 ? SIZE_MAX : (size_t)most;

        reply_array(call->reply, stream_walk(entry->stream, first, last, backwards, limit, NULL, NULL));
        (void)stream_walk(entry->stream, first, last, backwards, limit, reply_entry, call);
    }
}

static void first_id(void *arg, const struct stream_entry *entry)
{
    *(struct stream_id *)arg = entry->id;
}

void command_xinfo(struct call *call)
{
    struct stream_id oldest = {0};
    struct stream *stream;
    struct entry *entry;

    if (call->argc != 3 || !call_is(call, 1, "STREAM")) {
        reply_error(call->reply, "ERR unknown subcommand '%.*s'. Try XINFO HELP.", call_width(call, 1), call->argv[1]);
        return;
    }
    entry = call_find(call, 2);
    if (!entry) {
        reply_error(call->reply, "ERR no such key");
        return;
    }
    if (entry->type != VALUE_STREAM) {
        reply_error(call->reply, "WRONGTYPE Operation against a key holding the wrong kind of value");
        return;
    }
    stream = entry->stream;
    (void)stream_walk(stream, id_first, id_last, false, 1, first_id, &oldest);
    reply_array(call->reply, 20);
    reply_text(call->reply, "length");
    reply_integer(call->reply, (long long)stream->length);
    reply_text(call->reply, "radix-tree-keys");
    reply_integer(call->reply, (long long)stream->count);
    reply_text(call->reply, "radix-tree-nodes"); /* of no meaning here */
    reply_integer(call->reply, (long long)stream->count + 1);
    reply_text(call->reply, "last-generated-id");
    reply_id(call, stream->last);
    reply_text(call->reply, "max-deleted-entry-id");
    reply_id(call, stream->most_deleted);
    reply_text(call->reply, "entries-added");
    reply_integer(call->reply, (long long)stream->added);
    reply_text(call->reply, "recorded-first-entry-id");
    reply_id(call, oldest);
    reply_text(call->reply, "groups");
    reply_integer(call->reply, 0);
    reply_text(call->reply, "first-entry");
    if (stream_walk(stream, id_first, id_last, false, 1, reply_entry, call) == 0)
        reply_nil(call->reply);
    reply_text(call->reply, "last-entry");
    if (stream_walk(stream, id_first, id_last, true, 1, reply_entry, call) == 0)
        reply_nil(call->reply);
}
