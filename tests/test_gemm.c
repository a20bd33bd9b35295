/* test_gemm.c: the plain matrix product, against sums in double, under every instruction set and thread count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/table.h"
#include "base/philox.h"
#include "format/bf16.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct random_numbers {
    uint32_t key, next;
} random_numbers;

static uint32_t random_word(random_numbers *r) {
    return ni_philox(r->key, 0, r->next++, 0, 0, 0).w[0];
}

static int64_t random_size(random_numbers *r, int64_t most) {
    return 1 + random_word(r) % most;
}

/* In (-1, 1), with a spread of magnitudes. */
static float random_value(random_numbers *r) {
    float x = (float)((int32_t)random_word(r)) * 0x1p-31f;
    return x * x * x;
}

static size_t size_of(nb_dtype type) {
    return type == NB_F64 ? 8 : type == NB_F32 ? 4 : 2;
}

static double get(const nb_mat *m, int64_t row, int64_t col) {
    int64_t i = row * m->stride + col;
    return m->dtype == NB_F64   ? ((double *)m->data)[i]
           : m->dtype == NB_F32 ? (double)((float *)m->data)[i]
                                : (double)ni_bf16_value(((uint16_t *)m->data)[i]);
}

static void set(const nb_mat *m, int64_t i, float value) {
    if (m->dtype == NB_F64)
        ((double *)m->data)[i] = value;
    else if (m->dtype == NB_F32)
        ((float *)m->data)[i] = value;
    else
        ((uint16_t *)m->data)[i] = ni_bf16_even(value);
}

/* A view with padding between rows; `offset` elements off its allocation, so that it is aligned to nothing. */
static nb_mat random_mat(random_numbers *r, nb_dtype type, int64_t rows, int64_t cols, int64_t padding, int64_t offset,
                         char **memory) {
    int64_t stride = cols + padding, count = rows * stride + offset;
    *memory = malloc((size_t)count * size_of(type));
    assert_non_null(*memory);
    nb_mat m = {*memory, type, rows, cols, stride, NULL, NULL};
    for (int64_t i = 0; i < count; i++)
        set(&m, i, random_value(r));
    m.data = *memory + (size_t)offset * size_of(type);
    return m;
}

typedef struct problem {
    nb_mat a, b, c;
    bool trans_a, trans_b, accumulate;
    int64_t depth;
    char *memory[3];
    size_t c_bytes;
} problem;

static problem random_problem(random_numbers *r, nb_dtype ta, nb_dtype tb, nb_dtype tc, int64_t m, int64_t n,
                              int64_t k) {
    problem p;
    p.trans_a = random_word(r) & 1;
    p.trans_b = random_word(r) & 1;
    p.accumulate = random_word(r) & 1;
    p.depth = k;
    p.a = random_mat(r, ta, p.trans_a ? k : m, p.trans_a ? m : k, random_word(r) % 5, random_word(r) % 3, &p.memory[0]);
    p.b = random_mat(r, tb, p.trans_b ? n : k, p.trans_b ? k : n, random_word(r) % 5, random_word(r) % 3, &p.memory[1]);
    int64_t padding = random_word(r) % 5, offset = random_word(r) % 3;
    p.c = random_mat(r, tc, m, n, padding, offset, &p.memory[2]);
    p.c_bytes = (size_t)(m * (n + padding) + offset) * size_of(tc);
    return p;
}

static void free_problem(problem *p) {
    for (int i = 0; i < 3; i++)
        free(p->memory[i]);
}

/* |error| <= (K + 2) u sum|ab|, u the unit of the sums, plus the rounding to C's type; subnormals may be flushed. */
static void assert_close(const problem *p, const nb_mat *before, const char *label) {
    double unit = p->c.dtype == NB_F64 ? 0x1p-53 : 0x1p-24;
    double store = p->c.dtype == NB_BF16 ? 0x1p-8 : unit;
    for (int64_t i = 0; i < p->c.rows; i++) {
        for (int64_t j = 0; j < p->c.cols; j++) {
            double sum = p->accumulate ? get(before, i, j) : 0, magnitude = fabs(sum);
            for (int64_t k = 0; k < p->depth; k++) {
                double product = (p->trans_a ? get(&p->a, k, i) : get(&p->a, i, k)) *
                                 (p->trans_b ? get(&p->b, j, k) : get(&p->b, k, j));
                sum += product;
                magnitude += fabs(product);
            }
            double bound = ((double)p->depth + 2) * unit * magnitude + store * fabs(sum) + 0x1p-120;
            double error = fabs(get(&p->c, i, j) - sum);
            if (!(error <= bound))
                fail_msg("%s [%lld,%lld]: %g off, bound %g", label, (long long)i, (long long)j, error, bound);
        }
    }
}

