/* joined.h: a sum of products as one contraction (joined.cu): dX of layers that read one input.
 *
 *     C[M, N] = sum over terms of alpha A B,    A [M, K] with rows of K, B [K, N] or [N, K], FP32 sums, rounded once
 *
 * The library has one alpha for a product, so a sum of products under tensor scales of their own is as many launches of
 * it, an FP32 matrix that all but the first add to, and a cast.
 */
#ifndef NI_BACKEND_CUDA_JOINED_H
#define NI_BACKEND_CUDA_JOINED_H

#include "backend/cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { NI_CUDA_JOINED_MOST = 12 }; /* terms; what describes them are a kernel's arguments, 4 KB at most */

typedef struct ni_cuda_joined_term {
    nb_mat a, b;         /* BF16; bytes: A E4M3 or E5M2, B E4M3 */
    const float *alpha;  /* device; NULL: 1 */
    const float *second; /* bytes: the scale of B; then alpha is that of A, and neither is NULL */
} ni_cuda_joined_term;

typedef struct ni_cuda_joined {
    nb_mat c;    /* BF16 */
    bool across; /* every B is [K, N], else every B is [N, K] */
    ni_cuda_joined_term terms[NI_CUDA_JOINED_MOST];
    int32_t count;
    float *room;           /* [M, N]: for sums under scales so far apart that one FP32 number cannot hold both */
    const uint32_t *found; /* bytes: where it is not 0, C begins with what stands in `room`; NULL: it is not read */
} ni_cuda_joined;

/* On compute capability 9.0 (cuda.h: ni_cuda_joins): whether all terms are of one type and addresses and strides are
 * multiples of 16 bytes; of bytes too. */
bool ni_cuda_can_join(const ni_cuda_joined *j);
int ni_cuda_launch_joined(void *stream, const ni_cuda_joined *j, int multiprocessors);

/* joined_bytes.cu: the same of bytes, every B [N, K]; sums are cut as those of all units for 8 bits are (units.h). */
int ni_cuda_launch_joined_bytes(void *stream, const ni_cuda_joined *j, int multiprocessors);

#ifdef __cplusplus
}
#endif
#endif
