/*
 * resp.h - Redis's protocol: commands out, replies in.  resp.c is the only file of the library with <hiredis/...>, and
 * of that uses the reader alone: its connections do not survive what happens to connections, and its formatter
 * allocates with what a host program may have replaced behind our back (and on 0.14 counts a command's bytes in an
 * int).
 *
 * What a server may make us hold is bounded here: bulk size, elements, depth, bytes not yet parsed.
 */
#ifndef BACKPLANE_RESP_H
#define BACKPLANE_RESP_H

#include <freshet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RESP_ELEMENTS_MAX 1048576u            /* in one reply, at all depths together */
#define RESP_DEPTH_MAX    7u                  /* arrays in arrays */
#define RESP_LINE_MAX     65536u              /* bytes of a status, an error, a number */
#define RESP_COMMAND_MAX  ((size_t)512 << 20) /* bytes of a command; Redis takes no larger argument either */

enum resp_type { RESP_STRING, RESP_STATUS, RESP_ERROR, RESP_INTEGER, RESP_NIL, RESP_ARRAY };

struct resp { /* a reply; a tree */
    enum resp_type type;
    const char *text; /* STRING, STATUS, ERROR: bytes, with a NUL behind them */
    size_t size;
    long long integer;
    size_t count; /* ARRAY */
    struct resp **items;
};
void resp_free(struct resp *reply); /* NULL is welcome */

/* Is it an error whose first word is `code`?  "BUSY" is not "BUSYGROUP". */
bool resp_is_error(const struct resp *reply, const char *code);
/* Redis is there but not of service now: LOADING, MASTERDOWN, BUSY, TRYAGAIN, CLUSTERDOWN, no room for more clients. */
bool resp_is_unavailable(const struct resp *reply);
/* Redis does not want us: NOAUTH, NOPERM, WRONGPASS, READONLY, DENIED. */
bool resp_is_refusal(const struct resp *reply);

/* A command: `argc` arguments, binary safe; `sizes` NULL: they are C strings.  The result is malloc'd. */
freshet_result resp_format(int argc, const char *const *argv, const size_t *sizes, char **ret_bytes, size_t *ret_size);

struct resp_reader;
/* `most`: bytes a single reply may have in all. */
struct resp_reader *resp_reader_open(size_t most);
void resp_reader_close(struct resp_reader *reader);
/* Feed what came in, then take every whole reply out before feeding more; FRESHET_EIO when it is not RESP2 or exceeds a
 * limit: the connection must go, and the reader says the same from then on. */
freshet_result resp_reader_feed(struct resp_reader *reader, const char *bytes, size_t size);
/* The next whole reply, or NULL in *ret_reply when there is none yet. */
freshet_result resp_reader_next(struct resp_reader *reader, struct resp **ret_reply);
/* Nothing is held that was not given out. */
bool resp_reader_empty(const struct resp_reader *reader);

#endif
