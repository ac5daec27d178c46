/*
 * _options.c - from Python's arguments to the library's options: keys, durations, keyword options.
 *
 * One table of names serves every call; a call says which of them it takes.  Durations come in seconds and go on in
 * milliseconds, rounded up, since a duration that is rounded to nothing would mean "the default".
 */
#include "_freshet.h"

#include <math.h>

static const char *const option_names[OPTION_COUNT] = {
    [OPTION_LEVEL] = "level",
    [OPTION_BOUND] = "bound",
    [OPTION_TOKEN] = "token",
    [OPTION_DEADLINE] = "deadline",
    [OPTION_TIER_ONLY] = "tier_only",
    [OPTION_DEFAULT] = "default",
    [OPTION_TTL] = "ttl",
    [OPTION_ABSENT_TTL] = "absent_ttl",
    [OPTION_TICKET] = "ticket",
    [OPTION_TAGS] = "tags",
    [OPTION_NAMESPACE] = "namespace",
    [OPTION_WAIT] = "wait",
    [OPTION_REPLICAS] = "replicas",
    [OPTION_SOURCE_VERSION] = "source_version",
    [OPTION_HOLD] = "hold",
    [OPTION_FIXED] = "fixed",
};

int options_init(state *s)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if (!(s->options[i] = PyUnicode_InternFromString(option_names[i])))
            return -1;
    return 0;
}

/* ---- single values ---- */

int key_take(PyObject *key, freshet_key *ret_key)
{
    Py_ssize_t size;

    if (PyUnicode_Check(key)) {
        if (!(ret_key->data = PyUnicode_AsUTF8AndSize(key, &size)))
            return -1;
        ret_key->size = (size_t)size;
        return 0;
    }
    if (PyBytes_Check(key)) {
        ret_key->data = PyBytes_AS_STRING(key);
        ret_key->size = (size_t)PyBytes_GET_SIZE(key);
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "a key is str or bytes, not %.100s", Py_TYPE(key)->tp_name);
    return -1;
}

int name_take(PyObject *name, const char *what, const char **ret_name)
{
    freshet_key text;

    if (!PyUnicode_Check(name) && !PyBytes_Check(name)) {
        PyErr_Format(PyExc_TypeError, "%s is str or bytes, not %.100s", what, Py_TYPE(name)->tp_name);
        return -1;
    }
    if (key_take(name, &text) < 0)
        return -1;
    if (strlen(text.data) != text.size) {
        PyErr_Format(PyExc_ValueError, "%s has a zero byte in it", what);
        return -1;
    }
    *ret_name = text.data;
    return 0;
}

freshet_key *keys_take(PyObject *const *args, Py_ssize_t count)
{
    freshet_key *keys = PyMem_Malloc(((size_t)count + 1) * sizeof *keys);

    if (!keys)
        return (freshet_key *)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++)
        if (key_take(args[i], &keys[i]) < 0) {
            PyMem_Free(keys);
            return NULL;
        }
    return keys;
}

const char **tags_names(state *s, PyObject *const *args, Py_ssize_t count)
{
    const char **tags = PyMem_Malloc(((size_t)count + 1) * sizeof *tags);

    if (!tags)
        return (const char **)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++)
        if (name_take(args[i], "a tag", &tags[i]) < 0) {
            argument_failure(s);
            PyMem_Free(tags);
            return NULL;
        }
    return tags;
}

/* Seconds to milliseconds, rounded up.  None is 0, "the default"; `zero`: 0 seconds are as little as can be. */
int seconds_take(PyObject *value, const char *what, bool zero, uint32_t *ret_ms)
{
    double seconds, ms;

    if (value == Py_None) {
        *ret_ms = 0;
        return 0;
    }
    seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    ms = ceil(seconds * 1000.0 - 1e-6);
    if (!(seconds >= 0) || (seconds == 0 && !zero) || ms > (double)UINT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s is %R: give %s seconds up to %u, or None for the default", what, value,
                     zero ? "0 or more" : "more than 0", UINT32_MAX / 1000u);
        return -1;
    }
    *ret_ms = ms < 1 ? 1 : (uint32_t)ms;
    return 0;
}

