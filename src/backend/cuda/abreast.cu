/* abreast.cu: products of one contraction and one width, side by side: the tiles of all of them are dealt out to clusters,
 * one after the other, and each runs through all of its contraction (ring.cuh). One order of sums.
 */
#include "backend/cuda/abreast.h"

#include "backend/cuda/ring.cuh"

enum { MOST = NI_CUDA_ABREAST_MOST };

typedef struct abreast_work {
    CUtensorMap a[MOST], b[MOST];
    float *c[MOST];
    const float *alpha[MOST];
    int32_t rows[MOST], first_tile[MOST];
    uint32_t add; /* a bit each */
    int64_t cols, stride;
    int32_t count, stages, tiles, tile_cols; /* tiles of C, of a cluster each */
} abreast_work;
static_assert(sizeof(abreast_work) <= 4096, "a kernel's arguments");

/* f(product, row, column) of each of this block's tiles. */
template <typename F> static __device__ __forceinline__ void each_tile(const abreast_work &w, uint32_t block, F f) {
    for (int t = blockIdx.x / CLUSTER; t < w.tiles; t += gridDim.x / CLUSTER) {
        int p = 0;
        while (p + 1 < w.count && t >= w.first_tile[p + 1])
            p++;
        const int tile = t - w.first_tile[p];
        f(p, (tile / w.tile_cols * CLUSTER + (int)block) * TILE_ROWS, tile % w.tile_cols * TILE_COLS);
    }
}

/* Pairs of neighbours: a lane's four have 32 bytes of a row. */
static __device__ __forceinline__ void store(float (&c)[SUMS][4], const abreast_work &w, int p, int row, int col) {
    const float alpha = w.alpha[p] ? *w.alpha[p] : 1.0f;
    const bool add = w.add >> p & 1;
    each_pair(c, row, col, [&](float *sum, int r, int n) {
        if (r < w.rows[p] && n < w.cols) {
            float2 *to = (float2 *)(w.c[p] + r * w.stride + n);
            float2 x = make_float2(alpha * sum[0], alpha * sum[1]);
            if (add) {
                const float2 before = *to;
                x = make_float2(fmaf(alpha, sum[0], before.x), fmaf(alpha, sum[1], before.y));
            }
            *to = x;
        }
    });
}

template <int A_ACROSS, int B_ACROSS>
static __global__ void __launch_bounds__(THREADS, 1) abreast_kernel(const __grid_constant__ abreast_work w) {
#ifdef NIBBLE_WGMMA
    ring r = ring_begin();
    const uint32_t block = block_of_cluster();
    ring_run(
        [&] {
            each_tile(w, block, [&](int p, int row, int col) {
                copy_stages<A_ACROSS, B_ACROSS>(r, &w.a[p], &w.b[p], w.stages, row, col, block);
            });
        },
        [&] {
            const int own = threadIdx.x / GROUP_THREADS * GROUP_ROWS;
            each_tile(w, block, [&](int p, int row, int col) {
                float c[SUMS][4];
                bool add = false;
                int held = NO_STAGE;
                multiply_stages<A_ACROSS, B_ACROSS>(c, r, w.stages, held, add);
                finish_stages(c);
                release(r, (uint32_t)held);
                store(c, w, p, row + own, col);
            });
        });
#else
    __trap();
#endif
}

/* ---- the host's side ---- */

static int64_t depth_of(const ni_cuda_abreast *j, int i) {
    return j->a_across ? j->at[i].a.rows : j->at[i].a.cols;
}

static int64_t tiles_of(const ni_cuda_abreast *j, int i) {
    return ni_divide_up(j->at[i].c.rows, CLUSTER * TILE_ROWS) * ni_divide_up(j->at[i].c.cols, TILE_COLS);
}

static bool can_store(const nb_mat *c) {
    return c->dtype == NB_F32 && (uintptr_t)c->data % 8 == 0 && c->stride % 2 == 0 && c->cols % 2 == 0 && c->rows > 0 &&
           c->rows < INT32_MAX;
}

bool ni_cuda_can_abreast(const ni_cuda_abreast *j, int multiprocessors) {
    const int64_t clusters = multiprocessors / CLUSTER;
    int64_t tiles = 0;
    bool can = j->count > 0 && j->count <= MOST;
    for (int i = 0; i < j->count && can; i++) {
        const ni_cuda_abreast_product *p = &j->at[i];
        can = can_map(&p->a) && can_map(&p->b) && can_store(&p->c) && p->c.cols == j->at[0].c.cols &&
              p->c.stride == j->at[0].c.stride && depth_of(j, i) == depth_of(j, 0);
        tiles += tiles_of(j, i);
    }
    /* Three quarters of what the clusters could do meanwhile. */
    return can && clusters > 0 && 4 * tiles >= 3 * clusters * ni_divide_up(tiles, clusters) && tile_encoder();
}

template <int A_ACROSS, int B_ACROSS>
static int launch_abreast(cudaStream_t stream, const abreast_work &w, int multiprocessors) {
    return launch_ring(stream, abreast_kernel<A_ACROSS, B_ACROSS>, w, w.tiles, multiprocessors);
}

int ni_cuda_launch_abreast(void *stream, const ni_cuda_abreast *j, int multiprocessors) {
    abreast_work w = {};
    bool good = true;
    for (int i = 0; i < j->count; i++) {
        const ni_cuda_abreast_product *p = &j->at[i];
        good = good && map_operands(&w.a[i], &w.b[i], &p->a, j->a_across, &p->b, j->b_across);
        w.c[i] = (float *)p->c.data;
        w.alpha[i] = p->alpha;
        w.rows[i] = (int32_t)p->c.rows;
        w.add |= (uint32_t)p->add << i;
        w.first_tile[i] = w.tiles;
        w.tiles += (int32_t)tiles_of(j, i);
    }
    if (!good)
        return cudaErrorInvalidValue;
    w.cols = j->at[0].c.cols;
    w.stride = j->at[0].c.stride;
    w.count = j->count;
    w.stages = (int32_t)ni_divide_up(depth_of(j, 0), DEPTH);
    w.tile_cols = (int32_t)ni_divide_up(w.cols, TILE_COLS);
    cudaStream_t on = (cudaStream_t)stream;
    if (j->a_across)
        return j->b_across ? launch_abreast<1, 1>(on, w, multiprocessors)
                           : launch_abreast<1, 0>(on, w, multiprocessors);
    return j->b_across ? launch_abreast<0, 1>(on, w, multiprocessors) : launch_abreast<0, 0>(on, w, multiprocessors);
}
