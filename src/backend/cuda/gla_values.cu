/* gla_values.cu: the scan of gla_forward.cu over chunks, by value columns, for warpgroups: o, or reversed dv.
 *
 * A warpgroup carries S^T of 64 value columns and 128 keys in the sums of its products. Rounded and in registers, S^T is
 * the first operand of S^T read^T; everything else is read out of shared memory, once by all four warps, where mma's
 * fragments are loaded by each. The state is changed while what was read of it is stored.
 *
 * Floor of a chunk of two warpgroups: 1300 cycles of tensor cores, 72 KB in and out of the second level of the cache.
 */
#include "gla_ring.cuh"
#include "gla_scan.h"
#include "turned.cuh"

enum { KEYS = 128, STAGES = 3 };

/* What a block of so many warpgroups has in shared memory: stages, and o on its way out. */
template <int groups> struct values_room {
    enum {
        READ = 0,
        WRITE = READ + KEYS / 64 * PANEL,
        PAIRS = WRITE + KEYS / 64 * PANEL,
        VALUE = PAIRS + PANEL,
        DECAY = VALUE + groups * PANEL,
        BYTES = DECAY + 1024,
        COPIED = DECAY + KEYS * 4,
        OUT = STAGES * BYTES + 1024,
        SHARED = 1024 + OUT + groups * PANEL,
        VALUES = groups * GROUP_LANES,
        THREADS = groups * GROUP + 32,
    };
    typedef chunk_ring<BYTES, STAGES> ring;
    static_assert((int)ring::room <= (int)OUT, "what is stored lies behind the ring");
};

typedef struct values_work {
    CUtensorMap read, write, pairs, value, out; /* by chunks, but the last two by positions */
    const float *decay;
    uint32_t *amax, *turned; /* of dv; NULL: nobody asks */
    int chunks, heads, value_dim;
} values_work;

/* What a block goes through, in this order. */
typedef struct values_way {
    int64_t record; /* of the first chunk of the head */
    int row, column, chunks;
    bool reverse;
    __device__ __forceinline__ int chunk(int i) const {
        return reverse ? chunks - 1 - i : i;
    }
} values_way;

template <int groups>
static __device__ __forceinline__ void copy_values(const values_work &w, const values_way &way,
                                                   typename values_room<groups>::ring r) {
    typedef values_room<groups> room;
    for (int i = 0; i < way.chunks; i++, r.advance()) {
        const int64_t record = way.record + way.chunk(i);
        const int at = (int)record * CHUNK;
        r.expect(room::COPIED);
#pragma unroll
        for (int p = 0; p < KEYS / 64; p++)
            load_tile(r.here() + room::READ + p * PANEL, &w.read, 64 * p, at, r.full());
        load_tile(r.here() + room::PAIRS, &w.pairs, 0, at, r.full());
#pragma unroll
        for (int p = 0; p < groups; p++)
            load_tile(r.here() + room::VALUE + p * PANEL, &w.value, way.column + 64 * p, way.row + way.chunk(i) * CHUNK,
                      r.full());
#pragma unroll
        for (int p = 0; p < KEYS / 64; p++)
            load_tile(r.here() + room::WRITE + p * PANEL, &w.write, 64 * p, at, r.full());
        load_bytes(r.here() + room::DECAY, w.decay + record * KEYS, KEYS * 4, r.full());
    }
}

/* S^T of this warpgroup, and o^T of its chunk: value columns 16 warp + g, + 8; keys, or positions, 8 n + pair, + 1 of lane
 * 4 g + pair / 2. */
typedef struct values_sums {
    float state[KEYS / 8][4], out[CHUNK / 8][4];
} values_sums;

/* o^T = S^T read^T + value^T P^T, or reversed P; then S^T = S^T diag(decay) + value^T write, still under way at the end. */
template <int groups, bool reverse>
static __device__ __forceinline__ void multiply_chunk(values_sums &c, uint32_t stage, int group) {
    typedef values_room<groups> room;
    const uint32_t value = stage + room::VALUE + group * PANEL;
    uint32_t s[KEYS / 16][4];
    const float *decay = shared_at<float>(stage + room::DECAY) + threadIdx.x % 4 * 2;
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++)
        round_sixteen(s[k], c.state[2 * k], c.state[2 * k + 1]);
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
        const float2 by = *(const float2 *)(decay + 8 * n);
