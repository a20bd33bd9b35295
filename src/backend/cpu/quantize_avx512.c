/* quantize_avx512.c: the quantize kernels of quantize_band.inc for AVX-512. */
#include "backend/cpu/cpu.h"

#if NI_X86
#define NI_QUANTIZE_KERNELS ni_quantize_avx512
#include "backend/cpu/quantize_band.inc"
#else
typedef int ni_quantize_avx512_is_for_x86;
#endif
