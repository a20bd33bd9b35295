/* operand.c: operands on the CPU: canonical codes, and behind them, for the right side of a product, what the product
 * reads of it: packed panels, or numbers in BF16 where codes are decoded. Those are made by the first product after the
 * codes and stay until the codes change.
 *
 * A source that is not read as it lies is written out once: some columns in the type that they have, the rest (a
 * residual, folded scales) in FP32, a row at a time.
 */
#include "backend/cpu/operand.h"

#include "backend/cpu/gemm.h"
#include "backend/cpu/ops_kernels.h"
#include "backend/cpu/packed.h"
#include "backend/cpu/quantize_kernels.h"

#include <omp.h>
#include <string.h>

/* ---- what stands behind the codes ---- */

ni_form ni_form_of(const nb_quantizer *a, const nb_operand *b) {
    if (ni_is_plain(b))
        return NI_FORM_NONE;
    if (nb_quantizer_is_bf16(a))
        return ni_scale_beside_numbers(b) ? NI_FORM_INNER : NI_FORM_NUMBERS;
    return ni_is_packed(ni_product_of(a, &b->quantizer)) ? NI_FORM_PANELS : NI_FORM_INNER;
}

static size_t form_bytes(nb_backend *be, const nb_operand *o) {
    if (o->side != NI_RIGHT || ni_is_plain(o))
        return 0;
    if (ni_form_of(&o->other, o) == NI_FORM_PANELS)
        return ni_cpu_panel_bytes(be, o->rows, o->cols);
    return (size_t)(o->rows * o->cols) * sizeof(uint16_t);
}

size_t ni_cpu_operand_bytes(nb_backend *be, const nb_operand *operand) {
    return ni_canonical_bytes(operand) + form_bytes(be, operand);
}

static nb_status make_form(nb_backend *be, const nb_operand *o, ni_form form, void *memory, nb_error *err) {
    nb_qtensor codes = ni_codes_of(o);
    nb_mat numbers = nb_mat_of(memory, NB_BF16, o->rows, o->cols);
    if (form == NI_FORM_PANELS)
        ni_cpu_pack_panels(be, memory, &codes, o->other.element);
    else if (form == NI_FORM_INNER)
        NB_TRY(ni_cpu_decode_inner(be, &numbers, &codes, err));
    else
        NB_TRY(ni_cpu_dequantize(be, &numbers, &codes, false, true, err));
    return NB_OK;
}

nb_status ni_right_form(nb_backend *be, const nb_quantizer *a, const nb_operand *b, const void **memory,
                        nb_error *err) {
    ni_form form = ni_form_of(a, b);
    *memory = NULL;
    if (b->side != NI_RIGHT || ni_is_plain(b) || ni_form_of(&b->other, b) != form ||
        (form == NI_FORM_PANELS && a->element != b->other.element))
        return NB_OK; /* it was made for another product */
    char *behind = (char *)b->memory + ni_canonical_bytes(b);
    if (ni_head_of(b)->form != (int32_t)form)
        NB_TRY(make_form(be, b, form, behind, err));
    ni_head_of(b)->form = (int32_t)form;
    *memory = behind;
    return NB_OK;
}

/* ---- sources ---- */

/* One row of a source on its way: all of its numbers, then those that are asked for. */
typedef struct reader {
    const ni_source *source;
    nb_qtensor from, minus;
    const float *row, *col;
    const ni_quantize_kernels *kernels;
    const ni_cpu_kernels *ops;
    int64_t width;
} reader;

static void decode_row(const reader *rd, const nb_qtensor *t, int64_t r, float *x) {
    enum { SPAN = 128 };
    for (int64_t c = 0; c < rd->width; c += SPAN)
        rd->kernels->decode(t, r, c, c + SPAN < rd->width ? c + SPAN : rd->width, true, x + c);
}

