/* outcontrol_terms.c: what OutControl multiplies once its channels are chosen: the two parts of X and W, the sums of
 * their products, and W put together again for dgrad and OsciReset. The formulas are in outcontrol.c.
 */
#include "backend/table.h"
#include "linear/outcontrol.h"

#include <math.h>

static const nb_quantizer mxfp8 = {.element = NB_ELEMENT_E4M3,
                                   .scale_type = NB_SCALE_E8M0,
                                   .rule = NB_RULE_CEIL,
                                   .block_rows = 1,
                                   .block_cols = 32,
                                   .round = NB_ROUND_EVEN};

const nb_quantizer *ni_outcontrol_quantizer(const ni_linear *layer, nb_role role, int part) {
    return part == NI_OUT_FP8 ? &mxfp8 : &layer->plan.roles[role].quantizer;
}

nb_operand ni_outcontrol_shape(const ni_outcontrol_state *o, const ni_linear *layer, nb_role role, int part) {
    nb_role other = role == NB_FPROP_X ? NB_FPROP_W : NB_FPROP_X;
    return (nb_operand){.quantizer = *ni_outcontrol_quantizer(layer, role, part),
                        .other = *ni_outcontrol_quantizer(layer, other, part),
                        .rows = role == NB_FPROP_X ? o->group->max_rows : layer->out,
                        .cols = o->widths[part],
                        .side = role == NB_FPROP_X ? NI_LEFT : NI_RIGHT,
                        .reread = true};
}

bool ni_outcontrol_is_filled_up(const ni_outcontrol_state *o, int part) {
    return o->widths[part] > o->channels[part];
}

const int32_t *ni_outcontrol_columns(const ni_outcontrol_state *o, int part) {
    const int64_t first = o->lists ? o->widths[NI_OUT_FP8] : o->channels[NI_OUT_FP8];
    return (o->lists ? o->lists : o->order) + (part == NI_OUT_FP8 ? 0 : first);
}

/* ---- the split ---- */

static ni_source part_of(const ni_outcontrol_state *o, const nb_mat *numbers, int part) {
    return (ni_source){
        .numbers = numbers, .columns = ni_outcontrol_columns(o, part), .column_count = o->channels[part]};
}

/* Parts of a matrix that are quantized by one call. */
typedef struct part_list {
    ni_source sources[NI_OUT_PARTS];
    ni_making makings[NI_OUT_PARTS];
    int32_t count;
} part_list;

/* A part of `whole`, whose last block is filled up with zeros where the channels do not fill it. */
static void list_part(const ni_outcontrol_state *o, const nb_mat *whole, int part, const ni_making *making,
                      part_list *list) {
    const int32_t i = list->count++;
    list->makings[i] = *making;
    list->sources[i] = part_of(o, whole, part);
    list->sources[i].zeros = o->widths[part] - o->channels[part];
}

static nb_status make_parts(const ni_outcontrol_state *o, const part_list *list, nb_error *err) {
    return o->group->be->ops->make_many(o->group->be, list->sources, list->makings, list->count, err);
}

/* What a part of X decodes to, without what fills it up. */
static ni_source codes_of(const ni_outcontrol_state *o, int part) {
    ni_source source = {.operand = &o->x[part]};
    if (ni_outcontrol_is_filled_up(o, part)) {
        source.columns = o->places;
        source.column_count = o->channels[part];
        source.leading = true;
    }
    return source;
}

static void join_stats(nb_quantize_stats *a, const nb_quantize_stats *b) {
    a->amax = b->amax > a->amax || isnan(b->amax) ? b->amax : a->amax;
    a->elements += b->elements;
    a->nonzero += b->nonzero;
    a->flushed += b->flushed;
    a->saturated += b->saturated;
    a->blocks += b->blocks;
    a->zero_scales += b->zero_scales;
    a->sum_sq += b->sum_sq;
    a->sum_sq_error += b->sum_sq_error;
    a->sum_product += b->sum_product;
}

