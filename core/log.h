/* log.h - what the library has to say: to the host's callback, and per thread (or fiber) for freshet_error().  Neither
 * allocates. */
#ifndef CORE_LOG_H
#define CORE_LOG_H

#include <freshet.h>

/* Set this thread's sentence and return `result`: `return fail(FRESHET_EDIR, "%s belongs to uid %u: ...", ...)`. */
freshet_result fail(freshet_result result, const char *format, ...) __attribute__((format(printf, 2, 3)));
void fail_clear(void);
/* From now on this thread's sentence stands in `place` (NULL: in the thread's own); returns where it stood before. */
#define LOG_SENTENCE 512u
char *fail_sentence(char *place);
/* Say a line to the callback, if there is one that wants it. */
void say(freshet_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
