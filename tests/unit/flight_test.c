/*
 * flight_test.c - one loader a key and process: who leads, who waits, and who must not be handed an overtaken load.
 */
#include "../test.h"

#include <clock.h>
#include <flight.h>
#include <pthread.h>
#include <string.h>

static struct key key_of(const char *text)
{
    struct key_space space = {.partitions = 1, .fence_slots = 64};
    struct key key;

    key_space_name(&space, "flights");
    key_make(&key, &space, text, strlen(text));
    return key;
}

struct waiter {
    struct flights *flights;
    struct flight *flight;
    freshet_result result;
    freshet_buf buf;
    struct record record;
    int64_t since_ns;
};

static void *wait_for_landing(void *arg)
{
    struct waiter *waiter = arg;

    waiter->result = flight_wait(waiter->flights, waiter->flight, clock_boot_ns() + 10 * CLOCK_NS_PER_S,
                                 &waiter->record, &waiter->buf, &waiter->since_ns);
    return NULL;
}

TEST(the_first_leads_and_the_second_gets_its_value)
{
    struct flights *flights;
    struct flight *lead;
    struct key key = key_of("k");
    struct waiter waiter = {0};
    struct record record = {.kind = RECORD_VALUE, .as_of = 7};
    pthread_t thread;

    EXPECT(flights_open(&flights) == FRESHET_OK);
    EXPECT(flight_enter(flights, &key, 7, 7, &lead));
    waiter.flights = flights;
    EXPECT(!flight_enter(flights, &key, 8, 7, &waiter.flight));
    EXPECT(waiter.flight == lead);
    EXPECT(pthread_create(&thread, NULL, wait_for_landing, &waiter) == 0);
    flight_land(flights, lead, FRESHET_OK, &record, "value", 5);
    EXPECT(pthread_join(thread, NULL) == 0);
    EXPECT(waiter.result == FRESHET_OK);
    EXPECT(waiter.buf.size == 5 && memcmp(waiter.buf.data, "value", 5) == 0);
    EXPECT(waiter.record.as_of == 7);
    freshet_buf_free(&waiter.buf);
    flights_close(flights);
}

TEST(a_flight_below_the_fence_is_not_joined_and_loses_its_place)
{
    struct flights *flights;
    struct flight *old, *next, *third;
    struct key key = key_of("k");

    EXPECT(flights_open(&flights) == FRESHET_OK);
    EXPECT(flight_enter(flights, &key, 7, 7, &old));
    EXPECT(flight_enter(flights, &key, 9, 8, &next)); /* a change at 8: who comes now leads a flight of its own */
    EXPECT(next != old);
    EXPECT(!flight_enter(flights, &key, 9, 8, &third));
    EXPECT(third == next);
    flight_land(flights, old, FRESHET_OK, NULL, "old", 3);
    flight_land(flights, next, FRESHET_ELOAD, NULL, NULL, 0);
    struct record record;
    freshet_buf buf = {0};
    int64_t since_ns;
    EXPECT(flight_wait(flights, third, 0, &record, &buf, &since_ns) == FRESHET_ELOAD);
    flights_close(flights);
}

TEST(who_waits_in_vain_leaves_at_its_deadline)
{
    struct flights *flights;
    struct flight *lead, *other;
    struct key key = key_of("k");
    struct record record;
    freshet_buf buf = {0};
    int64_t since_ns;

    EXPECT(flights_open(&flights) == FRESHET_OK);
    EXPECT(flight_enter(flights, &key, 1, 0, &lead));
    EXPECT(!flight_enter(flights, &key, 1, 0, &other));
    EXPECT(flight_wait(flights, other, clock_boot_ns() + 5 * CLOCK_NS_PER_MS, &record, &buf, &since_ns) ==
           FRESHET_ETIMEOUT);
    flight_land(flights, lead, FRESHET_OK, NULL, "late", 4);
    EXPECT(flight_enter(flights, &key, 1, 0, &lead)); /* landed: the next is a new one */
    flight_land(flights, lead, FRESHET_OK, NULL, "", 0);
    flights_close(flights);
}

TEST(different_keys_fly_apart)
{
    struct flights *flights;
    struct flight *a, *b;
    struct key one = key_of("one"), two = key_of("two");

    EXPECT(flights_open(&flights) == FRESHET_OK);
    EXPECT(flight_enter(flights, &one, 1, 0, &a));
    EXPECT(flight_enter(flights, &two, 1, 0, &b));
    flight_land(flights, a, FRESHET_OK, NULL, "", 0);
    flight_land(flights, b, FRESHET_OK, NULL, "", 0);
    flights_close(flights);
}
