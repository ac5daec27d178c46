/*
 * tool.h - what the commands of `freshet` share: the words of the command line, opening a tier, saying what went wrong.
 *
 * The tool knows the public headers only.  It looks at live tiers that belong to others, so it keeps one rule: looking
 * changes nothing.  No tier is made, and none is set aside, because somebody asked what is in it.
 */
#ifndef TOOLS_TOOL_H
#define TOOLS_TOOL_H

#include "json.h"
#include <freshet_fleet.h>
#include <signal.h>

/* The exit statuses, as the man page has them. */
enum tool_status {
    TOOL_DONE = 0,
    TOOL_NO_ENTRY = 1, /* no entry that may be served, or one that says the source has none */
    TOOL_USAGE = 2,
    TOOL_FAILED = 3,
    TOOL_QUEUED = 4, /* written down in the tier, not confirmed by Redis yet */
    TOOL_STALE = 5   /* the value was written, but its age could not be bounded */
};

/* The command line. */
struct tool {
    const char *name, *dir, *url, *keyring; /* NULL: not given */
    const char *like, *name_space;
    const char *tags[FRESHET_TAGS_MAX];
    int tags_count;
    bool json, hex, verbose, absent, repeat, quick, local, stale;
    bool any, latest, wait_hosts;
    uint32_t wait_replicas; /* 0: not given */
    const char *token;
    bool ttl_given;
    uint32_t ttl_ms, bound_ms, partitions, deadline_ms; /* 0: not given */
    uint64_t count;                                     /* 0: no end */
    char **args;                                        /* the command's words */
    int args_count;
    char scratch[256]; /* a temporary tier's directory; "" when there is none */
};

/* The commands, each in its file; the result is the exit status. */
int cmd_get(struct tool *tool);
int cmd_put(struct tool *tool);
int cmd_invalidate(struct tool *tool);
int cmd_clear(struct tool *tool);
int cmd_ls(struct tool *tool);
int cmd_stat(struct tool *tool);
int cmd_watch(struct tool *tool);
int cmd_keygen(struct tool *tool);
int cmd_bench(struct tool *tool);

/* ---- opening ---- */

enum tool_open {
    TOOL_LOOK = 0, /* an existing tier, as it is; joined to its fleet never */
    TOOL_JOIN = 1, /* joined when a url was given, on a temporary tier when there is none in the directory */
    TOOL_MAKE = 2  /* made when absent */
};
/* Open the tier that the command line names.  Anything but TOOL_DONE is the status to exit with; it has been told. */
int tool_open(struct tool *tool, unsigned how, freshet **ret_cache);
/* Close, and remove the temporary tier. */
void tool_close(struct tool *tool, freshet *cache);
/* The tier's directory as the command line has it. */
const char *tool_dir(const struct tool *tool, char *buffer, size_t size);
const char *tool_name(const struct tool *tool);
/* Is there a tier in the directory? */
bool tool_tier_exists(const struct tool *tool);

/* ---- saying ---- */

/* A sentence to stderr; with --json an object {"result", "error"} to stdout as well. Returns the status given. */
int tool_error(const struct tool *tool, int status, const char *result, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same for a call of the library that failed: its name, meaning and cause, and what the user can do about it. */
int tool_failed(const struct tool *tool, freshet_result result, const char *what);
/* A note to stderr. */
void tool_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "miss" for FRESHET_MISS; static storage of the calling thread. */
const char *tool_result(freshet_result result);
/* Nothing that was printed got lost?  Otherwise says so and returns TOOL_FAILED. */
int tool_flush(int status);

/* ---- words ---- */

/* A key from the command line: its text, or with --hex its bytes, decoded in place.  False: said why. */
bool tool_key(const struct tool *tool, char *word, freshet_key *ret_key);
/* The first `count` words of the command line as keys; NULL: said why.  Free it. */
freshet_key *tool_keys(const struct tool *tool, int count);
/* A key for people: printable text as it is, the rest as \xNN; hex with --hex. */
void tool_print_key(const struct tool *tool, FILE *out, const void *key, size_t size);
void tool_json_key(const struct tool *tool, struct json *json, const void *key, size_t size);
/* Microseconds of real time as 2026-01-31T23:59:59.123456Z; "-" for 0. */
#define TOOL_TIME_MAX 40
const char *tool_time(uint64_t us, char buffer[TOOL_TIME_MAX]);
/* 1234567 as 1,234,567. */
const char *tool_number(uint64_t number, char buffer[32]);

/* ---- a temporary directory, and being ended ---- */

/* Make an empty directory (mode 0700) on memory, else in TMPDIR. */
bool tool_scratch_make(char *path, size_t size);
void tool_scratch_remove(const char *path);

extern volatile sig_atomic_t tool_ended; /* SIGINT, SIGTERM or SIGHUP came, and tool_catch_signals was called before */
void tool_catch_signals(void);

#endif
