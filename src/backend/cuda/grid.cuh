/* grid.cuh: numbers on E2M1's grid in few instructions, by the format's own rules (format/e2m1.h), where |y| <= 6:
 *
 *     nearest      adding and subtracting p * 1.5 * 2^22, p the power of two of |y| and at least 1, rounds to the
 * grid's step there, ties to even stochastic   |y| + u * step, then the same towards zero with p * 2^22 code value *
 * 2^-126 has the code in its top bits: 0.5 is a subnormal there as in E2M1
 */
#ifndef NI_BACKEND_CUDA_GRID_CUH
#define NI_BACKEND_CUDA_GRID_CUH

#include "format/ieee.h"

#include <cuda_runtime.h>
#include <stdint.h>

static __device__ inline float ni_grid_power_of(float a) {
    return fmaxf(__uint_as_float(__float_as_uint(a) & 0x7f800000u), 1.0f);
}

/* |y| up to 6 to the nearest value of the grid. */
static __device__ inline float ni_grid_nearest(float a) {
    const float p = ni_grid_power_of(a);
    return __fmaf_rn(p, -6291456.0f, __fmaf_rn(p, 6291456.0f, a));
}

/* r random bits times 2^-bits: `share` = 2^-(bits + 1). */
static __device__ inline float ni_grid_stochastic(float a, float r, float share) {
    const float p = ni_grid_power_of(a), t = __fmaf_rn(r, ni_f32_mul(p, share), a);
    return __fmaf_rn(p, -4194304.0f, __fmaf_rz(p, 4194304.0f, t));
}

/* Random bits as a float: byte or half i of a word behind 2^23. */
static __device__ inline float ni_grid_eight_bits(uint32_t word, int i) {
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u | (uint32_t)i)) - 8388608.0f;
}

static __device__ inline float ni_grid_sixteen_bits(uint32_t word, int i) {
    return __uint_as_float(__byte_perm(word, 0x4b000000u, i ? 0x7432u : 0x7410u)) - 8388608.0f;
}

static __device__ inline uint32_t ni_grid_code(float q) {
    const uint32_t bits = __float_as_uint(ni_f32_mul(q, 0x1p-126f));
    return (bits >> 22 & 7u) | (bits >> 28 & 8u);
}

/* Eight numbers under one encode factor: signed grid values. `keep` masks the sign: none under a byte of 0. */
template <int ROUND>
static __device__ inline void ni_encode_eight(const float *x, float encode, uint32_t keep, const uint32_t *words,
                                              float *q) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float y = ni_f32_mul(x[i], encode), a = fminf(fabsf(y), 6.0f);
        float v;
        if (ROUND == 0)
            v = ni_grid_nearest(a);
        else if (ROUND == 8)
            v = ni_grid_stochastic(a, ni_grid_eight_bits(words[i / 4], i % 4), 0x1p-9f);
        else
            v = ni_grid_stochastic(a, ni_grid_sixteen_bits(words[i / 2], i % 2), 0x1p-17f);
        q[i] = __uint_as_float(__float_as_uint(v) | (__float_as_uint(y) & keep));
    }
}

#endif
