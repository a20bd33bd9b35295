/* alphas.cu: one pair of alphas.h, where no other kernel has multiplied it. */
#include "backend/cuda/alphas.cuh"

static __global__ void set_alpha(ni_cuda_factors *pairs, float *products, int32_t at, const float *a, const float *b) {
    pairs[at] = {a, b};
    products[at] = ni_f32_mul(*a, *b);
}

int ni_cuda_launch_alpha(void *stream, ni_cuda_factors *pairs, float *products, int32_t at, const float *a,
                         const float *b) {
    set_alpha<<<1, 1, 0, (cudaStream_t)stream>>>(pairs, products, at, a, b);
    return cudaGetLastError();
}
