/* gla_finish.cu: the last part of the backward of gated linear attention (gla_backward.cu): a block for each chunk takes
 * the states around it, do and v, and leaves dq, dk and dgate. Exponentials are as in `pairs` of gla_forward.cu; for dk
 * they go through the last position of s's sub-block.
 */
#include "gla_states.cuh"
#include "turned.cuh"

/* The smaller; NaN where one is NaN. */
static __device__ __forceinline__ float min_or_nan(float x, float y) {
    float least;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(least) : "f"(x), "f"(y));
    return least;
}

typedef struct finish_tile {
    float d_pairs[CHUNK][PITCH];
    union {
        struct {
            bf16 d_o[2][CHUNK][PITCH], v[2][CHUNK][PITCH];
        } values;
        struct {
            chunk_tile chunk;
            float q[CHUNK][PITCH], k[CHUNK][PITCH]; /* S do_t and D v_t, then dq and dk but for pairs in a sub-block */
            float crossing[CHANNELS];
        } keys;
    };
} finish_tile;

/* A warp's sums over the values: positions 16 m + g, + 8 of keys 16 group + 8 n + pair, + 1 of lane 4 g + pair / 2. */
typedef struct from_states {
    float q[CHUNK / 16][2][4], k[CHUNK / 16][2][4]; /* S do_t, D v_t */
    float crossing[2];                              /* of keys 16 group + g, + 8: of rowsum(S' * D) */
} from_states;

/* sums += x S^T of 16 keys and 16 values, x [CHUNK, 16] from column `column` of a tile. */
static __device__ __forceinline__ void add_state(float (&sums)[CHUNK / 16][2][4], const bf16 (*x)[PITCH], int column,
                                                 uint4 s) {
#pragma unroll
    for (int m = 0; m < CHUNK / 16; m++) {
        uint32_t a[4];
        load_a(a, &x[0][0], PITCH, 16 * m, column);
        mma(sums[m][0], a, s.x, s.z);
        mma(sums[m][1], a, s.y, s.w);
    }
}

static __device__ __forceinline__ float dot2(uint32_t x, uint32_t y) {
    return low_bf16(x) * low_bf16(y) + high_bf16(x) * high_bf16(y);
}

/* One reading of do and v. What states give for the 16 keys `group`, a warp each, in order of values; and, where it is
 * asked for, dP: warp w takes sub-block w / 2 of rows and half w % 2 of the columns. */
