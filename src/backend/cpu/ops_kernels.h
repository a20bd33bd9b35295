/* ops_kernels.h: the inner loops of the operations, compiled once for each instruction set.
 *
 * A kernel runs on one thread over the span it is given; the drivers (ops_*.c) cut the work into spans that do not
 * depend on the number of threads. All three tables come from the same sources (ops_*.inc) and agree bit for bit,
 * save attention, whose products are fused (FMA) where the machine can: there AVX2 and AVX-512 agree.
 */
#ifndef NI_BACKEND_CPU_OPS_KERNELS_H
#define NI_BACKEND_CPU_OPS_KERNELS_H

#include "backend/cpu/cpu.h"
#include "backend/ref/ref.h"

/* The scalars of AdamW, each rounded once from double (src/backend/ref/optimizer.inc). */
typedef struct ni_adamw_scalars {
    float beta1, rest1, beta2, rest2, rate, correction, keep, scale, eps;
} ni_adamw_scalars;
ni_adamw_scalars ni_adamw_scalars_of(const ni_adamw *step, double weight_decay);

/* AdamW on a tensor of which something is narrow (scaled.c). */
void ni_cpu_adamw_narrow(nb_backend *be, const ni_adamw_tensor *tensor, const ni_adamw_scalars *scalars);

typedef struct ni_cpu_kernels {
    /* n elements */
    void (*to_bf16)(uint16_t *to, const float *from, int64_t n);
    void (*to_f32)(float *to, const uint16_t *from, int64_t n);
    void (*add)(uint16_t *out, const uint16_t *a, const uint16_t *b, int64_t n);
    void (*axpy)(float *y, float alpha, const float *x, int64_t n);
    void (*add_bf16)(float *to, const uint16_t *x, int64_t n); /* to += x */
    void (*scale)(void *out, bool out_bf16, const void *in, bool in_bf16, float row, const float *col, int64_t n);
    void (*finish)(void *c, bool bf16, bool add, const float *sums, float row, const float *col, int64_t n);
    void (*add_distance)(float *to, const float *a, const float *b, int64_t n);
    void (*swiglu_forward)(uint16_t *y, const uint16_t *gate, const uint16_t *up, int64_t n);
    void (*swiglu_backward)(uint16_t *dgate, uint16_t *dup, const uint16_t *dy, const uint16_t *gate,
                            const uint16_t *up, int64_t n);
    void (*adamw)(float *param, float *m, float *v, const float *grad, int64_t n, const ni_adamw_scalars *s);
    double (*sum)(const float *x, int64_t n);
    double (*sum_squares)(const float *x, int64_t n);
    /* sixteen columns, `rows` rows from `first` on; x F32 or BF16, decoded F32 */
    void (*column_errors)(double *errors, double *squares, const nb_mat *x, const nb_mat *decoded, int64_t first,
                          int64_t rows);

    /* narrow numbers (src/format/narrow.h): from[at, at + n) times factor; to[at, at + n), rounded from what is times
     * factor; and the largest magnitude as bits */
    void (*decode)(float *to, const void *from, nb_dtype type, int64_t at, float factor, int64_t n);
    void (*encode)(void *to, nb_dtype type, int64_t at, const float *from, float factor, int64_t n);
    uint32_t (*amax)(const float *x, int64_t n);
    uint32_t (*amax_bf16)(const uint16_t *x, int64_t n);

    /* rows of width dim; dw and dbias [dim] are added to */
    void (*rmsnorm_forward)(uint16_t *y, float *rstd, const uint16_t *x, const float *w, int64_t rows, int64_t dim,
                            float eps);
    void (*add_rmsnorm_forward)(uint16_t *out, uint16_t *y, float *rstd, const uint16_t *x, const uint16_t *change,
                                const float *w, int64_t rows, int64_t dim, float eps);
    void (*rmsnorm_add_forward)(uint16_t *out, float *rstd, const uint16_t *x, const uint16_t *change, const float *w,
                                int64_t rows, int64_t dim, float eps);
    void (*rmsnorm_backward)(uint16_t *dx, float *dw, const uint16_t *dy, const uint16_t *x, const float *w,
                             const float *rstd, int64_t rows, int64_t dim);
    void (*rmsnorm_backward_add)(uint16_t *dout, float *dw, const uint16_t *dy, const uint16_t *x, const float *w,
                                 const float *rstd, int64_t rows, int64_t dim);
    void (*add_rmsnorm_backward)(uint16_t *dout, uint16_t *dx, float *dw, const uint16_t *change, const uint16_t *x,
                                 const float *w, const float *rstd, int64_t rows, int64_t dim);
    void (*gated_norm_forward)(uint16_t *y, float *rstd, const uint16_t *o, const uint16_t *g, const float *w,
                               int64_t rows, int64_t dim, float eps);
    void (*gated_norm_backward)(uint16_t *d_o, uint16_t *dg, float *dw, const uint16_t *dy, const uint16_t *o,
                                const uint16_t *g, const float *w, const float *rstd, int64_t rows, int64_t dim);
    void (*gate_forward)(float *gate, const uint16_t *a, const float *bias, int64_t rows, int64_t dim, float normalizer,
                         float clamp);
    void (*gate_backward)(uint16_t *da, float *dbias, const float *dgate, const uint16_t *a, const float *bias,
                          int64_t rows, int64_t dim, float normalizer, float clamp);

    void (*slerp_forward)(uint16_t *out, const uint16_t *a, const uint16_t *b, const float *alpha, float factor,
                          float eps, int64_t rows, int64_t dim);
    void (*slerp_backward)(uint16_t *da, uint16_t *db, float *dalpha, const uint16_t *dout, const uint16_t *a,
                           const uint16_t *b, const float *alpha, float factor, float eps, int64_t rows, int64_t dim);
    void (*gain_forward)(uint16_t *y, const uint16_t *x, const float *s, float factor, int32_t power, int64_t rows,
                         int64_t dim);
    void (*gain_backward)(uint16_t *dx, float *ds, const uint16_t *dy, const uint16_t *x, const float *s, float factor,
                          int32_t power, int64_t rows, int64_t dim);

    /* one position: heads [heads, 2*half] turn by the angles whose cosines and sines [half] are given */
    void (*rope)(uint16_t *x, const float *cosine, const float *sine, int64_t heads, int64_t half, bool inverse);

    /* one row of logits; dlogits NULL or [vocab], may be logits. Returns lse. */
    float (*cross_entropy)(float *loss, uint16_t *dlogits, const uint16_t *logits, int32_t target, int64_t vocab,
                           float grad_scale, float z_loss);

    /* one head; one key head with the queries that share it. scratch: ops_attention.c. The second pair:
     * operands of four bits */
    void (*attention_forward)(const nb_attention *a, int64_t b, int64_t h, uint16_t *o, float *lse, const uint16_t *q,
                              const uint16_t *k, const uint16_t *v, float *scratch);
    void (*attention_backward)(const nb_attention *a, int64_t b, int64_t kv, uint16_t *dq, uint16_t *dk, uint16_t *dv,
                               const uint16_t *d_o, const uint16_t *o, const float *lse, const uint16_t *q,
                               const uint16_t *k, const uint16_t *v, float *scratch);
    void (*attention4_forward)(const nb_attention *a, int64_t b, int64_t h, uint16_t *o, float *lse, const uint16_t *q,
                               const uint16_t *k, const uint16_t *v, float *scratch);
    void (*attention4_backward)(const nb_attention *a, int64_t b, int64_t kv, uint16_t *dq, uint16_t *dk, uint16_t *dv,
                                const uint16_t *d_o, const uint16_t *o, const float *lse, const uint16_t *q,
                                const uint16_t *k, const uint16_t *v, float *scratch);

    /* one head; the two halves of the backward pass run in this order: the first leaves q dq in dgate for the second */
    void (*gla_forward)(const ni_gla *g, int64_t b, int64_t h, uint16_t *o, const uint16_t *q, const uint16_t *k,
                        const uint16_t *v, const float *gate, float *scratch);
    void (*gla_backward_queries)(const ni_gla *g, int64_t b, int64_t h, uint16_t *dq, float *dgate, const uint16_t *d_o,
                                 const uint16_t *q, const uint16_t *k, const uint16_t *v, const float *gate,
                                 float *scratch);
    void (*gla_backward_keys)(const ni_gla *g, int64_t b, int64_t h, uint16_t *dk, uint16_t *dv, float *dgate,
                              const uint16_t *d_o, const uint16_t *q, const uint16_t *k, const uint16_t *v,
                              const float *gate, float *scratch);

    /* arXiv:2501.17116: dw *= f'(w / scale); the numbers of two ranks; a row clamped between them; a sparse row */
    void (*dge)(float *dw, const float *w, const float *scale, int64_t n, float k, float cap);
    void (*bounds_of_row)(float bounds[2], const uint16_t *x, int64_t n, int64_t low, int64_t high, int16_t *room);
    /* One row: residuals go to column and rest at `at` and on (rest NULL: nowhere). */
    int32_t (*clamp_row)(uint16_t *to, const ni_sparse *rest, int64_t at, const uint16_t *from, int64_t n, float lo,
                         float hi);
    void (*sparse_row)(float *c, int64_t n, const ni_sparse *s, int64_t row, const uint16_t *b, int64_t b_row);
} ni_cpu_kernels;

