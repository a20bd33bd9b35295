/* gla.h: gated linear attention on a GPU, in chunks, on tensor cores.
 *
 * Semantics of ni_gla, gla_forward and gla_backward in backend/arguments.h and ops.inc; the scalar reference is
 * src/backend/ref/gla.inc. All pointers are device memory, 16-byte aligned. q, k, v, o and their gradients are BF16,
 * the gate and its gradient FP32. Results have the same bits in every run: sums have a fixed order, and nothing is
 * added atomically.
 *
 * Limits: key_dim a multiple of 8 up to 256, value_dim a multiple of 8 up to 512; any batch, seq and heads whose
 * batch * heads is below 65536. A backward with value_dim over 256 needs 160 KB of shared memory a block. The documents
 * of a sequence are contiguous.
 */
#ifndef NI_CUDA_GLA_H
#define NI_CUDA_GLA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ni_cuda_gla {
    int64_t batch, seq, heads, key_dim, value_dim;
    float scale;              /* on q; 1/sqrt(key_dim) as a rule */
    const int32_t *doc_start; /* [batch, seq], device: the state is zero at the first position of a document */
    /* [1] each, device, 0, of dq, dk and dv as ni_gla has them; NULL: nobody asks. The backward fills them, those of turned
     * columns where seq is a multiple of 16. */
    uint32_t *amax[3], *turned_amax[3];
    void *
        left; /* what the forward leaves for the backward, ni_cuda_gla_chunk_bytes; NULL: the backward makes it again */
    /* Gates are made of a and bias where they are read, and da and dbias in the place of dgate (ni_gla.made). a NULL: they are
     * given. */
    const void *a, *bias;
    void *da, *dbias;
    float normalizer, clamp;
    bool rings; /* compute capability 9.0: scans by warpgroups, for shapes that they are for (gla_scan.h) */
} ni_cuda_gla;

/* 0 where the shape is beyond the limits or has no positions. */
size_t ni_cuda_gla_chunk_bytes(const ni_cuda_gla *g);
/* Scratch of one forward, or of one backward; 0 as above, and of a forward that leaves all. */
size_t ni_cuda_gla_workspace_bytes(const ni_cuda_gla *g, int backward);

/* Whether scans go by warpgroups. */
bool ni_cuda_gla_by_warpgroups(const ni_cuda_gla *g);

/* Both return a cudaError_t: of the launches, not of the work; cudaErrorInvalidValue for a shape beyond the limits.
 * `stream` is a cudaStream_t. The scratch is free again when the work is done.
 */
int ni_cuda_launch_gla_forward(const ni_cuda_gla *g, void *o, const void *q, const void *k, const void *v,
                               const void *gate, void *workspace, void *stream);
int ni_cuda_launch_gla_backward(const ni_cuda_gla *g, void *dq, void *dk, void *dv, void *dgate, const void *d_o,
                                const void *q, const void *k, const void *v, const void *gate, void *workspace,
                                void *stream);

#ifdef __cplusplus
}
#endif
#endif
