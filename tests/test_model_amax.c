/* test_model_amax.c: amaxes that travel from producers to quantizers, on a backend that asks for them. */
#include "backend/table.h"
#include "model_case.h"

#include "format/bf16.h"
#include "format/ieee.h"
#include "model/state.h"

/* A backend whose quantizers hold what they are told against what they are given. */
typedef struct asking_backend {
    nb_backend backend;
    ni_backend_ops ops;
    nb_backend *real;
    const uint8_t *cleared; /* words of a micro-batch */
    size_t cleared_bytes;
    int clears;
} asking_backend;

static int told, told_of_masters;

static void clear_maxima(nb_backend *be, void *words, size_t bytes) {
    asking_backend *a = (asking_backend *)be;
    memset(words, 0, bytes);
    a->cleared = words;
    a->cleared_bytes = bytes;
    a->clears++;
}

static uint32_t magnitude_at(const nb_mat *x, int64_t at) {
    return ni_f32_magnitude(x->dtype == NB_F32 ? ((const float *)x->data)[at]
                                               : ni_bf16_value(((const uint16_t *)x->data)[at]));
}

static void check(const asking_backend *be, const nb_mat *x, int32_t count) {
    uint32_t want = 0;
    if (!x || !x->amax)
        return;
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t c = 0; c < x->cols; c++) {
            const uint32_t bits = magnitude_at(x, r * x->stride + c);
            want = bits > want ? bits : want;
        }
    assert_int_equal(*x->amax, want);
    assert_true(want > 0);
    if (x->dtype == NB_F32) {
        told_of_masters += count;
        return;
    }
    assert_true((const uint8_t *)x->amax >= be->cleared);
    assert_true((const uint8_t *)x->amax < be->cleared + be->cleared_bytes);
    told += count;
}

static nb_status checked_making(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count,
                                nb_error *err) {
    check((asking_backend *)be, source->numbers, count);
    return ((asking_backend *)be)->real->ops->make_operands(be, source, makings, count, err);
}

static nb_status checked_many(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                              nb_error *err) {
    asking_backend *a = (asking_backend *)be;
    for (int32_t i = 0; i < count; i++)
        check(a, sources[i].numbers, 1);
    return a->real->ops->make_many(a->real, sources, makings, count, err);
}

static void open_asking(asking_backend *be) {
    *be = (asking_backend){.real = cpu_with(2, NB_ISA_AUTO)};
    be->backend = *be->real;
    be->ops = *be->real->ops;
    be->ops.make_operands = checked_making;
    be->ops.make_many = checked_many;
    be->backend.ops = &be->ops;
    be->backend.wants_amax = true;
    be->backend.clear_maxima = clear_maxima;
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
        asking_backend be;
        open_asking(&be);
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
        assert_int_equal(be.clears, 1);
        assert_true(loss_and_grads_of(without, &b, &pass) == loss);
        check_equal_bytes("gradients", nb_model_grads(with), nb_model_grads(without), bytes);
        nb_model_free(with);
        nb_model_free(without);
        nb_backend_free(be.real);
    }
}

/* What the optimizer leaves, as if it had moved every parameter; the words of norms and of the embedding are nobody's.
 */
static void leave_maxima(nb_model *model) {
    const float *p = nb_model_params(model);
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *param = nb_model_param(model, i);
        uint32_t *const word = ni_model_maximum(model, i);
        assert_non_null(word);
        *word = 0;
        for (int64_t k = 0; k < param->rows * (param->cols ? param->cols : 1); k++) {
            const uint32_t bits = ni_f32_magnitude(p[param->offset + k]);
            *word = bits > *word ? bits : *word;
        }
    }
}

/* They hold from the change on that is told behind the update, until the next. */
static void maxima_of_masters_are_of_one_change(void **state) {
    (void)state;
    asking_backend be;
    open_asking(&be);
    nb_model_config config = case_config(NB_LLAMA, false);
    nb_recipe recipe = nvfp4_recipe();
    nb_model *model = case_model(&be.backend, &config, &recipe, true);
    const nb_pass pass = {.step = 3, .rounding_seed = 5};
    case_batch b;
    make_case_batch(&b, config.vocab, 1);
    enum { WEIGHTS = 7 }; /* of a block */
    static const bool updated[] = {false, true, false, true};
    for (size_t turn = 0; turn < sizeof updated / sizeof *updated; turn++) {
        float *const p = nb_model_params(model);
        for (int64_t i = 0; i < nb_model_param_elements(model); i++)
            p[i] *= 1.5f; /* somebody moves the masters */
        if (updated[turn])
            leave_maxima(model);
        nb_model_params_changed(model);
        told_of_masters = 0;
        loss_and_grads_of(model, &b, &pass);
        assert_int_equal(told_of_masters, updated[turn] ? WEIGHTS * config.layers : 0);
    }
    nb_model_free(model);
    nb_backend_free(be.real);
}

/* What the optimizer leaves in act, or zeros in its place; returns how many parameters are left there. */
static int leave_numbers(nb_model *model, bool zero) {
    const float *p = nb_model_params(model);
    int left = 0;
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *param = nb_model_param(model, i);
        uint16_t *const numbers = ni_model_numbers(model, i);
        for (int64_t k = 0; numbers && k < param->rows * param->cols; k++)
            numbers[k] = zero ? 0 : ni_bf16_even(p[param->offset + k]);
        left += numbers != NULL;
    }
    return left;
}

static void numbers_of_masters_are_of_one_change(void **state) {
    (void)state;
    nb_backend *be;
    assert_int_equal(nb_backend_open("cpu", NULL, &be, NULL), NB_OK);
    nb_model_config config = case_config(NB_LLAMA, false);
    nb_recipe recipe = bf16_recipe();
    nb_model *model = case_model(be, &config, &recipe, true);
    const nb_pass pass = {.step = 3, .rounding_seed = 5};
    case_batch b;
    make_case_batch(&b, config.vocab, 1);
    const double loss = loss_and_grads_of(model, &b, &pass);
    enum { WEIGHTS = 7 }; /* of a block, and the head's */
    assert_int_equal(leave_numbers(model, true), WEIGHTS * config.layers + 1);
    nb_model_params_changed(model);
    assert_true(loss_and_grads_of(model, &b, &pass) != loss);
    nb_model_params_changed(model);
    assert_true(loss_and_grads_of(model, &b, &pass) == loss);
    leave_numbers(model, false);
    nb_model_params_changed(model);
    assert_true(loss_and_grads_of(model, &b, &pass) == loss);
    nb_model_free(model);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(amaxes_reach_the_quantizers, release_buffers),
        cmocka_unit_test_teardown(maxima_of_masters_are_of_one_change, release_buffers),
        cmocka_unit_test_teardown(numbers_of_masters_are_of_one_change, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
