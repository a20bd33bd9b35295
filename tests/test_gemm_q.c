/* test_gemm_q.c: the product of quantized operands. The scalar reference is held against decoded values in double and
 * against a sum done by hand; every other instruction set and thread count against the reference, bit by bit. */
#include "backend/table.h"
#include "codes.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/ref/gemm_q.h"
#include "base/philox.h"
#include "format/bf16.h"
#include "format/element.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- operands ---- */

typedef struct random_numbers {
    uint32_t key, next;
} random_numbers;

static uint32_t random_word(random_numbers *r) {
    return ni_philox(r->key, 1, r->next++, 0, 0, 0).w[0];
}

typedef struct kind {
    const char *family;
    int32_t block_rows, block_cols;
    nb_outer_scale outer;
    int32_t multiple; /* columns come in multiples of this */
} kind;

enum {
    NVFP4,
    NVFP4_TILES,
    NVFP4_PLAIN,
    MXFP4,
    E2M1_ROW,
    E2M1_TENSOR,
    INT4_ROW,
    INT4_TENSOR,
    MXFP8,
    E4M3_ROW,
    OUTER,
    OUTER_POW2,
    E2M1_COLUMN,
    HIFLOAT4,
    KINDS
};
static const kind kinds[KINDS] = {
    [NVFP4] = {"nvfp4", 1, 16, NB_OUTER_TENSOR, 16},
    [NVFP4_TILES] = {"nvfp4", 16, 16, NB_OUTER_TENSOR, 16},
    [NVFP4_PLAIN] = {"nvfp4", 1, 16, NB_OUTER_NONE, 16},
    [MXFP4] = {"mxfp4", 1, 32, NB_OUTER_NONE, 32},
    [E2M1_ROW] = {"e2m1", 1, NB_BLOCK_ALL, NB_OUTER_NONE, 1},
    [E2M1_TENSOR] = {"e2m1", NB_BLOCK_ALL, NB_BLOCK_ALL, NB_OUTER_NONE, 1},
    [INT4_ROW] = {"int4", 1, NB_BLOCK_ALL, NB_OUTER_NONE, 1},
    [INT4_TENSOR] = {"int4", NB_BLOCK_ALL, NB_BLOCK_ALL, NB_OUTER_NONE, 1},
    [MXFP8] = {"mxfp8", 1, 32, NB_OUTER_NONE, 32},
    [E4M3_ROW] = {"e4m3", 1, NB_BLOCK_ALL, NB_OUTER_NONE, 1},
    [OUTER] = {"nvfp4", 1, 16, NB_OUTER_ROW128, 128},
    [OUTER_POW2] = {"nvfp4", 1, 16, NB_OUTER_ROW128_POW2, 128},
    [E2M1_COLUMN] = {"e2m1", NB_BLOCK_ALL, 1, NB_OUTER_NONE, 1},
    [HIFLOAT4] = {"hifloat4", 1, 64, NB_OUTER_NONE, 64},
};

static nb_quantizer quantizer_of(const kind *k) {
    nb_quantizer q = ni_format_family_find(k->family)->defaults;
    q.block_rows = k->block_rows;
    q.block_cols = k->block_cols;
    q.outer = k->outer;
    assert_int_equal(nb_quantizer_check(&q, NULL), NB_OK);
    return q;
}

/* How far scales reach. */
typedef enum scale_reach { ORDINARY, WHOLE_RANGE } scale_reach;

static uint8_t random_scale_byte(random_numbers *r, nb_scale_type type, scale_reach reach) {
    uint32_t w = random_word(r);
    if (type == NB_SCALE_HIF4) /* a scale or a byte of doublings */
        return (uint8_t)(reach == WHOLE_RANGE ? w % 256 : w % 64 + 150);
    if (reach == WHOLE_RANGE)
        return (uint8_t)(type == NB_SCALE_E4M3 ? w % 128 : w % 256); /* NaN and zero too */
    return (uint8_t)(type == NB_SCALE_E4M3 ? w % 127 : 110 + w % 32);
}

static float random_outer(random_numbers *r, bool power_of_two) {
    float x = ldexpf(1.0f, (int)(random_word(r) % 16) - 8);
    return power_of_two ? x : x * (1.0f + (float)(random_word(r) >> 9) * 0x1p-23f);
}

