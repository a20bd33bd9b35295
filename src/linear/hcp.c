/* hcp.c: the Hot-Channel Patch (arXiv:2602.02047): the quantization errors of the k worst input channels I of each
 * layer are multiplied too. Formulas and what no source states: docs/recipes/chon.md.
 *
 *     fprop   Y       = [Xq | dX_I | X_I] [Wq | W_I | dW_I]^T      one term over K + 2k channels, or two
 *     dgrad   dX[:,I] += Gq dW_I                                   option: makes W exact on I
 *     wgrad   dW[:,I] += Gq^T dX_I                                 option: makes X exact on I
 *
 * In wgrad the residual is that of the operand wgrad.x, in the basis in which it was rotated.
 */
#include "linear/hcp.h"
#include "backend/table.h"

#include "nibble/lens.h"
#include "recipe/mechanism.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- keys: the body of arXiv:2602.02047 could not be read; what no source states is our choice ---- */

static const ni_word hcp_sides[] = {{"both", NB_HCP_BOTH, "residuals of X and of W"},
                                    {"activation", NB_HCP_ACTIVATION, "of X only"},
                                    {"weight", NB_HCP_WEIGHT, "of W only"},
                                    {0}};
static const ni_word hcp_kernels[] = {{"single", NB_HCP_SINGLE, "one GEMM over concatenated channels"},
                                      {"dual", NB_HCP_DUAL, "the base GEMM and a small second one"},
                                      {0}};
static const ni_word hcp_scores[] = {
    {"absolute", NB_HCP_ABSOLUTE, "mean |dX_j| + mean |dW_j|, as published"},
    {"normalized", NB_HCP_NORMALIZED, "mean |dX_j| rms(W_j) + mean |dW_j| rms(X_j): the error each channel makes in Y"},
    {0}};
static const ni_word hcp_copies[] = {{"requantize", NB_HCP_REQUANTIZE, "regrouped channels are quantized again"},
                                     {"exact", NB_HCP_EXACT, "their decoded values, in BF16"},
                                     {0}};
static const ni_word hcp_forms[] = {
    {"cancel", NB_HCP_CANCEL, "dX_I Wq_I + Xq_I dW_I: cancels both first-order terms"},
    {"printed", NB_HCP_PRINTED, "dX_I dW_I: the stacks as printed, which cancel neither"},
    {0}};
static const ni_key hcp_rows[] = {
    {.path = "share",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_hcp, share),
     .fallback = "0.06",
     .high = 1,
     .help = "share of the input channels that are patched, rounded to whole blocks of 16",
     .source = "our choice: fprop grows by 2k/K = 12 %; no source states a number"},
    {.path = "order",
     .type = NI_KEY_INT,
     NI_FIELD(nb_hcp, order),
     .fallback = "2",
     .low = 1,
     .high = 2,
     .help = "order of the error that is left on patched channels",
     .source = "arXiv:2602.02047, S-O2-B"},
    {.path = "side",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_hcp, side),
     .fallback = "both",
     .words = hcp_sides,
     .help = "whose residuals are multiplied",
     .source = "arXiv:2602.02047, S-O2-B"},
    {.path = "kernel",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_hcp, kernel),
     .fallback = "single",
     .words = hcp_kernels,
     .help = "how they are multiplied",
     .source = "arXiv:2602.02047, S-O2-B"},
    {.path = "score",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_hcp, score),
     .fallback = "absolute",
     .words = hcp_scores,
     .help = "how channels are ranked",
     .source = "arXiv:2602.02047"},
    {.path = "copy",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_hcp, copy),
     .fallback = "requantize",
     .words = hcp_copies,
     .help = "what stands for the patched channels beside the residuals",
     .source = "our choice: what an NVFP4 GEMM can hold"},
    {.path = "form",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_hcp, form),
     .fallback = "cancel",
     .words = hcp_forms,
     .help = "which products are added",
     .source = "derived from the remainder that the paper states"},
    {.path = "refresh",
     .type = NI_KEY_INT,
     NI_FIELD(nb_hcp, refresh),
     .fallback = "200",
     .low = 1,
     .high = 1e9,
     .help = "steps between choices of the channels",
     .source = "our choice: periodic in the paper, period unknown"},
    {.path = "ema",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_hcp, ema),
     .fallback = "0.9",
     .high = 0.9999,
     .help = "weight of the scores so far when channels are chosen again",
     .source = "our choice"},
    {.path = "freeze",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_hcp, freeze),
     .fallback = "1",
     .high = 1e9,
     .help = "from then on the channels stay; 1: never",
     .source = "our choice"},
    {.path = "dgrad",
     .type = NI_KEY_BOOL,
     NI_FIELD(nb_hcp, dgrad),
     .fallback = "false",
     .help = "patch W in dgrad",
     .source = "our choice: the paper describes the forward"},
    {.path = "wgrad",
     .type = NI_KEY_BOOL,
     NI_FIELD(nb_hcp, wgrad),
     .fallback = "false",
     .help = "patch X in wgrad",
     .source = "our choice: the paper describes the forward"},
};

