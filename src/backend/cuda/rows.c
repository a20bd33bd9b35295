/* rows.c: the table's operations handed to their kernels. What a row means is said in ops.inc; here it gets the stream,
 * the scratch memory that it needs, and its fault is kept.
 */
#include "backend/cuda/rows.h"

#include "backend/cuda/attention.h"
#include "backend/cuda/gla.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/quantize.h"
#include "backend/ref/dge_occ.h"
#include "backend/ref/gemm.h"

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

void ni_cuda_rope(nb_backend *be, const nb_mat *x, const int32_t *positions, int64_t heads, const ni_rope *how,
                  bool inverse) {
    ni_cuda_good(be, ni_cuda_launch_rope(stream_of(be), x, positions, heads, how, inverse), "rope");
}

void ni_cuda_swiglu_forward(nb_backend *be, const nb_mat *y, const void *gate, const void *up) {
    ni_cuda_good(be, ni_cuda_launch_swiglu_forward(stream_of(be), y, gate, up), "swiglu_forward");
}

void ni_cuda_swiglu_backward(nb_backend *be, const nb_mat *dgate, const nb_mat *dup, const void *dy, const void *gate,
                             const void *up) {
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

/* ---- norms ---- */

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
    ni_cuda_good(be, ni_cuda_launch_rmsnorm_forward(stream_of(be), &norm), "rmsnorm_forward");
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
    ni_cuda_good(be, ni_cuda_launch_rmsnorm_forward(stream_of(be), &norm), "add_rmsnorm_forward");
}

