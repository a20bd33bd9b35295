/* hif4.h: the scales of HiFloat4 (arXiv:2602.11287; facts of the authors' formal code): 64 neighbours share 32 bits.
 *
 *     byte 0      E6M2: 7..2 exponent, bias 48; 1..0 mantissa under a hidden one. No zero, no Inf; 0xff NaN.
 *     byte 1      a bit for each 8 elements, lowest first: they count twice
 *     byte 2, 3   a bit for each 4 elements, lowest first: they count twice, or twice more
 *
 *     value_i = E6M2 * 2^(by8[i / 8] + by4[i / 4]) * S1P2_i
 *
 * The largest magnitude of the 64 maps to 7 = 4 * 1.75. Scales are found in BF16, as the hardware does:
 *     E6M2 = RNE(bf16(max * bf16(1/7)))       in [2^-48, 1.5*2^15]
 *     r    = bf16(1 / E6M2)
 *     by8  = max of 8 * r >= 4                by4 = max of 4 * r / 2^by8 >= 2
 * and elements are rounded from x * r / 2^(by8 + by4). NaN and Inf make E6M2 NaN, and so all 64 values.
 */
#ifndef NI_FORMAT_HIF4_H
#define NI_FORMAT_HIF4_H

#include "format/bf16.h"
#include "format/ieee.h"

enum { NI_HIF4_GROUP = 64, NI_HIF4_BYTES = 4, NI_HIF4_FINE = 4 /* elements under one set of scales */ };

#define NI_E6M2_NAN 0xffu

static inline NI_HD float ni_e6m2_value(uint8_t byte) {
    if (byte == NI_E6M2_NAN)
        return ni_f32_from(0x7fc00000u);
    return ni_f32_from(((uint32_t)byte + ((127u - 48u) << 2)) << 21);
}

/* bf16(1 / value): exact for powers of two. */
static inline NI_HD float ni_e6m2_inverse(uint8_t byte) {
    return ni_bf16_round(ni_f32_div(1.0f, ni_e6m2_value(byte)));
}

/* The scale of a group whose largest magnitude is `max`. */
static inline NI_HD uint8_t ni_e6m2_of(float max) {
    float s = ni_bf16_round(ni_f32_mul(max, 0x1.24p-3f)); /* bf16(1/7) */
    uint32_t bits = ni_f32_magnitude(s);
    if (ni_f32_magnitude(max) >= NI_F32_INF_BITS)
        return NI_E6M2_NAN;
    if (s >= 49152.0f)
        return 0xfeu;
    if (s <= 0x1p-48f)
        return 0;
    return (uint8_t)(((bits + 0xfffffu + (bits >> 21 & 1u)) >> 21) - ((127u - 48u) << 2));
}

/* How often element i of the group is doubled: 0, 1 or 2. */
static inline NI_HD int ni_hif4_doublings(const uint8_t scales[NI_HIF4_BYTES], int i) {
    return (scales[1] >> (i / 8) & 1) + (scales[2 + i / 32] >> (i / 4 % 8) & 1);
}

static inline NI_HD float ni_hif4_decode(const uint8_t scales[NI_HIF4_BYTES], int i) {
    return ni_f32_mul(ni_e6m2_value(scales[0]), (float)(1 << ni_hif4_doublings(scales, i)));
}

/* What element i is multiplied by before it is rounded. Powers of two are exact. */
static inline NI_HD float ni_hif4_encode(const uint8_t scales[NI_HIF4_BYTES], int i) {
    const int n = ni_hif4_doublings(scales, i);
    return ni_f32_mul(ni_e6m2_inverse(scales[0]), n == 2 ? 0.25f : n == 1 ? 0.5f : 1.0f);
}

/* amax[j]: the largest magnitude of elements 4j .. 4j + 3, as bits. */
static inline NI_HD void ni_hif4_scales(const uint32_t amax[16], uint8_t scales[NI_HIF4_BYTES]) {
    uint32_t max = 0;
    for (int j = 0; j < 16; j++)
        max = amax[j] > max ? amax[j] : max;
    scales[0] = ni_e6m2_of(ni_f32_from(max));
    scales[1] = scales[2] = scales[3] = 0;
    const float r = ni_e6m2_inverse(scales[0]);
    for (int k = 0; k < 8; k++) {
        const uint32_t a = amax[2 * k], b = amax[2 * k + 1];
        const int by8 = ni_f32_mul(ni_f32_from(a > b ? a : b), r) >= 4.0f;
        scales[1] = (uint8_t)(scales[1] | by8 << k);
        for (int j = 2 * k; j < 2 * k + 2; j++) {
            const int by4 = ni_f32_mul(ni_f32_from(amax[j]), r) >= (by8 ? 4.0f : 2.0f);
            scales[2 + j / 8] = (uint8_t)(scales[2 + j / 8] | by4 << (j % 8));
        }
    }
}

#endif
