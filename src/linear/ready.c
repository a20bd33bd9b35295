/* ready.c: the weights of many groups, made by few calls of the table before a pass needs them: a step has dozens of
 * small ones, and a GPU is faster with all of them than with one after the other. A list is made of the masters, codes
 * or numbers in act (make_many), then what is made anew of another role's codes (make_many), or is these codes turned
 * (turn_many). Before a backward pass the same is done with what is made anew of codes and draws bits. What is in no
 * list is made when a product reads it, to the same bits: what is not kept; and all of it where a lens looks at more
 * than weights, or a pass multiplies in BF16.
 */
#include "backend/table.h"
#include "linear/linear.h"

nb_status ni_list_making(ni_weight_list *list, const ni_source *source, const ni_making *making, nb_error *err) {
    if (list->count == NI_LISTED_MAKINGS)
        return nb_fail(err, NB_INTERNAL, "more than %d operands of weights in a list", NI_LISTED_MAKINGS);
    list->sources[list->count] = *source;
    list->makings[list->count++] = *making;
    return NB_OK;
}

static bool is_listed(const ni_linear_group *group, const ni_cached_operand *o) {
    const nb_quantizer q = ni_operand_quantizer(&group->layers[o->layer], o->name.role);
    return o->keeper == NI_UNTIL_MOVED && !o->fresh && !o->random && !o->source && !o->fold && o->memory &&
           !nb_quantizer_is_bf16(&q);
}

/* What is made of the master can be made of it as it is kept, in few bits. */
static bool is_read_as_kept(const ni_linear_group *group, const ni_linear *layer) {
    const ni_scaled *kept = &layer->narrow;
    if (!group->be->takes_kept || layer->elsewhere || !kept->data)
        return false;
    for (nb_role role = NB_FPROP_W; role <= NB_DGRAD_W; role += NB_DGRAD_W - NB_FPROP_W) {
        const nb_quantizer q = ni_operand_quantizer(layer, role);
        if (!layer->own[role].source && !group->be->takes_kept(&q, kept, layer->out, layer->in))
            return false;
    }
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if ((layer->mechanisms >> i & 1) && group->mechanisms[i].table->list_w)
            return false;
    return true;
}

/* Every use of W begins with the layer's own operands, or a mechanism says what else there is. */
static bool is_use_known(const ni_linear_group *group, const ni_linear *layer) {
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_mechanism *m = group->mechanisms[i].table;
        if ((layer->mechanisms >> i & 1) && m->terms && !m->list_w && !m->reads_codes)
            return false;
    }
    return layer->plan.quantized;
}

/* And these are made of the master as it is. */
static bool is_plainly_read(const ni_linear_group *group, const ni_linear *layer) {
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if ((layer->mechanisms >> i & 1) && group->mechanisms[i].table->quantize_w)
            return false;
    return is_use_known(group, layer) && (layer->master || is_read_as_kept(group, layer)) &&
           !(layer->plan.quantize_from == NB_BF16 && group->be->act == NB_BF16);
}

static nb_status list_operand(const ni_linear_call *call, ni_cached_operand *o, const nb_mat *master,
                              ni_weight_list *list, nb_error *err) {
    const ni_linear *layer = &call->group->layers[o->layer];
    ni_making making;
    nb_noise unused;
    if (!is_listed(call->group, o))
        return NB_OK;
    NB_TRY(ni_operand_begin(call, o, master, &unused, &making, err));
    making.noise = NULL; /* it draws no bits */
    o->fresh = true;
    o->made++;
    const ni_source source = {.numbers = master, .scale = layer->master ? NULL : layer->narrow.scale};
    return ni_list_making(list, &source, &making, err);
}

