/*
 * _many.c - many keys in one call.
 *
 * The library copies all and then judges all, so the values that come out of the tier were all right at one moment; a
 * loop over get() could not promise that.  The interpreter's lock is let go of once for all keys, and the keys are held
 * by a tuple of our own meanwhile: the caller's list is his to change.
 */
#include "_freshet.h"

struct many {
    PyObject *keys; /* a tuple */
    Py_ssize_t count;
    freshet_get_item *items;
    freshet_buf *bufs;
};

static void many_free(struct many *many)
{
    for (Py_ssize_t i = 0; i < many->count && many->bufs; i++)
        freshet_buf_free(&many->bufs[i]);
    PyMem_Free(many->items);
    PyMem_Free(many->bufs);
    Py_XDECREF(many->keys);
}

static int many_take(struct many *many, PyObject *keys)
{
    size_t count;

    if (!(many->keys = PySequence_Tuple(keys)))
        return -1;
    many->count = PyTuple_GET_SIZE(many->keys);
    count = many->count ? (size_t)many->count : 1;
    many->items = PyMem_Calloc(count, sizeof *many->items);
    many->bufs = PyMem_Calloc(count, sizeof *many->bufs);
    if (!many->items || !many->bufs) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < many->count; i++) {
        freshet_key key;

        if (key_take(PyTuple_GET_ITEM(many->keys, i), &key) < 0)
            return -1;
        many->items[i].struct_size = sizeof *many->items;
        many->items[i].key = key.data;
        many->items[i].key_size = key.size;
        many->items[i].buf = &many->bufs[i];
    }
    return 0;
}

/* The keys are read.  0, or -1 with the exception of the last that failed, whose sentence the library has. */
static int many_ask(cache_object *self, struct many *many, const options *o)
{
    freshet_read_options read;
    freshet_result result;
    uint32_t generation;

    if (cache_enter(self, &generation) < 0)
        return -1;
    options_read(o, &read);
    Py_BEGIN_ALLOW_THREADS
    result = freshet_get_many(self->cache, many->items, (size_t)many->count, &read);
    Py_END_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < many->count && result == FRESHET_OK; i++)
        if (many->items[many->count - 1 - i].result < 0)
            result = many->items[many->count - 1 - i].result;
    if (result < 0)
        (void)failure(self->state, result);
    cache_leave(self, generation);
    return result < 0 ? -1 : 0;
}

/* The value of one, by the serializer; NULL with an exception. */
static PyObject *many_value(cache_object *self, const freshet_buf *buf)
{
    PyObject *bytes = PyBytes_FromStringAndSize(buf->data, (Py_ssize_t)buf->size), *value;

    if (!bytes || !self->loads)
        return bytes;
    value = PyObject_CallOneArg(self->loads, bytes);
    Py_DECREF(bytes);
    return value;
}

/* Those that were found, as a dict. */
static PyObject *many_found(cache_object *self, const struct many *many)
{
    PyObject *found = PyDict_New();

    for (Py_ssize_t i = 0; i < many->count && found; i++) {
        freshet_result result = many->items[i].result;
        PyObject *value;

        if (result != FRESHET_OK && result != FRESHET_STALE)
            continue;
        value = many_value(self, &many->bufs[i]);
        if (!value || PyDict_SetItem(found, PyTuple_GET_ITEM(many->keys, i), value) < 0)
            Py_CLEAR(found);
        Py_XDECREF(value);
    }
    return found;
}

static PyObject *cache_get_many(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    cache_object *self = (cache_object *)op;
    struct many many = {0};
    PyObject *found = NULL;
    options o = {0};

    if (nargs != 1)
        return PyErr_Format(PyExc_TypeError,
                            "get_many() takes an iterable of keys, %zd positional arguments were given", nargs);
    if (kwnames && options_take(self->state, &o, "get_many", OPTIONS_READ, args + nargs, kwnames) < 0)
        return NULL;
    if (many_take(&many, args[0]) == 0 && many_ask(self, &many, &o) == 0)
        found = many_found(self, &many);
    many_free(&many);
    return found;
}

PyMethodDef many_methods[] = {
    {"get_many", (PyCFunction)(void (*)(void))cache_get_many, METH_FASTCALL | METH_KEYWORDS,
     "get_many(keys, *, level=\"bounded\", bound=None, token=None, deadline=None, tier_only=False) -> dict\n\n"
     "Those of the keys that are found.  The values that come from the tier are as they were at one moment; what it\n"
     "lacks is asked for one after the other."},
    {0},
};
