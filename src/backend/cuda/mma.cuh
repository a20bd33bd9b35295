/* mma.cuh: the instructions that the attention kernels are made of, by their PTX names (compute capability 8.0 and up).
 *
 * Fragments of mma.m16n8k16, with g = lane / 4 and t = lane % 4:
 *     A [16, 16]  a[0] (g, 2t) a[1] (g+8, 2t) a[2] (g, 2t+8) a[3] (g+8, 2t+8)    two BF16 each, the next column above
 *     B [16, 8]   b[0] (2t, g) b[1] (2t+8, g)                                    two BF16 each, the next row above
 *     C [16, 8]   c[0] (g, 2t) c[1] (g, 2t+1) c[2] (g+8, 2t) c[3] (g+8, 2t+1)    FP32
 * so that two neighbours of C, packed, are one A. */
#ifndef NIBBLE_CUDA_MMA_CUH
#define NIBBLE_CUDA_MMA_CUH

#include <cuda_runtime.h>
#include <stdint.h>

typedef uint16_t bf16; /* bits; arithmetic is in FP32 */

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* All of the block's dynamic shared memory. */
__device__ __forceinline__ char *shared_memory() {
    extern __shared__ __align__(1024) char bytes[];
    return bytes;
}

/* 16 bytes into shared memory. */
__device__ __forceinline__ void copy_async16(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

/* The same, zeros where `valid` is false (`from` is not read then). */
__device__ __forceinline__ void copy_async16(void *to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

/* 8 bytes, which go where 16 are not aligned. */
__device__ __forceinline__ void copy_async8(void *to, const void *from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

__device__ __forceinline__ void copy_async4(void *to, const void *from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 4 : 0)
                 : "memory");
}

__device__ __forceinline__ void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most N of this thread's groups are on their way. */
template <int N> __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Four 8x8 matrices; lane l gives the address of row l%8 of matrix l/8. */
__device__ __forceinline__ void load_matrix(uint32_t (&r)[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void load_matrix_trans(uint32_t (&r)[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* c += a b, sums in FP32. */
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Two floats rounded to nearest even; `low` has the lower address in memory. */
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

__device__ __forceinline__ float low_bf16(uint32_t x) {
    return __uint_as_float(x << 16);
}

__device__ __forceinline__ float high_bf16(uint32_t x) {
    return __uint_as_float(x & 0xffff0000u);
}

/* 2^x; 0 for -INFINITY. */
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <typename T> __device__ __forceinline__ T shuffle_xor(T x, int mask) {
    return __shfl_xor_sync(0xffffffffu, x, mask);
}

__device__ __forceinline__ void sync_block() {
    __syncthreads();
}

__device__ __forceinline__ void sync_warp() {
    __syncwarp();
}
#endif
