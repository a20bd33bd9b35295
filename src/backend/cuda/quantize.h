/* quantize.h: launchers of the quantizers. Addresses are the device's unless a comment says host; every launcher
 * returns the launch's cudaError_t.
 *
 * A quantization has four stages, each a kernel: load (a source becomes FP32 in the operand's orientation, gathered,
 * scaled, less what another operand decodes to), rotate, maximum, encode. Where a faster kernel knows how to do all at
 * once it is asked first (quantize_tile.cu); its bits are the same.
 */
#ifndef NI_BACKEND_CUDA_QUANTIZE_H
#define NI_BACKEND_CUDA_QUANTIZE_H

#include "backend/arguments.h"
#include "backend/cuda/alphas.h"
#include "base/philox.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The random bits of one quantization: nb_noise, with step and micro-batch as words of device memory. */
typedef struct ni_cuda_noise {
    uint32_t seed, tensor, signs;
    const uint32_t *clock; /* [2] step, micro-batch; NULL where no bits are drawn */
} ni_cuda_noise;

/* The source's element (r, c), r < rows, c < cols of the source, after gathering. */
typedef struct ni_cuda_source {
    nb_mat numbers;   /* data NULL: `codes` */
    bool across;      /* numbers are stored [cols, rows] */
    nb_qtensor codes; /* decoded exactly */
    nb_qtensor minus; /* subtracted; codes NULL: nothing */
    const int32_t *columns;
    const float *row_scales, *column_scales; /* of source rows and (gathered) columns; NULL: 1 */
    int64_t rows, cols;
    int64_t zeros; /* so many of the last columns */
} ni_cuda_source;

/* x [rows, cols] FP32 = the source; with `transpose` x is [source cols, source rows]. */
int ni_cuda_load_source(void *stream, float *x, const ni_cuda_source *source, bool transpose);

/* Rotates groups of q->hadamard_size neighbours in place, and rounds to BF16 where q says so. */
int ni_cuda_rotate(void *stream, float *x, int64_t rows, int64_t cols, const nb_quantizer *q,
                   const ni_cuda_noise *noise);

/* *amax = max(*amax, largest magnitude) as bits; the caller clears it. */
int ni_cuda_amax(void *stream, uint32_t *amax, const float *x, int64_t n);

/* *head = the bits of ni_delayed_amax(*past, headroom) */
int ni_cuda_delayed_amax(void *stream, uint32_t *head, const float *past, float headroom);

/* Codes of x [rows, cols], into columns [at, at + cols) of `out`, and the values that a product reads. */
typedef struct ni_cuda_encoding {
    const float *x;
    int64_t rows, cols;
    nb_quantizer quantizer;
    nb_qtensor out; /* codes may be NULL: only values are wanted */
    int64_t at;
    uint16_t *values; /* BF16 [rows, value_stride], from column `at` on: code x inner scale; NULL: none */
    int64_t value_stride;
    uint32_t *amax; /* [1] of the tensor, or scratch [rows] or [cols] for scales of rows and columns, cleared */
    ni_cuda_noise noise;
} ni_cuda_encoding;
int ni_cuda_encode(void *stream, const ni_cuda_encoding *e);

/* ---- at once (quantize_tile.cu): NVFP4 under a tensor scale, rows and columns in whole sixteens, addresses aligned to
 * 16 bytes and strides to eight elements ---- */

typedef struct ni_cuda_tile_source {
    const uint16_t *numbers; /* BF16 [rows, cols] */
    int64_t rows, cols, stride;
} ni_cuda_tile_source;

/* One copy of it. The row copy may be a piece of an operand; the column copy is a whole operand of [cols, rows] whose
 * values lie as the source lies. */
