/* quantize_block.cu: operands whose blocks have a rule of their own (block.cuh), from one reading of the source straight
 * into what a product reads:
 *
 *     rows         a thread takes 16 neighbours out of memory; tiles of 16x16 lie in 16 lanes
 *     columns      a tile of 128 x 64 in shared memory, as FP32; a thread takes 16 rows of a column and leaves values where
 *                  it took them, so that they are written as the source lies and nothing is transposed; codes go through
 *                  shared memory too, a column at a time. The source may be what codes decode to
 *
 * Either may be rotated by 16 to 128. Bits are those of quantize.cu. Where a tensor's scale needs a maximum that nobody
 * knows, the same kernels look for it first (`measure`).
 */
#include "backend/cuda/block.cuh"

#include "backend/cuda/element.cuh"

enum { THREADS = 256, TILE_ROWS = 128, TILE_COLS = 64, SKEW = 12, CODE_PITCH = TILE_ROWS / 16 + 2 };

/* In the place of a rule: the largest magnitude, rotated as the copy is, joins *copy.head. */
typedef struct measure {
    enum { LANES = 1, STORED_BY = 0 };
} measure;

/* ---- what a copy gets ---- */

template <typename RULE> static __device__ void leave_scale(const ni_block_copy &b, const ni_cuda_tile_copy &copy) {
    if (copy.tensor_scale)
        *copy.tensor_scale = RULE::tensor_scale(b);
    if (copy.head)
        *copy.head = *copy.amax;
}

template <> __device__ void leave_scale<measure>(const ni_block_copy &b, const ni_cuda_tile_copy &copy) {
}

/* The scale of a block; `at` counts the operand's numbers in its canonical order. */
template <typename RULE> static __device__ void store_scale(const ni_cuda_tile_copy &copy, const ni_block_made &made, int64_t at, int part) {
    if (part % RULE::STORED_BY)
        return;
    if (RULE::STORED_BY == 4)
        *(uint32_t *)(copy.scales + at / 16) = made.scale;
    else
        copy.scales[at / (16 * RULE::STORED_BY)] = (uint8_t)made.scale;
}

/* All lanes of a group come. */
template <typename RULE> static __device__ void make_block(const ni_block_copy &b, float *x, uint32_t group, int part, ni_block_made *made) {
    if (b.quantizer.hadamard_size)
        ni_turn_lanes(x, b.quantizer.hadamard_size, part % (b.quantizer.hadamard_size / 16), b);
    RULE::make(b, x, group, part, made);
}

static __device__ void join(const ni_block_copy &b, float *x, int part, uint32_t *largest) {
    if (b.quantizer.hadamard_size)
        ni_turn_lanes(x, b.quantizer.hadamard_size, part % (b.quantizer.hadamard_size / 16), b);
    *largest = max(*largest, ni_amax_of_sixteen(x));
}

static __device__ void fill_zero(float *x) {
#pragma unroll
    for (int i = 0; i < 16; i++)
        x[i] = 0.0f;
}

/* ---- rows ---- */

