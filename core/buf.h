/* buf.h - room in a caller's buffer, for those inside who fill it themselves. */
#ifndef CORE_BUF_H
#define CORE_BUF_H

#include <freshet.h>

/* Make room for `size` bytes; the bytes that the buffer holds stay, and so does its size.  FRESHET_ENOMEM leaves it as
 * it was. */
freshet_result buf_grow(freshet_buf *buf, size_t size);

static inline freshet_result buf_reserve(freshet_buf *buf, size_t size)
{
    return __builtin_expect(buf->data && size <= buf->capacity, 1) ? FRESHET_OK : buf_grow(buf, size);
}

#endif
