/*
 * _guard.c - a guard in force.  freshet.Guard (guard.py) is the way to it; this is from its begin to its end.
 *
 * It keeps the cache in use: a cache that is closed while guards are in force goes when the last of them has ended.  A
 * guard that is forgotten ends here with the object, since the library would prolong it for ever.
 */
#include "_freshet.h"

typedef struct guard_object {
    PyObject_HEAD
    cache_object *cache;
    _Atomic(freshet_guard *) guard; /* NULL: ended; a thread that ends it or asks how long is left has it meanwhile */
    freshet_guard *lent;            /* to an event loop, which ends it */
    uint32_t generation;
} guard_object;

PyObject *guard_new(cache_object *self, freshet_guard *guard, uint32_t generation)
{
    guard_object *g = PyObject_GC_New(guard_object, self->state->guard);

    if (!g)
        return NULL;
    Py_INCREF(self);
    g->cache = self;
    atomic_init(&g->guard, guard);
    g->lent = NULL;
    g->generation = generation;
    PyObject_GC_Track(g);
    return (PyObject *)g;
}

static PyObject *cache_guard_begin(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_guard_options guarding;
    cache_object *self = (cache_object *)op;
    freshet_guard *guard = NULL;
    freshet_key *keys = NULL;
    freshet_result result;
    uint32_t generation;
    options o = {0};
    PyObject *made;

    if (options_take(self->state, &o, "guard", OPTIONS_GUARD, args + nargs, kwnames) < 0 ||
        !(keys = keys_take(args, nargs)))
        return NULL;
    options_guard(&o, &guarding);
    if (cache_enter(self, &generation) < 0) {
        PyMem_Free(keys);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    result = freshet_guard_begin(self->cache, keys, (size_t)nargs, &guarding, &guard);
    Py_END_ALLOW_THREADS
    PyMem_Free(keys);
    if (result == FRESHET_OK && (made = guard_new(self, guard, generation)))
        return made;
    if (result == FRESHET_OK)
        (void)freshet_guard_end(guard, NULL, NULL);
    else
        (void)failure(self->state, result);
    cache_leave(self, generation);
    return NULL;
}

/* Take the guard out of the object, so that nobody else has it. */
static freshet_guard *guard_out(guard_object *g)
{
    return atomic_exchange(&g->guard, NULL);
}

static PyObject *guard_left(PyObject *op, PyObject *Py_UNUSED(none))
{
    guard_object *g = (guard_object *)op;
    freshet_guard *guard = guard_out(g);
    int64_t left = guard ? freshet_guard_left(guard) : 0;

    if (guard)
        atomic_store(&g->guard, guard);
    return PyFloat_FromDouble((double)left / 1000.0);
}

freshet_guard *guard_lend(PyObject *op)
{
    guard_object *g = (guard_object *)op;

    if (!(g->lent = guard_out(g)))
        PyErr_SetString(PyExc_RuntimeError, "the guard has ended already");
    return g->lent;
}

void guard_ended(PyObject *op, bool gone)
{
    guard_object *g = (guard_object *)op;

    if (gone)
        cache_leave(g->cache, g->generation);
    else
        atomic_store(&g->guard, g->lent);
    g->lent = NULL;
}

static PyObject *guard_end(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_change change = FRESHET_INIT(freshet_change);
    guard_object *g = (guard_object *)op;
    state *s = g->cache->state;
    freshet_write_options write;
    freshet_result result;
    freshet_guard *guard;
    options o = {0};

    if (nargs != 0)
        return PyErr_Format(PyExc_TypeError, "end() takes no positional arguments");
    if (options_take(s, &o, "end", OPTIONS_CHANGE, args, kwnames) < 0)
        return NULL;
    options_write(&o, &write);
    if (!(guard = guard_out(g))) {
        PyErr_SetString(PyExc_RuntimeError, "the guard has ended already");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    result = freshet_guard_end(guard, &write, &change);
    Py_END_ALLOW_THREADS
    if (result < 0) { /* it is as it was */
        (void)failure(s, result);
        atomic_store(&g->guard, guard);
        return NULL;
    }
    cache_leave(g->cache, g->generation);
    return change_new(s, result, &change);
}

/* There is nothing to clear: a circle through here goes through an attribute of the cache, which has it cleared. */
static int guard_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((guard_object *)op)->cache);
    return 0;
}

static PyObject *guard_has_ended(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(!atomic_load(&((guard_object *)op)->guard));
}

static void guard_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    guard_object *g = (guard_object *)op;
    freshet_guard *guard = guard_out(g);

    PyObject_GC_UnTrack(op);
    if (guard) {
        Py_BEGIN_ALLOW_THREADS
        (void)freshet_guard_end(guard, NULL, NULL);
        Py_END_ALLOW_THREADS
        cache_leave(g->cache, g->generation);
    }
    Py_DECREF(g->cache);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyMethodDef guard_object_methods[] = {
    {"left", guard_left, METH_NOARGS, "left() -> seconds that it is still in force, even if this process died now"},
    {"end", (PyCFunction)(void (*)(void))guard_end, METH_FASTCALL | METH_KEYWORDS,
     "end(*, deadline, wait, replicas, source_version) -> Change"},
    {0},
};

static PyGetSetDef guard_getset[] = {
    {"ended", guard_has_ended, NULL, "it has ended, or is being ended by a call under way or one that was forgotten",
     NULL},
    {0},
};

static PyType_Slot guard_slots[] = {
    {Py_tp_doc, "A guard in force, from its begin to end()."},
    {Py_tp_traverse, guard_traverse},
    {Py_tp_dealloc, guard_dealloc},
    {Py_tp_getset, guard_getset},
    {Py_tp_methods, guard_object_methods},
    {0, NULL},
};

PyType_Spec guard_spec = {
    .name = "freshet._freshet.Guard",
    .basicsize = sizeof(guard_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = guard_slots,
};

PyMethodDef guard_methods[] = {
    {"_guard_begin", (PyCFunction)(void (*)(void))cache_guard_begin, METH_FASTCALL | METH_KEYWORDS,
     "_guard_begin(*keys, deadline, hold, fixed, wait) -> Guard in force"},
    {0},
};
