/* int4.h: symmetric 4-bit integers, two's complement; -7 .. 7 are used, code 8 (-8) is never written.
 *
 * This is what the research code of arXiv:2501.17116 calls e1m2. NaN becomes 7; Inf saturates; there is one zero.
 */
#ifndef NI_FORMAT_INT4_H
#define NI_FORMAT_INT4_H

#include "format/ieee.h"

#define NI_INT4_NAN 7u

static inline NI_HD float ni_int4_value(uint8_t code) {
    return (float)((int)(code & 15u) - (code & 8u ? 16 : 0));
}

/* The code of sign(x) * m, m clipped to 7. */
static inline NI_HD uint8_t ni_int4_code(float x, int m) {
    m = m > 7 ? 7 : m;
    return (uint8_t)((x < 0.0f ? -m : m) & 15);
}

/* floor(a) for a >= 0, at most 8. */
static inline NI_HD int ni_int4_floor(float a) {
    return a < 8.0f ? (int)a : 8;
}

/* Nearest, ties to even. */
static inline NI_HD uint8_t ni_int4_even(float x) {
    if (ni_f32_is_nan(x))
        return NI_INT4_NAN;
    float a = ni_f32_abs(x);
    int m = ni_int4_floor(a);
    float rest = ni_f32_sub(a, (float)m); /* exact below 8 */
    return ni_int4_code(x, m + (rest > 0.5f || (rest == 0.5f && (m & 1))));
}

/* Nearest, ties toward +inf. */
static inline NI_HD uint8_t ni_int4_up(float x) {
    if (ni_f32_is_nan(x))
        return NI_INT4_NAN;
    float a = ni_f32_abs(x);
    int m = ni_int4_floor(a);
    float rest = ni_f32_sub(a, (float)m);
    return ni_int4_code(x, m + (rest > 0.5f || (rest == 0.5f && x > 0.0f)));
}

/* Stochastic: adds u in [0, 1) to |x| and rounds toward zero. */
static inline NI_HD uint8_t ni_int4_stochastic(float x, float u) {
    if (ni_f32_is_nan(x))
        return NI_INT4_NAN;
    return ni_int4_code(x, ni_int4_floor(ni_f32_add(ni_f32_abs(x), u)));
}

#endif
