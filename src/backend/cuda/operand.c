/* operand.c: operands on a GPU of any source and format: in four stages (quantize.h) but for what can be made at once
 * (operand_once.c); turning, decoding.
 */
#include "backend/cuda/operand.h"
#include "backend/cuda/alphas.h"
#include "backend/cuda/coded.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/list.h"
#include "backend/cuda/rows.h"
#include "backend/ref/operand_parts.h"
#include "backend/ref/quantize_parts.h"
#include "format/vector_scales.h"

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

/* ---- sources ---- */

static nb_status open_source(const ni_source *source, ni_cuda_source *out, nb_error *err) {
    *out = (ni_cuda_source){.columns = source->columns, .zeros = source->zeros};
    ni_source_shape(source, &out->rows, &out->cols);
    if (source->numbers) {
        out->numbers = *source->numbers;
    } else if (ni_is_plain(source->operand)) {
        out->numbers = source->operand->numbers;
        out->across = source->operand->transposed;
    } else {
        out->codes = ni_codes_of(source->operand);
    }
    if (source->minus)
        out->minus = ni_codes_of(source->minus);
    if (source->row_scales)
        NB_TRY(ni_row_scales_of(source->row_scales, &out->row_scales, err));
    if (source->column_scales)
        NB_TRY(ni_row_scales_of(source->column_scales, &out->column_scales, err));
    return NB_OK;
}

/* Codes that are rotated do not decode to what they were made of, so nothing is left of it without them. */
nb_status ni_cuda_check_source(const ni_source *source, nb_error *err) {
    const nb_operand *from = source->minus;
    NB_TRY(ni_check_unscaled(source, err));
    if (from && from->quantizer.hadamard_size && !ni_is_plain(from))
        return nb_fail(err, NB_BAD_USAGE,
                       "make_operands: what is taken away is rotated; expected codes without Hadamard");
    NB_TRY(ni_cuda_check_coded(source->numbers ? NULL : source->operand, "make_operands", err));
    return ni_cuda_check_coded(from, "make_operands", err);
}

/* ---- making ---- */

/* Scratch of one making: the source in FP32, maxima of rows or columns, what was counted. */
typedef struct room {
    float *x;
    uint32_t *amaxes;
    nb_quantize_stats *chunks;
} room;

static int64_t chunk_count(int64_t rows) {
    return (rows + NI_STATS_ROWS - 1) / NI_STATS_ROWS;
}

static bool take_room(nb_backend *be, int64_t rows, int64_t cols, room *out) {
    const size_t x = ni_cuda_rounded((size_t)(rows * cols) * sizeof(float));
    const size_t amaxes = ni_cuda_rounded((size_t)(rows + cols) * sizeof(uint32_t));
    char *memory =
        ni_cuda_scratch(be, x + amaxes + (size_t)chunk_count(rows) * sizeof(nb_quantize_stats), "make_operands");
    if (!memory)
        return false;
    *out = (room){(float *)(void *)memory, (uint32_t *)(void *)(memory + x),
                  (nb_quantize_stats *)(void *)(memory + x + amaxes)};
    return true;
}

/* Of the step before; what was found is left for the step after it. */
static int find_delayed(nb_backend *be, const ni_making *making, const room *r, int64_t n) {
    uint32_t *head = (uint32_t *)making->out->memory;
    int code = cudaSuccess;
    if (making->now) {
        ni_cuda_fill_zero(be, making->now, sizeof *making->now);
        code = ni_cuda_amax(stream_of(be), making->now, r->x, n);
        ni_cuda_copy(be, head, making->now, sizeof *head);
    }
    return code || !making->past ? code : ni_cuda_delayed_amax(stream_of(be), head, making->past, making->headroom);
}

