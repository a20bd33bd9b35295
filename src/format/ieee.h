/* ieee.h: single FP32 operations, each rounded once to nearest even, and the bits of a float.
 *
 * The quantizers are defined operation by operation (docs/formats.md). On the CPU contraction is off for every file;
 * device code spells the intrinsics, so that nvcc cannot fuse either.
 */
#ifndef NI_FORMAT_IEEE_H
#define NI_FORMAT_IEEE_H

#include "base/philox.h" /* NI_HD */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define NI_F32_MAX_BITS 0x7f7fffffu
#define NI_F32_INF_BITS 0x7f800000u
#define NI_F32_MAGNITUDE 0x7fffffffu

static inline NI_HD uint32_t ni_f32_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline NI_HD float ni_f32_from(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* |x| as an integer: ordered like the magnitudes, with NaN above Inf. The integer maximum of these is what we call
 * amax: it does not depend on the order, and NaN wins. */
static inline NI_HD uint32_t ni_f32_magnitude(float x) {
    return ni_f32_bits(x) & NI_F32_MAGNITUDE;
}

static inline NI_HD float ni_f32_abs(float x) {
    return ni_f32_from(ni_f32_magnitude(x));
}

static inline NI_HD int ni_f32_is_nan(float x) {
    return ni_f32_magnitude(x) > NI_F32_INF_BITS;
}

static inline NI_HD float ni_f32_add(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}

static inline NI_HD float ni_f32_sub(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fsub_rn(a, b);
#else
    return a - b;
#endif
}

static inline NI_HD float ni_f32_mul(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

static inline NI_HD float ni_f32_div(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fdiv_rn(a, b);
#else
    return a / b;
#endif
}

static inline NI_HD float ni_f32_sqrt(float a) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(a);
#else
    return sqrtf(a);
#endif
}

/* Inf becomes the largest finite float; NaN stays. By its bits: where `x > FLT_MAX`, gcc 13.3 believes that a quotient
 * x had a divisor of zero, and so scales of tensors whose amax is far below 1e-30 became those of zeros. */
static inline NI_HD float ni_f32_finite(float x) {
    return ni_f32_bits(x) == NI_F32_INF_BITS ? ni_f32_from(NI_F32_MAX_BITS) : x;
}

/* One NaN for all: scales that are stored must not carry a payload that depends on who computed them. */
static inline NI_HD float ni_f32_canonical(float x) {
    return ni_f32_is_nan(x) ? ni_f32_from(0x7fc00000u) : x;
}

#endif
