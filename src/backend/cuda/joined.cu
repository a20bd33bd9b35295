/* joined.cu: C = the sum of alpha A B over terms, as one contraction that runs through all of them.
 *
 * Two blocks of a cluster make two tiles of 128 x 256 of C, one below the other, so that they read the same of B: each
 * copies half of it to both. In a block one thread copies what comes next into a ring of stages, 64 of the contraction
 * each, and two warpgroups multiply, 64 rows each (wgmma). A stage is free again when all warps of the cluster that read it are done.
 *
 *     stage   A [128 rows, 64], one panel; B as [64, 256] in four panels of 64 columns, or as [256, 64] in one
 *     sums    FP32 in registers, in units of the alpha of the term at hand: between two terms they are multiplied by the
 *             quotient of their alphas. Where it is not from 2^-40 to 2^40, or no number, they go to `room` instead.
 *
 * What is beyond an edge of A, B or C is read as zeros and not written, so no shape is special. Sums have one order.
 */
#include "backend/cuda/joined.h"

#include "backend/cuda/launch.cuh"
#include "backend/cuda/tma.cuh"

#include <cuda.h>
#include <cudaTypedefs.h>

enum {
    TILE_ROWS = 128,
    TILE_COLS = 256,
    DEPTH = 64, /* of the contraction in a stage: 128 bytes */
    GROUPS = 2, /* warpgroups that multiply */
    GROUP_THREADS = 128,
    THREADS = GROUP_THREADS * (GROUPS + 1),
    GROUP_ROWS = TILE_ROWS / GROUPS,
    SUMS = TILE_COLS / 8, /* of four numbers, a thread */
    A_BYTES = TILE_ROWS * DEPTH * 2,
    B_BYTES = TILE_COLS * DEPTH * 2,
    STAGE_BYTES = A_BYTES + B_BYTES,
    PANEL_BYTES = 64 * 128,
    OUT_BYTES = 2 * PANEL_BYTES, /* of a warpgroup: 64 rows of half its columns, on their way to C */
    MOST = NI_CUDA_JOINED_MOST
};

typedef struct joined_work {
    CUtensorMap a[MOST], b[MOST], c;
    const float *alpha[MOST];
    int32_t stages[MOST]; /* of the contraction */
    float *room;
    int64_t rows, cols;
    int32_t count, tiles, tile_cols; /* tiles of C, counted in clusters */
} joined_work;
static_assert(sizeof(joined_work) <= 4096, "a kernel's arguments");

template <int STAGES_> struct ring {
    enum {
        STAGES = STAGES_,
        BYTES = STAGES * STAGE_BYTES,
        SHARED = 1024 + BYTES + GROUPS * OUT_BYTES + 2 * STAGES * 8
    };
    uint32_t memory, barriers; /* full, then free */
    uint32_t at = 0, parity = 0;

    __device__ uint32_t a() const {
        return memory + at * STAGE_BYTES;
    }
    __device__ uint32_t full() const {
        return barriers + at * 8;
    }
    __device__ uint32_t free(uint32_t stage) const {
        return barriers + (STAGES + stage) * 8;
    }
    __device__ void advance() {
        if (++at == STAGES) {
            at = 0;
            parity ^= 1;
        }
    }
};

/* ---- copying ---- */

/* This block's share of B, into all blocks of the cluster. */
template <int ACROSS, int CLUSTER>
static __device__ __forceinline__ void load_b(uint32_t to, const CUtensorMap *b, int depth, int col, uint32_t block,
                                              uint32_t barrier) {
    constexpr int SHARE = TILE_COLS / CLUSTER, COPIES = ACROSS ? SHARE / 64 : SHARE / 128;
    constexpr int WIDE = SHARE / COPIES, BYTES = WIDE * DEPTH * 2;
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
        const int at = (int)block * SHARE + i * WIDE;
        const uint32_t there = to + (block * COPIES + i) * BYTES;
        if constexpr (CLUSTER == 1)
            load_tile(there, b, ACROSS ? col + at : depth, ACROSS ? depth : col + at, barrier);
        else
            load_tile(there, b, ACROSS ? col + at : depth, ACROSS ? depth : col + at, barrier,
                      (uint16_t)((1 << CLUSTER) - 1));
    }
}

