/* options.h - options structures from callers of any age: each starts with its own size (freshet.h, Options). */
#ifndef CORE_OPTIONS_H
#define CORE_OPTIONS_H

#include <freshet.h>
#include <log.h>
#include <string.h>

/* Take over an options structure of any size, older or newer; NULL stands for all defaults.  Where the size is a
 * constant, the usual case is a copy of a few words. */
static inline __attribute__((always_inline)) freshet_result options_take(void *ret_options, size_t own_size,
                                                                         const void *options, const char *what)
{
    size_t size;

    if (!options) {
        memset(ret_options, 0, own_size);
        return FRESHET_OK;
    }
    memcpy(&size, options, sizeof size);
    if (__builtin_expect(size == own_size, 1)) {
        memcpy(ret_options, options, own_size);
        return FRESHET_OK;
    }
    memset(ret_options, 0, own_size);
    if (size < sizeof size || size > 4096)
        return fail(FRESHET_EINVAL, "%s.struct_size is %zu: start it with FRESHET_INIT(%s)", what, size, what);
    memcpy(ret_options, options, size < own_size ? size : own_size);
    return FRESHET_OK;
}

#endif
