/* swiglu.cuh: the formulas of SwiGLU, for who writes it (swiglu.cu) and who makes operands of it (produce_swiglu.cu). */
#ifndef NI_BACKEND_CUDA_SWIGLU_CUH
#define NI_BACKEND_CUDA_SWIGLU_CUH

static __device__ inline float ni_sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

static __device__ inline float ni_swiglu(float g, float u) {
    return g * ni_sigmoid(g) * u;
}

static __device__ inline void ni_swiglu_slopes(float g, float u, float d, float *dg, float *du) {
    float s = ni_sigmoid(g);
    *dg = d * u * s * (1.0f + g * (1.0f - s));
    *du = d * g * s;
}

#endif