#pragma unroll
        for (int i = 0; i < 4; i++)
            c.state[n][i] *= i % 2 ? by.y : by.x;
    }
    wgmma_hold(s);
    wgmma_hold(c.state);
    wgmma_fence(c.out);
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++)
        wgmma_registers<CHUNK, 0>(c.out, s[k], wgmma_operand(stage + room::READ + k / 4 * PANEL + k % 4 * 32, 0),
                                  k > 0);
#pragma unroll
    for (int k = 0; k < CHUNK / 16; k++)
        wgmma_shared<CHUNK, reverse, 1>(c.out, wgmma_operand(value + k * STEP, PANEL),
                                        wgmma_operand(stage + room::PAIRS + k * (reverse ? STEP : 32), PANEL), true);
    wgmma_commit();
#pragma unroll
    for (int k = 0; k < CHUNK / 16; k++)
        wgmma_shared<KEYS, 1, 1>(c.state, wgmma_operand(value + k * STEP, PANEL),
                                 wgmma_operand(stage + room::WRITE + k * STEP, PANEL), true);
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_hold(c.out);
}

/* Leaves o [positions, 64 value columns] in `out`, and returns the larger magnitudes of it, in pairs. */
static __device__ __forceinline__ uint32_t turn_over(const values_sums &c, uint32_t out) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, piece = 2 * warp + lane / 8 % 2;
    const uint32_t line = out + (lane / 16 * 8 + lane % 8) * 128 + (piece ^ lane % 8) * 16;
    uint32_t pairs = 0;
#pragma unroll
    for (int n = 0; n < CHUNK / 8; n += 2) {
        uint32_t word[4];
        round_sixteen(word, c.out[n], c.out[n + 1]);
        store_matrix_trans(line + n * 8 * 128, word[0], word[1], word[2], word[3]);
#pragma unroll
        for (int i = 0; i < 4; i++)
            pairs = ni_larger_pair(pairs, word[i]);
    }
    return pairs;
}

/* ---- the largest number of turned columns, out of what turn_over has left of a warp's sixteen ---- */

/* Where the sixteen bytes from this column on of a position are. */
static __device__ __forceinline__ const bf16 *left_at(uint32_t out, int position, int column) {
    return shared_at<bf16>(out + position * 128 + ((column / 8 ^ position) & 7) * 16);
}

/* All positions a multiple of 16 of 16 columns. */
static __device__ __noinline__ uint32_t turn_columns(uint32_t out) {
    const int first = threadIdx.x % 32 / 8 * 16, column = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 8 * 2;
    uint32_t words[16];
#pragma unroll
    for (int i = 0; i < 16; i++)
        words[i] = *(const uint32_t *)(left_at(out, first + i, column) + column % 8);
    return ni_warp_max(ni_turned_amax(words));
}

/* The larger of `largest` and of that number. */
static __device__ __forceinline__ uint32_t larger_turned(uint32_t largest, const ni_turning &by, uint32_t out) {
    const int lane = threadIdx.x % 32, column = threadIdx.x / 32 % 4 * 16 + lane / 16 * 8;
    uint32_t most = 0;
#pragma unroll
    for (int m = 0; m < CHUNK; m += 16)
        most = ni_most_of_sixteen(most, by, left_at(out, m + lane % 16, column));
    return ni_may_exceed(most, largest) ? max(largest, turn_columns(out)) : largest;
}

/* ---- the kernel ---- */

