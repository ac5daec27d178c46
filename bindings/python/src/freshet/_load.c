/*
 * _load.c - get or load: what the loader is told, calling it, and bringing its exception home.
 *
 * The library calls the loader on the caller's thread, under no lock of its own; the interpreter's lock is taken for
 * just so long.  An exception in the loader is kept beside the library, which only learns that the load failed, and is
 * raised when the library has come back.
 */
#include "_freshet.h"

#include <float.h>

typedef struct request_object {
    PyObject_HEAD
    state *state;
    PyObject *key;
    freshet_load_request *request; /* NULL: the loader has come back */
} request_object;

struct loading {
    cache_object *cache;
    PyObject *key, *loader;
    PyThreadState *thread;
    PyObject *type, *value, *trace; /* what the loader raised */
};

/* ---- what a loader is told ---- */

PyObject *request_new(state *s, PyObject *key, freshet_load_request *request)
{
    request_object *r = PyObject_New(request_object, s->request);

    if (!r)
        return NULL;
    Py_INCREF(key);
    r->state = s;
    r->key = key;
    r->request = request;
    return (PyObject *)r;
}

void request_over(PyObject *op)
{
    ((request_object *)op)->request = NULL;
}

static void request_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    Py_XDECREF(((request_object *)op)->key);
    PyObject_Free(op);
    Py_DECREF(type);
}

/* The library's request, while the loader runs; NULL with an exception afterwards. */
static freshet_load_request *request_live(PyObject *op)
{
    freshet_load_request *request = ((request_object *)op)->request;

    if (!request)
        PyErr_SetString(PyExc_RuntimeError, "this load request is over: use it in its loader only");
    return request;
}

static PyObject *request_key(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *key = ((request_object *)op)->key;

    Py_INCREF(key);
    return key;
}

static PyObject *request_prefer_primary(PyObject *op, void *Py_UNUSED(closure))
{
    freshet_load_request *request = request_live(op);

    return request ? PyBool_FromLong(request->prefer_primary) : NULL;
}

static PyObject *request_ttl(PyObject *op, void *Py_UNUSED(closure))
{
    freshet_load_request *request = request_live(op);

    if (!request)
        return NULL;
    if (request->ttl_ms == 0)
        Py_RETURN_NONE;
    return PyFloat_FromDouble(request->ttl_ms / 1000.0);
}

static int request_set_ttl(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    freshet_load_request *request = request_live(op);

    if (!request)
        return -1;
    if (seconds_take(value ? value : Py_None, "ttl", false, &request->ttl_ms) < 0) {
        argument_failure(((request_object *)op)->state);
        return -1;
    }
    return 0;
}

static PyObject *request_source_version(PyObject *op, void *Py_UNUSED(closure))
{
    freshet_load_request *request = request_live(op);

    return request ? PyLong_FromUnsignedLongLong(request->source_version) : NULL;
}

static int request_set_source_version(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    freshet_load_request *request = request_live(op);

    if (!request)
        return -1;
    if (!value || value == Py_None) {
        request->source_version = 0;
        return 0;
    }
    if (count_take(value, "source_version", UINT64_MAX, &request->source_version) < 0) {
        argument_failure(((request_object *)op)->state);
        return -1;
    }
    return 0;
}

static PyObject *request_tag(PyObject *op, PyObject *name)
{
    freshet_load_request *request = request_live(op);
    state *s = ((request_object *)op)->state;
    freshet_result result;
    const char *tag;

    if (!request)
        return NULL;
    if (name_take(name, "a tag", &tag) < 0) {
        argument_failure(s);
        return NULL;
    }
    result = freshet_load_tag(request, tag);
    if (result < 0)
        return failure(s, result);
    Py_RETURN_NONE;
}

static PyGetSetDef request_getset[] = {
    {"key", request_key, NULL, "the key as it was asked for", NULL},
    {"prefer_primary", request_prefer_primary, NULL,
     "a replica of your database may not have the latest change yet: ask the primary", NULL},
    {"ttl", request_ttl, request_set_ttl, "seconds that the entry will live; set another, if you know better", NULL},
    {"source_version", request_source_version, request_set_source_version,
     "set it to the row version or LSN that you read, if there is one", NULL},
    {0},
};

