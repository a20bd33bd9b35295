/* ops_portable.c: the kernels of ops_kernels.h for whatever the compiler takes for granted. */
#define KERNELS ni_cpu_kernels_portable
#include "backend/cpu/ops_kernels.inc"
