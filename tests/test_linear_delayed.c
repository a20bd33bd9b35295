/* test_linear_delayed.c: delayed scales of gradients (arXiv:2310.18313's code) against their rule written out by hand.
 */
#include "linear_case.h"

enum { WINDOW = 3, STEPS = 9 };

static nb_quantizer e5m2(nb_scale_rule rule) {
    return (nb_quantizer){.element = NB_ELEMENT_E5M2,
                          .scale_type = NB_SCALE_F32,
                          .rule = rule,
                          .block_rows = NB_BLOCK_ALL,
                          .block_cols = NB_BLOCK_ALL};
}

static nb_plan plan_delayed(nb_scale_rule rule) {
    nb_plan p = plan_rows(NB_VIA_BF16, e5m2(rule));
    p.roles[NB_WGRAD_DY] = (nb_operand_rule){.from = true, .source = NB_DGRAD_DY, .quantizer = e5m2(rule)};
    p.mechanisms.has_delayed = true;
    p.mechanisms.delayed.window = WINDOW;
    return p;
}

/* Nearest of 1.xx times a power of two from 2^-14 on, and multiples of 2^-16 below; ties to even; 57344 at most. */
static double in_e5m2(double x, double limit) {
    const double scale = exp2(floor(log2(57344 / limit))), v = fabs(x) * scale;
    const double step = exp2(fmax(v > 0 ? floor(log2(v)) : -14, -14) - 2);
    return copysign(fmin(nearbyint(v / step) * step, 57344), x) / scale;
}

/* Every row holds 6 and numbers of the grid: X is what its codes are. */
static void set_x(linear_case *c) {
    static const float grid[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    uint16_t *x = c->x.data;
    for (int i = 0; i < M * K; i++)
        x[i] = ni_bf16_even(i % K == 0 ? 6 : (i % 3 ? 1.0f : -1.0f) * grid[i * 5 % 8]);
}

static void step(linear_case *c, uint32_t at, uint32_t micro_batch, const double *dy, double by) {
    const nb_pass pass = {.step = at, .steps = 100, .micro_batch = micro_batch, .rounding_seed = 3};
    for (int i = 0; i < M * N; i++)
        ((uint16_t *)c->dy[0].data)[i] = ni_bf16_even((float)(dy[i] * by));
    ni_linear_group_begin_gradients(c->group);
    run_forward(c, &pass);
    run_backward(c, &pass);
}

/* For WINDOW steps the scale is the tensor's own; then it is that of the largest of the WINDOW steps before: what grew
 * since saturates, and a step's own size enters one step later. Micro-batch 1 is rounded under the same scale and tells
 * nothing. */
static void scales_of_the_steps_before(void **state) {
    (void)state;
    static const double size[STEPS] = {1, 8, 0.5, 0.25, 64, 3, 0.01, 0.02, 0.5};
    nb_backend *be = cpu();
    const nb_plan plan = plan_delayed(NB_RULE_POW2);
    linear_case c = make_group(be, &plan, 1, NULL);
    double *dy = normals(77, M * N, 0, 0.01), amaxes[STEPS] = {0};
    int saturated = 0;
    set_x(&c);
    const double *x = get(NB_BF16, c.x.data, M * K);
    for (uint32_t s = 0; s < STEPS; s++) {
        for (uint32_t micro_batch = 0; micro_batch < 2; micro_batch++) {
            double past = 0, own = 0, *rounded = zeros(M * N);
            step(&c, s, micro_batch, dy, micro_batch ? 100 * size[s] : size[s]);
            const double *given = get(NB_BF16, c.dy[0].data, M * N);
            for (int i = 0; i < M * N; i++)
                own = fmax(own, fabs(given[i]));
            amaxes[s] = micro_batch ? amaxes[s] : own;
            for (uint32_t t = s - WINDOW; s >= WINDOW && t < s; t++)
                past = fmax(past, amaxes[t]);
            for (int i = 0; i < M * N; i++) {
                rounded[i] = in_e5m2(given[i], past > 0 ? past : own);
                saturated += fabs(rounded[i]) < 0.8 * fabs(given[i]);
            }
            check_close("dW", get(NB_F32, c.dw[0], N * K),
                        product(transposed(rounded, M, N), N, transposed(x, M, K), K, M), 1e-5, N * K);
        }
        const nb_pass pass = {.step = s, .steps = 100};
        nb_error err = {0};
        c.scratch.used = c.scratch.kept = 0;
        assert_int_equal(ni_linear_group_after_step(c.group, &pass, &c.scratch, &err), NB_OK);
    }
    assert_true(saturated > 100);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* As large as ever: the tensor's own scale and the delayed one are one power of two, and nothing differs. */
static void steady_gradients_round_as_they_did(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plans[2] = {plan_delayed(NB_RULE_POW2), plan_delayed(NB_RULE_POW2)};
    plans[1].mechanisms = (nb_mechanism_set){.has_dge = false};
    linear_case c[2] = {make_group(be, &plans[0], 1, NULL), make_group(be, &plans[1], 1, NULL)};
    const double *dy = normals(5, M * N, 0, 0.01);
    for (uint32_t s = 0; s < 6; s++) {
        const nb_pass pass = {.step = s, .steps = 100};
        nb_error err = {0};
        for (int i = 0; i < 2; i++) {
            step(&c[i], s, 0, dy, 1);
            c[i].scratch.used = c[i].scratch.kept = 0;
            assert_int_equal(ni_linear_group_after_step(c[i].group, &pass, &c[i].scratch, &err), NB_OK);
        }
        assert_memory_equal(c[0].dw[0], c[1].dw[0], N * K * sizeof(float));
        assert_memory_equal(c[0].dx.data, c[1].dx.data, M * K * 2);
    }
    ni_linear_group_free(c[0].group);
    ni_linear_group_free(c[1].group);
    nb_backend_free(be);
}

static void needs_a_power_of_two(void **state) {
    (void)state;
    nb_backend *be = cpu();
    linear_case c;
    nb_error err = {0};
    const nb_plan plan = plan_delayed(NB_RULE_ABSMAX);
    assert_int_equal(try_group(be, &c, &plan, 1, NULL, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "delayed needs dgrad.dy"));
    nb_backend_free(be);
}

int main(void) {
#define CASE(name) cmocka_unit_test_teardown(name, release_buffers)
    const struct CMUnitTest tests[] = {CASE(scales_of_the_steps_before), CASE(steady_gradients_round_as_they_did),
                                       CASE(needs_a_power_of_two)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
