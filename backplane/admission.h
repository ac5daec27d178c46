/*
 * admission.h - before a host joins: is this Redis fit for a fleet, and may we do there what we must?
 */
#ifndef BACKPLANE_ADMISSION_H
#define BACKPLANE_ADMISSION_H

#include <freshet.h>
#include <stdbool.h>

struct fleet;

/* Judge what INFO says.  FRESHET_OK, or FRESHET_EREDIS with the remedy.  Pure. */
freshet_result admission_judge(const char *info, bool allow_evicting_redis, const char *redis);

/* Ask Redis: INFO, PUBLISH and SUBSCRIBE on the channels, a report on every partition.  Changes nothing on this host.
 * FRESHET_OK, FRESHET_ENET, FRESHET_EREDIS, FRESHET_EINVAL (a fleet of other values). */
freshet_result admission_ask(struct fleet *fleet, int64_t deadline_ns);

#endif
