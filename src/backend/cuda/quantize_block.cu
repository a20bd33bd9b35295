/* quantize_block.cu: operands whose blocks have a rule of their own (block.cuh), from one reading of the source straight
 * into what a product reads:
 *
 *     rows         a thread takes 16 neighbours out of memory; tiles of 16x16 lie in 16 lanes
 *     columns      a tile of 128 x 64 in shared memory, as FP32; a thread takes 16 rows of a column and leaves values where
 *                  it took them, so that they are written as the source lies and nothing is transposed; codes go through
 *                  shared memory too, a column at a time. The source may be what codes decode to
 *
 *     both         the rows of a tile, then its columns, where a row's groups end within a tile
 *
 * Either may be rotated by 16 to 128. Bits are those of quantize.cu. Where a tensor's scale needs a maximum that nobody
 * knows, the same kernels look for it first (`measure`). MS-EDEN of what quantize_eden.cu takes goes there.
 */
#include "backend/cuda/block.cuh"
#include "backend/cuda/quantize_eden.h"
#include "backend/cuda/quantize_eight_columns.h"

#include <type_traits>

enum { THREADS = 256, TILE_ROWS = 128, TILE_COLS = 64, SKEW = 12, CODE_PITCH = TILE_ROWS / 16 + 2 };

/* In the place of a rule: the largest magnitude, rotated as the copy is, joins *copy.head. */
typedef struct measure {
    enum { LANES = 1, STORED_BY = 0 };
} measure;

/* ---- what a copy gets ---- */

template <> __device__ void ni_leave_scale<measure>(const ni_block_copy &b, const ni_cuda_tile_copy &copy) {
}

template <typename RULE> static __device__ void open_copy(ni_block_copy *b, const ni_cuda_tile_copy &copy, bool first) {
    ni_open_block_copy(b, copy);
    if (first)
        ni_leave_scale<RULE>(*b, copy);
}

/* The scale of a block; `at` counts the operand's numbers in its canonical order. */
template <typename RULE>
static __device__ void store_scale(const ni_cuda_tile_copy &copy, const ni_block_made &made, int64_t at, int part) {
    if (part % RULE::STORED_BY)
        return;
    if (RULE::STORED_BY == 4)
        *(uint32_t *)(copy.scales + at / 16) = made.scale;
    else
        copy.scales[at / (16 * RULE::STORED_BY)] = (uint8_t)made.scale;
}

/* Lanes of a group are 2^n. */
static __device__ void turn(const ni_block_copy &b, float *x, int part) {
    if (b.quantizer.hadamard_size)
        ni_turn_lanes(x, b.quantizer.hadamard_size, part & (b.quantizer.hadamard_size / 16 - 1), b);
}

/* All lanes of a group come. */
template <typename RULE>
static __device__ void make_block(const ni_block_copy &b, const ni_cuda_tile_copy &copy, float *x, uint32_t group,
                                  int part, ni_block_made *made) {
    turn(b, x, part);
    RULE::make(b, copy.keys, x, group, part, made);
}

static __device__ void join(const ni_block_copy &b, float *x, int part, uint32_t *largest) {
    turn(b, x, part);
    *largest = max(*largest, ni_amax_of_sixteen(x));
}

static __device__ void fill_zero(float *x) {
#pragma unroll
    for (int i = 0; i < 16; i++)
        x[i] = 0.0f;
}

/* ---- rows ---- */

/* Column c of row r of the source. */
template <typename RULE>
static __device__ void store_row(const ni_cuda_tile_copy &copy, const ni_block_made &made, int64_t r, int64_t c,
                                 int part) {
    const int64_t at = r * copy.stride + copy.at + c;
    if (copy.values) {
        uint4 *const to = (uint4 *)(copy.values + at);
        to[0] = make_uint4(made.values[0], made.values[1], made.values[2], made.values[3]);
        to[1] = make_uint4(made.values[4], made.values[5], made.values[6], made.values[7]);
    }
    if (copy.codes) {
        *(uint2 *)(copy.codes + at / 2) = made.codes;
        store_scale<RULE>(copy, made, at, part);
    }
}