/* What lies between the rows of C is not C's. */
static void assert_padding_kept(const problem *p, const char *before) {
    size_t size = size_of(p->c.dtype);
    const char *after = p->memory[2], *first = p->c.data;
    assert_memory_equal(after, before, (size_t)(first - after));
    for (int64_t i = 0; i < p->c.rows; i++) {
        size_t end = (size_t)(first - after) + (size_t)(i * p->c.stride + p->c.cols) * size;
        assert_memory_equal(after + end, before + end, (size_t)(p->c.stride - p->c.cols) * size);
    }
}

static void check(random_numbers *r, nb_backend *const *backends, int count, const nb_dtype *types, int64_t m,
                  int64_t n, int64_t k) {
    problem p = random_problem(r, types[0], types[1], types[2], m, n, k);
    char *before = malloc(p.c_bytes), *result = malloc(p.c_bytes);
    memcpy(before, p.memory[2], p.c_bytes);
    nb_mat c_before = p.c;
    c_before.data = before + ((char *)p.c.data - p.memory[2]);
    for (int i = 0; i < count; i++) {
        nb_error err = {0};
        memcpy(p.memory[2], before, p.c_bytes);
        if (backends[i]->ops->gemm(backends[i], &p.c, &p.a, p.trans_a, &p.b, p.trans_b, p.accumulate, &err) != NB_OK)
            fail_msg("%s", err.message);
        assert_padding_kept(&p, before);
        if (i % 3 == 0)
            assert_close(&p, &c_before, backends[i]->ops->gemm_kernel(backends[i], types[0], types[1]));
        else /* the same instruction set with another number of threads: the same bits */
            assert_memory_equal(p.memory[2], result, p.c_bytes);
        memcpy(result, p.memory[2], p.c_bytes);
    }
    free(before);
    free(result);
    free_problem(&p);
}

/* Every instruction set of this machine with 1, 2 and 3 threads, in this order. */
static int open_backends(nb_backend **backends) {
    int count = 0;
    for (int isa = NB_ISA_SCALAR; isa <= NB_ISA_AVX512; isa++) {
        for (int threads = 1; threads <= 3; threads++) {
            nb_backend_options options = {threads, (nb_isa)isa};
            nb_backend *be;
            if (nb_backend_open("cpu", &options, &be, NULL) == NB_OK)
                backends[count++] = be;
        }
    }
    return count;
}

static const nb_dtype all_types[][3] = {
    {NB_BF16, NB_BF16, NB_BF16}, {NB_BF16, NB_BF16, NB_F32}, {NB_F32, NB_F32, NB_F32}, {NB_F32, NB_BF16, NB_F32},
    {NB_BF16, NB_F32, NB_BF16},  {NB_F32, NB_F32, NB_BF16},  {NB_F64, NB_F64, NB_F64},
};
enum { TYPES = sizeof all_types / sizeof all_types[0] };

static void matches_sums_in_double(void **state) {
    (void)state;
    nb_backend *backends[12];
    int count = open_backends(backends);
    random_numbers r = {17, 0};
    for (int t = 0; t < TYPES; t++) {
        for (int i = 0; i < 6; i++)
            check(&r, backends, count, all_types[t], random_size(&r, 40), random_size(&r, 40), random_size(&r, 70));
        check(&r, backends, count, all_types[t], 1, random_size(&r, 90), random_size(&r, 90));
        check(&r, backends, count, all_types[t], random_size(&r, 90), 1, random_size(&r, 90));
        check(&r, backends, count, all_types[t], 3, 5, 1);
    }
    for (int i = 0; i < count; i++)
        nb_backend_free(backends[i]);
}

