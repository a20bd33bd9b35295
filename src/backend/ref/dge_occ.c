/* dge_occ.c: DGE and OCC by their definitions. */
#include "backend/ref/dge_occ.h"
#include "backend/ref/operand_parts.h"
#include "backend/ref/quantize_parts.h"
#include "backend/ref/scaled.h"
#include "format/bf16.h"
#include "format/element.h"
#include "format/narrow.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- DGE ---- */

/* Lower end and width of the cell between two E2M1 numbers that x lies in; closed on the left (section 3.1). */
static float cell(float x, float *width) {
    static const float grid[15] = {-6, -4, -3, -2, -1.5f, -1, -0.5f, 0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    int i = 0;
    while (i < 13 && x >= grid[i + 1])
        i++;
    *width = grid[i + 1] - grid[i];
    return grid[i];
}

float ni_dge_derivative(float x, float k, float cap) {
    float width, low = cell(x, &width);
    float t = fabsf(2 * (x - low) / width - 1);
    t = t > 1 ? 1 : t;
    float slope = powf(t, 1 / k - 1) / k; /* t = 0 gives Inf, and so the cap */
    return slope < cap ? slope : cap;
}

nb_qtensor ni_qtensor_row(const nb_qtensor *q, int64_t row) {
    nb_qtensor one = *q;
    one.rows = 1;
    if (one.codes)
        one.codes += row * (ni_element_info(q->quantizer.element)->bits == 4 ? (q->cols + 1) / 2 : q->cols);
    if (one.scales)
        one.scales += row * ni_scale_bytes(&q->quantizer, q->cols);
    if (one.outer_scales && q->quantizer.outer != NB_OUTER_NONE)
        one.outer_scales += row * (q->cols / 128);
    else if (one.outer_scales && q->quantizer.block_rows != NB_BLOCK_ALL)
        one.outer_scales += row;
    return one;
}

void ni_ref_dge(nb_backend *be, void *dw, const ni_scaled *w, const nb_operand *codes, double k, double cap) {
    (void)be;
    float *gradient = dw;
    const float factor = ni_scaled_factor(w);
    nb_qtensor t = ni_codes_of(codes);
    for (int64_t r = 0; r < t.rows; r++)
        for (int64_t c = 0; c < t.cols; c++) {
            int64_t i = r * t.cols + c;
            float scale = ni_decode_scale(&t, r, c, true);
            float weight = ni_narrow_load(w->data, w->dtype, i) * factor;
            gradient[i] *= ni_dge_derivative(scale > 0 ? weight / scale : 0, (float)k, (float)cap);
        }
}

/* ---- OCC ---- */

nb_status ni_clamp_check(const nb_mat *out, const ni_sparse *rest, const nb_mat *x, int64_t low, int64_t high,
                         bool whole, nb_error *err) {
    int64_t n = whole ? x->rows * x->cols : x->cols, room = whole ? x->cols : low + x->cols - 1 - high;
    if (x->dtype != NB_BF16 || out->dtype != NB_BF16 || out->rows != x->rows || out->cols != x->cols)
        return nb_fail(err, NB_BAD_USAGE, "clamp_rows: input and output must be BF16 of one shape");
    if (low < 0 || high >= n || low > high)
        return nb_fail(err, NB_BAD_USAGE, "clamp_rows: ranks %lld and %lld of %lld numbers; expected 0 <= low <= high",
                       (long long)low, (long long)high, (long long)n);
    if (rest && (rest->rows < x->rows || rest->cols != x->cols || rest->room < room))
        return nb_fail(err, NB_BAD_USAGE, "clamp_rows: room for %lld outliers a row; expected %lld",
                       (long long)rest->room, (long long)room);
    return NB_OK;
}

static int by_key(const void *a, const void *b) {
    return (int)*(const uint16_t *)a - (int)*(const uint16_t *)b;
}

/* Bounds by sorting, as the published code does it. */
static void bounds(uint16_t *keys, int64_t n, int64_t low, int64_t high, float *lo, float *hi) {
    qsort(keys, (size_t)n, sizeof *keys, by_key);
    *lo = ni_bf16_value(ni_bf16_of_key(keys[low]));
    *hi = ni_bf16_value(ni_bf16_of_key(keys[high]));
}

static void collect(const nb_mat *x, uint16_t *keys) {
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t c = 0; c < x->cols; c++)
            *keys++ = ni_bf16_key(((const uint16_t *)x->data)[r * x->stride + c]);
}

