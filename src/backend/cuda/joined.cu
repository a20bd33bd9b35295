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
        take_back(c, w.room, w.rows, w.cols, row, col);
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

/* What copy_stages reads. */
static bool map_operands(CUtensorMap *a, CUtensorMap *b, const nb_mat *left, const nb_mat *right, bool across) {
    return map_tiles(a, left, TILE_ROWS) && map_tiles(b, right, across ? DEPTH : TILE_COLS / CLUSTER);
}

bool ni_cuda_can_join(const ni_cuda_joined *j) {
    const ni_cuda_joined_term *first = j->terms;
    bool can = j->count > 0 && j->count <= MOST && can_map(&j->c) && j->c.cols % 2 == 0;
    const bool bytes = can && first->b.dtype == NB_E4M3;
    for (int i = 0; i < j->count && can; i++) {
        const ni_cuda_joined_term *t = &j->terms[i];
        can = can_map(&t->a, bytes) && can_map(&t->b, bytes) && t->a.dtype == first->a.dtype &&
              t->b.dtype == first->b.dtype;
    }
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
