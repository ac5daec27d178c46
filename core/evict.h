/* evict.h - who leaves when room is needed.  Pure: records and access marks in, victims out.  Void and expired
 * records first; then a second chance: a hand goes round in hash order (which is random order), a record that was
 * read since the hand last came by loses its mark and stays, one that was not leaves.  A scan's records are never
 * read again and so leave on the hand's next round; what is read stays. */
#ifndef CORE_EVICT_H
#define CORE_EVICT_H

#include <control.h>
#include <record.h>

enum evict_choice { EVICT_KEEP = 0, EVICT_VOID, EVICT_EXPIRED, EVICT_COLD };
/* What becomes of a record when the hand is at it.  `need`: room is wanted, else only void and expired ones leave,
 * and no mark is taken.  A record of no known kind (damaged rows) is void. */
enum evict_choice evict_choose(const struct record *record, const struct key *key, struct control *control,
                               int64_t now_ns, bool need);
/* Pages to free so that `used` falls below the high-water mark (85 % of `pages`, and never fewer than 32 free). */
uint64_t evict_excess(uint64_t used, uint64_t pages);

#endif
