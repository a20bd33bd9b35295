/* quantize_avx2.c: the quantize kernels of quantize_band.inc for AVX2. */
#include "backend/cpu/cpu.h"

#if NB_X86
#define NB_QUANTIZE_KERNELS nb_quantize_avx2
#include "backend/cpu/quantize_band.inc"
#else
typedef int nb_quantize_avx2_is_for_x86;
#endif
