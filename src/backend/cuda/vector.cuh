/* vector.cuh: eight numbers under one FP32 scale of their row or tensor, as codes and values: what kernels share that make
 * such operands (quantize_vector.cu) or clamp rows on the way (clamp_warp.cu).
 */
#ifndef NI_BACKEND_CUDA_VECTOR_CUH
#define NI_BACKEND_CUDA_VECTOR_CUH

#include "backend/cuda/element.cuh"
#include "backend/cuda/grid.cuh"
#include "backend/cuda/tile.cuh"

/* ---- eight numbers ---- */

/* Ties toward +inf, zero without a sign: half a step more, then down to the grid. min before max: NaN becomes 6. */
static __device__ inline float ni_vector_e2m1_up(float y) {
    const float held = fmaxf(fminf(y, 6.0f), -6.0f), p = ni_grid_power_of(fabsf(held));
    return __fmaf_rn(p, -6291456.0f, __fmaf_rd(p, 6291456.0f, __fmaf_rd(p, 0.25f, held)));
}

static __device__ inline float ni_vector_e2m1_even(float y) {
    const float q = ni_grid_nearest(fminf(fabsf(y), 6.0f));
    return y != y ? 6.0f : copysignf(q, y);
}

static __device__ inline void ni_vector_two_of_halves(uint32_t pair, float *low, float *high) {
    asm("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(*low), "=f"(*high)
        : "r"(pair));
}

/* Two numbers as bytes, the first below. */
template <nb_element ELEMENT> static __device__ inline uint32_t ni_vector_bytes_of_two(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t pair;
    if constexpr (ELEMENT == NB_ELEMENT_E5M2)
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    else
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return ni_element_encode(ELEMENT, NB_ROUND_EVEN, low, 0.0f) |
           (uint32_t)ni_element_encode(ELEMENT, NB_ROUND_EVEN, high, 0.0f) << 8;
#endif
}

template <nb_element ELEMENT> static __device__ inline void ni_vector_values_of_two(uint32_t bytes, float *value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint32_t halves;
    if constexpr (ELEMENT == NB_ELEMENT_E5M2)
        asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"((uint16_t)bytes));
    else
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((uint16_t)bytes));
    ni_vector_two_of_halves(halves, value, value + 1);
#else
    value[0] = ni_element_value(ELEMENT, (uint8_t)bytes);
    value[1] = ni_element_value(ELEMENT, (uint8_t)(bytes >> 8));
#endif
}

static __device__ inline uint32_t ni_vector_bytes_of_four(const float *x) {
    return ni_vector_bytes_of_two<NB_ELEMENT_E4M3>(x[0], x[1]) | ni_vector_bytes_of_two<NB_ELEMENT_E4M3>(x[2], x[3])
                                                                     << 16;
}

/* Codes, and what they stand for. */
template <nb_element ELEMENT, nb_rounding ROUND>
static __device__ inline void ni_vector_encode_eight(const ni_eight &in, float multiplier, uint32_t *code,
                                                     ni_eight *value) {
    constexpr bool WIDE = ELEMENT == NB_ELEMENT_E4M3 || ELEMENT == NB_ELEMENT_E5M2;
#pragma unroll
    for (int i = 0; i < 8; i += WIDE && ROUND == NB_ROUND_EVEN ? 2 : 1) {
        const float y = ni_f32_mul(in.x[i], multiplier);
        if (WIDE && ROUND == NB_ROUND_EVEN) {
            const uint32_t pair = ni_vector_bytes_of_two<ELEMENT>(y, ni_f32_mul(in.x[i + 1], multiplier));
            code[i] = pair & 0xffu;
            code[i + 1] = pair >> 8;
            ni_vector_values_of_two<ELEMENT>(pair, value->x + i);
        } else if (ELEMENT == NB_ELEMENT_E2M1) {
            value->x[i] = ROUND == NB_ROUND_UP ? ni_vector_e2m1_up(y) : ni_vector_e2m1_even(y);
            code[i] = ni_grid_code(value->x[i]);
        } else if (ELEMENT == NB_ELEMENT_INT4 && ROUND == NB_ROUND_EVEN) {
            /* beside 1.5 x 2^23 only whole numbers are; min before max: NaN becomes 7 */
            const float whole = fmaxf(fminf(y, 7.0f), -7.0f) + 12582912.0f;
            code[i] = __float_as_uint(whole) & 15u;
            value->x[i] = whole - 12582912.0f;
        } else {
            code[i] = ni_element_encode(ELEMENT, ROUND, y, 0.0f);
            value->x[i] = ni_element_value(ELEMENT, (uint8_t)code[i]);
        }
    }
}

