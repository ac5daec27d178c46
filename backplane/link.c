/*
 * link.c - one connection on the loop's thread, kept up (link.h).
 *
 * A link lives long, its connections do not: each is a `wire` of its own, with a reader of its own, so that who is in
 * the midst of an old one's replies finds that it belongs to nobody (wire->link is NULL) and cannot take it for the
 * new one.  However a connection ends, it ends in link_end; and every owner's callback may have ended it, so after
 * each we look again.
 */
#include <link.h>
#include <loop.h>

#include <backoff.h>
#include <greeting.h>
#include <remote.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINK_QUEUE_MOST  ((size_t)32 << 20) /* bytes that wait to be sent, beyond which nothing is added */
#define LINK_CALLS_MOST  65536u             /* replies that are waited for */
#define LINK_STEADY_MS   10000u /* up for so long, a connection counts as good */
#define LINK_NEVER       UINT64_MAX

enum link_state {
    LINK_STOPPED,
    LINK_WAITING, /* for the back-off to pass */
    LINK_CONNECTING,
    LINK_GREETING, /* connected; AUTH, SELECT on their way */
    LINK_UP
};

struct link_wire { /* a connection */
    struct loop_stream *stream;
    struct link *link; /* NULL: it has ended, only the loop still knows it */
    struct resp_reader *reader;
};

enum link_call_kind { LINK_CALL_GREETING, LINK_CALL_ASK, LINK_CALL_SUBSCRIBE, LINK_CALL_PING };

struct link_call { /* a reply that is waited for */
    struct link_call *next;
    enum link_call_kind kind;
    uint64_t deadline_ms;
    link_reply_fn fn;
    void *arg;
    int count;          /* GREETING: which; SUBSCRIBE: confirmations to come */
    enum script script; /* of a script that may have to be sent as a whole: what to say after its name or text */
    int argc;
    char *tail;
    size_t tail_size;
};

struct link {
    struct loop *loop;
    const struct url *url;
    struct greeting greeting;
    uint32_t connect_ms;
    size_t reply_most;
    struct link_events events;
    void *arg;

    enum link_state state;
    bool closed;
    struct loop_timer *timer; /* back-off, connect, the calls' deadlines, silence: one at a time */
    uint64_t due_ms;  /* when it fires; LINK_NEVER */
    struct link_wire *wire;
    struct link_call *first, **last;
    unsigned calls;
    struct backoff backoff;
    bool proved; /* this connection has answered something beyond the greeting */
    uint64_t up_ms, heard_ms;
    bool subscribed, pinged;
    int channels; /* confirmed */
    bool has_address;
    struct url_address address;
    unsigned nth; /* of the name's addresses */
};

static void link_end(struct link *link, freshet_result why, bool steady);

/* ---- the timer ---- */

static void link_set_timer(struct link *link, uint64_t due_ms)
{
    uint64_t now_ms = loop_now_ms();

    link->due_ms = due_ms;
    if (due_ms == LINK_NEVER)
        loop_timer_unset(link->timer);
    else
        loop_timer_set(link->timer, due_ms > now_ms ? due_ms - now_ms : 0, 0);
}

/* The timer is to fire at this time at the latest. */
static void link_set_timer_by(struct link *link, uint64_t due_ms)
{
    if (due_ms < link->due_ms)
        link_set_timer(link, due_ms);
}

/* ---- calls ---- */

/* Append a call; NULL: no memory, or too many. */
static struct link_call *link_add_call(struct link *link, enum link_call_kind kind, uint64_t deadline_ms,
                                       link_reply_fn fn, void *arg)
{
    struct link_call *call = link->calls < LINK_CALLS_MOST ? calloc(1, sizeof *call) : NULL;

    if (!call)
        return NULL;
    call->kind = kind;
    call->deadline_ms = deadline_ms;
    call->fn = fn;
    call->arg = arg;
    *link->last = call;
    link->last = &call->next;
    link->calls++;
    link_set_timer_by(link, deadline_ms);
    return call;
}