static __device__ __forceinline__ void read_values(finish_tile *c, from_states &f, const gla_args &a, int64_t record,
                                                   int batch, int head, int begin, int group, bool pairs) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t pitch = (int64_t)a.heads * a.value_dim;
    const int64_t head_row = ((int64_t)batch * a.seq + begin) * pitch + (int64_t)head * a.value_dim;
    const bool here = 16 * group < a.key_pad, before = here && begin > 0, after = here && begin + CHUNK < a.seq;
    const uint4 *s = a.states + state_at(a, record, group, 0), *d = a.slopes + state_at(a, record, group, 0);
    const uint4 *next = a.states + state_at(a, record + 1, group, 0);
    auto load = [&](int column) {
        const int at = column / CHANNELS % 2;
        copy_tile<CHANNELS, PAIR_THREADS>(&c->values.d_o[at][0][0], PITCH, a.d_o + head_row + column, pitch,
                                          a.seq - begin, a.value_dim - column);
        copy_tile<CHANNELS, PAIR_THREADS>(&c->values.v[at][0][0], PITCH, a.v + head_row + column, pitch, a.seq - begin,
                                          a.value_dim - column);
        copy_commit();
    };
    const int row = warp / 2, half = warp % 2;
    float p[4][4] = {{0}};
    f = from_states();
    load(0);
    for (int column = 0; column < a.value_dim; column += CHANNELS) {
        uint4 own[CHANNELS / 16], slopes[CHANNELS / 16];
#pragma unroll
        for (int k = 0; k < CHANNELS / 16; k++) {
            own[k] = before ? s[(column / 16 + k) * 32] : make_uint4(0, 0, 0, 0);
            slopes[k] = after ? d[(column / 16 + k) * 32] : make_uint4(0, 0, 0, 0);
        }
        if (column + CHANNELS < a.value_dim) {
            load(column + CHANNELS);
            copy_wait<1>();
        } else {
            copy_wait<0>();
        }
        __syncthreads();
        const int at = column / CHANNELS % 2;
        if (pairs) {
#pragma unroll
            for (int k = 0; k < CHANNELS / 16; k++) {
                uint32_t x[4];
                load_a(x, &c->values.d_o[at][0][0], PITCH, 16 * row, 16 * k);
#pragma unroll
                for (int n = 0; n < 2; n++) {
                    if (2 * half + n > row)
                        continue;
                    uint32_t b[4];
                    load_b_columns(b, &c->values.v[at][0][0], PITCH, 16 * k, 32 * half + 16 * n);
                    mma(p[2 * n], x, b[0], b[1]);
                    mma(p[2 * n + 1], x, b[2], b[3]);
                }
            }
        }
        if (before)
#pragma unroll
            for (int k = 0; k < CHANNELS / 16; k++)
                add_state(f.q, c->values.d_o[at], 16 * k, own[k]);
        if (after) {
#pragma unroll
            for (int k = 0; k < CHANNELS / 16; k++)
                own[k] = next[(column / 16 + k) * 32];
#pragma unroll
            for (int k = 0; k < CHANNELS / 16; k++)
                add_state(f.k, c->values.v[at], 16 * k, slopes[k]);
#pragma unroll
            for (int k = 0; k < CHANNELS / 16; k++) {
                f.crossing[0] += dot2(own[k].x, slopes[k].x) + dot2(own[k].z, slopes[k].z);
                f.crossing[1] += dot2(own[k].y, slopes[k].y) + dot2(own[k].w, slopes[k].w);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        f.crossing[i] += shuffle_xor(f.crossing[i], 1);
        f.crossing[i] += shuffle_xor(f.crossing[i], 2);
    }
    if (!pairs)
        return;
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int part = 0; part < 4; part++)
            c->d_pairs[16 * row + lane / 4 + part / 2 * 8][32 * half + 8 * n + lane % 4 * 2 + part % 2] =
                a.scale * p[n][part];
}

/* Drops dP above the diagonal and between documents. */
static __device__ __forceinline__ void mask_d_pairs(finish_tile *c) {
    const int32_t *doc = c->keys.chunk.doc;
    for (int u = threadIdx.x; u < CHUNK * CHUNK; u += PAIR_THREADS) {
        const int t = u / CHUNK, s = u % CHUNK;
        if (s > t || doc[s] != doc[t])
            c->d_pairs[t][s] = 0;
    }
}

/* To the channels that the block takes next, of which a warp's are from `channel` on. */
static __device__ __forceinline__ void leave_sums(finish_tile *c, const from_states &f, int channel) {
    const int g = threadIdx.x % 32 / 4, pair = threadIdx.x % 4 * 2;
#pragma unroll
    for (int m = 0; m < CHUNK / 16; m++)
#pragma unroll
        for (int part = 0; part < 4; part++) {
            const int t = 16 * m + g + part / 2 * 8, i = channel + part % 2 * 8 + pair;
            const float *q = &f.q[m][part % 2][part / 2 * 2], *k = &f.k[m][part % 2][part / 2 * 2];
            *(float2 *)&c->keys.q[t][i] = make_float2(q[0], q[1]);
            *(float2 *)&c->keys.k[t][i] = make_float2(k[0], k[1]);
        }
    if (pair == 0) {
        c->keys.crossing[channel + g] = f.crossing[0];
        c->keys.crossing[channel + g + 8] = f.crossing[1];
    }
}

