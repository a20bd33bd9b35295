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
 * Until then the layer runs as the recipe says. The second product of Y is added in FP32 and rounded once with the
 * first; the released kernels round it to BF16 on its own.
 */
#include "backend/table.h"
#include "linear/linear.h"
#include "recipe/mechanism.h"

#include <stdio.h>
#include <stdlib.h>

static const nb_quantizer mxfp8 = {.element = NB_ELEMENT_E4M3,
                                   .scale_type = NB_SCALE_E8M0,
                                   .rule = NB_RULE_CEIL,
                                   .block_rows = 1,
                                   .block_cols = 32,
                                   .round = NB_ROUND_EVEN};

/* The two parts of a matrix whose columns are split. */
enum { FP8, FP4, PARTS };

typedef struct outcontrol {
    ni_linear_group *group;
    int32_t index;
    nb_outcontrol how;
    int64_t channels[PARTS]; /* k8, k4 */
    float *norms;            /* F32 [K], summed over the steps so far */
    float *passing;          /* the same of one micro-batch, and of all of a step once they are summed */
    bool gathers;            /* this step's micro-batches do */
    int32_t *order;          /* [K]: the FP8 channels, then the others; descending norms */
    int64_t chosen;          /* 1 once they are; with norms and order kept in checkpoints */
    void *x_memory[PARTS];
    nb_operand x[PARTS]; /* of the forward pass at hand */
    bool x_fresh;
    nb_operand w[NI_GROUP_LAYERS][PARTS];
    uint32_t w_moves[NI_GROUP_LAYERS]; /* 1 + group->moves when they were made; 0: never, or of other numbers */
    nb_operand dgrad_w[NI_GROUP_LAYERS], wgrad_dy8, wgrad_x[PARTS]; /* of the products at hand */
    size_t bytes;
} outcontrol;

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
     .low = 16,
     .high = 4096,
     .help = "their number is rounded up to this multiple; so must the rest divide by the format's blocks",
     .source = "released code of arXiv:2510.27527; its paper's runs used none"},
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

/* ---- what it does ---- */

static bool out_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_outcontrol && plan->mechanisms.outcontrol.share > 0;
}

/* ---- life ---- */

static void out_detach(void *state) {
    outcontrol *o = state;
    nb_backend *be = o->group->be;
    nb_backend_release(be, o->norms);
    nb_backend_release(be, o->passing);
    nb_backend_release(be, o->order);
    for (int part = 0; part < PARTS; part++) {
        nb_backend_release(be, o->x_memory[part]);
        for (int32_t i = 0; i < o->group->count; i++)
            nb_backend_release(be, o->w[i][part].memory);
    }
    free(o);
}

static nb_status place(outcontrol *o, size_t bytes, void **memory, nb_error *err) {
    if (bytes == 0)
        return NB_OK;
    *memory = o->group->be->ops->alloc(o->group->be, bytes, "outlier channels");
    o->bytes += bytes;
    return *memory ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory for outcontrol", o->group->input);
}

static const nb_quantizer *quantizer_of(const ni_linear *layer, nb_role role, int part) {
    return part == FP8 ? &mxfp8 : &layer->plan.roles[role].quantizer;
}

static nb_status check_part(const outcontrol *o, const ni_linear *layer, int part, nb_error *err) {
    int64_t k = o->channels[part];
    if (nb_quantizer_check_shape(quantizer_of(layer, NB_FPROP_X, part), o->group->max_rows, k, err) == NB_OK &&
        nb_quantizer_check_shape(quantizer_of(layer, NB_FPROP_W, part), layer->out, k, err) == NB_OK)
        return NB_OK;
    return nb_fail_within(err, "%s: outcontrol leaves %lld of %lld channels in FP4 (change its share or multiple)",
                          layer->name, (long long)o->channels[FP4], (long long)layer->in);
}

static nb_operand shape_of(const outcontrol *o, const ni_linear *layer, nb_role role, int part) {
    nb_role other = role == NB_FPROP_X ? NB_FPROP_W : NB_FPROP_X;
    return (nb_operand){.quantizer = *quantizer_of(layer, role, part),
                        .other = *quantizer_of(layer, other, part),
                        .rows = role == NB_FPROP_X ? o->group->max_rows : layer->out,
                        .cols = o->channels[part],
                        .side = role == NB_FPROP_X ? NI_LEFT : NI_RIGHT,
                        .reread = true};
}

