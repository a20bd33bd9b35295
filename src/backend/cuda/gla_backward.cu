/* gla_backward.cu: gated linear attention backward, in chunks (symbols as in gla_forward.cu).
 *
 * With D = dL/dS after a chunk, D' before it, and dP_ts = scale do_t.v_s for s <= t of one document:
 *     D' = diag(exp(b_end)) D + sum_t (scale q_t exp(b_t)) do_t^T,
 *     dq_t = scale exp(b_t) (S do_t) + sum_{s <= t} dP_ts k_s exp(b_t - b_s),
 *     dk_s = exp(b_end - b_s) (D v_s) + sum_{t >= s} dP_ts q_t exp(b_t - b_s),
 *     dv_s = D^T (k_s exp(b_end - b_s)) + sum_{t >= s} P_ts do_t,
 *     dgate_t = rowsum(S' * D) + sum_{u >= t} (q_u dq_u - k_u dk_u) over the rest of the chunk.
 * The last sum stops at the end of t's document, and dgate is 0 where a document begins. A sum over the whole document
 * would do without S' * D, but errors of BF16 operands would pile up along it; so each chunk starts from its own.
 * 1. `pairs` and the reversed `scan_values` of gla_forward.cu: decayed queries and keys, P; dv.
 * 2. `scan_keys`, a block for each head and tile of key rows, which needs no sums across blocks for S do_t and D v_t:
 *    forward it leaves S do_t and each chunk's S as it is multiplied (BF16), reversed D v_t and rowsum(S' * D). The first
 *    reads nothing of dv's scan and runs beside it (follow.cuh): both wait for memory, and few blocks fit a small batch.
 *    Where the GPU has warpgroups, gla_keys.cu does it for common shapes.
 * 3. `find_d_pairs`, a block for each chunk: dP, beside the reversed scan of keys.
 * 4. `finish` of gla_finish.cu, a block for each chunk: what dP adds to the rest; dq, dk, dgate.
 *
 * Rounded to BF16: what the forward rounds, D where it is multiplied, S' in rowsum(S' * D), and between sub-blocks dP
 * and the decayed operands. In a sub-block of 16 all is FP32.
 *
 * Floor at batch 16, seq 2048, heads 4, key 128, value 256: 470 MB, 0.16 ms at 2.9 TB/s; 70 GFLOP, 0.11 ms on tensor
 * cores. With its scratch the plan moves 1.75 GB, 0.6 ms: 218 in `pairs`, 218 for dv, 369 for each scan of keys, 168 in
 * `find_d_pairs`, 436 in `finish`.
 */
#include "gla_chunk.cuh"
#include "gla_scan.h"
#include "turned.cuh"

/* ---- scan over chunks, by key rows ---- */

/* A block carries 16 * groups rows and all columns, each warp 16 * sixteens rows and `width` columns of them. What a warp
 * loads of do and v it multiplies with all of its rows: two sixteens ask shared memory for less, but leave more sums. */
template <int width, int splits, int groups> struct key_tile {
    enum { keys = 16 * groups, values = width * splits, key_pitch = keys + 8, value_pitch = values + 8 };
    bf16 read[CHUNK * value_pitch];  /* what the state is multiplied with: do, or reversed v */
    bf16 write[CHUNK * value_pitch]; /* what changes it, with `keys`: v, or reversed do */
    bf16 key[CHUNK * key_pitch];     /* decayed keys, or reversed queries */
    float decay[keys];
};

/* What its warps leave for each other. */
template <int splits, int groups> struct key_sums {
    enum { keys = 16 * groups };
    float sums[splits][CHUNK * keys];
    float crossing[splits][keys];
    /* Where a sum is, in such an order that four neighbouring positions of eight keys lie in different banks. */
    static __device__ __forceinline__ int at(int t, int key) {
        return t * keys + (key ^ (groups == 1 ? t / 2 % 2 : t % 4) * 8);
    }
};

template <int width, int splits, int groups> struct key_room {
    key_tile<width, splits, groups> tile;
    key_sums<splits, groups> left;
};

/* Sixteen rows of S or D of a warp: rows 16 group + g, + 8; columns width split + 8 n + pair, + 1 of lane 4 g + pair / 2. */
template <int width> struct key_state { float s[width / 8][4]; };

