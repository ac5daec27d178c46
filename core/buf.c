/*
 * buf.c - the caller's buffer: grows when it must, keeps its memory for the next value.
 *
 * Growth is by half at least, so that a buffer that meets ever larger values is not copied for each of them, and in
 * whole cache lines, so that an empty value too has somewhere to point at.
 */
#include <buf.h>

#include <log.h>
#include <stdlib.h>
#include <string.h>

#define BUF_STEP 64u

freshet_result buf_grow(freshet_buf *buf, size_t size)
{
    size_t wanted = size;
    void *data;

    if (buf->capacity <= SIZE_MAX / 2 && wanted < buf->capacity + buf->capacity / 2)
        wanted = buf->capacity + buf->capacity / 2;
    if (wanted > SIZE_MAX - BUF_STEP)
        return fail(FRESHET_ENOMEM, "no memory for a value of %zu bytes", size);
    wanted = wanted / BUF_STEP * BUF_STEP + BUF_STEP;
    if (!(data = malloc(wanted)))
        return fail(FRESHET_ENOMEM, "no memory for a value of %zu bytes", size);
    if (buf->data && buf->size > 0)
        memcpy(data, buf->data, buf->size <= buf->capacity ? buf->size : buf->capacity);
    free(buf->data);
    buf->data = data;
    buf->capacity = wanted;
    return FRESHET_OK;
}

/* Is `data` a part of the buffer itself?  Growing would pull it away. */
static bool buf_holds(const freshet_buf *buf, const void *data)
{
    uintptr_t start = (uintptr_t)buf->data, at = (uintptr_t)data;

    return buf->data && data && at >= start && at - start < buf->capacity;
}

freshet_result freshet_buf_set(freshet_buf *buf, const void *data, size_t size)
{
    freshet_buf next = {0};
    freshet_result result;

    if (!buf || (!data && size > 0))
        return fail(FRESHET_EINVAL, "freshet_buf_set: the %s is NULL", buf ? "data" : "buffer");
    if (buf_holds(buf, data) && size > buf->capacity) {
        /* Only a caller whose size is wrong comes here: what it names does not lie within the buffer. */
        return fail(FRESHET_EINVAL, "freshet_buf_set: %zu bytes of a buffer of %zu", size, buf->capacity);
    }
    if (!buf->data || size > buf->capacity) {
        if ((result = buf_reserve(&next, size)) != FRESHET_OK)
            return result;
        free(buf->data); /* what it held is not wanted: no copying */
        buf->data = next.data;
        buf->capacity = next.capacity;
    }
    if (size > 0)
        memmove(buf->data, data, size);
    buf->size = size;
    return FRESHET_OK;
}

void freshet_buf_free(freshet_buf *buf)
{
    if (!buf)
        return;
    free(buf->data);
    *buf = (freshet_buf){0};
}
