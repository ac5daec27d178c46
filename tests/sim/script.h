/* script.h - scripts: one Lua state in which each text is compiled once, for all servers.  Leans on call.h. */
#ifndef SIM_SCRIPT_H
#define SIM_SCRIPT_H

#include <call.h>

/* What EVAL, EVALSHA and SCRIPT do stands in commands.h; redis_lua_open and _close in redis.h. */
struct script {
    char sha1[41];
    int ref;         /* of the compiled text, in Lua's registry */
    unsigned number; /* its place in a server's list of what it knows */
    struct script *next;
    size_t size; /* of the text, which follows: met again, it is known without being hashed */
    char text[];
};

#endif