void ni_cuda_rmsnorm_add_forward(nb_backend *be, void *out, void *rstd, const void *x, const void *change,
                                 const void *w, int64_t n, int64_t dim, double eps) {
    const ni_cuda_norm norm = {
        .y = out, .rstd = rstd, .x = change, .add = x, .w = w, .n = n, .dim = dim, .eps = (float)eps};
    ni_cuda_good(be, ni_cuda_launch_rmsnorm_forward(stream_of(be), &norm), "rmsnorm_add_forward");
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
    if (partial)
        ni_cuda_good(be, ni_cuda_launch_rmsnorm_backward(stream_of(be), &d), "rmsnorm_backward");
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
    if (partial)
        ni_cuda_good(be, ni_cuda_launch_rmsnorm_backward(stream_of(be), &d), "rmsnorm_backward_add");
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

/* ---- attention ---- */

static ni_cuda_attention attention_of(const nb_attention *a) {
    const int64_t q = a->heads * a->head_dim, kv = a->kv_heads * a->head_dim;
    return (ni_cuda_attention){.batch = a->batch,
                               .seq = a->seq,
                               .heads = a->heads,
                               .kv_heads = a->kv_heads,
                               .head_dim = a->head_dim,
                               .scale = a->scale,
                               .q_stride = a->q_stride ? a->q_stride : q,
                               .k_stride = a->k_stride ? a->k_stride : kv,
                               .v_stride = a->v_stride ? a->v_stride : kv,
                               .o_stride = a->o_stride ? a->o_stride : q,
                               .doc_start = a->doc_start,
                               .doc_end = a->doc_end};
}

static nb_status check_heads(const nb_attention *a, nb_error *err) {
    if (a->rule.sums != NB_ATTENTION_F32)
        return nb_fail(err, NB_UNSUPPORTED,
                       "cuda: attention sums in FP32; expected attention.sums: fp32 (the CPU has the others)");
    if (a->rule.forward != NB_ATTENTION_BF16_OPERANDS)
        return nb_fail(err, NB_UNSUPPORTED,
                       "cuda: attention multiplies BF16; expected attention.forward: bf16 (the CPU has the others)");
    if (a->head_dim % 8 == 0 && a->head_dim <= 256)
        return NB_OK;
    return nb_fail(err, NB_UNSUPPORTED, "cuda: attention with heads of %lld; expected a multiple of 8 up to 256",
                   (long long)a->head_dim);
}

/* The kernels know documents by both their bounds: who does not give them has them found. `more` bytes of scratch stand
 * behind. */
static nb_status ready_to_attend(nb_backend *be, const nb_attention *a, size_t more, ni_cuda_attention *shape,
                                 float **room, nb_error *err) {
    const int64_t tokens = a->batch * a->seq;
    const bool bounded = a->doc_start && a->doc_end;
    const size_t bounds = bounded ? 0 : ((size_t)tokens * 2 * sizeof(int32_t) + 255) / 256 * 256;
    NB_TRY(check_heads(a, err));
    *shape = attention_of(a);
    char *memory = ni_cuda_scratch(be, bounds + more, "attention");
    if (!memory)
        return ni_cuda_status(be, 0, "attention", err);
    *room = (float *)(void *)(memory + bounds);
    if (bounded)
        return NB_OK;
    int32_t *start = (int32_t *)(void *)memory;
    shape->doc_start = start;
    shape->doc_end = start + tokens;
    return ni_cuda_status(
        be, ni_cuda_launch_document_bounds(stream_of(be), start, start + tokens, a->doc_start, tokens, a->seq),
        "attention", err);
}

/* Words of o or of dv, cleared before the kernels that fill them; and by a reading of its own what those leave out. */
static int begin_amaxes(nb_backend *be, ni_cuda_attention *shape, uint32_t *amax, uint32_t *turned) {
    shape->amax = amax;
    shape->turned_amax = turned;
    return ni_cuda_clear_amaxes(stream_of(be), amax, turned);
}

static int finish_amaxes(nb_backend *be, const ni_cuda_attention *shape, const void *x, int64_t heads, int64_t stride) {
    if (shape->seq % 16 == 0)
        return cudaSuccess;
    return ni_cuda_find_turned(stream_of(be), x, shape->batch * shape->seq, heads * shape->head_dim, stride,
                               shape->turned_amax);
}

nb_status ni_cuda_attention_forward(nb_backend *be, const nb_attention *a, void *o, void *lse, const void *q,
                                    const void *k, const void *v, nb_error *err) {
    ni_cuda_attention shape;
    float *none;
    NB_TRY(ready_to_attend(be, a, 0, &shape, &none, err));
    int code = begin_amaxes(be, &shape, a->o_amax, a->o_turned_amax);
    if (code == cudaSuccess)
        code = ni_cuda_launch_attention_forward(&shape, o, lse, q, k, v, stream_of(be));
    if (code == cudaSuccess)
        code = finish_amaxes(be, &shape, o, a->heads, shape.o_stride);
    return ni_cuda_status(be, code, "attention_forward", err);
}

nb_status ni_cuda_attention_backward(nb_backend *be, const nb_attention *a, void *dq, void *dk, void *dv,
                                     const void *do_, const void *o, const void *lse, const void *q, const void *k,
                                     const void *v, nb_error *err) {
    ni_cuda_attention shape;
    float *delta;
    NB_TRY(ready_to_attend(be, a, (size_t)(a->batch * a->heads * a->seq) * sizeof(float), &shape, &delta, err));
    int code = begin_amaxes(be, &shape, a->dv_amax, a->dv_turned_amax);
    if (code == cudaSuccess)
        code = ni_cuda_launch_attention_backward(&shape, dq, dk, dv, do_, o, lse, q, k, v, delta, stream_of(be));
    if (code == cudaSuccess)
        code = finish_amaxes(be, &shape, dv, a->kv_heads, shape.v_stride);
    return ni_cuda_status(be, code, "attention_backward", err);
}

const char *ni_cuda_attention_kernel(nb_backend *be, const nb_attention *a, const char **why) {
    ni_cuda *cuda = ni_cuda_of(be);
    const ni_cuda_attention shape = attention_of(a);
    const char *tile = check_heads(a, NULL) == NB_OK ? ni_cuda_attention_forward_tile(&shape) : NULL;
    *why = cuda->permits.any_order ? "one order of sums: nothing here is faster for giving that up"
                                   : "one order of sums: no two blocks add to one number";
    if (!tile)
        return NULL;
    snprintf(cuda->attention, sizeof cuda->attention, "flash %s", tile);
    return cuda->attention;
}

/* Shape and workspace of a scan; the shapes that the kernels cannot do are told by name. */
static nb_status ready_to_scan(nb_backend *be, const ni_gla *g, int backward, ni_cuda_gla *shape, void **workspace,
                               nb_error *err) {
    *shape = (ni_cuda_gla){.batch = g->batch,
                           .seq = g->seq,
                           .heads = g->heads,
                           .key_dim = g->key_dim,
                           .value_dim = g->value_dim,
                           .scale = (float)g->scale,
                           .doc_start = g->doc_start};
    size_t bytes = ni_cuda_gla_workspace_bytes(shape, backward);
    if (bytes == 0 && g->batch * g->seq > 0)
        return nb_fail(
            err, NB_UNSUPPORTED,
            "cuda: gated linear attention with keys of %lld and values of %lld a head; expected multiples of "
            "8 up to 256 and 512",
            (long long)g->key_dim, (long long)g->value_dim);
    *workspace = ni_cuda_scratch(be, bytes, "gla");
    return *workspace ? NB_OK : ni_cuda_status(be, 0, "gla", err);
}

const char *ni_cuda_gla_kernel(nb_backend *be, const ni_gla *g, const char **why) {
    (void)be;
    const ni_cuda_gla shape = {
        .batch = g->batch, .seq = g->seq, .heads = g->heads, .key_dim = g->key_dim, .value_dim = g->value_dim};
    *why = "chunks on tensor cores, one order of sums";
    return ni_cuda_gla_workspace_bytes(&shape, 1) ? "chunks, mma" : NULL;
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
    return ni_cuda_status(
        be, ni_cuda_launch_gla_backward(&shape, dq, dk, dv, dgate, do_, q, k, v, gate, workspace, stream_of(be)),
        "gla_backward", err);
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
    if (permits->native_fp4 && !ni_cuda_has_fp4_units(cuda->major, cuda->minor))
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
    snprintf(text, size, "%s %d.%d, cublaslt %zu", ni_cuda_gemm_kernel(be, a, b), cuda->major, cuda->minor,
             cublasLtGetVersion());
}

nb_status ni_cuda_gemm_take(nb_backend *be, nb_dtype a, nb_dtype b, const char *sums, nb_error *err) {
    char ours[128];
    ni_cuda_gemm_sums(be, a, b, ours, sizeof ours);
    if (strcmp(sums, ours) == 0)
        return NB_OK;
    return nb_fail(err, NB_UNSUPPORTED, "cuda: products here are summed as \"%s\", not as \"%s\"", ours, sums);
}
