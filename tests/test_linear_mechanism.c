/* test_linear_mechanism.c: the hooks of the linear layer, with mechanisms simple enough to predict. */
#include "backend/table.h"
#include "linear_case.h"

static const nb_pass pass0 = {.step = 3, .steps = 100, .micro_batch = 1, .rounding_seed = 77};

/* ---- a mechanism that adds to every product ---- */

typedef struct toy {
    ni_linear_group *group;
    int32_t index, observed, prepared;
    nb_operand constant[NI_GEMM_COUNT][2];
} toy;

static bool wants_quantized(const nb_plan *plan) {
    return plan->quantized;
}

static nb_status toy_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    (void)err;
    toy *t = calloc(1, sizeof *t);
    assert_non_null(t);
    t->group = group;
    t->index = index;
    *state = t;
    return NB_OK;
}

static nb_status toy_observe(void *state, const ni_linear_call *call, nb_error *err) {
    (void)err;
    ((toy *)state)->observed += call->training && !call->measuring;
    return NB_OK;
}

/* X becomes 1 everywhere. */
static nb_status toy_prepare_x(void *state, const ni_linear_call *call, nb_mat *prepared, nb_error *err) {
    size_t bytes = nb_dtype_size(NB_BF16) * (size_t)(prepared->rows * prepared->cols);
    uint16_t *ones = ni_scratch_keep(call->scratch, bytes);
    if (!ones)
        return ni_scratch_short(call->scratch, "ones", bytes, err);
    for (int64_t i = 0; i < prepared->rows * prepared->cols && !call->measuring; i++)
        ones[i] = ni_bf16_even(1);
    prepared->data = ones;
    ((toy *)state)->prepared += !call->measuring;
    return NB_OK;
}

/* `by` in all of [rows, cols], as a term: one column of ones times one of `by`. */
static nb_status constant(const ni_linear_call *call, toy *t, ni_gemm gemm, int64_t rows, int64_t cols, float by,
                          ni_terms *terms, nb_error *err) {
    const nb_quantizer plain = nb_quantizer_bf16();
    nb_operand *a = &t->constant[gemm][0], *b = &t->constant[gemm][1];
    *a = (nb_operand){.quantizer = plain, .other = plain, .rows = rows, .cols = 1};
    *b = (nb_operand){.quantizer = plain, .other = plain, .rows = cols, .cols = 1, .side = NI_RIGHT};
    a->numbers = nb_mat_of(ni_scratch_keep(call->scratch, 2 * (size_t)rows), NB_BF16, rows, 1);
    b->numbers = nb_mat_of(ni_scratch_keep(call->scratch, 2 * (size_t)cols), NB_BF16, cols, 1);
    if (!a->numbers.data || !b->numbers.data)
        return ni_scratch_short(call->scratch, "a constant", 2 * (size_t)(rows + cols), err);
    for (int64_t i = 0; i < rows && !call->measuring; i++)
        ((uint16_t *)a->numbers.data)[i] = ni_bf16_even(1);
    for (int64_t i = 0; i < cols && !call->measuring; i++)
        ((uint16_t *)b->numbers.data)[i] = ni_bf16_even(by);
    return ni_add_term(terms, &(ni_term){.a = a, .b = b}, err);
}

static nb_status toy_terms(void *state, const ni_linear_call *call, ni_linear *layer, ni_gemm gemm, ni_terms *terms,
                           nb_error *err) {
    if (gemm == NI_GEMM_FPROP)
        return constant(call, state, gemm, call->x->rows, layer->out, 64, terms, err);
    return gemm == NI_GEMM_DGRAD ? constant(call, state, gemm, call->x->rows, layer->in, 8, terms, err) : NB_OK;
}

static nb_status toy_after_wgrad(void *state, const ni_linear_call *call, ni_linear *layer, const nb_mat *dw,
                                 nb_error *err) {
    (void)state, (void)layer, (void)err;
    for (int64_t i = 0; i < dw->rows * dw->cols && !call->measuring; i++)
        ((float *)dw->data)[i] *= 3;
    return NB_OK;
}

static nb_status toy_after_step(void *state, ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch,
                                nb_error *err) {
    (void)pass, (void)scratch, (void)err;
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].mechanisms >> ((toy *)state)->index & 1)
            *(float *)group->layers[i].master = 42;
    return NB_OK;
}

static int32_t toy_tensors(void *state, ni_mechanism_tensor *tensors, int32_t max_tensors) {
    toy *t = state;
    if (max_tensors > 0)
        tensors[0] = (ni_mechanism_tensor){-1, "observed", NB_I32, 1, &t->observed, true, NI_COMBINE_SAME};
    return 1;
}

static const ni_mechanism adder = {.name = "adder",
                                   .wanted = wants_quantized,
                                   .attach = toy_attach,
                                   .detach = free,
                                   .observe = toy_observe,
                                   .terms = toy_terms,
                                   .after_wgrad = toy_after_wgrad,
                                   .after_step = toy_after_step,
                                   .tensors = toy_tensors};

