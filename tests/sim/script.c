/*
 * script.c - EVAL, EVALSHA, SCRIPT, and what a script finds in Lua (script.h).
 *
 * A script sees KEYS, ARGV, redis, struct, bit and the harmless part of Lua's own library, all of it behind an
 * environment that can be read only: what one script does no other can see, so servers and worlds share one state.
 * There is no randomness, no clock, no file in it.
 */
#include <commands.h>
#include <pack.h>
#include <script.h>
#include <sha1.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 64u

/* Lua's memory: pieces of a few sizes, handed out again and again, which takes a quarter off a script's time. */
#define PIECE_STEP  16u
#define PIECE_KINDS 33u /* up to 512 bytes */
#define BLOCK_SIZE  65536u

struct memory {
    void *pieces[PIECE_KINDS]; /* free ones: each begins with the address of the next */
    void *blocks;              /* what they were cut from, chained likewise */
    char *at, *end;            /* the rest of the last block */
};

struct redis_lua {
    struct memory memory;
    lua_State *lua;
    struct script *scripts[BUCKETS]; /* by the first digits of their name */
    unsigned scripts_count;
    int environment, handler;   /* references */
    const struct call *call;    /* the one that runs a script at this moment */
    struct redis_reply scratch; /* what a script's command answers */
    const char **argv;
    size_t *sizes;
    int args_room;
};

/* ---- memory ---- */

static size_t piece_kind(size_t size)
{
    return (size + PIECE_STEP - 1) / PIECE_STEP;
}

static void *piece_take(struct memory *memory, size_t size)
{
    size_t kind = piece_kind(size);
    void *piece;

    if (kind >= PIECE_KINDS)
        return reply_grow(NULL, size);
    piece = memory->pieces[kind];
    if (piece) {
        memory->pieces[kind] = *(void **)piece;
        return piece;
    }
    if ((size_t)(memory->end - memory->at) < kind * PIECE_STEP) {
        char *block = reply_grow(NULL, BLOCK_SIZE);

        *(void **)(void *)block = memory->blocks;
        memory->blocks = block;
        memory->at = block + PIECE_STEP;
        memory->end = block + BLOCK_SIZE;
    }
    piece = memory->at;
    memory->at += kind * PIECE_STEP;
    return piece;
}

static void piece_give(struct memory *memory, void *piece, size_t size)
{
    size_t kind = piece_kind(size);

    if (kind >= PIECE_KINDS) {
        free(piece);
    } else if (piece) {
        *(void **)piece = memory->pieces[kind];
        memory->pieces[kind] = piece;
    }
}

/* What Lua calls for all of it: `size` 0 frees. */
static void *memory_alloc(void *arg, void *old, size_t old_size, size_t size)
{
    struct memory *memory = arg;
    void *piece = NULL;

    if (old && size > 0 && piece_kind(old_size) == piece_kind(size) && piece_kind(size) < PIECE_KINDS)
        return old;
    if (old && piece_kind(old_size) >= PIECE_KINDS && piece_kind(size) >= PIECE_KINDS)
        return reply_grow(old, size);
    if (size > 0)
        piece = piece_take(memory, size);
    if (piece && old)
        memcpy(piece, old, old_size < size ? old_size : size);
    if (old)
        piece_give(memory, old, old_size);
    return piece;
}

static void memory_fini(struct memory *memory)
{
    while (memory->blocks) {
        void *next = *(void **)memory->blocks;

        free(memory->blocks);
        memory->blocks = next;
    }
}

/* ---- replies become Lua ---- */

static const char *push_reply(lua_State *lua, const char *at);

static const char *push_array(lua_State *lua, const char *at, long long count)
{
    luaL_checkstack(lua, 4, "reply too deep");
    lua_createtable(lua, (int)count, 0);
    for (int i = 1; i <= count; i++) {
        at = push_reply(lua, at);
        lua_rawseti(lua, -2, i);
    }
    return at;
}

