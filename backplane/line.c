/*
 * line.c - blocking conversations with Redis on the callers' own threads (line.h). Stands on resp.c, greeting.c and
 * plain sockets; knows no loop.
 *
 * The common path is five system calls: is the socket still ours (fstat), is it quiet and open (recv, peeking), send,
 * recv, and nothing to set the time-out: sockets block for a slice (SO_RCVTIMEO, set once), a call's own deadline is
 * looked at between slices, and one that ends within the slice is met with poll() instead.
 *
 * A connection's structure is never freed before lines_close, only its socket: so a child after fork() can walk all of
 * them, whatever another thread was about to do to the pool, and close its copies of the sockets.
 */
#include <line.h>

#include <backoff.h>
#include <greeting.h>
#include <remote.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LINES_IDLE          64u                 /* connections kept */
#define LINES_IDLE_NS       (60 * 1000000000ll) /* and for how long */
#define LINES_LEAVE_NS      (100 * 1000000ll)   /* a server that became a replica is left no more often than that */
#define LINE_SLICE_NS       (20 * 1000000ll)    /* how long a blocking recv lasts at most */
#define LINE_CHUNK          16384u
#define LINES_WAIT_SLACK_NS (150 * 1000000ll) /* Redis looks at a WAIT's time ten times a second */
#define LINES_PATIENCE_NS   (250 * 1000000ll) /* to give up a connect sooner says more of the caller than of Redis */
#define LINES_LATE_NS       (50 * 1000000ll)  /* and so does to come back later than that after its end */

struct line {      /* a connection */
    atomic_int fd; /* -1: none */
    dev_t device;
    ino_t inode; /* what fd was when we made it */
    struct resp_reader *reader;
    unsigned era; /* of the pool, when it was connected */
    int64_t idle_since_ns;
    struct line *all_next; /* fixed once it is in the list */
    struct line *spare_next;
};

struct lines {
    const struct url *url;
    struct greeting greeting;
    uint32_t connect_ms;
    size_t reply_most;
    _Atomic(struct line *) all;
    atomic_llong away_until_ns; /* 0: not away */

    pthread_mutex_t mutex; /* all below; held for a few instructions */
    struct line *idle[LINES_IDLE];
    unsigned idle_count;
    struct line *spare; /* without a socket */
    unsigned era;       /* connections of an earlier one are not used again */
    int64_t left_ns;    /* when a replica was left */
    bool has_address;
    struct url_address address;
    struct backoff backoff;
    freshet_result why; /* of being away */
    char why_text[256];
};

/* How a conversation went. */
enum line_fate {
    LINE_WELL,
    LINE_CLOSED, /* by the server, or the socket failed */
    LINE_TIMEOUT,
    LINE_GARBAGE,
    LINE_NO_MEMORY
};

static int64_t line_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* ---- one socket ---- */

/* Does the number still name the socket that we opened?  A host program may have closed it and opened another. */
static bool line_is_ours(const struct line *line)
{
    struct stat stat;
    int fd = atomic_load_explicit(&line->fd, memory_order_relaxed);

    return fd >= 0 && fstat(fd, &stat) == 0 && stat.st_dev == line->device && stat.st_ino == line->inode;
}

static void line_hang_up(struct line *line)
{
    if (line_is_ours(line))
        close(atomic_load_explicit(&line->fd, memory_order_relaxed));
    atomic_store(&line->fd, -1);
    resp_reader_close(line->reader);
    line->reader = NULL;
}

/* Is an idle connection fit for use: ours, open, and silent?  Anything to read now is an end, or a reply nobody asked
 * for. */
