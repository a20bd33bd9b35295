/* attention_backward.cu: delta = rowsum(dO * O); dK and dV by blocks of keys; dQ by blocks of queries.
 *
 * With P = exp(scale Q K^T - lse) and dS = P * (dO V^T - delta) (arXiv:2205.14135, appendix B.2):
 *     dV = P^T dO,   dK = scale dS^T Q,   dQ = scale dS K.
 * dkdv_kernel makes P^T and dS^T with a warp's keys as rows, dq_kernel P and dS with a warp's queries as rows: so in
 * both the scores leave one product in the registers where the next one wants them, and warps meet only to change
 * buffers. That costs seven products for the five of a kernel that adds dQ into memory; see attention.h for what it
 * buys. */
#include "attention_queries.cuh"
#include "attention_wgmma.cuh"

namespace {

/* ---- delta ---- */

constexpr int delta_threads = 256;

/* `head_dim` / 8 lanes, rounded up to a power of two, hold one row: 8 elements each, one 16-byte read. */
__global__ void __launch_bounds__(delta_threads) delta_kernel(const AttentionArgs a) {
    int lanes = a.head_dim <= 32 ? 4 : a.head_dim <= 64 ? 8 : a.head_dim <= 128 ? 16 : 32;
    int64_t row = (blockIdx.x * (int64_t)delta_threads + threadIdx.x) / lanes;
    int column = threadIdx.x % lanes * 8;
    int h = (int)(row % a.heads);
    int64_t position = row / a.heads; /* b*seq + t */
    bool live = position < (int64_t)a.batch * a.seq;
    float sum = 0;
    if (live && column < a.head_dim) {
        int64_t at = position * a.o_stride + (int64_t)h * a.head_dim + column;
        uint4 x = *(const uint4 *)(a.o + at), y = *(const uint4 *)(a.dout + at);
        const uint32_t xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sum = fmaf(low_bf16(xs[i]), low_bf16(ys[i]), sum);
            sum = fmaf(high_bf16(xs[i]), high_bf16(ys[i]), sum);
        }
    }
    for (int i = 1; i < lanes; i *= 2)
        sum += shuffle_xor(sum, i);
    if (live && column == 0)
        a.out_delta[(position / a.seq * a.heads + h) * a.seq + position % a.seq] = sum;
}

/* ---- dK and dV ---- */

template <class Core_, int UNITS, int BM_, int STAGES_, int PARTS, bool KVREG_, int BLOCKS> struct Keys {
    typedef Core_ Core;
    static constexpr int D = Core::D, BM = BM_, STAGES = STAGES_;
    static constexpr bool KVREG = KVREG_; /* K's and V's fragments stay in registers */
    static constexpr int parts = PARTS;   /* blocks that share the columns of dK and dV, where one cannot hold them */
    static constexpr int threads = 32 * Core::warps * UNITS, rows = Core::rows * UNITS, blocks = BLOCKS;
    static constexpr int stage_tiles = 2 * Core::bytes(BM), stage_rows = 2 * BM; /* Q, dO; lse, delta */
    static constexpr int shared = 2 * Core::bytes(rows) + STAGES * (stage_tiles + 4 * stage_rows);
};

/* s becomes P^T = exp(scale s - lse), rows of keys, columns of queries. */
template <int MT, int N>
__device__ __forceinline__ void probabilities_of_keys(float (&s)[MT][N / 8][4], const float *lse /* of column 2t */,
                                                      float scale_log2) {
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
        float2 l = *(const float2 *)(lse + n * 8);
        l.x *= ATTENTION_LOG2E;
        l.y *= ATTENTION_LOG2E;
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[m][n][i] = exp2_approx(fmaf(s[m][n][i], scale_log2, i % 2 ? -l.y : -l.x));
    }
}