/* Take the first call out; the caller frees it. */
static struct link_call *link_take_call(struct link *link)
{
    struct link_call *call = link->first;

    link->first = call->next;
    if (!link->first)
        link->last = &link->first;
    link->calls--;
    return call;
}

static void link_free_call(struct link_call *call)
{
    free(call->tail);
    free(call);
}

/* Tell all who wait that no reply will come. */
static void link_fail_calls(struct link *link)
{
    struct link_call *call = link->first, *next;

    /* Off the link first: a callback may ask anew. */
    link->first = NULL;
    link->last = &link->first;
    link->calls = 0;
    for (; call; call = next) {
        next = call->next;
        if (call->fn)
            call->fn(link, NULL, call->arg);
        link_free_call(call);
    }
}

/* ---- sending ---- */

static bool link_send(struct link *link, const char *bytes, size_t size)
{
    size_t queued;

    if (!link->wire)
        return false;
    queued = loop_stream_queued(link->wire->stream);
    return (queued == 0 || queued + size <= LINK_QUEUE_MOST) && loop_stream_send(link->wire->stream, bytes, size);
}

/* Send formatted bytes, which are freed, and wait for the reply; NULL: not sent, and nothing waits. */
static struct link_call *link_send_call(struct link *link, enum link_call_kind kind, char *bytes, size_t size,
                                        uint64_t deadline_ms, link_reply_fn fn, void *arg)
{
    struct link_call **last = link->last, *call = link_add_call(link, kind, deadline_ms, fn, arg);
    bool sent = call && link_send(link, bytes, size);

    free(bytes);
    if (sent || !call)
        return call;
    *last = NULL;
    link->last = last;
    link->calls--;
    link_free_call(call);
    return NULL;
}

/* ---- the end of a connection ---- */

static void link_wire_closed(void *arg)
{
    struct link_wire *wire = arg;

    resp_reader_close(wire->reader);
    free(wire);
}

/* Let go of the connection; its memory goes in the loop's own time. */
static void link_cut(struct link *link)
{
    struct link_wire *wire = link->wire;

    link->wire = NULL;
    link->subscribed = link->pinged = link->proved = false;
    link->channels = 0;
    if (!wire)
        return;
    wire->link = NULL;
    loop_stream_close(wire->stream);
}

/* The one end of every connection and every attempt, with the thread's sentence set: wait, and tell everybody.  A
 * `steady` one went well while it lasted, so the back-off begins anew. */
static void link_end(struct link *link, freshet_result why, bool steady)
{
    char text[256];

    if (link->state == LINK_STOPPED || link->state == LINK_WAITING)
        return;
    snprintf(text, sizeof text, "%s", freshet_error());
    if (steady)
        backoff_reset(&link->backoff);
    else if (link->state != LINK_UP)
        link->nth++; /* perhaps another of the name's addresses */
    link_cut(link);
    link->state = LINK_WAITING;
    link_set_timer(link, loop_now_ms() + backoff_next(&link->backoff));
    link_fail_calls(link);
    if (link->events.down && link->state == LINK_WAITING) { /* not stopped meanwhile */
        (void)remote_fail(why, "%s", text);
        link->events.down(link, why, link->arg);
    }
}

/* Did this connection do any good? */
static bool link_was_steady(const struct link *link)
{
    return link->state == LINK_UP && (link->proved || loop_now_ms() - link->up_ms >= LINK_STEADY_MS);
}

/* What came is not Redis's talk: not steady, however well it began, or we would be back for more at once. */
static void link_fail_garbled(struct link *link)
{
    char where[URL_TEXT_MAX], what[128];

    snprintf(what, sizeof what, "%s", freshet_error());
    link_end(link, remote_fail(FRESHET_ENET, "Redis at %s: %s", url_text(link->url, where, sizeof where), what), false);
}

/* End it for a reason that we give in words. */
__attribute__((format(printf, 2, 3))) static void link_fail(struct link *link, const char *format, ...)
{
    char where[URL_TEXT_MAX], what[160];
    va_list list;

    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    link_end(link, remote_fail(FRESHET_ENET, "Redis at %s %s", url_text(link->url, where, sizeof where), what),
             link_was_steady(link));
}

