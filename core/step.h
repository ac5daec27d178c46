/* step.h - named points off the hit path at which tests (and the step controller of the bindings) may hold a thread to
 * interleave what seldom meets.  Without a hook a point costs one load.  Points: see the STEP() calls. */
#ifndef CORE_STEP_H
#define CORE_STEP_H

extern void (*_Atomic step_hook)(const char *point);
#define STEP(point)                                                                                                    \
    do {                                                                                                               \
        void (*step_)(const char *) = step_hook;                                                                       \
        if (step_)                                                                                                     \
            step_(point);                                                                                              \
    } while (0)

#endif
