/*
 * _freshet.c - the extension's module, and the type that freshet.Cache derives from: open, close, join, get, lookup.
 *
 * It is C against the very headers rather than a description of them, and Cache.get is its method rather than Python's,
 * because a hit is so quick that every Python frame around it would show.  See _freshet.h for threads and closing.
 */
#include "_freshet.h"

#include <pthread.h>
#include <time.h>

#define SPARE_MAX (64u << 10) /* bytes that a cache keeps for the next hit */
#define USERS_ONE UINT64_C(1)
#define USERS_MASK UINT64_C(0xffffffff)
#define USERS_ALONE UINT64_C(0x80000000) /* nobody may come in: it leaves its fleet */
#define ALONE_PAUSE_NS 1000000L

static _Atomic uint32_t fork_generation;

uint32_t fork_now(void)
{
    return atomic_load(&fork_generation);
}

static void fork_in_child(void)
{
    atomic_fetch_add(&fork_generation, 1);
    log_in_child();
}

static void fork_watch(void)
{
    (void)pthread_atfork(NULL, NULL, fork_in_child);
}

/* ---- failures and values ---- */

PyObject *sentence_of(const char *text)
{
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

PyObject *failure(state *s, freshet_result result)
{
    PyObject *sentence = sentence_of(freshet_error());

    if (sentence) {
        (void)failure_said(s, result, sentence);
        Py_DECREF(sentence);
    }
    return NULL;
}

PyObject *failure_said(state *s, freshet_result result, PyObject *sentence)
{
    PyObject *error = PyObject_CallFunction(s->error_of, "iO", (int)result, sentence ? sentence : Py_None);

    if (error) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

PyObject *value_of(cache_object *self, const freshet_buf *buf)
{
    PyObject *bytes = PyBytes_FromStringAndSize(buf->data, (Py_ssize_t)buf->size), *value;

    if (!self->loads || !bytes)
        return bytes;
    value = PyObject_CallOneArg(self->loads, bytes);
    Py_DECREF(bytes);
    return value;
}

/* ---- use and closing ---- */

static uint64_t users_of(uint32_t generation, uint64_t count)
{
    return (uint64_t)generation << 32 | count;
}

static int closed(const cache_object *self)
{
    PyErr_Format(PyExc_ValueError, "the cache %R is closed", self->name ? self->name : Py_None);
    argument_failure(self->state);
    return -1;
}

static void pause_a_little(void)
{
    struct timespec pause = {.tv_nsec = ALONE_PAUSE_NS};

    Py_BEGIN_ALLOW_THREADS
    (void)nanosleep(&pause, NULL);
    Py_END_ALLOW_THREADS
}

int cache_enter(cache_object *self, uint32_t *ret_generation)
{
    for (;;) {
        uint32_t generation = atomic_load(&fork_generation);
        uint64_t users = atomic_load(&self->users), next;

        if (!self->cache || atomic_load(&self->closing))
            return closed(self);
        if (users >> 32 != generation) /* a child: the calls that were under way are the parent's */
            next = users_of(generation, 1 + USERS_ONE);
        else if (users & USERS_ALONE) {
            pause_a_little();
            continue;
        } else if ((users & USERS_MASK) == 0)
            return closed(self);
        else
            next = users + USERS_ONE;
        if (atomic_compare_exchange_weak(&self->users, &users, next)) {
            *ret_generation = generation;
            return 0;
        }
    }
}

void cache_leave(cache_object *self, uint32_t generation)
{
    uint64_t users;
    freshet *cache;

    if (generation != atomic_load(&fork_generation))
        return; /* it was the parent's call */
    users = atomic_fetch_sub(&self->users, USERS_ONE) - USERS_ONE;
    if ((users & USERS_MASK) != 0)
        return;
    cache = self->cache;
    Py_BEGIN_ALLOW_THREADS
    freshet_close(cache);
    Py_END_ALLOW_THREADS
}

/* No more calls come in; the last that is under way closes. */
static void cache_shut(cache_object *self)
{
    PyObject *type, *value, *trace; /* what is on its way when this object goes */
    uint32_t generation;

    PyErr_Fetch(&type, &value, &trace);
    if (self->cache && cache_enter(self, &generation) == 0) {
        atomic_store(&self->open, false);
        if (!atomic_exchange(&self->closing, true))
            cache_leave(self, generation); /* that of being open */
        cache_leave(self, generation);
    }
    PyErr_Restore(type, value, trace);
}

/* ---- get and lookup ---- */

bool cache_peek(cache_object *self, freshet_key key, const options *o, freshet_buf *buf, freshet_answer *answer,
                freshet_result *result)
{
    freshet_read_options read;
    bool final;

    if (o->level == FRESHET_READ_LATEST)
        return false;
#ifdef Py_GIL_DISABLED
    uint32_t generation;

    if (cache_enter(self, &generation) < 0) {
        PyErr_Clear();
        return false;
    }
#else
    if (!atomic_load_explicit(&self->open, memory_order_relaxed))
        return false;
#endif
    options_read(o, &read);
    read.tier_only = true;
    read.probe = o->load || (!o->tier_only && atomic_load(&self->joined));
    *result = freshet_get(self->cache, key.data, key.size, &read, buf, answer);
    final = *result == FRESHET_OK || *result == FRESHET_ABSENT || *result < 0 || o->tier_only ||
            (*result == FRESHET_STALE && o->level == FRESHET_READ_ANY) || !atomic_load(&self->joined);
#ifdef Py_GIL_DISABLED
    if (final && *result < 0)
        final = false; /* leaving may close, which clears the sentence: let the full call say it */
    cache_leave(self, generation);
#endif
    return final;
}

/* The full read, which may wait.  0, or -1 with an exception. */
static int cache_ask(cache_object *self, freshet_key key, const options *o, freshet_buf *buf, freshet_answer *answer,
                     freshet_result *result)
{
    freshet_read_options read;
    uint32_t generation;

    if (cache_enter(self, &generation) < 0)
        return -1;
    options_read(o, &read);
    Py_BEGIN_ALLOW_THREADS
    *result = freshet_get(self->cache, key.data, key.size, &read, buf, answer);
    Py_END_ALLOW_THREADS
    if (*result < 0)
        (void)failure(self->state, *result);
    cache_leave(self, generation);
    return *result < 0 ? -1 : 0;
}

static int cache_read(cache_object *self, freshet_key key, const options *o, freshet_buf *buf, freshet_answer *answer,
                      freshet_result *result)
{
    if (!cache_peek(self, key, o, buf, answer, result))
        return cache_ask(self, key, o, buf, answer, result);
    if (*result >= 0)
        return 0;
    (void)failure(self->state, *result);
    return -1;
}

/* The cache's spare buffer when nobody has it, else an empty one; buffer_back gives it back or frees it. */
static bool buffer_out(cache_object *self, freshet_buf *buf)
{
    bool spare = !atomic_exchange_explicit(&self->spare_taken, true, memory_order_acquire);

    *buf = (freshet_buf){0};
    if (spare) {
        *buf = self->spare;
        self->spare = (freshet_buf){0}; /* a child that is forked meanwhile must not free it too */
    }
    return spare;
}

static void buffer_back(cache_object *self, freshet_buf *buf, bool spare)
{
    if (!spare || buf->capacity > SPARE_MAX)
        freshet_buf_free(buf);
    if (spare) {
        self->spare = *buf;
        atomic_store_explicit(&self->spare_taken, false, memory_order_release);
    }
}

static PyObject *get_value(cache_object *self, freshet_key key, const options *o)
{
    PyObject *value = NULL, *bytes = NULL;
    freshet_result result;
    freshet_buf buf;
    bool spare = buffer_out(self, &buf);
    int rc = cache_read(self, key, o, &buf, NULL, &result);

    if (rc == 0 && (result == FRESHET_OK || result == FRESHET_STALE)) {
        if ((bytes = PyBytes_FromStringAndSize(buf.data, (Py_ssize_t)buf.size)) == NULL)
            rc = -1;
    }
    buffer_back(self, &buf, spare); /* before the serializer, which may come here again */
    if (rc < 0)
        return NULL;
    if (!bytes) {
        Py_INCREF(o->fallback);
        return o->fallback;
    }
    if (!self->loads)
        return bytes;
    value = PyObject_CallOneArg(self->loads, bytes);
    Py_DECREF(bytes);
    return value;
}

static PyObject *cache_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    cache_object *self = (cache_object *)op;
    options o = {.fallback = Py_None};
    freshet_key key;

    if (nargs < 1 || nargs > 2)
        return PyErr_Format(PyExc_TypeError, "get() takes a key and a default, %zd positional arguments were given",
                            nargs);
    if (nargs == 2)
        o.fallback = args[1];
    if (key_take(args[0], &key) < 0)
        return NULL;
    if (kwnames &&
        options_take(self->state, &o, "get", OPTIONS_READ | OPTION(DEFAULT), args + nargs, kwnames) < 0)
        return NULL;
    return get_value(self, key, &o);
}

/* For event loops: as get and lookup, but where Redis is to be asked the answer is `pending`.
 * _try_get(key, default, pending, **options), _try_lookup(key, pending, **options) */
static PyObject *cache_try(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, bool lookup)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    cache_object *self = (cache_object *)op;
    PyObject *value = NULL, *pending = args[lookup ? 1 : 2];
    options o = {.fallback = lookup ? Py_None : args[1]};
    freshet_buf buf = {0};
    freshet_result result;
    freshet_key key;
    bool good = true;

    if (key_take(args[0], &key) < 0 ||
        (kwnames && options_take(self->state, &o, lookup ? "lookup" : "get", OPTIONS_READ, args + nargs, kwnames) < 0))
        return NULL;
    if (!cache_peek(self, key, &o, &buf, lookup ? &answer : NULL, &result)) {
        freshet_buf_free(&buf);
        Py_INCREF(pending);
        return pending;
    }
    if (result < 0)
        good = failure(self->state, result) != NULL;
    else if (result == FRESHET_OK || result == FRESHET_STALE)
        good = (value = value_of(self, &buf)) != NULL;
    freshet_buf_free(&buf);
    if (!good)
        return NULL;
    if (lookup)
        return answer_new(self, result, &answer, value);
    if (!value)
        Py_INCREF(value = o.fallback);
    return value;
}

