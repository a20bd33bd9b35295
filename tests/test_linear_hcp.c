/* test_linear_hcp.c: what the Hot-Channel Patch (arXiv:2602.02047) multiplies inside the linear layer, against products
 * made by hand. */
#include "hcp_case.h"

/* Every form, side, copy and kernel is the sum that its formula says, in the channels that the score says. Y is rounded
 * to BF16 (2^-9 of an element). */
static void formula(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int i = 0; i < 32; i++) {
        nb_hcp how = patch_of(0.25);
        how.side = (nb_hcp_side)(i % 4 % 3);
        how.form = i % 4 == 3 ? NB_HCP_PRINTED : NB_HCP_CANCEL;
        how.order = how.side == NB_HCP_BOTH ? 2 : 1;
        how.kernel = i & 4 ? NB_HCP_DUAL : NB_HCP_SINGLE;
        how.copy = i & 8 ? NB_HCP_EXACT : NB_HCP_REQUANTIZE;
        how.score = i & 16 ? NB_HCP_NORMALIZED : NB_HCP_ABSOLUTE;
        linear_case c = chosen_case(be, &how);
        run_forward(&c, &pass0);
        double *want = patched_by_hand(&c, &how, 16), *got = get(NB_BF16, c.y[0].data, M * N), *bound = zeros(M * N);
        for (int e = 0; e < M * N; e++)
            bound[e] = fabs(want[e]) / 256 + 1e-5 * largest(want, M * N);
        check_within("Y", got, want, bound, M * N);
        ni_linear_group_free(c.group);
    }
    nb_backend_free(be);
}

/* One GEMM or two: the same products, summed in another order. */
static void single_is_dual(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int copy = 0; copy < 2; copy++) {
        double *y[2];
        for (int kernel = 0; kernel < 2; kernel++) {
            nb_hcp how = patch_of(0.5);
            how.kernel = (nb_hcp_kernel)kernel;
            how.copy = (nb_hcp_copy)copy;
            linear_case c = chosen_case(be, &how);
            run_forward(&c, &pass0);
            y[kernel] = get(NB_BF16, c.y[0].data, M * N);
            ni_linear_group_free(c.group);
        }
        check_close("single, dual", y[0], y[1], 0x1p-8, M * N);
        int apart = 0;
        for (int i = 0; i < M * N; i++)
            apart += y[0][i] != y[1][i];
        assert_true(apart < M * N / 50); /* a rounding boundary, here and there */
    }
    nb_backend_free(be);
}

/* Where one reading of X is to make all that is made of it, wgrad.x comes with the patches: the same bits. */
static void wgrad_x_comes_early(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_hcp how = patch_of(0.25);
    linear_case c[2];
    for (int i = 0; i < 2; i++) {
        be->wants_amax = i;
        c[i] = chosen_case(be, &how);
        const nb_pass pass = {.step = 1, .steps = 10, .rounding_seed = 5};
        const ni_cached_operand *x = c[i].group->layers[0].operands[NB_WGRAD_X];
        const uint32_t before = x->made;
        run_forward(&c[i], &pass);
        assert_int_equal(x->made - before, i);
        run_backward(&c[i], &pass);
        assert_int_equal(x->made - before, 1);
    }
    check_equal_bytes("Y", c[1].y[0].data, c[0].y[0].data, M * N * 2);
    check_equal_bytes("dX", c[1].dx.data, c[0].dx.data, M * K * 2);
    check_equal_bytes("dW", c[1].dw[0], c[0].dw[0], N * K * 4);
    ni_linear_group_free(c[0].group);
    ni_linear_group_free(c[1].group);
    nb_backend_free(be);
}

