/* mx_bytes.h: MXFP4 for units of 8 bits (compute capability 9.0), which know scales of rows and not of blocks.
 *
 *     byte of a number  = E4M3(code x 2^(6 - d))     d = exponent of the row's largest scale - exponent of its block's
 *     scale of the row  = 2^(largest - 6), times the tensor's
 *
 * Every E2M1 number is exact in E4M3 from 2^6 down to 2^-8 times itself, so that a row is exact whose blocks (but for
 * those of zeros) have d <= 14. The others are decided by the GPU, row by row, and nothing waits for it: such a row
 * gets the scale 0, so that it adds nothing to a product, and `mend` behind the product adds its sums out of the codes,
 * in FP32, for the rows that are on a list. It costs a launch that goes home where there is none; what it did is counted.
 * The base of a row is free: sums are cut relative to their largest addend, so another power of two gives the same bits.
 */
#ifndef NI_BACKEND_CUDA_MX_BYTES_H
#define NI_BACKEND_CUDA_MX_BYTES_H

#include "nibble/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a product reads of one operand, side by side in ni_cuda_mx_bytes of memory, 256-byte aligned. */
typedef struct ni_cuda_mx_rows {
    uint8_t *bytes; /* [rows, cols] */
    float *scales;  /* [rows]; 0: not exact */
    uint32_t *wide; /* [1] how many rows are not */
    uint32_t *list; /* [*wide] which ones, in any order; room for [rows] */
} ni_cuda_mx_rows;

static inline size_t ni_cuda_mx_rounded(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

static inline size_t ni_cuda_mx_bytes(int64_t rows, int64_t cols) {
    return ni_cuda_mx_rounded((size_t)(rows * cols)) + 2 * ni_cuda_mx_rounded((size_t)rows * sizeof(float)) + 256;
}

static inline ni_cuda_mx_rows ni_cuda_mx_place(void *memory, int64_t rows, int64_t cols) {
    char *const scales = (char *)memory + ni_cuda_mx_rounded((size_t)(rows * cols));
    char *const wide = scales + ni_cuda_mx_rounded((size_t)rows * sizeof(float));
    ni_cuda_mx_rows r = {(uint8_t *)memory, (float *)(void *)scales, (uint32_t *)(void *)wide,
                         (uint32_t *)(void *)(wide + 256)};
    return r;
}

/* Of canonical codes: E2M1 under E8M0 scales of 32; codes 16-byte aligned. */
typedef struct ni_cuda_mx_making {
    ni_cuda_mx_rows to;
    nb_qtensor codes;
    bool cleared; /* *to.wide is 0 */
} ni_cuda_mx_making;
int ni_cuda_launch_mx_bytes(void *stream, const ni_cuda_mx_making *makings, int count /* 1 or 2 */);

/* C (F32 or BF16) += A B^T where the row of A or that of B is not exact; *mended += the rows of both. */
typedef struct ni_cuda_mend {
    nb_mat c;
    nb_qtensor a, b;
    ni_cuda_mx_rows of_a, of_b;
    uint32_t *mended; /* [1] */
} ni_cuda_mend;
int ni_cuda_launch_mend(void *stream, const ni_cuda_mend *m, int multiprocessors);

#ifdef __cplusplus
}
#endif
#endif
