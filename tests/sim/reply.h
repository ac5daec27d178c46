/* reply.h - RESP2 replies, written piece by piece; and memory that is there or the program ends.  Leans on nothing. */
#ifndef SIM_REPLY_H
#define SIM_REPLY_H

#include <redis.h>

void *reply_alloc(size_t size); /* zeroed */
void *reply_grow(void *memory, size_t size);
char *reply_copy(const void *bytes, size_t size); /* with a NUL behind them */

void reply_add(struct redis_reply *reply, const void *bytes, size_t size); /* raw */
void reply_status(struct redis_reply *reply, const char *text);            /* "OK" */
/* "ERR what is wrong"; line ends become spaces. */
void reply_error(struct redis_reply *reply, const char *format, ...) __attribute__((format(printf, 2, 3)));
void reply_error_bytes(struct redis_reply *reply, const char *text, size_t size);
void reply_integer(struct redis_reply *reply, long long number);
void reply_bulk(struct redis_reply *reply, const void *bytes, size_t size);
void reply_text(struct redis_reply *reply, const char *text);   /* bulk */
void reply_number(struct redis_reply *reply, long long number); /* bulk */
void reply_nil(struct redis_reply *reply);
void reply_nil_array(struct redis_reply *reply);
void reply_array(struct redis_reply *reply, size_t count);
bool reply_is_error(const struct redis_reply *reply);

#endif
