/* hcp.c: the Hot-Channel Patch (arXiv:2602.02047): the quantization errors of the k worst input channels I of each
 * layer are multiplied too. Formulas and what no source states: docs/recipes/chon.md.
 *
 *     fprop   Y       = [Xq | dX_I | X_I] [Wq | W_I | dW_I]^T      one GEMM over K + 2k channels, or two
 *     dgrad   dX[:,I] += Gq dW_I                                   option: makes W exact on I
 *     wgrad   dW[:,I] += Gq^T dX_I                                 option: makes X exact on I
 *
 * In wgrad the residual is that of the operand wgrad.x, in the basis in which it was rotated.
 */
#include "linear/hcp.h"
#include "backend/table.h"

#include "format/hadamard.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static bool hcp_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_hcp;
}

/* ---- life ---- */

static void hcp_detach(void *state) {
    nb_hcp_state *h = state;
    for (int32_t i = 0; i < h->group->count; i++) {
        h->group->be->ops->release(h->group->be, h->layers[i].channels);
        h->group->be->ops->release(h->group->be, h->layers[i].w_memory);
        free(h->layers[i].scores);
    }
    free(h);
}

/* round(share K / 16) blocks. */
static int64_t patched_channels(double share, int64_t in) {
    int64_t blocks = llround(share * (double)in / 16), most = in / 16;
    return 16 * (blocks < most ? blocks : most);
}

static bool is_nvfp4(const nb_quantizer *q) {
    return q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_E4M3 && q->outer == NB_OUTER_TENSOR &&
           q->block_cols == 16 && q->round != NB_ROUND_STOCHASTIC && q->hadamard_size == 0;
}

static nb_status check_layer(const nb_hcp_state *h, const nb_linear *layer, nb_error *err) {
    const nb_operand_rule *roles = layer->plan.roles;
    const nb_hcp *how = &h->how;
    if (!is_nvfp4(&roles[NB_FPROP_X].quantizer) || !is_nvfp4(&roles[NB_FPROP_W].quantizer))
        return nb_fail(err, NB_UNSUPPORTED,
                       "%s: hcp patches fprop.x and fprop.w in nvfp4 only, rounded to nearest and not rotated",
                       layer->name);
    if (how->form == NB_HCP_CANCEL && (how->order == 2) != (how->side == NB_HCP_BOTH))
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: hcp.order %d with hcp.side %s; order 2 needs both sides, order 1 is one of activation and "
                       "weight",
                       layer->name, how->order,
                       how->side == NB_HCP_BOTH     ? "both"
                       : how->side == NB_HCP_WEIGHT ? "weight"
                                                    : "activation");
    if (how->form == NB_HCP_PRINTED && (how->order != 2 || how->side != NB_HCP_BOTH))
        return nb_fail(err, NB_BAD_CONFIG, "%s: hcp.form printed has one term, of both residuals: order 2, side both",
                       layer->name);
    const nb_operand_rule *w = &roles[NB_DGRAD_W];
    if (how->dgrad && h->group->training && (!w->from || w->requantize || layer->out % 16))
        return nb_fail(err, NB_UNSUPPORTED,
                       "%s: hcp.dgrad needs `dgrad.w: {from: fprop.w}` and outputs in blocks of 16", layer->name);
    if (how->wgrad && h->group->training && !roles[NB_WGRAD_X].from &&
        nb_quantizer_is_bf16(&roles[NB_WGRAD_X].quantizer))
        return nb_fail(err, NB_UNSUPPORTED, "%s: hcp.wgrad needs wgrad.x quantized", layer->name);
    return NB_OK;
}

static nb_status place(nb_hcp_state *h, size_t bytes, void **memory, nb_error *err) {
    *memory = h->group->be->ops->alloc(h->group->be, bytes, "hot channels");
    h->bytes += bytes;
    return *memory ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory for its hot channels", h->group->input);
}

static nb_status place_layer(nb_hcp_state *h, const nb_linear *layer, nb_error *err) {
    nb_hcp_layer *p = &h->layers[layer->index];
    const nb_quantizer *w = &layer->plan.roles[NB_FPROP_W].quantizer;
    NB_TRY(place(h, sizeof(int32_t) * (size_t)h->k, (void **)&p->channels, err));
    NB_TRY(place(h, nb_hcp_operand_bytes(h, w, layer->out), &p->w_memory, err));
    p->scores = calloc((size_t)h->group->in, sizeof *p->scores);
    return p->scores ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory for its channels' scores", layer->name);
}

