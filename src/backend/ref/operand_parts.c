/* operand_parts.c: shapes, checks and places of operands. */
#include "backend/ref/operand_parts.h"

#include "backend/ref/quantize_parts.h"
#include "format/element.h"
#include "format/vector_scales.h"

#include <string.h>

/* ---- where codes lie ---- */

size_t ni_canonical_bytes(const nb_operand *o) {
    return ni_is_plain(o) ? 0 : NI_HEAD_BYTES + nb_qtensor_bytes(&o->quantizer, o->rows, o->cols).total;
}

nb_qtensor ni_codes_of(const nb_operand *o) {
    return nb_qtensor_place(&o->quantizer, o->rows, o->cols, (char *)o->memory + NI_HEAD_BYTES);
}

bool ni_lends_codes(const nb_operand *from, nb_qtensor *out) {
    *out = ni_codes_of(from);
    return true;
}

nb_qtensor ni_inner_codes(const nb_qtensor *t) {
    nb_qtensor inner = *t;
    nb_quantizer *q = &inner.quantizer;
    if (ni_has_row_scales(q)) {
        q->scale_type = NB_SCALE_NONE;
        q->rule = NB_RULE_ABSMAX;
        q->block_rows = NB_BLOCK_ALL;
        inner.outer_scales = NULL;
    }
    return inner;
}

const float *ni_scale_beside_numbers(const nb_operand *o) {
    return ni_has_tensor_scale(&o->quantizer) ? ni_codes_of(o).tensor_scale : NULL;
}

nb_status ni_row_scales_of(const nb_operand *o, const float **scales, nb_error *err) {
    if (!ni_has_row_scales(&o->quantizer))
        return nb_fail(err, NB_BAD_USAGE, "make_operands: an operand whose scales are to be folded has none a row");
    *scales = ni_codes_of(o).outer_scales;
    return NB_OK;
}

/* ---- sources and makings ---- */

void ni_source_shape(const ni_source *source, int64_t *rows, int64_t *cols) {
    *rows = source->numbers ? source->numbers->rows : source->operand->rows;
    *cols = source->columns   ? source->column_count + source->zeros
            : source->numbers ? source->numbers->cols
                              : source->operand->cols;
}

bool ni_source_is_simple(const ni_source *source) {
    return !source->minus && !source->columns && !source->row_scales && !source->column_scales &&
           (source->numbers || !ni_is_plain(source->operand));
}

const nb_quantizer *ni_making_quantizer(const ni_making *making) {
    return making->quantizer ? making->quantizer : &making->out->quantizer;
}

int64_t ni_making_columns(const ni_source *source, const ni_making *making) {
    int64_t rows, cols;
    ni_source_shape(source, &rows, &cols);
    return making->transpose ? rows : cols;
}

bool ni_making_is_whole(const ni_source *source, const ni_making *making) {
    return making->at == 0 && ni_making_columns(source, making) == making->out->cols;
}

bool ni_is_double(const nb_quantizer *q) {
    return q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_E4M3 && q->block_rows == 1 &&
           (q->outer == NB_OUTER_ROW128 || q->outer == NB_OUTER_ROW128_POW2) &&
           (q->round == NB_ROUND_EVEN || q->round == NB_ROUND_STOCHASTIC) &&
           (q->hadamard_size == 0 || q->hadamard_size == 16);
}

bool ni_remakes_double(const nb_operand *out, const nb_operand *from) {
    return ni_is_double(&out->quantizer) && ni_is_double(&from->quantizer) && !out->reread &&
           !nb_quantizer_is_bf16(&out->other) && from->rows > 0 && from->rows % 128 == 0 && from->cols > 0 &&
           from->cols % 128 == 0 && from->rows / 16 * from->cols <= INT32_MAX;
}

static nb_status check_piece(const ni_source *source, const ni_making *making, nb_error *err) {
    const nb_quantizer *q = ni_making_quantizer(making), *whole = &making->out->quantizer;
    nb_quantizer same = *q;
    same.block_rows = whole->block_rows;
    if (!nb_quantizer_equal(&same, whole))
        return nb_fail(err, NB_BAD_USAGE,
                       "make_operands: a piece differs from its operand in more than its blocks' "
                       "height");
    bool blocks = q->scale_type == NB_SCALE_E4M3 && q->outer == NB_OUTER_TENSOR && whole->block_rows == 1 &&
                  !q->hadamard_size && q->round != NB_ROUND_STOCHASTIC;
    if (blocks && making->at % 16 == 0 && (making->at == 0 || making->under) &&
        making->at + ni_making_columns(source, making) <= making->out->cols)
        return NB_OK;
    return nb_fail(err, NB_BAD_USAGE,
                   "make_operands: a piece at column %lld of %lld; expected whole blocks of nvfp4 1x16, not rotated, "
                   "rounded to nearest, those beyond column 0 under a given scale",
                   (long long)making->at, (long long)making->out->cols);
}

