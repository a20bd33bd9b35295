/* quantize_double.cu: the double block (double.cuh), from one reading of its source straight into what a product reads:
 *
 *     rows         a thread takes the 16 neighbours of a block, eight lanes an outer block; FP32 or BF16 numbers
 *     columns      a thread takes 16 rows of two columns, eight warps an outer block of 128 rows; numbers, or what the
 *                  codes of another double block decode to. Values lie as the source lies, so nothing is transposed
 *
 * Either may be rotated by 16.
 */
#include "backend/cuda/double.cuh"

enum { ROW_THREADS = 128, COLUMN_WARPS = 8, COLUMN_PAIRS = 32 };

/* ---- rows ---- */

typedef struct row_source {
    int64_t stride;
    uint32_t units, across; /* blocks in all, and in a row; 0: rows lie one behind the other, here and in the copy */
} row_source;

template <typename T, int ROUND, bool TURN>
static __device__ __noinline__ void wild_row(const T *from, const ni_cuda_tile_copy &copy, const shared_words &shared,
                                             uint32_t unit, int64_t at, bool live) {
    double_row<T, ROUND, TURN, false>(load_words(from), copy, shared, unit, at, live);
}

template <typename T, int ROUND, bool TURN>
static __global__ void __launch_bounds__(ROW_THREADS)
    double_rows(const T *from, row_source s, const __grid_constant__ ni_cuda_tile_copy copy) {
    __shared__ shared_words shared;
    const uint32_t unit = blockIdx.x * ROW_THREADS + threadIdx.x, here = unit < s.units ? unit : s.units - 1;
    int64_t in = 16 * (int64_t)here, at = in;
    if (s.across) {
        const uint32_t r = here / s.across, block = here - r * s.across;
        in = r * s.stride + 16 * block;
        at = r * copy.stride + copy.at + 16 * block;
    }
    const sixteen_words<T> words = load_words(from + in);
    if (ROUND || TURN) {
        share_words<TURN>(&shared, copy, ni_tile_noise(copy.noise));
        __syncthreads();
    }
    if (!double_row<T, ROUND, TURN, true>(words, copy, shared, here, at, unit < s.units))
        wild_row<T, ROUND, TURN>(from + in, copy, shared, here, at, unit < s.units);
}

/* ---- columns ---- */

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
 * codes. */