/* Fewer than half a block: nothing is patched, and every bit is the base's. */
static void nothing_to_patch(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_hcp how = patch_of(0.1);
    how.dgrad = how.wgrad = true;
    nb_plan plans[2][2] = {{plan_hcp(&how), plan_hcp(&how)}, {plan_nvfp4(), plan_nvfp4()}};
    linear_case c[2];
    for (int i = 0; i < 2; i++) {
        c[i] = make_group(be, plans[i], 2, NULL);
        choose(&c[i]);
        run_forward(&c[i], &pass0);
        run_backward(&c[i], &pass0);
    }
    for (int i = 0; i < 2; i++) {
        assert_memory_equal(c[0].y[i].data, c[1].y[i].data, M * N * 2);
        assert_memory_equal(c[0].dw[i], c[1].dw[i], N * K * 4);
    }
    assert_memory_equal(c[0].dx.data, c[1].dx.data, M * K * 2);
    ni_linear_group_free(c[0].group);
    ni_linear_group_free(c[1].group);
    nb_backend_free(be);
}

/* Blocks of 16 channels whose residuals NVFP4 holds exactly: 5.25 makes the tensor's decode scale 2^-9 and a block's
 * 0.875, the others are +-(0.875 + r/32) with r in {1, 2, 3, 4, 6}, and 6 in every row. The 5.25 of X meets a zero of W
 * and the other way round. Channels of the other blocks are zero. */
static void fill_exactly(linear_case *c, int blocks) {
    static const int steps[] = {1, 2, 3, 4, 6};
    memset(c->x.data, 0, M * K * 2);
    memset(c->w[0], 0, N * K * 4);
    for (int side = 0; side < 2; side++)
        for (int row = 0; row < (side ? N : M); row++)
            for (int k = 0; k < 16 * blocks; k++) {
                uint32_t bits = ni_philox(77, (uint32_t)side, (uint32_t)row, (uint32_t)k, 0, 0).w[0];
                int step = k % 16 == 2 ? 6 : steps[bits % 5];
                double v = (bits >> 8 & 1 ? -1 : 1) * (0.875 + step / 32.0);
                v = k % 16 == side ? 5.25 : k % 16 == 1 - side ? 0 : v;
                if (side)
                    c->w[0][row * K + k] = (float)v;
                else
                    ((uint16_t *)c->x.data)[row * K + k] = ni_bf16_even((float)v);
            }
}

/* With residuals that are exact nothing of first order is left on the patched channels: Y = X W^T - dX dW^T, whether
 * only the 16 patched channels are not zero or every channel is patched; adding that last product by hand is X W^T. */
static void only_the_second_order_is_left(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int i = 0; i < 4; i++) {
        bool all = i / 2;
        nb_hcp how = patch_of(all ? 1 : 0.25);
        how.copy = i % 2 ? NB_HCP_EXACT : NB_HCP_REQUANTIZE;
        nb_plan plan = plan_hcp(&how);
        linear_case c = make_group(be, &plan, 1, NULL);
        fill_exactly(&c, all ? K / 16 : 1);
        choose(&c);
        run_forward(&c, &pass0);
        numbers n = numbers_of(&c);
        double *got = get(NB_BF16, c.y[0].data, M * N), *whole = product(n.x, M, n.w, N, K);
        double *left = product(n.dx, M, n.dw, N, K), *want = minus(whole, left, M * N), *bound = zeros(M * N);
        for (int e = 0; e < M * N; e++)
            bound[e] = fabs(want[e]) / 256 + 1e-6 * largest(want, M * N);
        check_within("Y", got, want, bound, M * N);
        double off = 0, seen = 0;
        for (int e = 0; e < M * N; e++) {
            off += fabs(got[e] - whole[e]);
            seen += fabs(left[e]);
        }
        assert_true(seen > 0.02 * M * N && fabs(off / seen - 1) < 0.2); /* what is left is there */
        ni_linear_group_free(c.group);
    }
    nb_backend_free(be);
}

/* ---- how much it helps ---- */

enum { TOY_M = 256, TOY_N = 256, TOY_K = 1024, TOY_HOT = 24 };