template <typename RULE, typename T>
static __global__ void __launch_bounds__(THREADS) block_rows(const T *from, int64_t stride, int64_t rows, int64_t cols,
                                                             const __grid_constant__ ni_cuda_tile_copy copy) {
    __shared__ ni_block_copy b;
    const uint32_t blocks = (uint32_t)(cols / 16);
    const int64_t thread = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    const bool live = thread < rows * blocks, tiles = copy.quantizer.block_rows == 16;
    const uint32_t unit = live ? (uint32_t)thread : 0, lines = tiles ? unit / 16 : unit;
    const uint32_t r = tiles ? lines / blocks * 16 + unit % 16 : lines / blocks, block = lines % blocks;
    const int part = (int)(block % 8);
    float x[16];
    fill_zero(x);
    if (live)
        ni_load_sixteen(x, from + r * stride + 16 * block);
    if (threadIdx.x == 0)
        open_copy<RULE>(&b, copy, thread == 0);
    __syncthreads();
    if constexpr (RULE::STORED_BY == 0) {
        uint32_t largest = 0;
        join(b, x, part, &largest);
        ni_join_amax(copy.head, largest);
    } else {
        ni_block_made made;
        make_block<RULE>(b, copy, x, r * blocks + block, part, &made);
        if (!live)
            return;
        store_row<RULE>(copy, made, r, 16 * block, part);
    }
}

/* ---- a tile ---- */

/* Sixteens of one column that lie in neighbouring lanes are in different banks, and so are fours of columns that eight
 * lanes read at once, each its own sixteen of a row. */
static __device__ int in_tile(int row, int col) {
    return row * TILE_COLS + row / 16 * SKEW + (col ^ (col >> 5 & 1) << 2 ^ (row & 1) << 3);
}

static __device__ ni_eight load_eight(const uint16_t *from) {
    return ni_load_eight(from);
}

