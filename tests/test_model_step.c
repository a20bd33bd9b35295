/* test_model_step.c: one token at a time gives the logits of the whole text, in every family; sampling from them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model_case.h"
#include "nibble/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { VOCAB = 48, TEXT = CASE_SEQ };

static nb_model *make(nb_backend *be, nb_family family, const nb_recipe *recipe) {
    const nb_model_config config = case_config(family, false);
    nb_model *model;
    nb_error err = {0};
    if (nb_model_create(be, &config, recipe, 1, TEXT, false, &model, &err) != NB_OK)
        fail_msg("%s", err.message);
    nb_model_init(model, 3);
    nb_model_params_changed(model);
    return model;
}

/* Logits of every prefix's last token, by one pass over all of it. */
static void whole(nb_model *model, const int32_t *tokens, int64_t count, float *logits) {
    int32_t targets[TEXT], positions[TEXT], starts[TEXT] = {0};
    nb_error err = {0};
    nb_pass pass = {0};
    for (int32_t i = 0; i < count; i++) {
        targets[i] = -1;
        positions[i] = i;
    }
    nb_batch batch = {1, count, tokens, targets, positions, starts};
    if (nb_model_logits(model, &batch, &pass, logits, &err) != NB_OK)
        fail_msg("%s", err.message);
}

static void feed(nb_model *model, int32_t token, int64_t position, float *logits) {
    nb_error err = {0};
    nb_pass pass = {0};
    if (nb_model_step(model, token, position, &pass, logits, &err) != NB_OK)
        fail_msg("%s", err.message);
}

/* Products of one row and of many may add in another order: BF16 activations then differ in their last bit here and
 * there, 2^-8 of a number, through two blocks. */
static void steps_are_the_whole(void **state) {
    (void)state;
    const nb_family families[] = {NB_LLAMA, NB_QWEN3, NB_OLMO2, NB_GLA, NB_NGPT};
    nb_backend *be;
    nb_error err = {0};
    assert_int_equal(nb_backend_open("cpu", NULL, &be, &err), NB_OK);
    const nb_recipe recipe = bf16_recipe();
    for (size_t f = 0; f < sizeof families / sizeof families[0]; f++) {
        nb_model *model = make(be, families[f], &recipe);
        static float all[TEXT * VOCAB], one[VOCAB];
        int32_t tokens[TEXT];
        for (int round = 0; round < 2; round++) { /* the second text finds what the first left behind */
            for (uint32_t i = 0; i < TEXT; i++)
                tokens[i] = (int32_t)(ni_philox(9, (uint32_t)round, i, 0, 0, 0).w[0] % VOCAB);
            whole(model, tokens, TEXT, all);
            for (int64_t i = 0; i < TEXT; i++) {
                double difference = 0, size = 0;
                feed(model, tokens[i], i, one);
                for (int64_t v = 0; v < VOCAB; v++) {
                    double want = (double)all[i * VOCAB + v];
                    difference += ((double)one[v] - want) * ((double)one[v] - want);
                    size += want * want;
                }
                if (!(sqrt(difference / size) <= 4 * 0x1p-8))
                    fail_msg("%s, position %d: %g off", nb_family_name(families[f]), (int)i, sqrt(difference / size));
            }
        }
        nb_model_free(model);
    }
    nb_backend_free(be);
}

/* What stands in the window decides, not what stood there before; positions follow one another. */
static void texts_begin_anew(void **state) {
    (void)state;
    nb_backend *be;
    nb_error err = {0};
    nb_pass pass = {0};
    float first[VOCAB], again[VOCAB];
    assert_int_equal(nb_backend_open("cpu", NULL, &be, &err), NB_OK);
    const nb_recipe recipe = nvfp4_recipe();
    nb_model *model = make(be, NB_LLAMA, &recipe);
    feed(model, 5, 0, first);
    feed(model, 6, 1, first);
    for (int32_t i = 0; i < TEXT; i++)
        feed(model, 40 - i, i, again);
    feed(model, 5, 0, again);
    feed(model, 6, 1, again);
    assert_memory_equal(first, again, sizeof first);
    assert_int_equal(nb_model_step(model, 7, 3, &pass, again, &err), NB_BAD_USAGE);
    assert_int_equal(nb_model_step(model, VOCAB, 2, &pass, again, &err), NB_BAD_USAGE);
    assert_int_equal(nb_model_step(model, 7, TEXT, &pass, again, &err), NB_BAD_USAGE);
    nb_model_free(model);
    nb_backend_free(be);
}

/* Probabilities 1/2, 1/4, 1/8, 1/8: a share of 0.6 leaves the first two, in their proportion. */
static void top_p_leaves_the_most_likely(void **state) {
    (void)state;
    const float logits[] = {logf(0.125f), logf(0.5f), logf(0.125f), logf(0.25f)};
    float scratch[8];
    int drawn[4] = {0};
    const nb_sampling how = {.temperature = 1, .top_p = 0.6, .seed = 1};
    for (int64_t i = 0; i < 3000; i++)
        drawn[nb_sample(logits, 4, &how, i, scratch)]++;
    assert_int_equal(drawn[0] + drawn[2], 0);
    assert_true(abs(drawn[1] - 2000) < 3 * 26); /* 3 standard deviations of 3000 draws at 2/3 */
    const nb_sampling third = {.temperature = 1, .top_p = 0.8, .seed = 1}; /* of two equal ones the first */
    memset(drawn, 0, sizeof drawn);
    for (int64_t i = 0; i < 3000; i++)
        drawn[nb_sample(logits, 4, &third, i, scratch)]++;
    assert_true(drawn[0] > 0);
    assert_int_equal(drawn[2], 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(steps_are_the_whole), cmocka_unit_test(texts_begin_anew),
                                       cmocka_unit_test(top_p_leaves_the_most_likely)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