/* Zero where the query does not see the key. */
template <int MT, int N>
__device__ __forceinline__ void hide_from_keys(float (&p)[MT][N / 8][4], int key /* of row g */,
                                               int query /* of column 2t */, const int (&end)[MT][2]) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int k = key + m * 16 + i / 2 * 8, q = query + n * 8 + i % 2;
                if (q < k || q >= end[m][i / 2])
                    p[m][n][i] = 0;
            }
}

/* ds = p (dp - delta), into dp. */
template <int MT, int N>
__device__ __forceinline__ void slopes_of_keys(float (&dp)[MT][N / 8][4], const float (&p)[MT][N / 8][4],
                                               const float *delta /* of column 2t */) {
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
        float2 d = *(const float2 *)(delta + n * 8);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                dp[m][n][i] = p[m][n][i] * (dp[m][n][i] - (i % 2 ? d.y : d.x));
    }
}

/* Tile of queries number `tile` of query head `head`: Q and dO, lse and delta. */
template <class T>
__device__ __forceinline__ void load_queries(bf16 *tiles, float *rows, const AttentionArgs &a, int b, int head,
                                             int tile) {
    typedef typename T::Core Core;
    const int first = tile * T::BM;
    load_tile<Core, T::BM, T::threads>(tiles, head_of(a.q, a.q_stride, a, b, head), a.q_stride, first, a);
    load_tile<Core, T::BM, T::threads>(tiles + Core::bytes(T::BM) / 2, head_of(a.dout, a.o_stride, a, b, head),
                                       a.o_stride, first, a);
    const int64_t row = ((int64_t)b * a.heads + head) * a.seq;
    for (int i = threadIdx.x; i < 2 * T::BM; i += T::threads) {
        int query = first + i % T::BM;
        bool valid = query < a.seq;
        copy_async4(rows + i, (i < T::BM ? a.lse : a.delta) + row + (valid ? query : 0), valid);
    }
}