static __device__ ni_eight load_eight(const float *from) {
    const float4 a = *(const float4 *)from, b = *(const float4 *)(from + 4);
    return ni_eight{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

/* KIND: 0 BF16, 1 FP32, 2 codes of four bits. */
template <int KIND>
static __device__ void load_tile(float *tile, const ni_cuda_double_source &s, int64_t r0, int64_t c0) {
#pragma unroll
    for (int k = 0; k < TILE_ROWS * TILE_COLS / 8 / THREADS; k++) {
        const int vector = k * THREADS + (int)threadIdx.x, row = vector / (TILE_COLS / 8),
                  col = vector % (TILE_COLS / 8) * 8;
        const int64_t r = r0 + row, c = c0 + col;
        ni_eight e = {};
        if (r < s.rows && c < s.cols)
            e = KIND == 2   ? ni_decode_eight(s.codes, r, c)
                : KIND == 1 ? load_eight((const float *)s.numbers + r * s.stride + c)
                            : load_eight((const uint16_t *)s.numbers + r * s.stride + c);
        *(float4 *)&tile[in_tile(row, col)] = make_float4(e.x[0], e.x[1], e.x[2], e.x[3]);
        *(float4 *)&tile[in_tile(row, col + 4)] = make_float4(e.x[4], e.x[5], e.x[6], e.x[7]);
    }
}

static __device__ void store_tile(const float *tile, const ni_cuda_double_source &s, const ni_cuda_tile_copy &copy,
                                  int64_t r0, int64_t c0) {
#pragma unroll
    for (int k = 0; k < TILE_ROWS * TILE_COLS / 8 / THREADS; k++) {
        const int vector = k * THREADS + (int)threadIdx.x, row = vector / (TILE_COLS / 8),
                  col = vector % (TILE_COLS / 8) * 8;
        const int64_t r = r0 + row, c = c0 + col;
        const float4 a = *(const float4 *)&tile[in_tile(row, col)], b = *(const float4 *)&tile[in_tile(row, col + 4)];
        if (r < s.rows && c < s.cols)
            *(uint4 *)(copy.values + r * copy.stride + c) = make_uint4(
                ni_exact_pair(a.x, a.y), ni_exact_pair(a.z, a.w), ni_exact_pair(b.x, b.y), ni_exact_pair(b.z, b.w));
    }
}

/* Eight lanes write 64 bytes of a column. */
static __device__ void store_tile_codes(const uint2 (*codes)[CODE_PITCH], const ni_cuda_double_source &s,
                                        const ni_cuda_tile_copy &copy, int64_t r0, int64_t c0) {
#pragma unroll
    for (int unit = (int)threadIdx.x; unit < TILE_ROWS / 16 * TILE_COLS; unit += THREADS) {
        const int part = unit % (TILE_ROWS / 16), col = unit / (TILE_ROWS / 16);
        const int64_t r = r0 + 16 * part, c = c0 + col;
        if (r < s.rows && c < s.cols)
            *(uint2 *)(copy.codes + (c * copy.contraction + r) / 2) = codes[col][part];
    }
}

typedef float tile_room[TILE_ROWS * TILE_COLS + TILE_ROWS / 16 * SKEW];

/* Its rows, but for a `measure`. */
template <typename RULE>
static __device__ void make_rows(const float *tile, const ni_block_copy &b, const ni_cuda_double_source &s,
                                 const ni_cuda_tile_copy &copy, int64_t r0, int64_t c0) {
#pragma unroll 1
    for (int unit = (int)threadIdx.x; unit < TILE_ROWS * TILE_COLS / 16; unit += THREADS) {
        const int part = unit % (TILE_COLS / 16), row = unit / (TILE_COLS / 16);
        const int64_t r = r0 + row, c = c0 + 16 * part;
        float x[16];
        ni_block_made made;
#pragma unroll
        for (int i = 0; i < 16; i += 4) {
            const float4 v = *(const float4 *)&tile[in_tile(row, 16 * part + i)];
            x[i] = v.x;
            x[i + 1] = v.y;
            x[i + 2] = v.z;
            x[i + 3] = v.w;
        }
        make_block<RULE>(b, copy, x, (uint32_t)r * (uint32_t)(s.cols / 16) + (uint32_t)(c / 16), part, &made);
        if (r < s.rows && c < s.cols)
            store_row<RULE>(copy, made, r, c, part);
    }
}

/* Its columns. Values stay where the numbers were. */
template <typename RULE>
static __device__ void make_columns(float *tile, uint2 (*codes)[CODE_PITCH], const ni_block_copy &b,
                                    const ni_cuda_double_source &s, const ni_cuda_tile_copy &copy, int64_t r0,
                                    int64_t c0) {
    const int turned = copy.quantizer.hadamard_size / 16;
    const int lanes = __ffs(turned > RULE::LANES ? turned : RULE::LANES) - 1; /* 2^this */
    uint32_t largest = 0;
#pragma unroll 1
    for (int unit = (int)threadIdx.x; unit < TILE_ROWS / 16 * TILE_COLS; unit += THREADS) {
        const int part = unit & ((1 << lanes) - 1), col = unit >> lanes & (TILE_COLS - 1),
                  row = ((unit >> lanes) / TILE_COLS << lanes | part) * 16;
        const int64_t r = r0 + row, c = c0 + col;
        float *const even = &tile[in_tile(row, col)], *const odd = &tile[in_tile(row + 1, col)], x[16];
#pragma unroll
        for (int i = 0; i < 16; i += 2) { /* rows of a sixteen lie TILE_COLS apart */
            x[i] = even[i * TILE_COLS];
            x[i + 1] = odd[i * TILE_COLS];
        }
        if constexpr (RULE::STORED_BY == 0) {
            join(b, x, part, &largest);
        } else {
            ni_block_made made;
            make_block<RULE>(b, copy, x, (uint32_t)c * (uint32_t)(s.rows / 16) + (uint32_t)(r / 16), part, &made);
            if (copy.values)
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    even[2 * i * TILE_COLS] = ni_low_of(made.values[i]);
                    odd[2 * i * TILE_COLS] = ni_high_of(made.values[i]);
                }
            if (copy.codes)
                codes[col][row / 16] = made.codes;
            if (copy.codes && r < s.rows && c < s.cols)
                store_scale<RULE>(copy, made, c * copy.contraction + r, part);
        }
    }
    if constexpr (RULE::STORED_BY == 0) {
        ni_join_amax(copy.head, largest);
    } else {
        __syncthreads();
        if (copy.values)
            store_tile(tile, s, copy, r0, c0);
        if (copy.codes)
            store_tile_codes(codes, s, copy, r0, c0);
    }
}

/* The first row of this block's tile. */
static __device__ int64_t tile_row() {
    return ni_band() * TILE_ROWS;
}

template <typename RULE, int KIND>
static __global__ void __launch_bounds__(THREADS, 3)
    block_columns(const __grid_constant__ ni_cuda_double_source s, const __grid_constant__ ni_cuda_tile_copy copy) {
    __shared__ ni_block_copy b;
    __shared__ __align__(16) tile_room tile;
    __shared__ uint2 codes[RULE::STORED_BY ? TILE_COLS : 1][CODE_PITCH];
    const int64_t r0 = tile_row(), c0 = (int64_t)blockIdx.x * TILE_COLS;
    if (r0 >= s.rows)
        return;
    load_tile<KIND>(tile, s, r0, c0);
    if (threadIdx.x == 0)
        open_copy<RULE>(&b, copy, r0 == 0 && c0 == 0);
    __syncthreads();
    make_columns<RULE>(tile, codes, b, s, copy, r0, c0);
}

template <typename RULE, int KIND>
static __global__ void __launch_bounds__(THREADS, 3)
    block_both(const __grid_constant__ ni_cuda_double_source s, const __grid_constant__ ni_cuda_tile_copy row,
               const __grid_constant__ ni_cuda_tile_copy column) {
    __shared__ ni_block_copy b[2];
    __shared__ __align__(16) tile_room tile;
    __shared__ uint2 codes[TILE_COLS][CODE_PITCH];
    const int64_t r0 = tile_row(), c0 = (int64_t)blockIdx.x * TILE_COLS;
    const bool first = r0 == 0 && c0 == 0;
    if (r0 >= s.rows)
        return;
    load_tile<KIND>(tile, s, r0, c0);
    if (threadIdx.x == 0)
        open_copy<RULE>(&b[0], row, first);
    if (threadIdx.x == 32)
        open_copy<RULE>(&b[1], column, first);
    __syncthreads();
    make_rows<RULE>(tile, b[0], s, row, r0, c0);
    __syncthreads();
    make_columns<RULE>(tile, codes, b[1], s, column, r0, c0);
}

/* ---- which kernel ---- */

template <typename RULE>
static void launch_rows(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    const unsigned grid = (unsigned)ni_divide_up(s->rows * (s->cols / 16), THREADS);
    if (s->wide)
        block_rows<RULE, float>
            <<<grid, THREADS, 0, on>>>((const float *)s->numbers, s->stride, s->rows, s->cols, *copy);
    else
        block_rows<RULE, uint16_t>
            <<<grid, THREADS, 0, on>>>((const uint16_t *)s->numbers, s->stride, s->rows, s->cols, *copy);
}

static dim3 grid_of(const ni_cuda_double_source *s) {
    return ni_band_grid(ni_divide_up(s->cols, TILE_COLS), ni_divide_up(s->rows, TILE_ROWS));
}

template <typename RULE>
static void launch_columns(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    const dim3 grid = grid_of(s);
    if constexpr (std::is_same<RULE, ni_mx8_rule>::value)
        if (!s->numbers && s->codes.quantizer.element == NB_ELEMENT_E4M3) {
            ni_cuda_quantize_eight_columns(on, s, copy);
            return;
        }
    if (!s->numbers)
        block_columns<RULE, 2><<<grid, THREADS, 0, on>>>(*s, *copy);
    else if (s->wide)
        block_columns<RULE, 1><<<grid, THREADS, 0, on>>>(*s, *copy);
    else
        block_columns<RULE, 0><<<grid, THREADS, 0, on>>>(*s, *copy);
}

template <typename RULE>
static int launch(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns) {
    if (s->rows * (s->cols / 16) > INT32_MAX)
        return cudaErrorInvalidValue;
    if (columns)
        launch_columns<RULE>((cudaStream_t)stream, s, copy);
    else
        launch_rows<RULE>((cudaStream_t)stream, s, copy);
    return cudaGetLastError();
}

template <typename RULE>
static int launch_both(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                       const ni_cuda_tile_copy *column) {
    cudaStream_t on = (cudaStream_t)stream;
    const dim3 grid = grid_of(s);
    if (s->rows * (s->cols / 16) > INT32_MAX)
        return cudaErrorInvalidValue;
    if (s->wide)
        block_both<RULE, 1><<<grid, THREADS, 0, on>>>(*s, *row, *column);
    else
        block_both<RULE, 0><<<grid, THREADS, 0, on>>>(*s, *row, *column);
    return cudaGetLastError();
}

bool ni_cuda_blocks_pair(const ni_cuda_double_source *s, const nb_quantizer *row, const nb_quantizer *column) {
    if (row->rule == NB_RULE_EDEN || column->rule == NB_RULE_EDEN)
        return ni_cuda_eden_takes(s, row, false) && ni_cuda_eden_takes(s, column, true);
    return row->scale_type == column->scale_type && row->element == column->element && row->block_rows == 1 &&
           column->block_rows == 1 && row->hadamard_size <= TILE_COLS;
}

int ni_cuda_quantize_blocks(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                            const ni_cuda_tile_copy *column) {
    if (row->quantizer.rule == NB_RULE_EDEN) { /* maxima at once, copies one by one */
        const int code = ni_cuda_quantize_eden(stream, s, row, false);
        return code ? code : ni_cuda_quantize_eden(stream, s, column, true);
    }
    switch (row->quantizer.scale_type) {
    case NB_SCALE_E8M0:
        return row->quantizer.element == NB_ELEMENT_E4M3 ? launch_both<ni_mx8_rule>(stream, s, row, column)
                                                         : launch_both<ni_mx_rule>(stream, s, row, column);
    case NB_SCALE_HIF4:
        return launch_both<ni_hif4_rule>(stream, s, row, column);
    default:
        return launch_both<ni_e4m3_rule<false>>(stream, s, row, column);
    }
}

int ni_cuda_block_amaxes(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                         const ni_cuda_tile_copy *column) {
    ni_cuda_tile_copy measured[2] = {};
    if (row)
        measured[0] = *row;
    if (column)
        measured[1] = *column;
    for (int i = 0; i < 2; i++) {
        measured[i].head = (uint32_t *)measured[i].amax;
        measured[i].amax = NULL;
    }
    if ((!row || ni_cuda_eden_takes(s, &row->quantizer, false)) &&
        (!column || ni_cuda_eden_takes(s, &column->quantizer, true)))
        return ni_cuda_eden_amaxes(stream, s, row ? &measured[0] : NULL, column ? &measured[1] : NULL);
    const int code = row ? launch<measure>(stream, s, &measured[0], false) : cudaSuccess;
    return code || !column ? code : launch<measure>(stream, s, &measured[1], true);
}

int ni_cuda_quantize_block(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns) {
    switch (copy->quantizer.scale_type) {
    case NB_SCALE_E8M0:
        return copy->quantizer.element == NB_ELEMENT_E4M3 ? launch<ni_mx8_rule>(stream, s, copy, columns)
                                                          : launch<ni_mx_rule>(stream, s, copy, columns);
    case NB_SCALE_HIF4:
        return launch<ni_hif4_rule>(stream, s, copy, columns);
    default:
        break;
    }
    if (copy->quantizer.rule == NB_RULE_EDEN)
        return ni_cuda_eden_takes(s, &copy->quantizer, columns) ? ni_cuda_quantize_eden(stream, s, copy, columns)
                                                                : launch<ni_eden_rule>(stream, s, copy, columns);
    if (copy->quantizer.block_rows != 16)
        return launch<ni_e4m3_rule<false>>(stream, s, copy, columns);
    if (columns || s->rows * (s->cols / 16) > INT32_MAX)
        return cudaErrorInvalidValue;
    launch_rows<ni_e4m3_rule<true>>((cudaStream_t)stream, s, copy);
    return cudaGetLastError();
}
