/* input.c: X in its two roles, made once for all layers of a group that want it alike.
 *
 * Two layers share an operand if their rules are equal and the same mechanisms prepare X for them.
 */
#include "backend/table.h"
#include "linear/linear.h"

/* ---- which layers share what ---- */

static bool same_rule(const nb_operand_rule *a, const nb_operand_rule *b) {
    if (a->from != b->from || a->shared_noise != b->shared_noise || !nb_quantizer_equal(&a->quantizer, &b->quantizer))
        return false;
    return !a->from || (a->source == b->source && a->requantize == b->requantize && a->via == b->via);
}

/* The mechanisms of the layer that have a hook for this role of X. */
static uint32_t preparing(const nb_linear_group *group, const nb_linear *layer, nb_role role) {
    uint32_t mask = 0;
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const nb_mechanism *m = group->mechanisms[i].table;
        if ((layer->mechanisms >> i & 1) && (m->prepare_x || (role == NB_WGRAD_X && m->wgrad_x)))
            mask |= 1u << i;
    }
    return mask;
}

static int32_t share(const nb_linear_group *group, nb_shared_operand *shared, int32_t *count, nb_linear *layer,
                     nb_role role) {
    const nb_operand_rule *rule = &layer->plan.roles[role];
    uint32_t mechanisms = preparing(group, layer, role);
    for (int32_t i = 0; i < *count; i++) {
        const nb_linear *other = &group->layers[shared[i].layer];
        nb_gemm gemm = nb_role_gemm(role);
        bool same_source = role == NB_FPROP_X || !rule->from || other->fprop_x == layer->fprop_x;
        if (same_rule(&shared[i].rule, rule) && shared[i].mechanisms == mechanisms && same_source &&
            other->packed[gemm] == layer->packed[gemm])
            return i;
    }
    shared[*count] = (nb_shared_operand){.rule = *rule, .mechanisms = mechanisms, .layer = layer->index};
    return (*count)++;
}

/* ---- memory ---- */

static size_t shared_bytes(const nb_linear_group *group, const nb_shared_operand *shared, nb_role role) {
    nb_backend *be = group->be;
    int64_t m = group->max_rows, k = group->in;
    if (role == NB_FPROP_X)
        return nb_quantized_bytes(be, &shared->rule.quantizer, be->act, m, k);
    if (shared->rule.from)
        return nb_derived_bytes(be, &shared->rule, group->layers[shared->layer].packed[NB_GEMM_WGRAD], k, m);
    return nb_quantized_bytes(be, &shared->rule.quantizer, be->act, k, m);
}

/* Something in the backward pass starts from the forward codes of X. */
static bool outlives_forward(const nb_linear_group *group, const nb_shared_operand *shared) {
    if (!group->training || nb_quantizer_is_bf16(&shared->rule.quantizer))
        return false;
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const nb_mechanism *m = group->mechanisms[i].table;
        if ((group->layers[shared->layer].mechanisms >> i & 1) && (m->wgrad_x || m->wgrad || m->after_wgrad))
            return true;
    }
    for (int32_t i = 0; i < group->count; i++) {
        const nb_linear *layer = &group->layers[i];
        if (layer->plan.quantized && &group->fprop_x[layer->fprop_x] == shared && layer->plan.roles[NB_WGRAD_X].from)
            return true;
    }
    return false;
}

nb_status nb_input_layout(nb_linear_group *group, nb_error *err) {
    for (int32_t i = 0; i < group->count; i++) {
        nb_linear *layer = &group->layers[i];
        if (!layer->plan.quantized)
            continue;
        layer->fprop_x = share(group, group->fprop_x, &group->fprop_x_count, layer, NB_FPROP_X);
        layer->wgrad_x = share(group, group->wgrad_x, &group->wgrad_x_count, layer, NB_WGRAD_X);
    }
    for (int32_t i = 0; i < group->fprop_x_count; i++) {
        nb_shared_operand *shared = &group->fprop_x[i];
        if (!outlives_forward(group, shared))
            continue;
        size_t bytes = shared_bytes(group, shared, NB_FPROP_X);
        shared->memory = group->be->ops->alloc(group->be, bytes, "quantized inputs");
        if (!shared->memory)
            return nb_fail(err, NB_NO_MEMORY, "%s: no memory for %zu bytes of quantized input", group->input, bytes);
        group->bytes += bytes;
    }
    return NB_OK;
}

