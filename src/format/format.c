/* format.c: quantizers as values: what may be combined, what it is called, how large an operand is. */
#include "nibble/format.h"

#include "format/element.h"
#include "format/hif4.h"
#include "format/vector_scales.h"

#include <stdarg.h>
#include <stdio.h>

size_t nb_dtype_size(nb_dtype type) {
    switch (type) {
    case NB_F32:
    case NB_I32:
        return 4;
    case NB_BF16:
    case NB_F16:
        return 2;
    case NB_F64:
        return 8;
    case NB_U8:
    case NB_E4M3:
    case NB_E5M2:
        return 1;
    }
    return 0;
}

const char *nb_dtype_name(nb_dtype type) {
    switch (type) {
    case NB_F32:
        return "f32";
    case NB_BF16:
        return "bf16";
    case NB_F64:
        return "f64";
    case NB_I32:
        return "i32";
    case NB_U8:
        return "u8";
    case NB_F16:
        return "f16";
    case NB_E4M3:
        return "e4m3";
    case NB_E5M2:
        return "e5m2";
    }
    return "unknown type";
}

nb_quantizer nb_quantizer_bf16(void) {
    return ni_format_family_find("bf16")->defaults;
}

bool nb_quantizer_is_bf16(const nb_quantizer *q) {
    return q->element == NB_ELEMENT_BF16;
}

bool nb_quantizer_draws_bits(const nb_quantizer *q) {
    return !nb_quantizer_is_bf16(q) && (q->round == NB_ROUND_STOCHASTIC || q->rule == NB_RULE_EDEN);
}

/* Fields that the others switch off do not count. */
bool nb_quantizer_equal(const nb_quantizer *a, const nb_quantizer *b) {
    if (nb_quantizer_is_bf16(a) || nb_quantizer_is_bf16(b))
        return a->element == b->element;
    if (a->element != b->element || a->scale_type != b->scale_type || a->rule != b->rule || a->outer != b->outer)
        return false;
    if (a->block_rows != b->block_rows || a->block_cols != b->block_cols || a->round != b->round)
        return false;
    if (nb_quantizer_draws_bits(a) && a->sr_bits != b->sr_bits)
        return false;
    if (a->four_six != b->four_six)
        return false;
    if (a->four_six && (a->four_six_top != b->four_six_top || a->four_six_order != b->four_six_order))
        return false;
    if (a->hadamard_size != b->hadamard_size)
        return false;
    return !a->hadamard_size ||
           (a->hadamard_signs == b->hadamard_signs && a->hadamard_round_bf16 == b->hadamard_round_bf16);
}

static bool is_block(const nb_quantizer *q, int32_t rows, int32_t cols) {
    return q->block_rows == rows && q->block_cols == cols;
}

/* MS-EDEN corrects a whole rotated group, and rounds its scales in the place of its elements. */
static nb_status check_eden(const nb_quantizer *q, nb_error *err) {
    if (q->outer != NB_OUTER_TENSOR || !is_block(q, 1, 16) || q->round != NB_ROUND_EVEN || q->four_six ||
        !q->hadamard_size)
        return nb_fail(err, NB_BAD_CONFIG,
                       "nvfp4: scale eden needs block 1x16, outer tensor, round even, no four_six and a Hadamard "
                       "rotation, whose groups it corrects");
    return NB_OK;
}

static nb_status check_e4m3(const nb_quantizer *q, nb_error *err) {
    bool double_block = q->outer == NB_OUTER_ROW128 || q->outer == NB_OUTER_ROW128_POW2;
    if (q->element != NB_ELEMENT_E2M1)
        return nb_fail(err, NB_BAD_CONFIG, "E4M3 block scales: expected E2M1 elements (format: nvfp4)");
    if (q->rule == NB_RULE_EDEN)
        return check_eden(q, err);
    if (q->rule != NB_RULE_ABSMAX && q->rule != NB_RULE_HEADROOM)
        return nb_fail(err, NB_BAD_CONFIG, "nvfp4: scale must be absmax, headroom or eden");
    if (is_block(q, 16, 16) && double_block)
        return nb_fail(err, NB_BAD_CONFIG, "nvfp4: an outer scale for each 1x128 needs block 1x16, not 16x16");
    if (!is_block(q, 1, 16) && !is_block(q, 16, 16))
        return nb_fail(err, NB_BAD_CONFIG, "nvfp4: block must be 1x16 or 16x16");
    return NB_OK;
}