static nb_status hcp_attach(nb_linear_group *group, int32_t index, void **state, nb_error *err) {
    nb_backend *be = group->be;
    if (!be->ops->gather_columns || !be->ops->measure || be->real != NB_F32 || be->act != NB_BF16)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no hot-channel patch", group->input, be->name);
    nb_hcp_state *h = calloc(1, sizeof *h);
    if (!h)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for hcp", group->input);
    h->group = group;
    h->index = index;
    *state = h;
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].mechanisms >> index & 1)
            h->how = group->layers[i].plan.mechanisms.hcp; /* one recipe: the same for all of the group */
    h->k = patched_channels(h->how.share, group->in);
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].mechanisms >> index & 1) {
            NB_TRY(check_layer(h, &group->layers[i], err));
            if (h->k > 0)
                NB_TRY(place_layer(h, &group->layers[i], err));
        }
    return NB_OK;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* What making an operand takes, X's operand, sums of Y before they are rounded, operands decoded for their product;
 * in the backward pass a residual beside a product's sum, dX before it is rounded and a decoded wgrad.x. */
static size_t hcp_scratch(const void *state, int64_t rows) {
    const nb_hcp_state *h = state;
    size_t m = (size_t)rows, n = (size_t)nb_group_widest(h->group), in = (size_t)h->group->in, k = (size_t)h->k;
    size_t cols = (size_t)nb_hcp_columns(h);
    int64_t most = rows > (int64_t)n ? rows : (int64_t)n;
    if (k == 0)
        return 0;
    size_t forward = nb_hcp_operand_scratch(h, most) + 2 * m * cols + 8 * m * n + 2 * (m + n) * larger(cols, in);
    size_t dgrad = h->how.dgrad ? 4 * n * in + 14 * n * k + 4 * m * (in + k) + 2 * (m * n + n * k) + 3 * m * n : 0;
    size_t wgrad = h->how.wgrad ? 4 * m * in + 24 * m * k + 4 * n * k + 2 * (m * n + m * k) + 65536 : 0;
    return larger(larger(forward, nb_hcp_refresh_scratch(h, most)), larger(dgrad, wgrad)) + 4096;
}

/* ---- forward ---- */

static bool patches(const nb_hcp_state *h) {
    return h->k > 0 && h->refreshed > 0;
}

static float largest(nb_backend *be, const nb_mat *m) {
    nb_moments moments;
    be->ops->measure(be, m, &moments, NULL, NULL);
    return (float)moments.amax;
}

static nb_status hcp_observe(void *state, const nb_linear_call *call, nb_error *err) {
    nb_hcp_state *h = state;
    size_t mark = call->scratch->used;
    NB_TRY(nb_hcp_refresh(h, call, err));
    call->scratch->used = mark;
    if (patches(h) && !call->pass->forward_bf16)
        h->x_amax = largest(call->be, call->x);
    return NB_OK;
}

static nb_status patch_x(nb_hcp_state *h, const nb_linear_call *call, const nb_linear *layer, const nb_qtensor *codes,
                         nb_operand *out, nb_error *err) {
    size_t bytes = nb_hcp_operand_bytes(h, &codes->quantizer, codes->rows);
    void *memory = nb_scratch_take(call->scratch, bytes);
    if (!memory)
        return nb_scratch_short(call->scratch, "X with its patch", bytes, err);
    const nb_hcp_source source = {call->x, codes, h->x_amax, false};
    return nb_hcp_operand(h, call->scratch, &source, h->layers[layer->index].channels, memory, out, err);
}

static nb_status patch_w(nb_hcp_state *h, const nb_linear_call *call, const nb_linear *layer, const nb_qtensor *codes,
                         nb_operand *out, nb_error *err) {
    nb_hcp_layer *p = &h->layers[layer->index];
    if (!p->w_fresh || p->w_made != layer->weight.made) {
        nb_mat master = nb_mat_of(nb_linear_master(call->be, layer), call->be->real, layer->out, layer->in);
        const nb_hcp_source source = {&master, codes, largest(call->be, &master), true};
        NB_TRY(nb_hcp_operand(h, call->scratch, &source, p->channels, p->w_memory, &p->w, err));
        p->w_made = layer->weight.made;
        p->w_fresh = true;
    }
    *out = p->w;
    return NB_OK;
}

