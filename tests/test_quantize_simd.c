/* test_quantize_simd.c: every kernel of the CPU gives the reference's bits: whole grammar, odd shapes, both sources,
 * all instruction sets, any number of threads. */
#include "backend/table.h"
#include "quantize_cases.h"

#include "backend/cpu/cpu.h"
#include "backend/ref/quantize.h"

static const uint32_t at_step_3[2] = {3, 2};
static const nb_noise noise = {.seed = 5, .tensor = 0x1234567, .signs = 0x89abcdef, .clock = at_step_3};

/* One backend an instruction set that this machine runs, made by the first test. */
enum { BACKENDS = 3 };
static nb_backend *backends[BACKENDS];

static nb_backend *backend_of(nb_isa isa, int32_t threads) {
    nb_backend_options options = {threads, isa};
    nb_backend *be = NULL;
    if (ni_isa_available(isa))
        assert_int_equal(nb_backend_open("cpu", &options, &be, NULL), NB_OK);
    return be;
}

static int make_backends(void **state) {
    (void)state;
    static const nb_isa isas[BACKENDS] = {NB_ISA_PORTABLE, NB_ISA_AVX2, NB_ISA_AVX512};
    for (int i = 0; i < BACKENDS; i++)
        backends[i] = backend_of(isas[i], 1);
    return 0;
}

static int free_backends(void **state) {
    (void)state;
    for (int i = 0; i < BACKENDS; i++)
        nb_backend_free(backends[i]);
    return 0;
}

typedef struct shape {
    int64_t rows, cols, extra; /* of the operand; stride beyond the columns */
} shape;

static void describe(char *text, size_t size, const nb_quantizer *q, const nb_mat *src, bool transpose, nb_isa isa) {
    char format[200];
    snprintf(text, size, "%s %s [%d, %d]%s %s", nb_isa_name(isa), nb_dtype_name(src->dtype), (int)src->rows,
             (int)src->cols, transpose ? "^T" : "", nb_quantizer_text(q, format, sizeof format));
}

static void same_stats(const nb_quantize_stats *a, const nb_quantize_stats *b, const char *where) {
    bool same = a->elements == b->elements && a->nonzero == b->nonzero && a->flushed == b->flushed &&
                a->saturated == b->saturated && a->blocks == b->blocks && a->zero_scales == b->zero_scales;
    const double x[] = {a->amax, a->sum_sq, a->sum_sq_error, a->sum_product};
    const double y[] = {b->amax, b->sum_sq, b->sum_sq_error, b->sum_product};
    for (int i = 0; i < 4; i++)
        same = same && (x[i] == y[i] || (isnan(x[i]) && isnan(y[i])));
    if (!same)
        fail_msg("%s: statistics differ", where);
}

/* The reference once, then every backend (or the one given). */
static void compare_quantize(nb_backend *only, const nb_quantizer *q, const nb_mat *src, bool transpose) {
    int64_t rows = transpose ? src->cols : src->rows, cols = transpose ? src->rows : src->cols;
    if (nb_quantizer_check_shape(q, rows, cols, NULL) != NB_OK)
        return;
    buffer *before = buffers;
    nb_qtensor want = new_operand(q, rows, cols);
    nb_quantize_stats a, b;
    assert_int_equal(ni_ref_quantize(NULL, &want, src, transpose, &noise, &a, NULL), NB_OK);
    for (int i = 0; i < BACKENDS; i++) {
        nb_backend *be = only ? only : backends[i];
        if (!be || (only && i))
            continue;
        char where[320];
        describe(where, sizeof where, q, src, transpose, ni_cpu_of(be)->isa);
        nb_qtensor got = new_operand(q, rows, cols);
        assert_int_equal(be->ops->quantize(be, &got, src, transpose, &noise, &b, NULL), NB_OK);
        same_operand(&want, &got, where);
        same_stats(&a, &b, where);
    }
    assert_int_equal(release_buffers_until(before), 0);
}

static void whole_grammar(void **state) {
    (void)state;
    static const shape shapes[] = {{1, 128, 0}, {19, 256, 3}, {33, 384, 0}};
    quantizer_list *list = all_quantizers();
    for (size_t s = 0; s < 3; s++)
        for (int dtype = 0; dtype < 2; dtype++)
            for (int transpose = 0; transpose < 2; transpose++) {
                const shape *p = &shapes[s];
                nb_mat src = data_matrix(s == 1 ? DATA_CORNERS : DATA_NORMAL, dtype ? NB_BF16 : NB_F32,
                                         transpose ? p->cols : p->rows, transpose ? p->rows : p->cols,
                                         (transpose ? p->rows : p->cols) + p->extra);
                for (int32_t k = 0; k < list->count; k++)
                    if (s == 1 || k % 5 == dtype + 2 * transpose) /* the middle shape sees them all */
                        compare_quantize(NULL, &list->q[k], &src, transpose);
            }
}