static nb_status check_four_six(const nb_quantizer *q, nb_error *err) {
    if (!ni_four_six_name(q->four_six) || (q->four_six && !ni_four_six_order_name(q->four_six_order)))
        return nb_fail(err, NB_BAD_CONFIG, "four_six: error or order out of range");
    if (!q->four_six)
        return NB_OK;
    if (q->scale_type != NB_SCALE_E4M3 || q->outer != NB_OUTER_TENSOR)
        return nb_fail(err, NB_BAD_CONFIG, "four_six: needs format nvfp4 under a scale of the tensor (outer: tensor)");
    if (q->four_six_top != 256 && q->four_six_top != 448)
        return nb_fail(err, NB_BAD_CONFIG, "four_six.top: must be 256 or 448, not %d", (int)q->four_six_top);
    return NB_OK;
}

static nb_status check_e8m0(const nb_quantizer *q, nb_error *err) {
    if (q->element == NB_ELEMENT_INT4)
        return nb_fail(err, NB_BAD_CONFIG, "int4: E8M0 block scales are not defined; use mxfp4 or block: row");
    const bool of_e2m1 = q->rule == NB_RULE_QUEST || q->rule == NB_RULE_THREE_QUARTERS;
    if (of_e2m1 && q->element != NB_ELEMENT_E2M1)
        return nb_fail(err, NB_BAD_CONFIG, "mxfp8: scale %s fits the grid of E2M1; use floor or ceil",
                       ni_scale_rule_name(q->rule));
    if (!of_e2m1 && q->rule != NB_RULE_FLOOR && q->rule != NB_RULE_CEIL && q->rule != NB_RULE_CEIL_LOG2)
        return nb_fail(err, NB_BAD_CONFIG,
                       "mxfp4, mxfp8: scale must be floor, ceil, ceil-log2 or (mxfp4) quest, three-quarters");
    if (q->outer != NB_OUTER_NONE)
        return nb_fail(err, NB_BAD_CONFIG, "mxfp4, mxfp8: there is no outer scale");
    if (!is_block(q, 1, 32))
        return nb_fail(err, NB_BAD_CONFIG, "mxfp4, mxfp8: block must be 1x32");
    return NB_OK;
}

static nb_status check_f32(const nb_quantizer *q, nb_error *err) {
    const char *name = ni_element_info(q->element)->name;
    if (q->rule != NB_RULE_ABSMAX && q->rule != NB_RULE_POW2)
        return nb_fail(err, NB_BAD_CONFIG, "%s: scale must be absmax or pow2", name);
    if (q->outer != NB_OUTER_NONE)
        return nb_fail(err, NB_BAD_CONFIG, "%s: there is no outer scale", name);
    if (!is_block(q, 1, NB_BLOCK_ALL) && !is_block(q, NB_BLOCK_ALL, 1) && !is_block(q, NB_BLOCK_ALL, NB_BLOCK_ALL))
        return nb_fail(err, NB_BAD_CONFIG, "%s: block must be row, column or tensor", name);
    return NB_OK;
}

static nb_status check_hif4(const nb_quantizer *q, nb_error *err) {
    if (q->element != NB_ELEMENT_S1P2 || q->rule != NB_RULE_ABSMAX || q->outer != NB_OUTER_NONE ||
        !is_block(q, 1, NI_HIF4_GROUP))
        return nb_fail(err, NB_BAD_CONFIG, "hifloat4: block must be 1x64 and scale absmax, without an outer scale");
    return NB_OK;
}

static nb_status check_unscaled(const nb_quantizer *q, nb_error *err) {
    if (q->outer != NB_OUTER_NONE || q->rule != NB_RULE_ABSMAX || !is_block(q, NB_BLOCK_ALL, NB_BLOCK_ALL))
        return nb_fail(err, NB_BAD_CONFIG, "%s without scale: no block, scale rule or outer scale applies",
                       ni_element_info(q->element)->name);
    return NB_OK;
}

static nb_status check_scale(const nb_quantizer *q, nb_error *err) {
    if (q->element == NB_ELEMENT_S1P2 && q->scale_type != NB_SCALE_HIF4)
        return nb_fail(err, NB_BAD_CONFIG, "s1p2: elements of HiFloat4 have its scales alone (format: hifloat4)");
    switch (q->scale_type) {
    case NB_SCALE_E4M3:
        return check_e4m3(q, err);
    case NB_SCALE_E8M0:
        return check_e8m0(q, err);
    case NB_SCALE_F32:
        return check_f32(q, err);
    case NB_SCALE_HIF4:
        return check_hif4(q, err);
    case NB_SCALE_NONE:
        return check_unscaled(q, err);
    }
    return nb_fail(err, NB_BAD_CONFIG, "quantizer: unknown scale type %d", (int)q->scale_type);
}