/* ---- replies ---- */

static bool link_is_text(const struct resp *reply, const char *text)
{
    return (reply->type == RESP_STRING || reply->type == RESP_STATUS) && reply->size == strlen(text) &&
           memcmp(reply->text, text, reply->size) == 0;
}

/* The script is not known there: send it as a whole, in the same call's name.  False: it cannot be. */
static bool link_send_whole_script(struct link *link, struct link_call *call)
{
    const struct script_text *text = &script_texts[call->script];
    char head[96], *bytes;
    size_t head_size, size;

    if (link->subscribed) /* too late for commands */
        return false;
    head_size = (size_t)snprintf(head, sizeof head, "*%d\r\n$4\r\nEVAL\r\n$%zu\r\n", call->argc, text->size);
    size = head_size + text->size + 2 + call->tail_size;
    if (!(bytes = malloc(size)))
        return false;
    memcpy(bytes, head, head_size);
    memcpy(bytes + head_size, text->text, text->size);
    memcpy(bytes + head_size + text->size, "\r\n", 2);
    memcpy(bytes + size - call->tail_size, call->tail, call->tail_size);
    return link_send_call(link, LINK_CALL_ASK, bytes, size, call->deadline_ms, call->fn, call->arg) != NULL;
}

/* An answer to one of the first words. */
static void link_greeted(struct link *link, int index, const struct resp *reply)
{
    freshet_result result = greeting_judge(&link->greeting, index, reply, link->url);

    if (result != FRESHET_OK) {
        link_end(link, result, false);
        return;
    }
    if (index + 1 < link->greeting.count)
        return;
    link->state = LINK_UP;
    link->up_ms = loop_now_ms();
    if (link->events.up)
        link->events.up(link, link->arg);
}

/* A reply to the first call. */
static void link_answer(struct link *link, const struct resp *reply)
{
    struct link_call *call = link_take_call(link);

    if (call->kind == LINK_CALL_GREETING) {
        link_greeted(link, call->count, reply);
    } else {
        link->proved = true;
        if (call->kind == LINK_CALL_PING)
            link->pinged = false;
        if (call->kind == LINK_CALL_SUBSCRIBE && reply->type == RESP_ERROR && link->channels == 0)
            link->subscribed = false;
        if (!(call->tail && resp_is_error(reply, "NOSCRIPT") && link_send_whole_script(link, call)) && call->fn)
            call->fn(link, reply, call->arg);
    }
    link_free_call(call);
}

/* Something in subscription mode.  False: it is nothing that Redis says. */
static bool link_pushed(struct link *link, const struct resp *reply)
{
    struct link_call *call = link->first;

    if (reply->type == RESP_ERROR || (reply->type == RESP_STATUS && call && call->kind == LINK_CALL_PING)) {
        if (call)
            link_answer(link, reply);
        return call != NULL;
    }
    if (reply->type != RESP_ARRAY || reply->count < 2)
        return false;
    if (reply->count == 3 && link_is_text(reply->items[0], "message")) {
        if (reply->items[1]->type != RESP_STRING || reply->items[2]->type != RESP_STRING)
            return false;
        link->proved = true;
        if (link->events.push)
            link->events.push(link, reply, link->arg);
        return true;
    }
    if (reply->count == 3 && link_is_text(reply->items[0], "subscribe") && call && call->kind == LINK_CALL_SUBSCRIBE) {
        link->channels++;
        if (--call->count == 0)
            link_answer(link, reply);
        return true;
    }
    if (reply->count == 2 && link_is_text(reply->items[0], "pong") && call && call->kind == LINK_CALL_PING) {
        link_answer(link, reply);
        return true;
    }
    return false;
}

