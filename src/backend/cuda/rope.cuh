/* rope.cuh: the angles and the turning of RoPE, for who turns a matrix in place (rope.cu) and who makes operands of what is
 * turned back (produce_turned.cu).
 */
#ifndef NI_BACKEND_CUDA_ROPE_CUH
#define NI_BACKEND_CUDA_ROPE_CUH

#include "backend/cuda/kernels.h"
#include "format/ieee.h"

#include <cuda_runtime.h>

typedef struct ni_turn {
    float c, s;
} ni_turn;

/* Angles are taken in double, as the reference does. */
static __device__ inline ni_turn ni_turn_by(int32_t position, int64_t i, int64_t head_dim, const ni_rope &how) {
    double s, c;
    sincos(position * ni_rope_frequency(&how, i, head_dim), &s, &c);
    return {(float)c, (float)s};
}

static __device__ inline bool ni_is_in_table(const ni_cuda_turns &turns, int32_t position) {
    return (uint32_t)position < (uint32_t)turns.positions;
}

/* Of channel i; from the table where it goes so far. */
static __device__ inline ni_turn ni_turn_at(const ni_cuda_turns &turns, int32_t position, int64_t i, int64_t head_dim,
                                            const ni_rope &how, bool inverse) {
    ni_turn t = ni_is_in_table(turns, position) ? ((const ni_turn *)turns.table)[position * (head_dim / 2) + i]
                                                : ni_turn_by(position, i, head_dim, how);
    if (inverse)
        t.s = -t.s;
    return t;
}

static __device__ inline void ni_turn_two(float *x1, float *x2, float c, float s) {
    const float first = *x1, second = *x2;
    *x1 = ni_f32_sub(ni_f32_mul(first, c), ni_f32_mul(second, s));
    *x2 = ni_f32_add(ni_f32_mul(second, c), ni_f32_mul(first, s));
}

#endif