template <nb_element ELEMENT>
static __device__ inline void ni_vector_store_codes(uint8_t *codes, int64_t at, const uint32_t *code) {
    if (ni_element_is_4bit(ELEMENT)) {
        uint32_t word = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
            word |= code[i] << (4 * i);
        *(uint32_t *)(codes + at / 2) = word;
        return;
    }
    *(uint2 *)(codes + at) = make_uint2(code[0] | code[1] << 8 | code[2] << 16 | code[3] << 24,
                                        code[4] | code[5] << 8 | code[6] << 16 | code[7] << 24);
}

/* Eight neighbours from `at` on, in all that is wanted of them. */
template <nb_element ELEMENT, nb_rounding ROUND>
static __device__ inline void ni_put_eight(const ni_cuda_vector &v, int64_t at, const ni_eight &in, float multiplier,
                                           float decode) {
    ni_eight value;
    uint32_t code[8];
    ni_vector_encode_eight<ELEMENT, ROUND>(in, multiplier, code, &value);
    if (v.codes)
        ni_vector_store_codes<ELEMENT>(v.codes, at, code);
    if (ni_element_is_4bit(ELEMENT) && v.bytes)
        *(uint2 *)(v.bytes + at) = make_uint2(ni_vector_bytes_of_four(value.x), ni_vector_bytes_of_four(value.x + 4));
    if (!v.values)
        return;
    if (v.whole)
#pragma unroll
        for (int i = 0; i < 8; i++)
            value.x[i] = ni_f32_mul(value.x[i], decode);
    ni_store_eight(v.values + at, value);
}

/* ---- the same of E2M1 rounded up, mostly two numbers an instruction: tame rows ----
 *
 * As a half, y 2^-14 is an integer that counts the grid's steps by 512 (tile.cuh), so half a step is added and nine bits are
 * cut. What cvt cuts first is never missed above zero; below it a tie goes down in magnitude, so a negative y is taken one
 * ulp nearer to zero before. Zero has no sign. */

#define NI_UP_FACTOR 0x1p-14f

/* A row whose maximum is neither Inf nor NaN nor so small that the factor's part of it is lost. */
static __device__ inline bool ni_is_tame_row(uint32_t amax) {
    return amax >= 0x21800000u && amax <= 0x5d800000u; /* 2^-60, 2^60 */
}

/* Grid values as two halves; `multiplier` times NI_UP_FACTOR. */
static __device__ inline uint32_t ni_vector_up_pair(uint32_t pair, float multiplier) {
    const float low = __fadd_rz(ni_f32_mul(ni_low_of(pair), multiplier), 0x1p-149f),
                high = __fadd_rz(ni_f32_mul(ni_high_of(pair), multiplier), 0x1p-149f);
    uint32_t halves, q;
    asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(halves) : "f"(high), "f"(low));
    asm("fma.rn.f16x2 %0, %1, %2, %3;"
        : "=r"(q)
        : "r"((halves + 0x01000100u) & 0x8e008e00u), "r"(0x74007400u), "r"(0u));
    return q;
}

