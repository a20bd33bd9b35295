/* rows.c: the table's operations handed to their kernels. What a row means is said in ops.inc; here it gets the stream,
 * the scratch memory that it needs, and its fault is kept.
 */
#include "backend/cuda/rows.h"

#include "backend/cuda/gla.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/maxima.h"
#include "backend/cuda/quantize.h"
#include "backend/ref/dge_occ.h"
#include "backend/ref/gemm.h"
#include "backend/units.h"

#include <stdio.h>
#include <string.h>

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

static int64_t elements(const nb_mat *m) {
    return m->rows * m->cols;
}

/* ---- elementwise ---- */

void ni_cuda_cast(nb_backend *be, void *to, nb_dtype to_type, const void *from, nb_dtype from_type, int64_t n) {
    ni_cuda_good(be, ni_cuda_launch_cast(stream_of(be), to, to_type, from, from_type, n), "cast");
}

void ni_cuda_add(nb_backend *be, void *out, const void *a, const void *b, int64_t n) {
    ni_cuda_good(be, ni_cuda_launch_add(stream_of(be), out, a, b, n), "add");
}

void ni_cuda_axpy(nb_backend *be, void *y, double alpha, const void *x, int64_t n) {
    ni_cuda_good(be, ni_cuda_launch_axpy(stream_of(be), y, (float)alpha, x, n), "axpy");
}

void ni_cuda_scale(nb_backend *be, const nb_mat *out, const nb_mat *in, const float *row_scale,
                   const float *col_scale) {
    const bool dense = out->stride == out->cols && in->stride == in->cols;
    if (dense && out->dtype == NB_BF16 && !row_scale && !col_scale) /* numbers as they lie */
        ni_cuda_good(be, ni_cuda_launch_cast(stream_of(be), out->data, out->dtype, in->data, in->dtype, elements(out)),
                     "scale");
    else
        ni_cuda_good(be, ni_cuda_launch_scale(stream_of(be), out, in, row_scale, col_scale), "scale");
}

void ni_cuda_swiglu_forward(nb_backend *be, const nb_mat *y, const void *gate, const void *up) {
    if (ni_cuda_good(be, ni_cuda_begin_maxima(be, y->amax, y->turned_amax), "swiglu_forward"))
        ni_cuda_good(be, ni_cuda_launch_swiglu_forward(stream_of(be), y, gate, up), "swiglu_forward");
}

void ni_cuda_swiglu_backward(nb_backend *be, const nb_mat *dgate, const nb_mat *dup, const void *dy, const void *gate,
                             const void *up) {
    if (ni_cuda_good(be, ni_cuda_begin_maxima(be, dgate->amax, dgate->turned_amax), "swiglu_backward") &&
        ni_cuda_good(be, ni_cuda_begin_maxima(be, dup->amax, dup->turned_amax), "swiglu_backward"))
        ni_cuda_good(be, ni_cuda_launch_swiglu_backward(stream_of(be), dgate, dup, dy, gate, up), "swiglu_backward");
}

/* ---- products of plain numbers ---- */

nb_status ni_cuda_gemm(nb_backend *be, const nb_mat *c, const nb_mat *a, bool trans_a, const nb_mat *b, bool trans_b,
                       bool accumulate, nb_error *err) {
    NB_TRY(ni_gemm_check(c, a, trans_a, b, trans_b, err));
    const ni_cuda_product product = {.a = *a,
                                     .b = *b,
                                     .c = *c,
                                     .trans_a = trans_a,
                                     .trans_b = trans_b,
                                     .beta = accumulate ? ni_cuda_of(be)->words + NI_CUDA_ONE : NULL};
    return ni_cuda_multiply_plain(be, &product, err);
}

const char *ni_cuda_gemm_kernel(nb_backend *be, nb_dtype a, nb_dtype b) {
    (void)be;
    return a == NB_BF16 && b == NB_BF16 ? "bf16 cublaslt" : "f32 cublaslt";
}

/* ---- embedding ---- */

void ni_cuda_embed_forward(nb_backend *be, void *out, const void *table, const int32_t *tokens, int64_t n,
                           int64_t dim) {
    ni_cuda_good(be, ni_cuda_launch_embed_forward(stream_of(be), out, table, tokens, n, dim), "embed_forward");
}

void ni_cuda_embed_backward(nb_backend *be, void *dtable, const void *dout, const int32_t *tokens, int64_t n,
                            int64_t dim, int64_t vocab) {
    size_t bytes = ni_cuda_embed_bytes(n);
    void *scratch = ni_cuda_scratch(be, bytes, "embed_backward");
    if (scratch)
        ni_cuda_good(be,
                     ni_cuda_launch_embed_backward(stream_of(be), dtable, dout, tokens, n, dim, vocab, scratch, bytes),
                     "embed_backward");
}

