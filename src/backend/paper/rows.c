/* rows.c: what operations over elements, rows and heads move and compute.
 *
 * FP32 work counts one for each addition, multiplication, comparison and rounding of the formulas in src/backend/ref/,
 * functions one for each exponential, logarithm and quotient of a number, stages one for each number that a quantizer
 * finds a scale for, rounds, draws bits for or turns (operands.c): so that a row says how much arithmetic stands behind
 * its bytes, not how many instructions.
 */
#include "backend/cpu/ops_kernels.h"
#include "backend/paper/paper.h"
#include "backend/ref/ref.h"

/* A row reads shapes alone: most of its arguments go unused. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

static double act(nb_backend *be, int64_t n) {
    return ni_paper_bytes(n, be->act);
}

static double real(nb_backend *be, int64_t n) {
    return ni_paper_bytes(n, be->real);
}

static double words(int64_t n) {
    return 4.0 * (double)n;
}

/* ---- elementwise ---- */

void ni_paper_cast(nb_backend *be, void *to, nb_dtype to_type, const void *from, nb_dtype from_type, int64_t n) {
    NI_PAPER_NOTE(cast, ni_paper_bytes(n, from_type), ni_paper_bytes(n, to_type), NI_PAPER_work, (double)n);
}

void ni_paper_add(nb_backend *be, void *out, const void *a, const void *b, int64_t n) {
    NI_PAPER_NOTE(add, act(be, 2 * n), act(be, n), NI_PAPER_work, (double)n);
}

void ni_paper_axpy(nb_backend *be, void *y, double alpha, const void *x, int64_t n) {
    NI_PAPER_NOTE(axpy, real(be, 2 * n), real(be, n), NI_PAPER_work, 2.0 * (double)n);
}

void ni_paper_scale(nb_backend *be, const nb_mat *out, const nb_mat *in, const float *row_scale,
                    const float *col_scale) {
    const double n = (double)(in->rows * in->cols);
    const double scales = (row_scale ? words(in->rows) : 0) + (col_scale ? words(in->cols) : 0);
    NI_PAPER_NOTE(scale, ni_paper_mat_bytes(in) + scales, ni_paper_mat_bytes(out), NI_PAPER_work,
                  n * (1 + (row_scale != NULL) + (col_scale != NULL)));
}

/* ---- embedding ---- */

void ni_paper_embed_forward(nb_backend *be, void *out, const void *table, const int32_t *tokens, int64_t n,
                            int64_t dim) {
    NI_PAPER_NOTE(embed_forward, real(be, n * dim) + words(n), act(be, n * dim), NI_PAPER_work, (double)(n * dim));
}

void ni_paper_embed_backward(nb_backend *be, void *dtable, const void *dout, const int32_t *tokens, int64_t n,
                             int64_t dim, int64_t vocab) {
    NI_PAPER_NOTE(embed_backward, act(be, n * dim) + real(be, n * dim) + words(n), real(be, n * dim), NI_PAPER_work,
                  (double)(n * dim));
}

void ni_paper_take_rows(nb_backend *be, void *out, const void *table, const int32_t *rows, int64_t n, int64_t dim) {
    NI_PAPER_NOTE(take_rows, real(be, n * dim) + words(n), real(be, n * dim), NI_PAPER_work, 0);
}

void ni_paper_put_rows(nb_backend *be, void *table, const void *in, const int32_t *rows, int64_t n, int64_t dim) {
    NI_PAPER_NOTE(put_rows, real(be, n * dim) + words(n), real(be, n * dim), NI_PAPER_work, 0);
}

/* ---- norms: square and sum, two factors; backward two more sums, dx and dw ---- */

enum { NORM_FORWARD = 4, NORM_BACKWARD = 9, SIGMOID = 2 }; /* an exponential and a quotient, an addition besides */

