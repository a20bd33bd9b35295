/* pieces.c: ways out and back. */
#include "pieces.h"
#include "backend/backend.h"
#include "backend/table.h"

#include <string.h>

nb_backend *ni_reducer_hand(const ni_reducer *x) {
    return x->aside && x->worker ? x->worker : x->be;
}

/* GPUs that exchange among themselves. */
static bool by_device(const ni_reducer *x) {
    return x->host[0] && x->ranks->device.trade;
}

/* Pieces go through copies on the host. */
static bool staged(const ni_reducer *x) {
    return x->host[0] && !x->ranks->device.trade;
}

bool ni_pieces_read(const ni_reducer *x, const ni_circle *c) {
    return x->neighbours.theirs && c == &x->circle[0];
}

void ni_pieces_no_letters(const ni_reducer *x) {
    memset(x->letters, 0, 2 * (size_t)x->ranks->world * sizeof *x->letters);
}

void ni_pieces_letters(const ni_reducer *x, const ni_circle *c, int32_t member, ni_letter out, ni_letter in) {
    const int32_t rank = c->first + member * c->stride;
    if (member == c->self)
        return;
    x->letters[rank] = out;
    x->letters[x->ranks->world + rank] = in;
}

nb_status ni_pieces_trade(const ni_reducer *x, nb_error *err) {
    return ni_ranks_trade(x->ranks, x->letters, x->letters + x->ranks->world, err);
}

/* Pieces that lie in the backend's memory, where no copy on the host stands for it. */
static nb_status trade_pieces(const ni_reducer *x, nb_error *err) {
    if (by_device(x))
        return ni_ranks_trade_device(x->ranks, x->letters, x->letters + x->ranks->world, err);
    return ni_pieces_trade(x, err);
}

/* ---- pieces that are read where they are ---- */

nb_status ni_pieces_meet(const ni_reducer *x, const ni_circle *c, nb_error *err) {
    char here = 1, there[2];
    NB_TRY(ni_reducer_hand(x)->ops->synchronize(ni_reducer_hand(x), err));
    ni_pieces_no_letters(x);
    for (int32_t i = 0; i < c->count; i++)
        ni_pieces_letters(x, c, i, (ni_letter){&here, 1}, (ni_letter){&there[0], 1});
    return ni_pieces_trade(x, err);
}

/* Rows that were brought together, and not gradients where the model has them. */
static bool is_packed(const ni_reducer *x, const char *data) {
    const uintptr_t begin = (uintptr_t)x->rows.data, at = (uintptr_t)data;
    return x->rows.data && at >= begin && at - begin < ni_packed_rows_bytes(&x->rows);
}

const char *ni_pieces_theirs(const ni_reducer *x, const ni_circle *c, int32_t member, const char *data) {
    const ni_neighbours *n = is_packed(x, data) ? &x->rows.seen : &x->neighbours;
    return n->theirs[c->first + member * c->stride] + (data - n->own);
}

static nb_status read_pieces(const ni_reducer *x, const ni_circle *c, const char *data, nb_error *err) {
    nb_backend *be = ni_reducer_hand(x);
    NB_TRY(ni_pieces_meet(x, c, err));
    for (int32_t i = 0; ni_circle_piece(c, c->self) > 0 && i < c->count; i++)
        if (i != c->self)
            be->ops->copy(be, x->room + ni_circle_place(c, i), ni_pieces_theirs(x, c, i, data) + c->begin[c->self],
                          ni_circle_piece(c, c->self));
    return NB_OK;
}

static nb_status read_sums(const ni_reducer *x, const ni_circle *c, char *data, nb_error *err) {
    nb_backend *be = ni_reducer_hand(x);
    NB_TRY(ni_pieces_meet(x, c, err));
    for (int32_t i = 0; i < c->count; i++)
        if (i != c->self)
            be->ops->copy(be, data + c->begin[i], ni_pieces_theirs(x, c, i, data) + c->begin[i], ni_circle_piece(c, i));
    return NB_OK;
}

nb_status ni_reduce_done(const ni_reducer *x, nb_error *err) {
    return x->host[0] ? ni_reducer_hand(x)->ops->synchronize(ni_reducer_hand(x), err) : NB_OK;
}

nb_status ni_pieces_rest(const ni_reducer *x, nb_error *err) {
    return x->neighbours.theirs ? ni_pieces_meet(x, &x->circle[0], err) : NB_OK;
}

/* ---- pieces that are sent ---- */

nb_status ni_pieces_fetch(const ni_reducer *x, const ni_circle *c, char *data, nb_error *err) {
    if (ni_pieces_read(x, c))
        return read_pieces(x, c, data, err);
    nb_backend *be = ni_reducer_hand(x);
    const size_t mine = ni_circle_piece(c, c->self), first = c->begin[0], all = c->begin[c->count] - first;
    char *out = staged(x) ? x->host[0] : data, *in = staged(x) ? x->host[1] : x->room;
    if (staged(x) && all > mine)
        be->ops->download(be, out + first, data + first, all);
    else if (!staged(x))
        NB_TRY(be->ops->synchronize(be, err));
    ni_pieces_no_letters(x);
    for (int32_t i = 0; i < c->count; i++)
        if (i != c->self)
            ni_pieces_letters(x, c, i, (ni_letter){out + c->begin[i], ni_circle_piece(c, i)},
                              (ni_letter){in + ni_circle_place(c, i), mine});
    NB_TRY(trade_pieces(x, err));
    for (int32_t i = 0; staged(x) && mine > 0 && i < c->count; i++)
        if (i != c->self)
            be->ops->upload(be, x->room + ni_circle_place(c, i), in + ni_circle_place(c, i), mine);
    return NB_OK;
}

