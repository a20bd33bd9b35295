/* quantize.c: the reference quantizer. Load, rotate, find the scales, write the codes; docs/formats.md has the
 * formulas.
 */
#include "backend/ref/quantize.h"

#include "backend/ref/quantize_parts.h"
#include "format/bf16.h"
#include "format/e2m1.h"
#include "format/e4m3.h"
#include "format/e8m0.h"
#include "format/element.h"
#include "format/four_six.h"
#include "format/hif4.h"
#include "format/noise.h"
#include "format/quartet.h"
#include "format/scale.h"

#include <stdlib.h>

/* One quantization on its way: the operand, and its rotated input x [rows, cols]. */
typedef struct job {
    const nb_qtensor *out;
    const ni_element_row *element;
    const float *x;
    const ni_noise_key *noise;
    const float *outer_amax; /* [1] what the tensor's scale is made from; NULL: the amax of x */
} job;

static float amax_of(const job *j, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    uint32_t amax = 0;
    for (int64_t r = r0; r < r1; r++)
        for (int64_t c = c0; c < c1; c++) {
            uint32_t a = ni_f32_magnitude(j->x[r * j->out->cols + c]);
            amax = a > amax ? a : amax;
        }
    return ni_f32_from(amax);
}

/* Columns of one row must come in ascending order: the even element of a byte clears the odd one. */
static void put_code(const nb_qtensor *out, int64_t r, int64_t c, int bits, uint8_t code) {
    if (bits == 8)
        out->codes[r * out->cols + c] = code;
    else if (c % 2 == 0)
        out->codes[r * ((out->cols + 1) / 2) + c / 2] = code;
    else
        out->codes[r * ((out->cols + 1) / 2) + c / 2] |= (uint8_t)(code << 4);
}

static void zero_span(const job *j, int64_t r, int64_t c0, int64_t c1) {
    for (int64_t c = c0; c < c1; c++)
        put_code(j->out, r, c, j->element->bits, 0);
}

/* Codes of columns [c0, c1) of row r: round(fl(x * multiplier)). */
static void encode_span(const job *j, int64_t r, int64_t c0, int64_t c1, float multiplier) {
    const nb_qtensor *out = j->out;
    float u[NI_NOISE_GROUP];
    for (int64_t c = c0; c < c1; c++) {
        int64_t e = r * out->cols + c;
        float y = ni_f32_mul(j->x[e], multiplier);
        uint8_t code;
        if (out->quantizer.round == NB_ROUND_STOCHASTIC) {
            if (c == c0 || e % NI_NOISE_GROUP == 0)
                ni_noise_group(j->noise, (uint32_t)(e / NI_NOISE_GROUP), out->quantizer.sr_bits, u);
            code = j->element->stochastic(y, u[e % NI_NOISE_GROUP]);
        } else {
            code = out->quantizer.round == NB_ROUND_UP     ? j->element->up(y)
                   : out->quantizer.round == NB_ROUND_AWAY ? j->element->away(y)
                                                           : j->element->even(y);
        }
        put_code(out, r, c, j->element->bits, code);
    }
}

/* What the elements of a block (at most 16 rows) err under one of its two scales. */
static float block_error(const job *j, int64_t r0, int64_t r1, int64_t c0, uint8_t byte, float encode, float amax) {
    const nb_quantizer *q = &j->out->quantizer;
    float max_of_both = ni_e4m3_target_for(q).max_of_both;
    float row[16] = {0}, even[16] = {0}, odd[16] = {0};
    for (int64_t r = r0; r < r1; r++) {
        float t[16];
        for (int64_t c = 0; c < 16; c++) {
            t[c] = ni_four_six_term(q, j->x[r * j->out->cols + c0 + c], byte, encode, amax, max_of_both);
            float *column = (r - r0) % 2 ? &odd[c] : &even[c];
            *column = ni_f32_add(*column, t[c]);
        }
        row[r - r0] = ni_four_six_row(q, t);
    }
    if (ni_four_six_in_columns(q))
        return ni_four_six_eighths(even, odd);
    return q->block_rows == 16 ? ni_four_six_rows(q, row) : row[0];
}

