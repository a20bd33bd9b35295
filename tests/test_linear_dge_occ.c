/* test_linear_dge_occ.c: the mechanisms of arXiv:2501.17116 inside the linear layer, against products made by hand. */
#include "linear_case.h"

#include "backend/ref/dge_occ.h"
#include "nibble/lens.h"

static const nb_pass pass0 = {.step = 1, .steps = 10, .rounding_seed = 5};

static nb_plan plan_occ(double alpha, nb_occ_rest rest) {
    nb_plan p = plan_rows(NB_VIA_BF16, nb_quantizer_bf16());
    p.mechanisms.has_occ = true;
    p.mechanisms.occ = (nb_occ){alpha, NB_OCC_TOKEN, rest};
    return p;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* X clamped to its quantiles, token by token or as a whole, by sorting; the rest goes to `rest`. */
static double *clamped_over(nb_occ_scope scope, const double *x, double alpha, double *rest) {
    const int n = scope == NB_OCC_TOKEN ? K : M * K;
    double *out = zeros(M * K), *sorted = zeros(n);
    for (int first = 0; first < M * K; first += n) {
        memcpy(sorted, x + first, (size_t)n * sizeof *sorted);
        qsort(sorted, (size_t)n, sizeof *sorted, ascending);
        double lo = sorted[(int)((1 - alpha) * n)], hi = sorted[(int)(alpha * n) < n ? (int)(alpha * n) : n - 1];
        for (int i = first; i < first + n; i++) {
            out[i] = fmin(fmax(x[i], lo), hi);
            rest[i] = x[i] - out[i];
        }
    }
    return out;
}

static double *clamped(const double *x, double alpha, double *rest) {
    return clamped_over(NB_OCC_TOKEN, x, alpha, rest);
}

/* Decoded row-quantized numbers. */
static double *rows_of(nb_backend *be, const double *x, int64_t rows, int64_t cols) {
    nb_quantizer q = row_fp4();
    nb_mat m = nb_mat_of(put(NB_F32, x, rows * cols), NB_F32, rows, cols);
    nb_qtensor t = by_hand(be, &q, &m, false, &pass0, "x", NB_FPROP_X, "x");
    return decoded(be, &t);
}

/* Y = (Q(X_c) + S) Wq^T, dW = dY^T (Q(X_c) + S), dX = dY Wq. */
static void compensate(nb_backend *be, nb_occ_scope scope, nb_occ_rest how) {
    const double alpha = 0.95;
    nb_plan plan = plan_occ(alpha, how);
    plan.mechanisms.occ.scope = scope;
    linear_case c = make_group(be, &plan, 1, NULL);
    double *x = get(NB_BF16, c.x.data, M * K), *w = get(NB_F32, c.w[0], N * K), *dy = get(NB_BF16, c.dy[0].data, M * N);
    double *rest = zeros(M * K), *xc = clamped_over(scope, x, alpha, rest);
    double *full = rows_of(be, xc, M, K), *wq = rows_of(be, w, N, K);
    int outliers = 0;
    for (int i = 0; i < M * K; i++) {
        outliers += rest[i] != 0;
        full[i] += rest[i];
    }
    assert_in_range(outliers, 5 * M, 8 * M); /* of a token ranks 3 and 60 of 64: three below, three above */
    run_forward(&c, &pass0);
    run_backward(&c, &pass0);
    check_close("Y", get(NB_BF16, c.y[0].data, M * N), product(full, M, wq, N, K), 0.005, M * N);
    check_close("dW", get(NB_F32, c.dw[0], N * K), product(transposed(dy, M, N), N, transposed(full, M, K), K, M),
                0.005, N * K);
    check_close("dX", get(NB_BF16, c.dx.data, M * K), product(dy, M, transposed(wq, N, K), K, N), 0.01, M * K);
    ni_linear_group_free(c.group);
}

static void compensation_by_hand(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int exact = 0; exact < 2; exact++) {
        compensate(be, NB_OCC_TOKEN, exact ? NB_OCC_EXACT : NB_OCC_SPARSE);
        compensate(be, NB_OCC_TENSOR, exact ? NB_OCC_EXACT : NB_OCC_SPARSE);
    }
    nb_backend_free(be);
}

/* Folding the scales of X into dY is for codes. What compensation gives wgrad are numbers, scales and all: folded once
 * more they would count twice. Without a residual the codes are what wgrad reads, and folding is right. */
