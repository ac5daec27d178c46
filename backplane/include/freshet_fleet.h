/*
 * freshet_fleet.h - many hosts, one truth: join an open cache to its fleet through Redis.
 *
 * Everything in freshet.h keeps its meaning; three things are added.  A miss asks Redis.  A change goes to Redis first,
 * as a signed frame, and reaches every host.  And nothing is served from the tier unless it was proven, at most
 * `max_staleness_ms` ago, that this host has applied every change that Redis had confirmed.
 *
 * A library thread per joined cache waits for Redis; all signals are blocked in it.
 */
#ifndef FRESHET_FLEET_H
#define FRESHET_FLEET_H

#include <freshet.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct freshet_join_options {
    size_t struct_size;
    const char *keyring; /* path of the keyring file: owned by this user or root, mode 0600 or 0400; must be given */
    uint32_t connect_ms; /* how long one attempt to connect may take; 0: 1,000 */
    bool allow_evicting_redis; /* go on although maxmemory-policy is allkeys-*: coherence records may then vanish, which
                                * costs a rotation (everything void) each time, never staleness */
} freshet_join_options;

/* Join the fleet behind `url`:
 *     redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]      TCP, port 6379 and database 0 unless given
 *     unix://[[USER]:PASSWORD@]/PATH[?db=DB]          unix socket
 * USER and PASSWORD are percent-decoded.  Returns FRESHET_OK once the host is proven fresh; FRESHET_UNPROVEN when Redis
 * could not be reached within the cache's deadline (it goes on trying; misses until then); FRESHET_EREDIS when Redis
 * refuses (password, ACL, eviction policy, a replica); FRESHET_EKEYRING; FRESHET_EINVAL for a url or option that cannot
 * be, a max_staleness_ms above the fleet's, or other partitions than the fleet's; FRESHET_EBUSY when the
 * tier's other processes joined another fleet.  After a failure the cache is as it was before. */
FRESHET_API freshet_result freshet_join(freshet *cache, const char *url, const freshet_join_options *options);

/* Leave; the tier stays a fleet's tier, and this freshet goes on serving it as long as a sibling keeps it proven.
 * Done by freshet_close too, and like it not while another thread is in a call on this freshet. */
FRESHET_API void freshet_leave(freshet *cache);

/* ---- keys ---------------------------------------------------------------------------------------------------- */

/* Write a new keyring to `path`, which must not exist, mode 0600: a new signing key that it trusts itself, and the
 * value keys and trusted keys of the keyring `like` (NULL: a new value key, for a new fleet).  When `like` is given its
 * file gets the new public key too, so that the two trust each other; hand that line to every other host's file. */
FRESHET_API freshet_result freshet_keygen(const char *path, const char *like);

/* ---- watching ------------------------------------------------------------------------------------------------ */

typedef struct freshet_frame_seen {
    size_t struct_size;
    bool verified;   /* the signature is by a trusted key; only then do the fields below `why` mean anything */
    const char *why; /* if not: "unknown key", "bad signature", "garbled"; else "" */
    uint64_t key_id; /* of the signing key */
    uint32_t partition;
    uint64_t epoch, position; /* as claimed by the channel, not signed */
    const char *kind;         /* "invalidate", "put", "clear", "tags" */
    uint64_t version, writer, counter, source_version;
    uint32_t keys;               /* how many hashes it names, of keys or of tags */
    const uint8_t (*hashes)[16]; /* they, as in PROTOCOL.md; live during the callback */
} freshet_frame_seen;

/* Return false to end the watch. */
typedef bool (*freshet_watch_fn)(const freshet_frame_seen *frame, void *arg);

/* Subscribe to the channels of the cache `name` behind `url` and show every frame as it comes, on this thread, until
 * the callback says so, `duration_ms` has passed (0: no end; the callback is then asked with a NULL frame a few times a
 * second) or the connection ends (FRESHET_ENET). */
FRESHET_API freshet_result freshet_watch(const char *name, uint32_t partitions, const char *url,
                                         const freshet_join_options *options, uint32_t duration_ms, freshet_watch_fn fn,
                                         void *arg);

/* The 16 bytes by which frames name `key` in the cache `name`. */
FRESHET_API void freshet_key_hash(const char *name, const void *key, size_t key_size, uint8_t ret_hash[16]);
/* The same for a tag or, if `name_space`, a namespace; the first 8 bytes, low byte first, are its number in
 * freshet_entry. */
FRESHET_API void freshet_tag_hash(const char *name, const char *tag, bool name_space, uint8_t ret_hash[16]);

#ifdef __cplusplus
}
#endif
#endif
