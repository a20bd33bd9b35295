/* measure_avx2.c: measure_strip.inc for AVX2. */
#define STRIP nb_measure_strip_avx2
#include "backend/cpu/measure_strip.inc"