/* Numbers [0, n) of a row in FP32, or those of the columns. `held` has room for n of them. */
static void load_row(const reader *rd, int64_t r, float *x, int64_t n, void *held) {
    const nb_mat *m = rd->source->numbers;
    const int32_t *columns = rd->source->columns;
    const void *from = (const char *)m->data + (size_t)(r * m->stride) * nb_dtype_size(m->dtype);
    bool bf16 = m->dtype == NB_BF16;
    if (columns) {
        ni_gather_row(bf16 ? held : x, from, m->dtype, columns, n);
        from = held;
    }
    if (bf16)
        rd->ops->to_f32(x, from, n);
    else if (!columns)
        memcpy(x, from, (size_t)n * sizeof *x);
}

/* Row r as FP32. Of a residual only the columns that are asked for are subtracted. */
static void read_row(const reader *rd, int64_t r, float *to, int64_t n, float *held, float *picked) {
    const ni_source *s = rd->source;
    if (s->numbers) {
        load_row(rd, r, to, n, held);
    } else {
        decode_row(rd, &rd->from, r, s->columns ? held : to);
        if (s->columns)
            ni_gather_row(to, held, NB_F32, s->columns, n);
    }
    if (s->minus) {
        decode_row(rd, &rd->minus, r, held);
        if (s->columns)
            ni_gather_row(picked, held, NB_F32, s->columns, n);
        rd->ops->axpy(to, -1, s->columns ? picked : held, n);
    }
    if (rd->row || rd->col)
        rd->ops->scale(to, false, to, false, rd->row ? rd->row[r] : 1, rd->col, n);
}

static nb_status open_reader(nb_backend *be, const ni_source *source, reader *rd, nb_error *err) {
    *rd = (reader){.source = source, .kernels = ni_quantize_kernels_of(be), .ops = ni_cpu_kernels_of(be)};
    if (source->operand) {
        rd->from = ni_codes_of(source->operand);
        rd->width = source->operand->cols;
    }
    if (source->numbers)
        rd->width = source->numbers->cols;
    if (source->minus)
        rd->minus = ni_codes_of(source->minus);
    if (source->row_scales)
        NB_TRY(ni_row_scales_of(source->row_scales, &rd->row, err));
    if (source->column_scales)
        NB_TRY(ni_row_scales_of(source->column_scales, &rd->col, err));
    return NB_OK;
}

/* Columns and nothing else: they stay in the type that they have. */
static bool only_columns(const ni_source *s) {
    return s->numbers && s->columns && !s->minus && !s->row_scales && !s->column_scales;
}

static nb_status write_out(nb_backend *be, const ni_source *source, nb_mat *out, nb_error *err) {
    int64_t rows, cols;
    reader rd;
    nb_dtype type = only_columns(source) ? source->numbers->dtype : NB_F32;
    ni_source_shape(source, &rows, &cols);
    NB_TRY(open_reader(be, source, &rd, err));
    float *memory = ni_cpu_room_of(be, NI_ROOM_SOURCE, (size_t)(rows * cols) * nb_dtype_size(type));
    const int64_t longest = (rd.width > cols ? rd.width : cols) + 16;
    bool failed = !memory;
    *out = nb_mat_of(memory, type, rows, cols);
    if (memory && only_columns(source)) {
        nb_mat chosen = *out;
        chosen.cols = source->column_count;
        if (source->zeros)
            memset(memory, 0, (size_t)(rows * cols) * nb_dtype_size(type));
        ni_cpu_gather_columns(be, &chosen, source->numbers, source->columns);
        return NB_OK;
    }
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static) reduction(|| : failed)
    for (int64_t r = 0; r < rows; r++) {
        float *room = ni_cpu_scratch(be, omp_get_thread_num(), 2 * (size_t)longest * sizeof(float));
        if (room && memory)
            read_row(&rd, r, memory + r * cols, cols, room, room + longest);
        else
            failed = true;
    }
    return failed ? nb_fail(err, NB_NO_MEMORY, "make_operands: no memory for a source of %lld x %lld", (long long)rows,
                            (long long)cols)
                  : NB_OK;
}

/* ---- making ---- */