/* Push what stands at `at`, which we have written ourselves; returns where the next one stands. */
static const char *push_reply(lua_State *lua, const char *at)
{
    char type = *at++;
    const char *end = at;
    long long number;

    while (*end != '\r')
        end++;
    if (type == '+' || type == '-') {
        lua_createtable(lua, 0, 1);
        lua_pushlstring(lua, at, (size_t)(end - at));
        lua_setfield(lua, -2, type == '+' ? "ok" : "err");
        return end + 2;
    }
    number = strtoll(at, NULL, 10);
    at = end + 2;
    if (type == ':')
        lua_pushnumber(lua, (lua_Number)number);
    else if (number < 0)
        lua_pushboolean(lua, 0);
    else if (type == '*')
        at = push_array(lua, at, number);
    else {
        lua_pushlstring(lua, at, (size_t)number);
        at += number + 2;
    }
    return at;
}

/* ---- Lua becomes a reply ---- */

/* The table's field as a status or an error, when there is one of this name. */
static bool reply_field(lua_State *lua, struct redis_reply *reply, const char *name)
{
    size_t size;
    const char *text;
    bool found;

    lua_pushstring(lua, name);
    lua_rawget(lua, -2);
    found = lua_type(lua, -1) == LUA_TSTRING;
    if (found) {
        text = lua_tolstring(lua, -1, &size);
        reply_error_bytes(reply, text, size);
        if (name[0] == 'o')
            reply->bytes[reply->size - size - 3] = '+';
    }
    lua_pop(lua, 1);
    return found;
}

static void reply_value(lua_State *lua, struct redis_reply *reply);

static void reply_table(lua_State *lua, struct redis_reply *reply)
{
    int count = 0;

    if (reply_field(lua, reply, "err") || reply_field(lua, reply, "ok"))
        return;
    for (;; count++) {
        lua_rawgeti(lua, -1, count + 1);
        if (lua_isnil(lua, -1))
            break;
        lua_pop(lua, 1);
    }
    lua_pop(lua, 1);
    reply_array(reply, (size_t)count);
    for (int i = 1; i <= count; i++) {
        lua_rawgeti(lua, -1, i);
        reply_value(lua, reply);
        lua_pop(lua, 1);
    }
}

/* The value on top of the stack, which stays there. */
static void reply_value(lua_State *lua, struct redis_reply *reply)
{
    size_t size;
    const char *text;

    switch (lua_type(lua, -1)) {
    case LUA_TSTRING:
        text = lua_tolstring(lua, -1, &size);
        reply_bulk(reply, text, size);
        break;
    case LUA_TNUMBER:
        reply_integer(reply, pack_integer(lua_tonumber(lua, -1)));
        break;
    case LUA_TBOOLEAN:
        if (lua_toboolean(lua, -1))
            reply_integer(reply, 1);
        else
            reply_nil(reply);
        break;
    case LUA_TTABLE:
        if (!lua_checkstack(lua, 4)) {
            reply_error(reply, "ERR reached lua stack limit");
            break;
        }
        reply_table(lua, reply);
        break;
    default:
        reply_nil(reply);
    }
}

/* ---- the table `redis` ---- */

static struct redis_lua *engine_of(lua_State *lua)
{
    return lua_touserdata(lua, lua_upvalueindex(1));
}

/* The arguments as a command's words; NULL: good, else what is wrong. */
static const char *take_args(struct redis_lua *engine, lua_State *lua, int argc)
{
    char text[40];

    if (argc == 0)
        return "ERR Please specify at least one argument for this redis lib call";
    if (argc > engine->args_room) {
        engine->args_room = argc * 2;
        engine->argv = reply_grow(engine->argv, (size_t)engine->args_room * sizeof *engine->argv);
        engine->sizes = reply_grow(engine->sizes, (size_t)engine->args_room * sizeof *engine->sizes);
    }
    for (int i = 1; i <= argc; i++) {
        if (lua_type(lua, i) == LUA_TNUMBER) { /* not as Lua prints it, which is shorter than a double */
            lua_pushlstring(lua, text, (size_t)snprintf(text, sizeof text, "%.17g", lua_tonumber(lua, i)));
            lua_replace(lua, i);
        } else if (lua_type(lua, i) != LUA_TSTRING) {
            return "ERR Lua redis lib command arguments must be strings or integers";
        }
        engine->argv[i - 1] = lua_tolstring(lua, i, &engine->sizes[i - 1]);
    }
    return NULL;
}

