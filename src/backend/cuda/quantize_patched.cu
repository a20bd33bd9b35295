/* quantize_patched.cu: a row copy in NVFP4 with pieces of chosen columns beside it, from one reading of a BF16 matrix:
 *
 *     [ Xq | X_I - Xq_I | X_I ]     the residual and the copy in either order, or one of them
 *
 * and, where it is asked for, the rotated column copy of the same numbers. Layers that share X have patches of their own
 * beside the same Xq: it is encoded once and stored for each of them.
 *
 * A block takes some whole rows (sixteen where columns are made) and leaves in shared memory what columns and pieces are
 * made of: the numbers, and the scale bytes, out of which what the base holds of a number is made again. Several eights of
 * a thread are on their way at a time, and the pieces of a number are made beside each other: it is latency that binds.
 * Rounded to nearest; bits are those of quantize_tile.cu and quantize_pieces.cu.
 */
#include "backend/cuda/follow.cuh"
#include "backend/cuda/tile_copy.cuh"

enum {
    AT_ONCE = 4,
    ROW_THREADS = 128,
    MOST_BYTES = 200 * 1024,
    ROOMY_BYTES = 24 * 1024,
    BOTH_THREADS = 1024,     /* of a multiprocessor, where columns are made: 64 registers each */
    BOTH_BYTES = 225 * 1024, /* of its shared memory */
    TABLE_BYTES = 3 * 1024   /* of a block: tables, and what the system takes */
};

/* Of one row in shared memory: numbers, scale bytes (in whole sixteens, so that all stay aligned). */
static int64_t row_bytes(int64_t cols) {
    return 2 * cols + ni_divide_up(cols / 16, 16) * 16;
}

/* Rows of a block are 2^shift: few enough that several blocks find room. */
static int shift_of(int64_t rows, int64_t cols) {
    int shift = 3;
    while (shift > 0 && (rows % (1 << shift) != 0 || (row_bytes(cols) << shift) > ROOMY_BYTES))
        shift--;
    return shift;
}

/* Blocks of sixteen rows that a multiprocessor holds. */
static int64_t blocks_of_sixteen(int64_t cols) {
    return BOTH_BYTES / (TABLE_BYTES + 16 * row_bytes(cols));
}

bool ni_cuda_patched_fits(int64_t cols) {
    return row_bytes(cols) <= MOST_BYTES;
}

/* Two blocks at least, so that one loads while another encodes. */
bool ni_cuda_patched_fits_columns(int64_t rows, int64_t cols) {
    return rows % 16 == 0 && blocks_of_sixteen(cols) >= 2;
}

typedef struct shared_rows {
    uint32_t *numbers; /* pairs [rows, cols / 2] */
    uint8_t *bytes;    /* [rows, byte_pitch] */
    int rows, cols, byte_pitch;
} shared_rows;

/* What all parts share. */
typedef struct patching {
    ni_copying copying;
    ni_tensor_scale scale;
    const ni_cuda_patch &patch;
    int64_t first; /* row of the matrix */
} patching;

/* ---- the base ---- */

/* Half a block: eight neighbours, of row i in shared memory. */
template <bool TAME>
static __device__ __forceinline__ void encode_base(const shared_rows &to, const patching &p, const uint4 &in,
                                                   uint8_t byte, int i, int c) {
    const ni_cuda_tile_copy &copy = p.copying.copy;
    const uint32_t x[4] = {in.x, in.y, in.z, in.w};
    uint32_t q[4], signs[4], codes = 0;
    const ni_scale_entry entry = p.copying.table[byte];
    if (i >= to.rows)
        return;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float low = ni_f32_mul(ni_low_of(x[j]), entry.encode), high = ni_f32_mul(ni_high_of(x[j]), entry.encode);
        signs[j] = TAME ? x[j] : ni_exact_pair(low, high); /* a NaN has the sign of the product */
        q[j] = ni_pair_up_to_six(ni_exact_pair(ni_nearest_on_grid<TAME>(low), ni_nearest_on_grid<TAME>(high)));
    }
    const int64_t out = (p.first + i) * copy.stride + c;
    const uint4 values = make_uint4(ni_pair_times(q[0], entry.value), ni_pair_times(q[1], entry.value),
                                    ni_pair_times(q[2], entry.value), ni_pair_times(q[3], entry.value));
