/* joined.cu: C = the sum of alpha A B over terms, as one contraction that runs through all of them (ring.cuh).
 *
 * Sums are in units of the alpha of the term at hand: between two terms they are multiplied by the quotient of their
 * alphas. Where it is not from 2^-40 to 2^40, or no number, what was added up so far goes to `room` in FP32, and comes
 * back at the end. Tiles are stored by the tensor memory accelerator, half their columns at a time. One order of sums.
 */
#include "backend/cuda/joined.h"

#include "backend/cuda/ring.cuh"

enum { MOST = NI_CUDA_JOINED_MOST };

typedef struct joined_work {
    CUtensorMap a[MOST], b[MOST], c;
    const float *alpha[MOST];
    int32_t stages[MOST]; /* of the contraction */
    float *room;
    int64_t rows, cols;
    int32_t count, tiles, tile_cols; /* tiles of C, of a cluster each */
} joined_work;
static_assert(sizeof(joined_work) <= 4096, "a kernel's arguments");

/* f(row, column) of each of this block's tiles. */
template <typename F> static __device__ __forceinline__ void each_tile(const joined_work &w, uint32_t block, F f) {
    for (int t = blockIdx.x / CLUSTER; t < w.tiles; t += gridDim.x / CLUSTER)
        f((t / w.tile_cols * CLUSTER + (int)block) * TILE_ROWS, t % w.tile_cols * TILE_COLS);
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

/* quotient[t]: of the alphas of term t and the next; 0: too far apart. */
template <int ACROSS>
static __device__ __forceinline__ void multiply_tile(float (&c)[SUMS][4], const joined_work &w, ring &r, int row,
                                                     int col, const float *alpha, const float *quotient) {
    bool add = false, aside = false;
    int held = NO_STAGE;
    for (int t = 0; t < w.count; t++) {
        multiply_stages<ACROSS>(c, r, w.stages[t], held, add);
        if (t + 1 == w.count || quotient[t] == 1)
            continue;
        finish_stages(c);
        if (quotient[t] == 0) {
            set_aside(c, w, row, col, alpha[t], aside);
            aside = true;
            wgmma_hold(c);
            continue;
        }
        scale_sums(c, quotient[t]);
        wgmma_hold(c);
    }
    finish_stages(c);
    release(r, (uint32_t)held);
    scale_sums(c, alpha[w.count - 1]);
    if (aside)
        take_back(c, w, row, col);
    store(c, &w.c, row, col, r.out(threadIdx.x / GROUP_THREADS));
}

template <int ACROSS>
static __global__ void __launch_bounds__(THREADS, 1) joined_kernel(const __grid_constant__ joined_work w) {
    __shared__ float alpha[MOST], quotient[MOST];
    if ((int)threadIdx.x < w.count) {
        const int t = threadIdx.x;
        const float own = w.alpha[t] ? *w.alpha[t] : 1.0f,
                    next = t + 1 < w.count && w.alpha[t + 1] ? *w.alpha[t + 1] : 1.0f, q = own / next;
        alpha[t] = own;
        quotient[t] = fabsf(q) >= 0x1p-40f && fabsf(q) <= 0x1p40f ? q : 0.0f;
    }
    ring r = ring_begin();
    const uint32_t block = block_of_cluster();
    ring_run(
        [&] {
            each_tile(w, block, [&](int row, int col) {
                for (int t = 0; t < w.count; t++)
                    copy_stages<ACROSS>(r, &w.a[t], &w.b[t], 0, w.stages[t], row, col, block);
            });
        },
        [&] {
            const int own = threadIdx.x / GROUP_THREADS * GROUP_ROWS;
            float c[SUMS][4];
            each_tile(w, block,
                      [&](int row, int col) { multiply_tile<ACROSS>(c, w, r, row + own, col, alpha, quotient); });
            if (threadIdx.x % GROUP_THREADS == 0)
                store_wait();
        });
}

/* ---- the host's side ---- */

bool ni_cuda_can_join(const ni_cuda_joined *j) {
    bool can = j->count > 0 && j->count <= MOST && can_map(&j->c) && j->c.cols % 2 == 0;
    for (int i = 0; i < j->count && can; i++)
        can = can_map(&j->terms[i].a) && can_map(&j->terms[i].b);
    return can && tile_encoder();
}

int ni_cuda_launch_joined(void *stream, const ni_cuda_joined *j, int multiprocessors) {
    joined_work w = {};
    bool good = map_tiles(&w.c, &j->c, GROUP_ROWS);
    for (int i = 0; i < j->count; i++) {
        const ni_cuda_joined_term *t = &j->terms[i];
        good = good && map_operands(&w.a[i], &w.b[i], &t->a, false, &t->b, j->across);
        w.alpha[i] = t->alpha;
        w.stages[i] = (int32_t)ni_divide_up(t->a.cols, DEPTH);
    }
    if (!good)
        return cudaErrorInvalidValue;
    w.room = j->room;
    w.rows = j->c.rows;
    w.cols = j->c.cols;
    w.count = j->count;
    w.tile_cols = (int32_t)ni_divide_up(j->c.cols, TILE_COLS);
    w.tiles = (int32_t)(ni_divide_up(j->c.rows, TILE_ROWS * CLUSTER) * w.tile_cols);
    return launch_ring((cudaStream_t)stream, j->across ? joined_kernel<1> : joined_kernel<0>, w, w.tiles,
                       multiprocessors);
}