/* Where the maximum for the outer scale comes from: the operand's head, into which it is put first. */
static int find_amax(nb_backend *be, const ni_source *source, const ni_making *making, const nb_quantizer *q,
                     const room *r, int64_t n, uint32_t **amax) {
    uint32_t *head = (uint32_t *)making->out->memory;
    *amax = r->amaxes;
    if (q->scale_type == NB_SCALE_F32) {
        ni_cuda_fill_zero(be, r->amaxes, (size_t)(making->out->rows + making->out->cols) * sizeof(uint32_t));
        bool whole = q->block_rows != 1 && q->block_cols != 1;
        return whole ? ni_cuda_amax(stream_of(be), r->amaxes, r->x, n) : cudaSuccess;
    }
    *amax = ni_cuda_has_tensor_outer(q) ? head : NULL;
    if (*amax && making->under && making->under != making->out)
        ni_cuda_copy(be, head, making->under->memory, sizeof *head);
    if (!*amax || making->under)
        return cudaSuccess;
    if (making->past || making->now)
        return find_delayed(be, making, r, n);
    if (source->numbers && source->numbers->amax && ni_source_is_simple(source) && q->hadamard_size == 0) {
        ni_cuda_copy(be, head, source->numbers->amax, sizeof *head);
        return cudaSuccess;
    }
    ni_cuda_fill_zero(be, head, sizeof *head);
    return ni_cuda_amax(stream_of(be), head, r->x, n);
}

static nb_status quantize(nb_backend *be, const ni_source *source, const ni_cuda_source *from, const ni_making *making,
                          nb_error *err) {
    nb_operand *out = making->out;
    const nb_quantizer *q = ni_making_quantizer(making);
    out->form = ni_cuda_goes_as_pow2(be, out) ? NI_CUDA_POW2 : 0;
    const bool filled = ni_cuda_is_whole_valued(out) || out->form;
    const int64_t rows = making->transpose ? from->cols : from->rows,
                  cols = making->transpose ? from->rows : from->cols;
    nb_qtensor codes = ni_codes_of(out);
    room r;
    if (!take_room(be, rows, cols, &r))
        return ni_cuda_status(be, 0, "make_operands", err);
    const ni_cuda_noise noise = ni_cuda_noise_of(making->noise);
    ni_cuda_encoding e = {.x = r.x,
                          .rows = rows,
                          .cols = cols,
                          .quantizer = *q,
                          .out = codes,
                          .at = making->at,
                          .values = filled ? NULL : ni_cuda_values_of(out),
                          .value_stride = out->cols,
                          .noise = noise};
    int code = ni_cuda_load_source(stream_of(be), r.x, from, making->transpose);
    ni_cuda_mark(be, "make_operands: load");
    if (!code)
        code = ni_cuda_rotate(stream_of(be), r.x, rows, cols, q, &noise);
    if (!code)
        code = find_amax(be, source, making, q, &r, rows * cols, &e.amax);
    ni_cuda_mark(be, "make_operands: rotate and amax");
    if (!code)
        code = ni_cuda_encode(stream_of(be), &e);
    out->outer = codes.tensor_scale;
    NB_TRY(ni_cuda_status(be, code, "make_operands", err));
    codes.quantizer = *q;
    if (making->stats)
        NB_TRY(ni_cuda_status(
            be, ni_cuda_quantize_stats(stream_of(be), making->stats, r.chunks, &codes, ni_stats_blocks(&codes), r.x),
            "make_operands", err));
    return filled ? ni_cuda_fill_values(be, out, err) : NB_OK;
}

/* Four bits under scales of rows, as they lie. */
static bool are_rows_decoded(const nb_qtensor *codes, const nb_mat *out, nb_element element) {
    const nb_quantizer *q = &codes->quantizer;
    return q->element == element && ni_has_row_scales(q) && out->dtype == NB_BF16 && codes->cols % 8 == 0 &&
           out->stride % 8 == 0 && (uintptr_t)out->data % 16 == 0 && codes->rows * codes->cols <= INT32_MAX;
}

