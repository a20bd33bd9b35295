/* outcontrol.c: OutControl (arXiv:2510.27527; facts from the authors' code): the input channels of largest norm leave
 * FP4.
 *
 * For some steps the L2 norm of every channel of X is summed over the micro-batches; after the last of them the
 * channels are ranked and, for good, the first k8 run in MXFP8 and the others in the recipe's format (K = K4 u K8,
 * channels in order of their norms):
 *
 *     Y      = Q(X4) Q(W4)^T + F(X8) F(W8)^T       F: MXFP8, 1x32, scales rounded up, to nearest, never rotated
 *     dX     = Q(dY) Q(Wd)^T                       Wd: both parts decoded, in the order of the channels; all FP4
 *     dW[K4] = Q(dY^T) Q(Xd4^T)^T
 *     dW[K8] = F(dY^T) F(Xd8^T)^T
 *
 * A part whose channels do not fill its last block is followed by zeros, which change neither scales nor sums: a block
 * that ends early. Until then the layer runs as the recipe says. The second product of Y is added in FP32 and rounded
 * once with the first; the released kernels round it to BF16 on its own.
 */
#include "linear/outcontrol.h"
#include "backend/table.h"
#include "recipe/mechanism.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- keys and times, from the released code of arXiv:2510.27527 ---- */

static const ni_key outcontrol_rows[] = {
    {.path = "share",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_outcontrol, share),
     .fallback = "0.1",
     .high = 1,
     .help = "share of the input channels that run in MXFP8",
     .source = "released recipes of arXiv:2510.27527"},
    {.path = "multiple",
     .type = NI_KEY_INT,
     NI_FIELD(nb_outcontrol, multiple),
     .fallback = "128",
     .low = 1,
     .high = 4096,
     .help = "their number is rounded up to this multiple; 1: exactly the share, to the nearest channel",
     .source = "released code of arXiv:2510.27527; its paper's runs used 1"},
    {.path = "start",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_outcontrol, start),
     .fallback = "502",
     .high = 1e9,
     .help = "first step whose norms count; below 1 a share of the run",
     .source = "released recipes of arXiv:2510.27527"},
    {.path = "window",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_outcontrol, window),
     .fallback = "50",
     .positive = true,
     .high = 1e9,
     .help = "steps that norms are summed over before the channels are chosen for good; below 1 a share of the run",
     .source = "released recipes of arXiv:2510.27527"},
};
static nb_status finish_outcontrol(void *record, const ni_yaml_node *node, nb_error *err) {
    const nb_outcontrol *o = record;
    NB_TRY(ni_check_steps(node, "start", o->start, err));
    return ni_check_steps(node, "window", o->window, err);
}

nb_outcontrol_times nb_outcontrol_when(const nb_outcontrol *how, int64_t steps) {
    int64_t start = nb_step_of(how->start, steps);
    return (nb_outcontrol_times){.start = start, .choice = start + ni_least_one(nb_step_of(how->window, steps))};
}

static int64_t outcontrol_first(const void *how, int64_t steps) {
    return nb_outcontrol_when(how, steps).start;
}

static int64_t outcontrol_acts(const void *how, int64_t steps) {
    return nb_outcontrol_when(how, steps).choice;
}

const ni_mechanism_section ni_outcontrol_section = {.keys = {.name = "outcontrol",
                                                             .rows = outcontrol_rows,
                                                             .count = NI_COUNT(outcontrol_rows),
                                                             .size = sizeof(nb_outcontrol),
                                                             .finish = finish_outcontrol},
                                                    .first = outcontrol_first,
                                                    .acts = outcontrol_acts,
                                                    .act = "choose its channels"};

/* ---- life ---- */

static bool out_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_outcontrol && plan->mechanisms.outcontrol.share > 0;
}

static void out_detach(void *state) {
    ni_outcontrol_state *o = state;
    nb_backend *be = o->group->be;
    nb_backend_release(be, o->norms);
    nb_backend_release(be, o->passing);
    nb_backend_release(be, o->order);
    nb_backend_release(be, o->lists);
    nb_backend_release(be, o->places);
    nb_backend_release(be, o->places_of_w);
    for (int part = 0; part < NI_OUT_PARTS; part++) {
        nb_backend_release(be, o->x_memory[part]);
        for (int32_t i = 0; i < o->group->count; i++)
            nb_backend_release(be, o->w[i][part].memory);
    }
    free(o);
}