#pragma unroll
    for (int k = 0; k < NI_CUDA_PATCHED_MOST; k++)
        if (k < p.patch.operands)
            ni_store_words(ni_global(p.patch.values[k] + out), values);
    *(uint4 *)(to.numbers + i * to.cols / 2 + c / 2) = in;
    if (c % 16 == 0)
        to.bytes[i * to.byte_pitch + c / 16] = byte;
    if (!copy.codes)
        return;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const uint32_t pair = ni_pair_codes(q[j], signs[j]);
        codes |= (pair & 15u) << (8 * j) | (pair >> 16) << (8 * j + 4);
    }
    *(uint32_t *)(copy.codes + out / 2) = byte ? codes : 0;
    if (c % 16 == 0)
        copy.scales[out / 16] = byte;
}

/* Where a thread is as its block goes through all eights, row by row. */
typedef struct place {
    int row, eight;
} place;

static __device__ __forceinline__ place place_at(int eights) {
    const int row = (int)threadIdx.x / eights;
    return {row, (int)threadIdx.x - row * eights};
}

static __device__ __forceinline__ void step(place *at, int eights) {
    at->eight += (int)blockDim.x;
    while (at->eight >= eights) {
        at->eight -= eights;
        at->row++;
    }
}

/* The next eights of this thread, and where it is behind them; zeros beyond the end. */
static __device__ __forceinline__ place load_eights(uint4 (&in)[AT_ONCE], place at, const ni_cuda_tile_source &s,
                                                    int64_t first, int rows) {
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++, step(&at, (int)s.cols / 8))
        in[j] = at.row < rows ? __ldg((const uint4 *)(s.numbers + (first + at.row) * s.stride + at.eight * 8))
                              : make_uint4(0, 0, 0, 0);
    return at;
}

/* Lanes come in pairs, one for each half of a block; two blocks' scales are made at a time. */
template <bool TAME>
static __device__ __forceinline__ void encode_all(const shared_rows &tile, const patching &p,
                                                  const ni_cuda_tile_source &s, uint4 (&in)[AT_ONCE]) {
    const int eights = tile.cols / 8, all = tile.rows * eights;
    place at = place_at(eights);
    for (int begin = 0; begin < all; begin += AT_ONCE * (int)blockDim.x) {
        const place here = at;
        if (begin)
            load_eights(in, here, s, p.first, tile.rows);
#pragma unroll
        for (int j = 0; j < AT_ONCE; j += 2) {
            const uint32_t bytes = ni_bytes_of_rows<TAME>(p.copying, in[j], in[j + 1]);
            encode_base<TAME>(tile, p, in[j], (uint8_t)bytes, at.row, at.eight * 8);
            step(&at, eights);
            encode_base<TAME>(tile, p, in[j + 1], (uint8_t)(bytes >> 8), at.row, at.eight * 8);
            step(&at, eights);
        }
    }
}

/* ---- pieces: eight lanes hold a block of chosen columns, two neighbours each ---- */

/* What the base holds of a number, as its code has it: the sign of a zero too. */
template <bool TAME> static __device__ __forceinline__ float held(const patching &p, float x, uint32_t byte) {
    const ni_scale_entry entry = p.copying.table[byte];
    const float y = ni_f32_mul(x, entry.encode);
    const uint32_t q = ni_pair_up_to_six(ni_exact_pair(ni_nearest_on_grid<TAME>(y), 0.0f)),
                   sign = __float_as_uint(TAME ? x : y) & 0x80000000u;
    const float value = byte ? __uint_as_float((q & 0x7fffu) << 16 | sign) : 0.0f;
    return ni_f32_mul(value, ni_f32_mul(ni_high_of(entry.value), p.scale.sdec));
}

