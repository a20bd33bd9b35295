/* parted.cu: products side by side, the tiles of all of them dealt out to clusters (ring.cuh).
 *
 * Rounds of whole tiles come first, one a cluster. Of the tiles that are left, fewer than there are clusters, each has an
 * owner, which begins the contraction, and the other clusters multiply what is left of it, so that all are at work:
 *
 *     owners      |-- head of tile 0 --|    |-- head of tile 1 --|    ...
 *     others      |- end of tile 0 -|- end of tile 1 -| ...           or one of several parts of one tile
 *
 * So those that work at one time read the same rows of X and dY, which come from memory once. The others leave their sums
 * in memory (`parts`) and say so (`flags`); the owner adds them to its own in the order of the contraction and stores the
 * tile. That order is a function of the sizes and of the number of multiprocessors. Owners wait for clusters that were
 * started before them.
 *
 * A tile of a cluster is 256 x 256 of C. What is left of C beside those, if it is at most half as wide, goes in tall ones
 * of 512 x 128, which take as long: then it is X whose columns both blocks read, and dY of which each has rows of its own,
 * and sums are those of C^T.
 */
#include "backend/cuda/parted.h"

#include "backend/cuda/ring.cuh"

enum {
    MOST = NI_CUDA_PARTED_MOST,
    LEAST_STAGES = 8,      /* of a part */
    ADDING_STAGES = 2,     /* as long as it takes to leave a part and to add it */
    MOST_PARTS = 5,        /* of a tile */
    MOST_DEEP_PARTS = 7,   /* for half as much memory again, 100 MB on 132 multiprocessors */
    TALL_ROWS = TILE_COLS, /* of a block */
    TALL_COLS = TILE_ROWS,
    SLOTS = CLUSTER * GROUPS,
    SLOT_FLOATS = SUMS * 4 * GROUP_THREADS
};

typedef struct parted_work {
    CUtensorMap a[MOST], b[MOST];
    float *c[MOST];
    const float *alpha[MOST];
    int64_t stride[MOST];
    int32_t rows[MOST], cols[MOST];
    int32_t first_tile[MOST]; /* tiles of C, of a cluster each: first those of 256 x 256, */
    int32_t across[MOST];     /* so many beside each other */
    float *parts;
    uint32_t *flags;
    uint32_t add; /* a bit each */
    int32_t count, stages;
    int32_t whole, left; /* tiles */
    int32_t parts_of;    /* a tile that is left */
    int32_t head;        /* stages of its first part; the others are equal */
    int32_t each;        /* further parts that one of the other clusters multiplies */
} parted_work;
static_assert(sizeof(parted_work) <= 4096, "a kernel's arguments");

/* ---- who multiplies what ---- */

/* Stages [first, first + count) of a tile. */
typedef struct part {
    int product;
    bool tall;
    int row, col, first, count;
    int slot; /* where its sums are left, or those of the tile's next part; NO_SLOT: it is the whole tile */
} part;
enum { NO_SLOT = -1 };

static __device__ __forceinline__ int clusters(void) {
    return (int)gridDim.x / CLUSTER;
}

static __host__ __device__ __forceinline__ int tile_rows_of(int64_t rows) {
    return (int)((rows + CLUSTER * TILE_ROWS - 1) / (CLUSTER * TILE_ROWS));
}

static __device__ __forceinline__ int begin_of(const parted_work &w, int i) {
    return i == 0 ? 0 : w.head + (w.stages - w.head) * (i - 1) / max(w.parts_of - 1, 1);
}

static __device__ __forceinline__ part part_of(const parted_work &w, uint32_t block, int t, int first, int end,
                                               int slot) {
    int p = 0;
    while (p + 1 < w.count && t >= w.first_tile[p + 1])
        p++;
    const int tile = t - w.first_tile[p], across = w.across[p], wide = across * tile_rows_of(w.rows[p]);
    const bool tall = tile >= wide;
    return {p,
            tall,
            tall ? ((tile - wide) * CLUSTER + (int)block) * TALL_ROWS
                 : (tile / across * CLUSTER + (int)block) * TILE_ROWS,
            (tall ? across : tile % across) * TILE_COLS,
            first,
            end - first,
            slot};
}

