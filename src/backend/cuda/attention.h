/* attention.h: softmax attention on CUDA tensor cores, forward and backward (nb_attention of nibble/backend.h).
 *
 * One flash kernel forward (arXiv:2307.08691) and, backward, three: rowsum(dO * O), then dK and dV by blocks of keys,
 * then dQ by blocks of queries. Scores are computed twice for it, and in return no two blocks ever add to one number:
 * no atomics, no waiting, the same bits in every run. Query heads that share a key head are summed one after the other.
 *
 * What is rounded: q.k, dO.v and all sums are FP32; the probabilities are rounded to BF16 before they meet V and dO,
 * and ds = p (dO.v - delta), with p in FP32, before it meets K and Q. The sum under a probability is over what was not
 * rounded. Results are rounded once to BF16; lse and delta are FP32. Exponentials are ex2.approx (2 ulp).
 *
 * Works on compute capability 8.0 and up. Nothing here allocates, waits or keeps state. */
#ifndef NIBBLE_CUDA_ATTENTION_H
#define NIBBLE_CUDA_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Element (b, t, h, d) of a BF16 tensor lies at base + (b*seq + t)*stride + h*head_dim + d, so that q, k and v may be
 * parts of one buffer. Every base is 16-byte aligned, every stride a multiple of 8 elements. */
/* Documents are intervals of positions: along a sequence neither doc_start nor doc_end falls. */
typedef struct ni_cuda_attention {
    int64_t batch, seq, heads, kv_heads;
    int64_t head_dim;                               /* a multiple of 8, up to 256 */
    double scale;                                   /* on q.k; above zero */
    int64_t q_stride, k_stride, v_stride, o_stride; /* elements from one position to the next */
    const int32_t *doc_start;                       /* device [batch, seq]: first key that a query sees */
    const int32_t *doc_end; /* device [batch, seq]: one past the last query that sees a key; seq where documents are not
                               kept apart */
    int64_t documents;      /* in all; batch: doc_start is 0 everywhere; 0: not known. Our kernels do not ask */
    /* Maxima of o (forward) and of dv (dkdv), as nb_mat has them; cleared by the caller; NULL: nobody asks. Turned ones
     * are looked for where seq is a multiple of 16. */
    uint32_t *amax, *turned_amax;
} ni_cuda_attention;

/* Each returns a cudaError_t (0 = launched) and runs on the cudaStream_t `stream`. cudaErrorInvalidValue: a shape,
 * stride that does not exist; cudaErrorMisalignedAddress: a base. */

/* o like q with o_stride; lse FP32 [batch, heads, seq], in nats. */
int ni_cuda_launch_attention_forward(const ni_cuda_attention *a, void *o, float *lse, const void *q, const void *k,
                                     const void *v, void *stream);

/* dq, dk, dv have the strides of q, k, v; dout that of o. delta: scratch, FP32 [batch, heads, seq]. */
int ni_cuda_launch_attention_backward(const ni_cuda_attention *a, void *dq, void *dk, void *dv, const void *dout,
                                      const void *o, const float *lse, const void *q, const void *k, const void *v,
                                      float *delta, void *stream);

/* The three kernels of it, one by one, for who measures: delta first, then the others in any order. */
int ni_cuda_launch_attention_delta(const ni_cuda_attention *a, float *delta, const void *dout, const void *o,
                                   void *stream);
int ni_cuda_launch_attention_dkdv(const ni_cuda_attention *a, void *dk, void *dv, const void *dout, const float *lse,
                                  const float *delta, const void *q, const void *k, const void *v, void *stream);
int ni_cuda_launch_attention_dq(const ni_cuda_attention *a, void *dq, const void *dout, const float *lse,
                                const float *delta, const void *q, const void *k, const void *v, void *stream);

/* Name of the forward kernel on the current device ("d64 128x64 w4 s2"); NULL where there is none. */
const char *ni_cuda_attention_forward_tile(const ni_cuda_attention *a);

#ifdef __cplusplus
}
#endif
#endif
