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
 * 4. `finish`, a block for each chunk: what dP adds to the rest; dq, dk, dgate. Exponentials go through first and last
 *    positions of sub-blocks, and inside of one, in FP32, through its first where gates are not steep and no document
 *    begins; else each pair has its own.
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

/* ---- finish ---- */

/* The smaller; NaN where one is NaN. */
static __device__ __forceinline__ float min_or_nan(float x, float y) {
    float least;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(least) : "f"(x), "f"(y));
    return least;
}

typedef struct finish_tile {
    float d_pairs[CHUNK][PITCH];
    bf16 rounded[CHUNK][PITCH]; /* dP */
    chunk_tile chunk;
    float q[CHUNK][PITCH], k[CHUNK][PITCH]; /* S do_t and D v_t, then dq and dk but for pairs in a sub-block */
} finish_tile;

static __device__ __forceinline__ void load_d_pairs(finish_tile *c, const gla_args &a, int64_t record) {
#pragma unroll
    for (int u = threadIdx.x; u < CHUNK * CHUNK / 4; u += PAIR_THREADS)
        copy_async16(&c->d_pairs[u / (CHUNK / 4)][u % (CHUNK / 4) * 4], a.d_pairs + record * CHUNK * CHUNK + 4 * u,
                     true);
    copy_commit();
}

/* Drops dP above the diagonal and between documents, and rounds it. */
static __device__ __forceinline__ void mask_d_pairs(finish_tile *c) {
    enum { across = CHUNK / 4 };
    const int s = threadIdx.x % across * 4;
    const int4 doc = *(const int4 *)&c->chunk.doc[s];
#pragma unroll
    for (int row = 0; row < CHUNK; row += PAIR_THREADS / across) {
        const int t = row + threadIdx.x / across, own = c->chunk.doc[t];
        float4 *const at = (float4 *)&c->d_pairs[t][s];
        float4 four = *at;
        four.x = s > t || doc.x != own ? 0 : four.x;
        four.y = s + 1 > t || doc.y != own ? 0 : four.y;
        four.z = s + 2 > t || doc.z != own ? 0 : four.z;
        four.w = s + 3 > t || doc.w != own ? 0 : four.w;
        *at = four;
        *(uint2 *)&c->rounded[t][s] = make_uint2(pack_bf16(four.x, four.y), pack_bf16(four.z, four.w));
    }
}

static __device__ __forceinline__ void load_inter(finish_tile *c, const gla_args &a, int64_t record, int channel) {
    enum { across = CHANNELS / 4, at_once = PAIR_THREADS / across };
    const int first = threadIdx.x / across, i = threadIdx.x % across * 4;
    const bool valid = channel + i < a.key_pad;
    const int64_t at = valid ? (record * CHUNK + first) * a.key_pad + channel + i : 0;
    const float *q = a.inter_q + at, *k = a.inter_k + at;
#pragma unroll
    for (int t = 0; t < CHUNK; t += at_once, q += at_once * a.key_pad, k += at_once * a.key_pad) {
        copy_async16(&c->q[first + t][i], q, valid);
        copy_async16(&c->k[first + t][i], k, valid);
    }
}

/* What comes to dq and dk of one warp's eight channels from beyond a sub-block: in the place of S do, where it must still
 * decay from the sub-block's first position, and in that of D v, to its last; zero in other documents than those. A
 * position of another sub-block decays to its end, and on from there. */
static __device__ __forceinline__ void add_far(finish_tile *c, const gla_args &a, int begin) {
    const chunk_tile *chunk = &c->chunk;
    const int lane = threadIdx.x % 32, pair = lane % 4 * 2, channel = threadIdx.x / 32 * 8, own = channel + lane / 4;
    const int32_t *doc = chunk->doc;
    float k[SUBS][4], q[SUBS][4]; /* rows pair, pair + 1, pair + 8, pair + 9; k to the end, q from the begin */
#pragma unroll
    for (int sub = 0; sub < SUBS; sub++) {
        const int first = sub * SUB, last = first + SUB - 1;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int t = first + pair + i / 2 * 8 + i % 2;
            const float b = chunk->b[t][own];
            k[sub][i] = doc[t] == doc[last] ? low_bf16(chunk->k[t][own]) * exp2_approx(chunk->b[last][own] - b) : 0;
            q[sub][i] = doc[t] == doc[first] ? low_bf16(chunk->q[t][own]) * exp2_approx(b - chunk->b[first][own]) : 0;
        }
    }
