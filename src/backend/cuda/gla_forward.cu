/* gla_forward.cu: gated linear attention forward (arXiv:2312.06635, section 4), and what the backward shares with it.
 *
 * Per chunk of 64 positions of a head, with S [key_dim, value_dim] the state before it:
 *     o_t = (scale q_t exp(b_t))^T S + sum_{s <= t} P_ts v_s,   P_ts = scale sum_i q_ti k_si exp(b_ti - b_si),
 *     S' = diag(exp(b_end)) S + sum_s (k_s exp(b_end - b_s)) v_s^T.
 * 1. `pairs`, a block for each chunk: P, and the decayed queries and keys, to scratch. Pairs go through b = r of the first
 *    position of t's sub-block of 16, exp(b_t - r) exp(r - b_s), on tensor cores. The second exponent is positive inside
 *    the sub-block; where its gates are so steep that it might be large, its pairs get an exponential each, in FP32.
 * 2. `scan_values`, a block for each head and tile of value columns: S^T stays in registers, FP32, as the accumulators
 * of its update and, rounded, as the first operand of S^T (q exp(b))^T. Each warp owns 16 columns: warps share loads
 *    and nothing else, and no state is ever stored. Reversed in time, with keys and queries exchanged and P
 *    transposed, the same kernel gives dv. Where the GPU has warpgroups, gla_values.cu does it for common shapes.
 *
 * Rounded to BF16: the decayed queries and keys, P, and S where it is multiplied; S itself, b and all sums are FP32.
 *
 * Floor at batch 16, seq 2048, heads 4, key 128, value 256: 268 MB (q, k, gate, v in, o out), 0.09 ms at 2.9 TB/s, and
 * 24 GFLOP, 0.03 ms on tensor cores. With its scratch (84 MB written, read by each value tile, mostly out of L2) the
 * plan moves 436 MB, 0.15 ms.
 */
#include "gla_chunk.cuh"
#include "gla_scan.h"
#include "turned.cuh"

/* ---- pairs ---- */

/* A warp takes half of what sixteen rows have up to the diagonal: row + 1 tiles of eight columns. */
typedef struct pair_way {
    int row, half; /* sub-block */
    __device__ __forceinline__ int column(int n) const {
        return 8 * (half * (row + 1) + n);
    }
    __device__ __forceinline__ bool has(int n) const {
        return n <= row;
    }
    __device__ __forceinline__ bool on_diagonal(int n) const {
        return column(n) >= row * SUB;
    }
} pair_way;

/* P of these channels; of the sub-block's own columns not where gates are steep. What lies above the diagonal or in another
 * document is rubbish, and dropped later. `inside`: documents may begin behind the sub-block's first position. */
template <bool inside>
static __device__ __forceinline__ void add_pairs(float (&p)[SUBS][4], const chunk_tile *c, const pair_way &way,
                                                 bool steep) {
    const int lane = threadIdx.x % 32, g = lane / 4, first = way.row * SUB;
    const uint32_t begins = inside ? begins_in(c, way.row) : 0;
#pragma unroll 1 /* registers */
    for (int i = lane % 4 * 2; i < CHANNELS; i += 16) {
        const float2 r[2] = {*(const float2 *)&c->b[first][i], *(const float2 *)&c->b[first][i + 8]};
        uint32_t q[4];
#pragma unroll
        for (int part = 0; part < 4; part++) {
            const int t = g + part % 2 * 8, channel = i + part / 2 * 8;
            q[part] =
                decay_pair(*(const uint32_t *)&c->q[first + t][channel], *(const float2 *)&c->b[first + t][channel],
                           inside ? reference_of(begins, t, r[part / 2]) : r[part / 2]);
        }
#pragma unroll
        for (int n = 0; n < SUBS; n++) {
            const bool own = way.on_diagonal(n);
            if (!way.has(n) || (own && steep))
                continue;
            const int s = way.column(n) + g;
            uint32_t k[2];
#pragma unroll
            for (int part = 0; part < 2; part++)
                k[part] = decay_pair(*(const uint32_t *)&c->k[s][i + part * 8],
                                     inside && own ? reference_of(begins, s - first, r[part]) : r[part],
                                     *(const float2 *)&c->b[s][i + part * 8]);
            mma(p[n], q, k[0], k[1]);
        }
    }
}

