/*
 * publish.h - outward: a change is framed, signed, and given to Redis; its fences are raised here before anybody is
 * told that it is done.  freshet_result publish_change is remote.h's `change`.
 */
#ifndef BACKPLANE_PUBLISH_H
#define BACKPLANE_PUBLISH_H

#include <frame.h>
#include <remote.h>
#include <strong.h>

struct answer;
struct fleet;
struct fleet_words;
struct resp;

#define PUBLISH_TOMBSTONE_MS "86400000" /* how long a key's source version outlives it: a day */

/* One signed frame and the words of the script that carries it; for up to `room` keys. */
struct publish_work {
    uint32_t room;
    struct strong strong; /* what is waited for, and what was confirmed */
    uint64_t version, counter;
    uint8_t context[64], source[8], versions[8], writers[8];
    uint8_t tags[8 * REMOTE_TAGS_MAX];
    char expiry[24], px[24], until[24];
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
/* The words of the change script, for a signed invalidation, change of tags, or clear. */
void publish_words(struct fleet *fleet, struct publish_work *work, enum frame_kind kind, uint32_t partition,
                   uint32_t count, uint64_t source_version);

/* What all changes begin with: head, log, the records of work->hashes; context, channel, message. */
void publish_words_begin(struct fleet *fleet, struct publish_work *work, struct fleet_words *words,
                         enum frame_kind kind, uint32_t partition, uint32_t count);

/* One frame on its way. */
struct publishing {
    struct fleet *fleet;
    struct publish_work *work;
    enum frame_kind kind;
    uint32_t partition;
    uint32_t count;      /* keys in work->hashes */
    uint32_t slots;      /* entries of the outbox, in work->slots */
    bool stands_for_all; /* the outbox had no room: its entry is a clear that stands for our keys */
    uint64_t source_version;
    int64_t deadline_ns;
    int64_t answered_ns; /* when Redis had answered; 0: not noted */
};

/* Write down in the outbox what is about to be sent. */
void publish_write_down(struct publishing *p);
/* It stays in the outbox: FRESHET_QUEUED. */
freshet_result publish_queue(struct publishing *p);
/* What the script's reply, or its lack, means for what was written down; on a confirmation the fences are raised.
 * FRESHET_OK, FRESHET_QUEUED, and for a put FRESHET_OUTDATED, FRESHET_GUARDED. */
freshet_result publish_settle(struct publishing *p, freshet_result asked, const struct resp *reply,
                              struct answer *ret_answer);

freshet_result publish_change(void *remote, const struct remote_change *change, int64_t deadline_ns,
                              struct remote_confirm *ret_confirm);

#endif
