/* clamp.cuh: BF16 numbers as keys of 16 bits whose order is theirs, and what clamps rows in the registers of warps
 * (clamp_warp.cu). Lane l's vector i of a row are the eight numbers from column 256 i + 8 l on.
 */
#ifndef NI_BACKEND_CUDA_CLAMP_CUH
#define NI_BACKEND_CUDA_CLAMP_CUH

#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

static __device__ inline uint16_t key_of(uint16_t bits) {
    return bits & 0x8000u ? (uint16_t)~bits : (uint16_t)(bits | 0x8000u);
}

static __device__ inline uint16_t bits_of(uint16_t key) {
    return key & 0x8000u ? (uint16_t)(key & 0x7fffu) : (uint16_t)~key;
}

/* Both halves of a word: negative numbers are turned over, the sign bit of others is set; and back. */
static __device__ inline uint32_t keys_of(uint32_t pair) {
    return pair ^ (pair >> 15 & 0x00010001u) * 0x7fffu ^ 0x80008000u;
}

static __device__ inline uint32_t twice(uint32_t key) {
    return key | key << 16;
}

static __device__ inline bool is_live(int i, int lane, int64_t cols) {
    return 256 * i + 8 * lane < cols;
}

/* Rows of so many eights, which lie so, are held by warps. */
bool ni_cuda_clamps_by_warps(const nb_mat *x);
int ni_cuda_clamp_by_warps(cudaStream_t on, const nb_mat *out, const ni_sparse *rest, const nb_mat *x, int64_t low,
                           int64_t high);

#endif