/* Column tiles 2 k and 2 k + 1 of a state, rounded: the second operand of `read`, both rows of eight. */
template <int width> static __device__ __forceinline__ uint4 round_state(const key_state<width> &state, int k) {
    const float(&low)[4] = state.s[2 * k], (&high)[4] = state.s[2 * k + 1];
    return make_uint4(pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                      pack_bf16(high[2], high[3]));
}

/* Of two rows of D (columns as above): sums with S' as it was stored. */
template <int width>
static __device__ __forceinline__ void add_crossing(float (&crossing)[2], const key_state<width> &state, int k,
                                                    uint4 after) {
    const float(&low)[4] = state.s[2 * k], (&high)[4] = state.s[2 * k + 1];
    crossing[0] += low_bf16(after.x) * low[0] + high_bf16(after.x) * low[1] + low_bf16(after.z) * high[0] +
                   high_bf16(after.z) * high[1];
    crossing[1] += low_bf16(after.y) * low[2] + high_bf16(after.y) * low[3] + low_bf16(after.w) * high[2] +
                   high_bf16(after.w) * high[3];
}

/* Leaves read S^T of this warp's columns. `states` is this thread's place in a chunk's states, where S goes forward (NULL:
 * it is zero); reversed S' is in `after`. */
template <int width, int splits, int groups, int sixteens, bool reverse>
static __device__ __forceinline__ void
read_rows(key_sums<splits, groups> *left, const key_tile<width, splits, groups> *c,
          const key_state<width> (&state)[sixteens], uint4 *states, const uint4 (&after)[sixteens][width / 16]) {
    enum { across = groups / sixteens, threads = 32 * across * splits };
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = warp % across * sixteens * 16;
    const int split = warp / across;
    float sum[CHUNK / 16][sixteens][2][4] = {}; /* positions 16 m + g, + 8; keys first + 16 r + 8 n + pair, + 1 */
    float crossing[sixteens][2] = {};
#pragma unroll
    for (int k = 0; k < width / 16; k++) {
        uint4 s[sixteens];
#pragma unroll
        for (int r = 0; r < sixteens; r++) {
            s[r] = round_state(state[r], k);
            if (!reverse && states)
                states[(r * (width / 16) + k) * threads] = s[r];
            if (reverse)
                add_crossing(crossing[r], state[r], k, after[r][k]);
        }
#pragma unroll
        for (int m = 0; m < CHUNK / 16; m++) {
            uint32_t x[4];
            load_a(x, c->read, c->value_pitch, 16 * m, split * width + 16 * k);
#pragma unroll
            for (int r = 0; r < sixteens; r++) {
                mma(sum[m][r][0], x, s[r].x, s[r].z);
                mma(sum[m][r][1], x, s[r].y, s[r].w);
            }
        }
    }
#pragma unroll
    for (int m = 0; m < CHUNK / 16; m++)
#pragma unroll
        for (int r = 0; r < sixteens; r++)
#pragma unroll
            for (int part = 0; part < 4; part++) {
                const int t = 16 * m + lane / 4 + part / 2 * 8, key = first + 16 * r + part % 2 * 8 + lane % 4 * 2;
                const float *two = &sum[m][r][part % 2][part / 2 * 2];
                *(float2 *)(left->sums[split] + left->at(t, key)) = make_float2(two[0], two[1]);
            }
#pragma unroll
    for (int i = 0; i < 2 * sixteens && reverse; i++) {
        float &all = crossing[i / 2][i % 2];
        all += shuffle_xor(all, 1);
        all += shuffle_xor(all, 2);
        if (lane % 4 == 0)
            left->crossing[split][first + lane / 4 + 8 * i] = all;
    }
}