static const ni_mechanism ones = {
    .name = "ones", .wanted = wants_quantized, .attach = toy_attach, .detach = free, .prepare_x = toy_prepare_x};

/* ---- mechanisms that replace: a product from the second time on, an operand ---- */

static nb_status replace_by_constants(void *state, const ni_linear_call *call, ni_linear *layer, ni_gemm gemm,
                                      ni_terms *terms, nb_error *err) {
    toy *t = state;
    if (gemm == NI_GEMM_FPROP && !call->measuring && t->observed++ == 0)
        return NB_OK;
    terms->count = 0;
    return gemm == NI_GEMM_FPROP   ? constant(call, t, gemm, call->x->rows, layer->out, 7, terms, err)
           : gemm == NI_GEMM_DGRAD ? constant(call, t, gemm, call->x->rows, layer->in, 5, terms, err)
                                   : constant(call, t, gemm, layer->out, layer->in, 9, terms, err);
}

static nb_status zero_weights(void *state, const ni_linear_call *call, ni_linear *layer, nb_operand *out, bool *done,
                              nb_error *err) {
    (void)state;
    float *zero = put(NB_F32, zeros(layer->out * layer->in), layer->out * layer->in);
    nb_mat numbers = nb_mat_of(zero, NB_F32, layer->out, layer->in);
    const ni_source source = {.numbers = &numbers};
    const ni_making making = {.out = out};
    *done = true;
    return call->be->ops->make_operands(call->be, &source, &making, 1, err);
}

static nb_status ones_for_wgrad(void *state, const ni_linear_call *call, ni_linear *layer, nb_mat *x, bool *done,
                                nb_error *err) {
    (void)layer;
    *done = true;
    *x = *call->x;
    return toy_prepare_x(state, call, x, err);
}

static const ni_mechanism replacer = {
    .name = "replacer", .wanted = wants_quantized, .attach = toy_attach, .detach = free, .terms = replace_by_constants};
static const ni_mechanism rival = {.name = "rival", .wanted = wants_quantized, .terms = replace_by_constants};
static const ni_mechanism rounder = {.name = "rounder", .wanted = wants_quantized, .quantize_w = zero_weights};
static const ni_mechanism plain_x = {
    .name = "plain_x", .wanted = wants_quantized, .attach = toy_attach, .detach = free, .wgrad_x = ones_for_wgrad};

/* ---- what they do ---- */

/* Additions happen before the only rounding; dW of one micro-batch is changed, not what was there before. */
static void additions(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plans[] = {plan_nvfp4(), plan_bf16()};
    const ni_mechanism *const list[] = {&adder, NULL}, *const none[] = {NULL};
    linear_case with = make_group(be, plans, 2, list), without = make_group(be, plans, 2, none);
    linear_case *both[] = {&with, &without};
    for (int i = 0; i < 2; i++) {
        both[i]->dw[0][0] = 1000;
        both[i]->group->layers[0].grad_written = true; /* of an earlier product of this micro-batch */
        run_forward(both[i], &pass0);
        run_backward(both[i], &pass0);
    }
    double *y = get(NB_BF16, without.y[0].data, M * N), *dx = get(NB_BF16, without.dx.data, M * K);
    double *added = get(NB_BF16, with.y[0].data, M * N), *moved = get(NB_BF16, with.dx.data, M * K);
    for (int64_t i = 0; i < M * N; i++)
        assert_true(fabs(added[i] - (y[i] + 64)) <= 0.25 + fabs(y[i]) / 256); /* half an ulp of 64 is 1/4 */
    for (int64_t i = 0; i < M * K; i++)
        assert_true(fabs(moved[i] - (dx[i] + 8)) <= 0.04 + fabs(dx[i]) / 256);
    for (int64_t i = 0; i < N * K; i++) {
        double before = i == 0 ? 1000 : 0, dw = without.dw[0][i] - before;
        assert_true(fabs(with.dw[0][i] - before - 3 * dw) <= 1e-4 * fabs(dw) + 1e-3 * (i == 0));
    }
    check_equal_bytes("Y of the BF16 layer", with.y[1].data, without.y[1].data, M * N * 2);
    check_equal_bytes("dW of the BF16 layer", with.dw[1], without.dw[1], N * K * 4);
    assert_int_equal(((toy *)with.group->mechanisms[0].state)->observed, 1);
    ni_linear_group_free(with.group);
    ni_linear_group_free(without.group);
    nb_backend_free(be);
}

static void no_hooks_in_bf16(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plans[] = {plan_nvfp4(), plan_bf16()};
    const ni_mechanism *const list[] = {&adder, &ones, &rounder, NULL};
    linear_case with = make_group(be, &plans[0], 1, list), without = make_group(be, &plans[1], 1, NULL);
    nb_pass pass = pass0;
    pass.forward_bf16 = pass.backward_bf16 = true;
    run_forward(&with, &pass);
    run_backward(&with, &pass);
    run_forward(&without, &pass);
    run_backward(&without, &pass);
    check_equal_bytes("Y", with.y[0].data, without.y[0].data, M * N * 2);
    check_equal_bytes("dX", with.dx.data, without.dx.data, M * K * 2);
    check_equal_bytes("dW", with.dw[0], without.dw[0], N * K * 4);
    ni_linear_group_free(with.group);
    ni_linear_group_free(without.group);
    nb_backend_free(be);
}

