/* e2m1.h: the 4-bit float of OCP MX and NVFP4.
 *
 *     3   2..1       0
 *     s   exponent   mantissa      bias 1; no Inf, no NaN
 *
 *     code  0  1   2  3   4  5  6  7      8..15: the same, negative
 *     value 0  .5  1  1.5 2  3  4  6
 *
 * NaN becomes +6 (code 7), as the hardware's conversion gives; Inf saturates.
 */
#ifndef NI_FORMAT_E2M1_H
#define NI_FORMAT_E2M1_H

#include "format/ieee.h"

#define NI_E2M1_NAN 7u

static inline NI_HD float ni_e2m1_value(uint8_t code) {
    uint32_t m = code & 7u;
    /* 2|value|: m below 4, then 4 6 8 12 */
    uint32_t twice = m < 4 ? m : (2u + (m & 1u)) << ((m >> 1) - 1u);
    float value = ni_f32_mul(0.5f, (float)twice);
    return code & 8u ? -value : value;
}

/* Nearest, ties to the even code; keeps the sign of zero. */
static inline NI_HD uint8_t ni_e2m1_even(float x) {
    if (ni_f32_is_nan(x))
        return NI_E2M1_NAN;
    float a = ni_f32_abs(x);
    int m = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) + (a > 5.0f);
    return (uint8_t)(ni_f32_bits(x) >> 31 << 3 | (uint32_t)m);
}

/* Nearest, ties toward +inf; zero is always code 0 (arXiv:2501.17116, appendix A). */
static inline NI_HD uint8_t ni_e2m1_up(float x) {
    if (ni_f32_is_nan(x))
        return NI_E2M1_NAN;
    if (x >= 0.0f)
        return (uint8_t)((x >= 0.25f) + (x >= 0.75f) + (x >= 1.25f) + (x >= 1.75f) + (x >= 2.5f) + (x >= 3.5f) +
                         (x >= 5.0f));
    float a = -x;
    int m = (a > 0.25f) + (a > 0.75f) + (a > 1.25f) + (a > 1.75f) + (a > 2.5f) + (a > 3.5f) + (a > 5.0f);
    return (uint8_t)(m ? 8 | m : 0);
}

/* Distance between grid points from |x| = a upward. */
static inline NI_HD float ni_e2m1_step(float a) {
    return a >= 4.0f ? 2.0f : a >= 2.0f ? 1.0f : 0.5f;
}

/* Stochastic: adds u steps, u in [0, 1), and rounds toward zero. Grid points never move; the sign is kept. */
static inline NI_HD uint8_t ni_e2m1_stochastic(float x, float u) {
    if (ni_f32_is_nan(x))
        return NI_E2M1_NAN;
    float a = ni_f32_abs(x);
    float t = ni_f32_add(a, ni_f32_mul(u, ni_e2m1_step(a))); /* the product is exact */
    int m = (t >= 0.5f) + (t >= 1.0f) + (t >= 1.5f) + (t >= 2.0f) + (t >= 3.0f) + (t >= 4.0f) + (t >= 6.0f);
    return (uint8_t)(ni_f32_bits(x) >> 31 << 3 | (uint32_t)m);
}

#endif
