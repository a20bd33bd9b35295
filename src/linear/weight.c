/* weight.c: W in its two roles, quantized from the master.
 *
 * What does not draw random bits is made once an optimizer step and kept; what does (stochastic rounding, fresh
 * Hadamard signs) is made anew for every micro-batch, because noise belongs to a micro-batch.
 */
#include "backend/table.h"
#include "lens/lens.h"
#include "linear/linear.h"

const void *nb_linear_master(nb_backend *be, const nb_linear *layer) {
    if (layer->master)
        return layer->master;
    if (layer->room->holds != layer->narrow.data)
        be->ops->scaled_decode(be, layer->room->data, &layer->narrow, layer->out * layer->in);
    layer->room->holds = layer->narrow.data;
    return layer->room->data;
}

static nb_mat master_of(nb_backend *be, const nb_linear *layer) {
    return nb_mat_of(nb_linear_master(be, layer), be->real, layer->out, layer->in);
}

static bool draws_bits(const nb_quantizer *q) {
    return !nb_quantizer_is_bf16(q) &&
           (q->round == NB_ROUND_STOCHASTIC || (q->hadamard_size && q->hadamard_signs == NB_SIGNS_FRESH));
}

static int cache_slot(nb_role role) {
    return role == NB_DGRAD_W;
}

static size_t operand_bytes(const nb_linear_group *group, const nb_linear *layer, nb_role role) {
    const nb_operand_rule *rule = &layer->plan.roles[role];
    if (nb_quantizer_is_bf16(&rule->quantizer) && !rule->from)
        return 0;
    if (role == NB_FPROP_W)
        return nb_quantized_bytes(group->be, &rule->quantizer, group->be->real, layer->out, layer->in);
    return rule->from ? nb_derived_bytes(group->be, rule, layer->packed[NB_GEMM_DGRAD], layer->in, layer->out)
                      : nb_quantized_bytes(group->be, &rule->quantizer, group->be->real, layer->in, layer->out);
}

static bool reads_plain(const nb_linear *layer) {
    if (!layer->plan.quantized)
        return true;
    const nb_operand_rule *roles = layer->plan.roles;
    return nb_quantizer_is_bf16(&roles[NB_FPROP_W].quantizer) ||
           (nb_quantizer_is_bf16(&roles[NB_DGRAD_W].quantizer) && !roles[NB_DGRAD_W].from);
}

static nb_status place(nb_linear_group *group, const nb_linear *layer, size_t bytes, void **memory, nb_error *err) {
    if (bytes == 0)
        return NB_OK;
    *memory = group->be->ops->alloc(group->be, bytes, "quantized and bf16 weights");
    if (!*memory)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for %zu bytes of quantized weight", layer->name, bytes);
    group->bytes += bytes;
    return NB_OK;
}

nb_status nb_weight_layout(nb_linear_group *group, nb_linear *layer, nb_error *err) {
    nb_weight_cache *w = &layer->weight;
    nb_backend *be = group->be;
    if (be->act != be->real && reads_plain(layer))
        NB_TRY(place(group, layer, nb_dtype_size(be->act) * (size_t)(layer->out * layer->in), &w->plain, err));
    if (!layer->plan.quantized)
        return NB_OK;
    const nb_operand_rule *roles = layer->plan.roles;
    w->random[0] = draws_bits(&roles[NB_FPROP_W].quantizer);
    w->random[1] = draws_bits(&roles[NB_DGRAD_W].quantizer) || (roles[NB_DGRAD_W].from && w->random[0]);
    NB_TRY(place(group, layer, operand_bytes(group, layer, NB_FPROP_W), &w->memory[0], err));
    /* Codes of dgrad are kept; numbers decoded from codes are cheap to make and twice to four times as large. */
    bool kept = group->training && !w->random[1] && !nb_quantizer_is_bf16(&roles[NB_DGRAD_W].quantizer) &&
                (layer->packed[NB_GEMM_DGRAD] || !roles[NB_DGRAD_W].from || roles[NB_DGRAD_W].requantize);
    return kept ? place(group, layer, operand_bytes(group, layer, NB_DGRAD_W), &w->memory[1], err) : NB_OK;
}

