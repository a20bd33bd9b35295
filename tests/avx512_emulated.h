/* avx512_emulated.h: the AVX-512 kernels on a processor without AVX-512, by SIMDe (Debian's libsimde-dev).
 *
 * `make avx512` puts this header before every *_avx512.c, so that anybody can run the tests of the kernels that only
 * some processors have. It is slow and for tests alone. SIMDe writes each instruction out in plain C; those that
 * Debian's version lacks are written out here, as Intel's manual has them.
 */
#ifndef NI_TESTS_AVX512_EMULATED_H
#define NI_TESTS_AVX512_EMULATED_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <stdint.h>

/* SIMDe decides by the macro whether it emulates; from here on it decides what our own headers do. */
#define __AVX512F__ 1
#define __m512 simde__m512
#define __m512i simde__m512i

typedef float ni_16f32 __attribute__((vector_size(64)));
typedef int32_t ni_16i32 __attribute__((vector_size(64)));
typedef uint32_t ni_16u32 __attribute__((vector_size(64)));
typedef uint16_t ni_32u16 __attribute__((vector_size(64)));
typedef uint8_t ni_32u8 __attribute__((vector_size(32)));
typedef uint16_t ni_16u16 __attribute__((vector_size(32)));

#define NI_EMULATED static inline __attribute__((always_inline, unused))

NI_EMULATED __m512 ni_cvtepi32_ps(__m512i a) {
    return (__m512) __builtin_convertvector((ni_16i32)a, ni_16f32);
}

NI_EMULATED __m512i ni_cvtepu8_epi16(__m256i a) {
    return (__m512i) __builtin_convertvector((ni_32u8)a, ni_32u16);
}

NI_EMULATED __m512i ni_cvtepu16_epi32(__m256i a) {
    return (__m512i) __builtin_convertvector((ni_16u16)a, ni_16u32);
}

NI_EMULATED uint32_t ni_reduce_max_epu32(__m512i a) {
    ni_16u32 x = (ni_16u32)a;
    uint32_t most = x[0];
    for (int i = 1; i < 16; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

NI_EMULATED __m256 ni_upper_half(__m512 a) {
    return ((const __m256 *)&a)[1];
}

NI_EMULATED __m512 ni_cvtph_ps(__m256i a) {
    __m256 halves[2] = {_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
    __m512 whole;
    __builtin_memcpy(&whole, halves, sizeof whole);
    return whole;
}

/* SIMDe multiplies and adds, in two roundings. */
NI_EMULATED __m512 ni_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    __m256 x[2], y[2], z[2];
    __builtin_memcpy(x, &a, sizeof a);
    __builtin_memcpy(y, &b, sizeof b);
    __builtin_memcpy(z, &c, sizeof c);
    for (int i = 0; i < 2; i++)
        z[i] = _mm256_fmadd_ps(x[i], y[i], z[i]);
    __builtin_memcpy(&c, z, sizeof c);
    return c;
}

/* To nearest, ties to even: the only rounding that the kernels ask for. */
NI_EMULATED __m256i ni_cvtps_ph(__m512 a) {
    __m256 halves[2];
    __builtin_memcpy(halves, &a, sizeof halves);
    return _mm256_set_m128i(_mm256_cvtps_ph(halves[1], _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(halves[0], _MM_FROUND_TO_NEAREST_INT));
}

#undef _mm512_fmadd_ps
#undef _mm512_cvtps_ph
#undef _mm512_extractf32x8_ps
#define _mm512_cvtepi32_ps(a) ni_cvtepi32_ps(a)
#define _mm512_cvtepu8_epi16(a) ni_cvtepu8_epi16(a)
#define _mm512_cvtepu16_epi32(a) ni_cvtepu16_epi32(a)
#define _mm512_reduce_max_epu32(a) ni_reduce_max_epu32(a)
#define _mm512_cvtph_ps(a) ni_cvtph_ps(a)
#define _mm512_fmadd_ps(a, b, c) ni_fmadd_ps(a, b, c)
#define _mm512_cvtps_ph(a, rounding) ni_cvtps_ph(a)
#define _mm512_extractf32x8_ps(a, half) ni_upper_half(a)

#endif