/* What was counted of parts of a matrix of so many rows, all of it in the first, without what fills them up. */
static void join_parts(const ni_outcontrol_state *o, int64_t rows, nb_quantize_stats *stats, int first, int end) {
    nb_backend *be = o->group->be;
    nb_quantize_stats all = {0}, one;
    for (int part = first; part < end; part++) {
        if (o->channels[part] == 0)
            continue;
        be->ops->download(be, &one, &stats[part - first], sizeof one);
        one.elements -= rows * (o->widths[part] - o->channels[part]);
        join_stats(&all, &one);
    }
    be->ops->upload(be, stats, &all, sizeof all);
}

/* The lens names channels by their place in X, so it sees X whole and as it came; what is lost is counted over both
 * parts. */
static nb_status split_x(ni_outcontrol_state *o, const ni_linear_call *call, const ni_linear *layer, nb_error *err) {
    const ni_operand_name *name = &layer->names[NB_FPROP_X];
    nb_noise noise = ni_noise_of(call->pass, name);
    part_list list = {.count = 0};
    nb_quantize_stats *stats;
    if (o->x_fresh)
        return NB_OK;
    NB_TRY(ni_counted(call, NI_OUT_PARTS, &stats, err));
    for (int part = 0; part < NI_OUT_PARTS; part++) {
        const ni_making making = {.out = &o->x[part], .noise = &noise, .stats = stats ? &stats[part] : NULL};
        if (o->channels[part] == 0)
            continue;
        o->x[part] = ni_outcontrol_shape(o, layer, NB_FPROP_X, part);
        o->x[part].rows = call->x->rows;
        o->x[part].memory = o->x_memory[part];
        list_part(o, call->x, part, &making, &list);
    }
    NB_TRY(make_parts(o, &list, err));
    o->x_fresh = true;
    if (stats)
        join_parts(o, call->x->rows, stats, 0, NI_OUT_PARTS);
    const ni_showing showing = {.name = name, .source = call->x, .stats = stats};
    return ni_operand_show(call, &showing, err);
}

static void list_w_parts(ni_outcontrol_state *o, const ni_linear *layer, const nb_mat *w, part_list *list) {
    for (int part = 0; part < NI_OUT_PARTS; part++) {
        const ni_making making = {.out = &o->w[layer->index][part]};
        if (o->channels[part] > 0)
            list_part(o, w, part, &making, list);
    }
}

static nb_status split_w(ni_outcontrol_state *o, const ni_linear *layer, const nb_mat *w, nb_error *err) {
    part_list list = {.count = 0};
    list_w_parts(o, layer, w, &list);
    return make_parts(o, &list, err);
}

/* Columns of the FP4 part, which the lens sees as numbers. */
static nb_status gathered(const ni_outcontrol_state *o, const ni_linear_call *call, const nb_mat *whole, nb_mat *out,
                          nb_error *err) {
    *out = nb_mat_of(NULL, whole->dtype, whole->rows, o->channels[NI_OUT_FP4]);
    NB_TRY(ni_scratch_place(call->scratch, nb_dtype_size(out->dtype) * (size_t)(out->rows * out->cols),
                            "a part of the channels", &out->data, err));
    call->be->ops->gather_columns(call->be, out, whole, ni_outcontrol_columns(o, NI_OUT_FP4));
    return NB_OK;
}

/* Of W the lens sees the columns in FP4, whose bins it follows, in the order of their channels' norms. Where zeros fill
 * them up it is told what was lost instead, of columns quantized once more to the same codes. */
static nb_status show_w(const ni_outcontrol_state *o, const ni_linear_call *call, ni_linear *layer, const nb_mat *w,
                        nb_error *err) {
    size_t mark = call->scratch->used;
    nb_operand codes = o->w[layer->index][NI_OUT_FP4];
    nb_quantize_stats *stats = NULL;
    nb_mat columns;
    if (!ni_lens_looks(call, NB_FPROP_W) || o->channels[NI_OUT_FP4] == 0)
        return NB_OK;
    NB_TRY(gathered(o, call, w, &columns, err));
    ni_showing showing = {.name = &layer->names[NB_FPROP_W], .source = &columns, .operand = &codes};
    if (ni_outcontrol_is_filled_up(o, NI_OUT_FP4)) {
        showing.operand = NULL;
        NB_TRY(ni_counted(call, 1, &stats, err));
        showing.stats = stats;
    }
    if (stats || call->measuring) {
        nb_mat numbers;
        part_list list = {.count = 0};
        const ni_making making = {.out = &codes, .stats = stats};
        NB_TRY(ni_weight_source(call, layer, &numbers, err));
        list_part(o, &numbers, NI_OUT_FP4, &making, &list);
        NB_TRY(make_parts(o, &list, err));
    }
    if (stats)
        join_parts(o, w->rows, stats, NI_OUT_FP4, NI_OUT_FP4 + 1);
    NB_TRY(ni_operand_show(call, &showing, err));
    call->scratch->used = mark;
    return NB_OK;
}