/* P of sixteen rows and eight columns from `column` on, where gates are steep: an exponential for each pair and channel. */
static __device__ __noinline__ float4 find_steep(const chunk_tile *c, int row, int column) {
    const int lane = threadIdx.x % 32;
    float p[4] = {0};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int t = row * SUB + lane / 4 + i / 2 * 8, s = column + lane % 4 * 2 + i % 2;
        if (s <= t && c->doc[s] == c->doc[t])
            for (int channel = 0; channel < CHANNELS; channel++)
                p[i] += low_bf16(c->q[t][channel]) * low_bf16(c->k[s][channel]) *
                        exp2_approx(c->b[t][channel] - c->b[s][channel]);
    }
    return make_float4(p[0], p[1], p[2], p[3]);
}

/* The decayed queries and keys of these channels, and exp(b_end). */
static __device__ __forceinline__ void store_decayed(const chunk_tile *c, const gla_args &a, int64_t record, int begin,
                                                     int channel) {
    enum { across = CHANNELS / 8, at_once = PAIR_THREADS / across };
    const int first = threadIdx.x / across, i = threadIdx.x % across * 8;
    const int64_t to = (record * CHUNK + first) * a.key_pad + channel + i;
#pragma unroll 1 /* registers */
    for (int t = first; t < CHUNK && channel + i < a.key_pad; t += at_once) {
        const bool from_before = c->doc[t] < begin, to_end = c->doc[t] == c->doc[CHUNK - 1];
        uint32_t q[4], k[4];
#pragma unroll
        for (int pair = 0; pair < 4; pair++) {
            const float2 b = *(const float2 *)&c->b[t][i + 2 * pair];
            const float2 end = *(const float2 *)&c->b[CHUNK - 1][i + 2 * pair];
            const uint32_t x = *(const uint32_t *)&c->q[t][i + 2 * pair];
            q[pair] = pack_bf16(a.scale * low_bf16(x) * exp2_approx(b.x), a.scale * high_bf16(x) * exp2_approx(b.y));
            k[pair] = decay_pair(*(const uint32_t *)&c->k[t][i + 2 * pair], end, b);
        }
        const uint4 none = make_uint4(0, 0, 0, 0);
        const int64_t at = to + (t - first) * a.key_pad;
        *(uint4 *)(a.queries + at) = from_before ? make_uint4(q[0], q[1], q[2], q[3]) : none;
        *(uint4 *)(a.keys + at) = to_end ? make_uint4(k[0], k[1], k[2], k[3]) : none;
    }
    const int own = channel + threadIdx.x;
    if (threadIdx.x < CHANNELS && own < a.key_pad)
        a.decay[record * a.key_pad + own] = c->begins[0] | c->begins[1] ? 0 : exp2_approx(c->b[CHUNK - 1][threadIdx.x]);
}

template <bool made> static __global__ void __launch_bounds__(PAIR_THREADS, 4) pairs(const gla_args a) {
    chunk_tile *c = (chunk_tile *)shared_memory();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int begin = blockIdx.x * CHUNK, batch = blockIdx.y / a.heads, head = blockIdx.y % a.heads;
    const int64_t record = (int64_t)blockIdx.y * a.chunks + blockIdx.x;
    const int64_t head_row = (((int64_t)batch * a.seq + begin) * a.heads + head) * a.key_dim;
    const pair_way way = {warp / 2, warp % 2};
    float sum[SUBS][4] = {{0}};
    ni_let_follow();
    load_documents(c, a, batch, begin);
    for (int channel = 0; channel < a.key_pad; channel += CHANNELS) {
        __syncthreads();
        const bool steep = load_channels<made>(c, a, head_row, begin, head, channel).steep;
        store_decayed(c, a, record, begin, channel);
        if (begins_in(c, way.row) >> 1)
            add_pairs<true>(sum, c, way, steep);
        else
            add_pairs<false>(sum, c, way, steep);
#pragma unroll
        for (int n = 0; n < SUBS; n++)
            if (steep && way.has(n) && way.on_diagonal(n)) {
                const float4 p = find_steep(c, way.row, way.column(n));
                sum[n][0] += p.x;
                sum[n][1] += p.y;
                sum[n][2] += p.z;
                sum[n][3] += p.w;
            }
    }
    __syncthreads();
    bf16(*p)[PITCH] = (bf16(*)[PITCH])shared_memory(); /* over the tile's b */
    for (int u = threadIdx.x; u < CHUNK * PITCH / 8; u += PAIR_THREADS)
        ((uint4 *)p)[u] = make_uint4(0, 0, 0, 0);
    __syncthreads();
#pragma unroll
    for (int n = 0; n < SUBS; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int t = way.row * SUB + lane / 4 + half * 8, s = way.column(n) + lane % 4 * 2;
            if (way.has(n))
                *(uint32_t *)&p[t][s] =
                    pack_bf16(s <= t && c->doc[s] == c->doc[t] ? a.scale * sum[n][2 * half] : 0,
                              s < t && c->doc[s + 1] == c->doc[t] ? a.scale * sum[n][2 * half + 1] : 0);
        }
    __syncthreads();
    for (int u = threadIdx.x; u < CHUNK * CHUNK / 8; u += PAIR_THREADS)
        ((uint4 *)(a.pairs + record * CHUNK * CHUNK))[u] = *(const uint4 *)&p[u / 8][u % 8 * 8];
}

