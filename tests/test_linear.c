/* test_linear.c: the three GEMMs of the linear layer against hand-made operands, under the plans of the papers. */
#include "backend/table.h"
#include "codes.h"
#include "linear_case.h"

static const char X_NAME[] = "layers.0.self_attn.input";

static const nb_pass pass0 = {.step = 3, .steps = 100, .micro_batch = 1, .rounding_seed = 77};

/* The product of two hand-made operands by the backend's own kernel: the layer must give the same bits. */
static void *exact_product(nb_backend *be, const nb_qtensor *a, const nb_qtensor *b, nb_dtype type) {
    nb_mat c = nb_mat_of(poisoned((size_t)(a->rows * b->rows) * nb_dtype_size(type)), type, a->rows, b->rows);
    assert_int_equal(multiply_codes(be, &c, a, b, false, false, NULL), NB_OK);
    return c.data;
}

/* ---- NVFP4 ---- */

static void nvfp4_products(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_nvfp4();
    linear_case c = make_group(be, &plan, 1, NULL);
    ni_linear *layer = &c.group->layers[0];
    const nb_operand_rule *roles = plan.roles;
    run_forward(&c, &pass0);
    run_backward(&c, &pass0);
    nb_mat w = nb_mat_of(c.w[0], NB_F32, N, K);
    nb_qtensor fx = by_hand(be, &roles[0].quantizer, &c.x, false, &pass0, X_NAME, NB_FPROP_X, X_NAME);
    nb_qtensor fw = by_hand(be, &roles[1].quantizer, &w, false, &pass0, layer->name, NB_FPROP_W, X_NAME);
    nb_qtensor ddy = by_hand(be, &roles[2].quantizer, c.dy, false, &pass0, layer->name, NB_DGRAD_DY, layer->name);
    nb_qtensor dw = by_hand(be, &roles[1].quantizer, &w, true, &pass0, layer->name, NB_DGRAD_W, layer->name);
    nb_qtensor wdy = by_hand(be, &roles[4].quantizer, c.dy, true, &pass0, layer->name, NB_WGRAD_DY, X_NAME);
    nb_qtensor wx = by_hand(be, &roles[5].quantizer, &c.x, true, &pass0, X_NAME, NB_WGRAD_X, X_NAME);
    check_equal_bytes("Y", c.y[0].data, exact_product(be, &fx, &fw, NB_BF16), M * N * 2);
    check_equal_bytes("dX", c.dx.data, exact_product(be, &ddy, &dw, NB_BF16), M * K * 2);
    check_equal_bytes("dW", c.dw[0], exact_product(be, &wdy, &wx, NB_F32), N * K * 4);
    /* and the same products in double, from decoded values */
    double *y = product(decoded(be, &fx), M, decoded(be, &fw), N, K);
    double *dx = product(decoded(be, &ddy), M, decoded(be, &dw), K, N);
    double *dw64 = product(decoded(be, &wdy), N, decoded(be, &wx), K, M);
    check_close("Y", get(NB_BF16, c.y[0].data, M * N), y, 0x1p-8, M * N);
    check_close("dX", get(NB_BF16, c.dx.data, M * K), dx, 0x1p-8, M * K);
    check_close("dW", get(NB_F32, c.dw[0], N * K), dw64, 1e-6, N * K);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* Both operands of wgrad are rotated alike, so the product is close to that of the numbers themselves. */
static void nvfp4_is_near_bf16(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plans[] = {plan_nvfp4(), plan_bf16()};
    linear_case c[2];
    for (int i = 0; i < 2; i++) {
        c[i] = make_group(be, &plans[i], 1, NULL);
        run_forward(&c[i], &pass0);
        run_backward(&c[i], &pass0);
    }
    const struct {
        const char *what;
        const void *a, *b;
        nb_dtype type;
        int64_t n;
    } pairs[] = {{"Y", c[0].y[0].data, c[1].y[0].data, NB_BF16, M * N},
                 {"dX", c[0].dx.data, c[1].dx.data, NB_BF16, M * K},
                 {"dW", c[0].dw[0], c[1].dw[0], NB_F32, N * K}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        double *a = get(pairs[i].type, pairs[i].a, pairs[i].n), *b = get(pairs[i].type, pairs[i].b, pairs[i].n);
        double cosine = inner(a, b, pairs[i].n) / sqrt(inner(a, a, pairs[i].n) * inner(b, b, pairs[i].n));
        if (!(cosine > 0.97 && cosine < 0.9999)) /* closer than that would not be four bits */
            fail_msg("%s: cosine to BF16 is %g", pairs[i].what, cosine);
    }
    ni_linear_group_free(c[0].group);
    ni_linear_group_free(c[1].group);
    nb_backend_free(be);
}

/* ---- groups ---- */

typedef struct seen_roles {
    int roles[NB_ROLE_COUNT], plain[NB_ROLE_COUNT]; /* quantized, and in BF16 */
    int64_t elements;
} seen_roles;

static void count_roles(void *context, const nb_lens_operand *seen) {
    seen_roles *s = context;
    (seen->quantized ? s->roles : s->plain)[seen->role]++;
    s->elements += seen->stats ? seen->stats->elements : 0;
    assert_true((seen->source == NULL) != (seen->requantized_from == NULL));
}

/* X is quantized once for three layers, W once until it changes, dY once a layer and GEMM. */
static void operands_are_made_once(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plans[] = {plan_nvfp4(), plan_nvfp4(), plan_nvfp4()};
    linear_case c = make_group(be, plans, 3, NULL);
    seen_roles seen = {0};
    nb_lens lens = {.context = &seen, .counts = true, .operand = count_roles};
    nb_pass pass = pass0;
    pass.lens = &lens;
    run_forward(&c, &pass);
    run_backward(&c, &pass);
    const int want[NB_ROLE_COUNT] = {1, 3, 3, 0, 3, 1};
    assert_memory_equal(seen.roles, want, sizeof want);
    assert_int_equal(seen.elements, 2 * M * K + 3 * N * K + 6 * M * N);
    run_forward(&c, &pass);
    assert_int_equal(seen.roles[NB_FPROP_X], 2);
    assert_int_equal(seen.roles[NB_FPROP_W], 3);
    ni_linear_group_changed(c.group);
    run_forward(&c, &pass);
    assert_int_equal(seen.roles[NB_FPROP_W], 6);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* BF16 GEMMs show their operands too; a weight that was quantized before is shown in the first micro-batch of a step;
 * nothing is counted unless asked for. */
static void the_lens_sees_everything(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plans[] = {plan_bf16(), plan_bf16(), plan_nvfp4()};
    linear_case plain = make_group(be, plans, 2, NULL), mixed = make_group(be, plans, 3, NULL);
    seen_roles seen = {0};
    nb_lens lens = {.context = &seen, .operand = count_roles};
    nb_pass pass = pass0;
    pass.micro_batch = 0;
    pass.lens = &lens;
    run_forward(&plain, &pass);
    run_backward(&plain, &pass);
    const int want_plain[NB_ROLE_COUNT] = {1, 2, 2, 0, 0, 0}, none[NB_ROLE_COUNT] = {0};
    assert_memory_equal(seen.plain, want_plain, sizeof want_plain);
    assert_memory_equal(seen.roles, none, sizeof none);
    for (int again = 0; again < 2; again++) {
        seen = (seen_roles){0};
        run_forward(&mixed, &pass);
        run_backward(&mixed, &pass);
        const int mixed_plain[NB_ROLE_COUNT] = {0, 2, 2, 0, 0, 0}, mixed_codes[NB_ROLE_COUNT] = {1, 1, 1, 0, 1, 1};
        assert_memory_equal(seen.plain, mixed_plain, sizeof mixed_plain);
        assert_memory_equal(seen.roles, mixed_codes, sizeof mixed_codes);
    }
    assert_int_equal(seen.elements, 0);
    ni_linear_group_free(plain.group);
    ni_linear_group_free(mixed.group);
    nb_backend_free(be);
}

/* A changed master shows in the next product. */
static void weights_follow_the_master(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plans[] = {plan_nvfp4(), plan_bf16()};
    linear_case c = make_group(be, plans, 2, NULL);
    run_forward(&c, &pass0);
    for (int i = 0; i < 2; i++) {
        double before = largest(get(NB_BF16, c.y[i].data, M * N), M * N);
        for (int64_t j = 0; j < N * K; j++)
            c.w[i][j] *= 2;
        ni_linear_group_changed(c.group);
        run_forward(&c, &pass0);
        assert_true(largest(get(NB_BF16, c.y[i].data, M * N), M * N) == 2 * before);
    }
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* A mixed group: dX is the sum over its layers, rounded once; a BF16 layer among them does not see the quantizers. */
static void mixed_group(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plans[] = {plan_nvfp4(), plan_bf16(), plan_double()};
    linear_case all = make_group(be, plans, 3, NULL);
    run_forward(&all, &pass0);
    run_backward(&all, &pass0);
    double *sum = zeros(M * K);
    for (int i = 0; i < 3; i++) {
        linear_case one = make_group(be, &plans[i], 1, NULL); /* the i-th layer alone, under its own name */
        memcpy(one.w[0], all.w[i], N * K * sizeof(float));
        memcpy(one.dy[0].data, all.dy[i].data, M * N * 2);
        ni_linear *layer = &one.group->layers[0];
        for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++)
            if (layer->operands[role])
                layer->operands[role]->name = all.group->layers[i].names[role];
        one.dx = nb_mat_of(put(NB_F32, NULL, M * K), NB_F32, M, K); /* before it is rounded */
        run_forward(&one, &pass0);
        run_backward(&one, &pass0);
        double *part = get(NB_F32, one.dx.data, M * K);
        for (int64_t j = 0; j < M * K; j++)
            sum[j] += part[j];
        ni_linear_group_free(one.group);
    }
    double *got = get(NB_BF16, all.dx.data, M * K);
    int64_t differ = 0; /* FP32 sums close to a tie may round the other way; two roundings would differ everywhere */
    for (int64_t i = 0; i < M * K; i++)
        differ += got[i] != ni_bf16_value(ni_bf16_even((float)sum[i]));
    assert_true(differ < M * K / 500);
    double *y = product(get(NB_BF16, all.x.data, M * K), M, get(NB_F32, all.w[1], N * K), N, K);
    check_close("Y of the BF16 layer", get(NB_BF16, all.y[1].data, M * N), y, 0x1p-7, M * N);
    ni_linear_group_free(all.group);
    nb_backend_free(be);
}

/* Fewer tokens than the group was made for. */
static void shorter_batches(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_nvfp4();
    linear_case whole = make_group(be, &plan, 1, NULL), part = make_group(be, &plan, 1, NULL);
    run_forward(&whole, &pass0);
    for (int64_t i = 32 * K; i < M * K; i++) /* the amax must not come from the rows left out */
        ((uint16_t *)part.x.data)[i] = 0x7f7f;
    part.x.rows = part.y[0].rows = 32;
    run_forward(&part, &pass0);
    nb_qtensor fx = by_hand(be, &plan.roles[0].quantizer, &part.x, false, &pass0, X_NAME, NB_FPROP_X, X_NAME);
    nb_mat w = nb_mat_of(part.w[0], NB_F32, N, K);
    nb_qtensor fw = by_hand(be, &plan.roles[1].quantizer, &w, false, &pass0, "", NB_FPROP_W, X_NAME);
    check_equal_bytes("Y", part.y[0].data, exact_product(be, &fx, &fw, NB_BF16), 32 * N * 2);
    ni_linear_group_free(whole.group);
    ni_linear_group_free(part.group);
    nb_backend_free(be);
}

/* The first product of a micro-batch writes dW whatever is there, the next adds. */
static void gradients_begin(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_nvfp4();
    linear_case c = make_group(be, &plan, 1, NULL);
    memset(c.dw[0], 0xFF, N * K * sizeof(float)); /* NaN */
    run_forward(&c, &pass0);
    run_backward(&c, &pass0);
    double *once = get(NB_F32, c.dw[0], N * K);
    run_forward(&c, &pass0);
    run_backward(&c, &pass0);
    for (int i = 0; i < N * K; i++)
        assert_true(c.dw[0][i] == (float)(2 * once[i]));
    ni_linear_group_begin_gradients(c.group);
    run_forward(&c, &pass0);
    run_backward(&c, &pass0);
    check_close("dW", get(NB_F32, c.dw[0], N * K), once, 0x1p-30, N * K);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* ---- late switch ---- */

static void late_switch(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plans[] = {plan_nvfp4(), plan_bf16()};
    for (int direction = 0; direction < 2; direction++) {
        linear_case c[2];
        nb_pass pass = pass0;
        pass.forward_bf16 = direction == 0;
        pass.backward_bf16 = direction == 1;
        for (int i = 0; i < 2; i++) {
            c[i] = make_group(be, &plans[i], 1, NULL);
            run_forward(&c[i], &pass);
            run_backward(&c[i], &pass);
        }
        bool same_y = memcmp(c[0].y[0].data, c[1].y[0].data, M * N * 2) == 0;
        bool same_dx = memcmp(c[0].dx.data, c[1].dx.data, M * K * 2) == 0;
        bool same_dw = memcmp(c[0].dw[0], c[1].dw[0], N * K * 4) == 0;
        assert_int_equal(same_y, pass.forward_bf16);
        assert_int_equal(same_dx, pass.backward_bf16);
        assert_int_equal(same_dw, pass.backward_bf16);
        ni_linear_group_free(c[0].group);
        ni_linear_group_free(c[1].group);
    }
    nb_backend_free(be);
}

/* ---- codes that serve two GEMMs ---- */

/* With BF16 gradients the backward products are those of the decoded forward operands: exactly so with `fold` but for
 * the rounding of the folded dY, and with `bf16` but for that of the decoded operand. */
static void same_codes_of_rows(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_via vias[] = {NB_VIA_FOLD, NB_VIA_BF16};
    for (int i = 0; i < 2; i++) {
        nb_plan plan = plan_rows(vias[i], nb_quantizer_bf16());
        linear_case c = make_group(be, &plan, 1, NULL);
        run_forward(&c, &pass0);
        run_backward(&c, &pass0);
        nb_quantizer q = row_fp4();
        nb_mat w = nb_mat_of(c.w[0], NB_F32, N, K);
        nb_qtensor fx = by_hand(be, &q, &c.x, false, &pass0, "", NB_FPROP_X, "");
        nb_qtensor fw = by_hand(be, &q, &w, false, &pass0, "", NB_FPROP_W, "");
        double *x = decoded(be, &fx), *wd = decoded(be, &fw), *dy = get(NB_BF16, c.dy[0].data, M * N);
        double *wt = transposed(wd, N, K), *xt = transposed(x, M, K), *dyt = transposed(dy, M, N);
        check_close("Y", get(NB_BF16, c.y[0].data, M * N), product(x, M, wd, N, K), 0x1p-8, M * N);
        check_close("dX", get(NB_BF16, c.dx.data, M * K), product(dy, M, wt, K, N), 0x1p-6, M * K);
        check_close("dW", get(NB_F32, c.dw[0], N * K), product(dyt, N, xt, K, M), 0x1p-7, N * K);
        ni_linear_group_free(c.group);
    }
    nb_backend_free(be);
}

/* With quantized gradients the folded dY is quantized after folding, and the codes of W stand without their scales. */
static void fold_with(nb_backend *be, nb_quantizer gradient) {
    nb_plan plan = plan_rows(NB_VIA_FOLD, gradient);
    linear_case c = make_group(be, &plan, 1, NULL);
    run_forward(&c, &pass0);
    run_backward(&c, &pass0);
    nb_quantizer q = row_fp4();
    nb_mat w = nb_mat_of(c.w[0], NB_F32, N, K);
    nb_qtensor fw = by_hand(be, &q, &w, false, &pass0, "", NB_FPROP_W, "");
    nb_qtensor fx = by_hand(be, &q, &c.x, false, &pass0, "", NB_FPROP_X, "");
    double *dy = get(NB_BF16, c.dy[0].data, M * N), *folded_w = zeros(M * N), *folded_x = zeros(M * N);
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            folded_w[m * N + n] = (float)dy[m * N + n] * fw.outer_scales[n];
            folded_x[m * N + n] = (float)dy[m * N + n] * fx.outer_scales[m];
        }
    nb_mat fold_w = nb_mat_of(put(NB_F32, folded_w, M * N), NB_F32, M, N);
    nb_mat fold_x = nb_mat_of(put(NB_F32, folded_x, M * N), NB_F32, M, N);
    nb_qtensor ddy = by_hand(be, &gradient, &fold_w, false, &pass0, "", NB_DGRAD_DY, "");
    nb_qtensor wdy = by_hand(be, &gradient, &fold_x, true, &pass0, "", NB_WGRAD_DY, "");
    for (int64_t i = 0; i < N; i++)
        fw.outer_scales[i] = 1;
    for (int64_t i = 0; i < M; i++)
        fx.outer_scales[i] = 1;
    double *dx = product(decoded(be, &ddy), M, transposed(decoded(be, &fw), N, K), K, N);
    double *dw = product(decoded(be, &wdy), N, transposed(decoded(be, &fx), M, K), K, M);
    check_close("dX", get(NB_BF16, c.dx.data, M * K), dx, 0x1p-8, M * K);
    check_close("dW", get(NB_F32, c.dw[0], N * K), dw, 1e-6, N * K);
    ni_linear_group_free(c.group);
}

/* dY in FP4 rows, and in E5M2 under one scale a tensor as in arXiv:2501.17116's public codes. */
static void folded_codes(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_quantizer e5m2 = {.element = NB_ELEMENT_E5M2, .scale_type = NB_SCALE_F32};
    fold_with(be, row_fp4());
    fold_with(be, e5m2);
    nb_backend_free(be);
}

/* ---- expectation ---- */

/* arXiv:2510.27527, section on gradient estimation: over the random bits, dX and dW average to the products of dY with
 * the decoded forward operands. */
static void gradients_are_unbiased(void **state) {
    (void)state;
    enum { RUNS = 400 };
    nb_backend *be = cpu();
    nb_plan plan = plan_double();
    linear_case c = make_group(be, &plan, 1, NULL);
    nb_pass pass = pass0;
    double *dx_sum = zeros(M * K), *dx_sq = zeros(M * K), *dw_sum = zeros(N * K), *dw_sq = zeros(N * K);
    for (int run = 0; run < RUNS; run++) {
        pass.step = (uint32_t)run;
        memset(c.dw[0], 0, N * K * sizeof(float));
        run_forward(&c, &pass);
        run_backward(&c, &pass);
        double *dx = get(NB_BF16, c.dx.data, M * K), *dw = get(NB_F32, c.dw[0], N * K);
        for (int64_t i = 0; i < M * K; i++)
            dx_sum[i] += dx[i], dx_sq[i] += dx[i] * dx[i];
        for (int64_t i = 0; i < N * K; i++)
            dw_sum[i] += dw[i], dw_sq[i] += dw[i] * dw[i];
    }
    nb_mat w = nb_mat_of(c.w[0], NB_F32, N, K);
    nb_quantizer q = nvfp4(1, NB_ROUND_EVEN);
    nb_qtensor fx = by_hand(be, &q, &c.x, false, &pass0, "", NB_FPROP_X, "");
    nb_qtensor fw = by_hand(be, &q, &w, false, &pass0, "", NB_FPROP_W, "");
    double *dy = get(NB_BF16, c.dy[0].data, M * N);
    const struct {
        const char *what;
        double *sum, *sq, *want;
        int64_t n;
    } all[] = {
        {"dX", dx_sum, dx_sq, product(dy, M, transposed(decoded(be, &fw), N, K), K, N), M * K},
        {"dW", dw_sum, dw_sq, product(transposed(dy, M, N), N, transposed(decoded(be, &fx), M, K), K, M), N * K}};
    for (int a = 0; a < 2; a++) {
        double z_sum = 0, z_most = 0;
        for (int64_t i = 0; i < all[a].n; i++) {
            double mean = all[a].sum[i] / RUNS, var = all[a].sq[i] / RUNS - mean * mean;
            double z = (mean - all[a].want[i]) / sqrt(var / (RUNS - 1));
            z_sum += z * z;
            z_most = fmax(z_most, fabs(z));
        }
        /* mean of z^2 over thousands of elements is 1 with a standard deviation of about 0.03; the largest of so many
         * normal numbers is below 5 */
        if (!(z_sum / (double)all[a].n < 1.15 && z_most < 5.5))
            fail_msg("%s is biased: mean z^2 %g, largest |z| %g", all[a].what, z_sum / (double)all[a].n, z_most);
    }
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* ---- refusals ---- */

static void refused(nb_backend *be, const nb_plan *plan, const char *reason) {
    linear_case c;
    nb_error err = {0};
    assert_int_not_equal(try_group(be, &c, plan, 1, NULL, &err), NB_OK);
    if (!strstr(err.message, reason))
        fail_msg("message \"%s\" does not speak of \"%s\"", err.message, reason);
}

static void bad_plans(void **state) {
    (void)state;
    nb_backend *be = cpu(), *ref = NULL;
    assert_int_equal(nb_backend_open("ref64", NULL, &ref, NULL), NB_OK);
    nb_plan plan = plan_nvfp4();
    refused(ref, &plan, "backend ref64");
    plan.roles[NB_DGRAD_W].source = NB_FPROP_X;
    refused(be, &plan, "dgrad.w cannot come from fprop.x");
    plan = plan_nvfp4();
    plan.roles[NB_DGRAD_W].quantizer = nvfp4(1, NB_ROUND_EVEN);
    refused(be, &plan, "lie on the contraction");
    plan = plan_nvfp4();
    plan.roles[NB_WGRAD_X].quantizer.hadamard_size = 0;
    refused(be, &plan, "rotated differently");
    plan = plan_nvfp4();
    plan.roles[NB_WGRAD_X].quantizer.hadamard_signs = NB_SIGNS_FRESH;
    refused(be, &plan, "rotated differently");
    plan = plan_nvfp4();
    plan.roles[NB_DGRAD_W].via = NB_VIA_FOLD;
    refused(be, &plan, "via: fold");
    plan = plan_nvfp4();
    plan.roles[NB_WGRAD_DY].quantizer = rotated(nvfp4(1, NB_ROUND_EVEN), NB_SIGNS_FIXED);
    plan.roles[NB_WGRAD_DY].quantizer.hadamard_size = plan.roles[NB_WGRAD_X].quantizer.hadamard_size = 128;
    refused(be, &plan, "tokens of a micro-batch"); /* 64 tokens */
    nb_backend_free(ref);
    nb_backend_free(be);
}

/* ---- census ---- */

/* A backend that gains by it is asked for dW of a group once: the same bits. */
static int32_t asked;

static nb_status count_and_multiply(nb_backend *be, const ni_sum *products, int32_t count, nb_error *err) {
    asked += count;
    for (int32_t i = 0; i < count; i++)
        NB_TRY(
            be->ops->multiply(be, &products[i].c, products[i].terms, products[i].count, products[i].accumulate, err));
    return NB_OK;
}

static void gradients_together(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plans[] = {plan_nvfp4(), plan_bf16(), plan_double()};
    linear_case c[2];
    for (int i = 0; i < 2; i++) {
        be->multiply_many = i ? count_and_multiply : NULL;
        c[i] = make_group(be, plans, 3, NULL);
        for (int batch = 0; batch < 2; batch++) { /* the second adds */
            run_forward(&c[i], &pass0);
            run_backward(&c[i], &pass0);
        }
    }
    assert_int_equal(asked, 6);
    for (int k = 0; k < 3; k++)
        check_equal_bytes("dW", c[1].dw[k], c[0].dw[k], N * K * 4);
    check_equal_bytes("dX", c[1].dx.data, c[0].dx.data, M * K * 2);
    ni_linear_group_free(c[0].group);
    ni_linear_group_free(c[1].group);
    nb_backend_free(be);
}

static void census(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plans[] = {plan_nvfp4(), plan_bf16(), plan_rows(NB_VIA_FOLD, nb_quantizer_bf16())};
    linear_case c = make_group(be, plans, 3, NULL);
    char text[96];
    const char *kernel, *reason;
    ni_linear_census(c.group, &c.group->layers[0], NI_GEMM_WGRAD, text, sizeof text, &kernel, &reason);
    assert_string_equal(text, "nvfp4 1x16 sr rht16 x nvfp4 1x16 rht16");
    assert_non_null(strstr(kernel, "packed"));
    ni_linear_census(c.group, &c.group->layers[1], NI_GEMM_DGRAD, text, sizeof text, &kernel, &reason);
    assert_string_equal(text, "bf16 x bf16");
    assert_string_equal(reason, "test");
    ni_linear_census(c.group, &c.group->layers[2], NI_GEMM_DGRAD, text, sizeof text, &kernel, &reason);
    assert_string_equal(text, "bf16 x e2m1 folded");
    assert_non_null(strstr(kernel, "decoded"));
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(nvfp4_products, release_buffers),
        cmocka_unit_test_teardown(nvfp4_is_near_bf16, release_buffers),
        cmocka_unit_test_teardown(operands_are_made_once, release_buffers),
        cmocka_unit_test_teardown(the_lens_sees_everything, release_buffers),
        cmocka_unit_test_teardown(weights_follow_the_master, release_buffers),
        cmocka_unit_test_teardown(mixed_group, release_buffers),
        cmocka_unit_test_teardown(shorter_batches, release_buffers),
        cmocka_unit_test_teardown(gradients_begin, release_buffers),
        cmocka_unit_test_teardown(late_switch, release_buffers),
        cmocka_unit_test_teardown(same_codes_of_rows, release_buffers),
        cmocka_unit_test_teardown(folded_codes, release_buffers),
        cmocka_unit_test_teardown(gradients_are_unbiased, release_buffers),
        cmocka_unit_test_teardown(gradients_together, release_buffers),
        cmocka_unit_test_teardown(bad_plans, release_buffers),
        cmocka_unit_test_teardown(census, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
