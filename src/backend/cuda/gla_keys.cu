/* gla_keys.cu: the scans of gla_backward.cu over chunks, by key rows, for warpgroups: S do_t and each chunk's S, or
 * reversed D v_t and rowsum(S' * D).
 *
 * A block carries S of 64 keys and all values, each of two warpgroups half of the values in the sums of its products.
 * Rounded and in registers it is the first operand of S read^T, of which each adds up its half of the positions, in the
 * order of the values. Everything else is read out of shared memory, once by all four warps of a warpgroup.
 *
 * Floor of a chunk: 1000 cycles of tensor cores, 120 KB in and out of the second level of the cache.
 */
#include "gla_ring.cuh"
#include "gla_scan.h"

enum {
    VALUES = 256,
    GROUPS = 2,
    STAGES = 2,
    WIDTH = VALUES / GROUPS, /* of a warpgroup */
    WIDTH_PANELS = WIDTH / 64,
    KEYS = GROUP_LANES,
    /* A stage. */
    READ = 0,
    WRITE = READ + VALUES / 64 * PANEL,
    KEY = WRITE + VALUES / 64 * PANEL,
    DECAY = KEY + PANEL,
    BYTES = DECAY + 1024,
    COPIED = DECAY + KEYS * 4,
    THREADS = GROUPS * GROUP + 32,
    FOURS = CHUNK / 8 / GROUPS, /* of sums that a thread gives the other warpgroup */
};
typedef chunk_ring<BYTES, STAGES> keys_ring;

/* What the warpgroups leave for each other, by turns in two places. */
typedef struct keys_left {
    float4 sums[2][GROUPS][FOURS][GROUP];
    float crossing[2][GROUPS][KEYS];
} keys_left;
enum { LEFT = STAGES * BYTES + 1024, SHARED = 1024 + LEFT + (int)sizeof(keys_left) };
static_assert((int)keys_ring::room <= (int)LEFT, "what is left lies behind the ring");

typedef struct keys_work {
    CUtensorMap read, write,
        key; /* do and v, or reversed v and do, by positions; decayed keys, or queries, by chunks */
    const float *decay;
    float *inter, *crossing;
    uint4 *states;
    int chunks, heads, value_dim, key_dim;
} keys_work;

/* What a block goes through, in this order. */
typedef struct keys_way {
    int64_t record; /* of the first chunk of the head */
    int row, column, first, chunks;
    bool reverse;
    __device__ __forceinline__ int chunk(int i) const {
        return reverse ? chunks - 1 - i : i;
    }
} keys_way;

static __device__ __forceinline__ void copy_keys(const keys_work &w, const keys_way &way, keys_ring r) {
    for (int i = 0; i < way.chunks; i++, r.advance()) {
        const int64_t record = way.record + way.chunk(i);
        const int at = way.row + way.chunk(i) * CHUNK;
        r.expect(COPIED);
#pragma unroll
        for (int p = 0; p < VALUES / 64; p++)
            load_tile(r.here() + READ + p * PANEL, &w.read, way.column + 64 * p, at, r.full());
        load_tile(r.here() + KEY, &w.key, way.first, (int)record * CHUNK, r.full());
        load_bytes(r.here() + DECAY, w.decay + record * w.key_dim + way.first, KEYS * 4, r.full());
#pragma unroll
        for (int p = 0; p < VALUES / 64; p++)
            load_tile(r.here() + WRITE + p * PANEL, &w.write, way.column + 64 * p, at, r.full());
    }
}

/* S of this warpgroup, and its part of S read^T: keys 16 warp + g, + 8; values, or positions, 8 n + pair, + 1 of lane 4 g +
 * pair / 2. */
typedef struct keys_sums {
    float state[WIDTH / 8][4], part[CHUNK / 8][4];
} keys_sums;

/* This thread's place among the states of a chunk: its first sixteen values; the next are a block's threads further. */
static __device__ __forceinline__ uint4 *states_of(const keys_work &w, int64_t record) {
    return w.states + (record * gridDim.x + blockIdx.x) * (WIDTH / 16 * GROUPS * GROUP) + threadIdx.x;
}

/* part = S read^T; then S = diag(decay) S + key^T write, still under way at the end. The S that is multiplied goes to
 * `states` (NULL: nowhere). */
