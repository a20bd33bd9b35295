/* quantize_parts.c: checks, loading, decoding and statistics around the reference quantizer. */
#include "backend/ref/quantize_parts.h"

#include "format/bf16.h"
#include "format/e4m3.h"
#include "format/e8m0.h"
#include "format/element.h"
#include "format/hif4.h"

#include <math.h>
#include <string.h>

/* ---- checks ---- */

static bool has_buffers(const nb_qtensor *t) {
    nb_qtensor_size need = nb_qtensor_bytes(&t->quantizer, t->rows, t->cols);
    return (t->codes || !need.codes) && (t->scales || !need.scales) && (t->outer_scales || !need.outer_scales) &&
           (t->tensor_scale || !need.tensor_scale);
}

static nb_status check_operand(const nb_qtensor *t, nb_error *err) {
    NB_TRY(nb_quantizer_check_shape(&t->quantizer, t->rows, t->cols, err));
    if (nb_quantizer_is_bf16(&t->quantizer))
        return nb_fail(err, NB_BAD_USAGE, "quantize: a BF16 operand has no codes");
    if (!has_buffers(t))
        return nb_fail(err, NB_BAD_USAGE, "quantize: an operand buffer is missing; place it by nb_qtensor_place");
    return NB_OK;
}

nb_status ni_check_quantize(const nb_qtensor *out, int64_t rows, int64_t cols, bool transpose, const nb_noise *noise,
                            nb_error *err) {
    const nb_quantizer *q = &out->quantizer;
    NB_TRY(check_operand(out, err));
    if (out->rows != (transpose ? cols : rows) || out->cols != (transpose ? rows : cols))
        return nb_fail(err, NB_BAD_USAGE, "quantize: source %lld x %lld%s does not fit operand %lld x %lld",
                       (long long)rows, (long long)cols, transpose ? " transposed" : "", (long long)out->rows,
                       (long long)out->cols);
    bool fresh = q->hadamard_size && q->hadamard_signs == NB_SIGNS_FRESH;
    if (!noise && (nb_quantizer_draws_bits(q) || fresh))
        return nb_fail(err, NB_BAD_USAGE, "quantize: stochastic rounding and fresh signs need a noise key");
    return NB_OK;
}

nb_status ni_check_source(const nb_mat *src, nb_error *err) {
    if (src->dtype != NB_F32 && src->dtype != NB_BF16)
        return nb_fail(err, NB_BAD_USAGE, "quantize: source is %s, expected f32 or bf16", nb_dtype_name(src->dtype));
    if (!src->data || src->stride < src->cols)
        return nb_fail(err, NB_BAD_USAGE, "quantize: source without data, or stride below its %lld columns",
                       (long long)src->cols);
    return NB_OK;
}

nb_status ni_check_requantize(const nb_qtensor *src, nb_error *err) {
    return check_operand(src, err);
}

static bool same_format(const nb_quantizer *a, const nb_quantizer *b) {
    return a->element == b->element && a->scale_type == b->scale_type && a->rule == b->rule && a->outer == b->outer;
}

nb_status ni_check_transpose_codes(const nb_qtensor *out, const nb_qtensor *src, nb_error *err) {
    const nb_quantizer *q = &src->quantizer, *t = &out->quantizer;
    NB_TRY(check_operand(src, err));
    NB_TRY(check_operand(out, err));
    if (out->rows != src->cols || out->cols != src->rows)
        return nb_fail(err, NB_BAD_USAGE, "transpose_codes: %lld x %lld is not the transpose of %lld x %lld",
                       (long long)out->rows, (long long)out->cols, (long long)src->rows, (long long)src->cols);
    bool symmetric = q->block_rows == q->block_cols || q->scale_type == NB_SCALE_F32;
    if (q->hadamard_size || t->hadamard_size || !symmetric || !same_format(q, t) || t->block_rows != q->block_cols ||
        t->block_cols != q->block_rows) {
        char from[160], to[160];
        return nb_fail(err, NB_BAD_USAGE, "transpose_codes: scales of %s do not become those of %s; requantize instead",
                       nb_quantizer_text(q, from, sizeof from), nb_quantizer_text(t, to, sizeof to));
    }
    return NB_OK;
}

