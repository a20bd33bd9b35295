/* operand.h: what a GEMM multiplies: operands in the layout that the backend likes, the sources that they are made of,
 * and sums of products that are rounded once.
 *
 *     source (a matrix, or what another operand decodes to)  --make-->  operand  --multiply-->  C (+)= sum of A_i B_i^T
 *
 * Who multiplies never sees codes. The canonical layout (nb_qtensor, nibble/format.h) is for files, for the lens and
 * for tests: `canonical` converts to it.
 */
#ifndef NI_BACKEND_OPERAND_H
#define NI_BACKEND_OPERAND_H

#include "backend/arguments.h"
#include "backend/rope.h"

typedef enum ni_side {
    NI_LEFT, /* A of A B^T */
    NI_RIGHT /* B: kept as the product reads it */
} ni_side;

/* [rows, cols] as multiplied: the contraction runs along the columns. The caller sets quantizer, other, rows, cols,
 * side, reread and turned, asks operand_bytes, and places that much backend memory; the backend fills it.
 */
typedef struct nb_operand {
    nb_quantizer quantizer; /* what the codes are; BF16: plain numbers */
    nb_quantizer other; /* of the operand that it will be multiplied with: a backend keeps what that product reads */
    int64_t rows, cols;
    ni_side side;
    bool reread;    /* it will be decoded, turned, re-quantized or shown, not only multiplied, or multiplied with plain
                       numbers where `other` has codes (or the reverse): codes and scales stay. What has one scale may
                       be multiplied with plain numbers, turned or not, without: the scale stays outside of that sum */
    bool turned;    /* it will be made by `turn` */
    void *memory;   /* operand_bytes() bytes, 64-byte aligned, in the backend's own layout; NULL for plain numbers */
    nb_mat numbers; /* plain numbers, act: where they are; [cols, rows] if transposed */
    bool transposed;
    int32_t form;        /* set by the backend when it fills the memory: how it lies, in the backend's own words */
    const float *factor; /* [1] backend memory: plain numbers times this; NULL: 1. Stays outside of the sum. */
    const float *outer;  /* set by the backend: [1] decode scale of the whole tensor; NULL where the format has none */
} nb_operand;

/* A matrix [rows, cols] that lies in codes by columns: each operand has some of them, all together have every one once.
 */
typedef struct ni_parts {
    int64_t rows, cols;
    int32_t count;
    const nb_operand *codes[NI_PARTS_MOST];
    ni_columns columns[NI_PARTS_MOST]; /* of the matrix, in the order of the codes, which may have others behind */
    const int32_t *places;             /* [cols] backend memory: where column c lies (NI_PARTS_MOST) */
} ni_parts;

/* What an operand is made of. Exactly one of `numbers`, `operand` and `parts`. */
typedef struct ni_source {
    const nb_mat *numbers; /* F32 or BF16 [rows, cols]; numbers->amax is used where it is known and serves */
    const float *scale;    /* [1] numbers times this, which may then be F16: a master as it is kept, for make_many of
                              what takes_kept says. NULL: 1 */
    const nb_operand *operand; /* its decoded values: exact code x scale in FP32, never a rounded buffer; of one that is
                                  rotated the rotated ones */
    const ni_parts *parts;   /* what all of these decode to, in FP32: for make_many alone, with nothing that follows */
    const nb_operand *minus; /* numbers - decoded(minus), in FP32: the residual of a quantization; NULL. It may have
                                columns beyond those of the numbers. */
    const int32_t *columns;  /* [column_count] backend memory: only these columns, in this order; NULL: all */
    int64_t column_count;
    int64_t zeros; /* columns of zeros behind those of the list, which fill its last block up; of numbers alone */
    bool leading;  /* that list is 0, 1, 2, ... */
    const nb_operand *row_scales, *column_scales; /* multiply row r (column c) by that operand's FP32 row scale r (c):
                                  scales that lie on a contraction, folded into the other operand (docs/gemm.md) */
} ni_source;

/* One operand to be made of a source. Two makings of one call read the source once where the backend can. */
typedef struct ni_making {
    nb_operand *out;
    const nb_quantizer *quantizer; /* of these columns: out->quantizer but for the height of its blocks; NULL: that */
    bool transpose;                /* row r of the operand is column r of the source */
    bool shown;                    /* the lens will ask for its codes, even where nobody rereads them */
    int64_t at;                    /* first column of `out` that is written: pieces of one operand stand side by side */
    bool spent;                    /* whatever out->reread says, behind this call it is multiplied only */
    const nb_operand *under;       /* under the outer scale of this operand, which may be `out` with its piece at 0 made
                                      already; NULL: under one of its own */
    const float
        *past; /* [1] backend memory: the tensor's scale is made from ni_delayed_amax(*past, headroom), and what is
                  larger saturates; NULL: from the largest magnitude of what is quantized. Not with `under`. */
    float headroom;
    uint32_t *now; /* [1] backend memory: becomes that largest magnitude, as the bits of an F32; NULL: nobody asks. Both
                      are for numbers as they lie, of a whole operand under a tensor scale. */
    const nb_noise *noise;    /* NULL where neither stochastic rounding nor fresh signs ask for it */
    nb_quantize_stats *stats; /* [1] backend memory, or NULL */
} ni_making;

/* An operation that writes matrices (ops.inc), as data: for who knows what will be made of them. */
typedef enum ni_producer_kind {
    NI_PRODUCER_SWIGLU,        /* swiglu_forward: one matrix, of gate and up */
    NI_PRODUCER_SWIGLU_SLOPES, /* swiglu_backward: dgate and dup, of dy too */
    NI_PRODUCER_NORM,          /* rmsnorm_forward of x; of x + change, left in `sum`: add_rmsnorm_forward */
    NI_PRODUCER_TURNED_BACK    /* inverse rope of the first two of three matrices, which lie where they are written; the
                                  third is there: slopes of attention, on their way to q, k and v */
} ni_producer_kind;
typedef struct ni_producer {
    ni_producer_kind kind;
    const void *gate, *up, *dy; /* act, shaped as what is written */
    const void *x, *change;     /* NORM: the same; change NULL: x alone */
    void *sum, *rstd;
    const void *w;
    double eps;
    const int32_t *positions; /* TURNED_BACK: [rows] */
    const ni_rope *rope;
    int64_t heads[2];
} ni_producer;

/* One of its matrices, and what is made of it. */
enum { NI_PRODUCED_MOST = 3 };
typedef struct ni_produced {
    const nb_mat *numbers; /* where the producer writes it: dense, act */
    bool kept;             /* somebody reads the numbers afterwards; else it is the backend's whether they are there */
    const ni_making *makings;
    int32_t count;
} ni_produced;

/* One product of a sum: A B^T, or S B^T, or outer products alone. The latter two are added to others: no sum begins
 * with one. */
typedef struct ni_term {
    const nb_operand *a;     /* NULL where `sparse` or `outer` is set */
    const ni_sparse *sparse; /* S [M, K] */
    const ni_outer *outer;   /* of C's shape; neither A nor B */
    const nb_operand *b;
    const int32_t *columns; /* [b->rows] backend memory: C[:, columns[j]] += (A B^T)[:, j]; NULL: all of C */
} ni_term;

/* One sum of them, for nb_backend.multiply_many: C = (accumulate ? C : 0) + the terms. Where all have columns,
 * none of these is in two of them. */
typedef struct ni_sum {
    nb_mat c;
    const ni_term *terms;
    int32_t count;
    bool accumulate;
} ni_sum;

#endif
