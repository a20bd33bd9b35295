/* quantize_lanes.h: the formats of src/format on as many lanes as this file's instruction set has.
 *
 * Vector extensions that gcc and clang share; one lane does exactly the FP32 operations of the scalar code, so all
 * widths give the same bits. Included by one C file an instruction set.
 */
#ifndef NI_BACKEND_CPU_QUANTIZE_LANES_H
#define NI_BACKEND_CPU_QUANTIZE_LANES_H

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
typedef uint8_t vb __attribute__((vector_size(W)));

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

/* Unsigned; on machines without the instruction, for numbers below 2^31 only: magnitudes and codes are. */
LANES_FN vu max_u(vu a, vu b) {
#if defined(__AVX512F__)
    return (vu)_mm512_max_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vu)_mm256_max_epu32((__m256i)a, (__m256i)b);
#else
    return pick_u((vi)a > (vi)b, a, b);
#endif
}

LANES_FN vu min_u(vu a, vu b) {
#if defined(__AVX512F__)
    return (vu)_mm512_min_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vu)_mm256_min_epu32((__m256i)a, (__m256i)b);
#else
    return pick_u((vi)a < (vi)b, a, b);
#endif
}

LANES_FN vu magnitude(vf x) {
    return (vu)x & NI_F32_MAGNITUDE;
}

LANES_FN vi is_nan(vu magnitude_bits) {
    return (vi)magnitude_bits > (int32_t)NI_F32_INF_BITS;
}

LANES_FN uint32_t max_over_lanes(vu x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_epu32((__m512i)x);
#else
    uint32_t max = 0;
    for (int i = 0; i < W; i++)
        max = x[i] > max ? x[i] : max;
    return max;
#endif
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

LANES_FN vu load_bytes(const uint8_t *from) {
    vb bytes;
    memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(bytes, vu);
}

/* ---- casts ---- */

LANES_FN vu bf16_bits(vf x) {
    vu bits = (vu)x;
    vu even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return pick_u(is_nan(magnitude(x)), (bits >> 16) | 0x40u, even);
}

/* The same as a float. x comes out of arithmetic, so a NaN is quiet already and only its payload is cut. */
LANES_FN vf bf16_round(vf x) {
    vu bits = (vu)x, half = ((bits >> 16) & 1u) + 0x7fffu;
#if defined(__AVX512F__)
    __mmask16 number = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_ORD_Q);
    vu rounded = (vu)_mm512_mask_add_epi32((__m512i)bits, number, (__m512i)bits, (__m512i)half);
#else
    vu rounded = bits + ((vu)(x == x) & half);
#endif
    return (vf)(rounded & 0xffff0000u);
}

/* E2M1 codes of y, j-th of eight in a word, added to `word` whose bits above are still zero. A NaN gives 7 with its
 * sign: callers see to it that there is none. Rounding: magnitudes from 1 to 6 step by 2^(exponent-1), those below 1 by
 * 1/2, as if their exponent were 0. Adding 1.5 * 2^23 steps leaves the magnitude in steps, rounded by the addition
 * itself, in the low bits of the sum; two more steps for each exponent make that the code. */
typedef struct e2m1_binade {
    vf magic;  /* (1.5 * 2^23 + 2 * exponent) steps */
    vf random; /* 2^-8 steps: weighs the integer of eight random bits */
} e2m1_binade;

LANES_FN e2m1_binade e2m1_binade_of(vu a) {
    e2m1_binade b;
#if defined(__AVX512F__)
    /* the exponents 127, 128, 129 are 15, 0, 1 to a permutation, which looks at four bits */
    __m512i exponent = _mm512_srli_epi32(_mm512_max_epu32((__m512i)a, _mm512_set1_epi32(0x3f800000)), 23);
    const __m512 magic =
        _mm512_setr_ps(0x1.800004p23f, 0x1.800008p24f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x1.8p22f);
    const __m512 random = _mm512_setr_ps(0x1p-8f, 0x1p-7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x1p-9f);
    b.magic = (vf)_mm512_permutexvar_ps(exponent, magic);
    b.random = (vf)_mm512_permutexvar_ps(exponent, random);
#else
    vu exponent = max_u(a & 0x7f800000u, all_u(0x3f800000u));
    b.magic = (vf)(exponent + (exponent >> 22) + (0x0b400000u - 254u));
    b.random = (vf)(exponent - 0x04800000u);
#endif
    return b;
}