/* A matrix, as numbers of another type or the other way up. */
static nb_status put_numbers(nb_backend *be, const nb_mat *to, const ni_cuda_source *from, bool turn, nb_error *err) {
    const bool simple = !from->columns && !from->row_scales && !from->column_scales && !from->minus.codes;
    if (!turn && simple && !from->numbers.data && are_rows_decoded(&from->codes, to, NB_ELEMENT_E2M1))
        return ni_cuda_status(be, ni_cuda_decode_rows(stream_of(be), to, &from->codes, 1), "numbers of codes", err);
    const int64_t rows = turn ? from->cols : from->rows, cols = turn ? from->rows : from->cols;
    room r;
    if (!take_room(be, rows, cols, &r))
        return ni_cuda_status(be, 0, "numbers", err);
    const nb_mat x = nb_mat_of(r.x, NB_F32, rows, cols);
    int code = ni_cuda_load_source(stream_of(be), r.x, from, turn);
    if (!code)
        code = ni_cuda_launch_scale(stream_of(be), to, &x, NULL, NULL);
    return ni_cuda_status(be, code, "numbers", err);
}

nb_status ni_cuda_make_operands(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count,
                                nb_error *err) {
    enum { MOST = 4 };
    ni_cuda_source from;
    ni_cuda_made done[MOST] = {NI_CUDA_NOT_MADE};
    NB_TRY(ni_cuda_check_source(source, err));
    for (int32_t i = 0; i < count; i++)
        NB_TRY(ni_check_making(source, &makings[i], err));
    NB_TRY(open_source(source, &from, err));
    if (count <= MOST)
        NB_TRY(ni_cuda_make_at_once(be, source, makings, count, done, err));
    for (int32_t i = 0; i < count; i++) {
        const ni_making *making = &makings[i];
        if (i < MOST && done[i])
            continue;
        NB_TRY(ni_is_plain(making->out)
                   ? put_numbers(be, &making->out->numbers, &from, making->transpose != making->out->transposed, err)
                   : quantize(be, source, &from, making, err));
    }
    for (int32_t i = 0; i < count; i++)
        if ((i >= MOST || done[i] != NI_CUDA_MULTIPLIED) && !ni_is_plain(makings[i].out))
            ni_cuda_alphas_changed(be, ni_codes_of(makings[i].out).tensor_scale);
    return NB_OK;
}

/* ---- the other way up ---- */

/* Under 16x16 tiles, or one scale for all, a value is the same whichever way its codes are read. */
static bool has_same_values(const nb_operand *out, const nb_operand *from) {
    const bool tiles = from->quantizer.scale_type == NB_SCALE_E4M3 && out->quantizer.scale_type == NB_SCALE_E4M3;
    return (tiles || (ni_has_tensor_scale(&from->quantizer) && ni_has_tensor_scale(&out->quantizer))) &&
           (from->form == 0 || from->form == NI_CUDA_UNCODED) &&
           ni_cuda_is_whole_valued(out) == ni_cuda_is_whole_valued(from) && !(tiles && ni_cuda_is_whole_valued(out));
}

/* Codes under scales of rows, read the other way by a product: their scales lie on its contraction, so numbers hold them.
 */
static bool is_read_across(nb_backend *be, const nb_operand *out, const nb_operand *from) {
    const nb_quantizer *q = &out->quantizer;
    return !out->reread && ni_has_column_scales(q) && from->quantizer.scale_type == NB_SCALE_F32 &&
           from->quantizer.block_rows == 1 && ni_cuda_units_of(ni_cuda_of(be), q, &out->other) == NI_UNITS_BF16;
}

/* Its values are to hold what the codes decode to: the operand, and where that goes. */
static nb_mat read_across(nb_operand *out) {
    out->form = NI_CUDA_ACROSS | NI_CUDA_UNCODED;
    out->outer = NULL;
    return ni_cuda_across_matrix(out);
}

