/* test_linear_outer.c: `outer: delayed` against its rule written out by hand: tensor scales of the step before. */
#include "linear_case.h"

#include "format/e2m1.h"
#include "format/scale.h"

enum { STEPS = 6, HEADROOM = 2 };

/* X and dY to nearest, nowhere rotated, so that a number's code depends on its block and the tensor's scale alone. */
static nb_plan plan_outer(int32_t headroom) {
    nb_plan p = plan_nvfp4();
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++) {
        const bool weight = role == NB_FPROP_W || role == NB_DGRAD_W;
        if (!weight)
            p.roles[role] = (nb_operand_rule){.headroom = headroom, .quantizer = nvfp4(1, NB_ROUND_EVEN)};
    }
    return p;
}

/* x [rows, cols] in blocks of 16 along the rows, under the scale of a tensor whose largest magnitude is `limit`. */
static double *in_nvfp4(const double *x, int64_t rows, int64_t cols, double limit, int64_t *saturated) {
    const ni_tensor_scale t = ni_tensor_scale_of(ni_e4m3_target_of(NB_RULE_ABSMAX), NB_OUTER_TENSOR, (float)limit);
    double *out = zeros(rows * cols);
    for (int64_t b = 0; b < rows * cols; b += 16) {
        const float amax = (float)largest(x + b, 16);
        const uint8_t byte = ni_block_scale_byte(t, amax);
        const float encode = byte ? ni_block_encode(byte, t.sdec) : 0, decode = ni_e4m3_value(byte) * t.sdec;
        for (int i = 0; i < 16; i++)
            out[b + i] = (double)(ni_e2m1_value(ni_e2m1_even((float)x[b + i] * encode)) * decode);
        *saturated += amax > 1.01 * limit;
    }
    return out;
}

static void set(const nb_mat *m, const double *x, double by) {
    for (int64_t i = 0; i < m->rows * m->cols; i++)
        ((uint16_t *)m->data)[i] = ni_bf16_even((float)(x[i] * by));
}

static void take_step(linear_case *c, uint32_t step) {
    const nb_pass pass = {.step = step, .steps = 100};
    nb_error err = {0};
    c->scratch.used = c->scratch.kept = 0;
    assert_int_equal(ni_linear_group_after_step(c->group, &pass, &c->scratch, &err), NB_OK);
}

static void check_pass(linear_case *c, double limit_x, double limit_dy, int64_t *saturated) {
    const double *x = get(NB_BF16, c->x.data, M * K), *dy = get(NB_BF16, c->dy[0].data, M * N);
    const nb_mat master = nb_mat_of(c->w[0], NB_F32, N, K);
    const nb_quantizer tiles = nvfp4(16, NB_ROUND_EVEN);
    const nb_pass pass = {.steps = 100};
    const nb_qtensor codes = by_hand(c->be, &tiles, &master, false, &pass, "w", NB_FPROP_W, "w");
    const double *w = decoded(c->be, &codes), *xt = transposed(x, M, K), *dyt = transposed(dy, M, N);
    check_close("Y", get(NB_BF16, c->y[0].data, M * N), product(in_nvfp4(x, M, K, limit_x, saturated), M, w, N, K),
                0x1p-8, M * N);
    check_close("dX", get(NB_BF16, c->dx.data, M * K),
                product(in_nvfp4(dy, M, N, limit_dy, saturated), M, transposed(w, N, K), K, N), 0x1p-8, M * K);
    check_close("dW", get(NB_F32, c->dw[0], N * K),
                product(in_nvfp4(dyt, N, M, limit_dy, saturated), N, in_nvfp4(xt, K, M, limit_x, saturated), K, M),
                1e-5, N * K);
}

/* The first step's scales are those of its own micro-batches. From then on they are made from micro-batch 0 of the step
 * before: what grew more than the headroom saturates, and the second micro-batch leaves no trace. */