LANES_FN vu e2m1_magnitude(vf y) {
    return min_u(magnitude(y), all_u(0x40c00000u)); /* 6; also Inf and NaN */
}

LANES_FN vu e2m1_put(vu word, int j, vu code_in_low_bits, vf y) {
    word |= (code_in_low_bits << (4 * j)) & (7u << (4 * j));
    return word | (((vu)y >> (28 - 4 * j)) & (8u << (4 * j)));
}

LANES_FN vu e2m1_put_even(vu word, int j, vf y) {
    vu a = e2m1_magnitude(y);
    return e2m1_put(word, j, (vu)((vf)a + e2m1_binade_of(a).magic), y);
}

/* `random` of `bits` bits as an integer. */
LANES_FN vu e2m1_put_stochastic(vu word, int j, vf y, vu random, int bits) {
    vu a = e2m1_magnitude(y);
    vf u = __builtin_convertvector((vi)random, vf);
    vf t = (vf)a + (bits == 8 ? u : u * 0x1p-8f) * e2m1_binade_of(a).random; /* products of powers of two: exact */
    vi cut = (vi)((vu)t >> 22) - 252; /* the code from 1 up; 0 or 1 from 1/2 to 1; below, negative */
#if defined(__AVX512F__)
    __mmask16 half = _mm512_cmp_ps_mask((__m512)t, _mm512_set1_ps(0.5f), _CMP_GE_OQ);
    vu code = (vu)_mm512_max_epi32((__m512i)cut, _mm512_maskz_set1_epi32(half, 1));
#else
    vi least = (vi)(t >= 0.5f) & 1;
    vu code = pick_u(cut > least, (vu)cut, (vu)least);
#endif
    return e2m1_put(word, j, code, y);
}

/* A tie goes up in value: away from zero for positive numbers, toward it for negative ones; zero has no sign. */
LANES_FN vu e2m1_up(vf x) {
    vu a = magnitude(x), positive = (vu)(x >= 0.0f) & 1u;
    vu above_one = min_u(((a + 0x1fffffu + positive) >> 22) - 252u, all_u(7));
    vu threshold_quarter = ni_f32_bits(0.25f) - positive + (vu){0}; /* a > it: a >= 1/4 where positive */
    vu threshold_three = ni_f32_bits(0.75f) - positive + (vu){0};
    vu below_one = (vu) - (((vi)a > (vi)threshold_quarter) + ((vi)a > (vi)threshold_three));
    vu m = pick_u((vi)a < 0x3f800000, below_one, above_one);
    vu sign = pick_u(is_nan(a), (vu){0}, ((vu)x >> 28) & 8u);
    return pick_u((vi)(m == 0), m, m | sign);
}

LANES_FN vf e2m1_value(vu code) {
#if defined(__AVX512F__)
    const vf values = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    return (vf)_mm512_permutexvar_ps((__m512i)code, (__m512)values);
#elif defined(__AVX2__)
    const vf sizes = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    return (vf)((vu)_mm256_permutevar8x32_ps((__m256)sizes, (__m256i)code) | ((code & 8u) << 28));
#else
    vu m = code & 7u;
    vf small = __builtin_convertvector((vi)m, vf) * 0.5f;
    vu value = pick_u((vi)(m < 2u), (vu)small, (m + 252u) << 22);
    return (vf)(value | ((code & 8u) << 28));
#endif
}

LANES_FN vu e4m3_even(vf x) {
    vu a = magnitude(x);
    vu normal = ((a + 0x7ffffu + ((a >> 20) & 1u)) >> 20) - 960u;
    vu steps = (vu)((vf)a * 512.0f + 0x1.8p23f) - 0x4b400000u; /* the sum rounds to the nearest integer, ties to even */
    vu code = pick_u((vi)a < 0x3c800000, steps, min_u(normal, all_u(0x7e)));
    return pick_u(is_nan(a), all_u(0x7f), code | (((vu)x >> 24) & 0x80u));
}

LANES_FN vu e5m2_even(vf x) {
    vu a = magnitude(x);
    vu normal = ((a + 0xfffffu + ((a >> 21) & 1u)) >> 21) - 448u;
    vu steps = (vu)((vf)a * 65536.0f + 0x1.8p23f) - 0x4b400000u;
    vu code = pick_u((vi)a < 0x38800000, steps, min_u(normal, all_u(0x7b)));
    return pick_u(is_nan(a), all_u(0x7f), code | (((vu)x >> 24) & 0x80u));
}

