/* ring.cuh: tiles of products by warpgroups, out of a ring of stages in shared memory (compute capability 9.0).
 *
 * Two blocks of a cluster make two tiles of 128 x 256, one below the other, so that they read the same of B: each copies
 * half of it to both. In a block one thread copies what comes next into the ring, 64 of the contraction a stage, and two
 * warpgroups multiply, 64 rows each. A stage is free again when all warps of the cluster that read it are done.
 *
 *     A   [128 rows, 64] in one panel, or A_ACROSS: [64, 128 columns] in two of 64
 *     B   [256 rows, 64] in one panel, or ACROSS: [64, 256 columns] in four
 *
 * What is beyond an edge comes as zeros. Sums run along the contraction, in FP32.
 */
#ifndef NI_BACKEND_CUDA_RING_CUH
#define NI_BACKEND_CUDA_RING_CUH

#include "backend/cuda/launch.cuh"
#include "backend/cuda/tile_map.cuh"
#include "backend/cuda/tma.cuh"

enum {
    CLUSTER = 2,
    STAGES = 4,
    TILE_ROWS = 128,
    TILE_COLS = 256,
    DEPTH = 64, /* of the contraction in a stage: 128 bytes */
    GROUPS = 2, /* warpgroups that multiply */
    GROUP_THREADS = 128,
    THREADS = GROUP_THREADS * (GROUPS + 1),
    GROUP_ROWS = TILE_ROWS / GROUPS,
    SUMS = TILE_COLS / 8, /* of four numbers, a thread */
    PANEL_BYTES = 64 * 128,
    A_BYTES = TILE_ROWS * DEPTH * 2,
    B_BYTES = TILE_COLS * DEPTH * 2,
    STAGE_BYTES = A_BYTES + B_BYTES,
    OUT_BYTES = 2 * PANEL_BYTES, /* of a warpgroup, on their way to C */
    RING_BYTES = STAGES * STAGE_BYTES,
    SHARED_BYTES = 1024 + RING_BYTES + GROUPS * OUT_BYTES + 2 * STAGES * 8
};

struct ring {
    uint32_t memory, at, parity;

    __device__ uint32_t a() const {
        return memory + at * STAGE_BYTES;
    }
    __device__ uint32_t b() const {
        return a() + A_BYTES;
    }
    __device__ uint32_t out(int group) const {
        return memory + RING_BYTES + group * OUT_BYTES;
    }
    __device__ uint32_t full() const {
        return out(GROUPS) + at * 8;
    }
    __device__ uint32_t free(uint32_t stage) const {
        return out(GROUPS) + (STAGES + stage) * 8;
    }
    __device__ void advance() {
        if (++at == STAGES) {
            at = 0;
            parity ^= 1;
        }
    }
};

/* For all threads of a cluster, which come together. */
static __device__ inline ring ring_begin() {
    ring r = {(shared_address(shared_memory()) + 1023) / 1024 * 1024, 0, 0};
    if (threadIdx.x == 0) {
        for (uint32_t s = 0; s < STAGES; s++) {
            r.at = s;
            barrier_init(r.full(), 1);
            barrier_init(r.free(s), CLUSTER * GROUPS * GROUP_THREADS / 32);
        }
        barrier_init_fence();
    }
    r.at = 0;
    sync_cluster();
    __syncthreads();
    return r;
}

/* ---- copying, by one thread of a block ---- */

template <int ACROSS>
static __device__ __forceinline__ void load_a(uint32_t to, const CUtensorMap *a, int depth, int row, uint32_t barrier) {
    if constexpr (ACROSS) {
        load_tile(to, a, row, depth, barrier);
        load_tile(to + PANEL_BYTES, a, row + 64, depth, barrier);
    } else {
        load_tile(to, a, depth, row, barrier);
    }
}

/* This block's share of B, into all blocks of the cluster. */
template <int ACROSS>
static __device__ __forceinline__ void load_b(uint32_t to, const CUtensorMap *b, int depth, int col, uint32_t block,
                                              uint32_t barrier) {
    constexpr int SHARE = TILE_COLS / CLUSTER, COPIES = ACROSS ? SHARE / 64 : 1, WIDE = SHARE / COPIES;
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
        const int part = (int)block * COPIES + i, at = col + part * WIDE;
        load_tile(to + part * WIDE * DEPTH * 2, b, ACROSS ? at : depth, ACROSS ? depth : at, barrier,
                  (uint16_t)((1 << CLUSTER) - 1));
    }
}

/* Stages of the contraction of one product, from `first` on, of a tile of C; NUMBERS of it in a stage. */
template <int ACROSS, int A_ACROSS = 0, int NUMBERS = DEPTH>
static __device__ __forceinline__ void copy_stages(ring &r, const CUtensorMap *a, const CUtensorMap *b, int first,
                                                   int stages, int row, int col, uint32_t block) {
    for (int s = first; s < first + stages; s++, r.advance()) {
        barrier_wait(r.free(r.at), r.parity ^ 1);
        barrier_expect(r.full(), STAGE_BYTES);
        load_a<A_ACROSS>(r.a(), a, s * NUMBERS, row, r.full());
        load_b<ACROSS>(r.b(), b, s * NUMBERS, col, block, r.full());
    }
}

/* ---- multiplying, by a warpgroup ---- */

