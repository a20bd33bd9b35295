/* ordered.cuh: sums of ops.inc to the bit: doubles, chunks of 256 in order, each operation spelt so that none is fused. */
#ifndef NI_BACKEND_CUDA_ORDERED_CUH
#define NI_BACKEND_CUDA_ORDERED_CUH

#include "format/bf16.h"
#include "nibble/backend.h"

#include <cuda_runtime.h>

enum { CHUNK = 256 };

static __device__ inline double number(const nb_mat &m, int64_t r, int64_t c) {
    int64_t at = r * m.stride + c;
    return m.dtype == NB_BF16 ? (double)ni_bf16_value(((const uint16_t *)m.data)[at])
                              : (double)((const float *)m.data)[at];
}

static __device__ inline double plus(double a, double b) {
    return __dadd_rn(a, b);
}

static __device__ inline double times(double a, double b) {
    return __dmul_rn(a, b);
}

#endif
