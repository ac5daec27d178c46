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
    struct record_base base; /* whatever stands there: records' checks cover it */
};

void sheet_encode(const struct sheet *sheet, uint8_t *bytes);

#define SHEET_MAGIC  0x6853u /* "Sh" */
#define SHEET_FORMAT 2u
#define SHEET_BASE   16u /* where the base stands */

/* False when it is no sheet of ours.  Inline, as all that a hit does: what it has no use for is not even read. */
static inline bool sheet_decode(struct sheet *ret_sheet, const uint8_t *bytes)
{
    uint64_t front = bytes_take64(bytes);

    ret_sheet->log = front >> 24 & 0xff;
    ret_sheet->used = front >> 32 & 0xffff;
    ret_sheet->first = (uint32_t)(front >> 48);
    ret_sheet->number = bytes_take64(bytes + 8);
    ret_sheet->base = record_base_decode(bytes + SHEET_BASE);
    return (front & 0xffffff) == (SHEET_MAGIC | SHEET_FORMAT << 16) && ret_sheet->used >= SHEET_HEAD &&
           ret_sheet->used <= SHEET_SIZE && ret_sheet->first % SHEET_ALIGN == 0 &&
           (ret_sheet->first == 0 || (ret_sheet->first >= SHEET_HEAD && ret_sheet->first < ret_sheet->used));
}

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
