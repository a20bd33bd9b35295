/* test_units.c: which units of a GPU multiply which operands, by what a run permits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/units.h"

#define QUANTIZER(e, s, r, c, how)                                                                                     \
    { .element = NB_ELEMENT_##e, .scale_type = NB_SCALE_##s, .block_rows = r, .block_cols = c, .rule = NB_RULE_##how }

static const nb_quantizer numbers = {.element = NB_ELEMENT_BF16, .scale_type = NB_SCALE_NONE},
                          nvfp4 = QUANTIZER(E2M1, E4M3, 1, 16, ABSMAX), mxfp4 = QUANTIZER(E2M1, E8M0, 1, 32, FLOOR),
                          rows = QUANTIZER(E2M1, F32, 1, NB_BLOCK_ALL, ABSMAX),
                          columns = QUANTIZER(E2M1, F32, NB_BLOCK_ALL, 1, ABSMAX),
                          power_rows = QUANTIZER(E2M1, F32, 1, NB_BLOCK_ALL, POW2),
                          power_columns = QUANTIZER(E2M1, F32, NB_BLOCK_ALL, 1, POW2),
                          integers = QUANTIZER(INT4, F32, 1, NB_BLOCK_ALL, ABSMAX),
                          e4m3 = QUANTIZER(E4M3, F32, NB_BLOCK_ALL, NB_BLOCK_ALL, ABSMAX),
                          e5m2 = QUANTIZER(E5M2, F32, NB_BLOCK_ALL, NB_BLOCK_ALL, ABSMAX);

static const ni_permits none = {.no_fp8 = true}, exact = {.exact_fp8 = true}, all = {.any_order = false},
                        mx = {.exact_fp8 = true, .mxfp4_fp8 = true}, native = {.exact_fp8 = true, .native_fp4 = true};

static const struct {
    const nb_quantizer *a, *b;
    const ni_permits *permits;
    int major, minor;
    ni_units units;
} pairs[] = {
    {&rows, &rows, &exact, 9, 0, NI_UNITS_FP8},
    {&rows, &rows, &none, 9, 0, NI_UNITS_BF16},
    {&rows, &rows, &exact, 8, 0, NI_UNITS_BF16},
    {&rows, &rows, &exact, 10, 0, NI_UNITS_BF16},
    {&rows, &numbers, &all, 9, 0, NI_UNITS_BF16},
    {&rows, &columns, &all, 9, 0, NI_UNITS_BF16}, /* these scales lie on the contraction */
    {&integers, &rows, &exact, 9, 0, NI_UNITS_FP8},
    {&e4m3, &rows, &exact, 9, 0, NI_UNITS_BF16}, /* sums of 8-bit codes are cut */
    {&e4m3, &rows, &all, 9, 0, NI_UNITS_FP8},
    {&power_rows, &power_rows, &exact, 9, 0, NI_UNITS_FP8}, /* outside of the sum: nothing is carried */
    {&power_rows, &power_rows, &all, 9, 0, NI_UNITS_FP8},
    {&power_rows, &power_columns, &exact, 9, 0, NI_UNITS_BF16},
    {&power_rows, &power_columns, &all, 9, 0, NI_UNITS_FP8_POW2},
    {&e5m2, &power_columns, &all, 9, 0, NI_UNITS_FP8_POW2},
    {&e5m2, &e4m3, &all, 9, 0, NI_UNITS_FP8_POW2},
    {&e5m2, &e5m2, &all, 9, 0, NI_UNITS_BF16},
    {&mxfp4, &mxfp4, &exact, 9, 0, NI_UNITS_BF16},
    {&mxfp4, &mxfp4, &mx, 9, 0, NI_UNITS_FP8_MX},
    {&mxfp4, &mxfp4, &mx, 8, 6, NI_UNITS_BF16},
    {&mxfp4, &nvfp4, &mx, 9, 0, NI_UNITS_BF16},
    {&nvfp4, &nvfp4, &all, 9, 0, NI_UNITS_BF16},
    {&nvfp4, &nvfp4, &native, 9, 0, NI_UNITS_BF16},
    {&nvfp4, &nvfp4, &native, 10, 0, NI_UNITS_NVFP4},
    {&nvfp4, &nvfp4, &exact, 10, 0, NI_UNITS_BF16},
    {&mxfp4, &mxfp4, &native, 12, 0, NI_UNITS_MXFP4},
    {&mxfp4, &nvfp4, &native, 10, 3, NI_UNITS_BF16},
};

static void pairs_have_their_units(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const ni_units units = ni_units_of(pairs[i].major, pairs[i].minor, pairs[i].permits, pairs[i].a, pairs[i].b),
                       swapped = ni_units_of(pairs[i].major, pairs[i].minor, pairs[i].permits, pairs[i].b, pairs[i].a);
        if (units != pairs[i].units || swapped != units)
            fail_msg("pair %zu: units %d, the other way round %d; expected %d", i, (int)units, (int)swapped,
                     (int)pairs[i].units);
    }
}

static void shapes_divide(void **state) {
    (void)state;
    assert_true(ni_units_take(NI_UNITS_FP8, 48, 16));
    assert_false(ni_units_take(NI_UNITS_FP8, 40, 16));
    assert_false(ni_units_take(NI_UNITS_FP8_POW2, 16, 24));
    assert_false(ni_units_take(NI_UNITS_NVFP4, 48, 32));
    assert_true(ni_units_take(NI_UNITS_BF16, 7, 5));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(pairs_have_their_units), cmocka_unit_test(shapes_divide)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