/* sum += factor * x w^T: operands decoded without their tensor scales. */
static nb_status add_decoded(const nb_linear_call *call, const nb_operand *x, const nb_operand *w,
                             const nb_qtensor *x_base, const nb_qtensor *w_base, const nb_mat *sum, nb_error *err) {
    nb_backend *be = call->be;
    float sx, sw;
    nb_mat part;
    be->ops->download(be, &sx, x_base->tensor_scale, sizeof sx);
    be->ops->download(be, &sw, w_base->tensor_scale, sizeof sw);
    NB_TRY(nb_hcp_take(call->scratch, NB_F32, sum->rows, sum->cols, &part, err));
    NB_TRY(be->ops->gemm(be, &part, &x->plain, false, &w->plain, true, false, err));
    be->ops->axpy(be, sum->data, (double)(sx * sw), part.data, sum->rows * sum->cols);
    return NB_OK;
}

static nb_status hcp_fprop(void *state, const nb_linear_call *call, nb_linear *layer, const nb_mat *y, bool *done,
                           nb_error *err) {
    nb_hcp_state *h = state;
    nb_backend *be = call->be;
    nb_operand x, w, px, pw;
    nb_mat sum = *y;
    bool single = h->how.kernel == NB_HCP_SINGLE, exact = h->how.copy == NB_HCP_EXACT;
    if (!patches(h))
        return NB_OK;
    *done = true;
    NB_TRY(nb_input_operand(call, layer, NB_FPROP_X, &x, err));
    NB_TRY(nb_weight_operand(call, layer, NB_FPROP_W, &w, err));
    NB_TRY(patch_x(h, call, layer, &x.codes, &px, err));
    NB_TRY(patch_w(h, call, layer, &w.codes, &pw, err));
    if (single && !exact)
        return nb_multiply(be, call->scratch, y, &px, &pw, false, err);
    if (y->dtype != be->real)
        NB_TRY(nb_hcp_take(call->scratch, be->real, y->rows, y->cols, &sum, err));
    if (single)
        be->ops->fill_zero(be, sum.data, sizeof(float) * (size_t)(y->rows * y->cols));
    else
        NB_TRY(nb_multiply(be, call->scratch, &sum, &x, &w, false, err));
    if (exact)
        NB_TRY(add_decoded(call, &px, &pw, &x.codes, &w.codes, &sum, err));
    else
        NB_TRY(nb_multiply(be, call->scratch, &sum, &px, &pw, true, err));
    if (sum.data != y->data)
        be->ops->cast(be, y->data, y->dtype, sum.data, sum.dtype, y->rows * y->cols);
    return NB_OK;
}

/* ---- backward ---- */

/* to[:, I] += a q(residual)^T, where the residual [n, k] is quantized along n, under its own tensor scale. */
static nb_status add_columns(const nb_hcp_state *h, const nb_linear_call *call, const nb_linear *layer,
                             const nb_operand *a, const nb_mat *residual, const nb_mat *to, nb_error *err) {
    nb_backend *be = call->be;
    nb_quantizer q = nb_hcp_rows(&layer->plan.roles[NB_FPROP_X].quantizer);
    size_t bytes = nb_qtensor_bytes(&q, residual->cols, residual->rows).total;
    void *memory = nb_scratch_take(call->scratch, bytes);
    nb_mat sum;
    if (!memory)
        return nb_scratch_short(call->scratch, "a residual of hot channels", bytes, err);
    nb_operand b = {.quantized = true, .codes = nb_qtensor_place(&q, residual->cols, residual->rows, memory)};
    NB_TRY(be->ops->quantize(be, &b.codes, residual, true, NULL, NULL, err));
    NB_TRY(nb_hcp_take(call->scratch, NB_F32, to->rows, h->k, &sum, err));
    NB_TRY(nb_multiply(be, call->scratch, &sum, a, &b, false, err));
    be->ops->scatter_columns(be, to, &sum, h->layers[layer->index].channels, true);
    return NB_OK;
}

