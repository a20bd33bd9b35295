/* quantize_double.cu: the double block (E4M3 scales of 16 under an FP32 scale of 128), from one reading of its source
 * straight into what a product reads:
 *
 *     rows         a thread takes the 16 neighbours of a block, eight lanes an outer block; FP32 or BF16 numbers
 *     columns      a thread takes 16 rows of two columns, eight warps an outer block of 128 rows; numbers, or what the
 *                  codes of another double block decode to. Values lie as the source lies, so nothing is transposed
 *
 * Either may be rotated by 16. Values are code x inner scale x outer scale, rounded once to BF16. Bits are those of
 * quantize.cu.
 *
 * Instructions bind it, so numbers are tame or wild. Tame ones are 0 or lie in [2^-60, 2^60] by the maxima of their
 * blocks: no quotient of theirs is subnormal or infinite, so divisions need no second path; a rotation's factor goes into
 * the scale; no number times that reaches 16. A warp (rows) or a block (columns) that holds a wild one begins again.
 */
#include "backend/cuda/sixteen.cuh"

enum { ROW_THREADS = 128, COLUMN_WARPS = 8, COLUMN_PAIRS = 32 };

/* ---- what all threads of a block need: made by its first warp ---- */

typedef struct shared_words {
    uint32_t neighbours[8]; /* signs of the rotation, over pairs of a row */
    uint32_t rows[16];      /* over pairs of two columns */
    ni_philox_shared drawn;
} shared_words;

template <bool TURN>
static __device__ void share_words(shared_words *words, const ni_cuda_tile_copy &copy, const ni_noise_key &key) {
    const int lane = threadIdx.x;
    if (lane >= 32)
        return;
    if (lane == 0)
        words->drawn = ni_philox_share(&copy.keys, key.step, key.micro_batch);
    if (!TURN)
        return;
    const uint32_t signs = ni_signs_of(copy.quantizer.hadamard_signs, &key).w[0];
    if (lane < 8)
        words->neighbours[lane] = (signs >> 2 * lane & 1u) << 15 | (signs >> (2 * lane + 1) & 1u) << 31;
    if (lane < 16)
        words->rows[lane] = (signs >> lane & 1u) * NI_PAIR_SIGNS;
}

/* ---- tame and wild ---- */

static __device__ bool is_wild(float amax) {
    return !(amax == 0.0f || (amax >= 0x1p-60f && amax <= 0x1p60f));
}

/* a / b where neither it nor what it is made of leaves the normal numbers: the steps of the division. */
static __device__ float quotient(float a, float b, float over_b) {
    const float q = __fmul_rn(a, over_b), nearer = __fmaf_rn(over_b, __fmaf_rn(-b, q, a), q);
    return __fmaf_rn(over_b, __fmaf_rn(-b, nearer, a), nearer);
}

static __device__ float reciprocal(float b) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
    return __fmaf_rn(r, __fmaf_rn(-b, r, 1.0f), r);
}

/* Constant divisors: their reciprocals, rounded, and so one step less. */
static __device__ float over_constant(float a, float b, float over_b) {
    const float q = __fmul_rn(a, over_b);
    return __fmaf_rn(over_b, __fmaf_rn(-b, q, a), q);
}

/* ---- scales ---- */

/* What one block of 16 is encoded and decoded with. */
typedef struct double_scale {
    float encode, decode;
    uint8_t byte;
} double_scale;

template <bool TAME>
static __device__ float outer_scale_of(const ni_e4m3_target &target, nb_outer_scale outer, float amax) {
    if (!TAME)
        return ni_outer128_scale(target, outer, amax);
    float s = over_constant(over_constant(amax, 448.0f, 0x1.24924ap-9f), target.max, target.inverse);
    if (outer == NB_OUTER_ROW128_POW2)
        s = ni_pow2_above(s);
    return s == 0.0f ? 1.0f : s;
}

template <bool TAME>
static __device__ double_scale double_scale_of(const ni_e4m3_target &target, float outer, float over_outer,
                                               float amax) {
    const float s = TAME ? over_constant(quotient(amax, outer, over_outer), target.max, target.inverse)
                         : ni_f32_div(ni_f32_div(amax, outer), target.max);
    double_scale scale;
    scale.byte = (uint8_t)ni_e4m3_bytes(s == 0.0f ? 0x1p-9f : s, 0.0f);
    scale.decode = ni_f32_mul(outer, ni_byte_value(scale.byte));
    if (TAME)
        scale.encode = scale.byte ? reciprocal(scale.decode) : 0.0f;
    else
        scale.encode = scale.decode == 0.0f ? 0.0f : ni_f32_finite(__frcp_rn(scale.decode));
    return scale;
}

/* ---- sixteen numbers ---- */

/* The largest magnitude, NaN where one is. Tame numbers that were turned are four times too large. */
static __device__ float amax_of(const float *x) {
    float amax = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++)
        amax = ni_larger_or_nan(amax, fabsf(x[i]));
    return amax;
}

template <int ROUND>
static __device__ void draw(const ni_cuda_tile_copy &copy, const ni_philox_shared &shared, uint32_t group,
                            uint32_t *words) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (8 * half >= ROUND)
            return;
        const ni_philox_words drawn =
            ni_philox_next(&copy.keys, &shared, group, half ? NI_PURPOSE_ROUNDING_HI : NI_PURPOSE_ROUNDING);
#pragma unroll
        for (int i = 0; i < 4; i++)
            words[4 * half + i] = drawn.w[i];
    }
}

