/* pack.h - the table `struct` that scripts find in Redis: numbers and strings to bytes and back.  Leans on Lua. */
#ifndef SIM_PACK_H
#define SIM_PACK_H

#include <lua.h>
#include <stdint.h>

/* Push the table. */
void pack_push(lua_State *lua);
/* A double as a whole number, and where it is none what Redis's processors make of it. */
int64_t pack_integer(double number);

#endif