/* ||Y - XW|| / ||XW|| of a layer with 24 hot channels, `by` times as loud as the others. */
static double toy_error(nb_backend *be, const nb_hcp *how, double by) {
    const buffer *before = test_buffers;
    nb_plan plan = plan_nvfp4();
    nb_error err = {0};
    if (how)
        plan = plan_hcp(how);
    double *x = normals(1, TOY_M * TOY_K, 0, 1), *w = normals(2, TOY_N * TOY_K, 0, 0.02), error = 0, norm = 0;
    for (int i = 0; i < TOY_HOT; i++)
        for (int r = 0; r < TOY_M; r++)
            x[r * TOY_K + i * 41 + 7] *= by;
    nb_mat xm = nb_mat_of(put(NB_BF16, x, TOY_M * TOY_K), NB_BF16, TOY_M, TOY_K);
    nb_mat y = nb_mat_of(put(NB_BF16, NULL, TOY_M * TOY_N), NB_BF16, TOY_M, TOY_N);
    float *wm = put(NB_F32, w, TOY_N * TOY_K);
    const ni_linear_spec layer = {.name = "up",
                                  .out = TOY_N,
                                  .plan = &plan,
                                  .master = wm,
                                  .grad = put(NB_F32, zeros(TOY_N * TOY_K), TOY_N * TOY_K)};
    const ni_group_spec spec = {
        .input = "in", .in = TOY_K, .max_rows = TOY_M, .training = true, .layers = &layer, .count = 1};
    ni_linear_group *group;
    if (ni_linear_group_create(be, &spec, &group, &err) != NB_OK)
        fail_msg("%s", err.message);
    ni_scratch scratch = {.size = group->scratch_bytes, .memory = poisoned(group->scratch_bytes)};
    for (int step = 0; step < 2; step++)
        if (ni_linear_group_forward(group, &pass0, &scratch, true, &xm, &y, &err) != NB_OK ||
            ni_linear_group_after_step(group, &pass0, &scratch, &err) != NB_OK)
            fail_msg("%s", err.message);
    double *got = get(NB_BF16, y.data, TOY_M * TOY_N);
    double *want = product(get(NB_BF16, xm.data, TOY_M * TOY_K), TOY_M, get(NB_F32, wm, TOY_N * TOY_K), TOY_N, TOY_K);
    for (int i = 0; i < TOY_M * TOY_N; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
    }
    ni_linear_group_free(group);
    release_buffers_until(before);
    return sqrt(error / norm);
}

/* The error falls with k; residuals of W make most of it (hot activations times weight errors); the printed stacks
 * cancel neither first-order term. The program of the derivation found a ratio of .105/.170 for 16 channels; where the
 * hot channels lay in it is not recorded, and the ratio depends on that a little. */
static void hot_channel_toy(void **state) {
    (void)state;
    nb_backend *be = cpu();
    double base = toy_error(be, NULL, 60), last = base, at[4];
    const int channels[4] = {16, 32, 64, 128};
    for (int i = 0; i < 4; i++) {
        nb_hcp how = patch_of(channels[i] / 1024.0);
        at[i] = toy_error(be, &how, 60);
        assert_true(at[i] < last);
        last = at[i];
    }
    nb_hcp how = patch_of(0.125);
    how.order = 1;
    how.side = NB_HCP_ACTIVATION;
    double activation = toy_error(be, &how, 60);
    how.side = NB_HCP_WEIGHT;
    double weight = toy_error(be, &how, 60);
    how = patch_of(0.125);
    how.form = NB_HCP_PRINTED;
    double printed = toy_error(be, &how, 60);
    print_message("base %.4f k=16 %.4f 32 %.4f 64 %.4f 128 %.4f; activation %.4f weight %.4f printed %.4f\n", base,
                  at[0], at[1], at[2], at[3], activation, weight, printed);
    assert_true(fabs(at[0] / base - 0.105 / 0.170) < 0.06);
    assert_true(at[3] < weight && weight < activation && activation < base);
    assert_true(fabs(printed - base) < 0.02 * base);
    nb_backend_free(be);
}