static void hard_numbers(void **state) {
    (void)state;
    quantizer_list *list = all_quantizers();
    for (int kind = DATA_WIDE; kind < DATA_KINDS; kind++) {
        nb_mat src = data_matrix((data_kind)kind, NB_F32, 17, 128, 128);
        nb_mat tall = data_matrix((data_kind)kind, NB_F32, 128, 17, 17);
        for (int32_t k = 0; k < list->count; k++)
            compare_quantize(NULL, &list->q[k], (k + kind) % 3 ? &src : &tall, (k + kind) % 3 == 0);
    }
}

/* Row, column and tensor scales, and no scale, take any number of columns. */
static void odd_shapes(void **state) {
    (void)state;
    static const shape shapes[] = {{1, 1, 0}, {5, 7, 2}, {17, 31, 0}, {16, 129, 1}, {50, 140, 0}};
    quantizer_list *list = all_formats();
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int dtype = 0; dtype < 2; dtype++) {
            nb_mat src = data_matrix(DATA_NORMAL, dtype ? NB_BF16 : NB_F32, shapes[s].rows, shapes[s].cols,
                                     shapes[s].cols + shapes[s].extra);
            for (int32_t k = 0; k < list->count; k++)
                compare_quantize(NULL, &list->q[k], &src, k % 2 == dtype);
        }
}

static void thread_counts(void **state) {
    (void)state;
    quantizer_list *list = all_quantizers();
    nb_mat src = data_matrix(DATA_NORMAL, NB_BF16, 128, 128, 128);
    for (int32_t threads = 1; threads <= 5; threads += 2) {
        nb_backend *be = backend_of(ni_isa_best(), threads);
        for (int32_t k = 0; k < list->count; k += 43)
            compare_quantize(be, &list->q[k], &src, k % 2);
        nb_backend_free(be);
    }
}

/* Every format requantized into another, the other way round and as it lies. */
static void requantized(void **state) {
    (void)state;
    quantizer_list *list = all_formats(), *to = all_quantizers();
    nb_mat data = data_matrix(DATA_NORMAL, NB_F32, 128, 256, 256);
    for (int32_t k = 0; k < list->count; k++) {
        buffer *before = buffers;
        const nb_quantizer *q = &to->q[k * 37 % to->count];
        bool transpose = k % 3 != 0;
        int64_t rows = transpose ? 256 : 128, cols = transpose ? 128 : 256;
        nb_qtensor src = new_operand(&list->q[k], 128, 256), want = new_operand(q, rows, cols);
        assert_int_equal(ni_ref_quantize(NULL, &src, &data, false, &noise, NULL, NULL), NB_OK);
        assert_int_equal(ni_ref_requantize(NULL, &want, &src, transpose, &noise, NULL, NULL), NB_OK);
        for (int i = 0; i < BACKENDS; i++) {
            nb_backend *be = backends[i];
            nb_qtensor got = new_operand(q, rows, cols);
            if (!be)
                continue;
            assert_int_equal(be->ops->requantize(be, &got, &src, transpose, &noise, NULL, NULL), NB_OK);
            char where[320];
            describe(where, sizeof where, q, &data, transpose, ni_cpu_of(be)->isa);
            same_operand(&want, &got, where);
        }
        assert_int_equal(release_buffers_until(before), 0);
    }
}

static void compare_dequantize(const nb_qtensor *src, bool transpose, bool with_tensor_scale, nb_dtype dtype) {
    int64_t rows = transpose ? src->cols : src->rows, cols = transpose ? src->rows : src->cols;
    size_t bytes = (size_t)(rows * cols) * nb_dtype_size(dtype);
    nb_mat want = nb_mat_of(poisoned(bytes), dtype, rows, cols), got = want;
    assert_int_equal(ni_ref_dequantize(NULL, &want, src, transpose, with_tensor_scale, NULL), NB_OK);
    for (int i = 0; i < BACKENDS; i++) {
        nb_backend *be = backends[i];
        if (!be)
            continue;
        got.data = poisoned(bytes);
        assert_int_equal(be->ops->dequantize(be, &got, src, transpose, with_tensor_scale, NULL), NB_OK);
        char where[320];
        describe(where, sizeof where, &src->quantizer, &got, transpose, ni_cpu_of(be)->isa);
        same_buffer("decoded values", where, want.data, got.data, bytes);
    }
}