/* One whole reply; false when nothing was asked that it could answer. */
static bool link_dispatch(struct link *link, const struct resp *reply)
{
    struct link_call *call = link->first;

    /* What was asked before a SUBSCRIBE is answered before it. */
    if (call && (call->kind == LINK_CALL_ASK || call->kind == LINK_CALL_GREETING)) {
        link_answer(link, reply);
        return true;
    }
    return link->subscribed && link_pushed(link, reply);
}

/* Take the whole replies out of the reader. */
static void link_read_replies(struct link_wire *wire)
{
    struct resp *reply;

    while (wire->link) { /* a callback may end the connection */
        struct link *link = wire->link;
        freshet_result result = resp_reader_next(wire->reader, &reply);

        if (result != FRESHET_OK) {
            link_fail_garbled(link);
            return;
        }
        if (!reply)
            return;
        if (!link_dispatch(link, reply) && wire->link) {
            (void)remote_fail(FRESHET_EIO, "it said something that nobody had asked for");
            link_fail_garbled(link);
        }
        resp_free(reply);
    }
}

/* ---- the loop's callbacks ---- */

static void link_received(struct loop_stream *stream, const char *bytes, size_t size, void *arg)
{
    struct link_wire *wire = arg;
    struct link *link = wire->link;

    (void)stream;
    link->heard_ms = loop_now_ms();
    if (resp_reader_feed(wire->reader, bytes, size) != FRESHET_OK)
        link_fail_garbled(link);
    else
        link_read_replies(wire);
}

static void link_ended(struct loop_stream *stream, int error, void *arg)
{
    struct link_wire *wire = arg;
    char what[96];

    (void)stream;
    if (error)
        link_fail(wire->link, "is gone: %s", strerror_r(error, what, sizeof what));
    else
        link_fail(wire->link, "closed the connection");
}

static void link_connected(struct loop_stream *stream, int error, void *arg)
{
    struct link_wire *wire = arg;
    struct link *link = wire->link;
    uint64_t deadline_ms;
    char what[96];

    (void)stream;
    if (error) {
        link_fail(link, "cannot be reached: %s", strerror_r(error, what, sizeof what));
        return;
    }
    link->state = LINK_GREETING;
    link->heard_ms = loop_now_ms();
    deadline_ms = link->due_ms; /* connecting and greeting share connect_ms */
    for (int i = 0; i < link->greeting.count; i++) {
        struct link_call *call = link_add_call(link, LINK_CALL_GREETING, deadline_ms, NULL, NULL);

        if (!call) {
            link_fail(link, "cannot be greeted: no memory");
            return;
        }
        call->count = i;
    }
    if (!link_send(link, link->greeting.bytes, link->greeting.size))
        link_fail(link, "cannot be greeted: no memory");
}

static const struct loop_stream_events link_stream_events = {
    .connected = link_connected, .received = link_received, .ended = link_ended, .closed = link_wire_closed};

/* ---- connecting ---- */

/* A wire that begins to connect; 0 or an errno. */
static int link_dial(struct link *link)
{
    struct link_wire *wire = calloc(1, sizeof *wire);
    int error = ENOMEM;

    if (!wire || !(wire->reader = resp_reader_open(link->reply_most)))
        goto fail;
    wire->link = link;
    error = loop_stream_open(link->loop, &link->address, &link_stream_events, wire, &wire->stream);
    if (error)
        goto fail;
    link->wire = wire;
    return 0;
fail:
    if (wire)
        link_wire_closed(wire);
    return error;
}

/* Begin an attempt. */
static void link_connect(struct link *link)
{
    freshet_result result;
    char what[96];
    int error;

    link->state = LINK_CONNECTING;
    link_set_timer(link, loop_now_ms() + link->connect_ms);
    if ((result = url_resolve_nth(link->url, link->nth, &link->address)) != FRESHET_OK) {
        link_end(link, FRESHET_ENET, false);
        return;
    }
    link->has_address = true;
    link_set_timer(link, loop_now_ms() + link->connect_ms); /* the resolver's time does not count */
    if ((error = link_dial(link)) != 0)
        link_fail(link, "cannot be reached: %s", strerror_r(error, what, sizeof what));
}

