/* attention_tile.cuh: what the attention kernels share: arguments, tiles of shared memory, products of tiles,
 * launching.
 *
 * A core is a way to multiply tiles with the tensor cores: MmaCore here (every GPU since 8.0), WgmmaCore in
 * attention_wgmma.cuh (9.0 alone). The kernels are written once over either:
 *     warps, rows        warps that work as one unit, and the rows of the product that a unit owns; MT times 16 a warp
 *     bytes, offset      how a tile [rows, D] of BF16 lies in shared memory
 *     publish            by each thread, between the arrival of its copies and the barrier after which others read them
 *     multiply<N>        C[rows, N] = A[rows, D] B[N, D]^T
 *     accumulate<N>      C[rows, COLUMNS] += P[rows, N] B[N, COLUMNS], P packed in registers
 *     wait<PENDING>      until all products but the last PENDING are there; nothing may touch C before
 * C and P are spread over lanes as mma.m16n8k16 has it (mma.cuh), in both cores. */
#ifndef NIBBLE_CUDA_ATTENTION_TILE_CUH
#define NIBBLE_CUDA_ATTENTION_TILE_CUH

#include "attention.h"
#include "mma.cuh"
#include "turned.cuh"

struct AttentionArgs {
    const bf16 *q, *k, *v, *o, *dout;
    const float *lse, *delta;
    bf16 *out_o, *dq, *dk, *dv;
    float *out_lse, *out_delta;
    const int32_t *doc_start, *doc_end; /* [batch, seq] */
    uint32_t *amax, *turned_amax;       /* of o, or of dv */
    int64_t q_stride, k_stride, v_stride, o_stride;
    int batch, seq, heads, kv_heads, head_dim;
    float scale, scale_log2; /* scale, and scale * log2(e) */
};

#define ATTENTION_LOG2E 1.4426950408889634f

/* Position 0 of head h in sequence b. */
template <typename T>
__device__ __forceinline__ T *head_of(T *x, int64_t stride, const AttentionArgs &a, int b, int h) {
    return x + (int64_t)b * a.seq * stride + (int64_t)h * a.head_dim;
}

/* ---- tiles ---- */

/* Starts the copy of positions first .. first+ROWS-1 of a head; what is past seq or head_dim becomes zero. */
template <class Core, int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *head, int64_t stride, int first,
                                          const AttentionArgs &a) {
    constexpr int pieces = Core::D / 8;
    if constexpr (THREADS % (8 * pieces) == 0 && ROWS % (THREADS / pieces) == 0) { /* a thread stays in its column */
        constexpr int step = THREADS / pieces;
        int row = threadIdx.x / pieces, column = threadIdx.x % pieces * 8;
        const bf16 *from = head + (int64_t)(first + row) * stride + column;
        bf16 *to = tile + Core::offset(ROWS, row, column);
        if (first + ROWS <= a.seq && a.head_dim == Core::D) { /* nothing to compare: a third of the instructions */
#pragma unroll
            for (int r = 0; r < ROWS; r += step)
                copy_async16(to + r * Core::pitch, from + r * stride);
            return;
        }
#pragma unroll
        for (int r = 0; r < ROWS; r += step) {
            bool valid = first + row + r < a.seq && column < a.head_dim;
            copy_async16(to + r * Core::pitch, valid ? from + r * stride : head, valid);
        }
    } else {
        for (int i = threadIdx.x; i < ROWS * pieces; i += THREADS) {
            int row = i / pieces, column = i % pieces * 8;
            bool valid = first + row < a.seq && column < a.head_dim;
            copy_async16(tile + Core::offset(ROWS, row, column),
                         valid ? head + (int64_t)(first + row) * stride + column : head, valid);
        }
    }
}

/* A warp's sums, times a factor for each row, to positions first .. of a head, by way of its own rows of a tile [ROWS,
 * D] that nobody reads any more. Returns the larger magnitudes of what this lane stored, in pairs. */
