/*
 * fleet.h - one joined tier in one process: what its files share.  Internal.
 *
 * Two sides meet here.  Callers' threads ask and change on connections of their own (line.h): store.c, publish.c.
 * The loop's thread listens, renews and sends again (link.h): receive.c, renew.c, outbox.c, seat.c.  They meet in
 * core's control page, whose words only rise, and in the few atomics below; nothing else is shared between them.
 */
#ifndef BACKPLANE_FLEET_H
#define BACKPLANE_FLEET_H

#include <answer.h>
#include <freshet_fleet.h>
#include <guard.h>
#include <keyring.h>
#include <line.h>
#include <link.h>
#include <loop.h>
#include <outbox.h>
#include <pthread.h>
#include <receive.h>
#include <remote.h>
#include <renew.h>
#include <seal.h>
#include <seat.h>
#include <stdatomic.h>
#include <string.h>
#include <strong.h>
#include <time.h>
#include <url.h>

#define FLEET_NAME_SIZE         128u /* "freshet:{NAME:PP}:record:" and 32 digits fit well */
#define FLEET_CONTEXT_SIZE      64u
#define FLEET_REPLY_ROOM        65536u /* bytes of a reply beside the value that it carries */
#define FLEET_NS_PER_MS         1000000LL
#define FLEET_STALENESS_MOST_MS 600000u /* freshet.h: the limit of max_staleness_ms */
#define FLEET_REMEDY                                                                                                   \
    "~freshet:* &freshet:* +@read +@write +@pubsub +@scripting +@connection -@dangerous +info +time +wait"

/* A partition's names in Redis. */
struct fleet_names {
    char head[FLEET_NAME_SIZE], log[FLEET_NAME_SIZE], hosts[FLEET_NAME_SIZE], channel[FLEET_NAME_SIZE];
    char tagfence[FLEET_NAME_SIZE];
    char record[FLEET_NAME_SIZE]; /* what stands before the 32 digits */
    size_t record_size;
};

struct fleet {
    struct fleet *next; /* in the process's list (fleet.c) */

    /* fixed once joined */
    struct remote_host *host;
    struct remote_facts facts;
    uint64_t id; /* of the Redis, database and cache: url_fleet */
    char name[FRESHET_NAME_MAX + 1];
    uint8_t cache[16]; /* the name's hash, in frames and seals */
    struct fleet_names names[FRESHET_PARTITIONS_MAX];
    char *url_given, *keyring_path; /* for a child after fork */
    uint32_t connect_ms;
    bool allow_evicting_redis;
    struct url url;
    struct url_address address;
    bool resolved;
    struct keyring *keyring;
    struct lines *lines;
    uint64_t writer; /* who we are in frames, and in the subscriber's seat */

    /* any thread */
    _Atomic uint64_t counter; /* of our frames */
    _Atomic uint32_t
        max_staleness_ms;        /* the fleet's, once a report told it: who reports first after a FLUSHALL fixes it */
    struct strong_memory strong; /* what is known of the registries of hosts */
    _Atomic bool silent;         /* the loop's own connection does not get answers */
    _Atomic bool lost;           /* the loop's descriptors were closed behind our back */
    pthread_mutex_t lock;        /* guards `loop`; never held while waiting for Redis */
    pthread_cond_t news;         /* something was proven */
    struct loop *loop;
    _Atomic bool looks; /* who woke the loop wants it to look for changes, too */
    struct guards guards;

    /* the loop's thread */
    struct loop *turning; /* the loop itself, known here before `loop` is set */
    struct link *ask;     /* reports and the outbox; always up */
    struct link *ears;    /* the channels; while we hold the seat */
    bool refused;         /* Redis answers, but not what we ask */
    struct receive receive;
    struct renew renew;
    struct outbox outbox;
    struct seat seat;
};

static inline int64_t fleet_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* The names of a partition, of `record:` only the beginning. */
void fleet_name(struct fleet_names *names, const char *name, uint32_t partition);
/* A record's name; room for FLEET_NAME_SIZE.  Returns its size. */
size_t fleet_record_name(const struct fleet_names *names, const uint8_t hash[16], char *ret_name);

/* What every script is told first; `hint` 0: no claim about positions. */
void fleet_context(const struct fleet *fleet, uint64_t known_epoch, uint64_t hint,
                   uint8_t ret_context[FLEET_CONTEXT_SIZE]);

/* Microseconds of Redis's time now, as far as known; else of this host's. */
uint64_t fleet_time_us(const struct fleet *fleet);

/* Until when Redis is to take what is worth something to its caller alone, in decimal and in Redis's time: a while
 * before the deadline, since the answer takes its time too. */
void fleet_until(const struct fleet *fleet, int64_t deadline_ns, char ret_text[24]);

/* A moment of Redis's time (us; 0: never) as CLOCK_BOOTTIME ns (INT64_MAX: never). */
int64_t fleet_boot_ns(const struct fleet *fleet, uint64_t redis_us);

/* Learn from a report's answer, just received: Redis's clock, and the fleet's max_staleness. */
void fleet_learn(struct fleet *fleet, int64_t asked_ns, const struct renew_report *report);

/* Callers' threads: have the loop look for changes and send what waits; only have it turn; start it again if it was
 * lost. */
void fleet_wake(struct fleet *fleet);
void fleet_nudge(struct fleet *fleet);
void fleet_mind(struct fleet *fleet);

/* The loop's thread: our own connection got an answer, or did not; said once each. */
void fleet_heard(struct fleet *fleet, bool heard, const char *why);
/* The loop's thread: something was proven; whoever joins is waiting. */
void fleet_tell(struct fleet *fleet);

/* The words of a command, in arrays that the caller has. */
struct fleet_words {
    const char **argv;
    size_t *sizes;
    int count;
};

static inline void fleet_word(struct fleet_words *words, const void *bytes, size_t size)
{
    words->argv[words->count] = bytes;
    words->sizes[words->count++] = size;
}

static inline void fleet_word_text(struct fleet_words *words, const char *text)
{
    fleet_word(words, text, strlen(text));
}

#endif
