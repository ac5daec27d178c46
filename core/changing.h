/*
 * changing.h - what all calls that change something begin and end with: freshet.c's own, and guard.c's.
 */
#ifndef CORE_CHANGING_H
#define CORE_CHANGING_H

#include <host.h>

struct changing {
    struct host *host;
    const struct remote_ops *ops; /* NULL: no fleet */
    freshet_write_options options;
    int64_t deadline_ns;
    freshet_change *change; /* the caller's; may be NULL */
};

/* Take the options over, find the host and its fleet; FRESHET_EFLEET when the tier has one that this handle lacks. */
freshet_result changing_start(struct changing *c, freshet *cache, const freshet_write_options *given,
                              freshet_change *change);
/* What the options say of waiting, for whoever carries the change out. */
void changing_waits(const struct changing *c, struct remote_change *change);
/* Tell the caller what the change was given; the result goes through. */
freshet_result changing_end(struct changing *c, freshet_result result, const struct remote_confirm *confirm);

/* Is it a key at all? */
freshet_result changing_key_check(const void *key, size_t key_size);
/* Hash the keys, in the order of their partitions: a backplane sends each partition's in one frame.  NULL: no memory;
 * the caller frees. */
struct remote_key *changing_keys(const struct key_space *space, const freshet_key *keys, size_t count);
/* Without a fleet: the next position, and everything older of the key is void. */
uint64_t changing_local(struct control *control, const struct key *key);

#endif