static nb_status place_layer(outcontrol *o, int32_t i, nb_error *err) {
    const ni_linear *layer = &o->group->layers[i];
    nb_backend *be = o->group->be;
    if (nb_quantizer_is_bf16(&layer->plan.roles[NB_FPROP_X].quantizer) ||
        nb_quantizer_is_bf16(&layer->plan.roles[NB_FPROP_W].quantizer))
        return nb_fail(err, NB_BAD_CONFIG, "%s: outcontrol needs fprop.x and fprop.w quantized", layer->name);
    for (int part = 0; part < PARTS; part++) {
        nb_operand x = shape_of(o, layer, NB_FPROP_X, part), *w = &o->w[i][part];
        if (o->channels[part] == 0)
            continue;
        NB_TRY(check_part(o, layer, part, err));
        *w = shape_of(o, layer, NB_FPROP_W, part);
        NB_TRY(place(o, be->ops->operand_bytes(be, w), &w->memory, err));
        if (!o->x_memory[part])
            NB_TRY(place(o, be->ops->operand_bytes(be, &x), &o->x_memory[part], err));
    }
    return NB_OK;
}

/* ceil(int(share K) / multiple) multiples, at most as many as fit. */
static int64_t fp8_channels(const nb_outcontrol *how, int64_t in) {
    int64_t wanted = (int64_t)(how->share * (double)in), multiple = how->multiple > 1 ? how->multiple : 1;
    int64_t rounded = (wanted + multiple - 1) / multiple * multiple, most = in / multiple * multiple;
    return rounded < most ? rounded : most;
}

static nb_status out_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    if (!group->be->ops->gather_columns || group->be->real != NB_F32)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no outcontrol", group->input, group->be->name);
    outcontrol *o = calloc(1, sizeof *o);
    if (!o)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for outcontrol", group->input);
    o->group = group;
    o->index = index;
    *state = o;
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].mechanisms >> index & 1)
            o->how = group->layers[i].plan.mechanisms.outcontrol;
    o->channels[FP8] = fp8_channels(&o->how, group->in);
    o->channels[FP4] = group->in - o->channels[FP8];
    NB_TRY(place(o, sizeof(float) * (size_t)group->in, (void **)&o->norms, err));
    NB_TRY(place(o, sizeof(float) * (size_t)group->in, (void **)&o->passing, err));
    NB_TRY(place(o, sizeof(int32_t) * (size_t)group->in, (void **)&o->order, err));
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].mechanisms >> index & 1)
            NB_TRY(place_layer(o, i, err));
    return NB_OK;
}

/* ---- choosing the channels ---- */

/* The loudest channel's norm is all that the host asks for, once in a run. */
static nb_status choose(outcontrol *o, const nb_outcontrol_times *when, nb_error *err) {
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
    o->chosen = 1;
    return NB_OK;
}

static nb_status out_observe(void *state, const ni_linear_call *call, nb_error *err) {
    outcontrol *o = state;
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
    outcontrol *o = state;
    nb_outcontrol_times when = nb_outcontrol_when(&o->how, pass->steps);
    (void)group, (void)scratch;
    if (o->gathers)
        o->group->be->ops->axpy(o->group->be, o->norms, 1.0, o->passing, o->group->in);
    o->gathers = false;
    return !o->chosen && pass->step + 1 >= when.choice ? choose(o, &when, err) : NB_OK;
}

/* ---- the split ---- */

static bool acts(const outcontrol *o, const ni_linear_call *call) {
    return o->chosen || call->measuring;
}

static const int32_t *columns_of(const outcontrol *o, int part) {
    return part == FP8 ? o->order : o->order + o->channels[FP8];
}

static ni_source part_of(const outcontrol *o, const nb_mat *numbers, int part) {
    return (ni_source){.numbers = numbers, .columns = columns_of(o, part), .column_count = o->channels[part]};
}