static PyObject *cache_try_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (nargs != 3)
        return PyErr_Format(PyExc_TypeError, "_try_get() takes a key, a default and what says that it is pending");
    return cache_try(op, args, nargs, kwnames, false);
}

static PyObject *cache_try_lookup(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (nargs != 2)
        return PyErr_Format(PyExc_TypeError, "_try_lookup() takes a key and what says that it is pending");
    return cache_try(op, args, nargs, kwnames, true);
}

static PyObject *cache_lookup(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    cache_object *self = (cache_object *)op;
    PyObject *value = NULL;
    freshet_buf buf = {0};
    freshet_result result;
    options o = {0};
    freshet_key key;
    bool good;

    if (nargs != 1)
        return PyErr_Format(PyExc_TypeError, "lookup() takes a key, %zd positional arguments were given", nargs);
    if (key_take(args[0], &key) < 0 ||
        options_take(self->state, &o, "lookup", OPTIONS_READ, args + nargs, kwnames) < 0)
        return NULL;
    good = cache_read(self, key, &o, &buf, &answer, &result) == 0;
    if (good && (result == FRESHET_OK || result == FRESHET_STALE))
        good = (value = value_of(self, &buf)) != NULL;
    freshet_buf_free(&buf);
    return good ? answer_new(self, result, &answer, value) : NULL;
}

