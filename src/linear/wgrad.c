/* wgrad.c: dW = dY^T X, contraction over the tokens, added to the gradients in `real`.
 *
 * Row scales of X lie on the contraction here; `via: fold` multiplies them into the rows of dY.
 */
#include "backend/table.h"
#include "linear/linear.h"

static bool folds(const nb_linear *layer) {
    const nb_operand_rule *x = &layer->plan.roles[NB_WGRAD_X];
    return x->from && !x->requantize && x->via == NB_VIA_FOLD;
}

static nb_status fold(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, nb_mat *out, nb_error *err) {
    nb_backend *be = call->be;
    nb_layer_operand x;
    NB_TRY(nb_input_operand(call, layer, NB_FPROP_X, &x, err));
    nb_dtype type = nb_quantizer_is_bf16(&layer->plan.roles[NB_WGRAD_DY].quantizer) ? be->act : be->real;
    size_t bytes = nb_dtype_size(type) * (size_t)(dy->rows * dy->cols);
    void *memory = nb_scratch_take(call->scratch, bytes);
    if (!memory)
        return nb_scratch_short(call->scratch, "dY with folded scales", bytes, err);
    *out = nb_mat_of(memory, type, dy->rows, dy->cols);
    be->ops->scale(be, out, dy, x.codes.outer_scales, NULL);
    return NB_OK;
}

nb_status nb_wgrad_dy(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, nb_layer_operand *out,
                      nb_error *err) {
    nb_backend *be = call->be;
    const nb_operand_rule *rule = &layer->plan.roles[NB_WGRAD_DY];
    const nb_operand_name *name = &layer->names[NB_WGRAD_DY];
    bool packed = layer->packed[NB_GEMM_WGRAD];
    nb_mat source = *dy;
    if (folds(layer))
        NB_TRY(fold(call, layer, dy, &source, err));
    size_t bytes = rule->from ? nb_derived_bytes(be, rule, packed, dy->cols, dy->rows)
                              : nb_quantized_bytes(be, &rule->quantizer, source.dtype, dy->cols, dy->rows);
    void *memory = bytes ? nb_scratch_take(call->scratch, bytes) : NULL;
    if (bytes && !memory)
        return nb_scratch_short(call->scratch, "wgrad.dy", bytes, err);
    if (!rule->from)
        return nb_operand_quantize(be, call->pass, name, &rule->quantizer, &source, true, memory, out, err);
    nb_layer_operand forward; /* the same bits as in dgrad: noise is a function of names and counters */
    NB_TRY(nb_dgrad_dy(call, layer, dy, &forward, err));
    return nb_operand_derive(be, call->pass, name, rule, packed, &forward, memory, out, err);
}

static nb_status product(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, const nb_mat *dw,
                         bool accumulate, nb_error *err) {
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const nb_attached_mechanism *m = &call->group->mechanisms[i];
        bool done = false;
        if ((layer->mechanisms >> i & 1) && m->table->wgrad)
            NB_TRY(m->table->wgrad(m->state, call, layer, dy, dw, &done, err));
        if (done)
            return NB_OK;
    }
    nb_layer_operand a, x;
    NB_TRY(nb_wgrad_dy(call, layer, dy, &a, err));
    NB_TRY(nb_input_operand(call, layer, NB_WGRAD_X, &x, err));
    return nb_multiply(call->be, call->scratch, dw, &a, &x, accumulate, err);
}

static bool any_wgrad_x(const nb_linear_group *group, const nb_linear *layer) {
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if ((layer->mechanisms >> i & 1) && group->mechanisms[i].table->wgrad_x)
            return true;
    return false;
}

static bool any_after_wgrad(const nb_linear_group *group, const nb_linear *layer) {
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if ((layer->mechanisms >> i & 1) && group->mechanisms[i].table->after_wgrad)
            return true;
    return false;
}

/* Mechanisms see the dW of this micro-batch alone; then it joins the gradients. */
static nb_status product_and_changes(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, nb_error *err) {
    nb_backend *be = call->be;
    size_t bytes = nb_dtype_size(be->real) * (size_t)(layer->out * layer->in);
    void *memory = nb_scratch_take(call->scratch, bytes);
    if (!memory)
        return nb_scratch_short(call->scratch, "dW of one micro-batch", bytes, err);
    nb_mat dw = nb_mat_of(memory, be->real, layer->out, layer->in);
    be->ops->fill_zero(be, memory, bytes);
    NB_TRY(product(call, layer, dy, &dw, true, err));
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const nb_attached_mechanism *m = &call->group->mechanisms[i];
        size_t mark = call->scratch->used;
        if ((layer->mechanisms >> i & 1) && m->table->after_wgrad)
            NB_TRY(m->table->after_wgrad(m->state, call, layer, dy, &dw, err));
        call->scratch->used = mark;
    }
    if (layer->grad_written)
        be->ops->axpy(be, layer->grad, 1.0, memory, layer->out * layer->in);
    else
        be->ops->copy(be, layer->grad, memory, bytes);
    return NB_OK;
}

static bool any_wgrad(const nb_linear_group *group, const nb_linear *layer) {
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if ((layer->mechanisms >> i & 1) && group->mechanisms[i].table->wgrad)
            return true;
    return false;
}

static nb_status into_gradient(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, nb_error *err) {
    nb_mat grad = nb_mat_of(layer->grad, call->be->real, layer->out, layer->in);
    if (!layer->grad_written && any_wgrad(call->group, layer)) { /* mechanisms add to what they find */
        call->be->ops->fill_zero(call->be, grad.data, nb_dtype_size(grad.dtype) * (size_t)(grad.rows * grad.cols));
        layer->grad_written = true;
    }
    if (!layer->plan.quantized || call->pass->backward_bf16)
        return call->be->ops->gemm(call->be, &grad, dy, true, call->x, false, layer->grad_written, err);
    if (any_after_wgrad(call->group, layer))
        return product_and_changes(call, layer, dy, err);
    return product(call, layer, dy, &grad, layer->grad_written, err);
}

nb_status nb_wgrad(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, nb_error *err) {
    NB_TRY(into_gradient(call, layer, dy, err));
    layer->grad_written = true;
    return NB_OK;
}

size_t nb_wgrad_scratch(const nb_linear_group *group, const nb_linear *layer) {
    nb_backend *be = group->be;
    if (!layer->plan.quantized)
        return 0;
    int64_t m = group->max_rows, n = layer->out, k = layer->in;
    const nb_operand_rule *rule = &layer->plan.roles[NB_WGRAD_DY];
    nb_quantizer dy = nb_role_quantizer(&layer->plan, NB_WGRAD_DY), x = nb_role_quantizer(&layer->plan, NB_WGRAD_X);
    if (any_wgrad_x(group, layer))
        x = nb_quantizer_bf16(); /* a mechanism gives numbers in place of codes */
    size_t bytes = nb_multiply_scratch(be, &dy, &x, n, k, m);
    if (folds(layer))
        bytes += nb_scratch_room(nb_dtype_size(be->real) * (size_t)(m * n));
    if (rule->from)
        bytes += nb_scratch_room(nb_derived_bytes(be, rule, layer->packed[NB_GEMM_WGRAD], n, m)) +
                 nb_scratch_room(nb_quantized_bytes(be, &layer->plan.roles[NB_DGRAD_DY].quantizer, be->act, m, n));
    else
        bytes += nb_scratch_room(nb_quantized_bytes(be, &rule->quantizer, be->act, n, m));
    if (any_after_wgrad(group, layer))
        bytes += nb_scratch_room(nb_dtype_size(be->real) * (size_t)(n * k));
    return bytes;
}
