/* turned.h: columns that cannot hold a tensor's largest turned number (nb_mat.turned_amax), told by sums that are not
 * exact.
 *
 * Sixteen numbers x under signs d are turned, but for a quarter, into u_i + v_i and u_i - v_i, i < 8:
 *
 *     u_i = sum over k < 8 of (-1)^bits(i & k) d_k x_k        v_i = the same of k + 8
 *
 * and the larger magnitude of both is |u_i| + |v_i|. Tensor cores find u and v of eight columns in one instruction, but
 * align the products to the largest and cut what is below. If they keep 14 bits (Hopper keeps more than 24), a sum of
 * eight is wrong by less than 8 2^-13 of the largest |x_k|, so |u| + |v| by less than 2^-9 of it; and the largest
 * turned number of a column is not smaller than that, because the matrix is orthogonal up to 4. So a column all of
 * whose |u| + |v| come out below 4 (1 - 2^-7) of a maximum that is known holds none beyond it: 2^-7 covers this error,
 * those of FP32's sums (2^-21) and of what is flushed to zero. Where the maximum is so small that subnormals matter, or
 * so large that sums overflow, nothing is told. NaN is beyond every limit as bits, and 0 Inf is NaN.
 */
#ifndef NI_FORMAT_TURNED_H
#define NI_FORMAT_TURNED_H

#include "format/hadamard.h"

/* BF16 of number `row`'s factor in u_i (row < 8) or v_i, under TransformerEngine's signs. */
static inline NI_HD uint32_t ni_turned_factor(int i, int row) {
    const uint32_t common = (uint32_t)(i & row & 7);
    const uint32_t minus = (NI_FIXED_SIGNS >> row ^ common ^ common >> 1 ^ common >> 2) & 1u;
    return 0x3f80u | minus << 15;
}

/* A column has to be turned exactly, if one of its |u| + |v| has bits not below this. `largest`: of a maximum, BF16. */
static inline NI_HD uint32_t ni_turned_limit(uint32_t largest) {
    const float known = ni_f32_from(largest);
    return known >= 0x1p-100f && known <= 0x1p120f ? ni_f32_bits(ni_f32_mul(known, 3.96875f)) : 0;
}

/* The same where the largest |u| + |v| of some columns is known and no maximum: bits of `most`, of whose column the
 * largest turned number is within 2^-9 of it. */
static inline NI_HD uint32_t ni_turned_limit_beside(uint32_t most) {
    const float sum = ni_f32_from(most);
    return sum >= 0x1p-98f && sum <= 0x1p122f ? ni_f32_bits(ni_f32_mul(sum, 0.984375f)) : 0;
}

#endif