typedef struct ni_cuda_tile_copy {
    nb_quantizer quantizer;
    uint16_t *values;    /* NULL: codes alone are wanted, of blocks under a rule of their own */
    int64_t stride;      /* of values; of the row copy also of codes (columns) */
    int64_t at;          /* first column, row copy */
    int64_t contraction; /* columns of the operand, column copy */
    uint8_t *codes;      /* canonical; NULL: nobody asks */
    uint8_t *scales;
    float *outer_scales;  /* of a double block */
    float *tensor_scale;  /* [1], NULL where there is none */
    const uint32_t *amax; /* [1] of the tensor, rotated as the copy is; NULL where there is no tensor scale */
    uint32_t *head;       /* *head = *amax, for who is made under this operand; NULL: it is there */
    bool under;           /* the maximum is another tensor's */
    const float *past;    /* [1] the scale is made from ni_delayed_amax of it, and not from `amax`; NULL */
    float headroom;
    uint32_t *now;     /* [1] becomes the maximum of what is quantized; NULL: nobody asks. Kernels of tiles. */
    uint32_t *cleared; /* [1] becomes 0, for who comes next; NULL. Kernels of MXFP4 alone (quantize_mx.cu). */
    ni_cuda_noise noise;
    ni_philox_keys keys;   /* of noise, in all rounds */
    ni_cuda_alphas alphas; /* multiplied anew by kernels of tiles and of weights */
} ni_cuda_tile_copy;

/* What these kernels keep between each other: NI_CUDA_TILE_ROOM bytes, cleared once. Its first two words are maxima
 * that are being found, plain and rotated; whoever makes tiles under them leaves them cleared. */
enum { NI_CUDA_TILE_ROOM = 4096 };

/* Either copy may be NULL. The column copy may be rotated by 16. */
int ni_cuda_quantize_tiles(void *stream, void *room, const ni_cuda_tile_source *s, const ni_cuda_tile_copy *row,
                           const ni_cuda_tile_copy *column);
/* What quantize_tiles begins with: scales and tables of both copies of `count` matrices, NI_CUDA_TILE_MATRICES at most, in
 * a room each, one behind the other. */
enum { NI_CUDA_TILE_MATRICES = 3 };
typedef struct ni_cuda_both_copies {
    ni_cuda_tile_copy row, column; /* values NULL: there is none */
} ni_cuda_both_copies;
int ni_cuda_set_tile_scales(void *stream, void *rooms, const ni_cuda_both_copies *copies, int count);
/* *plain and *rotated = max(what is there, magnitudes of s, of s rotated down the columns by 16 as q says); either may
 * be NULL. */
int ni_cuda_tile_amaxes(void *stream, const ni_cuda_tile_source *s, uint32_t *plain, uint32_t *rotated,
                        const nb_quantizer *q, const ni_cuda_noise *noise);
/* For producers, whose launchers want both words cleared (maxima.h): those are (NULL: nobody asks; side by side: at once); and *turned, cleared,
 * becomes nb_mat.turned_amax by a reading of its own, where who wrote the matrix could not look for it. It stays 0
 * where no tile could be made of the matrix. */
int ni_cuda_clear_amaxes(void *stream, uint32_t *amax, uint32_t *turned);
int ni_cuda_find_turned(void *stream, const uint16_t *x, int64_t rows, int64_t cols, int64_t stride, uint32_t *turned);
/* Both, cleared, by one reading where that can be. */
int ni_cuda_find_maxima(void *stream, const uint16_t *x, int64_t rows, int64_t cols, int64_t stride, uint32_t *amax,
                        uint32_t *turned);
/* 16x16 tiles to nearest of FP32 matrices as they lie, many of them a launch: values and codes, of one matrix into up to
 * two operands. */
typedef struct ni_cuda_weight_copy {
    uint16_t *values;
    int64_t stride; /* of values and codes */
    uint8_t *codes, *scales;
    float *tensor_scale; /* [1]; NULL where there is none */
    uint32_t *head;      /* [1] becomes the maximum; NULL: it is there, or nobody asks */
} ni_cuda_weight_copy;
typedef struct ni_cuda_weight {
    const float *w;
    int64_t rows, cols;
    nb_scale_rule rule;
    nb_outer_scale outer;
    const uint32_t *amax; /* [1] of the matrix; NULL: it is found on the way, where there is a tensor scale */
    int copies;
    ni_cuda_weight_copy to[2];
} ni_cuda_weight;
/* parts: scratch of so many words. */
int64_t ni_cuda_weight_parts(const ni_cuda_weight *weights, int count);
int ni_cuda_quantize_weights(void *stream, const ni_cuda_weight *weights, int count, uint32_t *parts);
/* What a double block is made of: numbers [rows, cols], or codes of another double block, not rotated (columns only).
 * Rows and columns as the blocks need them, at least in sixteens (of codes: columns in 32); aligned as above. */