/* ---- time ---- */

/* The earliest deadline of all calls. */
static uint64_t link_first_deadline(const struct link *link)
{
    uint64_t first_ms = LINK_NEVER;

    for (const struct link_call *call = link->first; call; call = call->next)
        if (call->deadline_ms < first_ms)
            first_ms = call->deadline_ms;
    return first_ms;
}

/* Subscribed, and nothing heard for long: ask for a sign of life.  Returns when to look again. */
static uint64_t link_watch_silence(struct link *link, uint64_t now_ms)
{
    uint64_t due_ms = link->heard_ms + link->connect_ms;
    char *bytes;
    size_t size;

    if (!link->subscribed || link->pinged)
        return LINK_NEVER;
    if (due_ms > now_ms)
        return due_ms;
    if (resp_format(1, (const char *[]){"PING"}, NULL, &bytes, &size) == FRESHET_OK &&
        link_send_call(link, LINK_CALL_PING, bytes, size, now_ms + link->connect_ms, NULL, NULL))
        link->pinged = true;
    return now_ms + link->connect_ms;
}

/* Anything is a sign of life: while a subscription brings messages, its PONG may be long in coming behind them. */
static void link_prolong_ping(struct link *link)
{
    for (struct link_call *call = link->pinged ? link->first : NULL; call; call = call->next)
        if (call->kind == LINK_CALL_PING && call->deadline_ms < link->heard_ms + link->connect_ms)
            call->deadline_ms = link->heard_ms + link->connect_ms;
}

static void link_timer_fired(void *arg)
{
    struct link *link = arg;
    uint64_t now_ms = loop_now_ms(), first_ms, silence_ms;

    link->due_ms = LINK_NEVER;
    switch (link->state) {
    case LINK_STOPPED:
        break;
    case LINK_WAITING:
        link_connect(link);
        break;
    case LINK_CONNECTING:
        link_fail(link, "cannot be reached: no connection within %u ms", link->connect_ms);
        break;
    case LINK_GREETING:
    case LINK_UP:
        link_prolong_ping(link);
        if ((first_ms = link_first_deadline(link)) <= now_ms) {
            link_fail(link, "did not answer in time");
            break;
        }
        silence_ms = link_watch_silence(link, now_ms);
        link_set_timer(link, first_ms < silence_ms ? first_ms : silence_ms);
        break;
    }
}

/* ---- what the owner calls ---- */

struct link *link_open(struct loop *loop, const struct url *url, uint32_t connect_ms, size_t reply_most,
                       const struct link_events *events, void *arg)
{
    struct link *link = calloc(1, sizeof *link);

    if (!link)
        return NULL;
    link->loop = loop;
    link->url = url;
    link->connect_ms = connect_ms ? connect_ms : 1;
    link->reply_most = reply_most;
    link->events = *events;
    link->arg = arg;
    link->last = &link->first;
    link->due_ms = LINK_NEVER;
    if (greeting_make(&link->greeting, url) != FRESHET_OK) {
        free(link);
        return NULL;
    }
    if (!(link->timer = loop_timer_open(loop, link_timer_fired, link))) {
        greeting_free(&link->greeting);
        free(link);
        return NULL;
    }
    backoff_init(&link->backoff, backoff_seed(link));
    return link;
}

void link_start(struct link *link)
{
    if (link->closed || (link->state != LINK_STOPPED && link->state != LINK_WAITING))
        return;
    link->state = LINK_WAITING;
    link_set_timer(link, loop_now_ms());
}

void link_stop(struct link *link)
{
    link->state = LINK_STOPPED;
    link_set_timer(link, LINK_NEVER);
    link_cut(link);
    link_fail_calls(link);
}

void link_drop(struct link *link)
{
    char where[URL_TEXT_MAX];

    (void)remote_fail(FRESHET_ENET, "the connection to Redis at %s was given up",
                      url_text(link->url, where, sizeof where));
    link_end(link, FRESHET_ENET, false);
}

