/* list.cuh: which tensor of a list that came as a kernel's argument is a block's. */
#ifndef NI_BACKEND_CUDA_LIST_CUH
#define NI_BACKEND_CUDA_LIST_CUH

#include "backend/cuda/list.h"

#include <stdint.h>

/* Blocks are dealt out in the order of the list, to each tensor from its `first` on. */
template <typename L, typename T> static __device__ inline int ni_listed(const L &list, uint32_t T::*first) {
    int which = 0;
    while (which + 1 < list.count && blockIdx.x >= list.at[which + 1].*first)
        which++;
    return which;
}

#endif
