/* four_six.h: Four Over Six (arXiv:2512.02010): a block's largest magnitude becomes 6 or 4, whichever errs less.
 *
 *     base = fl(fl(amax_block / max) * S)             max 6, or 6*16/17 with headroom
 *     s6   = E4M3(base),  s4 = E4M3(fl(base * 1.5))   both under the tensor's S
 *     d    = fl(fl(fl(fl(q * s8) * amax) / max_of_both) - x)     q: x encoded under s8, to nearest
 *     4 where its sum of d*d (or |d|, or largest |d|) is the smaller one; else 6
 *
 * TransformerEngine and the authors' code agree on all of it but the order in which a sum is added up. The choice never
 * looks at random bits: what is rounded stochastically afterwards stays unbiased.
 */
#ifndef NI_FORMAT_FOUR_SIX_H
#define NI_FORMAT_FOUR_SIX_H

#include "format/e2m1.h"
#include "format/scale.h"

/* Both scales of a block. */
typedef struct ni_two_scales {
    uint8_t six, four;
} ni_two_scales;

static inline NI_HD ni_two_scales ni_four_six_bytes(ni_e4m3_target target, ni_tensor_scale t, float amax_block) {
    float base = ni_f32_mul(ni_f32_div(amax_block, target.max), t.s);
    ni_two_scales bytes;
    bytes.six = ni_e4m3_even(ni_f32_finite(base));
    bytes.four = ni_e4m3_even(ni_f32_finite(ni_f32_mul(base, 1.5f)));
    return bytes;
}

/* a / max by its reciprocal: two steps give the very quotient, for every `max_of_both` and every |a| of 2^-80 to 2^100
 * (tests/test_four_six.c tries all significands). */
static inline NI_HD float ni_four_six_quotient(float a, float max, float inverse) {
    const float near = ni_f32_mul(a, inverse);
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(__fmaf_rn(-near, max, a), inverse, near);
#else
    return fmaf(fmaf(-near, max, a), inverse, near);
#endif
}

/* What one element adds to the error of scale `byte`; `amax` is what S was made from. */
static inline NI_HD float ni_four_six_term(const nb_quantizer *q, float x, uint8_t byte, float encode, float amax,
                                           float max_of_both) {
    float y = ni_f32_mul(x, encode);
    float value = byte ? ni_e2m1_value(q->round == NB_ROUND_UP ? ni_e2m1_up(y) : ni_e2m1_even(y)) : 0.0f;
    float decoded = ni_f32_div(ni_f32_mul(ni_f32_mul(value, ni_e4m3_value(byte)), amax), max_of_both);
    float d = ni_f32_sub(decoded, x);
    return q->four_six == NB_FOUR_SIX_MSE ? ni_f32_mul(d, d) : ni_f32_abs(d);
}

static inline NI_HD float ni_four_six_larger(float a, float b) {
    return b > a ? b : a;
}

/* Of one row's 16 terms. */
static inline NI_HD float ni_four_six_row(const nb_quantizer *q, const float t[16]) {
    float sum = 0.0f;
    if (q->four_six == NB_FOUR_SIX_MAX) {
        for (int i = 0; i < 16; i++)
            sum = ni_four_six_larger(sum, t[i]);
    } else if (q->four_six_order == NB_FOUR_SIX_IN_ORDER) {
        for (int i = 0; i < 16; i++)
            sum = ni_f32_add(sum, t[i]);
    } else {
        for (int i = 0; i < 8; i++)
            sum = ni_f32_add(sum, ni_f32_add(t[i], t[i + 8]));
    }
    return sum;
}

/* Of the 16 rows of a tile, from their own sums: eight and eight, four and four, ... Rows that are not there are 0. */
static inline NI_HD float ni_four_six_rows(const nb_quantizer *q, const float row[16]) {
    float sum[8];
    for (int i = 0; i < 8; i++)
        sum[i] =
            q->four_six == NB_FOUR_SIX_MAX ? ni_four_six_larger(row[i], row[i + 8]) : ni_f32_add(row[i], row[i + 8]);
    for (int half = 4; half; half /= 2)
        for (int i = 0; i < half; i++)
            sum[i] = q->four_six == NB_FOUR_SIX_MAX ? ni_four_six_larger(sum[i], sum[i + half])
                                                    : ni_f32_add(sum[i], sum[i + half]);
    return sum[0];
}

/* Of a tile in eight lanes: lane l of four sums has the columns l and l + 8 of even and of odd rows. */
static inline NI_HD float ni_four_six_eighths(const float even[16], const float odd[16]) {
    float sum = 0.0f;
    for (int l = 0; l < 8; l++)
        sum = ni_f32_add(sum, ni_f32_add(ni_f32_add(ni_f32_add(even[l], even[l + 8]), odd[l]), odd[l + 8]));
    return sum;
}

/* True where a tile's sum goes by columns over all rows, and not by sums of rows. */
static inline NI_HD bool ni_four_six_in_columns(const nb_quantizer *q) {
    return q->block_rows == 16 && q->four_six_order == NB_FOUR_SIX_IN_EIGHTS && q->four_six != NB_FOUR_SIX_MAX;
}

#endif