cudaError_t gla_launch_pairs(const ni_cuda_gla *g, const gla_args &a, void *stream) {
    return launch(a.made.a ? pairs<true> : pairs<false>, dim3((unsigned)a.chunks, (unsigned)(g->batch * g->heads)),
                  PAIR_THREADS, sizeof(chunk_tile), stream, a);
}

/* ---- scan over chunks, by value columns ---- */

template <int key, int warps> struct value_tile {
    enum { values = 16 * warps, key_pitch = key + 8, value_pitch = values + 8, pair_pitch = CHUNK + 8, out_pitch = 24 };
    bf16 read[CHUNK * key_pitch];  /* what reads the state: queries, or reversed keys */
    bf16 write[CHUNK * key_pitch]; /* what changes it, with `values` */
    bf16 pairs[CHUNK * pair_pitch];
    bf16 value[CHUNK * value_pitch];
    bf16 out[warps][CHUNK * out_pitch];
    float decay[key];
};

/* S^T of a warp: columns 16 warp + g, + 8; keys 8 n + pair, + 1 of lane 4 g + pair / 2. */
template <int key> struct value_state { float s[key / 8][4]; };

/* o^T of a warp, as its S^T: positions in the place of keys. */
typedef struct value_sums {
    float o[CHUNK / 8][4];
} value_sums;

/* o^T += S^T read^T */
template <int key, int warps>
static __device__ __forceinline__ void read_state(value_sums &sum, const value_state<key> &state,
                                                  const value_tile<key, warps> *c) {
#pragma unroll
    for (int k = 0; k < key / 16; k++) {
        const float(&low)[4] = state.s[2 * k], (&high)[4] = state.s[2 * k + 1];
        const uint32_t s[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                               pack_bf16(high[2], high[3])};
#pragma unroll
        for (int n = 0; n < CHUNK / 16; n++) {
            uint32_t b[4];
            load_b_columns(b, c->read, value_tile<key, warps>::key_pitch, 16 * k, 16 * n);
            mma(sum.o[2 * n], s, b[0], b[1]);
            mma(sum.o[2 * n + 1], s, b[2], b[3]);
        }
    }
}

/* o^T += value^T P^T, or reversed value^T P; keeps the fragments of value^T. */
template <int key, int warps, bool reverse>
static __device__ __forceinline__ void read_pairs(value_sums &sum, uint32_t (&v)[CHUNK / 16][4],
                                                  const value_tile<key, warps> *c) {
    typedef value_tile<key, warps> tile;
#pragma unroll
    for (int k = 0; k < CHUNK / 16; k++) {
        load_a_columns(v[k], c->value, tile::value_pitch, threadIdx.x / 32 * 16, 16 * k);
#pragma unroll
        for (int n = 0; n < CHUNK / 16; n++) {
            if (reverse ? k < n : k > n)
                continue; /* P is zero there */
            uint32_t b[4];
            if (reverse)
                load_b(b, c->pairs, tile::pair_pitch, 16 * k, 16 * n);
            else
                load_b_columns(b, c->pairs, tile::pair_pitch, 16 * k, 16 * n);
            mma(sum.o[2 * n], v[k], b[0], b[1]);
            mma(sum.o[2 * n + 1], v[k], b[2], b[3]);
        }
    }
}