/* ---- backward ---- */

/* Distance of the columns `channels` of [rows, K] from what they should be. */
static double distance_on(const double *got, const double *want, int64_t rows, const int32_t *channels, int k) {
    double sum = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int i = 0; i < k; i++) {
            double d = got[r * K + channels[i]] - want[r * K + channels[i]];
            sum += d * d;
        }
    return sqrt(sum);
}

/* With dY left in BF16 in both GEMMs, what is wrong with dX and dW is W's and X's error: on I the patch takes most of
 * it away, elsewhere it changes nothing. wgrad.x is rotated (fixed or fresh signs) or not. */
static void gradients_exact_on_channels(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int rotation = 0; rotation < 3; rotation++) {
        double dx_error[2], dw_error[2], *dx[2], *dw[2];
        int32_t channels[16];
        for (int i = 0; i < 2; i++) {
            nb_hcp how = patch_of(0.25);
            how.dgrad = how.wgrad = i == 1;
            nb_plan plan = plan_hcp(&how);
            plan.roles[NB_DGRAD_DY].quantizer = nb_quantizer_bf16();
            plan.roles[NB_WGRAD_DY].quantizer = plan.roles[NB_WGRAD_X].quantizer = nvfp4(1, NB_ROUND_EVEN);
            if (rotation)
                plan.roles[NB_WGRAD_DY].quantizer = plan.roles[NB_WGRAD_X].quantizer =
                    rotated(nvfp4(1, NB_ROUND_EVEN), rotation == 1 ? NB_SIGNS_FIXED : NB_SIGNS_FRESH);
            linear_case c = make_group(be, &plan, 1, NULL);
            make_loud(&c, 20);
            for (int e = 0; e < M * N; e++) /* two levels a row: exact in E2M1 if not rotated */
                ((uint16_t *)c.dy[0].data)[e] = ni_bf16_even(e % 7 < 3 ? 0.25F : -0.25F);
            choose(&c);
            run_forward(&c, &pass0);
            run_backward(&c, &pass0);
            channels_of(&c, channels);
            double *x = get(NB_BF16, c.x.data, M * K), *w = get(NB_F32, c.w[0], N * K),
                   *dy = get(NB_BF16, c.dy[0].data, M * N);
            dx[i] = get(NB_BF16, c.dx.data, M * K);
            dw[i] = get(NB_F32, c.dw[0], N * K);
            dx_error[i] = distance_on(dx[i], product(dy, M, transposed(w, N, K), K, N), M, channels, 16);
            dw_error[i] =
                distance_on(dw[i], product(transposed(dy, M, N), N, transposed(x, M, K), K, M), N, channels, 16);
            ni_linear_group_free(c.group);
        }
        assert_true(dx_error[1] < 0.25 * dx_error[0]);
        assert_true(dw_error[1] < (rotation ? 0.9 : 0.25) * dw_error[0]); /* rotated, dY has an error of its own */
        for (int e = 0; e < N * K; e++) {
            bool hot = false;
            for (int i = 0; i < 16; i++)
                hot |= channels[i] == e % K;
            assert_true(hot || dw[0][e] == dw[1][e]);
        }
    }
    nb_backend_free(be);
}

typedef struct stand_in {
    int count;
    double error[K]; /* sum of squares of X less what stands for it, by channel */
} stand_in;

static void see_stand_in(void *context, nb_backend *be, const char *module, const char *mechanism, const nb_mat *exact,
                         const nb_mat *approximate) {
    stand_in *s = context;
    (void)be, (void)module;
    assert_string_equal(mechanism, "hcp");
    for (int64_t i = 0; i < M * K; i++) {
        double d = element(exact->data, exact->dtype, i) - element(approximate->data, approximate->dtype, i);
        s->error[i % K] += d * d;
    }
    s->count++;
}

