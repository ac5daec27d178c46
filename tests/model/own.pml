/*
 * own.pml - P3 and P5: what a process of the host changes, through the outbox and a fail-over:
 * the tail is lost, the old master goes on confirming; ASKS: answers from Redis; READS: answers from the tier; RESTS:
 * what is left when all has come to rest; QUEUE: Redis does not answer in time; KILL: the writer is killed.
 */
#define DEMOTED
#define OUTBOX
#include "protocol.pml"

init {
  atomic {
    start();
    run Failover(); run Refill();
    run Writer(0);
#ifdef RESTS
    run Rest();
#endif
    run Reporter(0, 0, R1);
#ifdef R2
    run Reporter(0, 1, R2);
#endif
#ifdef ASKS
    run Asker(0)
#endif
#ifdef READS
    run Fetcher(0); run Reader(0)
#endif
  }
}
