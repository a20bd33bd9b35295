/* quantize_eden.cu: MS-EDEN (format/quartet.h) over groups of 128, whose rotation is most of its work: two lanes share a
 * group, and hold 64 neighbours of it each in registers, so that one stage of seven goes from lane to lane. What is made of
 * a group is left in shared memory where its numbers were, and goes out from there.
 *
 *     numbers      a tile of 128 x 128, in pairs of BF16; 256 threads; rows or columns, and of maxima both
 *     codes        a tile of 128 x 64 of what they decode to, FP32; 128 threads; columns
 *
 * Signs of a rotation down columns are those of rows of the tile, and are put on them as it is filled. Bits are those of
 * quantize.cu.
 */
#include "backend/cuda/block.cuh"
#include "backend/cuda/quantize_eden.h"

enum { SIDE = 128, HALF = SIDE / 2, BLOCKS = HALF / 16 }; /* of a group, of a lane */
enum { BANDS = 2 }; /* tiles that a block does: scales and signs are prepared once */

/* What all threads of a block share of one copy. */
typedef struct shared_copy {
    ni_block_copy b;
    __align__(16) uint32_t signs[HALF]; /* of pairs of neighbours */
    ni_scale_entry table[NI_TILE_BYTES];
} shared_copy;

static __device__ uint32_t sign_of(const ni_sign_mask &signs, int i) {
    return (signs.w[i / 32] >> i % 32 & 1u) << 31;
}

/* ---- tiles ---- */

/* Pairs of BF16 numbers. A column's halves lie in different banks, and rows that neighbouring lanes read do. */
struct pairs_tile {
    enum { COLS = 128, THREADS = 256, PITCH = COLS / 2 + 4, SKEW = 8 };
    /* vectors of a row, rows at once, a thread's */
    enum { ACROSS = COLS / 8, STEP = THREADS / ACROSS, EACH = SIDE / STEP };
    uint32_t words[SIDE * PITCH + SKEW];

    typedef uint4 vector; /* eight neighbours */

    __device__ uint32_t *row(int r) {
        return words + r * PITCH + r / HALF * SKEW;
    }

    __device__ uint16_t *cell(int r, int c) {
        return (uint16_t *)row(r) + c;
    }

    enum { DOWN = 2 * PITCH }; /* from a cell to the one below it, in one half of a column */

    static __device__ float number(const uint16_t *cell) {
        return __uint_as_float((uint32_t)*cell << 16);
    }

    static __device__ vector load(const ni_cuda_double_source &s, int64_t r, int64_t c) {
        return *(const uint4 *)((const uint16_t *)s.numbers + r * s.stride + c);
    }

    __device__ void place(int r, int c, vector v, bool minus) {
        const uint32_t sign = minus ? NI_PAIR_SIGNS : 0;
        *(uint4 *)(row(r) + c / 2) = make_uint4(v.x ^ sign, v.y ^ sign, v.z ^ sign, v.w ^ sign);
    }

    __device__ uint4 values(int r, int c) {
        return *(const uint4 *)(row(r) + c / 2);
    }
};

/* What codes of NVFP4 decode to; a value lies in the lower half of its number. */
struct codes_tile {
    enum { COLS = 64, THREADS = 128, SKEW = 16, ACROSS = COLS / 8, STEP = THREADS / ACROSS, EACH = SIDE / STEP };
    __align__(16) float numbers[SIDE * COLS + SKEW];

    typedef ni_eight vector;

    __device__ float *row(int r) {
        return numbers + r * COLS + r / HALF * SKEW;
    }

    __device__ uint16_t *cell(int r, int c) {
        return (uint16_t *)(row(r) + c);
    }

    enum { DOWN = 2 * COLS };

    static __device__ float number(const uint16_t *cell) {
        return *(const float *)cell;
    }

    static __device__ vector load(const ni_cuda_double_source &s, int64_t r, int64_t c) {
        const nb_qtensor &t = s.codes;
        const float tensor = t.tensor_scale ? *t.tensor_scale : 1.0f;
        return ni_decode_eight(t, r, c, ni_f32_mul(ni_byte_value(t.scales[r * (t.cols / 16) + c / 16]), tensor));
    }