static bool line_is_fit(const struct line *line)
{
    char byte;

    return line_is_ours(line) && recv(line->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
           (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* Wait until the socket is ready, at most to the deadline. */
static enum line_fate line_wait(int fd, short events, int64_t deadline_ns)
{
    int ready = remote_wait_ready(fd, events, deadline_ns);

    return ready > 0 ? LINE_WELL : ready == 0 ? LINE_TIMEOUT : LINE_CLOSED;
}

/* Send it all; LINE_WELL says that the kernel has the last byte, anything else that it has not. */
static enum line_fate line_send(struct line *line, const char *bytes, size_t size, int64_t deadline_ns)
{
    while (size) {
        ssize_t sent = send(line->fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent >= 0) {
            bytes += sent;
            size -= (size_t)sent;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            enum line_fate fate = line_wait(line->fd, POLLOUT, deadline_ns);

            if (fate != LINE_WELL)
                return fate;
        } else if (errno != EINTR) {
            return LINE_CLOSED;
        }
    }
    return LINE_WELL;
}

/* Receive some bytes, at most to the deadline.  The rest of a reply is looked for before it is waited for: it is mostly
 * here, and counts after the deadline too when an event loop comes back late. */
static enum line_fate line_receive(struct line *line, char *chunk, size_t room, size_t *ret_size, int64_t deadline_ns)
{
    for (bool look = !resp_reader_empty(line->reader);; look = false) {
        int64_t left_ns = deadline_ns - line_now();
        bool slice = left_ns >= 2 * LINE_SLICE_NS && !remote_wait_is_aside();
        enum line_fate fate;
        ssize_t size;

        if (!slice && !look && (fate = line_wait(line->fd, POLLIN, deadline_ns)) != LINE_WELL)
            return fate;
        size = recv(line->fd, chunk, room, slice ? 0 : MSG_DONTWAIT);
        if (size > 0) {
            *ret_size = (size_t)size;
            return LINE_WELL;
        }
        if (size == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
            return LINE_CLOSED;
    }
}

/* Wait for one reply. */
static enum line_fate line_hear(struct line *line, int64_t deadline_ns, struct resp **ret_reply)
{
    char chunk[LINE_CHUNK];

    for (;;) {
        freshet_result result = resp_reader_next(line->reader, ret_reply);
        enum line_fate fate;
        size_t size = 0;

        if (result == FRESHET_OK && *ret_reply)
            return LINE_WELL;
        if (result == FRESHET_OK) {
            if ((fate = line_receive(line, chunk, sizeof chunk, &size, deadline_ns)) != LINE_WELL)
                return fate;
            result = resp_reader_feed(line->reader, chunk, size);
        }
        if (result != FRESHET_OK)
            return result == FRESHET_ENOMEM ? LINE_NO_MEMORY : LINE_GARBAGE;
    }
}

/* What a fate is to the caller, in words.  Garbage has its sentence from the reader already. */
static freshet_result line_failed(const struct lines *lines, enum line_fate fate, bool sent)
{
    char where_text[URL_TEXT_MAX], what[128];
    const char *where = url_text(lines->url, where_text, sizeof where_text);

    switch (fate) {
    case LINE_WELL:
        return FRESHET_OK;
    case LINE_NO_MEMORY:
        return FRESHET_ENOMEM;
    case LINE_TIMEOUT:
        return remote_fail(FRESHET_ENET, "Redis at %s did not %s before the deadline", where,
                           sent ? "answer" : "take the command");
    case LINE_CLOSED:
        return remote_fail(FRESHET_ENET, "Redis at %s closed the connection%s", where,
                           sent ? " before it answered" : "");
    case LINE_GARBAGE:
        break;
    }
    snprintf(what, sizeof what, "%s", freshet_error());
    return remote_fail(FRESHET_ENET, "Redis at %s: %s", where, what);
}

/* ---- connecting ---- */

/* A socket, CLOEXEC, whose number is none of the standard three even if those are closed: a host program prints to
 * them. */
static int line_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), above;

    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    above = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
    return above;
}

/* Connect; 0, or an errno. */
static int line_connect_to(int fd, const struct url_address *address, int64_t deadline_ns)
{
    socklen_t size = sizeof(int);
    int error = 0;

    while (connect(fd, (const struct sockaddr *)&address->storage, address->size) != 0) {
        /* A unix socket whose backlog is full says EAGAIN, and nothing tells when it no longer is. */
        if (errno == EAGAIN && line_now() < deadline_ns) {
            remote_wait_pause(2 * 1000000);
            continue;
        }
        if (errno == EISCONN)
            break;
        if (errno == EAGAIN)
            return ETIMEDOUT;
        if (errno != EINPROGRESS && errno != EINTR && errno != EALREADY)
            return errno;
        if (line_wait(fd, POLLOUT, deadline_ns) == LINE_TIMEOUT)
            return ETIMEDOUT;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
            return errno;
        break;
    }
    return error;
}

/* A new socket, connected and made to block for a slice at a time.  An errno on failure, with nothing left open. */
static int line_dial(struct line *line, const struct url_address *address, int64_t deadline_ns)
{
    const struct timeval slice = {.tv_usec = LINE_SLICE_NS / 1000};
    const int on = 1;
    int fd = line_socket(address->storage.ss_family), error, flags;
    struct stat stat;

    if (fd < 0)
        return errno;
    if ((error = line_connect_to(fd, address, deadline_ns)) != 0)
        goto fail;
    if (address->storage.ss_family != AF_UNIX)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &slice, sizeof slice) != 0 || (flags = fcntl(fd, F_GETFL)) < 0 ||
        fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != 0 || fstat(fd, &stat) != 0) {
        error = errno;
        goto fail;
    }
    line->device = stat.st_dev;
    line->inode = stat.st_ino;
    atomic_store(&line->fd, fd); /* last: who walks the list after a fork believes the identity */
    return 0;
fail:
    close(fd);
    return error;
}

