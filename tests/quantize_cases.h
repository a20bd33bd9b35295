/* quantize_cases.h: every quantizer of the grammar, and data that visits its corners. */
#ifndef NI_TEST_QUANTIZE_CASES_H
#define NI_TEST_QUANTIZE_CASES_H

#include "format/element.h"
#include "harness.h"

enum { QUANTIZERS_MAX = 2000 };

typedef struct quantizer_list {
    nb_quantizer q[QUANTIZERS_MAX];
    int32_t count;
} quantizer_list;

static UNUSED void add_roundings(quantizer_list *list, nb_quantizer q) {
    static const struct {
        nb_rounding round;
        int32_t bits;
    } roundings[] = {{NB_ROUND_EVEN, 8}, {NB_ROUND_UP, 8}, {NB_ROUND_STOCHASTIC, 8}, {NB_ROUND_STOCHASTIC, 16}};
    for (size_t i = 0; i < sizeof roundings / sizeof *roundings; i++) {
        q.round = roundings[i].round;
        q.sr_bits = roundings[i].bits;
        assert_true(list->count < QUANTIZERS_MAX);
        list->q[list->count++] = q;
    }
}

static UNUSED void add_blocks(quantizer_list *list, nb_quantizer q, nb_scale_rule a, nb_scale_rule b) {
    q.rule = a;
    add_roundings(list, q);
    q.rule = b;
    add_roundings(list, q);
}

static UNUSED void add_four_six(quantizer_list *list) {
    static const struct {
        nb_four_six error;
        int32_t top;
        nb_four_six_order order;
    } kinds[] = {{NB_FOUR_SIX_MSE, 256, NB_FOUR_SIX_IN_ORDER},
                 {NB_FOUR_SIX_MSE, 256, NB_FOUR_SIX_IN_EIGHTS},
                 {NB_FOUR_SIX_MAE, 448, NB_FOUR_SIX_IN_EIGHTS},
                 {NB_FOUR_SIX_MAX, 256, NB_FOUR_SIX_IN_ORDER}};
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    for (q.block_rows = 1; q.block_rows <= 16; q.block_rows += 15)
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
            q.four_six = kinds[i].error;
            q.four_six_top = kinds[i].top;
            q.four_six_order = kinds[i].order;
            add_blocks(list, q, NB_RULE_ABSMAX, NB_RULE_HEADROOM);
        }
}

/* Of HiFloat4 every rounding; rotated under every size. */
static UNUSED void add_hif4(quantizer_list *list, bool rotated) {
    static const nb_rounding roundings[] = {NB_ROUND_AWAY, NB_ROUND_EVEN, NB_ROUND_UP, NB_ROUND_STOCHASTIC};
    for (int32_t i = 0; i < 8; i++) {
        nb_quantizer q = ni_format_family_find("hifloat4")->defaults;
        q.round = roundings[i % 4];
        q.sr_bits = i < 4 ? 8 : 16;
        if (!rotated && i >= 4 && q.round != NB_ROUND_STOCHASTIC)
            continue;
        if (rotated) {
            q.hadamard_size = 16 << (i + i / 4) % 4;
            q.hadamard_signs = (nb_signs)(i % 3);
            q.hadamard_round_bf16 = i >= 4;
        }
        assert_int_equal(nb_quantizer_check(&q, NULL), NB_OK);
        list->q[list->count++] = q;
    }
}

