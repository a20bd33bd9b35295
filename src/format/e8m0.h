/* e8m0.h: the power-of-two scale of OCP MX: 2^(code - 127); 0xff is NaN, there is neither zero nor Inf.
 *
 * amax becomes a scale by one of two rules, both exact. With the largest element value max = m * 2^e, 1 <= m < 2:
 *     floor   2^(floor(log2 amax) - e)             OCP MX; the largest elements may saturate
 *     ceil    the smallest 2^k with max*2^k >= amax        truncation free
 * amax = 0 gives code 0, Inf 0xfe, NaN 0xff.
 */
#ifndef NI_FORMAT_E8M0_H
#define NI_FORMAT_E8M0_H

#include "format/ieee.h"

#define NI_E8M0_NAN 0xffu
#define NI_E8M0_MAX 0xfeu

static inline NI_HD float ni_e8m0_value(uint8_t code) {
    if (code == NI_E8M0_NAN)
        return ni_f32_from(0x7fc00000u);
    return ni_f32_from(code ? (uint32_t)code << 23 : 0x00400000u);
}

/* 1 / value, exact; 2^-127 for the largest code is a subnormal. */
static inline NI_HD float ni_e8m0_inverse(uint8_t code) {
    if (code == NI_E8M0_NAN)
        return ni_f32_from(0x7fc00000u);
    return ni_f32_from(code == NI_E8M0_MAX ? 0x00400000u : (254u - code) << 23);
}

static inline NI_HD uint8_t ni_e8m0_clamp(int32_t exponent) {
    return (uint8_t)(exponent < 0 ? 0 : exponent > (int32_t)NI_E8M0_MAX ? (int32_t)NI_E8M0_MAX : exponent);
}

/* `amax` and `max` are positive or zero; max is a normal number. */
static inline NI_HD uint8_t ni_e8m0_floor(float amax, float max) {
    uint32_t a = ni_f32_magnitude(amax);
    if (a >= NI_F32_INF_BITS)
        return a == NI_F32_INF_BITS ? NI_E8M0_MAX : NI_E8M0_NAN;
    int32_t max_exponent = (int32_t)(ni_f32_bits(max) >> 23) - 127;
    return ni_e8m0_clamp((int32_t)(a >> 23) - max_exponent);
}

static inline NI_HD uint8_t ni_e8m0_ceil(float amax, float max) {
    uint32_t a = ni_f32_magnitude(amax), m = ni_f32_bits(max);
    if (a >= NI_F32_INF_BITS)
        return a == NI_F32_INF_BITS ? NI_E8M0_MAX : NI_E8M0_NAN;
    int32_t max_exponent = (int32_t)(m >> 23) - 127;
    int32_t above = (a & 0x7fffffu) > (m & 0x7fffffu); /* amax has the larger mantissa */
    return ni_e8m0_clamp((int32_t)(a >> 23) - max_exponent + above);
}

#endif
