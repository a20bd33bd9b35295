/* gla_chunk.cuh: what the gated linear attention kernels share: a chunk, its documents and its gates.
 *
 * A chunk is 64 positions of one head, with b_t the sum of the gates from the chunk's begin, or from the position
 * after the last begin of a document, to t; in units of ln 2, FP32. A position at which a document begins has b = 0 and
 * its gate counts nowhere. Two positions are linked only inside a document, so every exponent that counts is a
 * difference b_t - b_s <= 0 of one document.
 */
#ifndef NI_CUDA_GLA_CHUNK_CUH
#define NI_CUDA_GLA_CHUNK_CUH

#include "follow.cuh"
#include "gla.h"
#include "mma.cuh"

enum {
    CHUNK = 64,
    SUB = 16, /* positions of a sub-block */
    SUBS = CHUNK / SUB,
    CHANNELS = 64,        /* key channels that the kernels of pairs take at a time */
    PITCH = CHANNELS + 8, /* of their rows in shared memory: no bank conflicts */
    PAIR_THREADS = 256,   /* one for each channel and sub-block */
};

/* What gates are made of where none are given (gla_gate.cuh), and what becomes of dgate then. */
typedef struct gla_made {
    const bf16 *a; /* [rows, heads * key_dim]; NULL: they are given */
    const float *bias;
    float per, clamp; /* 1 / normalizer; in units of ln 2 */
    bf16 *da;
    float *dbias; /* [batch * chunks, heads * key_dim]: of each chunk */
} gla_made;

/* All kernels take this. A record is a chunk of a head: (batch * heads + head) * chunks + chunk. */
typedef struct gla_args {
    int seq, heads, key_dim, value_dim, chunks;
    int key_pad; /* key_dim in the scratch: 16, 32, 64, 128 or 256; zeros beyond key_dim */
    float scale;
    const int32_t *doc_start;
    const bf16 *q, *k, *v, *d_o;
    const float *gate;
    bf16 *o, *dq, *dk, *dv;
    float *dgate;
    gla_made made;
    uint32_t *amax[3], *turned[3]; /* of dq, dk, dv; NULL: nobody asks */
    /* scratch, by record */
    bf16 *queries; /* [CHUNK, key_pad]: scale q exp(b_t), 0 in a document that began in the chunk */
    bf16 *keys;    /* [CHUNK, key_pad]: k exp(b_end - b_t), 0 in a document that ended in the chunk */
    bf16 *pairs;   /* [CHUNK, CHUNK]: scale sum_i q_t k_s exp(b_t - b_s), 0 where s > t or in another document */
    float *decay;  /* [key_pad]: exp(b_end), 0 where a document begins in the chunk */
    uint4 *states; /* S before the chunk, BF16, as the threads of scan_keys hold it */
    float *inter_q, *inter_k; /* [CHUNK, key_pad]: S do_t with S before the chunk, D v_t with D after it */
    float *crossing;          /* [key_pad]: row sums of S * D after the chunk */
    float *d_pairs;           /* [records, CHUNK, CHUNK] dP, without a mask */
} gla_args;

/* gla_forward.cu; also the first half of the backward. */
cudaError_t gla_launch_pairs(const ni_cuda_gla *g, const gla_args &a, void *stream);
cudaError_t gla_launch_scan_values(const ni_cuda_gla *g, const gla_args &a, bool reverse, void *stream);
bool gla_arguments(const ni_cuda_gla *g, gla_args *a, void *workspace, bool backward, size_t *bytes);

/* gla_finish.cu: behind the kernel before it. */
cudaError_t gla_launch_finish(const ni_cuda_gla *g, const gla_args &a, void *stream);

/* ---- tiles: fragments of mma from shared memory ---- */

/* A [16, 16] from rows of m. */
static __device__ __forceinline__ void load_a(uint32_t (&a)[4], const bf16 *tile, int pitch, int m, int k) {
    const int lane = threadIdx.x % 32;
    load_matrix(a, tile + (m + lane % 16) * pitch + k + lane / 16 * 8);
}

/* A [16, 16] from rows of k. */
static __device__ __forceinline__ void load_a_columns(uint32_t (&a)[4], const bf16 *tile, int pitch, int m, int k) {
    const int lane = threadIdx.x % 32;
    load_matrix_trans(a, tile + (k + lane % 8 + lane / 16 * 8) * pitch + m + lane / 8 % 2 * 8);
}

