/* frame_fuzz.c - a frame's body, as it comes out of a verified message. */
#include "fuzz.h"

#include <frame.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static uint8_t again[FRAME_BODY_MAX];
    struct frame frame;

    if (!frame_decode(&frame, bytes, size))
        return 0;
    FUZZ_EXPECT(frame.kind >= FRAME_INVALIDATE && frame.kind <= FRAME_TAGS);
    FUZZ_EXPECT(frame.count <= FRAME_KEYS_MAX && (frame.kind == FRAME_CLEAR) == (frame.count == 0));
    FUZZ_EXPECT(size == FRAME_BODY_HEAD + 16u * frame.count);
    for (uint16_t i = 0; i < frame.count; i++)
        FUZZ_EXPECT((const uint8_t *)frame.hashes[i] + 16 <= bytes + size);
    FUZZ_EXPECT(frame_kind_name(frame.kind)[0]);
    FUZZ_EXPECT(frame_encode(&frame, again, sizeof again) == size); /* strict: one frame, one spelling */
    FUZZ_EXPECT(memcmp(again, bytes, size) == 0);
    return 0;
}

unsigned fuzz_seed(unsigned number, uint8_t *ret_bytes, size_t *ret_size)
{
    static const uint16_t counts[] = {1, 2, 1024, 0, 7, 1, 3};
    static const uint8_t kinds[] = {FRAME_INVALIDATE, FRAME_INVALIDATE, FRAME_INVALIDATE,
                                    FRAME_CLEAR,      FRAME_PUT,        FRAME_PUT, FRAME_TAGS};
    static uint8_t hashes[1024][16];
    struct frame frame = {.kind = kinds[number],
                          .partition = 3,
                          .version = 1700000000000000u,
                          .writer = ~0ull,
                          .counter = 9,
                          .source_version = 1,
                          .count = counts[number],
                          .hashes = (const uint8_t(*)[16])hashes};

    if (frame.kind == FRAME_PUT)
        frame.count = 1;
    for (unsigned i = 0; i < sizeof hashes; i++)
        ((uint8_t *)hashes)[i] = (uint8_t)(i * 7);
    *ret_size = frame_encode(&frame, ret_bytes, FUZZ_MOST);
    FUZZ_EXPECT(*ret_size);
    return sizeof kinds / sizeof *kinds;
}
