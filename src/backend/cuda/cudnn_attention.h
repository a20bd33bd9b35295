/* cudnn_attention.h: which attentions go to cuDNN, and their plans. */
#ifndef NI_BACKEND_CUDA_CUDNN_ATTENTION_H
#define NI_BACKEND_CUDA_CUDNN_ATTENTION_H

#include "backend/cuda/attention.h"
#include "backend/cuda/cuda.h"
#include "backend/cuda/cudnn.h"

/* The plan of one pass, made where it is asked for first. NULL: our kernel runs, and *why says in a few words why: a
 * text that lives until the next call. Asked only where the run permits any order of sums. */
const ni_cudnn_plan *ni_cuda_cudnn_plan(nb_backend *be, const ni_cuda_attention *a, bool backward, const char **why);

/* The version of the library that is open: 91900 is 9.19.0; 0 where none is. */
size_t ni_cuda_cudnn_version(const ni_cuda *cuda);

/* Bytes of scratch of a pass. */
size_t ni_cuda_cudnn_scratch(const ni_cuda_attention *a, const ni_cudnn_plan *plan, bool backward);

/* q, k, v, o and gradients as in attention.h; `room` are the scratch bytes, 256-byte aligned. */
nb_status ni_cuda_cudnn_forward(nb_backend *be, const ni_cuda_attention *a, const ni_cudnn_plan *plan, void *o,
                                float *lse, const void *q, const void *k, const void *v, void *room, nb_error *err);
nb_status ni_cuda_cudnn_backward(nb_backend *be, const ni_cuda_attention *a, const ni_cudnn_plan *plan, void *dq,
                                 void *dk, void *dv, const void *dout, const void *o, const float *lse, const void *q,
                                 const void *k, const void *v, void *room, nb_error *err);

void ni_cuda_cudnn_free(struct ni_cuda_cudnn *state);

#endif