/* The scale byte of the block of rows [r0, r1) and 16 columns from c0. */
static uint8_t nvfp4_byte(const job *j, ni_tensor_scale t, float amax, int64_t r0, int64_t r1, int64_t c0) {
    const nb_quantizer *q = &j->out->quantizer;
    float amax_block = amax_of(j, r0, r1, c0, c0 + 16);
    if (!q->four_six)
        return ni_block_scale_byte(t, amax_block);
    ni_two_scales s = ni_four_six_bytes(ni_e4m3_target_for(q), t, amax_block);
    float six = block_error(j, r0, r1, c0, s.six, ni_block_encode(s.six, t.sdec), amax);
    float four = block_error(j, r0, r1, c0, s.four, ni_block_encode(s.four, t.sdec), amax);
    return four < six ? s.four : s.six;
}

/* NVFP4: 1x16 or 16x16 blocks under a tensor scale, or under none. A block whose byte is 0 decodes to zero whatever its
 * codes; they are written as 0. */
static void quantize_nvfp4(const job *j) {
    const nb_qtensor *out = j->out;
    float amax = j->outer_amax ? *j->outer_amax : amax_of(j, 0, out->rows, 0, out->cols);
    ni_tensor_scale t = ni_tensor_scale_of(ni_e4m3_target_for(&out->quantizer), out->quantizer.outer, amax);
    if (out->tensor_scale)
        *out->tensor_scale = t.sdec;
    for (int64_t r0 = 0; r0 < out->rows; r0 += out->quantizer.block_rows)
        for (int64_t c0 = 0; c0 < out->cols; c0 += 16) {
            int64_t r1 = r0 + out->quantizer.block_rows < out->rows ? r0 + out->quantizer.block_rows : out->rows;
            uint8_t byte = nvfp4_byte(j, t, amax, r0, r1, c0);
            for (int64_t r = r0; r < r1; r++) {
                out->scales[r * (out->cols / 16) + c0 / 16] = byte;
                if (byte)
                    encode_span(j, r, c0, c0 + 16, ni_block_encode(byte, t.sdec));
                else
                    zero_span(j, r, c0, c0 + 16);
            }
        }
}

/* The sums of one rotated group, rounded to nearest under first[b] for block b. */
static ni_eden_sums eden_sums(const float *x, int64_t n, const uint8_t *first, float sdec) {
    float squares[NI_HADAMARD_MAX / 16], products[NI_HADAMARD_MAX / 16];
    for (int64_t b = 0; b < n / 16; b++) {
        float square[16], product[16], encode = ni_block_encode(first[b], sdec);
        for (int i = 0; i < 16; i++) {
            float y = ni_f32_mul(x[16 * b + i], encode);
            square[i] = ni_f32_mul(y, y);
            product[i] = ni_f32_mul(y, ni_e2m1_value(ni_e2m1_even(y)));
        }
        squares[b] = ni_tree_sum(square, 16);
        products[b] = ni_tree_sum(product, 16);
    }
    return (ni_eden_sums){ni_tree_sum(squares, (int)n / 16), ni_tree_sum(products, (int)n / 16)};
}

static float scale_noise(const job *j, int64_t block) {
    float u[NI_NOISE_GROUP];
    ni_noise_group(j->noise, (uint32_t)(block / NI_NOISE_GROUP), j->out->quantizer.sr_bits, u);
    return u[block % NI_NOISE_GROUP];
}

/* MS-EDEN: codes under the first scales, stored under corrected ones. */
static void quantize_eden(const job *j) {
    const nb_qtensor *out = j->out;
    const int64_t n = out->quantizer.hadamard_size, blocks = out->cols / 16;
    float amax = j->outer_amax ? *j->outer_amax : amax_of(j, 0, out->rows, 0, out->cols);
    ni_tensor_scale t = ni_tensor_scale_of(ni_e4m3_target_of(NB_RULE_EDEN), out->quantizer.outer, amax);
    *out->tensor_scale = t.sdec;
    for (int64_t r = 0; r < out->rows; r++)
        for (int64_t c0 = 0; c0 < out->cols; c0 += n) {
            uint8_t first[NI_HADAMARD_MAX / 16];
            for (int64_t b = 0; b < n / 16; b++)
                first[b] =
                    ni_eden_first_byte(ni_block_scale_byte(t, amax_of(j, r, r + 1, c0 + 16 * b, c0 + 16 * b + 16)));
            float factor = ni_eden_factor(eden_sums(j->x + r * out->cols + c0, n, first, t.sdec));
            for (int64_t b = 0; b < n / 16; b++) {
                int64_t c = c0 + 16 * b, block = r * blocks + c / 16;
                uint8_t byte = ni_eden_byte(first[b], factor, scale_noise(j, block));
                out->scales[block] = byte;
                if (byte)
                    encode_span(j, r, c, c + 16, ni_block_encode(first[b], t.sdec));
                else
                    zero_span(j, r, c, c + 16);
            }
        }
}