nb_status ni_check_dequantize(const nb_mat *out, const nb_qtensor *src, bool transpose, nb_error *err) {
    NB_TRY(check_operand(src, err));
    NB_TRY(ni_check_source(out, err));
    if (out->rows != (transpose ? src->cols : src->rows) || out->cols != (transpose ? src->rows : src->cols))
        return nb_fail(err, NB_BAD_USAGE, "dequantize: operand %lld x %lld%s does not fit %lld x %lld",
                       (long long)src->rows, (long long)src->cols, transpose ? " transposed" : "", (long long)out->rows,
                       (long long)out->cols);
    return NB_OK;
}

/* ---- values ---- */

void ni_load_row(const nb_mat *src, bool transpose, int64_t r, int64_t cols, float *x) {
    int64_t first = transpose ? r : r * src->stride, step = transpose ? src->stride : 1;
    for (int64_t c = 0; c < cols; c++) {
        int64_t at = first + c * step;
        x[c] =
            src->dtype == NB_BF16 ? ni_bf16_value(((const uint16_t *)src->data)[at]) : ((const float *)src->data)[at];
    }
}

void ni_rotate_row(const nb_quantizer *q, ni_sign_mask signs, float *x, int64_t cols) {
    if (!q->hadamard_size)
        return;
    for (int64_t c = 0; c < cols; c += q->hadamard_size)
        ni_hadamard(x + c, q->hadamard_size, signs);
    if (q->hadamard_round_bf16)
        for (int64_t c = 0; c < cols; c++)
            x[c] = ni_bf16_round(x[c]);
}

uint8_t ni_code_at(const nb_qtensor *t, int64_t r, int64_t c) {
    if (ni_element_info(t->quantizer.element)->bits == 8)
        return t->codes[r * t->cols + c];
    return t->codes[r * ((t->cols + 1) / 2) + c / 2] >> (4 * (c % 2)) & 15u;
}

float ni_decode_scale(const nb_qtensor *t, int64_t r, int64_t c, bool with_tensor_scale) {
    const nb_quantizer *q = &t->quantizer;
    float tensor = with_tensor_scale && t->tensor_scale ? *t->tensor_scale : 1.0f;
    switch (q->scale_type) {
    case NB_SCALE_E4M3: {
        float s8 = ni_e4m3_value(t->scales[r * (t->cols / 16) + c / 16]);
        return ni_f32_mul(s8, t->outer_scales ? t->outer_scales[r * (t->cols / 128) + c / 128] : tensor);
    }
    case NB_SCALE_E8M0:
        return ni_f32_mul(ni_e8m0_value(t->scales[r * (t->cols / 32) + c / 32]), tensor);
    case NB_SCALE_HIF4:
        return ni_hif4_decode(t->scales + (r * t->cols + c) / NI_HIF4_GROUP * NI_HIF4_BYTES, (int)(c % NI_HIF4_GROUP));
    case NB_SCALE_F32:
        return t->outer_scales ? t->outer_scales[q->block_rows == 1 ? r : c] : tensor;
    case NB_SCALE_NONE:
        break;
    }
    return 1.0f;
}

void ni_decode_span(const nb_qtensor *t, int64_t r, int64_t c0, int64_t c1, bool with_tensor_scale, float *x) {
    float (*value)(uint8_t) = ni_element_info(t->quantizer.element)->value;
    for (int64_t c = c0; c < c1; c++)
        x[c - c0] = ni_f32_mul(value(ni_code_at(t, r, c)), ni_decode_scale(t, r, c, with_tensor_scale));
}

/* ---- statistics ---- */

/* Sums of a chunk in eight lanes (position in the span modulo 8), which a compiler may keep in vectors. */
enum { LANES = 8 };
typedef struct lane_sums {
    double sq[LANES], error[LANES], product[LANES];
    uint32_t amax[LANES];
    int32_t nonzero[LANES], flushed[LANES], saturated[LANES];
} lane_sums;

static void add_lanes(const float *restrict x, const float *restrict decoded, float limit, lane_sums *restrict s) {
    for (int l = 0; l < LANES; l++) {
        double value = (double)x[l], back = (double)decoded[l], d = value - back;
        s->sq[l] += value * value;
        s->error[l] += d * d;
        s->product[l] += value * back;
    }
    for (int l = 0; l < LANES; l++) {
        uint32_t a = ni_f32_magnitude(x[l]);
        int32_t nonzero = a != 0, zero = ni_f32_magnitude(decoded[l]) == 0;
        s->amax[l] = a > s->amax[l] ? a : s->amax[l];
        s->nonzero[l] += nonzero;
        s->flushed[l] += nonzero & zero;
        s->saturated[l] += ni_f32_abs(x[l]) > limit;
    }
}