/* Several tiles each way, and a contraction longer than what is widened at a time. */
static void crosses_tile_edges(void **state) {
    (void)state;
    nb_backend *backends[12], *fast[12];
    int count = open_backends(backends);
    random_numbers r = {23, 0};
    int fast_count = 0; /* the scalar reference would take too long */
    for (int i = 3; i < count; i++)
        fast[fast_count++] = backends[i];
    for (int t = 0; t < TYPES - 1; t++) {
        check(&r, fast, fast_count, all_types[t], 131, 203, 40);
        check(&r, fast, fast_count, all_types[t], 9, 70, 2100);
    }
    for (int i = 0; i < count; i++)
        nb_backend_free(backends[i]);
}

/* One chain of fused multiply-adds over all of K, in order; then C is added and the sum rounded once to its type. */
static float chain(const problem *p, const nb_mat *before, int64_t i, int64_t j) {
    float sum = 0;
    for (int64_t k = 0; k < p->depth; k++)
        sum = fmaf((float)(p->trans_a ? get(&p->a, k, i) : get(&p->a, i, k)),
                   (float)(p->trans_b ? get(&p->b, j, k) : get(&p->b, k, j)), sum);
    return p->accumulate ? (float)get(before, i, j) + sum : sum;
}

static void check_chain(random_numbers *r, nb_backend *be, const nb_dtype *types, int64_t m, int64_t n, int64_t k) {
    problem p = random_problem(r, types[0], types[1], types[2], m, n, k);
    char *before = malloc(p.c_bytes);
    memcpy(before, p.memory[2], p.c_bytes);
    nb_mat c_before = p.c;
    c_before.data = before + ((char *)p.c.data - p.memory[2]);
    nb_error err = {0};
    if (be->ops->gemm(be, &p.c, &p.a, p.trans_a, &p.b, p.trans_b, p.accumulate, &err) != NB_OK)
        fail_msg("%s", err.message);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            float want = chain(&p, &c_before, i, j);
            want = types[2] == NB_BF16 ? ni_bf16_value(ni_bf16_even(want)) : want;
            if (get(&p.c, i, j) != (double)want)
                fail_msg("%s [%lld,%lld] of %lldx%lldx%lld: %a, not %a", be->ops->gemm_kernel(be, types[0], types[1]),
                         (long long)i, (long long)j, (long long)m, (long long)n, (long long)k, get(&p.c, i, j),
                         (double)want);
        }
    }
    free(before);
    free_problem(&p);
}

/* Kernels of ours sum alike under every instruction set and on any tiles: a run that goes on elsewhere keeps its bits.
 */
static void our_kernels_are_one_chain(void **state) {
    (void)state;
    nb_backend *backends[12];
    int count = open_backends(backends);
    random_numbers r = {53, 0};
    for (int i = 0; i < count; i++) {
        nb_backend *be = backends[i];
        for (int t = 0; t < TYPES - 1; t++) {
            if (be->ops->gemm_take(be, all_types[t][0], all_types[t][1], "fma chain", NULL) != NB_OK)
                continue;
            for (int64_t m = 1; m <= 30; m += 1 + m / 4) /* every count of rows that a strip may have */
                check_chain(&r, be, all_types[t], m, random_size(&r, 70), random_size(&r, 40));
            check_chain(&r, be, all_types[t], 70, 140, 530); /* tiles, blocks of rows and of the contraction */
        }
    }
    for (int i = 0; i < count; i++)
        nb_backend_free(backends[i]);
}

/* Whatever a backend multiplies with has a name by which it is taken again; a name from elsewhere changes nothing. */
static void takes_sums_by_name(void **state) {
    (void)state;
    nb_backend *backends[12];
    int count = open_backends(backends);
    for (int i = 0; i < count; i++) {
        nb_backend *be = backends[i];
        for (int t = 0; t < TYPES - 1; t++) {
            const nb_dtype a = all_types[t][0], b = all_types[t][1];
            char sums[64], again[64];
            nb_error err = {0};
            be->ops->gemm_sums(be, a, b, sums, sizeof sums);
            const char *kernel = be->ops->gemm_kernel(be, a, b);
            assert_int_equal(be->ops->gemm_take(be, a, b, sums, NULL), NB_OK);
            assert_string_equal(be->ops->gemm_kernel(be, a, b), kernel);
            assert_int_equal(be->ops->gemm_take(be, a, b, "abacus 1.0", &err), NB_UNSUPPORTED);
            assert_non_null(strstr(err.message, "abacus 1.0"));
            assert_non_null(strstr(err.message, sums));
            be->ops->gemm_sums(be, a, b, again, sizeof again);
            assert_string_equal(again, sums);
        }
    }
    for (int i = 0; i < count; i++)
        nb_backend_free(backends[i]);
}

