/* test_model_narrow.c: gradients that are packed block by block are those of FP32, rounded once; and the exchange of
 * packed gradients between ranks (arXiv:2310.18313). */
#include "backend/table.h"
#include "model/masters.h"
#include "model_case.h"

#include "format/narrow.h"
#include "model/param_array.h"

static nb_recipe with_gradients(nb_recipe recipe, nb_dtype format, nb_scale_rule scale) {
    recipe.gradients = (nb_gradient_store){.format = format, .scale = scale};
    return recipe;
}

static nb_pass pass_of(uint32_t micro_batch) {
    return (nb_pass){.step = 3, .steps = 10, .micro_batch = micro_batch, .rounding_seed = 9};
}

static void backward(nb_model *model, nb_pass pass) {
    case_batch b;
    nb_error err = {0};
    double loss;
    make_case_batch(&b, nb_model_get_config(model)->vocab, 5 + pass.micro_batch);
    if (nb_model_loss_and_grads(model, &b.batch, &pass, &loss, &err) != NB_OK)
        fail_msg("%s", err.message);
}

/* Every family, tied or not: what lies in the window is packed when it is complete, and nothing is left in it. */
static void packed_gradients_are_those_of_fp32(void **state) {
    (void)state;
    static const nb_dtype formats[] = {NB_E4M3, NB_E5M2, NB_F16, NB_BF16};
    nb_backend *be = cpu_with(2, NB_ISA_AUTO);
    for (int kind = 0; kind < 8; kind++) {
        nb_model_config config = case_config((nb_family)(kind / 2), kind % 2);
        nb_recipe wide = kind % 2 ? nvfp4_recipe() : bf16_recipe();
        nb_recipe narrow = with_gradients(wide, formats[kind % 4], kind < 4 ? NB_RULE_POW2 : NB_RULE_ABSMAX);
        nb_model *a = case_model(be, &config, &wide, true), *b = case_model(be, &config, &narrow, true);
        assert_null(nb_model_grads(b));
        assert_true(ni_model_gradient_window(a) == 0);
        const size_t whole = (size_t)nb_model_param_elements(b) * sizeof(float);
        assert_true(ni_model_gradient_window(b) > 0 && ni_model_gradient_window(b) < 2 * whole / 3);
        for (uint32_t micro = 0; micro < 2; micro++) { /* nothing of the first is in the second */
            ni_param_array_zero(ni_model_gradients(a));
            backward(a, pass_of(micro));
            backward(b, pass_of(micro));
            for (int32_t i = 0; i < nb_model_param_count(a); i++) {
                const nb_param *p = nb_model_param(a, i);
                const int64_t n = p->rows * p->cols;
                const ni_scaled got = ni_param_array_at(ni_model_gradients(b), i);
                const float *from = (const float *)nb_model_grads(a) + p->offset;
                float scale = 0;
                ni_scaled want = {poisoned((size_t)n * nb_dtype_size(got.dtype)), got.dtype, got.rule,
                                  got.scale ? &scale : NULL};
                be->ops->scaled_encode(be, &want, from, n);
                double squares;
                be->ops->sum_squares(be, &squares, from, n);
                assert_true(squares > 0);
                check_equal_bytes(p->name, got.data, want.data, (size_t)n * nb_dtype_size(got.dtype));
                if (got.scale)
                    assert_true(*got.scale == scale);
            }
        }
        nb_model_free(a);
        nb_model_free(b);
    }
    nb_backend_free(be);
}

/* ---- gradients that somebody else keeps ---- */

typedef struct collected {
    float *all; /* [elements] */
    const nb_model *model;
    int32_t begin[64], sections;
} collected;

static void collect(void *self, int32_t begin, int32_t end, void *grads) {
    collected *c = self;
    const nb_param *first = nb_model_param(c->model, begin), *last = nb_model_param(c->model, end - 1);
    const int64_t n = last->offset + last->rows * last->cols - first->offset;
    memcpy(c->all + first->offset, grads, (size_t)n * sizeof(float));
    memset(grads, 0x7f, (size_t)n * sizeof(float)); /* it may be written over */
    c->begin[c->sections++] = begin;
}

/* Every family, tied or not: they are those of a model that keeps them, from the last section to the first; where
 * nothing is scored, zeroes in the same order. */
