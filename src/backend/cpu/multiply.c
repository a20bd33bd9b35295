/* multiply.c: sums of products. A sum of several terms into BF16 is kept in FP32 until the last; every term is added as
 * it would be alone, in the order of the list.
 */
#include "backend/cpu/operand.h"

#include "backend/cpu/gemm.h"
#include "backend/cpu/packed.h"

#include <string.h>

static nb_status no_memory(const nb_mat *m, nb_error *err) {
    return nb_fail(err, NB_NO_MEMORY, "multiply: no memory for %lld x %lld numbers", (long long)m->rows,
                   (long long)m->cols);
}

/* ---- one product ---- */

/* As plain numbers: what has codes is decoded and rounded to BF16, but for the one scale of a tensor. */
static nb_status left_numbers(nb_backend *be, const nb_operand *a, nb_mat *out, nb_error *err) {
    *out = a->numbers;
    if (ni_is_plain(a))
        return NB_OK;
    size_t bytes = (size_t)(a->rows * a->cols) * sizeof(uint16_t);
    *out = nb_mat_of(ni_cpu_room_of(be, NI_ROOM_SOURCE, bytes), NB_BF16, a->rows, a->cols);
    return out->data ? ni_cpu_decode(be, out, a, false, NULL, !ni_scale_beside_numbers(a), err) : no_memory(out, err);
}

static nb_status right_numbers(nb_backend *be, const nb_operand *b, nb_mat *out, nb_error *err) {
    const nb_quantizer plain = nb_quantizer_bf16();
    const void *kept;
    *out = b->numbers;
    if (ni_is_plain(b))
        return NB_OK;
    NB_TRY(ni_right_form(be, &plain, b, &kept, err));
    *out = nb_mat_of(kept, NB_BF16, b->rows, b->cols);
    if (kept)
        return NB_OK;
    out->data = ni_cpu_room_of(be, NI_ROOM_PIECE, (size_t)(b->rows * b->cols) * sizeof(uint16_t));
    return out->data ? ni_cpu_decode(be, out, b, false, NULL, !ni_scale_beside_numbers(b), err) : no_memory(out, err);
}

/* Numbers by numbers, or by codes: times `scale` afterwards, where there is one. */
static nb_status plain_product(nb_backend *be, const nb_mat *c, const nb_operand *a, const nb_operand *b,
                               bool accumulate, nb_error *err) {
    const float *const scale = ni_scale_beside_numbers(ni_is_plain(a) ? b : a);
    const bool trans_a = ni_is_plain(a) && a->transposed, trans_b = !ni_is_plain(b) || !b->transposed;
    nb_mat x, y;
    NB_TRY(left_numbers(be, a, &x, err));
    NB_TRY(right_numbers(be, b, &y, err));
    if (!scale)
        return ni_cpu_gemm(be, c, &x, trans_a, &y, trans_b, accumulate, err);
    float *const rows = ni_cpu_shared(be, (size_t)(c->rows + c->cols) * sizeof *rows);
    if (!rows)
        return no_memory(c, err);
    for (int64_t i = 0; i < c->rows + c->cols; i++)
        rows[i] = i < c->rows ? *scale : 1.0f;
    return ni_cpu_gemm_scaled(be, c, &x, trans_a, &y, trans_b, rows, rows + c->rows, accumulate, err);
}

static nb_status product(nb_backend *be, const nb_mat *c, const nb_operand *a, const nb_operand *b, bool accumulate,
                         nb_error *err) {
    if (ni_is_plain(a) || ni_is_plain(b))
        return plain_product(be, c, a, b, accumulate, err);
    nb_qtensor x = ni_codes_of(a), y = ni_codes_of(b);
    const void *kept;
    NB_TRY(ni_gemm_q_check(c, &x, &y, err));
    NB_TRY(ni_right_form(be, &a->quantizer, b, &kept, err));
    return ni_is_packed(ni_product_of(&a->quantizer, &b->quantizer))
               ? ni_cpu_gemm_packed(be, c, &x, &y, kept, accumulate, err)
               : ni_cpu_gemm_decoded(be, c, &x, &y, kept, accumulate, err);
}

/* ---- terms: C in F32 ---- */

static void clear(const nb_mat *c) {
    for (int64_t r = 0; r < c->rows; r++)
        memset((float *)c->data + r * c->stride, 0, (size_t)c->cols * sizeof(float));
}

