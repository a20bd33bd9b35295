/* parted.h: products side by side, whose contraction is long and whose tiles are few (parted.cu): dW of layers that read
 * one input.
 *
 *     C_i[M_i, N_i] (+)= alpha_i A_i^T B_i,    A_i [K, M_i], B_i [K, N_i] in BF16, C_i in FP32
 *
 * No two products write one number.
 *
 * The library gives each a launch, cuts its contraction where tiles do not fill the GPU, and adds up the parts.
 */
#ifndef NI_BACKEND_CUDA_PARTED_H
#define NI_BACKEND_CUDA_PARTED_H

#include "backend/cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { NI_CUDA_PARTED_MOST = 10 }; /* products; what describes them are a kernel's arguments, 4 KB at most */
enum { NI_CUDA_PARTED_FLAGS = 2048 };

typedef struct ni_cuda_parted_product {
    nb_mat a, b;        /* BF16 */
    nb_mat c;           /* F32, its first columns */
    int64_t cols;       /* N; one more than B has where that is odd: C has room for it, and nobody reads it */
    const float *alpha; /* device; NULL: 1 */
    bool add;           /* to what is in C */
} ni_cuda_parted_product;

typedef struct ni_cuda_parted {
    ni_cuda_parted_product at[NI_CUDA_PARTED_MOST];
    int32_t count;
    bool deep;    /* tiles may be cut into more parts: where the library would give each product launches of its own */
    float *parts; /* device, scratch: ni_cuda_parted_bytes */
    uint32_t *flags; /* [NI_CUDA_PARTED_FLAGS] device, zero before and after */
} ni_cuda_parted;

/* On compute capability 9.0 (cuda.h: ni_cuda_joins): whether addresses, strides and sizes suit, and no tile has so many
 * parts that adding them up costs what is won. */
bool ni_cuda_can_part(const ni_cuda_parted *j, int multiprocessors);
/* Of sums C. */
size_t ni_cuda_parted_bytes(const ni_cuda_parted *j, int multiprocessors);
int ni_cuda_launch_parted(void *stream, const ni_cuda_parted *j, int multiprocessors);

#ifdef __cplusplus
}
#endif
#endif
