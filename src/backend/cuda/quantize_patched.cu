/* quantize_patched.cu: a row copy in NVFP4 with pieces of chosen columns beside it, from one reading of a BF16 matrix:
 *
 *     [ Xq | X_I - Xq_I | X_I ]     the residual and the copy in either order, or one of them
 *
 * Layers that share X have patches of their own beside the same Xq: it is encoded once and stored for each of them.
 * A block takes some whole rows and leaves in shared memory what the pieces pick from: the numbers and the scale bytes,
 * out of which what the base holds of a number is made again. Several eights of a thread are on their way at a time, and
 * the pieces of a number are made beside each other: it is latency that binds. Rounded to nearest; bits are those of
 * quantize_tile.cu and quantize_pieces.cu.
 */
#include "backend/cuda/tile.cuh"

enum { PATCHED_THREADS = 128, AT_ONCE = 4, MOST_BYTES = 200 * 1024, ROOMY_BYTES = 24 * 1024 };

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

bool ni_cuda_patched_fits(int64_t cols) {
    return row_bytes(cols) <= MOST_BYTES;
}

typedef struct shared_rows {
    uint32_t *numbers; /* pairs [rows, cols / 2] */
    uint8_t *bytes;    /* [rows, byte_pitch] */
    int rows, cols, byte_pitch;
} shared_rows;

/* What both parts share. */
typedef struct patching {
    ni_cuda_tile_copy copy;
    ni_tensor_scale scale;
    const ni_scale_entry *table;
    const ni_cuda_patch &patch;
    int64_t first; /* row of the matrix */
} patching;

/* ---- the base ---- */

/* Half a block: eight neighbours, of row i in shared memory. */
template <bool TAME>
static __device__ __forceinline__ void encode_base(const shared_rows &to, const patching &p, const uint4 &in, int i,
                                                   int c, bool live) {
    const uint32_t x[4] = {in.x, in.y, in.z, in.w};
    uint32_t q[4], signs[4], largest = 0, codes = 0;
#pragma unroll
    for (int j = 0; j < 4; j++)
        largest = ni_larger_pair(largest, x[j]);
    largest = __vmaxu2(largest, __shfl_xor_sync(~0u, largest, 1));
    const uint8_t byte = (uint8_t)ni_scale_bytes(ni_f32_from(ni_larger_half(largest)), 0.0f, p.scale.s_inner);
    const ni_scale_entry entry = p.table[byte];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float low = ni_f32_mul(ni_low_of(x[j]), entry.encode), high = ni_f32_mul(ni_high_of(x[j]), entry.encode);
        signs[j] = TAME ? x[j] : ni_exact_pair(low, high); /* a NaN has the sign of the product */
        q[j] = ni_pair_up_to_six(ni_exact_pair(ni_nearest_on_grid<TAME>(low), ni_nearest_on_grid<TAME>(high)));
    }
    if (!live)
        return;
    const int64_t out = (p.first + i) * p.copy.stride + c;
    const uint4 values = make_uint4(ni_pair_times(q[0], entry.value), ni_pair_times(q[1], entry.value),
                                    ni_pair_times(q[2], entry.value), ni_pair_times(q[3], entry.value));
