/*
 * json.c - the small strict JSON writer (json.h).
 *
 * Everything that is shown passes put_text, which knows one rule: what may not stand in a JSON string is escaped.
 */
#include "json.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Bytes of the UTF-8 character at `p`, 0 when it is none (RFC 3629: no overlong forms, no surrogates). */
static size_t utf8_step(const unsigned char *p, size_t left)
{
    size_t size = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : 4;

    if (size == 1)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4 || size > left)
        return 0;
    for (size_t i = 1; i < size; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return size;
}

static bool utf8_valid(const unsigned char *bytes, size_t size)
{
    for (size_t at = 0, step; at < size; at += step)
        if ((step = utf8_step(bytes + at, size - at)) == 0)
            return false;
    return true;
}

/* A string with its quotes; the bytes are valid UTF-8. */
static void put_text(FILE *out, const unsigned char *text, size_t size)
{
    putc('"', out);
    for (size_t i = 0; i < size; i++) {
        const char *mark = text[i] ? strchr("\"\"\\\\\bb\ff\nn\rr\tt", text[i]) : NULL;

        if (mark && (text[i] == '"' || text[i] == '\\'))
            fprintf(out, "\\%c", text[i]);
        else if (mark && text[i] < 0x20)
            fprintf(out, "\\%c", mark[1]);
        else if (text[i] < 0x20 || text[i] == 0x7f)
            fprintf(out, "\\u%04x", text[i]);
        else
            putc(text[i], out);
    }
    putc('"', out);
}

/* The comma that is due, and the name. */
static void put_name(struct json *json, const char *name)
{
    if (json->more[json->depth])
        fputs(json->depth ? ", " : "\n", json->out);
    json->more[json->depth] = true;
    if (name) {
        put_text(json->out, (const unsigned char *)name, strlen(name));
        fputs(": ", json->out);
    }
}

void json_open(struct json *json, const char *name, char bracket)
{
    put_name(json, name);
    putc(bracket, json->out);
    if (json->depth < JSON_DEPTH)
        json->depth++;
    json->more[json->depth] = false;
}

void json_close(struct json *json, char bracket)
{
    putc(bracket, json->out);
    if (json->depth && --json->depth == 0) {
        putc('\n', json->out);
        json->more[0] = false;
    }
}

static void put_base64(FILE *out, const unsigned char *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    putc('"', out);
    for (size_t i = 0; i < size; i += 3) {
        size_t left = size - i;
        unsigned group = (unsigned)bytes[i] << 16 | (left > 1 ? (unsigned)bytes[i + 1] << 8 : 0) |
                         (left > 2 ? (unsigned)bytes[i + 2] : 0);

        putc(digits[group >> 18], out);
        putc(digits[group >> 12 & 63], out);
        putc(left > 1 ? digits[group >> 6 & 63] : '=', out);
        putc(left > 2 ? digits[group & 63] : '=', out);
    }
    putc('"', out);
}

/* The second field that says how the first is to be read. */
static void put_encoding(struct json *json, const char *name, const char *encoding)
{
    char field[64];

    snprintf(field, sizeof field, "%s_encoding", name ? name : "");
    json_text(json, field, encoding);
}

void json_text(struct json *json, const char *name, const char *text)
{
    const unsigned char *bytes = (const unsigned char *)text;

    put_name(json, name);
    if (utf8_valid(bytes, strlen(text))) {
        put_text(json->out, bytes, strlen(text));
    } else { /* a path or a message in another encoding: readable is better than exact */
        char safe[512];
        size_t n = 0;

        for (; *bytes && n < sizeof safe - 1; bytes++)
            safe[n++] = *bytes < 0x80 ? (char)*bytes : '?';
        put_text(json->out, (const unsigned char *)safe, n);
    }
}

void json_bytes(struct json *json, const char *name, const void *data, size_t size)
{
    bool text = utf8_valid(data, size);

    put_name(json, name);
    if (text) {
        put_text(json->out, data, size);
        return;
    }
    put_base64(json->out, data, size);
    put_encoding(json, name, "base64");
}

void json_hex(struct json *json, const char *name, const void *data, size_t size)
{
    const unsigned char *bytes = data;

    put_name(json, name);
    putc('"', json->out);
    for (size_t i = 0; i < size; i++)
        fprintf(json->out, "%02x", bytes[i]);
    putc('"', json->out);
}

void json_hex_bytes(struct json *json, const char *name, const void *data, size_t size)
{
    json_hex(json, name, data, size);
    put_encoding(json, name, "hex");
}

void json_id(struct json *json, const char *name, uint64_t id)
{
    put_name(json, name);
    fprintf(json->out, "\"%016" PRIx64 "\"", id);
}

void json_uint(struct json *json, const char *name, uint64_t value)
{
    put_name(json, name);
    fprintf(json->out, "%" PRIu64, value);
}

void json_int(struct json *json, const char *name, int64_t value)
{
    put_name(json, name);
    fprintf(json->out, "%" PRId64, value);
}

void json_real(struct json *json, const char *name, double value, int decimals)
{
    put_name(json, name);
    if (isfinite(value))
        fprintf(json->out, "%.*f", decimals, value);
    else
        fputs("null", json->out);
}

void json_bool(struct json *json, const char *name, bool value)
{
    put_name(json, name);
    fputs(value ? "true" : "false", json->out);
}

void json_null(struct json *json, const char *name)
{
    put_name(json, name);
    fputs("null", json->out);
}