/* x at rows s, s + 1 of a channel, times 2^b of the difference; zero where not linked. */
static __device__ __forceinline__ uint32_t decay_rows(const bf16 (*x)[PITCH], const float (*b)[PITCH], int s,
                                                      int channel, float reference, bool away,
                                                      const bool (&linked)[2]) {
    float y[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float exponent = away ? b[s + i][channel] - reference : reference - b[s + i][channel];
        y[i] = linked[i] ? low_bf16(x[s + i][channel]) * exp2_approx(exponent) : 0;
    }
    return pack_bf16(y[0], y[1]);
}

/* dq and dk of one warp's eight channels but for pairs in a sub-block. */
static __device__ __forceinline__ void add_far(finish_tile *c, const gla_args &a, int begin) {
    const chunk_tile *chunk = &c->keys.chunk;
    const int lane = threadIdx.x % 32, g = lane / 4, pair = lane % 4 * 2, channel = threadIdx.x / 32 * 8;
    const int32_t *doc = chunk->doc;
#pragma unroll 1 /* registers */
    for (int own = 0; own < SUBS; own++) {
        const int first = own * SUB, last = first + SUB - 1;
        float dq[4] = {0}, dk[4] = {0};
#pragma unroll 1
        for (int other = 0; other < SUBS; other++) {
            if (other == own)
                continue;
            const bool away = other > own; /* later positions: what dk needs */
            const int reference = away ? last : first;
            uint32_t x[4], b[2];
#pragma unroll
            for (int part = 0; part < 4; part++) {
                const int m = first + g + part % 2 * 8, k = other * SUB + pair + part / 2 * 8;
                x[part] = away ? pack_bf16(c->d_pairs[k][m], c->d_pairs[k + 1][m])
                               : pack_bf16(c->d_pairs[m][k], c->d_pairs[m][k + 1]);
            }
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const int k = other * SUB + pair + part * 8;
                const bool linked[2] = {doc[k] == doc[reference], doc[k + 1] == doc[reference]};
                b[part] = decay_rows(away ? chunk->q : chunk->k, chunk->b, k, channel + g,
                                     chunk->b[reference][channel + g], away, linked);
            }
            if (away)
                mma(dk, x, b[0], b[1]);
            else
                mma(dq, x, b[0], b[1]);
        }
#pragma unroll
        for (int part = 0; part < 4; part++) {
            const int t = first + g + part / 2 * 8, i = channel + pair + part % 2;
            const float b = chunk->b[t][i];
            const float far_q = doc[t] == doc[first] ? dq[part] * exp2_approx(b - chunk->b[first][i]) : 0;
            const float far_k = doc[t] == doc[last] ? dk[part] * exp2_approx(chunk->b[last][i] - b) : 0;
            const float before = doc[t] < begin ? a.scale * exp2_approx(b) * c->keys.q[t][i] : 0;
            const float after =
                doc[t] == doc[CHUNK - 1] ? exp2_approx(chunk->b[CHUNK - 1][i] - b) * c->keys.k[t][i] : 0;
            c->keys.q[t][i] = far_q + before;
            c->keys.k[t][i] = far_k + after;
        }
    }
}

/* One channel of one sub-block: adds the pairs inside it, and leaves dq and dk in place of q and k, and q dq - k dk in
 * that of S do. Between documents dP is 0, and the exponent is kept from overflowing. */