void ni_cuda_take_rows(nb_backend *be, void *out, const void *table, const int32_t *rows, int64_t n, int64_t dim) {
    ni_cuda_good(be, ni_cuda_launch_take_rows(stream_of(be), out, table, rows, n, dim), "take_rows");
}

void ni_cuda_put_rows(nb_backend *be, void *table, const void *in, const int32_t *rows, int64_t n, int64_t dim) {
    ni_cuda_good(be, ni_cuda_launch_put_rows(stream_of(be), table, in, rows, n, dim), "put_rows");
}

/* ---- norms ---- */

static void norm_forward(nb_backend *be, const ni_cuda_norm *norm, const char *what) {
    if (ni_cuda_good(be, ni_cuda_begin_maxima(be, norm->amax, norm->turned_amax), what))
        ni_cuda_good(be, ni_cuda_launch_rmsnorm_forward(stream_of(be), norm), what);
}

static void norm_backward(nb_backend *be, const ni_cuda_norm_slopes *d, const char *what) {
    if (d->partial && ni_cuda_good(be, ni_cuda_begin_maxima(be, d->amax, d->turned_amax), what))
        ni_cuda_good(be, ni_cuda_launch_rmsnorm_backward(stream_of(be), d), what);
}

static float *partial_for(nb_backend *be, int64_t n, int64_t dim, const char *what) {
    return ni_cuda_scratch(be, ni_cuda_partial_bytes(n, dim), what);
}

void ni_cuda_rmsnorm_forward(nb_backend *be, const nb_mat *y, void *rstd, const void *x, const void *w, double eps) {
    const ni_cuda_norm norm = {.y = y->data,
                               .amax = y->amax,
                               .turned_amax = y->turned_amax,
                               .rstd = rstd,
                               .x = x,
                               .w = w,
                               .n = y->rows,
                               .dim = y->cols,
                               .eps = (float)eps};
    norm_forward(be, &norm, "rmsnorm_forward");
}

void ni_cuda_add_rmsnorm_forward(nb_backend *be, void *out, const nb_mat *y, void *rstd, const void *x,
                                 const void *change, const void *w, double eps) {
    const ni_cuda_norm norm = {.y = y->data,
                               .amax = y->amax,
                               .turned_amax = y->turned_amax,
                               .rstd = rstd,
                               .x = x,
                               .change = change,
                               .sum = out,
                               .w = w,
                               .n = y->rows,
                               .dim = y->cols,
                               .eps = (float)eps};
    norm_forward(be, &norm, "add_rmsnorm_forward");
}

void ni_cuda_rmsnorm_add_forward(nb_backend *be, void *out, void *rstd, const void *x, const void *change,
                                 const void *w, int64_t n, int64_t dim, double eps) {
    const ni_cuda_norm norm = {
        .y = out, .rstd = rstd, .x = change, .add = x, .w = w, .n = n, .dim = dim, .eps = (float)eps};
    norm_forward(be, &norm, "rmsnorm_add_forward");
}

void ni_cuda_rmsnorm_backward(nb_backend *be, const nb_mat *dx, void *dw, const void *dy, const void *x, const void *w,
                              const void *rstd) {
    float *partial = partial_for(be, dx->rows, dx->cols, "rmsnorm_backward");
    const ni_cuda_norm_slopes d = {.dx = dx->data,
                                   .amax = dx->amax,
                                   .turned_amax = dx->turned_amax,
                                   .dw = dw,
                                   .dy = dy,
                                   .x = x,
                                   .w = w,
                                   .rstd = rstd,
                                   .n = dx->rows,
                                   .dim = dx->cols,
                                   .partial = partial};
    norm_backward(be, &d, "rmsnorm_backward");
}

void ni_cuda_rmsnorm_backward_add(nb_backend *be, const nb_mat *dout, void *dw, const void *dy, const void *x,
                                  const void *w, const void *rstd) {
    float *partial = partial_for(be, dout->rows, dout->cols, "rmsnorm_backward_add");
    const ni_cuda_norm_slopes d = {.dx = dout->data,
                                   .into = true,
                                   .amax = dout->amax,
                                   .turned_amax = dout->turned_amax,
                                   .dw = dw,
                                   .dy = dy,
                                   .x = x,
                                   .w = w,
                                   .rstd = rstd,
                                   .n = dout->rows,
                                   .dim = dout->cols,
                                   .partial = partial};
    norm_backward(be, &d, "rmsnorm_backward_add");
}