/* B [16, 16] from rows of n: b[0], b[1] for the first eight n, b[2], b[3] for the others. */
static __device__ __forceinline__ void load_b_columns(uint32_t (&b)[4], const bf16 *tile, int pitch, int k, int n) {
    const int lane = threadIdx.x % 32;
    load_matrix(b, tile + (n + lane % 8 + lane / 16 * 8) * pitch + k + lane / 8 % 2 * 8);
}

/* B [16, 16] from rows of k. */
static __device__ __forceinline__ void load_b(uint32_t (&b)[4], const bf16 *tile, int pitch, int k, int n) {
    const int lane = threadIdx.x % 32;
    load_matrix_trans(b, tile + (k + lane % 16) * pitch + n + lane / 16 * 8);
}

/* Starts the copy of [CHUNK, columns] of BF16; zeros beyond `rows` and `width`. Threads stand side by side, so each keeps
 * its columns from row to row. */
template <int columns, int threads>
static __device__ __forceinline__ void copy_tile(bf16 *to, int to_pitch, const bf16 *from, int64_t from_pitch, int rows,
                                                 int width) {
    enum { across = columns / 8 < threads ? columns / 8 : threads, at_once = threads / across };
#pragma unroll
    for (int begin = 0; begin < columns; begin += 8 * across) {
        const int first = threadIdx.x / across, column = begin + threadIdx.x % across * 8;
        const bf16 *own = from + first * from_pitch + column;
        const int here = column < width ? rows - first : 0;
#pragma unroll
        for (int row = 0; row < CHUNK; row += at_once)
            copy_async16(to + (first + row) * to_pitch + column, row < here ? own + row * from_pitch : from,
                         row < here);
    }
}

/* ---- gates that are made where they are read: of x = a + bias, in units of ln 2, as gla_gate.cu makes them ---- */

#define LOG2E 1.44269504f

static __device__ __forceinline__ float open_gate(float x, const gla_made &made) {
    const float y = x * LOG2E;
    return made.per * ((x < 0 ? y : 0) - __log2f(1 + exp2_approx(-fabsf(y))));
}

static __device__ __forceinline__ float gate_of(float x, const gla_made &made) {
    const float gate = open_gate(x, made);
    return gate < made.clamp ? made.clamp : gate;
}

/* da of dgate. */
static __device__ __forceinline__ float slope_of(float x, float dgate, const gla_made &made) {
    const float less = exp2_approx(-fabsf(x * LOG2E)), sigmoid = __fdividef(x > 0 ? less : 1, 1 + less); /* of -x */
    return open_gate(x, made) < made.clamp ? 0 : dgate * made.per * sigmoid;
}

/* ---- a chunk of CHANNELS channels, for the pairs inside it ---- */

typedef struct chunk_tile {
    float b[CHUNK][PITCH];
    bf16 q[CHUNK][PITCH], k[CHUNK][PITCH];
    float total[SUBS][CHANNELS];
    int32_t doc[CHUNK]; /* where its document begins; beyond the sequence, as at its end */
    uint32_t begins[2]; /* bit t: a document begins at t */
    uint32_t unused[2];
} chunk_tile;

/* Sixteen bits: where documents begin in a sub-block. */
static __device__ __forceinline__ uint32_t begins_in(const chunk_tile *c, int sub) {
    return c->begins[sub / 2] >> sub % 2 * SUB & 0xffffu;
}

/* Barrier needed after. */
static __device__ __forceinline__ void load_documents(chunk_tile *c, const gla_args &a, int batch, int begin) {
    const int t = threadIdx.x;
    if (t < CHUNK) {
        const int at = begin + t;
        c->doc[t] = a.doc_start[(int64_t)batch * a.seq + (at < a.seq ? at : a.seq - 1)];
        const uint32_t bits = __ballot_sync(~0u, at < a.seq && c->doc[t] == at);
        if (t % 32 == 0)
            c->begins[t / 32] = bits;
    }
}

/* Gates of a sub-block that together decay by no more than this, in units of ln 2, are not steep: exp(b_t - b_s) is then
 * exp(b_t - r) exp(r - b_s), neither beyond FP32. */
#define STEEPEST 40.0f

/* r: b of the sub-block's first position, for those of its document; the later ones' b begin at 0. */
static __device__ __forceinline__ bool counts_from_first(uint32_t begins, int t) {
    return (begins & ((2u << t) - 1)) == 0;
}