/* What both quantizers counted, in the first; NULL where nobody counts. */
static const nb_quantize_stats *both_parts(const nb_pass *pass, nb_quantize_stats stats[PARTS]) {
    const nb_quantize_stats *b = &stats[1];
    nb_quantize_stats *a = ni_counted(pass, &stats[0]);
    if (!a)
        return NULL;
    a->amax = b->amax > a->amax ? b->amax : a->amax;
    a->elements += b->elements;
    a->nonzero += b->nonzero;
    a->flushed += b->flushed;
    a->saturated += b->saturated;
    a->blocks += b->blocks;
    a->zero_scales += b->zero_scales;
    a->sum_sq += b->sum_sq;
    a->sum_sq_error += b->sum_sq_error;
    a->sum_product += b->sum_product;
    return a;
}

/* The lens names channels by their place in X, so it sees X whole and as it came; what is lost is counted over both
 * parts. */
static nb_status split_x(outcontrol *o, const ni_linear_call *call, const ni_linear *layer, nb_error *err) {
    const ni_operand_name *name = &layer->names[NB_FPROP_X];
    nb_noise noise = ni_noise_of(call->pass, name);
    nb_quantize_stats stats[PARTS] = {{0}};
    if (o->x_fresh)
        return NB_OK;
    for (int part = 0; part < PARTS; part++) {
        const ni_source source = part_of(o, call->x, part);
        const ni_making making = {.out = &o->x[part], .noise = &noise, .stats = ni_counted(call->pass, &stats[part])};
        if (o->channels[part] == 0)
            continue;
        o->x[part] = shape_of(o, layer, NB_FPROP_X, part);
        o->x[part].rows = call->x->rows;
        o->x[part].memory = o->x_memory[part];
        NB_TRY(call->be->ops->make_operands(call->be, &source, &making, 1, err));
    }
    o->x_fresh = true;
    const ni_showing showing = {.name = name, .source = call->x, .stats = both_parts(call->pass, stats)};
    return ni_operand_show(call, &showing, err);
}

static nb_status split_w(outcontrol *o, const ni_linear *layer, const nb_mat *w, nb_error *err) {
    nb_backend *be = o->group->be;
    for (int part = 0; part < PARTS; part++) {
        const ni_source source = part_of(o, w, part);
        const ni_making making = {.out = &o->w[layer->index][part]};
        if (o->channels[part] > 0)
            NB_TRY(be->ops->make_operands(be, &source, &making, 1, err));
    }
    return NB_OK;
}

/* Columns of the FP4 part, which the lens sees as numbers. */
static nb_status gathered(const outcontrol *o, const ni_linear_call *call, const nb_mat *whole, nb_mat *out,
                          nb_error *err) {
    *out = nb_mat_of(NULL, whole->dtype, whole->rows, o->channels[FP4]);
    NB_TRY(ni_scratch_place(call->scratch, nb_dtype_size(out->dtype) * (size_t)(out->rows * out->cols),
                            "a part of the channels", &out->data, err));
    call->be->ops->gather_columns(call->be, out, whole, columns_of(o, FP4));
    return NB_OK;
}

/* Of W the lens sees the columns in FP4, whose bins it follows, in the order of their channels' norms. */
static nb_status show_w(const outcontrol *o, const ni_linear_call *call, const ni_linear *layer, const nb_mat *w,
                        nb_error *err) {
    size_t mark = call->scratch->used;
    nb_mat columns;
    if (!ni_lens_looks(call) || o->channels[FP4] == 0)
        return NB_OK;
    NB_TRY(gathered(o, call, w, &columns, err));
    const ni_showing showing = {
        .name = &layer->names[NB_FPROP_W], .source = &columns, .operand = &o->w[layer->index][FP4]};
    NB_TRY(ni_operand_show(call, &showing, err));
    call->scratch->used = mark;
    return NB_OK;
}

/* W in its parts, made when the master has moved. */
static nb_status w_ready(outcontrol *o, const ni_linear_call *call, const ni_linear *layer, nb_error *err) {
    uint32_t *made = &o->w_moves[layer->index], now = o->group->moves + 1;
    nb_mat master = ni_master_of(call->be, layer);
    if (*made != now)
        NB_TRY(split_w(o, layer, &master, err));
    *made = now;
    return show_w(o, call, layer, &master, err);
}

