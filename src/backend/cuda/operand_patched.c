/* operand_patched.c: a row copy, pieces of chosen columns of it and the column copy of the same numbers, for several layers,
 * from one reading (quantize_patched.cu).
 */
#include "backend/cuda/alphas.h"
#include "backend/cuda/coded.h"
#include "backend/cuda/operand.h"
#include "backend/ref/operand_parts.h"

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

/* Pieces of chosen columns of the base's own numbers. */
static bool is_patch_of(const ni_source *base, const ni_making *whole, const ni_source *source, const ni_making *m) {
    const nb_mat *x = base->numbers, *y = source->numbers;
    return ni_cuda_is_piece(source, m) && y->data == x->data && y->dtype == x->dtype && y->stride == x->stride &&
           m->out == whole->out && m->under == whole->out && (!source->minus || source->minus == whole->out) &&
           m->shown == whole->shown && nb_quantizer_equal(ni_making_quantizer(m), ni_making_quantizer(whole));
}

/* A whole and its pieces, the first `count` of them. */
static bool is_patched(const ni_source *sources, const ni_making *makings, int32_t count) {
    const ni_making *const whole = &makings[0];
    if (count < 2 || count > 3 || sources[0].scale || !ni_cuda_is_tile_copy(&sources[0], whole) || whole->transpose ||
        whole->stats || whole->under || whole->at != 0 || ni_making_quantizer(whole)->round != NB_ROUND_EVEN ||
        !sources[0].numbers->amax || !ni_cuda_has_tensor_outer(ni_making_quantizer(whole)) ||
        !ni_cuda_patched_fits(sources[0].numbers->cols))
        return false;
    for (int32_t i = 1; i < count; i++)
        if (!is_patch_of(&sources[0], whole, &sources[i], &makings[i]) || sources[i].columns != sources[1].columns ||
            sources[i].column_count != sources[1].column_count)
            return false;
    return true;
}

static int32_t makings_of_first(const ni_making *makings, int32_t count) {
    int32_t same = 1;
    while (same < count && makings[same].out == makings[0].out)
        same++;
    return same;
}

static bool is_patched_in_codes(nb_backend *be, const ni_making *whole) {
    return whole->shown || !whole->spent ||
           ni_cuda_units_of(ni_cuda_of(be), &whole->out->quantizer, &whole->out->other) != NI_UNITS_BF16;
}

/* Another operand of the same numbers, which differs in the columns of its pieces alone. */
static bool is_patched_alike(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                             const ni_source *others, const ni_making *makings_of_other) {
    const nb_mat *x = sources[0].numbers, *y = others[0].numbers;
    const ni_making *const a = &makings[0], *const b = &makings_of_other[0];
    if (!is_patched(others, makings_of_other, count) || is_patched_in_codes(be, a) || is_patched_in_codes(be, b) ||
        x->data != y->data || x->amax != y->amax || x->stride != y->stride || a->past || b->past || a->now || b->now ||
        a->out->cols != b->out->cols || !nb_quantizer_equal(ni_making_quantizer(a), ni_making_quantizer(b)) ||
        sources[1].column_count != others[1].column_count)
        return false;
    for (int32_t i = 1; i < count; i++)
        if (makings[i].at != makings_of_other[i].at || !sources[i].minus != !others[i].minus)
            return false;
    return true;
}

/* Its values are written with the first one's, and its scale is that one's. */
static void join_patch(nb_backend *be, ni_cuda_patch *patch, const ni_source *sources, const ni_making *makings,
                       const float *outer) {
    patch->values[patch->operands] = ni_cuda_tile_copy_of(be, &makings[0], false).values;
    patch->columns[patch->operands++] = sources[1].columns;
    makings[0].out->outer = outer;
}

/* The column copy of the same numbers, whose maximum is known. */
static bool is_column_beside(const ni_source *base, const ni_source *source, const ni_making *m) {
    const nb_mat *x = base->numbers, *y = source->numbers;
    const nb_quantizer *q = ni_making_quantizer(m);
    return m->transpose && ni_cuda_is_tile_copy(source, m) && y->data == x->data && y->rows == x->rows &&
           y->cols == x->cols && y->stride == x->stride && y->turned_amax && !m->under && !m->past && !m->now &&
           q->round == NB_ROUND_EVEN && ni_cuda_has_tensor_outer(q) && ni_cuda_is_turned_as_known(q) &&
           ni_cuda_patched_fits_columns(x->rows, x->cols);
}

nb_status ni_cuda_make_patched(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                               int32_t *made, nb_error *err) {
    const int32_t own = makings_of_first(makings, count);
    *made = is_patched(sources, makings, own) ? own : 0;
    if (!*made)
        return NB_OK;
    const nb_mat *x = sources[0].numbers;
    const ni_cuda_tile_source tiles = {x->data, x->rows, x->cols, x->stride};
    ni_cuda_tile_copy base = ni_cuda_tile_copy_of(be, &makings[0], is_patched_in_codes(be, &makings[0]));
    ni_cuda_patch patch = {.operands = 1,
                           .values = {base.values},
                           .columns = {sources[1].columns},
                           .cols = sources[1].column_count,
                           .count = own - 1};
    ni_cuda_knows_amax(be, &sources[0], &makings[0], &base);
    for (int32_t i = 1; i < own; i++) {
        patch.residual[i - 1] = sources[i].minus != NULL;
        patch.at[i - 1] = makings[i].at;
    }
    while (patch.operands < NI_CUDA_PATCHED_MOST && *made + own <= count &&
           makings_of_first(makings + *made, count - *made) == own &&
           is_patched_alike(be, sources, makings, own, sources + *made, makings + *made)) {
        join_patch(be, &patch, sources + *made, makings + *made, makings[0].out->outer);
        *made += own;
    }
    ni_cuda_tile_copy column = {.values = NULL};
    const bool both = *made < count && is_column_beside(&sources[0], &sources[*made], &makings[*made]);
    if (both) {
        column = ni_cuda_tile_copy_of(be, &makings[*made], ni_cuda_are_codes_read(be, &makings[*made]));
        ni_cuda_knows_amax(be, &sources[*made], &makings[*made], &column);
        ++*made;
    }
    for (int32_t i = 0; i < *made; i++)
        NB_TRY(ni_check_making(&sources[i], &makings[i], err));
    const int code = ni_cuda_quantize_patched(stream_of(be), ni_cuda_of(be)->tile_room, &tiles, &base,
                                              both ? &column : NULL, &patch);
    ni_cuda_alphas_multiplied(be);
    return ni_cuda_status(be, code, both ? "quantize: rows with a patch, and columns" : "quantize: rows with a patch",
                          err);
}
