/* rows.h: every operation of the table on the GPU: ni_cuda_NAME. */
#ifndef NI_BACKEND_CUDA_ROWS_H
#define NI_BACKEND_CUDA_ROWS_H

#include "backend/cuda/cuda.h"

#define NI_OP_MEMORY(type, name, arguments) type ni_cuda_##name arguments;
#define NI_OP_TYPED(type, name, arguments) type ni_cuda_##name arguments;
#define NI_OP_PLAIN(type, name, arguments) type ni_cuda_##name arguments;
#include "backend/ops.inc"

nb_status ni_cuda_multiply_many(nb_backend *be, const ni_sum *products, int32_t count,
                                nb_error *err); /* nb_backend's, as the others */
void ni_cuda_square_many(nb_backend *be, double *out, const void *const *x, const int64_t *n, int32_t count);
void ni_cuda_clear_many(nb_backend *be, void *const *at, const size_t *bytes, int32_t count);

#endif
