/* reduce.c: pieces go out, are added in the order of the tree, and come back. */
#include "reduce.h"
#include "backend/backend.h"
#include "backend/table.h"
#include "chunks.h"
#include "narrow_sums.h"
#include "pieces.h"

enum { TO_ALL = -1 }; /* in the place of a rank */

/* ---- adding ---- */

/* In the host's memory, by plain loops. */
static bool by_thread(const ni_reducer *x) {
    return x->aside && !x->worker;
}

static void add_numbers(const ni_reducer *x, const ni_circle *c, char *data, int32_t to, int32_t from) {
    if (by_thread(x)) { /* to the same bits: a sum of two is rounded once whoever makes it */
        float *sum = (float *)ni_pieces_part(x, c, data, to);
        const float *add = (const float *)ni_pieces_part(x, c, data, from);
        for (size_t i = 0; i < ni_circle_piece(c, c->self) / sizeof *sum; i++)
            sum[i] += add[i];
        return;
    }
    nb_backend *be = ni_reducer_hand(x);
    be->ops->axpy(be, ni_pieces_part(x, c, data, to), 1.0, ni_pieces_part(x, c, data, from),
                  (int64_t)(ni_circle_piece(c, c->self) / sizeof(float)));
}

/* Where the sum of the members first .. first + count - 1 is made: in the own place, if that is among them. */
static int32_t node(const ni_circle *c, int32_t first, int32_t count) {
    return c->self >= first && c->self < first + count ? c->self : first;
}

/* The tree over members: node i of a level and the node after it. A sum of two numbers is the same in either order, so
 * that it can end in the own place. */
static void add_numbers_in_order(const ni_reducer *x, const ni_circle *c, char *data) {
    for (int32_t stride = 1; ni_circle_piece(c, c->self) > 0 && stride < c->count; stride *= 2)
        for (int32_t i = 0; i + stride < c->count; i += 2 * stride) {
            const int32_t left = node(c, i, stride), right = node(c, i + stride, stride), sum = node(c, i, 2 * stride);
            add_numbers(x, c, data, sum, sum == right ? left : right);
        }
}

/* ---- numbers ---- */

/* `n` numbers that lie one after the other. */
static nb_status reduce_run(const ni_reducer *x, float *numbers, int64_t n, nb_error *err) {
    char *data = (char *)numbers;
    ni_reducer_cut(x, n);
    for (int32_t i = 0; i < x->circles; i++) {
        NB_TRY(ni_pieces_fetch(x, &x->circle[i], data, err));
        add_numbers_in_order(x, &x->circle[i], data);
    }
    for (int32_t i = x->circles - 1; i >= 0; i--)
        NB_TRY(ni_pieces_give_back(x, &x->circle[i], data, err));
    return NB_OK;
}

nb_status ni_reduce_to(const ni_reducer *x, float *data, int64_t n, int32_t to, nb_error *err) {
    const ni_circle *c = &x->circle[0];
    for (int64_t at = 0; at < n; at += x->chunk) {
        const int64_t length = n - at < x->chunk ? n - at : x->chunk;
        char *part = (char *)(data + at);
        if (ni_reducer_is_pair(x))
            ni_circle_cut_for(c, to, (size_t)length * sizeof *data);
        else
            ni_circle_cut(c, 0, (size_t)length * sizeof *data);
        NB_TRY(ni_pieces_fetch(x, c, part, err));
        add_numbers_in_order(x, c, part);
        if (!ni_reducer_is_pair(x))
            NB_TRY(ni_pieces_give_to(x, c, part, to, err));
    }
    return NB_OK;
}

/* Whose the element at `at` is. */
static int32_t owner_of(const ni_reducer *x, int64_t at) {
    int32_t r = x->owned ? 0 : TO_ALL;
    while (x->owned && at >= x->owned[r + 1])
        r++;
    return r;
}

/* Elements at .. end - 1, each to the rank that owns it. */
static nb_status reduce_owned(const ni_reducer *x, float *data, int64_t at, int64_t end, nb_error *err) {
    while (at < end) {
        const int32_t owner = owner_of(x, at);
        const int64_t until = x->owned[owner + 1] < end ? x->owned[owner + 1] : end;
        NB_TRY(ni_reduce_to(x, data + at, until - at, owner, err));
        at = until;
    }
    return NB_OK;
}

/* ---- rows of the first section ---- */

/* Those that were brought together by the other rank of a pair, to the room. */
static void read_theirs(const ni_reducer *x, int64_t n) {
    const ni_circle *c = &x->circle[0];
    nb_backend *be = ni_reducer_hand(x);
    be->ops->copy(be, x->room, ni_pieces_theirs(x, c, 1 - c->self, (char *)x->rows.data), (size_t)n * sizeof(float));
}

/* The rows that are together, of both ranks of a pair: in the room their sum, for the other may still read what is
 * here. That is as many bytes as half of them there and half of the sums back, and ranks meet once. */
static nb_status read_all(const ni_reducer *x, int64_t n, nb_error *err) {
    nb_backend *be = ni_reducer_hand(x);
    NB_TRY(ni_pieces_meet(x, &x->circle[0], err));
    read_theirs(x, n);
    be->ops->axpy(be, x->room, 1.0, x->rows.data, n);
    return NB_OK;
}