/* Say the first words and judge the answers. */
static freshet_result line_greet(struct lines *lines, struct line *line, int64_t deadline_ns)
{
    enum line_fate fate = line_send(line, lines->greeting.bytes, lines->greeting.size, deadline_ns);
    freshet_result result = FRESHET_OK;

    for (int i = 0; i < lines->greeting.count && fate == LINE_WELL && result == FRESHET_OK; i++) {
        struct resp *reply = NULL;

        if ((fate = line_hear(line, deadline_ns, &reply)) == LINE_WELL)
            result = greeting_judge(&lines->greeting, i, reply, lines->url);
        resp_free(reply);
    }
    return fate == LINE_WELL ? result : line_failed(lines, fate, true);
}

/* ---- the pool ---- */

/* Remember why Redis could not be had, and ask for nothing for a while. */
static void lines_go_away(struct lines *lines, freshet_result why)
{
    char text[sizeof lines->why_text];

    snprintf(text, sizeof text, "%s", freshet_error());
    pthread_mutex_lock(&lines->mutex);
    lines->why = why;
    memcpy(lines->why_text, text, sizeof text);
    atomic_store(&lines->away_until_ns, line_now() + backoff_next(&lines->backoff) * 1000000ll);
    pthread_mutex_unlock(&lines->mutex);
}

bool lines_away(struct lines *lines)
{
    int64_t until_ns = atomic_load_explicit(&lines->away_until_ns, memory_order_relaxed);

    return until_ns != 0 && line_now() < until_ns;
}

void lines_reached(struct lines *lines)
{
    pthread_mutex_lock(&lines->mutex);
    backoff_reset(&lines->backoff);
    atomic_store(&lines->away_until_ns, 0);
    pthread_mutex_unlock(&lines->mutex);
}

void lines_set_address(struct lines *lines, const struct url_address *address)
{
    pthread_mutex_lock(&lines->mutex);
    if (!lines->has_address || !url_same_address(&lines->address, address)) {
        lines->address = *address;
        lines->has_address = true;
        lines->era++;
    }
    pthread_mutex_unlock(&lines->mutex);
}

