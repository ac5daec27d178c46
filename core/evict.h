/* evict.h - who leaves the tier whether or not room is needed, and when it is needed.  Pure.  Who leaves then is
 * policy.h's business. */
#ifndef CORE_EVICT_H
#define CORE_EVICT_H

#include <control.h>
#include <record.h>

enum evict_choice { EVICT_KEEP = 0, EVICT_VOID, EVICT_EXPIRED };
/* Will any reader ever be served it again?  One of no known kind is void. */
enum evict_choice evict_choose(const struct record *record, const struct key *key, const struct control *control,
                               int64_t now_ns);
/* Pages that stay free of so many: one in 24, and 64 more. */
uint64_t evict_reserve(uint64_t pages);
/* Pages to free so that no fewer are left. */
uint64_t evict_excess(uint64_t used, uint64_t pages);

#endif