/* Is there a value?  1, 0, or -1 with an exception. */
static int cache_contains(PyObject *op, PyObject *key_object)
{
    freshet_result result;
    freshet_buf buf = {0};
    options o = {0};
    freshet_key key;
    int rc;

    if (key_take(key_object, &key) < 0)
        return -1;
    rc = cache_read((cache_object *)op, key, &o, &buf, NULL, &result);
    freshet_buf_free(&buf);
    return rc < 0 ? -1 : result == FRESHET_OK || result == FRESHET_STALE;
}

static PyObject *cache_subscript(PyObject *op, PyObject *key_object)
{
    cache_object *self = (cache_object *)op;
    options o = {.fallback = self->state->absent};
    freshet_key key;
    PyObject *value;

    if (key_take(key_object, &key) < 0)
        return NULL;
    value = get_value(self, key, &o);
    if (value == self->state->absent) {
        Py_CLEAR(value);
        PyErr_SetObject(PyExc_KeyError, key_object);
    }
    return value;
}

/* ---- open, join, close ---- */

static int text_or_null(PyObject *text, const char *what, const char **ret_text)
{
    *ret_text = NULL;
    return text == Py_None ? 0 : name_take(text, what, ret_text);
}

/* What __init__ was given, as the library's options.  0, or -1 with an exception. */
static int open_options(PyObject *args, PyObject *kwargs, freshet_options *o, PyObject **name, PyObject **loads,
                        PyObject **dumps)
{
    static char *names[] = {"name",   "dir",        "tier_size", "value_max", "max_staleness", "ttl",
                            "policy", "partitions", "deadline",  "loads",     "dumps",         "pool",
                            "pool_size", "pool_minimum", NULL};
    PyObject *dir = Py_None, *tier_size = NULL, *value_max = NULL, *staleness = Py_None, *ttl = Py_None,
             *partitions = NULL, *deadline = Py_None, *pool = Py_None, *pool_size = NULL, *pool_minimum = NULL;
    uint64_t size = 0, most = 0, parts = 0;
    const char *policy = "closed";

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOOOOsOOOOOOO", names, name, &dir, &tier_size, &value_max,
                                     &staleness, &ttl, &policy, &partitions, &deadline, loads, dumps, &pool, &pool_size,
                                     &pool_minimum))
        return -1;
    if (strcmp(policy, "closed") != 0 && strcmp(policy, "stale") != 0) {
        PyErr_Format(PyExc_ValueError, "policy is \"%s\": give \"closed\" or \"stale\"", policy);
        return -1;
    }
    if (text_or_null(*name, "name", &o->name) < 0 || text_or_null(dir, "dir", &o->dir) < 0 ||
        text_or_null(pool, "pool", &o->pool) < 0 ||
        (pool_size && count_take(pool_size, "pool_size", UINT64_MAX, &o->pool_size) < 0) ||
        (pool_minimum && count_take(pool_minimum, "pool_minimum", UINT64_MAX, &o->pool_minimum) < 0) ||
        (tier_size && count_take(tier_size, "tier_size", UINT64_MAX, &size) < 0) ||
        (value_max && count_take(value_max, "value_max", UINT32_MAX, &most) < 0) ||
        (partitions && count_take(partitions, "partitions", UINT32_MAX, &parts) < 0) ||
        seconds_take(staleness, "max_staleness", false, &o->max_staleness_ms) < 0 ||
        seconds_take(ttl, "ttl", false, &o->ttl_ms) < 0 ||
        seconds_take(deadline, "deadline", false, &o->deadline_ms) < 0)
        return -1;
    o->policy = strcmp(policy, "stale") == 0 ? FRESHET_SERVE_STALE : FRESHET_SERVE_NONE;
    o->tier_size = size;
    o->value_max = (uint32_t)most;
    o->partitions = (uint32_t)parts;
    return 0;
}

