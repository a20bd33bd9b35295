/* double_columns.cuh: the double block down columns (double.cuh), for kernels whose threads take 16 rows of two columns,
 * eight warps an outer block of 128 rows: of numbers, or of what the codes of another double block decode to.
 */
#ifndef NI_BACKEND_CUDA_DOUBLE_COLUMNS_CUH
#define NI_BACKEND_CUDA_DOUBLE_COLUMNS_CUH

#include "backend/cuda/double.cuh"

enum { COLUMN_WARPS = 8, COLUMN_PAIRS = 32 };

/* Codes of 128 rows and 64 columns, and what 16 of them in a row are multiplied by. */
typedef struct coded_tile {
    uint8_t codes[128][COLUMN_PAIRS];
    float scale[128][4];
} coded_tile;

static __device__ void load_coded(coded_tile *tile, const nb_qtensor &t, int64_t r0, int64_t c0) {
    const int row = threadIdx.x / 2, half = threadIdx.x % 2;
    const int64_t r = r0 + row, c = c0 + 32 * half;
    if (c < t.cols) {
        *(uint4 *)&tile->codes[row][16 * half] = *(const uint4 *)(t.codes + (r * t.cols + c) / 2);
        const float outer = t.outer_scales[(r * t.cols + c) / 128];
        const uint16_t bytes = *(const uint16_t *)(t.scales + (r * t.cols + c) / 16);
        tile->scale[row][2 * half] = ni_f32_mul(ni_byte_value(bytes & 0xffu), outer);
        tile->scale[row][2 * half + 1] = ni_f32_mul(ni_byte_value(bytes >> 8), outer);
    }
}

/* The same decoded. */
typedef struct float_tile {
    float at[128][2 * COLUMN_PAIRS];
} float_tile;

/* What a block of threads shares. */
typedef struct column_room {
    shared_words words;
    uint32_t maxima[2][COLUMN_WARPS][COLUMN_PAIRS];
} column_room;

/* 16 rows of columns c and c + 1 as they came; nothing of codes, which lie in the tile. */
template <int KIND> struct column_words { uint32_t pairs[16]; };

template <> struct column_words<1> { float2 pairs[16]; };

static __device__ void load_words(column_words<0> *in, const ni_cuda_double_source &s, int64_t r, int64_t c) {
    const uint16_t *from = (const uint16_t *)s.numbers + r * s.stride + c;
#pragma unroll
    for (int i = 0; i < 16; i++, from += s.stride)
        in->pairs[i] = __ldg((const uint32_t *)from);
}

static __device__ void load_words(column_words<1> *in, const ni_cuda_double_source &s, int64_t r, int64_t c) {
    const float *from = (const float *)s.numbers + r * s.stride + c;
#pragma unroll
    for (int i = 0; i < 16; i++, from += s.stride)
        in->pairs[i] = __ldg((const float2 *)from);
}

static __device__ void load_words(column_words<2> *, const ni_cuda_double_source &, int64_t, int64_t) {
}

static __device__ void load_words(column_words<3> *, const ni_cuda_double_source &, int64_t, int64_t) {
}

/* The numbers, under the signs of the rotation. */
template <bool TURN>
static __device__ void unpack(float *a, float *b, const column_words<0> &in, const coded_tile *,
                              const uint32_t *signs) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const uint32_t pair = TURN ? in.pairs[i] ^ signs[i] : in.pairs[i];
        a[i] = ni_low_of(pair);
        b[i] = ni_high_of(pair);
    }
}

template <bool TURN>
static __device__ void unpack(float *a, float *b, const column_words<1> &in, const coded_tile *,
                              const uint32_t *signs) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const uint32_t sign = TURN ? signs[i] & 0x80000000u : 0;
        a[i] = __uint_as_float(__float_as_uint(in.pairs[i].x) ^ sign);
        b[i] = __uint_as_float(__float_as_uint(in.pairs[i].y) ^ sign);
    }
}

