/* operand_vectors.c: operands under FP32 scales of rows, of columns or of the whole, which a kernel makes of one reading,
 * and many weights of that kind by few launches.
 */
#include "backend/cuda/coded.h"
#include "backend/cuda/list.h"
#include "backend/cuda/operand.h"
#include "backend/cuda/rows.h"
#include "backend/ref/dge_occ.h"
#include "backend/ref/operand_parts.h"
#include "backend/ref/quantize_parts.h"
#include "format/vector_scales.h"

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

/* ---- at once (quantize_vector.cu) ---- */

bool ni_cuda_is_vector_copy(const ni_source *source, const ni_making *making, ni_cuda_double_source *out) {
    const nb_quantizer *q = ni_making_quantizer(making);
    const nb_mat *x = source->numbers;
    const bool rows = ni_has_row_scales(q), whole = ni_has_tensor_scale(q);
    if (!x || making->transpose || making->stats || ni_is_plain(making->out) || !ni_source_is_simple(source) ||
        !ni_making_is_whole(source, making) || q->hadamard_size || !(rows || whole) ||
        !(q->round == NB_ROUND_EVEN || q->round == NB_ROUND_UP))
        return false;
    const bool wide = x->dtype == NB_F32;
    *out = (ni_cuda_double_source){
        .numbers = x->data, .wide = wide, .rows = x->rows, .cols = x->cols, .stride = x->stride};
    return x->rows > 0 && x->rows <= INT32_MAX && ni_cuda_is_sixteens(x->cols) && x->stride % 8 == 0 &&
           (uintptr_t)x->data % 16 == 0 && (!whole || x->amax || (ni_cuda_is_sixteens(x->rows) && !wide));
}

/* Rows of four-bit codes whose product is of units for 8 bits. Weights keep their values too, which a sparse product
 * may want. */
static bool is_multiplied_as_bytes(nb_backend *be, const nb_operand *o) {
    const nb_quantizer *q = &o->quantizer;
    return (q->element == NB_ELEMENT_E2M1 || q->element == NB_ELEMENT_INT4) && q->block_rows == 1 &&
           ni_cuda_units_of(ni_cuda_of(be), q, &o->other) == NI_UNITS_FP8;
}

/* The operand as the kernels see it; its amax is still to be found. */
static ni_cuda_vector vector_copy(nb_backend *be, const ni_cuda_double_source *from, const ni_making *making) {
    nb_operand *out = making->out;
    const nb_qtensor codes = ni_codes_of(out);
    const bool coded = ni_cuda_are_codes_read(be, making), as_bytes = is_multiplied_as_bytes(be, out),
               bytes = as_bytes && !from->wide,
               beside = as_bytes && from->wide && out->side == NI_RIGHT && out->quantizer.element == NB_ELEMENT_E2M1,
               pow2 = ni_cuda_goes_as_pow2(be, out), carried = !from->wide && ni_cuda_is_carried(be, out);
    out->form = pow2 ? NI_CUDA_POW2
                     : (coded ? bytes    ? NI_CUDA_BYTES
                                : beside ? NI_CUDA_BESIDE
                                         : 0
                              : NI_CUDA_UNCODED) |
                           (carried ? NI_CUDA_CARRIED : 0);
    out->outer = codes.tensor_scale;
    return (ni_cuda_vector){.quantizer = *ni_making_quantizer(making),
                            .values = pow2 || bytes ? NULL : ni_cuda_values_of(out),
                            .bytes = bytes    ? (uint8_t *)ni_cuda_values_of(out)
                                     : beside ? ni_cuda_bytes_beside(out)
                                              : NULL,
                            .whole = ni_cuda_is_whole_valued(out) || carried,
                            .codes = coded ? codes.codes : NULL,
                            .row_scales = codes.outer_scales,
                            .tensor_scale = codes.tensor_scale};
}

bool ni_cuda_list_rows(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_double_source *from,
                       ni_cuda_vector *v) {
    const nb_quantizer *q = ni_making_quantizer(making);
    if (q->element != NB_ELEMENT_E2M1 || q->block_rows != 1 || !ni_cuda_is_vector_copy(source, making, from) ||
        !from->wide || ni_cuda_goes_as_pow2(be, making->out))
        return false;
    *v = vector_copy(be, from, making);
    return true;
}

