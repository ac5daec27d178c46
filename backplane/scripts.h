/* scripts.h - the Lua scripts, embedded at build (embed.py) out of the folder scripts, each with head.lua before it. */
#ifndef BACKPLANE_SCRIPTS_H
#define BACKPLANE_SCRIPTS_H

#include <stddef.h>

enum script {
    SCRIPT_CHANGE,
    SCRIPT_PUT,
    SCRIPT_TICKET,
    SCRIPT_FILL,
    SCRIPT_REPORT,
    SCRIPT_LEAVE,
    SCRIPT_GUARD,
    SCRIPT_HOLD,
    SCRIPT_WAIT,
    SCRIPT_LATEST,
    SCRIPT_ALL
};

struct script_text {
    const char *name;
    const char *text;
    size_t size;
    const char *sha1; /* hex, as EVALSHA wants it, computed at build */
};
extern const struct script_text script_texts[SCRIPT_ALL];

#endif