/* redis.call and redis.pcall; the second upvalue says which. */
static int redis_table_call(lua_State *lua)
{
    struct redis_lua *engine = engine_of(lua);
    int argc = lua_gettop(lua);
    const char *wrong = take_args(engine, lua, argc);
    const struct call *outer = engine->call;

    engine->scratch.size = 0;
    if (wrong) {
        reply_error(&engine->scratch, "%s", wrong);
    } else {
        struct call call = {.server = outer->server,
                            .client = outer->client,
                            .reply = &engine->scratch,
                            .now_us = outer->now_us,
                            .now_ms = outer->now_ms,
                            .script = true,
                            .full = outer->full,
                            .argc = argc,
                            .argv = engine->argv,
                            .sizes = engine->sizes};

        command_run_script(&call);
    }
    (void)push_reply(lua, engine->scratch.bytes);
    if (reply_is_error(&engine->scratch) && lua_toboolean(lua, lua_upvalueindex(2)))
        return lua_error(lua);
    return 1;
}

static int single_field(lua_State *lua, const char *name)
{
    const char *text = NULL;
    size_t size = 0;

    if (lua_gettop(lua) == 1 && lua_type(lua, 1) == LUA_TSTRING)
        text = lua_tolstring(lua, 1, &size);
    lua_createtable(lua, 0, 1);
    if (!text) {
        lua_pushstring(lua, "ERR wrong number or type of arguments");
        name = "err";
    } else {
        bool dash = name[0] == 'e' && size > 0 && text[0] == '-';

        lua_pushlstring(lua, text + dash, size - dash);
    }
    lua_setfield(lua, -2, name);
    return 1;
}

static int redis_table_error_reply(lua_State *lua)
{
    return single_field(lua, "err");
}

static int redis_table_status_reply(lua_State *lua)
{
    return single_field(lua, "ok");
}

static int redis_table_sha1hex(lua_State *lua)
{
    char hex[SHA1_HEX_SIZE + 1];
    size_t size;
    const char *text;

    if (lua_gettop(lua) != 1) {
        lua_createtable(lua, 0, 1);
        lua_pushstring(lua, "ERR wrong number of arguments");
        lua_setfield(lua, -2, "err");
        return lua_error(lua);
    }
    text = lua_tolstring(lua, 1, &size);
    sha1_hex(text ? text : "", text ? size : 0, hex);
    lua_pushstring(lua, hex);
    return 1;
}

static int redis_table_log(lua_State *lua)
{
    (void)lua;
    return 0;
}

static void push_redis(struct redis_lua *engine)
{
    static const struct {
        const char *name;
        lua_CFunction fn;
        bool raises;
    } functions[] = {{"call", redis_table_call, true},
                     {"pcall", redis_table_call, false},
                     {"error_reply", redis_table_error_reply, false},
                     {"status_reply", redis_table_status_reply, false},
                     {"sha1hex", redis_table_sha1hex, false},
                     {"log", redis_table_log, false}};
    static const char *const levels[] = {"LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING"};
    lua_State *lua = engine->lua;

    lua_createtable(lua, 0, 12);
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        lua_pushlightuserdata(lua, engine);
        lua_pushboolean(lua, functions[i].raises);
        lua_pushcclosure(lua, functions[i].fn, 2);
        lua_setfield(lua, -2, functions[i].name);
    }
    for (int i = 0; i < 4; i++) {
        lua_pushinteger(lua, i);
        lua_setfield(lua, -2, levels[i]);
    }
    lua_pushstring(lua, "7.0.15");
    lua_setfield(lua, -2, "REDIS_VERSION");
    lua_pushinteger(lua, 0x0007000f);
    lua_setfield(lua, -2, "REDIS_VERSION_NUM");
}

