/* lanes.h: arithmetic on one vector of FP32 numbers, in the extensions that gcc and clang share.
 *
 * A vector is as wide as the machine's: 16 lanes with AVX-512, 8 with AVX2, else 4. Each element sees the same IEEE
 * operations in the same order everywhere (nothing is contracted), and sums over elements run in SIXTEEN interleaved
 * chains that meet in one fixed tree, so portable, AVX2 and AVX-512 builds of a kernel agree bit for bit.
 */
#ifndef NI_BACKEND_CPU_LANES_H
#define NI_BACKEND_CPU_LANES_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { SIXTEEN = 16 };

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { PARTS = SIXTEEN / LANES };

/* Vectors never cross a call: everything here is inlined. */
#define LANE_FN static inline __attribute__((always_inline, unused))

typedef float vf32 __attribute__((vector_size(LANES * 4)));
typedef int32_t vi32 __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu32 __attribute__((vector_size(LANES * 4)));
typedef uint16_t vu16 __attribute__((vector_size(LANES * 2)));

LANE_FN vf32 splat(float x) {
    return x - (vf32){0}; /* not +: that would lose the sign of -0 */
}

LANE_FN vf32 pick(vi32 mask, vf32 yes, vf32 no) {
    return (vf32)((mask & (vi32)yes) | (~mask & (vi32)no));
}

/* sqrt is exact to the last bit (IEEE 754), whichever instruction takes it. */
LANE_FN vf32 vsqrt(vf32 x) {
#if defined(__AVX512F__)
    return (vf32)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (vf32)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (vf32)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < LANES; i++)
        x[i] = sqrtf(x[i]);
    return x;
#endif
}

/* a > b ? a : b, so b if either is NaN. */
LANE_FN vf32 vmax(vf32 a, vf32 b) {
#if defined(__AVX512F__)
    return (vf32)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf32)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vf32)_mm_max_ps((__m128)a, (__m128)b);
#else
    return pick(a > b, a, b);
#endif
}

/* All ones where x is NaN. */
LANE_FN vi32 vnan(vf32 x) {
    return x != x;
}

/* ---- memory: `count` lanes, 1 to LANES; the others read as zero and are not written ---- */

/* Runs the statements for elements i .. i + count of n, with `part` the group of lanes that i % SIXTEEN falls into.
 * Whole vectors come first, with a count that the compiler knows. */