template <class Core, int ROWS, int COLUMNS>
__device__ __forceinline__ uint32_t store_rows(bf16 *head, int64_t stride, int first, int first_column,
                                               const float (&c)[Core::MT][COLUMNS / 8][4],
                                               const float (&factor)[Core::MT][2], bf16 *tile, int own_row,
                                               const AttentionArgs &a) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t pairs = 0;
    sync_warp();
#pragma unroll
    for (int m = 0; m < Core::MT; m++)
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                *(uint32_t *)(tile + Core::offset(ROWS, own_row + m * 16 + g + 8 * r, n * 8 + 2 * t)) =
                    pack_bf16(c[m][n][2 * r] * factor[m][r], c[m][n][2 * r + 1] * factor[m][r]);
    sync_warp();
    constexpr int pieces = COLUMNS / 8;
    for (int i = lane; i < Core::MT * 16 * pieces; i += 32) {
        int row = i / pieces, column = i % pieces * 8;
        if (first + row < a.seq && first_column + column < a.head_dim) {
            const uint4 eight = *(const uint4 *)(tile + Core::offset(ROWS, own_row + row, column));
            *(uint4 *)(head + (int64_t)(first + row) * stride + first_column + column) = eight;
            pairs = ni_larger_of_four(pairs, eight);
        }
    }
    return pairs;
}

/* The largest number of the turned columns that store_rows has left in the tile: `sixteens` of positions, `end` columns. */
template <class Core, int ROWS>
__device__ __noinline__ uint32_t turn_columns(const bf16 *tile, int own_row, int sixteens, int end) {
    uint32_t turned = 0;
#pragma unroll 1
    for (int m = 0; m < sixteens; m++)
#pragma unroll 1
        for (int column = 2 * (threadIdx.x % 32); column < end; column += 64) {
            uint32_t words[16];
#pragma unroll
            for (int i = 0; i < 16; i++)
                words[i] = *(const uint32_t *)(tile + Core::offset(ROWS, own_row + m * 16 + i, column));
            turned = max(turned, ni_turned_amax(words));
        }
    sync_warp();
    return turned;
}

/* Both maxima of what store_rows has stored, `pairs` of it, and left in the tile; `known` was loaded before. Positions
 * are whole sixteens where turned columns are asked for. */
template <class Core, int ROWS, int COLUMNS>
__device__ __forceinline__ void join_amaxes(uint32_t pairs, const bf16 *tile, int own_row, int first, int first_column,
                                            const AttentionArgs &a, const ni_known_amaxes &known) {
    sync_warp();
    if (a.amax)
        ni_join_known(a.amax, ni_larger_half(pairs), known.plain);
    if (!a.turned_amax)
        return;
    const ni_turning by = ni_turning_of_rows();
    const int lane = threadIdx.x % 32;
    uint32_t most = 0;
#pragma unroll
    for (int m = 0; m < Core::MT; m++)
        if (first + m * 16 < a.seq)
#pragma unroll
            for (int n = 0; n < COLUMNS; n += 16)
                most = ni_most_of_sixteen(most, by,
                                          tile + Core::offset(ROWS, own_row + m * 16 + lane % 16, n + lane / 16 * 8));
    if (ni_may_exceed(most, known.turned)) {
        const int sixteens = max(0, min(Core::MT, (a.seq - first) / 16)), end = min(COLUMNS, a.head_dim - first_column);
        ni_join_known(a.turned_amax, turn_columns<Core, ROWS>(tile, own_row, sixteens, end), known.turned);
    }
}

/* Sums become operands: C [16, N] as A fragments. */
template <int MT, int N>
__device__ __forceinline__ void pack_rows(uint32_t (&packed)[MT][N / 16][4], const float (&p)[MT][N / 8][4]) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int k = 0; k < N / 16; k++) {
            packed[m][k][0] = pack_bf16(p[m][2 * k][0], p[m][2 * k][1]);
            packed[m][k][1] = pack_bf16(p[m][2 * k][2], p[m][2 * k][3]);
            packed[m][k][2] = pack_bf16(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);
            packed[m][k][3] = pack_bf16(p[m][2 * k + 1][2], p[m][2 * k + 1][3]);
        }
}

