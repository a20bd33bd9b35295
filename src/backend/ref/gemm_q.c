/* gemm_q.c: the product of two quantized operands as its definition (docs/gemm.md). */
#include "backend/ref/gemm_q.h"

#include "format/bf16.h"
#include "format/e4m3.h"
#include "format/e8m0.h"
#include "format/element.h"
#include "format/hif4.h"
#include "format/vector_scales.h"

/* ---- what the operands are ---- */

static bool has_outer128(const nb_quantizer *q) {
    return q->outer == NB_OUTER_ROW128 || q->outer == NB_OUTER_ROW128_POW2;
}

static bool has_scale_bytes(const nb_quantizer *q) {
    return q->scale_type == NB_SCALE_E4M3 || q->scale_type == NB_SCALE_E8M0 || q->scale_type == NB_SCALE_HIF4;
}

static bool is_4bit(const nb_quantizer *q) {
    return ni_element_info(q->element)->bits == 4;
}

/* Code times inner scale may need more than BF16's 8 significant bits: only where the scale is an arbitrary float. */
static bool rounds_in_bf16(const nb_quantizer *q) {
    return q->outer == NB_OUTER_ROW128 || (ni_has_column_scales(q) && q->rule != NB_RULE_POW2);
}

ni_product ni_product_of(const nb_quantizer *a, const nb_quantizer *b) {
    if (nb_quantizer_is_bf16(a) || nb_quantizer_is_bf16(b))
        return NI_PRODUCT_NONE;
    bool integer = is_4bit(a) && is_4bit(b);
    bool plain = !has_outer128(a) && !has_outer128(b) && !ni_has_column_scales(a) && !ni_has_column_scales(b);
    if (integer && plain && has_scale_bytes(a) && a->scale_type == b->scale_type && a->block_cols == b->block_cols)
        return NI_PRODUCT_BLOCKS;
    if (integer && plain && !has_scale_bytes(a) && !has_scale_bytes(b))
        return NI_PRODUCT_WHOLE;
    return rounds_in_bf16(a) || rounds_in_bf16(b) ? NI_PRODUCT_BF16_ROUNDED : NI_PRODUCT_BF16;
}

const char *ni_product_decoded_name(ni_product product) {
    return product == NI_PRODUCT_BF16           ? "decoded-bf16 exact"
           : product == NI_PRODUCT_BF16_ROUNDED ? "bf16-rounded"
                                                : NULL;
}

const char *ni_ref_product_kernel(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b) {
    (void)be;
    ni_product product = ni_product_of(a, b);
    if (product == NI_PRODUCT_BLOCKS || product == NI_PRODUCT_WHOLE)
        return "packed scalar";
    return ni_product_decoded_name(product);
}

nb_status ni_gemm_q_check(const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b, nb_error *err) {
    char text_a[160], text_b[160];
    if (ni_product_of(&a->quantizer, &b->quantizer) == NI_PRODUCT_NONE)
        return nb_fail(err, NB_UNSUPPORTED, "gemm_q: %s times %s: expected two quantized operands; use gemm for BF16",
                       nb_quantizer_text(&a->quantizer, text_a, sizeof text_a),
                       nb_quantizer_text(&b->quantizer, text_b, sizeof text_b));
    NB_TRY(nb_quantizer_check_shape(&a->quantizer, a->rows, a->cols, err));
    NB_TRY(nb_quantizer_check_shape(&b->quantizer, b->rows, b->cols, err));
    if (c->dtype != NB_F32 && c->dtype != NB_BF16)
        return nb_fail(err, NB_UNSUPPORTED, "gemm_q: C is %s; expected f32 or bf16", nb_dtype_name(c->dtype));
    if (a->cols != b->cols || c->rows != a->rows || c->cols != b->rows || c->stride < c->cols)
        return nb_fail(err, NB_BAD_USAGE,
                       "gemm_q: A [%lld, %lld] times B [%lld, %lld]^T does not give C [%lld, %lld] with stride %lld",
                       (long long)a->rows, (long long)a->cols, (long long)b->rows, (long long)b->cols,
                       (long long)c->rows, (long long)c->cols, (long long)c->stride);
    const int64_t longest = INT64_C(1) << 22; /* 144 * 2^22 < 2^31: the integer dot over K cannot overflow */
    if (a->cols > longest)
        return nb_fail(err, NB_UNSUPPORTED, "gemm_q: K is %lld; at most %lld", (long long)a->cols, (long long)longest);
    return NB_OK;
}

/* ---- decoding ---- */

int32_t ni_code_steps(nb_element element) {
    return element == NB_ELEMENT_E2M1 ? 2 : element == NB_ELEMENT_S1P2 ? 4 : 1;
}

int32_t ni_code_integer(nb_element element, uint8_t code) {
    static const int8_t e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    static const int8_t int4[16] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
    static const int8_t s1p2[16] = {0, 1, 2, 3, 4, 5, 6, 7, 0, -1, -2, -3, -4, -5, -6, -7};
    return element == NB_ELEMENT_E2M1   ? e2m1[code & 15]
           : element == NB_ELEMENT_S1P2 ? s1p2[code & 15]
                                        : int4[code & 15];
}

float ni_scale_value(nb_scale_type type, uint8_t byte) {
    return type == NB_SCALE_E4M3   ? ni_e4m3_value(byte)
           : type == NB_SCALE_HIF4 ? ni_e6m2_value(byte)
                                   : ni_e8m0_value(byte);
}

