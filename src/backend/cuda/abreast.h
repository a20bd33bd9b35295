/* abreast.h: products side by side as one launch (abreast.cu): dW of layers that read one input.
 *
 *     C_i[M_i, N] (+)= alpha_i A_i B_i,    A_i [M_i, K] or [K, M_i], B_i [K, N] or [N, K], C_i in FP32
 *
 * Each alone has too few tiles for a large GPU, so that the library parts its contraction and adds up parts.
 */
#ifndef NI_BACKEND_CUDA_ABREAST_H
#define NI_BACKEND_CUDA_ABREAST_H

#include "backend/cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { NI_CUDA_ABREAST_MOST = 12 }; /* products; what describes them are a kernel's arguments, 4 KB at most */

typedef struct ni_cuda_abreast_product {
    nb_mat a, b;        /* BF16 */
    nb_mat c;           /* F32 */
    const float *alpha; /* device; NULL: 1 */
    bool add;           /* to what is in C */
} ni_cuda_abreast_product;

typedef struct ni_cuda_abreast {
    bool a_across, b_across; /* every A is [K, M], every B [K, N] */
    ni_cuda_abreast_product at[NI_CUDA_ABREAST_MOST];
    int32_t count;
} ni_cuda_abreast;

/* On compute capability 9.0 (cuda.h: ni_cuda_joins): whether addresses and strides are multiples of 16 bytes, and whether
 * tiles fill the GPU well enough that it pays. */
bool ni_cuda_can_abreast(const ni_cuda_abreast *j, int multiprocessors);
int ni_cuda_launch_abreast(void *stream, const ni_cuda_abreast *j, int multiprocessors);

#ifdef __cplusplus
}
#endif
#endif
