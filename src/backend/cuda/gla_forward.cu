/* gla_forward.cu: gated linear attention forward (arXiv:2312.06635, section 4), and what the backward shares with it.
 *
 * Per chunk of 64 positions of a head, with S [key_dim, value_dim] the state before it:
 *     o_t = (scale q_t exp(b_t))^T S + sum_{s <= t} P_ts v_s,   P_ts = scale sum_i q_ti k_si exp(b_ti - b_si),
 *     S' = diag(exp(b_end)) S + sum_s (k_s exp(b_end - b_s)) v_s^T.
 * 1. `pairs`, a block for each chunk: P, and the decayed queries and keys, to scratch. Pairs in a sub-block of 16 get
 *    exact exponentials of b_t - b_s in FP32; others go through the first position r of t's sub-block,
 *    exp(b_t - r) exp(r - b_s), on tensor cores. No exponent is positive.
 * 2. `scan_values`, a block for each head and tile of value columns: S^T stays in registers, FP32, as the accumulators
 * of its update and, rounded, as the first operand of S^T (q exp(b))^T. Each warp owns 16 columns: warps share loads
 *    and nothing else, and no state is ever stored. Reversed in time, with keys and queries exchanged and P
 *    transposed, the same kernel gives dv.
 *
 * Rounded to BF16: the decayed queries and keys, P, and S where it is multiplied; S itself, b and all sums are FP32.
 *
 * Floor at batch 16, seq 2048, heads 4, key 128, value 256: 268 MB (q, k, gate, v in, o out), 0.09 ms at 2.9 TB/s, and
 * 24 GFLOP, 0.03 ms on tensor cores. With its scratch (84 MB written, read by each value tile, mostly out of L2) the
 * plan moves 436 MB, 0.15 ms.
 */
#include "gla_values.cuh"

/* ---- pairs ---- */

enum { TILES = 36 }; /* of two positions by two, that a sub-block's pairs s <= t cover */

/* Off the diagonal of sub-blocks: P of sub-blocks (row, column), column < row, for these channels. */
static __device__ __forceinline__ void add_apart(float (&p)[2][4], const chunk_tile *c, int row, int column) {
    const int lane = threadIdx.x % 32, g = lane / 4, first = row * SUB, t = first + g, s = column * SUB + g;
    const bool linked[2] = {c->doc[t] == c->doc[first], c->doc[t + 8] == c->doc[first]};
#pragma unroll 1 /* registers */
    for (int i = lane % 4 * 2; i < CHANNELS; i += 16) {
        uint32_t q[4];
#pragma unroll
        for (int part = 0; part < 4; part++) {
            const int at = t + part % 2 * 8, channel = i + part / 2 * 8;
            q[part] = decay_pair(*(const uint32_t *)&c->q[at][channel], *(const float2 *)&c->b[at][channel],
                                 *(const float2 *)&c->b[first][channel], linked[part % 2]);
        }
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const int at = s + n * 8;
            uint32_t k[2];
            for (int part = 0; part < 2; part++)
                k[part] =
                    decay_pair(*(const uint32_t *)&c->k[at][i + part * 8], *(const float2 *)&c->b[first][i + part * 8],
                               *(const float2 *)&c->b[at][i + part * 8], c->doc[at] == c->doc[first]);
            mma(p[n], q, k[0], k[1]);
        }
    }
}

static __device__ __forceinline__ float4 unpack4(const bf16 *x) {
    const uint2 u = *(const uint2 *)x;
    return make_float4(low_bf16(u.x), high_bf16(u.x), low_bf16(u.y), high_bf16(u.y));
}

static __device__ __forceinline__ float decayed_dot(float4 q, float4 k, float4 to, float4 from) {
    return q.x * k.x * exp2_approx(to.x - from.x) + q.y * k.y * exp2_approx(to.y - from.y) +
           q.z * k.z * exp2_approx(to.z - from.z) + q.w * k.w * exp2_approx(to.w - from.w);
}

/* P of positions t, t + 1 and s, s + 1: every fourth group of four channels. What lies above the diagonal or in another
 * document is rubbish, and dropped later. */