/* Every code, any scale: more than a quantizer would write. Free t.codes. */
static nb_qtensor random_operand(random_numbers *r, const kind *k, int64_t rows, int64_t cols, scale_reach reach) {
    nb_quantizer q = quantizer_of(k);
    nb_qtensor_size size = nb_qtensor_bytes(&q, rows, cols);
    nb_qtensor t = nb_qtensor_place(&q, rows, cols, aligned_alloc(64, size.total));
    assert_non_null(t.codes);
    for (size_t i = 0; i < size.codes; i++) {
        t.codes[i] = (uint8_t)random_word(r);
        if (q.element == NB_ELEMENT_E4M3 && (t.codes[i] & 0x7f) == 0x7f)
            t.codes[i]--; /* no NaN */
    }
    int64_t blocks = ni_scale_bytes(&q, cols);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t g = 0; g < blocks; g++)
            t.scales[i * blocks + g] = q.block_rows == 16 && i % 16 ? t.scales[(i - 1) * blocks + g]
                                                                    : random_scale_byte(r, q.scale_type, reach);
    for (size_t i = 0; i < size.outer_scales / sizeof(float); i++)
        t.outer_scales[i] = random_outer(r, q.outer == NB_OUTER_ROW128_POW2);
    if (t.tensor_scale)
        t.tensor_scale[0] = random_outer(r, false);
    return t;
}

/* ---- the reference against double ---- */

static double scale_at(const nb_qtensor *t, int64_t row, int64_t k) {
    const nb_quantizer *q = &t->quantizer;
    if (q->scale_type != NB_SCALE_HIF4)
        return ni_scale_value(q->scale_type, t->scales[row * (t->cols / q->block_cols) + k / q->block_cols]);
    const uint8_t *s = t->scales + (row * t->cols + k) / 64 * 4;
    const int i = (int)(k % 64), doublings = (s[1] >> i / 8 & 1) + ((s[2] | s[3] << 8) >> i / 4 & 1);
    return ldexp(1 + (s[0] & 3) / 4.0, (s[0] >> 2) - 48 + doublings);
}

/* The element without its outer scale, as the product takes it. */
static double decoded(const nb_qtensor *t, int64_t row, int64_t k, bool rounded) {
    const nb_quantizer *q = &t->quantizer;
    const ni_element_row *element = ni_element_info(q->element);
    uint8_t code = element->bits == 8 ? t->codes[row * t->cols + k]
                                      : (uint8_t)(t->codes[row * ((t->cols + 1) / 2) + k / 2] >> (k % 2 * 4) & 15);
    double value = element->value(code);
    if (t->scales)
        value *= scale_at(t, row, k);
    if (q->outer == NB_OUTER_ROW128 || q->outer == NB_OUTER_ROW128_POW2)
        value *= t->outer_scales[row * (t->cols / 128) + k / 128];
    if (q->scale_type == NB_SCALE_F32 && q->block_cols == 1)
        value *= t->outer_scales[k];
    return rounded ? (double)ni_bf16_round((float)value) : value;
}

static double outer(const nb_qtensor *t, int64_t row) {
    const nb_quantizer *q = &t->quantizer;
    if (q->scale_type == NB_SCALE_F32 && q->block_rows == 1)
        return t->outer_scales[row];
    return t->tensor_scale ? t->tensor_scale[0] : 1;
}

static double number_at(const nb_mat *c, int64_t i, int64_t j) {
    int64_t at = i * c->stride + j;
    return c->dtype == NB_F32 ? (double)((float *)c->data)[at] : (double)ni_bf16_value(((uint16_t *)c->data)[at]);
}

/* |error| <= (K + 4) u alpha sum|ab| + the rounding to C's type. `before` is C as it was; NULL: not accumulated. */
static void assert_near_double(const nb_qtensor *a, const nb_qtensor *b, const nb_mat *c, const nb_mat *before,
                               const char *label) {
    bool rounded = ni_product_of(&a->quantizer, &b->quantizer) == NI_PRODUCT_BF16_ROUNDED;
    double store = c->dtype == NB_F32 ? 0x1p-24 : 0x1p-8;
    for (int64_t i = 0; i < a->rows; i++) {
        for (int64_t j = 0; j < b->rows; j++) {
            double alpha = outer(a, i) * outer(b, j), sum = 0, magnitude = 0;
            for (int64_t k = 0; k < a->cols; k++) {
                double product = decoded(a, i, k, rounded) * decoded(b, j, k, rounded);
                sum += product;
                magnitude += fabs(product);
            }
            double want = alpha * sum + (before ? number_at(before, i, j) : 0);
            double bound = 0x1p-24 * ((double)a->cols + 4) * alpha * magnitude + (store + 0x1p-23) * fabs(want);
            double error = fabs(number_at(c, i, j) - want);
            if (!(error <= bound))
                fail_msg("%s [%lld,%lld]: %g off, bound %g", label, (long long)i, (long long)j, error, bound);
        }
    }
}