template <typename RULE, typename T>
static __global__ void __launch_bounds__(THREADS) block_rows(const T *from, int64_t stride, int64_t rows, int64_t cols, const __grid_constant__ ni_cuda_tile_copy copy) {
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
    if (threadIdx.x == 0) {
        ni_open_block_copy(&b, copy);
        if (thread == 0)
            leave_scale<RULE>(b, copy);
    }
    __syncthreads();
    if constexpr (RULE::STORED_BY == 0) {
        uint32_t largest = 0;
        join(b, x, part, &largest);
        ni_join_amax(copy.head, largest);
    } else {
        ni_block_made made;
        make_block<RULE>(b, x, r * blocks + block, part, &made);
        if (!live)
            return;
        const int64_t at = r * copy.stride + copy.at + 16 * block;
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
}

/* ---- columns ---- */

/* Sixteens of one column that lie in neighbouring lanes are in different banks. */
static __device__ int in_tile(int row, int col) {
    return row * TILE_COLS + row / 16 * SKEW + col;
}

static __device__ ni_eight load_eight(const uint16_t *from) {
    return ni_load_eight(from);
}

static __device__ ni_eight load_eight(const float *from) {
    const float4 a = *(const float4 *)from, b = *(const float4 *)(from + 4);
    return ni_eight{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

/* Eight codes of four bits under one scale. */
static __device__ ni_eight decode_eight(const nb_qtensor &t, int64_t r, int64_t c) {
    const uint32_t codes = *(const uint32_t *)(t.codes + (r * t.cols + c) / 2);
    const float scale = ni_scale_of(t, r, c, true);
    ni_eight e;
#pragma unroll
    for (int i = 0; i < 8; i++)
        e.x[i] = ni_f32_mul(ni_e2m1_of(codes >> (4 * i) & 15u), scale);
    return e;
}

/* KIND: 0 BF16, 1 FP32, 2 codes. */
template <int KIND> static __device__ void load_tile(float *tile, const ni_cuda_double_source &s, int64_t r0, int64_t c0) {
#pragma unroll
    for (int k = 0; k < TILE_ROWS * TILE_COLS / 8 / THREADS; k++) {
        const int vector = k * THREADS + (int)threadIdx.x, row = vector / (TILE_COLS / 8), col = vector % (TILE_COLS / 8) * 8;
        const int64_t r = r0 + row, c = c0 + col;
        ni_eight e = {};
        if (r < s.rows && c < s.cols)
            e = KIND == 2   ? decode_eight(s.codes, r, c)
                : KIND == 1 ? load_eight((const float *)s.numbers + r * s.stride + c)
                            : load_eight((const uint16_t *)s.numbers + r * s.stride + c);
        float4 *const to = (float4 *)&tile[in_tile(row, col)];
        to[0] = make_float4(e.x[0], e.x[1], e.x[2], e.x[3]);
        to[1] = make_float4(e.x[4], e.x[5], e.x[6], e.x[7]);
    }
}

static __device__ void store_tile(const float *tile, const ni_cuda_double_source &s, const ni_cuda_tile_copy &copy, int64_t r0, int64_t c0) {
#pragma unroll
    for (int k = 0; k < TILE_ROWS * TILE_COLS / 8 / THREADS; k++) {
        const int vector = k * THREADS + (int)threadIdx.x, row = vector / (TILE_COLS / 8), col = vector % (TILE_COLS / 8) * 8;
        const int64_t r = r0 + row, c = c0 + col;
        const float4 *const from = (const float4 *)&tile[in_tile(row, col)];
        const float4 a = from[0], b = from[1];
        if (r < s.rows && c < s.cols)
            *(uint4 *)(copy.values + r * copy.stride + c) = make_uint4(ni_exact_pair(a.x, a.y), ni_exact_pair(a.z, a.w), ni_exact_pair(b.x, b.y), ni_exact_pair(b.z, b.w));
    }
}

/* Eight lanes write 64 bytes of a column. */
static __device__ void store_tile_codes(const uint2 (*codes)[CODE_PITCH], const ni_cuda_double_source &s, const ni_cuda_tile_copy &copy, int64_t r0, int64_t c0) {
#pragma unroll
    for (int unit = (int)threadIdx.x; unit < TILE_ROWS / 16 * TILE_COLS; unit += THREADS) {
        const int part = unit % (TILE_ROWS / 16), col = unit / (TILE_ROWS / 16);
        const int64_t r = r0 + 16 * part, c = c0 + col;
        if (r < s.rows && c < s.cols)
            *(uint2 *)(copy.codes + (c * copy.contraction + r) / 2) = codes[col][part];
    }
}

template <typename RULE, int KIND>
static __global__ void __launch_bounds__(THREADS) block_columns(const __grid_constant__ ni_cuda_double_source s, const __grid_constant__ ni_cuda_tile_copy copy) {
    __shared__ ni_block_copy b;
    __shared__ __align__(16) float tile[TILE_ROWS * TILE_COLS + TILE_ROWS / 16 * SKEW];
    __shared__ uint2 codes[RULE::STORED_BY ? TILE_COLS : 1][CODE_PITCH];
    const int64_t r0 = ((int64_t)blockIdx.y + (int64_t)blockIdx.z * gridDim.y) * TILE_ROWS, c0 = (int64_t)blockIdx.x * TILE_COLS;
    const int turned = copy.quantizer.hadamard_size / 16, lanes = turned > RULE::LANES ? turned : RULE::LANES;
    uint32_t largest = 0;
    if (r0 >= s.rows)
        return;
    load_tile<KIND>(tile, s, r0, c0);
    if (threadIdx.x == 0) {
        ni_open_block_copy(&b, copy);
        if (r0 == 0 && c0 == 0)
            leave_scale<RULE>(b, copy);
    }
    __syncthreads();
#pragma unroll 1
    for (int unit = (int)threadIdx.x; unit < TILE_ROWS / 16 * TILE_COLS; unit += THREADS) {
        const int part = unit % lanes, col = unit / lanes % TILE_COLS, row = (unit / lanes / TILE_COLS * lanes + part) * 16;
        const int64_t r = r0 + row, c = c0 + col;
        float x[16];
#pragma unroll
        for (int i = 0; i < 16; i++)
            x[i] = tile[in_tile(row + i, col)];
        if constexpr (RULE::STORED_BY == 0) {
            join(b, x, part, &largest);
        } else {
            ni_block_made made;
            make_block<RULE>(b, x, (uint32_t)c * (uint32_t)(s.rows / 16) + (uint32_t)(r / 16), part, &made);
            if (copy.values)
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    tile[in_tile(row + 2 * i, col)] = ni_low_of(made.values[i]);
                    tile[in_tile(row + 2 * i + 1, col)] = ni_high_of(made.values[i]);
                }
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

/* ---- which kernel ---- */

template <typename RULE> static void launch_rows(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    const unsigned grid = (unsigned)ni_divide_up(s->rows * (s->cols / 16), THREADS);
    if (s->wide)
        block_rows<RULE, float><<<grid, THREADS, 0, on>>>((const float *)s->numbers, s->stride, s->rows, s->cols, *copy);
    else
        block_rows<RULE, uint16_t><<<grid, THREADS, 0, on>>>((const uint16_t *)s->numbers, s->stride, s->rows, s->cols, *copy);
}

template <typename RULE> static void launch_columns(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    enum { MOST = 65535 };
    const int64_t bands = ni_divide_up(s->rows, TILE_ROWS), deep = ni_divide_up(bands, MOST);
    const dim3 grid((unsigned)ni_divide_up(s->cols, TILE_COLS), (unsigned)ni_divide_up(bands, deep), (unsigned)deep);
    if (!s->numbers)
        block_columns<RULE, 2><<<grid, THREADS, 0, on>>>(*s, *copy);
    else if (s->wide)
        block_columns<RULE, 1><<<grid, THREADS, 0, on>>>(*s, *copy);
    else
        block_columns<RULE, 0><<<grid, THREADS, 0, on>>>(*s, *copy);
}

template <typename RULE> static int launch(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns) {
    if (s->rows * (s->cols / 16) > INT32_MAX)
        return cudaErrorInvalidValue;
    if (columns)
        launch_columns<RULE>((cudaStream_t)stream, s, copy);
    else
        launch_rows<RULE>((cudaStream_t)stream, s, copy);
    return cudaGetLastError();
}

int ni_cuda_block_amax(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, uint32_t *amax, bool columns) {
    ni_cuda_tile_copy measured = *copy;
    measured.amax = NULL;
    measured.head = amax;
    return launch<measure>(stream, s, &measured, columns);
}

int ni_cuda_quantize_block(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns) {
    switch (copy->quantizer.scale_type) {
    case NB_SCALE_E8M0:
        return launch<ni_mx_rule>(stream, s, copy, columns);
    case NB_SCALE_HIF4:
        return launch<ni_hif4_rule>(stream, s, copy, columns);
    default:
        return copy->quantizer.rule == NB_RULE_EDEN ? launch<ni_eden_rule>(stream, s, copy, columns)
                                                    : launch<ni_e4m3_rule>(stream, s, copy, columns);
    }
}
