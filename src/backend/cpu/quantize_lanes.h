/* quantize_lanes.h: the formats of src/format on as many lanes as this file's instruction set has.
 *
 * Vector extensions that gcc and clang share; one lane does exactly the FP32 operations of the scalar code, so all
 * widths give the same bits. Included by one C file an instruction set.
 */
#ifndef NB_BACKEND_CPU_QUANTIZE_LANES_H
#define NB_BACKEND_CPU_QUANTIZE_LANES_H

#include "format/bf16.h"
#include "format/ieee.h"
#include "nibble/format.h"

#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define W 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define W 8
#else
#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#define W 4
#endif

#define LANES_FN static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint64_t vu64 __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));

LANES_FN vf all_f(float x) {
    return (vf){0} + x; /* -0.0 would lose its sign; no caller has one */
}

LANES_FN vu all_u(uint32_t x) {
    return (vu){0} + x;
}

/* mask lanes are all ones or all zero, as comparisons give them */
LANES_FN vu pick_u(vi mask, vu yes, vu no) {
    return ((vu)mask & yes) | (~(vu)mask & no);
}

LANES_FN vf pick_f(vi mask, vf yes, vf no) {
    return (vf)pick_u(mask, (vu)yes, (vu)no);
}

/* Unsigned numbers below 2^31 only: magnitudes and codes are. */
LANES_FN vu max_u(vu a, vu b) {
    return pick_u((vi)a > (vi)b, a, b);
}

LANES_FN vu min_u(vu a, vu b) {
    return pick_u((vi)a < (vi)b, a, b);
}

LANES_FN vu magnitude(vf x) {
    return (vu)x & NB_F32_MAGNITUDE;
}

LANES_FN vi is_nan(vu magnitude_bits) {
    return (vi)magnitude_bits > (int32_t)NB_F32_INF_BITS;
}

LANES_FN uint32_t max_over_lanes(vu x) {
    uint32_t max = 0;
    for (int i = 0; i < W; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

LANES_FN vf load_f32(const float *from) {
    vf x;
    memcpy(&x, from, sizeof x);
    return x;
}

LANES_FN vf load_bf16(const uint16_t *from) {
    vh half;
    memcpy(&half, from, sizeof half);
    return (vf)(__builtin_convertvector(half, vu) << 16);
}

/* ---- casts --------------------------------------------------------------------------------------------------------
 */

LANES_FN vu bf16_bits(vf x) {
    vu bits = (vu)x;
    vu even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return pick_u(is_nan(magnitude(x)), (bits >> 16) | 0x40u, even);
}

LANES_FN vf bf16_round(vf x) {
    return (vf)(bf16_bits(x) << 16);
}

/* Code of an E2M1 magnitude from 1 up, mantissa beyond its one bit cut off: 2 for 1.0; any number above 6 stays above.
 */
LANES_FN vu e2m1_cut(vu magnitude_bits) {
    return (magnitude_bits >> 22) - 252u;
}

/* The sign at the code's top; NaN loses it. */
LANES_FN vu e2m1_sign(vf x, vu a) {
    return pick_u(is_nan(a), (vu){0}, ((vu)x >> 28) & 8u);
}

LANES_FN vu e2m1_even(vf x) {
    vu a = magnitude(x);
    vu above_one = min_u(e2m1_cut(a + 0x1fffffu + ((a >> 22) & 1u)), all_u(7));
    vu below_one = (vu) - (((vf)a > 0.25f) + ((vf)a >= 0.75f));
    return e2m1_sign(x, a) | pick_u((vf)a < 1.0f, below_one, above_one);
}

/* A tie goes up in value: away from zero for positive numbers, toward it for negative ones. */
LANES_FN vu e2m1_up(vf x) {
    vu a = magnitude(x), positive = (vu)(x >= 0.0f) & 1u;
    vu above_one = min_u(e2m1_cut(a + 0x1fffffu + positive), all_u(7));
    vu threshold_quarter = nb_f32_bits(0.25f) - positive + (vu){0}; /* a > it: a >= 1/4 where positive */
    vu threshold_three = nb_f32_bits(0.75f) - positive + (vu){0};
    vu below_one = (vu) - (((vi)a > (vi)threshold_quarter) + ((vi)a > (vi)threshold_three));
    vu m = pick_u((vi)a < 0x3f800000, below_one, above_one);
    return pick_u((vi)(m == 0), m, m | e2m1_sign(x, a));
}

/* `scaled` = random integers times 2^-bits, as floats: u. */
LANES_FN vu e2m1_stochastic(vf x, vf u) {
    vu a = magnitude(x);
    vu exponent = max_u(a & 0x7f800000u, all_u(0x3f800000u));
    vf step = (vf)(exponent - 0x00800000u); /* beyond 8 it is larger than the grid's: saturated either way */
    vf t = (vf)a + u * step;
    vu above_one = min_u(e2m1_cut((vu)t), all_u(7));
    vu below_one = (vu) - (t >= 0.5f);
    return e2m1_sign(x, a) | pick_u(t < 1.0f, below_one, above_one);
}

LANES_FN vf e2m1_value(vu code) {
    vu m = code & 7u;
    vf small = __builtin_convertvector((vi)m, vf) * 0.5f;
    vu value = pick_u((vi)(m < 2u), (vu)small, (m + 252u) << 22);
    return (vf)(value | ((code & 8u) << 28));
}

LANES_FN vu e4m3_even(vf x) {
    vu a = magnitude(x);
    vu normal = ((a + 0x7ffffu + ((a >> 20) & 1u)) >> 20) - 960u;
    vu steps = (vu)((vf)a * 512.0f + 0x1.8p23f) - 0x4b400000u; /* the sum rounds to the nearest integer, ties to even */
    vu code = pick_u((vi)a < 0x3c800000, steps, min_u(normal, all_u(0x7e)));
    return pick_u(is_nan(a), all_u(0x7f), code | (((vu)x >> 24) & 0x80u));
}

/* Of a scale byte: no sign. */
LANES_FN vf e4m3_scale_value(vu byte) {
    vf small = __builtin_convertvector((vi)byte, vf) * 0x1p-9f;
    vu value = pick_u((vi)(byte < 8u), (vu)small, (byte + 960u) << 20);
    return (vf)pick_u((vi)(byte == 0x7fu), all_u(0x7fc00000u), value);
}

LANES_FN vf finite(vf x) {
    return pick_f(x > nb_f32_from(NB_F32_MAX_BITS), all_f(nb_f32_from(NB_F32_MAX_BITS)), x);
}

/* ---- random bits --------------------------------------------------------------------------------------------------
 */

/* Low and high words of a * b. */
LANES_FN void multiply_wide(vu a, uint32_t b, vu *low, vu *high) {
    vu64 even, odd;
#if defined(__AVX512F__)
    even = (vu64)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
    odd = (vu64)_mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), _mm512_set1_epi64(b));
#elif defined(__AVX2__)
    even = (vu64)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
    odd = (vu64)_mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), _mm256_set1_epi64x(b));