static void empty_products(void **state) {
    (void)state;
    nb_backend *be;
    assert_int_equal(nb_backend_open("cpu", NULL, &be, NULL), NB_OK);
    float c_data[4] = {1, 2, 3, 4};
    nb_mat c = nb_mat_of(c_data, NB_F32, 2, 2), a = nb_mat_of(NULL, NB_F32, 2, 0), b = nb_mat_of(NULL, NB_F32, 0, 2);
    assert_int_equal(be->ops->gemm(be, &c, &a, false, &b, false, true, NULL), NB_OK);
    assert_true(c_data[3] == 4);
    assert_int_equal(be->ops->gemm(be, &c, &a, false, &b, false, false, NULL), NB_OK);
    assert_true(c_data[0] == 0 && c_data[3] == 0);
    nb_mat none = nb_mat_of(NULL, NB_F32, 0, 2);
    assert_int_equal(be->ops->gemm(be, &none, &none, false, &c, false, false, NULL), NB_OK);
    nb_backend_free(be);
}

static void refuses_wrong_shapes(void **state) {
    (void)state;
    nb_backend *be;
    assert_int_equal(nb_backend_open("cpu", NULL, &be, NULL), NB_OK);
    float data[64] = {0};
    nb_error err = {0};
    nb_mat a = nb_mat_of(data, NB_F32, 4, 6), b = nb_mat_of(data, NB_F32, 6, 4), c = nb_mat_of(data, NB_F32, 4, 5);
    assert_int_equal(be->ops->gemm(be, &c, &a, false, &b, false, false, &err), NB_BAD_USAGE);
    assert_non_null(strstr(err.message, "C [4, 5]"));
    nb_mat narrow = nb_mat_of(data, NB_F32, 4, 4), typed = nb_mat_of(data, NB_U8, 4, 4);
    narrow.stride = 3;
    assert_int_equal(be->ops->gemm(be, &narrow, &a, false, &b, false, false, &err), NB_BAD_USAGE);
    assert_int_equal(be->ops->gemm(be, &typed, &a, false, &b, false, false, &err), NB_UNSUPPORTED);
    nb_backend_free(be);
}

/* OpenMP's and OpenBLAS's thread counts belong to the program that uses the library. */
static void leaves_the_program_its_threads(void **state) {
    (void)state;
    random_numbers r = {31, 0};
    nb_backend *backends[12];
    int count = open_backends(backends);
    int omp_before = omp_get_max_threads(), blas_before = openblas_get_num_threads();
    omp_set_num_threads(5);
    openblas_set_num_threads(2);
    check(&r, backends, count, all_types[1], 20, 30, 40);
    check(&r, backends, count, all_types[2], 20, 30, 40);
    assert_int_equal(omp_get_max_threads(), 5);
    assert_int_equal(openblas_get_num_threads(), 2);
    omp_set_num_threads(omp_before);
    openblas_set_num_threads(blas_before);
    for (int i = 0; i < count; i++)
        nb_backend_free(backends[i]);
}

/* More shapes than the backend keeps primitives for. */
static void survives_many_shapes(void **state) {
    (void)state;
    nb_backend_options options = {2, NB_ISA_AUTO};
    nb_backend *be;
    assert_int_equal(nb_backend_open("cpu", &options, &be, NULL), NB_OK);
    random_numbers r = {41, 0};
    for (int64_t k = 1; k <= 300; k++)
        check(&r, &be, 1, all_types[1], 2, 3, k);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_sums_in_double),
        cmocka_unit_test(crosses_tile_edges),
        cmocka_unit_test(our_kernels_are_one_chain),
        cmocka_unit_test(takes_sums_by_name),
        cmocka_unit_test(empty_products),
        cmocka_unit_test(refuses_wrong_shapes),
        cmocka_unit_test(leaves_the_program_its_threads),
        cmocka_unit_test(survives_many_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
