/* operand_many.c: makings of many sources by few launches: a row copy and its patch of one reading, or weights in tiles,
 * in rows, in two formats, anew of codes and as numbers first and then chosen columns, dozens a launch; what none of them
 * is goes one by one.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/list.h"
#include "backend/cuda/operand.h"
#include "backend/cuda/rows.h"
#include "backend/ref/operand_parts.h"

/* ---- weights ---- */

typedef struct weight_list {
    ni_cuda_weight at[NI_CUDA_LIST_MOST];
    int count;
} weight_list;

static nb_status make_weights(nb_backend *be, weight_list *list, nb_error *err) {
    const int count = list->count;
    list->count = 0;
    return count ? ni_cuda_make_weights(be, list->at, count, err) : NB_OK;
}

/* The same codes of the same numbers: encoded once. */
static bool is_second_copy(const ni_cuda_weight *a, const ni_cuda_weight *b) {
    return a->copies == 1 && a->w == b->w && a->rows == b->rows && a->cols == b->cols && a->rule == b->rule &&
           a->outer == b->outer && a->amax == b->amax;
}

static nb_status take_weight(nb_backend *be, weight_list *list, const ni_cuda_weight *w, nb_error *err) {
    ni_cuda_weight *const last = list->count ? &list->at[list->count - 1] : NULL;
    if (last && is_second_copy(last, w)) {
        last->to[last->copies++] = w->to[0];
        return NB_OK;
    }
    if (list->count == NI_CUDA_LIST_MOST)
        NB_TRY(make_weights(be, list, err));
    list->at[list->count++] = *w;
    return NB_OK;
}

typedef struct row_list {
    ni_cuda_double_source from[NI_CUDA_LIST_MOST];
    ni_cuda_vector to[NI_CUDA_LIST_MOST];
    int count;
} row_list;

typedef struct double_list {
    ni_cuda_double_source from[NI_CUDA_LIST_MOST];
    ni_cuda_tile_copy to[NI_CUDA_LIST_MOST];
    int count;
} double_list;

typedef struct columns_list {
    ni_cuda_columns at[NI_CUDA_LIST_MOST];
    const nb_operand *out[NI_CUDA_LIST_MOST];
    int count;
} columns_list;

typedef struct split_list {
    ni_cuda_split at[NI_CUDA_SPLITS];
    int count;
} split_list;

static nb_status make_splits(nb_backend *be, split_list *list, nb_error *err) {
    const int count = list->count;
    list->count = 0;
    return count ? ni_cuda_make_splits(be, list->at, count, err) : NB_OK;
}

/* The first of these makings, and the second with it or not: so many were taken. */
static nb_status take_split(nb_backend *be, split_list *list, const ni_source *sources, const ni_making *makings,
                            int32_t count, int32_t *taken, nb_error *err) {
    ni_cuda_split split;
    *taken = ni_cuda_list_split(be, sources, makings, count, &split);
    if (!*taken)
        return NB_OK;
    if (list->count == NI_CUDA_SPLITS || (list->count && list->at->numbers.dtype != split.numbers.dtype))
        NB_TRY(make_splits(be, list, err));
    list->at[list->count++] = split;
    return NB_OK;
}

typedef struct recode_list {
    const nb_operand *from[NI_CUDA_LIST_MOST];
    const ni_making *at[NI_CUDA_LIST_MOST];
    int count;
} recode_list;

static nb_status recode(nb_backend *be, const recode_list *list, nb_error *err) {
    if (list->count)
        NB_TRY(ni_cuda_recode_pow2(be, list->from, list->at, list->count, err));
    for (int i = 0; i < list->count; i++)
        ni_cuda_alphas_changed(be, list->at[i]->out->outer);
    return NB_OK;
}

/* A matrix in BF16, as it lies. */
static bool list_cast(const ni_source *source, const ni_making *m, ni_cuda_casting *cast) {
    const nb_mat *from = source->numbers, *to = &m->out->numbers;
    if (!ni_is_plain(m->out) || !from || source->minus || source->columns || source->row_scales ||
        source->column_scales || from->dtype != NB_F32 || to->dtype != NB_BF16 || m->transpose || m->at ||
        m->out->transposed || from->stride != from->cols || to->stride != to->cols || from->rows != to->rows ||
        from->cols != to->cols || from->rows * from->cols % 8 || ((uintptr_t)from->data | (uintptr_t)to->data) % 16)
        return false;
    *cast = (ni_cuda_casting){to->data, from->data, from->rows * from->cols};
    return true;
}

typedef struct making_lists {
    weight_list weights;
    row_list rows;
    double_list doubles;
    columns_list columns;
    recode_list recoded;
    split_list splits;
    ni_cuda_remade remade[NI_CUDA_LIST_MOST];
    int remade_count;
    ni_cuda_casting casts[NI_CUDA_LIST_MOST];
    int cast_count;
} making_lists;