static int64_t columns_for(random_numbers *r, const kind *a, const kind *b, int64_t most) {
    int64_t step = a->multiple > b->multiple ? a->multiple : b->multiple;
    return step * (1 + random_word(r) % (most / step));
}

/* Names of all products that the kinds above make. */
static void label_of(char label[128], const nb_qtensor *a, const nb_qtensor *b, const char *kernel) {
    char text_a[160], text_b[160];
    snprintf(label, 128, "%.48s x %.48s on %.24s", nb_quantizer_text(&a->quantizer, text_a, sizeof text_a),
             nb_quantizer_text(&b->quantizer, text_b, sizeof text_b), kernel);
}

static void reference_is_near_double(void **state) {
    (void)state;
    random_numbers r = {5, 0};
    for (int ka = 0; ka < KINDS; ka++) {
        for (int kb = 0; kb < KINDS; kb++) {
            int64_t m = 1 + random_word(&r) % 7, n = 1 + random_word(&r) % 7;
            int64_t k = columns_for(&r, &kinds[ka], &kinds[kb], 256);
            nb_qtensor a = random_operand(&r, &kinds[ka], m, k, ORDINARY);
            nb_qtensor b = random_operand(&r, &kinds[kb], n, k, ORDINARY);
            float c[49], before[49];
            for (int i = 0; i < 49; i++)
                c[i] = before[i] = random_outer(&r, false);
            bool accumulate = random_word(&r) & 1;
            nb_mat view = nb_mat_of(c, NB_F32, m, n);
            char label[128];
            label_of(label, &a, &b, ni_ref_product_kernel(NULL, &a.quantizer, &b.quantizer));
            assert_int_equal(ni_ref_gemm_q(NULL, &view, &a, &b, accumulate, NULL), NB_OK);
            nb_mat view_before = nb_mat_of(before, NB_F32, m, n);
            assert_near_double(&a, &b, &view, accumulate ? &view_before : NULL, label);
            free(a.codes);
            free(b.codes);
        }
    }
}

/* Two blocks by hand: codes 6*6 once and 0.5*(-1.5) once in the first, 16 times 3*1 in the second. */
static void reference_by_hand(void **state) {
    (void)state;
    uint8_t codes_a[16] = {0x17}, codes_b[16] = {0xB7}, scales_a[2] = {0x38, 0x7e}, scales_b[2] = {0x40, 0x01};
    memset(codes_a + 8, 0x55, 8);
    memset(codes_b + 8, 0x22, 8);
    float tensor_a = 3.0f, tensor_b = 0.125f, c = 1000.0f;
    nb_quantizer q = quantizer_of(&kinds[NVFP4]);
    nb_qtensor a = {q, 1, 32, codes_a, scales_a, NULL, &tensor_a}, b = {q, 1, 32, codes_b, scales_b, NULL, &tensor_b};
    nb_mat view = nb_mat_of(&c, NB_F32, 1, 1);
    /* (36 - 0.75) * (1 * 2) + 48 * (448 * 2^-9) = 70.5 + 42 = 112.5; times 3/8 */
    assert_int_equal(ni_ref_gemm_q(NULL, &view, &a, &b, false, NULL), NB_OK);
    assert_true(c == 42.1875f);
    assert_int_equal(ni_ref_gemm_q(NULL, &view, &a, &b, true, NULL), NB_OK);
    assert_true(c == 84.375f);
    uint16_t c_bf16 = ni_bf16_even(1.0f);
    nb_mat view_bf16 = nb_mat_of(&c_bf16, NB_BF16, 1, 1);
    assert_int_equal(ni_ref_gemm_q(NULL, &view_bf16, &a, &b, true, NULL), NB_OK);
    assert_true(ni_bf16_value(c_bf16) == 43.25f); /* 43.1875 in steps of 1/4 */
}

