/* gemm_own_avx512.c: gemm_own.inc for AVX-512. */
#define NI_GEMM_OWN ni_gemm_own_avx512
#define NI_GEMM_OWN_NAME "avx512"
#include "backend/cpu/gemm_own.inc"
