/*
 * frame.c - a frame's body, written and read (PROTOCOL.md, section 2).  Pure: no key, no clock, no Redis.
 *
 * One body has one spelling: the reader takes the exact size, known kinds and zeros where zeros belong, so that what
 * was signed cannot be read in two ways.  It reads in place; the hashes stay in the caller's bytes.
 */
#include <frame.h>

#include <bytes.h>
#include <string.h>

#define FRAME_FORMAT 1

/* May a frame of this kind name this many keys? */
static bool frame_makes_sense(uint8_t kind, uint16_t count)
{
    switch (kind) {
    case FRAME_INVALIDATE:
    case FRAME_PUT:
    case FRAME_TAGS:
        return count >= 1 && count <= FRAME_KEYS_MAX;
    case FRAME_CLEAR:
        return count == 0;
    default:
        return false;
    }
}

size_t frame_encode(const struct frame *frame, uint8_t *body, size_t capacity)
{
    size_t size = FRAME_BODY_HEAD + (size_t)16 * frame->count;

    if (!frame_makes_sense(frame->kind, frame->count) || (frame->flags & ~FRAME_LOOK) || capacity < size)
        return 0;
    body[0] = FRAME_FORMAT;
    body[1] = frame->kind;
    bytes_put16(body + 2, frame->partition);
    memcpy(body + 4, frame->cache, 16);
    bytes_put64(body + 20, frame->version);
    bytes_put64(body + 28, frame->writer);
    bytes_put64(body + 36, frame->counter);
    bytes_put64(body + 44, frame->source_version);
    bytes_put16(body + 52, frame->count);
    bytes_put16(body + 54, frame->flags);
    if (frame->count > 0)
        memcpy(body + FRAME_BODY_HEAD, frame->hashes, (size_t)16 * frame->count);
    return size;
}

bool frame_decode(struct frame *ret_frame, const uint8_t *body, size_t size)
{
    uint16_t count;

    if (size < FRAME_BODY_HEAD || body[0] != FRAME_FORMAT || (bytes_get16(body + 54) & ~FRAME_LOOK))
        return false;
    count = bytes_get16(body + 52);
    if (!frame_makes_sense(body[1], count) || size != FRAME_BODY_HEAD + (size_t)16 * count)
        return false;
    *ret_frame = (struct frame){
        .kind = body[1],
        .partition = bytes_get16(body + 2),
        .version = bytes_get64(body + 20),
        .writer = bytes_get64(body + 28),
        .counter = bytes_get64(body + 36),
        .source_version = bytes_get64(body + 44),
        .count = count,
        .flags = bytes_get16(body + 54),
        .hashes = count > 0 ? (const uint8_t(*)[16])(body + FRAME_BODY_HEAD) : NULL,
    };
    memcpy(ret_frame->cache, body + 4, 16);
    return true;
}

const char *frame_kind_name(uint8_t kind)
{
    switch (kind) {
    case FRAME_INVALIDATE:
        return "invalidate";
    case FRAME_PUT:
        return "put";
    case FRAME_CLEAR:
        return "clear";
    case FRAME_TAGS:
        return "tags";
    default:
        return "unknown";
    }
}
