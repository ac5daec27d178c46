/*
 * line.h - a blocking conversation with Redis on the caller's own thread: no hand-over to another thread, so a miss
 * costs one round trip and no more.  A small pool of connections; each call has a deadline and never waits beyond it.
 *
 * A connection that saw a time-out, an error of the socket or garbage is closed, never used again: a late reply must
 * not answer the next question.  After a failed connect the pool is "away" for a back-off with full jitter (10 ms
 * doubling to 2 s): calls in that time fail at once, without a system call; lines_reached() (from the loop's own
 * connection) ends it.  Sockets: CLOEXEC, never numbers 0 to 2, MSG_NOSIGNAL, TCP_NODELAY.
 *
 * A command is sent a second time only if the first could not be sent as a whole, because the pool's connection had
 * been closed by the server in the meantime (Redis runs nothing that it has not got the last byte of), or if the server
 * at its other end has become a replica, which says -READONLY: then all connections of the pool are let go, since the
 * address may lead to the new master by now, though the old one's connections are as good as ever.
 */
#ifndef BACKPLANE_LINE_H
#define BACKPLANE_LINE_H

#include <resp.h>
#include <scripts.h>
#include <url.h>

struct lines;

/* `url` stays the caller's and must outlive the lines.  Nothing is connected yet.  A unix socket's or numeric address
 * is known at once; a host's name waits for lines_set_address. */
freshet_result lines_open(struct lines **ret_lines, const struct url *url, uint32_t connect_ms, size_t reply_most);
void lines_close(struct lines *lines); /* no call may be under way; NULL is welcome */
/* In a child after fork: close the sockets that are still ours, by identity, leak the rest. */
void lines_abandon(struct lines *lines);

/* Where to connect (resolved by the loop's thread or by join).  Another than before lets idle connections go. */
void lines_set_address(struct lines *lines, const struct url_address *address);

/* What is connected now leads to a server that is the master no more, perhaps: connect anew from now on. */
void lines_forget(struct lines *lines);

/* One command, one reply.  FRESHET_ENET (not reached or not answered in time; *ret_sent tells whether Redis may have
 * run it; may be NULL), FRESHET_EREDIS (connected, but AUTH or SELECT was refused; -NOAUTH, -NOPERM, -READONLY,
 * -WRONGPASS too), FRESHET_ENOMEM, FRESHET_ETOOBIG (a command above 512 MiB).  Other error replies come back as a reply
 * of type RESP_ERROR with FRESHET_OK.  -LOADING, -MASTERDOWN, -BUSY, -TRYAGAIN, -CLUSTERDOWN count as FRESHET_ENET, and
 * *ret_sent is then false: Redis did not run it; so it is after a refusal, unless a script was refused half-way.  The
 * caller frees the reply. */
freshet_result lines_ask(struct lines *lines, int argc, const char *const *argv, const size_t *sizes,
                         int64_t deadline_ns, struct resp **ret_reply, bool *ret_sent);
/* EVALSHA, and EVAL when the server does not know it (NOSCRIPT).  keys come first in argv. */
freshet_result lines_script(struct lines *lines, enum script script, int keys, int argc, const char *const *argv,
                            const size_t *sizes, int64_t deadline_ns, struct resp **ret_reply, bool *ret_sent);
/* The same; when the script has answered (no error), WAIT on its connection, until so many replicas have all that it
 * wrote or the time is over.  The script's outcome stands whatever becomes of the wait. */
struct lines_replicas {
    uint32_t wanted; /* 0: do not wait */
    int64_t deadline_ns;
    int64_t answered_ns; /* out: CLOCK_BOOTTIME when the script had answered; 0: it has not */
    uint32_t reached;    /* out */
};
freshet_result lines_script_replicated(struct lines *lines, enum script script, int keys, int argc,
                                       const char *const *argv, const size_t *sizes, int64_t deadline_ns,
                                       struct resp **ret_reply, struct lines_replicas *replicas);
bool lines_away(struct lines *lines);
void lines_reached(struct lines *lines);

#endif