/* Double block: 1x16 with E4M3 scales inside 1x128 with FP32 scales. */
static void quantize_outer128(const job *j) {
    const nb_qtensor *out = j->out;
    ni_e4m3_target target = ni_e4m3_target_of(out->quantizer.rule);
    for (int64_t r = 0; r < out->rows; r++)
        for (int64_t c128 = 0; c128 < out->cols; c128 += 128) {
            float outer = ni_outer128_scale(target, out->quantizer.outer, amax_of(j, r, r + 1, c128, c128 + 128));
            out->outer_scales[r * (out->cols / 128) + c128 / 128] = outer;
            for (int64_t c = c128; c < c128 + 128; c += 16) {
                uint8_t byte = ni_outer128_scale_byte(target, outer, amax_of(j, r, r + 1, c, c + 16));
                out->scales[r * (out->cols / 16) + c / 16] = byte;
                if (byte)
                    encode_span(j, r, c, c + 16, ni_outer128_encode(byte, outer));
                else
                    zero_span(j, r, c, c + 16);
            }
        }
}

static uint8_t mx_byte(const job *j, int64_t r, int64_t c) {
    const float *x = j->x + r * j->out->cols + c, amax = amax_of(j, r, r + 1, c, c + 32), max = j->element->max;
    float values[32], squares[32];
    if (j->out->quantizer.rule != NB_RULE_QUEST)
        return ni_e8m0_of(j->out->quantizer.rule, amax, max);
    for (int i = 0; i < 32; i++) {
        values[i] = x[i];
        squares[i] = ni_f32_mul(x[i], x[i]);
    }
    return ni_e8m0_quest(ni_tree_sum(values, 32), ni_tree_sum(squares, 32));
}

static void quantize_mx(const job *j) {
    const nb_qtensor *out = j->out;
    if (out->tensor_scale)
        *out->tensor_scale = NI_FOUR_THIRDS;
    for (int64_t r = 0; r < out->rows; r++)
        for (int64_t c = 0; c < out->cols; c += 32) {
            uint8_t byte = mx_byte(j, r, c);
            out->scales[r * (out->cols / 32) + c / 32] = byte;
            encode_span(j, r, c, c + 32, ni_e8m0_encode(out->quantizer.rule, byte));
        }
}

static void quantize_hif4(const job *j) {
    const nb_qtensor *out = j->out;
    for (int64_t r = 0; r < out->rows; r++)
        for (int64_t c = 0; c < out->cols; c += NI_HIF4_GROUP) {
            uint8_t *scales = out->scales + (r * out->cols + c) / NI_HIF4_GROUP * NI_HIF4_BYTES;
            uint32_t amax[NI_HIF4_GROUP / NI_HIF4_FINE];
            for (int i = 0; i < NI_HIF4_GROUP; i += NI_HIF4_FINE)
                amax[i / NI_HIF4_FINE] = ni_f32_bits(amax_of(j, r, r + 1, c + i, c + i + NI_HIF4_FINE));
            ni_hif4_scales(amax, scales);
            for (int i = 0; i < NI_HIF4_GROUP; i += NI_HIF4_FINE)
                encode_span(j, r, c + i, c + i + NI_HIF4_FINE, ni_hif4_encode(scales, i));
        }
}

