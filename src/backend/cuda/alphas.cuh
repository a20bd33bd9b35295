/* alphas.cuh: what a kernel that prepares scales does for those who multiply under them. */
#ifndef NI_BACKEND_CUDA_ALPHAS_CUH
#define NI_BACKEND_CUDA_ALPHAS_CUH

#include "backend/cuda/alphas.h"
#include "format/ieee.h"

#include <cuda_runtime.h>

/* All pairs anew, by all threads of one block, which has written its scales and come together behind that. */
static __device__ inline void ni_multiply_alphas(const ni_cuda_alphas &all) {
    for (int32_t i = (int32_t)threadIdx.x; i < all.count; i += (int32_t)blockDim.x)
        all.products[i] = ni_f32_mul(*all.pairs[i].a, *all.pairs[i].b);
}

#endif
