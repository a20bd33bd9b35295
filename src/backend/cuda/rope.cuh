/* rope.cuh: the angles and the turning of RoPE, for who turns a matrix in place (rope.cu) and who makes operands of what is
 * turned back (produce_turned.cu).
 */
#ifndef NI_BACKEND_CUDA_ROPE_CUH
#define NI_BACKEND_CUDA_ROPE_CUH

#include "backend/cuda/kernels.h"
#include "backend/cuda/tile.cuh"

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

/* ---- eight channels of one token a lane, whose partners a lane half a head away has ---- */

typedef struct ni_rope_angles {
    ni_rope how;
    ni_cuda_turns turns;
    int32_t head_dim;
    bool inverse;
} ni_rope_angles;

/* Beyond the table. */
static __device__ __noinline__ ni_turn ni_far_turn(const ni_rope_angles &by, int32_t position, int i) {
    return ni_turn_by(position, i, by.head_dim, by.how);
}

/* Cosines and sines of channels i and i + 1. */
static __device__ inline float4 ni_two_turns(const ni_rope_angles &by, int32_t position, int i) {
    if (ni_is_in_table(by.turns, position))
        return *(const float4 *)(by.turns.table + ((int64_t)position * (by.head_dim / 2) + i) * 2);
    const ni_turn a = ni_far_turn(by, position, i), b = ni_far_turn(by, position, i + 1);
    return make_float4(a.c, a.s, b.c, b.s);
}

/* Two channels of which `other` are the partners: the lower half of a head takes x c - y s, the higher one x c + y s, and
 * the other way round on the way back: the sign of s is the lane's. */
static __device__ inline uint32_t ni_turned_pair(uint32_t own, uint32_t other, const float4 &by, uint32_t sign) {
    const float s1 = __uint_as_float(__float_as_uint(by.y) ^ sign), s2 = __uint_as_float(__float_as_uint(by.w) ^ sign);
    return ni_pack_two(ni_f32_add(ni_f32_mul(ni_low_of(own), by.x), ni_f32_mul(ni_low_of(other), s1)),
                       ni_f32_add(ni_f32_mul(ni_high_of(own), by.z), ni_f32_mul(ni_high_of(other), s2)));
}

/* Heads are powers of two from 16 to 256 channels long; a warp has one row of 256. Its lanes come together. */
static __device__ inline uint4 ni_turn_eight(const ni_rope_angles &by, const uint4 &own, int32_t position) {
    const int lane = threadIdx.x % 32, across = by.head_dim / 16, i = lane % across * 8;
    const uint32_t sign = ((lane & across) != 0) == by.inverse ? 0x80000000u : 0;
    const uint4 other = make_uint4(__shfl_xor_sync(~0u, own.x, across), __shfl_xor_sync(~0u, own.y, across),
                                   __shfl_xor_sync(~0u, own.z, across), __shfl_xor_sync(~0u, own.w, across));
    return make_uint4(ni_turned_pair(own.x, other.x, ni_two_turns(by, position, i), sign),
                      ni_turned_pair(own.y, other.y, ni_two_turns(by, position, i + 2), sign),
                      ni_turned_pair(own.z, other.z, ni_two_turns(by, position, i + 4), sign),
                      ni_turned_pair(own.w, other.w, ni_two_turns(by, position, i + 6), sign));
}

static inline bool ni_turns_eights(int64_t head_dim) {
    return head_dim >= 16 && head_dim <= 256 && 256 % head_dim == 0;
}

#endif
