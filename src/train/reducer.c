/* reducer.c: makes what sums over ranks need. */
#include "backend/backend.h"
#include "backend/table.h"
#include "chunks.h"
#include "narrow_sums.h"
#include "reduce.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = NI_REDUCED_BYTES / (int)sizeof(float), ALIGNED = NI_PIECE_ALIGNED };

static nb_status make_circles(ni_reducer *x, nb_error *err) {
    const nb_ranks *r = x->ranks;
    const int32_t near = !x->owned && r->near > 1 && r->near < r->world ? r->near : r->world;
    x->circle[0] = (ni_circle){.count = near, .self = r->rank % near, .first = r->rank - r->rank % near, .stride = 1};
    x->circle[1] =
        (ni_circle){.count = r->world / near, .self = r->rank / near, .first = r->rank % near, .stride = near};
    x->circles = near < r->world ? 2 : 1;
    for (int32_t i = 0; i < x->circles; i++)
        NB_TRY(ni_circle_take_memory(&x->circle[i], err));
    return NB_OK;
}

bool ni_reducer_is_pair(const ni_reducer *x) {
    return x->circles == 1 && x->circle[0].count == 2;
}

/* The own piece of a circle is what the next one shares. */
void ni_reducer_cut(const ni_reducer *x, int64_t elements) {
    size_t begin = 0, end = (size_t)elements * sizeof(float);
    for (int32_t i = 0; i < x->circles; i++) {
        const ni_circle *c = &x->circle[i];
        ni_circle_cut(c, begin, end);
        begin = c->begin[c->self];
        end = c->begin[c->self + 1];
    }
}

/* Two ranks cut nothing of what one of them owns: the other's goes to it whole, half of what goes to and fro else. */
static void cut_most(const ni_reducer *x, int64_t elements) {
    if (x->owned && ni_reducer_is_pair(x))
        ni_circle_cut_for(&x->circle[0], x->circle[0].self, (size_t)elements * sizeof(float));
    else
        ni_reducer_cut(x, elements);
}

/* For what was cut. */
static void ask_room(ni_reducer *x) {
    for (int32_t i = 0; i < x->circles; i++) {
        const size_t bytes = ni_circle_room(&x->circle[i]);
        x->bytes = bytes > x->bytes ? bytes : x->bytes;
    }
}

/* Memory that letters cannot reach. be->host_memory is true of some backends on paper too, which have none. */
static bool is_elsewhere(const nb_backend *be) {
    return be->ops->alloc != ni_host_alloc && !be->paper;
}

/* Whose operations a thread may ask for. Where memory is the host's, real numbers are added without, and narrow ones by
 * whatever vectors there are: a sum is rounded once, to the same bits by all. */
static nb_status open_worker(ni_reducer *x, bool narrow, nb_error *err) {
    const nb_backend_options one = {.threads = 1};
    if (x->host[0] && x->be->companion)
        return x->be->companion->open(x->be, &x->worker, err);
    const bool adds = narrow && !is_elsewhere(x->be) && !x->be->paper; /* on paper nobody adds */
    return adds ? nb_backend_open("cpu", &one, &x->worker, err) : NB_OK;
}

static nb_status take_host(ni_reducer *x, size_t bytes, nb_error *err) {
    for (int i = 0; is_elsewhere(x->be) && i < 2; i++) {
        x->host[i] = malloc(bytes);
        if (!x->host[i])
            return nb_fail(err, NB_NO_MEMORY, "gradients of other ranks: no memory for %zu bytes on the host", bytes);
    }
    return NB_OK;
}