/* Everything that nb_quantizer_check accepts, without Hadamard. */
static UNUSED quantizer_list *all_formats(void) {
    quantizer_list *list = poisoned(sizeof *list);
    list->count = 0;
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    static const nb_outer_scale outers[] = {NB_OUTER_TENSOR, NB_OUTER_NONE, NB_OUTER_ROW128, NB_OUTER_ROW128_POW2};
    for (int i = 0; i < 4; i++) {
        q.outer = outers[i];
        add_blocks(list, q, NB_RULE_ABSMAX, NB_RULE_HEADROOM);
    }
    q.block_rows = 16;
    for (int i = 0; i < 2; i++) {
        q.outer = outers[i];
        add_blocks(list, q, NB_RULE_ABSMAX, NB_RULE_HEADROOM);
    }
    static const char *const mx[] = {"mxfp4", "mxfp8", "mxfp8-e5m2"}, *const vector[] = {"e2m1", "int4", "e4m3",
                                                                                         "e5m2"};
    for (int i = 0; i < 3; i++)
        add_blocks(list, ni_format_family_find(mx[i])->defaults, NB_RULE_FLOOR, NB_RULE_CEIL);
    static const int32_t blocks[][2] = {{1, NB_BLOCK_ALL}, {NB_BLOCK_ALL, 1}, {NB_BLOCK_ALL, NB_BLOCK_ALL}};
    for (int i = 0; i < 4; i++) {
        q = ni_format_family_find(vector[i])->defaults;
        for (int b = 0; b < 3; b++) {
            q.block_rows = blocks[b][0];
            q.block_cols = blocks[b][1];
            add_blocks(list, q, NB_RULE_ABSMAX, NB_RULE_POW2);
        }
        q.scale_type = NB_SCALE_NONE;
        q.rule = NB_RULE_ABSMAX;
        add_roundings(list, q);
    }
    add_four_six(list);
    q = ni_format_family_find("mxfp4")->defaults;
    q.rule = NB_RULE_QUEST;
    add_roundings(list, q);
    q = ni_format_family_find("nvfp4")->defaults;
    q.outer = NB_OUTER_UNIT;
    for (q.block_rows = 1; q.block_rows <= 16; q.block_rows += 15)
        add_blocks(list, q, NB_RULE_ABSMAX, NB_RULE_HEADROOM);
    q = ni_format_family_find("mxfp4")->defaults;
    q.rule = NB_RULE_THREE_QUARTERS;
    add_roundings(list, q);
    for (int i = 0; i < 3; i++) {
        q = ni_format_family_find(mx[i])->defaults;
        q.rule = NB_RULE_CEIL_LOG2;
        add_roundings(list, q);
    }
    add_hif4(list, false);
    for (int32_t i = 0; i < list->count; i++)
        assert_int_equal(nb_quantizer_check(&list->q[i], NULL), NB_OK);
    return list;
}

/* What exists only rotated. */
static UNUSED void add_eden(quantizer_list *list) {
    for (int32_t i = 0; i < 8; i++) {
        nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
        q.rule = NB_RULE_EDEN;
        q.sr_bits = i % 2 ? 16 : 8;
        q.hadamard_size = 16 << (i / 2);
        q.hadamard_signs = (nb_signs)(i % 3);
        q.hadamard_round_bf16 = i == 5;
        assert_int_equal(nb_quantizer_check(&q, NULL), NB_OK);
        list->q[list->count++] = q;
    }
}

/* Rotated as recipes have it: by 16, fixed signs, rounded to BF16; or by fresh ones, under every rounding. */
static UNUSED void add_turned(quantizer_list *list) {
    static const nb_outer_scale outers[] = {NB_OUTER_TENSOR, NB_OUTER_NONE, NB_OUTER_UNIT, NB_OUTER_ROW128,
                                            NB_OUTER_ROW128_POW2};
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    q.hadamard_size = 16;
    q.hadamard_signs = NB_SIGNS_FIXED;
    q.hadamard_round_bf16 = true;
    for (size_t i = 0; i < sizeof outers / sizeof *outers; i++) {
        q.outer = outers[i];
        assert_int_equal(nb_quantizer_check(&q, NULL), NB_OK);
        add_roundings(list, q);
    }
    q.outer = NB_OUTER_TENSOR;
    q.hadamard_signs = NB_SIGNS_FRESH;
    add_roundings(list, q);
}

