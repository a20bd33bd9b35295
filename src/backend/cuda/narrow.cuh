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

static __device__ inline void ni_halves(uint32_t pair, float *x) {
    asm("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(x[0]), "=f"(x[1])
        : "r"(pair));
}

/* Two 8-bit numbers, the first in the low byte; what a NaN's payload is does not matter, since it is multiplied. */
static __device__ inline void ni_bytes(nb_dtype type, uint32_t pair, float *x) {
#if __CUDA_ARCH__ >= 890
    uint32_t halves;
    if (type == NB_E4M3)
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((uint16_t)pair));
    else
        asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"((uint16_t)pair));
    ni_halves(halves, x);
#else
    for (int k = 0; k < 2; k++)
        x[k] = type == NB_E4M3 ? ni_e4m3_value((uint8_t)(pair >> (8 * k))) : ni_e5m2_value((uint8_t)(pair >> (8 * k)));
#endif
}

/* Numbers 4 i to 4 i + 3. */
static __device__ inline ni_four ni_four_of(const ni_scaled &t, int64_t i, float factor) {
    ni_four f;
    if (t.dtype == NB_F32) {
        const float4 w = ((const float4 *)t.data)[i];
        f = (ni_four){{w.x, w.y, w.z, w.w}};
    } else if (t.dtype == NB_F16) {
        const uint2 w = ((const uint2 *)t.data)[i];
        ni_halves(w.x, f.x);
        ni_halves(w.y, f.x + 2);
    } else if (t.dtype == NB_BF16) {
        const uint2 w = ((const uint2 *)t.data)[i];
        f = (ni_four){{__uint_as_float(w.x << 16), __uint_as_float(w.x & 0xffff0000u), __uint_as_float(w.y << 16),
                       __uint_as_float(w.y & 0xffff0000u)}};
    } else {
        const uint32_t w = ((const uint32_t *)t.data)[i];
        ni_bytes(t.dtype, w & 0xffffu, f.x);
        ni_bytes(t.dtype, w >> 16, f.x + 2);
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
        f.x[k] = ni_f32_mul(f.x[k], factor);
    return f;
}

static __device__ inline uint32_t ni_largest_of_four(const ni_four &f) {
    return max(max(ni_f32_magnitude(f.x[0]), ni_f32_magnitude(f.x[1])),
               max(ni_f32_magnitude(f.x[2]), ni_f32_magnitude(f.x[3])));
}

/* By the rules of ni_narrow_store, one after the other. */
static __device__ inline uint2 ni_narrowed(nb_dtype type, const ni_four &f) {
    uint32_t w[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        w[k] = 0;
        ni_narrow_store(&w[k], type, 0, f.x[k]); /* little-endian: the low bytes */
    }
    if (type == NB_BF16 || type == NB_F16)
        return make_uint2(w[0] | w[1] << 16, w[2] | w[3] << 16);
    return make_uint2(w[0] | w[1] << 8 | w[2] << 16 | w[3] << 24, 0);
}

static __device__ inline uint32_t ni_half_pair(float low, float high) {
    const float a = fminf(fmaxf(low, -NI_FP16_MAX), NI_FP16_MAX), b = fminf(fmaxf(high, -NI_FP16_MAX), NI_FP16_MAX);
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    return pair;
}

/* The same of finite numbers, as the GPU converts them: words of 8 or 16 bits. */
static __device__ inline uint2 ni_narrowed_finite(nb_dtype type, const ni_four &f) {
    if (type == NB_F16)
        return make_uint2(ni_half_pair(f.x[0], f.x[1]), ni_half_pair(f.x[2], f.x[3]));
    if (type == NB_BF16)
        return make_uint2(ni_pack_two(f.x[0], f.x[1]), ni_pack_two(f.x[2], f.x[3]));
#if __CUDA_ARCH__ >= 890
    uint16_t low, high;
    if (type == NB_E4M3) {
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(f.x[1]), "f"(f.x[0]));
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(f.x[3]), "f"(f.x[2]));
    } else {
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(low) : "f"(f.x[1]), "f"(f.x[0]));
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(high) : "f"(f.x[3]), "f"(f.x[2]));
    }
    return make_uint2(low | (uint32_t)high << 16, 0);
#else
    return ni_narrowed(type, f);
#endif
}

static __device__ inline void ni_store_four(const ni_scaled &t, int64_t i, const ni_four &in, float encode) {
    ni_four f;
#pragma unroll
    for (int k = 0; k < 4; k++)
        f.x[k] = ni_f32_mul(in.x[k], encode);
    if (t.dtype == NB_F32) {
        ((float4 *)t.data)[i] = make_float4(f.x[0], f.x[1], f.x[2], f.x[3]);
        return;
    }
    const uint2 w = ni_largest_of_four(f) < NI_F32_INF_BITS ? ni_narrowed_finite(t.dtype, f) : ni_narrowed(t.dtype, f);
    if (t.dtype == NB_BF16 || t.dtype == NB_F16)
        ((uint2 *)t.data)[i] = w;
    else
        ((uint32_t *)t.data)[i] = w.x;
}

#endif