static __device__ __forceinline__ float reference_of(uint32_t begins, int t, float first) {
    return counts_from_first(begins, t) ? first : 0;
}

static __device__ __forceinline__ float2 reference_of(uint32_t begins, int t, float2 first) {
    return counts_from_first(begins, t) ? first : make_float2(0, 0);
}

/* What load_channels has found. */
typedef struct loaded {
    uint32_t
        cut; /* bit t: nothing passes position t of this thread's, a document begins there or its decay is 0 in FP32 */
    bool steep; /* some of the block's are */
} loaded;

/* Loads channels [channel, channel + CHANNELS) of a head and sums their gates, a thread for each channel of a sub-block.
 * Ends in a barrier. */
template <bool made>
static __device__ __forceinline__ loaded load_channels(chunk_tile *c, const gla_args &a, int64_t head_row, int begin,
                                                       int head, int channel) {
    const float lowest = -180;
    const int own = channel + threadIdx.x % CHANNELS, sub = threadIdx.x / CHANNELS;
    const int rows = a.seq - begin, here = own < a.key_dim ? rows - sub * SUB : 0;
    const int64_t pitch = (int64_t)a.heads * a.key_dim;
    copy_tile<CHANNELS, PAIR_THREADS>(&c->q[0][0], PITCH, a.q + head_row + channel, pitch, rows, a.key_dim - channel);
    copy_tile<CHANNELS, PAIR_THREADS>(&c->k[0][0], PITCH, a.k + head_row + channel, pitch, rows, a.key_dim - channel);
    copy_commit();
    const int64_t first = head_row + sub * SUB * pitch + own;
    const float bias = made && here > 0 ? a.made.bias[head * a.key_dim + own] : 0;
    float gate[SUB], fall = 0;
#pragma unroll
    for (int t = 0; t < SUB; t++) {
        const int64_t at = first + t * pitch;
        if (made)
            gate[t] = t < here ? gate_of(low_bf16(a.made.a[at]) + bias, a.made) : 0;
        else
            gate[t] = t < here ? a.gate[at] * LOG2E : 0;
        fall += t ? fabsf(gate[t]) : 0;
    }
    const uint32_t begins = begins_in(c, sub);
    const bool steep = !(fall <= STEEPEST);
    uint32_t cut = begins;
    if (steep || gate[0] < lowest) {
#pragma unroll
        for (int t = 0; t < SUB; t++)
            if (gate[t] < lowest) {
                gate[t] = lowest;
                cut |= 1u << t;
            }
    }
    const auto add_up = [&](float sum, auto each) {
        if (begins == 0) {
#pragma unroll
            for (int t = 0; t < SUB; t++)
                each(t, sum += gate[t]);
        } else {
#pragma unroll
            for (int t = 0; t < SUB; t++)
                each(t, sum = begins >> t & 1 ? 0 : sum + gate[t]);
        }
        return sum;
    };
    c->total[sub][own - channel] = add_up(0, [](int, float) {});
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int before = 0; before < SUBS - 1; before++)
        if (before < sub)
            sum = c->total[before][own - channel] + (begins_in(c, before) ? 0 : sum);
    add_up(sum, [&](int t, float b) { c->b[sub * SUB + t][own - channel] = b; });
    copy_wait<0>();
    return {cut, __syncthreads_or(steep) != 0};
}

/* Two neighbouring BF16 times 2^(to - from), rounded. */
static __device__ __forceinline__ uint32_t decay_pair(uint32_t x, float2 to, float2 from) {
    return pack_bf16(low_bf16(x) * exp2_approx(to.x - from.x), high_bf16(x) * exp2_approx(to.y - from.y));
}

/* Shared memory that a block may have on this device. */
static inline size_t gla_shared_limit(void) {
    int device = 0, bytes = 0;
    if (cudaGetDevice(&device) == cudaSuccess)
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return (size_t)bytes;
}

template <typename arguments> static cudaError_t allow_shared(void (*kernel)(arguments), size_t bytes) {
    return bytes > 48 * 1024 ? cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes)
                             : cudaSuccess;
}

template <typename arguments>
static cudaError_t launch(void (*kernel)(arguments), dim3 grid, int threads, size_t shared_bytes, void *stream,
                          const arguments &a) {
    const cudaError_t error = allow_shared(kernel, shared_bytes);
    if (error != cudaSuccess)
        return error;
    kernel<<<grid, threads, shared_bytes, (cudaStream_t)stream>>>(a);
    return cudaGetLastError();
}

#endif