void lines_forget(struct lines *lines)
{
    pthread_mutex_lock(&lines->mutex);
    lines->era++;
    pthread_mutex_unlock(&lines->mutex);
}

/* Close a connection and keep its structure for the next. */
static void lines_drop(struct lines *lines, struct line *line)
{
    line_hang_up(line);
    pthread_mutex_lock(&lines->mutex);
    line->spare_next = lines->spare;
    lines->spare = line;
    pthread_mutex_unlock(&lines->mutex);
}

/* An idle connection that is fit for use, the one used last; NULL: there is none. */
static struct line *lines_take_idle(struct lines *lines)
{
    int64_t now_ns = line_now();

    for (;;) {
        struct line *line = NULL;
        bool fit = false;

        pthread_mutex_lock(&lines->mutex);
        if (lines->idle_count) {
            line = lines->idle[--lines->idle_count];
            fit = line->era == lines->era && now_ns - line->idle_since_ns < LINES_IDLE_NS;
        }
        pthread_mutex_unlock(&lines->mutex);
        if (!line || (fit && line_is_fit(line)))
            return line;
        lines_drop(lines, line);
    }
}

/* Give a connection back.  The one that nobody has used for longest makes room, and goes too when its time is over. */
static void lines_give_back(struct lines *lines, struct line *line)
{
    struct line *oldest = NULL;

    if (!resp_reader_empty(line->reader)) { /* more than was asked for */
        lines_drop(lines, line);
        return;
    }
    line->idle_since_ns = line_now();
    pthread_mutex_lock(&lines->mutex);
    if (lines->idle_count &&
        (lines->idle_count == LINES_IDLE || line->idle_since_ns - lines->idle[0]->idle_since_ns >= LINES_IDLE_NS)) {
        oldest = lines->idle[0];
        memmove(&lines->idle[0], &lines->idle[1], --lines->idle_count * sizeof lines->idle[0]);
    }
    lines->idle[lines->idle_count++] = line;
    pthread_mutex_unlock(&lines->mutex);
    if (oldest)
        lines_drop(lines, oldest);
}

/* A structure for a new connection, and what to connect to.  NULL: no memory. */
static struct line *lines_spare(struct lines *lines, struct url_address *ret_address, bool *ret_has_address)
{
    struct line *line;
    unsigned era;

    pthread_mutex_lock(&lines->mutex);
    if ((line = lines->spare))
        lines->spare = line->spare_next;
    *ret_address = lines->address;
    *ret_has_address = lines->has_address;
    era = lines->era;
    pthread_mutex_unlock(&lines->mutex);
    if (!line) {
        if (!(line = calloc(1, sizeof *line)))
            return NULL;
        atomic_init(&line->fd, -1);
        line->all_next = atomic_load(&lines->all);
        while (!atomic_compare_exchange_weak(&lines->all, &line->all_next, line))
            ;
    }
    line->era = era;
    return line;
}

/* A fresh connection, greeted. */
static freshet_result lines_connect(struct lines *lines, int64_t deadline_ns, struct line **ret_line)
{
    int64_t began_ns = line_now(), end_ns = began_ns + lines->connect_ms * 1000000ll, now_ns;
    char where[URL_TEXT_MAX], what[96];
    struct url_address address;
    bool has_address, hasty, late;
    struct line *line = lines_spare(lines, &address, &has_address);
    freshet_result result;
    int error = 0;

    if (end_ns > deadline_ns)
        end_ns = deadline_ns;
    if (!line)
        return remote_fail(FRESHET_ENOMEM, "no memory for a connection");
    url_text(lines->url, where, sizeof where);
    if (!(line->reader = resp_reader_open(lines->reply_most)))
        result = remote_fail(FRESHET_ENOMEM, "no memory for a connection");
    else if (!has_address)
        result = remote_fail(FRESHET_ENET, "the address of Redis at %s is not known yet", where);
    else if ((error = line_dial(line, &address, end_ns)) != 0)
        result =
            remote_fail(FRESHET_ENET, "Redis at %s cannot be reached: %s", where, strerror_r(error, what, sizeof what));
    else
        result = line_greet(lines, line, end_ns);
    if (result == FRESHET_OK) {
        lines_reached(lines);
        *ret_line = line;
        return FRESHET_OK;
    }
    lines_drop(lines, line);
    /* Who gave Redis no time to answer, or was elsewhere when it did (an event loop that was held up), has learned
     * nothing that others should believe. */
    now_ns = line_now();
    hasty = end_ns == deadline_ns && now_ns >= end_ns && now_ns - began_ns < LINES_PATIENCE_NS;
    late = now_ns - end_ns > LINES_LATE_NS;
    if (result == FRESHET_EREDIS || (result == FRESHET_ENET && has_address && !hasty && !late))
        lines_go_away(lines, result);
    return result;
}