static __device__ __forceinline__ void add_near(float (&p)[4], const chunk_tile *c, int t, int s) {
#pragma unroll 1 /* registers */
    for (int i = threadIdx.x % 4 * 4; i < CHANNELS; i += 16) {
        const float4 k0 = unpack4(&c->k[s][i]), k1 = unpack4(&c->k[s + 1][i]);
        const float4 from0 = *(const float4 *)&c->b[s][i], from1 = *(const float4 *)&c->b[s + 1][i];
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const float4 q = unpack4(&c->q[t + row][i]), to = *(const float4 *)&c->b[t + row][i];
            p[row * 2] += decayed_dot(q, k0, to, from0);
            p[row * 2 + 1] += decayed_dot(q, k1, to, from1);
        }
    }
}

/* The decayed queries and keys of these channels, and exp(b_end). */
static __device__ __forceinline__ void store_decayed(const chunk_tile *c, const gla_args &a, int64_t record, int begin,
                                                     int channel) {
    for (int u = threadIdx.x; u < CHUNK * CHANNELS / 8; u += PAIR_THREADS) {
        const int t = u / (CHANNELS / 8), i = u % (CHANNELS / 8) * 8;
        if (channel + i >= a.key_pad)
            continue;
        const bool from_before = c->doc[t] < begin, to_end = c->doc[t] == c->doc[CHUNK - 1];
        uint32_t q[4], k[4];
#pragma unroll
        for (int pair = 0; pair < 4; pair++) {
            const float2 b = *(const float2 *)&c->b[t][i + 2 * pair];
            const float2 end = *(const float2 *)&c->b[CHUNK - 1][i + 2 * pair];
            const uint32_t x = *(const uint32_t *)&c->q[t][i + 2 * pair];
            q[pair] = from_before ? pack_bf16(a.scale * low_bf16(x) * exp2_approx(b.x),
                                              a.scale * high_bf16(x) * exp2_approx(b.y))
                                  : 0;
            k[pair] = decay_pair(*(const uint32_t *)&c->k[t][i + 2 * pair], end, b, to_end);
        }
        const int64_t at = (record * CHUNK + t) * a.key_pad + channel + i;
        *(uint4 *)(a.queries + at) = make_uint4(q[0], q[1], q[2], q[3]);
        *(uint4 *)(a.keys + at) = make_uint4(k[0], k[1], k[2], k[3]);
    }
    const int own = channel + threadIdx.x;
    if (threadIdx.x < CHANNELS && own < a.key_pad)
        a.decay[record * a.key_pad + own] = c->begins[0] | c->begins[1] ? 0 : exp2_approx(c->b[CHUNK - 1][threadIdx.x]);
}

/* Warp w takes the w-th pair of different sub-blocks, if there is one. Tiles on the diagonal go to groups of four lanes
 * in two rounds and a third one of the two warps that have no such pair. */
static __global__ void __launch_bounds__(PAIR_THREADS, 3) pairs(const gla_args a) {
    chunk_tile *c = (chunk_tile *)shared_memory();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = threadIdx.x / 4;
    const int begin = blockIdx.x * CHUNK, batch = blockIdx.y / a.heads, head = blockIdx.y % a.heads;
    const int64_t record = (int64_t)blockIdx.y * a.chunks + blockIdx.x;
    const int64_t head_row = (((int64_t)batch * a.seq + begin) * a.heads + head) * a.key_dim;
    const int row = warp < 1 ? 1 : warp < 3 ? 2 : 3, column = warp - row * (row - 1) / 2;
    int place[3]; /* CHUNK t + s of a tile */
#pragma unroll
    for (int round = 0; round < 3; round++) {
        const int index = round < 2 ? round * 64 + group : 80 + group, first = index / TILES * SUB;
        int above = index % TILES, i = 0;
        while (above > i)
            above -= ++i;
        place[round] = (first + 2 * i) * CHUNK + first + 2 * above;
    }
    const bool third = group >= 48;
    if (blockIdx.x + blockIdx.y == 0 && threadIdx.x < 3) { /* the backward's next kernels fill them */
        if (a.amax[threadIdx.x])
            *a.amax[threadIdx.x] = 0;
        if (a.turned[threadIdx.x])
            *a.turned[threadIdx.x] = 0;
    }
    float apart[2][4] = {{0}}, near[3][4] = {{0}};
    load_documents(c, a, batch, begin);
    for (int channel = 0; channel < a.key_pad; channel += CHANNELS) {
        __syncthreads();
        load_channels(c, a, head_row, begin, channel);
        store_decayed(c, a, record, begin, channel);
        if (warp < 6)
            add_apart(apart, c, row, column);
#pragma unroll
        for (int round = 0; round < 3; round++)
            if (round < 2 || third)
                add_near(near[round], c, place[round] / CHUNK, place[round] % CHUNK);
    }
    __syncthreads();
    bf16(*p)[PITCH] = (bf16(*)[PITCH])shared_memory(); /* over the tile's b */
    for (int u = threadIdx.x; u < CHUNK * PITCH / 8; u += PAIR_THREADS)
        ((uint4 *)p)[u] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    if (warp < 6)
        for (int n = 0; n < 2; n++)
            for (int half = 0; half < 2; half++)
                *(uint32_t *)&p[row * SUB + lane / 4 + half * 8][column * SUB + n * 8 + lane % 4 * 2] =
                    pack_bf16(a.scale * apart[n][half * 2], a.scale * apart[n][half * 2 + 1]);
#pragma unroll
    for (int round = 0; round < 3; round++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float sum = near[round][i];
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            const int at = place[round] / CHUNK + i / 2, from = place[round] % CHUNK + i % 2;
            if (lane % 4 == 0 && (round < 2 || third) && from <= at && c->doc[from] == c->doc[at])
                p[at][from] = (bf16)pack_bf16(a.scale * sum, 0);
        }
    }
    __syncthreads();
    for (int u = threadIdx.x; u < CHUNK * CHUNK / 8; u += PAIR_THREADS)
        ((uint4 *)(a.pairs + record * CHUNK * CHUNK))[u] = *(const uint4 *)&p[u / 8][u % 8 * 8];
}