template <class T> __global__ void __launch_bounds__(T::threads, T::blocks) dkdv_kernel(const AttentionArgs a) {
    typedef typename T::Core Core;
    constexpr int D = T::D, MT = Core::MT, BM = T::BM, STAGES = T::STAGES, columns = D / T::parts;
    bf16 *k_tile = (bf16 *)shared_memory(), *v_tile = k_tile + Core::bytes(T::rows) / 2,
         *tiles_of_stages = v_tile + Core::bytes(T::rows) / 2;
    float *rows_of_stages = (float *)(tiles_of_stages + STAGES * T::stage_tiles / 2);
    const int b = blockIdx.z, kv = blockIdx.y, group = a.heads / a.kv_heads;
    const int first_column = (int)blockIdx.x % T::parts * columns;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    /* The first keys are seen by most queries: they go first. */
    const int first = (int)blockIdx.x / T::parts * T::rows, last = min(first + T::rows, a.seq) - 1;
    const int unit_row = warp / Core::warps * Core::rows, warp_row = unit_row + warp % Core::warps * 16;
    const int own = first + unit_row, own_last = min(own + Core::rows, a.seq) - 1; /* this unit's keys */
    const bool idle = own >= a.seq;
    const int32_t *doc_end = a.doc_end + (int64_t)b * a.seq;
    const int earliest_end = idle ? 0 : doc_end[own], own_end = idle ? 0 : doc_end[own_last];
    int end[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            end[m][r] = doc_end[min(first + warp_row + m * 16 + lane / 4 + 8 * r, a.seq - 1)];

    /* Tiles of queries from the first key on, of one query head after the other. */
    const int begin = first / BM, tiles = (doc_end[last] - 1) / BM + 1 - begin, steps = tiles * group;
    int next_head = kv * group, next_tile = begin, loaded = 0;
    auto load = [&]() {
        if (loaded < steps) {
            int stage = loaded++ % STAGES;
            load_queries<T>(tiles_of_stages + stage * T::stage_tiles / 2, rows_of_stages + stage * T::stage_rows, a, b,
                            next_head, next_tile);
            if (++next_tile == begin + tiles) {
                next_tile = begin;
                next_head++;
            }
        }
        copy_commit();
    };

    load_tile<Core, T::rows, T::threads>(k_tile, head_of(a.k, a.k_stride, a, b, kv), a.k_stride, first, a);
    load_tile<Core, T::rows, T::threads>(v_tile, head_of(a.v, a.v_stride, a, b, kv), a.v_stride, first, a);
    load(); /* one group with K and V */
    for (int i = 1; i < STAGES - 1; i++)
        load();

    float dk[MT][columns / 8][4] = {}, dv[MT][columns / 8][4] = {};
    constexpr int held = T::KVREG ? D / 16 : 1;
    uint32_t k[T::KVREG ? MT : 1][held][4], v[T::KVREG ? MT : 1][held][4];
    int tile = begin;
    for (int step = 0; step < steps; step++) {
        if (STAGES == 1 && step > 0) {
            sync_block();
            load();
        }
        copy_wait<(STAGES > 2 ? STAGES - 2 : 0)>();
        Core::publish();
        sync_block();
        if (STAGES > 1)
            load(); /* over what everybody has left */
        if constexpr (T::KVREG)
            if (step == 0) {
                Core::template load_rows<T::rows>(k, k_tile, warp_row);
                Core::template load_rows<T::rows>(v, v_tile, warp_row);
            }
        const int query = tile * BM;
        tile = tile + 1 == begin + tiles ? begin : tile + 1;
        if (idle || query + BM <= own || query >= own_end)
            continue;
        const bf16 *q_tile = tiles_of_stages + step % STAGES * T::stage_tiles / 2,
                   *do_tile = q_tile + Core::bytes(BM) / 2;
        const float *lse = rows_of_stages + step % STAGES * T::stage_rows + lane % 4 * 2, *delta = lse + BM;
        float p[MT][BM / 8][4], ds[MT][BM / 8][4];
        if constexpr (T::KVREG) {
            Core::template multiply<BM>(p, k, q_tile);
            Core::template multiply<BM>(ds, v, do_tile);
        } else {
            Core::template multiply<BM, T::rows>(p, k_tile, unit_row, q_tile);
            Core::template multiply<BM, T::rows>(ds, v_tile, unit_row, do_tile);
        }
        Core::template wait<1>(p);
        probabilities_of_keys<MT, BM>(p, lse, a.scale_log2);
        if (query < own_last || query + BM > earliest_end)
            hide_from_keys<MT, BM>(p, first + warp_row + lane / 4, query + lane % 4 * 2, end);
        uint32_t packed_p[MT][BM / 16][4], packed_ds[MT][BM / 16][4];
        pack_rows<MT, BM>(packed_p, p);
        Core::template wait<0>(ds);
        Core::template accumulate<BM, columns>(dv, packed_p, do_tile, first_column);
        slopes_of_keys<MT, BM>(ds, p, delta);
        pack_rows<MT, BM>(packed_ds, ds);
        Core::template accumulate<BM, columns>(dk, packed_ds, q_tile, first_column);
        Core::template wait<0>(dk);
        Core::template wait<0>(dv);
    }

    float one[MT][2], scale[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            one[m][r] = 1;
            scale[m][r] = a.scale;
        }
    const uint32_t asked = ni_ask_for_warp(a.amax, a.turned_amax);
    sync_block(); /* nobody reads K and V any more */
    const uint32_t pairs = store_rows<Core, T::rows, columns>(
        head_of(a.dv, a.v_stride, a, b, kv), a.v_stride, first + warp_row, first_column, dv, one, v_tile, warp_row, a);
    join_amaxes<Core, T::rows, columns>(pairs, v_tile, warp_row, first + warp_row, first_column, a,
                                        ni_known_to_warp(asked));
    store_rows<Core, T::rows, columns>(head_of(a.dk, a.k_stride, a, b, kv), a.k_stride, first + warp_row, first_column,
                                       dk, scale, k_tile, warp_row, a);
}

/* ---- dQ ---- */

template <class Core_, int UNITS, int BN_, int STAGES_, bool QREG_, int BLOCKS> struct Queries {
    typedef Core_ Core;
    static constexpr int D = Core::D, BN = BN_, STAGES = STAGES_;
    static constexpr bool QREG = QREG_; /* Q's and dO's fragments stay in registers */
    static constexpr int threads = 32 * Core::warps * UNITS, rows = Core::rows * UNITS, blocks = BLOCKS;
    static constexpr int shared = 2 * Core::bytes(rows) + 2 * STAGES * Core::bytes(BN);
};

/* What a lane knows of its rows g and g+8 of each 16 queries. */
template <int MT> struct QueryRows {
    int start[MT][2];
    float lse_log2[MT][2], delta[MT][2];
};

template <int MT>
__device__ __forceinline__ void load_query_rows(QueryRows<MT> &rows, const AttentionArgs &a, int b, int h,
                                                int query /* of row g */) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int q = min(query + m * 16 + 8 * r, a.seq - 1);
            int64_t at = ((int64_t)b * a.heads + h) * a.seq + q;
            rows.start[m][r] = a.doc_start[(int64_t)b * a.seq + q];
            rows.lse_log2[m][r] = a.lse[at] * ATTENTION_LOG2E;
            rows.delta[m][r] = a.delta[at];
        }
}

