/* hand_over.c: parcels of all tensors lie one after the other, those of a rank together, and are gathered at once. */
#include "hand_over.h"
#include "backend/table.h"
#include "model/handed.h"

#include <stdlib.h>
#include <string.h>

/* ---- making ---- */

static void count_weights(ni_hand_over *x, int32_t index) {
    const nb_param *p = nb_model_param(x->model, index);
    const int64_t n = p->rows * p->cols;
    const char *why;
    const ni_handed how = ni_model_handed(x->model, index, &why);
    if (how == NI_HANDED_MASTER)
        x->as_masters += n;
    else
        *(how == NI_HANDED_CODES ? &x->coded : &x->numbers) += n;
    if (how == NI_HANDED_MASTER && !x->why && p->rank == 2 && !p->embedding)
        x->why = why;
}

static void lay_out(ni_hand_over *x) {
    const int32_t count = nb_model_param_count(x->model);
    for (int32_t i = 0; i < count; i++) {
        const char *why;
        const size_t handed = ni_model_handed_bytes(x->model, i);
        count_weights(x, i);
        x->codes[i + 1] = x->codes[i] + handed;
        x->code_bytes += ni_model_handed(x->model, i, &why) == NI_HANDED_CODES ? handed : 0;
    }
    x->bytes = x->codes[count];
    x->any = x->bytes > 0;
    x->due = true;
}

static nb_status take_memory(ni_hand_over *x, nb_error *err) {
    const size_t count = (size_t)nb_model_param_count(x->model);
    void *room;
    x->codes = calloc(count + 1, sizeof *x->codes);
    x->begin = calloc((size_t)nb_ranks_world(x->reducer->ranks) + 1, sizeof *x->begin);
    if (!x->codes || !x->begin)
        return nb_fail(err, NB_NO_MEMORY, "weights for other ranks: out of memory");
    lay_out(x);
    if (!x->any)
        return NB_OK;
    NB_TRY(ni_backend_take(x->reducer->be, x->bytes, "weights for other ranks", &room, err));
    x->room = room;
    return NB_OK;
}

nb_status ni_hand_over_create(const ni_share *share, nb_model *model, const ni_reducer *reducer, ni_hand_over *out,
                              nb_error *err) {
    *out = (ni_hand_over){.model = model, .share = share, .reducer = reducer};
    const nb_status status = share->out ? take_memory(out, err) : NB_OK;
    if (status != NB_OK)
        ni_hand_over_free(out);
    return status;
}

void ni_hand_over_free(ni_hand_over *x) {
    if (x->room)
        x->reducer->be->ops->release(x->reducer->be, x->room);
    free(x->codes);
    free(x->begin);
    memset(x, 0, sizeof *x);
}

/* ---- between ranks ---- */

static bool is_own(const ni_hand_over *x, int32_t index) {
    return index >= x->share->begin && index < x->share->end;
}

static bool is_handed(const ni_hand_over *x, int32_t index) {
    return x->any && x->codes[index + 1] > x->codes[index];
}

bool ni_hand_over_has(const ni_hand_over *x, int32_t index) {
    return !is_handed(x, index) || is_own(x, index);
}

nb_status ni_hand_over_masters(ni_hand_over *x, nb_error *err) {
    return ni_share_masters(x->share, x->model, x->reducer, err);
}

nb_status ni_hand_over_codes(ni_hand_over *x, const nb_pass *pass, nb_error *err) {
    if (!x->any)
        return NB_OK;
    for (int32_t i = x->share->begin; i < x->share->end; i++)
        if (is_handed(x, i))
            NB_TRY(ni_model_put(x->model, i, pass, x->room + x->codes[i], err));
    for (int32_t r = 0; r <= nb_ranks_world(x->reducer->ranks); r++)
        x->begin[r] = x->codes[x->share->first[r]];
    NB_TRY(ni_reducer_gather(x->reducer, x->room, x->begin, err));
    for (int32_t i = 0; i < nb_model_param_count(x->model); i++)
        if (!is_own(x, i) && is_handed(x, i))
            NB_TRY(ni_model_take(x->model, i, x->room + x->codes[i], err));
    x->behind = true;
    return NB_OK;
}

nb_status ni_hand_over_due(ni_hand_over *x, const nb_pass *pass, nb_error *err) {
    if (!x->due)
        return NB_OK;
    x->due = false;
    NB_TRY(ni_hand_over_masters(x, err));
    nb_model_params_changed(x->model);
    return ni_hand_over_codes(x, pass, err);
}

/* ---- to who looks ---- */

nb_status ni_hand_over_whole(ni_hand_over *x, nb_error *err) {
    if (!x->behind || !x->looks)
        return NB_OK;
    x->behind = false;
    for (int32_t i = x->share->first[1]; i < nb_model_param_count(x->model); i++) {
        const nb_param *p = nb_model_param(x->model, i);
        const ni_scaled master = ni_model_master(x->model, i);
        const size_t bytes = (size_t)(p->rows * p->cols) * nb_dtype_size(master.dtype);
        if (is_handed(x, i))
            NB_TRY(ni_reducer_bring(x->reducer, ni_share_owner(x->share, i), 0, master.data, bytes, err));
    }
    return NB_OK;
}