    __device__ void place(int r, int c, const vector &v, bool minus) {
        const float sign = minus ? -1.0f : 1.0f;
        float4 *const to = (float4 *)(row(r) + c);
        to[0] = make_float4(v.x[0] * sign, v.x[1] * sign, v.x[2] * sign, v.x[3] * sign);
        to[1] = make_float4(v.x[4] * sign, v.x[5] * sign, v.x[6] * sign, v.x[7] * sign);
    }

    __device__ uint4 values(int r, int c) {
        const uint4 *const from = (const uint4 *)(row(r) + c), a = from[0], b = from[1];
        return make_uint4(__byte_perm(a.x, a.y, 0x5410), __byte_perm(a.z, a.w, 0x5410), __byte_perm(b.x, b.y, 0x5410),
                          __byte_perm(b.z, b.w, 0x5410));
    }
};

/* ---- a lane's half of a group ---- */

/* Of row r; `sign` is what the tile has put on it. */
static __device__ void take_row(pairs_tile &tile, const shared_copy &shared, int r, bool upper, uint32_t sign,
                                float *x) {
    const uint4 *const from = (const uint4 *)(tile.row(r) + upper * (HALF / 2));
    const uint4 *const signs = (const uint4 *)(shared.signs + upper * (HALF / 2));
#pragma unroll
    for (int k = 0; k < HALF / 8; k++) {
        const uint4 v = from[k], s = signs[k];
        const uint32_t w[4] = {v.x ^ s.x ^ sign, v.y ^ s.y ^ sign, v.z ^ s.z ^ sign, v.w ^ s.w ^ sign};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[8 * k + 2 * i] = ni_low_of(w[i]);
            x[8 * k + 2 * i + 1] = ni_high_of(w[i]);
        }
    }
}

template <typename TILE> static __device__ void take_column(TILE &tile, int c, bool upper, float *x) {
    const uint16_t *const from = tile.cell(upper * HALF, c);
#pragma unroll
    for (int i = 0; i < HALF; i++)
        x[i] = TILE::number(from + i * TILE::DOWN);
}

/* The largest magnitude of the group, of which this lane has the numbers before the last stage (tile.cuh). */
static __device__ uint32_t amax_of_group(const float *x, bool round_bf16) {
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < HALF; i++)
        largest = ni_larger_or_nan(largest, ni_f32_add(fabsf(x[i]), fabsf(__shfl_xor_sync(~0u, x[i], 1))));
    if (__any_sync(~0u,
                   ni_f32_magnitude(largest) >= NI_F32_INF_BITS)) /* Inf + Inf is Inf, but their difference is NaN */
#pragma unroll
        for (int i = 0; i < HALF; i++)
            largest = ni_larger_or_nan(largest, fabsf(ni_f32_sub(fabsf(x[i]), fabsf(__shfl_xor_sync(~0u, x[i], 1)))));
    largest = ni_f32_mul(largest, ni_hadamard_factor(SIDE));
    return ni_f32_magnitude(round_bf16 ? ni_bf16_round(largest) : largest);
}

static __device__ void turn_last(float *x, bool upper, bool round_bf16) {
    const float sign = upper ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < HALF; i++)
        x[i] = ni_f32_mul(__fmaf_rn(x[i], sign, __shfl_xor_sync(~0u, x[i], 1)), ni_hadamard_factor(SIDE));
    if (round_bf16)
#pragma unroll
        for (int i = 0; i < HALF; i += 2) {
            const uint32_t pair = ni_pack_two(x[i], x[i + 1]);
            x[i] = ni_low_of(pair);
            x[i + 1] = ni_high_of(pair);
        }
}

/* u of this lane's four blocks; `first` counts the operand's blocks, and is a multiple of 8 (format/noise.h). */
static __device__ void noise_of(const ni_block_copy &b, const ni_philox_keys &keys, uint32_t first, bool upper,
                                float *u) {
    const bool bytes = b.quantizer.sr_bits == 8, second = first & 8u;
    const ni_philox_words r = ni_philox_next(&keys, &b.drawn, first / NI_NOISE_GROUP,
                                             !bytes && second ? NI_PURPOSE_ROUNDING_HI : NI_PURPOSE_ROUNDING);
    const bool high = bytes ? second : upper;
    const uint32_t even = high ? r.w[2] : r.w[0], odd = high ? r.w[3] : r.w[1];
    if (bytes) {
        const uint32_t word = upper ? odd : even;
#pragma unroll
        for (int k = 0; k < BLOCKS; k++)
            u[k] = ni_f32_mul((float)(word >> (8 * k) & 0xffu), 0x1p-8f);
        return;
    }
#pragma unroll
    for (int k = 0; k < BLOCKS; k++)
        u[k] = ni_f32_mul((float)((k / 2 ? odd : even) >> (16 * (k % 2)) & 0xffffu), 0x1p-16f);
}

