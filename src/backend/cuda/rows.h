/* rows.h: every operation of the table on the GPU: nb_cuda_NAME. */
#ifndef NB_BACKEND_CUDA_ROWS_H
#define NB_BACKEND_CUDA_ROWS_H

#include "backend/cuda/cuda.h"

#define NB_OP_MEMORY(type, name, arguments) type nb_cuda_##name arguments;
#define NB_OP_TYPED(type, name, arguments) type nb_cuda_##name arguments;
#define NB_OP_PLAIN(type, name, arguments) type nb_cuda_##name arguments;
#include "backend/ops.inc"

#endif
