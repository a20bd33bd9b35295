/* test_model_gradients.c: gradients of whole models against finite differences of their loss, in double precision. */
#include "model_case.h"

/* Some elements of every tensor: the first, the last, and a few between. */
static void check_tensor(nb_model *model, const nb_param *p, const case_batch *b, const nb_pass *pass,
                         const double *grads) {
    enum { SAMPLES = 4 };
    const int64_t n = p->rows * p->cols;
    double *params = nb_model_params(model), largest = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(grads[p->offset + i]));
    if (!(largest > 1e-4))
        fail_msg("%s: the gradient is all but zero (%g)", p->name, largest);
    for (int64_t s = 0; s < SAMPLES; s++) {
        const int64_t i = p->offset + s * (n - 1) / (SAMPLES - 1);
        const double step = 1e-5, kept = params[i];
        params[i] = kept + step;
        double up = loss_of(model, b, pass);
        params[i] = kept - step;
        double down = loss_of(model, b, pass);
        params[i] = kept;
        double difference = (up - down) / (2 * step);
        if (!(fabs(difference - grads[i]) <= 1e-6 * largest))
            fail_msg("%s[%lld]: gradient %.12g, finite difference %.12g, largest %.3g", p->name,
                     (long long)(i - p->offset), grads[i], difference, largest);
    }
}

static void check_model(nb_family family, bool tied) {
    nb_backend *be = ref64();
    nb_model_config config = case_config(family, tied);
    nb_recipe recipe = bf16_recipe();
    nb_model *model = case_model(be, &config, &recipe, true);
    case_batch b;
    nb_pass pass = {0};
    make_case_batch(&b, config.vocab, 1);
    perturb_vectors(model, be);
    double loss = loss_and_grads_of(model, &b, &pass);
    assert_true(loss == loss_of(model, &b, &pass));
    const double *grads = nb_model_grads(model);
    for (int32_t i = 0; i < nb_model_param_count(model); i++)
        check_tensor(model, nb_model_param(model, i), &b, &pass, grads);
    nb_model_free(model);
    nb_backend_free(be);
}

static void llama(void **state) {
    (void)state;
    check_model(NB_LLAMA, false);
}

static void llama_tied(void **state) {
    (void)state;
    check_model(NB_LLAMA, true);
}

static void qwen3(void **state) {
    (void)state;
    check_model(NB_QWEN3, true);
}

static void olmo2(void **state) {
    (void)state;
    check_model(NB_OLMO2, false);
}

static void gla(void **state) {
    (void)state;
    check_model(NB_GLA, false);
}

static void ngpt(void **state) {
    (void)state;
    check_model(NB_NGPT, false);
}

/* Gradients of two micro-batches add up. */
static void gradients_accumulate(void **state) {
    (void)state;
    nb_backend *be = ref64();
    nb_model_config config = case_config(NB_LLAMA, true);
    nb_recipe recipe = bf16_recipe();
    nb_model *model = case_model(be, &config, &recipe, true);
    const int64_t n = nb_model_param_elements(model);
    case_batch a, b;
    nb_pass pass = {0};
    make_case_batch(&a, config.vocab, 1);
    make_case_batch(&b, config.vocab, 2);
    double *grads = nb_model_grads(model), *first = zeros(n), *both = zeros(n);
    loss_and_grads_of(model, &a, &pass);
    memcpy(first, grads, (size_t)n * sizeof *grads);
    loss_and_grads_of(model, &b, &pass);
    memcpy(both, grads, (size_t)n * sizeof *grads);
    memset(grads, 0, (size_t)n * sizeof *grads);
    loss_and_grads_of(model, &b, &pass);
    for (int64_t i = 0; i < n; i++)
        assert_true(fabs(both[i] - first[i] - grads[i]) <= 1e-14 * (1 + fabs(both[i])));
    nb_model_free(model);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(llama, release_buffers),
        cmocka_unit_test_teardown(llama_tied, release_buffers),
        cmocka_unit_test_teardown(qwen3, release_buffers),
        cmocka_unit_test_teardown(olmo2, release_buffers),
        cmocka_unit_test_teardown(gla, release_buffers),
        cmocka_unit_test_teardown(ngpt, release_buffers),
        cmocka_unit_test_teardown(gradients_accumulate, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
