/*
 * freshet_async.h - the same calls for programs with an event loop: begun here, told of through a file descriptor.
 *
 * No thread stands behind it.  A call that must wait (for Redis, for another's load, for your loader) is set aside and
 * taken up again by freshet_async_next, on your own thread, when its descriptor says that there is something to do.  A
 * thousand calls that wait cost a thousand small stacks.  What a call means, promises and answers is in freshet.h and
 * is the same here, line for line: it is the same code.
 *
 *     freshet_async_open(&async, NULL);
 *     watch freshet_async_fd(async) for reading; when it is readable:
 *         while (freshet_async_next(async, &event)) ... look at event.kind, event.user
 *     freshet_async_get(async, cache, key, key_size, NULL, user, &event)
 *         event.kind FRESHET_EVENT_DONE: it is done already, as mostly (a hit in the tier waits for nothing)
 *         event.kind FRESHET_EVENT_NONE: it is under way; freshet_async_next will tell
 *
 * Threads  A freshet_async is one thread's: calls on it must not overlap.  Other threads may use the same freshet
 *          meanwhile, by blocking calls or with a freshet_async of their own.  After fork() the child opens its own:
 *          an inherited one can be closed and nothing else (FRESHET_EINVAL, or false).
 * Memory   What you pass in is copied and may go when the call returns, but for the cache, the `user` pointer, and
 *          on_host with its argument.  A cache is closed when none of its calls is under way.
 * Waiting  Nothing here waits for the network or for another process.  A blocking call (freshet_load) on this thread
 *          for a key that is being loaded here would wait for itself, until its deadline: use one kind of call.
 */
#ifndef FRESHET_ASYNC_H
#define FRESHET_ASYNC_H

#include <freshet.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct freshet_async freshet_async; /* the calls of one event loop */
typedef struct freshet_call freshet_call;   /* one of them, from its begin to its FRESHET_EVENT_DONE */

typedef struct freshet_async_options {
    size_t struct_size;
    uint32_t calls_max; /* under way at once, at most, then FRESHET_EBUSY; 0: 16,384 */
    uint32_t asks_max;  /* of them: how many talk to Redis at once, each on a connection of its own; the others wait in
                         * line; 0: 32 */
} freshet_async_options;

typedef enum freshet_event_kind {
    FRESHET_EVENT_NONE = 0, /* nothing to tell yet */
    FRESHET_EVENT_DONE = 1, /* the call has come to its end */
    FRESHET_EVENT_LOAD = 2  /* call your loader with `request`, and say freshet_async_answer when it has come back */
} freshet_event_kind;

typedef struct freshet_event {
    size_t struct_size;
    freshet_event_kind kind;
    freshet_call *call; /* with NONE and LOAD: for _answer and _forget; NULL with DONE */
    void *user;         /* as it was given */
    /* of FRESHET_EVENT_DONE: */
    freshet_result result;
    const char *error; /* a failure's sentence; it, answer and change live until the next call on this freshet_async */
    freshet_buf value; /* of a get or load: yours now, to be freed with freshet_buf_free */
    const freshet_answer *answer; /* of a get or load */
    const freshet_change *change; /* of a change, and of a guard's end */
    freshet_guard *guard;         /* of freshet_async_guard_begin, with FRESHET_OK */
    /* of FRESHET_EVENT_LOAD: */
    freshet_load_request *request; /* lives until the answer; set ttl_ms, source_version and tags in it before that */
} freshet_event;

/* FRESHET_ENOMEM, FRESHET_EIO (no descriptors left). */
FRESHET_API freshet_result freshet_async_open(freshet_async **ret_async, const freshet_async_options *options);
/* Bring all that is under way to its end (a running load fails, everything else has its deadline, for which this
 * waits), tell nobody, free.  A NULL is welcome.  Not from on_host or the log callback, where nothing happens. */
FRESHET_API void freshet_async_close(freshet_async *async);

