/* occ.c: outlier clamping and compensation (arXiv:2501.17116 section 3.2).
 *
 *     X_c = clamp(X, quantile 1 - alpha, quantile alpha)      what is quantized
 *     S   = X - X_c                                           sparse: about 2 (1 - alpha) of X
 *     Y   = Q(X_c) Wq^T + S Wq^T                              rest: sparse: two terms, rounded once
 *     dW  = dY^T (Q(X_c) + S)                                 the compensated activation is what backward sees
 *     dX  = dY Wq                                             straight through the clamp: no mask
 *
 * S is rounded to BF16, as in the public code, or kept in FP32 (rest: exact). X and X_c are BF16, so their difference
 * in FP32 is exact but where one is more than 2^16 times the other.
 *
 * rest: dense is the authors' research code: Q(X_c) + S is rounded to E4M3 as a whole and multiplied once by Wq in
 * E4M3, in fprop and, where dY has one scale, in wgrad: codes under one scale, which stays outside of the sum.
 * rest: none is their public code, which loses S.
 */
#include "backend/table.h"
#include "format/vector_scales.h"
#include "linear/linear.h"
#include "nibble/lens.h"
#include "recipe/mechanism.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct occ {
    ni_linear_group *group;
    nb_occ how;
    int64_t low, high; /* ranks within a token */
    ni_sparse rest;    /* of the pass at hand; no memory where it is lost */
    void *memory;
    size_t bytes;
    /* Where rest is dense: X + S until X is made anew, W and both operands of wgrad of the product at hand. */
    nb_operand dense_x, dense_w, turned_x, turned_dy;
    void *dense_memory;
    size_t dense_bytes;
    const ni_cached_operand *dense_of; /* made of this one when it was */
    uint32_t dense_made;
    const nb_operand *dense_with; /* made with this one, at once */
} occ;

static const nb_quantizer dense_quantizer = {
    .element = NB_ELEMENT_E4M3, .scale_type = NB_SCALE_F32, .rule = NB_RULE_ABSMAX};

/* Ranks as the published code takes them: truncated in double, no interpolation. */
static int64_t low_rank(double alpha, int64_t n) {
    return (int64_t)((1 - alpha) * (double)n);
}

static int64_t high_rank(double alpha, int64_t n) {
    int64_t rank = (int64_t)(alpha * (double)n);
    return rank < n ? rank : n - 1;
}

/* ---- keys ---- */

static const ni_word occ_scopes[] = {{"token", NB_OCC_TOKEN, "quantiles of each token"},
                                     {"tensor", NB_OCC_TENSOR, "quantiles of the whole activation"},
                                     {0}};
static const ni_word occ_rests[] = {
    {"sparse", NB_OCC_SPARSE, "rounded to BF16, a sparse product in fprop; decoded + residual in wgrad"},
    {"exact", NB_OCC_EXACT, "the same in FP32: X_c + S is X to the bit"},
    {"dense", NB_OCC_DENSE, "added to the decoded X, rounded to E4M3, one product"},
    {"none", NB_OCC_NONE, "lost"},
    {0}};
static const ni_key occ_rows[] = {
    {.path = "alpha",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_occ, alpha),
     .fallback = "0.99",
     .low = 0.5,
     .high = 1,
     .help = "quantile that X is clamped to, from above; 1 - alpha from below",
     .source = "arXiv:2501.17116 section 4.1"},
    {.path = "scope",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_occ, scope),
     .fallback = "token",
     .words = occ_scopes,
     .help = "what the quantiles are taken over",
     .source = "the public code follows the scope of the scale; the paper does not say"},
    {.path = "rest",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_occ, rest),
     .fallback = "sparse",
     .words = occ_rests,
     .help = "what becomes of what was cut off",
     .source = "arXiv:2501.17116 section 3.2"},
};

const ni_mechanism_section ni_occ_section = {
    .keys = {.name = "occ", .rows = occ_rows, .count = NI_COUNT(occ_rows), .size = sizeof(nb_occ)},
};

/* ---- what it does ---- */

static bool occ_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_occ;
}