/* What products in BF16 read (weight.c). */
static nb_status list_numbers(nb_backend *be, ni_linear *layer, ni_weight_list *list, nb_error *err) {
    if (!layer->weight || layer->weight_fresh || !layer->master)
        return NB_OK;
    nb_mat *const master = &list->masters[list->layers++];
    nb_operand *const out = &layer->plain[NB_FPROP_W];
    *master = nb_mat_of(layer->master, be->real, layer->out, layer->in);
    *out = (nb_operand){.quantizer = nb_quantizer_bf16(),
                        .other = nb_quantizer_bf16(),
                        .rows = layer->out,
                        .cols = layer->in,
                        .side = NI_RIGHT,
                        .numbers = nb_mat_of(layer->weight, be->act, layer->out, layer->in)};
    layer->weight_fresh = true;
    return ni_list_making(list, &(ni_source){.numbers = master}, &(ni_making){.out = out}, err);
}

/* What stands in the place of the layer's own operands of W; NULL: nothing does. */
static const ni_attached_mechanism *replacement_of_w(const ni_linear_group *group, const ni_linear *layer) {
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &group->mechanisms[i];
        if ((layer->mechanisms >> i & 1) && m->table->replaces_w && m->table->replaces_w(m->state))
            return m;
    }
    return NULL;
}

static nb_status list_layer(const ni_linear_call *call, ni_linear *layer, ni_weight_list *list, nb_error *err) {
    nb_mat *const master = &list->masters[list->layers];
    const int32_t before = list->count;
    *master = layer->master ? ni_master_of(call->be, layer)
                            : nb_mat_of(layer->narrow.data, layer->narrow.dtype, layer->out, layer->in);
    if (!replacement_of_w(call->group, layer)) {
        NB_TRY(list_operand(call, &layer->own[NB_FPROP_W], master, list, err));
        NB_TRY(list_operand(call, &layer->own[NB_DGRAD_W], master, list, err));
    }
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &call->group->mechanisms[i];
        if ((layer->mechanisms >> i & 1) && m->table->list_w)
            NB_TRY(m->table->list_w(m->state, call, layer, master, list, err));
    }
    list->layers += list->count > before;
    return NB_OK;
}

/* dgrad.w of the codes of fprop.w, which are those of a number format. */
static bool is_of_codes(const ni_linear_call *call, ni_linear *layer) {
    const ni_cached_operand *o = &layer->own[NB_DGRAD_W];
    const nb_quantizer q = ni_operand_quantizer(layer, NB_DGRAD_W), from = ni_operand_quantizer(layer, NB_FPROP_W);
    return call->training && !replacement_of_w(call->group, layer) && o->keeper == NI_UNTIL_MOVED && !o->fresh &&
           !o->random && o->memory && !o->fold && o->source == &layer->own[NB_FPROP_W] && o->source->fresh &&
           !nb_quantizer_is_bf16(&q) && !nb_quantizer_is_bf16(&from);
}

static nb_status list_of_codes(const ni_linear_call *call, ni_linear *layer, ni_weight_list *list, nb_error *err) {
    ni_cached_operand *o = &layer->own[NB_DGRAD_W];
    ni_making making;
    nb_noise unused;
    if (!is_of_codes(call, layer))
        return NB_OK;
    const nb_mat shape = {.rows = layer->out, .cols = layer->in};
    NB_TRY(ni_operand_begin(call, o, &shape, &unused, &making, err));
    making.noise = NULL; /* it draws no bits */
    o->fresh = true;
    o->made++;
    if (o->rule.requantize) {
        list->coded[list->recodings] = (ni_source){.operand = &o->source->operand};
        list->recoded[list->recodings++] = making;
    } else {
        list->turned[list->turns] = &o->operand;
        list->from[list->turns++] = &o->source->operand;
    }
    return NB_OK;
}

static nb_status make_listed(nb_backend *be, ni_weight_list *list, nb_error *err) {
    const int32_t count = list->count, turns = list->turns, recodings = list->recodings;
    list->count = list->layers = list->turns = list->recodings = 0;
    if (count)
        NB_TRY(be->ops->make_many(be, list->sources, list->makings, count, err));
    if (recodings)
        NB_TRY(be->ops->make_many(be, list->coded, list->recoded, recodings, err));
    return turns ? be->ops->turn_many(be, list->turned, list->from, turns, err) : NB_OK;
}

