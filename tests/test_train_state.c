/* test_train_state.c: runs whose gradients and moments are narrow (arXiv:2501.17116 section 4.1): near their FP32 twin,
 * the same to the bit however they were stopped, forked from and to FP32, and safe from numbers that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <float.h>

#include "files/safetensors.h"
#include "train/trainer.h"
#include "train_case.h"
#include <math.h>

/* BF16 products, so that nothing but the state differs. */
static const char *recipe_with(void **state, const char *name, const char *keys) {
    static char path[700], set[720], text[400];
    char file[64];
    nb_error err = {0};
    snprintf(file, sizeof file, "%s.yaml", name);
    snprintf(path, sizeof path, "%s", in_folder(state, file));
    snprintf(text, sizeof text, "base: bf16\nname: %s\n%s", name, keys);
    assert_int_equal(ni_file_write(path, text, strlen(text), &err), NB_OK);
    snprintf(set, sizeof set, "recipe=%s", path);
    return set;
}

static const char *narrow_recipe(void **state) {
    return recipe_with(state, "narrow", "gradients: {format: e4m3}\noptimizer_state: {m: e4m3, v: fp16}\n");
}

/* Everything that can be narrow, under scales that are no powers of two. */
static const char *narrowest_recipe(void **state) {
    return recipe_with(state, "narrowest",
                       "gradients: {format: e5m2, scale: absmax}\n"
                       "optimizer_state: {m: e4m3, v: fp16, master: fp16, scale: absmax}\n");
}

static void must_run(const nb_run_config *config, nb_start start, const char *from) {
    nb_error err = {0};
    if (case_run(config, start, from, NULL, &err) != NB_OK)
        fail_msg("%s", err.message);
}

/* Losses of a run, step by step. */
static void losses_of(void **state, const char *set, int64_t steps, double *losses) {
    char count[32];
    snprintf(count, sizeof count, "steps=%d", (int)steps);
    nb_run_config config = case_config(state, "run", set, count, NULL);
    nb_backend *be = case_backend(&config);
    nb_trainer *t;
    nb_error err = {0};
    nb_step_report report;
    if (case_create(be, &config, NULL, &t, &err) != NB_OK)
        fail_msg("%s", err.message);
    for (int64_t i = 0; i < steps; i++) {
        if (nb_trainer_step(t, &report, &err) != NB_OK)
            fail_msg("%s", err.message);
        losses[i] = report.loss;
    }
    nb_trainer_free(t);
    nb_backend_free(be);
}

static void losses_stay_near_the_fp32_twin(void **state) {
    enum { STEPS = 60 };
    double twin[STEPS], loss[STEPS];
    const char *const narrow[] = {"narrow", "narrowest"};
    losses_of(state, "recipe=bf16", STEPS, twin);
    const double fall = twin[0] - twin[STEPS - 1];
    assert_true(fall > 0.5);
    for (int r = 0; r < 2; r++) {
        losses_of(state, r ? narrowest_recipe(state) : narrow_recipe(state), STEPS, loss);
        double worst = 0;
        for (int i = 0; i < STEPS; i++)
            worst = fmax(worst, fabs(loss[i] - twin[i]));
        print_message("%s: the loss falls by %.3f; narrow state moves it by at most %.4f\n", narrow[r], fall, worst);
        assert_true(r || loss[0] == twin[0]); /* but for masters, all is rounded after the first loss */
        assert_true(worst > 0 && worst < 0.02 * fall);
    }
}

/* ---- checkpoints ---- */

static void expect_type(void **state, const char *file, const char *tensor, ni_tensor_dtype dtype) {
    ni_safetensors *opened;
    nb_error err = {0};
    assert_int_equal(ni_safetensors_open(in_folder(state, file), &opened, &err), NB_OK);
    const ni_file_tensor *found = ni_safetensors_find(opened, tensor);
    assert_non_null(found);
    assert_int_equal(found->dtype, dtype);
    ni_safetensors_close(opened);
}

static char *bytes_of(void **state, const char *file, size_t *size) {
    char *bytes;
    nb_error err = {0};
    assert_int_equal(ni_file_read(in_folder(state, file), 1 << 24, &bytes, size, &err), NB_OK);
    return bytes;
}

