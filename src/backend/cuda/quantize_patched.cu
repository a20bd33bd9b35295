/* quantize_patched.cu: a row copy in NVFP4 with pieces of chosen columns beside it, from one reading of a BF16 matrix:
 *
 *     [ Xq | X_I - Xq_I | X_I ]     the residual and the copy in either order, or one of them
 *
 * A block takes some whole rows and leaves in shared memory what the pieces pick from: the numbers, their grid values and
 * scale bytes. Rounded to nearest; bits are those of quantize_tile.cu and quantize_pieces.cu.
 */
#include "backend/cuda/tile.cuh"

enum { PATCHED_THREADS = 128, MOST_BYTES = 200 * 1024, ROOMY_BYTES = 40 * 1024 };

/* Of one row in shared memory: numbers, signed grid values, scale bytes (in whole sixteens, so that all stay aligned). */
static int64_t row_bytes(int64_t cols) {
    return 4 * cols + ni_divide_up(cols / 16, 16) * 16;
}

/* Rows of a block are 2^shift: few enough that several blocks find room. */
static int shift_of(int64_t rows, int64_t cols) {
    int shift = 3;
    while (shift > 0 && (rows % (1 << shift) != 0 || (row_bytes(cols) << shift) > ROOMY_BYTES))
        shift--;
    return shift;
}

bool ni_cuda_patched_fits(int64_t cols) {
    return row_bytes(cols) <= MOST_BYTES;
}

typedef struct shared_rows {
    uint32_t *numbers, *grid; /* pairs [rows, cols / 2] */
    uint8_t *bytes;           /* [rows, byte_pitch] */
    int cols, byte_pitch;
} shared_rows;

/* Half a block of the base: eight neighbours, of row i in shared memory and row r of the matrix. */
template <bool TAME>
static __device__ __forceinline__ void encode_base(const shared_rows &to, const ni_cuda_tile_copy &copy,
                                                   const ni_scale_entry *table, float s_inner, int i, int64_t r, int c,
                                                   bool live) {
    const int at = i * to.cols / 2 + c / 2;
    const uint4 in = live ? *(const uint4 *)(to.numbers + at) : make_uint4(0, 0, 0, 0);
    const uint32_t x[4] = {in.x, in.y, in.z, in.w};
    uint32_t q[4], signs[4], largest = 0, codes = 0;
#pragma unroll
    for (int j = 0; j < 4; j++)
        largest = ni_larger_pair(largest, x[j]);
    largest = __vmaxu2(largest, __shfl_xor_sync(~0u, largest, 1));
    const uint8_t byte = (uint8_t)ni_scale_bytes(ni_f32_from(ni_larger_half(largest)), 0.0f, s_inner);
    const ni_scale_entry entry = table[byte];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float low = ni_f32_mul(ni_low_of(x[j]), entry.encode), high = ni_f32_mul(ni_high_of(x[j]), entry.encode);
        signs[j] = TAME ? x[j] : ni_exact_pair(low, high); /* a NaN has the sign of the product */
        q[j] = ni_pair_up_to_six(ni_exact_pair(ni_nearest_on_grid<TAME>(low), ni_nearest_on_grid<TAME>(high)));
    }
    if (!live)
        return;
    const int64_t out = r * copy.stride + c;
    *(uint4 *)(copy.values + out) = make_uint4(ni_pair_times(q[0], entry.value), ni_pair_times(q[1], entry.value),
                                               ni_pair_times(q[2], entry.value), ni_pair_times(q[3], entry.value));
    if (c % 16 == 0)
        to.bytes[i * to.byte_pitch + c / 16] = byte;
#pragma unroll
    for (int j = 0; j < 4; j++) /* as codes have it: signs of zeros too */
        to.grid[at + j] = (q[j] & NI_PAIR_MAGNITUDE) | (signs[j] & NI_PAIR_SIGNS);
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

static __device__ __forceinline__ float half_of(const uint32_t *pairs, int at) {
    return at & 1 ? ni_high_of(pairs[at / 2]) : ni_low_of(pairs[at / 2]);
}

