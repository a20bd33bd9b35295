/* staging.h: memory of the host that the GPU copies from by itself (staging.c). */
#ifndef NI_BACKEND_CUDA_STAGING_H
#define NI_BACKEND_CUDA_STAGING_H

#include "backend/cuda/cuda.h"

/* `bytes` as they are now, where a copy that is queued next may read them at any later time; `from` itself where they do not
 * fit, from which the driver takes them before the copy's call returns. */
const void *ni_cuda_staged(ni_cuda *cuda, const void *from, size_t bytes);
void ni_cuda_staging_free(struct ni_cuda_staging *staging);

#endif