int count_take(PyObject *value, const char *what, uint64_t most, uint64_t *ret_count)
{
    PyObject *number = PyNumber_Index(value);
    unsigned long long count;

    if (!number)
        return -1;
    count = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    if (count == (unsigned long long)-1 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError) && !PyErr_ExceptionMatches(PyExc_TypeError))
            return -1;
        PyErr_Clear();
        count = most;
        if (most == UINT64_MAX)
            goto range;
        count++;
    }
    if (count > most) {
    range:
        PyErr_Format(PyExc_ValueError, "%s is %R: give 0 to %llu", what, value, (unsigned long long)most);
        return -1;
    }
    *ret_count = count;
    return 0;
}

static int small_take(PyObject *value, const char *what, uint32_t *ret_count)
{
    uint64_t count;

    if (count_take(value, what, UINT32_MAX, &count) < 0)
        return -1;
    *ret_count = (uint32_t)count;
    return 0;
}

static int bool_take(PyObject *value, bool *ret_bool)
{
    int truth = PyObject_IsTrue(value);

    *ret_bool = truth > 0;
    return truth < 0 ? -1 : 0;
}

/* Which of the words `value` is. */
static int word_take(PyObject *value, const char *what, const char *const *words, int count, int *ret_which)
{
    if (PyUnicode_Check(value))
        for (int i = 0; i < count; i++)
            if (PyUnicode_CompareWithASCIIString(value, words[i]) == 0) {
                *ret_which = i;
                return 0;
            }
    PyErr_Format(PyExc_ValueError, "%s is %R: give \"%s\", \"%s\"%s%s%s", what, value, words[0], words[1],
                 count > 2 ? " or \"" : "", count > 2 ? words[2] : "", count > 2 ? "\"" : "");
    return -1;
}

static int level_take(PyObject *value, options *o)
{
    static const char *const words[] = {"bounded", "any", "latest"};
    int which;

    if (word_take(value, "level", words, 3, &which) < 0)
        return -1;
    o->level = (freshet_read_level)which;
    return 0;
}

static int wait_take(PyObject *value, options *o)
{
    static const char *const words[] = {"none", "hosts"};
    int which;

    if (word_take(value, "wait", words, 2, &which) < 0)
        return -1;
    o->wait = (freshet_wait)which;
    return 0;
}

static int tags_take(PyObject *value, options *o)
{
    if (value == Py_None)
        return 0;
    if (PyUnicode_Check(value) || PyBytes_Check(value)) {
        PyErr_Format(PyExc_TypeError, "tags is one name, %R: give a sequence of names", value);
        return -1;
    }
    if (!(o->tags = PySequence_Tuple(value)))
        return -1;
    if (PyTuple_GET_SIZE(o->tags) > (Py_ssize_t)FRESHET_TAGS_MAX) {
        PyErr_Format(PyExc_ValueError, "%zd tags: give at most %u", PyTuple_GET_SIZE(o->tags), FRESHET_TAGS_MAX);
        return -1;
    }
    for (; o->tag_count < (size_t)PyTuple_GET_SIZE(o->tags); o->tag_count++)
        if (name_take(PyTuple_GET_ITEM(o->tags, (Py_ssize_t)o->tag_count), "a tag", &o->tag_names[o->tag_count]) < 0)
            return -1;
    return 0;
}

/* ---- keyword options ---- */

static int option_set(options *o, enum option option, PyObject *value)
{
    switch (option) {
    case OPTION_LEVEL:
        return level_take(value, o);
    case OPTION_BOUND:
        return seconds_take(value, "bound", true, &o->bound_ms);
    case OPTION_TOKEN:
        return value == Py_None ? 0 : name_take(value, "token", &o->token);
    case OPTION_DEADLINE:
        return seconds_take(value, "deadline", true, &o->deadline_ms);
    case OPTION_TIER_ONLY:
        return bool_take(value, &o->tier_only);
    case OPTION_DEFAULT:
        o->fallback = value;
        return 0;
    case OPTION_TTL:
        return seconds_take(value, "ttl", false, &o->ttl_ms);
    case OPTION_ABSENT_TTL:
        return seconds_take(value, "absent_ttl", false, &o->absent_ttl_ms);
    case OPTION_TICKET:
        return seconds_take(value, "ticket", false, &o->ticket_ms);
    case OPTION_TAGS:
        return tags_take(value, o);
    case OPTION_NAMESPACE:
        return value == Py_None ? 0 : name_take(value, "namespace", &o->name_space);
    case OPTION_WAIT:
        return wait_take(value, o);
    case OPTION_REPLICAS:
        return small_take(value, "replicas", &o->replicas);
    case OPTION_SOURCE_VERSION:
        return value == Py_None ? 0 : count_take(value, "source_version", UINT64_MAX, &o->source_version);
    case OPTION_HOLD:
        return seconds_take(value, "hold", false, &o->hold_ms);
    case OPTION_FIXED:
        return bool_take(value, &o->fixed);
    case OPTION_COUNT:
        break;
    }
    return -1;
}

