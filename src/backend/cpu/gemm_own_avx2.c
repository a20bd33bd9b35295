/* gemm_own_avx2.c: gemm_own.inc for AVX2. */
#define NI_GEMM_OWN ni_gemm_own_avx2
#define NI_GEMM_OWN_NAME "avx2"
#include "backend/cpu/gemm_own.inc"
