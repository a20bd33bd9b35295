/* e8m0.h: the power-of-two scale of OCP MX: 2^(code - 127); 0xff is NaN, there is neither zero nor Inf.
 *
 * amax becomes a scale by one of these rules, all exact. With the largest element value max = m * 2^e, 1 <= m < 2:
 *     floor           2^(floor(log2 amax) - e)             OCP MX; the largest elements may saturate
 *     ceil            the smallest 2^k with max*2^k >= amax        truncation free
 *     ceil-log2       2^(ceil(log2 amax) - e)              as ceil where m = 1; a binade above it for some amax else
 *     three-quarters  that of floor; elements are rounded from 3/4 x / scale, which is below 6 for E2M1
 * amax = 0 gives code 0, Inf 0xfe, NaN 0xff. Codes of 3/4 x decode to x with a factor of 4/3, which no power of two
 * holds: it is the operand's tensor scale, so that it stays outside of a product's sum (arXiv:2502.20586 has 16/9
 * there).
 */
#ifndef NI_FORMAT_E8M0_H
#define NI_FORMAT_E8M0_H

#include "format/ieee.h"
#include "nibble/format.h"

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

static inline NI_HD uint8_t ni_e8m0_ceil_log2(float amax, float max) {
    return ni_e8m0_ceil(amax, ni_f32_from(ni_f32_bits(max) & 0x7f800000u));
}

/* By the rules that look at amax alone. */
static inline NI_HD uint8_t ni_e8m0_of(nb_scale_rule rule, float amax, float max) {
    return rule == NB_RULE_CEIL        ? ni_e8m0_ceil(amax, max)
           : rule == NB_RULE_CEIL_LOG2 ? ni_e8m0_ceil_log2(amax, max)
                                       : ni_e8m0_floor(amax, max);
}

/* What elements are multiplied by before they are rounded; exact, subnormals included. */
static inline NI_HD float ni_e8m0_encode(nb_scale_rule rule, uint8_t code) {
    return rule == NB_RULE_THREE_QUARTERS ? ni_f32_mul(ni_e8m0_inverse(code), 0.75f) : ni_e8m0_inverse(code);
}

#define NI_FOUR_THIRDS 0x1.555556p0f /* the tensor's scale of three-quarters */

#endif
