/* produce.h: kernels that make both operands of what they compute, under scales of the step before (ops.inc:
 * make_produced). Every launcher returns the launch's cudaError_t.
 */
#ifndef NI_BACKEND_CUDA_PRODUCE_H
#define NI_BACKEND_CUDA_PRODUCE_H

#include "backend/cuda/kernels.h"
#include "backend/cuda/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Copies here: scales have a past; the column copy is rotated by 16 under TransformerEngine's signs and rounded to BF16.
 * Matrices are dense BF16 [rows, cols], both in sixteens, addresses aligned to 16 bytes. */
typedef struct ni_cuda_swiglu_tiles {
    const uint16_t *gate, *up, *dy; /* dy: of slopes */
    uint16_t *y, *dgate, *dup;      /* NULL: nobody reads the numbers */
    int64_t rows, cols;
} ni_cuda_swiglu_tiles;

/* room: NI_CUDA_TILE_ROOM bytes a matrix. y to nearest; slopes stochastic, 8 bits. */
int ni_cuda_produce_swiglu(void *stream, void *room, const ni_cuda_swiglu_tiles *s, const ni_cuda_both_copies *to);
int ni_cuda_produce_swiglu_slopes(void *stream, void *room, const ni_cuda_swiglu_tiles *s,
                                  const ni_cuda_both_copies to[2]);

/* norm->y may be NULL: nobody reads the numbers; `add` is none, nobody asks for maxima. To nearest. */
bool ni_cuda_produces_norm(int64_t rows, int64_t dim);
int ni_cuda_produce_norm(void *stream, void *room, const ni_cuda_norm *norm, const ni_cuda_both_copies *to);

/* Three matrices, of which the first two may be turned by RoPE first: in place, where somebody reads the numbers. Scales may be
 * of the maxima at hand. Stochastic, 8 bits. */
typedef struct ni_cuda_turned_tiles {
    uint16_t *x[3];
    int64_t rows, cols[3];
    bool turns, kept[3];
    const int32_t *positions; /* [rows] */
    ni_cuda_angles by;
} ni_cuda_turned_tiles;
bool ni_cuda_produces_turned(int64_t head_dim);
int ni_cuda_produce_turned(void *stream, void *rooms, const ni_cuda_turned_tiles *s, const ni_cuda_both_copies to[3]);

#ifdef __cplusplus
}
#endif
#endif