/* ---- mma.sync ----
 * Rows have a pitch of D + 8 elements: D is a multiple of 16, so the 16-byte pieces of eight rows under each other fall
 * on different banks. With MT = 2 each fragment of B is read from shared memory once for two products, which is what
 * keeps mma.sync from waiting for shared memory. */
template <int D_, int MT_> struct MmaCore {
    static constexpr int D = D_, MT = MT_, warps = 1, rows = 16 * MT, pitch = D + 8;

    __host__ __device__ static constexpr int bytes(int tile_rows) {
        return tile_rows * pitch * 2;
    }

    __device__ static __forceinline__ int offset(int /*tile_rows*/, int row, int column) {
        return row * pitch + column;
    }

    __device__ static __forceinline__ void publish() {
    }

    /* Where this lane points load_matrix for A [16, 16] by rows, and load_matrix_trans for B stored as [k, n]. */
    __device__ static __forceinline__ const bf16 *by_rows(const bf16 *tile) {
        int lane = threadIdx.x % 32;
        return tile + (lane & 15) * pitch + (lane >> 4) * 8;
    }

    /* The same for B stored as [n, k]: two neighbouring B [16, 8] in one load_matrix. */
    __device__ static __forceinline__ const bf16 *by_columns(const bf16 *tile) {
        int lane = threadIdx.x % 32;
        return tile + ((lane & 7) + (lane >> 4) * 8) * pitch + (lane >> 3 & 1) * 8;
    }

    /* Fragments of a warp's rows of A [ROWS, D]. */
    template <int ROWS>
    __device__ static __forceinline__ void load_rows(uint32_t (&r)[MT][D / 16][4], const bf16 *a, int own_row) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int k = 0; k < D / 16; k++)
                load_matrix(r[m][k], by_rows(a) + (own_row + m * 16) * pitch + k * 16);
    }

    template <int N> __device__ static __forceinline__ void clear(float (&c)[MT][N / 8][4]) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < N / 8; n++)
                c[m][n][0] = c[m][n][1] = c[m][n][2] = c[m][n][3] = 0;
    }

    /* Sixteen columns of A. */
    template <int N>
    __device__ static __forceinline__ void multiply_step(float (&c)[MT][N / 8][4], const uint32_t (&a)[MT][4],
                                                         const bf16 *b /* by_columns */) {
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            uint32_t r[4];
            load_matrix(r, b + n * 16 * pitch);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma(c[m][2 * n], a[m], r[0], r[1]);
                mma(c[m][2 * n + 1], a[m], r[2], r[3]);
            }
        }
    }

    /* A: rows unit_row .. of a tile [ROWS, D]. */
    template <int N, int ROWS>
    __device__ static __forceinline__ void multiply(float (&c)[MT][N / 8][4], const bf16 *a, int unit_row,
                                                    const bf16 *b) {
        clear<N>(c);
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            uint32_t r[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++)
                load_matrix(r[m], by_rows(a) + (unit_row + m * 16) * pitch + k * 16);
            multiply_step<N>(c, r, by_columns(b) + k * 16);
        }
    }

    template <int N>
    __device__ static __forceinline__ void multiply(float (&c)[MT][N / 8][4], uint32_t (&a)[MT][D / 16][4],
                                                    const bf16 *b) {
        clear<N>(c);
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            uint32_t r[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    r[m][i] = a[m][k][i];
            multiply_step<N>(c, r, by_columns(b) + k * 16);
        }
    }

    template <int N, int COLUMNS>
    __device__ static __forceinline__ void accumulate(float (&c)[MT][COLUMNS / 8][4], uint32_t (&p)[MT][N / 16][4],
                                                      const bf16 *b, int first_column) {
        const bf16 *from = by_rows(b) + first_column;
#pragma unroll
        for (int k = 0; k < N / 16; k++)
#pragma unroll
            for (int n = 0; n < COLUMNS / 16; n++) {
                uint32_t r[4];
                load_matrix_trans(r, from + k * 16 * pitch + n * 16);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    mma(c[m][2 * n], p[m][k], r[0], r[1]);
                    mma(c[m][2 * n + 1], p[m][k], r[2], r[3]);
                }
            }
    }

    template <int PENDING, int N> __device__ static __forceinline__ void wait(float (&)[MT][N][4]) {
    }
};