static nb_status place_rest(occ *o, nb_error *err) {
    nb_backend *be = o->group->be;
    int64_t rows = o->group->max_rows, cols = o->group->in;
    o->rest = (ni_sparse){
        .rows = rows, .cols = cols, .room = o->how.scope == NB_OCC_TENSOR ? cols : o->low + cols - 1 - o->high};
    if (o->rest.room == 0) /* alpha so near 1 that nothing is cut off */
        o->rest.room = 1;
    size_t count = (size_t)rows * sizeof(int32_t), entries = (size_t)(rows * o->rest.room);
    const bool exact = o->how.rest == NB_OCC_EXACT;
    o->bytes = count + entries * (sizeof(int32_t) + (exact ? sizeof(float) : sizeof(uint16_t)));
    o->memory = be->ops->alloc(be, o->bytes, "clamped outliers");
    if (!o->memory)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for %zu bytes of outliers", o->group->input, o->bytes);
    o->rest.count = o->memory;
    o->rest.column = o->rest.count + rows;
    if (exact)
        o->rest.exact = (float *)(void *)(o->rest.column + entries);
    else
        o->rest.value = (uint16_t *)(void *)(o->rest.column + entries);
    return NB_OK;
}

static nb_operand dense_operand(int64_t rows, int64_t cols, ni_side side, void *memory) {
    return (nb_operand){.quantizer = dense_quantizer,
                        .other = dense_quantizer,
                        .rows = rows,
                        .cols = cols,
                        .side = side,
                        .reread = true,
                        .memory = memory};
}

static nb_status place_dense(occ *o, nb_error *err) {
    nb_backend *be = o->group->be;
    const nb_operand x = dense_operand(o->group->max_rows, o->group->in, NI_LEFT, NULL);
    o->dense_bytes = be->ops->operand_bytes(be, &x);
    o->dense_memory = o->dense_bytes ? be->ops->alloc(be, o->dense_bytes, "compensated activations") : NULL;
    return o->dense_memory || !o->dense_bytes
               ? NB_OK
               : nb_fail(err, NB_NO_MEMORY, "%s: no memory for %zu bytes of compensated activations", o->group->input,
                         o->dense_bytes);
}

static void occ_detach(void *state) {
    occ *o = state;
    nb_backend_release(o->group->be, o->dense_memory);
    nb_backend_release(o->group->be, o->memory);
    free(o);
}

static nb_status check_coded(const ni_linear *layer, nb_error *err) {
    for (nb_role role = NB_FPROP_X; role <= NB_FPROP_W; role++)
        if (nb_quantizer_is_bf16(&layer->plan.roles[role].quantizer))
            return nb_fail(err, NB_BAD_CONFIG, "%s: occ needs %s quantized", layer->name, nb_role_name(role));
    return NB_OK;
}

/* Backward reads numbers that have their scales already: folding would count these twice. */
static nb_status check_via(const ni_linear *layer, nb_error *err) {
    if (layer->plan.mechanisms.occ.rest == NB_OCC_NONE || layer->plan.roles[NB_WGRAD_X].via != NB_VIA_FOLD)
        return NB_OK;
    return nb_fail(err, NB_BAD_CONFIG,
                   "%s: occ gives wgrad.x as decoded numbers with the rest added, so there are no scales to fold; "
                   "expected `via: bf16` there (`via: fold` serves dgrad.w, and wgrad.x with `rest: none`)",
                   layer->name);
}

static nb_status occ_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].mechanisms >> index & 1) {
            NB_TRY(check_coded(&group->layers[i], err));
            NB_TRY(check_via(&group->layers[i], err));
        }
    if (!group->be->ops->clamp_rows)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no outlier clamping", group->input, group->be->name);
    occ *o = calloc(1, sizeof *o);
    if (!o)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for occ", group->input);
    o->group = group;
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].mechanisms >> index & 1)
            o->how = group->layers[i].plan.mechanisms.occ; /* one recipe: the same for all of the group */
    o->low = low_rank(o->how.alpha, group->in);
    o->high = high_rank(o->how.alpha, group->in);
    *state = o;
    if (o->how.rest == NB_OCC_DENSE)
        NB_TRY(place_dense(o, err));
    return o->how.rest == NB_OCC_NONE ? NB_OK : place_rest(o, err);
}

/* ---- forward ---- */

/* How X is clamped, and where to. */
static nb_status clamping_of(occ *o, const ni_linear_call *call, const nb_mat *x, nb_mat *clamped, ni_clamping *c,
                             nb_error *err) {
    const bool whole = o->how.scope == NB_OCC_TENSOR;
    const int64_t n = whole ? x->rows * x->cols : x->cols;
    *clamped = nb_mat_of(NULL, call->be->act, x->rows, x->cols);
    *c = (ni_clamping){.x = x,
                       .clamped = clamped,
                       .rest = o->memory ? &o->rest : NULL,
                       .low = low_rank(o->how.alpha, n),
                       .high = high_rank(o->how.alpha, n),
                       .whole = whole};
    return ni_scratch_place_kept(call->scratch, nb_dtype_size(call->be->act) * (size_t)(x->rows * x->cols), "clamped X",
                                 &clamped->data, err);
}