/* ---- the table `bit`: 32 bits, as signed numbers ---- */

static uint32_t bit_arg(lua_State *lua, int arg)
{
    return (uint32_t)pack_integer(luaL_checknumber(lua, arg));
}

static int bit_push(lua_State *lua, uint32_t bits)
{
    lua_pushnumber(lua, (lua_Number)(int32_t)bits);
    return 1;
}

static int bit_fold(lua_State *lua, uint32_t (*fn)(uint32_t a, uint32_t b))
{
    uint32_t bits = bit_arg(lua, 1);

    for (int i = 2; i <= lua_gettop(lua); i++)
        bits = fn(bits, bit_arg(lua, i));
    return bit_push(lua, bits);
}

static uint32_t and_bits(uint32_t a, uint32_t b)
{
    return a & b;
}

static uint32_t or_bits(uint32_t a, uint32_t b)
{
    return a | b;
}

static uint32_t xor_bits(uint32_t a, uint32_t b)
{
    return a ^ b;
}

static int bit_band(lua_State *lua)
{
    return bit_fold(lua, and_bits);
}

static int bit_bor(lua_State *lua)
{
    return bit_fold(lua, or_bits);
}

static int bit_bxor(lua_State *lua)
{
    return bit_fold(lua, xor_bits);
}

static int bit_bnot(lua_State *lua)
{
    return bit_push(lua, ~bit_arg(lua, 1));
}

static int bit_tobit(lua_State *lua)
{
    return bit_push(lua, bit_arg(lua, 1));
}

static int bit_lshift(lua_State *lua)
{
    return bit_push(lua, bit_arg(lua, 1) << (bit_arg(lua, 2) & 31));
}

static int bit_rshift(lua_State *lua)
{
    return bit_push(lua, bit_arg(lua, 1) >> (bit_arg(lua, 2) & 31));
}

static void push_bit(lua_State *lua)
{
    static const luaL_Reg functions[] = {{"band", bit_band},     {"bor", bit_bor},     {"bxor", bit_bxor},
                                         {"bnot", bit_bnot},     {"tobit", bit_tobit}, {"lshift", bit_lshift},
                                         {"rshift", bit_rshift}, {NULL, NULL}};

    lua_newtable(lua);
    for (const luaL_Reg *one = functions; one->name; one++) {
        lua_pushcfunction(lua, one->func);
        lua_setfield(lua, -2, one->name);
    }
}

/* ---- the environment ---- */

static int environment_unknown(lua_State *lua)
{
    return luaL_error(lua, "Script attempted to access nonexistent global variable '%s'",
                      lua_tostring(lua, 2) ? lua_tostring(lua, 2) : "?");
}

static int environment_read_only(lua_State *lua)
{
    return luaL_error(lua, "Attempt to modify a readonly table");
}

/* Redis's pcall: an error that is a table with `err` comes out as that text. */
static int environment_pcall(lua_State *lua)
{
    luaL_checkany(lua, 1);
    if (lua_pcall(lua, lua_gettop(lua) - 1, LUA_MULTRET, 0) == 0) {
        lua_pushboolean(lua, 1);
        lua_insert(lua, 1);
        return lua_gettop(lua);
    }
    if (lua_istable(lua, -1)) {
        lua_getfield(lua, -1, "err");
        if (lua_isstring(lua, -1))
            lua_replace(lua, -2);
        else
            lua_pop(lua, 1);
    }
    lua_pushboolean(lua, 0);
    lua_insert(lua, -2);
    return 2;
}

/* Make the table on top one that can be read through but not written to. */
static void guard_table(lua_State *lua, lua_CFunction missing)
{
    lua_newtable(lua); /* the one in front: empty */
    lua_createtable(lua, 0, 3);
    if (missing) { /* its own library answers first, then the complaint */
        lua_createtable(lua, 0, 1);
        lua_pushcfunction(lua, missing);
        lua_setfield(lua, -2, "__index");
        lua_setmetatable(lua, -4);
    }
    lua_pushvalue(lua, -3);
    lua_setfield(lua, -2, "__index");
    lua_pushcfunction(lua, environment_read_only);
    lua_setfield(lua, -2, "__newindex");
    lua_pushboolean(lua, 0);
    lua_setfield(lua, -2, "__metatable");
    lua_setmetatable(lua, -2);
    lua_remove(lua, -2);
}

