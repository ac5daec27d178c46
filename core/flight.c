/*
 * flight.c - one loader a key and process; see flight.h.  Below freshet.c, above nothing but memory and a mutex.
 *
 * Flights are loads that run right now: of threads a few, of event loops (async.c) thousands.  One mutex serves, with
 * lists by hash, and each flight has its own condition, so that a landing wakes nobody else's.  A flight lives as long
 * as somebody holds it: its leader until landing, each who waits until it has copied the result.
 */
#include <buf.h>
#include <clock.h>
#include <fiber.h>
#include <log.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <flight.h>

#define AIR_LISTS 1024u

struct flight {
    struct flight *next;    /* in the air; off the list once landed or overtaken */
    pthread_cond_t landing; /* told of once it has landed */
    uint8_t hash[16];
    void *key; /* the full key: hashes may collide */
    uint32_t key_size;
    uint64_t start;
    int64_t since_ns;
    unsigned holds;
    bool landed;
    freshet_result result;
    struct record record;
    freshet_buf value;
};

struct flights {
    pthread_mutex_t lock;
    struct flight *air[AIR_LISTS]; /* by hash */
};

freshet_result flights_open(struct flights **ret_flights)
{
    struct flights *flights = calloc(1, sizeof *flights);

    if (!flights)
        return fail(FRESHET_ENOMEM, "no memory for a table of loads");
    pthread_mutex_init(&flights->lock, NULL);
    *ret_flights = flights;
    return FRESHET_OK;
}

void flights_close(struct flights *flights)
{
    if (!flights)
        return;
    pthread_mutex_destroy(&flights->lock);
    free(flights);
}

static void flight_free(struct flight *flight)
{
    pthread_cond_destroy(&flight->landing);
    freshet_buf_free(&flight->value);
    free(flight->key);
    free(flight);
}

static struct flight **flights_list(struct flights *flights, const uint8_t hash[16])
{
    return &flights->air[(hash[0] | hash[1] << 8) % AIR_LISTS];
}

/* Under the lock: take it off the list, so that nobody joins any more. */
static void flight_ground(struct flights *flights, struct flight *flight)
{
    struct flight **link = flights_list(flights, flight->hash);

    while (*link && *link != flight)
        link = &(*link)->next;
    if (*link)
        *link = flight->next;
}

static struct flight *flight_make(const struct key *key, uint64_t start)
{
    struct flight *flight = calloc(1, sizeof *flight);
    pthread_condattr_t monotonic;

    if (!flight)
        return NULL;
    flight->key = malloc(key->size);
    if (!flight->key) {
        free(flight);
        return NULL;
    }
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&flight->landing, &monotonic);
    pthread_condattr_destroy(&monotonic);
    memcpy(flight->key, key->data, key->size);
    memcpy(flight->hash, key->hash, sizeof flight->hash);
    flight->key_size = key->size;
    flight->start = start;
    flight->since_ns = clock_boot_ns();
    flight->holds = 1;
    return flight;
}

bool flight_enter(struct flights *flights, const struct key *key, uint64_t start, uint64_t fence,
                  struct flight **ret_flight)
{
    struct flight **list = flights_list(flights, key->hash), *flight;
    bool lead = true;

    pthread_mutex_lock(&flights->lock);
    for (flight = *list; flight; flight = flight->next)
        if (memcmp(flight->hash, key->hash, sizeof flight->hash) == 0 && flight->key_size == key->size &&
            memcmp(flight->key, key->data, key->size) == 0)
            break;
    if (flight && flight->start >= fence) {
        flight->holds++;
        lead = false;
    } else {
        if (flight) /* overtaken by a change: whoever comes now must not get its result */
            flight_ground(flights, flight);
        flight = flight_make(key, start);
        if (flight) {
            flight->next = *list;
            *list = flight;
        }
    }
    *ret_flight = flight;
    pthread_mutex_unlock(&flights->lock);
    return lead;
}

void flight_land(struct flights *flights, struct flight *flight, freshet_result result, const struct record *record,
                 const void *value, size_t size)
{
    bool last;

    if (!flight)
        return;
    pthread_mutex_lock(&flights->lock);
    flight_ground(flights, flight);
    flight->landed = true;
    flight->result = result;
    if (record)
        flight->record = *record;
    if (flight->holds > 1 && result == FRESHET_OK && freshet_buf_set(&flight->value, value, size) != FRESHET_OK)
        flight->result = FRESHET_ENOMEM;
    last = --flight->holds == 0;
    if (!last)
        wait_tell(&flight->landing);
    pthread_mutex_unlock(&flights->lock);
    if (last)
        flight_free(flight);
}

freshet_result flight_wait(struct flights *flights, struct flight *flight, int64_t deadline_ns,
                           struct record *ret_record, freshet_buf *buf, int64_t *ret_since_ns)
{
    freshet_result result = FRESHET_ETIMEOUT;
    bool last;

    pthread_mutex_lock(&flights->lock);
    while (!flight->landed)
        if (!wait_news(&flight->landing, &flights->lock, deadline_ns))
            break;
    if (flight->landed) {
        result = flight->result;
        *ret_record = flight->record;
        *ret_since_ns = flight->since_ns;
        if (result == FRESHET_OK)
            result = freshet_buf_set(buf, flight->value.data, flight->value.size);
    }
    last = --flight->holds == 0;
    pthread_mutex_unlock(&flights->lock);
    if (last)
        flight_free(flight);
    return result;
}
