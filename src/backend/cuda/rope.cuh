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

/* ---- eight channels of a token a lane, whose partners a lane half a head away has ----
 *
 * Heads are powers of two from 16 to 256 channels long, and a warp has rows of 256. */

/* Two channels of which `other` are the partners: the lower half of a head takes x c - y s, the higher one x c + y s, and
 * the other way round on the way back: `other` bears the sign. by: cosine and sine, twice. */
static __device__ inline uint32_t ni_turned_pair(uint32_t own, uint32_t other, const float4 &by) {
    return ni_pack_two(ni_f32_add(ni_f32_mul(ni_low_of(own), by.x), ni_f32_mul(ni_low_of(other), by.y)),
                       ni_f32_add(ni_f32_mul(ni_high_of(own), by.z), ni_f32_mul(ni_high_of(other), by.w)));
}

static __device__ inline int ni_first_turn(const ni_cuda_angles &by) {
    return threadIdx.x % 32 % (by.head_dim / 16) * 8;
}

static __device__ inline uint4 ni_turn_near(const ni_cuda_angles &by, const uint4 &own, const uint4 &other,
                                            int32_t position) {
    const float4 *const turns =
        (const float4 *)(by.turns.table + ((int64_t)position * by.head_dim + 2 * ni_first_turn(by)));
    return make_uint4(ni_turned_pair(own.x, other.x, turns[0]), ni_turned_pair(own.y, other.y, turns[1]),
                      ni_turned_pair(own.z, other.z, turns[2]), ni_turned_pair(own.w, other.w, turns[3]));
}

/* The partners of eight channels, with the sign that their part has. Lanes come together. */
static __device__ inline uint32_t ni_sign_of_partners(const ni_cuda_angles &by) {
    return ((threadIdx.x & (by.head_dim / 16)) != 0) == by.inverse ? NI_PAIR_SIGNS : 0;
}

static __device__ inline uint4 ni_partners(const ni_cuda_angles &by, const uint4 &own) {
    const int across = by.head_dim / 16;
    const uint32_t sign = ni_sign_of_partners(by);
    return make_uint4(__shfl_xor_sync(~0u, own.x, across) ^ sign, __shfl_xor_sync(~0u, own.y, across) ^ sign,
                      __shfl_xor_sync(~0u, own.z, across) ^ sign, __shfl_xor_sync(~0u, own.w, across) ^ sign);
}

/* Beyond the table, where nobody comes in training: a row that lies in shared memory, whose angles are made here. `at`: this
 * lane's eight. */
static __device__ __noinline__ void ni_turn_far(const ni_cuda_angles &by, uint32_t *at, int32_t position) {
    const int lane = threadIdx.x % 32, partner = (lane ^ by.head_dim / 16) - lane;
    uint32_t out[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const ni_turn a = ni_turn_by(position, ni_first_turn(by) + 2 * i, by.head_dim, by.how),
                      b = ni_turn_by(position, ni_first_turn(by) + 2 * i + 1, by.head_dim, by.how);
        out[i] = ni_turned_pair(at[i], at[4 * partner + i] ^ ni_sign_of_partners(by), make_float4(a.c, a.s, b.c, b.s));
    }
    __syncwarp();
    *(uint4 *)at = make_uint4(out[0], out[1], out[2], out[3]);
    __syncwarp();
}

/* A warp's rows first, first + STEP, ..., of which there are `rows` in all; `at`: room for this lane's part of them in shared
 * memory, PITCH words apart. */
template <int N, int STEP, int PITCH>
static __device__ inline void ni_turn_rows(const ni_cuda_angles &by, uint4 (&own)[N], uint32_t *at,
                                           const int32_t *positions, int64_t first, int64_t rows) {
    int32_t position[N];
    bool near = true;
#pragma unroll
    for (int i = 0; i < N; i++) {
        position[i] = first + STEP * i < rows ? positions[first + STEP * i] : 0;
        near &= ni_is_in_table(by.turns, position[i]);
    }
    if (near) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            own[i] = ni_turn_near(by, own[i], ni_partners(by, own[i]), position[i]);
            asm volatile("" ::: "memory"); /* a row's angles at a time: all are more than the registers hold */
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < N; i++)
        *(uint4 *)(at + i * PITCH) = own[i];
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < N; i++)
        ni_turn_far(by, at + i * PITCH, first + STEP * i < rows ? positions[first + STEP * i] : 0);
#pragma unroll
    for (int i = 0; i < N; i++)
        own[i] = *(const uint4 *)(at + i * PITCH);
}

static inline bool ni_turns_eights(int64_t head_dim) {
    return head_dim >= 16 && head_dim <= 256 && 256 % head_dim == 0;
}

#endif