/* S^T = S^T diag(decay) + value^T write */
template <int key, int warps>
static __device__ __forceinline__ void write_state(value_state<key> &state, const uint32_t (&v)[CHUNK / 16][4],
                                                   const value_tile<key, warps> *c) {
#pragma unroll
    for (int n = 0; n < key / 8; n++) {
        const float2 decay = *(const float2 *)(c->decay + 8 * n + threadIdx.x % 4 * 2);
#pragma unroll
        for (int i = 0; i < 4; i++)
            state.s[n][i] *= i % 2 ? decay.y : decay.x;
    }
#pragma unroll
    for (int k = 0; k < CHUNK / 16; k++)
#pragma unroll
        for (int n = 0; n < key / 16; n++) {
            uint32_t b[4];
            load_b(b, c->write, value_tile<key, warps>::key_pitch, 16 * k, 16 * n);
            mma(state.s[2 * n], v[k], b[0], b[1]);
            mma(state.s[2 * n + 1], v[k], b[2], b[3]);
        }
}

/* Turns a warp's o^T over in `turned` and stores it: `rows` positions, `width` columns, at most 16. Returns the larger
 * magnitudes of what this lane stored, in pairs. */
static __device__ __forceinline__ uint32_t store_turned(bf16 *out, int64_t pitch, const value_sums &sum, bf16 *turned,
                                                        int turned_pitch, int rows, int width) {
    const int lane = threadIdx.x % 32, g = lane / 4, pair = lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < CHUNK / 8; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t two = pack_bf16(sum.o[n][2 * half], sum.o[n][2 * half + 1]);
            turned[(8 * n + pair) * turned_pitch + g + 8 * half] = (bf16)two;
            turned[(8 * n + pair + 1) * turned_pitch + g + 8 * half] = (bf16)(two >> 16);
        }
    __syncwarp();
    uint32_t pairs = 0;
#pragma unroll
    for (int u = lane; u < CHUNK * 2; u += 32) {
        const int t = u / 2, column = u % 2 * 8;
        if (t < rows && column < width) {
            const uint4 eight = *(const uint4 *)(turned + t * turned_pitch + column);
            *(uint4 *)(out + t * pitch + column) = eight;
            pairs = ni_larger_of_four(pairs, eight);
        }
    }
    return pairs;
}

/* The largest number of turned columns that store_turned has left, all positions a multiple of 16 of 16 columns. */
static __device__ __noinline__ uint32_t turn_columns(const bf16 *turned, int turned_pitch) {
    const int first = threadIdx.x % 32 / 8 * 16, column = threadIdx.x % 8 * 2;
    uint32_t words[16];
#pragma unroll
    for (int i = 0; i < 16; i++)
        words[i] = *(const uint32_t *)(turned + (first + i) * turned_pitch + column);
    return ni_warp_max(ni_turned_amax(words));
}

/* The larger of `largest` and of that number. */
static __device__ __forceinline__ uint32_t larger_turned(uint32_t largest, const bf16 *turned, int turned_pitch) {
    const ni_turning by = ni_turning_of_rows();
    const int lane = threadIdx.x % 32;
    uint32_t most = 0;
#pragma unroll
    for (int m = 0; m < CHUNK; m += 16)
        most = ni_most_of_sixteen(most, by, turned + (m + lane % 16) * turned_pitch + lane / 16 * 8);
    return ni_may_exceed(most, largest) ? max(largest, turn_columns(turned, turned_pitch)) : largest;
}