/* Columns c and c + 1 of a piece. */
static __device__ __forceinline__ void encode_two(const patching &p, uint16_t *values, int64_t at, float x, float y) {
    const ni_cuda_tile_copy &copy = p.copying.copy;
    uint32_t amax = max(ni_f32_magnitude(x), ni_f32_magnitude(y));
#pragma unroll
    for (int lane = 4; lane; lane /= 2)
        amax = max(amax, __shfl_xor_sync(~0u, amax, lane));
    const uint8_t byte = (uint8_t)ni_scale_bytes(ni_f32_from(amax), 0.0f, p.scale.s_inner);
    const ni_scale_entry entry = p.copying.table[byte];
    const float low = ni_f32_mul(x, entry.encode), high = ni_f32_mul(y, entry.encode);
    const uint32_t q =
        ni_pair_up_to_six(ni_exact_pair(ni_nearest_on_grid<false>(low), ni_nearest_on_grid<false>(high)));
    if (!values)
        return;
    *(uint32_t *)(values + at) = ni_pair_times(q, entry.value);
    if (!copy.codes)
        return;
    const uint32_t codes = ni_pair_codes(q, ni_exact_pair(low, high));
    copy.codes[at / 2] = (uint8_t)(byte ? (codes & 15u) | codes >> 16 << 4 : 0);
    if (at % 16 == 0)
        copy.scales[at / 16] = byte;
}

/* Of one operand. */
template <bool TAME>
static __device__ __forceinline__ void encode_pieces(const shared_rows &tile, const patching &p, int operand,
                                                     int shift) {
    const ni_cuda_patch &patch = p.patch;
    const int32_t *columns = patch.columns[operand];
    const int blocks = (int)patch.cols / 16, lane = (int)threadIdx.x % 8;
#pragma unroll 2
    for (int begin = 0; begin < blocks << shift; begin += (int)blockDim.x / 8) {
        const int unit = begin + (int)threadIdx.x / 8, block = unit >> shift, i = unit - (block << shift),
                  c = block * 16 + 2 * lane;
        const bool live = block < blocks;
        float x[2], rest[2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const int column = live ? __ldg(columns + c + k) : 0, at = i * tile.cols + column;
            const uint32_t pair = tile.numbers[at / 2];
            x[k] = at & 1 ? ni_high_of(pair) : ni_low_of(pair);
            rest[k] = ni_f32_sub(x[k], held<TAME>(p, x[k], tile.bytes[i * tile.byte_pitch + column / 16]));
        }
        const int64_t out = (p.first + i) * p.copying.copy.stride + c;
        uint16_t *const values = live ? patch.values[operand] : NULL;
#pragma unroll
        for (int piece = 0; piece < 2; piece++)
            if (piece < patch.count)
                encode_two(p, values, out + patch.at[piece], patch.residual[piece] ? rest[0] : x[0],
                           patch.residual[piece] ? rest[1] : x[1]);
    }
}

/* ---- all of it ---- */

template <bool TAME>
static __device__ __forceinline__ void take_rows(const shared_rows &tile, const patching &p,
                                                 const ni_cuda_tile_source &s, uint4 (&in)[AT_ONCE], int shift) {
    encode_all<TAME>(tile, p, s, in);
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < p.patch.operands; i++)
        encode_pieces<TAME>(tile, p, i, shift);
}

template <bool TAME>
static __device__ __forceinline__ void take_columns(const shared_rows &tile, const ni_copying &columns, int64_t rows,
                                                    int64_t first) {
#pragma unroll 1
    for (int pair = (int)threadIdx.x; pair < tile.cols / 2; pair += (int)blockDim.x)
        ni_encode_columns<0, NI_FIXED_AND_ROUNDED, TAME>(columns, tile.numbers + pair, rows, first, 2 * pair, 0,
                                                         tile.cols / 2);
}

