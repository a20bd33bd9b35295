/* measure_avx2.c: measure_strip.inc and measure_logits.inc for AVX2. */
#define STRIP ni_measure_strip_avx2
#define LOGITS ni_measure_logits_avx2
#include "backend/cpu/measure_logits.inc"
#include "backend/cpu/measure_strip.inc"