static nb_status check_delayed(const ni_source *source, const ni_making *making, nb_error *err) {
    const nb_quantizer *q = ni_making_quantizer(making);
    if (ni_making_is_whole(source, making) && !making->under && source->numbers && ni_source_is_simple(source) &&
        q->scale_type == NB_SCALE_E4M3 && q->outer == NB_OUTER_TENSOR)
        return NB_OK;
    return nb_fail(
        err, NB_BAD_USAGE,
        "make_operands: a delayed scale of what has none; expected numbers as they lie and a whole operand of "
        "nvfp4 under a scale of the tensor");
}

/* Kernels take numbers that are not in the one type for the other. A scale is asked for apart (ni_check_unscaled). */
static nb_status check_type(const ni_source *source, const nb_operand *out, nb_error *err) {
    const nb_dtype type = source->numbers ? source->numbers->dtype : NB_F32;
    if (type == NB_F32 || type == NB_BF16 || (type == NB_F64 && ni_is_plain(out)) || (type == NB_F16 && source->scale))
        return NB_OK;
    return nb_fail(err, NB_BAD_USAGE, "make_operands: source is %s, expected f32 or bf16", nb_dtype_name(type));
}

nb_status ni_check_unscaled(const ni_source *source, nb_error *err) {
    if (!source->scale)
        return NB_OK;
    return nb_fail(err, NB_BAD_USAGE,
                   "make_operands: numbers under a scale, expected by make_many alone, and of what takes_kept says");
}

nb_status ni_check_making(const ni_source *source, const ni_making *making, nb_error *err) {
    const nb_operand *out = making->out;
    int64_t rows, cols;
    if (!source->numbers == !source->operand || source->parts)
        return nb_fail(err, NB_BAD_USAGE,
                       "make_operands: expected one source, numbers or an operand (parts: by make_many alone)");
    NB_TRY(check_type(source, out, err));
    if (source->zeros && (!source->columns || !source->numbers || source->minus || source->row_scales ||
                          source->column_scales || source->zeros < 0))
        return nb_fail(err, NB_BAD_USAGE, "make_operands: zeros fill up a list of columns of numbers alone");
    ni_source_shape(source, &rows, &cols);
    int64_t out_rows = making->transpose ? cols : rows, out_cols = making->transpose ? rows : cols;
    const nb_operand *minus = source->minus;
    int64_t width = source->numbers ? source->numbers->cols : source->operand->cols;
    if (minus && (!source->numbers || ni_is_plain(minus) || minus->rows != rows || minus->cols < width))
        return nb_fail(err, NB_BAD_USAGE, "make_operands: a residual needs numbers and codes of their shape");
    if ((source->row_scales && source->row_scales->rows != rows) ||
        (source->column_scales && source->column_scales->rows != cols))
        return nb_fail(err, NB_BAD_USAGE, "make_operands: folded scales do not fit a source of %lld x %lld",
                       (long long)rows, (long long)cols);
    if (out->rows != out_rows || (out->cols != out_cols && (ni_is_plain(out) || out->cols < out_cols)))
        return nb_fail(err, NB_BAD_USAGE, "make_operands: source %lld x %lld%s does not fit operand %lld x %lld",
                       (long long)rows, (long long)cols, making->transpose ? " transposed" : "", (long long)out->rows,
                       (long long)out->cols);
    if (ni_is_plain(out) ? !out->numbers.data : !out->memory)
        return nb_fail(err, NB_BAD_USAGE, "make_operands: an operand of %lld x %lld has no memory",
                       (long long)out->rows, (long long)out->cols);
    if (making->past || making->now)
        return check_delayed(source, making, err);
    return ni_is_plain(out) || (ni_making_is_whole(source, making) && !making->under)
               ? NB_OK
               : check_piece(source, making, err);
}

/* ---- decoding, converting ---- */

nb_status ni_check_decode(const nb_mat *out, const nb_operand *from, bool transpose, const ni_columns *columns,
                          nb_error *err) {
    int64_t rows = transpose ? from->cols : from->rows, cols = transpose ? from->rows : from->cols;
    const bool fits = columns ? columns->count <= cols && columns->count <= out->cols : out->cols == cols;
    if (out->rows != rows || !fits || !out->data)
        return nb_fail(err, NB_BAD_USAGE, "decode: operand %lld x %lld does not fit %lld x %lld", (long long)rows,
                       (long long)cols, (long long)out->rows, (long long)out->cols);
    if (columns && transpose)
        return nb_fail(err, NB_UNSUPPORTED, "decode: columns of a transposed operand");
    return NB_OK;
}

