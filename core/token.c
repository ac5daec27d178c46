/*
 * token.c - tokens as text (token.h).  Below freshet.c, above nothing but key.c's hash.
 *
 * One token has one spelling: parts rise, positions are not 0, unused bits are 0.  So whatever decodes encodes to the
 * same text again.
 */
#include <token.h>

#include <string.h>

#define TOKEN_FORMAT 1u
#define TOKEN_HEAD   5u
#define TOKEN_PART   16u
#define TOKEN_CHECK  4u
#define TOKEN_BYTES  (TOKEN_HEAD + TOKEN_PART * FRESHET_PARTITIONS_MAX + TOKEN_CHECK)

_Static_assert((TOKEN_BYTES * 4 + 2) / 3 < FRESHET_TOKEN_SIZE, "a token fits its room");

static const char token_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void token_head(const struct key_space *space, const char *name, uint8_t ret_bytes[TOKEN_HEAD])
{
    uint8_t hash[16];

    key_siphash128(space->k0, space->k1, name, strlen(name), hash);
    ret_bytes[0] = TOKEN_FORMAT;
    memcpy(ret_bytes + 1, hash, TOKEN_HEAD - 1);
}

static void token_check(const struct key_space *space, const uint8_t *bytes, size_t size,
                        uint8_t ret_check[TOKEN_CHECK])
{
    uint8_t hash[16];

    key_siphash128(~space->k0, space->k1, bytes, size, hash); /* a domain of its own */
    memcpy(ret_check, hash, TOKEN_CHECK);
}

static void token_put(uint8_t *to, uint64_t number, unsigned size)
{
    while (size-- > 0) {
        to[size] = (uint8_t)number;
        number >>= 8;
    }
}

static uint64_t token_get(const uint8_t *from, unsigned size)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < size; i++)
        number = number << 8 | from[i];
    return number;
}

void token_encode(const struct token *token, const struct key_space *space, const char *name,
                  char ret_text[FRESHET_TOKEN_SIZE])
{
    uint8_t bytes[TOKEN_BYTES + 2] = {0};
    size_t size = TOKEN_HEAD, digits;

    token_head(space, name, bytes);
    for (uint32_t p = 0; p < FRESHET_PARTITIONS_MAX; p++)
        if (token->parts[p].position != 0) {
            bytes[size] = (uint8_t)p;
            token_put(bytes + size + 1, token->parts[p].epoch, 8);
            token_put(bytes + size + 9, token->parts[p].position, 7);
            size += TOKEN_PART;
        }
    ret_text[0] = '\0';
    if (size == TOKEN_HEAD)
        return;
    token_check(space, bytes, size, bytes + size);
    size += TOKEN_CHECK;
    digits = (size * 4 + 2) / 3;
    for (size_t i = 0; i < digits; i++) {
        unsigned at = (unsigned)(i % 4) * 6,
                 pair = (unsigned)(bytes[i / 4 * 3 + at / 8] << 8) | bytes[i / 4 * 3 + at / 8 + 1];

        ret_text[i] = token_digits[pair >> (10 - at % 8) & 63];
    }
    ret_text[digits] = '\0';
}

/* The bytes of a text; their number, 0 when it is none. */
static size_t token_bytes(const char *text, uint8_t ret_bytes[TOKEN_BYTES + 2])
{
    size_t digits = strnlen(text, FRESHET_TOKEN_SIZE), size = digits * 3 / 4;
    uint32_t bits = 0;

    if (digits == FRESHET_TOKEN_SIZE || digits % 4 == 1 || size > TOKEN_BYTES)
        return 0;
    for (size_t i = 0; i < digits; i++) {
        const char *digit = strchr(token_digits, text[i]);

        bits = (bits << 6 | (uint32_t)(digit ? digit - token_digits : 0)) & 0xffffffu;
        if (!digit)
            return 0;
        if (i % 4 != 0)
            ret_bytes[i / 4 * 3 + i % 4 - 1] = (uint8_t)(bits >> (6 - 2 * (i % 4)));
    }
    if (digits % 4 != 0 && bits & ((1u << (digits % 4 == 2 ? 4 : 2)) - 1))
        return 0; /* bits of no byte */
    return size;
}

bool token_decode(struct token *ret_token, const struct key_space *space, const char *name, const char *text)
{
    uint8_t bytes[TOKEN_BYTES + 2], head[TOKEN_HEAD], check[TOKEN_CHECK];
    size_t size;
    int last = -1;

    *ret_token = (struct token){0};
    if (!text || !text[0])
        return true;
    size = token_bytes(text, bytes);
    if (size < TOKEN_HEAD + TOKEN_PART + TOKEN_CHECK || (size - TOKEN_HEAD - TOKEN_CHECK) % TOKEN_PART != 0)
        return false;
    size -= TOKEN_CHECK;
    token_head(space, name, head);
    token_check(space, bytes, size, check);
    if (memcmp(bytes, head, sizeof head) != 0 || memcmp(bytes + size, check, sizeof check) != 0)
        return false;
    for (size_t at = TOKEN_HEAD; at < size; at += TOKEN_PART) {
        struct token_part part = {token_get(bytes + at + 1, 8), token_get(bytes + at + 9, 7)};

        if (bytes[at] <= last || bytes[at] >= space->partitions || part.position == 0 || part.position >> 53) {
            *ret_token = (struct token){0};
            return false;
        }
        last = bytes[at];
        ret_token->parts[last] = part;
    }
    return true;
}

void token_join(struct token *token, const struct token *other)
{
    for (uint32_t p = 0; p < FRESHET_PARTITIONS_MAX; p++)
        if (other->parts[p].position > token->parts[p].position)
            token->parts[p] = other->parts[p];
}