static void not_quantities(void *context, const nb_lens_operand *seen) {
    (void)context, (void)seen;
}

/* The lens sees what is multiplied in the place of X: on patched channels the residual's residual is left, elsewhere
 * the error of the base. */
static void the_lens_sees_the_patched_x(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int exact = 0; exact < 2; exact++) {
        nb_hcp how = patch_of(0.25);
        how.copy = exact ? NB_HCP_EXACT : NB_HCP_REQUANTIZE;
        linear_case c = chosen_case(be, &how);
        numbers n = numbers_of(&c);
        int32_t channels[K];
        bool hot[K] = {false};
        stand_in s = {0};
        nb_lens lens = {.context = &s, .operand = not_quantities, .approximation = see_stand_in};
        nb_pass pass = pass0;
        pass.step = 1;
        pass.lens = &lens;
        run_forward(&c, &pass);
        assert_int_equal(s.count, 1);
        channels_of(&c, channels);
        for (int i = 0; i < 16; i++)
            hot[channels[i]] = true;
        for (int k = 0; k < K; k++) {
            double base = 0;
            for (int r = 0; r < M; r++)
                base += n.dx[r * K + k] * n.dx[r * K + k];
            if (hot[k])
                assert_true(s.error[k] < 0.1 * base);
            else
                assert_true(fabs(s.error[k] - base) < 1e-5 * base);
        }
        ni_linear_group_free(c.group);
    }
    nb_backend_free(be);
}

static void refused(nb_backend *be, const nb_plan *plan, nb_status status, const char *words) {
    linear_case c;
    nb_error err = {0};
    assert_int_equal(try_group(be, &c, plan, 1, NULL, &err), status);
    if (!strstr(err.message, words))
        fail_msg("%s (expected: %s)", err.message, words);
}

static void refusals(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_hcp how = patch_of(0.25);
    how.order = 1;
    nb_plan plan = plan_hcp(&how);
    refused(be, &plan, NB_BAD_CONFIG, "order 1 is one of activation and weight");
    how.order = 2;
    how.side = NB_HCP_WEIGHT;
    plan = plan_hcp(&how);
    refused(be, &plan, NB_BAD_CONFIG, "order 2 needs both sides");
    how.form = NB_HCP_PRINTED;
    plan = plan_hcp(&how);
    refused(be, &plan, NB_BAD_CONFIG, "printed");
    how = patch_of(0.25);
    plan = plan_hcp(&how);
    plan.roles[NB_FPROP_X].quantizer = plan.roles[NB_FPROP_W].quantizer =
        rotated(nvfp4(1, NB_ROUND_EVEN), NB_SIGNS_FIXED);
    plan.roles[NB_DGRAD_W] = plan.roles[NB_FPROP_W];
    plan.roles[NB_DGRAD_W].quantizer = nvfp4(1, NB_ROUND_EVEN);
    refused(be, &plan, NB_UNSUPPORTED, "nvfp4 only");
    how.dgrad = true;
    plan = plan_hcp(&how);
    plan.roles[NB_DGRAD_W] = (nb_operand_rule){.quantizer = nvfp4(1, NB_ROUND_EVEN)};
    refused(be, &plan, NB_UNSUPPORTED, "hcp.dgrad");
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(formula, release_buffers),
        cmocka_unit_test_teardown(single_is_dual, release_buffers),
        cmocka_unit_test_teardown(wgrad_x_comes_early, release_buffers),
        cmocka_unit_test_teardown(nothing_to_patch, release_buffers),
        cmocka_unit_test_teardown(only_the_second_order_is_left, release_buffers),
        cmocka_unit_test_teardown(hot_channel_toy, release_buffers),
        cmocka_unit_test_teardown(gradients_exact_on_channels, release_buffers),
        cmocka_unit_test_teardown(the_lens_sees_the_patched_x, release_buffers),
        cmocka_unit_test_teardown(refusals, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
