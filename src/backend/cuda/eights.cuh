/* eights.cuh: eight neighbouring codes that have one scale, decoded exactly. */
#ifndef NI_BACKEND_CUDA_EIGHTS_CUH
#define NI_BACKEND_CUDA_EIGHTS_CUH

#include "backend/cuda/element.cuh"
#include "backend/cuda/sixteen.cuh"

/* Eight codes of four bits under one scale. */
static __device__ inline ni_eight ni_decode_eight(const nb_qtensor &t, int64_t r, int64_t c, float scale) {
    const uint32_t codes = *(const uint32_t *)(t.codes + (r * t.cols + c) / 2);
    ni_eight e;
#pragma unroll
    for (int i = 0; i < 8; i++)
        e.x[i] = ni_f32_mul(ni_e2m1_of(codes >> (4 * i) & 15u), scale);
    return e;
}

static __device__ inline ni_eight ni_decode_eight(const nb_qtensor &t, int64_t r, int64_t c) {
    return ni_decode_eight(t, r, c, ni_scale_of(t, r, c, true));
}

/* The values of two codes of E4M3. */
static __device__ inline void ni_e4m3_pair(uint32_t codes, float *x) {
#if __CUDA_ARCH__ >= 890
    uint32_t halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((uint16_t)codes));
    asm("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(x[0]), "=f"(x[1])
        : "r"(halves));
#else
    x[0] = ni_e4m3_value((uint8_t)(codes & 0xffu));
    x[1] = ni_e4m3_value((uint8_t)(codes >> 8));
#endif
}

/* Eight of them under one scale. */
static __device__ inline ni_eight ni_decode_bytes(const nb_qtensor &t, int64_t r, int64_t c) {
    const uint2 codes = *(const uint2 *)(t.codes + r * t.cols + c);
    const float scale = ni_scale_of(t, r, c, true);
    ni_eight e;
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
        ni_e4m3_pair((i < 4 ? codes.x : codes.y) >> (8 * (i % 4)) & 0xffffu, &e.x[i]);
        e.x[i] = ni_f32_mul(e.x[i], scale);
        e.x[i + 1] = ni_f32_mul(e.x[i + 1], scale);
    }
    return e;
}

#endif
