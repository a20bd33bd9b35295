/* test_model_produced.c: matrices that are not kept because operands are made of them as they come: nobody reads them.
 */
#include "backend/table.h"
#include "model_case.h"

enum { STEPS = 3 };

/* A backend that leaves NaN where nobody asked for the numbers, and says how many such matrices there were. */
typedef struct spoiling_backend {
    nb_backend backend;
    ni_backend_ops ops;
    nb_backend *real;
    bool spoils;
    int kept, gone, known; /* matrices; operands under a scale of the step before */
} spoiling_backend;

static nb_status spoiling(nb_backend *be, const ni_producer *from, const ni_produced *out, int32_t count,
                          nb_error *err) {
    spoiling_backend *s = (spoiling_backend *)be;
    NB_TRY(s->real->ops->make_produced(be, from, out, count, err));
    for (int32_t i = 0; i < count; i++) {
        const nb_mat *m = out[i].numbers;
        s->kept += out[i].kept;
        s->gone += !out[i].kept;
        for (int32_t k = 0; k < out[i].count; k++)
            s->known += out[i].makings[k].past != NULL;
        if (s->spoils && !out[i].kept)
            memset(m->data, 0xff, (size_t)(m->rows * m->cols) * sizeof(uint16_t));
    }
    return NB_OK;
}

static void open_spoiling(spoiling_backend *s, bool spoils) {
    *s = (spoiling_backend){.real = cpu_with(2, NB_ISA_AUTO), .spoils = spoils};
    s->backend = *s->real;
    s->ops = *s->real->ops;
    s->ops.make_produced = spoiling;
    s->backend.ops = &s->ops;
    s->backend.wants_amax = true; /* as a GPU: wgrad.x is made beside fprop.x */
}

static nb_recipe delayed_recipe(bool delayed) {
    nb_recipe r = nvfp4_recipe();
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++)
        if (role != NB_FPROP_W && role != NB_DGRAD_W)
            r.roles[role].headroom = delayed ? 2 : 0;
    return r;
}

static void take_step(nb_model *model, const nb_pass *pass) {
    nb_error err = {0};
    if (nb_model_after_step(model, pass, &err) != NB_OK)
        fail_msg("%s", err.message);
}

static void nobody_reads_what_is_not_kept(void **state) {
    (void)state;
    static const nb_family families[] = {NB_LLAMA, NB_QWEN3, NB_OLMO2, NB_GLA};
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        spoiling_backend be[2];
        nb_model *models[2];
        nb_model_config config = case_config(families[f], false);
        nb_recipe recipe = delayed_recipe(true);
        case_batch b;
        make_case_batch(&b, config.vocab, 1);
        for (int i = 0; i < 2; i++) {
            open_spoiling(&be[i], i == 1);
            models[i] = case_model(&be[i].backend, &config, &recipe, true);
        }
        const size_t bytes = param_bytes(models[0], be[0].real);
        for (uint32_t step = 0; step < STEPS; step++) {
            const nb_pass pass = {.step = step, .steps = 10, .rounding_seed = 5};
            assert_true(loss_of(models[0], &b, &pass) == loss_of(models[1], &b, &pass));
            const double loss = loss_and_grads_of(models[0], &b, &pass);
            assert_true(loss_and_grads_of(models[1], &b, &pass) == loss);
            check_equal_bytes("gradients", nb_model_grads(models[1]), nb_model_grads(models[0]), bytes);
            for (int i = 0; i < 2; i++)
                take_step(models[i], &pass);
        }
        /* A pass alone gives SwiGLU's output a block, and X of two norms where they stand before a branch; a step two
         * slopes beside, and those of q, k and v where no norm lies between; each has two operands. */
        const int alone = families[f] == NB_OLMO2 ? 1 : 3, slopes = families[f] == NB_LLAMA ? 5 : 2;
        assert_int_equal(be[1].gone, (2 * alone + slopes) * STEPS * config.layers);
        assert_int_equal(be[1].known, 2 * (alone + slopes) * (STEPS - 1) * config.layers);
        for (int i = 0; i < 2; i++) {
            nb_model_free(models[i]);
            nb_backend_free(be[i].real);
        }
    }
}

/* Where the backward pass is in BF16, or no scale is delayed, the numbers are read. */
static void numbers_are_kept_for_who_reads_them(void **state) {
    (void)state;
    nb_model_config config = case_config(NB_LLAMA, false);
    for (int delayed = 0; delayed < 2; delayed++) {
        spoiling_backend be;
        nb_recipe recipe = delayed_recipe(delayed);
        const nb_pass pass = {.step = 1, .steps = 10, .rounding_seed = 5, .backward_bf16 = true};
        case_batch b;
        make_case_batch(&b, config.vocab, 1);
        open_spoiling(&be, true);
        nb_model *model = case_model(&be.backend, &config, &recipe, true);
        assert_true(isfinite(loss_and_grads_of(model, &b, &pass)));
        assert_int_equal(be.gone, 0);
        assert_int_equal(be.kept, 8 * config.layers + 1); /* the head's X too */
        const float *grads = nb_model_grads(model);
        for (size_t i = 0; i < param_bytes(model, be.real) / sizeof *grads; i++)
            assert_true(isfinite(grads[i]));
        nb_model_free(model);
        nb_backend_free(be.real);
    }
}

int main(void) {
#define CASE(name) cmocka_unit_test_teardown(name, release_buffers)
    const struct CMUnitTest tests[] = {CASE(nobody_reads_what_is_not_kept), CASE(numbers_are_kept_for_who_reads_them)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