static int cache_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    PyObject *name = NULL, *loads = Py_None, *dumps = Py_None;
    freshet_options o = FRESHET_INIT(freshet_options);
    cache_object *self = (cache_object *)op;
    freshet_result result;
    freshet *cache = NULL;

    if (self->cache) {
        PyErr_SetString(PyExc_RuntimeError, "the cache is open already");
        return -1;
    }
    if (open_options(args, kwargs, &o, &name, &loads, &dumps) < 0) {
        argument_failure(self->state);
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    result = freshet_open(&cache, &o);
    Py_END_ALLOW_THREADS
    if (result < 0) {
        (void)failure(self->state, result);
        return -1;
    }
    Py_INCREF(name);
    self->name = name;
    if (loads != Py_None)
        Py_INCREF(self->loads = loads);
    if (dumps != Py_None)
        Py_INCREF(self->dumps = dumps);
    self->cache = cache;
    atomic_store(&self->users, users_of(atomic_load(&fork_generation), 1));
    atomic_store(&self->open, true);
    return 0;
}

static PyObject *cache_close(PyObject *op, PyObject *Py_UNUSED(none))
{
    cache_shut((cache_object *)op);
    Py_RETURN_NONE;
}

static PyObject *cache_join(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"url", "keyring", "connect_timeout", "allow_evicting_redis", NULL};
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    cache_object *self = (cache_object *)op;
    PyObject *connect = Py_None;
    freshet_result result;
    const char *url;
    uint32_t generation;
    int evicting = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sz|O$p", names, &url, &join.keyring, &connect, &evicting))
        return NULL;
    if (seconds_take(connect, "connect_timeout", false, &join.connect_ms) < 0) {
        argument_failure(self->state);
        return NULL;
    }
    join.allow_evicting_redis = evicting;
    if (cache_enter(self, &generation) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = freshet_join(self->cache, url, &join);
    Py_END_ALLOW_THREADS
    if (result >= 0)
        atomic_store(&self->joined, true);
    else
        (void)failure(self->state, result);
    cache_leave(self, generation);
    return result < 0 ? NULL : PyBool_FromLong(result == FRESHET_OK);
}

