/* reduce.c: pieces go out, are added in the order of the tree, and come back. */
#include "reduce.h"
#include "backend/backend.h"
#include "backend/table.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 16 << 20, ALIGNED = 64 }; /* elements of one sum; bytes at whose multiples pieces begin */

/* ---- making ---- */

/* A chunk of `elements` real numbers, in pieces as equal as their alignment lets them be. */
static void cut_numbers(const ni_reducer *x, int64_t elements) {
    const int64_t unit = ALIGNED / (int64_t)sizeof(float), units = (elements + unit - 1) / unit;
    for (int32_t r = 0; r <= x->ranks->world; r++) {
        const int64_t at = units * r / x->ranks->world * unit;
        x->begin[r] = (size_t)(at < elements ? at : elements) * sizeof(float);
    }
}

/* Whole tensors: a sum has one scale. Each goes to the rank in whose share of the array its middle lies. */
static void cut_tensors(const ni_reducer *x, const ni_param_array *grads) {
    const size_t width = nb_dtype_size(grads->dtype);
    int32_t i = 0;
    for (int32_t r = 0; r <= x->ranks->world; r++) {
        const int64_t end = grads->elements * r / x->ranks->world;
        while (i < grads->count && grads->at[i].offset + grads->at[i].length / 2 < end)
            i++;
        if (r == x->ranks->world)
            i = grads->count;
        x->tensor[r] = i;
        x->begin[r] = (size_t)(i < grads->count ? grads->at[i].offset : grads->elements) * width;
    }
}

static size_t piece(const ni_reducer *x, int32_t rank) {
    return x->begin[rank + 1] - x->begin[rank];
}

static nb_status take_host(ni_reducer *x, size_t bytes, nb_error *err) {
    const bool staged = x->be->ops->alloc != ni_host_alloc;
    for (int i = 0; staged && i < 2; i++) {
        x->host[i] = malloc(bytes + (size_t)x->ranks->world * ALIGNED);
        if (!x->host[i])
            return nb_fail(err, NB_NO_MEMORY, "gradients of other ranks: no memory for %zu bytes on the host", bytes);
    }
    return NB_OK;
}

static nb_status take_memory(ni_reducer *x, const ni_param_array *grads, nb_error *err) {
    const size_t world = (size_t)x->ranks->world, scales = grads->scales ? (size_t)grads->count : 0;
    void *room, *room_scales = NULL;
    size_t most = 0;
    x->begin = calloc(world + 1, sizeof *x->begin);
    x->tensor = calloc(world + 1, sizeof *x->tensor);
    x->letters = calloc(2 * world, sizeof *x->letters);
    x->scales = calloc((world + 1) * scales + 1, sizeof *x->scales);
    if (!x->begin || !x->tensor || !x->letters || !x->scales)
        return nb_fail(err, NB_NO_MEMORY, "gradients of other ranks: out of memory");
    if (grads->dtype == x->be->real)
        cut_numbers(x, x->chunk);
    else
        cut_tensors(x, grads);
    for (int32_t r = 0; r < x->ranks->world; r++)
        most = piece(x, r) > most ? piece(x, r) : most;
    x->bytes = (world - 1) * (piece(x, x->ranks->rank) + ALIGNED);
    NB_TRY(ni_backend_take(x->be, x->bytes, "gradients of other ranks", &room, err));
    x->room = room;
    if (scales)
        NB_TRY(ni_backend_take(x->be, world * scales * sizeof(float), "scales of other ranks", &room_scales, err));
    x->room_scales = room_scales;
    const size_t all = (size_t)x->chunk * nb_dtype_size(grads->dtype);
    return take_host(x, all > world * most ? all : world * most, err);
}

nb_status ni_reducer_create(nb_ranks *ranks, const ni_param_array *grads, ni_reducer *out, nb_error *err) {
    *out = (ni_reducer){.ranks = ranks, .be = grads->be};
    if (!ranks)
        return NB_OK;
    const bool whole = grads->dtype != grads->be->real || grads->elements < CHUNK;
    out->chunk = whole ? grads->elements : CHUNK;
    nb_status status = take_memory(out, grads, err);
    if (status != NB_OK)
        ni_reducer_free(out);
    return status;
}

