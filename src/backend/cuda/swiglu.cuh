/* swiglu.cuh: the formulas of SwiGLU, for who writes it (swiglu.cu) and who makes operands of it (produce_swiglu.cu).
 *
 * Their quotient 1 / (1 + exp(-gate)) is a normal number unless the gate is below -87. Where none is (`NEAR`), it takes the
 * very steps of a division without its branch for the others, a third of a sigmoid's instructions.
 */
#ifndef NI_BACKEND_CUDA_SWIGLU_CUH
#define NI_BACKEND_CUDA_SWIGLU_CUH

#include "backend/cuda/tile.cuh"

static __device__ inline float ni_inverse_of_near(float y) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(y));
    return __fmaf_rn(r, __fmaf_rn(-y, r, 1.0f), r);
}

template <bool NEAR> static __device__ inline float ni_sigmoid(float x) {
    const float y = 1.0f + expf(-x);
    return NEAR ? ni_inverse_of_near(y) : 1.0f / y;
}

template <bool NEAR> static __device__ inline float ni_swiglu(float g, float u) {
    return g * ni_sigmoid<NEAR>(g) * u;
}

template <bool NEAR> static __device__ inline void ni_swiglu_slopes(float g, float u, float d, float *dg, float *du) {
    float s = ni_sigmoid<NEAR>(g);
    *dg = d * u * s * (1.0f + g * (1.0f - s));
    *du = d * g * s;
}

/* ---- eight numbers in a word of 16 bytes ---- */

/* Whether all eights are, by the larger of BF16 numbers' bits: those below -87, and NaN of that sign, are not. */
template <int N> static __device__ inline bool ni_are_near(const uint4 (&gate)[N]) {
    uint32_t farthest = 0;
#pragma unroll
    for (int i = 0; i < N; i++)
        farthest = __vmaxu2(__vmaxu2(__vmaxu2(__vmaxu2(farthest, gate[i].x), gate[i].y), gate[i].z), gate[i].w);
    return max(farthest & 0xffffu, farthest >> 16) <= 0xc2aeu;
}

template <bool NEAR> static __device__ inline uint32_t ni_swiglu_of_two(uint32_t g, uint32_t u) {
    return ni_pack_two(ni_swiglu<NEAR>(ni_low_of(g), ni_low_of(u)), ni_swiglu<NEAR>(ni_high_of(g), ni_high_of(u)));
}

template <bool NEAR> static __device__ inline uint4 ni_swiglu_of_eight(const uint4 &g, const uint4 &u) {
    return make_uint4(ni_swiglu_of_two<NEAR>(g.x, u.x), ni_swiglu_of_two<NEAR>(g.y, u.y),
                      ni_swiglu_of_two<NEAR>(g.z, u.z), ni_swiglu_of_two<NEAR>(g.w, u.w));
}

/* Gate and up become both slopes. */
template <bool NEAR> static __device__ inline void ni_slopes_of_two(uint32_t &g, uint32_t &u, uint32_t d) {
    float dg[2], du[2];
    ni_swiglu_slopes<NEAR>(ni_low_of(g), ni_low_of(u), ni_low_of(d), &dg[0], &du[0]);
    ni_swiglu_slopes<NEAR>(ni_high_of(g), ni_high_of(u), ni_high_of(d), &dg[1], &du[1]);
    g = ni_pack_two(dg[0], dg[1]);
    u = ni_pack_two(du[0], du[1]);
}

template <bool NEAR> static __device__ inline void ni_slopes_of_eight(uint4 &g, uint4 &u, const uint4 &d) {
    ni_slopes_of_two<NEAR>(g.x, u.x, d.x);
    ni_slopes_of_two<NEAR>(g.y, u.y, d.y);
    ni_slopes_of_two<NEAR>(g.z, u.z, d.z);
    ni_slopes_of_two<NEAR>(g.w, u.w, d.w);
}

/* ---- some of them ---- */

/* In the place of gate. */
template <int N> static __device__ inline void ni_swiglu_of(uint4 (&g)[N], const uint4 (&u)[N]) {
    if (ni_are_near(g))
#pragma unroll
        for (int i = 0; i < N; i++)
            g[i] = ni_swiglu_of_eight<true>(g[i], u[i]);
    else
#pragma unroll
        for (int i = 0; i < N; i++)
            g[i] = ni_swiglu_of_eight<false>(g[i], u[i]);
}

template <int N> static __device__ inline void ni_slopes_of(uint4 (&g)[N], uint4 (&u)[N], const uint4 (&d)[N]) {
    if (ni_are_near(g))
#pragma unroll
        for (int i = 0; i < N; i++)
            ni_slopes_of_eight<true>(g[i], u[i], d[i]);
    else
#pragma unroll
        for (int i = 0; i < N; i++)
            ni_slopes_of_eight<false>(g[i], u[i], d[i]);
}

#endif