bool link_is_up(const struct link *link)
{
    return link->state == LINK_UP;
}

bool link_ask(struct link *link, int argc, const char *const *argv, const size_t *sizes, uint32_t ms, link_reply_fn fn,
              void *arg)
{
    char *bytes;
    size_t size;

    if (link->state != LINK_UP || link->subscribed || resp_format(argc, argv, sizes, &bytes, &size) != FRESHET_OK)
        return false;
    return link_send_call(link, LINK_CALL_ASK, bytes, size, loop_now_ms() + ms, fn, arg) != NULL;
}

bool link_script(struct link *link, enum script script, int keys, int argc, const char *const *argv,
                 const size_t *sizes, uint32_t ms, link_reply_fn fn, void *arg)
{
    char head[128], *tail_start, *bytes = NULL;
    size_t head_size, size;
    struct link_call *call;
    const char **all = malloc(((size_t)argc + 3) * sizeof *all);
    size_t *all_sizes = malloc(((size_t)argc + 3) * sizeof *all_sizes);
    char *tail = NULL, count[16];
    bool sent = false;

    if (!all || !all_sizes || link->state != LINK_UP || link->subscribed)
        goto done;
    all[0] = "EVALSHA", all_sizes[0] = 7;
    all[1] = script_texts[script].sha1, all_sizes[1] = strlen(script_texts[script].sha1);
    all[2] = count, all_sizes[2] = (size_t)snprintf(count, sizeof count, "%d", keys);
    for (int i = 0; i < argc; i++) {
        all[i + 3] = argv[i];
        all_sizes[i + 3] = sizes ? sizes[i] : strlen(argv[i]);
    }
    if (resp_format(argc + 3, all, all_sizes, &bytes, &size) != FRESHET_OK)
        goto done;
    /* What follows the script's name follows its text too, should the name not be known there. */
    head_size =
        (size_t)snprintf(head, sizeof head, "*%d\r\n$7\r\nEVALSHA\r\n$%zu\r\n%s\r\n", argc + 3, all_sizes[1], all[1]);
    tail_start = bytes + head_size;
    if (!(tail = malloc(size - head_size))) {
        free(bytes);
        goto done;
    }
    memcpy(tail, tail_start, size - head_size);
    if ((call = link_send_call(link, LINK_CALL_ASK, bytes, size, loop_now_ms() + ms, fn, arg))) {
        call->script = script;
        call->argc = argc + 3;
        call->tail = tail;
        call->tail_size = size - head_size;
        tail = NULL;
        sent = true;
    }
done:
    free(tail);
    free(all);
    free(all_sizes);
    return sent;
}

bool link_subscribe(struct link *link, int count, const char *const *channels, uint32_t ms, link_reply_fn fn, void *arg)
{
    struct link_call *call = NULL;
    char *bytes = NULL;
    size_t size;
    const char **argv;

    if (link->state != LINK_UP || count < 1 || !(argv = malloc(((size_t)count + 1) * sizeof *argv)))
        return false;
    argv[0] = "SUBSCRIBE";
    memcpy(argv + 1, channels, (size_t)count * sizeof *argv);
    if (resp_format(count + 1, argv, NULL, &bytes, &size) == FRESHET_OK)
        call = link_send_call(link, LINK_CALL_SUBSCRIBE, bytes, size, loop_now_ms() + ms, fn, arg);
    free(argv);
    if (!call)
        return false;
    call->count = count;
    link->subscribed = true;
    link_set_timer_by(link, loop_now_ms() + link->connect_ms);
    return true;
}

static void link_timer_closed(void *arg)
{
    struct link *link = arg;

    greeting_free(&link->greeting);
    free(link);
}

void link_close(struct link *link)
{
    if (!link || link->closed)
        return;
    link->closed = true;
    link_stop(link);
    loop_timer_close_then(link->timer, link_timer_closed);
}

bool link_address(const struct link *link, struct url_address *ret_address)
{
    if (link->has_address)
        *ret_address = link->address;
    return link->has_address;
}
