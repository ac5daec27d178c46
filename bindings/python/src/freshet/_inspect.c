/*
 * _inspect.c - look inside: the records of a tier, the frames of a channel, hashes, the library's messages.
 *
 * Messages come from any thread, at times under the library's locks, while another thread may hold the interpreter's
 * lock and wait for just those.  So they are put into a queue under a lock of its own, which nobody holds while he
 * waits for anything, and a thread of log.py takes them out.
 */
#include "_freshet.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

/* ---- entries ---- */

struct record {
    struct record *next;
    freshet_entry entry;
    uint64_t tags[FRESHET_TAGS_MAX + 1];
    char key[];
};

struct records {
    struct record *first;
    bool failed;
};

static bool record_keep(const freshet_entry *entry, void *arg)
{
    struct record *record = malloc(sizeof *record + entry->key_size);
    struct records *records = arg;
    uint32_t most = FRESHET_TAGS_MAX + 1;

    if (!record) {
        records->failed = true;
        return false;
    }
    record->entry = *entry;
    if (record->entry.tag_count > most)
        record->entry.tag_count = most;
    if (record->entry.tag_count)
        memcpy(record->tags, entry->tags, record->entry.tag_count * sizeof *record->tags);
    memcpy(record->key, entry->key, entry->key_size);
    record->next = records->first;
    records->first = record;
    return true;
}

static PyObject *record_tags(const struct record *record)
{
    PyObject *tags = PyTuple_New(record->entry.tag_count);

    for (uint32_t i = 0; tags && i < record->entry.tag_count; i++) {
        PyObject *tag = PyLong_FromUnsignedLongLong(record->tags[i]);

        if (!tag) {
            Py_CLEAR(tags);
            break;
        }
        PyTuple_SET_ITEM(tags, i, tag);
    }
    return tags;
}

/* As the fields of answers.Entry, in order. */
static PyObject *record_object(const struct record *record)
{
    const freshet_entry *e = &record->entry;
    PyObject *tags = record_tags(record), *age, *ttl;

    if (!tags)
        return NULL;
    age = seconds_or_none(e->answer.age_bound_ms);
    ttl = seconds_or_none(e->answer.ttl_ms);
    if (!age || !ttl) {
        Py_XDECREF(age);
        Py_XDECREF(ttl);
        Py_DECREF(tags);
        return NULL;
    }
    return Py_BuildValue("(y#KNNsNNKKKN)", record->key, (Py_ssize_t)e->key_size, (unsigned long long)e->value_size,
                         PyBool_FromLong(e->absent), PyBool_FromLong(e->servable), e->why, age, ttl,
                         (unsigned long long)e->answer.version, (unsigned long long)e->answer.source_version,
                         (unsigned long long)e->answer.position, tags);
}

static PyObject *records_list(struct records *records)
{
    PyObject *list = records->failed ? PyErr_NoMemory() : PyList_New(0);

    while (records->first) {
        struct record *record = records->first;
        PyObject *object = list ? record_object(record) : NULL;

        if (!object || PyList_Append(list, object) < 0)
            Py_CLEAR(list);
        Py_XDECREF(object);
        records->first = record->next;
        free(record);
    }
    return list;
}

static PyObject *cache_entries(PyObject *op, PyObject *Py_UNUSED(none))
{
    cache_object *self = (cache_object *)op;
    struct records records = {0};
    freshet_result result;
    uint32_t generation;
    PyObject *list;

    if (cache_enter(self, &generation) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = freshet_each(self->cache, record_keep, &records);
    Py_END_ALLOW_THREADS
    if (result < 0)
        (void)failure(self->state, result);
    cache_leave(self, generation);
    if (result >= 0)
        return records_list(&records);
    records.failed = false;
    PyObject *type, *value, *trace;

    PyErr_Fetch(&type, &value, &trace);
    list = records_list(&records);
    Py_XDECREF(list);
    PyErr_Restore(type, value, trace);
    return NULL;
}

/* _time_gets(keys, rounds) -> nanoseconds: what C pays for the same hits, for freshet.bench. */
static PyObject *cache_time_gets(PyObject *op, PyObject *args)
{
    freshet_read_options read = FRESHET_INIT(freshet_read_options);
    cache_object *self = (cache_object *)op;
    struct timespec begin, end;
    freshet_buf buf = {0};
    freshet_key *keys;
    PyObject *list;
    uint32_t generation;
    int rounds;

    read.tier_only = true;
    if (!PyArg_ParseTuple(args, "O!i:_time_gets", &PyList_Type, &list, &rounds) ||
        !(keys = keys_take(((PyListObject *)list)->ob_item, PyList_GET_SIZE(list))))
        return NULL;
    if (cache_enter(self, &generation) < 0) {
        PyMem_Free(keys);
        return NULL;
    }
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int round = 0; round < rounds; round++)
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++)
            (void)freshet_get(self->cache, keys[i].data, keys[i].size, &read, &buf, NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    cache_leave(self, generation);
    freshet_buf_free(&buf);
    PyMem_Free(keys);
    return PyLong_FromLongLong((end.tv_sec - begin.tv_sec) * 1000000000LL + (end.tv_nsec - begin.tv_nsec));
}