nb_status ni_cuda_make_vector(nb_backend *be, const ni_source *source, const ni_cuda_double_source *from,
                              const ni_making *making, nb_error *err) {
    nb_operand *out = making->out;
    ni_cuda_vector v = vector_copy(be, from, making);
    if (ni_has_tensor_scale(&v.quantizer)) {
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
    if (out->form & NI_CUDA_POW2 && v.amax && !from->wide && v.quantizer.round == NB_ROUND_EVEN)
        return ni_cuda_make_pow2_numbers(be, from, v.amax, out, err);
    NB_TRY(ni_cuda_status(be, ni_cuda_quantize_vector(stream_of(be), from, &v), "quantize: vectors", err));
    return out->form & NI_CUDA_POW2 ? ni_cuda_fill_values(be, out, err) : NB_OK;
}

/* ---- many at once: weights under a scale a column (quantize_columns.cu) ---- */

static bool is_by_column(const nb_quantizer *q) {
    return q->element == NB_ELEMENT_E2M1 && ni_has_column_scales(q) && q->hadamard_size == 0 &&
           (q->round == NB_ROUND_EVEN || q->round == NB_ROUND_UP);
}

static bool has_columns_for(const void *data, int64_t rows, int64_t cols) {
    return rows > 0 && rows <= INT32_MAX && cols <= INT32_MAX && ni_cuda_is_sixteens(cols) && (uintptr_t)data % 16 == 0;
}

bool ni_cuda_takes_kept(const nb_quantizer *q, const ni_scaled *kept, int64_t rows, int64_t cols) {
    return kept->scale && is_by_column(q) && has_columns_for(kept->data, rows, cols);
}

bool ni_cuda_list_columns(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_columns *c) {
    const nb_quantizer *q = ni_making_quantizer(making);
    const nb_mat *w = source->numbers;
    nb_operand *out = making->out;
    if (!w || !(w->dtype == NB_F32 || source->scale) || making->transpose || making->stats || ni_is_plain(out) ||
        !ni_source_is_simple(source) || !ni_making_is_whole(source, making) || !is_by_column(q) ||
        w->stride != w->cols || !has_columns_for(w->data, w->rows, w->cols))
        return false;
    const nb_qtensor codes = ni_codes_of(out);
    out->form = ni_cuda_goes_as_pow2(be, out) ? NI_CUDA_POW2 : 0;
    out->outer = NULL;
    *c = (ni_cuda_columns){.from = {.data = w->data, .dtype = w->dtype, .scale = (float *)source->scale},
                           .rows = w->rows,
                           .cols = w->cols,
                           .rule = q->rule,
                           .round = q->round,
                           .codes = codes.codes,
                           .scales = codes.outer_scales,
                           .values = out->form ? NULL : ni_cuda_values_of(out)};
    return true;
}

nb_status ni_cuda_make_columns(nb_backend *be, const ni_cuda_columns *weights, const nb_operand *const *out, int count,
                               nb_error *err) {
    const nb_operand *filled[NI_CUDA_LIST_MOST];
    int fills = 0;
    uint32_t *amaxes =
        ni_cuda_scratch(be, (size_t)ni_cuda_column_words(weights, count) * sizeof *amaxes, "maxima of columns");
    NB_TRY(ni_cuda_status(be, amaxes ? ni_cuda_quantize_columns(stream_of(be), weights, count, amaxes) : 0,
                          "quantize: columns of weights", err));
    for (int i = 0; i < count; i++)
        if (out[i]->form & NI_CUDA_POW2)
            filled[fills++] = out[i];
    return fills ? ni_cuda_fill_pow2(be, filled, fills, err) : NB_OK;
}

nb_status ni_cuda_make_column(nb_backend *be, const ni_cuda_columns *weight, const nb_operand *out, nb_error *err) {
    return ni_cuda_make_columns(be, weight, &out, 1, err);
}

nb_status ni_cuda_make_clamped(nb_backend *be, const ni_clamping *c, const ni_making *making, nb_error *err) {
    const ni_source source = {.numbers = c->x};
    ni_cuda_double_source from;
    if (c->whole || c->x->rows == 0 || !ni_cuda_is_vector_copy(&source, making, &from) || from.wide ||
        ni_has_tensor_scale(ni_making_quantizer(making)))
        return ni_compose_clamped(be, c, making, err);
    const ni_cuda_vector v = vector_copy(be, &from, making);
    if (!ni_cuda_clamps_into_codes(&v, c->rest, c->x))
        return ni_compose_clamped(be, c, making, err);
    NB_TRY(ni_clamp_check(c->clamped, c->rest, c->x, c->low, c->high, false, err));
    NB_TRY(ni_check_making(&source, making, err));
    NB_TRY(ni_cuda_status(be, ni_cuda_launch_clamp_codes(stream_of(be), &v, c->rest, c->x, c->low, c->high),
                          "quantize: clamped vectors", err));
    return making->out->form & NI_CUDA_POW2 ? ni_cuda_fill_values(be, making->out, err) : NB_OK;
}

/* Whether numbers alone can be made, and their maximum with them, of which `dense` is made. */
static bool is_compensated(const ni_clamping *c, const ni_making *making, const nb_mat *numbers,
                           const ni_making *dense) {
    const nb_quantizer *q = ni_making_quantizer(making);
    const ni_source of = {.numbers = c->x}, sum = {.numbers = numbers};
    ni_cuda_double_source from;
    return !c->whole && !c->rest->exact && ni_has_row_scales(q) && ni_cuda_compensates(q, numbers, c->x) &&
           ni_cuda_is_vector_copy(&of, making, &from) && !from.wide &&
           ni_has_tensor_scale(ni_making_quantizer(dense)) && ni_cuda_is_vector_copy(&sum, dense, &from);
}

nb_status ni_cuda_make_compensated(nb_backend *be, const ni_clamping *c, const ni_making *making,
                                   const ni_making *dense, nb_error *err) {
    const ni_source of = {.numbers = c->x};
    nb_mat sum = *c->clamped;
    sum.amax = dense->out->memory;
    if (!is_compensated(c, making, &sum, dense))
        return ni_compose_compensated(be, c, making, dense, err);
    NB_TRY(ni_clamp_check(&sum, c->rest, c->x, c->low, c->high, false, err));
    NB_TRY(ni_check_making(&of, making, err));
    making->out->form = NI_CUDA_UNCODED;
    making->out->outer = NULL;
    const ni_cuda_compensated to = {sum.data, sum.stride, ni_making_quantizer(making)->rule, sum.amax};
    ni_cuda_fill_zero(be, sum.amax, sizeof *sum.amax);
    NB_TRY(ni_cuda_status(be, ni_cuda_launch_compensated(stream_of(be), &to, c->x, c->low, c->high),
                          "clamp, round to INT4, add the rest", err));
    return be->ops->make_operands(be, &(ni_source){.numbers = &sum}, dense, 1, err);
}