size_t nb_weight_scratch(const nb_linear_group *group, const nb_linear *layer, nb_role role) {
    /* The late switch may ask any layer for its BF16 copy. */
    size_t plain = group->be->act == group->be->real || layer->weight.plain
                       ? 0
                       : nb_scratch_room(nb_dtype_size(group->be->act) * (size_t)(layer->out * layer->in));
    if (!layer->plan.quantized || role == NB_FPROP_W || layer->weight.memory[1])
        return plain;
    size_t operand = nb_scratch_room(operand_bytes(group, layer, role));
    return operand > plain ? operand : plain;
}

nb_status nb_weight_plain(const nb_linear_call *call, nb_linear *layer, nb_mat *out, nb_error *err) {
    nb_backend *be = call->be;
    nb_weight_cache *w = &layer->weight;
    *out = nb_mat_of(layer->master, be->act, layer->out, layer->in); /* where act is real no master is narrow */
    if (be->act == be->real)
        return NB_OK;
    size_t bytes = nb_dtype_size(be->act) * (size_t)(layer->out * layer->in);
    out->data = w->plain ? w->plain : nb_scratch_take(call->scratch, bytes);
    if (!out->data)
        return nb_scratch_short(call->scratch, "a weight in BF16", bytes, err);
    if (!w->plain || !w->plain_fresh)
        be->ops->cast(be, out->data, be->act, nb_linear_master(be, layer), be->real, layer->out * layer->in);
    w->plain_fresh = true;
    return NB_OK;
}

void nb_show_plain_weight(const nb_linear_call *call, nb_linear *layer, nb_role role) {
    bool *shown = &layer->weight.shown[cache_slot(role)];
    if (!call->pass->lens || *shown || call->pass->micro_batch > 0)
        return;
    *shown = true;
    nb_mat master = master_of(call->be, layer);
    nb_operand_show(call->be, call->pass, &layer->names[role], &master, NULL, role == NB_DGRAD_W, NULL, NULL);
}

static nb_status quantize_master(const nb_linear_call *call, nb_linear *layer, nb_role role, void *memory,
                                 nb_operand *out, nb_error *err) {
    const nb_operand_rule *rule = &layer->plan.roles[role];
    if (nb_quantizer_is_bf16(&rule->quantizer)) {
        *out = (nb_operand){.transposed = role == NB_DGRAD_W};
        nb_show_plain_weight(call, layer, role);
        return nb_weight_plain(call, layer, &out->plain, err);
    }
    for (int32_t i = 0; i < call->group->mechanism_count && role == NB_FPROP_W; i++) {
        const nb_attached_mechanism *m = &call->group->mechanisms[i];
        if (!(layer->mechanisms >> i & 1) || !m->table->quantize_w)
            continue;
        bool done = false;
        *out =
            (nb_operand){.quantized = true, .codes = nb_qtensor_place(&rule->quantizer, layer->out, layer->in, memory)};
        NB_TRY(m->table->quantize_w(m->state, call, layer, &out->codes, &done, err));
        if (!done)
            continue;
        nb_mat source = master_of(call->be, layer);
        nb_operand_show(call->be, call->pass, &layer->names[role], &source, NULL, false, &out->codes, NULL);
        return NB_OK;
    }
    nb_mat master = master_of(call->be, layer);
    return nb_operand_quantize(call->be, call->pass, &layer->names[role], &rule->quantizer, &master, role == NB_DGRAD_W,
                               memory, out, err);
}

/* A weight is quantized in the first pass after a change, which may be an evaluation; a lens that looks at the training
 * step after it is shown what is there, and one that counts sees it quantized again, to the same codes. */