#pragma unroll
    for (int sub = 0; sub < SUBS; sub++) {
        const int first = sub * SUB, last = first + SUB - 1;
        float dq[4] = {0}, dk[4] = {0};
#pragma unroll
        for (int other = 0; other < SUBS; other++) {
            if (other == sub)
                continue;
            const bool later = other > sub; /* what dk needs */
            const int from = later ? last : other * SUB + SUB - 1, to = later ? other * SUB : first;
            const float by = doc[from] == doc[to] ? exp2_approx(chunk->b[to][own] - chunk->b[from][own]) : 0;
            const float(&y)[4] = later ? q[other] : k[other];
            const uint32_t near = pack_bf16(y[0] * by, y[1] * by), far = pack_bf16(y[2] * by, y[3] * by);
            uint32_t x[4];
            if (later) {
                load_a_columns(x, &c->rounded[0][0], PITCH, first, other * SUB);
                mma(dk, x, near, far);
            } else {
                load_a(x, &c->rounded[0][0], PITCH, first, other * SUB);
                mma(dq, x, near, far);
            }
        }
        const int at = channel + pair; /* and the next one */
        const float2 b_first = *(const float2 *)&chunk->b[first][at], b_last = *(const float2 *)&chunk->b[last][at],
                     b_end = *(const float2 *)&chunk->b[CHUNK - 1][at];
        const bool from_before = doc[first] < begin, to_end = doc[last] == doc[CHUNK - 1];
        const float2 before = from_before
                                  ? make_float2(a.scale * exp2_approx(b_first.x), a.scale * exp2_approx(b_first.y))
                                  : make_float2(0, 0),
                     after = to_end ? make_float2(exp2_approx(b_end.x - b_last.x), exp2_approx(b_end.y - b_last.y))
                                    : make_float2(0, 0);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int t = first + lane / 4 + half * 8;
            float2 *const to_q = (float2 *)&c->q[t][at], *const to_k = (float2 *)&c->k[t][at];
            const float2 inter_q = *to_q, inter_k = *to_k;
            const bool q_linked = doc[t] == doc[first], k_linked = doc[t] == doc[last];
            *to_q = q_linked ? make_float2(dq[2 * half] + before.x * inter_q.x, dq[2 * half + 1] + before.y * inter_q.y)
                             : make_float2(0, 0);
            *to_k = k_linked ? make_float2(dk[2 * half] + after.x * inter_k.x, dk[2 * half + 1] + after.y * inter_k.y)
                             : make_float2(0, 0);
        }
    }
}

/* One channel of one sub-block: adds the pairs inside it, and leaves dq and dk in place of q and k, and q dq - k dk in
 * that of S do. No document begins behind the first position, b of which is r. */
static __device__ __forceinline__ void add_sub_block(finish_tile *c, int i, int first) {
    chunk_tile *chunk = &c->chunk;
    const float r = chunk->b[first][i], to_first = exp2_approx(chunk->b[first + SUB - 1][i] - r);
    float k[SUB], dk[SUB]; /* k exp(r - b); dk exp(b - r) */
#pragma unroll
    for (int s = 0; s < SUB; s++) {
        k[s] = low_bf16(chunk->k[first + s][i]) * exp2_approx(r - chunk->b[first + s][i]);
        dk[s] = c->k[first + s][i] * to_first;
    }
#pragma unroll
    for (int t = 0; t < SUB; t++) {
        const float decay = exp2_approx(chunk->b[first + t][i] - r);
        const float q = low_bf16(chunk->q[first + t][i]), decayed = q * decay;
        float dq = c->q[first + t][i];
#pragma unroll
        for (int s = 0; s <= t; s += 4) {
            const float4 four = *(const float4 *)&c->d_pairs[first + t][first + s];
            const float d_pair[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int j = 0; j < 4 && s + j <= t; j++) {
                dq += d_pair[j] * k[s + j];
                dk[s + j] += d_pair[j] * decayed;
            }
        }
        dq *= decay;
        chunk->q[first + t][i] = (bf16)pack_bf16(dq, 0);
        c->q[first + t][i] = q * dq;
    }
#pragma unroll
    for (int s = 0; s < SUB; s++) {
        const float all = exp2_approx(r - chunk->b[first + s][i]) * dk[s];
        c->q[first + s][i] -= low_bf16(chunk->k[first + s][i]) * all;
        chunk->k[first + s][i] = (bf16)pack_bf16(all, 0);
    }
}