/* Two halves as E4M3. */
static __device__ inline uint32_t ni_vector_bytes_of_halves(uint32_t pair) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t bytes;
    asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;" : "=h"(bytes) : "r"(pair));
    return bytes;
#else
    float low, high;
    ni_vector_two_of_halves(pair, &low, &high);
    return ni_vector_bytes_of_two<NB_ELEMENT_E4M3>(low, high);
#endif
}

static __device__ inline uint32_t ni_vector_bytes_of_four_halves(uint32_t a, uint32_t b) {
    return __byte_perm(ni_vector_bytes_of_halves(a), ni_vector_bytes_of_halves(b), 0x5410);
}

/* Codes of four grid values, in bytes 0 and 2: times 2^-6 as E4M3 a magnitude is its code, above two bits. */
static __device__ inline uint32_t ni_vector_codes_of_four_halves(uint32_t a, uint32_t b) {
    uint32_t low, high;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(low) : "r"(a), "r"(0x24002400u));
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(high) : "r"(b), "r"(0x24002400u));
    const uint32_t bytes = ni_vector_bytes_of_four_halves(low, high),
                   codes = (bytes >> 2 & 0x07070707u) | (bytes >> 4 & 0x08080808u);
    return codes | codes >> 4;
}

static __device__ inline uint32_t ni_vector_scaled_pair(uint32_t pair, float inner) {
    float low, high;
    ni_vector_two_of_halves(pair, &low, &high);
    return ni_pack_two(ni_f32_mul(low, inner), ni_f32_mul(high, inner));
}

/* Where a lane's eights of a row lie, 256 columns apart, which begins at `at`. */
typedef struct ni_vector_lane {
    uint8_t *codes, *bytes;
    uint16_t *values;
} ni_vector_lane;

static __device__ inline ni_vector_lane ni_vector_lane_of(const ni_cuda_vector &v, int64_t at) {
    const uint64_t first = (uint64_t)at + 8 * (threadIdx.x % 32);
    const ni_vector_lane to = {v.codes ? v.codes + first / 2 : NULL, v.bytes ? v.bytes + first : NULL,
                               v.values ? v.values + first : NULL};
    return to;
}

/* Its eight of number i; as ni_put_eight. */
static __device__ inline void ni_put_eight_up(const ni_vector_lane &to, int i, const uint4 &in, float multiplier,
                                              float inner) {
    const uint32_t q[4] = {ni_vector_up_pair(in.x, multiplier), ni_vector_up_pair(in.y, multiplier),
                           ni_vector_up_pair(in.z, multiplier), ni_vector_up_pair(in.w, multiplier)};
    if (to.codes)
        *(uint32_t *)(to.codes + 128 * i) =
            __byte_perm(ni_vector_codes_of_four_halves(q[0], q[1]), ni_vector_codes_of_four_halves(q[2], q[3]), 0x6420);
    if (to.bytes)
        *(uint2 *)(to.bytes + 256 * i) =
            make_uint2(ni_vector_bytes_of_four_halves(q[0], q[1]), ni_vector_bytes_of_four_halves(q[2], q[3]));
    if (to.values)
        ni_store_words(ni_global(to.values + 256 * i),
                       make_uint4(ni_vector_scaled_pair(q[0], inner), ni_vector_scaled_pair(q[1], inner),
                                  ni_vector_scaled_pair(q[2], inner), ni_vector_scaled_pair(q[3], inner)));
}

/* What a maximum says of a scale: the factor of the numbers, and the scale that is kept. */
typedef struct ni_scaling {
    float multiplier, decode;
} ni_scaling;

template <nb_element ELEMENT>
static __device__ inline ni_scaling ni_vector_scaling_of(const ni_cuda_vector &v, uint32_t amax) {
    const float multiplier = ni_vector_encode(v.quantizer.rule, ni_element_max(ELEMENT), ni_f32_from(amax));
    return (ni_scaling){multiplier, ni_vector_decode(multiplier)};
}

#endif
