/* mx_mend.cu: what rows that E4M3 does not hold are worth (mx_bytes.h), out of codes, by tensor cores.
 *
 *     a block     32 products of E2M1 are multiples of 1/4 below 2^11 in sum: exact in FP32 in any order. Two mma of FP16
 *                 numbers, for 16 rows of one operand and 8 listed ones of the other
 *     a sum       blocks k, k + 32, k + 64, ... one behind the other, in FP32 under both scales; these 32 are added by
 *                 halves. A warp has the four of them that are eight blocks apart, and the eight warps add up at the end
 */
#include "backend/cuda/mx_bytes.h"

#include "backend/cuda/follow.cuh"
#include "backend/cuda/launch.cuh"
#include "format/bf16.h"
#include "format/e8m0.h"

enum {
    BLOCK = 32,
    ROWS = 16,
    EIGHTS = 2,
    LISTED = 8 * EIGHTS,
    APART = 4,
    STEP = NI_WARPS * APART,
    BLOCKS_A_PROCESSOR = 2
};

/* ---- one block ---- */

/* Eight codes as FP16 numbers 2^-14 times as large, in pairs; in another order, which is that of both operands. */
typedef struct eight_halves {
    uint32_t pairs[4];
} eight_halves;

static __device__ eight_halves halves_of(uint32_t codes) {
    enum { SIGNS = 0x80008000u, MAGNITUDES = 0x0e000e00u };
    return {{(codes << 12 & SIGNS) | (codes << 9 & MAGNITUDES), (codes << 8 & SIGNS) | (codes << 5 & MAGNITUDES),
             (codes << 4 & SIGNS) | (codes << 1 & MAGNITUDES), (codes & SIGNS) | (codes >> 3 & MAGNITUDES)}};
}

/* c [16, 8] += a [16, 16] b [16, 8]; the fragments of mma.cuh. */
static __device__ void add_products(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                    uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* What a lane reads of a block: eight codes of two rows and of a listed one of each eight, and the scales of its sums. */
typedef struct block {
    uint32_t rows[2], listed[EIGHTS];
    uint8_t row_scales[2], listed_scales[EIGHTS][2];
} block;

static __device__ void inner_products(float *c, const eight_halves &x, const eight_halves &y, const eight_halves &z) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        c[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i += 2)
        add_products(c, x.pairs[i], y.pairs[i], x.pairs[i + 1], y.pairs[i + 1], z.pairs[i], z.pairs[i + 1]);
#pragma unroll
    for (int i = 0; i < 4; i++)
        c[i] = ni_f32_mul(c[i], 0x1p28f);
}

/* ---- 16 rows by 8 or 16 listed ones ---- */

/* What a product reads, and the blocks (counted from the operand's first) with which a lane's rows begin. */
typedef struct places {
    const uint8_t *row_codes, *row_scales, *listed_codes, *listed_scales;
    uint32_t rows[2], listed[EIGHTS], columns[EIGHTS][2], blocks;
} places;

static __device__ places places_of(const nb_qtensor &rows, int64_t r0, const nb_qtensor &listed, const uint32_t *list,
                                   uint32_t first, uint32_t count) {
    const uint32_t group = threadIdx.x % 32 / 4, at = threadIdx.x % 4, blocks = (uint32_t)(rows.cols / BLOCK);
    places p = {rows.codes + 4 * at, rows.scales, listed.codes + 4 * at, listed.scales, {}, {}, {}, blocks};
#pragma unroll
    for (int i = 0; i < 2; i++)
        p.rows[i] = (uint32_t)min(r0 + group + 8 * i, rows.rows - 1) * blocks;
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) {
        p.listed[e] = list[min(first + 8 * e + group, count - 1)] * blocks;
#pragma unroll
        for (int i = 0; i < 2; i++)
            p.columns[e][i] = list[min(first + 8 * e + 2 * at + i, count - 1)] * blocks;
    }
    return p;
}