/* C += factor * part, in all columns or in those of the list. */
static void add_part(nb_backend *be, const nb_mat *c, const nb_mat *part, float factor, const int32_t *columns) {
    if (columns && factor == 1) {
        ni_cpu_scatter_columns(be, c, part, columns, true);
        return;
    }
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static)
    for (int64_t r = 0; r < c->rows; r++) {
        float *to = (float *)c->data + r * c->stride;
        const float *from = (const float *)part->data + r * part->stride;
        for (int64_t i = 0; i < part->cols; i++)
            to[columns ? columns[i] : i] += factor * from[i];
    }
}

static nb_status add_product_part(nb_backend *be, const nb_mat *c, const ni_term *t, bool accumulate, nb_error *err) {
    size_t bytes = (size_t)(c->rows * t->b->rows) * sizeof(float);
    nb_mat part = nb_mat_of(ni_cpu_room_of(be, NI_ROOM_PART, bytes), NB_F32, c->rows, t->b->rows);
    float a = t->a->factor ? *t->a->factor : 1, b = t->b->factor ? *t->b->factor : 1;
    if (!part.data)
        return no_memory(&part, err);
    NB_TRY(product(be, &part, t->a, t->b, false, err));
    if (!accumulate)
        clear(c);
    add_part(be, c, &part, a * b, t->columns);
    return NB_OK;
}

static nb_status add_sparse(nb_backend *be, const nb_mat *c, const ni_term *t, nb_error *err) {
    size_t bytes = (size_t)(t->b->rows * t->b->cols) * sizeof(uint16_t);
    nb_mat w = nb_mat_of(ni_cpu_room_of(be, NI_ROOM_PART, bytes), NB_BF16, t->b->cols, t->b->rows);
    if (!w.data)
        return no_memory(&w, err);
    NB_TRY(ni_cpu_decode(be, &w, t->b, true, NULL, true, err));
    ni_cpu_sparse_product(be, c, t->sparse, &w);
    return NB_OK;
}

static void add_outer(nb_backend *be, const nb_mat *c, const ni_outer *outer) {
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static)
    for (int64_t r = 0; r < c->rows; r++)
        ni_add_outer_row((float *)c->data + r * c->stride, c->cols, outer, r);
}

static nb_status add_term(nb_backend *be, const nb_mat *c, const ni_term *t, bool accumulate, nb_error *err) {
    if (ni_term_is_simple(t))
        return product(be, c, t->a, t->b, accumulate, err);
    if (t->a)
        return add_product_part(be, c, t, accumulate, err);
    if (!accumulate)
        return ni_fail_first_term(err);
    if (!t->outer)
        return add_sparse(be, c, t, err);
    add_outer(be, c, t->outer);
    return NB_OK;
}

/* ---- the sum ---- */

static nb_status through_f32(nb_backend *be, const nb_mat *c, const ni_term *terms, int32_t count, bool accumulate,
                             nb_error *err) {
    size_t bytes = (size_t)(c->rows * c->cols) * sizeof(float);
    nb_mat sum = nb_mat_of(ni_cpu_room_of(be, NI_ROOM_SUM, bytes), NB_F32, c->rows, c->cols);
    if (!sum.data)
        return no_memory(&sum, err);
    if (accumulate)
        ni_cpu_scale(be, &sum, c, NULL, NULL);
    for (int32_t i = 0; i < count; i++)
        NB_TRY(add_term(be, &sum, &terms[i], accumulate || i > 0, err));
    if (c->stride == c->cols)
        ni_cpu_cast(be, c->data, c->dtype, sum.data, NB_F32, c->rows * c->cols);
    else
        ni_cpu_scale(be, c, &sum, NULL, NULL);
    return NB_OK;
}

nb_status ni_cpu_multiply(nb_backend *be, const nb_mat *c, const ni_term *terms, int32_t count, bool accumulate,
                          nb_error *err) {
    NB_TRY(ni_check_terms(c, terms, count, err));
    if (c->dtype == NB_BF16 && (count > 1 || !ni_term_is_simple(terms)))
        return through_f32(be, c, terms, count, accumulate, err);
    for (int32_t i = 0; i < count; i++)
        NB_TRY(add_term(be, c, &terms[i], accumulate || i > 0, err));
    return NB_OK;
}