#elif defined(__SSE2__)
    even = (vu64)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
    odd = (vu64)_mm_mul_epu32(_mm_srli_epi64((__m128i)a, 32), _mm_set1_epi64x(b));
#else
    for (int i = 0; i < W / 2; i++) {
        even[i] = (uint64_t)a[2 * i] * b;
        odd[i] = (uint64_t)a[2 * i + 1] * b;
    }
    for (int i = 0; i < W / 2; i++) {
        (*low)[2 * i] = (uint32_t)even[i];
        (*low)[2 * i + 1] = (uint32_t)odd[i];
        (*high)[2 * i] = (uint32_t)(even[i] >> 32);
        (*high)[2 * i + 1] = (uint32_t)(odd[i] >> 32);
    }
    return;
#endif
#if defined(__SSE2__)
    const vu64 upper = (vu64){0} + 0xffffffff00000000u;
    *low = (vu)((even & ~upper) | odd << 32);
    *high = (vu)(even >> 32 | (odd & upper));
#endif
}

/* nb_philox, a counter word a lane. */
LANES_FN void philox_lanes(uint32_t key0, uint32_t key1, vu c0, uint32_t c1, uint32_t c2, uint32_t c3, vu w[4]) {
    vu x0 = c0, x1 = all_u(c1), x2 = all_u(c2), x3 = all_u(c3);
    for (int round = 0; round < 10; round++) {
        vu low0, high0, low1, high1;
        multiply_wide(x0, 0xD2511F53u, &low0, &high0);
        multiply_wide(x2, 0xCD9E8D57u, &low1, &high1);
        x0 = high1 ^ x1 ^ key0;
        x1 = low1;
        x2 = high0 ^ x3 ^ key1;
        x3 = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    w[0] = x0;
    w[1] = x1;
    w[2] = x2;
    w[3] = x3;
}

/* ---- W x W numbers, rows and columns exchanged ----------------------------------------------------------------------
 */

#if defined(__AVX512F__)
LANES_FN void transpose_lanes(vf v[W]) {
    const __m512i pairs[4][2] = {
        {_mm512_setr_epi32(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
         _mm512_setr_epi32(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31)},
        {_mm512_setr_epi32(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
         _mm512_setr_epi32(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)},
        {_mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
         _mm512_setr_epi32(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31)},
        {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
         _mm512_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)},
    };
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++)
#pragma GCC unroll 16
        for (int i = 0; i < W; i++)
            if (!(i >> s & 1)) {
                __m512 a = (__m512)v[i], b = (__m512)v[i + (1 << s)];
                v[i] = (vf)_mm512_permutex2var_ps(a, pairs[s][0], b);
                v[i + (1 << s)] = (vf)_mm512_permutex2var_ps(a, pairs[s][1], b);
            }
}
#elif defined(__AVX2__)
LANES_FN void transpose_lanes(vf v[W]) {
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps((__m256)v[i], (__m256)v[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps((__m256)v[i], (__m256)v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0x44);
            b[i + 2 * j + 1] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        v[i] = (vf)_mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        v[i + 4] = (vf)_mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}
#else
LANES_FN void transpose_lanes(vf v[W]) {
    for (int i = 0; i < W; i++)
        for (int j = 0; j < i; j++) {
            float upper = v[j][i];
            v[j][i] = v[i][j];
            v[i][j] = upper;
        }
}
#endif

#endif
