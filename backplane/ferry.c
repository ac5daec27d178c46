/*
 * ferry.c - one question for the records of many callers; see ferry.h.  Above line.c, below store.c.
 *
 * A round trip costs Redis and us some ten system calls and wake-ups, whatever it carries; a record more in it costs
 * next to nothing.  So while a boat is on its way, who comes boards the next one at the pier, which leaves as soon as
 * the first is back: the busier Redis is, the fuller they go, and a lone caller's leaves at once with him.  Before it
 * leaves, those who came back with the last one may run, since they are about to ask again: else two crews form, and
 * each goes half empty.
 *
 * Who boards first is the captain: he sails, that is he asks on his own thread, and lands by handing the reply to all
 * aboard.  There is no thread of ours in between, and a whole boat is woken by one call.
 *
 * Company is for fair weather.  Who has little time left asks alone, and so does everybody for a second after a boat
 * came back without an answer, or with much to carry: a connection that broke, a value above all limits, a captain
 * whose deadline passed costs those aboard that one try, after which each asks for himself, as without ferries.  And a
 * captain waits at the pier for PIER_NS at most, and not at all where a voyage takes longer than that.
 */
#include <ferry.h>
#include <fleet.h>

#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FERRY_SEATS   32u             /* in a boat */
#define FERRY_SAILING 1u              /* boats on their way, beyond which the next waits */
#define PIER_NS       200000          /* for so long: some round trips */
#define GATHER_TIMES  8               /* so often the captain lets others run who may come along */
#define GATHER_NS     50000           /* and for how long */
#define HURRY_NS      50000000        /* who has less time left asks alone */
#define LIGHT         65536u          /* bytes; a reply of more had better come alone */
#define ALONE_NS      1000000000      /* so long after a failure, or a heavy reply, all ask alone */

/* Where a boat is, and what those who wait for it sleep on: the captain on `leave`, the others on `landed`. */
struct ferry_boat {
    struct ferry_boat *next; /* spare */
    _Atomic uint32_t leave, landed;
    _Atomic unsigned holds;
    unsigned aboard; /* under the ferry's lock while it is at the pier, then fixed; likewise the names */
    size_t sizes[FERRY_SEATS];
    char names[FERRY_SEATS][FLEET_NAME_SIZE];

    struct resp *reply; /* the captain's, and everybody's once it has landed; NULL: it came back without */
};

struct ferry {
    const struct url *url;
    struct lines *lines;
    const char *head;
    pthread_mutex_t lock; /* all below; held for a few instructions */
    struct ferry_boat *pier, *spare;
    unsigned sailing, company; /* company: aboard the last that left */
    int64_t voyage_ns;         /* that the last one took */
    _Atomic int64_t alone_ns;  /* until then all ask alone; CLOCK_BOOTTIME */
};

/* Wait until the word is set, at most to the deadline (CLOCK_BOOTTIME). */
static bool boat_await(_Atomic uint32_t *word, int64_t deadline_ns)
{
    while (!atomic_load_explicit(word, memory_order_acquire)) {
        int64_t left_ns = deadline_ns - fleet_now_ns();
        struct timespec left = {.tv_sec = left_ns / 1000000000, .tv_nsec = left_ns % 1000000000};

        if (left_ns <= 0)
            return false;
        (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, &left, NULL, 0);
    }
    return true;
}

