/* mx_bytes.cu: see mx_bytes.h. A block of threads takes about 16384 codes, whatever a row's length: it holds them in registers
 * while it finds what its rows have.
 */
#include "backend/cuda/mx_bytes.h"

#include "backend/cuda/follow.cuh"
#include "backend/cuda/sixteen.cuh"
#include "format/e8m0.h"

enum { TOP = 6, SPREAD = 14, BLOCK = 32, BLOCKS_A_PROCESSOR = 6 };
static constexpr uint32_t MAGNITUDES = 0x77777777u;

/* ---- codes as bytes ---- */

/* The bytes of the magnitudes of a block: codes 0..3 and 4..7. */
static __device__ uint2 table_of(float factor) {
    const uint32_t low = ni_e4m3_bytes(0.0f, ni_f32_mul(0.5f, factor)) | ni_e4m3_bytes(factor, ni_f32_mul(1.5f, factor))
                                                                             << 16;
    const uint32_t high = ni_e4m3_bytes(ni_f32_mul(2.0f, factor), ni_f32_mul(3.0f, factor)) |
                          ni_e4m3_bytes(ni_f32_mul(4.0f, factor), ni_f32_mul(6.0f, factor)) << 16;
    return make_uint2(low, high);
}

/* Four codes, in the lower half; `twice` has each of their two bytes two times. */
static __device__ uint32_t bytes_of_four(uint2 table, uint32_t magnitudes, uint32_t twice) {
    const uint32_t signs = (twice << 4 & 0x00800080u) | (twice & 0x80008000u);
    return __byte_perm(table.x, table.y, magnitudes) | signs;
}

static __device__ uint2 bytes_of_eight(uint2 table, uint32_t codes) {
    const uint32_t magnitudes = codes & MAGNITUDES;
    return make_uint2(bytes_of_four(table, magnitudes & 0xffffu, __byte_perm(codes, 0, 0x1100)),
                      bytes_of_four(table, magnitudes >> 16, __byte_perm(codes, 0, 0x3322)));
}

/* A block is multiplied by 2^(6 - d); behind those come one that holds nothing, or too little, and one that is no number. */
enum { NOTHING = SPREAD + 1, NOT_A_NUMBER, TABLES };

static __device__ uint2 table_at(int d) {
    return d == NOT_A_NUMBER ? make_uint2(0x7f7f7f7fu, 0x7f7f7f7fu)
           : d == NOTHING    ? make_uint2(0, 0)
                             : table_of(__uint_as_float((uint32_t)(127 + TOP - d) << 23));
}

/* 2^(largest - 6) of an exponent byte, subnormals too; 1 for a row of zeros. */
static __device__ float scale_of(int largest) {
    return largest < 0 ? 1.0f : __uint_as_float(largest > TOP ? (uint32_t)(largest - TOP) << 23 : 1u << (largest + 16));
}

/* ---- some rows ---- */

enum { MOST_ROWS = 64, UNITS = 4, UNITS_AT_ONCE = UNITS * NI_THREADS, CODES_AT_ONCE = 16 * UNITS_AT_ONCE };

/* Of blocks that hold something: largest exponent + 1, 255 - smallest; 0: there is none. */
typedef struct extremes {
    uint32_t above, below;
} extremes;

/* What a block of threads takes. */
typedef struct band {
    const uint2 *codes; /* a unit is 16 of them */
    const uint8_t *exponents;
    uint4 *bytes;
    uint32_t units, per_row; /* ceil(2^32 / units of a row), 0: it is one row */
} band;

/* Four units of a thread; a warp's are side by side. */
typedef struct held {
    uint2 codes[UNITS];
    uint32_t exponents[UNITS];
} held;

static __device__ uint32_t unit_of(uint32_t first, int i) {
    return first + threadIdx.x / 32 * (32 * UNITS) + 32 * i + threadIdx.x % 32;
}

static __device__ held load(const band &b, uint32_t first) {
    held h;
#pragma unroll
    for (int i = 0; i < UNITS; i++) {
        const uint32_t unit = unit_of(first, i);
        h.codes[i] = make_uint2(0, 0);
        h.exponents[i] = 0;
        if (unit < b.units) {
            h.codes[i] = b.codes[unit];
            h.exponents[i] = b.exponents[unit / 2];
        }
    }
    return h;
}

static __device__ uint32_t row_of(const band &b, uint32_t unit) {
    return __umulhi(min(unit, b.units - 1), b.per_row);
}

/* Whole warps come, whose units are of one row or of a few. */
static __device__ void find(extremes *rows, const band &b, const held &h, uint32_t first) {
    const uint32_t last = row_of(b, unit_of(first, UNITS - 1) | 31);
    for (uint32_t r = row_of(b, unit_of(first, 0) & ~31u); r <= last; r++) {
        extremes e = {0, 0};
#pragma unroll
        for (int i = 0; i < UNITS; i++)
            if (h.exponents[i] != NI_E8M0_NAN && ((h.codes[i].x | h.codes[i].y) & MAGNITUDES) &&
                row_of(b, unit_of(first, i)) == r) {
                e.above = max(e.above, h.exponents[i] + 1);
                e.below = max(e.below, 255 - h.exponents[i]);
            }
        e.above = ni_warp_max(e.above);
        e.below = ni_warp_max(e.below);
        if (threadIdx.x % 32 == 0 && e.above) {
            atomicMax(&rows[r].above, e.above);
            atomicMax(&rows[r].below, e.below);
        }
    }
}

