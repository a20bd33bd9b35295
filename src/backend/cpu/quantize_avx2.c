/* quantize_avx2.c: the quantize kernels of quantize_band.inc for AVX2. */
#include "backend/cpu/cpu.h"

#if NI_X86
#define NI_QUANTIZE_KERNELS ni_quantize_avx2
#include "backend/cpu/quantize_band.inc"
#else
typedef int ni_quantize_avx2_is_for_x86;
#endif
