/*
 * _async.c - freshet_async.h for an event loop: Async, one to a loop, and Call, one to each call that has to wait.
 *
 * aio.py drives it.  A begin gives a Call, which stands at DONE, at LOAD (the loader is to be called with
 * call.request, then answer) or at NONE; step() goes on with what can go on and gives the Calls that have moved.  All
 * of it happens on the loop's thread and waits for nothing, so the interpreter's lock is held but for closing.
 *
 * While a call is under way the library has a pointer to its Call, which is kept alive for it, and the cache is kept in
 * use.  The library does not tell of the end of a call that was forgotten: what it uses is let go when no other call
 * than ours is under way any more.
 */
#include "_freshet.h"

#include <freshet_async.h>

enum call_kind { CALL_GET, CALL_LOOKUP, CALL_CHANGE, CALL_GUARD, CALL_GUARD_END };

struct forgotten {
    struct forgotten *next;
    cache_object *cache;
    uint32_t generation;
};

typedef struct async_object {
    PyObject_HEAD
    state *state;
    freshet_async *async;
    PyObject *calls; /* set of the Calls under way */
    struct forgotten *forgotten;
    uint32_t born_in; /* the fork generation */
} async_object;

typedef struct call_object {
    PyObject_HEAD
    cache_object *cache;
    uint32_t generation;
    enum call_kind kind;
    freshet_event_kind at;
    freshet_call *call;
    PyObject *key;     /* of a load */
    PyObject *request; /* while the loader runs */
    PyObject *waiter;  /* aio.py's */
    PyObject *guard;   /* of a guard's end */
    freshet_result result;
    PyObject *sentence, *value;
    freshet_answer answer;
    freshet_change change;
} call_object;

/* ---- calls ---- */

static int call_traverse(PyObject *op, visitproc visit, void *arg)
{
    call_object *c = (call_object *)op;

    Py_VISIT(Py_TYPE(op));
    Py_VISIT(c->cache);
    Py_VISIT(c->key);
    Py_VISIT(c->request);
    Py_VISIT(c->waiter);
    Py_VISIT(c->guard);
    Py_VISIT(c->value);
    return 0;
}

static int call_clear(PyObject *op)
{
    call_object *c = (call_object *)op;

    Py_CLEAR(c->cache);
    Py_CLEAR(c->key);
    Py_CLEAR(c->request);
    Py_CLEAR(c->waiter);
    Py_CLEAR(c->guard);
    Py_CLEAR(c->value);
    return 0;
}

static void call_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    Py_CLEAR(((call_object *)op)->sentence);
    (void)call_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

/* The Async of this process, still open; or -1 with an exception. */
static int async_live(const async_object *a)
{
    if (a->async && a->born_in == fork_now())
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "this event loop's calls are closed, or are those of the parent process");
    return -1;
}

/* A Call that has not begun, with the cache in use.  Comes after all that may run Python code, which may close either:
 * serializers, iterators of tags. */
static call_object *call_new(async_object *a, cache_object *cache, enum call_kind kind, PyObject *key)
{
    uint32_t generation;
    call_object *c;

    if (async_live(a) < 0 || cache_enter(cache, &generation) < 0)
        return NULL;
    if (!(c = PyObject_GC_New(call_object, a->state->call))) {
        cache_leave(cache, generation);
        return NULL;
    }
    memset((char *)c + sizeof(PyObject), 0, sizeof *c - sizeof(PyObject));
    Py_INCREF(cache);
    Py_XINCREF(key);
    c->cache = cache;
    c->generation = generation;
    c->kind = kind;
    c->key = key;
    PyObject_GC_Track(c);
    return c;
}

/* It is over: whatever comes of it, the library does not know it any more. */
static void call_end(call_object *c)
{
    if (c->request)
        request_over(c->request);
    Py_CLEAR(c->request);
    c->call = NULL;
    c->at = FRESHET_EVENT_DONE;
    cache_leave(c->cache, c->generation);
}

