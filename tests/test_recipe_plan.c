/* test_recipe_plan.c: which layers stay in BF16, and why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
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

static nb_plan plan(const nb_recipe *recipe, const char *name, int32_t block, int32_t blocks) {
    nb_plan p;
    nb_error err = {0};
    assert_int_equal(nb_recipe_plan(recipe, name, block, blocks, &p, &err), NB_OK);
    return p;
}

/* first, last, blocks -> how many stay at each end. */
static const struct {
    double first, last;
    int32_t blocks, kept_first, kept_last;
} shares[] = {
    {0, 0, 12, 0, 0},      {0, 0.15, 20, 0, 3},   {0, 0.15, 24, 0, 4},    {0, 0.15, 62, 0, 10}, {0, 0.15, 4, 0, 1},
    {0, 0.15, 1, 0, 1},    {2, 8, 62, 2, 8},      {0.5, 0.5, 5, 3, 2},    {1, 0, 12, 1, 0},     {0, 1, 12, 0, 1},
    {0.1, 0, 30, 3, 0},    {0.3, 0, 10, 3, 0},    {0, 0.07, 100, 0, 7},   {0, 0.999, 3, 0, 3},  {50, 50, 3, 3, 0},
    {1e-9, 0, 1000, 1, 0}, {0, 0.29, 100, 0, 29}, {0, 0.291, 100, 0, 30},
};

static void shares_round_up(void **state) {
    (void)state;
    nb_recipe r = load("nvfp4");
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        r.keep.first_blocks = shares[i].first;
        r.keep.last_blocks = shares[i].last;
        int32_t first = 0, last = 0;
        for (int32_t b = 0; b < shares[i].blocks; b++) {
            char name[64];
            snprintf(name, sizeof name, "layers.%d.mlp.up_proj", (int)b);
            nb_plan p = plan(&r, name, b, shares[i].blocks);
            first += !p.quantized && strcmp(p.reason, "keep.first_blocks") == 0;
            last += !p.quantized && strcmp(p.reason, "keep.last_blocks") == 0;
        }
        if (first != shares[i].kept_first || last != shares[i].kept_last)
            fail_msg("first %g, last %g of %d blocks: kept %d and %d, expected %d and %d", shares[i].first,
                     shares[i].last, (int)shares[i].blocks, (int)first, (int)last, (int)shares[i].kept_first,
                     (int)shares[i].kept_last);
    }
}

static void patterns_match_whole_names(void **state) {
    (void)state;
    nb_recipe r = load("nvfp4");
    r.keep.last_blocks = 0;
    assert_string_equal(plan(&r, "lm_head", -1, 4).reason, "keep.modules");
    assert_string_equal(plan(&r, "embedding", -1, 4).reason, "keep.modules");
    assert_true(plan(&r, "layers.0.lm_head_proj", 0, 4).quantized);
    snprintf(r.keep.modules[0], NB_NAME_SIZE, "*.o_proj");
    snprintf(r.keep.modules[1], NB_NAME_SIZE, "layers.1?.*");
    assert_false(plan(&r, "layers.3.self_attn.o_proj", 3, 24).quantized);
    assert_true(plan(&r, "layers.3.self_attn.q_proj", 3, 24).quantized);
    assert_false(plan(&r, "layers.12.mlp.up_proj", 12, 24).quantized);
    assert_true(plan(&r, "layers.1.mlp.up_proj", 1, 24).quantized);
    assert_true(plan(&r, "lm_head", -1, 24).quantized);
}

static void plans_carry_the_rules(void **state) {
    (void)state;
    nb_recipe r = load("nvfp4");
    nb_plan p = plan(&r, "layers.0.mlp.up_proj", 0, 12);
    assert_true(p.quantized);
    assert_string_equal(p.reason, "");
    assert_true(p.roles[NB_DGRAD_W].from);
    assert_true(nb_quantizer_equal(&p.roles[NB_DGRAD_W].quantizer, &p.roles[NB_FPROP_W].quantizer));
    p = plan(&r, "layers.11.mlp.up_proj", 11, 12);
    assert_false(p.quantized);
    for (int role = 0; role < NB_ROLE_COUNT; role++)
        assert_true(!p.roles[role].from && nb_quantizer_is_bf16(&p.roles[role].quantizer));
    r = load("bf16");
    assert_string_equal(plan(&r, "layers.0.mlp.up_proj", 0, 12).reason, "recipe is bf16");
}

static void blocks_that_do_not_exist_are_a_bug(void **state) {
    (void)state;
    nb_recipe r = load("nvfp4");
    nb_plan p;
    nb_error err = {0};
    assert_int_equal(nb_recipe_plan(&r, "x", 12, 12, &p, &err), NB_INTERNAL);
    assert_int_equal(nb_recipe_plan(&r, "x", -2, 12, &p, &err), NB_INTERNAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_round_up),
        cmocka_unit_test(patterns_match_whole_names),
        cmocka_unit_test(plans_carry_the_rules),
        cmocka_unit_test(blocks_that_do_not_exist_are_a_bug),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