/* Set the word, and wake who waits for it.  A boat's memory stays, so that one too many does no harm. */
static void boat_tell(_Atomic uint32_t *word)
{
    atomic_store_explicit(word, 1, memory_order_release);
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* ---- boats ---- */

/* Under the lock: a boat at the pier; NULL: no memory. */
static struct ferry_boat *ferry_boat(struct ferry *ferry)
{
    struct ferry_boat *boat = ferry->pier;

    if (boat)
        return boat;
    if ((boat = ferry->spare))
        ferry->spare = boat->next;
    else if (!(boat = malloc(sizeof *boat)))
        return NULL;
    /* Not atomic_init: whoever was told of it in its last life may be at boat_tell still. */
    atomic_store_explicit(&boat->leave, 0, memory_order_relaxed);
    atomic_store_explicit(&boat->landed, 0, memory_order_relaxed);
    atomic_store_explicit(&boat->holds, 0, memory_order_relaxed);
    boat->aboard = 0;
    boat->reply = NULL;
    return ferry->pier = boat;
}

/* One hold less. */
static void ferry_release(struct ferry *ferry, struct ferry_boat *boat)
{
    if (atomic_fetch_sub(&boat->holds, 1) > 1)
        return;
    resp_free(boat->reply);
    pthread_mutex_lock(&ferry->lock);
    boat->next = ferry->spare;
    ferry->spare = boat;
    pthread_mutex_unlock(&ferry->lock);
}

/* ---- sailing ---- */

/* The captain's way, without the lock: ask for all. */
static freshet_result ferry_cross(struct ferry *ferry, struct ferry_boat *boat, int64_t deadline_ns)
{
    const char *argv[FERRY_SEATS + 2] = {"MGET"};
    size_t sizes[FERRY_SEATS + 2] = {4};

    for (unsigned i = 0; i < boat->aboard; i++) {
        argv[i + 1] = boat->names[i];
        sizes[i + 1] = boat->sizes[i];
    }
    argv[boat->aboard + 1] = ferry->head;
    sizes[boat->aboard + 1] = strlen(ferry->head);
    return lines_ask(ferry->lines, (int)boat->aboard + 2, argv, sizes, deadline_ns, &boat->reply, NULL);
}

/* Leave the pier, when those are aboard who sailed together lately: they were woken together, and will be here in a
 * moment if they come at all.  Letting them run first costs next to nothing where nobody is there to run. */
static void ferry_leave(struct ferry *ferry, struct ferry_boat *boat)
{
    int64_t until_ns = 0;

    pthread_mutex_lock(&ferry->lock);
    for (int i = 0; i < GATHER_TIMES && boat->aboard < ferry->company; i++) {
        pthread_mutex_unlock(&ferry->lock);
        if (i == 0)
            until_ns = fleet_now_ns() + GATHER_NS;
        (void)sched_yield();
        pthread_mutex_lock(&ferry->lock);
        if (fleet_now_ns() >= until_ns) /* somebody else's work took the processor */
            break;
    }
    if (ferry->pier == boat)
        ferry->pier = NULL;
    ferry->sailing++;
    ferry->company = boat->aboard;
    pthread_mutex_unlock(&ferry->lock);
}

static size_t reply_bytes(const struct resp *reply)
{
    size_t bytes = reply->size;

    for (size_t i = 0; i < reply->count; i++)
        bytes += reply->items[i]->size;
    return bytes;
}

/* Be the captain; `wait`: for the boat before. */
static freshet_result ferry_sail(struct ferry *ferry, struct ferry_boat *boat, int64_t deadline_ns, bool wait)
{
    struct ferry_boat *next;
    freshet_result result;
    int64_t left_ns, back_ns;

    if (wait) {
        int64_t until_ns = fleet_now_ns() + PIER_NS;

        (void)boat_await(&boat->leave, until_ns < deadline_ns ? until_ns : deadline_ns);
        remote_step("ferry_leaving");
    }
    ferry_leave(ferry, boat);
    remote_step("ferry_crossing");
    left_ns = fleet_now_ns();
    result = ferry_cross(ferry, boat, deadline_ns);
    back_ns = fleet_now_ns();
    remote_step("ferry_back");
    if (result != FRESHET_OK || reply_bytes(boat->reply) > LIGHT)
        atomic_store_explicit(&ferry->alone_ns, back_ns + ALONE_NS, memory_order_relaxed);
    pthread_mutex_lock(&ferry->lock);
    ferry->sailing--;
    ferry->voyage_ns = back_ns - left_ns;
    next = ferry->pier;
    pthread_mutex_unlock(&ferry->lock);
    if (next)
        boat_tell(&next->leave);
    if (boat->aboard > 1)
        boat_tell(&boat->landed);
    return result;
}

/* Be a passenger.  FRESHET_MISS: the boat came back without an answer. */
static freshet_result ferry_ride(struct ferry *ferry, struct ferry_boat *boat, int64_t deadline_ns)
{
    char where[URL_TEXT_MAX];

    remote_step("ferry_aboard");
    if (!boat_await(&boat->landed, deadline_ns))
        return remote_fail(FRESHET_ENET, "Redis at %s did not answer before the deadline",
                           url_text(ferry->url, where, sizeof where));
    return boat->reply ? FRESHET_OK : FRESHET_MISS;
}

/* One voyage.  FRESHET_MISS: nothing to show for it, which may be another's fault. */
static freshet_result ferry_voyage(struct ferry *ferry, const char *name, size_t name_size, int64_t deadline_ns,
                                   struct ferried *ret_ferried)
{
    struct ferry_boat *boat;
    bool wait, full;
    unsigned place;
    freshet_result result;

    pthread_mutex_lock(&ferry->lock);
    if (!(boat = ferry_boat(ferry))) {
        pthread_mutex_unlock(&ferry->lock);
        return FRESHET_MISS;
    }
    place = boat->aboard++;
    atomic_fetch_add(&boat->holds, 1);
    memcpy(boat->names[place], name, name_size);
    boat->sizes[place] = name_size;
    full = boat->aboard == FERRY_SEATS;
    wait = place == 0 && ferry->sailing >= FERRY_SAILING && ferry->voyage_ns < PIER_NS;
    if (full)
        ferry->pier = NULL;
    pthread_mutex_unlock(&ferry->lock);
    if (full)
        boat_tell(&boat->leave);
    result = place == 0 ? ferry_sail(ferry, boat, deadline_ns, wait) : ferry_ride(ferry, boat, deadline_ns);
    if (result == FRESHET_OK) {
        *ret_ferried = (struct ferried){.boat = boat, .reply = boat->reply, .place = place, .count = boat->aboard};
        return FRESHET_OK;
    }
    if (place == 0 && boat->aboard > 1)
        result = FRESHET_MISS;
    ferry_release(ferry, boat);
    return result;
}

bool ferry_ask(struct ferry *ferry, const char *name, size_t name_size, int64_t deadline_ns,
               struct ferried *ret_ferried, freshet_result *ret_result)
{
    int64_t now_ns = fleet_now_ns();
    int state;

    if (name_size > FLEET_NAME_SIZE || deadline_ns - now_ns < HURRY_NS ||
        now_ns < atomic_load_explicit(&ferry->alone_ns, memory_order_relaxed))
        return false;
    /* A captain who is cancelled on the way would leave his passengers at sea. */
    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    *ret_result = ferry_voyage(ferry, name, name_size, deadline_ns, ret_ferried);
    (void)pthread_setcancelstate(state, NULL);
    return *ret_result != FRESHET_MISS;
}

void ferry_done(struct ferry *ferry, const struct ferried *ferried)
{
    ferry_release(ferry, ferried->boat);
}

/* ---- open and close ---- */

struct ferry *ferry_open(const struct url *url, struct lines *lines, const char *head)
{
    struct ferry *ferry = calloc(1, sizeof *ferry);

    if (!ferry)
        return NULL;
    ferry->url = url;
    ferry->lines = lines;
    ferry->head = head;
    pthread_mutex_init(&ferry->lock, NULL);
    return ferry;
}

void ferry_close(struct ferry *ferry)
{
    struct ferry_boat *next;

    if (!ferry)
        return;
    for (struct ferry_boat *boat = ferry->spare; boat; boat = next) {
        next = boat->next;
        free(boat);
    }
    pthread_mutex_destroy(&ferry->lock);
    free(ferry);
}
