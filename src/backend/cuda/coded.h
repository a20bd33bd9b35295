/* coded.h: products whose operands stay codes, by units for 8 or for 4 bits; everything else is multiplied as BF16.
 *
 *     FP8      compute capability 9.0; both operands under one scale a row, one a tensor, or none; elements that E4M3
 *              (or E5M2) holds exactly. FP32 sums of 128 products each (fast accumulation off) times the scales of row
 *              and column. 128 products of 4-bit codes are summed exactly (but for E2M1 beyond 4096, where nearly all
 *              are 6 by 6); those of 8-bit codes are cut to 13 bits behind the largest, and only multiplied so where a
 *              run says fp8_units: all. tests/backends/fp8_units.h has it to the bit
 *     FP8_MX   the same where a run says fp8_units: mxfp4; E2M1 under E8M0 scales of 32, both operands; sums are cut
 *     FP8_POW2 the same where a run says fp8_units: all; E2M1 under powers of two a row or a column, one of them along the
 *              contraction or the other side E4M3 or E5M2 under a power of two; sums are cut
 *     NVFP4    compute capability 10.0, 10.3, 12.0; E2M1 under E4M3 scales of 16, and one of the tensor, in alpha
 *     MXFP4    the same; E2M1 under E8M0 scales of 32
 *
 * The choice is static: by the pair of quantizers and what the run permits. FP8 needs N and K that divide by 16, 4 bits
 * by 32; other shapes go through BF16, as the name of the kernel says.
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

typedef enum ni_cuda_units {
    NI_CUDA_BF16,
    NI_CUDA_FP8,
    NI_CUDA_FP8_MX,   /* MXFP4 by units for 8 bits (mx_bytes.h) */
    NI_CUDA_FP8_POW2, /* scales that are powers of two, on whichever side of the sum (pow2_bytes.h) */
    NI_CUDA_NVFP4,
    NI_CUDA_MXFP4
} ni_cuda_units;

typedef struct ni_cuda_coded {
    nb_qtensor codes;
    const uint8_t *bytes; /* E4M3 of four-bit codes, 16-byte aligned; of MXFP4 what ni_cuda_mx_place finds there; NULL:
                             they are made for the product */
} ni_cuda_coded;

/* What multiplies such a pair on this GPU. */
ni_cuda_units ni_cuda_units_of(const ni_cuda *cuda, const nb_quantizer *a, const nb_quantizer *b);

/* The same for this product, and the scratch that it takes. */
ni_cuda_units ni_cuda_units_for(const ni_cuda *cuda, const nb_qtensor *a, const nb_qtensor *b);
size_t ni_cuda_coded_bytes(ni_cuda_units units, const nb_qtensor *a, const nb_qtensor *b);

/* C = (accumulate ? C : 0) + A B^T by units that are not BF16's; `scratch` of ni_cuda_coded_bytes, 256-byte aligned. */
nb_status ni_cuda_multiply_coded(nb_backend *be, ni_cuda_units units, const nb_mat *c, const ni_cuda_coded *a,
                                 const ni_cuda_coded *b, bool accumulate, void *scratch, nb_error *err);

/* nb_backend.mended */
int64_t ni_cuda_mended(nb_backend *be);

const char *ni_cuda_units_text(ni_cuda_units units);
/* The same where BF16 multiplies, and why no units for fewer bits do. */
const char *ni_cuda_bf16_text(const ni_cuda *cuda, const nb_quantizer *a, const nb_quantizer *b);

#endif
#endif