static __device__ const uint32_t *codes_at(const uint8_t *codes, uint32_t block) {
    return (const uint32_t *)(codes + (uint64_t)block * (BLOCK / 2));
}

/* COUNT blocks from k on, eight apart; of MANY eights. */
template <int MANY, int COUNT> static __device__ void load_blocks(block *b, const places &p, uint32_t k) {
    enum { CODES = NI_WARPS * BLOCK / 2 / sizeof(uint32_t) };
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const uint32_t *const codes = codes_at(p.row_codes, p.rows[j] + k);
        const uint8_t *const scales = p.row_scales + (p.rows[j] + k);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            b[i].rows[j] = codes[CODES * i];
            b[i].row_scales[j] = scales[NI_WARPS * i];
        }
    }
#pragma unroll
    for (int e = 0; e < MANY; e++) {
        const uint32_t *const codes = codes_at(p.listed_codes, p.listed[e] + k);
        const uint8_t *const first = p.listed_scales + (p.columns[e][0] + k), *const second = p.listed_scales +
                                                                                              (p.columns[e][1] + k);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            b[i].listed[e] = codes[CODES * i];
            b[i].listed_scales[e][0] = first[NI_WARPS * i];
            b[i].listed_scales[e][1] = second[NI_WARPS * i];
        }
    }
}

/* The scale of A comes first, which tells where a sum leaves what FP32 holds. */
template <bool LISTED_IS_A, int MANY>
static __device__ void add_block(float (*sums)[4], const block &b, const float *scales) {
    const eight_halves x = halves_of(b.rows[0]), y = halves_of(b.rows[1]);
#pragma unroll
    for (int e = 0; e < MANY; e++) {
        float c[4];
        inner_products(c, x, y, halves_of(b.listed[e]));
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float of_row = scales[b.row_scales[i / 2]], of_listed = scales[b.listed_scales[e][i % 2]];
            sums[e][i] = ni_f32_add(sums[e][i], ni_f32_mul(ni_f32_mul(c[i], LISTED_IS_A ? of_listed : of_row),
                                                           LISTED_IS_A ? of_row : of_listed));
        }
    }
}

template <bool LISTED_IS_A, int MANY, int COUNT>
static __device__ void add_blocks(float (*sums)[EIGHTS][4], const places &p, uint32_t k, const float *scales) {
    block b[COUNT];
    load_blocks<MANY, COUNT>(b, p, k);
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        add_block<LISTED_IS_A, MANY>(sums[i], b[i], scales);
}