void ni_paper_rmsnorm_forward(nb_backend *be, const nb_mat *y, void *rstd, const void *x, const void *w, double eps) {
    const int64_t n = y->rows * y->cols;
    NI_PAPER_NOTE(rmsnorm_forward, act(be, n) + real(be, y->cols), act(be, n) + real(be, y->rows), NI_PAPER_work,
                  NORM_FORWARD * (double)n);
}

void ni_paper_add_rmsnorm_forward(nb_backend *be, void *out, const nb_mat *y, void *rstd, const void *x,
                                  const void *change, const void *w, double eps) {
    const int64_t n = y->rows * y->cols;
    NI_PAPER_NOTE(add_rmsnorm_forward, act(be, 2 * n) + real(be, y->cols), act(be, 2 * n) + real(be, y->rows),
                  NI_PAPER_work, (NORM_FORWARD + 1) * (double)n);
}

void ni_paper_rmsnorm_add_forward(nb_backend *be, void *out, void *rstd, const void *x, const void *change,
                                  const void *w, int64_t n, int64_t dim, double eps) {
    NI_PAPER_NOTE(rmsnorm_add_forward, act(be, 2 * n * dim) + real(be, dim), act(be, n * dim) + real(be, n),
                  NI_PAPER_work, (NORM_FORWARD + 1) * (double)(n * dim));
}

void ni_paper_rmsnorm_backward(nb_backend *be, const nb_mat *dx, void *dw, const void *dy, const void *x, const void *w,
                               const void *rstd) {
    const int64_t rows = dx->rows, dim = dx->cols, n = rows * dim;
    NI_PAPER_NOTE(rmsnorm_backward, act(be, 2 * n) + real(be, 2 * dim + rows), act(be, n) + real(be, dim),
                  NI_PAPER_work, NORM_BACKWARD * (double)n);
}

void ni_paper_rmsnorm_backward_add(nb_backend *be, const nb_mat *dout, void *dw, const void *dy, const void *x,
                                   const void *w, const void *rstd) {
    const int64_t rows = dout->rows, dim = dout->cols, n = rows * dim;
    NI_PAPER_NOTE(rmsnorm_backward_add, act(be, 3 * n) + real(be, 2 * dim + rows), act(be, n) + real(be, dim),
                  NI_PAPER_work, (NORM_BACKWARD + 1) * (double)n);
}

void ni_paper_add_rmsnorm_backward(nb_backend *be, void *dout, const nb_mat *dx, void *dw, const void *change,
                                   const void *x, const void *w, const void *rstd) {
    const int64_t rows = dx->rows, dim = dx->cols, n = rows * dim;
    NI_PAPER_NOTE(add_rmsnorm_backward, act(be, 3 * n) + real(be, 2 * dim + rows), act(be, 2 * n) + real(be, dim),
                  NI_PAPER_work, (NORM_BACKWARD + 1) * (double)n);
}

void ni_paper_gated_norm_forward(nb_backend *be, const nb_mat *y, void *rstd, const void *o, const void *g,
                                 const void *w, double eps) {
    const int64_t n = y->rows * y->cols;
    NI_PAPER_NOTE_WORK(gated_norm_forward, act(be, 2 * n) + real(be, y->cols), act(be, n) + real(be, y->rows),
                       NI_PAPER_functions, SIGMOID * (double)n, (NORM_FORWARD + 3) * (double)n);
}

void ni_paper_gated_norm_backward(nb_backend *be, void *do_, const nb_mat *dg, void *dw, const void *dy, const void *o,
                                  const void *g, const void *w, const void *rstd) {
    const int64_t rows = dg->rows, dim = dg->cols, n = rows * dim;
    NI_PAPER_NOTE_WORK(gated_norm_backward, act(be, 3 * n) + real(be, 2 * dim + rows), act(be, 2 * n) + real(be, dim),
                       NI_PAPER_functions, SIGMOID * (double)n, (NORM_BACKWARD + 7) * (double)n);
}

/* ---- vectors of length 1: three lengths, a difference, a share and a sum a number; backward makes them again ---- */

