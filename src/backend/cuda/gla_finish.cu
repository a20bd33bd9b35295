/* gla_finish.cu: the last kernel of gla_backward.cu: what dP adds to what the scans left; dq, dk and dgate of a chunk.
 *
 * Exponentials go through first and last positions of sub-blocks, and inside of one, in FP32, through its first where
 * gates are not steep and no document begins; else each pair has its own.
 */
#include "backend/cuda/kernels.h"
#include "gla_chunk.cuh"
#include "turned.cuh"

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
    float dbias[SUBS][CHANNELS];
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

/* dgate of a thread's channel, as many positions as there are. */
static __device__ __forceinline__ void store_column(float *to, int64_t pitch, const float (&dgate)[SUB], int here) {
#pragma unroll
    for (int t = 0; t < SUB; t++, to += pitch)
        if (t < here)
            *to = dgate[t];
}

/* da of it, from `first` on; returns what comes to dbias. */
static __device__ __forceinline__ float store_gate_slopes(const gla_made &made, const float (&dgate)[SUB],
                                                          int64_t first, int64_t pitch, int here, int column) {
    const float bias = here > 0 ? made.bias[column] : 0;
    float x[SUB], dbias = 0;
#pragma unroll
    for (int t = 0; t < SUB; t++)
        x[t] = t < here ? low_bf16(made.a[first + t * pitch]) + bias : 0;
#pragma unroll
    for (int t = 0; t < SUB; t++) {
        if (t >= here)
            continue;
        const float slope = slope_of(x[t], dgate[t], made);
        made.da[first + t * pitch] = (bf16)pack_bf16(slope, 0);
        dbias += slope;
    }
    return dbias;
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

template <bool made> static __global__ void __launch_bounds__(PAIR_THREADS, 2) finish(const gla_args a) {
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
        const loaded found = load_channels<made>(chunk, a, head_row, begin, head, channel);
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
        const int64_t first = head_row + sub * SUB * pitch + channel + own;
        float dgate[SUB];
#pragma unroll
        for (int t = SUB - 1; t >= 0; t--) {
            sum += slopes[t][own];
            dgate[t] = found.cut >> t & 1 ? 0 : sum;
            sum = begins >> t & 1 ? 0 : sum;
        }
        if (made)
            c->dbias[sub][own] = store_gate_slopes(a.made, dgate, first, pitch, here, head * a.key_dim + channel + own);
        else
            store_column(a.dgate + first, pitch, dgate, here);
        store_slopes(chunk, a, head_row + channel, pitch, a.seq - begin, a.key_dim - channel);
        join_maxima(chunk, a, known);
        __syncthreads();
        if (made && sub == 0 && channel + own < a.key_dim)
            a.made.dbias[((int64_t)batch * a.chunks + blockIdx.x) * pitch + head * a.key_dim + channel + own] =
                c->dbias[0][own] + c->dbias[1][own] + c->dbias[2][own] + c->dbias[3][own];
    }
}

cudaError_t gla_launch_finish(const ni_cuda_gla *g, const gla_args &a, void *stream) {
    const dim3 grid((unsigned)a.chunks, (unsigned)(g->batch * g->heads));
    const auto kernel = a.made.a ? finish<true> : finish<false>;
    cudaError_t error = allow_shared(kernel, sizeof(finish_tile));
    if (!error)
        error =
            (cudaError_t)ni_launch_following((cudaStream_t)stream, kernel, grid, PAIR_THREADS, sizeof(finish_tile), a);
    return error || !a.made.a ? error
                              : (cudaError_t)ni_cuda_launch_add_partials(stream, (float *)g->dbias, a.made.dbias,
                                                                         g->batch * a.chunks, g->heads * g->key_dim);
}
