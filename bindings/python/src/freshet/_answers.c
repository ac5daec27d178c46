/*
 * _answers.c - what comes out: Answer of reads, Change of changes.  Both are the library's structure with names on it;
 * durations in seconds.
 */
#include "_freshet.h"

typedef struct answer_object {
    PyObject_HEAD
    cache_object *cache;
    PyObject *value;
    freshet_result result;
    freshet_answer answer;
} answer_object;

typedef struct change_object {
    PyObject_HEAD
    freshet_result result;
    freshet_change change;
} change_object;

/* A result's name without what they all begin with. */
static PyObject *result_word(freshet_result result)
{
    const char *name = freshet_result_name(result);

    return PyUnicode_FromString(strncmp(name, "FRESHET_", 8) == 0 ? name + 8 : name);
}

PyObject *seconds_or_none(int64_t ms)
{
    if (ms < 0)
        Py_RETURN_NONE;
    return PyFloat_FromDouble((double)ms / 1000.0);
}

/* ---- Answer ---- */

/* Takes `value`, which may be NULL. */
PyObject *answer_new(cache_object *self, freshet_result result, const freshet_answer *answer, PyObject *value)
{
    answer_object *a = PyObject_GC_New(answer_object, self->state->answer);

    if (!a) {
        Py_XDECREF(value);
        return NULL;
    }
    Py_INCREF(self);
    a->cache = self;
    a->value = value;
    a->result = result;
    a->answer = *answer;
    PyObject_GC_Track(a);
    return (PyObject *)a;
}

static int answer_traverse(PyObject *op, visitproc visit, void *arg)
{
    answer_object *a = (answer_object *)op;

    Py_VISIT(Py_TYPE(op));
    Py_VISIT(a->cache);
    Py_VISIT(a->value);
    return 0;
}

static int answer_clear(PyObject *op)
{
    answer_object *a = (answer_object *)op;

    Py_CLEAR(a->cache);
    Py_CLEAR(a->value);
    return 0;
}

static void answer_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    (void)answer_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyObject *answer_found(PyObject *op, void *Py_UNUSED(closure))
{
    freshet_result result = ((answer_object *)op)->result;

    return PyBool_FromLong(result == FRESHET_OK || result == FRESHET_STALE);
}

static PyObject *answer_absent(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((answer_object *)op)->result == FRESHET_ABSENT);
}

static PyObject *answer_stale(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((answer_object *)op)->result == FRESHET_STALE);
}

static PyObject *answer_value(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *value = ((answer_object *)op)->value;

    if (!value)
        Py_RETURN_NONE;
    Py_INCREF(value);
    return value;
}

static PyObject *answer_source(PyObject *op, void *Py_UNUSED(closure))
{
    switch (((answer_object *)op)->answer.source) {
    case FRESHET_FROM_TIER:
        return PyUnicode_InternFromString("tier");
    case FRESHET_FROM_REDIS:
        return PyUnicode_InternFromString("redis");
    case FRESHET_FROM_LOADER:
        return PyUnicode_InternFromString("loader");
    case FRESHET_FROM_NOWHERE:
        break;
    }
    Py_RETURN_NONE;
}

static PyObject *answer_age_bound(PyObject *op, void *Py_UNUSED(closure))
{
    answer_object *a = (answer_object *)op;

    if (a->result == FRESHET_MISS || a->result == FRESHET_UNPROVEN)
        Py_RETURN_NONE;
    return seconds_or_none(a->answer.age_bound_ms);
}

static PyObject *answer_ttl(PyObject *op, void *Py_UNUSED(closure))
{
    answer_object *a = (answer_object *)op;

    if (a->result == FRESHET_MISS || a->result == FRESHET_UNPROVEN)
        Py_RETURN_NONE;
    return seconds_or_none(a->answer.ttl_ms);
}

static PyObject *answer_outdated(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((answer_object *)op)->answer.outdated);
}

static PyObject *answer_result(PyObject *op, void *Py_UNUSED(closure))
{
    return result_word(((answer_object *)op)->result);
}

static PyObject *answer_token(PyObject *op, PyObject *Py_UNUSED(none))
{
    answer_object *a = (answer_object *)op;
    char token[FRESHET_TOKEN_SIZE] = "";
    freshet_result result;
    uint32_t generation;

    if (cache_enter(a->cache, &generation) < 0)
        return NULL;
    result = freshet_token_of(a->cache->cache, &a->answer, token);
    cache_leave(a->cache, generation);
    return result < 0 ? failure(a->cache->state, result) : PyUnicode_FromString(token);
}

static PyObject *answer_repr(PyObject *op)
{
    answer_object *a = (answer_object *)op;
    PyObject *word = result_word(a->result), *source = answer_source(op, NULL), *repr = NULL;

    if (word && source)
        repr = PyUnicode_FromFormat("<freshet.Answer %U from %S: %R>", word, source, a->value ? a->value : Py_None);
    Py_XDECREF(word);
    Py_XDECREF(source);
    return repr;
}

#define ANSWER_NUMBER(name, text)                                                                                      \
    {                                                                                                                  \
        #name, T_ULONGLONG, offsetof(answer_object, answer.name), READONLY, text                                       \
    }

