/* weight.c: the masters behind W: in real or in few bits, and as numbers in act for products in BF16. */
#include "backend/table.h"
#include "linear/linear.h"
#include "nibble/lens.h"

const void *ni_linear_master(nb_backend *be, const ni_linear *layer) {
    if (layer->master || layer->elsewhere)
        return layer->master;
    if (layer->room->holds != layer->narrow.data)
        be->ops->scaled_decode(be, layer->room->data, &layer->narrow, layer->out * layer->in);
    layer->room->holds = layer->narrow.data;
    return layer->room->data;
}

nb_mat ni_master_of(nb_backend *be, const ni_linear *layer) {
    nb_mat m = nb_mat_of(ni_linear_master(be, layer), be->real, layer->out, layer->in);
    m.amax = layer->maximum_known ? layer->maximum : NULL;
    return m;
}

ni_scaled ni_linear_kept(nb_backend *be, const ni_linear *layer) {
    return layer->master ? (ni_scaled){.data = layer->master, .dtype = be->real} : layer->narrow;
}

/* ---- in act ---- */

static bool reads_numbers(const ni_linear *layer) {
    if (!layer->plan.quantized)
        return true;
    const nb_operand_rule *roles = layer->plan.roles;
    return nb_quantizer_is_bf16(&roles[NB_FPROP_W].quantizer) ||
           (nb_quantizer_is_bf16(&roles[NB_DGRAD_W].quantizer) && !roles[NB_DGRAD_W].from);
}

static size_t number_bytes(const nb_backend *be, const ni_linear *layer) {
    return nb_dtype_size(be->act) * (size_t)(layer->out * layer->in);
}

nb_status ni_weight_layout(ni_linear_group *group, ni_linear *layer, nb_error *err) {
    nb_backend *be = group->be;
    size_t bytes = number_bytes(be, layer);
    if (be->act == be->real || !reads_numbers(layer))
        return NB_OK;
    layer->weight = be->ops->alloc(be, bytes, "weights in bf16");
    if (!layer->weight)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for %zu bytes of weight", layer->name, bytes);
    group->bytes += bytes;
    return NB_OK;
}

/* The late switch may ask any layer for its numbers: what has no room of its own for them takes scratch. */
nb_status ni_weight_numbers(const ni_linear_call *call, ni_linear *layer, bool until_pass_ends, nb_mat *out,
                            nb_error *err) {
    nb_backend *be = call->be;
    *out = nb_mat_of(layer->master, be->act, layer->out, layer->in); /* where act is real no master is narrow */
    if (be->act == be->real)
        return NB_OK;
    out->data = layer->weight;
    if (!layer->weight && until_pass_ends)
        NB_TRY(ni_scratch_place_kept(call->scratch, number_bytes(be, layer), "a weight in BF16", &out->data, err));
    else if (!layer->weight)
        NB_TRY(ni_scratch_place(call->scratch, number_bytes(be, layer), "a weight in BF16", &out->data, err));
    if (!layer->weight || !layer->weight_fresh)
        be->ops->cast(be, out->data, be->act, ni_linear_master(be, layer), be->real, layer->out * layer->in);
    layer->weight_fresh = true;
    return NB_OK;
}

nb_status ni_weight_source(const ni_linear_call *call, ni_linear *layer, nb_mat *out, nb_error *err) {
    if (layer->plan.quantize_from == NB_BF16 && call->be->act == NB_BF16)
        return ni_weight_numbers(call, layer, false, out, err);
    *out = ni_master_of(call->be, layer);
    return NB_OK;
}

/* ---- for mechanisms that watch weights ---- */

static nb_operand coded_weight(const ni_linear *layer) {
    const nb_quantizer *q = &layer->plan.roles[NB_FPROP_W].quantizer;
    return (nb_operand){
        .quantizer = *q, .other = *q, .rows = layer->out, .cols = layer->in, .side = NI_LEFT, .reread = true};
}

nb_status ni_weight_decode(ni_linear_group *group, ni_linear *layer, ni_scratch *scratch, const nb_pass *pass,
                           const float *w, float *decoded, float *widths, nb_error *err) {
    nb_backend *be = group->be;
    const ni_weight_decoding what = {scratch, pass, w, decoded, widths};
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &group->mechanisms[i];
        bool done = false;
        if ((layer->mechanisms >> i & 1) && m->table->decode_w)
            NB_TRY(m->table->decode_w(m->state, layer, &what, &done, err));
        if (done)
            return NB_OK;
    }
    size_t mark = scratch->used;
    nb_operand codes = coded_weight(layer);
    NB_TRY(ni_scratch_place(scratch, be->ops->operand_bytes(be, &codes), "a weight's codes", &codes.memory, err));
    nb_mat source = nb_mat_of(w, NB_F32, layer->out, layer->in);
    nb_mat out = nb_mat_of(decoded, NB_F32, layer->out, layer->in);
    NB_TRY(be->ops->make_operands(be, &(ni_source){.numbers = &source}, &(ni_making){.out = &codes}, 1, err));
    NB_TRY(be->ops->decode(be, &out, &codes, false, NULL, true, err));
    if (widths)
        be->ops->bin_widths(be, widths, &codes);
    scratch->used = mark;
    return NB_OK;
}

size_t ni_weight_decode_scratch(const ni_linear_group *group, const ni_linear *layer) {
    nb_operand codes = coded_weight(layer);
    size_t most = ni_scratch_room(group->be->ops->operand_bytes(group->be, &codes));
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &group->mechanisms[i];
        size_t own =
            (layer->mechanisms >> i & 1) && m->table->decode_scratch ? m->table->decode_scratch(m->state, layer) : 0;
        most = own > most ? own : most;
    }
    return most;
}