static nb_status decode_across(nb_backend *be, nb_operand *out, const nb_operand *from, nb_error *err) {
    const nb_qtensor codes = ni_codes_of(from);
    const nb_mat values = read_across(out);
    return ni_cuda_status(be,
                          are_rows_decoded(&codes, &values, NB_ELEMENT_E2M1)
                              ? ni_cuda_decode_rows(stream_of(be), &values, &codes, 1)
                              : ni_cuda_launch_decode(stream_of(be), &values, &codes, false, NULL, true),
                          "turn: numbers, read across", err);
}

static nb_status check_turn(const nb_operand *out, const nb_operand *from, nb_qtensor *to, nb_qtensor *source,
                            nb_error *err) {
    *to = ni_codes_of(out);
    *source = ni_codes_of(from);
    if (out->quantizer.scale_type == NB_SCALE_NONE)
        *source = ni_inner_codes(source);
    return ni_check_transpose_codes(to, source, err);
}

nb_status ni_cuda_turn(nb_backend *be, nb_operand *out, const nb_operand *from, nb_error *err) {
    nb_qtensor to, source;
    NB_TRY(check_turn(out, from, &to, &source, err));
    if (!out->reread && (ni_cuda_borrow_pow2(be, out, from) || ni_cuda_borrow_carried(be, out, from)))
        return NB_OK;
    if (is_read_across(be, out, from)) {
        NB_TRY(ni_cuda_check_coded(from, "turn", err));
        return decode_across(be, out, from, err);
    }
    out->form = ni_cuda_goes_as_pow2(be, out) ? NI_CUDA_POW2 : 0;
    const bool by_codes = ni_cuda_units_of(ni_cuda_of(be), &out->quantizer, &out->other) != NI_UNITS_BF16;
    const bool same = has_same_values(out, from); /* they lie as they are, and are read the other way */
    if (same) {
        out->form = NI_CUDA_ACROSS | NI_CUDA_BORROWED | (out->reread || by_codes ? 0 : NI_CUDA_UNCODED);
        out->numbers = ni_cuda_value_matrix(from);
        out->outer = source.tensor_scale;
        if (out->form & NI_CUDA_UNCODED)
            return NB_OK;
    }
    NB_TRY(ni_cuda_check_coded(from, "turn", err));
    ni_cuda_copy(be, out->memory, from->memory, sizeof(ni_operand_head));
    NB_TRY(ni_cuda_status(be, ni_cuda_launch_turn(stream_of(be), &to, &source), "turn", err));
    ni_cuda_alphas_changed(be, to.tensor_scale);
    out->outer = to.tensor_scale;
    return out->form & NI_CUDA_ACROSS ? NB_OK : ni_cuda_fill_values(be, out, err);
}

nb_status ni_cuda_turn_many(nb_backend *be, nb_operand *const *out, const nb_operand *const *from, int32_t count,
                            nb_error *err) {
    nb_mat values[NI_CUDA_LIST_MOST];
    nb_qtensor codes[NI_CUDA_LIST_MOST], to, source;
    int listed = 0, code = cudaSuccess;
    for (int32_t i = 0; i < count && !code; i++) {
        NB_TRY(check_turn(out[i], from[i], &to, &source, err));
        NB_TRY(ni_cuda_check_coded(from[i], "turn", err));
        codes[listed] = ni_codes_of(from[i]);
        values[listed] = ni_cuda_across_matrix(out[i]);
        if (!is_read_across(be, out[i], from[i]) ||
            !are_rows_decoded(&codes[listed], &values[listed], NB_ELEMENT_E2M1)) {
            NB_TRY(ni_cuda_turn(be, out[i], from[i], err));
            continue;
        }
        read_across(out[i]);
        if (++listed < NI_CUDA_LIST_MOST)
            continue;
        code = ni_cuda_decode_rows(stream_of(be), values, codes, listed);
        listed = 0;
    }
    return ni_cuda_status(be, code ? code : ni_cuda_decode_rows(stream_of(be), values, codes, listed),
                          "turn: numbers, read across", err);
}