/* A warp's share of all sums. */
template <bool LISTED_IS_A, int MANY>
static __device__ void sum_up(float *share, const places &p, const float *scales) {
    const uint32_t group = threadIdx.x % 32 / 4, at = threadIdx.x % 4;
    float sums[APART][EIGHTS][4] = {};
    uint32_t k = threadIdx.x / 32;
    for (; k + STEP - NI_WARPS < p.blocks; k += STEP)
        add_blocks<LISTED_IS_A, MANY, APART>(sums, p, k, scales);
#pragma unroll
    for (int i = 0; i < APART - 1; i++, k += NI_WARPS)
        if (k < p.blocks)
            add_blocks<LISTED_IS_A, MANY, 1>(&sums[i], p, k, scales);
#pragma unroll
    for (int e = 0; e < MANY; e++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            share[(8 * e + 2 * at + i % 2) * ROWS + group + 8 * (i / 2)] =
                ni_f32_add(ni_f32_add(sums[0][e][i], sums[2][e][i]), ni_f32_add(sums[1][e][i], sums[3][e][i]));
}

/* ---- all of a list ---- */

typedef struct room {
    float scales[256];                     /* by their bytes */
    float shares[NI_WARPS][LISTED * ROWS]; /* a listed row behind the other */
} room;

static __device__ void add_to(const nb_mat &c, int64_t at, float x) {
    if (c.dtype == NB_BF16) {
        uint16_t *const to = (uint16_t *)c.data + at;
        *to = ni_bf16_even(ni_f32_add(ni_bf16_value(*to), x));
    } else {
        float *const to = (float *)c.data + at;
        *to = ni_f32_add(*to, x);
    }
}

static __device__ float sum_of_shares(const room &all, int at) {
    float s[NI_WARPS];
#pragma unroll
    for (int i = 0; i < NI_WARPS; i++)
        s[i] = all.shares[i][at];
#pragma unroll
    for (int n = NI_WARPS / 2; n; n /= 2)
#pragma unroll
        for (int i = 0; i < n; i++)
            s[i] = ni_f32_add(s[i], s[i + n]);
    return s[0];
}

/* Rows of B by the listed ones of A, or the other way round and then without A's listed ones. */
template <bool LISTED_IS_A> static __device__ void mend_listed(const ni_cuda_mend &m, uint32_t count, room &all) {
    const nb_qtensor &rows = LISTED_IS_A ? m.b : m.a, &listed = LISTED_IS_A ? m.a : m.b;
    const uint32_t *const list = LISTED_IS_A ? m.of_a.list : m.of_b.list;
    const uint32_t groups = (count + LISTED - 1) / LISTED, tiles = (uint32_t)((rows.rows + ROWS - 1) / ROWS);
    for (uint32_t i = blockIdx.x; i < tiles * groups; i += gridDim.x) {
        const int64_t r0 = i / groups * (int64_t)ROWS;
        const uint32_t first = i % groups * LISTED;
        const places p = places_of(rows, r0, listed, list, first, count);
        if (first + 8 < count)
            sum_up<LISTED_IS_A, 2>(all.shares[threadIdx.x / 32], p, all.scales);
        else
            sum_up<LISTED_IS_A, 1>(all.shares[threadIdx.x / 32], p, all.scales);
        __syncthreads();
        const int64_t r = r0 + threadIdx.x % ROWS;
        const uint32_t at = first + threadIdx.x / ROWS;
        if (r < rows.rows && at < count && (LISTED_IS_A || m.of_a.scales[r] != 0.0f)) {
            float sum = sum_of_shares(all, (int)threadIdx.x);
            if (m.a.tensor_scale)
                sum = ni_f32_mul(sum, *m.a.tensor_scale);
            if (m.b.tensor_scale)
                sum = ni_f32_mul(sum, *m.b.tensor_scale);
            const int64_t l = list[at];
            add_to(m.c, LISTED_IS_A ? l * m.c.stride + r : r * m.c.stride + l, sum);
        }
        __syncthreads();
    }
}

static __global__ void __launch_bounds__(NI_THREADS, BLOCKS_A_PROCESSOR) mend(const __grid_constant__ ni_cuda_mend m) {
    __shared__ room all;
    static_assert(NI_THREADS == 256, "a thread a scale");
    ni_wait_for_it();
    ni_let_follow();
    const uint32_t of_a = *m.of_a.wide, of_b = *m.of_b.wide;
    if (of_a + of_b == 0)
        return;
    if (blockIdx.x == 0 && threadIdx.x == 0)
        atomicAdd(m.mended, of_a + of_b);
    all.scales[threadIdx.x] = ni_e8m0_value((uint8_t)threadIdx.x);
    __syncthreads();
    if (of_a)
        mend_listed<true>(m, of_a, all);
    if (of_b)
        mend_listed<false>(m, of_b, all);
}

int ni_cuda_launch_mend(void *stream, const ni_cuda_mend *m, int multiprocessors) {
    if (m->c.rows == 0 || m->c.cols == 0)
        return cudaSuccess;
    return ni_launch_following((cudaStream_t)stream, mend, dim3((unsigned)(BLOCKS_A_PROCESSOR * multiprocessors)),
                               NI_THREADS, 0, *m);
}
