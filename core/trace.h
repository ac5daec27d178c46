/* trace.h - the protocol's own events, told to a test that follows a real run and holds them to the rules
 * (tests/model/trace_check.py tells what each means).  None is on the path of a hit; without a hook a point costs one
 * load.
 *
 * The order of an event and its store is chosen so that a trace proves something: what others must find done (a fence,
 * a floor) is told after it is stored, what relies on that (applied, an epoch) before. */
#ifndef CORE_TRACE_H
#define CORE_TRACE_H

#include <stdint.h>

struct trace {
    const char *event;
    uint32_t partition;
    uint64_t epoch, position;
    uint64_t extra;
    const uint8_t (*hashes)[16];
    uint32_t count;
};

extern void (*_Atomic trace_hook)(const struct trace *trace);
#define TRACE(...)                                                                                                     \
    do {                                                                                                               \
        void (*trace_)(const struct trace *) = trace_hook;                                                             \
        if (trace_)                                                                                                    \
            trace_(&(struct trace){__VA_ARGS__});                                                                      \
    } while (0)

#endif