/* Slot i is that of part 1 + i / left of tile i % left. */
template <typename F> static __device__ __forceinline__ void each_part(const parted_work &w, uint32_t block, F f) {
    const int own = (int)blockIdx.x / CLUSTER, others = clusters() - w.left, slots = (w.parts_of - 1) * w.left;
    for (int t = own; t < w.whole; t += clusters())
        f(part_of(w, block, t, 0, w.stages, NO_SLOT));
    if (own >= others)
        f(part_of(w, block, w.whole + own - others, 0, begin_of(w, 1), own - others));
    else
        for (int i = own * w.each; i < min((own + 1) * w.each, slots); i++)
            f(part_of(w, block, w.whole + i % w.left, begin_of(w, 1 + i / w.left), begin_of(w, 2 + i / w.left), i));
}

/* ---- parts that wait in memory, each warpgroup's by themselves ---- */

static __device__ __forceinline__ int own_of(int slot, uint32_t block) {
    return slot * SLOTS + (int)block * GROUPS + (int)threadIdx.x / GROUP_THREADS;
}

static __device__ __forceinline__ float4 *numbers_of(const parted_work &w, int slot) {
    return (float4 *)(w.parts + (int64_t)slot * SLOT_FLOATS) + threadIdx.x % GROUP_THREADS;
}

static __device__ __forceinline__ void leave(float (&c)[SUMS][4], const parted_work &w, int slot) {
    float4 *const to = numbers_of(w, slot);
#pragma unroll
    for (int i = 0; i < SUMS; i++)
        __stcg(to + i * GROUP_THREADS, make_float4(c[i][0], c[i][1], c[i][2], c[i][3]));
    __threadfence();
    sync_warpgroup(1 + threadIdx.x / GROUP_THREADS);
    if (threadIdx.x % GROUP_THREADS == 0)
        asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(w.flags + slot) : "memory");
}

static __device__ __forceinline__ void add_left(float (&c)[SUMS][4], const parted_work &w, int slot) {
    if (threadIdx.x % GROUP_THREADS == 0) {
        uint32_t there;
        do
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(there) : "l"(w.flags + slot) : "memory");
        while (!there);
        w.flags[slot] = 0; /* for the next launch */
    }
    sync_warpgroup(1 + threadIdx.x / GROUP_THREADS);
    const float4 *const from = numbers_of(w, slot);
#pragma unroll
    for (int i = 0; i < SUMS; i++) {
        const float4 x = __ldcg(from + i * GROUP_THREADS);
        c[i][0] += x.x;
        c[i][1] += x.y;
        c[i][2] += x.z;
        c[i][3] += x.w;
    }
}

/* ---- C ---- */

/* Pairs of neighbours: a lane's four have 32 bytes of a row. */
static __device__ __forceinline__ void store_pairs(float (&c)[SUMS][4], const parted_work &w, const part &p, int row,
                                                   float alpha, bool add) {
    each_pair(c, row, p.col, [&](float *sum, int r, int n) {
        if (r < w.rows[p.product] && n < w.cols[p.product]) {
            float2 *to = (float2 *)(w.c[p.product] + r * w.stride[p.product] + n);
            const float2 before = add ? *to : make_float2(0, 0);
            *to = make_float2(fmaf(alpha, sum[0], before.x), fmaf(alpha, sum[1], before.y));
        }
    });
}