/* Where the rest is dense nothing but the sum is multiplied, and it is made at once. */
static nb_status occ_make_x(void *state, const ni_linear_call *call, const ni_making *making, nb_error *err) {
    occ *o = state;
    nb_mat clamped;
    ni_clamping c;
    NB_TRY(clamping_of(o, call, call->x, &clamped, &c, err));
    if (o->how.rest != NB_OCC_DENSE)
        return call->be->ops->make_clamped(call->be, &c, making, err);
    o->dense_x = dense_operand(clamped.rows, clamped.cols, NI_LEFT, o->dense_memory);
    o->dense_with = making->out;
    return call->be->ops->make_compensated(call->be, &c, making, &(ni_making){.out = &o->dense_x}, err);
}

static nb_status occ_prepare_x(void *state, const ni_linear_call *call, nb_mat *prepared, nb_error *err) {
    occ *o = state;
    nb_mat clamped;
    ni_clamping c;
    NB_TRY(clamping_of(o, call, prepared, &clamped, &c, err));
    o->dense_with = NULL;
    NB_TRY(call->be->ops->clamp_rows(call->be, &clamped, c.rest, prepared, c.low, c.high, c.whole, err));
    const nb_lens *lens = call->pass->lens;
    if (lens && lens->approximation && !call->dy && !call->again && !call->measuring)
        lens->approximation(lens->context, call->be, o->group->input, "occ_clamped", call->x, &clamped);
    *prepared = clamped;
    return NB_OK;
}

/* Q(X_c) + S in act; Q(X_c) alone where S is lost. */
static nb_status compensated(const occ *o, const ni_linear_call *call, ni_linear *layer, void *memory, nb_mat *out,
                             nb_error *err) {
    const nb_operand *x;
    NB_TRY(ni_operand_ready(call, layer, NB_FPROP_X, &x, err));
    *out = nb_mat_of(memory, call->be->act, x->rows, x->cols);
    return o->memory ? call->be->ops->decode_with_rest(call->be, out, x, &o->rest, err)
                     : call->be->ops->decode(call->be, out, x, false, NULL, true, err);
}

static size_t number_bytes(const ni_linear_call *call, int64_t rows, int64_t cols) {
    return nb_dtype_size(call->be->act) * (size_t)(rows * cols);
}

/* ---- rest: dense ---- */

/* Of all layers that read X alike. */
static nb_status make_dense_x(occ *o, const ni_linear_call *call, ni_linear *layer, nb_error *err) {
    const ni_cached_operand *from = layer->operands[NB_FPROP_X];
    const nb_operand *coded;
    void *memory;
    nb_mat x;
    NB_TRY(ni_operand_ready(call, layer, NB_FPROP_X, &coded, err));
    const bool there = o->dense_with == coded || (o->dense_of == from && o->dense_made == from->made);
    if (there && !call->measuring)
        return NB_OK;
    const size_t mark = call->scratch->used;
    NB_TRY(
        ni_scratch_place(call->scratch, number_bytes(call, call->x->rows, layer->in), "compensated X", &memory, err));
    NB_TRY(compensated(o, call, layer, memory, &x, err));
    o->dense_x = dense_operand(x.rows, x.cols, NI_LEFT, o->dense_memory);
    const ni_making making = {.out = &o->dense_x};
    NB_TRY(call->be->ops->make_operands(call->be, &(ni_source){.numbers = &x}, &making, 1, err));
    call->scratch->used = mark;
    o->dense_of = from;
    o->dense_made = from->made;
    return NB_OK;
}

static nb_status turn(const ni_linear_call *call, const nb_operand *from, const nb_quantizer *other, ni_side side,
                      nb_operand *out, nb_error *err) {
    *out = (nb_operand){.quantizer = from->quantizer,
                        .other = *other,
                        .rows = from->cols,
                        .cols = from->rows,
                        .side = side,
                        .turned = true};
    NB_TRY(ni_scratch_place(call->scratch, call->be->ops->operand_bytes(call->be, out), "a turned operand",
                            &out->memory, err));
    return call->be->ops->turn(call->be, out, from, err);
}

