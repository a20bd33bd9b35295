/* e4m3.h: the 8-bit float of OCP ("fn": finite, with NaN).
 *
 *     7   6..3       2..0
 *     s   exponent   mantissa      bias 7; 0x7f and 0xff are NaN, there is no Inf
 *
 * Largest 448 (0x7e), smallest normal 2^-6, subnormal step 2^-9. Casts saturate; NaN becomes 0x7f.
 */
#ifndef NI_FORMAT_E4M3_H
#define NI_FORMAT_E4M3_H

#include "format/ieee.h"

#define NI_E4M3_NAN 0x7fu
#define NI_E4M3_MAX 0x7eu

static inline NI_HD float ni_e4m3_value(uint8_t code) {
    uint32_t magnitude = code & 0x7fu, sign = (uint32_t)(code & 0x80u) << 24;
    if (magnitude == NI_E4M3_NAN)
        return ni_f32_from(sign | 0x7fc00000u);
    if (magnitude < 8) /* subnormal */
        return ni_f32_from(sign | ni_f32_bits(ni_f32_mul((float)magnitude, 0x1p-9f)));
    return ni_f32_from(sign | ((magnitude + (120u << 3)) << 20));
}

/* |x| already rounded to a grid of 3 mantissa bits (`rounded` = its upper 12 bits), as a code. */
static inline NI_HD uint8_t ni_e4m3_pack(float x, uint32_t code) {
    return (uint8_t)((ni_f32_bits(x) >> 31 << 7) | (code < NI_E4M3_MAX ? code : NI_E4M3_MAX));
}

/* Nearest; a tie goes away from zero where `tie_away`, else to zero's side. Shared by the two nearest roundings. */
static inline NI_HD uint32_t ni_e4m3_nearest(float x, int even, int tie_away) {
    uint32_t a = ni_f32_magnitude(x);
    if (a < 0x3c800000u) { /* below 2^-6: steps of 2^-9; product, integer part and rest are exact */
        float steps = ni_f32_mul(ni_f32_from(a), 512.0f);
        uint32_t m = (uint32_t)steps;
        float rest = ni_f32_sub(steps, (float)m);
        return m + (rest > 0.5f || (rest == 0.5f && (even ? m & 1u : (uint32_t)tie_away)));
    }
    uint32_t up = even ? (a >> 20) & 1u : (uint32_t)tie_away;
    return ((a + 0x7ffffu + up) >> 20) - (120u << 3);
}

/* Nearest, ties to the even code; keeps the sign of zero. */
static inline NI_HD uint8_t ni_e4m3_even(float x) {
    if (ni_f32_is_nan(x))
        return NI_E4M3_NAN;
    return ni_e4m3_pack(x, ni_e4m3_nearest(x, 1, 0));
}

/* Nearest, ties toward +inf; zero is always code 0. */
static inline NI_HD uint8_t ni_e4m3_up(float x) {
    if (ni_f32_is_nan(x))
        return NI_E4M3_NAN;
    uint32_t code = ni_e4m3_nearest(x, 0, x > 0.0f);
    return code ? ni_e4m3_pack(x, code) : 0;
}

/* Stochastic: adds u steps, u in [0, 1), and rounds toward zero. */
static inline NI_HD uint8_t ni_e4m3_stochastic(float x, float u) {
    if (ni_f32_is_nan(x))
        return NI_E4M3_NAN;
    float a = ni_f32_abs(x);
    if (a >= 448.0f)
        return ni_e4m3_pack(x, NI_E4M3_MAX);
    uint32_t exponent = ni_f32_bits(a) >> 23;
    float step = ni_f32_from(((exponent < 121u ? 121u : exponent) - 3u) << 23);
    float t = ni_f32_add(a, ni_f32_mul(u, step));
    return ni_e4m3_pack(x, t < 0x1p-6f ? (uint32_t)ni_f32_mul(t, 512.0f) : (ni_f32_bits(t) >> 20) - (120u << 3));
}

#endif