/* What Lua's own tables offer, less what would let a script be told apart from another's run. */
static void push_library(lua_State *lua, const char *name)
{
    lua_getglobal(lua, name);
    if (strcmp(name, "math") == 0) {
        lua_pushnil(lua);
        lua_setfield(lua, -2, "random");
        lua_pushnil(lua);
        lua_setfield(lua, -2, "randomseed");
    }
    guard_table(lua, NULL);
}

static void make_environment(struct redis_lua *engine)
{
    static const char *const plain[] = {"assert",   "error",  "getmetatable", "ipairs",       "next",     "pairs",
                                        "rawequal", "rawget", "select",       "setmetatable", "tonumber", "tostring",
                                        "type",     "unpack", "xpcall",       "_VERSION"};
    static const char *const libraries[] = {"string", "table", "math"};
    lua_State *lua = engine->lua;

    lua_newtable(lua);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        lua_getglobal(lua, plain[i]);
        lua_setfield(lua, -2, plain[i]);
    }
    lua_pushcfunction(lua, environment_pcall);
    lua_setfield(lua, -2, "pcall");
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        push_library(lua, libraries[i]);
        lua_setfield(lua, -2, libraries[i]);
    }
    push_redis(engine);
    guard_table(lua, NULL);
    lua_setfield(lua, -2, "redis");
    pack_push(lua);
    guard_table(lua, NULL);
    lua_setfield(lua, -2, "struct");
    push_bit(lua);
    guard_table(lua, NULL);
    lua_setfield(lua, -2, "bit");
    guard_table(lua, environment_unknown);
    engine->environment = luaL_ref(lua, LUA_REGISTRYINDEX);
}

/* An error on its way out: make a table of it, and note where in the script it happened. */
static int error_handler(lua_State *lua)
{
    lua_Debug where;
    bool known = lua_getstack(lua, 1, &where) && lua_getinfo(lua, "Sl", &where);

    if (known && where.what[0] == 'C')
        known = lua_getstack(lua, 2, &where) && lua_getinfo(lua, "Sl", &where);
    if (!lua_istable(lua, 1)) {
        lua_createtable(lua, 0, 3);
        lua_pushstring(lua, "ERR ");
        if (lua_isstring(lua, 1))
            lua_pushvalue(lua, 1);
        else
            lua_pushstring(lua, lua_isnil(lua, 1) ? "nil" : lua_toboolean(lua, 1) ? "true" : "false");
        lua_concat(lua, 2);
        lua_setfield(lua, -2, "err");
        lua_replace(lua, 1);
    }
    lua_settop(lua, 1);
    if (known) {
        lua_pushstring(lua, where.source);
        lua_setfield(lua, 1, "source");
        lua_pushinteger(lua, where.currentline);
        lua_setfield(lua, 1, "line");
    }
    return 1;
}

struct redis_lua *redis_lua_open(void)
{
    static const luaL_Reg libraries[] = {
        {"", luaopen_base}, {"string", luaopen_string}, {"table", luaopen_table}, {"math", luaopen_math}, {NULL, NULL}};
    struct redis_lua *engine = reply_alloc(sizeof *engine);

    engine->lua = lua_newstate(memory_alloc, &engine->memory);
    if (!engine->lua)
        abort();
    for (const luaL_Reg *one = libraries; one->name; one++) {
        lua_pushcfunction(engine->lua, one->func);
        lua_pushstring(engine->lua, one->name);
        lua_call(engine->lua, 1, 0);
    }
    make_environment(engine);
    lua_pushcfunction(engine->lua, error_handler);
    engine->handler = luaL_ref(engine->lua, LUA_REGISTRYINDEX);
    return engine;
}

void redis_lua_hoard(struct redis_lua *lua)
{
    (void)lua_gc(lua->lua, LUA_GCSTOP, 0);
}

