/* coded.h: products whose operands stay codes, by units for 8 or for 4 bits (backend/units.h); everything else is
 * multiplied as BF16, as the name of the kernel says.
 */
#ifndef NI_BACKEND_CUDA_CODED_H
#define NI_BACKEND_CUDA_CODED_H

#include "nibble/format.h"

#ifdef __cplusplus
extern "C" {
#endif

/* coded.cu */
int ni_cuda_launch_fp8(void *stream, uint8_t *out /* [rows, cols], 8-byte aligned */, const nb_qtensor *codes);
int ni_cuda_launch_spread(void *stream, float *out, const float *word, int64_t n); /* n copies of *word */
int ni_cuda_launch_swizzle(void *stream, uint8_t *out /* ni_swizzled_bytes */, const uint8_t *scales, int64_t rows,
                           int64_t blocks);

#ifdef __cplusplus
}
#else

#include "backend/cuda/cuda.h"
#include "backend/units.h"

typedef struct ni_cuda_coded {
    nb_qtensor codes;
    const uint8_t *bytes; /* E4M3 of four-bit codes, 16-byte aligned; of MXFP4 what ni_cuda_mx_place finds there; NULL:
                             they are made for the product */
} ni_cuda_coded;

/* What multiplies such a pair on this GPU. */
ni_units ni_cuda_units_of(const ni_cuda *cuda, const nb_quantizer *a, const nb_quantizer *b);

/* The same for this product, and the scratch that it takes. */
ni_units ni_cuda_units_for(const ni_cuda *cuda, const nb_qtensor *a, const nb_qtensor *b);
size_t ni_cuda_coded_bytes(ni_units units, const nb_qtensor *a, const nb_qtensor *b);

/* C = (accumulate ? C : 0) + A B^T by units that are not BF16's; `scratch` of ni_cuda_coded_bytes, 256-byte aligned. */
nb_status ni_cuda_multiply_coded(nb_backend *be, ni_units units, const nb_mat *c, const ni_cuda_coded *a,
                                 const ni_cuda_coded *b, bool accumulate, void *scratch, nb_error *err);

/* nb_backend.mended */
int64_t ni_cuda_mended(nb_backend *be);

const char *ni_cuda_units_text(ni_units units);
/* The same where BF16 multiplies, and why no units for fewer bits do. */
const char *ni_cuda_bf16_text(const ni_cuda *cuda, const nb_quantizer *a, const nb_quantizer *b);

#endif
#endif