extern const ni_cpu_kernels ni_cpu_kernels_portable;
#ifdef NI_X86
extern const ni_cpu_kernels ni_cpu_kernels_avx2, ni_cpu_kernels_avx512;
#endif

/* The table for the backend's instruction set. */
const ni_cpu_kernels *ni_cpu_kernels_of(nb_backend *be);

/* ---- how work is cut: the same for every number of threads ---- */

/* Elements of an elementwise operation that one thread takes at a time, and the size below which threads do not pay. */
enum { NI_SPAN = 16384, NI_SPAN_SERIAL = 2 * NI_SPAN };

static inline int64_t ni_span_count(int64_t n) {
    return (n + NI_SPAN - 1) / NI_SPAN;
}

static inline int64_t ni_span_length(int64_t n, int64_t span) {
    return n - span * NI_SPAN < NI_SPAN ? n - span * NI_SPAN : NI_SPAN;
}

/* Softmax attention works on tiles of 64 positions, gated linear attention on chunks of 32; heads are padded so that
 * every register block divides them. */
enum { NI_TILE = 64, NI_GLA_CHUNK = 32, NI_TILE_PAD = 32 };

static inline int64_t ni_tile_width(int64_t head_dim) {
    return (head_dim + NI_TILE_PAD - 1) / NI_TILE_PAD * NI_TILE_PAD;
}

static inline int64_t ni_tile_positions(int64_t seq) {
    return (seq + NI_TILE - 1) / NI_TILE * NI_TILE;
}

/* Rows in `parts` pieces: piece i is rows ni_part(n, parts, i) up to ni_part(n, parts, i + 1). */
static inline int64_t ni_part(int64_t rows, int64_t parts, int64_t i) {
    return rows / parts * i + (rows % parts < i ? rows % parts : i);
}

#endif