static void integers_are_codes_in_steps(void **state) {
    (void)state;
    static const nb_element small[] = {NB_ELEMENT_E2M1, NB_ELEMENT_INT4, NB_ELEMENT_S1P2};
    for (int i = 0; i < 3; i++)
        for (int code = 0; code < 16; code++)
            assert_true((float)ni_code_integer(small[i], (uint8_t)code) / (float)ni_code_steps(small[i]) ==
                        ni_element_info(small[i])->value((uint8_t)code));
}

static void products_are_named(void **state) {
    (void)state;
    static const struct {
        int a, b;
        ni_product product;
    } want[] = {
        {NVFP4, NVFP4_TILES, NI_PRODUCT_BLOCKS},
        {MXFP4, MXFP4, NI_PRODUCT_BLOCKS},
        {E2M1_ROW, INT4_TENSOR, NI_PRODUCT_WHOLE},
        {NVFP4, MXFP4, NI_PRODUCT_BF16},
        {NVFP4, E2M1_ROW, NI_PRODUCT_BF16},
        {E4M3_ROW, E4M3_ROW, NI_PRODUCT_BF16},
        {OUTER_POW2, OUTER_POW2, NI_PRODUCT_BF16},
        {OUTER, OUTER, NI_PRODUCT_BF16_ROUNDED},
        {NVFP4, OUTER, NI_PRODUCT_BF16_ROUNDED},
        {E2M1_COLUMN, E2M1_ROW, NI_PRODUCT_BF16_ROUNDED},
        {MXFP8, E2M1_COLUMN, NI_PRODUCT_BF16_ROUNDED},
        {HIFLOAT4, HIFLOAT4, NI_PRODUCT_BLOCKS},
        {HIFLOAT4, NVFP4, NI_PRODUCT_BF16},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        nb_quantizer a = quantizer_of(&kinds[want[i].a]), b = quantizer_of(&kinds[want[i].b]);
        assert_int_equal(ni_product_of(&a, &b), want[i].product);
        assert_int_equal(ni_product_of(&b, &a), want[i].product);
        nb_quantizer bf16 = nb_quantizer_bf16();
        assert_int_equal(ni_product_of(&a, &bf16), NI_PRODUCT_NONE);
    }
}

static void refuses_what_is_no_product(void **state) {
    (void)state;
    nb_backend *be;
    assert_int_equal(nb_backend_open("cpu", NULL, &be, NULL), NB_OK);
    random_numbers r = {7, 0};
    nb_qtensor a = random_operand(&r, &kinds[NVFP4], 3, 32, ORDINARY);
    nb_qtensor b = random_operand(&r, &kinds[NVFP4], 4, 48, ORDINARY);
    float c[16];
    nb_error err = {0};
    nb_mat view = nb_mat_of(c, NB_F32, 3, 4), wide = nb_mat_of(c, NB_F64, 3, 3);
    assert_int_equal(multiply_codes(be, &view, &a, &b, false, true, &err), NB_BAD_USAGE);
    assert_non_null(strstr(err.message, "A [3, 32] times B [4, 48]^T"));
    assert_int_equal(multiply_codes(be, &wide, &a, &a, false, true, &err), NB_UNSUPPORTED);
    nb_qtensor bf16 = a;
    bf16.quantizer = nb_quantizer_bf16();
    assert_int_equal(ni_gemm_q_check(&view, &a, &bf16, &err), NB_UNSUPPORTED);
    assert_null(be->ops->product_kernel(be, &a.quantizer, &bf16.quantizer));
    free(a.codes);
    free(b.codes);
    nb_backend_free(be);
}

/* ---- fast paths against the reference ---- */

static nb_backend *backends[12];
static int backend_count;

/* Every fast instruction set of this machine with 1, 2 and 3 threads. */
static int open_backends(void **state) {
    (void)state;
    for (int isa = NB_ISA_PORTABLE; isa <= NB_ISA_AVX512; isa++) {
        for (int threads = 1; threads <= 3; threads++) {
            nb_backend_options options = {threads, (nb_isa)isa};
            if (nb_backend_open("cpu", &options, &backends[backend_count], NULL) == NB_OK)
                backend_count++;
        }
    }
    return 0;
}

static int close_backends(void **state) {
    (void)state;
    for (int i = 0; i < backend_count; i++)
        nb_backend_free(backends[i]);
    return 0;
}

