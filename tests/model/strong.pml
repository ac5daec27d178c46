/*
 * strong.pml - P4: strong writes, two hosts:
 * GUARDS: the strong write is a guard's begin, and what is read follows the database's commit; ROTATES: the
 * registry is lost; LEAVES: one process of a host goes while another comes.
 */
#define HOSTS 2
#include "protocol.pml"

init {
  atomic {
    start();
    t_val[ON(1, 0)] = 0; t_asof[ON(1, 0)] = 1; t_born[ON(1, 0)] = 1; t_epoch[ON(1, 0)] = 1;
#ifdef ROTATES
    run Failover(); run Refill();
#endif
#ifdef GUARDS
    run Guarded(0, 1, 1);
    run Loader(1);
#else
    run Strong(0);
#endif
#ifdef LEAVES
    run Leaver(1);
#endif
    run Reporter(1, 1, R1);
#ifdef FULL
    run Reporter(0, 0, 1); run Fetcher(1); run Reader(0);
#endif
    run Reader(1)
  }
}