/* Rows of a table, of those that were touched and the others after them: their sums to all, or to rank `to`. */
static nb_status reduce_rows(const ni_reducer *x, float *table, int64_t begin, int64_t end, int32_t to, nb_error *err) {
    const ni_packed_rows *p = &x->rows;
    const bool both = to == TO_ALL && ni_reducer_is_pair(x) && ni_pieces_read(x, &x->circle[0]);
    for (int64_t from = begin; from < end; from += p->most) {
        const int64_t left = end - from, n = left < p->most ? left : p->most, numbers = n * p->touched->width;
        if (from > 0 || p->touched->head)
            NB_TRY(ni_pieces_rest(x, err)); /* the others have read those before */
        ni_pack_rows(p, ni_reducer_hand(x), table, from, n);
        if (both)
            NB_TRY(read_all(x, numbers, err));
        else if (to == TO_ALL)
            NB_TRY(reduce_run(x, p->data, numbers, err));
        else
            NB_TRY(ni_reduce_to(x, p->data, numbers, to, err));
        if (to == TO_ALL || to == x->ranks->rank)
            ni_unpack_rows(p, ni_reducer_hand(x), table, both ? (const void *)x->room : p->data, from, n);
    }
    return NB_OK;
}

/* The other says that its rows are together where it would in ni_reduce_to, which has one round for so few. */
bool ni_reduce_may_fetch_rows(const ni_reducer *x) {
    const ni_touched *touched = x->rows.touched;
    return touched && !touched->head && x->owned && owner_of(x, 0) == x->ranks->rank && ni_reducer_is_pair(x) &&
           ni_pieces_read(x, &x->circle[0]) && touched->count > 0 && touched->count <= x->rows.most &&
           touched->count * touched->width <= x->chunk;
}

nb_status ni_reduce_fetch_rows(const ni_reducer *x, nb_error *err) {
    const ni_touched *touched = x->rows.touched;
    NB_TRY(ni_pieces_meet(x, &x->circle[0], err));
    read_theirs(x, touched->count * touched->width);
    return NB_OK;
}

void ni_reduce_add_rows(const ni_reducer *x, float *table) {
    const ni_touched *touched = x->rows.touched;
    nb_backend *be = ni_reducer_hand(x);
    ni_pack_rows(&x->rows, be, table, 0, touched->count);
    be->ops->axpy(be, x->room, 1.0, x->rows.data, touched->count * touched->width);
    ni_unpack_rows(&x->rows, be, table, (const float *)(const void *)x->room, 0, touched->count);
}

nb_status ni_reduce_untouched(const ni_reducer *x, const ni_param_array *grads, nb_error *err) {
    const ni_touched *touched = x->rows.touched;
    return reduce_rows(x, grads->data, touched->count, touched->rows, owner_of(x, 0), err);
}

nb_status ni_reduce_rows_to(const ni_reducer *x, float *table, int32_t to, nb_error *err) {
    return reduce_rows(x, table, 0, x->rows.touched->count, to, err);
}

nb_status ni_reducer_meet_rows(const ni_reducer *x, nb_error *err) {
    return x->rows.touched ? ni_packed_rows_meet(&x->rows, ni_reducer_hand(x), err) : NB_OK;
}

/* ---- gradients ---- */

nb_status ni_reduce_chunk(const ni_reducer *x, const ni_param_array *grads, int64_t index, nb_error *err) {
    if (grads->dtype != x->be->real) {
        ni_narrow_cut(x, grads, x->narrow[index], x->narrow[index + 1]);
        return ni_narrow_sums(x, grads, err);
    }
    const int64_t at = ni_reducer_chunk_at(x, grads, index), end = ni_reducer_chunk_at(x, grads, index + 1);
    if (index == 0 && x->rows.touched)
        return reduce_rows(x, grads->data, 0, x->rows.touched->count, owner_of(x, 0), err);
    if (x->owned)
        return reduce_owned(x, grads->data, at, end, err);
    return reduce_run(x, (float *)grads->data + at, end - at, err);
}

bool ni_reducer_goes_beside(const ni_reducer *x, const ni_param_array *grads) {
    const bool real = grads->dtype == NB_F32;
    return x->ranks && x->be->real == NB_F32 && (real || (x->narrow && !x->joined)) && (!x->host[0] || x->worker);
}

static nb_status reduce_numbers(const ni_reducer *x, const ni_param_array *grads, nb_error *err) {
    NB_TRY(ni_reducer_meet_rows(x, err));
    if (x->rows.touched && x->rows.touched->head)
        NB_TRY(ni_reduce_untouched(x, grads, err));
    for (int64_t i = 0; i < ni_reducer_chunks(x, grads); i++)
        NB_TRY(ni_reduce_chunk(x, grads, i, err));
    return ni_pieces_rest(x, err);
}

static nb_status reduce_tensors(const ni_reducer *x, const ni_param_array *grads, nb_error *err) {
    ni_narrow_cut(x, grads, 0, grads->count);
    NB_TRY(ni_narrow_sums(x, grads, err));
    return ni_pieces_rest(x, err);
}

nb_status ni_reduce(ni_reducer *x, ni_param_array *grads, nb_error *err) {
    if (!x->ranks)
        return NB_OK;
    return grads->dtype == x->be->real ? reduce_numbers(x, grads, err) : reduce_tensors(x, grads, err);
}

nb_status ni_reduce_numbers(const ni_reducer *x, nb_backend *be, float *numbers, int64_t n, float *room,
                            nb_error *err) {
    const int32_t world = nb_ranks_world(x->ranks);
    const size_t bytes = (size_t)n * sizeof *numbers;
    if (world == 1)
        return NB_OK;
    float *mine = room + x->ranks->rank * n;
    be->ops->download(be, mine, numbers, bytes);
    NB_TRY(ni_ranks_gather(x->ranks, mine, room, bytes, err));
    for (int32_t stride = 1; stride < world; stride *= 2)
        for (int32_t r = 0; r + stride < world; r += 2 * stride)
            for (int64_t i = 0; i < n; i++)
                room[r * n + i] += room[(r + stride) * n + i];
    be->ops->upload(be, numbers, room, bytes);
    return NB_OK;
}
