/* quantize_eden.h: MS-EDEN over groups of 128 (quantize_eden.cu). */
#ifndef NI_BACKEND_CUDA_QUANTIZE_EDEN_H
#define NI_BACKEND_CUDA_QUANTIZE_EDEN_H

#include "backend/cuda/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether a copy is made here: of BF16 numbers either way, of codes down their columns, in whole tiles. */
bool ni_cuda_eden_takes(const ni_cuda_double_source *s, const nb_quantizer *q, bool columns);
int ni_cuda_quantize_eden(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns);
/* *copy->head = max(what is there, the copy's magnitudes), of a row copy, a column copy, or of numbers both. */
int ni_cuda_eden_amaxes(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                        const ni_cuda_tile_copy *column);

#ifdef __cplusplus
}
#endif
#endif