enum { SLERP = 11, SLERP_BACKWARD = 32, GAIN = 3 };

void ni_paper_unit_vectors(nb_backend *be, void *w, int64_t rows, int64_t cols, bool columns) {
    NI_PAPER_NOTE(unit_vectors, real(be, rows * cols), real(be, rows * cols), NI_PAPER_work,
                  3.0 * (double)(rows * cols));
}

void ni_paper_slerp_forward(nb_backend *be, const nb_mat *out, const void *a, const void *b, const void *alpha,
                            double factor, double eps) {
    const int64_t n = out->rows * out->cols;
    NI_PAPER_NOTE(slerp_forward, act(be, 2 * n) + real(be, out->cols), act(be, n), NI_PAPER_work, SLERP * (double)n);
}

void ni_paper_slerp_backward(nb_backend *be, void *da, const nb_mat *db, void *dalpha, const void *dout, const void *a,
                             const void *b, const void *alpha, double factor, double eps) {
    const int64_t n = db->rows * db->cols;
    NI_PAPER_NOTE(slerp_backward, act(be, 3 * n) + real(be, 2 * db->cols), act(be, 2 * n) + real(be, db->cols),
                  NI_PAPER_work, SLERP_BACKWARD * (double)n);
}

void ni_paper_gain_forward(nb_backend *be, const nb_mat *y, const void *x, const void *s, double factor,
                           int32_t power) {
    const int64_t n = y->rows * y->cols;
    NI_PAPER_NOTE(gain_forward, act(be, n) + real(be, y->cols), act(be, n), NI_PAPER_work, GAIN * (double)n);
}

void ni_paper_gain_backward(nb_backend *be, const nb_mat *dx, void *ds, const void *dy, const void *x, const void *s,
                            double factor, int32_t power) {
    const int64_t n = dx->rows * dx->cols;
    NI_PAPER_NOTE(gain_backward, act(be, 2 * n) + real(be, 2 * dx->cols), act(be, n) + real(be, dx->cols),
                  NI_PAPER_work, 2 * GAIN * (double)n);
}

/* ---- positions, attention ---- */

void ni_paper_rope(nb_backend *be, const nb_mat *x, const int32_t *positions, int64_t heads, const ni_rope *how,
                   bool inverse) {
    const int64_t count = x->rows * x->cols; /* four multiplications and two additions a pair */
    NI_PAPER_NOTE(rope, act(be, count) + words(x->rows), act(be, count), NI_PAPER_work, 3.0 * (double)count);
}

/* Keys that queries see where each sequence is one document: packed documents see fewer. */
static double pairs(const nb_attention *a) {
    return 0.5 * (double)(a->batch * a->heads) * (double)a->seq * (double)(a->seq + 1);
}

static double queries(nb_backend *be, const nb_attention *a) {
    return act(be, a->batch * a->seq * a->heads * a->head_dim);
}

static double keys(nb_backend *be, const nb_attention *a) {
    return act(be, a->batch * a->seq * a->kv_heads * a->head_dim);
}

/* Floats that a thread of the CPU works in (cpu/ops_attention.c). */
static double tiles(const nb_attention *a, int planes, int count, int squares) {
    const double width = (double)ni_tile_width(a->head_dim), positions = (double)ni_tile_positions(a->seq);
    return sizeof(float) * (planes * positions * width + count * NI_TILE * width + squares * NI_TILE * NI_TILE);
}

/* Squares; operands of four bits have a strip of them. */
static int strips(const nb_attention *a, bool four_bits, int count) {
    return four_bits ? count * (int)(ni_tile_positions(a->seq) / NI_TILE) : count;
}

/* q k^T and p v. */
const char *ni_paper_attention_kernel(nb_backend *be, const nb_attention *a, const char **why) {
    *why = "counted, not computed";
    return "paper";
}

const char *ni_paper_gla_kernel(nb_backend *be, const ni_gla *g, const char **why) {
    *why = "counted, not computed";
    return "paper";
}

