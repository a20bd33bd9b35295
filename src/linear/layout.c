/* layout.c: which operands a group has: of which role, made of what, shared by which layers, and who keeps them.
 *
 * Two layers share an operand of X if their rules are equal and the same mechanisms prepare or replace X for them.
 */
#include "backend/table.h"
#include "format/vector_scales.h"
#include "linear/linear.h"

/* ---- what a GEMM reads ---- */

nb_quantizer ni_role_quantizer(const nb_plan *plan, nb_role role) {
    const nb_operand_rule *rule = &plan->roles[role];
    nb_quantizer q = plan->quantized ? rule->quantizer : nb_quantizer_bf16();
    if (!plan->quantized || !rule->from || rule->requantize || nb_quantizer_is_bf16(&q))
        return q;
    if (rule->via == NB_VIA_FOLD) {
        q.scale_type = NB_SCALE_NONE;
        q.rule = NB_RULE_ABSMAX;
        q.block_rows = q.block_cols = NB_BLOCK_ALL;
        return q;
    }
    bool turns = q.scale_type == NB_SCALE_NONE || q.scale_type == NB_SCALE_F32 || q.block_rows == q.block_cols;
    if (!turns)
        return nb_quantizer_bf16();
    q.block_rows = rule->quantizer.block_cols;
    q.block_cols = rule->quantizer.block_rows;
    return q;
}

/* The same codes are read as codes only where the pair multiplies so. */
nb_quantizer ni_operand_quantizer(const ni_linear *layer, nb_role role) {
    const nb_operand_rule *rule = &layer->plan.roles[role];
    bool decoded = rule->from && !rule->requantize && !layer->packed[ni_role_gemm(role)];
    return decoded ? nb_quantizer_bf16() : ni_role_quantizer(&layer->plan, role);
}

static bool draws_bits(const nb_quantizer *q) {
    return !nb_quantizer_is_bf16(q) &&
           (nb_quantizer_draws_bits(q) || (q->hadamard_size && q->hadamard_signs == NB_SIGNS_FRESH));
}

/* ---- sharing X ---- */

static bool same_rule(const nb_operand_rule *a, const nb_operand_rule *b) {
    if (a->from != b->from || a->shared_noise != b->shared_noise || a->headroom != b->headroom ||
        !nb_quantizer_equal(&a->quantizer, &b->quantizer))
        return false;
    return !a->from || (a->source == b->source && a->requantize == b->requantize && a->via == b->via);
}

/* The mechanisms of the layer that have a hook for this role of X. */
static uint32_t preparing(const ni_linear_group *group, const ni_linear *layer, nb_role role) {
    uint32_t mask = 0;
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_mechanism *m = group->mechanisms[i].table;
        if ((layer->mechanisms >> i & 1) && (m->prepare_x || (role == NB_WGRAD_X && m->wgrad_x)))
            mask |= 1u << i;
    }
    return mask;
}

static ni_cached_operand *share(ni_linear_group *group, ni_linear *layer, nb_role role) {
    const nb_operand_rule *rule = &layer->plan.roles[role];
    ni_gemm gemm = ni_role_gemm(role);
    uint32_t mechanisms = preparing(group, layer, role);
    for (int32_t i = 0; i < group->x_count; i++) {
        ni_cached_operand *o = &group->x[i];
        const ni_linear *other = &group->layers[o->layer];
        bool same_source = !rule->from || other->operands[NB_FPROP_X] == layer->operands[NB_FPROP_X];
        if (o->name.role == role && same_rule(&o->rule, rule) && o->mechanisms == mechanisms && same_source &&
            other->packed[gemm] == layer->packed[gemm])
            return o;
    }
    ni_cached_operand *o = &group->x[group->x_count++];
    o->mechanisms = mechanisms;
    return o;
}

/* ---- one layer ---- */

/* Whose row scales go into this operand: dgrad.dy takes those of W, wgrad.dy those of X. */
static const ni_cached_operand *folded_into(const ni_linear *layer, nb_role role) {
    const nb_operand_rule *other = &layer->plan.roles[role + 1];
    bool gradient = role == NB_DGRAD_DY || role == NB_WGRAD_DY;
    if (!gradient || !other->from || other->requantize || other->via != NB_VIA_FOLD)
        return NULL;
    return layer->operands[role == NB_DGRAD_DY ? NB_FPROP_W : NB_FPROP_X];
}

