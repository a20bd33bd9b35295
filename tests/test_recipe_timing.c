/* test_recipe_timing.c: at which steps a recipe's mechanisms act, and how long two recipes train alike. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "nibble/recipe.h"

static nb_recipe load(const char *name) {
    nb_recipe recipe;
    nb_error err = {0};
    if (nb_recipe_load(name, NI_TEST_SOURCE "/recipes", &recipe, &err) != NB_OK)
        fail_msg("%s", err.message);
    return recipe;
}

static void shares_become_steps(void **state) {
    (void)state;
    const struct {
        double point;
        int64_t steps, step;
    } cases[] = {{0, 100, 0},      {0.5, 100, 50}, {0.07, 100, 7}, {0.071, 100, 8},
                 {0.64, 300, 192}, {1, 100, 1},    {502, 100, 502}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(nb_step_of(cases[i].point, cases[i].steps), cases[i].step);
}

static void the_released_recipe_keeps_its_steps(void **state) {
    (void)state;
    nb_recipe r = load("tetrajet-v2");
    nb_outcontrol_times out = nb_outcontrol_when(&r.mechanisms.outcontrol, 12505);
    assert_int_equal(out.start, 502);
    assert_int_equal(out.choice, 552); /* norms of 502 to 551 */
    nb_oscireset_times osci = nb_oscireset_when(&r.mechanisms.oscireset, 12505);
    assert_int_equal(osci.start, 8000); /* 0.64 of the run is 8003.2; the nearest period */
    assert_int_equal(osci.period, 200);
    assert_int_equal(osci.window, 50);
}

/* Step by step what the released hook does (configs of 70M, 150M and 370M): nothing before its start, a snapshot where
 * i mod P is 0, a reset at T0 + 1 of each window that began with one. */
static void the_released_schedules_to_the_step(void **state) {
    (void)state;
    static const struct {
        int64_t steps, start, period, first, resets;
    } runs[] = {{12505, 8000, 200, 8000, 23}, {25500, 15000, 200, 15000, 53}, {50500, 35000, 400, 35200, 39}};
    for (int i = 0; i < 3; i++) {
        nb_oscireset how = {.start = (double)runs[i].start, .period = (double)runs[i].period, .window = 50};
        nb_oscireset_times when = nb_oscireset_when(&how, runs[i].steps);
        int64_t first = -1, resets = 0;
        for (int64_t step = runs[i].start; step < runs[i].steps; step++) {
            int64_t phase = step % runs[i].period;
            first = phase == 0 && first < 0 ? step : first;
            resets += first >= 0 && phase == 51;
        }
        assert_int_equal(when.start, first);
        assert_int_equal(when.start, runs[i].first);
        assert_int_equal(resets, runs[i].resets);
        assert_true(when.period == runs[i].period && when.window == 50);
    }
}

/* A share takes the nearest period, but never step 0; steps wait for the next one. */
static void shares_round_to_the_nearest_period(void **state) {
    (void)state;
    static const struct {
        double start;
        int64_t steps, want;
    } cases[] = {{0.299, 1000, 200}, {0.3, 1000, 400}, {0.5, 1000, 600}, {0.09, 1000, 200}, {0.001, 1000, 200},
                 {0, 1000, 0},       {201, 1000, 400}, {200, 1000, 200}, {1, 1000, 200}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nb_oscireset how = {.start = cases[i].start, .period = 200, .window = 50};
        assert_int_equal(nb_oscireset_when(&how, cases[i].steps).start, cases[i].want);
    }
}

static void shares_scale_with_the_run(void **state) {
    (void)state;
    nb_recipe r = load(NI_TEST_SOURCE "/examples/recipes/tetrajet-v2-short.yaml");
    const int64_t runs[] = {100, 300, 12505};
    const int64_t expected[][5] = {{10, 15, 64, 8, 5}, {30, 45, 192, 24, 15}, {1251, 1877, 8008, 1001, 626}};
    for (int i = 0; i < 3; i++) {
        nb_outcontrol_times out = nb_outcontrol_when(&r.mechanisms.outcontrol, runs[i]);
        nb_oscireset_times osci = nb_oscireset_when(&r.mechanisms.oscireset, runs[i]);
        const int64_t got[] = {out.start, out.choice, osci.start, osci.period, osci.window};
        for (int j = 0; j < 5; j++)
            assert_int_equal(got[j], expected[i][j]);
    }
}

static void too_short_a_run_is_told(void **state) {
    (void)state;
    nb_error err = {0};
    char text[256];
    nb_recipe r = load(NI_TEST_SOURCE "/examples/recipes/tetrajet-v2-short.yaml");
    assert_int_equal(nb_recipe_check_steps(&r, 300, &err), NB_OK);
    assert_int_equal(nb_recipe_check_steps(&r, 30, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "oscireset.window is 2 and oscireset.period 3"));
    assert_false(nb_recipe_idles(&r, 300, text, sizeof text));
    r = load("tetrajet-v2");
    assert_true(nb_recipe_idles(&r, 552, text, sizeof text));
    assert_non_null(strstr(text, "outcontrol"));
    assert_false(nb_recipe_idles(&r, 600, text, sizeof text));
    r.mechanisms.has_outcontrol = false;
    assert_true(nb_recipe_idles(&r, 251, text, sizeof text)); /* 161 to the nearest, 200; 51 steps to the first reset */
    assert_false(nb_recipe_idles(&r, 252, text, sizeof text));
}

static void check_alike(const nb_recipe *a, const nb_recipe *b, int64_t steps, int64_t alike) {
    assert_int_equal(nb_recipe_alike_steps(a, b, steps), alike);
    assert_int_equal(nb_recipe_alike_steps(b, a, steps), alike);
}

static void recipes_are_alike_until_what_differs_starts(void **state) {
    (void)state;
    nb_recipe base = load("tetrajet-v2-base"), out = load("tetrajet-v2-outcontrol"),
              osci = load("tetrajet-v2-oscireset"), full = load("tetrajet-v2"), memeff = load("tetrajet-v2-memeff"),
              nvfp4 = load("nvfp4");
    check_alike(&base, &osci, 1000, 600); /* 640 to the nearest period of 200 */
    check_alike(&base, &out, 1000, 502);
    check_alike(&base, &full, 1000, 502);
    check_alike(&out, &full, 1000, 600);
    check_alike(&osci, &full, 1000, 502);
    check_alike(&full, &memeff, 1000, 600);
    check_alike(&base, &out, 400, 400);
    check_alike(&base, &nvfp4, 1000, 0);
    nb_recipe changed = nvfp4;
    changed.late_switch.at = 0.75;
    check_alike(&nvfp4, &changed, 1000, 750);
    nb_recipe other = changed;
    other.late_switch.forward = false;
    check_alike(&changed, &other, 1000, 750);
    changed.keep.last_blocks = 0;
    check_alike(&nvfp4, &changed, 1000, 0);
    changed = full;
    changed.roles[NB_WGRAD_X].quantizer.rule = NB_RULE_ABSMAX;
    check_alike(&full, &changed, 1000, 0);
    nb_recipe named = full;
    strcpy(named.name, "another name");
    check_alike(&full, &named, 1000, 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_become_steps),
        cmocka_unit_test(the_released_recipe_keeps_its_steps),
        cmocka_unit_test(the_released_schedules_to_the_step),
        cmocka_unit_test(shares_round_to_the_nearest_period),
        cmocka_unit_test(shares_scale_with_the_run),
        cmocka_unit_test(too_short_a_run_is_told),
        cmocka_unit_test(recipes_are_alike_until_what_differs_starts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