nb_status ni_outcontrol_list_w(ni_outcontrol_state *o, const ni_linear *layer, const nb_mat *master,
                               ni_weight_list *list, nb_error *err) {
    uint32_t *made = &o->w_moves[layer->index], now = o->group->moves + 1;
    part_list parts = {.count = 0};
    if (*made == now)
        return NB_OK;
    *made = now;
    list_w_parts(o, layer, master, &parts);
    for (int32_t i = 0; i < parts.count; i++)
        NB_TRY(ni_list_making(list, &parts.sources[i], &parts.makings[i], err));
    return NB_OK;
}

const ni_parts *ni_outcontrol_whole_w(const ni_outcontrol_state *o, const ni_linear *layer) {
    const bool made = o->w_moves[layer->index] == o->group->moves + 1;
    return made && o->places_of_w ? &o->whole[layer->index] : NULL;
}

/* W in its parts, made when the master has moved. */
static nb_status w_ready(ni_outcontrol_state *o, const ni_linear_call *call, ni_linear *layer, nb_error *err) {
    uint32_t *made = &o->w_moves[layer->index], now = o->group->moves + 1;
    nb_mat numbers, master = ni_master_of(call->be, layer);
    if (*made != now || call->measuring) {
        NB_TRY(ni_weight_source(call, layer, &numbers, err));
        NB_TRY(split_w(o, layer, &numbers, err));
    }
    *made = call->measuring ? 0 : now;
    return show_w(o, call, layer, &master, err);
}

/* Its parts from `first` on. */
void ni_outcontrol_list_parts(const ni_outcontrol_state *o, const ni_linear *layer, int first, ni_parts *out) {
    *out = (ni_parts){.rows = layer->out, .cols = layer->in};
    for (int part = first; part < NI_OUT_PARTS; part++) {
        if (o->channels[part] == 0)
            continue;
        out->codes[out->count] = &o->w[layer->index][part];
        out->columns[out->count++] = (ni_columns){ni_outcontrol_columns(o, part), o->channels[part]};
    }
}

/* W (F32) out of its parts, from `first` on. */
static nb_status join(const ni_outcontrol_state *o, const ni_linear *layer, int first, const nb_mat *whole,
                      nb_error *err) {
    nb_backend *be = o->group->be;
    ni_parts parts;
    ni_outcontrol_list_parts(o, layer, first, &parts);
    return parts.count ? be->ops->decode_columns(be, whole, parts.codes, parts.columns, parts.count, err) : NB_OK;
}

/* ---- fprop: two terms ---- */

static nb_status fprop_terms(ni_outcontrol_state *o, const ni_linear_call *call, ni_linear *layer, ni_terms *terms,
                             nb_error *err) {
    NB_TRY(split_x(o, call, layer, err));
    NB_TRY(w_ready(o, call, layer, err));
    terms->count = 0;
    for (int part = NI_OUT_PARTS; part-- > 0;)
        if (o->channels[part] > 0)
            NB_TRY(ni_add_term(terms, &(ni_term){.a = &o->x[part], .b = &o->w[layer->index][part]}, err));
    return NB_OK;
}

/* ---- dgrad: another W ---- */