static nb_status place(ni_outcontrol_state *o, size_t bytes, void **memory, nb_error *err) {
    if (bytes == 0)
        return NB_OK;
    *memory = o->group->be->ops->alloc(o->group->be, bytes, "outlier channels");
    o->bytes += bytes;
    return *memory ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory for outcontrol", o->group->input);
}

/* Columns of a block of X and of W, all of which are powers of two. */
static int64_t blocks_of(const ni_linear *layer, int part) {
    int64_t most = 1;
    for (nb_role role = NB_FPROP_X; role <= NB_FPROP_W; role++) {
        const nb_quantizer *q = ni_outcontrol_quantizer(layer, role, part);
        int64_t sizes[] = {q->block_cols, q->outer >= NB_OUTER_ROW128 ? 128 : 1, q->hadamard_size};
        for (int i = 0; i < 3; i++)
            most = sizes[i] > most ? sizes[i] : most;
    }
    return most;
}

static nb_status check_part(const ni_outcontrol_state *o, const ni_linear *layer, int part, nb_error *err) {
    int64_t width = o->widths[part];
    const nb_operand_rule *wgrad_x = &layer->plan.roles[NB_WGRAD_X];
    if (part == NI_OUT_FP4 && ni_outcontrol_is_filled_up(o, part) && wgrad_x->from && !wgrad_x->requantize &&
        wgrad_x->via == NB_VIA_NONE)
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: outcontrol leaves %lld channels in FP4, which are no whole blocks, and wgrad.x turns the "
                       "forward codes; expected a format of its own for wgrad.x, or a multiple of %lld",
                       layer->name, (long long)o->channels[part], (long long)blocks_of(layer, part));
    if (nb_quantizer_check_shape(ni_outcontrol_quantizer(layer, NB_FPROP_X, part), o->group->max_rows, width, err) ==
            NB_OK &&
        nb_quantizer_check_shape(ni_outcontrol_quantizer(layer, NB_FPROP_W, part), layer->out, width, err) == NB_OK)
        return NB_OK;
    return nb_fail_within(err, "%s: outcontrol leaves %lld of %lld channels in FP4 (change its share or multiple)",
                          layer->name, (long long)o->channels[NI_OUT_FP4], (long long)layer->in);
}

static nb_status place_layer(ni_outcontrol_state *o, int32_t i, nb_error *err) {
    const ni_linear *layer = &o->group->layers[i];
    nb_backend *be = o->group->be;
    if (nb_quantizer_is_bf16(&layer->plan.roles[NB_FPROP_X].quantizer) ||
        nb_quantizer_is_bf16(&layer->plan.roles[NB_FPROP_W].quantizer))
        return nb_fail(err, NB_BAD_CONFIG, "%s: outcontrol needs fprop.x and fprop.w quantized", layer->name);
    for (int part = 0; part < NI_OUT_PARTS; part++) {
        nb_operand x = ni_outcontrol_shape(o, layer, NB_FPROP_X, part), *w = &o->w[i][part];
        if (o->channels[part] == 0)
            continue;
        NB_TRY(check_part(o, layer, part, err));
        *w = ni_outcontrol_shape(o, layer, NB_FPROP_W, part);
        NB_TRY(place(o, be->ops->operand_bytes(be, w), &w->memory, err));
        if (!o->x_memory[part])
            NB_TRY(place(o, be->ops->operand_bytes(be, &x), &o->x_memory[part], err));
    }
    return NB_OK;
}

/* ceil(int(share K) / multiple) multiples, at most as many as fit; the share itself where the multiple is 1. */
static int64_t fp8_channels(const nb_outcontrol *how, int64_t in) {
    int64_t wanted = (int64_t)(how->share * (double)in), multiple = how->multiple;
    if (multiple <= 1)
        return llround(how->share * (double)in);
    int64_t rounded = (wanted + multiple - 1) / multiple * multiple, most = in / multiple * multiple;
    return rounded < most ? rounded : most;
}