/* What the state is read with is loaded while it is written, and the other way round. */
template <int key, int warps, bool reverse>
static __global__ void __launch_bounds__(32 * warps) scan_values(const gla_args a) {
    typedef value_tile<key, warps> tile;
    enum { threads = 32 * warps, values = tile::values };
    tile *c = (tile *)shared_memory();
    const int column = threadIdx.x / 32 * 16, first = blockIdx.x * values;
    const int batch = blockIdx.y / a.heads, head = blockIdx.y % a.heads;
    const int64_t pitch = (int64_t)a.heads * a.value_dim;
    const int64_t head_row = (int64_t)batch * a.seq * pitch + (int64_t)head * a.value_dim + first;
    const bf16 *value = (reverse ? a.d_o : a.v) + head_row, *read = reverse ? a.keys : a.queries;
    const bf16 *write = reverse ? a.queries : a.keys;
    bf16 *out = (reverse ? a.dv : a.o) + head_row + column, *turned = c->out[threadIdx.x / 32];
    if (reverse)
        ni_let_follow();

    auto chunk_of = [&](int i) { return reverse ? a.chunks - 1 - i : i; };
    auto record = [&](int i) { return (int64_t)blockIdx.y * a.chunks + chunk_of(i); };
    auto load_reads = [&](int i) {
        if (i >= a.chunks)
            return;
        copy_tile<key, threads>(c->read, tile::key_pitch, read + record(i) * CHUNK * key, key, CHUNK, key);
        copy_tile<CHUNK, threads>(c->pairs, tile::pair_pitch, a.pairs + record(i) * CHUNK * CHUNK, CHUNK, CHUNK, CHUNK);
        copy_tile<values, threads>(c->value, tile::value_pitch, value + chunk_of(i) * CHUNK * pitch, pitch,
                                   a.seq - chunk_of(i) * CHUNK, a.value_dim - first);
    };
    auto load_writes = [&](int i) {
        if (i >= a.chunks)
            return;
        copy_tile<key, threads>(c->write, tile::key_pitch, write + record(i) * CHUNK * key, key, CHUNK, key);
        for (int u = threadIdx.x; u < key / 4; u += threads)
            copy_async16(c->decay + 4 * u, a.decay + record(i) * key + 4 * u, true);
    };

    value_state<key> state = {};
    uint32_t pairs = 0, largest_turned = 0;
    load_reads(0);
    copy_commit();
    load_writes(0);
    copy_commit();
    for (int i = 0; i < a.chunks; i++) {
        const int chunk = chunk_of(i);
        value_sums sum = {};
        uint32_t v[CHUNK / 16][4];
        copy_wait<1>();
        __syncthreads();
        read_state(sum, state, c);
        read_pairs<key, warps, reverse>(sum, v, c);
        __syncthreads();
        load_reads(i + 1);
        copy_commit();
        const uint32_t stored = store_turned(out + chunk * CHUNK * pitch, pitch, sum, turned, tile::out_pitch,
                                             a.seq - chunk * CHUNK, a.value_dim - first - column);
        if (reverse) {
            pairs = ni_larger_pair(pairs, stored);
            if (a.turned[2])
                largest_turned = larger_turned(largest_turned, turned, tile::out_pitch);
        }
        copy_wait<1>();
        __syncthreads();
        write_state(state, v, c);
        __syncthreads();
        load_writes(i + 1);
        copy_commit();
    }
    if (reverse && a.amax[2])
        ni_join_amax(a.amax[2], ni_larger_half(pairs));
    if (reverse && a.turned[2])
        ni_join_amax(a.turned[2], largest_turned);
}

template <int key, int warps>
static cudaError_t launch_values(const ni_cuda_gla *g, const gla_args &a, bool reverse, void *stream) {
    const dim3 grid((unsigned)((g->value_dim + 16 * warps - 1) / (16 * warps)), (unsigned)(g->batch * g->heads));
    const size_t bytes = sizeof(value_tile<key, warps>);
    return reverse ? launch(scan_values<key, warps, true>, grid, 32 * warps, bytes, stream, a)
                   : launch(scan_values<key, warps, false>, grid, 32 * warps, bytes, stream, a);
}

template <int key> static cudaError_t launch_keys(const ni_cuda_gla *g, const gla_args &a, bool reverse, void *stream) {
    return g->value_dim <= 32 ? launch_values<key, 2>(g, a, reverse, stream)
                              : launch_values<key, 4>(g, a, reverse, stream);
}

cudaError_t gla_launch_scan_values(const ni_cuda_gla *g, const gla_args &a, bool reverse, void *stream) {
    if (gla_can_ring_values(g))
        return gla_launch_ring_values(g, a, reverse, stream);
    switch (a.key_pad) {
    case 16:
        return launch_keys<16>(g, a, reverse, stream);
    case 32:
        return launch_keys<32>(g, a, reverse, stream);
    case 64:
        return launch_keys<64>(g, a, reverse, stream);
    case 128:
        return launch_keys<128>(g, a, reverse, stream);
    default:
        return launch_keys<256>(g, a, reverse, stream);
    }
}

/* ---- the door ---- */

static int value_pad(int64_t value_dim) {
    return value_dim <= 32 ? 32 : value_dim <= 64 ? 64 : value_dim <= 128 ? 128 : value_dim <= 256 ? 256 : 512;
}

/* The next `bytes` of the workspace. */
static void *take(char *base, size_t *used, size_t bytes) {
    char *at = base ? base + *used : NULL;
    *used += (bytes + 255) / 256 * 256;
    return at;
}