nb_status ni_paper_attention_forward(nb_backend *be, const nb_attention *a, void *o, void *lse, const void *q,
                                     const void *k, const void *v, nb_error *err) {
    NB_TRY(ni_attention_check(a, err));
    NI_PAPER_NOTE(attention_forward, queries(be, a) + 2 * keys(be, a),
                  queries(be, a) + real(be, a->batch * a->heads * a->seq), NI_PAPER_attention,
                  4.0 * (double)a->head_dim * pairs(a));
    ni_paper_thread(be, tiles(a, 2, 2, strips(a, a->rule.forward != NB_ATTENTION_BF16_OPERANDS, 1)));
    return NB_OK;
}

/* q k^T once more, do v^T, and the products of dq, dk and dv. */
nb_status ni_paper_attention_backward(nb_backend *be, const nb_attention *a, void *dq, void *dk, void *dv,
                                      const void *do_, const void *o, const void *lse, const void *q, const void *k,
                                      const void *v, nb_error *err) {
    NB_TRY(ni_attention_check(a, err));
    NI_PAPER_NOTE(attention_backward, 3 * queries(be, a) + 2 * keys(be, a) + real(be, a->batch * a->heads * a->seq),
                  queries(be, a) + 2 * keys(be, a), NI_PAPER_attention, 10.0 * (double)a->head_dim * pairs(a));
    ni_paper_thread(be, tiles(a, 5, 5, strips(a, ni_attention_goes_back_in_four_bits(a), 2)));
    return NB_OK;
}

static double key_bytes(nb_backend *be, const ni_gla *g) {
    return act(be, g->batch * g->seq * g->heads * g->key_dim);
}

static double value_bytes(nb_backend *be, const ni_gla *g) {
    return act(be, g->batch * g->seq * g->heads * g->value_dim);
}

/* Of gates, or of what they are made of. */
static double gate_bytes(nb_backend *be, const ni_gla *g) {
    const int64_t dim = g->heads * g->key_dim, n = g->batch * g->seq * dim;
    return g->made ? act(be, n) + real(be, dim) : real(be, n);
}

/* Elements of all states that tokens go through. */
static double states(const ni_gla *g) {
    return (double)(g->batch * g->seq * g->heads) * (double)(g->key_dim * g->value_dim);
}

static double chunk(const ni_gla *g) { /* of a thread of the CPU (cpu/ops_attention.c) */
    const double kw = (double)ni_tile_width(g->key_dim), vw = (double)ni_tile_width(g->value_dim);
    return sizeof(float) *
           (kw * vw + 9 * NI_GLA_CHUNK * kw + 4 * NI_GLA_CHUNK * vw + NI_GLA_CHUNK * NI_GLA_CHUNK + 3 * kw);
}

/* Decayed queries and keys of every chunk in BF16, its products of pairs, its decay (cuda/gla_chunk.cuh). */
size_t ni_paper_gla_left_bytes(nb_backend *be, const ni_gla *g) {
    const int64_t chunk = 64, chunks = g->batch * g->heads * ((g->seq + chunk - 1) / chunk);
    int64_t keys = 16;
    while (keys < g->key_dim)
        keys *= 2;
    return ni_paper_of(be)->hopper ? (size_t)(chunks * (chunk * (2 * keys + chunk) * 2 + keys * 4)) : 0;
}

/* The recurrence: k v^T into the state, the state out to o. */
nb_status ni_paper_gla_forward(nb_backend *be, const ni_gla *g, void *o, const void *q, const void *k, const void *v,
                               const void *gate, nb_error *err) {
    NB_TRY(ni_gla_check(g, err));
    NI_PAPER_NOTE(gla_forward, 2 * key_bytes(be, g) + value_bytes(be, g) + gate_bytes(be, g), value_bytes(be, g),
                  NI_PAPER_scan, 4.0 * states(g));
    ni_paper_thread(be, chunk(g));
    return NB_OK;
}

