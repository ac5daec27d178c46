/*
 * renew.h - proven-at: ask for the head, compare it with what is applied, repair, adopt a new epoch.
 *
 * A question notes the time before it is sent.  When everything that its answer's position counts is in the fences,
 * the host was complete at that time: remote_prove.  Who holds the seat asks, per partition: a quarter of the bound
 * after the last time, and as soon as the channel hints at news.  A caller's thread that meets another epoch asks on
 * its own line, to adopt at once; it proves nothing.
 */
#ifndef BACKPLANE_RENEW_H
#define BACKPLANE_RENEW_H

#include <answer.h>
#include <remote.h>

struct fleet;
struct loop_timer;

/* What was known when a report was sent. */
struct renew_asked {
    struct remote_part page;
    int64_t asked_ns;
    bool insist; /* it claimed our position, so that a server with a lower one begins a new epoch */
};

/* How far a position may be beyond Redis's clock (PROTOCOL.md: scripts begin no epoch further off), in us: 2^50. */
#define RENEW_REACH (UINT64_C(1) << 50)

enum renew_verdict {
    RENEW_SAME,  /* our history: apply what is new, then it is proven */
    RENEW_MOVED, /* the page met another epoch while the question was on its way: ask again */
    RENEW_ADOPT, /* a newer history */
    RENEW_LOST,  /* our epoch, but a position below one that was confirmed: writes were lost; insist */
    RENEW_OLDER, /* another epoch with a lower position: an older history; find the master anew, then insist */
    RENEW_BEYOND /* a position that no honest history has: a forger's; whoever adopted it would refuse all others */
};

/* What does this answer mean?  `epoch` is the page's now.  Pure. */
enum renew_verdict renew_judge(const struct renew_asked *asked, uint64_t epoch, const struct answer *answer);

/* What a report says beside the common head. */
struct renew_report {
    struct answer answer;
    uint64_t clear, max_staleness_ms;
    const uint8_t *registry;    /* its id, 16 bytes */
    const struct resp *entries; /* NULL: none */
};
/* Take a report's answer apart; false: it is none (answer.status tells).  Pure. */
bool renew_read(struct renew_report *ret_report, const struct resp *reply);

/* A partition as the loop's thread sees it. */
struct renew_part {
    struct fleet *fleet;
    uint32_t partition;
    bool asking;      /* one report is on its way; never two */
    bool again;       /* and another is wanted after it */
    bool later;       /* one is wanted when the short timer fires */
    bool insist;      /* the next one claims our position */
    bool catching_up; /* the log came in pieces: `question` and `target` are still the first one's */
    struct remote_question question;
    uint64_t target;
    uint64_t resent_epoch; /* the epoch for which the recent changes were queued once more */
    struct renew_asked asked;
    char ahead[64]; /* the frame that somebody waits for, as the next report tells it; "": none */
};

struct renew {
    struct renew_part parts[FRESHET_PARTITIONS_MAX];
    struct loop_timer *timer;
    struct loop_timer *later; /* gathers what the channel brings into one look */
    bool later_set;
    uint32_t wait_ms; /* for an answer */
};

/* ---- the loop's thread ---- */

bool renew_init(struct fleet *fleet);
void renew_fini(struct fleet *fleet);
void renew_start(struct fleet *fleet); /* we hold the seat: renew from now on, as long as we do */
void renew_look_soon(struct fleet *fleet, uint32_t partition); /* something may be new */
void renew_look_later(struct fleet *fleet,
                      uint32_t partition); /* in some milliseconds, once for all that came until then */
void renew_look_all(struct fleet *fleet);
/* The fences of a frame that somebody waits for are up: tell the fleet, at once. */
void renew_tell(struct fleet *fleet, uint32_t partition, uint64_t position, uint64_t writer, uint64_t counter);

/* ---- any other thread ---- */

/* Ask on the caller's own line, adopt a newer epoch, learn the clock.  FRESHET_OK: the page is in Redis's epoch;
 * FRESHET_MISS: it could not be brought there (an older history; with `insist` it is told to begin a new one);
 * FRESHET_EINVAL: the fleet was made with other values; else as lines_script. */
freshet_result renew_look(struct fleet *fleet, uint32_t partition, bool insist, int64_t deadline_ns);
/* What a look shows of the server: it was the master, and at `position` of `epoch`, some time after `asked_ns`. */
struct renew_proof {
    int64_t asked_ns;
    uint64_t epoch, position;
};
/* A look whose answer is to prove what is read after it: whatever has at least this position in this epoch has all
 * that was confirmed before asked_ns. */
freshet_result renew_look_proof(struct fleet *fleet, uint32_t partition, int64_t deadline_ns,
                                struct renew_proof *ret_proof);
/* The same question, only to see whether the fleet is as we are: changes nothing on this host. */
freshet_result renew_check(struct fleet *fleet, uint32_t partition, int64_t deadline_ns);

#endif
