/* finish.h: the end of a product whose scales are of rows (finish.cu). */
#ifndef NI_BACKEND_CUDA_FINISH_H
#define NI_BACKEND_CUDA_FINISH_H

#include "backend/cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ni_cuda_finish {
    uint16_t *out; /* BF16 [rows_count, cols] */
    int64_t out_stride;
    const float *sum; /* [rows_count, cols], bare */
    int64_t rows_count, cols;
    ni_cuda_outer rows, columns;
    ni_sparse sparse;        /* [rows_count, depth]; count NULL: nothing is added */
    const uint16_t *weights; /* BF16 [cols, depth], times weight_scales [cols] */
    const float *weight_scales;
    int64_t depth;
} ni_cuda_finish;

bool ni_cuda_can_finish(const ni_cuda_finish *f);
int ni_cuda_launch_finish(void *stream, const ni_cuda_finish *f, int multiprocessors);

#ifdef __cplusplus
}
#endif
#endif