PyMethodDef inspect_methods[] = {
    {"_time_gets", cache_time_gets, METH_VARARGS, "_time_gets(keys, rounds) -> nanoseconds in C"},
    {"_entries", cache_entries, METH_NOARGS, "_entries() -> list of tuples, the fields of freshet.Entry"},
    {0},
};

/* ---- watch ---- */

struct watching {
    PyObject *callback;
    PyThreadState *thread;
    bool raised;
};

static PyObject *frame_object(const freshet_frame_seen *frame)
{
    PyObject *hashes, *object;

    if (!frame)
        Py_RETURN_NONE;
    if (!(hashes = PyTuple_New(frame->verified ? frame->keys : 0)))
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(hashes); i++) {
        PyObject *hash = PyBytes_FromStringAndSize((const char *)frame->hashes[i], sizeof frame->hashes[i]);

        if (!hash) {
            Py_DECREF(hashes);
            return NULL;
        }
        PyTuple_SET_ITEM(hashes, i, hash);
    }
    object = Py_BuildValue("(NsKIKKsKKKKN)", PyBool_FromLong(frame->verified), frame->why,
                           (unsigned long long)frame->key_id, (unsigned)frame->partition,
                           (unsigned long long)frame->epoch, (unsigned long long)frame->position,
                           frame->verified ? frame->kind : "",
                           (unsigned long long)(frame->verified ? frame->version : 0),
                           (unsigned long long)(frame->verified ? frame->writer : 0),
                           (unsigned long long)(frame->verified ? frame->counter : 0),
                           (unsigned long long)(frame->verified ? frame->source_version : 0), hashes);
    return object;
}

static bool frame_show(const freshet_frame_seen *frame, void *arg)
{
    struct watching *w = arg;
    PyObject *object, *answer = NULL;
    int go_on = 0;

    PyEval_RestoreThread(w->thread);
    if ((object = frame_object(frame)) && (answer = PyObject_CallOneArg(w->callback, object)))
        go_on = PyObject_IsTrue(answer);
    w->raised = PyErr_Occurred() != NULL;
    Py_XDECREF(object);
    Py_XDECREF(answer);
    w->thread = PyEval_SaveThread();
    return go_on > 0;
}

static PyObject *module_watch(PyObject *module, PyObject *args)
{
    freshet_join_options join = FRESHET_INIT(freshet_join_options);
    PyObject *connect;
    const char *name, *url;
    unsigned partitions;
    freshet_result result;
    struct watching w = {0};
    int evicting;

    if (!PyArg_ParseTuple(args, "sIszOpO:watch", &name, &partitions, &url, &join.keyring, &connect, &evicting,
                          &w.callback) ||
        seconds_take(connect, "connect_timeout", false, &join.connect_ms) < 0)
        return NULL;
    join.allow_evicting_redis = evicting;
    w.thread = PyEval_SaveThread();
    result = freshet_watch(name, partitions, url, &join, 0, frame_show, &w);
    PyEval_RestoreThread(w.thread);
    if (w.raised)
        return NULL;
    if (result < 0)
        return failure(PyModule_GetState(module), result);
    Py_RETURN_NONE;
}

/* ---- hashes, keyrings ---- */

static PyObject *module_key_hash(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint8_t hash[16];
    freshet_key key;
    const char *name;
    PyObject *object;

    if (!PyArg_ParseTuple(args, "sO:key_hash", &name, &object) || key_take(object, &key) < 0)
        return NULL;
    freshet_key_hash(name, key.data, key.size, hash);
    return PyBytes_FromStringAndSize((const char *)hash, sizeof hash);
}

static PyObject *module_tag_hash(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "tag", "namespace", NULL};
    const char *name, *tag;
    int name_space = 0;
    uint8_t hash[16];

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ss|$p:tag_hash", names, &name, &tag, &name_space))
        return NULL;
    freshet_tag_hash(name, tag, name_space, hash);
    return PyBytes_FromStringAndSize((const char *)hash, sizeof hash);
}

/* A path or None, as PyUnicode_FSConverter has it. */
static int optional_path(PyObject *path, void *ret_bytes)
{
    if (path && path == Py_None)
        return 1;
    return PyUnicode_FSConverter(path, ret_bytes);
}

static PyObject *module_keygen(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"path", "like", NULL};
    PyObject *path = NULL, *like = NULL;
    freshet_result result;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|O&:keygen", names, PyUnicode_FSConverter, &path, optional_path,
                                     &like))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = freshet_keygen(PyBytes_AS_STRING(path), like ? PyBytes_AS_STRING(like) : NULL);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    Py_XDECREF(like);
    if (result < 0)
        return failure(PyModule_GetState(module), result);
    Py_RETURN_NONE;
}

/* ---- messages ---- */

#define LOG_MOST 1024u /* messages that wait; a flood's later ones are counted only */

