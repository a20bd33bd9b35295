/* quantize_four_six.h: Four Over Six of BF16 numbers in rows of 16 (quantize_four_six.cu). */
#ifndef NI_BACKEND_CUDA_QUANTIZE_FOUR_SIX_H
#define NI_BACKEND_CUDA_QUANTIZE_FOUR_SIX_H

#include "backend/cuda/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether this copy is made here: by sums of squares or magnitudes, to nearest or by eight random bits; rows are not turned,
 * columns not or by TransformerEngine's signs. */
bool ni_cuda_four_six_takes(const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns);
/* Either may be NULL. Their maxima are known. */
int ni_cuda_quantize_four_six(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                              const ni_cuda_tile_copy *column);

#ifdef __cplusplus
}
#endif
#endif