static void scales_of_the_step_before(void **state) {
    (void)state;
    static const double size[STEPS] = {1, 1.5, 16, 4, 0.01, 3};
    nb_backend *be = cpu();
    const nb_plan plan = plan_outer(HEADROOM);
    linear_case c = make_group(be, &plan, 1, NULL);
    const double *x = normals(3, M * K, 0, 1), *dy = normals(4, M * N, 0, 0.01);
    double past_x = 0, past_dy = 0;
    int64_t saturated = 0;
    for (uint32_t s = 0; s < STEPS; s++) {
        double now_x = 0, now_dy = 0;
        for (uint32_t micro_batch = 0; micro_batch < 2; micro_batch++) {
            const nb_pass pass = {.step = s, .steps = 100, .micro_batch = micro_batch};
            const double by = micro_batch ? 3 * size[s] : size[s];
            set(&c.x, x, by);
            set(&c.dy[0], dy, 1 / by);
            const double own_x = largest(get(NB_BF16, c.x.data, M * K), M * K),
                         own_dy = largest(get(NB_BF16, c.dy[0].data, M * N), M * N);
            ni_linear_group_begin_gradients(c.group);
            run_forward(&c, &pass);
            run_backward(&c, &pass);
            check_pass(&c, s ? HEADROOM * past_x : own_x, s ? HEADROOM * past_dy : own_dy, &saturated);
            now_x = micro_batch ? now_x : own_x;
            now_dy = micro_batch ? now_dy : own_dy;
        }
        past_x = now_x;
        past_dy = now_dy;
        take_step(&c, s);
    }
    assert_true(saturated > 20);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* A pass that no backward pass follows takes the scale of what it is given, and leaves nothing. */
static void evaluation_has_scales_of_its_own(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plans[2] = {plan_outer(HEADROOM), plan_outer(0)};
    linear_case c[2] = {make_group(be, &plans[0], 1, NULL), make_group(be, &plans[1], 1, NULL)};
    const nb_pass pass = {.steps = 100};
    nb_error err = {0};
    for (int i = 0; i < 2; i++) {
        run_forward(&c[i], &pass);
        run_backward(&c[i], &pass);
        take_step(&c[i], 0);
        set(&c[i].x, normals(9, M * K, 0, 1), 50);
        assert_int_equal(
            ni_linear_group_forward(c[i].group, clocked(&pass), &c[i].scratch, false, &c[i].x, c[i].y, &err), NB_OK);
    }
    assert_memory_equal(c[0].y[0].data, c[1].y[0].data, M * N * 2);
    for (int i = 0; i < 2; i++) { /* and the step after it goes by the step before it */
        set(&c[i].x, normals(1, M * K, 0, 1), 1.3);
        run_forward(&c[i], &pass);
    }
    assert_memory_not_equal(c[0].y[0].data, c[1].y[0].data, M * N * 2);
    ni_linear_group_free(c[0].group);
    ni_linear_group_free(c[1].group);
    nb_backend_free(be);
}

/* What a checkpoint holds is all that the next step needs, and a refused step (its passes, and no step) leaves nothing.
 */
static void state_is_all_there_is(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plan = plan_outer(HEADROOM);
    linear_case c[2] = {make_group(be, &plan, 1, NULL), make_group(be, &plan, 1, NULL)};
    nb_state_tensor from[8], to[8];
    nb_error err = {0};
    const nb_pass first = {.steps = 100}, refused = {.step = 1, .steps = 100}, second = {.step = 1, .steps = 100};
    run_forward(&c[0], &first);
    run_backward(&c[0], &first);
    take_step(&c[0], 0);
    set(&c[0].x, normals(1, M * K, 0, 1), 1000);
    run_forward(&c[0], &refused);
    run_backward(&c[0], &refused);
    const int32_t count = ni_linear_group_state(c[0].group, from, 8);
    assert_int_equal(count, 2);
    assert_int_equal(ni_linear_group_state(c[1].group, to, 8), count);
    for (int32_t i = 0; i < count; i++) {
        assert_string_equal(from[i].name, to[i].name);
        memcpy(to[i].data, from[i].data, (size_t)from[i].elements * nb_dtype_size(from[i].dtype));
    }
    assert_int_equal(ni_linear_group_loaded(c[1].group, &err), NB_OK);
    for (int i = 0; i < 2; i++) {
        set(&c[i].x, normals(6, M * K, 0, 1), 1);
        ni_linear_group_begin_gradients(c[i].group);
        run_forward(&c[i], &second);
        run_backward(&c[i], &second);
        take_step(&c[i], 1);
    }
    assert_memory_equal(c[0].y[0].data, c[1].y[0].data, M * N * 2);
    assert_memory_equal(c[0].dx.data, c[1].dx.data, M * K * 2);
    assert_memory_equal(c[0].dw[0], c[1].dw[0], N * K * sizeof(float));
    for (int32_t i = 0; i < count; i++)
        assert_memory_equal(from[i].data, to[i].data, (size_t)from[i].elements * nb_dtype_size(from[i].dtype));
    ni_linear_group_free(c[0].group);
    ni_linear_group_free(c[1].group);
    nb_backend_free(be);
}

static void of_what_has_no_tensor_scale(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plans[2] = {plan_outer(HEADROOM), plan_outer(HEADROOM)};
    plans[0].roles[NB_FPROP_W].headroom = 2;
    plans[1].roles[NB_WGRAD_DY].quantizer.outer = NB_OUTER_UNIT;
    for (int i = 0; i < 2; i++) {
        linear_case c;
        nb_error err = {0};
        assert_int_equal(try_group(be, &c, &plans[i], 1, NULL, &err), NB_BAD_CONFIG);
        assert_non_null(strstr(err.message, i ? "wgrad.dy has a headroom of 2" : "fprop.w has a headroom of 2"));
    }
    nb_backend_free(be);
}

int main(void) {
#define CASE(name) cmocka_unit_test_teardown(name, release_buffers)
    const struct CMUnitTest tests[] = {CASE(scales_of_the_step_before), CASE(evaluation_has_scales_of_its_own),
                                       CASE(state_is_all_there_is), CASE(of_what_has_no_tensor_scale)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