/* Columns [c0, c1) of row r lie under one scale. Zeros fill the last lanes: they count for nothing. */
static void stats_span(const nb_qtensor *t, int64_t r, int64_t c0, int64_t c1, const float *x, const float *decoded,
                       lane_sums *s) {
    float limit = ni_saturation_limit(ni_element_info(t->quantizer.element)->max, ni_decode_scale(t, r, c0, true));
    int64_t c = c0;
    for (; c + LANES <= c1; c += LANES)
        add_lanes(x + c, decoded + c, limit, s);
    if (c < c1) {
        float rest[LANES] = {0}, rest_decoded[LANES] = {0};
        memcpy(rest, x + c, (size_t)(c1 - c) * sizeof *x);
        memcpy(rest_decoded, decoded + c, (size_t)(c1 - c) * sizeof *x);
        add_lanes(rest, rest_decoded, limit, s);
    }
}

int64_t ni_stats_zero_scales(const nb_qtensor *t, const float *x, int64_t r0, int64_t rows) {
    int64_t count = 0, tile = t->quantizer.block_rows;
    if (t->quantizer.scale_type != NB_SCALE_E4M3)
        return 0;
    for (int64_t r = 0; r < rows; r += tile)
        for (int64_t c = 0; c < t->cols; c += 16) {
            if (t->scales[(r0 + r) * (t->cols / 16) + c / 16])
                continue;
            uint32_t any = 0;
            for (int64_t i = r; i < r + tile && i < rows; i++)
                for (int64_t k = c; k < c + 16; k++)
                    any |= ni_f32_magnitude(x[i * t->cols + k]);
            count += any != 0;
        }
    return count;
}

void ni_stats_chunk(const nb_qtensor *t, const float *x, const float *decoded, int64_t r0, int64_t rows,
                    nb_quantize_stats *chunk) {
    nb_quantize_stats total = {0};
    lane_sums sums = {.sq = {0}};
    uint32_t amax = 0;
    int64_t width = t->quantizer.block_cols == NB_BLOCK_ALL    ? t->cols
                    : t->quantizer.scale_type == NB_SCALE_HIF4 ? NI_HIF4_FINE
                                                               : t->quantizer.block_cols;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < t->cols; c += width)
            stats_span(t, r0 + r, c, c + width, x + r * t->cols, decoded + r * t->cols, &sums);
    for (int l = 0; l < LANES; l++) {
        amax = sums.amax[l] > amax ? sums.amax[l] : amax;
        total.nonzero += sums.nonzero[l];
        total.flushed += sums.flushed[l];
        total.saturated += sums.saturated[l];
        total.sum_sq += sums.sq[l];
        total.sum_sq_error += sums.error[l];
        total.sum_product += sums.product[l];
    }
    total.amax = (double)ni_f32_from(amax);
    total.zero_scales = ni_stats_zero_scales(t, x, r0, rows);
    *chunk = total;
}

int64_t ni_stats_blocks(const nb_qtensor *t) {
    const nb_quantizer *q = &t->quantizer;
    int64_t down = q->block_rows == NB_BLOCK_ALL ? 1 : (t->rows + q->block_rows - 1) / q->block_rows;
    int64_t across = q->block_cols == NB_BLOCK_ALL ? 1 : t->cols / q->block_cols;
    return down * across;
}

void ni_stats_total(const nb_qtensor *t, const nb_quantize_stats *chunks, int64_t count, nb_quantize_stats *total) {
    nb_quantize_stats sum = {0};
    for (int64_t i = 0; i < count; i++) {
        const nb_quantize_stats *c = &chunks[i];
        sum.amax = isnan(sum.amax) || c->amax < sum.amax ? sum.amax : c->amax; /* NaN wins */
        sum.nonzero += c->nonzero;
        sum.flushed += c->flushed;
        sum.saturated += c->saturated;
        sum.zero_scales += c->zero_scales;
        sum.sum_sq += c->sum_sq;
        sum.sum_sq_error += c->sum_sq_error;
        sum.sum_product += c->sum_product;
    }
    sum.elements = t->rows * t->cols;
    sum.blocks = ni_stats_blocks(t);
    *total = sum;
}
