/* lanes.h: sixteen FP32 numbers at a time, in the vector extensions that gcc and clang share.
 *
 * One source serves every instruction set: the compiler splits a vector into what the machine has. Each lane sees the
 * same IEEE operations in the same order everywhere (nothing is contracted), and sums over lanes follow one fixed tree,
 * so portable, AVX2 and AVX-512 builds of a kernel agree bit for bit.
 */
#ifndef NB_BACKEND_CPU_LANES_H
#define NB_BACKEND_CPU_LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

/* Vectors never cross a call: everything here is inlined. */
#define LANES 16
#define LANE_FN static inline __attribute__((always_inline, unused))

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef double f64x8 __attribute__((vector_size(64)));

LANE_FN f32x16 all16(float x) {
    return (f32x16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

LANE_FN f32x16 pick16(i32x16 mask, f32x16 yes, f32x16 no) {
    return (f32x16)((mask & (i32x16)yes) | (~mask & (i32x16)no));
}

LANE_FN f32x16 max16(f32x16 a, f32x16 b) {
    return pick16(a > b, a, b);
}

/* ---- memory: `count` lanes, 1 to 16; the others read as zero and are not written ------------------------------------
 */

LANE_FN f32x16 load_f32(const float *from, int64_t count) {
    f32x16 x;
    if (count >= LANES) {
        memcpy(&x, from, sizeof x);
    } else {
        x = all16(0);
        memcpy(&x, from, (size_t)count * sizeof *from);
    }
    return x;
}

LANE_FN void store_f32(float *to, f32x16 x, int64_t count) {
    if (count >= LANES)
        memcpy(to, &x, sizeof x);
    else
        memcpy(to, &x, (size_t)count * sizeof *to);
}

LANE_FN f32x16 load_bf16(const uint16_t *from, int64_t count) {
    u16x16 half;
    if (count >= LANES) {
        memcpy(&half, from, sizeof half);
    } else {
        half = (u16x16){0};
        memcpy(&half, from, (size_t)count * sizeof *from);
    }
    return (f32x16)(__builtin_convertvector(half, u32x16) << 16);
}

/* The same with another number in the lanes beyond `count`. */
LANE_FN f32x16 load_bf16_or(const uint16_t *from, int64_t count, float beyond) {
    const i32x16 index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    f32x16 x = load_bf16(from, count);
    return count >= LANES ? x : pick16(index < (int32_t)count, x, all16(beyond));
}

/* Nearest, ties to even; a NaN keeps its sign and upper payload and becomes quiet. */
LANE_FN void store_bf16(uint16_t *to, f32x16 x, int64_t count) {
    u32x16 bits = (u32x16)x;
    u32x16 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, quiet = bits >> 16 | 0x40u;
    u32x16 is_nan = (u32x16)(x != x);
    u16x16 half = __builtin_convertvector((is_nan & quiet) | (~is_nan & rounded), u16x16);
    if (count >= LANES)
        memcpy(to, &half, sizeof half);
    else
        memcpy(to, &half, (size_t)count * sizeof *to);
}

/* ---- over the lanes: halves are added (compared) until one is left
 * --------------------------------------------------- */

LANE_FN float sum_lanes(f32x16 x) {
    float lane[LANES];
    memcpy(lane, &x, sizeof lane);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++)
            lane[i] += lane[i + width];
    return lane[0];
}

LANE_FN float max_lanes(f32x16 x) {
    float lane[LANES];
    memcpy(lane, &x, sizeof lane);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++)
            lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
    return lane[0];
}

/* ---- functions
 * ------------------------------------------------------------------------------------------------------- */

/* sqrt is exact to the last bit (IEEE 754), whichever instruction takes it. */
LANE_FN f32x16 sqrt16(f32x16 x) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__)
    __m256 part[2];
    memcpy(part, &x, sizeof part);
    for (int i = 0; i < 2; i++)
        part[i] = _mm256_sqrt_ps(part[i]);
    memcpy(&x, part, sizeof part);
    return x;
#elif defined(__SSE2__)
    __m128 part[4];
    memcpy(part, &x, sizeof part);
    for (int i = 0; i < 4; i++)
        part[i] = _mm_sqrt_ps(part[i]);
    memcpy(&x, part, sizeof part);
    return x;
#else
    for (int i = 0; i < LANES; i++)
        x[i] = sqrtf(x[i]);
    return x;
#endif
}

/* e^x within 1 unit in the last place. x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts, the upper of nine bits,
 * so that n times it is exact), then e^r = 1 + r + r^2 P(r): P interpolates (e^r - 1 - r)/r^2 at Chebyshev's points.
 * Results below the smallest normal number are 0, those beyond the largest Inf, and a NaN stays. */
LANE_FN f32x16 exp16(f32x16 x) {
    const float to_integer = 0x1.8p23f; /* adding it leaves the nearest integer in the low bits */
    f32x16 shifted = x * 0x1.715476p0f + to_integer;
    f32x16 n = shifted - to_integer;
    f32x16 r = (x - n * 0x1.63p-1f) - n * -0x1.bd0106p-13f;
    f32x16 p = all16(0x1.a1256cp-13f);
    p = p * r + 0x1.6d43b0p-10f;
    p = p * r + 0x1.1110e0p-7f;
    p = p * r + 0x1.5554e8p-5f;
    p = p * r + 0x1.555556p-3f;
    p = p * r + 0x1.000000p-1f;
    p = r * r * p + r + 1.0f;
    f32x16 scaled = (f32x16)((i32x16)p + ((i32x16)shifted << 23));
    scaled = pick16(x < -0x1.5d47aep6f, all16(0), scaled);       /* -87.32 */
    scaled = pick16(x > 0x1.62e42ep6f, all16(INFINITY), scaled); /* ln of the largest float */
    return pick16(x != x, x, scaled);
}

LANE_FN f32x16 sigmoid16(f32x16 x) {
    return 1.0f / (1.0f + exp16(-x));
}

/* log(1 + u) for 0 <= u <= 1: 2 artanh(s) with s = u / (2 + u) <= 1/3, by its series; the first term left out is below
 * 2^-29 of the sum. */
LANE_FN f32x16 log1p16(f32x16 u) {
    f32x16 s = u / (2.0f + u), square = s * s;
    f32x16 p = all16(1.0f / 15);
    p = p * square + 1.0f / 13;
    p = p * square + 1.0f / 11;
    p = p * square + 1.0f / 9;
    p = p * square + 1.0f / 7;
    p = p * square + 1.0f / 5;
    p = p * square + 1.0f / 3;
    return 2.0f * (s + s * square * p);
}

#endif
