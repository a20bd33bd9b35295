/* gemm_own_avx2.c: gemm_own.inc for AVX2. */
#define NB_GEMM_OWN nb_gemm_own_avx2
#define NB_GEMM_OWN_NAME "avx2"
#include "backend/cpu/gemm_own.inc"