struct message {
    struct message *next;
    freshet_level level;
    char text[];
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct message *first, **last;
    unsigned count, dropped;
} log_queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER, .last = &log_queue.first};

/* In a child: another thread may have held the lock, and its messages are the parent's to tell. */
void log_in_child(void)
{
    pthread_mutex_init(&log_queue.lock, NULL);
    pthread_cond_init(&log_queue.more, NULL);
    log_queue.first = NULL;
    log_queue.last = &log_queue.first;
    log_queue.count = log_queue.dropped = 0;
}

static void log_hear(freshet_level level, const char *text, void *Py_UNUSED(arg))
{
    size_t size = strlen(text) + 1;
    struct message *message = malloc(sizeof *message + size);

    pthread_mutex_lock(&log_queue.lock);
    if (message && log_queue.count < LOG_MOST) {
        message->next = NULL;
        message->level = level;
        memcpy(message->text, text, size);
        *log_queue.last = message;
        log_queue.last = &message->next;
        log_queue.count++;
        pthread_cond_signal(&log_queue.more);
    } else {
        log_queue.dropped++;
        free(message);
    }
    pthread_mutex_unlock(&log_queue.lock);
}

static struct message *log_out(int64_t wait_ms, unsigned *ret_dropped)
{
    struct message *message;
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += wait_ms % 1000 * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&log_queue.lock);
    while (!log_queue.first && pthread_cond_timedwait(&log_queue.more, &log_queue.lock, &until) != ETIMEDOUT)
        ;
    if ((message = log_queue.first)) {
        if (!(log_queue.first = message->next))
            log_queue.last = &log_queue.first;
        log_queue.count--;
    }
    *ret_dropped = log_queue.dropped;
    log_queue.dropped = 0;
    pthread_mutex_unlock(&log_queue.lock);
    return message;
}

static PyObject *module_log_next(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct message *message;
    unsigned dropped = 0;
    PyObject *object;
    int wait_ms;

    if (!PyArg_ParseTuple(args, "i:log_next", &wait_ms))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    message = log_out(wait_ms, &dropped);
    Py_END_ALLOW_THREADS
    if (!message && !dropped)
        Py_RETURN_NONE;
    object = Py_BuildValue("(iNI)", message ? (int)message->level : 0,
                           PyUnicode_DecodeUTF8(message ? message->text : "",
                                                message ? (Py_ssize_t)strlen(message->text) : 0, "replace"),
                           dropped);
    free(message);
    return object;
}

static PyObject *module_log_hear(PyObject *Py_UNUSED(module), PyObject *args)
{
    int least;

    if (!PyArg_ParseTuple(args, "i:log_hear", &least))
        return NULL;
    freshet_log(least < 0 ? NULL : log_hear, NULL, least < 0 ? FRESHET_ERROR : (freshet_level)least);
    Py_RETURN_NONE;
}

/* ---- results ---- */

#define RESULT_FAR 100 /* no result is further from zero */

/* Every result that the library has a name for: {name: number}. */
static PyObject *module_results(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    const char *unknown = freshet_result_name((freshet_result)RESULT_FAR);
    PyObject *results = PyDict_New();

    for (int i = -RESULT_FAR; results && i < RESULT_FAR; i++) {
        const char *name = freshet_result_name((freshet_result)i);
        PyObject *number = strcmp(name, unknown) == 0 ? NULL : PyLong_FromLong(i);

        if (number && PyDict_SetItemString(results, name, number) < 0)
            Py_CLEAR(results);
        Py_XDECREF(number);
    }
    return results;
}

static PyObject *module_result_text(PyObject *Py_UNUSED(module), PyObject *args)
{
    int result;

    return PyArg_ParseTuple(args, "i:result_text", &result)
               ? PyUnicode_FromString(freshet_result_text((freshet_result)result))
               : NULL;
}

PyMethodDef module_methods[] = {
    {"_results", module_results, METH_NOARGS, "_results() -> {name: number} of all results"},
    {"_result_text", module_result_text, METH_VARARGS, "_result_text(result) -> its meaning in a sentence"},
    {"keygen", (PyCFunction)(void (*)(void))module_keygen, METH_VARARGS | METH_KEYWORDS,
     "keygen(path, like=None)\n\nWrite a new keyring to `path`, which must not exist; with `like`, for that one's "
     "fleet."},
    {"key_hash", module_key_hash, METH_VARARGS, "key_hash(name, key) -> the 16 bytes by which frames name the key"},
    {"tag_hash", (PyCFunction)(void (*)(void))module_tag_hash, METH_VARARGS | METH_KEYWORDS,
     "tag_hash(name, tag, *, namespace=False) -> the same for a tag or a namespace"},
    {"_watch", module_watch, METH_VARARGS, "_watch(name, partitions, url, keyring, connect, evicting, callback)"},
    {"_log_next", module_log_next, METH_VARARGS, "_log_next(wait_ms) -> (level, message, dropped) or None"},
    {"_log_hear", module_log_hear, METH_VARARGS, "_log_hear(least); -1: no more"},
    {0},
};
