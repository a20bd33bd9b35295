/* shared_gradients.c: takes sections as a backward pass leaves them. */
#include "shared_gradients.h"
#include "backend/table.h"

nb_status ni_shared_gradients_create(const ni_share *share, ni_reducer *reducer, ni_accumulator *accumulator,
                                     nb_model *model, ni_shared_gradients *out, nb_error *err) {
    const ni_param_array *all = ni_model_gradients(model);
    *out = (ni_shared_gradients){.share = share, .reducer = reducer, .accumulator = accumulator};
    if (!share->gradients)
        return NB_OK;
    NB_TRY(ni_param_array_create_part(all->be, nb_model_param(model, 0), all->count, share->begin, share->end,
                                      all->dtype, all->rule, "gradients of own sections", &out->own, err));
    NB_TRY(ni_param_array_take_sections(&out->own, all->sections, all->section, err));
    return ni_behind_create(reducer, all, &out->behind, err);
}

void ni_shared_gradients_free(ni_shared_gradients *x) {
    ni_param_array_free(&x->own);
    ni_behind_free(&x->behind);
}

static nb_status sum_at_once(ni_shared_gradients *x, int32_t begin, float *grads, int64_t n, int32_t owner) {
    if (begin > 0 || !x->reducer->rows.touched)
        return ni_reduce_to(x->reducer, grads, n, owner, &x->error);
    NB_TRY(ni_reducer_meet_rows(x->reducer, &x->error));
    return ni_reduce_rows_to(x->reducer, grads, owner, &x->error);
}

/* Once something went wrong nothing more is sent; the other ranks hear of it as of any failure. */
static void take(void *self, int32_t begin, int32_t end, void *grads) {
    ni_shared_gradients *x = self;
    const ni_accumulator *acc = x->accumulator;
    const ni_param_place *first = &x->all->at[begin], *last = &x->all->at[end - 1];
    const int64_t from = first->offset, n = last->offset + last->length - from;
    const int32_t owner = ni_share_owner(x->share, begin);
    nb_backend *be = x->reducer->be;
    float *own = owner == x->reducer->ranks->rank ? (float *)x->own.data + x->own.at[begin].offset : NULL;
    if (x->status != NB_OK)
        return;
    ni_accumulator_add_part(acc, grads, from, n);
    if (acc->seen < acc->count)
        return;
    if (begin > 0 && x->behind.running) {
        ni_behind_give(&x->behind, grads, n, owner, own);
        return;
    }
    x->status = ni_behind_end(&x->behind, &x->error); /* behind the last one there is nothing to wait for */
    if (x->status == NB_OK)
        x->status = sum_at_once(x, begin, grads, n, owner);
    if (x->status == NB_OK && own)
        be->ops->copy(be, own, grads, (size_t)n * sizeof *own);
}

void ni_shared_gradients_begin(ni_shared_gradients *x, nb_model *model) {
    if (!x->share->gradients)
        return;
    x->status = NB_OK;
    x->all = ni_model_gradients(model);
    ni_accumulator_open(x->accumulator);
    if (x->accumulator->seen == x->accumulator->count)
        ni_behind_begin(&x->behind);
    ni_model_hand_gradients_to(model, take, x);
}

nb_status ni_shared_gradients_end(ni_shared_gradients *x, nb_model *model, nb_status status, nb_error *err) {
    if (!x->share->gradients)
        return status;
    ni_model_hand_gradients_to(model, NULL, NULL);
    const nb_status summed = ni_behind_end(&x->behind, x->status == NB_OK ? &x->error : NULL);
    x->status = x->status == NB_OK ? summed : x->status;
    if (status != NB_OK)
        return status;
    ni_accumulator_shut(x->accumulator);
    if (x->status != NB_OK && err)
        *err = x->error;
    return x->status;
}