static nb_status hcp_dgrad(void *state, const nb_linear_call *call, nb_linear *layer, const nb_mat *dy,
                           const nb_mat *dx, bool accumulate, bool *done, nb_error *err) {
    nb_hcp_state *h = state;
    nb_backend *be = call->be;
    nb_operand a, w, forward;
    nb_mat sum = *dx, residual, master = nb_mat_of(nb_linear_master(be, layer), be->real, layer->out, layer->in);
    if (!h->how.dgrad || !patches(h))
        return NB_OK;
    *done = true;
    if (dx->dtype != be->real) { /* then it is this layer's alone */
        NB_TRY(nb_hcp_take(call->scratch, be->real, dx->rows, dx->cols, &sum, err));
        accumulate = false;
    }
    NB_TRY(nb_dgrad_dy(call, layer, dy, &a, err));
    NB_TRY(nb_weight_operand(call, layer, NB_DGRAD_W, &w, err));
    NB_TRY(nb_multiply(be, call->scratch, &sum, &a, &w, accumulate, err));
    NB_TRY(nb_weight_operand(call, layer, NB_FPROP_W, &forward, err));
    NB_TRY(nb_hcp_take(call->scratch, NB_F32, layer->out, h->k, &residual, err));
    NB_TRY(
        nb_hcp_residual(h, call->scratch, &master, &forward.codes, h->layers[layer->index].channels, &residual, err));
    NB_TRY(add_columns(h, call, layer, &a, &residual, &sum, err));
    if (sum.data != dx->data)
        be->ops->cast(be, dx->data, dx->dtype, sum.data, sum.dtype, dx->rows * dx->cols);
    return NB_OK;
}

/* x [M, k] F32 along the tokens into the basis of the operand wgrad.x: one product with the rotation for each group of
 * n tokens. */
static nb_status rotate(const nb_linear_call *call, const nb_linear *layer, nb_mat *x, nb_error *err) {
    const nb_quantizer *q = &layer->plan.roles[NB_WGRAD_X].quantizer;
    nb_backend *be = call->be;
    int32_t n = q->hadamard_size;
    if (n == 0)
        return NB_OK;
    const nb_noise noise = {.seed = call->pass->rounding_seed,
                            .signs = layer->names[NB_WGRAD_X].signs,
                            .step = call->pass->step,
                            .micro_batch = call->pass->micro_batch};
    nb_sign_mask signs = nb_signs_of(q->hadamard_signs, &noise);
    nb_mat h, out;
    NB_TRY(nb_hcp_take(call->scratch, NB_F32, n, n, &h, err));
    NB_TRY(nb_hcp_take(call->scratch, NB_F32, x->rows, x->cols, &out, err));
    for (int32_t i = 0; i < n; i++) { /* row i of `h` is the image of the i-th unit vector: the rotation, transposed */
        float row[NB_HADAMARD_MAX] = {0};
        row[i] = 1;
        nb_hadamard(row, n, signs);
        be->ops->upload(be, (float *)h.data + (int64_t)i * n, row, sizeof(float) * (size_t)n);
    }
    for (int64_t r = 0; r < x->rows; r += n) {
        nb_mat from = nb_mat_of((float *)x->data + r * x->cols, NB_F32, n, x->cols), to = from;
        to.data = (float *)out.data + r * x->cols;
        NB_TRY(be->ops->gemm(be, &to, &h, true, &from, false, false, err));
    }
    *x = out;
    return NB_OK;
}

/* Rotated X_I less what wgrad.x holds of it, [M, k]. */
static nb_status wgrad_residual(const nb_hcp_state *h, const nb_linear_call *call, const nb_linear *layer,
                                const nb_operand *operand, nb_mat *out, nb_error *err) {
    nb_backend *be = call->be;
    const int32_t *channels = h->layers[layer->index].channels;
    int64_t m = call->x->rows;
    nb_mat gathered, whole = operand->plain, held, held_wide;
    NB_TRY(nb_hcp_take(call->scratch, call->x->dtype, m, h->k, &gathered, err));
    NB_TRY(nb_hcp_take(call->scratch, NB_F32, m, h->k, out, err));
    be->ops->gather_columns(be, &gathered, call->x, channels);
    be->ops->cast(be, out->data, NB_F32, gathered.data, gathered.dtype, m * h->k);
    if (operand->quantized) {
        NB_TRY(rotate(call, layer, out, err));
        NB_TRY(nb_hcp_take(call->scratch, NB_F32, m, h->group->in, &whole, err));
        NB_TRY(be->ops->dequantize(be, &whole, &operand->codes, true, true, err));
    }
    NB_TRY(nb_hcp_take(call->scratch, whole.dtype, m, h->k, &held, err));
    NB_TRY(nb_hcp_take(call->scratch, NB_F32, m, h->k, &held_wide, err));
    be->ops->gather_columns(be, &held, &whole, channels);
    be->ops->cast(be, held_wide.data, NB_F32, held.data, held.dtype, m * h->k);
    be->ops->axpy(be, out->data, -1, held_wide.data, m * h->k);
    return NB_OK;
}