/* The states once more and dq out of them; their gradients, dk and dv out of those. */
nb_status ni_paper_gla_backward(nb_backend *be, const ni_gla *g, void *dq, void *dk, void *dv, void *dgate,
                                const void *do_, const void *q, const void *k, const void *v, const void *gate,
                                nb_error *err) {
    NB_TRY(ni_gla_check(g, err));
    NI_PAPER_NOTE(gla_backward, 2 * key_bytes(be, g) + 2 * value_bytes(be, g) + gate_bytes(be, g),
                  2 * key_bytes(be, g) + value_bytes(be, g) + gate_bytes(be, g), NI_PAPER_scan, 10.0 * states(g));
    ni_paper_thread(be, chunk(g));
    return NB_OK;
}

void ni_paper_gla_gate_forward(nb_backend *be, void *gate, const void *a, const void *bias, int64_t n, int64_t dim,
                               double normalizer, double clamp) {
    NI_PAPER_NOTE_WORK(gla_gate_forward, act(be, n * dim) + real(be, dim), real(be, n * dim), NI_PAPER_functions,
                       2.0 * (double)(n * dim), 4.0 * (double)(n * dim));
}

void ni_paper_gla_gate_backward(nb_backend *be, void *da, void *dbias, const void *dgate, const void *a,
                                const void *bias, int64_t n, int64_t dim, double normalizer, double clamp) {
    NI_PAPER_NOTE_WORK(gla_gate_backward, act(be, n * dim) + real(be, n * dim + 2 * dim),
                       act(be, n * dim) + real(be, dim), NI_PAPER_functions, SIGMOID * (double)(n * dim),
                       5.0 * (double)(n * dim));
}

/* ---- MLP, loss ---- */

void ni_paper_swiglu_forward(nb_backend *be, const nb_mat *y, const void *gate, const void *up) {
    const int64_t n = y->rows * y->cols;
    NI_PAPER_NOTE_WORK(swiglu_forward, act(be, 2 * n), act(be, n), NI_PAPER_functions, SIGMOID * (double)n,
                       3.0 * (double)n);
}

void ni_paper_swiglu_backward(nb_backend *be, const nb_mat *dgate, const nb_mat *dup, const void *dy, const void *gate,
                              const void *up) {
    const int64_t n = dgate->rows * dgate->cols;
    NI_PAPER_NOTE_WORK(swiglu_backward, act(be, 3 * n), act(be, 2 * n), NI_PAPER_functions, SIGMOID * (double)n,
                       8.0 * (double)n);
}

/* Maximum, difference, exponential, sum; the gradient has another exponential, scales and subtracts. */
void ni_paper_cross_entropy(nb_backend *be, void *loss, void *z, void *dlogits, const void *logits,
                            const int32_t *targets, int64_t n, int64_t vocab, double grad_scale, double z_loss) {
    NI_PAPER_NOTE_WORK(cross_entropy, act(be, n * vocab) + words(n), real(be, n) + (dlogits ? act(be, n * vocab) : 0),
                       NI_PAPER_functions, (dlogits ? 2.0 : 1.0) * (double)(n * vocab),
                       (dlogits ? 5.0 : 3.0) * (double)(n * vocab));
}

/* ---- optimizer, reductions, tensors under one scale ---- */

static double scaled(const ni_scaled *t, int64_t n) {
    return t->data ? ni_paper_bytes(n, t->dtype) : 0;
}

/* Stages of numbers that are kept in few bits: one to read them, two to write them; 16 bits hold a number as it is. */
static double reading(const ni_scaled *t, int64_t n) {
    return t->data && nb_dtype_size(t->dtype) == 1 ? (double)n : 0;
}

static double rereading(const ni_scaled *t, int64_t n) {
    return 3 * reading(t, n);
}