void ni_reducer_free(ni_reducer *x) {
    if (x->room)
        x->be->ops->release(x->be, x->room);
    if (x->room_scales)
        x->be->ops->release(x->be, x->room_scales);
    free(x->host[0]);
    free(x->host[1]);
    free(x->begin);
    free(x->tensor);
    free(x->letters);
    free(x->scales);
    memset(x, 0, sizeof *x);
}

/* ---- out and back ---- */

/* Where the piece of rank `from` lies in the room; pieces begin at aligned places. */
static size_t place(const ni_reducer *x, int32_t from) {
    const size_t bytes = (piece(x, x->ranks->rank) + ALIGNED - 1) / ALIGNED * ALIGNED;
    return (size_t)(from < x->ranks->rank ? from : from - 1) * bytes;
}

/* The own piece of the chunk at `data`, of all ranks. */
static nb_status fetch_pieces(const ni_reducer *x, char *data, nb_error *err) {
    nb_backend *be = x->be;
    const int32_t world = x->ranks->world, rank = x->ranks->rank;
    char *out = data, *in = x->room;
    if (x->host[0]) {
        out = x->host[0];
        in = x->host[1];
        be->ops->download(be, out, data, x->begin[world]);
    } else {
        NB_TRY(be->ops->synchronize(be, err));
    }
    for (int32_t r = 0; r < world; r++) {
        x->letters[r] = (ni_letter){out + x->begin[r], piece(x, r)};
        x->letters[world + r] = r == rank ? (ni_letter){NULL, 0} : (ni_letter){in + place(x, r), piece(x, rank)};
    }
    NB_TRY(ni_ranks_trade(x->ranks, x->letters, x->letters + world, err));
    for (int32_t r = 0; x->host[0] && r < world; r++)
        if (r != rank && piece(x, rank) > 0)
            be->ops->upload(be, x->room + place(x, r), in + place(x, r), piece(x, rank));
    return NB_OK;
}

static nb_status give_back(const ni_reducer *x, char *data, nb_error *err) {
    nb_backend *be = x->be;
    const size_t at = x->begin[x->ranks->rank], mine = piece(x, x->ranks->rank);
    if (!x->host[0]) {
        NB_TRY(be->ops->synchronize(be, err));
        return ni_ranks_gather_pieces(x->ranks, data, x->begin, err);
    }
    if (mine > 0)
        be->ops->download(be, x->host[0] + at, data + at, mine);
    NB_TRY(ni_ranks_gather_pieces(x->ranks, x->host[0], x->begin, err));
    be->ops->upload(be, data, x->host[0], x->begin[x->ranks->world]);
    return NB_OK;
}

/* ---- adding ---- */

/* Where what rank `from` has of the own piece lies. */
static char *part(const ni_reducer *x, char *data, int32_t from) {
    return from == x->ranks->rank ? data + x->begin[from] : x->room + place(x, from);
}

static void add_numbers(const ni_reducer *x, char *data, int32_t to, int32_t from) {
    x->be->ops->axpy(x->be, part(x, data, to), 1.0, part(x, data, from),
                     (int64_t)(piece(x, x->ranks->rank) / sizeof(float)));
}

static ni_scaled scaled_part(const ni_reducer *x, const ni_param_array *grads, int32_t tensor, int32_t of) {
    ni_scaled out = ni_param_array_at(grads, tensor);
    const size_t at = (size_t)((char *)out.data - (char *)grads->data) - x->begin[x->ranks->rank];
    out.data = part(x, grads->data, of) + at;
    if (grads->scales && of != x->ranks->rank)
        out.scale = x->room_scales + of * grads->count + tensor;
    return out;
}

static void add_tensors(const ni_reducer *x, const ni_param_array *grads, int32_t to, int32_t from) {
    for (int32_t i = x->tensor[x->ranks->rank]; i < x->tensor[x->ranks->rank + 1]; i++) {
        const ni_scaled sum = scaled_part(x, grads, i, to), other = scaled_part(x, grads, i, from);
        x->be->ops->scaled_add(x->be, &sum, &sum, &other, grads->at[i].length);
    }
}

