/*
 * pack.c - `struct` for scripts (pack.h), as far as a format says one of
 *
 *     > < =        big, little, this machine's order (at first: this machine's)
 *     b B h H i I l L T   whole numbers of 1, 2, 4, 8 bytes, signed and unsigned; iN, IN: of N bytes
 *     f d          floating point
 *     s            a string with a NUL behind it
 *     cN           N bytes; c0: the whole string, and for unpack as many as the number before it says
 *     x            a byte of no meaning
 *
 * Numbers are doubles on their way through, as in Redis: above 2^53 they lose their last bits here too.
 */
#include <pack.h>

#include <lauxlib.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define NUMBER_MOST 32u

struct format {
    lua_State *lua;
    const char *at;
    bool little;
};

struct item {
    char type; /* 'i' signed, 'I' unsigned, 'f', 'd', 's', 'c', 'x'; 0: the end */
    size_t size;
};

static const uint16_t order_probe = 1;

static bool machine_little(void)
{
    return *(const uint8_t *)&order_probe == 1;
}

static size_t format_number(struct format *format, size_t usual)
{
    size_t number = 0;

    if (*format->at < '0' || *format->at > '9')
        return usual;
    while (*format->at >= '0' && *format->at <= '9') {
        number = number * 10 + (size_t)(*format->at++ - '0');
        if (number > INT32_MAX)
            luaL_error(format->lua, "integral size overflow");
    }
    return number;
}

/* The next item of the format. */
static struct item format_next(struct format *format)
{
    static const char sized[] = "bBhHlLT";
    static const uint8_t sizes[] = {1, 1, 2, 2, 8, 8, 8};
    struct item item = {0};

    while (*format->at) {
        char c = *format->at++;
        const char *known = strchr(sized, c);

        if (c == '>' || c == '<' || c == '=' || c == ' ') {
            if (c != ' ')
                format->little = c == '=' ? machine_little() : c == '<';
            continue;
        }
        if (known)
            return (struct item){.type = c >= 'a' ? 'i' : 'I', .size = sizes[known - sized]};
        item.type = c;
        if (c == 'i' || c == 'I') {
            item.size = format_number(format, 4);
            if (item.size > NUMBER_MOST)
                luaL_error(format->lua, "integral size %d is larger than limit of %d", (int)item.size, NUMBER_MOST);
        } else if (c == 'c') {
            item.size = format_number(format, 1);
        } else if (c == 'f' || c == 'd') {
            item.size = c == 'f' ? 4 : 8;
        } else if (c == 'x') {
            item.size = 1;
        } else if (c != 's') {
            luaL_argerror(format->lua, 1, lua_pushfstring(format->lua, "invalid format option '%c'", c));
        }
        return item;
    }
    return item;
}

int64_t pack_integer(double number)
{
    return number >= -0x1p63 && number < 0x1p63 ? (int64_t)number : INT64_MIN; /* also what is not a number */
}

static uint64_t pack_bits(double number)
{
    if (number >= 0x1p63)
        return number < 0x1p64 ? (uint64_t)number : 0;
    return (uint64_t)pack_integer(number);
}

static void add_number(struct format *format, luaL_Buffer *buffer, size_t size, double number)
{
    uint64_t bits = pack_bits(number);
    uint8_t bytes[NUMBER_MOST] = {0};

    for (size_t i = 0; i < size; i++)
        bytes[format->little ? i : size - 1 - i] = (uint8_t)(i < 8 ? bits >> (8 * i) : 0);
    luaL_addlstring(buffer, (const char *)bytes, size);
}

static void add_float(struct format *format, luaL_Buffer *buffer, size_t size, double number)
{
    float single = (float)number;
    uint8_t bytes[8], turned[8];

    memcpy(bytes, size == 4 ? (const void *)&single : &number, size);
    for (size_t i = 0; i < size; i++)
        turned[i] = bytes[format->little == machine_little() ? i : size - 1 - i];
    luaL_addlstring(buffer, (const char *)turned, size);
}

static void add_string(struct format *format, luaL_Buffer *buffer, const struct item *item, int arg)
{
    size_t size;
    const char *bytes = luaL_checklstring(format->lua, arg, &size);
    size_t wanted = item->type == 's' || item->size == 0 ? size : item->size;

    luaL_argcheck(format->lua, size >= wanted, arg + 1, "string too short"); /* it counts on first */
    luaL_addlstring(buffer, bytes, wanted);
    if (item->type == 's')
        luaL_addchar(buffer, '\0');
}