/* Readable when freshet_async_next should be called.  Watch it (poll, epoll, kqueue's like: level-triggered); do not
 * read it, nor close it. */
FRESHET_API int freshet_async_fd(const freshet_async *async);
/* Go on with what can go on, and tell one thing that has happened; false: nothing more for now (event->kind is
 * FRESHET_EVENT_NONE).  Call it until it says so, or a few times a turn: the descriptor stays readable. */
FRESHET_API bool freshet_async_next(freshet_async *async, freshet_event *event);
/* How many calls are under way, forgotten ones included. */
FRESHET_API uint32_t freshet_async_calls(const freshet_async *async);

/* Begin a call.  FRESHET_OK: *event tells how it stands, DONE, LOAD or NONE.  A failure: it was not begun, and *event
 * is as it was (FRESHET_EINVAL, FRESHET_ENOMEM, FRESHET_EBUSY, FRESHET_ETOOBIG); whatever else can go wrong is in
 * event->result when it is done.
 * Options and their meaning are those of the blocking calls. */
FRESHET_API freshet_result freshet_async_get(freshet_async *async, freshet *cache, const void *key, size_t key_size,
                                             const freshet_read_options *options, void *user, freshet_event *event);
FRESHET_API freshet_result freshet_async_load(freshet_async *async, freshet *cache, const void *key, size_t key_size,
                                              const freshet_load_options *options, void *user, freshet_event *event);
FRESHET_API freshet_result freshet_async_put(freshet_async *async, freshet *cache, const void *key, size_t key_size,
                                             const void *value, size_t value_size, const freshet_write_options *options,
                                             void *user, freshet_event *event);
FRESHET_API freshet_result freshet_async_put_absent(freshet_async *async, freshet *cache, const void *key,
                                                    size_t key_size, const freshet_write_options *options, void *user,
                                                    freshet_event *event);
FRESHET_API freshet_result freshet_async_invalidate(freshet_async *async, freshet *cache, const freshet_key *keys,
                                                    size_t count, const freshet_write_options *options, void *user,
                                                    freshet_event *event);
FRESHET_API freshet_result freshet_async_invalidate_tags(freshet_async *async, freshet *cache, const char *const *tags,
                                                         size_t count, const freshet_write_options *options, void *user,
                                                         freshet_event *event);
FRESHET_API freshet_result freshet_async_clear_namespace(freshet_async *async, freshet *cache, const char *name_space,
                                                         const freshet_write_options *options, void *user,
                                                         freshet_event *event);
FRESHET_API freshet_result freshet_async_clear(freshet_async *async, freshet *cache,
                                               const freshet_write_options *options, void *user, freshet_event *event);
FRESHET_API freshet_result freshet_async_guard_begin(freshet_async *async, freshet *cache, const freshet_key *keys,
                                                     size_t count, const freshet_guard_options *options, void *user,
                                                     freshet_event *event);
/* As freshet_guard_end; `cache` is the guard's. */
FRESHET_API freshet_result freshet_async_guard_end(freshet_async *async, freshet *cache, freshet_guard *guard,
                                                   const freshet_write_options *options, void *user,
                                                   freshet_event *event);

/* The loader has come back: `result` is FRESHET_OK with the value, FRESHET_ABSENT, or a failure.  The call goes on;
 * *event tells how it stands, as from a begin.  (It may ask for another load: see freshet_load.)  FRESHET_EINVAL: the
 * call does not wait for a loader. */
FRESHET_API freshet_result freshet_async_answer(freshet_async *async, freshet_call *call, freshet_result result,
                                                const void *value, size_t value_size, freshet_event *event);

/* Nobody wants to know any more: no event of this call comes from now on, and `call` means nothing any more.  A load
 * that waits for your loader fails, so that others may load; a guard that comes to be begun is ended; a change goes on
 * to its confirmation all the same. */
FRESHET_API void freshet_async_forget(freshet_async *async, freshet_call *call);

#ifdef __cplusplus
}
#endif
#endif