/* The tree over ranks: node r of a level and the node after it. `grads` NULL: real numbers at `data`. */
static void add_in_order(const ni_reducer *x, char *data, const ni_param_array *grads) {
    const int32_t world = x->ranks->world, rank = x->ranks->rank;
    if (piece(x, rank) == 0)
        return;
    for (int32_t stride = 1; stride < world; stride *= 2)
        for (int32_t r = 0; r + stride < world; r += 2 * stride)
            grads ? add_tensors(x, grads, r, r + stride) : add_numbers(x, data, r, r + stride);
    if (rank > 0) /* the tree ends in what rank 0 gave */
        x->be->ops->copy(x->be, data + x->begin[rank], part(x, data, 0), piece(x, rank));
    for (int32_t i = x->tensor[rank]; grads && grads->scales && rank > 0 && i < x->tensor[rank + 1]; i++)
        x->be->ops->copy(x->be, grads->scales + i, x->room_scales + i, sizeof(float));
}

/* ---- sums ---- */

static nb_status reduce_numbers(const ni_reducer *x, ni_param_array *grads, nb_error *err) {
    for (int64_t at = 0; at < grads->elements; at += x->chunk) {
        char *data = (char *)grads->data + (size_t)at * sizeof(float);
        cut_numbers(x, grads->elements - at < x->chunk ? grads->elements - at : x->chunk);
        NB_TRY(fetch_pieces(x, data, err));
        add_in_order(x, data, NULL);
        NB_TRY(give_back(x, data, err));
    }
    return NB_OK;
}

static nb_status fetch_scales(const ni_reducer *x, const ni_param_array *grads, nb_error *err) {
    const size_t bytes = (size_t)grads->count * sizeof(float);
    float *mine = x->scales + x->ranks->world * grads->count;
    if (!grads->scales)
        return NB_OK;
    x->be->ops->download(x->be, mine, grads->scales, bytes);
    NB_TRY(ni_ranks_gather(x->ranks, mine, x->scales, bytes, err));
    x->be->ops->upload(x->be, x->room_scales, x->scales, (size_t)x->ranks->world * bytes);
    return NB_OK;
}

static nb_status give_scales_back(const ni_reducer *x, ni_param_array *grads, nb_error *err) {
    const int32_t world = x->ranks->world;
    if (!grads->scales)
        return NB_OK;
    x->be->ops->download(x->be, x->scales, grads->scales, (size_t)grads->count * sizeof(float));
    size_t *begin = calloc((size_t)world + 1, sizeof *begin);
    if (!begin)
        return nb_fail(err, NB_NO_MEMORY, "gradients of other ranks: out of memory");
    for (int32_t r = 0; r <= world; r++)
        begin[r] = (size_t)x->tensor[r] * sizeof(float);
    nb_status status = ni_ranks_gather_pieces(x->ranks, x->scales, begin, err);
    free(begin);
    if (status == NB_OK)
        x->be->ops->upload(x->be, grads->scales, x->scales, (size_t)grads->count * sizeof(float));
    return status;
}

nb_status ni_reduce(ni_reducer *x, ni_param_array *grads, nb_error *err) {
    if (!x->ranks)
        return NB_OK;
    if (grads->dtype == x->be->real)
        return reduce_numbers(x, grads, err);
    NB_TRY(fetch_scales(x, grads, err));
    NB_TRY(fetch_pieces(x, grads->data, err));
    add_in_order(x, grads->data, grads);
    NB_TRY(give_back(x, grads->data, err));
    return give_scales_back(x, grads, err);
}

nb_status ni_reduce_numbers(const ni_reducer *x, nb_backend *be, float *numbers, int64_t n, bool on_host,
                            nb_error *err) {
    const int32_t world = nb_ranks_world(x->ranks);
    const size_t bytes = (size_t)n * sizeof *numbers;
    if (world == 1)
        return NB_OK;
    float *all = malloc((size_t)world * bytes + 1);
    if (!all)
        return nb_fail(err, NB_NO_MEMORY, "sums over ranks: out of memory");
    float *mine = all + x->ranks->rank * n;
    if (on_host)
        memcpy(mine, numbers, bytes);
    else
        be->ops->download(be, mine, numbers, bytes);
    nb_status status = ni_ranks_gather(x->ranks, mine, all, bytes, err);
    for (int32_t stride = 1; stride < world; stride *= 2)
        for (int32_t r = 0; r + stride < world; r += 2 * stride)
            for (int64_t i = 0; i < n; i++)
                all[r * n + i] += all[(r + stride) * n + i];
    if (status == NB_OK && on_host)
        memcpy(numbers, all, bytes);
    else if (status == NB_OK)
        be->ops->upload(be, numbers, all, bytes);
    free(all);
    return status;
}