static PyMethodDef request_methods[] = {
    {"tag", request_tag, METH_O, "tag(name)\n\nThe answer has this tag too."},
    {0},
};

static PyType_Slot request_slots[] = {
    {Py_tp_doc, "What a loader is told, and may answer beside the value.  Ends with the loader."},
    {Py_tp_dealloc, request_dealloc},
    {Py_tp_getset, request_getset},
    {Py_tp_methods, request_methods},
    {0, NULL},
};

PyType_Spec request_spec = {
    .name = "freshet.LoadRequest",
    .basicsize = sizeof(request_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = request_slots,
};

/* ---- calling the loader ---- */

/* What the loader gave, into the library's buffer. */
static freshet_result loaded_take(cache_object *cache, PyObject *value, freshet_buf *buf)
{
    freshet_result result;
    Py_buffer view;

    if (value == cache->state->absent || (value == Py_None && !cache->dumps))
        return FRESHET_ABSENT;
    if (value_take(cache, value, &view) < 0)
        return FRESHET_ELOAD;
    result = freshet_buf_set(buf, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    if (result < 0)
        PyErr_NoMemory();
    return result;
}

static PyObject *loader_ask(struct loading *l, freshet_load_request *request)
{
    state *s = l->cache->state;
    PyObject *wants = PyObject_CallOneArg(s->wants_request, l->loader), *value;
    PyObject *told;

    if (!wants)
        return NULL;
    Py_DECREF(wants);
    if (wants != Py_True)
        return PyObject_CallNoArgs(l->loader);
    if (!(told = request_new(s, l->key, request)))
        return NULL;
    value = PyObject_CallOneArg(l->loader, told);
    request_over(told);
    Py_DECREF(told);
    return value;
}

static freshet_result loader_call(freshet_load_request *request, freshet_buf *buf, void *arg)
{
    struct loading *l = arg;
    freshet_result result = FRESHET_ELOAD;
    PyObject *value;

    PyEval_RestoreThread(l->thread);
    Py_CLEAR(l->type); /* of the call before, if it is called once more */
    Py_CLEAR(l->value);
    Py_CLEAR(l->trace);
    if ((value = loader_ask(l, request))) {
        result = loaded_take(l->cache, value, buf);
        Py_DECREF(value);
    }
    if (PyErr_Occurred())
        PyErr_Fetch(&l->type, &l->value, &l->trace);
    l->thread = PyEval_SaveThread();
    return result;
}

static void loading_raise(struct loading *l, freshet_result result)
{
    if (result == FRESHET_ELOAD && l->type) {
        PyErr_Restore(l->type, l->value, l->trace);
        return;
    }
    Py_CLEAR(l->type);
    Py_CLEAR(l->value);
    Py_CLEAR(l->trace);
    if (result < 0)
        (void)failure(l->cache->state, result);
}

/* The load in earnest, with the interpreter's lock let go.  0, or -1 with an exception. */
static int load_wait(cache_object *self, PyObject *key_object, PyObject *loader, freshet_key key, const options *o,
                     freshet_buf *buf, freshet_answer *answer, freshet_result *result)
{
    struct loading l = {.cache = self, .key = key_object, .loader = loader};
    freshet_load_options load;
    uint32_t generation;

    options_load(o, &load);
    if (cache_enter(self, &generation) < 0)
        return -1;
    l.thread = PyEval_SaveThread();
    *result = freshet_load(self->cache, key.data, key.size, &load, loader_call, &l, buf, answer);
    PyEval_RestoreThread(l.thread);
    loading_raise(&l, *result);
    cache_leave(self, generation);
    return *result < 0 ? -1 : 0;
}

/* Both public calls: the tier first, which waits for nobody; then the library's load. */
static int load_run(cache_object *self, const char *method, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                    freshet_buf *buf, freshet_answer *answer, freshet_result *result)
{
    options o = {.load = true};
    freshet_key key;
    int rc = 0;

    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError, "%s() takes a key and a loader, %zd positional arguments were given", method,
                     nargs);
        return -1;
    }
    if (key_take(args[0], &key) < 0 ||
        options_take(self->state, &o, method, OPTIONS_LOAD, args + nargs, kwnames) < 0)
        return -1;
    if (!cache_peek(self, key, &o, buf, answer, result) || (*result != FRESHET_OK && *result != FRESHET_ABSENT))
        rc = load_wait(self, args[0], args[1], key, &o, buf, answer, result);
    options_drop(&o);
    return rc;
}

