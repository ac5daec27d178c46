/*
 * frame.h - the bytes of a frame: one change, as it stands in the log and on the channel.  Pure; fuzzed.  The layout,
 * with test vectors, is in PROTOCOL.md; this file and that page change together.
 *
 *   signed message = key id (8) | signature (64) | body        all integers big-endian
 *   channel message = position (8) | epoch (8) | signed message   (position and epoch are not signed: hints)
 *
 * The body is looked at only after the signature over  "freshet frame 1\0" | body  has been verified.
 */
#ifndef BACKPLANE_FRAME_H
#define BACKPLANE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_KEYS_MAX     1024u
#define FRAME_SIGNED_HEAD  72u /* key id and signature */
#define FRAME_CHANNEL_HEAD 16u
#define FRAME_BODY_HEAD    56u /* body without hashes: see PROTOCOL.md */
#define FRAME_BODY_MAX     (FRAME_BODY_HEAD + 16u * FRAME_KEYS_MAX)
#define FRAME_MAX          (FRAME_SIGNED_HEAD + FRAME_BODY_MAX)

enum frame_kind { FRAME_INVALIDATE = 1, FRAME_PUT = 2, FRAME_CLEAR = 3, FRAME_TAGS = 4 };

/* The writer waits: whoever hears it tells the fleet at once that its fences are up. */
#define FRAME_LOOK 1u

struct frame {
    uint8_t kind;      /* enum frame_kind */
    uint8_t cache[16]; /* hash of the cache's name: remote_hash(name, name, size) */
    uint16_t partition;
    uint64_t version;        /* us of Redis's time, by the writer's estimate */
    uint64_t writer;         /* random id of the writing process */
    uint64_t counter;        /* of that writer; audit only */
    uint64_t source_version; /* 0: none */
    uint16_t count;
    uint16_t flags;              /* FRAME_LOOK */
    const uint8_t (*hashes)[16]; /* of keys, or of tags; decode: into the body given */
};

/* Write the body; returns its size, 0 when it does not fit or makes no sense. */
size_t frame_encode(const struct frame *frame, uint8_t *body, size_t capacity);
/* Read a *verified* body, strictly: exact size, known kind, clear has no keys, the others 1 to 1,024. */
bool frame_decode(struct frame *ret_frame, const uint8_t *body, size_t size);
const char *frame_kind_name(uint8_t kind); /* "invalidate", "put", "clear", "tags"; "unknown" */

#endif
