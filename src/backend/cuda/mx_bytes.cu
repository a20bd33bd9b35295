/* mx_bytes.cu: see mx_bytes.h. */
#include "backend/cuda/mx_bytes.h"

#include "backend/cuda/sixteen.cuh"
#include "format/e8m0.h"

enum { TOP = 6, SPREAD = 14, BLOCK = 32 };

/* ---- codes as bytes ---- */

/* The bytes of the magnitudes of a block: codes 0..3 and 4..7. */
static __device__ uint2 table_of(float factor) {
    const uint32_t low = ni_e4m3_bytes(0.0f, ni_f32_mul(0.5f, factor)) | ni_e4m3_bytes(factor, ni_f32_mul(1.5f, factor))
                                                                             << 16;
    const uint32_t high = ni_e4m3_bytes(ni_f32_mul(2.0f, factor), ni_f32_mul(3.0f, factor)) |
                          ni_e4m3_bytes(ni_f32_mul(4.0f, factor), ni_f32_mul(6.0f, factor)) << 16;
    return make_uint2(low, high);
}

/* Four codes, in the lower half. */
static __device__ uint32_t bytes_of_four(uint2 table, uint32_t codes) {
    const uint32_t signs =
        (codes & 0x8u) << 4 | (codes & 0x80u) << 8 | (codes & 0x800u) << 12 | (codes & 0x8000u) << 16;
    return __byte_perm(table.x, table.y, codes & 0x7777u) | signs;
}

static __device__ uint2 bytes_of_eight(uint2 table, uint32_t codes) {
    return make_uint2(bytes_of_four(table, codes), bytes_of_four(table, codes >> 16));
}

static __device__ bool is_zero(const uint4 &codes) {
    return ((codes.x | codes.y | codes.z | codes.w) & 0x77777777u) == 0;
}

/* 2^(largest - 6) of an exponent byte, subnormals too; 1 for a row of zeros. */
static __device__ float scale_of(int largest) {
    return largest < 0 ? 1.0f : __uint_as_float(largest > TOP ? (uint32_t)(largest - TOP) << 23 : 1u << (largest + 16));
}

/* ---- what a row has ---- */

/* Of blocks that hold something: largest exponent + 1, 255 - smallest; 0: there is none. */
typedef struct extremes {
    uint32_t above, below;
} extremes;

static __device__ bool are_exact(const extremes &e) {
    return (int)(e.above + e.below) - 256 <= SPREAD;
}

/* One exponent joins. The rules leave a block of zeros under the byte 0; `sure`: codes are read whatever it is. */
static __device__ void join(extremes *to, uint32_t e, const uint4 *codes, bool sure) {
    if (e == NI_E8M0_NAN || ((sure || e == 0) && is_zero(*codes)))
        return;
    to->above = max(to->above, e + 1);
    to->below = max(to->below, 255 - e);
}

/* Threads first, first + step, ... of a row; whole warps come. */
static __device__ void find(extremes *row, const nb_qtensor &t, int64_t r, int first, int step, bool sure) {
    const int blocks = (int)(t.cols / BLOCK);
    const uint8_t *const exponents = t.scales + r * blocks;
    const uint4 *const codes = (const uint4 *)(t.codes + r * (t.cols / 2));
    extremes here = {0, 0};
#pragma unroll 4
    for (int b = first; b < blocks; b += step)
        join(&here, exponents[b], codes + b, sure);
    __syncwarp();
    here.above = ni_warp_max(here.above);
    here.below = ni_warp_max(here.below);
    if (threadIdx.x % 32 == 0 && here.above) {
        atomicMax(&row->above, here.above);
        atomicMax(&row->below, here.below);
    }
}

/* Its scale; a row that is not exact goes on the list. */
static __device__ void leave_row(const ni_cuda_mx_rows &to, const nb_qtensor &t, int64_t r, const extremes &e) {
    const float scale = scale_of((int)e.above - 1);
    to.scales[r] = !are_exact(e) ? 0.0f : t.tensor_scale ? ni_f32_mul(scale, *t.tensor_scale) : scale;
    if (!are_exact(e))
        to.list[atomicAdd(to.wide, 1u)] = (uint32_t)r;
}

/* ---- bytes of some rows ---- */

enum { MOST_ROWS = 64, CODES_OF_BLOCK = 16384, NOT_A_NUMBER = SPREAD + 1, NOTHING = SPREAD + 2, TABLES };