static __device__ __forceinline__ void multiply_chunk(keys_sums &c, uint32_t stage, int group, uint4 *states) {
    uint32_t s[WIDTH / 16][4];
    const int row = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
    const float *decay = shared_at<float>(stage + DECAY) + row;
    const float by[2] = {decay[0], decay[8]};
    const uint32_t half = group * WIDTH_PANELS * PANEL;
#pragma unroll
    for (int k = 0; k < WIDTH / 16; k++) {
        round_sixteen(s[k], c.state[2 * k], c.state[2 * k + 1]);
        if (states)
            states[k * GROUPS * GROUP] = make_uint4(s[k][0], s[k][1], s[k][2], s[k][3]);
    }
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            c.state[n][i] *= by[i / 2];
    wgmma_hold(s);
    wgmma_hold(c.state);
    wgmma_fence(c.part);
#pragma unroll
    for (int k = 0; k < WIDTH / 16; k++)
        wgmma_registers<CHUNK, 0>(c.part, s[k], wgmma_operand(stage + READ + half + k / 4 * PANEL + k % 4 * 32, 0),
                                  k > 0);
    wgmma_commit();
#pragma unroll
    for (int k = 0; k < CHUNK / 16; k++)
        wgmma_shared<WIDTH, 1, 1>(c.state, wgmma_operand(stage + KEY + k * STEP, PANEL),
                                  wgmma_operand(stage + WRITE + half + k * STEP, PANEL), true);
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_hold(c.part);
}

/* Of two rows of D: sums with S' as it was stored. */
static __device__ __forceinline__ void add_crossing(float (&crossing)[2], const keys_sums &c, int k, uint4 after) {
    const float(&low)[4] = c.state[2 * k], (&high)[4] = c.state[2 * k + 1];
    crossing[0] += low_bf16(after.x) * low[0] + high_bf16(after.x) * low[1] + low_bf16(after.z) * high[0] +
                   high_bf16(after.z) * high[1];
    crossing[1] += low_bf16(after.y) * low[2] + high_bf16(after.y) * low[3] + low_bf16(after.w) * high[2] +
                   high_bf16(after.w) * high[3];
}

/* Leaves half of the positions for the other warpgroup. */
static __device__ __forceinline__ void exchange(const keys_sums &c, keys_left *left, int turn, int group) {
    const int own = threadIdx.x % GROUP;
#pragma unroll
    for (int n = 0; n < FOURS; n++) {
        const float(&low)[4] = c.part[n], (&high)[4] = c.part[FOURS + n];
        left->sums[turn][group][n][own] =
            group ? make_float4(low[0], low[1], low[2], low[3]) : make_float4(high[0], high[1], high[2], high[3]);
    }
    sync_threads(1, GROUPS * GROUP);
}

/* To inter, its half of the positions and what the other has left of it. */
static __device__ __forceinline__ void store_half(const keys_sums &c, const keys_left *left, int turn, int group,
                                                  float *inter, int pitch) {
    const int own = threadIdx.x % GROUP, lane = own % 32, row = own / 32 * 16 + lane / 4;
    float *const to = inter + (int64_t)(group * FOURS * 8 + lane % 4 * 2) * pitch + row;
#pragma unroll
    for (int n = 0; n < FOURS; n++) {
        const float4 x = left->sums[turn][1 - group][n][own];
        const float other[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int i = 0; i < 4; i++)
            to[(8 * n + i % 2) * pitch + i / 2 * 8] = (group ? c.part[FOURS + n][i] : c.part[n][i]) + other[i];
    }
}

