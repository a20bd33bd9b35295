/* test_paired.c: paired differences and their intervals, against scipy 1.17.1 (stats.t.interval and stats.t.ppf). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "report/paired.h"

static void three_pairs_have_an_interval(void **state) {
    (void)state;
    const double a[] = {3.44, 3.52, 3.41}, b[] = {3.40, 3.50, 3.36}, closer[] = {3.44, 3.53, 3.40};
    const ni_paired p = ni_paired_of(a, b, 3), q = ni_paired_of(closer, b, 3);
    assert_true(fabs(p.mean - 0.0366667) < 1e-6);
    assert_true(fabs(p.deviation - 0.0152753) < 1e-6);
    assert_true(fabs(p.half - 0.0379459) < 1e-6);
    assert_false(ni_paired_apart(&p)); /* 0.0367 +- 0.0379 */
    assert_true(ni_paired_apart(&q));
}

static void one_pair_ranks_nothing(void **state) {
    (void)state;
    const double a[] = {1};
    const ni_paired p = ni_paired_of(a, NULL, 1);
    assert_true(p.mean == 1 && isnan(p.deviation) && isnan(p.half));
    assert_false(ni_paired_apart(&p));
}

static void what_is_missing_is_left_out(void **state) {
    (void)state;
    const double a[] = {3.44, 3.52, NAN, 3.41, 1}, b[] = {3.40, 3.50, 3, 3.36, NAN}, none[] = {NAN};
    const ni_paired p = ni_paired_of(a, b, 5), empty = ni_paired_of(none, NULL, 1);
    assert_int_equal(p.pairs, 3);
    assert_true(fabs(p.mean - 0.0366667) < 1e-6 && fabs(p.half - 0.0379459) < 1e-6);
    assert_true(empty.pairs == 0 && isnan(empty.mean) && isnan(empty.half));
}

/* 0 and 1 in turns: half the interval, over deviation and root, is t itself. */
static void quantiles_are_students(void **state) {
    (void)state;
    static const struct {
        int32_t freedom;
        double t;
    } known[] = {{1, 12.7062}, {9, 2.26216}, {29, 2.04523}, {31, 2.03951}, {39, 2.02269}, {63, 1.99834}};
    double values[64];
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        const int32_t n = known[k].freedom + 1;
        for (int32_t i = 0; i < n; i++)
            values[i] = i & 1;
        const ni_paired p = ni_paired_of(values, NULL, n);
        assert_true(fabs(p.half / p.deviation * sqrt(n) - known[k].t) < 2e-4);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_pairs_have_an_interval),
        cmocka_unit_test(one_pair_ranks_nothing),
        cmocka_unit_test(what_is_missing_is_left_out),
        cmocka_unit_test(quantiles_are_students),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