static __device__ uint2 table_at(int d) {
    return d == NOT_A_NUMBER ? make_uint2(0x7f7f7f7fu, 0x7f7f7f7fu)
           : d == NOTHING    ? make_uint2(0, 0)
                             : table_of(__uint_as_float((uint32_t)(127 + TOP - d) << 23));
}

/* d of a block; beyond what E4M3 holds there are but zeros. */
static __device__ int table_for(uint32_t exponent, const extremes &row) {
    const uint32_t d = row.above - 1 - exponent;
    return exponent == NI_E8M0_NAN ? NOT_A_NUMBER : are_exact(row) && d <= SPREAD ? (int)d : NOTHING;
}

/* Rows r0 to r0 + count, a thread 16 codes at a time. */
static __device__ void write_bytes(const ni_cuda_mx_rows &to, const nb_qtensor &t, const uint2 *tables,
                                   const extremes *rows, int64_t r0, int count) {
    const uint32_t halves = (uint32_t)(t.cols / 16);
    const uint2 *const codes = (const uint2 *)(t.codes + r0 * (t.cols / 2));
    const uint8_t *const exponents = t.scales + r0 * (t.cols / BLOCK);
    uint4 *const out = (uint4 *)(to.bytes + r0 * t.cols);
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < count * halves; i += NI_THREADS) {
        const uint2 from = codes[i], table = tables[table_for(exponents[i / 2], rows[i / halves])];
        const uint2 x = bytes_of_eight(table, from.x), y = bytes_of_eight(table, from.y);
        out[i] = make_uint4(x.x, x.y, y.x, y.y);
    }
}

/* A block of threads takes `count` rows: a warp a row, or several where there are fewer rows than warps. */
static __device__ void take_rows(const ni_cuda_mx_rows &to, const nb_qtensor &t, int64_t r0, int count) {
    __shared__ extremes rows[MOST_ROWS];
    __shared__ uint2 tables[TABLES];
    const int apart = count >= NI_WARPS ? NI_WARPS
                      : count > 4       ? 8
                      : count > 2       ? 4
                                        : count,
              step = NI_THREADS / apart, group = (int)threadIdx.x / step, first = (int)threadIdx.x % step;
    if (threadIdx.x < TABLES)
        tables[threadIdx.x] = table_at((int)threadIdx.x);
    if (threadIdx.x < MOST_ROWS)
        rows[threadIdx.x] = extremes{0, 0};
    __syncthreads();
    for (int i = group; i < count; i += apart)
        find(&rows[i], t, r0 + i, first, step, false);
    __syncthreads();
    const bool some = __syncthreads_or((int)threadIdx.x < count && !are_exact(rows[threadIdx.x]));
    for (int i = 0; some && i < count; i++) /* as good as never: looked at again, block by block */
        if (!are_exact(rows[i])) {
            __syncthreads();
            if (threadIdx.x == 0)
                rows[i] = extremes{0, 0};
            __syncthreads();
            find(&rows[i], t, r0 + i, (int)threadIdx.x, NI_THREADS, true);
            __syncthreads();
        }
    if ((int)threadIdx.x < count)
        leave_row(to, t, r0 + threadIdx.x, rows[threadIdx.x]);
    write_bytes(to, t, tables, rows, r0, count);
}

/* One operand or two; blocks from `split` on are the second's. */
static __global__ void __launch_bounds__(NI_THREADS)
    mx_bytes(const __grid_constant__ ni_cuda_mx_making a, const __grid_constant__ ni_cuda_mx_making b, int rows_of_a,
             int rows_of_b, unsigned split) {
    const bool second = blockIdx.x >= split;
    const ni_cuda_mx_making &m = second ? b : a;
    const int count = second ? rows_of_b : rows_of_a;
    const int64_t r0 = (int64_t)(blockIdx.x - (second ? split : 0)) * count;
    take_rows(m.to, m.codes, r0, (int)min((int64_t)count, m.codes.rows - r0));
}

static int rows_at_once(const nb_qtensor *t) {
    const int64_t rows = t->cols > 0 ? CODES_OF_BLOCK / t->cols : 1;
    return (int)(rows < 1 ? 1 : rows > MOST_ROWS ? MOST_ROWS : rows);
}

