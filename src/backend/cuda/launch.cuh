/* launch.cuh: how work is cut into blocks and threads, and the small pieces that kernels share. */
#ifndef NI_BACKEND_CUDA_LAUNCH_CUH
#define NI_BACKEND_CUDA_LAUNCH_CUH

#include "format/bf16.h"

#include <cuda_runtime.h>
#include <stdint.h>

enum { NI_THREADS = 256, NI_WARPS = NI_THREADS / 32 };

static inline int64_t ni_divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* Blocks of a kernel whose loop strides by the grid: enough to fill every GPU, few enough to start quickly. */
static inline unsigned ni_grid(int64_t blocks) {
    const int64_t most = 8192;
    return (unsigned)(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

/* Blocks of tiles, `across` of them beside each other in each of `bands`, of which there may be more than a grid is high. */
static inline dim3 ni_band_grid(int64_t across, int64_t bands) {
    enum { MOST = 65535 };
    const int64_t deep = ni_divide_up(bands, MOST);
    return dim3((unsigned)across, (unsigned)ni_divide_up(bands, deep), (unsigned)deep);
}

/* Which of them is this block's; there may be some behind the last. */
static __device__ inline int64_t ni_band() {
    return (int64_t)blockIdx.y + (int64_t)blockIdx.z * gridDim.y;
}

/* What a block of this GPU may have of shared memory. */
static inline int64_t ni_shared_bytes(void) {
    int device = 0, bytes = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess)
        return 0;
    return bytes;
}

/* for (NI_EACH(i, n)): the elements of a grid-stride loop. */
#define NI_EACH(i, n)                                                                                                  \
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;                                                        \
    i < (n);                                                                                                           \
    i += (int64_t)gridDim.x * blockDim.x

/* ---- eight BF16 numbers, 16 bytes ---- */

typedef struct ni_eight {
    float x[8];
} ni_eight;

static __device__ inline ni_eight ni_eight_of(uint4 word) {
    const uint32_t w[4] = {word.x, word.y, word.z, word.w};
    ni_eight e;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        e.x[2 * i] = __uint_as_float(w[i] << 16);
        e.x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
    return e;
}

static __device__ inline ni_eight ni_load_eight(const uint16_t *from) {
    return ni_eight_of(*(const uint4 *)from);
}

static __device__ inline uint32_t ni_pack_two(float low, float high) {
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

static __device__ inline uint4 ni_word_of(const ni_eight &e) {
    return make_uint4(ni_pack_two(e.x[0], e.x[1]), ni_pack_two(e.x[2], e.x[3]), ni_pack_two(e.x[4], e.x[5]),
                      ni_pack_two(e.x[6], e.x[7]));
}

static __device__ inline void ni_store_eight(uint16_t *to, const ni_eight &e) {
    *(uint4 *)to = ni_word_of(e);
}

/* ---- global memory, by addresses that are numbers ---- */

static __device__ inline uint64_t ni_global(const void *p) {
    return (uint64_t)__cvta_generic_to_global(p);
}

/* at + i stride, in bytes, in one instruction. */
static __device__ inline uint64_t ni_row_at(uint64_t at, uint32_t i, uint32_t stride) {
    uint64_t row;
    asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(row) : "r"(stride), "r"(i), "l"(at));
    return row;
}

static __device__ inline uint4 ni_load_words(uint64_t from) {
    uint4 word;
    asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                 : "l"(from)
                 : "memory");
    return word;
}

/* In one store: the compiler parts one whose words come out of instructions of their own into four. */
static __device__ inline void ni_store_words(uint64_t to, uint4 word) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word.x), "r"(word.y), "r"(word.z),
                 "r"(word.w)
                 : "memory");
}

static __device__ inline void ni_store_word(uint64_t to, uint32_t word) {
    asm volatile("st.global.b32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}

/* Of what is read late: it leaves the second level of the cache before other things do. */
static __device__ inline void ni_stream_words(uint64_t to, uint4 word) {
    asm volatile("st.global.cs.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word.x), "r"(word.y), "r"(word.z),
                 "r"(word.w)
                 : "memory");
}

static __device__ inline void ni_stream_word(uint64_t to, uint32_t word) {
    asm volatile("st.global.cs.b32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}

static inline bool ni_aligned(const void *p) {
    return ((uintptr_t)p & 15) == 0;
}

/* ---- sums and maxima over the lanes of a warp: a butterfly, so that all lanes have the same result ---- */

static __device__ inline float ni_warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane; lane /= 2)
        x += __shfl_xor_sync(~0u, x, lane);
    return x;
}

static __device__ inline double ni_warp_sum(double x) {
#pragma unroll
    for (int lane = 16; lane; lane /= 2)
        x += __shfl_xor_sync(~0u, x, lane);
    return x;
}

static __device__ inline uint32_t ni_warp_max(uint32_t x) {
    return __reduce_max_sync(~0u, x);
}

/* *to = max(*to, x) over all who ask; most find that theirs is not larger and touch nothing. Lanes of a warp come
 * together. */
static __device__ inline void ni_join_amax(uint32_t *to, uint32_t x) {
    x = ni_warp_max(x);
    if (to && threadIdx.x % 32 == 0 && x > *(volatile uint32_t *)to)
        atomicMax(to, x);
}

/* Sum over a block of NI_THREADS threads, for thread 0; `room` [NI_WARPS] is shared memory. */
template <typename T> static __device__ inline T ni_block_sum(T x, T *room) {
    x = ni_warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = x;
    __syncthreads();
    T sum = 0;
    for (int i = 0; i < NI_WARPS; i++)
        sum += room[i];
    return sum;
}

#endif