typedef struct ni_cuda_double_source {
    const void *numbers; /* NULL: `codes` */
    bool wide;           /* FP32; BF16 */
    int64_t rows, cols, stride;
    nb_qtensor codes;
} ni_cuda_double_source;
int ni_cuda_quantize_double(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns);
/* Rows of FP32 weights, NI_CUDA_LIST_MOST at most, with codes, to nearest and not rotated, under one rule. */
bool ni_cuda_double_rows_alike(const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy,
                               const ni_cuda_tile_copy *first);
int ni_cuda_quantize_double_rows(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copies,
                                 int count);
/* Blocks that have a rule of their own (block.cuh): MXFP4, HiFloat4, NVFP4 under a tensor scale with and without Four
 * Over Six, MS-EDEN; of the same sources, whose codes may be any E2M1 under scales of blocks. Columns in eights of the
 * operand's rows. Where copy->amax is to be found, block_amaxes is asked first, for one copy or both: *copy->amax = max(what
 * is there, the copy's magnitudes). */
int ni_cuda_block_amaxes(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                         const ni_cuda_tile_copy *column);
int ni_cuda_quantize_block(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns);
/* A row copy and a column copy of numbers at once, where their quantizers pair. */
bool ni_cuda_blocks_pair(const ni_cuda_double_source *s, const nb_quantizer *row, const nb_quantizer *column);
int ni_cuda_quantize_blocks(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                            const ni_cuda_tile_copy *column);
/* The codes alone of MXFP4 to nearest, a row copy, a column copy or both, where it takes them (quantize_mx.cu). */
bool ni_cuda_mx_takes(const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool column);
int ni_cuda_quantize_mx(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                        const ni_cuda_tile_copy *column);
/* Chosen columns of numbers, less what other codes of them decode to, as columns of a row copy whose maximum is known.
 */
typedef struct ni_cuda_piece {
    const void *numbers;
    bool wide; /* FP32; BF16 */
    int64_t rows, cols, stride;
    const int32_t *columns; /* [cols] */
    nb_qtensor minus;       /* NVFP4, not rotated; codes NULL: nothing */
} ni_cuda_piece;
/* Pieces i of copies i, many of them a launch: none reads what another writes. */
int ni_cuda_quantize_pieces(void *stream, const ni_cuda_piece *pieces, const ni_cuda_tile_copy *copies, int count);
/* A row copy to nearest, its maximum known, and pieces of the same operand under its scale, from one reading; and, where no
 * codes are asked for, further operands that differ from it in the columns of their pieces alone, under its scale too. */
enum { NI_CUDA_PATCHED_MOST = 4 };
typedef struct ni_cuda_patch {
    int operands;
    uint16_t *values[NI_CUDA_PATCHED_MOST];       /* the first: the copy's */
    const int32_t *columns[NI_CUDA_PATCHED_MOST]; /* [cols] of the source, the same for all pieces of an operand */
    int64_t cols;
    int count; /* of pieces */
    bool residual[2];
    int64_t at[2]; /* first column of each in the operand */
} ni_cuda_patch;
bool ni_cuda_patched_fits(int64_t cols);
/* And whether the column copy of the same numbers, to nearest and turned as nb_mat.turned_amax has it, is made too. */
bool ni_cuda_patched_fits_columns(int64_t rows, int64_t cols);
/* `column`: NULL, nobody asks. */
int ni_cuda_quantize_patched(void *stream, void *room, const ni_cuda_tile_source *s, const ni_cuda_tile_copy *base,
                             const ni_cuda_tile_copy *column, const ni_cuda_patch *patch);
/* One FP32 scale a row or a tensor, or none; a whole operand of numbers as they lie, columns in eights, to nearest or
 * up. */
typedef struct ni_cuda_vector {
    nb_quantizer quantizer;
    uint16_t *values; /* BF16 [rows, cols]: codes; `whole`: times their scale, rounded once; NULL: codes alone */
    bool whole;
    uint8_t *bytes; /* E4M3 of four-bit codes; NULL: nobody asks */
    uint8_t *codes; /* canonical; NULL: nobody asks */
    float *row_scales, *tensor_scale;
    const uint32_t *amax; /* [1] of the tensor; NULL: scales of rows */
} ni_cuda_vector;
int ni_cuda_quantize_vector(void *stream, const ni_cuda_double_source *s, const ni_cuda_vector *v);
/* The same of x clamped by rows to ranks low and high, and the rest as clamp_rows has it, where it takes them (clamp_warp.cu). */
bool ni_cuda_clamps_into_codes(const ni_cuda_vector *v, const ni_sparse *rest, const nb_mat *x);
int ni_cuda_launch_clamp_codes(void *stream, const ni_cuda_vector *v, const ni_sparse *rest, const nb_mat *x,
                               int64_t low, int64_t high);