static PyObject *guard_of(call_object *c, freshet_guard *guard)
{
    uint32_t generation;
    PyObject *object;

    if (cache_enter(c->cache, &generation) == 0) {
        if ((object = guard_new(c->cache, guard, generation)))
            return object;
        cache_leave(c->cache, generation);
    }
    (void)freshet_guard_end(guard, NULL, NULL);
    return NULL;
}

/* Keep what a finished call has brought. */
static int call_finish(call_object *c, freshet_event *event)
{
    int rc = 0;

    c->result = event->result;
    if (event->answer)
        c->answer = *event->answer;
    if (event->change)
        c->change = *event->change;
    if (event->result < 0)
        rc = (c->sentence = sentence_of(event->error ? event->error : "")) ? 0 : -1;
    else if (c->kind == CALL_GUARD && event->guard)
        rc = (c->value = guard_of(c, event->guard)) ? 0 : -1;
    else if ((c->kind == CALL_GET || c->kind == CALL_LOOKUP) &&
             (event->result == FRESHET_OK || event->result == FRESHET_STALE))
        rc = (c->value = PyBytes_FromStringAndSize(event->value.data, (Py_ssize_t)event->value.size)) ? 0 : -1;
    freshet_buf_free(&event->value);
    if (c->kind == CALL_GUARD_END)
        guard_ended(c->guard, event->result >= 0);
    call_end(c);
    return rc;
}

/* An event of this call, from wherever it came.  0, or -1 with an exception. */
static int call_event(call_object *c, freshet_event *event)
{
    c->at = event->kind;
    switch (event->kind) {
    case FRESHET_EVENT_DONE:
        return call_finish(c, event);
    case FRESHET_EVENT_LOAD:
        c->call = event->call;
        return (c->request = request_new(c->cache->state, c->key, event->request)) ? 0 : -1;
    case FRESHET_EVENT_NONE:
        c->call = event->call;
        break;
    }
    return 0;
}

/* What forgotten calls used may go: nobody but our own calls is under way. */
static void forgotten_drop(async_object *a, bool all)
{
    if (!a->forgotten || (!all && freshet_async_calls(a->async) != (uint32_t)PySet_GET_SIZE(a->calls)))
        return;
    while (a->forgotten) {
        struct forgotten *one = a->forgotten;

        a->forgotten = one->next;
        cache_leave(one->cache, one->generation);
        Py_DECREF(one->cache);
        PyMem_Free(one);
    }
}

/* Nobody wants to know any more.  Its use of the cache goes on until the library is done with it; where there is no
 * memory to note that, for ever. */
static void call_forget(async_object *a, call_object *c)
{
    struct forgotten *one = a->forgotten;

    while (one && (one->cache != c->cache || one->generation != c->generation))
        one = one->next;
    if (one) /* which keeps the cache in use for this call too */
        cache_leave(c->cache, c->generation);
    else if ((one = PyMem_Malloc(sizeof *one))) {
        Py_INCREF(c->cache);
        *one = (struct forgotten){a->forgotten, c->cache, c->generation};
        a->forgotten = one;
    }
    if (c->request)
        request_over(c->request);
    Py_CLEAR(c->request);
    freshet_async_forget(a->async, c->call);
    c->call = NULL;
    c->at = FRESHET_EVENT_NONE;
    if (c->kind == CALL_GUARD_END)
        guard_ended(c->guard, true);
}

/* The begin has come back with `result`: the Call, which is under way or done, or NULL with an exception. */
static PyObject *call_begun(async_object *a, call_object *c, freshet_result result, freshet_event *event)
{
    int rc;

    if (result < 0) {
        (void)failure(a->state, result);
        if (c->kind == CALL_GUARD_END)
            guard_ended(c->guard, false);
        call_end(c);
        Py_DECREF(c);
        return NULL;
    }
    rc = call_event(c, event);
    if (c->at != FRESHET_EVENT_DONE && PySet_Add(a->calls, (PyObject *)c) < 0)
        rc = -1;
    if (rc < 0) {
        if (c->at != FRESHET_EVENT_DONE)
            call_forget(a, c);
        Py_CLEAR(c);
    }
    return (PyObject *)c;
}

