/*
 * _change.c - the changes: put, put_absent, invalidate, tags, namespace, everything.
 *
 * All have one shape: take the arguments, let go of the interpreter's lock, call, wrap the Change.  A change that is
 * queued, outdated or guarded is an answer; only failures raise.
 */
#include "_freshet.h"

static PyObject *change_end(cache_object *self, freshet_result result, const freshet_change *change)
{
    return result < 0 ? failure(self->state, result) : change_new(self->state, result, change);
}

/* What has bytes, as bytes: a copy of anything that another thread could change while the interpreter's lock is let go,
 * when the hosts would come to have different values.  Takes `value`. */
static int bytes_take(PyObject *value, Py_buffer *ret_view)
{
    PyObject *bytes = PyBytes_FromObject(value);
    int rc = bytes ? PyObject_GetBuffer(bytes, ret_view, PyBUF_SIMPLE) : -1;

    Py_XDECREF(bytes); /* the view holds it */
    Py_DECREF(value);
    return rc;
}

/* The value as bytes: by the serializer, or any object that has bytes.  0, or -1 with an exception. */
int value_take(cache_object *self, PyObject *value, Py_buffer *ret_view)
{
    PyObject *bytes;

    if (!self->dumps) {
        if (PyObject_CheckBuffer(value)) {
            Py_INCREF(value);
            return bytes_take(value, ret_view);
        }
        PyErr_Format(PyExc_TypeError, "a value is bytes here, not %.100s: open the cache with a serializer for others",
                     Py_TYPE(value)->tp_name);
        return -1;
    }
    if (!(bytes = PyObject_CallOneArg(self->dumps, value)))
        return -1;
    if (!PyObject_CheckBuffer(bytes)) {
        PyErr_Format(PyExc_TypeError, "the serializer's dumps gave %.100s, not bytes", Py_TYPE(bytes)->tp_name);
        Py_DECREF(bytes);
        return -1;
    }
    return bytes_take(bytes, ret_view);
}

static int put_absent(cache_object *self, freshet_key key, const freshet_write_options *write, freshet_change *change,
                      freshet_result *result)
{
    uint32_t generation;

    if (cache_enter(self, &generation) < 0)
        return -1;
    Py_BEGIN_ALLOW_THREADS
    *result = freshet_put_absent(self->cache, key.data, key.size, write, change);
    Py_END_ALLOW_THREADS
    cache_leave(self, generation);
    return 0;
}