void redis_lua_close(struct redis_lua *engine)
{
    if (!engine)
        return;
    for (unsigned i = 0; i < BUCKETS; i++) {
        while (engine->scripts[i]) {
            struct script *next = engine->scripts[i]->next;

            free(engine->scripts[i]);
            engine->scripts[i] = next;
        }
    }
    lua_close(engine->lua);
    memory_fini(&engine->memory);
    redis_reply_free(&engine->scratch);
    free(engine->argv);
    free(engine->sizes);
    free(engine);
}

/* ---- scripts ---- */

static struct script **script_bucket(struct redis_lua *engine, const char *sha1)
{
    return &engine->scripts[((unsigned char)sha1[0] * 31u + (unsigned char)sha1[1]) % BUCKETS];
}

static struct script *script_find(struct redis_lua *engine, const char *sha1)
{
    for (struct script *script = *script_bucket(engine, sha1); script; script = script->next)
        if (memcmp(script->sha1, sha1, SHA1_HEX_SIZE) == 0)
            return script;
    return NULL;
}

static bool script_known(const struct redis_server *server, const struct script *script)
{
    return script && script->number < server->scripts_count && server->scripts[script->number];
}

static void script_learn(struct redis_server *server, const struct script *script)
{
    if (script->number >= server->scripts_count) {
        size_t count = script->number + 16;

        server->scripts = reply_grow(server->scripts, count * sizeof *server->scripts);
        memset(server->scripts + server->scripts_count, 0, (count - server->scripts_count) * sizeof *server->scripts);
        server->scripts_count = count;
    }
    server->scripts[script->number] = true;
}

static struct script *script_of_text(const struct redis_lua *engine, const char *text, size_t size)
{
    for (unsigned i = 0; i < BUCKETS; i++)
        for (struct script *script = engine->scripts[i]; script; script = script->next)
            if (script->size == size && memcmp(script->text, text, size) == 0)
                return script;
    return NULL;
}

/* The text compiled, now or before; NULL: it does not compile, which was replied. */
static struct script *script_compile(struct call *call, const char *text, size_t size)
{
    struct redis_lua *engine = call->server->world->lua;
    char sha1[SHA1_HEX_SIZE + 1];
    struct script *script = script_of_text(engine, text, size), **bucket;

    if (!script) {
        sha1_hex(text, size, sha1);
        if (luaL_loadbuffer(engine->lua, text, size, "@user_script") != 0) {
            reply_error(call->reply, "ERR Error compiling script (new function): %s", lua_tostring(engine->lua, -1));
            lua_settop(engine->lua, 0);
            return NULL;
        }
        lua_rawgeti(engine->lua, LUA_REGISTRYINDEX, engine->environment);
        lua_setfenv(engine->lua, -2);
        script = reply_alloc(sizeof *script + size);
        memcpy(script->sha1, sha1, sizeof sha1);
        memcpy(script->text, text, size);
        script->size = size;
        script->number = engine->scripts_count++;
        script->ref = luaL_ref(engine->lua, LUA_REGISTRYINDEX);
        bucket = script_bucket(engine, sha1);
        script->next = *bucket;
        *bucket = script;
    }
    script_learn(call->server, script);
    return script;
}

/* KEYS or ARGV, past the environment's guard. */
static void set_words(lua_State *lua, int environment, const char *name, struct call *call, int first, int count)
{
    lua_pushstring(lua, name);
    lua_createtable(lua, count, 0);
    for (int i = 0; i < count; i++) {
        lua_pushlstring(lua, call->argv[first + i], call->sizes[first + i]);
        lua_rawseti(lua, -2, i + 1);
    }
    lua_rawset(lua, environment);
}