/* Decodes the parts into their columns of `whole` (F32). */
static nb_status join(const outcontrol *o, const ni_linear *layer, int first, const nb_mat *whole, nb_error *err) {
    nb_backend *be = o->group->be;
    for (int part = first; part < PARTS; part++)
        if (o->channels[part] > 0)
            NB_TRY(be->ops->decode(be, whole, &o->w[layer->index][part], false, columns_of(o, part), true, err));
    return NB_OK;
}

/* ---- fprop: two terms ---- */

static nb_status fprop_terms(outcontrol *o, const ni_linear_call *call, ni_linear *layer, ni_terms *terms,
                             nb_error *err) {
    NB_TRY(split_x(o, call, layer, err));
    NB_TRY(w_ready(o, call, layer, err));
    terms->count = 0;
    for (int part = PARTS; part-- > 0;)
        if (o->channels[part] > 0)
            NB_TRY(ni_add_term(terms, &(ni_term){.a = &o->x[part], .b = &o->w[layer->index][part]}, err));
    return NB_OK;
}

/* ---- dgrad: another W ---- */

/* Numbers in act, as dgrad reads them, or codes. */
static nb_status place_dgrad_w(const outcontrol *o, const ni_linear_call *call, const ni_linear *layer, nb_operand *out,
                               nb_error *err) {
    const nb_quantizer *q = &layer->plan.roles[NB_DGRAD_W].quantizer;
    nb_quantizer dy = ni_operand_quantizer(layer, NB_DGRAD_DY);
    const ni_operand_request request = {q, &dy, layer->in, layer->out, NI_RIGHT, true};
    (void)o;
    NB_TRY(ni_operand_place(call, &request, out, err));
    if (!nb_quantizer_is_bf16(q))
        return NB_OK;
    out->transposed = true;
    out->numbers = nb_mat_of(NULL, call->be->act, layer->out, layer->in);
    return ni_scratch_place_kept(call->scratch, nb_dtype_size(call->be->act) * (size_t)(layer->out * layer->in),
                                 "dgrad.w", &out->numbers.data, err);
}

static nb_status dgrad_terms(outcontrol *o, const ni_linear_call *call, ni_linear *layer, ni_terms *terms,
                             nb_error *err) {
    const ni_operand_name *name = &layer->names[NB_DGRAD_W];
    nb_operand *w = &o->dgrad_w[layer->index];
    nb_mat decoded = nb_mat_of(NULL, NB_F32, layer->out, layer->in);
    nb_noise noise = ni_noise_of(call->pass, name);
    nb_quantize_stats stats = {0};
    NB_TRY(ni_scratch_place(call->scratch, sizeof(float) * (size_t)(layer->out * layer->in), "a decoded weight",
                            &decoded.data, err));
    NB_TRY(join(o, layer, FP8, &decoded, err));
    NB_TRY(place_dgrad_w(o, call, layer, w, err));
    const ni_source source = {.numbers = &decoded};
    const ni_making making = {.out = w, .transpose = true, .noise = &noise, .stats = ni_counted(call->pass, &stats)};
    NB_TRY(call->be->ops->make_operands(call->be, &source, &making, 1, err));
    const ni_showing showing = {
        .name = name, .source = &decoded, .transposed = true, .operand = w, .stats = making.stats};
    NB_TRY(ni_operand_show(call, &showing, err));
    terms->list[0].b = w;
    return NB_OK;
}

/* ---- wgrad: a term for the columns of each part ---- */

static nb_status place_wgrad_x(const outcontrol *o, const ni_linear_call *call, const ni_linear *layer, nb_operand *out,
                               nb_error *err) {
    nb_quantizer q = ni_operand_quantizer(layer, NB_WGRAD_X), dy = ni_operand_quantizer(layer, NB_WGRAD_DY);
    int64_t k = o->channels[FP4], m = call->x->rows;
    const ni_operand_request request = {&q, &dy, k, m, NI_RIGHT, false};
    NB_TRY(ni_operand_place(call, &request, out, err));
    if (!nb_quantizer_is_bf16(&q))
        return NB_OK;
    out->transposed = true;
    out->numbers = nb_mat_of(NULL, call->be->act, m, k);
    return ni_scratch_place(call->scratch, nb_dtype_size(call->be->act) * (size_t)(m * k), "wgrad.x",
                            &out->numbers.data, err);
}

