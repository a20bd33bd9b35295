/* double.cuh: the double block (E4M3 scales of 16 under an FP32 scale of 128) for a thread that holds 16 neighbours of a
 * row, and what rows and columns share of it. Values are code x inner scale x outer scale, rounded once to BF16. Bits are
 * those of quantize.cu.
 *
 * Instructions bind it, so numbers are tame or wild. Tame ones are 0 or lie in [2^-60, 2^60] by the maxima of their
 * blocks: no quotient of theirs is subnormal or infinite, so divisions need no second path; a rotation's factor goes into
 * the scale; no number times that reaches 16. A warp (rows) or a block (columns) that holds a wild one begins again.
 */
#ifndef NI_BACKEND_CUDA_DOUBLE_CUH
#define NI_BACKEND_CUDA_DOUBLE_CUH

#include "backend/cuda/sixteen.cuh"

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
    float s = ni_over_constant(ni_over_constant(amax, 448.0f, 0x1.24924ap-9f), target.max, target.inverse);
    if (outer == NB_OUTER_ROW128_POW2)
        s = ni_pow2_above(s);
    return s == 0.0f ? 1.0f : s;
}

template <bool TAME>
static __device__ double_scale double_scale_of(const ni_e4m3_target &target, float outer, float over_outer,
                                               float amax) {
    const float s = TAME ? ni_over_constant(quotient(amax, outer, over_outer), target.max, target.inverse)
                         : ni_f32_div(ni_f32_div(amax, outer), target.max);
    double_scale scale;
    scale.byte = (uint8_t)ni_e4m3_bytes(s == 0.0f ? 0x1p-9f : s, 0.0f);
    scale.decode = ni_f32_mul(outer, ni_byte_value(scale.byte));
    if (TAME)
        scale.encode = scale.byte ? ni_reciprocal(scale.decode) : 0.0f;
    else
        scale.encode = scale.decode == 0.0f ? 0.0f : ni_f32_finite(__frcp_rn(scale.decode));
    return scale;
}

/* ---- sixteen numbers ---- */

/* y of number i on E2M1's grid, and beyond: see hold. */
template <int ROUND, bool TAME> static __device__ float on_grid(float y, const uint32_t *words, int i) {
    return ROUND == 16 ? ni_on_grid<ROUND, TAME>(y, words + i / 8 * 4, i % 8) : ni_on_grid<ROUND, TAME>(y, words, i);
}

/* Where no number was beyond 6 none is. `six`: 6 in the numbers' unit. */
template <bool TAME> static __device__ void hold(float *q, float amax, float encode, float six = 6.0f) {
    if (TAME && ni_f32_mul(amax, encode) <= six)
        return;
#pragma unroll
    for (int i = 0; i < 16; i++)
        q[i] = ni_up_to_six(q[i], six);
}

/* ---- rows ---- */

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

/* A block of 16, under the signs of its rotation, that lies at `at` of the copy; false, and nothing is stored (x may have been
 * turned): a lane of the warp has a wild one. */
template <int ROUND, bool TURN, bool TAME>
static __device__ bool double_numbers(float *x, const ni_cuda_tile_copy &copy, const ni_philox_shared &drawn,
                                      uint32_t unit, int64_t at, bool live) {
    const ni_e4m3_target target = ni_e4m3_target_of(copy.quantizer.rule);
    if (TURN)
        ni_turn_signed<TAME>(x, copy.quantizer.hadamard_round_bf16);
    constexpr bool FOUR_TIMES = TURN && TAME; /* tame numbers that were turned are so much too large */
    /* Numbers on the grid are to nearest in E4M3's unit, from which codes are made. */
    constexpr float UNIT = ROUND == 0 && TAME ? NI_E2M1_IN_E4M3 : 1.0f, FACTOR = UNIT * (FOUR_TIMES ? 0.25f : 1.0f);
    const float found = TAME ? ni_largest_of_sixteen(x) : __uint_as_float(ni_amax_of_sixteen(x)),
                amax = FOUR_TIMES ? ni_f32_mul(found, 0.25f) : found;
    if (TAME && __any_sync(~0u, is_wild(amax)))
        return false;
    uint32_t all = __float_as_uint(amax);
#pragma unroll
    for (int lane = 1; lane < 8; lane *= 2)
        all = max(all, __shfl_xor_sync(~0u, all, lane));
    const float outer = outer_scale_of<TAME>(target, copy.quantizer.outer, __uint_as_float(all));
    const double_scale scale = double_scale_of<TAME>(target, outer, TAME ? ni_reciprocal(outer) : 0.0f, amax);
    const float encode = FACTOR == 1.0f ? scale.encode : ni_f32_mul(scale.encode, FACTOR),
                decode = UNIT == 1.0f ? scale.decode : ni_f32_mul(scale.decode, 1.0f / UNIT);
    uint32_t words[8], out[8];
    float q[16];
    ni_draw_sixteen<ROUND>(copy.keys, drawn, unit, words);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        x[i] = ni_f32_mul(x[i], encode);
        q[i] = ROUND ? on_grid<ROUND, TAME>(x[i], words, i) : ni_nearest_on_grid<TAME>(x[i], UNIT);
    }
    hold<TAME>(q, found, encode, 6.0f * UNIT);
#pragma unroll
    for (int i = 0; i < 8; i++)
        out[i] = ni_pack_two(ni_f32_mul(q[2 * i], decode), ni_f32_mul(q[2 * i + 1], decode));
    if (!live)
        return true;
    const uint64_t to = ni_global(copy.values + at);
    ni_store_words(to, make_uint4(out[0], out[1], out[2], out[3]));
    ni_store_words(to + 16, make_uint4(out[4], out[5], out[6], out[7]));
    if (!copy.codes)
        return true;
    if (UNIT == 1.0f)
#pragma unroll
        for (int i = 0; i < 16; i++)
            q[i] = ni_f32_mul(q[i], NI_E2M1_IN_E4M3);
    *(uint2 *)(copy.codes + ((uint64_t)at >> 1)) = scale.byte ? ni_codes_of_sixteen(q, x) : make_uint2(0, 0);
    copy.scales[(uint64_t)at >> 4] = scale.byte;
    if (threadIdx.x % 8 == 0)
        copy.outer_scales[(uint64_t)at >> 7] = outer;
    return true;
}

template <typename T, int ROUND, bool TURN, bool TAME>
static __device__ bool double_row(const sixteen_words<T> &in, const ni_cuda_tile_copy &copy, const shared_words &shared,
                                  uint32_t unit, int64_t at, bool live) {
    float x[16];
    unpack<TURN>(x, in, shared.neighbours);
    return double_numbers<ROUND, TURN, TAME>(x, copy, shared.drawn, unit, at, live);
}

#endif
