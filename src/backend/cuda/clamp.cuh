/* clamp.cuh: BF16 numbers as keys of 16 bits whose order is theirs, and what clamps rows in the registers of warps
 * (clamp_warp.cu). Lane l's vector i of a row are the eight numbers from column 256 i + 8 l on.
 */
#ifndef NI_BACKEND_CUDA_CLAMP_CUH
#define NI_BACKEND_CUDA_CLAMP_CUH

#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/tile.cuh"

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

/* Pairs are compared as the numbers that they are; NaN wins. */
static __device__ inline uint32_t smaller_pair(uint32_t a, uint32_t b) {
    uint32_t smaller;
    asm("min.NaN.bf16x2 %0, %1, %2;" : "=r"(smaller) : "r"(a), "r"(b));
    return smaller;
}

static __device__ inline uint32_t larger_pair(uint32_t a, uint32_t b) {
    uint32_t larger;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
    return larger;
}

/* Counts of two halves: of ones and zeros in BF16, which counts to 256. */
static __device__ inline uint32_t add_counts(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    uint32_t sum;
    asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    return sum;
#else
    return a + b;
#endif
}

/* How many of two numbers a word are smaller, or larger, than one is, both halves of `mine`; more with each call. */
static __device__ inline uint32_t count_smaller(uint32_t so_far, uint32_t pair, uint32_t mine) {
    uint32_t smaller;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm("set.lt.bf16x2.bf16x2 %0, %1, %2;" : "=r"(smaller) : "r"(pair), "r"(mine));
#else
    smaller = __vsetltu2(keys_of(pair), keys_of(mine));
#endif
    return add_counts(so_far, smaller);
}

static __device__ inline uint32_t count_larger(uint32_t so_far, uint32_t pair, uint32_t mine) {
    uint32_t larger;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm("set.gt.bf16x2.bf16x2 %0, %1, %2;" : "=r"(larger) : "r"(pair), "r"(mine));
#else
    larger = __vsetgtu2(keys_of(pair), keys_of(mine));
#endif
    return add_counts(so_far, larger);
}

static __device__ inline uint32_t counted(uint32_t pair) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    return (uint32_t)(ni_low_of(pair) + ni_high_of(pair));
#else
    return (pair & 0xffffu) + (pair >> 16);
#endif
}

/* Vector i of the lane. */
static __device__ inline uint4 eight_at(const uint32_t *words, int i) {
    return make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
}

/* Rows of so many eights, which lie so, are held by warps. */
bool ni_cuda_clamps_by_warps(const nb_mat *x);
int ni_cuda_clamp_by_warps(cudaStream_t on, const nb_mat *out, const ni_sparse *rest, const nb_mat *x, int64_t low,
                           int64_t high);

/* Rows of whole 256s of models, of which nobody wants what is cut off in a list: bounds by counting (clamp_counted.cu). */
bool ni_cuda_clamps_by_counting(const nb_mat *x);
int ni_cuda_clamp_by_counting(cudaStream_t on, const ni_cuda_vector *v, const nb_mat *x, int64_t low, int64_t high);

#endif
