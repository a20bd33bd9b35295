/* quantize_split.h: operands of chosen columns (quantize_split.cu). */
#ifndef NI_BACKEND_CUDA_QUANTIZE_SPLIT_H
#define NI_BACKEND_CUDA_QUANTIZE_SPLIT_H

#include "backend/cuda/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Columns of two lists, from one reading of the matrix: those of one in MXFP8, those of the other in double blocks, both
 * to nearest, not rotated, with codes, each a whole operand; zeros behind a list fill its last block up. Without a list
 * MXFP8 of all columns; double blocks have one. Operands are 32 and 128 columns wide or multiples of these; rows begin at
 * multiples of 16 bytes, and so do lists. */
typedef struct ni_cuda_split {
    nb_mat numbers; /* F32 or BF16 */
    ni_columns of_eight, of_four;
    int64_t eights, doubles; /* columns of the operands; 0: there is no such operand */
    ni_cuda_tile_copy eight, four;
} ni_cuda_split;
/* Whether a row of the matrix has room in shared memory. */
bool ni_cuda_split_fits(const nb_mat *x);
/* Those of `count` matrices of one type, NI_CUDA_SPLITS at most, that fit; `multiprocessors`: to keep at work. */
enum { NI_CUDA_SPLITS = 16 };
int ni_cuda_quantize_splits(void *stream, const ni_cuda_split *splits, int count, int multiprocessors);

#ifdef __cplusplus
}
#endif
#endif
