/* test_measure.c: the lens's measurements against closed forms, and the fast ones against the reference. */
#include "backend/table.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/cpu.h"
#include "backend/ref/measure.h"
#include "base/philox.h"
#include "format/bf16.h"
#include <math.h>

static float uniform(uint32_t i) { /* (-1, 1) */
    return ((float)(ni_philox(7, 7, i, 0, 0, 0).w[0] >> 8) + 0.5f) / 8388608.0f - 1;
}

static void closed_forms(void **state) {
    (void)state;
    enum { N = 256 };
    static float x[N * N];
    nb_mat m = nb_mat_of(x, NB_F32, N, N);
    ni_moments got;
    for (int i = 0; i < N * N; i++)
        x[i] = i % 2 ? 3 : -3; /* two points: kurtosis 1 - 3 */
    ni_ref_measure(NULL, &m, &got, NULL, NULL);
    assert_true(fabs(got.excess_kurtosis + 2) < 1e-12 && fabs(got.rms - 3) < 1e-12 && got.mean == 0 && got.amax == 3);
    for (int i = 0; i < N * N; i++)
        x[i] = 5 + uniform((uint32_t)i); /* uniform: -6/5 */
    ni_ref_measure(NULL, &m, &got, NULL, NULL);
    assert_true(fabs(got.excess_kurtosis + 1.2) < 0.02 && fabs(got.mean - 5) < 0.01);
    memset(x, 0, sizeof x);
    x[17] = -8; /* one spike in n: (n-1)^2... -> close to n - 3 */
    static float crest[N / 16 * N / 16], columns[N];
    ni_ref_measure(NULL, &m, &got, columns, crest);
    assert_true(fabs(got.excess_kurtosis / (N * N) - 1) < 1e-3);
    assert_true(crest[1] == 16 && crest[0] == 0 && columns[17] == 8 && columns[16] == 0);
    for (int i = 0; i < N * N; i++)
        x[i] = 2.5f; /* no spread: 0, not NaN */
    ni_ref_measure(NULL, &m, &got, NULL, NULL);
    assert_true(got.excess_kurtosis == 0);
}

static void check_shape(nb_backend *be, nb_dtype dtype, int64_t rows, int64_t cols, bool poison) {
    int64_t stride = cols + 3, width = (cols + 15) / 16, tiles = (rows + 15) / 16 * width;
    float *x = malloc((size_t)(rows * stride) * sizeof *x);
    uint16_t *half = malloc((size_t)(rows * stride) * sizeof *half);
    float *columns[2], *crest[2];
    for (int i = 0; i < 2; i++) {
        columns[i] = malloc((size_t)cols * sizeof(float));
        crest[i] = malloc((size_t)tiles * sizeof(float));
    }
    for (int64_t i = 0; i < rows * stride; i++) {
        x[i] = 1e-9f * powf(uniform((uint32_t)i), 5); /* as small as gradients get */
        if (poison && i % 37 == 0)
            x[i] = i % 2 ? NAN : -INFINITY;
        half[i] = ni_bf16_even(x[i]);
    }
    nb_mat m = {dtype == NB_BF16 ? (void *)half : (void *)x, dtype, rows, cols, stride, NULL, NULL};
    ni_moments want, got;
    ni_ref_measure(be, &m, &want, columns[0], crest[0]);
    be->ops->measure(be, &m, &got, columns[1], crest[1]);
    assert_int_equal(want.count, got.count);
    assert_int_equal(want.nonfinite, got.nonfinite);
    assert_true(want.amax == got.amax);
    assert_true(fabs(want.mean - got.mean) <= 1e-12 * want.rms && fabs(want.rms / got.rms - 1) < 1e-12);
    assert_true(fabs(want.excess_kurtosis - got.excess_kurtosis) < 1e-9 * (3 + fabs(want.excess_kurtosis)));
    assert_memory_equal(columns[0], columns[1], (size_t)cols * sizeof(float));
    for (int64_t i = 0; i < tiles; i++)
        assert_true(fabsf(crest[0][i] - crest[1][i]) <= 2e-7f * crest[0][i]);
    for (int i = 0; i < 2; i++) {
        free(columns[i]);
        free(crest[i]);
    }
    free(x);
    free(half);
}

static void fast_equals_reference(void **state) {
    (void)state;
    for (int isa = NB_ISA_PORTABLE; isa <= NB_ISA_AVX512; isa++)
        for (int32_t threads = 1; threads <= 3; threads++) {
            if (!ni_isa_available((nb_isa)isa))
                continue;
            nb_backend_options options = {threads, (nb_isa)isa};
            nb_backend *be;
            assert_int_equal(nb_backend_open("cpu", &options, &be, NULL), NB_OK);
            for (int bf16 = 0; bf16 < 2; bf16++) {
                nb_dtype dtype = bf16 ? NB_BF16 : NB_F32;
                check_shape(be, dtype, 64, 48, false);
                check_shape(be, dtype, 33, 17, true);
                check_shape(be, dtype, 1, 1, false);
                check_shape(be, dtype, 130, 5, false);
            }
            nb_backend_free(be);
        }
}

