/*
 * token.h - a token: how far a reader or a writer has got, in each partition, as a string that fits a cookie or a
 * header.  Pure; fuzzed by its unit test.
 *
 * base64url (no padding) of: format 1 | first 4 bytes of the cache's hash | a part for each partition that it speaks
 * of, in rising order: partition 1, epoch 8, position 7 | check 4: the first bytes of SipHash over all before.  The
 * check finds what a careless hand has garbled; it is no seal, since a token gives no rights: a forged one costs a
 * question to Redis, and where it is given to freshet_load a load that nobody shares.
 */
#ifndef CORE_TOKEN_H
#define CORE_TOKEN_H

#include <freshet.h>
#include <key.h>

struct token_part {
    uint64_t epoch, position; /* position 0: nothing is known */
};

struct token {
    struct token_part parts[FRESHET_PARTITIONS_MAX];
};

/* The text; "" when no part says anything. */
void token_encode(const struct token *token, const struct key_space *space, const char *name,
                  char ret_text[FRESHET_TOKEN_SIZE]);
/* False: it is garbled, or another cache's.  NULL and "" are tokens that say nothing. */
bool token_decode(struct token *ret_token, const struct key_space *space, const char *name, const char *text);
/* The later of both, in each partition: positions rise across epochs. */
void token_join(struct token *token, const struct token *other);

#endif
