/*
 * json.h - a small strict JSON writer: what the tool says to programs.
 *
 * It writes straight to a stream, puts the commas itself, and cannot write what is not JSON: text that is no valid
 * UTF-8 becomes base64 and says so in a second field, NAME_encoding; a number that is not finite becomes null.
 */
#ifndef TOOLS_JSON_H
#define TOOLS_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define JSON_DEPTH 8

struct json {
    FILE *out;
    unsigned depth;
    bool more[JSON_DEPTH + 1]; /* something stands at this depth already: a comma is due */
};

/* `name` is NULL inside an array and at the top. */
void json_open(struct json *json, const char *name, char bracket); /* '{' or '[' */
void json_close(struct json *json, char bracket);                  /* '}' or ']'; the outermost ends the line */
void json_text(struct json *json, const char *name, const char *text);
/* Any bytes: as text when they are UTF-8, else in base64 beside "NAME_encoding": "base64". */
void json_bytes(struct json *json, const char *name, const void *data, size_t size);
/* Bytes in hex, beside "NAME_encoding": "hex". */
void json_hex_bytes(struct json *json, const char *name, const void *data, size_t size);
void json_hex(struct json *json, const char *name, const void *data, size_t size); /* hex alone */
void json_id(struct json *json, const char *name, uint64_t id); /* 16 hex digits: 64 bits do not survive as a number */
void json_uint(struct json *json, const char *name, uint64_t value);
void json_int(struct json *json, const char *name, int64_t value);
void json_real(struct json *json, const char *name, double value, int decimals);
void json_bool(struct json *json, const char *name, bool value);
void json_null(struct json *json, const char *name);

#endif
