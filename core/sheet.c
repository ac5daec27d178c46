/*
 * sheet.c - a sheet's head as bytes.
 *
 *     0 magic u16 | 2 format u8 | 3 log u8 | 4 used u16 | 6 first u16 | 8 number u64 | 16 epoch | 24 as-of |
 *     32 version | 40 writer | 48 expiry (64 bits each)                                         little-endian
 */
#include <sheet.h>

void sheet_encode(const struct sheet *sheet, uint8_t *bytes)
{
    bytes_put64(bytes, SHEET_MAGIC | SHEET_FORMAT << 16 | (uint64_t)sheet->log << 24 | (uint64_t)sheet->used << 32 |
                           (uint64_t)sheet->first << 48);
    bytes_put64(bytes + 8, sheet->number);
    record_base_encode(&sheet->base, bytes + SHEET_BASE);
}