/* X of the FP4 part along the tokens: its codes quantized again, or the same codes. */
static nb_status x4_of_codes(const outcontrol *o, const ni_linear_call *call, const ni_linear *layer, nb_operand *out,
                             nb_error *err) {
    const nb_operand_rule *rule = &layer->plan.roles[NB_WGRAD_X];
    const ni_operand_name *name = &layer->names[NB_WGRAD_X];
    const nb_operand *from = &o->x[FP4];
    nb_backend *be = call->be;
    nb_noise noise = ni_noise_of(call->pass, name);
    nb_quantize_stats stats = {0};
    if (nb_quantizer_is_bf16(&out->quantizer))
        return be->ops->decode(be, &out->numbers, from, false, NULL, rule->via != NB_VIA_FOLD, err);
    if (!rule->requantize)
        return be->ops->turn(be, out, from, err);
    const ni_making making = {.out = out, .transpose = true, .noise = &noise, .stats = ni_counted(call->pass, &stats)};
    NB_TRY(be->ops->make_operands(be, &(ni_source){.operand = from}, &making, 1, err));
    const ni_showing showing = {.name = name, .from = from, .transposed = true, .operand = out, .stats = making.stats};
    return ni_operand_show(call, &showing, err);
}

/* Or X itself where the recipe says so. */
static nb_status x4_of_numbers(const outcontrol *o, const ni_linear_call *call, const ni_linear *layer, nb_operand *out,
                               nb_error *err) {
    const ni_operand_name *name = &layer->names[NB_WGRAD_X];
    nb_noise noise = ni_noise_of(call->pass, name);
    nb_quantize_stats stats = {0};
    const ni_source source = part_of(o, call->x, FP4);
    const ni_making making = {.out = out, .transpose = true, .noise = &noise, .stats = ni_counted(call->pass, &stats)};
    NB_TRY(call->be->ops->make_operands(call->be, &source, &making, 1, err));
    if (!ni_lens_looks(call))
        return NB_OK;
    size_t mark = call->scratch->used;
    nb_mat columns;
    NB_TRY(gathered(o, call, call->x, &columns, err));
    const ni_showing showing = {
        .name = name, .source = &columns, .transposed = true, .operand = out, .stats = making.stats};
    NB_TRY(ni_operand_show(call, &showing, err));
    call->scratch->used = mark;
    return NB_OK;
}

/* F(dY^T) and F(Xd8^T), 1x32 along the tokens. */
static nb_status wgrad_in_fp8(outcontrol *o, const ni_linear_call *call, const ni_linear *layer, nb_error *err) {
    nb_backend *be = call->be;
    int64_t m = call->x->rows;
    const ni_operand_request dy = {&mxfp8, &mxfp8, layer->out, m, NI_LEFT, false},
                             x = {&mxfp8, &mxfp8, o->channels[FP8], m, NI_RIGHT, false};
    NB_TRY(ni_operand_place(call, &dy, &o->wgrad_dy8, err));
    NB_TRY(ni_operand_place(call, &x, &o->wgrad_x[FP8], err));
    const ni_source gradient = {.numbers = &call->dy[layer->index]}, codes = {.operand = &o->x[FP8]};
    NB_TRY(be->ops->make_operands(be, &gradient, &(ni_making){.out = &o->wgrad_dy8, .transpose = true}, 1, err));
    return be->ops->make_operands(be, &codes, &(ni_making){.out = &o->wgrad_x[FP8], .transpose = true}, 1, err);
}

static nb_status wgrad_terms(outcontrol *o, const ni_linear_call *call, ni_linear *layer, ni_terms *terms,
                             nb_error *err) {
    const nb_operand *dy = terms->list[0].a;
    nb_operand *x4 = &o->wgrad_x[FP4];
    terms->count = 0;
    if (o->channels[FP8] > 0) {
        NB_TRY(wgrad_in_fp8(o, call, layer, err));
        NB_TRY(ni_add_term(terms, &(ni_term){.a = &o->wgrad_dy8, .b = &o->wgrad_x[FP8], .columns = columns_of(o, FP8)},
                           err));
    }
    if (o->channels[FP4] == 0)
        return NB_OK;
    NB_TRY(place_wgrad_x(o, call, layer, x4, err));
    NB_TRY(layer->plan.roles[NB_WGRAD_X].from ? x4_of_codes(o, call, layer, x4, err)
                                              : x4_of_numbers(o, call, layer, x4, err));
    return ni_add_term(terms, &(ni_term){.a = dy, .b = x4, .columns = columns_of(o, FP4)}, err);
}