static PyObject *call_at(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong((long)((call_object *)op)->at);
}

/* The outcome of a call that is done, as its kind has it; a failure is raised. */
static PyObject *call_take(PyObject *op, PyObject *fallback)
{
    call_object *c = (call_object *)op;
    state *s = c->cache->state;
    PyObject *value = NULL;

    if (c->at != FRESHET_EVENT_DONE) {
        PyErr_SetString(PyExc_RuntimeError, "the call is still under way");
        return NULL;
    }
    if (c->result < 0)
        return failure_said(s, c->result, c->sentence);
    if (c->kind == CALL_CHANGE || c->kind == CALL_GUARD_END)
        return change_new(s, c->result, &c->change);
    if (c->value && c->kind != CALL_GUARD && c->cache->loads)
        value = PyObject_CallOneArg(c->cache->loads, c->value);
    else if ((value = c->value))
        Py_INCREF(value);
    if (!value && PyErr_Occurred())
        return NULL;
    if (c->kind == CALL_LOOKUP)
        return answer_new(c->cache, c->result, &c->answer, value);
    if (!value)
        Py_INCREF(value = fallback);
    return value;
}

static PyMemberDef call_members[] = {
    {"waiter", T_OBJECT, offsetof(call_object, waiter), 0, "who is to be told when it has moved"},
    {"request", T_OBJECT, offsetof(call_object, request), READONLY, "what the loader is told, at LOAD"},
    {0},
};

static PyGetSetDef call_getset[] = {
    {"at", call_at, NULL, "0: under way, 1: done, 2: waits for the loader", NULL},
    {0},
};

static PyMethodDef call_methods[] = {
    {"take", call_take, METH_O, "take(fallback) -> what has come of it; `fallback` for no value"},
    {0},
};

static PyType_Slot call_slots[] = {
    {Py_tp_doc, "One call of an event loop."},
    {Py_tp_traverse, call_traverse},
    {Py_tp_clear, call_clear},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_members, call_members},
    {Py_tp_getset, call_getset},
    {Py_tp_methods, call_methods},
    {0, NULL},
};

PyType_Spec call_spec = {
    .name = "freshet._freshet.Call",
    .basicsize = sizeof(call_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = call_slots,
};

/* ---- beginning ---- */

/* The first arguments of every begin: the cache and, unless `ret_key` is NULL, a key. */
static cache_object *cache_take(async_object *a, const char *method, PyObject *const *args, Py_ssize_t nargs,
                                Py_ssize_t wanted, freshet_key *ret_key)
{
    if (nargs < wanted || !PyObject_TypeCheck(args[0], a->state->cache)) {
        PyErr_Format(PyExc_TypeError, "%s() takes a cache and %zd arguments more", method, wanted - 1);
        return NULL;
    }
    if (ret_key && key_take(args[1], ret_key) < 0)
        return NULL;
    return (cache_object *)args[0];
}

/* get(cache, key, lookup, **options) */
static PyObject *async_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_event event = FRESHET_INIT(freshet_event);
    async_object *a = (async_object *)op;
    freshet_read_options read;
    freshet_result result;
    cache_object *cache;
    options o = {0};
    freshet_key key;
    call_object *c;

    if (!(cache = cache_take(a, "get", args, nargs, 3, &key)) ||
        options_take(a->state, &o, "get", OPTIONS_READ, args + nargs, kwnames) < 0 ||
        !(c = call_new(a, cache, args[2] == Py_True ? CALL_LOOKUP : CALL_GET, NULL)))
        return NULL;
    options_read(&o, &read);
    result = freshet_async_get(a->async, cache->cache, key.data, key.size, &read, c, &event);
    return call_begun(a, c, result, &event);
}