void ni_cuda_add_rmsnorm_backward(nb_backend *be, void *dout, const nb_mat *dx, void *dw, const void *change,
                                  const void *x, const void *w, const void *rstd) {
    ni_cuda_good(be, ni_cuda_launch_add(stream_of(be), dout, dout, change, elements(dx)), "add_rmsnorm_backward");
    ni_cuda_rmsnorm_backward(be, dx, dw, dout, x, w, rstd);
}

void ni_cuda_gated_norm_forward(nb_backend *be, const nb_mat *y, void *rstd, const void *o, const void *g,
                                const void *w, double eps) {
    ni_cuda_good(
        be,
        ni_cuda_launch_gated_norm_forward(stream_of(be), y->data, y->amax, rstd, o, g, w, y->rows, y->cols, (float)eps),
        "gated_norm_forward");
}

void ni_cuda_gated_norm_backward(nb_backend *be, void *do_, const nb_mat *dg, void *dw, const void *dy, const void *o,
                                 const void *g, const void *w, const void *rstd) {
    float *partial = partial_for(be, dg->rows, dg->cols, "gated_norm_backward");
    if (partial)
        ni_cuda_good(be,
                     ni_cuda_launch_gated_norm_backward(stream_of(be), do_, dg->data, dg->amax, dw, dy, o, g, w, rstd,
                                                        dg->rows, dg->cols, partial),
                     "gated_norm_backward");
}

/* ---- gated linear attention ---- */

/* Shape and workspace of a scan; the shapes that the kernels cannot do are told by name. */
static nb_status ready_to_scan(nb_backend *be, const ni_gla *g, int backward, ni_cuda_gla *shape, void **workspace,
                               nb_error *err) {
    *shape = (ni_cuda_gla){.batch = g->batch,
                           .seq = g->seq,
                           .heads = g->heads,
                           .key_dim = g->key_dim,
                           .value_dim = g->value_dim,
                           .scale = (float)g->scale,
                           .doc_start = g->doc_start,
                           .rings = ni_cuda_joins(ni_cuda_of(be))};
    memcpy(shape->amax, g->amax, sizeof shape->amax);
    memcpy(shape->turned_amax, g->turned_amax, sizeof shape->turned_amax);
    shape->left = g->left;
    if (g->made) {
        shape->a = g->made->a;
        shape->bias = g->made->bias;
        shape->da = g->made->da;
        shape->dbias = g->made->dbias;
        shape->normalizer = (float)g->made->normalizer;
        shape->clamp = (float)g->made->clamp;
    }
    const size_t bytes = ni_cuda_gla_workspace_bytes(shape, backward);
    if (ni_cuda_gla_chunk_bytes(shape) == 0 && g->batch * g->seq > 0)
        return nb_fail(
            err, NB_UNSUPPORTED,
            "cuda: gated linear attention with keys of %lld and values of %lld a head; expected multiples of "
            "8 up to 256 and 512",
            (long long)g->key_dim, (long long)g->value_dim);
    *workspace = bytes ? ni_cuda_scratch(be, bytes, "gla") : NULL;
    return *workspace || !bytes ? NB_OK : ni_cuda_status(be, 0, "gla", err);
}

const char *ni_cuda_gla_kernel(nb_backend *be, const ni_gla *g, const char **why) {
    const ni_cuda_gla shape = {.batch = g->batch,
                               .seq = g->seq,
                               .heads = g->heads,
                               .key_dim = g->key_dim,
                               .value_dim = g->value_dim,
                               .rings = ni_cuda_joins(ni_cuda_of(be))};
    *why = "chunks on tensor cores, one order of sums";
    if (!ni_cuda_gla_workspace_bytes(&shape, 1))
        return NULL;
    return ni_cuda_gla_by_warpgroups(&shape) ? "chunks, wgmma" : "chunks, mma";
}

size_t ni_cuda_gla_left_bytes(nb_backend *be, const ni_gla *g) {
    (void)be;
    const ni_cuda_gla shape = {
        .batch = g->batch, .seq = g->seq, .heads = g->heads, .key_dim = g->key_dim, .value_dim = g->value_dim};
    return ni_cuda_gla_chunk_bytes(&shape);
}

nb_status ni_cuda_gla_forward(nb_backend *be, const ni_gla *g, void *o, const void *q, const void *k, const void *v,
                              const void *gate, nb_error *err) {
    ni_cuda_gla shape;
    void *workspace;
    NB_TRY(ready_to_scan(be, g, 0, &shape, &workspace, err));
    return ni_cuda_status(be, ni_cuda_launch_gla_forward(&shape, o, q, k, v, gate, workspace, stream_of(be)),
                          "gla_forward", err);
}

