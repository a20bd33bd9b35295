/* operand.c: operands and sums of products by their definition: everything that an operand is made of is written out as
 * a matrix in FP32 first.
 */
#include "backend/ref/dge_occ.h"
#include "backend/ref/gemm.h"
#include "backend/ref/gemm_q.h"
#include "backend/ref/operand_parts.h"
#include "backend/ref/quantize.h"
#include "format/bf16.h"
#include "format/ieee.h"
#include "format/scale.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t ni_ref_operand_bytes(nb_backend *be, const nb_operand *operand) {
    (void)be;
    return ni_canonical_bytes(operand);
}

/* ---- sources ---- */

static nb_status new_matrix(nb_dtype type, int64_t rows, int64_t cols, nb_mat *out, nb_error *err) {
    void *memory = malloc(nb_dtype_size(type) * (size_t)(rows * cols) + 1);
    *out = nb_mat_of(memory, type, rows, cols);
    return memory ? NB_OK
                  : nb_fail(err, NB_NO_MEMORY, "operand: no memory for %lld x %lld numbers", (long long)rows,
                            (long long)cols);
}

/* All of a matrix or of an operand, plain or not, as numbers of `type`. */
static nb_status widen(nb_backend *be, const nb_mat *out, const nb_mat *numbers, const nb_operand *operand,
                       nb_error *err) {
    if (!numbers)
        return ni_ref_decode(be, out, operand, false, NULL, true, err);
    ni_ref_scale(be, out, numbers, NULL, NULL);
    return NB_OK;
}

static void subtract(const nb_mat *from, const nb_mat *what) {
    for (int64_t r = 0; r < from->rows; r++)
        for (int64_t c = 0; c < from->cols; c++)
            ((float *)from->data)[r * from->stride + c] -= ((const float *)what->data)[r * what->stride + c];
}

static nb_status residual_of(nb_backend *be, const nb_mat *x, const nb_operand *minus, nb_error *err) {
    nb_mat held;
    NB_TRY(new_matrix(NB_F32, minus->rows, minus->cols, &held, err));
    nb_status status = ni_ref_decode(be, &held, minus, false, NULL, true, err);
    if (status == NB_OK)
        subtract(x, &held);
    free(held.data);
    return status;
}

static nb_status fold(nb_backend *be, const ni_source *source, const nb_mat *x, nb_error *err) {
    const float *row = NULL, *col = NULL;
    if (source->row_scales)
        NB_TRY(ni_row_scales_of(source->row_scales, &row, err));
    if (source->column_scales)
        NB_TRY(ni_row_scales_of(source->column_scales, &col, err));
    if (row || col)
        ni_ref_scale(be, x, x, row, col);
    return NB_OK;
}

/* Columns of a list, and zeros behind them. */
static void pick(nb_backend *be, const nb_mat *out, const nb_mat *whole, const ni_source *source) {
    nb_mat chosen = *out;
    chosen.cols = source->column_count;
    if (source->zeros)
        memset(out->data, 0, nb_dtype_size(out->dtype) * (size_t)(out->rows * out->cols));
    ni_ref_gather_columns(be, &chosen, whole, source->columns);
}

/* The source in `type`: real, in which it is exact, or that of plain numbers. */
static nb_status write_out(nb_backend *be, const ni_source *source, nb_dtype type, nb_mat *out, nb_error *err) {
    int64_t rows = source->numbers ? source->numbers->rows : source->operand->rows;
    int64_t cols = source->numbers ? source->numbers->cols : source->operand->cols;
    nb_mat whole = {0}, picked = {0};
    nb_status status = new_matrix(type, rows, cols, &whole, err);
    if (status == NB_OK)
        status = widen(be, &whole, source->numbers, source->operand, err);
    if (status == NB_OK && source->minus)
        status = residual_of(be, &whole, source->minus, err);
    if (status == NB_OK && source->columns) {
        status = new_matrix(type, rows, source->column_count + source->zeros, &picked, err);
        if (status == NB_OK)
            pick(be, &picked, &whole, source);
        free(whole.data);
        whole = picked;
    }
    if (status == NB_OK)
        status = fold(be, source, &whole, err);
    if (status != NB_OK) {
        free(whole.data);
        whole.data = NULL;
    }
    *out = whole;
    return status;
}

/* ---- making ---- */

static float amax_of(const nb_mat *x) {
    uint32_t amax = 0;
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t c = 0; c < x->cols; c++) {
            uint32_t a = ni_f32_magnitude(((const float *)x->data)[r * x->stride + c]);
            amax = a > amax ? a : amax;
        }
    return ni_f32_from(amax);
}

