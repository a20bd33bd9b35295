/* gemm_own_avx512.c: gemm_own.inc for AVX-512. */
#define NB_GEMM_OWN nb_gemm_own_avx512
#define NB_GEMM_OWN_NAME "avx512"
#include "backend/cpu/gemm_own.inc"