nb_status ni_check_canonical(const nb_qtensor *out, const nb_operand *from, nb_error *err) {
    if (ni_is_plain(from))
        return nb_fail(err, NB_BAD_USAGE, "canonical: plain numbers have no codes");
    if (out->rows != from->rows || out->cols != from->cols || !nb_quantizer_equal(&out->quantizer, &from->quantizer))
        return nb_fail(err, NB_BAD_USAGE, "canonical: expected the operand's own quantizer and shape, %lld x %lld",
                       (long long)from->rows, (long long)from->cols);
    return NB_OK;
}

void ni_copy_codes(const nb_qtensor *out, const nb_qtensor *from) {
    nb_qtensor_size size = nb_qtensor_bytes(&from->quantizer, from->rows, from->cols);
    const void *parts[] = {from->codes, from->scales, from->outer_scales, from->tensor_scale};
    void *to[] = {out->codes, out->scales, out->outer_scales, out->tensor_scale};
    size_t bytes[] = {size.codes, size.scales, size.outer_scales, size.tensor_scale};
    for (int i = 0; i < 4; i++)
        if (bytes[i])
            memcpy(to[i], parts[i], bytes[i]);
}

void ni_put_piece(const nb_qtensor *out, int64_t at, const nb_qtensor *piece) {
    for (int64_t r = 0; r < piece->rows; r++) {
        memcpy(out->codes + (r * out->cols + at) / 2, piece->codes + r * piece->cols / 2, (size_t)piece->cols / 2);
        memcpy(out->scales + (r * out->cols + at) / 16, piece->scales + r * piece->cols / 16, (size_t)piece->cols / 16);
    }
    if (at == 0)
        *out->tensor_scale = *piece->tensor_scale;
}

/* ---- terms ---- */

nb_status ni_fail_first_term(nb_error *err) {
    return nb_fail(err, NB_BAD_USAGE,
                   "multiply: a sparse term, or one of outer products, is added to others; it cannot "
                   "be the first");
}

void ni_add_outer_row(float *row, int64_t cols, const ni_outer *outer, int64_t r) {
    for (int32_t i = 0; i < outer->count; i++) {
        const float left = outer->left[i] ? outer->left[i][r] : 1, *right = outer->right[i];
        for (int64_t c = 0; c < cols; c++)
            row[c] += left * right[c];
    }
}

static nb_status check_outer(const nb_mat *c, const ni_term *t, nb_error *err) {
    if (t->a || t->b || t->sparse || t->columns || c->dtype == NB_F64)
        return nb_fail(err, NB_BAD_USAGE,
                       "multiply: a term of outer products has neither A nor B nor columns, and C is "
                       "F32 or BF16");
    if (t->outer->count < 1 || t->outer->count > NI_OUTER_PRODUCTS)
        return nb_fail(err, NB_BAD_USAGE, "multiply: a term of %d outer products; expected 1 to %d", t->outer->count,
                       NI_OUTER_PRODUCTS);
    return NB_OK;
}

static nb_status check_term(const nb_mat *c, const ni_term *t, nb_error *err) {
    if (t->outer)
        return check_outer(c, t, err);
    const nb_operand *a = t->a, *b = t->b;
    int64_t rows = a ? a->rows : t->sparse ? c->rows : -1, depth = a ? a->cols : t->sparse ? t->sparse->cols : -1;
    if (!b || rows != c->rows || depth != b->cols || (t->columns ? b->rows > c->cols : b->rows != c->cols))
        return nb_fail(err, NB_BAD_USAGE,
                       "multiply: A [%lld, %lld] times B [%lld, %lld]^T does not give C [%lld, %lld]", (long long)rows,
                       (long long)depth, (long long)(b ? b->rows : 0), (long long)(b ? b->cols : 0), (long long)c->rows,
                       (long long)c->cols);
    if (!a && t->sparse && (t->sparse->rows < c->rows || t->columns))
        return nb_fail(err, NB_BAD_USAGE, "multiply: a sparse term of %lld rows for %lld, or with columns",
                       (long long)t->sparse->rows, (long long)c->rows);
    return NB_OK;
}

bool ni_term_is_simple(const ni_term *t) {
    return t->a && !t->columns && !t->a->factor && !t->b->factor;
}

nb_status ni_check_terms(const nb_mat *c, const ni_term *terms, int32_t count, nb_error *err) {
    if (count < 1)
        return nb_fail(err, NB_BAD_USAGE, "multiply: a sum of %d terms; expected at least one", count);
    for (int32_t i = 0; i < count; i++)
        NB_TRY(check_term(c, &terms[i], err));
    return NB_OK;
}
