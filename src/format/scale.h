/* scale.h: how an amax becomes a scale, one FP32 operation at a time (docs/formats.md, "Scales").
 *
 * NVFP4 follows TransformerEngine's default path (arXiv:2509.25149, appendix on the quantizer), where the order of the
 * operations decides the last bit; the double block follows the code of arXiv:2510.27527.
 */
#ifndef NI_FORMAT_SCALE_H
#define NI_FORMAT_SCALE_H

#include "format/e4m3.h"
#include "nibble/format.h"

/* Largest E2M1 magnitude that a block's amax is mapped to, and the constants that follow from it. */
typedef struct ni_e4m3_target {
    float max;         /* 6, or 6*16/17 with headroom */
    float inverse;     /* fl(1/max) */
    float max_of_both; /* fl(448*max), or fl(256*max) */
} ni_e4m3_target;

static inline NI_HD ni_e4m3_target ni_e4m3_target_of(nb_scale_rule rule) {
    ni_e4m3_target absmax = {6.0f, 0x1.555556p-3f, 2688.0f};
    ni_e4m3_target headroom = {0x1.69696ap+2f, 0x1.6aaaaap-3f, 0x1.3c3c3cp+11f};
    ni_e4m3_target eden = {0x1.849d64p+2f, 0x1.5147aep-3f,
                           0x1.84998p+10f}; /* 6/(17/16 * 0.93), under a tensor scale of 255.99 */
    return rule == NB_RULE_HEADROOM ? headroom : rule == NB_RULE_EDEN ? eden : absmax;
}

/* The same where Four Over Six may leave room above the largest scale, so that 1.5 times it is one too. */
static inline NI_HD ni_e4m3_target ni_e4m3_target_for(const nb_quantizer *q) {
    ni_e4m3_target target = ni_e4m3_target_of(q->rule);
    if (q->four_six != NB_FOUR_SIX_NONE && q->four_six_top == 256)
        target.max_of_both = q->rule == NB_RULE_HEADROOM ? 0x1.69696ap+10f : 1536.0f;
    return target;
}

/* S with S*amax = max, as a finite float; 1 for an amax of zero or Inf; NaN for NaN. */
static inline NI_HD float ni_encode_scale(float max, float amax) {
    float s = ni_f32_finite(ni_f32_div(max, amax));
    return amax == 0.0f || s == 0.0f ? 1.0f : ni_f32_canonical(s);
}

/* The largest power of two not above a positive finite `s`; NaN stays. */
static inline NI_HD float ni_pow2_below(float s) {
    uint32_t bits = ni_f32_bits(s);
    if (bits >= NI_F32_INF_BITS)
        return s;
    if (bits >= 0x00800000u)
        return ni_f32_from(bits & 0x7f800000u);
    uint32_t top = 0x00400000u; /* subnormal: the highest bit alone */
    while (top && !(bits & top))
        top >>= 1;
    return ni_f32_from(top);
}

/* The smallest power of two not below a positive `s`; 2^127 beyond it; zero, Inf and NaN stay. */
static inline NI_HD float ni_pow2_above(float s) {
    if (!(s > 0.0f) || ni_f32_bits(s) >= NI_F32_INF_BITS)
        return s;
    float below = ni_pow2_below(s);
    return below == s || below == 0x1p127f ? below : ni_f32_mul(below, 2.0f);
}

/* ---- E4M3 block scale under one FP32 scale a tensor ---- */

/* The tensor's part: Sdec is what an operand stores. Without an outer scale both are 1. */
typedef struct ni_tensor_scale {
    float s;       /* encode */
    float sdec;    /* fl(1/S) */
    float s_inner; /* m = fl(S * fl(1/max)) */
} ni_tensor_scale;

static inline NI_HD ni_tensor_scale ni_tensor_scale_of(ni_e4m3_target target, nb_outer_scale outer, float amax) {
    ni_tensor_scale t;
    t.s = outer == NB_OUTER_TENSOR ? ni_encode_scale(target.max_of_both, amax)
          : outer == NB_OUTER_UNIT ? ni_encode_scale(target.max_of_both, 1.0f)
                                   : 1.0f;
    t.sdec = ni_f32_canonical(ni_f32_div(1.0f, t.s));
    t.s_inner = ni_f32_mul(t.s, target.inverse);
    return t;
}

/* What a delayed scale is made from: `headroom` times the largest magnitude of the step before. 0, and so S = 1, where
 * nothing was known of it, or nothing good. */
static inline NI_HD float ni_delayed_amax(float past, float headroom) {
    const bool good = past > 0.0f && ni_f32_bits(past) < NI_F32_INF_BITS;
    return good ? ni_f32_finite(ni_f32_mul(past, headroom)) : 0.0f;
}

static inline NI_HD uint8_t ni_block_scale_byte(ni_tensor_scale t, float amax_block) {
    return ni_e4m3_even(ni_f32_finite(ni_f32_mul(amax_block, t.s_inner)));
}

/* What elements are multiplied by: the reciprocal of the decode scale as it was really stored. */
static inline NI_HD float ni_block_encode(uint8_t byte, float sdec) {
    return ni_f32_finite(ni_f32_div(1.0f, ni_f32_mul(ni_e4m3_value(byte), sdec)));
}

/* ---- E4M3 block scale under one FP32 scale a 1x128 (double block) ---- */

static inline NI_HD float ni_outer128_scale(ni_e4m3_target target, nb_outer_scale outer, float amax128) {
    float s = ni_f32_div(ni_f32_div(amax128, 448.0f), target.max);
    if (outer == NB_OUTER_ROW128_POW2)
        s = ni_pow2_above(s);
    return s == 0.0f ? 1.0f : ni_f32_canonical(s);
}

static inline NI_HD uint8_t ni_outer128_scale_byte(ni_e4m3_target target, float outer_scale, float amax_block) {
    float s = ni_f32_div(ni_f32_div(amax_block, outer_scale), target.max);
    return ni_e4m3_even(s == 0.0f ? 0x1p-9f : s);
}

/* The reciprocal of a subnormal p would be Inf, and zeros NaN: it stays finite, as above. */
static inline NI_HD float ni_outer128_encode(uint8_t byte, float outer_scale) {
    float p = ni_f32_mul(outer_scale, ni_e4m3_value(byte));
    return p == 0.0f ? 0.0f : ni_f32_finite(ni_f32_div(1.0f, p));
}

/* ---- one FP32 scale a row, a column or a tensor ---- */

/* The encode scale; the operand stores ni_vector_decode of it. */
static inline NI_HD float ni_vector_encode(nb_scale_rule rule, float max, float amax) {
    float s = ni_encode_scale(max, amax);
    return rule == NB_RULE_POW2 ? ni_pow2_below(s) : s;
}

static inline NI_HD float ni_vector_decode(float encode) {
    return ni_f32_canonical(ni_f32_div(1.0f, encode));
}

#endif