static void quantize_vector(const job *j) {
    const nb_qtensor *out = j->out;
    nb_scale_rule rule = out->quantizer.rule;
    float max = j->element->max;
    int64_t rows = out->rows, cols = out->cols;
    if (out->quantizer.block_rows == 1) {
        for (int64_t r = 0; r < rows; r++) {
            float s = ni_vector_encode(rule, max, amax_of(j, r, r + 1, 0, cols));
            out->outer_scales[r] = ni_vector_decode(s);
            encode_span(j, r, 0, cols, s);
        }
    } else if (out->quantizer.block_cols == 1) { /* the encode scales wait where the decode scales will stand */
        for (int64_t c = 0; c < cols; c++)
            out->outer_scales[c] = ni_vector_encode(rule, max, amax_of(j, 0, rows, c, c + 1));
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < cols; c++)
                encode_span(j, r, c, c + 1, out->outer_scales[c]);
        for (int64_t c = 0; c < cols; c++)
            out->outer_scales[c] = ni_vector_decode(out->outer_scales[c]);
    } else {
        float s = ni_vector_encode(rule, max, amax_of(j, 0, rows, 0, cols));
        *out->tensor_scale = ni_vector_decode(s);
        for (int64_t r = 0; r < rows; r++)
            encode_span(j, r, 0, cols, s);
    }
}

static void quantize_values(const job *j) {
    const nb_quantizer *q = &j->out->quantizer;
    switch (q->scale_type) {
    case NB_SCALE_E4M3:
        if (q->rule == NB_RULE_EDEN)
            quantize_eden(j);
        else if (q->outer == NB_OUTER_ROW128 || q->outer == NB_OUTER_ROW128_POW2)
            quantize_outer128(j);
        else
            quantize_nvfp4(j);
        break;
    case NB_SCALE_E8M0:
        quantize_mx(j);
        break;
    case NB_SCALE_HIF4:
        quantize_hif4(j);
        break;
    case NB_SCALE_F32:
        quantize_vector(j);
        break;
    case NB_SCALE_NONE:
        for (int64_t r = 0; r < j->out->rows; r++)
            encode_span(j, r, 0, j->out->cols, 1.0f);
        break;
    }
}

static nb_status measure(const nb_qtensor *out, const float *x, nb_quantize_stats *stats, nb_error *err) {
    int64_t count = (out->rows + NI_STATS_ROWS - 1) / NI_STATS_ROWS, cols = out->cols;
    nb_quantize_stats *chunks = malloc((size_t)count * sizeof *chunks);
    float *decoded = malloc(NI_STATS_ROWS * (size_t)cols * sizeof *decoded);
    for (int64_t i = 0; chunks && decoded && i < count; i++) {
        int64_t r0 = i * NI_STATS_ROWS, left = out->rows - r0, rows = left < NI_STATS_ROWS ? left : NI_STATS_ROWS;
        for (int64_t r = 0; r < rows; r++)
            ni_decode_span(out, r0 + r, 0, cols, true, decoded + r * cols);
        ni_stats_chunk(out, x + r0 * cols, decoded, r0, rows, &chunks[i]);
    }
    if (chunks && decoded)
        ni_stats_total(out, chunks, count, stats);
    nb_status status = chunks && decoded ? NB_OK : nb_fail(err, NB_NO_MEMORY, "quantize: no memory for statistics");
    free(decoded);
    free(chunks);
    return status;
}

static void rotate(const nb_qtensor *out, float *x, const ni_noise_key *key) {
    if (!out->quantizer.hadamard_size)
        return;
    ni_sign_mask signs = ni_signs_of(out->quantizer.hadamard_signs, key);
    for (int64_t r = 0; r < out->rows; r++)
        ni_rotate_row(&out->quantizer, signs, x + r * out->cols, out->cols);
}

/* Rotates and quantizes x [rows, cols], which it overwrites. */
static nb_status quantize_matrix(const nb_qtensor *out, float *x, const nb_noise *noise, const float *outer_amax,
                                 nb_quantize_stats *stats, nb_error *err) {
    ni_noise_key key = noise ? ni_noise_at(noise) : (ni_noise_key){0};
    rotate(out, x, &key);
    job j = {out, ni_element_info(out->quantizer.element), x, &key, outer_amax};
    quantize_values(&j);
    return stats ? measure(out, x, stats, err) : NB_OK;
}

static nb_status new_matrix(const nb_qtensor *out, float **x, nb_error *err) {
    *x = malloc((size_t)out->rows * (size_t)out->cols * sizeof **x);
    if (!*x)
        return nb_fail(err, NB_NO_MEMORY, "quantize: no memory for %lld x %lld floats", (long long)out->rows,
                       (long long)out->cols);
    return NB_OK;
}