/* Adds up what the warps left, in their order: to inter [CHUNK, keys], and reversed to crossing [keys]. */
template <int splits, int groups, int threads>
static __device__ __forceinline__ void store_rows(const key_sums<splits, groups> *left, float *inter, int pitch,
                                                  float *crossing) {
    enum { keys = 16 * groups };
#pragma unroll
    for (int u = threadIdx.x; u < CHUNK * keys / 4; u += threads) {
        const int t = u / (keys / 4), column = u % (keys / 4) * 4;
        float4 all = *(const float4 *)(left->sums[0] + left->at(t, column));
#pragma unroll
        for (int part = 1; part < splits; part++) {
            const float4 more = *(const float4 *)(left->sums[part] + left->at(t, column));
            all = make_float4(all.x + more.x, all.y + more.y, all.z + more.z, all.w + more.w);
        }
        *(float4 *)(inter + t * pitch + column) = all;
    }
    if (crossing && threadIdx.x < keys) {
        float all = 0;
        for (int part = 0; part < splits; part++)
            all += left->crossing[part][threadIdx.x];
        crossing[threadIdx.x] = all;
    }
}

/* S = diag(decay) S + key^T write, of this warp's rows and columns */
template <int width, int splits, int groups, int sixteens>
static __device__ __forceinline__ void write_rows(key_state<width> (&state)[sixteens],
                                                  const key_tile<width, splits, groups> *c) {
    enum { across = groups / sixteens };
    const int warp = threadIdx.x / 32, row = warp % across * sixteens * 16, column = warp / across * width;
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int r = 0; r < sixteens; r++) {
        const float decay[2] = {c->decay[row + 16 * r + g], c->decay[row + 16 * r + g + 8]};
#pragma unroll
        for (int n = 0; n < width / 8; n++)
#pragma unroll
            for (int part = 0; part < 4; part++)
                state[r].s[n][part] *= decay[part / 2];
    }
#pragma unroll
    for (int k = 0; k < CHUNK / 16; k++) {
        uint32_t x[sixteens][4];
#pragma unroll
        for (int r = 0; r < sixteens; r++)
            load_a_columns(x[r], c->key, c->key_pitch, row + 16 * r, 16 * k);
#pragma unroll
        for (int n = 0; n < width / 16; n++) {
            uint32_t b[4];
            load_b(b, c->write, c->value_pitch, 16 * k, column + 16 * n);
#pragma unroll
            for (int r = 0; r < sixteens; r++) {
                mma(state[r].s[2 * n], x[r], b[0], b[1]);
                mma(state[r].s[2 * n + 1], x[r], b[2], b[3]);
            }
        }
    }
}

template <int width, int splits, int groups, int sixteens, bool reverse>
static __global__ void __launch_bounds__(32 * groups / sixteens * splits, groups / sixteens * splits <= 4 ? 2 : 1)
    scan_keys(const gla_args a) {
    typedef key_tile<width, splits, groups> tile;
    enum { threads = 32 * groups / sixteens * splits, keys = tile::keys, values = tile::values };
    key_room<width, splits, groups> *room = (key_room<width, splits, groups> *)shared_memory();
    tile *c = &room->tile;
    const int first = blockIdx.x * keys, batch = blockIdx.y / a.heads, head = blockIdx.y % a.heads;
    const int64_t pitch = (int64_t)a.heads * a.value_dim;
    const int64_t head_row = (int64_t)batch * a.seq * pitch + (int64_t)head * a.value_dim;
    const bf16 *read = (reverse ? a.v : a.d_o) + head_row, *write = (reverse ? a.d_o : a.v) + head_row;
    const bf16 *key = (reverse ? a.queries : a.keys) + first;
    float *inter = (reverse ? a.inter_k : a.inter_q) + first;

    auto chunk_of = [&](int i) { return reverse ? a.chunks - 1 - i : i; };
    auto record = [&](int i) { return (int64_t)blockIdx.y * a.chunks + chunk_of(i); };
    auto load_reads = [&](int i) {
        if (i < a.chunks)
            copy_tile<values, threads>(c->read, tile::value_pitch, read + chunk_of(i) * CHUNK * pitch, pitch,
                                       a.seq - chunk_of(i) * CHUNK, a.value_dim);
    };
    auto load_writes = [&](int i) {
        if (i >= a.chunks)
            return;
        copy_tile<values, threads>(c->write, tile::value_pitch, write + chunk_of(i) * CHUNK * pitch, pitch,
                                   a.seq - chunk_of(i) * CHUNK, a.value_dim);
        copy_tile<keys, threads>(c->key, tile::key_pitch, key + record(i) * CHUNK * a.key_pad, a.key_pad, CHUNK, keys);
        for (int u = threadIdx.x; u < keys / 4; u += threads)
            copy_async16(c->decay + 4 * u, a.decay + record(i) * a.key_pad + first + 4 * u, true);
    };

    key_state<width> state[sixteens] = {};
    if (reverse)
        ni_let_follow();
    load_reads(0);
    copy_commit();
    load_writes(0);
    copy_commit();
    for (int i = 0; i < a.chunks; i++) {
        const int64_t stored = record(reverse ? i - 1 : i) * gridDim.x + blockIdx.x; /* S, or reversed S' */
        uint4 *states = i > 0 ? a.states + stored * (sixteens * width / 16 * threads) + threadIdx.x : NULL;
        uint4 after[sixteens][width / 16];
#pragma unroll
        for (int k = 0; k < sixteens * width / 16 && reverse; k++)
            after[k / (width / 16)][k % (width / 16)] = states ? states[k * threads] : make_uint4(0, 0, 0, 0);
        copy_wait<1>();
        __syncthreads();
        read_rows<width, splits, groups, sixteens, reverse>(&room->left, c, state, states, after);
        __syncthreads();
        load_reads(i + 1);
        copy_commit();
        store_rows<splits, groups, threads>(&room->left, inter + record(i) * CHUNK * a.key_pad, a.key_pad,
                                            reverse ? a.crossing + record(i) * a.key_pad + first : NULL);
        copy_wait<1>();
        __syncthreads();
        write_rows(state, c);
        __syncthreads();
        load_writes(i + 1);
        copy_commit();
    }
    if (!reverse)
        ni_wait_for_it(); /* dv's scan: who comes next waits for this one alone */
}