int ni_cuda_launch_mx_bytes(void *stream, const ni_cuda_mx_making *makings, int count) {
    const ni_cuda_mx_making *const a = &makings[0], *const b = &makings[count - 1];
    const int rows_of_a = rows_at_once(&a->codes), rows_of_b = rows_at_once(&b->codes);
    const int64_t split = ni_divide_up(a->codes.rows, rows_of_a),
                  all = split + (count == 2 ? ni_divide_up(b->codes.rows, rows_of_b) : 0);
    for (int i = 0; i < count; i++)
        if (!makings[i].cleared) {
            const int code = cudaMemsetAsync(makings[i].to.wide, 0, sizeof(uint32_t), (cudaStream_t)stream);
            if (code != cudaSuccess)
                return code;
        }
    if (all > 0)
        mx_bytes<<<(unsigned)all, NI_THREADS, 0, (cudaStream_t)stream>>>(*a, *b, rows_of_a, rows_of_b, (unsigned)split);
    return cudaGetLastError();
}

/* ---- mending ---- */

static __device__ float sum_of_eight(uint32_t a, uint32_t b) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++)
        sum = __fmaf_rn(ni_e2m1_of(a >> (4 * i) & 15u), ni_e2m1_of(b >> (4 * i) & 15u), sum);
    return sum;
}

/* Sum of one row of A and one of B, over a warp: a block's sum is exact, blocks are added in FP32. */
static __device__ float dot(const nb_qtensor &a, int64_t r, const nb_qtensor &b, int64_t c) {
    const int64_t blocks = a.cols / BLOCK;
    const uint4 *const left = (const uint4 *)(a.codes + r * (a.cols / 2)), *const right =
                                                                               (const uint4 *)(b.codes +
                                                                                               c * (b.cols / 2));
    float sum = 0.0f;
    for (int64_t k = threadIdx.x % 32; k < blocks; k += 32) {
        const uint4 x = left[k], y = right[k];
        const float inner = ni_f32_add(ni_f32_add(sum_of_eight(x.x, y.x), sum_of_eight(x.y, y.y)),
                                       ni_f32_add(sum_of_eight(x.z, y.z), sum_of_eight(x.w, y.w)));
        sum = ni_f32_add(sum, ni_f32_mul(ni_f32_mul(inner, ni_e8m0_value(a.scales[r * blocks + k])),
                                         ni_e8m0_value(b.scales[c * blocks + k])));
    }
    sum = ni_warp_sum(sum);
    if (a.tensor_scale)
        sum = ni_f32_mul(sum, *a.tensor_scale);
    return b.tensor_scale ? ni_f32_mul(sum, *b.tensor_scale) : sum;
}

static __device__ void add_to(const nb_mat &c, int64_t at, float x) {
    if (c.dtype == NB_BF16) {
        uint16_t *const to = (uint16_t *)c.data + at;
        *to = ni_bf16_even(ni_f32_add(ni_bf16_value(*to), x));
    } else {
        float *const to = (float *)c.data + at;
        *to = ni_f32_add(*to, x);
    }
}

/* A warp a sum: columns of the rows of A that are on its list, then rows of the columns of B, but for those of A's. */
static __global__ void __launch_bounds__(NI_THREADS) mend(const __grid_constant__ ni_cuda_mend m) {
    const uint32_t of_a = *m.of_a.wide, of_b = *m.of_b.wide;
    if (of_a + of_b == 0)
        return;
    if (blockIdx.x == 0 && threadIdx.x == 0)
        atomicAdd(m.mended, of_a + of_b);
    const int64_t first = of_a * m.c.cols, all = first + of_b * m.c.rows, warps = (int64_t)gridDim.x * NI_WARPS;
    for (int64_t i = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32; i < all; i += warps) {
        const bool by_row = i < first;
        const int64_t r = by_row ? m.of_a.list[i / m.c.cols] : (i - first) % m.c.rows,
                      c = by_row ? i % m.c.cols : m.of_b.list[(i - first) / m.c.rows];
        if (!by_row && m.of_a.scales[r] == 0.0f)
            continue;
        const float x = dot(m.a, r, m.b, c);
        if (threadIdx.x % 32 == 0)
            add_to(m.c, r * m.c.stride + c, x);
    }
}

int ni_cuda_launch_mend(void *stream, const ni_cuda_mend *m, int multiprocessors) {
    if (m->c.rows > 0 && m->c.cols > 0)
        mend<<<(unsigned)multiprocessors, NI_THREADS, 0, (cudaStream_t)stream>>>(*m);
    return cudaGetLastError();
}