template <bool TURN>
static __device__ void unpack(float *a, float *b, const column_words<2> &, const coded_tile *tile,
                              const uint32_t *signs) {
    const int row = threadIdx.x / 32 * 16, pair = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const uint32_t codes = tile->codes[row + i][pair];
        const uint32_t sign = TURN ? signs[i] & 0x80000000u : 0;
        const float scale = __uint_as_float(__float_as_uint(tile->scale[row + i][pair / 8]) ^ sign);
        a[i] = ni_f32_mul(ni_e2m1_of(codes), scale);
        b[i] = ni_f32_mul(ni_e2m1_of(codes >> 4), scale);
    }
}

template <bool TURN>
static __device__ void unpack(float *a, float *b, const column_words<3> &, const float_tile *tile,
                              const uint32_t *signs) {
    const int row = threadIdx.x / 32 * 16, pair = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const float2 two = *(const float2 *)&tile->at[row + i][2 * pair];
        const uint32_t sign = TURN ? signs[i] & 0x80000000u : 0;
        a[i] = __uint_as_float(__float_as_uint(two.x) ^ sign);
        b[i] = __uint_as_float(__float_as_uint(two.y) ^ sign);
    }
}

/* Codes of sixteen rows of one of two columns. */
static __device__ void store_column(const ni_cuda_tile_copy &copy, const uint32_t *pairs, int shift,
                                    const double_scale &scale, float outer, int64_t column, int64_t r) {
    uint2 codes = make_uint2(0, 0);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        codes.x |= (pairs[i] >> shift & 15u) << (4 * i);
        codes.y |= (pairs[i + 8] >> shift & 15u) << (4 * i);
    }
    const int64_t at = column * copy.contraction + r;
    *(uint2 *)(copy.codes + at / 2) = scale.byte ? codes : make_uint2(0, 0);
    copy.scales[at / 16] = scale.byte;
    if (r % 128 == 0)
        copy.outer_scales[at / 128] = outer;
}

/* Two columns of a block's 128 rows; false, and nothing is done: a thread has a wild number. KIND: 0 BF16, 1 FP32, 2
 * codes in a tile, 3 numbers in a tile. */
template <int KIND, int ROUND, bool TURN, bool CODED, bool TAME, typename T>
static __device__ bool double_column(const column_words<KIND> &in, const ni_cuda_double_source &s,
                                     const ni_cuda_tile_copy &copy, column_room &room, const T *tile, int64_t r0,
                                     int64_t c0) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t r = r0 + 16 * warp, c = c0 + 2 * lane;
    const bool live = c < s.cols;
    const ni_e4m3_target target = ni_e4m3_target_of(copy.quantizer.rule);
    const uint32_t *const signs = room.words.rows;
    float a[16], b[16];
    unpack<TURN>(a, b, in, tile, signs);
    if (TURN) {
        ni_turn_signed<TAME>(a, copy.quantizer.hadamard_round_bf16);
        ni_turn_signed<TAME>(b, copy.quantizer.hadamard_round_bf16);
    }
    constexpr float FACTOR = TURN && TAME ? 0.25f : 1.0f;
    const uint32_t amax_a =
                       TAME ? __float_as_uint(ni_f32_mul(ni_largest_of_sixteen(a), FACTOR)) : ni_amax_of_sixteen(a),
                   amax_b =
                       TAME ? __float_as_uint(ni_f32_mul(ni_largest_of_sixteen(b), FACTOR)) : ni_amax_of_sixteen(b);
    room.maxima[0][warp][lane] = amax_a;
    room.maxima[1][warp][lane] = amax_b;
    if (TAME) {
        if (__syncthreads_or(live && (is_wild(__uint_as_float(amax_a)) || is_wild(__uint_as_float(amax_b)))))
            return false;
    } else {
        __syncthreads();
    }
    uint32_t all_a = 0, all_b = 0;
