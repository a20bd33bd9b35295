/* documents.h: packed documents as a list: how long each is and where it begins in every tensor of an attention. */
#ifndef NI_BACKEND_CUDA_DOCUMENTS_H
#define NI_BACKEND_CUDA_DOCUMENTS_H

#include "backend/cuda/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Arrays on the device, for `most` documents. Elements from the beginning of a tensor to that of a document; the entry
 * behind the last document, and those up to `most`, have the end of it. */
typedef struct ni_cuda_documents {
    int64_t most;
    int32_t *lengths;                           /* [most] positions; 0 where there is no document */
    int32_t *first;                             /* [most + 1] positions before a document, all sequences in a row */
    int64_t *from_q, *from_k, *from_v, *from_o; /* [most + 1] by the strides of the attention */
    int64_t *from_stats;                        /* [most + 1] of a tensor [batch, seq, heads] */
} ni_cuda_documents;

/* Fills them by a->doc_start; the host does not wait. More documents than `most` stop the GPU. A cudaError_t. */
int ni_cuda_launch_documents(const ni_cuda_attention *a, const ni_cuda_documents *out, void *stream);

/* FP32 numbers of rows: to [batch, heads, seq] from [batch, seq, heads], and the other way. */
int ni_cuda_launch_stats_by_head(const ni_cuda_attention *a, float *to, const float *from, void *stream);
int ni_cuda_launch_stats_by_position(const ni_cuda_attention *a, float *to, const float *from, void *stream);

#ifdef __cplusplus
}
#endif
#endif