/* What `pairs` makes; returns its bytes. */
static size_t lay_out_chunks(gla_args *a, const ni_cuda_gla *g, void *memory) {
    const size_t records = (size_t)(g->batch * g->heads * a->chunks), rows = records * CHUNK, key = (size_t)a->key_pad;
    char *base = (char *)memory;
    size_t used = 0;
    a->queries = (bf16 *)take(base, &used, rows * key * sizeof *a->queries);
    a->keys = (bf16 *)take(base, &used, rows * key * sizeof *a->keys);
    a->pairs = (bf16 *)take(base, &used, rows * CHUNK * sizeof *a->pairs);
    a->decay = (float *)take(base, &used, records * key * sizeof *a->decay);
    return used;
}

/* Fills in the shape and lays out the scratch; false beyond the limits. */
bool gla_arguments(const ni_cuda_gla *g, gla_args *a, void *workspace, bool backward, size_t *bytes) {
    if (g->batch < 0 || g->seq < 0 || g->heads < 1 || g->batch * g->heads > 65535 || g->seq > INT32_MAX - CHUNK ||
        g->key_dim < 8 || g->key_dim > 256 || g->key_dim % 8 || g->value_dim < 8 || g->value_dim > 512 ||
        g->value_dim % 8)
        return false;
    *a = gla_args();
    a->seq = (int)g->seq;
    a->heads = (int)g->heads;
    a->key_dim = (int)g->key_dim;
    a->value_dim = (int)g->value_dim;
    a->chunks = (a->seq + CHUNK - 1) / CHUNK;
    for (a->key_pad = 16; a->key_pad < a->key_dim;)
        a->key_pad *= 2;
    a->scale = g->scale;
    a->doc_start = g->doc_start;
    if (g->a)
        a->made = {(const bf16 *)g->a, (const float *)g->bias, 1 / g->normalizer,
                   g->clamp * LOG2E,   (bf16 *)g->da,          NULL};
    const size_t records = (size_t)(g->batch * g->heads * a->chunks), rows = records * CHUNK, key = (size_t)a->key_pad;
    char *base = (char *)workspace;
    const size_t chunks = lay_out_chunks(a, g, g->left ? g->left : workspace);
    size_t used = g->left ? 0 : chunks;
    if (backward) {
        a->states = (uint4 *)take(base, &used, records * key * (size_t)value_pad(g->value_dim) * sizeof(bf16));
        a->inter_q = (float *)take(base, &used, rows * key * sizeof *a->inter_q);
        a->inter_k = (float *)take(base, &used, rows * key * sizeof *a->inter_k);
        a->crossing = (float *)take(base, &used, records * key * sizeof *a->crossing);
        a->d_pairs = (float *)take(base, &used, rows * CHUNK * sizeof *a->d_pairs);
        if (g->a)
            a->made.dbias = (float *)take(base, &used, records * (size_t)g->key_dim * sizeof *a->made.dbias);
    }
    *bytes = used;
    return true;
}

size_t ni_cuda_gla_workspace_bytes(const ni_cuda_gla *g, int backward) {
    gla_args a;
    size_t bytes = 0;
    return gla_arguments(g, &a, NULL, backward != 0, &bytes) ? bytes : 0;
}

size_t ni_cuda_gla_chunk_bytes(const ni_cuda_gla *g) {
    gla_args a;
    size_t bytes = 0;
    return gla_arguments(g, &a, NULL, false, &bytes) ? lay_out_chunks(&a, g, NULL) : 0;
}

bool ni_cuda_gla_by_warpgroups(const ni_cuda_gla *g) {
    return gla_can_ring_values(g) && gla_can_ring_keys(g);
}

int ni_cuda_launch_gla_forward(const ni_cuda_gla *g, void *o, const void *q, const void *k, const void *v,
                               const void *gate, void *workspace, void *stream) {
    gla_args a;
    size_t bytes;
    if (!gla_arguments(g, &a, workspace, false, &bytes))
        return cudaErrorInvalidValue;
    if (!g->batch || !g->seq)
        return cudaSuccess;
    a.q = (const bf16 *)q;
    a.k = (const bf16 *)k;
    a.v = (const bf16 *)v;
    a.gate = (const float *)gate;
    a.o = (bf16 *)o;
    cudaError_t error = gla_launch_pairs(g, a, stream);
    return error ? error : gla_launch_scan_values(g, a, false, stream);
}