static PyObject *cache_get_or_load(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    cache_object *self = (cache_object *)op;
    PyObject *value = NULL;
    freshet_buf buf = {0};
    freshet_result result;

    if (load_run(self, "get_or_load", args, nargs, kwnames, &buf, NULL, &result) == 0) {
        if (result == FRESHET_OK || result == FRESHET_STALE)
            value = value_of(self, &buf);
        else
            Py_INCREF(value = Py_None);
    }
    freshet_buf_free(&buf);
    return value;
}

static PyObject *cache_load(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    cache_object *self = (cache_object *)op;
    PyObject *value = NULL;
    freshet_buf buf = {0};
    freshet_result result;
    bool good = load_run(self, "load", args, nargs, kwnames, &buf, &answer, &result) == 0;

    if (good && (result == FRESHET_OK || result == FRESHET_STALE))
        good = (value = value_of(self, &buf)) != NULL;
    freshet_buf_free(&buf);
    return good ? answer_new(self, result, &answer, value) : NULL;
}

/* For event loops: the tier's answer, or `pending` where it has to be loaded or asked for.
 * _try_load(key, pending, lookup, **options) */
static PyObject *cache_try_load(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    cache_object *self = (cache_object *)op;
    PyObject *value = NULL;
    freshet_buf buf = {0};
    freshet_result result;
    options o = {.load = true};
    freshet_key key;
    bool good = true;

    if (nargs != 3)
        return PyErr_Format(PyExc_TypeError, "_try_load() takes a key, what says that it is pending, and a bool");
    if (key_take(args[0], &key) < 0 ||
        options_take(self->state, &o, "get_or_load", OPTIONS_LOAD, args + nargs, kwnames) < 0)
        return NULL;
    options_drop(&o);
    if (!cache_peek(self, key, &o, &buf, &answer, &result) || (result != FRESHET_OK && result != FRESHET_ABSENT)) {
        freshet_buf_free(&buf);
        Py_INCREF(args[1]);
        return args[1];
    }
    if (result == FRESHET_OK)
        good = (value = value_of(self, &buf)) != NULL;
    freshet_buf_free(&buf);
    if (!good)
        return NULL;
    if (args[2] == Py_True)
        return answer_new(self, result, &answer, value);
    if (!value)
        Py_INCREF(value = Py_None);
    return value;
}

#define LOAD_OPTIONS                                                                                                   \
    "(key, loader, *, ttl=None, absent_ttl=None, tags=(), namespace=None, ticket=None,\n"                              \
    "    level=\"bounded\", bound=None, token=None, deadline=None)"

PyMethodDef load_methods[] = {
    {"get_or_load", (PyCFunction)(void (*)(void))cache_get_or_load, METH_FASTCALL | METH_KEYWORDS,
     "get_or_load" LOAD_OPTIONS " -> value\n\nThe value, loaded by one caller for all if it is missing; None when the "
     "source has no such thing."},
    {"_try_load", (PyCFunction)(void (*)(void))cache_try_load, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"load", (PyCFunction)(void (*)(void))cache_load, METH_FASTCALL | METH_KEYWORDS,
     "load" LOAD_OPTIONS " -> Answer\n\nAs get_or_load, with what is known of the answer."},
    {0},
};
