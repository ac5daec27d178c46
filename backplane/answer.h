/*
 * answer.h - what a script answers, taken apart.  Pure; fuzzed.
 *
 * Every script answers an array: a status, then (but for CONFLICT and LEAVE's bare OK) epoch, position and Redis's
 * time, then what is its own.  A server may say anything: nothing here is believed before its type, size and range
 * were looked at.
 */
#ifndef BACKPLANE_ANSWER_H
#define BACKPLANE_ANSWER_H

#include <bytes.h>
#include <resp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ANSWER_POSITION_MAX BYTES_NUMBER_MAX

enum answer_status {
    ANSWER_GARBLED, /* no answer of a script of ours */
    ANSWER_ERROR,   /* an error reply; `text` */
    ANSWER_OK,
    ANSWER_OUTDATED,
    ANSWER_REFUSED,
    ANSWER_RECORD,
    ANSWER_WAIT,
    ANSWER_TICKET,
    ANSWER_GUARDED,
    ANSWER_FULL,
    ANSWER_CURRENT,
    ANSWER_NONE,
    ANSWER_CONFLICT /* the fleet was made with other values; the rest has them */
};

struct answer {
    enum answer_status status;
    const char *text; /* ANSWER_ERROR: what Redis said; else the status word; never NULL */
    uint64_t epoch, position, time_us;
    struct resp *const *rest; /* the script's own elements */
    size_t count;
};

/* Take a reply apart; false, and ANSWER_GARBLED or ANSWER_ERROR, when it is not what a script says.  Points into
 * the reply. */
bool answer_read(struct answer *ret_answer, const struct resp *reply);

/* The n-th of the rest: a decimal number of at most `most`; bytes. */
bool answer_number(const struct answer *answer, size_t n, uint64_t most, uint64_t *ret_number);
bool answer_bytes(const struct answer *answer, size_t n, const void **ret_bytes, size_t *ret_size);

/* A decimal number in any element: digits only, as text or as an integer. */
bool answer_decimal(const struct resp *item, uint64_t most, uint64_t *ret_number);

#endif
