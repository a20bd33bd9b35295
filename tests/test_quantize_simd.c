/* test_quantize_simd.c: by way of the public door every kernel of the CPU gives the reference's bits, and its
 * statistics to the bit, with any number of threads. Hard numbers, odd shapes, codes of codes:
 * tests/backends/cases_quantize.c. */
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
    buffer *before = test_buffers;
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
        assert_int_equal(nb_quantize(be, &got, src, transpose, &noise, &b, NULL), NB_OK);
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

#define CASE(test) cmocka_unit_test_teardown(test, release_buffers)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(whole_grammar),
        CASE(thread_counts),
    };
    return cmocka_run_group_tests(tests, make_backends, free_backends);
}
