/* dgrad.c: dX = dY W, contraction over the outputs.
 *
 * W comes as [K, N]: the codes of fprop.w transposed, or its decoded values quantized again along the other axis, or
 * the master quantized again, or decoded. Row scales of W lie on the contraction here; `via: fold` multiplies them into
 * the columns of dY before dY is quantized or used (arXiv:2501.17116 leaves this open).
 */
#include "backend/table.h"
#include "linear/linear.h"

static bool folds(const nb_linear *layer) {
    const nb_operand_rule *w = &layer->plan.roles[NB_DGRAD_W];
    return w->from && !w->requantize && w->via == NB_VIA_FOLD;
}

/* dY with the scales of W folded in: FP32 if it is still to be quantized, else act. */
static nb_status fold(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, nb_mat *out, nb_error *err) {
    nb_backend *be = call->be;
    nb_layer_operand w;
    NB_TRY(nb_weight_operand(call, layer, NB_FPROP_W, &w, err));
    nb_dtype type = nb_quantizer_is_bf16(&layer->plan.roles[NB_DGRAD_DY].quantizer) ? be->act : be->real;
    size_t bytes = nb_dtype_size(type) * (size_t)(dy->rows * dy->cols);
    void *memory = nb_scratch_take(call->scratch, bytes);
    if (!memory)
        return nb_scratch_short(call->scratch, "dY with folded scales", bytes, err);
    *out = nb_mat_of(memory, type, dy->rows, dy->cols);
    be->ops->scale(be, out, dy, NULL, w.codes.outer_scales);
    return NB_OK;
}

nb_status nb_dgrad_dy(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, nb_layer_operand *out,
                      nb_error *err) {
    const nb_quantizer *q = &layer->plan.roles[NB_DGRAD_DY].quantizer;
    nb_mat source = *dy;
    if (folds(layer))
        NB_TRY(fold(call, layer, dy, &source, err));
    size_t bytes = nb_quantized_bytes(call->be, q, source.dtype, dy->rows, dy->cols);
    void *memory = bytes ? nb_scratch_take(call->scratch, bytes) : NULL;
    if (bytes && !memory)
        return nb_scratch_short(call->scratch, "dgrad.dy", bytes, err);
    return nb_operand_quantize(call->be, call->pass, &layer->names[NB_DGRAD_DY], q, &source, false, memory, out, err);
}

static nb_status product(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, const nb_mat *dx,
                         bool accumulate, nb_error *err) {
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const nb_attached_mechanism *m = &call->group->mechanisms[i];
        bool done = false;
        if ((layer->mechanisms >> i & 1) && m->table->dgrad)
            NB_TRY(m->table->dgrad(m->state, call, layer, dy, dx, accumulate, &done, err));
        if (done)
            return NB_OK;
    }
    nb_layer_operand a, w;
    NB_TRY(nb_dgrad_dy(call, layer, dy, &a, err));
    NB_TRY(nb_weight_operand(call, layer, NB_DGRAD_W, &w, err));
    return nb_multiply(call->be, call->scratch, dx, &a, &w, accumulate, err);
}

nb_status nb_dgrad(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, const nb_mat *dx, bool accumulate,
                   nb_error *err) {
    if (!layer->plan.quantized || call->pass->backward_bf16) {
        nb_mat w;
        nb_operand_show(call->be, call->pass, &layer->names[NB_DGRAD_DY], dy, NULL, false, NULL, NULL);
        NB_TRY(nb_weight_plain(call, layer, &w, err));
        return call->be->ops->gemm(call->be, dx, dy, false, &w, false, accumulate, err);
    }
    NB_TRY(product(call, layer, dy, dx, accumulate, err));
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const nb_attached_mechanism *m = &call->group->mechanisms[i];
        size_t mark = call->scratch->used;
        if ((layer->mechanisms >> i & 1) && m->table->after_dgrad)
            NB_TRY(m->table->after_dgrad(m->state, call, layer, dy, dx, err));
        call->scratch->used = mark;
    }
    return NB_OK;
}

size_t nb_dgrad_scratch(const nb_linear_group *group, const nb_linear *layer) {
    nb_backend *be = group->be;
    size_t bytes = nb_weight_scratch(group, layer, NB_DGRAD_W);
    if (!layer->plan.quantized)
        return bytes;
    int64_t m = group->max_rows, n = layer->out, k = layer->in;
    nb_quantizer dy = nb_role_quantizer(&layer->plan, NB_DGRAD_DY), w = nb_role_quantizer(&layer->plan, NB_DGRAD_W);
    const nb_operand_rule *rule = &layer->plan.roles[NB_DGRAD_W];
    if (rule->from && !rule->requantize && !layer->packed[NB_GEMM_DGRAD])
        w = nb_quantizer_bf16(); /* comes decoded */
    if (folds(layer))
        bytes += nb_scratch_room(nb_dtype_size(be->real) * (size_t)(m * n));
    bytes += nb_scratch_room(nb_quantized_bytes(be, &dy, be->act, m, n));
    return bytes + nb_multiply_scratch(be, &dy, &w, m, k, n);
}
