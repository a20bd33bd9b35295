/* measure_avx512.c: measure_strip.inc for AVX-512. */
#define STRIP nb_measure_strip_avx512
#include "backend/cpu/measure_strip.inc"
