/* quartet.h: the two scale rules of Quartet: QuEST for MXFP4 (arXiv:2505.14669, arXiv:2502.05003) and MS-EDEN for NVFP4
 * (arXiv:2601.22813). Both weigh sums over a group of neighbours, which are added in one tree, so that a lane a row, a
 * thread a block and plain code get the same bits.
 */
#ifndef NI_FORMAT_QUARTET_H
#define NI_FORMAT_QUARTET_H

#include "format/e4m3.h"
#include "format/e8m0.h"
#include "format/hadamard.h"
#include "format/noise.h"

/* Adds n = 2^k numbers, each half to the other half; x is used up. */
static inline NI_HD float ni_tree_sum(float *x, int n) {
    for (int half = n / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            x[i] = ni_f32_add(x[i], x[i + half]);
    return x[0];
}

/* ---- QuEST ----
 *
 * Of a normal distribution with spread s the grid of E2M1 that errs least ends at 2.92247856 s. The block's scale is
 * the power of two at or below a sixth of that, so that 6 lies between 1.46 s and 2.92 s: what is beyond is clipped,
 * and gets no gradient (the mask of arXiv:2505.14669).
 */

/* 2^floor(log2(2.92247856/6 * s + 1e-8)) of a block of 32, s^2 = mean of squares - square of the mean. Where that is no
 * finite number the scale is NaN. */
static inline NI_HD uint8_t ni_e8m0_quest(float sum, float sum_squares) {
    float mean = ni_f32_mul(sum, 0x1p-5f);
    float variance = ni_f32_sub(ni_f32_mul(sum_squares, 0x1p-5f), ni_f32_mul(mean, mean));
    float spread = variance < 0.0f ? 0.0f : ni_f32_sqrt(variance); /* rounding may leave a little less than nothing */
    float scale = ni_f32_add(ni_f32_mul(spread, 0x1.f2c50ap-2f), 0x1.5798eep-27f);
    uint32_t bits = ni_f32_magnitude(scale);
    return bits >= NI_F32_INF_BITS ? (uint8_t)NI_E8M0_NAN : (uint8_t)(bits >> 23);
}

/* Gradients of the 32 numbers y that were rounded under that scale: what lay beyond the grid gets none. */
static inline NI_HD void ni_quest_mask(float *g, const float *y) {
    float values[32], squares[32];
    for (int i = 0; i < 32; i++) {
        values[i] = y[i];
        squares[i] = ni_f32_mul(y[i], y[i]);
    }
    const float sum = ni_tree_sum(values, 32);
    const float inverse = ni_e8m0_inverse(ni_e8m0_quest(sum, ni_tree_sum(squares, 32)));
    for (int i = 0; i < 32; i++)
        if (!(ni_f32_abs(ni_f32_mul(y[i], inverse)) < 6.0f))
            g[i] = 0.0f;
}

/* Elements that rotations by n and blocks of 32 have in common. */
static inline NI_HD int ni_quest_span(int n) {
    return n > 32 ? n : 32;
}

/* The gradients g of `span` rotated numbers become those of the numbers x themselves, which are rotated on the way; n
 * 0: no rotation. Without `mask` x is not looked at. */
static inline NI_HD void ni_quest_back(float *g, float *x, int n, ni_sign_mask signs, bool mask) {
    const int wide = ni_quest_span(n);
    for (int at = 0; at < wide && mask && n; at += n)
        ni_hadamard(x + at, n, signs);
    for (int at = 0; at < wide && mask; at += 32)
        ni_quest_mask(g + at, x + at);
    for (int at = 0; at < wide && n; at += n)
        ni_hadamard_back(g + at, n, signs);
}

/* ---- MS-EDEN ----
 *
 * A rotated group x of n numbers is rounded to nearest under E4M3 scales that map a block's maximum to 6/0.988125,
 * which clips a little. Rounding shortens it: the factor c with <x, c q> = <x, x> makes the expectation over the
 * rotation right (EDEN). It goes into the scales, which are rounded stochastically to stay E4M3 numbers. x and q are
 * measured under the scales of their blocks.
 */
typedef struct ni_eden_sums {
    float squares, products; /* of x x and x q */
} ni_eden_sums;

static inline NI_HD float ni_eden_factor(ni_eden_sums s) {
    return s.products == 0.0f ? 1.0f : ni_f32_div(s.squares, s.products);
}

/* The scale that numbers are rounded under: 1 where a block is too small for any. */
static inline NI_HD uint8_t ni_eden_first_byte(uint8_t nearest) {
    return nearest ? nearest : 0x38u;
}

/* The scale that is stored. Block b of an operand, counted row-major, has the bits of element b (format/noise.h). */
static inline NI_HD uint8_t ni_eden_byte(uint8_t first, float factor, float u) {
    return ni_e4m3_stochastic(ni_f32_mul(ni_e4m3_value(first), factor), u);
}

#endif
