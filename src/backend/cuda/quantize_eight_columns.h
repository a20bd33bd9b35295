/* quantize_eight_columns.h: MXFP8 of what MXFP8 decodes to, down its columns (quantize_eight_columns.cu). */
#ifndef NI_BACKEND_CUDA_QUANTIZE_EIGHT_COLUMNS_H
#define NI_BACKEND_CUDA_QUANTIZE_EIGHT_COLUMNS_H

#include "backend/cuda/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows in whole blocks; not rotated; values alone. */
int ni_cuda_quantize_eight_columns(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy);

#ifdef __cplusplus
}
#endif
#endif
