/* multiply_parted.c: products side by side: those over many tokens (dW of a group) as one launch (parted.h), and where the
 * columns of several products of one sum lie before they are put together (column_sums.h).
 */
#include "backend/cuda/alphas.h"
#include "backend/cuda/multiply.h"
#include "backend/cuda/parted.h"
#include "backend/ref/operand_parts.h"

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

/* ---- columns of several products ---- */

int64_t ni_cuda_apart(int64_t cols) {
    enum { FLOATS = 64 };
    return (cols + FLOATS - 1) / FLOATS * FLOATS;
}

int64_t ni_cuda_begin_columns(const nb_mat *c, const ni_term *terms, int32_t count, bool accumulate,
                              ni_cuda_column_sum *s) {
    *s = (ni_cuda_column_sum){.out = *c, .count = count, .add = accumulate};
    int64_t width = 0;
    if (c->dtype != NB_F32 || count > NI_CUDA_COLUMN_PARTS || !ni_cuda_columns_fit(c))
        return 0;
    for (int32_t i = 0; i < count; i++) {
        if (!terms[i].a || !terms[i].columns)
            return 0;
        s->columns[i] = terms[i].columns;
        s->first[i] = width;
        s->widths[i] = terms[i].b->rows;
        width += ni_cuda_apart(s->widths[i]);
    }
    s->from = nb_mat_of(NULL, NB_F32, c->rows, width);
    return width;
}

size_t ni_cuda_columns_bytes(const ni_cuda_column_sum *s) {
    return ni_cuda_rounded((size_t)(s->from.rows * s->from.cols) * sizeof(float));
}

nb_mat ni_cuda_columns_of_part(const ni_cuda_column_sum *s, int32_t part) {
    nb_mat c = s->from;
    c.data = (float *)c.data + s->first[part];
    c.cols = s->widths[part];
    return c;
}

/* ---- products over many tokens ---- */

/* dW whose operands lie as X and dY do, and a contraction that is worth parting. */
static bool may_part_term(nb_backend *be, const ni_term *t) {
    enum { LEAST = 2048 };
    size_t bytes;
    return t->a && ni_cuda_term_units(be, t->a, t->b, &bytes) == NI_UNITS_BF16 && t->a->cols >= LEAST;
}

/* One such product, or several that have columns of their own. */
static bool may_part(nb_backend *be, const ni_sum *p) {
    bool may = ni_cuda_joins(ni_cuda_of(be)) && p->c.dtype == NB_F32;
    for (int32_t i = 0; i < p->count && may; i++)
        may = may_part_term(be, &p->terms[i]) && (p->count == 1 || p->terms[i].columns);
    return may;
}

/* false: more waits to be multiplied, or the numbers lie otherwise. */
static nb_status part(nb_backend *be, ni_cuda_room *scratch, const ni_term *t, ni_cuda_parted_product *to, bool *parted,
                      nb_error *err) {
    ni_cuda_sides s;
    NB_TRY(ni_cuda_sides_of(be, scratch, t, &s, err));
    *parted = s.a.transposed && s.b.transposed && s.bare;
    if (!*parted)
        return NB_OK;
    to->a = s.a.numbers;
    to->b = s.b.numbers;
    return ni_cuda_alpha_of(be, &s, &to->alpha, err);
}

/* Products side by side. Those of columns end in scratch and are put together behind them, since a store to columns in the
 * order of a list touches 32 bytes for each number. */
typedef struct parted_list {
    ni_cuda_parted products;
    ni_cuda_column_sum sums[NI_CUDA_COLUMN_SUMS];
    int32_t sum_count;
} parted_list;
_Static_assert((int)NI_CUDA_COLUMN_SUMS >= (int)NI_CUDA_PARTED_MOST, "a sum has one product at least");

static bool has_columns(const ni_sum *p) {
    return p->count > 0 && p->terms[0].columns;
}

/* What the products are of, and the scratch that they may take; false: too many of them, or of another kind. What fills up
 * the last pair of columns in scratch is nobody's. */
static bool list_parted(nb_backend *be, const ni_sum *products, int32_t count, parted_list *l, size_t *bytes) {
    for (int32_t i = 0; i < count; i++) {
        const ni_sum *const p = &products[i];
        const bool columns = has_columns(p);
        if (!may_part(be, p) || l->products.count + p->count > NI_CUDA_PARTED_MOST)
            return false;
        if (columns && !ni_cuda_begin_columns(&p->c, p->terms, p->count, p->accumulate, &l->sums[l->sum_count]))
            return false;
        for (int32_t k = 0; k < p->count; k++) {
            const ni_term *const t = &p->terms[k];
            l->products.at[l->products.count++] = (ni_cuda_parted_product){
                .c = p->c, .cols = t->b->rows + (columns ? t->b->rows % 2 : 0), .add = p->accumulate && !columns};
            *bytes += ni_cuda_decoded_bytes(t->a) + ni_cuda_decoded_bytes(t->b);
        }
        if (columns)
            *bytes += ni_cuda_columns_bytes(&l->sums[l->sum_count++]);
        l->products.deep |= columns;
    }
    return count > 0;
}

/* Operands and scratch of each product, in the order in which they were listed. */
static nb_status place_parted(nb_backend *be, ni_cuda_room *scratch, const ni_sum *products, int32_t count,
                              parted_list *l, bool *parted, nb_error *err) {
    ni_cuda_column_sum *s = l->sums;
    ni_cuda_parted_product *to = l->products.at;
    *parted = true;
    for (int32_t i = 0; i < count; i++) {
        const bool columns = has_columns(&products[i]);
        if (columns)
            s->from.data = ni_cuda_take(scratch, ni_cuda_columns_bytes(s));
        for (int32_t k = 0; k < products[i].count && *parted; k++, to++) {
            if (columns)
                to->c = ni_cuda_columns_of_part(s, k);
            NB_TRY(part(be, scratch, &products[i].terms[k], to, parted, err));
        }
        s += columns;
    }
    return NB_OK;
}

nb_status ni_cuda_multiply_parted(nb_backend *be, const ni_sum *products, int32_t count, bool *done, nb_error *err) {
    const int multiprocessors = ni_cuda_of(be)->multiprocessors;
    parted_list l = {.products.flags = ni_cuda_of(be)->parted};
    size_t bytes = 0;
    *done = false;
    if (!list_parted(be, products, count, &l, &bytes))
        return NB_OK;
    const size_t parts = ni_cuda_parted_bytes(&l.products, multiprocessors);
    bytes += ni_cuda_rounded(parts);
    ni_cuda_room scratch = {ni_cuda_scratch(be, bytes, "multiply"), NULL};
    if (!scratch.at)
        return ni_cuda_status(be, 0, "multiply", err);
    scratch.end = scratch.at + bytes;
    l.products.parts = ni_cuda_take(&scratch, parts);
    ni_cuda_alphas_begin(be, l.products.count);
    NB_TRY(place_parted(be, &scratch, products, count, &l, done, err));
    *done = *done && ni_cuda_can_part(&l.products, multiprocessors);
    if (!*done)
        return NB_OK;
    NB_TRY(ni_cuda_status(be, ni_cuda_launch_parted(stream_of(be), &l.products, multiprocessors),
                          "multiply: products parted", err));
    return l.sum_count ? ni_cuda_status(be, ni_cuda_launch_column_sums(stream_of(be), l.sums, l.sum_count),
                                        "multiply: columns", err)
                       : NB_OK;
}
