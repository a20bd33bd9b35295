/* quantize_remade.h: double blocks made anew of codes, the other way up, many a launch (quantize_remade.cu). */
#ifndef NI_BACKEND_CUDA_QUANTIZE_REMADE_H
#define NI_BACKEND_CUDA_QUANTIZE_REMADE_H

#include "backend/cuda/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Values alone of an operand [cols, rows] of the source [rows, cols]: of double blocks, or of a matrix of which MXFP8 has
 * some columns and double blocks the others. Rows and columns in 128s. */
typedef struct ni_cuda_remade {
    int64_t rows, cols;
    nb_qtensor doubles, eights; /* eights: codes NULL where the former has all columns */
    const int32_t *places;      /* ni_parts.places, of eights (0) and doubles (1); NULL likewise */
    ni_cuda_tile_copy copy;     /* without codes */
} ni_cuda_remade;
/* NI_CUDA_REMADE at most, which are alike: under one quantizer and clock, in parts or not. */
enum { NI_CUDA_REMADE = 32 };
bool ni_cuda_remade_alike(const ni_cuda_remade *a, const ni_cuda_remade *b);
int ni_cuda_quantize_remade(void *stream, const ni_cuda_remade *list, int count);

#ifdef __cplusplus
}
#endif
#endif
