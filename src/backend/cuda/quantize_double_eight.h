/* quantize_double_eight.h: two column copies of one matrix, from one reading (quantize_double_eight.cu). */
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

#ifdef __cplusplus
}
#endif
#endif