/* Sixteen numbers under their first scale: pairs on the grid, and what they add to the group's sums. */
static __device__ ni_eden_sums round_block(const float *x, float amax, float encode, uint32_t *pairs) {
    float q[16], squares[16], products[16];
#pragma unroll
    for (int i = 0; i < 16; i++)
        q[i] = ni_nearest_on_grid<true>(ni_f32_mul(x[i], encode));
    if (!(ni_f32_mul(amax, encode) < 7.0f)) /* 8 is the next number of the grid that goes on; or Inf, or NaN */
#pragma unroll
        for (int i = 0; i < 16; i++)
            q[i] = ni_nearest_e2m1(ni_f32_mul(x[i], encode));
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const float y = ni_f32_mul(x[i], encode);
        squares[i] = ni_f32_mul(y, y);
        products[i] = ni_f32_mul(y, q[i]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        pairs[i] = ni_exact_pair(q[2 * i], q[2 * i + 1]);
    return ni_eden_sums{ni_tree_sum(squares, 16), ni_tree_sum(products, 16)};
}

/* Over both lanes, in the order of ni_tree_sum: blocks four, two and one apart. */
static __device__ float sum_of_blocks(const float *sums) {
    float both[BLOCKS];
#pragma unroll
    for (int k = 0; k < BLOCKS; k++)
        both[k] = ni_f32_add(sums[k], __shfl_xor_sync(~0u, sums[k], 1));
    return ni_f32_add(ni_f32_add(both[0], both[2]), ni_f32_add(both[1], both[3]));
}

static __device__ uint2 codes_of(const float *x, float encode, const uint32_t *pairs) {
    uint32_t signs[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        signs[i] = ni_exact_pair(ni_f32_mul(x[2 * i], encode), ni_f32_mul(x[2 * i + 1], encode));
    return ni_codes_of_neighbours(pairs, signs);
}

/* Values of 64 numbers that are turned, in pairs. Codes and scales, where they are asked for, to `at`, which counts the
 * operand's numbers; `first` its blocks, where this lane's group begins. */
static __device__ void make_half(const shared_copy &shared, const ni_cuda_tile_copy &copy, const float *x,
                                 uint32_t first, bool upper, int64_t at, uint32_t *values) {
    float squares[BLOCKS], products[BLOCKS], u[BLOCKS];
    uint32_t bytes[BLOCKS];
#pragma unroll
    for (int k = 0; k < BLOCKS; k++) {
        const uint32_t amax = ni_amax_of_sixteen(x + 16 * k);
        bytes[k] = ni_eden_first_byte((uint8_t)ni_scale_bytes(ni_f32_from(amax), 0.0f, shared.b.scale.s_inner));
        const float encode = shared.table[bytes[k]].encode;
        const ni_eden_sums sums = round_block(x + 16 * k, ni_f32_from(amax), encode, values + 8 * k);
        squares[k] = sums.squares;
        products[k] = sums.products;
        if (copy.codes)
            *(uint2 *)(copy.codes + (at + 16 * k) / 2) = codes_of(x + 16 * k, encode, values + 8 * k);
    }
    const ni_eden_sums all = {sum_of_blocks(squares), sum_of_blocks(products)};
    const float factor = ni_eden_factor(all);
    noise_of(shared.b, copy.keys, first, upper, u);
#pragma unroll
    for (int k = 0; k < BLOCKS; k++) {
        const uint32_t byte = ni_eden_byte((uint8_t)bytes[k], factor, u[k]), scale = shared.table[byte].value;
#pragma unroll
        for (int i = 0; i < 8; i++)
            values[8 * k + i] = ni_pair_times(values[8 * k + i], scale);
        if (!copy.codes)
            continue;
        copy.scales[at / 16 + k] = (uint8_t)byte;
        if (byte == 0)
            *(uint2 *)(copy.codes + (at + 16 * k) / 2) = make_uint2(0, 0);
    }
}

/* ---- the kernel ---- */

/* Thread 0 of the block opens it; behind a barrier all fill the rest. */
static __device__ void open_shared(shared_copy *shared, const ni_cuda_tile_copy &copy, bool first) {
    ni_open_block_copy(&shared->b, copy);
    if (first)
        ni_leave_scale<ni_eden_rule>(shared->b, copy);
}

static __device__ void fill_shared(shared_copy *shared, int threads, bool table) {
    for (int i = (int)threadIdx.x; i < HALF; i += threads)
        shared->signs[i] = sign_of(shared->b.signs, 2 * i) >> 16 | sign_of(shared->b.signs, 2 * i + 1);
    if (table)
        ni_fill_table(shared->table, shared->b.scale.sdec, 1.0f, (int)threadIdx.x, threads);
}

/* A tile of rows or columns that are rotated but for the last stage: values go out of the tile, in whole vectors. */
template <typename TILE, bool ROWS>
static __device__ void make_tile(TILE &tile, const shared_copy &shared, const ni_cuda_tile_copy &copy,
                                 const ni_cuda_double_source &s, float *x, int64_t r0, int64_t c0) {
    const int unit = threadIdx.x / 2;
    const bool upper = threadIdx.x & 1;
    const int64_t r = ROWS ? r0 + unit : c0 + unit, c = ROWS ? c0 : r0; /* of the operand */
    const int64_t wide = ROWS ? s.cols : s.rows, at = ROWS ? r * copy.stride + copy.at + c : r * copy.contraction + c;
    uint32_t values[HALF / 2];
    turn_last(x, upper, copy.quantizer.hadamard_round_bf16);
    make_half(shared, copy, x, (uint32_t)r * (uint32_t)(wide / 16) + (uint32_t)(c / 16), upper, at + upper * HALF,
              values);
    if constexpr (ROWS) {
        uint4 *const to = (uint4 *)(tile.row(unit) + upper * (HALF / 2));
#pragma unroll
        for (int k = 0; k < HALF / 8; k++)
            to[k] = make_uint4(values[4 * k], values[4 * k + 1], values[4 * k + 2], values[4 * k + 3]);
    } else {
        uint16_t *const to = tile.cell(upper * HALF, unit);
#pragma unroll
        for (int i = 0; i < HALF / 2; i++) {
            to[2 * i * TILE::DOWN] = (uint16_t)values[i];
            to[(2 * i + 1) * TILE::DOWN] = (uint16_t)(values[i] >> 16);
        }
    }
    __syncthreads();
    if (!copy.values)
        return;
    const int col = threadIdx.x % TILE::ACROSS * 8;
#pragma unroll
    for (int k = 0; k < TILE::EACH; k++) {
        const int row = threadIdx.x / TILE::ACROSS + k * TILE::STEP;
        *(uint4 *)(copy.values + (r0 + row) * copy.stride + (ROWS ? copy.at : 0) + c0 + col) = tile.values(row, col);
    }
}

/* Two tiles, one below the other. MEASURE: maxima of both ways or one, and nothing is made; else it is one of them. */
template <typename TILE, bool ROWS, bool COLUMNS, bool MEASURE>
static __global__ void __launch_bounds__(TILE::THREADS, 512 / TILE::THREADS)
    eden_tiles(const __grid_constant__ ni_cuda_double_source s, const __grid_constant__ ni_cuda_tile_copy row,
               const __grid_constant__ ni_cuda_tile_copy column) {
    __shared__ shared_copy shared[ROWS + COLUMNS];
    __shared__ __align__(16) TILE tile;
    const int64_t group = ni_band(), c0 = (int64_t)blockIdx.x * TILE::COLS;
    const bool upper = threadIdx.x & 1, opens = group == 0 && blockIdx.x == 0 && !MEASURE;
    const int unit = threadIdx.x / 2, col = threadIdx.x % TILE::ACROSS * 8;
    shared_copy &of_column = shared[ROWS];
    uint32_t of_rows = 0, of_columns = 0; /* maxima */
#pragma unroll 1
    for (int band = 0; band < BANDS; band++) {
        const int64_t r0 = (group * BANDS + band) * SIDE;
        typename TILE::vector in[TILE::EACH];
        float x[HALF];
        if (r0 >= s.rows)
            break;
#pragma unroll
        for (int k = 0; k < TILE::EACH; k++)
            in[k] = TILE::load(s, r0 + threadIdx.x / TILE::ACROSS + k * TILE::STEP, c0 + col);
        if (ROWS && band == 0 && threadIdx.x == 0)
            open_shared(&shared[0], row, opens);
        if (COLUMNS && band == 0 && threadIdx.x == 32)
            open_shared(&of_column, column, opens);
        __syncthreads(); /* the tile before this one is read */
#pragma unroll
        for (int k = 0; k < TILE::EACH; k++) {
            const int line = threadIdx.x / TILE::ACROSS + k * TILE::STEP;
            tile.place(line, col, in[k], COLUMNS && sign_of(of_column.b.signs, line));
        }
        if (band == 0 && (ROWS || !MEASURE))
            fill_shared(&shared[0], TILE::THREADS, !MEASURE);
        __syncthreads();
        if constexpr (ROWS) {
            take_row(tile, shared[0], unit, upper, COLUMNS && sign_of(of_column.b.signs, unit) ? NI_PAIR_SIGNS : 0, x);
            ni_rotate_stages<HALF, HALF>(x);
            if (MEASURE)
                of_rows = max(of_rows, amax_of_group(x, row.quantizer.hadamard_round_bf16));
        }
        if constexpr (COLUMNS) {
            take_column(tile, unit, upper, x);
            ni_rotate_stages<HALF, HALF>(x);
            if (MEASURE)
                of_columns = max(of_columns, amax_of_group(x, column.quantizer.hadamard_round_bf16));
        }
        if constexpr (!MEASURE)
            make_tile<TILE, ROWS>(tile, shared[0], ROWS ? row : column, s, x, r0, c0);
    }
    if (MEASURE && ROWS)
        ni_join_amax(row.head, of_rows);
    if (MEASURE && COLUMNS)
        ni_join_amax(column.head, of_columns);
}

/* ---- which kernel ---- */

bool ni_cuda_eden_takes(const ni_cuda_double_source *s, const nb_quantizer *q, bool columns) {
    if (q->rule != NB_RULE_EDEN || q->hadamard_size != SIDE || s->rows % SIDE || s->rows * (s->cols / 16) > INT32_MAX)
        return false;
    if (s->numbers)
        return !s->wide && s->cols % pairs_tile::COLS == 0;
    return columns && s->codes.quantizer.scale_type == NB_SCALE_E4M3 && !s->codes.outer_scales &&
           s->cols % codes_tile::COLS == 0;
}

template <typename TILE, bool ROWS, bool COLUMNS, bool MEASURE>
static int launch(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                  const ni_cuda_tile_copy *column) {
    const ni_cuda_tile_copy none = {};
    const dim3 grid = ni_band_grid(s->cols / TILE::COLS, ni_divide_up(s->rows, SIDE * BANDS));
    eden_tiles<TILE, ROWS, COLUMNS, MEASURE>
        <<<grid, TILE::THREADS, 0, (cudaStream_t)stream>>>(*s, row ? *row : none, column ? *column : none);
    return cudaGetLastError();
}

int ni_cuda_quantize_eden(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns) {
    if (!s->numbers)
        return launch<codes_tile, false, true, false>(stream, s, NULL, copy);
    return columns ? launch<pairs_tile, false, true, false>(stream, s, NULL, copy)
                   : launch<pairs_tile, true, false, false>(stream, s, copy, NULL);
}

int ni_cuda_eden_amaxes(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                        const ni_cuda_tile_copy *column) {
    if (!s->numbers)
        return launch<codes_tile, false, true, true>(stream, s, NULL, column);
    return !column ? launch<pairs_tile, true, false, true>(stream, s, row, NULL)
           : !row  ? launch<pairs_tile, false, true, true>(stream, s, NULL, column)
                   : launch<pairs_tile, true, true, true>(stream, s, row, column);
}
