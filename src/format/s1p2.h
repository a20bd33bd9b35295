/* s1p2.h: the 4-bit element of HiFloat4 (arXiv:2602.11287): a sign, one bit before the point and two behind it.
 *
 *     3   2 . 1..0        code  0  1    2   3    4  5     6    7     8..15: the same, negative
 *     s   1 . 2           value 0  .25  .5  .75  1  1.25  1.5  1.75  no Inf, no NaN
 *
 * NaN becomes +1.75 (code 7); Inf saturates.
 */
#ifndef NI_FORMAT_S1P2_H
#define NI_FORMAT_S1P2_H

#include "format/ieee.h"

#define NI_S1P2_NAN 7u

static inline NI_HD float ni_s1p2_value(uint8_t code) {
    float value = ni_f32_mul(0.25f, (float)(code & 7u));
    return code & 8u ? -value : value;
}

/* The code of m quarters under the sign of x, m clipped to 7. */
static inline NI_HD uint8_t ni_s1p2_code(float x, int m) {
    return (uint8_t)(ni_f32_bits(x) >> 31 << 3 | (uint32_t)(m > 7 ? 7 : m));
}

/* |x| in quarters, exact but where it saturates: the whole ones, and what is left of one more. */
typedef struct ni_s1p2_quarters {
    int whole;
    float rest;
} ni_s1p2_quarters;

static inline NI_HD ni_s1p2_quarters ni_s1p2_quarters_of(float x) {
    float a = ni_f32_mul(ni_f32_abs(x), 4.0f);
    ni_s1p2_quarters q;
    q.whole = a < 8.0f ? (int)a : 8;
    q.rest = a < 8.0f ? ni_f32_sub(a, (float)q.whole) : 0.0f;
    return q;
}

/* Nearest, ties to the even code; keeps the sign of zero. */
static inline NI_HD uint8_t ni_s1p2_even(float x) {
    if (ni_f32_is_nan(x))
        return NI_S1P2_NAN;
    ni_s1p2_quarters q = ni_s1p2_quarters_of(x);
    return ni_s1p2_code(x, q.whole + (q.rest > 0.5f || (q.rest == 0.5f && (q.whole & 1))));
}

/* Nearest, ties away from zero, as the authors' code has it; keeps the sign of zero. */
static inline NI_HD uint8_t ni_s1p2_away(float x) {
    if (ni_f32_is_nan(x))
        return NI_S1P2_NAN;
    ni_s1p2_quarters q = ni_s1p2_quarters_of(x);
    return ni_s1p2_code(x, q.whole + (q.rest >= 0.5f));
}

/* Nearest, ties toward +inf; zero is always code 0. */
static inline NI_HD uint8_t ni_s1p2_up(float x) {
    if (ni_f32_is_nan(x))
        return NI_S1P2_NAN;
    ni_s1p2_quarters q = ni_s1p2_quarters_of(x);
    int m = q.whole + (q.rest > 0.5f || (q.rest == 0.5f && x > 0.0f));
    return m ? ni_s1p2_code(x, m) : 0;
}

/* Stochastic: adds u quarters, u in [0, 1), and rounds toward zero. Grid points never move; the sign is kept. */
static inline NI_HD uint8_t ni_s1p2_stochastic(float x, float u) {
    if (ni_f32_is_nan(x))
        return NI_S1P2_NAN;
    float a = ni_f32_add(ni_f32_mul(ni_f32_abs(x), 4.0f), u);
    return ni_s1p2_code(x, a < 8.0f ? (int)a : 8);
}

#endif
