/* measure_avx512.c: measure_strip.inc and measure_logits.inc for AVX-512. */
#define STRIP ni_measure_strip_avx512
#define LOGITS ni_measure_logits_avx512
#include "backend/cpu/measure_logits.inc"
#include "backend/cpu/measure_strip.inc"
