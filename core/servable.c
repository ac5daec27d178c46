/*
 * servable.c - may this answer be served now?  Pure over record, page and clock; servable.h tells the order and why.
 *
 * A proof from the future can only be a damaged page, or two processors' clocks a hair apart.  The hair counts as age
 * 0, more as no proof at all: such a word would otherwise keep everything fresh for ever.
 */
#include <servable.h>

#include <clock.h>

#define CLOCK_HAIR_NS CLOCK_NS_PER_MS

static inline uint64_t servable_word(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

/* What may have voided it by its tags; most records have none, so the call is paid by those that have. */
static __attribute__((noinline)) enum verdict servable_tags(const struct record *record, const struct control *control,
                                                            uint32_t partition)
{
    if (control_outbox_pending_tags(control, partition, record->tags, record->tag_count))
        return VOID_PENDING;
    if (control_tags_changed(control, partition, record->tags, record->tag_count, record->born))
        return VOID_TAG;
    return SERVABLE;
}

/* What voids the answer whatever the time: SERVABLE when nothing does. */
static inline enum verdict servable_void(const struct record *record, const struct control *control,
                                         const struct control_part *part, const struct key *key, uint64_t epoch)
{
    if (record->epoch != epoch)
        return VOID_EPOCH;
    /* Its fleet is chosen, but it has met no history of it yet: what it knew on its own is no answer there. */
    if (__builtin_expect(epoch == 0, 0) && control_fleet(control) != 0)
        return VOID_EPOCH;
    if (record->as_of < servable_word(&part->floor))
        return VOID_FLOOR;
    if (control_outbox_pending(control, key))
        return VOID_PENDING;
    if (record->as_of < servable_word(control_fence(control, key->partition, key->slot)))
        return VOID_FENCE;
    if (record->born < servable_word(&part->clear))
        return VOID_CLEAR;
    if (__builtin_expect(record->tag_count > 0, 0))
        return servable_tags(record, control, key->partition);
    return SERVABLE;
}

/* How old the proof is; -1: there is none. */
static inline int64_t servable_age(int64_t now_ns, int64_t proven_ns)
{
    if (proven_ns <= 0 || proven_ns > now_ns + CLOCK_HAIR_NS)
        return -1;
    return now_ns > proven_ns ? now_ns - proven_ns : 0;
}

enum verdict servable(const struct record *record, const struct control *control, const struct key *key,
                      int64_t bound_ns, int64_t proof_ns, struct judgement *ret_judgement)
{
    const struct control_part *part = &control->parts[key->partition];
    uint64_t proven, epoch;
    enum verdict verdict;
    int64_t now_ns, age_ns, own_ns;

    atomic_thread_fence(memory_order_acquire); /* the copy is behind us, on every machine */
    proven = servable_word(&part->proven);
    epoch = servable_word(&part->epoch);
    verdict = servable_void(record, control, part, key, epoch);
    now_ns = clock_boot_ns(); /* the last thing read */

    own_ns = servable_age(now_ns, control_proof_ns(proven, epoch));
    age_ns = servable_age(now_ns, proof_ns);
    if (age_ns < 0 || (own_ns >= 0 && own_ns < age_ns))
        age_ns = own_ns;
    if (epoch == 0)
        age_ns = 0;
    *ret_judgement = (struct judgement){.now_ns = now_ns, .age_ns = age_ns};
    if (verdict != SERVABLE)
        return verdict;
    if (record->expires_ns <= now_ns)
        return VOID_EXPIRED;
    if (epoch != 0 && (age_ns < 0 || age_ns >= bound_ns))
        return TOO_OLD;
    return SERVABLE;
}

const char *verdict_name(enum verdict verdict)
{
    switch (verdict) {
    case SERVABLE:
        return "";
    case VOID_EPOCH:
        return "epoch";
    case VOID_FLOOR:
        return "floor";
    case VOID_FENCE:
        return "fence";
    case VOID_PENDING:
        return "pending";
    case VOID_CLEAR:
        return "clear";
    case VOID_TAG:
        return "tag";
    case VOID_EXPIRED:
        return "expired";
    case TOO_OLD:
        return "age";
    }
    return "?";
}
