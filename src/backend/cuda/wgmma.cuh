/* wgmma.cuh: the warpgroup's matrix instructions, by their PTX names; code only where the target has them (sm_90a). */
#ifndef NIBBLE_CUDA_WGMMA_CUH
#define NIBBLE_CUDA_WGMMA_CUH

#include "mma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define NIBBLE_WGMMA 1
#endif

__device__ __forceinline__ void fence_async_proxy() {
#ifdef NIBBLE_WGMMA
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* The compiler may not move an access of c across this. */
template <int N> __device__ __forceinline__ void wgmma_hold(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            asm volatile("" : "+f"(c[n][i])::"memory");
}

template <int N> __device__ __forceinline__ void wgmma_hold(uint32_t (&a)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            asm volatile("" : "+r"(a[n][i])::"memory");
}

/* Before the first product that reads or writes registers which other instructions wrote. */
template <int N> __device__ __forceinline__ void wgmma_fence(float (&c)[N][4]) {
    wgmma_hold(c);
#ifdef NIBBLE_WGMMA
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void wgmma_commit() {
#ifdef NIBBLE_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

template <int N> __device__ __forceinline__ void wgmma_wait() {
#ifdef NIBBLE_WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#endif
}

#define WGMMA_SUMS(c) "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3])
#define WGMMA_LIST_64                                                                                                  \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                          \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define WGMMA_LIST_128                                                                                                 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                          \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                 \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define WGMMA_SUMS_64(c)                                                                                               \
    WGMMA_SUMS(c[0]), WGMMA_SUMS(c[1]), WGMMA_SUMS(c[2]), WGMMA_SUMS(c[3]), WGMMA_SUMS(c[4]), WGMMA_SUMS(c[5]),        \
        WGMMA_SUMS(c[6]), WGMMA_SUMS(c[7])
#define WGMMA_SUMS_128(c)                                                                                              \
    WGMMA_SUMS_64(c), WGMMA_SUMS(c[8]), WGMMA_SUMS(c[9]), WGMMA_SUMS(c[10]), WGMMA_SUMS(c[11]), WGMMA_SUMS(c[12]),     \
        WGMMA_SUMS(c[13]), WGMMA_SUMS(c[14]), WGMMA_SUMS(c[15])

/* c[64, N] = (add ? c : 0) + a[64, 16] b[N, 16]^T, both in shared memory, read along their rows. */
template <int N> __device__ __forceinline__ void wgmma_shared(float (&c)[N / 8][4], uint64_t a, uint64_t b, bool add) {
    static_assert(N == 64 || N == 128, "instructions that are here");
#ifdef NIBBLE_WGMMA
    if constexpr (N == 64)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0;"
                     " wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WGMMA_LIST_64
                     ", %32, %33, p, 1, 1, 0, 0; }"
                     : WGMMA_SUMS_64(c)
                     : "l"(a), "l"(b), "r"((int)add));
    else
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0;"
                     " wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WGMMA_LIST_128
                     ", %64, %65, p, 1, 1, 0, 0; }"
                     : WGMMA_SUMS_128(c)
                     : "l"(a), "l"(b), "r"((int)add));
#else
    __trap();
#endif
}

/* The same with a in registers; ACROSS: b is stored as [16, N]. */
template <int N, int ACROSS>
__device__ __forceinline__ void wgmma_registers(float (&c)[N / 8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
    static_assert(N == 64 || N == 128, "instructions that are here");
#ifdef NIBBLE_WGMMA
    if constexpr (N == 64)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0;"
                     " wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WGMMA_LIST_64
                     ", {%32, %33, %34, %35}, %36, p, 1, 1, %38; }"
                     : WGMMA_SUMS_64(c)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(ACROSS));
    else
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %69, 0;"
                     " wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WGMMA_LIST_128
                     ", {%64, %65, %66, %67}, %68, p, 1, 1, %70; }"
                     : WGMMA_SUMS_128(c)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(ACROSS));
#else
    __trap();
#endif
}
#endif