/* Of numbers from -7 to 7 the same sum leaves two's complement in the low bits. NaN fails the first comparison: 7. */
LANES_FN vu int4_even(vf x) {
    vf below = pick_f(x < 7.0f, x, all_f(7.0f));
    vf clipped = pick_f(below > -7.0f, below, all_f(-7.0f));
    return (vu)(clipped + 0x1.8p23f) & 15u;
}

LANES_FN vf s1p2_value(vu code) {
    vf quarters = __builtin_convertvector((vi)(code & 7u), vf);
    return (vf)((vu)(quarters * 0.25f) | (code & 8u) << 28);
}

LANES_FN vf int4_value(vu code) {
    return __builtin_convertvector((vi)(code << 28) >> 28, vf);
}

/* The fields of a small float in the places of a float's, then the difference of the biases: exact, subnormals too. */
LANES_FN vf e4m3_value(vu code) {
    vu magnitude_bits = code & 0x7fu;
    vu value = (vu)((vf)(magnitude_bits << 20) * 0x1p120f);
    return (vf)(pick_u((vi)(magnitude_bits == 0x7fu), all_u(0x7fc00000u), value) | ((code & 0x80u) << 24));
}

LANES_FN vf e5m2_value(vu code) {
    vu magnitude_bits = code & 0x7fu;
    vu value = (vu)((vf)(magnitude_bits << 21) * 0x1p112f);
    vu beyond = pick_u((vi)(magnitude_bits == 0x7cu), all_u(NI_F32_INF_BITS), all_u(0x7fc00000u));
    return (vf)(pick_u((vi)magnitude_bits >= 0x7c, beyond, value) | ((code & 0x80u) << 24));
}

/* Of a scale byte: no sign. */
LANES_FN vf e4m3_scale_value(vu byte) {
    vf small = __builtin_convertvector((vi)byte, vf) * 0x1p-9f;
    vu value = pick_u((vi)(byte < 8u), (vu)small, (byte + 960u) << 20);
    return (vf)pick_u((vi)(byte == 0x7fu), all_u(0x7fc00000u), value);
}

LANES_FN vf positive_nan(vf x) {
    return pick_f(x == x, x, all_f(ni_f32_from(0x7fc00000u)));
}

LANES_FN vf limited(vf x) {
    return pick_f(x > ni_f32_from(NI_F32_MAX_BITS), all_f(ni_f32_from(NI_F32_MAX_BITS)), x);
}

/* ---- random bits ---- */

/* Even or odd lanes' numbers in the low halves of 64 bits; the high halves hold anything. */
LANES_FN vu64 multiply_low_halves(vu64 a, uint32_t b) {
#if defined(__AVX512F__)
    return (vu64)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif defined(__AVX2__)
    return (vu64)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__SSE2__)
    return (vu64)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
    return (a & 0xffffffffu) * b;
#endif
}

/* ni_philox, a counter word a lane; the lanes go through the rounds in two halves, for the sake of the multiplier. */
LANES_FN void philox_lanes(uint32_t key0, uint32_t key1, vu c0, uint32_t c1, uint32_t c2, uint32_t c3, vu w[4]) {
    const vu64 zero = {0};
    vu64 x0[2] = {(vu64)c0, (vu64)c0 >> 32}, x1[2] = {zero + c1, zero + c1};
    vu64 x2[2] = {zero + c2, zero + c2}, x3[2] = {zero + c3, zero + c3};
    for (int round = 0; round < 10; round++) {
        for (int half = 0; half < 2; half++) {
            vu64 p0 = multiply_low_halves(x0[half], 0xD2511F53u), p1 = multiply_low_halves(x2[half], 0xCD9E8D57u);
            x0[half] = p1 >> 32 ^ x1[half] ^ (zero + key0);
            x1[half] = p1;
            x2[half] = p0 >> 32 ^ x3[half] ^ (zero + key1);
            x3[half] = p0;
        }
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    w[0] = (vu)((x0[0] & 0xffffffffu) | x0[1] << 32);
    w[1] = (vu)((x1[0] & 0xffffffffu) | x1[1] << 32);
    w[2] = (vu)((x2[0] & 0xffffffffu) | x2[1] << 32);
    w[3] = (vu)((x3[0] & 0xffffffffu) | x3[1] << 32);
}

/* ---- W x W numbers, rows and columns exchanged ---- */

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
