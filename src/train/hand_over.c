/* hand_over.c: parcels go in rounds, as many at once as there is room for; those of a rank lie together there. */
#include "hand_over.h"
#include "arrivals.h"
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

/* Ranks take turns, so that as many as can be send in one round. */
static void fill_round(ni_hand_over *x, int32_t *next, int32_t round, size_t *used) {
    bool any = true;
    *used = 0;
    while (any) {
        any = false;
        for (int32_t r = 0; r < nb_ranks_world(x->reducer->ranks); r++) {
            while (next[r] < x->share->first[r + 1] && x->parcel[next[r]] == 0)
                next[r]++;
            const bool left = next[r] < x->share->first[r + 1];
            if (!left || (*used > 0 && *used + x->parcel[next[r]] > x->most))
                continue;
            *used += x->parcel[next[r]];
            x->round[next[r]++] = round;
            any = true;
        }
    }
}

/* In the order of tensors, which is that of ranks. */
static void place_round(ni_hand_over *x, int32_t round) {
    size_t at = 0;
    for (int32_t i = 0; i < nb_model_param_count(x->model); i++)
        if (x->parcel[i] && x->round[i] == round) {
            x->at[i] = at;
            at += x->parcel[i];
        }
}

static nb_status lay_out(ni_hand_over *x, nb_error *err) {
    const int32_t world = nb_ranks_world(x->reducer->ranks);
    size_t used;
    int32_t *next = calloc((size_t)world, sizeof *next);
    if (!next)
        return nb_fail(err, NB_NO_MEMORY, "weights for other ranks: out of memory");
    memcpy(next, x->share->first, (size_t)world * sizeof *next);
    for (fill_round(x, next, 0, &used); used > 0; fill_round(x, next, x->rounds, &used)) {
        place_round(x, x->rounds++);
        x->bytes = used > x->bytes ? used : x->bytes;
    }
    free(next);
    x->any = x->rounds > 0;
    x->due = true;
    return NB_OK;
}

static void count_parcels(ni_hand_over *x) {
    for (int32_t i = 0; i < nb_model_param_count(x->model); i++) {
        const char *why;
        x->parcel[i] = ni_model_handed_bytes(x->model, i);
        x->code_bytes += ni_model_handed(x->model, i, &why) == NI_HANDED_CODES ? x->parcel[i] : 0;
        count_weights(x, i);
    }
}

/* Masters that travel and are no vectors may be read by mechanisms before parcels are made. */
static bool only_vectors_travel(const ni_hand_over *x) {
    for (int32_t i = 0; i < nb_model_param_count(x->model); i++)
        if (x->parcel[i] == 0 && (nb_model_param(x->model, i)->rank > 1 || ni_model_master(x->model, i).scale))
            return false;
    return true;
}

static void count_vectors(ni_hand_over *x) {
    ni_master_array arrays[NI_MASTER_ARRAYS];
    ni_model_master_arrays(x->model, arrays);
    for (int i = 0; i < NI_MASTER_ARRAYS && only_vectors_travel(x); i++) {
        ni_share_place(x->share, x->model, &arrays[i]);
        x->vectors += x->share->at[x->share->world] - x->share->at[0];
    }
}

static nb_status take_memory(ni_hand_over *x, nb_error *err) {
    const size_t count = (size_t)nb_model_param_count(x->model);
    const bool read = ni_arrivals_possible(x->share, x->reducer);
    void *room;
    x->parcel = calloc(count, sizeof *x->parcel);
    x->at = calloc(count, sizeof *x->at);
    x->round = calloc(count, sizeof *x->round);
    x->begin = calloc((size_t)nb_ranks_world(x->reducer->ranks) + 1, sizeof *x->begin);
    x->mark = calloc((size_t)ni_model_gradients(x->model)->sections + 1, sizeof *x->mark);
    x->laid = calloc(count, sizeof *x->laid);
    if (!x->parcel || !x->at || !x->round || !x->begin || !x->mark || !x->laid)
        return nb_fail(err, NB_NO_MEMORY, "weights for other ranks: out of memory");
    count_parcels(x);
    NB_TRY(lay_out(x, err));
    if (!x->any)
        return NB_OK;
    if (read)
        count_vectors(x);
    NB_TRY(ni_backend_take(x->reducer->be, x->bytes + x->vectors, "weights for other ranks", &room, err));
    x->room = room;
    return NB_OK;
}

