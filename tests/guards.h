/*
 * guards.h - what tests of guards share: a database of one row in shared memory, and loads of it.
 *
 * The row is seen by every process of the test, as a database is, and outlives each of them.
 */
#ifndef TESTS_GUARDS_H
#define TESTS_GUARDS_H

#include <hosts.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <test.h>
#include <unistd.h>

#define GUARD_KEY "row:1"

struct database {
    _Atomic int row;        /* its content, committed */
    _Atomic int loads;      /* loaders called */
    _Atomic bool preferred; /* the last one was told to ask the primary */
    _Atomic int phase;      /* how far the processes of a test have come */
    _Atomic int64_t left;
    _Atomic int result;
};

static inline struct database *database_open(int row)
{
    struct database *database = mmap(NULL, sizeof *database, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    EXPECT(database != MAP_FAILED);
    database->row = row;
    return database;
}

static inline freshet_result database_loader(freshet_load_request *request, freshet_buf *value, void *arg)
{
    struct database *database = arg;
    char text[16];

    database->loads++;
    database->preferred = request->prefer_primary;
    snprintf(text, sizeof text, "%d", database->row);
    return freshet_buf_set(value, text, strlen(text));
}

/* Get or load: the row that it answered, -1 when it did not. */
static inline int guard_load_of(freshet *cache, const char *key, struct database *database)
{
    freshet_buf buf = {0};
    char text[16];
    int row = -1;

    if (freshet_load(cache, key, strlen(key), NULL, database_loader, database, &buf, NULL) == FRESHET_OK) {
        snprintf(text, sizeof text, "%.*s", (int)buf.size, (const char *)buf.data);
        EXPECT(sscanf(text, "%d", &row) == 1);
    }
    freshet_buf_free(&buf);
    return row;
}

static inline int guard_load(freshet *cache, struct database *database)
{
    return guard_load_of(cache, GUARD_KEY, database);
}

/* The row that the cache answers without a loader; -1: a miss. */
static inline int guard_get(freshet *cache)
{
    char text[64];
    int row = -1;

    if (host_get(cache, GUARD_KEY, text, sizeof text) == FRESHET_OK)
        EXPECT(sscanf(text, "%d", &row) == 1);
    return row;
}

/* Load once: is the answer kept, so that the next question needs no loader? */
static inline bool guard_keeps(freshet *cache, struct database *database)
{
    (void)guard_load(cache, database);
    return guard_get(cache) >= 0;
}

static inline freshet_result guard_on(freshet *cache, const char *key, uint32_t hold_ms, bool fixed,
                                      freshet_guard **ret_guard)
{
    freshet_guard_options options = FRESHET_INIT(freshet_guard_options);
    freshet_key one = {.data = key, .size = strlen(key)};

    options.hold_ms = hold_ms;
    options.fixed = fixed;
    return freshet_guard_begin(cache, &one, 1, &options, ret_guard);
}

/* A guard on the row; EXPECTs that it comes about. */
static inline freshet_guard *guard_begin(freshet *cache, uint32_t hold_ms)
{
    freshet_guard *guard = NULL;

    EXPECT_EQ(guard_on(cache, GUARD_KEY, hold_ms, false, &guard), FRESHET_OK);
    EXPECT(guard != NULL);
    return guard;
}

static inline freshet_guard *guard_begin_fixed(freshet *cache, uint32_t hold_ms)
{
    freshet_guard *guard = NULL;

    EXPECT_EQ(guard_on(cache, GUARD_KEY, hold_ms, true, &guard), FRESHET_OK);
    return guard;
}

static inline freshet_result guard_end(freshet_guard *guard)
{
    return freshet_guard_end(guard, NULL, NULL);
}

/* The claim on a host alone, and in a fleet: the file has its own struct scene, begin(scene, fleet) and end(scene). */
#define TEST_BOTH(name)                                                                                                \
    static void both_##name(struct scene *scene);                                                                      \
    TEST(name)                                                                                                         \
    {                                                                                                                  \
        struct scene scene;                                                                                            \
                                                                                                                       \
        for (int fleet = 0; fleet < 2; fleet++) {                                                                      \
            begin(&scene, fleet);                                                                                      \
            both_##name(&scene);                                                                                       \
            end(&scene);                                                                                               \
        }                                                                                                              \
    }                                                                                                                  \
    static void both_##name(struct scene *scene)

#endif