/* ---- decoding ---- */

static nb_status decode_plain(nb_backend *be, const nb_mat *out, const nb_operand *from, bool transpose,
                              const ni_columns *columns, nb_error *err) {
    const ni_cuda_source source = {
        .numbers = from->numbers, .across = from->transposed, .rows = from->rows, .cols = from->cols};
    if (!columns)
        return put_numbers(be, out, &source, transpose, err);
    nb_mat numbers = from->numbers;
    numbers.cols = columns->count;
    return ni_cuda_status(be, ni_cuda_launch_scatter(stream_of(be), out, &numbers, columns->at, false), "decode", err);
}

static nb_status decode_columns(nb_backend *be, const ni_cuda_column_codes *codes, nb_error *err) {
    return ni_cuda_status(be, ni_cuda_launch_decode_columns(stream_of(be), codes, ni_cuda_of(be)->multiprocessors),
                          "decode: columns", err);
}

nb_status ni_cuda_decode(nb_backend *be, const nb_mat *out, const nb_operand *from, bool transpose,
                         const ni_columns *columns, bool with_outer, nb_error *err) {
    NB_TRY(ni_check_decode(out, from, transpose, columns, err));
    if (ni_is_plain(from))
        return decode_plain(be, out, from, transpose, columns, err);
    NB_TRY(ni_cuda_check_coded(from, "decode", err));
    const nb_qtensor codes = ni_codes_of(from);
    if (with_outer && columns) {
        const ni_cuda_column_codes alone = {.out = *out, .parts = {codes}, .columns = {*columns}, .count = 1};
        if (ni_cuda_can_decode_columns(&alone))
            return decode_columns(be, &alone, err);
    }
    if (with_outer && !transpose && !columns && are_rows_decoded(&codes, out, NB_ELEMENT_E2M1))
        return ni_cuda_status(be, ni_cuda_decode_rows(stream_of(be), out, &codes, 1), "decode", err);
    return ni_cuda_status(be, ni_cuda_launch_decode(stream_of(be), out, &codes, transpose, columns, with_outer),
                          "decode", err);
}

nb_status ni_cuda_decode_columns(nb_backend *be, const nb_mat *out, const nb_operand *const *from,
                                 const ni_columns *columns, int32_t count, nb_error *err) {
    ni_cuda_column_codes all = {.out = *out};
    bool coded = count <= NI_CUDA_COLUMN_CODES;
    for (int32_t i = 0; i < count && coded; i++) {
        NB_TRY(ni_check_decode(out, from[i], false, &columns[i], err));
        coded = !ni_is_plain(from[i]);
        if (!coded)
            break;
        NB_TRY(ni_cuda_check_coded(from[i], "decode", err));
        all.parts[all.count] = ni_codes_of(from[i]);
        all.columns[all.count++] = columns[i];
    }
    return coded && ni_cuda_can_decode_columns(&all) ? decode_columns(be, &all, err)
                                                     : ni_compose_decode_columns(be, out, from, columns, count, err);
}

nb_status ni_cuda_decode_with_rest(nb_backend *be, const nb_mat *out, const nb_operand *from, const ni_sparse *s,
                                   nb_error *err) {
    if (ni_is_plain(from) || s->exact)
        return ni_compose_decoded(be, out, from, s, err);
    const nb_qtensor codes = ni_codes_of(from);
    if (!are_rows_decoded(&codes, out, NB_ELEMENT_E2M1) && !are_rows_decoded(&codes, out, NB_ELEMENT_INT4))
        return ni_compose_decoded(be, out, from, s, err);
    NB_TRY(ni_check_decode(out, from, false, NULL, err));
    NB_TRY(ni_cuda_check_coded(from, "decode", err));
    return ni_cuda_status(be, ni_cuda_launch_decode_with_rest(stream_of(be), out, &codes, s), "decode with a rest",
                          err);
}