/* A connection to talk on, from the pool unless `fresh`. */
static freshet_result lines_take(struct lines *lines, bool fresh, int64_t deadline_ns, struct line **ret_line,
                                 bool *ret_pooled)
{
    char why[sizeof lines->why_text];
    freshet_result result;

    *ret_line = fresh ? NULL : lines_take_idle(lines);
    *ret_pooled = *ret_line != NULL;
    if (*ret_line)
        return FRESHET_OK;
    if (!lines_away(lines))
        return lines_connect(lines, deadline_ns, ret_line);
    pthread_mutex_lock(&lines->mutex);
    result = lines->why;
    memcpy(why, lines->why_text, sizeof why);
    pthread_mutex_unlock(&lines->mutex);
    return remote_fail(result, "%s", why);
}

/* ---- open and close ---- */

freshet_result lines_open(struct lines **ret_lines, const struct url *url, uint32_t connect_ms, size_t reply_most)
{
    struct lines *lines = calloc(1, sizeof *lines);
    freshet_result result;

    if (!lines)
        return remote_fail(FRESHET_ENOMEM, "no memory for connections");
    lines->url = url;
    lines->connect_ms = connect_ms;
    lines->reply_most = reply_most;
    lines->has_address = url_numeric(url, &lines->address);
    backoff_init(&lines->backoff, backoff_seed(lines));
    if ((result = greeting_make(&lines->greeting, url)) != FRESHET_OK) {
        free(lines);
        return result;
    }
    pthread_mutex_init(&lines->mutex, NULL);
    *ret_lines = lines;
    return FRESHET_OK;
}

void lines_close(struct lines *lines)
{
    struct line *next;

    if (!lines)
        return;
    for (struct line *line = atomic_load(&lines->all); line; line = next) {
        next = line->all_next;
        line_hang_up(line);
        free(line);
    }
    greeting_free(&lines->greeting);
    pthread_mutex_destroy(&lines->mutex);
    free(lines);
}

void lines_abandon(struct lines *lines)
{
    /* Closing our copy tells the server nothing, for the parent still has its own. */
    for (struct line *line = lines ? atomic_load(&lines->all) : NULL; line; line = line->all_next) {
        if (line_is_ours(line))
            close(atomic_load(&line->fd));
        atomic_store(&line->fd, -1);
    }
}

/* ---- asking ---- */

/* The server has become a replica: no connection to it is worth keeping, for the address may lead to the master by now.
 * True: let them go, and this one too; false: that was done just now, and the address still leads here. */
static bool lines_leave(struct lines *lines)
{
    int64_t now_ns = line_now();
    bool leave;

    pthread_mutex_lock(&lines->mutex);
    leave = lines->left_ns == 0 || now_ns - lines->left_ns > LINES_LEAVE_NS;
    if (leave) {
        lines->left_ns = now_ns;
        lines->era++;
    }
    pthread_mutex_unlock(&lines->mutex);
    return leave;
}

