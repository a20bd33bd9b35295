/* test_model_loss.c: losses that stay in the backend's memory, and gradients of a micro-batch alone, which overwrite
 * whatever was there. */
#include "backend/table.h"
#include "model_case.h"

#include "model/loss.h"
#include "model/param_array.h"

/* Every gradient NaN: what is not written, or added to before it was zeroed, shows. */
static void spoil(nb_model *model) {
    float *grads = nb_model_grads(model);
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *p = nb_model_param(model, i);
        for (int64_t e = 0; e < p->rows * p->cols; e++)
            grads[p->offset + e] = NAN;
    }
}

static void gradients_of_one_batch_alone(void **state) {
    (void)state;
    const nb_family families[] = {NB_LLAMA, NB_QWEN3, NB_OLMO2, NB_GLA};
    const nb_recipe recipes[] = {bf16_recipe(), nvfp4_recipe()};
    for (int f = 0; f < 4; f++)
        for (int tied = 0; tied < 2; tied++)
            for (int r = 0; r < 2; r++) {
                nb_backend *be = cpu_with(2, NB_ISA_AUTO);
                nb_model_config config = case_config(families[f], tied);
                nb_model *added = case_model(be, &config, &recipes[r], true);
                nb_model *alone = case_model(be, &config, &recipes[r], true);
                const int64_t n = nb_model_param_elements(added);
                const nb_pass pass = {.step = 2, .rounding_seed = 3, .z_loss = 1e-4};
                case_batch b;
                nb_error err = {0};
                int64_t scored, want = 0;
                double sum;
                make_case_batch(&b, config.vocab, 1);
                for (int i = 0; i < CASE_ROWS; i++)
                    want += b.targets[i] >= 0;
                const double loss = loss_and_grads_of(added, &b, &pass);
                double *slot = ni_model_loss_slots(alone) + 5;
                spoil(alone);
                assert_int_equal(ni_model_queue_loss_and_grads(alone, &b.batch, &pass, slot, &scored, &err), NB_OK);
                be->ops->download(be, &sum, slot, sizeof sum);
                assert_int_equal(scored, want);
                assert_true(ni_mean_loss(sum, scored) == loss);
                const float *a = nb_model_grads(added), *c = nb_model_grads(alone);
                for (int64_t i = 0; i < n; i++)
                    assert_true(a[i] == c[i]);
                loss_and_grads_of(alone, &b, &pass); /* and the public call adds */
                loss_and_grads_of(added, &b, &pass);
                for (int64_t i = 0; i < n; i++)
                    assert_true(a[i] == c[i]);
                nb_model_free(added);
                nb_model_free(alone);
                nb_backend_free(be);
            }
}

static void nothing_scored_leaves_zeros(void **state) {
    (void)state;
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    nb_model_config config = case_config(NB_LLAMA, true);
    nb_recipe recipe = bf16_recipe();
    nb_model *model = case_model(be, &config, &recipe, true);
    const nb_pass pass = {0};
    case_batch b;
    int64_t scored;
    make_case_batch(&b, config.vocab, 1);
    for (int i = 0; i < CASE_ROWS; i++)
        b.targets[i] = -1;
    spoil(model);
    assert_int_equal(ni_model_queue_loss_and_grads(model, &b.batch, &pass, ni_model_loss_slots(model), &scored, NULL),
                     NB_OK);
    assert_int_equal(scored, 0);
    const float *grads = nb_model_grads(model);
    for (int64_t i = 0; i < nb_model_param_elements(model); i++)
        assert_true(grads[i] == 0);
    nb_model_free(model);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(gradients_of_one_batch_alone, release_buffers),
        cmocka_unit_test_teardown(nothing_scored_leaves_zeros, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
