/* attention_forward.cu: o and lse, one block of threads for each block of queries of a head.
 *
 * Keys come in blocks of BN through STAGES buffers of shared memory. For each block: S = Q K^T; m, the largest score so
 * far, and with it l, the sum of exp(s - m), and O, the sum of exp(s - m) v, are brought up to date (arXiv:2205.14135,
 * algorithm 1); at the end o = O / l and lse = m + log l. */
#include "attention_queries.cuh"
#include "attention_wgmma.cuh"

namespace {

template <class Core_, int UNITS, int BN_, int STAGES_, bool QREG_, int BLOCKS> struct Forward {
    typedef Core_ Core;
    static constexpr int D = Core::D, BN = BN_, STAGES = STAGES_;
    static constexpr bool QREG = QREG_; /* Q's fragments stay in registers */
    static constexpr int threads = 32 * Core::warps * UNITS, rows = Core::rows * UNITS;
    static constexpr int blocks = BLOCKS; /* on a multiprocessor, at least: caps the registers */
    static constexpr int shared = Core::bytes(rows) + 2 * STAGES * Core::bytes(BN);
};

/* The softmax of one warp's rows: largest score and sum of exponentials, for rows g and g+8 of each 16. */
template <int MT> struct Running { float largest[MT][2], sum[MT][2]; /* sum: of this lane's columns */ };

/* s becomes exp(scale * (s - largest)); what was summed under an older `largest` shrinks. */
template <int MT, int N, int D>
__device__ __forceinline__ void soften(float (&s)[MT][N / 8][4], float (&o)[MT][D / 8][4], Running<MT> &run,
                                       float scale_log2) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float largest = run.largest[m][r];
#pragma unroll
            for (int n = 0; n < N / 8; n++)
                largest = fmaxf(largest, fmaxf(s[m][n][2 * r], s[m][n][2 * r + 1]));
            largest = fmaxf(largest, shuffle_xor(largest, 1));
            largest = fmaxf(largest, shuffle_xor(largest, 2));
            /* A row that has seen no key yet keeps zeros: -INFINITY - -INFINITY would be a NaN. */
            float base = largest == -INFINITY ? 0.0f : largest * scale_log2;
            float shrink = exp2_approx(run.largest[m][r] * scale_log2 - base), sum = run.sum[m][r] * shrink;
            run.largest[m][r] = largest;
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int i = 2 * r; i < 2 * r + 2; i++) {
                    s[m][n][i] = exp2_approx(fmaf(s[m][n][i], scale_log2, -base));
                    sum += s[m][n][i];
                }
            run.sum[m][r] = sum;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                o[m][n][2 * r] *= shrink;
                o[m][n][2 * r + 1] *= shrink;
            }
        }
}

