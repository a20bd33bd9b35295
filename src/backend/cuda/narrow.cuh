/* narrow.cuh: numbers of tensors under one scale (arXiv:2310.18313 section 2), one or four at a time. */
#ifndef NI_BACKEND_CUDA_NARROW_CUH
#define NI_BACKEND_CUDA_NARROW_CUH

#include "backend/arguments.h"
#include "backend/cuda/launch.cuh"
#include "format/narrow.h"

static __device__ inline float ni_narrow_value(const ni_scaled &t, int64_t i, float factor) {
    return ni_f32_mul(ni_narrow_load(t.data, t.dtype, i), factor);
}

static __device__ inline float ni_narrow_factor(const ni_scaled &t) {
    return t.scale ? *t.scale : 1.0f;
}

static __device__ inline float ni_narrow_encode_of(const ni_scaled &t, const uint32_t *amax) {
    return t.scale ? ni_narrow_encode(t.dtype, t.rule, ni_f32_from(*amax)) : 1.0f;
}

/* ---- four of them at once: whole words of memory ---- */

typedef struct ni_four {
    float x[4];
} ni_four;

static inline bool ni_has_fours(const ni_scaled &t) {
    return !t.data || ((uintptr_t)t.data & 15) == 0;
}

/* Numbers 4 i to 4 i + 3. */
static __device__ inline ni_four ni_four_of(const ni_scaled &t, int64_t i, float factor) {
    ni_four f;
    if (t.dtype == NB_F32) {
        const float4 w = ((const float4 *)t.data)[i];
        f = (ni_four){{w.x, w.y, w.z, w.w}};
    } else if (t.dtype == NB_BF16 || t.dtype == NB_F16) {
        const uint2 w = ((const uint2 *)t.data)[i];
        const uint16_t halves[4] = {(uint16_t)w.x, (uint16_t)(w.x >> 16), (uint16_t)w.y, (uint16_t)(w.y >> 16)};
#pragma unroll
        for (int k = 0; k < 4; k++)
            f.x[k] = t.dtype == NB_F16 ? ni_fp16_value(halves[k]) : ni_bf16_value(halves[k]);
    } else {
        const uint32_t w = ((const uint32_t *)t.data)[i];
#pragma unroll
        for (int k = 0; k < 4; k++)
            f.x[k] =
                t.dtype == NB_E4M3 ? ni_e4m3_value((uint8_t)(w >> (8 * k))) : ni_e5m2_value((uint8_t)(w >> (8 * k)));
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
        f.x[k] = ni_f32_mul(f.x[k], factor);
    return f;
}

static __device__ inline uint32_t ni_narrowed(nb_dtype type, float x) {
    uint32_t word = 0;
    ni_narrow_store(&word, type, 0, x); /* little-endian: the low bytes */
    return word;
}

static __device__ inline void ni_store_four(const ni_scaled &t, int64_t i, const ni_four &f, float encode) {
    uint32_t w[4];
#pragma unroll
    for (int k = 0; k < 4; k++)
        w[k] = ni_narrowed(t.dtype, ni_f32_mul(f.x[k], encode));
    if (t.dtype == NB_F32)
        ((uint4 *)t.data)[i] = make_uint4(w[0], w[1], w[2], w[3]);
    else if (t.dtype == NB_BF16 || t.dtype == NB_F16)
        ((uint2 *)t.data)[i] = make_uint2(w[0] | w[1] << 16, w[2] | w[3] << 16);
    else
        ((uint32_t *)t.data)[i] = w[0] | w[1] << 8 | w[2] << 16 | w[3] << 24;
}

static __device__ inline uint32_t ni_largest_of_four(const ni_four &f) {
    return max(max(ni_f32_magnitude(f.x[0]), ni_f32_magnitude(f.x[1])),
               max(ni_f32_magnitude(f.x[2]), ni_f32_magnitude(f.x[3])));
}

#endif