static void decoded(void **state) {
    (void)state;
    static const shape shapes[] = {{37, 256, 0}, {16, 45, 0}};
    quantizer_list *list = all_formats();
    for (int s = 0; s < 2; s++) {
        nb_mat data = data_matrix(DATA_CORNERS, NB_F32, shapes[s].rows, shapes[s].cols, shapes[s].cols);
        for (int32_t k = 0; k < list->count; k++) {
            buffer *before = buffers;
            if (nb_quantizer_check_shape(&list->q[k], data.rows, data.cols, NULL) != NB_OK)
                continue;
            nb_qtensor src = new_operand(&list->q[k], data.rows, data.cols);
            assert_int_equal(ni_ref_quantize(NULL, &src, &data, false, &noise, NULL, NULL), NB_OK);
            for (int mode = 0; mode < 4; mode++)
                compare_dequantize(&src, mode & 1, mode & 2, (mode + k) % 2 ? NB_BF16 : NB_F32);
            assert_int_equal(release_buffers_until(before), 0);
        }
    }
}

/* Every BF16 number, and every float next to a code or halfway between two, by every rounding; every code decoded. */
static void small_code_spaces(void **state) {
    (void)state;
    nb_mat all = nb_mat_of(poisoned(65536 * 2), NB_BF16, 256, 256);
    for (int i = 0; i < 65536; i++)
        ((uint16_t *)all.data)[i] = (uint16_t)i;
    for (int e = NB_ELEMENT_E2M1; e < NB_ELEMENT_COUNT; e++) {
        const ni_element_row *row = ni_element_info((nb_element)e);
        nb_quantizer q = ni_format_family_find(row->name)->defaults;
        q.scale_type = NB_SCALE_NONE;
        q.block_rows = q.block_cols = NB_BLOCK_ALL;
        int codes = row->bits == 4 ? 8 : 0x7c;
        nb_mat edges = nb_mat_of(poisoned((size_t)codes * 12 * 4), NB_F32, codes, 12);
        for (int m = 0; m < codes; m++)
            for (int i = 0; i < 12; i++) {
                float low = row->value((uint8_t)(m ? m - 1 : 0)), high = row->value((uint8_t)m);
                float x = i / 3 % 2 ? (low + high) / 2 : high;
                x = i % 3 ? nextafterf(x, i % 3 == 1 ? INFINITY : -INFINITY) : x;
                ((float *)edges.data)[12 * m + i] = i < 6 ? x : -x;
            }
        for (int k = 0; k < 4; k++) {
            q.round = k < 2 ? (nb_rounding)k : NB_ROUND_STOCHASTIC;
            q.sr_bits = k == 2 ? 8 : 16;
            compare_quantize(NULL, &q, &all, false);
            compare_quantize(NULL, &q, &edges, k % 2);
        }
        nb_qtensor every = new_operand(&q, 32, 32);
        for (int i = 0; i < 32 * 32 * row->bits / 8; i++)
            every.codes[i] = (uint8_t)i;
        compare_dequantize(&every, false, true, NB_F32);
        compare_dequantize(&every, true, true, NB_BF16);
    }
}

static void codes_exchanged(void **state) {
    (void)state;
    quantizer_list *list = all_formats();
    static const shape shapes[] = {{48, 80, 0}, {7, 45, 0}, {256, 128, 0}};
    int done = 0;
    for (int s = 0; s < 3; s++) {
        nb_mat data = data_matrix(DATA_NORMAL, NB_F32, shapes[s].rows, shapes[s].cols, shapes[s].cols);
        for (int32_t k = 0; k < list->count; k++) {
            nb_quantizer q = list->q[k], t = q;
            t.block_rows = q.block_cols;
            t.block_cols = q.block_rows;
            if (nb_quantizer_check_shape(&q, data.rows, data.cols, NULL) != NB_OK ||
                nb_quantizer_check_shape(&t, data.cols, data.rows, NULL) != NB_OK)
                continue;
            nb_qtensor src = new_operand(&q, data.rows, data.cols);
            nb_qtensor want = new_operand(&t, data.cols, data.rows), got = new_operand(&t, data.cols, data.rows);
            assert_int_equal(ni_ref_quantize(NULL, &src, &data, false, &noise, NULL, NULL), NB_OK);
            assert_int_equal(ni_ref_transpose_codes(NULL, &want, &src, NULL), NB_OK);
            assert_int_equal(backends[0]->ops->transpose_codes(backends[0], &got, &src, NULL), NB_OK);
            char where[320];
            describe(where, sizeof where, &q, &data, true, NB_ISA_PORTABLE);
            same_operand(&want, &got, where);
            done++;
        }
    }
    assert_true(done > 100);
}

#define CASE(test) cmocka_unit_test_teardown(test, release_buffers)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(whole_grammar), CASE(hard_numbers), CASE(odd_shapes),      CASE(thread_counts),
        CASE(requantized),   CASE(decoded),      CASE(codes_exchanged), CASE(small_code_spaces),
    };
    return cmocka_run_group_tests(tests, make_backends, free_backends);
}