void ni_paper_adamw(nb_backend *be, const ni_adamw_tensor *tensors, int32_t count, const ni_adamw *step) {
    ni_paper_cost cost = {.kind = NI_PAPER_work, .beside = NI_PAPER_stages};
    for (int32_t i = 0; i < count; i++) {
        const ni_adamw_tensor *t = &tensors[i];
        const double state = scaled(&t->param, t->n) + scaled(&t->m, t->n) + scaled(&t->v, t->n);
        cost.read += state + scaled(&t->grad, t->n);
        cost.written += state + (t->copy ? act(be, t->n) : 0);
        cost.flops += 14.0 * (double)t->n;
        cost.also +=
            reading(&t->grad, t->n) + rereading(&t->param, t->n) + rereading(&t->m, t->n) + rereading(&t->v, t->n);
    }
    ni_paper_note(be, NI_PAPER_ROW_adamw, cost);
}

void ni_paper_adamw_ramped(nb_backend *be, const ni_ramped *t, const ni_adamw *step) {
    NI_PAPER_NOTE(adamw_ramped, words(7 * t->n), words(5 * t->n), NI_PAPER_work, 18.0 * (double)t->n);
}

void ni_paper_ramp_periods(nb_backend *be, int32_t *period, const float *moved_q, const float *moved_w, int64_t n,
                           double k1, double k2, int32_t most) {
    NI_PAPER_NOTE(ramp_periods, words(2 * n), words(n), NI_PAPER_work, 5.0 * (double)n);
}

void ni_paper_sum(nb_backend *be, double *out, const void *x, int64_t n) {
    NI_PAPER_NOTE(sum, real(be, n), sizeof *out, NI_PAPER_work, (double)n);
}

void ni_paper_sum_squares(nb_backend *be, double *out, const void *x, int64_t n) {
    NI_PAPER_NOTE(sum_squares, real(be, n), sizeof *out, NI_PAPER_work, 2.0 * (double)n);
}

/* Scale, rounding, and the maximum before both. */
void ni_paper_scaled_encode(nb_backend *be, const ni_scaled *to, const float *from, int64_t n) {
    NI_PAPER_NOTE(scaled_encode, words(n), scaled(to, n), NI_PAPER_stages, 3.0 * (double)n);
}

void ni_paper_scaled_decode(nb_backend *be, float *to, const ni_scaled *from, int64_t n) {
    NI_PAPER_NOTE(scaled_decode, scaled(from, n), words(n), NI_PAPER_stages, (double)n);
}

void ni_paper_scaled_add(nb_backend *be, const ni_scaled *to, const ni_scaled *a, const ni_scaled *b, int64_t n) {
    NI_PAPER_NOTE_WORK(scaled_add, scaled(a, n) + scaled(b, n), scaled(to, n), NI_PAPER_stages, 5.0 * (double)n,
                       (double)n);
}

void ni_paper_scaled_rescale(nb_backend *be, const ni_scaled *t, float scale, int64_t n) {
    NI_PAPER_NOTE(scaled_rescale, scaled(t, n), scaled(t, n), NI_PAPER_stages, 3.0 * (double)n);
}

void ni_paper_scaled_join(nb_backend *be, const ni_scaled *to, const ni_scaled *from, int64_t n) {
    NI_PAPER_NOTE(scaled_join, scaled(to, n) + scaled(from, n), scaled(to, n), NI_PAPER_stages, 2.0 * (double)n);
}

void ni_paper_scaled_sum_squares(nb_backend *be, double *out, const ni_scaled *x, int64_t n) {
    NI_PAPER_NOTE_WORK(scaled_sum_squares, scaled(x, n), sizeof *out, NI_PAPER_stages, reading(x, n), 2.0 * (double)n);
}

void ni_paper_scaled_encode_many(nb_backend *be, const ni_scaled *to, const float *const *from, const int64_t *n,
                                 int32_t count) {
    ni_compose_encode(be, to, from, n, count);
}

void ni_paper_scaled_squares_many(nb_backend *be, double *out, const ni_scaled *x, const int64_t *n, int32_t count) {
    ni_compose_squares(be, out, x, n, count);
}