/* Sums of a tall tile lie as C^T: eight rows of them are 32 bytes of a row of C. */
static __device__ __forceinline__ void store_turned(float (&c)[SUMS][4], const parted_work &w, const part &p, int row,
                                                    float alpha, bool add) {
    each_pair(c, row, p.row, [&](float *sum, int n, int r) {
        for (int k = 0; k < 2; k++)
            if (r + k < w.rows[p.product] && n < w.cols[p.product]) {
                float *const to = w.c[p.product] + (r + k) * w.stride[p.product] + n;
                *to = fmaf(alpha, sum[k], add ? *to : 0.0f);
            }
    });
}

static __device__ __forceinline__ void store(float (&c)[SUMS][4], const parted_work &w, const part &p) {
    const int own = (int)threadIdx.x / GROUP_THREADS * GROUP_ROWS;
    const float alpha = w.alpha[p.product] ? *w.alpha[p.product] : 1.0f;
    const bool add = w.add >> p.product & 1;
    if (p.tall)
        store_turned(c, w, p, p.col + own, alpha, add);
    else
        store_pairs(c, w, p, p.row + own, alpha, add);
}

/* ---- the kernel ---- */

static __device__ __forceinline__ void multiply_part(const parted_work &w, ring &r, const part &p, uint32_t block) {
    float c[SUMS][4];
    bool add = false;
    int held = NO_STAGE;
    multiply_stages<1, 1>(c, r, p.count, held, add);
    finish_stages(c);
    release(r, (uint32_t)held);
    if (p.first > 0) {
        leave(c, w, own_of(p.slot, block));
        return;
    }
    for (int i = 1; i < w.parts_of && p.slot != NO_SLOT; i++)
        add_left(c, w, own_of(p.slot + (i - 1) * w.left, block));
    store(c, w, p);
}

/* Columns of X where A is, a panel from each block; rows of dY where B is. */
static __device__ __forceinline__ void copy_tall_stages(ring &r, const CUtensorMap *x, const CUtensorMap *dy,
                                                        const part &p, uint32_t block) {
    for (int s = p.first; s < p.first + p.count; s++, r.advance()) {
        barrier_wait(r.free(r.at), r.parity ^ 1);
        barrier_expect(r.full(), STAGE_BYTES);
        load_tile(r.a() + block * PANEL_BYTES, x, p.col + (int)block * 64, s * DEPTH, r.full(),
                  (uint16_t)((1 << CLUSTER) - 1));
#pragma unroll
        for (int i = 0; i < TALL_ROWS / 64; i++)
            load_tile(r.b() + i * PANEL_BYTES, dy, p.row + i * 64, s * DEPTH, r.full());
    }
}

static __device__ __forceinline__ void copy_part(const parted_work &w, ring &r, const part &p, uint32_t block) {
    const CUtensorMap *const dy = &w.a[p.product], *const x = &w.b[p.product];
    if (p.tall)
        copy_tall_stages(r, x, dy, p, block);
    else
        copy_stages<1, 1>(r, dy, x, p.first, p.count, p.row, p.col, block);
}

static __global__ void __launch_bounds__(THREADS, 1) parted_kernel(const __grid_constant__ parted_work w) {
    ring r = ring_begin();
    const uint32_t block = block_of_cluster();
    ring_run([&] { each_part(w, block, [&](const part &p) { copy_part(w, r, p, block); }); },
             [&] { each_part(w, block, [&](const part &p) { multiply_part(w, r, p, block); }); });
}

/* ---- the host's side ---- */

/* Of 256 columns, beside each other, and the tall ones, below each other. */
static int32_t across_of(const ni_cuda_parted_product *p, int64_t *tall) {
    const int64_t rest = p->cols % TILE_COLS, high = ni_divide_up(p->c.rows, CLUSTER * TALL_ROWS);
    const bool has_tall = rest > 0 && rest <= TALL_COLS && high < tile_rows_of(p->c.rows);
    *tall = has_tall ? high : 0;
    return (int32_t)(has_tall ? p->cols / TILE_COLS : ni_divide_up(p->cols, TILE_COLS));
}

static int64_t tiles_of(const ni_cuda_parted_product *p) {
    int64_t tall;
    const int64_t across = across_of(p, &tall);
    return across * tile_rows_of(p->c.rows) + tall;
}