static bool is_to_be_counted(const nb_linear_call *call, const nb_linear *layer, int slot) {
    return call->pass->lens && call->pass->lens->counts && call->pass->micro_batch == 0 && !layer->weight.shown[slot];
}

static void show_kept(const nb_linear_call *call, nb_linear *layer, nb_role role, const nb_operand *kept) {
    bool *shown = &layer->weight.shown[cache_slot(role)];
    if (*shown || call->pass->micro_batch > 0 || (role == NB_DGRAD_W && layer->plan.roles[role].from))
        return;
    *shown = true;
    nb_mat master = master_of(call->be, layer);
    nb_operand_show(call->be, call->pass, &layer->names[role], &master, NULL, role == NB_DGRAD_W, &kept->codes, NULL);
}

nb_status nb_weight_operand(const nb_linear_call *call, nb_linear *layer, nb_role role, nb_operand *out,
                            nb_error *err) {
    nb_weight_cache *w = &layer->weight;
    const nb_operand_rule *rule = &layer->plan.roles[role];
    int slot = cache_slot(role);
    if (w->fresh[slot] && !is_to_be_counted(call, layer, slot)) {
        *out = w->operand[slot];
        if (call->pass->lens)
            show_kept(call, layer, role, out);
        return NB_OK;
    }
    void *memory = w->memory[slot];
    size_t bytes = operand_bytes(call->group, layer, role);
    if (!memory && bytes > 0) {
        memory = nb_scratch_take(call->scratch, bytes);
        if (!memory)
            return nb_scratch_short(call->scratch, nb_role_name(role), bytes, err);
    }
    if (rule->from) {
        nb_operand source;
        NB_TRY(nb_weight_operand(call, layer, NB_FPROP_W, &source, err));
        NB_TRY(nb_operand_derive(call->be, call->pass, &layer->names[role], rule, layer->packed[NB_GEMM_DGRAD], &source,
                                 memory, out, err));
    } else {
        NB_TRY(quantize_master(call, layer, role, memory, out, err));
    }
    w->operand[slot] = *out;
    w->made += slot == 0;
    w->shown[slot] = true;
    w->fresh[slot] = out->quantized && w->memory[slot];
    return NB_OK;
}

/* ---- for mechanisms that watch weights ---- */

nb_status nb_weight_decode(nb_linear_group *group, nb_linear *layer, nb_scratch *scratch, const nb_pass *pass,
                           const float *w, float *decoded, float *widths, nb_error *err) {
    nb_backend *be = group->be;
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const nb_attached_mechanism *m = &group->mechanisms[i];
        bool done = false;
        if ((layer->mechanisms >> i & 1) && m->table->decode_w)
            NB_TRY(m->table->decode_w(m->state, layer, scratch, pass, w, decoded, widths, &done, err));
        if (done)
            return NB_OK;
    }
    const nb_quantizer *q = &layer->plan.roles[NB_FPROP_W].quantizer;
    size_t mark = scratch->used, bytes = nb_qtensor_bytes(q, layer->out, layer->in).total;
    void *memory = nb_scratch_take(scratch, bytes);
    if (!memory)
        return nb_scratch_short(scratch, "a weight's codes", bytes, err);
    nb_qtensor codes = nb_qtensor_place(q, layer->out, layer->in, memory);
    nb_mat source = nb_mat_of(w, NB_F32, layer->out, layer->in);
    nb_mat out = nb_mat_of(decoded, NB_F32, layer->out, layer->in);
    NB_TRY(be->ops->quantize(be, &codes, &source, false, NULL, NULL, err));
    NB_TRY(be->ops->dequantize(be, &out, &codes, false, true, err));
    if (widths)
        be->ops->bin_widths(be, widths, &codes);
    scratch->used = mark;
    return NB_OK;
}

size_t nb_weight_decode_scratch(const nb_linear *layer) {
    return nb_scratch_room(nb_qtensor_bytes(&layer->plan.roles[NB_FPROP_W].quantizer, layer->out, layer->in).total);
}