static bool is_full(const ni_weight_list *list) {
    return list->count > NI_LISTED_MAKINGS - NI_LISTED_OF_LAYER || list->turns == NI_LISTED_MAKINGS ||
           list->recodings == NI_LISTED_MAKINGS;
}

/* What dgrad.w of this layer is made anew of for each micro-batch; false: of nothing that is there. */
static bool find_codes(const ni_linear_group *group, const ni_linear *layer, ni_source *out) {
    const ni_cached_operand *o = &layer->own[NB_DGRAD_W];
    const ni_attached_mechanism *other = replacement_of_w(group, layer);
    if (!other) {
        *out = (ni_source){.operand = &o->source->operand};
        return o->source->fresh;
    }
    *out = (ni_source){.parts = other->table->parts_of_w ? other->table->parts_of_w(other->state, layer) : NULL};
    return out->parts != NULL;
}

static nb_status list_anew(const ni_linear_call *call, ni_linear *layer, ni_weight_list *list, nb_error *err) {
    ni_cached_operand *o = &layer->own[NB_DGRAD_W];
    const nb_mat shape = {.rows = layer->out, .cols = layer->in};
    const int32_t i = list->recodings;
    if (!o->early || !o->memory || o->fresh || !find_codes(call->group, layer, &list->coded[i]))
        return NB_OK;
    NB_TRY(ni_operand_begin(call, o, &shape, &list->noises[i], &list->recoded[i], err));
    o->fresh = true;
    o->made++;
    list->recodings++;
    return NB_OK;
}

/* What a layer adds to the list of all groups. */
typedef nb_status list_layer_of(const ni_linear_call *call, ni_linear *layer, ni_weight_list *list, nb_error *err);

static nb_status list_groups(ni_linear_group *const *groups, int32_t count, const nb_pass *pass, list_layer_of *add,
                             nb_error *err) {
    ni_weight_list list;
    list.count = list.layers = list.turns = list.recodings = 0;
    if (!count || ni_lens_is_near(pass) || pass->forward_bf16 || pass->backward_bf16)
        return NB_OK;
    for (int32_t i = 0; i < count; i++) {
        ni_linear_group *group = groups[i];
        const nb_mat x = {.rows = group->max_rows, .cols = group->in};
        const ni_linear_call call = {
            .group = group, .be = group->be, .pass = pass, .x = &x, .training = group->training};
        for (int32_t k = 0; k < group->count; k++) {
            if (is_full(&list))
                NB_TRY(make_listed(group->be, &list, err));
            NB_TRY(add(&call, &group->layers[k], &list, err));
        }
    }
    return make_listed(groups[0]->be, &list, err);
}

static nb_status list_for_backward(const ni_linear_call *call, ni_linear *layer, ni_weight_list *list, nb_error *err) {
    const bool seen = ni_lens_looks(call, NB_DGRAD_W);
    return !seen && is_use_known(call->group, layer) ? list_anew(call, layer, list, err) : NB_OK;
}

nb_status ni_linear_groups_ready_back(ni_linear_group *const *groups, int32_t count, const nb_pass *pass,
                                      nb_error *err) {
    return list_groups(groups, count, pass, list_for_backward, err);
}

static nb_status list_for_forward(const ni_linear_call *call, ni_linear *layer, ni_weight_list *list, nb_error *err) {
    NB_TRY(list_numbers(call->be, layer, list, err));
    if (!is_plainly_read(call->group, layer))
        return NB_OK;
    NB_TRY(list_layer(call, layer, list, err));
    return list_of_codes(call, layer, list, err);
}

nb_status ni_linear_groups_ready(ni_linear_group *const *groups, int32_t count, const nb_pass *pass, nb_error *err) {
    return list_groups(groups, count, pass, list_for_forward, err);
}