const ni_mechanism_section ni_hcp_section = {
    .keys = {.name = "hcp", .rows = hcp_rows, .count = NI_COUNT(hcp_rows), .size = sizeof(nb_hcp)},
};

/* ---- what it does ---- */

static bool hcp_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_hcp;
}

/* ---- life ---- */

static void hcp_detach(void *state) {
    ni_hcp_state *h = state;
    for (int32_t i = 0; i < h->group->count; i++) {
        nb_backend_release(h->group->be, h->layers[i].channels);
        nb_backend_release(h->group->be, h->layers[i].w_memory);
        nb_backend_release(h->group->be, h->layers[i].scores);
        nb_backend_release(h->group->be, h->layers[i].facts);
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

static nb_status check_layer(const ni_hcp_state *h, const ni_linear *layer, nb_error *err) {
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

static nb_status place(ni_hcp_state *h, size_t bytes, void **memory, nb_error *err) {
    *memory = h->group->be->ops->alloc(h->group->be, bytes, "hot channels");
    h->bytes += bytes;
    return *memory ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory for its hot channels", h->group->input);
}

static nb_status place_layer(ni_hcp_state *h, const ni_linear *layer, nb_error *err) {
    ni_hcp_layer *p = &h->layers[layer->index];
    nb_operand w = ni_hcp_shape(h, layer, layer->out, true);
    NB_TRY(place(h, sizeof(int32_t) * (size_t)h->k, (void **)&p->channels, err));
    NB_TRY(place(h, ni_hcp_operand_bytes(h, &w), &p->w_memory, err));
    NB_TRY(place(h, sizeof(float) * (size_t)h->group->in, (void **)&p->scores, err));
    return place(h, 4 * sizeof(double) * (size_t)h->group->in, (void **)&p->facts, err);
}

static nb_status hcp_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    nb_backend *be = group->be;
    if (!be->ops->gather_columns || !be->ops->measure || be->real != NB_F32 || be->act != NB_BF16)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no hot-channel patch", group->input, be->name);
    ni_hcp_state *h = calloc(1, sizeof *h);
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

/* ---- forward ---- */

static bool patches(const ni_hcp_state *h, const ni_linear_call *call) {
    return h->k > 0 && (h->refreshed > 0 || call->measuring);
}

static bool is_patched(const ni_hcp_state *h, const ni_linear *layer) {
    return layer->mechanisms >> h->index & 1;
}

static nb_status hcp_observe(void *state, const ni_linear_call *call, nb_error *err) {
    ni_hcp_state *h = state;
    void *memory;
    int64_t most = call->x->rows;
    for (int32_t i = 0; i < h->group->count && h->k > 0 && call->measuring; i++) {
        ni_linear *layer = &h->group->layers[i]; /* what gathering looks at */
        const nb_operand *ignored;
        most = layer->out > most ? layer->out : most;
        if (!is_patched(h, layer) || call->pass->forward_bf16)
            continue;
        NB_TRY(ni_operand_ready(call, layer, NB_FPROP_X, &ignored, err));
        NB_TRY(ni_operand_ready(call, layer, NB_FPROP_W, &ignored, err));
    }
    if (call->measuring)
        return ni_scratch_place(call->scratch, ni_hcp_gather_scratch(h, most), "a decoded operand", &memory, err);
    return ni_hcp_gather(h, call, err);
}

/* The base operands are read where their codes or scales are: not by one product over codes that are made anew. */
static bool needs_base(const ni_hcp_state *h) {
    return h->how.kernel == NB_HCP_DUAL || h->how.copy == NB_HCP_EXACT;
}

/* What is multiplied in the place of X, for the lens; layers that share X and channels tell it once each. */
static nb_status show_x(const ni_hcp_state *h, const ni_linear_call *call, const ni_linear *layer,
                        const ni_hcp_source *from, nb_error *err) {
    const nb_lens *lens = call->pass->lens;
    size_t mark = call->scratch->used;
    bool there;
    nb_mat x;
    if (!call->measuring && (!lens || !lens->approximation || call->again))
        return NB_OK;
    NB_TRY(ni_hcp_stand_in(h, call, from, h->layers[layer->index].channels, &x, &there, err));
    if (there && !call->measuring)
        lens->approximation(lens->context, call->be, layer->name, "hcp", call->x, &x);
    call->scratch->used = mark;
    return NB_OK;
}

/* For this layer's product alone, beside the base. */
static nb_status patch_x_beside(ni_hcp_state *h, const ni_linear_call *call, ni_linear *layer, nb_error *err) {
    ni_hcp_layer *p = &h->layers[layer->index];
    ni_hcp_source from = {.numbers = call->x, .quantizer = &layer->plan.roles[NB_FPROP_X].quantizer};
    void *memory;
    NB_TRY(ni_operand_ready(call, layer, NB_FPROP_X, &from.base, err));
    NB_TRY(show_x(h, call, layer, &from, err));
    p->x = ni_hcp_shape(h, layer, call->x->rows, false);
    NB_TRY(ni_scratch_place(call->scratch, ni_hcp_operand_bytes(h, &p->x), "X with its patch", &memory, err));
    return ni_hcp_operand(h, call, &from, p->channels, memory, &p->x, err);
}

/* What the backward pass multiplies of X, if it is made of X as it came and is to be made now. */
static nb_status list_wgrad_x(const ni_linear_call *call, ni_cached_operand *o, ni_source *source, ni_making *making,
                              nb_noise *noise, int32_t *made, nb_error *err) {
    if (call->measuring || o->fresh || o->mechanisms || !ni_comes_early(call, o))
        return NB_OK;
    *source = (ni_source){.numbers = call->x};
    NB_TRY(ni_operand_begin(call, o, call->x, noise, making, err));
    o->fresh = o->shown = true;
    o->made++;
    ++*made;
    return NB_OK;
}

/* Of all layers with the first one's: one call, so that a backend may read X once. */
static nb_status patch_all_x(ni_hcp_state *h, const ni_linear_call *call, ni_linear *first, nb_error *err) {
    ni_source sources[NI_GROUP_LAYERS * NI_HCP_MAKINGS + 1];
    ni_making makings[NI_GROUP_LAYERS * NI_HCP_MAKINGS + 1];
    nb_noise noise;
    int32_t made = 0;
    for (int32_t i = 0; i < h->group->count; i++) {
        const ni_linear *layer = &h->group->layers[i];
        ni_hcp_layer *p = &h->layers[i];
        const ni_hcp_source from = {.numbers = call->x, .quantizer = &layer->plan.roles[NB_FPROP_X].quantizer};
        if (!is_patched(h, layer))
            continue;
        p->x = ni_hcp_shape(h, layer, call->x->rows, false);
        NB_TRY(ni_scratch_place_kept(call->scratch, ni_hcp_operand_bytes(h, &p->x), "X with its patch", &p->x.memory,
                                     err));
        made += ni_hcp_makings(h, &from, p->channels, &p->x, sources + made, makings + made);
    }
    NB_TRY(list_wgrad_x(call, first->operands[NB_WGRAD_X], sources + made, makings + made, &noise, &made, err));
    return call->be->ops->make_many(call->be, sources, makings, made, err);
}

static bool is_first(const ni_hcp_state *h, const ni_linear *layer) {
    for (int32_t i = 0; i < layer->index; i++)
        if (is_patched(h, &h->group->layers[i]))
            return false;
    return true;
}

/* Layers multiply in their order. Walks that measure scratch come by both ways. */
static nb_status patch_x(ni_hcp_state *h, const ni_linear_call *call, ni_linear *layer, nb_error *err) {
    if (!needs_base(h) && (call->measuring || !ni_lens_looks(call, NB_FPROP_X)) && is_first(h, layer))
        NB_TRY(patch_all_x(h, call, layer, err));
    return needs_base(h) || ni_lens_looks(call, NB_FPROP_X) ? patch_x_beside(h, call, layer, err) : NB_OK;
}

static bool is_w_fresh(const ni_hcp_layer *p, const ni_linear *layer) {
    return p->w_fresh && p->w_made == layer->operands[NB_FPROP_W]->made;
}

static nb_status patch_w(ni_hcp_state *h, const ni_linear_call *call, ni_linear *layer, nb_error *err) {
    ni_hcp_layer *p = &h->layers[layer->index];
    ni_hcp_source from = {.quantizer = &layer->plan.roles[NB_FPROP_W].quantizer, .weight = true};
    NB_TRY(ni_operand_ready(call, layer, NB_FPROP_W, &from.base, err));
    if (is_w_fresh(p, layer))
        return NB_OK;
    nb_mat numbers;
    NB_TRY(ni_weight_source(call, layer, &numbers, err));
    from.numbers = &numbers;
    p->w = ni_hcp_shape(h, layer, layer->out, true);
    NB_TRY(ni_hcp_operand(h, call, &from, p->channels, p->w_memory, &p->w, err));
    p->w_made = layer->operands[NB_FPROP_W]->made;
    p->w_fresh = true;
    return NB_OK;
}

/* With the weights of other groups, where its codes are of numbers alone. */
static nb_status hcp_list_w(void *state, const ni_linear_call *call, ni_linear *layer, const nb_mat *master,
                            ni_weight_list *list, nb_error *err) {
    ni_hcp_state *h = state;
    ni_hcp_layer *p = &h->layers[layer->index];
    const ni_hcp_source from = {
        .numbers = master, .quantizer = &layer->plan.roles[NB_FPROP_W].quantizer, .weight = true};
    ni_source sources[NI_HCP_MAKINGS];
    ni_making makings[NI_HCP_MAKINGS];
    if (!patches(h, call) || needs_base(h) || is_w_fresh(p, layer))
        return NB_OK;
    p->w = ni_hcp_shape(h, layer, layer->out, true);
    p->w.memory = p->w_memory;
    p->w_made = layer->operands[NB_FPROP_W]->made;
    p->w_fresh = true;
    const int32_t count = ni_hcp_makings(h, &from, p->channels, &p->w, sources, makings);
    for (int32_t i = 0; i < count; i++)
        NB_TRY(ni_list_making(list, &sources[i], &makings[i], err));
    return NB_OK;
}

/* One wide product, or the layer's own and one of the patch. */
static nb_status fprop_terms(ni_hcp_state *h, const ni_linear_call *call, ni_linear *layer, ni_terms *terms,
                             nb_error *err) {
    ni_hcp_layer *p = &h->layers[layer->index];
    NB_TRY(patch_x(h, call, layer, err));
    NB_TRY(patch_w(h, call, layer, err));
    if (h->how.kernel == NB_HCP_SINGLE)
        terms->count = 0;
    return ni_add_term(terms, &(ni_term){.a = &p->x, .b = &p->w}, err);
}

/* ---- backward ---- */

/* A residual [n, k], quantized along n under its own tensor scale: b of a term into the hot columns. */
static nb_status residual_operand(const ni_hcp_state *h, const ni_linear_call *call, const ni_linear *layer,
                                  ni_gemm gemm, const ni_source *source, nb_operand *out, nb_error *err) {
    nb_quantizer q = ni_hcp_rows(&layer->plan.roles[NB_FPROP_X].quantizer);
    nb_quantizer left = ni_operand_quantizer(layer, (nb_role)(2 * gemm));
    const ni_operand_request request = {.quantizer = &q,
                                        .other = &left,
                                        .rows = h->k,
                                        .cols = source->numbers->rows,
                                        .side = NI_RIGHT,
                                        .until_pass_ends = gemm == NI_GEMM_DGRAD};
    NB_TRY(ni_operand_place(call, &request, out, err));
    return call->be->ops->make_operands(call->be, source, &(ni_making){.out = out, .transpose = true}, 1, err);
}

static nb_status dgrad_terms(ni_hcp_state *h, const ni_linear_call *call, ni_linear *layer, ni_terms *terms,
                             nb_error *err) {
    ni_hcp_layer *p = &h->layers[layer->index];
    nb_mat numbers;
    NB_TRY(ni_weight_source(call, layer, &numbers, err));
    ni_source source = {.numbers = &numbers, .columns = p->channels, .column_count = h->k};
    NB_TRY(ni_operand_ready(call, layer, NB_FPROP_W, &source.minus, err));
    NB_TRY(residual_operand(h, call, layer, NI_GEMM_DGRAD, &source, &p->dgrad_w, err));
    const ni_term patch = {.a = terms->list[0].a, .b = &p->dgrad_w, .columns = p->channels};
    return ni_add_term(terms, &patch, err);
}

/* Rotated X_I less what wgrad.x holds of it, [M, k] in F32. */
static nb_status wgrad_residual(const ni_hcp_state *h, const ni_linear_call *call, const ni_linear *layer,
                                const nb_operand *operand, nb_mat *out, nb_error *err) {
    nb_backend *be = call->be;
    const int32_t *channels = h->layers[layer->index].channels;
    int64_t m = call->x->rows;
    nb_mat gathered, whole, held;
    NB_TRY(ni_hcp_take(call->scratch, call->x->dtype, m, h->k, &gathered, err));
    NB_TRY(ni_hcp_take(call->scratch, NB_F32, m, h->k, out, err));
    NB_TRY(ni_hcp_take(call->scratch, NB_F32, m, h->group->in, &whole, err));
    NB_TRY(ni_hcp_take(call->scratch, NB_F32, m, h->k, &held, err));
    be->ops->gather_columns(be, &gathered, call->x, channels);
    be->ops->cast(be, out->data, NB_F32, gathered.data, gathered.dtype, m * h->k);
    const nb_quantizer *q = &layer->plan.roles[NB_WGRAD_X].quantizer;
    if (!nb_quantizer_is_bf16(&operand->quantizer) && q->hadamard_size) { /* into the basis of wgrad.x */
        const nb_noise noise = ni_noise_of(call->pass, &layer->names[NB_WGRAD_X]);
        be->ops->rotate_rows(be, out, q->hadamard_size, q->hadamard_signs, &noise);
    }
    NB_TRY(be->ops->decode(be, &whole, operand, true, NULL, true, err));
    be->ops->gather_columns(be, &held, &whole, channels);
    be->ops->axpy(be, out->data, -1, held.data, m * h->k);
    return NB_OK;
}

static nb_status wgrad_terms(ni_hcp_state *h, const ni_linear_call *call, ni_linear *layer, ni_terms *terms,
                             nb_error *err) {
    ni_hcp_layer *p = &h->layers[layer->index];
    const nb_operand *x;
    nb_mat residual;
    NB_TRY(ni_operand_ready(call, layer, NB_WGRAD_X, &x, err));
    NB_TRY(wgrad_residual(h, call, layer, x, &residual, err));
    const ni_source source = {.numbers = &residual};
    NB_TRY(residual_operand(h, call, layer, NI_GEMM_WGRAD, &source, &p->wgrad_x, err));
    const ni_term patch = {.a = terms->list[0].a, .b = &p->wgrad_x, .columns = p->channels};
    return ni_add_term(terms, &patch, err);
}

static nb_status hcp_terms(void *state, const ni_linear_call *call, ni_linear *layer, ni_gemm gemm, ni_terms *terms,
                           nb_error *err) {
    ni_hcp_state *h = state;
    if (!patches(h, call))
        return NB_OK;
    if (gemm == NI_GEMM_FPROP)
        return fprop_terms(h, call, layer, terms, err);
    if (gemm == NI_GEMM_DGRAD)
        return h->how.dgrad ? dgrad_terms(h, call, layer, terms, err) : NB_OK;
    return h->how.wgrad ? wgrad_terms(h, call, layer, terms, err) : NB_OK;
}

/* ---- between steps ---- */

static nb_status hcp_after_step(void *state, ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch,
                                nb_error *err) {
    (void)group;
    return ni_hcp_choose(state, pass, scratch, err);
}

static size_t hcp_scratch(const void *state, int64_t rows) {
    (void)rows;
    return ni_hcp_choice_scratch(state);
}

/* ---- checkpoints, census ---- */

static int32_t hcp_tensors(void *state, ni_mechanism_tensor *tensors, int32_t most) {
    ni_hcp_state *h = state;
    int32_t count = 0;
    for (int32_t i = 0; i < h->group->count; i++) {
        ni_hcp_layer *p = &h->layers[i];
        if (!p->channels)
            continue;
        if (count++ < most)
            tensors[count - 1] =
                (ni_mechanism_tensor){i, "hcp.channels", NB_I32, h->k, p->channels, false, NI_COMBINE_FIRST};
        if (count++ < most)
            tensors[count - 1] =
                (ni_mechanism_tensor){i, "hcp.scores", NB_F32, h->group->in, p->scores, false, NI_COMBINE_FIRST};
    }
    if (count++ < most)
        tensors[count - 1] =
            (ni_mechanism_tensor){-1, "hcp.refreshed", NB_I32, 1, &h->refreshed, true, NI_COMBINE_FIRST};
    if (count++ < most)
        tensors[count - 1] = (ni_mechanism_tensor){-1, "hcp.choices", NB_I32, 1, &h->choices, true, NI_COMBINE_FIRST};
    return count;
}

/* Channels decide addresses: ascending, and of this layer. */
static nb_status hcp_loaded(void *state, nb_error *err) {
    ni_hcp_state *h = state;
    int32_t *channels = malloc(sizeof *channels * (size_t)(h->k + 1));
    bool good = channels && h->refreshed >= 0 && h->choices >= (h->refreshed > 0);
    h->gathered = 0;
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
    return ((const ni_hcp_state *)state)->bytes;
}

/* A set that comes from few blocks says that residuals are loud because their block's scale is. */
static void hcp_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    const ni_hcp_state *h = state;
    bool here = gemm == NI_GEMM_FPROP || (gemm == NI_GEMM_DGRAD ? h->how.dgrad : h->how.wgrad);
    if (!here)
        return;
    if (h->k == 0)
        snprintf(text, size, "hcp patches none of %lld channels (share too small)", (long long)h->group->in);
    else if (!h->refreshed)
        snprintf(text, size, "hcp %lld of %lld channels", (long long)h->k, (long long)h->group->in);
    else
        snprintf(text, size, "hcp %lld of %lld channels, of %lld blocks of 16", (long long)h->k,
                 (long long)h->group->in, (long long)ni_hcp_blocks(h, layer));
}

static bool hcp_doubt(const void *state, char *text, size_t size) {
    const ni_hcp_state *h = state;
    if (h->k > 0)
        return false;
    snprintf(text, size, "hcp patches nothing of %s: hcp.share %g of %lld channels rounds to no block of 16",
             h->group->input, h->how.share, (long long)h->group->in);
    return true;
}

/* Codes of wgrad.x are written for residuals of wgrad alone: a number and four bits in the place of a number. */
static uint32_t hcp_rereads(const nb_plan *plan) {
    const uint32_t always = 1U << NB_FPROP_X | 1U << NB_FPROP_W;
    return plan->mechanisms.hcp.wgrad ? always | 1U << NB_WGRAD_X : always;
}

const ni_mechanism ni_mechanism_hcp = {
    .name = "hcp",
    .rereads = 1U << NB_FPROP_X | 1U << NB_FPROP_W | 1U << NB_WGRAD_X,
    .rereads_by = hcp_rereads,
    .wanted = hcp_wanted,
    .attach = hcp_attach,
    .detach = hcp_detach,
    .observe = hcp_observe,
    .terms = hcp_terms,
    .list_w = hcp_list_w,
    .keeps_masters = true,
    .after_step = hcp_after_step,
    .scratch = hcp_scratch,
    .tensors = hcp_tensors,
    .loaded = hcp_loaded,
    .bytes = hcp_bytes,
    .text = hcp_text,
    .doubt = hcp_doubt,
};