/* The columns of a part that are channels, as a list. */
static nb_status place_places(ni_outcontrol_state *o, nb_error *err) {
    const int64_t in = o->group->in;
    const size_t bytes = sizeof(int32_t) * (size_t)in;
    int32_t *places = malloc(bytes);
    if (!places)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for outcontrol", o->group->input);
    for (int32_t c = 0; c < in; c++)
        places[c] = c;
    nb_status status = place(o, bytes, (void **)&o->places, err);
    if (status == NB_OK)
        o->group->be->ops->upload(o->group->be, o->places, places, bytes);
    free(places);
    return status;
}

/* How wide each part is in whole blocks of every layer that is split. */
static nb_status fill_blocks(ni_outcontrol_state *o, nb_error *err) {
    bool filled_up = false;
    for (int part = 0; part < NI_OUT_PARTS; part++) {
        int64_t block = 1;
        for (int32_t i = 0; i < o->group->count; i++) {
            const ni_linear *layer = &o->group->layers[i];
            int64_t own = layer->mechanisms >> o->index & 1 ? blocks_of(layer, part) : 1;
            block = own > block ? own : block;
        }
        o->widths[part] = (o->channels[part] + block - 1) / block * block;
        filled_up |= ni_outcontrol_is_filled_up(o, part);
    }
    if (!filled_up)
        return NB_OK;
    NB_TRY(
        place(o, sizeof(int32_t) * (size_t)(o->widths[NI_OUT_FP8] + o->widths[NI_OUT_FP4]), (void **)&o->lists, err));
    return place_places(o, err);
}

static nb_status out_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    if (!group->be->ops->gather_columns || group->be->real != NB_F32)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no outcontrol", group->input, group->be->name);
    ni_outcontrol_state *o = calloc(1, sizeof *o);
    if (!o)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for outcontrol", group->input);
    o->group = group;
    o->index = index;
    *state = o;
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].mechanisms >> index & 1)
            o->how = group->layers[i].plan.mechanisms.outcontrol;
    o->channels[NI_OUT_FP8] = fp8_channels(&o->how, group->in);
    o->channels[NI_OUT_FP4] = group->in - o->channels[NI_OUT_FP8];
    NB_TRY(fill_blocks(o, err));
    NB_TRY(place(o, sizeof(float) * (size_t)group->in, (void **)&o->norms, err));
    NB_TRY(place(o, sizeof(float) * (size_t)group->in, (void **)&o->passing, err));
    NB_TRY(place(o, sizeof(int32_t) * (size_t)group->in, (void **)&o->order, err));
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].mechanisms >> index & 1)
            NB_TRY(place_layer(o, i, err));
    /* a kernel of many reads codes of both parts */
    if (group->be->remakes && o->channels[NI_OUT_FP8] > 0 && o->channels[NI_OUT_FP4] > 0)
        NB_TRY(place(o, sizeof(int32_t) * (size_t)group->in, (void **)&o->places_of_w, err));
    return NB_OK;
}

/* ---- choosing the channels ---- */

/* Where each channel is in the parts of W, if anybody asks, and these parts. */
static nb_status list_parts(ni_outcontrol_state *o, nb_error *err) {
    nb_backend *be = o->group->be;
    const int64_t in = o->group->in, first = o->channels[NI_OUT_FP8];
    const size_t bytes = sizeof(int32_t) * (size_t)in;
    if (!o->places_of_w)
        return NB_OK;
    int32_t *order = malloc(2 * bytes);
    if (!order)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for outcontrol", o->group->input);
    int32_t *const places = order + in;
    be->ops->download(be, order, o->order, bytes);
    for (int64_t i = 0; i < in; i++)
        places[order[i]] =
            (int32_t)(i < first ? NI_PARTS_MOST * i + NI_OUT_FP8 : NI_PARTS_MOST * (i - first) + NI_OUT_FP4);
    be->ops->upload(be, o->places_of_w, places, bytes);
    free(order);
    for (int32_t i = 0; i < o->group->count; i++) {
        const ni_linear *layer = &o->group->layers[i];
        if (!(layer->mechanisms >> o->index & 1))
            continue;
        ni_outcontrol_list_parts(o, layer, NI_OUT_FP8, &o->whole[i]);
        o->whole[i].places = o->places_of_w;
    }
    return NB_OK;
}

