/*
 * store.h - records in Redis: fetch, ticket, fill.  The functions are remote.h's operations of the same names.
 */
#ifndef BACKPLANE_STORE_H
#define BACKPLANE_STORE_H

#include <remote.h>
#include <renew.h>
#include <resp.h>
#include <stored.h>

enum store_agreement {
    STORE_AGREES,
    STORE_DIFFERS /* no head, another epoch, or a position below one that we know to be confirmed */
};
/* May an answer beside this head be judged by this page?  `page` is what was known before asking.  Pure. */
enum store_agreement store_agrees(const struct stored_head *head /* NULL: none */, const struct remote_part *page);

/* When was what this head stands beside proven complete?  `proof`: a look before it; asked_ns 0: none.  0: it was not.
 * Pure. */
int64_t store_proof(const struct stored_head *head, const struct remote_part *page, const struct renew_proof *proof);

/* Is this record a live entry, at Redis's time `now_us`?  Pure. */
bool store_lives(const struct stored_record *record, uint64_t clear, uint64_t now_us);

/* Must Redis's table of tags be asked about this record, or does the page know enough?  `page` as it was before the
 * record was asked for.  Pure. */
bool store_tags_matter(const struct stored_head *head, const struct remote_record *record,
                       const struct remote_part *page);
/* Does the table's answer (its word 0, then a word for each tag) leave the record standing?  Pure. */
bool store_tags_stand(const struct resp *reply, const struct stored_head *head, const struct remote_record *record);

freshet_result store_fetch(void *remote, const struct remote_key *key, int64_t bound_ns, int64_t deadline_ns,
                           struct remote_answer *answer, freshet_buf *buf);
freshet_result store_latest(void *remote, const struct remote_key *key, const struct remote_record *known,
                            int64_t deadline_ns, struct remote_answer *answer, freshet_buf *buf);
freshet_result store_ticket(void *remote, const struct remote_key *key, uint32_t ticket_ms, int64_t deadline_ns,
                            struct remote_answer *answer, freshet_buf *buf);
freshet_result store_fill(void *remote, const struct remote_key *key, const struct remote_ticket *ticket,
                          const struct remote_change *content, int64_t deadline_ns, struct remote_record *ret_record);
void store_give_back(void *remote, const struct remote_key *key, const struct remote_ticket *ticket);

#endif
