/* compose.c: what is a row for backends that do it at once, by other operations of the table one after the other: a
 * producer and what is made of its matrices; a matrix in parts; what is clamped, made and decoded; many tensors under
 * one scale each. */
#include "backend/table.h"

static void run(nb_backend *be, const ni_producer *from, const ni_produced *out) {
    switch (from->kind) {
    case NI_PRODUCER_SWIGLU:
        be->ops->swiglu_forward(be, out[0].numbers, from->gate, from->up);
        break;
    case NI_PRODUCER_SWIGLU_SLOPES:
        be->ops->swiglu_backward(be, out[0].numbers, out[1].numbers, from->dy, from->gate, from->up);
        break;
    case NI_PRODUCER_NORM:
        if (from->change)
            be->ops->add_rmsnorm_forward(be, from->sum, out[0].numbers, from->rstd, from->x, from->change, from->w,
                                         from->eps);
        else
            be->ops->rmsnorm_forward(be, out[0].numbers, from->rstd, from->x, from->w, from->eps);
        break;
    case NI_PRODUCER_TURNED_BACK:
        for (int32_t i = 0; i < 2; i++)
            be->ops->rope(be, out[i].numbers, from->positions, from->heads[i], from->rope, true);
        break;
    }
}

nb_status ni_compose_produced(nb_backend *be, const ni_producer *from, const ni_produced *out, int32_t count,
                              nb_error *err) {
    run(be, from, out);
    for (int32_t i = 0; i < count; i++)
        if (out[i].count)
            NB_TRY(
                be->ops->make_operands(be, &(ni_source){.numbers = out[i].numbers}, out[i].makings, out[i].count, err));
    return NB_OK;
}

nb_status ni_compose_clamped(nb_backend *be, const ni_clamping *c, const ni_making *making, nb_error *err) {
    NB_TRY(be->ops->clamp_rows(be, c->clamped, c->rest, c->x, c->low, c->high, c->whole, err));
    return be->ops->make_operands(be, &(ni_source){.numbers = c->clamped}, making, 1, err);
}

nb_status ni_compose_decode_columns(nb_backend *be, const nb_mat *out, const nb_operand *const *from,
                                    const ni_columns *columns, int32_t count, nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        NB_TRY(be->ops->decode(be, out, from[i], false, &columns[i], true, err));
    return NB_OK;
}

nb_status ni_compose_parts(nb_backend *be, const ni_parts *parts, const ni_making *making, nb_error *err) {
    nb_mat whole = nb_mat_of(NULL, NB_F32, parts->rows, parts->cols);
    NB_TRY(ni_backend_take(be, sizeof(float) * (size_t)(parts->rows * parts->cols), "a matrix out of its parts",
                           &whole.data, err));
    nb_status status = be->ops->decode_columns(be, &whole, parts->codes, parts->columns, parts->count, err);
    if (status == NB_OK)
        status = be->ops->make_operands(be, &(ni_source){.numbers = &whole}, making, 1, err);
    be->ops->release(be, whole.data);
    return status;
}

nb_status ni_compose_decoded(nb_backend *be, const nb_mat *out, const nb_operand *from, const ni_sparse *s,
                             nb_error *err) {
    NB_TRY(be->ops->decode(be, out, from, false, NULL, true, err));
    be->ops->sparse_add(be, out, s);
    return NB_OK;
}

nb_status ni_compose_compensated(nb_backend *be, const ni_clamping *c, const ni_making *making, const ni_making *dense,
                                 nb_error *err) {
    NB_TRY(be->ops->make_clamped(be, c, making, err));
    NB_TRY(be->ops->decode_with_rest(be, c->clamped, making->out, c->rest, err));
    return be->ops->make_operands(be, &(ni_source){.numbers = c->clamped}, dense, 1, err);
}

void ni_compose_encode(nb_backend *be, const ni_scaled *to, const float *const *from, const int64_t *n, int32_t count) {
    for (int32_t i = 0; i < count; i++)
        be->ops->scaled_encode(be, &to[i], from[i], n[i]);
}

void ni_compose_squares(nb_backend *be, double *out, const ni_scaled *x, const int64_t *n, int32_t count) {
    for (int32_t i = 0; i < count; i++)
        be->ops->scaled_sum_squares(be, out + i, &x[i], n[i]);
}