cudaError_t gla_launch_pairs(const ni_cuda_gla *g, const gla_args &a, void *stream) {
    return launch(pairs, dim3((unsigned)a.chunks, (unsigned)(g->batch * g->heads)), PAIR_THREADS, sizeof(chunk_tile),
                  stream, a);
}

/* ---- scan ---- */

template <int key> static __global__ void __launch_bounds__(SCAN_THREADS) scan(const gla_args a) {
    scan_values<key, false>(a, blockIdx.x);
}

template <int key> static cudaError_t launch_scan(const ni_cuda_gla *g, const gla_args &a, void *stream) {
    const dim3 grid((unsigned)gla_value_tiles(a), (unsigned)(g->batch * g->heads));
    return launch(scan<key>, grid, SCAN_THREADS, sizeof(value_tile<key>), stream, a);
}

/* ---- the door ---- */

/* The next `bytes` of the workspace. */
static void *take(char *base, size_t *used, size_t bytes) {
    char *at = base ? base + *used : NULL;
    *used += (bytes + 255) / 256 * 256;
    return at;
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
    for (a->key_pad = CHANNELS; a->key_pad < a->key_dim;)
        a->key_pad *= 2;
    for (a->value_pad = 64; a->value_pad < a->value_dim;)
        a->value_pad *= 2;
    a->scale = g->scale;
    a->doc_start = g->doc_start;
    const size_t records = (size_t)(g->batch * g->heads * a->chunks), rows = records * CHUNK, key = (size_t)a->key_pad;
    char *base = (char *)workspace;
    size_t used = 0;
    a->queries = (bf16 *)take(base, &used, rows * key * sizeof *a->queries);
    a->keys = (bf16 *)take(base, &used, rows * key * sizeof *a->keys);
    a->pairs = (bf16 *)take(base, &used, rows * CHUNK * sizeof *a->pairs);
    a->decay = (float *)take(base, &used, records * key * sizeof *a->decay);
    if (backward) {
        a->states = (uint4 *)take(base, &used, records * key * (size_t)a->value_pad * sizeof(bf16));
        a->slopes = (uint4 *)take(base, &used, records * key * (size_t)a->value_pad * sizeof(bf16));
    }
    *bytes = used;
    return true;
}

size_t ni_cuda_gla_workspace_bytes(const ni_cuda_gla *g, int backward) {
    gla_args a;
    size_t bytes = 0;
    return gla_arguments(g, &a, NULL, backward != 0, &bytes) ? bytes : 0;
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
    if (error)
        return error;
    switch (a.key_pad) {
    case 64:
        return launch_scan<64>(g, a, stream);
    case 128:
        return launch_scan<128>(g, a, stream);
    default:
        return launch_scan<256>(g, a, stream);
    }
}