/* One head whose logits are known: q.k = 0 for every key gives entropy log(keys), kurtosis 0, maximum 0. */
static void attention_closed_form(void **state) {
    (void)state;
    enum { SEQ = 8, DIM = 4 };
    double q[SEQ * DIM] = {0}, k[SEQ * DIM];
    for (int i = 0; i < SEQ * DIM; i++)
        k[i] = uniform((uint32_t)i);
    int32_t doc_start[SEQ] = {0, 0, 0, 0, 4, 4, 4, 4};
    nb_attention a = {
        .batch = 1, .seq = SEQ, .heads = 1, .kv_heads = 1, .head_dim = DIM, .scale = 0.5, .doc_start = doc_start};
    nb_backend *be;
    ni_attention_stats got;
    assert_int_equal(nb_backend_open("ref64", NULL, &be, NULL), NB_OK);
    be->ops->measure_attention(be, &a, q, k, 1, &got);
    assert_int_equal(got.queries, SEQ - 2);
    assert_true(fabs(got.entropy - (log(2) + log(3) + log(4)) / 3) < 1e-12 && got.logit_max == 0);
    for (int t = 0; t < SEQ; t++)
        for (int i = 0; i < DIM; i++) {
            q[t * DIM + i] = i == 0 ? 200 : 0;
            k[t * DIM + i] = i == 0 && (t == 1 || t == 5) ? 1 : 0;
        }
    be->ops->measure_attention(be, &a, q, k, 2, &got); /* queries 1, 3, 5, 7: one key takes all */
    assert_int_equal(got.queries, 4);
    assert_true(got.entropy < 1e-12 && got.logit_max == 100 && got.logit_amax == 100);
    nb_backend_free(be);
}

/* Grouped queries, two documents, a head width that no vector divides: fast code and the reference agree, and the bits
 * are the same under every instruction set and number of threads. */
static void attention_fast_equals_reference(void **state) {
    (void)state;
    enum { BATCH = 2, SEQ = 37, HEADS = 4, KV_HEADS = 2, DIM = 20 };
    static uint16_t q[BATCH * SEQ * HEADS * DIM], k[BATCH * SEQ * KV_HEADS * DIM];
    static int32_t doc_start[BATCH * SEQ];
    for (uint32_t i = 0; i < BATCH * SEQ * HEADS * DIM; i++)
        q[i] = ni_bf16_even(3 * uniform(i));
    for (uint32_t i = 0; i < BATCH * SEQ * KV_HEADS * DIM; i++)
        k[i] = ni_bf16_even(3 * uniform(i + 77777));
    for (int i = 0; i < BATCH * SEQ; i++)
        doc_start[i] = i % SEQ < 16 ? 0 : 16;
    nb_attention a = {.batch = BATCH,
                      .seq = SEQ,
                      .heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .head_dim = DIM,
                      .scale = 0.25,
                      .doc_start = doc_start};
    ni_attention_stats want, first = {0}, got;
    for (int isa = NB_ISA_SCALAR; isa <= NB_ISA_AVX512; isa++)
        for (int32_t threads = 1; threads <= 3; threads++) {
            if (!ni_isa_available((nb_isa)isa))
                continue;
            nb_backend_options options = {threads, (nb_isa)isa};
            nb_backend *be;
            assert_int_equal(nb_backend_open("cpu", &options, &be, NULL), NB_OK);
            be->ops->measure_attention(be, &a, q, k, 3, &got);
            ni_ref_measure_attention(be, &a, q, k, 3, &want);
            nb_backend_free(be);
            assert_int_equal(got.queries, want.queries);
            assert_true(fabs(got.logit_max / want.logit_max - 1) < 1e-6);
            assert_true(fabs(got.logit_amax / want.logit_amax - 1) < 1e-6);
            assert_true(fabs(got.logit_kurtosis - want.logit_kurtosis) < 1e-5);
            assert_true(fabs(got.entropy / want.entropy - 1) < 1e-6);
            if (isa == NB_ISA_PORTABLE && threads == 1)
                first = got;
            if (isa >= NB_ISA_PORTABLE)
                assert_memory_equal(&first, &got, sizeof got);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closed_forms),
        cmocka_unit_test(fast_equals_reference),
        cmocka_unit_test(attention_closed_form),
        cmocka_unit_test(attention_fast_equals_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
