/*
 * chaos.h - what the files of `freshet-chaos` share.
 *
 *     chaos.c           the command line, the ready line, the end
 *     chaos_command.c   words -> a command -> a direction's faults (pure)
 *     chaos_address.c   tcp:HOST:PORT and unix:PATH; listening sockets
 *     chaos_wire.c      one direction of a connection: what is on its way, and when it may arrive
 *     chaos_proxy.c     listening, connections, whom a command concerns, what there is to tell
 *     chaos_control.c   the control socket: a line in, a line out
 *     chaos_ctl.c       its client, `freshet-chaos ctl`
 *
 * A proxy is for other people's tests, so one rule stands above all: a stream is never given a hole.  Bytes arrive in
 * order and whole, or late, or not at all and then nothing after them does.
 */
#ifndef TOOLS_CHAOS_H
#define TOOLS_CHAOS_H

#include "json.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* The exit statuses, as the man page has them. */
enum chaos_status {
    CHAOS_DONE = 0,    /* ended because told to; ctl: the command was carried out */
    CHAOS_REFUSED = 1, /* ctl: the command was refused */
    CHAOS_USAGE = 2,
    CHAOS_FAILED = 3
};

#define CHAOS_LINE_MOST 1024u /* bytes of a command, its newline included */
#define CHAOS_WHY_MOST  400u  /* bytes of a reason */

/* `freshet-chaos ctl SOCKET COMMAND...`: say one command, show the answer.  The result is the exit status. */
int chaos_ctl(int argc, char **argv);

/* ---- addresses (chaos_address.c) ---- */

#define ADDRESS_TEXT 180u

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } at;
    socklen_t size;
};

/* tcp:PORT, tcp:HOST:PORT, unix:PATH; without the word before the colon a '/' tells a path.  No host is 127.0.0.1. */
bool address_parse(const char *text, struct address *ret_address, char why[CHAOS_WHY_MOST]);
const char *address_text(const struct address *address, char buffer[ADDRESS_TEXT]);
bool address_is_unix(const struct address *address);

/* A place to listen at. */
struct address_socket {
    struct address address; /* with the port that was chosen for port 0 */
    int fd;                 /* -1: not listening */
    int holder;             /* TCP: bound and never listening, so that the port stays ours meanwhile; -1: none */
    dev_t device;           /* unix: the socket's file, to remove no other */
    ino_t inode;
};
/* Bind and be ready for listen().  The socket file of a process that is gone is replaced; nothing else is. */
bool address_bind(struct address_socket *socket, char why[CHAOS_WHY_MOST]);
/* Give the port back, remove the file if it is still ours.  `fd` is the caller's. */
void address_release(struct address_socket *socket);

/* ---- faults and commands (chaos_command.c) ---- */

enum way { WAY_UP, WAY_DOWN, WAYS }; /* client to server, server to client */
extern const char *const way_names[WAYS];

#define FAULT_NEVER UINT64_MAX

/* What is wrong with one direction. */
struct fault {
    uint64_t latency_ms, jitter_ms;
    uint64_t bandwidth; /* bytes a second; 0: as many as there are */
    uint64_t cut_after; /* bytes that are still let through; FAULT_NEVER */
    bool cut_resets;    /* by a reset rather than an orderly end */
    bool half_open, paused;
};

enum verb {
    VERB_LATENCY,
    VERB_BANDWIDTH,
    VERB_DROP,
    VERB_RESET,
    VERB_HALF_OPEN,
    VERB_PAUSE,
    VERB_RESUME,
    VERB_CLEAR,
    VERB_REFUSE,
    VERB_ACCEPT,
    VERB_STAT,
    VERB_LIST,
    VERB_HELP,
    VERB_QUIT
};

/* Whom a command concerns. */
enum which { WHICH_ALL, WHICH_OLD, WHICH_NEW, WHICH_NEXT, WHICH_CONN };

struct command {
    enum verb verb;
    bool ways[WAYS];
    bool off;
    uint64_t value, jitter_ms; /* in the verb's unit */
    enum which which;
    uint64_t number; /* next: how many; conn: its id */
    char text[80];   /* as it was said, in the standard order */
};

/* False: why not, and what to say instead. */
bool command_parse(const char *line, struct command *ret_command, char why[CHAOS_WHY_MOST]);
/* Change the faults of both directions. */
void command_apply(const struct command *command, struct fault faults[WAYS]);
const char *command_help(void); /* in one line */
/* A number with its unit ("64K", "2s"); `units` is "ms" or "bytes". */
bool command_number(const char *word, const char *units, uint64_t most, uint64_t *ret_number);
void fault_init(struct fault *fault);
void fault_json(struct json *json, const char *name, const struct fault *fault);

/* ---- the proxy (chaos_proxy.c) and its control socket (chaos_control.c) ---- */

struct uv_loop_s;
struct proxy;
struct control;

struct proxy_options {
    struct uv_loop_s *loop;
    struct address listen, target;
    uint64_t seed;
    size_t buffer;    /* bytes on their way in one direction of a connection, at most */
    uint64_t most;    /* connections */
    bool has_control; /* `control` is to be served */
    struct address control;
};

/* NULL: why. */
struct proxy *proxy_open(const struct proxy_options *options, char why[CHAOS_WHY_MOST]);
const struct address *proxy_address(const struct proxy *proxy);
/* Carry out one line; the answer is one line without its end, "OK ..." or "ERR ...", the caller's to free.  NULL: no
 * memory. */
char *proxy_command(struct proxy *proxy, const char *line, bool *ret_quit);
/* Close everything: the loop runs empty then. */
void proxy_stop(struct proxy *proxy);
/* Free what is left, after the loop has run empty.  A NULL is welcome. */
void proxy_close(struct proxy *proxy);

struct control *control_open(struct proxy *proxy, const struct proxy_options *options, void (*quit)(void *arg),
                             void *arg, char why[CHAOS_WHY_MOST]);
void control_stop(struct control *control);
void control_close(struct control *control);

#endif