/* The order, as lists that begin where kernels read whole vectors. */
static nb_status list_channels(ni_outcontrol_state *o, nb_error *err) {
    nb_backend *be = o->group->be;
    int32_t *to = o->lists;
    const int32_t *from = o->order;
    for (int part = 0; to && part < NI_OUT_PARTS; part++) {
        be->ops->copy(be, to, from, sizeof *to * (size_t)o->channels[part]);
        to += o->widths[part];
        from += o->channels[part];
    }
    return list_parts(o, err);
}

/* The order, and the loudest channel's norm, are all that the host asks for, once in a run. */
static nb_status choose(ni_outcontrol_state *o, const nb_outcontrol_times *when, nb_error *err) {
    nb_backend *be = o->group->be;
    int32_t loudest;
    float norm;
    be->ops->top_k(be, o->order, o->norms, o->group->in, o->group->in, false);
    be->ops->download(be, &loudest, o->order, sizeof loudest);
    be->ops->download(be, &norm, o->norms + loudest, sizeof norm);
    if (norm == 0)
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: outcontrol chooses its channels by the norms of steps %lld to %lld, and this run saw none "
                       "of them; hint: a later outcontrol.start, or a checkpoint that knows them",
                       o->group->input, (long long)when->start, (long long)when->choice - 1);
    NB_TRY(list_channels(o, err));
    o->chosen = 1;
    return NB_OK;
}

static nb_status out_observe(void *state, const ni_linear_call *call, nb_error *err) {
    ni_outcontrol_state *o = state;
    nb_outcontrol_times when = nb_outcontrol_when(&o->how, call->pass->steps);
    o->x_fresh = false;
    if (call->measuring || !call->training)
        return NB_OK;
    o->gathers = !o->chosen && call->pass->step >= when.start && call->pass->step < when.choice;
    if (o->chosen || call->pass->step < when.start)
        return NB_OK;
    if (call->pass->step >= when.choice) /* the window's last step was passed over, or this run began after it */
        return choose(o, &when, err);
    call->be->ops->fill_zero(call->be, o->passing, (size_t)o->group->in * sizeof *o->passing);
    call->be->ops->column_norms(call->be, o->passing, call->x);
    return NB_OK;
}

static nb_status out_after_step(void *state, ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch,
                                nb_error *err) {
    ni_outcontrol_state *o = state;
    nb_outcontrol_times when = nb_outcontrol_when(&o->how, pass->steps);
    (void)group, (void)scratch;
    if (o->gathers)
        o->group->be->ops->axpy(o->group->be, o->norms, 1.0, o->passing, o->group->in);
    o->gathers = false;
    return !o->chosen && pass->step + 1 >= when.choice ? choose(o, &when, err) : NB_OK;
}

/* ---- what is multiplied ---- */

static nb_status out_terms(void *state, const ni_linear_call *call, ni_linear *layer, ni_gemm gemm, ni_terms *terms,
                           nb_error *err) {
    ni_outcontrol_state *o = state;
    bool acts = o->chosen || call->measuring;
    if (!acts || (gemm != NI_GEMM_FPROP && call->pass->forward_bf16))
        return NB_OK;
    return ni_outcontrol_terms(o, call, layer, gemm, terms, err);
}

static nb_status out_list_w(void *state, const ni_linear_call *call, ni_linear *layer, const nb_mat *master,
                            ni_weight_list *list, nb_error *err) {
    ni_outcontrol_state *o = state;
    (void)call;
    return o->chosen ? ni_outcontrol_list_w(o, layer, master, list, err) : NB_OK;
}

static bool out_replaces_w(const void *state) {
    return ((const ni_outcontrol_state *)state)->chosen;
}

static const ni_parts *out_parts_of_w(const void *state, const ni_linear *layer) {
    return ni_outcontrol_whole_w(state, layer);
}