/* ... and with it. */
static UNUSED quantizer_list *all_quantizers(void) {
    quantizer_list *list = all_formats();
    int32_t plain = list->count;
    for (int32_t i = 0; i < plain; i++) {
        nb_quantizer q = list->q[i];
        if (q.scale_type == NB_SCALE_HIF4)
            continue;
        q.hadamard_size = 16 << (i % 4);
        q.hadamard_signs = (nb_signs)(i / 4 % 3);
        q.hadamard_round_bf16 = i % 2;
        list->q[list->count++] = q;
    }
    add_eden(list);
    add_hif4(list, true);
    add_turned(list);
    return list;
}

typedef enum data_kind {
    DATA_NORMAL,
    DATA_WIDE,
    DATA_CORNERS,
    DATA_NAN,
    DATA_INF,
    DATA_ZERO,
    DATA_TINY,
    DATA_KINDS
} data_kind;

/* Element i: N(0, 1); magnitudes over many binades; with whole zero groups, -0 and grid points; one NaN; one Inf; ...
 */
static UNUSED float datum(data_kind kind, uint32_t stream, int64_t i) {
    float x = (float)normal(stream, i);
    switch (kind) {
    case DATA_WIDE:
        return x * (float)ldexp(1, (int)(i * 7 % 61) - 30);
    case DATA_CORNERS:
        if (i / 64 % 3 == 0)
            return i % 5 ? 0.0f : -0.0f;
        return i % 3 ? x : (float)((i % 25) - 12) * 0.25f;
    case DATA_NAN:
        return i == 77 ? -NAN : x;
    case DATA_INF:
        return i == 77 ? -INFINITY : i == 100 ? 0x1.fp127f : x;
    case DATA_ZERO:
        return i % 2 ? 0.0f : -0.0f;
    case DATA_TINY:
        return x * 0x1p-140f;
    default:
        return x;
    }
}

static UNUSED nb_quantizer format_of(const char *family, int32_t block_rows, int32_t block_cols) {
    nb_quantizer q = ni_format_family_find(family)->defaults;
    q.block_rows = block_rows;
    q.block_cols = block_cols;
    return q;
}

static UNUSED nb_quantizer nvfp4(int32_t block_rows) {
    return format_of("nvfp4", block_rows, 16);
}

/* A scale a row. */
static UNUSED nb_quantizer rows_of(const char *family) {
    return format_of(family, 1, NB_BLOCK_ALL);
}

/* [rows, cols] in F32 or BF16 with this stride; what lies between the rows is poison. */
static UNUSED nb_mat data_matrix(data_kind kind, nb_dtype dtype, int64_t rows, int64_t cols, int64_t stride) {
    nb_mat m = nb_mat_of(poisoned((size_t)(rows * stride) * nb_dtype_size(dtype)), dtype, rows, cols);
    m.stride = stride;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            float x = datum(kind, 11, r * cols + c);
            if (dtype == NB_BF16)
                ((uint16_t *)m.data)[r * stride + c] = ni_bf16_even(x);
            else
                ((float *)m.data)[r * stride + c] = x;
        }
    return m;
}

static UNUSED nb_qtensor new_operand(const nb_quantizer *q, int64_t rows, int64_t cols) {
    return nb_qtensor_place(q, rows, cols, poisoned(nb_qtensor_bytes(q, rows, cols).total));
}

static UNUSED void same_buffer(const char *what, const char *where, const void *want, const void *got, size_t bytes) {
    const uint8_t *a = want, *b = got;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            fail_msg("%s: %s differ at byte %zu: %02x, expected %02x", where, what, i, b[i], a[i]);
}

static UNUSED void same_operand(const nb_qtensor *want, const nb_qtensor *got, const char *where) {
    nb_qtensor_size n = nb_qtensor_bytes(&want->quantizer, want->rows, want->cols);
    same_buffer("tensor scales", where, want->tensor_scale, got->tensor_scale, n.tensor_scale);
    same_buffer("outer scales", where, want->outer_scales, got->outer_scales, n.outer_scales);
    same_buffer("scales", where, want->scales, got->scales, n.scales);
    same_buffer("codes", where, want->codes, got->codes, n.codes);
}

#endif
