/* quantize_parts.h: pieces of the reference quantizer that faster implementations share: checks, decoding of a row,
 * statistics. They are exact or fixed in order, so sharing them cannot hide a difference. */
#ifndef NI_BACKEND_REF_QUANTIZE_PARTS_H
#define NI_BACKEND_REF_QUANTIZE_PARTS_H

#include "backend/ref/ref.h"
#include "format/hadamard.h"
#include "format/ieee.h"

/* What must hold before a quantization; `rows` and `cols` are those of the value before `transpose`. */
nb_status ni_check_quantize(const nb_qtensor *out, int64_t rows, int64_t cols, bool transpose, const nb_noise *noise,
                            nb_error *err);
nb_status ni_check_source(const nb_mat *src, nb_error *err);
nb_status ni_check_requantize(const nb_qtensor *src, nb_error *err);
nb_status ni_check_transpose_codes(const nb_qtensor *out, const nb_qtensor *src, nb_error *err);
nb_status ni_check_dequantize(const nb_mat *out, const nb_qtensor *src, bool transpose, nb_error *err);

/* Row r of the operand as F32: row r of src, or column r where transposed. */
void ni_load_row(const nb_mat *src, bool transpose, int64_t r, int64_t cols, float *x);

/* Rotates a row in place by the quantizer's Hadamard (if any), rounding to BF16 where it says so. */
void ni_rotate_row(const nb_quantizer *q, ni_sign_mask signs, float *x, int64_t cols);

/* What the code at (r, c) is multiplied by. */
float ni_decode_scale(const nb_qtensor *t, int64_t r, int64_t c, bool with_tensor_scale);

/* Decoded columns [c0, c1) of row r. */
void ni_decode_span(const nb_qtensor *t, int64_t r, int64_t c0, int64_t c1, bool with_tensor_scale, float *x);

/* Code of element (r, c). */
uint8_t ni_code_at(const nb_qtensor *t, int64_t r, int64_t c);

/* Statistics are summed over chunks of 16 rows, each row in order; chunks are added in order. Of operand rows
 * [r0, r0 + rows): x is the rotated input and `decoded` what came of it, both [rows, cols]. */
#define NI_STATS_ROWS 16
void ni_stats_chunk(const nb_qtensor *t, const float *x, const float *decoded, int64_t r0, int64_t rows,
                    nb_quantize_stats *chunk);
/* Of its parts: how many blocks have byte 0 and something in them; a 16x16 tile counts once, at its first row. */
int64_t ni_stats_zero_scales(const nb_qtensor *t, const float *x, int64_t r0, int64_t rows);
/* And beyond what magnitude a number is saturated: the largest code by more than the rounding of the scale itself. */
static inline float ni_saturation_limit(float largest_code, float scale) {
    const float slack = 1.0f + 0x1p-20f;
    scale = ni_f32_abs(scale);
    return scale > 0.0f ? ni_f32_mul(ni_f32_mul(largest_code, scale), slack) : ni_f32_from(NI_F32_INF_BITS);
}

/* total = sum of the chunks, with the figures that do not depend on data. */
int64_t ni_stats_blocks(const nb_qtensor *t); /* how many there are */
void ni_stats_total(const nb_qtensor *t, const nb_quantize_stats *chunks, int64_t count, nb_quantize_stats *total);

#endif