static void clamp_row(uint16_t *to, const ni_sparse *rest, const uint16_t *from, int64_t cols, float lo, float hi) {
    int32_t found = 0;
    for (int64_t c = 0; c < cols; c++) {
        float v = ni_bf16_value(from[c]), clamped = v < lo ? lo : v > hi ? hi : v; /* NaN stays */
        to[c] = ni_bf16_even(clamped);
        if (!rest->count || v == clamped || v != v)
            continue;
        rest->column[found] = (int32_t)c;
        ni_sparse_put(rest, found++, v - clamped);
    }
    if (rest->count)
        *rest->count = found;
}

void ni_clamp_between(const nb_mat *out, const ni_sparse *rest, const nb_mat *x, float lo, float hi) {
    for (int64_t r = 0; r < x->rows; r++) {
        nb_mat from = ni_mat_row(x, r), to = ni_mat_row(out, r);
        ni_sparse one = rest ? ni_sparse_row(rest, r) : (ni_sparse){0};
        clamp_row(to.data, &one, from.data, x->cols, lo, hi);
    }
}

nb_status ni_ref_clamp_rows(nb_backend *be, const nb_mat *out, const ni_sparse *rest, const nb_mat *x, int64_t low,
                            int64_t high, bool whole, nb_error *err) {
    (void)be;
    NB_TRY(ni_clamp_check(out, rest, x, low, high, whole, err));
    int64_t rows = whole ? x->rows : 1;
    uint16_t *keys = malloc((size_t)(rows * x->cols) * sizeof *keys);
    if (!keys)
        return nb_fail(err, NB_NO_MEMORY, "clamp_rows: no memory for %lld numbers", (long long)(rows * x->cols));
    for (int64_t r = 0; r < x->rows; r += rows) {
        nb_mat from = ni_mat_row(x, r), to = ni_mat_row(out, r);
        ni_sparse part = rest ? ni_sparse_row(rest, r) : (ni_sparse){0};
        float lo, hi;
        from.rows = to.rows = part.rows = rows;
        collect(&from, keys);
        bounds(keys, rows * x->cols, low, high, &lo, &hi);
        ni_clamp_between(&to, rest ? &part : NULL, &from, lo, hi);
    }
    free(keys);
    return NB_OK;
}

void ni_ref_sparse_product(const nb_mat *c, const ni_sparse *s, const nb_mat *b) {
    for (int64_t r = 0; r < c->rows; r++) {
        float *to = (float *)c->data + r * c->stride;
        for (int32_t i = 0; i < s->count[r]; i++) {
            float v = ni_sparse_at(s, r * s->room + i);
            const uint16_t *row = (const uint16_t *)b->data + s->column[r * s->room + i] * b->stride;
            for (int64_t n = 0; n < c->cols; n++)
                to[n] += v * ni_bf16_value(row[n]);
        }
    }
}

void ni_ref_sparse_add(nb_backend *be, const nb_mat *x, const ni_sparse *s) {
    (void)be;
    for (int64_t r = 0; r < x->rows; r++)
        for (int32_t i = 0; i < s->count[r]; i++) {
            uint16_t *to = (uint16_t *)x->data + r * x->stride + s->column[r * s->room + i];
            *to = ni_bf16_even(ni_bf16_value(*to) + ni_sparse_at(s, r * s->room + i));
        }
}

/* ---- in one call ---- */

nb_status ni_ref_make_clamped(nb_backend *be, const ni_clamping *c, const ni_making *making, nb_error *err) {
    return ni_compose_clamped(be, c, making, err);
}

nb_status ni_ref_decode_with_rest(nb_backend *be, const nb_mat *out, const nb_operand *from, const ni_sparse *s,
                                  nb_error *err) {
    return ni_compose_decoded(be, out, from, s, err);
}

nb_status ni_ref_make_compensated(nb_backend *be, const ni_clamping *c, const ni_making *making, const ni_making *dense,
                                  nb_error *err) {
    return ni_compose_compensated(be, c, making, dense, err);
}