/* ---- launching ---- */

/* One kernel of a table. The first that fits the device is what runs. */
struct AttentionTile {
    const char *name;
    const void *kernel; /* takes AttentionArgs */
    int head_dim;       /* its D */
    bool wgmma;         /* runs on compute capability 9.0 alone */
    int threads, rows;  /* of a block */
    int parts;          /* blocks that share `rows`, each with its columns of the result */
    int shared;         /* bytes */
};

static inline int attention_padded_dim(int64_t head_dim) {
    return head_dim <= 32 ? 32 : head_dim <= 64 ? 64 : head_dim <= 96 ? 96 : head_dim <= 128 ? 128 : 256;
}

template <int N>
static inline const AttentionTile *attention_tile(const AttentionTile (&table)[N], const ni_cuda_attention *a) {
    int device = 0, shared = 0, major = 0, minor = 0;
    if (cudaGetDevice(&device) || cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device))
        return nullptr;
    bool hopper = major == 9 && minor == 0;
    for (const AttentionTile &t : table)
        if (t.head_dim == attention_padded_dim(a->head_dim) && t.shared <= shared && (hopper || !t.wgmma))
            return &t;
    return nullptr;
}

static inline bool attention_shape_ok(const ni_cuda_attention *a) {
    return a->batch >= 0 && a->batch <= 65535 && a->seq >= 0 && a->seq <= INT32_MAX / 2 && a->heads >= 1 &&
           a->heads <= 65535 && a->kv_heads >= 1 && a->heads % a->kv_heads == 0 && a->head_dim >= 8 &&
           a->head_dim <= 256 && a->head_dim % 8 == 0 && a->scale > 0 && a->q_stride % 8 == 0 && a->k_stride % 8 == 0 &&
           a->v_stride % 8 == 0 && a->o_stride % 8 == 0;
}

static inline bool attention_aligned(const void *x) {
    return (uintptr_t)x % 16 == 0;
}

static inline AttentionArgs attention_args(const ni_cuda_attention *a) {
    AttentionArgs r = {};
    r.doc_start = a->doc_start;
    r.doc_end = a->doc_end;
    r.amax = a->amax;
    r.turned_amax = a->seq % 16 == 0 ? a->turned_amax : nullptr;
    r.q_stride = a->q_stride;
    r.k_stride = a->k_stride;
    r.v_stride = a->v_stride;
    r.o_stride = a->o_stride;
    r.batch = (int)a->batch;
    r.seq = (int)a->seq;
    r.heads = (int)a->heads;
    r.kv_heads = (int)a->kv_heads;
    r.head_dim = (int)a->head_dim;
    r.scale = (float)a->scale;
    r.scale_log2 = (float)(a->scale * 1.4426950408889634);
    return r;
}

/* Blocks of one sequence of one head lie next to each other in the order of launch: they share K and V in the L2. */
static inline int attention_launch(const AttentionTile *t, AttentionArgs args, int heads, void *stream) {
    if (!t)
        return cudaErrorInvalidValue;
    if (!args.batch || !args.seq)
        return cudaSuccess;
    cudaError_t e = cudaFuncSetAttribute(t->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, t->shared);
    if (e)
        return e;
    dim3 grid((unsigned)((args.seq + t->rows - 1) / t->rows * t->parts), (unsigned)heads, (unsigned)args.batch);
    void *pointers[] = {&args};
    return cudaLaunchKernel(t->kernel, grid, dim3((unsigned)t->threads), pointers, (size_t)t->shared,
                            (cudaStream_t)stream);
}
#endif