/* x clamped so, rounded to INT4 under a scale a row and back, and what was cut off added, as decode_with_rest has it
 * (clamp_counted.cu). */
typedef struct ni_cuda_compensated {
    uint16_t *out; /* BF16 [rows, cols] */
    int64_t stride;
    nb_scale_rule rule; /* of the scales */
    uint32_t *amax;     /* [1] joined with the largest magnitude */
} ni_cuda_compensated;
bool ni_cuda_compensates(const nb_quantizer *q, const nb_mat *out, const nb_mat *x);
int ni_cuda_launch_compensated(void *stream, const ni_cuda_compensated *to, const nb_mat *x, int64_t low, int64_t high);
/* Many of them a launch: four-bit E2M1 of FP32 numbers, a scale a row. */
int ni_cuda_quantize_many_rows(void *stream, const ni_cuda_double_source *s, const ni_cuda_vector *v, int count);
/* The same under a scale a column, of FP32 numbers or of what masters are kept in; whole, columns in sixteens. */
typedef struct ni_cuda_columns {
    ni_scaled from; /* dense, 16-byte aligned */
    int64_t rows, cols;
    nb_scale_rule rule;
    nb_rounding round; /* to nearest or up */
    uint8_t *codes;
    float *scales;    /* [cols] */
    uint16_t *values; /* BF16, times their scales; NULL: nobody asks */
} ni_cuda_columns;
/* amaxes: scratch of so many words. */
int64_t ni_cuda_column_words(const ni_cuda_columns *weights, int count);
int ni_cuda_quantize_columns(void *stream, const ni_cuda_columns *weights, int count, uint32_t *amaxes);
/* out[i] (BF16, aligned) = E2M1 codes under scales of rows, decoded; columns in eights */
int ni_cuda_decode_rows(void *stream, const nb_mat *out, const nb_qtensor *from, int count);
/* The same of one, and then its rest, in BF16. */
int ni_cuda_launch_decode_with_rest(void *stream, const nb_mat *out, const nb_qtensor *from, const ni_sparse *s);

/* ---- the other way ---- */

/* out = decoded (F32 or BF16, rounded once); with `transpose` turned; with `columns` the first ones into those columns of
 * out; without `outer` the scale outside of a product's sum counts as 1. */
int ni_cuda_launch_decode(void *stream, const nb_mat *out, const nb_qtensor *from, bool transpose,
                          const ni_columns *columns, bool outer);

/* Codes of four bits or E4M3 in blocks, the first ones into their columns of FP32 numbers; no column twice. */
enum { NI_CUDA_COLUMN_CODES = 2 };
typedef struct ni_cuda_column_codes {
    nb_mat out;
    nb_qtensor parts[NI_CUDA_COLUMN_CODES];
    ni_columns columns[NI_CUDA_COLUMN_CODES];
    int count;
} ni_cuda_column_codes;
bool ni_cuda_can_decode_columns(const ni_cuda_column_codes *codes);
int ni_cuda_launch_decode_columns(void *stream, const ni_cuda_column_codes *codes, int multiprocessors);

/* The same codes with rows and columns exchanged; scales of 16x16 tiles, rows, columns, the tensor go along. */
int ni_cuda_launch_turn(void *stream, const nb_qtensor *out, const nb_qtensor *from);

/* ---- what a quantization did (quantize_stats.cu): *total; it has so many `blocks` ---- */

/* Of x into `t`; chunks [ceil(rows/16)]. */
int ni_cuda_quantize_stats(void *stream, nb_quantize_stats *total, nb_quantize_stats *chunks, const nb_qtensor *t,
                           int64_t blocks, const float *x);

/* Of a whole row copy, or column copy (`down`), of blocks of 16 that quantize_tiles made; parts [NI_CUDA_STATS_PARTS]. */
enum { NI_CUDA_STATS_PARTS = 1056 };
int ni_cuda_tile_stats(void *stream, nb_quantize_stats *total, nb_quantize_stats *parts, const ni_cuda_tile_source *s,
                       const nb_qtensor *t, int64_t blocks, bool down, const ni_cuda_noise *noise);

#ifdef __cplusplus
}
#endif
#endif