static nb_status quantize(const ni_making *making, const nb_qtensor *to, const nb_mat *x, nb_error *err) {
    ni_operand_head *head = ni_head_of(making->out);
    const float delayed = making->past ? ni_delayed_amax(*making->past, making->headroom) : 0;
    const float *under = making->past ? &delayed : making->under ? &ni_head_of(making->under)->amax : NULL;
    NB_TRY(ni_ref_quantize_under(to, x, making->transpose, making->noise, under, making->stats, err));
    if (making->at == 0)
        *head = (ni_operand_head){.amax = under ? *under : amax_of(x)};
    if (!making->now)
        return NB_OK;
    float now;
    NB_TRY(ni_ref_rotated_amax(to, x, making->transpose, making->noise, &now, err));
    *making->now = ni_f32_bits(now);
    return NB_OK;
}

static nb_status make_piece(const ni_making *making, const nb_mat *x, nb_error *err) {
    const nb_quantizer *q = ni_making_quantizer(making);
    int64_t cols = making->transpose ? x->rows : x->cols;
    nb_qtensor whole = ni_codes_of(making->out);
    void *memory = malloc(nb_qtensor_bytes(q, whole.rows, cols).total);
    if (!memory)
        return nb_fail(err, NB_NO_MEMORY, "make_operands: no memory for %lld columns", (long long)cols);
    nb_qtensor piece = nb_qtensor_place(q, whole.rows, cols, memory);
    nb_status status = quantize(making, &piece, x, err);
    if (status == NB_OK)
        ni_put_piece(&whole, making->at, &piece);
    free(memory);
    return status;
}

static void put_numbers(nb_backend *be, const ni_making *making, const nb_mat *x) {
    nb_operand *out = making->out;
    if (making->transpose == out->transposed) {
        ni_ref_scale(be, &out->numbers, x, NULL, NULL);
        return;
    }
    for (int64_t r = 0; r < x->rows; r++) {
        nb_mat from = *x, to = out->numbers;
        from.data = (char *)x->data + (size_t)(r * x->stride) * nb_dtype_size(x->dtype);
        from.rows = x->cols; /* one row of the source as a column */
        from.cols = from.stride = 1;
        to.data = (char *)to.data + (size_t)r * nb_dtype_size(to.dtype);
        to.cols = 1;
        ni_ref_scale(be, &to, &from, NULL, NULL);
    }
}

static nb_status make_of(nb_backend *be, const ni_source *source, const ni_making *making, const nb_mat *x,
                         nb_error *err) {
    nb_operand *out = making->out;
    if (ni_is_plain(out)) {
        put_numbers(be, making, x);
        return NB_OK;
    }
    nb_qtensor codes = ni_codes_of(out);
    if (!ni_making_is_whole(source, making))
        NB_TRY(make_piece(making, x, err));
    else {
        codes.quantizer = *ni_making_quantizer(making);
        NB_TRY(quantize(making, &codes, x, err));
    }
    out->outer = codes.tensor_scale;
    return NB_OK;
}

/* Codes that are rotated do not decode to what they were made of, so nothing is left of it without them. */
static nb_status check_sources(const ni_source *source, nb_error *err) {
    const nb_operand *from = source->minus;
    NB_TRY(ni_check_unscaled(source, err));
    if (from && from->quantizer.hadamard_size && !ni_is_plain(from))
        return nb_fail(err, NB_BAD_USAGE,
                       "make_operands: what is taken away is rotated; expected codes without Hadamard");
    return NB_OK;
}

nb_status ni_ref_make_operands(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count,
                               nb_error *err) {
    NB_TRY(check_sources(source, err));
    for (int32_t i = 0; i < count; i++) {
        const ni_making *making = &makings[i];
        nb_mat x;
        NB_TRY(ni_check_making(source, making, err));
        nb_dtype from = source->numbers ? source->numbers->dtype : NB_F32;
        NB_TRY(write_out(be, source, from == NB_F64 ? NB_F64 : NB_F32, &x, err));
        nb_status status = make_of(be, source, making, &x, err);
        free(x.data);
        NB_TRY(status);
    }
    return NB_OK;
}

nb_status ni_ref_make_produced(nb_backend *be, const ni_producer *from, const ni_produced *out, int32_t count,
                               nb_error *err) {
    return ni_compose_produced(be, from, out, count, err);
}

nb_status ni_ref_make_many(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                           nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        NB_TRY(sources[i].parts ? ni_compose_parts(be, sources[i].parts, &makings[i], err)
                                : ni_ref_make_operands(be, &sources[i], &makings[i], 1, err));
    return NB_OK;
}

