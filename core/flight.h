/*
 * flight.h - one loader a key and process: the others wait for its result.
 *
 * A flight may be joined only if nothing voided the key since it took off: its start (a position) must not be below the
 * key's fence, and the host must be fresh at joining (the caller asks the judge).  What lands is handed to those
 * who wait, with its record, and they judge it again as they would any answer.
 */
#ifndef CORE_FLIGHT_H
#define CORE_FLIGHT_H

#include <control.h>
#include <record.h>

struct flights; /* one a tier and process */
struct flight;

freshet_result flights_open(struct flights **ret_flights);
void flights_close(
    struct flights *flights); /* also in a child after fork: nobody waits any more, its locks may be held by ghosts */

/* Lead or join: *ret_flight is NULL when the caller leads *without* others (no memory), else the flight.
 * True: the caller leads and must call flight_land.  `start`: the key's as-of position for a load begun now. */
bool flight_enter(struct flights *flights, const struct key *key, uint64_t start, uint64_t fence,
                  struct flight **ret_flight);
/* The leader's result: value bytes are copied for those who wait.  Frees the leader's hold. */
void flight_land(struct flights *flights, struct flight *flight, freshet_result result, const struct record *record,
                 const void *value, size_t size);
/* Wait for the leader, who began at *ret_since_ns (CLOCK_BOOTTIME); FRESHET_OK or FRESHET_ABSENT with record and value,
 * another result as landed, FRESHET_ETIMEOUT. Frees the hold. */
freshet_result flight_wait(struct flights *flights, struct flight *flight, int64_t deadline_ns,
                           struct record *ret_record, freshet_buf *buf, int64_t *ret_since_ns);

#endif