/* Which option `name` is; OPTION_COUNT: none.  Names in calls are interned nearly always. */
static enum option option_find(const state *s, PyObject *name)
{
    int i;

    for (i = 0; i < OPTION_COUNT; i++)
        if (s->options[i] == name)
            return (enum option)i;
    for (i = 0; i < OPTION_COUNT; i++)
        if (PyUnicode_Compare(s->options[i], name) == 0)
            break;
    return (enum option)i;
}

/* A plain ValueError from above becomes the package's own InvalidArgument, which is one too. */
void argument_failure(state *s)
{
    PyObject *type, *value, *trace, *text, *error;

    if (!PyErr_Occurred() || !s->error_of)
        return;
    PyErr_Fetch(&type, &value, &trace);
    if (type != PyExc_ValueError || !(text = PyObject_Str(value))) {
        PyErr_Restore(type, value, trace);
        return;
    }
    error = PyObject_CallFunction(s->error_of, "iO", (int)FRESHET_EINVAL, text);
    Py_DECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    if (error) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

/* Read the keyword options of a call, of those `allowed`.  0, or -1 with an exception and nothing kept.  *o holds
 * zeros and `fallback` before. */
int options_take(state *s, options *o, const char *method, uint32_t allowed, PyObject *const *values,
                 PyObject *kwnames)
{
    Py_ssize_t count = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;

    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        enum option option = option_find(s, name);

        if (option == OPTION_COUNT || !(allowed & (1u << option))) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", method, name);
            options_drop(o);
            return -1;
        }
        if (option_set(o, option, values[i]) < 0) {
            argument_failure(s);
            options_drop(o);
            return -1;
        }
    }
    return 0;
}

void options_drop(options *o)
{
    Py_CLEAR(o->tags);
}

void options_read(const options *o, freshet_read_options *read)
{
    *read = (freshet_read_options){
        .struct_size = sizeof *read,
        .deadline_ms = o->deadline_ms,
        .bound_ms = o->bound_ms,
        .tier_only = o->tier_only,
        .level = o->level,
        .token = o->token,
    };
}

void options_load(const options *o, freshet_load_options *load)
{
    *load = (freshet_load_options){
        .struct_size = sizeof *load,
        .deadline_ms = o->deadline_ms,
        .bound_ms = o->bound_ms,
        .ttl_ms = o->ttl_ms,
        .absent_ttl_ms = o->absent_ttl_ms,
        .ticket_ms = o->ticket_ms,
        .tags = o->tag_names,
        .tag_count = o->tag_count,
        .name_space = o->name_space,
        .level = o->level,
        .token = o->token,
    };
}

void options_guard(const options *o, freshet_guard_options *guard)
{
    *guard = (freshet_guard_options){
        .struct_size = sizeof *guard,
        .deadline_ms = o->deadline_ms,
        .hold_ms = o->hold_ms,
        .fixed = o->fixed,
        .wait = o->wait,
    };
}

void options_write(const options *o, freshet_write_options *write)
{
    *write = (freshet_write_options){
        .struct_size = sizeof *write,
        .deadline_ms = o->deadline_ms,
        .ttl_ms = o->ttl_ms,
        .source_version = o->source_version,
        .tags = o->tag_names,
        .tag_count = o->tag_count,
        .name_space = o->name_space,
        .wait = o->wait,
        .wait_replicas = o->replicas,
    };
}
