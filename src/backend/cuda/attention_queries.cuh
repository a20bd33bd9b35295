/* attention_queries.cuh: a block of threads that owns queries of one head and walks over the blocks of keys that they
 * see, as the forward kernel and dQ's do.
 *
 * T, a shape of either: Core, D, BN keys a block, STAGES buffers, rows of queries, threads. Only the blocks that some
 * query sees are loaded; a unit works only on those that one of its own queries sees, and compares positions only where
 * one of its queries does not see all. */
#ifndef NIBBLE_CUDA_ATTENTION_QUERIES_CUH
#define NIBBLE_CUDA_ATTENTION_QUERIES_CUH

#include "attention_tile.cuh"

template <class T> struct QueryWalk {
    typedef typename T::Core Core;
    static constexpr int BN = T::BN, STAGES = T::STAGES, size = Core::bytes(BN) / 2;

    const AttentionArgs &a;
    const int b, h, kv, warp, lane;
    const int first, last;               /* of the block's queries. The last see most keys: they go first. */
    const int unit_row, warp_row;        /* of this unit and this warp in the block */
    const int own, own_last;             /* this unit's queries */
    const bool idle;                     /* it has none */
    const int32_t *const doc_start;      /* of this sequence */
    const int own_start, latest_start;   /* the first keys that the first and the last of them see */
    const int begin, end;                /* blocks of keys */
    bf16 *const k_tiles, *const v_tiles; /* STAGES of each */
    const bf16 *const k_head, *const v_head;

    __device__ __forceinline__ QueryWalk(const AttentionArgs &args, bf16 *tiles)
        : a(args), b(blockIdx.z), h(blockIdx.y), kv(h / (a.heads / a.kv_heads)), warp(threadIdx.x / 32),
          lane(threadIdx.x % 32), first((gridDim.x - 1 - blockIdx.x) * T::rows), last(min(first + T::rows, a.seq) - 1),
          unit_row(warp / Core::warps * Core::rows), warp_row(unit_row + warp % Core::warps * 16),
          own(first + unit_row), own_last(min(own + Core::rows, a.seq) - 1), idle(own >= a.seq),
          doc_start(a.doc_start + (int64_t)b * a.seq), own_start(idle ? 0 : doc_start[own]),
          latest_start(idle ? 0 : doc_start[own_last]), begin(doc_start[first] / BN), end(last / BN + 1),
          k_tiles(tiles), v_tiles(tiles + STAGES * size), k_head(head_of(a.k, a.k_stride, a, b, kv)),
          v_head(head_of(a.v, a.v_stride, a, b, kv)) {
    }

    __device__ __forceinline__ int query() const { /* of this lane's row g */
        return first + warp_row + lane / 4;
    }

    __device__ __forceinline__ bf16 *k_tile(int n) const {
        return k_tiles + (n - begin) % STAGES * size;
    }

    __device__ __forceinline__ bf16 *v_tile(int n) const {
        return v_tiles + (n - begin) % STAGES * size;
    }

    __device__ __forceinline__ void load(int n) const {
        if (n < end) {
            load_tile<Core, BN, T::threads>(k_tile(n), k_head, a.k_stride, n * BN, a);
            load_tile<Core, BN, T::threads>(v_tile(n), v_head, a.v_stride, n * BN, a);
        }
        copy_commit();
    }

    /* The first blocks; one group with the queries, whose copies have started. */
    __device__ __forceinline__ void start() const {
        load(begin);
        for (int i = 1; i < STAGES - 1; i++)
            load(begin + i);
    }

    /* Until block n is there, and the next one on its way over what everybody has left. */
    __device__ __forceinline__ void arrive(int n) const {
        if (STAGES == 1 && n > begin) {
            sync_block();
            load(n);
        }
        copy_wait<(STAGES > 2 ? STAGES - 2 : 0)>();
        Core::publish();
        sync_block();
        if (STAGES > 1)
            load(n + STAGES - 1);
    }

    /* None of this unit's queries sees one of the keys from `key` on. */
    __device__ __forceinline__ bool unseen(int key) const {
        return idle || key > own_last || key + BN <= own_start;
    }

    /* One of them does not see all. */
    __device__ __forceinline__ bool partly_seen(int key) const {
        return key + BN - 1 > own || key < latest_start;
    }
};

/* `hidden` where a query does not see the key: past its own position or before its document. */
template <int MT, int N>
__device__ __forceinline__ void hide_from_queries(float (&s)[MT][N / 8][4], float hidden, int query /* of row g */,
                                                  int key /* of column 2t */, const int (&start)[MT][2]) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int q = query + m * 16 + i / 2 * 8, k = key + n * 8 + i % 2;
                if (k > q || k < start[m][i / 2])
                    s[m][n][i] = hidden;
            }
}
#endif
