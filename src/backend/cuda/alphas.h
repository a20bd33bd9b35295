/* alphas.h: products of two operands' tensor scales, for cuBLASLt's alpha, without a launch for each product.
 *
 * A table on the GPU has pairs of words and their products. A kernel that prepares an operand's scale multiplies all
 * pairs anew before it ends, so where both operands of a product were made by such kernels its alpha is there. Other
 * kernels that make operands are marked here; then the pair is multiplied by a launch of its own when it is asked for.
 */
#ifndef NI_BACKEND_CUDA_ALPHAS_H
#define NI_BACKEND_CUDA_ALPHAS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ni_cuda_factors {
    const float *a, *b;
} ni_cuda_factors;

/* As kernels take it; addresses of the device. */
typedef struct ni_cuda_alphas {
    const ni_cuda_factors *pairs; /* [count] */
    float *products;              /* [count] */
    int32_t count;
} ni_cuda_alphas;

/* alphas.cu: the pair at `at` becomes these, and its product theirs. */
int ni_cuda_launch_alpha(void *stream, ni_cuda_factors *pairs, float *products, int32_t at, const float *a,
                         const float *b);

#ifdef __cplusplus
}
#else

#include "backend/cuda/cuda.h"

/* The next `count` pairs stand beside each other: none of them is forgotten for another's sake. */
void ni_cuda_alphas_begin(nb_backend *be, int32_t count);

/* For a kernel that multiplies all pairs anew. */
ni_cuda_alphas ni_cuda_alphas_of(nb_backend *be);
/* Such a kernel is enqueued: all products are right behind it. */
void ni_cuda_alphas_multiplied(nb_backend *be);
/* Another kernel writes this word (NULL: none). */
void ni_cuda_alphas_changed(nb_backend *be, const float *word);
/* Memory goes back: no address is what it was. */
void ni_cuda_alphas_forget(nb_backend *be);
/* *alpha = where *a * *b is, for what is enqueued next. */
nb_status ni_cuda_alpha(nb_backend *be, const float *a, const float *b, const float **alpha, nb_error *err);
void ni_cuda_alphas_free(struct ni_cuda_alpha_table *table);

#endif
#endif
