/* arrivals.c: copies are asked for on the companion's stream, and the pass follows their marks. */
#include "arrivals.h"
#include "backend/table.h"
#include "model/handed.h"

#include <stdlib.h>

bool ni_arrivals_possible(const ni_share *share, const ni_reducer *x) {
    const nb_ranks *r = x->ranks;
    return share->out && !share->gradients && r->neighbours && r->near == r->world && x->worker && x->be->companion &&
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
    for (int32_t i = 0; x->seen.theirs && i < nb_model_param_count(x->model); i++)
        x->laid[i] = x->parcel[i] > 0 && ni_model_lay(x->model, i, x->room + x->at[i]);
    x->asked = x->come = sections_of(x);
    return NB_OK;
}

void ni_arrivals_part(ni_hand_over *x) {
    nb_error ignored;
    if (!x->seen.theirs)
        return;
    ni_model_watch_weights(x->model, NULL, NULL);
    x->reducer->worker->ops->synchronize(x->reducer->worker, &ignored); /* what was asked for is still being read */
    for (int32_t s = x->come; s < x->asked; s++)
        x->reducer->be->companion->forget(x->mark[s]);
    x->asked = x->come = sections_of(x);
    ni_neighbours_free(&x->seen);
}

/* ---- copies ---- */

static bool is_others(const ni_hand_over *x, int32_t index) {
    return x->parcel[index] > 0 && (index < x->share->begin || index >= x->share->end);
}

static bool is_coded(const ni_hand_over *x, int32_t index) {
    const char *why;
    return is_others(x, index) && ni_model_handed(x->model, index, &why) == NI_HANDED_CODES;
}

static bool is_number(const ni_hand_over *x, int32_t index) {
    return is_others(x, index) && !is_coded(x, index);
}

typedef bool kind(const ni_hand_over *x, int32_t index);

/* Those of the tensors begin .. end - 1 that are `of`, from their owners' rooms to the own one; what lies in one piece
 * is one copy. Returns a mark, or NULL where there are none. */
static void *ask_for(const ni_hand_over *x, int32_t begin, int32_t end, kind *of) {
    nb_backend *worker = x->reducer->worker;
    bool any = false;
    for (int32_t i = begin; i < end; i++) {
        if (!of(x, i))
            continue;
        const int32_t owner = ni_share_owner(x->share, i), first = i;
        while (i + 1 < end && of(x, i + 1) && ni_share_owner(x->share, i + 1) == owner)
            i++;
        worker->ops->copy(worker, x->room + x->at[first], x->seen.theirs[owner] + x->at[first],
                          x->at[i] + x->parcel[i] - x->at[first]);
        any = true;
    }
    return any ? x->reducer->be->companion->mark(worker) : NULL;
}

/* ---- masters that are vectors ---- */

/* Those of `rank` in one of the arrays: `bytes` at `master` there, and `room` bytes into a room. */
typedef struct place {
    char *master;
    size_t room, bytes;
} place;

static void find_vectors(const ni_hand_over *x, int32_t rank, place places[NI_MASTER_ARRAYS]) {
    const size_t *at = x->share->at;
    ni_master_array arrays[NI_MASTER_ARRAYS];
    size_t room = x->bytes;
    ni_model_master_arrays(x->model, arrays);
    for (int i = 0; i < NI_MASTER_ARRAYS; i++) {
        ni_share_place(x->share, x->model, &arrays[i]);
        places[i] = (place){arrays[i].data + at[rank], room + at[rank] - at[0], at[rank + 1] - at[rank]};
        room += at[x->share->world] - at[0];
    }
}

/* Own ones to the own room. */
static void lay_vectors(const ni_hand_over *x) {
    nb_backend *be = x->reducer->be;
    place places[NI_MASTER_ARRAYS];
    find_vectors(x, x->reducer->ranks->rank, places);
    for (int i = 0; x->vectors > 0 && i < NI_MASTER_ARRAYS; i++)
        if (places[i].bytes > 0)
            be->ops->copy(be, x->room + places[i].room, places[i].master, places[i].bytes);
}

/* Those of others from theirs. */
static void ask_for_vectors(const ni_hand_over *x) {
    nb_backend *worker = x->reducer->worker;
    place places[NI_MASTER_ARRAYS];
    for (int32_t r = 0; x->vectors > 0 && r < x->share->world; r++) {
        find_vectors(x, r, places);
        for (int i = 0; x->seen.theirs[r] && i < NI_MASTER_ARRAYS; i++)
            if (places[i].bytes > 0)
                worker->ops->copy(worker, places[i].master, x->seen.theirs[r] + places[i].room, places[i].bytes);
    }
}

/* ---- sections ---- */

static void ask_for_section(ni_hand_over *x, int32_t section) {
    const int32_t *first = ni_model_gradients(x->model)->section;
    x->mark[section] = ask_for(x, first[section], first[section + 1], is_number);
}

/* What no layer reads in the room is taken out of it. */
static nb_status take_section(ni_hand_over *x, int32_t section, nb_error *err) {
    const int32_t *first = ni_model_gradients(x->model)->section;
    x->reducer->be->companion->follow(x->reducer->be, x->mark[section]);
    for (int32_t i = first[section]; i < first[section + 1]; i++)
        if (is_number(x, i) && !x->laid[i])
            NB_TRY(ni_model_take(x->model, i, x->room + x->at[i], err));
    return NB_OK;
}

/* The pass is about to read `section`. */
static nb_status before_section(void *self, int32_t section, nb_error *err) {
    ni_hand_over *x = self;
    for (; x->asked < sections_of(x) && section > 0; x->asked++) /* while the GPU looks up the first one's rows */
        ask_for_section(x, x->asked);
    while (x->come < sections_of(x) && x->come <= section)
        NB_TRY(take_section(x, x->come++, err));
    return NB_OK;
}

/* ---- a hand-over ---- */

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
    const int32_t count = nb_model_param_count(x->model);
    const ni_companion *companion = x->reducer->be->companion;
    lay_vectors(x);
    NB_TRY(meet(x, err));
    ask_for_vectors(x);
    void *codes = ask_for(x, 0, count, is_coded);
    companion->follow(x->reducer->be, codes ? codes : companion->mark(x->reducer->worker));
    for (int32_t i = 0; i < count; i++)
        if (is_coded(x, i) || (is_others(x, i) && x->laid[i])) /* numbers are counted as there, and waited for */
            NB_TRY(ni_model_take(x->model, i, x->room + x->at[i], err));
    x->asked = x->come = 0;
    ask_for_section(x, x->asked++);
    ni_model_watch_weights(x->model, before_section, x);
    return NB_OK;
}