/* Row i, column `column` of the source, less what the base holds of it. */
static __device__ __forceinline__ float pick(const shared_rows &from, int i, int column, bool residual, float sdec) {
    const int at = i * from.cols + column;
    const float x = half_of(from.numbers, at);
    if (!residual)
        return x;
    const uint32_t byte = from.bytes[i * from.byte_pitch + column / 16];
    const float value = byte ? half_of(from.grid, at) : 0.0f;
    return ni_f32_sub(x, ni_f32_mul(value, ni_f32_mul(ni_byte_value(byte), sdec)));
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
    at->eight += PATCHED_THREADS;
    while (at->eight >= eights) {
        at->eight -= eights;
        at->row++;
    }
}

template <bool TAME>
static __device__ void encode_all(const shared_rows &tile, const ni_cuda_tile_copy &copy, const ni_scale_entry *table,
                                  const ni_tensor_scale &t, int rows, int64_t first) {
    const int eights = tile.cols / 8;
    place at = place_at(eights);
    for (int begin = 0; begin < rows * eights; begin += PATCHED_THREADS, step(&at, eights))
        encode_base<TAME>(tile, copy, table, t.s_inner, at.row, first + at.row, at.eight * 8, at.row < rows);
}

static __global__ void __launch_bounds__(PATCHED_THREADS)
    quantize_patched(const __grid_constant__ ni_cuda_tile_source s, const ni_tile_room *room,
                     const __grid_constant__ ni_cuda_tile_copy copy, const __grid_constant__ ni_cuda_patch patch,
                     int shift, int byte_pitch) {
    extern __shared__ __align__(16) uint32_t words[];
    __shared__ ni_scale_entry table[NI_TILE_BYTES];
    const int cols = (int)s.cols, eights = cols / 8, rows = 1 << shift;
    const shared_rows tile = {words, words + rows * cols / 2, (uint8_t *)(words + rows * cols), cols, byte_pitch};
    const int64_t first = blockIdx.x * (int64_t)rows;
    const ni_tensor_scale t = ni_tile_scale(copy);
    for (int i = threadIdx.x; i < NI_TILE_BYTES; i += PATCHED_THREADS)
        table[i] = room->copies[0].table[i];
    place at = place_at(eights);
#pragma unroll 4
    for (; at.row < rows; step(&at, eights))
        *(uint4 *)(tile.numbers + (at.row * eights + at.eight) * 4) =
            *(const uint4 *)(s.numbers + (first + at.row) * s.stride + at.eight * 8);
    __syncthreads();
    if (room->copies[0].tame)
        encode_all<true>(tile, copy, table, t, rows, first);
    else
        encode_all<false>(tile, copy, table, t, rows, first);
    __syncthreads();
    const int blocks = (int)patch.cols / 16, lane = (int)threadIdx.x % 16; /* sixteen neighbours hold a block */
    for (int piece = 0; piece < patch.count; piece++)
        for (int begin = 0; begin < blocks << shift; begin += PATCHED_THREADS / 16) {
            const int unit = begin + (int)threadIdx.x / 16, block = unit >> shift, i = unit - (block << shift),
                      c = block * 16 + lane;
            const bool live = block < blocks;
            const float x = live ? pick(tile, i, patch.columns[c], patch.residual[piece], t.sdec) : 0.0f;
            ni_encode_one(copy, t, table, x, (first + i) * copy.stride + patch.at[piece] + c, live);
        }
}

int ni_cuda_quantize_patched(void *stream, void *room, const ni_cuda_tile_source *s, const ni_cuda_tile_copy *base,
                             const ni_cuda_patch *patch) {
    cudaStream_t on = (cudaStream_t)stream;
    const int shift = shift_of(s->rows, s->cols), byte_pitch = (int)ni_divide_up(s->cols / 16, 16) * 16;
    const int bytes = (int)(row_bytes(s->cols) << shift);
    int code = ni_cuda_set_tile_scales(stream, room, base, NULL);
    if (code == cudaSuccess)
        code = cudaFuncSetAttribute(quantize_patched, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (code != cudaSuccess)
        return code;
    quantize_patched<<<(unsigned)(s->rows >> shift), PATCHED_THREADS, bytes, on>>>(*s, (const ni_tile_room *)room,
                                                                                   *base, *patch, shift, byte_pitch);
    return cudaGetLastError();
}