static void same_file(void **state, const char *a, const char *b) {
    size_t n, m;
    char *x = bytes_of(state, a, &n), *y = bytes_of(state, b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

/* Stopped, and gone on with other threads: scales that are no powers of two come back to the bit, too. */
static void any_scale_resumes(void **state) {
    const char *set = narrowest_recipe(state);
    nb_run_config config = case_config(state, "whole", set, NULL);
    must_run(&config, NB_START_NEW, NULL);
    case_log log = {.stop_after = 6};
    nb_error err = {0};
    config = case_config(state, "stopped", set, NULL);
    assert_int_equal(case_run(&config, NB_START_NEW, NULL, &log, &err), NB_INTERRUPTED);
    config = case_config(state, "stopped", set, "threads=3", NULL);
    must_run(&config, NB_START_RESUME, NULL);
    same_file(state, "whole/checkpoints/step-00000012/model.safetensors",
              "stopped/checkpoints/step-00000012/model.safetensors");
    same_file(state, "whole/checkpoints/step-00000012/optimizer.safetensors",
              "stopped/checkpoints/step-00000012/optimizer.safetensors");
    expect_type(state, "whole/checkpoints/step-00000012/optimizer.safetensors", "master_scale/lm_head.weight",
                NI_ST_F32);
}

/* Moments are files of one and two bytes a number, and a fork that changes their type keeps what they say. */
static void forks_change_the_type_of_moments(void **state) {
    const char *narrow = narrow_recipe(state);
    char from[600];
    nb_run_config config = case_config(state, "trunk", narrow, NULL);
    must_run(&config, NB_START_NEW, NULL);
    expect_type(state, "trunk/checkpoints/step-00000012/optimizer.safetensors", "exp_avg/lm_head.weight",
                NI_ST_F8_E4M3);
    expect_type(state, "trunk/checkpoints/step-00000012/optimizer.safetensors", "exp_avg_sq/lm_head.weight", NI_ST_F16);
    expect_type(state, "trunk/checkpoints/step-00000012/optimizer.safetensors", "exp_avg_scale/lm_head.weight",
                NI_ST_F32);
    snprintf(from, sizeof from, "%s", in_folder(state, "trunk/checkpoints/step-00000008"));
    config = case_config(state, "same", narrow, NULL); /* the rest of the run */
    must_run(&config, NB_START_FORK, from);
    same_file(state, "trunk/checkpoints/step-00000012/model.safetensors",
              "same/checkpoints/step-00000012/model.safetensors");
    config = case_config(state, "wide", "recipe=bf16", NULL);
    must_run(&config, NB_START_FORK, from);
    expect_type(state, "wide/checkpoints/step-00000012/optimizer.safetensors", "exp_avg/lm_head.weight", NI_ST_F32);
    snprintf(from, sizeof from, "%s", in_folder(state, "wide/checkpoints/step-00000012"));
    config = case_config(state, "narrow", narrow, "steps=16", NULL);
    must_run(&config, NB_START_FORK, from);
    config = case_config(state, "narrowest", narrowest_recipe(state), "steps=16", NULL);
    must_run(&config, NB_START_FORK, from);
}

/* The embedding of CASE_RARE is Inf in BF16, so that exactly one batch is bad. */
static nb_trainer *run_with_a_bad_batch(void **state, nb_backend *be, const char *out, const char *policy,
                                        const char *more) {
    char data[700];
    snprintf(data, sizeof data, "data.train=%s", in_folder(state, "rare.bin"));
    nb_run_config config = case_config(state, out, narrow_recipe(state), data, "data.val=", policy, more, NULL);
    nb_trainer *t;
    nb_error err = {0};
    if (case_create(be, &config, NULL, &t, &err) != NB_OK)
        fail_msg("%s", err.message);
    float none[32];
    for (int i = 0; i < 32; i++)
        none[i] = FLT_MAX;
    float *rare = (float *)nb_model_params(t->model) + nb_model_param(t->model, 0)->offset + CASE_RARE * 32;
    assert_int_equal(nb_backend_write(be, rare, none, sizeof none, NULL), NB_OK);
    nb_model_params_changed(t->model);
    if (nb_trainer_run(t, NB_START_NEW, NULL, &err) != NB_OK)
        fail_msg("%s", err.message);
    assert_int_equal(nb_trainer_steps_done(t), 12);
    return t;
}

/* Two arrays of the backend, byte by byte. */
static void expect_equal(nb_backend *be, const void *a, const void *b, size_t bytes) {
    uint8_t *x = malloc(bytes), *y = malloc(bytes);
    assert_true(x && y);
    assert_int_equal(nb_backend_read(be, x, a, bytes, NULL), NB_OK);
    assert_int_equal(nb_backend_read(be, y, b, bytes, NULL), NB_OK);
    assert_memory_equal(x, y, bytes);
    free(x);
    free(y);
}

/* Rolled back to a checkpoint or to the very beginning, where all is drawn anew: either is the run that never took the
 * bad batch, in moments, scales and masters (the embedding has its largest number in one of them). */
static void policies_work_on_narrow_state(void **state) {
    nb_run_config config = case_config(state, "run", NULL);
    nb_backend *be = case_backend(&config);
    nb_trainer *skip = run_with_a_bad_batch(state, be, "skip", "bad_numbers.policy=skip", "checkpoint.every=0");
    nb_trainer *back = run_with_a_bad_batch(state, be, "back", "bad_numbers.policy=rollback", "checkpoint.every=1");
    nb_trainer *again = run_with_a_bad_batch(state, be, "again", "bad_numbers.policy=rollback", "checkpoint.every=0");
    assert_true(back->at.passed_count > 0 && back->optimizer.updates == 12 && skip->optimizer.updates < 12);
    for (int32_t i = 1; i < nb_model_param_count(back->model); i++) {
        const nb_param *p = nb_model_param(back->model, i);
        const size_t n = (size_t)(p->rows * p->cols);
        const ni_scaled m[] = {ni_param_array_at(&back->optimizer.m, i), ni_param_array_at(&again->optimizer.m, i)};
        const ni_scaled v[] = {ni_param_array_at(&back->optimizer.v, i), ni_param_array_at(&again->optimizer.v, i)};
        expect_equal(be, (float *)nb_model_params(back->model) + p->offset,
                     (float *)nb_model_params(again->model) + p->offset, n * sizeof(float));
        expect_equal(be, m[0].data, m[1].data, n);
        expect_equal(be, v[0].data, v[1].data, 2 * n);
        expect_equal(be, m[0].scale, m[1].scale, sizeof(float));
        expect_equal(be, v[0].scale, v[1].scale, sizeof(float));
    }
    nb_trainer_free(skip);
    nb_trainer_free(back);
    nb_trainer_free(again);
    nb_backend_free(be);
}

/* A z-loss beyond all measure leaves the loss as it is and makes gradients infinite: 448, the largest E4M3, must not
 * stand in for them. */
static void infinite_gradients_are_seen(void **state) {
    nb_run_config config = case_config(state, "run", narrow_recipe(state), NULL);
    config.z_loss = 3e38;
    nb_backend *be = case_backend(&config);
    nb_trainer *t;
    nb_error err = {0};
    nb_step_report report;
    char where[400];
    assert_int_equal(case_create(be, &config, NULL, &t, &err), NB_OK);
    assert_int_equal(nb_trainer_step(t, &report, &err), NB_BAD_NUMBER);
    assert_true(isfinite(report.loss));
    assert_non_null(strstr(err.message, "gradient norm is"));
    ni_trainer_find_origin(t, where, sizeof where);
    assert_true(where[0] != 0);
    double squares[256] = {1};
    assert_true(ni_param_array_parts(&t->optimizer.m) <= 256);
    double *sums = nb_backend_alloc(be, sizeof squares);
    ni_param_array_sum_squares(&t->optimizer.m, sums);
    assert_int_equal(nb_backend_read(be, squares, sums, sizeof squares, NULL), NB_OK);
    nb_backend_release(be, sums);
    for (int32_t i = 0; i < ni_param_array_parts(&t->optimizer.m); i++)
        assert_true(squares[i] == 0); /* the step was not taken */
    nb_trainer_free(t);
    nb_backend_free(be);
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, case_folder, remove_temporary_folder)
    const struct CMUnitTest tests[] = {
        CASE(losses_stay_near_the_fp32_twin), CASE(any_scale_resumes),           CASE(forks_change_the_type_of_moments),
        CASE(policies_work_on_narrow_state),  CASE(infinite_gradients_are_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