/* Into one of the lists, or none (*made). Numbers under a scale are read by the kernel of columns alone. */
static nb_status list_making(nb_backend *be, making_lists *l, const ni_source *source, const ni_making *making,
                             bool *made, nb_error *err) {
    ni_cuda_weight w;
    *made = ni_cuda_list_columns(be, source, making, &l->columns.at[l->columns.count]);
    l->columns.out[l->columns.count] = making->out;
    l->columns.count += *made;
    if (*made || source->scale)
        return NB_OK;
    *made = list_cast(source, making, &l->casts[l->cast_count]);
    l->cast_count += *made;
    if (*made)
        return NB_OK;
    *made = ni_cuda_list_remade(be, source, making, &l->remade[l->remade_count]);
    l->remade_count += *made;
    if (*made)
        return NB_OK;
    *made = ni_cuda_recodes_pow2(be, source, making);
    l->recoded.from[l->recoded.count] = source->operand;
    l->recoded.at[l->recoded.count] = making;
    l->recoded.count += *made;
    if (*made)
        return NB_OK;
    *made = ni_cuda_list_weight(be, source, making, &w);
    if (*made)
        return take_weight(be, &l->weights, &w, err);
    double_list *const d = &l->doubles;
    *made = ni_cuda_list_double(be, source, making, &d->from[d->count], &d->to[d->count], d->count ? d->to : NULL);
    d->count += *made;
    if (*made)
        return NB_OK;
    *made = ni_cuda_list_rows(be, source, making, &l->rows.from[l->rows.count], &l->rows.to[l->rows.count]);
    l->rows.count += *made;
    return NB_OK;
}

static nb_status make_lists(nb_backend *be, making_lists *l, nb_error *err) {
    void *const stream = ni_cuda_of(be)->stream;
    if (l->columns.count)
        NB_TRY(ni_cuda_make_columns(be, l->columns.at, l->columns.out, l->columns.count, err));
    NB_TRY(make_weights(be, &l->weights, err));
    NB_TRY(make_splits(be, &l->splits, err));
    NB_TRY(recode(be, &l->recoded, err));
    NB_TRY(ni_cuda_make_remade(be, l->remade, l->remade_count, err));
    if (l->doubles.count)
        NB_TRY(ni_cuda_status(be,
                              ni_cuda_quantize_double_rows(stream, l->doubles.from, l->doubles.to, l->doubles.count),
                              "quantize: double blocks of weights", err));
    if (l->cast_count)
        NB_TRY(ni_cuda_status(be, ni_cuda_launch_casts(stream, l->casts, l->cast_count), "casts", err));
    return ni_cuda_status(be, ni_cuda_quantize_many_rows(stream, l->rows.from, l->rows.to, l->rows.count),
                          "quantize: vectors", err);
}

/* All weights of the call, NI_CUDA_LIST_MOST at most; nothing that they are made of is made by it. `made` [count]. */
static nb_status make_all_weights(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                                  bool *made, nb_error *err) {
    making_lists lists;
    int32_t taken;
    lists.weights.count = lists.rows.count = lists.columns.count = lists.recoded.count = lists.splits.count = 0;
    lists.cast_count = lists.remade_count = lists.doubles.count = 0;
    for (int32_t i = 0; i < count; i++)
        if (!sources[i].parts)
            NB_TRY(ni_check_making(&sources[i], &makings[i], err));
    for (int32_t i = 0; i < count; i += taken) {
        NB_TRY(take_split(be, &lists.splits, sources + i, makings + i, count - i, &taken, err));
        for (int32_t k = 0; k < taken; k++)
            made[i + k] = true;
        if (taken)
            continue;
        taken = 1;
        NB_TRY(list_making(be, &lists, &sources[i], &makings[i], &made[i], err));
    }
    return make_lists(be, &lists, err);
}

/* ---- the rest, in order: pieces that follow each other at once ---- */

typedef struct piece_list {
    ni_cuda_piece pieces[NI_CUDA_LIST_MOST];
    ni_cuda_tile_copy copies[NI_CUDA_LIST_MOST];
    int count;
} piece_list;

static nb_status make_pieces(nb_backend *be, piece_list *list, nb_error *err) {
    const int count = list->count;
    list->count = 0;
    return count
               ? ni_cuda_status(be, ni_cuda_quantize_pieces(ni_cuda_of(be)->stream, list->pieces, list->copies, count),
                                "quantize: chosen columns", err)
               : NB_OK;
}

static nb_status make_the_rest(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                               const bool *made, nb_error *err) {
    piece_list list;
    list.count = 0;
    for (int32_t i = 0; i < count; i++) {
        if (made[i])
            continue;
        if (sources[i].parts) {
            NB_TRY(ni_compose_parts(be, sources[i].parts, &makings[i], err));
            continue;
        }
        NB_TRY(ni_cuda_check_source(&sources[i], err));
        if (list.count == NI_CUDA_LIST_MOST)
            NB_TRY(make_pieces(be, &list, err));
        if (ni_cuda_list_piece(be, &sources[i], &makings[i], &list.pieces[list.count], &list.copies[list.count])) {
            list.count++;
            continue;
        }
        NB_TRY(make_pieces(be, &list, err));
        NB_TRY(ni_cuda_make_operands(be, &sources[i], &makings[i], 1, err));
    }
    return make_pieces(be, &list, err);
}

nb_status ni_cuda_make_many(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                            nb_error *err) {
    bool made[NI_CUDA_LIST_MOST];
    int32_t begin = 0, together = count;
    for (; begin < count && together; begin += together)
        NB_TRY(ni_cuda_make_patched(be, sources + begin, makings + begin, count - begin, &together, err));
    for (int32_t i = begin; i < count; i += NI_CUDA_LIST_MOST) {
        const int32_t now = count - i < NI_CUDA_LIST_MOST ? count - i : NI_CUDA_LIST_MOST;
        NB_TRY(make_all_weights(be, sources + i, makings + i, now, made, err));
        NB_TRY(make_the_rest(be, sources + i, makings + i, now, made, err));
    }
    return NB_OK;
}