/* The last rows first: what was written last lies in the cache still. */
template <int THREADS, bool COLUMNS>
static __global__ void __launch_bounds__(THREADS, COLUMNS ? BOTH_THREADS / THREADS : 1)
    quantize_patched(const __grid_constant__ ni_cuda_tile_source s, const ni_tile_room *room,
                     const __grid_constant__ ni_cuda_tile_copy row, const __grid_constant__ ni_cuda_tile_copy column,
                     const __grid_constant__ ni_cuda_patch patch, int shift, int byte_pitch) {
    extern __shared__ __align__(16) uint32_t words[];
    __shared__ ni_scale_entry row_table[NI_TILE_BYTES], column_table[COLUMNS ? NI_TILE_BYTES : 1];
    const int cols = (int)s.cols, rows = 1 << shift;
    const int64_t first = (int64_t)(gridDim.x - 1 - blockIdx.x) << shift;
    const shared_rows tile = {words, (uint8_t *)(words + rows * cols / 2), rows, cols, byte_pitch};
    uint4 in[AT_ONCE];
    load_eights(in, place_at(cols / 8), s, first, rows);
    ni_wait_for_it();
    if (threadIdx.x < NI_TILE_BYTES) {
        row_table[threadIdx.x] = room->copies[0].table[threadIdx.x];
        if (COLUMNS)
            column_table[threadIdx.x] = room->copies[1].table[threadIdx.x];
    }
    __syncthreads();
    const bool tame = room->copies[0].tame;
    const patching p = {
        {row, row_table, room->copies[0].s_inner, room->copies[0].drawn, tame}, ni_tile_scale(row), patch, first};
    if (tame)
        take_rows<true>(tile, p, s, in, shift);
    else
        take_rows<false>(tile, p, s, in, shift);
    if (COLUMNS) {
        const ni_copying columns = {column, column_table, room->copies[1].s_inner, room->copies[1].drawn,
                                    room->copies[1].tame};
        if (columns.tame)
            take_columns<true>(tile, columns, s.rows, first);
        else
            take_columns<false>(tile, columns, s.rows, first);
    }
}

template <int THREADS, bool COLUMNS>
static int launch(cudaStream_t on, const ni_tile_room *room, const ni_cuda_tile_source *s,
                  const ni_cuda_both_copies *copies, const ni_cuda_patch *patch, int shift) {
    const int byte_pitch = (int)ni_divide_up(s->cols / 16, 16) * 16;
    const size_t bytes = (size_t)row_bytes(s->cols) << shift;
    const cudaError_t code = cudaFuncSetAttribute(quantize_patched<THREADS, COLUMNS>,
                                                  cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (code != cudaSuccess)
        return code;
    return ni_launch_following(on, quantize_patched<THREADS, COLUMNS>, dim3((unsigned)(s->rows >> shift)), THREADS,
                               bytes, *s, room, copies->row, copies->column, *patch, shift, byte_pitch);
}

int ni_cuda_quantize_patched(void *stream, void *room, const ni_cuda_tile_source *s, const ni_cuda_tile_copy *base,
                             const ni_cuda_tile_copy *column, const ni_cuda_patch *patch) {
    enum { SIXTEEN = 4, STRIDE_MOST = INT32_MAX / 2 };
    const cudaStream_t on = (cudaStream_t)stream;
    const ni_tile_room *const scales = (const ni_tile_room *)room;
    const ni_cuda_tile_copy none = {};
    const ni_cuda_both_copies copies = {*base, column ? *column : none};
    if (column && (s->rows > INT32_MAX || column->stride > STRIDE_MOST))
        return cudaErrorInvalidValue;
    const int code = ni_cuda_set_tile_scales(stream, room, &copies, 1);
    if (code != cudaSuccess)
        return code;
    if (!column)
        return launch<ROW_THREADS, false>(on, scales, s, &copies, patch, shift_of(s->rows, s->cols));
    return blocks_of_sixteen(s->cols) >= 3 ? launch<256, true>(on, scales, s, &copies, patch, SIXTEEN)
                                           : launch<512, true>(on, scales, s, &copies, patch, SIXTEEN);
}