static __device__ __forceinline__ void add_sub_block(finish_tile *c) {
    chunk_tile *chunk = &c->keys.chunk;
    const int i = threadIdx.x % CHANNELS, first = threadIdx.x / CHANNELS * SUB;
    float b[SUB], k[SUB], dk[SUB];
#pragma unroll
    for (int s = 0; s < SUB; s++) {
        b[s] = chunk->b[first + s][i];
        k[s] = low_bf16(chunk->k[first + s][i]);
        dk[s] = c->keys.k[first + s][i];
    }
#pragma unroll
    for (int t = 0; t < SUB; t++) {
        const float q = low_bf16(chunk->q[first + t][i]);
        float dq = c->keys.q[first + t][i];
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
        c->keys.q[first + t][i] = q * dq;
    }
#pragma unroll
    for (int s = 0; s < SUB; s++) {
        chunk->k[first + s][i] = (bf16)pack_bf16(dk[s], 0);
        c->keys.q[first + s][i] -= k[s] * dk[s];
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
    chunk_tile *chunk = &c->keys.chunk;
    const int begin = blockIdx.x * CHUNK, batch = blockIdx.y / a.heads, head = blockIdx.y % a.heads;
    const int64_t record = (int64_t)blockIdx.y * a.chunks + blockIdx.x, pitch = (int64_t)a.heads * a.key_dim;
    const int64_t head_row = (((int64_t)batch * a.seq + begin) * a.heads + head) * a.key_dim;
    const int own = threadIdx.x % CHANNELS, sub = threadIdx.x / CHANNELS, warp = threadIdx.x / 32;
    const ni_known_amaxes known = ni_known_of(a.amax[warp / SUBS], a.turned[warp / SUBS]);
    from_states sums;
#pragma unroll 1
    for (int channel = 0; channel < a.key_dim; channel += CHANNELS) {
        const int half = channel / CHANNELS % 2; /* eight warps have the sums of two times CHANNELS keys */
        if (half == 0) {
            read_values(c, sums, a, record, batch, head, begin, channel / 16 + warp, channel == 0);
            load_documents(chunk, a, batch, begin);
            __syncthreads();
            if (channel == 0)
                mask_d_pairs(c);
        }
        if (warp / (CHANNELS / 16) == half)
            leave_sums(c, sums, warp % (CHANNELS / 16) * 16);
        const uint32_t cut = load_channels(chunk, a, head_row, begin, channel);
        add_far(c, a, begin);
        __syncthreads();
        add_sub_block(c);
        const uint32_t begins = begins_in(chunk, sub);
        const float(*slopes)[PITCH] = &c->keys.q[sub * SUB];
        float sum = 0;
#pragma unroll
        for (int t = SUB - 1; t >= 0; t--)
            sum = begins >> t & 1 ? 0 : sum + slopes[t][own];
        chunk->total[sub][own] = sum;
        __syncthreads();
        sum = c->keys.crossing[own];
        for (int later = SUBS - 1; later > sub; later--)
            sum = chunk->total[later][own] + (begins_in(chunk, later) ? 0 : sum);
#pragma unroll 4 /* registers */
        for (int t = SUB - 1; t >= 0; t--) {
            const int row = sub * SUB + t;
            sum += slopes[t][own];
            if (begin + row < a.seq && channel + own < a.key_dim)
                a.dgate[head_row + row * pitch + channel + own] = cut >> t & 1 ? 0 : sum;
            sum = begins >> t & 1 ? 0 : sum;
        }
        for (int u = threadIdx.x; u < CHUNK * CHANNELS / 8; u += PAIR_THREADS) {
            const int t = u / (CHANNELS / 8), i = u % (CHANNELS / 8) * 8;
            if (begin + t < a.seq && channel + i < a.key_dim) {
                *(uint4 *)(a.dq + head_row + t * pitch + channel + i) = *(const uint4 *)&chunk->q[t][i];
                *(uint4 *)(a.dk + head_row + t * pitch + channel + i) = *(const uint4 *)&chunk->k[t][i];
            }
        }
        join_maxima(chunk, a, known);
        __syncthreads();
    }
}

cudaError_t gla_launch_finish(const ni_cuda_gla *g, const gla_args &a, void *stream) {
    return launch(finish, dim3((unsigned)a.chunks, (unsigned)(g->batch * g->heads)), PAIR_THREADS, sizeof(finish_tile),
                  stream, a);
}
