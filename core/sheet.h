/*
 * sheet.h - a page of a log, and the records that begin on it.  Pure.
 *
 * The tier's records lie one behind the other in logs, whose pages are called sheets: rows of LMDB with just so many
 * bytes that each takes one overflow page and none is lost.  (LMDB looks long for runs of pages, never for single
 * ones.)  A record may go on over any number of sheets; only its head lies on one.
 */
#ifndef CORE_SHEET_H
#define CORE_SHEET_H

#include <bytes.h>
#include <record.h>

#define SHEET_SIZE  4080u /* bytes of a row's data: exactly one overflow page */
#define SHEET_HEAD  56u   /* of them the sheet's own */
#define SHEET_ROOM  (SHEET_SIZE - SHEET_HEAD)
#define SHEET_ALIGN 8u /* records begin at multiples of it */

/* The sheet's head, decoded. */
struct sheet {
    uint32_t log;
    uint64_t number;  /* in its log, rising */
    uint32_t used;    /* bytes in use, the head's included */
    uint32_t first;   /* where the first record begins; 0: none does */
    struct record_base base;
};

void sheet_encode(const struct sheet *sheet, uint8_t *bytes);
/* False when it is no sheet of ours.  The base is whatever stands there: records' checks cover it. */
bool sheet_decode(struct sheet *ret_sheet, const uint8_t *bytes);

/* The number alone. */
static inline uint64_t sheet_number(const uint8_t *bytes)
{
    return bytes_get64(bytes + 8);
}

/* Bytes that a record takes in a log: its head, key and value, and up to the next place. */
static inline uint64_t sheet_bytes(uint32_t head_size, const struct record *record)
{
    return (head_size + record->key_size + record->value_size + SHEET_ALIGN - 1) / SHEET_ALIGN * SHEET_ALIGN;
}

#endif