#pragma unroll
    for (int i = 0; i < COLUMN_WARPS; i++) {
        all_a = max(all_a, room.maxima[0][i][lane]);
        all_b = max(all_b, room.maxima[1][i][lane]);
    }
    if (!live)
        return true;
    const float outer_a = outer_scale_of<TAME>(target, copy.quantizer.outer, __uint_as_float(all_a)),
                outer_b = outer_scale_of<TAME>(target, copy.quantizer.outer, __uint_as_float(all_b));
    const double_scale scale_a = double_scale_of<TAME>(target, outer_a, TAME ? ni_reciprocal(outer_a) : 0.0f,
                                                       __uint_as_float(amax_a)),
                       scale_b = double_scale_of<TAME>(target, outer_b, TAME ? ni_reciprocal(outer_b) : 0.0f,
                                                       __uint_as_float(amax_b));
    const float encode_a = ni_f32_mul(scale_a.encode, FACTOR), encode_b = ni_f32_mul(scale_b.encode, FACTOR);
    const uint32_t group = (uint32_t)c * (uint32_t)(s.rows / 16) + (uint32_t)(r / 16),
                   stride = 2 * (uint32_t)copy.stride;
    const uint64_t values = ni_global(copy.values + r * copy.stride + c);
    uint32_t for_a[8], for_b[8], signs_of_y[16];
    ni_draw_sixteen<ROUND>(copy.keys, room.words.drawn, group, for_a);
    ni_draw_sixteen<ROUND>(copy.keys, room.words.drawn, group + (uint32_t)(s.rows / 16), for_b);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        a[i] = ni_f32_mul(a[i], encode_a);
        b[i] = ni_f32_mul(b[i], encode_b);
        if (CODED)
            signs_of_y[i] = ni_exact_pair(a[i], b[i]);
        a[i] = on_grid<ROUND, TAME>(a[i], for_a, i);
        b[i] = on_grid<ROUND, TAME>(b[i], for_b, i);
    }
    hold<TAME>(a, __uint_as_float(amax_a), scale_a.encode);
    hold<TAME>(b, __uint_as_float(amax_b), scale_b.encode);
#pragma unroll
    for (int i = 0; i < 16; i++)
        ni_store_word(ni_row_at(values, (uint32_t)i, stride),
                      ni_pack_two(ni_f32_mul(a[i], scale_a.decode), ni_f32_mul(b[i], scale_b.decode)));
    if constexpr (CODED) {
        uint32_t codes[16];
#pragma unroll
        for (int i = 0; i < 16; i++)
            codes[i] = ni_pair_codes(ni_exact_pair(a[i], b[i]), signs_of_y[i]);
        store_column(copy, codes, 0, scale_a, outer_a, c, r);
        store_column(copy, codes, 16, scale_b, outer_b, c + 1, r);
    }
    return true;
}

template <int KIND>
static __device__ column_words<KIND> words_of_columns(const ni_cuda_double_source &s, int64_t r0, int64_t c0) {
    const int64_t r = r0 + threadIdx.x / 32 * 16, c = c0 + threadIdx.x % 32 * 2;
    column_words<KIND> in;
    load_words(&in, s, r, c < s.cols ? c : 0);
    return in;
}

template <int KIND, int ROUND, bool TURN, bool CODED, typename T>
static __device__ __noinline__ void wild_column(const ni_cuda_double_source &s, const ni_cuda_tile_copy &copy,
                                                column_room &room, const T *tile, int64_t r0, int64_t c0) {
    __syncthreads(); /* nobody looks at maxima any more */
    double_column<KIND, ROUND, TURN, CODED, false>(words_of_columns<KIND>(s, r0, c0), s, copy, room, tile, r0, c0);
}

/* ---- the grid ---- */

static dim3 column_grid(const ni_cuda_double_source *s) {
    return ni_band_grid(ni_divide_up(s->cols, 2 * COLUMN_PAIRS), s->rows / 128);
}

#endif