/* Equal bytes; a NaN equals any NaN. */
static void assert_same(const nb_mat *got, const char *want, size_t bytes, const char *label) {
    if (memcmp(got->data, want, bytes) == 0)
        return;
    bool wide = got->dtype == NB_F32;
    for (size_t i = 0; i < bytes / (wide ? 4 : 2); i++) {
        float x = wide ? ((float *)got->data)[i] : ni_bf16_value(((uint16_t *)got->data)[i]);
        float y =
            wide ? ((const float *)(const void *)want)[i] : ni_bf16_value(((const uint16_t *)(const void *)want)[i]);
        if (memcmp(&x, &y, 4) != 0 && !(isnan(x) && isnan(y)))
            fail_msg("%s: C[%lld, %lld]: %a at row %lld column %lld, the reference gives %a", label,
                     (long long)got->rows, (long long)got->cols, x, (long long)((int64_t)i / got->stride),
                     (long long)((int64_t)i % got->stride), y);
    }
}

/* One product on every backend, into a C with padded rows whose padding must survive. */
static void compare(random_numbers *r, int ka, int kb, int64_t m, int64_t n, int64_t k, scale_reach reach) {
    nb_qtensor a = random_operand(r, &kinds[ka], m, k, reach), b = random_operand(r, &kinds[kb], n, k, reach);
    nb_dtype type = random_word(r) & 1 ? NB_F32 : NB_BF16;
    bool accumulate = random_word(r) & 1;
    int64_t stride = n + random_word(r) % 3;
    size_t bytes = (size_t)(m * stride) * (type == NB_F32 ? 4 : 2);
    char *before = malloc(bytes), *want = malloc(bytes), *got = malloc(bytes);
    for (int64_t i = 0; i < m * stride; i++) {
        float x = random_outer(r, false);
        uint16_t h = ni_bf16_even(x);
        memcpy(before + i * (type == NB_F32 ? 4 : 2), type == NB_F32 ? (void *)&x : (void *)&h, type == NB_F32 ? 4 : 2);
    }
    memcpy(want, before, bytes);
    nb_mat view_want = {want, type, m, n, stride, NULL, NULL}, view_got = {got, type, m, n, stride, NULL, NULL};
    assert_int_equal(ni_ref_gemm_q(NULL, &view_want, &a, &b, accumulate, NULL), NB_OK);
    for (int i = 0; i < backend_count; i++) {
        nb_error err = {0};
        char label[128];
        label_of(label, &a, &b, backends[i]->ops->product_kernel(backends[i], &a.quantizer, &b.quantizer));
        for (int kept = 0; kept < 2; kept++) {
            memcpy(got, before, bytes);
            if (multiply_codes(backends[i], &view_got, &a, &b, accumulate, kept, &err) != NB_OK)
                fail_msg("%s: %s", label, err.message);
            assert_same(&view_got, want, bytes, label);
        }
    }
    free(a.codes);
    free(b.codes);
    free(before);
    free(want);
    free(got);
}

/* Pairs that are multiplied as packed integers, in every mixture. */
static const int packed_pairs[][2] = {
    {NVFP4, NVFP4},          {NVFP4, NVFP4_TILES}, {NVFP4_TILES, NVFP4}, {NVFP4_TILES, NVFP4_TILES},
    {NVFP4_PLAIN, NVFP4},    {MXFP4, MXFP4},       {HIFLOAT4, HIFLOAT4}, {E2M1_ROW, E2M1_ROW},
    {E2M1_ROW, E2M1_TENSOR}, {INT4_ROW, INT4_ROW}, {INT4_ROW, E2M1_ROW}, {E2M1_TENSOR, INT4_TENSOR},
};
enum { PACKED_PAIRS = sizeof packed_pairs / sizeof *packed_pairs };

static void packed_paths_give_the_reference_bits(void **state) {
    (void)state;
    random_numbers r = {11, 0};
    static const int16_t shapes[][2] = {{1, 1}, {1, 70}, {70, 1}, {8, 32}, {9, 33}, {7, 31}, {16, 64}, {35, 50}};
    for (int p = 0; p < PACKED_PAIRS; p++) {
        const kind *a = &kinds[packed_pairs[p][0]], *b = &kinds[packed_pairs[p][1]];
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            compare(&r, packed_pairs[p][0], packed_pairs[p][1], shapes[i][0], shapes[i][1],
                    columns_for(&r, a, b, i % 2 ? 130 : 64), ORDINARY);
        compare(&r, packed_pairs[p][0], packed_pairs[p][1], 5, 40, a->multiple, ORDINARY);
    }
}