#pragma unroll
    for (int k = 0; k < NI_CUDA_PATCHED_MOST; k++)
        if (k < p.patch.operands)
            ni_store_words(ni_global(p.patch.values[k] + out), values);
    *(uint4 *)(to.numbers + i * to.cols / 2 + c / 2) = in;
    if (c % 16 == 0)
        to.bytes[i * to.byte_pitch + c / 16] = byte;
    if (!p.copy.codes)
        return;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const uint32_t pair = ni_pair_codes(q[j], signs[j]);
        codes |= (pair & 15u) << (8 * j) | (pair >> 16) << (8 * j + 4);
    }
    *(uint32_t *)(p.copy.codes + out / 2) = byte ? codes : 0;
    if (c % 16 == 0)
        p.copy.scales[out / 16] = byte;
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
static __device__ void encode_all(const shared_rows &tile, const patching &p, const ni_cuda_tile_source &s) {
    const int eights = tile.cols / 8, all = tile.rows * eights;
    place at = place_at(eights);
    for (int begin = 0; begin < all; begin += AT_ONCE * PATCHED_THREADS) {
        place places[AT_ONCE];
        uint4 in[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++, step(&at, eights)) {
            places[j] = at;
            in[j] = at.row < tile.rows
                        ? __ldg((const uint4 *)(s.numbers + (p.first + at.row) * s.stride + at.eight * 8))
                        : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            if (begin + j * PATCHED_THREADS < all)
                encode_base<TAME>(tile, p, in[j], places[j].row, places[j].eight * 8, places[j].row < tile.rows);
    }
}

/* ---- pieces ---- */

/* What the base holds of a number, as its code has it: the sign of a zero too. */
template <bool TAME> static __device__ __forceinline__ float held(const patching &p, float x, uint32_t byte) {
    const float y = ni_f32_mul(x, p.table[byte].encode);
    const uint32_t q = ni_pair_up_to_six(ni_exact_pair(ni_nearest_on_grid<TAME>(y), 0.0f)),
                   sign = __float_as_uint(TAME ? x : y) & 0x80000000u;
    const float value = byte ? __uint_as_float((q & 0x7fffu) << 16 | sign) : 0.0f;
    return ni_f32_mul(value, ni_f32_mul(ni_byte_value(byte), p.scale.sdec));
}

/* Of one operand. Sixteen neighbours hold a block. */
template <bool TAME>
static __device__ void encode_pieces(const shared_rows &tile, const patching &p, int operand, int shift) {
    const ni_cuda_patch &patch = p.patch;
    const int32_t *columns = patch.columns[operand];
    ni_cuda_tile_copy to = p.copy;
    to.values = patch.values[operand];
    const int blocks = (int)patch.cols / 16, lane = (int)threadIdx.x % 16;
#pragma unroll 2
    for (int begin = 0; begin < blocks << shift; begin += PATCHED_THREADS / 16) {
        const int unit = begin + (int)threadIdx.x / 16, block = unit >> shift, i = unit - (block << shift),
                  c = block * 16 + lane;
        const bool live = block < blocks;
        const int column = live ? __ldg(columns + c) : 0, at = i * tile.cols + column;
        const uint32_t pair = tile.numbers[at / 2];
        const float x = !live    ? 0.0f
                        : at & 1 ? ni_high_of(pair)
                                 : ni_low_of(pair),
                    rest = ni_f32_sub(x, held<TAME>(p, x, live ? tile.bytes[i * tile.byte_pitch + column / 16] : 0));
        const int64_t out = (p.first + i) * to.stride + c;
#pragma unroll
        for (int piece = 0; piece < 2; piece++)
            if (piece < patch.count)
                ni_encode_one(to, p.scale, p.table, patch.residual[piece] ? rest : x, out + patch.at[piece], live);
    }
}

template <bool TAME>
static __device__ __forceinline__ void take_rows(const shared_rows &tile, const patching &p,
                                                 const ni_cuda_tile_source &s, int shift) {
    encode_all<TAME>(tile, p, s);
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < p.patch.operands; i++)
        encode_pieces<TAME>(tile, p, i, shift);
}

static __global__ void __launch_bounds__(PATCHED_THREADS)
    quantize_patched(const __grid_constant__ ni_cuda_tile_source s, const ni_tile_room *room,
                     const __grid_constant__ ni_cuda_tile_copy copy, const __grid_constant__ ni_cuda_patch patch,
                     int shift, int byte_pitch) {
    extern __shared__ __align__(16) uint32_t words[];
    __shared__ ni_scale_entry table[NI_TILE_BYTES];
    const int cols = (int)s.cols, rows = 1 << shift;
    const shared_rows tile = {words, (uint8_t *)(words + rows * cols / 2), rows, cols, byte_pitch};
    const patching p = {copy, ni_tile_scale(copy), table, patch, blockIdx.x * (int64_t)rows};
    for (int i = threadIdx.x; i < NI_TILE_BYTES; i += PATCHED_THREADS)
        table[i] = room->copies[0].table[i];
    __syncthreads();
    if (room->copies[0].tame)
        take_rows<true>(tile, p, s, shift);
    else
        take_rows<false>(tile, p, s, shift);
}

int ni_cuda_quantize_patched(void *stream, void *room, const ni_cuda_tile_source *s, const ni_cuda_tile_copy *base,
                             const ni_cuda_patch *patch) {
    cudaStream_t on = (cudaStream_t)stream;
    const int shift = shift_of(s->rows, s->cols), byte_pitch = (int)ni_divide_up(s->cols / 16, 16) * 16;
    const int bytes = (int)(row_bytes(s->cols) << shift);
    const ni_cuda_both_copies copies = {*base, {}};
    int code = ni_cuda_set_tile_scales(stream, room, &copies, 1);
    if (code == cudaSuccess)
        code = cudaFuncSetAttribute(quantize_patched, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (code != cudaSuccess)
        return code;
    quantize_patched<<<(unsigned)(s->rows >> shift), PATCHED_THREADS, bytes, on>>>(*s, (const ni_tile_room *)room,
                                                                                   *base, *patch, shift, byte_pitch);
    return cudaGetLastError();
}