template <int ACROSS, int CLUSTER, typename R>
static __device__ void copy_all(const joined_work &w, R r, uint32_t block) {
    for (int tile = blockIdx.x / CLUSTER; tile < w.tiles; tile += gridDim.x / CLUSTER) {
        const int row = (tile / w.tile_cols * CLUSTER + (int)block) * TILE_ROWS, col = tile % w.tile_cols * TILE_COLS;
        for (int t = 0; t < w.count; t++)
            for (int s = 0; s < w.stages[t]; s++, r.advance()) {
                barrier_wait(r.free(r.at), r.parity ^ 1);
                barrier_expect(r.full(), STAGE_BYTES);
                load_tile(r.a(), &w.a[t], s * DEPTH, row, r.full());
                load_b<ACROSS, CLUSTER>(r.a() + A_BYTES, &w.b[t], s * DEPTH, col, block, r.full());
            }
    }
}

/* ---- multiplying ---- */

template <int ACROSS>
static __device__ __forceinline__ void multiply_stage(float (&c)[SUMS][4], uint32_t a, uint32_t b, bool add) {
    const uint64_t left = wgmma_operand(a, 0), right = wgmma_operand(b, ACROSS ? PANEL_BYTES : 0);
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++)
        wgmma_shared<TILE_COLS, ACROSS>(c, left + (k * 32 >> 4), right + (k * (ACROSS ? 16 * 128 : 32) >> 4), add || k);
}

/* This thread's numbers of the tile whose first row and column are given: f(sum, row, column), two of a row at once. */
template <typename F> static __device__ __forceinline__ void each_pair(float (&c)[SUMS][4], int row, int col, F f) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
    for (int i = 0; i < SUMS; i++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            f(&c[i][2 * h], row + 16 * warp + 8 * h + lane / 4, col + 8 * i + lane % 4 * 2);
}

/* *room (+)= alpha c, and c = 0. */
static __device__ __forceinline__ void set_aside(float (&c)[SUMS][4], const joined_work &w, int row, int col,
                                                 float alpha, bool add) {
    each_pair(c, row, col, [&](float *sum, int r, int n) {
        if (r < w.rows && n < w.cols) {
            float *to = w.room + r * w.cols + n;
            to[0] = fmaf(alpha, sum[0], add ? to[0] : 0);
            to[1] = fmaf(alpha, sum[1], add ? to[1] : 0);
        }
        sum[0] = sum[1] = 0;
    });
}

static __device__ __forceinline__ void take_back(float (&c)[SUMS][4], const joined_work &w, int row, int col) {
    each_pair(c, row, col, [&](float *sum, int r, int n) {
        if (r < w.rows && n < w.cols) {
            const float *from = w.room + r * w.cols + n;
            sum[0] += from[0];
            sum[1] += from[1];
        }
    });
}

/* Half the columns at a time through shared memory. */
static __device__ __forceinline__ void store(float (&c)[SUMS][4], const CUtensorMap *map, int row, int col,
                                             uint32_t out) {
    const int lane = threadIdx.x % 32, group = threadIdx.x / GROUP_THREADS, warp = threadIdx.x / 32 % 4;
    const bool first = threadIdx.x % GROUP_THREADS == 0;
    const uint32_t line = out + (warp * 16 + lane / 8 % 2 * 8 + lane % 8) * 128;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (first)
            store_wait_read();
        sync_warpgroup(1 + group);
#pragma unroll
        for (int i = 0; i < SUMS / 2; i += 2) {
            float(&x)[4] = c[half * SUMS / 2 + i], (&y)[4] = c[half * SUMS / 2 + i + 1];
            const uint32_t piece = (i + lane / 16) % 8 ^ lane % 8;
            store_matrix(line + i / 8 * PANEL_BYTES + piece * 16, pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]),
                         pack_bf16(y[0], y[1]), pack_bf16(y[2], y[3]));
        }
        fence_async_proxy();
        sync_warpgroup(1 + group);
        if (first) {
            store_tile(map, col + half * 128, row, out);
            store_tile(map, col + half * 128 + 64, row, out + PANEL_BYTES);
            store_commit();
        }
    }
}

