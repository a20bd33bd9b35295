/* ops_avx2.c: the kernels of ops_kernels.h for AVX2 and FMA. */
#define KERNELS ni_cpu_kernels_avx2
#include "backend/cpu/ops_kernels.inc"