static nb_status out_terms(void *state, const ni_linear_call *call, ni_linear *layer, ni_gemm gemm, ni_terms *terms,
                           nb_error *err) {
    outcontrol *o = state;
    if (!acts(o, call) || (gemm != NI_GEMM_FPROP && call->pass->forward_bf16))
        return NB_OK;
    return gemm == NI_GEMM_FPROP   ? fprop_terms(o, call, layer, terms, err)
           : gemm == NI_GEMM_DGRAD ? dgrad_terms(o, call, layer, terms, err)
                                   : wgrad_terms(o, call, layer, terms, err);
}

/* For OsciReset: FP4 columns as the forward pass orders them; FP8 columns stand for themselves. */
static nb_status out_decode_w(void *state, ni_linear *layer, const ni_weight_decoding *what, bool *done,
                              nb_error *err) {
    outcontrol *o = state;
    nb_backend *be = o->group->be;
    if (!o->chosen)
        return NB_OK;
    size_t bytes = sizeof(float) * (size_t)(layer->out * layer->in), mark = what->scratch->used;
    nb_mat whole = nb_mat_of(what->w, NB_F32, layer->out, layer->in), out = whole;
    out.data = what->decoded;
    o->w_moves[layer->index] = 0;
    NB_TRY(split_w(o, layer, &whole, err));
    be->ops->copy(be, what->decoded, what->w, bytes);
    NB_TRY(join(o, layer, FP4, &out, err));
    if (what->widths)
        be->ops->fill_zero(be, what->widths, bytes);
    if (what->widths && o->channels[FP4] > 0) {
        nb_mat wide = nb_mat_of(what->widths, NB_F32, layer->out, layer->in), columns = wide;
        columns.cols = columns.stride = o->channels[FP4];
        NB_TRY(ni_scratch_place(what->scratch, sizeof(float) * (size_t)(columns.rows * columns.cols), "widths of bins",
                                &columns.data, err));
        be->ops->bin_widths(be, columns.data, &o->w[layer->index][FP4]);
        be->ops->scatter_columns(be, &wide, &columns, columns_of(o, FP4), false);
    }
    what->scratch->used = mark;
    *done = true;
    return NB_OK;
}

static int64_t out_fp4_elements(const void *state, const ni_linear *layer) {
    const outcontrol *o = state;
    return layer->out * (o->chosen ? o->channels[FP4] : layer->in);
}

/* ---- checkpoints, census ---- */

static int32_t out_tensors(void *state, ni_mechanism_tensor *tensors, int32_t most) {
    outcontrol *o = state;
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
    outcontrol *o = state;
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
    return good ? NB_OK
                : nb_fail(err, NB_BAD_FILE, "%s: outcontrol.order is not an order of its channels", o->group->input);
}

static size_t out_bytes(const void *state) {
    return ((const outcontrol *)state)->bytes;
}

static void out_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    const outcontrol *o = state;
    (void)layer;
    if (gemm != NI_GEMM_DGRAD)
        snprintf(text, size, "outcontrol mxfp8 %lld of %lld%s", (long long)o->channels[FP8], (long long)o->group->in,
                 o->chosen ? "" : " later");
}

/* A small layer and a large multiple: what a recipe calls FP4 has nothing in FP4. */
static bool out_doubt(const void *state, char *text, size_t size) {
    const outcontrol *o = state;
    if (o->channels[FP4] > 0 || o->how.share == 1)
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
    .fp4_elements = out_fp4_elements,
    .terms = out_terms,
    .after_step = out_after_step,
    .tensors = out_tensors,
    .loaded = out_loaded,
    .bytes = out_bytes,
    .text = out_text,
    .doubt = out_doubt,
};