nb_status nb_quantizer_check(const nb_quantizer *q, nb_error *err) {
    if (!ni_element_info(q->element) || !ni_scale_rule_name(q->rule) || !ni_rounding_name(q->round) ||
        !ni_signs_name(q->hadamard_signs))
        return nb_fail(err, NB_BAD_CONFIG, "quantizer: element, scale rule, rounding or signs out of range");
    if (nb_quantizer_is_bf16(q))
        return NB_OK;
    NB_TRY(check_scale(q, err));
    NB_TRY(check_four_six(q, err));
    if (q->round == NB_ROUND_AWAY && !ni_element_info(q->element)->away)
        return nb_fail(err, NB_BAD_CONFIG, "round: away is for hifloat4; expected even, up or stochastic");
    if (nb_quantizer_draws_bits(q) && q->sr_bits != 8 && q->sr_bits != 16)
        return nb_fail(err, NB_BAD_CONFIG, "sr_bits: must be 8 or 16, not %d", (int)q->sr_bits);
    int32_t n = q->hadamard_size;
    if (n != 0 && n != 16 && n != 32 && n != 64 && n != 128)
        return nb_fail(err, NB_BAD_CONFIG, "hadamard: size must be 16, 32, 64 or 128, not %d", (int)n);
    return NB_OK;
}

static bool has_outer128(const nb_quantizer *q) {
    return q->outer == NB_OUTER_ROW128 || q->outer == NB_OUTER_ROW128_POW2;
}

nb_status nb_quantizer_check_shape(const nb_quantizer *q, int64_t rows, int64_t cols, nb_error *err) {
    NB_TRY(nb_quantizer_check(q, err));
    if (rows < 1 || cols < 1 || rows > INT64_C(1) << 36 || cols > (INT64_C(1) << 36) / rows)
        return nb_fail(err, NB_BAD_CONFIG, "operand %lld x %lld: expected at least 1 x 1 and at most 2^36 elements",
                       (long long)rows, (long long)cols);
    if (nb_quantizer_is_bf16(q))
        return NB_OK;
    int64_t multiple = q->block_cols > 1 ? q->block_cols : 1;
    const char *what = "block";
    if (has_outer128(q)) {
        multiple = 128;
        what = "outer block";
    }
    if (q->hadamard_size > multiple) { /* powers of two: the larger one implies the smaller */
        multiple = q->hadamard_size;
        what = "Hadamard size";
    }
    if (cols % multiple) {
        char text[160];
        return nb_fail(err, NB_BAD_CONFIG, "operand %lld x %lld: columns do not divide by the %s of %lld in %s",
                       (long long)rows, (long long)cols, what, (long long)multiple,
                       nb_quantizer_text(q, text, sizeof text));
    }
    return NB_OK;
}

/* ---- text ---- */

typedef struct text_buffer {
    char *text;
    size_t size, used;
} text_buffer;

static void NB_PRINTF(2, 3) append(text_buffer *b, const char *format, ...) {
    if (b->used + 1 >= b->size)
        return;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(b->text + b->used, b->size - b->used, format, args);
    va_end(args);
    size_t left = b->size - b->used - 1;
    b->used += n < 0 ? 0 : (size_t)n < left ? (size_t)n : left;
}

/* The family of the same element and kind of scale; NULL for the bare element formats without scale. */
static const ni_format_family *family_of(const nb_quantizer *q) {
    for (int32_t i = 0; ni_format_family_at(i); i++) {
        const nb_quantizer *d = &ni_format_family_at(i)->defaults;
        if (d->element == q->element && d->scale_type == q->scale_type)
            return ni_format_family_at(i);
    }
    return NULL;
}

static void append_block(text_buffer *b, const nb_quantizer *q) {
    if (is_block(q, 1, NB_BLOCK_ALL))
        append(b, ", block: row");
    else if (is_block(q, NB_BLOCK_ALL, 1))
        append(b, ", block: column");
    else if (is_block(q, NB_BLOCK_ALL, NB_BLOCK_ALL))
        append(b, ", block: tensor");
    else
        append(b, ", block: %dx%d", (int)q->block_rows, (int)q->block_cols);
}

