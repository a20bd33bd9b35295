/* joined_bytes.cu: C = the sum over terms of A B^T times the scales of both, bytes of E4M3 (A: or E5M2) by units for 8 bits,
 * as one contraction that runs through all terms (ring.cuh).
 *
 * A tensor core cuts its sums (wgmma.cuh), so after each 128 products they are added to sums in FP32, and there they are
 * multiplied by the scales of the term at hand: terms may be as far apart as FP32 numbers are. A warpgroup makes half
 * of its columns at a time, so that both kinds of sums fit into registers; while one adds, the other one multiplies.
 */
#include "backend/cuda/joined.h"

#include "backend/cuda/follow.cuh"
#include "backend/cuda/ring.cuh"

enum { MOST = NI_CUDA_JOINED_MOST, BYTES = 128 /* of the contraction in a stage */, HALF = TILE_COLS / 2 };

typedef struct joined_bytes {
    CUtensorMap a[MOST], b[MOST], c;
    const float *scales[MOST][2];
    int32_t stages[MOST]; /* of the contraction */
    const uint32_t *found;
    const float *room;
    int64_t rows, cols;
    int32_t count, tiles, tile_cols;
} joined_bytes;
static_assert(sizeof(joined_bytes) <= 4096, "a kernel's arguments");

/* Two factors, the first of which is 1 where their product is a normal number. */
struct factors {
    float first, then;
};

static __device__ factors factors_of(const float *const *scales) {
    const float a = *scales[0], b = *scales[1], both = a * b;
    const bool normal = fabsf(both) >= 0x1p-126f && fabsf(both) < INFINITY;
    return normal ? factors{1.0f, both} : factors{a, b};
}

/* The warpgroups multiply in turns: one's products are under way while the other adds. Barriers 3 and 4 of the block. */
static __device__ __forceinline__ void take_turn() {
    asm volatile("bar.sync %0, 256;" ::"r"(3 + (int)threadIdx.x / GROUP_THREADS) : "memory");
}

static __device__ __forceinline__ void give_turn() {
    asm volatile("bar.arrive %0, 256;" ::"r"(4 - (int)threadIdx.x / GROUP_THREADS) : "memory");
}

template <int E5M2>
static __device__ __forceinline__ void multiply_half(float (&part)[SUMS / 2][4], uint64_t a, uint64_t b) {
    take_turn();
    wgmma_fence(part);
#pragma unroll
    for (int k = 0; k < BYTES / 32; k++)
        wgmma_bytes<E5M2>(part, a + (k * 32 >> 4), b + (k * 32 >> 4), k > 0);
    wgmma_commit();
    give_turn();
    wgmma_wait<0>();
    wgmma_hold(part);
}

/* The sums from FIRST on += the factors' part. */
template <int FIRST>
static __device__ __forceinline__ void add_part(float (&c)[SUMS][4], float (&part)[SUMS / 2][4], const factors &f) {
    if (f.first != 1.0f)
#pragma unroll
        for (int i = 0; i < SUMS * 2; i++)
            part[i / 4][i % 4] *= f.first;
#pragma unroll
    for (int i = 0; i < SUMS * 2; i++)
        c[FIRST + i / 4][i % 4] = fmaf(f.then, part[i / 4][i % 4], c[FIRST + i / 4][i % 4]);
}

template <int E5M2>
static __device__ __forceinline__ void add_stages(float (&c)[SUMS][4], ring &r, int stages, const factors &f) {
    const uint32_t own = threadIdx.x / GROUP_THREADS * (GROUP_ROWS * BYTES);
    for (; stages > 0; stages--, r.advance()) {
        barrier_wait(r.full(), r.parity);
        const uint64_t a = wgmma_operand(r.a() + own, 0), b = wgmma_operand(r.b(), 0);
        float part[SUMS / 2][4];
        multiply_half<E5M2>(part, a, b);
        add_part<0>(c, part, f);
        multiply_half<E5M2>(part, a, b + (HALF * BYTES >> 4));
        release(r, r.at);
        add_part<SUMS / 2>(c, part, f);
    }
}

template <int E5M2>
static __global__ void __launch_bounds__(THREADS, 1) joined_bytes_kernel(const __grid_constant__ joined_bytes w) {
    __shared__ factors f[MOST];
    ni_wait_for_it();
    if ((int)threadIdx.x < w.count)
        f[threadIdx.x] = factors_of(w.scales[threadIdx.x]);
    ring r = ring_begin();
    const uint32_t block = block_of_cluster();
    ring_run(
        [&] {
            each_tile(w, block, [&](int row, int col) {
                for (int t = 0; t < w.count; t++)
                    copy_stages<0, 0, BYTES>(r, &w.a[t], &w.b[t], 0, w.stages[t], row, col, block);
            });
        },
        [&] {
            const int group = threadIdx.x / GROUP_THREADS;
            const bool apart = w.found && *w.found;
            if (group == 1)
                give_turn();
            each_tile(w, block, [&](int row, int col) {
                float c[SUMS][4] = {};
                if (apart)
                    take_back(c, w.room, w.rows, w.cols, row + group * GROUP_ROWS, col);
                for (int t = 0; t < w.count; t++)
                    add_stages<E5M2>(c, r, w.stages[t], f[t]);
                store(c, &w.c, row + group * GROUP_ROWS, col, r.out(group));
            });
            if (group == 0)
                take_turn();
            if (threadIdx.x % GROUP_THREADS == 0)
                store_wait();
        });
}

/* ---- the host's side ---- */

int ni_cuda_launch_joined_bytes(void *stream, const ni_cuda_joined *j, int multiprocessors) {
    joined_bytes w = {};
    bool good = map_tiles(&w.c, &j->c, GROUP_ROWS);
    for (int i = 0; i < j->count; i++) {
        const ni_cuda_joined_term *t = &j->terms[i];
        good = good && map_tiles(&w.a[i], &t->a, TILE_ROWS) && map_tiles(&w.b[i], &t->b, TILE_COLS / CLUSTER);
        w.scales[i][0] = t->alpha;
        w.scales[i][1] = t->second;
        w.stages[i] = (int32_t)ni_divide_up(t->a.cols, BYTES);
    }
    if (!good)
        return cudaErrorInvalidValue;
    w.found = j->found;
    w.room = j->room;
    w.rows = j->c.rows;
    w.cols = j->c.cols;
    w.count = j->count;
    w.tile_cols = (int32_t)ni_divide_up(j->c.cols, TILE_COLS);
    w.tiles = (int32_t)(ni_divide_up(j->c.rows, TILE_ROWS * CLUSTER) * w.tile_cols);
    return launch_ring((cudaStream_t)stream,
                       j->terms[0].a.dtype == NB_E5M2 ? joined_bytes_kernel<1> : joined_bytes_kernel<0>, w, w.tiles,
                       multiprocessors, true);
}