/* Numbers in act, as dgrad reads them, or codes. */
static nb_status place_dgrad_w(const ni_linear_call *call, const ni_linear *layer, nb_operand *out, nb_error *err) {
    const nb_quantizer *q = &layer->plan.roles[NB_DGRAD_W].quantizer;
    nb_quantizer dy = ni_operand_quantizer(layer, NB_DGRAD_DY);
    const ni_operand_request request = {.quantizer = q,
                                        .other = &dy,
                                        .rows = layer->in,
                                        .cols = layer->out,
                                        .side = NI_RIGHT,
                                        .until_pass_ends = true,
                                        .multiplied_only = true};
    NB_TRY(ni_operand_place(call, &request, out, err));
    if (!nb_quantizer_is_bf16(q))
        return NB_OK;
    out->transposed = true;
    out->numbers = nb_mat_of(NULL, call->be->act, layer->out, layer->in);
    return ni_scratch_place_kept(call->scratch, nb_dtype_size(call->be->act) * (size_t)(layer->out * layer->in),
                                 "dgrad.w", &out->numbers.data, err);
}

static nb_status dgrad_terms(ni_outcontrol_state *o, const ni_linear_call *call, ni_linear *layer, ni_terms *terms,
                             nb_error *err) {
    const ni_operand_name *name = &layer->names[NB_DGRAD_W];
    nb_operand *w = &o->dgrad_w[layer->index];
    nb_mat decoded = nb_mat_of(NULL, NB_F32, layer->out, layer->in);
    nb_noise noise = ni_noise_of(call->pass, name);
    nb_quantize_stats *stats;
    if (layer->own[NB_DGRAD_W].fresh) /* made of both parts, with those of other groups (ready.c) */
        return NB_OK;
    NB_TRY(ni_counted(call, 1, &stats, err));
    size_t mark = call->scratch->used;
    NB_TRY(ni_scratch_place(call->scratch, sizeof(float) * (size_t)(layer->out * layer->in), "a decoded weight",
                            &decoded.data, err));
    NB_TRY(join(o, layer, NI_OUT_FP8, &decoded, err));
    NB_TRY(place_dgrad_w(call, layer, w, err));
    const ni_source source = {.numbers = &decoded};
    const ni_making making = {
        .out = w, .transpose = true, .shown = ni_lens_looks(call, NB_DGRAD_W), .noise = &noise, .stats = stats};
    NB_TRY(call->be->ops->make_operands(call->be, &source, &making, 1, err));
    const ni_showing showing = {
        .name = name, .source = &decoded, .transposed = true, .operand = w, .stats = making.stats};
    NB_TRY(ni_operand_show(call, &showing, err));
    call->scratch->used = mark;
    terms->list[0].b = w;
    return NB_OK;
}

/* ---- wgrad: a term for the columns of each part ---- */

static nb_status place_wgrad_x(const ni_outcontrol_state *o, const ni_linear_call *call, const ni_linear *layer,
                               nb_operand *out, nb_error *err) {
    nb_quantizer q = ni_operand_quantizer(layer, NB_WGRAD_X), dy = ni_operand_quantizer(layer, NB_WGRAD_DY);
    const nb_operand_rule *rule = &layer->plan.roles[NB_WGRAD_X];
    const bool turned = rule->from && !rule->requantize;
    int64_t k = o->channels[NI_OUT_FP4], m = call->x->rows;
    const ni_operand_request request = {.quantizer = &q,
                                        .other = &dy,
                                        .rows = k,
                                        .cols = m,
                                        .side = NI_RIGHT,
                                        .until_pass_ends = true,
                                        .multiplied_only = !turned};
    NB_TRY(ni_operand_place(call, &request, out, err));
    if (!nb_quantizer_is_bf16(&q))
        return NB_OK;
    out->transposed = true;
    out->numbers = nb_mat_of(NULL, call->be->act, m, o->widths[NI_OUT_FP4]);
    NB_TRY(ni_scratch_place_kept(call->scratch, nb_dtype_size(call->be->act) * (size_t)(m * out->numbers.cols),
                                 "wgrad.x", &out->numbers.data, err));
    out->numbers.cols = k;
    return NB_OK;
}

