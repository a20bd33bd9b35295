/* pow2_bytes.h: operands under FP32 scales that are powers of two, for units of 8 bits (compute capability 9.0), whatever
 * a scale's place: E4M3's exponents carry it.
 *
 *     byte of a number  = E4M3(code x 2^(6 - d))     d = exponent of the largest scale - exponent of its vector's
 *     scale of them all = 2^(largest - 6)
 *
 * A vector is a row or a column. Every E2M1 number is exact in E4M3 from 2^6 down to 2^-8 times itself, so
 * a vector is exact whose d <= 14; those of zeros have no say. 8-bit codes under one scale, which may be any number, are
 * bytes as they are. The units
 * read a contraction along rows alone, so bytes lie both ways: what is read the other way is not made anew.
 *
 * Vectors that are not exact are found by the GPU, and nothing waits for it: their bytes are zeros, so that they add
 * nothing to a product, and `mend` behind the product adds what they are worth out of their codes, in FP32. It costs a
 * launch that goes home where there are none; what it did is counted. The base is free, as for MXFP4 (mx_bytes.h).
 */
#ifndef NI_BACKEND_CUDA_POW2_BYTES_H
#define NI_BACKEND_CUDA_POW2_BYTES_H

#include "nibble/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An operand as it was made, [rows, cols] in whole sixteens, and what a product reads of it. */
typedef struct ni_cuda_pow2 {
    nb_qtensor codes;
    uint8_t *bytes, *turned; /* [rows, cols], [cols, rows] */
    float *scale;            /* [1] */
    uint32_t *wide;          /* [1] how many vectors are not exact; NULL: all are */
    uint32_t *list;          /* [*wide] which ones, ascending */
} ni_cuda_pow2;

/* Room behind the codes, 64-byte aligned, and what lies where in it. */
size_t ni_cuda_pow2_room(const nb_quantizer *q, int64_t rows, int64_t cols);
ni_cuda_pow2 ni_cuda_pow2_place(const nb_qtensor *codes, void *room);

/* Bytes both ways of codes that are there, many operands a launch. */
int ni_cuda_launch_pow2_bytes(void *stream, const ni_cuda_pow2 *operands, int count);
/* 8-bit codes to nearest of BF16 numbers whose maximum is known, and their bytes both ways, from one reading. */
int ni_cuda_launch_pow2_numbers(void *stream, const ni_cuda_pow2 *to, const uint16_t *from, int64_t stride,
                                const uint32_t *amax);

/* C (F32 or BF16) += what the vectors that are not exact are worth in A B^T; *mended += how many they are. */
typedef struct ni_cuda_pow2_mend {
    nb_mat c;
    ni_cuda_pow2 a, b;
    bool a_turned, b_turned; /* the operand is [cols, rows] */
    uint32_t *mended;        /* [1] */
} ni_cuda_pow2_mend;
int ni_cuda_launch_pow2_mend(void *stream, const ni_cuda_pow2_mend *m, int multiprocessors);

/* The same before a sum of products that is one contraction (joined.h): room = what they are worth in all terms, and
 * *found is not 0; where there are none, it is, and room stays as it is. */
enum { NI_CUDA_APART_MOST = 12 };
typedef struct ni_cuda_pow2_apart {
    float *room; /* [rows, cols] */
    int64_t rows, cols;
    ni_cuda_pow2_mend terms[NI_CUDA_APART_MOST]; /* c is not read */
    int32_t count;
    uint32_t *found, *mended; /* [1] */
} ni_cuda_pow2_apart;
int ni_cuda_launch_pow2_apart(void *stream, const ni_cuda_pow2_apart *m, int multiprocessors);

#ifdef __cplusplus
}
#endif
#endif