/* The same of any, by an exponential for each pair, which is kept from overflowing between documents, where dP is 0. */
static __device__ __noinline__ void add_any(finish_tile *c, int i, int first) {
    chunk_tile *chunk = &c->chunk;
    const float from = chunk->b[first][i], to = chunk->b[first + SUB - 1][i];
    float b[SUB], k[SUB], dk[SUB];
#pragma unroll
    for (int s = 0; s < SUB; s++) {
        b[s] = chunk->b[first + s][i];
        k[s] = low_bf16(chunk->k[first + s][i]);
        dk[s] = c->k[first + s][i] * exp2_approx(min_or_nan(to - b[s], 0));
    }
#pragma unroll
    for (int t = 0; t < SUB; t++) {
        const float q = low_bf16(chunk->q[first + t][i]);
        float dq = c->q[first + t][i] * exp2_approx(min_or_nan(b[t] - from, 0));
#pragma unroll
        for (int s = 0; s <= t; s += 4) {
            const float4 four = *(const float4 *)&c->d_pairs[first + t][first + s];
            const float d_pair[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int j = 0; j < 4 && s + j <= t; j++) {
                const float x = d_pair[j] * exp2_approx(min_or_nan(b[t] - b[s + j], 0));
                dq += x * k[s + j];
                dk[s + j] += x * q;
            }
        }
        chunk->q[first + t][i] = (bf16)pack_bf16(dq, 0);
        c->q[first + t][i] = q * dq;
    }
#pragma unroll
    for (int s = 0; s < SUB; s++) {
        chunk->k[first + s][i] = (bf16)pack_bf16(dk[s], 0);
        c->q[first + s][i] -= k[s] * dk[s];
    }
}

/* dq and dk of `rows` positions and `width` channels, out of the places of q and k. */
static __device__ __forceinline__ void store_slopes(const chunk_tile *c, const gla_args &a, int64_t to, int64_t pitch,
                                                    int rows, int width) {
    enum { across = CHANNELS / 8, at_once = PAIR_THREADS / across };
    const int first = threadIdx.x / across, i = threadIdx.x % across * 8, here = i < width ? rows - first : 0;
    bf16 *dq = a.dq + to + first * pitch + i, *dk = a.dk + to + first * pitch + i;
#pragma unroll
    for (int t = 0; t < CHUNK; t += at_once, dq += at_once * pitch, dk += at_once * pitch)
        if (t < here) {
            *(uint4 *)dq = *(const uint4 *)&c->q[first + t][i];
            *(uint4 *)dk = *(const uint4 *)&c->k[first + t][i];
        }
}

