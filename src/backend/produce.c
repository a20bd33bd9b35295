/* produce.c: a producer and what is made of its matrices, by the operations of the table one after the other. */
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
