/* quantize_portable.c: the quantize kernels of quantize_band.inc for any machine. */

#define NB_QUANTIZE_KERNELS nb_quantize_portable
#include "backend/cpu/quantize_band.inc"
