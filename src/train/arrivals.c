/* arrivals.c: copies are asked for on the companion's stream, and the pass follows their marks. */
#include "arrivals.h"
#include "backend/table.h"
#include "model/handed.h"

#include <stdlib.h>

bool ni_arrivals_possible(const ni_share *share, const ni_reducer *x) {
    const nb_ranks *r = x->ranks;
    return share->out && r->neighbours && r->near == r->world && x->worker && x->be->companion &&
           x->be->companion->lend;
}

static int32_t sections_of(const ni_hand_over *x) {
    return ni_model_gradients(x->model)->sections;
}

nb_status ni_arrivals_meet(ni_hand_over *x, nb_error *err) {
    nb_ranks *r = x->reducer->ranks;
    if (!x->any || x->rounds > 1 || !x->reducer->neighbours.theirs) /* alike on all ranks */
        return NB_OK;
    NB_TRY(ni_neighbours_meet(r, x->reducer->be, 0, r->world, x->room, &x->seen, err));
    x->asked = x->come = sections_of(x);
    return NB_OK;
}

void ni_arrivals_part(ni_hand_over *x) {
    if (!x->seen.theirs)
        return;
    ni_model_watch_weights(x->model, NULL, NULL);
    for (int32_t s = x->come; s < x->asked; s++)
        x->reducer->be->companion->forget(x->mark[s]);
    x->come = x->asked = 0;
    ni_neighbours_free(&x->seen);
}

/* ---- one tensor ---- */

static bool is_others(const ni_hand_over *x, int32_t index) {
    return x->parcel[index] > 0 && (index < x->share->begin || index >= x->share->end);
}

static bool is_coded(const ni_hand_over *x, int32_t index) {
    const char *why;
    return ni_model_handed(x->model, index, &why) == NI_HANDED_CODES;
}

static void ask_for(ni_hand_over *x, int32_t index) {
    nb_backend *worker = x->reducer->worker;
    const char *theirs = x->seen.theirs[ni_share_owner(x->share, index)] + x->at[index];
    const nb_param *p = nb_model_param(x->model, index);
    void *place = ni_model_expect(x->model, index);
    if (place)
        worker->ops->copy(worker, place, theirs, (size_t)(p->rows * p->cols) * nb_dtype_size(x->reducer->be->act));
    else
        worker->ops->copy(worker, x->room + x->at[index], theirs, x->parcel[index]);
}

/* Out of the room, where it came there. */
static nb_status take(ni_hand_over *x, int32_t index, nb_error *err) {
    return ni_model_expect(x->model, index) ? NB_OK : ni_model_take(x->model, index, x->room + x->at[index], err);
}

/* ---- sections ---- */

static void ask_for_section(ni_hand_over *x, int32_t section) {
    const int32_t *first = ni_model_gradients(x->model)->section;
    bool any = false;
    for (int32_t i = first[section]; i < first[section + 1]; i++)
        if (is_others(x, i) && !is_coded(x, i)) {
            ask_for(x, i);
            any = true;
        }
    x->mark[section] = any ? x->reducer->be->companion->mark(x->reducer->worker) : NULL;
}

static nb_status take_section(ni_hand_over *x, int32_t section, nb_error *err) {
    const int32_t *first = ni_model_gradients(x->model)->section;
    x->reducer->be->companion->follow(x->reducer->be, x->mark[section]);
    for (int32_t i = first[section]; i < first[section + 1]; i++)
        if (is_others(x, i) && !is_coded(x, i))
            NB_TRY(take(x, i, err));
    return NB_OK;
}

/* The pass is about to read `section`. */
static nb_status before_section(void *self, int32_t section, nb_error *err) {
    ni_hand_over *x = self;
    const int32_t end = sections_of(x), last = section < end ? section : end - 1;
    while (x->asked < end && x->asked <= last + NI_ARRIVALS_AHEAD)
        ask_for_section(x, x->asked++);
    while (x->come <= last)
        NB_TRY(take_section(x, x->come++, err));
    return NB_OK;
}

static nb_status take_codes(ni_hand_over *x, nb_error *err) {
    const int32_t count = nb_model_param_count(x->model);
    const ni_companion *companion = x->reducer->be->companion;
    bool any = false;
    for (int32_t i = 0; i < count; i++)
        if (is_others(x, i) && is_coded(x, i)) {
            ask_for(x, i);
            any = true;
        }
    if (any)
        companion->follow(x->reducer->be, companion->mark(x->reducer->worker));
    for (int32_t i = 0; i < count; i++)
        if (is_others(x, i) && is_coded(x, i))
            NB_TRY(take(x, i, err));
    return NB_OK;
}

/* What was asked for is done, on all ranks. */
static nb_status meet(const ni_hand_over *x, nb_error *err) {
    bool ignored;
    NB_TRY(x->reducer->be->ops->synchronize(x->reducer->be, err));
    return ni_ranks_any(x->reducer->ranks, false, &ignored, err);
}

nb_status ni_arrivals_settle(ni_hand_over *x, nb_error *err) {
    if (x->come ==
        sections_of(x)) /* a pass has read all of them, on all ranks, which have told each other its losses */
        return NB_OK;
    NB_TRY(before_section(x, sections_of(x), err));
    return meet(x, err);
}

nb_status ni_arrivals_begin(ni_hand_over *x, nb_error *err) {
    NB_TRY(meet(x, err));
    for (int32_t i = 0; i < nb_model_param_count(x->model); i++)
        if (is_others(x, i))
            ni_model_expect(x->model, i);
    NB_TRY(take_codes(x, err));
    x->asked = x->come = 0;
    ni_model_watch_weights(x->model, before_section, x);
    while (x->asked < sections_of(x) && x->asked < NI_ARRIVALS_AHEAD)
        ask_for_section(x, x->asked++);
    return NB_OK;
}