nb_status ni_cuda_gla_backward(nb_backend *be, const ni_gla *g, void *dq, void *dk, void *dv, void *dgate,
                               const void *do_, const void *q, const void *k, const void *v, const void *gate,
                               nb_error *err) {
    ni_cuda_gla shape;
    void *workspace;
    NB_TRY(ready_to_scan(be, g, 1, &shape, &workspace, err));
    const void *slopes[] = {dq, dk, dv};
    int code = cudaSuccess;
    for (int i = 0; i < 3 && code == cudaSuccess; i++)
        code = ni_cuda_begin_maxima(be, g->amax[i], g->turned_amax[i]);
    if (code == cudaSuccess)
        code = ni_cuda_launch_gla_backward(&shape, dq, dk, dv, dgate, do_, q, k, v, gate, workspace, stream_of(be));
    for (int i = 0; i < 3 && code == cudaSuccess && g->seq % 16 != 0; i++) {
        const int64_t cols = g->heads * (i < 2 ? g->key_dim : g->value_dim);
        code = ni_cuda_find_turned(stream_of(be), slopes[i], g->batch * g->seq, cols, cols, g->turned_amax[i]);
    }
    return ni_cuda_status(be, code, "gla_backward", err);
}

void ni_cuda_gla_gate_forward(nb_backend *be, void *gate, const void *a, const void *bias, int64_t n, int64_t dim,
                              double normalizer, double clamp) {
    ni_cuda_good(be, ni_cuda_launch_gate_forward(stream_of(be), gate, a, bias, n, dim, (float)normalizer, (float)clamp),
                 "gla_gate_forward");
}

void ni_cuda_gla_gate_backward(nb_backend *be, void *da, void *dbias, const void *dgate, const void *a,
                               const void *bias, int64_t n, int64_t dim, double normalizer, double clamp) {
    float *partial = partial_for(be, n, dim, "gla_gate_backward");
    if (partial)
        ni_cuda_good(be,
                     ni_cuda_launch_gate_backward(stream_of(be), da, dbias, dgate, a, bias, n, dim, (float)normalizer,
                                                  (float)clamp, partial),
                     "gla_gate_backward");
}

/* ---- loss ---- */

void ni_cuda_cross_entropy(nb_backend *be, void *loss, void *z, void *dlogits, const void *logits,
                           const int32_t *targets, int64_t n, int64_t vocab, double grad_scale, double z_loss) {
    ni_cuda_good(be,
                 ni_cuda_launch_cross_entropy(stream_of(be), loss, z, dlogits, logits, targets, n, vocab,
                                              (float)grad_scale, (float)z_loss),
                 "cross_entropy");
}

/* ---- which kernels, which order of sums ---- */

nb_status ni_cuda_permit(nb_backend *be, const ni_permits *permits, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    if (permits->native_fp4 && !ni_has_fp4_units(cuda->major, cuda->minor))
        return nb_fail(err, NB_UNSUPPORTED,
                       "native_fp4: %s has compute capability %d.%d and no units for four bits; expected 10.0, 10.3 or "
                       "12.0; hint: native_fp4: false computes the same codes in BF16",
                       cuda->name, cuda->major, cuda->minor);
    if (permits->any_order != cuda->permits.any_order) { /* what was chosen was chosen under the other rule */
        ni_cuda_plans_free(cuda->plans);
        cuda->plans = NULL;
    }
    cuda->permits = *permits;
    return NB_OK;
}

void ni_cuda_gemm_sums(nb_backend *be, nb_dtype a, nb_dtype b, char *text, size_t size) {
    const ni_cuda *cuda = ni_cuda_of(be);
    snprintf(text, size, "%s %d.%d, cublaslt %zu%s", ni_cuda_gemm_kernel(be, a, b), cuda->major, cuda->minor,
             cublasLtGetVersion(), ni_cuda_joins(cuda) ? ", joined, parted" : "");
}

nb_status ni_cuda_gemm_take(nb_backend *be, nb_dtype a, nb_dtype b, const char *sums, nb_error *err) {
    char ours[128];
    ni_cuda_gemm_sums(be, a, b, ours, sizeof ours);
    if (strcmp(sums, ours) == 0)
        return NB_OK;
    return nb_fail(err, NB_UNSUPPORTED, "cuda: products here are summed as \"%s\", not as \"%s\"", ours, sums);
}