/* load(cache, key, lookup, **options) */
static PyObject *async_load(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_event event = FRESHET_INIT(freshet_event);
    async_object *a = (async_object *)op;
    freshet_load_options load;
    freshet_result result;
    cache_object *cache;
    options o = {0};
    freshet_key key;
    call_object *c;

    if (!(cache = cache_take(a, "load", args, nargs, 3, &key)) ||
        options_take(a->state, &o, "load", OPTIONS_LOAD, args + nargs, kwnames) < 0)
        return NULL;
    if (!(c = call_new(a, cache, args[2] == Py_True ? CALL_LOOKUP : CALL_GET, args[1]))) {
        options_drop(&o);
        return NULL;
    }
    options_load(&o, &load);
    result = freshet_async_load(a->async, cache->cache, key.data, key.size, &load, c, &event);
    options_drop(&o);
    return call_begun(a, c, result, &event);
}

/* put(cache, key, value, **options) */
static PyObject *async_put(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_event event = FRESHET_INIT(freshet_event);
    async_object *a = (async_object *)op;
    freshet_write_options write;
    freshet_result result;
    cache_object *cache;
    call_object *c = NULL;
    options o = {0};
    freshet_key key;
    Py_buffer view;
    bool absent;

    if (!(cache = cache_take(a, "put", args, nargs, 3, &key)) ||
        options_take(a->state, &o, "set", OPTIONS_PUT, args + nargs, kwnames) < 0)
        return NULL;
    options_write(&o, &write);
    absent = args[2] == a->state->absent || (args[2] == Py_None && !cache->dumps);
    if (!absent && value_take(cache, args[2], &view) < 0)
        goto out;
    if ((c = call_new(a, cache, CALL_CHANGE, NULL))) {
        if (absent)
            result = freshet_async_put_absent(a->async, cache->cache, key.data, key.size, &write, c, &event);
        else
            result = freshet_async_put(a->async, cache->cache, key.data, key.size, view.buf, (size_t)view.len, &write,
                                       c, &event);
        c = (call_object *)call_begun(a, c, result, &event);
    }
    if (!absent)
        PyBuffer_Release(&view);
out:
    options_drop(&o);
    return (PyObject *)c;
}

/* invalidate(cache, *keys, **options) */
static PyObject *async_invalidate(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_event event = FRESHET_INIT(freshet_event);
    async_object *a = (async_object *)op;
    freshet_write_options write;
    freshet_key *keys = NULL;
    freshet_result result;
    cache_object *cache;
    options o = {0};
    call_object *c;

    if (!(cache = cache_take(a, "invalidate", args, nargs, 2, NULL)) ||
        options_take(a->state, &o, "invalidate", OPTIONS_CHANGE, args + nargs, kwnames) < 0 ||
        !(keys = keys_take(args + 1, nargs - 1)))
        return NULL;
    options_write(&o, &write);
    if ((c = call_new(a, cache, CALL_CHANGE, NULL))) {
        result = freshet_async_invalidate(a->async, cache->cache, keys, (size_t)nargs - 1, &write, c, &event);
        c = (call_object *)call_begun(a, c, result, &event);
    }
    PyMem_Free(keys);
    return (PyObject *)c;
}

/* invalidate_tags(cache, *tags, **options) */
static PyObject *async_invalidate_tags(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_event event = FRESHET_INIT(freshet_event);
    async_object *a = (async_object *)op;
    freshet_write_options write;
    const char **tags = NULL;
    freshet_result result;
    cache_object *cache;
    options o = {0};
    call_object *c;

    if (!(cache = cache_take(a, "invalidate_tags", args, nargs, 2, NULL)) ||
        options_take(a->state, &o, "invalidate_tags", OPTIONS_CHANGE, args + nargs, kwnames) < 0 ||
        !(tags = tags_names(a->state, args + 1, nargs - 1)))
        return NULL;
    options_write(&o, &write);
    if ((c = call_new(a, cache, CALL_CHANGE, NULL))) {
        result = freshet_async_invalidate_tags(a->async, cache->cache, tags, (size_t)nargs - 1, &write, c, &event);
        c = (call_object *)call_begun(a, c, result, &event);
    }
    PyMem_Free(tags);
    return (PyObject *)c;
}