nb_status ni_ref_turn(nb_backend *be, nb_operand *out, const nb_operand *from, nb_error *err) {
    nb_qtensor to = ni_codes_of(out), source = ni_codes_of(from);
    if (out->quantizer.scale_type == NB_SCALE_NONE)
        source = ni_inner_codes(&source);
    NB_TRY(ni_ref_transpose_codes(be, &to, &source, err));
    *ni_head_of(out) = (ni_operand_head){.amax = ni_head_of(from)->amax};
    out->outer = to.tensor_scale;
    return NB_OK;
}

nb_status ni_ref_turn_many(nb_backend *be, nb_operand *const *out, const nb_operand *const *from, int32_t count,
                           nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        NB_TRY(ni_ref_turn(be, out[i], from[i], err));
    return NB_OK;
}

/* ---- decoding ---- */

nb_status ni_ref_decode(nb_backend *be, const nb_mat *out, const nb_operand *from, bool transpose,
                        const ni_columns *columns, bool with_outer, nb_error *err) {
    NB_TRY(ni_check_decode(out, from, transpose, columns, err));
    if (columns) {
        nb_mat part;
        NB_TRY(new_matrix(out->dtype, from->rows, from->cols, &part, err));
        nb_status status = ni_ref_decode(be, &part, from, false, NULL, with_outer, err);
        part.cols = columns->count;
        if (status == NB_OK)
            ni_ref_scatter_columns(be, out, &part, columns->at, false);
        free(part.data);
        return status;
    }
    if (ni_is_plain(from)) {
        nb_operand to = {.numbers = *out, .transposed = transpose};
        put_numbers(be, &(ni_making){.out = &to, .transpose = from->transposed}, &from->numbers);
        return NB_OK;
    }
    nb_qtensor codes = ni_codes_of(from);
    if (!with_outer)
        codes = ni_inner_codes(&codes);
    return ni_ref_dequantize(be, out, &codes, transpose, with_outer, err);
}

nb_status ni_ref_decode_columns(nb_backend *be, const nb_mat *out, const nb_operand *const *from,
                                const ni_columns *columns, int32_t count, nb_error *err) {
    return ni_compose_decode_columns(be, out, from, columns, count, err);
}

nb_status ni_ref_canonical(nb_backend *be, const nb_qtensor *out, const nb_operand *from, nb_error *err) {
    (void)be;
    NB_TRY(ni_check_canonical(out, from, err));
    nb_qtensor codes = ni_codes_of(from);
    ni_copy_codes(out, &codes);
    return NB_OK;
}

nb_status ni_ref_take_codes(nb_backend *be, nb_operand *out, const nb_qtensor *from, nb_error *err) {
    (void)be;
    NB_TRY(ni_check_canonical(from, out, err));
    nb_qtensor codes = ni_codes_of(out);
    ni_copy_codes(&codes, from);
    *ni_head_of(out) = (ni_operand_head){.amax = NAN};
    out->outer = codes.tensor_scale;
    return NB_OK;
}

/* ---- products ---- */

/* As plain numbers: what has codes is decoded and rounded to BF16, but for the one scale of a tensor. */
static nb_status as_numbers(nb_backend *be, const nb_operand *o, nb_mat *out, void **memory, nb_error *err) {
    const bool with_outer = !ni_scale_beside_numbers(o);
    *memory = NULL;
    *out = o->numbers;
    if (ni_is_plain(o))
        return NB_OK;
    NB_TRY(new_matrix(NB_BF16, o->rows, o->cols, out, err));
    *memory = out->data;
    return ni_ref_decode(be, out, o, false, NULL, with_outer, err);
}

/* C = (accumulate ? C : 0) + scale * sum, rounded once to C's type. */
static void add_scaled(const nb_mat *c, const nb_mat *sum, float scale, bool accumulate) {
    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t i = 0; i < c->cols; i++) {
            const float x = scale * ((const float *)sum->data)[r * sum->stride + i];
            const int64_t at = r * c->stride + i;
            if (c->dtype == NB_F32) {
                float *to = (float *)c->data + at;
                *to = accumulate ? *to + x : x;
            } else {
                uint16_t *to = (uint16_t *)c->data + at;
                *to = ni_bf16_even(accumulate ? ni_bf16_value(*to) + x : x);
            }
        }
}