/* dgrad.w are the very codes, turned. */
static bool is_made_for_dgrad(const ni_linear_call *call, const ni_linear *layer) {
    const nb_operand_rule *rule = &layer->plan.roles[NB_DGRAD_W];
    return call->training && !call->pass->backward_bf16 && rule->from && rule->source == NB_FPROP_W &&
           rule->requantize && nb_quantizer_equal(&rule->quantizer, &dense_quantizer);
}

static nb_status make_dense_w(occ *o, const ni_linear_call *call, ni_linear *layer, nb_error *err) {
    const ni_operand_request request = {.quantizer = &dense_quantizer,
                                        .other = &dense_quantizer,
                                        .rows = layer->out,
                                        .cols = layer->in,
                                        .side = NI_RIGHT};
    const nb_operand *coded;
    if (is_made_for_dgrad(call, layer)) {
        NB_TRY(ni_operand_ready(call, layer, NB_DGRAD_W, &coded, err));
        return turn(call, coded, &dense_quantizer, NI_RIGHT, &o->dense_w, err);
    }
    NB_TRY(ni_operand_ready(call, layer, NB_FPROP_W, &coded, err));
    NB_TRY(ni_operand_place(call, &request, &o->dense_w, err));
    const ni_making making = {.out = &o->dense_w};
    return call->be->ops->make_operands(call->be, &(ni_source){.operand = coded}, &making, 1, err);
}

/* wgrad.dy are the codes of dgrad.dy, which have one scale: both operands of wgrad are codes. Else X is numbers there.
 */
static bool turns_codes(const nb_plan *plan) {
    const nb_operand_rule *dy = &plan->roles[NB_WGRAD_DY];
    return plan->mechanisms.occ.rest == NB_OCC_DENSE && dy->from && dy->source == NB_DGRAD_DY && !dy->requantize &&
           dy->via != NB_VIA_FOLD && ni_has_tensor_scale(&plan->roles[NB_DGRAD_DY].quantizer);
}

static nb_status report_dense(const occ *o, const ni_linear_call *call, nb_error *err);

static nb_status dense_terms(occ *o, const ni_linear_call *call, ni_linear *layer, ni_gemm gemm, ni_terms *terms,
                             nb_error *err) {
    const nb_operand *dy;
    NB_TRY(make_dense_x(o, call, layer, err));
    if (gemm == NI_GEMM_FPROP) {
        NB_TRY(make_dense_w(o, call, layer, err));
        terms->list[0] = (ni_term){.a = &o->dense_x, .b = &o->dense_w};
        return NB_OK;
    }
    NB_TRY(ni_operand_ready(call, layer, NB_DGRAD_DY, &dy, err));
    NB_TRY(turn(call, dy, &dense_quantizer, NI_LEFT, &o->turned_dy, err));
    NB_TRY(turn(call, &o->dense_x, &dy->quantizer, NI_RIGHT, &o->turned_x, err));
    terms->list[0] = (ni_term){.a = &o->turned_dy, .b = &o->turned_x};
    return report_dense(o, call, err);
}

static nb_status occ_terms(void *state, const ni_linear_call *call, ni_linear *layer, ni_gemm gemm, ni_terms *terms,
                           nb_error *err) {
    occ *o = state;
    if (o->how.rest == NB_OCC_DENSE)
        return gemm == NI_GEMM_FPROP || (gemm == NI_GEMM_WGRAD && turns_codes(&layer->plan))
                   ? dense_terms(o, call, layer, gemm, terms, err)
                   : NB_OK;
    if (gemm != NI_GEMM_FPROP || o->how.rest == NB_OCC_NONE)
        return NB_OK;
    const ni_term rest = {.sparse = &o->rest, .b = &layer->operands[NB_FPROP_W]->operand};
    return ni_add_term(terms, &rest, err);
}

/* ---- backward ---- */

/* Share of X that was cut off. */
static nb_status report_density(const occ *o, const ni_linear_call *call, nb_error *err) {
    const nb_lens *lens = call->pass->lens;
    int64_t rows = call->x->rows, cut = 0;
    int32_t *count = malloc((size_t)rows * sizeof *count);
    char name[NB_NAME_SIZE + 8];
    if (!count)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to count outliers", o->group->input);
    call->be->ops->download(call->be, count, o->rest.count, (size_t)rows * sizeof *count);
    for (int64_t r = 0; r < rows; r++)
        cut += count[r];
    free(count);
    snprintf(name, sizeof name, "%s/occ", o->group->input);
    lens->scalar(lens->context, name, "density", (double)cut / (double)(rows * call->x->cols));
    return NB_OK;
}