/* The prepared X reaches both GEMMs that read X, once for all layers, and no BF16 layer. */
static void prepared_x(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plans[] = {plan_nvfp4(), plan_nvfp4(), plan_bf16()};
    const ni_mechanism *const list[] = {&ones, NULL}, *const none[] = {NULL};
    linear_case with = make_group(be, plans, 3, list), same = make_group(be, plans, 3, none);
    run_forward(&with, &pass0);
    run_backward(&with, &pass0);
    assert_int_equal(((toy *)with.group->mechanisms[0].state)->prepared, 2);
    run_forward(&same, &pass0);
    check_equal_bytes("Y of the BF16 layer", with.y[2].data, same.y[2].data, M * N * 2);
    for (int64_t i = 0; i < M * K; i++)
        ((uint16_t *)same.x.data)[i] = ni_bf16_even(1);
    run_forward(&same, &pass0);
    run_backward(&same, &pass0);
    for (int i = 0; i < 2; i++) {
        check_equal_bytes("Y", with.y[i].data, same.y[i].data, M * N * 2);
        check_equal_bytes("dW", with.dw[i], same.dw[i], N * K * 4);
    }
    ni_linear_group_free(with.group);
    ni_linear_group_free(same.group);
    nb_backend_free(be);
}

static void replacements(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plans[] = {plan_nvfp4(), plan_nvfp4()};
    const ni_mechanism *const list[] = {&replacer, NULL}, *const none[] = {NULL};
    linear_case with = make_group(be, plans, 1, list), without = make_group(be, plans, 1, none);
    run_forward(&with, &pass0);
    run_forward(&without, &pass0);
    check_equal_bytes("Y while the mechanism waits", with.y[0].data, without.y[0].data, M * N * 2);
    run_forward(&with, &pass0);
    assert_true(ni_bf16_value(((uint16_t *)with.y[0].data)[17]) == 7);
    linear_case pair = make_group(be, plans, 2, list);
    run_forward(&pair, &pass0);
    run_backward(&pair, &pass0);
    assert_true(ni_bf16_value(((uint16_t *)pair.dx.data)[5]) == 10);
    assert_true(pair.dw[1][3] == 9);
    ni_linear_group_free(with.group);
    ni_linear_group_free(without.group);
    ni_linear_group_free(pair.group);
    nb_backend_free(be);
}

static void replaced_operands(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plan = plan_rows(NB_VIA_BF16, nb_quantizer_bf16());
    const ni_mechanism *const list[] = {&rounder, &plain_x, NULL};
    linear_case c = make_group(be, &plan, 1, list);
    run_forward(&c, &pass0);
    run_backward(&c, &pass0);
    assert_true(largest(get(NB_BF16, c.y[0].data, M * N), M * N) == 0);
    assert_true(largest(get(NB_BF16, c.dx.data, M * K), M * K) == 0); /* dgrad reads the same codes */
    double *dy = get(NB_BF16, c.dy[0].data, M * N);
    for (int64_t n = 0; n < N; n++) {
        double column = 0;
        for (int64_t m = 0; m < M; m++)
            column += dy[m * N + n];
        assert_true(fabs(c.dw[0][n * K + n % K] - column) <= 1e-5);
    }
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

static void conflicts(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plan = plan_nvfp4();
    const ni_mechanism *const list[] = {&replacer, &rival, NULL};
    linear_case c;
    nb_error err = {0};
    assert_int_equal(try_group(be, &c, &plan, 1, list, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "replacer and rival both edit the products"));
    nb_backend_free(be);
}

/* After a step the mechanism moves the masters; its state is listed for checkpoints. */
static void between_steps(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plans[] = {plan_nvfp4(), plan_bf16()};
    const ni_mechanism *const list[] = {&adder, NULL};
    linear_case c = make_group(be, plans, 2, list);
    assert_int_equal(ni_linear_group_after_step(c.group, &pass0, &c.scratch, NULL), NB_OK);
    assert_true(c.w[0][0] == 42 && c.w[1][0] != 42);
    ni_mechanism_tensor tensors[2];
    const ni_attached_mechanism *m = &c.group->mechanisms[0];
    assert_int_equal(m->table->tensors(m->state, tensors, 2), 1);
    run_forward(&c, &pass0);
    assert_int_equal(*(int32_t *)tensors[0].data, 1);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(additions, release_buffers),
        cmocka_unit_test_teardown(no_hooks_in_bf16, release_buffers),
        cmocka_unit_test_teardown(prepared_x, release_buffers),
        cmocka_unit_test_teardown(replacements, release_buffers),
        cmocka_unit_test_teardown(replaced_operands, release_buffers),
        cmocka_unit_test_teardown(conflicts, release_buffers),
        cmocka_unit_test_teardown(between_steps, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