/* Its scale, and its largest exponent; a row that is not exact goes on the list, and its bytes are zeros. */
static __device__ uint32_t leave_row(const ni_cuda_mx_rows &to, const nb_qtensor &t, int64_t r, const extremes &e) {
    enum { FAR = 1 << 16 };
    const bool exact = (int)(e.above + e.below) - 256 <= SPREAD;
    const float scale = scale_of((int)e.above - 1);
    to.scales[r] = !exact ? 0.0f : t.tensor_scale ? ni_f32_mul(scale, *t.tensor_scale) : scale;
    if (!exact)
        to.list[atomicAdd(to.wide, 1u)] = (uint32_t)r;
    return exact ? e.above - 1 : FAR;
}

static __device__ void write(const band &b, const held &h, uint32_t first, const uint2 *tables,
                             const uint32_t *largest) {
#pragma unroll
    for (int i = 0; i < UNITS; i++) {
        const uint32_t unit = unit_of(first, i);
        if (unit >= b.units)
            return;
        const uint32_t d = min(largest[row_of(b, unit)] - h.exponents[i], (uint32_t)NOTHING);
        const uint2 table = tables[h.exponents[i] == NI_E8M0_NAN ? NOT_A_NUMBER : d],
                    x = bytes_of_eight(table, h.codes[i].x), y = bytes_of_eight(table, h.codes[i].y);
        b.bytes[unit] = make_uint4(x.x, x.y, y.x, y.y);
    }
}

/* How rows are dealt out: so many a block of threads. */
typedef struct dealing {
    int rows;
    uint32_t per_row;
} dealing;

static __device__ void take_rows(const ni_cuda_mx_making &m, const dealing &d, int64_t r0) {
    __shared__ extremes rows[MOST_ROWS];
    __shared__ uint32_t largest[MOST_ROWS];
    __shared__ uint2 tables[TABLES];
    const int64_t cols = m.codes.cols, count = min((int64_t)d.rows, m.codes.rows - r0);
    const band b = {(const uint2 *)(m.codes.codes + r0 * (cols / 2)), m.codes.scales + r0 * (cols / BLOCK),
                    (uint4 *)(m.to.bytes + r0 * cols), (uint32_t)(count * (cols / 16)), d.per_row};
    held h = load(b, 0);
    if (threadIdx.x < TABLES)
        tables[threadIdx.x] = table_at((int)threadIdx.x);
    if (threadIdx.x < MOST_ROWS)
        rows[threadIdx.x] = extremes{0, 0};
    __syncthreads();
    find(rows, b, h, 0);
    for (uint32_t first = UNITS_AT_ONCE; first < b.units; first += UNITS_AT_ONCE) /* of one long row */
        find(rows, b, load(b, first), first);
    __syncthreads();
    if ((int)threadIdx.x < count)
        largest[threadIdx.x] = leave_row(m.to, m.codes, r0 + threadIdx.x, rows[threadIdx.x]);
    __syncthreads();
    write(b, h, 0, tables, largest);
    for (uint32_t first = UNITS_AT_ONCE; first < b.units; first += UNITS_AT_ONCE)
        write(b, load(b, first), first, tables, largest);
}

/* One operand or two; blocks from `split` on are the second's. */
static __global__ void __launch_bounds__(NI_THREADS, BLOCKS_A_PROCESSOR)
    mx_bytes(const __grid_constant__ ni_cuda_mx_making a, const __grid_constant__ ni_cuda_mx_making b, dealing of_a,
             dealing of_b, unsigned split) {
    ni_wait_for_it();
    if (blockIdx.x < split)
        take_rows(a, of_a, (int64_t)blockIdx.x * of_a.rows);
    else
        take_rows(b, of_b, (int64_t)(blockIdx.x - split) * of_b.rows);
}

static dealing dealing_of(const nb_qtensor *t) {
    const int64_t rows = t->cols > 0 ? CODES_AT_ONCE / t->cols : 1;
    if (rows <= 1)
        return dealing{1, 0};
    return dealing{(int)(rows < MOST_ROWS ? rows : MOST_ROWS), (uint32_t)((1ull << 32) / (uint64_t)(t->cols / 16) + 1)};
}

int ni_cuda_launch_mx_bytes(void *stream, const ni_cuda_mx_making *makings, int count) {
    const ni_cuda_mx_making *const a = &makings[0], *const b = &makings[count - 1];
    const dealing of_a = dealing_of(&a->codes), of_b = dealing_of(&b->codes);
    const int64_t split = ni_divide_up(a->codes.rows, of_a.rows),
                  all = split + (count == 2 ? ni_divide_up(b->codes.rows, of_b.rows) : 0);
    for (int i = 0; i < count; i++)
        if (!makings[i].cleared) {
            const int code = cudaMemsetAsync(makings[i].to.wide, 0, sizeof(uint32_t), (cudaStream_t)stream);
            if (code != cudaSuccess)
                return code;
        }
    if (all == 0)
        return cudaSuccess;
    return ni_launch_following((cudaStream_t)stream, mx_bytes, dim3((unsigned)all), NI_THREADS, 0, *a, *b, of_a, of_b,
                               (unsigned)split);
}
