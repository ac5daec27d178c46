/*
 * publish.h - outward: a change is framed, signed, and given to Redis; its fences are raised here before anybody is
 * told that it is done.  freshet_result publish_change is remote.h's `change`.
 */
#ifndef BACKPLANE_PUBLISH_H
#define BACKPLANE_PUBLISH_H

#include <frame.h>
#include <remote.h>

struct fleet;

#define PUBLISH_TOMBSTONE_MS "86400000" /* how long a key's source version outlives it: a day */

/* One signed frame and the words of the script that carries it; for up to `room` keys. */
struct publish_work {
    uint32_t room;
    uint64_t version;
    uint8_t context[64], source[8], versions[8], writers[8];
    char expiry[24], px[24];
    size_t message_size;
    uint8_t *message;
    uint8_t (*hashes)[16];
    uint16_t *slots;
    char *records; /* names, one behind the other */
    const char **argv;
    size_t *sizes;
    int argc, keys;
};

struct publish_work *publish_work_open(uint32_t room); /* NULL: no memory */
void publish_work_close(struct publish_work *work);

/* Frame and sign: the message and the version of work->hashes[0..count).  False when the keyring cannot sign. */
bool publish_sign(struct fleet *fleet, struct publish_work *work, enum frame_kind kind, uint32_t partition,
                  uint32_t count, uint64_t source_version);
/* The words of the change script, for a signed invalidation or clear. */
void publish_words(struct fleet *fleet, struct publish_work *work, enum frame_kind kind, uint32_t partition,
                   uint32_t count, uint64_t source_version);

freshet_result publish_change(void *remote, const struct remote_change *change, int64_t deadline_ns,
                              struct remote_confirm *ret_confirm);

#endif
