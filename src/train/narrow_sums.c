/* narrow_sums.c: gradients in a narrow type, whole tensors, each with its scale. */
#include "narrow_sums.h"
#include "backend/backend.h"
#include "backend/table.h"
#include "pieces.h"

static ni_scaled scaled_part(const ni_reducer *x, const ni_circle *c, const ni_param_array *grads, int32_t tensor,
                             int32_t of) {
    ni_scaled out = ni_param_array_at(grads, tensor);
    const size_t at = (size_t)((char *)out.data - (char *)grads->data) - c->begin[c->self];
    out.data = ni_pieces_part(x, c, grads->data, of) + at;
    if (grads->scales && of != c->self)
        out.scale = x->room_scales + of * grads->count + tensor;
    return out;
}

static void add_tensors(const ni_reducer *x, const ni_circle *c, const ni_param_array *grads, int32_t to,
                        int32_t from) {
    for (int32_t i = c->tensor[c->self]; i < c->tensor[c->self + 1]; i++) {
        const ni_scaled sum = scaled_part(x, c, grads, i, to), other = scaled_part(x, c, grads, i, from);
        if (x->joined)
            ni_reducer_hand(x)->ops->scaled_join(ni_reducer_hand(x), &sum, &other, grads->at[i].length);
        else
            ni_reducer_hand(x)->ops->scaled_add(ni_reducer_hand(x), &sum, &sum, &other, grads->at[i].length);
    }
}

/* Of narrow gradients it ends in what member 0 gave. */
static void add_tensors_in_order(const ni_reducer *x, const ni_circle *c, const ni_param_array *grads) {
    const size_t mine = ni_circle_piece(c, c->self);
    char *data = grads->data;
    if (mine == 0)
        return;
    for (int32_t stride = 1; stride < c->count; stride *= 2)
        for (int32_t i = 0; i + stride < c->count; i += 2 * stride)
            add_tensors(x, c, grads, i, i + stride);
    if (c->self > 0)
        ni_reducer_hand(x)->ops->copy(ni_reducer_hand(x), data + c->begin[c->self], ni_pieces_part(x, c, data, 0),
                                      mine);
    for (int32_t i = c->tensor[c->self]; grads->scales && c->self > 0 && i < c->tensor[c->self + 1]; i++)
        ni_reducer_hand(x)->ops->copy(ni_reducer_hand(x), grads->scales + i, x->room_scales + i, sizeof(float));
}

/* ---- scales ---- */

static nb_status fetch_scales(const ni_reducer *x, const ni_circle *c, const ni_param_array *grads, nb_error *err) {
    const int32_t begin = c->tensor[0];
    const size_t bytes = (size_t)(c->tensor[c->count] - begin) * sizeof(float);
    float *mine = x->scales + c->count * grads->count + begin;
    nb_backend *be = ni_reducer_hand(x);
    if (!grads->scales)
        return NB_OK;
    if (bytes > 0)
        be->ops->download(be, mine, grads->scales + begin, bytes);
    ni_pieces_no_letters(x);
    for (int32_t i = 0; i < c->count; i++)
        ni_pieces_letters(x, c, i, (ni_letter){mine, bytes}, (ni_letter){x->scales + i * grads->count + begin, bytes});
    NB_TRY(ni_pieces_trade(x, err));
    for (int32_t i = 0; bytes > 0 && i < c->count; i++)
        be->ops->upload(be, x->room_scales + i * grads->count + begin, x->scales + i * grads->count + begin, bytes);
    return NB_OK;
}

static nb_status give_scales_back(const ni_reducer *x, const ni_circle *c, const ni_param_array *grads, nb_error *err) {
    const int32_t begin = c->tensor[0];
    const size_t bytes = (size_t)(c->tensor[c->count] - begin) * sizeof(float);
    nb_backend *be = ni_reducer_hand(x);
    if (!grads->scales)
        return NB_OK;
    if (bytes > 0)
        be->ops->download(be, x->scales + begin, grads->scales + begin, bytes);
    ni_pieces_no_letters(x);
    for (int32_t i = 0; i < c->count; i++)
        ni_pieces_letters(
            x, c, i,
            (ni_letter){x->scales + c->tensor[c->self],
                        (size_t)(c->tensor[c->self + 1] - c->tensor[c->self]) * sizeof(float)},
            (ni_letter){x->scales + c->tensor[i], (size_t)(c->tensor[i + 1] - c->tensor[i]) * sizeof(float)});
    NB_TRY(ni_pieces_trade(x, err));
    if (bytes > 0)
        be->ops->upload(be, grads->scales + begin, x->scales + begin, bytes);
    return NB_OK;
}

/* ---- sums ---- */

void ni_narrow_cut(const ni_reducer *x, const ni_param_array *grads, int32_t from, int32_t to) {
    for (int32_t i = 0; i < x->circles; i++) {
        const ni_circle *c = &x->circle[i];
        ni_circle_cut_tensors(c, grads, from, to);
        from = c->tensor[c->self];
        to = c->tensor[c->self + 1];
    }
}

nb_status ni_narrow_sums(const ni_reducer *x, const ni_param_array *grads, nb_error *err) {
    for (int32_t i = 0; i < x->circles; i++) {
        const ni_circle *c = &x->circle[i];
        NB_TRY(fetch_scales(x, c, grads, err));
        NB_TRY(ni_pieces_fetch(x, c, grads->data, err));
        add_tensors_in_order(x, c, grads);
    }
    for (int32_t i = x->circles - 1; i >= 0; i--) {
        NB_TRY(ni_pieces_give_back(x, &x->circle[i], grads->data, err));
        NB_TRY(give_scales_back(x, &x->circle[i], grads, err));
    }
    return NB_OK;
}