static nb_status take_memory(ni_reducer *x, const ni_param_array *grads, ni_touched *touched, nb_error *err) {
    const size_t scales = grads->scales ? (size_t)grads->count : 0;
    if (grads->dtype == x->be->real)
        NB_TRY(ni_packed_rows_create(touched, x->be, is_elsewhere(x->be), x->chunk, &x->rows, err));
    const int64_t most = x->owned ? x->chunk : ni_chunk_most(x, grads); /* sums for owners have no longer chunks */
    const size_t all = (size_t)most * nb_dtype_size(grads->dtype);
    size_t members = 0;
    void *room, *room_scales = NULL;
    NB_TRY(make_circles(x, err));
    NB_TRY(ni_chunk_sections(x, grads, err));
    if (grads->dtype == x->be->real) {
        cut_most(x, most);
        ask_room(x);
    }
    for (int32_t i = -1; grads->dtype != x->be->real && i < x->narrow_chunks; i++) { /* whole, or a chunk */
        ni_narrow_cut(x, grads, i < 0 ? 0 : x->narrow[i], i < 0 ? grads->count : x->narrow[i + 1]);
        ask_room(x);
    }
    for (int32_t i = 0; i < x->circles; i++)
        members = (size_t)x->circle[i].count > members ? (size_t)x->circle[i].count : members;
    x->letters = calloc(2 * (size_t)x->ranks->world, sizeof *x->letters);
    x->scales = calloc((members + 1) * scales + 1, sizeof *x->scales);
    x->ends = calloc((size_t)x->ranks->world + 1, sizeof *x->ends);
    if (!x->letters || !x->scales || !x->ends)
        return nb_fail(err, NB_NO_MEMORY, "gradients of other ranks: out of memory");
    if (ni_reducer_is_pair(x) && is_elsewhere(x->be) &&
        ni_packed_rows_bytes(&x->rows) > x->bytes) /* all rows of the other */
        x->bytes = ni_packed_rows_bytes(&x->rows);
    NB_TRY(ni_backend_take(x->be, x->bytes, "gradients of other ranks", &room, err));
    x->room = room;
    if (scales)
        NB_TRY(ni_backend_take(x->be, members * scales * sizeof(float), "scales of other ranks", &room_scales, err));
    x->room_scales = room_scales;
    const size_t most_bytes = all > x->bytes ? all : x->bytes;
    x->bytes += ni_packed_rows_bytes(&x->rows);
    return take_host(x, most_bytes, err);
}

nb_status ni_reducer_create(nb_ranks *ranks, const ni_param_array *grads, const int64_t *owned, ni_touched *touched,
                            ni_reducer *out, nb_error *err) {
    *out = (ni_reducer){.ranks = ranks, .be = grads->be, .dtype = grads->dtype, .owned = owned};
    if (!ranks)
        return NB_OK;
    const bool narrow = grads->dtype != grads->be->real, host = grads->be->host_memory;
    const int64_t part = (grads->elements / NI_CHUNK_PARTS / ALIGNED + 1) * ALIGNED,
                  most = host ? part : grads->elements;
    out->chunk = narrow ? grads->elements : most < CHUNK ? most : CHUNK;
    nb_status status = take_memory(out, grads, touched, err);
    if (status == NB_OK)
        status = open_worker(out, narrow, err);
    if (status != NB_OK)
        ni_reducer_free(out);
    return status;
}

nb_status ni_reducer_meet_neighbours(ni_reducer *x, const ni_param_array *grads, bool *met, nb_error *err) {
    const ni_circle *c = &x->circle[0];
    *met = false;
    if (!x->ranks || !grads->data || c->count == 1 || c->count > x->ranks->near)
        return NB_OK;
    NB_TRY(ni_neighbours_meet(x->ranks, x->be, c->first, c->count, grads->data, &x->neighbours, err));
    if (x->neighbours.theirs && x->rows.data)
        NB_TRY(ni_neighbours_meet(x->ranks, x->be, c->first, c->count, x->rows.data, &x->rows.seen, err));
    if (x->rows.data && !x->rows.seen.theirs) /* alike on all ranks */
        ni_neighbours_free(&x->neighbours);
    *met = x->neighbours.theirs;
    return NB_OK;
}

void ni_reducer_free(ni_reducer *x) {
    ni_neighbours_free(&x->neighbours);
    ni_packed_rows_free(&x->rows, x->be);
    nb_backend_free(x->worker);
    if (x->room)
        x->be->ops->release(x->be, x->room);
    if (x->room_scales)
        x->be->ops->release(x->be, x->room_scales);
    for (int i = 0; i < 2; i++) {
        free(x->host[i]);
        ni_circle_free(&x->circle[i]);
    }
    free(x->letters);
    free(x->scales);
    free(x->ends);
    free(x->narrow);
    memset(x, 0, sizeof *x);
}
