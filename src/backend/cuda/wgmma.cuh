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
__device__ __forceinline__ void wgmma_fence() {
#ifdef NIBBLE_WGMMA
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

template <int N> __device__ __forceinline__ void wgmma_fence(float (&c)[N][4]) {
    wgmma_hold(c);
    wgmma_fence();
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

/* What an instruction is told of an operand in shared memory that lies in panels of 64 columns, each row of 128 bytes
 * with its eight 16-byte pieces permuted by the row: piece ^ (row % 8), the hardware's 128-byte swizzle; eight rows are a
 * block of 1024 bytes. `panel`: bytes to the next 64 columns, for operands read across rows. */
__device__ __forceinline__ uint64_t wgmma_operand(uint32_t at, int panel) {
    const uint64_t next_block = 1024 >> 4, swizzle_128 = 1;
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)(panel >> 4) << 16 | next_block << 32 | swizzle_128 << 62;
}

__device__ __forceinline__ uint64_t wgmma_operand(const bf16 *at, int panel) {
    return wgmma_operand(shared_address(at), panel);
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
#define WGMMA_LIST_256                                                                                                 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                          \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                 \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                                 \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                                 \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                                 \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "                     \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"
#define WGMMA_SUMS_64(c)                                                                                               \
    WGMMA_SUMS(c[0]), WGMMA_SUMS(c[1]), WGMMA_SUMS(c[2]), WGMMA_SUMS(c[3]), WGMMA_SUMS(c[4]), WGMMA_SUMS(c[5]),        \
        WGMMA_SUMS(c[6]), WGMMA_SUMS(c[7])
#define WGMMA_SUMS_128(c)                                                                                              \
    WGMMA_SUMS_64(c), WGMMA_SUMS(c[8]), WGMMA_SUMS(c[9]), WGMMA_SUMS(c[10]), WGMMA_SUMS(c[11]), WGMMA_SUMS(c[12]),     \
        WGMMA_SUMS(c[13]), WGMMA_SUMS(c[14]), WGMMA_SUMS(c[15])
#define WGMMA_SUMS_256(c)                                                                                              \
    WGMMA_SUMS_128(c), WGMMA_SUMS(c[16]), WGMMA_SUMS(c[17]), WGMMA_SUMS(c[18]), WGMMA_SUMS(c[19]), WGMMA_SUMS(c[20]),  \
        WGMMA_SUMS(c[21]), WGMMA_SUMS(c[22]), WGMMA_SUMS(c[23]), WGMMA_SUMS(c[24]), WGMMA_SUMS(c[25]),                 \
        WGMMA_SUMS(c[26]), WGMMA_SUMS(c[27]), WGMMA_SUMS(c[28]), WGMMA_SUMS(c[29]), WGMMA_SUMS(c[30]),                 \
        WGMMA_SUMS(c[31])

/* c[64, N] = (add ? c : 0) + a[64, 16] b[N, 16]^T, both in shared memory, read along their rows; ACROSS: b is stored as
 * [16, N]; A_ACROSS: a is as [16, 64]. */
template <int N, int ACROSS = 0, int A_ACROSS = 0>
__device__ __forceinline__ void wgmma_shared(float (&c)[N / 8][4], uint64_t a, uint64_t b, bool add) {
    static_assert(N == 64 || N == 128 || N == 256, "instructions that are here");
#ifdef NIBBLE_WGMMA
    if constexpr (N == 64)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0;"
                     " wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WGMMA_LIST_64
                     ", %32, %33, p, 1, 1, %36, %35; }"
                     : WGMMA_SUMS_64(c)
                     : "l"(a), "l"(b), "r"((int)add), "n"(ACROSS), "n"(A_ACROSS));
    else if constexpr (N == 128)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0;"
                     " wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WGMMA_LIST_128
                     ", %64, %65, p, 1, 1, %68, %67; }"
                     : WGMMA_SUMS_128(c)
                     : "l"(a), "l"(b), "r"((int)add), "n"(ACROSS), "n"(A_ACROSS));
    else
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %130, 0;"
                     " wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 " WGMMA_LIST_256
                     ", %128, %129, p, 1, 1, %132, %131; }"
                     : WGMMA_SUMS_256(c)
                     : "l"(a), "l"(b), "r"((int)add), "n"(ACROSS), "n"(A_ACROSS));
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
/* c[64, 128] = (add ? c : 0) + a[64, 32] b[128, 32]^T, bytes of E4M3 (a: or E5M2) in shared memory, read along their
 * rows. Sums are cut to 13 bits behind the largest addend. */
template <int E5M2> __device__ __forceinline__ void wgmma_bytes(float (&c)[16][4], uint64_t a, uint64_t b, bool add) {
#ifdef NIBBLE_WGMMA
    if constexpr (E5M2)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0;"
                     " wgmma.mma_async.sync.aligned.m64n128k32.f32.e5m2.e4m3 " WGMMA_LIST_128 ", %64, %65, p, 1, 1; }"
                     : WGMMA_SUMS_128(c)
                     : "l"(a), "l"(b), "r"((int)add));
    else
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0;"
                     " wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 " WGMMA_LIST_128 ", %64, %65, p, 1, 1; }"
                     : WGMMA_SUMS_128(c)
                     : "l"(a), "l"(b), "r"((int)add));
#else
    __trap();
#endif
}
#endif
