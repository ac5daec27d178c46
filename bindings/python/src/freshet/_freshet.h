/*
 * _freshet.h - what the files of the extension share.
 *
 * Everything is declared in the library's own headers; here are only the Python objects around it.  A call comes in
 * through _freshet.c, its keyword options are read by _options.c, what comes out is wrapped by _answers.c.
 *
 * Threads  A hit in the tier waits for nobody, so it is looked up with the interpreter's lock held; whatever may wait
 *          lets go of it.  Nothing here is shared between calls but the module's state, which is read only, and the
 *          cache's spare buffer, which one call at a time takes.
 * Closing  Another thread may be in a call when the cache is closed: the last one out closes it (cache_enter).
 */
#ifndef FRESHET_PYTHON_H
#define FRESHET_PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <freshet.h>
#include <freshet_fleet.h>
#include <stdatomic.h>
#include <structmember.h>

enum option {
    OPTION_LEVEL,
    OPTION_BOUND,
    OPTION_TOKEN,
    OPTION_DEADLINE,
    OPTION_TIER_ONLY,
    OPTION_DEFAULT,
    OPTION_TTL,
    OPTION_ABSENT_TTL,
    OPTION_TICKET,
    OPTION_TAGS,
    OPTION_NAMESPACE,
    OPTION_WAIT,
    OPTION_REPLICAS,
    OPTION_SOURCE_VERSION,
    OPTION_HOLD,
    OPTION_FIXED,
    OPTION_COUNT
};

#define OPTION(name)   (1u << OPTION_##name)
#define OPTIONS_READ   (OPTION(LEVEL) | OPTION(BOUND) | OPTION(TOKEN) | OPTION(DEADLINE) | OPTION(TIER_ONLY))
#define OPTIONS_LOAD                                                                                                   \
    (OPTION(LEVEL) | OPTION(BOUND) | OPTION(TOKEN) | OPTION(DEADLINE) | OPTION(TTL) | OPTION(ABSENT_TTL) |             \
     OPTION(TICKET) | OPTION(TAGS) | OPTION(NAMESPACE))
#define OPTIONS_CHANGE (OPTION(DEADLINE) | OPTION(WAIT) | OPTION(REPLICAS) | OPTION(SOURCE_VERSION))
#define OPTIONS_PUT    (OPTIONS_CHANGE | OPTION(TTL) | OPTION(TAGS) | OPTION(NAMESPACE))
#define OPTIONS_GUARD  (OPTION(DEADLINE) | OPTION(HOLD) | OPTION(FIXED) | OPTION(WAIT))

typedef struct state {
    PyTypeObject *cache, *answer, *change, *guard, *request, *call, *async;
    PyObject *absent;                    /* the sentinel */
    PyObject *error_of;                  /* freshet.errors.error_of(result, sentence) -> exception */
    PyObject *wants_request;             /* freshet._loaders.wants_request(loader) -> bool */
    PyObject *options[OPTION_COUNT];     /* their names, interned */
} state;

/* Keyword options as the library takes them.  Strings are borrowed from the caller's arguments. */
typedef struct options {
    freshet_read_level level;
    uint32_t bound_ms, deadline_ms, ttl_ms, absent_ttl_ms, ticket_ms, hold_ms, replicas;
    bool tier_only, fixed;
    bool load; /* what comes after a look into the tier is a load */
    freshet_wait wait;
    uint64_t source_version;
    const char *token, *name_space;
    PyObject *fallback; /* "default", borrowed */
    PyObject *tags;     /* owned; the names below are in it */
    const char *tag_names[FRESHET_TAGS_MAX];
    size_t tag_count;
} options;


typedef struct cache_object {
    PyObject_HEAD
    state *state;
    freshet *cache;
    PyObject *name;
    PyObject *loads, *dumps; /* NULL: bytes in, bytes out */
    freshet_buf spare;       /* for hits; whoever sets `spare_taken` has it */
    atomic_bool spare_taken;
    atomic_bool joined;      /* a miss may be worth asking Redis */
    atomic_bool open;        /* calls may come in */
    atomic_bool closing;
    _Atomic uint64_t users;  /* fork generation << 32 | the calls and guards that use `cache`, and one for being open */
} cache_object;

