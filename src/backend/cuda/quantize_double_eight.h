/* quantize_double_eight.h: MXFP8 down columns, as OutControl reads dY and X for dW. */
#ifndef NI_BACKEND_CUDA_QUANTIZE_DOUBLE_EIGHT_H
#define NI_BACKEND_CUDA_QUANTIZE_DOUBLE_EIGHT_H

#include "backend/cuda/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Double blocks of BF16 numbers and MXFP8, not rotated, of the same, from one reading: columns as quantize_double takes
 * them, of both values alone. */
int ni_cuda_quantize_double_and_eight(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy,
                                      const ni_cuda_tile_copy *eight);
/* MXFP8 of what MXFP8 decodes to, down its columns, not rotated: values alone (quantize_eight_columns.cu). */
int ni_cuda_quantize_eight_columns(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy);

#ifdef __cplusplus
}
#endif
#endif