static int put_value(cache_object *self, freshet_key key, PyObject *value, const freshet_write_options *write,
                     freshet_change *change, freshet_result *result)
{
    uint32_t generation;
    Py_buffer view;

    if (value_take(self, value, &view) < 0)
        return -1;
    if (cache_enter(self, &generation) < 0) {
        PyBuffer_Release(&view);
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    *result = freshet_put(self->cache, key.data, key.size, view.buf, (size_t)view.len, write, change);
    Py_END_ALLOW_THREADS
    cache_leave(self, generation);
    PyBuffer_Release(&view);
    return 0;
}

/* set and set_absent; ABSENT as a value, and None where there is no serializer, say that there is none. */
static PyObject *put(cache_object *self, const char *method, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames, Py_ssize_t wanted)
{
    freshet_change change = FRESHET_INIT(freshet_change);
    freshet_result result = FRESHET_OK;
    freshet_write_options write;
    options o = {0};
    freshet_key key;
    PyObject *value;
    int rc;

    if (nargs != wanted)
        return PyErr_Format(PyExc_TypeError, "%s() takes %zd positional arguments, %zd were given", method, wanted,
                            nargs);
    if (key_take(args[0], &key) < 0 ||
        options_take(self->state, &o, method, OPTIONS_PUT, args + nargs, kwnames) < 0)
        return NULL;
    options_write(&o, &write);
    value = wanted == 2 ? args[1] : self->state->absent;
    if (value == self->state->absent || (value == Py_None && !self->dumps))
        rc = put_absent(self, key, &write, &change, &result);
    else
        rc = put_value(self, key, value, &write, &change, &result);
    options_drop(&o);
    return rc < 0 ? NULL : change_end(self, result, &change);
}

static PyObject *cache_set(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return put((cache_object *)op, "set", args, nargs, kwnames, 2);
}

static PyObject *cache_set_absent(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return put((cache_object *)op, "set_absent", args, nargs, kwnames, 1);
}

/* Begin a change that takes no value: its options and the right to use the cache.  0, or -1 with an exception. */
static int change_begin(cache_object *self, const char *method, PyObject *const *values, PyObject *kwnames,
                        freshet_write_options *write, uint32_t *generation)
{
    options o = {0};

    if (options_take(self->state, &o, method, OPTIONS_CHANGE, values, kwnames) < 0)
        return -1;
    options_write(&o, write);
    return cache_enter(self, generation);
}

static PyObject *cache_invalidate(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_change change = FRESHET_INIT(freshet_change);
    cache_object *self = (cache_object *)op;
    freshet_write_options write;
    freshet_result result;
    freshet_key *keys;
    uint32_t generation;

    if (nargs < 1)
        return PyErr_Format(PyExc_TypeError, "invalidate() takes one key or more");
    if (!(keys = keys_take(args, nargs)))
        return NULL;
    if (change_begin(self, "invalidate", args + nargs, kwnames, &write, &generation) < 0) {
        PyMem_Free(keys);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    result = freshet_invalidate_many(self->cache, keys, (size_t)nargs, &write, &change);
    Py_END_ALLOW_THREADS
    cache_leave(self, generation);
    PyMem_Free(keys);
    return change_end(self, result, &change);
}

static PyObject *cache_invalidate_tags(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_change change = FRESHET_INIT(freshet_change);
    cache_object *self = (cache_object *)op;
    freshet_write_options write;
    freshet_result result;
    const char **tags;
    uint32_t generation;

    if (nargs < 1)
        return PyErr_Format(PyExc_TypeError, "invalidate_tags() takes one tag or more");
    if (!(tags = tags_names(self->state, args, nargs)))
        return NULL;
    if (change_begin(self, "invalidate_tags", args + nargs, kwnames, &write, &generation) < 0) {
        PyMem_Free(tags);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    result = freshet_invalidate_tags(self->cache, tags, (size_t)nargs, &write, &change);
    Py_END_ALLOW_THREADS
    cache_leave(self, generation);
    PyMem_Free(tags);
    return change_end(self, result, &change);
}

static PyObject *cache_clear_namespace(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_change change = FRESHET_INIT(freshet_change);
    cache_object *self = (cache_object *)op;
    freshet_write_options write;
    freshet_result result;
    const char *name;
    uint32_t generation;

    if (nargs != 1)
        return PyErr_Format(PyExc_TypeError, "clear_namespace() takes the namespace's name");
    if (name_take(args[0], "a namespace", &name) < 0) {
        argument_failure(self->state);
        return NULL;
    }
    if (change_begin(self, "clear_namespace", args + nargs, kwnames, &write, &generation) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = freshet_clear_namespace(self->cache, name, &write, &change);
    Py_END_ALLOW_THREADS
    cache_leave(self, generation);
    return change_end(self, result, &change);
}

static PyObject *cache_clear(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    freshet_change change = FRESHET_INIT(freshet_change);
    cache_object *self = (cache_object *)op;
    freshet_write_options write;
    freshet_result result;
    uint32_t generation;

    if (nargs != 0)
        return PyErr_Format(PyExc_TypeError, "clear() takes no positional arguments");
    if (change_begin(self, "clear", args, kwnames, &write, &generation) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = freshet_clear(self->cache, &write, &change);
    Py_END_ALLOW_THREADS
    cache_leave(self, generation);
    return change_end(self, result, &change);
}

#define METHOD(name, text)                                                                                             \
    {                                                                                                                  \
        #name, (PyCFunction)(void (*)(void))cache_##name, METH_FASTCALL | METH_KEYWORDS, text                          \
    }

PyMethodDef change_methods[] = {
    METHOD(set, "set(key, value, *, ttl=None, tags=(), namespace=None, deadline=None, wait=\"none\", replicas=0,\n"
                "    source_version=0) -> Change\n\nStore a value for everybody."),
    METHOD(set_absent, "set_absent(key, *, ...) -> Change\n\nStore that the source has no such thing; options of set."),
    METHOD(invalidate, "invalidate(*keys, deadline=None, wait=\"none\", replicas=0, source_version=0) -> Change\n\n"
                       "Make everybody forget the keys: call it after the database's commit."),
    METHOD(invalidate_tags, "invalidate_tags(*tags, ...) -> Change\n\nMake everybody forget what has one of the tags."),
    METHOD(clear_namespace, "clear_namespace(namespace, *, ...) -> Change\n\nMake everybody forget one namespace."),
    METHOD(clear, "clear(*, ...) -> Change\n\nMake everybody forget everything in this cache."),
    {0},
};