template <int CLUSTER, typename R> static __device__ __forceinline__ void release(const R &r, uint32_t stage) {
    const uint32_t lane = threadIdx.x % 32;
    if (lane < CLUSTER)
        barrier_arrive(r.free(stage), lane);
}

/* quotient[t] of the alphas of term t and the next; 0: too far apart. */
template <int ACROSS, int CLUSTER, typename R>
static __device__ void multiply_all(const joined_work &w, R r, uint32_t block, const float *alpha,
                                    const float *quotient, uint32_t out) {
    const int group = threadIdx.x / GROUP_THREADS;
    float c[SUMS][4];
    for (int tile = blockIdx.x / CLUSTER; tile < w.tiles; tile += gridDim.x / CLUSTER) {
        const int row = (tile / w.tile_cols * CLUSTER + (int)block) * TILE_ROWS + group * GROUP_ROWS,
                  col = tile % w.tile_cols * TILE_COLS;
        bool add = false, aside = false;
        int held = -1; /* the stage that is read still */
        for (int t = 0; t < w.count; t++) {
            for (int s = w.stages[t]; s > 0; s--, r.advance()) {
                barrier_wait(r.full(), r.parity);
                wgmma_fence();
                multiply_stage<ACROSS>(c, r.a() + group * GROUP_ROWS * DEPTH * 2, r.a() + A_BYTES, add);
                wgmma_commit();
                wgmma_wait<1>();
                if (held >= 0)
                    release<CLUSTER>(r, (uint32_t)held);
                held = (int)r.at;
                add = true;
            }
            if (t + 1 == w.count || quotient[t] == 1)
                continue;
            wgmma_wait<0>();
            wgmma_hold(c);
            if (quotient[t] == 0) {
                set_aside(c, w, row, col, alpha[t], aside);
                aside = true;
                continue;
            }
            const float q = quotient[t];
#pragma unroll
            for (int i = 0; i < SUMS; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    c[i][j] *= q;
            wgmma_hold(c);
        }
        wgmma_wait<0>();
        wgmma_hold(c);
        release<CLUSTER>(r, (uint32_t)held);
        const float last = alpha[w.count - 1];
#pragma unroll
        for (int i = 0; i < SUMS; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                c[i][j] *= last;
        if (aside)
            take_back(c, w, row, col);
        store(c, &w.c, row, col, out);
    }
    if (threadIdx.x % GROUP_THREADS == 0)
        store_wait();
}

template <int ACROSS, int CLUSTER, int STAGES>
static __global__ void __launch_bounds__(THREADS, 1) joined_kernel(const __grid_constant__ joined_work w) {
#ifdef NIBBLE_WGMMA
    __shared__ float alpha[MOST], quotient[MOST];
    ring<STAGES> r;
    r.memory = (shared_address(shared_memory()) + 1023) / 1024 * 1024;
    const uint32_t out = r.memory + r.BYTES, block = CLUSTER > 1 ? block_of_cluster() : 0;
    r.barriers = out + GROUPS * OUT_BYTES;
    if (threadIdx.x == 0) {
        for (uint32_t s = 0; s < STAGES; s++) {
            barrier_init(r.barriers + s * 8, 1);
            barrier_init(r.free(s), CLUSTER * GROUPS * GROUP_THREADS / 32);
        }
        barrier_init_fence();
    }
    if ((int)threadIdx.x < w.count) {
        const int t = threadIdx.x;
        const float own = w.alpha[t] ? *w.alpha[t] : 1.0f,
                    next = t + 1 < w.count && w.alpha[t + 1] ? *w.alpha[t + 1] : 1.0f, q = own / next;
        alpha[t] = own;
        quotient[t] = fabsf(q) >= 0x1p-40f && fabsf(q) <= 0x1p40f ? q : 0.0f;
    }
    if (CLUSTER > 1)
        sync_cluster();
    __syncthreads();
    const int group = threadIdx.x / GROUP_THREADS;
    if (group == GROUPS) {
        give_registers<40>();
        if (threadIdx.x == GROUPS * GROUP_THREADS)
            copy_all<ACROSS, CLUSTER>(w, r, block);
        __syncwarp();
    } else {
        take_registers<232>();
        multiply_all<ACROSS, CLUSTER>(w, r, block, alpha, quotient, out + group * OUT_BYTES);
        __syncwarp();
    }
    if (CLUSTER > 1)
        sync_cluster(); /* nobody arrives at a barrier of a block that is gone */
#else
    __trap();
#endif
}

/* ---- the host's side ---- */

static PFN_cuTensorMapEncodeTiled_v12000 encoder(void) {
    static PFN_cuTensorMapEncodeTiled_v12000 found = NULL;
    if (!found) {
        void *entry = NULL;
        cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
        const cudaError_t code =
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &result);
#else
        const cudaError_t code = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &result);
#endif
        if (code == cudaSuccess && result == cudaDriverEntryPointSuccess)
            found = (PFN_cuTensorMapEncodeTiled_v12000)entry;
    }
    return found;
}

