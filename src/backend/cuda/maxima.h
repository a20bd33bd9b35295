/* maxima.h: words of maxima that are cleared before they are filled (maxima.c). */
#ifndef NI_BACKEND_CUDA_MAXIMA_H
#define NI_BACKEND_CUDA_MAXIMA_H

#include "backend/cuda/cuda.h"

/* nb_backend.clear_maxima */
void ni_cuda_clear_maxima(nb_backend *be, void *words, size_t bytes);
/* For who calls a launcher that takes the larger of what it finds and of what is there: both words are 0 for it (NULL:
 * nobody asks). Returns a cudaError_t. */
int ni_cuda_begin_maxima(nb_backend *be, uint32_t *amax, uint32_t *turned);
/* Memory goes back: no address is what it was. */
void ni_cuda_maxima_forget(nb_backend *be);
void ni_cuda_maxima_free(struct ni_cuda_maxima *maxima);

#endif
