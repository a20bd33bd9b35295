/* ops_avx512.c: the kernels of ops_kernels.h for AVX-512. */
#define KERNELS ni_cpu_kernels_avx512
#include "backend/cpu/ops_kernels.inc"