/* In the module's file. */
extern PyModuleDef freshet_module;
state *state_of(PyTypeObject *type);
/* Begin and end to use self->cache: 0 and *ret_generation, or -1 with an exception since it is closed. */
int cache_enter(cache_object *self, uint32_t *ret_generation);
void cache_leave(cache_object *self, uint32_t generation);
/* The exception of a failure, with the sentence that the library has for this thread; NULL. */
PyObject *failure(state *s, freshet_result result);
/* The library's sentence as a str, whatever bytes of a path or of Redis are in it. */
PyObject *sentence_of(const char *text);
/* The same with the sentence given, a str. */
PyObject *failure_said(state *s, freshet_result result, PyObject *sentence);
/* The fork generation: a child's is another. */
uint32_t fork_now(void);
/* The value's bytes as an object, by the cache's serializer; NULL with an exception. */
PyObject *value_of(cache_object *self, const freshet_buf *buf);
/* A look into the tier that waits for nobody; true: *result is final. */
bool cache_peek(cache_object *self, freshet_key key, const options *o, freshet_buf *buf, freshet_answer *answer,
                freshet_result *result);

/* _options.c */
int options_init(state *s);
int options_take(state *s, options *o, const char *method, uint32_t allowed, PyObject *const *values,
                 PyObject *kwnames);
void options_drop(options *o);
void argument_failure(state *s);
int key_take(PyObject *key, freshet_key *ret_key);
int name_take(PyObject *name, const char *what, const char **ret_name);
int seconds_take(PyObject *value, const char *what, bool zero, uint32_t *ret_ms);
int count_take(PyObject *value, const char *what, uint64_t most, uint64_t *ret_count);
void options_write(const options *o, freshet_write_options *write);
void options_load(const options *o, freshet_load_options *load);
void options_guard(const options *o, freshet_guard_options *guard);
/* Arrays to be freed with PyMem_Free, borrowing from the arguments; NULL with an exception. */
freshet_key *keys_take(PyObject *const *args, Py_ssize_t count);
const char **tags_names(state *s, PyObject *const *args, Py_ssize_t count);
void options_read(const options *o, freshet_read_options *read);

/* _answers.c */
extern PyType_Spec answer_spec, change_spec;
/* Milliseconds as seconds; None below 0. */
PyObject *seconds_or_none(int64_t ms);
PyObject *answer_new(cache_object *self, freshet_result result, const freshet_answer *answer, PyObject *value);
PyObject *change_new(state *s, freshet_result result, const freshet_change *change);

/* _load.c */
extern PyType_Spec request_spec;
extern PyMethodDef load_methods[];
PyObject *request_new(state *s, PyObject *key, freshet_load_request *request);
/* The loader has come back: the request says no more. */
void request_over(PyObject *request);

/* _change.c, _guard.c */
/* The value as bytes; ret_view is to be released.  0, or -1 with an exception. */
int value_take(cache_object *self, PyObject *value, Py_buffer *ret_view);
PyObject *guard_new(cache_object *self, freshet_guard *guard, uint32_t generation);
extern PyMethodDef change_methods[];
extern PyType_Spec guard_spec;
extern PyMethodDef guard_methods[];
/* Lend the guard in force to an event loop that ends it, NULL with an exception; it has ended, or is as it was. */
freshet_guard *guard_lend(PyObject *guard);
void guard_ended(PyObject *guard, bool gone);

/* _async.c */
extern PyType_Spec call_spec, async_spec;

/* _many.c */
extern PyMethodDef many_methods[];

/* _inspect.c */
extern PyMethodDef inspect_methods[];
extern PyMethodDef module_methods[];
void log_in_child(void);

#endif