static void append_scale(text_buffer *b, const nb_quantizer *q, const nb_quantizer *defaults) {
    if (q->rule != defaults->rule)
        append(b, ", scale: %s", ni_scale_rule_name(q->rule));
    if (q->outer == defaults->outer)
        return;
    if (has_outer128(q))
        append(b, ", outer: {block: 1x128, scale: %s}", q->outer == NB_OUTER_ROW128 ? "fp32" : "pow2");
    else
        append(b, ", outer: %s", q->outer == NB_OUTER_TENSOR ? "tensor" : q->outer == NB_OUTER_UNIT ? "unit" : "none");
}

char *nb_quantizer_text(const nb_quantizer *q, char *text, size_t size) {
    text_buffer b = {text, size, 0};
    if (size)
        text[0] = 0;
    nb_error ignored;
    if (nb_quantizer_check(q, &ignored) != NB_OK) {
        append(&b, "{invalid}");
        return text;
    }
    const ni_format_family *family = family_of(q);
    append(&b, "{format: %s", family ? family->name : ni_element_info(q->element)->name);
    if (nb_quantizer_is_bf16(q)) {
        append(&b, "}");
        return text;
    }
    if (family) {
        append_block(&b, q);
        append_scale(&b, q, &family->defaults);
    } else {
        append(&b, ", scale: none");
    }
    if (q->round != (family ? family->defaults.round : NB_ROUND_EVEN))
        append(&b, ", round: %s", ni_rounding_name(q->round));
    if (nb_quantizer_draws_bits(q))
        append(&b, ", sr_bits: %d", (int)q->sr_bits);
    if (q->four_six)
        append(&b, ", four_six: {error: %s, top: %d, order: %s}", ni_four_six_name(q->four_six), (int)q->four_six_top,
               ni_four_six_order_name(q->four_six_order));
    if (q->hadamard_size)
        append(&b, ", hadamard: {size: %d, signs: %s, round_bf16: %s}", (int)q->hadamard_size,
               ni_signs_name(q->hadamard_signs), q->hadamard_round_bf16 ? "true" : "false");
    append(&b, "}");
    return text;
}

/* ---- names and buffers ---- */

/* FNV-1a, 32 bits. */
uint32_t nb_name_hash(const char *name, const char *role) {
    uint32_t hash = 2166136261u;
    for (const char *p = name; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    if (!role)
        return hash;
    hash = (hash ^ (unsigned char)'/') * 16777619u;
    for (const char *p = role; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    return hash;
}

static size_t round_up_64(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

nb_qtensor_size nb_qtensor_bytes(const nb_quantizer *q, int64_t rows, int64_t cols) {
    nb_qtensor_size size = {0, 0, 0, 0, 0};
    size_t r = (size_t)rows, c = (size_t)cols;
    if (nb_quantizer_is_bf16(q))
        return size;
    size.codes = ni_element_info(q->element)->bits == 4 ? r * ((c + 1) / 2) : r * c;
    size.scales = r * (size_t)ni_scale_bytes(q, cols);
    if (has_outer128(q))
        size.outer_scales = r * (c / 128) * sizeof(float);
    if (ni_has_row_scales(q))
        size.outer_scales = r * sizeof(float);
    if (ni_has_column_scales(q))
        size.outer_scales = c * sizeof(float);
    if (q->outer == NB_OUTER_TENSOR || q->outer == NB_OUTER_UNIT || q->rule == NB_RULE_THREE_QUARTERS ||
        ni_has_tensor_scale(q))
        size.tensor_scale = sizeof(float);
    size.total = round_up_64(size.codes) + round_up_64(size.scales) + round_up_64(size.outer_scales) +
                 round_up_64(size.tensor_scale);
    return size;
}

nb_qtensor nb_qtensor_place(const nb_quantizer *q, int64_t rows, int64_t cols, void *memory) {
    nb_qtensor_size size = nb_qtensor_bytes(q, rows, cols);
    nb_qtensor t = {*q, rows, cols, NULL, NULL, NULL, NULL};
    uint8_t *at = memory;
    t.codes = size.codes ? at : NULL;
    at += round_up_64(size.codes);
    t.scales = size.scales ? at : NULL;
    at += round_up_64(size.scales);
    t.outer_scales = size.outer_scales ? (float *)(void *)at : NULL;
    at += round_up_64(size.outer_scales);
    t.tensor_scale = size.tensor_scale ? (float *)(void *)at : NULL;
    return t;
}