static void sections_are_handed_on(void **state) {
    (void)state;
    nb_backend *be = cpu_with(2, NB_ISA_AUTO);
    for (int kind = 0; kind < 8; kind++) {
        nb_model_config config = case_config((nb_family)(kind / 2), kind % 2);
        nb_recipe recipe = kind % 2 ? nvfp4_recipe() : bf16_recipe();
        const nb_model_options how = {.batch = CASE_BATCH, .seq = CASE_SEQ, .training = true};
        nb_model *a = case_model(be, &config, &recipe, true), *b = NULL;
        nb_error err = {0};
        assert_int_equal(ni_model_create(be, &config, &recipe, &how, &(ni_model_shared){.hands_on = true}, &b, &err),
                         NB_OK);
        memcpy(nb_model_params(b), nb_model_params(a), (size_t)nb_model_param_elements(a) * sizeof(float));
        nb_model_params_changed(b);
        const size_t bytes = (size_t)nb_model_param_elements(a) * sizeof(float);
        const ni_param_array *places = ni_model_gradients(b);
        assert_true(nb_model_grads(b) == NULL && places->data == NULL && ni_param_array_bytes(places) == 0);
        assert_true(ni_model_gradient_window(b) < 2 * bytes / 3);
        collected c = {.all = poisoned(bytes), .model = b}, first;
        memset(c.all, 0, bytes);
        ni_model_hand_gradients_to(b, collect, &c);
        for (uint32_t micro = 0; micro < 2; micro++) {
            c.sections = 0;
            ni_param_array_zero(ni_model_gradients(a));
            backward(a, pass_of(micro));
            backward(b, pass_of(micro));
            check_equal_bytes("gradients", c.all, nb_model_grads(a), bytes);
            assert_int_equal(c.sections, places->sections);
            for (int32_t i = 0; i < c.sections; i++)
                assert_int_equal(c.begin[i], places->section[c.sections - 1 - i]);
        }
        first = c;
        c.sections = 0;
        case_batch nothing;
        double loss;
        make_case_batch(&nothing, config.vocab, 5);
        for (int32_t i = 0; i < CASE_ROWS; i++)
            nothing.targets[i] = -1;
        const nb_pass pass = pass_of(0);
        assert_int_equal(nb_model_loss_and_grads(b, &nothing.batch, &pass, &loss, &err), NB_OK);
        assert_int_equal(c.sections, first.sections);
        assert_memory_equal(c.begin, first.begin, (size_t)c.sections * sizeof *c.begin);
        for (size_t i = 0; i < bytes / sizeof(float); i++)
            assert_true(c.all[i] == 0);
        nb_model_free(a);
        nb_model_free(b);
    }
    nb_backend_free(be);
}

/* ---- masters ---- */

/* A model of narrow masters computes what one does whose FP32 masters are the same numbers: loss and gradients to the
 * bit, whatever reads a master on the way. */
static void narrow_masters_are_their_values(void **state) {
    (void)state;
    static const char *const names[] = {"bf16", "nvfp4", "fp4-dge-occ-f32", "chon", "tetrajet-v1", "nvfp4"};
    nb_backend *be = cpu_with(2, NB_ISA_AUTO);
    nb_model_config config = case_config(NB_LLAMA, true);
    config.hidden = 128;
    config.head_dim = 32;
    config.intermediate = 256;
    for (size_t r = 0; r < sizeof names / sizeof *names; r++) {
        nb_recipe wide;
        nb_error err = {0};
        double loss[2];
        if (nb_recipe_load(names[r], NI_TEST_SOURCE "/recipes", &wide, &err) != NB_OK)
            fail_msg("%s", err.message);
        if (r == 5) {
            wide.mechanisms.has_outcontrol = true;
            wide.mechanisms.outcontrol = (nb_outcontrol){.share = 0.3, .multiple = 32, .start = 0, .window = 1};
        }
        nb_recipe narrow = wide;
        narrow.optimizer_state.master = NB_F16;
        narrow.optimizer_state.scale = NB_RULE_ABSMAX;
        nb_model *a = case_model(be, &config, &narrow, true), *b = case_model(be, &config, &wide, true);
        assert_null(nb_model_params(a));
        const ni_master_bytes bytes = ni_model_master_bytes(a);
        const int64_t n = nb_model_param_elements(a);
        assert_true(bytes.narrow > 0 && bytes.narrow + bytes.wide + bytes.room < (size_t)n * sizeof(float));
        int changed = 0;
        for (int32_t i = 0; i < nb_model_param_count(a); i++) {
            const nb_param *p = nb_model_param(a, i);
            float *to = (float *)nb_model_params(b) + p->offset, *from = ni_model_param_open(a, i);
            for (int64_t e = 0; e < p->rows * p->cols; e++) {
                changed += to[e] != from[e];
                assert_true(fabsf(to[e] - from[e]) <= fabsf(to[e]) / 2048 + 1e-8f);
            }
            memcpy(to, from, (size_t)(p->rows * p->cols) * sizeof *to);
        }
        assert_true(changed > 0); /* they were rounded */
        nb_model_params_changed(a);
        nb_model_params_changed(b);
        for (uint32_t step = 0; step < 3; step++) { /* mechanisms that look at masters after a step act in the next */
            case_batch batch;
            make_case_batch(&batch, config.vocab, 5 + step);
            const nb_pass pass = {.step = step, .steps = 3, .rounding_seed = 9};
            if (nb_model_loss_and_grads(a, &batch.batch, &pass, &loss[0], &err) != NB_OK)
                fail_msg("%s", err.message);
            assert_int_equal(nb_model_loss_and_grads(b, &batch.batch, &pass, &loss[1], &err), NB_OK);
            assert_true(loss[0] == loss[1]);
            assert_int_equal(nb_model_after_step(a, &pass, &err), NB_OK);
            assert_int_equal(nb_model_after_step(b, &pass, &err), NB_OK);
            nb_model_params_changed(a);
            nb_model_params_changed(b);
        }
        check_equal_bytes(names[r], nb_model_grads(a), nb_model_grads(b), (size_t)n * sizeof(float));
        ni_master_copy copy; /* and they come back from a copy */
        assert_int_equal(ni_model_copy_masters(a, &copy, &err), NB_OK);
        nb_model_init(a, 99);
        ni_model_restore_masters(a, &copy);
        ni_master_copy_free(&copy);
        for (int32_t i = 0; i < nb_model_param_count(a); i++) {
            const nb_param *p = nb_model_param(a, i);
            check_equal_bytes(p->name, ni_model_param_open(a, i), (float *)nb_model_params(b) + p->offset,
                              (size_t)(p->rows * p->cols) * sizeof(float));
        }
        nb_model_free(a);
        nb_model_free(b);
    }
    nb_backend_free(be);
}