template <class T> __global__ void __launch_bounds__(T::threads, T::blocks) forward_kernel(const AttentionArgs a) {
    typedef typename T::Core Core;
    constexpr int D = T::D, MT = Core::MT, BN = T::BN;
    bf16 *q_tile = (bf16 *)shared_memory();
    const QueryWalk<T> walk(a, q_tile + Core::bytes(T::rows) / 2);
    const int b = walk.b, h = walk.h, lane = walk.lane, warp_row = walk.warp_row, first = walk.first;
    int start[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            start[m][r] = walk.doc_start[min(walk.query() + m * 16 + 8 * r, a.seq - 1)];
    load_tile<Core, T::rows, T::threads>(q_tile, head_of(a.q, a.q_stride, a, b, h), a.q_stride, first, a);
    walk.start();

    uint32_t q[T::QREG ? MT : 1][T::QREG ? D / 16 : 1][4];
    float o[MT][D / 8][4] = {};
    Running<MT> run;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            run.largest[m][r] = -INFINITY;
            run.sum[m][r] = 0;
        }

    for (int n = walk.begin; n < walk.end; n++) {
        walk.arrive(n);
        if constexpr (T::QREG)
            if (n == walk.begin)
                Core::template load_rows<T::rows>(q, q_tile, warp_row);
        const int key = n * BN;
        if (walk.unseen(key))
            continue;
        const bf16 *k_tile = walk.k_tile(n), *v_tile = walk.v_tile(n);
        float s[MT][BN / 8][4];
        if constexpr (T::QREG)
            Core::template multiply<BN>(s, q, k_tile);
        else
            Core::template multiply<BN, T::rows>(s, q_tile, walk.unit_row, k_tile);
        Core::template wait<0>(s);
        if (walk.partly_seen(key))
            hide_from_queries<MT, BN>(s, -INFINITY, walk.query(), key + lane % 4 * 2, start);
        soften<MT, BN, D>(s, o, run, a.scale_log2);
        uint32_t p[MT][BN / 16][4];
        pack_rows<MT, BN>(p, s);
        Core::template accumulate<BN, D>(o, p, v_tile, 0);
        Core::template wait<0>(o);
    }

    float factor[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = run.sum[m][r];
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            factor[m][r] = 1.0f / sum;
            int query = first + warp_row + m * 16 + lane / 4 + 8 * r;
            if (query < a.seq && lane % 4 == 0)
                a.out_lse[((int64_t)b * a.heads + h) * a.seq + query] = run.largest[m][r] * a.scale + logf(sum);
        }
    const uint32_t asked = ni_ask_for_warp(a.amax, a.turned_amax);
    sync_block(); /* nobody reads Q any more */
    const uint32_t pairs = store_rows<Core, T::rows, D>(head_of(a.out_o, a.o_stride, a, b, h), a.o_stride,
                                                        first + warp_row, 0, o, factor, q_tile, warp_row, a);
    join_amaxes<Core, T::rows, D>(pairs, q_tile, warp_row, first + warp_row, 0, a, ni_known_to_warp(asked));
}

template <class T> constexpr AttentionTile row(const char *name) {
    return {name, (const void *)forward_kernel<T>, T::D, T::Core::warps > 1, T::threads, T::rows, 1, T::shared};
}

#define MMA(D, WARPS, MT, BN, STAGES, QREG, BLOCKS)                                                                    \
    row<Forward<MmaCore<D, MT>, WARPS, BN, STAGES, QREG, BLOCKS>>("mma d" #D " w" #WARPS " m" #MT " n" #BN             \
                                                                  " s" #STAGES " q" #QREG " b" #BLOCKS)
#define WGMMA(D, GROUPS, BN, STAGES, QREG, BLOCKS)                                                                     \
    row<Forward<WgmmaCore<D>, GROUPS, BN, STAGES, QREG, BLOCKS>>("wgmma d" #D " g" #GROUPS " n" #BN " s" #STAGES       \
                                                                 " q" #QREG " b" #BLOCKS)

/* The first that fits the device is taken: warpgroups on 9.0, mma elsewhere; the fastest of those measured on an H200. */
const AttentionTile tiles[] = {
    WGMMA(64, 1, 128, 2, 1, 3), WGMMA(128, 2, 128, 2, 0, 1), MMA(32, 4, 1, 64, 2, 1, 1),  MMA(64, 4, 2, 64, 2, 1, 2),
    MMA(96, 4, 1, 64, 2, 0, 1), MMA(128, 4, 2, 32, 2, 0, 2), MMA(256, 4, 1, 32, 1, 0, 1),
};

} // namespace

const char *ni_cuda_attention_forward_tile(const ni_cuda_attention *a) {
    const AttentionTile *t = attention_tile(tiles, a);
    return t ? t->name : nullptr;
}

int ni_cuda_launch_attention_forward(const ni_cuda_attention *a, void *o, float *lse, const void *q, const void *k,
                                     const void *v, void *stream) {
    if (!attention_shape_ok(a))
        return cudaErrorInvalidValue;
    if (!attention_aligned(o) || !attention_aligned(q) || !attention_aligned(k) || !attention_aligned(v))
        return cudaErrorMisalignedAddress;
    AttentionArgs args = attention_args(a);
    args.q = (const bf16 *)q;
    args.k = (const bf16 *)k;
    args.v = (const bf16 *)v;
    args.out_o = (bf16 *)o;
    args.out_lse = lse;
    return attention_launch(attention_tile(tiles, a), args, args.heads, stream);
}