/* X of the FP4 part along the tokens: its codes quantized again, or the same codes. */
static nb_status x4_of_codes(const ni_outcontrol_state *o, const ni_linear_call *call, const ni_linear *layer,
                             nb_operand *out, nb_error *err) {
    const nb_operand_rule *rule = &layer->plan.roles[NB_WGRAD_X];
    const ni_operand_name *name = &layer->names[NB_WGRAD_X];
    const nb_operand *from = &o->x[NI_OUT_FP4];
    nb_backend *be = call->be;
    nb_noise noise = ni_noise_of(call->pass, name);
    nb_quantize_stats *stats;
    nb_mat wide = out->numbers;
    wide.cols = from->cols;
    if (nb_quantizer_is_bf16(&out->quantizer))
        return be->ops->decode(be, &wide, from, false, NULL, rule->via != NB_VIA_FOLD, err);
    if (!rule->requantize)
        return be->ops->turn(be, out, from, err);
    NB_TRY(ni_counted(call, 1, &stats, err));
    const ni_making making = {
        .out = out, .transpose = true, .shown = ni_lens_looks(call, NB_WGRAD_X), .noise = &noise, .stats = stats};
    const ni_source source = codes_of(o, NI_OUT_FP4);
    NB_TRY(be->ops->make_operands(be, &source, &making, 1, err));
    const ni_showing showing = {.name = name, .from = from, .transposed = true, .operand = out, .stats = making.stats};
    return ni_operand_show(call, &showing, err);
}