template <int KIND, int ROUND, bool TURN, bool CODED, bool TAME>
static __device__ bool double_column(const column_words<KIND> &in, const ni_cuda_double_source &s,
                                     const ni_cuda_tile_copy &copy, column_room &room, const coded_tile *tile,
                                     int64_t r0, int64_t c0) {
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
    const uint32_t amax_a = TAME ? __float_as_uint(ni_f32_mul(amax_of(a), FACTOR)) : ni_amax_of_sixteen(a),
                   amax_b = TAME ? __float_as_uint(ni_f32_mul(amax_of(b), FACTOR)) : ni_amax_of_sixteen(b);
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
    const double_scale scale_a = double_scale_of<TAME>(target, outer_a, TAME ? reciprocal(outer_a) : 0.0f,
                                                       __uint_as_float(amax_a)),
                       scale_b = double_scale_of<TAME>(target, outer_b, TAME ? reciprocal(outer_b) : 0.0f,
                                                       __uint_as_float(amax_b));
    const float encode_a = ni_f32_mul(scale_a.encode, FACTOR), encode_b = ni_f32_mul(scale_b.encode, FACTOR);
    const uint32_t group = (uint32_t)c * (uint32_t)(s.rows / 16) + (uint32_t)(r / 16),
                   stride = 2 * (uint32_t)copy.stride;
    const uint64_t values = ni_global(copy.values + r * copy.stride + c);
    uint32_t for_a[8], for_b[8], signs_of_y[16];
    draw<ROUND>(copy, room.words.drawn, group, for_a);
    draw<ROUND>(copy, room.words.drawn, group + (uint32_t)(s.rows / 16), for_b);
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

template <int KIND, int ROUND, bool TURN, bool CODED>
static __device__ __noinline__ void wild_column(const ni_cuda_double_source &s, const ni_cuda_tile_copy &copy,
                                                column_room &room, const coded_tile *tile, int64_t r0, int64_t c0) {
    __syncthreads(); /* nobody looks at maxima any more */
    double_column<KIND, ROUND, TURN, CODED, false>(words_of_columns<KIND>(s, r0, c0), s, copy, room, tile, r0, c0);
}

template <int KIND, int ROUND, bool TURN, bool CODED>
static __global__ void __launch_bounds__(32 * COLUMN_WARPS, 4)
    double_columns(const __grid_constant__ ni_cuda_double_source s, const __grid_constant__ ni_cuda_tile_copy copy) {
    __shared__ column_room room;
    __shared__ __align__(16) uint8_t coded[KIND == 2 ? sizeof(coded_tile) : 16];
    coded_tile *const tile = (coded_tile *)coded;
    const int64_t r0 = ((int64_t)blockIdx.y + (int64_t)blockIdx.z * gridDim.y) * 128,
                  c0 = (int64_t)blockIdx.x * 2 * COLUMN_PAIRS;
    if (r0 >= s.rows)
        return;
    const column_words<KIND> in = words_of_columns<KIND>(s, r0, c0);
    if (KIND == 2)
        load_coded(tile, s.codes, r0, c0);
    if (ROUND || TURN)
        share_words<TURN>(&room.words, copy, ni_tile_noise(copy.noise));
    if (ROUND || TURN || KIND == 2)
        __syncthreads();
    if (!double_column<KIND, ROUND, TURN, CODED, true>(in, s, copy, room, tile, r0, c0))
        wild_column<KIND, ROUND, TURN, CODED>(s, copy, room, tile, r0, c0);
}

/* ---- which kernel ---- */

template <typename T, int ROUND>
static void launch_rows(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    const bool flat = s->stride == s->cols && copy->stride == s->cols && copy->at == 0;
    const row_source rows = {s->stride, (uint32_t)(s->rows * (s->cols / 16)), flat ? 0 : (uint32_t)(s->cols / 16)};
    const unsigned grid = (unsigned)ni_divide_up(rows.units, ROW_THREADS);
    if (copy->quantizer.hadamard_size)
        double_rows<T, ROUND, true><<<grid, ROW_THREADS, 0, on>>>((const T *)s->numbers, rows, *copy);
    else
        double_rows<T, ROUND, false><<<grid, ROW_THREADS, 0, on>>>((const T *)s->numbers, rows, *copy);
}

template <typename T>
static void launch_rows(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, int round) {
    round == 0   ? launch_rows<T, 0>(on, s, copy)
    : round == 8 ? launch_rows<T, 8>(on, s, copy)
                 : launch_rows<T, 16>(on, s, copy);
}

template <int KIND, int ROUND, bool CODED>
static void launch_columns(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    enum { MOST = 65535 };
    const int64_t bands = s->rows / 128, deep = ni_divide_up(bands, MOST);
    const dim3 grid((unsigned)ni_divide_up(s->cols, 2 * COLUMN_PAIRS), (unsigned)ni_divide_up(bands, deep),
                    (unsigned)deep);
    if (copy->quantizer.hadamard_size)
        double_columns<KIND, ROUND, true, CODED><<<grid, 32 * COLUMN_WARPS, 0, on>>>(*s, *copy);
    else
        double_columns<KIND, ROUND, false, CODED><<<grid, 32 * COLUMN_WARPS, 0, on>>>(*s, *copy);
}

template <int KIND, int ROUND>
static void launch_columns(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    copy->codes ? launch_columns<KIND, ROUND, true>(on, s, copy) : launch_columns<KIND, ROUND, false>(on, s, copy);
}

template <int KIND>
static void launch_columns(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, int round) {
    round == 0   ? launch_columns<KIND, 0>(on, s, copy)
    : round == 8 ? launch_columns<KIND, 8>(on, s, copy)
                 : launch_columns<KIND, 16>(on, s, copy);
}

int ni_cuda_quantize_double(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns) {
    cudaStream_t on = (cudaStream_t)stream;
    const int round = copy->quantizer.round == NB_ROUND_STOCHASTIC ? copy->quantizer.sr_bits : 0;
    if (s->rows * (s->cols / 16) > INT32_MAX)
        return cudaErrorInvalidValue;
    if (!columns)
        s->wide ? launch_rows<float>(on, s, copy, round) : launch_rows<uint16_t>(on, s, copy, round);
    else if (!s->numbers)
        launch_columns<2>(on, s, copy, round);
    else
        s->wide ? launch_columns<1>(on, s, copy, round) : launch_columns<0>(on, s, copy, round);
    return cudaGetLastError();
}