static void describe(ni_linear *layer, nb_role role, ni_cached_operand *o) {
    const nb_operand_rule *roles = layer->plan.roles, *rule = &roles[role];
    layer->operands[role] = o;
    if (o->name.module) /* described already, for another layer */
        return;
    o->rule = *rule;
    o->name = layer->names[role];
    o->layer = layer->index;
    o->source = rule->from ? layer->operands[rule->source] : NULL;
    o->fold = folded_into(layer, role);
    o->random = draws_bits(&rule->quantizer) || (o->source && o->source->random);
}

static void describe_layer(ni_linear_group *group, ni_linear *layer) {
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++) {
        bool shared = role == NB_FPROP_X || role == NB_WGRAD_X;
        describe(layer, role, shared ? share(group, layer, role) : &layer->own[role]);
    }
}

/* ---- who reads what again ---- */

/* Numbers under one scale are multiplied by anything as they lie: dY that a mechanism multiplies by numbers. */
static bool has_one_scale(const ni_cached_operand *o) {
    return ni_has_tensor_scale(&o->rule.quantizer);
}

static bool rereads(const ni_mechanism *m, const ni_linear *layer, nb_role role) {
    return (m->rereads_by ? m->rereads_by(&layer->plan) : m->rereads) >> role & 1;
}

/* dY under one scale, turned for a product in which a mechanism multiplies it by numbers. */
static bool is_met_by_numbers(const ni_linear_group *group, const ni_linear *layer, nb_role role, nb_role other) {
    bool numbers = false;
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_mechanism *m = group->mechanisms[i].table;
        numbers |= (layer->mechanisms >> i & 1) && m->wgrad_x && rereads(m, layer, NB_WGRAD_DY);
    }
    return numbers && role == NB_DGRAD_DY && other == NB_WGRAD_DY && has_one_scale(layer->operands[role]) &&
           !layer->operands[other]->rule.requantize;
}

static void mark_reread(const ni_linear_group *group, ni_linear *layer) {
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++) {
        ni_cached_operand *o = layer->operands[role];
        o->reread |= group->hands_codes && (role == NB_FPROP_W || role == NB_DGRAD_W) && !o->source;
        for (nb_role other = NB_FPROP_X; other < NB_ROLE_COUNT && group->training; other++) {
            const bool starts = layer->operands[other]->source == o;
            o->reread |= (starts && !is_met_by_numbers(group, layer, role, other)) || layer->operands[other]->fold == o;
        }
        for (int32_t i = 0; i < group->mechanism_count; i++)
            o->reread |= (layer->mechanisms >> i & 1) && rereads(group->mechanisms[i].table, layer, role) &&
                         !(role == NB_WGRAD_DY && has_one_scale(o));
    }
}

/* ---- who keeps what ---- */

static bool any_mechanism(const ni_linear_group *group, const ni_linear *layer, bool (*has)(const ni_mechanism *)) {
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if ((layer->mechanisms >> i & 1) && has(group->mechanisms[i].table))
            return true;
    return false;
}

static bool reads_x_in_backward(const ni_mechanism *m) {
    return m->wgrad_x || (m->rereads >> NB_FPROP_X & 1);
}

static bool replaces_wgrad_x(const ni_mechanism *m) {
    return m->wgrad_x;
}

static bool is_coded(const ni_linear *layer, nb_role role) {
    nb_quantizer q = ni_operand_quantizer(layer, role);
    return !nb_quantizer_is_bf16(&q);
}

/* Something in the backward pass starts from the forward codes of X. */
static bool outlives_forward(const ni_linear_group *group, const ni_cached_operand *o) {
    if (!group->training || !is_coded(&group->layers[o->layer], NB_FPROP_X))
        return false;
    for (int32_t i = 0; i < group->count; i++) {
        const ni_linear *layer = &group->layers[i];
        if (layer->operands[NB_FPROP_X] == o &&
            (layer->plan.roles[NB_WGRAD_X].from || any_mechanism(group, layer, reads_x_in_backward)))
            return true;
    }
    return false;
}

/* Made in the forward pass, from the same reading of X as fprop.x. */
static bool is_early(const ni_linear_group *group, const ni_cached_operand *o) {
    const ni_linear *layer = &group->layers[o->layer];
    return group->early_wgrad_x && group->training && !o->source && is_coded(layer, NB_WGRAD_X) &&
           layer->operands[NB_FPROP_X]->mechanisms == o->mechanisms && layer->operands[NB_FPROP_X]->layer == o->layer &&
           !any_mechanism(group, layer, replaces_wgrad_x);
}

/* Codes of dgrad.w are kept; numbers decoded from codes are cheap to make and twice to four times as large, and what
 * draws bits is made for one backward pass. */