static __device__ __forceinline__ void release(const ring &r, uint32_t stage) {
    const uint32_t lane = threadIdx.x % 32;
    if (lane < CLUSTER)
        barrier_arrive(r.free(stage), lane);
}

/* One after the other into c, which begins with 0 where `held` is none; `held` is the stage that is read still. */
enum { NO_STAGE = -1 };
template <int ACROSS, int A_ACROSS = 0>
static __device__ __forceinline__ void multiply_stages(float (&c)[SUMS][4], ring &r, int stages, int &held, bool &add) {
    const uint32_t own = threadIdx.x / GROUP_THREADS * (GROUP_ROWS * DEPTH * 2);
    for (; stages > 0; stages--, r.advance()) {
        barrier_wait(r.full(), r.parity);
        wgmma_fence();
        const uint64_t a = wgmma_operand(r.a() + own, A_ACROSS ? PANEL_BYTES : 0),
                       b = wgmma_operand(r.b(), ACROSS ? PANEL_BYTES : 0);
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++)
            wgmma_shared<TILE_COLS, ACROSS, A_ACROSS>(c, a + (k * (A_ACROSS ? 16 * 128 : 32) >> 4),
                                                      b + (k * (ACROSS ? 16 * 128 : 32) >> 4), add || k);
        wgmma_commit();
        wgmma_wait<1>();
        if (held != NO_STAGE)
            release(r, (uint32_t)held);
        held = (int)r.at;
        add = true;
    }
}

/* The sums may be read. */
static __device__ __forceinline__ void finish_stages(float (&c)[SUMS][4]) {
    wgmma_wait<0>();
    wgmma_hold(c);
}

static __device__ __forceinline__ void scale_sums(float (&c)[SUMS][4], float by) {
#pragma unroll
    for (int i = 0; i < SUMS; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            c[i][j] *= by;
}

/* This thread's numbers of the warpgroup's part, which begins at (row, col): f(sum, row, column), two of a row at once.
 */
template <typename F> static __device__ __forceinline__ void each_pair(float (&c)[SUMS][4], int row, int col, F f) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
    for (int i = 0; i < SUMS; i++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            f(&c[i][2 * h], row + 16 * warp + 8 * h + lane / 4, col + 8 * i + lane % 4 * 2);
}

/* f(row, column) of each of this block's tiles, of w.tiles of a cluster each, w.tile_cols beside each other. */
template <typename W, typename F> static __device__ __forceinline__ void each_tile(const W &w, uint32_t block, F f) {
    for (int t = blockIdx.x / CLUSTER; t < w.tiles; t += gridDim.x / CLUSTER)
        f((t / w.tile_cols * CLUSTER + (int)block) * TILE_ROWS, t % w.tile_cols * TILE_COLS);
}

/* c += the part of a matrix in FP32 that begins at (row, col). */
static __device__ __forceinline__ void take_back(float (&c)[SUMS][4], const float *room, int64_t rows, int64_t cols,
                                                 int row, int col) {
    each_pair(c, row, col, [&](float *sum, int r, int n) {
        if (r < rows && n < cols) {
            const float *from = room + r * cols + n;
            sum[0] += from[0];
            sum[1] += from[1];
        }
    });
}

/* Half of the columns at a time. */
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

/* `copies` is run by one thread of the block, `multiplies` by two warpgroups. */
template <typename C, typename M> static __device__ __forceinline__ void ring_run(C copies, M multiplies) {
    if (threadIdx.x / GROUP_THREADS == GROUPS) {
        give_registers<40>();
        if (threadIdx.x == GROUPS * GROUP_THREADS)
            copies();
    } else {
        take_registers<232>();
        multiplies();
    }
    __syncwarp();
    sync_cluster(); /* nobody arrives at a barrier of a block that is gone */
}

/* ---- the host's side ---- */

/* What copy_stages reads. */
static inline bool map_operands(CUtensorMap *a, CUtensorMap *b, const nb_mat *left, bool left_across,
                                const nb_mat *right, bool right_across) {
    return map_tiles(a, left, left_across ? DEPTH : TILE_ROWS) &&
           map_tiles(b, right, right_across ? DEPTH : TILE_COLS / CLUSTER);
}

/* `tiles` are those of a cluster, which take turns; `follows`: the kernel waits for the one before it (follow.cuh). */
template <typename W>
static int launch_ring(cudaStream_t stream, void (*kernel)(W), const W &work, int64_t tiles, int multiprocessors,
                       bool follows = false) {
    const int64_t most = multiprocessors / CLUSTER;
    const cudaError_t code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
    if (code != cudaSuccess)
        return code;
    cudaLaunchAttribute how_so[2] = {};
    how_so[0].id = cudaLaunchAttributeClusterDimension;
    how_so[0].val.clusterDim.x = CLUSTER;
    how_so[0].val.clusterDim.y = how_so[0].val.clusterDim.z = 1;
    how_so[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    how_so[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how = {};
    how.gridDim = dim3((unsigned)(CLUSTER * (tiles < most ? tiles : most)));
    how.blockDim = dim3(THREADS);
    how.dynamicSmemBytes = SHARED_BYTES;
    how.stream = stream;
    how.attrs = how_so;
    how.numAttrs = follows ? 2 : 1;
    return cudaLaunchKernelEx(&how, kernel, work);
}

#endif