/* Or X itself where the recipe says so. */
static nb_status x4_of_numbers(const ni_outcontrol_state *o, const ni_linear_call *call, const ni_linear *layer,
                               nb_operand *out, nb_error *err) {
    const ni_operand_name *name = &layer->names[NB_WGRAD_X];
    nb_noise noise = ni_noise_of(call->pass, name);
    nb_quantize_stats *stats;
    NB_TRY(ni_counted(call, 1, &stats, err));
    const bool shown = ni_lens_looks(call, NB_WGRAD_X);
    const ni_source source = part_of(o, call->x, NI_OUT_FP4);
    const ni_making making = {.out = out, .transpose = true, .shown = shown, .noise = &noise, .stats = stats};
    NB_TRY(call->be->ops->make_operands(call->be, &source, &making, 1, err));
    if (!shown)
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

/* F(Xd8^T), 1x32 along the tokens. */
static nb_status x8_of_codes(const ni_outcontrol_state *o, const ni_linear_call *call, nb_operand *out, nb_error *err) {
    const ni_operand_request request = {.quantizer = &mxfp8,
                                        .other = &mxfp8,
                                        .rows = o->channels[NI_OUT_FP8],
                                        .cols = call->x->rows,
                                        .side = NI_RIGHT,
                                        .until_pass_ends = true,
                                        .multiplied_only = true};
    const ni_source codes = codes_of(o, NI_OUT_FP8);
    NB_TRY(ni_operand_place(call, &request, out, err));
    return call->be->ops->make_operands(call->be, &codes, &(ni_making){.out = out, .transpose = true}, 1, err);
}

/* The first of the layers that read X along the tokens as this one does: their random bits are the group's. */
static int32_t first_alike(const ni_outcontrol_state *o, const ni_linear *layer) {
    const ni_linear *all = o->group->layers;
    int32_t first = 0;
    while (!(all[first].mechanisms >> o->index & 1) || all[first].operands[NB_WGRAD_X] != layer->operands[NB_WGRAD_X])
        first++;
    return first;
}

static nb_status wgrad_x_made(const ni_outcontrol_state *o, const ni_linear_call *call, const ni_linear *layer,
                              nb_operand *parts, nb_error *err) {
    nb_operand *x4 = &parts[NI_OUT_FP4];
    if (o->channels[NI_OUT_FP8] > 0)
        NB_TRY(x8_of_codes(o, call, &parts[NI_OUT_FP8], err));
    if (o->channels[NI_OUT_FP4] == 0)
        return NB_OK;
    NB_TRY(place_wgrad_x(o, call, layer, x4, err));
    return layer->plan.roles[NB_WGRAD_X].from ? x4_of_codes(o, call, layer, x4, err)
                                              : x4_of_numbers(o, call, layer, x4, err);
}

/* F(dY^T), made beside wgrad.dy. */
static nb_status place_dy8(const ni_linear_call *call, const ni_linear *layer, nb_operand *out, ni_beside *beside,
                           nb_error *err) {
    const ni_operand_request request = {.quantizer = &mxfp8,
                                        .other = &mxfp8,
                                        .rows = layer->out,
                                        .cols = call->x->rows,
                                        .side = NI_LEFT,
                                        .multiplied_only = true};
    *beside = (ni_beside){.numbers = &call->dy[layer->index], .making = {.out = out, .transpose = true}};
    return ni_operand_place(call, &request, out, err);
}

static nb_status wgrad_terms(ni_outcontrol_state *o, const ni_linear_call *call, ni_linear *layer, ni_terms *terms,
                             nb_error *err) {
    const int32_t first = first_alike(o, layer);
    nb_operand *dy8 = &o->wgrad_dy8[layer->index], *x = o->wgrad_x[first];
    const nb_operand *dys[NI_OUT_PARTS] = {dy8, terms->list[0].a};
    if (first == layer->index)
        NB_TRY(wgrad_x_made(o, call, layer, x, err));
    if (o->channels[NI_OUT_FP8] > 0)
        NB_TRY(place_dy8(call, layer, dy8, &terms->beside, err));
    terms->count = 0;
    for (int part = 0; part < NI_OUT_PARTS; part++)
        if (o->channels[part] > 0)
            NB_TRY(ni_add_term(
                terms, &(ni_term){.a = dys[part], .b = &x[part], .columns = ni_outcontrol_columns(o, part)}, err));
    return NB_OK;
}

nb_status ni_outcontrol_terms(ni_outcontrol_state *o, const ni_linear_call *call, ni_linear *layer, ni_gemm gemm,
                              ni_terms *terms, nb_error *err) {
    return gemm == NI_GEMM_FPROP   ? fprop_terms(o, call, layer, terms, err)
           : gemm == NI_GEMM_DGRAD ? dgrad_terms(o, call, layer, terms, err)
                                   : wgrad_terms(o, call, layer, terms, err);
}

/* ---- for OsciReset ---- */

/* Widths of the bins of the FP4 columns, and zeros. */
static nb_status widths_of(const ni_outcontrol_state *o, const ni_linear *layer, const ni_weight_decoding *what,
                           nb_error *err) {
    nb_backend *be = o->group->be;
    const nb_mat all = nb_mat_of(what->widths, NB_F32, layer->out, layer->in);
    nb_mat wide = nb_mat_of(NULL, NB_F32, layer->out, o->widths[NI_OUT_FP4]);
    be->ops->fill_zero(be, what->widths, sizeof(float) * (size_t)(layer->out * layer->in));
    if (o->channels[NI_OUT_FP4] == 0)
        return NB_OK;
    NB_TRY(ni_scratch_place(what->scratch, sizeof(float) * (size_t)(wide.rows * wide.cols), "a part of the channels",
                            &wide.data, err));
    be->ops->bin_widths(be, wide.data, &o->w[layer->index][NI_OUT_FP4]);
    wide.cols = o->channels[NI_OUT_FP4];
    be->ops->scatter_columns(be, &all, &wide, ni_outcontrol_columns(o, NI_OUT_FP4), false);
    return NB_OK;
}

/* FP4 columns as the forward pass orders them; FP8 columns stand for themselves. */
nb_status ni_outcontrol_decode_w(ni_outcontrol_state *o, ni_linear *layer, const ni_weight_decoding *what,
                                 nb_error *err) {
    nb_backend *be = o->group->be;
    size_t mark = what->scratch->used;
    nb_mat whole = nb_mat_of(what->w, NB_F32, layer->out, layer->in), out = whole;
    out.data = what->decoded;
    o->w_moves[layer->index] = 0;
    NB_TRY(split_w(o, layer, &whole, err));
    be->ops->copy(be, what->decoded, what->w, sizeof(float) * (size_t)(layer->out * layer->in));
    NB_TRY(join(o, layer, NI_OUT_FP4, &out, err));
    if (what->widths)
        NB_TRY(widths_of(o, layer, what, err));
    what->scratch->used = mark;
    return NB_OK;
}

size_t ni_outcontrol_decode_scratch(const ni_outcontrol_state *o, const ni_linear *layer) {
    return ni_scratch_room(sizeof(float) * (size_t)(layer->out * o->widths[NI_OUT_FP4]));
}