/* "WHAT it says script: SHA1, on @user_script:LINE." */
static void reply_failure(struct call *call, lua_State *lua, const struct script *script)
{
    struct redis_reply text = {0};
    const char *source;
    char where[120];
    size_t size;
    const char *message;
    int length;

    if (!lua_istable(lua, -1)) { /* the handler itself failed */
        reply_error(call->reply, "ERR unknown error script: %s", script->sha1);
        return;
    }
    lua_getfield(lua, -1, "err");
    message = lua_tolstring(lua, -1, &size);
    reply_add(&text, message ? message : "ERR unknown error", message ? size : 17);
    lua_getfield(lua, -2, "source");
    lua_getfield(lua, -3, "line");
    source = lua_tostring(lua, -2);
    length = source ? snprintf(where, sizeof where, " script: %s, on %s:%d.", script->sha1, source,
                               (int)lua_tointeger(lua, -1))
                    : snprintf(where, sizeof where, " script: %s", script->sha1);
    reply_add(&text, where, (size_t)length);
    reply_error_bytes(call->reply, text.bytes, text.size);
    redis_reply_free(&text);
}

static void script_run(struct call *call, const struct script *script, int keys)
{
    struct redis_lua *engine = call->server->world->lua;
    lua_State *lua = engine->lua;

    call->full = call->server->full;
    engine->call = call;
    lua_settop(lua, 0);
    lua_rawgeti(lua, LUA_REGISTRYINDEX, engine->handler);
    lua_rawgeti(lua, LUA_REGISTRYINDEX, engine->environment);
    set_words(lua, 2, "KEYS", call, 3, keys);
    set_words(lua, 2, "ARGV", call, 3 + keys, call->argc - 3 - keys);
    lua_settop(lua, 1);
    lua_rawgeti(lua, LUA_REGISTRYINDEX, script->ref);
    if (lua_pcall(lua, 0, 1, 1) == 0)
        reply_value(lua, call->reply);
    else
        reply_failure(call, lua, script);
    lua_settop(lua, 0);
    engine->call = NULL;
}

void command_eval(struct call *call)
{
    bool by_name = call->command->name[4] != '\0'; /* EVALSHA */
    struct script *script = NULL;
    char sha1[SHA1_HEX_SIZE + 1] = "";
    long long keys;

    if (by_name && call->sizes[1] != SHA1_HEX_SIZE) {
        reply_error(call->reply, "NOSCRIPT No matching script. Please use EVAL.");
        return;
    }
    if (!call_integer(call, 2, &keys))
        return;
    if (keys > call->argc - 3) {
        reply_error(call->reply, "ERR Number of keys can't be greater than number of args");
        return;
    }
    if (keys < 0) {
        reply_error(call->reply, "ERR Number of keys can't be negative");
        return;
    }
    if (by_name) {
        for (size_t i = 0; i < SHA1_HEX_SIZE; i++)
            sha1[i] = (char)tolower((unsigned char)call->argv[1][i]);
        script = script_find(call->server->world->lua, sha1);
        if (!script_known(call->server, script)) {
            reply_error(call->reply, "NOSCRIPT No matching script. Please use EVAL.");
            return;
        }
    } else {
        script = script_compile(call, call->argv[1], call->sizes[1]);
    }
    if (script)
        script_run(call, script, (int)keys);
}

void command_script(struct call *call)
{
    struct redis_server *server = call->server;

    if (call_is(call, 1, "LOAD") && call->argc == 3) {
        struct script *script = script_compile(call, call->argv[2], call->sizes[2]);

        if (script)
            reply_text(call->reply, script->sha1);
    } else if (call_is(call, 1, "EXISTS") && call->argc >= 3) {
        reply_array(call->reply, (size_t)call->argc - 2);
        for (int i = 2; i < call->argc; i++)
            reply_integer(call->reply, call->sizes[i] == SHA1_HEX_SIZE &&
                                           script_known(server, script_find(server->world->lua, call->argv[i])));
    } else if (call_is(call, 1, "FLUSH")) {
        if (server->scripts_count)
            memset(server->scripts, 0, server->scripts_count * sizeof *server->scripts);
        reply_status(call->reply, "OK");
    } else {
        reply_error(call->reply, "ERR unknown subcommand '%.*s'. Try SCRIPT HELP.", call_width(call, 1), call->argv[1]);
    }
}