/* Scales of zero, NaN, and powers of two whose product overflows or is subnormal. */
static void packed_paths_agree_on_every_scale(void **state) {
    (void)state;
    random_numbers r = {13, 0};
    for (int i = 0; i < 6; i++)
        for (int p = 0; p < 7; p++)
            compare(&r, packed_pairs[p][0], packed_pairs[p][1], 33, 40, 64 * (1 + i % 3), WHOLE_RANGE);
}

/* Several tiles each way, and a long contraction. */
static void packed_paths_cross_tile_edges(void **state) {
    (void)state;
    random_numbers r = {19, 0};
    for (int p = 0; p < PACKED_PAIRS; p++)
        compare(&r, packed_pairs[p][0], packed_pairs[p][1], 150, 290, 64, ORDINARY);
    compare(&r, NVFP4, NVFP4_TILES, 3, 18, 4096, ORDINARY);
    compare(&r, E2M1_ROW, INT4_ROW, 3, 18, 5001, ORDINARY);
}

/* One decoded product on every backend: within the bound of the sums, and no bit depends on the threads. */
static void check_decoded(random_numbers *r, int ka, int kb, int64_t m, int64_t n, int64_t k) {
    nb_qtensor a = random_operand(r, &kinds[ka], m, k, ORDINARY), b = random_operand(r, &kinds[kb], n, k, ORDINARY);
    nb_dtype type = random_word(r) & 1 ? NB_F32 : NB_BF16;
    bool accumulate = random_word(r) & 1;
    size_t bytes = (size_t)(m * n) * nb_dtype_size(type);
    char *before = malloc(bytes), *c = malloc(bytes), *last = malloc(bytes);
    for (int64_t i = 0; i < m * n; i++) {
        float x = random_outer(r, false);
        uint16_t h = ni_bf16_even(x);
        memcpy(before + (size_t)i * nb_dtype_size(type), type == NB_F32 ? (void *)&x : (void *)&h, nb_dtype_size(type));
    }
    nb_mat view = nb_mat_of(c, type, m, n), view_before = nb_mat_of(before, type, m, n);
    for (int i = 0; i < backend_count; i++) {
        char label[128];
        label_of(label, &a, &b, backends[i]->ops->product_kernel(backends[i], &a.quantizer, &b.quantizer));
        memcpy(c, before, bytes);
        assert_int_equal(multiply_codes(backends[i], &view, &a, &b, accumulate, i & 1, NULL), NB_OK);
        if (i % 3 == 0)
            assert_near_double(&a, &b, &view, accumulate ? &view_before : NULL, label);
        else
            assert_memory_equal(c, last, bytes);
        memcpy(last, c, bytes);
    }
    free(a.codes);
    free(b.codes);
    free(before);
    free(c);
    free(last);
}

static void decoded_paths_are_near_double(void **state) {
    (void)state;
    random_numbers r = {29, 0};
    for (int ka = 0; ka < KINDS; ka++) {
        for (int kb = 0; kb < KINDS; kb++) {
            nb_quantizer qa = quantizer_of(&kinds[ka]), qb = quantizer_of(&kinds[kb]);
            int64_t m = 1 + random_word(&r) % 16, n = 1 + random_word(&r) % 16;
            if (ni_product_decoded_name(ni_product_of(&qa, &qb)))
                check_decoded(&r, ka, kb, m, n, columns_for(&r, &kinds[ka], &kinds[kb], 256));
        }
    }
    check_decoded(&r, OUTER, OUTER, 140, 70, 128); /* several tiles: scales of rows and columns beyond the first */
    check_decoded(&r, E4M3_ROW, E4M3_ROW, 70, 200, 90);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_is_near_double),          cmocka_unit_test(reference_by_hand),
        cmocka_unit_test(integers_are_codes_in_steps),       cmocka_unit_test(products_are_named),
        cmocka_unit_test(refuses_what_is_no_product),        cmocka_unit_test(packed_paths_give_the_reference_bits),
        cmocka_unit_test(packed_paths_agree_on_every_scale), cmocka_unit_test(packed_paths_cross_tile_edges),
        cmocka_unit_test(decoded_paths_are_near_double),
    };
    return cmocka_run_group_tests(tests, open_backends, close_backends);
}
