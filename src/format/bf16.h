/* bf16.h: the upper half of a float.
 *
 *     15  14......7  6.....0
 *     s   exponent   mantissa      bias 127
 */
#ifndef NI_FORMAT_BF16_H
#define NI_FORMAT_BF16_H

#include "format/ieee.h"

static inline NI_HD float ni_bf16_value(uint16_t code) {
    return ni_f32_from((uint32_t)code << 16);
}

/* Nearest, ties to even; overflow gives Inf; a NaN keeps sign and upper payload and becomes quiet. */
static inline NI_HD uint16_t ni_bf16_even(float x) {
    uint32_t bits = ni_f32_bits(x);
    if (ni_f32_is_nan(x))
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline NI_HD float ni_bf16_round(float x) {
    return ni_bf16_value(ni_bf16_even(x));
}

#endif