/* clear(cache, namespace or None, **options) */
static PyObject *async_clear(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_event event = FRESHET_INIT(freshet_event);
    async_object *a = (async_object *)op;
    freshet_write_options write;
    const char *name = NULL;
    freshet_result result;
    cache_object *cache;
    options o = {0};
    call_object *c;

    if (!(cache = cache_take(a, "clear", args, nargs, 2, NULL)) ||
        options_take(a->state, &o, "clear", OPTIONS_CHANGE, args + nargs, kwnames) < 0)
        return NULL;
    if (args[1] != Py_None && name_take(args[1], "a namespace", &name) < 0) {
        argument_failure(a->state);
        return NULL;
    }
    options_write(&o, &write);
    if (!(c = call_new(a, cache, CALL_CHANGE, NULL)))
        return NULL;
    if (name)
        result = freshet_async_clear_namespace(a->async, cache->cache, name, &write, c, &event);
    else
        result = freshet_async_clear(a->async, cache->cache, &write, c, &event);
    return call_begun(a, c, result, &event);
}

/* guard_begin(cache, *keys, **options) */
static PyObject *async_guard_begin(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_event event = FRESHET_INIT(freshet_event);
    async_object *a = (async_object *)op;
    freshet_guard_options guarding;
    freshet_key *keys = NULL;
    freshet_result result;
    cache_object *cache;
    options o = {0};
    call_object *c;

    if (!(cache = cache_take(a, "guard", args, nargs, 1, NULL)) ||
        options_take(a->state, &o, "guard", OPTIONS_GUARD, args + nargs, kwnames) < 0 ||
        !(keys = keys_take(args + 1, nargs - 1)))
        return NULL;
    options_guard(&o, &guarding);
    if ((c = call_new(a, cache, CALL_GUARD, NULL))) {
        result = freshet_async_guard_begin(a->async, cache->cache, keys, (size_t)nargs - 1, &guarding, c, &event);
        c = (call_object *)call_begun(a, c, result, &event);
    }
    PyMem_Free(keys);
    return (PyObject *)c;
}

/* guard_end(cache, guard, **options) */
static PyObject *async_guard_end(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_event event = FRESHET_INIT(freshet_event);
    async_object *a = (async_object *)op;
    freshet_write_options write;
    freshet_result result;
    freshet_guard *guard;
    cache_object *cache;
    options o = {0};
    call_object *c;

    if (!(cache = cache_take(a, "end", args, nargs, 2, NULL)) ||
        options_take(a->state, &o, "end", OPTIONS_CHANGE, args + nargs, kwnames) < 0)
        return NULL;
    if (!PyObject_TypeCheck(args[1], a->state->guard))
        return PyErr_Format(PyExc_TypeError, "end() takes a guard in force");
    options_write(&o, &write);
    if (!(c = call_new(a, cache, CALL_GUARD_END, NULL)))
        return NULL;
    if (!(guard = guard_lend(args[1]))) {
        call_end(c);
        Py_DECREF(c);
        return NULL;
    }
    Py_INCREF(c->guard = args[1]);
    result = freshet_async_guard_end(a->async, cache->cache, guard, &write, c, &event);
    return call_begun(a, c, result, &event);
}

/* ---- going on ---- */

/* An event of a call that is under way; who is done is no more so, whatever fails.  0, or -1 with an exception. */
static int call_moved(async_object *a, call_object *c, freshet_event *event)
{
    int rc = call_event(c, event);

    if (c->at == FRESHET_EVENT_DONE && PySet_Discard(a->calls, (PyObject *)c) < 0)
        rc = -1;
    return rc;
}