template <bool reverse>
static __device__ __forceinline__ void multiply_keys(const keys_work &w, const keys_way &way, keys_ring r) {
    const int group = threadIdx.x / GROUP, lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane / 4;
    keys_left *const left = shared_at<keys_left>(r.memory + LEFT);
    keys_sums c;
    uint4 after[reverse ? WIDTH / 16 : 1];
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            c.state[n][i] = 0;
    for (int i = 0; i < way.chunks; i++, r.advance()) {
        const int64_t record = way.record + way.chunk(i);
        float crossing[2] = {0, 0};
        r.wait();
        if (reverse && i > 0) {
#pragma unroll
            for (int k = 0; k < WIDTH / 16; k++)
                add_crossing(crossing, c, k, after[k]);
        }
        multiply_chunk(c, r.here(), group, !reverse && i > 0 ? states_of(w, record) : NULL);
        if (reverse) { /* S before this chunk is S' of the next one here */
            const uint4 *states = way.chunk(i) > 0 ? states_of(w, record) : NULL;
#pragma unroll
            for (int k = 0; k < WIDTH / 16; k++)
                after[k] = states ? states[k * GROUPS * GROUP] : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                crossing[h] += shuffle_xor(crossing[h], 1);
                crossing[h] += shuffle_xor(crossing[h], 2);
                if (lane % 4 == 0)
                    left->crossing[i % 2][group][row + 8 * h] = crossing[h];
            }
        }
        exchange(c, left, i % 2, group);
        store_half(c, left, i % 2, group, w.inter + record * CHUNK * w.key_dim + way.first, w.key_dim);
        if (reverse && threadIdx.x < KEYS)
            w.crossing[record * w.key_dim + way.first + threadIdx.x] =
                left->crossing[i % 2][0][threadIdx.x] + left->crossing[i % 2][1][threadIdx.x];
        wgmma_wait<0>();
        wgmma_hold(c.state);
        r.release();
    }
}

template <bool reverse>
static __global__ void __launch_bounds__(THREADS, 1) scan_keys_ring(const __grid_constant__ keys_work w) {
    const int batch = blockIdx.y / w.heads, head = blockIdx.y % w.heads;
    const keys_way way = {(int64_t)blockIdx.y * w.chunks,
                          batch * w.chunks * CHUNK,
                          head * w.value_dim,
                          (int)blockIdx.x * KEYS,
                          w.chunks,
                          reverse};
    keys_ring r;
    r.begin(first_stage(), GROUPS);
    if (reverse)
        ni_let_follow();
    if (threadIdx.x < GROUPS * GROUP)
        multiply_keys<reverse>(w, way, r);
    else if (threadIdx.x == GROUPS * GROUP)
        copy_keys(w, way, r);
    if (!reverse)
        ni_wait_for_it(); /* dv's scan: who comes next waits for this one alone */
}

/* ---- the host's side ---- */

bool gla_can_ring_keys(const ni_cuda_gla *g) {
    return g->rings && g->value_dim == VALUES && (g->key_dim == 64 || g->key_dim == 128 || g->key_dim == 256) &&
           g->seq % CHUNK == 0 && g->batch * g->seq * g->heads < INT32_MAX && tile_encoder();
}

static bool map_keys(keys_work *w, const ni_cuda_gla *g, const gla_args &a, bool reverse) {
    const int64_t rows = g->batch * g->seq, records = g->batch * g->heads * a.chunks, columns = g->heads * g->value_dim;
    w->decay = a.decay;
    w->inter = reverse ? a.inter_k : a.inter_q;
    w->crossing = a.crossing;
    w->states = a.states;
    w->chunks = a.chunks;
    w->heads = a.heads;
    w->value_dim = a.value_dim;
    w->key_dim = a.key_dim;
    return map_chunks(&w->read, reverse ? a.v : a.d_o, rows, columns) &&
           map_chunks(&w->write, reverse ? a.d_o : a.v, rows, columns) &&
           map_chunks(&w->key, reverse ? a.queries : a.keys, records * CHUNK, g->key_dim);
}

cudaError_t gla_launch_ring_keys(const ni_cuda_gla *g, const gla_args &a, void *stream) {
    const dim3 grid((unsigned)(g->key_dim / KEYS), (unsigned)(g->batch * g->heads));
    keys_work forward = {}, reversed = {};
    if (!map_keys(&forward, g, a, false) || !map_keys(&reversed, g, a, true))
        return cudaErrorInvalidValue;
    cudaError_t error = allow_shared(scan_keys_ring<false>, SHARED);
    if (!error)
        error = (cudaError_t)ni_launch_following((cudaStream_t)stream, scan_keys_ring<false>, grid, THREADS, SHARED,
                                                 forward);
    return error ? error : launch(scan_keys_ring<true>, grid, THREADS, SHARED, stream, reversed);
}