/* Tiles of `rows` rows of 64 columns of a matrix. */
static bool map_tiles(CUtensorMap *map, const nb_mat *m, int rows) {
    const cuuint64_t size[2] = {(cuuint64_t)m->cols, (cuuint64_t)m->rows}, stride[1] = {(cuuint64_t)m->stride * 2};
    const cuuint32_t box[2] = {64, (cuuint32_t)rows}, step[2] = {1, 1};
    return encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, m->data, size, stride, box, step,
                     CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                     CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

static bool is_aligned(const nb_mat *m) {
    return m->dtype == NB_BF16 && (uintptr_t)m->data % 16 == 0 && m->stride % 8 == 0 && m->rows > 0 && m->cols > 0 &&
           m->rows < INT32_MAX && m->cols < INT32_MAX;
}

static int64_t depth_of(const ni_cuda_joined_term *t) {
    return t->a.cols;
}

bool ni_cuda_can_join(const ni_cuda_joined *j) {
    bool can = j->count > 0 && j->count <= MOST && is_aligned(&j->c) && j->c.cols % 2 == 0;
    for (int i = 0; i < j->count && can; i++)
        can = is_aligned(&j->terms[i].a) && is_aligned(&j->terms[i].b);
    return can && encoder();
}

template <int ACROSS, int CLUSTER, int STAGES>
static int launch_joined(cudaStream_t stream, const ni_cuda_joined *j, int multiprocessors) {
    joined_work w = {};
    bool good = map_tiles(&w.c, &j->c, GROUP_ROWS);
    for (int i = 0; i < j->count; i++) {
        const ni_cuda_joined_term *t = &j->terms[i];
        good = good && map_tiles(&w.a[i], &t->a, TILE_ROWS) && map_tiles(&w.b[i], &t->b, ACROSS ? DEPTH : 128);
        w.alpha[i] = t->alpha;
        w.stages[i] = (int32_t)ni_divide_up(depth_of(t), DEPTH);
    }
    if (!good)
        return cudaErrorInvalidValue;
    w.room = j->room;
    w.rows = j->c.rows;
    w.cols = j->c.cols;
    w.count = j->count;
    w.tile_cols = (int32_t)ni_divide_up(j->c.cols, TILE_COLS);
    w.tiles = (int32_t)(ni_divide_up(j->c.rows, TILE_ROWS * CLUSTER) * w.tile_cols);
    const int64_t most = multiprocessors / CLUSTER;
    void (*const kernel)(joined_work) = joined_kernel<ACROSS, CLUSTER, STAGES>;
    cudaError_t code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, ring<STAGES>::SHARED);
    if (code != cudaSuccess)
        return code;
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = CLUSTER;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t how = {};
    how.gridDim = dim3((unsigned)(CLUSTER * (w.tiles < most ? w.tiles : most)));
    how.blockDim = dim3(THREADS);
    how.dynamicSmemBytes = ring<STAGES>::SHARED;
    how.stream = stream;
    how.attrs = &cluster;
    how.numAttrs = 1;
    return cudaLaunchKernelEx(&how, kernel, w);
}

int ni_cuda_launch_joined(void *stream, const ni_cuda_joined *j, int multiprocessors) {
    return j->across ? launch_joined<1, 2, 4>((cudaStream_t)stream, j, multiprocessors)
                     : launch_joined<0, 2, 4>((cudaStream_t)stream, j, multiprocessors);
}