#define FOR_LANES(n, ...)                                                                                              \
    do {                                                                                                               \
        int64_t base = 0;                                                                                              \
        for (; (n)-base >= SIXTEEN; base += SIXTEEN) {                                                                 \
            _Pragma("GCC unroll 4") for (int part = 0; part < PARTS; part++) {                                         \
                const int64_t i = base + part * LANES, count = LANES;                                                  \
                __VA_ARGS__                                                                                            \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 4") for (int part = 0; part < PARTS; part++) {                                             \
            const int64_t i = base + part * LANES, count = (n)-i < LANES ? (n)-i : LANES;                              \
            if (count > 0) {                                                                                           \
                __VA_ARGS__                                                                                            \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

/* The same for sixteen elements from `i` on at once: `left` of them are there. EACH_PART goes through their vectors, of
 * which part_count gives the lanes. */
#define FOR_SIXTEEN(n, ...)                                                                                            \
    do {                                                                                                               \
        int64_t i = 0;                                                                                                 \
        for (; (n)-i >= SIXTEEN; i += SIXTEEN) {                                                                       \
            const int64_t left = SIXTEEN;                                                                              \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
        if (i < (n)) {                                                                                                 \
            const int64_t left = (n)-i;                                                                                \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    } while (0)
#define EACH_PART(parts) _Pragma("GCC unroll 4") for (int part = 0; part < (parts); part++)

LANE_FN int64_t part_count(int64_t left, int part) {
    int64_t count = left - part * LANES;
    return count < 0 ? 0 : count < LANES ? count : LANES;
}

LANE_FN vf32 load_f32(const float *from, int64_t count) {
    vf32 x = {0};
    if (count >= LANES)
        memcpy(&x, from, sizeof x);
    else
        memcpy(&x, from, (size_t)count * sizeof *from);
    return x;
}

LANE_FN void store_f32(float *to, vf32 x, int64_t count) {
    if (count >= LANES)
        memcpy(to, &x, sizeof x);
    else
        memcpy(to, &x, (size_t)count * sizeof *to);
}

LANE_FN vf32 load_bf16(const uint16_t *from, int64_t count) {
    vu16 half = {0};
    if (count >= LANES)
        memcpy(&half, from, sizeof half);
    else
        memcpy(&half, from, (size_t)count * sizeof *from);
    return (vf32)(__builtin_convertvector(half, vu32) << 16);
}

/* The same with another number in the lanes beyond `count`. */
LANE_FN vf32 load_bf16_or(const uint16_t *from, int64_t count, float beyond) {
    vf32 x = load_bf16(from, count);
    for (int64_t i = count; i < LANES; i++)
        x[i] = beyond;
    return x;
}

/* Nearest, ties to even; a NaN keeps its sign and upper payload and becomes quiet. */
LANE_FN void store_bf16(uint16_t *to, vf32 x, int64_t count) {
    vu32 bits = (vu32)x;
    vu32 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, quiet = bits >> 16 | 0x40u;
    vu32 is_nan = (vu32)vnan(x);
    vu16 half = __builtin_convertvector((is_nan & quiet) | (~is_nan & rounded), vu16);
    if (count >= LANES)
        memcpy(to, &half, sizeof half);
    else
        memcpy(to, &half, (size_t)count * sizeof *to);
}

/* What store_bf16 would store, as FP32. */
LANE_FN vf32 round_bf16(vf32 x) {
    vu32 bits = (vu32)x;
    vu32 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u, quiet = (bits & 0xffff0000u) | 0x400000u;
    vu32 is_nan = (vu32)vnan(x);
    return (vf32)((is_nan & quiet) | (~is_nan & rounded));
}

/* ---- over the elements: halves are added (compared) until one is left ---- */

/* Sixteen running sums: element i goes into chain i % SIXTEEN, that is part[part] inside FOR_LANES. */
typedef struct chains {
    vf32 part[PARTS];
} chains;

LANE_FN float sum_chains(chains x) {
#if defined(__SSE2__)
#if defined(__AVX512F__)
    const __m256 eight =
        (__m256)_mm512_castps512_ps256((__m512)x.part[0]) + _mm512_extractf32x8_ps((__m512)x.part[0], 1);
    const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
#elif defined(__AVX2__)
    const __m256 eight = (__m256)x.part[0] + (__m256)x.part[1];
    const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
#else
    const __m128 four = (__m128)((x.part[0] + x.part[2]) + (x.part[1] + x.part[3]));
#endif
    const __m128 two = four + _mm_movehl_ps(four, four);
    return _mm_cvtss_f32(two) + _mm_cvtss_f32(_mm_shuffle_ps(two, two, 1));
#else
    float lane[SIXTEEN];
    for (int part = 0; part < PARTS; part++)
        memcpy(lane + part * LANES, &x.part[part], sizeof(vf32));
    for (int width = SIXTEEN / 2; width; width /= 2)
        for (int i = 0; i < width; i++)
            lane[i] += lane[i + width];
    return lane[0];
#endif
}

LANE_FN float max_lanes(vf32 x) {
    float largest = x[0];
    for (int i = 1; i < LANES; i++)
        largest = x[i] > largest ? x[i] : largest;
    return largest;
}

/* ---- functions ---- */

/* e^x of sixteen numbers, each within 1 unit in the last place. x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts,
 * the upper of nine bits, so that n times it is exact), then e^r = 1 + r + r^2 P(r): P interpolates (e^r - 1 - r)/r^2
 * at Chebyshev's points. Results below the smallest normal number are 0, those beyond the largest Inf, and a NaN stays.
 * The parts go through every step together: one alone would wait for the result of the step before. */
LANE_FN void exp_parts(vf32 *x, int parts) {
    static const float factor[] = {0x1.6d43b0p-10f, 0x1.1110e0p-7f, 0x1.5554e8p-5f, 0x1.555556p-3f, 0x1.000000p-1f};
    const float to_integer = 0x1.8p23f; /* adding it leaves the nearest integer in the low bits */
    vf32 shifted[PARTS], r[PARTS], p[PARTS];
    EACH_PART(parts) shifted[part] = x[part] * 0x1.715476p0f + to_integer;
    EACH_PART(parts) {
        vf32 n = shifted[part] - to_integer;
        r[part] = (x[part] - n * 0x1.63p-1f) - n * -0x1.bd0106p-13f;
    }
    EACH_PART(parts) p[part] = splat(0x1.a1256cp-13f);
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++)
        EACH_PART(parts) p[part] = p[part] * r[part] + factor[i];
    EACH_PART(parts) p[part] = r[part] * r[part] * p[part] + r[part] + 1.0f;
    EACH_PART(parts) {
        vf32 scaled = (vf32)((vu32)p[part] + ((vu32)shifted[part] << 23));
        scaled = pick(x[part] < -0x1.5d47aep6f, splat(0), scaled);       /* -87.32 */
        scaled = pick(x[part] > 0x1.62e42ep6f, splat(INFINITY), scaled); /* ln of the largest float */
        x[part] = pick(vnan(x[part]), x[part], scaled);
    }
}

LANE_FN vf32 vexp(vf32 x) {
    exp_parts(&x, 1);
    return x;
}

LANE_FN vf32 vsigmoid(vf32 x) {
    return 1.0f / (1.0f + vexp(-x));
}

/* log(1 + u) for 0 <= u <= 1: 2 artanh(s) with s = u / (2 + u) <= 1/3, by its series; the first term left out is below
 * 2^-29 of the sum. */
LANE_FN vf32 vlog1p(vf32 u) {
    vf32 s = u / (2.0f + u), square = s * s;
    vf32 p = splat(1.0f / 15);
    p = p * square + 1.0f / 13;
    p = p * square + 1.0f / 11;
    p = p * square + 1.0f / 9;
    p = p * square + 1.0f / 7;
    p = p * square + 1.0f / 5;
    p = p * square + 1.0f / 3;
    return 2.0f * (s + s * square * p);
}

#endif
