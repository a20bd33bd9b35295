/* e5m2.h: the wide 8-bit float of OCP.
 *
 *     7   6..2       1..0
 *     s   exponent   mantissa      bias 15; 0x7c is Inf, 0x7d..0x7f are NaN
 *
 * Largest 57344 (0x7b), smallest normal 2^-14, subnormal step 2^-16. Casts saturate (Inf becomes 57344); NaN becomes
 * 0x7f.
 */
#ifndef NI_FORMAT_E5M2_H
#define NI_FORMAT_E5M2_H

#include "format/ieee.h"

#define NI_E5M2_NAN 0x7fu
#define NI_E5M2_INF 0x7cu
#define NI_E5M2_MAX 0x7bu

static inline NI_HD float ni_e5m2_value(uint8_t code) {
    uint32_t magnitude = code & 0x7fu, sign = (uint32_t)(code & 0x80u) << 24;
    if (magnitude >= NI_E5M2_INF)
        return ni_f32_from(sign | (magnitude == NI_E5M2_INF ? NI_F32_INF_BITS : 0x7fc00000u));
    if (magnitude < 4) /* subnormal */
        return ni_f32_from(sign | ni_f32_bits(ni_f32_mul((float)magnitude, 0x1p-16f)));
    return ni_f32_from(sign | ((magnitude + (112u << 2)) << 21));
}

static inline NI_HD uint8_t ni_e5m2_pack(float x, uint32_t code) {
    return (uint8_t)((ni_f32_bits(x) >> 31 << 7) | (code < NI_E5M2_MAX ? code : NI_E5M2_MAX));
}

/* Nearest; what a tie does is the caller's: see ni_e4m3_nearest. */
static inline NI_HD uint32_t ni_e5m2_nearest(float x, int even, int tie_away) {
    uint32_t a = ni_f32_magnitude(x);
    if (a < 0x38800000u) { /* below 2^-14: steps of 2^-16 */
        float steps = ni_f32_mul(ni_f32_from(a), 65536.0f);
        uint32_t m = (uint32_t)steps;
        float rest = ni_f32_sub(steps, (float)m);
        return m + (rest > 0.5f || (rest == 0.5f && (even ? m & 1u : (uint32_t)tie_away)));
    }
    uint32_t up = even ? (a >> 21) & 1u : (uint32_t)tie_away;
    return ((a + 0xfffffu + up) >> 21) - (112u << 2);
}

/* Nearest, ties to the even code; keeps the sign of zero. */
static inline NI_HD uint8_t ni_e5m2_even(float x) {
    if (ni_f32_is_nan(x))
        return NI_E5M2_NAN;
    return ni_e5m2_pack(x, ni_e5m2_nearest(x, 1, 0));
}

/* Nearest, ties toward +inf; zero is always code 0. */
static inline NI_HD uint8_t ni_e5m2_up(float x) {
    if (ni_f32_is_nan(x))
        return NI_E5M2_NAN;
    uint32_t code = ni_e5m2_nearest(x, 0, x > 0.0f);
    return code ? ni_e5m2_pack(x, code) : 0;
}

/* Stochastic: adds u steps, u in [0, 1), and rounds toward zero. */
static inline NI_HD uint8_t ni_e5m2_stochastic(float x, float u) {
    if (ni_f32_is_nan(x))
        return NI_E5M2_NAN;
    float a = ni_f32_abs(x);
    if (a >= 57344.0f)
        return ni_e5m2_pack(x, NI_E5M2_MAX);
    uint32_t exponent = ni_f32_bits(a) >> 23;
    float step = ni_f32_from(((exponent < 113u ? 113u : exponent) - 2u) << 23);
    float t = ni_f32_add(a, ni_f32_mul(u, step));
    return ni_e5m2_pack(x, t < 0x1p-14f ? (uint32_t)ni_f32_mul(t, 65536.0f) : (ni_f32_bits(t) >> 21) - (112u << 2));
}

#endif