/* `numbers` as they lie or written out, or codes to be quantized again. */
typedef struct ready_source {
    const nb_mat *numbers;
    const nb_operand *operand;
    nb_mat written;
} ready_source;

static nb_status get_ready(nb_backend *be, const ni_source *source, ready_source *out, nb_error *err) {
    *out = (ready_source){source->numbers, source->operand, {0}};
    if (ni_source_is_simple(source))
        return NB_OK;
    NB_TRY(write_out(be, source, &out->written, err));
    out->numbers = &out->written;
    out->operand = NULL;
    return NB_OK;
}

/* The largest magnitude of the numbers as they lie decides the tensor's scale. */
static bool measures(const nb_quantizer *q) {
    return q->scale_type == NB_SCALE_E4M3 && q->outer == NB_OUTER_TENSOR && !q->hadamard_size;
}

static nb_status quantize(nb_backend *be, const ni_making *making, const nb_qtensor *to, const ready_source *from,
                          nb_error *err) {
    ni_operand_head *head = ni_head_of(making->out);
    head->form = NI_FORM_NONE;
    if (from->operand) {
        nb_qtensor codes = ni_codes_of(from->operand);
        return ni_cpu_requantize(be, to, &codes, making->transpose, making->noise, making->stats, err);
    }
    bool known = making->past || making->now || making->under || measures(&to->quantizer);
    float amax = making->under ? ni_head_of(making->under)->amax : 0;
    if (making->now || (known && !making->under && !making->past))
        amax = ni_cpu_rotated_amax(be, to, from->numbers, making->transpose, making->noise);
    if (making->now)
        *making->now = ni_f32_bits(amax);
    if (making->past)
        amax = ni_delayed_amax(*making->past, making->headroom);
    if (making->at == 0)
        head->amax = amax;
    return ni_cpu_quantize_under(be, to, from->numbers, making->transpose, making->noise, known ? &amax : NULL,
                                 making->stats, err);
}

static nb_status make_piece(nb_backend *be, const ni_making *making, int64_t cols, const ready_source *from,
                            nb_error *err) {
    const nb_quantizer *q = ni_making_quantizer(making);
    nb_qtensor whole = ni_codes_of(making->out);
    void *memory = ni_cpu_room_of(be, NI_ROOM_PIECE, nb_qtensor_bytes(q, whole.rows, cols).total);
    if (!memory)
        return nb_fail(err, NB_NO_MEMORY, "make_operands: no memory for %lld columns", (long long)cols);
    nb_qtensor piece = nb_qtensor_place(q, whole.rows, cols, memory);
    NB_TRY(quantize(be, making, &piece, from, err));
    ni_put_piece(&whole, making->at, &piece);
    return NB_OK;
}

/* Numbers, where out->numbers is; or what codes decode to. */
static nb_status put_numbers(nb_backend *be, const ni_making *making, const ready_source *from, nb_error *err) {
    nb_operand *out = making->out;
    bool turn = making->transpose != out->transposed;
    if (from->operand) {
        nb_qtensor codes = ni_codes_of(from->operand);
        return ni_cpu_dequantize(be, &out->numbers, &codes, turn, true, err);
    }
    if (!turn) {
        ni_cpu_scale(be, &out->numbers, from->numbers, NULL, NULL);
        return NB_OK;
    }
    const ni_source source = {.numbers = from->numbers};
    return ni_ref_make_operands(be, &source, making, 1, err);
}

nb_status ni_cpu_make_operands(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count,
                               nb_error *err) {
    ready_source from;
    NB_TRY(ni_check_unscaled(source, err));
    for (int32_t i = 0; i < count; i++)
        NB_TRY(ni_check_making(source, &makings[i], err));
    NB_TRY(get_ready(be, source, &from, err));
    for (int32_t i = 0; i < count; i++) {
        const ni_making *making = &makings[i];
        if (ni_is_plain(making->out)) {
            NB_TRY(put_numbers(be, making, &from, err));
            continue;
        }
        nb_qtensor codes = ni_codes_of(making->out);
        codes.quantizer = *ni_making_quantizer(making);
        NB_TRY(ni_making_is_whole(source, making)
                   ? quantize(be, making, &codes, &from, err)
                   : make_piece(be, making, ni_making_columns(source, making), &from, err));
        making->out->outer = codes.tensor_scale;
    }
    return NB_OK;
}