size_t nb_input_scratch(const nb_linear_group *group, nb_role role) {
    size_t bytes = 0;
    for (int32_t i = 0; i < group->fprop_x_count; i++) /* also in backward, if the forward pass ran in BF16 */
        if (!group->fprop_x[i].memory)
            bytes += nb_scratch_room(shared_bytes(group, &group->fprop_x[i], NB_FPROP_X));
    for (int32_t i = 0; i < group->wgrad_x_count && role == NB_WGRAD_X; i++)
        bytes += nb_scratch_room(shared_bytes(group, &group->wgrad_x[i], NB_WGRAD_X));
    return bytes;
}

/* ---- making them ---- */

static nb_status prepare(const nb_linear_call *call, uint32_t mechanisms, nb_mat *x, nb_error *err) {
    *x = *call->x;
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const nb_attached_mechanism *m = &call->group->mechanisms[i];
        if ((mechanisms >> i & 1) && m->table->prepare_x)
            NB_TRY(m->table->prepare_x(m->state, call, x, err));
    }
    return NB_OK;
}

static nb_status replace_wgrad_x(const nb_linear_call *call, nb_linear *layer, nb_operand *out, bool *done,
                                 nb_error *err) {
    for (int32_t i = 0; i < call->group->mechanism_count && !*done; i++) {
        const nb_attached_mechanism *m = &call->group->mechanisms[i];
        if (!(layer->mechanisms >> i & 1) || !m->table->wgrad_x)
            continue;
        *out = (nb_operand){.transposed = true};
        NB_TRY(m->table->wgrad_x(m->state, call, layer, &out->plain, done, err));
    }
    return NB_OK;
}

static nb_status make(const nb_linear_call *call, nb_linear *layer, nb_role role, nb_shared_operand *shared,
                      nb_error *err) {
    nb_operand *out = &shared->operand;
    bool done = false;
    if (role == NB_WGRAD_X)
        NB_TRY(replace_wgrad_x(call, layer, out, &done, err));
    if (done)
        return NB_OK;
    size_t bytes = shared_bytes(call->group, shared, role);
    void *memory = shared->memory;
    if (!memory && bytes > 0) {
        memory = nb_scratch_keep(call->scratch, bytes);
        if (!memory)
            return nb_scratch_short(call->scratch, nb_role_name(role), bytes, err);
    }
    const nb_operand_name *name = &layer->names[role];
    if (shared->rule.from) {
        nb_operand source;
        NB_TRY(nb_input_operand(call, layer, NB_FPROP_X, &source, err));
        return nb_operand_derive(call->be, call->pass, name, &shared->rule, layer->packed[NB_GEMM_WGRAD], &source,
                                 memory, out, err);
    }
    nb_mat x;
    NB_TRY(prepare(call, shared->mechanisms, &x, err));
    return nb_operand_quantize(call->be, call->pass, name, &shared->rule.quantizer, &x, role == NB_WGRAD_X, memory, out,
                               err);
}

nb_status nb_input_operand(const nb_linear_call *call, nb_linear *layer, nb_role role, nb_operand *out, nb_error *err) {
    nb_linear_group *group = call->group;
    nb_shared_operand *shared = role == NB_FPROP_X ? &group->fprop_x[layer->fprop_x] : &group->wgrad_x[layer->wgrad_x];
    if (!shared->fresh)
        NB_TRY(make(call, layer, role, shared, err));
    shared->fresh = true;
    *out = shared->operand;
    return NB_OK;
}
