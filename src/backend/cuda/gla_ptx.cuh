/* gla_ptx.cuh: the instructions that the gated linear attention kernels are made of. */
#ifndef NI_CUDA_GLA_PTX_CUH
#define NI_CUDA_GLA_PTX_CUH

#include <cuda_runtime.h>
#include <stdint.h>

/* d [16, 8] += a [16, 16] b [16, 8], BF16 operands. Lane 4g + c holds of d: rows g, g, g + 8, g + 8, columns 2c, 2c +
 * 1, 2c, 2c + 1; of a: pairs of columns at (g, 2c), (g + 8, 2c), (g, 2c + 8), (g + 8, 2c + 8); of b: pairs of rows at
 * (2c, g) and (2c + 8, g).
 */
static __device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8. */
static __device__ __forceinline__ void ldmatrix4(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix4_trans(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* 16 bytes to shared memory; zeros, and no read, where not valid. */
static __device__ __forceinline__ void copy16_async(void *to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void commit_copies(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most `pending` of this thread's latest groups of copies are under way. */
template <int pending> static __device__ __forceinline__ void wait_for_copies(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* 2^x; 0 for x below -149. */
static __device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* The smaller; NaN where one is NaN. */
static __device__ __forceinline__ float min_or_nan(float x, float y) {
    float least;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(least) : "f"(x), "f"(y));
    return least;
}

/* Two floats to BF16, nearest even; the first in the low half. */
static __device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

static __device__ __forceinline__ float low_bf16(uint32_t pair) {
    return __uint_as_float(pair << 16);
}

static __device__ __forceinline__ float high_bf16(uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

static __device__ __forceinline__ float shuffle_xor(float x, int lanes) {
    return __shfl_xor_sync(0xffffffffu, x, lanes);
}

static __device__ __forceinline__ uint32_t lanes_where(bool bit) {
    return __ballot_sync(0xffffffffu, bit);
}

template <typename arguments>
static cudaError_t launch(void (*kernel)(arguments), dim3 grid, int threads, size_t shared_bytes, void *stream,
                          const arguments &a) {
    if (shared_bytes > 48 * 1024) {
        cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
        if (error != cudaSuccess)
            return error;
    }
    kernel<<<grid, threads, shared_bytes, (cudaStream_t)stream>>>(a);
    return cudaGetLastError();
}

#endif