static void what_moves_masters_refuses_narrow_ones(void **state) {
    (void)state;
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    nb_model_config config = case_config(NB_LLAMA, false);
    nb_recipe recipe;
    nb_model *model = NULL;
    nb_error err = {0};
    config.hidden = 128;
    config.head_dim = 32;
    config.intermediate = 256;
    assert_int_equal(nb_recipe_load("nvfp4", NI_TEST_SOURCE "/recipes", &recipe, &err), NB_OK);
    recipe.optimizer_state.master = NB_F16;
    recipe.mechanisms.has_oscireset = true;
    recipe.mechanisms.oscireset = (nb_oscireset){.period = 10, .window = 2, .threshold = 8};
    assert_int_equal(nb_model_create(be, &config, &recipe, CASE_BATCH, CASE_SEQ, true, &model, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "master: fp32"));
    nb_backend_free(be);
}

static double squares_of(const ni_param_array *array) {
    double parts[256], sum = 0;
    assert_true(ni_param_array_parts(array) <= 256);
    ni_param_array_sum_squares(array, parts);
    for (int32_t i = 0; i < ni_param_array_parts(array); i++)
        sum += parts[i];
    return sum;
}

/* A batch that scores nothing has no gradient, whatever the one before had. */
static void nothing_scored_is_zero(void **state) {
    (void)state;
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    nb_model_config config = case_config(NB_LLAMA, true);
    nb_recipe recipe = with_gradients(bf16_recipe(), NB_E4M3, NB_RULE_POW2);
    nb_model *model = case_model(be, &config, &recipe, true);
    backward(model, pass_of(0));
    assert_true(squares_of(ni_model_gradients(model)) > 0);
    case_batch b;
    nb_error err = {0};
    nb_pass pass = pass_of(1);
    double loss;
    make_case_batch(&b, config.vocab, 5);
    for (int i = 0; i < CASE_ROWS; i++)
        b.targets[i] = -1;
    assert_int_equal(nb_model_loss_and_grads(model, &b.batch, &pass, &loss, &err), NB_OK);
    assert_true(squares_of(ni_model_gradients(model)) == 0);
    nb_model_free(model);
    nb_backend_free(be);
}

static void other_backends_say_no(void **state) {
    (void)state;
    nb_backend *be = ref64();
    nb_model_config config = case_config(NB_LLAMA, false);
    nb_recipe recipe = with_gradients(bf16_recipe(), NB_E4M3, NB_RULE_POW2);
    nb_model *model = NULL;
    nb_error err = {0};
    assert_int_equal(nb_model_create(be, &config, &recipe, 1, 8, true, &model, &err), NB_UNSUPPORTED);
    assert_non_null(strstr(err.message, "gradients.format"));
    nb_backend_free(be);
}

int main(void) {
#define CASE(name) cmocka_unit_test_teardown(name, release_buffers)
    const struct CMUnitTest tests_[] = {
        CASE(packed_gradients_are_those_of_fp32),
        CASE(sections_are_handed_on),
        CASE(narrow_masters_are_their_values),
        CASE(what_moves_masters_refuses_narrow_ones),
        CASE(nothing_scored_is_zero),
        CASE(other_backends_say_no),
    };
    return cmocka_run_group_tests(tests_, NULL, NULL);
}
