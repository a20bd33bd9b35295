/* test_model_amax.c: amaxes that travel from producers to quantizers, on a backend that asks for them. */
#include "backend/table.h"
#include "model_case.h"

#include "format/bf16.h"
#include "format/ieee.h"

/* A backend whose quantizers hold what they are told against what they are given. */
typedef struct asking_backend {
    nb_backend backend;
    ni_backend_ops ops;
    nb_backend *real;
} asking_backend;

static int told;

static nb_status checked_making(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count,
                                nb_error *err) {
    const nb_mat *x = source->numbers;
    uint32_t want = 0;
    for (int64_t r = 0; x && x->amax && r < x->rows; r++)
        for (int64_t c = 0; c < x->cols; c++) {
            const uint32_t bits = ni_f32_magnitude(ni_bf16_value(((const uint16_t *)x->data)[r * x->stride + c]));
            want = bits > want ? bits : want;
        }
    if (x && x->amax) {
        assert_int_equal(x->dtype, NB_BF16);
        assert_int_equal(*x->amax, want);
        assert_true(want > 0);
        told += count;
    }
    return ((asking_backend *)be)->real->ops->make_operands(be, source, makings, count, err);
}

static void amaxes_reach_the_quantizers(void **state) {
    (void)state;
    /* A block of softmax attention quantizes X of four groups and dY of seven layers behind a producer, each for two
     * GEMMs; dq and dk that come out of norms of heads come without. In post-norm blocks the residual stream itself is
     * the X of two groups. Of linear attention X of four groups and dY of seven layers, of eight. */
    static const struct {
        nb_family family;
        int in_a_block;
    } cases[] = {{NB_LLAMA, 22}, {NB_QWEN3, 18}, {NB_OLMO2, 14}, {NB_GLA, 22}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        asking_backend be = {.real = cpu_with(2, NB_ISA_AUTO)};
        be.backend = *be.real;
        be.ops = *be.real->ops;
        be.ops.make_operands = checked_making;
        be.backend.ops = &be.ops;
        be.backend.wants_amax = true;
        nb_model_config config = case_config(cases[i].family, false);
        nb_recipe recipe = nvfp4_recipe();
        nb_model *with = case_model(&be.backend, &config, &recipe, true);
        nb_model *without = case_model(be.real, &config, &recipe, true);
        const size_t bytes = (size_t)nb_model_param_elements(with) * sizeof(float);
        const nb_pass pass = {.step = 3, .rounding_seed = 5};
        case_batch b;
        make_case_batch(&b, config.vocab, 1);
        told = 0;
        const double loss = loss_and_grads_of(with, &b, &pass);
        assert_int_equal(told, cases[i].in_a_block * config.layers);
        assert_true(loss_and_grads_of(without, &b, &pass) == loss);
        check_equal_bytes("gradients", nb_model_grads(with), nb_model_grads(without), bytes);
        nb_model_free(with);
        nb_model_free(without);
        nb_backend_free(be.real);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(amaxes_reach_the_quantizers, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
