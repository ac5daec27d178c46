/* pack.h - the table `struct` that scripts find in Redis: numbers and strings to bytes and back.  Leans on Lua. */
#ifndef SIM_PACK_H
#define SIM_PACK_H

#include <lua.h>

/* Push the table. */
void pack_push(lua_State *lua);

#endif