/* Joins the maxima of dq and dk: a warp takes a sub-block of one of them. `known` was loaded before. */
static __device__ __forceinline__ void join_maxima(const chunk_tile *chunk, const gla_args &a,
                                                   const ni_known_amaxes &known) {
    const int lane = threadIdx.x % 32, of = threadIdx.x / 32 / SUBS, first = threadIdx.x / 32 % SUBS * SUB;
    const bf16(*x)[PITCH] = (of ? chunk->k : chunk->q) + first;
    uint32_t *const amax = a.amax[of], *const turned = a.turned[of];
    uint32_t pairs = 0, most = 0;
    if (amax) {
#pragma unroll
        for (int u = lane; u < SUB * CHANNELS / 8; u += 32)
            pairs = ni_larger_of_four(pairs, *(const uint4 *)&x[u / (CHANNELS / 8)][u % (CHANNELS / 8) * 8]);
        ni_join_known(amax, ni_larger_half(pairs), known.plain);
    }
    if (!turned)
        return;
    const ni_turning by = ni_turning_of_rows();
#pragma unroll
    for (int n = 0; n < CHANNELS; n += 16)
        most = ni_most_of_sixteen(most, by, &x[lane % 16][n + lane / 16 * 8]);
    if (ni_may_exceed(most, known.turned)) {
        uint32_t words[SUB];
#pragma unroll
        for (int i = 0; i < SUB; i++)
            words[i] = *(const uint32_t *)&x[i][2 * lane];
        ni_join_known(turned, ni_turned_amax(words), known.turned);
    }
}

static __global__ void __launch_bounds__(PAIR_THREADS, 2) finish(const gla_args a) {
    finish_tile *c = (finish_tile *)shared_memory();
    chunk_tile *chunk = &c->chunk;
    const int begin = blockIdx.x * CHUNK, batch = blockIdx.y / a.heads, head = blockIdx.y % a.heads;
    const int64_t record = (int64_t)blockIdx.y * a.chunks + blockIdx.x, pitch = (int64_t)a.heads * a.key_dim;
    const int64_t head_row = (((int64_t)batch * a.seq + begin) * a.heads + head) * a.key_dim;
    const int own = threadIdx.x % CHANNELS, sub = threadIdx.x / CHANNELS;
    const int of = threadIdx.x / 32 / SUBS;
    ni_wait_for_it();
    const uint32_t asked = ni_ask_for_warp(a.amax[of], a.turned[of]);
    load_d_pairs(c, a, record);
    load_documents(chunk, a, batch, begin);
    copy_wait<0>();
    __syncthreads();
    mask_d_pairs(c);
    const ni_known_amaxes known = ni_known_to_warp(asked);
#pragma unroll 1
    for (int channel = 0; channel < a.key_dim; channel += CHANNELS) {
        load_inter(c, a, record, channel);
        const loaded found = load_channels(chunk, a, head_row, begin, channel);
        add_far(c, a, begin);
        __syncthreads();
        const uint32_t begins = begins_in(chunk, sub);
        if (found.steep || begins >> 1)
            add_any(c, own, sub * SUB);
        else
            add_sub_block(c, own, sub * SUB);
        const float(*slopes)[PITCH] = &c->q[sub * SUB];
        float sum = 0;
#pragma unroll
        for (int t = SUB - 1; t >= 0; t--)
            sum = begins >> t & 1 ? 0 : sum + slopes[t][own];
        chunk->total[sub][own] = sum;
        __syncthreads();
        sum = channel + own < a.key_dim ? a.crossing[record * a.key_pad + channel + own] : 0;
        for (int later = SUBS - 1; later > sub; later--)
            sum = chunk->total[later][own] + (begins_in(chunk, later) ? 0 : sum);
        const int here = channel + own < a.key_dim ? a.seq - begin - sub * SUB : 0;
        float *to = a.dgate + head_row + (sub * SUB + SUB - 1) * pitch + channel + own;
#pragma unroll
        for (int t = SUB - 1; t >= 0; t--, to -= pitch) {
            sum += slopes[t][own];
            if (t < here)
                *to = found.cut >> t & 1 ? 0 : sum;
            sum = begins >> t & 1 ? 0 : sum;
        }
        store_slopes(chunk, a, head_row + channel, pitch, a.seq - begin, a.key_dim - channel);
        join_maxima(chunk, a, known);
        __syncthreads();
    }
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
    if (!error)
        error = allow_shared(finish, sizeof(finish_tile));
    return error ? error
                 : (cudaError_t)ni_launch_following((cudaStream_t)stream, finish, grid, PAIR_THREADS,
                                                    sizeof(finish_tile), a);
}