static uint8_t code_at(const nb_qtensor *t, int64_t row, int64_t k) {
    if (!is_4bit(&t->quantizer))
        return t->codes[row * t->cols + k];
    uint8_t pair = t->codes[row * ((t->cols + 1) / 2) + k / 2];
    return k % 2 ? pair >> 4 : pair & 15;
}

/* The scale byte, or the four of HiFloat4. */
static const uint8_t *scales_of(const nb_qtensor *t, int64_t row, int64_t block) {
    int64_t blocks = t->cols / t->quantizer.block_cols, bytes = ni_scale_bytes(&t->quantizer, t->cols) / blocks;
    return t->scales + (row * blocks + block) * bytes;
}

/* HiFloat4 doubles its elements up to twice: at most 28 quarters. */
static int doublings(const nb_qtensor *t, int64_t row, int64_t k) {
    if (t->quantizer.scale_type != NB_SCALE_HIF4)
        return 0;
    return ni_hif4_doublings(scales_of(t, row, k / NI_HIF4_GROUP), (int)(k % NI_HIF4_GROUP));
}

static int32_t integer_at(const nb_qtensor *t, int64_t row, int64_t k) {
    return ni_code_integer(t->quantizer.element, code_at(t, row, k)) * (1 << doublings(t, row, k));
}

static float block_scale(const nb_qtensor *t, int64_t row, int64_t block) {
    return ni_scale_value(t->quantizer.scale_type, scales_of(t, row, block)[0]);
}

float ni_outer_of_row(const nb_qtensor *t, int64_t row) {
    if (ni_has_row_scales(&t->quantizer))
        return t->outer_scales[row];
    return t->tensor_scale ? t->tensor_scale[0] : 1.0f;
}

static float inner_scale(const nb_qtensor *t, int64_t row, int64_t k) {
    const nb_quantizer *q = &t->quantizer;
    if (ni_has_column_scales(q))
        return t->outer_scales[k];
    if (!has_scale_bytes(q))
        return 1.0f;
    float scale = block_scale(t, row, k / q->block_cols) * (float)(1 << doublings(t, row, k));
    return has_outer128(q) ? scale * t->outer_scales[row * (t->cols / 128) + k / 128] : scale;
}

/* ---- the three sums ---- */

/* Block scales carry the units, so that what is outside the sum is alpha alone. */
static float sum_blocks(const nb_qtensor *a, int64_t i, const nb_qtensor *b, int64_t j) {
    int64_t block = a->quantizer.block_cols;
    float unit_a = 1.0f / (float)ni_code_steps(a->quantizer.element);
    float unit_b = 1.0f / (float)ni_code_steps(b->quantizer.element);
    float sum = 0.0f;
    for (int64_t g = 0; g < a->cols / block; g++) {
        int32_t dot = 0;
        for (int64_t k = g * block; k < (g + 1) * block; k++)
            dot += integer_at(a, i, k) * integer_at(b, j, k);
        float scale_a = block_scale(a, i, g) * unit_a, scale_b = block_scale(b, j, g) * unit_b;
        sum += (float)dot * (scale_a * scale_b);
    }
    return sum;
}

static float sum_whole(const nb_qtensor *a, int64_t i, const nb_qtensor *b, int64_t j) {
    int32_t dot = 0;
    for (int64_t k = 0; k < a->cols; k++)
        dot += integer_at(a, i, k) * integer_at(b, j, k);
    float unit = 1.0f / (float)(ni_code_steps(a->quantizer.element) * ni_code_steps(b->quantizer.element));
    return (float)dot * unit;
}

static float sum_decoded(const nb_qtensor *a, int64_t i, const nb_qtensor *b, int64_t j) {
    const ni_element_row *element_a = ni_element_info(a->quantizer.element);
    const ni_element_row *element_b = ni_element_info(b->quantizer.element);
    float sum = 0.0f;
    for (int64_t k = 0; k < a->cols; k++) {
        float x = ni_bf16_round(element_a->value(code_at(a, i, k)) * inner_scale(a, i, k));
        float y = ni_bf16_round(element_b->value(code_at(b, j, k)) * inner_scale(b, j, k));
        sum += x * y;
    }
    return sum;
}

static void store(const nb_mat *c, int64_t i, int64_t j, float value, bool accumulate) {
    if (c->dtype == NB_F32) {
        float *to = (float *)c->data + i * c->stride + j;
        *to = accumulate ? *to + value : value;
    } else {
        uint16_t *to = (uint16_t *)c->data + i * c->stride + j;
        *to = ni_bf16_even(accumulate ? ni_bf16_value(*to) + value : value);
    }
}

nb_status ni_ref_gemm_q(nb_backend *be, const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b, bool accumulate,
                        nb_error *err) {
    (void)be;
    NB_TRY(ni_gemm_q_check(c, a, b, err));
    ni_product product = ni_product_of(&a->quantizer, &b->quantizer);
    for (int64_t i = 0; i < a->rows; i++) {
        for (int64_t j = 0; j < b->rows; j++) {
            float sum = product == NI_PRODUCT_BLOCKS  ? sum_blocks(a, i, b, j)
                        : product == NI_PRODUCT_WHOLE ? sum_whole(a, i, b, j)
                                                      : sum_decoded(a, i, b, j);
            float alpha = ni_outer_of_row(a, i) * ni_outer_of_row(b, j);
            store(c, i, j, sum * alpha, accumulate);
        }
    }
    return NB_OK;
}