/* s becomes P = exp(scale s - lse). */
template <int MT, int N>
__device__ __forceinline__ void probabilities_of_queries(float (&s)[MT][N / 8][4], const QueryRows<MT> &rows,
                                                         float scale_log2) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[m][n][i] = exp2_approx(fmaf(s[m][n][i], scale_log2, -rows.lse_log2[m][i / 2]));
}

template <class T> __global__ void __launch_bounds__(T::threads, T::blocks) dq_kernel(const AttentionArgs a) {
    typedef typename T::Core Core;
    constexpr int D = T::D, MT = Core::MT, BN = T::BN;
    bf16 *q_tile = (bf16 *)shared_memory(), *do_tile = q_tile + Core::bytes(T::rows) / 2;
    const QueryWalk<T> walk(a, do_tile + Core::bytes(T::rows) / 2);
    const int b = walk.b, h = walk.h, lane = walk.lane, warp_row = walk.warp_row, first = walk.first;
    load_tile<Core, T::rows, T::threads>(q_tile, head_of(a.q, a.q_stride, a, b, h), a.q_stride, first, a);
    load_tile<Core, T::rows, T::threads>(do_tile, head_of(a.dout, a.o_stride, a, b, h), a.o_stride, first, a);
    walk.start();
    QueryRows<MT> rows;
    load_query_rows<MT>(rows, a, b, h, walk.query());

    constexpr int held = T::QREG ? D / 16 : 1;
    uint32_t q[T::QREG ? MT : 1][held][4], dout[T::QREG ? MT : 1][held][4];
    float dq[MT][D / 8][4] = {};
    for (int n = walk.begin; n < walk.end; n++) {
        walk.arrive(n);
        if constexpr (T::QREG)
            if (n == walk.begin) {
                Core::template load_rows<T::rows>(q, q_tile, warp_row);
                Core::template load_rows<T::rows>(dout, do_tile, warp_row);
            }
        const int key = n * BN;
        if (walk.unseen(key))
            continue;
        const bf16 *k_tile = walk.k_tile(n), *v_tile = walk.v_tile(n);
        float p[MT][BN / 8][4], ds[MT][BN / 8][4];
        if constexpr (T::QREG) {
            Core::template multiply<BN>(p, q, k_tile);
            Core::template multiply<BN>(ds, dout, v_tile);
        } else {
            Core::template multiply<BN, T::rows>(p, q_tile, walk.unit_row, k_tile);
            Core::template multiply<BN, T::rows>(ds, do_tile, walk.unit_row, v_tile);
        }
        Core::template wait<1>(p);
        probabilities_of_queries<MT, BN>(p, rows, a.scale_log2);
        if (walk.partly_seen(key))
            hide_from_queries<MT, BN>(p, 0, walk.query(), key + lane % 4 * 2, rows.start);
        Core::template wait<0>(ds);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int j = 0; j < BN / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    ds[m][j][i] = p[m][j][i] * (ds[m][j][i] - rows.delta[m][i / 2]);
        uint32_t packed[MT][BN / 16][4];
        pack_rows<MT, BN>(packed, ds);
        Core::template accumulate<BN, D>(dq, packed, k_tile, 0);
        Core::template wait<0>(dq);
    }

    float scale[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
        scale[m][0] = scale[m][1] = a.scale;
    sync_block(); /* nobody reads Q any more */
    store_rows<Core, T::rows, D>(head_of(a.dq, a.q_stride, a, b, h), a.q_stride, first + warp_row, 0, dq, scale, q_tile,
                                 warp_row, a);
}

/* ---- tables ---- */

template <class T> constexpr AttentionTile keys_row(const char *name) {
    return {name, (const void *)dkdv_kernel<T>, T::D, T::Core::warps > 1, T::threads, T::rows, T::parts, T::shared};
}

template <class T> constexpr AttentionTile queries_row(const char *name) {
    return {name, (const void *)dq_kernel<T>, T::D, T::Core::warps > 1, T::threads, T::rows, 1, T::shared};
}

#define KEYS_MMA(D, WARPS, MT, BM, STAGES, PARTS, KVREG, BLOCKS)                                                       \
    keys_row<Keys<MmaCore<D, MT>, WARPS, BM, STAGES, PARTS, KVREG, BLOCKS>>(                                           \
        "mma d" #D " w" #WARPS " m" #MT " q" #BM " s" #STAGES " p" #PARTS " r" #KVREG " b" #BLOCKS)
#define KEYS_WGMMA(D, GROUPS, BM, STAGES, KVREG, BLOCKS)                                                               \
    keys_row<Keys<WgmmaCore<D>, GROUPS, BM, STAGES, 1, KVREG, BLOCKS>>("wgmma d" #D " g" #GROUPS " q" #BM " s" #STAGES \
                                                                       " r" #KVREG " b" #BLOCKS)

/* The first that fits the device is taken: warpgroups on 9.0, mma elsewhere; the fastest of those measured on an H200. */
const AttentionTile key_tiles[] = {
    KEYS_WGMMA(64, 1, 128, 2, 0, 2),     KEYS_WGMMA(128, 1, 64, 2, 0, 2),     KEYS_MMA(32, 4, 1, 64, 2, 1, 0, 1),
    KEYS_MMA(64, 4, 2, 32, 2, 1, 0, 2),  KEYS_MMA(96, 4, 1, 32, 2, 1, 0, 1),  KEYS_MMA(128, 8, 1, 64, 2, 1, 0, 1),
    KEYS_MMA(128, 4, 1, 32, 2, 1, 0, 2), KEYS_MMA(256, 4, 1, 16, 1, 2, 0, 1),
};

#define QUERIES_MMA(D, WARPS, MT, BN, STAGES, QREG, BLOCKS)                                                            \
    queries_row<Queries<MmaCore<D, MT>, WARPS, BN, STAGES, QREG, BLOCKS>>("mma d" #D " w" #WARPS " m" #MT " n" #BN     \
                                                                          " s" #STAGES " r" #QREG " b" #BLOCKS)
#define QUERIES_WGMMA(D, GROUPS, BN, STAGES, QREG, BLOCKS)                                                             \
    queries_row<Queries<WgmmaCore<D>, GROUPS, BN, STAGES, QREG, BLOCKS>>("wgmma d" #D " g" #GROUPS " n" #BN            \
                                                                         " s" #STAGES " r" #QREG " b" #BLOCKS)

const AttentionTile query_tiles[] = {
    QUERIES_WGMMA(64, 1, 64, 2, 0, 4),   QUERIES_WGMMA(128, 1, 64, 2, 0, 2),  QUERIES_MMA(32, 4, 1, 64, 2, 0, 1),
    QUERIES_MMA(64, 4, 1, 64, 2, 0, 3),  QUERIES_MMA(96, 4, 1, 32, 2, 0, 1),  QUERIES_MMA(128, 4, 1, 64, 2, 0, 2),
    QUERIES_MMA(128, 4, 1, 32, 2, 0, 2), QUERIES_MMA(256, 4, 1, 16, 1, 0, 1),
};

} // namespace

/* ---- launchers ---- */

int ni_cuda_launch_attention_delta(const ni_cuda_attention *a, float *delta, const void *dout, const void *o,
                                   void *stream) {
    if (!attention_shape_ok(a))
        return cudaErrorInvalidValue;
    if (!attention_aligned(dout) || !attention_aligned(o))
        return cudaErrorMisalignedAddress;
    AttentionArgs args = attention_args(a);
    if (!args.batch || !args.seq)
        return cudaSuccess;
    args.o = (const bf16 *)o;
    args.dout = (const bf16 *)dout;
    args.out_delta = delta;
    int lanes = a->head_dim <= 32 ? 4 : a->head_dim <= 64 ? 8 : a->head_dim <= 128 ? 16 : 32;
    int64_t blocks = (a->batch * a->seq * a->heads * lanes + delta_threads - 1) / delta_threads;
    if (blocks > INT32_MAX)
        return cudaErrorInvalidValue;
    void *pointers[] = {&args};
    return cudaLaunchKernel((const void *)delta_kernel, dim3((unsigned)blocks), dim3(delta_threads), pointers, 0,
                            (cudaStream_t)stream);
}

int ni_cuda_launch_attention_dkdv(const ni_cuda_attention *a, void *dk, void *dv, const void *dout, const float *lse,
                                  const float *delta, const void *q, const void *k, const void *v, void *stream) {
    if (!attention_shape_ok(a))
        return cudaErrorInvalidValue;
    if (!attention_aligned(dk) || !attention_aligned(dv) || !attention_aligned(dout) || !attention_aligned(q) ||
        !attention_aligned(k) || !attention_aligned(v))
        return cudaErrorMisalignedAddress;
    AttentionArgs args = attention_args(a);
    args.q = (const bf16 *)q;
    args.k = (const bf16 *)k;
    args.v = (const bf16 *)v;
    args.dout = (const bf16 *)dout;
    args.lse = lse;
    args.delta = delta;
    args.dk = (bf16 *)dk;
    args.dv = (bf16 *)dv;
    return attention_launch(attention_tile(key_tiles, a), args, args.kv_heads, stream);
}

int ni_cuda_launch_attention_dq(const ni_cuda_attention *a, void *dq, const void *dout, const float *lse,
                                const float *delta, const void *q, const void *k, const void *v, void *stream) {
    if (!attention_shape_ok(a))
        return cudaErrorInvalidValue;
    if (!attention_aligned(dq) || !attention_aligned(dout) || !attention_aligned(q) || !attention_aligned(k) ||
        !attention_aligned(v))
        return cudaErrorMisalignedAddress;
    AttentionArgs args = attention_args(a);
    args.q = (const bf16 *)q;
    args.k = (const bf16 *)k;
    args.v = (const bf16 *)v;
    args.dout = (const bf16 *)dout;
    args.lse = lse;
    args.delta = delta;
    args.dq = (bf16 *)dq;
    return attention_launch(attention_tile(query_tiles, a), args, args.heads, stream);
}

int ni_cuda_launch_attention_backward(const ni_cuda_attention *a, void *dq, void *dk, void *dv, const void *dout,
                                      const void *o, const float *lse, const void *q, const void *k, const void *v,
                                      float *delta, void *stream) {
    int e = ni_cuda_launch_attention_delta(a, delta, dout, o, stream);
    if (!e)
        e = ni_cuda_launch_attention_dkdv(a, dk, dv, dout, lse, delta, q, k, v, stream);
    return e ? e : ni_cuda_launch_attention_dq(a, dq, dout, lse, delta, q, k, v, stream);
}
