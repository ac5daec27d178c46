/*
 * guard.pml - P2: guards:
 * OVERLAP: two on one key; PASSES: their deadline passes; DIES: a holder dies before the end.
 */
#include "protocol.pml"

init {
  atomic {
    start();
    run Guarded(0, 1, 0);
#ifdef OVERLAP
    run Guarded(0, 2, 0);
#endif
#ifdef PASSES
    run Deadline(0);
#endif
    run Rest();
    run Loader(HOSTS); run Loader(HOSTS)
  }
}
