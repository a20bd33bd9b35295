/* alphas.cuh: what a kernel that prepares scales does for those who multiply under them. */
#ifndef NI_BACKEND_CUDA_ALPHAS_CUH
#define NI_BACKEND_CUDA_ALPHAS_CUH

#include "backend/cuda/alphas.h"
#include "format/ieee.h"

#include <cuda_runtime.h>

/* The pair that this thread multiplies first: on its way while scales are made. */
static __device__ inline ni_cuda_factors ni_first_pair(const ni_cuda_alphas &all) {
    const ni_cuda_factors none = {};
    return (int32_t)threadIdx.x < all.count ? all.pairs[threadIdx.x] : none;
}

/* All pairs anew, by all threads of one block, which has written its scales and come together behind that. */
static __device__ inline void ni_multiply_alphas(const ni_cuda_alphas &all, ni_cuda_factors pair) {
    for (int32_t i = (int32_t)threadIdx.x; i < all.count;) {
        all.products[i] = ni_f32_mul(*pair.a, *pair.b);
        i += (int32_t)blockDim.x;
        if (i < all.count)
            pair = all.pairs[i];
    }
}

#endif
