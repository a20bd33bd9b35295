/* list.cuh: which tensor of a list that came as a kernel's argument is a block's. */
#ifndef NI_BACKEND_CUDA_LIST_CUH
#define NI_BACKEND_CUDA_LIST_CUH

#include "backend/cuda/list.h"

#include <stdint.h>

/* Blocks are dealt out in the order of the list, to each tensor from its `first` on. Arguments lie in a small cache that a
 * multiprocessor's warps take turns at, so few of them are looked at. */
template <typename L, typename T> static __device__ inline int ni_listed(const L &list, uint32_t T::*first) {
    int from = 0, end = list.count;
    while (end - from > 1) {
        const int middle = (from + end) / 2;
        if (blockIdx.x >= list.at[middle].*first)
            from = middle;
        else
            end = middle;
    }
    return from;
}

#endif
