/*
 * bound.pml - P1: the bound, of a host whose words two reporters store:
 * changes come from elsewhere; ROTATES: a replica is promoted and filled anew; DEMOTED: the old master goes on
 * answering; TRIMS: the log was trimmed; TWO: changes of two keys, ONE_SLOT: in one fence slot.
 */
#include "protocol.pml"

init {
  atomic {
    start();
    run Elsewhere(0, 0);
#ifdef TWO
    run Elsewhere(1, 0);
#endif
#ifdef ROTATES
    run Failover(); run Refill();
#endif
#ifdef TRIMS
    run Trim();
#endif
    run Reporter(0, 0, R1);
#ifdef R2
    run Reporter(0, 1, R2);
#endif
    run Fetcher(0); run Reader(0)
  }
}
