/* quantize_portable.c: the quantize kernels of quantize_band.inc for any machine. */

#define NI_QUANTIZE_KERNELS ni_quantize_portable
#include "backend/cpu/quantize_band.inc"
