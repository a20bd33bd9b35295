/* sixteen.cuh: what kernels share whose thread takes 16 neighbours on the contraction: loading, rotating, the random bits
 * and the grid.
 */
#ifndef NI_BACKEND_CUDA_SIXTEEN_CUH
#define NI_BACKEND_CUDA_SIXTEEN_CUH

#include "backend/cuda/tile.cuh"

/* ---- divisions that need no second path: of numbers that are tame ---- */

static __device__ inline float ni_reciprocal(float b) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
    return __fmaf_rn(r, __fmaf_rn(-b, r, 1.0f), r);
}

/* Constant divisors: their reciprocals, rounded, and so one step less. */
static __device__ inline float ni_over_constant(float a, float b, float over_b) {
    const float q = __fmul_rn(a, over_b);
    return __fmaf_rn(over_b, __fmaf_rn(-b, q, a), q);
}

/* Four columns of a list, from a whole vector on. */
static __device__ inline void ni_list_four(int *columns, const int32_t *list) {
    const int4 four = __ldg((const int4 *)list);
    columns[0] = four.x;
    columns[1] = four.y;
    columns[2] = four.z;
    columns[3] = four.w;
}

static __device__ inline void ni_load_sixteen(float *x, const uint16_t *from) {
#pragma unroll
    for (int half = 0; half < 16; half += 8) {
        const ni_eight e = ni_load_eight(from + half);
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[half + i] = e.x[i];
    }
}

static __device__ inline void ni_load_sixteen(float *x, const float *from) {
#pragma unroll
    for (int i = 0; i < 16; i += 4) {
        const float4 v = *(const float4 *)(from + i);
        x[i] = v.x;
        x[i + 1] = v.y;
        x[i + 2] = v.z;
        x[i + 3] = v.w;
    }
}

/* Words of one group of 16: four at 8 bits, eight at 16. */
template <int ROUND>
static __device__ inline void ni_draw_sixteen(const ni_philox_keys &keys, const ni_philox_shared &shared,
                                              uint32_t group, uint32_t *words) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (8 * half >= ROUND)
            return;
        const ni_philox_words drawn =
            ni_philox_next(&keys, &shared, group, half ? NI_PURPOSE_ROUNDING_HI : NI_PURPOSE_ROUNDING);
#pragma unroll
        for (int i = 0; i < 4; i++)
            words[4 * half + i] = drawn.w[i];
    }
}

template <int ROUND> static __device__ inline float ni_sixteenth_on_grid(float y, const uint32_t *words, int lane) {
    return ROUND == 16 ? ni_on_grid<ROUND, false>(y, words + lane / 8 * 4, lane % 8)
                       : ni_on_grid<ROUND, false>(y, words, lane);
}

/* Stages and factor of format/hadamard.h, the factor unless it is FOLDED into scales; rounded to BF16 where the quantizer says
 * so. */
template <bool FOLDED> static __device__ inline void ni_turn_signed(float *x, bool round) {
    ni_rotate_sixteen(x);
    if (!FOLDED)
#pragma unroll
        for (int i = 0; i < 16; i++)
            x[i] = ni_f32_mul(x[i], 0.25f);
    if (round)
#pragma unroll
        for (int i = 0; i < 16; i++)
            x[i] = ni_bf16_round(x[i]);
}

static __device__ inline uint32_t ni_amax_of_sixteen(const float *x) {
    uint32_t amax = 0;
#pragma unroll
    for (int i = 0; i < 16; i++)
        amax = max(amax, ni_f32_magnitude(x[i]));
    return amax;
}

/* The same as a number: NaN where one is. */
static __device__ inline float ni_largest_of_sixteen(const float *x) {
    float amax = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++)
        amax = ni_larger_or_nan(amax, fabsf(x[i]));
    return amax;
}

/* |y| beyond `six`, Inf and NaN become that. */
static __device__ inline float ni_up_to_six(float y, float six = 6.0f) {
#if __CUDA_ARCH__ >= 860
    float clamped;
    asm("min.xorsign.abs.f32 %0, %1, %2;" : "=f"(clamped) : "f"(y), "f"(six));
    return clamped;
#else
    return copysignf(fminf(fabsf(y), six), y);
#endif
}

/* Bits of `a` where the mask has ones, else those of `b`: one instruction, which the compiler makes two of. */
static __device__ inline uint32_t ni_select_bits(uint32_t mask, uint32_t a, uint32_t b) {
    uint32_t bits;
    asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(bits) : "r"(mask), "r"(a), "r"(b));
    return bits;
}

/* E2M1's numbers times this are small numbers of E4M3, whose bytes are the code above two bits of zero. */
#define NI_E2M1_IN_E4M3 0x1p-6f

/* Bytes of two such numbers; their first bits are anything. */
static __device__ inline uint32_t ni_e2m1_bytes(float first, float second) {
#if __CUDA_ARCH__ >= 890
    return ni_e4m3_bytes(first, second);
#else /* as ni_e2m1_of reads them: where FP32 has exponent and fraction, 126 binades too low */
    return __float_as_uint(fabsf(first) * 0x1p-120f) >> 20 | __float_as_uint(fabsf(second) * 0x1p-120f) >> 20 << 8;
#endif
}

/* Codes of sixteen numbers of E2M1's grid times that; signs are those of y. */
static __device__ inline uint2 ni_codes_of_sixteen(const float *q, const float *y) {
    uint32_t four[4];
#pragma unroll
    for (int i = 0; i < 16; i += 4) {
        const uint32_t bytes = ni_e2m1_bytes(q[i], q[i + 1]) | ni_e2m1_bytes(q[i + 2], q[i + 3]) << 16;
        const uint32_t signs = __byte_perm(ni_exact_pair(y[i], y[i + 1]), ni_exact_pair(y[i + 2], y[i + 3]), 0x7531);
        const uint32_t nibbles = ni_select_bits(0x07070707u, bytes >> 2, signs >> 4);
        four[i / 4] = ni_select_bits(0x0f0f0f0fu, nibbles, nibbles >> 4); /* in bytes 0 and 2 */
    }
    return make_uint2(__byte_perm(four[0], four[1], 0x6420), __byte_perm(four[2], four[3], 0x6420));
}

/* x times `encode` on E2M1's grid, in pairs, and pairs that have the signs. */
template <int ROUND>
static __device__ inline void ni_grid_sixteen(const float *x, float encode, const uint32_t *words, uint32_t *q,
                                              uint32_t *signs) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float low = ni_f32_mul(x[2 * i], encode), high = ni_f32_mul(x[2 * i + 1], encode);
        signs[i] = ni_exact_pair(low, high);
        q[i] = ni_pair_up_to_six(ni_exact_pair(ni_sixteenth_on_grid<ROUND>(low, words, 2 * i),
                                               ni_sixteenth_on_grid<ROUND>(high, words, 2 * i + 1)));
    }
}

/* E2M1: exponent and fraction where FP32 has them, 126 binades too low. */
static __device__ inline float ni_e2m1_of(uint32_t code) {
    return ni_f32_mul(__uint_as_float((code & 7u) << 22 | (code & 8u) << 28), 0x1p126f);
}

#endif
