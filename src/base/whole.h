/* whole.h: a measured number as a whole one. C leaves undefined what a cast of NaN, Inf or 1e30 to an integer gives. */
#ifndef NI_BASE_WHOLE_H
#define NI_BASE_WHOLE_H

#include <stdint.h>

/* Towards zero; 0 for NaN; beyond +-2^53, where doubles count no longer, that limit. */
static inline int64_t ni_whole(double value) {
    const double limit = 9007199254740992.0;
    if (!(value > -limit))
        return value <= -limit ? (int64_t)-limit : 0;
    return (int64_t)(value < limit ? value : limit);
}

#endif