nb_status ni_cpu_make_produced(nb_backend *be, const ni_producer *from, const ni_produced *out, int32_t count,
                               nb_error *err) {
    return ni_compose_produced(be, from, out, count, err);
}

nb_status ni_cpu_make_many(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                           nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        NB_TRY(sources[i].parts ? ni_compose_parts(be, sources[i].parts, &makings[i], err)
                                : ni_cpu_make_operands(be, &sources[i], &makings[i], 1, err));
    return NB_OK;
}

nb_status ni_cpu_turn(nb_backend *be, nb_operand *out, const nb_operand *from, nb_error *err) {
    nb_qtensor to = ni_codes_of(out), source = ni_codes_of(from);
    if (out->quantizer.scale_type == NB_SCALE_NONE)
        source = ni_inner_codes(&source);
    NB_TRY(ni_cpu_transpose_codes(be, &to, &source, err));
    *ni_head_of(out) = (ni_operand_head){.amax = ni_head_of(from)->amax};
    out->outer = to.tensor_scale;
    return NB_OK;
}

nb_status ni_cpu_turn_many(nb_backend *be, nb_operand *const *out, const nb_operand *const *from, int32_t count,
                           nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        NB_TRY(ni_cpu_turn(be, out[i], from[i], err));
    return NB_OK;
}

/* ---- decoding ---- */

static nb_status decode_columns(nb_backend *be, const nb_mat *out, const nb_operand *from, const ni_columns *columns,
                                bool with_outer, nb_error *err) {
    size_t bytes = (size_t)(from->rows * from->cols) * nb_dtype_size(out->dtype);
    nb_mat part = nb_mat_of(ni_cpu_room_of(be, NI_ROOM_PART, bytes), out->dtype, from->rows, from->cols);
    if (!part.data)
        return nb_fail(err, NB_NO_MEMORY, "decode: no memory for %lld x %lld numbers", (long long)from->rows,
                       (long long)from->cols);
    NB_TRY(ni_cpu_decode(be, &part, from, false, NULL, with_outer, err));
    part.cols = columns->count;
    ni_cpu_scatter_columns(be, out, &part, columns->at, false);
    return NB_OK;
}

nb_status ni_cpu_decode(nb_backend *be, const nb_mat *out, const nb_operand *from, bool transpose,
                        const ni_columns *columns, bool with_outer, nb_error *err) {
    NB_TRY(ni_check_decode(out, from, transpose, columns, err));
    if (columns)
        return decode_columns(be, out, from, columns, with_outer, err);
    if (ni_is_plain(from)) {
        if (from->transposed != transpose)
            return ni_ref_decode(be, out, from, transpose, NULL, with_outer, err);
        ni_cpu_scale(be, out, &from->numbers, NULL, NULL);
        return NB_OK;
    }
    nb_qtensor codes = ni_codes_of(from);
    if (!with_outer)
        codes = ni_inner_codes(&codes);
    return ni_cpu_dequantize(be, out, &codes, transpose, with_outer, err);
}

nb_status ni_cpu_decode_columns(nb_backend *be, const nb_mat *out, const nb_operand *const *from,
                                const ni_columns *columns, int32_t count, nb_error *err) {
    return ni_compose_decode_columns(be, out, from, columns, count, err);
}

nb_status ni_cpu_canonical(nb_backend *be, const nb_qtensor *out, const nb_operand *from, nb_error *err) {
    return ni_ref_canonical(be, out, from, err);
}

nb_status ni_cpu_take_codes(nb_backend *be, nb_operand *out, const nb_qtensor *from, nb_error *err) {
    return ni_ref_take_codes(be, out, from, err);
}