static nb_status out_decode_w(void *state, ni_linear *layer, const ni_weight_decoding *what, bool *done,
                              nb_error *err) {
    ni_outcontrol_state *o = state;
    if (!o->chosen)
        return NB_OK;
    *done = true;
    return ni_outcontrol_decode_w(o, layer, what, err);
}

static size_t out_decode_scratch(const void *state, const ni_linear *layer) {
    return ni_outcontrol_decode_scratch(state, layer);
}

static int64_t out_fp4_elements(const void *state, const ni_linear *layer) {
    const ni_outcontrol_state *o = state;
    return layer->out * (o->chosen ? o->channels[NI_OUT_FP4] : layer->in);
}

/* ---- checkpoints, census ---- */

static int32_t out_tensors(void *state, ni_mechanism_tensor *tensors, int32_t most) {
    ni_outcontrol_state *o = state;
    const ni_mechanism_tensor all[] = {
        {-1, "outcontrol.norms", NB_F32, o->group->in, o->norms, false, NI_COMBINE_SAME},
        {-1, "outcontrol.order", NB_I32, o->group->in, o->order, false, NI_COMBINE_SAME},
        {-1, "outcontrol.chosen", NB_I32, 2, &o->chosen, true, NI_COMBINE_SAME},
        {-1, "outcontrol.passing", NB_F32, o->group->in, o->gathers ? o->passing : NULL, false, NI_COMBINE_SUM},
    };
    for (int32_t i = 0; i < 4 && i < most; i++)
        tensors[i] = all[i];
    return 4;
}

/* Order and count decide addresses: nothing else may stand there. */
static nb_status out_loaded(void *state, nb_error *err) {
    ni_outcontrol_state *o = state;
    size_t in = (size_t)o->group->in;
    int32_t *order = malloc(in * sizeof *order);
    bool *seen = calloc(in, sizeof *seen), good = order && seen;
    if (good)
        o->group->be->ops->download(o->group->be, order, o->order, in * sizeof *order);
    for (size_t c = 0; good && o->chosen && c < in; c++) {
        good = order[c] >= 0 && (size_t)order[c] < in && !seen[order[c]];
        if (good)
            seen[order[c]] = true;
    }
    bool memory = order && seen;
    free(order);
    free(seen);
    if (!memory)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to check outcontrol's channels", o->group->input);
    if (!good)
        return nb_fail(err, NB_BAD_FILE, "%s: outcontrol.order is not an order of its channels", o->group->input);
    return o->chosen ? list_channels(o, err) : NB_OK;
}

static size_t out_bytes(const void *state) {
    return ((const ni_outcontrol_state *)state)->bytes;
}

static void out_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    const ni_outcontrol_state *o = state;
    (void)layer;
    if (gemm != NI_GEMM_DGRAD)
        snprintf(text, size, "outcontrol mxfp8 %lld of %lld%s", (long long)o->channels[NI_OUT_FP8],
                 (long long)o->group->in, o->chosen ? "" : " later");
}

/* A small layer and a large multiple: what a recipe calls FP4 has nothing in FP4. */
static bool out_doubt(const void *state, char *text, size_t size) {
    const ni_outcontrol_state *o = state;
    if (o->channels[NI_OUT_FP4] > 0 || o->how.share == 1)
        return false;
    snprintf(text, size,
             "outcontrol puts all %lld channels of %s into MXFP8: outcontrol.multiple %d leaves none of them in FP4",
             (long long)o->group->in, o->group->input, o->how.multiple);
    return true;
}

const ni_mechanism ni_mechanism_outcontrol = {
    .name = "outcontrol",
    .wanted = out_wanted,
    .attach = out_attach,
    .detach = out_detach,
    .observe = out_observe,
    .decode_w = out_decode_w,
    .decode_scratch = out_decode_scratch,
    .fp4_elements = out_fp4_elements,
    .terms = out_terms,
    .list_w = out_list_w,
    .replaces_w = out_replaces_w,
    .parts_of_w = out_parts_of_w,
    .keeps_masters = true,
    .after_step = out_after_step,
    .tensors = out_tensors,
    .loaded = out_loaded,
    .bytes = out_bytes,
    .text = out_text,
    .doubt = out_doubt,
};
