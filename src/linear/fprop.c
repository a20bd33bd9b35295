/* fprop.c: Y = X W^T. */
#include "backend/table.h"
#include "linear/linear.h"

static bool any_after_fprop(const nb_linear_group *group, const nb_linear *layer) {
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if ((layer->mechanisms >> i & 1) && group->mechanisms[i].table->after_fprop)
            return true;
    return false;
}

static nb_status in_bf16(const nb_linear_call *call, nb_linear *layer, const nb_mat *y, nb_error *err) {
    nb_mat w;
    nb_show_plain_weight(call, layer, NB_FPROP_W);
    NB_TRY(nb_weight_plain(call, layer, &w, err));
    return call->be->ops->gemm(call->be, y, call->x, false, &w, true, false, err);
}

static nb_status product(const nb_linear_call *call, nb_linear *layer, const nb_mat *y, nb_error *err) {
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const nb_attached_mechanism *m = &call->group->mechanisms[i];
        bool done = false;
        if ((layer->mechanisms >> i & 1) && m->table->fprop)
            NB_TRY(m->table->fprop(m->state, call, layer, y, &done, err));
        if (done)
            return NB_OK;
    }
    nb_layer_operand x, w;
    NB_TRY(nb_input_operand(call, layer, NB_FPROP_X, &x, err));
    NB_TRY(nb_weight_operand(call, layer, NB_FPROP_W, &w, err));
    return nb_multiply(call->be, call->scratch, y, &x, &w, false, err);
}

/* Mechanisms add to the product in `real`; it is rounded to act once, after them. */
static nb_status product_and_additions(const nb_linear_call *call, nb_linear *layer, const nb_mat *y, nb_error *err) {
    nb_backend *be = call->be;
    size_t bytes = nb_dtype_size(be->real) * (size_t)(y->rows * y->cols);
    void *memory = nb_scratch_take(call->scratch, bytes);
    if (!memory)
        return nb_scratch_short(call->scratch, "Y before rounding", bytes, err);
    nb_mat sum = nb_mat_of(memory, be->real, y->rows, y->cols);
    NB_TRY(product(call, layer, &sum, err));
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const nb_attached_mechanism *m = &call->group->mechanisms[i];
        size_t mark = call->scratch->used;
        if ((layer->mechanisms >> i & 1) && m->table->after_fprop)
            NB_TRY(m->table->after_fprop(m->state, call, layer, &sum, err));
        call->scratch->used = mark;
    }
    be->ops->cast(be, y->data, y->dtype, sum.data, sum.dtype, y->rows * y->cols);
    return NB_OK;
}

nb_status nb_fprop(const nb_linear_call *call, nb_linear *layer, const nb_mat *y, nb_error *err) {
    if (!layer->plan.quantized || call->pass->forward_bf16)
        return in_bf16(call, layer, y, err);
    if (any_after_fprop(call->group, layer))
        return product_and_additions(call, layer, y, err);
    return product(call, layer, y, err);
}

size_t nb_fprop_scratch(const nb_linear_group *group, const nb_linear *layer) {
    nb_backend *be = group->be;
    size_t bytes = nb_weight_scratch(group, layer, NB_FPROP_W);
    if (!layer->plan.quantized)
        return bytes;
    const nb_operand_rule *roles = layer->plan.roles;
    bytes += nb_multiply_scratch(be, &roles[NB_FPROP_X].quantizer, &roles[NB_FPROP_W].quantizer, group->max_rows,
                                 layer->out, layer->in);
    if (any_after_fprop(group, layer))
        bytes += nb_scratch_room(nb_dtype_size(be->real) * (size_t)(group->max_rows * layer->out));
    return bytes;
}