nb_status ni_ref_rotated_amax(const nb_qtensor *out, const nb_mat *src, bool transpose, const nb_noise *noise,
                              float *amax, nb_error *err) {
    const ni_noise_key key = noise ? ni_noise_at(noise) : (ni_noise_key){0};
    float *x;
    NB_TRY(ni_check_source(src, err));
    NB_TRY(new_matrix(out, &x, err));
    for (int64_t r = 0; r < out->rows; r++)
        ni_load_row(src, transpose, r, out->cols, x + r * out->cols);
    rotate(out, x, &key);
    *amax = amax_of(&(job){.out = out, .x = x}, 0, out->rows, 0, out->cols);
    free(x);
    return NB_OK;
}

nb_status ni_ref_quantize_under(const nb_qtensor *out, const nb_mat *src, bool transpose, const nb_noise *noise,
                                const float *outer_amax, nb_quantize_stats *stats, nb_error *err) {
    float *x;
    NB_TRY(ni_check_source(src, err));
    NB_TRY(ni_check_quantize(out, src->rows, src->cols, transpose, noise, err));
    NB_TRY(new_matrix(out, &x, err));
    for (int64_t r = 0; r < out->rows; r++)
        ni_load_row(src, transpose, r, out->cols, x + r * out->cols);
    nb_status status = quantize_matrix(out, x, noise, outer_amax, stats, err);
    free(x);
    return status;
}

nb_status ni_ref_quantize(nb_backend *be, const nb_qtensor *out, const nb_mat *src, bool transpose,
                          const nb_noise *noise, nb_quantize_stats *stats, nb_error *err) {
    (void)be;
    return ni_ref_quantize_under(out, src, transpose, noise, NULL, stats, err);
}

nb_status ni_ref_requantize(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, bool transpose,
                            const nb_noise *noise, nb_quantize_stats *stats, nb_error *err) {
    (void)be;
    float *x;
    NB_TRY(ni_check_requantize(src, err));
    NB_TRY(ni_check_quantize(out, src->rows, src->cols, transpose, noise, err));
    NB_TRY(new_matrix(out, &x, err));
    for (int64_t r = 0; r < out->rows; r++)
        for (int64_t c = 0; c < out->cols; c++) {
            int64_t from_r = transpose ? c : r, from_c = transpose ? r : c;
            ni_decode_span(src, from_r, from_c, from_c + 1, true, &x[r * out->cols + c]);
        }
    nb_status status = quantize_matrix(out, x, noise, NULL, stats, err);
    free(x);
    return status;
}

nb_status ni_ref_transpose_codes(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, nb_error *err) {
    (void)be;
    NB_TRY(ni_check_transpose_codes(out, src, err));
    int bits = ni_element_info(src->quantizer.element)->bits;
    for (int64_t r = 0; r < out->rows; r++)
        for (int64_t c = 0; c < out->cols; c++)
            put_code(out, r, c, bits, ni_code_at(src, c, r));
    if (src->scales)
        for (int64_t r = 0; r < out->rows; r++)
            for (int64_t c = 0; c < out->cols / 16; c++)
                out->scales[r * (out->cols / 16) + c] = src->scales[16 * c * (src->cols / 16) + r / 16];
    if (src->outer_scales) /* one a row of src: one a column of out, or the reverse */
        memcpy(out->outer_scales, src->outer_scales,
               nb_qtensor_bytes(&src->quantizer, src->rows, src->cols).outer_scales);
    if (src->tensor_scale)
        *out->tensor_scale = *src->tensor_scale;
    return NB_OK;
}

nb_status ni_ref_dequantize(nb_backend *be, const nb_mat *out, const nb_qtensor *src, bool transpose,
                            bool with_tensor_scale, nb_error *err) {
    (void)be;
    NB_TRY(ni_check_dequantize(out, src, transpose, err));
    for (int64_t r = 0; r < src->rows; r++)
        for (int64_t c = 0; c < src->cols; c++) {
            float x;
            ni_decode_span(src, r, c, c + 1, with_tensor_scale, &x);
            int64_t at = transpose ? c * out->stride + r : r * out->stride + c;
            if (out->dtype == NB_BF16)
                ((uint16_t *)out->data)[at] = ni_bf16_even(x);
            else
                ((float *)out->data)[at] = x;
        }
    return NB_OK;
}