static void compensation_is_not_folded(void **state) {
    (void)state;
    nb_backend *be = cpu();
    linear_case c;
    nb_error err = {0};
    for (int rest = NB_OCC_SPARSE; rest <= NB_OCC_DENSE; rest++) {
        nb_plan plan = plan_occ(0.95, (nb_occ_rest)rest);
        plan.roles[NB_WGRAD_X].via = NB_VIA_FOLD;
        assert_int_equal(try_group(be, &c, &plan, 1, NULL, &err), NB_BAD_CONFIG);
        assert_non_null(strstr(err.message, "via: bf16"));
    }
    nb_plan plan = plan_occ(0.95, NB_OCC_NONE);
    plan.roles[NB_WGRAD_X].via = plan.roles[NB_DGRAD_W].via = NB_VIA_FOLD;
    c = make_group(be, &plan, 1, NULL);
    double *x = get(NB_BF16, c.x.data, M * K), *w = get(NB_F32, c.w[0], N * K), *dy = get(NB_BF16, c.dy[0].data, M * N);
    double *xq = rows_of(be, clamped(x, 0.95, zeros(M * K)), M, K), *wq = rows_of(be, w, N, K);
    run_forward(&c, &pass0);
    run_backward(&c, &pass0);
    check_close("dW", get(NB_F32, c.dw[0], N * K), product(transposed(dy, M, N), N, transposed(xq, M, K), K, M), 0.005,
                N * K);
    check_close("dX", get(NB_BF16, c.dx.data, M * K), product(dy, M, transposed(wq, N, K), K, N), 0.01, M * K);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* With alpha = 1 nothing is cut off: the layer is the plain one, bit for bit. */
static void nothing_to_clamp(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plans[2] = {plan_occ(1, NB_OCC_SPARSE), plan_rows(NB_VIA_BF16, nb_quantizer_bf16())};
    linear_case c[2];
    for (int i = 0; i < 2; i++) {
        c[i] = make_group(be, &plans[i], 1, NULL);
        run_forward(&c[i], &pass0);
        run_backward(&c[i], &pass0);
    }
    expect_same_results(c);
    nb_backend_free(be);
}

static double error_of(nb_backend *be, const nb_plan *plan) {
    linear_case c = make_group(be, plan, 1, NULL);
    uint16_t *x = c.x.data;
    for (int r = 0; r < M; r++)
        for (int k = 7; k < K; k += 50)
            x[r * K + k] = ni_bf16_even(20 * ni_bf16_value(x[r * K + k])); /* two loud channels */
    run_forward(&c, &pass0);
    double *y = get(NB_BF16, c.y[0].data, M * N), error = 0;
    double *want = product(get(NB_BF16, x, M * K), M, get(NB_F32, c.w[0], N * K), N, K);
    for (int i = 0; i < M * N; i++)
        error += (y[i] - want[i]) * (y[i] - want[i]);
    ni_linear_group_free(c.group);
    return error;
}

/* Of the three fates of the residual, compensation in either form beats no clamping, and losing it is worst. */
static void fates_of_the_rest(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plain = plan_rows(NB_VIA_BF16, nb_quantizer_bf16());
    nb_plan sparse = plan_occ(0.95, NB_OCC_SPARSE), dense = plan_occ(0.95, NB_OCC_DENSE),
            none = plan_occ(0.95, NB_OCC_NONE);
    double base = error_of(be, &plain);
    assert_true(error_of(be, &sparse) < 0.7 * base && error_of(be, &dense) < 0.7 * base);
    assert_true(error_of(be, &none) > base);
    nb_backend_free(be);
}

/* ---- table 1 of the paper, as the lens sees it ---- */

typedef struct seen {
    int approximations, densities, clamps, inputs;
    double squares, error, density;
    const uint16_t *x;  /* what the layer was given */
    const double *kept; /* and what clamping by hand leaves of it */
} seen;

/* The input is shown as it came: its outliers are what one looks for. */
static void see_operand(void *context, const nb_lens_operand *operand) {
    seen *s = context;
    if (operand->role != NB_FPROP_X)
        return;
    assert_memory_equal(operand->source->data, s->x, M * K * sizeof *s->x);
    s->inputs++;
}

static void see_approximation(void *context, nb_backend *be, const char *module, const char *mechanism,
                              const nb_mat *exact, const nb_mat *approximate) {
    seen *s = context;
    (void)be;
    assert_non_null(strstr(module, "self_attn"));
    if (strcmp(mechanism, "occ_clamped") == 0) { /* beside it, what is quantized */
        double *c = get(NB_BF16, approximate->data, M * K);
        for (int i = 0; i < M * K; i++)
            assert_true(c[i] == s->kept[i]);
        s->clamps++;
        return;
    }
    assert_string_equal(mechanism, "occ");
    s->approximations++;
    double *x = get(NB_BF16, exact->data, M * K), *y = get(NB_BF16, approximate->data, M * K);
    for (int i = 0; i < M * K; i++) {
        s->squares += x[i] * x[i];
        s->error += (x[i] - y[i]) * (x[i] - y[i]);
    }
}

static void see_scalar(void *context, const char *module, const char *name, double value) {
    seen *s = context;
    assert_non_null(strstr(module, "/occ"));
    assert_string_equal(name, "density");
    s->densities++;
    s->density = value;
}

/* Every fate of the rest reports what it makes of X; losing it costs most. The density is the share that was cut off.
 */
static void the_lens_sees_table_one(void **state) {
    (void)state;
    nb_backend *be = cpu();
    double error[3];
    for (int rest = NB_OCC_SPARSE; rest <= NB_OCC_NONE; rest++) {
        nb_plan plan = plan_occ(0.95, (nb_occ_rest)rest);
        linear_case c = make_group(be, &plan, 1, NULL);
        seen s = {.x = c.x.data};
        nb_lens lens = {.context = &s,
                        .counts = true,
                        .operand = see_operand,
                        .approximation = see_approximation,
                        .scalar = see_scalar};
        nb_pass pass = pass0;
        pass.lens = &lens;
        double *cut = zeros(M * K);
        int outliers = 0;
        s.kept = clamped(get(NB_BF16, c.x.data, M * K), 0.95, cut);
        for (int i = 0; i < M * K; i++)
            outliers += cut[i] != 0;
        run_forward(&c, &pass);
        run_backward(&c, &pass);
        assert_int_equal(s.approximations, 1);
        assert_int_equal(s.clamps, 1);
        assert_int_equal(s.inputs, 1);
        assert_int_equal(s.densities, rest != NB_OCC_NONE);
        if (rest != NB_OCC_NONE)
            assert_true(s.density == (double)outliers / (M * K));
        error[rest] = s.error / s.squares;
        ni_linear_group_free(c.group);
    }
    assert_true(error[NB_OCC_SPARSE] > 0 && error[NB_OCC_SPARSE] < error[NB_OCC_NONE]);
    assert_true(error[NB_OCC_DENSE] < error[NB_OCC_NONE]);
    nb_backend_free(be);
}

/* dW with DGE is dW without, times f' at W over its row's decode scale; alone it changes nothing else. */
static void dge_scales_dw(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plans[2] = {plan_rows(NB_VIA_BF16, nb_quantizer_bf16()), plan_rows(NB_VIA_BF16, nb_quantizer_bf16())};
    plans[1].mechanisms.has_dge = true;
    plans[1].mechanisms.dge = (nb_dge){5, 3};
    linear_case c[2];
    for (int i = 0; i < 2; i++) {
        c[i] = make_group(be, &plans[i], 1, NULL);
        for (int micro = 0; micro < 2; micro++) { /* gradients of two micro-batches add up */
            nb_pass pass = pass0;
            pass.micro_batch = (uint32_t)micro;
            run_forward(&c[i], &pass);
            run_backward(&c[i], &pass);
        }
    }
    assert_memory_equal(c[0].y[0].data, c[1].y[0].data, M * N * 2);
    assert_memory_equal(c[0].dx.data, c[1].dx.data, M * K * 2);
    nb_quantizer q = row_fp4();
    nb_mat master = nb_mat_of(c[0].w[0], NB_F32, N, K);
    nb_qtensor t = by_hand(be, &q, &master, false, &pass0, "w", NB_FPROP_W, "w");
    for (int i = 0; i < N * K; i++) {
        float slope = ni_dge_derivative(c[0].w[0][i] / t.outer_scales[i / K], 5, 3);
        assert_true(fabsf(c[1].dw[0][i] - slope * c[0].dw[0][i]) <= 1e-5f * fabsf(c[1].dw[0][i]) + 1e-12f);
    }
    ni_linear_group_free(c[0].group);
    ni_linear_group_free(c[1].group);
    nb_backend_free(be);
}

/* k = 1 is straight through: dW to the bit as without an estimator. */
static void dge_of_power_one_changes_nothing(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plans[2] = {plan_rows(NB_VIA_BF16, nb_quantizer_bf16()), plan_rows(NB_VIA_BF16, nb_quantizer_bf16())};
    plans[1].mechanisms.has_dge = true;
    plans[1].mechanisms.dge = (nb_dge){1, 3};
    linear_case c[2];
    for (int i = 0; i < 2; i++) {
        c[i] = make_group(be, &plans[i], 1, NULL);
        run_forward(&c[i], &pass0);
        run_backward(&c[i], &pass0);
    }
    assert_memory_equal(c[0].dw[0], c[1].dw[0], N * K * 4);
    ni_linear_group_free(c[0].group);
    ni_linear_group_free(c[1].group);
    nb_backend_free(be);
}

static void dge_refuses_what_it_cannot_stand_for(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_rows(NB_VIA_BF16, nb_quantizer_bf16());
    plan.mechanisms.has_dge = true;
    plan.mechanisms.dge = (nb_dge){5, 3};
    plan.roles[NB_FPROP_W].quantizer.element = plan.roles[NB_DGRAD_W].quantizer.element = NB_ELEMENT_INT4;
    linear_case c;
    nb_error err = {0};
    assert_int_equal(try_group(be, &c, &plan, 1, NULL, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "q_proj"));
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compensation_by_hand),
        cmocka_unit_test(compensation_is_not_folded),
        cmocka_unit_test(nothing_to_clamp),
        cmocka_unit_test(fates_of_the_rest),
        cmocka_unit_test(the_lens_sees_table_one),
        cmocka_unit_test(dge_scales_dw),
        cmocka_unit_test(dge_of_power_one_changes_nothing),
        cmocka_unit_test(dge_refuses_what_it_cannot_stand_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