static int pack_pack(lua_State *lua)
{
    struct format format = {.lua = lua, .at = luaL_checkstring(lua, 1), .little = machine_little()};
    struct item item;
    luaL_Buffer buffer;
    int arg = 2;

    lua_pushnil(lua); /* stands between the arguments and what the buffer keeps on the stack */
    luaL_buffinit(lua, &buffer);
    while ((item = format_next(&format)).type) {
        if (item.type == 'x')
            luaL_addchar(&buffer, '\0');
        else if (item.type == 'i' || item.type == 'I')
            add_number(&format, &buffer, item.size, luaL_checknumber(lua, arg++));
        else if (item.type == 'f' || item.type == 'd')
            add_float(&format, &buffer, item.size, luaL_checknumber(lua, arg++));
        else
            add_string(&format, &buffer, &item, arg++);
    }
    luaL_pushresult(&buffer);
    return 1;
}

static double take_number(const struct format *format, const uint8_t *bytes, const struct item *item)
{
    uint64_t bits = 0;
    unsigned width = item->size < 8 ? (unsigned)item->size * 8 : 64;

    for (size_t i = 0; i < item->size && i < 8; i++)
        bits |= (uint64_t)bytes[format->little ? i : item->size - 1 - i] << (8 * i);
    if (item->type == 'I')
        return (double)bits;
    if (width < 64 && width > 0 && bits >> (width - 1) & 1)
        bits |= ~UINT64_C(0) << width;
    return (double)(int64_t)bits;
}

static double take_float(const struct format *format, const uint8_t *bytes, size_t size)
{
    uint8_t turned[8];
    double number;
    float single;

    for (size_t i = 0; i < size; i++)
        turned[i] = bytes[format->little == machine_little() ? i : size - 1 - i];
    if (size == 8) {
        memcpy(&number, turned, 8);
        return number;
    }
    memcpy(&single, turned, 4);
    return single;
}

/* The length that the number before a "c0" has told: it is taken off the results. */
static size_t told_size(lua_State *lua, int *results)
{
    size_t size;

    if (*results == 0 || !lua_isnumber(lua, -1))
        luaL_error(lua, "format 'c0' needs a previous size");
    size = (size_t)pack_bits(lua_tonumber(lua, -1));
    lua_pop(lua, 1);
    --*results;
    return size;
}

static void need(lua_State *lua, size_t at, size_t wanted, size_t size)
{
    luaL_argcheck(lua, wanted <= size && at <= size - wanted, 2, "data string too short");
}

static int pack_unpack(lua_State *lua)
{
    size_t size, at;
    struct format format = {.lua = lua, .at = luaL_checkstring(lua, 1), .little = machine_little()};
    const char *bytes = luaL_checklstring(lua, 2, &size);
    lua_Integer position = luaL_optinteger(lua, 3, 1);
    struct item item;
    int results = 0;

    luaL_argcheck(lua, position > 0, 3, "offset must be 1 or greater");
    at = (size_t)position - 1;
    while ((item = format_next(&format)).type) {
        const uint8_t *from = (const uint8_t *)bytes + at;

        luaL_checkstack(lua, 2, "too many results");
        if (item.type == 's') {
            const char *end = at < size ? memchr(bytes + at, '\0', size - at) : NULL;

            if (!end)
                luaL_error(lua, "unfinished string in data");
            item.size = (size_t)(end - (bytes + at)) + 1;
            lua_pushlstring(lua, bytes + at, item.size - 1);
        } else {
            if (item.type == 'c' && item.size == 0)
                item.size = told_size(lua, &results);
            need(lua, at, item.size, size);
            if (item.type == 'c')
                lua_pushlstring(lua, bytes + at, item.size);
            else if (item.type == 'f' || item.type == 'd')
                lua_pushnumber(lua, take_float(&format, from, item.size));
            else if (item.type != 'x')
                lua_pushnumber(lua, take_number(&format, from, &item));
        }
        results += item.type != 'x';
        at += item.size;
    }
    lua_pushnumber(lua, (lua_Number)(at + 1));
    return results + 1;
}

static int pack_size(lua_State *lua)
{
    struct format format = {.lua = lua, .at = luaL_checkstring(lua, 1), .little = machine_little()};
    struct item item;
    size_t size = 0;

    while ((item = format_next(&format)).type) {
        if (item.type == 's')
            luaL_argerror(lua, 1, "option 's' has no fixed size");
        if (item.type == 'c' && item.size == 0)
            luaL_argerror(lua, 1, "option 'c0' has no fixed size");
        size += item.size;
    }
    lua_pushnumber(lua, (lua_Number)size);
    return 1;
}

void pack_push(lua_State *lua)
{
    lua_createtable(lua, 0, 3);
    lua_pushcfunction(lua, pack_pack);
    lua_setfield(lua, -2, "pack");
    lua_pushcfunction(lua, pack_unpack);
    lua_setfield(lua, -2, "unpack");
    lua_pushcfunction(lua, pack_size);
    lua_setfield(lua, -2, "size");
}
