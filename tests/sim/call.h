/*
 * call.h - one command on its way through a server: what the files of commands share.  Leans on keys.h, reply.h.
 *
 * A command of a client and one of a script are the same function; what differs stands in struct call.  A command that
 * changed something says so with call_wrote, and its own words (or better ones, in which no clock is asked any more) go
 * to the replicas.
 */
#ifndef SIM_CALL_H
#define SIM_CALL_H

#include <keys.h>

struct client {
    uint64_t id;
    char *name;
    uint64_t seen_offset; /* what WAIT waits for: the offset after its last command */
    char **channels;
    size_t *channel_sizes;
    size_t channels_count;
};

struct transaction {
    uint64_t offset; /* after it */
    struct redis_reply bytes;
};

struct redis_server {
    struct redis_world *world;
    struct redis_server *next; /* in the world */
    unsigned number;
    int64_t offset_us; /* its clock's */
    bool full;
    char policy[32];
    char maxmemory[24];
    struct keys keys;
    char replid[REDIS_REPLID_SIZE + 1], replid2[REDIS_REPLID_SIZE + 1];
    uint64_t offset;
    int64_t offset2; /* -1: none */
    bool had_replicas;
    struct redis_server *master; /* NULL: is one itself */
    uint64_t acked;              /* of a replica: how far its master knows it to be */
    struct transaction *log;     /* what some replica may lack */
    size_t log_count, log_room;
    struct redis_reply pending; /* the transaction that is being made */
    bool wrote;                 /* there is one, though nobody may be there to be told */
    struct client **clients;
    size_t clients_count, clients_room;
    bool *scripts; /* by number: known to this server */
    size_t scripts_count;
    struct keys saved;
    bool has_saved;
    uint64_t saved_offset;
    char saved_replid[REDIS_REPLID_SIZE + 1];
};

struct redis_world {
    struct redis_lua *lua;
    struct redis_hooks hooks;
    uint64_t random;
    struct redis_server *servers;
    unsigned servers_count;
};

struct command;
struct call {
    struct redis_server *server;
    struct client *client; /* NULL: the master's stream, or the world itself */
    struct redis_reply *reply;
    int64_t now_us;
    int64_t now_ms;
    bool script;  /* called by one */
    bool applies; /* the master's transaction on a replica: nothing expires, everything is allowed */
    bool full;    /* there was no memory when the script began */
    bool told;    /* call_tell was called: no need for the command's own words */
    bool wrote;   /* it changed something */
    const struct command *command;
    int argc;
    const char *const *argv;
    const size_t *sizes;
};

/* ---- the table ---- */

enum command_flags {
    COMMAND_WRITE = 1,
    COMMAND_GROWS = 2,     /* refused when there is no memory */
    COMMAND_NO_SCRIPT = 4, /* not from one */
    COMMAND_LISTENS = 8,   /* a client that has subscribed may */
};

struct command {
    const char *name; /* lower case; the table is sorted */
    void (*run)(struct call *call);
    int arity; /* with the name; negative: at least */
    unsigned flags;
};
extern const struct command command_table[];
extern const size_t command_table_size;
const struct command *command_find(const char *name, size_t size);
/* Run a client's command, judged first; the reply goes to call->reply. */
void command_run(struct call *call);
/* The same for a script's, whose errors read otherwise. */
void command_run_script(struct call *call);
/* Run it without a judgement. */
void command_do(struct call *call, const struct command *command);

/* ---- what commands need ---- */

/* The value, or NULL when there is none or it has expired. */
struct entry *call_find(struct call *call, int arg);
/* The same, but another type is an error: replies, and returns false. */
bool call_find_type(struct call *call, int arg, enum value_type type, struct entry **ret_entry);
/* Is argument `arg` this word, whatever the case? */
bool call_is(const struct call *call, int arg, const char *word);
/* A whole number as Redis takes it; else replies with the usual error and returns false. */
bool call_integer(struct call *call, int arg, long long *ret_number);
bool call_parse(const char *bytes, size_t size, long long *ret_number); /* no reply */
/* How much of an argument an error shows: at most 128 bytes. */
int call_width(const struct call *call, int arg);
void call_syntax_error(struct call *call);
void call_wrote(struct call *call);
/* The words for the replicas instead of the command's own. */
void call_tell(struct call *call, int argc, const char *const *argv, const size_t *sizes);
void call_tell_text(struct call *call, const char *first, const char *key, size_t key_size); /* "UNLINK" key */
/* Delete it and say so to the replicas, beside the command's own words. */
void call_expire(struct call *call, struct entry *entry);
void call_publish(struct call *call, const char *channel, size_t size, const char *message, size_t message_size);
/* A time to expire out of argument `arg`, in ms since 1970; false: replied. */
bool call_expiry(struct call *call, int arg, bool seconds, bool relative, int64_t *ret_ms);

struct client *server_client(struct redis_server *server, uint64_t id);
void server_forget_client(struct redis_server *server, size_t index, bool hang_up);
/* End the transaction: number it, keep it for the replicas. */
void server_commit(struct redis_server *server);
void server_draw_replid(struct redis_server *server);
unsigned server_replicas(const struct redis_server *server);

#endif