/* WAIT for the replicas on a connection that has just been answered.  False: it is good for nothing any more. */
static bool line_replicate(struct line *line, struct lines_replicas *replicas)
{
    int64_t left_ms = (replicas->deadline_ns - line_now()) / 1000000;
    int64_t deadline_ns = replicas->deadline_ns + LINES_WAIT_SLACK_NS;
    struct resp *reply = NULL;
    char words[80];
    int size;

    left_ms -= left_ms / 4 < 100 ? left_ms / 4 : 100; /* so that its answer is here in time */
    /* In Redis a time of 0 would be for ever. */
    size = snprintf(words, sizeof words, "WAIT %u %lld\r\n", replicas->wanted, left_ms > 0 ? (long long)left_ms : 1);
    if (line_send(line, words, (size_t)size, deadline_ns) != LINE_WELL ||
        line_hear(line, deadline_ns, &reply) != LINE_WELL)
        return false;
    if (reply->type == RESP_INTEGER && reply->integer > 0)
        replicas->reached = reply->integer < UINT32_MAX ? (uint32_t)reply->integer : UINT32_MAX;
    if (reply->type == RESP_ERROR)
        remote_say(FRESHET_WARN, "Redis refuses WAIT: %.120s", reply->text);
    resp_free(reply);
    return true;
}

/* Send formatted bytes and hear one reply, on the pool's or a fresh connection. */
static freshet_result lines_talk(struct lines *lines, const char *bytes, size_t size, int64_t deadline_ns,
                                 struct resp **ret_reply, bool *ret_sent, struct lines_replicas *replicas)
{
    bool again = false;

    for (;;) {
        struct line *line = NULL;
        bool pooled = false;
        freshet_result result = lines_take(lines, again, deadline_ns, &line, &pooled);
        enum line_fate fate;

        if (result != FRESHET_OK)
            return result;
        fate = line_send(line, bytes, size, deadline_ns);
        if (fate == LINE_WELL) {
            *ret_sent = true;
            fate = line_hear(line, deadline_ns, ret_reply);
        }
        if (fate == LINE_WELL && pooled && resp_is_error(*ret_reply, "READONLY") && lines_leave(lines)) {
            lines_drop(lines, line);
            resp_free(*ret_reply);
            *ret_reply = NULL;
            again = true;
            *ret_sent = false; /* a replica has run nothing */
            continue;
        }
        if (fate == LINE_WELL) {
            bool fit = true;

            if (replicas && (*ret_reply)->type != RESP_ERROR) {
                replicas->answered_ns = line_now();
                fit = replicas->wanted == 0 || line_replicate(line, replicas);
            }
            if (fit)
                lines_give_back(lines, line);
            else
                lines_drop(lines, line);
            return FRESHET_OK;
        }
        lines_drop(lines, line);
        if (fate != LINE_CLOSED || *ret_sent || !pooled)
            return line_failed(lines, fate, *ret_sent);
        again = true; /* closed while it lay in the pool, and Redis has not got the whole: once more */
    }
}

/* The same, when it is this caller's turn: a thousand calls of one event loop need no thousand connections. */
static freshet_result lines_converse(struct lines *lines, const char *bytes, size_t size, int64_t deadline_ns,
                                     struct resp **ret_reply, bool *ret_sent, struct lines_replicas *replicas)
{
    char where[URL_TEXT_MAX];
    freshet_result result;

    if (!remote_wait_enter(deadline_ns))
        return remote_fail(FRESHET_ENET, "too many calls before this one were waiting for Redis at %s",
                           url_text(lines->url, where, sizeof where));
    result = lines_talk(lines, bytes, size, deadline_ns, ret_reply, ret_sent, replicas);
    remote_wait_leave();
    return result;
}

static freshet_result lines_ask_replicated(struct lines *lines, int argc, const char *const *argv, const size_t *sizes,
                                           int64_t deadline_ns, struct resp **ret_reply, bool *ret_sent,
                                           struct lines_replicas *replicas)
{
    struct resp *reply = NULL;
    bool sent = false;
    char *bytes = NULL;
    size_t size = 0;
    freshet_result result = resp_format(argc, argv, sizes, &bytes, &size);

