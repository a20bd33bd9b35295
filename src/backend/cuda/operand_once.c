/* operand_once.c: operands that a kernel of their own makes of one reading of the source (quantize_*.cu): which kernel,
 * and what it gets. Whatever none of them makes is the caller's, in four stages.
 */
#include "backend/cuda/alphas.h"
#include "backend/cuda/coded.h"
#include "backend/cuda/list.h"
#include "backend/cuda/mx_bytes.h"
#include "backend/cuda/operand.h"
#include "backend/cuda/quantize_double_eight.h"
#include "backend/cuda/rows.h"
#include "backend/ref/dge_occ.h"
#include "backend/ref/operand_parts.h"
#include "backend/ref/quantize_parts.h"
#include "format/vector_scales.h"

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

/* ---- making, at once (quantize_tile.cu) ---- */

static bool is_tiled(const nb_quantizer *q) {
    return q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_E4M3 && q->outer <= NB_OUTER_UNIT &&
           !q->four_six && q->rule != NB_RULE_EDEN && (q->round == NB_ROUND_EVEN || q->round == NB_ROUND_STOCHASTIC);
}

/* Numbers as they lie, in whole tiles. */
static bool has_tiles(const ni_source *source) {
    const nb_mat *x = source->numbers;
    return x && ni_source_is_simple(source) && ni_cuda_is_sixteens(x->rows) && ni_cuda_is_sixteens(x->cols) &&
           x->stride % 8 == 0 && (uintptr_t)x->data % 16 == 0;
}

bool ni_cuda_is_tile_copy(const ni_source *source, const ni_making *making) {
    const nb_quantizer *q = ni_making_quantizer(making);
    const nb_operand *out = making->out;
    if (ni_is_plain(out) || !has_tiles(source) || source->numbers->dtype != NB_BF16 || !is_tiled(q) ||
        q->block_rows != 1 || ni_cuda_is_whole_valued(out) || (making->stats && !ni_making_is_whole(source, making)))
        return false;
    if (making->transpose)
        return ni_making_is_whole(source, making) && (q->hadamard_size == 0 || q->hadamard_size == 16);
    return q->hadamard_size == 0 && ni_cuda_is_sixteens(out->cols);
}

static bool is_tile_weight(const ni_source *source, const ni_making *making) {
    const nb_quantizer *q = ni_making_quantizer(making);
    const nb_operand *out = making->out;
    return !ni_is_plain(out) && has_tiles(source) && source->numbers->dtype == NB_F32 &&
           source->numbers->stride == source->numbers->cols && is_tiled(q) && q->block_rows == 16 &&
           q->round == NB_ROUND_EVEN && q->hadamard_size == 0 && !making->transpose && !ni_cuda_is_whole_valued(out) &&
           (!making->stats || ni_making_is_whole(source, making)) && making->at == 0 && !making->under &&
           !making->past && !making->now && ni_cuda_is_sixteens(out->cols);
}

/* The operand as the kernel sees it; its amax is still to be found. */
ni_cuda_tile_copy ni_cuda_tile_copy_of(nb_backend *be, const ni_making *making, bool coded) {
    nb_operand *out = making->out;
    const nb_qtensor codes = ni_codes_of(out);
    const ni_cuda_noise noise = ni_cuda_noise_of(making->noise);
    out->form = (making->transpose ? NI_CUDA_ACROSS : 0) | (coded ? 0 : NI_CUDA_UNCODED);
    out->outer = codes.tensor_scale;
    return (ni_cuda_tile_copy){.quantizer = *ni_making_quantizer(making),
                               .values = ni_cuda_values_of(out),
                               .stride = making->transpose ? ni_cuda_across_matrix(out).stride : out->cols,
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
                               .noise = noise,
                               .keys = ni_philox_keys_of(noise.seed, noise.tensor),
                               .alphas = ni_cuda_alphas_of(be)};
}

/* Where a copy's maximum is known already: of the operand that it is made under, or of its producer. */
bool ni_cuda_knows_amax(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_tile_copy *copy) {
    uint32_t *head = making->out->memory;
    if (!ni_cuda_has_tensor_outer(&copy->quantizer))
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
    const nb_mat *x = source->numbers;
    const uint32_t *known = !x                                                                  ? NULL
                            : copy->quantizer.hadamard_size == 0                                ? x->amax
                            : ni_cuda_is_turned_as_known(&copy->quantizer) && making->transpose ? x->turned_amax
                                                                                                : NULL;
    if (!known)
        return false;
    copy->amax = known;
    copy->head = head;
    return true;
}

