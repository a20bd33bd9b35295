/* many.h: what is done to many arrays by few launches: nb_backend.square_many and clear_many. */
#ifndef NI_BACKEND_CUDA_MANY_H
#define NI_BACKEND_CUDA_MANY_H

#include "backend/cuda/list.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* At most NI_CUDA_LIST_MOST of them; partial [count, NI_CUDA_SUM_BLOCKS] doubles of scratch. Each of the sums has the bits of
 * ni_cuda_launch_sum. Both return a cudaError_t. */
int ni_cuda_launch_squares(void *stream, double *out, const void *const *x, const int64_t *n, int32_t count,
                           double *partial);
/* At most NI_CUDA_LIST_MOST, of whole words of four bytes. */
int ni_cuda_launch_clear(void *stream, void *const *at, const size_t *bytes, int32_t count);

#ifdef __cplusplus
}
#endif
#endif
