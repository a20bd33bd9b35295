/* fp16.h: IEEE binary16.
 *
 *     15  14..10     9.....0
 *     s   exponent   mantissa      bias 15; exponent 31 is Inf (mantissa 0) or NaN
 *
 * Largest 65504 (0x7bff), smallest normal 2^-14, subnormal step 2^-24.
 */
#ifndef NI_FORMAT_FP16_H
#define NI_FORMAT_FP16_H

#include "format/ieee.h"

#define NI_FP16_MAX 65504.0f

static inline NI_HD float ni_fp16_value(uint16_t code) {
    uint32_t magnitude = code & 0x7fffu, sign = (uint32_t)(code & 0x8000u) << 16;
    if (magnitude >= 0x7c00u) /* Inf, NaN */
        return ni_f32_from(sign | NI_F32_INF_BITS | (magnitude & 0x3ffu) << 13);
    if (magnitude < 0x400u) /* subnormal */
        return ni_f32_from(sign | ni_f32_bits(ni_f32_mul((float)magnitude, 0x1p-24f)));
    return ni_f32_from(sign | (magnitude + (112u << 10)) << 13);
}

/* Nearest, ties to even; overflow gives Inf; a NaN keeps sign and upper payload and becomes quiet. */
static inline NI_HD uint16_t ni_fp16_even(float x) {
    uint32_t a = ni_f32_magnitude(x), sign = ni_f32_bits(x) >> 16 & 0x8000u;
    if (a > NI_F32_INF_BITS)
        return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
    if (a >= 0x47800000u) /* 65536 and beyond */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) /* below 2^-14: adding 1/2 rounds to a multiple of 2^-24 */
        return (uint16_t)(sign | (ni_f32_bits(ni_f32_add(ni_f32_from(a), 0.5f)) - ni_f32_bits(0.5f)));
    return (uint16_t)(sign | (a - (112u << 23) + 0xfffu + (a >> 13 & 1u)) >> 13);
}

#endif
