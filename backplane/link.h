/*
 * link.h - one connection that the loop's thread owns: a stream, redisReader behind it (resp.h), replies to
 * callbacks in order, pushes of a subscription to one callback.  It reconnects by itself, with back-off and full jitter
 * (10 ms to 2 s), after AUTH and SELECT calls `up`, and on any error, garbage or silence past a deadline calls `down`
 * once and starts again.  Only ever used on the loop's thread.
 *
 * All calls here may be made from within the callbacks.
 */
#ifndef BACKPLANE_LINK_H
#define BACKPLANE_LINK_H

#include <resp.h>
#include <scripts.h>
#include <url.h>

struct loop;
struct link;

struct link_events { /* any may be NULL */
    /* Connected, authenticated, database selected. */
    void (*up)(struct link *link, void *arg);
    /* FRESHET_ENET or FRESHET_EREDIS; freshet_error has it.  All pending replies have been called with a NULL reply
     * before.  Also after an attempt that never came up, and from within link_drop; not after link_stop, link_close. */
    void (*down)(struct link *link, freshet_result why, void *arg);
    /* Subscription: the array {"message", channel, payload}, three strings, checked. */
    void (*push)(struct link *link, const struct resp *message, void *arg);
};
/* A NULL reply: the connection is gone. */
typedef void (*link_reply_fn)(struct link *link, const struct resp *reply, void *arg);

/* `url` stays the caller's and must outlive the link.  NULL: no memory. */
struct link *link_open(struct loop *loop, const struct url *url, uint32_t connect_ms, size_t reply_most,
                       const struct link_events *events, void *arg);
/* Connect now (in the loop's next turn), and keep connected. */
void link_start(struct link *link);
/* Drop the connection, stay down until link_start; pending replies are called with NULL. */
void link_stop(struct link *link);
/* Drop the connection, reconnect after the back-off (a server that talks of an older history), which keeps growing
 * however well the connection went. */
void link_drop(struct link *link);
bool link_is_up(const struct link *link);

/* Ask; the reply comes within `ms` or the connection is dropped.  False when it is down, subscribed, out of memory or
 * has too much waiting to be sent (the callback is then not called).  `fn` may be NULL. */
bool link_ask(struct link *link, int argc, const char *const *argv, const size_t *sizes, uint32_t ms, link_reply_fn fn,
              void *arg);
/* The same for a script; NOSCRIPT is handled inside. */
bool link_script(struct link *link, enum script script, int keys, int argc, const char *const *argv,
                 const size_t *sizes, uint32_t ms, link_reply_fn fn, void *arg);
/* SUBSCRIBE to channels (RESP2: the connection is then for pushes only); on each connect again by the caller, in `up`.
 * `fn` is called once all are confirmed, or with the error.  From then on silence of connect_ms is met with a PING, and
 * silence after that of as long again is the end of the connection. */
bool link_subscribe(struct link *link, int count, const char *const *channels, uint32_t ms, link_reply_fn fn,
                    void *arg);

/* Close for good; the memory goes in the loop's own time.  Pending replies are called with NULL.  NULL is welcome. */
void link_close(struct link *link);
/* The address of the last attempt to connect, for lines_set_address (best called in `up`); false when never. */
bool link_address(const struct link *link, struct url_address *ret_address);

#endif