/* Table 1 of the paper: what is multiplied in place of X. */
static nb_status report(const occ *o, const ni_linear_call *call, const nb_mat *x, nb_error *err) {
    const nb_lens *lens = call->pass->lens;
    if (lens && lens->approximation)
        lens->approximation(lens->context, call->be, o->group->input, "occ", call->x, x);
    return lens && lens->counts && lens->scalar && o->memory ? report_density(o, call, err) : NB_OK;
}

static nb_status decode_dense(const occ *o, const ni_linear_call *call, void *memory, nb_mat *x, nb_error *err) {
    *x = nb_mat_of(memory, call->be->act, o->dense_x.rows, o->dense_x.cols);
    return call->be->ops->decode(call->be, x, &o->dense_x, false, NULL, true, err);
}

/* Codes are decoded for the lens alone. */
static nb_status report_dense(const occ *o, const ni_linear_call *call, nb_error *err) {
    nb_mat x;
    if (!call->measuring && (!call->pass->lens || !call->pass->lens->approximation))
        return NB_OK;
    const size_t mark = call->scratch->used;
    void *memory;
    NB_TRY(ni_scratch_place(call->scratch, number_bytes(call, o->dense_x.rows, o->dense_x.cols), "compensated X",
                            &memory, err));
    NB_TRY(decode_dense(o, call, memory, &x, err));
    call->scratch->used = mark;
    return report(o, call, &x, err);
}

/* Where S is lost wgrad reads the codes as they are; they are decoded for the lens alone. */
static nb_status report_clamped(const occ *o, const ni_linear_call *call, ni_linear *layer, nb_error *err) {
    nb_mat x;
    if (!call->measuring && (!call->pass->lens || !call->pass->lens->approximation))
        return NB_OK;
    size_t mark = call->scratch->used;
    void *memory;
    NB_TRY(ni_scratch_place(call->scratch, number_bytes(call, call->x->rows, layer->in), "clamped X", &memory, err));
    NB_TRY(compensated(o, call, layer, memory, &x, err));
    call->scratch->used = mark;
    return report(o, call, &x, err);
}

static nb_status occ_wgrad_x(void *state, const ni_linear_call *call, ni_linear *layer, nb_mat *x, bool *done,
                             nb_error *err) {
    occ *o = state;
    if (o->how.rest == NB_OCC_NONE)
        return report_clamped(o, call, layer, err);
    void *memory;
    NB_TRY(ni_scratch_place_kept(call->scratch, number_bytes(call, call->x->rows, layer->in), "compensated X", &memory,
                                 err));
    if (o->how.rest == NB_OCC_DENSE) {
        NB_TRY(make_dense_x(o, call, layer, err));
        NB_TRY(decode_dense(o, call, memory, x, err));
    } else {
        NB_TRY(compensated(o, call, layer, memory, x, err));
    }
    *done = true;
    return report(o, call, x, err);
}

/* dY of wgrad may have been made to meet codes of X, and meets compensated numbers, unless these are lost or codes. */
static uint32_t occ_rereads(const nb_plan *plan) {
    const bool codes = plan->mechanisms.occ.rest == NB_OCC_NONE || turns_codes(plan);
    return 1U << NB_FPROP_X | 1U << NB_FPROP_W | (codes ? 0 : 1U << NB_WGRAD_DY);
}

static size_t occ_bytes(const void *state) {
    const occ *o = state;
    return o->bytes + o->dense_bytes;
}

static void occ_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    static const char *const rests[] = {"+ sparse rest", "+ dense rest", "rest lost", "+ exact rest"};
    const occ *o = state;
    (void)layer;
    if (gemm != NI_GEMM_DGRAD)
        snprintf(text, size, "occ %g %s", o->how.alpha, rests[o->how.rest]);
}

const ni_mechanism ni_mechanism_occ = {
    .name = "occ",
    .rereads = 1U << NB_FPROP_X | 1U << NB_FPROP_W | 1U << NB_WGRAD_DY,
    .rereads_by = occ_rereads,
    .wanted = occ_wanted,
    .attach = occ_attach,
    .detach = occ_detach,
    .prepare_x = occ_prepare_x,
    .make_x = occ_make_x,
    .terms = occ_terms,
    .one_layer = true,
    .reads_codes = true,
    .wgrad_x = occ_wgrad_x,
    .bytes = occ_bytes,
    .text = occ_text,
};