static nb_status hcp_wgrad(void *state, const nb_linear_call *call, nb_linear *layer, const nb_mat *dy,
                           const nb_mat *dw, bool *done, nb_error *err) {
    nb_hcp_state *h = state;
    nb_operand a, x;
    nb_mat residual;
    if (!h->how.wgrad || !patches(h))
        return NB_OK;
    *done = true;
    NB_TRY(nb_wgrad_dy(call, layer, dy, &a, err));
    NB_TRY(nb_input_operand(call, layer, NB_WGRAD_X, &x, err));
    NB_TRY(nb_multiply(call->be, call->scratch, dw, &a, &x, true, err));
    NB_TRY(wgrad_residual(h, call, layer, &x, &residual, err));
    return add_columns(h, call, layer, &a, &residual, dw, err);
}

/* ---- checkpoints, census ---- */

static int32_t hcp_tensors(void *state, nb_mechanism_tensor *tensors, int32_t most) {
    nb_hcp_state *h = state;
    int32_t count = 0;
    for (int32_t i = 0; i < h->group->count; i++) {
        nb_hcp_layer *p = &h->layers[i];
        if (!p->channels)
            continue;
        if (count++ < most)
            tensors[count - 1] = (nb_mechanism_tensor){i, "hcp.channels", NB_I32, h->k, p->channels, false};
        if (count++ < most)
            tensors[count - 1] = (nb_mechanism_tensor){i, "hcp.scores", NB_F32, h->group->in, p->scores, true};
    }
    if (count++ < most)
        tensors[count - 1] = (nb_mechanism_tensor){-1, "hcp.refreshed", NB_I32, 1, &h->refreshed, true};
    return count;
}

/* Channels decide addresses: ascending, and of this layer. */
static nb_status hcp_loaded(void *state, nb_error *err) {
    nb_hcp_state *h = state;
    int32_t *channels = malloc(sizeof *channels * (size_t)(h->k + 1));
    bool good = channels && h->refreshed >= 0;
    for (int32_t i = 0; i < h->group->count && good && h->refreshed; i++) {
        if (!h->layers[i].channels)
            continue;
        h->layers[i].w_fresh = false;
        h->group->be->ops->download(h->group->be, channels, h->layers[i].channels, sizeof *channels * (size_t)h->k);
        for (int64_t c = 0; c < h->k && good; c++)
            good = channels[c] >= (c ? channels[c - 1] + 1 : 0) && channels[c] < h->group->in;
    }
    bool memory = channels != NULL;
    free(channels);
    if (!memory)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to check its hot channels", h->group->input);
    return good ? NB_OK : nb_fail(err, NB_BAD_FILE, "%s: hcp.channels are not channels of it", h->group->input);
}

static size_t hcp_bytes(const void *state) {
    return ((const nb_hcp_state *)state)->bytes;
}

static void hcp_text(const void *state, const nb_linear *layer, const char *gemm, char *text, size_t size) {
    const nb_hcp_state *h = state;
    (void)layer;
    bool here = gemm[0] == 'f' || (gemm[0] == 'd' ? h->how.dgrad : h->how.wgrad);
    if (here)
        snprintf(text, size, "hcp %lld of %lld channels", (long long)h->k, (long long)h->group->in);
}

const nb_mechanism nb_mechanism_hcp = {
    .name = "hcp",
    .wanted = hcp_wanted,
    .attach = hcp_attach,
    .detach = hcp_detach,
    .scratch = hcp_scratch,
    .observe = hcp_observe,
    .fprop = hcp_fprop,
    .dgrad = hcp_dgrad,
    .wgrad = hcp_wgrad,
    .tensors = hcp_tensors,
    .loaded = hcp_loaded,
    .bytes = hcp_bytes,
    .text = hcp_text,
};
