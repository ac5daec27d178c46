/*
 * sheet.c - a sheet's head as bytes.
 *
 *     0 magic u16 | 2 format u8 | 3 log u8 | 4 used u16 | 6 first u16 | 8 number u64 | 16 epoch | 24 as-of |
 *     32 version | 40 writer | 48 expiry (64 bits each)                                         little-endian
 */
#include <sheet.h>

#define SHEET_MAGIC  0x6853u /* "Sh" */
#define SHEET_FORMAT 1u

void sheet_encode(const struct sheet *sheet, uint8_t *bytes)
{
    bytes_put64(bytes, SHEET_MAGIC | SHEET_FORMAT << 16 | (uint64_t)sheet->log << 24 | (uint64_t)sheet->used << 32 |
                           (uint64_t)sheet->first << 48);
    bytes_put64(bytes + 8, sheet->number);
    bytes_put64(bytes + 16, sheet->base.epoch);
    bytes_put64(bytes + 24, sheet->base.as_of);
    bytes_put64(bytes + 32, sheet->base.version);
    bytes_put64(bytes + 40, sheet->base.writer);
    bytes_put64(bytes + 48, (uint64_t)sheet->base.expires_ns);
}

bool sheet_decode(struct sheet *ret_sheet, const uint8_t *bytes)
{
    uint64_t front = bytes_take64(bytes);

    ret_sheet->log = front >> 24 & 0xff;
    ret_sheet->used = front >> 32 & 0xffff;
    ret_sheet->first = (uint32_t)(front >> 48);
    ret_sheet->number = bytes_take64(bytes + 8);
    ret_sheet->base.epoch = bytes_get64(bytes + 16);
    ret_sheet->base.as_of = bytes_get64(bytes + 24);
    ret_sheet->base.version = bytes_get64(bytes + 32);
    ret_sheet->base.writer = bytes_get64(bytes + 40);
    ret_sheet->base.expires_ns = (int64_t)bytes_get64(bytes + 48);
    return (front & 0xffffff) == (SHEET_MAGIC | SHEET_FORMAT << 16) && ret_sheet->used >= SHEET_HEAD &&
           ret_sheet->used <= SHEET_SIZE && ret_sheet->first % SHEET_ALIGN == 0 &&
           (ret_sheet->first == 0 || (ret_sheet->first >= SHEET_HEAD && ret_sheet->first < ret_sheet->used));
}