template <int groups, bool reverse>
static __device__ __forceinline__ void multiply_values(const values_work &w, const values_way &way,
                                                       typename values_room<groups>::ring r) {
    const int group = threadIdx.x / GROUP;
    const bool first = threadIdx.x % GROUP == 0;
    const uint32_t out = r.memory + values_room<groups>::OUT + group * PANEL;
    const ni_turning by = ni_turning_of_rows();
    values_sums c;
    uint32_t pairs = 0, largest_turned = 0;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            c.state[n][i] = 0;
    for (int i = 0; i < way.chunks; i++, r.advance()) {
        r.wait();
        multiply_chunk<groups, reverse>(c, r.here(), group);
        if (first)
            store_wait_read();
        sync_warpgroup(1 + group);
        pairs = ni_larger_pair(pairs, turn_over(c, out));
        fence_async_proxy();
        sync_warpgroup(1 + group);
        if (first) {
            store_tile(&w.out, way.column + group * 64, way.row + way.chunk(i) * CHUNK, out);
            store_commit();
        }
        if (reverse && w.turned)
            largest_turned = larger_turned(largest_turned, by, out);
        wgmma_wait<0>();
        wgmma_hold(c.state);
        r.release();
    }
    if (reverse && w.amax)
        ni_join_amax(w.amax, ni_larger_half(pairs));
    if (reverse && w.turned)
        ni_join_amax(w.turned, largest_turned);
    if (first)
        store_wait();
}

template <int groups, bool reverse>
static __global__ void __launch_bounds__(values_room<groups>::THREADS, 1)
    scan_values_ring(const __grid_constant__ values_work w) {
    const int batch = blockIdx.y / w.heads, head = blockIdx.y % w.heads;
    const values_way way = {(int64_t)blockIdx.y * w.chunks, batch * w.chunks * CHUNK,
                            head * w.value_dim + (int)blockIdx.x * values_room<groups>::VALUES, w.chunks, reverse};
    typename values_room<groups>::ring r;
    r.begin(first_stage(), groups);
    if (reverse)
        ni_let_follow();
    else
        ni_wait_for_it(); /* `pairs` */
    if (threadIdx.x < groups * GROUP)
        multiply_values<groups, reverse>(w, way, r);
    else if (threadIdx.x == groups * GROUP)
        copy_values<groups>(w, way, r);
}

/* ---- the host's side ---- */

/* Forward all multiprocessors have a block at batch 8 and four heads; reversed half of them, beside the scan of keys. */
enum { FORWARD_GROUPS = 1, REVERSE_GROUPS = 2 };

bool gla_can_ring_values(const ni_cuda_gla *g) {
    return g->rings && g->key_dim == KEYS && g->value_dim % values_room<2>::VALUES == 0 && g->seq % CHUNK == 0 &&
           g->batch * g->seq * g->heads < INT32_MAX && tile_encoder();
}

template <int groups, bool reverse>
static cudaError_t launch_values(const ni_cuda_gla *g, const values_work &w, void *stream) {
    typedef values_room<groups> room;
    const dim3 grid((unsigned)(g->value_dim / room::VALUES), (unsigned)(g->batch * g->heads));
    const auto kernel = scan_values_ring<groups, reverse>;
    if (reverse)
        return launch(kernel, grid, room::THREADS, room::SHARED, stream, w);
    const cudaError_t error = allow_shared(kernel, room::SHARED);
    return error ? error
                 : (cudaError_t)ni_launch_following((cudaStream_t)stream, kernel, grid, room::THREADS, room::SHARED, w);
}

cudaError_t gla_launch_ring_values(const ni_cuda_gla *g, const gla_args &a, bool reverse, void *stream) {
    const int64_t rows = g->batch * g->seq, records = g->batch * g->heads * a.chunks, columns = g->heads * g->value_dim;
    values_work w = {};
    if (!map_chunks(&w.read, reverse ? a.keys : a.queries, records * CHUNK, KEYS) ||
        !map_chunks(&w.write, reverse ? a.queries : a.keys, records * CHUNK, KEYS) ||
        !map_chunks(&w.pairs, a.pairs, records * CHUNK, CHUNK) ||
        !map_chunks(&w.value, reverse ? a.d_o : a.v, rows, columns) ||
        !map_chunks(&w.out, reverse ? a.dv : a.o, rows, columns))
        return cudaErrorInvalidValue;
    w.decay = a.decay;
    w.amax = a.amax[2];
    w.turned = a.turned[2];
    w.chunks = a.chunks;
    w.heads = a.heads;
    w.value_dim = (int)g->value_dim;
    return reverse ? launch_values<REVERSE_GROUPS, true>(g, w, stream)
                   : launch_values<FORWARD_GROUPS, false>(g, w, stream);
}