static nb_status plain_product(nb_backend *be, const nb_mat *c, const nb_operand *a, const nb_operand *b,
                               bool accumulate, nb_error *err) {
    const float *const scale = ni_scale_beside_numbers(ni_is_plain(a) ? b : a);
    nb_mat x, y, sum = *c;
    void *own_x, *own_y = NULL;
    nb_status status = as_numbers(be, a, &x, &own_x, err);
    if (status == NB_OK)
        status = as_numbers(be, b, &y, &own_y, err);
    if (status == NB_OK && scale)
        status = new_matrix(NB_F32, c->rows, c->cols, &sum, err);
    if (status == NB_OK)
        status = ni_ref_gemm(be, &sum, &x, ni_is_plain(a) && a->transposed, &y, !ni_is_plain(b) || !b->transposed,
                             accumulate && !scale, err);
    if (status == NB_OK && scale)
        add_scaled(c, &sum, *scale, accumulate);
    if (sum.data != c->data)
        free(sum.data);
    free(own_x);
    free(own_y);
    return status;
}

static nb_status product(nb_backend *be, const nb_mat *c, const nb_operand *a, const nb_operand *b, bool accumulate,
                         nb_error *err) {
    if (!ni_ref_product_kernel(be, &a->quantizer, &b->quantizer))
        return plain_product(be, c, a, b, accumulate, err);
    nb_qtensor x = ni_codes_of(a), y = ni_codes_of(b);
    return ni_ref_gemm_q(be, c, &x, &y, accumulate, err);
}

/* C (+)= factor * product, into the columns that the term names. C in real. */
static nb_status add_part(nb_backend *be, const nb_mat *c, const ni_term *t, float factor, bool accumulate,
                          nb_error *err) {
    nb_mat part;
    NB_TRY(new_matrix(c->dtype, c->rows, t->b->rows, &part, err));
    nb_status status = product(be, &part, t->a, t->b, false, err);
    for (int64_t r = 0; r < c->rows && !accumulate && status == NB_OK; r++)
        memset((char *)c->data + (size_t)(r * c->stride) * nb_dtype_size(c->dtype), 0,
               (size_t)c->cols * nb_dtype_size(c->dtype));
    for (int64_t r = 0; r < c->rows && status == NB_OK; r++)
        for (int64_t i = 0; i < part.cols; i++) {
            float *to = (float *)c->data + r * c->stride + (t->columns ? t->columns[i] : i);
            *to += factor * ((const float *)part.data)[r * part.cols + i];
        }
    free(part.data);
    return status;
}

static nb_status add_sparse(nb_backend *be, const nb_mat *c, const ni_term *t, nb_error *err) {
    nb_mat w;
    NB_TRY(new_matrix(NB_BF16, t->b->cols, t->b->rows, &w, err));
    nb_status status = ni_ref_decode(be, &w, t->b, true, NULL, true, err);
    if (status == NB_OK)
        ni_ref_sparse_product(c, t->sparse, &w);
    free(w.data);
    return status;
}

static nb_status add_term(nb_backend *be, const nb_mat *c, const ni_term *t, bool accumulate, nb_error *err) {
    if (ni_term_is_simple(t))
        return product(be, c, t->a, t->b, accumulate, err);
    if (!t->a && !accumulate)
        return ni_fail_first_term(err);
    if (t->outer)
        for (int64_t r = 0; r < c->rows; r++)
            ni_add_outer_row((float *)c->data + r * c->stride, c->cols, t->outer, r);
    if (!t->a)
        return t->outer ? NB_OK : add_sparse(be, c, t, err);
    float a = t->a->factor ? *t->a->factor : 1, b = t->b->factor ? *t->b->factor : 1;
    return add_part(be, c, t, a * b, accumulate, err);
}

nb_status ni_ref_multiply(nb_backend *be, const nb_mat *c, const ni_term *terms, int32_t count, bool accumulate,
                          nb_error *err) {
    NB_TRY(ni_check_terms(c, terms, count, err));
    bool in_place = c->dtype != NB_BF16 || (count == 1 && ni_term_is_simple(terms));
    nb_mat sum = *c;
    if (!in_place) {
        NB_TRY(new_matrix(NB_F32, c->rows, c->cols, &sum, err));
        if (accumulate)
            ni_ref_scale(be, &sum, c, NULL, NULL);
    }
    nb_status status = NB_OK;
    for (int32_t i = 0; i < count && status == NB_OK; i++)
        status = add_term(be, &sum, &terms[i], accumulate || i > 0, err);
    if (!in_place) {
        if (status == NB_OK)
            ni_ref_scale(be, c, &sum, NULL, NULL);
        free(sum.data);
    }
    return status;
}
