/* operand.c: operands on a GPU without units for four bits: the canonical codes, and behind them BF16 values that a
 * tensor core multiplies.
 *
 *     value = code x inner scale       at most 8 significant bits for E2M1 x E4M3: exact in BF16
 *
 * What does not vary along the contraction (the scale of the tensor, of a row) stays outside of the sum. Against plain
 * numbers an operand is decoded whole and rounded to BF16, as on the CPU.
 */
#include "backend/cuda/alphas.h"
#include "backend/cuda/coded.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/quantize.h"
#include "backend/cuda/rows.h"
#include "backend/ref/operand_parts.h"
#include "backend/ref/quantize_parts.h"

#include <stdlib.h>

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

static size_t rounded(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

/* ---- where things lie ---- */

uint16_t *ni_cuda_values_of(const nb_operand *o) {
    return (uint16_t *)(void *)((char *)o->memory + rounded(ni_canonical_bytes(o)));
}

static nb_mat value_matrix(const nb_operand *o) {
    return nb_mat_of(ni_cuda_values_of(o), NB_BF16, o->rows, o->cols);
}

/* The values hold everything: they are multiplied by plain numbers. */
static bool is_whole_valued(const nb_operand *o) {
    return nb_quantizer_is_bf16(&o->other);
}

size_t ni_cuda_operand_bytes(nb_backend *be, const nb_operand *operand) {
    (void)be;
    if (ni_is_plain(operand))
        return 0;
    return rounded(ni_canonical_bytes(operand)) + rounded((size_t)(operand->rows * operand->cols) * sizeof(uint16_t));
}

static nb_status check_coded(const nb_operand *o, const char *what, nb_error *err) {
    if (!o || !(o->form & NI_CUDA_UNCODED))
        return NB_OK;
    return nb_fail(err, NB_INTERNAL, "cuda: %s of an operand that was made to be multiplied only; expected `reread`",
                   what);
}

/* ---- sources ---- */

static nb_status open_source(const ni_source *source, ni_cuda_source *out, nb_error *err) {
    *out = (ni_cuda_source){.columns = source->columns};
    ni_source_shape(source, &out->rows, &out->cols);
    if (source->numbers) {
        out->numbers = *source->numbers;
    } else if (ni_is_plain(source->operand)) {
        out->numbers = source->operand->numbers;
        out->across = source->operand->transposed;
    } else {
        out->codes = ni_codes_of(source->operand);
    }
    NB_TRY(check_coded(source->numbers ? NULL : source->operand, "make_operands", err));
    NB_TRY(check_coded(source->minus, "make_operands", err));
    if (source->minus)
        out->minus = ni_codes_of(source->minus);
    if (source->row_scales)
        NB_TRY(ni_row_scales_of(source->row_scales, &out->row_scales, err));
    if (source->column_scales)
        NB_TRY(ni_row_scales_of(source->column_scales, &out->column_scales, err));
    return NB_OK;
}

/* Codes that are rotated do not decode to what they were made of, so nothing is left of it without them. */
static nb_status check_source(const ni_source *source, nb_error *err) {
    const nb_operand *from = source->minus;
    if (from && from->quantizer.hadamard_size && !ni_is_plain(from))
        return nb_fail(err, NB_BAD_USAGE,
                       "make_operands: what is taken away is rotated; expected codes without Hadamard");
    return NB_OK;
}

static ni_cuda_noise noise_of(const nb_noise *noise) {
    ni_cuda_noise n = {0};
    if (noise)
        n = (ni_cuda_noise){noise->seed, noise->tensor, noise->signs, noise->clock};
    return n;
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
    const size_t x = rounded((size_t)(rows * cols) * sizeof(float));
    const size_t amaxes = rounded((size_t)(rows + cols) * sizeof(uint32_t));
    char *memory =
        ni_cuda_scratch(be, x + amaxes + (size_t)chunk_count(rows) * sizeof(nb_quantize_stats), "make_operands");
    if (!memory)
        return false;
    *out = (room){(float *)(void *)memory, (uint32_t *)(void *)(memory + x),
                  (nb_quantize_stats *)(void *)(memory + x + amaxes)};
    return true;
}

static bool has_tensor_outer(const nb_quantizer *q) {
    return q->scale_type == NB_SCALE_E4M3 && q->outer == NB_OUTER_TENSOR;
}

static bool has_one_scale(const nb_quantizer *q) {
    return q->scale_type == NB_SCALE_F32 && q->block_rows == NB_BLOCK_ALL && q->block_cols == NB_BLOCK_ALL;
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
    return code || !making->past ? code
                                 : ni_cuda_delayed_amax(stream_of(be), head, making->past, making->headroom);
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
    *amax = has_tensor_outer(q) ? head : NULL;
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

static nb_status count_stats(nb_backend *be, const ni_making *making, const nb_qtensor *codes, const room *r,
                             nb_error *err) {
    const int64_t count = chunk_count(codes->rows);
    nb_quantize_stats *host = malloc((size_t)count * sizeof *host);
    if (!host)
        return nb_fail(err, NB_NO_MEMORY, "make_operands: no memory for statistics");
    nb_status status =
        ni_cuda_status(be, ni_cuda_quantize_stats(stream_of(be), r->chunks, codes, r->x), "make_operands", err);
    ni_cuda_download(be, host, r->chunks, (size_t)count * sizeof *host);
    ni_stats_total(codes, host, count, making->stats);
    free(host);
    return status;
}

nb_status ni_cuda_fill_values(nb_backend *be, const nb_operand *o, nb_error *err) {
    const nb_mat values = value_matrix(o);
    const nb_qtensor codes = ni_codes_of(o);
    return ni_cuda_status(be, ni_cuda_launch_decode(stream_of(be), &values, &codes, false, NULL, is_whole_valued(o)),
                          "an operand's values", err);
}

static nb_status quantize(nb_backend *be, const ni_source *source, const ni_cuda_source *from, const ni_making *making,
                          nb_error *err) {
    nb_operand *out = making->out;
    const nb_quantizer *q = ni_making_quantizer(making);
    out->form = 0;
    const int64_t rows = making->transpose ? from->cols : from->rows,
                  cols = making->transpose ? from->rows : from->cols;
    nb_qtensor codes = ni_codes_of(out);
    room r;
    if (!take_room(be, rows, cols, &r))
        return ni_cuda_status(be, 0, "make_operands", err);
    const ni_cuda_noise noise = noise_of(making->noise);
    ni_cuda_encoding e = {.x = r.x,
                          .rows = rows,
                          .cols = cols,
                          .quantizer = *q,
                          .out = codes,
                          .at = making->at,
                          .values = is_whole_valued(out) ? NULL : ni_cuda_values_of(out),
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
        NB_TRY(count_stats(be, making, &codes, &r, err));
    return is_whole_valued(out) ? ni_cuda_fill_values(be, out, err) : NB_OK;
}

/* ---- making, at once (quantize_tile.cu) ---- */

static bool is_tiled(const nb_quantizer *q) {
    return q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_E4M3 && q->outer <= NB_OUTER_UNIT &&
           !q->four_six && q->rule != NB_RULE_EDEN && (q->round == NB_ROUND_EVEN || q->round == NB_ROUND_STOCHASTIC);
}

static bool is_sixteens(int64_t n) {
    return n > 0 && n % 16 == 0;
}

/* Numbers as they lie, in whole tiles. */
static bool has_tiles(const ni_source *source) {
    const nb_mat *x = source->numbers;
    return x && ni_source_is_simple(source) && is_sixteens(x->rows) && is_sixteens(x->cols) && x->stride % 8 == 0 &&
           (uintptr_t)x->data % 16 == 0;
}

static bool is_tile_copy(const ni_source *source, const ni_making *making) {
    const nb_quantizer *q = ni_making_quantizer(making);
    const nb_operand *out = making->out;
    if (ni_is_plain(out) || !has_tiles(source) || source->numbers->dtype != NB_BF16 || !is_tiled(q) ||
        q->block_rows != 1 || making->stats || is_whole_valued(out))
        return false;
    if (making->transpose)
        return ni_making_is_whole(source, making) && (q->hadamard_size == 0 || q->hadamard_size == 16);
    return q->hadamard_size == 0 && is_sixteens(out->cols);
}

static bool is_tile_weight(const ni_source *source, const ni_making *making) {
    const nb_quantizer *q = ni_making_quantizer(making);
    const nb_operand *out = making->out;
    return !ni_is_plain(out) && has_tiles(source) && source->numbers->dtype == NB_F32 &&
           source->numbers->stride == source->numbers->cols && is_tiled(q) && q->block_rows == 16 &&
           q->round == NB_ROUND_EVEN && q->hadamard_size == 0 && !making->transpose && !making->stats &&
           !is_whole_valued(out) && making->at == 0 && !making->under && is_sixteens(out->cols);
}

/* The operand as the kernel sees it; its amax is still to be found. */
static ni_cuda_tile_copy tile_copy(nb_backend *be, const ni_making *making, bool coded) {
    nb_operand *out = making->out;
    const nb_qtensor codes = ni_codes_of(out);
    out->form = (making->transpose ? NI_CUDA_ACROSS : 0) | (coded ? 0 : NI_CUDA_UNCODED);
    out->outer = codes.tensor_scale;
    return (ni_cuda_tile_copy){.quantizer = *ni_making_quantizer(making),
                               .values = ni_cuda_values_of(out),
                               .stride = making->transpose ? out->rows : out->cols,
                               .at = making->at,
                               .contraction = out->cols,
                               .codes = coded ? codes.codes : NULL,
                               .scales = codes.scales,
                               .outer_scales = codes.outer_scales,
                               .tensor_scale = codes.tensor_scale,
                               .under = making->under != NULL,
                               .past = making->past,
                               .headroom = making->headroom,
                               .now = making->now,
                               .noise = noise_of(making->noise),
                               .alphas = ni_cuda_alphas_of(be)};
}

/* As nb_mat.turned_amax has it. */
static bool is_turned_as_known(const nb_quantizer *q) {
    return q->hadamard_size == 16 && q->hadamard_signs == NB_SIGNS_FIXED && q->hadamard_round_bf16;
}

/* Where a copy's maximum is known already: of the operand that it is made under, or of its producer. */
static bool knows_amax(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_tile_copy *copy) {
    uint32_t *head = making->out->memory;
    if (!has_tensor_outer(&copy->quantizer))
        return true;
    copy->amax = head;
    if (making->under && making->under != making->out)
        ni_cuda_copy(be, head, making->under->memory, sizeof *head);
    if (making->under)
        return true;
    if (making->past) {
        copy->head = head;
        return true;
    }
    const uint32_t *known = copy->quantizer.hadamard_size == 0                          ? source->numbers->amax
                            : is_turned_as_known(&copy->quantizer) && making->transpose ? source->numbers->turned_amax
                                                                                        : NULL;
    if (!known)
        return false;
    copy->amax = known;
    copy->head = head;
    return true;
}

/* By whoever decodes, by the lens, or by units that multiply codes. */
static bool are_codes_read(nb_backend *be, const ni_making *making) {
    const nb_operand *out = making->out;
    return making->shown || out->reread ||
           ni_cuda_units_of(ni_cuda_of(be), &out->quantizer, &out->other) != NI_CUDA_BF16;
}

/* Of up to two copies, one a way. */
static nb_status make_tiles(nb_backend *be, const ni_source *source, const ni_making *row, const ni_making *column,
                            nb_error *err) {
    const nb_mat *x = source->numbers;
    const ni_cuda_tile_source tiles = {x->data, x->rows, x->cols, x->stride};
    uint32_t *const words = ni_cuda_of(be)->tile_room;
    ni_cuda_tile_copy copies[2] = {{.values = NULL}, {.values = NULL}};
    bool measured[2] = {false, false}; /* plain, rotated */
    const ni_making *const makings[2] = {row, column};
    for (int i = 0; i < 2; i++) {
        if (!makings[i])
            continue;
        copies[i] = tile_copy(be, makings[i], are_codes_read(be, makings[i]));
        if (knows_amax(be, source, makings[i], &copies[i]))
            continue;
        const int which = copies[i].quantizer.hadamard_size > 0;
        copies[i].amax = &words[which];
        copies[i].head = makings[i]->out->memory;
        measured[which] = true;
    }
    int code = cudaSuccess;
    if (measured[0] || measured[1]) {
        code = ni_cuda_tile_amaxes(stream_of(be), &tiles, measured[0] ? &words[0] : NULL,
                                   measured[1] ? &words[1] : NULL, &copies[1].quantizer, &copies[1].noise);
        NB_TRY(ni_cuda_status(be, code, "quantize: amax", err));
    }
    code = ni_cuda_quantize_tiles(stream_of(be), words, &tiles, row ? &copies[0] : NULL, column ? &copies[1] : NULL);
    ni_cuda_alphas_multiplied(be);
    return ni_cuda_status(be, code,
                          !column ? "quantize: rows"
                          : !row  ? "quantize: columns"
                                  : "quantize: rows and columns",
                          err);
}

static nb_status make_weight(nb_backend *be, const ni_source *source, const ni_making *making, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    const nb_mat *w = source->numbers;
    ni_cuda_tile_copy copy = tile_copy(be, making, true);
    int code = cudaSuccess;
    if (!knows_amax(be, source, making, &copy)) {
        copy.amax = NULL;
        copy.head = making->out->memory;
        if (!ni_cuda_weight_fits(w->rows, w->cols, cuda->multiprocessors)) {
            copy.amax = copy.head;
            copy.head = NULL;
            ni_cuda_fill_zero(be, making->out->memory, sizeof(uint32_t));
            code = ni_cuda_flat_amax(cuda->stream, making->out->memory, w->data, w->rows * w->cols);
            NB_TRY(ni_cuda_status(be, code, "quantize: amax of a weight", err));
        }
    }
    code = ni_cuda_quantize_weight(cuda->stream, cuda->tile_room, w->data, w->rows, w->cols, &copy);
    ni_cuda_alphas_multiplied(be);
    return ni_cuda_status(be, code, "quantize: a weight", err);
}

/* ---- making, at once: chosen columns (quantize_pieces.cu) ---- */

static bool is_nvfp4_codes(const nb_operand *o) {
    return !ni_is_plain(o) && is_tiled(&o->quantizer) && o->quantizer.hadamard_size == 0;
}

static bool is_piece(const ni_source *source, const ni_making *making) {
    const nb_quantizer *q = ni_making_quantizer(making);
    const nb_operand *out = making->out;
    return source->numbers && source->columns && !source->row_scales && !source->column_scales &&
           (!source->minus || is_nvfp4_codes(source->minus)) && !ni_is_plain(out) && !is_whole_valued(out) &&
           is_tiled(q) && q->block_rows == 1 && q->round == NB_ROUND_EVEN && q->hadamard_size == 0 &&
           has_tensor_outer(q) && making->under && !making->transpose && !making->stats &&
           is_sixteens(source->column_count) && is_sixteens(out->cols) && making->at % 16 == 0;
}

static nb_status make_piece(nb_backend *be, const ni_source *source, const ni_making *making, nb_error *err) {
    const nb_mat *x = source->numbers;
    ni_cuda_piece piece = {.numbers = x->data,
                           .wide = x->dtype == NB_F32,
                           .rows = x->rows,
                           .cols = source->column_count,
                           .stride = x->stride,
                           .columns = source->columns};
    ni_cuda_tile_copy copy = tile_copy(be, making, are_codes_read(be, making));
    knows_amax(be, source, making, &copy);
    if (source->minus)
        piece.minus = ni_codes_of(source->minus);
    return ni_cuda_status(be, ni_cuda_quantize_piece(stream_of(be), &piece, &copy), "quantize: chosen columns", err);
}

/* ---- making, at once: double blocks (quantize_double.cu) ---- */

static bool is_double(const nb_quantizer *q) {
    return q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_E4M3 && q->block_rows == 1 &&
           (q->outer == NB_OUTER_ROW128 || q->outer == NB_OUTER_ROW128_POW2) &&
           (q->round == NB_ROUND_EVEN || q->round == NB_ROUND_STOCHASTIC) &&
           (q->hadamard_size == 0 || q->hadamard_size == 16);
}

/* What the kernels read of it; false: the four stages do. */
static bool double_source(const ni_source *source, const ni_making *making, ni_cuda_double_source *out) {
    const nb_mat *x = source->numbers;
    const nb_operand *from = source->operand;
    if (x) {
        const bool wide = x->dtype == NB_F32;
        *out = (ni_cuda_double_source){
            .numbers = x->data, .wide = wide, .rows = x->rows, .cols = x->cols, .stride = x->stride};
        return ni_source_is_simple(source) && is_sixteens(x->rows) && is_sixteens(x->cols) &&
               x->stride % (wide ? 4 : 8) == 0 && (uintptr_t)x->data % 16 == 0;
    }
    if (!ni_source_is_simple(source) || !making->transpose || ni_is_plain(from) || !is_double(&from->quantizer))
        return false;
    *out = (ni_cuda_double_source){.rows = from->rows, .cols = from->cols, .codes = ni_codes_of(from)};
    return from->cols % 32 == 0;
}

static bool is_double_copy(const ni_source *source, const ni_making *making, ni_cuda_double_source *out) {
    const nb_operand *to = making->out;
    if (ni_is_plain(to) || making->stats || is_whole_valued(to) || !is_double(ni_making_quantizer(making)) ||
        !double_source(source, making, out))
        return false;
    if (making->transpose)
        return ni_making_is_whole(source, making) && out->rows % 128 == 0;
    return out->cols % 128 == 0 && to->cols % 128 == 0 && making->at % 128 == 0;
}

static nb_status make_double(nb_backend *be, const ni_cuda_double_source *from, const ni_making *making,
                             nb_error *err) {
    const ni_cuda_tile_copy copy = tile_copy(be, making, are_codes_read(be, making));
    return ni_cuda_status(be, ni_cuda_quantize_double(stream_of(be), from, &copy, making->transpose),
                          !making->transpose ? "quantize: double blocks"
                          : from->numbers    ? "quantize: double blocks down columns"
                                             : "quantize: double blocks anew",
                          err);
}

/* ---- making, at once: vectors (quantize_vector.cu) ---- */

static bool is_vector_copy(const ni_source *source, const ni_making *making, ni_cuda_double_source *out) {
    const nb_quantizer *q = ni_making_quantizer(making);
    const nb_mat *x = source->numbers;
    const bool rows = q->block_rows == 1 && q->block_cols == NB_BLOCK_ALL, whole = has_one_scale(q);
    if (!x || making->transpose || making->stats || ni_is_plain(making->out) || !ni_source_is_simple(source) ||
        !ni_making_is_whole(source, making) || q->hadamard_size || q->scale_type != NB_SCALE_F32 || !(rows || whole) ||
        !(q->round == NB_ROUND_EVEN || q->round == NB_ROUND_UP))
        return false;
    const bool wide = x->dtype == NB_F32;
    *out = (ni_cuda_double_source){
        .numbers = x->data, .wide = wide, .rows = x->rows, .cols = x->cols, .stride = x->stride};
    return x->rows > 0 && x->rows <= INT32_MAX && is_sixteens(x->cols) && x->stride % 8 == 0 &&
           (uintptr_t)x->data % 16 == 0 && (!whole || x->amax || (is_sixteens(x->rows) && !wide));
}

/* Rows of four-bit codes whose product is of units for 8 bits. Weights are made once for many products, and a sparse
 * one may want their values. */
static bool is_multiplied_as_bytes(nb_backend *be, const nb_operand *o) {
    const nb_quantizer *q = &o->quantizer;
    return (q->element == NB_ELEMENT_E2M1 || q->element == NB_ELEMENT_INT4) && q->block_rows == 1 &&
           ni_cuda_units_of(ni_cuda_of(be), q, &o->other) == NI_CUDA_FP8;
}

static nb_status make_vector(nb_backend *be, const ni_source *source, const ni_cuda_double_source *from,
                             const ni_making *making, nb_error *err) {
    nb_operand *out = making->out;
    const nb_qtensor codes = ni_codes_of(out);
    const bool coded = are_codes_read(be, making), bytes = !from->wide && is_multiplied_as_bytes(be, out);
    out->form = coded ? bytes ? NI_CUDA_BYTES : 0 : NI_CUDA_UNCODED;
    out->outer = codes.tensor_scale;
    ni_cuda_vector v = {.quantizer = *ni_making_quantizer(making),
                        .values = ni_cuda_values_of(out),
                        .bytes = bytes ? (uint8_t *)ni_cuda_values_of(out) : NULL,
                        .whole = is_whole_valued(out),
                        .codes = coded ? codes.codes : NULL,
                        .row_scales = codes.outer_scales,
                        .tensor_scale = codes.tensor_scale};
    if (has_one_scale(&v.quantizer)) {
        v.amax = source->numbers->amax;
        if (!v.amax) {
            const ni_cuda_tile_source tiles = {from->numbers, from->rows, from->cols, from->stride};
            const ni_cuda_noise none = {0};
            ni_cuda_fill_zero(be, out->memory, sizeof(uint32_t));
            NB_TRY(ni_cuda_status(be,
                                  ni_cuda_tile_amaxes(stream_of(be), &tiles, out->memory, NULL, &v.quantizer, &none),
                                  "quantize: amax", err));
            v.amax = out->memory;
        }
    }
    return ni_cuda_status(be, ni_cuda_quantize_vector(stream_of(be), from, &v), "quantize: vectors", err);
}

/* MULTIPLIED: by a kernel that multiplied all pairs of tensor scales anew (alphas.h). */
typedef enum made { NOT_MADE, MADE, MULTIPLIED } made;

/* Makes what tiles can make of this source; the rest is the caller's. */
static nb_status make_at_once(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count,
                              made *done, nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        done[i] = is_tile_copy(source, &makings[i]) ? MULTIPLIED : NOT_MADE;
    for (int32_t i = 0; i < count; i++) {
        const ni_making *const m = &makings[i];
        ni_cuda_double_source from;
        if (!done[i] && is_double_copy(source, m, &from)) {
            done[i] = MADE;
            NB_TRY(make_double(be, &from, m, err));
        } else if (!done[i] && is_vector_copy(source, m, &from)) {
            done[i] = MADE;
            NB_TRY(make_vector(be, source, &from, m, err));
        } else if (!done[i] && is_piece(source, m)) {
            done[i] = MADE;
            NB_TRY(make_piece(be, source, m, err));
        } else if (!done[i] && is_tile_weight(source, m)) {
            done[i] = MULTIPLIED;
            NB_TRY(make_weight(be, source, m, err));
        } else if (done[i]) {
            const bool pair = i + 1 < count && done[i + 1] && !m->transpose && makings[i + 1].transpose;
            NB_TRY(make_tiles(be, source, m->transpose ? NULL : m, m->transpose ? m : pair ? m + 1 : NULL, err));
            i += pair;
        }
    }
    return NB_OK;
}

/* Four bits under scales of rows, as they lie. */
static bool are_rows_decoded(const nb_qtensor *codes, const nb_mat *out) {
    const nb_quantizer *q = &codes->quantizer;
    return q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_F32 && q->block_rows == 1 &&
           q->block_cols == NB_BLOCK_ALL && out->dtype == NB_BF16 && codes->cols % 8 == 0 && out->stride % 8 == 0 &&
           (uintptr_t)out->data % 16 == 0 && codes->rows * codes->cols <= INT32_MAX;
}

/* A matrix, as numbers of another type or the other way up. */
static nb_status put_numbers(nb_backend *be, const nb_mat *to, const ni_cuda_source *from, bool turn, nb_error *err) {
    const bool simple = !from->columns && !from->row_scales && !from->column_scales && !from->minus.codes;
    if (!turn && simple && !from->numbers.data && are_rows_decoded(&from->codes, to))
        return ni_cuda_status(be, ni_cuda_decode_rows(stream_of(be), to, &from->codes), "numbers of codes", err);
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
    made done[MOST] = {NOT_MADE};
    NB_TRY(check_source(source, err));
    NB_TRY(open_source(source, &from, err));
    for (int32_t i = 0; i < count; i++)
        NB_TRY(ni_check_making(source, &makings[i], err));
    if (count <= MOST)
        NB_TRY(make_at_once(be, source, makings, count, done, err));
    for (int32_t i = 0; i < count; i++) {
        const ni_making *making = &makings[i];
        if (i < MOST && done[i])
            continue;
        NB_TRY(ni_is_plain(making->out)
                   ? put_numbers(be, &making->out->numbers, &from, making->transpose != making->out->transposed, err)
                   : quantize(be, source, &from, making, err));
    }
    for (int32_t i = 0; i < count; i++)
        if ((i >= MOST || done[i] != MULTIPLIED) && !ni_is_plain(makings[i].out))
            ni_cuda_alphas_changed(be, ni_codes_of(makings[i].out).tensor_scale);
    return NB_OK;
}

/* ---- a row copy and pieces of it, from one reading (quantize_patched.cu) ---- */

/* Pieces of chosen columns of the base's own numbers. */
static bool is_patch_of(const ni_source *base, const ni_making *whole, const ni_source *source, const ni_making *m) {
    const nb_mat *x = base->numbers, *y = source->numbers;
    return is_piece(source, m) && y->data == x->data && y->dtype == x->dtype && y->stride == x->stride &&
           m->out == whole->out && m->under == whole->out && (!source->minus || source->minus == whole->out) &&
           m->shown == whole->shown && nb_quantizer_equal(ni_making_quantizer(m), ni_making_quantizer(whole));
}

static bool is_patched(const ni_source *sources, const ni_making *makings, int32_t count) {
    const ni_making *const whole = &makings[0];
    if (count < 2 || count > 3 || !is_tile_copy(&sources[0], whole) || whole->transpose || whole->under ||
        whole->at != 0 || ni_making_quantizer(whole)->round != NB_ROUND_EVEN || !sources[0].numbers->amax ||
        !has_tensor_outer(ni_making_quantizer(whole)) || !ni_cuda_patched_fits(sources[0].numbers->cols))
        return false;
    for (int32_t i = 1; i < count; i++)
        if (!is_patch_of(&sources[0], whole, &sources[i], &makings[i]) || sources[i].columns != sources[1].columns ||
            sources[i].column_count != sources[1].column_count)
            return false;
    return true;
}

static nb_status make_patched(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                              nb_error *err) {
    const nb_mat *x = sources[0].numbers;
    const ni_cuda_tile_source tiles = {x->data, x->rows, x->cols, x->stride};
    ni_cuda_tile_copy base = tile_copy(be, &makings[0], are_codes_read(be, &makings[0]));
    ni_cuda_patch patch = {.columns = sources[1].columns, .cols = sources[1].column_count, .count = count - 1};
    knows_amax(be, &sources[0], &makings[0], &base);
    for (int32_t i = 1; i < count; i++) {
        NB_TRY(ni_check_making(&sources[i], &makings[i], err));
        patch.residual[i - 1] = sources[i].minus != NULL;
        patch.at[i - 1] = makings[i].at;
    }
    const int code = ni_cuda_quantize_patched(stream_of(be), ni_cuda_of(be)->tile_room, &tiles, &base, &patch);
    ni_cuda_alphas_multiplied(be);
    return ni_cuda_status(be, code, "quantize: rows with a patch", err);
}

nb_status ni_cuda_make_pieces(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                              nb_error *err) {
    if (count > 0)
        NB_TRY(ni_check_making(&sources[0], &makings[0], err));
    if (is_patched(sources, makings, count))
        return make_patched(be, sources, makings, count, err);
    for (int32_t i = 0; i < count; i++)
        NB_TRY(ni_cuda_make_operands(be, &sources[i], &makings[i], 1, err));
    return NB_OK;
}

/* Under 16x16 tiles, or one scale for all, a value is the same whichever way its codes are read. */
static bool has_same_values(const nb_operand *out, const nb_operand *from) {
    const bool tiles = from->quantizer.scale_type == NB_SCALE_E4M3 && out->quantizer.scale_type == NB_SCALE_E4M3;
    return (tiles || (has_one_scale(&from->quantizer) && has_one_scale(&out->quantizer))) && from->form == 0 &&
           is_whole_valued(out) == is_whole_valued(from) && !(tiles && is_whole_valued(out));
}

nb_status ni_cuda_turn(nb_backend *be, nb_operand *out, const nb_operand *from, nb_error *err) {
    nb_qtensor to = ni_codes_of(out), source = ni_codes_of(from);
    if (out->quantizer.scale_type == NB_SCALE_NONE)
        source = ni_inner_codes(&source);
    NB_TRY(ni_check_transpose_codes(&to, &source, err));
    NB_TRY(check_coded(from, "turn", err));
    out->form = 0;
    const bool by_codes = ni_cuda_units_of(ni_cuda_of(be), &out->quantizer, &out->other) != NI_CUDA_BF16;
    const bool same = has_same_values(out, from); /* they lie as they are, and are read the other way */
    if (same) {
        out->form = NI_CUDA_ACROSS | NI_CUDA_BORROWED | (out->reread || by_codes ? 0 : NI_CUDA_UNCODED);
        out->numbers = value_matrix(from);
        out->outer = source.tensor_scale;
        if (out->form & NI_CUDA_UNCODED)
            return NB_OK;
    }
    ni_cuda_copy(be, out->memory, from->memory, sizeof(ni_operand_head));
    NB_TRY(ni_cuda_status(be, ni_cuda_launch_turn(stream_of(be), &to, &source), "turn", err));
    ni_cuda_alphas_changed(be, to.tensor_scale);
    out->outer = to.tensor_scale;
    return out->form & NI_CUDA_ACROSS ? NB_OK : ni_cuda_fill_values(be, out, err);
}

/* ---- decoding ---- */

static nb_status decode_plain(nb_backend *be, const nb_mat *out, const nb_operand *from, bool transpose,
                              const int32_t *columns, nb_error *err) {
    const ni_cuda_source source = {
        .numbers = from->numbers, .across = from->transposed, .rows = from->rows, .cols = from->cols};
    if (!columns)
        return put_numbers(be, out, &source, transpose, err);
    const nb_mat numbers = from->numbers;
    return ni_cuda_status(be, ni_cuda_launch_scatter(stream_of(be), out, &numbers, columns, false), "decode", err);
}

nb_status ni_cuda_decode(nb_backend *be, const nb_mat *out, const nb_operand *from, bool transpose,
                         const int32_t *columns, bool with_outer, nb_error *err) {
    NB_TRY(ni_check_decode(out, from, transpose, columns, err));
    if (ni_is_plain(from))
        return decode_plain(be, out, from, transpose, columns, err);
    NB_TRY(check_coded(from, "decode", err));
    const nb_qtensor codes = ni_codes_of(from);
    if (with_outer && !transpose && !columns && are_rows_decoded(&codes, out))
        return ni_cuda_status(be, ni_cuda_decode_rows(stream_of(be), out, &codes), "decode", err);
    return ni_cuda_status(be, ni_cuda_launch_decode(stream_of(be), out, &codes, transpose, columns, with_outer),
                          "decode", err);
}

/* ---- the canonical layout ---- */

static void copy_codes(nb_backend *be, const nb_qtensor *to, const nb_qtensor *from) {
    const nb_qtensor_size bytes = nb_qtensor_bytes(&from->quantizer, from->rows, from->cols);
    ni_cuda_copy(be, to->codes, from->codes, bytes.codes);
    ni_cuda_copy(be, to->scales, from->scales, bytes.scales);
    ni_cuda_copy(be, to->outer_scales, from->outer_scales, bytes.outer_scales);
    ni_cuda_copy(be, to->tensor_scale, from->tensor_scale, bytes.tensor_scale);
}

nb_status ni_cuda_canonical(nb_backend *be, const nb_qtensor *out, const nb_operand *from, nb_error *err) {
    NB_TRY(ni_check_canonical(out, from, err));
    NB_TRY(check_coded(from, "canonical", err));
    const nb_qtensor codes = ni_codes_of(from);
    copy_codes(be, out, &codes);
    return NB_OK;
}

nb_status ni_cuda_take_codes(nb_backend *be, nb_operand *out, const nb_qtensor *from, nb_error *err) {
    static const uint32_t unknown = 0x7fc00000; /* NaN: the amax that the tensor's scale was made from */
    NB_TRY(ni_check_canonical(from, out, err));
    const nb_qtensor codes = ni_codes_of(out);
    ni_cuda_upload(be, out->memory, &unknown, sizeof unknown);
    copy_codes(be, &codes, from);
    ni_cuda_alphas_changed(be, codes.tensor_scale);
    out->form = 0;
    out->outer = codes.tensor_scale;
    return ni_cuda_fill_values(be, out, err);
}