template <int width, int splits, int groups, int sixteens>
static cudaError_t scan_both(const ni_cuda_gla *g, const gla_args &a, void *stream) {
    const dim3 grid((unsigned)(a.key_pad / (16 * groups)), (unsigned)(g->batch * g->heads));
    const int threads = 32 * groups / sixteens * splits;
    const size_t bytes = sizeof(key_room<width, splits, groups>);
    const auto forward = scan_keys<width, splits, groups, sixteens, false>;
    cudaError_t error = allow_shared(forward, bytes);
    if (!error)
        error = (cudaError_t)ni_launch_following((cudaStream_t)stream, forward, grid, (unsigned)threads, bytes, a);
    return error ? error : launch(scan_keys<width, splits, groups, sixteens, true>, grid, threads, bytes, stream, a);
}

template <int width, int splits> static cudaError_t scan_rows(const ni_cuda_gla *g, const gla_args &a, void *stream) {
    const bool two = a.key_pad > 16 && sizeof(key_room<width, splits, 2>) <= gla_shared_limit();
    return two ? scan_both<width, splits, 2, 1>(g, a, stream) : scan_both<width, splits, 1, 1>(g, a, stream);
}

static cudaError_t launch_scan_keys(const ni_cuda_gla *g, const gla_args &a, void *stream) {
    if (gla_can_ring_keys(g))
        return gla_launch_ring_keys(g, a, stream);
    if (g->value_dim <= 32)
        return scan_rows<32, 1>(g, a, stream);
    if (g->value_dim <= 64)
        return scan_rows<64, 1>(g, a, stream);
    if (g->value_dim <= 128)
        return scan_rows<128, 1>(g, a, stream);
    if (g->value_dim <= 256)
        return a.key_pad > 16 && sizeof(key_room<64, 4, 2>) <= gla_shared_limit() ? scan_both<64, 4, 2, 2>(g, a, stream)
                                                                                  : scan_rows<128, 2>(g, a, stream);
    return scan_rows<128, 4>(g, a, stream);
}

/* ---- dP ---- */

typedef struct d_pair_tile {
    bf16 d_o[2][CHUNK][PITCH], v[2][CHUNK][PITCH];
} d_pair_tile;