/* The own piece to where others may read it; *whole: the place of the chunk there. */
static nb_status put_own_out(const ni_reducer *x, const ni_circle *c, char *data, char **whole, nb_error *err) {
    nb_backend *be = ni_reducer_hand(x);
    const size_t at = c->begin[c->self], mine = ni_circle_piece(c, c->self);
    *whole = staged(x) ? x->host[0] : data;
    if (!staged(x))
        return be->ops->synchronize(be, err);
    if (mine > 0)
        be->ops->download(be, *whole + at, data + at, mine);
    return NB_OK;
}

nb_status ni_pieces_give_back(const ni_reducer *x, const ni_circle *c, char *data, nb_error *err) {
    if (ni_pieces_read(x, c))
        return read_sums(x, c, data, err);
    nb_backend *be = ni_reducer_hand(x);
    const size_t at = c->begin[c->self], mine = ni_circle_piece(c, c->self), first = c->begin[0];
    char *whole;
    NB_TRY(put_own_out(x, c, data, &whole, err));
    ni_pieces_no_letters(x);
    for (int32_t i = 0; i < c->count; i++)
        ni_pieces_letters(x, c, i, (ni_letter){whole + at, mine},
                          (ni_letter){whole + c->begin[i], ni_circle_piece(c, i)});
    NB_TRY(trade_pieces(x, err));
    if (staged(x) && c->begin[c->count] > first)
        be->ops->upload(be, data + first, whole + first, c->begin[c->count] - first);
    return NB_OK;
}

nb_status ni_pieces_give_to(const ni_reducer *x, const ni_circle *c, char *data, int32_t to, nb_error *err) {
    const size_t at = c->begin[c->self], mine = ni_circle_piece(c, c->self);
    char *whole;
    NB_TRY(put_own_out(x, c, data, &whole, err));
    ni_pieces_no_letters(x);
    for (int32_t i = 0; i < c->count; i++)
        ni_pieces_letters(x, c, i, i == to ? (ni_letter){whole + at, mine} : (ni_letter){0},
                          c->self == to ? (ni_letter){whole + c->begin[i], ni_circle_piece(c, i)} : (ni_letter){0});
    NB_TRY(trade_pieces(x, err));
    if (staged(x) && c->self == to && c->begin[c->count] > 0)
        ni_reducer_hand(x)->ops->upload(ni_reducer_hand(x), data, whole, c->begin[c->count]);
    return NB_OK;
}

char *ni_pieces_part(const ni_reducer *x, const ni_circle *c, char *data, int32_t member) {
    return member == c->self ? data + c->begin[member] : x->room + ni_circle_place(c, member);
}

/* ---- arrays that are not summed ---- */

/* A chunk at a time: that is what there is room for on the host. */
nb_status ni_reducer_gather(const ni_reducer *x, char *array, const size_t *begin, nb_error *err) {
    if (!x->ranks)
        return NB_OK;
    const size_t end = begin[x->ranks->world], most = (size_t)x->chunk * nb_dtype_size(x->dtype);
    const ni_circle all = {.count = x->ranks->world, .self = x->ranks->rank, .stride = 1, .begin = x->ends};
    for (size_t from = 0; from < end; from += most) {
        const size_t length = end - from < most ? end - from : most;
        for (int32_t r = 0; r <= all.count; r++) {
            const size_t at = begin[r] > from ? begin[r] - from : 0;
            x->ends[r] = at < length ? at : length;
        }
        NB_TRY(ni_pieces_give_back(x, &all, array + from, err));
    }
    return NB_OK;
}

/* A chunk at a time, as there is room on the host. */
nb_status ni_reducer_bring(const ni_reducer *x, int32_t from, int32_t to, void *data, size_t bytes, nb_error *err) {
    const int32_t rank = x->ranks->rank, world = x->ranks->world;
    const size_t most = (size_t)x->chunk * nb_dtype_size(x->dtype);
    const bool gives = rank == from, takes = rank == to;
    NB_TRY(x->be->ops->synchronize(x->be, err));
    for (size_t at = 0; at < bytes; at += most) {
        const size_t length = bytes - at < most ? bytes - at : most;
        char *here = gives || takes ? (char *)data + at : NULL, *wire = staged(x) ? x->host[0] : here;
        if (gives && staged(x))
            x->be->ops->download(x->be, wire, here, length);
        ni_pieces_no_letters(x);
        if (gives)
            x->letters[to] = (ni_letter){wire, length};
        if (takes)
            x->letters[world + from] = (ni_letter){wire, length};
        NB_TRY(trade_pieces(x, err));
        if (takes && staged(x))
            x->be->ops->upload(x->be, here, wire, length);
    }
    return NB_OK;
}
