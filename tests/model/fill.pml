/*
 * fill.pml - P2: tickets and fills:
 * loads that began before a change; ROTATES: also across a fail-over that lost it.
 */
#define COPIES
#include "protocol.pml"

init {
  atomic {
    start(); s_val[0] = NONE;
#ifdef ROTATES
    run Failover();
#endif
    run Elsewhere(0, AGAIN);
#ifdef FULL
    run Loader(HOSTS);
#endif
    run Rest();
    run Reporter(0, 0, 1);
    run Loader(0); run Loader(HOSTS); run Reader(0)
  }
}