/* A block for each chunk: warp w takes sub-block w / 2 of rows and half w % 2 of the columns. */
static __global__ void __launch_bounds__(PAIR_THREADS) find_d_pairs(const gla_args a) {
    d_pair_tile *c = (d_pair_tile *)shared_memory();
    const int begin = blockIdx.x * CHUNK, batch = blockIdx.y / a.heads, head = blockIdx.y % a.heads;
    const int64_t record = (int64_t)blockIdx.y * a.chunks + blockIdx.x, pitch = (int64_t)a.heads * a.value_dim;
    const int64_t head_row = ((int64_t)batch * a.seq + begin) * pitch + (int64_t)head * a.value_dim;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = warp / 2, half = warp % 2;
    auto load = [&](int column) {
        const int at = column / CHANNELS % 2;
        copy_tile<CHANNELS, PAIR_THREADS>(&c->d_o[at][0][0], PITCH, a.d_o + head_row + column, pitch, a.seq - begin,
                                          a.value_dim - column);
        copy_tile<CHANNELS, PAIR_THREADS>(&c->v[at][0][0], PITCH, a.v + head_row + column, pitch, a.seq - begin,
                                          a.value_dim - column);
        copy_commit();
    };
    float p[4][4] = {{0}};
    ni_let_follow(); /* `finish`, which waits for this kernel, and so for the scan before it */
    load(0);
    for (int column = 0; column < a.value_dim; column += CHANNELS) {
        if (column + CHANNELS < a.value_dim) {
            load(column + CHANNELS);
            copy_wait<1>();
        } else {
            copy_wait<0>();
        }
        __syncthreads();
        const int at = column / CHANNELS % 2;
#pragma unroll
        for (int k = 0; k < CHANNELS / 16; k++) {
            uint32_t x[4];
            load_a(x, &c->d_o[at][0][0], PITCH, 16 * row, 16 * k);
#pragma unroll
            for (int n = 0; n < 2; n++) {
                if (2 * half + n > row)
                    continue;
                uint32_t b[4];
                load_b_columns(b, &c->v[at][0][0], PITCH, 16 * k, 32 * half + 16 * n);
                mma(p[2 * n], x, b[0], b[1]);
                mma(p[2 * n + 1], x, b[2], b[3]);
            }
        }
        __syncthreads();
    }
    float *const out = a.d_pairs + record * CHUNK * CHUNK + 32 * half + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int part = 0; part < 4; part += 2)
            *(float2 *)(out + (16 * row + lane / 4 + part / 2 * 8) * CHUNK + 8 * n) =
                make_float2(a.scale * p[n][part], a.scale * p[n][part + 1]);
    if (blockIdx.x == gridDim.x - 1 && blockIdx.y == gridDim.y - 1)
        ni_wait_for_it(); /* the reversed scan: who comes next waits for this kernel alone */
}

int ni_cuda_launch_gla_backward(const ni_cuda_gla *g, void *dq, void *dk, void *dv, void *dgate, const void *d_o,
                                const void *q, const void *k, const void *v, const void *gate, void *workspace,
                                void *stream) {
    gla_args a;
    size_t bytes;
    if (!gla_arguments(g, &a, workspace, true, &bytes))
        return cudaErrorInvalidValue;
    if (!g->batch || !g->seq)
        return cudaSuccess;
    a.q = (const bf16 *)q;
    a.k = (const bf16 *)k;
    a.v = (const bf16 *)v;
    a.d_o = (const bf16 *)d_o;
    a.gate = (const float *)gate;
    a.dq = (bf16 *)dq;
    a.dk = (bf16 *)dk;
    a.dv = (bf16 *)dv;
    a.dgate = (float *)dgate;
    for (int i = 0; i < 3; i++) {
        a.amax[i] = g->amax[i];
        a.turned[i] = g->seq % 16 == 0 ? g->turned_amax[i] : NULL;
    }
    cudaError_t error = g->left ? cudaSuccess : gla_launch_pairs(g, a, stream);
    if (!error)
        error = gla_launch_scan_values(g, a, true, stream);
    if (!error)
        error = launch_scan_keys(g, a, stream);
    const dim3 grid((unsigned)a.chunks, (unsigned)(g->batch * g->heads));
    if (!error)
        error = allow_shared(find_d_pairs, sizeof(d_pair_tile));
    if (!error)
        error = (cudaError_t)ni_launch_following((cudaStream_t)stream, find_d_pairs, grid, PAIR_THREADS,
                                                 sizeof(d_pair_tile), a);
    return error ? error : gla_launch_finish(g, a, stream);
}