/* y of number i on E2M1's grid, and beyond: see hold. */
template <int ROUND, bool TAME> static __device__ float on_grid(float y, const uint32_t *words, int i) {
    return ROUND == 16 ? ni_on_grid<ROUND, TAME>(y, words + i / 8 * 4, i % 8) : ni_on_grid<ROUND, TAME>(y, words, i);
}

/* 6 where it is beyond, or NaN. */
static __device__ float held_at_six(float q) {
#if __CUDA_ARCH__ >= 860
    float held;
    asm("min.xorsign.abs.f32 %0, %1, %2;" : "=f"(held) : "f"(q), "f"(6.0f));
    return held;
#else
    return copysignf(fminf(fabsf(q), 6.0f), q);
#endif
}

/* Where no number was beyond 6 none is. */
template <bool TAME> static __device__ void hold(float *q, float amax, float encode) {
    if (TAME && ni_f32_mul(amax, encode) <= 6.0f)
        return;
#pragma unroll
    for (int i = 0; i < 16; i++)
        q[i] = held_at_six(q[i]);
}

/* ---- rows ---- */

typedef struct row_source {
    int64_t stride;
    uint32_t units, across; /* blocks in all, and in a row; 0: rows lie one behind the other, here and in the copy */
} row_source;

/* Sixteen numbers as they came. */
template <typename T> struct sixteen_words { uint4 w[sizeof(T)]; };

template <typename T> static __device__ sixteen_words<T> load_words(const T *from) {
    sixteen_words<T> in;
#pragma unroll
    for (int i = 0; i < (int)sizeof(T); i++)
        in.w[i] = *((const uint4 *)from + i);
    return in;
}

template <bool TURN> static __device__ void unpack(float *x, const sixteen_words<uint16_t> &in, const uint32_t *signs) {
    const uint32_t w[8] = {in.w[0].x, in.w[0].y, in.w[0].z, in.w[0].w, in.w[1].x, in.w[1].y, in.w[1].z, in.w[1].w};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const uint32_t pair = TURN ? w[i] ^ signs[i] : w[i];
        x[2 * i] = ni_low_of(pair);
        x[2 * i + 1] = ni_high_of(pair);
    }
}

template <bool TURN> static __device__ void unpack(float *x, const sixteen_words<float> &in, const uint32_t *signs) {
#pragma unroll
    for (int i = 0; i < 16; i += 4) {
        const uint4 v = in.w[i / 4];
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const uint32_t sign = signs[(i + k) / 2];
            x[i + k] = __uint_as_float(!TURN ? w[k] : w[k] ^ (k % 2 ? sign & 0x80000000u : sign << 16));
        }
    }
}

/* A block of 16 that lies at `at` of the copy; false, and nothing is done: a lane of the warp has a wild one. */
template <typename T, int ROUND, bool TURN, bool TAME>
static __device__ bool double_row(const sixteen_words<T> &in, const ni_cuda_tile_copy &copy, const shared_words &shared,
                                  uint32_t unit, int64_t at, bool live) {
    const ni_e4m3_target target = ni_e4m3_target_of(copy.quantizer.rule);
    float x[16];
    unpack<TURN>(x, in, shared.neighbours);
    if (TURN)
        ni_turn_signed<TAME>(x, copy.quantizer.hadamard_round_bf16);
    constexpr float FACTOR = TURN && TAME ? 0.25f : 1.0f;
    const uint32_t largest = TAME ? __float_as_uint(ni_f32_mul(amax_of(x), FACTOR)) : ni_amax_of_sixteen(x);
    const float amax = __uint_as_float(largest);
    if (TAME && __any_sync(~0u, is_wild(amax)))
        return false;
    uint32_t all = largest;
#pragma unroll
    for (int lane = 1; lane < 8; lane *= 2)
        all = max(all, __shfl_xor_sync(~0u, all, lane));
    const float outer = outer_scale_of<TAME>(target, copy.quantizer.outer, __uint_as_float(all));
    const double_scale scale = double_scale_of<TAME>(target, outer, TAME ? reciprocal(outer) : 0.0f, amax);
    const float encode = ni_f32_mul(scale.encode, FACTOR);
    uint32_t words[8], signs[8], out[8];
    float q[16];
    draw<ROUND>(copy, shared.drawn, unit, words);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        x[i] = ni_f32_mul(x[i], encode);
        q[i] = on_grid<ROUND, TAME>(x[i], words, i);
    }
    hold<TAME>(q, amax, scale.encode);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        signs[i] = ni_exact_pair(x[2 * i], x[2 * i + 1]);
        out[i] = ni_pack_two(ni_f32_mul(q[2 * i], scale.decode), ni_f32_mul(q[2 * i + 1], scale.decode));
    }
    if (!live)
        return true;
    const uint64_t to = ni_global(copy.values + at);
    ni_store_words(to, make_uint4(out[0], out[1], out[2], out[3]));
    ni_store_words(to + 16, make_uint4(out[4], out[5], out[6], out[7]));
    if (!copy.codes)
        return true;
#pragma unroll
    for (int i = 0; i < 8; i++)
        out[i] = ni_exact_pair(q[2 * i], q[2 * i + 1]);
    *(uint2 *)(copy.codes + at / 2) = scale.byte ? ni_codes_of_neighbours(out, signs) : make_uint2(0, 0);
    copy.scales[at / 16] = scale.byte;
    if (threadIdx.x % 8 == 0)
        copy.outer_scales[at / 128] = outer;
    return true;
}

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
