/* arguments.h: what rows of the table take beside matrices: plain data that no program outside needs. */
#ifndef NI_BACKEND_ARGUMENTS_H
#define NI_BACKEND_ARGUMENTS_H

#include "nibble/backend.h"

/* Columns of a matrix, by their numbers. */
typedef struct ni_columns {
    const int32_t *at; /* [count] backend memory */
    int64_t count;
} ni_columns;

/* How many operands a matrix may lie in by columns (ni_parts). Its column c is a column of one of them: that one's
 * number times this, and which of them, make one word. */
enum { NI_PARTS_MOST = 2 };

/* What makes the gate of gated linear attention, as gla_gate_forward has it; da and dbias as gla_gate_backward has
 * them, for the backward pass. */
typedef struct ni_gla_gate {
    const void *a, *bias;
    double normalizer, clamp;
    void *da, *dbias;
} ni_gla_gate;

/* Gated linear attention (arXiv:2312.06635). q, k, gate: [batch, seq, heads, key_dim]; v, o: [batch, seq, heads,
 * value_dim].
 */
typedef struct ni_gla {
    int64_t batch, seq, heads, key_dim, value_dim;
    double scale;             /* on q; 1/sqrt(key_dim) as a rule */
    const int32_t *doc_start; /* [batch, seq]: the state is zero at the first position of a document */
    /* Of dq, dk and dv as matrices [batch * seq, heads * width], [1] each: filled as those of nb_mat; NULL: nobody
     * asks. */
    uint32_t *amax[3], *turned_amax[3];
    /* The gate is made where it is read, and da and dbias where dgate would be: `gate` and `dgate` are then not read.
     * Only where the backend makes_gates; NULL: they are given. */
    const ni_gla_gate *made;
    void *left; /* [gla_left_bytes] backend memory: what a forward pass leaves for its backward pass; NULL: that makes
                   it again */
} ni_gla;

/* One update of AdamW (decoupled decay, arXiv:1711.05101): what all tensors share. */
typedef struct ni_adamw {
    double lr, beta1, beta2, eps;
    double grad_scale; /* multiplies the gradient first: clipping and averaging */
    int64_t step;      /* 1 for the first update: bias correction */
} ni_adamw;

/* A tensor that lives between steps in few bits: a moment, a gradient, a master. Its values are number * *scale. */
typedef struct ni_scaled {
    void *data;         /* F32, BF16, F16, E4M3 or E5M2 */
    nb_dtype dtype;     /* real where nothing is saved */
    nb_scale_rule rule; /* ABSMAX or POW2: the scale that maps the largest magnitude to the largest number, or the power
                           of two next to it that does not saturate */
    float *scale;       /* [1] decode scale in backend memory; NULL for F32 and BF16, which need none */
} ni_scaled;

/* One tensor of an update: n parameters, their moments and gradients, each in a type of its own. */
typedef struct ni_adamw_tensor {
    ni_scaled param, m, v, grad;
    int64_t n;
    double weight_decay;
    /* What the next forward pass reads, NULL where it reads nothing: the parameters rounded to act [n], and the largest
     * magnitude of them [1] as in nb_mat. */
    void *copy;
    uint32_t *amax;
} ni_adamw_tensor;

/* Parameters that are updated once in `period` steps each, by the mean of their gradients since (Q-Ramping,
 * arXiv:2502.20853). [n] each, in backend memory. */
typedef struct ni_ramped {
    float *param, *m, *v;
    const float *grad;
    float *sum;            /* of gradients since the last update */
    int32_t *steps;        /* how many they are */
    const int32_t *period; /* 1 or more */
    int64_t n;
    double weight_decay;
} ni_ramped;

/* Residuals of clamped activations: a sparse matrix whose rows have a fixed room. Row r holds count[r] entries from
 * entry r*room on, columns ascending. Backend memory; the three arrays belong to whoever placed them. */
typedef struct ni_sparse {
    int64_t rows, cols;
    int64_t room;    /* entries that fit a row */
    int32_t *count;  /* [rows] */
    int32_t *column; /* [rows, room] */
    uint16_t *value; /* [rows, room] BF16 */
    float *exact;    /* [rows, room] F32, in the place of value where it is not NULL */
} ni_sparse;

/* A clamping of rows, as data (ops.inc: make_clamped). */
typedef struct ni_clamping {
    const nb_mat *x, *clamped; /* BF16 [rows, cols] */
    const ni_sparse *rest;     /* NULL: not wanted */
    int64_t low, high;         /* ranks */
    bool whole;                /* of the whole tensor */
} ni_clamping;

/* A sum of outer products: element (r, c) is the sum over i of left[i][r] * right[i][c]. F32, backend memory. */
enum { NI_OUTER_PRODUCTS = 2 };
typedef struct ni_outer {
    int32_t count;
    const float *left[NI_OUTER_PRODUCTS];  /* [rows]; NULL: ones */
    const float *right[NI_OUTER_PRODUCTS]; /* [cols] */
} ni_outer;

/* Shape of the distribution of a tensor's numbers. NaN and Inf are counted and left out of the rest. */
typedef struct ni_moments {
    int64_t count; /* finite elements */
    int64_t nonfinite;
    double amax, mean, rms;
    double excess_kurtosis; /* mean((x - mean)^4) / var^2 - 3; 0 where var is 0 */
} ni_moments;

/* Crests of the tiles of a matrix, as measure leaves them, and where what is told of them goes. */
typedef struct ni_crest_map {
    float *crests;      /* [rows, cols] tiles, 1 at least */
    int64_t rows, cols; /* of tiles */
    float *summary;     /* [2 + cols]: the largest, that of the rank, the largest of each column */
} ni_crest_map;

enum { NI_SCALE_EXPONENTS = 16 };

static inline int64_t ni_crest_rank(int64_t count) { /* of `count` crests, ascending */
    return (int64_t)(0.99 * (double)(count - 1));
}

/* What softmax attention does with its logits, over sampled queries; means over heads and queries. */
typedef struct ni_attention_stats {
    double logit_max;      /* mean over queries of the largest scaled logit */
    double logit_amax;     /* the largest magnitude of all */
    double logit_kurtosis; /* excess kurtosis of a query's logits */
    double entropy;        /* of a query's probabilities, in nats */
    int64_t queries;       /* that went into it; those that see a single key are left out */
} ni_attention_stats;

/* What a run permits (docs/run-file.md: deterministic, fp8_units, native_fp4). */
typedef struct ni_permits {
    bool any_order;  /* sums in whichever order is fastest, one run's not the next one's */
    bool no_fp8;     /* codes that FP8 holds exactly are multiplied as BF16 all the same */
    bool mxfp4_fp8;  /* MXFP4 is multiplied by FP8 units, row by row where they hold it exactly */
    bool exact_fp8;  /* those alone go to FP8 units whose sums lose nothing there: 4-bit codes */
    bool native_fp4; /* units for four bits multiply block-scaled codes: compiled, never run on such a GPU */
} ni_permits;

/* Weights followed from step to step by track_codes; [rows, cols] each, in backend memory. */
typedef struct ni_tracked {
    float *w, *q;             /* of the step before: the numbers, and what their codes decode to */
    float *moved_w, *moved_q; /* sum of |w_t - w_{t-1}|, of |q_t - q_{t-1}| */
    uint8_t *codes;           /* of the step before, a byte each */
    int64_t *flips;           /* [1] changes of a code, all elements together; 0 and -0 are one */
} ni_tracked;

#endif