/* step() -> list of the Calls that have moved */
static PyObject *async_step(PyObject *op, PyObject *Py_UNUSED(none))
{
    freshet_event event = FRESHET_INIT(freshet_event);
    async_object *a = (async_object *)op;
    PyObject *moved = PyList_New(0);

    if (!moved || async_live(a) < 0) {
        Py_XDECREF(moved);
        return NULL;
    }
    while (freshet_async_next(a->async, &event)) {
        call_object *c = event.user;
        int rc;

        Py_INCREF(c);
        rc = call_moved(a, c, &event);
        if (PyList_Append(moved, (PyObject *)c) < 0)
            rc = -1;
        Py_DECREF(c);
        if (rc < 0)
            PyErr_WriteUnraisable(op);
        event = (freshet_event)FRESHET_INIT(freshet_event);
    }
    forgotten_drop(a, false);
    return moved;
}

static bool call_waits(const async_object *a, const call_object *c)
{
    if (async_live(a) < 0)
        return false;
    if (c->at != FRESHET_EVENT_LOAD || !c->call) {
        PyErr_SetString(PyExc_RuntimeError, "the call does not wait for a loader");
        return false;
    }
    return true;
}

/* answer(call, value or None, failed): the loader has come back. */
static PyObject *async_answer(PyObject *op, PyObject *args)
{
    freshet_event event = FRESHET_INIT(freshet_event);
    freshet_result result = FRESHET_ELOAD, rc;
    async_object *a = (async_object *)op;
    PyObject *value, *told = NULL;
    Py_buffer view = {0};
    call_object *c;
    int failed;

    if (!PyArg_ParseTuple(args, "O!Op:answer", a->state->call, &c, &value, &failed))
        return NULL;
    if (!failed && (value == a->state->absent || (value == Py_None && !c->cache->dumps)))
        result = FRESHET_ABSENT;
    else if (!failed) {
        if (value_take(c->cache, value, &view) < 0)
            return NULL;
        result = FRESHET_OK;
    }
    if (call_waits(a, c)) { /* the serializer may have closed it */
        request_over(c->request);
        Py_CLEAR(c->request);
        rc = freshet_async_answer(a->async, c->call, result, view.buf, (size_t)view.len, &event);
        if (rc < 0)
            (void)failure(a->state, rc);
        else if (call_moved(a, c, &event) == 0)
            told = Py_None;
    }
    if (view.obj)
        PyBuffer_Release(&view);
    Py_XINCREF(told);
    return told;
}

/* forget(call): nobody wants to know any more. */
static PyObject *async_forget(PyObject *op, PyObject *call)
{
    async_object *a = (async_object *)op;
    call_object *c = (call_object *)call;

    if (!PyObject_TypeCheck(call, a->state->call))
        return PyErr_Format(PyExc_TypeError, "forget() takes a Call");
    if (!c->call || !a->async || a->born_in != fork_now())
        Py_RETURN_NONE;
    call_forget(a, c);
    if (PySet_Discard(a->calls, call) < 0)
        return NULL;
    forgotten_drop(a, false);
    Py_RETURN_NONE;
}

/* The library frees the requests of the loaders that run, which other threads may have at hand. */
static void requests_over(PyObject *calls)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(calls); i++) {
        call_object *c = (call_object *)PyList_GET_ITEM(calls, i);

        if (c->request)
            request_over(c->request);
    }
}

/* The library has brought all to its end and told nobody: they have failed. */
static void calls_fail(PyObject *calls)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(calls); i++) {
        call_object *c = (call_object *)PyList_GET_ITEM(calls, i);

        if (c->kind == CALL_GUARD_END)
            guard_ended(c->guard, true);
        c->result = FRESHET_ELOAD;
        c->sentence = PyUnicode_FromString("the calls of this event loop were closed before this one had its answer");
        call_end(c);
    }
}

