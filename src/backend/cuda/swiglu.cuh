/* swiglu.cuh: the formulas of SwiGLU, for who writes it (swiglu.cu) and who makes operands of it (produce_swiglu.cu).
 *
 * Their quotient 1 / (1 + exp(-gate)) is a normal number unless the gate is below -87. Where none is (`NEAR`), it takes the
 * very steps of a division without its branch for the others, a third of a sigmoid's instructions.
 */
#ifndef NI_BACKEND_CUDA_SWIGLU_CUH
#define NI_BACKEND_CUDA_SWIGLU_CUH

#include <stdint.h>

static __device__ inline float ni_inverse_of_near(float y) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(y));
    return __fmaf_rn(r, __fmaf_rn(-y, r, 1.0f), r);
}

template <bool NEAR> static __device__ inline float ni_sigmoid(float x) {
    const float y = 1.0f + expf(-x);
    return NEAR ? ni_inverse_of_near(y) : 1.0f / y;
}

/* Whether a gate is near, by the larger of two BF16 numbers' bits: those below -87, and NaN of that sign, are beyond. */
static __device__ inline uint32_t ni_farther_gates(uint32_t farthest, uint32_t pair) {
    return __vmaxu2(farthest, pair);
}

static __device__ inline bool ni_are_near(uint32_t farthest) {
    return max(farthest & 0xffffu, farthest >> 16) <= 0xc2aeu;
}

template <bool NEAR> static __device__ inline float ni_swiglu(float g, float u) {
    return g * ni_sigmoid<NEAR>(g) * u;
}

template <bool NEAR> static __device__ inline void ni_swiglu_slopes(float g, float u, float d, float *dg, float *du) {
    float s = ni_sigmoid<NEAR>(g);
    *dg = d * u * s * (1.0f + g * (1.0f - s));
    *du = d * g * s;
}

#endif