nb_status ni_hand_over_create(const ni_share *share, nb_model *model, const ni_reducer *reducer, size_t most,
                              ni_hand_over *out, nb_error *err) {
    *out = (ni_hand_over){.model = model, .share = share, .reducer = reducer, .most = most};
    if (ni_arrivals_possible(share, reducer))
        out->most = SIZE_MAX;
    const nb_status status = share->out ? take_memory(out, err) : NB_OK;
    if (status != NB_OK)
        ni_hand_over_free(out);
    return status;
}

void ni_hand_over_free(ni_hand_over *x) {
    ni_arrivals_part(x);
    if (x->room)
        x->reducer->be->ops->release(x->reducer->be, x->room);
    free(x->parcel);
    free(x->at);
    free(x->round);
    free(x->begin);
    free(x->mark);
    free(x->laid);
    memset(x, 0, sizeof *x);
}

/* ---- between ranks ---- */

static bool is_own(const ni_hand_over *x, int32_t index) {
    return index >= x->share->begin && index < x->share->end;
}

static bool is_handed(const ni_hand_over *x, int32_t index) {
    return x->any && x->parcel[index] > 0;
}

bool ni_hand_over_has(const ni_hand_over *x, int32_t index) {
    return !is_handed(x, index) || is_own(x, index);
}

nb_status ni_hand_over_masters(ni_hand_over *x, nb_error *err) {
    if (x->seen.theirs && x->vectors > 0)
        return NB_OK;
    return ni_share_masters(x->share, x->model, x->reducer, err);
}

static bool goes_in(const ni_hand_over *x, int32_t index, int32_t round) {
    return is_handed(x, index) && x->round[index] == round;
}

static nb_status put(ni_hand_over *x, const nb_pass *pass, int32_t round, nb_error *err) {
    for (int32_t i = x->share->begin; i < x->share->end; i++)
        if (goes_in(x, i, round))
            NB_TRY(ni_model_put(x->model, i, pass, x->room + x->at[i], err));
    return NB_OK;
}

static nb_status hand_over_round(ni_hand_over *x, const nb_pass *pass, int32_t round, nb_error *err) {
    size_t end = 0;
    for (int32_t r = 0; r < nb_ranks_world(x->reducer->ranks); r++) {
        x->begin[r] = end;
        for (int32_t i = x->share->first[r]; i < x->share->first[r + 1]; i++)
            end += goes_in(x, i, round) ? x->parcel[i] : 0;
    }
    x->begin[nb_ranks_world(x->reducer->ranks)] = end;
    NB_TRY(put(x, pass, round, err));
    NB_TRY(ni_reducer_gather(x->reducer, x->room, x->begin, err));
    for (int32_t i = 0; i < nb_model_param_count(x->model); i++)
        if (!is_own(x, i) && goes_in(x, i, round))
            NB_TRY(ni_model_take(x->model, i, x->room + x->at[i], err));
    return NB_OK;
}

/* Others read the room. */
static nb_status lay_open(ni_hand_over *x, const nb_pass *pass, nb_error *err) {
    NB_TRY(ni_arrivals_settle(x, err));
    NB_TRY(ni_model_ready_to_put(x->model, x->share->begin, x->share->end, pass, err));
    NB_TRY(put(x, pass, 0, err));
    x->behind = true;
    return ni_arrivals_begin(x, err);
}

nb_status ni_hand_over_codes(ni_hand_over *x, const nb_pass *pass, nb_error *err) {
    if (x->seen.theirs)
        return lay_open(x, pass, err);
    for (int32_t k = 0; x->any && k < x->rounds; k++)
        NB_TRY(hand_over_round(x, pass, k, err));
    x->behind = x->any;
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