static bool can_store(const ni_cuda_parted_product *p) {
    const nb_mat *const c = &p->c;
    return c->dtype == NB_F32 && (uintptr_t)c->data % 8 == 0 && c->stride % 2 == 0 && p->cols % 2 == 0 && c->rows > 0 &&
           c->rows < INT32_MAX;
}

static int most_parts_of(const ni_cuda_parted *j) {
    return j->deep ? MOST_DEEP_PARTS : MOST_PARTS;
}

bool ni_cuda_can_part(const ni_cuda_parted *j, int multiprocessors) {
    int64_t tiles = 0;
    bool can = j->count > 0 && j->count <= MOST;
    for (int i = 0; i < j->count && can; i++) {
        const ni_cuda_parted_product *p = &j->at[i];
        can = can_map(&p->a) && can_map(&p->b) && can_store(p) && p->a.rows == j->at[0].a.rows;
        tiles += tiles_of(p);
    }
    const int64_t clusters = multiprocessors / CLUSTER, most = most_parts_of(j);
    return can && tiles < INT32_MAX && most * tiles > clusters && clusters > 1 &&
           clusters * (most - 1) * SLOTS <= NI_CUDA_PARTED_FLAGS && tile_encoder();
}

/* How tiles that fill no round are parted: into a head and `m` equal parts, of which each of the other clusters takes so
 * many that it is done when the owners are. */
static void deal(parted_work *w, int tiles, int clusters, int most) {
    w->left = tiles % clusters;
    w->whole = tiles - w->left;
    w->parts_of = 1;
    w->head = w->stages;
    int least = w->stages;
    for (int m = 1; m < most && w->left; m++) {
        const int each = (int)ni_divide_up((int64_t)m * w->left, clusters - w->left);
        const int head = (int)((int64_t)w->stages * each / (each + m));
        if (head < LEAST_STAGES || (w->stages - head) / m < LEAST_STAGES || head + m * ADDING_STAGES >= least)
            continue;
        least = head + m * ADDING_STAGES;
        w->parts_of = m + 1;
        w->each = each;
        w->head = head;
    }
}

size_t ni_cuda_parted_bytes(const ni_cuda_parted *j, int multiprocessors) {
    int64_t tiles = 0;
    for (int i = 0; i < j->count; i++)
        tiles += tiles_of(&j->at[i]);
    return (size_t)(tiles % (multiprocessors / CLUSTER)) * (most_parts_of(j) - 1) * SLOTS * SLOT_FLOATS * sizeof(float);
}

int ni_cuda_launch_parted(void *stream, const ni_cuda_parted *j, int multiprocessors) {
    const int clusters = multiprocessors / CLUSTER;
    parted_work w = {};
    bool good = true;
    int64_t tiles = 0, tall;
    for (int i = 0; i < j->count; i++) {
        const ni_cuda_parted_product *p = &j->at[i];
        good = good && map_operands(&w.a[i], &w.b[i], &p->a, true, &p->b, true);
        w.c[i] = (float *)p->c.data;
        w.alpha[i] = p->alpha;
        w.stride[i] = p->c.stride;
        w.rows[i] = (int32_t)p->c.rows;
        w.cols[i] = (int32_t)p->cols;
        w.across[i] = across_of(p, &tall);
        w.add |= (uint32_t)p->add << i;
        w.first_tile[i] = (int32_t)tiles;
        tiles += tiles_of(p);
    }
    if (!good)
        return cudaErrorInvalidValue;
    w.parts = j->parts;
    w.flags = j->flags;
    w.count = j->count;
    w.stages = (int32_t)ni_divide_up(j->at[0].a.rows, DEPTH);
    deal(&w, (int)tiles, clusters, most_parts_of(j));
    return launch_ring((cudaStream_t)stream, parted_kernel, w, clusters, multiprocessors);
}