    *ret_reply = NULL;
    if (result == FRESHET_OK)
        result = lines_converse(lines, bytes, size, deadline_ns, &reply, &sent, replicas);
    free(bytes);
    if (result == FRESHET_OK && reply->type == RESP_ERROR &&
        (result = greeting_refusal(reply, lines->url)) != FRESHET_OK) {
        if (resp_is_error(reply, "READONLY") || resp_is_error(reply, "MASTERDOWN"))
            lines_forget(lines); /* a replica by now: the master is elsewhere, behind the same address */
        /* It was sent but not run; unless a script was, up to the command that its user may not use. */
        sent = resp_is_refusal(reply) && memmem(reply->text, reply->size, "script", 6);
        resp_free(reply);
        reply = NULL;
    }
    *ret_reply = reply;
    if (ret_sent)
        *ret_sent = sent;
    return result;
}

freshet_result lines_ask(struct lines *lines, int argc, const char *const *argv, const size_t *sizes,
                         int64_t deadline_ns, struct resp **ret_reply, bool *ret_sent)
{
    return lines_ask_replicated(lines, argc, argv, sizes, deadline_ns, ret_reply, ret_sent, NULL);
}

static freshet_result lines_run(struct lines *lines, enum script script, int keys, int argc, const char *const *argv,
                                const size_t *sizes, int64_t deadline_ns, struct resp **ret_reply, bool *ret_sent,
                                struct lines_replicas *replicas)
{
    const struct script_text *text = &script_texts[script];
    const char **all = malloc(((size_t)argc + 3) * sizeof *all);
    size_t *all_sizes = malloc(((size_t)argc + 3) * sizeof *all_sizes);
    char count[16];
    freshet_result result;

    *ret_reply = NULL;
    if (ret_sent)
        *ret_sent = false;
    if (!all || !all_sizes) {
        result = remote_fail(FRESHET_ENOMEM, "no memory for a script's arguments");
        goto done;
    }
    all[0] = "EVALSHA", all_sizes[0] = 7;
    all[1] = text->sha1, all_sizes[1] = strlen(text->sha1);
    all[2] = count, all_sizes[2] = (size_t)snprintf(count, sizeof count, "%d", keys);
    for (int i = 0; i < argc; i++) {
        all[i + 3] = argv[i];
        all_sizes[i + 3] = sizes ? sizes[i] : strlen(argv[i]);
    }
    result = lines_ask_replicated(lines, argc + 3, all, all_sizes, deadline_ns, ret_reply, ret_sent, replicas);
    if (result == FRESHET_OK && resp_is_error(*ret_reply, "NOSCRIPT")) {
        resp_free(*ret_reply);
        all[0] = "EVAL", all_sizes[0] = 4;
        all[1] = text->text, all_sizes[1] = text->size;
        result = lines_ask_replicated(lines, argc + 3, all, all_sizes, deadline_ns, ret_reply, ret_sent, replicas);
    }
done:
    free(all);
    free(all_sizes);
    return result;
}

freshet_result lines_script(struct lines *lines, enum script script, int keys, int argc, const char *const *argv,
                            const size_t *sizes, int64_t deadline_ns, struct resp **ret_reply, bool *ret_sent)
{
    return lines_run(lines, script, keys, argc, argv, sizes, deadline_ns, ret_reply, ret_sent, NULL);
}

freshet_result lines_script_replicated(struct lines *lines, enum script script, int keys, int argc,
                                       const char *const *argv, const size_t *sizes, int64_t deadline_ns,
                                       struct resp **ret_reply, struct lines_replicas *replicas)
{
    replicas->answered_ns = 0;
    replicas->reached = 0;
    return lines_run(lines, script, keys, argc, argv, sizes, deadline_ns, ret_reply, NULL, replicas);
}