static PyMemberDef answer_members[] = {
    ANSWER_NUMBER(version, "of the write: microseconds of Redis's (without a fleet: this host's) real time; 0: none"),
    ANSWER_NUMBER(writer, "who wrote it: a random id per process"),
    ANSWER_NUMBER(source_version, "the row version or LSN its writer gave; 0: none"),
    ANSWER_NUMBER(position, "the history's position that the entry was read at"),
    ANSWER_NUMBER(epoch, "of the history that the position is in; 0 without a fleet"),
    {"partition", T_UINT, offsetof(answer_object, answer.partition), READONLY, "of the key"},
    {"judged_at_ns", T_LONGLONG, offsetof(answer_object, answer.judged_at_ns), READONLY,
     "CLOCK_BOOTTIME of the last clock reading before it was judged servable, in nanoseconds"},
    {0},
};

static PyGetSetDef answer_getset[] = {
    {"found", answer_found, NULL, "there is a value (a stale one too)", NULL},
    {"absent", answer_absent, NULL, "it is known that the source has no such thing", NULL},
    {"stale", answer_stale, NULL, "the value's bound could not be shown", NULL},
    {"value", answer_value, NULL, "the value, or None", NULL},
    {"source", answer_source, NULL, "\"tier\", \"redis\", \"loader\" or None", NULL},
    {"age_bound", answer_age_bound, NULL, "seconds: nothing older than this voids the answer; None: cannot be shown",
     NULL},
    {"ttl", answer_ttl, NULL, "seconds until it expires; None: it does not", NULL},
    {"outdated", answer_outdated, NULL, "loaded, but below the source version that is known of the key", NULL},
    {"result", answer_result, NULL, "\"OK\", \"ABSENT\", \"STALE\", \"MISS\" or \"UNPROVEN\"", NULL},
    {0},
};

static PyMethodDef answer_methods[] = {
    {"token", answer_token, METH_NOARGS,
     "token() -> str\n\nWho reads with it gets nothing older than this answer; \"\" for one that nothing keeps."},
    {0},
};

static PyType_Slot answer_slots[] = {
    {Py_tp_doc, "What a read found, and what is known of it."},
    {Py_tp_traverse, answer_traverse},
    {Py_tp_clear, answer_clear},
    {Py_tp_dealloc, answer_dealloc},
    {Py_tp_repr, answer_repr},
    {Py_tp_members, answer_members},
    {Py_tp_getset, answer_getset},
    {Py_tp_methods, answer_methods},
    {0, NULL},
};

PyType_Spec answer_spec = {
    .name = "freshet.Answer",
    .basicsize = sizeof(answer_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = answer_slots,
};

/* ---- Change ---- */

PyObject *change_new(state *s, freshet_result result, const freshet_change *change)
{
    change_object *c = PyObject_New(change_object, s->change);

    if (!c)
        return NULL;
    c->result = result;
    c->change = *change;
    return (PyObject *)c;
}

static void change_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_Free(op);
    Py_DECREF(type);
}

static PyObject *change_result(PyObject *op, void *Py_UNUSED(closure))
{
    return result_word(((change_object *)op)->result);
}

static PyObject *change_confirmed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((change_object *)op)->result == FRESHET_OK);
}

static PyObject *change_token(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(((change_object *)op)->change.token);
}

static PyObject *change_bound_waited(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((change_object *)op)->change.bound_waited);
}

static PyObject *change_repr(PyObject *op)
{
    change_object *c = (change_object *)op;
    PyObject *word = result_word(c->result), *repr = NULL;

    if (word)
        repr = PyUnicode_FromFormat("<freshet.Change %U at position %llu>", word,
                                    (unsigned long long)c->change.position);
    Py_XDECREF(word);
    return repr;
}

#define CHANGE_NUMBER(name, type, text)                                                                                \
    {                                                                                                                  \
        #name, type, offsetof(change_object, change.name), READONLY, text                                              \
    }

static PyMemberDef change_members[] = {
    CHANGE_NUMBER(version, T_ULONGLONG, "microseconds of Redis's (without a fleet: this host's) real time"),
    CHANGE_NUMBER(position, T_ULONGLONG, "in the history; 0 when queued"),
    CHANGE_NUMBER(epoch, T_ULONGLONG, "of the history; 0 without a fleet or when queued"),
    CHANGE_NUMBER(hosts_applied, T_UINT, "of a strong write: hosts that have it, this one included"),
    CHANGE_NUMBER(hosts_waited_out, T_UINT, "hosts that did not say so within the bound, and serve nothing older now"),
    CHANGE_NUMBER(replicas, T_UINT, "of the replicas asked for: how many had it"),
    {0},
};

static PyGetSetDef change_getset[] = {
    {"result", change_result, NULL,
     "\"OK\", \"QUEUED\", \"OUTDATED\", \"GUARDED\", \"UNREPLICATED\" or \"GUARD_LOST\"", NULL},
    {"confirmed", change_confirmed, NULL, "the result is \"OK\"", NULL},
    {"token", change_token, NULL, "who reads with it gets nothing older than this change; \"\" when queued", NULL},
    {"bound_waited", change_bound_waited, NULL, "the staleness bound was waited for", NULL},
    {0},
};

static PyType_Slot change_slots[] = {
    {Py_tp_doc, "What became of a change."},
    {Py_tp_dealloc, change_dealloc},
    {Py_tp_repr, change_repr},
    {Py_tp_members, change_members},
    {Py_tp_getset, change_getset},
    {0, NULL},
};

PyType_Spec change_spec = {
    .name = "freshet.Change",
    .basicsize = sizeof(change_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = change_slots,
};