static ni_keeper keeper_of(const ni_linear_group *group, const ni_cached_operand *o) {
    const ni_linear *layer = &group->layers[o->layer];
    switch (o->name.role) {
    case NB_FPROP_X:
        return outlives_forward(group, o) ? NI_FOR_BACKWARD : NI_FOR_PASS;
    case NB_WGRAD_X:
        return is_early(group, o) ? NI_FOR_BACKWARD : NI_FOR_PASS;
    case NB_FPROP_W:
        return is_coded(layer, NB_FPROP_W) ? NI_UNTIL_MOVED : NI_FOR_LAYER;
    case NB_DGRAD_W:
        return group->training && !o->random && is_coded(layer, NB_DGRAD_W) ? NI_UNTIL_MOVED : NI_FOR_PASS;
    case NB_DGRAD_DY:
        return NI_FOR_PASS;
    default:
        return NI_FOR_LAYER;
    }
}

static nb_operand shape_of(const ni_linear_group *group, const ni_cached_operand *o) {
    const ni_linear *layer = &group->layers[o->layer];
    int64_t m = group->max_rows, n = layer->out, k = layer->in;
    const int64_t rows[NB_ROLE_COUNT] = {m, n, m, k, n, k}, cols[NB_ROLE_COUNT] = {k, k, n, n, m, m};
    nb_role role = o->name.role;
    return (nb_operand){.quantizer = ni_operand_quantizer(layer, role),
                        .other = ni_operand_quantizer(layer, role % 2 ? role - 1 : role + 1),
                        .rows = rows[role],
                        .cols = cols[role],
                        .side = role % 2 ? NI_RIGHT : NI_LEFT,
                        .reread = o->reread,
                        .turned = o->rule.from && !o->rule.requantize};
}

static nb_status keep(ni_linear_group *group, ni_cached_operand *o, nb_error *err) {
    nb_role role = o->name.role;
    o->keeper = keeper_of(group, o);
    if (o->keeper < NI_FOR_BACKWARD)
        return NB_OK;
    const nb_operand shape = shape_of(group, o);
    size_t bytes = group->be->ops->operand_bytes(group->be, &shape);
    o->memory = bytes ? group->be->ops->alloc(group->be, bytes, "quantized operands") : NULL;
    if (bytes && !o->memory)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for %zu bytes of %s", group->layers[o->layer].name, bytes,
                       nb_role_name(role));
    group->bytes += bytes;
    return NB_OK;
}

/* dgrad.w of codes that is made with those of other layers, right before they are read. */
static void ask_for_room(ni_linear_group *group, ni_linear *layer) {
    ni_cached_operand *o = &layer->own[NB_DGRAD_W];
    const nb_operand from = {
        .quantizer = ni_operand_quantizer(layer, NB_FPROP_W), .rows = layer->out, .cols = layer->in};
    const nb_operand out = shape_of(group, o);
    o->early = group->lays_early && group->training && group->be->remakes && o->random && o->source &&
               o->rule.requantize && group->be->remakes(&out, &from);
    if (o->early)
        group->early_bytes += ni_scratch_room(group->be->ops->operand_bytes(group->be, &out));
}

void ni_linear_group_lay_early(ni_linear_group *group, void *room) {
    char *at = room;
    for (int32_t i = 0; i < group->count; i++) {
        ni_cached_operand *o = &group->layers[i].own[NB_DGRAD_W];
        if (!o->early)
            continue;
        const nb_operand shape = shape_of(group, o);
        o->memory = at;
        at += ni_scratch_room(group->be->ops->operand_bytes(group->be, &shape));
    }
}

nb_status ni_operands_layout(ni_linear_group *group, nb_error *err) {
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].plan.quantized)
            describe_layer(group, &group->layers[i]);
    for (int32_t i = 0; i < group->count; i++) {
        ni_linear *layer = &group->layers[i];
        if (!layer->plan.quantized)
            continue;
        mark_reread(group, layer);
        for (nb_role role = NB_FPROP_W; role < NB_WGRAD_X; role++)
            NB_TRY(keep(group, &layer->own[role], err));
        ask_for_room(group, layer);
    }
    for (int32_t i = 0; i < group->x_count; i++)
        NB_TRY(keep(group, &group->x[i], err));
    return NB_OK;
}

void ni_operands_free(ni_linear_group *group) {
    nb_backend *be = group->be;
    for (int32_t i = 0; i < group->x_count; i++)
        nb_backend_release(be, group->x[i].memory);
    for (int32_t i = 0; i < group->count && i < NI_GROUP_LAYERS; i++)
        for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++)
            nb_backend_release(be, group->layers[i].own[role].early ? NULL : group->layers[i].own[role].memory);
}