/* By whoever decodes or counts, by the lens, or by units that multiply codes. */
bool ni_cuda_are_codes_read(nb_backend *be, const ni_making *making) {
    const nb_operand *out = making->out;
    return making->shown || making->stats || out->reread ||
           ni_cuda_units_of(ni_cuda_of(be), &out->quantizer, &out->other) != NI_UNITS_BF16;
}

bool ni_cuda_scaled_copy(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_tile_copy *copy) {
    if (making->under || making->stats || !ni_cuda_is_tile_copy(source, making) ||
        !ni_cuda_has_tensor_outer(ni_making_quantizer(making)))
        return false;
    *copy = ni_cuda_tile_copy_of(be, making, ni_cuda_are_codes_read(be, making));
    return ni_cuda_knows_amax(be, source, making, copy);
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
        copies[i] = ni_cuda_tile_copy_of(be, makings[i], ni_cuda_are_codes_read(be, makings[i]));
        if (ni_cuda_knows_amax(be, source, makings[i], &copies[i]))
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

/* What one or two copies of tiles did, where it is asked. */
static nb_status count_tiles(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count,
                             nb_error *err) {
    const nb_mat *x = source->numbers;
    const ni_cuda_tile_source tiles = {x->data, x->rows, x->cols, x->stride};
    for (int32_t i = 0; i < count; i++) {
        const ni_cuda_noise noise = ni_cuda_noise_of(makings[i].noise);
        nb_qtensor codes = ni_codes_of(makings[i].out);
        const int64_t blocks = ni_stats_blocks(&codes);
        codes.quantizer = *ni_making_quantizer(&makings[i]);
        if (!makings[i].stats)
            continue;
        nb_quantize_stats *parts = ni_cuda_scratch(be, NI_CUDA_STATS_PARTS * sizeof *parts, "statistics");
        NB_TRY(ni_cuda_status(be,
                              parts ? ni_cuda_tile_stats(stream_of(be), makings[i].stats, parts, &tiles, &codes, blocks,
                                                         makings[i].transpose, &noise)
                                    : cudaSuccess,
                              "quantize: statistics", err));
    }
    return NB_OK;
}

/* ---- making, many at once: weights (quantize_weight.cu) ---- */

static ni_cuda_weight weight_of(nb_backend *be, const ni_source *source, const ni_making *making) {
    const nb_mat *w = source->numbers;
    ni_cuda_tile_copy copy = ni_cuda_tile_copy_of(be, making, true);
    const bool known = ni_cuda_knows_amax(be, source, making, &copy);
    return (ni_cuda_weight){.w = w->data,
                            .rows = w->rows,
                            .cols = w->cols,
                            .rule = copy.quantizer.rule,
                            .outer = copy.quantizer.outer,
                            .amax = known ? copy.amax : NULL,
                            .copies = 1,
                            .to = {{.values = copy.values,
                                    .stride = copy.stride,
                                    .codes = copy.codes,
                                    .scales = copy.scales,
                                    .tensor_scale = copy.tensor_scale,
                                    .head = known ? copy.head : making->out->memory}}};
}

bool ni_cuda_list_weight(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_weight *out) {
    const bool listed = is_tile_weight(source, making) && !making->stats;
    if (listed)
        *out = weight_of(be, source, making);
    return listed;
}

nb_status ni_cuda_make_weights(nb_backend *be, const ni_cuda_weight *weights, int count, nb_error *err) {
    const size_t bytes = (size_t)ni_cuda_weight_parts(weights, count) * sizeof(uint32_t);
    uint32_t *parts = bytes ? ni_cuda_scratch(be, bytes, "maxima of weights") : NULL;
    int code = cudaSuccess;
    if (!bytes || parts)
        code = ni_cuda_quantize_weights(stream_of(be), weights, count, parts);
    for (int i = 0; i < count; i++)
        for (int k = 0; k < weights[i].copies; k++)
            ni_cuda_alphas_changed(be, weights[i].to[k].tensor_scale);
    return ni_cuda_status(be, code, "quantize: weights", err);
}

static nb_status make_weight(nb_backend *be, const ni_source *source, const ni_making *making, nb_error *err) {
    const ni_cuda_weight one = weight_of(be, source, making);
    NB_TRY(ni_cuda_make_weights(be, &one, 1, err));
    if (!making->stats)
        return NB_OK;
    const nb_qtensor codes = ni_codes_of(making->out);
    const int64_t chunks = (codes.rows + 15) / 16;
    nb_quantize_stats *parts = ni_cuda_scratch(be, (size_t)chunks * sizeof *parts, "statistics");
    const int code =
        parts ? ni_cuda_quantize_stats(stream_of(be), making->stats, parts, &codes, ni_stats_blocks(&codes), one.w)
              : cudaSuccess;
    return ni_cuda_status(be, code, "quantize: statistics", err);
}

/* ---- making, at once: chosen columns (quantize_pieces.cu) ---- */

static bool is_nvfp4_codes(const nb_operand *o) {
    return !ni_is_plain(o) && is_tiled(&o->quantizer) && o->quantizer.hadamard_size == 0;
}

bool ni_cuda_is_piece(const ni_source *source, const ni_making *making) {
    const nb_quantizer *q = ni_making_quantizer(making);
    const nb_operand *out = making->out;
    return source->numbers && source->columns && !source->zeros && !source->row_scales && !source->column_scales &&
           (!source->minus || is_nvfp4_codes(source->minus)) && !ni_is_plain(out) && !ni_cuda_is_whole_valued(out) &&
           is_tiled(q) && q->block_rows == 1 && q->round == NB_ROUND_EVEN && q->hadamard_size == 0 &&
           ni_cuda_has_tensor_outer(q) && making->under && !making->transpose && !making->stats &&
           ni_cuda_is_sixteens(source->column_count) && ni_cuda_is_sixteens(out->cols) && making->at % 16 == 0;
}

bool ni_cuda_list_piece(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_piece *piece,
                        ni_cuda_tile_copy *copy) {
    const nb_mat *x = source->numbers;
    if (!ni_cuda_is_piece(source, making))
        return false;
    *piece = (ni_cuda_piece){.numbers = x->data,
                             .wide = x->dtype == NB_F32,
                             .rows = x->rows,
                             .cols = source->column_count,
                             .stride = x->stride,
                             .columns = source->columns};
    *copy = ni_cuda_tile_copy_of(be, making, ni_cuda_are_codes_read(be, making));
    ni_cuda_knows_amax(be, source, making, copy);
    if (source->minus)
        piece->minus = ni_codes_of(source->minus);
    return true;
}

static nb_status make_piece(nb_backend *be, const ni_source *source, const ni_making *making, nb_error *err) {
    ni_cuda_piece piece;
    ni_cuda_tile_copy copy;
    ni_cuda_list_piece(be, source, making, &piece, &copy);
    return ni_cuda_status(be, ni_cuda_quantize_pieces(stream_of(be), &piece, &copy, 1), "quantize: chosen columns",
                          err);
}

/* ---- making, at once: double blocks (quantize_double.cu) ---- */

/* Codes of all columns, or of the first ones where values alone are made of them: kernels write whole vectors of these. */
static bool is_simple_or_leading(nb_backend *be, const ni_source *source, const ni_making *making) {
    ni_source rest = *source;
    if (source->leading && !ni_cuda_are_codes_read(be, making))
        rest.columns = NULL;
    return ni_source_is_simple(&rest);
}

/* What the kernels read of it: numbers as they lie, or codes (`coded`: which ones); false: the four stages do. */
static bool sixteens_source(nb_backend *be, const ni_source *source, const ni_making *making,
                            bool (*coded)(const nb_quantizer *), ni_cuda_double_source *out) {
    const nb_mat *x = source->numbers;
    const nb_operand *from = source->operand;
    if (x) {
        const bool wide = x->dtype == NB_F32;
        *out = (ni_cuda_double_source){
            .numbers = x->data, .wide = wide, .rows = x->rows, .cols = x->cols, .stride = x->stride};
        return ni_source_is_simple(source) && ni_cuda_is_sixteens(x->rows) && ni_cuda_is_sixteens(x->cols) &&
               x->stride % (wide ? 4 : 8) == 0 && (uintptr_t)x->data % 16 == 0;
    }
    if (!making->transpose || ni_is_plain(from) || !coded(&from->quantizer) ||
        !is_simple_or_leading(be, source, making))
        return false;
    *out = (ni_cuda_double_source){
        .rows = from->rows, .cols = source->columns ? source->column_count : from->cols, .codes = ni_codes_of(from)};
    return from->cols % 32 == 0;
}

static bool is_double_copy(nb_backend *be, const ni_source *source, const ni_making *making,
                           ni_cuda_double_source *out) {
    const nb_operand *to = making->out;
    if (ni_is_plain(to) || making->stats || ni_cuda_is_whole_valued(to) || !ni_is_double(ni_making_quantizer(making)) ||
        !sixteens_source(be, source, making, ni_is_double, out))
        return false;
    if (making->transpose)
        return ni_making_is_whole(source, making) && out->rows % 128 == 0;
    return out->cols % 128 == 0 && to->cols % 128 == 0 && making->at % 128 == 0;
}

bool ni_cuda_list_double(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_double_source *from,
                         ni_cuda_tile_copy *copy, const ni_cuda_tile_copy *first) {
    if (!source->numbers || making->transpose || !is_double_copy(be, source, making, from) ||
        !ni_cuda_are_codes_read(be, making) || !ni_making_is_whole(source, making))
        return false;
    *copy = ni_cuda_tile_copy_of(be, making, true);
    return ni_cuda_double_rows_alike(from, copy, first ? first : copy);
}

static nb_status make_double(nb_backend *be, const ni_cuda_double_source *from, const ni_making *making,
                             nb_error *err) {
    const ni_cuda_tile_copy copy = ni_cuda_tile_copy_of(be, making, ni_cuda_are_codes_read(be, making));
    return ni_cuda_status(be, ni_cuda_quantize_double(stream_of(be), from, &copy, making->transpose),
                          !making->transpose ? "quantize: double blocks"
                          : from->numbers    ? "quantize: double blocks down columns"
                                             : "quantize: double blocks anew",
                          err);
}

/* ---- making, at once: blocks under a rule of their own (quantize_block.cu) ---- */

/* Lanes that hold a tile hold no rotated group. */
static bool has_block_rule(const nb_quantizer *q) {
    if (q->round == NB_ROUND_UP || (q->block_rows == 16 && q->hadamard_size))
        return false;
    if (q->scale_type == NB_SCALE_HIF4)
        return true;
    return q->element == NB_ELEMENT_E2M1 && q->round != NB_ROUND_AWAY &&
           (q->scale_type == NB_SCALE_E8M0 || (q->scale_type == NB_SCALE_E4M3 && q->outer <= NB_OUTER_UNIT));
}

/* Codes whose eight neighbours have one scale. */
static bool are_eights(const nb_quantizer *q) {
    return q->element == NB_ELEMENT_E2M1 && (q->scale_type == NB_SCALE_E8M0 || q->scale_type == NB_SCALE_E4M3);
}

/* And bytes, which are made MXFP8 alone. */
static bool are_eights_or_bytes(const nb_quantizer *q) {
    return are_eights(q) || ni_cuda_is_mxfp8(q);
}

static bool is_block_copy(nb_backend *be, const ni_source *source, const ni_making *making,
                          ni_cuda_double_source *out) {
    const nb_quantizer *q = ni_making_quantizer(making);
    const nb_operand *to = making->out;
    const bool bytes = ni_cuda_is_mxfp8(q); /* of which only values are made here */
    if (ni_is_plain(to) || making->stats || making->past || making->now || ni_cuda_is_whole_valued(to) ||
        !(has_block_rule(q) || (bytes && !ni_cuda_are_codes_read(be, making))) ||
        !sixteens_source(be, source, making, bytes ? are_eights_or_bytes : are_eights, out) ||
        out->rows * (out->cols / 16) > INT32_MAX)
        return false;
    if (!source->numbers && ni_cuda_is_mxfp8(&source->operand->quantizer) && (q->hadamard_size || out->rows % 32))
        return false;
    if (making->transpose)
        return ni_making_is_whole(source, making) && q->block_rows == 1;
    return ni_cuda_is_sixteens(to->cols);
}

/* The operand as the kernels see it; true: its maximum is still to be found, *copy->amax, which is cleared. Units for 8 bits
 * read bytes, which are made of its codes. */
static bool block_copy(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_tile_copy *copy) {
    nb_operand *const out = making->out;
    *copy = ni_cuda_tile_copy_of(be, making, ni_cuda_are_codes_read(be, making));
    if (ni_cuda_units_of(ni_cuda_of(be), &out->quantizer, &out->other) == NI_UNITS_FP8_MX &&
        ni_making_is_whole(source, making)) {
        copy->values = NULL;
        out->form = NI_CUDA_BYTES;
    }
    if (ni_cuda_knows_amax(be, source, making, copy))
        return false;
    copy->amax = making->out->memory;
    ni_cuda_fill_zero(be, making->out->memory, sizeof(uint32_t));
    return true;
}

/* Codes of MXFP4 to nearest, for units for 8 bits: they are all that is made, and then bytes of both at once. */
static nb_status make_mx(nb_backend *be, const ni_cuda_double_source *from, const ni_making *makings, int32_t count,
                         ni_cuda_tile_copy *copies, nb_error *err) {
    nb_operand *made[2];
    for (int32_t i = 0; i < count; i++) {
        made[i] = makings[i].out;
        copies[i].cleared = ni_cuda_mx_place(ni_cuda_values_of(made[i]), made[i]->rows, made[i]->cols).wide;
    }
    const bool columns = makings[0].transpose;
    const int code = ni_cuda_quantize_mx(stream_of(be), from, columns ? NULL : &copies[0],
                                         columns      ? &copies[0]
                                         : count == 2 ? &copies[1]
                                                      : NULL);
    NB_TRY(ni_cuda_status(be, code, "quantize: codes of MXFP4", err));
    return ni_cuda_fill_mx(be, made, count, true, err);
}

static bool are_mx(const ni_cuda_double_source *from, const ni_making *makings, int32_t count,
                   const ni_cuda_tile_copy *copies) {
    for (int32_t i = 0; i < count; i++)
        if (!(makings[i].out->form & NI_CUDA_BYTES) || !ni_cuda_mx_takes(from, &copies[i], makings[i].transpose))
            return false;
    return true;
}

/* One copy, or of numbers two, the second down the columns. */
static nb_status make_blocks(nb_backend *be, const ni_source *source, const ni_cuda_double_source *from,
                             const ni_making *makings, int32_t count, nb_error *err) {
    const bool columns = makings[0].transpose;
    ni_cuda_tile_copy copies[2], *row = NULL, *column = NULL; /* of those whose maxima are to be found */
    for (int32_t i = 0; i < count; i++)
        if (block_copy(be, source, &makings[i], &copies[i]))
            *(makings[i].transpose ? &column : &row) = &copies[i];
    if (row || column)
        NB_TRY(ni_cuda_status(be, ni_cuda_block_amaxes(stream_of(be), from, row, column), "quantize: amax of blocks",
                              err));
    if (are_mx(from, makings, count, copies))
        return make_mx(be, from, makings, count, copies, err);
    NB_TRY(ni_cuda_status(be,
                          count == 2 ? ni_cuda_quantize_blocks(stream_of(be), from, &copies[0], &copies[1])
                                     : ni_cuda_quantize_block(stream_of(be), from, &copies[0], columns),
                          count == 2      ? "quantize: blocks both ways"
                          : !columns      ? "quantize: blocks"
                          : from->numbers ? "quantize: blocks down columns"
                                          : "quantize: blocks anew",
                          err));
    for (int32_t i = 0; i < count; i++)
        if (makings[i].out->form & NI_CUDA_BYTES)
            NB_TRY(ni_cuda_fill_mx(be, (nb_operand *const[]){makings[i].out}, 1, false, err));
    return NB_OK;
}

/* The next making goes with this one: a row copy and a column copy of the same numbers. */
static bool are_blocks_paired(nb_backend *be, const ni_source *source, const ni_cuda_double_source *from,
                              const ni_making *row, const ni_making *column) {
    ni_cuda_double_source same;
    return source->numbers && !row->transpose && column->transpose && !ni_cuda_is_tile_copy(source, column) &&
           ni_cuda_blocks_pair(from, ni_making_quantizer(row), ni_making_quantizer(column)) &&
           is_block_copy(be, source, column, &same);
}

/* The next making goes with this column copy of double blocks: MXFP8 down the same columns, both for products alone. */
static bool is_eight_beside(nb_backend *be, const ni_source *source, const ni_cuda_double_source *from,
                            const ni_making *making, const ni_making *next) {
    const nb_quantizer *q = ni_making_quantizer(next);
    ni_cuda_double_source same;
    return making->transpose && from->numbers && !from->wide && !ni_cuda_are_codes_read(be, making) &&
           next->transpose && ni_cuda_is_mxfp8(q) && q->hadamard_size == 0 && is_block_copy(be, source, next, &same);
}

static nb_status make_double_and_eight(nb_backend *be, const ni_cuda_double_source *from, const ni_making *makings,
                                       nb_error *err) {
    const ni_cuda_tile_copy copies[2] = {ni_cuda_tile_copy_of(be, &makings[0], false),
                                         ni_cuda_tile_copy_of(be, &makings[1], false)};
    return ni_cuda_status(be, ni_cuda_quantize_double_and_eight(stream_of(be), from, &copies[0], &copies[1]),
                          "quantize: double blocks and MXFP8 down columns", err);
}

nb_status ni_cuda_make_at_once(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count,
                               ni_cuda_made *done, nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        done[i] = ni_cuda_is_tile_copy(source, &makings[i]) ? NI_CUDA_MULTIPLIED : NI_CUDA_NOT_MADE;
    for (int32_t i = 0; i < count; i++) {
        const ni_making *const m = &makings[i];
        ni_cuda_double_source from;
        ni_cuda_columns columns;
        ni_cuda_split split;
        if (!done[i] && is_double_copy(be, source, m, &from)) {
            const bool pair = i + 1 < count && !done[i + 1] && is_eight_beside(be, source, &from, m, m + 1);
            done[i] = done[i + pair] = NI_CUDA_MADE;
            NB_TRY(pair ? make_double_and_eight(be, &from, m, err) : make_double(be, &from, m, err));
            i += pair;
        } else if (!done[i] && ni_cuda_is_vector_copy(source, m, &from)) {
            done[i] = NI_CUDA_MADE;
            NB_TRY(ni_cuda_make_vector(be, source, &from, m, err));
        } else if (!done[i] && ni_cuda_recodes_pow2(be, source, m)) {
            done[i] = NI_CUDA_MADE;
            NB_TRY(ni_cuda_recode_pow2(be, &source->operand, &m, 1, err));
        } else if (!done[i] && ni_cuda_list_columns(be, source, m, &columns)) {
            done[i] = NI_CUDA_MADE;
            NB_TRY(ni_cuda_make_column(be, &columns, m->out, err));
        } else if (!done[i] && ni_cuda_is_piece(source, m)) {
            done[i] = NI_CUDA_MADE;
            NB_TRY(make_piece(be, source, m, err));
        } else if (!done[i] && is_tile_weight(source, m)) {
            done[i] = NI_CUDA_MADE;
            NB_TRY(make_weight(be, source, m, err));
        } else if (!done[i] && ni_cuda_list_split(be, source, m, 1, &split)) {
            done[i] = NI_CUDA_MADE;
            NB_TRY(ni_cuda_make_splits(be, &split, 1, err));
        } else if (!done[i] && is_block_copy(be, source, m, &from)) {
            const bool pair = i + 1 < count && are_blocks_paired(be, source, &from, m, m + 1);
            done[i] = done[i + pair] = NI_CUDA_MADE;
            NB_TRY(make_blocks(be, source, &from, m, 1 + pair, err));
            i += pair;
        } else if (done[i]) {
            const bool pair = i + 1 < count && done[i + 1] && !m->transpose && makings[i + 1].transpose;
            NB_TRY(make_tiles(be, source, m->transpose ? NULL : m, m->transpose ? m : pair ? m + 1 : NULL, err));
            NB_TRY(count_tiles(be, source, m, 1 + pair, err));
            i += pair;
        }
    }
    return NB_OK;
}