/* close() -> list of the Calls that were under way */
static PyObject *async_close(PyObject *op, PyObject *Py_UNUSED(none))
{
    async_object *a = (async_object *)op;
    PyObject *calls = a->calls ? PySequence_List(a->calls) : PyList_New(0);
    freshet_async *async = a->async;

    if (!calls || !async)
        return calls;
    a->async = NULL;
    requests_over(calls);
    Py_BEGIN_ALLOW_THREADS
    freshet_async_close(async);
    Py_END_ALLOW_THREADS
    calls_fail(calls);
    (void)PySet_Clear(a->calls);
    forgotten_drop(a, true);
    return calls;
}

static PyObject *async_fileno(PyObject *op, PyObject *Py_UNUSED(none))
{
    async_object *a = (async_object *)op;

    return async_live(a) < 0 ? NULL : PyLong_FromLong(freshet_async_fd(a->async));
}

static PyObject *async_count(PyObject *op, PyObject *Py_UNUSED(none))
{
    async_object *a = (async_object *)op;

    return async_live(a) < 0 ? NULL : PyLong_FromUnsignedLong(freshet_async_calls(a->async));
}

/* ---- the type ---- */

static PyObject *async_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"calls_max", "asks_max", NULL};
    freshet_async_options given = FRESHET_INIT(freshet_async_options);
    freshet_result result;
    async_object *a;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|II", names, &given.calls_max, &given.asks_max) ||
        !(a = (async_object *)type->tp_alloc(type, 0)))
        return NULL;
    a->born_in = fork_now();
    if (!(a->state = state_of(type)) || !(a->calls = PySet_New(NULL))) {
        Py_DECREF(a);
        return NULL;
    }
    if ((result = freshet_async_open(&a->async, &given)) < 0) {
        (void)failure(a->state, result);
        Py_DECREF(a);
        return NULL;
    }
    return (PyObject *)a;
}

/* The calls are not shown to the garbage collector: the library has pointers to them until they are done. */
static int async_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void async_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    Py_XDECREF(async_close(op, NULL));
    Py_CLEAR(((async_object *)op)->calls);
    type->tp_free(op);
    Py_DECREF(type);
}

#define BEGIN(name, text)                                                                                              \
    {                                                                                                                  \
        #name, (PyCFunction)(void (*)(void))async_##name, METH_FASTCALL | METH_KEYWORDS, text                          \
    }

static PyMethodDef async_methods[] = {
    BEGIN(get, "get(cache, key, lookup, **options) -> Call"),
    BEGIN(load, "load(cache, key, lookup, **options) -> Call"),
    BEGIN(put, "put(cache, key, value, **options) -> Call"),
    BEGIN(invalidate, "invalidate(cache, *keys, **options) -> Call"),
    BEGIN(invalidate_tags, "invalidate_tags(cache, *tags, **options) -> Call"),
    BEGIN(clear, "clear(cache, namespace or None, **options) -> Call"),
    BEGIN(guard_begin, "guard_begin(cache, *keys, **options) -> Call"),
    BEGIN(guard_end, "guard_end(cache, guard, **options) -> Call"),
    {"step", async_step, METH_NOARGS, "step() -> list of the Calls that have moved"},
    {"answer", async_answer, METH_VARARGS, "answer(call, value, failed)\n\nThe loader has come back."},
    {"forget", async_forget, METH_O, "forget(call)\n\nNobody wants to know any more."},
    {"close", async_close, METH_NOARGS,
     "close() -> list of the Calls that were under way\n\nBring all to its end; waits for deadlines."},
    {"fileno", async_fileno, METH_NOARGS, "fileno() -> the descriptor to watch for reading"},
    {"count", async_count, METH_NOARGS, "count() -> calls under way, forgotten ones included"},
    {0},
};

static PyType_Slot async_slots[] = {
    {Py_tp_doc, "The calls of one event loop."},
    {Py_tp_new, async_new},
    {Py_tp_traverse, async_traverse},
    {Py_tp_dealloc, async_dealloc},
    {Py_tp_methods, async_methods},
    {0, NULL},
};

PyType_Spec async_spec = {
    .name = "freshet._freshet.Async",
    .basicsize = sizeof(async_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = async_slots,
};