/* Nobody else may be in a call meanwhile: keep them out, or say that they are in. */
static PyObject *cache_leave_fleet(PyObject *op, PyObject *Py_UNUSED(none))
{
    cache_object *self = (cache_object *)op;
    uint32_t generation;
    uint64_t users;

    if (cache_enter(self, &generation) < 0)
        return NULL;
    atomic_store(&self->open, false);
    users = users_of(generation, 1 + USERS_ONE);
    if (!atomic_compare_exchange_strong(&self->users, &users, users | USERS_ALONE)) {
        atomic_store(&self->open, true);
        cache_leave(self, generation);
        PyObject *sentence = sentence_of("other calls or guards use this cache: end them before leave()");

        if (sentence)
            (void)failure_said(self->state, FRESHET_EBUSY, sentence);
        Py_XDECREF(sentence);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    freshet_leave(self->cache);
    Py_END_ALLOW_THREADS
    atomic_store(&self->joined, false);
    atomic_fetch_and(&self->users, ~USERS_ALONE);
    atomic_store(&self->open, true);
    cache_leave(self, generation);
    Py_RETURN_NONE;
}

static PyObject *cache_flush(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"deadline", NULL};
    cache_object *self = (cache_object *)op;
    PyObject *deadline = Py_None;
    freshet_result result;
    uint32_t ms, generation;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O", names, &deadline))
        return NULL;
    if (seconds_take(deadline, "deadline", true, &ms) < 0) {
        argument_failure(self->state);
        return NULL;
    }
    if (cache_enter(self, &generation) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = freshet_flush(self->cache, ms);
    Py_END_ALLOW_THREADS
    if (result < 0)
        (void)failure(self->state, result);
    cache_leave(self, generation);
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *cache_join_tokens(PyObject *op, PyObject *args)
{
    cache_object *self = (cache_object *)op;
    char token[FRESHET_TOKEN_SIZE] = "";
    freshet_result result;
    const char *a, *b;
    uint32_t generation;

    if (!PyArg_ParseTuple(args, "zz:join_tokens", &a, &b) || cache_enter(self, &generation) < 0)
        return NULL;
    result = freshet_token_join(self->cache, a, b, token);
    if (result < 0)
        (void)failure(self->state, result);
    cache_leave(self, generation);
    return result < 0 ? NULL : PyUnicode_FromString(token);
}

/* The fields of freshet_stats; a test compares them with the header.  Their types the compiler knows. */
#define STATS \
    STAT(hits) STAT(absents) STAT(stales) STAT(misses) STAT(redis_hits) STAT(redis_misses) STAT(loads) STAT(joined) \
    STAT(load_failures) STAT(puts) STAT(invalidations) STAT(clears) STAT(queued) STAT(resent) STAT(fills) \
    STAT(fills_dropped) STAT(fills_refused) STAT(evictions) STAT(voids) STAT(expired) STAT(frames) \
    STAT(frames_refused) STAT(renewals) STAT(renewals_failed) STAT(adoptions) STAT(repairs) STAT(takeovers) \
    STAT(reconnects) STAT(entries) STAT(bytes) STAT(tier_size) STAT(control_size) STAT(map_full) STAT(readers) \
    STAT(fence_slots) STAT(fences) STAT(partitions) STAT(outbox) STAT(processes) STAT(subscriber_pid) STAT(fleet) \
    STAT(proven_age_ms) STAT(max_staleness_ms) STAT(epoch) STAT(position) STAT(applied) STAT(floor) \
    STAT(tag_changes) STAT(tag_fences) STAT(live_bytes) STAT(index_size) STAT(memory) STAT(pool_size) \
    STAT(pool_share) STAT(pool_minimum) STAT(pool_free)

#define STAT_OBJECT(field)                                                                                             \
    _Generic((field), bool: PyBool_FromLong((long)(field)), int32_t: PyLong_FromLong((long)(field)),                   \
             int64_t: PyLong_FromLongLong((long long)(field)),                                                         \
             default: PyLong_FromUnsignedLongLong((unsigned long long)(field)))

static PyObject *stats_dict(const freshet_stats *stats)
{
    PyObject *dict = PyDict_New(), *number;

#define STAT(field)                                                                                                    \
    number = dict ? STAT_OBJECT(stats->field) : NULL;                                                                  \
    if (!number || PyDict_SetItemString(dict, #field, number) < 0)                                                     \
        Py_CLEAR(dict);                                                                                                \
    Py_XDECREF(number);
    STATS
#undef STAT
    return dict;
}

static PyObject *cache_stats(PyObject *op, PyObject *Py_UNUSED(none))
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    cache_object *self = (cache_object *)op;
    freshet_result result;
    uint32_t generation;

    if (cache_enter(self, &generation) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = freshet_stat(self->cache, &stats);
    Py_END_ALLOW_THREADS
    if (result < 0)
        (void)failure(self->state, result);
    cache_leave(self, generation);
    return result < 0 ? NULL : stats_dict(&stats);
}

/* ---- the type ---- */

static PyObject *cache_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    cache_object *self = (cache_object *)type->tp_alloc(type, 0);

    if (self && !(self->state = state_of(type))) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int cache_traverse(PyObject *op, visitproc visit, void *arg)
{
    cache_object *self = (cache_object *)op;

    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->name);
    Py_VISIT(self->loads);
    Py_VISIT(self->dumps);
    return 0;
}

static int cache_gc_clear(PyObject *op)
{
    cache_object *self = (cache_object *)op;

    Py_CLEAR(self->loads);
    Py_CLEAR(self->dumps);
    return 0;
}

static void cache_dealloc(PyObject *op)
{
    cache_object *self = (cache_object *)op;
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    cache_shut(self);
    freshet_buf_free(&self->spare);
    (void)cache_gc_clear(op);
    Py_CLEAR(self->name);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *cache_name(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *name = ((cache_object *)op)->name;

    if (!name)
        Py_RETURN_NONE;
    Py_INCREF(name);
    return name;
}

static PyObject *cache_dir(PyObject *op, void *Py_UNUSED(closure))
{
    cache_object *self = (cache_object *)op;
    uint32_t generation;
    PyObject *dir;

    if (cache_enter(self, &generation) < 0)
        return NULL;
    dir = PyUnicode_DecodeFSDefault(freshet_dir(self->cache));
    cache_leave(self, generation);
    return dir;
}

static PyObject *cache_closed(PyObject *op, void *Py_UNUSED(closure))
{
    cache_object *self = (cache_object *)op;

    return PyBool_FromLong(!self->cache || atomic_load(&self->closing));
}

static PyObject *cache_joined(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(atomic_load(&((cache_object *)op)->joined));
}

static PyGetSetDef cache_getset[] = {
    {"name", cache_name, NULL, "the cache's name, the same on every host", NULL},
    {"dir", cache_dir, NULL, "the tier's directory", NULL},
    {"closed", cache_closed, NULL, "close() was called", NULL},
    {"joined", cache_joined, NULL, "this object has joined its fleet", NULL},
    {0},
};

#define READ_OPTIONS "level=\"bounded\", bound=None, token=None, deadline=None, tier_only=False"

static PyMethodDef cache_methods[] = {
    {"get", (PyCFunction)(void (*)(void))cache_get, METH_FASTCALL | METH_KEYWORDS,
     "get(key, default=None, *, " READ_OPTIONS ") -> value or default"},
    {"lookup", (PyCFunction)(void (*)(void))cache_lookup, METH_FASTCALL | METH_KEYWORDS,
     "lookup(key, *, " READ_OPTIONS ") -> Answer"},
    {"_try_get", (PyCFunction)(void (*)(void))cache_try_get, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"_try_lookup", (PyCFunction)(void (*)(void))cache_try_lookup, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"close", cache_close, METH_NOARGS,
     "close()\n\nLeave the fleet if joined, close.  Calls and guards that are under way in other threads end first."},
    {"join", (PyCFunction)(void (*)(void))cache_join, METH_VARARGS | METH_KEYWORDS,
     "join(url, keyring, connect_timeout=None, *, allow_evicting_redis=False) -> bool\n\n"
     "True: proven fresh.  False: Redis was not reached yet; it goes on in the background."},
    {"leave", cache_leave_fleet, METH_NOARGS, "leave()\n\nLeave the fleet.  Busy while other calls or guards run."},
    {"flush", (PyCFunction)(void (*)(void))cache_flush, METH_VARARGS | METH_KEYWORDS,
     "flush(deadline=None)\n\nWait until what this process has handed to the tier is in it."},
    {"join_tokens", cache_join_tokens, METH_VARARGS, "join_tokens(a, b) -> str\n\nThe later of two in each partition."},
    {"_stats", cache_stats, METH_NOARGS, "_stats() -> dict of the library's statistics"},
    {0},
};

/* The type takes the methods of all files. */
static int methods_join(PyMethodDef *ret_methods, size_t room)
{
    PyMethodDef *const parts[] = {cache_methods, many_methods,  load_methods,
                                  change_methods, guard_methods, inspect_methods};
    size_t count = 0;

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        for (PyMethodDef *m = parts[i]; m->ml_name; m++) {
            if (count + 1 >= room)
                return -1;
            ret_methods[count++] = *m;
        }
    return 0;
}

static PyMethodDef all_methods[64];

static PyType_Slot cache_slots[] = {
    {Py_tp_doc, "What freshet.Cache derives from."},
    {Py_tp_new, cache_new},
    {Py_tp_init, cache_init},
    {Py_tp_traverse, cache_traverse},
    {Py_tp_clear, cache_gc_clear},
    {Py_tp_dealloc, cache_dealloc},
    {Py_tp_getset, cache_getset},
    {Py_tp_methods, all_methods},
    {Py_mp_subscript, cache_subscript},
    {Py_sq_contains, cache_contains},
    {0, NULL},
};

static PyType_Spec cache_spec = {
    .name = "freshet._freshet.Cache",
    .basicsize = sizeof(cache_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = cache_slots,
};

/* ---- the module ---- */

state *state_of(PyTypeObject *type)
{
    for (; type; type = type->tp_base) {
        PyObject *module = type->tp_flags & Py_TPFLAGS_HEAPTYPE ? PyType_GetModule(type) : NULL;

        if (module && PyModule_Check(module) && PyModule_GetDef(module) == &freshet_module)
            return PyModule_GetState(module);
        PyErr_Clear();
    }
    PyErr_SetString(PyExc_TypeError, "not a type of this module");
    return NULL;
}

static PyTypeObject *type_add(PyObject *module, PyType_Spec *spec, const char *name, bool made_by_us)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);

    if (!type)
        return NULL;
    if (made_by_us)
        ((PyTypeObject *)type)->tp_new = NULL;
    Py_INCREF(type);
    if (PyModule_AddObject(module, name, type) < 0) {
        Py_DECREF(type);
        Py_DECREF(type);
        return NULL;
    }
    return (PyTypeObject *)type;
}

static PyObject *import_from(const char *module, const char *name)
{
    PyObject *imported = PyImport_ImportModule(module), *found = NULL;

    if (imported) {
        found = PyObject_GetAttrString(imported, name);
        Py_DECREF(imported);
    }
    return found;
}

static int module_exec(PyObject *module)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    state *s = PyModule_GetState(module);

    (void)pthread_once(&once, fork_watch);
    if (options_init(s) < 0 || !(s->error_of = import_from("freshet.errors", "error_of")) ||
        !(s->absent = import_from("freshet._loaders", "ABSENT")) ||
        !(s->wants_request = import_from("freshet._loaders", "wants_request")) ||
        !(s->cache = type_add(module, &cache_spec, "Cache", false)) ||
        !(s->answer = type_add(module, &answer_spec, "Answer", true)) ||
        !(s->change = type_add(module, &change_spec, "Change", true)) ||
        !(s->guard = type_add(module, &guard_spec, "Guard", true)) ||
        !(s->request = type_add(module, &request_spec, "LoadRequest", true)) ||
        !(s->call = type_add(module, &call_spec, "Call", true)) ||
        !(s->async = type_add(module, &async_spec, "Async", false)))
        return -1;
    Py_INCREF(s->absent);
    if (PyModule_AddObject(module, "ABSENT", s->absent) < 0) {
        Py_DECREF(s->absent);
        return -1;
    }
    return PyModule_AddStringConstant(module, "version", freshet_version());
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    state *s = PyModule_GetState(module);

    Py_VISIT(s->cache);
    Py_VISIT(s->answer);
    Py_VISIT(s->change);
    Py_VISIT(s->guard);
    Py_VISIT(s->request);
    Py_VISIT(s->call);
    Py_VISIT(s->async);
    Py_VISIT(s->absent);
    Py_VISIT(s->error_of);
    Py_VISIT(s->wants_request);
    return 0;
}

static int module_clear(PyObject *module)
{
    state *s = PyModule_GetState(module);

    Py_CLEAR(s->cache);
    Py_CLEAR(s->answer);
    Py_CLEAR(s->change);
    Py_CLEAR(s->guard);
    Py_CLEAR(s->request);
    Py_CLEAR(s->call);
    Py_CLEAR(s->async);
    Py_CLEAR(s->absent);
    Py_CLEAR(s->error_of);
    Py_CLEAR(s->wants_request);
    for (int i = 0; i < OPTION_COUNT; i++)
        Py_CLEAR(s->options[i]);
    return 0;
}

static void module_free(void *module)
{
    (void)module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

PyModuleDef freshet_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_freshet",
    .m_doc = "The library's calls for Python; use the package freshet.",
    .m_size = sizeof(state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__freshet(void); /* Python declares it nowhere */

PyMODINIT_FUNC PyInit__freshet(void)
{
    if (methods_join(all_methods, sizeof all_methods / sizeof *all_methods) < 0) {
        PyErr_SetString(PyExc_SystemError, "too many methods: make all_methods larger");
        return NULL;
    }
    return PyModuleDef_Init(&freshet_module);
}
